/* Vectors of the width that the instruction set has, through GCC's vector extensions: vf holds VL floats. For files of
 * kernels/ folders (base/isa.h). */
#ifndef TRIAD_BASE_SIMD_H
#define TRIAD_BASE_SIMD_H

#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <immintrin.h>
#endif

#include "base/half.h"

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

/* Asks for the line at p into the first-level cache, or the second. gcc takes a function that does nothing but ask for one without
 * effect and drops its calls; the empty asm is an effect. */
SIMD_FN void ask_l1(const void *p)
{
    __builtin_prefetch(p);
    __asm__ volatile("");
}
SIMD_FN void ask_l2(const void *p)
{
    __builtin_prefetch(p, 0, 2);
    __asm__ volatile("");
}

/* Comparisons give a vm, which takes & | ~; vf_pick(m, a, b) is a where m holds, else b. */
#ifdef __AVX512F__
typedef __mmask16 vm;
#define VF_COMPARE(name, op, code)             \
    SIMD_FN vm vf_##name(vf a, vf b)           \
    {                                          \
        return _mm512_cmp_ps_mask(a, b, code); \
    }
#else
typedef vi vm;
#define VF_COMPARE(name, op, code)   \
    SIMD_FN vm vf_##name(vf a, vf b) \
    {                                \
        return a op b;               \
    }
#endif
VF_COMPARE(lt, <, _CMP_LT_OQ)
VF_COMPARE(le, <=, _CMP_LE_OQ)
VF_COMPARE(eq, ==, _CMP_EQ_OQ)
VF_COMPARE(ne, !=, _CMP_NEQ_UQ)
#undef VF_COMPARE

SIMD_FN vf vf_pick(vm m, vf a, vf b)
{
#if defined(__AVX512F__)
    return _mm512_mask_blend_ps(m, b, a);
#elif defined(__AVX2__)
    return _mm256_blendv_ps(b, a, (vf)m);
#else
    return (vf)((m & (vi)a) | (~m & (vi)b));
#endif
}
/* 1 where m holds, else 0. */
SIMD_FN vf vf_mask01(vm m)
{
#ifdef __AVX512F__
    return _mm512_maskz_mov_ps(m, vf_set(1));
#else
    return (vf)(m & (vi)vf_set(1));
#endif
}
/* a > b ? a : b and a < b ? a : b: the second where one of them is a NaN. */
SIMD_FN vf vf_max(vf a, vf b)
{
#if defined(__AVX512F__)
    return _mm512_max_ps(a, b);
#elif defined(__AVX2__)
    return _mm256_max_ps(a, b);
#elif defined(__SSE2__)
    return _mm_max_ps(a, b);
#else
    return vf_pick(vf_lt(b, a), a, b);
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
    return vf_pick(vf_lt(a, b), a, b);
#endif
}
SIMD_FN vf vf_sqrt(vf x)
{
#if defined(__AVX512F__)
    return _mm512_sqrt_ps(x);
#elif defined(__AVX2__)
    return _mm256_sqrt_ps(x);
#elif defined(__SSE2__)
    return _mm_sqrt_ps(x);
#else
    for (int i = 0; i < VL; i++) x[i] = sqrtf(x[i]);
    return x;
#endif
}
/* The sum of all lanes, halves first: the same order for every way to reach it. */
SIMD_FN float vf_sum(vf x)
{
    float p[VL];
    vf_store(p, x);
#pragma GCC unroll 4
    for (int n = VL / 2; n > 0; n /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < n; i++) p[i] += p[i + n];
    return p[0];
}

/* The first n < VL numbers at p, the other lanes `rest`; and only the first n lanes to p. */
SIMD_FN vf vf_load_part(const float *p, int64_t n, float rest)
{
#ifdef __AVX512F__
    return _mm512_mask_loadu_ps(vf_set(rest), (__mmask16)((1u << n) - 1), p);
#elif defined(__AVX2__)
    static const int32_t lanes[2 * VL] = {-1, -1, -1, -1, -1, -1, -1, -1};
    vi m;
    memcpy(&m, lanes + VL - n, sizeof m);
    vf x = _mm256_maskload_ps(p, (__m256i)m);
    return rest == 0 ? x : vf_pick(m, x, vf_set(rest));
#else
    vf x = vf_set(rest);
    float room[VL];
    vf_store(room, x);
    for (int64_t i = 0; i < n; i++) room[i] = p[i];
    return vf_load(room);
#endif
}
SIMD_FN void vf_store_part(float *p, vf x, int64_t n)
{
#ifdef __AVX512F__
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), x);
#elif defined(__AVX2__)
    __m128 y = _mm256_castps256_ps128(x); /* by halves: some processors take long for a masked store */
    if (n & 4) {
        _mm_storeu_ps(p, y);
        y = _mm256_extractf128_ps(x, 1);
        p += 4;
    }
    if (n & 2) {
        _mm_storel_pi((__m64 *)p, y);
        y = _mm_movehl_ps(y, y);
        p += 2;
    }
    if (n & 1) _mm_store_ss(p, y);
