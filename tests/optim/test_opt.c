/* Optimizers against their papers' lines in double, the schedule's values, groups, clipping, averages; and that no
 * result depends on the thread count or on the order in which parameters were declared. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/isa.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/threads.h"
#include "optim/opt.h"
#include "tests/support/count_malloc.h"

enum { W = 40 };
static const struct ad_init normal = {AD_INIT_NORMAL, 1};

/* "a.weight" (40), "a.bias" (3, no decay), "state" (2, not trained), "b.weight" (5, 2) */
static struct ad_store *small_store(void)
{
    struct ad_store *s = ad_store_new(9);
    struct err e = {0};
    CHECK(!ad_store_declare(s, "a.weight", AD_F32, SHAPE(W), normal, 0, &e));
    CHECK(!ad_store_declare(s, "a.bias", AD_F32, SHAPE(3), normal, AD_NO_DECAY, &e));
    CHECK(!ad_store_declare(s, "state", AD_F32, SHAPE(2), normal, AD_STATE, &e));
    CHECK(!ad_store_declare(s, "b.weight", AD_F32, SHAPE(5, 2), normal, 0, &e));
    CHECK(!ad_store_commit(s, &e));
    return s;
}

static float *gradient(const struct ad_store *s, uint64_t step)
{
    float *g = mem_zero((size_t)ad_store_flat_count(s), sizeof *g);
    for (int i = 0; i < ad_store_count(s); i++) {
        const struct ad_entry *p = ad_store_at(s, i);
        struct rng r = rng_make(4, hash_str(p->name), step);
        for (int64_t k = 0; !(p->flags & AD_STATE) && k < p->count; k++) g[p->offset + k] = (float)rng_normal(&r);
    }
    return g;
}

static float *data(const struct ad_store *s, const char *name)
{
    return ad_store_find(s, name)->data;
}

static void close_to(double got, double want)
{
    if (!(fabs(got - want) <= 2e-6 * fmax(1, fabs(want)))) fail_msg("%.9g is not %.9g", got, want); /* a few f32 ulps */
}

/* One parameter in double. */
struct ref {
    double w, m, v, avg;
};

static void adamw(struct ref *r, double g, double lr, double decay, int t)
{
    r->m = 0.9 * r->m + 0.1 * g;
    r->v = 0.98 * r->v + 0.02 * g * g;
    r->w -= lr * decay * r->w;
    r->w -= lr * r->m / (1 - pow(0.9, t)) / (sqrt(r->v / (1 - pow(0.98, t))) + 1e-6);
}

static const struct opt_config adam = {
    .kind = OPT_ADAMW, .lr = 0.1, .beta1 = 0.9, .beta2 = 0.98, .eps = 1e-6, .weight_decay = 0.2};

/* Loshchilov & Hutter 2019, alg. 2 with groups: factors of their own, frozen ones, no decay of flagged ones ever. */
static void adamw_with_groups(void **state)
{
    struct ad_store *s = small_store();
    struct err e = {0};
    struct opt_group groups[] = {{"b.*", 0.5, 0.4}, {"a.bias", 2, 0.4}};
    struct opt_config c = adam;
    c.group = groups;
    c.n_group = 2;
    c.ema = 0.9;
    struct opt *o = opt_new(&c, s, &e);
    assert_non_null(o);
    struct ref a[W], bias[3], b[10];
    for (int i = 0; i < W; i++) a[i] = (struct ref){.w = data(s, "a.weight")[i], .avg = data(s, "a.weight")[i]};
    for (int i = 0; i < 3; i++) bias[i] = (struct ref){.w = data(s, "a.bias")[i]};
    for (int i = 0; i < 10; i++) b[i] = (struct ref){.w = data(s, "b.weight")[i]};
    float kept[2];
    memcpy(kept, data(s, "state"), sizeof kept);
    for (int t = 1; t <= 5; t++) {
        float *g = gradient(s, (uint64_t)t);
        opt_step(o, g, opt_norm(g, ad_store_flat_count(s)), 0.1);
        int64_t at = ad_store_find(s, "a.bias")->offset, bt = ad_store_find(s, "b.weight")->offset;
        for (int i = 0; i < W; i++) {
            adamw(&a[i], g[i], 0.1, 0.2, t);
            a[i].avg = 0.9 * a[i].avg + 0.1 * a[i].w;
        }
        for (int i = 0; i < 3; i++) adamw(&bias[i], g[at + i], 0.2, 0, t);
        for (int i = 0; i < 10; i++) adamw(&b[i], g[bt + i], 0.05, 0.4, t);
        free(g);
    }
    for (int i = 0; i < W; i++) close_to(data(s, "a.weight")[i], a[i].w), close_to(opt_ema(o)[i], a[i].avg);
    for (int i = 0; i < 3; i++) close_to(data(s, "a.bias")[i], bias[i].w);
    for (int i = 0; i < 10; i++) close_to(data(s, "b.weight")[i], b[i].w);
    assert_memory_equal(kept, data(s, "state"), sizeof kept);
    for (int64_t i = W; i < ad_store_find(s, "a.bias")->offset; i++) assert_true(ad_store_flat(s)[i] == 0); /* gaps */
    assert_int_equal(opt_steps(o), 5);
    assert_int_equal(opt_state_count(o), 9); /* m, v and average of three */
    opt_free(o);
    ad_store_free(s);
}

