/* Dynamic loss scaling, for gradients that are kept in f16 (Micikevicius et al. 2018, section 3.2): the loss is multiplied
 * by a power of two before it is differentiated, so that small gradients do not vanish below f16's least number, and the
 * weights' gradients, which are f32, are divided by it. Where one of them is not finite the step is left out and the scale
 * halved; after `every` good steps in a row it is doubled. f32 and bf16 have the range they need: no scale. */
#ifndef TRIAD_TRAIN_LOSS_SCALE_H
#define TRIAD_TRAIN_LOSS_SCALE_H

#include "run/checkpoint.h"
#include "run/config.h"

struct train_loss_scale {
    bool on;
    struct run_loss_scale at; /* what a checkpoint keeps */
    int64_t every;
    float factor; /* at.scale, where plans read it */
};

void train_loss_scale_begin(struct train_loss_scale *s, const struct run_train *c);
void train_loss_scale_set(struct train_loss_scale *s, struct run_loss_scale at);

/* The val to differentiate in place of the scalar `loss`; and binds the plan's input that it reads to `s`. NULL: none. */
val train_loss_scale_emit(const struct train_loss_scale *s, struct ad_graph *g, val loss);
void train_loss_scale_bind(const struct train_loss_scale *s, struct ad_plan *p);
/* grad /= scale, n numbers. Exact, but for what becomes less than f32's least normal number. */
void train_loss_scale_undo(const struct train_loss_scale *s, float *grad, int64_t n);

double train_loss_scale_factor(const struct train_loss_scale *s); /* 1 without scaling */

/* After a step whose gradient is finite. */
void train_loss_scale_good(struct train_loss_scale *s);
/* After one whose gradient is not, though its loss is: halves the scale, says so, and returns true. False without
 * scaling, or at scale 1: then the scale was not the cause. */
bool train_loss_scale_skip(struct train_loss_scale *s, int64_t step);

#endif
