/* Layer norm (Ba et al. 2016), RMS norm (Zhang & Sennrich 2019), group norm (Wu & He 2018): one formula over three choices
 * of the numbers that share statistics (norm.h), one shared gradient. Batch norm is in batch_norm.c. */
#include "autograd/ops/norm.h"

#include <math.h>
#include <string.h>

#include "autograd/ops/common.h"

/* ---- layer_norm, rms_norm, group_norm: y = (x - mean) / sqrt(var + eps) * gain + bias -------------------
 *   x seen as (N, S, G, K)   [gain (C)]   [bias (C)],  C = G K  ->  y as x,  mean (N G),  var (N G) (biased)
 *   mean and var over S and K; rms_norm takes mean = 0, so var is the mean square. mean and var serve the gradient.
 *   error: gain or bias is not (C); groups do not divide C; there is nothing to take a mean of */

struct norm_dims norm_dims_of(struct ad_shape x, const struct norm_attr *a)
{
    int64_t c = x.dim[x.rank - 1], rows = 1;
    for (int i = 0; i < x.rank - 1; i++) rows *= x.dim[i];
    switch (a->kind) {
    case NORM_GROUP: {
        int64_t inner = 1;
        for (int i = 1; i < x.rank - 1; i++) inner *= x.dim[i];
        return (struct norm_dims){x.dim[0], inner, a->groups, c / a->groups, c};
    }
    default: return (struct norm_dims){rows, 1, 1, c, c};
    }
}

static bool is_vector(struct ad_shape s, int64_t c)
{
    return s.rank == 1 && s.dim[0] == c;
}

static int check(struct ad_infer *f, struct norm_dims *d)
{
    const struct norm_attr *a = f->attr;
    struct ad_shape x = f->in_shape[0];
    if (!ad_is_float(f->in_dtype[0])) return ad_infer_fail(f, "it needs f32 or f64 numbers");
    for (int i = 1; i < f->n_in; i++)
        if (f->in_dtype[i] != f->in_dtype[0]) return ad_infer_fail(f, "the inputs differ in dtype");
    if (x.rank < 1 + (a->kind == NORM_GROUP)) return ad_infer_fail(f, "x has too few axes");
    int64_t c = x.dim[x.rank - 1];
    if (a->kind == NORM_GROUP && (a->groups < 1 || c % a->groups))
        return ad_infer_fail(f, "%lld channels are no multiple of %d groups", (long long)c, a->groups);
    *d = norm_dims_of(x, a);
    if (d->s * d->k == 0) return ad_infer_fail(f, "there is nothing to take a mean of");
    return 0;
}

static int infer(struct ad_infer *f)
{
    const struct norm_attr *a = f->attr;
    struct norm_dims d;
    if (check(f, &d)) return -1;
    for (int i = 1; i < f->n_in; i++)
        if (!is_vector(f->in_shape[i], d.c)) return ad_infer_fail(f, "gain and bias must be (%lld)", (long long)d.c);
    CHECK(f->n_in == 1 + a->gain + a->bias);
    f->n_out = 3;
    f->shape[0] = f->in_shape[0];
    f->shape[1] = f->shape[2] = SHAPE(d.n * d.g);
    return 0;
}

/* Element (n, s, g, k) of x. */
static int64_t at(struct norm_dims d, int64_t n, int64_t s, int64_t g, int64_t k)
{
    return ((n * d.s + s) * d.g + g) * d.k + k;
}

static void eval_group(const struct ad_call *c, struct norm_dims d, int64_t n, int64_t g)
{
    const struct norm_attr *a = c->attr;
    const struct ad_tensor *x = &c->in[0];
    double mean = 0, var = 0, count = (double)(d.s * d.k);
    for (int64_t s = 0; s < d.s; s++)
        for (int64_t k = 0; k < d.k; k++) mean += ad_get(x, at(d, n, s, g, k)) / count;
    if (a->kind == NORM_RMS) mean = 0;
    for (int64_t s = 0; s < d.s; s++)
        for (int64_t k = 0; k < d.k; k++) var += pow(ad_get(x, at(d, n, s, g, k)) - mean, 2) / count;
    ad_set(&c->out[1], n * d.g + g, mean);
    ad_set(&c->out[2], n * d.g + g, var);
    for (int64_t s = 0; s < d.s; s++)
        for (int64_t k = 0; k < d.k; k++) {
            double y = (ad_get(x, at(d, n, s, g, k)) - mean) / sqrt(var + a->eps);
            if (a->gain) y *= ad_get(&c->in[1], g * d.k + k);
            if (a->bias) y += ad_get(&c->in[1 + a->gain], g * d.k + k);
            ad_set(&c->out[0], at(d, n, s, g, k), y);
        }
}

