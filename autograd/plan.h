/* From a graph to something that runs. A plan owns its copy of what it needs: the graph may be freed.
 *
 * Passes run in order, each graph in, graph out; any can be switched off. With every pass on and off the results agree.
 */
#ifndef TRIAD_AUTOGRAD_PLAN_H
#define TRIAD_AUTOGRAD_PLAN_H

#include "autograd/graph.h"
#include "autograd/report.h"

struct ad_store;
struct ad_plan;
struct buf;

enum ad_pass_flags {
    AD_NO_SIMPLIFY = 1,    /* no common subexpressions, constants, identities (dead nodes are never run) */
    AD_NO_FUSE = 2,        /* no fused elementwise chains, no matmul epilogues */
    AD_NO_REUSE = 4,       /* every value has memory of its own, nothing in place, no views */
    AD_NO_KERNELS = 8,     /* the plain evals: with all of these the plan is the reference executor */
    AD_NO_RECOMPUTE = 16,  /* whatever the gradients need is kept, even what is cheap to compute again */
    AD_NO_PANELS = 32,     /* weights are multiplied by where they lie */
    AD_NO_MERGE = 64,      /* every call opens parallel regions of its own */
    AD_CHECK_FINITE = 128, /* stop at the first node that makes a NaN or infinity from finite inputs */
    AD_BF16_VALUES =
        256,             /* mixed precision: activations and their gradients are kept in 16 bits (passes/autocast.c); */
    AD_F16_VALUES = 512, /* arithmetic, weights, losses, weights' gradients and whatever the caller sees stay in f32 */
    AD_NO_AUTOCAST = 1024, /* all in f32 in spite of those two */
    AD_REFERENCE =
        AD_NO_SIMPLIFY | AD_NO_FUSE | AD_NO_REUSE | AD_NO_KERNELS | AD_NO_RECOMPUTE | AD_NO_PANELS | AD_NO_MERGE,
};
/* "nofuse,noplan,nan,nokernels,nosimplify,norecompute,nopanels,nomerge,noautocast" -> flags; ERR_USAGE names the wrong
 * word. */
int ad_pass_flags_parse(const char *text, unsigned *flags, struct err *e) MUST_CHECK;

/* How activations are kept: the names "f32", "bf16", "f16" (then NULL) and the flags that each asks for. */
enum ad_precision { AD_PRECISION_F32, AD_PRECISION_BF16, AD_PRECISION_F16 };
extern const char *const ad_precision_names[];
unsigned ad_precision_flags(enum ad_precision p);

/* Memory that several plans take turns in: as large as the largest of them asks. Zero-initialise. A plan's results are
 * valid until another plan of the same workspace runs. It must outlive its plans. */
struct ad_kept;
struct ad_workspace {
    char *base;
    size_t bytes;
    struct ad_kept *kept; /* panels of weights, which all plans share (keep_panels) */
    uint64_t weights;     /* counts ad_weights_changed */
};
void ad_workspace_free(struct ad_workspace *w);
/* To be called between a change of weights and the next run of a plan with keep_panels. */
void ad_weights_changed(struct ad_workspace *w);

/* Plans everything that the graph's outputs and updates need. Parameters are found in `store` by name (NULL if there
 * are none). NULL on error: a poisoned graph, a parameter that is missing or of another shape, no memory. */
struct ad_plan *ad_plan_new(const struct ad_graph *g, struct ad_store *store, unsigned flags, struct err *e);
/* The same in shared memory. With `dry` nothing is allocated: the plan has figures but cannot run. */
struct ad_plan *ad_plan_in(const struct ad_graph *g, struct ad_store *store, unsigned flags, struct ad_workspace *w,
                           bool dry, struct err *e);

/* What may be asked of a plan besides. */
struct ad_plan_options {
    unsigned flags;
    struct ad_workspace *space; /* NULL: memory of its own */
    bool dry;
    /* Weights in panels (passes/panels.c) stay in the workspace from run to run and from plan to plan, instead of being
     * copied in each run: until ad_weights_changed. They take up to 8 bytes a weight; with a budget nothing is kept. */
    bool keep_panels;
    /* Bytes that the arena and `taken`, what the caller holds beside it, may have together; 0: no limit. A plan that takes
     * more computes values of the forward part a second time (recompute), as few seconds of them as it finds. With
     * AD_NO_REUSE, where every value keeps memory of its own, there is no limit. */
    int64_t budget, taken;
    struct ad_limits limits; /* what recomputation is reckoned to cost by; 0: of a usual desktop */
};
/* As ad_plan_in. ERR_MEMORY where no plan fits the budget, saying how much the smallest that was found needs. */
struct ad_plan *ad_plan_with(const struct ad_graph *g, struct ad_store *store, const struct ad_plan_options *o,
                             struct err *e);
