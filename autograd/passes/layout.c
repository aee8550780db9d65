/* plan (memory): views where the reader can take strides, in-place results where nobody reads the input afterwards, parts
 * of a concat computed where it wants them, and one arena in which pieces whose lives do not meet share their bytes (greedy by size, lowest gap that fits). */
#include "autograd/passes/layout.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64 };

static int32_t new_root(struct layout *l, enum root_kind kind, size_t bytes, int32_t at)
{
    l->root = mem_grow(l->root, &l->cap_root, l->n_root + 1, sizeof *l->root);
    l->root[l->n_root] =
        (struct root){.kind = kind, .bytes = bytes, .first = at, .last = at, .alias = (int32_t)l->n_root};
    return (int32_t)l->n_root++;
}

int32_t ad_layout_root(const struct layout *l, int32_t r)
{
    while (l->root[r].alias != r) r = l->root[r].alias;
    return r;
}

static void place_root(struct layout *l, const struct ad_graph *g, val v, int32_t root)
{
    struct place *p = &l->place[v];
    p->root = root;
    p->t = (struct ad_tensor){.dtype = ad_kept_as(g, v), .shape = g->value[v].shape};
    ad_default_strides(&p->t);
}

static void place_leaf(struct layout *l, const struct ad_graph *g, const struct ad_node *n, int32_t at)
{
    enum root_kind kind = n->op == &ad_op_input ? ROOT_INPUT : n->op == &ad_op_param ? ROOT_PARAM : ROOT_CONST;
    int32_t r = new_root(l, kind, ad_kept_bytes(g, n->out), at);
    l->root[r].name = leaf(n)->name;
    if (kind == ROOT_CONST) l->root[r].base = (void *)(uintptr_t)leaf(n)->data;
    place_root(l, g, n->out, r);
}

/* Whether node n can read its input i as the tensor t. */
static bool takes(const struct layout *l, const struct ad_graph *g, const struct ad_node *n, int i,
                  const struct ad_tensor *t)
{
    if (n->op->flags & (AD_ELEMENTWISE | AD_STRIDED) || n->op->view) return true;
    if (!n->op->takes || n->n_in > 16) return false;
    struct ad_tensor in[16], out[8];
    for (int k = 0; k < n->n_in + n->n_out; k++) {
        val v = k < n->n_in ? n->in[k] : n->out + k - n->n_in;
        struct ad_tensor *to = k < n->n_in ? &in[k] : &out[k - n->n_in];
        *to = (struct ad_tensor){.dtype = ad_kept_as(g, v), .shape = g->value[v].shape};
        ad_default_strides(to);
        if (k < n->n_in && l->place[v].view) *to = l->place[v].t;
    }
    in[i] = *t;
    struct ad_call c = {.in = in, .out = out, .n_in = n->n_in, .n_out = n->n_out, .attr = n->attr, .op = n->op};
    return n->op->takes(&c, i);
}

/* first_reader[v] .. a linked list of (node, operand) for every val. */
struct reader {
    int32_t node, operand, next;
};

struct readers {
    int32_t *head; /* [n_value] index + 1 */
    struct reader *list;
    size_t n, cap;
};

static struct readers find_readers(const struct ad_graph *g, const char *need)
{
    struct readers r = {.head = mem_zero(g->n_value, sizeof(int32_t))};
    for (size_t i = g->n_node - 1; i > 0; i--)
        for (int k = 0; need[i] && k < g->node[i]->n_in; k++) {
            r.list = mem_grow(r.list, &r.cap, r.n + 1, sizeof *r.list);
            r.list[r.n] = (struct reader){(int32_t)i, k, r.head[g->node[i]->in[k]]};
            r.head[g->node[i]->in[k]] = (int32_t)++r.n;
        }
    return r;
}

/* Tries to lay the outputs of a view op into the memory of its input; all of them or none. */
static bool place_view(struct layout *l, const struct ad_graph *g, const struct ad_node *n, const struct readers *rd)
{
    const struct place *in = &l->place[n->in[0]];
    struct place out[8];
    for (int k = 0; k < n->n_out; k++) {
        val v = n->out + k;
        if (ad_kept_as(g, v) != in->t.dtype) return false;
        out[k] = (struct place){.root = in->root, .offset = in->offset, .view = true};
        out[k].t = (struct ad_tensor){.dtype = ad_kept_as(g, v), .shape = g->value[v].shape};
        int64_t offset = 0;
        if (!n->op->view(&in->t, n->attr, k, &out[k].t, &offset)) return false;
        out[k].offset += offset;
        if (ad_contiguous(&out[k].t)) continue;
        for (int32_t r = rd->head[v]; r; r = rd->list[r - 1].next)
            if (!takes(l, g, g->node[rd->list[r - 1].node], rd->list[r - 1].operand, &out[k].t)) return false;
    }
    for (int k = 0; k < n->n_out; k++) l->place[n->out + k] = out[k];
    l->n_views++;
    return true;
}