static void eval(const struct ad_call *c)
{
    struct norm_dims d = norm_dims_of(c->in[0].shape, c->attr);
    for (int64_t n = 0; n < d.n; n++)
        for (int64_t g = 0; g < d.g; g++) eval_group(c, d, n, g);
}

static double flops(const struct ad_call *c)
{
    return 8 * (double)ad_count(c->in[0].shape);
}

/* x as (N, S, G, K), its statistics (N, 1, G, 1) and r = 1 / sqrt(var + eps), in builders. */
struct parts {
    struct ad_shape wide, vector, stat;
    int64_t count;
    val x, mean, var, r, xhat;
};
static struct parts parts_of(struct ad_graph *g, const struct norm_attr *a, val x)
{
    struct norm_dims d = norm_dims_of(ad_shape_of(g, x), a);
    enum { STAT_AXES = 1 << 1 | 1 << 3 };
    struct parts p = {
        .wide = SHAPE(d.n, d.s, d.g, d.k), .vector = SHAPE(1, 1, d.g, d.k), .stat = SHAPE(d.n, 1, d.g, 1)};
    p.count = d.s * d.k;
    p.x = ad_reshape(g, x, p.wide);
    p.mean = a->kind == NORM_RMS ? ad_full(g, ad_dtype_of(g, x), p.stat, 0) : ad_mean(g, p.x, STAT_AXES, true);
    val centred = ad_sub(g, p.x, p.mean);
    p.var = ad_mean(g, ad_square(g, centred), STAT_AXES, true);
    p.r = ad_rsqrt(g, ad_shift(g, p.var, a->eps));
    p.xhat = ad_mul(g, centred, p.r);
    return p;
}

static val plus(struct ad_graph *g, val a, val b)
{
    return a ? ad_add(g, a, b) : b;
}

static void vjp(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    const struct norm_attr *a = n->attr;
    val x = n->in[0];
    if (dy[0]) {
        val in[5] = {x, dy[0], ad_out(n, 1), ad_out(n, 2), n->in[a->gain]};
        val d = ad_node(g, &ad_op_norm_grad, a, in, 4 + a->gain);
        if (!d) return;
        dx[0] = d;
        if (a->gain) dx[1] = d + 1;
        if (a->bias) dx[1 + a->gain] = d + 2;
    }
    if (!dy[1] && !dy[2]) return;
    struct parts p = parts_of(g, a, x);
    val d = 0;
    if (dy[1] && a->kind != NORM_RMS)
        d = ad_broadcast(g, ad_scale(g, ad_reshape(g, dy[1], p.stat), 1.0 / (double)p.count), p.wide);
    if (dy[2])
        d = plus(g, d,
                 ad_mul(g, ad_scale(g, ad_sub(g, p.x, p.mean), 2.0 / (double)p.count), ad_reshape(g, dy[2], p.stat)));
    if (d) dx[0] = plus(g, dx[0], ad_reshape(g, d, ad_shape_of(g, x)));
}

/* ---- norm_grad: with u = dy gain, xhat = (x - mean) r, r = 1 / sqrt(var + eps), <.> the mean over a group
 *   dx = r (u - <u> - xhat <u xhat>)   (rms_norm: without <u>)     dgain = sum dy xhat     dbias = sum dy
 *   x, dy of one shape, mean and var those of x, [gain (C)] -> dx as x, dgain (C), dbias (C)
 * In layer and RMS norm the fuse pass adds the other gradient of x, the residual's, to dx on the way.
 * Its own gradient is that of the formula from x on: nothing flows into mean and var, which are functions of x. */

