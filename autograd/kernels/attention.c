/* Packed attention in f32: one task an item and head; queries by blocks of 32, keys by blocks of 256 with a running
 * maximum and sum (Milakov & Gimelshein 2018; Dao et al. 2022), so that scratch does not grow with the sequence.
 * The small products are register-blocked loops on the transposed keys and values. Tasks share no output but dbias,
 * which is summed by one task a head, in item order: results do not depend on threads. */
#include <math.h>
#include <string.h>

#include "autograd/kernels/vmath.h"
#include "autograd/ops/attention.h"
#include "autograd/ops/ops.h"
#include "base/isa.h"
#include "base/threads.h"

enum { QB = 32, KB = 256, MAX_DIM = 128 };

/* C (R x 16) += A (R x K; element (i,k) at a[i*ai + k*ak]) * B (K x 16 of rows ldb). */
#define TILE_FN(R)                                                                                                 \
    static inline __attribute__((always_inline)) void tile##R(int64_t k_n, const float *a, int64_t ai, int64_t ak, \
                                                              const float *b, int64_t ldb, float *c, int64_t ldc)  \
    {                                                                                                              \
        v8 acc[R][2];                                                                                              \
        for (int i = 0; i < R; i++) acc[i][0] = v8_load(c + i * ldc), acc[i][1] = v8_load(c + i * ldc + 8);        \
        for (int64_t k = 0; k < k_n; k++) {                                                                        \
            v8 b0 = v8_load(b + k * ldb), b1 = v8_load(b + k * ldb + 8);                                           \
            for (int i = 0; i < R; i++) {                                                                          \
                v8 x = v8_set(a[i * ai + k * ak]);                                                                 \
                acc[i][0] += x * b0;                                                                               \
                acc[i][1] += x * b1;                                                                               \
            }                                                                                                      \
        }                                                                                                          \
        for (int i = 0; i < R; i++) v8_store(c + i * ldc, acc[i][0]), v8_store(c + i * ldc + 8, acc[i][1]);        \
    }
TILE_FN(1)
TILE_FN(2)
TILE_FN(4)

/* C (M x N) += A B, any strides of A, rows of B and C contiguous. */
__attribute__((optimize("O3"))) static void product(int64_t m, int64_t n, int64_t k, const float *a, int64_t ai,
                                                    int64_t ak, const float *b, int64_t ldb, float *c, int64_t ldc)
{
    int64_t n16 = n / 16 * 16;
    for (int64_t j = 0; j < n16; j += 16) {
        int64_t i = 0;
        for (; i + 4 <= m; i += 4) tile4(k, a + i * ai, ai, ak, b + j, ldb, c + i * ldc + j, ldc);
        for (; i + 2 <= m; i += 2) tile2(k, a + i * ai, ai, ak, b + j, ldb, c + i * ldc + j, ldc);
        for (; i < m; i++) tile1(k, a + i * ai, ai, ak, b + j, ldb, c + i * ldc + j, ldc);
    }
    for (int64_t i = 0; i < m && n16 < n; i++)
        for (int64_t p = 0; p < k; p++) {
            float x = a[i * ai + p * ak];
            for (int64_t j = n16; j < n; j++) c[i * ldc + j] += x * b[p * ldb + j];
        }
}

struct task {
    const float *q, *k, *v; /* at the item's first row and the head's first column */
    int64_t ldq, ldk, ldv, n_q, n_k, dim, sk;
    const float *bias; /* (Sq, Sk) of the head, or NULL */
    float scale;
    bool causal;
    int64_t q_row, k_row, h, heads, width;
};

