/* The f32 kernels of convolution, pooling, resizing and the norms against the plain loops, on random odd sizes; same
 * bits for any number of threads. */
#include "tests/autograd/kernel_check.h"

#include "autograd/ops/conv.h"
#include "autograd/ops/norm.h"
#include "autograd/ops/pool.h"
#include "autograd/ops/resample.h"
#include "base/threads.h"

/* All three ops on one geometry: x (n, h, w, groups cg), kernel (kh, kw, cg, groups fg). */
struct geometry {
    int64_t n, size[2], kernel[2], groups, cg, fg;
    struct conv_attr a;
};

static int64_t out_size(const struct geometry *t, int i)
{
    int64_t room = t->size[i] + 2 * t->a.pad[i] - t->a.dilation[i] * (t->kernel[i] - 1) - 1;
    return room < 0 ? 0 : room / t->a.stride[i] + 1;
}

static void check(struct geometry t)
{
    char what[200];
    int64_t out[2] = {out_size(&t, 0), out_size(&t, 1)}, c = t.groups * t.cg, f = t.groups * t.fg;
    if (out[0] < 1 || out[1] < 1) return;
    snprintf(
        what, sizeof what,
        "n %lld, %lld x %lld, kernel %lld x %lld, stride %d %d, pad %d %d, dilation %d %d, groups %lld of %lld -> %lld",
        (long long)t.n, (long long)t.size[0], (long long)t.size[1], (long long)t.kernel[0], (long long)t.kernel[1],
        t.a.stride[0], t.a.stride[1], t.a.pad[0], t.a.pad[1], t.a.dilation[0], t.a.dilation[1], (long long)t.groups,
        (long long)t.cg, (long long)t.fg);
    struct ad_tensor x = check_tensor(SHAPE(t.n, t.size[0], t.size[1], c)),
                     y = check_tensor(SHAPE(t.n, out[0], out[1], f));
    struct ad_tensor w = check_tensor(SHAPE(t.kernel[0], t.kernel[1], t.cg, f));
    struct conv_attr a = t.a, back = t.a, dw = t.a;
    for (int i = 0; i < 2; i++) {
        dw.kernel[i] = (int32_t)t.kernel[i];
        back.out_pad[i] =
            (int32_t)(t.size[i] + 2 * a.pad[i] - a.dilation[i] * (t.kernel[i] - 1) - 1 - (out[i] - 1) * a.stride[i]);
    }
    int64_t taps = t.kernel[0] * t.kernel[1];
    check_products(&ad_op_conv2d, &a, (struct ad_tensor[]){x, w}, 2, taps * t.cg, what);
    check_products(&ad_op_conv2d_transpose, &back, (struct ad_tensor[]){y, w}, 2, taps * t.fg, what);
    check_products(&ad_op_conv2d_dw, &dw, (struct ad_tensor[]){x, y}, 2, t.n * out[0] * out[1], what);
    free(x.data);
    free(y.data);
    free(w.data);
}

static struct conv_attr random_attr(int64_t groups)
{
    struct conv_attr a = {.groups = (int32_t)groups};
    for (int i = 0; i < 2; i++) {
        a.stride[i] = (int32_t)check_int(1, 4);
        a.pad[i] = (int32_t)check_int(0, 3);
        a.dilation[i] = (int32_t)check_int(1, 3);
    }
    return a;
}

static void test_random(void **state)
{
    for (int i = 0; i < 150; i++) {
        int64_t groups = i % 3 ? 1 : check_int(2, 3);
        check((struct geometry){check_int(1, 3),
                                {check_int(1, 11), check_int(1, 11)},
                                {check_int(1, 4), check_int(1, 4)},
                                groups,
                                check_int(1, 9),
                                check_int(1, 9),
                                random_attr(groups)});
    }
}

static void test_depthwise(void **state)
{
    const int64_t channels[] = {1, 3, 8, 31, 32, 41, 67};
    for (int i = 0; i < 60; i++) {
        int64_t c = channels[i % 7];
        check((struct geometry){check_int(1, 3),
                                {check_int(1, 12), check_int(1, 12)},
                                {check_int(1, 5), check_int(1, 5)},
                                c,
                                1,
                                1,
                                random_attr((int32_t)c)});
    }
}

