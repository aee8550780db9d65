/* White noise: rng_normal's draws (base/rng.h), many at a time and in float. */
#pragma GCC optimize("O3")
#include <math.h>

#include "base/philox.h"
#include "base/simd.h"
#include "data/kernels.h"

enum { DRAWS = 256 }; /* at a time: two words each, and up to three before the first */

/* Box and Muller 1958: sqrt(-2 ln u) cos(2 pi v), where the cosine is sin(2 pi (|v - 1/2| - 1/4)). */
static void normals(const uint32_t *word, float *out)
{
    float angle[DRAWS];
#pragma omp simd
    for (int i = 0; i < DRAWS; i++) {
        out[i] = (float)(int32_t)((word[2 * i] >> 8) + 1) * (1 / 16777216.0f);
        angle[i] = ((float)(int32_t)(word[2 * i + 1] >> 8) - 8388608.0f) * (1 / 16777216.0f);
    }
    for (int i = 0; i < DRAWS; i += VL) vf_store(out + i, -2.0f * vf_log(vf_load(out + i)));
#pragma omp simd
    for (int i = 0; i < DRAWS; i++) {
        float y = (fabsf(angle[i]) - 0.25f) * 6.28318531f, s = y * y, p = -2.50521084e-8f; /* to y^11: 6e-8 */
        p = p * s + 2.75573192e-6f;
        p = p * s - 1.98412698e-4f;
        p = p * s + 8.33333333e-3f;
        p = p * s - 1.66666667e-1f;
        out[i] = sqrtf(out[i]) * (p * s * y + y);
    }
}

void ISA_FN(noise_add)(uint64_t key, uint64_t step, uint64_t count, float std, float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i += DRAWS, count += 2 * DRAWS) {
        uint32_t word[2 * DRAWS + PHILOX_WORDS];
        float z[DRAWS];
        for (int k = 0; k < 2 * DRAWS + PHILOX_WORDS; k += PHILOX_WORDS)
            philox_words(key, step, count / 4 + (uint64_t)k / 4, word + k);
        normals(word + count % 4, z);
        int64_t m = n - i < DRAWS ? n - i : DRAWS;
        for (int64_t k = 0; k < m; k++) x[i + k] += std * z[k];
    }
}
