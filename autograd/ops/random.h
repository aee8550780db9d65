/* How random ops number their bits, for evals and kernels. Word w of a tensor is a pure function of (seed, stream,
 * step, w). */
#ifndef TRIAD_AUTOGRAD_OPS_RANDOM_H
#define TRIAD_AUTOGRAD_OPS_RANDOM_H

#include "autograd/op.h"
#include "base/rng.h"

struct ad_random_attr {
    struct ad_shape shape; /* uniform, normal */
    uint64_t stream;
    double p; /* dropout: the share that is dropped */
    int64_t dtype, per_item;
};

static inline uint64_t ad_random_key(const struct ad_call *c)
{
    return rng_make(c->seed, ((const struct ad_random_attr *)c->attr)->stream, c->step).key;
}
static inline double ad_random_unit(uint32_t word)
{
    return (double)(word >> 8) * (1.0 / 16777216.0);
}
/* dropout: a word below this drops its element */
static inline uint32_t ad_drop_below(double p)
{
    return (uint32_t)(p * 16777216.0) << 8;
}

#endif
