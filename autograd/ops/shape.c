/* Ops that move numbers without changing them: reshape, transpose, broadcast, slice, split, flip are views, which cost
 * nothing where the reader takes strides. All take inputs with any strides, of any dtype. What copies is in join.c. */
#include "autograd/ops/shape.h"

#include <string.h>

#include "autograd/ops/common.h"

extern const struct ad_op ad_op_reshape, ad_op_transpose, ad_op_broadcast, ad_op_slice, ad_op_split, ad_op_flip;

/* Copies element by element, in row order of both; `from` has any strides, `to` is contiguous. */
static void copy_rows(const struct ad_tensor *from, const struct ad_tensor *to)
{
    int64_t n = ad_count(from->shape), at[AD_MAX_DIMS] = {0};
    for (int64_t i = 0; i < n; i++, ad_next(from->shape, at)) {
        int64_t o = ad_offset_of(from, at);
        if (ad_is_int(to->dtype))
            ad_set(to, i, (double)ad_get_int(from, o));
        else
            ad_set(to, i, ad_get(from, o));
    }
}

/* The eval of a view op: looks through the view and copies what is seen. */
static void eval_view(const struct ad_call *c)
{
    for (int k = 0; k < c->n_out; k++) {
        struct ad_tensor seen = c->out[k];
        int64_t offset = 0;
        CHECK(c->op->view(&c->in[0], c->attr, k, &seen, &offset));
        seen.data = (char *)c->in[0].data + offset * (int64_t)ad_dtype_size(seen.dtype);
        copy_rows(&seen, &c->out[k]);
    }
}

/* ---- reshape: the same numbers in row order under another shape; one dimension may be -1 ------------------------- */

static int infer_reshape(struct ad_infer *f)
{
    struct ad_shape to = *(const struct ad_shape *)f->attr;
    char text[96];
    int64_t known = 1, n = ad_count(f->in_shape[0]);
    int open = -1;
    for (int i = 0; i < to.rank; i++) {
        if (to.dim[i] >= 0)
            known *= to.dim[i];
        else if (open >= 0 || to.dim[i] < -1)
            return ad_infer_fail(f, "%s cannot be a shape", ad_shape_text(text, to));
        else
            open = i;
    }
    if (open >= 0 && known > 0) to.dim[open] = n / known;
    if (ad_count(to) != n)
        return ad_infer_fail(f, "%lld numbers do not fill the shape %s", (long long)n,
                             ad_shape_text(text, *(const struct ad_shape *)f->attr));
    f->shape[0] = to;
    return 0;
}

/* Groups of axes with equal products correspond; a group keeps to a view if the input's axes in it lie evenly. */
static bool view_reshape(const struct ad_tensor *in, const void *attr, int index, struct ad_tensor *out,
                         int64_t *offset)
{
    int64_t dim[AD_MAX_DIMS], stride[AD_MAX_DIMS];
    int n = 0, rank = out->shape.rank;
    for (int i = 0; i < in->shape.rank; i++) {
        if (in->shape.dim[i] == 1) continue;
        dim[n] = in->shape.dim[i];
        stride[n++] = in->stride[i];
    }
    ad_default_strides(out);
    if (ad_count(out->shape) == 0) return true;
    for (int i = 0, j = 0; i < n;) {
        int first_in = i, first_out = j;
        int64_t a = dim[i++], b = out->shape.dim[j++];
        while (a != b) {
            if (a < b)
                a *= dim[i++];
            else
                b *= out->shape.dim[j++];
        }
        while (i == n && j < rank) j++; /* trailing ones */
        for (int k = first_in; k + 1 < i; k++)
            if (stride[k] != stride[k + 1] * dim[k + 1]) return false;
        int64_t s = stride[i - 1];
        for (int k = j - 1; k >= first_out; k--) {
            out->stride[k] = s;
            s *= out->shape.dim[k];
        }
    }
    return true;
}

/* A view may be impossible, so the copy reads the input in row order itself. */
static void eval_reshape(const struct ad_call *c)
{
    copy_rows(&c->in[0], &c->out[0]);
}

static void vjp_reshape(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    dx[0] = ad_reshape(g, dy[0], ad_shape_of(g, n->in[0]));
}

static int build_reshape(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_reshape(g, in[0], SHAPE(2, -1));
    out[1] = ad_reshape(g, ad_swap(g, ad_reshape(g, in[0], SHAPE(3, 4)), 0, 1), SHAPE(2, 1, 2, 3));
    out[2] = ad_reshape(g, ad_swap(g, ad_reshape(g, in[0], SHAPE(3, 4)), 0, 1), SHAPE(-1));
    return 3;
}
static const struct ad_case cases_reshape[] = {{.in = "3x2x2", .build = build_reshape},
                                               {.in = "12x1", .build = build_reshape}};

