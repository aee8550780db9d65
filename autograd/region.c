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
    int64_t first;  /* number of its first item: of the round */
    int32_t thread; /* which does it, modulo their number; SHARED: all of them, by items */
    int64_t next;   /* of a dynamic phase: the first item that no thread has taken */
} __attribute__((aligned(64)));

_Thread_local struct ad_one_task *ad_one_task;

struct region {
    struct region_call *call;
    size_t n;
    struct work *work; /* [room] */
    size_t *stage;     /* [room + 1]: where in `work` a stage begins; the last: where they end */
    size_t n_work, n_stage, room;
    bool borrowed;      /* those two are not this region's to free */
    size_t first, last; /* stages first .. last-1 run in the parallel region, the others on the calling thread */
    int threads;        /* that the calls were cut for */
    bool laid_out;
};

static void free_room(struct region *r)
{
    if (r->borrowed) return;
    free(r->work);
    free(r->stage);
}

/* For so much work in so many stages. */
static void make_room(struct region *r, size_t room)
{
    if (room <= r->room) return;
    free_room(r);
    r->work = aligned_alloc(sizeof *r->work, room * sizeof *r->work);
    CHECK(r->work);
    r->stage = mem_zero(room + 1, sizeof *r->stage);
    r->room = room;
    r->borrowed = false;
}

struct region *region_new(struct region_call *call, size_t n)
{
    struct region *r = mem_zero(1, sizeof *r);
    r->call = call;
    r->n = n;
    make_room(r, n * AD_PHASES);
    return r;
}

