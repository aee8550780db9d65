/* fuse: elementwise chains become one node that runs tile by tile; a product takes its bias, residual and activation,
 * a norm's gradient the residual's, with it where the op says how (`absorb`). Runs after gradients exist, so what it makes need not be differentiable. */
#include <stdlib.h>
#include <string.h>

#include "autograd/internal.h"
#include "autograd/plan.h"
#include "autograd/program.h"

/* ---- nodes that take their only reader with them ----------------------------------------------------------------- */

struct walk {
    const struct ad_graph *from;
    struct ad_graph *g;
    val *map;
    int32_t *readers;
    char *need, *end; /* end[v]: an output, a new state, or what a parameter is changed by */
    int64_t changed;
};

static struct walk walk_begin(const struct ad_graph *from)
{
    struct walk w = {
        .from = from, .g = ad_graph_new(), .map = mem_zero(from->n_value, sizeof(val)), .need = ad_needed(from)};
    w.readers = ad_readers(from, w.need);
    w.end = mem_zero(from->n_value, 1);
    for (size_t i = 0; i < from->n_output; i++) w.end[from->output[i].v] = 1;
    for (size_t i = 0; i < from->n_update; i++) w.end[from->update[i].next] = 1;
    for (size_t i = 1; i < from->n_node; i++) {
        const struct ad_node *n = from->node[i];
        for (int k = 0; n->op->flags & AD_APPLIES && k < n->n_in - 1; k++) w.end[n->in[k]] = 1;
    }
    return w;
}

static struct ad_graph *walk_end(struct walk *w)
{
    ad_copy_ends(w->g, w->from, w->map);
    if (w->from->status.code) w->g->status = w->from->status;
    free(w->map);
    free(w->need);
    free(w->end);
    free(w->readers);
    return w->g;
}

/* Emits what was left waiting under v. */
static void ensure(struct walk *w, val v);

static void copy(struct walk *w, const struct ad_node *n)
{
    val *in = mem_alloc((size_t)(n->n_in + 1) * sizeof *in);
    for (int k = 0; k < n->n_in; k++) {
        ensure(w, n->in[k]);
        in[k] = w->map[n->in[k]];
    }
    val v = ad_copy_node(w->g, n, in);
    for (int k = 0; k < n->n_out; k++) w->map[n->out + k] = v + k;
    free(in);
}

static void ensure(struct walk *w, val v)
{
    if (!w->map[v]) copy(w, ad_node_of(w->from, v));
}

/* A node whose first output has one reader waits for it: it may be an elementwise node that can be taken in. What is a
 * result (a weight's gradient) does not wait: it would keep its inputs alive to the end. */
static bool waits(const struct walk *w, const struct ad_node *n)
{
    return n->op->absorb && w->readers[n->out] == 1 && !w->end[n->out];
}

static bool absorb(struct walk *w, const struct ad_node *user)
{
    if (!(user->op->flags & AD_ELEMENTWISE) || user->n_in < 1 || user->n_in > 2) return false;
    for (int k = 0; k < user->n_in; k++) {
        const struct ad_node *p = ad_node_of(w->from, user->in[k]);
        if (!waits(w, p) || w->map[p->out]) continue;
        if (!ad_same_shape(w->from->value[p->out].shape, w->from->value[user->out].shape)) continue;
        val other = 0, in[8];
        CHECK(p->n_in <= 8);
        if (user->n_in == 2) {
            ensure(w, user->in[1 - k]);
            other = w->map[user->in[1 - k]];
        }
        for (int i = 0; i < p->n_in; i++) {
            ensure(w, p->in[i]);
            in[i] = w->map[p->in[i]];
        }
        const char *path = w->g->path;
        w->g->path = arena_strdup(&w->g->mem, p->path);
        w->g->part = user->part; /* it runs where the user stood */
        val v = p->op->absorb(w->g, p, in, user->op, k, other);
        w->g->path = path;
        if (!v) continue;
        w->map[user->out] = v;
        for (int i = 1; i < p->n_out; i++) w->map[p->out + i] = v + i;
        w->changed++;
        return true;
    }
    return false;
}

static struct ad_graph *absorb_pass(const struct ad_graph *from, int64_t *changed)
{
    struct walk w = walk_begin(from);
    for (size_t i = 1; i < from->n_node; i++) {
        const struct ad_node *n = from->node[i];
        if (w.need[i] && !waits(&w, n) && !absorb(&w, n)) copy(&w, n);
    }
    for (size_t i = 0; i < from->n_output; i++) ensure(&w, from->output[i].v);
    for (size_t i = 0; i < from->n_update; i++) ensure(&w, from->update[i].next);
    *changed = w.changed;
    return walk_end(&w);
}

/* ---- elementwise chains ------------------------------------------------------------------------------------------ */

struct group {
    int32_t lines, inputs;
    val input[PROGRAM_INPUTS];
};

static bool can_fuse(const struct ad_graph *g, const struct ad_node *n)
{
    if (!(n->op->flags & AD_ELEMENTWISE) || n->op->flags & AD_RANDOM || n->n_in > 3 || n->op == &ad_op_fused)
        return false;
    enum ad_dtype t = g->value[n->out].dtype;
    if (!ad_is_float(t)) return false;
    for (int k = 0; k < n->n_in; k++)
        if (g->value[n->in[k]].dtype != t) return false;
    return true;
}