const struct ad_op ad_op_reshape = {.name = "reshape",
                                    .attr_size = sizeof(struct ad_shape),
                                    .flags = AD_STRIDED,
                                    .min_in = 1,
                                    .max_in = 1,
                                    .infer = infer_reshape,
                                    .eval = eval_reshape,
                                    .view = view_reshape,
                                    .vjp = vjp_reshape,
                                    AD_CASES(cases_reshape)};

val ad_reshape(struct ad_graph *g, val x, struct ad_shape s)
{
    struct ad_shape attr;
    if (!x) return 0;
    if (ad_node_of(g, x)->op == &ad_op_reshape && !ad_same_shape(s, ad_shape_of(g, x))) x = ad_node_of(g, x)->in[0];
    if (ad_same_shape(s, ad_shape_of(g, x))) return x;
    CHECK_MSG(s.rank >= 0 && s.rank <= AD_MAX_DIMS, "reshape to rank %d", s.rank);
    ad_attr_shape(&attr, s);
    return AD_NODE(g, &ad_op_reshape, &attr, x);
}

/* ---- transpose: output axis i is input axis perm[i] -------------------------------------------------------------- */

struct perm {
    int32_t axis[AD_MAX_DIMS];
};

static int infer_transpose(struct ad_infer *f)
{
    const struct perm *p = f->attr;
    unsigned seen = 0;
    struct ad_shape s = f->in_shape[0];
    for (int i = 0; i < s.rank; i++) {
        if (p->axis[i] < 0 || p->axis[i] >= s.rank || seen >> p->axis[i] & 1)
            return ad_infer_fail(f, "the order must name each of the %d axes once", s.rank);
        seen |= 1u << p->axis[i];
        f->shape[0].dim[i] = s.dim[p->axis[i]];
    }
    f->shape[0].rank = s.rank;
    return 0;
}

static bool view_transpose(const struct ad_tensor *in, const void *attr, int index, struct ad_tensor *out,
                           int64_t *offset)
{
    for (int i = 0; i < in->shape.rank; i++) out->stride[i] = in->stride[((const struct perm *)attr)->axis[i]];
    return true;
}

static void vjp_transpose(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    int back[AD_MAX_DIMS] = {0};
    for (int i = 0; i < ad_rank(g, n->out); i++) back[((const struct perm *)n->attr)->axis[i]] = i;
    dx[0] = ad_transpose(g, dy[0], back);
}

static int build_transpose(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_transpose(g, in[0], (const int[]){2, 0, 1});
    out[1] = ad_sub(g, ad_swap(g, in[0], 0, -1), out[0]);
    return 2;
}
static const struct ad_case cases_transpose[] = {{.in = "3x3x3", .build = build_transpose},
                                                 {.in = "1x1x1", .build = build_transpose}};

const struct ad_op ad_op_transpose = {.name = "transpose",
                                      .attr_size = sizeof(struct perm),
                                      .flags = AD_STRIDED,
                                      .min_in = 1,
                                      .max_in = 1,
                                      .infer = infer_transpose,
                                      .eval = eval_view,
                                      .view = view_transpose,
                                      .vjp = vjp_transpose,
                                      AD_CASES(cases_transpose)};

val ad_transpose(struct ad_graph *g, val x, const int *perm)
{
    struct perm p;
    memset(&p, 0, sizeof p);
    bool same = true;
    for (int i = 0; i < ad_rank(g, x); i++) {
        p.axis[i] = perm[i];
        same &= perm[i] == i;
    }
    return same ? x : AD_NODE(g, &ad_op_transpose, &p, x);
}

val ad_swap(struct ad_graph *g, val x, int axis_a, int axis_b)
{
    int a, b, perm[AD_MAX_DIMS] = {0, 1, 2, 3, 4, 5};
    if (!ad_axis(g, "swap", x, axis_a, &a) || !ad_axis(g, "swap", x, axis_b, &b)) return 0;
    perm[a] = b;
    perm[b] = a;
    return ad_transpose(g, x, perm);
}

/* ---- broadcast to a larger shape, as NumPy does ------------------------------------------------------------------ */

static int infer_broadcast(struct ad_infer *f)
{
    struct ad_shape to = *(const struct ad_shape *)f->attr, s;
    char text[96];
    if (!ad_broadcast_shape(f->in_shape[0], to, &s) || !ad_same_shape(s, to))
        return ad_infer_fail(f, "it cannot be broadcast to %s", ad_shape_text(text, to));
    f->shape[0] = to;
    return 0;
}

