/* Normal start values, by vectors: see ad_start_normal in store.h. */
#pragma GCC optimize("O3")
#include <math.h>

#include "autograd/kernels/vfunc.h"
#include "autograd/store.h"
#include "base/isa.h"
#include "base/philox.h"

ISA_DECLARE(void, ad_start_normal, (float *x, int64_t from, int64_t to, uint64_t key, double cut, double scale));

enum { WORDS = 2 * PHILOX_WORDS };

/* Two vectors of pairs, the first of each and the second; and back. */
#if VL == 16
#define FIRSTS(a, b) __builtin_shufflevector(a, b, 0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30)
#define SECONDS(a, b) __builtin_shufflevector(a, b, 1, 3, 17, 19, 5, 7, 21, 23, 9, 11, 25, 27, 13, 15, 29, 31)
#define PAIRS_A(x, y) __builtin_shufflevector(x, y, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29)
#define PAIRS_B(x, y) __builtin_shufflevector(x, y, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31)
#elif VL == 8
#define FIRSTS(a, b) __builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14)
#define SECONDS(a, b) __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15)
#define PAIRS_A(x, y) __builtin_shufflevector(x, y, 0, 8, 1, 9, 4, 12, 5, 13)
#define PAIRS_B(x, y) __builtin_shufflevector(x, y, 2, 10, 3, 11, 6, 14, 7, 15)
#else
#define FIRSTS(a, b) __builtin_shufflevector(a, b, 0, 2, 4, 6)
#define SECONDS(a, b) __builtin_shufflevector(a, b, 1, 3, 5, 7)
#define PAIRS_A(x, y) __builtin_shufflevector(x, y, 0, 4, 1, 5)
#define PAIRS_B(x, y) __builtin_shufflevector(x, y, 2, 6, 3, 7)
#endif

SIMD_FN vi words_at(const uint32_t *word)
{
    vu x;
    memcpy(&x, word, sizeof x);
    return (vi)(x >> 8);
}

/* Element 4 q + 2 h + s is the sine (s) or cosine of a pair from words 2 h and 2 h + 1 of counter q. The angle, a 2^24th of
 * a turn, goes to the nearest quarter in whole numbers. */
SIMD_FN void pairs(const uint32_t *word, float *out)
{
#pragma GCC unroll 2
    for (int from = 0; from < WORDS; from += 2 * VL) {
        vi a = words_at(word + from), b = words_at(word + from + VL), angle = SECONDS(a, b);
        vi quarter = (angle + (1 << 21)) >> 22;
        vf u = (__builtin_convertvector(FIRSTS(a, b), vf) + 1.0f) * (1.0f / 16777216);
        vf r = vf_sqrt(-2.0f * vf_log(u));
        vf rest = __builtin_convertvector(angle - (quarter << 22), vf) * (float)(2 * M_PI / 16777216);
        struct vf_trig t = vf_sincos_of(rest, quarter);
        vf c = r * t.cos, s = r * t.sin;
        vf_store(out + from, PAIRS_A(c, s));
        vf_store(out + from + VL, PAIRS_B(c, s));
    }
}

/* Where one of them is beyond the cut, it is drawn again under the next counter. */
static void cut_off(float value[WORDS], uint64_t key, uint64_t counter, float cut)
{
    float other[WORDS];
    uint32_t word[WORDS];
    for (uint64_t again = 1;; again++) {
        bool beyond[WORDS], any = false;
        for (int k = 0; k < WORDS; k++) any |= beyond[k] = !(fabsf(value[k]) <= cut);
        if (!any) return;
        philox_groups(2, key, again, counter, word);
        pairs(word, other);
        for (int k = 0; k < WORDS; k++)
            if (beyond[k]) value[k] = other[k];
    }
}

/* The block that begins with element i, which is a multiple of WORDS. */
SIMD_FN void block(int64_t i, uint64_t key, double cut, float scale, float *out)
{
    uint32_t word[WORDS];
    philox_groups(2, key, 0, (uint64_t)i / 4, word);
    pairs(word, out);
    if (cut > 0) cut_off(out, key, (uint64_t)i / 4, (float)cut);
#pragma GCC unroll 4
    for (int k = 0; k < WORDS; k += VL) vf_store(out + k, scale * vf_load(out + k));
}

void ISA_FN(ad_start_normal)(float *x, int64_t from, int64_t to, uint64_t key, double cut, double scale)
{
    float part[WORDS];
    for (int64_t i = from / WORDS * WORDS; i < to; i += WORDS) {
        int64_t first = i < from ? from - i : 0, last = to - i < WORDS ? to - i : WORDS;
        if (last - first == WORDS) {
            block(i, key, cut, (float)scale, x + i - from);
        } else {
            block(i, key, cut, (float)scale, part);
            memcpy(x + i + first - from, part + first, (size_t)(last - first) * sizeof *x);
        }
    }
}