static struct task task_of(const struct ad_call *c, int64_t item, int64_t h)
{
    const struct attention_attr *a = c->attr;
    const int32_t *qo = c->in[3].data, *ko = c->in[4].data;
    int64_t width = c->in[0].shape.dim[1], dim = width / a->heads;
    struct task t = {.ldq = c->in[0].stride[0],
                     .ldk = c->in[1].stride[0],
                     .ldv = c->in[2].stride[0],
                     .dim = dim,
                     .h = h,
                     .heads = a->heads,
                     .width = width,
                     .q_row = qo[item],
                     .k_row = ko[item],
                     .n_q = qo[item + 1] - qo[item],
                     .n_k = ko[item + 1] - ko[item],
                     .scale = (float)(1 / sqrt((double)dim)),
                     .causal = a->flags & AD_CAUSAL};
    t.q = (const float *)c->in[0].data + t.q_row * t.ldq + h * dim;
    t.k = (const float *)c->in[1].data + t.k_row * t.ldk + h * dim;
    t.v = (const float *)c->in[2].data + t.k_row * t.ldv + h * dim;
    if (a->bias) {
        t.sk = c->in[5].shape.dim[2];
        t.bias = (const float *)c->in[5].data + h * c->in[5].shape.dim[1] * t.sk;
    }
    return t;
}

static int64_t round16(int64_t n)
{
    return (n + 15) / 16 * 16;
}

/* to (dim x round16(n)) = rows (n x dim)', the tail zero. */
static void transpose_block(const float *rows, int64_t ld, int64_t n, int64_t dim, float *to)
{
    for (int64_t d = 0; d < dim; d++) {
        for (int64_t j = 0; j < n; j++) to[d * KB + j] = rows[j * ld + d];
        for (int64_t j = n; j < round16(n); j++) to[d * KB + j] = 0;
    }
}

/* Keys of block k0 that query i sees. */
static int64_t visible(const struct task *t, int64_t i, int64_t k0, int64_t kn)
{
    if (!t->causal) return kn;
    int64_t n = i + t->n_k - t->n_q + 1 - k0;
    return n < 0 ? 0 : n < kn ? n : kn;
}

/* s (qn x KB): scores of queries q0.. against the transposed keys of a block; what is not seen is -inf, to a multiple
 * of 8. */
static void scores(const struct task *t, int64_t q0, int64_t qn, int64_t k0, int64_t kn, const float *kt, float *s)
{
    int64_t kr = round16(kn);
    for (int64_t i = 0; i < qn; i++) memset(s + i * KB, 0, (size_t)kr * sizeof *s);
    product(qn, kr, t->dim, t->q + q0 * t->ldq, t->ldq, 1, kt, KB, s, KB);
    for (int64_t i = 0; i < qn; i++) {
        float *r = s + i * KB;
        int64_t seen = visible(t, q0 + i, k0, kn);
        for (int64_t j = 0; j < seen; j++) r[j] *= t->scale;
        if (t->bias)
            for (int64_t j = 0; j < seen; j++) r[j] += t->bias[(q0 + i) * t->sk + k0 + j];
        for (int64_t j = seen; j < kr; j++) r[j] = -INFINITY;
    }
}

/* Turns row s into exp(s - top) and returns the sum; kr is a multiple of 16. */
static float exp_row(float *s, int64_t kr, float top)
{
    v8 sum = v8_set(0), m = v8_set(top);
    for (int64_t j = 0; j < kr; j += 8) {
        v8 e = v8_exp(v8_load(s + j) - m);
        v8_store(s + j, e);
        sum += e;
    }
    return v8_sum(sum);
}

static float max_row(const float *s, int64_t kr)
{
    v8 m = v8_load(s);
    for (int64_t j = 8; j < kr; j += 8) m = v8_max(m, v8_load(s + j));
    float top = m[0];
    for (int i = 1; i < 8; i++) top = m[i] > top ? m[i] : top;
    return top;
}

