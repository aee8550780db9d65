/* The gradient of packed attention in f32: probabilities are computed again from the logsumexp (Dao et al. 2022, alg. 4).
 *
 * Keys are taken in spans; for each span all queries go by in blocks. dk and dv of a span are summed on this thread, dq in
 * memory from span to span. One task does all of that for an item and head; where these are too few for the threads, dq
 * (by chunks of queries) and dk, dv (by spans) become tasks of their own, which compute the probabilities twice but each
 * sum in the same order: the bits are the same. A dbias is summed over the items in their order, by one task a head or a
 * head's chunk of queries. */
#pragma GCC optimize("O3")
#include <string.h>

#include "autograd/kernels/attention_block.h"

struct room {
    float k[SPAN * ROW], v[SPAN * ROW], dk[SPAN * ROW], dv[SPAN * ROW];
    float qt[MAX_DIM * LANES], gt[MAX_DIM * LANES], s[KB * LANES], ds[KB * LANES], bias[KB * LANES];
    float q[QB * ROW], g[QB * ROW], dq[QB * ROW], lse[QB], delta[QB];
    struct attn_ahead ahead;
} __attribute__((aligned(64)));

/* What the threads share, at the start of the scratch: how the work is cut depends on the offsets, so that it is known only
 * when the call runs. */
struct tasks {
    int64_t items, next, n;      /* tasks: the first that no thread has taken; all */
    int64_t keys, chunks, spans; /* of tasks by halves, the first `keys` are of dk and dv; 0: whole tasks */
    /* Where dq is 16 bits wide and several spans of keys add to it: of its shape. */
    float sum[] __attribute__((aligned(64)));
};

/* What of an item and head is computed. */
struct part {
    int64_t q_from, q_to;       /* queries; q_from is a multiple of 16 */
    int64_t span_from, span_to; /* spans of keys */
    bool queries, keys;         /* dq (and dbias); dk and dv (which need all queries) */
};

struct grads {
    struct attn_rows y, dy, dq, dk, dv; /* at the task's rows and columns */
    const float *lse;
    float *dbias;
    struct attn_rows sum; /* where dq is 16 bits wide and several spans of keys add to it: f32 rows, else NULL */
};

static struct grads grads_of(const struct ad_call *c, const struct attn_task *t)
{
    int bias = ((const struct attention_attr *)c->attr)->bias;
    const struct ad_tensor *y = &c->in[5 + bias], *lse = y + 1, *dy = y + 2, *out = c->out;
    int64_t col = t->h * t->dim, width = t->heads * t->dim;
    struct grads g = {.y = attn_rows_of(y, t->q_row, col),
                      .dy = attn_rows_of(dy, t->q_row, col),
                      .lse = (const float *)lse->data + t->q_row * t->heads + t->h,
                      .dq = attn_rows_of(&out[0], t->q_row, col),
                      .dk = attn_rows_of(&out[1], t->k_row, col),
                      .dv = attn_rows_of(&out[2], t->k_row, col)};
    if (bias) g.dbias = (float *)out[3].data + t->h * c->in[5].shape.dim[1] * t->sk;
    if (g.dq.type != AD_F32 && t->n_k > SPAN)
        g.sum = (struct attn_rows){AD_F32, ((struct tasks *)c->scratch)->sum + t->q_row * width + col, width};
    return g;
}

size_t attn_grad_scratch(const struct ad_call *c)
{
    bool sums = c->out[0].dtype != AD_F32 && c->in[1].shape.dim[0] > SPAN;
    return sizeof(struct tasks) + (sums ? (size_t)ad_count(c->out[0].shape) * sizeof(float) : 0);
}

static bool finite_task(const struct attn_task *t, const struct grads *g)
{
    struct attn_rows lse = {AD_F32, (float *)(uintptr_t)g->lse, t->heads};
    return attn_all_finite(t->q, t->n_q, t->dim) && attn_all_finite(t->k, t->n_k, t->dim) &&
           attn_all_finite(t->v, t->n_k, t->dim) && attn_all_finite(g->y, t->n_q, t->dim) &&
           attn_all_finite(g->dy, t->n_q, t->dim) && attn_all_finite(lse, t->n_q, 1);
}

/* A block of queries and where its rows lie: in place, or copied. */
struct block {
    int64_t q0, qn;
    const float *q, *g;
    int64_t ldq, ldg;
};

