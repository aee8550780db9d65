/* Packed attention in f32. A task is an item, a head and a part of the queries; keys go by with a running maximum and sum
 * (Milakov & Gimelshein 2018; Dao et al. 2022), so that scratch does not grow with the sequence. Which block a number is
 * computed in depends on sizes alone, so results do not depend on threads. Scores are kept in units of log 2. */
#pragma GCC optimize("O3")
#include <string.h>

#include "autograd/kernels/attention_block.h"
#include "autograd/kernels/vfunc.h"
#include "base/threads.h"

struct room {
    float k[SPAN * ROW], v[SPAN * ROW], qt[MAX_DIM * LANES], s[KB * LANES], bias[KB * LANES];
    float y[CHUNK * ROW], top[CHUNK], sum[CHUNK], shrink[QB];
    struct attn_ahead ahead;
} __attribute__((aligned(64)));

/* Scores (keys x queries) become exp2(score - top); `top` and `sum` of the queries go on. shrink: by how much what was
 * summed before becomes less. */
static void softmax_block(int64_t kn, int64_t qn, float *s, float *top, float *sum, float *shrink)
{
    for (int64_t i = 0; i < qn; i += VL) {
        vf old = vf_load(top + i), m = old, part = {0};
        for (int64_t j = 0; j < kn; j++) m = vf_max(vf_load(s + j * LANES + i), m);
        vf_store(top + i, m);
        m = vf_pick(vf_eq(m, vf_set(-INFINITY)), (vf){0}, m); /* nothing seen yet: all become 0 */
        for (int64_t j = 0; j < kn; j++) {
            vf p = vf_exp2_down(vf_load(s + j * LANES + i) - m);
            vf_store(s + j * LANES + i, p);
            part += p;
        }
        vf less = vf_exp2_down(old - m);
        vf_store(shrink + i, less);
        vf_store(sum + i, vf_load(sum + i) * less + part);
    }
}

/* The queries q0 .. q0+qn-1 of the task meet the keys k0 .. k0+kn-1, which lie in the room; y, top, sum are theirs. */
static void meet(const struct attn_task *t, struct room *r, int64_t q0, int64_t qn, int64_t k0, int64_t kn,
                 const float *v, int64_t ldv, float *y, float *top_of, float *sum_of)
{
    float top[QB], sum[QB];
    memcpy(top, top_of, (size_t)qn * sizeof *top);
    memcpy(sum, sum_of, (size_t)qn * sizeof *sum);
    for (int64_t i = qn; i < QB; i++) top[i] = 0, sum[i] = 1;
    attn_copy_columns(attn_row(t->q, q0), qn, t->dim, t->scale * LOG2E, r->qt);
    struct parts p = parts_of(kn, KB);
    int64_t seen = attn_min(kn, attn_sees(t, q0 + qn - 1) - k0);
    for (int64_t b = 0; b < p.n; b++) {
        int64_t at = part_start(p, b), n = attn_min(part_start(p, b + 1), seen) - at;
        if (n <= 0) break;
        bool first = k0 + at == 0;
        attn_fetch(&r->ahead, qn);
        attn_scores(t, q0, qn, k0 + at, n, r->k + at * ROW, r->qt, r->s, r->bias);
        softmax_block(n, qn, r->s, top, sum, r->shrink);
        for (int64_t i = 0; i < qn && !first; i++)
            if (r->shrink[i] != 1) attn_put_row(y + i * ROW, y + i * ROW, t->dim, r->shrink[i], false);
        attn_into_queries(qn, t->dim, n, r->s, v + at * ldv, ldv, y, !first);
    }
    memcpy(top_of, top, (size_t)qn * sizeof *top);
    memcpy(sum_of, sum, (size_t)qn * sizeof *sum);
}

