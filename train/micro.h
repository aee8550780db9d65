/* The gradient of a whole batch in memory for a part of it: cached gradients (Gao et al. 2021, arXiv 2101.06983, sec. 3).
 *
 * 1. Each tower embeds its items a micro-batch at a time, forward only, into one buffer of unit vectors.
 * 2. The loss and its gradient by all unit vectors are computed at once: exactly those of the whole batch.
 * 3. Each tower runs each micro-batch again, with the same random bits, and carries the gradients of its unit vectors
 *    back; those by the parameters add up, micro-batch after micro-batch.
 *
 * So every sample is compared with the whole batch, whatever the micro-batch. Towers take turns: memory is that of one
 * tower and one micro-batch, plus the batch's inputs, unit vectors and their gradients. Masks of dropout and drop path
 * are those that the whole batch would draw (model_first), so the result differs from the whole batch's only in the
 * order in which the parameters' gradients are summed.
 *
 * Batch norm alone knows what a micro-batch is: its statistics are of one micro-batch of one tower's items, the same in
 * both runs, and its running statistics move in the second run only: once a micro-batch, not once a step. */
#ifndef TRIAD_TRAIN_MICRO_H
#define TRIAD_TRAIN_MICRO_H

#include "data/loader.h"
#include "train/plans.h"

struct train_micro;

/* Micro-batches of `items` items of each tower; where the batch's are no multiple of it, the last one has the rest. The
 * cache and its model must outlive it. */
struct train_micro *train_micro_new(struct train_plans *plans, int64_t items);
void train_micro_free(struct train_micro *t); /* NULL is fine */

/* Fills plans->grad. *loss_plan is the plan of kind TRAIN_LOSS, for its results by name; `read` is called once they are
 * there, before anything else runs. Errors as ad_run; then running statistics may have moved. */
typedef void train_micro_read(void *ctx, const struct ad_plan *loss_plan);
int train_micro_run(struct train_micro *t, const struct data_batch *b, unsigned flags, uint64_t seed, uint64_t step,
                    train_micro_read *read, void *ctx, struct err *e) MUST_CHECK;

/* The figures of a step's plans: calls, FLOPs and times of all runs together, memory of the largest. Zero on error. */
struct ad_plan_stats train_micro_plan(struct train_micro *t, const struct data_batch *b, unsigned flags, struct err *e);

/* |G|^2 of the last step's micro-batches, for the gradient noise scale (optim/noise.h): each tower's mean over its parts,
 * whose gradients are taken times the number of parts, summed over the towers. */
double train_micro_part2(const struct train_micro *t);

/* Bytes of the unit vectors and their gradients of the largest batch so far. */
int64_t train_micro_bytes(const struct train_micro *t);

#endif
