/* Ops by index. An index is i32 or i64; -1 means "none"; any other number out of range ends the run with ERR_SHAPE. */
#include <string.h>

#include "autograd/ops/common.h"

extern const struct ad_op ad_op_gather, ad_op_scatter_add, ad_op_one_hot, ad_op_iota, ad_op_take_last;

/* Index number i of input k, checked: -1 also where it is out of range, which is recorded. */
static int64_t index_at(const struct ad_call *c, int k, int64_t i, int64_t limit)
{
    int64_t v = ad_get_int(&c->in[k], i);
    if (v >= -1 && v < limit) return v;
    ad_call_fail(c, "index %lld (number %lld) is not in -1 .. %lld", (long long)v, (long long)i, (long long)limit - 1);
    return -1;
}

static int need_index(struct ad_infer *f, int k)
{
    return ad_is_int(f->in_dtype[k])
               ? 0
               : ad_infer_fail(f, "an index must be i32 or i64, not %s", ad_dtype_name(f->in_dtype[k]));
}

/* ---- gather: y[i...] = table[index[i...]];  d table = scatter_add(dy, index)
 *   table (V, ...), index I  ->  (I..., ...) of the table's dtype.
 * Errors: more than six axes, a scalar table */

static int infer_gather(struct ad_infer *f)
{
    struct ad_shape t = f->in_shape[0], s = f->in_shape[1];
    if (need_index(f, 1)) return -1;
    if (t.rank < 1 || s.rank + t.rank - 1 > AD_MAX_DIMS)
        return ad_infer_fail(f, "the table needs rows, and the result at most six axes");
    for (int i = 1; i < t.rank; i++) s.dim[s.rank++] = t.dim[i];
    f->shape[0] = s;
    return 0;
}

static int64_t row_size(struct ad_shape table)
{
    return table.dim[0] ? ad_count(table) / table.dim[0] : 0;
}

static void eval_gather(const struct ad_call *c)
{
    int64_t rows = c->in[0].shape.dim[0], width = row_size(c->in[0].shape), n = ad_count(c->in[1].shape);
    if (!rows) width = n ? ad_count(c->out[0].shape) / n : 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t r = index_at(c, 1, i, rows);
        for (int64_t k = 0; k < width; k++)
            ad_set(&c->out[0], i * width + k, r < 0 ? 0 : ad_get(&c->in[0], r * width + k));
    }
}

static void vjp_gather(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    dx[0] = ad_scatter_add(g, dy[0], n->in[1], ad_dim(g, n->in[0], 0));
}

static int build_gather(struct ad_graph *g, const val *in, val *out)
{
    int32_t holes[] = {2, -1, 0, 2};
    out[0] = ad_gather(g, in[0], in[1]);
    out[1] = ad_gather(g, in[0], ad_const_data(g, AD_I32, SHAPE(2, 2), holes));
    return 2;
}
static const struct ad_case cases_gather[] = {{.in = "5x3 i32:2x4<5", .build = build_gather},
                                              {.in = "4 i64:6<4", .build = build_gather},
                                              {.in = "3x2x2 i32:0<3", .build = build_gather}};

/* The rows that are read, not the table. */
static double bytes_gather(const struct ad_call *c)
{
    return 2 * (double)(ad_count(c->out[0].shape) * (int64_t)ad_dtype_size(c->out[0].dtype)) +
           (double)(ad_count(c->in[1].shape) * (int64_t)ad_dtype_size(c->in[1].dtype));
}

const struct ad_op ad_op_gather = {.name = "gather",
                                   .min_in = 2,
                                   .max_in = 2,
                                   .flags = AD_MOVES,
                                   .half = 1,
                                   .infer = infer_gather,
                                   .eval = eval_gather,
                                   .vjp = vjp_gather,
                                   .flops = ad_flops_none,
                                   .bytes = bytes_gather,
                                   AD_CASES(cases_gather)};
val ad_gather(struct ad_graph *g, val table, val index)
{
    return AD_NODE(g, &ad_op_gather, NULL, table, index);
}

/* ---- scatter_add: y = 0, then y[index[i...]] += x[i...];  dx = gather(dy, index)
 *   x (I..., ...), index I  ->  (rows, ...) of x's dtype.   Error: x does
 * not begin with the index's shape */

