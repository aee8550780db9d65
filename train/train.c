/* The loop: batches in, steps, records, measurements, checkpoints. See train.h. */
#include "train/train.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "base/threads.h"
#include "eval/measure.h"
#include "train/look.h"
#include "train/record.h"
#include "train/setup.h"

static volatile sig_atomic_t stop_signal;
static void on_signal(int s)
{
    stop_signal = s;
}

struct loop {
    struct train_setup s;
    struct train_record *record;
    struct run_state state;
    int64_t first_step; /* of this process */
    int lock;
    struct progress *bar;
    double started, last_save, shown_loss;
    double data_s, compute_s, optimizer_s, other_s; /* since the last record */
    double all_s[3];                                /* data, compute, optimizer: of this process */
    int64_t samples;                                /* of this process */
    int64_t samples_since;
    double since;
};

static double elapsed(const struct loop *l)
{
    return l->state.seconds + time_now() - l->started;
}

static double progress_of(const struct loop *l)
{
    return l->s.total ? (double)l->state.step / (double)l->s.total : elapsed(l) / l->s.c->time;
}

static void close_all(struct loop *l)
{
    train_record_close(l->record);
    train_setup_close(&l->s);
    if (l->lock >= 0) file_unlock(l->lock);
}

static int open_folder(struct loop *l, bool resume, struct err *e)
{
    const char *dir = l->s.m->dir;
    int rc = file_mkdirs(dir, e);
    if (rc) return rc;
    char *lock = file_join(dir, "lock"), *log = file_join(dir, "log.txt"), *last = NULL;
    l->lock = file_lock(lock, e);
    if (l->lock < 0) rc = err_prefix(e, "the run folder %s is in use", dir);
    if (!rc) rc = run_checkpoint_latest(dir, &last, e);
    if (!rc && last && !resume)
        rc = err_set(e, ERR_STATE,
                     "%s holds a run already (%s); go on with --resume, or choose another folder with train.out=...",
                     dir, file_basename(last));
    if (!rc && !last && resume)
        rc = err_set(e, ERR_STATE, "%s: there is no checkpoint to resume from; leave --resume out to begin", dir);
    if (!rc) rc = log_to_file(log, e);
    if (!rc && last) rc = run_checkpoint_load(last, &l->state, l->s.m->store, l->s.opt, false, e);
    struct train_loss_scale *scale = train_stepper_loss_scale(l->s.stepper);
    if (!rc && last && scale->on && l->state.loss_scale.scale > 0) train_loss_scale_set(scale, l->state.loss_scale);
    if (!rc) rc = run_model_write(l->s.m, e);
    if (!rc) {
        /* A run that has ended will be measured again. */
        bool ended = l->s.total ? l->state.step >= l->s.total : l->state.seconds >= l->s.c->time;
        l->record = train_record_open(dir, l->state.step, ended, e);
        if (!l->record) rc = e->code;
    }
    free(lock);
    free(log);
    free(last);
    return rc;
}

/* ---- while it runs ----------------------------------------------------------------------------------------------- */

static int save(struct loop *l, struct err *e)
{
    double t = time_now();
    struct run_state s = l->state;
    s.seconds = elapsed(l);
    s.loss_scale = train_stepper_loss_scale(l->s.stepper)->at;
    struct err why = {0};
    int rc = run_checkpoint_save(l->s.m->dir, &s, l->s.m->store, l->s.opt, e);
    if (!rc) log_info("saved %s/checkpoints/step-%lld", l->s.m->dir, (long long)s.step);
    if (!rc && run_checkpoint_prune(l->s.m->dir, l->s.c->keep, s.best_step, &why))
        log_warn("an old checkpoint was not removed: %s", why.msg);
    l->last_save = time_now();
    l->other_s += time_now() - t;
    return rc;
}

/* A save that fails in the middle of a run is told and tried again at the next turn: what was saved before stays. */
static bool save_or_warn(struct loop *l)
{
    struct err e = {0};
    if (save(l, &e) == 0) return true;
    log_warn("the checkpoint of step %lld was not written: %s", (long long)l->state.step, e.msg);
    return false;
}

