/* Mixed precision: conversions over every number, which values a plan keeps in 16 bits, and that every combination of
 * passes gives the reference executor's results up to the rounding of what is kept. */
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "autograd/half_call.h"
#include "autograd/internal.h"
#include "autograd/ops/ops.h"
#include "base/half.h"
#include "tests/support/halfcheck.h"
#include "tests/support/whole.h"

static uint16_t one_from(enum ad_dtype t, float x)
{
    return t == AD_BF16 ? bf16_from_float(x) : half_from_float_portable(x);
}
static float one_to(enum ad_dtype t, uint16_t h)
{
    return t == AD_BF16 ? bf16_to_float(h) : half_to_float_portable(h);
}

/* All 65,536 numbers of both types there and back, a vector at a time and at each length that leaves a rest. */
static void every_number_both_ways(void **state)
{
    enum { ALL = 65536 };
    uint16_t *half = mem_alloc(ALL * sizeof *half), *back = mem_alloc(ALL * sizeof *back);
    float *wide = mem_alloc(ALL * sizeof *wide);
    for (int i = 0; i < ALL; i++) half[i] = (uint16_t)i;
    for (enum ad_dtype t = AD_BF16; t <= AD_F16; t++) {
        ad_widen(t, half, wide, ALL);
        ad_narrow(t, wide, back, ALL);
        for (int i = 0; i < ALL; i++) {
            float want = one_to(t, half[i]);
            if (float_bits(want) != float_bits(wide[i])) fail_msg("%s %04x: %a", ad_dtype_name(t), half[i], wide[i]);
            if (back[i] != one_from(t, want)) fail_msg("%s %04x came back as %04x", ad_dtype_name(t), half[i], back[i]);
        }
        for (int n = 1; n < 40; n++) {
            memset(wide, 0, ALL * sizeof *wide);
            memset(back, 0, ALL * sizeof *back);
            ad_widen(t, half + 15400, wide, n);
            ad_narrow(t, wide, back, n);
            for (int i = 0; i < n; i++) assert_int_equal(back[i], half[15400 + i]);
            assert_true(wide[n] == 0 && back[n] == 0); /* nothing behind the last */
        }
    }
    free(half);
    free(back);
    free(wide);
}

/* Ties and their neighbours, of every number and its next; and a walk through all floats. */
static void rounds_to_nearest_even(void **state)
{
    enum { N = 3 };
    for (enum ad_dtype t = AD_BF16; t <= AD_F16; t++) {
        uint32_t inf = t == AD_BF16 ? 0x7f80 : 0x7c00, top = t == AD_BF16 ? 0x7f7f : 0x7bff;
        for (uint32_t h = 0; h < top; h++) {
            double low = (double)one_to(t, (uint16_t)h), high = (double)one_to(t, (uint16_t)(h + 1));
            float middle = (float)((low + high) / 2),
                  x[N] = {middle, nextafterf(middle, 0), nextafterf(middle, INFINITY)};
            uint16_t got[N], want[N] = {(uint16_t)(h + h % 2), (uint16_t)h, (uint16_t)(h + 1)};
            ad_narrow(t, x, got, N);
            for (int i = 0; i < N; i++)
                if (got[i] != want[i]) fail_msg("%s of %a: %04x, not %04x", ad_dtype_name(t), x[i], got[i], want[i]);
        }
        float odd[] = {INFINITY, -INFINITY, 3.4028235e38f, 65520.0f, -0.0f, NAN, float_from_bits(0x7f800001)};
        uint16_t got[7];
        ad_narrow(t, odd, got, 7);
        assert_int_equal(got[0], inf);
        assert_int_equal(got[1], inf | 0x8000);
        assert_int_equal(got[2], inf); /* beyond the largest number by more than half a step */
        if (t == AD_F16) assert_int_equal(got[3], inf);
        assert_int_equal(got[4], 0x8000);
        assert_true(isnan(one_to(t, got[5])) && isnan(one_to(t, got[6])));
    }
    enum { MANY = 4096 };
    float x[MANY];
    uint16_t got[MANY];
    uint64_t u = 0;
    while (u < (uint64_t)1 << 32) {
        uint64_t first = u;
        for (int i = 0; i < MANY; i++, u += 4099) x[i] = float_from_bits((uint32_t)u);
        for (enum ad_dtype t = AD_BF16; t <= AD_F16; t++) {
            ad_narrow(t, x, got, MANY);
            for (int i = 0; i < MANY; i++)
                if (got[i] != one_from(t, x[i]))
                    fail_msg("%s of %08x", ad_dtype_name(t), (uint32_t)(first + 4099u * (unsigned)i));
        }
    }
}

