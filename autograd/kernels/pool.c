/* Pooling and resizing of f32 and of what is kept in 16 bits: vectors over the channels, threads over rows of the result.
 * Numbers are compared and summed in f32; a result in 16 bits is rounded once, a strip of channels at a time. The gradient
 * of max pooling, which adds where windows overlap, goes over images, or over bands of them. */
#pragma GCC optimize("O3")
#include "autograd/ops/pool.h"

#include <limits.h>
#include <string.h>

#include "autograd/kernels/simd.h"
#include "autograd/ops/resample.h"
#include "base/isa.h"
#include "base/threads.h"

enum { STRIP = 256 }; /* channels */

static int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Where n channels are made in f32, from element `at` of y on: in their place, or in `room`; and brought to their place. */
static float *begin_strip(const struct ad_tensor *y, int64_t at, float *room)
{
    return y->dtype == AD_F32 ? (float *)y->data + at : room;
}
static void end_strip(const struct ad_tensor *y, int64_t at, const float *room, int64_t n)
{
    if (y->dtype != AD_F32) vf_narrow(y->dtype, room, at_as(y->dtype, y->data, at), n);
}
/* Channels at a time: all where there is nothing to bring. */
static int64_t strip_of(const struct ad_tensor *y, int64_t width)
{
    return y->dtype == AD_F32 ? width : STRIP;
}

/* ---- max pooling ---------------------------------------------------------------------------------------------------- */

/* Keeps the larger of x and what is there; element c of x is number from + c of its tensor. */
SIMD_FN void max_step(enum ad_dtype t, int64_t n, const void *x, int32_t from, float *y, int32_t *index)
{
    int64_t c = 0;
    vi lane;
    for (int i = 0; i < VL; i++) lane[i] = i;
    for (; c + VL <= n; c += VL) {
        vf v = vf_load_as(t, x, c), top = vf_load(y + c), here = (vf)(lane + (from + (int32_t)c)), there;
        memcpy(&there, index + c, sizeof there);
        vm more = vf_lt(top, v) | (vf_ne(v, v) & vf_eq(top, top));
        there = vf_pick(more, here, there);
        memcpy(index + c, &there, sizeof there);
        vf_store(y + c, vf_pick(more, v, top));
    }
    for (; c < n; c++) {
        float v = float_as(t, x, c);
        bool more = (v > y[c]) | ((v != v) & (y[c] == y[c]));
        index[c] = more ? from + (int32_t)c : index[c];
        y[c] = more ? v : y[c];
    }
}

/* Rows lo[0] .. hi[0]-1 and columns lo[1] .. hi[1]-1 of an image, whose first element is `first` of x. */
struct window {
    int64_t lo[2], hi[2], first, columns, width;
    const void *x;
};

/* Of channels ch .. ch+n-1. */
SIMD_FN void max_window(enum ad_dtype t, const struct window *w, int64_t ch, int64_t n, float *y, int32_t *index)
{
    for (int64_t p = w->lo[0]; p < w->hi[0]; p++)
        for (int64_t q = w->lo[1]; q < w->hi[1]; q++) {
            int64_t e = w->first + (p * w->columns + q) * w->width + ch;
            if (p > w->lo[0] || q > w->lo[1]) {
                max_step(t, n, at_as(t, w->x, e), (int32_t)e, y, index);
                continue;
            }
            vf_widen_as(t, at_as(t, w->x, e), y, n);
            for (int64_t k = 0; k < n; k++) index[k] = (int32_t)(e + k);
        }
}

static void run_max(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct pool_attr *a = c->attr;
    const struct ad_tensor *out = &c->out[0];
    struct ad_shape x = c->in[0].shape, y = out->shape;
    int64_t width = x.dim[3], strip = strip_of(out, width), image = x.dim[1] * x.dim[2] * width;
    for (int64_t r = from; r < to; r++)
        for (int64_t j = 0; j < y.dim[2]; j++) {
            float room[STRIP];
            struct window w = {.first = r / y.dim[1] * image, .columns = x.dim[2], .width = width, .x = c->in[0].data};
            pool_window(a, 0, r % y.dim[1], x.dim[1], &w.lo[0], &w.hi[0]);
            pool_window(a, 1, j, x.dim[2], &w.lo[1], &w.hi[1]);
            for (int64_t ch = 0; ch < width; ch += strip) {
                int64_t n = min_of(strip, width - ch), at = (r * y.dim[2] + j) * width + ch;
                float *top = begin_strip(out, at, room);
                BY_TYPE(c->in[0].dtype, max_window, &w, ch, n, top, (int32_t *)c->out[1].data + at);
                end_strip(out, at, room, n);
            }
        }
}

