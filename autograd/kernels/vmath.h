/* Vectors of eight floats through GCC's vector extensions, and the polynomials that several kernels share. */
#ifndef TRIAD_AUTOGRAD_KERNELS_VMATH_H
#define TRIAD_AUTOGRAD_KERNELS_VMATH_H

#include <stdint.h>
#include <string.h>

typedef float v8 __attribute__((vector_size(32)));
typedef int32_t v8i __attribute__((vector_size(32)));

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
static inline v8 v8_set(float x)
{
    return (v8){x, x, x, x, x, x, x, x};
}
static inline v8 v8_pick(v8i mask, v8 a, v8 b)
{
    return (v8)((mask & (v8i)a) | (~mask & (v8i)b));
}
static inline v8 v8_max(v8 a, v8 b)
{
    return v8_pick(a > b, a, b);
}
static inline float v8_sum(v8 x)
{
    return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
}

/* exp by 2^n * p(r), |r| <= ln2/2, p of degree 6 (Cephes); at most 2 ulp; below -87.3 gives 0 (results that would be
 * subnormal included), above 88.7 infinity; NaN stays NaN. */
static inline v8 v8_exp(v8 x)
{
    const v8 lo = v8_set(-87.33654f), hi = v8_set(88.72283f);
    v8i low = x<lo, high = x> hi, nan = x != x;
    v8 t = v8_pick(low, lo, v8_pick(high, hi, v8_pick(nan, v8_set(0), x)));
    v8 z = t * v8_set(1.44269504f) + v8_set(12582912.0f); /* the sum rounds to a whole number in the low bits */
    v8i n = (v8i)z - (v8i)v8_set(12582912.0f);
    v8 k = z - v8_set(12582912.0f);
    v8 r = (t - k * v8_set(0.693359375f)) - k * v8_set(-2.12194440e-4f);
    v8 p = v8_set(1.9875691500e-4f);
    p = p * r + v8_set(1.3981999507e-3f);
    p = p * r + v8_set(8.3334519073e-3f);
    p = p * r + v8_set(4.1665795894e-2f);
    p = p * r + v8_set(1.6666665459e-1f);
    p = p * r + v8_set(5.0000001201e-1f);
    p = p * r * r + r + v8_set(1.0f);
    v8i half = n >> 1; /* two factors, since 2^128 is no float */
    v8 a = (v8)((half + 127) << 23), b = (v8)((n - half + 127) << 23);
    v8 y = p * a * b;
    y = v8_pick(low, v8_set(0), v8_pick(high, v8_set(__builtin_inff()), y));
    return v8_pick(nan, x, y);
}

#endif
