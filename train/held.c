/* Memory beside the arena. See held.h. */
#include "train/held.h"

/* What a process takes before it has a model, and what its loader's threads, the list of data and the libraries add:
 * measured, as is what of a freed ring of batches is not of use to the next. */
#define PROGRAM_BYTES 62e6
#define RING_WASTE 2

/* One modality's part of a batch, as data/loader.h describes it. */
static double part_bytes(const struct data_modality *d, struct model_shape s, int64_t batch)
{
    double ids = 4.0 * (double)(s.items + 1 + 2 * batch);
    switch (d->kind) {
    case DATA_IMAGE: return ids + 12.0 * (double)(s.items * d->h * d->w);
    case DATA_TEXT: return ids + 4.0 * (double)s.rows;
    case DATA_AUDIO: return ids + 4.0 * (double)(s.rows * data_row_width(d));
    }
    return ids;
}

struct train_held train_held(const struct run_model *m, const struct opt *o, const struct model_shape *shape,
                             int64_t batch)
{
    double flat = (double)ad_store_flat_bytes(m->store);
    struct train_held h = {
        .parameters = flat, .gradients = m->config.optim.in_backward ? 0 : flat, .program = PROGRAM_BYTES};
    h.optimizer = opt_bytes_per_parameter(o) * (double)ad_store_flat_count(m->store);
    for (int i = 0; i < ad_store_count(m->store); i++)
        if (ad_store_at(m->store, i)->flags & AD_STATE) h.parameters += 4.0 * (double)ad_store_at(m->store, i)->count;
    double slots = (double)m->config.data.workers + 2, share = (double)RUN_EMBED_BATCH / (double)batch;
    for (int i = 0; i < m->n; i++) {
        struct model_shape measured = {RUN_EMBED_BATCH, (int64_t)(share * (double)shape[i].rows)};
        h.batches += slots * part_bytes(&m->input[i], shape[i], batch);
        if (m->config.data.valid.n)
            h.batches += RING_WASTE * slots * part_bytes(&m->input[i], measured, RUN_EMBED_BATCH);
    }
    bool parts = m->config.train.micro_batch > 0 && batch > m->config.train.micro_batch;
    for (int i = 0; i < m->n && parts; i++)
        h.embeddings += 2.0 * (double)(shape[i].items * m->config.embed) * sizeof(float);
    return h;
}

int64_t train_held_bytes(const struct run_model *m, const struct opt *o, const struct model_shape *shape, int64_t batch)
{
    struct train_held h = train_held(m, o, shape, batch);
    return (int64_t)(h.parameters + h.gradients + h.optimizer + h.batches + h.embeddings + h.program);
}
