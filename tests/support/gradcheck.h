/* The check that every op passes: its gradient, its gradient's gradient, and that every way to run it agrees.
 *
 * A case becomes a graph in f64 with loss = sum_k <w_k, out_k>, w random. Along random directions u (of all float
 * inputs together, then of each alone) the slope of the loss by differences is compared, sign included, with <grad, u>.
 * Second order: the same for h(x, w) = <grad(x, w), v>. Then the case runs in f32 and f64 by the reference executor and
 * by plans with passes on, and the results must agree; every number of an output must have been written, none beside it;
 * and each node of the op, with its f32 tensors kept in bf16 and f16, must give its definition's numbers (halfcheck.h). */
#ifndef TRIAD_TESTS_GRADCHECK_H
#define TRIAD_TESTS_GRADCHECK_H

#include "autograd/op.h"

enum { GRADCHECK_SEED = 20240617 };

/* 0, or ERR_STATE with the op, case, seed, input shapes, what was compared, both values, and the command that runs the
 * case alone (`program OP CASE SEED`). */
int gradcheck_case(const struct ad_op *op, int number, uint64_t seed, struct err *e) MUST_CHECK;
/* All cases of the op; the first failure. ERR_STATE too if it has none. */
int gradcheck_op(const struct ad_op *op, uint64_t seed, struct err *e) MUST_CHECK;

#endif
