/* Calls in one parallel region: every item once and in its phase, calls that meet one after the other, others side by side;
 * merged or not, the same bits on any number of threads; and what is wrong in data is still found and named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <omp.h>

#include "autograd/region.h"
#include "base/threads.h"
#include "tests/support/net.h"

static const int counts[] = {1, 2, 3, 7};

/* ---- regions of calls that only keep books ------------------------------------------------------------------------ */

enum { ITEMS = 50, CALLS = 4, SPANS = 2 };

/* One call's: how often each item of each phase ran, on which thread the last, and when its phases began and ended. */
struct book {
    struct ad_phase phase[2];
    int n_phase, cuts, ran[2][ITEMS], thread[2];
    int64_t begin[2], end[2];
};

static void keep_book(const struct ad_call *c, int phase, int64_t from, int64_t to)
{
    static int64_t now;
    struct book *b = (struct book *)(uintptr_t)c->attr;
#pragma omp critical(book)
    {
        now++;
        if (!b->begin[phase]) b->begin[phase] = now;
        b->thread[phase] = omp_get_thread_num();
    }
    for (int64_t i = from; i < to; i++) __atomic_fetch_add(&b->ran[phase][i], 1, __ATOMIC_RELAXED);
#pragma omp critical(book)
    b->end[phase] = ++now;
}
static void first_phase(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    CHECK(*(const int *)job == 42);
    keep_book(c, 0, from, to);
}
static void second_phase(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    keep_book(c, 1, from, to);
}

static void cut_book(const struct ad_call *c, int threads, struct ad_parts *p)
{
    struct book *b = (struct book *)(uintptr_t)c->attr;
    b->cuts++;
    p->n = b->n_phase;
    memcpy(p->phase, b->phase, sizeof b->phase);
    *(int *)(void *)p->job = 42;
}
static const struct ad_kernel book_kernel = {.cut = cut_book};

struct library {
    struct book book[CALLS];
    struct ad_call call[CALLS];
    struct region_span span[CALLS][SPANS];
    struct region_call part[CALLS];
    struct region *region;
};

/* n calls of one phase, shared (by parts at once) or alone, that touch nothing; the caller changes what it wants. */
static void library_open(struct library *l, int n, const bool *alone)
{
    memset(l, 0, sizeof *l);
    for (int i = 0; i < n; i++) {
        l->book[i].n_phase = 1;
        l->book[i].phase[0] = (struct ad_phase){.items = ITEMS, .run = first_phase, .alone = alone[i]};
        l->call[i].attr = &l->book[i];
        l->part[i] = (struct region_call){.kernel = &book_kernel, .call = &l->call[i], .span = l->span[i]};
    }
    l->region = region_new(l->part, (size_t)n);
}

static void touch(struct library *l, int call, struct region_span s)
{
    l->span[call][l->part[call].n_span++] = s;
}

static void library_run(struct library *l, int threads)
{
    for (int i = 0; i < CALLS; i++) {
        struct book *b = &l->book[i];
        memset(b->ran, 0, sizeof b->ran);
        memset(b->begin, 0, sizeof b->begin);
    }
    region_run(l->region, threads);
    for (int i = 0; i < CALLS; i++)
        for (int k = 0; k < l->book[i].n_phase; k++)
            for (int j = 0; j < ITEMS; j++)
                if (l->book[i].ran[k][j] != 1)
                    fail_msg("%d threads, call %d, phase %d: item %d ran %d times", threads, i, k, j,
                             l->book[i].ran[k][j]);
}

static void items_run_once_and_phases_in_order(void **state)
{
    struct library l;
    library_open(&l, 3, (bool[]){false, false, false});
    l.book[0].n_phase = 2;
    l.book[0].phase[1] = (struct ad_phase){.items = ITEMS, .run = second_phase, .dynamic = true};
    l.book[1].phase[0].dynamic = true;
    touch(&l, 0, (struct region_span){0, true, 0, 64});
    touch(&l, 1, (struct region_span){0, true, 64, 128});
    touch(&l, 2, (struct region_span){0, false, 0, 128});
    for (int i = 0; i < 4; i++) {
        int cuts = l.book[0].cuts;
        for (int run = 0; run < 3; run++) {
            library_run(&l, counts[i]);
            assert_true(l.book[0].end[0] < l.book[0].begin[1]);
            assert_true(l.book[0].end[1] < l.book[2].begin[0] && l.book[1].end[0] < l.book[2].begin[0]);
        }
        assert_int_equal(l.book[0].cuts, cuts + 1); /* for each number of threads once */
        assert_true(region_forks(l.region) == (counts[i] > 1));
        assert_int_equal(region_barriers(l.region), counts[i] > 1 ? 2 : 0);
    }
    int cuts = l.book[1].cuts;
    l.part[1].known = false; /* a pointer has changed */
    library_run(&l, 7);
    assert_true(l.book[1].cuts == cuts + 1 && l.book[0].cuts == cuts);
    region_free(l.region);
}