#else
    float room[VL];
    vf_store(room, x);
    for (int64_t i = 0; i < n; i++) p[i] = room[i];
#endif
}

/* The same where n may be VL: all of a row's vectors, the last of which is a part. Other lanes are 0. */
SIMD_FN vf vf_get(const float *p, int64_t n)
{
    return n == VL ? vf_load(p) : vf_load_part(p, n, 0);
}
SIMD_FN void vf_put(float *p, vf x, int64_t n)
{
    if (n == VL)
        vf_store(p, x);
    else
        vf_store_part(p, x, n);
}

typedef uint32_t vu __attribute__((vector_size(VL * 4)));

/* VL numbers of 16 bits, from and to vf with the rounding of half.h. */
typedef uint16_t vh __attribute__((vector_size(VL * 2)));

SIMD_FN vf vf_from_bf16(vh h)
{
    return (vf)(__builtin_convertvector(h, vu) << 16);
}
SIMD_FN vh vf_to_bf16(vf x)
{
    vu u = (vu)x, rounded = (u + 0x7fff + (u >> 16 & 1)) >> 16, nan = u >> 16 | 0x40;
    return __builtin_convertvector((vu)vf_pick(vf_ne(x, x), (vf)nan, (vf)rounded), vh);
}
SIMD_FN vf vf_from_f16(vh h)
{
#if defined(__AVX512F__)
    return _mm512_cvtph_ps((__m256i)h);
#elif defined(__F16C__) && defined(__AVX2__)
    return _mm256_cvtph_ps((__m128i)h);
#else
    vf x = {0};
    for (int i = 0; i < VL; i++) x[i] = half_to_float(h[i]);
    return x;
#endif
}
SIMD_FN vh vf_to_f16(vf x)
{
#if defined(__AVX512F__)
    return (vh)_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__F16C__) && defined(__AVX2__)
    return (vh)_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT);
#else
    vh h = {0};
    for (int i = 0; i < VL; i++) h[i] = half_from_float(x[i]);
    return h;
#endif
}

#define VF_TOP vf_set(3.40282347e38f) /* the largest finite float */
#define VF_INF vf_set(__builtin_inff())

SIMD_FN vf vf_abs(vf x)
{
    return (vf)((vi)x & 0x7fffffff);
}
/* |x| with the sign of s */
SIMD_FN vf vf_sign_of(vf x, vf s)
{
    return (vf)(((vi)x & 0x7fffffff) | ((vi)s & (int32_t)0x80000000));
}

/* a b + c, rounded once where the machine can: left to the compiler, that hangs on its options and on the loop around it, and
 * a tensor in 16 bits must give the bits of a wide one. */
SIMD_FN vf vf_madd(vf a, vf b, vf c)
{
#if defined(__AVX512F__)
    return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__) && defined(__FMA__)
    return _mm256_fmadd_ps(a, b, c);
#elif defined(__FP_FAST_FMAF)
    for (int i = 0; i < VL; i++) a[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return a;
#else
    return a * b + c;
#endif
}

/* Coefficients of a polynomial, highest power first. */
#define POLY(x, ...) vf_poly(x, (const float[]){__VA_ARGS__}, (int)(sizeof((float[]){__VA_ARGS__}) / sizeof(float)))
SIMD_FN vf vf_poly(vf x, const float *c, int n)
{
    vf y = vf_set(c[0]);
#pragma GCC unroll 12
    for (int i = 1; i < n; i++) y = y * x + c[i];
    return y;
}

/* log x = e ln 2 + log m, m in [sqrt 1/2, sqrt 2) (Cephes' polynomial): 1 ulp; subnormals included. */
SIMD_FN vf vf_log(vf x)
{
    vm tiny = vf_lt(x, vf_set(1.17549435e-38f));
    vf scaled = vf_pick(tiny, x * 8388608.0f, x);
    vi bits = (vi)vf_abs(scaled), e = (bits - 0x3f3504f3) >> 23;
    vf f = (vf)(bits - (vi)((vu)e << 23)) - 1.0f;
    vf k = __builtin_convertvector(e, vf) - vf_pick(tiny, vf_set(23), vf_set(0));
    vf z = f * f;
    vf p = POLY(f, 7.0376836292e-2f, -1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f,
                -1.6668057665e-1f, 2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f);
    vf y = f * z * p + k * -2.12194440e-4f - 0.5f * z;
    y = (f + y) + k * 0.693359375f;
    y = vf_pick(vf_eq(x, vf_set(0)), -VF_INF, y);
    y = vf_pick(vf_lt(VF_TOP, x), x, y);
    return vf_pick(vf_lt(x, vf_set(0)) | vf_ne(x, x), vf_set(__builtin_nanf("")), y);
}

#endif
