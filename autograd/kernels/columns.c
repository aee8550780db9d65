/* See columns.h. */
#pragma GCC optimize("O3")
#include "autograd/kernels/columns.h"

#include "autograd/kernels/stream.h"

/* Sums run over at most so many rows before they are added to those of the rows before. */
enum { RUN = 128, UNROLL = 4, SHORT = 64 };

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* n is VL, or less at the end of a row. */
SIMD_FN vf get(const float *p, int64_t n)
{
    return n == VL ? vf_load(p) : vf_load_part(p, n, 0);
}
SIMD_FN void put(float *p, vf x, int64_t n)
{
    if (n == VL)
        vf_store(p, x);
    else
        vf_store_part(p, x, n);
}

SIMD_FN void put_result(float *p, vf x, int64_t n, bool stream)
{
    if (stream)
        vf_stream(p, x);
    else
        put(p, x, n);
}

/* Calls step(k, row, rows, column, n, ...) for all vectors of rows first .. last-1. Rows of a few lines go four at a
 * time, and longer ones one by one: several streams at once are read from memory at half the speed of one. */
#define EACH(step, k, first, last, ...)                                                           \
    do {                                                                                          \
        int64_t i_ = (first), whole_ = (k)->c / VL * VL, rest_ = (k)->c - whole_;                 \
        for (; (k)->c <= SHORT && i_ + UNROLL <= (last); i_ += UNROLL) {                          \
            for (int64_t j_ = 0; j_ < whole_; j_ += VL) step(k, i_, UNROLL, j_, VL, __VA_ARGS__); \
            if (rest_) step(k, i_, UNROLL, whole_, rest_, __VA_ARGS__);                           \
        }                                                                                         \
        for (; i_ < (last); i_++) {                                                               \
            for (int64_t j_ = 0; j_ < whole_; j_ += VL) step(k, i_, 1, j_, VL, __VA_ARGS__);      \
            if (rest_) step(k, i_, 1, whole_, rest_, __VA_ARGS__);                                \
        }                                                                                         \
    } while (0)

/* ---- moments -------------------------------------------------------------------------------------------------------- */

SIMD_FN void moments_step(const struct columns *k, int64_t i, int rows, int64_t j, int64_t n, const float *around,
                          float *sum, float *square)
{
    vf m = get(around + j, n), s = get(sum + j, n), q = get(square + j, n);
    const float *x = k->x + i * k->c + j;
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
        vf e = get(x + r * k->c, n) - m;
        s += e;
        q += e * e;
    }
    put(sum + j, s, n);
    put(square + j, q, n);
}

/* Each run's sums are taken around what is known of the mean so far (the first row, then the rows before), and joined as
 * Chan et al. (1983) do. */
void columns_moments(const struct columns *k, float *mean, float *square, float *room)
{
    float *s = room, *q = room + k->c;
    memcpy(mean, k->x, (size_t)k->c * sizeof *mean);
    memset(square, 0, (size_t)k->c * sizeof *square);
    for (int64_t first = 0; first < k->rows; first += RUN) {
        int64_t last = min64(k->rows, first + RUN);
        memset(room, 0, (size_t)(2 * k->c) * sizeof *room);
        EACH(moments_step, k, first, last, mean, s, q);
        float here = 1 / (float)(last - first), all = 1 / (float)last, before = (float)first;
        for (int64_t j = 0; j < k->c; j++) { /* s: sum of x - mean, where mean is that of the rows before */
            float own = q[j] - s[j] * s[j] * here, e = s[j] * here;
            mean[j] += s[j] * all;
            square[j] += (own < 0 ? 0 : own) + e * e * (before * (float)(last - first) * all);
        }
    }
}

/* ---- y = act((x - mean) scale + bias + residual) --------------------------------------------------------------------- */

SIMD_FN vf activate(int act, vf p)
{
    if (act == AD_ACT_RELU) return vf_pick(vf_le(p, vf_set(0)), vf_set(0), p);
    return act == AD_ACT_SILU ? vf_swish(p, 1) : p;
}

SIMD_FN void affine_step(const struct columns *k, int64_t i, int rows, int64_t j, int64_t n, int act, bool more)
{
    vf m = get(k->mean + j, n), a = get(k->scale + j, n), b = get(k->bias + j, n);
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
        int64_t at = (i + r) * k->c + j;
        vf p = (get(k->x + at, n) - m) * a + b;
        if (more) p += get(k->more + at, n);
        put_result(k->y + at, activate(act, p), n, k->stream);
    }
}