/* What a second call touches, and whether it has to wait for the first, which reads bytes 0 .. 63 and writes 64 .. 127. */
static void calls_that_meet_wait(void **state)
{
    static const struct {
        struct region_span second;
        bool waits;
    } all[] = {
        {{0, false, 0, 64}, false},   {{0, false, 64, 65}, true},    {{0, true, 63, 64}, true},
        {{0, true, 127, 200}, true},  {{0, true, 128, 200}, false},  {{1, true, 0, 128}, false},
        {{0, false, 100, 101}, true}, {{0, false, 128, 129}, false},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct library l;
        library_open(&l, 2, (bool[]){false, false});
        touch(&l, 0, (struct region_span){0, false, 0, 64});
        touch(&l, 0, (struct region_span){0, true, 64, 128});
        touch(&l, 1, all[i].second);
        library_run(&l, 3);
        if (region_barriers(l.region) != all[i].waits) fail_msg("case %d", (int)i);
        if (all[i].waits) assert_true(l.book[0].end[0] < l.book[1].begin[0]);
        region_free(l.region);
    }
}

/* Each call reads what the one before wrote. */
static void follow(struct library *l, int n)
{
    for (int i = 0; i < n; i++) {
        if (i) touch(l, i, (struct region_span){0, false, 64 * i - 64, 64 * i});
        touch(l, i, (struct region_span){0, true, 64 * i, 64 * i + 64});
    }
}

static void chains_are_one_threads_work(void **state)
{
    struct library l;
    library_open(&l, 4, (bool[]){true, true, true, true});
    follow(&l, 4);
    library_run(&l, 3);
    assert_false(region_forks(l.region)); /* nothing to share: no region */
    for (int i = 1; i < 4; i++) assert_true(l.book[i - 1].end[0] < l.book[i].begin[0]);
    region_free(l.region);

    library_open(&l, 4, (bool[]){false, true, true, false});
    follow(&l, 4);
    library_run(&l, 3);
    assert_int_equal(region_barriers(l.region), 2); /* around the chain, none in it */
    assert_int_equal(l.book[1].thread[0], l.book[2].thread[0]);
    for (int i = 1; i < 4; i++) assert_true(l.book[i - 1].end[0] < l.book[i].begin[0]);
    region_free(l.region);

    /* at the ends of a region the caller does them, before it forks and after it joins */
    library_open(&l, 4, (bool[]){true, false, false, true});
    follow(&l, 4);
    library_run(&l, 3);
    assert_int_equal(region_barriers(l.region), 1);
    assert_true(l.book[0].thread[0] == 0 && l.book[3].thread[0] == 0);
    region_free(l.region);
}

static void chains_run_side_by_side(void **state)
{
    struct library l;
    library_open(&l, 3, (bool[]){true, true, false});
    library_run(&l, 3);
    assert_int_equal(region_barriers(l.region), 0);
    assert_true(l.book[0].thread[0] != l.book[1].thread[0]);
    region_free(l.region);

    /* the last but one reads both: they are one chain */
    library_open(&l, 4, (bool[]){true, true, true, false});
    for (int i = 0; i < 2; i++) {
        touch(&l, i, (struct region_span){0, true, 64 * i, 64 * i + 64});
        touch(&l, 2, (struct region_span){0, false, 64 * i, 64 * i + 64});
    }
    library_run(&l, 3);
    assert_int_equal(region_barriers(l.region), 0);
    assert_true(l.book[0].thread[0] == l.book[2].thread[0] && l.book[1].thread[0] == l.book[2].thread[0]);
    assert_true(l.book[0].end[0] < l.book[2].begin[0] && l.book[1].end[0] < l.book[2].begin[0]);
    region_free(l.region);
}