static int infer_grad(struct ad_infer *f)
{
    struct norm_dims d;
    if (check(f, &d)) return -1;
    const struct norm_attr *a = f->attr;
    if (!ad_same_shape(f->in_shape[0], f->in_shape[1])) return ad_infer_fail(f, "x and dy differ in shape");
    CHECK(f->n_in == 4 + a->gain + a->residual && !(a->residual && a->kind != NORM_LAYER && a->kind != NORM_RMS));
    if (a->residual && !ad_same_shape(f->in_shape[0], f->in_shape[4 + a->gain]))
        return ad_infer_fail(f, "x and the residual's gradient differ in shape");
    f->n_out = 3;
    f->shape[0] = f->in_shape[0];
    f->shape[1] = f->shape[2] = SHAPE(d.c);
    return 0;
}

static void eval_grad_group(const struct ad_call *c, struct norm_dims d, int64_t n, int64_t g)
{
    const struct norm_attr *a = c->attr;
    double mean = ad_get(&c->in[2], n * d.g + g), r = 1 / sqrt(ad_get(&c->in[3], n * d.g + g) + a->eps);
    double count = (double)(d.s * d.k), mean_u = 0, mean_ux = 0;
    for (int64_t s = 0; s < d.s; s++)
        for (int64_t k = 0; k < d.k; k++) {
            double u = ad_get(&c->in[1], at(d, n, s, g, k)) * (a->gain ? ad_get(&c->in[4], g * d.k + k) : 1);
            mean_u += u / count;
            mean_ux += u * (ad_get(&c->in[0], at(d, n, s, g, k)) - mean) * r / count;
        }
    if (a->kind == NORM_RMS) mean_u = 0;
    for (int64_t s = 0; s < d.s; s++)
        for (int64_t k = 0; k < d.k; k++) {
            double u = ad_get(&c->in[1], at(d, n, s, g, k)) * (a->gain ? ad_get(&c->in[4], g * d.k + k) : 1);
            double xhat = (ad_get(&c->in[0], at(d, n, s, g, k)) - mean) * r;
            double more = a->residual ? ad_get(&c->in[4 + a->gain], at(d, n, s, g, k)) : 0;
            ad_set(&c->out[0], at(d, n, s, g, k), r * (u - mean_u - xhat * mean_ux) + more);
        }
}

static void eval_grad(const struct ad_call *c)
{
    const struct norm_attr *a = c->attr;
    struct norm_dims d = norm_dims_of(c->in[0].shape, a);
    for (int64_t n = 0; n < d.n; n++)
        for (int64_t g = 0; g < d.g; g++) eval_grad_group(c, d, n, g);
    for (int64_t i = 0; i < d.c; i++) {
        double dgain = 0, dbias = 0;
        for (int64_t n = 0; n < d.n; n++)
            for (int64_t s = 0; s < d.s; s++) {
                int64_t e = (n * d.s + s) * d.c + i, stat = n * d.g + i / d.k;
                double r = 1 / sqrt(ad_get(&c->in[3], stat) + a->eps);
                dgain += ad_get(&c->in[1], e) * (ad_get(&c->in[0], e) - ad_get(&c->in[2], stat)) * r;
                dbias += ad_get(&c->in[1], e);
            }
        ad_set(&c->out[1], i, dgain);
        ad_set(&c->out[2], i, dbias);
    }
}

static double flops_grad(const struct ad_call *c)
{
    return 14 * (double)ad_count(c->in[0].shape);
}

