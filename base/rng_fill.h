/* Many random numbers at once, over all threads: the same stream as base/rng.h, each number where it would stand if it
 * were drawn alone, so that the result depends on neither threads nor blocks. */
#ifndef TRIAD_BASE_RNG_FILL_H
#define TRIAD_BASE_RNG_FILL_H

#include "base/rng.h"

/* x[i] = scale * (the i-th rng_normal of `r`, which has not been drawn from yet), for 0 <= i < n. Within one rounding of
 * f32 of what rng_normal gives, which takes libm's logarithm and cosine. `r` itself does not move. */
void rng_fill_normal(const struct rng *r, double scale, int64_t n, float *x);

#endif
