/* How calls are laid out in stages, with a barrier between one and the next, and what each thread does there. See region.h. */
#include "autograd/region.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/threads.h"

enum { SHARED = -1, ALL = -1 };

/* What one stage does of one call. */
struct work {
    const struct region_call *call;
    int32_t phase;  /* or ALL, one after the other */
    int32_t thread; /* which does it, modulo their number; SHARED: all of them, by items */
    int64_t next;   /* of a dynamic phase: the first item that no thread has taken */
} __attribute__((aligned(64)));

struct region {
    struct region_call *call;
    size_t n;
    struct work *work; /* [n AD_PHASES] */
    size_t *stage;     /* [n AD_PHASES + 1]: where in `work` a stage begins; the last: where they end */
    size_t n_work, n_stage;
    size_t first, last; /* stages first .. last-1 run in the parallel region, the others on the calling thread */
    int threads;        /* that the calls were cut for */
    bool laid_out;
};

struct region *region_new(struct region_call *call, size_t n)
{
    struct region *r = mem_zero(1, sizeof *r);
    r->call = call;
    r->n = n;
    r->work = aligned_alloc(sizeof *r->work, n * AD_PHASES * sizeof *r->work);
    CHECK(r->work);
    r->stage = mem_zero(n * AD_PHASES + 1, sizeof *r->stage);
    return r;
}

void region_free(struct region *r)
{
    if (!r) return;
    free(r->work);
    free(r->stage);
    free(r);
}

size_t region_calls(const struct region *r)
{
    return r->n;
}

bool region_forks(const struct region *r)
{
    return r->first < r->last;
}

int64_t region_barriers(const struct region *r)
{
    return r->first < r->last ? (int64_t)(r->last - r->first) - 1 : 0;
}

/* ---- stages ------------------------------------------------------------------------------------------------------ */

static bool meet(const struct region_call *a, const struct region_call *b)
{
    for (int i = 0; i < a->n_span; i++)
        for (int k = 0; k < b->n_span; k++) {
            const struct region_span *x = &a->span[i], *y = &b->span[k];
            if (x->piece == y->piece && (x->written || y->written) && x->lo < y->hi && y->lo < x->hi) return true;
        }
    return false;
}

static bool is_shared(const struct ad_phase *p)
{
    return !p->alone && p->items > 1;
}

static bool any_shared(const struct ad_parts *p)
{
    for (int i = 0; i < p->n; i++)
        if (is_shared(&p->phase[i])) return true;
    return false;
}

/* Whether call i may join the batch of the calls from `first` on; gives it a chain. Chains that it meets become one. */
static bool join_batch(const struct region *r, size_t first, size_t i)
{
    struct region_call *c = &r->call[i];
    c->chain = any_shared(&c->parts) ? SHARED : (int32_t)(i - first);
    for (size_t k = first; k < i; k++) {
        int32_t other = r->call[k].chain;
        if ((other != SHARED && other == c->chain) || !meet(&r->call[k], c)) continue;
        if (c->chain == SHARED || other == SHARED) return false;
        for (size_t j = first; j < i; j++)
            if (r->call[j].chain == c->chain) r->call[j].chain = other;
        c->chain = other;
    }
    return true;
}

/* The stages of the batch first .. last-1: as many as the call with most phases has. Chains run beside the first. */
static void add_batch(struct region *r, size_t first, size_t last)
{
    for (int phase = 0; phase < AD_PHASES; phase++) {
        for (size_t i = first; i < last; i++) {
            const struct region_call *c = &r->call[i];
            const struct ad_phase *p = &c->parts.phase[phase];
            struct work w = {.call = c, .phase = phase, .thread = (int32_t)(i - first)};
            if (phase >= c->parts.n || (c->chain == SHARED ? !p->items : phase > 0)) continue;
            if (c->chain != SHARED)
                w.phase = ALL, w.thread = c->chain;
            else if (is_shared(p))
                w.thread = SHARED;
            r->work[r->n_work++] = w;
        }
        if (r->n_work > r->stage[r->n_stage]) r->stage[++r->n_stage] = r->n_work;
    }
}

static bool stage_is_shared(const struct region *r, size_t s)
{
    for (size_t i = r->stage[s]; i < r->stage[s + 1]; i++)
        if (r->work[i].thread == SHARED) return true;
    return false;
}

