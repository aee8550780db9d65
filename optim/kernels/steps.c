/* The optimizers' loops over pieces of flat buffers: everything that a number needs in one pass. What an element becomes
 * does not depend on where a piece begins. */
#include "optim/adam.h"

#include <stdbool.h>

#include "base/half.h"
#include "base/philox.h"

SIMD_FN void adamw_vector(const struct opt_piece *p, int64_t i, int64_t n, const struct opt_factors *f)
{
    float *m = (float *)p->m + i, *v = (float *)p->v + i;
    struct adam a = adam_of(vf_get(p->w + i, n), vf_get(p->g + i, n), vf_get(m, n), vf_get(v, n), f);
    vf_put(m, a.m, n);
    vf_put(v, a.v, n);
    vf_put(p->w + i, a.w, n);
    follow(p->ema ? p->ema + i : NULL, a.w, n, f);
}

void ISA_FN(opt_adamw)(const struct opt_piece *p, const struct opt_factors *f)
{
    const struct opt_piece q = *p; /* the compiler sees that stores leave it alone */
    const struct opt_factors k = *f;
    int64_t i = 0;
    for (; i + VL <= q.n; i += VL) {
        ask_l1((const char *)(q.w + i) + AHEAD);
        ask_l1((const char *)(q.g + i) + AHEAD);
        ask_l1((const char *)((float *)q.m + i) + AHEAD);
        ask_l1((const char *)((float *)q.v + i) + AHEAD);
        adamw_vector(&q, i, VL, &k);
    }
    if (i < q.n) adamw_vector(&q, i, q.n - i, &k);
}

/* ---- moments in 16 bits ------------------------------------------------------------------------------------------ */

SIMD_FN vf from_bf16(const uint16_t *p)
{
    vh x;
    memcpy(&x, p, sizeof x);
    return vf_from_bf16(x);
}

/* Two vectors, one behind the other: on AVX2 by half as many instructions as one by one. */
SIMD_FN void from_bf16_pair(const uint16_t *p, vf to[2])
{
#if defined(__AVX2__) && !defined(__AVX512F__)
    __m256i x = _mm256_permute4x64_epi64(_mm256_loadu_si256((const __m256i *)(const void *)p), 0xd8);
    to[0] = (vf)_mm256_unpacklo_epi16(_mm256_setzero_si256(), x);
    to[1] = (vf)_mm256_unpackhi_epi16(_mm256_setzero_si256(), x);
#else
    to[0] = from_bf16(p);
    to[1] = from_bf16(p + VL);
#endif
}

/* Random bits are added below the last place, which is cut. Infinity stays; a NaN is made the quiet one, or it could carry
 * over into a zero. */
SIMD_FN void to_bf16(uint16_t *p, vf x, vu bits)
{
    vf y = vf_pick(vf_ne(x, x), (vf)((vu){0} + 0x7fc00000u), (vf)((vu)x + bits));
    vh h = __builtin_convertvector((vu)y >> 16, vh);
    memcpy(p, &h, sizeof h);
}

/* Two vectors without a NaN. */
SIMD_FN void to_bf16_pair(uint16_t *p, const vf x[2], const vu bits[2])
{
    vu a = ((vu)x[0] + bits[0]) >> 16, b = ((vu)x[1] + bits[1]) >> 16;
#if defined(__AVX2__) && !defined(__AVX512F__)
    __m256i h = _mm256_permute4x64_epi64(_mm256_packus_epi32((__m256i)a, (__m256i)b), 0xd8);
    _mm256_storeu_si256((__m256i *)(void *)p, h);
#else
    vh h[2] = {__builtin_convertvector(a, vh), __builtin_convertvector(b, vh)};
    memcpy(p, h, sizeof h);
#endif
}

/* Whether there is a NaN in one of them. */
SIMD_FN bool any_nan(vf a, vf b)
{
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q);
#elif defined(__AVX2__)
    return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_UNORD_Q));
#else
    vi nan = (a != a) | (b != b);
    int32_t any = 0;
    for (int i = 0; i < VL; i++) any |= nan[i];
    return any;
#endif
}

/* A group of 32 elements has the bits of 16 words; DRAWN groups share what was drawn, each times its own odd number. */
enum { GROUP = 32, HALF = 16, DRAWN = 16, BLOCK = GROUP * DRAWN, COUNTERS = 4 };
typedef uint16_t words16 __attribute__((vector_size(VL * 4)));

static void draw(const struct opt_factors *f, int64_t block, uint32_t word[HALF])
{
    uint32_t w[PHILOX_WORDS]; /* HALF or more */
    philox_words(f->key, f->step, (uint64_t)block * COUNTERS, w);
    memcpy(word, w, HALF * sizeof *word);
}

