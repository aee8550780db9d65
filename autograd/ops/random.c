/* Random ops. The numbers are f(seed, step, stream, element); the stream, taken once when the node is built, names the
 * node by its layer path. So nothing is stored: the backward pass draws the same numbers again. */
#include "autograd/ops/random.h"

#include <string.h>

#include "autograd/ops/common.h"

extern const struct ad_op ad_op_random_uniform, ad_op_random_normal, ad_op_dropout;

/* ---- random_uniform: [0, 1) with 24 bits, element i from word i. random_normal: Box and Muller 1958, from words 2i,
 * 2i + 1 */

static int infer_random(struct ad_infer *f)
{
    const struct ad_random_attr *a = f->attr;
    if (!ad_is_float((enum ad_dtype)a->dtype)) return ad_infer_fail(f, "it makes f32 or f64 numbers");
    f->shape[0] = a->shape;
    f->dtype[0] = (enum ad_dtype)a->dtype;
    return 0;
}

static void eval_uniform(const struct ad_call *c)
{
    uint64_t key = ad_random_key(c);
    uint32_t w[4];
    int64_t n = ad_count(c->out[0].shape);
    for (int64_t i = 0; i < n; i++) {
        if (i % 4 == 0) rng_philox(key, c->step, (uint64_t)i / 4, w);
        ad_set(&c->out[0], i, ad_random_unit(w[i % 4]));
    }
}

static void eval_normal(const struct ad_call *c)
{
    uint64_t key = ad_random_key(c);
    uint32_t w[4];
    int64_t n = ad_count(c->out[0].shape);
    for (int64_t i = 0; i < n; i++) {
        if (i % 2 == 0) rng_philox(key, c->step, (uint64_t)i / 2, w);
        double u = ad_random_unit(w[i % 2 * 2]) + 1.0 / 16777216.0, v = ad_random_unit(w[i % 2 * 2 + 1]);
        ad_set(&c->out[0], i, sqrt(-2 * log(u)) * cos(2 * M_PI * v));
    }
}

static val emit(struct ad_graph *g, const struct ad_op *op, enum ad_dtype t, struct ad_shape s)
{
    struct ad_random_attr a;
    memset(&a, 0, sizeof a);
    ad_attr_shape(&a.shape, s);
    a.stream = ad_new_stream(g);
    a.dtype = t;
    return ad_node(g, op, &a, NULL, 0);
}

static int build_uniform(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_random_uniform(g, AD_F64, SHAPE(3, 7));
    out[1] = ad_random_uniform(g, AD_F32, SHAPE(5));
    return 2;
}
static int build_normal(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_random_normal(g, AD_F64, SHAPE(3, 7));
    out[1] = ad_random_normal(g, AD_F32, SHAPE(5));
    return 2;
}
static const struct ad_case cases_uniform[] = {{.in = "", .build = build_uniform, .no_gradient = "it has no inputs"}};
static const struct ad_case cases_normal[] = {{.in = "", .build = build_normal, .no_gradient = "it has no inputs"}};

const struct ad_op ad_op_random_uniform = {.name = "random_uniform",
                                           .attr_size = sizeof(struct ad_random_attr),
                                           .flags = AD_RANDOM,
                                           .infer = infer_random,
                                           .eval = eval_uniform,
                                           AD_CASES(cases_uniform)};
const struct ad_op ad_op_random_normal = {.name = "random_normal",
                                          .attr_size = sizeof(struct ad_random_attr),
                                          .flags = AD_RANDOM,
                                          .infer = infer_random,
                                          .eval = eval_normal,
                                          AD_CASES(cases_normal)};
val ad_random_uniform(struct ad_graph *g, enum ad_dtype t, struct ad_shape s)
{
    return emit(g, &ad_op_random_uniform, t, s);
}
val ad_random_normal(struct ad_graph *g, enum ad_dtype t, struct ad_shape s)
{
    return emit(g, &ad_op_random_normal, t, s);
}

