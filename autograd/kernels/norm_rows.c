/* Layer and RMS norm in f32, row by row. Sums over rows are taken within fixed blocks and then over the blocks in order. */
#pragma GCC optimize("O3")
#include "autograd/kernels/norm_blocks.h"
#include "autograd/kernels/simd.h"
#include "autograd/kernels/stream.h"

/* A row of numbers in f32 or 16 bits. */
struct row {
    enum ad_dtype type;
    const void *at;
};
static struct row row_of(const struct ad_tensor *t, int64_t i)
{
    return (struct row){t->dtype, at_as(t->dtype, t->data, i)};
}
SIMD_FN vf load(struct row r, int64_t i)
{
    return vf_load_as(r.type, r.at, i);
}
SIMD_FN vf load_part(struct row r, int64_t i, int64_t n)
{
    return vf_load_part_as(r.type, r.at, i, n);
}
SIMD_FN float number(struct row r, int64_t i)
{
    return float_as(r.type, r.at, i);
}

/* A row that is written; past the caches (stream_pays) where that is so, and then in f32. */
struct result {
    enum ad_dtype type;
    bool stream;
    void *at;
};
SIMD_FN void store(struct result y, int64_t i, vf x)
{
    if (y.type == AD_F32 && y.stream)
        vf_stream((float *)y.at + i, x);
    else
        vf_store_as(y.type, y.at, i, x);
}
SIMD_FN void store_part(struct result y, int64_t i, vf x, int64_t n)
{
    vf_store_part_as(y.type, y.at, i, x, n);
}

/* sums over i of x_i - from and, with `square`, of (x_i - from)^2 */
struct row_sums {
    float plain, square;
};
SIMD_FN struct row_sums row_sums(struct row x, int64_t n, float from, bool plain, bool square)
{
    vf s[4] = {{0}}, q[4] = {{0}}, m = vf_set(from);
    int64_t i = 0;
    for (; i + 4 * VL <= n; i += 4 * VL)
        for (int u = 0; u < 4; u++) {
            vf d = load(x, i + VL * u) - m;
            if (plain) s[u] += d;
            if (square) q[u] += d * d;
        }
    for (; i + VL <= n; i += VL) {
        vf d = load(x, i) - m;
        if (plain) s[0] += d;
        if (square) q[0] += d * d;
    }
    struct row_sums r = {vf_sum((s[0] + s[1]) + (s[2] + s[3])), vf_sum((q[0] + q[1]) + (q[2] + q[3]))};
    for (; i < n; i++) {
        float d = number(x, i) - from;
        r.plain += d;
        r.square += d * d;
    }
    return r;
}

/* The sum of numbers far from zero loses digits; the second pass, from the mean that it gives, finds them again. */
SIMD_FN void row_moments(struct row x, int64_t n, bool centred, float *mean, float *var)
{
    *mean = centred ? row_sums(x, n, 0, true, false).plain / (float)n : 0;
    struct row_sums r = row_sums(x, n, *mean, centred, true);
    float off = centred ? r.plain / (float)n : 0;
    *mean += off;
    *var = r.square / (float)n - off * off;
}

/* y = (x - mean) r gain + bias */
SIMD_FN void affine_row(int64_t n, struct row x, float mean, float r, const float *gain, const float *bias,
                        struct result y)
{
    int64_t i = 0;
    for (; i + VL <= n; i += VL) {
        vf v = (load(x, i) - mean) * r;
        if (gain) v *= vf_load(gain + i);
        if (bias) v += vf_load(bias + i);
        store(y, i, v);
    }
    if (i == n) return;
    vf v = (load_part(x, i, n - i) - mean) * r;
    if (gain) v *= vf_load_part(gain + i, n - i, 0);
    if (bias) v += vf_load_part(bias + i, n - i, 0);
    store_part(y, i, v, n - i);
}

/* Mean and variance of x; y. The types, and whether y streams, are constants where this is called. */
SIMD_FN void norm_row(int64_t n, struct row x, const struct norm_attr *a, const float *gain, const float *bias,
                      struct result y, float *mean, float *var)
{
    row_moments(x, n, a->kind != NORM_RMS, mean, var);
    affine_row(n, x, *mean, rstd_of(*var, a), gain, bias, y);
}

SIMD_FN void norm_same(enum ad_dtype t, int64_t n, const void *x, const struct norm_attr *a, const float *gain,
                       const float *bias, void *y, float *mean, float *var)
{
    norm_row(n, (struct row){t, x}, a, gain, bias, (struct result){t, false, y}, mean, var);
}

