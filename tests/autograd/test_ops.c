/* What ops mean, against numbers worked out by hand: indices, ties, NaN and infinity, empty things, packed sequences,
 * random numbers; identities that builders fold; and the errors of builders and runs. (Gradients: test_gradcheck.
 * Kernels: test_kernels.) */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "autograd/op.h"
#include "autograd/ops/ops.h"
#include "autograd/plan.h"
#include "base/mem.h"

static struct ad_graph *g;
static struct ad_plan *plan; /* of run_ones */
static float *ones;

static int setup(void **state)
{
    g = ad_graph_new();
    return 0;
}

static int teardown(void **state)
{
    ad_plan_free(plan);
    free(ones);
    ad_graph_free(g);
    plan = NULL;
    ones = NULL;
    return 0;
}

#define F(shape, ...) ad_const_data(g, AD_F64, shape, (const double[]){__VA_ARGS__})
#define I(shape, ...) ad_const_data(g, AD_I32, shape, (const int32_t[]){__VA_ARGS__})
#define EXPECT(v, shape, ...) expect(__LINE__, v, shape, (const double[]){__VA_ARGS__})

/* The val has the shape and the numbers (to 1e-12), by the reference executor and by a plan with all passes. */
static void expect(int line, val v, struct ad_shape shape, const double *want)
{
    static int count;
    struct err e = {0};
    char name[16], a[96];
    snprintf(name, sizeof name, "y%d", count++);
    if (ad_status(g, &e)) fail_msg("line %d: %s", line, e.msg);
    if (!ad_same_shape(ad_shape_of(g, v), shape))
        fail_msg("line %d: the shape is %s", line, ad_shape_text(a, ad_shape_of(g, v)));
    ad_output(g, name, v);
    for (int way = 0; way < 2; way++) {
        struct ad_plan *p = ad_plan_new(g, NULL, way ? 0 : AD_REFERENCE, &e);
        if (!p || ad_run(p, 11, 4, &e)) fail_msg("line %d: %s", line, e.msg);
        struct ad_tensor t = {.data = (void *)(uintptr_t)ad_result(p, name, NULL), .dtype = ad_dtype_of(g, v)};
        for (int64_t i = 0; i < ad_count(shape); i++) {
            double x = ad_get(&t, i);
            if (isnan(want[i]) ? !isnan(x) : x != want[i] && !(fabs(x - want[i]) < 1e-12))
                fail_msg("line %d, %s: number %lld is %.17g, not %.17g", line, way ? "plan" : "reference", (long long)i,
                         x, want[i]);
        }
        ad_plan_free(p);
    }
}

static val gradient(val y, val x)
{
    val dx, loss = ad_sum_all(g, y);
    ad_grad(g, &loss, NULL, 1, &x, 1, &dx);
    return dx;
}

static void index_ops(void **state)
{
    val table = F(SHAPE(3, 2), 1, 2, 3, 4, 5, 6);
    EXPECT(ad_gather(g, table, I(SHAPE(2, 2), 2, 0, -1, 2)), SHAPE(2, 2, 2), 5, 6, 1, 2, 0, 0, 5, 6);
    EXPECT(ad_scatter_add(g, table, I(SHAPE(3), 1, -1, 1), 3), SHAPE(3, 2), 0, 0, 6, 8, 0, 0);
    EXPECT(ad_one_hot(g, I(SHAPE(2), 1, -1), 3, AD_F64), SHAPE(2, 3), 0, 1, 0, 0, 0, 0);
    EXPECT(ad_take_last(g, table, I(SHAPE(3), 1, -1, 0)), SHAPE(3), 2, 0, 5);
    EXPECT(ad_iota(g, AD_I64, 4), SHAPE(4), 0, 1, 2, 3);
}

