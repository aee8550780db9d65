/* Cached gradients: embed by micro-batches, one loss, replay by micro-batches. See micro.h. */
#include "train/micro.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "optim/opt.h"

/* Memory that is used again and again and only grows. */
struct block {
    void *p;
    size_t bytes;
};

/* One modality's side of the batch. */
struct side {
    struct block unit, grad; /* (items, embed): unit vectors, and the loss's gradient by them */
    struct block rows;       /* the packed rows of the micro-batch at hand */
    int32_t *offsets;        /* (items + 1) of it */
    size_t cap_offsets;
};

struct train_micro {
    struct train_plans *plans;
    struct run_model *m;
    int64_t items;
    double part2; /* of the last step */
    struct side side[RUN_MAX_MODALITIES];
};

/* One micro-batch of one tower: items item .. item + part.cap - 1 of the batch's part, of which part.n are there. */
struct piece {
    int modality;
    int64_t item;
    int64_t first[2];
    struct data_part part;
};

struct train_micro *train_micro_new(struct train_plans *plans, int64_t items)
{
    CHECK(items > 0);
    struct train_micro *t = mem_zero(1, sizeof *t);
    t->plans = plans;
    t->m = plans->m;
    t->items = items;
    return t;
}

void train_micro_free(struct train_micro *t)
{
    if (!t) return;
    for (int i = 0; i < t->m->n; i++) {
        struct side *s = &t->side[i];
        mem_block_free(s->unit.p, s->unit.bytes);
        mem_block_free(s->grad.p, s->grad.bytes);
        mem_block_free(s->rows.p, s->rows.bytes);
        free(s->offsets);
    }
    free(t);
}

/* ERR_MEMORY; what was in the block is lost when it grows. */
static int need(struct block *b, size_t bytes, const char *what, struct err *e)
{
    if (b->bytes >= bytes) return 0;
    mem_block_free(b->p, b->bytes);
    size_t room = bytes + bytes / 8;
    *b = (struct block){mem_block(room, what, e), 0};
    if (!b->p) return ERR_MEMORY;
    b->bytes = room;
    return 0;
}

/* ---- micro-batches ----------------------------------------------------------------------------------------------- */

static int64_t piece_count(const struct train_micro *t, const struct data_part *part)
{
    int64_t n = (part->n + t->items - 1) / t->items;
    return n > 0 ? n : 1; /* a modality that nobody has: its gradient is that of its padding, zero */
}

/* The packed rows of the items, padded on their own: what follows them in the batch is not theirs to read. */
static int pack_rows(struct train_micro *t, const struct data_part *from, struct piece *p, struct err *e)
{
    const struct data_modality *d = &t->m->input[p->modality];
    struct side *s = &t->side[p->modality];
    const int32_t *at = from->offsets + p->item;
    int64_t used = at[p->part.cap] - at[0];
    size_t row = from->tokens ? sizeof(int32_t) : (size_t)data_row_width(d) * sizeof(float);
    p->part.rows = data_round_rows(used, data_row_unit(d));
    int rc = need(&s->rows, (size_t)p->part.rows * row, "a micro-batch", e);
    if (rc) return rc;
    const char *rows = from->tokens ? (const char *)from->tokens : (const char *)from->frames;
    memcpy(s->rows.p, rows + (size_t)at[0] * row, (size_t)used * row);
    memset((char *)s->rows.p + (size_t)used * row, 0, (size_t)(p->part.rows - used) * row);
    s->offsets = mem_grow(s->offsets, &s->cap_offsets, (size_t)p->part.cap + 1, sizeof *s->offsets);
    for (int64_t k = 0; k <= p->part.cap; k++) s->offsets[k] = at[k] - at[0];
    p->part.offsets = s->offsets;
    p->part.tokens = from->tokens ? s->rows.p : NULL;
    p->part.frames = from->tokens ? NULL : s->rows.p;
    return 0;
}

