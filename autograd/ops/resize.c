/* resample and its adjoint, of which resizing and average pooling (pool.c) are made.
 *   y[n, i, j, c] = sum over a, b of R0[i, a] R1[j, b] x[n, a, b, c]       x (N, H, W, C) -> y (N, H', W', C)
 *   nearest: R[i, floor(i H / H')] = 1;   bilinear: half-pixel centres, s = max(0, (i + 1/2) H / H' - 1/2), weights
 *   1 - frac(s) and frac(s) on the rows floor(s) and the next, none past the edge;   averages: 1 / window.
 *   f32 or f64; error: x has not four axes, an empty image. */
#include "autograd/ops/resample.h"

#include <math.h>

#include "autograd/ops/common.h"

struct resample_tap resample_tap(const struct resample_attr *a, int axis, int64_t i)
{
    int64_t h = a->in[axis], out = a->out[axis];
    if (a->kind == RESAMPLE_NEAREST) return (struct resample_tap){i * h / out, 1, 1, 0};
    if (a->kind == RESAMPLE_BILINEAR) {
        double s = fmax(0, ((double)i + 0.5) * (double)h / (double)out - 0.5), lo = fmin(floor(s), (double)(h - 1));
        return lo >= (double)(h - 1) ? (struct resample_tap){h - 1, 1, 1, 0}
                                     : (struct resample_tap){(int64_t)lo, 2, 1 - (s - lo), s - lo};
    }
    if (a->kind == RESAMPLE_ADAPTIVE) {
        int64_t lo = i * h / out, hi = ((i + 1) * h + out - 1) / out;
        double w = 1 / (double)(hi - lo);
        return (struct resample_tap){lo, hi - lo, w, w};
    }
    int64_t start = i * a->stride[axis] - a->pad[axis], end = start + a->kernel[axis];
    int64_t lo = start < 0 ? 0 : start, hi = end > h ? h : end;
    double w = 1 / (double)(a->count_pad ? a->kernel[axis] : hi - lo);
    return (struct resample_tap){lo, hi - lo, w, w};
}

static int infer(struct ad_infer *f)
{
    const struct resample_attr *a = f->attr;
    struct ad_shape s = f->in_shape[0];
    if (!ad_is_float(f->in_dtype[0])) return ad_infer_fail(f, "it needs f32 or f64 numbers");
    if (s.rank != 4 || s.dim[1] != a->in[0] || s.dim[2] != a->in[1]) return ad_infer_fail(f, "x must be (N, H, W, C)");
    f->shape[0] = SHAPE(s.dim[0], a->out[0], a->out[1], s.dim[3]);
    return 0;
}

static int infer_adjoint(struct ad_infer *f)
{
    const struct resample_attr *a = f->attr;
    struct ad_shape s = f->in_shape[0];
    if (!ad_is_float(f->in_dtype[0])) return ad_infer_fail(f, "it needs f32 or f64 numbers");
    if (s.rank != 4 || s.dim[1] != a->out[0] || s.dim[2] != a->out[1])
        return ad_infer_fail(f, "y must be (N, %lld, %lld, C)", (long long)a->out[0], (long long)a->out[1]);
    f->shape[0] = SHAPE(s.dim[0], a->in[0], a->in[1], s.dim[3]);
    return 0;
}

static double weight(struct resample_tap t, int64_t at)
{
    return at == t.lo ? t.first : t.rest;
}

static void eval(const struct ad_call *c)
{
    const struct resample_attr *a = c->attr;
    struct ad_shape y = c->out[0].shape;
    int64_t at[AD_MAX_DIMS] = {0};
    for (int64_t i = 0, n = ad_count(y); i < n; i++, ad_next(y, at)) {
        struct resample_tap v = resample_tap(a, 0, at[1]), h = resample_tap(a, 1, at[2]);
        double sum = 0;
        for (int64_t p = v.lo; p < v.lo + v.n; p++)
            for (int64_t q = h.lo; q < h.lo + h.n; q++)
                sum += weight(v, p) * weight(h, q) *
                       ad_get(&c->in[0], ((at[0] * a->in[0] + p) * a->in[1] + q) * y.dim[3] + at[3]);
        ad_set(&c->out[0], i, sum);
    }
}