static void orders(void **state)
{
    val x = F(SHAPE(2, 4), 3, 7, 7, 1, -1, NAN, 2, NAN), index;
    val top = ad_top_k(g, x, 3, &index);
    EXPECT(top, SHAPE(2, 3), 7, 7, 3, NAN, NAN, 2);
    EXPECT(index, SHAPE(2, 3), 1, 2, 0, 1, 3, 2);
    EXPECT(ad_argmax(g, x, -1), SHAPE(2), 1, 1);
    EXPECT(ad_argmax(g, x, 0), SHAPE(4), 0, 1, 0, 1);
    EXPECT(ad_max(g, x, 2, false), SHAPE(2), 7, NAN);
    EXPECT(ad_min(g, x, 1, true), SHAPE(1, 4), -1, NAN, 2, NAN);
    val y = F(SHAPE(4), 3, 7, 7, 1);
    EXPECT(gradient(ad_max(g, y, 1, false), y), SHAPE(4), 0, 0.5, 0.5, 0);
    val a = F(SHAPE(3), 1, 2, 3), b = F(SHAPE(3), 1, 5, 0);
    EXPECT(gradient(ad_maximum(g, a, b), a), SHAPE(3), 0.5, 0, 1);
    EXPECT(gradient(ad_minimum(g, a, b), b), SHAPE(3), 0.5, 0, 1);
}

static void sums(void **state)
{
    val x = F(SHAPE(2, 3), 1, 2, 3, 4, 5, 6);
    EXPECT(ad_sum(g, x, 1, false), SHAPE(3), 5, 7, 9);
    EXPECT(ad_mean_last(g, x), SHAPE(2, 1), 2, 5);
    EXPECT(ad_mean_all(g, x), SCALAR, 3.5);
    EXPECT(ad_sum_to(g, x, SHAPE(1, 3)), SHAPE(1, 3), 5, 7, 9);
    EXPECT(ad_sum_to(g, x, SCALAR), SCALAR, 21);
    EXPECT(ad_sum(g, F(SHAPE(2, 0), 0), 2, false), SHAPE(2), 0, 0);
    EXPECT(ad_cumsum(g, x, 1, false), SHAPE(2, 3), 1, 3, 6, 4, 9, 15);
    EXPECT(ad_cumsum(g, x, 0, true), SHAPE(2, 3), 5, 7, 9, 4, 5, 6);
    double inf = INFINITY;
    val z = F(SHAPE(3, 2), -inf, -inf, 0, -inf, inf, 1);
    EXPECT(ad_logsumexp(g, z, 1, false), SHAPE(3), -inf, 0, inf);
    EXPECT(gradient(ad_logsumexp(g, ad_slice(g, z, 0, 0, 2, 1), 1, false), z), SHAPE(3, 2), 0, 0, 1, 0, 0, 0);
    EXPECT(ad_logsumexp(g, F(SHAPE(2), 1000, 1000), 0, true), SHAPE(1), 1000 + log(2));
    EXPECT(ad_softmax(g, F(SHAPE(3), 1000, -inf, 1000)), SHAPE(3), 0.5, 0, 0.5);
    EXPECT(ad_log_softmax(g, F(SHAPE(2), 0, log(3))), SHAPE(2), -log(4), log(0.75));
}

static void shapes(void **state)
{
    val x = F(SHAPE(2, 3), 1, 2, 3, 4, 5, 6), part[3];
    EXPECT(ad_swap(g, x, 0, 1), SHAPE(3, 2), 1, 4, 2, 5, 3, 6);
    EXPECT(ad_reshape(g, ad_swap(g, x, 0, 1), SHAPE(2, -1)), SHAPE(2, 3), 1, 4, 2, 5, 3, 6);
    EXPECT(ad_slice(g, x, 1, -2, 3, 1), SHAPE(2, 2), 2, 3, 5, 6);
    EXPECT(ad_slice(g, x, -1, 0, 3, 2), SHAPE(2, 2), 1, 3, 4, 6);
    EXPECT(ad_flip(g, x, 1), SHAPE(2, 3), 3, 2, 1, 6, 5, 4);
    EXPECT(ad_pad(g, x, 0, 0, 1, -1), SHAPE(3, 3), 1, 2, 3, 4, 5, 6, -1, -1, -1);
    EXPECT(ad_concat(g, (const val[]){x, x}, 2, 0), SHAPE(4, 3), 1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6);
    ad_split(g, x, 1, 3, part);
    EXPECT(part[1], SHAPE(2, 1), 2, 5);
    EXPECT(gradient(ad_slice(g, x, 1, 0, 3, 2), x), SHAPE(2, 3), 1, 0, 1, 1, 0, 1);
    EXPECT(ad_broadcast(g, F(SHAPE(2, 1), 1, 2), SHAPE(2, 2, 2)), SHAPE(2, 2, 2), 1, 1, 2, 2, 1, 1, 2, 2);
    EXPECT(ad_reshape(g, F(SHAPE(0, 3), 0), SHAPE(3, 0)), SHAPE(3, 0), 0);
}

