/* recompute: what one cheap pass over its input gives (an activation, a layer norm) is not kept from the forward part to
 * the gradients, where its input is kept anyway: it is computed again just before its late readers. Same kernel, same
 * input: not a bit changes, and memory at the peak shrinks by what was kept twice. */
#include <stdlib.h>
#include <string.h>

#include "autograd/internal.h"
#include "autograd/plan.h"

/* Nodes between two readers from which on it pays to let go, and bytes below which it does not. */
enum { FAR = 24, MIN_BYTES = 4096 };

static bool cheap(const struct ad_node *n)
{
    return n->op->flags & AD_CHEAP || (n->op->flags & AD_ELEMENTWISE && !(n->op->flags & AD_RANDOM) && n->n_in == 1);
}

/* The last needed node that reads each val; ends are read behind the last node. The caller frees. */
static int32_t *last_readers(const struct ad_graph *g, const char *need)
{
    int32_t *last = mem_zero(g->n_value, sizeof *last);
    for (size_t i = 1; i < g->n_node; i++)
        for (int k = 0; need[i] && k < g->node[i]->n_in; k++) last[g->node[i]->in[k]] = (int32_t)i;
    for (size_t i = 0; i < g->n_output; i++) last[g->output[i].v] = (int32_t)g->n_node;
    for (size_t i = 0; i < g->n_update; i++) last[g->update[i].next] = (int32_t)g->n_node;
    return last;
}

/* far[v]: the first reader behind the widest gap between two readers of v (or between v and its first), if that gap is
 * at least FAR wide; 0 otherwise. The caller frees. */
static int32_t *far_readers(const struct ad_graph *g, const char *need)
{
    int32_t *far = mem_zero(g->n_value, sizeof *far), *gap = mem_zero(g->n_value, sizeof *gap),
            *before = mem_zero(g->n_value, sizeof *before);
    for (size_t v = 1; v < g->n_value; v++) before[v] = g->value[v].node, gap[v] = FAR - 1;
    for (size_t i = 1; i < g->n_node; i++)
        for (int k = 0; need[i] && k < g->node[i]->n_in; k++) {
            val v = g->node[i]->in[k];
            int32_t wide = (int32_t)i - before[v];
            if (wide > gap[v]) gap[v] = wide, far[v] = (int32_t)i;
            before[v] = (int32_t)i;
        }
    free(gap);
    free(before);
    return far;
}

static bool inputs_live(const struct ad_graph *g, const struct ad_node *n, const int32_t *last, int32_t until)
{
    for (int k = 0; k < n->n_in; k++)
        if (!(ad_node_of(g, n->in[k])->op->flags & AD_LEAF) && last[n->in[k]] < until) return false;
    return true;
}

/* Leaves in far[] what is computed again: output 0 of cheap nodes of some size, whose inputs live until then. An input
 * that is itself let go does not. */
static int64_t choose(const struct ad_graph *g, const char *need, int32_t *far)
{
    int32_t *last = last_readers(g, need);
    int64_t chosen = 0;
    for (size_t i = 1; i < g->n_node; i++) {
        const struct ad_node *n = g->node[i];
        for (int k = 0; k < n->n_out; k++) {
            val v = n->out + k;
            if (!far[v]) continue;
            size_t bytes = ad_kept_bytes(g, v);
            bool ends = last[v] == (int32_t)g->n_node;
            if (k > 0 || !need[i] || ends || !cheap(n) || bytes < MIN_BYTES || !inputs_live(g, n, last, far[v])) {
                far[v] = 0;
                continue;
            }
            last[v] = far[v] - 1; /* the copy stands for it from there on */
            chosen++;
        }
    }
    free(last);
    return chosen;
}

static void copy_node(struct ad_graph *to, const struct ad_graph *g, const struct ad_node *n, const val *map)
{
    val *in = mem_alloc((size_t)(n->n_in + 1) * sizeof *in);
    for (int k = 0; k < n->n_in; k++) in[k] = map[n->in[k]];
    ad_copy_node(to, n, in);
    free(in);
}

struct ad_graph *ad_recompute(struct ad_graph *g, int64_t *count)
{
    struct ad_graph *to = ad_graph_new();
    char *need = ad_needed(g);
    int32_t *far = far_readers(g, need);
    val *map = mem_zero(g->n_value, sizeof *map);
    *count = choose(g, need, far);
    for (size_t i = 1; i < g->n_node; i++) {
        const struct ad_node *n = g->node[i];
        if (!need[i]) continue;
        for (int k = 0; k < n->n_in; k++) {
            val v = n->in[k];
            if (far[v] != (int32_t)i) continue;
            far[v] = 0; /* an input may be read twice by one node */
            val again = (val)to->n_value;
            copy_node(to, g, ad_node_of(g, v), map);
            to->node[to->n_node - 1]->part = AD_AGAIN;
            map[v] = again;
        }
        val out = (val)to->n_value;
        copy_node(to, g, n, map);
        for (int k = 0; k < n->n_out; k++) map[n->out + k] = out + k;
    }
    ad_take_place(to, g, map);
    free(map);
    free(far);
    free(need);
    return to;
}
