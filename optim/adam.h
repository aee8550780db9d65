/* AdamW on vectors, and vectors from and to the end of a piece: for files of kernels/. */
#ifndef TRIAD_OPTIM_ADAM_H
#define TRIAD_OPTIM_ADAM_H

#include "base/simd.h"
#include "optim/steps.h"

enum { AHEAD = 512 }; /* bytes: four to seven streams are more than some prefetchers follow */

struct adam {
    vf w, m, v;
};

SIMD_FN struct adam moments_of(vf g, vf m, vf v, const struct opt_factors *f)
{
    const float gain1 = (1 - f->b1) * f->grad_scale, gain2 = sqrtf(1 - f->b2) * f->grad_scale;
    vf x = gain2 * g;
    return (struct adam){.m = f->b1 * m + gain1 * g, .v = f->b2 * v + x * x};
}

/* (Loshchilov & Hutter 2019, alg. 2), with the corrections for the start in the rate and eps: sqrt(v fix2) + eps is
 * sqrt(fix2) times sqrt(v) + eps / sqrt(fix2). The square root and the division round correctly. */
SIMD_FN struct adam adam_of(vf w, vf g, vf m, vf v, const struct opt_factors *f)
{
    const float root = sqrtf(f->fix2), rate = f->lr * f->fix1 / root, eps = f->eps / root, keep = 1 - f->lr * f->decay;
    struct adam a = moments_of(g, m, v, f);
    a.w = w * keep - rate * a.m / (vf_sqrt(a.v) + eps);
    return a;
}

SIMD_FN void follow(float *ema, vf w, int64_t n, const struct opt_factors *f)
{
    if (ema) vf_put(ema, f->ema * vf_get(ema, n) + (1 - f->ema) * w, n);
}

#endif
