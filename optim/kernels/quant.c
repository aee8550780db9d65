/* Numbers to one-byte codes and back, a block at a time. See optim/quant.h. */
#include "optim/quant.h"

#include "base/simd.h"

typedef uint8_t codes __attribute__((vector_size(VL)));

enum { FOUR = 4 * VL }; /* numbers at once: so that AVX2 packs their codes into one vector */

/* table[at], at from 0 to 7. */
SIMD_FN vf look(const float table[16], vi at)
{
#if defined(__AVX512F__)
    return _mm512_permutexvar_ps((__m512i)at, _mm512_loadu_ps(table));
#elif defined(__AVX2__)
    return _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), (__m256i)at);
#else
    vf x;
    for (int i = 0; i < VL; i++) x[i] = table[at[i]];
    return x;
#endif
}

SIMD_FN vi choose(vi mask, vi a, vi b)
{
    return (mask & a) | (~mask & b);
}
SIMD_FN vi larger(vi a, vi b)
{
    return choose(a > b, a, b);
}

/* Magnitudes compare as integers do, and a NaN is more than infinity: it stays the largest. */
static float largest(const float *x, int64_t n)
{
    vi top = {0};
    int64_t i = 0;
    for (; i + VL <= n; i += VL) top = larger(top, (vi)vf_abs(vf_load(x + i)));
    if (i < n) top = larger(top, (vi)vf_abs(vf_load_part(x + i, n - i, 0)));
    for (int k = 1; k < VL; k++) top[0] = top[k] > top[0] ? top[k] : top[0];
    return ((vf)top)[0];
}

SIMD_FN vi code_of(const struct opt_map *m, vf x, vf scale)
{
    const vf zero = {0};
    vf share = vf_min(vf_abs(x) / scale, vf_set(1)); /* 1 for a NaN */
    vi decade = {0};
#pragma GCC unroll 7
    for (int i = 1; i < 8; i++) decade -= (vi)(share > m->from[i]);
    vf size = vf_min(share * look(m->gain, decade) + look(m->offset, decade), look(m->last, decade));
    vi k = __builtin_convertvector(size, vi) & (vi)(share > m->least);
    if (m->positive) return larger(k, -(vi)(x > zero));
    return choose((vi)(x < zero), larger(m->zero - k, (vi){0}), m->zero + k);
}

SIMD_FN void encode_four(const struct opt_map *m, const float *x, vf scale, uint8_t *code)
{
    vi c[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) c[k] = code_of(m, vf_load(x + k * VL), scale);
#if defined(__AVX2__) && !defined(__AVX512F__)
    __m256i a = _mm256_packus_epi32((__m256i)c[0], (__m256i)c[1]),
            b = _mm256_packus_epi32((__m256i)c[2], (__m256i)c[3]);
    a = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(a, b), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)(void *)code, a);
#else
    for (int k = 0; k < 4; k++) {
        codes b = __builtin_convertvector(c[k], codes);
        memcpy(code + k * VL, &b, VL);
    }
#endif
}

void ISA_FN(opt_encode)(const struct opt_map *map, const float *x, int64_t n, uint8_t *code, float *absmax)
{
    const float top = largest(x, n);
    *absmax = top;
    if (top == 0) {
        memset(code, map->zero, (size_t)n);
        return;
    }
    int64_t i = 0;
    for (; i + FOUR <= n; i += FOUR) encode_four(map, x + i, vf_set(top), code + i);
    if (i == n) return;
    float rest[FOUR] = {0};
    uint8_t part[FOUR];
    memcpy(rest, x + i, (size_t)(n - i) * sizeof *x);
    encode_four(map, rest, vf_set(top), part);
    memcpy(code + i, part, (size_t)(n - i));
}

SIMD_FN vi widen(const uint8_t *code)
{
#if defined(__AVX512F__)
    return (vi)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)code));
#elif defined(__AVX2__)
    return (vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)code));
#else
    codes c;
    memcpy(&c, code, sizeof c);
    return __builtin_convertvector(c, vi);
#endif
}

/* A decade's first magnitude is a power of 2 (less 1 where all are positive): an exponent says which decade, a fraction
 * how far in it. */
SIMD_FN vf decode(const struct opt_map *m, const uint8_t *code, float scale)
{
    vi c = widen(code) - m->zero, k = larger(c, -c);
    vi bits = (vi) __builtin_convertvector(k + (m->positive ? 1 : 0), vf);
    vi decade = ((bits >> 23) - (m->positive ? 128 : 127)) & 7; /* whatever for 0 */
    vf f = (vf)((bits & 0x7fffff) | 0x3f800000) - 1.0f;
    vf size = look(m->power, decade) * (0.9f * f + look(m->middle, decade));
    vf x = (vf)((vi)size & (vi)(k > 0)) * scale;
    return (vf)((vi)x | ((vi)c & (int32_t)0x80000000));
}

void ISA_FN(opt_decode)(const struct opt_map *map, const uint8_t *code, int64_t n, float absmax, float *x)
{
    uint8_t part[VL] = {0};
    int64_t i = 0;
    for (; i + VL <= n; i += VL) vf_store(x + i, decode(map, code + i, absmax));
    if (i == n) return;
    memcpy(part, code + i, (size_t)(n - i));
    vf_store_part(x + i, decode(map, part, absmax), n - i);
}