static void cut_max(const struct ad_call *c, int threads, struct ad_parts *p)
{
    const struct pool_attr *a = c->attr;
    struct ad_shape y = c->out[0].shape;
    p->n = 1;
    p->phase[0] = (struct ad_phase){
        .items = y.dim[0] * y.dim[1], .run = run_max, .alone = ad_count(y) * a->kernel[0] * a->kernel[1] <= PAR_MIN};
}

/* ---- the gradient of max pooling ------------------------------------------------------------------------------------ */

/* dx[index - first] += dy for those of n numbers that go to `size` elements of dx. SPARE numbers behind these take the
 * others: several, since an addition must wait for the one before to the same place. */
enum { SPARE = 16 };
SIMD_FN void add_band(enum ad_dtype t, int64_t n, const void *dy, const int32_t *index, int64_t first, uint32_t size,
                      float *dx)
{
    for (int64_t i = 0; i < n; i += VL) {
        int m = (int)min_of(VL, n - i);
        float d[VL];
        vf_store(d, m == VL ? vf_load_as(t, dy, i) : vf_load_part_as(t, dy, i, m));
        for (int k = 0; k < m; k++) {
            uint32_t to = (uint32_t)(index[i + k] - (int32_t)first);
            dx[to < size ? to : size + (uint32_t)k % SPARE] += d[k];
        }
    }
}

SIMD_FN void add_all(enum ad_dtype t, int64_t n, const void *dy, const int32_t *index, float *dx)
{
    for (int64_t i = 0; i < n; i++) dx[index[i]] += float_as(t, dy, i);
}

/* A result in 16 bits is made in bands of BAND numbers of an image that lie in a cache, by TEAM threads at most: the scratch
 * is there for any number of them. low and high: of each row of dy, the first and the last number of dx that it goes to. */
enum { BAND = 1 << 16, TEAM = 16 };
struct bands {
    int64_t rows, row, image, size, per_image; /* rows of dy and their numbers; numbers of an image and of a band */
    int32_t *low, *high;
    float *room; /* a thread: size + SPARE */
};
static struct bands bands_of(const struct ad_call *c)
{
    struct ad_shape x = c->out[0].shape, y = c->in[0].shape;
    struct bands b = {.rows = y.dim[0] * y.dim[1], .row = y.dim[2] * y.dim[3]};
    b.image = x.dim[1] * x.dim[2] * x.dim[3];
    b.size = min_of(BAND, b.image);
    b.per_image = b.image ? (b.image + BAND - 1) / BAND : 0;
    return b;
}
static size_t max_grad_scratch(const struct ad_call *c)
{
    struct bands b = bands_of(c);
    if (!ad_is_half(c->out[0].dtype)) return 0;
    return (size_t)(2 * b.rows) * sizeof *b.low + (size_t)(TEAM * (b.size + SPARE)) * sizeof *b.room;
}

static void find_bounds(const struct bands *b, const int32_t *index, int64_t r)
{
    int32_t low = INT_MAX, high = -1;
    for (int64_t i = r * b->row; i < (r + 1) * b->row; i++) {
        low = index[i] < low ? index[i] : low;
        high = index[i] > high ? index[i] : high;
    }
    b->low[r] = low;
    b->high[r] = high;
}

/* Band t of all images' bands. */
static void run_band(const struct ad_call *c, const struct bands *b, int64_t t, float *sum)
{
    int64_t n = t / b->per_image, per = b->rows / c->in[0].shape.dim[0], at = t % b->per_image * BAND,
            size = min_of(BAND, b->image - at), first = n * b->image + at;
    memset(sum, 0, (size_t)size * sizeof *sum);
    for (int64_t r = n * per; r < (n + 1) * per; r++)
        if (b->low[r] < first + size && b->high[r] >= first) {
            const int32_t *index = (const int32_t *)c->in[1].data + r * b->row;
            const void *dy = at_as(c->in[0].dtype, c->in[0].data, r * b->row);
            BY_TYPE(c->in[0].dtype, add_band, b->row, dy, index, first, (uint32_t)size, sum);
        }
    vf_narrow(c->out[0].dtype, sum, at_as(c->out[0].dtype, c->out[0].data, first), size);
}

/* What the phases know of the call. */
struct band_job {
    struct bands bands;
    int64_t team;
};
_Static_assert(sizeof(struct band_job) <= AD_JOB_BYTES, "a job lies in struct ad_parts");

static void run_bounds(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct bands *b = &((const struct band_job *)job)->bands;
    for (int64_t r = from; r < to; r++) find_bounds(b, c->in[1].data, r);
}

