/* What a run writes about itself: metrics.jsonl, TensorBoard events, log.txt. */
#ifndef TRIAD_TRAIN_RECORD_H
#define TRIAD_TRAIN_RECORD_H

#include <stdint.h>
#include "base/err.h"

struct train_record;

/* Opens the files of a run folder. Going on after a resume at `step`, later lines of metrics.jsonl (of steps that are
 * run again) are taken out, and with `measure` what was measured at `step` itself; step 0 begins a new file. */
struct train_record *train_record_open(const char *dir, int64_t step, bool measure, struct err *e);
void train_record_close(struct train_record *r); /* NULL is fine */

/* One line {"step": ..., name: value, ...}: begin, any number of values, end. NaN is written as null. A write that
 * fails is warned of once and does not stop the run. */
void train_record_begin(struct train_record *r, int64_t step);
void train_record_value(struct train_record *r, const char *name, double value);
void train_record_end(struct train_record *r);

#endif
