/* Resizing in Pillow's fixed point, so to the bit as the plain sums: every order of whole numbers gives the same.
 *
 * Across: 16 rows are turned on their side, so that a weight times a vector is that weight in all rows, and the results
 * are turned back. Down: a vector is neighbours in a row. */
#if defined(__AVX2__)
#include <immintrin.h>
#endif
#include <string.h>

#include "data/kernels.h"
#include "data/kernels/transpose.h"

enum { ROWS = RESIZE_ROWS, HALF = 1 << (RESIZE_BITS - 1) };

static inline uint8_t clip(int32_t sum)
{
    sum >>= RESIZE_BITS;
    return (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

/* One row without vectors. */
static void across_plainly(const struct resize_taps *t, const uint8_t *in, uint8_t *out)
{
    for (int64_t i = 0; i < t->out; i++, out += 3) {
        const uint8_t *p = in + 3 * t->first[i];
        const int32_t *k = t->k + i * t->size;
        int32_t r = HALF, g = HALF, b = HALF;
        for (int32_t x = 0; x < t->n[i]; x++, p += 3) {
            r += p[0] * k[x];
            g += p[1] * k[x];
            b += p[2] * k[x];
        }
        out[0] = clip(r);
        out[1] = clip(g);
        out[2] = clip(b);
    }
}

#if VL > 4
/* VL bytes to whole numbers and back; numbers beyond 0..255 become the nearer end. (GCC 12 does a conversion of vectors
 * by a factor of four value by value.) */
#if VL == 16
SIMD_FN vi widen(const uint8_t *p)
{
    return (vi)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
}
SIMD_FN void narrow(vi v, uint8_t *out)
{
    __m512i x = _mm512_max_epi32((__m512i)(v >> RESIZE_BITS), _mm512_setzero_si512());
    _mm_storeu_si128((__m128i *)out, _mm512_cvtusepi32_epi8(x));
}
#else
SIMD_FN vi widen(const uint8_t *p)
{
    return (vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
}
SIMD_FN void narrow(vi v, uint8_t *out)
{
    __m256i x = (__m256i)(v >> RESIZE_BITS);
    __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    _mm_storel_epi64((__m128i *)out, _mm_packus_epi16(words, words));
}
#endif

/* n (at least 16) bytes of 16 rows -> (n, 16). The last columns may be taken twice. */
static void on_side(const uint8_t *const *row, int64_t from, int64_t n, uint8_t *out)
{
    for (int64_t x = 0; x < n; x += 16) {
        int64_t at = x + 16 <= n ? x : n - 16;
        bytes16 a[16];
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) memcpy(&a[i], row[i] + from + at, 16);
        bytes16_transpose(a);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) memcpy(out + (at + i) * ROWS, &a[i], 16);
    }
}

static void turn_back(const uint8_t *in, int64_t n, uint8_t *const *row)
{
    for (int64_t x = 0; x < n; x += 16) {
        int64_t at = x + 16 <= n ? x : n - 16;
        bytes16 a[16];
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) memcpy(&a[i], in + (at + i) * ROWS, 16);
        bytes16_transpose(a);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) memcpy(row[i] + at, &a[i], 16);
    }
}

/* A pixel of VL rows. */
SIMD_FN void pixel(const uint8_t *p, const int32_t *k, int64_t n, uint8_t *out)
{
    vi r = (vi){0} + HALF, g = r, b = r;
    for (int64_t x = 0; x < n; x++, p += 3 * ROWS) {
        r += widen(p) * k[x];
        g += widen(p + ROWS) * k[x];
        b += widen(p + 2 * ROWS) * k[x];
    }
    narrow(r, out);
    narrow(g, out + ROWS);
    narrow(b, out + 2 * ROWS);
}

void ISA_FN(resize_across)(const struct resize_taps *t, const uint8_t *const *row, uint8_t *const *out, uint8_t *side)
{
    int64_t last = t->out - 1, from = t->first[0], to = t->first[last] + t->n[last];
    if (3 * (to - from) < 16 || 3 * t->out < 16) {
        for (int r = 0; r < ROWS && (r == 0 || row[r] != row[r - 1]); r++) across_plainly(t, row[r], out[r]);
        return;
    }
    uint8_t *got = side + 3 * (to - from) * ROWS;
    on_side(row, 3 * from, 3 * (to - from), side);
    for (int64_t i = 0; i < t->out; i++)
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; r += VL)
            pixel(side + 3 * (t->first[i] - from) * ROWS + r, t->k + i * t->size, t->n[i], got + 3 * i * ROWS + r);
    turn_back(got, 3 * t->out, out);
}

enum { COLUMNS = 4 * VL }; /* at a time */
static void down_columns(const int32_t *k, int64_t n, const uint8_t *p, int64_t width, uint8_t *out)
{
    vi a = (vi){0} + HALF, b = a, c = a, d = a;
    for (int64_t j = 0; j < n; j++, p += width) {
        a += widen(p) * k[j];
        b += widen(p + VL) * k[j];
        c += widen(p + 2 * VL) * k[j];
        d += widen(p + 3 * VL) * k[j];
    }
    narrow(a, out);
    narrow(b, out + VL);
    narrow(c, out + 2 * VL);
    narrow(d, out + 3 * VL);
}

#else
/* Without a product of whole numbers in one instruction, turning rows costs more than it gives. */
void ISA_FN(resize_across)(const struct resize_taps *t, const uint8_t *const *row, uint8_t *const *out, uint8_t *side)
{
    for (int r = 0; r < ROWS && (r == 0 || row[r] != row[r - 1]); r++) across_plainly(t, row[r], out[r]);
}

enum { COLUMNS = 256 }; /* at a time */
static void down_columns(const int32_t *k, int64_t n, const uint8_t *p, int64_t width, uint8_t *out)
{
    int32_t sum[COLUMNS];
    for (int x = 0; x < COLUMNS; x++) sum[x] = HALF;
    for (int64_t j = 0; j < n; j++, p += width) {
#pragma omp simd
        for (int x = 0; x < COLUMNS; x++) sum[x] += p[x] * k[j];
    }
#pragma omp simd
    for (int x = 0; x < COLUMNS; x++) out[x] = clip(sum[x]);
}
#endif

void ISA_FN(resize_down)(const int32_t *k, int64_t n, const uint8_t *in, int64_t width, uint8_t *out)
{
    int64_t x = 0;
    for (; x + COLUMNS <= width; x += COLUMNS) down_columns(k, n, in + x, width, out + x);
    for (; x < width; x++) {
        int32_t sum = HALF;
        for (int64_t j = 0; j < n; j++) sum += in[j * width + x] * k[j];
        out[x] = clip(sum);
    }
}
