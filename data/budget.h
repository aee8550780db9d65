/* Inside the loader: how many items a batch takes where it is filled up to a budget of tokens or seconds. The rest of
 * triad includes data/loader.h.
 *
 * An item's size is that of the entry that its epoch chooses: a text's tokens, cut to max_tokens; a clip's seconds as its
 * header has them, cut to max_seconds, before augmentation (a clip of a raw-sound modality: what every clip has). An item
 * without the modality has size 0, and so has one whose size cannot be read: what is wrong with it is told when it is
 * decoded. Sizes are read when a batch is first laid out and kept, four bytes an entry: a header of some hundred bytes
 * rather than the file, a text rather than its picture. */
#ifndef TRIAD_DATA_BUDGET_H
#define TRIAD_DATA_BUDGET_H

#include "data/sample.h"

struct data_budget;

/* For plan->c.by, budget and budget_of; `plan` must outlive it. */
struct data_budget *data_budget_new(const struct data_plan *plan);
void data_budget_free(struct data_budget *b); /* NULL is fine */

/* How many of order[0 .. n-1], an epoch's items from some place on, the next batch takes: as many as fit the budget and
 * plan->c.batch, less up to a sixteenth (data_round_items) which then begin the next batch. 0: fewer are left than fit,
 * and the epoch is over; with `first`, its first batch, they are a batch all the same. -1 and ERR_CONFIG where the item
 * that comes next is larger than the whole budget; ERR_MEMORY. */
int64_t data_budget_take(struct data_budget *b, const int64_t *order, int64_t n, int64_t epoch, bool first,
                         struct err *e);

#endif