/* y / sum and the logsumexp of queries from `from`, to the outputs. */
static void finish(const struct ad_call *c, const struct attn_task *t, struct room *r, int64_t from, int64_t n)
{
    struct attn_rows y = attn_rows_of(&c->out[0], t->q_row + from, t->h * t->dim);
    float *lse = (float *)c->out[1].data + (t->q_row + from) * t->heads + t->h;
    for (int64_t i = 0; i < n; i += VL) {
        vf sum = vf_load(r->sum + i), top = vf_load(r->top + i);
        vm none = vf_eq(sum, vf_set(0));
        vf inv = vf_pick(none, vf_set(0), 1.0f / sum), l = vf_pick(none, vf_set(0), top * LN2 + vf_log(sum));
        for (int64_t j = i; j < i + VL && j < n; j++) {
            lse[j * t->heads] = l[j - i];
            if (sum[j - i] == 0)
                attn_clear_row(attn_row(y, j), t->dim);
            else
                attn_store_row(attn_row(y, j), r->y + j * ROW, t->dim, inv[j - i]);
        }
    }
}

/* Sums y, top, sum of the queries from .. from+n-1. */
static void sum_keys(const struct attn_task *t, struct room *r, int64_t from, int64_t n)
{
    struct attn_blocks blocks = attn_blocks_of(t, n);
    /* values that are read once need no copy */
    bool in_place = blocks.of.n == 1 && t->dim % VL == 0 && t->v.type == AD_F32;
    for (int64_t i = 0; i < n; i++) r->top[i] = -INFINITY, r->sum[i] = 0;
    struct parts spans = parts_of(t->n_k, SPAN);
    for (int64_t b = 0; b < spans.n; b++) {
        int64_t k0 = part_start(spans, b), kn = part_start(spans, b + 1) - k0;
        int64_t seen = attn_min(kn, attn_sees(t, from + n - 1) - k0);
        if (seen <= 0) break;
        attn_copy_rows(attn_row(t->k, k0), seen, t->dim, r->k);
        struct attn_rows v = attn_row(t->v, k0);
        if (!in_place) {
            attn_copy_rows(v, seen, t->dim, r->v);
            v = (struct attn_rows){AD_F32, r->v, ROW};
        }
        for (int64_t i = 0; i < blocks.of.n; i++) {
            int64_t q = attn_at(&blocks, i);
            meet(t, r, from + q, attn_at(&blocks, i + 1) - q, k0, kn, v.at, v.ld, r->y + q * ROW, r->top + q,
                 r->sum + q);
        }
    }
}

/* Queries from .. from+n-1 of a task. The last of a block sees every key that the block meets: where its y is finite, so
 * are all values that the block multiplied by masked zeros. */
static void forward(const struct ad_call *c, struct attn_task t, struct room *r, int64_t from, int64_t n)
{
    sum_keys(&t, r, from, n);
    struct attn_blocks blocks = attn_blocks_of(&t, n);
    bool odd = false;
    for (int64_t i = 1; i <= blocks.of.n && t.causal; i++) {
        int64_t last = attn_at(&blocks, i) - 1;
        odd |= r->sum[last] != 0 && !attn_finite_row(r->y + last * ROW, t.dim);
    }
    if (odd) {
        t.careful = true;
        sum_keys(&t, r, from, n);
    }
    finish(c, &t, r, from, n);
}

/* The next head of the item comes next, once its last queries are at work. */
static void look_ahead(const struct attn_task *t, int64_t from, struct attn_ahead *a)
{
    *a = (struct attn_ahead){.dim = t->dim};
    if (t->h + 1 == t->heads || from + CHUNK < t->n_q) return;
    attn_add_ahead(a, t->q, t->n_q);
    attn_add_ahead(a, t->k, t->n_k);
    attn_add_ahead(a, t->v, t->n_k);
}

/* What the threads share, at the start of the scratch: how many tasks there are depends on the offsets, so that it is known
 * only when the call runs. */
struct tasks {
    int64_t next, n, items; /* the first that no thread has taken; all */
    int32_t start[];        /* [items + 1]: the chunks of queries of the items before, for one head */
};

