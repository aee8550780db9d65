/* Numbers to one-byte codes and back, a block at a time, and AdamW with moments that are kept so. See optim/quant.h and
 * optim/steps.h. */
#include "optim/quant.h"

#include "optim/adam.h"

typedef uint8_t codes __attribute__((vector_size(VL)));

enum { FOUR = 4 * VL }; /* numbers at once: so that AVX2 packs their codes into one vector */

/* table[at & 7]. */
SIMD_FN vf look(const float table[16], vi at)
{
#if defined(__AVX512F__)
    return _mm512_permutexvar_ps((__m512i)at, _mm512_loadu_ps(table));
#elif defined(__AVX2__)
    return _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), (__m256i)at);
#else
    vf x;
    for (int i = 0; i < VL; i++) x[i] = table[at[i] & 7];
    return x;
#endif
}

#if defined(__AVX512F__)
#define VI_PICK(name, ours) (vi) _mm512_##name##_epi32((__m512i)a, (__m512i)b)
#elif defined(__AVX2__)
#define VI_PICK(name, ours) (vi) _mm256_##name##_epi32((__m256i)a, (__m256i)b)
#else
#define VI_PICK(name, ours) (vi) vf_pick(ours, (vf)a, (vf)b)
#endif
SIMD_FN vi larger(vi a, vi b)
{
    return VI_PICK(max, a > b);
}
SIMD_FN vi smaller(vi a, vi b)
{
    return VI_PICK(min, a < b);
}
#undef VI_PICK

/* k with the sign of x. */
SIMD_FN vi signed_as(vi k, vf x)
{
#if defined(__AVX2__) && !defined(__AVX512F__)
    return (vi)_mm256_sign_epi32((__m256i)k, (__m256i)x); /* 0 for +0, whose k is 0 */
#else
    vi minus = (vi)x >> 31;
    return (k ^ minus) - minus;
#endif
}

/* The largest magnitude, lane by lane: they compare as integers do, and a NaN is more than infinity and stays. */
SIMD_FN vi top_of(vi top, vf x)
{
    return larger(top, (vi)vf_abs(x));
}
SIMD_FN float top_lane(vi top)
{
    for (int k = 1; k < VL; k++) top[0] = top[k] > top[0] ? top[k] : top[0];
    return ((vf)top)[0];
}

static float largest(const float *x, int64_t n)
{
    vi top = {0};
    int64_t i = 0;
    for (; i + VL <= n; i += VL) top = top_of(top, vf_load(x + i));
    if (i < n) top = top_of(top, vf_load_part(x + i, n - i, 0));
    return top_lane(top);
}

/* Four vectors go step by step side by side: one alone is a chain of some 50 cycles. */
#define EACH _Pragma("GCC unroll 4") for (int k = 0; k < 4; k++)

/* A float's bits rise with its logarithm, nearly in a line (at most 0.026 decades below it), and 154 / 2^16 is what 2^-7 of
 * an octave is in decades. The limits of the decades lie 5.84 to 5.72, .., 0.002 decades below 1, whose upper half is
 * FROM + 6.35 2^16 / 154: so whole numbers tell a share's decade or the one before. */
SIMD_FN void decades_of(const struct opt_map *m, const vf share[4], vi decade[4])
{
    enum { FROM = 0x3f80 - 2702, EACH_STEP = 154 };
#if defined(__AVX512F__)
    EACH decade[k] = (vi)_mm512_srli_epi32(
        _mm512_mulhi_epu16(_mm512_subs_epu16((__m512i)share[k], _mm512_set1_epi32(FROM << 16 | 0xffff)),
                           _mm512_set1_epi32(EACH_STEP << 16)),
        16);
#elif defined(__AVX2__)
    EACH decade[k] = (vi)_mm256_srli_epi32(
        _mm256_mulhi_epu16(_mm256_subs_epu16((__m256i)share[k], _mm256_set1_epi32(FROM << 16 | 0xffff)),
                           _mm256_set1_epi32(EACH_STEP << 16)),
        16);
#else
    EACH decade[k] = larger(((vi)share[k] >> 16) - FROM, (vi){0}) * EACH_STEP >> 16;
#endif
    EACH decade[k] -= (vi)(share[k] > look(m->next, decade[k]));
}

