/* Group and batch norm in f32, by columns (channels), an image or a block of rows at a time. Sums over rows are taken
 * within fixed blocks and then over the blocks in order, so that results do not depend on threads; a block's variance is
 * taken around the block's own mean and joined by Chan et al. (1983). */
#pragma GCC optimize("O3")
#include "autograd/kernels/norm_blocks.h"

/* Column means of `rows` rows and sums of squares around them. */
static void column_moments(const float *x, int64_t rows, int64_t c, float *mean, float *square)
{
    memset(mean, 0, (size_t)c * sizeof *mean);
    memset(square, 0, (size_t)c * sizeof *square);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < c; j++) mean[j] += x[i * c + j];
    for (int64_t j = 0; j < c; j++) mean[j] /= (float)rows;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < c; j++) {
            float e = x[i * c + j] - mean[j];
            square[j] += e * e;
        }
}

/* Column sums of dy (x - mean) r and of dy. */
static void column_products(const float *x, const float *dy, const float *mean, const float *r, int64_t rows, int64_t c,
                            float *restrict sum_dx, float *restrict sum_d)
{
    memset(sum_dx, 0, (size_t)c * sizeof *sum_dx);
    memset(sum_d, 0, (size_t)c * sizeof *sum_d);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < c; j++) {
            float e = dy[i * c + j];
            sum_dx[j] += e * ((x[i * c + j] - mean[j]) * r[j]);
            sum_d[j] += e;
        }
}

static void column_affine(const float *x, const float *mean, const float *scale, const float *bias, int64_t rows,
                          int64_t c, float *y)
{
    for (int64_t i = 0; i < rows; i++)
        if (bias)
            for (int64_t j = 0; j < c; j++) y[i * c + j] = (x[i * c + j] - mean[j]) * scale[j] + bias[j];
        else
            for (int64_t j = 0; j < c; j++) y[i * c + j] = (x[i * c + j] - mean[j]) * scale[j];
}

/* dx = dy scale - shift - (x - mean) slope */
static void column_dx(const float *x, const float *dy, const float *mean, const float *scale, const float *shift,
                      const float *slope, int64_t rows, int64_t c, float *dx)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < c; j++)
            dx[i * c + j] = dy[i * c + j] * scale[j] - shift[j] - (x[i * c + j] - mean[j]) * slope[j];
}

static float gain_at(const float *gain, int64_t j)
{
    return gain ? gain[j] : 1;
}

/* From per-channel sums to what column_dx needs. in: r, sum of dy xhat, sum of dy by channel, for groups of k channels
 * of `rows` rows; out: scale, shift, slope by channel. */
static void dx_factors(const float *gain, const float *r, const float *sum_dx, const float *sum_d, int64_t groups,
                       int64_t k, int64_t rows, float *scale, float *shift, float *slope)
{
    for (int64_t g = 0; g < groups; g++) {
        double u = 0, ux = 0, count = (double)(rows * k);
        for (int64_t j = g * k; j < (g + 1) * k; j++) {
            u += (double)gain_at(gain, j) * sum_d[j];
            ux += (double)gain_at(gain, j) * sum_dx[j];
        }
        for (int64_t j = g * k; j < (g + 1) * k; j++) {
            scale[j] = r[j] * gain_at(gain, j);
            shift[j] = (float)(r[j] * u / count);
            slope[j] = (float)((double)r[j] * r[j] * ux / count);
        }
    }
}

/* Batch statistics from the blocks' own, in order. */
static void batch_stats(const float *part, int64_t blocks, int64_t step, int64_t rows, int64_t c, float *mean,
                        float *var)
{
    for (int64_t j = 0; j < c; j++) {
        double n = 0, m = 0, square = 0;
        for (int64_t b = 0; b < blocks; b++) {
            double more = (double)(min_of(rows, (b + 1) * step) - b * step), delta = part[b * 2 * c + j] - m;
            square += part[b * 2 * c + c + j] + delta * delta * n * more / (n + more);
            m += delta * more / (n + more);
            n += more;
        }
        mean[j] = (float)m;
        var[j] = (float)(square / n);
    }
}

