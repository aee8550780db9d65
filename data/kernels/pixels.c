/* Loops over values: pixels as floats (n, 3), half floats. Plain loops that the compiler turns into vectors. */
#pragma GCC optimize("O3")
#include <math.h>

#include "base/half.h"
#include "data/kernels.h"

enum { PERIOD = 48 }; /* a multiple of 3 and of every vector's length */

static inline float unit(float v)
{
    return v < 0 ? 0 : v > 1 ? 1 : v;
}

void ISA_FN(pixels_floats)(const uint8_t *px, int64_t n, float *out)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) out[i] = (float)px[i] * (1 / 255.0f);
}

void ISA_FN(pixels_normalise)(float *px, int64_t n, const float *mean, const float *std)
{
    float m[PERIOD], s[PERIOD];
    for (int i = 0; i < PERIOD; i++) {
        m[i] = mean[i % 3];
        s[i] = 1 / std[i % 3];
    }
    int64_t i = 0;
    for (; i + PERIOD <= 3 * n; i += PERIOD) {
#pragma omp simd
        for (int k = 0; k < PERIOD; k++) px[i + k] = (px[i + k] - m[k]) * s[k];
    }
    for (int k = 0; i < 3 * n; i++, k++) px[i] = (px[i] - m[k]) * s[k];
}

void ISA_FN(pixels_scale)(float *px, int64_t n, float factor, float base)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) px[i] = unit(px[i] * factor + base);
}

static inline float gray(const float *p)
{
    return 0.299f * p[0] + 0.587f * p[1] + 0.114f * p[2];
}

double ISA_FN(pixels_gray)(const float *px, int64_t n)
{
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += gray(px + 3 * i);
    return sum;
}

void ISA_FN(pixels_saturation)(float *px, int64_t n, float factor)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float base = gray(px + 3 * i) * (1 - factor);
        px[3 * i] = unit(px[3 * i] * factor + base);
        px[3 * i + 1] = unit(px[3 * i + 1] * factor + base);
        px[3 * i + 2] = unit(px[3 * i + 2] * factor + base);
    }
}

/* A channel of value v, chroma d and hue h (sixths of a turn, 0..12): v - d times the clamped distance from the channel's
 * pure colour; `at` is 5, 3, 1 for red, green, blue. */
static inline float channel(float v, float d, float h, float at)
{
    float k = h + at;
    k -= 6 * (float)(int)(k * (1 / 6.0f));
    return unit(v - d * unit(k < 4 - k ? k : 4 - k));
}

void ISA_FN(pixels_hue)(float *px, int64_t n, float turns)
{
    float by = 6 * (turns - floorf(turns));
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float r = px[3 * i], g = px[3 * i + 1], b = px[3 * i + 2];
        float most = g > b ? g : b, least = g < b ? g : b;
        most = r > most ? r : most;
        least = r < least ? r : least;
        float d = most - least, one = 1 / (d > 1e-30f ? d : 1e-30f); /* gray has no hue: d = 0 leaves it as it is */
        float red = (g - b) * one, green = 2 + (b - r) * one, blue = 4 + (r - g) * one;
        float h = most == g ? green : blue;
        h = by + (most == r ? red : h);
        px[3 * i] = channel(most, d, h, 5);
        px[3 * i + 1] = channel(most, d, h, 3);
        px[3 * i + 2] = channel(most, d, h, 1);
    }
}

void ISA_FN(halves_to_floats)(const uint16_t *h, int64_t n, float *x)
{
    int64_t i = 0;
#ifdef __F16C__
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(x + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(h + i))));
#endif
    for (; i < n; i++) x[i] = half_to_float(h[i]);
}

void ISA_FN(halves_round)(float *x, int64_t n, uint16_t *h)
{
    int64_t i = 0;
#ifdef __F16C__
    for (; i + 8 <= n; i += 8) {
        __m128i v = _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT);
        _mm_storeu_si128((__m128i *)(h + i), v);
        _mm256_storeu_ps(x + i, _mm256_cvtph_ps(v));
    }
#endif
    for (; i < n; i++) x[i] = half_to_float(h[i] = half_from_float(x[i]));
}
