/* panels: a matrix of weights that many rows are multiplied by is copied once into the order in which the product's kernel
 * reads it, just before the first product that needs it so; all others find it there, whatever thread and block of rows
 * they are. Forward and backward products read the same weights in two orders, hence by panels of their own. What is read
 * again much later is copied again (recompute). Not a bit changes. */
#include <stdlib.h>
#include <string.h>

#include "autograd/internal.h"
#include "autograd/kernels/gemm.h"
#include "autograd/ops/common.h"
#include "autograd/ops/matmul.h"
#include "autograd/plan.h"

/* A parameter, or a view of one. */
static bool is_weight(const struct ad_graph *g, val v)
{
    const struct ad_node *n = ad_node_of(g, v);
    while (n->op->view) n = ad_node_of(g, n->in[0]);
    return n->op == &ad_op_param;
}

static bool wants_panels(const struct ad_graph *g, const struct ad_node *n)
{
    const struct matmul_attr *t = n->attr;
    if (n->op != &ad_op_matmul || ad_dtype_of(g, n->out) != AD_F32 || !is_weight(g, n->in[1])) return false;
    struct ad_shape b = ad_shape_of(g, n->in[1]), y = ad_shape_of(g, n->out);
    int64_t width = y.dim[y.rank - 1], count = ad_count(y);
    return b.rank == 2 && count && gemm_wants_panels(count / width, width, b.dim[t->tb ? 1 : 0]);
}

/* Panels that there are: of val b of the new graph. */
struct kept {
    val b, panels;
    int32_t tb;
};
struct all_kept {
    struct kept *at;
    size_t n, cap;
};

/* For the product `user`, beside which they stand in reports. */
static val panels_of(struct ad_graph *to, struct all_kept *kept, const struct ad_node *user, val b, int32_t tb)
{
    for (size_t i = 0; i < kept->n; i++)
        if (kept->at[i].b == b && kept->at[i].tb == tb) return kept->at[i].panels;
    struct panels_attr t = {.tb = tb};
    struct ad_node n = {.op = &ad_op_panels, .attr = &t, .n_in = 1, .n_out = 1, .path = user->path, .part = user->part};
    kept->at = mem_grow(kept->at, &kept->cap, kept->n + 1, sizeof *kept->at);
    kept->at[kept->n] = (struct kept){b, ad_copy_node(to, &n, &b), tb};
    return kept->at[kept->n++].panels;
}

/* Emits the product once more, with panels. */
static val with_panels(struct ad_graph *to, const struct ad_node *n, const val *in, struct all_kept *kept)
{
    struct matmul_attr t;
    val more[5];
    memcpy(&t, n->attr, sizeof t);
    memcpy(more, in, (size_t)n->n_in * sizeof *in);
    more[n->n_in] = panels_of(to, kept, n, in[1], t.tb);
    t.panels = 1;
    struct ad_node with = *n;
    with.attr = &t;
    with.in = more;
    with.n_in = n->n_in + 1;
    return ad_copy_node(to, &with, more);
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
        val out = wants_panels(g, n) ? with_panels(to, n, in, &kept) : ad_copy_node(to, n, in);
        for (int k = 0; k < n->n_out; k++) map[n->out + k] = out + k;
    }
    ad_copy_ends(to, g, map);
    if (g->status.code) to->status = g->status;
    free(kept.at);
    free(in);
    free(map);
    free(need);
    arena_join(&to->mem, &g->mem); /* fused programs lie there */
    ad_graph_free(g);
    return to;
}
