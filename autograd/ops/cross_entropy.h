/* What the cross-entropy ops and their kernels share. */
#ifndef TRIAD_AUTOGRAD_OPS_CROSS_ENTROPY_H
#define TRIAD_AUTOGRAD_OPS_CROSS_ENTROPY_H

#include "autograd/op.h"

struct cross_entropy_attr {
    double smoothing;
    int64_t ignore;
};

/* logits (N, C), target (N) -> loss (N), lse (N)        gradient: logits, target, lse, dy (N) -> dx (N, C) */
extern const struct ad_op ad_op_cross_entropy, ad_op_cross_entropy_grad;

/* Records the first target that is neither `ignore` nor a class. */
bool cross_entropy_targets_ok(const struct ad_call *c);

#endif
