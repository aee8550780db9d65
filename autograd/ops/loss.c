/* Connectionist temporal classification. */
#include <math.h>
#include <string.h>

#include "autograd/op.h"
#include "autograd/ops/ops.h"

/* ---- ctc_loss ----
 * -log p(l | x), p summed over all paths that reduce to l, by the forward recursion over the labels with blanks between
 * (Graves et al. 2006, eq. 5-8; in logarithms):
 *   a_t(s) = log(e^a_{t-1}(s) + e^a_{t-1}(s-1) [+ e^a_{t-1}(s-2)]) + x_t(l'_s)
 *   log_probs (T, C), offsets i32 (B+1), targets i32 (L), target_offsets i32 (B+1)  ->  loss (B)
 *   An impossible target (more labels than frames allow) gives 0 with zero_infinity, else infinity.
 *   error of the run: a label out of range or equal to the blank; wrong offsets */
struct ctc_attr {
    int32_t blank, zero_infinity;
};

static int ctc_check(struct ad_infer *f)
{
    char x[96];
    const struct ctc_attr *a = f->attr;
    if (f->in_shape[0].rank != 2 || a->blank < 0 || a->blank >= f->in_shape[0].dim[1])
        return ad_infer_fail(f, "log-probabilities must be (T, C) with the blank %d in C, not %s", a->blank,
                             ad_shape_text(x, f->in_shape[0]));
    for (int i = 1; i < 4; i++)
        if (f->in_shape[i].rank != 1 || f->in_dtype[i] != AD_I32)
            return ad_infer_fail(f, "input %d must be i32 of one dimension", i);
    if (!ad_same_shape(f->in_shape[1], f->in_shape[3]) || f->in_shape[1].dim[0] < 1)
        return ad_infer_fail(f, "offsets and target offsets must both be (B+1)");
    return 0;
}

static int ctc_infer(struct ad_infer *f)
{
    if (ctc_check(f)) return -1;
    f->shape[0] = SHAPE(f->in_shape[1].dim[0] - 1);
    return 0;
}

static double log_add(double a, double b)
{
    if (a < b) {
        double t = a;
        a = b;
        b = t;
    }
    return b == -INFINITY ? a : a + log1p(exp(b - a));
}

/* One item: n frames from row t0, m labels. */
struct ctc {
    const struct ad_call *c;
    const int32_t *label;
    int64_t t0, n, m, classes;
    int32_t blank;
};

static double emit(const struct ctc *k, int64_t t, int64_t s) /* s in 0 .. 2m: the blanks are at even places */
{
    return ad_get(&k->c->in[0], (k->t0 + t) * k->classes + (s % 2 ? k->label[s / 2] : k->blank));
}

static bool skips(const struct ctc *k, int64_t s)
{
    return s % 2 && s >= 3 && k->label[s / 2] != k->label[s / 2 - 1];
}

/* Fills a (n, 2m+1) with the forward variables. Returns log p. */
static double ctc_forward(const struct ctc *k, double *a)
{
    int64_t w = 2 * k->m + 1;
    for (int64_t t = 0; t < k->n; t++)
        for (int64_t s = 0; s < w; s++) {
            double x = -INFINITY;
            if (t == 0) {
                x = s < 2 ? 0 : x;
            } else {
                x = a[(t - 1) * w + s];
                if (s >= 1) x = log_add(x, a[(t - 1) * w + s - 1]);
                if (skips(k, s)) x = log_add(x, a[(t - 1) * w + s - 2]);
            }
            a[t * w + s] = x + emit(k, t, s);
        }
    if (k->n == 0) return k->m == 0 ? 0 : -INFINITY;
    double p = a[(k->n - 1) * w + w - 1];
    return w > 1 ? log_add(p, a[(k->n - 1) * w + w - 2]) : p;
}

