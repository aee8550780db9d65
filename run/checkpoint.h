/* Checkpoints: RUN/checkpoints/step-N/ holds model.safetensors (weights and running statistics by name),
 * optimizer.safetensors (moments and averages, "adamw.m/<parameter>"; moments in 8 bits are U8 codes of optim/quant.h with
 * their scales in "adamw.m.absmax/<parameter>") and state.json (the rest). */
#ifndef TRIAD_RUN_CHECKPOINT_H
#define TRIAD_RUN_CHECKPOINT_H

#include "autograd/store.h"
#include "optim/noise.h"
#include "optim/opt.h"

/* Of train.precision f16 (train/loss_scale.h). */
struct run_loss_scale {
    double scale; /* 0: the run has none */
    int64_t good; /* steps since it changed or one was left out */
};

/* Where a run stands: enough to go on bit for bit. */
struct run_state {
    int64_t step;         /* steps done */
    int64_t epoch, batch; /* what the loader gives next */
    int64_t samples;      /* seen so far */
    double seconds;       /* trained so far, all parts of the run together */
    double best;          /* of the metric train.best; NAN if none yet */
    int64_t best_step;    /* -1: none */
    struct run_loss_scale loss_scale;
    struct opt_noise noise;
};

/* Writes `dir`/checkpoints/step-N. The folder appears whole or not at all (written aside, synced, renamed); one of the
 * same step is replaced. On error nothing that was there before is touched, and `e` says which file and why. `o` may be
 * NULL. */
int run_checkpoint_save(const char *dir, const struct run_state *s, const struct ad_store *store, const struct opt *o,
                        struct err *e) MUST_CHECK;

/* Deletes checkpoints but the newest `keep` and that of step `best` (-1: none), and what saves that were cut off left
 * behind in `dir` and its checkpoints. Only for who holds the run folder. */
int run_checkpoint_prune(const char *dir, int64_t keep, int64_t best, struct err *e) MUST_CHECK;

/* *folder: the newest checkpoint in `dir`/checkpoints whose state.json can be read, or NULL where there is no
 * checkpoint at all; the caller frees. One that cannot be read is passed over with a warning; where that leaves none,
 * its error is returned. Leftovers of a save that was cut off do not count. */
int run_checkpoint_latest(const char *dir, char **folder, struct err *e) MUST_CHECK;

bool run_checkpoint_any(const char *dir); /* there is one, readable or not */

/* Reads a checkpoint folder. Every parameter of the store, and every state of `o`, must be there with its shape
 * (ERR_SHAPE names it and a near name), and nothing besides. `o` NULL: weights only. `average`: the averaged weights in
 * place of the last ones where they exist. On error the store's content is undefined. */
int run_checkpoint_load(const char *folder, struct run_state *s, struct ad_store *store, struct opt *o, bool average,
                        struct err *e) MUST_CHECK;

#endif
