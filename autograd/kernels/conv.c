/* Convolution in f32 by products. Positions are gathered into rows of patches (im2col) a block at a time, small enough
 * for the second-level cache, and multiplied at once. conv2d_transpose is the same: the positions of x are split by
 * their residue modulo the stride; those of one residue read a dense window of y through the matching taps of the
 * flipped kernel. So every output is written by one task, and tasks depend on sizes only. conv2d_dw sums fixed ranges
 * of positions, then the ranges in order. Depthwise convolution is in depthwise.c. */
#include "autograd/ops/conv.h"

#include <string.h>

#include "autograd/kernels/gemm.h"
#include "base/isa.h"
#include "base/threads.h"

enum { PATCHES = 1 << 17, RESULT = 1 << 16, DEPTH = 2560, MAX_PARTS = 8 };

/* Each thread's room, on its stack: a block of patches and, where rows of the result are apart, the block's result. */
struct room {
    float patches[PATCHES], result[RESULT];
} __attribute__((aligned(64)));

static int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
static int64_t max_of(int64_t a, int64_t b)
{
    return a > b ? a : b;
}
static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Position i of the grid reads, through tap t, row i * step + base + t * inc, if the source has it. */
struct axis {
    int64_t size, grid, step, base, inc, taps;
};

/* The patches of images (n, h.size, w.size, c) over a grid of positions (n, h.grid, w.grid). */
struct patches {
    const float *src;
    struct axis h, w;
    int64_t n, c, channels; /* channels: how many of a pixel's c are read, from where src points */
};

static int64_t positions(const struct patches *p)
{
    return p->n * p->h.grid * p->w.grid;
}

/* One row of `count` taps of one kernel row, from pixel (y, x) on. */
static float *gather_taps(const struct patches *p, const float *image, int64_t y, int64_t x, int64_t count, float *to)
{
    if (y < 0 || y >= p->h.size) {
        memset(to, 0, (size_t)(count * p->channels) * sizeof *to);
        return to + count * p->channels;
    }
    const float *row = image + y * p->w.size * p->c;
    if (p->w.inc == 1 && p->channels == p->c) { /* the taps are neighbours in memory */
        int64_t before = min_of(count, max_of(0, -x)), inside = max_of(0, min_of(count, p->w.size - x) - before);
        memset(to, 0, (size_t)(before * p->c) * sizeof *to);
        memcpy(to + before * p->c, row + (x + before) * p->c, (size_t)(inside * p->c) * sizeof *to);
        memset(to + (before + inside) * p->c, 0, (size_t)((count - before - inside) * p->c) * sizeof *to);
        return to + count * p->c;
    }
    for (int64_t t = 0; t < count; t++, x += p->w.inc, to += p->channels) {
        bool inside = x >= 0 && x < p->w.size;
        if (inside)
            memcpy(to, row + x * p->c, (size_t)p->channels * sizeof *to);
        else
            memset(to, 0, (size_t)p->channels * sizeof *to);
    }
    return to;
}

/* Rows first .. first+count-1 of the patches, taps t0 .. t0+n_taps-1 of each. */
static void gather(const struct patches *p, int64_t first, int64_t count, int64_t t0, int64_t n_taps, float *to)
{
    int64_t j = first % p->w.grid, i = first / p->w.grid % p->h.grid, n = first / p->w.grid / p->h.grid;
    for (int64_t r = 0; r < count; r++) {
        const float *image = p->src + n * p->h.size * p->w.size * p->c;
        for (int64_t t = t0; t < t0 + n_taps;) {
            int64_t u = t / p->w.taps, v = t % p->w.taps, run = min_of(p->w.taps - v, t0 + n_taps - t);
            to = gather_taps(p, image, i * p->h.step + p->h.base + u * p->h.inc,
                             j * p->w.step + p->w.base + v * p->w.inc, run, to);
            t += run;
        }
        if (++j < p->w.grid) continue;
        j = 0;
        if (++i < p->h.grid) continue;
        i = 0;
        n++;
    }
}

/* How patches are cut: taps at a time, so that a row is not too deep, and rows at a time. */
struct cut {
    int64_t taps, rows, blocks;
};
static struct cut cut_of(const struct patches *p, int64_t columns)
{
    int64_t taps = p->h.taps * p->w.taps, total = positions(p);
    struct cut c = {.taps = ceil_div(taps, ceil_div(taps * p->channels, DEPTH))};
    c.rows = min_of(PATCHES / (c.taps * p->channels), RESULT / max_of(columns, 1));
    c.rows = max_of(16, min_of(c.rows, max_of(32, total / 16)) / 16 * 16);
    c.blocks = ceil_div(total, c.rows);
    return c;
}

