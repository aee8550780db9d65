/* Packed attention and its gradient. No (S x S) tensor is kept: the gradient recomputes probabilities from the
 * logsumexp. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/ops/attention.h"
#include "autograd/ops/ops.h"
#include "base/mem.h"

/* Checks offsets: 0 first, rising, at most `rows`. Returns the items. */
static int64_t items_of(const struct ad_call *c, const struct ad_tensor *offsets, int64_t rows, const char *what)
{
    int64_t b = offsets->shape.dim[0] - 1;
    const int32_t *o = offsets->data;
    for (int64_t i = 0; i <= b; i++)
        if (o[i] < (i ? o[i - 1] : 0) || o[i] > rows || o[0] != 0) {
            ad_call_fail(c, "%s offsets must rise from 0 to at most %lld; number %lld is %d", what, (long long)rows,
                         (long long)i, o[i]);
            return 0;
        }
    return b;
}

int64_t attention_items(const struct ad_call *c)
{
    int64_t q = items_of(c, &c->in[3], c->in[0].shape.dim[0], "query"),
            k = items_of(c, &c->in[4], c->in[1].shape.dim[0], "key");
    const struct attention_attr *a = c->attr;
    const int32_t *qo = c->in[3].data, *ko = c->in[4].data;
    for (int64_t i = 0; a->bias && q == k && i < q; i++)
        if (qo[i + 1] - qo[i] > c->in[5].shape.dim[1] || ko[i + 1] - ko[i] > c->in[5].shape.dim[2]) {
            ad_call_fail(c, "item %lld has %d queries and %d keys, more than the bias has", (long long)i,
                         qo[i + 1] - qo[i], ko[i + 1] - ko[i]);
            return 0;
        }
    return q == k ? q : 0;
}

/* ---- attention ----
 * y_i = sum_j p_ij v_j,  p_ij = exp(s_ij - l_i),  s_ij = <q_i, k_j> / sqrt(D) + bias_ij,  l_i = log sum_j exp s_ij
 *                                                                  (Vaswani et al. 2017, eq. 1; per item, per head)
 *   q (Tq, H D)  k, v (Tk, H D)  q_offsets, k_offsets i32 (B+1)  [bias (H, Sq, Sk)]
 *   ->  y (Tq, H D)  l (Tq, H), kept for the gradient
 *   Rows in the padding, and queries that see no key, give 0.
 *   error of the run: offsets that do not rise or pass the rows; an item longer than the bias */
static int check_qkv(struct ad_infer *f)
{
    const struct attention_attr *a = f->attr;
    char x[96], y[96];
    struct ad_shape q = f->in_shape[0], k = f->in_shape[1], v = f->in_shape[2];
    if (q.rank != 2 || k.rank != 2 || v.rank != 2 || q.dim[1] != k.dim[1] || !ad_same_shape(k, v))
        return ad_infer_fail(f, "q must be (Tq, C), k and v (Tk, C), not %s and %s", ad_shape_text(x, q),
                             ad_shape_text(y, k));
    if (a->heads < 1 || q.dim[1] % a->heads)
        return ad_infer_fail(f, "width %lld is not a multiple of %d heads", (long long)q.dim[1], a->heads);
    for (int i = 3; i < 5; i++)
        if (f->in_shape[i].rank != 1 || f->in_shape[i].dim[0] < 1 || f->in_dtype[i] != AD_I32)
            return ad_infer_fail(f, "offsets must be i32 (B+1), not %s", ad_shape_text(x, f->in_shape[i]));
    if (!ad_same_shape(f->in_shape[3], f->in_shape[4]))
        return ad_infer_fail(f, "queries and keys must have the same number of items");
    if (a->bias && (f->in_shape[5].rank != 3 || f->in_shape[5].dim[0] != a->heads))
        return ad_infer_fail(f, "the bias must be (%d, S, S), not %s", a->heads, ad_shape_text(x, f->in_shape[5]));
    return 0;
}

static int attention_infer(struct ad_infer *f)
{
    if (check_qkv(f)) return -1;
    f->n_out = 2;
    f->shape[0] = f->in_shape[0];
    f->shape[1] = SHAPE(f->in_shape[0].dim[0], ((const struct attention_attr *)f->attr)->heads);
    return 0;
}

