/* Functions of a vector of floats, on top of simd.h. Branch-free; NaN gives NaN. The errors stand in ulp of the result,
 * measured against libm in double over all exponents by tests/autograd/test_kernels.c. */
#ifndef TRIAD_AUTOGRAD_KERNELS_VFUNC_H
#define TRIAD_AUTOGRAD_KERNELS_VFUNC_H

#include "autograd/kernels/simd.h"

/* x rounded to a whole number, for |x| < 2^21; *n: the same as integers where those are needed. */
SIMD_FN vf vf_whole(vf x, vi *n)
{
#ifdef __AVX512F__
    vf k = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    *n = (vi)_mm512_cvtps_epi32(k);
    return k;
#else
    vf z = x + 12582912.0f; /* the sum rounds to a whole number in the low bits */
    *n = (vi)z - (vi)vf_set(12582912.0f);
    return z - 12582912.0f;
#endif
}

/* exp by 2^n p(r), |r| <= ln2/2, p of degree 7 (Cephes): 1.5 ulp; below -87.3 gives 0 (results that would be subnormal
 * included), above 88.7 infinity. */
SIMD_FN vf vf_exp(vf x)
{
    const vf lo = vf_set(-87.33654f);
    vi n;
    vf t = vf_min(vf_set(100), vf_max(vf_set(-100), x)), k = vf_whole(t * 1.44269504f, &n);
    vf r = (t - k * 0.693359375f) - k * -2.12194440e-4f;
    vf p = POLY(r, 1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f,
                5.0000001201e-1f);
    p = p * (r * r) + r + 1.0f;
#ifdef __AVX512F__
    return _mm512_maskz_scalef_ps((__mmask16)~vf_lt(x, lo), p, k);
#else
    /* The result is normal between lo and hi, so that adding to the exponent's bits is exact; p of a NaN is one and a
     * whole number of a NaN may be anything, which only changes its payload or is mended at the end. */
    vf y = (vf)((vu)p + ((vu)n << 23));
    y = vf_pick(vf_lt(x, lo), vf_set(0), vf_pick(vf_lt(vf_set(88.72283f), x), VF_INF, y));
    return vf_pick(vf_ne(x, x), x, y);
#endif
}

/* 2^x = 2^n p(x - n), p minimax of degree 5 with p(0) = 1, whose relative error is 9e-8; x in -127 .. 128, or NaN, which it
 * stays. From -127 to -126.5 gives 0, from 127.5 on infinity. */
SIMD_FN vf vf_exp2_within(vf x)
{
    const float magic = 12582912.0f + 127; /* the sum's low bits are the exponent of 2^n */
    vf z = x + magic, r = x - (z - magic);
    vf p = 1.32647e-3f * r + 9.67151e-3f;
    p = p * r + 5.550734e-2f;
    p = p * r + 2.4022242e-1f;
    p = p * r + 6.9314698e-1f;
    p = p * r + 1.0f;
    return p * (vf)((vi)z << 23);
}
/* The same for all x, and for x up to 0: half the work of vf_exp, for what is multiplied by something near 1 afterwards. */
SIMD_FN vf vf_exp2(vf x)
{
    return vf_exp2_within(vf_min(vf_set(128), vf_max(vf_set(-127), x)));
}
SIMD_FN vf vf_exp2_down(vf x)
{
    return vf_exp2_within(vf_max(vf_set(-127), x));
}

/* e^x = 2^n p(r), p minimax of degree 6 whose relative error is 3e-9: 1 ulp. x in -88.03 .. 88.73, or NaN, which it stays;
 * below -87.7 it gives 0, from 88.4 on infinity. `each`: of n vectors in place, a constant up to 4: one has to wait for each
 * of its steps, several do not. */