static bool view_broadcast(const struct ad_tensor *in, const void *attr, int index, struct ad_tensor *out,
                           int64_t *offset)
{
    ad_broadcast_strides(in, out->shape, out->stride);
    return true;
}

static void vjp_broadcast(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    dx[0] = ad_sum_to(g, dy[0], ad_shape_of(g, n->in[0]));
}

static int build_broadcast(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_broadcast(g, in[0], SHAPE(2, 3, 4));
    return 1;
}
static const struct ad_case cases_broadcast[] = {{.in = "3x1", .build = build_broadcast},
                                                 {.in = "()", .build = build_broadcast},
                                                 {.in = "2x1x4", .build = build_broadcast}};

const struct ad_op ad_op_broadcast = {.name = "broadcast",
                                      .attr_size = sizeof(struct ad_shape),
                                      .flags = AD_STRIDED,
                                      .min_in = 1,
                                      .max_in = 1,
                                      .infer = infer_broadcast,
                                      .eval = eval_view,
                                      .view = view_broadcast,
                                      .vjp = vjp_broadcast,
                                      AD_CASES(cases_broadcast)};

val ad_broadcast(struct ad_graph *g, val x, struct ad_shape s)
{
    struct ad_shape attr;
    if (x && ad_same_shape(s, ad_shape_of(g, x))) return x;
    ad_attr_shape(&attr, s);
    return AD_NODE(g, &ad_op_broadcast, &attr, x);
}

/* ---- slice: elements start, start + step ... before stop of one axis. Negative start and stop count from the end */

struct slice {
    int64_t axis, start, stop, step;
};

static int infer_slice(struct ad_infer *f)
{
    const struct slice *s = f->attr;
    int64_t n = f->in_shape[0].dim[s->axis];
    if (s->step < 1 || s->start < 0 || s->stop < s->start || s->stop > n)
        return ad_infer_fail(f, "%lld:%lld:%lld is not a range of axis %lld, which has %lld", (long long)s->start,
                             (long long)s->stop, (long long)s->step, (long long)s->axis, (long long)n);
    f->shape[0] = f->in_shape[0];
    f->shape[0].dim[s->axis] = (s->stop - s->start + s->step - 1) / s->step;
    return 0;
}

static bool view_slice(const struct ad_tensor *in, const void *attr, int index, struct ad_tensor *out, int64_t *offset)
{
    const struct slice *s = attr;
    memcpy(out->stride, in->stride, sizeof out->stride);
    out->stride[s->axis] *= s->step;
    *offset = s->start * in->stride[s->axis];
    return true;
}

static void vjp_slice(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    const struct slice *s = n->attr;
    int64_t count = ad_dim(g, n->out, (int)s->axis), last = count ? s->start + (count - 1) * s->step + 1 : s->start;
    dx[0] = ad_spread(g, dy[0], (int)s->axis, s->start, ad_dim(g, n->in[0], (int)s->axis) - last, s->step, 0);
}

static int build_slice(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_slice(g, in[0], 0, 1, 4, 1);
    out[1] = ad_slice(g, in[0], 1, 1, -1, 2);
    out[2] = ad_slice(g, in[0], -1, 2, 2, 1);
    out[3] = ad_slice(g, ad_swap(g, in[0], 0, 1), 1, -3, 5, 3);
    return 4;
}
static const struct ad_case cases_slice[] = {{.in = "5x6", .build = build_slice},
                                             {.in = "5x7x2", .build = build_slice}};

const struct ad_op ad_op_slice = {.name = "slice",
                                  .attr_size = sizeof(struct slice),
                                  .flags = AD_STRIDED,
                                  .min_in = 1,
                                  .max_in = 1,
                                  .infer = infer_slice,
                                  .eval = eval_view,
                                  .view = view_slice,
                                  .vjp = vjp_slice,
                                  AD_CASES(cases_slice)};

val ad_slice(struct ad_graph *g, val x, int axis, int64_t start, int64_t stop, int64_t step)
{
    int k;
    if (!ad_axis(g, "slice", x, axis, &k)) return 0;
    int64_t n = ad_dim(g, x, k);
    struct slice s = {k, start < 0 ? start + n : start, stop < 0 ? stop + n : stop, step};
    if (s.start == 0 && s.stop == n && step == 1) return x;
    return AD_NODE(g, &ad_op_slice, &s, x);
}

