/* Cross-entropy in f32: a row is read from memory once for the loss (twice from the cache) and once for the gradient,
 * which may overwrite the logits. Each row is one thread's work. */
#include "autograd/ops/cross_entropy.h"

#include <math.h>
#include <string.h>

#include "autograd/kernels/rows.h"
#include "base/isa.h"
#include "base/threads.h"

enum { WORK = 8 }; /* operations a number, as PAR_MIN counts them */

static void run_loss(const struct ad_call *c)
{
    const struct cross_entropy_attr *a = c->attr;
    int64_t n = c->in[0].shape.dim[0], classes = c->in[0].shape.dim[1];
    const float *x = c->in[0].data;
    float *loss = c->out[0].data, *lse = c->out[1].data;
    memset(loss, 0, (size_t)n * sizeof *loss);
    memset(lse, 0, (size_t)n * sizeof *lse);
    if (!cross_entropy_targets_ok(c)) return;
#pragma omp parallel for schedule(static) if (n * classes * WORK > PAR_MIN)
    for (int64_t i = 0; i < n; i++) {
        const float *row = x + i * classes;
        int64_t t = ad_get_int(&c->in[1], i);
        if (t == a->ignore) continue;
        float m = row_max(row, classes, 1), base = isinf(m) ? 0 : m;
        double all = (double)base + log(row_exp(row, NULL, classes, base));
        double y = all - (1 - a->smoothing) * (double)row[t];
        if (a->smoothing > 0) y -= a->smoothing / (double)classes * row_sum(row, classes);
        loss[i] = (float)y;
        lse[i] = (float)all;
    }
}

/* y = d (exp(x - lse) - share), in place or not */
static void grad_row(const float *x, int64_t n, float lse, float share, float d, float *y)
{
    for (int64_t i = 0; i < n; i += VL) {
        int64_t m = n - i < VL ? n - i : VL;
        vf p = d * (vf_exp((m == VL ? vf_load(x + i) : vf_load_part(x + i, m, 0)) - lse) - share);
        if (m == VL)
            vf_store(y + i, p);
        else
            vf_store_part(y + i, p, m);
    }
}

static void run_grad(const struct ad_call *c)
{
    const struct cross_entropy_attr *a = c->attr;
    int64_t n = c->in[0].shape.dim[0], classes = c->in[0].shape.dim[1];
    const float *x = c->in[0].data, *lse = c->in[2].data, *dy = c->in[3].data;
    float *dx = c->out[0].data, share = (float)(a->smoothing / (double)classes);
    if (!cross_entropy_targets_ok(c)) {
        memset(dx, 0, (size_t)(n * classes) * sizeof *dx);
        return;
    }
#pragma omp parallel for schedule(static) if (n * classes * WORK > PAR_MIN)
    for (int64_t i = 0; i < n; i++) {
        int64_t t = ad_get_int(&c->in[1], i);
        if (t == a->ignore) {
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

const struct ad_kernel ISA_FN(ad_kernels_cross_entropy)[] = {
    {.op = &ad_op_cross_entropy, .dtype = AD_F32, .run = run_loss, .name = "rows"},
    {.op = &ad_op_cross_entropy_grad, .dtype = AD_F32, .run = run_grad, .name = "rows"},
    {0},
};
