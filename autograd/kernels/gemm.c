/* How a product is cut into blocks and handed to the threads; what multiplies one block is gemm_packed.c (AVX2, AVX-512)
 * or gemm_blas.c. */
#pragma GCC optimize("O3")
#include "autograd/kernels/gemm.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#include "autograd/kernels/simd.h"
#include "autograd/kernels/stream.h"
#include "base/threads.h"

static int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
static int64_t max_of(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Writing a C that the caches do not hold costs as much as multiplying where K is short, and half of it is the reading of
 * lines that are written whole: 1.4 times as fast at K = 16 (50176 x 96), 1.1 at 40, 1 at 64. */
bool gemm_streams(const struct gemm_args *g)
{
    bool ends = g->bias || g->residual || g->act || g->add || g->c_type != AD_F32;
    return !ends && g->k > 0 && g->k <= 48 && stream_pays(g->c, g->c_row, g->m * g->c_row);
}

/* c = act(c + bias + res) */
static void epilogue(const struct gemm_args *g, float *c, const float *bias, const float *res, int64_t n)
{
    if (bias && res)
        for (int64_t x = 0; x < n; x++) c[x] = c[x] + bias[x] + res[x];
    else if (bias || res) {
        const float *more = bias ? bias : res;
        for (int64_t x = 0; x < n; x++) c[x] += more[x];
    }
    if (g->act) g->act(n, (const float *const[]){c}, (const int[]){1}, c, NULL);
}

void gemm_epilogue_row(const struct gemm_args *g, float *sum, int64_t n, int64_t i, int64_t j)
{
    enum { PIECE = 512 };
    const void *res = g->residual ? at_as(g->res_type, g->residual, i * g->res_row + j) : NULL;
    if ((!res || g->res_type == AD_F32) && g->c_type == AD_F32) {
        epilogue(g, sum, g->bias ? g->bias + j : NULL, res, n);
        return;
    }
    void *c = at_as(g->c_type, g->c, i * g->c_row + j);
    for (int64_t x = 0; x < n; x += PIECE) {
        float wide[PIECE];
        int64_t here = min_of(PIECE, n - x);
        const float *more = !res ? NULL : g->res_type == AD_F32 ? (const float *)res + x : wide;
        if (more == wide) vf_widen(g->res_type, at_as(g->res_type, res, x), wide, here);
        epilogue(g, sum + x, g->bias ? g->bias + j + x : NULL, more, here);
        if (g->c_type != AD_F32) vf_narrow(g->c_type, sum + x, at_as(g->c_type, c, x), here);
    }
}

void gemm_epilogue(const struct gemm_args *g)
{
    for (int64_t i = 0; i < g->m && gemm_has_epilogue(g); i++)
        gemm_epilogue_row(g, (float *)g->c + i * g->c_row, g->n, i, 0);
}

void gemm_block(const struct gemm_args *g)
{
    if (g->m == 0 || g->n == 0) return;
    if (g->k > 0) {
        gemm_block_by(gemm_backend_of(g), g);
        return;
    }
    for (int64_t i = 0; i < g->m; i++) {
        float zeros[64] = {0}, *c = (float *)g->c + i * g->c_row;
        if (g->c_type == AD_F32) {
            if (!g->add) memset(c, 0, (size_t)g->n * sizeof *c);
            gemm_epilogue_row(g, c, g->n, i, 0);
        } else {
            for (int64_t j = 0; j < g->n; j += 64, memset(zeros, 0, sizeof zeros))
                gemm_epilogue_row(g, zeros, min_of(64, g->n - j), i, j);
        }
    }
}

/* ---- small M and N, long K: ranges of K into matrices of their own, added in order ---------------------------------- */

/* How many ranges, a power of two by the sizes only. A range is worth the pass over its sums from about 512 on. */
static int64_t ranges(int64_t m, int64_t n, int64_t k)
{
    int64_t tiles = (m + 95) / 96 * ((n + 95) / 96), r = 1; /* tiles: pieces of C that could go to threads instead */
    if (m * n * k < 1 << 20 || tiles >= 16) return 1;
    while (2 * r * tiles <= 64 && 2 * r * 512 <= k && r < 32) r *= 2;
    return r;
}

/* From so many rows on: fewer are as soon multiplied by B where it lies. */
bool gemm_wants_panels(int64_t m, int64_t n, int64_t k)
{
    enum { ROWS = 256, COLUMNS = 32, LENGTH = 16 };
    return GEMM_HALF && m >= ROWS && n >= COLUMNS && k >= LENGTH && ranges(m, n, k) == 1;
}

static int64_t range_length(int64_t k, int64_t n)
{
    return ((k + n - 1) / n + 63) / 64 * 64;
}

size_t gemm_scratch(int64_t m, int64_t n, int64_t k)
{
    int64_t r = ranges(m, n, k);
    return r > 1 ? (size_t)(r * m * n) * sizeof(float) : 0;
}

/* Block (i0 .., j0 .., k0 ..) of g. `room` holds its source. */
static struct gemm_args part_of(const struct gemm_args *g, int64_t i0, int64_t mb, int64_t j0, int64_t nb, int64_t k0,
                                int64_t kb, struct gemm_source *room)
{
    struct gemm_args s = *g;
    s.stream = gemm_streams(g);
    s.lanes = gemm_sums_in_lanes(g);
    s.m = mb;
    s.n = nb;
    s.k = kb;
    if (g->source) {
        *room = gemm_source_at(g->source, i0, k0);
        s.source = room;
    } else {
        s.a = at_as(g->a_type, g->a, i0 * g->a_row + k0 * g->a_col);
    }
    s.b = at_as(g->b_type, g->b, k0 * g->b_row + j0 * g->b_col);
    s.panels.first += j0;
    s.c = at_as(g->c_type, g->c, i0 * g->c_row + j0);
    if (g->bias) s.bias += j0;
    if (g->residual) s.residual = at_as(g->res_type, g->residual, i0 * g->res_row + j0);
    return s;
}

/* Block (i, j) of range p. */
static void multiply_range(const struct gemm_work *w, int64_t item)
{
    const struct gemm_args *g = &w->g;
    const struct gemm_cut *c = &w->cut;
    int64_t blocks = c->nm * c->nn, p = item / blocks, i = item % blocks / c->nn * c->m, j = item % c->nn * c->n;
    struct gemm_args whole = *g; /* but for what is done to the whole sums */
    whole.bias = NULL;
    whole.residual = NULL;
    whole.act = NULL;
    whole.add = false;
    whole.c_type = AD_F32;
    whole.panels.at = NULL; /* their blocks of K are others */
    struct gemm_source room;
    int64_t length = range_length(g->k, w->ranges), k0 = min_of(p * length, g->k);
    struct gemm_args s =
        part_of(&whole, i, min_of(c->m, g->m - i), j, min_of(c->n, g->n - j), k0, min_of(length, g->k - k0), &room);
    s.c = w->sums + (p * g->m + i) * g->n + j;
    s.c_row = g->n;
    gemm_block(&s);
}

static void add_ranges(const struct gemm_work *w, int64_t i)
{
    const struct gemm_args *g = &w->g;
    bool wide = g->c_type == AD_F32;
    float *y = wide ? (float *)g->c + i * g->c_row : w->sums + i * g->n;
    if (wide && !g->add) memset(y, 0, (size_t)g->n * sizeof *y);
    for (int64_t p = wide ? 0 : 1; p < w->ranges; p++) {
        const float *x = w->sums + p * g->m * g->n + i * g->n;
        for (int64_t j = 0; j < g->n; j++) y[j] += x[j];
    }
    gemm_epilogue_row(g, y, g->n, i, 0);
}

/* ---- blocks of C ---------------------------------------------------------------------------------------------------- */

/* Cycles for a number of an operand to be packed, or read where it lies; A's are once for so many columns. */
struct packing {
    double a, b;
    int64_t columns;
};

static int64_t even(int64_t size, int64_t parts, int64_t round)
{
    return max_of(1, ((size + parts - 1) / parts + round - 1) / round * round);
}

/* Cycles for each k of a block (m, n), about. */
static double block_cost(int64_t m, int64_t n, struct packing p)
{
    return (double)(m * n) / 16 + p.b * (double)n + p.a * (double)(m * ((n + p.columns - 1) / p.columns));
}

static int64_t piece_rows(const struct gemm_cut *c)
{
    return c->by_rows ? even(c->m, c->pieces, 1) : c->m;
}
static int64_t piece_columns(const struct gemm_cut *c)
{
    return c->by_rows ? c->n : even(c->n, c->pieces, 32);
}

static struct packing packing_of(const struct gemm_args *g)
{
    struct packing p = {.a = !g->source && g->a_col != 1 ? 1.2 : 0.6, .b = g->b_col == 1 ? 0.8 : 1.8, .columns = 512};
    if (g->panels.at) p.b = 0.1, p.columns = 2048;
    if (gemm_reads_a(g)) p.a = 0.3;
    return p;
}

/* Cycles until the last thread is done: some of what comes last is waited for. */
static double cost_of(const struct gemm_cut *c, struct packing p, int64_t threads)
{
    int64_t rounds = (c->nm * c->nn - c->last + threads - 1) / threads;
    double block = block_cost(c->m, c->n, p),
           piece = c->pieces == 1 ? block : block_cost(piece_rows(c), piece_columns(c), p);
    return (double)rounds * block + ((double)c->pieces + 0.03) * piece;
}

/* Neither cut into blocks nor summed in ranges, whatever the threads. */
static bool is_small(const struct gemm_args *g)
{
    return g->m * g->n * g->k < 1 << 18;
}

/* Blocks follow the thread count where they may. */
static struct gemm_cut cut_of(const struct gemm_args *g, int64_t threads)
{
    if (!GEMM_CUTS_FREELY) threads = 8;
    int64_t m = g->m, n = g->n, work = m * n * g->k, most_pieces = work < threads << 23 ? 1 : 8;
    int64_t most_parts = work < threads << 20 ? threads : 4 * threads; /* looking for the best takes time, too */
    struct gemm_cut best = {m, n, 1, 1, .last = 1, .pieces = 1};
    if (threads == 1 || is_small(g)) return best;
    struct packing p = packing_of(g);
    double least = cost_of(&best, p, threads);
    for (int64_t parts = threads; parts <= most_parts; parts += threads)
        for (int64_t pm = 1; pm <= parts; pm++) {
            if (parts % pm != 0) continue;
            struct gemm_cut c = {.m = even(m, pm, 1), .n = even(n, parts / pm, 32)};
            c.nm = (m + c.m - 1) / c.m;
            c.nn = (n + c.n - 1) / c.n;
            c.last = min_of(c.nm * c.nn, threads);
            for (c.pieces = 1; c.pieces <= most_pieces; c.pieces *= 2)
                for (int way = 0; way < (c.pieces == 1 ? 1 : 2); way++) {
                    c.by_rows = way == 0;
                    double cost = cost_of(&c, p, threads);
                    if (cost < least) least = cost, best = c;
                }
        }
    return best;
}

/* Blocks of each range of K, where these are no more than the threads. */
static struct gemm_cut range_cut_of(const struct gemm_args *g, int64_t ranges, int64_t threads)
{
    enum { BEGIN = 4000 }; /* cycles that a block takes besides */
    struct gemm_cut best = {g->m, g->n, 1, 1, .last = 1, .pieces = 1};
    if (!GEMM_CUTS_FREELY) return best;
    struct packing p = packing_of(g);
    double length = (double)range_length(g->k, ranges), least = INFINITY;
    int64_t most = threads > 1 ? 2 * ((threads + ranges - 1) / ranges) : 1;
    for (int64_t pm = 1; pm <= most; pm++)
        for (int64_t pn = 1; pm * pn <= most; pn++) {
            struct gemm_cut c = {.m = even(g->m, pm, 6), .n = even(g->n, pn, 32), .last = 1, .pieces = 1};
            c.nm = (g->m + c.m - 1) / c.m;
            c.nn = (g->n + c.n - 1) / c.n;
            int64_t rounds = (ranges * c.nm * c.nn + threads - 1) / threads;
            double cost = (double)rounds * (block_cost(c.m, c.n, p) * length + BEGIN);
            if (cost < least) least = cost, best = c;
        }
    return best;
}

/* Task t of a product that is cut into c: rows i .. i+m-1, columns j .. j+n-1, which may be none. */
struct task {
    int64_t i, m, j, n;
};
static int64_t count_tasks(const struct gemm_cut *c)
{
    return c->nm * c->nn + c->last * (c->pieces - 1);
}
static struct task task_at(const struct gemm_args *g, const struct gemm_cut *c, int64_t t)
{
    int64_t whole = c->nm * c->nn - c->last, piece = 0;
    bool cut = t >= whole;
    if (cut) {
        piece = (t - whole) % c->pieces;
        t = whole + (t - whole) / c->pieces;
    }
    struct task r = {.i = t / c->nn * c->m, .j = t % c->nn * c->n};
    int64_t end_i = min_of(g->m, r.i + c->m), end_j = min_of(g->n, r.j + c->n);
    if (cut && c->by_rows)
        r.i += piece * piece_rows(c), end_i = min_of(end_i, r.i + piece_rows(c));
    else if (cut)
        r.j += piece * piece_columns(c), end_j = min_of(end_j, r.j + piece_columns(c));
    r.m = max_of(0, end_i - r.i);
    r.n = max_of(0, end_j - r.j);
    return r;
}

struct gemm_work gemm_work_of(const struct gemm_args *g, void *scratch, int64_t threads)
{
    struct gemm_work w = {.g = *g, .ranges = 1, .sums = scratch};
    if (g->m == 0 || g->n == 0) return w;
    if (g->k) w.ranges = ranges(g->m, g->n, g->k);
    if (w.ranges > 1) {
        w.cut = range_cut_of(g, w.ranges, threads);
        w.items[0] = w.ranges * w.cut.nm * w.cut.nn;
        w.items[1] = g->m;
        return w;
    }
    w.cut = cut_of(g, threads);
    w.items[0] = count_tasks(&w.cut);
    return w;
}

void gemm_do(const struct gemm_work *w, int phase, int64_t item)
{
    const struct gemm_args *g = &w->g;
    struct gemm_source room;
    if (phase == 1) {
        add_ranges(w, item);
    } else if (w->ranges > 1) {
        multiply_range(w, item);
    } else {
        struct task r = task_at(g, &w->cut, item);
        struct gemm_args s = part_of(g, r.i, r.m, r.j, r.n, 0, g->k, &room);
        gemm_block(&s);
    }
}

/* A small product takes as long as a loop or two of OpenMP: what stays on this thread begins none, and threads meet no more
 * often than they must. The smallest are not planned either: 72 ns for 149 at 8 a side. */
void gemm(const struct gemm_args *g, void *scratch)
{
    if (is_small(g)) {
        struct gemm_source room;
        struct gemm_args whole = part_of(g, 0, g->m, 0, g->n, 0, g->k, &room);
        gemm_enter_thread();
        gemm_block(&whole);
        return;
    }
    int64_t threads = omp_in_parallel() ? 1 : threads_count();
    struct gemm_work w = gemm_work_of(g, scratch, threads);
    if (threads == 1 || w.items[0] <= 1) {
        gemm_enter_thread();
        for (int phase = 0; phase < 2; phase++)
            for (int64_t t = 0; t < w.items[phase]; t++) gemm_do(&w, phase, t);
        return;
    }
#pragma omp parallel
    {
        gemm_enter_thread();
#pragma omp for schedule(dynamic) nowait
        for (int64_t t = 0; t < w.items[0]; t++) gemm_do(&w, 0, t);
        if (w.items[1]) {
#pragma omp barrier
#pragma omp for schedule(static) nowait
            for (int64_t t = 0; t < w.items[1]; t++) gemm_do(&w, 1, t);
        }
    }
}
