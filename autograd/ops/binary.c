/* Elementwise ops of two or three inputs of one dtype; shapes broadcast as NumPy's do. A gradient is summed back to its
 * input's shape. Comparisons and logic give 0 or 1, in f32 where the inputs are integers, and have no gradient.
 * Errors: dtypes differ; shapes do not broadcast; integers for div, pow, atan2. */
#include <math.h>

#include "autograd/ops/common.h"

static val as_is(struct ad_graph *g, val x)
{
    return x;
}

/* WIDE: the numbers span more than 16 bits keep well (op.h). */
#define ANY ad_infer_elementwise, 0
#define FLOAT ad_infer_float, 0
#define WIDE ad_infer_float, AD_WIDE

/* OP(name, shape rule with flags, value of a and b, vjp, what a case makes of its inputs first, case options...) */
#define OP(...) OP_(__VA_ARGS__)
#define OP_(name_, rule, more_flags, value, vjp_, first, ...)                                                \
    static double scalar_##name_(const double *in, const void *attr)                                         \
    {                                                                                                        \
        const double a = in[0], b = in[1];                                                                   \
        return value;                                                                                        \
    }                                                                                                        \
    static int build_##name_(struct ad_graph *g, const val *in, val *out)                                    \
    {                                                                                                        \
        out[0] = ad_##name_(g, first(g, in[0]), first(g, in[1]));                                            \
        return 1;                                                                                            \
    }                                                                                                        \
    static const struct ad_case cases_##name_[] = {{.in = "3x4 3x4", .build = build_##name_, __VA_ARGS__},   \
                                                   {.in = "2x1x3 4x1", .build = build_##name_, __VA_ARGS__}, \
                                                   {.in = "5 ()", .build = build_##name_, __VA_ARGS__}};     \
    extern const struct ad_op ad_op_##name_;                                                                 \
    const struct ad_op ad_op_##name_ = {.name = #name_,                                                      \
                                        .flags = AD_ELEMENTWISE | more_flags,                                \
                                        .min_in = 2,                                                         \
                                        .max_in = 2,                                                         \
                                        .infer = rule,                                                       \
                                        .scalar = scalar_##name_,                                            \
                                        .vjp = vjp_,                                                         \
                                        AD_CASES(cases_##name_)};

/* SMOOTH(name, shape rule, value, gradients da and db before they are summed to a's and b's shapes, case options...) */
#define SMOOTH(name_, rule, value, da, db, ...)                                                  \
    static void vjp_##name_(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx) \
    {                                                                                            \
        const val a = n->in[0], b = n->in[1], y = n->out, d = dy[0];                             \
        (void)y;                                                                                 \
        dx[0] = ad_sum_to(g, da, ad_shape_of(g, a));                                             \
        dx[1] = ad_sum_to(g, db, ad_shape_of(g, b));                                             \
    }                                                                                            \
    OP(name_, rule, value, vjp_##name_, as_is, __VA_ARGS__)

#define BUILDER(name_)                                 \
    val ad_##name_(struct ad_graph *g, val a, val b)   \
    {                                                  \
        return AD_NODE(g, &ad_op_##name_, NULL, a, b); \
    }

/* Whether c is one number and combining it with x gives x's shape: then the result is scale(x), shift(x) or x. */
static bool number(const struct ad_graph *g, val c, val x, double *number)
{
    struct ad_shape s;
    return c && x && ad_is_full(g, c, number) && ad_dtype_of(g, c) == ad_dtype_of(g, x) &&
           ad_broadcast_shape(ad_shape_of(g, c), ad_shape_of(g, x), &s) && ad_same_shape(s, ad_shape_of(g, x));
}

/* ---- arithmetic -------------------------------------------------------------------------------------------------- */

SMOOTH(add, ANY, a + b, d, d)
val ad_add(struct ad_graph *g, val a, val b)
{
    double c;
    if (number(g, b, a, &c)) return ad_shift(g, a, c);
    if (number(g, a, b, &c)) return ad_shift(g, b, c);
    return AD_NODE(g, &ad_op_add, NULL, a, b);
}

SMOOTH(sub, ANY, a - b, d, ad_neg(g, d))
val ad_sub(struct ad_graph *g, val a, val b)
{
    double c;
    if (number(g, b, a, &c)) return ad_shift(g, a, -c);
    return AD_NODE(g, &ad_op_sub, NULL, a, b);
}

static void vjp_mul(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    for (int i = 0; i < 2; i++) dx[i] = ad_sum_products_to(g, dy[0], n->in[!i], ad_shape_of(g, n->in[i]));
}
OP(mul, ANY, a *b, vjp_mul, as_is)
val ad_mul(struct ad_graph *g, val a, val b)
{
    double c;
    if (number(g, b, a, &c)) return ad_scale(g, a, c);
    if (number(g, a, b, &c)) return ad_scale(g, b, c);
    return AD_NODE(g, &ad_op_mul, NULL, a, b);
}

SMOOTH(div, WIDE, a / b, ad_div(g, d, b), ad_neg(g, ad_div(g, ad_mul(g, d, y), b)), .lo = 0.4, .hi = 2)
BUILDER(div)

/* a ^ b: da = d b a^(b-1), db = d y log a; where a <= 0 nothing flows to b. */
static val log_or_zero(struct ad_graph *g, val a)
{
    val inside = ad_greater(g, a, ad_number_like(g, a, 0));
    return ad_log(g, ad_where(g, inside, a, ad_number_like(g, a, 1)));
}
SMOOTH(pow, WIDE, pow(a, b), ad_mul(g, d, ad_mul(g, b, ad_pow(g, a, ad_shift(g, b, -1)))),
       ad_mul(g, d, ad_mul(g, y, log_or_zero(g, a))), .lo = 0.3, .hi = 2)
BUILDER(pow)

/* Where a = b each gets half. A NaN in either gives NaN. */
static val share(struct ad_graph *g, val more, val less)
{
    return ad_add(g, ad_greater(g, more, less), ad_scale(g, ad_equal(g, more, less), 0.5));
}
SMOOTH(maximum, ANY, a > b || isnan(a) ? a : b, ad_mul(g, d, share(g, a, b)), ad_mul(g, d, share(g, b, a)),
       .apart = 0.1)
BUILDER(maximum)
SMOOTH(minimum, ANY, a < b || isnan(a) ? a : b, ad_mul(g, d, share(g, b, a)), ad_mul(g, d, share(g, a, b)),
       .apart = 0.1)
BUILDER(minimum)

/* The angle of (x = b, y = a): d b / (a^2 + b^2) and -d a / (a^2 + b^2). */
static val norm2(struct ad_graph *g, val a, val b)
{
    return ad_add(g, ad_square(g, a), ad_square(g, b));
}
SMOOTH(atan2, FLOAT, atan2(a, b), ad_div(g, ad_mul(g, d, b), norm2(g, a, b)),
       ad_neg(g, ad_div(g, ad_mul(g, d, a), norm2(g, a, b))), .lo = 0.3, .hi = 2)
BUILDER(atan2)

/* ---- comparisons and logic --------------------------------------------------------------------------------------- */

static int infer_compare(struct ad_infer *f)
{
    if (!ad_is_float(f->in_dtype[0])) f->dtype[0] = AD_F32;
    return ad_infer_elementwise(f);
}

/* The cases round, so that equal numbers and zeros occur. */
#define COMPARE(name_, value)                                                                                  \
    OP(name_, infer_compare, 0, value, ad_vjp_none, ad_round, .no_gradient = "piecewise constant", .lo = -2.4, \
       .hi = 2.4)                                                                                              \
    BUILDER(name_)

COMPARE(equal, a == b)
COMPARE(not_equal, a != b)
COMPARE(less, a < b)
COMPARE(less_equal, a <= b)
COMPARE(greater, a > b)
COMPARE(greater_equal, a >= b)
COMPARE(logical_and, a != 0 && b != 0)
COMPARE(logical_or, a != 0 || b != 0)

/* ---- where: cond != 0 ? a : b; no gradient flows to cond, which may have a dtype of its own ---------------------- */

static int infer_where(struct ad_infer *f)
{
    struct ad_shape s;
    if (f->in_dtype[1] != f->in_dtype[2])
        return ad_infer_fail(f, "both choices must have one type, not %s and %s", ad_dtype_name(f->in_dtype[1]),
                             ad_dtype_name(f->in_dtype[2]));
    if (!ad_broadcast_shape(f->in_shape[0], f->in_shape[1], &s) || !ad_broadcast_shape(s, f->in_shape[2], &s))
        return ad_infer_fail(f, "the three shapes do not broadcast");
    f->shape[0] = s;
    f->dtype[0] = f->in_dtype[1];
    return 0;
}

static double scalar_where(const double *x, const void *attr)
{
    return x[0] != 0 ? x[1] : x[2];
}

static void vjp_where(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    val zero = ad_number_like(g, dy[0], 0);
    dx[1] = ad_sum_to(g, ad_where(g, n->in[0], dy[0], zero), ad_shape_of(g, n->in[1]));
    dx[2] = ad_sum_to(g, ad_where(g, n->in[0], zero, dy[0]), ad_shape_of(g, n->in[2]));
}

static int build_where(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_where(g, ad_greater(g, in[0], ad_number_like(g, in[0], 0)), in[1], in[2]);
    return 1;
}
static int build_where_int(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_where(g, in[0], in[1], in[2]);
    return 1;
}
static const struct ad_case cases_where[] = {
    {.in = "3x4 3x4 3x4", .build = build_where, .apart = 0.1},
    {.in = "4 3x1 ()", .build = build_where, .apart = 0.1},
    {.in = "i32:6<2 6 6", .build = build_where_int},
};

extern const struct ad_op ad_op_where;
const struct ad_op ad_op_where = {.name = "where",
                                  .flags = AD_ELEMENTWISE,
                                  .min_in = 3,
                                  .max_in = 3,
                                  .infer = infer_where,
                                  .scalar = scalar_where,
                                  .vjp = vjp_where,
                                  AD_CASES(cases_where)};

val ad_where(struct ad_graph *g, val cond, val a, val b)
{
    /* of one dtype it can be fused and run in f32 */
    if (cond && a && ad_is_float(ad_dtype_of(g, a))) cond = ad_cast(g, cond, ad_dtype_of(g, a));
    return AD_NODE(g, &ad_op_where, NULL, cond, a, b);
}