static void elementwise(void **state)
{
    double inf = INFINITY;
    val x = F(SHAPE(6), NAN, inf, -inf, 2.5, -2.5, -0.4);
    EXPECT(ad_relu(g, x), SHAPE(6), NAN, inf, 0, 2.5, 0, 0);
    EXPECT(ad_round(g, x), SHAPE(6), NAN, inf, -inf, 2, -2, 0);
    EXPECT(ad_clamp(g, x, -1, 1), SHAPE(6), NAN, 1, -1, 1, -1, -0.4);
    EXPECT(ad_cast(g, x, AD_I32), SHAPE(6), 0, 2147483647, -2147483648.0, 2, -2, 0);
    EXPECT(ad_is_finite(g, x), SHAPE(6), 0, 0, 0, 1, 1, 1);
    EXPECT(ad_sign(g, x), SHAPE(6), NAN, 1, -1, 1, -1, -1);
    EXPECT(ad_sigmoid(g, F(SHAPE(3), -800, 0, 800)), SHAPE(3), 0, 0.5, 1);
    EXPECT(ad_softplus(g, F(SHAPE(3), -800, 0, 800)), SHAPE(3), 0, log(2), 800);
    EXPECT(ad_gelu(g, F(SHAPE(3), -1, 0, 1)), SHAPE(3), -0.15865525393145707, 0, 0.84134474606854293);
    EXPECT(ad_gelu_tanh(g, F(SHAPE(2), -1, 1)), SHAPE(2), -0.15880800939172324, 0.84119199060827676);
    EXPECT(ad_quick_gelu(g, F(SHAPE(1), 1)), SHAPE(1), 1 / (1 + exp(-1.702)));
    EXPECT(ad_elu(g, F(SHAPE(2), -1, 2), 0.5), SHAPE(2), 0.5 * (exp(-1) - 1), 2);
    EXPECT(ad_leaky_relu(g, F(SHAPE(2), -1, 2), 0.1), SHAPE(2), -0.1, 2);
    EXPECT(ad_less(g, I(SHAPE(3), 1, 2, 3), I(SHAPE(1), 2)), SHAPE(3), 1, 0, 0);
    assert_int_equal(ad_dtype_of(g, ad_less(g, I(SHAPE(1), 1), I(SHAPE(1), 2))), AD_F32);
    EXPECT(ad_where(g, I(SHAPE(3), 0, 1, -2), F(SCALAR, 5), F(SHAPE(3), 1, 2, 3)), SHAPE(3), 1, 5, 5);
    EXPECT(ad_maximum(g, F(SHAPE(2), NAN, 1), F(SHAPE(2), 1, NAN)), SHAPE(2), NAN, NAN);
    val a = F(SHAPE(2), 0, 2), b = F(SHAPE(2), 2, 3);
    EXPECT(gradient(ad_pow(g, a, b), a), SHAPE(2), 0, 12);
    EXPECT(gradient(ad_pow(g, a, b), b), SHAPE(2), 0, 8 * log(2));
    EXPECT(gradient(ad_stop_gradient(g, a), a), SHAPE(2), 0, 0);
    EXPECT(gradient(ad_clamp(g, F(SHAPE(2), 0, 2), 0, 1), a), SHAPE(2), 0, 0);
    EXPECT(gradient(ad_clamp(g, a, 0, 1), a), SHAPE(2), 1, 0);
}

