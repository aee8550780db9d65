/* Several counters of rng_philox at once, by the vectors that the including file is compiled for: for files of kernels/.
 * The words are rng_philox's own. */
#ifndef TRIAD_BASE_PHILOX_H
#define TRIAD_BASE_PHILOX_H

#include "base/rng.h"

#ifdef __AVX2__
#include <immintrin.h>
#ifdef __AVX512F__
enum { PHILOX_COUNTERS = 8 };
#define PHILOX_VEC(name) _mm512_##name
typedef unsigned long long philox_vec __attribute__((vector_size(64)));
typedef __m512i philox_reg;
#else
enum { PHILOX_COUNTERS = 4 };
#define PHILOX_VEC(name) _mm256_##name
typedef unsigned long long philox_vec __attribute__((vector_size(32)));
typedef __m256i philox_reg;
#endif
enum { PHILOX_WORDS = 4 * PHILOX_COUNTERS };

/* The words of the counters lo .. lo + PHILOX_COUNTERS - 1, one after another. */
static inline void philox_words(uint64_t key, uint64_t hi, uint64_t lo, uint32_t out[PHILOX_WORDS])
{
    /* Each 32-bit word in the low half of a 64-bit lane; what the high halves hold does not matter. */
    const philox_vec low = (philox_vec){0} + 0xffffffffu, m0 = (philox_vec){0} + 0xD2511F53u,
                     m1 = (philox_vec){0} + 0xCD9E8D57u;
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
#ifdef __AVX512F__
    philox_vec c0 = (philox_vec){0, 1, 2, 3, 4, 5, 6, 7} + lo;
#else
    philox_vec c0 = (philox_vec){0, 1, 2, 3} + lo;
#endif
    philox_vec c1 = c0 >> 32, c2 = (philox_vec){0} + hi, c3 = c2 >> 32;
#pragma GCC unroll 10
    for (int round = 0; round < 10; round++) {
        philox_vec a = (philox_vec)PHILOX_VEC(mul_epu32)((philox_reg)m0, (philox_reg)c0),
                   b = (philox_vec)PHILOX_VEC(mul_epu32)((philox_reg)m1, (philox_reg)c2);
        philox_vec n0 = (b >> 32) ^ c1 ^ k0, n2 = (a >> 32) ^ c3 ^ k1;
        c1 = b;
        c3 = a;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    philox_vec x = (c0 & low) | c1 << 32, y = (c2 & low) | c3 << 32;
#ifdef __AVX512F__
    philox_vec pair[2] = {__builtin_shufflevector(x, y, 0, 8, 1, 9, 2, 10, 3, 11),
                          __builtin_shufflevector(x, y, 4, 12, 5, 13, 6, 14, 7, 15)};
#else
    philox_vec pair[2] = {__builtin_shufflevector(x, y, 0, 4, 1, 5), __builtin_shufflevector(x, y, 2, 6, 3, 7)};
#endif
    memcpy(out, pair, sizeof pair);
}
#else
enum { PHILOX_COUNTERS = 4, PHILOX_WORDS = 16 };
static inline void philox_words(uint64_t key, uint64_t hi, uint64_t lo, uint32_t out[PHILOX_WORDS])
{
    for (uint64_t k = 0; k < PHILOX_COUNTERS; k++) rng_philox(key, hi, lo + k, out + 4 * k);
}
#endif

#endif
