/* The step of a contrastive run. See step.h. */
#include "train/step.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/threads.h"
#include "train/held.h"

struct planned {
    int64_t batch;
    struct model_shape shape[RUN_MAX_MODALITIES];
    unsigned flags;
    struct ad_plan *plan;
};

struct train_stepper {
    struct run_model *m;
    struct opt *o;
    float *grad; /* flat, in the layout of the store */
    int64_t n_grad;
    struct planned *plan;
    size_t n_plan, cap_plan;
    unsigned flags;
    struct train_loss_scale loss_scale;
    int64_t budget; /* bytes that a step may take; 0: no limit */
    uint64_t seed;
    double graph_s; /* that the newest plan's graph took, gradients included */
    bool profile;
};

struct train_stepper *train_stepper_new(struct run_model *m, struct opt *o, struct err *e)
{
    struct train_stepper *s = mem_zero(1, sizeof *s);
    s->m = m;
    s->o = o;
    s->seed = (uint64_t)m->config.train.seed;
    s->n_grad = ad_store_flat_count(m->store);
    bool ok = ad_pass_flags_parse(m->config.train.debug, &s->flags, e) == 0 &&
              run_memory(m->config.train.memory, &s->budget, e) == 0;
    s->flags |= ad_precision_flags((enum ad_precision)m->config.train.precision);
    train_loss_scale_begin(&s->loss_scale, &m->config.train);
    if (ok) s->grad = mem_block((size_t)s->n_grad * sizeof *s->grad, "gradients", e);
    if (ok && s->grad) return s;
    train_stepper_free(s);
    return NULL;
}

void train_stepper_free(struct train_stepper *s)
{
    if (!s) return;
    for (size_t i = 0; i < s->n_plan; i++) ad_plan_free(s->plan[i].plan);
    if (s->grad) mem_block_free(s->grad, (size_t)s->n_grad * sizeof *s->grad);
    free(s->plan);
    free(s);
}

static struct ad_plan *make_plan(struct train_stepper *s, const struct model_shape *shape, int64_t batch,
                                 unsigned flags, struct err *e)
{
    double start = time_now();
    struct nn nn = {.g = ad_graph_new(), .store = s->m->store, .training = true};
    val loss = run_model_loss(&nn, s->m, shape, batch);
    if (loss) {
        ad_output(nn.g, "loss", loss);
        opt_emit_gradients(nn.g, s->m->store, train_loss_scale_emit(&s->loss_scale, nn.g, loss));
    }
    s->graph_s = time_now() - start;
    struct ad_plan_options o = {.flags = flags,
                                .space = &s->m->space,
                                .budget = s->budget,
                                .taken = train_held_bytes(s->m, s->o, shape, batch)};
    struct ad_plan *p = nn_status(&nn, e) ? NULL : ad_plan_with(nn.g, s->m->store, &o, e);
    if (!p && s->budget) err_prefix(e, "%s: train.memory", conf_where(&s->m->conf, &s->m->config.train.memory));
    ad_graph_free(nn.g);
    if (p) opt_bind_gradients(p, s->m->store, s->grad);
    if (p) train_loss_scale_bind(&s->loss_scale, p);
    if (p) ad_plan_profile(p, s->profile);
    return p;
}

static struct ad_plan *plan_for(struct train_stepper *s, const struct data_batch *b, unsigned flags, struct err *e)
{
    struct planned want = {.batch = b->size, .flags = flags};
    for (int i = 0; i < s->m->n; i++) want.shape[i] = (struct model_shape){b->part[i].cap, b->part[i].rows};
    for (size_t i = 0; i < s->n_plan; i++)
        if (s->plan[i].batch == want.batch && s->plan[i].flags == flags &&
            !memcmp(s->plan[i].shape, want.shape, sizeof want.shape))
            return s->plan[i].plan;
    want.plan = make_plan(s, want.shape, b->size, flags, e);
    if (!want.plan) return NULL;
    s->plan = mem_grow(s->plan, &s->cap_plan, s->n_plan + 1, sizeof *s->plan);
    s->plan[s->n_plan++] = want;
    return want.plan;
}