static void packed(void **state)
{
    /* items of 3, 0 and 2 rows, and one row of padding */
    val offsets = I(SHAPE(4), 0, 3, 3, 5), x = F(SHAPE(6, 1), 1, 2, 4, 8, 16, 99);
    EXPECT(ad_segment_sum(g, x, offsets), SHAPE(3, 1), 7, 0, 24);
    EXPECT(ad_segment_mean(g, x, offsets), SHAPE(3, 1), 7.0 / 3, 0, 12);
    EXPECT(ad_segment_broadcast(g, F(SHAPE(3, 1), 1, 2, 3), offsets, 6), SHAPE(6, 1), 1, 1, 1, 3, 3, 0);
    EXPECT(ad_segment_edge(g, x, offsets, false), SHAPE(3, 1), 1, 0, 8);
    EXPECT(ad_segment_edge(g, x, offsets, true), SHAPE(3, 1), 4, 0, 16);
    EXPECT(ad_packed_position(g, offsets, 6), SHAPE(6), 0, 1, 2, 0, 1, -1);
    EXPECT(ad_packed_item(g, offsets, 6), SHAPE(6), 0, 0, 0, 2, 2, -1);
    /* kernel 3, stride 2, pad 1: 3 rows -> 2, none -> none, 2 rows -> 1 */
    val out = ad_packed_conv_offsets(g, offsets, 3, 2, 1);
    EXPECT(out, SHAPE(4), 0, 2, 2, 3);
    EXPECT(ad_packed_conv_index(g, offsets, out, 4, 3, 2, 1), SHAPE(4, 3), -1, 0, 1, 1, 2, -1, -1, 3, 4, -1, -1, -1);
    /* too short for the kernel: no rows */
    EXPECT(ad_packed_conv_offsets(g, offsets, 3, 2, 0), SHAPE(4), 0, 1, 1, 1);
}

/* Runs y = f(x) for x (n) of ones in f32; the numbers stay valid until the next call. */
static const float *run_ones(val y, int64_t n, uint64_t seed, uint64_t step)
{
    struct err e = {0};
    if (!plan) {
        ad_output(g, "y", y);
        plan = ad_plan_new(g, NULL, 0, &e);
        if (!plan) fail_msg("%s", e.msg);
        ones = mem_alloc((size_t)n * sizeof *ones);
        for (int64_t i = 0; i < n; i++) ones[i] = 1;
        ad_bind(plan, "x", ones);
    }
    if (ad_run(plan, seed, step, &e)) fail_msg("%s", e.msg);
    return ad_result(plan, "y", NULL);
}

static void dropout(void **state)
{
    enum { N = 40000 };
    val x = ad_input(g, "x", AD_F32, SHAPE(N)), y = ad_dropout(g, x, 0.25, false), dx;
    val again = ad_dropout(g, x, 0.25, false), loss = ad_sum_all(g, y);
    ad_grad(g, &loss, NULL, 1, &x, 1, &dx);
    /* y, its gradient, and a second dropout of the same layer side by side */
    val all = ad_concat(g, (const val[]){y, dx, again}, 3, 0);
    float first[3 * N];
    memcpy(first, run_ones(all, N, 1, 1), sizeof first);
    int64_t kept = 0, equal = 0, moved[3] = {0};
    for (int i = 0; i < N; i++) {
        assert_true(first[i] == 0 || fabsf(first[i] - 1 / 0.75f) < 1e-6f);
        assert_true(first[i] == first[N + i]); /* the mask is drawn again, and is the same */
        kept += first[i] != 0;
        equal += first[i] == first[2 * N + i];
    }
    /* five standard deviations: sqrt(0.25 0.75 / N) = 0.0022; two masks agree in 0.625 of the places */
    assert_true(fabs((double)kept / N - 0.75) < 0.011);
    assert_true(fabs((double)equal / N - 0.625) < 0.0125);
    const uint64_t runs[3][2] = {{1, 2}, {2, 1}, {1, 1}};
    for (int k = 0; k < 3; k++) {
        const float *y2 = run_ones(all, N, runs[k][0], runs[k][1]);
        for (int i = 0; i < N; i++) moved[k] += y2[i] != first[i];
    }
    assert_true(moved[0] > N / 4 && moved[1] > N / 4 && moved[2] == 0);
}

