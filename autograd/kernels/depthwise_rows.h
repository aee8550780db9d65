/* Which rows of an image a row of a depthwise convolution's result reads, and those rows in f32. */
#ifndef TRIAD_AUTOGRAD_KERNELS_DEPTHWISE_ROWS_H
#define TRIAD_AUTOGRAD_KERNELS_DEPTHWISE_ROWS_H

#include "autograd/kernels/simd.h"
#include "autograd/ops/conv.h"

enum { MAX_TAPS = 32 };

/* The taps of one axis that reach inside the source, and which row of it they read. */
struct reach {
    int64_t n, tap[MAX_TAPS], row[MAX_TAPS];
};

/* Forward: position i of y reads x at i s - p + u d. */
static inline struct reach reach_forward(const struct conv_dims *d, int axis, int64_t i)
{
    struct reach r = {.n = 0};
    for (int64_t u = 0; u < d->k[axis]; u++) {
        int64_t at = i * d->stride[axis] - d->pad[axis] + u * d->dilation[axis];
        if (at < 0 || at >= d->h[axis]) continue;
        r.tap[r.n] = u;
        r.row[r.n++] = at;
    }
    return r;
}

/* Backward: position i of x reads y at (i + p - u d) / s where that is whole. */
static inline struct reach reach_backward(const struct conv_dims *d, int axis, int64_t i)
{
    struct reach r = {.n = 0};
    for (int64_t u = 0; u < d->k[axis]; u++) {
        int64_t at = i + d->pad[axis] - u * d->dilation[axis];
        if (at < 0 || at % d->stride[axis] || at / d->stride[axis] >= d->out[axis]) continue;
        r.tap[r.n] = u;
        r.row[r.n++] = at / d->stride[axis];
    }
    return r;
}

/* Rows of an image (rows, width, c) of any type as f32, channels from .. to-1 of them. */
struct rows {
    const void *image;
    enum ad_dtype type;
    int64_t width, c, from, to;
    float *room;                  /* for 16 bits: `slots` rows, as many as a row of the result reads */
    int64_t slots, row[MAX_TAPS]; /* which row is in which slot */
};

static inline int64_t rows_room(enum ad_dtype type, int64_t slots, int64_t width, int64_t c)
{
    return ad_is_half(type) ? whole_lines(slots * width * c) : 0;
}

static inline void rows_begin(struct rows *s, const void *image)
{
    s->image = image;
    for (int64_t i = 0; i < s->slots; i++) s->row[i] = -1;
}

static inline void widen_row(const struct rows *s, int64_t row, float *to)
{
    const void *from = at_as(s->type, s->image, row * s->width * s->c);
    if (s->to - s->from == s->c) {
        vf_widen(s->type, from, to, s->width * s->c);
        return;
    }
    for (int64_t i = s->from; i < s->width * s->c; i += s->c)
        vf_widen(s->type, at_as(s->type, from, i), to + i, s->to - s->from);
}

/* Where h's rows are in f32; h then counts rows from there. */
static inline const float *rows_of(struct rows *s, struct reach *h)
{
    bool used[MAX_TAPS] = {false}, there[MAX_TAPS] = {false};
    if (s->type == AD_F32) return s->image;
    for (int64_t a = 0; a < h->n; a++)
        for (int64_t i = 0; i < s->slots && !there[a]; i++)
            if (s->row[i] == h->row[a]) {
                used[i] = there[a] = true;
                h->row[a] = i;
            }
    for (int64_t a = 0, i = 0; a < h->n; a++) {
        if (there[a]) continue;
        while (used[i]) i++;
        used[i] = true;
        widen_row(s, h->row[a], s->room + i * s->width * s->c);
        s->row[i] = h->row[a];
        h->row[a] = i;
    }
    return s->room;
}

#endif
