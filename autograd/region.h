/* Many calls in one parallel region: a fork and join of threads costs more than a barrier among threads that are there.
 *
 * Calls that follow one another and do not touch one another's memory make a batch: their phases (op.h) run side by side,
 * with a barrier between a phase and the next and between a batch and the next. Calls that are not worth a second thread
 * and need only one another's results make a chain, which one thread computes without barriers. Results are as if the
 * calls had run one after the other. Nothing is allocated in a run. */
#ifndef TRIAD_AUTOGRAD_REGION_H
#define TRIAD_AUTOGRAD_REGION_H

#include "autograd/op.h"

/* Bytes lo .. hi-1 of a piece of memory, which has a number, that a call reads or writes. Pieces do not overlap. */
struct region_span {
    int32_t piece;
    bool written;
    int64_t lo, hi;
};

struct region_call {
    const struct ad_kernel *kernel; /* has `cut` */
    const struct ad_call *call;
    const struct region_span *span; /* [n_span]: all that it reads and writes, scratch included */
    int n_span;
    bool known; /* `parts` are of the call as it is: the caller clears it where a pointer of the call has changed */
    struct ad_parts parts;
    int32_t chain; /* of its batch; -1: its items are shared among the threads */
};

struct region;
/* Of n calls, in their order; `call` is the caller's and must outlive the region. */
struct region *region_new(struct region_call *call, size_t n);
void region_free(struct region *r); /* NULL is fine */
size_t region_calls(const struct region *r);
/* Runs all calls on that many threads: in at most one parallel region, in none if there is nothing to share. */
void region_run(struct region *r, int threads);
/* How the work of regions shares out among `threads`, whether the machine has them or not: region_weigh runs the calls on the
 * calling thread alone, cut and laid out for that many, and times what each thread would do of every stage. A share that was
 * timed in earlier rounds too, over the same regions in the same order, counts with the least of its times. */
struct region_weights {
    int threads;
    double work;              /* seconds of this round that threads are at work, all of them together */
    double span;              /* seconds until the last of them is through, summed over the stages */
    int64_t forks, barriers;  /* of this round */
    double *load;             /* [threads] of the stage at hand */
    double *least;            /* [n_least] of each share, in the order of the run */
    size_t n_least, at, room; /* at: the next share of this round */
};
void region_weights_begin(struct region_weights *w); /* a round; `threads` is set, all the rest zero before the first */
void region_weights_free(struct region_weights *w);
/* waits[i] (n of them) += seconds that threads wait for others in stages of which call i is the greatest part. */
void region_weigh(struct region *r, struct region_weights *w, double *waits);

/* Of the last run: whether it opened a parallel region, and the barriers in it. */
bool region_forks(const struct region *r);
int64_t region_barriers(const struct region *r);

#endif
