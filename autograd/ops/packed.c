/* Ops on sequences packed one after another: rows (T, ...) with offsets (B+1), int32 or int64. Item b is rows
 * offsets[b] .. offsets[b+1]-1; rows before offsets[0] and from offsets[B] on are padding. Errors: offsets are not a
 * vector of integers; in the run: they fall, or point outside of the rows. */
#include "autograd/ops/packed.h"

#include <limits.h>
#include <string.h>

#include "autograd/ops/common.h"

extern const struct ad_op ad_op_segment_sum, ad_op_segment_broadcast, ad_op_packed_edge, ad_op_packed_position,
    ad_op_packed_item, ad_op_packed_conv_offsets, ad_op_packed_conv_index;

bool ad_offsets_ok(const struct ad_call *c, int k, int64_t rows)
{
    int64_t items = ad_count(c->in[k].shape) - 1, before = 0;
    for (int64_t b = 0; b <= items; b++) {
        int64_t at = ad_get_int(&c->in[k], b);
        if (at < before || at > rows) {
            ad_call_fail(c, "offset %lld is %lld; it must be from %lld to the %lld rows", (long long)b, (long long)at,
                         (long long)before, (long long)rows);
            return false;
        }
        before = at;
    }
    return true;
}

static int need_offsets(struct ad_infer *f, int k)
{
    if (f->in_shape[k].rank == 1 && f->in_shape[k].dim[0] >= 1 && ad_is_int(f->in_dtype[k])) return 0;
    return ad_infer_fail(f, "offsets must be integers (B+1)");
}

static void fill(const struct ad_tensor *t, double v)
{
    int64_t n = ad_count(t->shape);
    for (int64_t i = 0; i < n; i++) ad_set(t, i, v);
}

static int64_t width_of(struct ad_shape s)
{
    int64_t n = 1;
    for (int i = 1; i < s.rank; i++) n *= s.dim[i];
    return n;
}

/* ---- segment_sum: y[b] = sum of item b's rows (mean: / their number; an empty item gives 0)
 *   x (T, ...), offsets (B+1)  ->  (B, ...)                                    dx =
 * segment_broadcast(dy) (mean alike) */

static int infer_sum(struct ad_infer *f)
{
    if (need_offsets(f, 1)) return -1;
    if (f->in_shape[0].rank < 1 || !ad_is_float(f->in_dtype[0]))
        return ad_infer_fail(f, "the first must be rows of floats (T, ...)");
    f->shape[0] = f->in_shape[0];
    f->shape[0].dim[0] = f->in_shape[1].dim[0] - 1;
    return 0;
}

static void eval_sum(const struct ad_call *c)
{
    int64_t items = c->out[0].shape.dim[0], width = width_of(c->out[0].shape);
    bool mean = ((const struct ad_segment_attr *)c->attr)->mean;
    fill(&c->out[0], 0);
    if (!ad_offsets_ok(c, 1, c->in[0].shape.dim[0])) return;
    for (int64_t b = 0; b < items; b++) {
        int64_t from = ad_get_int(&c->in[1], b), to = ad_get_int(&c->in[1], b + 1);
        for (int64_t k = 0; k < width && from < to; k++) {
            double sum = 0;
            for (int64_t t = from; t < to; t++) sum += ad_get(&c->in[0], t * width + k);
            ad_set(&c->out[0], b * width + k, mean ? sum / (double)(to - from) : sum);
        }
    }
}

static val segment_broadcast(struct ad_graph *g, val x, val offsets, int64_t rows, int64_t mean)
{
    return AD_NODE(g, &ad_op_segment_broadcast, (&(struct ad_segment_attr){rows, mean}), x, offsets);
}

static val segment_sum(struct ad_graph *g, val x, val offsets, int64_t mean)
{
    return AD_NODE(g, &ad_op_segment_sum, (&(struct ad_segment_attr){0, mean}), x, offsets);
}

static void vjp_sum(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    dx[0] =
        segment_broadcast(g, dy[0], n->in[1], ad_dim(g, n->in[0], 0), ((const struct ad_segment_attr *)n->attr)->mean);
}

static int build_sum(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_segment_sum(g, in[0], in[1]);
    out[1] = ad_segment_mean(g, in[0], in[1]);
    return 2;
}
static const struct ad_case cases_sum[] = {{.in = "17x3 off:4/17", .build = build_sum},
                                           {.in = "9x1 off:3/7", .build = build_sum},
                                           {.in = "4 off:5/4", .build = build_sum}};

static double flops_sum(const struct ad_call *c)
{
    return (double)ad_count(c->in[0].shape);
}

