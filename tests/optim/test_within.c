/* Steps within the backward pass: each parameter ends as opt_step leaves it, to the bit, whatever the optimizer, the
 * storage, the passes and the thread count; no parameter moves before its last reader; gradients take no memory of their
 * own; a gradient that is not finite moves nothing around it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/half.h"
#include "base/threads.h"
#include "optim/layers.h"
#include "tests/support/count_malloc.h"
#include "tests/support/whole.h"

enum { STEPS = 4, ROWS_IN = 17, TALL = 301, WIDE = 67, SHORT_ROWS = 5 };

/* One of: the network of whole.h; what is hard about order. */
enum { NETWORK, HARD, N_GRAPHS };

/* A matrix that is read at the beginning and, turned, at the end (tied), and has several tasks; two parameters each of
 * which is the other's gradient; one that is its own; one that nothing needs. */
static val hard_loss(struct nn *m)
{
    struct ad_graph *g = m->g;
    struct ad_init normal = {AD_INIT_NORMAL, 0.2};
    val x = ad_input(g, "x", AD_F32, SHAPE(ROWS_IN, TALL));
    val w = nn_param(m, "tied", SHAPE(TALL, WIDE), normal, AD_EDGE), bias = nn_param(m, "bias", SHAPE(WIDE), normal, 0);
    val y = ad_tanh(g, ad_add(g, ad_matmul(g, x, w, false, false), bias)),
        z = ad_matmul(g, y, ad_swap(g, w, 0, 1), false, false);
    val left = nn_param(m, "left", SHAPE(SHORT_ROWS, WIDE), normal, 0),
        right = nn_param(m, "right", SHAPE(WIDE, SHORT_ROWS), normal, AD_NO_DECAY),
        self = nn_param(m, "self", SHAPE(WIDE), normal, 0);
    nn_param(m, "idle", SHAPE(33), normal, 0);
    val both = ad_sum_all(g, ad_mul(g, left, ad_swap(g, right, 0, 1)));
    val own = ad_scale(g, ad_sum_all(g, ad_square(g, self)), 0.5);
    return ad_add(g, ad_mean_all(g, ad_square(g, ad_sub(g, z, x))), ad_add(g, both, own));
}

struct run {
    struct net n;
    struct opt *o;
    float *grad, *x, *image; /* grad: NULL where steps are within */
    bool within;
};

static struct opt_group group[] = {{"*bias*", 0.5, 0.3}, {"block.0*", 0, -1}};

static struct opt_config config_of(enum opt_kind kind, enum opt_store state, int graph)
{
    return (struct opt_config){.kind = kind,
                               .beta1 = 0.9,
                               .beta2 = 0.98,
                               .eps = 1e-8,
                               .weight_decay = 0.1,
                               .state = state,
                               .momentum = 0.9,
                               .ema = 0.9,
                               .group = group,
                               .n_group = graph == NETWORK ? 2 : 1};
}

static void bind_inputs(struct run *r, int graph)
{
    r->x = numbers(graph == NETWORK ? ROWS * WIDTH : ROWS_IN * TALL, "x");
    r->image = numbers(ITEMS * SIDE * SIDE * 3, "image");
    ad_bind(r->n.p, "x", r->x);
    ad_bind(r->n.p, "offsets", offsets);
    ad_bind(r->n.p, "image", r->image);
}

static struct run run_begin(int graph, const struct opt_config *c, const struct ad_plan_options *o, bool within,
                            bool narrow)
{
    struct run r = {.n = net_begin(true), .within = within};
    struct err e = {0};
    struct nn *m = &r.n.m;
    if (narrow) ad_store_narrow(m->store);
    val loss = graph == NETWORK ? emit_loss(m) : hard_loss(m);
    CHECK_MSG(nn_status(m, &e) == 0 && ad_store_commit(m->store, &e) == 0, "%s", e.msg);
    r.o = opt_new(c, m->store, &e);
    CHECK_MSG(r.o, "%s", e.msg);
    ad_output(m->g, "loss", loss);
    if (within)
        opt_emit_steps(m->g, r.o, loss);
    else
        opt_emit_gradients(m->g, m->store, loss);
    r.n.p = ad_plan_with(m->g, m->store, o, &e);
    CHECK_MSG(r.n.p, "%s", e.msg);
    if (!within) {
        r.grad = mem_zero(ad_store_flat_bytes(m->store), 1);
        opt_bind_gradients(r.n.p, m->store, r.grad);
    }
    bind_inputs(&r, graph);
    return r;
}