static void run_batch(const struct ad_call *c)
{
    const struct norm_attr *a = c->attr;
    struct norm_dims d = norm_dims_of(c->in[0].shape, a);
    const float *x = c->in[0].data, *gain = a->gain ? c->in[1].data : NULL,
                *bias = a->bias ? c->in[1 + a->gain].data : NULL;
    float *y = c->out[0].data, *mean = c->out[1].data, *var = c->out[2].data, *part = c->scratch;
    int64_t step = block_rows(d.s), blocks = block_count(d.s);
    float *scale = part + blocks * 2 * d.c;
#pragma omp parallel if (d.s * d.c > PAR_MIN)
    {
#pragma omp for schedule(static)
        for (int64_t b = 0; b < blocks; b++)
            column_moments(x + b * step * d.c, min_of(d.s, (b + 1) * step) - b * step, d.c, part + b * 2 * d.c,
                           part + b * 2 * d.c + d.c);
#pragma omp single
        {
            batch_stats(part, blocks, step, d.s, d.c, mean, var);
            for (int64_t j = 0; j < d.c; j++) scale[j] = rstd_of(var[j], a) * gain_at(gain, j);
        }
#pragma omp for schedule(static)
        for (int64_t b = 0; b < blocks; b++)
            column_affine(x + b * step * d.c, mean, scale, bias, min_of(d.s, (b + 1) * step) - b * step, d.c,
                          y + b * step * d.c);
    }
}

static void run_grad_batch(const struct ad_call *c)
{
    const struct norm_attr *a = c->attr;
    struct norm_dims d = norm_dims_of(c->in[0].shape, a);
    const float *x = c->in[0].data, *dy = c->in[1].data, *mean = c->in[2].data, *var = c->in[3].data;
    const float *gain = a->gain ? c->in[4].data : NULL;
    float *dx = c->out[0].data, *part = c->scratch;
    int64_t step = block_rows(d.s), blocks = block_count(d.s);
    float *r = part + blocks * 2 * d.c, *scale = r + d.c, *shift = scale + d.c, *slope = shift + d.c;
    for (int64_t j = 0; j < d.c; j++) r[j] = rstd_of(var[j], a);
#pragma omp parallel if (d.s * d.c > PAR_MIN)
    {
#pragma omp for schedule(static)
        for (int64_t b = 0; b < blocks; b++)
            column_products(x + b * step * d.c, dy + b * step * d.c, mean, r, min_of(d.s, (b + 1) * step) - b * step,
                            d.c, part + b * 2 * d.c, part + b * 2 * d.c + d.c);
#pragma omp single
        {
            join_blocks(part, blocks, d.c, c->out[1].data, c->out[2].data);
            dx_factors(gain, r, c->out[1].data, c->out[2].data, d.c, 1, d.s, scale, shift, slope);
        }
#pragma omp for schedule(static)
        for (int64_t b = 0; b < blocks; b++)
            column_dx(x + b * step * d.c, dy + b * step * d.c, mean, scale, shift, slope,
                      min_of(d.s, (b + 1) * step) - b * step, d.c, dx + b * step * d.c);
    }
}

/* One image: channel moments, joined over the channels of a group. */
static void group_image(const struct ad_call *c, struct norm_dims d, int64_t n, float *room)
{
    const struct norm_attr *a = c->attr;
    const float *gain = a->gain ? c->in[1].data : NULL, *bias = a->bias ? c->in[1 + a->gain].data : NULL;
    const float *x = (const float *)c->in[0].data + n * d.s * d.c;
    float *mean = room, *square = room + d.c, *scale = square + d.c;
    column_moments(x, d.s, d.c, mean, square);
    for (int64_t g = 0; g < d.g; g++) {
        double m = 0, v = 0;
        for (int64_t j = g * d.k; j < (g + 1) * d.k; j++) m += mean[j] / (double)d.k;
        for (int64_t j = g * d.k; j < (g + 1) * d.k; j++) v += square[j] + (double)d.s * (mean[j] - m) * (mean[j] - m);
        v /= (double)(d.s * d.k);
        ((float *)c->out[1].data)[n * d.g + g] = (float)m;
        ((float *)c->out[2].data)[n * d.g + g] = (float)v;
        for (int64_t j = g * d.k; j < (g + 1) * d.k; j++) {
            mean[j] = (float)m;
            scale[j] = rstd_of((float)v, a) * gain_at(gain, j);
        }
    }
    column_affine(x, mean, scale, bias, d.s, d.c, (float *)c->out[0].data + n * d.s * d.c);
}

