/* narrow: weights that the store keeps in bf16 (ad_store_narrow), views of them and their gradients are so in the plan too.
 * As behind autocast nothing is computed differently: what reads such a value widens it and what makes one rounds it. Runs
 * last, when every result has its node. */
#include <stdlib.h>
#include <string.h>

#include "autograd/internal.h"
#include "autograd/passes/narrow.h"

static const char gradient[] = "grad/";

/* A gradient that is a view of what nothing else reads is rounded where it is made. */
static void narrow_gradient(struct ad_graph *g, const int32_t *readers, val v)
{
    for (;;) {
        struct ad_node *n = g->node[g->value[v].node];
        n->half |= 1u << (v - n->out);
        if (!n->op->view || n->n_out != 1 || readers[n->in[0]] != 1) return;
        const struct ad_node *made = g->node[g->value[n->in[0]].node];
        if (made->op->flags & AD_LEAF || made->n_out > 32) return;
        v = n->in[0];
    }
}

void ad_keep_narrow(struct ad_graph *g, const struct ad_store *s)
{
    char *need = ad_needed(g);
    int32_t *readers = ad_readers(g, need);
    g->half = AD_BF16;
    for (size_t i = 1; i < g->n_node; i++) {
        struct ad_node *n = g->node[i];
        if (!need[i]) continue;
        const struct ad_entry *p = n->op == &ad_op_param ? ad_store_find(s, leaf(n)->name) : NULL;
        if (p && ad_is_narrow(p)) n->half = 1;
        if (n->op->view && n->n_out <= 32 && ad_is_half(ad_kept_as(g, n->in[0])))
            n->half = (uint32_t)((UINT64_C(1) << n->n_out) - 1);
    }
    for (size_t i = 0; i < g->n_output; i++) {
        const char *name = g->output[i].name;
        if (!g->output[i].to_caller || strncmp(name, gradient, strlen(gradient))) continue;
        const struct ad_entry *p = ad_store_find(s, name + strlen(gradient));
        if (p && ad_is_narrow(p)) narrow_gradient(g, readers, g->output[i].v);
    }
    free(readers);
    free(need);
}
