/* The contrastive losses and their gradients in f32, by tiles of the (N, M) similarities: a tile is multiplied, used and
 * forgotten, and for the gradient multiplied again, unless it is one of those kept.
 *
 * Tiles are taken in waves. In wave w block i of the side with fewer blocks (p of them) meets block (i + w) mod q of the
 * other: within a wave no block occurs twice, so that nobody else adds to a block's running sums or to its gradient, and
 * what a block sums up comes in an order that depends on the sizes alone. A tile waits for the tiles before it that share a
 * block with it and for no others: threads are not held together at the end of a wave. */
#pragma GCC optimize("O3")
#include <math.h>
#include <sched.h>
#include <string.h>

#include "autograd/kernels/gemm.h"
#include "autograd/kernels/vfunc.h"
#include "autograd/ops/contrast.h"
#include "base/isa.h"

enum { TILE = CONTRAST_TILE, LD = TILE + 16 }; /* rows of a tile on the stack lie LD apart */

/* Rows (side 0) or columns (side 1) of the similarities. */
struct side {
    const float *x; /* (n, D), rows ld apart */
    int64_t n, ld;
    const float *has;
    const int32_t *id;
    float *top;         /* InfoNCE forward: the largest logit so far */
    double *sum, *mean; /* of exp(logit - top), of positives' logits */
    float *count;       /* positives; forward: output, backward: input */
    const float *lse;   /* backward */
    float weight;       /* backward: of each query that counts */
    float *dx;          /* backward (n, D) */
};

struct job {
    struct side side[2];
    struct contrast_tiles tiles;
    int64_t width, block;
    float *kept;     /* [tiles.kept] tiles of block x block */
    bool multiplied; /* they are there already */
    float scale, bias, dloss;
    double *part[2]; /* [tiles.rows] sums over a block of rows: SigLIP's loss; dscale, dbias */
    int32_t *done;   /* waves behind each block of the shorter side */
    bool siglip, grad;
};
_Static_assert(sizeof(struct job) <= AD_JOB_BYTES, "a job lies in struct ad_parts");

/* What the threads share, at the start of the scratch. */
struct shared {
    int64_t next;    /* the first tile that no thread has taken */
    float weight[2]; /* as in struct side */
};

/* A range of one side, at most TILE long. */
struct span {
    const struct side *s;
    int64_t at, n;
};

static int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static size_t room_of(const struct job *j)
{
    size_t rows = (size_t)(j->side[0].n + j->side[1].n);
    return sizeof(struct shared) + (size_t)(2 * j->tiles.rows) * sizeof(double) +
           (j->siglip ? 0 : rows * (2 * sizeof(double) + sizeof(float))) +
           (size_t)min_of(j->tiles.rows, j->tiles.columns) * sizeof(int32_t);
}

/* Sizes, inputs, outputs, scratch: c without data gives the sizes. What is in them is for `begin` and what follows. */
static struct job job_of(const struct ad_call *c)
{
    struct job j = {.siglip = ((const struct contrast_attr *)c->attr)->kind == CONTRAST_SIGLIP,
                    .grad = c->op == &ad_op_contrast_grad};
    const struct ad_tensor *in = c->in;
    j.width = in[CONTRAST_A].shape.dim[1];
    j.tiles = contrast_tiles(c->attr, AD_F32, in[CONTRAST_A].shape.dim[0], in[CONTRAST_B].shape.dim[0]);
    j.block = j.tiles.block;
    for (int k = 0; k < 2; k++) {
        struct side *s = &j.side[k];
        s->x = in[CONTRAST_A + k].data;
        s->n = in[CONTRAST_A + k].shape.dim[0];
        s->ld = s->n > 1 ? in[CONTRAST_A + k].stride[0] : j.width;
        s->has = in[CONTRAST_HAS_A + k].data;
        s->id = in[CONTRAST_ID_A + k].data;
    }
    if (!c->scratch) return j;
    double *room = (double *)(void *)((struct shared *)c->scratch + 1);
    for (int k = 0; k < 2; k++) j.part[k] = room, room += j.tiles.rows;
    for (int k = 0; k < 2 && !j.siglip; k++) {
        j.side[k].sum = room, room += j.side[k].n;
        j.side[k].mean = room, room += j.side[k].n;
    }
    float *more = (float *)room;
    for (int k = 0; k < 2 && !j.siglip; k++) j.side[k].top = more, more += j.side[k].n;
    j.done = (int32_t *)more;
    return j;
}