/* C rows of one block = patches times w ((taps x channels), columns). */
static void block_product(struct room *room, const struct patches *p, struct cut cut, int64_t first, int64_t rows,
                          const float *w, int64_t w_row, int64_t columns, float *c, int64_t c_row)
{
    int64_t taps = p->h.taps * p->w.taps;
    for (int64_t t = 0; t < taps; t += cut.taps) {
        int64_t n = min_of(cut.taps, taps - t);
        gather(p, first, rows, t, n, room->patches);
        struct gemm_args g = {.m = rows,
                              .n = columns,
                              .k = n * p->channels,
                              .a = room->patches,
                              .a_row = n * p->channels,
                              .a_col = 1,
                              .b = w + t * p->channels * w_row,
                              .b_row = w_row,
                              .b_col = 1,
                              .c = c,
                              .c_row = c_row,
                              .add = t > 0};
        gemm_block(&g);
    }
}

static bool is_pointwise(const struct conv_dims *d)
{
    return d->groups == 1 && d->k[0] * d->k[1] == 1 && d->stride[0] * d->stride[1] == 1 && d->pad[0] + d->pad[1] == 0;
}

/* ---- conv2d ------------------------------------------------------------------------------------------------------ */

static struct patches forward_patches(const struct conv_call *k, int64_t group)
{
    const struct conv_dims *d = &k->d;
    struct axis axis[2];
    for (int i = 0; i < 2; i++)
        axis[i] = (struct axis){d->h[i], d->out[i], d->stride[i], -d->pad[i], d->dilation[i], d->k[i]};
    return (struct patches){(const float *)k->x->data + group * d->cg, axis[0], axis[1], d->n, d->c, d->cg};
}

static void run(const struct ad_call *c)
{
    struct conv_call k = conv_call_of(c);
    const struct conv_dims *d = &k.d;
    if (is_pointwise(d)) {
        struct gemm_args g = {.m = d->n * d->h[0] * d->h[1],
                              .n = d->f,
                              .k = d->c,
                              .a = k.x->data,
                              .a_row = d->c,
                              .a_col = 1,
                              .b = k.w->data,
                              .b_row = d->f,
                              .b_col = 1,
                              .c = k.y->data,
                              .c_row = d->f};
        gemm(&g, c->scratch);
        return;
    }
    struct patches whole = forward_patches(&k, 0);
    struct cut cut = cut_of(&whole, 1);
#pragma omp parallel if (cut.blocks * d->groups > 1)
    {
        struct room room;
        gemm_enter_thread();
#pragma omp for schedule(dynamic)
        for (int64_t b = 0; b < cut.blocks * d->groups; b++) {
            int64_t group = b % d->groups, first = b / d->groups * cut.rows;
            struct patches p = forward_patches(&k, group);
            block_product(&room, &p, cut, first, min_of(cut.rows, positions(&p) - first),
                          (const float *)k.w->data + group * d->fg, d->f, d->fg,
                          (float *)k.y->data + first * d->f + group * d->fg, d->f);
        }
    }
}

/* ---- conv2d_transpose -------------------------------------------------------------------------------------------- */

/* The taps that reach positions a, a + stride, ... of x along one axis: kernel rows first, first + every, ..., read in
 * falling order so that the rows of y rise. */
struct residue {
    struct axis axis;
    int64_t first, every;
};

static int64_t gcd(int64_t a, int64_t b)
{
    while (b) {
        int64_t r = a % b;
        a = b;
        b = r;
    }
    return a;
}

static struct residue residue_of(const struct conv_dims *d, int i, int64_t a)
{
    int64_t s = d->stride[i], common = gcd(s, d->dilation[i]), taps = 0, last = 0;
    struct residue r = {.every = s / common};
    while (r.first < r.every && (a + d->pad[i] - r.first * d->dilation[i]) % s != 0) r.first++;
    if (r.first < r.every && r.first < d->k[i]) taps = ceil_div(d->k[i] - r.first, r.every);
    if (taps) last = r.first + (taps - 1) * r.every;
    int64_t base = (a + d->pad[i] - last * d->dilation[i]) / s; /* exact where there are taps */
    int64_t grid = d->h[i] > a ? ceil_div(d->h[i] - a, s) : 0;
    r.axis = (struct axis){d->out[i], grid, 1, base, d->dilation[i] / common, taps};
    return r;
}

