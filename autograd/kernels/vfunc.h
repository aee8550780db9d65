/* Functions of eight floats at once, on top of vmath.h. Branch-free; NaN gives NaN. The errors stand in ulp of the
 * result, measured against libm in double over all exponents by tests/autograd/test_kernels.c. */
#ifndef TRIAD_AUTOGRAD_KERNELS_VFUNC_H
#define TRIAD_AUTOGRAD_KERNELS_VFUNC_H

#include "autograd/kernels/vmath.h"

typedef uint32_t v8u __attribute__((vector_size(32)));

#define VFUNC static inline __attribute__((always_inline))

VFUNC v8 v8_abs(v8 x)
{
    return (v8)((v8i)x & 0x7fffffff);
}
/* |x| with the sign of s */
VFUNC v8 v8_sign_of(v8 x, v8 s)
{
    return (v8)(((v8i)x & 0x7fffffff) | ((v8i)s & (int32_t)0x80000000));
}
VFUNC v8 v8_mask01(v8i mask)
{
    return (v8)(mask & (v8i)v8_set(1));
}

/* Coefficients of a polynomial, highest power first. */
#define POLY(x, ...) v8_poly(x, (const float[]){__VA_ARGS__}, (int)(sizeof((float[]){__VA_ARGS__}) / sizeof(float)))
VFUNC v8 v8_poly(v8 x, const float *c, int n)
{
    v8 y = v8_set(c[0]);
#pragma GCC unroll 12
    for (int i = 1; i < n; i++) y = y * x + c[i];
    return y;
}

/* log x = e ln 2 + log m, m in [sqrt 1/2, sqrt 2) (Cephes' polynomial): 1 ulp; subnormals included. */
VFUNC v8 v8_log(v8 x)
{
    v8i tiny = x < 1.17549435e-38f;
    v8 scaled = v8_pick(tiny, x * 8388608.0f, x);
    v8i bits = (v8i)v8_abs(scaled), e = (bits - 0x3f3504f3) >> 23;
    v8 f = (v8)(bits - (v8i)((v8u)e << 23)) - 1.0f;
    v8 k = __builtin_convertvector(e - (tiny & 23), v8);
    v8 z = f * f;
    v8 p = POLY(f, 7.0376836292e-2f, -1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f,
                -1.6668057665e-1f, 2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f);
    v8 y = f * z * p + k * -2.12194440e-4f - 0.5f * z;
    y = (f + y) + k * 0.693359375f;
    y = v8_pick(x == 0, v8_set(-__builtin_inff()), y);
    y = v8_pick(x > 3.40282347e38f, x, y);
    return v8_pick((x < 0) | (x != x), v8_set(__builtin_nanf("")), y);
}

/* log(1 + x) = log u + (x - (u - 1)) / u, u the rounded 1 + x: 2 ulp. */
VFUNC v8 v8_log1p(v8 x)
{
    v8 u = 1.0f + x;
    v8 y = v8_log(u) + (x - (u - 1.0f)) / u;
    y = v8_pick(u == 0, v8_set(-__builtin_inff()), y);
    y = v8_pick(x > 3.40282347e38f, x, y);
    return v8_pick(v8_abs(x) < 2.9e-8f, x, y);
}

/* e^x - 1 = 2 (s q + (s - 1/2)), q = e^r - 1, s = 2^(n-1): 2 ulp. */
VFUNC v8 v8_expm1(v8 x)
{
    v8i low = x<-18.0f, high = x> 89.0f;
    v8 t = v8_pick(low, v8_set(-18), v8_pick(high, v8_set(89), x));
    v8 z = t * 1.44269504f + 12582912.0f;
    v8i n = (v8i)z - (v8i)v8_set(12582912.0f);
    v8 k = z - 12582912.0f;
    v8 r = (t - k * 0.693359375f) - k * -2.12194440e-4f;
    v8 q = POLY(r, 1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f,
                5.0000001201e-1f);
    q = q * r * r + r;
    v8 s = (v8)((n + 126) << 23);
    v8 y = 2.0f * (s * q + (s - 0.5f));
    return v8_pick((x == 0) | (x != x), x, y);
}