/* The backward variables, emission of t left out, so that a + b is the log-probability of the paths through (t, s). */
static void ctc_backward(const struct ctc *k, double *b)
{
    int64_t w = 2 * k->m + 1;
    for (int64_t t = k->n - 1; t >= 0; t--)
        for (int64_t s = w - 1; s >= 0; s--) {
            double x = -INFINITY;
            if (t == k->n - 1) {
                x = s >= w - 2 ? 0 : x;
            } else {
                x = b[(t + 1) * w + s] + emit(k, t + 1, s);
                if (s + 1 < w) x = log_add(x, b[(t + 1) * w + s + 1] + emit(k, t + 1, s + 1));
                if (s + 2 < w && skips(k, s + 2)) x = log_add(x, b[(t + 1) * w + s + 2] + emit(k, t + 1, s + 2));
            }
            b[t * w + s] = x;
        }
}

/* Room for one item's table: all frames times all labels bound every item. */
static size_t ctc_table(const struct ad_call *c)
{
    return (size_t)(c->in[0].shape.dim[0] * (2 * c->in[2].shape.dim[0] + 1)) * sizeof(double);
}
static size_t ctc_scratch(const struct ad_call *c)
{
    return ctc_table(c);
}
static size_t ctc_grad_scratch(const struct ad_call *c)
{
    return 2 * ctc_table(c);
}

static bool ctc_item(const struct ad_call *c, int64_t i, struct ctc *k)
{
    const struct ctc_attr *a = c->attr;
    const int32_t *o = c->in[1].data, *l = c->in[3].data, *label = c->in[2].data;
    int64_t classes = c->in[0].shape.dim[1];
    if (o[i] < 0 || o[i + 1] < o[i] || o[i + 1] > c->in[0].shape.dim[0] || l[i] < 0 || l[i + 1] < l[i] ||
        l[i + 1] > c->in[2].shape.dim[0]) {
        ad_call_fail(c, "the offsets of item %lld do not rise inside the data", (long long)i);
        return false;
    }
    for (int32_t j = l[i]; j < l[i + 1]; j++)
        if (label[j] < 0 || label[j] >= classes || label[j] == a->blank) {
            ad_call_fail(c, "label %d of item %lld must lie in 0..%lld and not be the blank %d", label[j], (long long)i,
                         (long long)classes - 1, a->blank);
            return false;
        }
    *k = (struct ctc){.c = c,
                      .label = label + l[i],
                      .t0 = o[i],
                      .n = o[i + 1] - o[i],
                      .m = l[i + 1] - l[i],
                      .classes = classes,
                      .blank = a->blank};
    return true;
}

static void ctc_eval(const struct ad_call *c)
{
    const struct ctc_attr *a = c->attr;
    for (int64_t i = 0; i < c->out[0].shape.dim[0]; i++) {
        struct ctc k;
        double loss = ctc_item(c, i, &k) ? -ctc_forward(&k, c->scratch) : 0;
        ad_set(&c->out[0], i, a->zero_infinity && isinf(loss) ? 0 : loss);
    }
}

extern const struct ad_op ad_op_ctc_loss, ad_op_ctc_grad;

static void ctc_vjp(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    if (dy[0]) dx[0] = AD_NODE(g, &ad_op_ctc_grad, n->attr, n->in[0], n->in[1], n->in[2], n->in[3], dy[0]);
}

static int case_ctc(struct ad_graph *g, const val *in, val *out)
{
    /* items of 4 and 3 frames, labels 1 2 and 1 1 */
    val offsets = ad_const_data(g, AD_I32, SHAPE(3), (int32_t[]){0, 4, 7}),
        labels = ad_const_data(g, AD_I32, SHAPE(4), (int32_t[]){1, 2, 1, 1});
    val ends = ad_const_data(g, AD_I32, SHAPE(3), (int32_t[]){0, 2, 4});
    out[0] = ad_ctc_loss(g, ad_log_softmax(g, in[0]), offsets, labels, ends, 0, false);
    return 1;
}
static int case_ctc_impossible(struct ad_graph *g, const val *in, val *out)
{
    val offsets = ad_const_data(g, AD_I32, SHAPE(4), (int32_t[]){0, 2, 2, 5}),
        labels = ad_const_data(g, AD_I32, SHAPE(3), (int32_t[]){1, 1, 2});
    val ends = ad_const_data(g, AD_I32, SHAPE(4), (int32_t[]){0, 2, 2, 3});
    out[0] = ad_ctc_loss(g, ad_log_softmax(g, in[0]), offsets, labels, ends, 0, true);
    return 1;
}
static const char no_second[] =
    "the second derivative of the path sum is a table of path pairs that nobody trains with";