static void record_directions(struct loop *l, const char *split, const struct eval_direction *d)
{
    char name[TRAIN_METRIC_NAME];
    for (int k = 0; k < EVAL_CUTS; k++) {
        train_metric_name(&l->s, split, d->query, d->target, k, name);
        train_record_value(l->record, name, d->recall[k]);
        if (l->s.c->best && !strcmp(l->s.c->best, name) && !(d->recall[k] <= l->state.best)) {
            l->state.best = d->recall[k];
            l->state.best_step = l->state.step;
        }
    }
}

/* Every direction of every pair on one split, as values of the open record and one line for people. */
static int measure_split(struct loop *l, const char *split, struct err *e)
{
    struct eval_set set;
    int rc = eval_set_make(l->s.m, &l->s.data, split, 0, &set, false, e);
    if (rc) return err_prefix(e, "measuring the split '%s'", split);
    struct buf line = {0};
    for (int p = 0; p < run_pairs(&l->s.m->config); p++) {
        int pair[2];
        double w;
        run_pair(&l->s.m->config, p, &pair[0], &pair[1], &w);
        for (int k = 0; k < 2; k++) {
            struct eval_direction d;
            eval_direction_make(&set, pair[k], pair[1 - k], 0, &d);
            record_directions(l, split, &d);
            if (d.queries)
                buf_printf(&line, "   %s→%s %.1f", l->s.m->tower[d.query].name, l->s.m->tower[d.target].name,
                           100 * d.recall[0]);
            eval_direction_free(&d);
        }
    }
    log_info("step %lld  %s  R@1 of %lld%s", (long long)l->state.step, split, (long long)set.n,
             line.data ? line.data : "");
    buf_free(&line);
    eval_set_free(&set);
    return 0;
}

static int measure(struct loop *l, struct err *e)
{
    const struct run_strings *v = &l->s.m->config.data.valid;
    double t = time_now();
    int rc = 0;
    train_record_begin(l->record, l->state.step);
    for (int64_t i = 0; i < v->n && !rc; i++) rc = measure_split(l, v->v[i], e);
    train_record_end(l->record);
    l->other_s += time_now() - t;
    return rc;
}

static void record_layers(struct loop *l)
{
    if (!l->s.layers) return;
    int n = opt_layers_count(l->s.layers);
    double *norm = mem_alloc((size_t)n * sizeof *norm);
    train_stepper_norms(l->s.stepper, l->s.layers, norm);
    for (int i = 0; i < n; i++) {
        char *name = mem_printf("grad_norm/%s", opt_layers_name(l->s.layers, i));
        train_record_value(l->record, name, norm[i]);
        free(name);
    }
    free(norm);
}

static void write_record(struct loop *l, const struct train_result *r, double lr)
{
    double wall = time_now() - l->since;
    train_record_begin(l->record, l->state.step);
    train_record_value(l->record, "epoch", (double)l->state.epoch);
    train_record_value(l->record, "loss", r->loss);
    for (int i = 0; i < r->n_pairs; i++) {
        int a, b;
        double w;
        char name[256];
        run_pair(&l->s.m->config, i, &a, &b, &w);
        snprintf(name, sizeof name, "loss/%s-%s", l->s.m->tower[a].name, l->s.m->tower[b].name);
        train_record_value(l->record, name, r->pair[i]);
    }
    train_record_value(l->record, "scale", r->scale);
    train_record_value(l->record, "lr", lr);
    train_record_value(l->record, "grad_norm", r->grad_norm);
    const struct train_loss_scale *scale = train_stepper_loss_scale(l->s.stepper);
    if (scale->on) train_record_value(l->record, "loss_scale", scale->at.scale);
    double noise = opt_noise_scale(&l->state.noise);
    if (isfinite(noise)) train_record_value(l->record, "noise_scale", noise);
    record_layers(l);
    train_record_value(l->record, "samples_per_s", (double)l->samples_since / wall);
    train_record_value(l->record, "share/data", l->data_s / wall);
    train_record_value(l->record, "share/compute", l->compute_s / wall);
    train_record_value(l->record, "share/optimizer", l->optimizer_s / wall);
    train_record_value(l->record, "share/other", l->other_s / wall);
    train_record_value(l->record, "seconds", elapsed(l));
    train_record_end(l->record);
    l->data_s = l->compute_s = l->optimizer_s = l->other_s = 0;
    l->samples_since = 0;
    l->since = time_now();
}

