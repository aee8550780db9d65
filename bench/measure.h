/* Times a row and says what came of it. */
#ifndef TRIAD_BENCH_MEASURE_H
#define TRIAD_BENCH_MEASURE_H

#include "bench/job.h"
#include "bench/peak.h"

struct bench_options {
    int64_t steps;  /* that are timed */
    int64_t warmup; /* untimed ones after the first */
    int64_t base;   /* bytes: process_peak_rss() when main began */
    bool profile;   /* as many steps once more, each call timed */
};

struct bench_result {
    const char *row;
    double median, min; /* seconds a step */
    double
        cpu; /* the share of its threads' time that the program ran in while steps were timed: well below 1, other work
                 * took the cores, or threads waited asleep */
    double first_step;       /* seconds from the start of the process to the end of the first step */
    double peak, peak_total; /* bytes: the process's peak above `base`, and all of it */
    double flops, bytes;     /* a step: operations; memory traffic as autograd/report.h counts it */
    double limit;            /* seconds of a step at the roofline of `machine` */
    struct bench_size size;
    struct bench_peak machine;
    int64_t steps;
    int threads;
    struct ad_timing *timing; /* the calls of a step, n_timing of them; with options.profile their times too */
    size_t n_timing;
};

/* Builds the row's job, runs and times it, then measures the machine. *job and r->timing live until the caller frees
 * them (bench_job_free, free); on error there is nothing to free. */
int bench_measure(const struct bench_row *row, const struct bench_options *o, struct bench_job **job,
                  struct bench_result *r, struct err *e) MUST_CHECK;

/* One line of JSON: the fields that docs/performance.md explains. With a profile, "ops" has its lines. */
void bench_json(const struct bench_result *r, struct buf *out);

/* Sorts x[n] and returns the value in the middle. */
double bench_median(double *x, int64_t n);

/* A table of products: triad's gemm() against the BLAS it is linked with, on the same threads, taking turns; a line of
 * JSON each on standard output. `seconds` a product (0: once each); `part`: only those with this in their name (NULL:
 * all). ERR_USAGE where none has; ERR_STATE where the two disagree on the numbers. */
int bench_gemm(const char *part, double seconds, struct err *e) MUST_CHECK;
/* Classes of products, a line each: how fast triad's back ends, the BLAS and, where it is installed, libxsmm multiply them,
 * in turn and on one thread; which is the fastest, which the table in the code chooses, and whether that is more than 5 %
 * behind ("slow"). */
int bench_gemm_table(const char *part, double seconds, struct err *e) MUST_CHECK;

/* What is not a product: norms, activations, losses, embeddings, sums, depthwise convolutions, on tensors of 64 MB; a line
 * of JSON each on standard output. `share` is of the speed at which a loop moves the numbers that the op must read and
 * write, twice where it has to see all of them before it writes the first. `seconds` and `part` as above. */
int bench_ops(const char *part, double seconds, struct err *e) MUST_CHECK;

#endif
