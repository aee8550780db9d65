/* An op of one's own: SwiGLU (Shazeer 2020, eq. 6), in a file that touches none of triad's.
 *
 *   x (..., 2D) = [a b]   ->   y (..., D) = silu(a) b
 *
 * Shows the three functions that make an op, checks its gradient by finite differences, and fits a function with it.
 * Build it with `make examples`, or `cc -std=gnu11 own_op.c $(pkg-config --cflags --libs triad)` after make install. */
#include <triad.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* The only shape rule. */
static int infer(struct ad_infer *f)
{
    struct ad_shape s = f->in_shape[0];
    if (s.rank < 1 || s.dim[s.rank - 1] % 2) return ad_infer_fail(f, "the last axis must have an even size");
    s.dim[s.rank - 1] /= 2;
    f->shape[0] = s;
    return 0;
}

/* The definition, for f32 and f64 alike. */
static void eval(const struct ad_call *c)
{
    const struct ad_tensor *x = &c->in[0], *y = &c->out[0];
    int64_t d = y->shape.dim[y->shape.rank - 1], n = ad_count(y->shape);
    for (int64_t i = 0; i < n; i++) {
        int64_t at = i / d * 2 * d + i % d;
        double a = ad_get(x, at);
        ad_set(y, i, a / (1 + exp(-a)) * ad_get(x, at + d));
    }
}

/* The gradient, in other ops: da = dy b s (1 + a (1 - s)) with s = sigmoid(a), db = dy silu(a). */
static void vjp(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    val part[2];
    ad_split(g, n->in[0], -1, 2, part);
    val s = ad_sigmoid(g, part[0]), rest = ad_shift(g, ad_neg(g, s), 1);
    val slope = ad_mul(g, s, ad_shift(g, ad_mul(g, part[0], rest), 1));
    val both[2] = {ad_mul(g, ad_mul(g, dy[0], part[1]), slope), ad_mul(g, dy[0], ad_silu(g, part[0]))};
    dx[0] = ad_concat(g, both, 2, -1);
}

static const struct ad_op op = {.name = "swiglu", .min_in = 1, .max_in = 1, .infer = infer, .eval = eval, .vjp = vjp};

static val swiglu(struct ad_graph *g, val x)
{
    return AD_NODE(g, &op, NULL, x);
}

/* The largest relative difference between the gradient of sum(swiglu(x)^2) and its slope by differences, in f64. */
static int gradient_error(double *worst, struct err *e)
{
    enum { N = 12 };
    double x[N], grad[N] = {0}, h = 1e-5;
    for (int i = 0; i < N; i++) x[i] = sin(1 + 2 * i);
    struct ad_graph *g = ad_graph_new();
    val in = ad_input(g, "x", AD_F64, SHAPE(3, 4)), loss = ad_sum_all(g, ad_square(g, swiglu(g, in))), dx = 0;
    ad_grad(g, &loss, NULL, 1, &in, 1, &dx);
    ad_output(g, "loss", loss);
    ad_output(g, "dx", dx);
    struct ad_plan *p = ad_plan_new(g, NULL, 0, e);
    ad_graph_free(g); /* the plan has its own copy */
    if (p) ad_bind(p, "x", x);
    int rc = p ? ad_run(p, 0, 0, e) : e->code;
    for (int i = 0; i < N && !rc; i++) grad[i] = ((const double *)ad_result(p, "dx", NULL))[i];
    for (int i = 0; i < N && !rc; i++) {
        double up = 0, down = 0, keep = x[i];
        x[i] = keep + h;
        if (!(rc = ad_run(p, 0, 0, e))) up = ad_result_scalar(p, "loss");
        x[i] = keep - h;
        if (!rc && !(rc = ad_run(p, 0, 0, e))) down = ad_result_scalar(p, "loss");
        x[i] = keep;
        double slope = (up - down) / (2 * h);
        *worst = fmax(*worst, fabs(slope - grad[i]) / fmax(fabs(slope), 1e-3));
    }
    ad_plan_free(p);
    return rc;
}

/* Fits y = |x| on [-1, 1] with linear -> swiglu -> linear. */
static int fit(struct err *e)
{
    enum { N = 64, STEPS = 300 };
    float x[N], y[N];
    for (int i = 0; i < N; i++) x[i] = -1 + 2 * (float)i / (N - 1), y[i] = fabsf(x[i]);
    struct ad_store *store = ad_store_new(1);
    struct nn m = {.g = ad_graph_new(), .store = store, .training = true};
    val out = nn_linear(
        &m, "out", swiglu(m.g, nn_linear(&m, "in", ad_input(m.g, "x", AD_F32, SHAPE(N, 1)), 32, true, 0)), 1, true, 0);
    val loss = ad_mean_all(m.g, ad_square(m.g, ad_sub(m.g, out, ad_input(m.g, "y", AD_F32, SHAPE(N, 1)))));
    ad_output(m.g, "loss", loss);
    opt_emit_gradients(m.g, store, loss);
    int rc = nn_status(&m, e) ? e->code : ad_store_commit(store, e);
    struct opt_config config = {.kind = OPT_ADAMW, .lr = 0.02, .beta1 = 0.9, .beta2 = 0.98, .eps = 1e-8};
    struct ad_plan *p = rc ? NULL : ad_plan_new(m.g, store, 0, e);
    struct opt *o = p ? opt_new(&config, store, e) : NULL;
    int64_t n = o ? ad_store_flat_count(store) : 0;
    float *grad = mem_zero((size_t)n, sizeof *grad);
    if (!o) rc = e->code;
    if (o) opt_bind_gradients(p, store, grad);
    for (int step = 0; step <= STEPS && !rc; step++) {
        ad_bind(p, "x", x);
        ad_bind(p, "y", y);
        rc = ad_run(p, 1, (uint64_t)step, e);
        if (!rc && step % 100 == 0) printf("step %3d   loss %.6f\n", step, ad_result_scalar(p, "loss"));
        if (!rc) opt_step(o, grad, opt_norm(grad, n), opt_lr(&config, step, (double)step / STEPS));
    }
    free(grad);
    opt_free(o);
    ad_plan_free(p);
    ad_graph_free(m.g);
    ad_store_free(store);
    return rc;
}

int main(void)
{
    struct err e = {0};
    double worst = 0;
    threads_init(0);
    int rc = gradient_error(&worst, &e);
    if (!rc) printf("gradient error %.1e\n", worst);
    if (!rc) rc = fit(&e);
    if (rc) fprintf(stderr, "own_op: %s\n", e.msg);
    return err_exit_status(rc);
}