/* ---- kernels --------------------------------------------------------------------------------------------------------- */

/* Every node of a graph that `emit` builds on inputs x0 .., all normal, with its tensors in 16 bits; and of the gradients
 * of the sum of squares of its results. Sizes that no vector divides; products of more than one block of K. */
struct shapes {
    int n;
    struct ad_shape s[6];
    val (*emit)(struct ad_graph *g, const val *x);
};

static const int32_t items[] = {0, 71, 71, 140, 413, 430}; /* one longer than a span of keys, one empty */

static val offsets_val(struct ad_graph *g)
{
    return ad_const_data(g, AD_I32, SHAPE(6), items);
}
static val emit_matmul(struct ad_graph *g, const val *x)
{
    return ad_add(g, ad_linear(g, x[0], x[1], x[2]), x[3]);
}
static val emit_batch(struct ad_graph *g, const val *x)
{
    return ad_matmul(g, x[0], x[1], true, true);
}
static val emit_norms(struct ad_graph *g, const val *x)
{
    return ad_rms_norm(g, ad_layer_norm(g, x[0], x[1], x[2], 1e-5), x[1], 1e-5);
}
static val emit_attention(struct ad_graph *g, const val *x)
{
    val o = offsets_val(g);
    val y = ad_attention(g, x[0], x[1], x[2], o, o, 0, 3, AD_CAUSAL);
    return ad_attention(g, y, x[1], x[2], o, o, 0, 1, 0);
}
static val emit_moves(struct ad_graph *g, const val *x)
{
    val t = ad_swap(g, x[0], 0, 1), y = ad_concat(g, (const val[]){ad_pad(g, t, 1, 2, 3, 0.5), ad_flip(g, t, 0)}, 2, 1);
    return ad_add(g, ad_reshape(g, y, SHAPE(-1)),
                  ad_slice(g, ad_reshape(g, y, SHAPE(-1)), 0, 0, ad_count(ad_shape_of(g, y)), 1));
}
static val emit_rows(struct ad_graph *g, const val *x)
{
    val o = offsets_val(g), at = ad_packed_item(g, o, 430);
    val pooled = ad_segment_mean(g, ad_dropout(g, x[0], 0.3, false), o);
    val y = ad_add(g, ad_segment_broadcast(g, pooled, o, 430), ad_gather(g, pooled, at));
    return ad_add(g, y, ad_broadcast(g, ad_sum(g, x[0], 1, true), SHAPE(430, 77)));
}
static val emit_chain(struct ad_graph *g, const val *x)
{
    return ad_mul(g, ad_gelu(g, ad_add(g, x[0], x[1])), ad_sigmoid(g, ad_swap(g, x[2], 0, 1)));
}