void ad_plan_free(struct ad_plan *p);

/* Binds an input by name to the caller's memory, contiguous, of the input's shape, valid during ad_run. A name that the
 * plan does not have, because nothing needs it, is no error: returns false. */
bool ad_bind(struct ad_plan *p, const char *name, const void *data);
/* Binds an output that was marked with ad_output_to_caller: it is computed straight into `data`, where no input and no
 * other output lies. */
bool ad_bind_out(struct ad_plan *p, const char *name, void *data);

/* Runs once. ERR_STATE: an input is not bound. ERR_NONFINITE under AD_CHECK_FINITE, naming the op and the layer.
 * ERR_SHAPE: an index out of range in the input data, naming the op. On error updates are not committed. */
int ad_run(struct ad_plan *p, uint64_t seed, uint64_t step, struct err *e) MUST_CHECK;

/* An output's memory after a run, valid until the next; NULL if there is none of that name. */
const void *ad_result(const struct ad_plan *p, const char *name, struct ad_shape *shape);
double ad_result_scalar(const struct ad_plan *p, const char *name); /* NAN if there is none */

/* Figures of the plan. */
struct ad_plan_stats {
    int64_t nodes, steps, fused, views, in_place, recomputed; /* graph nodes needed; calls a run; ... */
    int64_t arena_bytes, input_bytes, param_bytes, const_bytes, kept_bytes;
    int64_t unshared_bytes;  /* what the arena would be without reuse */
    int64_t free_bytes;      /* what the arena would be without a budget */
    double flops;            /* floating-point operations a run */
    double again_flops;      /* of those: what is computed a second time */
    double limit_s, again_s; /* seconds at the roofline of the options' limits: all calls, those that come again */
    double build_s, clear_s; /* seconds spent in passes and planning; in getting cleared memory for the arena */
    /* Of the last run (0 before it, and while calls run one by one): calls whose kernels tell their work by parts; the
     * parallel regions that were opened for them, and the barriers in these. Other calls open regions of their own, which
     * are not counted. */
    int64_t cut_calls, regions, barriers;
};
struct ad_plan_stats ad_plan_stats(const struct ad_plan *p);
/* How the work of a run shares out among threads, whether the machine has them or not. */
struct ad_balance {
    double work;               /* seconds of all threads together */
    double span;               /* until the last thread is through, summed over what lies between two barriers */
    double uncut;              /* seconds of calls that open regions of their own: in neither of those */
    int64_t regions, barriers; /* of the run; what they cost is in none of those either */
};
/* Runs on the calling thread alone, `rounds` times, the calls cut and laid out for `threads`, each thread's share timed by
 * itself (autograd/region.h): a share counts with the least of its times. The machine's memory and caches, which threads
 * share, and clocks that fall are not in the figures. Results are those of ad_run, to the bit. waits[ad_plan_timings()]: seconds that threads
 * wait for others where this call is the greatest part of what they do. Call it with threads_init(1). Errors of ad_run. */
int ad_plan_balance(struct ad_plan *p, int threads, int rounds, uint64_t seed, uint64_t step, struct ad_balance *b,
                    double *waits, struct err *e) MUST_CHECK;

/* From now on each call is timed (and what was timed before forgotten), or not. report.h has what comes of it;
 * ad_plan_report is its table by op, without limits. */
void ad_plan_profile(struct ad_plan *p, bool on);
void ad_plan_report(const struct ad_plan *p, struct buf *out);

/* The passes, each one file (autograd/passes/). They return a new graph; the old one stays the caller's. */
struct ad_graph *ad_simplify(const struct ad_graph *g);
struct ad_graph *ad_fuse(const struct ad_graph *g);
/* Marks in `g` itself what is kept in the 16-bit type `half`. */
void ad_autocast(struct ad_graph *g, enum ad_dtype half);
/* Takes `g` over and frees it. */
struct ad_graph *ad_panels(struct ad_graph *g);
/* Takes `g` over and frees it. count: the values that are computed twice. What the budget asks for beyond this needs a
 * layout: autograd/passes/recompute.h. */
struct ad_graph *ad_recompute(struct ad_graph *g, int64_t *count);
/* Takes `g` over; frees it or returns it. */
struct ad_graph *ad_place_applies(struct ad_graph *g);

#endif