static void vjp_grad(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    const struct norm_attr *a = n->attr;
    val in[3] = {ad_variable(g, n->in[0]), ad_variable(g, n->in[1]), a->gain ? ad_variable(g, n->in[4]) : 0};
    struct parts p = parts_of(g, a, in[0]);
    val d = ad_reshape(g, in[1], p.wide), u = a->gain ? ad_mul(g, d, ad_reshape(g, in[2], p.vector)) : d;
    enum { STAT_AXES = 1 << 1 | 1 << 3, VECTOR_AXES = 1 << 0 | 1 << 1 };
    val minus = ad_mul(g, p.xhat, ad_mean(g, ad_mul(g, u, p.xhat), STAT_AXES, true));
    if (a->kind != NORM_RMS) minus = ad_add(g, minus, ad_mean(g, u, STAT_AXES, true));
    struct ad_shape c = ad_shape_of(g, n->out + 1);
    val out[3] = {ad_reshape(g, ad_mul(g, p.r, ad_sub(g, u, minus)), ad_shape_of(g, n->in[0])),
                  ad_reshape(g, ad_sum(g, ad_mul(g, d, p.xhat), VECTOR_AXES, false), c),
                  ad_reshape(g, ad_sum(g, d, VECTOR_AXES, false), c)};
    val y[3], seed[3], partial[3];
    int n_y = 0;
    for (int i = 0; i < 3; i++)
        if (dy[i]) {
            y[n_y] = out[i];
            seed[n_y++] = dy[i];
        }
    ad_grad(g, y, seed, n_y, in, 2 + a->gain, partial);
    dx[0] = partial[0];
    dx[1] = partial[1];
    if (a->gain) dx[4] = partial[2];
    if (a->residual) dx[4 + a->gain] = dy[0];
}

extern const struct ad_op ad_op_add;

static val absorb_grad(struct ad_graph *g, const struct ad_node *n, const val *in, const struct ad_op *user, int at,
                       val other)
{
    struct norm_attr a;
    val more[6];
    memcpy(&a, n->attr, sizeof a);
    if (user != &ad_op_add || a.residual || (a.kind != NORM_LAYER && a.kind != NORM_RMS)) return 0;
    if (!ad_same_shape(ad_shape_of(g, other), ad_shape_of(g, in[0])) || ad_dtype_of(g, other) != ad_dtype_of(g, in[0]))
        return 0;
    a.residual = 1;
    memcpy(more, in, (size_t)n->n_in * sizeof *in);
    more[n->n_in] = other;
    return ad_node(g, &ad_op_norm_grad, &a, more, n->n_in + 1);
}

/* ---- cases ------------------------------------------------------------------------------------------------------- */

static int build_layer(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_layer_norm(g, in[0], in[1], in[2], 1e-2);
    return 1;
}
static int build_layer_plain(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_layer_norm(g, in[0], 0, 0, 1e-2);
    return 1;
}
static int build_layer_bias(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_layer_norm(g, in[0], 0, in[1], 1e-2);
    return 1;
}
static const struct ad_case cases_layer[] = {{.in = "3x7 7 7", .build = build_layer},
                                             {.in = "2x2x5", .build = build_layer_plain},
                                             {.in = "4x3 3", .build = build_layer_bias},
                                             {.in = "2x1 1 1", .build = build_layer},
                                             {.in = "5 5 5", .build = build_layer}};

static int build_rms(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_rms_norm(g, in[0], in[1], 1e-2);
    return 1;
}
static int build_rms_plain(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_rms_norm(g, in[0], 0, 1e-2);
    return 1;
}
static const struct ad_case cases_rms[] = {{.in = "3x7 7", .build = build_rms},
                                           {.in = "2x1x5", .build = build_rms_plain},
                                           {.in = "4x1 1", .build = build_rms}};

static int build_group(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_group_norm(g, in[0], in[1], in[2], 3, 1e-2);
    return 1;
}
static int build_group_one(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_group_norm(g, in[0], in[1], in[2], 1, 1e-2);
    return 1;
}
static const struct ad_case cases_group[] = {{.in = "2x2x3x6 6 6", .build = build_group},
                                             {.in = "3x5x3 3 3", .build = build_group},
                                             {.in = "2x3x4 4 4", .build = build_group_one},
                                             {.in = "3x6 6 6", .build = build_group}};

