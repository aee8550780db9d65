/* Layers against computations of their own in this file: loops over one item at a time, published values, and laws
 * (rotary products depend on distance alone; what is packed equals each item alone). Contrastive losses:
 * test_contrast. Whole models against PyTorch: tests/golden. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "tests/support/net.h"

/* f32 sums of some tens of products; the references sum in double. */
#define F32_TOL 2e-5

static struct nn_seq packed(struct nn *m, int64_t rows, int64_t items, int64_t width, int64_t longest)
{
    struct nn_seq s = {.rows = rows, .items = items, .longest = longest};
    s.x = ad_input(m->g, "x", AD_F32, SHAPE(rows, width));
    s.offsets = ad_input(m->g, "offsets", AD_I32, SHAPE(items + 1));
    return s;
}

/* ---- positions --------------------------------------------------------------------------------------------------- */

/* <rotary(q, i), rotary(k, j)> depends on i - j alone (Su et al. 2021, eq. 16), and is <q, k> for i = j. */
static void rotary_products_depend_on_distance(void **state)
{
    enum { N = 40, HEADS = 2, DIM = 6, D = HEADS * DIM };
    struct net n = net_begin(false);
    struct nn_seq s = packed(&n.m, N, 1, D, N);
    ad_output(n.m.g, "y", nn_rotary(&n.m, &s, s.x, HEADS, 10000));
    net_plan(&n, 0);
    float *qk = numbers(2 * D, "qk"), x[N * D], q[N * D];
    ad_bind(n.p, "x", x);
    ad_bind(n.p, "offsets", (int32_t[]){0, N});
    for (int i = 0; i < N; i++) memcpy(x + i * D, qk, sizeof(float) * D);
    net_run(&n, 0, 0);
    memcpy(q, net_out(&n, "y"), sizeof q);
    for (int i = 0; i < N; i++) memcpy(x + i * D, qk + D, sizeof(float) * D);
    net_run(&n, 0, 0);
    const float *k = net_out(&n, "y");
    for (int h = 0; h < HEADS; h++)
        for (int distance = 0; distance < N; distance++) {
            double first = 0;
            for (int i = 0; i + distance < N; i++) {
                double dot = 0;
                for (int d = h * DIM; d < (h + 1) * DIM; d++) dot += (double)q[i * D + d] * k[(i + distance) * D + d];
                if (i == 0) first = dot;
                assert_true(fabs(dot - first) < F32_TOL);
            }
            double plain = 0;
            for (int d = h * DIM; d < (h + 1) * DIM; d++) plain += (double)qk[d] * qk[D + d];
            if (distance == 0) assert_true(fabs(first - plain) < F32_TOL);
            if (distance == 1) assert_true(fabs(first - plain) > 1e-3); /* it does turn */
        }
    /* Position 1 turns the first pair (0, DIM/2) by one radian, the second by 10000^(-2/DIM). */
    double a = pow(10000, -2.0 / DIM);
    const float want[] = {(float)(qk[D] * cos(1) - qk[D + 3] * sin(1)),
                          (float)(qk[D + 1] * cos(a) - qk[D + 4] * sin(a))};
    assert_close(k + D, want, 2, F32_TOL);
    free(qk);
    net_end(&n);
}

/* Positions begin anew at each item; padding rows become zero. */
static void rotary_counts_within_the_item(void **state)
{
    struct net n = net_begin(false);
    struct nn_seq s = packed(&n.m, 6, 3, 4, 3);
    ad_output(n.m.g, "y", nn_rotary(&n.m, &s, s.x, 1, 10000));
    net_plan(&n, 0);
    float x[24];
    for (int i = 0; i < 24; i++) x[i] = 1;
    ad_bind(n.p, "x", x);
    ad_bind(n.p, "offsets", (int32_t[]){0, 3, 3, 5}); /* lengths 3, 0, 2, one row of padding */
    net_run(&n, 0, 0);
    const float *y = net_out(&n, "y"), zero[4] = {0};
    assert_memory_equal(y, y + 12, 8 * sizeof *y);
    assert_memory_not_equal(y, y + 4, 4 * sizeof *y);
    assert_memory_equal(y + 20, zero, sizeof zero);
    net_end(&n);
}

