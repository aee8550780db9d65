/* The step of a contrastive run. See step.h. */
#include "train/step.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/threads.h"
#include "train/held.h"
#include "train/micro.h"
#include "train/plans.h"

struct train_stepper {
    struct run_model *m;
    struct opt *o;
    size_t grad_bytes;
    double *square; /* with optim.in_backward: of each parameter's gradient, of the last step */
    struct train_plans plans;
    struct train_micro *micro; /* NULL: batches are computed at once */
    unsigned flags;
    struct train_loss_scale loss_scale;
    uint64_t seed;
};

struct train_stepper *train_stepper_new(struct run_model *m, struct opt *o, struct err *e)
{
    struct train_stepper *s = mem_zero(1, sizeof *s);
    const struct run_train *c = &m->config.train;
    s->m = m;
    s->o = o;
    s->seed = (uint64_t)c->seed;
    s->grad_bytes = ad_store_flat_bytes(m->store);
    s->plans.m = m;
    if (c->micro_batch > 0) s->micro = train_micro_new(&s->plans, c->micro_batch);
    train_loss_scale_begin(&s->loss_scale, c);
    s->plans.loss_scale = &s->loss_scale;
    bool ok = train_plan_flags(c, &s->flags, e) == 0 && run_memory(c->memory, &s->plans.budget, e) == 0;
    if (m->config.optim.in_backward) {
        s->plans.within = o;
        s->square = mem_zero((size_t)opt_param_count(o) + 1, sizeof *s->square);
    } else if (ok) {
        s->plans.grad = mem_block(s->grad_bytes, "gradients", e);
        ok = s->plans.grad != NULL;
    }
    if (ok) return s;
    train_stepper_free(s);
    return NULL;
}

void train_stepper_free(struct train_stepper *s)
{
    if (!s) return;
    train_plans_free(&s->plans);
    train_micro_free(s->micro);
    if (s->plans.grad) mem_block_free(s->plans.grad, s->grad_bytes);
    free(s->square);
    free(s);
}

/* Whether the batch goes in parts; one that is no larger than a part goes at once. */
static bool in_parts(const struct train_stepper *s, const struct data_batch *b)
{
    return s->micro && b->size > s->m->config.train.micro_batch;
}

/* Tells the plans what is held beside them, for train.memory. */
static void hold(struct train_stepper *s, const struct data_batch *b)
{
    struct model_shape shape[RUN_MAX_MODALITIES];
    if (!s->plans.budget) return;
    for (int i = 0; i < s->m->n; i++) shape[i] = (struct model_shape){b->part[i].cap, b->part[i].rows};
    s->plans.taken = train_held_bytes(s->m, s->o, shape, b->size);
}

static struct ad_plan *whole_plan(struct train_stepper *s, enum train_part part, const struct data_batch *b,
                                  unsigned flags, struct err *e)
{
    struct train_key key = {.part = part, .batch = b->size, .flags = flags};
    for (int i = 0; i < s->m->n; i++) key.shape[i] = (struct model_shape){b->part[i].cap, b->part[i].rows};
    return train_plan_for(&s->plans, &key, e);
}

/* What the plan with the loss says of it. */
struct reading {
    const struct run_model *m;
    struct train_result *r;
};

static void read_loss(void *ctx, const struct ad_plan *p)
{
    const struct reading *to = ctx;
    struct train_result *r = to->r;
    const struct run_config *c = &to->m->config;
    r->loss = ad_result_scalar(p, "loss");
    r->scale = ad_result_scalar(p, "scale");
    r->n_pairs = run_pairs(c);
    for (int i = 0; i < r->n_pairs; i++) {
        int a, b;
        double w;
        char name[600];
        run_pair(c, i, &a, &b, &w);
        snprintf(name, sizeof name, "loss.%s-%s", to->m->tower[a].name, to->m->tower[b].name);
        r->pair[i] = ad_result_scalar(p, name);
    }
}

/* Loss and gradient of the batch, and with optim.in_backward the step; without `r` never that. */
static int gradient(struct train_stepper *s, const struct data_batch *b, int64_t step, double lr, unsigned flags,
                    struct train_result *r, struct err *e)
{
    struct reading to = {s->m, r};
    hold(s, b);
    if (in_parts(s, b))
        return train_micro_run(s->micro, b, flags, s->seed, (uint64_t)step, r ? read_loss : NULL, &to, e);
    bool steps = r && s->plans.within;
    struct ad_plan *p = whole_plan(s, r || !s->plans.within ? TRAIN_WHOLE : TRAIN_GRADIENT, b, flags, e);
    if (!p) return e->code;
    if (steps) opt_begin(s->o, lr);
    run_bind_batch(p, s->m, b);
    int rc = ad_run(p, s->seed, (uint64_t)step, e);
    if (!rc && r) read_loss(&to, p);
    if (!rc && steps) r->grad_norm = sqrt(opt_squares_within(s->o, p, s->square));
    return rc;
}