static int build_grad(struct ad_graph *g, const val *in, val *out, int kind, int groups)
{
    struct norm_attr a = {.eps = 1e-2, .kind = kind, .groups = groups, .gain = 1};
    const struct ad_op *const ops[] = {&ad_op_layer_norm, &ad_op_rms_norm, &ad_op_group_norm};
    val y = ad_node(g, ops[kind], &a, in, 2);
    out[0] = AD_NODE(g, &ad_op_norm_grad, &a, in[0], in[2], y + 1, y + 2, in[1]);
    out[1] = out[0] + 1;
    out[2] = out[0] + 2;
    return 3;
}
static int build_grad_layer(struct ad_graph *g, const val *in, val *out)
{
    return build_grad(g, in, out, NORM_LAYER, 0);
}
static int build_grad_rms(struct ad_graph *g, const val *in, val *out)
{
    return build_grad(g, in, out, NORM_RMS, 0);
}
static int build_grad_residual(struct ad_graph *g, const val *in, val *out)
{
    struct norm_attr a = {.eps = 1e-2, .kind = NORM_LAYER, .gain = 1};
    val y = ad_node(g, &ad_op_layer_norm, &a, in, 2);
    a.residual = 1;
    out[0] = AD_NODE(g, &ad_op_norm_grad, &a, in[0], in[2], y + 1, y + 2, in[1], in[3]);
    out[1] = out[0] + 1;
    out[2] = out[0] + 2;
    return 3;
}
static int build_grad_group(struct ad_graph *g, const val *in, val *out)
{
    return build_grad(g, in, out, NORM_GROUP, 2);
}
static const struct ad_case cases_grad[] = {{.in = "3x5 5 3x5", .build = build_grad_layer},
                                            {.in = "3x5 5 3x5", .build = build_grad_rms},
                                            {.in = "3x5 5 3x5 3x5", .build = build_grad_residual},
                                            {.in = "2x3x4 4 2x3x4", .build = build_grad_group}};

#define NORM_OP(id, which, cheap)                                           \
    const struct ad_op ad_op_##id = {.name = #id,                           \
                                     .flags = cheap,                        \
                                     .attr_size = sizeof(struct norm_attr), \
                                     .min_in = 1,                           \
                                     .max_in = 3,                           \
                                     .half = 1,                             \
                                     .infer = infer,                        \
                                     .eval = eval,                          \
                                     .vjp = vjp,                            \
                                     .flops = flops,                        \
                                     AD_CASES(which)};
NORM_OP(layer_norm, cases_layer, AD_CHEAP)
NORM_OP(rms_norm, cases_rms, AD_CHEAP)
NORM_OP(group_norm, cases_group, 0)
const struct ad_op ad_op_norm_grad = {.name = "norm_grad",
                                      .attr_size = sizeof(struct norm_attr),
                                      .min_in = 4,
                                      .max_in = 6,
                                      .half = 1,
                                      .infer = infer_grad,
                                      .eval = eval_grad,
                                      .vjp = vjp_grad,
                                      .absorb = absorb_grad,
                                      .alias = 1 << 4 | 1 << 5, /* the residual: gain is of another size */
                                      .flops = flops_grad,
                                      AD_CASES(cases_grad)};

static val norm(struct ad_graph *g, const struct ad_op *op, struct norm_attr a, val x, val gain, val bias)
{
    val in[3] = {x};
    a.gain = gain != 0;
    a.bias = bias != 0;
    if (gain) in[1] = gain;
    if (bias) in[1 + a.gain] = bias;
    return ad_node(g, op, &a, in, 1 + a.gain + a.bias);
}

val ad_layer_norm(struct ad_graph *g, val x, val gain, val bias, double eps)
{
    return norm(g, &ad_op_layer_norm, (struct norm_attr){.eps = eps, .kind = NORM_LAYER}, x, gain, bias);
}

val ad_rms_norm(struct ad_graph *g, val x, val gain, double eps)
{
    return norm(g, &ad_op_rms_norm, (struct norm_attr){.eps = eps, .kind = NORM_RMS}, x, gain, 0);
}

val ad_group_norm(struct ad_graph *g, val x, val gain, val bias, int groups, double eps)
{
    return norm(g, &ad_op_group_norm, (struct norm_attr){.eps = eps, .kind = NORM_GROUP, .groups = groups}, x, gain,
                bias);
}
