/* Cross-entropy's kernels, elementwise runs over broadcast and strided inputs, and norm gradients that take the residual
 * in: against the plain evals on odd shapes, with NaN and infinity, bit for bit the same on 1, 2, 3 and 7 threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "autograd/op.h"
#include "autograd/ops/ops.h"
#include "autograd/plan.h"
#include "base/buf.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/threads.h"

enum { SEED = 911 };
static const int threads[] = {1, 2, 3, 7};

/* Inputs by name, for all plans of one graph. */
struct bound {
    const char *name[4];
    const void *data[4];
    int n;
};

/* The output `name`, in memory of its own. */
static float *run(const struct ad_graph *g, unsigned flags, const struct bound *b, const char *name, int64_t *n)
{
    struct err e = {0};
    struct ad_shape s;
    struct ad_plan *p = ad_plan_new(g, NULL, flags, &e);
    if (!p) fail_msg("%s", e.msg);
    for (int i = 0; i < b->n; i++) ad_bind(p, b->name[i], b->data[i]);
    if (ad_run(p, 1, 1, &e)) fail_msg("%s", e.msg);
    const float *y = ad_result(p, name, &s);
    *n = ad_count(s);
    float *copy = memcpy(mem_alloc((size_t)(*n + 1) * sizeof *y), y, (size_t)*n * sizeof *y);
    ad_plan_free(p);
    return copy;
}

/* Plans with all passes, on each number of threads, against the reference executor: |difference| at most
 * tol (1 + |reference|). */
static void agree(const struct ad_graph *g, const struct bound *b, const char *name, double tol, const char *what)
{
    int64_t n, m;
    float *want = run(g, AD_REFERENCE, b, name, &n), *first = NULL;
    for (int t = 0; t < 4; t++) {
        omp_set_num_threads(threads[t]);
        float *got = run(g, 0, b, name, &m);
        assert_int_equal(n, m);
        for (int64_t i = 0; i < n; i++) {
            double w = (double)want[i], y = (double)got[i];
            bool same = isnan(w) ? isnan(y) : w == y || fabs(w - y) <= tol * (1 + fabs(w));
            if (!same) fail_msg("%s, %s: number %lld is %.9g, not %.9g", what, name, (long long)i, y, w);
        }
        if (!first) first = got;
        if (memcmp(first, got, (size_t)n * sizeof *got)) fail_msg("%s: other bits on %d threads", what, threads[t]);
        if (first != got) free(got);
    }
    omp_set_num_threads(2);
    free(first);
    free(want);
}

static float *numbers(struct rng *r, int64_t n, double lo, double hi, bool odd)
{
    float *x = mem_alloc((size_t)(n + 1) * sizeof *x);
    for (int64_t i = 0; i < n; i++) {
        x[i] = (float)rng_range(r, lo, hi);
        if (odd && rng_below(r, 50) == 0) x[i] = rng_below(r, 2) ? NAN : rng_below(r, 2) ? INFINITY : -INFINITY;
    }
    return x;
}

/* ---- cross-entropy ----------------------------------------------------------------------------------------------- */

static void cross_entropy(void **state)
{
    struct rng r = rng_make(SEED, 1, 0);
    for (int trial = 0; trial < 60; trial++) {
        int64_t n = rng_below(&r, 9), classes = trial % 6 == 0 ? 2000 + rng_below(&r, 4000) : 1 + rng_below(&r, 70);
        int64_t ignore = trial % 3 ? -100 : rng_below(&r, classes);
        double smoothing = trial % 2 ? 0 : 0.1;
        if (trial == 11) n = 300; /* more than one task a thread */
        float *x = numbers(&r, n * classes, -9, 9, trial % 5 == 4), *dy = numbers(&r, n, -1, 1, false);
        int64_t *target = mem_alloc((size_t)(n + 1) * sizeof *target);
        for (int64_t i = 0; i < n; i++) target[i] = rng_below(&r, 4) ? rng_below(&r, classes) : ignore;
        struct ad_graph *g = ad_graph_new();
        val logits = ad_input(g, "x", AD_F32, SHAPE(n, classes)), d,
            loss = ad_cross_entropy(g, logits, ad_input(g, "target", AD_I64, SHAPE(n)), smoothing, ignore),
            seed = ad_input(g, "dy", AD_F32, SHAPE(n));
        ad_output(g, "loss", loss);
        ad_grad(g, &loss, &seed, 1, &logits, 1, &d);
        ad_output(g, "d", d);
        struct bound b = {{"x", "target", "dy"}, {x, target, dy}, 3};
        /* a loss of up to 27 in f32; a gradient is within a few ulps of exp of the largest p, 1, with an lse of up to 20
         * rounded to f32 in the exponent */
        agree(g, &b, "loss", 4e-7, "cross-entropy");
        agree(g, &b, "d", 3e-6, "cross-entropy's gradient");
        ad_graph_free(g);
        free(x);
        free(dy);
        free(target);
    }
}