/* The table is set to bucket numbers, so that the bias tells each pair's bucket. Expected values: the formula's
 * published implementation (transformers, T5Attention._relative_position_bucket), 32 buckets, distance 128. */
static void relative_buckets_are_those_of_t5(void **state)
{
    static const struct {
        int distance, both, causal; /* distance: key - query */
    } rows[] = {{0, 0, 0},     {1, 17, 0},    {7, 23, 0},     {8, 24, 0},     {11, 24, 0},
                {12, 25, 0},   {16, 26, 0},   {23, 27, 0},    {32, 28, 0},    {64, 30, 0},
                {90, 30, 0},   {91, 31, 0},   {128, 31, 0},   {149, 31, 0},   {-1, 1, 1},
                {-7, 7, 7},    {-8, 8, 8},    {-15, 9, 15},   {-16, 10, 16},  {-20, 10, 17},
                {-32, 12, 21}, {-64, 14, 26}, {-100, 15, 30}, {-127, 15, 31}, {-149, 15, 31}};
    enum { N = 150 };
    for (int causal = 0; causal < 2; causal++) {
        struct net n = net_begin(false);
        ad_output(n.m.g, "y", nn_relative_bias(&n.m, "relative", N, 2, causal));
        net_plan(&n, 0);
        float *table = net_param(&n, "relative.weight");
        for (int i = 0; i < 32; i++) table[2 * i] = (float)i, table[2 * i + 1] = (float)(100 + i);
        net_run(&n, 0, 0);
        const float *y = net_out(&n, "y"); /* (2, N, N) */
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            int d = rows[i].distance, want = causal ? rows[i].causal : rows[i].both, q = d < 0 ? N - 1 : 0;
            if (y[q * N + q + d] != (float)want || y[(N + q) * N + q + d] != (float)(100 + want))
                fail_msg("%s: distance %d is in bucket %g, not %d", causal ? "causal" : "both ways", d,
                         (double)y[q * N + q + d], want);
        }
        net_end(&n);
    }
}

static void sinusoids(void **state)
{
    enum { N = 50, D = 8 };
    struct net n = net_begin(false);
    struct nn_seq s = packed(&n.m, N, 2, D, 30);
    ad_output(n.m.g, "y", nn_add_position(&n.m, "position", NN_POS_SINUSOIDAL, &s));
    net_plan(&n, 0);
    float x[N * D], want[N * D];
    for (int t = 0; t < N; t++)
        for (int i = 0; i < D; i++) {
            double p = t < 20 ? t : t - 20, a = p / pow(10000, (i % 4) / 3.0);
            x[t * D + i] = 100;
            want[t * D + i] = (float)(100 + (i < D / 2 ? sin(a) : cos(a)));
        }
    ad_bind(n.p, "x", x);
    ad_bind(n.p, "offsets", (int32_t[]){0, 20, N});
    net_run(&n, 0, 0);
    assert_close(net_out(&n, "y"), want, N * D, 1e-6);
    net_end(&n);
}

/* ---- drop path, dropout ------------------------------------------------------------------------------------------ */