static struct block load_queries(const struct attn_task *t, const struct grads *g, struct room *r, int64_t q0,
                                 int64_t qn)
{
    struct attn_rows q = attn_row(t->q, q0), all_dy = attn_row(g->dy, q0);
    attn_copy_columns(q, qn, t->dim, t->scale * LOG2E, r->qt);
    attn_copy_columns(all_dy, qn, t->dim, 1, r->gt);
    for (int64_t i = 0; i < qn; i++) {
        r->delta[i] = attn_dot(attn_row(g->y, q0 + i), attn_row(all_dy, i), t->dim);
        r->lse[i] = g->lse[(q0 + i) * t->heads] * LOG2E;
    }
    for (int64_t i = qn; i < QB; i++) r->delta[i] = r->lse[i] = 0;
    if (t->n_k <= QB && t->dim % VL == 0 && q.type == AD_F32 && all_dy.type == AD_F32)
        return (struct block){q0, qn, q.at, all_dy.at, q.ld, all_dy.ld};
    attn_copy_rows(q, qn, t->dim, r->q);
    attn_copy_rows(all_dy, qn, t->dim, r->g);
    return (struct block){q0, qn, r->q, r->g, ROW, ROW};
}

/* Scores become probabilities, ds = dp becomes the scores' gradient. */
static void differentiate(const struct room *r, int64_t kn, int64_t qn, float *s, float *ds)
{
    for (int64_t i = 0; i < qn; i += VL) {
        vf lse = vf_load(r->lse + i), delta = vf_load(r->delta + i);
        for (int64_t j = 0; j < kn; j++) {
            vf p = vf_exp2_down(vf_load(s + j * LANES + i) - lse);
            vf_store(s + j * LANES + i, p);
            vf_store(ds + j * LANES + i, p * (vf_load(ds + j * LANES + i) - delta));
        }
    }
}

/* One block of queries against the keys k0 .. k0+kn-1, which lie `at` rows into the span. */
static void meet(const struct attn_task *t, const struct grads *g, struct room *r, struct part p, struct block b,
                 int64_t k0, int64_t at, int64_t kn, bool add_keys, bool add_queries)
{
    attn_fetch(&r->ahead, 3 * b.qn);
    attn_scores(t, b.q0, b.qn, k0, kn, r->k + at * ROW, r->qt, r->s, r->bias);
    attn_product(kn, b.qn, t->dim, r->v + at * ROW, r->gt, r->ds);
    differentiate(r, kn, b.qn, r->s, r->ds);
    if (p.keys) {
        attn_into_keys(kn, t->dim, b.qn, r->s, b.g, b.ldg, r->dv + at * ROW, add_keys);
        attn_into_keys(kn, t->dim, b.qn, r->ds, b.q, b.ldq, r->dk + at * ROW, add_keys);
    }
    if (!p.queries) return;
    attn_into_queries(b.qn, t->dim, kn, r->ds, r->k + at * ROW, ROW, r->dq, add_queries);
    for (int64_t i = 0; i < b.qn && g->dbias; i++)
        for (int64_t j = 0; j < kn; j++) g->dbias[(b.q0 + i) * t->sk + k0 + j] += r->ds[j * LANES + i];
}

/* What a span gives to dq's row i: `part`, or nothing where NULL. */
static void put_query(const struct attn_task *t, const struct grads *g, int64_t i, const float *part, bool first,
                      bool last)
{
    struct attn_rows to = attn_row(g->dq, i), sum = g->sum.at ? attn_row(g->sum, i) : to;
    if (part && attn_sees(t, i) > 0) {
        if (sum.type == AD_F32)
            attn_put_row(sum.at, part, t->dim, t->scale, !first);
        else
            attn_store_row(sum, part, t->dim, t->scale);
    } else if (first) {
        attn_clear_row(sum, t->dim);
    }
    if (g->sum.at && last) attn_store_row(to, sum.at, t->dim, 1);
}

/* The span of keys k0 .. k0+kn-1 with all queries of the part. Returns whether all that was multiplied is finite: a row of
 * each product tells. */