/* Runs the batch again, checking every value, to say where a NaN or infinity first appears. */
static int find_nonfinite(struct train_stepper *s, const struct data_batch *b, int64_t step, double loss, double norm,
                          struct err *e)
{
    struct err why = {0};
    struct ad_plan *p = plan_for(s, b, s->flags | AD_CHECK_FINITE | AD_NO_REUSE, &why);
    if (p) {
        run_bind_batch(p, s->m, b);
        if (ad_run(p, s->seed, (uint64_t)step, &why) == 0)
            err_set(&why, ERR_NONFINITE,
                    "the gradient's norm overflows; a smaller learning rate or optim.clip may help");
    }
    return err_set(e, ERR_NONFINITE, "step %lld: the loss is %g and the gradient's norm %g: %s", (long long)step,
                   isnan(loss) ? NAN : loss, isnan(norm) ? NAN : norm, why.msg); /* printf shows a NaN's sign */
}

static void read_pairs(const struct train_stepper *s, const struct ad_plan *p, struct train_result *r)
{
    r->n_pairs = run_pairs(&s->m->config);
    for (int i = 0; i < r->n_pairs; i++) {
        int a, b;
        double w;
        char name[600];
        run_pair(&s->m->config, i, &a, &b, &w);
        snprintf(name, sizeof name, "loss.%s-%s", s->m->tower[a].name, s->m->tower[b].name);
        r->pair[i] = ad_result_scalar(p, name);
    }
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
    struct ad_plan *p = plan_for(s, b, s->flags, e);
    if (!p) return e->code;
    run_bind_batch(p, s->m, b);
    double t1 = time_now();
    int rc = ad_run(p, s->seed, (uint64_t)step, e);
    if (rc) return rc;
    double t2 = time_now();
    r->loss = ad_result_scalar(p, "loss");
    r->scale = ad_result_scalar(p, "scale");
    read_pairs(s, p, r);
    train_loss_scale_undo(&s->loss_scale, s->grad, s->n_grad);
    r->grad_norm = opt_norm(s->grad, s->n_grad);
    r->skipped = isfinite(r->loss) && !isfinite(r->grad_norm) && train_loss_scale_skip(&s->loss_scale, step);
    if (r->skipped) {
        r->plan_s = t1 - t0;
        r->compute_s = time_now() - t1;
        return 0;
    }
    if (!isfinite(r->loss) || !isfinite(r->grad_norm)) return find_nonfinite(s, b, step, r->loss, r->grad_norm, e);
    train_loss_scale_good(&s->loss_scale);
    opt_step(s->o, s->grad, r->grad_norm, lr);
    clamp_scale(s->m);
    r->plan_s = t1 - t0;
    r->compute_s = t2 - t1;
    r->optimizer_s = time_now() - t2;
    return 0;
}

const float *train_stepper_gradient(const struct train_stepper *s)
{
    return s->grad;
}

struct ad_plan_stats train_stepper_plan(struct train_stepper *s, const struct data_batch *b, struct err *e)
{
    struct ad_plan *p = plan_for(s, b, s->flags, e);
    if (!p) return (struct ad_plan_stats){0};
    struct ad_plan_stats stats = ad_plan_stats(p);
    stats.build_s += s->graph_s;
    return stats;
}

struct train_loss_scale *train_stepper_loss_scale(struct train_stepper *s)
{
    return &s->loss_scale;
}

int train_stepper_plans(const struct train_stepper *s)
{
    return (int)s->n_plan;
}

void train_stepper_profile(struct train_stepper *s, bool on)
{
    s->profile = on;
    for (size_t i = 0; i < s->n_plan; i++) ad_plan_profile(s->plan[i].plan, on);
}

void train_stepper_report(const struct train_stepper *s, struct buf *out)
{
    for (size_t i = 0; i < s->n_plan; i++) ad_plan_report(s->plan[i].plan, out);
}