static void run_step(struct run *r, int step)
{
    double lr = 1e-2 * (step + 1);
    if (r->within) opt_begin(r->o, lr);
    net_run(&r->n, 5, (uint64_t)step);
    if (!r->within) opt_step(r->o, r->grad, 0, lr);
}

static void run_end(struct run *r)
{
    opt_free(r->o);
    free(r->grad);
    free(r->x);
    free(r->image);
    net_end(&r->n);
}

/* Weights, running statistics, and all that the optimizer keeps. */
static void assert_same(const struct run *a, const struct run *b, const char *what)
{
    static const size_t width[] = {[OPT_F32] = 4, [OPT_BF16] = 2, [OPT_8BIT] = 1};
    double x = ad_result_scalar(a->n.p, "loss"), y = ad_result_scalar(b->n.p, "loss");
    if (memcmp(&x, &y, sizeof x)) fail_msg("%s: the loss is %.17g, not %.17g", what, y, x);
    for (int i = 0; i < ad_store_count(a->n.m.store); i++) {
        const struct ad_entry *p = ad_store_at(a->n.m.store, i), *q = ad_store_at(b->n.m.store, i);
        if (memcmp(p->data, q->data, (size_t)p->count * ad_dtype_size(p->kept)))
            fail_msg("%s: '%s' differs", what, p->name);
    }
    assert_int_equal(opt_state_count(a->o), opt_state_count(b->o));
    for (int i = 0; i < opt_state_count(a->o); i++) {
        struct opt_state s = opt_state(a->o, i), t = opt_state(b->o, i);
        if (memcmp(s.data, t.data, (size_t)s.count * width[s.store]))
            fail_msg("%s: %s of '%s' differs", what, s.name, s.of->name);
        if (s.store == OPT_8BIT) assert_memory_equal(s.absmax, t.absmax, (size_t)((s.count + 255) / 256) * 4);
    }
}

static void both_ways(int graph, const struct opt_config *c, const struct ad_plan_options *o, int steps,
                      const char *what)
{
    struct run want = run_begin(graph, c, o, false, false), got = run_begin(graph, c, o, true, false);
    double *square = mem_zero((size_t)opt_param_count(got.o), sizeof *square);
    for (int step = 0; step < steps; step++) {
        run_step(&want, step);
        run_step(&got, step);
        assert_same(&want, &got, what);
        double norm = opt_gradient_norm(want.n.m.store, want.grad), sum = opt_squares_within(got.o, got.n.p, square);
        assert_true(norm > 0 && fabs(sqrt(sum) / norm - 1) < 1e-12); /* doubles, summed in another order */
    }
    free(square);
    run_end(&want);
    run_end(&got);
}

static void every_optimizer_and_storage(void **state)
{
    static const enum opt_kind kinds[] = {OPT_ADAMW, OPT_SGD, OPT_LION};
    for (int graph = 0; graph < N_GRAPHS; graph++)
        for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
            for (int s = OPT_F32; s <= OPT_8BIT; s++) {
                struct opt_config c = config_of(kinds[k], (enum opt_store)s, graph);
                char what[64];
                snprintf(what, sizeof what, "graph %d, %s, %s", graph, opt_kind_names[kinds[k]], opt_state_names[s]);
                both_ways(graph, &c, &(struct ad_plan_options){0}, STEPS, what);
            }
}

static void every_pass_and_precision(void **state)
{
    for (int graph = 0; graph < N_GRAPHS; graph++)
        for (unsigned f = 0; f <= AD_REFERENCE + 2; f++) {
            struct opt_config c = config_of(OPT_ADAMW, OPT_F32, graph);
            unsigned flags = f <= AD_REFERENCE ? f : f == AD_REFERENCE + 1 ? AD_BF16_VALUES : AD_CHECK_FINITE;
            char what[64];
            snprintf(what, sizeof what, "graph %d, flags %u", graph, flags);
            both_ways(graph, &c, &(struct ad_plan_options){.flags = flags}, 2, what);
        }
}