/* The gradient where p is nearly 1 keeps its digits: p - 1 is not the difference of two rounded numbers. */
static void a_sure_answer_keeps_its_gradient(void **state)
{
    float x[3] = {14, 0, -1}, dy = 1;
    int64_t target = 0, n;
    struct ad_graph *g = ad_graph_new();
    val logits = ad_input(g, "x", AD_F32, SHAPE(1, 3)), d, seed = ad_input(g, "dy", AD_F32, SHAPE(1)),
        loss = ad_cross_entropy(g, logits, ad_input(g, "target", AD_I64, SHAPE(1)), 0, -1);
    ad_grad(g, &loss, &seed, 1, &logits, 1, &d);
    ad_output(g, "d", d);
    struct bound b = {{"x", "target", "dy"}, {x, &target, &dy}, 3};
    float *got = run(g, 0, &b, "d", &n);
    double lse = log(exp(14) + 1 + exp(-1)), want = expm1(14 - lse);
    /* lse is stored in f32: half an ulp of 14 against 1.1e-6 */
    assert_true(fabs((double)got[0] - want) <= 0x1p-21);
    free(got);
    ad_graph_free(g);
}

static void a_wrong_target_is_an_error(void **state)
{
    static const int64_t wrong[] = {-1, 5, -7, 1000000};
    for (int i = 0; i < 4; i++)
        for (unsigned k = 0; k < 2; k++) {
            float x[10] = {0};
            int64_t target[2] = {4, wrong[i]};
            struct err e = {0};
            struct ad_graph *g = ad_graph_new();
            val loss = ad_cross_entropy(g, ad_input(g, "x", AD_F32, SHAPE(2, 5)),
                                        ad_input(g, "target", AD_I64, SHAPE(2)), 0, -100);
            ad_output(g, "loss", loss);
            struct ad_plan *p = ad_plan_new(g, NULL, k ? AD_REFERENCE : 0, &e);
            ad_bind(p, "x", x);
            ad_bind(p, "target", target);
            assert_int_equal(ad_run(p, 1, 1, &e), ERR_SHAPE);
            if (!strstr(e.msg, "row 1") || !strstr(e.msg, "0 .. 4")) fail_msg("%s", e.msg);
            ad_plan_free(p);
            ad_graph_free(g);
        }
}

/* ---- elementwise runs -------------------------------------------------------------------------------------------- */

/* x seen with some axes of size 1 broadcast, and perhaps transposed or backwards: of shape s. */
static val seen(struct ad_graph *g, struct rng *r, const char *name, struct ad_shape s, struct ad_shape *own)
{
    *own = s;
    for (int i = 0; i < s.rank; i++)
        if (rng_below(r, 3) == 0) own->dim[i] = 1;
    int a = (int)rng_below(r, s.rank), b = (int)rng_below(r, s.rank);
    bool swap = rng_below(r, 3) == 0, flip = rng_below(r, 4) == 0;
    int64_t t = own->dim[a];
    if (swap) own->dim[a] = own->dim[b], own->dim[b] = t;
    val x = ad_input(g, name, AD_F32, *own);
    if (swap) x = ad_swap(g, x, a, b);
    return flip ? ad_flip(g, x, a) : x;
}

