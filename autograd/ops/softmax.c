/* softmax and log_softmax over the last axis.
 *   x (..., C) -> y (..., C), f32 or f64.   Error: C is 0, or x is a scalar. A row that is all -inf gives NaN. */
#include <math.h>

#include "autograd/ops/common.h"

extern const struct ad_op ad_op_softmax, ad_op_log_softmax;

static int infer(struct ad_infer *f)
{
    struct ad_shape s = f->in_shape[0];
    if (!ad_is_float(f->in_dtype[0])) return ad_infer_fail(f, "it needs f32 or f64 numbers");
    if (s.rank == 0 || s.dim[s.rank - 1] == 0) return ad_infer_fail(f, "the last axis is empty");
    f->shape[0] = s;
    return 0;
}

static void eval(const struct ad_call *c)
{
    struct ad_shape s = c->in[0].shape;
    int64_t width = s.dim[s.rank - 1], n = ad_count(s);
    for (int64_t row = 0; row < n; row += width) {
        double m = -INFINITY, sum = 0;
        for (int64_t i = 0; i < width; i++) {
            double x = ad_get(&c->in[0], row + i);
            if (x > m || isnan(x)) m = x;
        }
        for (int64_t i = 0; i < width; i++) sum += exp(ad_get(&c->in[0], row + i) - m);
        for (int64_t i = 0; i < width; i++) {
            double x = ad_get(&c->in[0], row + i) - m;
            ad_set(&c->out[0], row + i, c->op == &ad_op_softmax ? exp(x) / sum : x - log(sum));
        }
    }
}

static double flops(const struct ad_call *c)
{
    return 12 * (double)ad_count(c->in[0].shape);
}

/* softmax: y = exp(x - m) / sum;  dx = y (dy - sum(y dy)) */
static void vjp_softmax(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    val y = n->out;
    dx[0] = ad_mul(g, y, ad_sub(g, dy[0], ad_sum_last(g, ad_mul(g, dy[0], y))));
}

static int build_softmax(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_softmax(g, in[0]);
    return 1;
}
static const struct ad_case cases_softmax[] = {{.in = "3x5", .build = build_softmax},
                                               {.in = "2x3x1", .build = build_softmax},
                                               {.in = "2x3", .build = build_softmax, .lo = -9, .hi = 9}};

const struct ad_op ad_op_softmax = {.name = "softmax",
                                    .min_in = 1,
                                    .max_in = 1,
                                    .infer = infer,
                                    .eval = eval,
                                    .vjp = vjp_softmax,
                                    .flops = flops,
                                    .alias = 1,
                                    AD_CASES(cases_softmax)};
val ad_softmax(struct ad_graph *g, val x)
{
    return AD_NODE(g, &ad_op_softmax, NULL, x);
}

/* log_softmax: y = x - m - log sum exp(x - m);  dx = dy - exp(y) sum(dy) */
static void vjp_log_softmax(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    dx[0] = ad_sub(g, dy[0], ad_mul(g, ad_exp(g, n->out), ad_sum_last(g, dy[0])));
}

static int build_log_softmax(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_log_softmax(g, in[0]);
    return 1;
}
static const struct ad_case cases_log_softmax[] = {{.in = "3x5", .build = build_log_softmax},
                                                   {.in = "2x3x1", .build = build_log_softmax},
                                                   {.in = "2x3", .build = build_log_softmax, .lo = -9, .hi = 9}};

const struct ad_op ad_op_log_softmax = {.name = "log_softmax",
                                        .min_in = 1,
                                        .max_in = 1,
                                        .infer = infer,
                                        .eval = eval,
                                        .vjp = vjp_log_softmax,
                                        .flops = flops,
                                        .alias = 1,
                                        AD_CASES(cases_log_softmax)};
val ad_log_softmax(struct ad_graph *g, val x)
{
    return AD_NODE(g, &ad_op_log_softmax, NULL, x);
}