static size_t scratch(const struct ad_call *c)
{
    struct ad_call sizes = *c;
    sizes.scratch = NULL;
    struct job j = job_of(&sizes);
    return room_of(&j) + 1;
}

/* ---- tiles -------------------------------------------------------------------------------------------------------- */

typedef void (*tile_fn)(const struct job *j, struct span rows, struct span columns, float *room);

static struct span span_of(const struct job *j, int side, int64_t block)
{
    const struct side *s = &j->side[side];
    return (struct span){s, block * j->block, min_of(j->block, s->n - block * j->block)};
}

/* Blocks of the shorter side. */
static int64_t shorter(const struct job *j)
{
    return min_of(j->tiles.rows, j->tiles.columns);
}

/* One thread's part: tiles in the order that the top of the file tells, until there are none. */
static void take_tiles(const struct job *j, int64_t *next, tile_fn tile)
{
    bool swap = j->tiles.rows > j->tiles.columns;
    int64_t p = shorter(j), q = swap ? j->tiles.rows : j->tiles.columns;
    int32_t *done = j->done;
    float room[TILE * LD] __attribute__((aligned(64)));
    gemm_enter_thread();
    for (int64_t t; (t = ad_take(next, 1, p * q)) < p * q;) {
        int64_t w = t / p, i = t % p, k = (i + w) % q;
        /* Block k was last with block i + 1, one wave ago; of the last i, with block 0, q - p waves before that. */
        bool last = i + 1 == p;
        const int32_t *other = &done[last ? 0 : i + 1];
        while (__atomic_load_n(&done[i], __ATOMIC_ACQUIRE) < w ||
               __atomic_load_n(other, __ATOMIC_ACQUIRE) < (last ? w - (q - p) : w))
            sched_yield();
        tile(j, span_of(j, 0, swap ? k : i), span_of(j, 1, swap ? i : k), room);
        __atomic_store_n(&done[i], (int32_t)w + 1, __ATOMIC_RELEASE);
    }
}

static const float *row_of(struct span s, int64_t i)
{
    return s.s->x + (s.at + i) * s.s->ld;
}

/* The products of a tile. */
struct tile {
    const float *u;
    int64_t ld;
};

/* A B' of a tile: kept, or in `room` where it is not. */
static struct tile similarities(const struct job *j, struct span r, struct span c, float *room)
{
    int64_t number = r.at / j->block * j->tiles.columns + c.at / j->block;
    bool keep = number < j->tiles.kept;
    float *u = keep ? j->kept + number * j->block * j->block : room;
    struct tile t = {u, keep ? j->block : LD};
    if (keep && j->multiplied) return t;
    if (keep && (r.n < j->block || c.n < j->block)) /* a tensor has no holes: it may be looked at for NaNs */
        memset(u, 0, (size_t)(j->block * j->block) * sizeof *u);
    gemm_block(&(struct gemm_args){.m = r.n,
                                   .n = c.n,
                                   .k = j->width,
                                   .a = row_of(r, 0),
                                   .a_row = r.s->ld,
                                   .a_col = 1,
                                   .b = row_of(c, 0),
                                   .b_row = 1,
                                   .b_col = c.s->ld,
                                   .c = u,
                                   .c_row = t.ld});
    return t;
}

/* What a tile asks about its columns; what lies behind the last is absent. */
struct columns {
    int32_t keep[TILE], id[TILE]; /* keep: -1 where there is a vector */
    int64_t padded;               /* to whole vectors */
    bool positives;               /* there may be some: the ranges of ids meet */
} __attribute__((aligned(64)));

static void id_range(struct span s, int32_t *lo, int32_t *hi)
{
    *lo = *hi = s.s->id[s.at];
    for (int64_t i = 1; i < s.n; i++) {
        int32_t id = s.s->id[s.at + i];
        *lo = id < *lo ? id : *lo;
        *hi = id > *hi ? id : *hi;
    }
}

