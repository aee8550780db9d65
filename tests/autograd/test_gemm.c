/* The f32 product against the plain loops: odd sizes, transposed and strided operands, batches, epilogues; same bits
 * for any number of threads. */
#include "tests/autograd/kernel_check.h"

#include "autograd/kernels/gemm.h"
#include "autograd/ops/matmul.h"
#include "autograd/ops/ops.h"
#include "autograd/plan.h"
#include "base/isa.h"
#include "base/threads.h"

static const int64_t sizes[] = {1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 64, 65, 130};
static int64_t pick(void)
{
    return sizes[check_int(0, 12)];
}

/* A matrix (rows, cols) behind leading axes; with `gap` its rows lie further apart than they are long; `flipped` lies
 * transposed in memory. */
static struct ad_tensor operand(struct ad_shape lead, int64_t rows, int64_t cols, bool flipped, int64_t gap)
{
    struct ad_shape s = lead;
    s.dim[s.rank++] = flipped ? cols : rows;
    s.dim[s.rank++] = (flipped ? rows : cols) + gap;
    struct ad_tensor t = check_tensor(s);
    t.shape.dim[s.rank - 1] -= gap;
    if (!flipped) return t;
    int64_t a = t.stride[s.rank - 1], n = t.shape.dim[s.rank - 1];
    t.stride[s.rank - 1] = t.stride[s.rank - 2];
    t.stride[s.rank - 2] = a;
    t.shape.dim[s.rank - 1] = t.shape.dim[s.rank - 2];
    t.shape.dim[s.rank - 2] = n;
    return t;
}

static void check(struct matmul_attr a, struct ad_shape lead_a, struct ad_shape lead_b, int64_t m, int64_t n, int64_t k,
                  bool strided)
{
    char what[160];
    int64_t gap = strided ? check_int(0, 3) : 0;
    bool flip_a = strided && check_int(0, 1), flip_b = strided && check_int(0, 1);
    struct ad_tensor in[4] = {operand(lead_a, a.ta ? k : m, a.ta ? m : k, flip_a, gap),
                              operand(lead_b, a.tb ? n : k, a.tb ? k : n, flip_b, gap)};
    int n_in = 2;
    if (a.bias) in[n_in++] = check_tensor(SHAPE(n));
    if (a.residual) {
        struct ad_shape s = lead_a;
        s.dim[s.rank++] = m;
        s.dim[s.rank++] = n;
        in[n_in++] = check_tensor(s);
    }
    struct ad_call c = {.in = in, .n_in = n_in, .attr = &a, .op = &ad_op_matmul};
    assert_true(ad_op_matmul.takes(&c, 0) && ad_op_matmul.takes(&c, 1));
    snprintf(what, sizeof what, "m %lld n %lld k %lld ta %d tb %d flips %d %d gap %lld leads %d %d bias %d residual %d",
             (long long)m, (long long)n, (long long)k, a.ta, a.tb, flip_a, flip_b, (long long)gap, lead_a.rank,
             lead_b.rank, a.bias, a.residual);
    check_products(&ad_op_matmul, &a, in, n_in, k, what);
    for (int i = 0; i < n_in; i++) free(in[i].data);
}

static void test_odd_sizes(void **state)
{
    for (int i = 0; i < 300; i++) {
        struct matmul_attr a = {.ta = (int32_t)check_int(0, 1),
                                .tb = (int32_t)check_int(0, 1),
                                .bias = (int32_t)check_int(0, 1),
                                .residual = (int32_t)check_int(0, 1)};
        check(a, SCALAR, SCALAR, pick(), pick(), pick(), i % 2);
    }
}

