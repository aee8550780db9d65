/* Plans: every combination of passes gives the results of the reference executor, whatever the thread count; updates
 * come after reads; memory is shared without harm; a steady run allocates nothing; and what can go wrong says where. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "autograd/passes/layout.h"
#include "base/threads.h"
#include "tests/support/count_malloc.h"
#include "tests/support/whole.h"

/* Every one of the sixty-four combinations against the reference executor: loss, each gradient, running statistics. */
static void passes_agree(void **state)
{
    struct whole want = whole_begin(AD_REFERENCE);
    net_run(&want.n, 5, 9);
    double loss = ad_result_scalar(want.n.p, "loss");
    struct ad_plan_stats reference = ad_plan_stats(want.n.p);
    for (unsigned flags = 0; flags <= AD_REFERENCE; flags++) {
        struct whole got = whole_begin(flags);
        net_run(&got.n, 5, 9);
        /* f32 through two blocks, in other orders of summation */
        assert_true(fabs(ad_result_scalar(got.n.p, "loss") - loss) < 2e-5 * fabs(loss));
        for (int i = 0; i < ad_store_count(want.n.m.store); i++) {
            const struct ad_entry *p = ad_store_at(want.n.m.store, i);
            bool trained = !(p->flags & AD_STATE);
            const float *a = trained ? want.grad + p->offset : (const float *)p->data;
            const float *b = trained ? got.grad + p->offset : net_param(&got.n, p->name);
            double diff = 0, norm = 0;
            for (int64_t k = 0; k < p->count; k++)
                diff += (a[k] - b[k]) * (double)(a[k] - b[k]), norm += a[k] * (double)a[k];
            assert_true(norm > 0); /* the key's bias alone has a gradient of rounding errors: it lies in qkv.bias */
            if (!(sqrt(diff) <= 1e-4 * sqrt(norm)))
                fail_msg("flags %u, %s: relative difference %g", flags, p->name, sqrt(diff / norm));
        }
        struct ad_plan_stats s = ad_plan_stats(got.n.p);
        if (!(flags & AD_NO_SIMPLIFY) && flags & AD_NO_FUSE) assert_true(s.nodes < reference.nodes);
        assert_true((s.fused > 0) == !(flags & AD_NO_FUSE));
        assert_true((s.in_place > 0 && s.views > 0 && s.arena_bytes < s.unshared_bytes) == !(flags & AD_NO_REUSE));
        whole_end(&got);
    }
    whole_end(&want);
}

static void results_do_not_depend_on_threads(void **state)
{
    static const int threads[] = {1, 2, 3, 7};
    struct whole w[4];
    for (int i = 0; i < 4; i++) {
        threads_init(threads[i]);
        w[i] = whole_begin(0);
        for (int step = 0; step < 2; step++) net_run(&w[i].n, 5, (uint64_t)step);
        assert_memory_equal(w[i].grad, w[0].grad, (size_t)w[0].n_grad * sizeof(float));
        double a = ad_result_scalar(w[i].n.p, "loss"), b = ad_result_scalar(w[0].n.p, "loss");
        assert_memory_equal(&a, &b, sizeof a);
        for (int k = 0; k < ad_store_count(w[0].n.m.store); k++) {
            const struct ad_entry *p = ad_store_at(w[0].n.m.store, k);
            assert_memory_equal(p->data, net_param(&w[i].n, p->name), (size_t)p->count * sizeof(float));
        }
    }
    for (int i = 0; i < 4; i++) whole_end(&w[i]);
    threads_init(0);
}

static void steady_runs_allocate_nothing(void **state)
{
    struct whole w = whole_begin(0);
    for (int step = 0; step < 3; step++) net_run(&w.n, 5, (uint64_t)step);
    int64_t threads = process_threads_created(), faults = process_page_faults();
    (void)faults;
    long before = allocations;
    for (int step = 0; step < 20; step++) net_run(&w.n, 5, (uint64_t)step);
    assert_int_equal(allocations, before);
    assert_int_equal(process_threads_created(), threads);
#ifndef __SANITIZE_ADDRESS__ /* its own books grow */
    /* 20 runs; a library may touch a page of its own for the first time, never one a run */
    assert_true(process_page_faults() - faults < 10);
#endif
    whole_end(&w);
}

