/* Philox 4x32-10 (base/rng.h), several counters side by side. */
#ifndef TRIAD_BASE_PHILOX_H
#define TRIAD_BASE_PHILOX_H

#include <stdint.h>
#include <string.h>

enum { PHILOX_WORDS = 16 };
typedef uint64_t philox_u64 __attribute__((vector_size(32)));

/* The low halves' products. */
static inline __attribute__((always_inline)) philox_u64 philox_mul(philox_u64 a, philox_u64 b)
{
#if defined(__AVX2__)
    typedef int i32x8 __attribute__((vector_size(32)));
    return (philox_u64)__builtin_ia32_pmuludq256((i32x8)a, (i32x8)b);
#else
    return (a & 0xffffffffu) * (b & 0xffffffffu);
#endif
}

/* Words 4 lo .. 4 lo + 15 of the stream (key, hi). Each word sits in the low half of a 64-bit lane; what the high halves
 * hold does not matter. */
static inline __attribute__((always_inline)) void philox_16(uint64_t key, uint64_t hi, uint64_t lo,
                                                            uint32_t out[PHILOX_WORDS])
{
    const philox_u64 low = {0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu};
    const philox_u64 m0 = (low & 0) + 0xD2511F53u, m1 = (low & 0) + 0xCD9E8D57u;
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    philox_u64 c0 = {lo, lo + 1, lo + 2, lo + 3}, c1 = c0 >> 32, c2 = (low & 0) + hi, c3 = c2 >> 32;
    for (int round = 0; round < 10; round++) {
        philox_u64 a = philox_mul(m0, c0), b = philox_mul(m1, c2);
        philox_u64 n0 = (b >> 32) ^ c1 ^ k0, n2 = (a >> 32) ^ c3 ^ k1;
        c1 = b;
        c3 = a;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    philox_u64 x = (c0 & low) | c1 << 32, y = (c2 & low) | c3 << 32;
    philox_u64 pair[2] = {__builtin_shufflevector(x, y, 0, 4, 1, 5), __builtin_shufflevector(x, y, 2, 6, 3, 7)};
    memcpy(out, pair, sizeof pair);
}

#endif
