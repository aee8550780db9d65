/* What the forward and the backward kernel of packed attention share: a task, the sizes of blocks, small products.
 *
 * Scores are held transposed: a row is a key, a column a query of a block of QB, so that the softmax runs along rows of
 * vectors, keys need no padding, and the two products that follow read the same block by rows (into keys) and by columns
 * (into queries). Tokens lie in rows of ROW numbers. All strides but one are constants. */
#ifndef TRIAD_AUTOGRAD_KERNELS_ATTENTION_BLOCK_H
#define TRIAD_AUTOGRAD_KERNELS_ATTENTION_BLOCK_H

#include <math.h>
#include <stdbool.h>

#include "autograd/kernels/vfunc.h"
#include "autograd/ops/attention.h"
#include "base/isa.h"

/* Rows of scores and of tokens are an odd number of cache lines wide, so that they do not fall on one set. */
enum {
    QB = 80,    /* queries of a block at most: 64 patches and a class token are one */
    LANES = QB, /* the columns of a row of scores */
    KB = 96,    /* keys of a block at most: a block of scores about fills the first-level cache */
    SPAN = 256, /* keys that are copied at once; they and their gradients stay in the second-level cache */
    MAX_DIM = 128,
    ROW = MAX_DIM + 16, /* the columns of a token */
    CHUNK = 128         /* queries of a task of the forward pass at most */
};

#define LOG2E 1.44269504f
#define LN2 0.693147181f

/* Rows of numbers, in f32 or 16 bits, `ld` elements apart. */
struct attn_rows {
    enum ad_dtype type;
    void *at;
    int64_t ld;
};
static inline struct attn_rows attn_row(struct attn_rows r, int64_t i)
{
    r.at = at_as(r.type, r.at, i * r.ld);
    return r;
}
static inline struct attn_rows attn_rows_of(const struct ad_tensor *t, int64_t row, int64_t column)
{
    return (struct attn_rows){t->dtype, at_as(t->dtype, t->data, row * t->stride[0] + column), t->stride[0]};
}

/* One item and head. */
struct attn_task {
    struct attn_rows q, k, v; /* from the item's first row and the head's first column on */
    int64_t n_q, n_k, dim;
    struct attn_rows bias; /* (Sq, Sk) of the head; at is NULL where there is none */
    int64_t sk;
    float scale; /* 1 / sqrt(dim) */
    bool causal;
    bool careful; /* one query at a time, with exactly the keys that it sees */
    int64_t q_row, k_row, h, heads;
};

/* Even parts of n: as few as are needed for at most `most` in each. */
struct parts {
    int64_t n, size, tall; /* the first `tall` have `size`, the others one less */
};
static inline struct parts parts_of(int64_t n, int64_t most)
{
    struct parts p = {.n = (n + most - 1) / most};
    if (!p.n) return p;
    p.size = (n + p.n - 1) / p.n;
    p.tall = n - p.n * (p.size - 1);
    return p;
}
static inline int64_t part_start(struct parts p, int64_t i)
{
    return i * p.size - (i > p.tall ? i - p.tall : 0);
}

/* Rows of memory that the next task will touch. They lie apart by the whole width of a matrix, which the processor does
 * not guess; asked for in time, they come while this task computes. */
struct attn_ahead {
    struct {
        struct attn_rows rows;
        int64_t n;
    } of[5];
    int n, at;
    int64_t row, dim;
};
/* The columns behind those of this head. */
static inline void attn_add_ahead(struct attn_ahead *a, struct attn_rows r, int64_t n)
{
    r.at = at_as(r.type, r.at, a->dim);
    a->of[a->n].rows = r;
    a->of[a->n++].n = n < SPAN ? n : SPAN;
}
/* Asks for the next `rows` rows. */
static inline void attn_fetch(struct attn_ahead *a, int64_t rows)
{
    for (; a->at < a->n && rows > 0; a->at++, a->row = 0)
        for (; a->row < a->of[a->at].n; a->row++) {
            struct attn_rows r = attn_row(a->of[a->at].rows, a->row);
            const char *p = r.at, *end = at_as(r.type, r.at, a->dim);
            if (rows-- == 0) return;
            for (; p < end; p += 64) ask_l2(p);
        }
}

static inline int64_t attn_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Query i sees the keys 0 .. attn_sees(t, i) - 1. */
static inline int64_t attn_sees(const struct attn_task *t, int64_t i)
{
    if (!t->causal) return t->n_k;
    int64_t n = i + t->n_k - t->n_q + 1;
    return n < 0 ? 0 : n;
}
/* n queries in blocks: block i has those from attn_at(b, i) to attn_at(b, i + 1). About even numbers of whole vectors;
 * small ones where causal, since what a block computes for its last query its first does not see. */
struct attn_blocks {
    struct parts of;
    int64_t unit, all;
};
static inline struct attn_blocks attn_blocks_of(const struct attn_task *t, int64_t n)
{
    int64_t unit = t->careful ? 1 : 16, most = t->careful ? 1 : t->causal ? 2 : QB / 16;
    return (struct attn_blocks){parts_of((n + unit - 1) / unit, most), unit, n};
}
static inline int64_t attn_at(const struct attn_blocks *b, int64_t i)
{
    return attn_min(part_start(b->of, i) * b->unit, b->all);
}

