/* What a run will take, found by doing some of it, steps and measuring: parameters, FLOPs, memory, time. See
 * train_dry_run in train.h. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/text.h"
#include "base/threads.h"
#include "eval/measure.h"
#include "train/look.h"
#include "train/setup.h"

/* Bytes that the cache will come to hold in `epochs`: the decoded data of every entry that was drawn, up to the budget.
 * Of the k entries that an item has (its clips, its captions) an epoch draws one. */
static double forecast_cache(const struct train_setup *s, const struct data_batch *b, double epochs)
{
    double bytes = 0;
    for (int i = 0; i < s->m->n; i++) {
        const struct data_modality *d = &s->m->input[i];
        const struct data_part *p = &b->part[i];
        double entries = 0, items = p->n ? (double)p->n : 1;
        for (int64_t k = 0; k < s->data.n; k++) {
            const struct manifest_field *f = manifest_field(&s->data.item[k], d->field);
            if (!f || strcmp(s->data.item[k].split, s->m->config.data.train)) continue;
            int used[256];
            double n = f->n <= 256 ? manifest_use(&s->data, f, s->m->config.data.train, used) : f->n;
            if (n > 0) entries += epochs < 1 ? epochs : n * (1 - pow(1 - 1 / n, epochs));
        }
        if (d->kind == DATA_IMAGE) bytes += entries * (double)(d->h * d->w * 3);
        if (d->kind == DATA_TEXT) bytes += entries * (double)p->offsets[p->n] / items * 4;
        if (d->kind == DATA_AUDIO) bytes += entries * (double)p->offsets[p->n] / items * (double)data_row_width(d) * 2;
    }
    return fmin(bytes, (double)s->m->config.data.cache);
}

/* Plans the batches that come next, of which some may be larger than the first, and holds as many at once as the loader's
 * ring has: their memory is then counted. */
static int look_ahead(struct train_setup *s, struct err *e)
{
    int64_t n = s->m->config.data.workers + 2;
    struct data_batch **b = mem_zero((size_t)n, sizeof *b);
    int rc = 0;
    for (int64_t i = 0; i < n && !rc; i++) {
        rc = data_loader_next(s->loader, &b[i], e);
        if (rc) break;
        train_stepper_plan(s->stepper, b[i], e);
        rc = e->code;
    }
    for (int64_t i = 0; i < n; i++)
        if (b[i]) data_loader_release(s->loader, b[i]);
    free(b);
    return rc;
}

/* Embeds the first items of the splits that training measures: the second ring of batches has its memory too. */
static int embed_valid(struct train_setup *s, struct err *e)
{
    const struct run_data *d = &s->m->config.data;
    int rc = 0;
    for (int64_t v = 0; v < d->valid.n && !rc; v++) {
        struct eval_set set;
        rc = eval_set_make(s->m, &s->data, d->valid.v[v], 8 * RUN_EMBED_BATCH, &set, false, e);
        if (!rc) eval_set_free(&set);
    }
    return rc;
}

/* What a step takes where that is not simply train.batch, and what a batch in parts keeps of the whole. */
static void print_batch(const struct train_setup *s)
{
    char a[32];
    if (!s->c->micro_batch && run_budget_modality(&s->m->config) < 0) return;
    struct buf b = {0};
    train_batch_text(&s->m->config, &b);
    int64_t kept = train_stepper_embedding_bytes(s->stepper);
    if (kept > 0) buf_printf(&b, "; embeddings and their gradients %s", text_size(a, sizeof a, (double)kept));
    printf("  batch        %s\n", b.data);
    buf_free(&b);
}

static void print_forecast(const struct train_setup *s, const struct ad_plan_stats *p, int64_t samples, double peak,
                           double step_s)
{
    char a[32], b[32];
    const struct run_model *m = s->m;
    printf("%s\n  parameters   %s\n", m->config.name, text_count(a, sizeof a, ad_store_trainable(m->store)));
    for (int i = 0; i < m->n; i++)
        printf("    %-10s %s\n", m->tower[i].name, text_count(a, sizeof a, train_tower_parameters(s, i)));
    print_batch(s);
    printf("  a step       %.2f GFLOP, %.3f s, %.0f samples/s\n", p->flops * 1e-9, step_s, (double)samples / step_s);
    printf("  the plan     %lld calls (%lld fused, %lld in place, %lld views), made with its graph in %.1f ms\n",
           (long long)p->steps, (long long)p->fused, (long long)p->in_place, (long long)p->views, 1e3 * p->build_s);
    printf("  activations  %s (%s if nothing were reused)\n", text_size(a, sizeof a, (double)p->arena_bytes),
           text_size(b, sizeof b, (double)p->unshared_bytes));
    if (p->arena_bytes < p->free_bytes)
        printf("  recomputed   %lld calls, %.1f %% of the FLOPs, to fit train.memory; activations would take %s\n",
               (long long)p->recomputed, 100 * p->again_flops / p->flops,
               text_size(a, sizeof a, (double)p->free_bytes));
    printf("  optimizer    %.3g bytes a parameter\n", opt_bytes_per_parameter(s->opt));
    printf("  peak memory  %s predicted\n", text_size(a, sizeof a, peak));
    if (s->total)
        printf("  whole run    %lld steps, about %s\n", (long long)s->total,
               text_clock(a, sizeof a, (double)s->total * step_s));
}

/* What three steps of a batch show. */
struct tried {
    struct ad_plan_stats plan;
    int64_t samples;
    double step_s, cache; /* seconds of the fastest; bytes of the cache at the end of the run */
};

static int try_batch(struct train_setup *s, struct data_batch *b, struct tried *t, struct err *e)
{
    struct train_result r = {0};
    int rc = 0;
    *t = (struct tried){.plan = train_stepper_plan(s->stepper, b, e), .samples = b->size, .step_s = INFINITY};
    if (e->code) return e->code;
    for (int i = 0; i < 3 && !rc; i++) {
        rc = train_stepper_run(s->stepper, b, i, 0, &r, e);
        t->step_s = fmin(t->step_s, r.compute_s + r.optimizer_s);
    }
    double steps = s->total ? (double)s->total : s->c->time / t->step_s;
    t->cache = forecast_cache(s, b, steps / (double)data_loader_batches(s->loader));
    const struct data_batch *seen = b;
    return rc ? rc : train_look(s->m, &s->data, &seen, 1, NULL, e);
}

static int forecast(struct train_setup *s, const struct train_options *o, struct err *e)
{
    struct data_batch *b = NULL;
    struct tried t;
    int rc = train_setup_open(s, o, e);
    if (!rc) rc = data_loader_next(s->loader, &b, e);
    if (!rc) rc = try_batch(s, b, &t, e);
    if (b) data_loader_release(s->loader, b);
    if (!rc) rc = look_ahead(s, e);
    if (!rc) rc = embed_valid(s, e);
    if (rc) return rc;
    double peak = (double)process_peak_rss() + t.cache; /* of the cache, what is not there yet */
    if (s->cache) peak -= (double)data_cache_bytes(s->cache);
    print_forecast(s, &t.plan, t.samples, peak, t.step_s);
    return 0;
}

int train_dry_run(const struct train_options *o, struct err *e)
{
    struct train_setup s = {0};
    int rc = forecast(&s, o, e);
    train_setup_close(&s);
    return rc;
}
