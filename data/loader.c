/* The ring of batches and the threads that fill it. Batches have positions counted from epoch 0 on (epoch * batches +
 * index; by a budget, from the last seek on); position p lives in slot p % n. A thread claims the next position once its
 * slot is free, under the lock, where the order of its epoch is laid down too; then it works without the lock. Who waits,
 * sleeps. */
#include "data/loader.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/threads.h"
#include "data/budget.h"
#include "data/sample.h"

enum { FREE, MAKING, READY, HELD };

struct worker {
    struct data_loader *l;
    struct data_maker maker;
    pthread_t thread;
};

/* A batch in the order of an epoch, by a budget. */
struct cursor {
    int64_t epoch, index, from; /* its first item in the order */
};

struct data_loader {
    struct data_plan plan;
    int64_t *items, *order;       /* (n_items): as given, and in the order of `order_epoch` */
    int64_t order_epoch, batches; /* by a budget: batches of epoch 0, -1 before they are counted */
    struct data_budget *budget;   /* NULL: by items */
    struct cursor at;             /* by a budget: the batch that is claimed next */
    struct data_slot *slot;
    int n_slots, n_workers, n_threads; /* at least one worker; without threads it is data_loader_next's own */
    struct worker *worker;
    pthread_mutex_t lock;
    pthread_cond_t work, ready;    /* a slot came free or all should stop; a batch was made */
    int64_t next_made, next_taken; /* positions */
    int busy;
    bool stop, paused;
    unsigned char *warned; /* (manifest items) */
    struct data_loader_stats stats;
};

static void warn_once(void *ctx, int64_t item, const char *why)
{
    struct data_loader *l = ctx;
    pthread_mutex_lock(&l->lock);
    bool first = !l->warned[item];
    l->warned[item] = 1;
    pthread_mutex_unlock(&l->lock);
    if (first) log_warn("%s; another item stands in for it", why);
}

/* Fisher and Yates' shuffle, keyed by (seed, epoch). */
static void lay_order(struct data_loader *l, int64_t epoch)
{
    if (epoch == l->order_epoch) return;
    int64_t n = l->plan.c.n_items;
    memcpy(l->order, l->items, (size_t)n * sizeof *l->order);
    l->order_epoch = epoch;
    if (l->plan.c.eval) return;
    struct rng r = rng_make(l->plan.c.seed, hash_str("order"), (uint64_t)epoch);
    for (int64_t i = n - 1; i > 0; i--) {
        int64_t j = rng_below(&r, i + 1), t = l->order[i];
        l->order[i] = l->order[j];
        l->order[j] = t;
    }
}

static bool at_end(const struct data_loader *l, int64_t position)
{
    return l->plan.c.eval && position >= l->batches;
}

static bool can_claim(const struct data_loader *l)
{
    return !l->paused && !at_end(l, l->next_made) && l->slot[l->next_made % l->n_slots].state == FREE;
}

/* By a budget: how many items the batch at *c takes, having moved *c into the next epoch where one is over; -1 on error. */
static int64_t measure(struct data_loader *l, struct cursor *c, struct err *e)
{
    for (;;) {
        lay_order(l, c->epoch);
        int64_t left = l->plan.c.n_items - c->from,
                n = data_budget_take(l->budget, l->order + c->from, left, c->epoch, c->index == 0, e);
        if (n) return n;
        *c = (struct cursor){.epoch = c->epoch + 1};
    }
}

static void step_over(struct cursor *c, int64_t items)
{
    c->index++;
    c->from += items;
}

/* Which items a batch has, by position or by a budget; where that fails, its error. */
static void lay_batch(struct data_loader *l, struct data_slot *s, int64_t position)
{
    int64_t B = l->plan.c.batch, from;
    err_clear(&s->err);
    if (l->budget) {
        int64_t n = measure(l, &l->at, &s->err);
        s->b.epoch = l->at.epoch;
        s->b.index = l->at.index;
        s->b.size = n < 0 ? 0 : n;
        from = l->at.from;
        if (n > 0) step_over(&l->at, n);
    } else {
        s->b.epoch = position / l->batches;
        s->b.index = position % l->batches;
        from = s->b.index * B;
        int64_t left = l->plan.c.n_items - from;
        s->b.size = left < B ? left : B;
        lay_order(l, s->b.epoch);
    }
    memcpy(s->b.sample, l->order + from, (size_t)s->b.size * sizeof *s->b.sample);
}