static void any_number_of_threads(void **state)
{
    static const int threads[] = {1, 2, 3, 7};
    for (int graph = 0; graph < N_GRAPHS; graph++) {
        struct opt_config c = config_of(OPT_ADAMW, OPT_BF16, graph);
        struct run r[4];
        for (int i = 0; i < 4; i++) {
            threads_init(threads[i]);
            r[i] = run_begin(graph, &c, &(struct ad_plan_options){0}, true, false);
            for (int step = 0; step < STEPS; step++) run_step(&r[i], step);
            assert_same(&r[0], &r[i], "threads");
        }
        for (int i = 0; i < 4; i++) run_end(&r[i]);
    }
    threads_init(0);
}

/* Values that are computed again, in the backward pass, read weights there: those of before the step. Products are among
 * what a narrow budget asks to run twice. */
static void within_a_budget(void **state)
{
    struct opt_config c = config_of(OPT_ADAMW, OPT_F32, NETWORK);
    struct run free_run = run_begin(NETWORK, &c, &(struct ad_plan_options){0}, true, false);
    int64_t bytes = ad_plan_stats(free_run.n.p).arena_bytes;
    double again = 0;
    for (int share = 98; share >= 86; share -= 4) {
        struct ad_plan_options o = {.budget = bytes * share / 100};
        struct run want = run_begin(NETWORK, &c, &(struct ad_plan_options){0}, false, false),
                   got = run_begin(NETWORK, &c, &o, true, false);
        assert_true(ad_plan_stats(got.n.p).again_flops > again);
        again = ad_plan_stats(got.n.p).again_flops;
        for (int step = 0; step < STEPS; step++) {
            run_step(&want, step);
            run_step(&got, step);
            assert_same(&want, &got, "budget");
        }
        run_end(&want);
        run_end(&got);
    }
    run_end(&free_run);
}

/* Of a deep stack the arena has room for the gradients of a layer or two, not for all; and a step allocates nothing. */
static void gradients_take_no_memory(void **state)
{
    enum { LAYERS = 12, SQUARE = 128, FEW = 8 };
    struct opt_config c = {.kind = OPT_SGD};
    struct run r = {.n = net_begin(true), .within = true, .x = numbers(FEW * SQUARE, "x")};
    struct nn *m = &r.n.m;
    struct err e = {0};
    val y = ad_input(m->g, "x", AD_F32, SHAPE(FEW, SQUARE));
    for (int i = 0; i < LAYERS; i++) {
        char name[32];
        snprintf(name, sizeof name, "layer.%d", i);
        y = ad_tanh(m->g, nn_linear(m, name, y, SQUARE, true, 0));
    }
    val loss = ad_mean_all(m->g, ad_square(m->g, y));
    assert_int_equal(ad_store_commit(m->store, &e), 0);
    r.o = opt_new(&c, m->store, &e);
    ad_output(m->g, "loss", loss);
    opt_emit_steps(m->g, r.o, loss);
    r.n.p = ad_plan_new(m->g, m->store, 0, &e);
    assert_non_null(r.n.p);
    ad_bind(r.n.p, "x", r.x);
    assert_true(ad_plan_stats(r.n.p).arena_bytes < (int64_t)ad_store_flat_bytes(m->store) / 2);
    for (int step = 0; step < 2; step++) run_step(&r, step);
    long before = allocations;
    for (int step = 0; step < 10; step++) run_step(&r, step);
    assert_int_equal(allocations, before);
    run_end(&r);
}

/* Weights in bf16: with gradients that bf16 holds it is opt_step, to the bit. */
static void narrow_weights(void **state)
{
    struct run r[2];
    struct opt_config c = config_of(OPT_ADAMW, OPT_BF16, HARD);
    c.n_group = 0;
    float *k = numbers(TALL * WIDE, "k");
    for (int64_t i = 0; i < TALL * WIDE; i++) k[i] = bf16_to_float(bf16_from_float(k[i]));
    for (int within = 0; within < 2; within++) {
        r[within] = (struct run){.n = net_begin(true), .within = within};
        struct nn *m = &r[within].n.m;
        struct err e = {0};
        ad_store_narrow(m->store);
        val w = nn_param(m, "matrix", SHAPE(TALL, WIDE), (struct ad_init){AD_INIT_NORMAL, 0.2}, 0);
        val loss = ad_sum_all(m->g, ad_mul(m->g, w, ad_input(m->g, "k", AD_F32, SHAPE(TALL, WIDE))));
        assert_int_equal(ad_store_commit(m->store, &e), 0);
        r[within].o = opt_new(&c, m->store, &e);
        ad_output(m->g, "loss", loss);
        if (within)
            opt_emit_steps(m->g, r[within].o, loss);
        else
            opt_emit_gradients(m->g, m->store, loss);
        r[within].n.p = ad_plan_new(m->g, m->store, 0, &e);
        assert_non_null(r[within].n.p);
        r[within].grad = mem_zero(ad_store_flat_bytes(m->store), 1);
        if (!within) opt_bind_gradients(r[within].n.p, m->store, r[within].grad);
        ad_bind(r[within].n.p, "k", k);
        for (int step = 0; step < STEPS; step++) run_step(&r[within], step);
    }
    assert_true(ad_is_narrow(ad_store_at(r[0].n.m.store, 0)));
    assert_same(&r[0], &r[1], "narrow");
    for (int i = 0; i < 2; i++) run_end(&r[i]);
    free(k);
}