static void forward_task(const struct ad_call *c, struct task t)
{
    float kt[MAX_DIM * KB], s[QB * KB], top[QB], sum[QB];
    float *y = (float *)c->out[0].data + t.q_row * t.width + t.h * t.dim,
          *lse = (float *)c->out[1].data + t.q_row * t.heads + t.h;
    for (int64_t q0 = 0; q0 < t.n_q; q0 += QB) {
        int64_t qn = t.n_q - q0 < QB ? t.n_q - q0 : QB;
        for (int64_t i = 0; i < qn; i++) {
            top[i] = -INFINITY;
            sum[i] = 0;
            memset(y + (q0 + i) * t.width, 0, (size_t)t.dim * sizeof *y);
        }
        for (int64_t k0 = 0; k0 < t.n_k; k0 += KB) {
            int64_t kn = t.n_k - k0 < KB ? t.n_k - k0 : KB, kr = round16(kn);
            if (q0 == 0 || t.n_k > KB) transpose_block(t.k + k0 * t.ldk, t.ldk, kn, t.dim, kt);
            scores(&t, q0, qn, k0, kn, kt, s);
            for (int64_t i = 0; i < qn; i++) {
                float m = max_row(s + i * KB, kr), old = top[i];
                if (m > old) top[i] = m;
                if (top[i] == -INFINITY) {
                    memset(s + i * KB, 0, (size_t)kr * sizeof *s);
                    continue;
                }
                float part = exp_row(s + i * KB, kr, top[i]), shrink = old == -INFINITY ? 0 : expf(old - top[i]);
                sum[i] = sum[i] * shrink + part;
                if (k0 && shrink != 1)
                    for (int64_t d = 0; d < t.dim; d++) y[(q0 + i) * t.width + d] *= shrink;
            }
            product(qn, t.dim, kn, s, KB, 1, t.v + k0 * t.ldv, t.ldv, y + q0 * t.width, t.width);
        }
        for (int64_t i = 0; i < qn; i++) {
            float inv = sum[i] > 0 ? 1 / sum[i] : 0;
            if (isnan(sum[i])) inv = sum[i];
            for (int64_t d = 0; d < t.dim; d++) y[(q0 + i) * t.width + d] *= inv;
            lse[(q0 + i) * t.heads] = sum[i] > 0 ? top[i] + logf(sum[i]) : isnan(sum[i]) ? sum[i] : 0;
        }
    }
}

/* Rows that no item has: zero in every output of `row` floats. */
static void clear_padding(const struct ad_tensor *out, int64_t from)
{
    int64_t rows = out->shape.dim[0], width = out->shape.dim[1];
    memset((float *)out->data + from * width, 0, (size_t)((rows - from) * width) * sizeof(float));
}

static void run_forward(const struct ad_call *c)
{
    int64_t items = attention_items(c), heads = ((const struct attention_attr *)c->attr)->heads;
    const int32_t *qo = c->in[3].data;
    for (int k = 0; k < 2; k++) clear_padding(&c->out[k], items ? qo[items] : 0);
#pragma omp parallel for schedule(dynamic, 4) if (items * heads > 8)
    for (int64_t i = 0; i < items * heads; i++) forward_task(c, task_of(c, i / heads, i % heads));
}

struct grads {
    const float *y, *dy, *lse; /* at the task's rows and columns */
    int64_t ldy;
    float *dq, *dk, *dv, *dbias;
};

/* One block of queries against one block of keys. s gets probabilities, ds the scores' gradient. */
static void backward_block(const struct task *t, const struct grads *g, int64_t q0, int64_t qn, int64_t k0, int64_t kn,
                           const float *kt, const float *vt, const float *delta, float *s, float *ds)
{
    int64_t kr = round16(kn), w = t->width;
    scores(t, q0, qn, k0, kn, kt, s);
    for (int64_t i = 0; i < qn; i++) {
        exp_row(s + i * KB, kr, g->lse[(q0 + i) * t->heads]);
        memset(ds + i * KB, 0, (size_t)kr * sizeof *ds);
    }
    product(qn, kr, t->dim, g->dy + q0 * g->ldy, g->ldy, 1, vt, KB, ds, KB);
    for (int64_t i = 0; i < qn; i++) {
        float *p = s + i * KB, *d = ds + i * KB;
        for (int64_t j = 0; j < kr; j++) d[j] = p[j] * (d[j] - delta[i]);
        if (g->dbias)
            for (int64_t j = 0; j < kn; j++) g->dbias[(q0 + i) * t->sk + k0 + j] += d[j];
        for (int64_t j = 0; j < kr; j++) d[j] *= t->scale;
    }
    product(qn, t->dim, kn, ds, KB, 1, t->k + k0 * t->ldk, t->ldk, g->dq + q0 * w, w);
    product(kn, t->dim, qn, ds, 1, KB, t->q + q0 * t->ldq, t->ldq, g->dk + k0 * w, w);
    product(kn, t->dim, qn, s, 1, KB, g->dy + q0 * g->ldy, g->ldy, g->dv + k0 * w, w);
}

