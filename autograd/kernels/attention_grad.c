/* The gradient of packed attention in f32: probabilities are computed again from the logsumexp (Dao et al. 2022, alg. 4).
 *
 * Keys are taken in spans; for each span all queries go by in blocks. dk and dv of a span are summed on this thread, dq in
 * memory from span to span. One task does all of that for an item and head; where these are too few for the threads, dq
 * (by chunks of queries) and dk, dv (by spans) become tasks of their own, which compute the probabilities twice but each
 * sum in the same order: the bits are the same. A dbias is summed over the items in their order, by one task a head or a
 * head's chunk of queries. */
#pragma GCC optimize("O3")
#include <omp.h>
#include <string.h>

#include "autograd/kernels/attention_block.h"

struct room {
    float k[SPAN * ROW], v[SPAN * ROW], dk[SPAN * ROW], dv[SPAN * ROW];
    float qt[MAX_DIM * LANES], gt[MAX_DIM * LANES], s[KB * LANES], ds[KB * LANES], bias[KB * LANES];
    float q[QB * ROW], g[QB * ROW], dq[QB * ROW], lse[QB], delta[QB];
    struct attn_ahead ahead;
} __attribute__((aligned(64)));

/* What of an item and head is computed. */
struct part {
    int64_t q_from, q_to;       /* queries; q_from is a multiple of 16 */
    int64_t span_from, span_to; /* spans of keys */
    bool queries, keys;         /* dq (and dbias); dk and dv (which need all queries) */
};

struct grads {
    const float *y, *dy, *lse; /* at the task's rows and columns */
    int64_t ldy, lddy;
    float *dq, *dk, *dv, *dbias;
    int64_t lddq, lddk, lddv;
};

static struct grads grads_of(const struct ad_call *c, const struct attn_task *t)
{
    int bias = ((const struct attention_attr *)c->attr)->bias;
    const struct ad_tensor *y = &c->in[5 + bias], *lse = y + 1, *dy = y + 2, *out = c->out;
    int64_t col = t->h * t->dim;
    struct grads g = {.y = (const float *)y->data + t->q_row * y->stride[0] + col,
                      .dy = (const float *)dy->data + t->q_row * dy->stride[0] + col,
                      .lse = (const float *)lse->data + t->q_row * t->heads + t->h,
                      .ldy = y->stride[0],
                      .lddy = dy->stride[0],
                      .dq = (float *)out[0].data + t->q_row * out[0].stride[0] + col,
                      .dk = (float *)out[1].data + t->k_row * out[1].stride[0] + col,
                      .dv = (float *)out[2].data + t->k_row * out[2].stride[0] + col,
                      .lddq = out[0].stride[0],
                      .lddk = out[1].stride[0],
                      .lddv = out[2].stride[0]};
    if (bias) g.dbias = (float *)out[3].data + t->h * c->in[5].shape.dim[1] * t->sk;
    return g;
}

static bool finite_task(const struct attn_task *t, const struct grads *g)
{
    return attn_all_finite(t->q, t->ldq, t->n_q, t->dim) && attn_all_finite(t->k, t->ldk, t->n_k, t->dim) &&
           attn_all_finite(t->v, t->ldv, t->n_k, t->dim) && attn_all_finite(g->y, g->ldy, t->n_q, t->dim) &&
           attn_all_finite(g->dy, g->lddy, t->n_q, t->dim) && attn_all_finite(g->lse, t->heads, t->n_q, 1);
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
    struct block b = {q0, qn, t->q + q0 * t->ldq, g->dy + q0 * g->lddy, t->ldq, g->lddy};
    attn_copy_columns(b.q, b.ldq, qn, t->dim, t->scale * LOG2E, r->qt);
    attn_copy_columns(b.g, b.ldg, qn, t->dim, 1, r->gt);
    for (int64_t i = 0; i < qn; i++) {
        const float *y = g->y + (q0 + i) * g->ldy, *dy = b.g + i * b.ldg;
        vf sum = {0};
        float tail = 0;
        int64_t d = 0;
        for (; d + VL <= t->dim; d += VL) sum += vf_load(y + d) * vf_load(dy + d);
        for (; d < t->dim; d++) tail += y[d] * dy[d];
        r->delta[i] = vf_sum(sum) + tail;
        r->lse[i] = g->lse[(q0 + i) * t->heads] * LOG2E;
    }
    for (int64_t i = qn; i < QB; i++) r->delta[i] = r->lse[i] = 0;
    if (t->n_k <= QB && t->dim % VL == 0) return b;
    attn_copy_rows(b.q, b.ldq, qn, t->dim, r->q);
    attn_copy_rows(b.g, b.ldg, qn, t->dim, r->g);
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

/* The span of keys k0 .. k0+kn-1 with all queries of the part. Returns whether all that was multiplied is finite: a row of
 * each product tells. */
static bool span(const struct attn_task *t, const struct grads *g, struct room *r, struct part p, int64_t k0,
                 int64_t kn)
{
    struct attn_blocks queries = attn_blocks_of(t, p.q_to - p.q_from);
    bool once = queries.of.n == 1; /* one block: it sees every key, nothing is added to */
    attn_copy_rows(t->k + k0 * t->ldk, t->ldk, kn, t->dim, r->k);
    attn_copy_rows(t->v + k0 * t->ldv, t->ldv, kn, t->dim, r->v);
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
            if (t->causal && p.queries) finite = finite && attn_all_finite(r->dq, ROW, 1, t->dim);
        }
        for (int64_t i = 0; i < qn && p.queries; i++) {
            float *to = g->dq + (q0 + i) * g->lddq;
            if (seen > 0 && attn_sees(t, q0 + i) > 0)
                attn_put_row(to, r->dq + i * ROW, t->dim, t->scale, k0 > 0);
            else if (k0 == 0)
                memset(to, 0, (size_t)t->dim * sizeof *to);
        }
    }
    for (int64_t j = 0; j < kn && p.keys; j++) {
        attn_put_row(g->dk + (k0 + j) * g->lddk, r->dk + j * ROW, t->dim, t->scale, false);
        attn_put_row(g->dv + (k0 + j) * g->lddv, r->dv + j * ROW, t->dim, 1, false);
    }
    if (t->causal && p.keys && any)
        finite = finite && attn_all_finite(r->dk, ROW, 1, t->dim) && attn_all_finite(r->dv, ROW, 1, t->dim);
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
    attn_add_ahead(a, t->q + t->dim, t->ldq, t->n_q);
    attn_add_ahead(a, t->k + t->dim, t->ldk, t->n_k);
    attn_add_ahead(a, t->v + t->dim, t->ldv, t->n_k);
    attn_add_ahead(a, g->dy + t->dim, g->lddy, t->n_q);
    attn_add_ahead(a, g->y + t->dim, g->ldy, t->n_q);
}