SIMD_FN void spread(const uint32_t word[HALF], uint32_t group, vu spread_word[HALF / VL])
{
    for (int i = 0; i < HALF / VL; i++) {
        words16 x;
        memcpy(&x, word + i * VL, sizeof x);
        spread_word[i] = (vu)(x * OPT_SPREAD(group));
    }
}

/* The bits of VL elements at `at` (a multiple of VL) of a group. */
SIMD_FN vu bits_at(const vu word[HALF / VL], int64_t at)
{
    vu x = word[at % HALF / VL];
    return at < HALF ? x & 0xffffu : x >> 16;
}

/* Fewer than a group's elements, from its `at`th on. */
static __attribute__((noinline)) void adamw16_part(const struct opt_piece *q, int64_t i, int64_t n,
                                                   const vu word[HALF / VL], int64_t at, const struct opt_factors *f)
{
    for (int64_t stop = i + n, k; i < stop; i += k, at += k) {
        k = stop - i < VL ? stop - i : VL;
        uint16_t m[VL] = {0}, v[VL] = {0}, *to_m = (uint16_t *)q->m + i, *to_v = (uint16_t *)q->v + i;
        memcpy(m, to_m, (size_t)k * sizeof *m);
        memcpy(v, to_v, (size_t)k * sizeof *v);
        struct adam a = adam_of(vf_get(q->w + i, k), vf_get(q->g + i, k), from_bf16(m), from_bf16(v), f);
        to_bf16(m, a.m, bits_at(word, at));
        to_bf16(v, a.v, bits_at(word, at));
        memcpy(to_m, m, (size_t)k * sizeof *m);
        memcpy(to_v, v, (size_t)k * sizeof *v);
        vf_put(q->w + i, a.w, k);
        follow(q->ema ? q->ema + i : NULL, a.w, k, f);
    }
}

SIMD_FN void adamw16_group(const struct opt_piece *q, int64_t i, const vu word[HALF / VL], const struct opt_factors *f)
{
    float *w = q->w + i;
    const float *g = q->g + i;
    uint16_t *m = (uint16_t *)q->m + i, *v = (uint16_t *)q->v + i;
    ask_l1((const char *)m + AHEAD);
    ask_l1((const char *)v + AHEAD);
    ask_l1((const char *)w + AHEAD);
    ask_l1((const char *)w + AHEAD + 64);
    ask_l1((const char *)g + AHEAD);
    ask_l1((const char *)g + AHEAD + 64);
#pragma GCC unroll 4
    for (int j = 0; j < GROUP; j += 2 * VL) {
        const vu bits[2] = {bits_at(word, j), bits_at(word, j + VL)};
        vf old_m[2], old_v[2], new_m[2], new_v[2], new_w[2];
        from_bf16_pair(m + j, old_m);
        from_bf16_pair(v + j, old_v);
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
            struct adam a = adam_of(vf_load(w + j + h * VL), vf_load(g + j + h * VL), old_m[h], old_v[h], f);
            new_m[h] = a.m;
            new_v[h] = a.v;
            vf_store(w + j + h * VL, new_w[h] = a.w);
        }
        if (__builtin_expect(any_nan(new_w[0], new_w[1]), false)) { /* as it is where a moment is one */
            for (int h = 0; h < 2; h++) to_bf16(m + j + h * VL, new_m[h], bits[h]);
            for (int h = 0; h < 2; h++) to_bf16(v + j + h * VL, new_v[h], bits[h]);
            continue;
        }
        to_bf16_pair(m + j, new_m, bits);
        to_bf16_pair(v + j, new_v, bits);
    }
    for (int j = 0; q->ema && j < GROUP; j += VL) follow(q->ema + i + j, vf_load(w + j), VL, f);
}

void ISA_FN(opt_adamw16)(const struct opt_piece *p, const struct opt_factors *f)
{
    const struct opt_piece q = *p;
    const struct opt_factors k = *f;
    uint32_t word[HALF];
    for (int64_t i = 0, stop; i < q.n; i = stop) {
        int64_t place = q.first + i;
        stop = i + BLOCK - place % BLOCK;
        if (stop > q.n) stop = q.n;
        draw(&k, place / BLOCK, word);
        vu mine[HALF / VL];
        uint32_t group = (uint32_t)(place % BLOCK) / GROUP;
        if (place % GROUP) { /* 16: a parameter begins in the middle of a group */
            int64_t n = stop - i < HALF ? stop - i : HALF;
            spread(word, group++, mine);
            adamw16_part(&q, i, n, mine, HALF, &k);
            i += n;
        }
        for (; i + GROUP <= stop; i += GROUP) {
            spread(word, group++, mine);
            adamw16_group(&q, i, mine, &k);
        }
        if (i < stop) {
            spread(word, group, mine);
            adamw16_part(&q, i, stop - i, mine, 0, &k);
        }
    }
}

