/* Vectors of eight floats through GCC's vector extensions, for loops whose blocks are eight wide on every machine; others
 * take simd.h. */
#ifndef TRIAD_AUTOGRAD_KERNELS_VMATH_H
#define TRIAD_AUTOGRAD_KERNELS_VMATH_H

#include <stdint.h>
#include <string.h>

typedef float v8 __attribute__((vector_size(32)));

static inline v8 v8_load(const float *p)
{
    v8 x;
    memcpy(&x, p, sizeof x);
    return x;
}
static inline void v8_store(float *p, v8 x)
{
    memcpy(p, &x, sizeof x);
}

#endif
