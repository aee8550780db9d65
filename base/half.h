/* 16-bit floats: IEEE binary16 ("half") and bfloat16. Rounding is to nearest, ties to even; infinities and the sign of
 * zero are kept; a NaN stays a NaN (made quiet, upper payload bits kept); subnormals are exact. */
#ifndef TRIAD_BASE_HALF_H
#define TRIAD_BASE_HALF_H

#include <stdint.h>
#include <string.h>
#ifdef __F16C__
#include <immintrin.h>
#endif

static inline uint32_t float_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}

static inline float float_from_bits(uint32_t u)
{
    float x;
    memcpy(&x, &u, 4);
    return x;
}

/* The portable forms, on every machine; tests hold the fast forms to them. */
static inline float half_to_float_portable(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 0x3ff;
    if (exponent == 31) return float_from_bits(sign | 0x7f800000 | fraction << 13 | (fraction ? 0x400000 : 0));
    if (exponent) return float_from_bits(sign | (exponent + 112) << 23 | fraction << 13);
    float x = (float)fraction * 0x1p-24f; /* exact: 10 bits */
    return sign ? -x : x;
}

static inline uint16_t half_from_float_portable(float x)
{
    uint32_t u = float_bits(x), sign = u >> 16 & 0x8000, a = u & 0x7fffffff;
    if (a > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (a >> 13 & 0x1ff));
    if (a >= 0x47800000) return (uint16_t)(sign | 0x7c00); /* 65536 and more */
    if (a < 0x38800000) {                                  /* below 2^-14: subnormal, or 0 */
        if (a < 0x33000000) return (uint16_t)sign;         /* below 2^-25, half of the least */
        uint32_t fraction = (a & 0x7fffff) | 0x800000, shift = 126 - (a >> 23);
        uint32_t kept = fraction >> shift, rest = fraction & ((1u << shift) - 1), tie = 1u << (shift - 1);
        return (uint16_t)(sign | (kept + (rest > tie || (rest == tie && (kept & 1)))));
    }
    a += 0xfff + (a >> 13 & 1); /* may carry into the exponent, up to infinity: right */
    return (uint16_t)(sign | ((a >> 13) - ((127 - 15) << 10)));
}

static inline float half_to_float(uint16_t h)
{
#ifdef __F16C__
    return _cvtsh_ss(h);
#else
    return half_to_float_portable(h);
#endif
}

static inline uint16_t half_from_float(float x)
{
#ifdef __F16C__
    return _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT);
#else
    return half_from_float_portable(x);
#endif
}

static inline float bf16_to_float(uint16_t h)
{
    return float_from_bits((uint32_t)h << 16);
}

static inline uint16_t bf16_from_float(float x)
{
    uint32_t u = float_bits(x);
    if ((u & 0x7fffffff) > 0x7f800000) return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

#endif
