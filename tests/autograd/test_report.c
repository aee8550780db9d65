/* What a plan says of its calls (operations, bytes, times), the roofline, and the tables made of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "autograd/report.h"
#include "base/buf.h"
#include "base/threads.h"
#include "tests/support/net.h"

/* The call of `op` in the plan; there must be exactly one. */
static struct ad_timing the(const struct ad_plan *p, const char *op)
{
    size_t n = ad_plan_timings(p, NULL);
    struct ad_timing *t = mem_zero(n + 1, sizeof *t), found = {0};
    assert_int_equal(ad_plan_timings(p, t), n);
    int hits = 0;
    for (size_t i = 0; i < n; i++)
        if (!strcmp(t[i].op, op)) found = t[i], hits++;
    free(t);
    if (hits != 1) fail_msg("%d calls of %s", hits, op);
    return found;
}

static struct net one(val (*build)(struct net *n))
{
    struct net n = net_begin(true);
    ad_output(n.m.g, "y", build(&n));
    net_plan(&n, 0);
    return n;
}

static val product(struct net *n)
{
    ad_push(n->m.g, "layer");
    val y = ad_matmul(n->m.g, ad_input(n->m.g, "a", AD_F32, SHAPE(3, 5)), ad_input(n->m.g, "b", AD_F32, SHAPE(7, 5)),
                      false, true);
    ad_pop(n->m.g);
    return y;
}
static val square(struct net *n)
{
    val a = ad_input(n->m.g, "a", AD_F32, SHAPE(6, 6));
    return ad_matmul(n->m.g, a, a, false, false);
}
static val convolution(struct net *n)
{
    return ad_conv2d(n->m.g, ad_input(n->m.g, "x", AD_F32, SHAPE(2, 9, 9, 4)),
                     ad_input(n->m.g, "w", AD_F32, SHAPE(3, 3, 2, 6)), (struct ad_conv){.stride = {2, 2}, .groups = 2});
}
static val attention(struct net *n)
{
    val q = ad_input(n->m.g, "q", AD_F32, SHAPE(20, 8)), k = ad_input(n->m.g, "k", AD_F32, SHAPE(20, 8)),
        v = ad_input(n->m.g, "v", AD_F32, SHAPE(20, 8)), o = ad_input(n->m.g, "o", AD_I32, SHAPE(5));
    return ad_attention(n->m.g, q, k, v, o, o, 0, 2, 0);
}
static val causal(struct net *n)
{
    val q = ad_input(n->m.g, "q", AD_F32, SHAPE(20, 8)), o = ad_input(n->m.g, "o", AD_I32, SHAPE(5));
    return ad_attention(n->m.g, q, q, q, o, o, 0, 2, AD_CAUSAL);
}
static val rows(struct net *n)
{
    return ad_gather(n->m.g, ad_input(n->m.g, "table", AD_F32, SHAPE(1000, 16)),
                     ad_input(n->m.g, "i", AD_I32, SHAPE(3)));
}

static void operations_and_bytes_are_counted(void **state)
{
    struct net n = one(product);
    struct ad_timing t = the(n.p, "matmul");
    assert_true(t.flops == 2 * 3 * 7 * 5 && t.bytes == 4 * (3 * 5 + 7 * 5 + 3 * 7));
    assert_string_equal(t.path, "layer");
    net_end(&n);

    n = one(square); /* one input twice is one */
    t = the(n.p, "matmul");
    assert_true(t.flops == 2 * 6 * 6 * 6 && t.bytes == 4 * 2 * 36);
    net_end(&n);

    n = one(convolution); /* 4 x 4 places of 6 channels, each of 3 x 3 x 2 products */
    t = the(n.p, "conv2d");
    assert_true(t.flops == 2.0 * 2 * 16 * 6 * 18 && t.bytes == 4 * (2 * 81 * 4 + 108 + 2 * 16 * 6));
    net_end(&n);

    n = one(attention); /* 4 items of 5 rows: q k' and p v are 2 x 2 x 5 x 5 x 8 each */
    t = the(n.p, "attention");
    assert_true(t.flops == 4 * 4 * 25 * 8.0);
    net_end(&n);

    n = one(causal); /* of 5 x 5 pairs 15 are seen */
    t = the(n.p, "attention");
    assert_true(t.flops == 4 * 4 * 15 * 8.0);
    net_end(&n);

    n = one(rows); /* the rows that are read, not the table */
    t = the(n.p, "gather");
    assert_true(t.bytes == 4 * (3 + 2 * 3 * 16));
    net_end(&n);
}

static void calls_are_timed_while_asked(void **state)
{
    struct net n = one(square);
    float a[36] = {1};
    ad_bind(n.p, "a", a);
    net_run(&n, 0, 0);
    assert_true(the(n.p, "matmul").calls == 0 && the(n.p, "matmul").seconds == 0);
    ad_plan_profile(n.p, true);
    for (int i = 0; i < 3; i++) net_run(&n, 0, 0);
    struct ad_timing t = the(n.p, "matmul");
    assert_true(t.calls == 3 && t.seconds > 0 && t.bytes == 4 * 2 * 36);
    ad_plan_profile(n.p, false);
    net_run(&n, 0, 0);
    assert_true(the(n.p, "matmul").calls == 0);
    net_end(&n);
}

