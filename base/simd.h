/* Vectors of the width that the instruction set has, through GCC's vector extensions: vf holds VL floats. For files of
 * kernels/ folders (base/isa.h). */
#ifndef TRIAD_BASE_SIMD_H
#define TRIAD_BASE_SIMD_H

#include <stdint.h>
#include <string.h>

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

/* ln x for normal numbers above 0 (Cephes, 1 ulp); infinity and NaN stay. */
SIMD_FN vf vf_log(vf x)
{
    vi bits = (vi)x - 0x3f3504f3; /* the fraction lies in sqrt(1/2)..sqrt(2) */
    vf f = (vf)((bits & 0x7fffff) + 0x3f3504f3) - 1.0f, k = __builtin_convertvector(bits >> 23, vf), z = f * f;
    vf p = f * 7.0376836292e-2f - 1.1514610310e-1f;
    p = p * f + 1.1676998740e-1f;
    p = p * f - 1.2420140846e-1f;
    p = p * f + 1.4249322787e-1f;
    p = p * f - 1.6668057665e-1f;
    p = p * f + 2.0000714765e-1f;
    p = p * f - 2.4999993993e-1f;
    p = p * f + 3.3333331174e-1f;
    vf y = f * z * p + k * -2.12194440e-4f - 0.5f * z;
    y = (f + y) + k * 0.693359375f;
    return vf_pick(x <= 3.40282347e38f, y, x);
}

#endif
