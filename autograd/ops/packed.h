/* Offsets of packed sequences, as evals and kernels read them. */
#ifndef TRIAD_AUTOGRAD_OPS_PACKED_H
#define TRIAD_AUTOGRAD_OPS_PACKED_H

#include "autograd/op.h"

/* Whether input k of the call is offsets that rise from 0 or more to `rows` at most. If not, the fault is recorded and
 * the op must write zeros. */
bool ad_offsets_ok(const struct ad_call *c, int k, int64_t rows);

struct ad_segment_attr {
    int64_t rows, mean; /* mean: divided by the item's length */
};

#endif
