/* Heads: a tower that ends in a task of its own instead of the shared space. Each declares the tower's inputs
 * (model.h) and its own parameters under the tower's name, and returns logits; the losses beside them are those that
 * the models were published with. */
#ifndef TRIAD_MODELS_HEAD_H
#define TRIAD_MODELS_HEAD_H

#include "models/model.h"

/* Classification: logits (items, classes) = features "<name>.head.weight" (width, classes) + "<name>.head.bias", of any
 * tower. While training a share `dropout` of the features is dropped first (0: none). For the mean cross-entropy over
 * labels i32 (items): ad_mean_all(ad_cross_entropy(logits, labels, smoothing, -100)). */
val model_classes(struct nn *m, const struct model_tower *t, struct model_shape s, int64_t classes, double dropout);

/* A language model over packed tokens. */
struct model_lm {
    struct nn_seq logits; /* .x (rows, vocab) */
    val next;             /* i32 (rows): the token that follows in the same text; -100 after a text's last token and in
                             the padding */
};
/* A MODEL_TEXT tower with a causal trunk; the output matrix is the token embedding, "<name>.token.weight", and has no
 * bias (Radford et al. 2019; Press & Wolf 2017). Any other tower is an error of the graph. */
struct model_lm model_lm(struct nn *m, const struct model_tower *t, struct model_shape s);
/* () the mean of -log p(next token) over all rows that have one; 0 where none has. */
val model_lm_loss(struct nn *m, const struct model_lm *lm);

/* Labels of frames: logits (frames, vocab) = hidden states "<name>.head.weight" (width, vocab) + "<name>.head.bias", of
 * a MODEL_WAVE or MODEL_AUDIO tower; offsets are those of the frames (Baevski et al. 2020, sec. 3.3). */
struct nn_seq model_ctc(struct nn *m, const struct model_tower *t, struct model_shape s, int64_t vocab);
/* () the mean over items of ctc / max(1, labels), ctc = -log p(labels | frames) (Graves et al. 2006), as PyTorch's
 * reduction "mean". targets i32 (labels of all items), target_offsets i32 (items + 1); `blank` is no label. An item
 * with more labels than its frames can hold makes the loss infinite, or adds 0 with zero_infinity. */
val model_ctc_loss(struct nn *m, const struct nn_seq *logits, val targets, val target_offsets, int blank,
                   bool zero_infinity);

#endif