static void run_rows(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct norm_attr *a = c->attr;
    struct norm_dims d = norm_dims_of(c->in[0].shape, a);
    const float *gain = a->gain ? c->in[1].data : NULL, *bias = a->bias ? c->in[1 + a->gain].data : NULL;
    float *mean = c->out[1].data, *var = c->out[2].data;
    enum ad_dtype type = c->out[0].dtype;
    bool stream = c->in[0].dtype == AD_F32 && result_streams(c, d.c);
    for (int64_t i = from; i < to; i++) {
        struct row x = row_of(&c->in[0], i * d.c);
        void *y = at_as(type, c->out[0].data, i * d.c);
        if (stream)
            norm_row(d.c, (struct row){AD_F32, x.at}, a, gain, bias, (struct result){AD_F32, true, y}, mean + i,
                     var + i);
        else if (x.type == type)
            BY_TYPE(type, norm_same, d.c, x.at, a, gain, bias, y, mean + i, var + i);
        else
            norm_row(d.c, x, a, gain, bias, (struct result){type, false, y}, mean + i, var + i);
    }
    if (stream) stream_end();
}

static void cut_rows(const struct ad_call *c, int threads, struct ad_parts *p)
{
    struct norm_dims d = norm_dims_of(c->in[0].shape, c->attr);
    p->n = 1;
    p->phase[0] = (struct ad_phase){.items = d.n, .run = run_rows, .alone = d.n * d.c <= PAR_MIN};
}

