/* Normal start values, by vectors: see ad_start_normal in store.h. */
#pragma GCC optimize("O3")
#include <math.h>

#include "autograd/kernels/vfunc.h"
#include "autograd/store.h"
#include "base/isa.h"
#include "base/philox.h"

ISA_DECLARE(void, ad_start_normal, (float *x, int64_t from, int64_t to, uint64_t key, double cut));

/* Element 4 q + 2 h + s is the sine (s) or cosine of a pair from words 2 h and 2 h + 1 of counter q. */
static void pairs(const uint32_t *word, float *out)
{
    for (int from = 0; from < PHILOX_WORDS; from += 2 * VL) {
        vf u, v;
        for (int i = 0; i < VL; i++) {
            u[i] = ((float)(word[from + 2 * i] >> 8) + 1) * (1.0f / 16777216);
            v[i] = (float)(word[from + 2 * i + 1] >> 8) * (float)(2 * M_PI / 16777216);
        }
        vf r = vf_sqrt(-2.0f * vf_log(u));
        struct vf_trig t = vf_sincos(v);
        vf c = r * t.cos, s = r * t.sin;
        for (int i = 0; i < VL; i++) out[from + 2 * i] = c[i], out[from + 2 * i + 1] = s[i];
    }
}

void ISA_FN(ad_start_normal)(float *x, int64_t from, int64_t to, uint64_t key, double cut)
{
    for (int64_t i = from / PHILOX_WORDS * PHILOX_WORDS; i < to; i += PHILOX_WORDS) {
        uint32_t word[PHILOX_WORDS];
        float value[PHILOX_WORDS];
        philox_words(key, 0, (uint64_t)i / 4, word);
        pairs(word, value);
        for (int k = 0; k < PHILOX_WORDS; k++) {
            for (uint64_t again = 1; cut > 0 && !(fabsf(value[k]) <= (float)cut); again++) {
                float other[PHILOX_WORDS];
                philox_words(key, again, (uint64_t)i / 4, word);
                pairs(word, other);
                value[k] = other[k];
            }
            if (i + k >= from && i + k < to) x[i + k - from] = value[k];
        }
    }
}