/* ---- graphs at random: in place, views, fusion ------------------------------------------------------------------- */

static val random_node(struct ad_graph *g, struct rng *r, const val *pool, int n)
{
    val x = pool[rng_below(r, n)], y = pool[rng_below(r, n)];
    struct ad_shape s = ad_shape_of(g, x);
    switch (rng_below(r, 13)) {
    case 0: return ad_tanh(g, x);
    case 1: return ad_sigmoid(g, ad_scale(g, x, 1.5));
    case 2: return ad_mul(g, x, ad_shift(g, x, 0.5));
    case 3: return s.rank == 2 ? ad_swap(g, x, 0, 1) : x;
    case 4: return ad_softmax(g, x);
    case 5: return ad_reshape(g, x, s.dim[0] == 4 ? SHAPE(6, 4) : SHAPE(4, 6));
    case 6: return ad_concat(g, (val[]){ad_slice(g, x, 1, 1, s.dim[1], 1), ad_slice(g, x, 1, 0, 1, 1)}, 2, 1);
    case 7: return ad_sub(g, x, ad_mean_last(g, x)); /* a broadcast operand */
    case 8: return ad_flip(g, x, 0);
    case 9: return ad_cumsum(g, ad_scale(g, x, 0.3), 1, false);
    case 11: { /* parts computed in their place, some of them read by others too */
        int64_t cut = 1 + rng_below(r, s.dim[0] - 1);
        val part = ad_softmax(g, ad_slice(g, x, 0, 0, cut, 1));
        val rest = ad_mul(g, ad_tanh(g, ad_slice(g, x, 0, cut, s.dim[0], 1)), ad_sum(g, part, 1, true));
        return ad_concat(g, (val[]){part, rest}, 2, 0);
    }
    case 10: return ad_where(g, ad_greater(g, x, ad_const(g, AD_F32, 0)), x, ad_neg(g, ad_square(g, x)));
    default:
        return ad_same_shape(s, ad_shape_of(g, y)) ? ad_tanh(g, ad_sub(g, x, y)) : ad_add(g, x, ad_swap(g, y, 0, 1));
    }
}

/* A chain that reuses old values freely: whoever overwrites one that is still to be read gives other numbers. */
static void memory_is_shared_without_harm(void **state)
{
    int64_t in_place = 0, views = 0;
    for (uint64_t seed = 0; seed < 150; seed++) {
        struct rng r = rng_make(seed, hash_str("graphs"), 0);
        struct net n = net_begin(false);
        struct ad_graph *g = n.m.g;
        val pool[24] = {ad_input(g, "x", AD_F32, SHAPE(4, 6)), ad_input(g, "y", AD_F32, SHAPE(6, 4))};
        for (int i = 2; i < 24; i++) pool[i] = random_node(g, &r, pool, i);
        /* Some middles are outputs too, and the last ones' sum has a gradient. */
        val loss = ad_add(g, ad_sum_all(g, ad_square(g, pool[23])), ad_sum_all(g, ad_mul(g, pool[20], pool[20]))), d[2];
        ad_grad(g, &loss, NULL, 1, pool, 2, d);
        ad_output(g, "loss", loss);
        ad_output(g, "dx", d[0]);
        ad_output(g, "dy", d[1]);
        ad_output(g, "mid", pool[12]);
        ad_output(g, "same", pool[12]);
        ad_output(g, "leaf", pool[0]);
        float *x = numbers(48, "xy"), want[24 * 6];
        static const char *const names[] = {"dx", "dy", "mid", "same", "leaf", "loss"};
        static const unsigned flags[] = {AD_REFERENCE, 0, AD_NO_FUSE, AD_NO_SIMPLIFY};
        for (int way = 0; way < 4; way++) {
            net_plan(&n, flags[way]);
            ad_bind(n.p, "x", x);
            ad_bind(n.p, "y", x + 24);
            for (int run = 0; run < 2; run++) net_run(&n, 0, 0);
            for (int k = 0; k < 6; k++) {
                int64_t count = k < 5 ? 24 : 1;
                if (way == 0)
                    memcpy(want + 24 * k, net_out(&n, names[k]), (size_t)count * sizeof *want);
                else
                    for (int64_t i = 0; i < count; i++) {
                        double a = net_out(&n, names[k])[i], b = want[24 * k + i];
                        if (!(fabs(a - b) <= 1e-3 * fmax(1, fabs(b)))) /* chains of 20 f32 ops with slopes above 1 */
                            fail_msg("seed %d, flags %u, %s %d: %g is not %g", (int)seed, flags[way], names[k], (int)i,
                                     a, b);
                    }
            }
            if (way == 1) in_place += ad_plan_stats(n.p).in_place, views += ad_plan_stats(n.p).views;
        }
        free(x);
        net_end(&n);
    }
    assert_true(in_place > 500 && views > 500); /* it was tempted */
}

