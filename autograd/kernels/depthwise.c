/* Depthwise convolution (one channel a group): no products, only vectors over the channels. Arithmetic is f32. Of images in
 * 16 bits a row is widened when it is first read, and kept as long as rows of the result read it; the result's are rounded
 * one by one.
 *
 * Kernels 3 or 5 wide with steps of 1 or 2 go by tiles (depthwise_tiles.h), others pixel by pixel. Both serve conv2d and
 * conv2d_transpose, since both list, for a row, the rows that it reads and through which taps. */
#pragma GCC optimize("O3")
#include <string.h>

#include "autograd/kernels/depthwise_tiles.h"
#include "autograd/kernels/stream.h"
#include "base/isa.h"
#include "base/threads.h"

/* ---- tiles ---------------------------------------------------------------------------------------------------------- */

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
        struct every_third x = every_third(k->src + (inside ? k->rows->row[a] * k->row_size + at->first + ch : 0),
                                           inside ? columns : 0, c);
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
#define TILE(name, f, kw, s)                                            \
    static void name(const struct tile *k, const struct columns_at *at) \
    {                                                                   \
        if (at->inside)                                                 \
            tile_all(k, at, f, kw, s, true);                            \
        else                                                            \
            tile_all(k, at, f, kw, s, false);                           \
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

static size_t scratch(const struct ad_call *c)
{
    struct job j = job_of(c);
    const struct conv_dims *d = &j.d;
    int64_t tasks = (d->n * j.size[0] + j.rows - 1) / j.rows;
    int64_t weights = rows_room(j.weights->dtype, d->k[0] * d->k[1], 1, d->c);
    return (size_t)(whole_lines(d->c) + weights + tasks * task_room(&j)) * sizeof(float);
}

const struct ad_kernel ISA_FN(ad_kernels_depthwise)[] = {
    {&ad_op_conv2d, AD_F32, is_depthwise, NULL, scratch, "depthwise", 3, 1, cut},
    {&ad_op_conv2d_transpose, AD_F32, is_depthwise, NULL, scratch, "depthwise", 3, 1, cut},
    {0},
};
