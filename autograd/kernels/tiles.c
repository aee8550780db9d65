/* Elementwise ops on contiguous f32, eight at a time. The last few go through the same code in a padded vector, so a
 * number's result does not depend on where it stands. Errors are those of vfunc.h; the plain arithmetic rounds once. */
#include <math.h>

#include "autograd/kernels/vfunc.h"
#include "autograd/op.h"
#include "autograd/ops/unary.h"
#include "base/isa.h"

static inline v8 load_part(const float *p, int64_t n)
{
    float room[8] = {0};
    memcpy(room, p, (size_t)n * sizeof *p);
    return v8_load(room);
}

static inline void store_part(float *p, v8 x, int64_t n)
{
    float room[8];
    v8_store(room, x);
    memcpy(p, room, (size_t)n * sizeof *p);
}

static void fill(float *out, int64_t n, float x)
{
    for (int64_t i = 0; i < n; i++) out[i] = x;
}

/* TILE1(op, expression of the v8 x; A and B are the attributes) */
#define A ((float)((const struct ad_unary_attr *)attr)->a)
#define B ((float)((const struct ad_unary_attr *)attr)->b)
#define TILE1(name, expression)                                                                               \
    static inline __attribute__((always_inline)) v8 one_##name(v8 x, const void *attr)                        \
    {                                                                                                         \
        return expression;                                                                                    \
    }                                                                                                         \
    static void tile_##name(int64_t n, const float *const *in, const int *step, float *out, const void *attr) \
    {                                                                                                         \
        if (n < 1) return;                                                                                    \
        if (!step[0]) {                                                                                       \
            fill(out, n, one_##name(v8_set(*in[0]), attr)[0]);                                                \
            return;                                                                                           \
        }                                                                                                     \
        int64_t i = 0;                                                                                        \
        for (; i + 8 <= n; i += 8) v8_store(out + i, one_##name(v8_load(in[0] + i), attr));                   \
        if (i < n) store_part(out + i, one_##name(load_part(in[0] + i, n - i), attr), n - i);                 \
    }

/* For what has no vector form: lane by lane through libm. */
#define LANES(x, expression)                      \
    ({                                            \
        v8 lanes_;                                \
        for (int lane_ = 0; lane_ < 8; lane_++) { \
            const float v = (x)[lane_];           \
            lanes_[lane_] = expression;           \
        }                                         \
        lanes_;                                   \
    })

static inline v8 trig(v8 x, int which)
{
    v8i large = ~(v8_abs(x) <= TRIG_MAX);
    struct v8_trig t = v8_sincos(v8_pick(large, v8_set(0), x));
    v8 y = which == 0 ? t.sin : which == 1 ? t.cos : t.sin / t.cos;
    for (int i = 0; i < 8; i++)
        if (large[i])
            y[i] = (float)(which == 0 ? sin((double)x[i]) : which == 1 ? cos((double)x[i]) : tan((double)x[i]));
    return y;
}

#define ZERO v8_set(0)
#define GELU_K (float)(M_2_SQRTPI * M_SQRT1_2)

TILE1(neg, -x)
TILE1(abs, v8_abs(x))
TILE1(sign, v8_pick(x != x, x, v8_mask01(x > 0) - v8_mask01(x < 0)))
TILE1(square, x *x)
TILE1(sqrt, LANES(x, sqrtf(v)))
TILE1(rsqrt, 1.0f / LANES(x, sqrtf(v)))
TILE1(reciprocal, 1.0f / x)
TILE1(exp, v8_exp(x))
TILE1(expm1, v8_expm1(x))
TILE1(log, v8_log(x))
TILE1(log1p, v8_log1p(x))
TILE1(sin, trig(x, 0))
TILE1(cos, trig(x, 1))
TILE1(tan, trig(x, 2))
TILE1(tanh, v8_tanh(x))
TILE1(sigmoid, v8_sigmoid(x))
TILE1(softplus, v8_softplus(x))
TILE1(relu, v8_pick(x <= 0, ZERO, x))
TILE1(gelu, 0.5f * x * (1.0f + v8_erf(x * (float)M_SQRT1_2)))
TILE1(gelu_tanh, x *v8_sigmoid(2 * GELU_K * x * (1.0f + 0.044715f * x * x)))
TILE1(quick_gelu, x *v8_sigmoid(1.702f * x))
TILE1(silu, x *v8_sigmoid(x))
TILE1(erf, v8_erf(x))
TILE1(floor, LANES(x, floorf(v)))
TILE1(ceil, LANES(x, ceilf(v)))
TILE1(round, LANES(x, rintf(v)))
TILE1(is_finite, v8_mask01(v8_abs(x) <= 3.40282347e38f))
TILE1(leaky_relu, v8_pick(x > 0, x, x *A))
TILE1(elu, v8_pick(x > 0, x, v8_expm1(x) * A))
TILE1(clamp, v8_pick(x < A, v8_set(A), v8_pick(x > B, v8_set(B), x)))
TILE1(scale, x *A)
TILE1(shift, x + A)
TILE1(power, LANES(x, powf(v, A)))
TILE1(stop_gradient, x)

/* TILE2(op, expression of the v8 a and b) */
#define TILE2(name, expression)                                                                                  \
    static inline __attribute__((always_inline)) v8 one_##name(v8 a, v8 b)                                       \
    {                                                                                                            \
        return expression;                                                                                       \
    }                                                                                                            \
    static void tile_##name(int64_t n, const float *const *in, const int *step, float *out, const void *attr)    \
    {                                                                                                            \
        if (n < 1) return;                                                                                       \
        const v8 a0 = v8_set(*in[0]), b0 = v8_set(*in[1]);                                                       \
        int64_t i = 0;                                                                                           \
        for (; i + 8 <= n; i += 8)                                                                               \
            v8_store(out + i, one_##name(step[0] ? v8_load(in[0] + i) : a0, step[1] ? v8_load(in[1] + i) : b0)); \
        if (i == n) return;                                                                                      \
        v8 a = step[0] ? load_part(in[0] + i, n - i) : a0, b = step[1] ? load_part(in[1] + i, n - i) : b0;       \
        store_part(out + i, one_##name(a, b), n - i);                                                            \
    }

#define LANES2(expression)                          \
    ({                                              \
        v8 lanes_;                                  \
        for (int lane_ = 0; lane_ < 8; lane_++) {   \
            const float u = a[lane_], v = b[lane_]; \
            lanes_[lane_] = expression;             \
        }                                           \
        lanes_;                                     \
    })

TILE2(add, a + b)
TILE2(sub, a - b)
TILE2(mul, a *b)
TILE2(div, a / b)
TILE2(pow, LANES2(powf(u, v)))
TILE2(maximum, v8_pick((a > b) | (a != a), a, b))
TILE2(minimum, v8_pick((a < b) | (a != a), a, b))
TILE2(atan2, LANES2(atan2f(u, v)))
TILE2(equal, v8_mask01(a == b))
TILE2(not_equal, v8_mask01(a != b))
TILE2(less, v8_mask01(a < b))
TILE2(less_equal, v8_mask01(a <= b))
TILE2(greater, v8_mask01(a > b))
TILE2(greater_equal, v8_mask01(a >= b))
TILE2(logical_and, v8_mask01((a != 0) & (b != 0)))
TILE2(logical_or, v8_mask01((a != 0) | (b != 0)))

static void tile_where(int64_t n, const float *const *in, const int *step, float *out, const void *attr)
{
    int64_t i = 0;
    for (; i < n; i += 8) {
        int64_t m = n - i < 8 ? n - i : 8;
        v8 x[3];
        for (int k = 0; k < 3; k++)
            x[k] = !step[k] ? v8_set(*in[k]) : m == 8 ? v8_load(in[k] + i) : load_part(in[k] + i, m);
        v8 y = v8_pick(x[0] != 0, x[1], x[2]);
        if (m == 8)
            v8_store(out + i, y);
        else
            store_part(out + i, y, m);
    }
}

/* clang-format off */
#define TILES(X)                                                                                                       \
    X(neg) X(abs) X(sign) X(square) X(sqrt) X(rsqrt) X(reciprocal) X(exp) X(expm1) X(log) X(log1p) X(sin) X(cos)       \
    X(tan) X(tanh) X(sigmoid) X(softplus) X(relu) X(gelu) X(gelu_tanh) X(quick_gelu) X(silu) X(erf) X(floor) X(ceil)   \
    X(round) X(is_finite) X(leaky_relu) X(elu) X(clamp) X(scale) X(shift) X(power) X(stop_gradient)                    \
    X(add) X(sub) X(mul) X(div) X(pow) X(maximum) X(minimum) X(atan2) X(equal) X(not_equal) X(less) X(less_equal)      \
    X(greater) X(greater_equal) X(logical_and) X(logical_or) X(where)
/* clang-format on */
#define X(name) extern const struct ad_op ad_op_##name;
TILES(X)
#undef X

static const struct {
    const struct ad_op *op;
    ad_tile_fn tile;
} tiles[] = {
#define X(name) {&ad_op_##name, tile_##name},
    TILES(X)
#undef X
};

ad_tile_fn ISA_FN(ad_tile_find)(const struct ad_op *op);
ad_tile_fn ISA_FN(ad_tile_find)(const struct ad_op *op)
{
    for (size_t i = 0; i < sizeof tiles / sizeof *tiles; i++)
        if (tiles[i].op == op) return tiles[i].tile;
    return NULL;
}