static void frozen_parameters_do_not_move(void **state)
{
    for (int kind = 0; opt_kind_names[kind]; kind++) {
        struct ad_store *s = small_store();
        struct err e = {0};
        struct opt_config c = adam;
        c.kind = (enum opt_kind)kind;
        c.momentum = 0.9;
        c.trust = 0.01;
        c.group = &(struct opt_group){"a.*", 0, -1};
        c.n_group = 1;
        struct opt *o = opt_new(&c, s, &e);
        float a[W], bias[3], b[10];
        memcpy(a, data(s, "a.weight"), sizeof a);
        memcpy(bias, data(s, "a.bias"), sizeof bias);
        memcpy(b, data(s, "b.weight"), sizeof b);
        float *g = gradient(s, 1);
        for (int t = 0; t < 3; t++) opt_step(o, g, 0, 0.1);
        assert_memory_equal(a, data(s, "a.weight"), sizeof a);
        assert_memory_equal(bias, data(s, "a.bias"), sizeof bias);
        assert_memory_not_equal(b, data(s, "b.weight"), sizeof b);
        free(g);
        opt_free(o);
        ad_store_free(s);
    }
}

static void a_pattern_without_parameters_is_an_error(void **state)
{
    struct ad_store *s = small_store();
    static const char *const wrong[] = {"c.*", "a", "state"}; /* state is not trained */
    for (int i = 0; i < 3; i++) {
        struct err e = {0};
        struct opt_config c = adam;
        struct opt_group groups[] = {{"a.*", 1, -1}, {wrong[i], 1, -1}};
        c.group = groups;
        c.n_group = 2;
        assert_null(opt_new(&c, s, &e));
        assert_int_equal(e.code, ERR_CONFIG);
        assert_non_null(strstr(e.msg, wrong[i]));
    }
    struct err e = {0};
    struct opt_config c = adam;
    struct opt_group groups[] = {{"*", 1, -1}, {"a.*", 0, -1}}; /* the first takes all */
    c.group = groups;
    c.n_group = 2;
    assert_null(opt_new(&c, s, &e));
    assert_non_null(strstr(e.msg, "a.*"));
    ad_store_free(s);
}

/* torch.optim.SGD's lines: v = momentum v + g + decay w; w -= lr (nesterov ? g + momentum v : v). */
static void sgd(void **state)
{
    for (int variant = 0; variant < 3; variant++) {
        struct ad_store *s = small_store();
        struct err e = {0};
        struct opt_config c = {.kind = OPT_SGD, .weight_decay = 0.1, .momentum = variant ? 0.8 : 0};
        c.nesterov = variant == 2;
        struct opt *o = opt_new(&c, s, &e);
        assert_int_equal(opt_state_count(o), variant ? 3 : 0);
        struct ref a[W];
        for (int i = 0; i < W; i++) a[i] = (struct ref){.w = data(s, "a.weight")[i]};
        for (int t = 0; t < 4; t++) {
            float *g = gradient(s, (uint64_t)t);
            opt_step(o, g, 0, 0.05);
            for (int i = 0; i < W; i++) {
                double x = g[i] + 0.1 * a[i].w;
                a[i].m = c.momentum * a[i].m + x;
                a[i].w -= 0.05 * (variant == 2 ? x + 0.8 * a[i].m : a[i].m);
            }
            free(g);
        }
        for (int i = 0; i < W; i++) close_to(data(s, "a.weight")[i], a[i].w);
        opt_free(o);
        ad_store_free(s);
    }
}