static void drop_items(void **state)
{
    val x = ad_input(g, "x", AD_F32, SHAPE(200, 5));
    const float *y = run_ones(ad_dropout(g, x, 0.5, true), 1000, 7, 3);
    int kept = 0;
    for (int i = 0; i < 200; i++) {
        for (int j = 1; j < 5; j++) assert_true(y[i * 5 + j] == y[i * 5]);
        kept += y[i * 5] != 0;
    }
    assert_in_range(kept, 65, 135); /* five standard deviations of 7.1 */
}

/* Rows 3 .., 16 .. and so on of a tensor get the rows of the whole tensor's mask, by the plain loop and by the kernel. */
static void dropout_of_a_part(void **state)
{
    enum { ROWS = 60, W = 7, N = ROWS * W };
    static const int64_t from[] = {0, 1, 3, 16, 41}, rows[] = {60, 5, 57, 32, 19};
    struct err e = {0};
    float fill[N], whole[N];
    for (int i = 0; i < N; i++) fill[i] = 1;
    for (int per_item = 0; per_item < 2; per_item++)
        for (unsigned k = 0; k < sizeof from / sizeof *from; k++)
            for (unsigned flags = 0; flags <= AD_NO_KERNELS; flags += AD_NO_KERNELS) {
                struct ad_graph *h = ad_graph_new();
                val x = ad_input(h, "x", AD_F32, SHAPE(rows[k], W)), first = ad_input(h, "first", AD_I64, SHAPE(1));
                val y = ad_dropout_part(h, x, first, 0.4, per_item), loss = ad_sum_all(h, y), dx;
                ad_grad(h, &loss, NULL, 1, &x, 1, &dx);
                ad_output(h, "y", y);
                ad_output(h, "dx", dx);
                struct ad_plan *p = ad_plan_new(h, NULL, flags, &e);
                assert_non_null(p);
                ad_bind(p, "x", fill);
                ad_bind(p, "first", &from[k]);
                assert_int_equal(ad_run(p, 3, 4, &e), 0);
                size_t bytes = (size_t)rows[k] * W * sizeof(float);
                if (k == 0 && !flags) memcpy(whole, ad_result(p, "y", NULL), bytes);
                assert_memory_equal(ad_result(p, "y", NULL), whole + from[k] * W, bytes);
                assert_memory_equal(ad_result(p, "dx", NULL), whole + from[k] * W, bytes);
                int64_t before = -1;
                ad_bind(p, "first", &before);
                assert_int_equal(ad_run(p, 3, 4, &e), ERR_SHAPE);
                assert_non_null(strstr(e.msg, "the first row is -1"));
                err_clear(&e);
                ad_plan_free(p);
                ad_graph_free(h);
            }
    /* and it is the mask of ad_dropout */
    val x = ad_input(g, "x", AD_F32, SHAPE(ROWS, W));
    assert_memory_equal(run_ones(ad_dropout(g, x, 0.4, true), N, 3, 4), whole, sizeof whole);
}

static void random_numbers(void **state)
{
    enum { N = 100000 };
    val x = ad_input(g, "x", AD_F32, SHAPE(N)), u = ad_random_uniform(g, AD_F32, SHAPE(N)),
        z = ad_random_normal(g, AD_F32, SHAPE(N));
    const float *y = run_ones(ad_concat(g, (const val[]){u, z, x}, 3, 0), N, 3, 5);
    double mean = 0, square = 0, lag = 0, m2 = 0, m4 = 0;
    for (int i = 0; i < N; i++) {
        assert_true(y[i] >= 0 && y[i] < 1);
        mean += (double)y[i] / N;
        square += (double)y[i] * (double)y[i] / N;
        double n = (double)y[N + i];
        m2 += n * n / N;
        m4 += n * n * n * n / N;
        if (i) lag += n * (double)y[N + i - 1] / N;
    }
    /* five standard deviations of each estimate at N = 100000 */
    assert_true(fabs(mean - 0.5) < 0.0046 && fabs(square - 1.0 / 3) < 0.0048);
    assert_true(fabs(m2 - 1) < 0.0224 && fabs(m4 - 3) < 0.155 && fabs(lag) < 0.016);
}