/* w of one residue class and group as ((taps x fg), cg), at its place in `packed`; returns the place after it. */
static float *pack_class(const struct conv_call *k, const struct residue *rh, const struct residue *rw, int64_t group,
                         float *to)
{
    const struct conv_dims *d = &k->d;
    for (int64_t t = 0; t < rh->axis.taps * rw->axis.taps; t++) {
        int64_t u = rh->first + (rh->axis.taps - 1 - t / rw->axis.taps) * rh->every;
        int64_t v = rw->first + (rw->axis.taps - 1 - t % rw->axis.taps) * rw->every;
        const float *w = (const float *)k->w->data + (u * d->k[1] + v) * d->cg * d->f + group * d->fg;
        for (int64_t f = 0; f < d->fg; f++)
            for (int64_t ci = 0; ci < d->cg; ci++) *to++ = w[ci * d->f + f];
    }
    return to;
}

/* A block of positions of x of one class and group. */
static void transpose_block(struct room *room, const struct conv_call *k, const struct patches *p, struct cut cut,
                            const float *w, int64_t a, int64_t b, int64_t group, int64_t first)
{
    const struct conv_dims *d = &k->d;
    int64_t rows = min_of(cut.rows, positions(p) - first);
    float *x = (float *)k->x->data + group * d->cg;
    if (d->stride[0] * d->stride[1] == 1) {
        block_product(room, p, cut, first, rows, w, d->cg, d->cg, x + first * d->c, d->c);
        return;
    }
    if (p->h.taps * p->w.taps == 0)
        memset(room->result, 0, (size_t)(rows * d->cg) * sizeof *room->result);
    else
        block_product(room, p, cut, first, rows, w, d->cg, d->cg, room->result, d->cg);
    for (int64_t r = 0; r < rows; r++) {
        int64_t at = first + r, j = at % p->w.grid, i = at / p->w.grid % p->h.grid, n = at / p->w.grid / p->h.grid;
        int64_t pixel = (n * d->h[0] + a + i * d->stride[0]) * d->h[1] + b + j * d->stride[1];
        memcpy(x + pixel * d->c, room->result + r * d->cg, (size_t)d->cg * sizeof *x);
    }
}

static void run_class(const struct conv_call *k, int64_t a, int64_t b, const struct residue *rh,
                      const struct residue *rw, const float *packed)
{
    const struct conv_dims *d = &k->d;
    struct patches p = {k->y->data, rh->axis, rw->axis, d->n, d->f, d->fg};
    int64_t taps = p.h.taps * p.w.taps;
    struct cut cut = taps ? cut_of(&p, d->cg) : (struct cut){0, max_of(1, RESULT / d->cg), 0};
    cut.blocks = ceil_div(positions(&p), cut.rows);
#pragma omp parallel if (cut.blocks * d->groups > 1)
    {
        struct room room;
        gemm_enter_thread();
#pragma omp for schedule(dynamic)
        for (int64_t t = 0; t < cut.blocks * d->groups; t++) {
            int64_t group = t % d->groups;
            struct patches own = p;
            own.src += group * d->fg;
            transpose_block(&room, k, &own, cut, packed + group * taps * d->fg * d->cg, a, b, group,
                            t / d->groups * cut.rows);
        }
    }
}

static void run_transpose(const struct ad_call *c)
{
    struct conv_call k = conv_call_of(c);
    const struct conv_dims *d = &k.d;
    if (is_pointwise(d)) {
        struct gemm_args g = {.m = d->n * d->h[0] * d->h[1],
                              .n = d->c,
                              .k = d->f,
                              .a = k.y->data,
                              .a_row = d->f,
                              .a_col = 1,
                              .b = k.w->data,
                              .b_row = 1,
                              .b_col = d->f,
                              .c = k.x->data,
                              .c_row = d->c};
        gemm(&g, c->scratch);
        return;
    }
    float *packed = c->scratch;
    for (int64_t a = 0; a < d->stride[0]; a++)
        for (int64_t b = 0; b < d->stride[1]; b++) {
            struct residue rh = residue_of(d, 0, a), rw = residue_of(d, 1, b);
            float *end = packed;
            for (int64_t group = 0; group < d->groups; group++) end = pack_class(&k, &rh, &rw, group, end);
            run_class(&k, a, b, &rh, &rw, packed);
            packed = end;
        }
}

/* ---- conv2d_dw --------------------------------------------------------------------------------------------------- */

/* Tasks: groups x ranges of taps x ranges of positions. */
struct dw_cut {
    int64_t taps, tap_ranges, rows, parts, part_rows;
};
static struct dw_cut dw_cut_of(const struct conv_dims *d)
{
    int64_t taps = d->k[0] * d->k[1], total = d->n * d->out[0] * d->out[1];
    struct dw_cut c = {.taps = ceil_div(taps, ceil_div(taps * d->cg, DEPTH / 2))};
    c.tap_ranges = ceil_div(taps, c.taps);
    c.rows = max_of(16, min_of(PATCHES / (c.taps * d->cg), 512) / 16 * 16);
    int64_t want = ceil_div(MAX_PARTS, c.tap_ranges * d->groups);
    c.part_rows = max_of(c.rows, ceil_div(ceil_div(total, want), c.rows) * c.rows);
    c.parts = max_of(1, ceil_div(total, c.part_rows));
    return c;
}