SIMD_FN void vf_exp_within_each(int n, vf *x)
{
    static const float c[] = {
        1.38145406e-3f, 8.36874545e-3f, 4.16683890e-2f, 1.66665211e-1f, 4.99999940e-1f, 1.0f, 1.0f};
    const float magic = 12582912.0f + 127;
    vf z[4], r[4], p[4];
#pragma GCC unroll 4
    for (int i = 0; i < n; i++) {
        z[i] = x[i] * 1.44269504f + magic;
        vf k = z[i] - magic;
        r[i] = (x[i] - k * 0.693359375f) - k * -2.12194440e-4f;
        p[i] = vf_set(c[0]);
    }
#pragma GCC unroll 8
    for (int k = 1; k < 7; k++)
#pragma GCC unroll 4
        for (int i = 0; i < n; i++) p[i] = p[i] * r[i] + c[k];
#pragma GCC unroll 4
    for (int i = 0; i < n; i++) x[i] = p[i] * (vf)((vi)z[i] << 23);
}
SIMD_FN vf vf_exp_within(vf x)
{
    vf_exp_within_each(1, &x);
    return x;
}
/* The same for all x, and for x up to 0: half the work of vf_exp, for what is not itself the result. */
SIMD_FN vf vf_exp_cut(vf x)
{
    return vf_exp_within(vf_min(vf_set(88.73f), vf_max(vf_set(-88.03f), x)));
}
SIMD_FN vf vf_exp_down(vf x)
{
    return vf_exp_within(vf_max(vf_set(-88.03f), x));
}

SIMD_FN void vf_exp_cut_each(int n, vf *x)
{
#pragma GCC unroll 4
    for (int i = 0; i < n; i++) x[i] = vf_min(vf_set(88.73f), vf_max(vf_set(-88.03f), x[i]));
    vf_exp_within_each(n, x);
}

/* log(1 + x) = log u + (x - (u - 1)) / u, u the rounded 1 + x: 2 ulp. */
SIMD_FN vf vf_log1p(vf x)
{
    vf u = 1.0f + x;
    vf y = vf_log(u) + (x - (u - 1.0f)) / u;
    y = vf_pick(vf_eq(u, vf_set(0)), -VF_INF, y);
    y = vf_pick(vf_lt(VF_TOP, x), x, y);
    return vf_pick(vf_lt(vf_abs(x), vf_set(2.9e-8f)), x, y);
}

/* e^x - 1 = 2 (s q + (s - 1/2)), q = e^r - 1, s = 2^(n-1): 2 ulp. */
SIMD_FN vf vf_expm1(vf x)
{
    vi n;
    vf t = vf_min(vf_set(89), vf_max(vf_set(-18), x)), k = vf_whole(t * 1.44269504f, &n);
    vf r = (t - k * 0.693359375f) - k * -2.12194440e-4f;
    vf q = POLY(r, 1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f,
                5.0000001201e-1f);
    q = q * r * r + r;
    vf s = (vf)((n + 126) << 23);
    vf y = 2.0f * (s * q + (s - 0.5f));
    return vf_pick(vf_eq(x, vf_set(0)) | vf_ne(x, x), x, y);
}

/* Below 0.625 Cephes' polynomial, above 1 - 2 / (e^2x + 1): 2 ulp. */
SIMD_FN vf vf_tanh(vf x)
{
    vf a = vf_abs(x), z = x * x;
    vf near = POLY(z, -5.70498872745e-3f, 2.06390887954e-2f, -5.37397155531e-2f, 1.33314422036e-1f, -3.33332819422e-1f);
    near = near * z * x + x;
    vf far = vf_sign_of(1.0f - 2.0f / (vf_exp_cut(a + a) + 1.0f), x);
    return vf_pick(vf_lt(a, vf_set(0.625f)), near, vf_pick(vf_ne(x, x), x, far));
}

/* 1 / (1 + e^-x): 3 ulp; 0 below -88.4. */
SIMD_FN vf vf_sigmoid(vf x)
{
    return 1.0f / (1.0f + vf_exp_cut(-x));
}

