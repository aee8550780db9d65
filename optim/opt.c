/* An optimizer's parameters, their states, and the step over them. See opt.h. */
#include "optim/opt.h"

#include <fnmatch.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/threads.h"
#include "optim/inner.h"

const char *const opt_kind_names[] = {"adamw", "sgd", "lamb", "lars", "lion", "adafactor", "muon", NULL};
const char *const opt_decay_names[] = {"cosine", "linear", "constant", NULL};
const char *const opt_muon_rate_names[] = {"match_rms", "original", NULL};

/* ---- parameters, states, tasks ----------------------------------------------------------------------------------- */

static enum opt_kind rule_of(const struct opt_config *c, const struct ad_entry *p)
{
    bool hidden = p->shape.rank == 2 && !(p->flags & (AD_EDGE | AD_NO_DECAY));
    return c->kind == OPT_MUON && !hidden ? OPT_ADAMW : c->kind;
}

static struct opt_param param_of(const struct opt_config *c, const struct ad_entry *p, bool *hit)
{
    struct opt_param q = {
        .entry = p, .rule = rule_of(c, p), .lr_scale = 1, .decay = (float)c->weight_decay, .trust = 1};
    for (int i = 0; i < c->n_group; i++) {
        if (fnmatch(c->group[i].pattern, p->name, 0)) continue;
        hit[i] = true;
        q.lr_scale = (float)c->group[i].lr_scale;
        if (c->group[i].weight_decay >= 0) q.decay = (float)c->group[i].weight_decay;
        break;
    }
    if (p->flags & AD_NO_DECAY) q.decay = 0;
    return q;
}

