/* What this machine can do: multiply-adds and memory traffic a second, measured here and now. Every share that the
 * bench prints is a share of these. */
#ifndef TRIAD_BENCH_PEAK_H
#define TRIAD_BENCH_PEAK_H

#include "base/err.h"

struct bench_peak {
    double flops_1, flops; /* f32 operations a second (a multiply-add is two): one thread, all threads */
    /* Bytes a second over all threads, in arrays far larger than the caches: b = a (2 arrays), c = a + x b (3 arrays;
     * McCalpin 1995, STREAM), b += x a (3: one is read, one read and written). Where a store fetches its line first that
     * is not counted, so that `update` comes nearest to what the memory moves. */
    double copy, triad, update;
    const char *isa; /* the instruction set that reached `flops_1` */
    int threads;
};

/* The multiply-adds alone: about 0.2 s, no memory. Fills flops_1, flops, isa, threads; the rest is zero. */
struct bench_peak bench_peak_flops(void);
/* Adds copy, triad and update: about 0.2 s and 144 MB. ERR_MEMORY leaves them zero. */
int bench_peak_memory(struct bench_peak *p, struct err *e) MUST_CHECK;
/* `flops` once more, the best within `seconds` (0: one run of some milliseconds): for work that takes turns with it. */
double bench_peak_again(const struct bench_peak *p, double seconds);
/* The largest of copy, triad and update: what a roofline divides bytes by. */
double bench_bandwidth(const struct bench_peak *p);

#endif
