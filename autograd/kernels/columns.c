/* See columns.h. */
#pragma GCC optimize("O3")
#include "autograd/kernels/columns.h"

#include "autograd/kernels/stream.h"

/* Sums run over at most so many rows before they are added to those of the rows before. */
enum { RUN = 128, UNROLL = 4, SHORT = 64 };
/* Bytes: what comes is asked for where a vector takes less time than memory does. */
enum { AHEAD = 1024 };

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

SIMD_FN void put_result(enum ad_dtype t, void *p, int64_t i, vf x, int64_t n, bool stream)
{
    if (t == AD_F32 && stream)
        vf_stream((float *)p + i, x);
    else
        vf_put_as(t, p, i, x, n);
}

SIMD_FN void ask_ahead(enum ad_dtype t, const void *p, int64_t i)
{
    ask_l1((const char *)at_as(t, p, i) + AHEAD);
}

/* All of one type: a constant in the loops for it (BY_TYPE). */
SIMD_FN struct column_types all_of(enum ad_dtype t)
{
    return (struct column_types){t, t, t, t, t};
}

/* Calls step(k, row, rows, column, n, ...) for all vectors of rows first .. last-1. Rows of a few lines go four at a
 * time, and longer ones one by one: several streams at once are read from memory at half the speed of one. Of a copy of k
 * the compiler knows that what is stored does not change it. */
#define EACH(unroll, step, k, first, last, ...)                                                       \
    do {                                                                                              \
        const struct columns own_ = *(k);                                                             \
        int64_t i_ = (first), whole_ = own_.c / VL * VL, rest_ = own_.c - whole_;                     \
        for (; (unroll) && own_.c <= SHORT && i_ + UNROLL <= (last); i_ += UNROLL) {                  \
            for (int64_t j_ = 0; j_ < whole_; j_ += VL) step(&own_, i_, UNROLL, j_, VL, __VA_ARGS__); \
            if (rest_) step(&own_, i_, UNROLL, whole_, rest_, __VA_ARGS__);                           \
        }                                                                                             \
        for (; i_ < (last); i_++) {                                                                   \
            for (int64_t j_ = 0; j_ < whole_; j_ += VL) step(&own_, i_, 1, j_, VL, __VA_ARGS__);      \
            if (rest_) step(&own_, i_, 1, whole_, rest_, __VA_ARGS__);                                \
        }                                                                                             \
    } while (0)

/* Rows first .. last-1 of k; what is summed over them, if anything, is added to sum_x and sum. */
typedef void loop_fn(const struct columns *k, int64_t first, int64_t last, float *sum_x, float *sum);

/* One loop, in a function of its own: several in one would have to share the registers. */
#define LOOP(name, unroll, step, ...)                                                                              \
    static __attribute__((noinline)) void name(const struct columns *k, int64_t first, int64_t last, float *sum_x, \
                                               float *sum)                                                         \
    {                                                                                                              \
        EACH(unroll, step, k, first, last, sum_x, sum, __VA_ARGS__);                                               \
    }
/* One for each activation, with and without `more`, in f32. In 16 bits, one for all of them: six for each type would be
 * four times the code. Types that differ are rare, a gradient that comes from a mean over the image: their loop asks for
 * each. */