static void identities(void **state)
{
    val x = ad_input(g, "x", AD_F32, SHAPE(2, 3)), zero = ad_zeros_like(g, x), one = ad_const(g, AD_F32, 1);
    assert_int_equal(ad_add(g, x, zero), x);
    assert_int_equal(ad_add(g, zero, x), x);
    assert_int_equal(ad_sub(g, x, zero), x);
    assert_int_equal(ad_mul(g, one, x), x);
    assert_int_equal(ad_scale(g, x, 1), x);
    assert_int_equal(ad_sum_to(g, x, SHAPE(2, 3)), x);
    assert_int_equal(ad_reshape(g, x, SHAPE(2, 3)), x);
    assert_int_equal(ad_reshape(g, ad_reshape(g, x, SHAPE(6)), SHAPE(2, 3)), x);
    assert_int_equal(ad_broadcast(g, x, SHAPE(2, 3)), x);
    assert_int_equal(ad_slice(g, x, 1, 0, 3, 1), x);
    assert_int_equal(ad_transpose(g, x, (const int[]){0, 1}), x);
    assert_int_equal(ad_pad(g, x, 0, 0, 0, 1), x);
    assert_int_equal(ad_concat(g, &x, 1, 0), x);
    assert_int_equal(ad_cast(g, x, AD_F32), x);
    assert_int_equal(ad_dropout(g, x, 0, false), x);
    assert_int_equal(ad_sum(g, x, 0, false), x);
    /* where the number would enlarge x it stays a sum */
    EXPECT(ad_add(g, F(SHAPE(1), 2), ad_full(g, AD_F64, SHAPE(3), 1)), SHAPE(3), 3, 3, 3);
}

/* The graph has failed, and its error says all the words. */
static void expect_error(int line, const char *word, const char *other)
{
    struct err e = {0};
    if (ad_status(g, &e) != ERR_SHAPE || !strstr(e.msg, word) || !strstr(e.msg, other))
        fail_msg("line %d: expected '%s' and '%s' in '%s'", line, word, other, e.msg);
    ad_graph_free(g);
    g = ad_graph_new();
}
#define FAILS(v, word, other)                                                                                 \
    do {                                                                                                      \
        val x = ad_input(g, "x", AD_F64, SHAPE(2, 3)), i = ad_input(g, "i", AD_I32, SHAPE(2)), unused_ = (v); \
        (void)x, (void)i;                                                                                     \
        assert_int_equal(unused_, 0);                                                                         \
        expect_error(__LINE__, word, other);                                                                  \
    } while (0)

static void builder_errors(void **state)
{
    FAILS(ad_add(g, x, i), "add: the inputs must have one type", "(2, 3) f64, (2) i32");
    FAILS(ad_add(g, x, ad_swap(g, x, 0, 1)), "do not broadcast", "(3, 2)");
    FAILS(ad_exp(g, i), "exp: it needs f32 or f64", "i32");
    FAILS(ad_clamp(g, x, 2, 1), "clamp", "above the upper bound 1");
    FAILS(ad_sum(g, x, 4, false), "sum", "2");
    FAILS(ad_argmax(g, x, 2), "argmax: there is no axis 2", "(2, 3)");
    FAILS(ad_top_k(g, x, 4, NULL), "top_k: k is 4", "(2, 3)");
    FAILS(ad_reshape(g, x, SHAPE(4)), "6 numbers do not fill", "(4)");
    FAILS(ad_reshape(g, x, SHAPE(-1, -1)), "cannot be a shape", "-1");
    FAILS(ad_transpose(g, x, (const int[]){1, 1}), "transpose", "each of the 2 axes once");
    FAILS(ad_broadcast(g, x, SHAPE(3, 3)), "cannot be broadcast", "(3, 3)");
    FAILS(ad_slice(g, x, 1, 2, 4, 1), "2:4:1 is not a range of axis 1", "3");
    FAILS(ad_concat(g, (const val[]){x, i}, 2, 0), "concat: input 1", "(2) i32");
    FAILS(ad_pad(g, x, 0, -1, 0, 0), "pad", "slice");
    FAILS(ad_gather(g, x, x), "index must be i32 or i64", "f64");
    FAILS(ad_scatter_add(g, x, ad_iota(g, AD_I32, 3), 4), "scatter_add", "shape of the index");
    FAILS(ad_take_last(g, x, ad_iota(g, AD_I32, 3)), "take_last", "last axis");
    FAILS(ad_segment_sum(g, x, x), "offsets must be integers", "segment_sum");
    FAILS(ad_segment_broadcast(g, x, i, 4), "one row of floats an item", "segment_broadcast");
    FAILS(ad_packed_conv_offsets(g, i, 0, 1, 0), "kernel 0", "1 or more");
    FAILS(ad_dropout(g, x, 1, false), "dropout", "below 1");
    FAILS(ad_dropout_part(g, x, x, 0.5, false), "dropout", "one integer");
    FAILS(ad_mean(g, ad_slice(g, x, 0, 0, 0, 1), 1, false), "mean of nothing", "empty");
    FAILS(ad_softmax(g, ad_slice(g, x, 1, 0, 0, 1)), "last axis is empty", "softmax");
    val part[2];
    ad_split(g, ad_input(g, "x", AD_F32, SHAPE(3)), 0, 2, part);
    assert_int_equal(part[1], 0);
    expect_error(__LINE__, "split", "which 2 parts do not divide");
}

