/* Layers: functions that emit nodes and declare parameters under the current path. A layer's name is pushed on the
 * path, so a parameter's name is its place: "image.block.3.attention.qkv.weight". No sizes are allocated here, no
 * errors checked: the graph's sticky error and `m->e` hold the first failure, and nn_status asks for it once.
 *
 * Weights of linear layers are (in, out), of convolutions (kh, kw, in/groups, out). */
#ifndef TRIAD_LAYERS_NN_H
#define TRIAD_LAYERS_NN_H

#include "autograd/ops/ops.h"
#include "autograd/store.h"

/* What a model function builds into. Zero-initialise, set g, store, training. */
struct nn {
    struct ad_graph *g;
    struct ad_store *store; /* parameters are declared here */
    bool training;          /* dropout, drop path and batch statistics */
    bool part;    /* of a step in parts: towers draw the whole batch's masks (model_first), losses keep less */
    struct err e; /* the first failure of a declaration */
};
int nn_status(const struct nn *m, struct err *e) MUST_CHECK;

/* Declares "<path>.<name>" (f32) and returns it as a node. */
val nn_param(struct nn *m, const char *name, struct ad_shape s, struct ad_init init, unsigned flags);

/* Packed sequences: item b is rows offsets[b] .. offsets[b+1]-1 of x. */
struct nn_seq {
    val x;       /* (rows, width) */
    val offsets; /* int32 (items + 1) */
    int64_t rows, items;
    int64_t longest; /* no item is longer: bounds positions and biases */
    val first_item,
        first_row; /* of a larger batch whose masks x gets its part of, integers (1); 0: x is all there is */
};
/* A batch of equally long sequences (B, N, D) seen as packed. */
struct nn_seq nn_seq_fixed(struct nn *m, val x);
val nn_position(struct nn *m, const struct nn_seq *s); /* int32 (rows), -1 in the padding */

/* ---- linear.c ---------------------------------------------------------------------------------------------------- */
/* x (..., K) -> (..., out). Weight: normal, std sqrt(1/K) unless `std` > 0; bias zero. */
val nn_linear(struct nn *m, const char *name, val x, int64_t out, bool bias, double std);
/* y[i] = x[i] by the next out[i] columns of one weight (in, out[0] + out[1] + ..), which nn_linear of equal x has too. */
void nn_linear_columns(struct nn *m, const char *name, int n, const val *x, const int64_t *out, bool bias, val *y);
/* The same at the model's edge (AD_EDGE): a head, the projection into the shared space, the first layer of features. */
val nn_edge(struct nn *m, const char *name, val x, int64_t out, bool bias);
val nn_embedding(struct nn *m, const char *name, val index, int64_t rows, int64_t width, double std);

enum nn_activation { NN_RELU, NN_GELU, NN_GELU_TANH, NN_QUICK_GELU, NN_SILU, NN_TANH, NN_IDENTITY };
extern const char *const nn_activation_names[]; /* in the enum's order, NULL at the end */
val nn_activate(struct nn *m, enum nn_activation a, val x);

/* ---- norm.c ------------------------------------------------------------------------------------------------------ */
enum nn_norm { NN_LAYER_NORM, NN_RMS_NORM };
extern const char *const nn_norm_names[];
val nn_norm(struct nn *m, const char *name, enum nn_norm kind, val x, double eps);
val nn_group_norm(struct nn *m, const char *name, val x, int groups, double eps);
/* Batch statistics while training, running ones otherwise. running <- (1 - momentum) running + momentum batch, with the
 * unbiased variance (Ioffe & Szegedy 2015, algorithms 1 and 2). `zero_gain` starts the gain at 0 (the last of a
 * residual branch). */
val nn_batch_norm(struct nn *m, const char *name, val x, double momentum, double eps, bool zero_gain);
/* a(batch norm of x + residual); residual as x, or 0 (none). */
val nn_batch_norm_act(struct nn *m, const char *name, val x, double momentum, double eps, bool zero_gain, val residual,
                      enum nn_activation a);