/* Adds a row to the column sums, and returns the row's sums of u and u xhat. */
SIMD_FN void grad_row(int64_t n, struct row x, struct row dy, const float *gain, float mean, float r, float *dgain,
                      float *dbias, float *sum_u, float *sum_ux)
{
    vf su[2] = {{0}}, sx[2] = {{0}}, m = vf_set(mean), rr = vf_set(r);
    int64_t i = 0;
    for (; i + 2 * VL <= n; i += 2 * VL)
        for (int k = 0; k < 2; k++) {
            int64_t at = i + VL * k;
            vf d = load(dy, at), xh = (load(x, at) - m) * rr, u = gain ? d * vf_load(gain + at) : d;
            vf_store(dgain + at, vf_load(dgain + at) + d * xh);
            vf_store(dbias + at, vf_load(dbias + at) + d);
            su[k] += u;
            sx[k] += u * xh;
        }
    *sum_u = vf_sum(su[0] + su[1]);
    *sum_ux = vf_sum(sx[0] + sx[1]);
    for (; i < n; i++) {
        float d = number(dy, i), xh = (number(x, i) - mean) * r, u = gain ? d * gain[i] : d;
        dgain[i] += d * xh;
        dbias[i] += d;
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
SIMD_FN void dx_row(int64_t n, struct row x, struct row dy, const float *gain, struct dx_factors f, struct row more,
                    struct result dx)
{
    int64_t i = 0;
    for (; i + VL <= n; i += VL) {
        vf u = gain ? load(dy, i) * vf_load(gain + i) : load(dy, i);
        store(dx, i, dx_of(load(x, i), u, more.at ? load(more, i) : vf_set(0), f));
    }
    if (i == n) return;
    vf u = load_part(dy, i, n - i);
    if (gain) u *= vf_load_part(gain + i, n - i, 0);
    vf add = more.at ? load_part(more, i, n - i) : vf_set(0);
    store_part(dx, i, dx_of(load_part(x, i, n - i), u, add, f), n - i);
}

struct grad_rows {
    int64_t c;
    struct row x, dy, more; /* the first rows; more.at may be NULL */
    const float *gain, *mean, *var;
    struct result dx;
};

/* Row i; the types stand in x, dy, more and `to`, and with `stream` they are constants where this is called. */
SIMD_FN void one_grad(const struct grad_rows *g, const struct norm_attr *a, int64_t i, enum ad_dtype x_type,
                      enum ad_dtype dy_type, enum ad_dtype more_type, enum ad_dtype to, bool stream, float *part)
{
    float su, sx, r = rstd_of(g->var[i], a);
    int64_t at = i * g->c;
    struct row x = {x_type, at_as(x_type, g->x.at, at)}, dy = {dy_type, at_as(dy_type, g->dy.at, at)},
               more = {more_type, g->more.at ? at_as(more_type, g->more.at, at) : NULL};
    struct result dx = {to, stream, at_as(to, g->dx.at, at)};
    grad_row(g->c, x, dy, g->gain, g->mean[i], r, part, part + g->c, &su, &sx);
    su = a->kind == NORM_RMS ? 0 : su / (float)g->c;
    struct dx_factors f = {g->mean[i], r, su, sx / (float)g->c};
    if (g->gain)
        dx_row(g->c, x, dy, g->gain, f, more, dx);
    else
        dx_row(g->c, x, dy, NULL, f, more, dx);
}

SIMD_FN void grad_same(enum ad_dtype t, const struct grad_rows *g, const struct norm_attr *a, int64_t i, float *part)
{
    one_grad(g, a, i, t, t, t, t, false, part);
}

static struct grad_rows grad_rows_of(const struct ad_call *c)
{
    const struct norm_attr *a = c->attr;
    struct grad_rows g = {.c = norm_dims_of(c->in[0].shape, a).c,
                          .x = row_of(&c->in[0], 0),
                          .dy = row_of(&c->in[1], 0),
                          .mean = c->in[2].data,
                          .var = c->in[3].data,
                          .gain = a->gain ? c->in[4].data : NULL,
                          .dx = {c->out[0].dtype, false, c->out[0].data}};
    if (a->residual) g.more = row_of(&c->in[4 + a->gain], 0);
    return g;
}

static void run_grad_blocks(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    struct grad_rows g = grad_rows_of(c);
    int64_t n = norm_dims_of(c->in[0].shape, c->attr).n, step = block_rows(n);
    enum ad_dtype t = g.dx.type, more = g.more.at ? g.more.type : t;
    bool same = g.x.type == t && g.dy.type == t && more == t, stream = same && result_streams(c, g.c);
    for (int64_t b = from; b < to; b++) {
        float *p = (float *)c->scratch + b * 2 * g.c;
        memset(p, 0, (size_t)(2 * g.c) * sizeof *p);
        for (int64_t i = b * step; i < min_of(n, (b + 1) * step); i++) {
            if (stream)
                one_grad(&g, c->attr, i, AD_F32, AD_F32, AD_F32, AD_F32, true, p);
            else if (same)
                BY_TYPE(t, grad_same, &g, c->attr, i, p);
            else
                one_grad(&g, c->attr, i, g.x.type, g.dy.type, more, t, false, p);
        }
    }
    if (stream) stream_end();
}

enum { JOIN = 64 }; /* columns of one item */

static void run_join(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    struct norm_dims d = norm_dims_of(c->in[0].shape, c->attr);
    join_blocks(c->scratch, block_count(d.n), d.c, from * JOIN, min_of(d.c, to * JOIN), c->out[1].data, c->out[2].data);
}

static void cut_grad_rows(const struct ad_call *c, int threads, struct ad_parts *p)
{
    struct norm_dims d = norm_dims_of(c->in[0].shape, c->attr);
    int64_t blocks = block_count(d.n), joins = (d.c + JOIN - 1) / JOIN;
    p->n = 2;
    p->phase[0] = (struct ad_phase){.items = blocks, .run = run_grad_blocks, .alone = d.n * d.c <= PAR_MIN};
    p->phase[1] = (struct ad_phase){.items = joins, .run = run_join, .alone = blocks * d.c <= PAR_MIN};
}

static bool by_rows(const struct ad_call *c)
{
    const struct norm_attr *a = c->attr;
    return a->kind != NORM_GROUP && !(a->gain && c->in[4].dtype != AD_F32);
}

static size_t scratch(const struct ad_call *c)
{
    struct norm_dims d = norm_dims_of(c->in[0].shape, c->attr);
    return c->op == &ad_op_norm_grad ? (size_t)(2 * block_count(d.n) * d.c) * sizeof(float) : 0;
}

const struct ad_kernel ISA_FN(ad_kernels_norm_rows)[] = {
    {&ad_op_layer_norm, AD_F32, NULL, NULL, scratch, "rows", 1, 1, cut_rows},
    {&ad_op_rms_norm, AD_F32, NULL, NULL, scratch, "rows", 1, 1, cut_rows},
    {&ad_op_norm_grad, AD_F32, by_rows, NULL, scratch, "rows", 1 | 2 | 16 | 32, 1, cut_grad_rows},
    {0},
};