const struct ad_op ad_op_segment_sum = {.name = "segment_sum",
                                        .attr_size = sizeof(struct ad_segment_attr),
                                        .min_in = 2,
                                        .max_in = 2,
                                        .infer = infer_sum,
                                        .eval = eval_sum,
                                        .vjp = vjp_sum,
                                        .flops = flops_sum,
                                        AD_CASES(cases_sum)};
val ad_segment_sum(struct ad_graph *g, val x, val offsets)
{
    return segment_sum(g, x, offsets, 0);
}
val ad_segment_mean(struct ad_graph *g, val x, val offsets)
{
    return segment_sum(g, x, offsets, 1);
}

/* ---- segment_broadcast: y[t] = x[b] where row t is in item b (mean: / the item's length), 0 in the padding
 *   x (B, ...), offsets (B+1)  ->  (rows, ...)                                 dx = segment_sum(dy)
 * (mean alike) */

static int infer_broadcast(struct ad_infer *f)
{
    if (need_offsets(f, 1)) return -1;
    struct ad_shape s = f->in_shape[0];
    if (s.rank < 1 || s.dim[0] != f->in_shape[1].dim[0] - 1 || !ad_is_float(f->in_dtype[0]))
        return ad_infer_fail(f, "the first must be one row of floats an item, %lld rows",
                             (long long)f->in_shape[1].dim[0] - 1);
    f->shape[0] = s;
    f->shape[0].dim[0] = ((const struct ad_segment_attr *)f->attr)->rows;
    return f->shape[0].dim[0] < 0 ? ad_infer_fail(f, "there cannot be %lld rows", (long long)f->shape[0].dim[0]) : 0;
}

static void eval_broadcast(const struct ad_call *c)
{
    int64_t items = c->in[0].shape.dim[0], width = width_of(c->out[0].shape);
    bool mean = ((const struct ad_segment_attr *)c->attr)->mean;
    fill(&c->out[0], 0);
    if (!ad_offsets_ok(c, 1, c->out[0].shape.dim[0])) return;
    for (int64_t b = 0; b < items; b++) {
        int64_t from = ad_get_int(&c->in[1], b), to = ad_get_int(&c->in[1], b + 1);
        for (int64_t t = from; t < to; t++)
            for (int64_t k = 0; k < width; k++) {
                double x = ad_get(&c->in[0], b * width + k);
                ad_set(&c->out[0], t * width + k, mean ? x / (double)(to - from) : x);
            }
    }
}

static void vjp_broadcast(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    dx[0] = segment_sum(g, dy[0], n->in[1], ((const struct ad_segment_attr *)n->attr)->mean);
}

static int build_broadcast(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_segment_broadcast(g, in[0], in[1], 17);
    out[1] = segment_broadcast(g, in[0], in[1], 20, 1);
    return 2;
}
static const struct ad_case cases_broadcast[] = {{.in = "4x3 off:4/17", .build = build_broadcast},
                                                 {.in = "3 off:3/11", .build = build_broadcast}};

const struct ad_op ad_op_segment_broadcast = {.name = "segment_broadcast",
                                              .attr_size = sizeof(struct ad_segment_attr),
                                              .min_in = 2,
                                              .max_in = 2,
                                              .half = 1,
                                              .infer = infer_broadcast,
                                              .eval = eval_broadcast,
                                              .vjp = vjp_broadcast,
                                              AD_CASES(cases_broadcast)};
val ad_segment_broadcast(struct ad_graph *g, val x, val offsets, int64_t rows)
{
    return segment_broadcast(g, x, offsets, rows, 0);
}

/* ---- integers made from offsets: they have no gradient ----------------------------------------------------------- */

struct rows {
    int64_t n;
};

