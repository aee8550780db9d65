/* Folders of make_optim.py: AdamW and SGD with their clipping and moving average, step by step on given gradients. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/mem.h"
#include "optim/opt.h"
#include "tests/golden/golden.h"

/* f32 against f64: each of ten steps rounds a number twice (6e-8 each), and its moments. */
static const double tolerance = 2e-6;

enum { PARAMS = 4, MAX_STEPS = 1000 };
static const char *const params[PARAMS] = {"matrix", "bias", "scalar", "still"};

/* One case while it runs. */
struct path {
    const struct golden_file *f;
    const char *name;
    int64_t steps;
    struct ad_store *store;
    float *grad, *at[2][PARAMS], *norm; /* at[0]: parameters, at[1]: their moving averages; (steps, shape) */
};

static double real(json_t *o, const char *key)
{
    return json_number_value(json_object_get(o, key));
}

static struct opt_config config_of(json_t *one)
{
    json_t *betas = json_object_get(one, "betas");
    bool adamw = strcmp(json_string_value(json_object_get(one, "kind")), "adamw") == 0;
    return (struct opt_config){.kind = adamw ? OPT_ADAMW : OPT_SGD,
                               .beta1 = json_number_value(json_array_get(betas, 0)),
                               .beta2 = json_number_value(json_array_get(betas, 1)),
                               .eps = real(one, "eps"),
                               .weight_decay = real(one, "weight_decay"),
                               .momentum = real(one, "momentum"),
                               .nesterov = real(one, "nesterov") != 0,
                               .clip = real(one, "clip"),
                               .ema = real(one, "ema")};
}

/* Declares the four parameters and gives them their start. */
static int start(struct path *p, struct err *e)
{
    for (int i = 0; i < PARAMS; i++) {
        const struct golden_tensor *t = golden_find(p->f, e, "start.%s", params[i]),
                                   *g = golden_find(p->f, e, "grad.%s", params[i]);
        if (!t || !g) return e->code;
        if (g->count != p->steps * t->count)
            return err_set(e, ERR_SHAPE, "grad.%s: not one gradient a step", params[i]);
        int code = ad_store_declare(p->store, params[i], AD_F32, t->shape, (struct ad_init){AD_INIT_ZERO, 0},
                                    t->shape.rank > 1 ? 0 : AD_NO_DECAY, e);
        if (code) return code;
        for (int k = 0; k < 2; k++) p->at[k][i] = mem_zero((size_t)g->count + 1, sizeof(float));
    }
    int code = ad_store_commit(p->store, e);
    for (int i = 0; code == 0 && i < PARAMS; i++) {
        const struct golden_tensor *t = golden_find(p->f, e, "start.%s", params[i]);
        float *to = ad_store_find(p->store, params[i])->data;
        for (int64_t k = 0; k < t->count; k++) to[k] = (float)t->x[k];
    }
    p->grad = mem_zero((size_t)ad_store_flat_count(p->store) + 1, sizeof(float));
    p->norm = mem_zero((size_t)p->steps + 1, sizeof(float));
    return code;
}

static void step(struct path *p, struct opt *o, int64_t at, double lr)
{
    for (int i = 0; i < PARAMS; i++) {
        const struct golden_tensor *g = golden_find(p->f, NULL, "grad.%s", params[i]);
        const struct ad_entry *q = ad_store_find(p->store, params[i]);
        for (int64_t k = 0; k < q->count; k++) p->grad[q->offset + k] = (float)g->x[at * q->count + k];
    }
    double norm = opt_norm(p->grad, ad_store_flat_count(p->store));
    p->norm[at] = (float)norm;
    opt_step(o, p->grad, norm, lr);
    for (int i = 0; i < PARAMS; i++) {
        const struct ad_entry *q = ad_store_find(p->store, params[i]);
        size_t bytes = (size_t)q->count * sizeof(float);
        memcpy(p->at[0][i] + at * q->count, q->data, bytes);
        memcpy(p->at[1][i] + at * q->count, opt_ema(o) + q->offset, bytes);
    }
}

static int compare(const struct path *p, struct golden_report *r, struct err *e)
{
    for (int i = 0; i <= 2 * PARAMS; i++) {
        bool norm = i == 2 * PARAMS;
        const char *name = norm ? "norm" : params[i / 2];
        const struct golden_tensor *want = golden_find(p->f, e, "%s/%s%s", p->name, i % 2 ? "ema." : "", name);
        if (!want) return e->code;
        if (want->count != p->steps * (norm ? 1 : ad_store_find(p->store, name)->count))
            return err_set(e, ERR_SHAPE, "%s: not one value a step", want->name);
        golden_compare(r, want->name, norm ? p->norm : p->at[i % 2][i / 2], AD_F32, want, tolerance, 0);
    }
    return 0;
}

static int one_case(const struct golden_file *f, json_t *root, json_t *one, struct golden_report *r, struct err *e)
{
    json_t *lr = json_object_get(root, "lr");
    struct path p = {.f = f,
                     .name = json_string_value(json_object_get(one, "name")),
                     .steps = (int64_t)json_array_size(lr),
                     .store = ad_store_new(0)};
    struct opt *o = NULL;
    int code = p.steps < 1 || p.steps > MAX_STEPS ? err_set(e, ERR_FORMAT, "1 to %d steps are needed", MAX_STEPS)
                                                  : start(&p, e);
    struct opt_config c = config_of(one);
    if (code == 0 && !(o = opt_new(&c, p.store, e))) code = e->code;
    for (int64_t i = 0; code == 0 && i < p.steps; i++) step(&p, o, i, json_number_value(json_array_get(lr, (size_t)i)));
    if (code == 0) code = compare(&p, r, e);
    opt_free(o);
    for (int i = 0; i < 2 * PARAMS; i++) free(p.at[i % 2][i / 2]);
    free(p.grad);
    free(p.norm);
    ad_store_free(p.store);
    return code;
}

int golden_check_optim(const char *dir, json_t *config, struct golden_report *r, struct err *e)
{
    struct golden_file f;
    json_t *one;
    size_t i;
    int code = golden_read(&f, dir, "optim.safetensors", e);
    json_array_foreach(json_object_get(config, "cases"), i, one)
    {
        if (code == 0) code = one_case(&f, config, one, r, e);
    }
    if (code == 0 && i == 0) code = err_set(e, ERR_FORMAT, "%s/optim.json: has no cases", dir);
    golden_free(&f);
    return code;
}
