/* Elementwise ops on contiguous f32, a vector at a time. The last few go through the same code in a padded vector, so a
 * number's result does not depend on where it stands. Errors are those of vfunc.h; the plain arithmetic rounds once. */
#include "autograd/kernels/stream.h"
#include "autograd/kernels/vfunc.h"
#include "autograd/op.h"
#include "autograd/ops/unary.h"
#include "base/isa.h"

static void fill(float *out, int64_t n, float x)
{
    for (int64_t i = 0; i < n; i++) out[i] = x;
}

/* Both ways of op `name`, which is `run_name` */
#define WAYS(name)                                                                                            \
    static void tile_##name(int64_t n, const float *const *in, const int *step, float *out, const void *attr) \
    {                                                                                                         \
        run_##name(n, in, step, out, attr, false);                                                            \
    }                                                                                                         \
    static void past_##name(int64_t n, const float *const *in, const int *step, float *out, const void *attr) \
    {                                                                                                         \
        run_##name(n, in, step, out, attr, true);                                                             \
    }

/* TILE1(op, expression of the vf x; A and B are the attributes) */
#define A ((float)((const struct ad_unary_attr *)attr)->a)
#define B ((float)((const struct ad_unary_attr *)attr)->b)
#define TILE1(name, expression)                                                                                 \
    SIMD_FN vf one_##name(vf x, const void *attr)                                                               \
    {                                                                                                           \
        return expression;                                                                                      \
    }                                                                                                           \
    SIMD_FN void run_##name(int64_t n, const float *const *in, const int *step, float *out, const void *attr,   \
                            bool stream)                                                                        \
    {                                                                                                           \
        if (n < 1) return;                                                                                      \
        if (!step[0]) {                                                                                         \
            fill(out, n, one_##name(vf_set(*in[0]), attr)[0]);                                                  \
            return;                                                                                             \
        }                                                                                                       \
        int64_t i = 0;                                                                                          \
        for (; i + VL <= n; i += VL) vf_store_or_stream(out + i, one_##name(vf_load(in[0] + i), attr), stream); \
        if (i < n) vf_store_part(out + i, one_##name(vf_load_part(in[0] + i, n - i, 0), attr), n - i);          \
    }                                                                                                           \
    WAYS(name)

/* For what has no vector form: lane by lane through libm. */
#define LANES(x, expression)                       \
    ({                                             \
        vf lanes_;                                 \
        for (int lane_ = 0; lane_ < VL; lane_++) { \
            const float v = (x)[lane_];            \
            lanes_[lane_] = expression;            \
        }                                          \
        lanes_;                                    \
    })

static inline vf trig(vf x, int which)
{
    vm large = (vm)~vf_le(vf_abs(x), vf_set(TRIG_MAX));
    vf far = vf_mask01(large);
    struct vf_trig t = vf_sincos(vf_pick(large, vf_set(0), x));
    vf y = which == 0 ? t.sin : which == 1 ? t.cos : t.sin / t.cos;
    for (int i = 0; i < VL; i++)
        if (far[i] != 0)
            y[i] = (float)(which == 0 ? sin((double)x[i]) : which == 1 ? cos((double)x[i]) : tan((double)x[i]));
    return y;
}

#define ZERO vf_set(0)

TILE1(neg, -x)
TILE1(abs, vf_abs(x))
TILE1(sign, vf_pick(vf_ne(x, x), x, vf_mask01(vf_lt(ZERO, x)) - vf_mask01(vf_lt(x, ZERO))))
TILE1(square, x *x)
TILE1(sqrt, vf_sqrt(x))
TILE1(rsqrt, 1.0f / vf_sqrt(x))
TILE1(reciprocal, 1.0f / x)
TILE1(exp, vf_exp(x))
TILE1(expm1, vf_expm1(x))
TILE1(log, vf_log(x))
TILE1(log1p, vf_log1p(x))
TILE1(sin, trig(x, 0))
TILE1(cos, trig(x, 1))
TILE1(tan, trig(x, 2))
TILE1(tanh, vf_tanh(x))
TILE1(sigmoid, vf_sigmoid(x))
TILE1(softplus, vf_softplus(x))
TILE1(relu, vf_max(ZERO, x))
TILE1(gelu_tanh, vf_gelu_tanh(x))
TILE1(quick_gelu, vf_swish(x, 1.702f))
TILE1(silu, vf_swish(x, 1))
TILE1(erf, vf_erf(x))
TILE1(floor, LANES(x, floorf(v)))
TILE1(ceil, LANES(x, ceilf(v)))
TILE1(round, LANES(x, rintf(v)))
TILE1(is_finite, vf_mask01(vf_le(vf_abs(x), VF_TOP)))
TILE1(leaky_relu, vf_pick(vf_lt(ZERO, x), x, x *A))
TILE1(elu, vf_pick(vf_lt(ZERO, x), x, vf_expm1(x) * A))
TILE1(clamp, vf_min(vf_set(B), vf_max(vf_set(A), x)))
TILE1(scale, x *A)
TILE1(shift, x + A)
TILE1(power, LANES(x, powf(v, A)))
TILE1(stop_gradient, x)

/* TILE2(op, expression of the vf a and b) */
#define TILE2(name, expression)                                                                                        \
    SIMD_FN vf one_##name(vf a, vf b)                                                                                  \
    {                                                                                                                  \
        return expression;                                                                                             \
    }                                                                                                                  \
    SIMD_FN void run_##name(int64_t n, const float *const *in, const int *step, float *out, const void *attr,          \
                            bool stream)                                                                               \
    {                                                                                                                  \
        if (n < 1) return;                                                                                             \
        const vf a0 = vf_set(*in[0]), b0 = vf_set(*in[1]);                                                             \
        int64_t i = 0;                                                                                                 \
        for (; i + VL <= n; i += VL)                                                                                   \
            vf_store_or_stream(                                                                                        \
                out + i, one_##name(step[0] ? vf_load(in[0] + i) : a0, step[1] ? vf_load(in[1] + i) : b0), stream);    \
        if (i == n) return;                                                                                            \
        vf a = step[0] ? vf_load_part(in[0] + i, n - i, 0) : a0, b = step[1] ? vf_load_part(in[1] + i, n - i, 0) : b0; \
        vf_store_part(out + i, one_##name(a, b), n - i);                                                               \
    }                                                                                                                  \
    WAYS(name)

#define LANES2(expression)                          \
    ({                                              \
        vf lanes_;                                  \
        for (int lane_ = 0; lane_ < VL; lane_++) {  \
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
TILE2(maximum, vf_pick(vf_ne(a, a), a, vf_max(a, b)))
TILE2(minimum, vf_pick(vf_ne(a, a), a, vf_min(a, b)))
TILE2(gelu_tanh_grad, vf_gelu_tanh_slope(a) * b)
TILE2(quick_gelu_grad, vf_swish_slope(a, 1.702f) * b)
TILE2(silu_grad, vf_swish_slope(a, 1) * b)
TILE2(atan2, LANES2(atan2f(u, v)))
TILE2(equal, vf_mask01(vf_eq(a, b)))
TILE2(not_equal, vf_mask01(vf_ne(a, b)))
TILE2(less, vf_mask01(vf_lt(a, b)))
TILE2(less_equal, vf_mask01(vf_le(a, b)))
TILE2(greater, vf_mask01(vf_lt(b, a)))
TILE2(greater_equal, vf_mask01(vf_le(b, a)))
TILE2(logical_and, vf_mask01(vf_ne(a, ZERO) & vf_ne(b, ZERO)))
TILE2(logical_or, vf_mask01(vf_ne(a, ZERO) | vf_ne(b, ZERO)))

/* Share or slope f of x, times `by`. */
SIMD_FN void run_odd(int64_t n, const float *x, int x_step, const float *by, int by_step, const struct vf_odd *f,
                     float *out, bool stream)
{
    int64_t i = 0;
    for (; x_step && i + VF_MANY * VL <= n; i += VF_MANY * VL) {
        vf a[VF_MANY], y[VF_MANY];
#pragma GCC unroll 8
        for (int k = 0; k < VF_MANY; k++) a[k] = vf_load(x + i + k * VL);
        vf_odd(VF_MANY, a, f, y);
#pragma GCC unroll 8
        for (int k = 0; k < VF_MANY; k++)
            vf_store_or_stream(out + i + k * VL, (by_step ? vf_load(by + i + k * VL) : vf_set(*by)) * y[k], stream);
    }
    for (; i < n; i += VL) {
        int64_t m = n - i < VL ? n - i : VL;
        vf a = !x_step ? vf_set(*x) : m == VL ? vf_load(x + i) : vf_load_part(x + i, m, 0), y;
        vf b = !by_step ? vf_set(*by) : m == VL ? vf_load(by + i) : vf_load_part(by + i, m, 0);
        vf_odd(1, &a, f, &y);
        if (m == VL)
            vf_store_or_stream(out + i, b * y, stream);
        else
            vf_store_part(out + i, b * y, m);
    }
}
SIMD_FN void run_gelu(int64_t n, const float *const *in, const int *step, float *out, const void *attr, bool stream)
{
    run_odd(n, in[0], step[0], in[0], step[0], &vf_normal_share, out, stream);
}
SIMD_FN void run_gelu_grad(int64_t n, const float *const *in, const int *step, float *out, const void *attr,
                           bool stream)
{
    run_odd(n, in[0], step[0], in[1], step[1], &vf_normal_slope, out, stream);
}
WAYS(gelu)
WAYS(gelu_grad)

SIMD_FN void run_where(int64_t n, const float *const *in, const int *step, float *out, const void *attr, bool stream)
{
    int64_t i = 0;
    for (; i < n; i += VL) {
        int64_t m = n - i < VL ? n - i : VL;
        vf x[3];
        for (int k = 0; k < 3; k++)
            x[k] = !step[k] ? vf_set(*in[k]) : m == VL ? vf_load(in[k] + i) : vf_load_part(in[k] + i, m, 0);
        vf y = vf_pick(vf_ne(x[0], ZERO), x[1], x[2]);
        if (m == VL)
            vf_store_or_stream(out + i, y, stream);
        else
            vf_store_part(out + i, y, m);
    }
}
WAYS(where)

/* clang-format off */
#define TILES(X)                                                                                                       \
    X(neg) X(abs) X(sign) X(square) X(sqrt) X(rsqrt) X(reciprocal) X(exp) X(expm1) X(log) X(log1p) X(sin) X(cos)       \
    X(tan) X(tanh) X(sigmoid) X(softplus) X(relu) X(gelu) X(gelu_tanh) X(quick_gelu) X(silu) X(erf) X(floor) X(ceil)   \
    X(round) X(is_finite) X(leaky_relu) X(elu) X(clamp) X(scale) X(shift) X(power) X(stop_gradient)                    \
    X(add) X(sub) X(mul) X(div) X(pow) X(maximum) X(minimum) X(gelu_grad) X(gelu_tanh_grad)             \
    X(quick_gelu_grad) X(silu_grad) X(atan2) X(equal) X(not_equal) X(less) X(less_equal)      \
    X(greater) X(greater_equal) X(logical_and) X(logical_or) X(where)
/* clang-format on */
#define X(name) extern const struct ad_op ad_op_##name;
TILES(X)
#undef X

static const struct {
    const struct ad_op *op;
    ad_tile_fn tile, past; /* past the caches */
} tiles[] = {
#define X(name) {&ad_op_##name, tile_##name, past_##name},
    TILES(X)
#undef X
};

static ad_tile_fn find(const struct ad_op *op, bool past)
{
    for (size_t i = 0; i < sizeof tiles / sizeof *tiles; i++)
        if (tiles[i].op == op) return past ? tiles[i].past : tiles[i].tile;
    return NULL;
}

ISA_DECLARE(ad_tile_fn, ad_tile_find, (const struct ad_op *op));
ISA_DECLARE(ad_tile_fn, ad_tile_find_past, (const struct ad_op *op));
ad_tile_fn ISA_FN(ad_tile_find)(const struct ad_op *op)
{
    return find(op, false);
}
ad_tile_fn ISA_FN(ad_tile_find_past)(const struct ad_op *op)
{
    return find(op, true);
}

ISA_DECLARE(bool, ad_result_streams, (const struct ad_call *call, int64_t c));
bool ISA_FN(ad_result_streams)(const struct ad_call *call, int64_t c)
{
    return result_streams(call, c);
}
