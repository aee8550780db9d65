/* Linear maps of an image that work along height and width apart: average pooling and resizing. */
#ifndef TRIAD_AUTOGRAD_OPS_RESAMPLE_H
#define TRIAD_AUTOGRAD_OPS_RESAMPLE_H

#include "autograd/op.h"

enum resample_kind { RESAMPLE_AVERAGE, RESAMPLE_ADAPTIVE, RESAMPLE_NEAREST, RESAMPLE_BILINEAR };

struct resample_attr {
    int64_t in[2], out[2];                                 /* height and width of x and y */
    int32_t kernel[2], stride[2], pad[2], count_pad, kind; /* all but kind are of RESAMPLE_AVERAGE */
};

/* Row i of y along `axis` is `first` times row lo of x plus `rest` times each of rows lo+1 .. lo+n-1. */
struct resample_tap {
    int64_t lo, n;
    double first, rest;
};
struct resample_tap resample_tap(const struct resample_attr *a, int axis, int64_t i);

/* y = R x and x' = R' y: each is the other's gradient. `a` must be zero-initialised; in and out are filled here. */
val ad_resample(struct ad_graph *g, val x, struct resample_attr a, int64_t h, int64_t w);

extern const struct ad_op ad_op_resample, ad_op_resample_adjoint;

#endif
