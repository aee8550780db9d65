/* Folders of make_ops.py: each case's op is built from its JSON, run as f64 by the reference executor and as f32 with
 * every pass and kernel, and its outputs and gradients are compared. A new op is one row of `ops`. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "autograd/ops/ops.h"
#include "autograd/plan.h"
#include "base/mem.h"
#include "tests/golden/golden.h"

enum { MAX_IN = 6, MAX_OUT = 3 };

/* Relative to the norm of the tensor. f64: the loops add in another order than PyTorch, and a layer norm of numbers
 * around 50 loses two digits. f32: the same, and exp(x - logsumexp) around 90, whose last digit is worth 4e-6. */
static const double tolerance[2] = {1e-13, 5e-6};

/* One case in one type: what a builder reads and writes. */
struct call {
    struct ad_graph *g;
    json_t *attr;
    val in[MAX_IN], out[MAX_OUT];
    enum ad_dtype type;   /* of the floats */
    struct ad_shape want; /* of the first output */
};

static double real(const struct call *c, const char *key)
{
    return json_number_value(json_object_get(c->attr, key));
}
static int whole(const struct call *c, const char *key)
{
    return (int)json_integer_value(json_object_get(c->attr, key));
}
static int item(const struct call *c, const char *key, size_t i)
{
    return (int)json_integer_value(json_array_get(json_object_get(c->attr, key), i));
}

static unsigned axes(const struct call *c)
{
    unsigned mask = 0;
    for (size_t i = 0; i < json_array_size(json_object_get(c->attr, "axes")); i++) mask |= 1u << item(c, "axes", i);
    return mask;
}

static struct ad_conv conv(const struct call *c)
{
    struct ad_conv a = {.groups = whole(c, "groups")};
    for (size_t i = 0; i < 2; i++) {
        a.stride[i] = item(c, "stride", i);
        a.pad[i] = item(c, "pad", i);
        a.dilation[i] = item(c, "dilation", i);
        a.out_pad[i] = item(c, "out_pad", i);
    }
    return a;
}

static struct ad_pool pool(const struct call *c)
{
    struct ad_pool p = {.count_pad = whole(c, "count_pad")};
    for (size_t i = 0; i < 2; i++) {
        p.kernel[i] = item(c, "kernel", i);
        p.stride[i] = item(c, "stride", i);
        p.pad[i] = item(c, "pad", i);
    }
    return p;
}

/* A convolution that does not cross from one packed sequence into the next, as layers build it. */
static val packed_conv1d(struct call *c)
{
    int kernel = whole(c, "kernel"), stride = whole(c, "stride"), pad = whole(c, "pad");
    val x = c->in[0], offsets = c->in[1], weight = c->in[2];
    int64_t rows = c->want.dim[0], width = kernel * ad_dim(c->g, x, 1);
    val out_offsets = ad_packed_conv_offsets(c->g, offsets, kernel, stride, pad);
    val index = ad_packed_conv_index(c->g, offsets, out_offsets, rows, kernel, stride, pad);
    val taps = ad_reshape(c->g, ad_gather(c->g, x, index), SHAPE(rows, width));
    return ad_matmul(c->g, taps, ad_reshape(c->g, weight, SHAPE(width, ad_dim(c->g, weight, 2))), false, false);
}

static val ctc(struct call *c)
{
    return ad_ctc_loss(c->g, ad_log_softmax(c->g, c->in[0]), c->in[1], c->in[2], c->in[3], whole(c, "blank"),
                       whole(c, "zero_infinity"));
}

#define G c->g
#define A c->in[0]
#define B c->in[1]
#define C c->in[2]
#define ROW(op, ...)                       \
    static void build_##op(struct call *c) \
    {                                      \
        c->out[0] = __VA_ARGS__;           \
    }
