/* Weights in panels: the kernel's copy is the op's definition, and a plan gives the same bits with them and without, on
 * whatever threads, forward and backward, whether the store keeps f32 or bf16. */
#include "tests/autograd/kernel_check.h"

#include "autograd/kernels/gemm.h"
#include "autograd/ops/matmul.h"
#include "base/threads.h"
#include "tests/support/net.h"

/* b (rows, cols) with rows `gap` further apart than they are long. */
static struct ad_tensor matrix(int64_t rows, int64_t cols, int64_t gap)
{
    struct ad_tensor t = check_tensor(SHAPE(rows, cols + gap));
    t.shape.dim[1] -= gap;
    return t;
}

static void copies_are_the_definition(void **state)
{
    static const int64_t sizes[] = {1, 2, 7, 8, 15, 16, 17, 31, 33, 64, 255, 300, 511, 513, 1030};
    enum { N = sizeof sizes / sizeof *sizes };
    for (int i = 0; i < 200; i++) {
        int64_t n = sizes[check_int(0, N - 1)], k = sizes[check_int(0, N - 1)], gap = check_int(0, 3), seen = 0;
        struct panels_attr a = {.tb = (int32_t)check_int(0, 1)};
        struct ad_tensor b = matrix(a.tb ? n : k, a.tb ? k : n, gap);
        struct check_run want = check_once(&ad_op_panels, &a, &b, 1, false),
                         got = check_once(&ad_op_panels, &a, &b, 1, true);
        int64_t count = ad_count(got.out[0].shape), row, column;
        for (int64_t p = 0; p < count; p++) {
            bool there = gemm_panels_place(n, k, p, &row, &column);
            seen += there;
            if (!there) continue; /* a gap, or behind the last column: nobody's */
            float w = ((float *)want.out[0].data)[p], v = ((float *)got.out[0].data)[p];
            if (w != v) fail_msg("n %d k %d tb %d: number %d is %g, not %g", (int)n, (int)k, a.tb, (int)p, v, w);
        }
        assert_int_equal(seen, gemm_panels_count(n, k) ? n * k : 0); /* each number of b once; no panels: no places */
        check_free(&want);
        check_free(&got);
        free(b.data);
    }
}

/* Two layers with all that a product's end may have, and all their gradients. */
struct pair {
    struct net n;
    float *x;
    int64_t grads;
};

static struct pair pair_of(int64_t m, int64_t n, int64_t k, bool narrow, unsigned flags)
{
    struct pair p = {.n = net_begin(true), .x = numbers(m * k, "panels")};
    struct ad_graph *g = p.n.m.g;
    if (narrow) ad_store_narrow(p.n.m.store);
    val x = ad_input(g, "x", AD_F32, SHAPE(m, k));
    val y = ad_gelu(g, nn_linear(&p.n.m, "up", x, n, true, 0)), z = nn_linear(&p.n.m, "down", y, k, true, 0);
    val out = ad_add(g, z, x), loss = ad_sum_all(g, ad_square(g, out)), d;
    val w[] = {ad_param(g, "up.weight", AD_F32, SHAPE(k, n)), ad_param(g, "down.weight", AD_F32, SHAPE(n, k)), x};
    static const char *const names[] = {"d_up", "d_down", "d_x"};
    for (int i = 0; i < 3; i++) {
        ad_grad(g, &loss, NULL, 1, &w[i], 1, &d);
        ad_output(g, names[i], d);
    }
    ad_output(g, "y", out);
    net_plan(&p.n, flags);
    ad_bind(p.n.p, "x", p.x);
    net_run(&p.n, 0, 0);
    return p;
}

static void pair_end(struct pair *p)
{
    net_end(&p->n);
    free(p->x);
}

static void compare(const struct pair *a, const struct pair *b, int64_t m, int64_t n, int64_t k, const char *what)
{
    static const char *const names[] = {"y", "d_up", "d_down", "d_x"};
    int64_t count[] = {m * k, k * n, n * k, m * k};
    for (int i = 0; i < 4; i++)
        if (memcmp(net_out(&a->n, names[i]), net_out(&b->n, names[i]), (size_t)count[i] * sizeof(float)))
            fail_msg("m %d n %d k %d, %s: other bits in %s", (int)m, (int)n, (int)k, what, names[i]);
}

