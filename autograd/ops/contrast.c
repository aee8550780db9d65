/* Contrastive losses over all pairs of two sets of vectors, and their gradients. There is no (N x M) tensor: the kernels
 * (autograd/kernels/contrast.c) go over tiles of it, forward with a running logsumexp of every row and column, and once
 * more for the gradient (Cheng et al. 2024, sec. 3). So many tiles as fit into a given number of bytes are kept from
 * forward to gradient, which spares one product of four; the others are multiplied again, to the same bits. */
#include "autograd/ops/contrast.h"

#include <math.h>

#include "autograd/ops/common.h"

/* ---- contrast ----
 * Of a_i (N, D) and b_j (M, D), u_ij = <a_i, b_j>. A pair is valid where has_a_i and has_b_j are not 0, and positive where
 * besides id_a_i = id_b_j.
 *
 * InfoNCE: s_ij = scale u_ij. Rows: l_i = log sum over valid j of exp s_ij, c_i the number of i's positives, and
 *   loss_i = l_i - 1/c_i sum over them of s_ij, averaged over the i with c_i > 0. Columns likewise. The loss is the mean of
 *   both directions (van den Oord et al. 2018, eq. 4; Radford et al. 2021, fig. 3; several positives as Khosla et al. 2020,
 *   eq. 2); a direction without positives counts 0.
 * SigLIP: t_ij = scale u_ij + bias, z_ij = 1 for a positive pair and -1 for another; the loss is the sum over valid pairs of
 *   log(1 + exp(-z_ij t_ij)) (Zhai et al. 2023, alg. 1, without the division by the batch).
 *
 *   a (N, D)  b (M, D)  has_a (N)  has_b (M)  id_a i32 (N)  id_b i32 (M)  scale ()  [bias ()]
 *   ->  loss ()  [InfoNCE: l (N), l (M), c (N), c (M), for the gradient; 0 where there is no candidate]
 *       tiles, which only the kernels of contrast and contrast_grad write and read: f32 only, 0 by eval
 *   Vectors that are absent must be finite; what they hold does not matter. */
static int check(struct ad_infer *f)
{
    const struct contrast_attr *t = f->attr;
    char x[96], y[96];
    struct ad_shape a = f->in_shape[CONTRAST_A], b = f->in_shape[CONTRAST_B];
    if (!ad_is_float(f->in_dtype[0]))
        return ad_infer_fail(f, "it needs f32 or f64 numbers, not %s", ad_dtype_name(f->in_dtype[0]));
    if (a.rank != 2 || b.rank != 2 || a.dim[1] != b.dim[1])
        return ad_infer_fail(f, "the vectors must be (N, D) and (M, D), not %s and %s", ad_shape_text(x, a),
                             ad_shape_text(y, b));
    for (int i = CONTRAST_B; i < f->n_in; i++) {
        bool id = i == CONTRAST_ID_A || i == CONTRAST_ID_B;
        if (f->in_dtype[i] != (id ? AD_I32 : f->in_dtype[0]))
            return ad_infer_fail(f, "input %d must be %s, not %s", i, ad_dtype_name(id ? AD_I32 : f->in_dtype[0]),
                                 ad_dtype_name(f->in_dtype[i]));
    }
    for (int i = CONTRAST_HAS_A; i < contrast_inputs(t); i++) {
        int64_t n = i == CONTRAST_HAS_A || i == CONTRAST_ID_A ? a.dim[0] : b.dim[0];
        struct ad_shape want = i < CONTRAST_SCALE ? SHAPE(n) : SCALAR;
        if (!ad_same_shape(f->in_shape[i], want))
            return ad_infer_fail(f, "input %d must be %s, not %s", i, ad_shape_text(x, want),
                                 ad_shape_text(y, f->in_shape[i]));
    }
    return 0;
}

