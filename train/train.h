/* A training run from config to last checkpoint. */
#ifndef TRIAD_TRAIN_TRAIN_H
#define TRIAD_TRAIN_TRAIN_H

#include "run/model.h"

struct train_options {
    const char *config;           /* the YAML file */
    const char *const *overrides; /* key=value */
    int n_overrides;
    bool resume;  /* go on from the run folder's newest checkpoint; there must be one */
    bool profile; /* a table of time by op at the end */
};

/* Trains, records, measures and saves into the run folder. SIGINT and SIGTERM save a checkpoint and end with
 * ERR_INTERRUPTED. ERR_STATE: the folder holds a run already and `resume` is false, or the other way round. ERR_BUSY:
 * another process trains there. ERR_NONFINITE: the loss blew up; the message names the layer, the last checkpoint
 * stays. */
int train_run(const struct train_options *o, struct err *e) MUST_CHECK;

/* Builds and plans everything on the first batch, runs two steps of it for the clock, writes nothing, and prints
 * parameters by tower, FLOPs, the predicted peak of memory and time a step to standard output. */
int train_dry_run(const struct train_options *o, struct err *e) MUST_CHECK;

#endif
