/* Vectors of the width that the instruction set has, through GCC's vector extensions: vf holds VL floats. */
#ifndef TRIAD_AUTOGRAD_KERNELS_SIMD_H
#define TRIAD_AUTOGRAD_KERNELS_SIMD_H

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

#endif