static void drop_path_takes_whole_items(void **state)
{
    enum { ITEMS = 2000, LONG = 3, N = ITEMS * LONG };
    static float x[N * 2];
    static int32_t offsets[ITEMS + 1];
    for (int i = 0; i < N * 2; i++) x[i] = 1;
    for (int i = 0; i <= ITEMS; i++) offsets[i] = i * LONG;
    struct net n = net_begin(true);
    struct nn_seq s = packed(&n.m, N, ITEMS, 2, LONG);
    val once = nn_drop_path(&n.m, &s, s.x, 0.25), twice = nn_drop_path(&n.m, &s, s.x, 0.25);
    ad_output(n.m.g, "y", once);
    ad_output(n.m.g, "z", twice);
    net_plan(&n, 0);
    ad_bind(n.p, "x", x);
    ad_bind(n.p, "offsets", offsets);
    net_run(&n, 1, 1);
    const float *y = net_out(&n, "y"), *z = net_out(&n, "z");
    int dropped = 0, both = 0;
    for (int i = 0; i < ITEMS; i++) {
        float first = y[i * LONG * 2];
        assert_true(first == 0 || fabsf(first - 4.0f / 3) < 1e-6f);
        for (int k = 1; k < LONG * 2; k++) assert_true(y[i * LONG * 2 + k] == first);
        dropped += first == 0;
        both += first == 0 && z[i * LONG * 2] == 0;
    }
    /* Binomial: 500 of 2000, standard deviation 19; for both 125, deviation 11. Five of each. */
    assert_in_range(dropped, 405, 595);
    assert_in_range(both, 70, 180);
    float before[N * 2];
    memcpy(before, y, sizeof before);
    net_run(&n, 1, 1);
    assert_memory_equal(net_out(&n, "y"), before, sizeof before);
    net_run(&n, 1, 2);
    assert_memory_not_equal(net_out(&n, "y"), before, sizeof before);
    net_end(&n);
    n = net_begin(false);
    s = packed(&n.m, N, ITEMS, 2, LONG);
    assert_int_equal(nn_drop_path(&n.m, &s, s.x, 0.25), s.x);
    net_end(&n);
}

/* ---- attention, blocks, pooling: packed equals alone ------------------------------------------------------------- */

enum { ROWS = 14, WIDTH = 8, LONGEST = 7 };
static const int32_t lengths[] = {5, 1, 7}; /* one row of padding */

/* Emits y (rows, WIDTH) or (items, WIDTH) from a sequence. */
typedef val (*emit)(struct nn *m, const struct nn_seq *s, int variant);

/* Each item's part of the packed result equals the result of the item alone. Gradients of the input too. */
static void check_alone(emit f, int variant, bool rows_out)
{
    float *x = numbers(ROWS * WIDTH, "x"), *w = numbers(ROWS * WIDTH, "w");
    int32_t offsets[] = {0, 5, 6, 13};
    float y[ROWS * WIDTH], dx[ROWS * WIDTH];
    for (int item = -1; item < 3; item++) {
        int from = item < 0 ? 0 : offsets[item], rows = item < 0 ? ROWS : lengths[item];
        int items = item < 0 ? 3 : 1, n_out = rows_out ? rows : items, at = rows_out ? from : item < 0 ? 0 : item;
        struct net n = net_begin(false);
        struct nn_seq s = packed(&n.m, rows, items, WIDTH, LONGEST);
        val out = f(&n.m, &s, variant);
        val loss = ad_sum_all(n.m.g, ad_mul(n.m.g, out, ad_input(n.m.g, "w", AD_F32, SHAPE(n_out, WIDTH)))), grad = 0;
        ad_grad(n.m.g, &loss, NULL, 1, &s.x, 1, &grad);
        ad_output(n.m.g, "y", out);
        ad_output(n.m.g, "dx", grad);
        net_plan(&n, 0);
        net_fill(&n, 0.4);
        ad_bind(n.p, "x", x + from * WIDTH);
        ad_bind(n.p, "w", w + at * WIDTH);
        ad_bind(n.p, "offsets", item < 0 ? offsets : (int32_t[]){0, lengths[item]});
        net_run(&n, 0, 0);
        const float *got = net_out(&n, "y"), *got_dx = net_out(&n, "dx");
        if (item < 0) {
            memcpy(y, got, sizeof(float) * (size_t)(n_out * WIDTH));
            memcpy(dx, got_dx, sizeof dx);
        } else {
            assert_close(got, y + at * WIDTH, n_out * WIDTH, F32_TOL);
            assert_close(got_dx, dx + from * WIDTH, rows * WIDTH, F32_TOL);
        }
        net_end(&n);
    }
    free(x);
    free(w);
}

