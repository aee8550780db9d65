/* Cross-entropy of logits with one class a row, and its gradient, each in one pass: no tensor of log-probabilities, no
 * one-hot rows. */
#include "autograd/ops/cross_entropy.h"

#include <math.h>

#include "autograd/ops/common.h"

/* ---- cross_entropy: loss_i = lse_i - (1-e) x_i[t_i] - e/C sum_c x_i[c],  lse_i = log sum_c exp x_i[c]
 * which is -(1-e) log p_i[t_i] - e/C sum_c log p_i[c] (Szegedy et al. 2016, sec. 7), p the softmax.
 *   logits x (N, C), target t (N) i32 or i64  ->  loss (N), lse (N); both are 0 where t_i is `ignore`.
 *   error: shapes that do not fit; no classes.   error of the run: a target that is neither `ignore` nor in 0 .. C-1 */

static int check(struct ad_infer *f)
{
    char x[96], t[96];
    struct ad_shape s = f->in_shape[0], to = f->in_shape[1];
    if (!ad_is_float(f->in_dtype[0]) || !ad_is_int(f->in_dtype[1]))
        return ad_infer_fail(f, "logits must be f32 or f64 and targets i32 or i64, not %s and %s",
                             ad_dtype_name(f->in_dtype[0]), ad_dtype_name(f->in_dtype[1]));
    if (s.rank != 2 || to.rank != 1 || s.dim[0] != to.dim[0])
        return ad_infer_fail(f, "logits must be (N, C), targets (N), not %s and %s", ad_shape_text(x, s),
                             ad_shape_text(t, to));
    if (s.dim[1] == 0) return ad_infer_fail(f, "there are no classes");
    return 0;
}

static int infer(struct ad_infer *f)
{
    if (check(f)) return -1;
    f->n_out = 2;
    f->shape[0] = f->shape[1] = f->in_shape[1];
    f->dtype[1] = f->in_dtype[0];
    return 0;
}

bool cross_entropy_targets_ok(const struct ad_call *c)
{
    const struct cross_entropy_attr *a = c->attr;
    int64_t n = c->in[0].shape.dim[0], classes = c->in[0].shape.dim[1];
    for (int64_t i = 0; i < n; i++) {
        int64_t t = ad_get_int(&c->in[1], i);
        if (t == a->ignore || (t >= 0 && t < classes)) continue;
        ad_call_fail(c, "target %lld (row %lld) is neither in 0 .. %lld nor %lld, which is ignored", (long long)t,
                     (long long)i, (long long)classes - 1, (long long)a->ignore);
        return false;
    }
    return true;
}

static void zero(const struct ad_tensor *t)
{
    for (int64_t i = 0, n = ad_count(t->shape); i < n; i++) ad_set(t, i, 0);
}

static void eval(const struct ad_call *c)
{
    const struct cross_entropy_attr *a = c->attr;
    const struct ad_tensor *x = &c->in[0];
    int64_t n = x->shape.dim[0], classes = x->shape.dim[1];
    zero(&c->out[0]);
    zero(&c->out[1]);
    if (!cross_entropy_targets_ok(c)) return;
    for (int64_t i = 0; i < n; i++) {
        int64_t t = ad_get_int(&c->in[1], i), at = i * classes;
        double m = -INFINITY, sum = 0, all = 0;
        if (t == a->ignore) continue;
        for (int64_t k = 0; k < classes; k++) {
            double v = ad_get(x, at + k);
            if (v > m || isnan(v)) m = v;
        }
        if (isinf(m)) m = 0;
        for (int64_t k = 0; k < classes; k++) {
            sum += exp(ad_get(x, at + k) - m);
            all += ad_get(x, at + k);
        }
        double lse = m + log(sum), loss = lse - (1 - a->smoothing) * ad_get(x, at + t);
        if (a->smoothing > 0) loss -= a->smoothing / (double)classes * all;
        ad_set(&c->out[0], i, loss);
        ad_set(&c->out[1], i, lse);
    }
}

static double flops(const struct ad_call *c)
{
    return 12 * (double)ad_count(c->in[0].shape);
}

/* 1 where a row counts, as a column (N, 1) of x's type. */
static val counts(struct ad_graph *g, const struct ad_node *n)
{
    const struct cross_entropy_attr *a = n->attr;
    val ignore = ad_const(g, ad_dtype_of(g, n->in[1]), (double)a->ignore);
    return ad_add_last(g, ad_cast(g, ad_not_equal(g, n->in[1], ignore), ad_dtype_of(g, n->in[0])));
}

static void vjp(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    if (dy[0]) dx[0] = AD_NODE(g, &ad_op_cross_entropy_grad, n->attr, n->in[0], n->in[1], n->out + 1, dy[0]);
    if (!dy[1]) return;
    val d = ad_mul(g, ad_softmax(g, n->in[0]), ad_mul(g, counts(g, n), ad_add_last(g, dy[1])));
    dx[0] = dx[0] ? ad_add(g, dx[0], d) : d;
}

