/* The builders of every op. Formulas, dtypes and errors stand in the op's own file; here are the shapes.
 * Elementwise ops broadcast as NumPy does. `axis` may be negative. Images are (N, H, W, C), sequences (N, T, C); packed
 * sequences are (T, C) with `offsets` (B+1) int32: item b is rows offsets[b] .. offsets[b+1]-1, rows from offsets[B] on
 * are padding, which reads as data and receives zero. */
#ifndef TRIAD_AUTOGRAD_OPS_H
#define TRIAD_AUTOGRAD_OPS_H

#include "autograd/graph.h"

#define G struct ad_graph *g

/* ---- unary.c: elementwise, one input ----------------------------------------------------------------------------- */
/* clang-format off */
#define AD_UNARY(X)                                                                                                    \
    X(neg) X(abs) X(sign) X(square) X(sqrt) X(rsqrt) X(reciprocal) X(exp) X(expm1) X(log) X(log1p) X(sin) X(cos)       \
    X(tan) X(tanh) X(sigmoid) X(softplus) X(relu) X(gelu) X(gelu_tanh) X(quick_gelu) X(silu) X(erf) X(floor) X(ceil)   \
    X(round) X(is_finite)
/* clang-format on */
#define X(name) val ad_##name(G, val x);
AD_UNARY(X)
#undef X
val ad_leaky_relu(G, val x, double slope);
val ad_elu(G, val x, double alpha);
val ad_clamp(G, val x, double lo, double hi); /* gradient 1 inside and on the bounds, 0 outside */
val ad_scale(G, val x, double factor);        /* x * factor */
val ad_shift(G, val x, double by);            /* x + by */
val ad_power(G, val x, double exponent);
val ad_cast(G, val x, enum ad_dtype to);
val ad_stop_gradient(G, val x);

/* ---- binary.c: elementwise, two or three inputs ------------------------------------------------------------------ */
/* clang-format off */
#define AD_BINARY(X)                                                                                                   \
    X(add) X(sub) X(mul) X(div) X(pow) X(maximum) X(minimum) X(atan2) X(equal) X(not_equal) X(less) X(less_equal)      \
    X(greater) X(greater_equal) X(logical_and) X(logical_or)
/* clang-format on */
#define X(name) val ad_##name(G, val a, val b); /* comparisons give 0 or 1, f32 for integer inputs */
AD_BINARY(X)
#undef X
val ad_where(G, val cond, val a, val b); /* cond != 0 ? a : b */

/* ---- reduce.c: over the axes of a bit mask (bit i: axis i) ------------------------------------------------------- */
val ad_sum(G, val x, unsigned axes, bool keep); /* keep: reduced axes stay with size 1 */
val ad_mean(G, val x, unsigned axes, bool keep);
val ad_max(G, val x, unsigned axes, bool keep); /* the gradient goes to all places of the maximum, shared evenly */
val ad_min(G, val x, unsigned axes, bool keep);
val ad_sum_all(G, val x); /* -> () */
val ad_mean_all(G, val x);
val ad_sum_last(G, val x); /* (..., D) -> (..., 1) */
val ad_mean_last(G, val x);
val ad_sum_to(G, val x, struct ad_shape s);                 /* the adjoint of broadcasting s to x */
val ad_sum_products_to(G, val a, val b, struct ad_shape s); /* the same of a b, which need not be there */
val ad_argmax(G, val x, int axis);                          /* int32, axis removed; the first of equals */
val ad_cumsum(G, val x, int axis, bool reverse);
val ad_logsumexp(G, val x, int axis, bool keep);
/* The k largest along the last axis, in falling order (ties: lower index first): values (..., k), int32 indices (...,
 * k). */
val ad_top_k(G, val x, int64_t k, val *index);

/* ---- softmax.c --------------------------------------------------------------------------------------------------- */
val ad_softmax(G, val x); /* over the last axis */
val ad_log_softmax(G, val x);

/* ---- shape.c: views where the consumer can take strides ---------------------------------------------------------- */
val ad_reshape(G, val x, struct ad_shape s); /* one dimension may be -1 */
val ad_transpose(G, val x, const int *perm); /* perm[rank]: output axis i is input axis perm[i] */
val ad_swap(G, val x, int axis_a, int axis_b);
val ad_broadcast(G, val x, struct ad_shape s);
val ad_slice(G, val x, int axis, int64_t start, int64_t stop, int64_t step); /* step >= 1 */
void ad_split(G, val x, int axis, int n, val *out);                          /* n equal parts */
val ad_concat(G, const val *x, int n, int axis);
val ad_pad(G, val x, int axis, int64_t before, int64_t after, double value);
val ad_flip(G, val x, int axis);

/* ---- index.c ----------------------------------------------------------------------------------------------------- */
/* Rows of `table` (V, ...) at `index` (any shape I, int): (I..., ...). Index -1 gives zeros; others out of range are an
 * error of the run. */
