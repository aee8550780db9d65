/* Pooling and resizing in f32: vectors over the channels, threads over output rows; the gradients, which add where
 * windows overlap, over images. */
#pragma GCC optimize("O3")
#include "autograd/ops/pool.h"

#include <string.h>

#include "autograd/ops/resample.h"
#include "base/isa.h"
#include "base/threads.h"

/* One window at (p, q): keeps the larger of x and what is there. */
static void max_step(int64_t n, const float *restrict x, int32_t from, float *restrict y, int32_t *restrict index)
{
    for (int64_t c = 0; c < n; c++) {
        bool more = (x[c] > y[c]) | ((x[c] != x[c]) & (y[c] == y[c]));
        index[c] = more ? from + (int32_t)c : index[c];
        y[c] = more ? x[c] : y[c];
    }
}

static void run_max(const struct ad_call *c)
{
    const struct pool_attr *a = c->attr;
    struct ad_shape x = c->in[0].shape, y = c->out[0].shape;
    const float *from = c->in[0].data;
    int64_t width = x.dim[3];
#pragma omp parallel for schedule(static) if (ad_count(y) * a->kernel[0] * a->kernel[1] > PAR_MIN)
    for (int64_t r = 0; r < y.dim[0] * y.dim[1]; r++)
        for (int64_t j = 0; j < y.dim[2]; j++) {
            int64_t to = (r * y.dim[2] + j) * width, lo[2], hi[2];
            float *out = (float *)c->out[0].data + to;
            int32_t *index = (int32_t *)c->out[1].data + to;
            pool_window(a, 0, r % y.dim[1], x.dim[1], &lo[0], &hi[0]);
            pool_window(a, 1, j, x.dim[2], &lo[1], &hi[1]);
            for (int64_t p = lo[0]; p < hi[0]; p++)
                for (int64_t q = lo[1]; q < hi[1]; q++) {
                    int64_t e = ((r / y.dim[1] * x.dim[1] + p) * x.dim[2] + q) * width;
                    if (p == lo[0] && q == lo[1]) {
                        memcpy(out, from + e, (size_t)width * sizeof *out);
                        for (int64_t k = 0; k < width; k++) index[k] = (int32_t)(e + k);
                    } else {
                        max_step(width, from + e, (int32_t)e, out, index);
                    }
                }
        }
}

static void run_max_grad(const struct ad_call *c)
{
    struct ad_shape x = c->out[0].shape, y = c->in[0].shape;
    int64_t in = x.dim[1] * x.dim[2] * x.dim[3], out = y.dim[1] * y.dim[2] * y.dim[3];
    const float *dy = c->in[0].data;
    const int32_t *index = c->in[1].data;
    float *dx = c->out[0].data;
#pragma omp parallel for schedule(static) if (ad_count(x) > PAR_MIN)
    for (int64_t n = 0; n < x.dim[0]; n++) {
        memset(dx + n * in, 0, (size_t)in * sizeof *dx);
        for (int64_t i = n * out; i < (n + 1) * out; i++) dx[index[i]] += dy[i];
    }
}

static void add_scaled(int64_t n, float w, const float *restrict x, float *restrict y)
{
    for (int64_t c = 0; c < n; c++) y[c] += w * x[c];
}

static float weight(struct resample_tap v, struct resample_tap h, int64_t p, int64_t q)
{
    return (float)((p == v.lo ? v.first : v.rest) * (q == h.lo ? h.first : h.rest));
}

static void run_resample(const struct ad_call *c)
{
    const struct resample_attr *a = c->attr;
    struct ad_shape y = c->out[0].shape;
    const float *x = c->in[0].data;
    int64_t width = y.dim[3];
#pragma omp parallel for schedule(static) if (ad_count(y) + ad_count(c->in[0].shape) > PAR_MIN)
    for (int64_t r = 0; r < y.dim[0] * y.dim[1]; r++) {
        struct resample_tap v = resample_tap(a, 0, r % y.dim[1]);
        for (int64_t j = 0; j < y.dim[2]; j++) {
            struct resample_tap h = resample_tap(a, 1, j);
            float *out = (float *)c->out[0].data + (r * y.dim[2] + j) * width;
            memset(out, 0, (size_t)width * sizeof *out);
            for (int64_t p = v.lo; p < v.lo + v.n; p++)
                for (int64_t q = h.lo; q < h.lo + h.n; q++)
                    add_scaled(width, weight(v, h, p, q), x + ((r / y.dim[1] * a->in[0] + p) * a->in[1] + q) * width,
                               out);
        }
    }
}

static void run_resample_adjoint(const struct ad_call *c)
{
    const struct resample_attr *a = c->attr;
    struct ad_shape x = c->out[0].shape, y = c->in[0].shape;
    const float *dy = c->in[0].data;
    float *dx = c->out[0].data;
    int64_t width = x.dim[3], size = x.dim[1] * x.dim[2] * width;
#pragma omp parallel for schedule(static) if (ad_count(x) + ad_count(y) > PAR_MIN)
    for (int64_t n = 0; n < x.dim[0]; n++) {
        memset(dx + n * size, 0, (size_t)size * sizeof *dx);
        for (int64_t i = 0; i < y.dim[1]; i++)
            for (int64_t j = 0; j < y.dim[2]; j++) {
                struct resample_tap v = resample_tap(a, 0, i), h = resample_tap(a, 1, j);
                const float *from = dy + ((n * y.dim[1] + i) * y.dim[2] + j) * width;
                for (int64_t p = v.lo; p < v.lo + v.n; p++)
                    for (int64_t q = h.lo; q < h.lo + h.n; q++)
                        add_scaled(width, weight(v, h, p, q), from, dx + ((n * a->in[0] + p) * a->in[1] + q) * width);
            }
    }
}

const struct ad_kernel ISA_FN(ad_kernels_pool)[] = {
    {&ad_op_max_pool, AD_F32, NULL, run_max, NULL, "channels"},
    {&ad_op_max_pool_grad, AD_F32, NULL, run_max_grad, NULL, "images"},
    {&ad_op_resample, AD_F32, NULL, run_resample, NULL, "channels"},
    {&ad_op_resample_adjoint, AD_F32, NULL, run_resample_adjoint, NULL, "images"},
    {0},
};
