/* Small things that several op files share. */
#ifndef TRIAD_AUTOGRAD_OPS_COMMON_H
#define TRIAD_AUTOGRAD_OPS_COMMON_H

#include "autograd/internal.h"
#include "autograd/ops/ops.h"

/* The elementwise shape rule, for f32 and f64 only. */
int ad_infer_float(struct ad_infer *f);
/* The vjp of what is piecewise constant: nothing flows. */
void ad_vjp_none(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx);
/* A shape for an attribute struct: every byte is defined, since equal nodes are found by their bytes. */
void ad_attr_shape(struct ad_shape *to, struct ad_shape s);
/* The axis counted from the front. False, and a recorded failure of `op`, where `v` has no such axis or is poison. */
bool ad_axis(struct ad_graph *g, const char *op, val v, int axis, int *out);
/* Whether v is one constant number, possibly broadcast. */
bool ad_is_full(const struct ad_graph *g, val v, double *x);
/* Whether v is as its dtype says an index. */
static inline bool ad_is_int(enum ad_dtype t)
{
    return t == AD_I32 || t == AD_I64;
}
/* A scalar constant of x's dtype. */
static inline val ad_number_like(struct ad_graph *g, val x, double c)
{
    return ad_const(g, ad_dtype_of(g, x), c);
}
/* x with an axis of size 1 at the end. */
val ad_add_last(struct ad_graph *g, val x);

/* For `flops` of ops that only move numbers. */
double ad_flops_none(const struct ad_call *c);

/* The same val as a variable of its own, so that ad_grad gives partial derivatives: for gradients of gradients. */
val ad_variable(struct ad_graph *g, val x);

/* Walks all index tuples of a shape, the last axis fastest: at[] starts zeroed. */
static inline void ad_next(struct ad_shape s, int64_t *at)
{
    for (int d = s.rank - 1; d >= 0 && ++at[d] == s.dim[d]; d--) at[d] = 0;
}

/* Where element at[] of t lies. */
static inline int64_t ad_offset_of(const struct ad_tensor *t, const int64_t *at)
{
    int64_t o = 0;
    for (int d = 0; d < t->shape.rank; d++) o += at[d] * t->stride[d];
    return o;
}

#endif
