/* What a row does: built once from its description, then run step by step. */
#ifndef TRIAD_BENCH_JOB_H
#define TRIAD_BENCH_JOB_H

#include "autograd/plan.h"
#include "bench/row.h"

struct bench_job;

/* Figures that hold for every step. Bytes. */
struct bench_size {
    int64_t samples;                 /* a step: images, pairs, texts, clips; 0 for the optimizer alone */
    int64_t parameters;              /* trained */
    double params_bytes, plan_bytes; /* parameters alone; the plan's arena */
    double gradient_bytes;           /* 0 where they lie in the arena, each until it is used */
    double state_bytes;              /* parameters, gradients and moments together */
    double input_bytes;              /* the step's fixed inputs */
    double again_flops;              /* a step: computed a second time to save memory */
};

/* Builds graph, plan, parameters, optimizer and inputs. The row must outlive the job. NULL on error. */
struct bench_job *bench_job_new(const struct bench_row *r, struct err *e);
void bench_job_free(struct bench_job *j); /* NULL is fine */

/* One whole step: forward, loss, backward, AdamW (as far as the row has them). ERR_NONFINITE where the loss is. */
int bench_job_step(struct bench_job *j, struct err *e) MUST_CHECK;

/* The plan of a row's model, or NULL where it has none. */
const struct ad_plan *bench_job_plan(const struct bench_job *j);
struct bench_size bench_job_size(const struct bench_job *j);

/* From now on each call of a step is timed, or not. */
void bench_job_profile(struct bench_job *j, bool on);
/* One step as ad_plan_balance runs it, for the optimizer's own part as opt_balance has it; waits[bench_job_timings()].
 * ERR_USAGE for a row without a plan or optimizer. */
int bench_job_balance(struct bench_job *j, int threads, int rounds, struct ad_balance *b, double *waits,
                      struct err *e) MUST_CHECK;
/* The calls of a step, with the optimizer's among them; as ad_plan_timings. */
size_t bench_job_timings(const struct bench_job *j, struct ad_timing *out);

#endif