static void show(struct loop *l, const struct train_result *r)
{
    char note[200];
    double now = time_now() - l->started, rate = now > 0 ? (double)l->samples / now : 0;
    l->shown_loss = isnan(l->shown_loss) ? r->loss : 0.9 * l->shown_loss + 0.1 * r->loss;
    snprintf(note, sizeof note, "loss %.3f  %.0f samples/s  data %.0f%% compute %.0f%% optimizer %.0f%%", l->shown_loss,
             rate, 100 * l->all_s[0] / now, 100 * l->all_s[1] / now, 100 * l->all_s[2] / now);
    if (!l->s.total)
        progress_set_end(l->bar, l->s.c->time - elapsed(l),
                         (int64_t)((double)l->state.step / fmax(1e-9, fmin(1, progress_of(l))) + 0.5));
    progress_update(l->bar, l->state.step, note);
}

/* The first batch, as the model saw it, for people to look at. It is written behind the first step, which so begins at
 * once, also when that failed; and its time is no part of the run's. */
static int look(struct loop *l, const struct data_batch *b, struct err *e)
{
    double t = time_now();
    int rc = train_look(l->s.m, &l->s.data, &b, 1, l->s.m->dir, e);
    t = time_now() - t;
    l->started += t;
    l->since += t;
    return rc;
}

/* The batch that `state` says comes next, and the time it was waited for. */
static int one_step(struct loop *l, struct train_result *r, double *lr, struct err *e)
{
    struct data_batch *b;
    double t0 = time_now();
    int rc = data_loader_next(l->s.loader, &b, e);
    if (rc) return rc;
    double t1 = time_now();
    *lr = opt_lr(&l->s.opt_config, l->state.step, progress_of(l));
    rc = train_stepper_run(l->s.stepper, b, l->state.step, *lr, r, e);
    if (l->state.step == 0) {
        struct err why = {0};
        int page = look(l, b, &why);
        if (page && !rc) rc = err_set(e, page, "%s", why.msg);
    }
    if (!rc && r->part_norm > 0)
        opt_noise_add(&l->state.noise, r->part_norm * r->part_norm, (double)l->s.c->micro_batch,
                      r->grad_norm * r->grad_norm, (double)b->size);
    if (!rc) {
        l->state.step++;
        l->state.epoch = b->epoch;
        l->state.batch = b->index + 1;
        l->state.samples += b->size;
        l->samples_since += b->size;
        l->samples += b->size;
    }
    data_loader_release(l->s.loader, b);
    l->data_s += t1 - t0;
    l->compute_s += r->compute_s + r->plan_s;
    l->optimizer_s += r->optimizer_s;
    l->all_s[0] += t1 - t0;
    l->all_s[1] += r->compute_s + r->plan_s;
    l->all_s[2] += r->optimizer_s;
    return rc;
}

static bool due(int64_t every, int64_t step)
{
    return every > 0 && step % every == 0;
}

static int train_loop(struct loop *l, struct err *e)
{
    int rc = 0;
    while (!rc && !stop_signal && progress_of(l) < 1) {
        struct train_result r = {0};
        double lr;
        rc = one_step(l, &r, &lr, e);
        if (rc) break;
        show(l, &r);
        bool last = progress_of(l) >= 1; /* the last step is always recorded */
        if (last || due(l->s.c->log_every, l->state.step)) write_record(l, &r, lr);
        if (last) break;
        if (due(l->s.c->valid_every, l->state.step)) rc = measure(l, e);
        bool by_time = l->s.c->save_time > 0 && time_now() - l->last_save > l->s.c->save_time,
             best = l->state.best_step == l->state.step; /* which names a checkpoint, so there must be one */
        if (!rc && (due(l->s.c->save_every, l->state.step) || by_time || best)) save_or_warn(l);
    }
    return rc;
}

/* Whether any parameter is what batch norm has seen so far. */
static bool has_running(const struct ad_store *s)
{
    for (int i = 0; i < ad_store_count(s); i++)
        if (ad_store_at(s, i)->flags & AD_STATE) return true;
    return false;
}

