/* The recompute pass: the same bits with less memory, and only where the input lives anyway. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "autograd/op.h"
#include "autograd/ops/ops.h"
#include "autograd/plan.h"
#include "base/mem.h"

enum { ROWS = 48, WIDTH = 32, WIDE = 96, LAYERS = 6 };

static void fill(float *x, int64_t n, uint32_t seed)
{
    for (int64_t i = 0; i < n; i++) x[i] = (float)((seed = seed * 1664525 + 1013904223) >> 8) * 0x1p-24f - 0.5f;
}

/* x + down(gelu(up(norm(x)))), LAYERS times, and the gradients of the sum of squares by every weight. */
static struct ad_graph *residual_stack(val w[2 * LAYERS], val dw[2 * LAYERS])
{
    struct ad_graph *g = ad_graph_new();
    val x = ad_input(g, "x", AD_F32, SHAPE(ROWS, WIDTH));
    for (int i = 0; i < LAYERS; i++) {
        char name[16];
        snprintf(name, sizeof name, "up%d", i);
        w[2 * i] = ad_input(g, name, AD_F32, SHAPE(WIDTH, WIDE));
        snprintf(name, sizeof name, "down%d", i);
        w[2 * i + 1] = ad_input(g, name, AD_F32, SHAPE(WIDE, WIDTH));
        val h = ad_gelu(g, ad_matmul(g, ad_layer_norm(g, x, 0, 0, 1e-5), w[2 * i], false, false));
        x = ad_add(g, x, ad_matmul(g, h, w[2 * i + 1], false, false));
    }
    val loss = ad_sum_all(g, ad_square(g, x));
    ad_output(g, "loss", loss);
    ad_grad(g, &loss, NULL, 1, w, 2 * LAYERS, dw);
    for (int i = 0; i < 2 * LAYERS; i++) {
        char name[16];
        snprintf(name, sizeof name, "d%d", i);
        ad_output(g, name, dw[i]);
    }
    return g;
}

static struct ad_plan *plan_and_run(unsigned flags, float *x, float *weights)
{
    struct err e = {0};
    val w[2 * LAYERS], dw[2 * LAYERS];
    struct ad_graph *g = residual_stack(w, dw);
    struct ad_plan *p = ad_plan_new(g, NULL, flags, &e);
    if (!p) fail_msg("%s", e.msg);
    ad_bind(p, "x", x);
    for (int i = 0; i < LAYERS; i++) {
        char name[16];
        snprintf(name, sizeof name, "up%d", i);
        assert_true(ad_bind(p, name, weights + 2 * i * WIDTH * WIDE));
        snprintf(name, sizeof name, "down%d", i);
        assert_true(ad_bind(p, name, weights + (2 * i + 1) * WIDTH * WIDE));
    }
    if (ad_run(p, 1, 1, &e)) fail_msg("%s", e.msg);
    ad_graph_free(g);
    return p;
}

static void same_bits_less_memory(void **state)
{
    float *x = mem_alloc(ROWS * WIDTH * sizeof *x), *weights = mem_alloc(2 * LAYERS * WIDTH * WIDE * sizeof *weights);
    fill(x, ROWS * WIDTH, 1);
    fill(weights, 2 * LAYERS * WIDTH * WIDE, 2);
    struct ad_plan *with = plan_and_run(0, x, weights), *without = plan_and_run(AD_NO_RECOMPUTE, x, weights);
    struct ad_plan_stats a = ad_plan_stats(with), b = ad_plan_stats(without);
    assert_int_equal(b.recomputed, 0);
    /* One norm and one gelu a layer; those of the last are read again too soon. */
    assert_in_range(a.recomputed, 2 * (LAYERS - 2), 2 * LAYERS - 1);
    assert_int_equal(a.steps, b.steps + a.recomputed);
    int64_t kept = (int64_t)sizeof(float) * ROWS * (WIDTH + WIDE); /* of a layer that is computed again */
    assert_true(a.arena_bytes <= b.arena_bytes - (LAYERS - 3) * kept);
    for (int i = -1; i < 2 * LAYERS; i++) {
        char name[16];
        struct ad_shape s;
        snprintf(name, sizeof name, i < 0 ? "loss" : "d%d", i);
        const void *got = ad_result(with, name, &s);
        assert_memory_equal(got, ad_result(without, name, NULL), (size_t)ad_count(s) * sizeof(float));
    }
    ad_plan_free(with);
    ad_plan_free(without);
    free(x);
    free(weights);
}

/* y = tanh(a): read at once and far away. `keep_input`: a is read later still. */
static int64_t recomputed(bool keep_input, bool output)
{
    struct err e = {0};
    struct ad_graph *g = ad_graph_new();
    val x = ad_input(g, "x", AD_F32, SHAPE(ROWS, WIDE)), s = ad_input(g, "s", AD_F32, SHAPE(WIDE, WIDE));
    val a = ad_matmul(g, x, s, false, false), y = ad_tanh(g, a), z = y;
    for (int i = 0; i < 30; i++) z = ad_matmul(g, z, s, false, false);
    z = ad_matmul(g, z, ad_swap(g, y, 0, 1), false, false);
    if (keep_input) z = ad_matmul(g, z, a, false, false);
    ad_output(g, "z", z);
    if (output) ad_output(g, "y", y);
    struct ad_plan *p = ad_plan_new(g, NULL, AD_NO_FUSE, &e);
    if (!p) fail_msg("%s", e.msg);
    int64_t n = ad_plan_stats(p).recomputed;
    ad_plan_free(p);
    ad_graph_free(g);
    return n;
}

static void only_where_the_input_lives(void **state)
{
    assert_int_equal(recomputed(true, false), 1);
    assert_int_equal(recomputed(false, false), 0); /* keeping a for it would cost what y costs */
    assert_int_equal(recomputed(true, true), 0);   /* a result is kept anyway */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bits_less_memory),
        cmocka_unit_test(only_where_the_input_lives),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
