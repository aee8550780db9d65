/* matmul in f32. A 2-d b (or one that is broadcast whole) with a's leading axes in one run is a single product; many
 * small products go over the threads one by one; few large ones are cut each. */
#include "autograd/ops/matmul.h"

#include <assert.h>

#include "autograd/kernels/gemm.h"
#include "autograd/kernels/simd.h"
#include "autograd/ops/common.h"
#include "base/threads.h"

struct job {
    struct gemm_args g; /* the first product */
    struct ad_shape batch;
    int64_t count;
    bool cut; /* each product over all threads, one after another */
};

/* Whether b stands still while a's leading axes and rows advance by one stride, which is then *row. */
static bool one_product(const struct ad_call *c, const struct gemm_args *g, int64_t *row)
{
    const struct matmul_attr *t = c->attr;
    const struct ad_tensor *a = &c->in[0], *b = &c->in[1];
    int64_t next = 0;
    if (t->ta || a->shape.rank != c->out[0].shape.rank || (g->a_col != 1 && g->k > 1)) return false;
    for (int d = 0; d < b->shape.rank - 2; d++)
        if (b->shape.dim[d] != 1) return false;
    for (int d = a->shape.rank - 2; d >= 0; d--) {
        if (a->shape.dim[d] == 1) continue;
        if (!next) *row = a->stride[d];
        if (a->stride[d] < g->k || a->stride[d] < 1 || (next && a->stride[d] != next)) return false;
        next = a->stride[d] * a->shape.dim[d];
    }
    return true;
}

static struct job job_of(const struct ad_call *c)
{
    const struct matmul_attr *t = c->attr;
    const struct ad_tensor *a = &c->in[0], *b = &c->in[1], *y = &c->out[0];
    struct job j = {.batch = y->shape};
    struct gemm_args *g = &j.g;
    matmul_strides(a, t->ta, &g->a_row, &g->a_col);
    matmul_strides(b, t->tb, &g->b_row, &g->b_col);
    g->m = y->shape.dim[y->shape.rank - 2];
    g->n = g->c_row = g->res_row = y->shape.dim[y->shape.rank - 1];
    g->k = a->shape.dim[a->shape.rank - (t->ta ? 2 : 1)];
    g->a = a->data;
    g->b = b->data;
    g->c = y->data;
    if (t->bias) g->bias = c->in[2].data;
    g->a_type = a->dtype;
    g->b_type = b->dtype;
    g->c_type = y->dtype;
    if (t->residual) {
        g->residual = c->in[2 + t->bias].data;
        g->res_type = c->in[2 + t->bias].dtype;
    }
    if (t->panels) g->panels = (struct gemm_panels){.at = c->in[c->n_in - 1].data, .n = g->n};
    if (t->act) g->act = ad_tile_find(matmul_act_op(t->act));
    j.batch.rank -= 2;
    j.count = ad_count(j.batch);
    if (j.count > 1 && one_product(c, g, &g->a_row)) {
        g->m *= j.count;
        j.count = 1;
        j.batch.rank = 0;
    }
    j.cut = j.count == 1 || (j.count < 8 && g->m * g->n * g->k >= 1 << 21);
    return j;
}

static void advance(const struct ad_call *c, const struct job *j, int64_t p, struct gemm_args *g)
{
    int64_t at[AD_MAX_DIMS], rest = p, size = g->m * g->n;
    if (j->count == 1) return;
    for (int d = j->batch.rank - 1; d >= 0; d--) {
        at[d] = rest % j->batch.dim[d];
        rest /= j->batch.dim[d];
    }
    g->a = at_as(g->a_type, g->a, matmul_offset(&c->in[0], &c->out[0], at));
    g->b = at_as(g->b_type, g->b, matmul_offset(&c->in[1], &c->out[0], at));
    g->c = at_as(g->c_type, g->c, p * size);
    if (g->residual) g->residual = at_as(g->res_type, g->residual, p * size);
}