/* Sixteen blocks a side, for as many threads, where they have 128 rows each; as large as they get beyond that. */
struct contrast_tiles contrast_tiles(const struct contrast_attr *a, enum ad_dtype t, int64_t n, int64_t m)
{
    int64_t side = n < m ? n : m, half = (side + 1) / 2, b = half < 128 ? half : side / 16 < 128 ? 128 : side / 16;
    struct contrast_tiles s = {.block = b > CONTRAST_TILE ? CONTRAST_TILE : b < 1 ? 16 : (b + 15) / 16 * 16};
    s.rows = (n + s.block - 1) / s.block;
    s.columns = (m + s.block - 1) / s.block;
    s.kept = t == AD_F32 ? a->keep / (s.block * s.block * (int64_t)sizeof(float)) : 0;
    if (s.kept > s.rows * s.columns) s.kept = s.rows * s.columns;
    return s;
}

static int contrast_infer(struct ad_infer *f)
{
    const struct contrast_attr *t = f->attr;
    if (f->n_in != contrast_inputs(t)) return ad_infer_fail(f, "it takes %d inputs", contrast_inputs(t));
    if (check(f)) return -1;
    int64_t n = f->in_shape[CONTRAST_A].dim[0], m = f->in_shape[CONTRAST_B].dim[0];
    struct contrast_tiles s = contrast_tiles(t, f->in_dtype[0], n, m);
    f->n_out = contrast_outputs(t);
    f->shape[0] = SCALAR;
    f->shape[f->n_out - 1] = SHAPE(s.kept * s.block * s.block);
    for (int i = 1; i < f->n_out - 1; i++) f->shape[i] = SHAPE(i % 2 ? n : m);
    return 0;
}

static int64_t count_of(const struct ad_call *c, bool back)
{
    return c->in[back ? CONTRAST_B : CONTRAST_A].shape.dim[0];
}
static bool valid(const struct ad_call *c, int64_t i, int64_t j)
{
    return ad_get(&c->in[CONTRAST_HAS_A], i) != 0 && ad_get(&c->in[CONTRAST_HAS_B], j) != 0;
}
static bool positive(const struct ad_call *c, int64_t i, int64_t j)
{
    return ad_get_int(&c->in[CONTRAST_ID_A], i) == ad_get_int(&c->in[CONTRAST_ID_B], j);
}
static double similarity(const struct ad_call *c, int64_t i, int64_t j)
{
    const struct ad_tensor *a = &c->in[CONTRAST_A], *b = &c->in[CONTRAST_B];
    double u = 0;
    for (int64_t d = 0; d < a->shape.dim[1]; d++)
        u += ad_get(a, i * a->stride[0] + d) * ad_get(b, j * b->stride[0] + d);
    return u;
}
static double logit(const struct ad_call *c, int64_t i, int64_t j)
{
    double s = ad_get(&c->in[CONTRAST_SCALE], 0) * similarity(c, i, j);
    return c->n_in > CONTRAST_BIAS && ((const struct contrast_attr *)c->attr)->kind == CONTRAST_SIGLIP
               ? s + ad_get(&c->in[CONTRAST_BIAS], 0)
               : s;
}

/* One direction of InfoNCE: q runs over queries, k over candidates. Fills l and c; returns the mean loss. */
static double infonce_direction(const struct ad_call *c, bool back)
{
    double total = 0, queries = 0;
    for (int64_t q = 0; q < count_of(c, back); q++) {
        double top = -INFINITY, sum = 0, mean = 0, count = 0;
        for (int pass = 0; pass < 2; pass++)
            for (int64_t k = 0; k < count_of(c, !back); k++) {
                int64_t i = back ? k : q, j = back ? q : k;
                if (!valid(c, i, j)) continue;
                double s = logit(c, i, j);
                if (pass == 0) {
                    top = fmax(top, s);
                    continue;
                }
                sum += exp(s - (top == -INFINITY ? 0 : top));
                if (positive(c, i, j)) mean += s, count++;
            }
        double l = sum == 0 ? 0 : top + log(sum);
        ad_set(&c->out[1 + back], q, l);
        ad_set(&c->out[3 + back], q, count);
        if (count == 0) continue;
        total += l - mean / count;
        queries++;
    }
    return queries > 0 ? total / queries : 0;
}