static void columns_of(struct span r, struct span c, struct columns *to)
{
    int32_t lo[2], hi[2];
    id_range(r, &lo[0], &hi[0]);
    id_range(c, &lo[1], &hi[1]);
    to->positives = lo[0] <= hi[1] && lo[1] <= hi[0];
    to->padded = (c.n + VL - 1) / VL * VL;
    for (int64_t i = 0; i < c.n; i++) {
        to->keep[i] = c.s->has[c.at + i] != 0 ? -1 : 0;
        to->id[i] = c.s->id[c.at + i];
    }
    for (int64_t i = c.n; i < to->padded; i++) to->keep[i] = to->id[i] = 0;
}

SIMD_FN vi vi_load(const int32_t *p)
{
    vi x;
    memcpy(&x, p, sizeof x);
    return x;
}
/* Where lanes of a mask are -1 or 0: x or 0, a or b. */
SIMD_FN vf keep_lanes(vi mask, vf x)
{
    return (vf)(mask & (vi)x);
}
SIMD_FN vf pick_lanes(vi mask, vf a, vf b)
{
    return (vf)((mask & (vi)a) | (~mask & (vi)b));
}

/* ---- InfoNCE forward ---------------------------------------------------------------------------------------------- */

/* What to subtract before exp: a row without logits (all -inf) must not make NaNs. */
static float reference(float top)
{
    return top == -INFINITY ? 0 : top;
}

/* `part` is a sum of exp(logit - reference(top)); NaN among the logits is not in top but in part. */
static void join(float *top, double *sum, float more_top, float part)
{
    if (more_top > *top) {
        *sum = *sum * exp((double)*top - (double)more_top) + (double)part;
        *top = more_top;
    } else if (more_top == -INFINITY) {
        *sum += (double)part;
    } else {
        *sum += (double)part * exp((double)more_top - (double)*top);
    }
}

static float largest(vf x)
{
    float top = x[0];
    for (int i = 1; i < VL; i++) top = x[i] > top ? x[i] : top;
    return top;
}

/* Logits in s (which may be the products' own memory), -inf where the column is absent; the largest of each row and, in
 * top, of each column. */
static void logits(const struct job *j, struct span r, const struct columns *k, struct tile t, float *s, float *row_top,
                   float *top)
{
    vf scale = vf_set(j->scale), none = vf_set(-INFINITY);
    for (int64_t x = 0; x < k->padded; x += VL) vf_store(top + x, none);
    for (int64_t i = 0; i < r.n; i++, s += LD) {
        vf most = none;
        const float *u = t.u + i * t.ld;
        if (r.s->has[r.at + i] == 0) continue;
        for (int64_t x = 0; x < k->padded; x += VL) {
            vf y = pick_lanes(vi_load(k->keep + x), vf_load(u + x) * scale, none);
            vf_store(s + x, y);
            most = vf_max(y, most);
            vf_store(top + x, vf_max(y, vf_load(top + x)));
        }
        row_top[i] = largest(most);
    }
}

/* Adds the positives of the tile to both sides' means and counts. */
static void add_positives(struct span r, struct span c, const struct columns *k, const float *s)
{
    float mean[TILE] __attribute__((aligned(64)));
    int32_t count[TILE] __attribute__((aligned(64)));
    memset(mean, 0, sizeof mean);
    memset(count, 0, sizeof count);
    for (int64_t i = 0; i < r.n; i++, s += LD) {
        vf row_mean = vf_set(0);
        vi row_count = {0};
        int32_t id = r.s->id[r.at + i];
        if (r.s->has[r.at + i] == 0) continue;
        for (int64_t x = 0; x < k->padded; x += VL) {
            vi same = (vi_load(k->id + x) == id) & vi_load(k->keep + x), n;
            vf here = keep_lanes(same, vf_load(s + x));
            row_mean += here;
            row_count -= same;
            vf_store(mean + x, vf_load(mean + x) + here);
            n = vi_load(count + x) - same;
            memcpy(count + x, &n, sizeof n);
        }
        int32_t n = 0;
        for (int x = 0; x < VL; x++) n += row_count[x];
        r.s->mean[r.at + i] += (double)vf_sum(row_mean);
        r.s->count[r.at + i] += (float)n;
    }
    for (int64_t x = 0; x < c.n; x++) {
        c.s->mean[c.at + x] += (double)mean[x];
        c.s->count[c.at + x] += (float)count[x];
    }
}