static void test_batches(void **state)
{
    const struct ad_shape leads[][2] = {{SHAPE(3), SHAPE(3)},    {SHAPE(5), {0}},
                                        {SHAPE(2, 3), {0}},      {SHAPE(4), SHAPE(1)},
                                        {SHAPE(2, 3), SHAPE(3)}, {SHAPE(2, 1), SHAPE(2, 3)},
                                        {{0}, SHAPE(3)},         {SHAPE(1, 1), SHAPE(4, 2)},
                                        {SHAPE(11), SHAPE(11)},  {SHAPE(3, 0), {0}},
                                        {SHAPE(9, 1), {0}}};
    for (int i = 0; i < 220; i++) {
        const struct ad_shape *l = leads[i % 11];
        struct matmul_attr a = {
            .ta = (int32_t)check_int(0, 1), .tb = (int32_t)check_int(0, 1), .bias = (int32_t)check_int(0, 1)};
        check(a, l[0], l[1], pick(), pick(), pick(), check_int(0, 1));
    }
}

static void test_cuts(void **state) /* sizes that are cut into blocks: rows, columns, and the sum */
{
    const int64_t large[][3] = {{2100, 33, 20},  {70, 900, 40},   {17, 1100, 30}, {33, 65, 4200},
                                {130, 64, 2049}, {300, 300, 300}, {1, 600, 2500}, {49, 800, 384},
                                {15, 1500, 390}, {49, 800, 512},  {15, 1500, 517}};
    for (size_t i = 0; i < sizeof large / sizeof *large; i++)
        for (int32_t t = 0; t < 4; t++) {
            struct matmul_attr a = {.ta = t & 1, .tb = t >> 1, .bias = 1, .residual = t & 1};
            check(a, SCALAR, SCALAR, large[i][0], large[i][1], large[i][2], t == 2);
        }
    check((struct matmul_attr){.bias = 1}, SHAPE(3, 700), SCALAR, 1, 40, 33, false);
    /* a C that no cache would hold and little to sum: written past the caches, but for the last columns of 80 */
    int64_t from = ad_stream_from;
    ad_stream_from = 1 << 16;
    check((struct matmul_attr){0}, SCALAR, SCALAR, 1367, 48, 17, false);
    check((struct matmul_attr){.tb = 1}, SCALAR, SCALAR, 825, 80, 5, false);
    ad_stream_from = from;
    check((struct matmul_attr){.tb = 1}, SHAPE(3), SHAPE(3), 200, 130, 100, true);
}

/* Gradients of weights, A by columns: both operands are copied beside the multiplying, the next panel of B and the next group of
 * A. Few rows or columns, so that some of it finds no tile; a last block of K that is shorter; rows of B 16 KB apart. */
static void test_copies_beside(void **state)
{
    static const int64_t at[][3] = {{213, 420, 1030}, {61, 700, 1037},  {170, 97, 2050},  {130, 260, 601},
                                    {457, 131, 2049}, {20, 1300, 1600}, {14, 2000, 1100}, {700, 160, 517},
                                    {90, 4096, 300},  {331, 65, 1026},  {57, 1200, 513}};
    for (size_t i = 0; i < sizeof at / sizeof *at; i++)
        check((struct matmul_attr){.ta = 1, .bias = i & 1, .residual = i % 3 == 0}, SCALAR, SCALAR, at[i][0], at[i][1],
              at[i][2], i % 2);
}

/* What is read where it lies (gemm_direct.c), its blocks of K, its strips of columns; few rows. */
static void test_small_and_thin(void **state)
{
    static const int64_t at[][3] = {{192, 192, 192}, {193, 192, 100}, {192, 193, 100}, {192, 192, 193}, {64, 32, 288},
                                    {32, 100, 769},  {100, 128, 65},  {100, 128, 64},  {128, 128, 300}, {5, 24, 256},
                                    {5, 24, 257},    {32, 100, 513},  {5, 24, 384},    {5, 24, 385}},
                         thin[][2] = {{255, 8}, {256, 7}, {256, 8}, {257, 9}, {600, 31}, {1031, 264}, {1031, 393}};
    for (size_t i = 0; i < sizeof at / sizeof *at; i++)
        for (int32_t t = 0; t < 4; t++) {
            struct matmul_attr a = {.ta = t & 1, .tb = t >> 1, .bias = i & 1, .residual = t == 1};
            check(a, SCALAR, SCALAR, at[i][0], at[i][1], at[i][2], i % 3 == 0);
        }
    for (int64_t m = 1; m <= 5; m++)
        for (size_t i = 0; i < sizeof thin / sizeof *thin; i++)
            check((struct matmul_attr){.ta = m & 1, .bias = i & 1, .residual = m == 2}, SCALAR, SCALAR, m, thin[i][0],
                  thin[i][1], i % 2);
}