/* ---- dropout: y = x / (1 - p) where the element's word (per_item: that of its row of axis 0) is not among the lowest
 * p, else 0 (Srivastava et al. 2014).   x any shape, floats; first, optional: one integer, not negative.
 * With `first` x is rows first, first + 1 ... of a larger tensor, and gets the words that it would have there.
 * dx = the same on dy.   Error: p is not in [0, 1), x is a scalar and has no rows */

static int infer_dropout(struct ad_infer *f)
{
    const struct ad_random_attr *a = f->attr;
    if (!(a->p >= 0 && a->p < 1))
        return ad_infer_fail(f, "the share dropped is %g; it must be from 0 to below 1", a->p);
    if (!ad_is_float(f->in_dtype[0])) return ad_infer_fail(f, "it needs f32 or f64 numbers");
    if ((a->per_item || f->n_in > 1) && f->in_shape[0].rank < 1) return ad_infer_fail(f, "a scalar has no items");
    if (f->n_in > 1 && (ad_is_float(f->in_dtype[1]) || ad_count(f->in_shape[1]) != 1))
        return ad_infer_fail(f, "the number of the first row must be one integer");
    f->shape[0] = f->in_shape[0];
    return 0;
}

static void eval_dropout(const struct ad_call *c)
{
    const struct ad_random_attr *a = c->attr;
    uint64_t key = ad_random_key(c);
    uint32_t w[4], below = ad_drop_below(a->p);
    int64_t n = ad_count(c->out[0].shape), width = a->per_item && n ? n / c->out[0].shape.dim[0] : 1,
            first = ad_random_first(c);
    for (int64_t i = 0; i < n; i++) {
        int64_t at = first + i / width;
        rng_philox(key, c->step, (uint64_t)at / 4, w);
        ad_set(&c->out[0], i, w[at % 4] < below ? 0 : ad_get(&c->in[0], i) / (1 - a->p));
    }
}

static void vjp_dropout(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    dx[0] = ad_node(g, &ad_op_dropout, n->attr, (const val[]){dy[0], n->n_in > 1 ? n->in[1] : 0}, n->n_in);
}

static int build_dropout(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_dropout(g, ad_square(g, in[0]), 0.4, false);
    out[1] = ad_dropout(g, in[0], 0.5, true);
    return 2;
}
static int build_dropout_part(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_dropout_part(g, ad_square(g, in[0]), in[1], 0.4, false);
    out[1] = ad_dropout_part(g, in[0], in[1], 0.5, true);
    return 2;
}
static const struct ad_case cases_dropout[] = {{.in = "5x7", .build = build_dropout},
                                               {.in = "6x2x3", .build = build_dropout},
                                               {.in = "9x5 i32:1<50", .build = build_dropout_part}};

const struct ad_op ad_op_dropout = {.name = "dropout",
                                    .attr_size = sizeof(struct ad_random_attr),
                                    .flags = AD_RANDOM,
                                    .min_in = 1,
                                    .max_in = 2,
                                    .half = 1,
                                    .infer = infer_dropout,
                                    .eval = eval_dropout,
                                    .vjp = vjp_dropout,
                                    .alias = 1,
                                    AD_CASES(cases_dropout)};

static val dropout(struct ad_graph *g, const val *in, int n_in, double p, bool per_item)
{
    struct ad_random_attr a;
    if (p == 0) return in[0];
    memset(&a, 0, sizeof a);
    a.stream = ad_new_stream(g);
    a.p = p;
    a.per_item = per_item;
    return ad_node(g, &ad_op_dropout, &a, in, n_in);
}
val ad_dropout(struct ad_graph *g, val x, double p, bool per_item)
{
    return dropout(g, &x, 1, p, per_item);
}
val ad_dropout_part(struct ad_graph *g, val x, val first, double p, bool per_item)
{
    return dropout(g, (const val[]){x, first}, 2, p, per_item);
}
