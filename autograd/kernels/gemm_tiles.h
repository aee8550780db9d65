/* The kernels of the packed product (gemm_packed.c): a tile of C, up to MR rows by NR columns, from a panel of A, copied or
 * read where it lies, and one of B; and what is done to its sums while they are in registers. */
#ifndef TRIAD_AUTOGRAD_KERNELS_GEMM_TILES_H
#define TRIAD_AUTOGRAD_KERNELS_GEMM_TILES_H

#include "autograd/kernels/gemm_panels.h"
#include "autograd/kernels/register_block.h"

enum { MR_IN_PLACE = 6, GROUP_IN_PLACE = 16, GROUP_TALL = 7 }; /* of A that is read where it lies: some 100 rows */
enum { MR = BLOCK_ROWS, GROUP = VL > 8 ? 4 : 8 };              /* a group has 128 KB, 96 with AVX2 */
/* Odd strides between rows and panels: they must not meet in the same sets of the cache. */
enum {
    COLUMN = VL > 8 ? 16 : BLOCK_ROWS
}; /* at least MR; with AVX-512 each column has a line of the cache to itself */
enum { ROW = GEMM_MOST_K + 16, HEAP = COLUMN * ROW + 16, PANELS_OF_B = 576 / NR };

/* What becomes of a tile's sums while they are in registers: what `from`, the bias and the residual hold, unless they are
 * NULL, is added in this order, and all goes to `to`. Rows lie .._row apart. */
struct end {
    float *to;
    const float *from, *bias, *residual;
    int64_t to_row, from_row, res_row;
};

SIMD_FN void finish(int mr, int nv, block_sums sum, const struct end *e)
{
    if (e->from) block_add_rows(mr, nv, sum, e->from, e->from_row);
    if (e->bias) block_add_rows(mr, nv, sum, e->bias, 0);
    if (e->residual) block_add_rows(mr, nv, sum, e->residual, e->res_row);
    block_store(mr, nv, sum, e->to, e->to_row, false);
}

/* A panel of B as the kernel reads it, and rows of memory that it asks for: the numbers of the next panel to be copied. */
struct copying;
struct panel {
    const float *b;
    int64_t ldb, n, width;
    const char *next;
    int64_t next_row, next_last; /* bytes to the next row, and to the last one of each row */
    struct copying *of_a, *of_b; /* what a kernel that copies does beside it, or NULL */
};
enum { NEXT_EACH = GROUP }; /* one row in so many steps: a group of tiles has asked for all */

/* Rows of memory that will be multiplied later, from_row bytes apart, to their place in a panel: a column of A's in each, or
 * two vectors of B's. */
struct copying {
    const char *from;
    float *to;
    int64_t from_row, rows;
};
/* A row in so many steps: what stores wait for must not hold up the sums; and so many rows ahead are asked for. */
enum { COPY_EACH = VL > 8 ? 4 : 8, COPY_AHEAD = 8 };

/* A B (mr x nv vectors), and its end. */
SIMD_FN void kernel(int mr, int nv, bool by_row, int64_t kc, const float *a, const struct panel *b, const struct end *e)
{
    struct block_ahead next = {b->next, b->next_row, b->next_last, NEXT_EACH};
    block_sums sum;
    block_clear(mr, nv, sum);
    block_multiply(mr, nv, kc, a, by_row ? ROW : 1, by_row ? 1 : COLUMN, b->b, b->ldb, next, sum);
    finish(mr, nv, sum, e);
}

/* Copies a row, and asks for one some way ahead. */
SIMD_FN void copy_row(struct copying *c, int vectors, int64_t to_row)
{
    const char *ahead = c->from + COPY_AHEAD * c->from_row;
    ask_l2(ahead);
    ask_l2(ahead + vectors * VL * (int64_t)sizeof(float) - 1);
#pragma GCC unroll 2
    for (int v = 0; v < vectors; v++) vf_store(c->to + v * VL, vf_load((const float *)c->from + v * VL));
    c->from += c->from_row;
    c->to += to_row;
}

/* The same by columns of A and two vectors wide, which copies beside it. The sums wait for nothing: what is copied is in the
 * second-level cache, or asked for. */
SIMD_FN void kernel_copying(int mr, bool of_a, bool of_b, int64_t kc, const float *a, const struct panel *p,
                            const struct end *e)
{
    struct copying ca = {0}, cb = {0};
    if (of_a) ca = *p->of_a;
    if (of_b) cb = *p->of_b;
    const float *b = p->b;
    block_sums sum;
    block_clear(mr, 2, sum);
    int64_t k = 0;
    for (; k + BLOCK_UNROLL <= kc; k += BLOCK_UNROLL) {
#pragma GCC unroll 8
        for (int u = 0; u < BLOCK_UNROLL; u++) {
            if (of_b && u % COPY_EACH == 0) copy_row(&cb, 2, NR);
            if (of_a && u % COPY_EACH == COPY_EACH / 2) copy_row(&ca, 1, COLUMN);
            block_step(mr, 2, a, a + 3, 1, b + u * NR, sum);
            a += COLUMN;
        }
        b += BLOCK_UNROLL * NR;
    }
#pragma GCC unroll 1
    for (; k < kc; k++) {
        block_step(mr, 2, a, a + 3, 1, b, sum);
        a += COLUMN;
        b += NR;
    }
    finish(mr, 2, sum, e);
}

/* The same where A is read in place, by rows lda apart, and B is in panels. */
SIMD_FN void kernel_in_place(int mr, int nv, int64_t kc, const float *a, int64_t lda, const struct panel *p,
                             const struct end *e)
{
    block_sums sum;
    block_clear(mr, nv, sum);
    const float *high = a + 3 * lda, *b = p->b;
#pragma GCC unroll 4
    for (int64_t k = 0; k < kc; k++) {
        block_step(mr, nv, a++, high++, lda, b, sum);
        b += p->ldb;
    }
    finish(mr, nv, sum, e);
}

