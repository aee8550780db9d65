/* AdamW and SGD in one pass over memory. See opt.h. */
#include "optim/opt.h"

#include <fnmatch.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/threads.h"
#include "optim/steps.h"

const char *const opt_kind_names[] = {"adamw", "sgd", NULL};
const char *const opt_decay_names[] = {"cosine", "linear", "constant", NULL};
const char *const opt_state_names[] = {"f32", "bf16", NULL};

/* A run of the flat buffer with one set of factors. */
struct segment {
    int64_t from, to;
    float lr_scale, decay;
};

enum { BLOCK = 16384, MAX_PARTS = 256 }; /* elements a task: bounds that do not depend on the thread count */

struct opt {
    struct opt_config c;
    struct ad_store *store;
    struct segment *segment;
    int n_segment;
    int64_t n, steps;
    struct opt_buffer state[3]; /* AdamW: m, v; SGD: momentum; then the average if there is one */
    int n_state;
    float *ema;
};

static size_t state_bytes(const struct opt *o, int i)
{
    return (size_t)o->n * (o->state[i].bf16 ? 2 : 4);
}

static bool add_state(struct opt *o, const char *name, bool bf16, struct err *e)
{
    struct opt_buffer *b = &o->state[o->n_state];
    *b = (struct opt_buffer){.name = name, .bf16 = bf16};
    b->data = mem_block(state_bytes(o, o->n_state), name, e);
    o->n_state += b->data != NULL;
    return b->data;
}

static struct segment segment_of(const struct opt_config *c, const struct ad_entry *p, bool *hit)
{
    struct segment s = {.from = p->offset, .to = p->offset + p->count, .lr_scale = 1, .decay = (float)c->weight_decay};
    for (int i = 0; i < c->n_group; i++) {
        if (fnmatch(c->group[i].pattern, p->name, 0)) continue;
        hit[i] = true;
        s.lr_scale = (float)c->group[i].lr_scale;
        if (c->group[i].weight_decay >= 0) s.decay = (float)c->group[i].weight_decay;
        break;
    }
    if (p->flags & AD_NO_DECAY) s.decay = 0;
    return s;
}

static int make_segments(struct opt *o, struct err *e)
{
    bool *hit = mem_zero((size_t)o->c.n_group + 1, sizeof *hit);
    o->segment = mem_zero((size_t)ad_store_count(o->store) + 1, sizeof *o->segment);
    for (int i = 0; i < ad_store_count(o->store); i++) {
        const struct ad_entry *p = ad_store_at(o->store, i);
        if (p->flags & AD_STATE || p->dtype != AD_F32) continue;
        struct segment s = segment_of(&o->c, p, hit), *last = o->n_segment ? &o->segment[o->n_segment - 1] : NULL;
        if (last && last->lr_scale == s.lr_scale && last->decay == s.decay)
            last->to = s.to; /* the gap between is zero and stays so */
        else
            o->segment[o->n_segment++] = s;
    }
    int rc = 0;
    for (int i = 0; i < o->c.n_group && !rc; i++)
        if (!hit[i])
            rc = err_set(e, ERR_CONFIG,
                         "optim: the group pattern '%s' matches no parameter (or an earlier group takes them all)",
                         o->c.group[i].pattern);
    free(hit);
    return rc;
}

struct opt *opt_new(const struct opt_config *c, struct ad_store *s, struct err *e)
{
    struct opt *o = mem_zero(1, sizeof *o);
    o->c = *c;
    o->store = s;
    o->n = ad_store_flat_count(s);
    bool ok = make_segments(o, e) == 0;
    bool half = c->state == OPT_BF16;
    if (c->kind == OPT_ADAMW)
        ok = ok && add_state(o, "adamw.m", half, e) && add_state(o, "adamw.v", half, e);
    else if (c->momentum > 0)
        ok = ok && add_state(o, "sgd.momentum", false, e);
    if (ok && c->ema > 0) {
        ok = add_state(o, "ema", false, e);
        if (ok) o->ema = memcpy(o->state[o->n_state - 1].data, ad_store_flat(s), (size_t)o->n * sizeof(float));
    }
    if (ok) return o;
    opt_free(o);
    return NULL;
}

void opt_free(struct opt *o)
{
    if (!o) return;
    for (int i = 0; i < o->n_state; i++) mem_block_free(o->state[i].data, state_bytes(o, i));
    free(o->segment);
    free(o);
}

double opt_lr(const struct opt_config *c, int64_t step, double progress)
{
    double warm = c->warmup > 0 && step < c->warmup ? (double)(step + 1) / (double)c->warmup : 1, f = 1;
    if (progress < 0) progress = 0;
    if (progress > 1) progress = 1;
    if (c->decay == OPT_COSINE) f = 0.5 * (1 + cos(M_PI * progress)); /* (Loshchilov & Hutter 2017, eq. 5) */
    if (c->decay == OPT_LINEAR) f = 1 - progress;
    return c->lr * warm * (c->floor + (1 - c->floor) * f);
}