static void broadcasts(void **state)
{
    static const int64_t dims[] = {1, 2, 3, 5, 8, 9, 16, 31, 64, 127, 128, 129, 130, 511, 1023, 1025, 2100};
    struct rng r = rng_make(SEED, 2, 0);
    for (int trial = 0; trial < 250; trial++) {
        struct ad_shape s = {.rank = 1 + (int)rng_below(&r, 4)}, own[3];
        int64_t n = 1;
        for (int i = 0; i < s.rank; i++) {
            s.dim[i] = dims[rng_below(&r, 17)];
            if (n * s.dim[i] > 60000) s.dim[i] = 1 + rng_below(&r, 3);
            n *= s.dim[i];
        }
        if (trial == 7) s.dim[0] = 0;
        struct ad_graph *g = ad_graph_new();
        val a = seen(g, &r, "a", s, &own[0]), b = seen(g, &r, "b", s, &own[1]), c = seen(g, &r, "c", s, &own[2]);
        val y = ad_add(g, ad_mul(g, ad_broadcast(g, a, s), b), ad_maximum(g, ad_sub(g, c, b), a));
        ad_output(g, "y", trial % 3 ? y : ad_mul(g, ad_broadcast(g, a, s), c));
        float *x[3];
        for (int k = 0; k < 3; k++) x[k] = numbers(&r, ad_count(own[k]), -2, 2, trial % 5 == 4);
        struct bound bound = {{"a", "b", "c"}, {x[0], x[1], x[2]}, 3};
        agree(g, &bound, "y", 4e-7, "broadcasts"); /* two roundings of numbers up to 6 */
        ad_graph_free(g);
        for (int k = 0; k < 3; k++) free(x[k]);
    }
}

/* ---- norm gradients with the residual ---------------------------------------------------------------------------- */

static void a_norm_takes_the_residual(void **state)
{
    struct rng r = rng_make(SEED, 3, 0);
    for (int trial = 0; trial < 24; trial++) {
        int64_t rows = trial % 4 == 3 ? 300 : 1 + rng_below(&r, 40), c = 1 + rng_below(&r, 90);
        struct ad_graph *g = ad_graph_new();
        val x = ad_input(g, "x", AD_F32, SHAPE(rows, c)), gain = ad_input(g, "gain", AD_F32, SHAPE(c)),
            w = ad_input(g, "w", AD_F32, SHAPE(rows, c)), d[2], in[2] = {x, gain};
        val y = trial % 2 ? ad_layer_norm(g, x, gain, 0, 1e-2) : ad_rms_norm(g, x, gain, 1e-2);
        val loss = ad_sum_all(g, ad_mul(g, ad_add(g, x, ad_sin(g, y)), w));
        ad_grad(g, &loss, NULL, 1, in, 2, d);
        ad_output(g, "dx", d[0]);
        ad_output(g, "dgain", d[1]);
        float *data[3] = {numbers(&r, rows * c, 1, 4, false), numbers(&r, c, -2, 2, false),
                          numbers(&r, rows * c, -2, 2, false)};
        struct bound b = {{"x", "gain", "w"}, {data[0], data[1], data[2]}, 3};
        /* dx has terms of up to 1 / sqrt(eps) = 10 times the inputs; dgain sums up to 300 of them */
        agree(g, &b, "dx", 4e-5, "norm and residual");
        agree(g, &b, "dgain", 2e-4, "norm and residual");
        struct err e = {0};
        struct buf text = {0};
        struct ad_plan *p = ad_plan_new(g, NULL, 0, &e);
        ad_plan_report(p, &text);
        assert_non_null(strstr(text.data, "norm_grad"));
        assert_null(strstr(text.data, "add ")); /* it has none of its own any more */
        buf_free(&text);
        ad_plan_free(p);
        ad_graph_free(g);
        for (int k = 0; k < 3; k++) free(data[k]);
    }
}

/* ---- norms of more than the caches hold -------------------------------------------------------------------------- */

/* Results as large as these, here of 1 MB and more, are written past the caches, and images are seen through one by one by a
 * thread each where each has two of them at least: 20 images, so on 7 threads too; 5 are not. */