static int make_params(struct opt *o, struct err *e)
{
    bool *hit = mem_zero((size_t)o->c.n_group + 1, sizeof *hit);
    o->param = mem_zero((size_t)ad_store_count(o->store) + 1, sizeof *o->param);
    for (int i = 0; i < ad_store_count(o->store); i++) {
        const struct ad_entry *p = ad_store_at(o->store, i);
        if (ad_in_flat(p)) o->param[o->n_param++] = param_of(&o->c, p, hit);
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

static void make_tasks(struct opt *o)
{
    for (int pass = 0; pass < 2; pass++) {
        if (pass) {
            o->task = mem_zero((size_t)o->n_task + 1, sizeof *o->task);
            o->part = mem_zero((size_t)o->n_task + 1, sizeof *o->part);
        }
        o->n_task = 0;
        for (int i = 0; i < o->n_param; i++) {
            struct opt_param *q = &o->param[i];
            q->first_task = o->n_task;
            for (int64_t from = 0; from < q->entry->count; from += OPT_TASK, o->n_task++) {
                int64_t to = from + OPT_TASK < q->entry->count ? from + OPT_TASK : q->entry->count;
                if (pass) o->task[o->n_task] = (struct opt_task){i, from, to};
            }
            q->n_task = o->n_task - q->first_task;
        }
    }
}

/* What is kept of a parameter: at most two states, without their memory. */
static int states_of(const struct opt *o, const struct opt_param *q, struct opt_state s[2])
{
    static const struct {
        const char *first, *second;
    } names[] = {[OPT_ADAMW] = {"adamw.m", "adamw.v"}, [OPT_SGD] = {"sgd.momentum", NULL},
                 [OPT_LAMB] = {"lamb.m", "lamb.v"},    [OPT_LARS] = {"lars.momentum", NULL},
                 [OPT_LION] = {"lion.m", NULL},        [OPT_ADAFACTOR] = {"adafactor.variance", NULL},
                 [OPT_MUON] = {"muon.momentum", NULL}};
    const struct ad_entry *p = q->entry;
    bool small = o->c.state == OPT_8BIT && p->count < OPT_SMALL;
    s[0] = (struct opt_state){.name = names[q->rule].first,
                              .of = p,
                              .shape = p->shape,
                              .count = p->count,
                              .store = small ? OPT_F32 : o->c.state};
    s[1] = s[0];
    s[1].name = names[q->rule].second;
    s[1].positive = true;
    if ((q->rule == OPT_SGD || q->rule == OPT_LARS) && o->c.momentum == 0) return 0;
    if (q->rule != OPT_ADAFACTOR || p->shape.rank < 2) return s[1].name ? 2 : 1;
    int last = --s[0].shape.rank, before = last - 1; /* the mean over the last dimension; over the one before it */
    s[0].name = "adafactor.row";
    s[0].count = p->shape.dim[last] ? p->count / p->shape.dim[last] : 0;
    s[1].name = "adafactor.column";
    s[1].shape = s[0].shape;
    s[1].shape.dim[before] = p->shape.dim[last];
    s[1].count = p->shape.dim[before] ? p->count / p->shape.dim[before] : 0;
    return 2;
}

static size_t aligned(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

/* Counts the states and their bytes, then gives them their places in one block; the averages lie last and flat. */
static int make_states(struct opt *o, struct err *e)
{
    o->state = mem_zero(3 * (size_t)o->n_param + 1, sizeof *o->state);
    for (int pass = 0; pass < 2; pass++) {
        char *at = o->memory;
        o->bytes = 0;
        o->n_state = 0;
        for (int i = 0; i < o->n_param; i++) {
            struct opt_param *q = &o->param[i];
            q->slot = o->state + o->n_state;
            q->n_slot = states_of(o, q, q->slot);
            for (int k = 0; k < q->n_slot; k++) {
                struct opt_state *s = &q->slot[k];
                size_t numbers = aligned((size_t)s->count * opt_state_width[s->store]),
                       scales = s->store == OPT_8BIT ? aligned((size_t)opt_blocks(s->count) * sizeof(float)) : 0;
                if (pass) s->data = at + o->bytes;
                if (pass && scales) s->absmax = (float *)(void *)(at + o->bytes + numbers);
                o->bytes += numbers + scales;
            }
            o->n_state += q->n_slot;
        }
        size_t averages = o->c.ema > 0 ? (size_t)o->n * sizeof(float) : 0;
        if (pass && averages) o->ema = (float *)(void *)(at + o->bytes);
        o->bytes += averages;
        if (!pass && !(o->memory = mem_block(o->bytes, "the optimizer's state", e))) return e->code;
    }
    for (int i = 0; i < o->n_param && o->ema; i++) {
        const struct ad_entry *p = o->param[i].entry;
        o->state[o->n_state++] = (struct opt_state){
            .name = "ema", .of = p, .shape = p->shape, .count = p->count, .data = o->ema + p->offset};
    }
    for (int i = 0; i < o->n_param && o->ema; i++) {
        const struct ad_entry *p = o->param[i].entry;
        ad_entry_read(p, 0, p->count, o->ema + p->offset);
    }
    return 0;
}

struct opt *opt_new(const struct opt_config *c, struct ad_store *s, struct err *e)
{
    if (c->kind == OPT_ADAFACTOR && c->state != OPT_F32) {
        err_set(e, ERR_CONFIG, "optim.state: adafactor's is small already and always f32, not %s",
                opt_state_names[c->state]);
        return NULL;
    }
    if (ad_store_is_narrow(s) && (c->kind == OPT_ADAFACTOR || c->kind == OPT_MUON)) {
        err_set(e, ERR_CONFIG, "optim.weights: bf16 goes with adamw, sgd, lamb, lars and lion, not with %s",
                opt_kind_names[c->kind]);
        return NULL;
    }
    struct opt *o = mem_zero(1, sizeof *o);
    o->c = *c;
    o->store = s;
    o->n = ad_store_flat_count(s);
    if (c->state == OPT_8BIT) opt_map(false); /* made before threads ask for it */
    bool ok = make_params(o, e) == 0;
    if (ok) make_tasks(o);
    ok = ok && make_states(o, e) == 0;
    if (ok && c->kind == OPT_MUON) ok = (o->muon = opt_muon_new(o, e)) != NULL;
    if (ok) return o;
    opt_free(o);
    return NULL;
}

void opt_free(struct opt *o)
{
    if (!o) return;
    if (o->memory) mem_block_free(o->memory, o->bytes);
    opt_muon_free(o->muon);
    free(o->state);
    free(o->part);
    free(o->task);
    free(o->param);
    free(o);
}

/* ---- the schedule, the norm -------------------------------------------------------------------------------------- */

double opt_lr(const struct opt_config *c, int64_t step, double progress)
{
    double warm = c->warmup > 0 && step < c->warmup ? (double)(step + 1) / (double)c->warmup : 1, f = 1;
    if (progress < 0) progress = 0;
    if (progress > 1) progress = 1;
    if (c->decay == OPT_COSINE) f = 0.5 * (1 + cos(M_PI * progress)); /* (Loshchilov & Hutter 2017, eq. 5) */
    if (c->decay == OPT_LINEAR) f = 1 - progress;
    return c->lr * warm * (c->floor + (1 - c->floor) * f);
}

enum { MAX_PARTS = 256, WIDE_BLOCK = 1024 }; /* numbers in bf16 that are widened at once: a multiple of OPT_BLOCK */

double opt_square16(const uint16_t *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0, k; i < n; i += k) {
        float wide[WIDE_BLOCK];
        k = n - i < WIDE_BLOCK ? n - i : WIDE_BLOCK;
        ISA_PICK(opt_from16)(x + i, k, wide);
        sum += ISA_PICK(opt_squares)(wide, k);
    }
    return sum;
}

/* Of n floats or, where `narrow`, bf16. */
static double square_of(const void *x, int64_t n, bool narrow)
{
    int64_t each = (n / MAX_PARTS / OPT_TASK + 1) * OPT_TASK, parts = (n + each - 1) / each;
    double part[MAX_PARTS], sum = 0;
#pragma omp parallel for schedule(static) if (n > PAR_MIN)
    for (int64_t b = 0; b < parts; b++) {
        int64_t from = b * each, k = n - from < each ? n - from : each;
        part[b] =
            narrow ? opt_square16((const uint16_t *)x + from, k) : ISA_PICK(opt_squares)((const float *)x + from, k);
    }
    for (int64_t b = 0; b < parts; b++) sum += part[b];
    return sum;
}

double opt_square(const float *grad, int64_t n)
{
    return square_of(grad, n, false);
}

double opt_norm(const float *grad, int64_t n)
{
    return sqrt(opt_square(grad, n));
}

double opt_gradient_norm(const struct ad_store *s, const void *grad)
{
    if (!ad_store_is_narrow(s)) return opt_norm(grad, ad_store_flat_count(s));
    double sum = 0;
    for (int i = 0; i < ad_store_count(s); i++) {
        const struct ad_entry *p = ad_store_at(s, i);
        if (ad_in_flat(p)) sum += square_of((const char *)grad + p->place, p->count, ad_is_narrow(p));
    }
    return sqrt(sum);
}

const float *opt_gradient_of(const struct opt_param *q, const struct opt_call *c)
{
    return c->own ? c->own : (const void *)((const char *)c->grad + q->entry->place);
}

/* ---- a step ------------------------------------------------------------------------------------------------------ */

struct opt_factors opt_factors_of(const struct opt_param *q, const struct opt_call *c)
{
    struct opt_factors f = c->f;
    f.lr = (float)(c->lr * (double)q->lr_scale);
    f.decay = q->decay;
    f.trust = q->trust;
    return f;
}

struct opt_piece opt_piece_of(const struct opt *o, const struct opt_param *q, const struct opt_task *t,
                              const struct opt_call *c)
{
    const struct ad_entry *e = q->entry;
    int64_t at = e->offset + t->from;
    bool narrow = ad_is_narrow(e);
    return (struct opt_piece){.n = t->to - t->from,
                              .first = at,
                              .w = narrow ? NULL : (float *)e->data + t->from,
                              .g = narrow ? NULL : opt_gradient_of(q, c) + t->from,
                              .ema = o->ema ? o->ema + at : NULL};
}

void opt_sum(const struct opt *o, const struct opt_param *q, double sum[2])
{
    sum[0] = sum[1] = 0;
    for (int64_t i = q->first_task; i < q->first_task + q->n_task; i++)
        for (int k = 0; k < 2; k++) sum[k] += o->part[i][k];
}

void opt_pieces(const struct opt *o, const struct opt_task *t, const struct opt_call *c, double *sum, bool write,
                opt_body *body)
{
    const struct opt_param *q = &o->param[t->param];
    struct opt_factors f = opt_factors_of(q, c), other = f;
    struct opt_piece p = opt_piece_of(o, q, t, c);
    p.sum = sum;
    if (p.w) {
        body(q, &p, t->from, &f);
        return;
    }
    uint16_t *w16 = (uint16_t *)q->entry->data;
    const float *grad = opt_gradient_of(q, c);
    const uint16_t *g16 = (const void *)grad;
    float w[WIDE_BLOCK], g[WIDE_BLOCK];
    other.key = hash_str("optim.weights");
    p.w = w;
    for (int64_t from = t->from; from < t->to; from += p.n) {
        p.n = t->to - from < WIDE_BLOCK ? t->to - from : WIDE_BLOCK;
        ISA_PICK(opt_from16)(w16 + from, p.n, w);
        p.g = c->own ? grad + from : g;
        if (!c->own) ISA_PICK(opt_from16)(g16 + from, p.n, g);
        body(q, &p, from, &f);
        if (write) ISA_PICK(opt_to16)(w, p.n, p.first, &other, w16 + from);
        p.first += p.n;
        if (p.ema) p.ema += p.n;
    }
}

/* In one pass, however the moments are stored. */
static void adamw(const struct opt_param *q, const struct opt_piece *p, int64_t from, const struct opt_factors *f)
{
    switch (q->slot[0].store) {
    case OPT_F32: opt_in_place(q, *p, from, f, ISA_PICK(opt_adamw)); break;
    case OPT_BF16: opt_in_place(q, *p, from, f, ISA_PICK(opt_adamw16)); break;
    case OPT_8BIT: opt_in_place(q, *p, from, f, ISA_PICK(opt_adamw8)); break;
    }
}

static void move(const struct opt_param *q, const struct opt_piece *p, int64_t from, const struct opt_factors *f)
{
    switch (q->rule) {
    case OPT_ADAMW: adamw(q, p, from, f); break;
    case OPT_SGD:
    case OPT_LARS: opt_windows(q, *p, from, f, ISA_PICK(opt_sgd), true); break;
    case OPT_LAMB: opt_windows(q, *p, from, f, ISA_PICK(opt_lamb), false); break;
    case OPT_LION: opt_windows(q, *p, from, f, ISA_PICK(opt_lion), true); break;
    case OPT_ADAFACTOR:
    case OPT_MUON: break; /* by rows, by whole matrices: opt_task_step, opt_muon_step */
    }
}

static void stay(const struct opt_param *q, const struct opt_piece *p, int64_t from, const struct opt_factors *f)
{
    ISA_PICK(opt_follow)(p, f);
}

void opt_task_step(const struct opt *o, const struct opt_task *t, const struct opt_call *c)
{
    const struct opt_param *q = &o->param[t->param];
    if (q->lr_scale > 0 && q->rule == OPT_ADAFACTOR)
        opt_adafactor_step(o, t, c);
    else if (q->lr_scale > 0)
        opt_pieces(o, t, c, NULL, true, move);
    else if (o->ema) /* does not move, but its average may be behind */
        opt_pieces(o, t, c, NULL, false, stay);
}

static struct opt_factors factors(const struct opt *o, double norm)
{
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
    return f;
}

void opt_begin(struct opt *o, double lr)
{
    o->steps++;
    o->at = (struct opt_call){.lr = lr, .f = factors(o, 0)};
}

void opt_step(struct opt *o, const void *grad, double norm, double lr)
{
    o->steps++;
    struct opt_call c = {.grad = grad, .lr = lr, .f = factors(o, norm)};
    if (o->c.kind == OPT_LAMB || o->c.kind == OPT_LARS) opt_trust(o, &c);
    if (o->c.kind == OPT_ADAFACTOR) opt_adafactor_moments(o, &c);
    if (o->c.kind == OPT_MUON) opt_muon_step(o, &c);
#pragma omp parallel for schedule(static) if (o->n > PAR_MIN)
    for (int64_t i = 0; i < o->n_task; i++) opt_task_step(o, &o->task[i], &c);
}

/* OpenMP's static schedule: as many tasks each, the first threads one more where some are left. */
double opt_balance(const struct opt *o, int threads)
{
    int64_t all = 0, most = 0;
    for (int64_t t = 0, first = 0, n; t < threads; t++, first += n) {
        int64_t sum = 0;
        n = o->n_task / threads + (t < o->n_task % threads);
        for (int64_t i = first; i < first + n; i++) sum += o->task[i].to - o->task[i].from;
        all += sum;
        if (sum > most) most = sum;
    }
    return most ? (double)all / ((double)most * threads) : 1;
}

/* ---- asked from outside ------------------------------------------------------------------------------------------ */

int opt_param_count(const struct opt *o)
{
    return o->n_param;
}

int opt_state_count(const struct opt *o)
{
    return o->n_state;
}

struct opt_state opt_state(const struct opt *o, int i)
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

double opt_bytes_per_parameter(const struct opt *o)
{
    double bytes = 0, n = 0;
    for (int i = 0; i < o->n_state; i++) {
        const struct opt_state *s = &o->state[i];
        bytes += (double)s->count * (double)opt_state_width[s->store];
        if (s->store == OPT_8BIT) bytes += (double)opt_blocks(s->count) * sizeof(float);
    }
    for (int i = 0; i < o->n_param; i++) n += (double)o->param[i].entry->count;
    return n > 0 ? bytes / n : 0;
}
