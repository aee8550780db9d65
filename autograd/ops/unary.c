/* Elementwise ops of one input x: y has x's shape and dtype (cast: the dtype asked for).
 *
 * Each op is one entry: its formula, which is its definition in double; its gradient in other ops, from x, y and d, the
 * gradient of y; the range in which it is checked. Errors: an integer input where only floats make sense. */
#include "autograd/ops/unary.h"

#include <math.h>
#include <string.h>

#include "autograd/ops/common.h"

/* OP(name, bytes of attributes, shape rule (with flags: see ANY), value, gradient, how a case emits it, options of its
 * cases...) */
#define OP(...) OP_(__VA_ARGS__)
#define OP_(name_, bytes, rule, more_flags, value, gradient, emitted, ...)                             \
    static double scalar_##name_(const double *in, const void *attr)                                   \
    {                                                                                                  \
        const double x = in[0];                                                                        \
        const struct ad_unary_attr *p = attr;                                                          \
        (void)x, (void)p;                                                                              \
        return value;                                                                                  \
    }                                                                                                  \
    static void vjp_##name_(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)       \
    {                                                                                                  \
        const val x = n->in[0], y = n->out, d = dy[0];                                                 \
        const struct ad_unary_attr *p = n->attr;                                                       \
        (void)x, (void)y, (void)d, (void)p;                                                            \
        dx[0] = gradient;                                                                              \
    }                                                                                                  \
    static int build_##name_(struct ad_graph *g, const val *in, val *out)                              \
    {                                                                                                  \
        const val x = in[0];                                                                           \
        out[0] = emitted;                                                                              \
        return 1;                                                                                      \
    }                                                                                                  \
    static const struct ad_case cases_##name_[] = {{.in = "4x5", .build = build_##name_, __VA_ARGS__}, \
                                                   {.in = "()", .build = build_##name_, __VA_ARGS__}}; \
    extern const struct ad_op ad_op_##name_;                                                           \
    const struct ad_op ad_op_##name_ = {.name = #name_,                                                \
                                        .attr_size = bytes,                                            \
                                        .flags = AD_ELEMENTWISE | more_flags,                          \
                                        .min_in = 1,                                                   \
                                        .max_in = 1,                                                   \
                                        .infer = rule,                                                 \
                                        .scalar = scalar_##name_,                                      \
                                        .vjp = vjp_##name_,                                            \
                                        AD_CASES(cases_##name_)};

#define UNARY(name_, rule, value, gradient, ...)                       \
    OP(name_, 0, rule, value, gradient, ad_##name_(g, x), __VA_ARGS__) \
    val ad_##name_(struct ad_graph *g, val x)                          \
    {                                                                  \
        return AD_NODE(g, &ad_op_##name_, NULL, x);                    \
    }

/* WIDE: the numbers span more than 16 bits keep well (op.h). */
#define ANY ad_infer_elementwise, 0
#define FLOAT ad_infer_float, 0
#define ANY_WIDE ad_infer_elementwise, AD_WIDE
#define WIDE ad_infer_float, AD_WIDE
#define FLAT .no_gradient = "piecewise constant", .apart = 0.1
#define KINK .apart = 0.1

static val one_minus(struct ad_graph *g, val x)
{
    return ad_shift(g, ad_neg(g, x), 1);
}
static val positive(struct ad_graph *g, val x)
{
    return ad_greater(g, x, ad_number_like(g, x, 0));
}

/* ---- powers ------------------------------------------------------------------------------------------------------ */

UNARY(neg, ANY, -x, ad_neg(g, d))
UNARY(abs, ANY, fabs(x), ad_mul(g, d, ad_sign(g, x)), KINK)
UNARY(sign, ANY, isnan(x) ? x : (x > 0) - (x < 0), 0, FLAT)
UNARY(square, ANY_WIDE, x *x, ad_mul(g, d, ad_scale(g, x, 2)))
UNARY(sqrt, WIDE, sqrt(x), ad_div(g, d, ad_scale(g, y, 2)), .lo = 0.2, .hi = 3)
UNARY(rsqrt, WIDE, 1 / sqrt(x), ad_mul(g, d, ad_scale(g, ad_mul(g, y, ad_square(g, y)), -0.5)), .lo = 0.2, .hi = 3)
UNARY(reciprocal, WIDE, 1 / x, ad_neg(g, ad_mul(g, d, ad_square(g, y))), .lo = 0.3, .hi = 3)

/* ---- exponentials and their like --------------------------------------------------------------------------------- */

UNARY(exp, WIDE, exp(x), ad_mul(g, d, y))
UNARY(expm1, WIDE, expm1(x), ad_mul(g, d, ad_shift(g, y, 1)))
UNARY(log, WIDE, log(x), ad_div(g, d, x), .lo = 0.2, .hi = 3)
UNARY(log1p, WIDE, log1p(x), ad_div(g, d, ad_shift(g, x, 1)), .lo = -0.7, .hi = 3)
UNARY(sin, FLOAT, sin(x), ad_mul(g, d, ad_cos(g, x)))
UNARY(cos, FLOAT, cos(x), ad_neg(g, ad_mul(g, d, ad_sin(g, x))))
UNARY(tan, WIDE, tan(x), ad_mul(g, d, ad_shift(g, ad_square(g, y), 1)), .lo = -1.2, .hi = 1.2)
UNARY(tanh, FLOAT, tanh(x), ad_mul(g, d, one_minus(g, ad_square(g, y))))
UNARY(sigmoid, FLOAT, x < 0 ? exp(x) / (1 + exp(x)) : 1 / (1 + exp(-x)), ad_mul(g, d, ad_mul(g, y, one_minus(g, y))))
/* log(1 + e^x), without overflow */
UNARY(softplus, WIDE, (x > 0 ? x : 0) + log1p(exp(-fabs(x))), ad_mul(g, d, ad_sigmoid(g, x)))
UNARY(erf, FLOAT, erf(x), ad_mul(g, d, ad_scale(g, ad_exp(g, ad_neg(g, ad_square(g, x))), M_2_SQRTPI)))

/* ---- activations ------------------------------------------------------------------------------------------------- */

/* The gradient asks y, not x, so that x need not be kept. */
UNARY(relu, ANY, x <= 0 ? 0 : x, ad_mul(g, d, positive(g, y)), KINK)

/* The gates x F(x), F a distribution. The gradient d y'(x) is an op of x and d, so that it is one pass over both; its own
 * gradient is that of y' in other ops. */
#define GATE(name_, value, slope_value, slope)                                                               \
    static double scalar_##name_##_grad(const double *in, const void *attr)                                  \
    {                                                                                                        \
        return in[1] * slope_value(in[0]);                                                                   \
    }                                                                                                        \
    static void vjp_##name_##_grad(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)      \
    {                                                                                                        \
        val x = ad_variable(g, n->in[0]), y = slope, seed = ad_mul(g, dy[0], n->in[1]);                      \
        ad_grad(g, &y, &seed, 1, &x, 1, &dx[0]);                                                             \
        dx[1] = AD_NODE(g, &ad_op_##name_##_grad, NULL, n->in[0], dy[0]);                                    \
    }                                                                                                        \
    static int build_##name_##_grad(struct ad_graph *g, const val *in, val *out)                             \
    {                                                                                                        \
        out[0] = AD_NODE(g, &ad_op_##name_##_grad, NULL, in[0], in[1]);                                      \
        return 1;                                                                                            \
    }                                                                                                        \
    static const struct ad_case cases_##name_##_grad[] = {{.in = "4x5 4x5", .build = build_##name_##_grad}}; \
    const struct ad_op ad_op_##name_##_grad = {.name = #name_ "_grad",                                       \
                                               .flags = AD_ELEMENTWISE,                                      \
                                               .min_in = 2,                                                  \
                                               .max_in = 2,                                                  \
                                               .infer = ad_infer_float,                                      \
                                               .scalar = scalar_##name_##_grad,                              \
                                               .vjp = vjp_##name_##_grad,                                    \
                                               AD_CASES(cases_##name_##_grad)};                              \
    UNARY(name_, FLOAT, value, AD_NODE(g, &ad_op_##name_##_grad, NULL, x, d))
extern const struct ad_op ad_op_gelu_grad, ad_op_gelu_tanh_grad, ad_op_quick_gelu_grad, ad_op_silu_grad;

/* F is the normal distribution (Hendrycks & Gimpel 2016); y' = F(x) + x f(x), f its density. */
static double gelu_slope_value(double x)
{
    double density = exp(-0.5 * x * x) * M_2_SQRTPI * M_SQRT1_2 / 2;
    return 0.5 * (1 + erf(x * M_SQRT1_2)) + (density > 0 ? x * density : 0);
}
static val gelu_slope(struct ad_graph *g, val x)
{
    val cdf = ad_scale(g, ad_shift(g, ad_erf(g, ad_scale(g, x, M_SQRT1_2)), 1), 0.5);
    val density = ad_scale(g, ad_exp(g, ad_scale(g, ad_square(g, x), -0.5)), M_2_SQRTPI * M_SQRT1_2 / 2);
    return ad_add(g, cdf, ad_mul(g, x, density));
}
GATE(gelu, 0.5 * x * (1 + erf(x * M_SQRT1_2)), gelu_slope_value, gelu_slope(g, x))

/* F(x) = (1 + tanh u) / 2, u = k (x + 0.044715 x^3), k = sqrt(2 / pi): as (1 + tanh u) / 2 = sigmoid(2u) = s,
 * y' = s + x s (1 - s) 2u'. */
#define GELU_K (M_2_SQRTPI * M_SQRT1_2)
static double gelu_tanh_slope_value(double x)
{
    double s = 1 / (1 + exp(-2 * GELU_K * (x + 0.044715 * x * x * x)));
    return s + (s > 0 && s < 1 ? x * s * (1 - s) * 2 * GELU_K * (1 + 3 * 0.044715 * x * x) : isnan(x) ? x : 0);
}
static val gelu_tanh_slope(struct ad_graph *g, val x)
{
    val x2 = ad_square(g, x);
    val s = ad_sigmoid(g, ad_scale(g, ad_mul(g, x, ad_shift(g, ad_scale(g, x2, 0.044715), 1)), 2 * GELU_K));
    val slope = ad_scale(g, ad_shift(g, ad_scale(g, x2, 3 * 0.044715), 1), 2 * GELU_K);
    return ad_add(g, s, ad_mul(g, ad_mul(g, x, slope), ad_mul(g, s, one_minus(g, s))));
}
GATE(gelu_tanh, 0.5 * x * (1 + tanh(GELU_K * (x + 0.044715 * x * x * x))), gelu_tanh_slope_value, gelu_tanh_slope(g, x))

/* F(x) = sigmoid(k x) = s; y' = s + k x s (1 - s). silu has k = 1, quick_gelu (CLIP's) k = 1.702. */
static double swish_slope_value(double x, double k)
{
    double s = 1 / (1 + exp(-k * x));
    return s + (s > 0 && s < 1 ? k * x * s * (1 - s) : isnan(x) ? x : 0);
}
static val swish_slope(struct ad_graph *g, val x, double k)
{
    val s = ad_sigmoid(g, ad_scale(g, x, k));
    return ad_add(g, s, ad_scale(g, ad_mul(g, x, ad_mul(g, s, one_minus(g, s))), k));
}
#define QUICK_VALUE(x) swish_slope_value(x, 1.702)
#define SILU_VALUE(x) swish_slope_value(x, 1)
GATE(quick_gelu, x / (1 + exp(-1.702 * x)), QUICK_VALUE, swish_slope(g, x, 1.702))
GATE(silu, x / (1 + exp(-x)), SILU_VALUE, swish_slope(g, x, 1))

/* x > 0 ? x : slope x */
OP(leaky_relu, sizeof(struct ad_unary_attr), FLOAT, x > 0 ? x : p->a * x,
   ad_mul(g, d, ad_shift(g, ad_scale(g, positive(g, x), 1 - p->a), p->a)), ad_leaky_relu(g, x, 0.2), KINK)
val ad_leaky_relu(struct ad_graph *g, val x, double slope)
{
    return AD_NODE(g, &ad_op_leaky_relu, (&(struct ad_unary_attr){slope, 0}), x);
}

/* x > 0 ? x : alpha (e^x - 1) */
OP(elu, sizeof(struct ad_unary_attr), FLOAT, x > 0 ? x : p->a * expm1(x),
   ad_where(g, positive(g, x), d, ad_mul(g, d, ad_shift(g, y, p->a))), ad_elu(g, x, 0.7), KINK)
val ad_elu(struct ad_graph *g, val x, double alpha)
{
    return AD_NODE(g, &ad_op_elu, (&(struct ad_unary_attr){alpha, 0}), x);
}

/* ---- rounding: integers round half to even ----------------------------------------------------------------------- */

UNARY(floor, FLOAT, floor(x), 0, FLAT)
UNARY(ceil, FLOAT, ceil(x), 0, FLAT)
UNARY(round, FLOAT, rint(x), 0, FLAT)
UNARY(is_finite, FLOAT, isfinite(x) ? 1 : 0, 0, FLAT)

/* ---- with a number ----------------------------------------------------------------------------------------------- */

/* min(max(x, lo), hi); a NaN stays one. Gradient 1 inside and on the bounds. */
static val inside(struct ad_graph *g, val x, const struct ad_unary_attr *p)
{
    return ad_mul(g, ad_greater_equal(g, x, ad_number_like(g, x, p->a)),
                  ad_less_equal(g, x, ad_number_like(g, x, p->b)));
}
OP(clamp, sizeof(struct ad_unary_attr), ANY, x<p->a ? p->a : x> p->b ? p->b : x, ad_mul(g, d, inside(g, x, p)),
   ad_clamp(g, x, -0.5, 0.8), KINK)
val ad_clamp(struct ad_graph *g, val x, double lo, double hi)
{
    if (!(lo <= hi)) return ad_fail(g, "clamp: the lower bound %g is above the upper bound %g", lo, hi);
    return AD_NODE(g, &ad_op_clamp, (&(struct ad_unary_attr){lo, hi}), x);
}

/* x * factor. Integers are cut towards zero. */
OP(scale, sizeof(struct ad_unary_attr), ANY, x * p->a, ad_scale(g, d, p->a), ad_scale(g, x, -1.7))
val ad_scale(struct ad_graph *g, val x, double factor)
{
    return factor == 1 ? x : AD_NODE(g, &ad_op_scale, (&(struct ad_unary_attr){factor, 0}), x);
}

/* x + by */
OP(shift, sizeof(struct ad_unary_attr), ANY, x + p->a, d, ad_shift(g, x, 0.4))
val ad_shift(struct ad_graph *g, val x, double by)
{
    return by == 0 ? x : AD_NODE(g, &ad_op_shift, (&(struct ad_unary_attr){by, 0}), x);
}

/* x ^ exponent */
OP(power, sizeof(struct ad_unary_attr), WIDE, pow(x, p->a), ad_mul(g, d, ad_scale(g, ad_power(g, x, p->a - 1), p->a)),
   ad_power(g, x, 2.6), .lo = 0.2, .hi = 2)
val ad_power(struct ad_graph *g, val x, double e)
{
    if (e == 0) return x ? ad_ones_like(g, x) : 0;
    if (e == 1) return x;
    if (e == 2) return ad_square(g, x);
    if (e == 0.5) return ad_sqrt(g, x);
    if (e == -0.5) return ad_rsqrt(g, x);
    if (e == -1) return ad_reciprocal(g, x);
    return AD_NODE(g, &ad_op_power, (&(struct ad_unary_attr){e, 0}), x);
}

/* ---- cast: float to integer cuts towards zero, keeps to the integer's range, and makes NaN 0 --------------------- */

struct cast {
    int64_t to;
};

static int infer_cast(struct ad_infer *f)
{
    f->shape[0] = f->in_shape[0];
    f->dtype[0] = (enum ad_dtype)((const struct cast *)f->attr)->to;
    return 0;
}

static double scalar_cast(const double *x, const void *attr)
{
    int64_t to = ((const struct cast *)attr)->to;
    if (ad_is_float((enum ad_dtype)to)) return x[0];
    double top = to == AD_I32 ? 2147483647.0 : 9223372036854774784.0; /* the largest double below 2^63 */
    return isnan(x[0]) ? 0 : x[0] > top ? top : x[0] < -top - 1 ? -top - 1 : trunc(x[0]);
}

static void vjp_cast(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    if (ad_is_float(ad_dtype_of(g, n->out)) && ad_is_float(ad_dtype_of(g, n->in[0])))
        dx[0] = ad_cast(g, dy[0], ad_dtype_of(g, n->in[0]));
}

static int build_cast(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_cast(g, ad_cast(g, in[0], AD_I32), ad_dtype_of(g, in[0]));
    return 1;
}
static int build_cast_float(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_cast(g, in[0], ad_dtype_of(g, in[0]) == AD_F64 ? AD_F32 : AD_F64);
    return 1;
}
static const struct ad_case cases_cast[] = {
    {.in = "4x5", .build = build_cast, .lo = -9, .hi = 9, .apart = 0.3, .no_gradient = "through an integer"},
    {.in = "3", .build = build_cast_float, .no_gradient = "f32 is too coarse for differences", .tol = 1e-6},
};

extern const struct ad_op ad_op_cast;
const struct ad_op ad_op_cast = {.name = "cast",
                                 .attr_size = sizeof(struct cast),
                                 .flags = AD_ELEMENTWISE,
                                 .min_in = 1,
                                 .max_in = 1,
                                 .infer = infer_cast,
                                 .scalar = scalar_cast,
                                 .vjp = vjp_cast,
                                 AD_CASES(cases_cast)};

val ad_cast(struct ad_graph *g, val x, enum ad_dtype to)
{
    return ad_dtype_of(g, x) == to ? x : AD_NODE(g, &ad_op_cast, (&(struct cast){to}), x);
}

/* ---- stop_gradient: y = x; nothing flows back -------------------------------------------------------------------- */

static double scalar_stop(const double *x, const void *attr)
{
    return x[0];
}
static val simplify_stop(struct ad_graph *g, const struct ad_node *n, const val *in)
{
    return in[0];
}
static int build_stop(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_stop_gradient(g, in[0]);
    return 1;
}
static const struct ad_case cases_stop[] = {
    {.in = "3x2", .build = build_stop, .no_gradient = "that is what it is for"}};

extern const struct ad_op ad_op_stop_gradient;
const struct ad_op ad_op_stop_gradient = {.name = "stop_gradient",
                                          .flags = AD_ELEMENTWISE,
                                          .min_in = 1,
                                          .max_in = 1,
                                          .infer = ad_infer_elementwise,
                                          .scalar = scalar_stop,
                                          .vjp = ad_vjp_none,
                                          .simplify = simplify_stop,
                                          AD_CASES(cases_stop)};

val ad_stop_gradient(struct ad_graph *g, val x)
{
    return AD_NODE(g, &ad_op_stop_gradient, NULL, x);
}
