/* Cross-entropy in f32: a row is read from memory once for the loss (twice from the cache) and once for the gradient,
 * which may overwrite the logits. Each row is one thread's work. */
#include "autograd/ops/cross_entropy.h"

#include <math.h>
#include <string.h>

#include "autograd/kernels/rows.h"
#include "base/isa.h"
#include "base/threads.h"

enum { WORK = 8 }; /* operations a number, as PAR_MIN counts them */

static void check_targets(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    cross_entropy_targets_ok(c);
}

/* Rows by `run`, once the targets are known to be good. */
static void cut_rows(const struct ad_call *c, struct ad_parts *p,
                     void (*run)(const struct ad_call *c, const void *job, int64_t from, int64_t to))
{
    int64_t n = c->in[0].shape.dim[0], classes = c->in[0].shape.dim[1];
    p->n = 2;
    p->phase[0] = (struct ad_phase){.items = 1, .run = check_targets, .alone = true};
    p->phase[1] = (struct ad_phase){.items = n, .run = run, .alone = n * classes * WORK <= PAR_MIN};
}

static void run_loss(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct cross_entropy_attr *a = c->attr;
    int64_t classes = c->in[0].shape.dim[1];
    const float *x = c->in[0].data;
    float *loss = c->out[0].data, *lse = c->out[1].data;
    memset(loss + from, 0, (size_t)(to - from) * sizeof *loss);
    memset(lse + from, 0, (size_t)(to - from) * sizeof *lse);
    for (int64_t i = from; i < to && !ad_call_failed(c); i++) {
        const float *row = x + i * classes;
        int64_t t = ad_get_int(&c->in[1], i);
        if (t == a->ignore) continue;
        float m = row_top(row, classes), base = isinf(m) ? 0 : m;
        double all = (double)base + log(row_exp(row, NULL, classes, base));
        double y = all - (1 - a->smoothing) * (double)row[t];
        if (a->smoothing > 0) y -= a->smoothing / (double)classes * row_sum(row, classes);
        loss[i] = (float)y;
        lse[i] = (float)all;
    }
}

static void cut_loss(const struct ad_call *c, int threads, struct ad_parts *p)
{
    cut_rows(c, p, run_loss);
}

/* y = d (exp(x - lse) - share), in place or not */
static void grad_row(const float *x, int64_t n, float lse, float share, float d, float *y)
{
    enum { MANY = 4 };
    int64_t i = 0;
    for (; i + MANY * VL <= n; i += MANY * VL) {
        vf e[MANY];
#pragma GCC unroll 4
        for (int u = 0; u < MANY; u++) e[u] = vf_load(x + i + u * VL) - lse;
        vf_exp_cut_each(MANY, e);
#pragma GCC unroll 4
        for (int u = 0; u < MANY; u++) vf_store(y + i + u * VL, d * (e[u] - share));
    }
    for (; i < n; i += VL) {
        int64_t m = n - i < VL ? n - i : VL;
        vf p = d * (vf_exp_cut((m == VL ? vf_load(x + i) : vf_load_part(x + i, m, 0)) - lse) - share);
        if (m == VL)
            vf_store(y + i, p);
        else
            vf_store_part(y + i, p, m);
    }
}

static void run_grad(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct cross_entropy_attr *a = c->attr;
    int64_t classes = c->in[0].shape.dim[1];
    const float *x = c->in[0].data, *lse = c->in[2].data, *dy = c->in[3].data;
    float *dx = c->out[0].data, share = (float)(a->smoothing / (double)classes);
    bool failed = ad_call_failed(c);
    for (int64_t i = from; i < to; i++) {
        int64_t t = ad_get_int(&c->in[1], i);
        if (t == a->ignore || failed) {
            memset(dx + i * classes, 0, (size_t)classes * sizeof *dx);
            continue;
        }
        float at_t = x[i * classes + t];
        grad_row(x + i * classes, classes, lse[i], share, dy[i], dx + i * classes);
        /* p - (1-e) - e/C of the target, without the rounding of p where it is near 1 */
        dx[i * classes + t] =
            (float)((double)dy[i] * (expm1((double)at_t - (double)lse[i]) + a->smoothing - (double)share));
    }
}

static void cut_grad(const struct ad_call *c, int threads, struct ad_parts *p)
{
    cut_rows(c, p, run_grad);
}

const struct ad_kernel ISA_FN(ad_kernels_cross_entropy)[] = {
    {.op = &ad_op_cross_entropy, .dtype = AD_F32, .cut = cut_loss, .name = "rows"},
    {.op = &ad_op_cross_entropy_grad, .dtype = AD_F32, .cut = cut_grad, .name = "rows"},
    {0},
};