val ad_gather(G, val table, val index);
/* (rows, ...) zero, with x (I..., ...) added at `index` (I...); -1 is left out. The adjoint of gather. */
val ad_scatter_add(G, val x, val index, int64_t rows);
val ad_one_hot(G, val index, int64_t classes, enum ad_dtype t); /* (I...) -> (I..., classes); -1 gives zeros */
val ad_iota(G, enum ad_dtype t, int64_t n);                     /* 0 .. n-1 */
val ad_take_last(G, val x, val index); /* x (..., C), index (...) int -> (...): one number of each row; -1 gives 0 */

/* ---- packed.c: sequences packed one after another ---------------------------------------------------------------- */
val ad_segment_sum(G, val x, val offsets);  /* (T, C), (B+1) -> (B, C) */
val ad_segment_mean(G, val x, val offsets); /* empty segments give 0 */
val ad_segment_broadcast(G, val x, val offsets,
                         int64_t rows); /* (B, C) -> (rows, C): row t has its item's x; padding 0 */
val ad_segment_edge(G, val x, val offsets,
                    bool last); /* (T, C) -> (B, C): each item's first or last row; empty gives 0 */
val ad_packed_position(G, val offsets, int64_t rows); /* int32 (rows): 0.. within the item; -1 in the padding */
val ad_packed_item(G, val offsets, int64_t rows);     /* int32 (rows): the item's number; -1 in the padding */
/* Offsets after a 1-d convolution of each item: n -> max(0, (n + 2 pad - kernel) / stride + 1), items of 0 rows stay 0.
 */
val ad_packed_conv_offsets(G, val offsets, int kernel, int stride, int pad);
int64_t ad_packed_conv_rows(int64_t n, int64_t kernel, int64_t stride, int64_t pad); /* that rule, for one item */
/* int32 (rows_out, kernel): the input row that each tap of each output row reads, -1 outside of the item. With gather,
 * reshape and matmul this is a convolution that never crosses from one item into the next. */
val ad_packed_conv_index(G, val offsets, val out_offsets, int64_t rows_out, int kernel, int stride, int pad);

/* ---- matmul.c ---------------------------------------------------------------------------------------------------- */
/* a (..., M, K), b (..., K, N) -> (..., M, N); leading axes broadcast; ta, tb: the last two axes of a, b are swapped.
 * A 2-d b with an a of more axes is one large product. */
val ad_matmul(G, val a, val b, bool ta, bool tb);
val ad_linear(G, val x, val weight, val bias); /* x (..., K), weight (K, N), bias (N) or 0 -> (..., N) */

/* ---- norm.c: each keeps mean and variance for its gradient; gain and bias may be 0 (none) ----------------------- */
val ad_layer_norm(G, val x, val gain, val bias, double eps); /* over the last axis */
val ad_rms_norm(G, val x, val gain, double eps);
val ad_group_norm(G, val x, val gain, val bias, int groups,
                  double eps); /* (N, ..., C) over the inner axes and C/groups */

/* ---- batch_norm.c -------------------------------------------------------------------------------------------------- */
/* (..., C) over all but the last axis. Training: batch statistics; *mean, *var (biased) (C) come out for the running
 * ones. gain and bias may be 0 (none). */
val ad_batch_norm(G, val x, val gain, val bias, double eps, val *mean, val *var);
enum ad_norm_act { AD_ACT_NONE, AD_ACT_RELU, AD_ACT_SILU };
/* act(batch norm of x + residual): one op, whose gradient keeps x only. residual as x, or 0 (none). */
val ad_batch_norm_act(G, val x, val gain, val bias, val residual, enum ad_norm_act act, double eps, val *mean,
                      val *var);
/* With given statistics: inference. */
val ad_batch_norm_fixed(G, val x, val gain, val bias, val mean, val var, double eps);

/* ---- conv.c ------------------------------------------------------------------------------------------------------ */
struct ad_conv {
    int32_t stride[2], pad[2], dilation[2],
        groups;         /* [0] is height or time; 0 stands for 1 (stride, dilation, groups) */
    int32_t out_pad[2]; /* transposed forms: rows added at the far end */
};
val ad_conv2d(G, val x, val w, struct ad_conv c); /* (N, H, W, C), (kh, kw, C/groups, F) -> (N, H', W', F) */
val ad_conv1d(G, val x, val w, struct ad_conv c); /* (N, T, C), (k, C/groups, F) -> (N, T', F) */
val ad_conv2d_transpose(G, val x, val w,
                        struct ad_conv c); /* (N, H, W, F), (kh, kw, C/groups, F) -> (N, H', W', C): the adjoint */
val ad_conv1d_transpose(G, val x, val w, struct ad_conv c);