/* Tries to lay output k of node n, at `at`, where an op that joins it with others (concat) wants it: nothing is left to
 * copy. All that read it must take what may be columns of a wider matrix. `end`: see find_ends. */
static bool place_in_part(struct layout *l, const struct ad_graph *g, const struct ad_node *n, int32_t at, int k,
                          const struct readers *rd, const char *end)
{
    val v = n->out + k;
    int32_t r = rd->head[v];
    while (r && !g->node[rd->list[r - 1].node]->op->part) r = rd->list[r - 1].next;
    if (!r || end[v]) return false;
    const struct ad_node *c = g->node[rd->list[r - 1].node];
    if (end[c->out] || ad_kept_as(g, c->out) != ad_kept_as(g, v)) return false;
    struct ad_tensor t = {.dtype = ad_kept_as(g, c->out), .shape = g->value[c->out].shape};
    int64_t offset = 0;
    ad_default_strides(&t);
    c->op->part(g, c, rd->list[r - 1].operand, &t, &offset);
    if (ad_contiguous(&t))
        ad_default_strides(&t);
    else if (!(n->op->apart >> k & 1))
        return false;
    for (int32_t o = rd->head[v]; o && !ad_contiguous(&t); o = rd->list[o - 1].next)
        if (!takes(l, g, g->node[rd->list[o - 1].node], rd->list[o - 1].operand, &t)) return false;
    if (!l->place[c->out].root) place_root(l, g, c->out, new_root(l, ROOT_ARENA, ad_kept_bytes(g, c->out), at));
    l->place[v] = (struct place){.root = l->place[c->out].root, .offset = offset, .t = t, .view = true};
    l->n_in_place++;
    return true;
}

/* The ends of the graph must own their memory: outputs are read after the run, updates are committed then. */
static char *find_ends(const struct ad_graph *g)
{
    char *end = mem_zero(g->n_value, 1);
    for (size_t i = 0; i < g->n_output; i++) end[g->output[i].v] = g->output[i].to_caller ? 2 : 1;
    for (size_t i = 0; i < g->n_update; i++)
        if (!end[g->update[i].next]) end[g->update[i].next] = 1;
    return end;
}

static bool same_tensor(const struct place *a, const struct place *b)
{
    return a->offset == b->offset && a->t.dtype == b->t.dtype && ad_same_shape(a->t.shape, b->t.shape) &&
           !memcmp(a->t.stride, b->t.stride, (size_t)a->t.shape.rank * sizeof(int64_t));
}

/* Lets output 0 of node `at` take over the memory of an input that dies there; the last first: of a gradient dy, which its
 * kernel may be done with sooner than with x. */
static void try_in_place(struct layout *l, const struct ad_graph *g, int32_t at)
{
    const struct ad_node *n = g->node[at];
    int32_t ro = l->place[n->out].root;
    if (l->root[ro].kind != ROOT_ARENA || l->root[ro].pinned || l->place[n->out].view) return;
    for (int i = n->n_in < 32 ? n->n_in : 32; i-- > 0;) {
        if (!(n->op->flags & AD_ELEMENTWISE) && !(n->op->alias >> i & 1)) continue;
        const struct place *p = &l->place[n->in[i]];
        int32_t ri = ad_layout_root(l, p->root);
        struct root *r = &l->root[ri];
        if (r->kind != ROOT_ARENA || r->pinned || r->last != at || r->bytes != l->root[ro].bytes) continue;
        const struct ad_tensor *to = &l->place[n->out].t;
        if (p->offset || p->t.dtype != to->dtype || !ad_contiguous(&p->t) || !ad_same_shape(p->t.shape, to->shape))
            continue;
        bool clash = false;
        for (int k = 0; k < n->n_in; k++) {
            const struct place *q = &l->place[n->in[k]];
            bool may = n->op->flags & AD_ELEMENTWISE || n->op->alias >> k & 1;
            if (k != i && ad_layout_root(l, q->root) == ri && (!may || !same_tensor(p, q))) clash = true;
        }
        if (clash) continue;
        r->last = l->root[ro].last;
        l->root[ro].alias = ri;
        l->n_in_place++;
        return;
    }
}