static val emit_block(struct nn *m, const struct nn_seq *s, int variant)
{
    struct nn_block b = {.heads = 2, .mlp_ratio = 2, .activation = NN_GELU, .bias = true, .eps = 1e-5, .layers = 2};
    b.causal = variant & 1;
    b.post_norm = variant & 2;
    b.gated = variant & 4;
    b.norm = variant & 8 ? NN_RMS_NORM : NN_LAYER_NORM;
    b.layer_scale = variant & 16 ? 0.3 : 0;
    b.position = variant & 32 ? NN_POS_ROTARY : variant & 64 ? NN_POS_RELATIVE : NN_POS_NONE;
    if (b.position == NN_POS_RELATIVE) b.relative = nn_relative_bias(m, "relative", s->longest, 2, b.causal);
    return nn_transformer_block(m, "block", s, &b);
}

static void blocks_see_their_item_alone(void **state)
{
    static const int variants[] = {0, 1, 2, 4, 9, 16, 32, 33, 64, 65, 1 + 2 + 4 + 8 + 16 + 32};
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) check_alone(emit_block, variants[i], true);
}

static val emit_pool(struct nn *m, const struct nn_seq *s, int variant)
{
    return nn_pool(m, "pool", (enum nn_pool)variant, s, 2);
}

static void pools_see_their_item_alone(void **state)
{
    for (int kind = NN_POOL_MEAN; kind <= NN_POOL_ATTENTION; kind++) check_alone(emit_pool, kind, false);
}

/* Softmax attention in double, from the parameters, for one head at a time. */
static void attention_is_the_formula(void **state)
{
    enum { N = 6, HEADS = 2, DIM = WIDTH / HEADS };
    for (int causal = 0; causal < 2; causal++) {
        struct net n = net_begin(false);
        struct nn_seq s = packed(&n.m, N, 1, WIDTH, N);
        struct nn_block b = {.heads = HEADS, .bias = true, .causal = causal};
        ad_output(n.m.g, "y", nn_attention(&n.m, "attention", &s, &b));
        net_plan(&n, 0);
        net_fill(&n, 0.5);
        float *x = numbers(N * WIDTH, "x");
        ad_bind(n.p, "x", x);
        ad_bind(n.p, "offsets", (int32_t[]){0, N});
        net_run(&n, 0, 0);
        const float *w = net_param(&n, "attention.qkv.weight"), *wb = net_param(&n, "attention.qkv.bias");
        const float *o = net_param(&n, "attention.out.weight"), *ob = net_param(&n, "attention.out.bias");
        double qkv[N][3 * WIDTH], mixed[N][WIDTH];
        for (int i = 0; i < N; i++)
            for (int c = 0; c < 3 * WIDTH; c++) {
                qkv[i][c] = wb[c];
                for (int k = 0; k < WIDTH; k++) qkv[i][c] += (double)x[i * WIDTH + k] * w[k * 3 * WIDTH + c];
            }
        for (int i = 0; i < N; i++)
            for (int h = 0; h < HEADS; h++) {
                double p[N], sum = 0;
                for (int j = 0; j < N; j++) {
                    double dot = 0;
                    for (int d = 0; d < DIM; d++) dot += qkv[i][h * DIM + d] * qkv[j][WIDTH + h * DIM + d];
                    p[j] = causal && j > i ? 0 : exp(dot / sqrt(DIM));
                    sum += p[j];
                }
                for (int d = 0; d < DIM; d++) {
                    mixed[i][h * DIM + d] = 0;
                    for (int j = 0; j < N; j++) mixed[i][h * DIM + d] += p[j] / sum * qkv[j][2 * WIDTH + h * DIM + d];
                }
            }
        double want[N * WIDTH];
        for (int i = 0; i < N; i++)
            for (int c = 0; c < WIDTH; c++) {
                want[i * WIDTH + c] = ob[c];
                for (int k = 0; k < WIDTH; k++) want[i * WIDTH + c] += mixed[i][k] * o[k * WIDTH + c];
            }
        assert_close(net_out(&n, "y"), want, N * WIDTH, F32_TOL);
        free(x);
        net_end(&n);
    }
}