static void lay_out(struct region *r)
{
    size_t first = 0;
    r->n_work = r->n_stage = 0;
    for (size_t i = 0; i < r->n; i++) {
        if (join_batch(r, first, i)) continue;
        add_batch(r, first, i);
        first = i;
        join_batch(r, first, i);
    }
    add_batch(r, first, r->n);
    r->first = 0;
    r->last = r->n_stage;
    while (r->first < r->last && !stage_is_shared(r, r->first)) r->first++;
    while (r->first < r->last && !stage_is_shared(r, r->last - 1)) r->last--;
    r->laid_out = true;
}

/* What of the parts the stages depend on. */
static uint32_t kind_of(const struct ad_parts *p)
{
    uint32_t kind = (uint32_t)p->n;
    for (int i = 0; i < p->n; i++) kind = kind * 4 + (!p->phase[i].items ? 0 : is_shared(&p->phase[i]) ? 1 : 2);
    return kind;
}

static void cut_calls(struct region *r, int threads)
{
    if (r->threads != threads) r->laid_out = false;
    for (size_t i = 0; i < r->n; i++) {
        struct region_call *c = &r->call[i];
        if (c->known && r->threads == threads) continue;
        uint32_t before = kind_of(&c->parts);
        memset(&c->parts, 0, sizeof c->parts);
        c->kernel->cut(c->call, threads, &c->parts);
        CHECK(c->parts.n <= AD_PHASES);
        if (kind_of(&c->parts) != before) r->laid_out = false;
        c->known = true;
    }
    r->threads = threads;
    if (!r->laid_out && threads > 1) lay_out(r);
}

/* ---- running ----------------------------------------------------------------------------------------------------- */

static void run_phases(const struct region_call *c, int from, int to)
{
    for (int i = from; i < to; i++) {
        const struct ad_phase *p = &c->parts.phase[i];
        if (p->items) p->run(c->call, c->parts.job, 0, p->items);
    }
}

/* Thread t's share, of `threads`. */
static void do_work(struct work *w, int t, int threads)
{
    const struct region_call *c = w->call;
    if (w->thread != SHARED) {
        if (w->thread % threads == t)
            run_phases(c, w->phase == ALL ? 0 : w->phase, w->phase == ALL ? c->parts.n : w->phase + 1);
        return;
    }
    const struct ad_phase *p = &c->parts.phase[w->phase];
    if (p->dynamic) {
        for (int64_t i; (i = __atomic_fetch_add(&w->next, 1, __ATOMIC_RELAXED)) < p->items;)
            p->run(c->call, c->parts.job, i, i + 1);
        return;
    }
    int64_t from = p->items * t / threads, to = p->items * (t + 1) / threads;
    if (from < to) p->run(c->call, c->parts.job, from, to);
}

static void run_stages(struct region *r, size_t from, size_t to, int t, int threads)
{
    for (size_t i = r->stage[from]; i < r->stage[to]; i++) do_work(&r->work[i], t, threads);
}

static void run_parallel(struct region *r)
{
    for (size_t i = r->stage[r->first]; i < r->stage[r->last]; i++) r->work[i].next = 0;
#pragma omp parallel num_threads(r->threads)
    for (size_t s = r->first; s < r->last; s++) {
        if (s > r->first) {
#pragma omp barrier
        }
        run_stages(r, s, s + 1, omp_get_thread_num(), omp_get_num_threads());
    }
}

void region_run(struct region *r, int threads)
{
    cut_calls(r, threads);
    if (threads == 1) { /* call by call: what one leaves in the caches the next finds there */
        r->first = r->last = 0;
        for (size_t i = 0; i < r->n; i++) run_phases(&r->call[i], 0, r->call[i].parts.n);
        return;
    }
    run_stages(r, 0, r->first, 0, 1);
    if (r->first < r->last) run_parallel(r);
    run_stages(r, r->last, r->n_stage, 0, 1);
}

void ad_kernel_run(const struct ad_kernel *k, const struct ad_call *c)
{
    if (!k->cut) {
        k->run(c);
        return;
    }
    struct work work[AD_PHASES];
    size_t stage[AD_PHASES + 1] = {0};
    struct region_call one = {.kernel = k, .call = c};
    struct region r = {.call = &one, .n = 1, .work = work, .stage = stage};
    region_run(&r, omp_in_parallel() ? 1 : threads_count());
}