#define OPS(ROW)                                                                                                       \
    ROW(leaky_relu, ad_leaky_relu(G, A, real(c, "slope")))                                                             \
    ROW(elu, ad_elu(G, A, real(c, "alpha")))                                                                           \
    ROW(clamp, ad_clamp(G, A, real(c, "lo"), real(c, "hi")))                                                           \
    ROW(sum, ad_sum(G, A, axes(c), false))                                                                             \
    ROW(mean, ad_mean(G, A, axes(c), false))                                                                           \
    ROW(max, ad_max(G, A, axes(c), false))                                                                             \
    ROW(min, ad_min(G, A, axes(c), false))                                                                             \
    ROW(logsumexp, ad_logsumexp(G, A, whole(c, "axis"), false))                                                        \
    ROW(softmax, ad_softmax(G, A))                                                                                     \
    ROW(log_softmax, ad_log_softmax(G, A))                                                                             \
    ROW(cumsum, ad_cumsum(G, A, whole(c, "axis"), whole(c, "reverse")))                                                \
    ROW(top_k, ad_top_k(G, A, whole(c, "k"), &c->out[1]))                                                              \
    ROW(argmax, ad_argmax(G, A, whole(c, "axis")))                                                                     \
    ROW(gather, ad_gather(G, A, B))                                                                                    \
    ROW(scatter_add, ad_scatter_add(G, A, B, whole(c, "rows")))                                                        \
    ROW(one_hot, ad_one_hot(G, A, whole(c, "classes"), c->type))                                                       \
    ROW(take_last, ad_take_last(G, A, B))                                                                              \
    ROW(matmul, ad_matmul(G, A, B, whole(c, "ta"), whole(c, "tb")))                                                    \
    ROW(linear, ad_linear(G, A, B, C))                                                                                 \
    ROW(layer_norm, ad_layer_norm(G, A, B, C, real(c, "eps")))                                                         \
    ROW(rms_norm, ad_rms_norm(G, A, B, real(c, "eps")))                                                                \
    ROW(group_norm, ad_group_norm(G, A, B, C, whole(c, "groups"), real(c, "eps")))                                     \
    ROW(batch_norm, ad_batch_norm(G, A, B, C, real(c, "eps"), &c->out[1], &c->out[2]))                                 \
    ROW(batch_norm_fixed, ad_batch_norm_fixed(G, A, B, C, c->in[3], c->in[4], real(c, "eps")))                         \
    ROW(conv2d, ad_conv2d(G, A, B, conv(c)))                                                                           \
    ROW(conv1d, ad_conv1d(G, A, B, conv(c)))                                                                           \
    ROW(conv2d_transpose, ad_conv2d_transpose(G, A, B, conv(c)))                                                       \
    ROW(conv1d_transpose, ad_conv1d_transpose(G, A, B, conv(c)))                                                       \
    ROW(packed_conv1d, packed_conv1d(c))                                                                               \
    ROW(max_pool, ad_max_pool(G, A, pool(c)))                                                                          \
    ROW(avg_pool, ad_avg_pool(G, A, pool(c)))                                                                          \
    ROW(adaptive_avg_pool, ad_adaptive_avg_pool(G, A, item(c, "size", 0), item(c, "size", 1)))                         \
    ROW(resize_bilinear, ad_resize_bilinear(G, A, item(c, "size", 0), item(c, "size", 1)))                             \
    ROW(resize_nearest, ad_resize_nearest(G, A, item(c, "size", 0), item(c, "size", 1)))                               \
    ROW(attention,                                                                                                     \
        ad_attention(G, A, B, C, c->in[3], c->in[4], c->in[5], whole(c, "heads"), whole(c, "causal") ? AD_CAUSAL : 0)) \
    ROW(cross_entropy, ad_cross_entropy(G, A, B, real(c, "smoothing"), whole(c, "ignore")))                            \
    ROW(ctc, ctc(c))                                                                                                   \
    ROW(rfft, ad_rfft(G, A))                                                                                           \
    ROW(irfft, ad_irfft(G, A, whole(c, "n")))                                                                          \
    ROW(stft, ad_stft(G, A, B, whole(c, "hop")))
OPS(ROW)
#undef ROW
#define X(op)                              \
    static void build_##op(struct call *c) \
    {                                      \
        c->out[0] = ad_##op(G, A);         \
    }
AD_UNARY(X)
#undef X
#define X(op)                              \
    static void build_##op(struct call *c) \
    {                                      \
        c->out[0] = ad_##op(G, A, B);      \
    }