/* Lays g out; the place of the k-th output of the only node of that op, and the node's number. */
static struct place place_of(const struct ad_graph *g, const char *op, int k, size_t *number)
{
    struct layout l;
    char *need = ad_needed(g);
    struct place p = {0};
    ad_layout(g, need, true, &l);
    for (size_t i = 1; i < g->n_node; i++)
        if (need[i] && !strcmp(g->node[i]->op->name, op)) p = l.place[g->node[i]->out + k], *number = i;
    ad_layout_free(&l);
    free(need);
    return p;
}

/* The gradients of q, k and v are columns of the joined gradient, unless the caller wants one of them. */
static void parts_are_computed_in_their_place(void **state)
{
    for (int wanted = 0; wanted < 2; wanted++) {
        struct net n = net_begin(false);
        struct ad_graph *g = n.m.g;
        val x = ad_input(g, "x", AD_F32, SHAPE(9, 24)), o = ad_input(g, "offsets", AD_I32, SHAPE(3)), part[3], d[2];
        ad_split(g, x, 1, 3, part);
        val loss = ad_sum_all(g, ad_square(g, ad_attention(g, part[0], part[1], part[2], o, o, 0, 2, AD_CAUSAL)));
        ad_grad(g, &loss, NULL, 1, (val[]){x, part[1]}, 2, d);
        ad_output(g, "dx", ad_tanh(g, ad_matmul(g, d[0], d[0], true, false)));
        if (wanted) ad_output(g, "dk", d[1]);
        size_t joins = 0, at = 0;
        struct place joined = place_of(g, "concat", 0, &joins);
        assert_true(joins > 0);
        for (int k = 0; k < 3; k++) {
            struct place p = place_of(g, "attention_grad", k, &at);
            bool in_part = !(wanted && k == 1);
            assert_true((p.root == joined.root) == in_part);
            assert_true(p.t.stride[0] == (in_part ? 24 : 8) && p.offset == (in_part ? 8 * k : 0));
        }
        float *data = numbers(9 * 24, "joined"), want[24 * 24];
        for (int way = 0; way < 3; way++) {
            net_plan(&n, way == 0 ? AD_REFERENCE : way == 1 ? 0 : AD_NO_KERNELS);
            ad_bind(n.p, "x", data);
            ad_bind(n.p, "offsets", (const int32_t[]){0, 4, 8}); /* row 8 is padding */
            net_run(&n, 0, 0);
            if (way == 0) memcpy(want, net_out(&n, "dx"), sizeof want);
            for (int i = 0; i < 24 * 24; i++) /* sums of f32 products of numbers near 1 */
                assert_true(fabs((double)net_out(&n, "dx")[i] - want[i]) <= 1e-5);
        }
        free(data);
        net_end(&n);
    }
}

/* ---- state ------------------------------------------------------------------------------------------------------- */