static void infonce_tile(const struct job *j, struct span r, struct span c, float *s)
{
    float row_top[TILE], top[TILE], from[TILE], sum[TILE];
    struct columns k;
    columns_of(r, c, &k);
    logits(j, r, &k, similarities(j, r, c, s), s, row_top, top);
    for (int64_t x = 0; x < k.padded; x++) from[x] = reference(top[x]), sum[x] = 0;
    for (int64_t i = 0; i < r.n; i++) {
        const float *row = s + i * LD;
        if (r.s->has[r.at + i] == 0) continue;
        vf part = vf_set(0), row_from = vf_set(reference(row_top[i]));
        for (int64_t x = 0; x < k.padded; x += VL) {
            vf y = vf_load(row + x);
            part += vf_exp_cut(y - row_from);
            vf_store(sum + x, vf_load(sum + x) + vf_exp_cut(y - vf_load(from + x)));
        }
        join(&r.s->top[r.at + i], &r.s->sum[r.at + i], row_top[i], vf_sum(part));
    }
    for (int64_t x = 0; x < c.n; x++) join(&c.s->top[c.at + x], &c.s->sum[c.at + x], top[x], sum[x]);
    if (k.positives) add_positives(r, c, &k, s);
}

/* l and c of one side are complete: the mean loss of its queries. */
static double finish(const struct side *s, float *lse)
{
    double total = 0, queries = 0;
    for (int64_t i = 0; i < s->n; i++) {
        double l = s->has[i] == 0 || s->sum[i] == 0 ? 0 : (double)s->top[i] + log(s->sum[i]);
        lse[i] = (float)l;
        if (s->count[i] == 0) continue;
        total += l - s->mean[i] / (double)s->count[i];
        queries++;
    }
    return queries > 0 ? total / queries : 0;
}

/* ---- SigLIP forward ----------------------------------------------------------------------------------------------- */

static void siglip_tile(const struct job *j, struct span r, struct span c, float *room)
{
    struct columns k;
    struct tile tile = similarities(j, r, c, room);
    double total = 0;
    columns_of(r, c, &k);
    for (int64_t i = 0; i < r.n; i++) {
        const float *u = tile.u + i * tile.ld;
        vf sum = vf_set(0);
        if (r.s->has[r.at + i] == 0) continue;
        for (int64_t x = 0; x < k.padded; x += VL) {
            vi keep = vi_load(k.keep + x), same = vi_load(k.id + x) == r.s->id[r.at + i];
            vf t = keep_lanes(keep, vf_load(u + x)) * j->scale + j->bias;
            sum += keep_lanes(keep, vf_softplus(pick_lanes(same, -t, t)));
        }
        total += (double)vf_sum(sum);
    }
    j->part[0][r.at / j->block] += total;
}

static double total_of(const struct job *j, int k)
{
    double total = 0;
    for (int64_t i = 0; i < j->tiles.rows; i++) total += j->part[k][i];
    return total;
}

/* ---- backward ----------------------------------------------------------------------------------------------------- */

/* dA += H B, dB += H' A */
static void add_gradients(const struct job *j, struct span r, struct span c, const float *h)
{
    struct gemm_args g = {.m = r.n,
                          .n = j->width,
                          .k = c.n,
                          .a = h,
                          .a_row = LD,
                          .a_col = 1,
                          .b = row_of(c, 0),
                          .b_row = c.s->ld,
                          .b_col = 1,
                          .c = r.s->dx + r.at * j->width,
                          .c_row = j->width,
                          .add = true};
    gemm_block(&g);
    g.m = c.n;
    g.k = r.n;
    g.a_row = 1;
    g.a_col = LD;
    g.b = row_of(r, 0);
    g.b_row = r.s->ld;
    g.c = c.s->dx + c.at * j->width;
    gemm_block(&g);
}