static void run_group(const struct ad_call *c)
{
    struct norm_dims d = norm_dims_of(c->in[0].shape, c->attr);
    float *room = c->scratch;
#pragma omp parallel for schedule(static) if (d.n * d.s * d.c > PAR_MIN)
    for (int64_t n = 0; n < d.n; n++) group_image(c, d, n, room + n * 3 * d.c);
}

static void grad_group_image(const struct ad_call *c, struct norm_dims d, int64_t n, float *sums, float *room)
{
    const struct norm_attr *a = c->attr;
    const float *gain = a->gain ? c->in[4].data : NULL;
    int64_t at = n * d.s * d.c;
    const float *x = (const float *)c->in[0].data + at, *dy = (const float *)c->in[1].data + at;
    float *mean = room, *r = mean + d.c, *scale = r + d.c, *shift = scale + d.c, *slope = shift + d.c;
    for (int64_t j = 0; j < d.c; j++) {
        mean[j] = ((const float *)c->in[2].data)[n * d.g + j / d.k];
        r[j] = rstd_of(((const float *)c->in[3].data)[n * d.g + j / d.k], a);
    }
    column_products(x, dy, mean, r, d.s, d.c, sums, sums + d.c);
    dx_factors(gain, r, sums, sums + d.c, d.g, d.k, d.s, scale, shift, slope);
    column_dx(x, dy, mean, scale, shift, slope, d.s, d.c, (float *)c->out[0].data + at);
}

static void run_grad_group(const struct ad_call *c)
{
    struct norm_dims d = norm_dims_of(c->in[0].shape, c->attr);
    float *sums = c->scratch, *room = sums + d.n * 2 * d.c;
#pragma omp parallel for schedule(static) if (d.n * d.s * d.c > PAR_MIN)
    for (int64_t n = 0; n < d.n; n++) grad_group_image(c, d, n, sums + n * 2 * d.c, room + n * 5 * d.c);
    join_blocks(sums, d.n, d.c, c->out[1].data, c->out[2].data);
}

static int kind_of(const struct ad_call *c)
{
    return ((const struct norm_attr *)c->attr)->kind;
}

static bool by_columns(const struct ad_call *c)
{
    return kind_of(c) == NORM_BATCH || kind_of(c) == NORM_GROUP;
}

static void run_grad(const struct ad_call *c)
{
    if (kind_of(c) == NORM_BATCH)
        run_grad_batch(c);
    else
        run_grad_group(c);
}

static size_t scratch(const struct ad_call *c)
{
    struct norm_dims d = norm_dims_of(c->in[0].shape, c->attr);
    bool grad = c->op == &ad_op_norm_grad;
    int64_t vectors = kind_of(c) == NORM_BATCH ? 2 * block_count(d.s) + (grad ? 4 : 1) : d.n * (grad ? 7 : 3);
    return (size_t)(vectors * d.c) * sizeof(float);
}

const struct ad_kernel ISA_FN(ad_kernels_norm)[] = {
    {&ad_op_group_norm, AD_F32, NULL, run_group, scratch, "columns"},
    {&ad_op_batch_norm, AD_F32, NULL, run_batch, scratch, "columns"},
    {&ad_op_norm_grad, AD_F32, by_columns, run_grad, scratch, "columns"},
    {0},
};
