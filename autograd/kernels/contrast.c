/* The contrastive losses and their gradients in f32, by tiles of the (N, M) similarities: a tile is multiplied, used and
 * forgotten, and for the gradient multiplied again, unless it is one of those kept.
 *
 * Tiles are taken in waves. In wave w block i of the side with fewer blocks (p of them) meets block (i + w) mod q of the
 * other: within a wave no block occurs twice, so that nobody else adds to a block's running sums or to its gradient, and
 * what a block sums up comes in an order that depends on the sizes alone.
 *
 * With p threads or fewer a thread takes whole tiles. A tile waits for the tiles before it that share a block with it and for
 * no others: threads are not held together at the end of a wave. More threads share a wave's tiles, some of them at a time: all
 * their rows by parts, and then all their columns. */
#pragma GCC optimize("O3")
#include <math.h>
#include <sched.h>
#include <string.h>

#include "autograd/kernels/contrast_tiles.h"
#include "autograd/kernels/gemm.h"

/* Tiles that threads share at a time; flops of a strip's product from which they do; bytes of a line. */
enum { SHARED_TILES = 16, STRIP_FLOPS = 1 << 17, LINE = 64 };
_Static_assert(sizeof(struct contrast_job) <= AD_JOB_BYTES, "a job lies in struct ad_parts");

/* What the threads share, at the start of the scratch. */
struct shared {
    int64_t next;    /* the first tile that no thread has taken */
    float weight[2]; /* as in struct side */
};

static int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Blocks of the shorter side, of the longer. */
static int64_t shorter(const struct contrast_job *j)
{
    return min_of(j->tiles.rows, j->tiles.columns);
}
static int64_t longer(const struct contrast_job *j)
{
    return j->tiles.rows + j->tiles.columns - shorter(j);
}

static int64_t ld_of(const struct contrast_job *j)
{
    return j->block + LD_MORE;
}

static struct contrast_job sizes_of(const struct ad_call *c)
{
    struct contrast_job j = {.siglip = ((const struct contrast_attr *)c->attr)->kind == CONTRAST_SIGLIP,
                             .grad = c->op == &ad_op_contrast_grad};
    const struct ad_tensor *in = c->in;
    j.width = in[CONTRAST_A].shape.dim[1];
    j.tiles = contrast_tiles(c->attr, AD_F32, in[CONTRAST_A].shape.dim[0], in[CONTRAST_B].shape.dim[0]);
    j.block = j.tiles.block;
    j.strips = (j.block + STRIP - 1) / STRIP;
    for (int k = 0; k < 2; k++) {
        struct side *s = &j.side[k];
        s->x = in[CONTRAST_A + k].data;
        s->n = in[CONTRAST_A + k].shape.dim[0];
        s->ld = s->n > 1 ? in[CONTRAST_A + k].stride[0] : j.width;
        s->has = in[CONTRAST_HAS_A + k].data;
        s->id = in[CONTRAST_ID_A + k].data;
    }
    return j;
}

/* The next `bytes` of the scratch, or NULL as long as there is none. */
static void *place(void *scratch, size_t *at, int64_t bytes)
{
    char *here = scratch ? (char *)scratch + *at : NULL;
    *at += (size_t)bytes;
    return here;
}

/* Where the scratch has what: first what begins with zeros, so many bytes, and then the tiles that threads share. */
static size_t lay_out(struct contrast_job *j, void *scratch)
{
    size_t at = sizeof(struct shared);
    bool sums = !j->siglip && !j->grad;
    for (int k = 0; k < 2; k++) j->part[k] = place(scratch, &at, j->tiles.rows * j->strips * (int64_t)sizeof(double));
    for (int k = 0; k < 2 && sums; k++) {
        struct side *s = &j->side[k];
        s->sum = place(scratch, &at, s->n * (int64_t)sizeof(double));
        s->mean = place(scratch, &at, s->n * (int64_t)sizeof(double));
    }
    for (int k = 0; k < 2 && sums; k++) j->side[k].top = place(scratch, &at, j->side[k].n * (int64_t)sizeof(float));
    j->done = place(scratch, &at, shorter(j) * (int64_t)sizeof(int32_t));
    at = (at + LINE - 1) / LINE * LINE;
    size_t zeros = at;
    j->room = place(scratch, &at, 0);
    return zeros;
}

static size_t scratch(const struct ad_call *c)
{
    struct contrast_job j = sizes_of(c);
    return lay_out(&j, NULL) + (size_t)(min_of(shorter(&j), SHARED_TILES) * j.block * ld_of(&j)) * sizeof(float);
}

/* ---- tiles -------------------------------------------------------------------------------------------------------- */

static struct span block_of(const struct contrast_job *j, int side, int64_t block)
{
    const struct side *s = &j->side[side];
    return (struct span){s, block * j->block, min_of(j->block, s->n - block * j->block)};
}

