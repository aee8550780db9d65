/* Batch norm (Ioffe & Szegedy 2015, algorithm 1), with what usually follows it: the shortcut's addition and the
 * activation. They are one op since its gradient then needs only the norm's input: the activation's slope is taken from
 * it again, and neither the norm's nor the sum's result is kept. */
#include "autograd/ops/batch_norm.h"

#include <math.h>

#include "autograd/ops/common.h"

static double value_of(int act, double p)
{
    return act == AD_ACT_RELU ? (p <= 0 ? 0 : p) : act == AD_ACT_SILU ? p / (1 + exp(-p)) : p;
}

/* SiLU: s + p s (1 - s), s = sigmoid(p). */
static double slope_of(int act, double p)
{
    if (act == AD_ACT_RELU) return p > 0;
    if (act != AD_ACT_SILU) return 1;
    double s = 1 / (1 + exp(-p));
    return s + (s > 0 && s < 1 ? p * s * (1 - s) : isnan(p) ? p : 0);
}

/* ---- batch_norm: y = act(p), p = (x - mean) / sqrt(var + eps) * gain + bias + residual
 *   x (..., C)   [gain (C)]   [bias (C)]   [residual as x]  ->  y as x,  mean (C),  var (C), biased, over the other axes
 *   error: gain or bias is not (C); the residual is not as x; there is nothing to take a mean of */

static int check(struct ad_infer *f, int first)
{
    const struct batch_norm_attr *a = f->attr;
    struct ad_shape x = f->in_shape[0];
    if (!ad_is_float(f->in_dtype[0])) return ad_infer_fail(f, "it needs f32 or f64 numbers");
    for (int i = 1; i < f->n_in; i++)
        if (f->in_dtype[i] != f->in_dtype[0]) return ad_infer_fail(f, "the inputs differ in dtype");
    if (x.rank < 1) return ad_infer_fail(f, "x has too few axes");
    struct batch_norm_dims d = batch_norm_dims_of(x);
    if (d.rows == 0) return ad_infer_fail(f, "there is nothing to take a mean of");
    CHECK(f->n_in == first + a->gain + a->bias + a->residual);
    for (int i = first; i < first + a->gain + a->bias; i++)
        if (f->in_shape[i].rank != 1 || f->in_shape[i].dim[0] != d.c)
            return ad_infer_fail(f, "gain and bias must be (%lld)", (long long)d.c);
    if (a->residual && !ad_same_shape(f->in_shape[f->n_in - 1], x))
        return ad_infer_fail(f, "the residual must have the shape of x");
    return 0;
}

static int infer(struct ad_infer *f)
{
    if (check(f, 1)) return -1;
    f->n_out = 3;
    f->shape[0] = f->in_shape[0];
    f->shape[1] = f->shape[2] = SHAPE(batch_norm_dims_of(f->in_shape[0]).c);
    return 0;
}

/* What the activation sees: element e of channel j. `in` is where gain, bias and residual begin. */
static double before_act(const struct ad_call *c, const struct ad_tensor *in, int64_t e, int64_t j, double mean,
                         double r)
{
    const struct batch_norm_attr *a = c->attr;
    double p = (ad_get(&c->in[0], e) - mean) * r;
    if (a->gain) p *= ad_get(&in[0], j);
    if (a->bias) p += ad_get(&in[a->gain], j);
    if (a->residual) p += ad_get(&in[a->gain + a->bias], e);
    return p;
}

static void eval(const struct ad_call *c)
{
    const struct batch_norm_attr *a = c->attr;
    const struct ad_tensor *x = &c->in[0];
    struct batch_norm_dims d = batch_norm_dims_of(x->shape);
    for (int64_t j = 0; j < d.c; j++) {
        double mean = 0, var = 0, n = (double)d.rows;
        for (int64_t i = 0; i < d.rows; i++) mean += ad_get(x, i * d.c + j) / n;
        for (int64_t i = 0; i < d.rows; i++) var += pow(ad_get(x, i * d.c + j) - mean, 2) / n;
        for (int64_t i = 0; i < d.rows; i++) {
            int64_t e = i * d.c + j;
            ad_set(&c->out[0], e, value_of(a->act, before_act(c, c->in + 1, e, j, mean, 1 / sqrt(var + a->eps))));
        }
        ad_set(&c->out[1], j, mean);
        ad_set(&c->out[2], j, var);
    }
}

static double flops(const struct ad_call *c)
{
    return 8 * (double)ad_count(c->in[0].shape);
}

