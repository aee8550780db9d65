/* Reverse mode: walks the graph backwards once and emits each op's vjp. Gradients are nodes like any other. */
#include "autograd/internal.h"

#include <stdlib.h>
#include <string.h>

#include "autograd/ops/ops.h"

/* Which vals depend on one of x: only through those do gradients flow. */
static char *depends_on(const struct ad_graph *g, const val *x, int n_x, size_t n_value)
{
    char *dep = mem_zero(n_value, 1);
    for (int i = 0; i < n_x; i++) dep[x[i]] = 1;
    for (size_t i = 1; i < g->n_node; i++) {
        const struct ad_node *n = g->node[i];
        char any = 0;
        for (int k = 0; k < n->n_in; k++) any |= dep[n->in[k]];
        if (any)
            for (int k = 0; k < n->n_out; k++) dep[n->out + k] = 1;
    }
    return dep;
}

static void accumulate(struct ad_graph *g, const struct ad_node *n, val *grad, int k, val d)
{
    val x = n->in[k];
    if (!ad_is_float(g->value[x].dtype)) return;
    if (!ad_same_shape(g->value[d].shape, g->value[x].shape) || g->value[d].dtype != g->value[x].dtype) {
        char a[96], b[96];
        ad_fail(g, "%s: the gradient of input %d is %s %s, the input %s %s", n->op->name, k,
                ad_shape_text(a, g->value[d].shape), ad_dtype_name(g->value[d].dtype),
                ad_shape_text(b, g->value[x].shape), ad_dtype_name(g->value[x].dtype));
        return;
    }
    grad[x] = grad[x] ? ad_add(g, grad[x], d) : d;
}

/* One node's step back. `grad` covers the vals that existed before ad_grad began. */
static void step_back(struct ad_graph *g, const struct ad_node *n, val *grad, const char *dep)
{
    bool flows = false, wanted = false;
    for (int k = 0; k < n->n_out; k++) flows |= grad[n->out + k] != 0;
    for (int k = 0; k < n->n_in; k++) wanted |= dep[n->in[k]] && ad_is_float(g->value[n->in[k]].dtype);
    if (!flows || !wanted) return;
    const char *path = g->path;
    g->path = n->path;
    if (!n->op->vjp) {
        ad_fail(g, "%s has no gradient; put ad_stop_gradient before it if none should flow", n->op->name);
    } else {
        val few[16] = {0}, *dx = n->n_in <= 16 ? few : mem_zero((size_t)n->n_in, sizeof(val));
        n->op->vjp(g, n, grad + n->out, dx);
        for (int k = 0; k < n->n_in && !g->status.code; k++)
            if (dx[k] && dep[n->in[k]]) accumulate(g, n, grad, k, dx[k]);
        if (dx != few) free(dx);
    }
    g->path = path;
}

void ad_grad(struct ad_graph *g, const val *y, const val *seeds, int n_y, const val *x, int n_x, val *dx)
{
    memset(dx, 0, (size_t)n_x * sizeof *dx);
    for (int i = 0; i < n_y; i++)
        if (!y[i]) ad_fail(g, "grad: y[%d] is poison", i);
    for (int i = 0; i < n_x; i++)
        if (!x[i]) ad_fail(g, "grad: x[%d] is poison", i);
    if (g->status.code) return;
    size_t n_value = g->n_value, n_node = g->n_node;
    enum ad_part part = g->part;
    g->part = AD_BACKWARD;
    char *dep = depends_on(g, x, n_x, n_value);
    val *grad = mem_zero(n_value, sizeof *grad);
    for (int i = 0; i < n_y && !g->status.code; i++) {
        val seed = seeds ? seeds[i] : 0;
        char text[96];
        if (!seed && ad_count(g->value[y[i]].shape) != 1)
            ad_fail(g, "grad: y[%d] is %s; without seeds it must be a scalar", i,
                    ad_shape_text(text, g->value[y[i]].shape));
        else if (seed && !ad_same_shape(g->value[seed].shape, g->value[y[i]].shape))
            ad_fail(g, "grad: seed %d has another shape than y", i);
        if (g->status.code) break;
        if (!seed) seed = ad_ones_like(g, y[i]);
        grad[y[i]] = grad[y[i]] ? ad_add(g, grad[y[i]], seed) : seed;
    }
    for (size_t i = n_node - 1; i > 0 && !g->status.code; i--) step_back(g, g->node[i], grad, dep);
    for (int i = 0; i < n_x && !g->status.code; i++) dx[i] = grad[x[i]] ? grad[x[i]] : ad_zeros_like(g, x[i]);
    g->part = part;
    free(grad);
    free(dep);
}
