/* Pooling. The averages are linear and made of resample (resize.c). */
#include "autograd/ops/pool.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>

#include "autograd/ops/common.h"
#include "autograd/ops/resample.h"
#include "base/mem.h"

/* Rows after pooling, or 0 where the window does not fit. */
static int64_t out_size(int64_t h, int32_t kernel, int32_t stride, int32_t pad)
{
    int64_t room = h + 2 * (int64_t)pad - kernel;
    return room < 0 ? 0 : room / stride + 1;
}

/* Fills in the defaults (a stride of 0 is the kernel's size) and gives the result's size; false and a failure
 * otherwise. */
static bool pool_size(struct ad_graph *g, val x, struct ad_pool *p, int64_t out[2])
{
    struct ad_shape s = ad_shape_of(g, x);
    char text[96];
    if (!x) return false;
    for (int i = 0; i < 2; i++) {
        if (!p->stride[i]) p->stride[i] = p->kernel[i];
        if (p->kernel[i] < 1 || p->stride[i] < 1 || p->pad[i] < 0 || p->pad[i] > p->kernel[i] / 2) {
            ad_fail(g, "pool: the window must be at least 1, the stride too, the padding at most half the window");
            return false;
        }
        out[i] = s.rank == 4 ? out_size(s.dim[1 + i], p->kernel[i], p->stride[i], p->pad[i]) : 0;
    }
    if (out[0] < 1 || out[1] < 1) {
        ad_fail(g, "pool: a window of %d x %d does not fit into %s", p->kernel[0], p->kernel[1],
                ad_shape_text(text, s));
        return false;
    }
    return true;
}

/* ---- max_pool: y = max of the window; padding is never the maximum
 *   x (N, H, W, C) -> y (N, H', W', C), index int32 of y's shape: which element of x it was, the first of equals; NaN
 * wins. error: x has not four axes or 2^31 elements or more; the window does not fit */

static int infer(struct ad_infer *f)
{
    const struct pool_attr *a = f->attr;
    struct ad_shape x = f->in_shape[0];
    if (!ad_is_float(f->in_dtype[0])) return ad_infer_fail(f, "it needs f32 or f64 numbers");
    if (x.rank != 4 || ad_count(x) > INT_MAX)
        return ad_infer_fail(f, "x must be (N, H, W, C) of less than 2^31 elements");
    f->n_out = 2;
    f->shape[0] = x;
    for (int i = 0; i < 2; i++) f->shape[0].dim[1 + i] = out_size(x.dim[1 + i], a->kernel[i], a->stride[i], a->pad[i]);
    f->shape[1] = f->shape[0];
    f->dtype[1] = AD_I32;
    return 0;
}

static void eval(const struct ad_call *c)
{
    const struct pool_attr *a = c->attr;
    struct ad_shape x = c->in[0].shape, y = c->out[0].shape;
    int64_t at[AD_MAX_DIMS] = {0}, lo[2], hi[2];
    for (int64_t i = 0, n = ad_count(y); i < n; i++, ad_next(y, at)) {
        for (int k = 0; k < 2; k++) pool_window(a, k, at[1 + k], x.dim[1 + k], &lo[k], &hi[k]);
        double best = 0;
        int64_t where = -1;
        for (int64_t p = lo[0]; p < hi[0]; p++)
            for (int64_t q = lo[1]; q < hi[1]; q++) {
                int64_t e = ((at[0] * x.dim[1] + p) * x.dim[2] + q) * x.dim[3] + at[3];
                double v = ad_get(&c->in[0], e);
                if (where >= 0 && !(v > best) && !(isnan(v) && !isnan(best))) continue;
                best = v;
                where = e;
            }
        ad_set(&c->out[0], i, best);
        ad_set(&c->out[1], i, (double)where);
    }
}

static void vjp(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    struct ad_shape x = ad_shape_of(g, n->in[0]);
    struct pool_grad_attr a = {.dim = {x.dim[0], x.dim[1], x.dim[2], x.dim[3]}};
    if (dy[0]) dx[0] = AD_NODE(g, &ad_op_max_pool_grad, &a, dy[0], ad_out(n, 1));
}

/* ---- max_pool_grad: dx = 0 with each dy added at its index       dy, index (N, H', W', C) -> dx as x. Linear in dy,
 * with gather as its gradient. */

static int infer_grad(struct ad_infer *f)
{
    const struct pool_grad_attr *a = f->attr;
    if (!ad_same_shape(f->in_shape[0], f->in_shape[1]) || f->in_dtype[1] != AD_I32)
        return ad_infer_fail(f, "dy and the int32 index must have one shape");
    f->shape[0] = SHAPE(a->dim[0], a->dim[1], a->dim[2], a->dim[3]);
    return 0;
}

static void eval_grad(const struct ad_call *c)
{
    for (int64_t i = 0, n = ad_count(c->out[0].shape); i < n; i++) ad_set(&c->out[0], i, 0);
    for (int64_t i = 0, n = ad_count(c->in[0].shape); i < n; i++) {
        int64_t to = ad_get_int(&c->in[1], i);
        ad_set(&c->out[0], to, ad_get(&c->out[0], to) + ad_get(&c->in[0], i));
    }
}

static void vjp_grad(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    dx[0] = ad_gather(g, ad_reshape(g, dy[0], SHAPE(-1)), n->in[1]);
}