/* SGD moves by the gradient itself, so what clipping leaves of it is seen. */
static void clipping_scales_the_whole_gradient(void **state)
{
    static const double clips[] = {0, 1, 1000};
    for (int i = 0; i < 3; i++) {
        struct ad_store *s = small_store();
        struct err e = {0};
        struct opt_config c = {.kind = OPT_SGD, .clip = clips[i]};
        struct opt *o = opt_new(&c, s, &e);
        int64_t n = ad_store_flat_count(s);
        float *g = gradient(s, 1), *before = mem_alloc((size_t)n * sizeof *before);
        memcpy(before, ad_store_flat(s), (size_t)n * sizeof *before);
        double norm = 0;
        for (int64_t k = 0; k < n; k++) norm += (double)g[k] * g[k];
        norm = sqrt(norm);
        assert_true(fabs(opt_norm(g, n) - norm) < 1e-12 * norm);
        opt_step(o, g, opt_norm(g, n), 1);
        for (int64_t k = 0; k < n; k++)
            close_to(ad_store_flat(s)[k], before[k] - g[k] * (clips[i] == 1 ? 1 / norm : 1));
        free(before);
        free(g);
        opt_free(o);
        ad_store_free(s);
    }
    assert_true(isnan(opt_norm((float[]){1, NAN}, 2)));
    assert_true(isinf(opt_norm((float[]){1, -INFINITY}, 2)));
    assert_true(opt_norm(NULL, 0) == 0);
}

static void schedule(void **state)
{
    static const struct {
        enum opt_decay decay;
        double floor;
        int64_t step;
        double progress, want;
    } rows[] = {
        {OPT_CONSTANT, 0, 0, 0, 0.2},
        {OPT_CONSTANT, 0, 1, 0, 0.4},
        {OPT_CONSTANT, 0, 9, 0, 2},
        {OPT_CONSTANT, 0, 10, 1, 2},
        {OPT_COSINE, 0, 100, 0, 2},
        {OPT_COSINE, 0, 100, 0.5, 1},
        {OPT_COSINE, 0, 100, 0.25, 1 + M_SQRT1_2},
        {OPT_COSINE, 0, 100, 1, 0},
        {OPT_COSINE, 0.1, 100, 1, 0.2},
        {OPT_COSINE, 0.1, 100, 0.5, 1.1},
        {OPT_LINEAR, 0, 100, 0.25, 1.5},
        {OPT_LINEAR, 0.5, 100, 1, 1},
        {OPT_LINEAR, 0, 4, 0.5, 0.5},
        {OPT_COSINE, 0.1, 100, 7, 0.2},
        {OPT_LINEAR, 0, 100, -1, 2},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct opt_config c = {.lr = 2, .warmup = 10, .decay = rows[i].decay, .floor = rows[i].floor};
        double got = opt_lr(&c, rows[i].step, rows[i].progress);
        if (!(fabs(got - rows[i].want) < 1e-12)) fail_msg("row %zu: %.15g is not %.15g", i, got, rows[i].want);
    }
    struct opt_config c = {.lr = 2, .decay = OPT_CONSTANT};
    assert_true(opt_lr(&c, 0, 0) == 2); /* no warm-up */
}

