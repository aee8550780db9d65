/* Heads: a tower that ends in a task of its own instead of the shared space. Each declares the tower's inputs
 * (model.h) and its own parameters under the tower's name, and returns logits; the losses beside them are those that
 * the models were published with. */
#ifndef TRIAD_MODELS_HEAD_H
#define TRIAD_MODELS_HEAD_H

#include "models/model.h"

/* A loss as a sum and what it is divided by, both (): the mean of a batch is sum / max(1, count). Micro-batches of one batch
 * add up the gradients of their sums, each divided by the count of the whole batch (as the seed of ad_grad): dividing
 * each by its own count would weigh the tokens of a short micro-batch more. */
struct model_sum {
    val sum, count;
};
val model_mean(struct nn *m, struct model_sum s);

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
/* -log p(next token) over all rows that have one, and how many have. */
struct model_sum model_lm_sum(struct nn *m, const struct model_lm *lm);
/* () its mean; 0 where none has. */
val model_lm_loss(struct nn *m, const struct model_lm *lm);

/* Labels of frames: logits (frames, vocab) = hidden states "<name>.head.weight" (width, vocab) + "<name>.head.bias", of
 * a MODEL_WAVE or MODEL_AUDIO tower; offsets are those of the frames (Baevski et al. 2020, sec. 3.3). */
struct nn_seq model_ctc(struct nn *m, const struct model_tower *t, struct model_shape s, int64_t vocab);
/* ctc / max(1, labels) over items, ctc = -log p(labels | frames) (Graves et al. 2006), and the number of items; its mean is
 * PyTorch's reduction "mean". targets i32 (labels of all items), target_offsets i32 (items + 1); `blank` is no label. An item
 * with more labels than its frames can hold makes the loss infinite, or adds 0 with zero_infinity. */
struct model_sum model_ctc_sum(struct nn *m, const struct nn_seq *logits, val targets, val target_offsets, int blank,
                               bool zero_infinity);
/* () that mean. */
val model_ctc_loss(struct nn *m, const struct nn_seq *logits, val targets, val target_offsets, int blank,
                   bool zero_infinity);

#endif
