/* The vectors of base/simd.h, and what several kernels do with them. */
#ifndef TRIAD_AUTOGRAD_KERNELS_SIMD_H
#define TRIAD_AUTOGRAD_KERNELS_SIMD_H

#include "base/simd.h"
#ifdef __x86_64__
#include <immintrin.h>
#endif

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

/* The larger (smaller) of each two; b where one of them is NaN. */
SIMD_FN vf vf_max(vf a, vf b)
{
#if defined(__AVX512F__)
    return _mm512_max_ps(a, b);
#elif defined(__AVX2__)
    return _mm256_max_ps(a, b);
#elif defined(__SSE2__)
    return _mm_max_ps(a, b);
#else
    return vf_pick(a > b, a, b);
#endif
}
SIMD_FN vf vf_min(vf a, vf b)
{
#if defined(__AVX512F__)
    return _mm512_min_ps(a, b);
#elif defined(__AVX2__)
    return _mm256_min_ps(a, b);
#elif defined(__SSE2__)
    return _mm_min_ps(a, b);
#else
    return vf_pick(a < b, a, b);
#endif
}
/* Halves are added to halves. */
SIMD_FN float vf_sum(vf x)
{
    float part[VL];
    memcpy(part, &x, sizeof part);
#pragma GCC unroll 4
    for (int half = VL / 2; half > 0; half /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < half; i++) part[i] += part[i + half];
    return part[0];
}

#endif