static void pools_of_known_numbers(void **state)
{
    struct net n = net_begin(false);
    struct nn_seq s = packed(&n.m, 5, 3, 2, 3);
    ad_output(n.m.g, "mean", nn_pool(&n.m, "pool", NN_POOL_MEAN, &s, 1));
    ad_output(n.m.g, "first", nn_pool(&n.m, "pool", NN_POOL_FIRST, &s, 1));
    ad_output(n.m.g, "last", nn_pool(&n.m, "pool", NN_POOL_LAST, &s, 1));
    ad_output(n.m.g, "attention", nn_pool(&n.m, "pool", NN_POOL_ATTENTION, &s, 1));
    net_plan(&n, 0);
    ad_bind(n.p, "x", (float[]){1, 2, 3, 4, 5, 9, 7, 8, 99, 99});
    ad_bind(n.p, "offsets", (int32_t[]){0, 3, 3, 4}); /* 3 rows, none, 1 row; padding 99 */
    net_run(&n, 0, 0);
    assert_close(net_out(&n, "mean"), ((float[]){3, 5, 0, 0, 7, 8}), 6, 1e-6);
    assert_close(net_out(&n, "first"), ((float[]){1, 2, 0, 0, 7, 8}), 6, 0);
    assert_close(net_out(&n, "last"), ((float[]){5, 9, 0, 0, 7, 8}), 6, 0);
    /* An empty item attends to nothing: the output's bias alone, which starts at 0. */
    assert_close(net_out(&n, "attention") + 2, ((float[]){0, 0}), 2, 0);
    net_end(&n);
}

/* ---- convolution ------------------------------------------------------------------------------------------------- */

/* Against plain loops over each item, zero outside of it. */
static void conv1d_packed_stays_in_its_item(void **state)
{
    static const struct nn_conv sizes[] = {
        {.out = 3, .kernel = 3, .stride = 1, .pad = -1, .bias = true},
        {.out = 3, .kernel = 3, .stride = 2, .pad = -1},
        {.out = 2, .kernel = 5, .stride = 4, .pad = -1, .bias = true},
        {.out = 2, .kernel = 4, .stride = 2, .pad = 0},
        {.out = 1, .kernel = 1, .stride = 1, .pad = 0},
        {.out = 2, .kernel = 2, .stride = 4, .pad = 3},
        {.out = 2, .kernel = 7, .stride = 1, .pad = 0},
    };
    enum { C = 3, N = 22 };
    static const int32_t offsets[] = {0, 9, 9, 10, 14, 21}; /* lengths 9, 0, 1, 4, 7; one row of padding */
    float *x = numbers(N * C, "x");
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        struct nn_conv c = sizes[k];
        struct net n = net_begin(false);
        struct nn_seq s = packed(&n.m, N, 5, C, 9), t = nn_conv1d_packed(&n.m, "conv", &s, c);
        ad_output(n.m.g, "y", t.x);
        ad_output(n.m.g, "offsets", t.offsets);
        net_plan(&n, 0);
        net_fill(&n, 1);
        ad_bind(n.p, "x", x);
        ad_bind(n.p, "offsets", offsets);
        net_run(&n, 0, 0);
        const float *y = net_out(&n, "y"), *w = net_param(&n, "conv.weight");
        const int32_t *to = ad_result(n.p, "offsets", NULL);
        int pad = c.pad < 0 ? c.kernel / 2 : c.pad, at = 0;
        assert_int_equal(to[0], 0);
        for (int item = 0; item < 5; item++) {
            int len = offsets[item + 1] - offsets[item], room = len + 2 * pad - c.kernel;
            int want = len > 0 && room >= 0 ? room / c.stride + 1 : 0;
            assert_int_equal(to[item + 1] - to[item], want);
            assert_true(want <= t.longest);
            for (int i = 0; i < want; i++, at++)
                for (int o = 0; o < c.out; o++) {
                    double sum = c.bias ? net_param(&n, "conv.bias")[o] : 0;
                    for (int j = 0; j < c.kernel; j++)
                        for (int ch = 0; ch < C; ch++) {
                            int row = i * c.stride + j - pad;
                            if (row >= 0 && row < len)
                                sum += (double)x[(offsets[item] + row) * C + ch] * w[(j * C + ch) * c.out + o];
                        }
                    assert_close(y + at * c.out + o, &sum, 1, F32_TOL);
                }
        }
        assert_true(at <= t.rows);
        net_end(&n);
    }
    free(x);
}