/* ---- pool.c, resize.c -------------------------------------------------------------------------------------------- */
struct ad_pool {
    int32_t kernel[2], stride[2], pad[2];
    bool count_pad; /* average: padding counts in the divisor */
};
val ad_max_pool(G, val x, struct ad_pool p); /* (N, H, W, C) */
val ad_avg_pool(G, val x, struct ad_pool p);
val ad_adaptive_avg_pool(G, val x, int64_t h, int64_t w); /* windows as PyTorch's: floor(i H/h) .. ceil((i+1) H/h) */
val ad_adaptive_max_pool(G, val x, int64_t h, int64_t w); /* the same windows; ties share the gradient evenly */
val ad_resize_nearest(G, val x, int64_t h, int64_t w);    /* (N, H, W, C) */
val ad_resize_bilinear(G, val x, int64_t h, int64_t w);   /* half-pixel centres, no antialiasing */

/* ---- attention.c ------------------------------------------------------------------------------------------------- */
enum ad_attention_flags { AD_CAUSAL = 1 };
/* Packed attention: q (Tq, H*D), k and v (Tk, H*D), q_offsets and k_offsets (B+1) -> (Tq, H*D); item b's queries see
 * item b's keys: softmax(q k' / sqrt(D) + bias) v. `bias` is 0 or (H, S, S): added at (query position, key position), S
 * at least the longest item. Causal: key position <= query position + (n_k - n_q). No S x S tensor is kept. */
val ad_attention(G, val q, val k, val v, val q_offsets, val k_offsets, val bias, int heads, unsigned flags);

/* ---- cross_entropy.c, loss.c ------------------------------------------------------------------------------------- */
/* logits (N, C), target (N) int -> the loss of each row (N); rows whose target is `ignore` give 0. (Szegedy et al.
 * 2016.) Any other target outside of 0 .. C-1 ends the run with an error. */
val ad_cross_entropy(G, val logits, val target, double smoothing, int64_t ignore);
/* Connectionist temporal classification (Graves et al. 2006), -log p, per item (B): log-probabilities packed (T, C)
 * with offsets, targets packed (L) int with target_offsets; `blank`. Impossible targets give 0 if zero_infinity, else
 * inf. */
val ad_ctc_loss(G, val log_probs, val offsets, val targets, val target_offsets, int blank, bool zero_infinity);

/* ---- contrast.c -------------------------------------------------------------------------------------------------- */
/* Two sets of vectors, all of whose pairs are compared, without any (N, M) tensor forward or backward. */
struct ad_pairs {
    val a, b;         /* (N, D), (M, D) */
    val has_a, has_b; /* of the vectors' dtype (N), (M): 0 where there is no vector; what stands there must be finite */
    val id_a, id_b;   /* int32 (N), (M): a_i and b_j are a positive pair where the numbers are equal */
    int64_t keep; /* bytes of f32 products <a_i, b_j> that may be kept for the gradient, which computes others again */
};
/* InfoNCE over both directions (van den Oord et al. 2018, eq. 4) of logits scale <a_i, b_j>; scale () -> (). */
val ad_infonce(G, const struct ad_pairs *p, val scale);
/* SigLIP's sum over pairs (Zhai et al. 2023, alg. 1) of logits scale <a_i, b_j> + bias; scale (), bias () -> (). */
val ad_siglip_sum(G, const struct ad_pairs *p, val scale, val bias);

/* ---- random.c ---------------------------------------------------------------------------------------------------- */
/* f(seed, step, layer path, element): uniform [0,1) or standard normal numbers. Never stored across the backward pass.
 */
val ad_random_uniform(G, enum ad_dtype t, struct ad_shape s);
val ad_random_normal(G, enum ad_dtype t, struct ad_shape s);
/* x * mask / (1 - p), mask drawn per element; `per_item` draws one bit a row of axis 0 (drop path). p in [0, 1). */
val ad_dropout(G, val x, double p, bool per_item);
/* The same where x is rows first, first + 1, ... (axis 0) of a larger tensor: it gets that tensor's mask. `first` is one
 * integer, at least 0. */
val ad_dropout_part(G, val x, val first, double p, bool per_item);

/* ---- fft.c ------------------------------------------------------------------------------------------------------- */
val ad_rfft(G, val x);             /* (..., N) -> (..., N/2+1, 2): real, imaginary */
val ad_irfft(G, val x, int64_t n); /* (..., n/2+1, 2) -> (..., n) */
/* (B, L) with a window (n_fft) -> (B, frames, n_fft/2+1, 2); frames = 1 + (L - n_fft) / hop; pad first for centring. */
val ad_stft(G, val x, val window, int64_t hop);

#undef G

/* Small helpers for vjps. */
val ad_zeros_like(struct ad_graph *g, val x);
val ad_ones_like(struct ad_graph *g, val x);

#endif