static double softplus(double x)
{
    return fmax(x, 0) + log1p(exp(-fabs(x))) + (isnan(x) ? x : 0);
}

static void contrast_eval(const struct ad_call *c)
{
    const struct contrast_attr *t = c->attr;
    double loss = 0;
    if (t->kind == CONTRAST_INFONCE) loss = (infonce_direction(c, false) + infonce_direction(c, true)) / 2;
    for (int64_t i = 0; t->kind == CONTRAST_SIGLIP && i < count_of(c, false); i++)
        for (int64_t j = 0; j < count_of(c, true); j++)
            if (valid(c, i, j)) loss += softplus(positive(c, i, j) ? -logit(c, i, j) : logit(c, i, j));
    ad_set(&c->out[0], 0, loss);
    for (int64_t i = 0, n = ad_count(c->out[c->n_out - 1].shape); i < n; i++) ad_set(&c->out[c->n_out - 1], i, 0);
}

static void contrast_vjp(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    const struct contrast_attr *t = n->attr;
    val in[16];
    int k = 0;
    if (!dy[0]) return;
    for (; k < n->n_in; k++) in[k] = n->in[k];
    for (int i = 1; i < n->n_out; i++) in[k++] = ad_out(n, i);
    in[k++] = dy[0];
    val d = ad_node(g, &ad_op_contrast_grad, t, in, k);
    if (!d) return;
    dx[CONTRAST_A] = d;
    dx[CONTRAST_B] = d + 1;
    dx[CONTRAST_SCALE] = d + 2;
    if (t->kind == CONTRAST_SIGLIP) dx[CONTRAST_BIAS] = d + 3;
}

/* Rows of vectors may lie apart (a slice of a wider matrix). */
static bool contrast_takes(const struct ad_call *c, int i)
{
    const struct ad_tensor *t = &c->in[i];
    return i <= CONTRAST_B && t->shape.rank == 2 && (t->stride[1] == 1 || t->shape.dim[1] == 1) &&
           (t->stride[0] >= t->shape.dim[1] || t->shape.dim[0] == 1);
}

/* A product of N, M and D, and some 20 operations a pair. */
static double contrast_flops(const struct ad_call *c)
{
    return (double)(count_of(c, false) * count_of(c, true)) * (2 * (double)c->in[CONTRAST_A].shape.dim[1] + 20);
}
/* Two of that size, and the same again for tiles that were not kept. */
static double contrast_grad_flops(const struct ad_call *c)
{
    int64_t n = count_of(c, false), m = count_of(c, true), width = c->in[CONTRAST_A].shape.dim[1];
    struct contrast_tiles t = contrast_tiles(c->attr, c->in[0].dtype, n, m);
    double again = t.kept < t.rows * t.columns ? 1 - (double)t.kept / (double)(t.rows * t.columns) : 0;
    return (double)(n * m) * ((4 + 2 * again) * (double)width + 20);
}

/* ---- cases -------------------------------------------------------------------------------------------------------- */

