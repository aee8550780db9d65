/* The optimizers' loops over pieces of flat buffers: everything that a number needs in one pass. What an element becomes
 * does not depend on where a piece begins. */
#include "optim/steps.h"

#include "base/half.h"
#include "base/philox.h"
#include "base/simd.h"

enum { AHEAD = 512 }; /* bytes: four to seven streams are more than some prefetchers follow */

struct adam {
    vf w, m, v;
};

SIMD_FN struct adam moments_of(vf g, vf m, vf v, const struct opt_factors *f)
{
    vf x = g * f->grad_scale;
    return (struct adam){.m = f->b1 * m + (1 - f->b1) * x, .v = f->b2 * v + (1 - f->b2) * x * x};
}

/* (Loshchilov & Hutter 2019, alg. 2); the square root and both divisions round correctly. */
SIMD_FN struct adam adam_of(vf w, vf g, vf m, vf v, const struct opt_factors *f)
{
    struct adam a = moments_of(g, m, v, f);
    a.w = w * (1 - f->lr * f->decay) - f->lr * f->fix1 * a.m / (vf_sqrt(a.v * f->fix2) + f->eps);
    return a;
}

SIMD_FN vf get(const float *p, int64_t n)
{
    return n == VL ? vf_load(p) : vf_load_part(p, n, 0);
}
SIMD_FN void put(float *p, vf x, int64_t n)
{
    if (n == VL)
        vf_store(p, x);
    else
        vf_store_part(p, x, n);
}

SIMD_FN void follow(float *ema, vf w, int64_t n, const struct opt_factors *f)
{
    if (ema) put(ema, f->ema * get(ema, n) + (1 - f->ema) * w, n);
}

SIMD_FN void adamw_vector(const struct opt_piece *p, int64_t i, int64_t n, const struct opt_factors *f)
{
    float *m = (float *)p->m + i, *v = (float *)p->v + i;
    struct adam a = adam_of(get(p->w + i, n), get(p->g + i, n), get(m, n), get(v, n), f);
    put(m, a.m, n);
    put(v, a.v, n);
    put(p->w + i, a.w, n);
    follow(p->ema ? p->ema + i : NULL, a.w, n, f);
}

void ISA_FN(opt_adamw)(const struct opt_piece *p, const struct opt_factors *f)
{
    const struct opt_piece q = *p; /* the compiler sees that stores leave it alone */
    const struct opt_factors k = *f;
    int64_t i = 0;
    for (; i + VL <= q.n; i += VL) {
        __builtin_prefetch((const char *)(q.w + i) + AHEAD);
        __builtin_prefetch((const char *)(q.g + i) + AHEAD);
        __builtin_prefetch((const char *)((float *)q.m + i) + AHEAD);
        __builtin_prefetch((const char *)((float *)q.v + i) + AHEAD);
        adamw_vector(&q, i, VL, &k);
    }
    if (i < q.n) adamw_vector(&q, i, q.n - i, &k);
}

/* ---- moments in 16 bits ------------------------------------------------------------------------------------------ */

typedef uint16_t vh __attribute__((vector_size(VL * 2)));
typedef uint32_t vw __attribute__((vector_size(VL * 4)));

SIMD_FN vf from_bf16(const uint16_t *p)
{
    vh x;
    memcpy(&x, p, sizeof x);
    return (vf)(__builtin_convertvector(x, vw) << 16);
}

