/* One node of a graph with some of its f32 tensors in 16 bits, as a plan runs it, against its definition in f64. */
#ifndef TRIAD_TESTS_HALFCHECK_H
#define TRIAD_TESTS_HALFCHECK_H

#include "autograd/op.h"

/* x[i] are the numbers of input i. Every float tensor in turn, all together and random choices of them lie in bf16 and in
 * f16. 0, or ERR_STATE saying which number of which output is wrong. */
int halfcheck_node(const struct ad_graph *g, const struct ad_node *n, double *const *x, uint64_t seed,
                   struct err *e) MUST_CHECK;

#endif
