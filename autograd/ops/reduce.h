/* Attributes of the reductions, as evals and kernels read them. */
#ifndef TRIAD_AUTOGRAD_OPS_REDUCE_H
#define TRIAD_AUTOGRAD_OPS_REDUCE_H

#include <stdint.h>

/* sum, max, min */
struct ad_reduce_attr {
    uint32_t axes, keep; /* axes: bit i is axis i */
};

/* argmax, cumsum, logsumexp, top_k (the last axis) */
struct ad_axis_attr {
    int64_t axis, flag; /* flag: cumsum runs backwards, logsumexp keeps the axis, top_k's k */
};

#endif