/* Few products, each cut: their blocks one after the other. */
struct cut_job {
    struct job j;
    struct gemm_work one;
};
static_assert(sizeof(struct cut_job) <= AD_JOB_BYTES, "a product's job");

static struct gemm_work work_at(const struct ad_call *c, const struct cut_job *j, int64_t p)
{
    struct gemm_work w = j->one;
    advance(c, &j->j, p, &w.g);
    if (w.ranges > 1) w.sums += p * w.ranges * w.g.m * w.g.n;
    return w;
}

static void do_phase(const struct ad_call *c, const struct cut_job *j, int phase, int64_t from, int64_t to)
{
    int64_t each = j->one.items[phase];
    gemm_enter_thread();
    for (int64_t i = from; i < to; i++) {
        struct gemm_work w = work_at(c, j, i / each);
        gemm_do(&w, phase, i % each);
    }
}
static void do_blocks(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    do_phase(c, job, 0, from, to);
}
static void do_sums(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    do_phase(c, job, 1, from, to);
}

static void do_products(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct job *j = job;
    gemm_enter_thread();
    for (int64_t p = from; p < to; p++) {
        struct gemm_args g = j->g;
        advance(c, j, p, &g);
        g.lanes = gemm_sums_in_lanes(&g);
        gemm_block(&g);
    }
}

static void cut(const struct ad_call *c, int threads, struct ad_parts *p)
{
    struct cut_job *j = (void *)p->job;
    j->j = job_of(c);
    const struct gemm_args *g = &j->j.g;
    bool alone = j->j.count * g->m * g->n * g->k <= 1 << 18;
    if (!j->j.cut) {
        p->n = 1;
        p->phase[0] = (struct ad_phase){.items = j->j.count, .run = do_products, .alone = alone};
        return;
    }
    j->one = gemm_work_of(g, c->scratch, threads);
    p->n = j->one.items[1] ? 2 : 1;
    p->phase[0] =
        (struct ad_phase){.items = j->j.count * j->one.items[0], .run = do_blocks, .dynamic = true, .alone = alone};
    p->phase[1] = (struct ad_phase){.items = j->j.count * j->one.items[1], .run = do_sums};
}

static size_t scratch(const struct ad_call *c)
{
    struct job j = job_of(c);
    return j.cut ? (size_t)j.count * gemm_scratch(j.g.m, j.g.n, j.g.k) : 0;
}

static bool accepts(const struct ad_call *c)
{
    const struct matmul_attr *t = c->attr;
    if (t->bias && c->in[2].dtype != AD_F32) return false;
    return !t->act || ad_tile_find(matmul_act_op(t->act));
}

static struct gemm_args weights_of(const struct ad_call *c)
{
    const struct panels_attr *t = c->attr;
    const struct ad_tensor *b = &c->in[0];
    struct gemm_args g = {.b = b->data, .b_type = b->dtype};
    g.k = b->shape.dim[t->tb ? 1 : 0];
    g.n = b->shape.dim[t->tb ? 0 : 1];
    matmul_strides(b, t->tb, &g.b_row, &g.b_col);
    return g;
}

static void do_panels(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    for (int64_t p = from; p < to; p++) gemm_panels_copy(job, p, c->out[0].data);
}

static void cut_panels(const struct ad_call *c, int threads, struct ad_parts *p)
{
    struct gemm_args *g = (void *)p->job;
    *g = weights_of(c);
    p->n = 1;
    p->phase[0] =
        (struct ad_phase){.items = gemm_panels_pieces(g->n, g->k), .run = do_panels, .alone = g->n * g->k <= PAR_MIN};
}

const struct ad_kernel ISA_FN(ad_kernels_matmul)[] = {
    {&ad_op_matmul, AD_F32, accepts, NULL, scratch, "gemm", GEMM_HALF ? 15 : 0, GEMM_HALF, cut},
    {&ad_op_panels, AD_F32, NULL, NULL, NULL, "panels", GEMM_HALF, 0, cut_panels},
    {0},
};
