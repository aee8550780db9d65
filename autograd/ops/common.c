#include "autograd/ops/common.h"

#include <string.h>

extern const struct ad_op ad_op_broadcast, ad_op_reshape;

int ad_infer_float(struct ad_infer *f)
{
    if (!ad_is_float(f->in_dtype[0]))
        return ad_infer_fail(f, "it needs f32 or f64 numbers, not %s", ad_dtype_name(f->in_dtype[0]));
    return ad_infer_elementwise(f);
}

void ad_vjp_none(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx) {}

void ad_attr_shape(struct ad_shape *to, struct ad_shape s)
{
    memset(to, 0, sizeof *to);
    to->rank = s.rank;
    for (int i = 0; i < s.rank; i++) to->dim[i] = s.dim[i];
}

bool ad_axis(struct ad_graph *g, const char *op, val v, int axis, int *out)
{
    int rank = ad_rank(g, v), k = axis < 0 ? axis + rank : axis;
    char text[96];
    if (!v) return false;
    if (k < 0 || k >= rank) {
        ad_fail(g, "%s: there is no axis %d in %s", op, axis, ad_shape_text(text, ad_shape_of(g, v)));
        return false;
    }
    *out = k;
    return true;
}

bool ad_is_full(const struct ad_graph *g, val v, double *x)
{
    while (v && (ad_node_of(g, v)->op == &ad_op_broadcast || ad_node_of(g, v)->op == &ad_op_reshape))
        v = ad_node_of(g, v)->in[0];
    return v && is_scalar_const(g, v, x);
}

val ad_add_last(struct ad_graph *g, val x)
{
    struct ad_shape s = ad_shape_of(g, x);
    if (!x) return 0;
    if (s.rank == AD_MAX_DIMS) return ad_fail(g, "there is no room for a seventh axis");
    s.dim[s.rank++] = 1;
    return ad_reshape(g, x, s);
}

double ad_flops_none(const struct ad_call *c)
{
    return 0;
}

val ad_variable(struct ad_graph *g, val x)
{
    struct ad_shape s;
    ad_attr_shape(&s, ad_shape_of(g, x));
    return AD_NODE(g, &ad_op_broadcast, &s, x);
}
