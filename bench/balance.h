/* How a row's step shares out among more threads than the machine has. */
#ifndef TRIAD_BENCH_BALANCE_H
#define TRIAD_BENCH_BALANCE_H

#include "bench/row.h"

/* For 1, 2, 3, 4 and on up to 64 threads: what each would do of a step is timed on one thread (ad_plan_balance), the least of `rounds`
 * times. A table on standard error, with the ops that threads wait for, and one line of JSON on standard output. Errors of the row's step; ERR_USAGE for one
 * without a plan. */
int bench_balance(const struct bench_row *row, int64_t rounds, struct err *e) MUST_CHECK;

#endif