/* Room for every split of `rows` into items, and no more than a row an item above the fullest. */
static void conv1d_packed_rows_are_bounded(void **state)
{
    for (int kernel = 1; kernel <= 5; kernel++)
        for (int stride = 1; stride <= 4; stride++)
            for (int pad = 0; pad <= 3; pad++)
                for (int rows = 1; rows <= 12; rows++) {
                    enum { ITEMS = 3 };
                    struct net n = net_begin(false);
                    struct nn_seq s = packed(&n.m, rows, ITEMS, 1, rows);
                    struct nn_conv c = {.out = 1, .kernel = kernel, .stride = stride, .pad = pad};
                    struct nn_seq t = nn_conv1d_packed(&n.m, "conv", &s, c);
                    int most = 0;
                    for (int a = 0; a <= rows; a++)
                        for (int b = 0; a + b <= rows; b++) {
                            int sum = 0, len[ITEMS] = {a, b, rows - a - b};
                            for (int i = 0; i < ITEMS; i++)
                                if (len[i] > 0 && len[i] + 2 * pad >= kernel)
                                    sum += (len[i] + 2 * pad - kernel) / stride + 1;
                            if (sum > most) most = sum;
                        }
                    if (t.rows < most || (2 * pad + 1 >= kernel && t.rows > most + ITEMS))
                        fail_msg("kernel %d, stride %d, pad %d, %d rows: %lld rows for at most %d", kernel, stride, pad,
                                 rows, (long long)t.rows, most);
                    net_end(&n);
                }
}

/* Patches are a convolution whose stride is its kernel; both layers lay out their weights alike. */
static void patches_are_a_strided_convolution(void **state)
{
    enum { B = 2, H = 6, W = 9, C = 3, P = 3, D = 4, N = B * (H / P) * (W / P) * D };
    float *x = numbers(B * H * W * C, "x"), y[N];
    for (int conv = 0; conv < 2; conv++) {
        struct net n = net_begin(false);
        val image = ad_input(n.m.g, "x", AD_F32, SHAPE(B, H, W, C));
        struct nn_conv c = {.out = D, .kernel = P, .stride = P, .pad = 0, .bias = true};
        ad_output(n.m.g, "y",
                  conv ? nn_conv2d(&n.m, "patch", image, c) : nn_patch_embed(&n.m, "patch", image, P, D, true));
        net_plan(&n, 0);
        net_fill(&n, 1);
        ad_bind(n.p, "x", x);
        net_run(&n, 0, 0);
        if (conv)
            assert_close(net_out(&n, "y"), y, N, F32_TOL);
        else
            memcpy(y, net_out(&n, "y"), sizeof y);
        net_end(&n);
    }
    free(x);
}

/* ---- norms ------------------------------------------------------------------------------------------------------- */

