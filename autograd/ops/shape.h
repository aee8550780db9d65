/* Attributes of concat and pad, as evals and kernels read them. */
#ifndef TRIAD_AUTOGRAD_OPS_SHAPE_H
#define TRIAD_AUTOGRAD_OPS_SHAPE_H

#include <stdint.h>

/* concat, flip */
struct ad_along_attr {
    int64_t axis;
};

struct ad_pad_attr {
    int64_t axis, before, after, step; /* element i goes to before + i * step */
    double value;
};

#endif