/* Of finite numbers in a block with this scale; what is below 0 is code 0. */
SIMD_FN void codes_of(const struct opt_map *m, const bool positive, const float *x, vf scale, vi code[4])
{
    vf share[4], size[4];
    vi decade[4];
    EACH share[k] = vf_abs(vf_load(x + k * VL)) / scale;
    decades_of(m, share, decade);
    EACH size[k] = share[k] * look(m->gain, decade[k]) + look(m->offset, decade[k]);
    EACH size[k] = vf_min(size[k], look(m->last, decade[k]));
    EACH code[k] = __builtin_convertvector(size[k], vi);
    EACH
    {
        vf y = vf_load(x + k * VL);
        vm above = vf_lt(vf_set(m->least), share[k]);
        if (positive)
            code[k] = (vi)vf_pick(above, (vf)code[k], (vf)smaller((vi)y, (vi){0} + 1));
        else
            code[k] = m->zero + signed_as((vi)vf_pick(above, (vf)code[k], vf_set(0)), y);
    }
}

SIMD_FN void encode_four(const struct opt_map *m, const bool positive, const float *x, vf scale, uint8_t *code)
{
    vi c[4];
    codes_of(m, positive, x, scale, c);
#if defined(__AVX2__) && !defined(__AVX512F__)
    __m256i a = _mm256_packus_epi32((__m256i)c[0], (__m256i)c[1]),
            b = _mm256_packus_epi32((__m256i)c[2], (__m256i)c[3]);
    a = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(a, b), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)(void *)code, a);
#else
    for (int k = 0; k < 4; k++) {
        codes b = __builtin_convertvector(larger(c[k], (vi){0}), codes);
        memcpy(code + k * VL, &b, VL);
    }
#endif
}

/* A block whose scale is a NaN or an infinity: of it a NaN and an infinity are all, a number is nothing. */
static void encode_not_finite(const struct opt_map *map, const float *x, int64_t n, float top, uint8_t *code)
{
    for (int64_t i = 0; i < n; i++) {
        bool all = isnan(top) || isinf(x[i]), less = x[i] < 0 && !map->positive;
        code[i] = (uint8_t)(all ? (less ? 0 : 255) : map->positive && x[i] > 0 ? 1 : map->zero);
    }
}

/* The last n < FOUR numbers of a block. */
static __attribute__((noinline)) void encode_part(const struct opt_map *m, const float *x, int64_t n, float top,
                                                  uint8_t *code)
{
    float rest[FOUR] = {0};
    uint8_t part[FOUR];
    memcpy(rest, x, (size_t)n * sizeof *x);
    encode_four(m, m->positive, rest, vf_set(top), part);
    memcpy(code, part, (size_t)n);
}

/* What opt_encode does, where the largest magnitude is known. */
SIMD_FN void encode_all(const struct opt_map *m, const bool positive, const float *x, int64_t n, float top,
                        uint8_t *code)
{
    int64_t i = 0;
    if (top == 0)
        memset(code, m->zero, (size_t)n);
    else if (!(top < INFINITY))
        encode_not_finite(m, x, n, top, code);
    else {
        for (; i + FOUR <= n; i += FOUR) encode_four(m, positive, x + i, vf_set(top), code + i);
        if (i < n) encode_part(m, x + i, n - i, top, code + i);
    }
}

void ISA_FN(opt_encode)(const struct opt_map *map, const float *x, int64_t n, uint8_t *code, float *absmax)
{
    *absmax = largest(x, n);
    if (map->positive)
        encode_all(map, true, x, n, *absmax, code);
    else
        encode_all(map, false, x, n, *absmax, code);
}

SIMD_FN vi widen(const uint8_t *code)
{
#if defined(__AVX512F__)
    return (vi)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)code));
#elif defined(__AVX2__)
    return (vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)code));
#else
    codes c;
    memcpy(&c, code, sizeof c);
    return __builtin_convertvector(c, vi);
#endif
}

/* A decade's first magnitude is a power of 2 (less 1 where all are positive): the exponent of a magnitude as a float says
 * which decade, its fraction how far in it. */
SIMD_FN void decode_four(const struct opt_map *m, const bool positive, const uint8_t *code, vf scale, float *x)
{
    vf f[4], size[4];
    vi c[4], bits[4];
    EACH c[k] = widen(code + k * VL) - m->zero;
    EACH bits[k] = (vi) __builtin_convertvector(positive ? c[k] + 1 : c[k], vf);
    EACH f[k] = (vf)((bits[k] & 0x7fffff) | 0x3f800000) - 1.0f;
    EACH bits[k] >>= 23;
    EACH size[k] = 0.9f * f[k] + look(m->middle, bits[k]);
    EACH size[k] = look(m->power, bits[k]) * size[k];
    EACH size[k] = (vf)((vi)size[k] & (c[k] != 0)) * scale;
    EACH vf_store(x + k * VL, positive ? size[k] : (vf)((vi)size[k] | (c[k] & (int32_t)0x80000000)));
}

