/* What batch norm, its gradient and their kernels share. */
#ifndef TRIAD_AUTOGRAD_OPS_BATCH_NORM_H
#define TRIAD_AUTOGRAD_OPS_BATCH_NORM_H

#include "autograd/op.h"
#include "autograd/ops/ops.h"

/* batch_norm       x, [gain], [bias], [residual]                      -> y, mean, var
 * batch_norm_grad  x, dy, mean, var, [gain], [bias], [residual or y]  -> dx, dgain, dbias, [dresidual]
 * The gradient takes y in place of the residual where the activation is ReLU: its sign is all that is asked. */
struct batch_norm_attr {
    double eps;
    int32_t gain, bias, residual; /* which of them are inputs */
    int32_t act;                  /* enum ad_norm_act */
};

/* x as rows of c channels. */
struct batch_norm_dims {
    int64_t rows, c;
};
static inline struct batch_norm_dims batch_norm_dims_of(struct ad_shape x)
{
    struct batch_norm_dims d = {1, x.dim[x.rank - 1]};
    for (int i = 0; i < x.rank - 1; i++) d.rows *= x.dim[i];
    return d;
}

extern const struct ad_op ad_op_batch_norm, ad_op_batch_norm_grad;

#endif