double opt_norm(const float *grad, int64_t n)
{
    int64_t each = (n / MAX_PARTS / BLOCK + 1) * BLOCK, parts = (n + each - 1) / each;
    double part[MAX_PARTS], sum = 0;
#pragma omp parallel for schedule(static) if (n > PAR_MIN)
    for (int64_t b = 0; b < parts; b++) {
        int64_t to = (b + 1) * each < n ? (b + 1) * each : n;
        part[b] = ISA_PICK(opt_squares)(grad + b * each, to - b * each);
    }
    for (int64_t b = 0; b < parts; b++) sum += part[b];
    return sqrt(sum);
}

/* One segment's part of a block. */
static void run_piece(const struct opt *o, const struct opt_factors *f, const float *grad, int64_t from, int64_t to)
{
    struct opt_piece p = {.n = to - from,
                          .first = from,
                          .w = ad_store_flat(o->store) + from,
                          .g = grad + from,
                          .ema = o->ema ? o->ema + from : NULL};
    bool half = o->state[0].bf16, moments = o->c.kind == OPT_ADAMW || o->c.momentum > 0;
    if (moments) p.m = (char *)o->state[0].data + from * (half ? 2 : 4);
    if (o->c.kind == OPT_ADAMW) p.v = (char *)o->state[1].data + from * (half ? 2 : 4);
    if (o->c.kind == OPT_SGD)
        ISA_PICK(opt_sgd)(&p, f);
    else if (half)
        ISA_PICK(opt_adamw16)(&p, f);
    else
        ISA_PICK(opt_adamw)(&p, f);
}

static void run_average(const struct opt *o, const struct opt_factors *f, int64_t from, int64_t to)
{
    struct opt_piece p = {.n = to - from, .w = ad_store_flat(o->store) + from, .ema = o->ema ? o->ema + from : NULL};
    if (o->ema && from < to) ISA_PICK(opt_follow)(&p, f);
}

static void block_step(const struct opt *o, const struct opt_factors *common, const float *grad, double lr,
                       int64_t from, int64_t to)
{
    int64_t done = from; /* the averages follow from here on; gaps and frozen segments do not move but may be behind */
    for (int k = 0; k < o->n_segment; k++) {
        const struct segment *s = &o->segment[k];
        int64_t a = from > s->from ? from : s->from, b = to < s->to ? to : s->to;
        if (a >= b || s->lr_scale == 0) continue;
        struct opt_factors f = *common;
        f.lr = (float)(lr * s->lr_scale);
        f.decay = s->decay;
        run_average(o, common, done, a);
        run_piece(o, &f, grad, a, b);
        done = b;
    }
    run_average(o, common, done, to);
}

void opt_step(struct opt *o, const float *grad, double norm, double lr)
{
    o->steps++;
    struct opt_factors f = {.b1 = (float)o->c.beta1,
                            .b2 = (float)o->c.beta2,
                            .eps = (float)o->c.eps,
                            .momentum = (float)o->c.momentum,
                            .nesterov = o->c.nesterov,
                            .grad_scale = 1,
                            .ema = (float)o->c.ema,
                            .key = hash_str("optim.state"),
                            .step = (uint64_t)o->steps};
    f.fix1 = (float)(1 / (1 - pow(o->c.beta1, (double)o->steps)));
    f.fix2 = (float)(1 / (1 - pow(o->c.beta2, (double)o->steps)));
    if (o->c.clip > 0 && norm > o->c.clip)
        f.grad_scale = (float)(o->c.clip / (norm + 1e-6)); /* as torch.nn.utils.clip_grad_norm_ */
    int64_t blocks = (o->n + BLOCK - 1) / BLOCK;
#pragma omp parallel for schedule(static) if (o->n > PAR_MIN)
    for (int64_t b = 0; b < blocks; b++) {
        int64_t to = (b + 1) * BLOCK < o->n ? (b + 1) * BLOCK : o->n;
        block_step(o, &f, grad, lr, b * BLOCK, to);
    }
}

int opt_state_count(const struct opt *o)
{
    return o->n_state;
}

struct opt_buffer opt_state(const struct opt *o, int i)
{
    return o->state[i];
}

int64_t opt_steps(const struct opt *o)
{
    return o->steps;
}
void opt_set_steps(struct opt *o, int64_t steps)
{
    o->steps = steps;
}
const float *opt_ema(const struct opt *o)
{
    return o->ema;
}

double opt_bytes_per_parameter(const struct opt_config *c)
{
    return (c->kind == OPT_ADAMW ? c->state == OPT_BF16 ? 4.0 : 8.0
            : c->momentum > 0    ? 4.0
                                 : 0.0) +
           (c->ema > 0 ? 4.0 : 0.0);
}