/* The numbers of every node's inputs, by the reference executor. */
static void check_nodes(struct ad_graph *g, uint64_t seed)
{
    struct err e = {0};
    size_t nodes = g->n_node;
    char name[24];
    for (size_t i = 1, n = 0; i < nodes; i++)
        for (int k = 0; k < g->node[i]->n_in; k++) {
            snprintf(name, sizeof name, "i%zu", n++);
            ad_output(g, name, g->node[i]->in[k]);
        }
    struct ad_plan *p = ad_plan_new(g, NULL, AD_REFERENCE & ~(unsigned)AD_NO_KERNELS, &e);
    if (!p) fail_msg("%s", e.msg);
    float *x[6] = {0};
    for (int i = 0; i < 6; i++) {
        snprintf(name, sizeof name, "x%d", i);
        x[i] = numbers(300 * 530, name); /* the largest of all inputs below */
        ad_bind(p, name, x[i]);
    }
    if (ad_run(p, seed, 3, &e)) fail_msg("%s", e.msg);
    for (size_t i = 1, n = 0; i < nodes; i++) {
        const struct ad_node *node = g->node[i];
        double *in[16] = {0};
        for (int k = 0; k < node->n_in; k++) {
            struct ad_shape s;
            snprintf(name, sizeof name, "i%zu", n++);
            struct ad_tensor t = {.data = (void *)(uintptr_t)ad_result(p, name, &s),
                                  .dtype = ad_dtype_of(g, node->in[k])};
            in[k] = mem_alloc((size_t)(ad_count(s) + 1) * sizeof **in);
            for (int64_t j = 0; j < ad_count(s); j++) in[k][j] = ad_get(&t, j);
        }
        if (!(node->op->flags & AD_LEAF) && halfcheck_node(g, node, in, seed, &e))
            fail_msg("%s: %s", node->op->name, e.msg);
        for (int k = 0; k < node->n_in; k++) free(in[k]);
    }
    ad_plan_free(p);
    for (int i = 0; i < 6; i++) free(x[i]);
}

static void kernels_take_16_bits(void **state)
{
    static const struct shapes all[] = {
        {4, {{2, {61, 301}}, {2, {301, 77}}, {1, {77}}, {2, {61, 77}}}, emit_matmul},
        {4, {{2, {9, 300}}, {2, {300, 530}}, {1, {530}}, {2, {9, 530}}}, emit_matmul},
        {4, {{2, {430, 19}}, {2, {19, 5}}, {1, {5}}, {2, {430, 5}}}, emit_matmul},
        {2, {{3, {2, 70, 33}}, {3, {2, 29, 70}}}, emit_batch},
        {3, {{2, {67, 85}}, {1, {85}}, {1, {85}}}, emit_norms},
        {3, {{2, {430, 21}}, {2, {430, 21}}, {2, {430, 21}}}, emit_attention},
        {1, {{2, {45, 70}}}, emit_moves},
        {1, {{2, {430, 77}}}, emit_rows},
        {3, {{2, {90, 41}}, {1, {41}}, {2, {41, 90}}}, emit_chain},
    };
    for (size_t c = 0; c < sizeof all / sizeof *all; c++) {
        struct ad_graph *g = ad_graph_new();
        val x[6], dx[6];
        for (int i = 0; i < all[c].n; i++) {
            char name[16];
            snprintf(name, sizeof name, "x%d", i);
            x[i] = ad_input(g, name, AD_F32, all[c].s[i]);
        }
        val loss = ad_sum_all(g, ad_square(g, all[c].emit(g, x)));
        ad_grad(g, &loss, NULL, 1, x, all[c].n, dx);
        assert_int_equal(ad_status(g, NULL), 0);
        check_nodes(g, 7 + c);
        ad_graph_free(g);
    }
}

/* ---- what is kept how -------------------------------------------------------------------------------------------- */