static bool add_input(struct group *gr, val v)
{
    for (int i = 0; i < gr->inputs; i++)
        if (gr->input[i] == v) return true;
    if (gr->inputs == PROGRAM_INPUTS) return false;
    gr->input[gr->inputs++] = v;
    return true;
}

/* Takes producer p into the group: p's output is no input any more, p's inputs are. */
static bool join(struct group *gr, const struct ad_node *p)
{
    struct group next = {.lines = gr->lines + 1};
    if (next.lines > PROGRAM_LINES) return false;
    for (int i = 0; i < gr->inputs; i++)
        if (gr->input[i] != p->out && !add_input(&next, gr->input[i])) return false;
    for (int k = 0; k < p->n_in; k++)
        if (!add_input(&next, p->in[k])) return false;
    *gr = next;
    return true;
}

/* root[node]: the last node of the chain that the node belongs to (itself if alone). */
static int32_t *find_groups(const struct ad_graph *g, const char *need, struct group *group)
{
    int32_t *root = mem_zero(g->n_node, sizeof *root);
    int32_t *reader =
        mem_zero(g->n_value, sizeof *reader); /* the one group that reads the val; -1: several or an end */
    for (size_t i = 0; i < g->n_output; i++) reader[g->output[i].v] = -1;
    for (size_t i = 0; i < g->n_update; i++) reader[g->update[i].next] = -1;
    for (size_t i = g->n_node - 1; i > 0; i--) {
        const struct ad_node *n = g->node[i];
        root[i] = (int32_t)i;
        if (!need[i]) continue;
        if (can_fuse(g, n)) {
            int32_t r = reader[n->out];
            bool joined = r > 0 && can_fuse(g, g->node[r]) &&
                          g->value[n->out].dtype == g->value[g->node[r]->out].dtype &&
                          ad_same_shape(g->value[n->out].shape, g->value[g->node[r]->out].shape) && join(&group[r], n);
            if (joined) {
                root[i] = r;
            } else {
                group[i].lines = 1;
                for (int k = 0; k < n->n_in; k++) add_input(&group[i], n->in[k]);
            }
        }
        for (int k = 0; k < n->n_in; k++)
            reader[n->in[k]] = reader[n->in[k]] == 0 || reader[n->in[k]] == root[i] ? root[i] : -1;
    }
    free(reader);
    return root;
}

static val emit_group(struct walk *w, const int32_t *root, const struct group *gr, size_t last)
{
    struct ad_program *p = arena_alloc(&w->g->mem, sizeof *p);
    p->n_in = gr->inputs;
    val in[PROGRAM_INPUTS], lines[PROGRAM_LINES];
    for (int i = 0; i < gr->inputs; i++) in[i] = w->map[gr->input[i]];
    for (size_t i = 1; i <= last; i++) {
        const struct ad_node *n = w->from->node[i];
        if (root[i] != (int32_t)last || !w->need[i]) continue;
        struct ad_line *l = &p->line[p->n_lines];
        l->op = n->op;
        l->n_src = n->n_in;
        if (n->op->attr_size) l->attr = memcpy(arena_alloc(&w->g->mem, n->op->attr_size), n->attr, n->op->attr_size);
        for (int k = 0; k < n->n_in; k++) {
            int32_t r = 0;
            while (r < gr->inputs && gr->input[r] != n->in[k]) r++;
            if (r == gr->inputs)
                while (lines[r - gr->inputs] != n->in[k]) r++;
            l->src[k] = r;
        }
        lines[p->n_lines++] = n->out;
    }
    struct ad_fused_attr a = {p};
    const char *path = w->g->path;
    w->g->path = arena_strdup(&w->g->mem, w->from->node[last]->path);
    w->g->part = w->from->node[last]->part;
    val v = ad_node(w->g, &ad_op_fused, &a, in, gr->inputs);
    w->g->path = path;
    return v;
}

static struct ad_graph *chain_pass(const struct ad_graph *from)
{
    struct walk w = walk_begin(from);
    struct group *group = mem_zero(from->n_node, sizeof *group);
    int32_t *root = find_groups(from, w.need, group);
    for (size_t i = 1; i < from->n_node; i++) {
        if (!w.need[i] || root[i] != (int32_t)i) continue;
        if (group[i].lines > 1)
            w.map[from->node[i]->out] = emit_group(&w, root, &group[i], i);
        else
            copy(&w, from->node[i]);
    }
    free(root);
    free(group);
    return walk_end(&w);
}

struct ad_graph *ad_fuse(const struct ad_graph *from)
{
    int64_t changed = 1;
    struct ad_graph *g = absorb_pass(from, &changed);
    for (int round = 0; round < 2 && changed; round++) {
        struct ad_graph *next = absorb_pass(g, &changed);
        ad_graph_free(g);
        g = next;
    }
    struct ad_graph *out = chain_pass(g);
    ad_graph_free(g);
    return out;
}