/* In builders: x as (rows, C), its statistics (1, C), xhat, and what the activation sees. */
struct parts {
    struct ad_shape wide;
    int64_t rows;
    val centred, r, xhat, p;
};
static struct parts parts_of(struct ad_graph *g, const struct batch_norm_attr *a, val x, val gain, val bias,
                             val residual)
{
    struct batch_norm_dims d = batch_norm_dims_of(ad_shape_of(g, x));
    struct parts p = {.wide = SHAPE(d.rows, d.c), .rows = d.rows};
    val w = ad_reshape(g, x, p.wide);
    p.centred = ad_sub(g, w, ad_mean(g, w, 1, true));
    p.r = ad_rsqrt(g, ad_shift(g, ad_mean(g, ad_square(g, p.centred), 1, true), a->eps));
    p.xhat = ad_mul(g, p.centred, p.r);
    p.p = gain ? ad_mul(g, p.xhat, gain) : p.xhat;
    if (bias) p.p = ad_add(g, p.p, bias);
    if (residual) p.p = ad_add(g, p.p, ad_reshape(g, residual, p.wide));
    return p;
}

static val plus(struct ad_graph *g, val a, val b)
{
    return a ? ad_add(g, a, b) : b;
}

static void vjp(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    const struct batch_norm_attr *a = n->attr;
    val x = n->in[0];
    int last = a->gain + a->bias + a->residual;
    if (dy[0]) {
        struct batch_norm_attr b = *a;
        if (!b.act) b.bias = b.residual = 0;
        val in[7] = {x, dy[0], ad_out(n, 1), ad_out(n, 2)};
        int n_in = 4;
        for (int i = 1; i <= b.gain + b.bias; i++) in[n_in++] = n->in[i];
        if (b.residual) in[n_in++] = b.act == AD_ACT_RELU ? n->out : n->in[last];
        val d = ad_node(g, &ad_op_batch_norm_grad, &b, in, n_in);
        if (!d) return;
        dx[0] = d;
        if (a->gain) dx[1] = d + 1;
        if (a->bias) dx[1 + a->gain] = d + 2;
        if (a->residual) dx[last] = b.act ? d + 3 : dy[0];
    }
    if (!dy[1] && !dy[2]) return;
    struct parts p = parts_of(g, a, x, 0, 0, 0);
    struct ad_shape row = SHAPE(1, p.wide.dim[1]);
    val d = 0;
    if (dy[1]) d = ad_broadcast(g, ad_scale(g, ad_reshape(g, dy[1], row), 1.0 / (double)p.rows), p.wide);
    if (dy[2]) d = plus(g, d, ad_mul(g, ad_scale(g, p.centred, 2.0 / (double)p.rows), ad_reshape(g, dy[2], row)));
    dx[0] = plus(g, dx[0], ad_reshape(g, d, ad_shape_of(g, x)));
}

/* ---- batch_norm_grad: with d = dy act'(p), u = d gain, xhat = (x - mean) r, r = 1 / sqrt(var + eps), <.> the mean over
 * the rows
 *   dx = r (u - <u> - xhat <u xhat>)     dgain = sum d xhat     dbias = sum d     dresidual = d
 *   x, dy of one shape, mean and var those of x, [gain (C)], [bias (C)], [residual or y as x]
 * Its own gradient is that of the formula from x on: nothing flows into mean, var and y, which are functions of the
 * others. */

static int infer_grad(struct ad_infer *f)
{
    const struct batch_norm_attr *a = f->attr;
    if (check(f, 4)) return -1;
    if (!ad_same_shape(f->in_shape[0], f->in_shape[1])) return ad_infer_fail(f, "x and dy differ in shape");
    f->n_out = 3 + a->residual;
    f->shape[0] = f->shape[3] = f->in_shape[0];
    f->shape[1] = f->shape[2] = SHAPE(batch_norm_dims_of(f->in_shape[0]).c);
    f->dtype[3] = f->dtype[0];
    return 0;
}

/* d at element e of channel j. */
static double after_act(const struct ad_call *c, int64_t e, int64_t j, double mean, double r)
{
    const struct batch_norm_attr *a = c->attr;
    double dy = ad_get(&c->in[1], e);
    if (!a->act) return dy;
    if (a->act == AD_ACT_RELU && a->residual) return ad_get(&c->in[4 + a->gain + a->bias], e) > 0 ? dy : 0;
    double slope = slope_of(a->act, before_act(c, c->in + 4, e, j, mean, r));
    return a->act == AD_ACT_RELU ? (slope > 0 ? dy : 0) : dy * slope;
}

