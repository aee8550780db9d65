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

/* The words of the counters lo .. lo + groups PHILOX_COUNTERS - 1, one after another. The rounds of a group wait for one
 * another: two at once, where so many are wanted, take little longer than one. */
static inline __attribute__((always_inline)) void philox_groups(int groups, uint64_t key, uint64_t hi, uint64_t lo,
                                                                uint32_t *out)
{
    /* Each 32-bit word in the low half of a 64-bit lane; what the high halves hold does not matter. */
    const philox_vec low = (philox_vec){0} + 0xffffffffu, m0 = (philox_vec){0} + 0xD2511F53u,
                     m1 = (philox_vec){0} + 0xCD9E8D57u;
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
#ifdef __AVX512F__
    const philox_vec lane = {0, 1, 2, 3, 4, 5, 6, 7};
#else
    const philox_vec lane = {0, 1, 2, 3};
#endif
    philox_vec c0[2], c1[2], c2[2], c3[2];
#pragma GCC unroll 2
    for (int g = 0; g < groups; g++) {
        c0[g] = lane + (lo + (uint64_t)g * PHILOX_COUNTERS);
        c1[g] = c0[g] >> 32;
        c2[g] = (philox_vec){0} + hi;
        c3[g] = c2[g] >> 32;
    }
#pragma GCC unroll 10
    for (int round = 0; round < 10; round++) {
#pragma GCC unroll 2
        for (int g = 0; g < groups; g++) {
            philox_vec a = (philox_vec)PHILOX_VEC(mul_epu32)((philox_reg)m0, (philox_reg)c0[g]),
                       b = (philox_vec)PHILOX_VEC(mul_epu32)((philox_reg)m1, (philox_reg)c2[g]);
            philox_vec n0 = (b >> 32) ^ c1[g] ^ k0, n2 = (a >> 32) ^ c3[g] ^ k1;
            c1[g] = b;
            c3[g] = a;
            c0[g] = n0;
            c2[g] = n2;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
#pragma GCC unroll 2
    for (int g = 0; g < groups; g++) {
        philox_vec x = (c0[g] & low) | c1[g] << 32, y = (c2[g] & low) | c3[g] << 32;
#ifdef __AVX512F__
        philox_vec pair[2] = {__builtin_shufflevector(x, y, 0, 8, 1, 9, 2, 10, 3, 11),
                              __builtin_shufflevector(x, y, 4, 12, 5, 13, 6, 14, 7, 15)};
#else
        philox_vec pair[2] = {__builtin_shufflevector(x, y, 0, 4, 1, 5), __builtin_shufflevector(x, y, 2, 6, 3, 7)};
#endif
        memcpy(out + g * PHILOX_WORDS, pair, sizeof pair);
    }
}
#else
enum { PHILOX_COUNTERS = 4, PHILOX_WORDS = 16 };
static inline void philox_groups(int groups, uint64_t key, uint64_t hi, uint64_t lo, uint32_t *out)
{
    for (int k = 0; k < groups * PHILOX_COUNTERS; k++) rng_philox(key, hi, lo + (uint64_t)k, out + 4 * k);
}
#endif

static inline void philox_words(uint64_t key, uint64_t hi, uint64_t lo, uint32_t out[PHILOX_WORDS])
{
    philox_groups(1, key, hi, lo, out);
}

#endif