static int take_piece(struct train_micro *t, const struct data_batch *b, int modality, int64_t index, struct piece *p,
                      struct err *e)
{
    const struct data_part *from = &b->part[modality];
    const struct data_modality *d = &t->m->input[modality];
    *p = (struct piece){.modality = modality, .item = index * t->items};
    int64_t room = from->cap - p->item, left = from->n - p->item;
    p->part.cap = room < t->items ? room : t->items;
    p->part.n = left < p->part.cap ? left : p->part.cap;
    model_first(&t->m->tower[modality], from->offsets, d->samples, p->item, p->first);
    if (d->kind == DATA_IMAGE) {
        p->part.image = from->image + p->item * d->h * d->w * 3;
        return 0;
    }
    if (d->samples > 0) {
        p->part.frames = from->frames + p->item * d->samples;
        p->part.rows = p->part.cap * d->samples;
        return 0;
    }
    return pack_rows(t, from, p, e);
}

static struct ad_plan *piece_plan(struct train_micro *t, const struct piece *p, enum train_part part, unsigned flags,
                                  struct err *e)
{
    struct train_key key = {.part = part, .modality = p->modality, .flags = flags};
    key.shape[p->modality] = (struct model_shape){p->part.cap, p->part.rows};
    return train_plan_for(t->plans, &key, e);
}

static const char *named(const struct train_micro *t, int modality, const char *what, char out[400])
{
    int n = snprintf(out, 400, "%s.%s", t->m->tower[modality].name, what);
    CHECK(n > 0 && n < 400);
    return out;
}

/* ---- a step ------------------------------------------------------------------------------------------------------ */

static float *row_of(const struct train_micro *t, const struct block *b, int64_t item)
{
    return (float *)b->p + item * t->m->config.embed;
}

/* *square: of a replay, the sum of squares of its gradient. */
static int run_piece(struct train_micro *t, const struct piece *p, enum train_part part, unsigned flags, uint64_t seed,
                     uint64_t step, double *square, struct err *e)
{
    struct ad_plan *plan = piece_plan(t, p, part, flags, e);
    if (!plan) return e->code;
    const struct side *s = &t->side[p->modality];
    char name[400];
    run_bind_part(plan, t->m->tower[p->modality].name, &p->part);
    ad_bind(plan, named(t, p->modality, "first", name), p->first);
    if (part == TRAIN_EMBED)
        ad_bind_out(plan, named(t, p->modality, "unit", name), row_of(t, &s->unit, p->item));
    else
        ad_bind(plan, named(t, p->modality, "unit_grad", name), row_of(t, &s->grad, p->item));
    int rc = ad_run(plan, seed, step, e);
    if (rc || part == TRAIN_EMBED) return rc;
    char prefix[300];
    *square = opt_add_gradients(plan, t->m->store, train_tower_prefix(t->m, p->modality, prefix), p->item == 0,
                                t->plans->grad);
    return 0;
}

static int run_towers(struct train_micro *t, const struct data_batch *b, enum train_part part, unsigned flags,
                      uint64_t seed, uint64_t step, struct err *e)
{
    int rc = 0;
    t->part2 = 0;
    for (int i = 0; i < t->m->n && !rc; i++)
        for (int64_t k = 0, n = piece_count(t, &b->part[i]); k < n && !rc; k++) {
            struct piece p;
            double square = 0;
            rc = take_piece(t, b, i, k, &p, e);
            if (!rc) rc = run_piece(t, &p, part, flags, seed, step, &square, e);
            t->part2 += (double)n * square; /* n^2 / n: what n parts sum up to, and the mean over them */
        }
    return rc;
}

static struct ad_plan *loss_plan(struct train_micro *t, const struct data_batch *b, unsigned flags, struct err *e)
{
    struct train_key key = {.part = TRAIN_LOSS, .batch = b->size, .flags = flags};
    for (int i = 0; i < t->m->n; i++) key.shape[i].items = b->part[i].cap;
    return train_plan_for(t->plans, &key, e);
}