static bool span(const struct attn_task *t, const struct grads *g, struct room *r, struct part p, int64_t k0,
                 int64_t kn)
{
    struct attn_blocks queries = attn_blocks_of(t, p.q_to - p.q_from);
    bool once = queries.of.n == 1; /* one block: it sees every key, nothing is added to */
    attn_copy_rows(attn_row(t->k, k0), kn, t->dim, r->k);
    attn_copy_rows(attn_row(t->v, k0), kn, t->dim, r->v);
    for (int64_t j = 0; j < kn && p.keys && !once; j++)
        for (int64_t d = 0; d < t->dim; d += VL)
            vf_store(r->dk + j * ROW + d, (vf){0}), vf_store(r->dv + j * ROW + d, (vf){0});
    struct parts blocks = parts_of(kn, KB);
    bool finite = true, any = false;
    for (int64_t block = 0; block < queries.of.n; block++) {
        int64_t q0 = p.q_from + attn_at(&queries, block), qn = p.q_from + attn_at(&queries, block + 1) - q0,
                seen = attn_min(kn, attn_sees(t, q0 + qn - 1) - k0);
        if (seen > 0) {
            any = true;
            struct block b = load_queries(t, g, r, q0, qn);
            for (int64_t i = 0; i < blocks.n; i++) {
                int64_t at = part_start(blocks, i), n = attn_min(part_start(blocks, i + 1), seen) - at;
                if (n > 0) meet(t, g, r, p, b, k0 + at, at, n, !once, i > 0);
            }
            if (t->causal && p.queries) finite = finite && attn_finite_row(r->dq, t->dim);
        }
        for (int64_t i = 0; i < qn && p.queries; i++)
            put_query(t, g, q0 + i, seen > 0 ? r->dq + i * ROW : NULL, k0 == 0, k0 + kn == t->n_k);
    }
    for (int64_t j = 0; j < kn && p.keys; j++) {
        attn_store_row(attn_row(g->dk, k0 + j), r->dk + j * ROW, t->dim, t->scale);
        attn_store_row(attn_row(g->dv, k0 + j), r->dv + j * ROW, t->dim, 1);
    }
    if (t->causal && p.keys && any) finite = finite && attn_finite_row(r->dk, t->dim) && attn_finite_row(r->dv, t->dim);
    return finite;
}

static bool all_spans(const struct attn_task *t, const struct grads *g, struct room *r, struct part p)
{
    struct parts s = parts_of(t->n_k, SPAN);
    bool finite = true;
    for (int64_t i = p.span_from; i < attn_min(p.span_to, s.n); i++)
        finite = span(t, g, r, p, part_start(s, i), part_start(s, i + 1) - part_start(s, i)) && finite;
    return finite;
}

/* The next head of the item comes next, or its rows lie beside those that do. */
static void look_ahead(const struct attn_task *t, const struct grads *g, struct attn_ahead *a)
{
    *a = (struct attn_ahead){.dim = t->dim};
    if (t->h + 1 == t->heads) return;
    attn_add_ahead(a, t->q, t->n_q);
    attn_add_ahead(a, t->k, t->n_k);
    attn_add_ahead(a, t->v, t->n_k);
    attn_add_ahead(a, g->dy, t->n_q);
    attn_add_ahead(a, g->y, t->n_q);
}

static void backward(const struct ad_call *c, struct attn_task t, struct room *r, struct part p)
{
    struct grads g = grads_of(c, &t);
    look_ahead(&t, &g, &r->ahead);
    p.q_to = attn_min(p.q_to, t.n_q);
    p.q_from = attn_min(p.q_from, p.q_to);
    if (t.n_k == 0)
        for (int64_t i = p.q_from; i < p.q_to && p.queries; i++) attn_clear_row(attn_row(g.dq, i), t.dim);
    if (!p.keys && p.q_from >= p.q_to) return;
    if (t.causal && g.dbias) t.careful = !finite_task(&t, &g); /* what is added to cannot be done again */
    if (all_spans(&t, &g, r, p) || t.careful || g.dbias) return;
    t.careful = true;
    all_spans(&t, &g, r, p);
}

/* ---- tasks ---------------------------------------------------------------------------------------------------------- */

enum { GRAD_CHUNK = QB }; /* queries of a task that computes dq alone */

/* The longest item, in queries and keys. */
static void longest(const struct ad_call *c, int64_t items, int64_t *n_q, int64_t *n_k)
{
    const int32_t *qo = c->in[3].data, *ko = c->in[4].data;
    *n_q = *n_k = 0;
    for (int64_t i = 0; i < items; i++) {
        if (qo[i + 1] - qo[i] > *n_q) *n_q = qo[i + 1] - qo[i];
        if (ko[i + 1] - ko[i] > *n_k) *n_k = ko[i + 1] - ko[i];
    }
}

/* Whether whole tasks (five products) or halves (seven, in many pieces) end sooner. `units` whole tasks of `total` work,
 * the largest of which has `most`. */
static bool halves_pay(double threads, double units, double total, double most)
{
    double rounds = total / units * ceil(units / threads), whole = 5 * (most > rounds ? most : rounds);
    return threads > 1 && whole > 7.5 * total / threads;
}