/* Runs the batch again, checking every value, to say where a NaN or infinity first appears. */
static int find_nonfinite(struct train_stepper *s, const struct data_batch *b, int64_t step, double loss, double norm,
                          struct err *e)
{
    struct err why = {0};
    if (gradient(s, b, step, 0, s->flags | AD_CHECK_FINITE | AD_NO_REUSE, NULL, &why) == 0)
        err_set(&why, ERR_NONFINITE, "the gradient's norm overflows; a smaller learning rate or optim.clip may help");
    return err_set(e, ERR_NONFINITE, "step %lld: the loss is %g and the gradient's norm %g: %s", (long long)step,
                   isnan(loss) ? NAN : loss, isnan(norm) ? NAN : norm, why.msg); /* printf shows a NaN's sign */
}

/* The learned logarithm of the scale is kept where the loss clamps it, as CLIP does: beyond, its gradient would be zero
 * and it could never come back. */
static void clamp_scale(const struct run_model *m)
{
    struct ad_entry *p = ad_store_find(m->store, "loss.scale");
    float top = (float)log(m->config.loss.max_scale), *x = p->data;
    if (*x < 0) *x = 0;
    if (*x > top) *x = top;
}

int train_stepper_run(struct train_stepper *s, const struct data_batch *b, int64_t step, double lr,
                      struct train_result *r, struct err *e)
{
    double t0 = time_now();
    s->plans.seconds = 0;
    int rc = gradient(s, b, step, lr, s->flags, r, e);
    if (rc) return rc;
    double t1 = time_now();
    r->plan_s = s->plans.seconds;
    r->compute_s = t1 - t0 - r->plan_s;
    if (s->plans.grad) {
        train_loss_scale_undo(&s->loss_scale, s->plans.grad, ad_store_flat_count(s->m->store));
        r->grad_norm = opt_gradient_norm(s->m->store, s->plans.grad);
    }
    r->skipped = isfinite(r->loss) && !isfinite(r->grad_norm) && train_loss_scale_skip(&s->loss_scale, step);
    if (r->skipped) return 0;
    if (!isfinite(r->loss) || !isfinite(r->grad_norm)) return find_nonfinite(s, b, step, r->loss, r->grad_norm, e);
    if (in_parts(s, b)) r->part_norm = sqrt(train_micro_part2(s->micro)) / train_loss_scale_factor(&s->loss_scale);
    train_loss_scale_good(&s->loss_scale);
    if (s->plans.grad) opt_step(s->o, s->plans.grad, r->grad_norm, lr);
    clamp_scale(s->m);
    r->optimizer_s = time_now() - t1;
    return 0;
}

struct ad_plan_stats train_stepper_plan(struct train_stepper *s, const struct data_batch *b, struct err *e)
{
    s->plans.seconds = 0;
    hold(s, b);
    struct ad_plan_stats stats;
    if (in_parts(s, b)) {
        stats = train_micro_plan(s->micro, b, s->flags, e);
    } else {
        const struct ad_plan *p = whole_plan(s, TRAIN_WHOLE, b, s->flags, e);
        stats = p ? ad_plan_stats(p) : (struct ad_plan_stats){0};
    }
    stats.build_s = s->plans.seconds; /* with the graphs and their gradients */
    return stats;
}

struct train_loss_scale *train_stepper_loss_scale(struct train_stepper *s)
{
    return &s->loss_scale;
}

int64_t train_stepper_embedding_bytes(const struct train_stepper *s)
{
    return s->micro ? train_micro_bytes(s->micro) : 0;
}

const void *train_stepper_gradient(const struct train_stepper *s)
{
    return s->plans.grad;
}

void train_stepper_norms(const struct train_stepper *s, struct opt_layers *l, double *norm)
{
    if (s->plans.grad)
        opt_layers_norms(l, s->plans.grad, norm);
    else
        opt_layers_norms_of(l, s->square, norm);
}

int64_t train_stepper_plans(const struct train_stepper *s)
{
    return s->plans.made;
}

void train_stepper_profile(struct train_stepper *s, bool on)
{
    s->plans.profile = on;
    for (size_t i = 0; i < s->plans.n; i++) ad_plan_profile(s->plans.plan[i].plan, on);
}

void train_stepper_report(const struct train_stepper *s, struct buf *out)
{
    for (size_t i = 0; i < s->plans.n; i++) ad_plan_report(s->plans.plan[i].plan, out);
}
