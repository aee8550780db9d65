/* Ops that copy their inputs into a larger output: concat and pad. Inputs have any strides and any dtype. */
#include "autograd/ops/shape.h"

#include <limits.h>

#include "autograd/ops/common.h"

extern const struct ad_op ad_op_concat, ad_op_pad;

/* ---- concat: inputs of one dtype one after another along an axis ------------------------------------------------- */

static int infer_concat(struct ad_infer *f)
{
    int64_t axis = ((const struct ad_along_attr *)f->attr)->axis;
    struct ad_shape s = f->in_shape[0];
    char text[96];
    for (int i = 1; i < f->n_in; i++) {
        struct ad_shape t = ad_shape_of(f->g, f->in[i]), like = s;
        if (t.rank > axis) like.dim[axis] = t.dim[axis];
        if (!ad_same_shape(like, t) || ad_dtype_of(f->g, f->in[i]) != f->in_dtype[0])
            return ad_infer_fail(f, "input %d, %s %s, must be like the first but for axis %lld", i,
                                 ad_shape_text(text, t), ad_dtype_name(ad_dtype_of(f->g, f->in[i])), (long long)axis);
        s.dim[axis] += t.dim[axis];
    }
    f->shape[0] = s;
    return 0;
}

/* Writes `in` into the part of the contiguous `out` that begins at `from` along `axis` and goes on by `step`. */
static void put(const struct ad_tensor *in, const struct ad_tensor *out, int axis, int64_t from, int64_t step)
{
    struct ad_tensor to = *out;
    int64_t n = ad_count(in->shape), at[AD_MAX_DIMS] = {0};
    ad_default_strides(&to);
    int64_t base = from * to.stride[axis];
    to.stride[axis] *= step;
    for (int64_t i = 0; i < n; i++, ad_next(in->shape, at)) {
        int64_t a = ad_offset_of(in, at), b = base;
        for (int d = 0; d < in->shape.rank; d++) b += at[d] * to.stride[d];
        if (ad_is_int(to.dtype))
            ad_set(&to, b, (double)ad_get_int(in, a));
        else
            ad_set(&to, b, ad_get(in, a));
    }
}

static void eval_concat(const struct ad_call *c)
{
    int axis = (int)((const struct ad_along_attr *)c->attr)->axis;
    int64_t from = 0;
    for (int i = 0; i < c->n_in; i++) {
        put(&c->in[i], &c->out[0], axis, from, 1); /* what lies there already is put where it is */
        from += c->in[i].shape.dim[axis];
    }
}

static void part_concat(const struct ad_graph *g, const struct ad_node *n, int i, struct ad_tensor *t, int64_t *offset)
{
    int axis = (int)((const struct ad_along_attr *)n->attr)->axis;
    for (int k = 0; k < i; k++) *offset += ad_dim(g, n->in[k], axis) * t->stride[axis];
    t->shape = ad_shape_of(g, n->in[i]);
}

static void vjp_concat(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    int axis = (int)((const struct ad_along_attr *)n->attr)->axis;
    int64_t from = 0;
    for (int i = 0; i < n->n_in; i++) {
        int64_t size = ad_dim(g, n->in[i], axis);
        dx[i] = ad_slice(g, dy[0], axis, from, from + size, 1);
        from += size;
    }
}

static int build_concat(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_concat(g, in, 3, 1);
    out[1] = ad_concat(g, (const val[]){ad_swap(g, in[0], 0, 1), ad_swap(g, in[0], 0, 1)}, 2, 0);
    return 2;
}
static const struct ad_case cases_concat[] = {{.in = "2x3 2x1 2x4", .build = build_concat},
                                              {.in = "3x1x2 3x2x2 3x0x2", .build = build_concat}};

const struct ad_op ad_op_concat = {.name = "concat",
                                   .attr_size = sizeof(struct ad_along_attr),
                                   .flags = AD_STRIDED | AD_MOVES,
                                   .min_in = 1,
                                   .max_in = INT_MAX,
                                   .half = 1,
                                   .infer = infer_concat,
                                   .eval = eval_concat,
                                   .vjp = vjp_concat,
                                   .part = part_concat,
                                   .flops = ad_flops_none,
                                   AD_CASES(cases_concat)};

val ad_concat(struct ad_graph *g, const val *x, int n, int axis)
{
    int k;
    if (n < 1) return ad_fail(g, "concat of no inputs");
    if (!ad_axis(g, "concat", x[0], axis, &k)) return 0;
    return n == 1 ? x[0] : ad_node(g, &ad_op_concat, &(struct ad_along_attr){k}, x, n);
}

/* ---- pad: `before` and `after` elements of `value` at the ends of one axis --------------------------------------- */

static int infer_pad(struct ad_infer *f)
{
    const struct ad_pad_attr *p = f->attr;
    int64_t n = f->in_shape[0].dim[p->axis];
    if (p->before < 0 || p->after < 0)
        return ad_infer_fail(f, "it cannot take %lld and %lld elements away; slice does", (long long)p->before,
                             (long long)p->after);
    f->shape[0] = f->in_shape[0];
    f->shape[0].dim[p->axis] = p->before + (n ? (n - 1) * p->step + 1 : 0) + p->after;
    return 0;
}

static void eval_pad(const struct ad_call *c)
{
    const struct ad_pad_attr *p = c->attr;
    int64_t n = ad_count(c->out[0].shape);
    for (int64_t i = 0; i < n; i++) ad_set(&c->out[0], i, p->value);
    put(&c->in[0], &c->out[0], (int)p->axis, p->before, p->step);
}

static void vjp_pad(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    const struct ad_pad_attr *p = n->attr;
    int64_t size = ad_dim(g, n->in[0], (int)p->axis), last = size ? p->before + (size - 1) * p->step + 1 : p->before;
    dx[0] = ad_slice(g, dy[0], (int)p->axis, p->before, last, p->step);
}

static int build_pad(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_pad(g, in[0], 1, 2, 1, 0.5);
    out[1] = ad_pad(g, ad_swap(g, in[0], 0, 1), -1, 0, 3, 0);
    return 2;
}
static const struct ad_case cases_pad[] = {{.in = "2x3", .build = build_pad}, {.in = "2x1x3", .build = build_pad}};

const struct ad_op ad_op_pad = {.name = "pad",
                                .attr_size = sizeof(struct ad_pad_attr),
                                .flags = AD_STRIDED | AD_MOVES,
                                .min_in = 1,
                                .max_in = 1,
                                .half = 1,
                                .infer = infer_pad,
                                .eval = eval_pad,
                                .vjp = vjp_pad,
                                .flops = ad_flops_none,
                                AD_CASES(cases_pad)};

val ad_spread(struct ad_graph *g, val x, int axis, int64_t before, int64_t after, int64_t step, double value)
{
    int k;
    if (!ad_axis(g, "pad", x, axis, &k)) return 0;
    return before == 0 && after == 0 && step == 1
               ? x
               : AD_NODE(g, &ad_op_pad, (&(struct ad_pad_attr){k, before, after, step, value}), x);
}

val ad_pad(struct ad_graph *g, val x, int axis, int64_t before, int64_t after, double value)
{
    return ad_spread(g, x, axis, before, after, 1, value);
}