/* `mask`: bit i of has_a, bit 8 + j of has_b is 0. */
static struct ad_pairs pairs(struct ad_graph *g, const val *in, unsigned absent)
{
    struct ad_pairs p = {.a = in[0], .b = in[1], .id_a = in[2], .id_b = in[3]};
    float has[2][8];
    for (int k = 0; k < 16; k++) has[k / 8][k % 8] = !(absent >> k & 1);
    for (int k = 0; k < 2; k++)
        (k ? &p.has_b : &p.has_a)[0] =
            ad_cast(g, ad_const_data(g, AD_F32, SHAPE(ad_dim(g, in[k], 0)), has[k]), ad_dtype_of(g, in[0]));
    return p;
}
static int case_infonce(struct ad_graph *g, const val *in, val *out)
{
    struct ad_pairs p = pairs(g, in, 0);
    out[0] = ad_infonce(g, &p, in[4]);
    return 1;
}
static int case_infonce_absent(struct ad_graph *g, const val *in, val *out)
{
    struct ad_pairs p = pairs(g, in, 0x412);
    out[0] = ad_infonce(g, &p, in[4]);
    return 1;
}
static int case_infonce_alone(struct ad_graph *g, const val *in, val *out)
{
    struct ad_pairs p = pairs(g, in, 0xff00);
    out[0] = ad_infonce(g, &p, in[4]);
    return 1;
}
static int case_siglip(struct ad_graph *g, const val *in, val *out)
{
    struct ad_pairs p = pairs(g, in, 0);
    out[0] = ad_siglip_sum(g, &p, in[4], in[5]);
    return 1;
}
static int case_siglip_absent(struct ad_graph *g, const val *in, val *out)
{
    struct ad_pairs p = pairs(g, in, 0x412);
    out[0] = ad_siglip_sum(g, &p, in[4], in[5]);
    return 1;
}
static const struct ad_case contrast_cases[] = {
    {.in = "4x3 4x3 i32:4<9 i32:4<9 ()", .build = case_infonce},
    {.in = "5x2 7x2 i32:5<3 i32:7<3 ()", .build = case_infonce},
    {.in = "7x3 5x3 i32:7<3 i32:5<3 ()", .build = case_infonce_absent},
    {.in = "3x3 4x3 i32:3<2 i32:4<2 ()", .build = case_infonce_alone},
    {.in = "4x3 6x3 i32:4<3 i32:6<3 () ()", .build = case_siglip},
    {.in = "7x3 5x3 i32:7<3 i32:5<3 () ()", .build = case_siglip_absent},
};

const struct ad_op ad_op_contrast = {
    .name = "contrast",
    .attr_size = sizeof(struct contrast_attr),
    .min_in = 7,
    .max_in = 8,
    .flags = AD_EXACT,
    .infer = contrast_infer,
    .eval = contrast_eval,
    .vjp = contrast_vjp,
    .takes = contrast_takes,
    .flops = contrast_flops,
    AD_CASES(contrast_cases),
};

static val emit(struct ad_graph *g, enum contrast_kind kind, const struct ad_pairs *p, val scale, val bias)
{
    struct contrast_attr t = {.kind = kind, .keep = p->keep};
    val in[] = {p->a, p->b, p->has_a, p->has_b, p->id_a, p->id_b, scale, bias};
    return ad_node(g, &ad_op_contrast, &t, in, contrast_inputs(&t));
}
val ad_infonce(struct ad_graph *g, const struct ad_pairs *p, val scale)
{
    return emit(g, CONTRAST_INFONCE, p, scale, 0);
}
val ad_siglip_sum(struct ad_graph *g, const struct ad_pairs *p, val scale, val bias)
{
    return emit(g, CONTRAST_SIGLIP, p, scale, bias);
}

/* ---- contrast_grad ----
 * With e = dloss, over valid pairs, p_ij 1 for a positive one:
 *   InfoNCE: w_i = e / (2 number of rows with c_i > 0) where c_i > 0, otherwise 0; v_j likewise over columns,
 *     h_ij = w_i exp(s_ij - l_i) + v_j exp(s_ij - l_j) - p_ij (w_i / c_i + v_j / c_j)
 *   SigLIP: h_ij = -e z_ij / (1 + exp(z_ij t_ij))
 *   da_i = scale sum_j h_ij b_j,  db_j = scale sum_i h_ij a_i,  dscale = sum h_ij u_ij,  dbias = sum h_ij
 *   inputs: those of contrast, [InfoNCE: l (N), l (M), c (N), c (M)], tiles, dloss ()  ->  da, db, dscale [, dbias]
 *   Its own derivative (second order) is built from other ops with (N, M) tensors: for small batches. */