/* ---- plans ---------------------------------------------------------------------------------------------------------- */

enum { ROWS = 260, NODES = 14 }; /* square matrices, each enough for several threads */

static val random_node(struct ad_graph *g, struct rng *r, const val *pool, int n, val index)
{
    val x = pool[rng_below(r, n)], y = pool[rng_below(r, n)];
    switch (rng_below(r, 11)) {
    case 0: return ad_tanh(g, ad_add(g, x, y));
    case 1: return ad_softmax(g, x);
    case 2: return ad_swap(g, x, 0, 1);
    case 3: return ad_dropout(g, x, 0.1, false);
    case 4: return ad_sub(g, x, ad_mean(g, y, 1, true));
    case 5: return ad_add(g, x, ad_tanh(g, ad_sum(g, ad_slice(g, y, 0, 0, 20, 1), 1, true))); /* a small chain */
    case 6: return ad_gather(g, x, index);
    case 7: return ad_mul(g, x, ad_sigmoid(g, ad_mean_last(g, y)));
    case 8:
        return ad_concat(g, (val[]){ad_slice(g, x, 0, 130, ROWS, 1), ad_tanh(g, ad_slice(g, y, 0, 0, 130, 1))}, 2, 0);
    case 9: return ad_flip(g, ad_square(g, ad_tanh(g, x)), 1);
    default: return ad_layer_norm(g, x, ad_reshape(g, ad_slice(g, y, 0, 0, 1, 1), SHAPE(ROWS)), 0, 1e-5);
    }
}

/* Random chains that use old values again, with gradients: memory is written that others have just read. */
static struct net random_net(uint64_t seed)
{
    struct rng r = rng_make(seed, hash_str("regions"), 0);
    struct net n = net_begin(true);
    struct ad_graph *g = n.m.g;
    val index = ad_input(g, "index", AD_I32, SHAPE(ROWS)), pool[NODES], d[2];
    pool[0] = ad_input(g, "x", AD_F32, SHAPE(ROWS, ROWS));
    pool[1] = ad_input(g, "y", AD_F32, SHAPE(ROWS, ROWS));
    for (int i = 2; i < NODES; i++) {
        pool[i] = random_node(g, &r, pool, i, index);
        if (ad_shape_of(g, pool[i]).rank != 2) pool[i] = pool[i - 1];
    }
    val loss = ad_sum_all(g, ad_square(g, pool[NODES - 1]));
    loss = ad_add(g, loss, ad_sum_all(g, ad_mul(g, pool[NODES - 2], pool[NODES / 2])));
    ad_grad(g, &loss, NULL, 1, pool, 2, d);
    ad_output(g, "loss", loss);
    ad_output(g, "dx", d[0]);
    ad_output(g, "dy", d[1]);
    ad_output(g, "middle", pool[NODES / 2]);
    return n;
}

static void merged_or_not_the_bits_are_the_same(void **state)
{
    static const char *const names[] = {"loss", "dx", "dy", "middle"};
    int32_t index[ROWS];
    int64_t regions[2] = {0}, calls = 0;
    float *x = numbers(2 * ROWS * ROWS, "xy"), *want[4];
    for (int i = 0; i < ROWS; i++) index[i] = i * 7 % ROWS - (i % 50 == 0);
    for (int k = 0; k < 4; k++) want[k] = mem_alloc(ROWS * ROWS * sizeof *want[k]);
    for (uint64_t seed = 0; seed < 8; seed++) {
        struct net n = random_net(seed);
        for (int way = 0; way < 8; way++) {
            threads_init(counts[way / 2]);
            net_plan(&n, way % 2 ? 0 : AD_NO_MERGE);
            ad_bind(n.p, "x", x);
            ad_bind(n.p, "y", x + ROWS * ROWS);
            ad_bind(n.p, "index", index);
            for (int run = 0; run < 2; run++) net_run(&n, 3, 4);
            for (int k = 0; k < 4; k++) {
                const float *got = net_out(&n, names[k]);
                size_t bytes = (k ? ROWS * ROWS : 1) * sizeof *got;
                if (way && got && memcmp(want[k], got, bytes))
                    fail_msg("seed %d, %d threads, merged %d: other bits in %s", (int)seed, counts[way / 2], way % 2,
                             names[k]);
                if (!way && got) memcpy(want[k], got, bytes);
            }
            struct ad_plan_stats s = ad_plan_stats(n.p);
            if (counts[way / 2] == 1) assert_int_equal(s.regions, 0);
            if (counts[way / 2] == 3) regions[way % 2] += s.regions, calls += way % 2 ? s.cut_calls : 0;
        }
        net_end(&n);
    }
    assert_true(regions[0] > 60 && calls > regions[0]); /* small calls need none */
    assert_true(regions[1] * 5 < regions[0]);
    for (int k = 0; k < 4; k++) free(want[k]);
    free(x);
    threads_init(2);
}

