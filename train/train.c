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
#include "train/step.h"

static volatile sig_atomic_t stop_signal;
static void on_signal(int s)
{
    stop_signal = s;
}

struct loop {
    struct run_model *m;
    const struct run_train *c;
    struct manifest data;
    struct data_cache *cache;
    struct data_loader *loader;
    struct opt_config opt_config;
    struct opt *opt;
    struct train_stepper *stepper;
    struct train_record *record;
    struct run_state state;
    int64_t total;      /* steps; 0 where the clock decides */
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
    return l->total ? (double)l->state.step / (double)l->total : elapsed(l) / l->c->time;
}

enum { METRIC_NAME = 400 };
static void metric_name(const struct loop *l, const char *split, int query, int target, int cut, char out[METRIC_NAME])
{
    snprintf(out, METRIC_NAME, "%s/%s->%s R@%d", split, l->m->tower[query].name, l->m->tower[target].name,
             eval_cut[cut]);
}

/* ---- opening
 * ------------------------------------------------------------------------------------------------------------ */

/* Is `name` what record_directions will write for one of the splits? */
static bool known_metric(const struct loop *l, const char *name)
{
    const struct run_config *c = &l->m->config;
    char text[METRIC_NAME];
    for (int64_t i = 0; i < c->data.valid.n; i++)
        for (int p = 0; p < run_pairs(c); p++)
            for (int k = 0; k < 2 * EVAL_CUTS; k++) {
                int pair[2];
                double w;
                run_pair(c, p, &pair[0], &pair[1], &w);
                metric_name(l, c->data.valid.v[i], pair[k % 2], pair[1 - k % 2], k / 2, text);
                if (!strcmp(text, name)) return true;
            }
    return false;
}

/* A wrong name must not wait until the end of the run to be told. */
static int check_valid(struct loop *l, struct err *e)
{
    const struct run_config *c = &l->m->config;
    int rc = 0;
    for (int64_t i = 0; i < c->data.valid.n && !rc; i++) {
        const char *name = c->data.valid.v[i];
        char *split = mem_strndup(name, strcspn(name, "/"));
        int64_t *items, n;
        rc = manifest_select(&l->data, split, &items, &n, e);
        if (rc)
            err_prefix(e, "%s: data.valid", conf_where(&l->m->conf, &c->data.valid));
        else
            free(items);
        free(split);
    }
    if (rc || !c->train.best || known_metric(l, c->train.best)) return rc;
    return err_set(
        e, ERR_CONFIG,
        "%s: train.best: '%s' is not measured; it should be like 'SPLIT/%s->%s R@1' with a split of data.valid",
        conf_where(&l->m->conf, &c->train.best), c->train.best, l->m->tower[0].name, l->m->tower[1].name);
}

static int open_data(struct loop *l, struct err *e)
{
    const struct run_config *c = &l->m->config;
    int64_t *items, n;
    int rc = run_model_data(l->m, &l->data, &items, &n, e);
    if (rc) return rc;
    l->cache = c->data.cache > 0 ? data_cache_new(c->data.cache) : NULL;
    struct data_loader_config d = {.manifest = &l->data,
                                   .items = items,
                                   .n_items = n,
                                   .split = c->data.train,
                                   .modality = l->m->input,
                                   .n_modalities = l->m->n,
                                   .batch = c->train.batch,
                                   .seed = (uint64_t)c->train.seed,
                                   .skip = c->data.on_bad == 1,
                                   .threads = (int)c->data.workers,
                                   .cache = l->cache};
    rc = data_loader_new(&d, &l->loader, e);
    free(items);
    if (rc == ERR_CONFIG && n < c->train.batch)
        err_prefix(e, "%s: train.batch", conf_where(&l->m->conf, &c->train.batch));
    if (rc) return rc;
    int64_t per_epoch = data_loader_batches(l->loader);
    l->total = c->train.steps        ? c->train.steps
               : c->train.epochs > 0 ? (int64_t)ceil(c->train.epochs * (double)per_epoch)
                                     : 0;
    return check_valid(l, e);
}

/* What training and forecast share. */
static int open_all(struct loop *l, const struct train_options *o, struct err *e)
{
    int rc = run_model_new(o->config, o->overrides, o->n_overrides, &l->m, e);
    if (rc) return rc;
    l->c = &l->m->config.train;
    l->state = l->m->state;
    threads_init((int)l->c->threads);
    mem_keep_freed();
    rc = run_model_commit(l->m, e);
    if (!rc) rc = open_data(l, e);
    if (rc) return rc;
    l->opt_config = run_opt_config(&l->m->config);
    l->opt = opt_new(&l->opt_config, l->m->store, e);
    if (!l->opt) return e->code;
    l->stepper = train_stepper_new(l->m, l->opt, e);
    return l->stepper ? 0 : e->code;
}