/* ---- the table of back ends (gemm_choice.c) ------------------------------------------------------------------------- */

struct size {
    int64_t m, n, k;
    bool ta, tb;
};

static struct gemm_args product(struct size z, const float *a, const float *b, float *c)
{
    struct gemm_args g = {.m = z.m, .n = z.n, .k = z.k, .a = a, .b = b, .c = c, .c_row = z.n};
    g.a_row = z.ta ? 1 : z.k;
    g.a_col = z.ta ? z.m : 1;
    g.b_row = z.tb ? 1 : z.n;
    g.b_col = z.tb ? z.k : 1;
    return g;
}

static enum gemm_backend choice(struct size z)
{
    struct gemm_args g = product(z, NULL, NULL, NULL);
    return gemm_backend_of(&g);
}

/* Every back end that can multiply it gives the bits of the packed panels, whose sums test_odd_sizes and others hold against
 * the plain loops; operands end where their memory does, so that a sanitizer sees a number that is read too far. */
static void assert_same_bits(struct size z, bool more)
{
    struct ad_tensor a = check_tensor(SHAPE(z.m * z.k)), b = check_tensor(SHAPE(z.k * z.n)),
                     bias = check_tensor(SHAPE(z.n)), start = check_tensor(SHAPE(z.m, z.n)),
                     want = check_tensor(SHAPE(z.m, z.n)), got = check_tensor(SHAPE(z.m, z.n));
    size_t bytes = (size_t)(z.m * z.n) * sizeof(float);
    struct gemm_args g = product(z, a.data, b.data, want.data);
    if (more) g.add = true, g.bias = bias.data;
    memcpy(want.data, start.data, bytes);
    gemm_block_by(GEMM_PACKED, &g);
    g.c = got.data;
    for (int by = GEMM_DIRECT; by < GEMM_PACKED; by++) {
        if (!gemm_can((enum gemm_backend)by, &g)) continue;
        memcpy(got.data, start.data, bytes);
        gemm_block_by((enum gemm_backend)by, &g);
        if (memcmp(got.data, want.data, bytes))
            fail_msg("back end %d: other bits at m %lld n %lld k %lld ta %d tb %d", by, (long long)z.m, (long long)z.n,
                     (long long)z.k, z.ta, z.tb);
    }
    float *const data[] = {a.data, b.data, bias.data, start.data, want.data, got.data};
    for (size_t i = 0; i < sizeof data / sizeof *data; i++) free(data[i]);
}

static void test_back_ends_agree(void **state)
{
    static const int64_t at[][3] = {
        {1, 1, 1},      {5, 1, 9},      {600, 3, 520},  {513, 8, 17}, {4, 300, 513}, {3, 257, 1030},
        {13, 40, 80},   {25, 97, 515},  {12, 15, 600},  {7, 530, 5},  {100, 33, 24}, {6, 1100, 12},
        {50, 40, 77},   {33, 24, 96},   {20, 20, 20},   {13, 13, 13}, {16, 4, 16},   {16, 1024, 300},
        {7, 1024, 520}, {33, 1024, 70}, {40, 512, 523},  /* from {16, 1024, 300} on: rows of B meet in a cache */
        {1, 4500, 21},  {2, 2051, 9},   {3, 2100, 530}}; /* those of few rows are read along */
    if (isa_now() == ISA_PLAIN) {
        assert_int_equal(choice((struct size){8, 8, 8, false, false}), GEMM_BLAS);
        return;
    }
#ifdef TRIAD_XSMM
    if (isa_now() == ISA_AVX2) assert_int_equal(choice((struct size){130, 70, 13, false, false}), GEMM_XSMM);
#endif
    for (int layout = 0; layout < 4; layout++) {
        for (size_t i = 0; i < sizeof at / sizeof *at; i++)
            assert_same_bits((struct size){at[i][0], at[i][1], at[i][2], layout & 1, layout >> 1}, i & 1);
        for (int i = 0; i < 100; i++)
            assert_same_bits((struct size){pick(), pick(), pick(), layout & 1, layout >> 1}, i & 1);
    }
}

