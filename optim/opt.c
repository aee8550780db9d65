/* AdamW and SGD in one pass over memory. See opt.h. */
#include "optim/opt.h"

#include <fnmatch.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/threads.h"

const char *const opt_kind_names[] = {"adamw", "sgd", NULL};
const char *const opt_decay_names[] = {"cosine", "linear", "constant", NULL};

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
    float *state[3]; /* AdamW: m, v; SGD: momentum; then the average if there is one */
    const char *name[3];
    int n_state;
    float *ema;
};

static bool add_state(struct opt *o, const char *name, struct err *e)
{
    float *p = mem_block((size_t)o->n * sizeof *p, name, e);
    if (!p) return false;
    o->name[o->n_state] = name;
    o->state[o->n_state++] = p;
    return true;
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
    if (c->kind == OPT_ADAMW)
        ok = ok && add_state(o, "adamw.m", e) && add_state(o, "adamw.v", e);
    else if (c->momentum > 0)
        ok = ok && add_state(o, "sgd.momentum", e);
    if (ok && c->ema > 0) {
        ok = add_state(o, "ema", e);
        if (ok) o->ema = memcpy(o->state[o->n_state - 1], ad_store_flat(s), (size_t)o->n * sizeof(float));
    }
    if (ok) return o;
    opt_free(o);
    return NULL;
}

void opt_free(struct opt *o)
{
    if (!o) return;
    for (int i = 0; i < o->n_state; i++) mem_block_free(o->state[i], (size_t)o->n * sizeof(float));
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
        double s[8] = {0};
        int64_t i = b * each;
        for (; i + 8 <= to; i += 8)
            for (int k = 0; k < 8; k++) s[k] += (double)grad[i + k] * (double)grad[i + k];
        for (; i < to; i++) s[0] += (double)grad[i] * (double)grad[i];
        part[b] = ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
    }
    for (int64_t b = 0; b < parts; b++) sum += part[b];
    return sqrt(sum);
}

/* What a step's inner loops need. */
struct factors {
    float lr, decay, b1, b2, eps, fix1, fix2, grad_scale, momentum;
    bool nesterov;
};

__attribute__((optimize("O3"))) static void adamw_run(int64_t n, float *w, const float *g, float *m, float *v,
                                                      const struct factors *f)
{
    float b1 = f->b1, b2 = f->b2, keep = 1 - f->lr * f->decay, step = f->lr * f->fix1, fix2 = f->fix2, eps = f->eps,
          gs = f->grad_scale;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float x = g[i] * gs, mi = b1 * m[i] + (1 - b1) * x, vi = b2 * v[i] + (1 - b2) * x * x;
        m[i] = mi;
        v[i] = vi;
        w[i] = w[i] * keep - step * mi / (__builtin_sqrtf(vi * fix2) + eps);
    }
}

__attribute__((optimize("O3"))) static void sgd_run(int64_t n, float *w, const float *g, float *m,
                                                    const struct factors *f)
{
    for (int64_t i = 0; i < n; i++) {
        float x = g[i] * f->grad_scale + f->decay * w[i];
        if (m) {
            m[i] = f->momentum * m[i] + x;
            x = f->nesterov ? x + f->momentum * m[i] : m[i];
        }
        w[i] -= f->lr * x;
    }
}

static void block_step(const struct opt *o, const struct factors *common, const float *grad, double lr, int64_t from,
                       int64_t to)
{
    float *w = ad_store_flat(o->store);
    for (int k = 0; k < o->n_segment; k++) {
        const struct segment *s = &o->segment[k];
        int64_t a = from > s->from ? from : s->from, b = to < s->to ? to : s->to;
        if (a >= b || s->lr_scale == 0) continue;
        struct factors f = *common;
        f.lr = (float)(lr * s->lr_scale);
        f.decay = s->decay;
        if (o->c.kind == OPT_ADAMW)
            adamw_run(b - a, w + a, grad + a, o->state[0] + a, o->state[1] + a, &f);
        else
            sgd_run(b - a, w + a, grad + a, o->c.momentum > 0 ? o->state[0] + a : NULL, &f);
    }
    float d = (float)o->c.ema;
    for (int64_t i = from; o->ema && i < to; i++) o->ema[i] = d * o->ema[i] + (1 - d) * w[i];
}

void opt_step(struct opt *o, const float *grad, double norm, double lr)
{
    o->steps++;
    struct factors f = {.b1 = (float)o->c.beta1,
                        .b2 = (float)o->c.beta2,
                        .eps = (float)o->c.eps,
                        .momentum = (float)o->c.momentum,
                        .nesterov = o->c.nesterov,
                        .grad_scale = 1};
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

float *opt_state(const struct opt *o, int i, const char **name)
{
    *name = o->name[i];
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
    return (c->kind == OPT_ADAMW ? 8.0 : c->momentum > 0 ? 4.0 : 0.0) + (c->ema > 0 ? 4.0 : 0.0);
}