static void bits_are_those_without(void **state)
{
    static const int64_t sizes[][3] = {{256, 32, 32},  {300, 33, 47},   {300, 100, 700}, {257, 300, 1100},
                                       {999, 65, 513}, {512, 257, 129}, {700, 96, 384},  {2000, 160, 512}};
    static const int threads[] = {1, 2, 3, 7};
    int tiles = isa_now() == ISA_AVX512 ? 2 : 1; /* low ones, and tall */
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int narrow = 0; narrow < 2; narrow++) {
            int64_t m = sizes[i][0], n = sizes[i][1], k = sizes[i][2];
            threads_init(1);
            struct pair want = pair_of(m, n, k, narrow, AD_NO_PANELS);
            for (int t = 0; t < 4 * tiles; t++) {
                threads_init(threads[t / tiles]);
                gemm_two_a_cycle_is = t % tiles;
                struct pair got = pair_of(m, n, k, narrow, 0);
                compare(&got, &want, m, n, k, narrow ? "bf16" : "f32");
                /* Forward and backward products by both weights have theirs, where this instruction set has panels at all. */
                int64_t more = ad_plan_stats(got.n.p).steps - ad_plan_stats(want.n.p).steps;
                assert_int_equal(more, 2 * gemm_wants_panels(m, n, k) + 2 * gemm_wants_panels(m, k, n));
                pair_end(&got);
            }
            pair_end(&want);
        }
    gemm_two_a_cycle_is = -1;
    threads_init(0);
}

/* Convolutions as plain products and by patches, forward and backward; one whose weights may be transformed has none. */
static void convolutions_too(void **state)
{
    static const struct nn_conv convs[] = {{.out = 48, .kernel = 1, .stride = 1, .pad = 0},
                                           {.out = 40, .kernel = 3, .stride = 2, .pad = -1},
                                           {.out = 33, .kernel = 5, .stride = 1, .pad = -1},
                                           {.out = 48, .kernel = 3, .stride = 1, .pad = -1}};
    enum { SIDE = 24, CHANNELS = 40 };
    float *x = numbers(SIDE * SIDE * CHANNELS, "image");
    for (size_t i = 0; i < sizeof convs / sizeof *convs; i++) {
        float *want = NULL;
        int64_t without = 0, n_y = 0;
        for (int panels = 0; panels < 2; panels++) {
            struct net n = net_begin(false);
            struct ad_graph *g = n.m.g;
            val in = ad_input(g, "x", AD_F32, SHAPE(1, SIDE, SIDE, CHANNELS)), d;
            val y = nn_conv2d(&n.m, "c", in, convs[i]), loss = ad_sum_all(g, ad_square(g, y));
            ad_grad(g, &loss, NULL, 1, &in, 1, &d);
            ad_output(g, "y", y);
            ad_output(g, "d", d);
            n_y = ad_count(ad_shape_of(g, y));
            net_plan(&n, panels ? 0 : AD_NO_PANELS);
            ad_bind(n.p, "x", x);
            net_run(&n, 0, 0);
            int64_t n_d = SIDE * SIDE * CHANNELS, steps = ad_plan_stats(n.p).steps;
            if (!panels) {
                without = steps;
                want = mem_alloc((size_t)(n_y + n_d) * sizeof *want);
                memcpy(want, net_out(&n, "y"), (size_t)n_y * sizeof *want);
                memcpy(want + n_y, net_out(&n, "d"), (size_t)n_d * sizeof *want);
            } else {
                static const int expected[] = {2, 0, 1, 0}; /* 12 x 12 results are too few rows */
                assert_memory_equal(net_out(&n, "y"), want, (size_t)n_y * sizeof *want);
                assert_memory_equal(net_out(&n, "d"), want + n_y, (size_t)n_d * sizeof *want);
                assert_int_equal(steps - without, gemm_wants_panels(576, 48, 40) ? expected[i] : 0);
            }
            net_end(&n);
        }
        free(want);
    }
    free(x);
}