static const struct ad_case ctc_cases[] = {
    {.in = "7x3", .build = case_ctc, .no_second = no_second},
    {.in = "6x4", .build = case_ctc_impossible, .no_second = no_second},
};

/* A cell of the table of frames and 2 labels + 1 states is a logarithm of a sum of three: some 20 operations; counted as
 * for equal items. */
static double ctc_flops(const struct ad_call *c)
{
    double items = (double)(c->in[1].shape.dim[0] - 1);
    if (items < 1) return 0;
    double states = 2 * (double)c->in[2].shape.dim[0] / items + 1;
    return 20 * (double)c->in[0].shape.dim[0] * states;
}
/* The table forward and backward, and the sum of the two over states. */
static double ctc_grad_flops(const struct ad_call *c)
{
    return 3 * ctc_flops(c);
}

const struct ad_op ad_op_ctc_loss = {
    .name = "ctc_loss",
    .attr_size = sizeof(struct ctc_attr),
    .min_in = 4,
    .max_in = 4,
    .flags = AD_EXACT,
    .infer = ctc_infer,
    .eval = ctc_eval,
    .vjp = ctc_vjp,
    .scratch = ctc_scratch,
    .flops = ctc_flops,
    AD_CASES(ctc_cases),
};

val ad_ctc_loss(struct ad_graph *g, val log_probs, val offsets, val targets, val target_offsets, int blank,
                bool zero_infinity)
{
    struct ctc_attr a = {blank, zero_infinity};
    return AD_NODE(g, &ad_op_ctc_loss, &a, log_probs, offsets, targets, target_offsets);
}

/* ---- ctc_grad: d loss_i / d x_t(c) = -(probability of being at label c at time t, given l), times dy_i (eq. 15) */
static int ctc_grad_infer(struct ad_infer *f)
{
    if (ctc_check(f)) return -1;
    f->shape[0] = f->in_shape[0];
    return 0;
}

static void ctc_grad_eval(const struct ad_call *c)
{
    for (int64_t i = 0, n = ad_count(c->out[0].shape); i < n; i++) ad_set(&c->out[0], i, 0);
    for (int64_t i = 0; i < c->in[1].shape.dim[0] - 1; i++) {
        struct ctc k;
        if (!ctc_item(c, i, &k)) return;
        int64_t w = 2 * k.m + 1;
        double *a = c->scratch, *b = a + k.n * w, dy = ad_get(&c->in[4], i), p = ctc_forward(&k, a);
        if (p == -INFINITY) continue; /* no path: the loss does not depend on x */
        ctc_backward(&k, b);
        for (int64_t t = 0; t < k.n; t++)
            for (int64_t s = 0; s < w; s++) {
                int64_t at = (k.t0 + t) * k.classes + (s % 2 ? k.label[s / 2] : k.blank);
                ad_set(&c->out[0], at, ad_get(&c->out[0], at) - dy * exp(a[t * w + s] + b[t * w + s] - p));
            }
    }
}

const struct ad_op ad_op_ctc_grad = {
    .name = "ctc_grad",
    .attr_size = sizeof(struct ctc_attr),
    .min_in = 5,
    .max_in = 5,
    .flags = AD_EXACT,
    .infer = ctc_grad_infer,
    .eval = ctc_grad_eval,
    .scratch = ctc_grad_scratch,
    .flops = ctc_grad_flops,
};
