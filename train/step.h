/* One training step: the plan for a batch's shapes, the gradient, the optimizer. Plans are cached by shape (plans.h) and
 * share memory; a steady step allocates nothing, faults no page and starts no thread. With train.micro_batch a batch that
 * is larger goes in parts (micro.h): the same gradient, in the memory of a part. */
#ifndef TRIAD_TRAIN_STEP_H
#define TRIAD_TRAIN_STEP_H

#include "data/loader.h"
#include "optim/layers.h"
#include "optim/opt.h"
#include "run/model.h"
#include "train/loss_scale.h"

struct train_stepper;

struct train_result {
    double loss, grad_norm, scale;
    double part_norm; /* of a batch in parts: root of the mean square of its micro-batches' gradients; otherwise 0 */
    bool skipped;     /* the weights did not move: a gradient was beyond f16's range, and grad_norm is not finite */
    double plan_s, compute_s, optimizer_s; /* where the step's time went */
    int n_pairs;
    double pair[RUN_MAX_MODALITIES * RUN_MAX_MODALITIES / 2];
};

/* The model must be committed; it and the optimizer must outlive the stepper. */
struct train_stepper *train_stepper_new(struct run_model *m, struct opt *o, struct err *e);
void train_stepper_free(struct train_stepper *s);

/* Forward, backward and update on one batch. `step` keys the random bits. ERR_NONFINITE where loss or gradient are not
 * finite: the message names the layer that made it first; weights are as before the step (with optim.in_backward most have
 * moved), running statistics are not. In
 * f16 a step whose gradient alone is not finite is left out, while a lower loss scale may help. */
int train_stepper_run(struct train_stepper *s, const struct data_batch *b, int64_t step, double lr,
                      struct train_result *r, struct err *e) MUST_CHECK;

/* Plans for a batch's shapes and tells the figures; all zero on error. build_s has the graph and its gradients in it,
 * and is 0 where all plans are there already. Of a batch in parts: FLOPs and calls of all, memory of the largest. */
struct ad_plan_stats train_stepper_plan(struct train_stepper *s, const struct data_batch *b, struct err *e);
int64_t train_stepper_plans(const struct train_stepper *s); /* how many were made so far */
/* Of the unit vectors of the largest batch in parts so far and their gradients; 0 without micro-batches. */
int64_t train_stepper_embedding_bytes(const struct train_stepper *s);
/* The last step's gradient, before clipping, in the layout of the store's flat buffer of weights; NULL with
 * optim.in_backward, which keeps none. */
const void *train_stepper_gradient(const struct train_stepper *s);
/* Its norms by layer, in any case: norm[opt_layers_count]. */
void train_stepper_norms(const struct train_stepper *s, struct opt_layers *l, double *norm);
struct train_loss_scale *train_stepper_loss_scale(struct train_stepper *s); /* what a checkpoint saves and restores */
/* Time by op so far, as a text table. */
void train_stepper_profile(struct train_stepper *s, bool on);
void train_stepper_report(const struct train_stepper *s, struct buf *out);

#endif