static int build_plain(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_max_pool(g, in[0], (struct ad_pool){.kernel = {2, 2}});
    return 1;
}
static int build_padded(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_max_pool(g, in[0], (struct ad_pool){.kernel = {3, 2}, .stride = {2, 1}, .pad = {1, 1}});
    return 1;
}
static const struct ad_case cases[] = {{.in = "2x4x5x3", .build = build_plain, .apart = 0.01},
                                       {.in = "1x5x3x2", .build = build_padded, .apart = 0.01},
                                       {.in = "1x3x2x1", .build = build_padded, .apart = 0.01}};

static int build_grad(struct ad_graph *g, const val *in, val *out)
{
    struct pool_grad_attr a = {.dim = {1, 5, 3, 2}};
    val y = ad_max_pool(g, in[0], (struct ad_pool){.kernel = {3, 2}, .stride = {2, 1}, .pad = {1, 1}});
    out[0] = ad_square(g, AD_NODE(g, &ad_op_max_pool_grad, &a, in[1], y + 1));
    return 1;
}
static const struct ad_case cases_grad[] = {{.in = "1x5x3x2 1x3x4x2", .build = build_grad, .apart = 0.01}};

static double flops(const struct ad_call *c)
{
    const struct pool_attr *a = c->attr;
    return (double)ad_count(c->out[0].shape) * (double)a->kernel[0] * (double)a->kernel[1];
}
static double flops_grad(const struct ad_call *c)
{
    return (double)ad_count(c->in[0].shape);
}

const struct ad_op ad_op_max_pool = {.name = "max_pool",
                                     .attr_size = sizeof(struct pool_attr),
                                     .min_in = 1,
                                     .max_in = 1,
                                     .half = 1,
                                     .infer = infer,
                                     .eval = eval,
                                     .vjp = vjp,
                                     .flops = flops,
                                     AD_CASES(cases)};
const struct ad_op ad_op_max_pool_grad = {.name = "max_pool_grad",
                                          .attr_size = sizeof(struct pool_grad_attr),
                                          .min_in = 2,
                                          .max_in = 2,
                                          .half = 1,
                                          .infer = infer_grad,
                                          .eval = eval_grad,
                                          .vjp = vjp_grad,
                                          .flops = flops_grad,
                                          AD_CASES(cases_grad)};

val ad_max_pool(struct ad_graph *g, val x, struct ad_pool p)
{
    int64_t out[2];
    if (!pool_size(g, x, &p, out)) return 0;
    struct pool_attr a = {{p.kernel[0], p.kernel[1]}, {p.stride[0], p.stride[1]}, {p.pad[0], p.pad[1]}};
    return AD_NODE(g, &ad_op_max_pool, &a, x);
}

val ad_avg_pool(struct ad_graph *g, val x, struct ad_pool p)
{
    int64_t out[2];
    if (!pool_size(g, x, &p, out)) return 0;
    struct resample_attr a = {.kernel = {p.kernel[0], p.kernel[1]},
                              .stride = {p.stride[0], p.stride[1]},
                              .pad = {p.pad[0], p.pad[1]},
                              .count_pad = p.count_pad,
                              .kind = RESAMPLE_AVERAGE};
    return ad_resample(g, x, a, out[0], out[1]);
}

val ad_adaptive_avg_pool(struct ad_graph *g, val x, int64_t h, int64_t w)
{
    return ad_resample(g, x, (struct resample_attr){.kind = RESAMPLE_ADAPTIVE}, h, w);
}

/* One axis: row i of the result is the maximum of rows floor(i n/out) .. ceil((i+1) n/out)-1. Shorter windows name their last
 * row several times, which changes neither the maximum nor the sum of the shares that a gradient is split into. */
static val adaptive_max_axis(struct ad_graph *g, val x, int axis, int64_t out)
{
    int64_t n = ad_dim(g, x, axis), longest = 1;
    for (int64_t i = 0; i < out; i++) {
        int64_t len = ((i + 1) * n + out - 1) / out - i * n / out;
        if (len > longest) longest = len;
    }
    int32_t *row = mem_alloc((size_t)(out * longest) * sizeof *row);
    for (int64_t i = 0; i < out; i++) {
        int64_t from = i * n / out, to = ((i + 1) * n + out - 1) / out;
        for (int64_t k = 0; k < longest; k++) row[i * longest + k] = (int32_t)(from + k < to ? from + k : to - 1);
    }
    val index = ad_const_data(g, AD_I32, SHAPE(out, longest), row);
    free(row);
    val windows = ad_gather(g, ad_swap(g, x, 0, axis), index); /* (out, longest, ...) */
    return ad_swap(g, ad_max(g, windows, 2, false), 0, axis);
}

val ad_adaptive_max_pool(struct ad_graph *g, val x, int64_t h, int64_t w)
{
    if (ad_rank(g, x) != 4 || h < 1 || w < 1 || ad_dim(g, x, 1) < 1 || ad_dim(g, x, 2) < 1)
        return ad_fail(
            g, "adaptive_max_pool: x must be (N, H, W, C) with rows and columns, and the result at least 1 x 1");
    return adaptive_max_axis(g, adaptive_max_axis(g, x, 1, h), 2, w);
}
