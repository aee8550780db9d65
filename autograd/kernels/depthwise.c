/* Depthwise convolution (one channel a group): no products, only vectors over the channels. Arithmetic is f32. Of images in
 * 16 bits a row is widened when it is first read, and kept as long as rows of the result read it; the result's are rounded
 * one by one.
 *
 * Kernels 3 or 5 wide with steps of 1 or 2 go by tiles: several neighbouring columns of a row of the result in registers,
 * for one vector of channels after the other, so that memory is read in the order in which it lies. Columns beside the
 * image are read from a row of zeros. Others go pixel by pixel. Both serve conv2d and conv2d_transpose, since both list,
 * for a row, the rows that it reads and through which taps. conv2d_dw sums fixed ranges of rows, then the ranges in
 * order. */
#pragma GCC optimize("O3")
#include <string.h>

#include "autograd/kernels/depthwise_rows.h"
#include "autograd/kernels/stream.h"
#include "base/isa.h"
#include "base/threads.h"

enum { MAX_COLUMNS = 16, MAX_PARTS = 32 };
enum { LINE = 16 }; /* numbers of a cache line */

static int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
static int64_t max_of(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* The row behind all of them. */
static int64_t row_behind(const struct reach *r)
{
    return r->n ? max_of(r->row[0], r->row[r->n - 1]) + 1 : 0;
}

/* ---- tiles ---------------------------------------------------------------------------------------------------------- */

/* Where a tile's columns are: in a row that it reads from `first` on, c numbers apart; or, where some are beside the image,
 * which are zeros then, or results beside theirs, as `at` lists them for row a of these. */
struct columns_at {
    int64_t first;
    bool inside; /* none are listed */
    const float *at[MAX_TAPS][MAX_COLUMNS];
};

/* `columns` from column x on of rows `width` wide; they are listed where some are outside, or not `whole`. */
static void find_columns(struct columns_at *k, const struct reach *rows, const float *src, const float *zeros,
                         int64_t x, int columns, int64_t width, int64_t c, bool whole)
{
    k->first = x * c;
    k->inside = whole && x >= 0 && x + columns <= width;
    for (int64_t a = 0; a < rows->n && !k->inside; a++) {
        const float *row = src + (rows->row[a] * width + x) * c;
        for (int q = 0; q < columns; q++) k->at[a][q] = x + q < 0 || x + q >= width ? zeros : row + q * c;
    }
}

/* What a tile reads and writes: results first .. last-1, c numbers apart. */
struct tile {
    const struct reach *rows;
    const float *src, *zeros, *w;
    int64_t row_size, c;
    float *to;
    int first, last;
    bool stream;        /* results are written past the caches (stream.h) */
    const float *ahead; /* a piece as large as the tile's new columns, of a row that is read next */
};

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

/* Channels ch .. ch+n-1: the results' sums. */
SIMD_FN void tile_sums(const struct tile *k, const struct columns_at *at, enum form f, int kw, int s, bool inside,
                       int64_t ch, int64_t n, vf sum[8])
{
    const int results = results_of(f, s), columns = columns_of(f, kw, s);
    const int64_t c = k->c;
    ask(k->ahead, f == SPREAD ? 4 : 8, ch);
    if (f == FORWARD && s == 2) ask(k->ahead + k->row_size, 8, ch);
#pragma GCC unroll 8
    for (int t = 0; t < results; t++) sum[t] = (vf){0};
    for (int64_t a = 0; a < k->rows->n; a++) {
        const float *w = k->w + k->rows->tap[a] * kw * c + ch;
        struct every_third x =
            every_third(k->src + k->rows->row[a] * k->row_size + at->first + ch, inside ? columns : 0, c);
        vf tap[5];
#pragma GCC unroll 5
        for (int v = 0; v < kw; v++) tap[v] = vf_get(w + v * c, n);
#pragma GCC unroll 16
        for (int q = 0; q < columns; q++) {
            vf y = vf_get(inside ? column_of(x, q, c) : at->at[a][q] + ch, n);
#pragma GCC unroll 8
            for (int t = 0; t < results; t++)
                if (tap_of(f, kw, s, t, q) >= 0) sum[t] += y * tap[tap_of(f, kw, s, t, q)];
        }
    }
}

SIMD_FN void tile_channels(const struct tile *k, const struct columns_at *at, enum form f, int kw, int s, bool inside,
                           int64_t ch, int64_t n)
{
    vf sum[8];
    tile_sums(k, at, f, kw, s, inside, ch, n, sum);
    struct every_third to = every_third(k->to + ch, inside ? results_of(f, s) : 0, k->c);
#pragma GCC unroll 8
    for (int t = 0; t < results_of(f, s); t++)
        if (inside)
            vf_put((float *)(uintptr_t)column_of(to, t, k->c), sum[t], n);
        else if (t >= k->first && t < k->last)
            vf_put(k->to + t * k->c + ch, sum[t], n);
}

/* A line of channels, past the caches: all of it at once. */
SIMD_FN void tile_line(const struct tile *k, const struct columns_at *at, enum form f, int kw, int s, bool inside,
                       int64_t ch)
{
    vf sum[LINE / VL][8];
#pragma GCC unroll 4
    for (int v = 0; v < LINE / VL; v++) tile_sums(k, at, f, kw, s, inside, ch + v * VL, VL, sum[v]);
#pragma GCC unroll 8
    for (int t = 0; t < results_of(f, s); t++)
        if (inside || (t >= k->first && t < k->last))
            for (int v = 0; v < LINE / VL; v++) vf_stream(k->to + t * k->c + ch + v * VL, sum[v][t]);
}

SIMD_FN void tile_all(const struct tile *k, const struct columns_at *at, enum form f, int kw, int s, bool inside)
{
    const struct tile own = *k; /* which the compiler knows not to change by what is stored */
    int64_t ch = 0;
    if (own.stream) {
        for (; ch < own.c; ch += LINE) tile_line(&own, at, f, kw, s, inside, ch);
        return;
    }
    for (; ch + VL <= own.c; ch += VL) tile_channels(&own, at, f, kw, s, inside, ch, VL);
    if (ch < own.c) tile_channels(&own, at, f, kw, s, inside, ch, own.c - ch);
}

typedef void (*tile_fn)(const struct tile *k, const struct columns_at *at);
#define TILE(name, f, kw, s)                                             \
    static void name(const struct tile *k, const struct columns_at *at) \
    {                                                                    \
        if (at->inside)                                                  \
            tile_all(k, at, f, kw, s, true);                             \
        else                                                             \
            tile_all(k, at, f, kw, s, false);                            \
    }
TILE(forward_3_1, FORWARD, 3, 1)
TILE(forward_3_2, FORWARD, 3, 2)
TILE(forward_5_1, FORWARD, 5, 1)
TILE(forward_5_2, FORWARD, 5, 2)
TILE(flipped_3, FLIPPED, 3, 1)
TILE(flipped_5, FLIPPED, 5, 1)
TILE(spread_3, SPREAD, 3, 2)
TILE(spread_5, SPREAD, 5, 2)

/* One of the two directions, along the rows: tiles of `results` columns of the result from column `start` on; a tile's
 * first column reads the source from column (start + p) / step + base on. */
struct plan {
    enum form form;
    int kw, s, results, columns;
    tile_fn run;
    int64_t start;
};

static bool has_tiles(const struct conv_dims *d)
{
    return (d->k[1] == 3 || d->k[1] == 5) && d->stride[1] <= 2 && d->dilation[1] == 1;
}

static struct plan plan_of(const struct conv_dims *d, bool back)
{
    static const tile_fn forward[2][2] = {{forward_3_1, forward_3_2}, {forward_5_1, forward_5_2}};
    static const tile_fn backward[2][2] = {{flipped_3, spread_3}, {flipped_5, spread_5}};
    struct plan p = {.kw = (int)d->k[1], .s = (int)d->stride[1]};
    p.form = !back ? FORWARD : p.s == 1 ? FLIPPED : SPREAD;
    p.results = results_of(p.form, p.s);
    p.columns = columns_of(p.form, p.kw, p.s);
    p.run = (back ? backward : forward)[p.kw == 5][p.s - 1];
    p.start = p.form == SPREAD ? -(d->pad[1] & 1) : 0;
    return p;
}

/* The source's column that the tile at result column j reads first. */
static int64_t first_column(const struct plan *p, const struct conv_dims *d, int64_t j)
{
    if (p->form == FORWARD) return j * p->s - d->pad[1];
    if (p->form == FLIPPED) return j + d->pad[1] - (p->kw - 1);
    return (j + d->pad[1]) / 2 - (p->kw - 1) / 2;
}

/* One row of the result: `width` columns, from an image whose rows have src_w columns. */
static void tile_row(const struct plan *p, const struct conv_dims *d, struct tile *k, int64_t src_w, int64_t width,
                     float *to)
{
    struct columns_at at;
    for (int64_t j = p->start; j < width; j += p->results) {
        int64_t x = first_column(p, d, j);
        bool whole = j >= 0 && j + p->results <= width;
        find_columns(&at, k->rows, k->src, k->zeros, x, p->columns, src_w, k->c, whole);
        k->first = (int)max_of(0, -j);
        k->last = (int)min_of(p->results, width - j);
        k->to = to + j * k->c;
        k->ahead = k->src + (row_behind(k->rows) * src_w + max_of(0, x)) * k->c;
        p->run(k, &at);
    }
}

/* ---- pixel by pixel --------------------------------------------------------------------------------------------------- */

/* to[c] = sum over taps of src[row, col, c] w[u, v, c] */
static void pixel(const struct reach *h, const struct reach *v, const float *src, int64_t src_w, const float *w,
                  int64_t kw, int64_t c, float *to)
{
    for (int64_t ch = 0; ch < c; ch += VL) {
        int64_t n = min_of(VL, c - ch);
        vf sum = {0};
        for (int64_t a = 0; a < h->n; a++)
            for (int64_t b = 0; b < v->n; b++)
                sum += vf_get(src + (h->row[a] * src_w + v->row[b]) * c + ch, n) *
                       vf_get(w + (h->tap[a] * kw + v->tap[b]) * c + ch, n);
        vf_put(to + ch, sum, n);
    }
}

/* A call of conv2d or conv2d_transpose: `to` from `src`. */
struct job {
    struct conv_dims d;
    bool back, tiles, stream;
    const struct ad_tensor *src, *to, *weights;
    const float *w, *zeros;
    int64_t from[2], size[2]; /* the images' sizes, in src and in to */
    struct plan plan;
    int64_t rows; /* of the result, which a task takes one after the other */
};
_Static_assert(sizeof(struct job) <= AD_JOB_BYTES, "a job lies in struct ad_parts");

static struct job job_of(const struct ad_call *c)
{
    struct conv_call k = conv_call_of(c);
    struct job j = {.d = k.d, .back = c->op == &ad_op_conv2d_transpose, .tiles = has_tiles(&k.d), .weights = k.w};
    j.src = j.back ? k.y : k.x;
    j.to = j.back ? k.x : k.y;
    for (int i = 0; i < 2; i++) {
        j.from[i] = j.back ? k.d.out[i] : k.d.h[i];
        j.size[i] = j.back ? k.d.h[i] : k.d.out[i];
    }
    if (j.tiles) j.plan = plan_of(&k.d, j.back);
    bool half = ad_is_half(j.src->dtype) || ad_is_half(j.to->dtype);
    j.rows = half ? max_of(1, (k.d.n * j.size[0] + MAX_PARTS - 1) / MAX_PARTS) : 1;
    return j;
}

/* One row of the result, which reads h's rows of src. */
static void one_row(const struct job *j, const struct reach *h, const float *src, float *to)
{
    const struct conv_dims *d = &j->d;
    if (j->tiles) {
        struct tile t = {.rows = h, .src = src, .zeros = j->zeros, .w = j->w, .row_size = j->from[1] * d->c, .c = d->c};
        t.stream = j->stream;
        tile_row(&j->plan, d, &t, j->from[1], j->size[1], to);
        if (j->stream) stream_end();
        return;
    }
    for (int64_t i = 0; i < j->size[1]; i++) {
        struct reach v = j->back ? reach_backward(d, 1, i) : reach_forward(d, 1, i);
        pixel(h, &v, src, j->from[1], j->w, d->k[1], d->c, to + i * d->c);
    }
}

/* What a task has: rows of src, and one of the result. */
static int64_t task_room(const struct job *j)
{
    int64_t slots = j->d.k[0];
    return rows_room(j->src->dtype, slots, j->from[1], j->d.c) + rows_room(j->to->dtype, 1, j->size[1], j->d.c);
}

/* Rows task * j->rows .. of the result. */
static void run_task(const struct job *j, int64_t task, float *room)
{
    const struct conv_dims *d = &j->d;
    enum ad_dtype type = j->src->dtype, to_type = j->to->dtype;
    int64_t size = j->from[0] * j->from[1] * d->c, line = j->size[1] * d->c, first = task * j->rows;
    struct rows s = {.type = type, .width = j->from[1], .c = d->c, .to = d->c, .room = room, .slots = d->k[0]};
    float *wide = room + rows_room(type, s.slots, s.width, s.c);
    for (int64_t r = first; r < min_of(first + j->rows, d->n * j->size[0]); r++) {
        int64_t image = r / j->size[0], i = r % j->size[0];
        struct reach h = j->back ? reach_backward(d, 0, i) : reach_forward(d, 0, i);
        if (r == first || i == 0) rows_begin(&s, at_as(type, j->src->data, image * size));
        const float *src = rows_of(&s, &h);
        void *to = at_as(to_type, j->to->data, r * line);
        one_row(j, &h, src, ad_is_half(to_type) ? wide : to);
        if (ad_is_half(to_type)) vf_narrow(to_type, wide, to, line);
    }
}

/* Where things lie in the scratch: a row of zeros; w, where it is widened; the tasks' rooms. */
static float *weights_room(const struct ad_call *c, const struct job *j)
{
    return (float *)c->scratch + whole_lines(j->d.c);
}
static float *rooms(const struct ad_call *c, const struct job *j)
{
    return weights_room(c, j) + rows_room(j->weights->dtype, j->d.k[0] * j->d.k[1], 1, j->d.c);
}

static void begin(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct job *j = job;
    const struct ad_tensor *w = j->weights;
    if (j->tiles) memset(c->scratch, 0, (size_t)j->d.c * sizeof(float));
    if (ad_is_half(w->dtype)) vf_widen(w->dtype, w->data, weights_room(c, j), ad_count(w->shape));
}

static void run_tasks(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct job *j = job;
    for (int64_t t = from; t < to; t++) run_task(j, t, rooms(c, j) + t * task_room(j));
}

static void cut(const struct ad_call *c, int threads, struct ad_parts *p)
{
    struct job *j = (void *)p->job;
    *j = job_of(c);
    const struct conv_dims *d = &j->d;
    int64_t rows = d->n * j->size[0], count = rows * j->size[1] * d->c;
    j->zeros = c->scratch;
    j->w = ad_is_half(j->weights->dtype) ? weights_room(c, j) : j->weights->data;
    j->stream = VL >= 8 && j->tiles && j->to->dtype == AD_F32 && stream_pays(j->to->data, d->c, count);
    p->n = 2;
    p->phase[0] = (struct ad_phase){.items = 1, .run = begin, .alone = true};
    p->phase[1] = (struct ad_phase){
        .items = (rows + j->rows - 1) / j->rows, .run = run_tasks, .alone = count * d->k[0] * d->k[1] <= PAR_MIN};
}

/* ---- conv2d_dw ------------------------------------------------------------------------------------------------------ */

/* w[u, v] += sum over the tile's columns of y times what they read. x, y: as in struct tile, y's column t at y[t] or
 * zeros; channels ch .. ch+n-1. */
struct dw_tile {
    const struct reach *rows;
    const float *src;
    int64_t row_size, c;
    const float *y[8];
    float *w;
    const float *ahead, *ahead_y; /* as in struct tile; y's next row */
};

SIMD_FN void dw_channels(const struct dw_tile *k, const struct columns_at *at, int kw, int s, bool inside, int64_t ch,
                         int64_t n)
{
    const int results = results_of(FORWARD, s), columns = columns_of(FORWARD, kw, s);
    const int chains = kw == 3 ? 2 : 1; /* of each sum: three of them are too few to wait for one another */
    const int64_t c = k->c;
    vf y[8];
    ask(k->ahead, 8, ch);
    if (s == 2) ask(k->ahead + k->row_size, 8, ch);
    ask(k->ahead_y, results, ch);
    struct every_third dy = every_third(k->y[0] + ch, inside ? results : 0, c);
#pragma GCC unroll 8
    for (int t = 0; t < results; t++) y[t] = vf_get(inside ? column_of(dy, t, c) : k->y[t] + ch, n);
    for (int64_t a = 0; a < k->rows->n; a++) {
        float *w = k->w + k->rows->tap[a] * kw * c + ch;
        struct every_third x =
            every_third(k->src + k->rows->row[a] * k->row_size + at->first + ch, inside ? columns : 0, c);
        vf sum[2 * 5];
#pragma GCC unroll 5
        for (int v = 0; v < kw; v++) {
            sum[v] = vf_get(w + v * c, n);
            if (chains == 2) sum[kw + v] = (vf){0};
        }
#pragma GCC unroll 16
        for (int q = 0; q < columns; q++) {
            vf e = vf_get(inside ? column_of(x, q, c) : at->at[a][q] + ch, n);
#pragma GCC unroll 8
            for (int t = 0; t < results; t++)
                if (tap_of(FORWARD, kw, s, t, q) >= 0) sum[t % chains * kw + tap_of(FORWARD, kw, s, t, q)] += e * y[t];
        }
#pragma GCC unroll 5
        for (int v = 0; v < kw; v++) vf_put(w + v * c, chains == 2 ? sum[v] + sum[kw + v] : sum[v], n);
    }
}

/* Channels from .. to-1. */
SIMD_FN void dw_all(const struct dw_tile *k, const struct columns_at *at, int kw, int s, bool inside, int64_t from,
                    int64_t to)
{
    const struct dw_tile own = *k;
    int64_t ch = from;
    for (; ch + VL <= to; ch += VL) dw_channels(&own, at, kw, s, inside, ch, VL);
    if (ch < to) dw_channels(&own, at, kw, s, inside, ch, to - ch);
}

typedef void (*dw_fn)(const struct dw_tile *k, const struct columns_at *at, int64_t from, int64_t to);
#define DW(name, kw, s)                                                                              \
    static void name(const struct dw_tile *k, const struct columns_at *at, int64_t from, int64_t to) \
    {                                                                                                \
        if (at->inside)                                                                              \
            dw_all(k, at, kw, s, true, from, to);                                                    \
        else                                                                                         \
            dw_all(k, at, kw, s, false, from, to);                                                   \
    }
DW(dw_3_1, 3, 1)
DW(dw_3_2, 3, 2)
DW(dw_5_1, 5, 1)
DW(dw_5_2, 5, 2)

/* y's row of one image, which reads h's rows of x, channels from .. to-1: adds to every tap. */
static void dw_row_tiles(const struct conv_dims *d, const struct reach *h, const float *x, const float *y,
                         const float *zeros, int64_t from, int64_t to, float *w)
{
    static const dw_fn table[2][2] = {{dw_3_1, dw_3_2}, {dw_5_1, dw_5_2}};
    dw_fn run_tile = table[d->k[1] == 5][d->stride[1] - 1];
    struct dw_tile k = {.rows = h, .src = x, .row_size = d->h[1] * d->c, .c = d->c, .w = w};
    struct columns_at at;
    int kw = (int)d->k[1], s = (int)d->stride[1], results = results_of(FORWARD, s),
        columns = columns_of(FORWARD, kw, s);
    for (int64_t j = 0; j < d->out[1]; j += results) {
        int64_t first = j * s - d->pad[1];
        find_columns(&at, h, x, zeros, first, columns, d->h[1], d->c, j + results <= d->out[1]);
        k.ahead = x + (row_behind(h) * d->h[1] + max_of(0, first)) * d->c;
        k.ahead_y = y + (d->out[1] + j) * d->c;
        for (int t = 0; t < results; t++) k.y[t] = j + t < d->out[1] ? y + (j + t) * d->c : zeros;
        run_tile(&k, &at, from, to);
    }
}

static void dw_row_pixels(const struct conv_dims *d, const struct reach *h, const float *x, const float *y,
                          int64_t from, int64_t to, float *w)
{
    for (int64_t j = 0; j < d->out[1]; j++) {
        struct reach v = reach_forward(d, 1, j);
        const float *dy = y + j * d->c;
        for (int64_t a = 0; a < h->n; a++)
            for (int64_t b = 0; b < v.n; b++) {
                const float *e = x + (h->row[a] * d->h[1] + v.row[b]) * d->c;
                float *sum = w + (h->tap[a] * d->k[1] + v.tap[b]) * d->c;
                for (int64_t ch = from; ch < to; ch++) sum[ch] += e[ch] * dy[ch];
            }
    }
}

/* Tasks: ranges of rows x ranges of channels. Adding the ranges up takes taps x channels each, so that few positions are
 * cut into few of them. */
struct dw_cut {
    int64_t parts, rows, chunks, channels;
};
static struct dw_cut dw_cut_of(const struct conv_dims *d)
{
    enum { MIN_CHANNELS = 64, MAX_CHUNKS = 8 };
    int64_t rows = d->n * d->out[0], taps = d->k[0] * d->k[1];
    int64_t parts = max_of(1, min_of(min_of(MAX_PARTS, rows), rows * d->out[1] / (16 * taps)));
    struct dw_cut c = {.rows = (rows + parts - 1) / parts};
    c.parts = c.rows ? (rows + c.rows - 1) / c.rows : 1;
    c.chunks = max_of(1, min_of(min_of(MAX_CHUNKS, MAX_PARTS / c.parts), d->c / MIN_CHANNELS));
    c.channels = ((d->c + c.chunks - 1) / c.chunks + 15) / 16 * 16;
    return c;
}

/* Where the sums of a range lie: in w itself, if there is one range and w is f32. */
static int64_t sums_room(const struct conv_call *k, const struct dw_cut *cut)
{
    int64_t size = k->d.k[0] * k->d.k[1] * k->d.c;
    return cut->parts > 1 || ad_is_half(k->w->dtype) ? whole_lines(cut->parts * size) : 0;
}
static int64_t part_room(const struct conv_call *k)
{
    const struct conv_dims *d = &k->d;
    return rows_room(k->x->dtype, d->k[0], d->h[1], d->c) + rows_room(k->y->dtype, 1, d->out[1], d->c);
}

/* Range p of rows, channels from .. to-1, added to `sum`. Tasks of one range share its room: their channels differ. */
static void dw_task(const struct conv_call *k, const struct dw_cut *cut, int64_t p, int64_t from, int64_t to,
                    const float *zeros, float *room, float *sum)
{
    const struct conv_dims *d = &k->d;
    struct rows x = {.type = k->x->dtype, .width = d->h[1], .c = d->c, .from = from, .to = to, .slots = d->k[0]};
    struct rows y = {.type = k->y->dtype, .width = d->out[1], .c = d->c, .from = from, .to = to, .slots = 1};
    x.room = room;
    y.room = room + rows_room(x.type, x.slots, x.width, x.c);
    for (int64_t i = 0; i < d->k[0] * d->k[1]; i++) memset(sum + i * d->c + from, 0, (size_t)(to - from) * sizeof *sum);
    int64_t first = p * cut->rows, last = min_of(first + cut->rows, d->n * d->out[0]);
    for (int64_t r = first; r < last; r++) {
        int64_t n = r / d->out[0], i = r % d->out[0];
        struct reach h = reach_forward(d, 0, i), own = {.n = 1, .row = {i}};
        if (r == first || i == 0) {
            rows_begin(&x, at_as(x.type, k->x->data, n * d->h[0] * d->h[1] * d->c));
            rows_begin(&y, at_as(y.type, k->y->data, n * d->out[0] * d->out[1] * d->c));
        }
        const float *image = rows_of(&x, &h), *dy = rows_of(&y, &own);
        dy += own.row[0] * d->out[1] * d->c;
        if (has_tiles(d))
            dw_row_tiles(d, &h, image, dy, zeros, from, to, sum);
        else
            dw_row_pixels(d, &h, image, dy, from, to, sum);
    }
}

/* Elements at .. at+n-1 of w: the ranges' sums, in order. */
enum { PIECE = 256 };
static void add_up(const struct ad_tensor *w, const float *sums, int64_t size, int64_t parts, int64_t at, int64_t n)
{
    float sum[PIECE];
    memcpy(sum, sums + at, (size_t)n * sizeof *sum);
    for (int64_t p = 1; p < parts; p++)
        for (int64_t i = 0; i < n; i++) sum[i] += sums[p * size + at + i];
    vf_narrow(w->dtype, sum, at_as(w->dtype, w->data, at), n);
}

struct dw_job {
    struct conv_call k;
    struct dw_cut cut;
    float *zeros, *sums, *room;
    bool apart; /* the ranges' sums, to be added up */
};
_Static_assert(sizeof(struct dw_job) <= AD_JOB_BYTES, "a job lies in struct ad_parts");

static int64_t dw_size(const struct dw_job *j)
{
    return j->k.d.k[0] * j->k.d.k[1] * j->k.d.c;
}

static void begin_dw(const struct ad_call *c, const void *job, int64_t first, int64_t last)
{
    memset(c->scratch, 0, (size_t)((const struct dw_job *)job)->k.d.c * sizeof(float));
}

static void run_dw(const struct ad_call *c, const void *job, int64_t first, int64_t last)
{
    const struct dw_job *j = job;
    const struct dw_cut *cut = &j->cut;
    for (int64_t t = first; t < last; t++) {
        int64_t p = t / cut->chunks, from = t % cut->chunks * cut->channels,
                to = min_of(j->k.d.c, from + cut->channels);
        float *sum = j->apart ? j->sums + p * dw_size(j) : j->k.w->data;
        if (from < to) dw_task(&j->k, cut, p, from, to, j->zeros, j->room + p * part_room(&j->k), sum);
    }
}

static void run_add_up(const struct ad_call *c, const void *job, int64_t first, int64_t last)
{
    const struct dw_job *j = job;
    int64_t size = dw_size(j);
    for (int64_t i = first * PIECE; i < min_of(size, last * PIECE); i += PIECE)
        add_up(j->k.w, j->sums, size, j->cut.parts, i, min_of(PIECE, size - i));
}

static void cut_dw(const struct ad_call *c, int threads, struct ad_parts *p)
{
    struct dw_job *j = (void *)p->job;
    j->k = conv_call_of(c);
    const struct conv_dims *d = &j->k.d;
    j->cut = dw_cut_of(d);
    j->zeros = c->scratch;
    j->sums = j->zeros + whole_lines(d->c);
    j->room = j->sums + sums_room(&j->k, &j->cut);
    j->apart = sums_room(&j->k, &j->cut) > 0;
    bool alone = d->n * d->out[0] * d->out[1] * dw_size(j) <= PAR_MIN;
    p->n = 2 + j->apart;
    p->phase[0] = (struct ad_phase){.items = 1, .run = begin_dw, .alone = true};
    p->phase[1] =
        (struct ad_phase){.items = j->cut.parts * j->cut.chunks, .run = run_dw, .dynamic = true, .alone = alone};
    p->phase[2] = (struct ad_phase){.items = (dw_size(j) + PIECE - 1) / PIECE, .run = run_add_up, .alone = alone};
}

/* ---- which ---------------------------------------------------------------------------------------------------------- */

static size_t scratch(const struct ad_call *c)
{
    struct job j = job_of(c);
    const struct conv_dims *d = &j.d;
    int64_t tasks = (d->n * j.size[0] + j.rows - 1) / j.rows;
    int64_t weights = rows_room(j.weights->dtype, d->k[0] * d->k[1], 1, d->c);
    return (size_t)(whole_lines(d->c) + weights + tasks * task_room(&j)) * sizeof(float);
}
static size_t scratch_dw(const struct ad_call *c)
{
    struct conv_call k = conv_call_of(c);
    struct dw_cut cut = dw_cut_of(&k.d);
    return (size_t)(whole_lines(k.d.c) + sums_room(&k, &cut) + cut.parts * part_room(&k)) * sizeof(float);
}

static bool accepts(const struct ad_call *c)
{
    struct conv_dims d = conv_call_of(c).d;
    return d.cg == 1 && d.fg == 1 && d.k[0] <= MAX_TAPS && d.k[1] <= MAX_TAPS;
}

const struct ad_kernel ISA_FN(ad_kernels_depthwise)[] = {
    {&ad_op_conv2d, AD_F32, accepts, NULL, scratch, "depthwise", 3, 1, cut},
    {&ad_op_conv2d_transpose, AD_F32, accepts, NULL, scratch, "depthwise", 3, 1, cut},
    {&ad_op_conv2d_dw, AD_F32, accepts, NULL, scratch_dw, "depthwise", 3, 1, cut_dw},
    {0},
};
