/* Normal numbers by the thousand: Philox in the lanes of a vector, then Box and Muller with polynomials. See start.h. */
#pragma GCC optimize("O3")
#include "autograd/start.h"

#include "autograd/kernels/vfunc.h"

enum { LANES = 8 };

/* rng_philox for the counters (0, lo + lane); word w of lane l is out[w][l]. Plain loops: the compiler finds the products of
 * 32 by 32 bits in them. */
static inline void philox(uint64_t key, uint64_t lo, uint32_t out[4][LANES])
{
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32), c0[LANES], c1[LANES], c2[LANES], c3[LANES];
    for (int l = 0; l < LANES; l++) {
        c0[l] = (uint32_t)(lo + (uint64_t)l);
        c1[l] = (uint32_t)((lo + (uint64_t)l) >> 32);
        c2[l] = c3[l] = 0;
    }
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u)
        for (int l = 0; l < LANES; l++) {
            uint64_t a = (uint64_t)0xD2511F53u * c0[l], b = (uint64_t)0xCD9E8D57u * c2[l];
            uint32_t n0 = (uint32_t)(b >> 32) ^ c1[l] ^ k0, n2 = (uint32_t)(a >> 32) ^ c3[l] ^ k1;
            c1[l] = (uint32_t)b;
            c3[l] = (uint32_t)a;
            c0[l] = n0;
            c2[l] = n2;
        }
    memcpy(out[0], c0, sizeof c0);
    memcpy(out[1], c1, sizeof c1);
    memcpy(out[2], c2, sizeof c2);
    memcpy(out[3], c3, sizeof c3);
}

/* The upper 24 bits as a number in 0 .. 2^24 - 1, exact in float. */
VFUNC v8 upper(const uint32_t w[LANES])
{
    v8u x;
    memcpy(&x, w, sizeof x);
    return __builtin_convertvector((v8i)(x >> 8), v8);
}

VFUNC v8 v8_sqrt(v8 x)
{
    for (int l = 0; l < LANES; l++) x[l] = __builtin_sqrtf(x[l]);
    return x;
}

static inline void pair(const uint32_t a[LANES], const uint32_t b[LANES], float *out)
{
    v8 r = v8_sqrt(-2.0f * v8_log((upper(a) + 1.0f) * (1.0f / 16777216.0f)));
    struct v8_trig t = v8_sincos(upper(b) * (6.28318531f / 16777216.0f));
    v8_store(out, r * t.cos);
    v8_store(out + LANES, r * t.sin);
}

void ISA_FN(ad_start_normal)(uint64_t key, int64_t from, int64_t n, float *out)
{
    float z[AD_START_GROUP];
    for (int64_t i = 0; i < n; i += AD_START_GROUP) {
        uint32_t w[4][LANES];
        bool whole = n - i >= AD_START_GROUP;
        float *to = whole ? out + i : z;
        philox(key, (uint64_t)(from + i) / AD_START_GROUP * LANES, w);
        pair(w[0], w[1], to);
        pair(w[2], w[3], to + 2 * LANES);
        if (!whole) memcpy(out + i, z, (size_t)(n - i) * sizeof *out);
    }
}