/* Rows of B that lie 16 KB apart are copied for all columns at once, others panel by panel (gemm_packed.c), or while they
 * are multiplied by the first rows of A (gemm_direct.c): the same bits. */
static void test_rows_far_apart(void **state)
{
    enum { FAR = 4096, N = 150, K = 600 };
    static const int64_t rows[] = {7, 20, 60, 200}; /* of few, B is read in place but for its last columns */
    if (isa_now() == ISA_PLAIN) {
        assert_int_equal(choice((struct size){200, N, K, false, false}), GEMM_BLAS);
        return;
    }
    for (int i = 0; i < 4; i++) {
        int64_t m = rows[i];
        struct ad_tensor a = check_tensor(SHAPE(m * K)), b = check_tensor(SHAPE(K * N)),
                         want = check_tensor(SHAPE(m, N)), got = check_tensor(SHAPE(m, N)),
                         far = check_tensor(SHAPE((K - 1) * FAR + N));
        for (int k = 0; k < K; k++) memcpy((float *)far.data + k * FAR, (float *)b.data + k * N, N * sizeof(float));
        struct gemm_args g = product((struct size){m, N, K, i == 3, false}, a.data, b.data, want.data);
        gemm_block_by(GEMM_PACKED, &g);
        g.b = far.data;
        g.b_row = FAR;
        g.c = got.data;
        for (int by = 0; by < 2; by++) {
            memset(got.data, 0, (size_t)(m * N) * sizeof(float));
            gemm_block_by(by ? GEMM_DIRECT : GEMM_PACKED, &g);
            assert_memory_equal(got.data, want.data, (size_t)(m * N) * sizeof(float));
        }
        float *const data[] = {a.data, b.data, want.data, got.data, far.data};
        for (size_t x = 0; x < sizeof data / sizeof *data; x++) free(data[x]);
    }
}

/* Rows i.., columns j.. of g by lanes, which need not have few of them. */
static void lanes_part(const struct gemm_args *g, int64_t i, int64_t m, int64_t j, int64_t n)
{
    struct gemm_args part = *g;
    part.m = m, part.n = n;
    part.a = (const float *)g->a + i * g->a_row;
    part.b = (const float *)g->b + j * g->b_col;
    part.c = (float *)g->c + i * g->c_row + j;
    part.lanes = true;
    if (g->bias) part.bias += j;
    gemm_block(&part);
}