/* Under the lock. */
static struct data_slot *claim(struct data_loader *l)
{
    int64_t p = l->next_made++;
    struct data_slot *s = &l->slot[p % l->n_slots];
    s->state = MAKING;
    lay_batch(l, s, p);
    l->busy++;
    return s;
}

/* Called and left under the lock. */
static void make_one(struct data_loader *l, struct data_maker *k)
{
    struct data_slot *s = claim(l);
    pthread_mutex_unlock(&l->lock);
    if (!s->err.code) {
        int rc = data_slot_make(k, s, &s->err);
        CHECK(rc == s->err.code);
    }
    pthread_mutex_lock(&l->lock);
    s->state = READY;
    l->busy--;
    l->stats.decoded += k->decoded;
    l->stats.cached += k->cached;
    l->stats.skipped += k->skipped;
    k->decoded = k->cached = k->skipped = 0;
    pthread_cond_broadcast(&l->ready);
}

static void *run_worker(void *arg)
{
    struct worker *w = arg;
    struct data_loader *l = w->l;
    threads_alone();
    pthread_mutex_lock(&l->lock);
    for (;;) {
        while (!l->stop && !can_claim(l)) pthread_cond_wait(&l->work, &l->lock);
        if (l->stop) break;
        make_one(l, &w->maker);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

int data_loader_next(struct data_loader *l, struct data_batch **b, struct err *e)
{
    *b = NULL;
    if (at_end(l, l->next_taken)) return 0;
    pthread_mutex_lock(&l->lock);
    struct data_slot *s = &l->slot[l->next_taken % l->n_slots];
    CHECK_MSG(s->state != HELD, "all %d batches of the ring are held: release one before asking for the next",
              l->n_slots);
    double from = time_now();
    if (l->n_threads == 0 && s->state == FREE) make_one(l, &l->worker[0].maker);
    while (s->state != READY) pthread_cond_wait(&l->ready, &l->lock);
    l->stats.waited_s += time_now() - from;
    int rc = s->err.code ? err_set(e, s->err.code, "%s", s->err.msg) : 0;
    if (!rc) {
        s->state = HELD;
        l->next_taken++;
        *b = &s->b;
    }
    pthread_mutex_unlock(&l->lock);
    return rc;
}

void data_loader_release(struct data_loader *l, struct data_batch *b)
{
    struct data_slot *s = (struct data_slot *)b;
    pthread_mutex_lock(&l->lock);
    CHECK(s->state == HELD);
    s->state = FREE;
    pthread_cond_signal(&l->work);
    pthread_mutex_unlock(&l->lock);
}

void data_loader_seek(struct data_loader *l, int64_t epoch, int64_t index)
{
    CHECK(epoch >= 0 && index >= 0);
    pthread_mutex_lock(&l->lock);
    l->paused = true;
    while (l->busy > 0) pthread_cond_wait(&l->ready, &l->lock);
    for (int i = 0; i < l->n_slots; i++) {
        CHECK_MSG(l->slot[i].state != HELD, "release every batch before data_loader_seek");
        l->slot[i].state = FREE;
    }
    if (l->budget) {
        struct err why = {0}; /* told by the batch where it stops */
        int64_t n = 0;
        l->at = (struct cursor){.epoch = epoch};
        for (int64_t i = 0; i < index && (n = measure(l, &l->at, &why)) > 0; i++) step_over(&l->at, n);
        l->next_made = l->next_taken = 0;
    } else
        l->next_made = l->next_taken = (l->plan.c.eval ? 0 : epoch * l->batches) + index;
    l->paused = false;
    pthread_cond_broadcast(&l->work);
    pthread_mutex_unlock(&l->lock);
}

int64_t data_loader_batches(struct data_loader *l)
{
    pthread_mutex_lock(&l->lock);
    if (l->batches < 0) {
        struct cursor c = {0};
        struct err why = {0};
        int64_t n;
        while ((n = measure(l, &c, &why)) > 0 && c.epoch == 0) {
            step_over(&c, n);
            l->batches = c.index;
        }
    }
    int64_t n = l->batches > 0 ? l->batches : 1;
    pthread_mutex_unlock(&l->lock);
    return n;
}

struct data_loader_stats data_loader_stats(struct data_loader *l)
{
    pthread_mutex_lock(&l->lock);
    struct data_loader_stats s = l->stats;
    pthread_mutex_unlock(&l->lock);
    return s;
}

/* Checks and defaults */

static int check_ranges(const struct data_modality *m, int64_t batch, struct err *e)
{
    const struct data_image_augment *i = &m->image;
    const struct data_audio_augment *a = &m->audio;
    double max = 1e9;
    const struct {
        enum data_kind kind;
        const char *name;
        double value, lo, hi;
    } rows[] = {
        {DATA_IMAGE, "height", (double)m->h, 1, 16384},
        {DATA_IMAGE, "width", (double)m->w, 1, 16384},
        {DATA_IMAGE, "crop's largest area", i->crop_max, 0, 1},
        {DATA_IMAGE, "crop's smallest area", i->crop_min, i->crop_max > 0 ? 1e-4 : 0,
         i->crop_max > 0 ? i->crop_max : 1},
        {DATA_IMAGE, "crop's largest ratio", i->ratio_max, 0, 1000},
        {DATA_IMAGE, "crop's smallest ratio", i->ratio_min, i->ratio_max > 0 ? 1e-3 : 0, i->ratio_max},
        {DATA_IMAGE, "flip", i->flip, 0, 1},
        {DATA_IMAGE, "shift", (double)i->shift, 0, 16384},
        {DATA_IMAGE, "brightness", i->brightness, 0, 1},
        {DATA_IMAGE, "contrast", i->contrast, 0, 1},
        {DATA_IMAGE, "saturation", i->saturation, 0, 1},
        {DATA_IMAGE, "hue", i->hue, 0, 0.5},
        {DATA_IMAGE, "noise", i->noise, 0, 1},
        {DATA_TEXT, "tokens", (double)m->max_tokens, 1, 1 << 20},
        {DATA_TEXT, "first", m->first, 0, 1},
        {DATA_AUDIO, "seconds", m->max_seconds, 0, max},
        {DATA_AUDIO, "samples", (double)m->samples, 0, (double)(INT32_MAX / (batch + 8))}, /* offsets are int32 */
        {DATA_AUDIO, "gain", a->gain_db, 0, 60},
        {DATA_AUDIO, "noise", a->noise, 0, 1},
        {DATA_AUDIO, "noise's highest SNR", a->snr_max_db, -60, 120},
        {DATA_AUDIO, "noise's lowest SNR", a->snr_min_db, -60, a->snr_max_db},
        {DATA_AUDIO, "speed", a->speed, 0, 0.9},
        {DATA_AUDIO, "shift", a->shift_s, 0, max},
        {DATA_AUDIO, "time masks", a->time_masks, 0, 1000},
        {DATA_AUDIO, "bin masks", a->bin_masks, 0, 1000},
        {DATA_AUDIO, "time mask", a->time_mask_s, 0, max},
        {DATA_AUDIO, "bin mask", (double)a->bin_mask, 0, max},
    };
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
        if (rows[r].kind == m->kind && !(rows[r].value >= rows[r].lo && rows[r].value <= rows[r].hi))
            return err_set(e, ERR_CONFIG, "%s: %s should be %g to %g, but it is %g", m->name, rows[r].name, rows[r].lo,
                           rows[r].hi, rows[r].value);
    return 0;
}

/* Copies modality i, filling in what was left out. */
static int take_modality(struct data_loader *l, int i, const struct data_modality *from, struct err *e)
{
    struct data_modality *m = &l->plan.m[i];
    const struct data_loader_config *c = &l->plan.c;
    *m = *from;
    if (!m->field) m->field = m->name;
    m->round_rows = data_row_unit(m);
    for (int k = 0; k < 3; k++) m->std[k] = m->std[k] == 0 ? 1 : m->std[k];
    if (c->eval) {
        m->image = (struct data_image_augment){0};
        m->audio = (struct data_audio_augment){0};
    }
    CHECK(m->kind != DATA_TEXT || m->tokenizer);
    int rc = check_ranges(m, c->batch, e);
    if (rc) return rc;
    int64_t with = 0;
    for (int64_t k = 0; k < c->n_items; k++) {
        const struct manifest_field *f = manifest_field(&c->manifest->item[c->items[k]], m->field);
        if (!f) continue;
        int *usable = mem_alloc((size_t)f->n * sizeof *usable);
        with += manifest_use(c->manifest, f, c->split, usable) > 0;
        free(usable);
    }
    l->plan.always[i] = with == c->n_items;
    if (with == 0 && !c->eval)
        return err_set(e, ERR_CONFIG,
                       "%s: none of the %lld items has '%s' to train on: check the modality's name or its field",
                       c->manifest->path, (long long)c->n_items, m->field);
    return 0;
}

static int check_sizes(const struct data_loader_config *c, struct err *e)
{
    CHECK(c->n_modalities > 0 && c->threads >= 0 && c->ahead >= 0);
    if (c->batch < 1 || c->batch > 1 << 24)
        return err_set(e, ERR_CONFIG, "a batch should be 1 to %d samples, but it is %lld", 1 << 24,
                       (long long)c->batch);
    if (c->n_items < 1) return err_set(e, ERR_CONFIG, "%s: there are no items to read", c->manifest->path);
    if (!c->eval && c->by == DATA_BY_ITEMS && c->n_items < c->batch)
        return err_set(e, ERR_CONFIG, "%s: %lld items do not fill a batch of %lld: make the batch smaller",
                       c->manifest->path, (long long)c->n_items, (long long)c->batch);
    return 0;
}

static int start(struct data_loader *l, struct err *e)
{
    struct data_loader_config *c = &l->plan.c;
    int rc = 0;
    for (int i = 0; i < l->n_slots && !rc; i++) rc = data_slot_init(&l->slot[i], &l->plan, e);
    for (int i = 0; i < l->n_workers && !rc; i++) {
        l->worker[i].l = l;
        rc = data_maker_init(&l->worker[i].maker, &l->plan, e);
    }
    for (int i = 0; i < c->threads && !rc; i++) {
        int why = pthread_create(&l->worker[i].thread, NULL, run_worker, &l->worker[i]);
        if (why)
            rc = err_set(e, ERR_IO, "could not start a thread to read data: %s", strerror(why));
        else
            l->n_threads++;
    }
    return rc;
}

int data_loader_new(const struct data_loader_config *c, struct data_loader **out, struct err *e)
{
    *out = NULL;
    int rc = check_sizes(c, e);
    if (rc) return rc;
    struct data_loader *l = mem_zero(1, sizeof *l);
    l->plan = (struct data_plan){.c = *c, .warn = warn_once, .warn_ctx = l};
    l->plan.m = mem_zero((size_t)c->n_modalities, sizeof *l->plan.m);
    l->plan.always = mem_zero((size_t)c->n_modalities, sizeof *l->plan.always);
    size_t bytes = (size_t)c->n_items * sizeof *l->items;
    l->items = memcpy(mem_alloc(bytes), c->items, bytes);
    l->order = mem_alloc(bytes);
    l->order_epoch = -1;
    l->plan.c.items = l->items;
    l->plan.c.modality = l->plan.m;
    l->batches = c->eval ? (c->n_items + c->batch - 1) / c->batch : c->n_items / c->batch;
    l->warned = mem_zero((size_t)c->manifest->n, 1);
    l->n_workers = c->threads > 0 ? c->threads : 1;
    l->worker = mem_zero((size_t)l->n_workers, sizeof *l->worker);
    l->n_slots = c->ahead > 0 ? c->ahead : c->threads + 2;
    l->slot = mem_zero((size_t)l->n_slots, sizeof *l->slot);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->work, NULL);
    pthread_cond_init(&l->ready, NULL);
    for (int i = 0; i < c->n_modalities && !rc; i++) rc = take_modality(l, i, &c->modality[i], e);
    if (!rc && !c->eval && c->by != DATA_BY_ITEMS) {
        CHECK(c->budget > 0 && c->budget_of >= 0 && c->budget_of < c->n_modalities);
        l->budget = data_budget_new(&l->plan);
        l->batches = -1;
    }
    if (!rc) rc = start(l, e);
    if (rc)
        data_loader_free(l);
    else
        *out = l;
    return rc;
}

void data_loader_free(struct data_loader *l)
{
    if (!l) return;
    pthread_mutex_lock(&l->lock);
    l->plan.stop = true;
    l->stop = true;
    pthread_cond_broadcast(&l->work);
    pthread_mutex_unlock(&l->lock);
    for (int i = 0; i < l->n_threads; i++) pthread_join(l->worker[i].thread, NULL);
    for (int i = 0; i < l->n_workers; i++)
        if (l->worker[i].l) data_maker_free(&l->worker[i].maker);
    for (int i = 0; i < l->n_slots; i++) data_slot_free(&l->slot[i], &l->plan);
    pthread_cond_destroy(&l->work);
    pthread_cond_destroy(&l->ready);
    pthread_mutex_destroy(&l->lock);
    data_budget_free(l->budget);
    free(l->slot);
    free(l->worker);
    free(l->items);
    free(l->order);
    free(l->warned);
    free(l->plan.m);
    free(l->plan.always);
    free(l);
}