/* x -> linear, gelu -> y; softmax of y; a loss of y by class; what a small vector gives. */
static void decides_by_the_table(void **state)
{
    struct ad_graph *g = ad_graph_new();
    val x = ad_input(g, "x", AD_F32, SHAPE(40, 32)), w = ad_input(g, "w", AD_F32, SHAPE(32, 48)),
        target = ad_input(g, "t", AD_I32, SHAPE(40)), b = ad_input(g, "b", AD_F32, SHAPE(48));
    val h = ad_gelu(g, ad_linear(g, x, w, b)), y = ad_matmul(g, h, ad_swap(g, h, 0, 1), false, false); /* (40, 40) */
    val e = ad_exp(g, h), part = ad_slice(g, h, 0, 3, 9, 1), p = ad_softmax(g, h);
    val logits = ad_scale(g, ad_reshape(g, ad_relu(g, y), SHAPE(40, 40)), 2);
    val loss = ad_mean_all(g, ad_cross_entropy(g, logits, target, 0, -100));
    ad_output(g, "loss", loss);
    val dw;
    ad_grad(g, &loss, NULL, 1, &w, 1, &dw);
    ad_output_to_caller(g, "dw", ad_scale(g, dw, 3));
    ad_output(g, "e", ad_sum_all(g, e));
    ad_output(g, "part", ad_sum_all(g, part));
    ad_output(g, "p", ad_sum_all(g, p));
    ad_output(g, "h", ad_neg(g, h));
    assert_int_equal(ad_status(g, NULL), 0);
    ad_autocast(g, AD_BF16);
    assert_int_equal(ad_kept_as(g, x), AD_F32);     /* an input */
    assert_int_equal(ad_kept_as(g, h), AD_BF16);    /* an activation */
    assert_int_equal(ad_kept_as(g, part), AD_BF16); /* a view of one, though it is small */
    assert_int_equal(ad_kept_as(g, e), AD_F32);     /* of a wide range */
    assert_int_equal(ad_kept_as(g, p), AD_F32);     /* a softmax */
    assert_int_equal(ad_kept_as(g, y), AD_F32);     /* what a loss reads, through elementwise ops and a view */
    assert_int_equal(ad_kept_as(g, logits), AD_F32);
    assert_int_equal(ad_kept_as(g, loss), AD_F32);
    assert_int_equal(ad_kept_as(g, dw), AD_F32);        /* a gradient that the caller gets, before its last op */
    const struct ad_node *n = ad_node_of(g, dw);        /* x' times the gradient of h's linear */
    assert_int_equal(ad_kept_as(g, n->in[1]), AD_BF16); /* which is an activation's gradient */
    assert_int_equal(ad_kept_bytes(g, h), 2 * 40 * 48);
    ad_graph_free(g);
}

static void no_leaf_has_16_bits(void **state)
{
    struct err e = {0};
    struct ad_graph *g = ad_graph_new();
    assert_int_equal(ad_input(g, "x", AD_BF16, SHAPE(3)), 0);
    assert_int_equal(ad_status(g, &e), ERR_SHAPE);
    assert_non_null(strstr(e.msg, "input 'x' cannot be bf16"));
    ad_graph_free(g);
}

/* ---- a whole network --------------------------------------------------------------------------------------------- */

static double distance(const struct whole *a, const struct whole *b, const struct ad_entry *p, double *norm)
{
    bool trained = !(p->flags & AD_STATE);
    const float *x = trained ? a->grad + p->offset : (const float *)p->data;
    const float *y = trained ? b->grad + p->offset : net_param(&b->n, p->name);
    double diff = 0;
    *norm = 0;
    for (int64_t k = 0; k < p->count; k++) diff += (x[k] - y[k]) * (double)(x[k] - y[k]), *norm += x[k] * (double)x[k];
    *norm = sqrt(*norm);
    return sqrt(diff);
}

/* The largest distance of a gradient or a running statistic, in steps of the 16-bit type at its norm. */
static double farthest(const struct whole *want, const struct whole *got, double step, const char **name)
{
    double most = 0;
    for (int i = 0; i < ad_store_count(want->n.m.store); i++) {
        const struct ad_entry *p = ad_store_at(want->n.m.store, i);
        double norm, far = distance(want, got, p, &norm);
        if (far <= most * step * norm) continue;
        most = far / (step * norm);
        *name = p->name;
    }
    return most;
}

/* Of all gradients together. */
static double whole_distance(const struct whole *a, const struct whole *b)
{
    double diff = 0, norm = 0;
    for (int64_t k = 0; k < a->n_grad; k++)
        diff += (a->grad[k] - b->grad[k]) * (double)(a->grad[k] - b->grad[k]), norm += a->grad[k] * (double)a->grad[k];
    return sqrt(diff / norm);
}

