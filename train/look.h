/* first-batches.html: what the model really sees. */
#ifndef TRIAD_TRAIN_LOOK_H
#define TRIAD_TRAIN_LOOK_H

#include "data/loader.h"
#include "run/model.h"

/* Writes `dir`/first-batches.html from the first batches of a run's loader: pictures after augmentation, captions as
 * the tokenizer gives them back, spectrograms, and the clip's own sound. `b` is a batch as the model gets it. `dir`
 * NULL: the page is made and not written, for what it takes. */
int train_look(const struct run_model *m, const struct manifest *data, const struct data_batch *const *b, int n,
               const char *dir, struct err *e) MUST_CHECK;

#endif
