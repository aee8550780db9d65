/* What the files of a plan share: plan.c makes and runs it, plan_budget.c fits it into a budget, plan_regions.c finds calls
 * that share a parallel region, plan_kept.c keeps weights in panels, plan_figures.c counts. Nobody else includes this. */
#ifndef TRIAD_AUTOGRAD_PLAN_PARTS_H
#define TRIAD_AUTOGRAD_PLAN_PARTS_H

#include "autograd/passes/layout.h"
#include "autograd/plan.h"

struct half_call;
struct region;
struct region_call;
struct region_span;

struct step {
    const struct ad_node *node;
    struct ad_kernel kernel; /* or the eval as one */
    struct ad_call call;
    struct half_call *half; /* or NULL: between the call and the kernel */
    int32_t tensor;         /* of the first input; the outputs follow the inputs */
    int32_t scratch;
    struct region_call *part; /* in a region, or NULL */
    struct region *region;    /* that begins with this step, or NULL */
    struct ad_kept *kept;     /* panels that are copied only where weights have changed, or NULL */
    struct err *fault;        /* of a call in a region that may find wrong data, or NULL */
    double flops, seconds;
    int64_t runs;
};

struct ad_plan {
    struct ad_graph *g;
    char *need; /* [g->n_node] */
    struct layout l;
    struct step *step;
    size_t n_step, n_kept; /* the first n_kept copy panels that the workspace keeps */
    struct ad_tensor *tensor;
    int32_t *tensor_val;
    size_t n_tensor;
    struct region_call *part; /* of the steps that may share a region, in their order */
    struct region_span *span;
    struct err *fault;
    struct ad_workspace own, *space; /* where the arena lies */
    char *based_at;                  /* the arena that roots and tensors point into now */
    bool dry, keep_panels;
    unsigned flags;
    bool profile;
    struct region_weights *weights; /* while ad_plan_balance runs, else NULL */
    double *waits;                  /* then: [n_step], as region_weigh */
    double uncut;                   /* then: seconds of calls that are not cut */
    struct ad_limits limits;
    struct ad_plan_stats stats;
};

/* Lays out p->g and chooses kernels: all but memory. */
void ad_plan_lay_out(struct ad_plan *p);
void ad_plan_forget_layout(struct ad_plan *p); /* frees what that made, and the graph */

/* Lays out anew, with recomputation, where the arena is more than the options allow. */
int ad_plan_fit_budget(struct ad_plan *p, const struct ad_plan_options *o, struct err *e) MUST_CHECK;

/* Takes nodes that copy weights into panels out of the arena: ROOT_KEPT. Then finds them memory in the workspace. */
void ad_plan_mark_kept(struct ad_plan *p);
bool ad_plan_is_kept(const struct ad_plan *p, size_t node);
int ad_plan_bind_kept(struct ad_plan *p, struct err *e) MUST_CHECK;
/* Whether the step has nothing to do: its weights are as they were. If not, what it keeps is taken to be of these. */
bool ad_step_is_done(const struct ad_plan *p, struct step *s);
void ad_kept_free(struct ad_kept *k);

/* Cuts the list of steps into regions; p->step[].region. */
void ad_plan_find_regions(struct ad_plan *p);
void ad_plan_free_regions(struct ad_plan *p);

void ad_plan_add_stats(struct ad_plan *p);
double ad_step_limit(const struct ad_plan *p, const struct step *s); /* seconds of a call at the roofline */

#endif
