/* recompute by budget: which values of the forward part are let go until the gradients ask for them, so that the plan's
 * memory fits (recompute_budget.c). Needs the layout of the graph and what each node costs. */
#ifndef TRIAD_AUTOGRAD_PASSES_RECOMPUTE_H
#define TRIAD_AUTOGRAD_PASSES_RECOMPUTE_H

#include "autograd/passes/layout.h"

struct recompute;

/* `g`, `need`, `l` (scratch given out) and `seconds` (of each node's run) must outlive the search. Nothing is chosen yet.
 * With `reuse` layouts only. */
struct recompute *ad_recompute_begin(const struct ad_graph *g, const char *need, const struct layout *l,
                                     const double *seconds);
void ad_recompute_end(struct recompute *r);

/* Chooses anew so that the bytes alive at any time are at most `target`, at little extra time. False: none was found, and
 * what is chosen then comes as near as the search got. */
bool ad_recompute_fit(struct recompute *r, size_t target);
size_t ad_recompute_peak(const struct recompute *r); /* bytes alive at the worst time of what is chosen */

/* The graph with the chosen nodes emitted once more, each just before the first late reader of what it makes. Fused
 * programs stay in the memory of `g`. *count: nodes that run a second time. */
struct ad_graph *ad_recompute_graph(const struct recompute *r, int64_t *count);

#endif