/* One item and head, for the plain loops. */
struct slice {
    int64_t q0, k0, n_q, n_k, h, dim, width, heads;
    double scale;
};

static struct slice slice_of(const struct ad_call *c, int64_t item, int64_t h)
{
    const struct attention_attr *a = c->attr;
    const int32_t *qo = c->in[3].data, *ko = c->in[4].data;
    int64_t width = c->in[0].shape.dim[1], dim = width / a->heads;
    return (struct slice){qo[item], ko[item], qo[item + 1] - qo[item], ko[item + 1] - ko[item], h, dim,
                          width,    a->heads, 1 / sqrt((double)dim)};
}

static bool sees(const struct attention_attr *a, const struct slice *s, int64_t i, int64_t j)
{
    return !(a->flags & AD_CAUSAL) || j <= i + s->n_k - s->n_q;
}

/* Column 0 of this head in row `row` of an input, whose rows may lie apart (a slice of a fused qkv product). */
static int64_t at_head(const struct ad_tensor *t, const struct slice *s, int64_t row)
{
    return row * t->stride[0] + s->h * s->dim;
}

static double score(const struct ad_call *c, const struct slice *s, int64_t i, int64_t j)
{
    const struct attention_attr *a = c->attr;
    double dot = 0;
    int64_t q = at_head(&c->in[0], s, s->q0 + i), k = at_head(&c->in[1], s, s->k0 + j);
    for (int64_t d = 0; d < s->dim; d++) dot += ad_get(&c->in[0], q + d) * ad_get(&c->in[1], k + d);
    dot *= s->scale;
    if (a->bias) dot += ad_get(&c->in[5], (s->h * c->in[5].shape.dim[1] + i) * c->in[5].shape.dim[2] + j);
    return dot;
}

static void zero_out(const struct ad_call *c)
{
    for (int k = 0; k < c->n_out; k++) { /* rows may lie apart */
        int64_t rows = c->out[k].shape.dim[0], n = rows ? ad_count(c->out[k].shape) / rows : 0;
        for (int64_t i = 0; i < rows * n; i++) ad_set(&c->out[k], i / n * c->out[k].stride[0] + i % n, 0);
    }
}

static void attention_row(const struct ad_call *c, const struct slice *s, int64_t i)
{
    const struct attention_attr *a = c->attr;
    double top = -INFINITY, sum = 0;
    for (int64_t j = 0; j < s->n_k; j++) {
        if (!sees(a, s, i, j)) continue;
        double x = score(c, s, i, j);
        if (x > top || isnan(x)) top = x; /* once NaN it stays so */
    }
    if (top == -INFINITY) return;
    for (int64_t j = 0; j < s->n_k; j++)
        if (sees(a, s, i, j)) sum += exp(score(c, s, i, j) - top);
    double lse = top + log(sum);
    ad_set(&c->out[1], (s->q0 + i) * s->heads + s->h, lse);
    for (int64_t d = 0; d < s->dim; d++) {
        double y = 0;
        for (int64_t j = 0; j < s->n_k; j++)
            if (sees(a, s, i, j))
                y += exp(score(c, s, i, j) - lse) * ad_get(&c->in[2], at_head(&c->in[2], s, s->k0 + j) + d);
        ad_set(&c->out[0], (s->q0 + i) * s->width + s->h * s->dim + d, y);
    }
}

static void attention_eval(const struct ad_call *c)
{
    zero_out(c);
    int64_t items = attention_items(c), heads = ((const struct attention_attr *)c->attr)->heads;
    for (int64_t b = 0; b < items; b++)
        for (int64_t h = 0; h < heads; h++) {
            struct slice s = slice_of(c, b, h);
            for (int64_t i = 0; i < s.n_q; i++) attention_row(c, &s, i);
        }
}

static void attention_vjp(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    const struct attention_attr *a = n->attr;
    if (!dy[0]) return;
    val in[9];
    int k = 0;
    for (; k < n->n_in; k++) in[k] = n->in[k];
    in[k++] = ad_out(n, 0);
    in[k++] = ad_out(n, 1);
    in[k++] = dy[0];
    val d = ad_node(g, &ad_op_attention_grad, a, in, k);
    for (int i = 0; d && i < 3; i++) dx[i] = d + i;
    if (d && a->bias) dx[5] = d + 3;
}