void region_free(struct region *r)
{
    if (!r) return;
    free_room(r);
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

/* ---- phases and rounds ------------------------------------------------------------------------------------------- */

/* A call's phases as they come, those of the rounds as often as there are rounds. */
static int64_t turns_of(const struct ad_parts *p)
{
    return p->n + (p->rounds > 1 ? (p->rounds - 1) * (p->end_round - p->first_round) : 0);
}

/* Which phase is turn i, and the number of its first item. */
static int phase_at(const struct ad_parts *p, int64_t i, int64_t *first)
{
    int64_t body = p->end_round - p->first_round, round = 0, after = (p->rounds - 1) * body;
    if (p->rounds > 1 && i >= p->end_round + after) {
        i -= after;
    } else if (p->rounds > 1 && i >= p->first_round) {
        round = (i - p->first_round) / body;
        i -= round * body;
    }
    *first = round * p->phase[i].items;
    return (int)i;
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
    int64_t most = 0;
    for (size_t i = first; i < last; i++) {
        int64_t turns = turns_of(&r->call[i].parts);
        if (turns > most) most = turns;
    }
    for (int64_t turn = 0; turn < most; turn++) {
        for (size_t i = first; i < last; i++) {
            const struct region_call *c = &r->call[i];
            struct work w = {.call = c, .thread = (int32_t)(i - first)};
            if (turn >= turns_of(&c->parts) || (c->chain != SHARED && turn > 0)) continue;
            w.phase = phase_at(&c->parts, turn, &w.first);
            const struct ad_phase *p = &c->parts.phase[w.phase];
            if (c->chain == SHARED && !p->items) continue;
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
    size_t first = 0, room = 0;
    for (size_t i = 0; i < r->n; i++) room += (size_t)turns_of(&r->call[i].parts);
    make_room(r, room);
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
    uint32_t kind = (uint32_t)p->n + 8 * (uint32_t)p->rounds;
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

static void run_all(const struct region_call *c)
{
    for (int64_t i = 0, turns = turns_of(&c->parts), first; i < turns; i++) {
        const struct ad_phase *p = &c->parts.phase[phase_at(&c->parts, i, &first)];
        if (p->items) p->run(c->call, c->parts.job, first, first + p->items);
    }
}

static void run_alone(const struct work *w)
{
    if (w->phase == ALL) {
        run_all(w->call);
        return;
    }
    const struct ad_phase *p = &w->call->parts.phase[w->phase];
    if (p->items) p->run(w->call->call, w->call->parts.job, w->first, w->first + p->items);
}

/* Thread t's share, of `threads`. */
static void do_work(struct work *w, int t, int threads)
{
    const struct region_call *c = w->call;
    if (w->thread != SHARED) {
        if (w->thread % threads == t) run_alone(w);
        return;
    }
    const struct ad_phase *p = &c->parts.phase[w->phase];
    if (p->dynamic) {
        for (int64_t i; (i = __atomic_fetch_add(&w->next, 1, __ATOMIC_RELAXED)) < p->items;)
            p->run(c->call, c->parts.job, w->first + i, w->first + i + 1);
        return;
    }
    int64_t from = p->items * t / threads, to = p->items * (t + 1) / threads;
    if (from < to) p->run(c->call, c->parts.job, w->first + from, w->first + to);
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
        for (size_t i = 0; i < r->n; i++) run_all(&r->call[i]);
        return;
    }
    run_stages(r, 0, r->first, 0, 1);
    if (r->first < r->last) run_parallel(r);
    run_stages(r, r->last, r->n_stage, 0, 1);
}

/* ---- weighing ------------------------------------------------------------------------------------------------------ */

void region_weights_begin(struct region_weights *w)
{
    if (!w->load) w->load = mem_zero((size_t)w->threads, sizeof *w->load);
    w->work = w->span = 0;
    w->forks = w->barriers = 0;
    w->at = 0;
}

void region_weights_free(struct region_weights *w)
{
    free(w->load);
    free(w->least);
}

/* The least that the share at hand took, this time or before. */
static double least_of(struct region_weights *w, double seconds)
{
    if (w->at == w->room) w->least = mem_grow(w->least, &w->room, w->at + 1, sizeof *w->least);
    double *least = &w->least[w->at];
    if (w->at == w->n_least) {
        *least = seconds;
        w->n_least++;
    }
    if (seconds < *least) *least = seconds;
    w->at++;
    return *least;
}

static double weigh_items(struct region_weights *w, const struct region_call *c, const struct ad_phase *p, int64_t from,
                          int64_t to)
{
    double start = time_now();
    p->run(c->call, c->parts.job, from, to);
    return least_of(w, time_now() - start);
}

/* Of the first n threads, that which is through first. */
static int first_free(const struct region_weights *w, int64_t n)
{
    int t = 0;
    for (int i = 1; i < n; i++)
        if (w->load[i] < w->load[t]) t = i;
    return t;
}

/* A phase whose items take tasks: who is free takes the next. */
static void weigh_tasks(struct region_weights *w, const struct region_call *c, const struct ad_phase *p,
                        struct ad_one_task *one)
{
    while (one->more) {
        *one = (struct ad_one_task){0};
        int t = first_free(w, p->items < w->threads ? p->items : w->threads);
        w->load[t] += weigh_items(w, c, p, t, t + 1);
    }
}

/* Adds each thread's share to its load. */
static void weigh_work(const struct work *work, struct region_weights *w)
{
    const struct region_call *c = work->call;
    if (work->thread != SHARED) {
        double start = time_now();
        run_alone(work);
        w->load[work->thread % w->threads] += least_of(w, time_now() - start);
        return;
    }
    const struct ad_phase *p = &c->parts.phase[work->phase];
    for (int64_t i = 0; i < p->items && p->dynamic; i++)
        w->load[first_free(w, w->threads)] += weigh_items(w, c, p, work->first + i, work->first + i + 1);
    if (p->dynamic) return;
    struct ad_one_task one = {0};
    ad_one_task = &one;
    for (int64_t t = 0; t < w->threads && !one.given; t++) {
        int64_t from = p->items * t / w->threads, to = p->items * (t + 1) / w->threads;
        if (from < to) w->load[t] += weigh_items(w, c, p, work->first + from, work->first + to);
    }
    weigh_tasks(w, c, p, &one);
    ad_one_task = NULL;
}

static double sum_of(const struct region_weights *w)
{
    double sum = 0;
    for (int t = 0; t < w->threads; t++) sum += w->load[t];
    return sum;
}

static void weigh_stage(const struct region *r, size_t s, bool forked, struct region_weights *w, double *waits)
{
    double most = -1, before = 0, after, longest = 0;
    size_t greatest = 0;
    memset(w->load, 0, (size_t)w->threads * sizeof *w->load);
    for (size_t i = r->stage[s]; i < r->stage[s + 1]; i++, before = after) {
        weigh_work(&r->work[i], w);
        after = sum_of(w);
        if (after - before > most) most = after - before, greatest = (size_t)(r->work[i].call - r->call);
    }
    for (int t = 0; t < w->threads; t++)
        if (w->load[t] > longest) longest = w->load[t];
    if (!forked) longest = before; /* one thread does it all */
    w->work += before;
    w->span += longest;
    waits[greatest] += longest * w->threads - before;
}

void region_weigh(struct region *r, struct region_weights *w, double *waits)
{
    cut_calls(r, w->threads);
    if (w->threads == 1) {
        r->first = r->last = 0;
        for (size_t i = 0; i < r->n; i++) {
            double start = time_now();
            run_all(&r->call[i]);
            double seconds = least_of(w, time_now() - start);
            w->work += seconds;
            w->span += seconds;
        }
        return;
    }
    for (size_t s = 0; s < r->n_stage; s++) weigh_stage(r, s, s >= r->first && s < r->last, w, waits);
    w->forks += region_forks(r);
    w->barriers += region_barriers(r);
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
    struct region r = {.call = &one, .n = 1, .work = work, .stage = stage, .room = AD_PHASES, .borrowed = true};
    region_run(&r, omp_in_parallel() ? 1 : threads_count());
    free_room(&r);
}