/* x'[n, p, q, c]: over all y, what reads it. */
static void eval_adjoint(const struct ad_call *c)
{
    const struct resample_attr *a = c->attr;
    struct ad_shape x = c->out[0].shape;
    int64_t at[AD_MAX_DIMS] = {0};
    for (int64_t i = 0, n = ad_count(x); i < n; i++, ad_next(x, at)) {
        double sum = 0;
        for (int64_t p = 0; p < a->out[0]; p++)
            for (int64_t q = 0; q < a->out[1]; q++) {
                struct resample_tap v = resample_tap(a, 0, p), h = resample_tap(a, 1, q);
                if (at[1] < v.lo || at[1] >= v.lo + v.n || at[2] < h.lo || at[2] >= h.lo + h.n) continue;
                sum += weight(v, at[1]) * weight(h, at[2]) *
                       ad_get(&c->in[0], ((at[0] * a->out[0] + p) * a->out[1] + q) * x.dim[3] + at[3]);
            }
        ad_set(&c->out[0], i, sum);
    }
}

static void vjp(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    dx[0] = AD_NODE(g, &ad_op_resample_adjoint, n->attr, dy[0]);
}
static void vjp_adjoint(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    dx[0] = AD_NODE(g, &ad_op_resample, n->attr, dy[0]);
}

static int build_nearest(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_resize_nearest(g, in[0], 5, 2);
    return 1;
}
static int build_bilinear(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_resize_bilinear(g, in[0], 5, 2);
    return 1;
}
static int build_average(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_avg_pool(g, in[0], (struct ad_pool){.kernel = {3, 2}, .stride = {2, 1}, .pad = {1, 0}});
    return 1;
}
static int build_count_pad(struct ad_graph *g, const val *in, val *out)
{
    out[0] =
        ad_avg_pool(g, in[0], (struct ad_pool){.kernel = {3, 2}, .stride = {1, 2}, .pad = {1, 1}, .count_pad = true});
    return 1;
}
static int build_adaptive(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_adaptive_avg_pool(g, in[0], 3, 2);
    return 1;
}
static const struct ad_case cases[] = {
    {.in = "2x3x4x2", .build = build_nearest},  {.in = "1x7x1x3", .build = build_nearest},
    {.in = "2x3x4x2", .build = build_bilinear}, {.in = "1x1x5x3", .build = build_bilinear},
    {.in = "2x4x3x2", .build = build_average},  {.in = "1x5x4x3", .build = build_count_pad},
    {.in = "2x5x3x2", .build = build_adaptive}, {.in = "1x2x2x1", .build = build_adaptive},
};

static int build_adjoint(struct ad_graph *g, const val *in, val *out)
{
    struct resample_attr a = {.in = {2, 3}, .out = {5, 2}, .kind = RESAMPLE_BILINEAR};
    out[0] = AD_NODE(g, &ad_op_resample_adjoint, &a, in[0]);
    return 1;
}
static const struct ad_case cases_adjoint[] = {{.in = "2x5x2x2", .build = build_adjoint}};

const struct ad_op ad_op_resample = {.name = "resample",
                                     .attr_size = sizeof(struct resample_attr),
                                     .min_in = 1,
                                     .max_in = 1,
                                     .half = 1,
                                     .infer = infer,
                                     .eval = eval,
                                     .vjp = vjp,
                                     AD_CASES(cases)};
const struct ad_op ad_op_resample_adjoint = {.name = "resample_adjoint",
                                             .attr_size = sizeof(struct resample_attr),
                                             .min_in = 1,
                                             .max_in = 1,
                                             .half = 1,
                                             .infer = infer_adjoint,
                                             .eval = eval_adjoint,
                                             .vjp = vjp_adjoint,
                                             AD_CASES(cases_adjoint)};

val ad_resample(struct ad_graph *g, val x, struct resample_attr a, int64_t h, int64_t w)
{
    char text[96];
    struct ad_shape s = ad_shape_of(g, x);
    if (!x) return 0;
    if (s.rank != 4 || s.dim[1] < 1 || s.dim[2] < 1 || h < 1 || w < 1)
        return ad_fail(g, "an image (N, H, W, C) that is not empty is needed to make %lld x %lld of it, not %s",
                       (long long)h, (long long)w, ad_shape_text(text, s));
    for (int i = 0; i < 2; i++) {
        a.in[i] = s.dim[1 + i];
        a.out[i] = i ? w : h;
    }
    return AD_NODE(g, &ad_op_resample, &a, x);
}

val ad_resize_nearest(struct ad_graph *g, val x, int64_t h, int64_t w)
{
    return ad_resample(g, x, (struct resample_attr){.kind = RESAMPLE_NEAREST}, h, w);
}
val ad_resize_bilinear(struct ad_graph *g, val x, int64_t h, int64_t w)
{
    return ad_resample(g, x, (struct resample_attr){.kind = RESAMPLE_BILINEAR}, h, w);
}
