/* What the matmul op and its kernel share. */
#ifndef TRIAD_AUTOGRAD_OPS_MATMUL_H
#define TRIAD_AUTOGRAD_OPS_MATMUL_H

#include "autograd/op.h"

enum matmul_act { ACT_NONE, ACT_RELU, ACT_GELU, ACT_GELU_TANH, ACT_QUICK_GELU, ACT_SILU, ACT_COUNT };

/* Inputs are a, b, then the bias (N) if there is one, then the residual (of the output's shape) if there is one, then b's
 * panels if there are any (passes/panels.c): eval does not read them. */
struct matmul_attr {
    int32_t ta, tb, bias, residual, act, panels;
};
extern const struct ad_op ad_op_matmul;

/* panels: b (K, N), or with tb (N, K) -> the same numbers in the order in which the product's kernel reads them, zeros in
 * between (gemm.h). The panels pass makes it, builders never do. */
struct panels_attr {
    int32_t tb;
};
extern const struct ad_op ad_op_panels;
const struct ad_op *matmul_act_op(int32_t act); /* NULL for ACT_NONE */

/* Where one matrix of a batch begins: `at` counts the output's leading axes, `in` may have fewer of them or sizes 1. */
int64_t matmul_offset(const struct ad_tensor *in, const struct ad_tensor *out, const int64_t *at);
/* Strides of op(in) over its rows and columns. */
static inline void matmul_strides(const struct ad_tensor *in, bool swapped, int64_t *row, int64_t *col)
{
    *row = in->stride[in->shape.rank - (swapped ? 1 : 2)];
    *col = in->stride[in->shape.rank - (swapped ? 2 : 1)];
}

#endif
