/* Vectors of the width that the instruction set has, through GCC's vector extensions: vf holds VL floats. */
#ifndef TRIAD_AUTOGRAD_KERNELS_SIMD_H
#define TRIAD_AUTOGRAD_KERNELS_SIMD_H

#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
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
#else
    float room[VL];
    vf_store(room, x);
    for (int64_t i = 0; i < n; i++) p[i] = room[i];
#endif
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
