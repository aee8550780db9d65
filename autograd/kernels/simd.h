/* Vectors of the width that the instruction set has, through GCC's vector extensions: vf holds VL floats. */
#ifndef TRIAD_AUTOGRAD_KERNELS_SIMD_H
#define TRIAD_AUTOGRAD_KERNELS_SIMD_H

#include <stdint.h>
#include <string.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define VL 16
#elif defined(__AVX2__)
#define VL 8
#else
#define VL 4
#endif

typedef float vf __attribute__((vector_size(VL * 4)));
typedef int32_t vi __attribute__((vector_size(VL * 4)));

#define SIMD_FN static inline __attribute__((always_inline))

SIMD_FN vf vf_load(const float *p)
{
    vf x;
    memcpy(&x, p, sizeof x);
    return x;
}
SIMD_FN void vf_store(float *p, vf x)
{
    memcpy(p, &x, sizeof x);
}
SIMD_FN vf vf_set(float x)
{
    return x - (vf){0}; /* a broadcast that keeps -0 and NaN */
}
SIMD_FN vf vf_pick(vi mask, vf a, vf b)
{
    return (vf)((mask & (vi)a) | (~mask & (vi)b));
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