/* ---- cross_entropy_grad: dx_i[c] = dy_i (exp(x_i[c] - lse_i) - (1-e) [c = t_i] - e/C), 0 where t_i is `ignore`
 *   x (N, C), t (N), lse (N), dy (N)  ->  dx (N, C)
 * Its own gradient is that of the formula from x on: nothing flows into lse, which is a function of x. */

static int infer_grad(struct ad_infer *f)
{
    if (check(f)) return -1;
    for (int i = 2; i < 4; i++)
        if (!ad_same_shape(f->in_shape[i], f->in_shape[1]) || f->in_dtype[i] != f->in_dtype[0])
            return ad_infer_fail(f, "lse and dy must be (N) of the type of the logits");
    f->shape[0] = f->in_shape[0];
    return 0;
}

static void eval_grad(const struct ad_call *c)
{
    const struct cross_entropy_attr *a = c->attr;
    const struct ad_tensor *x = &c->in[0];
    int64_t n = x->shape.dim[0], classes = x->shape.dim[1];
    if (!cross_entropy_targets_ok(c)) {
        zero(&c->out[0]);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t t = ad_get_int(&c->in[1], i);
        double lse = ad_get(&c->in[2], i), d = ad_get(&c->in[3], i);
        for (int64_t k = 0; k < classes; k++) {
            double p = exp(ad_get(x, i * classes + k) - lse) - a->smoothing / (double)classes;
            if (k == t) p -= 1 - a->smoothing;
            ad_set(&c->out[0], i * classes + k, t == a->ignore ? 0 : d * p);
        }
    }
}

static void vjp_grad(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    const struct cross_entropy_attr *a = n->attr;
    val x = n->in[0], keep = counts(g, n), p = ad_softmax(g, x);
    int64_t classes = ad_dim(g, x, -1);
    /* An ignored number may be no class: the mask takes out the class that stands in. */
    val index = ad_minimum(g, ad_maximum(g, n->in[1], ad_const(g, ad_dtype_of(g, n->in[1]), 0)),
                           ad_const(g, ad_dtype_of(g, n->in[1]), (double)(classes - 1)));
    val q = ad_shift(g, ad_scale(g, ad_one_hot(g, index, classes, ad_dtype_of(g, x)), 1 - a->smoothing),
                     a->smoothing / (double)classes);
    val s = ad_mul(g, dy[0], keep), sp = ad_mul(g, s, p);
    dx[0] = ad_mul(g, ad_sub(g, sp, ad_mul(g, p, ad_sum_last(g, sp))), ad_add_last(g, n->in[3]));
    dx[3] = ad_reshape(g, ad_sum_last(g, ad_mul(g, s, ad_sub(g, p, q))), ad_shape_of(g, n->in[3]));
}

/* ---- cases ------------------------------------------------------------------------------------------------------- */

static int build_plain(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_cross_entropy(g, in[0], in[1], 0, -100);
    return 1;
}
static int build_both(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_cross_entropy(g, in[0], in[1], 0.1, 2);
    out[1] = out[0] + 1;
    return 2;
}
static const struct ad_case cases[] = {{.in = "4x5 i32:4<5", .build = build_plain},
                                       {.in = "6x3 i64:6<3", .build = build_both},
                                       {.in = "2x1 i32:2<1", .build = build_plain},
                                       {.in = "3x7 i32:3<7", .build = build_both, .lo = -9, .hi = 9}};

static int build_grad(struct ad_graph *g, const val *in, val *out)
{
    struct cross_entropy_attr a = {.smoothing = 0.2, .ignore = 1};
    val lse = ad_node(g, &ad_op_cross_entropy, &a, in, 2) + 1;
    out[0] = AD_NODE(g, &ad_op_cross_entropy_grad, &a, in[0], in[1], lse, in[2]);
    return 1;
}
static const struct ad_case cases_grad[] = {{.in = "5x3 i32:5<3 5", .build = build_grad},
                                            {.in = "2x9 i64:2<9 2", .build = build_grad}};

const struct ad_op ad_op_cross_entropy = {.name = "cross_entropy",
                                          .attr_size = sizeof(struct cross_entropy_attr),
                                          .min_in = 2,
                                          .max_in = 2,
                                          .flags = AD_EXACT,
                                          .infer = infer,
                                          .eval = eval,
                                          .vjp = vjp,
                                          .flops = flops,
                                          AD_CASES(cases)};
const struct ad_op ad_op_cross_entropy_grad = {.name = "cross_entropy_grad",
                                               .attr_size = sizeof(struct cross_entropy_attr),
                                               .min_in = 4,
                                               .max_in = 4,
                                               .flags = AD_EXACT,
                                               .infer = infer_grad,
                                               .eval = eval_grad,
                                               .vjp = vjp_grad,
                                               .flops = flops,
                                               .alias = 1,
                                               AD_CASES(cases_grad)};

val ad_cross_entropy(struct ad_graph *g, val logits, val target, double smoothing, int64_t ignore)
{
    struct cross_entropy_attr a = {.smoothing = smoothing, .ignore = ignore};
    return AD_NODE(g, &ad_op_cross_entropy, &a, logits, target);
}