static void dw_task(struct room *room, const struct conv_call *k, struct dw_cut cut, int64_t group, int64_t range,
                    int64_t part, float *w)
{
    const struct conv_dims *d = &k->d;
    struct patches p = forward_patches(k, group);
    int64_t t0 = range * cut.taps, taps = min_of(cut.taps, d->k[0] * d->k[1] - t0), depth = taps * d->cg;
    int64_t end = min_of(positions(&p), (part + 1) * cut.part_rows);
    const float *y = (const float *)k->y->data + group * d->fg;
    for (int64_t first = part * cut.part_rows; first < end; first += cut.rows) {
        int64_t rows = min_of(cut.rows, end - first);
        gather(&p, first, rows, t0, taps, room->patches);
        struct gemm_args g = {.m = depth,
                              .n = d->fg,
                              .k = rows,
                              .a = room->patches,
                              .a_row = 1,
                              .a_col = depth,
                              .b = y + first * d->f,
                              .b_row = d->f,
                              .b_col = 1,
                              .c = w + t0 * d->cg * d->f + group * d->fg,
                              .c_row = d->f,
                              .add = first > part * cut.part_rows};
        gemm_block(&g);
    }
}

static void run_dw(const struct ad_call *c)
{
    struct conv_call k = conv_call_of(c);
    const struct conv_dims *d = &k.d;
    int64_t size = ad_count(k.w->shape), total = d->n * d->out[0] * d->out[1];
    float *w = k.w->data;
    if (is_pointwise(d)) {
        struct gemm_args g = {.m = d->c,
                              .n = d->f,
                              .k = total,
                              .a = k.x->data,
                              .a_row = 1,
                              .a_col = d->c,
                              .b = k.y->data,
                              .b_row = d->f,
                              .b_col = 1,
                              .c = w,
                              .c_row = d->f};
        gemm(&g, c->scratch);
        return;
    }
    if (total == 0) {
        memset(w, 0, (size_t)size * sizeof *w);
        return;
    }
    struct dw_cut cut = dw_cut_of(d);
    float *sums = cut.parts > 1 ? c->scratch : w;
    int64_t tasks = d->groups * cut.tap_ranges * cut.parts;
#pragma omp parallel if (tasks > 1)
    {
        struct room room;
        gemm_enter_thread();
#pragma omp for schedule(dynamic)
        for (int64_t t = 0; t < tasks; t++) {
            int64_t part = t / cut.tap_ranges / d->groups;
            dw_task(&room, &k, cut, t % d->groups, t / d->groups % cut.tap_ranges, part, sums + part * size);
        }
        if (cut.parts > 1) {
#pragma omp for schedule(static)
            for (int64_t i = 0; i < size; i++) {
                float sum = sums[i];
                for (int64_t p = 1; p < cut.parts; p++) sum += sums[p * size + i];
                w[i] = sum;
            }
        }
    }
}

/* ---- which ------------------------------------------------------------------------------------------------------- */

static size_t scratch(const struct ad_call *c)
{
    struct conv_call k = conv_call_of(c);
    const struct conv_dims *d = &k.d;
    int64_t total = d->n * d->out[0] * d->out[1], size = ad_count(k.w->shape);
    if (is_pointwise(d))
        return c->op == &ad_op_conv2d_dw
                   ? gemm_scratch(d->c, d->f, total)
                   : gemm_scratch(total, c->op == &ad_op_conv2d ? d->f : d->c, c->op == &ad_op_conv2d ? d->c : d->f);
    if (c->op == &ad_op_conv2d_transpose) return (size_t)size * sizeof(float);
    if (c->op != &ad_op_conv2d_dw || total == 0) return 0;
    int64_t parts = dw_cut_of(d).parts;
    return parts > 1 ? (size_t)(parts * size) * sizeof(float) : 0;
}

/* A block of 16 rows of one tap must fit. */
static bool accepts(const struct ad_call *c)
{
    struct conv_dims d = conv_call_of(c).d;
    return d.cg >= 1 && d.fg >= 1 && d.cg <= RESULT / 16 && d.fg <= RESULT / 16;
}

const struct ad_kernel ISA_FN(ad_kernels_conv)[] = {
    {&ad_op_conv2d, AD_F32, accepts, run, scratch, "im2col"},
    {&ad_op_conv2d_transpose, AD_F32, accepts, run_transpose, scratch, "im2col"},
    {&ad_op_conv2d_dw, AD_F32, accepts, run_dw, scratch, "im2col"},
    {0},
};