/* The squares tell of it; where it is, and in no other task, nothing moves. */
static void not_finite(void **state)
{
    struct opt_config c = config_of(OPT_ADAMW, OPT_F32, HARD);
    struct run r = run_begin(HARD, &c, &(struct ad_plan_options){0}, true, false);
    struct ad_entry *left = ad_store_find(r.n.m.store, "left"), *right = ad_store_find(r.n.m.store, "right"),
                    *self = ad_store_find(r.n.m.store, "self");
    ((float *)left->data)[7] = INFINITY; /* is right's gradient */
    float *before = mem_alloc((size_t)right->count * sizeof *before), was = *(float *)self->data;
    memcpy(before, right->data, (size_t)right->count * sizeof *before);
    double *square = mem_zero((size_t)opt_param_count(r.o), sizeof *square);
    run_step(&r, 0);
    assert_false(isfinite(opt_squares_within(r.o, r.n.p, square)));
    assert_memory_equal(before, right->data, (size_t)right->count * sizeof *before);
    assert_true(*(float *)self->data != was && isfinite(*(float *)self->data));
    for (int i = 0; i < opt_param_count(r.o); i++)
        assert_true(isfinite(square[i]) == (strcmp(ad_store_at(r.n.m.store, i)->name, "right") != 0));
    free(square);
    free(before);
    run_end(&r);
}

static void norms_by_layer(void **state)
{
    struct opt_config c = config_of(OPT_SGD, OPT_F32, NETWORK);
    struct run want = run_begin(NETWORK, &c, &(struct ad_plan_options){0}, false, false),
               got = run_begin(NETWORK, &c, &(struct ad_plan_options){0}, true, false);
    run_step(&want, 0);
    run_step(&got, 0);
    struct opt_layers *l = opt_layers_new(want.n.m.store);
    double a[64], b[64], square[256];
    assert_in_range(opt_layers_count(l), 5, 64);
    assert_in_range(opt_param_count(got.o), 20, 256);
    opt_squares_within(got.o, got.n.p, square);
    opt_layers_norms(l, want.grad, a);
    opt_layers_norms_of(l, square, b);
    for (int i = 0; i < opt_layers_count(l); i++) assert_true(a[i] > 0 && fabs(a[i] / b[i] - 1) < 1e-12);
    opt_layers_free(l);
    run_end(&want);
    run_end(&got);
}

static void what_does_not_go(void **state)
{
    for (enum opt_kind k = OPT_ADAMW; k <= OPT_MUON; k++)
        for (int clip = 0; clip < 2; clip++) {
            struct opt_config c = {.kind = k, .clip = clip};
            struct err e = {0};
            bool may = !clip && (k == OPT_ADAMW || k == OPT_SGD || k == OPT_LION);
            assert_int_equal(opt_may_step_within(&c, &e), may ? 0 : ERR_CONFIG);
            if (!may) assert_non_null(strstr(e.msg, clip ? "clip 0, not 1" : opt_kind_names[k]));
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_optimizer_and_storage),
        cmocka_unit_test(every_pass_and_precision),
        cmocka_unit_test(any_number_of_threads),
        cmocka_unit_test(within_a_budget),
        cmocka_unit_test(gradients_take_no_memory),
        cmocka_unit_test(narrow_weights),
        cmocka_unit_test(not_finite),
        cmocka_unit_test(norms_by_layer),
        cmocka_unit_test(what_does_not_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
