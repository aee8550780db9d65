/* Several counters of rng_philox at once, by the vectors that the including file is compiled for: for files of kernels/.
 * The words are rng_philox's own. */
#ifndef TRIAD_BASE_RNG_VECTOR_H
#define TRIAD_BASE_RNG_VECTOR_H

#include "base/rng.h"

#ifdef __AVX2__
#include <immintrin.h>
#ifdef __AVX512F__
enum { RNG_COUNTERS = 8 };
#define RNG_VEC(name) _mm512_##name
typedef unsigned long long rng_vec __attribute__((vector_size(64)));
typedef __m512i rng_reg;
#else
enum { RNG_COUNTERS = 4 };
#define RNG_VEC(name) _mm256_##name
typedef unsigned long long rng_vec __attribute__((vector_size(32)));
typedef __m256i rng_reg;
#endif
enum { RNG_WORDS = 4 * RNG_COUNTERS };

/* The words of the counters lo .. lo + RNG_COUNTERS - 1, one after another. */
static inline void rng_philox_many(uint64_t key, uint64_t hi, uint64_t lo, uint32_t out[RNG_WORDS])
{
    /* Each 32-bit word in the low half of a 64-bit lane; what the high halves hold does not matter. */
    const rng_vec low = (rng_vec){0} + 0xffffffffu, m0 = (rng_vec){0} + 0xD2511F53u, m1 = (rng_vec){0} + 0xCD9E8D57u;
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
#ifdef __AVX512F__
    rng_vec c0 = (rng_vec){0, 1, 2, 3, 4, 5, 6, 7} + lo;
#else
    rng_vec c0 = (rng_vec){0, 1, 2, 3} + lo;
#endif
    rng_vec c1 = c0 >> 32, c2 = (rng_vec){0} + hi, c3 = c2 >> 32;
#pragma GCC unroll 10
    for (int round = 0; round < 10; round++) {
        rng_vec a = (rng_vec)RNG_VEC(mul_epu32)((rng_reg)m0, (rng_reg)c0),
                b = (rng_vec)RNG_VEC(mul_epu32)((rng_reg)m1, (rng_reg)c2);
        rng_vec n0 = (b >> 32) ^ c1 ^ k0, n2 = (a >> 32) ^ c3 ^ k1;
        c1 = b;
        c3 = a;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    rng_vec x = (c0 & low) | c1 << 32, y = (c2 & low) | c3 << 32;
#ifdef __AVX512F__
    rng_vec pair[2] = {__builtin_shuffle(x, y, (rng_vec){0, 8, 1, 9, 2, 10, 3, 11}),
                       __builtin_shuffle(x, y, (rng_vec){4, 12, 5, 13, 6, 14, 7, 15})};
#else
    rng_vec pair[2] = {__builtin_shuffle(x, y, (rng_vec){0, 4, 1, 5}), __builtin_shuffle(x, y, (rng_vec){2, 6, 3, 7})};
#endif
    memcpy(out, pair, sizeof pair);
}
#else
enum { RNG_COUNTERS = 4, RNG_WORDS = 16 };
static inline void rng_philox_many(uint64_t key, uint64_t hi, uint64_t lo, uint32_t out[RNG_WORDS])
{
    for (uint64_t k = 0; k < RNG_COUNTERS; k++) rng_philox(key, hi, lo + k, out + 4 * k);
}
#endif

#endif
