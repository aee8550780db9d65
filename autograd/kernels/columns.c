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

SIMD_FN void put_result(enum ad_dtype t, void *p, int64_t i, vf x, int64_t n, bool stream)
{
    if (t == AD_F32 && stream)
        vf_stream((float *)p + i, x);
    else
        vf_put_as(t, p, i, x, n);
}

/* a b + c, rounded once where the machine can: left to the compiler, that would hang on the loop around it, and a tensor in
 * 16 bits must give the bits of a wide one. */
SIMD_FN vf madd(vf a, vf b, vf c)
{
#if defined(__AVX512F__)
    return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__) && defined(__FMA__)
    return _mm256_fmadd_ps(a, b, c);
#elif defined(__FP_FAST_FMAF)
    for (int i = 0; i < VL; i++) a[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return a;
#else
    return a * b + c;
#endif
}

/* All of one type: a constant in the loops for it (BY_TYPE). */
SIMD_FN struct column_types all_of(enum ad_dtype t)
{
    return (struct column_types){t, t, t, t, t};
}

/* Calls step(k, row, rows, column, n, ...) for all vectors of rows first .. last-1. Rows of a few lines go four at a
 * time, and longer ones one by one: several streams at once are read from memory at half the speed of one. */
#define EACH_OF(unroll, step, k, first, last, ...)                                                \
    do {                                                                                          \
        int64_t i_ = (first), whole_ = (k)->c / VL * VL, rest_ = (k)->c - whole_;                 \
        for (; (unroll) && (k)->c <= SHORT && i_ + UNROLL <= (last); i_ += UNROLL) {              \
            for (int64_t j_ = 0; j_ < whole_; j_ += VL) step(k, i_, UNROLL, j_, VL, __VA_ARGS__); \
            if (rest_) step(k, i_, UNROLL, whole_, rest_, __VA_ARGS__);                           \
        }                                                                                         \
        for (; i_ < (last); i_++) {                                                               \
            for (int64_t j_ = 0; j_ < whole_; j_ += VL) step(k, i_, 1, j_, VL, __VA_ARGS__);      \
            if (rest_) step(k, i_, 1, whole_, rest_, __VA_ARGS__);                                \
        }                                                                                         \
    } while (0)
#define EACH(step, k, first, last, ...) EACH_OF(true, step, k, first, last, __VA_ARGS__)

/* ---- moments -------------------------------------------------------------------------------------------------------- */

SIMD_FN void moments_step(const struct columns *k, int64_t i, int rows, int64_t j, int64_t n, enum ad_dtype t,
                          const float *around, float *sum, float *square)
{
    vf m = vf_get(around + j, n), s = vf_get(sum + j, n), q = vf_get(square + j, n);
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
        vf e = vf_get_as(t, k->x, (i + r) * k->c + j, n) - m;
        s += e;
        q = madd(e, e, q);
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
        EACH(moments_step, k, first, last, t, mean, s, q);
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

SIMD_FN void affine_step(const struct columns *k, int64_t i, int rows, int64_t j, int64_t n, int act, bool more,
                         struct column_types t)
{
    vf m = vf_get(k->mean + j, n), a = vf_get(k->scale + j, n), b = vf_get(k->bias + j, n);
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
        int64_t at = (i + r) * k->c + j;
        vf p = madd(vf_get_as(t.x, k->x, at, n) - m, a, b);
        if (more) p += vf_get_as(t.more, k->more, at, n);
        put_result(t.y, k->y, at, activate(act, p), n, k->stream);
    }
}

/* One loop for each activation, with and without `more`. */
#define BY_ACT(step, k, first, last, ...)                                                                       \
    do {                                                                                                        \
        if ((k)->act == AD_ACT_NONE && !(k)->more) EACH(step, k, first, last, AD_ACT_NONE, false, __VA_ARGS__); \
        if ((k)->act == AD_ACT_NONE && (k)->more) EACH(step, k, first, last, AD_ACT_NONE, true, __VA_ARGS__);   \
        if ((k)->act == AD_ACT_RELU && !(k)->more) EACH(step, k, first, last, AD_ACT_RELU, false, __VA_ARGS__); \
        if ((k)->act == AD_ACT_RELU && (k)->more) EACH(step, k, first, last, AD_ACT_RELU, true, __VA_ARGS__);   \
        if ((k)->act == AD_ACT_SILU && !(k)->more) EACH(step, k, first, last, AD_ACT_SILU, false, __VA_ARGS__); \
        if ((k)->act == AD_ACT_SILU && (k)->more) EACH(step, k, first, last, AD_ACT_SILU, true, __VA_ARGS__);   \
    } while (0)