static void eval_grad(const struct ad_call *c)
{
    const struct batch_norm_attr *a = c->attr;
    struct batch_norm_dims d = batch_norm_dims_of(c->in[0].shape);
    for (int64_t j = 0; j < d.c; j++) {
        double mean = ad_get(&c->in[2], j), r = 1 / sqrt(ad_get(&c->in[3], j) + a->eps), sum = 0, sum_x = 0;
        double gain = a->gain ? ad_get(&c->in[4], j) : 1, n = (double)d.rows;
        for (int64_t i = 0; i < d.rows; i++) {
            double e = after_act(c, i * d.c + j, j, mean, r);
            sum += e;
            sum_x += e * (ad_get(&c->in[0], i * d.c + j) - mean) * r;
        }
        for (int64_t i = 0; i < d.rows; i++) { /* dx may lie in dy's or x's memory */
            int64_t at = i * d.c + j;
            double e = after_act(c, at, j, mean, r), xhat = (ad_get(&c->in[0], at) - mean) * r;
            ad_set(&c->out[0], at, r * gain * (e - sum / n - xhat * sum_x / n));
            if (a->residual) ad_set(&c->out[3], at, e);
        }
        ad_set(&c->out[1], j, sum_x);
        ad_set(&c->out[2], j, sum);
    }
}

static double flops_grad(const struct ad_call *c)
{
    return 14 * (double)ad_count(c->in[0].shape);
}

static val slope(struct ad_graph *g, int act, val p)
{
    if (act == AD_ACT_RELU) return ad_greater(g, p, ad_number_like(g, p, 0));
    val s = ad_sigmoid(g, p);
    return ad_add(g, s, ad_mul(g, p, ad_mul(g, s, ad_shift(g, ad_neg(g, s), 1))));
}

static void vjp_grad(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    const struct batch_norm_attr *a = n->attr;
    bool by_y = a->residual && a->act == AD_ACT_RELU; /* the last input is y: nothing flows there */
    int at_bias = 4 + a->gain, at_residual = at_bias + a->bias;
    int32_t from[5] = {0, 1}, n_from = 2;
    if (a->gain) from[n_from++] = 4;
    if (a->bias) from[n_from++] = at_bias;
    if (a->residual && !by_y) from[n_from++] = at_residual;
    val in[5], partial[5], bound[7] = {0};
    for (int i = 0; i < n_from; i++) bound[from[i]] = in[i] = ad_variable(g, n->in[from[i]]);
    val gain = a->gain ? bound[4] : 0;
    struct parts p =
        parts_of(g, a, bound[0], gain, a->bias ? bound[at_bias] : 0, a->residual && !by_y ? bound[at_residual] : 0);
    val d = ad_reshape(g, bound[1], p.wide);
    if (a->act) d = ad_mul(g, d, slope(g, a->act, by_y ? ad_reshape(g, n->in[at_residual], p.wide) : p.p));
    val u = gain ? ad_mul(g, d, gain) : d;
    val minus = ad_add(g, ad_mean(g, u, 1, true), ad_mul(g, p.xhat, ad_mean(g, ad_mul(g, u, p.xhat), 1, true)));
    struct ad_shape x = ad_shape_of(g, n->in[0]);
    val out[4] = {ad_reshape(g, ad_mul(g, p.r, ad_sub(g, u, minus)), x), ad_sum(g, ad_mul(g, d, p.xhat), 1, false),
                  ad_sum(g, d, 1, false), ad_reshape(g, d, x)};
    val y[4], seed[4];
    int n_y = 0;
    for (int i = 0; i < n->n_out; i++)
        if (dy[i]) {
            y[n_y] = out[i];
            seed[n_y++] = dy[i];
        }
    ad_grad(g, y, seed, n_y, in, n_from, partial);
    for (int i = 0; i < n_from; i++) dx[from[i]] = partial[i];
}

/* ---- cases ---------------------------------------------------------------------------------------------------------- */

static int build(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_batch_norm(g, in[0], in[1], in[2], 1e-2, &out[1], &out[2]);
    return 3;
}
static int build_plain(struct ad_graph *g, const val *in, val *out)
{
    val mean, var;
    out[0] = ad_batch_norm(g, in[0], 0, 0, 1e-2, &mean, &var);
    return 1;
}
static int build_fixed(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_batch_norm_fixed(g, in[0], in[1], in[2], in[3], ad_square(g, in[4]), 1e-1);
    return 1;
}
static int build_relu(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_batch_norm_act(g, in[0], in[1], in[2], 0, AD_ACT_RELU, 1e-2, &out[1], &out[2]);
    return 3;
}
static int build_silu(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_batch_norm_act(g, in[0], in[1], in[2], 0, AD_ACT_SILU, 1e-2, &out[1], &out[2]);
    return 3;
}
static int build_sum(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_batch_norm_act(g, in[0], in[1], in[2], in[3], AD_ACT_NONE, 1e-2, &out[1], &out[2]);
    return 3;
}
static int build_relu_sum(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_batch_norm_act(g, in[0], in[1], in[2], in[3], AD_ACT_RELU, 1e-2, &out[1], &out[2]);
    return 3;
}
static int build_silu_sum(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_batch_norm_act(g, in[0], 0, in[1], in[2], AD_ACT_SILU, 1e-2, &out[1], &out[2]);
    return 3;
}
static const struct ad_case cases[] = {
    {.in = "7x3 3 3", .build = build},           {.in = "2x3x2x5 5 5", .build = build},
    {.in = "5x1", .build = build_plain},         {.in = "2x3x5 5 5 5 5", .build = build_fixed},
    {.in = "2x4x3 3 3", .build = build_relu},    {.in = "2x4x3 3 3", .build = build_silu},
    {.in = "6x2 2 2 6x2", .build = build_sum},   {.in = "2x2x2x3 3 3 2x2x2x3", .build = build_relu_sum},
    {.in = "6x3 3 6x3", .build = build_silu_sum}};

