/* What a run and a forecast of one open alike: model, data, optimizer, step. */
#ifndef TRIAD_TRAIN_SETUP_H
#define TRIAD_TRAIN_SETUP_H

#include "optim/layers.h"
#include "train/step.h"
#include "train/train.h"

struct train_setup {
    struct run_model *m;
    const struct run_train *c;
    struct manifest data;
    struct data_cache *cache;
    struct data_loader *loader;
    struct opt_config opt_config;
    struct opt *opt;
    struct opt_layers *layers; /* NULL: not asked for */
    struct train_stepper *stepper;
    int64_t total; /* steps; 0 where the clock decides */
};

/* Opens everything that the config names, with the parameters' start values. Nothing is written. On error
 * train_setup_close still has to be called. */
int train_setup_open(struct train_setup *s, const struct train_options *o, struct err *e) MUST_CHECK;
/* Before the model is committed: what optim.weights asks of its store. ERR_CONFIG for what does not go together: with
 * weights in bf16 sums over micro-batches would round at every part, and gradients in f16 have a scale; a step in the
 * backward pass is taken before there is a sum or another scale. */
int train_choose_optim(struct run_model *m, struct err *e) MUST_CHECK;
void train_setup_close(struct train_setup *s); /* a zeroed one is fine */

/* "SPLIT/QUERY->TARGET R@CUT", as metrics.jsonl and train.best have it. */
enum { TRAIN_METRIC_NAME = 400 };
void train_metric_name(const struct train_setup *s, const char *split, int query, int target, int cut,
                       char out[TRAIN_METRIC_NAME]);

/* Appends what a step takes: "4096 in micro-batches of 64", "4000 tokens of caption, at most 512 samples". */
void train_batch_text(const struct run_config *c, struct buf *out);

/* Parameters of one modality's tower that are trained. */
int64_t train_tower_parameters(const struct train_setup *s, int modality);

#endif