/* The cases of integer ops compare their numbers as floats. */
#define INT_CASES(name, ...)                                                  \
    static int build_##name(struct ad_graph *g, const val *in, val *out)      \
    {                                                                         \
        val v[] = {__VA_ARGS__};                                              \
        int n = (int)(sizeof v / sizeof *v);                                  \
        for (int i = 0; i < n; i++) out[i] = ad_cast(g, v[i], AD_F64);        \
        return n;                                                             \
    }                                                                         \
    static const struct ad_case cases_##name[] = {                            \
        {.in = "off:4/17", .build = build_##name, .no_gradient = "integers"}, \
        {.in = "off:1/3", .build = build_##name, .no_gradient = "integers"},  \
        {.in = "off:6/5", .build = build_##name, .no_gradient = "integers"}};

/* packed_edge: offsets (B+1) -> int32 (B): the number of each item's first (n 0) or last (n 1) row; -1 if it is empty
 */

static int infer_edge(struct ad_infer *f)
{
    if (need_offsets(f, 0)) return -1;
    f->shape[0] = SHAPE(f->in_shape[0].dim[0] - 1);
    f->dtype[0] = AD_I32;
    return 0;
}

static void eval_edge(const struct ad_call *c)
{
    bool last = ((const struct rows *)c->attr)->n;
    fill(&c->out[0], -1);
    if (!ad_offsets_ok(c, 0, INT32_MAX)) return;
    for (int64_t b = 0; b < c->out[0].shape.dim[0]; b++) {
        int64_t from = ad_get_int(&c->in[0], b), to = ad_get_int(&c->in[0], b + 1);
        if (from < to) ad_set(&c->out[0], b, (double)(last ? to - 1 : from));
    }
}

static val packed_edge(struct ad_graph *g, val offsets, int64_t last)
{
    return AD_NODE(g, &ad_op_packed_edge, (&(struct rows){last}), offsets);
}

INT_CASES(edge, packed_edge(g, in[0], 0), packed_edge(g, in[0], 1))

const struct ad_op ad_op_packed_edge = {.name = "packed_edge",
                                        .attr_size = sizeof(struct rows),
                                        .min_in = 1,
                                        .max_in = 1,
                                        .infer = infer_edge,
                                        .eval = eval_edge,
                                        .vjp = ad_vjp_none,
                                        AD_CASES(cases_edge)};
val ad_segment_edge(struct ad_graph *g, val x, val offsets, bool last)
{
    return ad_gather(g, x, packed_edge(g, offsets, last));
}

/* packed_position, packed_item: offsets (B+1) -> int32 (rows); -1 in the padding */

static int infer_rows(struct ad_infer *f)
{
    if (need_offsets(f, 0)) return -1;
    f->shape[0] = SHAPE(((const struct rows *)f->attr)->n);
    f->dtype[0] = AD_I32;
    return f->shape[0].dim[0] < 0 ? ad_infer_fail(f, "there cannot be %lld rows", (long long)f->shape[0].dim[0]) : 0;
}

static void eval_rows(const struct ad_call *c)
{
    fill(&c->out[0], -1);
    if (!ad_offsets_ok(c, 0, c->out[0].shape.dim[0])) return;
    for (int64_t b = 0; b + 1 < c->in[0].shape.dim[0]; b++) {
        int64_t from = ad_get_int(&c->in[0], b), to = ad_get_int(&c->in[0], b + 1);
        for (int64_t t = from; t < to; t++) ad_set(&c->out[0], t, (double)(c->op == &ad_op_packed_item ? b : t - from));
    }
}

INT_CASES(position, ad_packed_position(g, in[0], 17), ad_packed_position(g, in[0], 20))
INT_CASES(item, ad_packed_item(g, in[0], 17), ad_packed_item(g, in[0], 20))

const struct ad_op ad_op_packed_position = {.name = "packed_position",
                                            .attr_size = sizeof(struct rows),
                                            .min_in = 1,
                                            .max_in = 1,
                                            .infer = infer_rows,
                                            .eval = eval_rows,
                                            .vjp = ad_vjp_none,
                                            AD_CASES(cases_position)};
const struct ad_op ad_op_packed_item = {.name = "packed_item",
                                        .attr_size = sizeof(struct rows),
                                        .min_in = 1,
                                        .max_in = 1,
                                        .infer = infer_rows,
                                        .eval = eval_rows,
                                        .vjp = ad_vjp_none,
                                        AD_CASES(cases_item)};
val ad_packed_position(struct ad_graph *g, val offsets, int64_t rows)
{
    return AD_NODE(g, &ad_op_packed_position, (&(struct rows){rows}), offsets);
}
val ad_packed_item(struct ad_graph *g, val offsets, int64_t rows)
{
    return AD_NODE(g, &ad_op_packed_item, (&(struct rows){rows}), offsets);
}

/* ---- 1-d convolution of each item for itself: where its rows lie, and which rows it reads ------------------------ */

struct conv {
    int64_t rows, kernel, stride, pad;
};

static int need_conv(struct ad_infer *f)
{
    const struct conv *v = f->attr;
    for (int k = 0; k < f->n_in; k++)
        if (need_offsets(f, k)) return -1;
    if (v->kernel < 1 || v->stride < 1 || v->pad < 0)
        return ad_infer_fail(f, "kernel %lld and stride %lld must be 1 or more, pad %lld 0 or more",
                             (long long)v->kernel, (long long)v->stride, (long long)v->pad);
    return 0;
}

static int infer_conv_offsets(struct ad_infer *f)
{
    if (need_conv(f)) return -1;
    f->shape[0] = f->in_shape[0];
    return 0;
}

int64_t ad_packed_conv_rows(int64_t n, int64_t kernel, int64_t stride, int64_t pad)
{
    int64_t room = n + 2 * pad - kernel;
    return n > 0 && room >= 0 ? room / stride + 1 : 0;
}

/* (B+1) -> (B+1) of the same dtype, starting at 0 */
static void eval_conv_offsets(const struct ad_call *c)
{
    const struct conv *v = c->attr;
    fill(&c->out[0], 0);
    if (!ad_offsets_ok(c, 0, INT32_MAX)) return;
    int64_t at = 0;
    for (int64_t b = 0; b + 1 < c->in[0].shape.dim[0]; b++) {
        int64_t n = ad_get_int(&c->in[0], b + 1) - ad_get_int(&c->in[0], b);
        at += ad_packed_conv_rows(n, v->kernel, v->stride, v->pad);
        ad_set(&c->out[0], b + 1, (double)at);
    }
}

INT_CASES(conv_offsets, ad_packed_conv_offsets(g, in[0], 3, 2, 1), ad_packed_conv_offsets(g, in[0], 4, 1, 0))

const struct ad_op ad_op_packed_conv_offsets = {.name = "packed_conv_offsets",
                                                .attr_size = sizeof(struct conv),
                                                .min_in = 1,
                                                .max_in = 1,
                                                .infer = infer_conv_offsets,
                                                .eval = eval_conv_offsets,
                                                .vjp = ad_vjp_none,
                                                AD_CASES(cases_conv_offsets)};
val ad_packed_conv_offsets(struct ad_graph *g, val offsets, int kernel, int stride, int pad)
{
    return AD_NODE(g, &ad_op_packed_conv_offsets, (&(struct conv){0, kernel, stride, pad}), offsets);
}

static int infer_conv_index(struct ad_infer *f)
{
    const struct conv *v = f->attr;
    if (need_conv(f)) return -1;
    if (f->in_shape[0].dim[0] != f->in_shape[1].dim[0]) return ad_infer_fail(f, "both offsets must have as many items");
    if (v->rows < 0) return ad_infer_fail(f, "there cannot be %lld rows", (long long)v->rows);
    f->shape[0] = SHAPE(v->rows, v->kernel);
    f->dtype[0] = AD_I32;
    return 0;
}

static void eval_conv_index(const struct ad_call *c)
{
    const struct conv *v = c->attr;
    fill(&c->out[0], -1);
    if (!ad_offsets_ok(c, 0, INT32_MAX) || !ad_offsets_ok(c, 1, v->rows)) return;
    for (int64_t b = 0; b + 1 < c->in[0].shape.dim[0]; b++) {
        int64_t from = ad_get_int(&c->in[0], b), to = ad_get_int(&c->in[0], b + 1), first = ad_get_int(&c->in[1], b);
        for (int64_t t = first; t < ad_get_int(&c->in[1], b + 1); t++)
            for (int64_t k = 0; k < v->kernel; k++) {
                int64_t row = from + (t - first) * v->stride + k - v->pad;
                if (row >= from && row < to) ad_set(&c->out[0], t * v->kernel + k, (double)row);
            }
    }
}

static val conv_index(struct ad_graph *g, val offsets, int kernel, int stride, int pad)
{
    return ad_packed_conv_index(g, offsets, ad_packed_conv_offsets(g, offsets, kernel, stride, pad), 24, kernel, stride,
                                pad);
}
INT_CASES(conv_index, conv_index(g, in[0], 3, 2, 1), conv_index(g, in[0], 4, 1, 0))

const struct ad_op ad_op_packed_conv_index = {.name = "packed_conv_index",
                                              .attr_size = sizeof(struct conv),
                                              .min_in = 2,
                                              .max_in = 2,
                                              .infer = infer_conv_index,
                                              .eval = eval_conv_index,
                                              .vjp = ad_vjp_none,
                                              AD_CASES(cases_conv_index)};
val ad_packed_conv_index(struct ad_graph *g, val offsets, val out_offsets, int64_t rows_out, int kernel, int stride,
                         int pad)
{
    return AD_NODE(g, &ad_op_packed_conv_index, (&(struct conv){rows_out, kernel, stride, pad}), offsets, out_offsets);
}