static int64_t count_chunks(const int32_t *offsets, int64_t items, int32_t *start)
{
    int64_t n = 0;
    for (int64_t i = 0; i < items; i++) {
        start[i] = (int32_t)n;
        n += (offsets[i + 1] - offsets[i] + CHUNK - 1) / CHUNK;
    }
    start[items] = (int32_t)n;
    return n;
}

/* The last item that starts at or before chunk p; items without chunks are passed over. */
static int64_t item_of(const int32_t *start, int64_t items, int64_t p)
{
    int64_t lo = 0, hi = items;
    while (hi - lo > 1) {
        int64_t mid = (lo + hi) / 2;
        if (start[mid] <= p)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}

/* Rows that no item has: zero in every output. */
void attn_clear_padding(const struct ad_tensor *out, int64_t from)
{
    for (int64_t i = from; i < out->shape.dim[0]; i++) attn_clear_row(attn_rows_of(out, i, 0), out->shape.dim[1]);
}

bool attn_alone(const struct ad_call *c)
{
    int64_t items = c->in[3].shape.dim[0] - 1, keys = c->in[1].shape.dim[0] / (items > 0 ? items : 1);
    return ad_count(c->in[0].shape) * (keys + 1) <= PAR_MIN;
}

static void begin_forward(const struct ad_call *c, const void *job, int64_t first, int64_t last)
{
    int64_t items = attention_items(c);
    const int32_t *qo = c->in[3].data;
    struct tasks *tasks = c->scratch;
    for (int k = 0; k < 2; k++) attn_clear_padding(&c->out[k], items ? qo[items] : 0);
    tasks->next = 0;
    tasks->items = items;
    tasks->n = count_chunks(qo, items, tasks->start) * ((const struct attention_attr *)c->attr)->heads;
}

/* One thread's part: it takes tasks until there are none. */
static void take_forward(const struct ad_call *c, const void *job, int64_t first, int64_t last)
{
    enum { AT_ONCE = 2 };
    int64_t heads = ((const struct attention_attr *)c->attr)->heads;
    struct tasks *tasks = c->scratch;
    struct room room;
    for (int64_t u; (u = ad_take(&tasks->next, AT_ONCE, tasks->n)) < tasks->n;)
        for (int64_t end = attn_min(u + AT_ONCE, tasks->n); u < end; u++) {
            int64_t item = item_of(tasks->start, tasks->items, u / heads),
                    chunks = tasks->start[item + 1] - tasks->start[item],
                    at = u - tasks->start[item] * heads; /* heads of an item follow one another */
            struct attn_task t = attn_task_of(c, item, at / chunks);
            int64_t from = at % chunks * CHUNK;
            look_ahead(&t, from, &room.ahead);
            forward(c, t, &room, from, attn_min(CHUNK, t.n_q - from));
        }
}

static void cut_forward(const struct ad_call *c, int threads, struct ad_parts *p)
{
    p->n = 2;
    p->phase[0] = (struct ad_phase){.items = 1, .run = begin_forward, .alone = true};
    p->phase[1] = (struct ad_phase){.items = threads, .run = take_forward, .alone = attn_alone(c)};
}

static size_t forward_scratch(const struct ad_call *c)
{
    return sizeof(struct tasks) + (size_t)c->in[3].shape.dim[0] * sizeof(int32_t);
}

static bool accepts(const struct ad_call *c)
{
    const struct attention_attr *a = c->attr;
    return c->in[0].shape.dim[1] / a->heads <= MAX_DIM;
}

const struct ad_kernel ISA_FN(ad_kernels_attention)[] = {
    {.op = &ad_op_attention,
     .dtype = AD_F32,
     .accepts = accepts,
     .cut = cut_forward,
     .scratch = forward_scratch,
     .name = "packed",
     .half_in = 7 | 1 << 5,
     .half_out = 1},
    {.op = &ad_op_attention_grad,
     .dtype = AD_F32,
     .accepts = accepts,
     .cut = attn_cut_grad,
     .scratch = attn_grad_scratch,
     .name = "packed",
     .half_in = 7 | 15 << 5,
     .half_out = 7},
    {0},
};
