/* Retrieval: how well one modality's embeddings find another's, over all items of a split. */
#ifndef TRIAD_EVAL_MEASURE_H
#define TRIAD_EVAL_MEASURE_H

#include "run/model.h"

enum { EVAL_CUTS = 3 };
extern const int eval_cut[EVAL_CUTS]; /* 1, 5, 10 */

/* The embeddings of every modality over the items of a split. */
struct eval_set {
    char *split;    /* as asked for */
    int64_t n;      /* items */
    int64_t *item;  /* (n) indices into the manifest */
    int32_t *group; /* (n): items of equal number are hits for one another */
    int n_modalities;
    int64_t width;
    float *unit[RUN_MAX_MODALITIES]; /* (n, width) */
    bool *has[RUN_MAX_MODALITIES];   /* (n) */
};

/* Of "items/entries" the second; a split with one name is both. */
const char *eval_split_entries(const char *split);

/* Embeds a split. `split` is a name of the manifest ("compositions"), or "items/entries": the items of one with the
 * entries (clips, pictures) of another: "compositions/voices" is compositions spoken by the voices held out. Items with
 * the same manifest "group" are hits for each other; otherwise each is its own. `show`: with progress lines. ERR_CONFIG
 * for an unknown split. `most`: so many of the split's first items; 0: all. */
int eval_set_make(struct run_model *m, const struct manifest *data, const char *split, int64_t most, struct eval_set *s,
                  bool show, struct err *e) MUST_CHECK;
void eval_set_free(struct eval_set *s);

/* One direction of one pair. Only items that have the modality are queries or candidates. */
struct eval_direction {
    int query, target;           /* modalities */
    int64_t queries, candidates; /* a query whose hits all lack the target modality does not count */
    double recall[EVAL_CUTS], low[EVAL_CUTS], high[EVAL_CUTS]; /* shares in 0..1 with bootstrap 95 % intervals */
    double chance[EVAL_CUTS];                                  /* of a random order */
    double median;                                             /* rank, 1 is best */
    double map;                                                /* mean average precision */
    int32_t *rank;                                             /* (queries): of the best hit, 1 is best */
    int32_t *from; /* (queries): the item of each query, an index into the set */
};

/* rank = 1 + the number of candidates that are strictly more similar than the best hit: as the field counts, ties are
 * won. Intervals: percentile bootstrap over queries (Efron 1979), `resamples` draws keyed by a fixed seed; 0: none
 * (NAN). The caller frees with eval_direction_free. */
void eval_direction_make(const struct eval_set *s, int query, int target, int resamples, struct eval_direction *d);
void eval_direction_free(struct eval_direction *d);

/* Similarities of query items [from, to) with all n target items: out (to - from, n). */
void eval_similarity(const struct eval_set *s, int query, int target, int64_t from, int64_t to, float *out);

#endif