AD_BINARY(X)
#undef X
#undef G
#undef A
#undef B
#undef C

static const struct {
    const char *name;
    void (*build)(struct call *c);
} ops[] = {
#define X(op, ...) {#op, build_##op},
    OPS(X) AD_UNARY(X) AD_BINARY(X)
#undef X
};

/* Names of a case's list, as "NAME/kind.X". */
static const char *listed(json_t *one, const char *list, size_t i)
{
    const char *s = json_string_value(json_array_get(json_object_get(one, list), i));
    return s ? s : "";
}

static size_t count(json_t *one, const char *list)
{
    return json_array_size(json_object_get(one, list));
}

/* A case's tensors, found before anything is built. */
struct found {
    const char *name, *in_name[MAX_IN];
    const struct golden_tensor *in[MAX_IN], *out[MAX_OUT], *weight[MAX_OUT], *grad[MAX_IN];
    size_t n_in, n_out;
    json_t *rounding; /* by "out.Y" or "grad.X": how far it moves when inputs are rounded to f32; NULL: not far */
};

static int find(struct found *t, const struct golden_file *f, json_t *one, struct err *e)
{
    *t = (struct found){
        .n_in = count(one, "in"), .n_out = count(one, "out"), .rounding = json_object_get(one, "rounding")};
    t->name = json_string_value(json_object_get(one, "name"));
    if (!t->name || t->n_in < 1 || t->n_in > MAX_IN || t->n_out < 1 || t->n_out > MAX_OUT)
        return err_set(e, ERR_FORMAT, "case '%s': a name, 1 to %d inputs and 1 to %d outputs are needed",
                       t->name ? t->name : "?", MAX_IN, MAX_OUT);
    for (size_t i = 0; i < t->n_in; i++) {
        t->in_name[i] = listed(one, "in", i);
        t->in[i] = golden_find(f, e, "%s/in.%s", t->name, t->in_name[i]);
    }
    for (size_t i = 0; i < t->n_out; i++) t->out[i] = golden_find(f, e, "%s/out.%s", t->name, listed(one, "out", i));
    for (size_t i = 0; i < count(one, "weighed"); i++)
        for (size_t k = 0; k < t->n_out; k++)
            if (strcmp(listed(one, "weighed", i), listed(one, "out", k)) == 0)
                t->weight[k] = golden_find(f, e, "%s/w.%s", t->name, listed(one, "weighed", i));
    for (size_t i = 0; i < count(one, "grad"); i++)
        for (size_t k = 0; k < t->n_in; k++)
            if (strcmp(listed(one, "grad", i), t->in_name[k]) == 0)
                t->grad[k] = golden_find(f, e, "%s/grad.%s", t->name, t->in_name[k]);
    return e->code;
}

/* Emits the case: outputs are named as their tensors. */
static int emit(struct call *c, const struct found *t, void (*build)(struct call *), struct err *e)
{
    struct ad_graph *g = c->g;
    val total = 0, x[MAX_IN], dx[MAX_IN];
    const char *dx_name[MAX_IN];
    int n = 0;
    c->want = t->out[0]->shape;
    for (size_t i = 0; i < t->n_in; i++) {
        enum ad_dtype type = t->in[i]->dtype == AD_I32 ? AD_I32 : c->type;
        c->in[i] = ad_input(g, t->in[i]->name, type, t->in[i]->shape);
        if (!t->grad[i]) continue;
        x[n] = c->in[i];
        dx_name[n++] = t->grad[i]->name;
    }
    build(c);
    for (size_t i = 0; i < t->n_out; i++) {
        ad_output(g, t->out[i]->name, c->out[i]);
        if (!t->weight[i]) continue;
        val part = ad_sum_all(g, ad_mul(g, c->out[i], ad_input(g, t->weight[i]->name, c->type, t->weight[i]->shape)));
        total = total ? ad_add(g, total, part) : part;
    }
    if (n > 0) ad_grad(g, &total, NULL, 1, x, n, dx);
    for (int i = 0; i < n; i++) ad_output(g, dx_name[i], dx[i]);
    return ad_status(g, e);
}

