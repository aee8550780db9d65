/* The plans of training steps, made when a batch of new sizes comes and kept: at most TRAIN_PLANS, of which the one that
 * was used longest ago gives way. They share the model's workspace, and write gradients into one flat buffer. */
#ifndef TRIAD_TRAIN_PLANS_H
#define TRIAD_TRAIN_PLANS_H

#include "run/model.h"
#include "train/loss_scale.h"

enum { TRAIN_PLANS = 128 };

/* What a plan computes. WHOLE: loss and all gradients of a batch at once, and where there is `within` the step too;
 * GRADIENT: the same without the step, nothing of which is kept. The others are a batch in parts (micro.h). */
enum train_part { TRAIN_WHOLE, TRAIN_GRADIENT, TRAIN_EMBED, TRAIN_LOSS, TRAIN_REPLAY };

/* What plans differ by. Zero-initialise. */
struct train_key {
    enum train_part part;
    int modality;                                 /* EMBED, REPLAY: whose tower */
    int64_t batch;                                /* WHOLE, GRADIENT, LOSS: samples */
    struct model_shape shape[RUN_MAX_MODALITIES]; /* these, LOSS (items alone): of all; EMBED, REPLAY: of [modality] */
    unsigned flags;                               /* enum ad_pass_flags */
};

struct train_planned {
    struct train_key key;
    struct ad_plan *plan;
    int64_t used; /* when, on the cache's clock */
};

struct train_plans {
    struct run_model *m;
    void *grad;         /* the flat gradient buffer, in the layout of the store's weights; NULL where there is */
    struct opt *within; /* the optimizer whose steps the plans take themselves (optim.in_backward); or NULL */
    struct train_loss_scale *loss_scale; /* what is differentiated is the loss times it */
    struct train_planned *plan;
    size_t n, cap;
    int64_t budget, taken; /* train.memory in bytes (0: no limit), and what of it is held beside the arena */
    int64_t clock, made;   /* plans made so far */
    double seconds;        /* spent on graphs and plans, but for clearing memory, since the owner last set it to 0 */
    bool profile;          /* then no plan gives way: its times would be lost */
};

/* The plan for `key`, kept or made. NULL on error. It stays until the next call. Inputs and outputs of the parts:
 *   EMBED   the tower's inputs and "<name>.first" (model_first) -> "<name>.unit" (items, embed), to the caller.
 *           Draws as in training, and changes no running statistics.
 *   LOSS    "<name>.unit" and "<name>.row" of every modality, "group" -> "loss", "scale", the pairs' losses,
 *           "<name>.unit_grad" (items, embed) to the caller, the gradients of the loss's own parameters in `grad`.
 *   REPLAY  the inputs of EMBED and "<name>.unit_grad" -> the tower's gradients, for opt_add_gradients. */
struct ad_plan *train_plan_for(struct train_plans *c, const struct train_key *key, struct err *e);
void train_plans_free(struct train_plans *c);

/* What train.debug and train.precision say. */
int train_plan_flags(const struct run_train *c, unsigned *flags, struct err *e) MUST_CHECK;
/* A plan for `key` that is the caller's: c's cache stays as it is. Of a `dry` one there are figures alone. Gradients are
 * bound where c->grad is there. */
struct ad_plan *train_plan_new(const struct train_plans *c, const struct train_key *key, bool dry, struct err *e);

/* The prefix of a tower's parameters: "image." */
const char *train_tower_prefix(const struct run_model *m, int modality, char out[300]);

#endif