static void close_all(struct loop *l)
{
    data_loader_free(l->loader);
    data_cache_free(l->cache);
    train_stepper_free(l->stepper);
    opt_free(l->opt);
    train_record_close(l->record);
    manifest_free(&l->data);
    run_model_free(l->m);
    if (l->lock >= 0) file_unlock(l->lock);
}

static int open_folder(struct loop *l, bool resume, struct err *e)
{
    const char *dir = l->m->dir;
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
    if (!rc && last) rc = run_checkpoint_load(last, &l->state, l->m->store, l->opt, false, e);
    if (!rc) rc = run_model_write(l->m, e);
    if (!rc) {
        /* A run that has ended will be measured again. */
        bool ended = l->total ? l->state.step >= l->total : l->state.seconds >= l->c->time;
        l->record = train_record_open(dir, l->state.step, ended, e);
        if (!l->record) rc = e->code;
    }
    free(lock);
    free(log);
    free(last);
    return rc;
}

/* ---- while it runs
 * -------------------------------------------------------------------------------------------------------- */

static int save(struct loop *l, struct err *e)
{
    double t = time_now();
    struct run_state s = l->state;
    s.seconds = elapsed(l);
    struct err why = {0};
    int rc = run_checkpoint_save(l->m->dir, &s, l->m->store, l->opt, e);
    if (!rc) log_info("saved %s/checkpoints/step-%lld", l->m->dir, (long long)s.step);
    if (!rc && run_checkpoint_prune(l->m->dir, l->c->keep, s.best_step, &why))
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
    char name[METRIC_NAME];
    for (int k = 0; k < EVAL_CUTS; k++) {
        metric_name(l, split, d->query, d->target, k, name);
        train_record_value(l->record, name, d->recall[k]);
        if (l->c->best && !strcmp(l->c->best, name) && !(d->recall[k] <= l->state.best)) {
            l->state.best = d->recall[k];
            l->state.best_step = l->state.step;
        }
    }
}

