/* How parts of a convolution's patches are written where a product wants them. See patches.h.
 *
 * A range of columns is cut into pieces that lie in one run in memory, the same pieces for every position: one tap's
 * channels, or a whole row of taps where those are neighbours. Positions whose taps all lie inside the image copy pieces
 * at fixed offsets; only those at the border look at each pixel. */
#pragma GCC optimize("O3")
#include "autograd/kernels/patches.h"

#include "autograd/kernels/simd.h"

enum { PIECES = GEMM_MOST_K + 2 };

struct piece {
    int64_t u, v0, v1; /* taps v0 .. v1 of row u */
    int64_t offset;    /* from the pixel that tap (0, 0) reads */
    int32_t at, n;     /* columns, counted from the range's first */
};
struct pieces {
    int n;
    int64_t u0, u1, v0, v1; /* taps that occur */
    struct piece piece[PIECES];
};

static int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
static int64_t max_of(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static void cut(const struct patches *p, int64_t k0, int64_t nk, struct pieces *s)
{
    bool neighbours = p->w.inc == 1 && p->channels == p->c;
    int64_t line = neighbours ? p->w.taps * p->c : p->channels;
    s->n = 0;
    s->u0 = s->v0 = INT64_MAX;
    s->u1 = s->v1 = 0;
    for (int64_t k = 0; k < nk;) {
        int64_t in = (k0 + k) % line, l = (k0 + k) / line, n = min_of(line - in, nk - k);
        struct piece *q = &s->piece[s->n++];
        q->u = neighbours ? l : l / p->w.taps;
        q->v0 = neighbours ? in / p->c : l % p->w.taps;
        q->v1 = neighbours ? (in + n - 1) / p->c : q->v0;
        q->offset = (q->u * p->h.inc * p->w.size + (neighbours ? 0 : q->v0 * p->w.inc)) * p->c + p->first + in;
        q->at = (int32_t)k;
        q->n = (int32_t)n;
        s->u0 = min_of(s->u0, q->u);
        s->u1 = max_of(s->u1, q->u);
        s->v0 = min_of(s->v0, q->v0);
        s->v1 = max_of(s->v1, q->v1);
        k += n;
    }
}

/* n numbers; where `over`, up to VL - 1 more may be read and written. */
SIMD_FN void copy_run(enum ad_dtype type, float *to, const void *from, int64_t n, bool over)
{
    int64_t i = 0;
    if (over) {
        for (; i < n; i += VL) vf_store(to + i, vf_load_as(type, from, i));
        return;
    }
    if (n < VL) {
        for (; i < n; i++) to[i] = float_as(type, from, i);
        return;
    }
    for (; i + VL <= n; i += VL) vf_store(to + i, vf_load_as(type, from, i));
    if (i < n) vf_store(to + n - VL, vf_load_as(type, from, n - VL));
}

/* One piece at a position whose tap (0, 0) reads pixel (y, x), perhaps outside of the image `src`. */
static void copy_border(const struct patches *p, const void *src, const struct piece *q, int64_t y, int64_t x,
                        float *to)
{
    int64_t row = y + q->u * p->h.inc, first = x + q->v0 * p->w.inc, last = x + q->v1 * p->w.inc;
    if (row < 0 || row >= p->h.size || last < 0 || first >= p->w.size) {
        memset(to, 0, (size_t)q->n * sizeof *to);
        return;
    }
    /* A row of the image is w.size c numbers; those of the piece are at .. at + n - 1. */
    int64_t row_at = row * p->w.size * p->c, at = (y * p->w.size + x) * p->c + q->offset - row_at,
            width = p->w.size * p->c;
    int64_t before = min_of(q->n, max_of(0, -at)), end = max_of(before, min_of(q->n, width - at));
    for (int64_t i = 0; i < before; i++) to[i] = 0;
    if (end > before)
        BY_TYPE(p->type, copy_run, to + before, at_as(p->type, src, row_at + at + before), end - before, false);
    for (int64_t i = end; i < q->n; i++) to[i] = 0;
}

/* A walk over positions. */
struct walk {
    int64_t n, i, j;
};
static struct walk walk_from(const struct patches *p, int64_t position)
{
    return (struct walk){position / p->w.grid / p->h.grid, position / p->w.grid % p->h.grid, position % p->w.grid};
}
static void walk_on(const struct patches *p, struct walk *at, int64_t by)
{
    at->j += by;
    if (at->j < p->w.grid) return;
    at->j = 0;
    if (++at->i < p->h.grid) return;
    at->i = 0;
    at->n++;
}

static int64_t image_size(const struct patches *p)
{
    return p->h.size * p->w.size * p->c;
}
static bool rows_inside(const struct patches *p, const struct pieces *s, int64_t y)
{
    return y + s->u0 * p->h.inc >= 0 && y + s->u1 * p->h.inc < p->h.size;
}

/* (i, k) to to[i * i_step + k] */
SIMD_FN void fill_rows_as(enum ad_dtype type, const struct patches *p, int64_t i0, int64_t ni, int64_t k0, int64_t nk,
                          float *to, int64_t i_step)
{
    struct pieces s;
    struct walk at = walk_from(p, i0);
    int64_t size = image_size(p), all = p->n * size;
    cut(p, k0, nk, &s);
    for (int64_t r = 0; r < ni; r++, to += i_step, walk_on(p, &at, 1)) {
        int64_t y = at.i * p->h.step + p->h.base, x = at.j * p->w.step + p->w.base;
        const void *src = at_as(type, p->src, at.n * size);
        if (!rows_inside(p, &s, y) || x + s.v0 * p->w.inc < 0 || x + s.v1 * p->w.inc >= p->w.size) {
            for (int q = 0; q < s.n; q++) copy_border(p, src, &s.piece[q], y, x, to + s.piece[q].at);
            continue;
        }
        int64_t pixel = at.n * size + (y * p->w.size + x) * p->c;
        const struct piece *last = &s.piece[s.n - 1];
        /* Room behind the row, and numbers behind the last piece: whole vectors do. */
        if (i_step >= nk + VL && pixel + last->offset + last->n + VL <= all)
            for (int q = 0; q < s.n; q++)
                copy_run(type, to + s.piece[q].at, at_as(type, p->src, pixel + s.piece[q].offset), s.piece[q].n, true);
        else
            for (int q = 0; q < s.n; q++)
                copy_run(type, to + s.piece[q].at, at_as(type, p->src, pixel + s.piece[q].offset), s.piece[q].n, false);
    }
}

static void fill_rows(const void *ctx, int64_t i0, int64_t ni, int64_t k0, int64_t nk, float *to, int64_t i_step,
                      int64_t k_step)
{
    const struct patches *p = ctx;
    BY_TYPE(p->type, fill_rows_as, p, i0, ni, k0, nk, to, i_step);
}

/* `count` positions inside of the image, `step` numbers apart, in whole vectors: what a piece writes behind itself is
 * written over by the next piece or position. Pieces are at most VL long. */
SIMD_FN void copy_columns(enum ad_dtype type, const void *from, const struct pieces *s, int n, int64_t count,
                          int64_t step, float *to, int64_t k_step)
{
    for (int64_t j = 0; j < count; j++, from = at_as(type, from, step), to += k_step)
        for (int q = 0; q < n; q++) vf_store(to + s->piece[q].at, vf_load_as(type, from, s->piece[q].offset));
}

/* Positions j .. j+count-1 of one row of the grid. */
SIMD_FN void fill_run(enum ad_dtype type, const struct patches *p, const struct pieces *s, struct walk at,
                      int64_t count, float *to, int64_t k_step, bool whole)
{
    int64_t y = at.i * p->h.step + p->h.base, step = p->w.step, size = image_size(p), j = 0;
    /* Columns from lo to hi of the run have all taps inside. */
    int64_t x = at.j * step + p->w.base, left = x + s->v0 * p->w.inc, right = p->w.size - x - s->v1 * p->w.inc;
    int64_t lo = left >= 0 ? 0 : (-left + step - 1) / step, hi = right <= 0 ? 0 : (right + step - 1) / step;
    int64_t pixel = at.n * size + (y * p->w.size + x) * p->c, reach = s->piece[s->n - 1].offset + VL;
    const void *image = at_as(type, p->src, at.n * size);
    if (!whole || !rows_inside(p, s, y)) lo = count;
    lo = min_of(lo, count);
    hi = min_of(hi, count);
    while (hi > lo && pixel + (hi - 1) * step * p->c + reach > p->n * size) hi--; /* the end of the numbers */
    for (; j < lo; j++)
        for (int q = 0; q < s->n; q++)
            copy_border(p, image, &s->piece[q], y, x + j * step, to + j * k_step + s->piece[q].at);
    if (hi > j) {
        const void *from = at_as(type, p->src, pixel + j * step * p->c);
        if (s->n == 1)
            copy_columns(type, from, s, 1, hi - j, step * p->c, to + j * k_step, k_step);
        else if (s->n == 2)
            copy_columns(type, from, s, 2, hi - j, step * p->c, to + j * k_step, k_step);
        else
            copy_columns(type, from, s, s->n, hi - j, step * p->c, to + j * k_step, k_step);
        j = hi;
    }
    for (; j < count; j++)
        for (int q = 0; q < s->n; q++)
            copy_border(p, image, &s->piece[q], y, x + j * step, to + j * k_step + s->piece[q].at);
}

/* Rows are columns of the patches here: (i, k) to to[i + k * k_step]. */
static void fill_columns(const void *ctx, int64_t i0, int64_t ni, int64_t k0, int64_t nk, float *to, int64_t i_step,
                         int64_t k_step)
{
    const struct patches *p = ctx;
    struct pieces s;
    struct walk at = walk_from(p, k0);
    cut(p, i0, ni, &s);
#ifdef __AVX2__
    bool whole = ni <= VL; /* a packed panel, with room for a vector behind it */
#else
    bool whole = false;
#endif
    for (int64_t k = 0; k < nk;) {
        int64_t count = min_of(p->w.grid - at.j, nk - k);
        BY_TYPE(p->type, fill_run, p, &s, at, count, to + k * k_step, k_step, whole);
        walk_on(p, &at, count);
        k += count;
    }
}

struct gemm_source patches_by_row(const struct patches *p)
{
    return (struct gemm_source){fill_rows, p, false};
}
struct gemm_source patches_by_column(const struct patches *p)
{
    return (struct gemm_source){fill_columns, p, true};
}