/* One loop for each activation, with and without `more`. */
#define BY_ACT(step, k, first, last, ...)                                                                      \
    do {                                                                                                       \
        if ((k)->act == AD_ACT_NONE && !(k)->more) EACH(step, k, first, last, AD_ACT_NONE, false __VA_ARGS__); \
        if ((k)->act == AD_ACT_NONE && (k)->more) EACH(step, k, first, last, AD_ACT_NONE, true __VA_ARGS__);   \
        if ((k)->act == AD_ACT_RELU && !(k)->more) EACH(step, k, first, last, AD_ACT_RELU, false __VA_ARGS__); \
        if ((k)->act == AD_ACT_RELU && (k)->more) EACH(step, k, first, last, AD_ACT_RELU, true __VA_ARGS__);   \
        if ((k)->act == AD_ACT_SILU && !(k)->more) EACH(step, k, first, last, AD_ACT_SILU, false __VA_ARGS__); \
        if ((k)->act == AD_ACT_SILU && (k)->more) EACH(step, k, first, last, AD_ACT_SILU, true __VA_ARGS__);   \
    } while (0)
#define COMMA ,

void columns_affine(const struct columns *k)
{
    BY_ACT(affine_step, k, 0, k->rows, );
    if (k->stream) stream_end();
}

/* ---- the gradient ---------------------------------------------------------------------------------------------------- */

/* dy behind the activation; e is x - mean. */
SIMD_FN vf behind_act(const struct columns *k, int act, bool more, int64_t at, int64_t n, vf e, vf a, vf b)
{
    vf d = get(k->dy + at, n);
    if (act == AD_ACT_NONE) return d;
    if (act == AD_ACT_RELU && more) return vf_pick(vf_lt(vf_set(0), get(k->more + at, n)), d, vf_set(0));
    vf p = e * a + b;
    if (act == AD_ACT_RELU) return vf_pick(vf_lt(vf_set(0), p), d, vf_set(0));
    if (more) p += get(k->more + at, n);
    return d * vf_swish_slope(p, 1);
}

SIMD_FN void products_step(const struct columns *k, int64_t i, int rows, int64_t j, int64_t n, int act, bool more,
                           float *sum_x, float *sum)
{
    vf m = get(k->mean + j, n), a = get(k->scale + j, n), b = get(k->bias + j, n);
    vf sx = get(sum_x + j, n), s = get(sum + j, n);
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
        int64_t at = (i + r) * k->c + j;
        vf e = get(k->x + at, n) - m, d = behind_act(k, act, more, at, n, e, a, b);
        sx += d * e;
        s += d;
    }
    put(sum_x + j, sx, n);
    put(sum + j, s, n);
}

void columns_products(const struct columns *k, float *sum_x, float *sum, float *room)
{
    float *sx = room, *s = room + k->c;
    memset(sum_x, 0, (size_t)k->c * sizeof *sum_x);
    memset(sum, 0, (size_t)k->c * sizeof *sum);
    for (int64_t first = 0; first < k->rows; first += RUN) {
        int64_t last = min64(k->rows, first + RUN);
        memset(room, 0, (size_t)(2 * k->c) * sizeof *room);
        BY_ACT(products_step, k, first, last, COMMA sx COMMA s);
        for (int64_t j = 0; j < k->c; j++) sum_x[j] += sx[j];
        for (int64_t j = 0; j < k->c; j++) sum[j] += s[j];
    }
}

SIMD_FN void dx_step(const struct columns *k, int64_t i, int rows, int64_t j, int64_t n, int act, bool more)
{
    vf m = get(k->mean + j, n), a = get(k->scale + j, n), b = get(k->bias + j, n);
    vf shift = get(k->shift + j, n), slope = get(k->slope + j, n);
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
        int64_t at = (i + r) * k->c + j;
        vf e = get(k->x + at, n) - m, d = behind_act(k, act, more, at, n, e, a, b);
        put_result(k->y + at, d * a - shift - e * slope, n, k->stream);
        if (more) put_result(k->d + at, d, n, k->stream);
    }
}

void columns_dx(const struct columns *k)
{
    BY_ACT(dx_step, k, 0, k->rows, );
    if (k->stream) stream_end();
}
