/* Layer and RMS norm in f32, row by row. Sums over rows are taken within fixed blocks and then over the blocks in order. */
#pragma GCC optimize("O3")
#include "autograd/kernels/norm_blocks.h"
#include "autograd/kernels/simd.h"

/* sum over i of (x_i - mean)^power, power 1 or 2 */
static inline __attribute__((always_inline)) float row_moment(const float *x, int64_t n, float mean, int power)
{
    vf sum[4] = {{0}}, m = vf_set(mean);
    int64_t i = 0;
    for (; i + 4 * VL <= n; i += 4 * VL)
        for (int u = 0; u < 4; u++) {
            vf d = vf_load(x + i + VL * u) - m;
            sum[u] += power == 2 ? d * d : d;
        }
    for (; i + VL <= n; i += VL) {
        vf d = vf_load(x + i) - m;
        sum[0] += power == 2 ? d * d : d;
    }
    float total = vf_sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
    for (; i < n; i++) total += power == 2 ? (x[i] - mean) * (x[i] - mean) : x[i] - mean;
    return total;
}

/* y = (x - mean) r gain + bias */
static void affine_row(int64_t n, const float *x, float mean, float r, const float *gain, const float *bias, float *y)
{
    if (gain && bias)
        for (int64_t i = 0; i < n; i++) y[i] = (x[i] - mean) * r * gain[i] + bias[i];
    else if (gain)
        for (int64_t i = 0; i < n; i++) y[i] = (x[i] - mean) * r * gain[i];
    else
        for (int64_t i = 0; i < n; i++) y[i] = (x[i] - mean) * r + (bias ? bias[i] : 0);
}

static void run_rows(const struct ad_call *c)
{
    const struct norm_attr *a = c->attr;
    struct norm_dims d = norm_dims_of(c->in[0].shape, a);
    const float *x = c->in[0].data, *gain = a->gain ? c->in[1].data : NULL,
                *bias = a->bias ? c->in[1 + a->gain].data : NULL;
    float *y = c->out[0].data, *mean = c->out[1].data, *var = c->out[2].data;
#pragma omp parallel for schedule(static) if (d.n * d.c > PAR_MIN)
    for (int64_t i = 0; i < d.n; i++) {
        const float *row = x + i * d.c;
        float m = a->kind == NORM_RMS ? 0 : row_moment(row, d.c, 0, 1) / (float)d.c;
        float v = row_moment(row, d.c, m, 2) / (float)d.c;
        mean[i] = m;
        var[i] = v;
        affine_row(d.c, row, m, rstd_of(v, a), gain, bias, y + i * d.c);
    }
}

/* Adds a row to the column sums, and returns the row's sums of u and u xhat. */
static void grad_row(int64_t n, const float *x, const float *dy, const float *gain, float mean, float r, float *dgain,
                     float *dbias, float *sum_u, float *sum_ux)
{
    vf su[2] = {{0}}, sx[2] = {{0}}, m = vf_set(mean), rr = vf_set(r);
    int64_t i = 0;
    for (; i + 2 * VL <= n; i += 2 * VL)
        for (int k = 0; k < 2; k++) {
            int64_t at = i + VL * k;
            vf d = vf_load(dy + at), xh = (vf_load(x + at) - m) * rr, u = gain ? d * vf_load(gain + at) : d;
            vf_store(dgain + at, vf_load(dgain + at) + d * xh);
            vf_store(dbias + at, vf_load(dbias + at) + d);
            su[k] += u;
            sx[k] += u * xh;
        }
    *sum_u = vf_sum(su[0] + su[1]);
    *sum_ux = vf_sum(sx[0] + sx[1]);
    for (; i < n; i++) {
        float xh = (x[i] - mean) * r, u = gain ? dy[i] * gain[i] : dy[i];
        dgain[i] += dy[i] * xh;
        dbias[i] += dy[i];
        *sum_u += u;
        *sum_ux += u * xh;
    }
}

struct dx_factors {
    float mean, r, mean_u, mean_ux;
};

/* dx = r (u - mean_u - xhat mean_ux) + more; dx may be more. */
SIMD_FN vf dx_of(vf x, vf u, vf more, struct dx_factors f)
{
    return f.r * (u - f.mean_u - (x - f.mean) * f.r * f.mean_ux) + more;
}
SIMD_FN void dx_row(int64_t n, const float *x, const float *dy, const float *gain, struct dx_factors f,
                    const float *more, float *dx)
{
    int64_t i = 0;
    for (; i + VL <= n; i += VL) {
        vf u = gain ? vf_load(dy + i) * vf_load(gain + i) : vf_load(dy + i);
        vf_store(dx + i, dx_of(vf_load(x + i), u, more ? vf_load(more + i) : vf_set(0), f));
    }
    if (i == n) return;
    vf u = vf_load_part(dy + i, n - i, 0);
    if (gain) u *= vf_load_part(gain + i, n - i, 0);
    vf_store_part(
        dx + i, dx_of(vf_load_part(x + i, n - i, 0), u, more ? vf_load_part(more + i, n - i, 0) : vf_set(0), f), n - i);
}

static void run_grad_rows(const struct ad_call *c)
{
    const struct norm_attr *a = c->attr;
    struct norm_dims d = norm_dims_of(c->in[0].shape, a);
    const float *x = c->in[0].data, *dy = c->in[1].data, *mean = c->in[2].data, *var = c->in[3].data;
    const float *gain = a->gain ? c->in[4].data : NULL, *more = a->residual ? c->in[4 + a->gain].data : NULL;
    float *dx = c->out[0].data, *part = c->scratch;
    int64_t step = block_rows(d.n), blocks = block_count(d.n);
#pragma omp parallel for schedule(static) if (d.n * d.c > PAR_MIN)
    for (int64_t b = 0; b < blocks; b++) {
        float *p = part + b * 2 * d.c;
        memset(p, 0, (size_t)(2 * d.c) * sizeof *p);
        for (int64_t i = b * step; i < min_of(d.n, (b + 1) * step); i++) {
            float su, sx, r = rstd_of(var[i], a);
            grad_row(d.c, x + i * d.c, dy + i * d.c, gain, mean[i], r, p, p + d.c, &su, &sx);
            su = a->kind == NORM_RMS ? 0 : su / (float)d.c;
            struct dx_factors f = {mean[i], r, su, sx / (float)d.c};
            if (gain)
                dx_row(d.c, x + i * d.c, dy + i * d.c, gain, f, more ? more + i * d.c : NULL, dx + i * d.c);
            else
                dx_row(d.c, x + i * d.c, dy + i * d.c, NULL, f, more ? more + i * d.c : NULL, dx + i * d.c);
        }
    }
    join_blocks(part, blocks, d.c, c->out[1].data, c->out[2].data);
}

static bool by_rows(const struct ad_call *c)
{
    int kind = ((const struct norm_attr *)c->attr)->kind;
    return kind != NORM_GROUP;
}

static size_t scratch(const struct ad_call *c)
{
    struct norm_dims d = norm_dims_of(c->in[0].shape, c->attr);
    return c->op == &ad_op_norm_grad ? (size_t)(2 * block_count(d.n) * d.c) * sizeof(float) : 0;
}

const struct ad_kernel ISA_FN(ad_kernels_norm_rows)[] = {
    {&ad_op_layer_norm, AD_F32, NULL, run_rows, scratch, "rows"},
    {&ad_op_rms_norm, AD_F32, NULL, run_rows, scratch, "rows"},
    {&ad_op_norm_grad, AD_F32, by_rows, run_grad_rows, scratch, "rows"},
    {0},
};