static void batch_norm_follows_the_batches(void **state)
{
    enum { N = 12, C = 3 };
    float *x = numbers(N * C, "x"), mean[C] = {0}, var[C] = {1, 1, 1};
    struct net n = net_begin(true);
    val in = ad_input(n.m.g, "x", AD_F32, SHAPE(3, 2, 2, C));
    ad_output(n.m.g, "y", nn_batch_norm(&n.m, "norm", in, 0.3, 1e-3, false));
    net_plan(&n, 0);
    ad_bind(n.p, "x", x);
    double m[C], v[C];
    for (int c = 0; c < C; c++) {
        m[c] = v[c] = 0;
        for (int i = 0; i < N; i++) m[c] += x[i * C + c] / (double)N;
        for (int i = 0; i < N; i++) v[c] += (x[i * C + c] - m[c]) * (x[i * C + c] - m[c]) / N;
    }
    for (int step = 0; step < 3; step++) {
        net_run(&n, 0, 0);
        double want[N * C];
        for (int i = 0; i < N * C; i++) want[i] = (x[i] - m[i % C]) / sqrt(v[i % C] + 1e-3);
        assert_close(net_out(&n, "y"), want, N * C, F32_TOL);
        for (int c = 0; c < C; c++) {
            mean[c] = (float)(0.7 * mean[c] + 0.3 * m[c]);
            var[c] = (float)(0.7 * var[c] + 0.3 * v[c] * N / (N - 1)); /* unbiased */
        }
        assert_close(net_param(&n, "norm.running_mean"), mean, C, 1e-6);
        assert_close(net_param(&n, "norm.running_var"), var, C, 1e-6);
    }
    /* An evaluation graph over the same store uses them, and changes nothing. */
    struct net e = {.m = {.g = ad_graph_new(), .store = n.m.store}};
    in = ad_input(e.m.g, "x", AD_F32, SHAPE(3, 2, 2, C));
    ad_output(e.m.g, "y", nn_batch_norm(&e.m, "norm", in, 0.3, 1e-3, false));
    net_plan(&e, 0);
    ad_bind(e.p, "x", x);
    net_run(&e, 0, 0);
    double want[N * C];
    for (int i = 0; i < N * C; i++) want[i] = (x[i] - mean[i % C]) / sqrt(var[i % C] + 1e-3);
    assert_close(net_out(&e, "y"), want, N * C, F32_TOL);
    assert_close(net_param(&e, "norm.running_mean"), mean, C, 1e-6);
    e.m.store = NULL;
    net_end(&e);
    net_end(&n);
    free(x);
}

/* ---- errors ------------------------------------------------------------------------------------------------------ */

/* Each slice along the axis has its gain's length and its direction's direction, whatever the direction's length. */
static void weight_norm_parts_length_and_direction(void **state)
{
    enum { A = 2, K = 3, C = 5 };
    struct net n = net_begin(false);
    ad_output(n.m.g, "w", nn_weight_norm(&n.m, "w", SHAPE(A, K, C), 1, 0.25));
    net_plan(&n, 0);
    float *v = net_param(&n, "w.direction"), *gain = net_param(&n, "w.gain");
    for (int k = 0; k < K; k++) assert_true(fabs(gain[k] - 0.25 * sqrt(A * C)) < 1e-6);
    for (int k = 0; k < K; k++) gain[k] = (float)(k - 1.5); /* a negative one turns the direction round */
    net_run(&n, 0, 0);
    const float *w = net_out(&n, "w");
    for (int k = 0; k < K; k++) {
        double length = 0;
        for (int i = 0; i < A * C; i++) length += pow(v[(i / C * K + k) * C + i % C], 2);
        for (int i = 0; i < A * C; i++) {
            int at = (i / C * K + k) * C + i % C;
            assert_close(w + at, &(double){v[at] * gain[k] / sqrt(length)}, 1, 1e-6);
        }
    }
    net_end(&n);
}

/* ---- convolutions of whole batches ------------------------------------------------------------------------------- */

static void conv1d_is_the_loop(void **state)
{
    enum { B = 2, T = 7, C = 4, F = 6, K = 3, GROUPS = 2, STRIDE = 2, PAD = 1, TO = 4 };
    struct net n = net_begin(false);
    val x = ad_input(n.m.g, "x", AD_F32, SHAPE(B, T, C));
    val y =
        nn_conv1d(&n.m, "conv", x,
                  (struct nn_conv){.out = F, .kernel = K, .stride = STRIDE, .pad = -1, .groups = GROUPS, .bias = true});
    assert_true(ad_same_shape(ad_shape_of(n.m.g, y), SHAPE(B, TO, F)));
    ad_output(n.m.g, "y", y);
    net_plan(&n, 0);
    net_fill(&n, 1);
    float *in = numbers(B * T * C, "in"), *w = net_param(&n, "conv.weight"), *bias = net_param(&n, "conv.bias");
    ad_bind(n.p, "x", in);
    net_run(&n, 0, 0);
    double want[B * TO * F];
    for (int i = 0; i < B * TO * F; i++) {
        int f = i % F, t = i / F % TO, b = i / F / TO;
        want[i] = bias[f];
        for (int k = 0; k < K; k++)
            for (int c = 0; c < C / GROUPS; c++) {
                int at = t * STRIDE + k - PAD, from = f / (F / GROUPS) * (C / GROUPS) + c;
                if (at >= 0 && at < T) want[i] += (double)in[(b * T + at) * C + from] * w[(k * C / GROUPS + c) * F + f];
            }
    }
    assert_close(net_out(&n, "y"), want, B * TO * F, F32_TOL);
    free(in);
    net_end(&n);
}

