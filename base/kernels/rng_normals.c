/* Normal numbers from Philox and Box-Muller (see base/rng.h) in loops that compilers turn into vectors. In double, so
 * that rounding to f32 is all that differs from libm's numbers, whatever the instruction set. */
#pragma GCC optimize("O3")
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "base/isa.h"

enum { BATCH = 64 }; /* blocks of Philox at a time: two numbers each, all in the first-level cache */

/* Words 0..3 of the blocks first .. first + BATCH - 1. */
static void words(uint64_t key, uint64_t step, uint64_t first, uint32_t w[4][BATCH])
{
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int i = 0; i < BATCH; i++) {
        uint64_t lo = first + (uint64_t)i;
        w[0][i] = (uint32_t)lo;
        w[1][i] = (uint32_t)(lo >> 32);
        w[2][i] = (uint32_t)step;
        w[3][i] = (uint32_t)(step >> 32);
    }
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < BATCH; i++) {
            uint64_t a = (uint64_t)0xD2511F53u * w[0][i], b = (uint64_t)0xCD9E8D57u * w[2][i];
            uint32_t n0 = (uint32_t)(b >> 32) ^ w[1][i] ^ k0, n2 = (uint32_t)(a >> 32) ^ w[3][i] ^ k1;
            w[1][i] = (uint32_t)b;
            w[3][i] = (uint32_t)a;
            w[0][i] = n0;
            w[2][i] = n2;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

/* sqrt(-2 ln u) cos(2 pi v) with u = (a / 256 + 1) / 2^24 and v = (b / 256) / 2^24. */
static inline double normal_of(uint32_t a, uint32_t b)
{
    /* ln: of a whole number up to 2^24 = 2^e m, exact in f32; m in [1, 2) is halved above sqrt 2 and
     * ln m = 2 atanh s, s = (m - 1) / (m + 1), |s| < 0.172: the next term of the series is below 1e-15. */
    float whole = (float)(int32_t)((a >> 8) + 1);
    uint32_t bits;
    memcpy(&bits, &whole, sizeof bits);
    int32_t up = (int32_t)((bits & 0x7fffff) > 0x3504f3);
    int32_t e = (int32_t)(bits >> 23) - 127 + up - 24;
    bits = (bits & 0x7fffff) | (uint32_t)(127 - up) << 23;
    float part;
    memcpy(&part, &bits, sizeof part);
    double m = (double)part, s = (m - 1) / (m + 1), z = s * s;
    double atanh_s = 1. / 17;
    atanh_s = atanh_s * z + 1. / 15;
    atanh_s = atanh_s * z + 1. / 13;
    atanh_s = atanh_s * z + 1. / 11;
    atanh_s = atanh_s * z + 1. / 9;
    atanh_s = atanh_s * z + 1. / 7;
    atanh_s = atanh_s * z + 1. / 5;
    atanh_s = atanh_s * z + 1. / 3;
    atanh_s = atanh_s * z + 1;
    double ln = 2 * s * atanh_s + (double)e * 0.693147180559945309;
    /* cos 2 pi v = 2 sin^2(pi (v - 1/2)) - 1; sin y to y^19, |y| <= pi/2: the next term is below 3e-16. */
    double y = ((double)(int32_t)(b >> 8) * 0x1p-24 - 0.5) * 3.14159265358979324, q = y * y;
    double sine = -1. / 121645100408832000;
    sine = sine * q + 1. / 355687428096000;
    sine = sine * q - 1. / 1307674368000;
    sine = sine * q + 1. / 6227020800;
    sine = sine * q - 1. / 39916800;
    sine = sine * q + 1. / 362880;
    sine = sine * q - 1. / 5040;
    sine = sine * q + 1. / 120;
    sine = sine * q - 1. / 6;
    sine = (sine * q + 1) * y;
    return sqrt(-2 * ln) * (2 * sine * sine - 1);
}

ISA_DECLARE(void, rng_normals, (uint64_t key, uint64_t step, int64_t first, int64_t n, double scale, float *x));

/* x[i] = scale * (number first + i of the stream); `first` is even. */
void ISA_FN(rng_normals)(uint64_t key, uint64_t step, int64_t first, int64_t n, double scale, float *x)
{
    uint32_t w[4][BATCH];
    float even[BATCH], odd[BATCH];
    for (int64_t i = 0; i < n; i += 2 * BATCH) {
        words(key, step, (uint64_t)(first + i) / 2, w);
        for (int k = 0; k < BATCH; k++) even[k] = (float)(scale * normal_of(w[0][k], w[1][k]));
        for (int k = 0; k < BATCH; k++) odd[k] = (float)(scale * normal_of(w[2][k], w[3][k]));
        int64_t left = n - i < 2 * BATCH ? n - i : 2 * BATCH;
        for (int64_t k = 0; k < left / 2; k++) {
            x[i + 2 * k] = even[k];
            x[i + 2 * k + 1] = odd[k];
        }
        if (left % 2) x[i + left - 1] = even[left / 2];
    }
}
