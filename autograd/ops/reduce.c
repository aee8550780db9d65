/* Ops that take an axis or several together. Inputs of sum, max and min may have any strides. */
#include "autograd/ops/reduce.h"

#include <math.h>
#include <string.h>

#include "autograd/ops/common.h"

extern const struct ad_op ad_op_sum, ad_op_sum_products, ad_op_max, ad_op_min, ad_op_argmax, ad_op_cumsum,
    ad_op_logsumexp, ad_op_top_k;

/* ---- sum, max, min over the axes of a mask ----------------------------------------------------------------------- */

static struct ad_shape reduced(struct ad_shape s, uint32_t axes, bool keep)
{
    struct ad_shape r = {0};
    for (int i = 0; i < s.rank; i++) {
        if (!(axes >> i & 1))
            r.dim[r.rank++] = s.dim[i];
        else if (keep)
            r.dim[r.rank++] = 1;
    }
    return r;
}

static int infer_reduce(struct ad_infer *f)
{
    const struct ad_reduce_attr *r = f->attr;
    struct ad_shape s = f->in_shape[0];
    if (r->axes >> s.rank) return ad_infer_fail(f, "the axes 0x%x are not all among its %d", r->axes, s.rank);
    f->shape[0] = reduced(s, r->axes, r->keep);
    return 0;
}

static int infer_extreme(struct ad_infer *f)
{
    const struct ad_reduce_attr *r = f->attr;
    for (int i = 0; i < f->in_shape[0].rank; i++)
        if (r->axes >> i & 1 && f->in_shape[0].dim[i] == 0) return ad_infer_fail(f, "axis %d is empty", i);
    return infer_reduce(f);
}

static double add(double acc, double x)
{
    return acc + x;
}
static double larger(double acc, double x)
{
    return x > acc || isnan(x) ? x : acc;
}
static double smaller(double acc, double x)
{
    return x < acc || isnan(x) ? x : acc;
}

/* out[kept axes] = fold over the others, in row order, in double; of two inputs, which lie alike, of their products. */
static void fold(const struct ad_call *c, double (*join)(double, double), double start)
{
    const struct ad_tensor *in = &c->in[0], *out = &c->out[0];
    uint32_t axes = ((const struct ad_reduce_attr *)c->attr)->axes;
    struct ad_shape s = in->shape, outer = {0}, inner = {0};
    int64_t so[AD_MAX_DIMS], si[AD_MAX_DIMS], at[AD_MAX_DIMS] = {0}, n_out = ad_count(out->shape);
    for (int d = 0; d < s.rank; d++) {
        if (axes >> d & 1)
            si[inner.rank] = in->stride[d], inner.dim[inner.rank++] = s.dim[d];
        else
            so[outer.rank] = in->stride[d], outer.dim[outer.rank++] = s.dim[d];
    }
    for (int64_t i = 0; i < n_out; i++, ad_next(outer, at)) {
        int64_t k[AD_MAX_DIMS] = {0}, base = 0;
        double acc = start;
        for (int d = 0; d < outer.rank; d++) base += at[d] * so[d];
        for (int64_t j = ad_count(inner); j > 0; j--, ad_next(inner, k)) {
            int64_t o = base;
            for (int d = 0; d < inner.rank; d++) o += k[d] * si[d];
            double x = ad_get(in, o);
            acc = join(acc, c->n_in > 1 ? x * ad_get(&c->in[1], o) : x);
        }
        ad_set(out, i, acc);
    }
}

static void eval_sum(const struct ad_call *c)
{
    fold(c, add, 0);
}
static void eval_max(const struct ad_call *c)
{
    fold(c, larger, -INFINITY);
}
static void eval_min(const struct ad_call *c)
{
    fold(c, smaller, INFINITY);
}

/* v, reduced from x, as (…, 1, …): ready to broadcast against x. */
static val keep_axes(struct ad_graph *g, val v, val x, uint32_t axes)
{
    return ad_reshape(g, v, reduced(ad_shape_of(g, x), axes, true));
}