/* Of a result that rounding its inputs alone moves by so much, more cannot be asked: four times that, as of whole models,
 * since it is rounded on the way too. */
static double tolerance_of(const struct found *t, const char *tensor, enum ad_dtype f)
{
    double moves = json_number_value(json_object_get(t->rounding, strchr(tensor, '/') + 1));
    return f == AD_F32 ? fmax(tolerance[1], 4 * moves) : tolerance[0];
}

static int compare(const struct found *f, const struct ad_plan *p, enum ad_dtype type, const struct golden_tensor *want,
                   struct golden_report *r, struct err *e)
{
    struct ad_shape s;
    char a[96], b[96];
    const void *got = ad_result(p, want->name, &s);
    if (!got || !ad_same_shape(s, want->shape))
        return err_set(e, ERR_SHAPE, "%s: expected %s, got %s", want->name, ad_shape_text(a, want->shape),
                       got ? ad_shape_text(b, s) : "nothing");
    enum ad_dtype t = want->dtype == AD_I32 ? AD_I32 : type;
    golden_compare(r, want->name, got, t, want, tolerance_of(f, want->name, type), 0);
    return 0;
}

static int run(const struct found *t, struct ad_plan *p, enum ad_dtype f, struct golden_report *r, struct err *e)
{
    void *data[MAX_IN + MAX_OUT];
    int n = 0;
    for (size_t i = 0; i < t->n_in; i++) {
        data[n] = golden_as(t->in[i], t->in[i]->dtype == AD_I32 ? AD_I32 : f);
        ad_bind(p, t->in[i]->name, data[n++]);
    }
    for (size_t i = 0; i < t->n_out; i++) {
        if (!t->weight[i]) continue;
        data[n] = golden_as(t->weight[i], f);
        ad_bind(p, t->weight[i]->name, data[n++]);
    }
    int code = ad_run(p, 0, 0, e);
    for (size_t i = 0; code == 0 && i < t->n_out; i++) code = compare(t, p, f, t->out[i], r, e);
    for (size_t i = 0; code == 0 && i < t->n_in; i++)
        if (t->grad[i]) code = compare(t, p, f, t->grad[i], r, e);
    for (int i = 0; i < n; i++) free(data[i]);
    return code;
}

static int one_case(const struct golden_file *f, json_t *one, struct golden_report *r, struct err *e)
{
    struct found t;
    const char *op = json_string_value(json_object_get(one, "op"));
    size_t k = 0;
    while (op && k < sizeof ops / sizeof *ops && strcmp(ops[k].name, op) != 0) k++;
    if (!op || k == sizeof ops / sizeof *ops) return err_set(e, ERR_FORMAT, "op '%s' is not known", op ? op : "?");
    int code = find(&t, f, one, e);
    for (int i = 0; code == 0 && i < 2; i++) {
        enum ad_dtype type = i ? AD_F32 : AD_F64;
        struct call c = {.g = ad_graph_new(), .attr = json_object_get(one, "attr"), .type = type};
        struct ad_plan *p = NULL;
        code = emit(&c, &t, ops[k].build, e);
        if (code == 0 && !(p = ad_plan_new(c.g, NULL, i ? 0 : AD_REFERENCE, e))) code = e->code;
        if (code == 0) code = run(&t, p, type, r, e);
        ad_plan_free(p);
        ad_graph_free(c.g);
        if (code) err_prefix(e, "%s as %s", t.name, ad_dtype_name(type));
    }
    return code;
}

int golden_check_ops(const char *dir, json_t *config, struct golden_report *r, struct err *e)
{
    struct golden_file f;
    json_t *cases = json_object_get(config, "cases"), *one;
    int code = golden_read(&f, dir, "ops.safetensors", e);
    size_t i;
    json_array_foreach(cases, i, one)
    {
        if (code == 0) code = one_case(&f, one, r, e);
    }
    if (code == 0 && json_array_size(cases) == 0) code = err_set(e, ERR_FORMAT, "%s/ops.json: has no cases", dir);
    golden_free(&f);
    return code;
}