/* Shares from .. to-1 of `team`, each with a room of its own. */
static void run_bands(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct band_job *j = job;
    const struct bands *b = &j->bands;
    int64_t tasks = c->out[0].shape.dim[0] * b->per_image;
    for (int64_t k = from; k < to; k++) {
        float *sum = b->room + k * (b->size + SPARE);
        memset(sum + b->size, 0, SPARE * sizeof *sum);
        for (int64_t t = tasks * k / j->team; t < tasks * (k + 1) / j->team; t++) run_band(c, b, t, sum);
    }
}

static void run_max_grad(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    struct ad_shape x = c->out[0].shape, y = c->in[0].shape;
    int64_t in = x.dim[1] * x.dim[2] * x.dim[3], out = y.dim[1] * y.dim[2] * y.dim[3];
    const int32_t *index = c->in[1].data;
    float *dx = c->out[0].data;
    for (int64_t n = from; n < to; n++) {
        const void *dy = at_as(c->in[0].dtype, c->in[0].data, n * out);
        memset(dx + n * in, 0, (size_t)in * sizeof *dx);
        BY_TYPE(c->in[0].dtype, add_all, out, dy, index + n * out, dx);
    }
}

static void cut_max_grad(const struct ad_call *c, int threads, struct ad_parts *p)
{
    bool alone = ad_count(c->out[0].shape) <= PAR_MIN;
    if (!ad_is_half(c->out[0].dtype)) {
        p->n = 1;
        p->phase[0] = (struct ad_phase){.items = c->out[0].shape.dim[0], .run = run_max_grad, .alone = alone};
        return;
    }
    struct band_job *j = (void *)p->job;
    struct bands *b = &j->bands;
    *b = bands_of(c);
    b->low = c->scratch;
    b->high = b->low + b->rows;
    b->room = (float *)(void *)(b->high + b->rows);
    j->team = min_of(TEAM, threads);
    p->n = 2;
    p->phase[0] = (struct ad_phase){.items = b->rows, .run = run_bounds, .alone = alone};
    p->phase[1] = (struct ad_phase){.items = j->team, .run = run_bands, .alone = alone};
}

/* ---- resizing and averages ------------------------------------------------------------------------------------------ */

SIMD_FN void add_scaled(enum ad_dtype t, int64_t n, float w, const void *x, float *y)
{
    int64_t c = 0;
    for (; c + VL <= n; c += VL) vf_store(y + c, vf_load(y + c) + w * vf_load_as(t, x, c));
    for (; c < n; c++) y[c] += w * float_as(t, x, c);
}

static float weight(const struct resample_tap *v, const struct resample_tap *h, int64_t p, int64_t q)
{
    return (float)((p == v->lo ? v->first : v->rest) * (q == h->lo ? h->first : h->rest));
}

/* What rows and columns of y read, [0] and [1]. Both ends of what they read never go back. */
struct taps {
    const struct resample_tap *of[2];
    int64_t n[2];
};
static struct taps taps_of(const struct ad_call *c)
{
    const struct resample_attr *a = c->attr;
    const struct resample_tap *tap = c->scratch;
    return (struct taps){.of = {tap, tap + a->out[0]}, .n = {a->out[0], a->out[1]}};
}
static void make_taps(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct resample_attr *a = c->attr;
    struct resample_tap *tap = c->scratch;
    for (int k = 0; k < 2; k++)
        for (int64_t i = 0; i < a->out[k]; i++) *tap++ = resample_tap(a, k, i);
}
static size_t taps_scratch(const struct ad_call *c)
{
    const struct resample_attr *a = c->attr;
    return (size_t)(a->out[0] + a->out[1]) * sizeof(struct resample_tap);
}

/* y = the weighted sum of the pixels that v and h name, of n channels; x: the first in the image, `columns` pixels of
 * `width` channels a row. */
SIMD_FN void read_taps(enum ad_dtype t, const struct resample_tap *v, const struct resample_tap *h, const void *x,
                       int64_t columns, int64_t width, int64_t n, float *y)
{
    memset(y, 0, (size_t)n * sizeof *y);
    for (int64_t p = v->lo; p < v->lo + v->n; p++)
        for (int64_t q = h->lo; q < h->lo + h->n; q++)
            add_scaled(t, n, weight(v, h, p, q), at_as(t, x, (p * columns + q) * width), y);
}

static void run_resample(const struct ad_call *c, const void *job, int64_t first, int64_t last)
{
    const struct resample_attr *a = c->attr;
    const struct ad_tensor *x = &c->in[0], *to = &c->out[0];
    struct ad_shape y = to->shape;
    struct taps taps = taps_of(c);
    int64_t width = y.dim[3], strip = strip_of(to, width), image = a->in[0] * a->in[1] * width;
    for (int64_t r = first; r < last; r++)
        for (int64_t j = 0; j < y.dim[2]; j++)
            for (int64_t ch = 0; ch < width; ch += strip) {
                float room[STRIP];
                int64_t n = min_of(strip, width - ch), at = (r * y.dim[2] + j) * width + ch;
                const void *from = at_as(x->dtype, x->data, r / y.dim[1] * image + ch);
                BY_TYPE(x->dtype, read_taps, &taps.of[0][r % y.dim[1]], &taps.of[1][j], from, a->in[1], width, n,
                        begin_strip(to, at, room));
                end_strip(to, at, room, n);
            }
}

