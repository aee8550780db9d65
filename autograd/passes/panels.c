/* panels: a matrix of weights that many rows are multiplied by is copied once into the order in which the product's kernel
 * reads it, just before the first product that needs it so; all others find it there, whatever thread and block of rows
 * they are. Forward and backward products read the same weights in two orders, hence by panels of their own. What is read
 * again much later is copied again (recompute). Not a bit changes. */
#include <stdlib.h>
#include <string.h>

#include "autograd/internal.h"
#include "autograd/kernels/gemm.h"
#include "autograd/ops/matmul.h"
#include "autograd/ops/ops.h"
#include "autograd/plan.h"

/* A parameter, or a view of one. */
static bool is_weight(const struct ad_graph *g, val v)
{
    const struct ad_node *n = ad_node_of(g, v);
    while (n->op->view) n = ad_node_of(g, n->in[0]);
    return n->op == &ad_op_param;
}

/* Panels that there are: of val b of the new graph. */
struct kept {
    val b, panels;
    bool turned;
};
struct all_kept {
    struct kept *at;
    size_t n, cap;
};

/* Those of b for the product `user`, beside which they stand in reports. */
static val panels_of(struct ad_graph *to, struct all_kept *kept, const struct ad_node *user, val b,
                     const struct ad_factor *f)
{
    for (size_t i = 0; i < kept->n; i++)
        if (kept->at[i].b == b && kept->at[i].turned == f->turned) return kept->at[i].panels;
    struct panels_attr t = {.tb = f->turned};
    struct ad_node n = {.op = &ad_op_panels, .attr = &t, .n_in = 1, .n_out = 1, .path = user->path, .part = user->part};
    val matrix = ad_reshape(to, b, f->turned ? SHAPE(f->n, f->k) : SHAPE(f->k, f->n));
    kept->at = mem_grow(kept->at, &kept->cap, kept->n + 1, sizeof *kept->at);
    kept->at[kept->n] = (struct kept){b, ad_copy_node(to, &n, &matrix), f->turned};
    return kept->at[kept->n++].panels;
}

/* Emits the node once more, with panels if it is a product by weights that gains by them. */
static val copy_node(struct ad_graph *to, const struct ad_graph *g, const struct ad_node *n, val *in,
                     struct all_kept *kept)
{
    char attr[256] __attribute__((aligned(16)));
    struct ad_factor f;
    struct ad_node with = *n;
    if (n->op->factor) {
        CHECK(n->op->attr_size <= sizeof attr);
        memcpy(attr, n->attr, n->op->attr_size);
    }
    if (!n->op->factor || !n->op->factor(g, n, attr, &f) || ad_dtype_of(g, n->out) != AD_F32 ||
        !is_weight(g, n->in[f.input]) || !gemm_wants_panels(f.m, f.n, f.k))
        return ad_copy_node(to, n, in);
    in[with.n_in++] = panels_of(to, kept, n, in[f.input], &f);
    with.attr = attr;
    return ad_copy_node(to, &with, in);
}

struct ad_graph *ad_panels(struct ad_graph *g)
{
    struct ad_graph *to = ad_graph_new();
    char *need = ad_needed(g);
    struct all_kept kept = {0};
    val *map = mem_zero(g->n_value, sizeof *map), *in = NULL;
    for (size_t i = 1; i < g->n_node; i++) {
        const struct ad_node *n = g->node[i];
        if (!need[i]) continue;
        in = mem_resize(in, (size_t)(n->n_in + 1) * sizeof *in);
        for (int k = 0; k < n->n_in; k++) in[k] = map[n->in[k]];
        val out = copy_node(to, g, n, in, &kept);
        for (int k = 0; k < n->n_out; k++) map[n->out + k] = out + k;
    }
    ad_take_place(to, g, map);
    free(kept.at);
    free(in);
    free(map);
    free(need);
    return to;
}
