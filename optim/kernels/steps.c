/* AdamW, SGD, averages and the sum of squares over pieces of flat buffers: everything that a number needs in one pass.
 * What an element becomes does not depend on where a piece begins. */
#include "optim/steps.h"

#include "base/simd.h"
#include "base/philox.h"

enum { AHEAD = 512 }; /* bytes: four to seven streams are more than some prefetchers follow */

struct adam {
    vf w, m, v;
};

/* (Loshchilov & Hutter 2019, alg. 2); the square root and both divisions round correctly. */
SIMD_FN struct adam adam_of(vf w, vf g, vf m, vf v, const struct opt_factors *f)
{
    vf x = g * f->grad_scale;
    m = f->b1 * m + (1 - f->b1) * x;
    v = f->b2 * v + (1 - f->b2) * x * x;
    w = w * (1 - f->lr * f->decay) - f->lr * f->fix1 * m / (vf_sqrt(v * f->fix2) + f->eps);
    return (struct adam){w, m, v};
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

SIMD_FN vw widen(const uint16_t *p)
{
    vh x;
    memcpy(&x, p, sizeof x);
    return __builtin_convertvector(x, vw);
}

SIMD_FN vf from_bf16(const uint16_t *p)
{
    return (vf)(widen(p) << 16);
}

/* Adds the random bits below the last place and cuts. Infinity stays, a NaN is made the quiet one. */
SIMD_FN void to_bf16(uint16_t *p, vf x, vw bits)
{
    vf y = vf_pick(vf_ne(x, x), (vf)((vw){0} + 0x7fc00000u), (vf)((vw)x + bits));
    vh h = __builtin_convertvector((vw)y >> 16, vh);
    memcpy(p, &h, sizeof h);
}

SIMD_FN void adamw16_vector(float *w, const float *g, uint16_t *m, uint16_t *v, float *ema, const uint16_t *random,
                            int64_t n, const struct opt_factors *f)
{
    vw bits = widen(random);
    struct adam a = adam_of(get(w, n), get(g, n), from_bf16(m), from_bf16(v), f);
    to_bf16(m, a.m, bits);
    to_bf16(v, a.v, bits);
    put(w, a.w, n);
    follow(ema, a.w, n, f);
}

/* Elements i and i + 64 of a block of 128 share their bits: drawing them is a third of the arithmetic. */
enum { BLOCK = 128, DRAWN = 64 };

static void draw_block(const struct opt_factors *f, int64_t block, uint16_t bits[DRAWN])
{
    for (int k = 0; k < DRAWN; k += 2 * PHILOX_WORDS) {
        uint32_t word[PHILOX_WORDS];
        philox_words(f->key, f->step, (uint64_t)(block * DRAWN + k) / 8, word);
        memcpy(bits + k, word, sizeof word);
    }
}

void ISA_FN(opt_adamw16)(const struct opt_piece *p, const struct opt_factors *f)
{
    const struct opt_piece q = *p;
    const struct opt_factors k = *f;
    uint16_t *m = q.m, *v = q.v, random[DRAWN], part[2][VL];
    for (int64_t i = 0; i < q.n;) {
        int64_t place = q.first + i, stop = i + BLOCK - place % BLOCK;
        if (stop > q.n) stop = q.n;
        draw_block(&k, place / BLOCK, random);
        for (; i + VL <= stop; i += VL) {
            __builtin_prefetch((const char *)(q.w + i) + AHEAD);
            __builtin_prefetch((const char *)(q.g + i) + AHEAD);
            __builtin_prefetch((const char *)(m + i) + AHEAD);
            __builtin_prefetch((const char *)(v + i) + AHEAD);
            adamw16_vector(q.w + i, q.g + i, m + i, v + i, q.ema ? q.ema + i : NULL, random + (q.first + i) % DRAWN, VL,
                           &k);
        }
        if (i == stop) continue;
        size_t bytes = (size_t)(stop - i) * sizeof *m;
        memset(part, 0, sizeof part);
        memcpy(part[0], m + i, bytes);
        memcpy(part[1], v + i, bytes);
        adamw16_vector(q.w + i, q.g + i, part[0], part[1], q.ema ? q.ema + i : NULL, random + (q.first + i) % DRAWN,
                       stop - i, &k);
        memcpy(m + i, part[0], bytes);
        memcpy(v + i, part[1], bytes);
        i = stop;
    }
}

/* ---- the others -------------------------------------------------------------------------------------------------- */

SIMD_FN void sgd_vector(const struct opt_piece *p, int64_t i, int64_t n, const struct opt_factors *f)
{
    vf w = get(p->w + i, n), x = get(p->g + i, n) * f->grad_scale + f->decay * w;
    if (p->m) {
        vf m = f->momentum * get((float *)p->m + i, n) + x;
        put((float *)p->m + i, m, n);
        x = f->nesterov ? x + f->momentum * m : m;
    }
    w -= f->lr * x;
    put(p->w + i, w, n);
    follow(p->ema ? p->ema + i : NULL, w, n, f);
}

void ISA_FN(opt_sgd)(const struct opt_piece *p, const struct opt_factors *f)
{
    const struct opt_piece q = *p;
    const struct opt_factors k = *f;
    int64_t i = 0;
    for (; i + VL <= q.n; i += VL) sgd_vector(&q, i, VL, &k);
    if (i < q.n) sgd_vector(&q, i, q.n - i, &k);
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