/* The tile of block i of the shorter side in wave w, with its numbers in s. */
static struct contrast_part tile_of(const struct contrast_job *j, int64_t i, int64_t w, float *s)
{
    int64_t p = shorter(j), k = (i + w) % longer(j),
            first = k < p ? 0 : k - p + 1; /* the wave that block k is first in */
    bool swap = j->tiles.rows > j->tiles.columns;
    int64_t block[2] = {swap ? k : i, swap ? i : k};
    struct contrast_part t = {block_of(j, 0, block[0]), block_of(j, 1, block[1]), w * p + i, s, ld_of(j),
                              {w == 0, w == 0}};
    t.first[swap ? 0 : 1] = w == first;
    return t;
}

static void do_rows(const struct contrast_job *j, const struct contrast_part *p)
{
    contrast_part_fn forward = j->siglip ? siglip_rows : infonce_rows,
                     backward = j->siglip ? siglip_grad_rows : infonce_grad_rows;
    (j->grad ? backward : forward)(j, p);
}
static bool has_columns(const struct contrast_job *j)
{
    return j->grad || !j->siglip;
}
static void do_columns(const struct contrast_job *j, const struct contrast_part *p)
{
    (j->grad ? contrast_add_columns : infonce_columns)(j, p);
}

/* One thread's part: tiles in the order that the top of the file tells, until there are none. */
static void take_tiles(const struct contrast_job *j, int64_t *next)
{
    int64_t p = shorter(j), q = longer(j);
    int32_t *done = j->done;
    float room[TILE * (TILE + LD_MORE)] __attribute__((aligned(64)));
    for (int64_t t; (t = ad_take(next, 1, p * q)) < p * q;) {
        int64_t w = t / p, i = t % p;
        struct contrast_part tile = tile_of(j, i, w, room);
        /* Block k was last with block i + 1, one wave ago; of the last i, with block 0, q - p waves before that. */
        bool last = i + 1 == p;
        const int32_t *other = &done[last ? 0 : i + 1];
        while (__atomic_load_n(&done[i], __ATOMIC_ACQUIRE) < w ||
               __atomic_load_n(other, __ATOMIC_ACQUIRE) < (last ? w - (q - p) : w))
            sched_yield();
        do_rows(j, &tile);
        if (has_columns(j)) do_columns(j, &tile);
        __atomic_store_n(&done[i], (int32_t)w + 1, __ATOMIC_RELEASE);
    }
}

/* Number `item` of the parts of the tiles that threads share, of rows or columns; false where there is none. */
static bool part_of(const struct contrast_job *j, int64_t item, bool by_rows, struct contrast_part *to)
{
    int64_t p = shorter(j), part = item % j->parts, tile = item / j->parts, round = tile / j->shared;
    int64_t rounds = (p + j->shared - 1) / j->shared, i = round % rounds * j->shared + tile % j->shared;
    if (i >= p) return false;
    *to = tile_of(j, i, round / rounds, j->room + tile % j->shared * j->block * ld_of(j));
    struct span *s = by_rows ? &to->rows : &to->columns;
    int64_t at = part * j->length;
    if (at >= s->n) return false;
    s->at += at;
    s->n = min_of(j->length, s->n - at);
    to->s += at * (by_rows ? to->ld : 1);
    return true;
}

/* ---- phases --------------------------------------------------------------------------------------------------------- */

static void begin_forward(const struct contrast_job *j)
{
    for (int k = 0; k < 2 && !j->siglip; k++) {
        const struct side *s = &j->side[k];
        memset(s->count, 0, (size_t)s->n * sizeof *s->count);
        for (int64_t i = 0; i < s->n; i++) s->top[i] = -INFINITY;
    }
}

static void begin_backward(const struct contrast_job *j, float dloss, float *weight)
{
    for (int k = 0; k < 2; k++) {
        const struct side *s = &j->side[k];
        int64_t queries = 0;
        if (!shorter(j)) memset(s->dx, 0, (size_t)(s->n * j->width) * sizeof *s->dx); /* no tile will */
        for (int64_t i = 0; i < s->n && !j->siglip; i++) queries += s->count[i] > 0;
        weight[k] = queries ? (float)((double)dloss / (2 * (double)queries)) : 0;
    }
}

static float dloss_of(const struct ad_call *c)
{
    return *(const float *)c->in[c->n_in - 1].data;
}

static void begin(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct contrast_job *j = job;
    struct shared *shared = c->scratch;
    memset(shared, 0, (size_t)((const char *)j->room - (const char *)c->scratch));
    if (j->grad)
        begin_backward(j, dloss_of(c), shared->weight);
    else
        begin_forward(j);
}

/* With what is known only now. */
static struct contrast_job job_now(const struct ad_call *c, const void *job)
{
    struct contrast_job j = *(const struct contrast_job *)job;
    const struct shared *shared = c->scratch;
    j.scale = *(const float *)c->in[CONTRAST_SCALE].data;
    if (j.siglip) j.bias = *(const float *)c->in[CONTRAST_BIAS].data;
    if (j.grad) j.dloss = dloss_of(c);
    for (int k = 0; k < 2; k++) j.side[k].weight = shared->weight[k];
    gemm_enter_thread();
    return j;
}