#define LOOPS(step)                                                                                                   \
    LOOP(step##_none, true, step, AD_ACT_NONE, false, all_of(AD_F32))                                                 \
    LOOP(step##_none_more, true, step, AD_ACT_NONE, true, all_of(AD_F32))                                             \
    LOOP(step##_relu, true, step, AD_ACT_RELU, false, all_of(AD_F32))                                                 \
    LOOP(step##_relu_more, true, step, AD_ACT_RELU, true, all_of(AD_F32))                                             \
    LOOP(step##_silu, true, step, AD_ACT_SILU, false, all_of(AD_F32))                                                 \
    LOOP(step##_silu_more, true, step, AD_ACT_SILU, true, all_of(AD_F32))                                             \
    LOOP(step##_bf16, true, step, k->act, k->more != NULL, all_of(AD_BF16))                                           \
    LOOP(step##_f16, true, step, k->act, k->more != NULL, all_of(AD_F16))                                             \
    LOOP(step##_mixed, false, step, k->act, k->more != NULL, k->type)                                                 \
    static loop_fn *step##_loop(const struct columns *k, bool mixed)                                                  \
    {                                                                                                                 \
        static loop_fn *const wide[][2] = {[AD_ACT_NONE] = {step##_none, step##_none_more},                           \
                                           [AD_ACT_RELU] = {step##_relu, step##_relu_more},                           \
                                           [AD_ACT_SILU] = {step##_silu, step##_silu_more}};                          \
        if (mixed) return step##_mixed;                                                                               \
        return k->type.x == AD_F32 ? wide[k->act][k->more != NULL] : k->type.x == AD_BF16 ? step##_bf16 : step##_f16; \
    }

/* ---- moments -------------------------------------------------------------------------------------------------------- */

SIMD_FN void moments_step(const struct columns *k, int64_t i, int rows, int64_t j, int64_t n, enum ad_dtype t,
                          const float *around, float *sum, float *square)
{
    vf m = vf_get(around + j, n), s = vf_get(sum + j, n), q = vf_get(square + j, n);
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
        ask_ahead(t, k->x, (i + r) * k->row + j);
        vf e = vf_get_as(t, k->x, (i + r) * k->row + j, n) - m;
        s += e;
        q = vf_madd(e, e, q);
    }
    vf_put(sum + j, s, n);
    vf_put(square + j, q, n);
}

/* Each run's sums are taken around what is known of the mean so far (the first row, then the rows before), and joined as
 * Chan et al. (1983) do. */
SIMD_FN void moments(enum ad_dtype t, const struct columns *k, float *mean, float *square, float *room)
{
    float *s = room, *q = room + k->c;
    vf_widen_as(t, k->x, mean, k->c);
    memset(square, 0, (size_t)k->c * sizeof *square);
    for (int64_t first = 0; first < k->rows; first += RUN) {
        int64_t last = min64(k->rows, first + RUN);
        memset(room, 0, (size_t)(2 * k->c) * sizeof *room);
        EACH(true, moments_step, k, first, last, t, mean, s, q);
        float here = 1 / (float)(last - first), all = 1 / (float)last, before = (float)first;
        for (int64_t j = 0; j < k->c; j++) { /* s: sum of x - mean, where mean is that of the rows before */
            float own = q[j] - s[j] * s[j] * here, e = s[j] * here;
            mean[j] += s[j] * all;
            square[j] += (own < 0 ? 0 : own) + e * e * (before * (float)(last - first) * all);
        }
    }
}

void columns_moments(const struct columns *k, float *mean, float *square, float *room)
{
    BY_TYPE(k->type.x, moments, k, mean, square, room);
}

/* ---- y = act((x - mean) scale + bias + residual) --------------------------------------------------------------------- */

SIMD_FN vf activate(int act, vf p)
{
    if (act == AD_ACT_RELU) return vf_pick(vf_le(p, vf_set(0)), vf_set(0), p);
    return act == AD_ACT_SILU ? vf_swish(p, 1) : p;
}

SIMD_FN void affine(const struct columns *k, int64_t i, int rows, int64_t j, int64_t n, float *sum_x, float *sum,
                    int act, bool more, struct column_types t)
{
    vf m = vf_get(k->mean + j, n), a = vf_get(k->scale + j, n), b = vf_get(k->bias + j, n);
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
        int64_t at = (i + r) * k->row + j;
        if (act != AD_ACT_SILU) ask_ahead(t.x, k->x, at);
        vf p = vf_madd(vf_get_as(t.x, k->x, at, n) - m, a, b);
        if (more) p += vf_get_as(t.more, k->more, at, n);
        put_result(t.y, k->y, at, activate(act, p), n, k->stream);
    }
}

LOOPS(affine)

void columns_affine(const struct columns *k)
{
    struct column_types t = k->type;
    affine_loop(k, t.more != t.x || t.y != t.x)(k, 0, k->rows, NULL, NULL);
    if (k->stream) stream_end();
}

/* ---- the gradient ---------------------------------------------------------------------------------------------------- */

/* dy behind the activation; e is x - mean. */
SIMD_FN vf behind_act(const struct columns *k, int act, bool more, struct column_types t, int64_t at, int64_t n, vf e,
                      vf a, vf b)
{
    vf d = vf_get_as(t.dy, k->dy, at, n);
    if (act == AD_ACT_NONE) return d;
    if (act == AD_ACT_RELU && more) return vf_pick(vf_lt(vf_set(0), vf_get_as(t.more, k->more, at, n)), d, vf_set(0));
    vf p = vf_madd(e, a, b);
    if (act == AD_ACT_RELU) return vf_pick(vf_lt(vf_set(0), p), d, vf_set(0));
    if (more) p += vf_get_as(t.more, k->more, at, n);
    return d * vf_swish_slope(p, 1);
}

SIMD_FN void products_kept(const struct columns *k, int64_t i, int rows, int64_t j, int64_t n, float *sum_x, float *sum,
                           int act, bool more, struct column_types t, bool keep)
{
    vf m = vf_get(k->mean + j, n), a = vf_get(k->scale + j, n), b = vf_get(k->bias + j, n);
    vf sx = vf_get(sum_x + j, n), s = vf_get(sum + j, n);
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
        int64_t at = (i + r) * k->row + j;
        if (act != AD_ACT_SILU) ask_ahead(t.x, k->x, at), ask_ahead(t.dy, k->dy, at);
        vf e = vf_get_as(t.x, k->x, at, n) - m, d = behind_act(k, act, more, t, at, n, e, a, b);
        if (keep) put_result(t.y, k->y, at, d, n, k->stream);
        sx = vf_madd(d, e, sx);
        s += d;
    }
    vf_put(sum_x + j, sx, n);
    vf_put(sum + j, s, n);
}

SIMD_FN void products(const struct columns *k, int64_t i, int rows, int64_t j, int64_t n, float *sum_x, float *sum,
                      int act, bool more, struct column_types t)
{
    products_kept(k, i, rows, j, n, sum_x, sum, act, more, t, false);
}
LOOPS(products)
LOOP(products_of_silu_kept, true, products_kept, AD_ACT_SILU, false, all_of(AD_F32), true)

void columns_products(const struct columns *k, float *sum_x, float *sum, float *room)
{
    struct column_types t = k->type;
    loop_fn *loop = k->keep ? products_of_silu_kept : products_loop(k, t.dy != t.x || t.more != t.x);
    float *sx = room, *s = room + k->c;
    memset(sum_x, 0, (size_t)k->c * sizeof *sum_x);
    memset(sum, 0, (size_t)k->c * sizeof *sum);
    for (int64_t first = 0; first < k->rows; first += RUN) {
        memset(room, 0, (size_t)(2 * k->c) * sizeof *room);
        loop(k, first, min64(k->rows, first + RUN), sx, s);
        for (int64_t j = 0; j < k->c; j++) sum_x[j] += sx[j];
        for (int64_t j = 0; j < k->c; j++) sum[j] += s[j];
    }
    if (k->keep && k->stream) stream_end();
}

SIMD_FN void dx(const struct columns *k, int64_t i, int rows, int64_t j, int64_t n, float *sum_x, float *sum, int act,
                bool more, struct column_types t)
{
    vf m = vf_get(k->mean + j, n), a = vf_get(k->scale + j, n), b = vf_get(k->bias + j, n);
    vf shift = vf_get(k->shift + j, n), slope = vf_get(k->slope + j, n);
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
        int64_t at = (i + r) * k->row + j;
        if (act != AD_ACT_SILU) ask_ahead(t.x, k->x, at), ask_ahead(t.dy, k->dy, at);
        vf e = vf_get_as(t.x, k->x, at, n) - m, d = behind_act(k, act, more, t, at, n, e, a, b);
        put_result(t.y, k->y, at, vf_madd(e, -slope, vf_madd(d, a, -shift)), n, k->stream);
        if (more) put_result(t.d, k->d, at, d, n, k->stream);
    }
}

LOOPS(dx)

void columns_dx(const struct columns *k)
{
    struct column_types t = k->type;
    dx_loop(k, t.dy != t.x || t.more != t.x || t.y != t.x || t.d != t.x)(k, 0, k->rows, NULL, NULL);
    if (k->stream) stream_end();
}