static void backward(const struct ad_call *c, struct attn_task t, struct room *r, struct part p)
{
    struct grads g = grads_of(c, &t);
    look_ahead(&t, &g, &r->ahead);
    p.q_to = attn_min(p.q_to, t.n_q);
    p.q_from = attn_min(p.q_from, p.q_to);
    if (t.n_k == 0)
        for (int64_t i = p.q_from; i < p.q_to && p.queries; i++)
            memset(g.dq + i * g.lddq, 0, (size_t)t.dim * sizeof *g.dq);
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
static bool cut(double units, double total, double most)
{
    double threads = omp_in_parallel() ? 1 : omp_get_max_threads();
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

/* dq by chunks of queries, dk and dv by spans of keys. With a bias a chunk takes its queries of every item. */
static void run_cut(const struct ad_call *c, int64_t items, int64_t heads, bool bias)
{
    int64_t n_q, n_k;
    longest(c, items, &n_q, &n_k);
    int64_t chunks = (n_q + GRAD_CHUNK - 1) / GRAD_CHUNK, spans = parts_of(n_k, SPAN).n;
    int64_t by_q = heads * chunks * (bias ? 1 : items), by_k = heads * spans * items;
#pragma omp parallel
    {
        struct room room;
#pragma omp for schedule(dynamic) nowait
        for (int64_t u = 0; u < by_k + by_q; u++) {
            int64_t q = u - by_k, s = u % spans, from = q % chunks * GRAD_CHUNK;
            struct part keys = {0, INT64_MAX, s, s + 1, .keys = true},
                        queries = {from, from + GRAD_CHUNK, 0, INT64_MAX, .queries = true};
            if (q < 0)
                backward(c, attn_task_of(c, u / spans / heads, u / spans % heads), &room, keys);
            else if (!bias)
                backward(c, attn_task_of(c, q / chunks / heads, q / chunks % heads), &room, queries);
            else
                for (int64_t i = 0; i < items; i++) backward(c, attn_task_of(c, i, q / chunks), &room, queries);
        }
    }
}

void attn_run_grad(const struct ad_call *c)
{
    const struct attention_attr *a = c->attr;
    int64_t items = attention_items(c), heads = a->heads, tasks = a->bias ? heads : items * heads;
    const int32_t *qo = c->in[3].data, *ko = c->in[4].data;
    attn_clear_padding(&c->out[0], items ? qo[items] : 0);
    for (int k = 1; k < 3; k++) attn_clear_padding(&c->out[k], items ? ko[items] : 0);
    if (a->bias) memset(c->out[3].data, 0, (size_t)ad_count(c->out[3].shape) * sizeof(float));
    if (!items) return;
    double most, total = work_of(c, items, &most);
    if (total > 0 && cut((double)tasks, total * (double)heads, a->bias ? total : most)) {
        run_cut(c, items, heads, a->bias);
        return;
    }
    const struct part all = {0, INT64_MAX, 0, INT64_MAX, true, true};
#pragma omp parallel if (items * heads > 8)
    {
        struct room room;
#pragma omp for schedule(dynamic) nowait
        for (int64_t u = 0; u < tasks; u++)
            for (int64_t i = a->bias ? 0 : u / heads; i < (a->bias ? items : u / heads + 1); i++)
                backward(c, attn_task_of(c, i, u % heads), &room, all);
    }
}
