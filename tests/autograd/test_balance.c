/* How work shares out among threads, without having them: items run once whatever the number, phases in rounds too; what is
 * said adds up; and a plan of convolutions, norms, attention, products and a contrastive loss gives the same bits cut for up to 64 threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "autograd/region.h"
#include "base/threads.h"
#include "tests/support/net.h"

static const int counts[] = {1, 2, 3, 7, 16, 64};
enum { N_COUNT = sizeof counts / sizeof *counts };

/* ---- a call in rounds --------------------------------------------------------------------------------------------- */

enum { BEFORE = 5, FIRST = 30, SECOND = 7, AFTER = 9, ROUNDS = 6 };

/* How often each item of each phase ran, and how many of its round of the phase before had then. */
struct book {
    int before[BEFORE], first[ROUNDS * FIRST], second[ROUNDS * SECOND], after[AFTER];
    int64_t taken;
};
static struct book *book_of(const struct ad_call *c)
{
    return (struct book *)(uintptr_t)c->attr;
}
static void count(int *ran, int64_t from, int64_t to)
{
    for (int64_t i = from; i < to; i++) __atomic_fetch_add(&ran[i], 1, __ATOMIC_RELAXED);
}
static bool all_once(const int *ran, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (ran[i] != 1) return false;
    return true;
}
static void run_before(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    count(book_of(c)->before, from, to);
}
static void run_first(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    struct book *b = book_of(c);
    CHECK(all_once(b->before, BEFORE) && all_once(b->second, from / FIRST * SECOND));
    count(b->first, from, to);
}
static void run_second(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    struct book *b = book_of(c);
    CHECK(all_once(b->first, (from / SECOND + 1) * FIRST));
    count(b->second, from, to);
}
/* Tasks that threads take: an item a thread. */
static void run_after(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    struct book *b = book_of(c);
    CHECK(all_once(b->second, ROUNDS * SECOND) && from >= 0 && to <= *(const int *)job);
    for (int64_t i; (i = ad_take(&b->taken, 1, AFTER)) < AFTER;) count(b->after, i, i + 1);
}

static void cut_book(const struct ad_call *c, int threads, struct ad_parts *p)
{
    p->n = 4;
    p->first_round = 1;
    p->end_round = 3;
    p->rounds = ROUNDS;
    p->phase[0] = (struct ad_phase){.items = BEFORE, .run = run_before};
    p->phase[1] = (struct ad_phase){.items = FIRST, .run = run_first};
    p->phase[2] = (struct ad_phase){.items = SECOND, .run = run_second, .dynamic = true};
    p->phase[3] = (struct ad_phase){.items = threads, .run = run_after};
    *(int *)(void *)p->job = threads;
}
static const struct ad_kernel book_kernel = {.cut = cut_book};

static void assert_complete(const struct book *b)
{
    assert_true(all_once(b->before, BEFORE) && all_once(b->first, ROUNDS * FIRST));
    assert_true(all_once(b->second, ROUNDS * SECOND) && all_once(b->after, AFTER));
}

static void rounds_follow_one_another(void **state)
{
    for (int i = 0; i < N_COUNT - 2; i++) {
        struct book b;
        struct ad_call call = {.attr = &b};
        struct region_call part = {.kernel = &book_kernel, .call = &call};
        struct region *r = region_new(&part, 1);
        for (int run = 0; run < 3; run++) {
            memset(&b, 0, sizeof b);
            region_run(r, counts[i]);
            assert_complete(&b);
        }
        assert_int_equal(region_barriers(r), counts[i] > 1 ? 1 + 2 * ROUNDS : 0);
        region_free(r);
        memset(&b, 0, sizeof b);
        threads_init(counts[i]);
        ad_kernel_run(&book_kernel, &call);
        assert_complete(&b);
    }
    threads_init(2);
}

static void shares_add_up(void **state)
{
    for (int i = 0; i < N_COUNT; i++) {
        struct book b;
        struct ad_call call = {.attr = &b};
        struct region_call part = {.kernel = &book_kernel, .call = &call};
        struct region *r = region_new(&part, 1);
        struct region_weights w = {.threads = counts[i]};
        double waits = 0, work = 0;
        size_t shares = 0;
        for (int run = 0; run < 3; run++) {
            memset(&b, 0, sizeof b);
            region_weights_begin(&w);
            waits = 0;
            region_weigh(r, &w, &waits);
            assert_complete(&b);
            if (run) assert_true(w.at == shares && w.work <= work * (1 + 1e-12)); /* the least so far */
            shares = w.at;
            work = w.work;
        }
        /* By hand: runs of 5 and 30 items by thread, 7 and 9 one by one. */
        int t = counts[i];
        size_t runs = (size_t)(t < BEFORE ? t : BEFORE) + ROUNDS * (size_t)((t < FIRST ? t : FIRST) + SECOND) + AFTER;
        if (t > 1 && shares != runs) fail_msg("%d threads: %d shares, expected %d", t, (int)shares, (int)runs);
        assert_true(w.span <= w.work * (1 + 1e-12) && w.span * t >= w.work * (1 - 1e-12));
        assert_true(fabs(w.span * t - w.work - waits) <= 1e-9 * w.span * t);
        assert_int_equal(w.forks, t > 1);
        assert_int_equal(w.barriers, t > 1 ? 1 + 2 * ROUNDS : 0);
        region_weights_free(&w);
        region_free(r);
    }
}

/* ---- a plan ------------------------------------------------------------------------------------------------------- */

enum { IMAGES = 12, SIDE = 24, WIDE = 160, MIDDLE = 128, NARROW = 64, TOKENS = IMAGES * 12 * 12, PAIRS = 576 };