static void small_calls_open_no_region(void **state)
{
    struct net n = net_begin(false);
    struct ad_graph *g = n.m.g;
    val x = ad_input(g, "x", AD_F32, SHAPE(8, 8));
    for (int i = 0; i < 5; i++) x = ad_softmax(g, ad_tanh(g, ad_swap(g, x, 0, 1)));
    ad_output(g, "y", x);
    net_plan(&n, 0);
    float *data = numbers(64, "x");
    ad_bind(n.p, "x", data);
    net_run(&n, 0, 0);
    struct ad_plan_stats s = ad_plan_stats(n.p);
    assert_true(s.cut_calls >= 10 && s.cut_calls == s.steps);
    assert_int_equal(s.regions, 0);
    free(data);
    net_end(&n);
}

static void calls_that_do_not_meet_need_no_barrier(void **state)
{
    struct net n = net_begin(false);
    struct ad_graph *g = n.m.g;
    val x = ad_input(g, "x", AD_F32, SHAPE(ROWS, ROWS));
    val a = ad_softmax(g, x), b = ad_swap(g, x, 0, 1), c = ad_add(g, ad_tanh(g, a), x);
    float *data = numbers(ROWS * ROWS, "x");
    ad_output(g, "a", a);
    ad_output(g, "b", b);
    for (int way = 0; way < 2; way++) {
        if (way) ad_output(g, "c", c);
        net_plan(&n, 0);
        ad_bind(n.p, "x", data);
        net_run(&n, 0, 0);
        struct ad_plan_stats s = ad_plan_stats(n.p);
        assert_true(s.cut_calls == 2 + way && s.regions == 1);
        assert_int_equal(s.barriers, way);
    }
    free(data);
    net_end(&n);
}

/* Numbers at other addresses, and other numbers at the same: what a call was cut into is not what it once read. */
static void plans_see_what_is_bound(void **state)
{
    enum { TOKENS = 300, WIDTH = 32 };
    static const int32_t first[] = {0, 10, 280}, second[] = {0, 150, 300};
    struct net n = net_begin(true);
    struct ad_graph *g = n.m.g;
    val x = ad_input(g, "x", AD_F32, SHAPE(TOKENS, WIDTH)), o = ad_input(g, "offsets", AD_I32, SHAPE(3)), d;
    val y = nn_batch_norm(&n.m, "norm", x, 0.1, 1e-5, false); /* whose parts hold pointers */
    val loss = ad_sum_all(g, ad_square(g, ad_attention(g, y, x, y, o, o, 0, 2, AD_CAUSAL)));
    ad_grad(g, &loss, NULL, 1, &x, 1, &d);
    ad_output(g, "d", d);
    float *data = numbers(2 * TOKENS * WIDTH, "x"), *want = mem_alloc(TOKENS * WIDTH * sizeof *want);
    int32_t offsets[3];
    for (int way = 0; way < 2; way++) {
        net_plan(&n, 0);
        ad_bind(n.p, "offsets", offsets);
        for (int run = way ? 0 : 2; run < 3; run++) { /* the last of several runs, and alone */
            ad_bind(n.p, "x", data + (run ? TOKENS * WIDTH : 0));
            memcpy(offsets, run < 2 ? first : second, sizeof offsets);
            net_run(&n, 0, 0);
        }
        if (way)
            assert_memory_equal(want, net_out(&n, "d"), TOKENS * WIDTH * sizeof *want);
        else
            memcpy(want, net_out(&n, "d"), TOKENS * WIDTH * sizeof *want);
    }
    free(data);
    free(want);
    net_end(&n);
}

static void expect_error(const struct err *e, const char *text)
{
    if (!strstr(e->msg, text)) fail_msg("'%s' is not in: %s", text, e->msg);
}