static void vjp_sum(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    val x = n->in[0];
    dx[0] = ad_broadcast(g, keep_axes(g, dy[0], x, ((const struct ad_reduce_attr *)n->attr)->axes), ad_shape_of(g, x));
}

/* dy / (how many are equal), where equal. */
static void vjp_extreme(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    val x = n->in[0];
    uint32_t axes = ((const struct ad_reduce_attr *)n->attr)->axes;
    val hit = ad_equal(g, x, keep_axes(g, n->out, x, axes));
    dx[0] = ad_mul(g, hit, ad_div(g, keep_axes(g, dy[0], x, axes), ad_sum(g, hit, axes, true)));
}

static double flops_reduce(const struct ad_call *c)
{
    return (double)ad_count(c->in[0].shape);
}

#define CASES(name)                                                                                     \
    static int build_##name(struct ad_graph *g, const val *in, val *out)                                \
    {                                                                                                   \
        out[0] = ad_##name(g, in[0], 5, false);                                                         \
        out[1] = ad_##name(g, in[0], 2, true);                                                          \
        out[2] = ad_##name(g, in[0], 7, false);                                                         \
        out[3] = ad_##name(g, ad_swap(g, in[0], 0, 2), 6, false);                                       \
        return 4;                                                                                       \
    }                                                                                                   \
    static const struct ad_case cases_##name[] = {{.in = "2x3x4", .build = build_##name, .apart = 0.1}, \
                                                  {.in = "1x5x1", .build = build_##name, .apart = 0.1}};

CASES(sum)
CASES(max)
CASES(min)

/* sum: an empty sum is 0. Any dtype. */
const struct ad_op ad_op_sum = {.name = "sum",
                                .attr_size = sizeof(struct ad_reduce_attr),
                                .flags = AD_STRIDED,
                                .min_in = 1,
                                .max_in = 1,
                                .infer = infer_reduce,
                                .eval = eval_sum,
                                .vjp = vjp_sum,
                                .flops = flops_reduce,
                                AD_CASES(cases_sum)};

/* ---- sum_products: of a b over the axes of a mask; a and b of one shape ------------------------------------------- */

static int infer_sum_products(struct ad_infer *f)
{
    char a[96], b[96];
    if (!ad_same_shape(f->in_shape[0], f->in_shape[1]) || f->in_dtype[0] != f->in_dtype[1])
        return ad_infer_fail(f, "it needs two of one shape and type, not %s %s and %s %s",
                             ad_dtype_name(f->in_dtype[0]), ad_shape_text(a, f->in_shape[0]),
                             ad_dtype_name(f->in_dtype[1]), ad_shape_text(b, f->in_shape[1]));
    return infer_reduce(f);
}

static void vjp_sum_products(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    val d = keep_axes(g, dy[0], n->in[0], ((const struct ad_reduce_attr *)n->attr)->axes);
    for (int i = 0; i < 2; i++) dx[i] = ad_mul(g, d, n->in[!i]);
}

static double flops_sum_products(const struct ad_call *c)
{
    return 2 * (double)ad_count(c->in[0].shape);
}

static int build_sum_products(struct ad_graph *g, const val *in, val *out)
{
    static const struct ad_reduce_attr attr[] = {{2, false}, {3, true}, {5, false}, {7, false}};
    for (int i = 0; i < 4; i++) out[i] = AD_NODE(g, &ad_op_sum_products, &attr[i], in[0], in[1]);
    return 4;
}
static const struct ad_case cases_sum_products[] = {{.in = "2x3x4 2x3x4", .build = build_sum_products},
                                                    {.in = "1x5x1 1x5x1", .build = build_sum_products}};

const struct ad_op ad_op_sum_products = {.name = "sum_products",
                                         .attr_size = sizeof(struct ad_reduce_attr),
                                         .min_in = 2,
                                         .max_in = 2,
                                         .infer = infer_sum_products,
                                         .eval = eval_sum,
                                         .vjp = vjp_sum_products,
                                         .flops = flops_sum_products,
                                         AD_CASES(cases_sum_products)};

/* max, min: a NaN wins. Error: an axis with nothing in it. */
const struct ad_op ad_op_max = {.name = "max",
                                .attr_size = sizeof(struct ad_reduce_attr),
                                .flags = AD_STRIDED,
                                .min_in = 1,
                                .max_in = 1,
                                .infer = infer_extreme,
                                .eval = eval_max,
                                .vjp = vjp_extreme,
                                .flops = flops_reduce,
                                AD_CASES(cases_max)};
const struct ad_op ad_op_min = {.name = "min",
                                .attr_size = sizeof(struct ad_reduce_attr),
                                .flags = AD_STRIDED,
                                .min_in = 1,
                                .max_in = 1,
                                .infer = infer_extreme,
                                .eval = eval_min,
                                .vjp = vjp_extreme,
                                .flops = flops_reduce,
                                AD_CASES(cases_min)};

static val reduce(struct ad_graph *g, const struct ad_op *op, val x, unsigned axes, bool keep)
{
    if (!x) return 0;
    struct ad_shape s = ad_shape_of(g, x), to = reduced(s, axes, keep);
    bool trivial = !(axes >> s.rank);
    for (int i = 0; i < s.rank; i++) trivial &= !(axes >> i & 1) || s.dim[i] == 1;
    return trivial ? ad_reshape(g, x, to) : AD_NODE(g, op, (&(struct ad_reduce_attr){axes, keep}), x);
}

val ad_sum(struct ad_graph *g, val x, unsigned axes, bool keep)
{
    return reduce(g, &ad_op_sum, x, axes, keep);
}
val ad_max(struct ad_graph *g, val x, unsigned axes, bool keep)
{
    return reduce(g, &ad_op_max, x, axes, keep);
}
val ad_min(struct ad_graph *g, val x, unsigned axes, bool keep)
{
    return reduce(g, &ad_op_min, x, axes, keep);
}

val ad_mean(struct ad_graph *g, val x, unsigned axes, bool keep)
{
    struct ad_shape s = ad_shape_of(g, x);
    int64_t n = 1;
    for (int i = 0; i < s.rank; i++)
        if (axes >> i & 1) n *= s.dim[i];
    if (x && n == 0) return ad_fail(g, "mean of nothing: an axis is empty");
    return ad_scale(g, ad_sum(g, x, axes, keep), 1.0 / (double)n);
}

static unsigned all_axes(const struct ad_graph *g, val x)
{
    return (1u << ad_rank(g, x)) - 1;
}
static unsigned last_axis(const struct ad_graph *g, val x)
{
    return ad_rank(g, x) ? 1u << (ad_rank(g, x) - 1) : 0;
}
val ad_sum_all(struct ad_graph *g, val x)
{
    return ad_sum(g, x, all_axes(g, x), false);
}
val ad_mean_all(struct ad_graph *g, val x)
{
    return ad_mean(g, x, all_axes(g, x), false);
}
val ad_sum_last(struct ad_graph *g, val x)
{
    return ad_sum(g, x, last_axis(g, x), true);
}
val ad_mean_last(struct ad_graph *g, val x)
{
    return ad_mean(g, x, last_axis(g, x), true);
}

/* The axes along which s was broadcast to the shape of x. */
static int axes_to(struct ad_graph *g, val x, struct ad_shape s, unsigned *axes)
{
    struct ad_shape from = ad_shape_of(g, x), both;
    char a[96], b[96];
    if (!ad_broadcast_shape(from, s, &both) || !ad_same_shape(both, from)) {
        ad_fail(g, "sum_to: %s does not broadcast to %s", ad_shape_text(a, s), ad_shape_text(b, from));
        return -1;
    }
    *axes = 0;
    for (int i = 0; i < from.rank; i++) {
        int k = i - (from.rank - s.rank);
        if (k < 0 || (s.dim[k] == 1 && from.dim[i] != 1)) *axes |= 1u << i;
    }
    return 0;
}

val ad_sum_to(struct ad_graph *g, val x, struct ad_shape s)
{
    unsigned axes;
    if (!x || ad_same_shape(ad_shape_of(g, x), s)) return x;
    return axes_to(g, x, s, &axes) ? 0 : ad_reshape(g, ad_sum(g, x, axes, true), s);
}

val ad_sum_products_to(struct ad_graph *g, val a, val b, struct ad_shape s)
{
    unsigned axes;
    if (!a || !b) return 0;
    struct ad_shape whole = ad_shape_of(g, a);
    bool over_rows =
        whole.rank && s.rank && s.dim[s.rank - 1] > 1 && ad_count(s) < ad_count(whole); /* not along them */
    if (!over_rows || !ad_is_float(ad_dtype_of(g, a)) || !ad_same_shape(ad_shape_of(g, b), whole))
        return ad_sum_to(g, ad_mul(g, a, b), s);
    if (axes_to(g, a, s, &axes)) return 0;
    return ad_reshape(g, AD_NODE(g, &ad_op_sum_products, (&(struct ad_reduce_attr){axes, true}), a, b), s);
}

/* ---- argmax: int32, the first of equals, a NaN before all; the axis goes. Error: the axis is empty --------------- */

/* The lines along an axis: element j of line i is at start(i) + j * step, in contiguous memory. */
struct lines {
    int64_t n, count, step;
};

static struct lines lines_of(struct ad_shape s, int64_t axis)
{
    struct lines l = {.n = 1, .count = s.dim[axis], .step = 1};
    for (int i = 0; i < s.rank; i++)
        if (i != axis) l.n *= s.dim[i];
    for (int64_t i = axis + 1; i < s.rank; i++) l.step *= s.dim[i];
    return l;
}

static int64_t line_start(const struct lines *l, int64_t i)
{
    return i / l->step * l->count * l->step + i % l->step;
}

static int infer_argmax(struct ad_infer *f)
{
    int64_t axis = ((const struct ad_axis_attr *)f->attr)->axis;
    if (f->in_shape[0].dim[axis] == 0) return ad_infer_fail(f, "axis %lld is empty", (long long)axis);
    f->shape[0] = reduced(f->in_shape[0], 1u << axis, false);
    f->dtype[0] = AD_I32;
    return 0;
}

static void eval_argmax(const struct ad_call *c)
{
    struct lines l = lines_of(c->in[0].shape, ((const struct ad_axis_attr *)c->attr)->axis);
    for (int64_t i = 0; i < l.n; i++) {
        int64_t at = line_start(&l, i), best = 0;
        double top = ad_get(&c->in[0], at);
        for (int64_t j = 1; j < l.count && !isnan(top); j++) {
            double x = ad_get(&c->in[0], at + j * l.step);
            if (x > top || isnan(x)) top = x, best = j;
        }
        ad_set(&c->out[0], i, (double)best);
    }
}

static int build_argmax(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_cast(g, ad_argmax(g, in[0], 0), AD_F64);
    out[1] = ad_cast(g, ad_argmax(g, in[0], -1), AD_F64);
    return 2;
}
static const struct ad_case cases_argmax[] = {
    {.in = "3x4", .build = build_argmax, .apart = 0.1, .no_gradient = "an index"}};

const struct ad_op ad_op_argmax = {.name = "argmax",
                                   .attr_size = sizeof(struct ad_axis_attr),
                                   .min_in = 1,
                                   .max_in = 1,
                                   .infer = infer_argmax,
                                   .eval = eval_argmax,
                                   .vjp = ad_vjp_none,
                                   .flops = flops_reduce,
                                   AD_CASES(cases_argmax)};

val ad_argmax(struct ad_graph *g, val x, int axis)
{
    int k;
    return ad_axis(g, "argmax", x, axis, &k) ? AD_NODE(g, &ad_op_argmax, (&(struct ad_axis_attr){k, 0}), x) : 0;
}

/* ---- cumsum: y_j = x_0 + ... + x_j along an axis; reverse: x_j + ... + x_last. Each is the other's adjoint ------- */

static int infer_same(struct ad_infer *f)
{
    f->shape[0] = f->in_shape[0];
    return 0;
}

static void eval_cumsum(const struct ad_call *c)
{
    const struct ad_axis_attr *a = c->attr;
    struct lines l = lines_of(c->in[0].shape, a->axis);
    for (int64_t i = 0; i < l.n; i++) {
        int64_t at = line_start(&l, i);
        double sum = 0;
        for (int64_t j = 0; j < l.count; j++) {
            int64_t k = at + (a->flag ? l.count - 1 - j : j) * l.step;
            sum += ad_get(&c->in[0], k);
            ad_set(&c->out[0], k, sum);
        }
    }
}

static void vjp_cumsum(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    const struct ad_axis_attr *a = n->attr;
    dx[0] = ad_cumsum(g, dy[0], (int)a->axis, !a->flag);
}

static int build_cumsum(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_cumsum(g, in[0], 0, false);
    out[1] = ad_cumsum(g, in[0], -1, true);
    return 2;
}
static const struct ad_case cases_cumsum[] = {{.in = "3x4x2", .build = build_cumsum},
                                              {.in = "5", .build = build_cumsum}};

const struct ad_op ad_op_cumsum = {.name = "cumsum",
                                   .attr_size = sizeof(struct ad_axis_attr),
                                   .min_in = 1,
                                   .max_in = 1,
                                   .infer = infer_same,
                                   .eval = eval_cumsum,
                                   .vjp = vjp_cumsum,
                                   AD_CASES(cases_cumsum)};

val ad_cumsum(struct ad_graph *g, val x, int axis, bool reverse)
{
    int k;
    return ad_axis(g, "cumsum", x, axis, &k) ? AD_NODE(g, &ad_op_cumsum, (&(struct ad_axis_attr){k, reverse}), x) : 0;
}

/* ---- logsumexp: y = m + log sum exp(x - m), m = max x. All -inf gives -inf. Error: the axis is empty ------------- */

static int infer_logsumexp(struct ad_infer *f)
{
    const struct ad_axis_attr *a = f->attr;
    if (!ad_is_float(f->in_dtype[0])) return ad_infer_fail(f, "it needs f32 or f64 numbers");
    if (f->in_shape[0].dim[a->axis] == 0) return ad_infer_fail(f, "axis %lld is empty", (long long)a->axis);
    f->shape[0] = reduced(f->in_shape[0], 1u << a->axis, a->flag);
    return 0;
}

static void eval_logsumexp(const struct ad_call *c)
{
    struct lines l = lines_of(c->in[0].shape, ((const struct ad_axis_attr *)c->attr)->axis);
    for (int64_t i = 0; i < l.n; i++) {
        int64_t at = line_start(&l, i);
        double m = -INFINITY, sum = 0;
        for (int64_t j = 0; j < l.count; j++) m = larger(m, ad_get(&c->in[0], at + j * l.step));
        double base = isinf(m) ? 0 : m;
        for (int64_t j = 0; j < l.count; j++) sum += exp(ad_get(&c->in[0], at + j * l.step) - base);
        ad_set(&c->out[0], i, base + log(sum));
    }
}

/* dx = dy exp(x - y); where y is -inf nothing flows. */
static void vjp_logsumexp(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    val x = n->in[0];
    uint32_t axes = 1u << ((const struct ad_axis_attr *)n->attr)->axis;
    val y = keep_axes(g, n->out, x, axes), finite = ad_where(g, ad_is_finite(g, y), y, ad_number_like(g, y, 0));
    dx[0] = ad_mul(g, keep_axes(g, dy[0], x, axes), ad_exp(g, ad_sub(g, x, finite)));
}

static int build_logsumexp(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_logsumexp(g, in[0], -1, true);
    out[1] = ad_logsumexp(g, in[0], 0, false);
    return 2;
}
static const struct ad_case cases_logsumexp[] = {{.in = "3x4", .build = build_logsumexp},
                                                 {.in = "2x3x2", .build = build_logsumexp, .lo = -9, .hi = 9}};

static double flops_exp(const struct ad_call *c)
{
    return 10 * (double)ad_count(c->in[0].shape);
}

const struct ad_op ad_op_logsumexp = {.name = "logsumexp",
                                      .attr_size = sizeof(struct ad_axis_attr),
                                      .min_in = 1,
                                      .max_in = 1,
                                      .infer = infer_logsumexp,
                                      .eval = eval_logsumexp,
                                      .vjp = vjp_logsumexp,
                                      .flops = flops_exp,
                                      AD_CASES(cases_logsumexp)};

val ad_logsumexp(struct ad_graph *g, val x, int axis, bool keep)
{
    int k;
    return ad_axis(g, "logsumexp", x, axis, &k) ? AD_NODE(g, &ad_op_logsumexp, (&(struct ad_axis_attr){k, keep}), x)
                                                : 0;
}

/* ---- top_k: the k largest of the last axis in falling order, NaN first, the lower index first among equals
 *   x (..., C) -> values (..., k), index (..., k) int32.   Error: k is not in 1 .. C */

static int infer_top_k(struct ad_infer *f)
{
    int64_t k = ((const struct ad_axis_attr *)f->attr)->flag;
    struct ad_shape s = f->in_shape[0];
    if (s.rank < 1 || k < 1 || k > s.dim[s.rank - 1])
        return ad_infer_fail(f, "k is %lld; it must be from 1 to the last dimension", (long long)k);
    s.dim[s.rank - 1] = k;
    f->n_out = 2;
    f->shape[0] = f->shape[1] = s;
    f->dtype[1] = AD_I32;
    return 0;
}

static bool before(double a, double b)
{
    return isnan(a) ? !isnan(b) : a > b;
}

/* Insertion into a sorted list of at most k: k is small. */
static void eval_top_k(const struct ad_call *c)
{
    int64_t k = ((const struct ad_axis_attr *)c->attr)->flag, width = c->in[0].shape.dim[c->in[0].shape.rank - 1];
    int64_t rows = ad_count(c->in[0].shape) / width;
    for (int64_t r = 0; r < rows; r++) {
        int64_t have = 0;
        for (int64_t i = 0; i < width; i++) {
            double x = ad_get(&c->in[0], r * width + i);
            if (have == k && !before(x, ad_get(&c->out[0], r * k + k - 1))) continue;
            int64_t at = have < k ? have++ : k - 1;
            for (; at > 0 && before(x, ad_get(&c->out[0], r * k + at - 1)); at--) {
                ad_set(&c->out[0], r * k + at, ad_get(&c->out[0], r * k + at - 1));
                ad_set(&c->out[1], r * k + at, ad_get(&c->out[1], r * k + at - 1));
            }
            ad_set(&c->out[0], r * k + at, x);
            ad_set(&c->out[1], r * k + at, (double)i);
        }
    }
}

/* Each value's gradient goes back to the place that its index names. */
static void vjp_top_k(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    if (!dy[0]) return;
    int rank = ad_rank(g, n->in[0]);
    val place = ad_one_hot(g, ad_out(n, 1), ad_dim(g, n->in[0], -1), ad_dtype_of(g, n->in[0])); /* (..., k, C) */
    dx[0] = ad_sum(g, ad_mul(g, place, ad_add_last(g, dy[0])), 1u << (rank - 1), false);
}

static int build_top_k(struct ad_graph *g, const val *in, val *out)
{
    val index;
    out[0] = ad_top_k(g, in[0], 3, &index);
    out[1] = ad_cast(g, index, AD_F64);
    return 2;
}
static const struct ad_case cases_top_k[] = {{.in = "3x5", .build = build_top_k, .apart = 0.1},
                                             {.in = "3", .build = build_top_k, .apart = 0.1}};

const struct ad_op ad_op_top_k = {.name = "top_k",
                                  .attr_size = sizeof(struct ad_axis_attr),
                                  .min_in = 1,
                                  .max_in = 1,
                                  .infer = infer_top_k,
                                  .eval = eval_top_k,
                                  .vjp = vjp_top_k,
                                  .flops = flops_reduce,
                                  AD_CASES(cases_top_k)};

val ad_top_k(struct ad_graph *g, val x, int64_t k, val *index)
{
    val v = AD_NODE(g, &ad_op_top_k, (&(struct ad_axis_attr){0, k}), x);
    if (index) *index = v ? v + 1 : 0;
    return v;
}