/* Rows of the result by `run`, once the taps are made. */
static void cut_by_taps(const struct ad_call *c, struct ad_parts *p,
                        void (*run)(const struct ad_call *c, const void *job, int64_t from, int64_t to))
{
    struct ad_shape y = c->out[0].shape;
    p->n = 2;
    p->phase[0] = (struct ad_phase){.items = 1, .run = make_taps, .alone = true};
    p->phase[1] = (struct ad_phase){
        .items = y.dim[0] * y.dim[1], .run = run, .alone = ad_count(y) + ad_count(c->in[0].shape) <= PAR_MIN};
}

static void cut_resample(const struct ad_call *c, int threads, struct ad_parts *p)
{
    cut_by_taps(c, p, run_resample);
}

/* Rows (or columns) first .. last-1 of y read `at`; `first` is where they began for one before it. */
static int64_t first_reader(const struct taps *t, int axis, int64_t at, int64_t first)
{
    while (first < t->n[axis] && t->of[axis][first].lo + t->of[axis][first].n <= at) first++;
    return first;
}
static int64_t last_reader(const struct taps *t, int axis, int64_t at, int64_t first)
{
    while (first < t->n[axis] && t->of[axis][first].lo <= at) first++;
    return first;
}

/* Pixel at[0], at[1] of an image, which pixels lo .. hi-1 of dy read; in their order. */
struct readers {
    int64_t at[2], lo[2], hi[2];
};
SIMD_FN void add_readers(enum ad_dtype t, const struct taps *taps, const struct readers *r, const void *dy,
                         int64_t width, int64_t n, float *dx)
{
    memset(dx, 0, (size_t)n * sizeof *dx);
    for (int64_t i = r->lo[0]; i < r->hi[0]; i++)
        for (int64_t j = r->lo[1]; j < r->hi[1]; j++)
            add_scaled(t, n, weight(&taps->of[0][i], &taps->of[1][j], r->at[0], r->at[1]),
                       at_as(t, dy, (i * taps->n[1] + j) * width), dx);
}

static void run_resample_adjoint(const struct ad_call *c, const void *job, int64_t first, int64_t last)
{
    const struct ad_tensor *dy = &c->in[0], *to = &c->out[0];
    struct ad_shape x = to->shape, y = dy->shape;
    struct taps taps = taps_of(c);
    int64_t width = x.dim[3], strip = strip_of(to, width), image = y.dim[1] * y.dim[2] * width;
    for (int64_t i = first; i < last; i++) {
        struct readers r = {.at = {i % x.dim[1]}};
        r.lo[0] = first_reader(&taps, 0, r.at[0], 0);
        r.hi[0] = last_reader(&taps, 0, r.at[0], r.lo[0]);
        for (; r.at[1] < x.dim[2]; r.at[1]++) {
            r.lo[1] = first_reader(&taps, 1, r.at[1], r.lo[1]);
            r.hi[1] = last_reader(&taps, 1, r.at[1], r.lo[1]);
            for (int64_t ch = 0; ch < width; ch += strip) {
                float room[STRIP];
                int64_t n = min_of(strip, width - ch), at = (i * x.dim[2] + r.at[1]) * width + ch;
                const void *from = at_as(dy->dtype, dy->data, i / x.dim[1] * image + ch);
                BY_TYPE(dy->dtype, add_readers, &taps, &r, from, width, n, begin_strip(to, at, room));
                end_strip(to, at, room, n);
            }
        }
    }
}

static void cut_resample_adjoint(const struct ad_call *c, int threads, struct ad_parts *p)
{
    cut_by_taps(c, p, run_resample_adjoint);
}

const struct ad_kernel ISA_FN(ad_kernels_pool)[] = {
    {&ad_op_max_pool, AD_F32, NULL, NULL, NULL, "channels", 1, 1, cut_max},
    {&ad_op_max_pool_grad, AD_F32, NULL, NULL, max_grad_scratch, "images", 1, 1, cut_max_grad},
    {&ad_op_resample, AD_F32, NULL, NULL, taps_scratch, "channels", 1, 1, cut_resample},
    {&ad_op_resample_adjoint, AD_F32, NULL, NULL, taps_scratch, "channels", 1, 1, cut_resample_adjoint},
    {0},
};
