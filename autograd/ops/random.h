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
/* dropout: the number that element 0 (per_item: item 0) has in the whole of which the input is a part */
static inline int64_t ad_random_first(const struct ad_call *c)
{
    const struct ad_random_attr *a = c->attr;
    if (c->n_in < 2) return 0;
    int64_t rows = ad_get_int(&c->in[1], 0), n = ad_count(c->out[0].shape);
    if (rows < 0) {
        ad_call_fail(c, "the number of the first row is %lld", (long long)rows);
        return 0;
    }
    return a->per_item || n == 0 ? rows : rows * (n / c->out[0].shape.dim[0]);
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
