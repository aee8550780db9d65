/* matmul: y = act(op(a) op(b) + bias + residual)
 *   a (..., M, K) or with ta (..., K, M)   b (..., K, N) or with tb (..., N, K)   [bias (N)]  [residual (..., M, N)]
 *   -> y (..., M, N); leading axes broadcast; all of one float dtype.
 *   error: fewer than two axes; K differs; leading axes do not broadcast; bias or residual of another shape.
 * K = 0 gives zeros (plus bias and residual). The fuse pass adds residual and activation; builders never do. */
#include "autograd/ops/matmul.h"

#include <string.h>

#include "autograd/kernels/gemm.h"
#include "autograd/ops/common.h"

extern const struct ad_op ad_op_add, ad_op_relu, ad_op_gelu, ad_op_gelu_tanh, ad_op_quick_gelu, ad_op_silu;

const struct ad_op *matmul_act_op(int32_t act)
{
    const struct ad_op *const ops[ACT_COUNT] = {
        NULL, &ad_op_relu, &ad_op_gelu, &ad_op_gelu_tanh, &ad_op_quick_gelu, &ad_op_silu};
    return ops[act];
}

static int64_t rows_of(struct ad_shape s, bool swapped)
{
    return s.dim[s.rank - (swapped ? 1 : 2)];
}
static int64_t cols_of(struct ad_shape s, bool swapped)
{
    return s.dim[s.rank - (swapped ? 2 : 1)];
}

/* The shape of the product, or why there is none. */
static const char *product_shape(const struct matmul_attr *t, struct ad_shape a, struct ad_shape b, struct ad_shape *y)
{
    if (a.rank < 2 || b.rank < 2) return "a product needs two axes or more";
    int64_t m = rows_of(a, t->ta), n = cols_of(b, t->tb);
    if (cols_of(a, t->ta) != rows_of(b, t->tb))
        return "the columns of a (rows if ta) are not the rows of b (columns if tb)";
    a.rank -= 2;
    b.rank -= 2;
    if (!ad_broadcast_shape(a, b, y)) return "the leading axes do not broadcast";
    y->dim[y->rank++] = m;
    y->dim[y->rank++] = n;
    return NULL;
}

static int infer(struct ad_infer *f)
{
    const struct matmul_attr *t = f->attr;
    struct ad_shape y;
    if (!ad_is_float(f->in_dtype[0])) return ad_infer_fail(f, "it needs f32 or f64 numbers");
    for (int i = 1; i < f->n_in; i++)
        if (f->in_dtype[i] != f->in_dtype[0]) return ad_infer_fail(f, "the inputs differ in dtype");
    const char *why = product_shape(t, f->in_shape[0], f->in_shape[1], &y);
    if (why) return ad_infer_fail(f, "%s (ta %d, tb %d)", why, t->ta, t->tb);
    int64_t n = y.dim[y.rank - 1];
    if (t->bias && (f->in_shape[2].rank != 1 || f->in_shape[2].dim[0] != n))
        return ad_infer_fail(f, "the bias must be (%lld)", (long long)n);
    if (t->residual && !ad_same_shape(f->in_shape[2 + t->bias], y))
        return ad_infer_fail(f, "the residual must have the shape of the product");
    if (t->panels && f->in_shape[f->n_in - 1].rank != 1) return ad_infer_fail(f, "panels have one axis");
    f->shape[0] = y;
    return 0;
}

int64_t matmul_offset(const struct ad_tensor *in, const struct ad_tensor *out, const int64_t *at)
{
    int64_t offset = 0;
    int shift = out->shape.rank - in->shape.rank;
    for (int d = 0; d < in->shape.rank - 2; d++)
        if (in->shape.dim[d] != 1) offset += at[d + shift] * in->stride[d];
    return offset;
}

/* Row i of one matrix of the batch; a and b begin at oa and ob, y at oy. */
static void eval_row(const struct ad_call *c, int64_t oa, int64_t ob, int64_t oy, int64_t i)
{
    const struct matmul_attr *t = c->attr;
    const struct ad_tensor *a = &c->in[0], *b = &c->in[1], *y = &c->out[0];
    const struct ad_op *act = matmul_act_op(t->act);
    int64_t ar, ac, br, bc, n = y->shape.dim[y->shape.rank - 1], k_n = cols_of(a->shape, t->ta);
    matmul_strides(a, t->ta, &ar, &ac);
    matmul_strides(b, t->tb, &br, &bc);
    for (int64_t j = 0; j < n; j++) {
        double sum = 0;
        for (int64_t k = 0; k < k_n; k++) sum += ad_get(a, oa + i * ar + k * ac) * ad_get(b, ob + k * br + j * bc);
        if (t->bias) sum += ad_get(&c->in[2], j);
        if (t->residual) sum += ad_get(&c->in[2 + t->bias], oy + i * n + j);
        ad_set(y, oy + i * n + j, act ? act->scalar(&sum, NULL) : sum);
    }
}