static void find_lives(struct layout *l, const struct ad_graph *g, const char *need, const char *end)
{
    for (size_t i = 1; i < g->n_node; i++)
        for (int k = 0; need[i] && k < g->node[i]->n_in; k++)
            l->root[l->place[g->node[i]->in[k]].root].last = (int32_t)i;
    for (size_t v = 1; v < g->n_value; v++)
        if (end[v]) {
            struct root *r = &l->root[l->place[v].root];
            r->pinned = true;
            r->last = (int32_t)g->n_node;
        }
}

void ad_layout(const struct ad_graph *g, const char *need, bool reuse, struct layout *l)
{
    *l = (struct layout){.place = mem_zero(g->n_value, sizeof *l->place),
                         .scratch = mem_zero(g->n_node, sizeof *l->scratch),
                         .run = mem_zero(g->n_node, 1)};
    new_root(l, ROOT_NONE, 0, 0);
    struct readers rd = find_readers(g, need);
    char *end = find_ends(g);
    for (size_t i = 1; i < g->n_node; i++) {
        const struct ad_node *n = g->node[i];
        if (!need[i]) continue;
        if (n->op->flags & AD_LEAF) {
            place_leaf(l, g, n, (int32_t)i);
            continue;
        }
        bool ends = false;
        for (int k = 0; k < n->n_out; k++) ends |= end[n->out + k] != 0;
        if (reuse && n->op->view && !ends && n->n_out <= 8 && place_view(l, g, n, &rd)) continue;
        l->run[i] = 1;
        for (int k = 0; k < n->n_out; k++) {
            val v = n->out + k;
            if (l->place[v].root || (reuse && place_in_part(l, g, n, (int32_t)i, k, &rd, end))) continue;
            place_root(l, g, v, new_root(l, end[v] == 2 ? ROOT_CALLER : ROOT_ARENA, ad_kept_bytes(g, v), (int32_t)i));
        }
    }
    for (size_t i = 0; i < g->n_output; i++)
        if (g->output[i].to_caller) l->root[l->place[g->output[i].v].root].name = g->output[i].name;
    find_lives(l, g, need, end);
    for (size_t i = 1; reuse && i < g->n_node; i++)
        if (l->run[i]) try_in_place(l, g, (int32_t)i);
    free(end);
    free(rd.head);
    free(rd.list);
}

int32_t ad_layout_scratch(struct layout *l, size_t node, size_t bytes)
{
    return l->scratch[node] = bytes ? new_root(l, ROOT_ARENA, bytes, (int32_t)node) : 0;
}

static int by_size(const void *a, const void *b)
{
    const struct root *x = *(struct root *const *)a, *y = *(struct root *const *)b;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
    return x->first < y->first ? -1 : x->first > y->first;
}

size_t ad_layout_padded(size_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

void ad_layout_offsets(struct layout *l, bool reuse)
{
    struct root **todo = mem_alloc(l->n_root * sizeof *todo), **laid = mem_alloc(l->n_root * sizeof *laid);
    size_t n = 0, n_laid = 0;
    for (size_t i = 1; i < l->n_root; i++) {
        struct root *r = &l->root[i];
        if (r->kind != ROOT_ARENA) continue;
        l->unshared_bytes += ad_layout_padded(r->bytes);
        if (r->alias == (int32_t)i) todo[n++] = r;
    }
    qsort(todo, n, sizeof *todo, by_size);
    for (size_t i = 0; i < n; i++) {
        struct root *r = todo[i];
        size_t at = 0, k = 0, need = ad_layout_padded(r->bytes);
        for (k = 0; k < n_laid; k++) { /* laid[] is sorted by offset */
            const struct root *o = laid[k];
            if (reuse && (o->last < r->first || r->last < o->first)) continue;
            if (at + need <= o->offset) break;
            size_t stop = o->offset + ad_layout_padded(o->bytes);
            if (stop > at) at = stop;
        }
        r->offset = at;
        if (at + need > l->arena_bytes) l->arena_bytes = at + need;
        size_t pos = n_laid++;
        for (; pos > 0 && laid[pos - 1]->offset > at; pos--) laid[pos] = laid[pos - 1];
        laid[pos] = r;
    }
    free(todo);
    free(laid);
}

void ad_layout_free(struct layout *l)
{
    free(l->root);
    free(l->place);
    free(l->scratch);
    free(l->run);
}