/* Two parameters change places while a third value reads both: all of them see the old numbers. */
static void updates_come_after_reads(void **state)
{
    static const unsigned flags[] = {0, AD_REFERENCE, AD_NO_SIMPLIFY, AD_NO_REUSE};
    for (int i = 0; i < 4; i++) {
        struct net n = net_begin(true);
        struct ad_graph *g = n.m.g;
        val a = nn_param(&n.m, "a", SHAPE(2, 3), (struct ad_init){AD_INIT_VALUE, 2}, AD_STATE);
        val b = nn_param(&n.m, "b", SHAPE(2, 3), (struct ad_init){AD_INIT_VALUE, 5}, AD_STATE);
        val c = nn_param(&n.m, "c", SHAPE(2, 3), (struct ad_init){AD_INIT_VALUE, 0}, AD_STATE);
        ad_update(g, a, b);
        ad_update(g, b, a);
        ad_update(g, c, ad_add(g, c, ad_sub(g, a, b)));
        ad_output(g, "view", ad_swap(g, a, 0, 1));
        ad_output(g, "sum", ad_add(g, a, b));
        net_plan(&n, flags[i]);
        net_run(&n, 0, 0);
        assert_close(net_out(&n, "view"), ((float[]){2, 2, 2, 2, 2, 2}), 6, 0);
        assert_close(net_out(&n, "sum"), ((float[]){7, 7, 7, 7, 7, 7}), 6, 0);
        assert_close(net_param(&n, "a"), ((float[]){5, 5, 5, 5, 5, 5}), 6, 0);
        assert_close(net_param(&n, "b"), ((float[]){2, 2, 2, 2, 2, 2}), 6, 0);
        assert_close(net_param(&n, "c"), ((float[]){-3, -3, -3, -3, -3, -3}), 6, 0);
        net_run(&n, 0, 0);
        assert_close(net_out(&n, "view"), ((float[]){5, 5, 5, 5, 5, 5}), 6, 0);
        assert_close(net_param(&n, "c"), ((float[]){0, 0, 0, 0, 0, 0}), 6, 0);
        net_end(&n);
    }
}

static void plans_take_turns_in_a_workspace(void **state)
{
    struct ad_workspace space = {0};
    struct err e = {0};
    struct ad_plan *p[3];
    float *x = numbers(4000, "x");
    for (int i = 0; i < 3; i++) {
        struct ad_graph *g = ad_graph_new();
        int64_t n = 10 + 1900 * i;
        val y = ad_input(g, "x", AD_F32, SHAPE(n));
        for (int k = 0; k < 3; k++) y = ad_cumsum(g, ad_tanh(g, y), 0, false);
        ad_output(g, "y", ad_scale(g, y, i + 1));
        p[i] = ad_plan_in(g, NULL, 0, &space, false, &e);
        assert_non_null(p[i]);
        ad_bind(p[i], "x", x);
        ad_graph_free(g);
    }
    size_t bytes = space.bytes;
    float first[3];
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < 3; i++) {
            assert_int_equal(ad_run(p[i], 0, 0, &e), 0);
            struct ad_shape s;
            const float *y = ad_result(p[i], "y", &s);
            assert_int_equal(s.dim[0], 10 + 1900 * i);
            if (round == 0) first[i] = y[9] / (float)(i + 1);
            assert_true(y[9] == first[i] * (float)(i + 1));
            assert_true(fabsf(first[i] - first[0]) < 1e-5f);
        }
    assert_int_equal(space.bytes, bytes);
    assert_null(ad_result(p[0], "nobody", NULL));
    assert_true(isnan(ad_result_scalar(p[0], "nobody")));
    for (int i = 0; i < 3; i++) ad_plan_free(p[i]);
    ad_workspace_free(&space);
    free(x);
}

/* Straight into the caller's memory, also for a leaf and for one val under two names; elsewhere nothing is written. */
static void outputs_to_the_caller(void **state)
{
    for (int way = 0; way < 2; way++) {
        struct net n = net_begin(false);
        struct ad_graph *g = n.m.g;
        val x = ad_input(g, "x", AD_F32, SHAPE(3)), y = ad_square(g, x);
        ad_output_to_caller(g, "y", y);
        ad_output_to_caller(g, "again", y);
        ad_output_to_caller(g, "leaf", x);
        ad_output(g, "z", ad_neg(g, y));
        net_plan(&n, way ? AD_REFERENCE : 0);
        float out[12], in[] = {1, 2, 3};
        for (int i = 0; i < 12; i++) out[i] = 9;
        ad_bind(n.p, "x", in);
        assert_true(ad_bind_out(n.p, "y", out));
        assert_true(ad_bind_out(n.p, "again", out + 4));
        struct err e = {0};
        assert_int_equal(ad_run(n.p, 0, 0, &e), ERR_STATE);
        assert_string_equal(e.msg, "output 'leaf' is not bound");
        assert_true(ad_bind_out(n.p, "leaf", out + 8));
        assert_false(ad_bind_out(n.p, "z", out));
        net_run(&n, 0, 0);
        assert_close(out, ((float[]){1, 4, 9, 9, 1, 4, 9, 9, 1, 2, 3, 9}), 12, 0);
        assert_close(net_out(&n, "z"), ((float[]){-1, -4, -9}), 3, 0);
        assert_ptr_equal(net_out(&n, "y"), out);
        net_end(&n);
    }
}