static void eval(const struct ad_call *c)
{
    const struct ad_tensor *y = &c->out[0];
    int64_t m = y->shape.dim[y->shape.rank - 2], size = m * y->shape.dim[y->shape.rank - 1], at[AD_MAX_DIMS] = {0};
    struct ad_shape batch = y->shape;
    batch.rank -= 2;
    for (int64_t p = 0, n = ad_count(batch); p < n; p++, ad_next(batch, at)) {
        int64_t oa = matmul_offset(&c->in[0], y, at), ob = matmul_offset(&c->in[1], y, at);
        for (int64_t i = 0; i < m; i++) eval_row(c, oa, ob, p * size, i);
    }
}

/* One of the last two axes has stride 1 and the other passes over it, as BLAS wants; leading strides are free. */
static bool takes(const struct ad_call *c, int i)
{
    const struct ad_tensor *t = &c->in[i];
    if (i > 1 || ad_contiguous(t)) return ad_contiguous(t);
    int64_t r = t->shape.dim[t->shape.rank - 2], k = t->shape.dim[t->shape.rank - 1];
    int64_t sr = t->stride[t->shape.rank - 2], sk = t->stride[t->shape.rank - 1];
    return ((k <= 1 || sk == 1) && (r <= 1 || (sr >= k && sr > 0))) ||
           ((r <= 1 || sr == 1) && (k <= 1 || (sk >= r && sk > 0)));
}

static double flops(const struct ad_call *c)
{
    const struct matmul_attr *t = c->attr;
    return 2 * (double)ad_count(c->out[0].shape) * (double)cols_of(c->in[0].shape, t->ta);
}

static val product(struct ad_graph *g, val a, val b, bool ta, bool tb)
{
    struct matmul_attr t = {.ta = ta, .tb = tb};
    return AD_NODE(g, &ad_op_matmul, &t, a, b);
}

/* (..., M, K) -> (rows, K) */
static val flat(struct ad_graph *g, val x)
{
    int64_t width = ad_dim(g, x, -1);
    return ad_reshape(g, x, SHAPE(width ? ad_count(ad_shape_of(g, x)) / width : 0, width));
}

/* d op(a) = dy op(b)',  d op(b) = op(a)' dy;  summed over the axes along which an operand was broadcast. */
static void vjp(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    const struct matmul_attr *t = n->attr;
    val a = n->in[0], b = n->in[1], d = dy[0];
    CHECK_MSG(!t->act && !t->panels, "what passes made keeps no gradient");
    bool ta = t->ta, tb = t->tb;
    val da = ta ? product(g, b, d, tb, true) : product(g, d, b, false, !tb);
    dx[0] = ad_sum_to(g, da, ad_shape_of(g, a));
    if (ad_rank(g, b) == 2 && ad_rank(g, d) > 2 && !ta && ad_dim(g, a, -1) && ad_dim(g, d, -1)) {
        val x = flat(g, a), e = flat(g, d); /* one large product in place of a sum of small ones */
        dx[1] = tb ? product(g, e, x, true, false) : product(g, x, e, true, false);
    } else {
        val db = tb ? product(g, d, a, true, ta) : product(g, a, d, !ta, false);
        dx[1] = ad_sum_to(g, db, ad_shape_of(g, b));
    }
    if (t->bias) dx[2] = ad_sum(g, d, (1u << (ad_rank(g, d) - 1)) - 1, false);
    if (t->residual) dx[2 + t->bias] = d;
}

/* The fuse pass: takes a bias (N), then a residual, then an activation. */
static val absorb(struct ad_graph *g, const struct ad_node *n, const val *in, const struct ad_op *user, int at,
                  val other)
{
    struct matmul_attr t;
    struct ad_shape y;
    val more[5];
    int n_in = n->n_in;
    memcpy(&t, n->attr, sizeof t);
    memcpy(more, in, (size_t)n_in * sizeof *in);
    if (t.act || product_shape(&t, ad_shape_of(g, in[0]), ad_shape_of(g, in[1]), &y)) return 0;
    if (user == &ad_op_add) {
        struct ad_shape s = ad_shape_of(g, other);
        if (t.residual || ad_dtype_of(g, other) != ad_dtype_of(g, in[0])) return 0;
        if (s.rank == 1 && s.dim[0] == y.dim[y.rank - 1] && !t.bias)
            t.bias = 1;
        else if (ad_same_shape(s, y))
            t.residual = 1;
        else
            return 0;
        more[n_in++] = other;
    } else {
        for (int32_t act = 1; act < ACT_COUNT; act++)
            if (user == matmul_act_op(act)) t.act = act;
        if (!t.act) return 0;
    }
    return ad_node(g, &ad_op_matmul, &t, more, n_in);
}

