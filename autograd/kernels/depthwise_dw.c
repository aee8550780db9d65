/* The gradient of a depthwise convolution's weights: fixed ranges of rows are summed, then the ranges in order. By tiles
 * (depthwise_tiles.h) or pixel by pixel, in f32; images in 16 bits are widened row by row. */
#pragma GCC optimize("O3")
#include <string.h>

#include "autograd/kernels/depthwise_tiles.h"
#include "base/isa.h"
#include "base/threads.h"

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
        struct every_third x = every_third(k->src + (inside ? k->rows->row[a] * k->row_size + at->first + ch : 0),
                                           inside ? columns : 0, c);
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
 * cut into few of them. Channels, whose sums are their own, go over the threads evenly if they can. */
struct dw_cut {
    int64_t parts, rows, chunks, channels;
};
static struct dw_cut dw_cut_of(const struct conv_dims *d, int threads)
{
    enum { MIN_CHANNELS = 64, MAX_CHUNKS = 8, FEW_CHANNELS = 32 };
    int64_t rows = d->n * d->out[0], taps = d->k[0] * d->k[1];
    int64_t parts = max_of(1, min_of(min_of(MAX_PARTS, rows), rows * d->out[1] / (16 * taps)));
    struct dw_cut c = {.rows = (rows + parts - 1) / parts};
    c.parts = c.rows ? (rows + c.rows - 1) / c.rows : 1;
    c.chunks = max_of(1, min_of(min_of(MAX_CHUNKS, MAX_PARTS / c.parts), d->c / MIN_CHANNELS));
    while (c.parts * c.chunks % threads && (c.chunks + 1) * FEW_CHANNELS <= d->c && c.parts * c.chunks < 4 * threads)
        c.chunks++;
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
    j->cut = dw_cut_of(d, threads);
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

static size_t scratch_dw(const struct ad_call *c)
{
    struct conv_call k = conv_call_of(c);
    struct dw_cut cut = dw_cut_of(&k.d, 1);
    return (size_t)(whole_lines(k.d.c) + sums_room(&k, &cut) + cut.parts * part_room(&k)) * sizeof(float);
}

const struct ad_kernel ISA_FN(ad_kernels_depthwise_dw)[] = {
    {&ad_op_conv2d_dw, AD_F32, is_depthwise, NULL, scratch_dw, "depthwise", 3, 1, cut_dw},
    {0},
};