static bool rows_ok(const struct ad_tensor *t)
{
    return t->shape.rank == 2 && (t->stride[1] == 1 || t->shape.dim[1] == 1);
}

/* q, k, v may be column slices of a wider matrix (a fused qkv product). */
static bool attention_takes(const struct ad_call *c, int i)
{
    return i < 3 && rows_ok(&c->in[i]) && c->in[i].dtype != AD_F64;
}

/* The two products, over the pairs that are seen; counted as for equal items, since the packed layout is known only at
 * run time. Of nq queries and nk keys causal attention sees nk - (nq - 1) / 2 a query, or where there are fewer keys
 * nk (nk + 1) / 2 pairs in all. */
static double attention_flops(const struct ad_call *c)
{
    const struct attention_attr *a = c->attr;
    double items = (double)(c->in[3].shape.dim[0] - 1);
    if (items < 1) return 0;
    double q = (double)c->in[0].shape.dim[0] / items, k = (double)c->in[1].shape.dim[0] / items, pairs = q * k;
    if (a->flags & AD_CAUSAL) pairs = k >= q ? q * (k - (q - 1) / 2) : k * (k + 1) / 2;
    return 4 * items * pairs * (double)c->in[0].shape.dim[1];
}
/* Five products, one of which computes the probabilities again. */
static double attention_grad_flops(const struct ad_call *c)
{
    return 2.5 * attention_flops(c);
}

static int case_self(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_attention(g, in[0], in[1], in[2], in[3], in[3], 0, 2, 0);
    return 1;
}
static int case_causal(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_attention(g, in[0], in[1], in[2], in[3], in[3], 0, 1, AD_CAUSAL);
    return 1;
}
static int case_bias(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_attention(g, in[0], in[1], in[2], in[3], in[3], in[4], 2, AD_CAUSAL);
    return 1;
}
static int case_cross(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_attention(g, in[0], in[1], in[2], in[3], in[4], 0, 3, 0);
    return 1;
}
static const struct ad_case attention_cases[] = {
    {.in = "7x4 7x4 7x4 off:3/7", .build = case_self},
    {.in = "6x3 6x3 6x3 off:2/5", .build = case_causal},
    {.in = "5x4 5x4 5x4 off:2/5 2x5x5", .build = case_bias},
    {.in = "4x6 9x6 9x6 off:2/4 off:2/8", .build = case_cross},
};

const struct ad_op ad_op_attention = {
    .name = "attention",
    .attr_size = sizeof(struct attention_attr),
    .min_in = 5,
    .max_in = 6,
    .half = 1,
    .infer = attention_infer,
    .eval = attention_eval,
    .vjp = attention_vjp,
    .takes = attention_takes,
    .flops = attention_flops,
    AD_CASES(attention_cases),
};

val ad_attention(struct ad_graph *g, val q, val k, val v, val q_offsets, val k_offsets, val bias, int heads,
                 unsigned flags)
{
    struct attention_attr a = {.heads = heads, .flags = flags, .bias = bias != 0};
    return ad_node(g, &ad_op_attention, &a, (val[]){q, k, v, q_offsets, k_offsets, bias}, bias ? 6 : 5);
}

/* ---- attention_grad ----
 * With g_i = dy_i, p_ij as above, t_i = <g_i, y_i>,  ds_ij = p_ij (<g_i, v_j> - t_i):
 *   dq_i = sum_j ds_ij k_j / sqrt(D),  dk_j = sum_i ds_ij q_i / sqrt(D),  dv_j = sum_i p_ij g_i,
 *   dbias_ij = sum over items of ds_ij
 *   inputs: those of attention, then y (Tq, H D), l (Tq, H), dy (Tq, H D)  ->  dq, dk, dv [, dbias]
 *   Its own derivative (second order) is built from a dense masked form: (H, Tq, Tk) memory, for short inputs. */
static int grad_infer(struct ad_infer *f)
{
    const struct attention_attr *a = f->attr;
    if (check_qkv(f)) return -1;
    f->n_out = 3 + a->bias;
    for (int i = 0; i < 3; i++) f->shape[i] = f->in_shape[i];
    f->shape[3] = f->in_shape[5];
    return 0;
}