static bool factor(const struct ad_graph *g, const struct ad_node *n, void *attr, struct ad_factor *f)
{
    struct matmul_attr *t = attr;
    struct ad_shape b = ad_shape_of(g, n->in[1]), y = ad_shape_of(g, n->out);
    if (b.rank != 2 || !ad_count(y)) return false;
    *f = (struct ad_factor){.input = 1, .n = cols_of(b, t->tb), .k = rows_of(b, t->tb), .turned = t->tb};
    f->m = ad_count(y) / f->n;
    t->panels = 1;
    return true;
}

static int build_nn(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_matmul(g, in[0], in[1], false, false);
    return 1;
}
static int build_tn(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_matmul(g, in[0], in[1], true, false);
    return 1;
}
static int build_nt(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_matmul(g, in[0], in[1], false, true);
    return 1;
}
static int build_tt(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_matmul(g, in[0], in[1], true, true);
    return 1;
}
static int build_linear(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_linear(g, in[0], in[1], in[2]);
    return 1;
}
static int build_residual(struct ad_graph *g, const val *in, val *out)
{
    struct matmul_attr t = {.bias = 1, .residual = 1};
    out[0] = ad_node(g, &ad_op_matmul, &t, in, 4);
    return 1;
}
static const struct ad_case cases[] = {
    {.in = "3x5 5x2", .build = build_nn},       {.in = "5x3 5x2", .build = build_tn},
    {.in = "3x5 2x5", .build = build_nt},       {.in = "5x3 2x5", .build = build_tt},
    {.in = "2x3x4 4x3", .build = build_nn},     {.in = "2x3x4 3x4", .build = build_nt},
    {.in = "2x4x3 4x2", .build = build_tn},     {.in = "2x3x4 2x4x2", .build = build_nn},
    {.in = "2x1x3x2 3x2x3", .build = build_nn}, {.in = "3x2 2x2x3", .build = build_tt},
    {.in = "2x3x2 2x3x2", .build = build_nt},   {.in = "1x1 1x1", .build = build_nn},
    {.in = "2x0 0x3", .build = build_nn},       {.in = "2x3x4 4x3 3", .build = build_linear},
    {.in = "5x2 2x3 3", .build = build_linear}, {.in = "2x3 3x4 4 2x4", .build = build_residual}};

const struct ad_op ad_op_matmul = {.name = "matmul",
                                   .attr_size = sizeof(struct matmul_attr),
                                   .min_in = 2,
                                   .max_in = 5,
                                   .half = 1,
                                   .infer = infer,
                                   .eval = eval,
                                   .vjp = vjp,
                                   .flops = flops,
                                   .takes = takes,
                                   .absorb = absorb,
                                   .factor = factor,
                                   AD_CASES(cases)};

val ad_matmul(struct ad_graph *g, val a, val b, bool ta, bool tb)
{
    return product(g, a, b, ta, tb);
}

val ad_linear(struct ad_graph *g, val x, val weight, val bias)
{
    struct matmul_attr t = {.bias = bias != 0};
    return ad_node(g, &ad_op_matmul, &t, (const val[]){x, weight, bias}, 2 + t.bias);
}

/* ---- panels --------------------------------------------------------------------------------------------------------- */

static int panels_infer(struct ad_infer *f)
{
    const struct panels_attr *t = f->attr;
    struct ad_shape b = f->in_shape[0];
    if (b.rank != 2 || f->in_dtype[0] != AD_F32) return ad_infer_fail(f, "panels are of an f32 matrix");
    f->shape[0] = SHAPE(gemm_panels_count(cols_of(b, t->tb), rows_of(b, t->tb)));
    return 0;
}

static void panels_eval(const struct ad_call *c)
{
    const struct panels_attr *t = c->attr;
    const struct ad_tensor *b = &c->in[0];
    int64_t row, column, by_row, by_column, k = rows_of(b->shape, t->tb), n = cols_of(b->shape, t->tb);
    matmul_strides(b, t->tb, &by_row, &by_column);
    for (int64_t i = 0; i < ad_count(c->out[0].shape); i++)
        ad_set(&c->out[0], i,
               gemm_panels_place(n, k, i, &row, &column) ? ad_get(b, row * by_row + column * by_column) : 0);
}

const struct ad_op ad_op_panels = {.name = "panels",
                                   .attr_size = sizeof(struct panels_attr),
                                   .flags = AD_CHEAP,
                                   .min_in = 1,
                                   .max_in = 1,
                                   .infer = panels_infer,
                                   .eval = panels_eval,
                                   .takes = takes};
