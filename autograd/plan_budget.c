/* A plan in a budget: where the arena would be too large, nodes that run a second time (passes/recompute_budget.c) are laid
 * out until it fits. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/passes/recompute.h"
#include "autograd/plan_parts.h"
#include "base/text.h"

#define CALL_S 2e-6 /* seconds that a call takes whatever it does */

enum { TRIES = 8, BISECTIONS = 12 };

struct search {
    struct ad_plan *p; /* laid out without a budget */
    struct recompute *choice;
    struct ad_plan *best; /* the smallest laid out so far, or NULL */
};

/* Lays out what is chosen and returns its arena's bytes; the smallest so far stays in s->best. */
static int64_t lay_out_choice(struct search *s)
{
    struct ad_plan *q = mem_zero(1, sizeof *q);
    q->flags = s->p->flags;
    q->limits = s->p->limits;
    q->g = ad_recompute_graph(s->choice, &q->stats.recomputed);
    CHECK(!q->g->status.code);
    ad_plan_lay_out(q);
    int64_t bytes = q->stats.arena_bytes;
    if (s->best && s->best->stats.arena_bytes <= bytes) {
        ad_plan_forget_layout(q);
        free(q);
        return bytes;
    }
    if (s->best) ad_plan_forget_layout(s->best);
    free(s->best);
    s->best = q;
    return bytes;
}

/* The arena is larger than what is alive at once, by gaps: the target is lowered below what came of it until it fits. */
static bool search_budget(struct search *s, int64_t room)
{
    int64_t target = room, over;
    for (int i = 0; i < TRIES && target > 0; i++) {
        if (!ad_recompute_fit(s->choice, (size_t)target)) return false;
        if ((over = lay_out_choice(s) - room) <= 0) return true;
        int64_t peak = (int64_t)ad_recompute_peak(s->choice);
        target = (peak < target ? peak : target) - over * (1 + i);
    }
    return false;
}

static void search_smallest(struct search *s)
{
    int64_t lo = 0, hi = s->p->stats.arena_bytes;
    for (int i = 0; i < BISECTIONS; i++) {
        int64_t mid = lo + (hi - lo) / 2;
        if (ad_recompute_fit(s->choice, (size_t)mid)) {
            lay_out_choice(s);
            hi = mid;
        } else {
            lo = mid;
        }
    }
}

/* Takes over the layout of s->best. */
static void take_best(struct ad_plan *p, struct search *s)
{
    struct ad_plan *q = s->best;
    q->stats.recomputed += p->stats.recomputed;
    q->stats.free_bytes = p->stats.arena_bytes;
    arena_join(&q->g->mem, &p->g->mem); /* fused programs lie there */
    ad_plan_forget_layout(p);
    p->g = q->g;
    p->need = q->need;
    p->l = q->l;
    p->step = q->step;
    p->n_step = q->n_step;
    p->tensor = q->tensor;
    p->tensor_val = q->tensor_val;
    p->n_tensor = q->n_tensor;
    p->stats = q->stats;
    free(q);
    s->best = NULL;
}

/* Up to the next number of three digits, so that what is printed is enough. */
static double rounded_up(double bytes)
{
    double unit = 1;
    while (bytes / unit >= 1000) unit *= 10;
    return ceil(bytes / unit) * unit;
}

static int no_plan_fits(const struct ad_plan_options *o, int64_t smallest, struct err *e)
{
    char budget[32], taken[32], least[32], all[32];
    return err_set(
        e, ERR_MEMORY,
        "no plan fits into %s: with all that can be computed again, activations need %s, and the rest of the "
        "step takes %s; together %s would do, and a smaller batch needs less",
        text_size(budget, sizeof budget, (double)o->budget), text_size(least, sizeof least, (double)smallest),
        text_size(taken, sizeof taken, (double)o->taken),
        text_size(all, sizeof all, rounded_up((double)(smallest + o->taken))));
}

int ad_plan_fit_budget(struct ad_plan *p, const struct ad_plan_options *o, struct err *e)
{
    p->stats.free_bytes = p->stats.arena_bytes;
    int64_t room = o->budget - o->taken;
    if (!o->budget || p->flags & AD_NO_REUSE || p->stats.arena_bytes <= room) return 0;
    if (p->flags & AD_NO_RECOMPUTE) return no_plan_fits(o, p->stats.arena_bytes, e);
    double *seconds = mem_zero(p->g->n_node, sizeof *seconds);
    for (size_t i = 0, k = 0; i < p->g->n_node; i++)
        if (p->l.run[i]) seconds[i] = CALL_S + ad_step_limit(p, &p->step[k++]);
    struct search s = {.p = p, .choice = ad_recompute_begin(p->g, p->need, &p->l, seconds)};
    bool fits = search_budget(&s, room);
    if (!fits) {
        search_smallest(&s);
        fits = s.best && s.best->stats.arena_bytes <= room;
    }
    ad_recompute_end(s.choice);
    free(seconds);
    if (fits) {
        take_best(p, &s);
        return 0;
    }
    int64_t smallest = s.best ? s.best->stats.arena_bytes : p->stats.arena_bytes;
    if (s.best) ad_plan_forget_layout(s.best);
    free(s.best);
    return no_plan_fits(o, smallest < p->stats.arena_bytes ? smallest : p->stats.arena_bytes, e);
}