/* The work of one head in pairs of tokens, and the largest item's. */
static double work_of(const struct ad_call *c, int64_t items, double *most)
{
    const int32_t *qo = c->in[3].data, *ko = c->in[4].data;
    double total = 0;
    *most = 0;
    for (int64_t i = 0; i < items; i++) {
        double w = (double)(qo[i + 1] - qo[i]) * (double)(ko[i + 1] - ko[i]);
        total += w;
        if (w > *most) *most = w;
    }
    return total;
}

struct job {
    int threads;
};

/* Whole tasks; or dq by chunks of queries, dk and dv by spans of keys: with a bias a chunk takes its queries of every
 * item. */
static void count_tasks(const struct ad_call *c, int64_t items, int threads, struct tasks *to)
{
    const struct attention_attr *a = c->attr;
    int64_t heads = a->heads, n_q, n_k;
    *to = (struct tasks){.items = items, .n = a->bias && items ? heads : items * heads};
    double most, total = work_of(c, items, &most);
    if (total == 0 || !halves_pay(threads, (double)to->n, total * (double)heads, a->bias ? total : most)) return;
    longest(c, items, &n_q, &n_k);
    to->chunks = (n_q + GRAD_CHUNK - 1) / GRAD_CHUNK;
    to->spans = parts_of(n_k, SPAN).n;
    to->keys = heads * to->spans * items;
    to->n = to->keys + heads * to->chunks * (a->bias ? 1 : items);
}

static void begin_grad(const struct ad_call *c, const void *job, int64_t first, int64_t last)
{
    int64_t items = attention_items(c);
    const int32_t *qo = c->in[3].data, *ko = c->in[4].data;
    attn_clear_padding(&c->out[0], items ? qo[items] : 0);
    for (int k = 1; k < 3; k++) attn_clear_padding(&c->out[k], items ? ko[items] : 0);
    if (((const struct attention_attr *)c->attr)->bias)
        memset(c->out[3].data, 0, (size_t)ad_count(c->out[3].shape) * sizeof(float));
    count_tasks(c, items, ((const struct job *)job)->threads, c->scratch);
}

static void whole_task(const struct ad_call *c, const struct tasks *tasks, int64_t u, struct room *room)
{
    const struct part all = {0, INT64_MAX, 0, INT64_MAX, true, true};
    const struct attention_attr *a = c->attr;
    int64_t heads = a->heads, items = tasks->items;
    for (int64_t i = a->bias ? 0 : u / heads; i < (a->bias ? items : u / heads + 1); i++)
        backward(c, attn_task_of(c, i, u % heads), room, all);
}

static void half_task(const struct ad_call *c, const struct tasks *tasks, int64_t u, struct room *room)
{
    const struct attention_attr *a = c->attr;
    int64_t heads = a->heads, items = tasks->items, chunks = tasks->chunks, spans = tasks->spans;
    int64_t q = u - tasks->keys, s = u % spans, from = q % chunks * GRAD_CHUNK;
    struct part keys = {0, INT64_MAX, s, s + 1, .keys = true},
                queries = {from, from + GRAD_CHUNK, 0, INT64_MAX, .queries = true};
    if (q < 0)
        backward(c, attn_task_of(c, u / spans / heads, u / spans % heads), room, keys);
    else if (!a->bias)
        backward(c, attn_task_of(c, q / chunks / heads, q / chunks % heads), room, queries);
    else
        for (int64_t i = 0; i < items; i++) backward(c, attn_task_of(c, i, q / chunks), room, queries);
}

/* One thread's part: it takes tasks until there are none. */
static void take_grad(const struct ad_call *c, const void *job, int64_t first, int64_t last)
{
    struct tasks *tasks = c->scratch;
    struct room room;
    for (int64_t u; (u = ad_take(&tasks->next, 1, tasks->n)) < tasks->n;) {
        if (tasks->keys)
            half_task(c, tasks, u, &room);
        else
            whole_task(c, tasks, u, &room);
    }
}

void attn_cut_grad(const struct ad_call *c, int threads, struct ad_parts *p)
{
    bool alone = attn_alone(c);
    *(struct job *)(void *)p->job = (struct job){.threads = alone ? 1 : threads};
    p->n = 2;
    p->phase[0] = (struct ad_phase){.items = 1, .run = begin_grad, .alone = true};
    p->phase[1] = (struct ad_phase){.items = threads, .run = take_grad, .alone = alone};
}