void ISA_FN(opt_from16)(const uint16_t *from, int64_t n, float *to)
{
    int64_t i = 0;
    for (; i + VL <= n; i += VL) vf_store(to + i, from_bf16(from + i));
    for (; i < n; i++) to[i] = bf16_to_float(from[i]);
}

void ISA_FN(opt_to16)(const float *from, int64_t n, int64_t place, const struct opt_factors *f, uint16_t *to)
{
    uint32_t word[HALF];
    for (int64_t i = 0, stop; i < n; i = stop) {
        stop = i + BLOCK - (place + i) % BLOCK;
        if (stop > n) stop = n;
        draw(f, (place + i) / BLOCK, word);
        for (int64_t k = i; k < stop; k += VL) {
            int64_t at = place + k, left = stop - k < VL ? stop - k : VL;
            vu mine[HALF / VL];
            uint16_t h[VL];
            spread(word, (uint32_t)(at % BLOCK) / GROUP, mine);
            to_bf16(h, vf_get(from + k, left), bits_at(mine, at % GROUP));
            memcpy(to + k, h, (size_t)left * sizeof *h);
        }
    }
}

/* ---- the others -------------------------------------------------------------------------------------------------- */

/* A function over pieces out of one over vectors. */
#define PIECES(name)                                                                \
    void ISA_FN(opt_##name)(const struct opt_piece *p, const struct opt_factors *f) \
    {                                                                               \
        const struct opt_piece q = *p;                                              \
        const struct opt_factors k = *f;                                            \
        int64_t i = 0;                                                              \
        for (; i + VL <= q.n; i += VL) name##_vector(&q, i, VL, &k);                \
        if (i < q.n) name##_vector(&q, i, q.n - i, &k);                             \
    }

SIMD_FN void sgd_vector(const struct opt_piece *p, int64_t i, int64_t n, const struct opt_factors *f)
{
    vf w = vf_get(p->w + i, n), x = (vf_get(p->g + i, n) * f->grad_scale + f->decay * w) * f->trust;
    if (p->m) {
        vf m = f->momentum * vf_get((float *)p->m + i, n) + x;
        vf_put((float *)p->m + i, m, n);
        x = f->nesterov ? x + f->momentum * m : m;
    }
    w -= f->lr * x;
    vf_put(p->w + i, w, n);
    follow(p->ema ? p->ema + i : NULL, w, n, f);
}
PIECES(sgd)

SIMD_FN void lion_vector(const struct opt_piece *p, int64_t i, int64_t n, const struct opt_factors *f)
{
    const vf zero = {0};
    vf x = vf_get(p->g + i, n) * f->grad_scale, m = vf_get((float *)p->m + i, n), w = vf_get(p->w + i, n);
    vf c = f->b1 * m + (1 - f->b1) * x, sign = vf_mask01(vf_lt(zero, c)) - vf_mask01(vf_lt(c, zero));
    w = w * (1 - f->lr * f->decay) - f->lr * sign;
    vf_put((float *)p->m + i, f->b2 * m + (1 - f->b2) * x, n);
    vf_put(p->w + i, w, n);
    follow(p->ema ? p->ema + i : NULL, w, n, f);
}
PIECES(lion)

SIMD_FN void lamb_moments_vector(const struct opt_piece *p, int64_t i, int64_t n, const struct opt_factors *f)
{
    float *m = (float *)p->m + i, *v = (float *)p->v + i;
    struct adam a = moments_of(vf_get(p->g + i, n), vf_get(m, n), vf_get(v, n), f);
    vf_put(m, a.m, n);
    vf_put(v, a.v, n);
}
PIECES(lamb_moments)

SIMD_FN vf lamb_update(const struct opt_piece *p, int64_t i, int64_t n, vf w, const struct opt_factors *f)
{
    vf m = vf_get((float *)p->m + i, n), v = vf_get((float *)p->v + i, n);
    return f->fix1 * m / (vf_sqrt(v * f->fix2) + f->eps) + f->decay * w;
}

SIMD_FN void lamb_vector(const struct opt_piece *p, int64_t i, int64_t n, const struct opt_factors *f)
{
    vf w = vf_get(p->w + i, n);
    w -= f->lr * f->trust * lamb_update(p, i, n, w, f);
    vf_put(p->w + i, w, n);
    follow(p->ema ? p->ema + i : NULL, w, n, f);
}
PIECES(lamb)

typedef double vd __attribute__((vector_size(VL * 8)));

SIMD_FN double sum_of(const vd *x)
{
    double all = 0;
    for (int k = 0; k < VL; k++) all += (*x)[k];
    return all;
}

void ISA_FN(opt_lamb_norms)(const struct opt_piece *p, const struct opt_factors *f)
{
    vd ww = {0}, uu = {0};
    for (int64_t i = 0; i < p->n; i += VL) {
        int64_t n = p->n - i < VL ? p->n - i : VL;
        vf w = vf_get(p->w + i, n);
        vd u = __builtin_convertvector(lamb_update(p, i, n, w, f), vd), x = __builtin_convertvector(w, vd);
        ww += x * x;
        uu += u * u;
    }
    p->sum[0] += sum_of(&ww);
    p->sum[1] += sum_of(&uu);
}

SIMD_FN vf adafactor_update(const struct opt_piece *p, int64_t i, int64_t n, const struct opt_factors *f)
{
    vf v = f->row * vf_get((const float *)p->v + i, n) / f->row_mean;
    return vf_get(p->g + i, n) * f->grad_scale / vf_sqrt(vf_max(v, vf_set(f->eps * f->eps)));
}

double ISA_FN(opt_adafactor_norm)(const struct opt_piece *p, const struct opt_factors *f)
{
    vd uu = {0};
    for (int64_t i = 0; i < p->n; i += VL) {
        vd u = __builtin_convertvector(adafactor_update(p, i, p->n - i < VL ? p->n - i : VL, f), vd);
        uu += u * u;
    }
    return sum_of(&uu);
}

SIMD_FN void adafactor_vector(const struct opt_piece *p, int64_t i, int64_t n, const struct opt_factors *f)
{
    vf w = vf_get(p->w + i, n) * (1 - f->lr * f->decay) - f->trust * adafactor_update(p, i, n, f);
    vf_put(p->w + i, w, n);
    follow(p->ema ? p->ema + i : NULL, w, n, f);
}
PIECES(adafactor)

SIMD_FN void muon_mix_vector(const struct opt_piece *p, int64_t i, int64_t n, const struct opt_factors *f)
{
    vf x = vf_get(p->g + i, n) * f->grad_scale, m = vf_get((float *)p->m + i, n);
    m = f->momentum * m + (1 - f->momentum) * x;
    vf_put((float *)p->m + i, m, n);
    vf_put(p->u + i, f->nesterov ? (1 - f->momentum) * x + f->momentum * m : m, n);
}
PIECES(muon_mix)

SIMD_FN void muon_vector(const struct opt_piece *p, int64_t i, int64_t n, const struct opt_factors *f)
{
    vf w = vf_get(p->w + i, n) * (1 - f->lr * f->decay) - f->trust * vf_get(p->u + i, n);
    vf_put(p->w + i, w, n);
    follow(p->ema ? p->ema + i : NULL, w, n, f);
}
PIECES(muon)

void ISA_FN(opt_column_squares)(const float *x, int64_t rows, int64_t stride, int64_t n, double *sum)
{
    memset(sum, 0, (size_t)n * sizeof *sum);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < n; j++) sum[j] += (double)x[i * stride + j] * (double)x[i * stride + j];
}

void ISA_FN(opt_follow)(const struct opt_piece *p, const struct opt_factors *f)
{
    for (int64_t i = 0; i < p->n; i += VL) {
        int64_t n = p->n - i < VL ? p->n - i : VL;
        follow(p->ema + i, vf_get(p->w + i, n), n, f);
    }
}

typedef double sums __attribute__((vector_size(64)));
typedef float eight __attribute__((vector_size(32)));

double ISA_FN(opt_squares)(const float *x, int64_t n)
{
    sums s[4] = {{0}};
    double rest = 0, all = 0;
    int64_t i = 0;
    for (; i + 32 <= n; i += 32)
#pragma GCC unroll 4
        for (int u = 0; u < 4; u++) {
            eight y;
            memcpy(&y, x + i + 8 * u, sizeof y);
            sums d = __builtin_convertvector(y, sums);
            s[u] += d * d;
        }
    for (; i < n; i++) rest += (double)x[i] * (double)x[i];
    s[0] = (s[0] + s[1]) + (s[2] + s[3]);
    for (int k = 0; k < 8; k++) all += s[0][k];
    return all + rest;
}