#define attn_task_of ISA_FN(attn_task_of)
#define attn_all_finite ISA_FN(attn_all_finite)
#define attn_copy_rows ISA_FN(attn_copy_rows)
#define attn_copy_columns ISA_FN(attn_copy_columns)
#define attn_store_half_row ISA_FN(attn_store_half_row)
#define attn_dot_half ISA_FN(attn_dot_half)
#define attn_clear_row ISA_FN(attn_clear_row)
#define attn_scores ISA_FN(attn_scores)
#define attn_into_queries ISA_FN(attn_into_queries)
#define attn_into_keys ISA_FN(attn_into_keys)
#define attn_product ISA_FN(attn_product)
#define attn_clear_padding ISA_FN(attn_clear_padding)
#define attn_cut_grad ISA_FN(attn_cut_grad)
#define attn_alone ISA_FN(attn_alone)
#define attn_grad_scratch ISA_FN(attn_grad_scratch)

struct attn_task attn_task_of(const struct ad_call *c, int64_t item, int64_t head);
/* A masked probability of 0 times a NaN or infinity would reach who does not see it. Whether there was one shows in any
 * row of the product; then the task is done again, carefully. */
bool attn_all_finite(struct attn_rows rows, int64_t n, int64_t dim);
static inline bool attn_finite_row(const float *row, int64_t dim)
{
    return attn_all_finite((struct attn_rows){AD_F32, (float *)(uintptr_t)row, 0}, 1, dim);
}

/* to[i * ROW + d] = number d of row i; zero from dim to the end of its last vector. */
void attn_copy_rows(struct attn_rows rows, int64_t n, int64_t dim, float *to);
/* to[d * LANES + i] = number d of row i, times scale, for the n <= QB rows i; behind them, to the end of the vector, the last
 * row again. n > 0. */
void attn_copy_columns(struct attn_rows rows, int64_t n, int64_t dim, float scale, float *to);
void attn_clear_row(struct attn_rows row, int64_t dim);
/* to = from * scale, or += where `add`; dim numbers. */
SIMD_FN void attn_put_row(float *to, const float *from, int64_t dim, float scale, bool add)
{
    int64_t d = 0;
    if (add) {
        for (; d + VL <= dim; d += VL) vf_store(to + d, vf_load(to + d) + vf_load(from + d) * scale);
        for (; d < dim; d++) to[d] += from[d] * scale;
    } else {
        for (; d + VL <= dim; d += VL) vf_store(to + d, vf_load(from + d) * scale);
        for (; d < dim; d++) to[d] = from[d] * scale;
    }
}
/* `from`, dim numbers, times scale into a row. */
void attn_store_half_row(enum ad_dtype type, void *to, const float *from, int64_t dim, float scale);
SIMD_FN void attn_store_row(struct attn_rows row, const float *from, int64_t dim, float scale)
{
    if (row.type == AD_F32)
        attn_put_row(row.at, from, dim, scale, false);
    else
        attn_store_half_row(row.type, row.at, from, dim, scale);
}
/* The sum of products of two rows. */
SIMD_FN float attn_dot_as(enum ad_dtype type, const void *a, enum ad_dtype type_b, const void *b, int64_t dim)
{
    vf sum = {0};
    float tail = 0;
    int64_t d = 0;
    for (; d + VL <= dim; d += VL) sum += vf_load_as(type, a, d) * vf_load_as(type_b, b, d);
    for (; d < dim; d++) tail += float_as(type, a, d) * float_as(type_b, b, d);
    return vf_sum(sum) + tail;
}
float attn_dot_half(struct attn_rows a, struct attn_rows b, int64_t dim);
SIMD_FN float attn_dot(struct attn_rows a, struct attn_rows b, int64_t dim)
{
    bool wide = a.type == AD_F32 && b.type == AD_F32;
    return wide ? attn_dot_as(AD_F32, a.at, AD_F32, b.at, dim) : attn_dot_half(a, b, dim);
}

/* s (keys x queries, rows of LANES) = k (keys x dim, rows of ROW) qt (dim x queries, rows of LANES); the queries are rounded
 * up to whole vectors. The bias, if there is one, is added times log2 e: `q0`, `k0` are the block's place in the item.
 * Where `t` is causal, what query i does not see becomes -inf. `room` has KB * LANES floats. */
void attn_scores(const struct attn_task *t, int64_t q0, int64_t qn, int64_t k0, int64_t kn, const float *k,
                 const float *qt, float *s, float *room);
/* c (queries x dim, rows of ROW) = or += p' b, p (keys x queries, rows of LANES), b (keys x dim, rows of ldb). */
void attn_into_queries(int64_t queries, int64_t dim, int64_t keys, const float *p, const float *b, int64_t ldb,
                       float *c, bool add);
/* c (keys x dim, rows of ROW) = or += p b, b (queries x dim, rows of ldb). In both, columns of b and c are rounded up to
 * whole vectors. */
void attn_into_keys(int64_t keys, int64_t dim, int64_t queries, const float *p, const float *b, int64_t ldb, float *c,
                    bool add);
/* s (keys x queries) = v (keys x dim) gt (dim x queries), as attn_scores without bias and mask. */
void attn_product(int64_t keys, int64_t queries, int64_t dim, const float *v, const float *gt, float *s);

/* Rows that no item has: zero in every output. */
void attn_clear_padding(const struct ad_tensor *out, int64_t from);
void attn_cut_grad(const struct ad_call *c, int threads, struct ad_parts *p);
bool attn_alone(const struct ad_call *c); /* too little work for a second thread */
size_t attn_grad_scratch(const struct ad_call *c);

#endif