static void add_to(const struct ad_tensor *t, int64_t i, double x)
{
    ad_set(t, i, ad_get(t, i) + x);
}

static void grad_row(const struct ad_call *c, const struct slice *s, int64_t i)
{
    const struct attention_attr *a = c->attr;
    const struct ad_tensor *y = &c->in[5 + a->bias], *lse = y + 1, *dy = y + 2;
    int64_t row = s->q0 + i, to_q = at_head(&c->out[0], s, row), at_q = at_head(&c->in[0], s, row);
    int64_t at_y = at_head(y, s, row), at_dy = at_head(dy, s, row);
    double t = 0, l = ad_get(lse, row * s->heads + s->h);
    for (int64_t d = 0; d < s->dim; d++) t += ad_get(dy, at_dy + d) * ad_get(y, at_y + d);
    for (int64_t j = 0; j < s->n_k; j++) {
        if (!sees(a, s, i, j)) continue;
        int64_t key = s->k0 + j, to_k = at_head(&c->out[1], s, key), at_k = at_head(&c->in[1], s, key);
        int64_t at_v = at_head(&c->in[2], s, key), to_v = at_head(&c->out[2], s, key);
        double p = exp(score(c, s, i, j) - l), dp = 0;
        for (int64_t d = 0; d < s->dim; d++) dp += ad_get(dy, at_dy + d) * ad_get(&c->in[2], at_v + d);
        double ds = p * (dp - t);
        for (int64_t d = 0; d < s->dim; d++) {
            add_to(&c->out[0], to_q + d, ds * s->scale * ad_get(&c->in[1], at_k + d));
            add_to(&c->out[1], to_k + d, ds * s->scale * ad_get(&c->in[0], at_q + d));
            add_to(&c->out[2], to_v + d, p * ad_get(dy, at_dy + d));
        }
        if (a->bias) add_to(&c->out[3], (s->h * c->in[5].shape.dim[1] + i) * c->in[5].shape.dim[2] + j, ds);
    }
}

static void grad_eval(const struct ad_call *c)
{
    zero_out(c);
    int64_t items = attention_items(c), heads = ((const struct attention_attr *)c->attr)->heads;
    for (int64_t b = 0; b < items; b++)
        for (int64_t h = 0; h < heads; h++) {
            struct slice s = slice_of(c, b, h);
            for (int64_t i = 0; i < s.n_q; i++) grad_row(c, &s, i);
        }
}

/* (T, H D) -> (H, T, D) */
static val by_head(struct ad_graph *g, val x, int heads)
{
    int64_t t = ad_dim(g, x, 0), d = ad_dim(g, x, 1) / heads;
    return ad_transpose(g, ad_reshape(g, x, SHAPE(t, heads, d)), (int[]){1, 0, 2});
}

/* 1 where query row i and key row j belong to one item (and causality allows it), (Tq, Tk). */
static val dense_mask(struct ad_graph *g, const val *in, unsigned flags, enum ad_dtype t, val *q_at, val *k_at)
{
    int64_t nq = ad_dim(g, in[0], 0), nk = ad_dim(g, in[1], 0);
    val qi = ad_cast(g, ad_packed_item(g, in[3], nq), t), ki = ad_cast(g, ad_packed_item(g, in[4], nk), t);
    *q_at = ad_packed_position(g, in[3], nq);
    *k_at = ad_packed_position(g, in[4], nk);
    val mask = ad_equal(g, ad_reshape(g, qi, SHAPE(nq, 1)), ad_reshape(g, ki, SHAPE(1, nk)));
    mask = ad_mul(g, mask, ad_greater_equal(g, ad_reshape(g, qi, SHAPE(nq, 1)), ad_const(g, t, 0)));
    if (!(flags & AD_CAUSAL)) return mask;
    val ones_q = ad_full(g, t, SHAPE(nq, 1), 1), ones_k = ad_full(g, t, SHAPE(nk, 1), 1);
    val len_q = ad_gather(g, ad_segment_sum(g, ones_q, in[3]), ad_packed_item(g, in[3], nq)); /* (Tq, 1) */
    val len_k = ad_gather(g, ad_segment_sum(g, ones_k, in[4]), ad_packed_item(g, in[3], nq));
    val limit = ad_add(g, ad_reshape(g, ad_cast(g, *q_at, t), SHAPE(nq, 1)), ad_sub(g, len_k, len_q));
    return ad_mul(g, mask, ad_less_equal(g, ad_reshape(g, ad_cast(g, *k_at, t), SHAPE(1, nk)), limit));
}