#ifdef __AVX512F__
/* Row i of A, of this step, is at[i / 3][i % 3 * lda + u]. */
SIMD_FN void tall_step(int mr, int nv, const float *const *at, int u, int64_t lda, const float *b, block_sums sum)
{
    vf b0 = vf_load(b), b1 = nv > 1 ? vf_load(b + VL) : b0;
#pragma GCC unroll 16
    for (int i = 0; i < mr; i++) {
        vf x = vf_set(at[i / 3][i % 3 * lda + u]);
        block_add_product(&sum[i][0], x, b0);
        if (nv > 1) block_add_product(&sum[i][1], x, b1);
    }
}

/* The same by tiles as tall as those of a copied A, whose rows three pointers more reach; the next panel of B is asked for. */
SIMD_FN void kernel_tall(int mr, int nv, int64_t kc, const float *a, int64_t lda, const struct panel *p,
                         const struct end *e)
{
    enum { REACH = 3, POINTERS = (MR + REACH - 1) / REACH, STEPS = 8 };
    block_sums sum;
    const float *at[POINTERS], *b = p->b;
    const char *next = p->next;
    block_clear(mr, nv, sum);
#pragma GCC unroll 8
    for (int i = 0; i < POINTERS; i++) {
        at[i] = a + REACH * i * lda;
        __asm__("" : "+r"(at[i])); /* a register each: gcc would keep their differences in memory */
    }
    int64_t k = 0;
    for (; k + STEPS <= kc; k += STEPS) {
        ask_l2(next);
        next += 64;
#pragma GCC unroll 8
        for (int u = 0; u < STEPS; u++) tall_step(mr, nv, at, u, lda, b + u * nv * VL, sum);
        b += STEPS * nv * VL;
#pragma GCC unroll 8
        for (int i = 0; i < POINTERS; i++) at[i] += STEPS;
    }
#pragma GCC unroll 1
    for (; k < kc; k++) {
        tall_step(mr, nv, at, 0, lda, b, sum);
        b += nv * VL;
#pragma GCC unroll 8
        for (int i = 0; i < POINTERS; i++) at[i]++;
    }
    finish(mr, nv, sum, e);
}
#endif

typedef void (*kernel_fn)(int64_t kc, const float *a, int64_t lda, const struct panel *b, const struct end *e);

/* clang-format off */
#define KERNEL(mr, nv, by_row)                                                                           \
    static void kernel_##mr##_##nv##_##by_row(int64_t kc, const float *a, int64_t lda, const struct panel *b, \
                                              const struct end *e)                                       \
    {                                                                                                    \
        kernel(mr, nv, by_row, kc, a, b, e);                                                             \
    }
#define EACH_OF(mr) KERNEL(mr, 1, 0) KERNEL(mr, 1, 1) KERNEL(mr, 2, 0) KERNEL(mr, 2, 1)
#define ROW_OF(mr) {{kernel_##mr##_1_0, kernel_##mr##_1_1}, {kernel_##mr##_2_0, kernel_##mr##_2_1}},
#ifdef __AVX512F__
#define HEIGHTS(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14)
#else
#define HEIGHTS(X) X(1) X(2) X(3) X(4) X(5) X(6)
#endif
HEIGHTS(EACH_OF)
static const kernel_fn kernels[MR][2][2] = {HEIGHTS(ROW_OF)};
#define COPYING(mr, of_a, of_b)                                                                          \
    static void copying_##mr##_##of_a##_##of_b(int64_t kc, const float *a, int64_t lda, const struct panel *b, \
                                               const struct end *e)                                      \
    {                                                                                                    \
        kernel_copying(mr, of_a, of_b, kc, a, b, e);                                                     \
    }
#define WAYS(mr) COPYING(mr, 0, 1) COPYING(mr, 1, 0) COPYING(mr, 1, 1)
#define WAYS_OF(mr) {{NULL, copying_##mr##_0_1}, {copying_##mr##_1_0, copying_##mr##_1_1}},
HEIGHTS(WAYS)
static const kernel_fn kernels_copying[MR][2][2] = {HEIGHTS(WAYS_OF)}; /* of A, of B */
#define IN_PLACE(kind, mr, nv)                                                                           \
    static void kind##_##mr##_##nv(int64_t kc, const float *a, int64_t lda, const struct panel *b,       \
                                   const struct end *e)                                                  \
    {                                                                                                    \
        kernel_##kind(mr, nv, kc, a, lda, b, e);                                                         \
    }
#define LOW(mr) IN_PLACE(in_place, mr, 1) IN_PLACE(in_place, mr, 2)
#define LOW_OF(mr) {in_place_##mr##_1, in_place_##mr##_2},
#define LOW_HEIGHTS(X) X(1) X(2) X(3) X(4) X(5) X(6)
LOW_HEIGHTS(LOW)
static const kernel_fn kernels_in_place[MR_IN_PLACE][2] = {LOW_HEIGHTS(LOW_OF)};
#ifdef __AVX512F__
#define TALL(mr) IN_PLACE(tall, mr, 1) IN_PLACE(tall, mr, 2)
#define TALL_OF(mr) {tall_##mr##_1, tall_##mr##_2},
HEIGHTS(TALL)
static const kernel_fn kernels_tall[MR][2] = {HEIGHTS(TALL_OF)};
#else
static const kernel_fn kernels_tall[1][2]; /* no tile is tall */
#endif
/* clang-format on */

#endif