/* A weight of shape `s` whose length and direction are learned apart (Salimans & Kingma 2016, eq. 2): w = gain v / |v|,
 * |v| the norm over all axes but `axis`, along which `<name>.gain` (dim[axis]) and `<name>.direction` (s) lie. v starts
 * normal with `std`, the gain where w has that std too. */
val nn_weight_norm(struct nn *m, const char *name, struct ad_shape s, int axis, double std);

/* ---- position.c -------------------------------------------------------------------------------------------------- */
enum nn_position_kind { NN_POS_LEARNED, NN_POS_SINUSOIDAL, NN_POS_ROTARY, NN_POS_RELATIVE, NN_POS_NONE };
extern const char *const nn_position_names[];
/* Adds a learned table (longest, width), or the fixed one of Vaswani et al. 2017, sec. 3.5 (sines in the first half,
 * cosines in the second, as Whisper). Other kinds return x: they act inside attention. */
val nn_add_position(struct nn *m, const char *name, enum nn_position_kind kind, const struct nn_seq *s);
/* Rotary embedding (Su et al. 2021, eq. 34; halves rotated as in GPT-NeoX) of x (rows, heads * dim). */
val nn_rotary(struct nn *m, const struct nn_seq *s, val x, int64_t heads, double base);
/* Relative position bias (Raffel et al. 2020: 32 buckets, distances to 128) -> (heads, longest, longest). */
val nn_relative_bias(struct nn *m, const char *name, int64_t longest, int64_t heads, bool causal);

/* ---- transformer.c ----------------------------------------------------------------------------------------------- */
enum nn_pool { NN_POOL_MEAN, NN_POOL_FIRST, NN_POOL_LAST, NN_POOL_ATTENTION };
extern const char *const nn_pool_names[];
struct nn_block {
    int64_t heads;
    double mlp_ratio; /* hidden width / width */
    enum nn_activation activation;
    bool gated;                   /* act(x W1) * (x W3), then W2 (Shazeer 2020) */
    bool causal, post_norm, bias; /* post_norm: x = norm(x + f(x)) as BERT; otherwise x + f(norm(x)) */
    enum nn_norm norm;
    double eps, dropout, drop_path, layer_scale; /* layer_scale 0: none (Touvron et al. 2021, eq. 2) */
    enum nn_position_kind position;
    val relative;   /* the shared bias of NN_POS_RELATIVE, or 0 */
    int64_t layers; /* of the stack: the start of residual outputs is scaled by 1/sqrt(2 layers) */
};
/* Multi-head attention of x over itself (Vaswani et al. 2017, eq. 1): qkv (D, 3D), out (D, D). */
val nn_attention(struct nn *m, const char *name, const struct nn_seq *s, const struct nn_block *c);
/* Queries from q, keys and values from kv. */
val nn_cross_attention(struct nn *m, const char *name, const struct nn_seq *q, const struct nn_seq *kv, int64_t heads,
                       bool bias);
val nn_mlp(struct nn *m, const char *name, const struct nn_seq *s, const struct nn_block *c);
val nn_transformer_block(struct nn *m, const char *name, const struct nn_seq *s, const struct nn_block *c);
/* nn_pool of what the block gives, of the kinds FIRST and LAST: keys and values are made of all rows, all else of the one
 * row that is asked for. The same parameters and, but for rounding and the masks of dropout, the same numbers, but not of
 * an item without rows (nn_clear_empty). */
val nn_transformer_block_edge(struct nn *m, const char *name, const struct nn_seq *s, const struct nn_block *c,
                              enum nn_pool kind);