/* Wrong numbers in the data end the run, with or without kernels. */
static void run_errors(void **state)
{
    for (int way = 0; way < 4; way++) {
        struct ad_graph *h = ad_graph_new();
        val x = ad_input(h, "x", AD_F32, SHAPE(3, 2)), index = ad_input(h, "i", AD_I32, SHAPE(3));
        ad_output(h, "y", way < 2 ? ad_gather(h, x, index) : ad_segment_sum(h, x, index));
        struct err e = {0};
        struct ad_plan *p = ad_plan_new(h, NULL, way % 2 ? AD_REFERENCE : 0, &e);
        assert_non_null(p);
        const float numbers[6] = {1, 2, 3, 4, 5, 6};
        ad_bind(p, "x", numbers);
        ad_bind(p, "i", way < 2 ? (const int32_t[]){0, 3, 1} : (const int32_t[]){0, 2, 1});
        assert_int_equal(ad_run(p, 0, 0, &e), ERR_SHAPE);
        const char *word = way < 2 ? "gather: index 3 (number 1) is not in -1 .. 2" : "segment_sum: offset 2 is 1";
        if (!strstr(e.msg, word)) fail_msg("%s", e.msg);
        ad_bind(p, "i", way < 2 ? (const int32_t[]){0, -1, 1} : (const int32_t[]){0, 2, 3});
        err_clear(&e);
        assert_int_equal(ad_run(p, 0, 0, &e), 0);
        ad_plan_free(p);
        ad_graph_free(h);
    }
}

/* PyTorch's windows: they overlap where sizes do not divide. */
static void adaptive_max(void **state)
{
    val x = F(SHAPE(1, 3, 3, 1), 5, 1, 2, 3, 0, 4, 8, 7, 6), y = ad_adaptive_max_pool(g, x, 2, 2);
    EXPECT(y, SHAPE(1, 2, 2, 1), 5, 4, 8, 7);
    EXPECT(gradient(y, x), SHAPE(1, 3, 3, 1), 1, 0, 0, 0, 0, 1, 1, 1, 0);
    val u = F(SHAPE(1, 5, 1, 2), 3, 0, 1, 9, 4, 0, 1, 0, 5, 2), v = ad_adaptive_max_pool(g, u, 3, 1);
    EXPECT(v, SHAPE(1, 3, 1, 2), 3, 9, 4, 9, 5, 2);
    EXPECT(gradient(v, u), SHAPE(1, 5, 1, 2), 1, 0, 0, 2, 1, 0, 0, 0, 1, 1);
    EXPECT(ad_adaptive_max_pool(g, x, 1, 1), SHAPE(1, 1, 1, 1), 8);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(index_ops),         TEST(orders),         TEST(sums),       TEST(shapes),
        TEST(elementwise),       TEST(packed),         TEST(dropout),    TEST(drop_items),
        TEST(dropout_of_a_part), TEST(random_numbers), TEST(identities), TEST(builder_errors),
        TEST(run_errors),        TEST(adaptive_max),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
