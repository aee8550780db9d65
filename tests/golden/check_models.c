/* Folders of make_clip.py and make_towers.py: builds the model from config.json in f32 with every pass and kernel,
 * gives it the reference's weights, and compares outputs, loss, every gradient, running statistics, and the AdamW steps
 * of a CLIP.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "autograd/plan.h"
#include "base/mem.h"
#include "layers/nn.h"
#include "optim/opt.h"
#include "tests/golden/golden.h"

/* What issue and README promise of a whole model in f32: each loss, and each gradient relative to its tensor's norm. */
static const double loss_tol = 1e-5, output_tol = 1e-5, gradient_tol = 1e-4;

/* Four times what PyTorch's own f32 is off by, or what rounding the weights moves the truth by, where that is more: a deep
 * network with batch norm has no more digits, nor has a loss near zero, and which of its ReLUs fall on the other side of
 * zero is chance. */
static double tolerance(json_t *config, const char *key, double tol)
{
    double torch = json_number_value(json_object_get(json_object_get(config, "torch_f32_error"), key));
    double moves = json_number_value(json_object_get(json_object_get(config, "rounding"), key));
    return fmax(tol, 4 * fmax(torch, moves));
}

/* ---- one folder -------------------------------------------------------------------------------------------------- */

struct check {
    const char *dir, *kind;
    json_t *config;
    struct golden_file weights, inputs, expected;
    bool *used; /* expected tensors that were compared */
    struct ad_store *store;
    struct golden_report *r;
    struct {
        double loss, output, gradient;
    } tol;
    float *grad; /* flat, as the store's */
};

static int load(struct check *c, struct err *e)
{
    for (int i = 0; i < ad_store_count(c->store); i++) {
        struct ad_entry *p = ad_store_at(c->store, i);
        struct golden_tensor t;
        int code = golden_translate(c->kind, &c->weights, "", p, NULL, &t, e);
        if (code) return code;
        for (int64_t k = 0; k < t.count; k++) ((float *)p->data)[k] = (float)t.x[k];
        free(t.x);
    }
    return 0;
}

/* Asks for the gradient of `loss` by every trained parameter, into the flat buffer. */
static void ask_gradients(struct check *c, struct ad_graph *g, val loss)
{
    int n = 0, count = ad_store_count(c->store);
    val *x = mem_zero((size_t)count + 1, sizeof *x), *dx = mem_zero((size_t)count + 1, sizeof *dx);
    for (int i = 0; i < count; i++) {
        const struct ad_entry *p = ad_store_at(c->store, i);
        if (!(p->flags & AD_STATE)) x[n++] = ad_param(g, p->name, p->dtype, p->shape);
    }
    ad_grad(g, &loss, NULL, 1, x, n, dx);
    for (int i = 0, k = 0; i < count; i++) {
        const struct ad_entry *p = ad_store_at(c->store, i);
        if (!(p->flags & AD_STATE)) ad_output_to_caller(g, p->name, dx[k++]);
    }
    free(x);
    free(dx);
}

/* ---- running ----------------------------------------------------------------------------------------------------- */

/* (B, C, H, W) -> (B, H, W, C) */
static float *pixels(const struct golden_tensor *t)
{
    float *to = golden_as(t, AD_F32);
    const int64_t *d = t->shape.dim;
    if (t->shape.rank == 4)
        for (int64_t b = 0; b < d[0]; b++)
            for (int64_t ch = 0; ch < d[1]; ch++)
                for (int64_t at = 0; at < d[2] * d[3]; at++)
                    to[(b * d[2] * d[3] + at) * d[1] + ch] = (float)t->x[(b * d[1] + ch) * d[2] * d[3] + at];
    return to;
}

/* Binds every input under our name; `keep` owns the memory. */
static void bind(const struct check *c, const struct golden_kind *k, struct ad_plan *p, struct golden_tensor *keep)
{
    for (int64_t i = 0; i < c->inputs.n; i++) {
        const struct golden_tensor *t = &c->inputs.tensor[i];
        const char *name = t->name;
        bool image = strcmp(name, "pixel_values") == 0;
        if (image) name = k->input[0];
        if (strcmp(name, "tokens") == 0 || strcmp(name, "mel") == 0 || strcmp(name, "wave") == 0) name = k->input[1];
        if (strcmp(name, "offsets") == 0) name = k->input[2];
        void *data = image ? pixels(t) : golden_as(t, t->dtype);
        keep[i].x = data;
        ad_bind(p, name, data);
    }
}

