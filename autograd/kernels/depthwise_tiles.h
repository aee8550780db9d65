/* What the kernels for depthwise convolutions share where they go by tiles: several neighbouring columns of a row of the result,
 * for one vector of channels after the other, so that memory is read in the order in which it lies. Columns beside the image
 * are read from a row of zeros. */
#ifndef TRIAD_AUTOGRAD_KERNELS_DEPTHWISE_TILES_H
#define TRIAD_AUTOGRAD_KERNELS_DEPTHWISE_TILES_H

#include "autograd/kernels/depthwise_rows.h"

enum { MAX_COLUMNS = 16, MAX_PARTS = 32 };
enum { LINE = 16 }; /* numbers of a cache line */

static inline int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
static inline int64_t max_of(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* The row behind all of them. */
static inline int64_t row_behind(const struct reach *r)
{
    return r->n ? max_of(r->row[0], r->row[r->n - 1]) + 1 : 0;
}

/* Where a tile's columns are: in a row that it reads from `first` on, c numbers apart; or, where some are beside the image,
 * which are zeros then, or results beside theirs, as `at` lists them for row a of these. */
struct columns_at {
    int64_t first;
    bool inside; /* none are listed */
    const float *at[MAX_TAPS][MAX_COLUMNS];
};

/* `columns` from column x on of rows `width` wide; they are listed where some are outside, or not `whole`. */
static inline void find_columns(struct columns_at *k, const struct reach *rows, const float *src, const float *zeros,
                                int64_t x, int columns, int64_t width, int64_t c, bool whole)
{
    k->first = x * c;
    k->inside = whole && x >= 0 && x + columns <= width;
    for (int64_t a = 0; a < rows->n && !k->inside; a++) {
        const float *row = src + (rows->row[a] * width + x) * c;
        for (int q = 0; q < columns; q++) k->at[a][q] = x + q < 0 || x + q >= width ? zeros : row + q * c;
    }
}

/* Asks for `vectors` of what is read next: a tile's columns are many short runs, which the processor does not foresee. */
SIMD_FN void ask(const float *ahead, int vectors, int64_t ch)
{
    const float *p = ahead + ch * vectors;
#pragma GCC unroll 8
    for (int i = 0; i < vectors * VL; i += LINE) ask_l2(p + i);
}

/* p + q c, from pointers three columns apart: one, two and none of c are what the addressing of the machine reaches, and the
 * compiler must not know that they belong together, or it adds up each of them. */
struct every_third {
    const float *p[5];
};
SIMD_FN struct every_third every_third(const float *p, int columns, int64_t c)
{
    struct every_third e = {{p}};
#pragma GCC unroll 5
    for (int i = 1; 3 * i < columns; i++) {
        e.p[i] = e.p[i - 1] + 3 * c;
        __asm__("" : "+r"(e.p[i]));
    }
    return e;
}
SIMD_FN const float *column_of(struct every_third e, int q, int64_t c)
{
    return e.p[q / 3] + q % 3 * c;
}

/* How result t, tap v and column q belong together: conv2d with a step of s; conv2d_transpose with a step of 1, which is
 * conv2d with the taps in falling order; and with a step of 2, where results of either parity read every other tap. */
enum form { FORWARD, FLIPPED, SPREAD };

SIMD_FN int results_of(enum form f, int s)
{
    return f == FORWARD && s == 2 ? 4 : 8;
}
SIMD_FN int columns_of(enum form f, int kw, int s)
{
    return f == SPREAD ? 4 + (kw - 1) / 2 : (results_of(f, s) - 1) * s + kw;
}
/* The tap through which result t reads column q, or -1. */
SIMD_FN int tap_of(enum form f, int kw, int s, int t, int q)
{
    int v = f == SPREAD ? t - 2 * (q - (kw - 1) / 2) : q - t * s;
    if (v < 0 || v >= kw) return -1;
    return f == FLIPPED ? kw - 1 - v : v;
}

/* Kernels 3 or 5 wide with steps of 1 or 2. */
static inline bool has_tiles(const struct conv_dims *d)
{
    return (d->k[1] == 3 || d->k[1] == 5) && d->stride[1] <= 2 && d->dilation[1] == 1;
}

static inline bool is_depthwise(const struct ad_call *c)
{
    struct conv_dims d = conv_call_of(c).d;
    return d.cg == 1 && d.fg == 1 && d.k[0] <= MAX_TAPS && d.k[1] <= MAX_TAPS;
}

#endif
