/* Embedding outside of training: a plan a shape, kept; and whole item lists through a loader. */
#include "run/embed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "run/model.h"

struct cached {
    int modality;
    struct model_shape shape;
    struct ad_plan *plan;
};

struct run_embedder {
    struct cached *plan;
    size_t n, cap;
};

void run_embedder_free(struct run_embedder *r)
{
    if (!r) return;
    for (size_t i = 0; i < r->n; i++) ad_plan_free(r->plan[i].plan);
    free(r->plan);
    free(r);
}

static struct ad_plan *plan_for(struct run_model *m, int modality, struct model_shape s, struct err *e)
{
    if (!m->embed) m->embed = mem_zero(1, sizeof *m->embed);
    struct run_embedder *r = m->embed;
    for (size_t i = 0; i < r->n; i++)
        if (r->plan[i].modality == modality && r->plan[i].shape.items == s.items && r->plan[i].shape.rows == s.rows)
            return r->plan[i].plan;
    unsigned flags;
    if (ad_pass_flags_parse(m->config.train.debug, &flags, e)) return NULL;
    struct nn nn = {.g = ad_graph_new(), .store = m->store};
    val y = model_embed(&nn, &m->tower[modality], s, m->config.embed);
    if (y) ad_output(nn.g, "embedding", y);
    struct ad_plan *p = nn_status(&nn, e) ? NULL : ad_plan_in(nn.g, m->store, flags, &m->space, false, e);
    ad_graph_free(nn.g);
    if (!p) return NULL;
    r->plan = mem_grow(r->plan, &r->cap, r->n + 1, sizeof *r->plan);
    r->plan[r->n++] = (struct cached){modality, s, p};
    return p;
}

void run_bind_part(struct ad_plan *p, const char *name, const struct data_part *part)
{
    const struct {
        const char *what;
        const void *data;
    } inputs[] = {{"image", part->image}, {"tokens", part->tokens},   {"frames", part->frames},
                  {"wave", part->frames}, {"offsets", part->offsets}, {"row", part->row}};
    for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++) {
        char path[256];
        snprintf(path, sizeof path, "%s.%s", name, inputs[i].what);
        if (inputs[i].data) ad_bind(p, path, inputs[i].data);
    }
}

void run_bind_batch(struct ad_plan *p, const struct run_model *m, const struct data_batch *b)
{
    for (int i = 0; i < m->n; i++) run_bind_part(p, m->tower[i].name, &b->part[i]);
    ad_bind(p, "group", b->group);
}

int run_embed(struct run_model *m, int modality, const struct data_part *part, float *out, struct err *e)
{
    struct ad_plan *p = plan_for(m, modality, (struct model_shape){part->cap, part->rows}, e);
    if (!p) return e->code;
    run_bind_part(p, m->tower[modality].name, part);
    int rc = ad_run(p, 0, 0, e);
    if (!rc) memcpy(out, ad_result(p, "embedding", NULL), (size_t)(part->n * m->config.embed) * sizeof *out);
    return rc;
}

/* One batch of the loader into the rows of `out` that its samples have. An item that could not be read, and was
 * replaced by another, counts as one without the modality. */
static int embed_batch(struct run_model *m, int modality, const struct data_batch *b, const int64_t *items, float *unit,
                       float *out, bool *has, struct err *e)
{
    const struct data_part *part = &b->part[0];
    int64_t width = m->config.embed;
    int rc = part->n ? run_embed(m, modality, part, unit, e) : 0;
    for (int64_t i = 0; i < b->size && !rc; i++) {
        has[i] = part->row[i] >= 0 && b->sample[i] == items[i];
        if (has[i]) memcpy(out + i * width, unit + part->row[i] * width, (size_t)width * sizeof *out);
    }
    return rc;
}

int run_embed_items(struct run_model *m, int modality, const struct manifest *data, const int64_t *items, int64_t n,
                    const char *split, int64_t pick, float *out, bool *has, bool show, struct err *e)
{
    int64_t width = m->config.embed, done = 0;
    memset(out, 0, (size_t)(n * width) * sizeof *out);
    memset(has, 0, (size_t)n * sizeof *has);
    if (!n || !manifest_count(data, m->input[modality].field)) return 0;
    struct data_modality input = m->input[modality];
    input.pick = pick;
    struct data_loader_config c = {.manifest = data,
                                   .items = items,
                                   .n_items = n,
                                   .split = split,
                                   .modality = &input,
                                   .n_modalities = 1,
                                   .batch = RUN_EMBED_BATCH,
                                   .eval = true,
                                   .skip = m->config.data.on_bad == 1,
                                   .threads = (int)m->config.data.workers};
    struct data_loader *l;
    int rc = data_loader_new(&c, &l, e);
    if (rc) return rc;
    float *unit = mem_alloc((size_t)(RUN_EMBED_BATCH + 8) * (size_t)width * sizeof *unit);
    struct progress *bar = show ? progress_new(m->tower[modality].name, n, "items", 10) : NULL;
    for (struct data_batch *b; !rc && !(rc = data_loader_next(l, &b, e)) && b;) {
        rc = embed_batch(m, modality, b, items + done, unit, out + done * width, has + done, e);
        done += b->size;
        if (bar) progress_update(bar, done, NULL);
        data_loader_release(l, b);
    }
    if (bar) progress_end(bar, NULL);
    free(unit);
    data_loader_free(l);
    return rc;
}
