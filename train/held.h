/* What a step needs in memory beside the plan's arena. */
#ifndef TRIAD_TRAIN_HELD_H
#define TRIAD_TRAIN_HELD_H

#include "run/model.h"

/* Bytes of each kind while a model is trained on batches of these shapes. Decoded data in the loader's cache is not among
 * them: it has a limit of its own, data.cache. */
struct train_held {
    double parameters, gradients, optimizer; /* running statistics and averaged weights counted in */
    double batches;    /* all of the loader's ring, and of the one that the splits of data.valid come through */
    double embeddings; /* of a batch in parts: all unit vectors and their gradients; otherwise 0 */
    double program;    /* code, libraries, threads, tables */
};
/* shape[m->n]; the model must be committed. */
struct train_held train_held(const struct run_model *m, const struct opt *o, const struct model_shape *shape,
                             int64_t batch);
/* Their sum. */
int64_t train_held_bytes(const struct run_model *m, const struct opt *o, const struct model_shape *shape,
                         int64_t batch);

#endif