static void backward_task(const struct ad_call *c, struct task t)
{
    const struct attention_attr *a = c->attr;
    float kt[MAX_DIM * KB], vt[MAX_DIM * KB], s[QB * KB], ds[QB * KB], delta[QB];
    const struct ad_tensor *y = &c->in[5 + a->bias], *dy = &c->in[7 + a->bias];
    int64_t col = t.h * t.dim, at_q = t.q_row * t.width + col, at_k = t.k_row * t.width + col;
    struct grads g = {.y = (const float *)y->data + t.q_row * y->stride[0] + col,
                      .dy = (const float *)dy->data + t.q_row * dy->stride[0] + col,
                      .lse = (const float *)c->in[6 + a->bias].data + t.q_row * t.heads + t.h,
                      .ldy = dy->stride[0],
                      .dq = (float *)c->out[0].data + at_q,
                      .dk = (float *)c->out[1].data + at_k,
                      .dv = (float *)c->out[2].data + at_k};
    if (a->bias) g.dbias = (float *)c->out[3].data + t.h * c->in[5].shape.dim[1] * t.sk;
    for (int64_t i = 0; i < t.n_q; i++) memset(g.dq + i * t.width, 0, (size_t)t.dim * sizeof(float));
    for (int64_t j = 0; j < t.n_k; j++) {
        memset(g.dk + j * t.width, 0, (size_t)t.dim * sizeof(float));
        memset(g.dv + j * t.width, 0, (size_t)t.dim * sizeof(float));
    }
    for (int64_t k0 = 0; k0 < t.n_k; k0 += KB) {
        int64_t kn = t.n_k - k0 < KB ? t.n_k - k0 : KB;
        transpose_block(t.k + k0 * t.ldk, t.ldk, kn, t.dim, kt);
        transpose_block(t.v + k0 * t.ldv, t.ldv, kn, t.dim, vt);
        for (int64_t q0 = 0; q0 < t.n_q; q0 += QB) {
            int64_t qn = t.n_q - q0 < QB ? t.n_q - q0 : QB;
            for (int64_t i = 0; i < qn; i++) {
                float d = 0;
                for (int64_t e = 0; e < t.dim; e++) d += g.dy[(q0 + i) * g.ldy + e] * g.y[(q0 + i) * y->stride[0] + e];
                delta[i] = d;
            }
            backward_block(&t, &g, q0, qn, k0, kn, kt, vt, delta, s, ds);
        }
    }
}

static void run_backward(const struct ad_call *c)
{
    const struct attention_attr *a = c->attr;
    int64_t items = attention_items(c), heads = a->heads;
    const int32_t *qo = c->in[3].data, *ko = c->in[4].data;
    clear_padding(&c->out[0], items ? qo[items] : 0);
    for (int k = 1; k < 3; k++) clear_padding(&c->out[k], items ? ko[items] : 0);
    if (a->bias) {
        memset(c->out[3].data, 0, (size_t)ad_count(c->out[3].shape) * sizeof(float));
#pragma omp parallel for schedule(static)
        for (int64_t h = 0; h < heads; h++)
            for (int64_t b = 0; b < items; b++) backward_task(c, task_of(c, b, h));
        return;
    }
#pragma omp parallel for schedule(dynamic, 4) if (items * heads > 8)
    for (int64_t i = 0; i < items * heads; i++) backward_task(c, task_of(c, i / heads, i % heads));
}

static bool accepts(const struct ad_call *c)
{
    const struct attention_attr *a = c->attr;
    return c->in[0].shape.dim[1] / a->heads <= MAX_DIM;
}

const struct ad_kernel ISA_FN(ad_kernels_attention)[] = {
    {.op = &ad_op_attention, .dtype = AD_F32, .accepts = accepts, .run = run_forward, .name = "packed"},
    {.op = &ad_op_attention_grad, .dtype = AD_F32, .accepts = accepts, .run = run_backward, .name = "packed"},
    {0},
};