static void squeeze_excite(void **state)
{
    struct net n = net_begin(false);
    val x = ad_input(n.m.g, "x", AD_F32, SHAPE(1, 1, 2, 2));
    ad_output(n.m.g, "y", nn_squeeze_excite(&n.m, "se", x, 1, NN_RELU));
    net_plan(&n, 0);
    memcpy(net_param(&n, "se.squeeze.weight"), (float[]){1, 2}, 2 * sizeof(float));
    memcpy(net_param(&n, "se.excite.weight"), (float[]){1, -1}, 2 * sizeof(float));
    ad_bind(n.p, "x", (float[]){1, 0, 3, 1});
    net_run(&n, 0, 0); /* means 2 and 1/2; 2 + 1 = 3 units; weights sigmoid(3) and sigmoid(-3) */
    double a = 1 / (1 + exp(-3.0));
    assert_close(net_out(&n, "y"), ((double[]){a, 0, 3 * a, 1 - a}), 4, 1e-6);
    net_end(&n);
}

static void errors_name_the_layer(void **state)
{
    struct err e = {0};
    struct net n = net_begin(false);
    struct nn_seq s = packed(&n.m, 4, 1, 6, 4);
    struct nn_block b = {.heads = 4, .mlp_ratio = 2, .bias = true, .eps = 1e-5};
    ad_push(n.m.g, "text");
    val y = nn_transformer_block(&n.m, "block", &s, &b);
    assert_int_equal(nn_linear(&n.m, "head", y, 3, true, 0), 0); /* poison goes on quietly */
    ad_pop(n.m.g);
    assert_int_equal(nn_status(&n.m, &e), ERR_SHAPE);
    assert_string_equal(e.msg, "text.block.attention: width 6 is not a multiple of 4 heads");
    net_end(&n);
    err_clear(&e);
    n = net_begin(false);
    s = packed(&n.m, 4, 1, 6, 4);
    assert_int_equal(nn_rotary(&n.m, &s, s.x, 0, 10000), 0);
    assert_int_equal(nn_status(&n.m, &e), ERR_SHAPE);
    net_end(&n);
    err_clear(&e);
    n = net_begin(false);
    val x = ad_input(n.m.g, "x", AD_F32, SHAPE(2, 3));
    nn_linear(&n.m, "a", x, 4, true, 0);
    nn_linear(&n.m, "a", x, 5, true, 0);
    assert_int_equal(nn_status(&n.m, &e), ERR_SHAPE);
    assert_non_null(strstr(e.msg, "'a.weight' is (3, 4) f32 and is now declared as (3, 5) f32"));
    net_end(&n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rotary_products_depend_on_distance),
        cmocka_unit_test(rotary_counts_within_the_item),
        cmocka_unit_test(relative_buckets_are_those_of_t5),
        cmocka_unit_test(sinusoids),
        cmocka_unit_test(drop_path_takes_whole_items),
        cmocka_unit_test(blocks_see_their_item_alone),
        cmocka_unit_test(pools_see_their_item_alone),
        cmocka_unit_test(attention_is_the_formula),
        cmocka_unit_test(pools_of_known_numbers),
        cmocka_unit_test(conv1d_packed_stays_in_its_item),
        cmocka_unit_test(conv1d_packed_rows_are_bounded),
        cmocka_unit_test(patches_are_a_strided_convolution),
        cmocka_unit_test(batch_norm_follows_the_batches),
        cmocka_unit_test(weight_norm_parts_length_and_direction),
        cmocka_unit_test(conv1d_is_the_loop),
        cmocka_unit_test(squeeze_excite),
        cmocka_unit_test(errors_name_the_layer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