/* ---- what can go wrong ------------------------------------------------------------------------------------------- */

static void expect_error(int code, const struct err *e, const char *text)
{
    if (e->code != code || !strstr(e->msg, text)) fail_msg("%d: %s\ninstead of: %s", e->code, e->msg, text);
}

static void unbound_and_missing(void **state)
{
    struct err e = {0};
    struct net n = net_begin(false);
    ad_output(n.m.g, "y", ad_neg(n.m.g, ad_input(n.m.g, "image", AD_F32, SHAPE(2))));
    val unused = ad_input(n.m.g, "unused", AD_F32, SHAPE(2));
    ad_neg(n.m.g, unused);
    net_plan(&n, 0);
    assert_int_equal(ad_run(n.p, 0, 0, &e), ERR_STATE);
    expect_error(ERR_STATE, &e, "input 'image' is not bound");
    assert_false(ad_bind(n.p, "unused", "")); /* nothing needs it */
    net_end(&n);

    struct ad_graph *g = ad_graph_new();
    ad_output(g, "y", ad_neg(g, ad_param(g, "head.weight", AD_F32, SHAPE(2, 3))));
    struct ad_store *s = ad_store_new(1);
    err_clear(&e);
    assert_null(ad_plan_new(g, s, 0, &e));
    expect_error(ERR_STATE, &e, "parameter 'head.weight' is not in the store");
    err_clear(&e);
    assert_null(ad_plan_new(g, NULL, 0, &e));
    expect_error(ERR_STATE, &e, "'head.weight'");
    err_clear(&e);
    assert_int_equal(ad_store_declare(s, "head.weight", AD_F32, SHAPE(3, 2), (struct ad_init){0}, 0, &e), 0);
    assert_null(ad_plan_new(g, s, 0, &e));
    expect_error(ERR_SHAPE, &e, "parameter 'head.weight' is (3, 2) f32 in the store, the graph expects (2, 3) f32");
    ad_store_free(s);
    ad_graph_free(g);
}

static void poison_says_where_it_began(void **state)
{
    struct err e = {0};
    struct ad_graph *g = ad_graph_new();
    ad_push(g, "image");
    ad_push(g, "block.3");
    val bad = ad_matmul(g, ad_input(g, "x", AD_F32, SHAPE(2, 3)), ad_input(g, "w", AD_F32, SHAPE(4, 5)), false, false);
    assert_int_equal(bad, 0);
    ad_pop(g);
    ad_pop(g);
    val loss = ad_sum_all(g, ad_relu(g, bad)), d; /* goes on quietly */
    ad_grad(g, &loss, NULL, 1, &bad, 1, &d);
    ad_output(g, "loss", loss);
    assert_int_equal(ad_status(g, &e), ERR_SHAPE);
    expect_error(ERR_SHAPE, &e, "image.block.3: matmul: ");
    expect_error(ERR_SHAPE, &e, "the inputs are (2, 3) f32, (4, 5) f32");
    err_clear(&e);
    assert_null(ad_plan_new(g, NULL, 0, &e));
    expect_error(ERR_SHAPE, &e, "image.block.3: matmul: ");
    ad_graph_free(g);
}

static void wrong_data_stops_the_run(void **state)
{
    for (int way = 0; way < 2; way++) {
        struct err e = {0};
        struct net n = net_begin(true);
        struct ad_graph *g = n.m.g;
        val count = nn_param(&n.m, "count", SCALAR, (struct ad_init){AD_INIT_VALUE, 3}, AD_STATE);
        ad_update(g, count, ad_shift(g, count, 1));
        ad_push(g, "text");
        ad_output(g, "y", nn_embedding(&n.m, "token", ad_input(g, "tokens", AD_I32, SHAPE(3)), 10, 2, 1));
        ad_pop(g);
        net_plan(&n, way ? AD_REFERENCE : 0);
        ad_bind(n.p, "tokens", (int32_t[]){1, 10, 2});
        assert_int_equal(ad_run(n.p, 0, 0, &e), ERR_SHAPE);
        expect_error(ERR_SHAPE, &e, "text.token: gather: ");
        expect_error(ERR_SHAPE, &e, "10");
        assert_true(*net_param(&n, "count") == 3); /* updates are not committed */
        ad_bind(n.p, "tokens", (int32_t[]){1, 9, 2});
        net_run(&n, 0, 0);
        assert_true(*net_param(&n, "count") == 4);
        net_end(&n);
    }
}