/* In 16 bits, one loop for all of them: six for each type would be four times the code. */
#define ANY_ACT(unroll, step, k, first, last, ...) \
    EACH_OF(unroll, step, k, first, last, (k)->act, (k)->more != NULL, __VA_ARGS__)
#define BY_ACT_AND_TYPE(t, step, k, first, last, ...)                            \
    do {                                                                         \
        if ((t) == AD_F32)                                                       \
            BY_ACT(step, k, first, last, all_of(AD_F32), ##__VA_ARGS__);         \
        else if ((t) == AD_BF16)                                                 \
            ANY_ACT(true, step, k, first, last, all_of(AD_BF16), ##__VA_ARGS__); \
        else                                                                     \
            ANY_ACT(true, step, k, first, last, all_of(AD_F16), ##__VA_ARGS__);  \
    } while (0)
/* Types that differ are rare, a gradient that comes from a mean over the image: their loop asks for each. */
#define MIXED(step, k, first, last, ...) ANY_ACT(false, step, k, first, last, (k)->type, ##__VA_ARGS__)

void columns_affine(const struct columns *k)
{
    struct column_types t = k->type;
    if (t.more == t.x && t.y == t.x)
        BY_ACT_AND_TYPE(t.x, affine_step, k, 0, k->rows);
    else
        MIXED(affine_step, k, 0, k->rows);
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
    vf p = madd(e, a, b);
    if (act == AD_ACT_RELU) return vf_pick(vf_lt(vf_set(0), p), d, vf_set(0));
    if (more) p += vf_get_as(t.more, k->more, at, n);
    return d * vf_swish_slope(p, 1);
}

SIMD_FN void products_step(const struct columns *k, int64_t i, int rows, int64_t j, int64_t n, int act, bool more,
                           struct column_types t, float *sum_x, float *sum)
{
    vf m = vf_get(k->mean + j, n), a = vf_get(k->scale + j, n), b = vf_get(k->bias + j, n);
    vf sx = vf_get(sum_x + j, n), s = vf_get(sum + j, n);
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
        int64_t at = (i + r) * k->c + j;
        vf e = vf_get_as(t.x, k->x, at, n) - m, d = behind_act(k, act, more, t, at, n, e, a, b);
        sx = madd(d, e, sx);
        s += d;
    }
    vf_put(sum_x + j, sx, n);
    vf_put(sum + j, s, n);
}

void columns_products(const struct columns *k, float *sum_x, float *sum, float *room)
{
    struct column_types t = k->type;
    float *sx = room, *s = room + k->c;
    memset(sum_x, 0, (size_t)k->c * sizeof *sum_x);
    memset(sum, 0, (size_t)k->c * sizeof *sum);
    for (int64_t first = 0; first < k->rows; first += RUN) {
        int64_t last = min64(k->rows, first + RUN);
        memset(room, 0, (size_t)(2 * k->c) * sizeof *room);
        if (t.dy == t.x && t.more == t.x)
            BY_ACT_AND_TYPE(t.x, products_step, k, first, last, sx, s);
        else
            MIXED(products_step, k, first, last, sx, s);
        for (int64_t j = 0; j < k->c; j++) sum_x[j] += sx[j];
        for (int64_t j = 0; j < k->c; j++) sum[j] += s[j];
    }
}

SIMD_FN void dx_step(const struct columns *k, int64_t i, int rows, int64_t j, int64_t n, int act, bool more,
                     struct column_types t)
{
    vf m = vf_get(k->mean + j, n), a = vf_get(k->scale + j, n), b = vf_get(k->bias + j, n);
    vf shift = vf_get(k->shift + j, n), slope = vf_get(k->slope + j, n);
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
        int64_t at = (i + r) * k->c + j;
        vf e = vf_get_as(t.x, k->x, at, n) - m, d = behind_act(k, act, more, t, at, n, e, a, b);
        put_result(t.y, k->y, at, madd(e, -slope, madd(d, a, -shift)), n, k->stream);
        if (more) put_result(t.d, k->d, at, d, n, k->stream);
    }
}

void columns_dx(const struct columns *k)
{
    struct column_types t = k->type;
    if (t.dy == t.x && t.more == t.x && t.y == t.x && t.d == t.x)
        BY_ACT_AND_TYPE(t.x, dx_step, k, 0, k->rows);
    else
        MIXED(dx_step, k, 0, k->rows);
    if (k->stream) stream_end();
}
