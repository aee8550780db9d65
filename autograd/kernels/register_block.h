/* The inner loop of every product: a block of C, mr rows of nv vectors, is summed in registers over k. */
#ifndef TRIAD_AUTOGRAD_KERNELS_REGISTER_BLOCK_H
#define TRIAD_AUTOGRAD_KERNELS_REGISTER_BLOCK_H

#include "autograd/kernels/simd.h"

#ifdef __AVX512F__
enum { BLOCK_ROWS = 14 }; /* 28 sums, 2 of B, 1 of A in 32 registers */
#else
enum { BLOCK_ROWS = 6 }; /* 12 sums, 2 of B, 1 of A in 16 registers */
#endif
/* Where another thread shares the core we have every other cycle of its decoders, and what is not a multiply-add costs:
 * the loop's own instructions are spread over several steps. */
enum { BLOCK_UNROLL = 8 };

typedef vf block_sums[2 * BLOCK_ROWS][2]; /* of one vector there may be twice as many rows */

SIMD_FN void block_clear(int mr, int nv, block_sums sum)
{
#pragma GCC unroll 16
    for (int i = 0; i < mr; i++)
#pragma GCC unroll 2
        for (int v = 0; v < nv; v++) sum[i][v] = (vf){0};
}

SIMD_FN void block_load(int mr, int nv, block_sums sum, const float *c, int64_t ldc)
{
#pragma GCC unroll 16
    for (int i = 0; i < mr; i++)
#pragma GCC unroll 2
        for (int v = 0; v < nv; v++) sum[i][v] = vf_load(c + i * ldc + v * VL);
}

/* sum += rows of C, ldc apart: 0 where all are the same */
SIMD_FN void block_add_rows(int mr, int nv, block_sums sum, const float *c, int64_t ldc)
{
#pragma GCC unroll 16
    for (int i = 0; i < mr; i++)
#pragma GCC unroll 2
        for (int v = 0; v < nv; v++) sum[i][v] = sum[i][v] + vf_load(c + i * ldc + v * VL);
}

/* The rows of a block, three at a time: those are what the addressing of the machine reaches from one place, and gcc, if it
 * can see through it, works out a place for each. */
SIMD_FN float *block_row(float **at, int i, int64_t ld)
{
    if (i && i % 3 == 0) {
        *at += 3 * ld;
        __asm__("" : "+r"(*at));
    }
    return *at + i % 3 * ld;
}

/* C = sum, or += where `add` */
SIMD_FN void block_store(int mr, int nv, block_sums sum, float *c, int64_t ldc, bool add)
{
    if (add) block_add_rows(mr, nv, sum, c, ldc);
#pragma GCC unroll 16
    for (int i = 0; i < mr; i++) {
        float *to = block_row(&c, i, ldc);
#pragma GCC unroll 2
        for (int v = 0; v < nv; v++) vf_store(to + v * VL, sum[i][v]);
    }
}

/* *sum += x y. gcc, left to choose the register of the result, moves sums about in a long loop. */
SIMD_FN void block_add_product(vf *sum, vf x, vf y)
{
#if defined(__AVX2__) && !defined(__AVX512F__)
    __asm__("vfmadd231ps %2, %1, %0" : "+x"(*sum) : "x"(x), "x"(y));
#else
    *sum += x * y;
#endif
}

/* sum += a column of A times a row of B, whose vectors are b0 and b1. Row i of A is at a + i * a_row, from the fourth on at high + (i - 3) * a_row: of an
 * a_row that is known at run time only, one, two and none are what the addressing of the machine reaches. */
SIMD_FN void block_add(int mr, int nv, const float *a, const float *high, int64_t a_row, vf b0, vf b1, block_sums sum)
{
#pragma GCC unroll 16
    for (int i = 0; i < mr; i++) {
        vf x = vf_set(i < 3 ? a[i * a_row] : high[(i - 3) * a_row]);
        block_add_product(&sum[i][0], x, b0);
        if (nv > 1) block_add_product(&sum[i][1], x, b1);
    }
}

SIMD_FN void block_step(int mr, int nv, const float *a, const float *high, int64_t a_row, const float *b,
                        block_sums sum)
{
    vf b0 = vf_load(b), b1 = nv > 1 ? vf_load(b + VL) : b0;
    block_add(mr, nv, a, high, a_row, b0, b1, sum);
}

/* Short rows of memory that are wanted later, `step` bytes apart: one is asked for, its first and its last byte, in every
 * `each` steps of k, so that the processor always has room to note it. */
struct block_ahead {
    const char *at;
    int64_t step, last;
    int each; /* 0: none; to be a constant */
};

/* sum += A (mr, n) B (n, nv vectors), k by k. Element (i, k) of A is at a[i * a_row + k * a_col], row k of B at b + k * ldb.
 * mr, nv and a_row are to be constants. */
SIMD_FN void block_multiply(int mr, int nv, int64_t n, const float *a, int64_t a_row, int64_t a_col, const float *b,
                            int64_t ldb, struct block_ahead ahead, block_sums sum)
{
    int64_t k = 0;
    for (; k + BLOCK_UNROLL <= n; k += BLOCK_UNROLL) {
#pragma GCC unroll 8
        for (int u = 0; u < BLOCK_UNROLL; u++) {
            if (ahead.each && u % ahead.each == 0) {
                ask_l2(ahead.at);
                ask_l2(ahead.at + ahead.last);
                ahead.at += ahead.step;
            }
            block_step(mr, nv, a, a + 3 * a_row, a_row, b + u * ldb, sum);
            a += a_col;
        }
        b += BLOCK_UNROLL * ldb;
    }
#pragma GCC unroll 1
    for (; k < n; k++) {
        block_step(mr, nv, a, a + 3 * a_row, a_row, b, sum);
        a += a_col;
        b += ldb;
    }
}

#endif