struct count {
    int64_t n, dtype;
};

static int infer_scatter(struct ad_infer *f)
{
    struct ad_shape x = f->in_shape[0], i = f->in_shape[1];
    if (need_index(f, 1)) return -1;
    struct ad_shape head = x;
    head.rank = i.rank;
    if (x.rank < i.rank || !ad_same_shape(head, i))
        return ad_infer_fail(f, "the first must begin with the shape of the index");
    if (x.rank - i.rank + 1 > AD_MAX_DIMS) return ad_infer_fail(f, "the result would have seven axes");
    struct ad_shape s = {.rank = 1, .dim = {((const struct count *)f->attr)->n}};
    if (s.dim[0] < 0) return ad_infer_fail(f, "there cannot be %lld rows", (long long)s.dim[0]);
    for (int k = i.rank; k < x.rank; k++) s.dim[s.rank++] = x.dim[k];
    f->shape[0] = s;
    return 0;
}

static void eval_scatter(const struct ad_call *c)
{
    const struct ad_tensor *out = &c->out[0];
    int64_t rows = out->shape.dim[0], n = ad_count(c->in[1].shape), total = ad_count(out->shape),
            width = rows ? total / rows : 0;
    for (int64_t i = 0; i < total; i++) ad_set(out, i, 0);
    for (int64_t i = 0; i < n; i++) {
        int64_t r = index_at(c, 1, i, rows);
        for (int64_t k = 0; r >= 0 && k < width; k++)
            ad_set(out, r * width + k, ad_get(out, r * width + k) + ad_get(&c->in[0], i * width + k));
    }
}

static void vjp_scatter(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    dx[0] = ad_gather(g, dy[0], n->in[1]);
}

static int build_scatter(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_scatter_add(g, in[0], in[1], 4);
    return 1;
}
static const struct ad_case cases_scatter[] = {{.in = "2x3x2 i32:2x3<4", .build = build_scatter},
                                               {.in = "7 i64:7<4", .build = build_scatter},
                                               {.in = "0x3 i32:0<4", .build = build_scatter}};

static double flops_scatter(const struct ad_call *c)
{
    return (double)ad_count(c->in[0].shape);
}

const struct ad_op ad_op_scatter_add = {.name = "scatter_add",
                                        .attr_size = sizeof(struct count),
                                        .min_in = 2,
                                        .max_in = 2,
                                        .infer = infer_scatter,
                                        .eval = eval_scatter,
                                        .vjp = vjp_scatter,
                                        .flops = flops_scatter,
                                        AD_CASES(cases_scatter)};
val ad_scatter_add(struct ad_graph *g, val x, val index, int64_t rows)
{
    return AD_NODE(g, &ad_op_scatter_add, (&(struct count){rows, 0}), x, index);
}

/* ---- one_hot: index I -> (I..., classes), 1 at the index, 0 elsewhere -------------------------------------------- */

static int infer_one_hot(struct ad_infer *f)
{
    const struct count *a = f->attr;
    struct ad_shape s = f->in_shape[0];
    if (need_index(f, 0)) return -1;
    if (s.rank == AD_MAX_DIMS || a->n < 0)
        return ad_infer_fail(f, "it cannot have %lld classes in %d axes", (long long)a->n, s.rank + 1);
    s.dim[s.rank++] = a->n;
    f->shape[0] = s;
    f->dtype[0] = (enum ad_dtype)a->dtype;
    return 0;
}

static void eval_one_hot(const struct ad_call *c)
{
    int64_t classes = ((const struct count *)c->attr)->n, n = ad_count(c->in[0].shape);
    for (int64_t i = 0; i < n; i++) {
        int64_t hot = index_at(c, 0, i, classes);
        for (int64_t k = 0; k < classes; k++) ad_set(&c->out[0], i * classes + k, k == hot);
    }
}

static int build_one_hot(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_one_hot(g, in[0], 4, AD_F64);
    out[1] = ad_one_hot(g, in[0], 4, AD_F32);
    return 2;
}
static const struct ad_case cases_one_hot[] = {
    {.in = "i32:2x3<4", .build = build_one_hot, .no_gradient = "its input is an index"},
    {.in = "i64:5<4", .build = build_one_hot, .no_gradient = "its input is an index"}};

