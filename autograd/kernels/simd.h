/* The vectors of base/simd.h, and what several kernels do with them. */
#ifndef TRIAD_AUTOGRAD_KERNELS_SIMD_H
#define TRIAD_AUTOGRAD_KERNELS_SIMD_H

#include "base/simd.h"

/* n floats; better than memcpy where n is a few vectors. */
SIMD_FN void vf_copy(float *to, const float *from, int64_t n)
{
    int64_t i = 0;
    for (; i + 4 * VL <= n; i += 4 * VL) {
        vf a = vf_load(from + i), b = vf_load(from + i + VL), c = vf_load(from + i + 2 * VL),
           d = vf_load(from + i + 3 * VL);
        vf_store(to + i, a), vf_store(to + i + VL, b), vf_store(to + i + 2 * VL, c), vf_store(to + i + 3 * VL, d);
    }
    for (; i + VL <= n; i += VL) vf_store(to + i, vf_load(from + i));
    for (; i < n; i++) to[i] = from[i];
}

#endif