static int run_loss(struct train_micro *t, const struct data_batch *b, unsigned flags, uint64_t seed, uint64_t step,
                    train_micro_read *read, void *ctx, struct err *e)
{
    struct ad_plan *plan = loss_plan(t, b, flags, e);
    if (!plan) return e->code;
    char name[400];
    for (int i = 0; i < t->m->n; i++) {
        ad_bind(plan, named(t, i, "row", name), b->part[i].row);
        ad_bind(plan, named(t, i, "unit", name), t->side[i].unit.p);
        ad_bind_out(plan, named(t, i, "unit_grad", name), t->side[i].grad.p);
    }
    ad_bind(plan, "group", b->group);
    int rc = ad_run(plan, seed, step, e);
    if (!rc && read) read(ctx, plan);
    return rc;
}

int train_micro_run(struct train_micro *t, const struct data_batch *b, unsigned flags, uint64_t seed, uint64_t step,
                    train_micro_read *read, void *ctx, struct err *e)
{
    int rc = 0;
    ad_weights_changed(&t->m->space); /* by the step before, or by whoever loaded them */
    for (int i = 0; i < t->m->n && !rc; i++) {
        size_t bytes = (size_t)(b->part[i].cap * t->m->config.embed) * sizeof(float);
        rc = need(&t->side[i].unit, bytes, "embeddings", e);
        if (!rc) rc = need(&t->side[i].grad, bytes, "gradients of embeddings", e);
    }
    if (!rc) rc = run_towers(t, b, TRAIN_EMBED, flags, seed, step, e);
    if (!rc) rc = run_loss(t, b, flags, seed, step, read, ctx, e);
    if (!rc) rc = run_towers(t, b, TRAIN_REPLAY, flags, seed, step, e);
    return rc;
}

/* ---- figures ----------------------------------------------------------------------------------------------------- */

static void add_stats(struct ad_plan_stats *all, const struct ad_plan *p)
{
    struct ad_plan_stats s = ad_plan_stats(p);
    all->nodes += s.nodes;
    all->steps += s.steps;
    all->fused += s.fused;
    all->views += s.views;
    all->in_place += s.in_place;
    all->recomputed += s.recomputed;
    all->flops += s.flops;
    all->build_s += s.build_s;
    if (s.arena_bytes > all->arena_bytes) all->arena_bytes = s.arena_bytes;
    if (s.free_bytes > all->free_bytes) all->free_bytes = s.free_bytes;
    all->again_flops += s.again_flops;
    all->limit_s += s.limit_s;
    all->again_s += s.again_s;
    if (s.unshared_bytes > all->unshared_bytes) all->unshared_bytes = s.unshared_bytes;
}

struct ad_plan_stats train_micro_plan(struct train_micro *t, const struct data_batch *b, unsigned flags, struct err *e)
{
    struct ad_plan_stats all = {0};
    const struct ad_plan *plan = loss_plan(t, b, flags, e);
    int rc = plan ? 0 : e->code;
    if (plan) add_stats(&all, plan);
    for (int i = 0; i < t->m->n && !rc; i++)
        for (int64_t k = 0, n = piece_count(t, &b->part[i]); k < n && !rc; k++)
            for (int again = 0; again < 2 && !rc; again++) {
                struct piece p;
                rc = take_piece(t, b, i, k, &p, e);
                plan = rc ? NULL : piece_plan(t, &p, again ? TRAIN_REPLAY : TRAIN_EMBED, flags, e);
                if (plan)
                    add_stats(&all, plan);
                else
                    rc = e->code;
            }
    return rc ? (struct ad_plan_stats){0} : all;
}

double train_micro_part2(const struct train_micro *t)
{
    return t->part2;
}

int64_t train_micro_bytes(const struct train_micro *t)
{
    int64_t bytes = 0;
    for (int i = 0; i < t->m->n; i++) bytes += (int64_t)(t->side[i].unit.bytes + t->side[i].grad.bytes);
    return bytes;
}
