/* Opening what a run needs, and checking names that would otherwise be wrong only at its end. See setup.h. */
#include "train/setup.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/threads.h"
#include "eval/measure.h"

void train_metric_name(const struct train_setup *s, const char *split, int query, int target, int cut,
                       char out[TRAIN_METRIC_NAME])
{
    snprintf(out, TRAIN_METRIC_NAME, "%s/%s->%s R@%d", split, s->m->tower[query].name, s->m->tower[target].name,
             eval_cut[cut]);
}

/* Is `name` what record_directions will write for one of the splits? */
static bool known_metric(const struct train_setup *s, const char *name)
{
    const struct run_config *c = &s->m->config;
    char text[TRAIN_METRIC_NAME];
    for (int64_t i = 0; i < c->data.valid.n; i++)
        for (int p = 0; p < run_pairs(c); p++)
            for (int k = 0; k < 2 * EVAL_CUTS; k++) {
                int pair[2];
                double w;
                run_pair(c, p, &pair[0], &pair[1], &w);
                train_metric_name(s, c->data.valid.v[i], pair[k % 2], pair[1 - k % 2], k / 2, text);
                if (!strcmp(text, name)) return true;
            }
    return false;
}

/* Whether any item or entry is of this split. */
static bool known_split(const struct manifest *m, const char *split)
{
    for (int i = 0; i < m->n_splits; i++)
        if (!strcmp(m->split[i], split)) return true;
    for (int i = 0; i < m->n_held; i++)
        if (!strcmp(m->held[i], split)) return true;
    return false;
}

/* A wrong name must not wait until the end of the run to be told. */
static int check_valid(struct train_setup *s, struct err *e)
{
    const struct run_config *c = &s->m->config;
    int rc = 0;
    for (int64_t i = 0; i < c->data.valid.n && !rc; i++) {
        const char *name = c->data.valid.v[i];
        char *split = mem_strndup(name, strcspn(name, "/"));
        const char *entries = eval_split_entries(name);
        int64_t *items, n;
        rc = manifest_select(&s->data, split, &items, &n, e);
        if (!rc && entries != name && !known_split(&s->data, entries)) {
            free(items);
            rc = err_set(e, ERR_CONFIG, "'%s': no item and no clip of %s has the split '%s'", name, s->data.path,
                         entries);
        }
        if (rc)
            err_prefix(e, "%s: data.valid", conf_where(&s->m->conf, &c->data.valid));
        else
            free(items);
        free(split);
    }
    if (rc || !c->train.best || known_metric(s, c->train.best)) return rc;
    return err_set(
        e, ERR_CONFIG,
        "%s: train.best: '%s' is not measured; it should be like 'SPLIT/%s->%s R@1' with a split of data.valid",
        conf_where(&s->m->conf, &c->train.best), c->train.best, s->m->tower[0].name, s->m->tower[1].name);
}

static int open_data(struct train_setup *s, struct err *e)
{
    const struct run_config *c = &s->m->config;
    int64_t *items, n;
    int rc = run_model_data(s->m, &s->data, &items, &n, e);
    if (rc) return rc;
    s->cache = c->data.cache > 0 ? data_cache_new(c->data.cache) : NULL;
    struct data_loader_config d = {.manifest = &s->data,
                                   .items = items,
                                   .n_items = n,
                                   .split = c->data.train,
                                   .modality = s->m->input,
                                   .n_modalities = s->m->n,
                                   .batch = c->train.batch,
                                   .by = (enum data_batch_by)c->data.batch_by,
                                   .budget = c->data.budget,
                                   .budget_of = run_budget_modality(c),
                                   .seed = (uint64_t)c->train.seed,
                                   .skip = c->data.on_bad == 1,
                                   .threads = (int)c->data.workers,
                                   .cache = s->cache};
    rc = data_loader_new(&d, &s->loader, e);
    free(items);
    if (rc == ERR_CONFIG && c->data.batch_by == DATA_BY_ITEMS && n < c->train.batch)
        err_prefix(e, "%s: train.batch", conf_where(&s->m->conf, &c->train.batch));
    if (rc) return rc;
    s->total = c->train.steps;
    if (c->train.epochs > 0) s->total = (int64_t)ceil(c->train.epochs * (double)data_loader_batches(s->loader));
    return check_valid(s, e);
}

