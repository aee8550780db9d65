/* What shape.c, join.c and their kernels share. */
#ifndef TRIAD_AUTOGRAD_OPS_SHAPE_H
#define TRIAD_AUTOGRAD_OPS_SHAPE_H

#include "autograd/graph.h"

/* concat, flip */
struct ad_along_attr {
    int64_t axis;
};

struct ad_pad_attr {
    int64_t axis, before, after, step; /* element i goes to before + i * step */
    double value;
};

/* pad that also puts step - 1 times `value` between elements: the adjoint of a slice with that step. */
val ad_spread(struct ad_graph *g, val x, int axis, int64_t before, int64_t after, int64_t step, double value);

#endif