/* Sizes that are cut: into several blocks of positions, of taps, and of the sum over positions. */
static void test_cuts(void **state)
{
    struct conv_attr plain = {{1, 1}, {1, 1}, {1, 1}, 1, {0, 0}, {0, 0}}, two = plain, point = plain;
    two.stride[0] = two.stride[1] = 2;
    point.pad[0] = point.pad[1] = 0;
    check((struct geometry){3, {17, 19}, {3, 3}, 1, 16, 24, plain});
    check((struct geometry){2, {18, 17}, {3, 3}, 1, 20, 9, two});
    check((struct geometry){1, {6, 5}, {3, 3}, 1, 600, 3, plain});
    check((struct geometry){1, {6, 5}, {3, 3}, 1, 3, 600, two});
    check((struct geometry){2, {33, 35}, {1, 1}, 1, 17, 33, point});
    check((struct geometry){
        1, {1, 700}, {1, 5}, 1, 13, 8, (struct conv_attr){{1, 2}, {0, 2}, {1, 1}, 1, {0, 0}, {0, 0}}});
}

/* ---- pooling and resizing: linear, or exact ---------------------------------------------------------------------- */

static void test_resample(void **state)
{
    for (int i = 0; i < 80; i++) {
        struct resample_attr a = {.kind = i % 4};
        int64_t n = check_int(1, 3), c = check_int(1, 40);
        for (int k = 0; k < 2; k++) {
            a.in[k] = check_int(1, 12);
            a.out[k] = check_int(1, 12);
            if (a.kind != RESAMPLE_AVERAGE) continue;
            a.kernel[k] = (int32_t)check_int(1, a.in[k]);
            a.stride[k] = (int32_t)check_int(1, 3);
            a.pad[k] = (int32_t)check_int(0, a.kernel[k] / 2);
            a.count_pad = i % 8 == 0;
            a.out[k] = (a.in[k] + 2 * a.pad[k] - a.kernel[k]) / a.stride[k] + 1;
        }
        struct ad_tensor x = check_tensor(SHAPE(n, a.in[0], a.in[1], c)),
                         y = check_tensor(SHAPE(n, a.out[0], a.out[1], c));
        check_products(&ad_op_resample, &a, &x, 1, 144, "resample");
        check_products(&ad_op_resample_adjoint, &a, &y, 1, 144, "resample_adjoint");
        free(x.data);
        free(y.data);
    }
}

static void test_max_pool(void **state)
{
    for (int i = 0; i < 60; i++) {
        struct pool_attr a;
        int64_t size[2], n = check_int(1, 3), c = check_int(1, 40);
        for (int k = 0; k < 2; k++) {
            size[k] = check_int(1, 12);
            a.kernel[k] = (int32_t)check_int(1, size[k]);
            a.stride[k] = (int32_t)check_int(1, 3);
            a.pad[k] = (int32_t)check_int(0, a.kernel[k] / 2);
        }
        struct ad_tensor x = check_tensor(SHAPE(n, size[0], size[1], c));
        float *v = x.data;
        for (int64_t k = 0, count = ad_count(x.shape); k < count; k++)
            v[k] = check_int(0, 19) ? (float)check_int(-2, 2) : NAN;
        struct check_run want = check_once(&ad_op_max_pool, &a, &x, 1, false),
                         got = check_once(&ad_op_max_pool, &a, &x, 1, true);
        size_t bytes = (size_t)ad_count(want.out[0].shape) * 4;
        assert_memory_equal(want.out[0].data, got.out[0].data, bytes);
        assert_memory_equal(want.out[1].data, got.out[1].data, bytes);
        struct pool_grad_attr b = {{n, size[0], size[1], c}};
        struct ad_tensor dy = check_tensor(want.out[0].shape);
        check_products(&ad_op_max_pool_grad, &b, (struct ad_tensor[]){dy, want.out[1]}, 2, 144, "max_pool_grad");
        check_free(&want);
        check_free(&got);
        free(x.data);
        free(dy.data);
    }
}

