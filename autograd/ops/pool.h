/* What max pooling and its kernel share. */
#ifndef TRIAD_AUTOGRAD_OPS_POOL_H
#define TRIAD_AUTOGRAD_OPS_POOL_H

#include "autograd/op.h"

struct pool_attr {
    int32_t kernel[2], stride[2], pad[2];
};
struct pool_grad_attr {
    int64_t dim[4]; /* of x */
};

/* x -> y, index (int32: where in x, counted over the whole tensor)      max_pool_grad: dy, index -> dx */
extern const struct ad_op ad_op_max_pool, ad_op_max_pool_grad;

/* Rows lo .. hi-1 of x that window i reads. */
static inline void pool_window(const struct pool_attr *a, int axis, int64_t i, int64_t h, int64_t *lo, int64_t *hi)
{
    int64_t start = i * a->stride[axis] - a->pad[axis], end = start + a->kernel[axis];
    *lo = start < 0 ? 0 : start;
    *hi = end > h ? h : end;
}

#endif