/* x (items, D), 0 for items of s without rows. */
val nn_clear_empty(struct nn *m, const struct nn_seq *s, val x);
/* Whether it can: the row must see the whole item, and be at position 0 where queries depend on their position. */
bool nn_block_has_edge(const struct nn_block *c, enum nn_pool kind);
/* While training, ad_dropout of x whose row 0 is row `first` of the whole batch; first 0: x is the whole. */
val nn_dropout(struct nn *m, val x, val first, double p, bool per_item);
/* Drops whole items of a residual branch (Huang et al. 2016) while training. */
val nn_drop_path(struct nn *m, const struct nn_seq *s, val branch, double p);
val nn_layer_scale(struct nn *m, const char *name, val x, double start);

/* (rows, D) -> (items, D). ATTENTION: one learned query attends to the item (Lee et al. 2019, PMA). */
val nn_pool(struct nn *m, const char *name, enum nn_pool kind, const struct nn_seq *s, int64_t heads);

/* ---- conv.c ------------------------------------------------------------------------------------------------------ */
struct nn_conv {
    int64_t out;
    int kernel, stride, pad, groups; /* pad -1: kernel / 2 */
    bool bias;
};
val nn_conv2d(struct nn *m, const char *name, val x, struct nn_conv c); /* (N, H, W, C), He normal fan-out */
/* Sequences of one length, (N, T, C) -> (N, T', out); weight (k, C/groups, out), He normal fan-in. */
val nn_conv1d(struct nn *m, const char *name, val x, struct nn_conv c);
/* Squeeze and excitation (Hu et al. 2018, eq. 2-4): x (N, H, W, C) times a weight a channel, in 0..1, that the image
 * decides through `hidden` units: sigmoid(act(mean(x) "squeeze") "excite"), both with biases. */
val nn_squeeze_excite(struct nn *m, const char *name, val x, int64_t hidden, enum nn_activation a);
/* Convolution over packed sequences that never crosses items; returns the new sequence. */
struct nn_seq nn_conv1d_packed(struct nn *m, const char *name, const struct nn_seq *s, struct nn_conv c);
/* Non-overlapping patches: (B, H, W, C) -> (B, H/p * W/p, width). Weight (p, p, C, width). */
val nn_patch_embed(struct nn *m, const char *name, val image, int64_t patch, int64_t width, bool bias);

/* ---- contrast.c -------------------------------------------------------------------------------------------------- */
/* One pair of modalities. a and b are unit rows (B, E); row i of both belongs to sample i. */
struct nn_contrast {
    val a, b;
    val has_a, has_b; /* f32 (B): 1 where the sample has the modality; 0 stands for "all have" */
    val group;        /* int32 (B): samples of equal number are positives of each other; 0 stands for "all differ" */
};
/* Neither loss makes a (B, B) tensor. Up to so many bytes of products <a_i, b_j> are kept for the gradient, which computes
 * the others again, to the same bits: all of a batch of 8192; in parts (nn.part), where they would be most of the memory,
 * all of one of 2048. */
enum { NN_CONTRAST_KEEP = 1 << 28, NN_CONTRAST_KEEP_PART = 1 << 24 };
/* InfoNCE (van den Oord et al. 2018, eq. 4; symmetric as Radford et al. 2021, fig. 3): mean over both directions of the
 * cross-entropy of softmax_j(scale <a_i, b_j>) against the even distribution over i's positives. Samples without the
 * modality are neither queries nor candidates. No valid pair: 0. */
val nn_infonce(struct nn *m, const struct nn_contrast *c, val scale);
/* SigLIP (Zhai et al. 2023, alg. 1): -1/n sum_ij log sigmoid(z_ij (scale <a_i, b_j> + bias)). */
val nn_siglip(struct nn *m, const struct nn_contrast *c, val scale, val bias);
/* exp of a learned logarithm, clamped to [1, max]: parameter "<name>" starting at log(1 / temperature). */
val nn_temperature(struct nn *m, const char *name, double temperature, double max);
/* x / |x| over the last axis, safe at 0. */
val nn_unit(struct nn *m, val x);

#endif
