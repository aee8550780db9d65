/* Opening, building and writing models. See model.h. */
#include "run/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "run/embed.h"

static char *tokenizer_path(const struct run_model *m, int i)
{
    char *name = mem_printf("tokenizer.%s.json", m->config.modalities.v[i].name), *path = file_join(m->dir, name);
    free(name);
    return path;
}

int run_model_data(struct run_model *m, struct manifest *data, int64_t **items, int64_t *n, struct err *e)
{
    const struct run_data *c = &m->config.data;
    *items = NULL;
    if (m->has_data)
        *data = m->data;
    else if (manifest_load(c->manifest, data, e))
        return err_prefix(e, "%s: data.manifest", conf_where(&m->conf, &c->manifest));
    m->has_data = false;
    if (manifest_select(data, c->train, items, n, e) == 0) return 0;
    manifest_free(data);
    return err_prefix(e, "%s: data.train", conf_where(&m->conf, &c->train));
}

/* A byte-level BPE from every caption of the training split. */
static int train_tokenizer(struct run_model *m, int i, struct err *e)
{
    const struct run_modality *c = &m->config.modalities.v[i];
    const char *field = c->from ? c->from : c->name, **texts = NULL;
    struct manifest data = {0};
    int64_t *items, n = 0;
    size_t count = 0, cap = 0;
    int rc = run_model_data(m, &data, &items, &n, e);
    for (int64_t k = 0; !rc && k < n; k++) {
        const struct manifest_field *f = manifest_field(&data.item[items[k]], field);
        for (int j = 0; f && j < f->n; j++) {
            texts = mem_grow(texts, &cap, count + 1, sizeof *texts);
            texts[count++] = f->entry[j].value;
        }
    }
    if (!rc && !count)
        rc = err_set(e, ERR_CONFIG,
                     "%s: modality '%s': the split '%s' of %s has no field '%s' to train a tokenizer from",
                     conf_where(&m->conf, c), c->name, m->config.data.train, m->config.data.manifest, field);
    struct tok_train_options o = {.vocab_size = c->text.vocab};
    if (!rc) rc = tok_train_bpe(texts, (int64_t)count, &o, &m->tokenizer[i], e);
    free(texts);
    free(items);
    m->has_data = rc == 0;
    if (m->has_data)
        m->data = data;
    else
        manifest_free(&data);
    return rc;
}

static int find_tokenizer(struct run_model *m, int i, struct err *e)
{
    const struct run_modality *c = &m->config.modalities.v[i];
    if (!m->begun && !c->text.tokenizer) return train_tokenizer(m, i, e);
    char *path = m->begun ? tokenizer_path(m, i) : mem_strdup(c->text.tokenizer);
    int rc = tok_load(path, &m->tokenizer[i], e);
    free(path);
    return rc;
}

static int declare(struct run_model *m, struct err *e)
{
    /* The parameters do not depend on the batch: a graph for the smallest one declares them. */
    struct nn nn = {.g = ad_graph_new(), .store = m->store, .training = true};
    struct model_shape s[RUN_MAX_MODALITIES];
    for (int i = 0; i < m->n; i++)
        s[i] = (struct model_shape){2, m->input[i].samples > 0 ? 2 * m->input[i].samples : 64};
    run_model_loss(&nn, m, s, 2);
    int rc = nn_status(&nn, e);
    ad_graph_free(nn.g);
    return rc;
}

/* With `sketch` no tokenizer is trained: the vocabulary is as large as the config asks for. */
static int assemble(struct run_model *m, bool sketch, struct err *e)
{
    const struct run_config *c = &m->config;
    m->n = (int)c->modalities.n;
    m->store = ad_store_new((uint64_t)c->train.seed);
    m->state.best_step = -1;
    m->state.best = NAN;
    for (int i = 0; i < m->n; i++) {
        const struct run_modality *x = &c->modalities.v[i];
        bool none = x->kind != RUN_TEXT || (sketch && !m->begun && !x->text.tokenizer);
        int rc = none ? 0 : find_tokenizer(m, i, e);
        if (rc) return rc;
        m->input[i] = run_data_modality(x, m->tokenizer[i]);
        m->tower[i] = run_tower(x, m->tokenizer[i] ? tok_vocab_size(m->tokenizer[i]) : x->text.vocab);
    }
    return declare(m, e);
}

static int model_new(const char *config_path, const char *const *overrides, int n_overrides, bool sketch,
                     struct run_model **out, struct err *e)
{
    struct run_model *m = mem_zero(1, sizeof *m);
    *out = NULL;
    int rc = run_config_read(&m->conf, config_path, overrides, n_overrides, &m->config, e);
    if (!rc) {
        m->dir = m->config.train.out ? mem_strdup(m->config.train.out) : file_join("runs", m->config.name);
        m->begun = run_checkpoint_any(m->dir);
        rc = assemble(m, sketch, e);
    }
    if (rc)
        run_model_free(m);
    else
        *out = m;
    return rc;
}

int run_model_new(const char *config_path, const char *const *overrides, int n_overrides, struct run_model **m,
                  struct err *e)
{
    return model_new(config_path, overrides, n_overrides, false, m, e);
}

int run_model_sketch(const char *config_path, const char *const *overrides, int n_overrides, struct run_model **m,
                     struct err *e)
{
    return model_new(config_path, overrides, n_overrides, true, m, e);
}

/* The run folder that `path` belongs to: the first at or above it, at most three up, that holds a config.yaml. */
static char *find_run(const char *path)
{
    char *at = mem_strdup(path);
    for (int i = 0; i < 4; i++) {
        char *config = file_join(at, "config.yaml");
        bool here = file_exists(config);
        free(config);
        if (here) return at;
        char *up = file_dirname(at);
        free(at);
        at = up;
    }
    free(at);
    return NULL;
}