static void compare(struct check *c, const struct ad_plan *p, const char *output, const char *name, double tol)
{
    struct ad_shape s;
    const void *got = ad_result(p, output, &s);
    for (int64_t i = 0; got && i < c->expected.n; i++) {
        const struct golden_tensor *t = &c->expected.tensor[i];
        if (strcmp(t->name, name) != 0 || ad_count(s) != t->count) continue;
        c->used[i] = true;
        golden_compare(c->r, name, got, AD_F32, t, tol, 0);
    }
}

static double norm_of(const struct golden_tensor *t)
{
    double sum = 0;
    for (int64_t k = 0; k < t->count; k++) sum += t->x[k] * t->x[k];
    return sqrt(sum);
}

static double gradient_norm(const struct check *c)
{
    double sum = 0;
    for (int64_t i = 0; i < c->expected.n; i++)
        if (strncmp(c->expected.tensor[i].name, "grad.", 5) == 0) sum += pow(norm_of(&c->expected.tensor[i]), 2);
    return sqrt(sum);
}

/* A gradient that is zero in exact arithmetic (what is added to a channel before a 1x1 convolution and batch norm is
 * taken out again) has no relative error: it is held to a millionth of the whole gradient. */
static double floor_of(const struct golden_tensor *want, double whole, double tol)
{
    return norm_of(want) <= 1e-6 * whole ? 1e-6 * whole / tol : 0;
}

static int compare_parameters(struct check *c, struct err *e)
{
    double whole = gradient_norm(c);
    for (int i = 0; i < ad_store_count(c->store); i++) {
        const struct ad_entry *p = ad_store_at(c->store, i);
        bool state = p->flags & AD_STATE;
        struct golden_tensor want;
        char name[240];
        int code = golden_translate(c->kind, &c->expected, state ? "state." : "grad.", p, c->used, &want, e);
        if (code) return code;
        snprintf(name, sizeof name, "%s %s", state ? "state" : "gradient", p->name);
        golden_compare(c->r, name, state ? p->data : c->grad + p->offset, AD_F32, &want,
                       state ? c->tol.output : c->tol.gradient, state ? 0 : floor_of(&want, whole, c->tol.gradient));
        free(want.x);
    }
    for (int64_t i = 0; i < c->expected.n; i++)
        if (!c->used[i]) return err_set(e, ERR_STATE, "the reference's '%s' has no match", c->expected.tensor[i].name);
    return 0;
}

static void number(struct check *c, const char *what, size_t step, double got, double want, double tol)
{
    char name[60];
    snprintf(name, sizeof name, "step %zu: %s", step, what);
    float x = (float)got;
    golden_compare(c->r, name, &x, AD_F32,
                   &(struct golden_tensor){.name = name, .dtype = AD_F32, .count = 1, .x = &want}, tol, 0);
}

/* The AdamW steps of steps.json, from the weights as loaded. */
static int steps(struct check *c, struct ad_plan *p, struct err *e)
{
    char *path = mem_printf("%s/steps.json", c->dir);
    json_error_t why;
    json_t *root = json_load_file(path, 0, &why), *a = json_object_get(root, "adamw");
    json_t *loss = json_object_get(json_object_get(root, "f64"), "loss"),
           *norm = json_object_get(json_object_get(root, "f64"), "grad_norm");
    int code = 0;
    if (json_array_size(loss) < 2) code = err_set(e, ERR_FORMAT, "%s: no losses: %s", path, root ? "" : why.text);
    struct opt_config o = {.kind = OPT_ADAMW,
                           .lr = json_number_value(json_object_get(a, "lr")),
                           .beta1 = json_number_value(json_array_get(json_object_get(a, "betas"), 0)),
                           .beta2 = json_number_value(json_array_get(json_object_get(a, "betas"), 1)),
                           .eps = json_number_value(json_object_get(a, "eps")),
                           .weight_decay = json_number_value(json_object_get(a, "weight_decay")),
                           .clip = json_number_value(json_object_get(a, "clip"))};
    struct opt *opt = code ? NULL : opt_new(&o, c->store, e);
    if (!opt) code = e->code;
    for (size_t i = 0; code == 0 && i < json_array_size(loss); i++) {
        code = ad_run(p, 0, i, e);
        if (code) break;
        number(c, "loss", i, ad_result_scalar(p, "loss"), json_number_value(json_array_get(loss, i)), loss_tol);
        if (i >= json_array_size(norm)) break;
        double n = opt_norm(c->grad, ad_store_flat_count(c->store));
        opt_step(opt, c->grad, n, o.lr);
        number(c, "norm of the gradient", i, n, json_number_value(json_array_get(norm, i)), gradient_tol);
    }
    opt_free(opt);
    json_decref(root);
    free(path);
    return code;
}

