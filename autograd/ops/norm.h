/* What layer, RMS and group norm and their kernels share: each sees x as (N, S, G, K) and takes statistics over S and K.
 *   layer, rms: (rows, 1, 1, C)    group: (N, inner, groups, C/groups) */
#ifndef TRIAD_AUTOGRAD_OPS_NORM_H
#define TRIAD_AUTOGRAD_OPS_NORM_H

#include "autograd/op.h"

enum norm_kind { NORM_LAYER, NORM_RMS, NORM_GROUP };

struct norm_attr {
    double eps;
    int32_t kind, groups; /* groups: of NORM_GROUP */
    int32_t gain, bias;   /* which of them are inputs */
    int64_t residual;     /* norm_grad of NORM_LAYER and NORM_RMS: what is added to dx is the last input */
};
struct norm_dims {
    int64_t n, s, g, k, c; /* c = g k */
};
struct norm_dims norm_dims_of(struct ad_shape x, const struct norm_attr *a);

/* x, [gain], [bias] -> y, mean, var        norm_grad: x, dy, mean, var, [gain], [residual] -> dx, dgain, dbias */
extern const struct ad_op ad_op_layer_norm, ad_op_rms_norm, ad_op_group_norm, ad_op_norm_grad;

#endif