/* Below 0.625 Cephes' polynomial, above 1 - 2 / (e^2x + 1): 2 ulp. */
VFUNC v8 v8_tanh(v8 x)
{
    v8 a = v8_abs(x), z = x * x;
    v8 near = POLY(z, -5.70498872745e-3f, 2.06390887954e-2f, -5.37397155531e-2f, 1.33314422036e-1f, -3.33332819422e-1f);
    near = near * z * x + x;
    v8 far = v8_sign_of(1.0f - 2.0f / (v8_exp(a + a) + 1.0f), x);
    return v8_pick(a < 0.625f, near, v8_pick(x != x, x, far));
}

/* 1 / (1 + e^-x): 3 ulp; 0 below -87.3. */
VFUNC v8 v8_sigmoid(v8 x)
{
    v8 e = v8_exp(-v8_abs(x)), r = 1.0f / (1.0f + e);
    return v8_pick(x < 0, e * r, r);
}

/* max(x, 0) + log(1 + e^-|x|): 3 ulp; 0 below -87.3. */
VFUNC v8 v8_softplus(v8 x)
{
    v8 y = v8_pick(x > 0, x, v8_set(0)) + v8_log1p(v8_exp(-v8_abs(x)));
    return v8_pick(x != x, x, y);
}

/* Two minimax polynomials, in x^2 below 0.93 and in the exponent of 1 - e^p(|x|) above: 1.5 ulp. */
VFUNC v8 v8_erf(v8 x)
{
    v8 t = v8_abs(x), s;
    t = v8_pick(t > 4, v8_set(4), t);
    s = t * t;
    v8 near =
        POLY(s, -5.96761703e-4f, 4.99119423e-3f, -2.67681349e-2f, 1.12819925e-1f, -3.76125336e-1f, 1.28379166e-1f);
    v8 far = (-1.72853470e-5f * t + 3.83197126e-4f) * s + (-3.88396438e-3f * t + 2.42546219e-2f);
    far = ((far * t + -1.06777877e-1f) * t + -6.34846687e-1f) * t + -1.28717512e-1f;
    far = v8_sign_of(1.0f - v8_exp(far * t - t), x);
    return v8_pick(t > 0.927734375f, far, near * x + x);
}

typedef double v8d __attribute__((vector_size(64)));
typedef int64_t v8l __attribute__((vector_size(64)));

/* sin and cos of r = x - n pi/2, pi/2 in three doubles of which the first two have 33 bits (fdlibm), so that products
 * with n are exact; for |x| up to TRIG_MAX: 2 ulp each, 3.5 their quotient. Beyond it is libm's work. */
#define TRIG_MAX 1e6f
struct v8_trig {
    v8 sin, cos;
};
VFUNC struct v8_trig v8_sincos(v8 x)
{
    v8d d = __builtin_convertvector(x, v8d);
    v8d z = d * 0.63661977236758134308 + 6755399441055744.0, k = z - 6755399441055744.0;
    v8i n = __builtin_convertvector((v8l)z & 3, v8i);
    d = ((d - k * 1.57079632673412561417e+00) - k * 6.07710050630396597660e-11) - k * 2.02226624879595063154e-21;
    v8 r = __builtin_convertvector(d, v8), s = r * r;
    v8 a = POLY(s, -1.9515295891e-4f, 8.3321608736e-3f, -1.6666654611e-1f) * s * r + r;
    v8 b = POLY(s, 2.443315711809948e-5f, -1.388731625493765e-3f, 4.166664568298827e-2f) * s * s - 0.5f * s + 1.0f;
    v8i swap = -(n & 1), flip_sin = (v8i)((v8u)(n & 2) << 30), flip_cos = (v8i)((v8u)((n + 1) & 2) << 30);
    return (struct v8_trig){(v8)((v8i)v8_pick(swap, b, a) ^ flip_sin), (v8)((v8i)v8_pick(swap, a, b) ^ flip_cos)};
}

#endif