/* The same attention from ordinary ops: differentiable as often as one likes. `in` as attention's inputs. */
static val dense_attention(struct ad_graph *g, const val *in, const struct attention_attr *a)
{
    enum ad_dtype t = ad_dtype_of(g, in[0]);
    int64_t nq = ad_dim(g, in[0], 0), width = ad_dim(g, in[0], 1);
    val q_at, k_at, mask = dense_mask(g, in, a->flags, t, &q_at, &k_at);
    val s = ad_scale(g, ad_matmul(g, by_head(g, in[0], a->heads), by_head(g, in[1], a->heads), false, true),
                     1 / sqrt((double)(width / a->heads)));
    if (a->bias) {
        int64_t sk = ad_dim(g, in[5], 2);
        val rows = ad_gather(g, ad_transpose(g, in[5], (int[]){1, 2, 0}), q_at); /* (Tq, Sk, H) */
        rows = ad_gather(g, ad_transpose(g, ad_reshape(g, rows, SHAPE(nq, sk, a->heads)), (int[]){1, 0, 2}),
                         k_at); /* (Tk, Tq, H) */
        s = ad_add(g, s, ad_transpose(g, rows, (int[]){2, 1, 0}));
    }
    s = ad_add(g, s, ad_scale(g, ad_shift(g, ad_neg(g, mask), 1), -1e30));
    val p = ad_mul(g, ad_softmax(g, s), mask); /* rows that see nothing: 0 */
    val y = ad_matmul(g, p, by_head(g, in[2], a->heads), false, false);
    return ad_reshape(g, ad_transpose(g, y, (int[]){1, 0, 2}), SHAPE(nq, width));
}

static void grad_vjp(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    const struct attention_attr *a = n->attr;
    int n_in = 5 + a->bias, at_dy = n_in + 2;
    val in[6], leaf[5], first[4], ys[4], seeds[4], second[5];
    /* Cut off from what made them, so that the derivatives are partial ones. */
    for (int i = 0; i < n_in; i++) in[i] = i == 3 || i == 4 ? n->in[i] : ad_stop_gradient(g, n->in[i]);
    int n_leaf = 0;
    for (int i = 0; i < 3; i++) leaf[n_leaf++] = in[i];
    if (a->bias) leaf[n_leaf++] = in[5];
    val dout = ad_stop_gradient(g, n->in[at_dy]), y = dense_attention(g, in, a);
    if (!y) return;
    ad_grad(g, &y, &dout, 1, leaf, n_leaf, first);
    int n_y = 0;
    for (int i = 0; i < n_leaf; i++)
        if (dy[i]) ys[n_y] = first[i], seeds[n_y++] = dy[i];
    leaf[n_leaf] = dout;
    ad_grad(g, ys, seeds, n_y, leaf, n_leaf + 1, second);
    for (int i = 0; i < 3; i++) dx[i] = second[i];
    if (a->bias) dx[5] = second[3];
    dx[at_dy] = second[n_leaf];
}

static bool grad_takes(const struct ad_call *c, int i)
{
    const struct attention_attr *a = c->attr;
    return (i < 3 || i == 5 + a->bias || i == 7 + a->bias) && rows_ok(&c->in[i]) && c->in[i].dtype != AD_F64;
}

const struct ad_op ad_op_attention_grad = {
    .name = "attention_grad",
    .attr_size = sizeof(struct attention_attr),
    .min_in = 8,
    .max_in = 9,
    .half = 7,
    .infer = grad_infer,
    .eval = grad_eval,
    .vjp = grad_vjp,
    .takes = grad_takes,
    .apart = 7, /* dq, dk, dv may become columns of a joined gradient */
    .flops = attention_grad_flops,
};
