/* simplify: drops nodes nobody needs, merges equal ones, computes what is constant, asks ops for identities. */
#include <stdlib.h>
#include <string.h>

#include "autograd/internal.h"
#include "autograd/plan.h"
#include "base/rng.h"

enum { FOLD_MAX = 1024 }; /* elements: larger constants would cost more memory than they save time */

struct table {
    val *slot; /* first output of a node of the new graph */
    size_t n, used;
};

static uint64_t hash_node(const struct ad_node *n, const struct ad_value *out)
{
    uint64_t h = hash_bytes(&n->op, sizeof n->op, HASH_START);
    if (n->op == &ad_op_const) {
        h = hash_bytes(leaf(n)->data, leaf(n)->bytes, h);
        return hash_bytes(&out->shape.rank, sizeof out->shape.rank, h);
    }
    h = hash_bytes(n->in, (size_t)n->n_in * sizeof *n->in, h);
    return n->op->attr_size ? hash_bytes(n->attr, n->op->attr_size, h) : h;
}

static bool same_node(const struct ad_graph *g, const struct ad_node *a, const struct ad_node *b)
{
    if (a->op != b->op || a->n_in != b->n_in) return false;
    if (a->op == &ad_op_const)
        return leaf(a)->bytes == leaf(b)->bytes && g->value[a->out].dtype == g->value[b->out].dtype &&
               ad_same_shape(g->value[a->out].shape, g->value[b->out].shape) &&
               !memcmp(leaf(a)->data, leaf(b)->data, leaf(a)->bytes);
    if (a->op->flags & AD_LEAF) return !strcmp(leaf(a)->name, leaf(b)->name);
    if (a->n_in && memcmp(a->in, b->in, (size_t)a->n_in * sizeof *a->in)) return false;
    return !a->op->attr_size || !memcmp(a->attr, b->attr, a->op->attr_size);
}

/* The node that equals the graph's newest one, which is then taken back, or the newest itself. */
static val share(struct ad_graph *g, struct table *t, val v)
{
    const struct ad_node *n = ad_node_of(g, v);
    if (n->op == &ad_op_input || n->op == &ad_op_param || g->node[g->n_node - 1] != n) return v;
    size_t i = hash_node(n, &g->value[v]) & (t->n - 1);
    for (; t->slot[i]; i = (i + 1) & (t->n - 1)) {
        const struct ad_node *old = ad_node_of(g, t->slot[i]);
        if (old == n) return v;
        if (!same_node(g, old, n)) continue;
        g->n_node--;
        g->n_value -= (size_t)n->n_out;
        return old->out;
    }
    t->slot[i] = v;
    return v;
}

/* Computes a node whose inputs are all constants; returns the constant or 0. */
static val fold(struct ad_graph *g, const struct ad_graph *from, const struct ad_node *n, const val *in)
{
    if (n->n_in == 0 || n->n_in > 16 || n->n_out != 1 || n->op->flags & AD_RANDOM || !(n->op->eval || n->op->scalar))
        return 0;
    struct ad_tensor t[17];
    for (int i = 0; i <= n->n_in; i++) {
        const struct ad_value *x = i < n->n_in ? &g->value[in[i]] : &from->value[n->out];
        if (ad_count(x->shape) > FOLD_MAX) return 0;
        if (i < n->n_in && ad_node_of(g, in[i])->op != &ad_op_const) return 0;
        if (i < n->n_in && n->op->view && ad_count(x->shape) < ad_count(from->value[n->out].shape))
            return 0; /* a broadcast: free as a view */
        t[i] = (struct ad_tensor){.dtype = x->dtype, .shape = x->shape};
        if (i < n->n_in) t[i].data = (void *)(uintptr_t)leaf(ad_node_of(g, in[i]))->data;
        ad_default_strides(&t[i]);
    }
    double room[FOLD_MAX];
    struct err fault = {0};
    struct ad_tensor *out = &t[n->n_in];
    out->data = room;
    struct ad_call c = {
        .in = t, .out = out, .n_in = n->n_in, .n_out = 1, .attr = n->attr, .op = n->op, .fault = &fault};
    size_t scratch = n->op->scratch ? n->op->scratch(&c) : 0;
    c.scratch = scratch ? mem_alloc(scratch) : NULL;
    if (n->op->eval)
        n->op->eval(&c);
    else
        ad_eval_elementwise(&c);
    free(c.scratch);
    return fault.code ? 0 : ad_const_data(g, out->dtype, out->shape, room);
}

struct ad_graph *ad_simplify(const struct ad_graph *from)
{
    struct ad_graph *g = ad_graph_new();
    val *map = mem_zero(from->n_value, sizeof *map);
    char *need = ad_needed(from);
    struct table t = {.n = 64};
    while (t.n < from->n_node * 4) t.n *= 2;
    t.slot = mem_zero(t.n, sizeof *t.slot);
    val few[64], *many = NULL;
    for (size_t i = 1; i < from->n_node; i++) {
        const struct ad_node *n = from->node[i];
        if (!need[i]) continue;
        val *in = n->n_in <= 64 ? few : (many = mem_resize(many, (size_t)n->n_in * sizeof *in));
        for (int k = 0; k < n->n_in; k++) in[k] = map[n->in[k]];
        g->part = n->part;
        val v = n->op->simplify ? n->op->simplify(g, n, in) : 0;
        if (!v) v = fold(g, from, n, in);
        if (!v) v = ad_copy_node(g, n, in);
        v = share(g, &t, v);
        for (int k = 0; k < n->n_out; k++) map[n->out + k] = v + k;
    }
    ad_copy_ends(g, from, map);
    if (from->status.code) g->status = from->status;
    free(many);
    free(t.slot);
    free(need);
    free(map);
    return g;
}
