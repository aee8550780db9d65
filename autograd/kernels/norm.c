/* Group norm and batch norm, of f32 and of what is kept in 16 bits (columns.h): images of rows of channels; batch norm sees
 * one image whose groups have one channel. Sums over rows are taken within fixed blocks and then over the blocks in order, so that results do not depend on
 * threads. The second pass of a thread goes backwards through its blocks: the last are still in its caches. */
#pragma GCC optimize("O3")
#include "autograd/kernels/columns.h"
#include "autograd/kernels/norm_blocks.h"
#include "autograd/kernels/stream.h"

/* n images of s rows of c channels, k of them a group. */
struct norm_job {
    int64_t n, s, c, k, step, blocks;
    double eps;
    int act;
    struct column_types type;
    const void *x, *dy, *more;
    const struct ad_tensor *gain, *bias; /* or NULL */
    void *y, *d;
    float *mean, *var; /* (n, c / k) */
    bool stream;
    bool by_image; /* each image is seen through before the next, and its blocks' sums are joined as they come */
    int64_t across, stripe; /* a block of rows is so many items, of so many channels each */
};

static int64_t max_of(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static void types_of(struct norm_job *j, const struct ad_call *c, bool grad, const struct ad_tensor *more)
{
    enum ad_dtype x = c->in[0].dtype;
    j->type = (struct column_types){x, x, x, c->out[0].dtype, x};
    if (grad) j->type.dy = c->in[1].dtype;
    if (more) j->type.more = more->dtype;
    if (more && grad) j->type.d = c->out[3].dtype;
}

/* In place of an operand, the lines are in the caches when they are written; vectors in 16 bits are too short to fill lines
 * before others take their place: with two results, such stores took three times as long. */
static bool streams(const struct norm_job *j)
{
    int64_t count = j->n * j->s * j->c;
    if (ad_is_half(j->type.y) || j->y == j->x || j->y == j->dy || j->y == j->more) return false;
    return stream_pays(j->y, j->c, count) && (!j->d || (!ad_is_half(j->type.d) && stream_pays(j->d, j->c, count)));
}

static struct norm_job job_of(const struct ad_call *c)
{
    struct norm_job j = {.x = c->in[0].data, .y = c->out[0].data};
    const struct ad_tensor *more = NULL;
    bool grad = c->op == &ad_op_norm_grad || c->op == &ad_op_batch_norm_grad;
    int at = grad ? 4 : 1;
    if (c->op == &ad_op_batch_norm || c->op == &ad_op_batch_norm_grad) {
        const struct batch_norm_attr *a = c->attr;
        struct batch_norm_dims d = batch_norm_dims_of(c->in[0].shape);
        j.n = j.k = 1, j.s = d.rows, j.c = d.c, j.eps = a->eps, j.act = a->act;
        if (a->gain) j.gain = &c->in[at++];
        if (a->bias) j.bias = &c->in[at++];
        if (a->residual) more = &c->in[at];
        if (a->residual && grad) j.d = c->out[3].data;
    } else {
        const struct norm_attr *a = c->attr;
        struct norm_dims d = norm_dims_of(c->in[0].shape, a);
        j.n = d.n, j.s = d.s, j.c = d.c, j.k = d.k, j.eps = a->eps;
        if (a->gain) j.gain = &c->in[at++];
        if (a->bias && !grad) j.bias = &c->in[at];
    }
    j.mean = grad ? c->in[2].data : c->out[1].data;
    j.var = grad ? c->in[3].data : c->out[2].data;
    if (grad) j.dy = c->in[1].data;
    if (more) j.more = more->data;
    types_of(&j, c, grad, more);
    j.stream = streams(&j);
    j.step = block_rows(j.s);
    j.blocks = block_count(j.s);
    return j;
}

/* Channels' vectors of one image: mean, scale, bias, shift, slope. */
enum { MEAN, SCALE, BIAS, SHIFT, SLOPE, VECTORS };
/* A block's: two sums, and room for two more. */
enum { SUMS = 4 };

struct norm_room {
    double *joined;       /* (n, 2, c): of all blocks of an image, their means and sums of squares */
    float *total;         /* (n, 2, c), there too: sums over them, of d (x - mean) and of d */
    float *block, *image; /* (n, blocks, SUMS, c), (n, VECTORS, c) */
};
static struct norm_room room_of(const struct norm_job *j, void *scratch)
{
    double *joined = scratch;
    float *block = (float *)(joined + j->n * 2 * j->c);
    return (struct norm_room){joined, (float *)joined, block, block + j->n * j->blocks * SUMS * j->c};
}

/* Item i of those that images' blocks are cut into: block t of all of them, channels from `first` on. */
struct part {
    int64_t t, first;
};
static struct part part_of(const struct norm_job *j, int64_t i)
{
    return (struct part){i / j->across, i % j->across * j->stripe};
}
static int64_t parts_of(const struct norm_job *j)
{
    return j->n * j->blocks * j->across;
}
/* Parts, so that each thread has some; an image that is seen through is one thread's. Sums do not see the cut. */
static void cut_across(struct norm_job *j, int threads)
{
    j->stripe = threads > 1 && !j->by_image ? ad_stripe(j->c, j->n * j->blocks, threads) : j->c;
    j->across = j->c > 0 ? (j->c + j->stripe - 1) / j->stripe : 1;
}

/* Of block t of all images' blocks. Where an image is seen through at once, its blocks take turns in the first one's. */
static float *sums_of(const struct norm_job *j, const struct norm_room *room, int64_t t)
{
    return room->block + (j->by_image ? t / j->blocks * j->blocks : t) * SUMS * j->c;
}

static struct columns columns_of(const struct norm_job *j, const struct norm_room *room, struct part p)
{
    int64_t n = p.t / j->blocks, first = p.t % j->blocks * j->step, at = (n * j->s + first) * j->c + p.first;
    const float *v = room->image + n * VECTORS * j->c + p.first;
    struct columns k = {.rows = min_of(j->step, j->s - first), .row = j->c, .act = j->act, .type = j->type};
    k.c = min_of(j->stripe, j->c - p.first);
    k.x = at_as(j->type.x, j->x, at);
    k.y = at_as(j->type.y, j->y, at);
    k.stream = j->stream;
    k.mean = v + MEAN * j->c;
    k.scale = v + SCALE * j->c;
    k.bias = v + BIAS * j->c;
    k.shift = v + SHIFT * j->c;
    k.slope = v + SLOPE * j->c;
    if (j->dy) k.dy = at_as(j->type.dy, j->dy, at);
    if (j->more) k.more = at_as(j->type.more, j->more, at);
    if (j->d) k.d = at_as(j->type.d, j->d, at);
    return k;
}

static float gain_at(const struct norm_job *j, int64_t c)
{
    return j->gain ? float_as(j->gain->dtype, j->gain->data, c) : 1;
}
static double rstd(const struct norm_job *j, float var)
{
    return 1 / sqrt((double)var + j->eps);
}

/* ---- forward --------------------------------------------------------------------------------------------------------- */

/* Channels seen to at once: their sums stay in the first-level cache, and a division does for all of them. */
enum { CHANNELS = 64 };

/* Channels of one item: whole groups. */
static int64_t chunk_of(const struct norm_job *j)
{
    return (max_of(CHANNELS, j->k) + j->k - 1) / j->k * j->k;
}
static int64_t chunks_of(const struct norm_job *j)
{
    return (j->c + chunk_of(j) - 1) / chunk_of(j);
}

/* Moments of `count` numbers, to be joined with those of `more`: they move the mean by `mean` of how far theirs is from it,
 * and the sum of squares around it by `square` of the square of that (Chan et al., 1983). */
struct weight {
    double mean, square;
};
static struct weight weight_of(double count, double more)
{
    return (struct weight){more / (count + more), count * more / (count + more)};
}

/* Block b of image n joined with those before it; channels first .. last-1. */
static void join_block(const struct norm_job *j, const struct norm_room *room, int64_t n, int64_t b, int64_t first,
                       int64_t last)
{
    const float *means = sums_of(j, room, n * j->blocks + b), *squares = means + j->c;
    double *mean = room->joined + n * 2 * j->c, *square = mean + j->c;
    struct weight w = weight_of((double)(b * j->step), (double)min_of(j->step, j->s - b * j->step));
    for (int64_t c = first; c < last; c++) {
        double before = b ? mean[c] : 0, delta = means[c] - before;
        square[c] = (b ? square[c] : 0) + (squares[c] + delta * delta * w.square);
        mean[c] = before + delta * w.mean;
    }
}

/* The groups of channels first .. last-1 of image n: their channels joined in order. */
static void group_statistics(const struct norm_job *j, const struct norm_room *room, int64_t n, int64_t first,
                             int64_t last)
{
    const double *mean = room->joined + n * 2 * j->c, *square = mean + j->c;
    double all = 0, around = 0, rows = (double)j->s;
    for (int64_t c = first; c < last; c++) {
        int64_t in_group = c % j->k, stat = n * (j->c / j->k) + c / j->k;
        if (in_group == 0) all = around = 0;
        struct weight w = weight_of((double)in_group * rows, rows);
        double delta = mean[c] - all;
        around += square[c] + delta * delta * w.square;
        all += delta * w.mean;
        if (in_group + 1 < j->k) continue;
        j->mean[stat] = (float)all;
        j->var[stat] = (float)(around / (rows * (double)j->k));
    }
}

/* Channels first .. last-1 of image n: whole groups. */
static void image_vectors(const struct norm_job *j, const struct norm_room *room, int64_t n, int64_t first,
                          int64_t last)
{
    float *v = room->image + n * VECTORS * j->c, r = 0;
    for (int64_t c = first; c < last; c++) {
        int64_t stat = n * (j->c / j->k) + c / j->k;
        if (c % j->k == 0) r = (float)rstd(j, j->var[stat]);
        v[MEAN * j->c + c] = j->mean[stat];
        v[SCALE * j->c + c] = r * gain_at(j, c);
        v[BIAS * j->c + c] = j->bias ? float_as(j->bias->dtype, j->bias->data, c) : 0;
    }
}

_Static_assert(sizeof(struct norm_job) <= AD_JOB_BYTES, "a job lies in struct ad_parts");

static void run_moments(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct norm_job *j = job;
    struct norm_room room = room_of(j, c->scratch);
    for (int64_t i = from; i < to; i++) {
        struct part p = part_of(j, i);
        struct columns k = columns_of(j, &room, p);
        float *sums = sums_of(j, &room, p.t);
        columns_moments(&k, sums + p.first, sums + j->c + p.first, sums + 2 * (j->c + p.first));
        if (j->by_image) join_block(j, &room, p.t / j->blocks, p.t % j->blocks, 0, j->c);
    }
}

static void run_statistics(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct norm_job *j = job;
    struct norm_room room = room_of(j, c->scratch);
    int64_t chunk = chunk_of(j), chunks = chunks_of(j);
    for (int64_t i = from; i < to; i++) {
        int64_t n = i / chunks, first = i % chunks * chunk, last = min_of(j->c, first + chunk);
        for (int64_t b = 0; !j->by_image && b < j->blocks; b++) join_block(j, &room, n, b, first, last);
        group_statistics(j, &room, n, first, last);
        image_vectors(j, &room, n, first, last);
    }
}

static void run_affine(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct norm_job *j = job;
    struct norm_room room = room_of(j, c->scratch);
    for (int64_t i = to; i-- > from;) {
        struct columns k = columns_of(j, &room, part_of(j, i));
        columns_affine(&k);
    }
}

static void run_images(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct norm_job *j = job;
    int64_t chunks = chunks_of(j);
    for (int64_t n = from; n < to; n++) {
        run_moments(c, job, n * j->blocks, (n + 1) * j->blocks);
        run_statistics(c, job, n * chunks, (n + 1) * chunks);
        run_affine(c, job, n * j->blocks, (n + 1) * j->blocks);
    }
}

/* Whether each image, of so many tensors, is better seen through by one thread: its second pass finds it in a cache then. */
static bool fits(const struct norm_job *j, int64_t tensors, int threads)
{
    enum { NUMBERS = 1 << 19 }; /* 2 MB: a thread's part of a last-level cache */
    return j->n >= 2 * threads && tensors * j->s * j->c <= NUMBERS && j->n * j->s * j->c > PAR_MIN;
}

static void cut(const struct ad_call *c, int threads, struct ad_parts *p)
{
    struct norm_job *j = (void *)p->job;
    *j = job_of(c);
    bool alone = j->n * j->s * j->c <= PAR_MIN;
    j->by_image = fits(j, 1, threads);
    cut_across(j, alone ? 1 : threads);
    if (j->by_image) {
        p->n = 1;
        p->phase[0] = (struct ad_phase){.items = j->n, .run = run_images};
        return;
    }
    p->n = 3;
    p->phase[0] = (struct ad_phase){.items = parts_of(j), .run = run_moments, .alone = alone};
    p->phase[1] = (struct ad_phase){.items = j->n * chunks_of(j), .run = run_statistics, .alone = alone};
    p->phase[2] = (struct ad_phase){.items = parts_of(j), .run = run_affine, .alone = alone};
}

/* ---- gradient --------------------------------------------------------------------------------------------------------- */

/* Block b of image n added to those before it; channels first .. last-1. */
static void add_block(const struct norm_job *j, const struct norm_room *room, int64_t n, int64_t b, int64_t first,
                      int64_t last)
{
    const float *part = sums_of(j, room, n * j->blocks + b);
    for (int k = 0; k < 2; k++, part += j->c) {
        float *sum = room->total + (n * 2 + k) * j->c;
        for (int64_t c = first; c < last; c++) sum[c] = (b ? sum[c] : 0) + part[c];
    }
}

/* What dx needs of channels first .. last-1 of image n, by group. */
static void image_slopes(const struct norm_job *j, const struct norm_room *room, int64_t n, int64_t first, int64_t last)
{
    float *v = room->image + n * VECTORS * j->c, *sum_x = room->total + n * 2 * j->c, *sum = sum_x + j->c;
    for (int64_t g = first / j->k; g < last / j->k; g++) {
        double r = rstd(j, j->var[n * (j->c / j->k) + g]), u = 0, ux = 0, count = (double)(j->s * j->k);
        for (int64_t c = g * j->k; c < (g + 1) * j->k; c++) {
            u += (double)gain_at(j, c) * sum[c];
            ux += (double)gain_at(j, c) * sum_x[c] * r;
        }
        for (int64_t c = g * j->k; c < (g + 1) * j->k; c++) {
            v[SHIFT * j->c + c] = (float)(r * u / count);
            v[SLOPE * j->c + c] = (float)(r * r * ux / count);
        }
    }
}

/* Adds what image n gives to the gradients of gain and bias; the first image begins them. */
static void add_image(const struct norm_job *j, const struct norm_room *room, int64_t n, int64_t first, int64_t last,
                      float *dgain, float *dbias)
{
    const float *sum_x = room->total + n * 2 * j->c, *sum = sum_x + j->c;
    double r = 0;
    for (int64_t c = first; c < last; c++) {
        if (c % j->k == 0) r = rstd(j, j->var[n * (j->c / j->k) + c / j->k]);
        dgain[c] = (n ? dgain[c] : 0) + (float)(sum_x[c] * r);
        dbias[c] = (n ? dbias[c] : 0) + sum[c];
    }
}

/* The slope of silu takes longer than the memory that both passes wait for: the first leaves dy behind the activation where
 * dx goes, unless x is there. */
static bool keeps(const struct norm_job *j)
{
    struct column_types t = j->type;
    return j->act == AD_ACT_SILU && !j->more && t.x == AD_F32 && t.dy == AD_F32 && t.y == AD_F32 && j->y != j->x;
}

static void dx_of_kept(struct columns *k)
{
    k->act = AD_ACT_NONE;
    k->dy = k->y;
    k->stream = false;
    columns_dx(k);
}

static void run_vectors(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct norm_job *j = job;
    struct norm_room room = room_of(j, c->scratch);
    for (int64_t n = from; n < to; n++) image_vectors(j, &room, n, 0, j->c);
}

static void run_products(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct norm_job *j = job;
    struct norm_room room = room_of(j, c->scratch);
    bool keep = keeps(j);
    for (int64_t i = from; i < to; i++) {
        struct part p = part_of(j, i);
        struct columns k = columns_of(j, &room, p);
        float *sums = sums_of(j, &room, p.t);
        k.keep = keep;
        columns_products(&k, sums + p.first, sums + j->c + p.first, sums + 2 * (j->c + p.first));
        if (j->by_image) add_block(j, &room, p.t / j->blocks, p.t % j->blocks, 0, j->c);
    }
}

static void run_sums(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct norm_job *j = job;
    struct norm_room room = room_of(j, c->scratch);
    int64_t chunk = chunk_of(j);
    for (int64_t i = from; i < to; i++)
        for (int64_t n = 0; n < j->n; n++) {
            int64_t first = i * chunk, last = min_of(j->c, first + chunk);
            for (int64_t b = 0; !j->by_image && b < j->blocks; b++) add_block(j, &room, n, b, first, last);
            if (!j->by_image) image_slopes(j, &room, n, first, last);
            add_image(j, &room, n, first, last, c->out[1].data, c->out[2].data);
        }
}

static void run_dx(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct norm_job *j = job;
    struct norm_room room = room_of(j, c->scratch);
    bool keep = keeps(j);
    for (int64_t i = to; i-- > from;) {
        struct columns k = columns_of(j, &room, part_of(j, i));
        if (keep)
            dx_of_kept(&k);
        else
            columns_dx(&k);
    }
}

/* All that images from .. to-1 need but the sums over images. */
static void run_images_grad(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct norm_job *j = job;
    struct norm_room room = room_of(j, c->scratch);
    for (int64_t n = from; n < to; n++) {
        run_vectors(c, job, n, n + 1);
        run_products(c, job, n * j->blocks, (n + 1) * j->blocks);
        image_slopes(j, &room, n, 0, j->c);
        run_dx(c, job, n * j->blocks, (n + 1) * j->blocks);
    }
}

static void clear_sums(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct norm_job *j = job;
    memset(c->out[1].data, 0, (size_t)j->c * sizeof(float));
    memset(c->out[2].data, 0, (size_t)j->c * sizeof(float));
}

static void cut_grad(const struct ad_call *c, int threads, struct ad_parts *p)
{
    struct norm_job *j = (void *)p->job;
    *j = job_of(c);
    if (!j->n) { /* no image: nothing to sum */
        p->n = 1;
        p->phase[0] = (struct ad_phase){.items = 1, .run = clear_sums, .alone = true};
        return;
    }
    bool alone = j->n * j->s * j->c <= PAR_MIN;
    struct ad_phase sums = {.items = chunks_of(j), .run = run_sums, .alone = alone};
    j->by_image = fits(j, 2, threads);
    cut_across(j, alone ? 1 : threads);
    if (j->by_image) {
        p->n = 2;
        p->phase[0] = (struct ad_phase){.items = j->n, .run = run_images_grad};
        p->phase[1] = sums;
        return;
    }
    p->n = 4;
    p->phase[0] = (struct ad_phase){.items = j->n, .run = run_vectors, .alone = alone};
    p->phase[1] = (struct ad_phase){.items = parts_of(j), .run = run_products, .alone = alone};
    p->phase[2] = sums;
    p->phase[3] = (struct ad_phase){.items = parts_of(j), .run = run_dx, .alone = alone};
}

static bool is_group(const struct ad_call *c)
{
    return ((const struct norm_attr *)c->attr)->kind == NORM_GROUP;
}

static size_t scratch(const struct ad_call *c)
{
    struct norm_job j = job_of(c);
    return (size_t)(j.n * j.c) * (2 * sizeof(double) + (size_t)(j.blocks * SUMS + VECTORS) * sizeof(float));
}

/* The statistics alone come and go in 32 bits. */
enum { X = 1, DY = 1 << 1, BEHIND_X = 7 << 1, BEHIND_VAR = 7 << 4, RESULT = 1, D = 1 << 3 };

const struct ad_kernel ISA_FN(ad_kernels_norm)[] = {
    {&ad_op_group_norm, AD_F32, NULL, NULL, scratch, "columns", X | BEHIND_X, RESULT, cut},
    {&ad_op_norm_grad, AD_F32, is_group, NULL, scratch, "columns", X | DY | BEHIND_VAR, RESULT, cut_grad},
    {&ad_op_batch_norm, AD_F32, NULL, NULL, scratch, "columns", X | BEHIND_X, RESULT, cut},
    {&ad_op_batch_norm_grad, AD_F32, NULL, NULL, scratch, "columns", X | DY | BEHIND_VAR, RESULT | D, cut_grad},
    {0},
};