static void run_tiles(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    struct contrast_job j = job_now(c, job);
    take_tiles(&j, &((struct shared *)c->scratch)->next);
}

static void run_rows(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    struct contrast_job j = job_now(c, job);
    struct contrast_part p;
    for (int64_t i = from; i < to; i++)
        if (part_of(&j, i, true, &p)) do_rows(&j, &p);
}

static void run_columns(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    struct contrast_job j = job_now(c, job);
    struct contrast_part p;
    for (int64_t i = from; i < to; i++)
        if (part_of(&j, i, false, &p)) do_columns(&j, &p);
}

/* 0 times what is not finite is NaN; an absent vector's gradient stays 0. */
static void clear_absent(const struct side *s, int64_t width)
{
    for (int64_t i = 0; i < s->n; i++)
        if (s->has[i] == 0) memset(s->dx + i * width, 0, (size_t)width * sizeof *s->dx);
}

static double total_of(const struct contrast_job *j, int k)
{
    double total = 0;
    for (int64_t i = 0; i < j->tiles.rows * j->strips; i++) total += j->part[k][i];
    return total;
}

static void end(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct contrast_job *j = job;
    if (j->grad) {
        for (int k = 0; k < 2; k++) clear_absent(&j->side[k], j->width);
        for (int k = 0; k < c->n_out - 2; k++) *(float *)c->out[2 + k].data = (float)total_of(j, k);
        return;
    }
    double loss = j->siglip ? total_of(j, 0) : 0;
    for (int k = 0; k < 2 && !j->siglip; k++) loss += infonce_loss(&j->side[k], c->out[1 + k].data) / 2;
    *(float *)c->out[0].data = (float)loss;
}

/* Into how many parts the shared tiles go best: the rows that a thread has of a round, and what a part costs besides. */
static void cut_parts(struct contrast_job *j, int threads)
{
    enum { BESIDES = 20 }; /* rows */
    int64_t least = INT64_MAX;
    for (int64_t strips = 1; strips <= j->strips; strips++) {
        int64_t length = strips * STRIP, parts = (j->block + length - 1) / length;
        int64_t cost = (j->shared * parts + threads - 1) / threads * (length + BESIDES);
        if (cost >= least) continue;
        least = cost;
        j->length = length;
        j->parts = parts;
    }
}

/* Rounds of shared tiles, or one phase of tasks. */
static void cut_tiles(struct contrast_job *j, int threads, struct ad_parts *p)
{
    int64_t tiles = shorter(j); /* that can be at work at the same time */
    if (!GEMM_CUTS_FREELY || threads <= tiles || !tiles || 2 * STRIP * j->block * j->width < STRIP_FLOPS) {
        p->phase[1] = (struct ad_phase){.items = min_of(threads, tiles), .run = run_tiles, .alone = tiles <= 1};
        return;
    }
    j->shared = min_of(tiles, SHARED_TILES);
    cut_parts(j, threads);
    p->first_round = 1;
    p->end_round = 3;
    p->rounds = longer(j) * ((tiles + j->shared - 1) / j->shared);
    p->phase[1] = (struct ad_phase){.items = j->shared * j->parts, .run = run_rows, .dynamic = true};
    p->phase[2] = p->phase[1];
    p->phase[2].run = run_columns;
    if (!has_columns(j)) p->phase[2].items = 0;
}

static void cut(const struct ad_call *c, int threads, struct ad_parts *p)
{
    struct contrast_job *j = (void *)p->job;
    *j = sizes_of(c);
    lay_out(j, c->scratch);
    j->kept = j->grad ? c->in[c->n_in - 2].data : c->out[c->n_out - 1].data;
    j->multiplied = j->grad;
    for (int k = 0; k < 2; k++) {
        struct side *s = &j->side[k];
        if (j->grad) s->dx = c->out[k].data;
        if (j->siglip) continue;
        if (j->grad) s->lse = c->in[CONTRAST_BIAS + k].data;
        s->count = j->grad ? c->in[CONTRAST_BIAS + 2 + k].data : c->out[3 + k].data;
    }
    p->n = 4;
    p->phase[0] = (struct ad_phase){.items = 1, .run = begin, .alone = true};
    cut_tiles(j, threads, p);
    p->phase[3] = (struct ad_phase){.items = 1, .run = end, .alone = true};
}

const struct ad_kernel ISA_FN(ad_kernels_contrast)[] = {
    {&ad_op_contrast, AD_F32, NULL, NULL, scratch, "tiles", .cut = cut},
    {&ad_op_contrast_grad, AD_F32, NULL, NULL, scratch, "tiles", .cut = cut},
    {0},
};