/* max(x, 0) + log(1 + e^-|x|): 3 ulp; 0 below -87.3. */
SIMD_FN vf vf_softplus(vf x)
{
    vf y = vf_max(x, vf_set(0)) + vf_log1p(vf_exp_down(-vf_abs(x)));
    return vf_pick(vf_ne(x, x), x, y);
}

/* Two minimax polynomials, in x^2 below 0.93 and in the exponent of 1 - e^p(|x|) above: 1.5 ulp. */
SIMD_FN vf vf_erf(vf x)
{
    vf t = vf_min(vf_set(4), vf_abs(x)), s = t * t;
    vf near =
        POLY(s, -5.96761703e-4f, 4.99119423e-3f, -2.67681349e-2f, 1.12819925e-1f, -3.76125336e-1f, 1.28379166e-1f);
    vf far = (-1.72853470e-5f * t + 3.83197126e-4f) * s + (-3.88396438e-3f * t + 2.42546219e-2f);
    far = ((far * t + -1.06777877e-1f) * t + -6.34846687e-1f) * t + -1.28717512e-1f;
    far = vf_sign_of(1.0f - vf_exp_down(far * t - t), x);
    return vf_pick(vf_lt(vf_set(0.927734375f), t), far, near * x + x);
}

/* ---- gates and their slopes -------------------------------------------------------------------------------------------
 * A gate is x times a share F(x) that goes from 0 to 1; its slope is the first factor of a gradient, the second is what
 * comes from above. The share's error is 2 2^-23, absolute, that of a slope 4 2^-24: it lies in -0.2 .. 1.2. Beyond the
 * bound that x is cut to, shares and slopes are 0 or 1. */

/* A share or slope as 1/2 + x p(s), s = 2 (x / bound)^2 - 1, p minimax: no exponential and no quotient. Highest power first. */
struct vf_odd {
    float bound;
    int terms;
    float c[19];
};
/* The normal distribution F, and the slope of x F, F + x f, f the density. Where products are rounded on their own (without
 * AVX2), the slope's error is 5 2^-24. */
static const struct vf_odd vf_normal_share = {5.4f,
                                              15,
                                              {3.928498772e-04f, -1.028365339e-03f, 8.749630651e-04f, -1.186420908e-03f,
                                               3.658884438e-03f, -6.715326104e-03f, 9.651220404e-03f, -1.396332681e-02f,
                                               1.964513585e-02f, -2.574645542e-02f, 3.211659566e-02f, -3.920681402e-02f,
                                               4.849959165e-02f, -6.532805413e-02f, 1.309281141e-01f}};
static const struct vf_odd vf_normal_slope = {6,
                                              19,
                                              {2.771489089e-03f, -6.890391000e-03f, 1.886633458e-03f, 1.630098908e-03f,
                                               1.603040658e-02f, -3.296729550e-02f, 3.140565380e-02f, -3.633778915e-02f,
                                               5.444307253e-02f, -6.575407833e-02f, 6.686614454e-02f, -6.431144476e-02f,
                                               5.869454890e-02f, -5.093631893e-02f, 4.455547407e-02f, -4.236553237e-02f,
                                               4.605771974e-02f, -5.934280902e-02f, 1.178977638e-01f}};

/* y[i] of x[i], n vectors up to VF_MANY, a constant: one has to wait for each of its steps, several do not. *f is a constant. */
enum { VF_MANY = VL > 8 ? 8 : 6 };
SIMD_FN void vf_odd(int n, const vf *x, const struct vf_odd *f, vf *y)
{
    vf s[VF_MANY];
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) {
        s[i] = vf_madd(x[i] * x[i], vf_set(2 / (f->bound * f->bound)), vf_set(-1));
        y[i] = vf_set(f->c[0]);
    }
#pragma GCC unroll 20
    for (int k = 1; k < f->terms; k++)