static const struct ad_timing some[] = {
    {"matmul", "gemm", "image.block.0.mlp.up", 2, 4, 1000, 8},
    {"matmul", "gemm", "image.block.11.mlp.down", 2, 2, 500, 8},
    {"copy", "tiles", "", 1, 1, 0, 300},
    {"copy", "plain", "image.patch", 1, 1, 0, 100},
};
static const struct ad_limits limits = {500, 400};

static void the_roofline_takes_the_longer(void **state)
{
    /* 1000 / 500, 500 / 500, 300 / 400, 100 / 400, one call each */
    assert_true(ad_roofline(some, 4, &limits) == 2 + 1 + 0.75 + 0.25);
    assert_true(ad_roofline(some, 4, &(struct ad_limits){0, 400}) == 8 / 400.0 * 2 + 0.75 + 0.25);
    assert_true(ad_roofline(some, 0, &limits) == 0);
}

/* The table with each run of blanks as one. */
static char *table(enum ad_report_by by, const struct ad_limits *l)
{
    struct buf b = {0};
    ad_report(some, 4, by, l, &b);
    size_t n = 0;
    for (size_t i = 0; i < b.len; i++)
        if (b.data[i] != ' ' || (i && b.data[i - 1] != ' ')) b.data[n++] = b.data[i];
    b.data[n] = 0;
    return b.data;
}

static void tables_sum_what_is_alike(void **state)
{
    /* matmul: 4 calls, 6 s of 8, 2 x 1000 + 2 x 500 operations, at the roofline 2 x 2 + 2 x 1 s: all of its time */
    char *t = table(AD_BY_OP, &limits);
    assert_string_equal(t, "op kernel calls ms % GF/s GB/s % limit\n"
                           "matmul gemm 4 6000.00 75.0 0.0 0.0 100.0\n"
                           "copy tiles 1 1000.00 12.5 0.0 0.0 75.0\n"
                           "copy plain 1 1000.00 12.5 0.0 0.0 25.0\n"
                           "all 6 8000.00 100.0 0.0 0.0 87.5\n");
    free(t);
    t = table(AD_BY_LAYER, NULL);
    assert_string_equal(t, "layer calls ms % GF/s GB/s\n"
                           "image.block.*.mlp 4 6000.00 75.0 0.0 0.0\n"
                           "(no layer) 1 1000.00 12.5 0.0 0.0\n"
                           "image.patch 1 1000.00 12.5 0.0 0.0\n"
                           "all 6 8000.00 100.0 0.0 0.0\n");
    free(t);
}

/* The pieces of a small step add up to the bytes alive at each call, and say what they are. */
static void pieces_add_up(void **state)
{
    enum { N = 64 };
    struct err e = {0};
    struct ad_graph *g = ad_graph_new();
    val x = ad_input(g, "x", AD_F32, SHAPE(N, N)), w = ad_input(g, "w", AD_F32, SHAPE(N, N)), y = x, dw;
    for (int i = 0; i < 4; i++) y = ad_softmax(g, ad_matmul(g, y, w, false, false));
    val loss = ad_sum_all(g, ad_square(g, y));
    ad_output(g, "loss", loss);
    ad_grad(g, &loss, NULL, 1, &w, 1, &dw);
    ad_output(g, "dw", dw);
    struct ad_plan *p = ad_plan_new(g, NULL, 0, &e);
    if (!p) fail_msg("%s", e.msg);
    size_t n = ad_plan_timings(p, NULL), n_piece = ad_plan_pieces(p, NULL), kept = 0;
    struct ad_timing *t = mem_zero(n, sizeof *t);
    struct ad_piece *piece = mem_zero(n_piece, sizeof *piece);
    assert_int_equal(ad_plan_timings(p, t), n);
    assert_int_equal(ad_plan_pieces(p, piece), n_piece);
    int64_t most = 0;
    for (size_t c = 0; c < n; c++) {
        int64_t live = 0;
        for (size_t i = 0; i < n_piece; i++)
            if (piece[i].first <= c && c <= piece[i].last) live += piece[i].bytes;
        assert_int_equal(live, t[c].live);
        most = live > most ? live : most;
        if (c) assert_true(t[c].part != AD_FORWARD || t[c - 1].part == AD_FORWARD);
    }
    assert_true(most <= ad_plan_stats(p).arena_bytes && most > ad_plan_stats(p).arena_bytes / 2);
    for (size_t i = 0; i < n_piece; i++) {
        assert_true(piece[i].last < n && piece[i].bytes > 0);
        if (piece[i].kept) {
            kept++;
            assert_string_equal(piece[i].op, "softmax"); /* its gradient and the next product's read it */
            assert_true(ad_same_shape(piece[i].shape, SHAPE(N, N)) && piece[i].bytes == N * N * 4);
            assert_true(t[piece[i].first].part == AD_FORWARD && t[piece[i].last].part == AD_BACKWARD);
        }
    }
    assert_int_equal(kept, 4);
    free(t);
    free(piece);
    ad_plan_free(p);
    ad_graph_free(g);
}

int main(void)
{
    threads_init(2);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(operations_and_bytes_are_counted),
        cmocka_unit_test(calls_are_timed_while_asked),
        cmocka_unit_test(the_roofline_takes_the_longer),
        cmocka_unit_test(tables_sum_what_is_alike),
        cmocka_unit_test(pieces_add_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
