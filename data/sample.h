/* Inside the loader: how one batch is made, by one thread. The rest of triad includes data/loader.h. */
#ifndef TRIAD_DATA_SAMPLE_H
#define TRIAD_DATA_SAMPLE_H

#include "data/loader.h"

/* Memory of a batch that is used again and again and only grows. */
struct data_room {
    void *p;
    size_t cap; /* bytes */
};

/* A batch with the memory behind it. */
struct data_slot {
    struct data_batch b;    /* first: a caller's data_batch is our data_slot */
    struct data_room *room; /* (n_modalities): pixels, tokens or frames */
    uint64_t *key;          /* (n_keys) hashes of what samples show, 0: free */
    int32_t *owner;         /* (n_keys) the first sample with it */
    size_t n_keys;
    int state;
    struct err err;
};

/* What all threads share and, but for `stop`, none changes. */
struct data_plan {
    struct data_loader_config c;
    struct data_modality *m; /* (c.n_modalities), defaults filled in, without augmentation in evaluation */
    bool *always;            /* (c.n_modalities) every item has it */
    void (*warn)(void *ctx, int64_t item, const char *why); /* `skip`: called for each bad item met, from any thread */
    void *warn_ctx;
    _Atomic bool stop; /* batches in the making are not wanted any more: who makes one returns ERR_INTERRUPTED */
};

/* One thread's tools. */
struct data_maker {
    const struct data_plan *plan;
    struct data_logmel **logmel; /* (n_modalities), NULL but for audio */
    struct data_scratch scratch;
    struct data_room pixels, half, usable;
    int64_t decoded, cached, skipped; /* counts since the owner last took them */
};

int data_maker_init(struct data_maker *k, const struct data_plan *plan, struct err *e) MUST_CHECK;
void data_maker_free(struct data_maker *k);

int data_slot_init(struct data_slot *s, const struct data_plan *plan, struct err *e) MUST_CHECK;
void data_slot_free(struct data_slot *s, const struct data_plan *plan);

/* Fills `s`, whose b.epoch, b.index, b.size and b.sample are set. On error what it holds is undefined. */
int data_slot_make(struct data_maker *k, struct data_slot *s, struct err *e) MUST_CHECK;

/* Which entry of modality m an item's epoch takes: *choice, its place in the field, -1 where the item has none. *rng is the
 * generator that the sample's augmentation goes on with. ERR_MEMORY. */
int data_sample_choose(const struct data_plan *p, const struct data_modality *m, int64_t item, int64_t epoch,
                       struct data_room *usable, struct rng *rng, int *choice, struct err *e) MUST_CHECK;

/* Adds an item as sample i behind those that are there (data/sample.c). On error the batch holds what it held before.
 */
int data_sample_add(struct data_maker *k, struct data_slot *s, int64_t i, int64_t item, struct err *e) MUST_CHECK;

/* Makes room for at least `bytes`, keeping the first `keep` of what is there. ERR_MEMORY; then the room is as before.
 */
int data_room_need(struct data_room *r, size_t bytes, size_t keep, struct err *e) MUST_CHECK;

#endif