void ISA_FN(opt_decode)(const struct opt_map *map, const uint8_t *code, int64_t n, float absmax, float *x)
{
    int64_t i = 0;
    for (; i + FOUR <= n && map->positive; i += FOUR) decode_four(map, true, code + i, vf_set(absmax), x + i);
    for (; i + FOUR <= n; i += FOUR) decode_four(map, false, code + i, vf_set(absmax), x + i);
    if (i == n) return;
    uint8_t part[FOUR] = {0};
    float rest[FOUR];
    memcpy(part, code + i, (size_t)(n - i));
    decode_four(map, map->positive, part, vf_set(absmax), rest);
    memcpy(x + i, rest, (size_t)(n - i) * sizeof *x);
}

/* ---- AdamW ------------------------------------------------------------------------------------------------------- */

/* A block on its way: w and ema (or NULL) where they lie, the moments' codes and scales as they were and, in x, what they
 * become; top is the largest of it up to now. */
struct block {
    const struct opt_map *map[2];
    uint8_t *code[2];
    float scale[2], x[2][OPT_BLOCK], *w, *ema;
    const float *g;
    vi top[2];
};

/* The FOUR elements from `at` on. */
SIMD_FN void step_four(struct block *b, int64_t at, const struct opt_factors *f)
{
    vi top[2] = {b->top[0], b->top[1]};
    decode_four(b->map[0], false, b->code[0] + at, vf_set(b->scale[0]), b->x[0] + at);
    decode_four(b->map[1], true, b->code[1] + at, vf_set(b->scale[1]), b->x[1] + at);
    EACH
    {
        const int64_t i = at + k * VL;
        float *m = b->x[0] + i, *v = b->x[1] + i;
        struct adam a = adam_of(vf_load(b->w + i), vf_load(b->g + i), vf_load(m), vf_load(v), f);
        vf_store(b->w + i, a.w);
        vf_store(m, a.m);
        vf_store(v, a.v);
        top[0] = top_of(top[0], a.m);
        top[1] = top_of(top[1], a.v);
        follow(b->ema ? b->ema + i : NULL, a.w, VL, f);
    }
    b->top[0] = top[0];
    b->top[1] = top[1];
}

/* The last n < FOUR of them. */
static __attribute__((noinline)) void step_part(struct block *b, int64_t at, int64_t n, const struct opt_factors *f)
{
    const size_t bytes = (size_t)n * sizeof(float);
    float w[FOUR] = {0}, g[FOUR] = {0}, ema[FOUR] = {0};
    uint8_t code[2][FOUR] = {{0}};
    struct block part = *b;
    part.w = w;
    part.g = g;
    part.ema = b->ema ? ema : NULL;
    memcpy(w, b->w + at, bytes);
    memcpy(g, b->g + at, bytes);
    if (b->ema) memcpy(ema, b->ema + at, bytes);
    for (int s = 0; s < 2; s++) part.code[s] = memcpy(code[s], b->code[s] + at, (size_t)n);
    step_four(&part, 0, f);
    memcpy(b->w + at, w, bytes);
    if (b->ema) memcpy(b->ema + at, ema, bytes);
    for (int s = 0; s < 2; s++) {
        memcpy(b->x[s] + at, part.x[s], bytes);
        b->top[s] = top_of(b->top[s], vf_set(largest(part.x[s], n)));
    }
}

void ISA_FN(opt_adamw8)(const struct opt_piece *p, const struct opt_factors *f)
{
    const struct opt_factors k = *f; /* the compiler sees that stores leave it alone */
    struct block b = {.map = {opt_map(false), opt_map(true)}};
    for (int64_t from = 0, n; from < p->n; from += n) {
        float *const scale[2] = {p->scale[0] + from / OPT_BLOCK, p->scale[1] + from / OPT_BLOCK};
        n = p->n - from < OPT_BLOCK ? p->n - from : OPT_BLOCK;
        b.w = p->w + from;
        b.g = p->g + from;
        b.ema = p->ema ? p->ema + from : NULL;
        b.code[0] = (uint8_t *)p->m + from;
        b.code[1] = (uint8_t *)p->v + from;
        for (int s = 0; s < 2; s++) {
            b.scale[s] = *scale[s];
            b.top[s] = (vi){0};
        }
        int64_t i = 0;
        for (; i + FOUR <= n; i += FOUR) {
            for (int line = 0; line < FOUR; line += 16) {
                ask_l1((const char *)(b.w + i + line) + AHEAD);
                ask_l1((const char *)(b.g + i + line) + AHEAD);
            }
            step_four(&b, i, &k);
        }
        if (i < n) step_part(&b, i, n - i, f);
        for (int s = 0; s < 2; s++) *scale[s] = top_lane(b.top[s]);
        encode_all(b.map[0], false, b.x[0], n, *scale[0], b.code[0]);
        encode_all(b.map[1], true, b.x[1], n, *scale[1], b.code[1]);
    }
}
