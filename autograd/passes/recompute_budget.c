/* recompute by budget: lets values of the forward part go and computes them again, by the nodes that made them, when the
 * gradients ask for them. A node that is chosen runs a second time just before the first late reader of its outputs; what
 * it reads is kept until then, or computed again just before it, and so on down to what is kept: a chain of chosen nodes
 * is a checkpointed segment (Chen et al. 2016, arXiv 1604.06174), found from the graph instead of marked by hand. No node
 * runs more than twice. Same kernels, same inputs, random bits that follow from (seed, step, place): not a bit changes.
 *
 * The search is greedy. It holds the true profile of bytes alive over time, as the layout counts them, looks at the worst
 * time, and of all nodes whose outputs only lie there to be read later takes the one that frees the most bytes a second
 * of extra work, with all that must run before it. A choice that would lift another time above the target is refused, so
 * segments grow only as far as the target lets them. At last what turned out not to be necessary is taken back. */
#include "autograd/passes/recompute.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { NEVER = INT32_MAX, MOST_STEPS = 6000, MOST_CHAIN = 256 };

struct life {
    int32_t first, last; /* times; first > last: never there */
};

/* A node's input: who made it, and the piece of memory that it lies in. */
struct edge {
    int32_t maker, root;
};

struct recompute {
    const struct ad_graph *g;
    const char *need;
    const struct layout *l;
    const double *seconds;
    int32_t border; /* the first node of the gradients: what reads from there on reads late */
    /* The graph once more, close together: the profile is asked for a thousand times. */
    char *view;              /* [n_node] lies in its input's memory: nothing runs */
    int32_t *in_at, *out_at; /* [n_node + 1] where a node's inputs and outputs begin in: */
    struct edge *in;
    int32_t *out;        /* pieces; a node's scratch is the last of its outputs */
    char *chosen;        /* [n_node] runs a second time if it is asked for */
    char *fixed;         /* [n_node] may not: leaves, results, what is not needed */
    int32_t *read_late;  /* [n_node] the first late reader among the nodes, NEVER */
    int64_t *size;       /* [n_root] bytes of a piece of the arena; 0: it lies elsewhere */
    int32_t *root_early; /* [n_root] the last node before the border that touches it */
    /* Of what is chosen now: */
    int32_t *due;                    /* [n_node] the node before which its outputs are asked for again, NEVER */
    char *again;                     /* [n_node] its outputs exist a second time */
    int32_t *time, *time_copy;       /* [n_node] when it runs */
    struct life *life, *life_copy;   /* [n_root] */
    int64_t *bytes;                  /* [n_time] alive */
    int32_t n_time, peak, peak_node; /* the worst time, and the node that runs then or next */
    int64_t *worst;                  /* [n_node] the most bytes while it runs and what is computed again before it */
    /* Room: */
    int64_t *worst_before;
    char *chain_mark;
    int32_t *chain;
    int32_t n_chain;
    int32_t *tabu;
};

static int32_t maker(const struct recompute *r, val v)
{
    return r->g->value[v].node;
}

/* ---- what holds for every choice --------------------------------------------------------------------------------- */

static void find_edges(struct recompute *r)
{
    const struct ad_graph *g = r->g;
    size_t n_in = 0, n_out = 0, cap_in = 0, cap_out = 0;
    for (size_t i = 0; i < g->n_node; i++) {
        const struct ad_node *n = g->node[i];
        r->in_at[i] = (int32_t)n_in;
        r->out_at[i] = (int32_t)n_out;
        if (i && r->need[i]) {
            r->view[i] = n->op->view && !r->l->run[i];
            r->in = mem_grow(r->in, &cap_in, n_in + (size_t)n->n_in + 1, sizeof *r->in);
            r->out = mem_grow(r->out, &cap_out, n_out + (size_t)n->n_out + 2, sizeof *r->out);
            for (int k = 0; k < n->n_in; k++)
                r->in[n_in++] = (struct edge){maker(r, n->in[k]), r->l->place[n->in[k]].root};
            for (int k = 0; k < n->n_out; k++) r->out[n_out++] = r->l->place[n->out + k].root;
            if (r->l->scratch[i]) r->out[n_out++] = r->l->scratch[i];
        }
    }
    r->in_at[g->n_node] = (int32_t)n_in;
    r->out_at[g->n_node] = (int32_t)n_out;
}