static void check_finite_names_op_and_layer(void **state)
{
    for (int way = 0; way < 2; way++) {
        struct err e = {0};
        struct net n = net_begin(false);
        struct ad_graph *g = n.m.g;
        ad_push(g, "image");
        val x = ad_input(g, "x", AD_F32, SHAPE(2)), y = ad_log(g, x);
        ad_pop(g);
        ad_push(g, "head");
        ad_output(g, "y", ad_cumsum(g, y, 0, false));
        ad_pop(g);
        net_plan(&n, AD_CHECK_FINITE | (way ? AD_REFERENCE : 0));
        ad_bind(n.p, "x", (float[]){1, 0});
        assert_int_equal(ad_run(n.p, 0, 0, &e), ERR_NONFINITE);
        expect_error(ERR_NONFINITE, &e, "image: log (2) made a value that is not finite");
        err_clear(&e);
        ad_bind(n.p, "x", (float[]){1, 2});
        net_run(&n, 0, 0);
        net_plan(&n, 0); /* without the flag the run goes on */
        ad_bind(n.p, "x", (float[]){1, 0});
        net_run(&n, 0, 0);
        assert_true(isinf(net_out(&n, "y")[1]));
        net_end(&n);
    }
}

static void flags_are_words(void **state)
{
    struct err e = {0};
    unsigned flags = 99;
    assert_int_equal(ad_pass_flags_parse("", &flags, &e), 0);
    assert_int_equal(flags, 0);
    assert_int_equal(ad_pass_flags_parse("nofuse,nan,noplan", &flags, &e), 0);
    assert_int_equal(flags, AD_NO_FUSE | AD_CHECK_FINITE | AD_NO_REUSE);
    assert_int_equal(ad_pass_flags_parse("reference", &flags, &e), 0);
    assert_int_equal(flags, AD_REFERENCE);
    assert_int_equal(ad_pass_flags_parse("nofuse,nofun", &flags, &e), ERR_USAGE);
    expect_error(ERR_USAGE, &e, "unknown debug word 'nofun'");
}

static void a_dry_plan_has_figures_and_no_memory(void **state)
{
    struct err e = {0};
    struct ad_workspace space = {0};
    struct ad_graph *g = ad_graph_new();
    val x = ad_input(g, "x", AD_F32, SHAPE(1000, 1000));
    ad_output(g, "y", ad_matmul(g, x, x, false, false));
    struct ad_plan *p = ad_plan_in(g, NULL, 0, &space, true, &e);
    struct ad_plan_stats s = ad_plan_stats(p);
    assert_null(space.base);
    assert_true(s.flops == 2e9 && s.input_bytes == 4000000 && s.arena_bytes >= 4000000);
    ad_plan_free(p);
    ad_graph_free(g);
}

int main(void)
{
    threads_init(2);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(passes_agree),
        cmocka_unit_test(results_do_not_depend_on_threads),
        cmocka_unit_test(steady_runs_allocate_nothing),
        cmocka_unit_test(memory_is_shared_without_harm),
        cmocka_unit_test(parts_are_computed_in_their_place),
        cmocka_unit_test(updates_come_after_reads),
        cmocka_unit_test(plans_take_turns_in_a_workspace),
        cmocka_unit_test(outputs_to_the_caller),
        cmocka_unit_test(unbound_and_missing),
        cmocka_unit_test(poison_says_where_it_began),
        cmocka_unit_test(wrong_data_stops_the_run),
        cmocka_unit_test(check_finite_names_op_and_layer),
        cmocka_unit_test(flags_are_words),
        cmocka_unit_test(a_dry_plan_has_figures_and_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
