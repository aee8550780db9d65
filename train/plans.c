/* Graphs of training steps and the cache of their plans. See plans.h. */
#include "train/plans.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/threads.h"
#include "optim/opt.h"

const char *train_tower_prefix(const struct run_model *m, int modality, char out[300])
{
    int n = snprintf(out, 300, "%s.", m->tower[modality].name);
    CHECK(n > 0 && n < 300);
    return out;
}

/* The path of what belongs to a modality's embeddings. */
static const char *named(struct ad_graph *g, const struct run_model *m, int modality, const char *what)
{
    ad_push(g, "%s", m->tower[modality].name);
    const char *path = ad_push(g, "%s", what);
    ad_pop(g);
    ad_pop(g);
    return path;
}

static val unit_input(struct ad_graph *g, const struct run_model *m, int modality, const char *what, int64_t items)
{
    return ad_input(g, named(g, m, modality, what), AD_F32, SHAPE(items, m->config.embed));
}

static void emit_whole(struct nn *nn, const struct train_plans *c, const struct train_key *key)
{
    const struct run_model *m = c->m;
    val loss = run_model_loss(nn, m, key->shape, key->batch);
    if (!loss) return;
    ad_output(nn->g, "loss", loss);
    struct opt_sought o = {.prefix = "", .to_caller = key->part == TRAIN_WHOLE};
    val scaled = train_loss_scale_emit(c->loss_scale, nn->g, loss);
    if (c->within && key->part == TRAIN_WHOLE)
        opt_emit_steps(nn->g, c->within, scaled);
    else
        opt_emit_gradients_of(nn->g, m->store, scaled, 0, &o);
}

static void emit_tower(struct nn *nn, const struct train_plans *c, const struct train_key *key)
{
    const struct run_model *m = c->m;
    struct ad_graph *g = nn->g;
    int i = key->modality;
    char prefix[300];
    nn->part = true;
    val unit = model_embed(nn, &m->tower[i], key->shape[i], m->config.embed);
    if (!unit) return;
    if (key->part == TRAIN_EMBED) {
        ad_drop_updates(g); /* running statistics follow in the replay, once */
        ad_output_to_caller(g, named(g, m, i, "unit"), unit);
        return;
    }
    struct opt_sought o = {.prefix = train_tower_prefix(m, i, prefix)};
    opt_emit_gradients_of(g, m->store, unit, unit_input(g, m, i, "unit_grad", key->shape[i].items), &o);
}

static void emit_loss(struct nn *nn, const struct train_plans *c, const struct train_key *key)
{
    const struct run_model *m = c->m;
    struct ad_graph *g = nn->g;
    val unit[RUN_MAX_MODALITIES], d[RUN_MAX_MODALITIES];
    nn->part = true;
    for (int i = 0; i < m->n; i++) unit[i] = unit_input(g, m, i, "unit", key->shape[i].items);
    val loss = run_model_loss_of(nn, m, unit, key->batch);
    if (!loss) return;
    ad_output(g, "loss", loss);
    struct opt_sought o = {.prefix = "loss.", .to_caller = true, .x = unit, .dx = d, .n = m->n};
    opt_emit_gradients_of(g, m->store, train_loss_scale_emit(c->loss_scale, g, loss), 0, &o);
    for (int i = 0; i < m->n; i++) ad_output_to_caller(g, named(g, m, i, "unit_grad"), d[i]);
}

int train_plan_flags(const struct run_train *c, unsigned *flags, struct err *e)
{
    int rc = ad_pass_flags_parse(c->debug, flags, e);
    *flags |= ad_precision_flags((enum ad_precision)c->precision);
    return rc;
}

struct ad_plan *train_plan_new(const struct train_plans *c, const struct train_key *key, bool dry, struct err *e)
{
    static void (*const emit[])(struct nn *, const struct train_plans *,
                                const struct train_key *) = {[TRAIN_WHOLE] = emit_whole,
                                                             [TRAIN_GRADIENT] = emit_whole,
                                                             [TRAIN_EMBED] = emit_tower,
                                                             [TRAIN_LOSS] = emit_loss,
                                                             [TRAIN_REPLAY] = emit_tower};
    struct run_model *m = c->m;
    struct nn nn = {.g = ad_graph_new(), .store = m->store, .training = true};
    emit[key->part](&nn, c, key);
    struct ad_plan_options o = {
        .flags = key->flags, .space = dry ? NULL : &m->space, .dry = dry, .budget = c->budget, .taken = c->taken};
    o.keep_panels = key->part == TRAIN_EMBED || key->part == TRAIN_REPLAY; /* many micro-batches a step */
    struct ad_plan *p = nn_status(&nn, e) ? NULL : ad_plan_with(nn.g, m->store, &o, e);
    if (!p && c->budget) err_prefix(e, "%s: train.memory", conf_where(&m->conf, &m->config.train.memory));
    ad_graph_free(nn.g);
    if (!p) return NULL;
    if (key->part == TRAIN_WHOLE && c->grad) opt_bind_gradients(p, m->store, c->grad);
    if (key->part == TRAIN_LOSS && c->grad) opt_bind_gradients_of(p, m->store, "loss.", c->grad);
    train_loss_scale_bind(c->loss_scale, p);
    ad_plan_profile(p, c->profile);
    return p;
}

static bool same_key(const struct train_key *a, const struct train_key *b)
{
    return a->part == b->part && a->modality == b->modality && a->batch == b->batch && a->flags == b->flags &&
           !memcmp(a->shape, b->shape, sizeof a->shape);
}

/* A place for one more: a new one, or that of the plan that was used longest ago. */
static struct train_planned *make_room(struct train_plans *c)
{
    if (c->n < TRAIN_PLANS || c->profile) {
        c->plan = mem_grow(c->plan, &c->cap, c->n + 1, sizeof *c->plan);
        return &c->plan[c->n++];
    }
    struct train_planned *old = &c->plan[0];
    for (size_t i = 1; i < c->n; i++)
        if (c->plan[i].used < old->used) old = &c->plan[i];
    ad_plan_free(old->plan);
    return old;
}

struct ad_plan *train_plan_for(struct train_plans *c, const struct train_key *key, struct err *e)
{
    c->clock++;
    for (size_t i = 0; i < c->n; i++)
        if (same_key(&c->plan[i].key, key)) {
            c->plan[i].used = c->clock;
            return c->plan[i].plan;
        }
    double start = time_now();
    struct ad_plan *p = train_plan_new(c, key, false, e);
    if (!p) return NULL;
    c->seconds += time_now() - start - ad_plan_stats(p).clear_s;
    *make_room(c) = (struct train_planned){*key, p, c->clock};
    c->made++;
    return p;
}

void train_plans_free(struct train_plans *c)
{
    for (size_t i = 0; i < c->n; i++) ad_plan_free(c->plan[i].plan);
    free(c->plan);
}
