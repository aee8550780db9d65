/* What the convolution ops and their kernels share. One form joins the three tensors:
 *   sum over n, i, j, u, v, c, f of  x[n, i sh - ph + u dh, j sw - pw + v dw, c]  w[u, v, c mod C/groups, f]  y[n, i,
 * j, f] with c and f in the same group; each op gives the derivative by one tensor. */
#ifndef TRIAD_AUTOGRAD_OPS_CONV_H
#define TRIAD_AUTOGRAD_OPS_CONV_H

#include "autograd/op.h"

struct conv_attr {
    int32_t stride[2], pad[2], dilation[2], groups;
    int32_t out_pad[2]; /* conv2d_transpose only */
    int32_t kernel[2];  /* conv2d_dw only */
    int32_t panels;     /* the last input is the weights' panels (passes/panels.c): eval does not read them */
};

struct conv_dims {
    int64_t n, h[2], c, out[2], f, k[2]; /* x (n, h[0], h[1], c), y (n, out[0], out[1], f), w (k[0], k[1], cg, f) */
    int64_t stride[2], pad[2], dilation[2], groups, cg, fg;
};

/* Where x, w, y and w's panels, if there are any, are in the call. */
struct conv_call {
    const struct ad_tensor *x, *w, *y, *panels;
    struct conv_dims d;
};
struct conv_call conv_call_of(const struct ad_call *c);
bool conv_is_pointwise(const struct conv_dims *d); /* 1 x 1 without a stride: a plain product of x's pixels */

extern const struct ad_op ad_op_conv2d, ad_op_conv2d_transpose, ad_op_conv2d_dw;

#endif