static int grad_infer(struct ad_infer *f)
{
    const struct contrast_attr *t = f->attr;
    int n_in = contrast_inputs(t) + contrast_outputs(t);
    if (f->n_in != n_in) return ad_infer_fail(f, "it takes %d inputs", n_in);
    if (check(f)) return -1;
    f->n_out = t->kind == CONTRAST_INFONCE ? 3 : 4;
    f->shape[0] = f->in_shape[CONTRAST_A];
    f->shape[1] = f->in_shape[CONTRAST_B];
    f->shape[2] = f->shape[3] = SCALAR;
    return 0;
}

/* dloss / (2 queries that count) */
static double weight_of(const struct ad_call *c, bool back)
{
    double queries = 0;
    for (int64_t q = 0; q < count_of(c, back); q++) queries += ad_get(&c->in[CONTRAST_BIAS + 2 + back], q) > 0;
    return queries > 0 ? ad_get(&c->in[c->n_in - 1], 0) / (2 * queries) : 0;
}

/* One direction's part of h_ij, for query q. */
static double infonce_slope(const struct ad_call *c, bool back, double weight, int64_t q, double s, bool is_positive)
{
    double count = ad_get(&c->in[CONTRAST_BIAS + 2 + back], q);
    if (!(count > 0)) return 0;
    return weight * (exp(s - ad_get(&c->in[CONTRAST_BIAS + back], q)) - (is_positive ? 1 / count : 0));
}

static void add_to(const struct ad_tensor *t, int64_t i, double x)
{
    ad_set(t, i, ad_get(t, i) + x);
}

static void grad_eval(const struct ad_call *c)
{
    const struct contrast_attr *t = c->attr;
    const struct ad_tensor *a = &c->in[CONTRAST_A], *b = &c->in[CONTRAST_B];
    bool infonce = t->kind == CONTRAST_INFONCE;
    double weight[2] = {infonce ? weight_of(c, false) : 0, infonce ? weight_of(c, true) : 0}, dscale = 0, dbias = 0;
    double scale = ad_get(&c->in[CONTRAST_SCALE], 0), e = ad_get(&c->in[c->n_in - 1], 0);
    int64_t width = a->shape.dim[1];
    for (int k = 0; k < 2; k++)
        for (int64_t i = 0; i < ad_count(c->out[k].shape); i++) ad_set(&c->out[k], i, 0);
    for (int64_t i = 0; i < count_of(c, false); i++)
        for (int64_t j = 0; j < count_of(c, true); j++) {
            if (!valid(c, i, j)) continue;
            double u = similarity(c, i, j), s = logit(c, i, j), z = positive(c, i, j) ? 1 : -1;
            double h = infonce ? infonce_slope(c, false, weight[0], i, s, z > 0) +
                                     infonce_slope(c, true, weight[1], j, s, z > 0)
                               : -e * z / (1 + exp(z * s));
            for (int64_t d = 0; d < width; d++) {
                add_to(&c->out[0], i * width + d, scale * h * ad_get(b, j * b->stride[0] + d));
                add_to(&c->out[1], j * width + d, scale * h * ad_get(a, i * a->stride[0] + d));
            }
            dscale += h * u;
            dbias += h;
        }
    ad_set(&c->out[2], 0, dscale);
    if (!infonce) ad_set(&c->out[3], 0, dbias);
}

/* One direction from ordinary ops: rows are queries. */
static val dense_direction(struct ad_graph *g, val logits, val positives, val has_candidate)
{
    enum ad_dtype t = ad_dtype_of(g, logits);
    int64_t n = ad_dim(g, logits, 0), m = ad_dim(g, logits, 1);
    val absent = ad_scale(g, ad_shift(g, ad_neg(g, has_candidate), 1), -1e9); /* 0, or -1e9 */
    val logp = ad_log_softmax(g, ad_add(g, logits, ad_reshape(g, absent, SHAPE(1, m))));
    val count = ad_sum_last(g, positives), one = ad_const(g, t, 1);
    val target = ad_div(g, positives, ad_maximum(g, count, one));
    val loss = ad_neg(g, ad_sum(g, ad_mul(g, target, logp), 2, false));
    val counts = ad_greater(g, ad_reshape(g, count, SHAPE(n)), ad_const(g, t, 0));
    return ad_div(g, ad_sum_all(g, ad_mul(g, loss, counts)), ad_maximum(g, ad_sum_all(g, counts), one));
}