enum { PAST = 1 << 18 };
static int64_t stream_from;
static int all_pass_by(void **state)
{
    stream_from = ad_stream_from;
    ad_stream_from = PAST;
    return 0;
}
static int as_it_was(void **state)
{
    ad_stream_from = stream_from;
    return 0;
}
static void norms_past_the_caches(void **state)
{
    enum { LAYER, RMS, GROUP, KINDS };
    struct rng r = rng_make(SEED, 4, 0);
    const struct ad_shape shape[] = {SHAPE(129, 2048), SHAPE(259, 1040), SHAPE(20, 17, 13, 256), SHAPE(5, 34, 25, 256)};
    const int kind[] = {LAYER, RMS, GROUP, GROUP};
    for (int i = 0; i < 4; i++) {
        int64_t n = ad_count(shape[i]), c = shape[i].dim[shape[i].rank - 1];
        assert_true(n >= PAST);
        struct ad_graph *g = ad_graph_new();
        val x = ad_input(g, "x", AD_F32, shape[i]), gain = ad_input(g, "gain", AD_F32, SHAPE(c)),
            w = ad_input(g, "w", AD_F32, shape[i]), d[2], in[2] = {x, gain};
        val y = kind[i] == LAYER ? ad_layer_norm(g, x, gain, gain, 1e-2)
                : kind[i] == RMS ? ad_rms_norm(g, x, gain, 1e-2)
                                 : ad_group_norm(g, x, gain, gain, 32, 1e-2);
        val loss = ad_sum_all(g, ad_mul(g, y, w));
        ad_grad(g, &loss, NULL, 1, in, 2, d);
        ad_output(g, "y", y);
        ad_output(g, "dx", d[0]);
        ad_output(g, "dgain", d[1]);
        float *data[3] = {numbers(&r, n, 1, 4, false), numbers(&r, c, -2, 2, false), numbers(&r, n, -2, 2, false)};
        struct bound b = {{"x", "gain", "w"}, {data[0], data[1], data[2]}, 3};
        /* numbers of up to 8, a few roundings each; of dgain, up to 4,420 terms of up to 8 whose sum is near 50 */
        agree(g, &b, "y", 4e-6, "a norm past the caches");
        agree(g, &b, "dx", 4e-6, "a norm past the caches");
        agree(g, &b, "dgain", 2e-4, "a norm past the caches");
        ad_graph_free(g);
        for (int k = 0; k < 3; k++) free(data[k]);
    }
}

/* Elementwise results are written past the caches, where an operand does not lie at their place; rows of
 * a length that is no multiple of a line are not. */
static void elementwise_past_the_caches(void **state)
{
    struct rng r = rng_make(SEED, 5, 0);
    const struct ad_shape shape[] = {SHAPE(2, 131, 1008), SHAPE(263, 1001)};
    for (int i = 0; i < 2; i++) {
        int64_t n = ad_count(shape[i]), c = shape[i].dim[shape[i].rank - 1];
        assert_true(n >= PAST);
        struct ad_graph *g = ad_graph_new();
        val x = ad_input(g, "x", AD_F32, shape[i]), w = ad_input(g, "w", AD_F32, shape[i]),
            row = ad_input(g, "row", AD_F32, SHAPE(c)), d;
        val loss = ad_sum_all(g, ad_mul(g, ad_gelu(g, x), w));
        ad_grad(g, &loss, NULL, 1, &x, 1, &d);
        ad_output(g, "gelu", ad_gelu(g, x));
        ad_output(g, "dx", d);
        ad_output(g, "add", ad_add(g, x, w));
        ad_output(g, "row", ad_mul(g, x, row));
        ad_output(g, "where", ad_where(g, ad_less(g, x, w), x, row));
        ad_output(g, "chain", ad_sub(g, ad_silu(g, ad_add(g, ad_mul(g, x, row), w)), x));
        float *data[3] = {numbers(&r, n, -4, 4, false), numbers(&r, n, -2, 2, false), numbers(&r, c, -2, 2, false)};
        struct bound b = {{"x", "w", "row"}, {data[0], data[1], data[2]}, 3};
        const char *what = "elementwise past the caches";
        /* numbers of up to 4, and of gelu's slope of up to 1.2 x 2, by polynomials of a few ulp; the chain's of up to 14 */
        agree(g, &b, "gelu", 2e-6, what);
        agree(g, &b, "dx", 2e-6, what);
        agree(g, &b, "add", 0, what);
        agree(g, &b, "row", 0, what);
        agree(g, &b, "where", 0, what);
        agree(g, &b, "chain", 6e-6, what);
        ad_graph_free(g);
        for (int k = 0; k < 3; k++) free(data[k]);
    }
}

int main(void)
{
    threads_init(2);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cross_entropy),
        cmocka_unit_test(a_sure_answer_keeps_its_gradient),
        cmocka_unit_test(a_wrong_target_is_an_error),
        cmocka_unit_test(broadcasts),
        cmocka_unit_test(a_norm_takes_the_residual),
        cmocka_unit_test_setup_teardown(norms_past_the_caches, all_pass_by, as_it_was),
        cmocka_unit_test_setup_teardown(elementwise_past_the_caches, all_pass_by, as_it_was),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