/* Bit for bit, on sizes that are cut into many blocks. */
static void results_do_not_depend_on_threads(void **state)
{
    enum { N = 300001 };
    float *first = NULL;
    double norm = 0;
    for (int threads = 1; threads <= 3; threads++) {
        threads_init(threads);
        struct ad_store *s = ad_store_new(1);
        struct err e = {0};
        assert_int_equal(ad_store_declare(s, "w", AD_F32, SHAPE(N), normal, 0, &e), 0);
        assert_int_equal(ad_store_declare(s, "v", AD_F32, SHAPE(777), normal, AD_NO_DECAY, &e), 0);
        assert_int_equal(ad_store_commit(s, &e), 0);
        struct opt_config c = adam;
        c.clip = 1;
        c.ema = 0.99;
        struct opt *o = opt_new(&c, s, &e);
        int64_t n = ad_store_flat_count(s);
        for (int t = 0; t < 2; t++) {
            float *g = gradient(s, (uint64_t)t);
            double x = opt_norm(g, n);
            if (threads == 1 && t == 0) norm = x;
            if (t == 0) assert_true(x == norm);
            opt_step(o, g, x, 0.1);
            free(g);
        }
        if (!first) {
            first = mem_alloc(2 * (size_t)n * sizeof *first);
            memcpy(first, ad_store_flat(s), (size_t)n * sizeof *first);
            memcpy(first + n, opt_ema(o), (size_t)n * sizeof *first);
        }
        assert_memory_equal(first, ad_store_flat(s), (size_t)n * sizeof *first);
        assert_memory_equal(first + n, opt_ema(o), (size_t)n * sizeof *first);
        opt_free(o);
        ad_store_free(s);
    }
    free(first);
    threads_init(0);
}

/* Also with more parameters than 256 blocks of the smallest size hold. */
static void steps_allocate_nothing(void **state)
{
    enum { N = 5000000 };
    struct ad_store *s = ad_store_new(1);
    struct err e = {0};
    assert_int_equal(ad_store_declare(s, "w", AD_F32, SHAPE(N), (struct ad_init){AD_INIT_ONE, 0}, 0, &e), 0);
    assert_int_equal(ad_store_commit(s, &e), 0);
    struct opt *o = opt_new(&adam, s, &e);
    float *g = mem_alloc(N * sizeof *g);
    for (int i = 0; i < N; i++) g[i] = 0.5f;
    opt_step(o, g, opt_norm(g, N), 0.1); /* threads start here */
    long before = allocations;
    int64_t faults = process_page_faults();
    for (int i = 0; i < 3; i++) opt_step(o, g, opt_norm(g, N), 0.1);
    assert_int_equal(allocations, before);
    assert_true(process_page_faults() - faults < 16); /* a stack may still grow by a page */
    assert_true(fabs(opt_norm(g, N) - sqrt(0.25 * N)) < 1e-9);
    free(g);
    opt_free(o);
    ad_store_free(s);
}

/* A start value is a function of seed, name and element. */
static void start_values_do_not_depend_on_order(void **state)
{
    static const char *const names[] = {"image.a", "image.b", "text.a"};
    static const enum ad_init_kind kinds[] = {AD_INIT_NORMAL, AD_INIT_TRUNC_NORMAL, AD_INIT_UNIFORM};
    float kept[3][50];
    for (int order = 0; order < 3; order++) {
        struct ad_store *s = ad_store_new(11);
        struct err e = {0};
        if (order == 2) assert_int_equal(ad_store_declare(s, "extra", AD_F32, SHAPE(9), normal, 0, &e), 0);
        for (int i = 0; i < 3; i++) {
            int k = order ? 2 - i : i;
            struct ad_init init = {kinds[k], 0.5};
            assert_int_equal(ad_store_declare(s, names[k], AD_F32, SHAPE(50), init, k == 1 ? AD_STATE : 0, &e), 0);
        }
        assert_int_equal(ad_store_commit(s, &e), 0);
        for (int k = 0; k < 3; k++) {
            assert_int_equal((uintptr_t)data(s, names[k]) % 64, 0);
            if (order == 0)
                memcpy(kept[k], data(s, names[k]), sizeof kept[k]);
            else
                assert_memory_equal(kept[k], data(s, names[k]), sizeof kept[k]);
        }
        ad_store_free(s);
    }
    assert_memory_not_equal(kept[0], kept[2], sizeof kept[0]);
    for (int i = 0; i < 50; i++) assert_true(fabsf(kept[1][i]) <= 1 && fabsf(kept[2][i]) <= 0.5f);
}