/* Sums in lanes along K: right beside the plain loops, and the same bits however the whole is cut. */
static void test_lanes(void **state)
{
    static const int64_t at[][3] = {{33, 1, 64}, {600, 1, 523}, {37, 2, 65},   {45, 3, 79},   {41, 4, 600},
                                    {1, 33, 64}, {1, 600, 523}, {2, 300, 100}, {3, 101, 513}, {5, 64, 1030},
                                    {6, 77, 90}, {7, 65, 72},   {8, 33, 300},  {40, 5, 70},   {66, 8, 1100}};
    for (size_t x = 0; x < sizeof at / sizeof *at; x++) {
        int64_t m = at[x][0], n = at[x][1], k = at[x][2];
        for (int32_t layout = 0; layout < 4; layout++)
            check((struct matmul_attr){.ta = layout & 1, .tb = layout >> 1, .bias = x & 1, .residual = layout & 1},
                  SCALAR, SCALAR, m, n, k, x % 3 == 0);
        check((struct matmul_attr){.tb = 1}, SHAPE(9), SHAPE(9), m, n, k, false);
        if (isa_now() == ISA_PLAIN) continue;
        struct ad_tensor a = check_tensor(SHAPE(m * k)), b = check_tensor(SHAPE(k * n)), bias = check_tensor(SHAPE(n)),
                         want = check_tensor(SHAPE(m, n)), got = check_tensor(SHAPE(m, n));
        struct gemm_args g = product((struct size){m, n, k, false, true}, a.data, b.data, want.data);
        size_t bytes = (size_t)(m * n) * sizeof(float);
        if (x & 1) g.add = true, g.bias = bias.data;
        assert_true(gemm_can(GEMM_LANES, &g));
        memcpy(got.data, want.data, bytes);
        lanes_part(&g, 0, m, 0, n);
        g.c = got.data;
        int64_t rows = m > 8 ? m * 2 / 3 : m,
                columns = n > 8 ? n - 5 : n; /* the last columns are few, as are all rows */
        for (int64_t i = 0; i < m; i += rows)
            for (int64_t j = 0; j < n; j += columns)
                lanes_part(&g, i, m - i < rows ? m - i : rows, j, n - j < columns ? n - j : columns);
        assert_memory_equal(got.data, want.data, bytes);
        float *const data[] = {a.data, b.data, bias.data, want.data, got.data};
        for (size_t i = 0; i < sizeof data / sizeof *data; i++) free(data[i]);
    }
    struct gemm_args g = product((struct size){100, 1, 64, false, false}, NULL, NULL, NULL);
    assert_int_equal(gemm_sums_in_lanes(&g), isa_now() != ISA_PLAIN);
    g.k = 8;
    assert_false(gemm_sums_in_lanes(&g));
}

/* What is chosen changes along lines of m, n or k; the products on both sides of each change. */
static void test_borders_of_the_table(void **state)
{
    static const struct {
        struct size z; /* the size that moves is 0 here */
        int64_t most;
    } lines[] = {{{0, 300, 9}, 600}, {{0, 5, 12}, 600},   {{0, 1100, 8}, 40},   {{0, 40, 3}, 600},
                 {{3, 0, 9}, 1100},  {{4, 0, 9}, 1100},   {{20, 0, 9}, 1100},   {{40, 0, 11}, 600},
                 {{2, 600, 0}, 20},  {{33, 40, 0}, 4000}, {{140, 20, 0}, 2000}, {{0, 7, 11}, 600},
                 {{520, 0, 5}, 40},  {{64, 0, 65}, 2300}, {{65, 64, 0}, 2100}};
    int found = 0;
    gemm_second_cache_is = 512 << 10; /* the table looks at it */
    for (int layout = 0; layout < 4; layout++)
        for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
            struct size z = lines[i].z, last = z;
            z.ta = layout & 1, z.tb = layout >> 1;
            int64_t *moves = !z.m ? &z.m : !z.n ? &z.n : &z.k;
            for (*moves = 1; *moves <= lines[i].most; last = z, ++*moves) {
                if (*moves == 1 || choice(z) == choice(last)) continue;
                const struct size sides[] = {last, z};
                for (int side = 0; side < 2; side++) {
                    struct size s = sides[side];
                    assert_same_bits(s, side);
                    check((struct matmul_attr){.ta = s.ta, .tb = s.tb, .bias = side}, SCALAR, SCALAR, s.m, s.n, s.k,
                          false);
                }
                found++;
            }
        }
    gemm_second_cache_is = 0;
    assert_true(isa_now() == ISA_PLAIN ? found == 0 : found > 20);
}

static void test_empty(void **state)
{
    check((struct matmul_attr){.bias = 1, .residual = 1}, SCALAR, SCALAR, 3, 5, 0, false);
    check((struct matmul_attr){.bias = 1}, SCALAR, SCALAR, 0, 5, 3, false);
    check((struct matmul_attr){.ta = 1}, SCALAR, SCALAR, 3, 0, 4, false);
    check((struct matmul_attr){.tb = 1}, SHAPE(0), SHAPE(0), 3, 2, 4, false);
    check((struct matmul_attr){.tb = 0}, SHAPE(2), SHAPE(2), 3, 2, 0, false);
}