/* A query's weight, and that of each of its positives. */
static float weight_of(const struct side *s, int64_t i, float *positive)
{
    float w = s->count[i] > 0 ? s->weight : 0;
    *positive = s->count[i] > 0 ? s->weight / s->count[i] : 0;
    return w;
}

/* Of each column: weight, weight of a positive, logsumexp. */
struct column_weights {
    float all[TILE], positive[TILE], lse[TILE];
};

/* h[] = scale h of row i, from its products u (which may be the same memory); adds h u to dscale. */
SIMD_FN void infonce_row(const struct job *j, struct span r, int64_t i, const struct columns *k,
                         const struct column_weights *w, bool positives, const float *u, float *to, double *dscale)
{
    float mine, each = 0, lse = r.s->lse[r.at + i], scale = j->scale;
    vf sum = vf_set(0);
    mine = weight_of(r.s, r.at + i, &each);
    for (int64_t x = 0; x < k->padded; x += VL) {
        vi keep = vi_load(k->keep + x);
        vf y = keep_lanes(keep, vf_load(u + x)), s = y * scale;
        vf h = mine * vf_exp_down(s - lse) + vf_load(w->all + x) * vf_exp_down(s - vf_load(w->lse + x));
        if (positives) h -= keep_lanes(vi_load(k->id + x) == r.s->id[r.at + i], vf_load(w->positive + x) + each);
        h = keep_lanes(keep, h);
        sum += h * y;
        vf_store(to + x, h * scale);
    }
    *dscale += (double)vf_sum(sum);
}

static void infonce_grad_tile(const struct job *j, struct span r, struct span c, float *h)
{
    struct columns k;
    struct tile t = similarities(j, r, c, h);
    struct column_weights w;
    double dscale = 0;
    columns_of(r, c, &k);
    for (int64_t x = 0; x < k.padded; x++) {
        w.all[x] = w.positive[x] = w.lse[x] = 0;
        if (x >= c.n) continue;
        w.all[x] = weight_of(c.s, c.at + x, &w.positive[x]);
        w.lse[x] = c.s->lse[c.at + x];
    }
    for (int64_t i = 0; i < r.n; i++)
        if (r.s->has[r.at + i] == 0)
            memset(h + i * LD, 0, (size_t)k.padded * sizeof *h);
        else if (k.positives)
            infonce_row(j, r, i, &k, &w, true, t.u + i * t.ld, h + i * LD, &dscale);
        else
            infonce_row(j, r, i, &k, &w, false, t.u + i * t.ld, h + i * LD, &dscale);
    j->part[0][r.at / j->block] += dscale;
    add_gradients(j, r, c, h);
}

static void siglip_grad_tile(const struct job *j, struct span r, struct span c, float *room)
{
    struct columns k;
    struct tile tile = similarities(j, r, c, room);
    double dscale = 0, dbias = 0;
    columns_of(r, c, &k);
    for (int64_t i = 0; i < r.n; i++) {
        const float *u = tile.u + i * tile.ld;
        float *row = room + i * LD;
        vf with_u = vf_set(0), alone = with_u;
        if (r.s->has[r.at + i] == 0) {
            memset(row, 0, (size_t)k.padded * sizeof *row);
            continue;
        }
        for (int64_t x = 0; x < k.padded; x += VL) {
            vi keep = vi_load(k.keep + x), same = vi_load(k.id + x) == r.s->id[r.at + i];
            vf y = keep_lanes(keep, vf_load(u + x)), t = y * j->scale + j->bias;
            vf h = pick_lanes(same, vf_set(-j->dloss), vf_set(j->dloss)) / (1.0f + vf_exp_cut(pick_lanes(same, t, -t)));
            h = keep_lanes(keep, h);
            with_u += h * y;
            alone += h;
            vf_store(row + x, h * j->scale);
        }
        dscale += (double)vf_sum(with_u);
        dbias += (double)vf_sum(alone);
    }
    j->part[0][r.at / j->block] += dscale;
    j->part[1][r.at / j->block] += dbias;
    add_gradients(j, r, c, room);
}