const struct ad_op ad_op_one_hot = {.name = "one_hot",
                                    .attr_size = sizeof(struct count),
                                    .min_in = 1,
                                    .max_in = 1,
                                    .infer = infer_one_hot,
                                    .eval = eval_one_hot,
                                    .flops = ad_flops_none,
                                    .vjp = ad_vjp_none,
                                    AD_CASES(cases_one_hot)};
val ad_one_hot(struct ad_graph *g, val index, int64_t classes, enum ad_dtype t)
{
    return AD_NODE(g, &ad_op_one_hot, (&(struct count){classes, t}), index);
}

/* ---- iota: 0, 1 .. n-1 ------------------------------------------------------------------------------------------- */

static int infer_iota(struct ad_infer *f)
{
    const struct count *a = f->attr;
    if (a->n < 0) return ad_infer_fail(f, "there cannot be %lld numbers", (long long)a->n);
    f->shape[0] = SHAPE(a->n);
    f->dtype[0] = (enum ad_dtype)a->dtype;
    return 0;
}

static void eval_iota(const struct ad_call *c)
{
    for (int64_t i = 0; i < c->out[0].shape.dim[0]; i++) ad_set(&c->out[0], i, (double)i);
}

static int build_iota(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_iota(g, AD_F64, 7);
    out[1] = ad_cast(g, ad_iota(g, AD_I32, 5), AD_F64);
    return 2;
}
static const struct ad_case cases_iota[] = {{.in = "", .build = build_iota, .no_gradient = "it has no inputs"}};

const struct ad_op ad_op_iota = {
    .name = "iota", .attr_size = sizeof(struct count), .infer = infer_iota, .eval = eval_iota, AD_CASES(cases_iota)};
val ad_iota(struct ad_graph *g, enum ad_dtype t, int64_t n)
{
    return ad_node(g, &ad_op_iota, &(struct count){n, t}, NULL, 0);
}

/* ---- take_last: y[i...] = x[i..., index[i...]]; -1 gives 0;  dx = one_hot(index) dy
 *   x (..., C), index (...)  ->  (...) of x's dtype.   Error: the
 * shapes do not correspond */

static int infer_take(struct ad_infer *f)
{
    struct ad_shape x = f->in_shape[0];
    if (need_index(f, 1)) return -1;
    x.rank--;
    if (x.rank < 0 || !ad_same_shape(x, f->in_shape[1]))
        return ad_infer_fail(f, "the index must have the shape of the first but for its last axis");
    f->shape[0] = f->in_shape[1];
    return 0;
}

static void eval_take(const struct ad_call *c)
{
    int64_t n = ad_count(c->in[1].shape), width = c->in[0].shape.dim[c->in[0].shape.rank - 1];
    for (int64_t i = 0; i < n; i++) {
        int64_t k = index_at(c, 1, i, width);
        ad_set(&c->out[0], i, k < 0 ? 0 : ad_get(&c->in[0], i * width + k));
    }
}

static void vjp_take(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    val place = ad_one_hot(g, n->in[1], ad_dim(g, n->in[0], -1), ad_dtype_of(g, n->in[0]));
    dx[0] = ad_mul(g, place, ad_add_last(g, dy[0]));
}

static int build_take(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_take_last(g, in[0], in[1]);
    return 1;
}
static const struct ad_case cases_take[] = {{.in = "2x3x4 i32:2x3<4", .build = build_take},
                                            {.in = "5 i64:<5", .build = build_take},
                                            {.in = "4x1 i32:4<1", .build = build_take}};

/* One number of each row. */
static double bytes_take(const struct ad_call *c)
{
    return (double)ad_count(c->out[0].shape) *
           (double)(2 * ad_dtype_size(c->out[0].dtype) + ad_dtype_size(c->in[1].dtype));
}

const struct ad_op ad_op_take_last = {.name = "take_last",
                                      .min_in = 2,
                                      .max_in = 2,
                                      .infer = infer_take,
                                      .eval = eval_take,
                                      .vjp = vjp_take,
                                      .flops = ad_flops_none,
                                      .bytes = bytes_take,
                                      AD_CASES(cases_take)};
val ad_take_last(struct ad_graph *g, val x, val index)
{
    return AD_NODE(g, &ad_op_take_last, NULL, x, index);
}