static void find_fixed(struct recompute *r)
{
    const struct ad_graph *g = r->g;
    for (size_t i = 1; i < g->n_node; i++)
        r->fixed[i] = !r->need[i] || g->node[i]->op->flags & AD_LEAF || (int32_t)i >= r->border;
    for (size_t i = 0; i < g->n_output; i++) r->fixed[maker(r, g->output[i].v)] = 1;
    for (size_t i = 0; i < g->n_update; i++) r->fixed[maker(r, g->update[i].next)] = 1;
}

static void find_late_readers(struct recompute *r)
{
    const struct ad_graph *g = r->g;
    for (size_t i = 0; i < g->n_node; i++) r->read_late[i] = NEVER;
    for (int32_t i = (int32_t)g->n_node - 1; i >= r->border; i--)
        for (int k = 0; r->need[i] && k < g->node[i]->n_in; k++) r->read_late[maker(r, g->node[i]->in[k])] = i;
    for (int32_t i = 1; i < r->border; i++) {
        const struct ad_node *n = g->node[i];
        for (int k = 0; r->need[i] && k < n->n_in + n->n_out; k++)
            r->root_early[r->l->place[k < n->n_in ? n->in[k] : n->out + k - n->n_in].root] = i;
    }
}

struct recompute *ad_recompute_begin(const struct ad_graph *g, const char *need, const struct layout *l,
                                     const double *seconds)
{
    struct recompute *r = mem_zero(1, sizeof *r);
    r->g = g;
    r->need = need;
    r->l = l;
    r->seconds = seconds;
    for (r->border = 1; (size_t)r->border < g->n_node; r->border++)
        if (need[r->border] && l->run[r->border] && g->node[r->border]->part == AD_BACKWARD) break;
    size_t n = g->n_node;
    r->chosen = mem_zero(n, 1);
    r->fixed = mem_zero(n, 1);
    r->again = mem_zero(n, 1);
    r->chain_mark = mem_zero(n, 1);
    r->read_late = mem_zero(n, sizeof(int32_t));
    r->due = mem_zero(n, sizeof(int32_t));
    r->time = mem_zero(n + 1, sizeof(int32_t));
    r->time_copy = mem_zero(n + 1, sizeof(int32_t));
    r->tabu = mem_zero(n, sizeof(int32_t));
    r->chain = mem_zero(n, sizeof(int32_t));
    r->worst = mem_zero(n, sizeof(int64_t));
    r->worst_before = mem_zero(n, sizeof(int64_t));
    r->bytes = mem_zero(2 * n + 4, sizeof(int64_t));
    r->root_early = mem_zero(l->n_root, sizeof(int32_t));
    r->life = mem_zero(l->n_root, sizeof(struct life));
    r->life_copy = mem_zero(l->n_root, sizeof(struct life));
    r->view = mem_zero(n, 1);
    r->in_at = mem_zero(n + 1, sizeof(int32_t));
    r->out_at = mem_zero(n + 1, sizeof(int32_t));
    r->size = mem_zero(l->n_root, sizeof(int64_t));
    for (size_t i = 1; i < l->n_root; i++)
        if (l->root[i].kind == ROOT_ARENA) r->size[i] = (int64_t)ad_layout_padded(l->root[i].bytes);
    find_edges(r);
    find_fixed(r);
    find_late_readers(r);
    return r;
}