/* Builds, plans and runs once; training false: only the logits, with the running statistics as they were given. */
static int run(struct check *c, const struct golden_kind *k, bool training, struct err *e)
{
    struct nn m = {.g = ad_graph_new(), .store = c->store, .training = training};
    struct golden_tensor *keep = mem_zero((size_t)c->inputs.n + 1, sizeof *keep);
    struct ad_plan *p = NULL;
    val loss = k->build(&m, &(struct golden_model){c->config, &c->inputs}, e);
    if (training) {
        ad_output(m.g, "loss", loss);
        ask_gradients(c, m.g, loss);
    }
    int code = e->code ? e->code : nn_status(&m, e);
    if (code == 0) code = ad_store_commit(c->store, e);
    if (code == 0) code = load(c, e);
    if (code == 0 && !(p = ad_plan_new(m.g, c->store, 0, e))) code = e->code;
    if (code == 0) {
        bind(c, k, p, keep);
        if (!c->grad) c->grad = mem_zero((size_t)ad_store_flat_count(c->store) + 1, sizeof *c->grad);
        for (int i = 0; training && i < ad_store_count(c->store); i++) {
            const struct ad_entry *q = ad_store_at(c->store, i);
            if (!(q->flags & AD_STATE)) ad_bind_out(p, q->name, c->grad + q->offset);
        }
        code = ad_run(p, 0, 0, e);
    }
    if (code == 0 && !training) compare(c, p, "logits", "logits_eval", c->tol.output);
    if (code == 0 && training) {
        static const char *const outputs[] = {"y", "logits", "image_embeds", "text_embeds"};
        for (size_t i = 0; i < sizeof outputs / sizeof *outputs; i++)
            compare(c, p, outputs[i], outputs[i], c->tol.output);
        compare(c, p, "loss", "loss", c->tol.loss);
        code = compare_parameters(c, e);
        if (code == 0 && strcmp(c->kind, "clip") == 0) code = steps(c, p, e);
    }
    for (int64_t i = 0; i < c->inputs.n; i++) free(keep[i].x);
    free(keep);
    ad_plan_free(p);
    ad_graph_free(m.g);
    return code;
}

int golden_check_model(const char *dir, json_t *config, struct golden_report *r, struct err *e)
{
    struct check c = {.dir = dir, .config = config, .kind = json_string_value(json_object_get(config, "kind")), .r = r};
    const struct golden_kind *k = golden_kind(c.kind);
    c.tol.loss = tolerance(config, "loss_relative", loss_tol);
    c.tol.output = tolerance(config, "output_relative", output_tol);
    c.tol.gradient = tolerance(config, "gradient_relative", gradient_tol);
    if (!k) return err_set(e, ERR_FORMAT, "%s: the kind '%s' is not known", dir, c.kind);
    int code = golden_read(&c.weights, dir, "weights.safetensors", e);
    if (code == 0) code = golden_read(&c.inputs, dir, "inputs.safetensors", e);
    if (code == 0) code = golden_read(&c.expected, dir, "expected.safetensors", e);
    c.used = mem_zero((size_t)c.expected.n + 1, sizeof *c.used);
    c.store = ad_store_new(0);
    if (code == 0 && golden_find(&c.expected, NULL, "logits_eval")) code = run(&c, k, false, e);
    if (code == 0) code = run(&c, k, true, e);
    if (code) err_prefix(e, "%s", dir);
    ad_store_free(c.store);
    free(c.used);
    free(c.grad);
    golden_free(&c.weights);
    golden_free(&c.inputs);
    golden_free(&c.expected);
    return code;
}