/* The same loss from ordinary ops: differentiable as often as one likes. */
static val dense_contrast(struct ad_graph *g, const val *in, const struct contrast_attr *t)
{
    enum ad_dtype type = ad_dtype_of(g, in[CONTRAST_A]);
    int64_t n = ad_dim(g, in[CONTRAST_A], 0), m = ad_dim(g, in[CONTRAST_B], 0);
    val none = ad_const(g, type, 0), has_a = ad_not_equal(g, in[CONTRAST_HAS_A], none),
        has_b = ad_not_equal(g, in[CONTRAST_HAS_B], none);
    val both = ad_mul(g, ad_reshape(g, has_a, SHAPE(n, 1)), ad_reshape(g, has_b, SHAPE(1, m)));
    val same =
        ad_equal(g, ad_reshape(g, in[CONTRAST_ID_A], SHAPE(n, 1)), ad_reshape(g, in[CONTRAST_ID_B], SHAPE(1, m)));
    val positives = ad_mul(g, ad_cast(g, same, type), both);
    val logits = ad_mul(g, ad_matmul(g, in[CONTRAST_A], in[CONTRAST_B], false, true), in[CONTRAST_SCALE]);
    if (t->kind == CONTRAST_SIGLIP) {
        val z = ad_shift(g, ad_scale(g, positives, 2), -1);
        val loss = ad_softplus(g, ad_neg(g, ad_mul(g, z, ad_add(g, logits, in[CONTRAST_BIAS]))));
        return ad_sum_all(g, ad_mul(g, loss, both));
    }
    val forth = dense_direction(g, logits, positives, has_b),
        back = dense_direction(g, ad_swap(g, logits, 0, 1), ad_swap(g, positives, 0, 1), has_a);
    return ad_scale(g, ad_add(g, forth, back), 0.5);
}

static void grad_vjp(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    const struct contrast_attr *t = n->attr;
    int n_in = contrast_inputs(t), n_leaf = 0, n_y = 0, at[4] = {CONTRAST_A, CONTRAST_B, CONTRAST_SCALE, CONTRAST_BIAS};
    val in[8], leaf[5], first[4], ys[4], seeds[4], second[5];
    /* Cut off from what made them, so that the derivatives are partial ones. */
    for (int i = 0; i < n_in; i++)
        in[i] = i < CONTRAST_HAS_A || i >= CONTRAST_SCALE ? ad_stop_gradient(g, n->in[i]) : n->in[i];
    for (; n_leaf < n->n_out; n_leaf++) leaf[n_leaf] = in[at[n_leaf]];
    val e = ad_stop_gradient(g, n->in[n->n_in - 1]), loss = dense_contrast(g, in, t);
    if (!loss) return;
    ad_grad(g, &loss, &e, 1, leaf, n_leaf, first);
    for (int i = 0; i < n_leaf; i++)
        if (dy[i]) ys[n_y] = first[i], seeds[n_y++] = dy[i];
    leaf[n_leaf] = e;
    ad_grad(g, ys, seeds, n_y, leaf, n_leaf + 1, second);
    for (int i = 0; i < n_leaf; i++) dx[at[i]] = second[i];
    dx[n->n_in - 1] = second[n_leaf];
}

const struct ad_op ad_op_contrast_grad = {
    .name = "contrast_grad",
    .attr_size = sizeof(struct contrast_attr),
    .min_in = 10,
    .max_in = 13,
    .flags = AD_EXACT,
    .infer = grad_infer,
    .eval = grad_eval,
    .vjp = grad_vjp,
    .takes = contrast_takes,
    .flops = contrast_grad_flops,
};