/* Adds the random bits below the last place and cuts. Infinity stays, a NaN is made the quiet one. */
SIMD_FN void to_bf16(uint16_t *p, vf x, vw bits)
{
    vf y = vf_pick(vf_ne(x, x), (vf)((vw){0} + 0x7fc00000u), (vf)((vw)x + bits));
    vh h = __builtin_convertvector((vw)y >> 16, vh);
    memcpy(p, &h, sizeof h);
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

SIMD_FN void spread(const uint32_t word[HALF], int64_t group, vw spread_word[HALF / VL])
{
    for (int i = 0; i < HALF / VL; i++) {
        words16 x;
        memcpy(&x, word + i * VL, sizeof x);
        spread_word[i] = (vw)(x * OPT_SPREAD((uint32_t)group));
    }
}

/* The bits of VL elements at `at` (a multiple of VL) of a group. */
SIMD_FN vw bits_at(const vw word[HALF / VL], int64_t at)
{
    vw x = word[at % HALF / VL];
    return at < HALF ? x & 0xffffu : x >> 16;
}

SIMD_FN void adamw16_vector(const struct opt_piece *q, int64_t i, int64_t n, vw bits, const struct opt_factors *f)
{
    uint16_t *m = (uint16_t *)q->m + i, *v = (uint16_t *)q->v + i, part[2][VL];
    if (n < VL) {
        memset(part, 0, sizeof part);
        memcpy(part[0], m, (size_t)n * sizeof *m);
        memcpy(part[1], v, (size_t)n * sizeof *v);
    }
    uint16_t *to_m = n < VL ? part[0] : m, *to_v = n < VL ? part[1] : v;
    struct adam a = adam_of(get(q->w + i, n), get(q->g + i, n), from_bf16(to_m), from_bf16(to_v), f);
    to_bf16(to_m, a.m, bits);
    to_bf16(to_v, a.v, bits);
    put(q->w + i, a.w, n);
    follow(q->ema ? q->ema + i : NULL, a.w, n, f);
    if (n < VL) {
        memcpy(m, part[0], (size_t)n * sizeof *m);
        memcpy(v, part[1], (size_t)n * sizeof *v);
    }
}

/* The groups, or parts of them, from q's i-th element to the `stop`th, all of one block. */
SIMD_FN void adamw16_block(const struct opt_piece *q, int64_t i, int64_t stop, const uint32_t word[HALF],
                           const struct opt_factors *f)
{
    while (i < stop) {
        int64_t place = q->first + i, at = place % GROUP; /* 0 or 16 */
        vw mine[HALF / VL];
        spread(word, place % BLOCK / GROUP, mine);
        if (at == 0 && i + GROUP <= stop) {
            __builtin_prefetch((const char *)((uint16_t *)q->m + i) + AHEAD);
            __builtin_prefetch((const char *)((uint16_t *)q->v + i) + AHEAD);
            for (int64_t line = 0; line < GROUP; line += 16) {
                __builtin_prefetch((const char *)(q->w + i + line) + AHEAD);
                __builtin_prefetch((const char *)(q->g + i + line) + AHEAD);
            }
#pragma GCC unroll 8
            for (int64_t j = 0; j < GROUP; j += VL) adamw16_vector(q, i + j, VL, bits_at(mine, j), f);
            i += GROUP;
            continue;
        }
        for (; at < GROUP && i < stop; at += VL, i += VL)
            adamw16_vector(q, i, stop - i < VL ? stop - i : VL, bits_at(mine, at), f);
    }
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
        adamw16_block(&q, i, stop, word, &k);
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
            vw mine[HALF / VL];
            uint16_t h[VL];
            spread(word, at % BLOCK / GROUP, mine);
            to_bf16(h, get(from + k, left), bits_at(mine, at % GROUP));
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
    vf w = get(p->w + i, n), x = (get(p->g + i, n) * f->grad_scale + f->decay * w) * f->trust;
    if (p->m) {
        vf m = f->momentum * get((float *)p->m + i, n) + x;
        put((float *)p->m + i, m, n);
        x = f->nesterov ? x + f->momentum * m : m;
    }
    w -= f->lr * x;
    put(p->w + i, w, n);
    follow(p->ema ? p->ema + i : NULL, w, n, f);
}
PIECES(sgd)

SIMD_FN void lion_vector(const struct opt_piece *p, int64_t i, int64_t n, const struct opt_factors *f)
{
    const vf zero = {0};
    vf x = get(p->g + i, n) * f->grad_scale, m = get((float *)p->m + i, n), w = get(p->w + i, n);
    vf c = f->b1 * m + (1 - f->b1) * x, sign = vf_mask01(vf_lt(zero, c)) - vf_mask01(vf_lt(c, zero));
    w = w * (1 - f->lr * f->decay) - f->lr * sign;
    put((float *)p->m + i, f->b2 * m + (1 - f->b2) * x, n);
    put(p->w + i, w, n);
    follow(p->ema ? p->ema + i : NULL, w, n, f);
}
PIECES(lion)

SIMD_FN void lamb_moments_vector(const struct opt_piece *p, int64_t i, int64_t n, const struct opt_factors *f)
{
    float *m = (float *)p->m + i, *v = (float *)p->v + i;
    struct adam a = moments_of(get(p->g + i, n), get(m, n), get(v, n), f);
    put(m, a.m, n);
    put(v, a.v, n);
}
PIECES(lamb_moments)

SIMD_FN vf lamb_update(const struct opt_piece *p, int64_t i, int64_t n, vf w, const struct opt_factors *f)
{
    vf m = get((float *)p->m + i, n), v = get((float *)p->v + i, n);
    return f->fix1 * m / (vf_sqrt(v * f->fix2) + f->eps) + f->decay * w;
}

SIMD_FN void lamb_vector(const struct opt_piece *p, int64_t i, int64_t n, const struct opt_factors *f)
{
    vf w = get(p->w + i, n);
    w -= f->lr * f->trust * lamb_update(p, i, n, w, f);
    put(p->w + i, w, n);
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
        vf w = get(p->w + i, n);
        vd u = __builtin_convertvector(lamb_update(p, i, n, w, f), vd), x = __builtin_convertvector(w, vd);
        ww += x * x;
        uu += u * u;
    }
    p->sum[0] += sum_of(&ww);
    p->sum[1] += sum_of(&uu);
}

SIMD_FN vf adafactor_update(const struct opt_piece *p, int64_t i, int64_t n, const struct opt_factors *f)
{
    vf v = f->row * get((const float *)p->v + i, n) / f->row_mean;
    return get(p->g + i, n) * f->grad_scale / vf_sqrt(vf_max(v, vf_set(f->eps * f->eps)));
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
    vf w = get(p->w + i, n) * (1 - f->lr * f->decay) - f->trust * adafactor_update(p, i, n, f);
    put(p->w + i, w, n);
    follow(p->ema ? p->ema + i : NULL, w, n, f);
}
PIECES(adafactor)

SIMD_FN void muon_mix_vector(const struct opt_piece *p, int64_t i, int64_t n, const struct opt_factors *f)
{
    vf x = get(p->g + i, n) * f->grad_scale, m = get((float *)p->m + i, n);
    m = f->momentum * m + (1 - f->momentum) * x;
    put((float *)p->m + i, m, n);
    put(p->u + i, f->nesterov ? (1 - f->momentum) * x + f->momentum * m : m, n);
}
PIECES(muon_mix)

SIMD_FN void muon_vector(const struct opt_piece *p, int64_t i, int64_t n, const struct opt_factors *f)
{
    vf w = get(p->w + i, n) * (1 - f->lr * f->decay) - f->trust * get(p->u + i, n);
    put(p->w + i, w, n);
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
        follow(p->ema + i, get(p->w + i, n), n, f);
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