/* The checkpoint that `path` names, or the run's newest. The caller frees. */
static int find_checkpoint(const struct run_model *m, const char *path, char **folder, struct err *e)
{
    char *state = file_join(path, "state.json");
    *folder = file_exists(state) ? mem_strdup(path) : NULL;
    free(state);
    int rc = *folder ? 0 : run_checkpoint_latest(m->dir, folder, e);
    if (!rc && !*folder)
        rc = err_set(e, ERR_IO, "%s: no checkpoint yet under %s/checkpoints; has the run been trained?", path, m->dir);
    return rc;
}

int run_model_open(const char *path, struct run_model **out, struct err *e)
{
    *out = NULL;
    char *dir = find_run(path), *folder = NULL;
    if (!dir) return err_set(e, ERR_IO, "%s: not a run folder: there is no config.yaml in it or above it", path);
    struct run_model *m = mem_zero(1, sizeof *m);
    m->dir = dir;
    m->begun = true;
    char *config = file_join(dir, "config.yaml");
    int rc = run_config_read(&m->conf, config, NULL, 0, &m->config, e);
    free(config);
    if (!rc) rc = find_checkpoint(m, path, &folder, e);
    if (!rc) rc = assemble(m, false, e);
    if (!rc) rc = run_model_commit(m, e);
    if (!rc) rc = run_checkpoint_load(folder, &m->state, m->store, NULL, true, e);
    free(folder);
    if (rc)
        run_model_free(m);
    else
        *out = m;
    return rc;
}

void run_model_free(struct run_model *m)
{
    if (!m) return;
    run_embedder_free(m->embed);
    ad_workspace_free(&m->space);
    ad_store_free(m->store);
    for (int i = 0; i < m->n; i++) tok_free(m->tokenizer[i]);
    if (m->has_data) manifest_free(&m->data);
    conf_free(&m->conf);
    free(m->dir);
    free(m);
}

int run_model_commit(struct run_model *m, struct err *e)
{
    return ad_store_commit(m->store, e);
}

int run_model_write(const struct run_model *m, struct err *e)
{
    int rc = file_mkdirs(m->dir, e);
    struct buf b = {0};
    conf_dump(&run_config_table, &m->config, true, &b);
    char *path = file_join(m->dir, "config.yaml");
    if (!rc) rc = file_write(path, b.data, b.len, e);
    free(path);
    buf_free(&b);
    for (int i = 0; i < m->n && !rc; i++) {
        if (!m->tokenizer[i] || m->begun) continue;
        path = tokenizer_path(m, i);
        rc = tok_save(m->tokenizer[i], path, e);
        free(path);
    }
    return rc;
}

int run_modality(const struct run_model *m, const char *name, struct err *e)
{
    char names[400] = "";
    size_t n = 0;
    for (int i = 0; i < m->n; i++) {
        if (!strcmp(m->tower[i].name, name)) return i;
        int k = snprintf(names + n, sizeof names - n, "%s%s", i ? ", " : "", m->tower[i].name);
        if (k > 0 && n + (size_t)k < sizeof names) n += (size_t)k;
    }
    err_set(e, ERR_USAGE, "there is no modality '%s'; this model has %s", name, names);
    return -1;
}

/* ---- graphs ------------------------------------------------------------------------------------------------------ */

val run_model_embed(struct nn *nn, const struct run_model *m, int modality, struct model_shape s, int64_t batch,
                    val *has)
{
    struct ad_graph *g = nn->g;
    const struct model_tower *t = &m->tower[modality];
    val unit = model_embed(nn, t, s, m->config.embed);
    ad_push(g, "%s", t->name);
    const char *name = ad_push(g, "row");
    val row = ad_input(g, name, AD_I32, SHAPE(batch));
    ad_pop(g);
    *has = ad_greater_equal(g, row, ad_const(g, AD_I32, 0));
    val y = ad_gather(g, unit, row);
    ad_pop(g);
    return y;
}

val run_model_loss(struct nn *nn, const struct run_model *m, const struct model_shape *shapes, int64_t batch)
{
    struct ad_graph *g = nn->g;
    const struct run_loss *c = &m->config.loss;
    val unit[RUN_MAX_MODALITIES], has[RUN_MAX_MODALITIES], total = 0;
    for (int i = 0; i < m->n; i++) unit[i] = run_model_embed(nn, m, i, shapes[i], batch, &has[i]);
    val group = ad_input(g, "group", AD_I32, SHAPE(batch));
    ad_push(g, "loss");
    val scale = nn_temperature(nn, "scale", c->temperature, c->max_scale), bias = 0;
    if (c->kind == RUN_SIGLIP)
        bias = nn_param(nn, "bias", SCALAR, (struct ad_init){AD_INIT_VALUE, c->bias}, AD_NO_DECAY);
    double weights = 0;
    for (int i = 0; i < run_pairs(&m->config); i++) {
        int a, b;
        double w;
        run_pair(&m->config, i, &a, &b, &w);
        struct nn_contrast pair = {unit[a], unit[b], has[a], has[b], group};
        ad_push(g, "%s-%s", m->tower[a].name, m->tower[b].name);
        val one = c->kind == RUN_SIGLIP ? nn_siglip(nn, &pair, scale, bias) : nn_infonce(nn, &pair, scale);
        if (one) ad_output(g, ad_path(g), one);
        ad_pop(g);
        val weighted = ad_scale(g, one, w);
        total = total ? ad_add(g, total, weighted) : weighted;
        weights += w;
    }
    total = ad_scale(g, total, weights > 0 ? 1 / weights : 0);
    if (scale) ad_output(g, "scale", scale);
    ad_pop(g);
    return total;
}