static void greet(const struct loop *l)
{
    char total[32], part[32];
    struct buf b = {0};
    for (int i = 0; i < l->s.m->n; i++) {
        buf_printf(&b, "%s%s %s", i ? ", " : "", l->s.m->tower[i].name,
                   text_count(part, sizeof part, train_tower_parameters(&l->s, i)));
    }
    buf_printf(&b, ")   batch ");
    train_batch_text(&l->s.m->config, &b);
    log_info("%s   %s parameters (%s   %d threads", l->s.m->config.name,
             text_count(total, sizeof total, ad_store_trainable(l->s.m->store)), b.data, threads_count());
    if (l->s.c->micro_batch > 0 && l->s.c->micro_batch < l->s.c->batch && has_running(l->s.m->store))
        log_info("batch norm sees a micro-batch of %lld at a time: its statistics are of that, and its running "
                 "statistics move once a micro-batch",
                 (long long)l->s.c->micro_batch);
    buf_free(&b);
}

/* After a NaN only what was saved before it counts. Any other error (a file that is gone) leaves the weights as the
 * last step left them: they are saved, so that nothing is lost once the cause is mended. */
static int finish_failed(struct loop *l, int rc, struct err *e)
{
    char *last = NULL;
    struct err why = {0};
    bool moved = l->state.step > l->first_step;
    if (rc != ERR_NONFINITE && moved) save_or_warn(l);
    if (run_checkpoint_latest(l->s.m->dir, &last, &why) == 0 && last)
        err_append(e, "; the last checkpoint is %s", last);
    else if (moved)
        err_append(e, "; no checkpoint was written yet");
    free(last);
    return rc;
}

/* Saves before it measures, so that who stops the measuring has the weights; and again if this was the best. */
static int finish(struct loop *l, int rc, struct err *e)
{
    if (rc) return finish_failed(l, rc, e);
    int stopped_by = stop_signal;
    bool saved = false;
    struct err why = {0};
    if (!stopped_by && l->s.m->config.data.valid.n) {
        saved = save_or_warn(l);
        rc = measure(l, e);
        if (l->state.best_step == l->state.step) saved = false;
    }
    if (!saved && save(l, &why)) return err_set(e, why.code, "the last checkpoint was not written: %s", why.msg);
    if (!rc && stopped_by)
        rc = err_set(e, ERR_INTERRUPTED, "stopped by %s at step %lld; go on with --resume",
                     stopped_by == SIGINT   ? "Ctrl-C"
                     : stopped_by == SIGHUP ? "SIGHUP"
                                            : "SIGTERM",
                     (long long)l->state.step);
    return rc;
}

enum { CAUGHT = 4 };
static const int caught[CAUGHT] = {SIGINT, SIGTERM, SIGHUP, SIGXFSZ};

/* A second Ctrl-C ends at once. A file that may not grow any more (ulimit -f) is an error of its write, not a death. */
static void catch_signals(struct sigaction old[CAUGHT])
{
    struct sigaction a = {.sa_handler = on_signal, .sa_flags = SA_RESTART | SA_RESETHAND},
                     ignore = {.sa_handler = SIG_IGN};
    sigemptyset(&a.sa_mask);
    stop_signal = 0;
    for (int i = 0; i < CAUGHT; i++) sigaction(caught[i], caught[i] == SIGXFSZ ? &ignore : &a, &old[i]);
}

static void release_signals(const struct sigaction old[CAUGHT])
{
    for (int i = 0; i < CAUGHT; i++) sigaction(caught[i], &old[i], NULL);
}

static int run_all(struct loop *l, const struct train_options *o, struct err *e)
{
    int rc = train_setup_open(&l->s, o, e);
    if (!rc) l->state = l->s.m->state;
    if (!rc) rc = open_folder(l, o->resume, e);
    if (rc) return rc;
    greet(l);
    data_loader_seek(l->s.loader, l->state.epoch, l->state.batch);
    if (o->resume) log_info("resumed at step %lld", (long long)l->state.step);
    if (o->profile) train_stepper_profile(l->s.stepper, true);
    struct sigaction old[CAUGHT];
    catch_signals(old);
    l->first_step = l->state.step;
    l->started = l->last_save = l->since = time_now();
    l->shown_loss = NAN;
    l->bar = progress_new(l->s.m->config.name, l->s.total, "steps", 10);
    rc = train_loop(l, e);
    progress_end(l->bar, NULL);
    rc = finish(l, rc, e);
    release_signals(old);
    if (o->profile) {
        struct buf b = {0};
        train_stepper_report(l->s.stepper, &b);
        fputs(b.data, stdout);
        buf_free(&b);
    }
    return rc;
}

int train_run(const struct train_options *o, struct err *e)
{
    struct loop l = {.lock = -1};
    int rc = run_all(&l, o, e);
    close_all(&l);
    return rc;
}
