/* applies: nodes that change a parameter where it lies (AD_APPLIES) run as soon as they may: behind all that read the
 * parameter, itself or a view of it, and behind what makes the gradient, whose memory is free from then on. Runs last of
 * the passes that move nodes, whatever order they left. */
#include <stdlib.h>

#include "autograd/internal.h"
#include "autograd/plan.h"

struct order {
    struct ad_graph *g, *to;
    const char *need;
    val *map;
    val *leaf;            /* [n_value]: the parameter that the val is, or a view of; or 0 */
    int32_t *last;        /* [n_value], of a parameter: the last node that reads it */
    int32_t *head, *next; /* [n_node]: the nodes that run behind this one; the next of those */
    val *own;             /* [n_value]: a copy of a gradient that lies in a parameter; -1: to be made; or 0 */
};

static bool applies(const struct ad_node *n)
{
    return n->op->flags & AD_APPLIES;
}

static void find_readers(struct order *o)
{
    for (size_t i = 1; i < o->g->n_node; i++) {
        const struct ad_node *n = o->g->node[i];
        if (!o->need[i] || applies(n)) continue;
        if (n->op == &ad_op_param) o->leaf[n->out] = n->out, o->last[n->out] = (int32_t)i;
        for (int k = 0; k < n->n_in; k++)
            if (o->leaf[n->in[k]]) o->last[o->leaf[n->in[k]]] = (int32_t)i;
        for (int k = 0; n->op->view && k < n->n_out; k++) o->leaf[n->out + k] = o->leaf[n->in[0]];
    }
}

/* Each behind its place, and none among what comes before the gradients: there a budget looks for what may run again. */
static void find_places(struct order *o)
{
    int32_t border = 0;
    for (size_t i = o->g->n_node - 1; i > 0; i--)
        if (o->need[i] && !applies(o->g->node[i]) && o->g->node[i]->part == AD_BACKWARD) border = (int32_t)i;
    for (size_t i = o->g->n_node - 1; i > 0; i--) {
        const struct ad_node *n = o->g->node[i];
        if (!o->need[i] || !applies(n)) continue;
        val param = o->leaf[n->in[n->n_in - 1]];
        CHECK(param);
        int32_t at = border > o->last[param] ? border : o->last[param];
        for (int k = 0; k < n->n_in - 1; k++) {
            int32_t made = o->g->value[n->in[k]].node;
            if (made > at) at = made;
        }
        o->next[i] = o->head[at];
        o->head[at] = (int32_t)i;
    }
}

static void copy_node(struct order *o, const struct ad_node *n)
{
    val *in = mem_alloc((size_t)(n->n_in + 1) * sizeof *in);
    for (int k = 0; k < n->n_in; k++) {
        bool own = applies(n) && k < n->n_in - 1 && o->own[n->in[k]];
        in[k] = own ? o->own[n->in[k]] : o->map[n->in[k]];
    }
    val v = ad_copy_node(o->to, n, in);
    for (int k = 0; k < n->n_out; k++) o->map[n->out + k] = v + k;
    free(in);
}

/* A gradient that is a parameter, or a view of one, has to be copied before anything changes that. */
static void mark_copies(struct order *o)
{
    for (size_t i = 1; i < o->g->n_node; i++) {
        const struct ad_node *n = o->g->node[i];
        for (int k = 0; o->need[i] && applies(n) && k < n->n_in - 1; k++)
            if (o->leaf[n->in[k]]) o->own[n->in[k]] = -1;
    }
}

struct ad_graph *ad_place_applies(struct ad_graph *g)
{
    bool any = false;
    for (size_t i = 1; i < g->n_node; i++) any |= applies(g->node[i]);
    if (!any || g->status.code) return g;
    struct order o = {.g = g, .to = ad_graph_new()};
    char *need = ad_needed(g);
    o.need = need;
    o.map = mem_zero(g->n_value, sizeof *o.map);
    o.leaf = mem_zero(g->n_value, sizeof *o.leaf);
    o.own = mem_zero(g->n_value, sizeof *o.own);
    o.last = mem_zero(g->n_value, sizeof *o.last);
    o.head = mem_zero(g->n_node, sizeof *o.head);
    o.next = mem_zero(g->n_node, sizeof *o.next);
    find_readers(&o);
    find_places(&o);
    mark_copies(&o);
    for (size_t i = 1; i < g->n_node; i++) {
        const struct ad_node *n = g->node[i];
        if (!need[i]) continue;
        if (!applies(n)) copy_node(&o, n);
        for (int k = 0; k < n->n_out && !applies(n); k++)
            if (o.own[n->out + k]) o.own[n->out + k] = AD_NODE(o.to, &ad_op_copy, NULL, o.map[n->out + k]);
        for (int32_t a = o.head[i]; a; a = o.next[a]) {
            copy_node(&o, g->node[a]);
            o.to->node[o.to->n_node - 1]->part = AD_BACKWARD;
        }
    }
    struct ad_graph *to = o.to;
    ad_take_place(to, g, o.map);
    free(need);
    free(o.map);
    free(o.leaf);
    free(o.own);
    free(o.last);
    free(o.head);
    free(o.next);
    return to;
}