/* Among other calls of one region, and of two that fail the first is named. */
static void wrong_data_is_named(void **state)
{
    struct err e = {0};
    struct net n = net_begin(true);
    struct ad_graph *g = n.m.g;
    val x = ad_input(g, "x", AD_F32, SHAPE(ROWS, ROWS)), y;
    val count = nn_param(&n.m, "count", SCALAR, (struct ad_init){AD_INIT_VALUE, 3}, AD_STATE);
    ad_update(g, count, ad_shift(g, count, 1));
    y = ad_tanh(g, x);
    for (int i = 0; i < 2; i++) {
        char name[2][8] = {"first", "second"};
        ad_push(g, name[i]);
        y = ad_softmax(g, ad_gather(g, y, ad_input(g, name[i], AD_I32, SHAPE(ROWS))));
        ad_pop(g);
    }
    ad_output(g, "y", y);
    int32_t good[ROWS] = {0}, bad[ROWS] = {0};
    float *data = numbers(ROWS * ROWS, "x");
    bad[17] = ROWS;
    net_plan(&n, 0);
    ad_bind(n.p, "x", data);
    for (int way = 0; way < 4; way++) {
        ad_bind(n.p, "first", way & 1 ? bad : good);
        ad_bind(n.p, "second", way & 2 ? bad : good);
        assert_int_equal(ad_run(n.p, 0, 0, &e), way ? ERR_SHAPE : 0);
        if (way) expect_error(&e, way & 1 ? "first: gather: index 260 (number 17)" : "second: gather: index 260");
        assert_true(*net_param(&n, "count") == 4); /* of the run that went well */
        assert_true(ad_plan_stats(n.p).regions == 1);
        err_clear(&e);
    }
    free(data);
    net_end(&n);
}

static void values_are_checked_call_by_call(void **state)
{
    struct err e = {0};
    struct net n = net_begin(false);
    struct ad_graph *g = n.m.g;
    val x = ad_input(g, "x", AD_F32, SHAPE(ROWS, ROWS));
    ad_push(g, "middle");
    x = ad_log(g, ad_softmax(g, ad_scale(g, x, 1000)));
    ad_pop(g);
    ad_output(g, "y", ad_softmax(g, x));
    net_plan(&n, AD_CHECK_FINITE | AD_NO_FUSE | AD_NO_SIMPLIFY);
    float *data = numbers(ROWS * ROWS, "x");
    ad_bind(n.p, "x", data);
    assert_int_equal(ad_run(n.p, 0, 0, &e), ERR_NONFINITE);
    expect_error(&e, "middle: log (260, 260) made");
    free(data);
    net_end(&n);
}

/* Each call's time alone, and the same numbers. */
static void profiled_calls_run_one_by_one(void **state)
{
    struct net n = random_net(1);
    int32_t index[ROWS] = {0};
    float *x = numbers(2 * ROWS * ROWS, "xy"), want[2];
    net_plan(&n, 0);
    ad_bind(n.p, "x", x);
    ad_bind(n.p, "y", x + ROWS * ROWS);
    ad_bind(n.p, "index", index);
    for (int way = 0; way < 3; way++) {
        ad_plan_profile(n.p, way == 1);
        net_run(&n, 3, 4);
        assert_true((ad_plan_stats(n.p).cut_calls == 0) == (way == 1));
        struct ad_timing *t = mem_zero(ad_plan_timings(n.p, NULL), sizeof *t);
        for (size_t i = 0, all = ad_plan_timings(n.p, t); i < all; i++) assert_int_equal(t[i].calls, way == 1);
        free(t);
        want[way > 0] = *net_out(&n, "loss");
        assert_true(way == 0 || want[0] == want[1]);
    }
    free(x);
    net_end(&n);
}

int main(void)
{
    threads_init(2);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(items_run_once_and_phases_in_order),
        cmocka_unit_test(calls_that_meet_wait),
        cmocka_unit_test(chains_are_one_threads_work),
        cmocka_unit_test(chains_run_side_by_side),
        cmocka_unit_test(merged_or_not_the_bits_are_the_same),
        cmocka_unit_test(small_calls_open_no_region),
        cmocka_unit_test(calls_that_do_not_meet_need_no_barrier),
        cmocka_unit_test(plans_see_what_is_bound),
        cmocka_unit_test(wrong_data_is_named),
        cmocka_unit_test(values_are_checked_call_by_call),
        cmocka_unit_test(profiled_calls_run_one_by_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
