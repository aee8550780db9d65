/* Counter-based random bits: Philox 4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
 * A value is a pure function of (seed, stream, step, index): no state, so results do not depend on threads or order. */
#ifndef TRIAD_BASE_RNG_H
#define TRIAD_BASE_RNG_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* Four 32-bit words for a 128-bit counter under a 64-bit key. */
static inline void rng_philox(uint64_t key, uint64_t hi, uint64_t lo, uint32_t out[4])
{
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    uint32_t c0 = (uint32_t)lo, c1 = (uint32_t)(lo >> 32), c2 = (uint32_t)hi, c3 = (uint32_t)(hi >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(b >> 32) ^ c1 ^ k0, n2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)b;
        c3 = (uint32_t)a;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* 64-bit FNV-1a: names of streams, splits, cache keys. */
static inline uint64_t hash_bytes(const void *data, size_t n, uint64_t h)
{
    const unsigned char *p = data;
    for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}
#define HASH_START 0xcbf29ce484222325u
static inline uint64_t hash_str(const char *s)
{
    return hash_bytes(s, strlen(s), HASH_START);
}

/* A generator that walks one stream: key (seed, stream name or number), position (step, draw count). */
struct rng {
    uint64_t key, step, count;
    uint32_t word[4];
};

static inline struct rng rng_make(uint64_t seed, uint64_t stream, uint64_t step)
{
    uint32_t w[4];
    rng_philox(seed, stream, 0x7472696164u, w); /* mixes seed and stream into one key */
    return (struct rng){.key = (uint64_t)w[0] << 32 | w[1], .step = step};
}

static inline uint32_t rng_u32(struct rng *r)
{
    if (r->count % 4 == 0) rng_philox(r->key, r->step, r->count / 4, r->word);
    return r->word[r->count++ % 4];
}

/* [0, 1) with 24 bits: exact in float, never 1. */
static inline double rng_unit(struct rng *r)
{
    return (double)(rng_u32(r) >> 8) * (1.0 / 16777216.0);
}
static inline double rng_range(struct rng *r, double lo, double hi)
{
    return lo + (hi - lo) * rng_unit(r);
}

/* 0..n-1, without bias that matters below 2^32 (multiply-shift). n >= 1. */
static inline int64_t rng_below(struct rng *r, int64_t n)
{
    return (int64_t)((uint64_t)rng_u32(r) * (uint64_t)n >> 32);
}

/* Standard normal (Box and Muller 1958). */
static inline double rng_normal(struct rng *r)
{
    double u = ((double)(rng_u32(r) >> 8) + 1.0) * (1.0 / 16777216.0), v = rng_unit(r);
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

#endif