#pragma GCC unroll 8
        for (int i = 0; i < n; i++) y[i] = vf_madd(y[i], s[i], vf_set(f->c[k]));
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) {
        vf in = vf_madd(x[i], y[i], vf_set(0.5f)), low = vf_pick(vf_lt(x[i], vf_set(-f->bound)), vf_set(0), in);
        y[i] = vf_pick(vf_lt(vf_set(f->bound), x[i]), vf_set(1), low);
    }
}

/* s = sigmoid(x) and 1 - s = e^-x s, both without cancellation; |x| up to 87. */
struct vf_logistic {
    vf share, rest;
};
SIMD_FN struct vf_logistic vf_logistic(vf x)
{
    vf e = vf_exp2_within(x * -1.44269504f), s = 1.0f / (1.0f + e);
    return (struct vf_logistic){s, e * s};
}
/* x sigmoid(u) */
SIMD_FN vf vf_gated(vf x, vf u)
{
    return x / (1.0f + vf_exp2(u * -1.44269504f));
}
SIMD_FN vf vf_swish(vf x, float k)
{
    return vf_gated(x, k * x);
}
/* s + k x s (1 - s), s = sigmoid(k x) */
SIMD_FN vf vf_swish_slope(vf x, float k)
{
    vf t = vf_min(vf_set(80), vf_max(vf_set(-80), k * x));
    struct vf_logistic s = vf_logistic(t);
    return s.share + t * (s.share * s.rest);
}
/* x sigmoid(2u), u = sqrt(2 / pi) (x + 0.044715 x^3) */
SIMD_FN vf vf_gelu_tanh(vf x)
{
    return vf_gated(x, x * (1.59576912f + 0.0713548163f * (x * x)));
}
/* s + x s (1 - s) 2u', s = sigmoid(2u) */
SIMD_FN vf vf_gelu_tanh_slope(vf x)
{
    vf t = vf_min(vf_set(9), vf_max(vf_set(-9), x)), z = t * t;
    struct vf_logistic s = vf_logistic(t * (1.59576912f + 0.0713548163f * z));
    return s.share + t * (1.59576912f + 0.214064449f * z) * (s.share * s.rest);
}

typedef double vd __attribute__((vector_size(VL * 8)));
typedef int64_t vl __attribute__((vector_size(VL * 8)));

struct vf_trig {
    vf sin, cos;
};
/* sin and cos of r + n pi/2, |r| up to pi/4. */
SIMD_FN struct vf_trig vf_sincos_of(vf r, vi n)
{
    vf s = r * r;
    vf a = POLY(s, -1.9515295891e-4f, 8.3321608736e-3f, -1.6666654611e-1f) * s * r + r;
    vf b = POLY(s, 2.443315711809948e-5f, -1.388731625493765e-3f, 4.166664568298827e-2f) * s * s - 0.5f * s + 1.0f;
    vi swap = -(n & 1), flip_sin = (vi)((vu)(n & 2) << 30), flip_cos = (vi)((vu)((n + 1) & 2) << 30);
    vi to_sin = (swap & (vi)b) | (~swap & (vi)a), to_cos = (swap & (vi)a) | (~swap & (vi)b);
    return (struct vf_trig){(vf)(to_sin ^ flip_sin), (vf)(to_cos ^ flip_cos)};
}

/* sin and cos of r = x - n pi/2, pi/2 in three doubles of which the first two have 33 bits (fdlibm), so that products
 * with n are exact; for |x| up to TRIG_MAX: 2 ulp each, 3.5 their quotient. Beyond it is libm's work. */
#define TRIG_MAX 1e6f
SIMD_FN struct vf_trig vf_sincos(vf x)
{
    vd d = __builtin_convertvector(x, vd);
    vd z = d * 0.63661977236758134308 + 6755399441055744.0, k = z - 6755399441055744.0;
    vi n = __builtin_convertvector((vl)z & 3, vi);
    d = ((d - k * 1.57079632673412561417e+00) - k * 6.07710050630396597660e-11) - k * 2.02226624879595063154e-21;
    return vf_sincos_of(__builtin_convertvector(d, vf), n);
}

#endif