/* Number i of `key` by its definition (autograd/kernels/start.c), in double: even ones take the cosine. */
static double normal_at(uint64_t key, int64_t i)
{
    uint32_t w[4];
    rng_philox(key, 0, (uint64_t)i / 4, w);
    int h = (int)(i % 4 / 2);
    double r = sqrt(-2 * log((double)((w[2 * h] >> 8) + 1) / 16777216));
    double turn = 2 * acos(-1) * (double)(w[2 * h + 1] >> 8) / 16777216;
    return r * (i % 2 ? sin(turn) : cos(turn));
}

/* Float polynomials: the angle's rounding, 4e-7 at most, times r, 5.8 at most, and two ulp of the rest. */
static void start_values_are_as_defined(void **state)
{
    enum { N = 20011, TWICE = 2 }; /* several blocks, the last one not whole */
    float *kept = mem_alloc(N * sizeof *kept);
    uint64_t key = rng_make(11, hash_str("w"), 0).key;
    for (int turn = 0; turn < 6; turn++) {
        isa_use(turn < 3 ? (enum isa)turn : ISA_AVX512);
        threads_init(turn < 3 ? 2 : turn == 3 ? 1 : turn == 4 ? 3 : 7);
        struct ad_store *s = ad_store_new(11);
        struct err e = {0};
        assert_int_equal(ad_store_declare(s, "w", AD_F32, SHAPE(N), (struct ad_init){AD_INIT_NORMAL, TWICE}, 0, &e), 0);
        assert_int_equal(
            ad_store_declare(s, "cut", AD_F32, SHAPE(N), (struct ad_init){AD_INIT_TRUNC_NORMAL, TWICE}, AD_STATE, &e),
            0);
        assert_int_equal(ad_store_commit(s, &e), 0);
        const float *w = data(s, "w"), *cut = data(s, "cut");
        double sum = 0, squares = 0;
        for (int64_t i = 0; i < N; i++) {
            assert_true(fabs(w[i] - TWICE * normal_at(key, i)) < TWICE * 5e-6);
            assert_true(fabsf(cut[i]) <= 2 * TWICE);
            sum += cut[i];
            squares += (double)cut[i] * cut[i];
        }
        /* a normal cut at two deviations has the variance 0.7737; three standard errors of each */
        assert_true(fabs(sum / N) < 3 * TWICE * sqrt(0.7737 / N));
        assert_true(fabs(squares / N / 4 - 0.7737) < 3 * sqrt(2.0 / N));
        if (turn == 2) memcpy(kept, w, N * sizeof *kept);
        if (turn > 2) assert_memory_equal(kept, w, N * sizeof *kept);
        ad_store_free(s);
    }
    threads_init(0);
    free(kept);
}

static void declarations_are_checked(void **state)
{
    struct ad_store *s = small_store();
    struct err e = {0};
    assert_int_equal(ad_store_declare(s, "a.bias", AD_F32, SHAPE(3), normal, AD_NO_DECAY, &e), 0); /* known: fine */
    assert_int_equal(ad_store_declare(s, "a.bias", AD_F32, SHAPE(4), normal, 0, &e), ERR_SHAPE);
    err_clear(&e);
    assert_int_equal(ad_store_declare(s, "late", AD_F32, SHAPE(3), normal, 0, &e), ERR_STATE);
    assert_non_null(strstr(e.msg, "'late'"));
    assert_int_equal(ad_store_trainable(s), W + 3 + 10);
    assert_null(ad_store_find(s, "nobody"));
    ad_store_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(adamw_with_groups),
        cmocka_unit_test(frozen_parameters_do_not_move),
        cmocka_unit_test(a_pattern_without_parameters_is_an_error),
        cmocka_unit_test(sgd),
        cmocka_unit_test(clipping_scales_the_whole_gradient),
        cmocka_unit_test(schedule),
        cmocka_unit_test(results_do_not_depend_on_threads),
        cmocka_unit_test(steps_allocate_nothing),
        cmocka_unit_test(start_values_do_not_depend_on_order),
        cmocka_unit_test(start_values_are_as_defined),
        cmocka_unit_test(declarations_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