/* ---- split: n equal parts of one axis, up to eight by one node (more: slices), so that the gradient is one concat */

struct split {
    int64_t axis, n;
};

static int infer_split(struct ad_infer *f)
{
    const struct split *s = f->attr;
    f->n_out = (int)s->n;
    for (int i = 0; i < f->n_out; i++) {
        f->shape[i] = f->in_shape[0];
        f->shape[i].dim[s->axis] /= s->n;
    }
    return 0;
}

static bool view_split(const struct ad_tensor *in, const void *attr, int index, struct ad_tensor *out, int64_t *offset)
{
    const struct split *s = attr;
    memcpy(out->stride, in->stride, sizeof out->stride);
    *offset = index * out->shape.dim[s->axis] * in->stride[s->axis];
    return true;
}

static void vjp_split(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    val d[8];
    for (int i = 0; i < n->n_out; i++) d[i] = dy[i] ? dy[i] : ad_zeros_like(g, ad_out(n, i));
    dx[0] = ad_concat(g, d, n->n_out, (int)((const struct split *)n->attr)->axis);
}

static int build_split(struct ad_graph *g, const val *in, val *out)
{
    val part[9];
    ad_split(g, in[0], -1, 3, part);
    out[0] = ad_mul(g, part[0], part[2]); /* nothing flows into the middle one */
    ad_split(g, in[0], 1, 9, part);
    out[1] = ad_mul(g, part[8], part[3]);
    return 2;
}
static const struct ad_case cases_split[] = {{.in = "2x9", .build = build_split},
                                             {.in = "2x9x3", .build = build_split}};

const struct ad_op ad_op_split = {.name = "split",
                                  .attr_size = sizeof(struct split),
                                  .flags = AD_STRIDED,
                                  .min_in = 1,
                                  .max_in = 1,
                                  .infer = infer_split,
                                  .eval = eval_view,
                                  .view = view_split,
                                  .vjp = vjp_split,
                                  AD_CASES(cases_split)};

void ad_split(struct ad_graph *g, val x, int axis, int n, val *out)
{
    int k;
    for (int i = 0; i < n; i++) out[i] = 0;
    if (!ad_axis(g, "split", x, axis, &k)) return;
    int64_t size = ad_dim(g, x, k);
    if (n < 1 || size % n) {
        ad_fail(g, "split: axis %d has %lld elements, which %d parts do not divide", axis, (long long)size, n);
        return;
    }
    if (n == 1 || n > 8) {
        for (int i = 0; i < n; i++) out[i] = ad_slice(g, x, k, i * (size / n), (i + 1) * (size / n), 1);
        return;
    }
    val v = AD_NODE(g, &ad_op_split, (&(struct split){k, n}), x);
    for (int i = 0; v && i < n; i++) out[i] = v + i;
}

/* ---- flip: one axis backwards ------------------------------------------------------------------------------------ */

static int infer_same(struct ad_infer *f)
{
    f->shape[0] = f->in_shape[0];
    return 0;
}

static bool view_flip(const struct ad_tensor *in, const void *attr, int index, struct ad_tensor *out, int64_t *offset)
{
    int64_t axis = ((const struct ad_along_attr *)attr)->axis, n = in->shape.dim[axis];
    memcpy(out->stride, in->stride, sizeof out->stride);
    out->stride[axis] = -in->stride[axis];
    *offset = n ? (n - 1) * in->stride[axis] : 0;
    return true;
}

static void vjp_flip(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    dx[0] = ad_flip(g, dy[0], (int)((const struct ad_along_attr *)n->attr)->axis);
}

static int build_flip(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_flip(g, in[0], 1);
    out[1] = ad_mul(g, ad_flip(g, in[0], 0), in[0]);
    return 2;
}
static const struct ad_case cases_flip[] = {{.in = "3x4", .build = build_flip}, {.in = "1x1", .build = build_flip}};

const struct ad_op ad_op_flip = {.name = "flip",
                                 .attr_size = sizeof(struct ad_along_attr),
                                 .flags = AD_STRIDED,
                                 .min_in = 1,
                                 .max_in = 1,
                                 .infer = infer_same,
                                 .eval = eval_view,
                                 .view = view_flip,
                                 .vjp = vjp_flip,
                                 AD_CASES(cases_flip)};

val ad_flip(struct ad_graph *g, val x, int axis)
{
    int k;
    if (!ad_axis(g, "flip", x, axis, &k)) return 0;
    return ad_dim(g, x, k) == 1 ? x : AD_NODE(g, &ad_op_flip, &(struct ad_along_attr){k}, x);
}