/* 0 times what is not finite is NaN; an absent vector's gradient stays 0. */
static void clear_absent(const struct side *s, int64_t width)
{
    for (int64_t i = 0; i < s->n; i++)
        if (s->has[i] == 0) memset(s->dx + i * width, 0, (size_t)width * sizeof *s->dx);
}

/* ---- phases --------------------------------------------------------------------------------------------------------- */

static void begin_forward(const struct job *j)
{
    for (int k = 0; k < 2 && !j->siglip; k++) {
        const struct side *s = &j->side[k];
        memset(s->count, 0, (size_t)s->n * sizeof *s->count);
        for (int64_t i = 0; i < s->n; i++) s->top[i] = -INFINITY;
    }
}

static void begin_backward(const struct job *j, float dloss, float *weight)
{
    for (int k = 0; k < 2; k++) {
        const struct side *s = &j->side[k];
        memset(s->dx, 0, (size_t)(s->n * j->width) * sizeof *s->dx);
        if (j->siglip) continue;
        int64_t queries = 0;
        for (int64_t i = 0; i < s->n; i++) queries += s->count[i] > 0;
        weight[k] = queries ? (float)((double)dloss / (2 * (double)queries)) : 0;
    }
}

static float dloss_of(const struct ad_call *c)
{
    return *(const float *)c->in[c->n_in - 1].data;
}

static void begin(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct job *j = job;
    struct shared *shared = c->scratch;
    memset(shared, 0, room_of(j));
    if (j->grad)
        begin_backward(j, dloss_of(c), shared->weight);
    else
        begin_forward(j);
}

static void run_tiles(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    struct job j = *(const struct job *)job;
    struct shared *shared = c->scratch;
    j.scale = *(const float *)c->in[CONTRAST_SCALE].data;
    if (j.siglip) j.bias = *(const float *)c->in[CONTRAST_BIAS].data;
    if (j.grad) j.dloss = dloss_of(c);
    for (int k = 0; k < 2; k++) j.side[k].weight = shared->weight[k];
    if (j.grad)
        take_tiles(&j, &shared->next, j.siglip ? siglip_grad_tile : infonce_grad_tile);
    else
        take_tiles(&j, &shared->next, j.siglip ? siglip_tile : infonce_tile);
}

static void end(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct job *j = job;
    if (j->grad) {
        for (int k = 0; k < 2; k++) clear_absent(&j->side[k], j->width);
        for (int k = 0; k < c->n_out - 2; k++) *(float *)c->out[2 + k].data = (float)total_of(j, k);
        return;
    }
    double loss = j->siglip ? total_of(j, 0) : 0;
    for (int k = 0; k < 2 && !j->siglip; k++) loss += finish(&j->side[k], c->out[1 + k].data) / 2;
    *(float *)c->out[0].data = (float)loss;
}

static void cut(const struct ad_call *c, int threads, struct ad_parts *p)
{
    struct job *j = (void *)p->job;
    *j = job_of(c);
    j->kept = j->grad ? c->in[c->n_in - 2].data : c->out[c->n_out - 1].data;
    j->multiplied = j->grad;
    for (int k = 0; k < 2; k++) {
        struct side *s = &j->side[k];
        if (j->grad) s->dx = c->out[k].data;
        if (j->siglip) continue;
        if (j->grad) s->lse = c->in[CONTRAST_BIAS + k].data;
        s->count = j->grad ? c->in[CONTRAST_BIAS + 2 + k].data : c->out[3 + k].data;
    }
    p->n = 3;
    p->phase[0] = (struct ad_phase){.items = 1, .run = begin, .alone = true};
    int64_t tiles = shorter(j); /* that can be at work at the same time */
    p->phase[1] = (struct ad_phase){.items = min_of(threads, tiles), .run = run_tiles, .alone = tiles <= 1};
    p->phase[2] = (struct ad_phase){.items = 1, .run = end, .alone = true};
}

const struct ad_kernel ISA_FN(ad_kernels_contrast)[] = {
    {&ad_op_contrast, AD_F32, NULL, NULL, scratch, "tiles", .cut = cut},
    {&ad_op_contrast_grad, AD_F32, NULL, NULL, scratch, "tiles", .cut = cut},
    {0},
};