/* Slopes of the activations are below 1.13, so the product's bound covers them; their polynomials add some ulps of 1.
 */
static void test_activations(void **state)
{
    for (int32_t act = 1; act < ACT_COUNT; act++) {
        struct matmul_attr a = {.bias = 1, .residual = 1, .act = act};
        struct ad_tensor in[4] = {check_tensor(SHAPE(65, 17)), check_tensor(SHAPE(17, 33)), check_tensor(SHAPE(33)),
                                  check_tensor(SHAPE(65, 33))};
        struct check_run want = check_once(&ad_op_matmul, &a, in, 4, false),
                         got = check_once(&ad_op_matmul, &a, in, 4, true);
        for (int64_t i = 0; i < 65 * 33; i++) {
            double w = ad_get(&want.out[0], i), v = ad_get(&got.out[0], i);
            if (!(fabs(v - w) <= 19 * 26 * 0x1p-23))
                fail_msg("activation %d: element %lld is %.9g, not %.9g", act, (long long)i, v, w);
        }
        check_free(&want);
        check_free(&got);
        for (int i = 0; i < 4; i++) free(in[i].data);
    }
}

/* gelu(x w + bias + residual) in three axes, planned with `flags`; returns the steps of a run. */
static int64_t run_block(unsigned flags, const float *data, float *y)
{
    struct ad_graph *g = ad_graph_new();
    struct err e;
    val x = ad_input(g, "x", AD_F32, SHAPE(2, 5, 7)), w = ad_input(g, "w", AD_F32, SHAPE(7, 9));
    val bias = ad_input(g, "bias", AD_F32, SHAPE(9)), residual = ad_input(g, "residual", AD_F32, SHAPE(2, 5, 9));
    ad_output(g, "y", ad_gelu(g, ad_add(g, residual, ad_add(g, ad_matmul(g, x, w, false, false), bias))));
    struct ad_plan *p = ad_plan_new(g, NULL, flags, &e);
    if (!p) fail_msg("%s", e.msg);
    assert_true(ad_bind(p, "x", data) && ad_bind(p, "w", data + 70) && ad_bind(p, "bias", data + 133) &&
                ad_bind(p, "residual", data + 142));
    if (ad_run(p, 1, 1, &e)) fail_msg("%s", e.msg);
    memcpy(y, ad_result(p, "y", NULL), 90 * sizeof *y);
    int64_t steps = ad_plan_stats(p).steps;
    ad_plan_free(p);
    ad_graph_free(g);
    return steps;
}

static void test_absorb(void **state)
{
    struct ad_tensor t = check_tensor(SHAPE(232));
    float want[90], got[90];
    assert_true(run_block(AD_REFERENCE, t.data, want) > 1);
    assert_int_equal(run_block(0, t.data, got), 1);
    for (int i = 0; i < 90; i++) /* 9 terms of at most 1, as in test_activations */
        if (!(fabsf(got[i] - want[i]) <= 9 * 16 * 0x1p-23f))
            fail_msg("element %d is %.9g, not %.9g", i, (double)got[i], (double)want[i]);
    free(t.data);
}

int main(void)
{
    threads_init(2);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_odd_sizes),
                                       cmocka_unit_test(test_batches),
                                       cmocka_unit_test(test_cuts),
                                       cmocka_unit_test(test_copies_beside),
                                       cmocka_unit_test(test_small_and_thin),
                                       cmocka_unit_test(test_back_ends_agree),
                                       cmocka_unit_test(test_rows_far_apart),
                                       cmocka_unit_test(test_lanes),
                                       cmocka_unit_test(test_borders_of_the_table),
                                       cmocka_unit_test(test_empty),
                                       cmocka_unit_test(test_activations),
                                       cmocka_unit_test(test_absorb)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