static int check_in_backward(struct run_model *m, struct err *e)
{
    const struct run_config *c = &m->config;
    const char *where = conf_where(&m->conf, &c->optim.in_backward);
    struct opt_config o = run_opt_config(c);
    if (!c->optim.in_backward) return 0;
    if (opt_may_step_within(&o, e)) return err_prefix(e, "%s: optim.in_backward", where);
    if (c->train.micro_batch > 0)
        return err_set(e, ERR_CONFIG,
                       "%s: optim.in_backward does not go with train.micro_batch, whose parts' gradients are summed; "
                       "train.memory saves memory too",
                       where);
    if (c->train.precision == AD_PRECISION_F16)
        return err_set(e, ERR_CONFIG, "%s: optim.in_backward goes with train.precision f32 or bf16, not f16", where);
    return 0;
}

int train_choose_optim(struct run_model *m, struct err *e)
{
    const struct run_config *c = &m->config;
    if (check_in_backward(m, e)) return e->code;
    if (c->optim.weights == RUN_WEIGHTS_F32) return 0;
    const char *where = conf_where(&m->conf, &c->optim.weights);
    if (c->train.micro_batch > 0)
        return err_set(e, ERR_CONFIG,
                       "%s: optim.weights: bf16 does not go with train.micro_batch: gradients would be "
                       "rounded at every part; optim.state: 8bit or train.memory save memory too",
                       where);
    if (c->train.precision == AD_PRECISION_F16)
        return err_set(e, ERR_CONFIG, "%s: optim.weights: bf16 goes with train.precision f32 or bf16, not f16", where);
    ad_store_narrow(m->store);
    return 0;
}

int train_setup_open(struct train_setup *s, const struct train_options *o, struct err *e)
{
    int rc = run_model_new(o->config, o->overrides, o->n_overrides, &s->m, e);
    if (rc) return rc;
    s->c = &s->m->config.train;
    threads_init((int)s->c->threads);
    mem_keep_freed();
    rc = train_choose_optim(s->m, e);
    if (!rc) rc = run_model_commit(s->m, e);
    if (!rc) rc = open_data(s, e);
    if (rc) return rc;
    s->opt_config = run_opt_config(&s->m->config);
    s->opt = opt_new(&s->opt_config, s->m->store, e);
    if (!s->opt) return e->code;
    if (s->c->layer_norms) s->layers = opt_layers_new(s->m->store);
    s->stepper = train_stepper_new(s->m, s->opt, e);
    return s->stepper ? 0 : e->code;
}

void train_setup_close(struct train_setup *s)
{
    data_loader_free(s->loader);
    data_cache_free(s->cache);
    train_stepper_free(s->stepper);
    opt_free(s->opt);
    opt_layers_free(s->layers);
    manifest_free(&s->data);
    run_model_free(s->m);
}

int64_t train_tower_parameters(const struct train_setup *s, int modality)
{
    const char *tower = s->m->tower[modality].name;
    size_t len = strlen(tower);
    int64_t n = 0;
    for (int k = 0; k < ad_store_count(s->m->store); k++) {
        const struct ad_entry *p = ad_store_at(s->m->store, k);
        if (!(p->flags & AD_STATE) && !strncmp(p->name, tower, len) && p->name[len] == '.') n += p->count;
    }
    return n;
}

void train_batch_text(const struct run_config *c, struct buf *out)
{
    int of = run_budget_modality(c);
    if (of >= 0)
        buf_printf(out, "%g %s of %s, at most %lld samples", c->data.budget, data_batch_by_names[c->data.batch_by],
                   c->modalities.v[of].name, (long long)c->train.batch);
    else
        buf_printf(out, "%lld", (long long)c->train.batch);
    if (c->train.micro_batch > 0) buf_printf(out, " in micro-batches of %lld", (long long)c->train.micro_batch);
}