/* ---- norms ------------------------------------------------------------------------------------------------------- */

/* Means over m numbers of size 1 are within m 2^-24 in the worst case and sqrt(m) 2^-24 as a rule; 1 / sqrt(var) is
 * below 10 here (eps 0.01). 2e-5 of the largest result covers m = 1,000 by either. */
static void compare(const struct ad_op *op, const struct norm_attr *a, const struct ad_tensor *in, int n_in,
                    const char *what)
{
    struct check_run want = check_once(op, a, in, n_in, false), one = {.n_out = 0};
    for (int threads = 1; threads <= 3; threads++) {
        omp_set_num_threads(threads);
        struct check_run got = check_once(op, a, in, n_in, true);
        for (int o = 0; o < want.n_out; o++) {
            double top = 0;
            int64_t n = ad_count(want.out[o].shape);
            for (int64_t i = 0; i < n; i++) top = fmax(top, fabs(ad_get(&want.out[o], i)));
            for (int64_t i = 0; i < n; i++) {
                double w = ad_get(&want.out[o], i), v = ad_get(&got.out[o], i);
                if (!(fabs(v - w) <= 2e-5 * (top + 0.01)))
                    fail_msg("%s kind %d: output %d, element %lld is %.9g, not %.9g", what, a->kind, o, (long long)i, v,
                             w);
            }
            if (threads > 1) assert_memory_equal(one.out[o].data, got.out[o].data, (size_t)n * 4);
        }
        if (threads == 1)
            one = got;
        else
            check_free(&got);
    }
    check_free(&one);
    check_free(&want);
}

static void test_norms(void **state)
{
    const struct ad_op *const ops[] = {&ad_op_layer_norm, &ad_op_rms_norm, &ad_op_group_norm, &ad_op_batch_norm};
    for (int i = 0; i < 160; i++) {
        struct norm_attr a = {.eps = 0.01, .kind = i % 4, .gain = (int32_t)check_int(0, 1)};
        a.bias = a.kind == NORM_RMS ? 0 : (int32_t)check_int(0, 1);
        a.groups = a.kind == NORM_GROUP ? (int32_t)check_int(1, 4) : 0;
        int64_t c = check_int(1, 90) * (a.groups ? a.groups : 1), rows = i % 10 == 0 ? 700 : check_int(1, 60);
        struct ad_tensor x = check_tensor(SHAPE(check_int(1, 4), rows, c)), dy = check_tensor(x.shape), in[5] = {x};
        struct ad_tensor gain = check_tensor(SHAPE(c)), bias = check_tensor(SHAPE(c));
        for (int64_t k = 0, n = ad_count(x.shape); k < n; k++) ((float *)x.data)[k] += 2; /* a mean to take away */
        if (a.gain) in[1] = gain;
        if (a.bias) in[1 + a.gain] = bias;
        compare(ops[a.kind], &a, in, 1 + a.gain + a.bias, "norm");
        struct check_run y = check_once(ops[a.kind], &a, in, 1 + a.gain + a.bias, false);
        compare(&ad_op_norm_grad, &a, (struct ad_tensor[]){x, dy, y.out[1], y.out[2], gain}, 4 + a.gain, "norm_grad");
        if (a.kind == NORM_LAYER || a.kind == NORM_RMS) {
            struct ad_tensor more = check_tensor(x.shape), all[6] = {x, dy, y.out[1], y.out[2], gain};
            all[4 + a.gain] = more;
            a.residual = 1;
            compare(&ad_op_norm_grad, &a, all, 5 + a.gain, "norm_grad with a residual");
            free(more.data);
        }
        check_free(&y);
        free(x.data);
        free(dy.data);
        free(gain.data);
        free(bias.data);
    }
}

int main(void)
{
    threads_init(2);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random),   cmocka_unit_test(test_depthwise),
                                       cmocka_unit_test(test_cuts),     cmocka_unit_test(test_resample),
                                       cmocka_unit_test(test_max_pool), cmocka_unit_test(test_norms)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