/* Every direction of every pair on one split, as values of the open record and one line for people. */
static int measure_split(struct loop *l, const char *split, struct err *e)
{
    struct eval_set set;
    int rc = eval_set_make(l->m, &l->data, split, &set, false, e);
    if (rc) return err_prefix(e, "measuring the split '%s'", split);
    struct buf line = {0};
    for (int p = 0; p < run_pairs(&l->m->config); p++) {
        int pair[2];
        double w;
        run_pair(&l->m->config, p, &pair[0], &pair[1], &w);
        for (int k = 0; k < 2; k++) {
            struct eval_direction d;
            eval_direction_make(&set, pair[k], pair[1 - k], 0, &d);
            record_directions(l, split, &d);
            if (d.queries)
                buf_printf(&line, "   %s→%s %.1f", l->m->tower[d.query].name, l->m->tower[d.target].name,
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
    const struct run_strings *v = &l->m->config.data.valid;
    double t = time_now();
    int rc = 0;
    train_record_begin(l->record, l->state.step);
    for (int64_t i = 0; i < v->n && !rc; i++) rc = measure_split(l, v->v[i], e);
    train_record_end(l->record);
    l->other_s += time_now() - t;
    return rc;
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
        run_pair(&l->m->config, i, &a, &b, &w);
        snprintf(name, sizeof name, "loss/%s-%s", l->m->tower[a].name, l->m->tower[b].name);
        train_record_value(l->record, name, r->pair[i]);
    }
    train_record_value(l->record, "scale", r->scale);
    train_record_value(l->record, "lr", lr);
    train_record_value(l->record, "grad_norm", r->grad_norm);
    train_record_value(l->record, "samples_per_s", (double)l->samples_since / wall);
    train_record_value(l->record, "share/data", l->data_s / wall);
    train_record_value(l->record, "share/compute", l->compute_s / wall);
    train_record_value(l->record, "share/optimizer", l->optimizer_s / wall);
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
    if (!l->total)
        progress_set_total(l->bar, (int64_t)((double)l->state.step / fmax(1e-9, fmin(1, progress_of(l))) + 0.5));
    progress_update(l->bar, l->state.step, note);
}

/* The batch that `state` says comes next, and the time it was waited for. */
static int one_step(struct loop *l, struct train_result *r, double *lr, struct err *e)
{
    struct data_batch *b;
    double t0 = time_now();
    int rc = data_loader_next(l->loader, &b, e);
    if (rc) return rc;
    double t1 = time_now();
    *lr = opt_lr(&l->opt_config, l->state.step, progress_of(l));
    rc = train_stepper_run(l->stepper, b, l->state.step, *lr, r, e);
    if (!rc) {
        l->state.step++;
        l->state.epoch = b->epoch;
        l->state.batch = b->index + 1;
        l->state.samples += b->size;
        l->samples_since += b->size;
        l->samples += b->size;
    }
    data_loader_release(l->loader, b);
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
        if (last || due(l->c->log_every, l->state.step)) write_record(l, &r, lr);
        if (last) break;
        if (due(l->c->valid_every, l->state.step)) rc = measure(l, e);
        bool by_time = l->c->save_time > 0 && time_now() - l->last_save > l->c->save_time,
             best = l->state.best_step == l->state.step; /* which names a checkpoint, so there must be one */
        if (!rc && (due(l->c->save_every, l->state.step) || by_time || best)) save_or_warn(l);
    }
    return rc;
}

static void greet(const struct loop *l)
{
    char total[32], part[32];
    struct buf b = {0};
    for (int i = 0; i < l->m->n; i++) {
        int64_t n = 0;
        size_t len = strlen(l->m->tower[i].name);
        for (int k = 0; k < ad_store_count(l->m->store); k++) {
            const struct ad_entry *p = ad_store_at(l->m->store, k);
            if (!(p->flags & AD_STATE) && !strncmp(p->name, l->m->tower[i].name, len) && p->name[len] == '.')
                n += p->count;
        }
        buf_printf(&b, "%s%s %s", i ? ", " : "", l->m->tower[i].name, text_count(part, sizeof part, n));
    }
    log_info("%s   %s parameters (%s)   batch %lld   %d threads", l->m->config.name,
             text_count(total, sizeof total, ad_store_trainable(l->m->store)), b.data, (long long)l->c->batch,
             threads_count());
    buf_free(&b);
}

/* The first batches, as the model will see them, for people to look at. */
static int look(struct loop *l, struct err *e)
{
    struct data_batch *b;
    int rc = data_loader_next(l->loader, &b, e);
    if (rc) return rc;
    rc = train_look(l->m, &l->data, (const struct data_batch *const[]){b}, 1, l->m->dir, e);
    data_loader_release(l->loader, b);
    return rc;
}

/* After a NaN only what was saved before it counts. Any other error (a file that is gone) leaves the weights as the
 * last step left them: they are saved, so that nothing is lost once the cause is mended. */
static int finish_failed(struct loop *l, int rc, struct err *e)
{
    char *last = NULL;
    struct err why = {0};
    bool moved = l->state.step > l->first_step;
    if (rc != ERR_NONFINITE && moved) save_or_warn(l);
    if (run_checkpoint_latest(l->m->dir, &last, &why) == 0 && last)
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
    if (!stopped_by && l->m->config.data.valid.n) {
        saved = save_or_warn(l);
        rc = measure(l, e);
        if (l->state.best_step == l->state.step) saved = false;
    }
    if (!saved && save(l, &why)) return err_set(e, why.code, "the last checkpoint was not written: %s", why.msg);
    if (!rc && stopped_by)
        rc = err_set(e, ERR_INTERRUPTED, "stopped by %s at step %lld; go on with --resume",
                     stopped_by == SIGINT ? "Ctrl-C" : "SIGTERM", (long long)l->state.step);
    return rc;
}

enum { CAUGHT = 3 };
static const int caught[CAUGHT] = {SIGINT, SIGTERM, SIGXFSZ};

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
    int rc = open_all(l, o, e);
    if (!rc) rc = open_folder(l, o->resume, e);
    if (rc) return rc;
    greet(l);
    if (!o->resume && (rc = look(l, e)) != 0) return rc;
    data_loader_seek(l->loader, l->state.epoch, l->state.batch);
    if (o->resume) log_info("resumed at step %lld", (long long)l->state.step);
    if (o->profile) train_stepper_profile(l->stepper, true);
    struct sigaction old[CAUGHT];
    catch_signals(old);
    l->first_step = l->state.step;
    l->started = l->last_save = l->since = time_now();
    l->shown_loss = NAN;
    l->bar = progress_new(l->m->config.name, l->total, "steps", 10);
    rc = train_loop(l, e);
    progress_end(l->bar, NULL);
    rc = finish(l, rc, e);
    release_signals(old);
    if (o->profile) {
        struct buf b = {0};
        train_stepper_report(l->stepper, &b);
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

/* ---- forecast
 * --------------------------------------------------------------------------------------------------------------- */

/* Bytes that the cache will come to hold: every item's decoded data, up to the budget. */
static double forecast_cache(const struct loop *l, const struct data_batch *b)
{
    double bytes = 0;
    for (int i = 0; i < l->m->n; i++) {
        const struct data_modality *d = &l->m->input[i];
        const struct data_part *p = &b->part[i];
        double entries = 0, items = p->n ? (double)p->n : 1;
        for (int64_t k = 0; k < l->data.n; k++) {
            const struct manifest_field *f = manifest_field(&l->data.item[k], d->field);
            if (!f || strcmp(l->data.item[k].split, l->m->config.data.train)) continue;
            int used[256];
            entries += f->n <= 256 ? manifest_use(&l->data, f, l->m->config.data.train, used) : f->n;
        }
        if (d->kind == DATA_IMAGE) bytes += entries * (double)(d->h * d->w * 3);
        if (d->kind == DATA_TEXT) bytes += entries * (double)p->offsets[p->n] / items * 4;
        if (d->kind == DATA_AUDIO) bytes += entries * (double)p->offsets[p->n] / items * (double)d->logmel.bins * 2;
    }
    return fmin(bytes, (double)l->m->config.data.cache);
}

static double part_bytes(const struct data_modality *d, const struct data_part *p)
{
    return (double)p->cap * (double)(d->kind == DATA_IMAGE ? d->h * d->w * 12 : 4) +
           (double)p->rows * (d->kind == DATA_AUDIO ? 4.0 * (double)d->logmel.bins : 4.0);
}

static void print_forecast(const struct loop *l, const struct ad_plan_stats *p, double peak, double step_s)
{
    char a[32], b[32];
    const struct run_model *m = l->m;
    printf("%s\n  parameters   %s\n", m->config.name, text_count(a, sizeof a, ad_store_trainable(m->store)));
    for (int i = 0; i < m->n; i++) {
        int64_t n = 0;
        size_t len = strlen(m->tower[i].name);
        for (int k = 0; k < ad_store_count(m->store); k++) {
            const struct ad_entry *x = ad_store_at(m->store, k);
            if (!(x->flags & AD_STATE) && !strncmp(x->name, m->tower[i].name, len) && x->name[len] == '.')
                n += x->count;
        }
        printf("    %-10s %s\n", m->tower[i].name, text_count(a, sizeof a, n));
    }
    printf("  a step       %.2f GFLOP, %.3f s, %.0f samples/s\n", p->flops * 1e-9, step_s,
           (double)l->c->batch / step_s);
    printf("  the plan     %lld calls (%lld fused, %lld in place, %lld views), made in %.1f ms\n", (long long)p->steps,
           (long long)p->fused, (long long)p->in_place, (long long)p->views, 1e3 * p->build_s);
    printf("  activations  %s (%s if nothing were reused)\n", text_size(a, sizeof a, (double)p->arena_bytes),
           text_size(b, sizeof b, (double)p->unshared_bytes));
    printf("  optimizer    %.0f bytes a parameter\n", opt_bytes_per_parameter(&l->opt_config));
    printf("  peak memory  %s predicted\n", text_size(a, sizeof a, peak));
    if (l->total)
        printf("  whole run    %lld steps, about %s\n", (long long)l->total,
               text_clock(a, sizeof a, (double)l->total * step_s));
}

static int forecast(struct loop *l, const struct train_options *o, struct err *e)
{
    int rc = open_all(l, o, e);
    struct data_batch *b = NULL;
    if (!rc) rc = data_loader_next(l->loader, &b, e);
    if (rc) return rc;
    struct ad_plan_stats p = train_stepper_plan(l->stepper, b, e);
    struct train_result r = {0};
    double best = INFINITY;
    for (int i = 0; i < 3 && !rc; i++) {
        rc = train_stepper_run(l->stepper, b, i, 0, &r, e);
        best = fmin(best, r.compute_s + r.optimizer_s);
    }
    if (rc) return rc;
    /* What is in memory now, and what the loader and the cache will add. */
    double ring = 0;
    for (int i = 0; i < l->m->n; i++) ring += part_bytes(&l->m->input[i], &b->part[i]);
    double peak =
        (double)process_peak_rss() + forecast_cache(l, b) - (double)(l->cache ? data_cache_bytes(l->cache) : 0) + ring;
    print_forecast(l, &p, peak, best);
    data_loader_release(l->loader, b);
    return 0;
}

int train_dry_run(const struct train_options *o, struct err *e)
{
    struct loop l = {.lock = -1};
    int rc = forecast(&l, o, e);
    close_all(&l);
    return rc;
}