/* Two ways to run differ by f32's rounding, which moves a number that lies near a tie by a whole step when it is kept, and
 * unfused chains keep, and round, more numbers; through two blocks some such steps add up. Against f32 every number that
 * is kept is off by up to half a step, and the rest is the network's doing: of a pool over four pictures another pixel
 * may win. */
static void passes_agree_in_16_bits(void **state)
{
    static const unsigned precision[] = {AD_BF16_VALUES, AD_F16_VALUES};
    struct whole exact = whole_begin(0);
    net_run(&exact.n, 5, 9);
    for (int i = 0; i < 2; i++) {
        double step = i ? 0x1p-11 : 0x1p-8, loss = ad_result_scalar(exact.n.p, "loss");
        const char *name = "";
        struct whole want = whole_begin(AD_REFERENCE | precision[i]);
        net_run(&want.n, 5, 9);
        double far = whole_distance(&exact, &want), off = fabs(ad_result_scalar(want.n.p, "loss") - loss);
        if (!(far > 0 && far < 8 * step)) fail_msg("the gradient is off by %g steps", far / step);
        if (!(off > 0 && off < 2 * step * loss)) fail_msg("the loss is off by %g steps", off / step / loss);
        for (unsigned flags = 0; flags <= AD_REFERENCE; flags++) {
            struct whole got = whole_begin(flags | precision[i]);
            net_run(&got.n, 5, 9);
            far = farthest(&want, &got, step, &name);
            if (!(far < 8)) fail_msg("flags %u, %s: %g steps", flags | precision[i], name, far);
            whole_end(&got);
        }
        whole_end(&want);
    }
    whole_end(&exact);
}

static void same_bits(unsigned a_flags, unsigned b_flags, int a_threads, int b_threads)
{
    omp_set_num_threads(a_threads);
    struct whole a = whole_begin(a_flags);
    net_run(&a.n, 5, 9);
    omp_set_num_threads(b_threads);
    struct whole b = whole_begin(b_flags);
    net_run(&b.n, 5, 9);
    assert_memory_equal(a.grad, b.grad, (size_t)a.n_grad * sizeof *a.grad);
    assert_true(ad_result_scalar(a.n.p, "loss") == ad_result_scalar(b.n.p, "loss"));
    whole_end(&a);
    whole_end(&b);
}

static void threads_and_recomputation_change_no_bit(void **state)
{
    for (unsigned precision = AD_BF16_VALUES; precision <= AD_F16_VALUES; precision *= 2) {
        same_bits(precision, precision, 1, 2);
        same_bits(precision, precision, 1, 5);
        same_bits(precision, precision | AD_NO_RECOMPUTE, 2, 2);
        same_bits(precision, precision | AD_NO_REUSE, 2, 2);
        same_bits(precision | AD_NO_AUTOCAST, 0, 2, 2);
    }
}

static void memory_shrinks(void **state)
{
    struct whole wide = whole_begin(0), half = whole_begin(AD_BF16_VALUES);
    struct ad_plan_stats a = ad_plan_stats(wide.n.p), b = ad_plan_stats(half.n.p);
    /* what is small, leaves and what kernels without 16 bits work in are not halved */
    assert_true((double)b.arena_bytes < 0.75 * (double)a.arena_bytes);
    whole_end(&wide);
    whole_end(&half);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_number_both_ways),
        cmocka_unit_test(rounds_to_nearest_even),
        cmocka_unit_test(kernels_take_16_bits),
        cmocka_unit_test(decides_by_the_table),
        cmocka_unit_test(no_leaf_has_16_bits),
        cmocka_unit_test(passes_agree_in_16_bits),
        cmocka_unit_test(threads_and_recomputation_change_no_bit),
        cmocka_unit_test(memory_shrinks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