void ad_recompute_end(struct recompute *r)
{
    void *all[] = {r->view,       r->in_at,        r->out_at,     r->in,   r->out,       r->chosen, r->fixed, r->again,
                   r->chain_mark, r->read_late,    r->due,        r->time, r->time_copy, r->tabu,   r->chain, r->worst,
                   r->bytes,      r->worst_before, r->root_early, r->life, r->life_copy, r->size,   r};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

/* ---- the profile of a choice ------------------------------------------------------------------------------------- */

static void ask(int32_t *due, int32_t when)
{
    if (when < *due) *due = when;
}

/* When each node's outputs are first asked for late, and which nodes therefore run again. */
static void find_due(struct recompute *r)
{
    memcpy(r->due, r->read_late, r->g->n_node * sizeof *r->due);
    for (int32_t i = r->border - 1; i > 0; i--) {
        if (r->due[i] == NEVER || !(r->chosen[i] || r->view[i])) continue;
        for (int32_t k = r->in_at[i]; k < r->in_at[i + 1]; k++) ask(&r->due[r->in[k].maker], r->due[i]);
    }
    for (int32_t i = 1; i < r->border; i++)
        r->again[i] = r->due[i] != NEVER && (r->chosen[i] || (r->view[i] && r->again[r->in[r->in_at[i]].maker]));
}

/* Nodes run in their order; copies in theirs, just before the node that asks. */
static void find_times(struct recompute *r)
{
    int32_t n = (int32_t)r->g->n_node, t = 0;
    memset(r->time_copy, 0, (size_t)n * sizeof *r->time_copy);
    for (int32_t i = 1; i < r->border; i++)
        if (r->again[i] && !r->view[i]) r->time_copy[r->due[i]]++; /* counts, for now */
    for (int32_t i = 1; i < n; i++) {
        t += r->time_copy[i] + 1;
        r->time[i] = t;
    }
    r->n_time = t + 1;
    /* due[] is behind the border, and what is copied before it: a count is read before its place is overwritten. */
    int32_t *next = r->chain; /* free now */
    for (int32_t i = r->border; i < n; i++) next[i] = r->time[i] - r->time_copy[i];
    for (int32_t i = 1; i < r->border; i++)
        if (r->again[i] && !r->view[i]) r->time_copy[i] = next[r->due[i]]++;
}

static void touch(struct life *l, int32_t time)
{
    if (time < l->first) l->first = time;
    if (time > l->last) l->last = time;
}

static void touch_inputs(struct recompute *r, int32_t i, int32_t time, bool late)
{
    for (int32_t k = r->in_at[i]; k < r->in_at[i + 1]; k++) {
        struct edge e = r->in[k];
        touch(late && r->again[e.maker] ? &r->life_copy[e.root] : &r->life[e.root], time);
    }
}

static void touch_outputs(const struct recompute *r, int32_t i, struct life *life, int32_t time)
{
    for (int32_t k = r->out_at[i]; k < r->out_at[i + 1]; k++) touch(&life[r->out[k]], time);
}

static void find_lives(struct recompute *r)
{
    const struct layout *l = r->l;
    for (size_t i = 0; i < l->n_root; i++) r->life[i] = r->life_copy[i] = (struct life){NEVER, -1};
    for (int32_t i = 1; i < (int32_t)r->g->n_node; i++) {
        if (!l->run[i]) continue;
        touch_inputs(r, i, r->time[i], i >= r->border);
        touch_outputs(r, i, r->life, r->time[i]);
        if (!r->again[i]) continue;
        touch_inputs(r, i, r->time_copy[i], true);
        touch_outputs(r, i, r->life_copy, r->time_copy[i]);
    }
    for (size_t i = 1; i < l->n_root; i++) {
        if (l->root[i].pinned && r->life[i].last >= 0) r->life[i].last = r->n_time - 1;
        /* in place: at the moment of taking over the two are one */
        int32_t from = l->root[i].alias;
        if (from != (int32_t)i && r->life[i].first == r->life[from].last) r->life[i].first++;
    }
}

static void find_profile(struct recompute *r)
{
    find_due(r);
    find_times(r);
    find_lives(r);
    memset(r->bytes, 0, (size_t)(r->n_time + 1) * sizeof *r->bytes);
    for (size_t i = 1; i < r->l->n_root; i++) {
        if (!r->size[i]) continue;
        for (int k = 0; k < 2; k++) {
            struct life life = k ? r->life_copy[i] : r->life[i];
            if (life.first > life.last) continue;
            r->bytes[life.first] += r->size[i];
            r->bytes[life.last + 1] -= r->size[i];
        }
    }
    r->peak = 0;
    for (int32_t t = 1; t < r->n_time; t++) {
        r->bytes[t] += r->bytes[t - 1];
        if (r->bytes[t] > r->bytes[r->peak]) r->peak = t;
    }
    for (int32_t i = 1, t = 1; i < (int32_t)r->g->n_node; i++)
        for (r->worst[i] = 0; t <= r->time[i]; t++) {
            if (r->bytes[t] > r->worst[i]) r->worst[i] = r->bytes[t];
            if (t == r->peak) r->peak_node = i;
        }
}

size_t ad_recompute_peak(const struct recompute *r)
{
    return (size_t)r->bytes[r->peak];
}

/* ---- the search -------------------------------------------------------------------------------------------------- */

/* Whether the piece lies at the worst time only for readers behind it. */
static bool lies_idle(const struct recompute *r, int32_t root)
{
    const struct root *x = &r->l->root[root];
    return x->kind == ROOT_ARENA && !x->pinned && r->root_early[root] < r->peak && r->life[root].first < r->peak &&
           r->life[root].last > r->peak;
}

/* Bytes that are free at the worst time if node n's outputs are let go. */
static int64_t frees(const struct recompute *r, int32_t n)
{
    const struct ad_node *node = r->g->node[n];
    int64_t bytes = 0;
    for (int k = 0; k < node->n_out; k++) {
        int32_t root = r->l->place[node->out + k].root;
        bool seen = false;
        for (int j = 0; j < k; j++) seen |= r->l->place[node->out + j].root == root;
        if (!seen && lies_idle(r, root)) bytes += r->size[root];
    }
    return bytes;
}

static bool freed_by_chain(const struct recompute *r, int32_t root)
{
    for (int32_t i = 0; i < r->n_chain; i++) {
        const struct ad_node *n = r->g->node[r->chain[i]];
        for (int k = 0; k < n->n_out; k++)
            if (r->l->place[n->out + k].root == root) return true;
    }
    return false;
}

struct choice {
    int64_t bytes;
    double seconds;
};

static void add_to_chain(struct recompute *r, int32_t n)
{
    r->chain_mark[n] = 1;
    r->chain[r->n_chain++] = n;
}

/* What letting node n go frees and costs, with the nodes that must run before it in chain[]: the makers of inputs that
 * would not be there. Small inputs are kept for it instead. */
static struct choice weigh(struct recompute *r, int32_t n)
{
    struct choice c = {0};
    r->n_chain = 0;
    add_to_chain(r, n);
    for (int32_t i = 0; i < r->n_chain && i < MOST_CHAIN; i++) {
        const struct ad_node *m = r->g->node[r->chain[i]];
        c.bytes += frees(r, r->chain[i]);
        c.seconds += r->seconds[r->chain[i]];
        for (int k = 0; k < m->n_in; k++) {
            val v = m->in[k];
            int32_t p = maker(r, v), root = r->l->place[v].root;
            while (r->view[p]) p = maker(r, r->g->node[p]->in[0]);
            const struct root *x = &r->l->root[root];
            if (r->chain_mark[p] || r->chosen[p] || x->kind != ROOT_ARENA || x->pinned) continue;
            if (r->life[root].last > r->peak && !freed_by_chain(r, root)) continue;
            int64_t bytes = r->size[root];
            if (r->fixed[p] || 16 * bytes < c.bytes)
                c.bytes -= bytes;
            else
                add_to_chain(r, p);
        }
    }
    if (r->n_chain > MOST_CHAIN) c.bytes = 0;
    for (int32_t i = 0; i < r->n_chain; i++) r->chain_mark[r->chain[i]] = 0;
    return c;
}

/* The node that is best let go, or 0. Of equals the earliest: it frees its bytes for the longest time. */
static int32_t best_choice(struct recompute *r)
{
    int32_t best = 0;
    double best_rate = 0;
    for (int32_t i = 1; i < r->border; i++) {
        if (r->fixed[i] || r->chosen[i] || r->tabu[i] || r->due[i] == NEVER || !r->l->run[i]) continue;
        if (r->time[r->due[i] - 1] < r->peak || !frees(r, i)) continue;
        struct choice c = weigh(r, i);
        double rate = (double)c.bytes / (c.seconds + 1e-7);
        if (c.bytes > 0 && rate > best_rate * (1 + 1e-9)) best = i, best_rate = rate;
    }
    return best;
}

/* Whether the worst node of before is better off, and no node worse than before unless it still fits. */
static bool better(const struct recompute *r, int64_t target, int32_t peak_before)
{
    for (size_t i = 1; i < r->g->n_node; i++)
        if (r->worst[i] > target && r->worst[i] > r->worst_before[i]) return false;
    return r->worst[peak_before] < r->worst_before[peak_before];
}

/* Lets node n and its chain go, unless that makes matters worse. */
static bool try_choice(struct recompute *r, int32_t n, int64_t target)
{
    weigh(r, n);
    int32_t count = r->n_chain, peak_before = r->peak_node, *chain = mem_alloc((size_t)count * sizeof *chain);
    memcpy(chain, r->chain, (size_t)count * sizeof *chain);
    memcpy(r->worst_before, r->worst, r->g->n_node * sizeof *r->worst);
    for (int32_t i = 0; i < count; i++) r->chosen[chain[i]] = 1;
    find_profile(r);
    bool good = better(r, target, peak_before);
    for (int32_t i = 0; !good && i < count; i++) r->chosen[chain[i]] = 0;
    if (!good) find_profile(r);
    free(chain);
    return good;
}

static int dearest_first(const void *a, const void *b)
{
    const double *x = *(const double *const *)a, *y = *(const double *const *)b;
    return *x != *y ? (*x < *y ? 1 : -1) : x < y ? 1 : -1;
}

/* Bytes that lie there only for node n's second run at `time`: pieces of which that is the last use, and what lies there
 * only for the nodes that make those. */
static int64_t only_for(const struct recompute *r, int32_t n, int32_t time)
{
    int64_t bytes = 0;
    for (int32_t k = r->in_at[n]; k < r->in_at[n + 1]; k++) {
        struct edge e = r->in[k];
        const struct life *life = r->again[e.maker] ? &r->life_copy[e.root] : &r->life[e.root];
        if (life->last != time) continue;
        bytes += r->size[e.root];
        if (r->again[e.maker]) bytes += only_for(r, e.maker, r->view[e.maker] ? time : r->time_copy[e.maker]);
    }
    return bytes;
}

/* Whether more than `target` would be alive if node n ran once only: its outputs would lie there until they are due. */
static bool needed(const struct recompute *r, int32_t n, int64_t target)
{
    int64_t more = -only_for(r, n, r->time_copy[n]), most = 0;
    int32_t from = 0, to = r->time[r->due[n] - 1];
    for (int32_t k = r->out_at[n]; k < r->out_at[n + 1]; k++) {
        int32_t root = r->out[k];
        if (root == r->l->scratch[n] || r->life[root].last > r->root_early[root]) continue; /* there anyway */
        more += r->size[root];
        from = r->root_early[root] > from ? r->root_early[root] : from;
    }
    for (int32_t t = from + 1; t <= to; t++) most = r->bytes[t] > most ? r->bytes[t] : most;
    return most + more > target;
}

/* Takes back what the target does not need, the dearest first. */
static void take_back(struct recompute *r, int64_t target)
{
    const double **list = mem_alloc(r->g->n_node * sizeof *list);
    size_t n = 0;
    for (int32_t i = 1; i < r->border; i++)
        if (r->chosen[i] && r->again[i]) list[n++] = &r->seconds[i];
    qsort(list, n, sizeof *list, dearest_first);
    for (size_t i = 0; i < n; i++) {
        int32_t node = (int32_t)(list[i] - r->seconds);
        if (!r->again[node] || needed(r, node, target)) continue;
        r->chosen[node] = 0;
        find_profile(r);
        if (r->bytes[r->peak] <= target) continue;
        r->chosen[node] = 1;
        find_profile(r);
    }
    free(list);
}

/* From nothing chosen, down to `want`. */
static bool descend(struct recompute *r, int64_t want)
{
    memset(r->chosen, 0, r->g->n_node);
    memset(r->tabu, 0, r->g->n_node * sizeof *r->tabu);
    find_profile(r);
    bool any = true;
    for (int steps = 0; r->bytes[r->peak] > want && steps < MOST_STEPS; steps++) {
        int32_t n = best_choice(r);
        if (!n && !any) return false;
        if (!n) { /* what was refused once may do by now */
            memset(r->tabu, 0, r->g->n_node * sizeof *r->tabu);
            any = false;
        } else if (try_choice(r, n, want)) {
            any = true;
        } else {
            r->tabu[n] = 1;
        }
    }
    return r->bytes[r->peak] <= want;
}

static double seconds_again(const struct recompute *r)
{
    double s = 0;
    for (int32_t i = 1; i < r->border; i++)
        if (r->again[i] && !r->view[i]) s += r->seconds[i];
    return s;
}

/* A descent that goes deeper than it must and then takes back more sees other choices: the cheapest counts. */
bool ad_recompute_fit(struct recompute *r, size_t target)
{
    static const double depth[] = {1, 0.85};
    double least = INFINITY;
    char *best = mem_zero(r->g->n_node, 1);
    for (size_t i = 0; i < sizeof depth / sizeof *depth; i++) {
        if (!descend(r, (int64_t)(depth[i] * (double)target))) continue;
        take_back(r, (int64_t)target);
        double seconds = seconds_again(r);
        if (seconds >= least) continue;
        least = seconds;
        memcpy(best, r->chosen, r->g->n_node);
    }
    bool fits = least < INFINITY;
    if (fits) {
        memcpy(r->chosen, best, r->g->n_node);
        find_profile(r);
    }
    free(best);
    return fits;
}

/* ---- the graph that comes of it ---------------------------------------------------------------------------------- */

static val copy_node(const struct recompute *r, struct ad_graph *to, int32_t i, const val *map, const val *late)
{
    const struct ad_node *n = r->g->node[i];
    val *in = mem_alloc((size_t)(n->n_in + 1) * sizeof *in);
    for (int k = 0; k < n->n_in; k++) in[k] = late && late[n->in[k]] ? late[n->in[k]] : map[n->in[k]];
    val v = (val)to->n_value;
    ad_copy_node(to, n, in);
    free(in);
    return v;
}

struct ad_graph *ad_recompute_graph(const struct recompute *r, int64_t *count)
{
    const struct ad_graph *g = r->g;
    struct ad_graph *to = ad_graph_new();
    val *map = mem_zero(g->n_value, sizeof *map), *late = mem_zero(g->n_value, sizeof *late);
    int32_t *next = mem_zero(g->n_node, sizeof *next), *head = mem_zero(g->n_node, sizeof *head);
    for (int32_t i = r->border - 1; i > 0; i--)
        if (r->again[i]) next[i] = head[r->due[i]], head[r->due[i]] = i;
    *count = 0;
    for (int32_t i = 1; i < (int32_t)g->n_node; i++) {
        for (int32_t c = head[i]; c; c = next[c]) {
            val v = copy_node(r, to, c, map, late);
            to->node[to->n_node - 1]->part = AD_AGAIN;
            for (int k = 0; k < g->node[c]->n_out; k++) late[g->node[c]->out + k] = v + k;
            *count += !r->view[c];
        }
        if (!r->need[i]) continue;
        val v = copy_node(r, to, i, map, i >= r->border ? late : NULL);
        for (int k = 0; k < g->node[i]->n_out; k++) map[g->node[i]->out + k] = v + k;
    }
    ad_copy_ends(to, g, map);
    if (g->status.code) to->status = g->status;
    free(map);
    free(late);
    free(next);
    free(head);
    return to;
}