/* One copy of the weights serves all products that read them in the same order; few rows ask for none. */
static void copies_are_shared(void **state)
{
    for (int64_t rows = 40; rows <= 400; rows += 360) {
        struct net n = net_begin(false);
        struct ad_graph *g = n.m.g;
        val x = ad_input(g, "x", AD_F32, SHAPE(rows, 64)), y = x;
        for (int i = 0; i < 3; i++) y = ad_tanh(g, nn_linear(&n.m, "same", y, 64, false, 0));
        ad_output(g, "y", y);
        net_plan(&n, AD_NO_PANELS);
        int64_t without = ad_plan_stats(n.p).steps;
        net_plan(&n, 0);
        assert_int_equal(ad_plan_stats(n.p).steps - without, gemm_wants_panels(rows, 64, 64));
        net_end(&n);
    }
    assert_false(gemm_wants_panels(40, 64, 64));
}

/* Plans of one workspace share what is kept, and copy weights again when they are told that these have changed, not
 * before: that they do not notice by themselves is how the test sees that nothing is copied. */
static void kept_until_weights_change(void **state)
{
    enum { K = 96, N = 64 };
    struct ad_workspace w = {0};
    struct net n[2] = {net_begin(false), net_begin(false)};
    struct ad_store *store = n[0].m.store, *other = n[1].m.store;
    n[1].m.store = store;
    float *x = numbers(700 * K, "kept");
    struct ad_plan *plan[2];
    struct err e = {0};
    for (int i = 0; i < 2; i++) {
        val in = ad_input(n[i].m.g, "x", AD_F32, SHAPE(i ? 700 : 300, K));
        ad_output(n[i].m.g, "y", nn_linear(&n[i].m, "l", in, N, false, 0));
        assert_int_equal(nn_status(&n[i].m, &e), 0);
    }
    assert_int_equal(ad_store_commit(store, &e), 0);
    for (int i = 0; i < 2; i++) {
        plan[i] = ad_plan_with(n[i].m.g, store, &(struct ad_plan_options){.space = &w, .keep_panels = true}, &e);
        assert_non_null(plan[i]);
        assert_int_equal(ad_plan_stats(plan[i]).kept_bytes, 4 * gemm_panels_count(N, K));
        ad_bind(plan[i], "x", x);
    }
    float *weight = net_param(&n[0], "l.weight"), before[2][300 * N];
    for (int change = 0; change < 3; change++) { /* none yet; one that nobody tells; told */
        for (int i = 0; i < K * N && change == 1; i++) weight[i] += 1;
        if (change == 2) ad_weights_changed(&w);
        for (int i = 0; i < 2; i++) {
            assert_int_equal(ad_run(plan[i], 0, 0, &e), 0);
            const float *y = ad_result(plan[i], "y", NULL);
            bool same = change && !memcmp(y, before[i], sizeof before[i]);
            memcpy(before[i], y, sizeof before[i]);
            if (change) assert_int_equal(same, (change == 1) == gemm_wants_panels(300, N, K));
            if (gemm_wants_panels(300, N, K)) /* OpenBLAS may give other bits where there are more rows */
                assert_memory_equal(before[i], before[0], sizeof before[0]);
        }
    }
    struct net fresh = net_begin(false); /* what a plan without panels gives with the weights as they are now */
    ad_output(fresh.m.g, "y", nn_linear(&fresh.m, "l", ad_input(fresh.m.g, "x", AD_F32, SHAPE(300, K)), N, false, 0));
    net_plan(&fresh, AD_NO_PANELS);
    memcpy(net_param(&fresh, "l.weight"), weight, K * N * sizeof *weight);
    ad_bind(fresh.p, "x", x);
    net_run(&fresh, 0, 0);
    assert_memory_equal(net_out(&fresh, "y"), before[0], sizeof before[0]);
    net_end(&fresh);
    for (int i = 0; i < 2; i++) ad_plan_free(plan[i]);
    ad_workspace_free(&w);
    n[1].m.store = other;
    for (int i = 0; i < 2; i++) net_end(&n[i]);
    free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(copies_are_the_definition),
                                       cmocka_unit_test(bits_are_those_without), cmocka_unit_test(convolutions_too),
                                       cmocka_unit_test(copies_are_shared),
                                       cmocka_unit_test(kept_until_weights_change)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