static int build_grad(struct ad_graph *g, const val *in, val *out)
{
    struct batch_norm_attr a = {.eps = 1e-2, .gain = 1};
    val y = ad_node(g, &ad_op_batch_norm, &a, in, 2);
    out[0] = AD_NODE(g, &ad_op_batch_norm_grad, &a, in[0], in[2], y + 1, y + 2, in[1]);
    out[1] = out[0] + 1;
    out[2] = out[0] + 2;
    return 3;
}
/* x, gain, bias, residual, dy */
static int build_grad_act(struct ad_graph *g, const val *in, val *out, int act)
{
    struct batch_norm_attr a = {.eps = 1e-2, .gain = 1, .bias = 1, .residual = 1, .act = act};
    val y = ad_node(g, &ad_op_batch_norm, &a, in, 4);
    out[0] = AD_NODE(g, &ad_op_batch_norm_grad, &a, in[0], in[4], y + 1, y + 2, in[1], in[2],
                     act == AD_ACT_RELU ? ad_stop_gradient(g, y) : in[3]);
    for (int i = 1; i < 4; i++) out[i] = out[0] + i;
    return 4;
}
static int build_grad_relu(struct ad_graph *g, const val *in, val *out)
{
    return build_grad_act(g, in, out, AD_ACT_RELU);
}
static int build_grad_silu(struct ad_graph *g, const val *in, val *out)
{
    return build_grad_act(g, in, out, AD_ACT_SILU);
}
static const struct ad_case cases_grad[] = {{.in = "5x3 3 5x3", .build = build_grad},
                                            {.in = "5x3 3 3 5x3 5x3", .build = build_grad_relu},
                                            {.in = "5x3 3 3 5x3 5x3", .build = build_grad_silu}};

const struct ad_op ad_op_batch_norm = {.name = "batch_norm",
                                       .attr_size = sizeof(struct batch_norm_attr),
                                       .min_in = 1,
                                       .max_in = 4,
                                       .half = 1,
                                       .infer = infer,
                                       .eval = eval,
                                       .vjp = vjp,
                                       .alias = 1 << 0 | 1 << 3, /* x; the residual */
                                       .flops = flops,
                                       AD_CASES(cases)};
const struct ad_op ad_op_batch_norm_grad = {.name = "batch_norm_grad",
                                            .attr_size = sizeof(struct batch_norm_attr),
                                            .min_in = 4,
                                            .max_in = 7,
                                            .half = 1 | 1 << 3,
                                            .infer = infer_grad,
                                            .eval = eval_grad,
                                            .vjp = vjp_grad,
                                            .alias = 1 << 0 | 1 << 1, /* x, dy */
                                            .flops = flops_grad,
                                            AD_CASES(cases_grad)};

val ad_batch_norm_act(struct ad_graph *g, val x, val gain, val bias, val residual, enum ad_norm_act act, double eps,
                      val *mean, val *var)
{
    struct batch_norm_attr a = {
        .eps = eps, .gain = gain != 0, .bias = bias != 0, .residual = residual != 0, .act = (int32_t)act};
    val in[4] = {x};
    int n = 1;
    if (gain) in[n++] = gain;
    if (bias) in[n++] = bias;
    if (residual) in[n++] = residual;
    val y = ad_node(g, &ad_op_batch_norm, &a, in, n);
    *mean = y ? y + 1 : 0;
    *var = y ? y + 2 : 0;
    return y;
}

val ad_batch_norm(struct ad_graph *g, val x, val gain, val bias, double eps, val *mean, val *var)
{
    return ad_batch_norm_act(g, x, gain, bias, 0, AD_ACT_NONE, eps, mean, var);
}

val ad_batch_norm_fixed(struct ad_graph *g, val x, val gain, val bias, val mean, val var, double eps)
{
    val y = ad_mul(g, ad_sub(g, x, mean), ad_rsqrt(g, ad_shift(g, var, eps)));
    if (gain) y = ad_mul(g, y, gain);
    return bias ? ad_add(g, y, bias) : y;
}
