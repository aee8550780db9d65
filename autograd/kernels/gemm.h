/* The one interface for f32 matrix products; every kernel that multiplies goes through it. Behind it: OpenBLAS, called
 * on one thread for blocks whose bounds depend on the sizes only, so that results are the same bits for any thread
 * count. */
#ifndef TRIAD_AUTOGRAD_KERNELS_GEMM_H
#define TRIAD_AUTOGRAD_KERNELS_GEMM_H

#include <stddef.h>
#include "autograd/op.h"

/* C (M, N) = act(A (M, K) B (K, N) + bias + residual). Of each operand's two strides one is 1 (or its axis has one
 * element) and the other is at least the length of the axis with stride 1. C must not overlap an operand; it may be the
 * residual. */
struct gemm_args {
    int64_t m, n, k;
    const float *a, *b;
    int64_t a_row, a_col, b_row, b_col;
    float *c;
    int64_t c_row;
    bool add;              /* C += A B (before bias and the rest) */
    const float *bias;     /* (N) or NULL */
    const float *residual; /* (M, N) with rows res_row apart, or NULL */
    int64_t res_row;
    ad_tile_fn act; /* or NULL */
};

/* Over all threads. `scratch` has gemm_scratch(m, n, k) bytes, which is 0 unless M and N are small and K is long. */
void gemm(const struct gemm_args *g, void *scratch);
size_t gemm_scratch(int64_t m, int64_t n, int64_t k);

/* On the calling thread. Inside a parallel region, each thread calls gemm_enter_thread() once before. */
void gemm_block(const struct gemm_args *g);
void gemm_enter_thread(void);

#endif
