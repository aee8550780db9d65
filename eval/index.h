/* Indexes: the embeddings of a list of items with what people call them, in one safetensors file, and the search for
 * the nearest. Search is exact: every item is looked at. */
#ifndef TRIAD_EVAL_INDEX_H
#define TRIAD_EVAL_INDEX_H

#include "eval/measure.h"

struct eval_index {
    int64_t n, width;
    int n_modalities;
    const char *name[RUN_MAX_MODALITIES]; /* of the modalities */
    float *unit[RUN_MAX_MODALITIES];      /* (n, width) unit vectors; zero where the item has none */
    uint8_t *present[RUN_MAX_MODALITIES]; /* (n): 1 or 0 */
    const char **id, **caption;           /* (n) */
    const char **mark;                    /* (n): the item's "emoji", or "" */
    const char *manifest, *split;         /* where the items come from */
    uint64_t weights;                     /* eval_weights of the model */
    struct arena mem;                     /* the strings */
};

/* A number that tells one model's weights from another's. */
uint64_t eval_weights(const struct run_model *m);

/* Embeds every item of a split ("all" for the whole manifest; see eval_set_make) in every modality. On error *x is
 * empty. Free with eval_index_free. */
int eval_index_make(struct run_model *m, const struct manifest *data, const char *split, bool show,
                    struct eval_index *x, struct err *e) MUST_CHECK;
void eval_index_free(struct eval_index *x);

/* For each modality a tensor "<modality>" F32 (n, width) and one "<modality>.present" U8 (n); metadata: "format"
 * "triad-index", "ids", "captions" and "marks" as JSON lists, "model", "manifest", "split", "embed", "weights".
 * Written whole or not at all. */
int eval_index_write(const struct eval_index *x, const char *model, const char *path, struct err *e) MUST_CHECK;

/* ERR_FORMAT where the file is no index or its parts do not fit together. On error *x is empty. */
int eval_index_read(const char *path, struct eval_index *x, struct err *e) MUST_CHECK;

struct eval_hit {
    int64_t item;
    float similarity; /* cosine, -1..1 */
};

/* The k items most similar to query (width) in one modality, best first; of equals the earlier. Returns how many there
 * are: at most k and at most the items that have the modality. hit[k]. */
int64_t eval_index_search(const struct eval_index *x, int modality, const float *query, int64_t k,
                          struct eval_hit *hit);

#endif