static val weights(struct net *n, const char *name, struct ad_shape s)
{
    return nn_param(&n->m, name, s, (struct ad_init){AD_INIT_NORMAL, 0.05}, 0);
}

/* A batch norm of few rows, a 3 x 3 convolution of many channels, one with a stride, one by channels, one by 1 x 1, attention over sequences of unequal lengths, long
 * sums into small matrices, a loss over pairs; and all gradients. */
static struct net net_of_all(void)
{
    struct net n = net_begin(true);
    struct ad_graph *g = n.m.g;
    val x = ad_input(g, "x", AD_F32, SHAPE(IMAGES, SIDE, SIDE, WIDE)), o = ad_input(g, "offsets", AD_I32, SHAPE(5));
    val w[8], d[9], mean, var;
    w[0] = weights(&n, "many", SHAPE(3, 3, WIDE, MIDDLE));
    w[1] = weights(&n, "stride", SHAPE(3, 3, MIDDLE, NARROW));
    w[2] = weights(&n, "channels", SHAPE(3, 3, 1, NARROW));
    w[3] = weights(&n, "point", SHAPE(1, 1, NARROW, 32));
    w[4] = weights(&n, "up", SHAPE(32, NARROW));
    w[5] = weights(&n, "down", SHAPE(NARROW, 32));
    w[6] = weights(&n, "gain", SHAPE(WIDE));
    w[7] = weights(&n, "bias", SHAPE(WIDE));
    val few = ad_batch_norm_act(g, ad_slice(g, x, 0, 0, 2, 1), w[6], w[7], 0, AD_ACT_SILU, 1e-5, &mean, &var);
    val y = ad_silu(g, ad_conv2d(g, x, w[0], (struct ad_conv){.pad = {1, 1}}));
    y = ad_conv2d(g, y, w[1], (struct ad_conv){.pad = {1, 1}, .stride = {2, 2}});
    y = ad_silu(g, ad_conv2d(g, y, w[2], (struct ad_conv){.pad = {1, 1}, .groups = NARROW}));
    y = ad_reshape(g, ad_conv2d(g, y, w[3], (struct ad_conv){0}), SHAPE(TOKENS, 32));
    y = ad_add(g, y, ad_attention(g, y, y, y, o, o, 0, 2, 0));
    y = ad_linear(g, ad_gelu(g, ad_linear(g, y, w[4], 0)), w[5], 0);
    struct nn_contrast pairs = {.a = ad_slice(g, y, 0, 0, PAIRS, 1), .b = ad_slice(g, y, 0, PAIRS, 2 * PAIRS, 1)};
    val loss = ad_add(g, nn_infonce(&n.m, &pairs, ad_const(g, AD_F32, 0.5)), ad_mean_all(g, ad_square(g, y)));
    loss = ad_add(g, loss, ad_mean_all(g, ad_square(g, few)));
    val of[9] = {x, w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7]};
    ad_grad(g, &loss, NULL, 1, of, 9, d);
    ad_output(g, "loss", loss);
    for (int i = 0; i < 9; i++) {
        char name[16];
        snprintf(name, sizeof name, "d%d", i);
        ad_output(g, name, d[i]);
    }
    return n;
}

static uint64_t bits_of(const struct net *n)
{
    uint64_t hash = 0;
    for (int i = -1; i < 9; i++) {
        char name[16] = "loss";
        struct ad_shape s;
        if (i >= 0) snprintf(name, sizeof name, "d%d", i);
        const uint32_t *bits = ad_result(n->p, name, &s);
        double size = 0;
        for (int64_t k = 0; k < ad_count(s); k++) {
            float value;
            memcpy(&value, &bits[k], sizeof value);
            size += fabs((double)value);
            hash = (hash ^ bits[k]) * 0x100000001b3u;
        }
        if (!isfinite(size) || size <= 0) fail_msg("%s: %g", name, size);
    }
    return hash;
}

static void cuts_change_no_bit(void **state)
{
    static const int32_t offsets[] = {0, 5, 600, 1000, TOKENS};
    struct err e = {0};
    struct net n = net_of_all();
    float *x = mem_alloc((size_t)IMAGES * SIDE * SIDE * WIDE * sizeof *x);
    struct rng r = rng_make(7, 0, 0);
    for (int64_t i = 0; i < (int64_t)IMAGES * SIDE * SIDE * WIDE; i++) x[i] = (float)rng_range(&r, -1, 1);
    net_plan(&n, 0);
    ad_bind(n.p, "x", x);
    ad_bind(n.p, "offsets", offsets);
    net_run(&n, 1, 1);
    uint64_t want = bits_of(&n);
    double *waits = mem_zero(ad_plan_timings(n.p, NULL), sizeof *waits);
    threads_init(1);
    for (int i = 0; i < N_COUNT; i++) {
        struct ad_balance b;
        assert_int_equal(ad_plan_balance(n.p, counts[i], 1, 1, 1, &b, waits, &e), 0);
        if (bits_of(&n) != want) fail_msg("cut for %d threads: other bits", counts[i]);
        assert_true(b.work > 0 && b.span <= b.work * (1 + 1e-12) && b.span * counts[i] >= b.work * (1 - 1e-12));
        assert_true(b.uncut == 0 && b.regions == (counts[i] > 1)); /* all of it in one region */
    }
    threads_init(2);
    net_run(&n, 1, 1); /* as before */
    assert_true(bits_of(&n) == want);
    free(waits);
    free(x);
    net_end(&n);
}

int main(void)
{
    threads_init(2);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rounds_follow_one_another),
        cmocka_unit_test(shares_add_up),
        cmocka_unit_test(cuts_change_no_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
