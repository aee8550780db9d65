/* Every kind of tower trained in budgets that fall: what is computed a second time changes no bit of loss, gradients and
 * running statistics, and the plan keeps to what it was given. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/threads.h"
#include "models/head.h"
#include "optim/opt.h"
#include "tests/support/net.h"

enum { EMBED = 16, SIZE = 32, BINS = 16, VOCAB = 50, LONGEST = 24, ITEMS = 6, ROWS = 64, SAMPLES = 400 };

static struct model_trunk trunk(enum nn_pool pool, enum nn_position_kind position)
{
    struct model_trunk t = model_trunk_default();
    t.layers = 6;
    t.width = 32;
    t.heads = 4;
    t.pool = pool;
    t.position = position;
    t.dropout = 0.1;
    t.drop_path = 0.1;
    return t;
}

static struct model_tower vit(void)
{
    struct model_tower t = {.name = "x", .kind = MODEL_VIT, .image_size = SIZE};
    t.vit = (struct model_vit){.trunk = trunk(NN_POOL_FIRST, NN_POS_LEARNED), .patch = 8, .class_token = true};
    return t;
}
static struct model_tower resnet(bool bottleneck)
{
    struct model_tower t = {.name = "x", .kind = MODEL_RESNET, .image_size = SIZE};
    t.resnet = (struct model_resnet){.width = {8, 16},
                                     .depth = {2, 3},
                                     .n_stages = 2,
                                     .bottleneck = bottleneck,
                                     .stem_kernel = 3,
                                     .stem_stride = 2,
                                     .stem_width = 8,
                                     .stem_norm = true,
                                     .stem_pool = bottleneck,
                                     .momentum = 0.1,
                                     .eps = 1e-5};
    return t;
}
static struct model_tower efficientnet(void)
{
    struct model_tower t = {.name = "x", .kind = MODEL_EFFICIENTNET, .image_size = SIZE};
    t.efficientnet = model_efficientnet_variant(0);
    t.efficientnet.width = 0.25;
    t.efficientnet.n_stages = 4;
    return t;
}
static struct model_tower text(enum nn_pool pool, enum nn_position_kind position, bool gated, bool post_norm)
{
    struct model_tower t = {.name = "x", .kind = MODEL_TEXT, .project_bias = true};
    t.text = (struct model_text){.trunk = trunk(pool, position), .vocab = VOCAB, .length = LONGEST};
    t.text.trunk.causal = pool == NN_POOL_LAST;
    t.text.trunk.gated = gated;
    t.text.trunk.post_norm = post_norm;
    return t;
}
static struct model_tower audio(void)
{
    struct model_tower t = {.name = "x", .kind = MODEL_AUDIO};
    t.audio = (struct model_audio){.trunk = trunk(NN_POOL_MEAN, NN_POS_SINUSOIDAL),
                                   .bins = BINS,
                                   .length = LONGEST,
                                   .kernel = {3, 5},
                                   .stride = {1, 2},
                                   .n_stem = 2};
    return t;
}
static struct model_tower wave(void)
{
    struct model_tower t = {.name = "x", .kind = MODEL_WAVE};
    t.wave = (struct model_wave){.trunk = trunk(NN_POOL_MEAN, NN_POS_NONE),
                                 .channels = 16,
                                 .kernel = {5, 3},
                                 .stride = {4, 2},
                                 .n_features = 2,
                                 .position_kernel = 4,
                                 .position_groups = 2};
    t.wave.trunk.post_norm = true;
    return t;
}

/* The net of one tower with a loss and the gradients of all parameters, and what a run leaves. */
struct job {
    struct net n;
    float *image, *frames, *sound, *grad;
    int64_t n_grad;
    char *state; /* running statistics before a run */
};

static void job_begin(struct job *j, const struct model_tower *t)
{
    *j = (struct job){.n = net_begin(true)};
    struct ad_graph *g = j->n.m.g;
    struct err e = {0};
    assert_int_equal(model_check(t, &e), 0);
    struct model_shape s = {ITEMS, t->kind == MODEL_WAVE ? ITEMS * SAMPLES : ROWS};
    val y = model_embed(&j->n.m, t, s, EMBED), want = ad_input(g, "want", AD_F32, SHAPE(ITEMS, EMBED));
    val loss = ad_sum_all(g, ad_mul(g, y, want));
    ad_output(g, "loss", loss);
    opt_emit_gradients(g, j->n.m.store, loss);
    if (nn_status(&j->n.m, &e) || ad_store_commit(j->n.m.store, &e)) fail_msg("%s", e.msg);
    net_fill(&j->n, 0.2);
    j->n_grad = ad_store_flat_count(j->n.m.store);
    j->grad = mem_zero((size_t)j->n_grad, sizeof *j->grad);
    j->image = numbers(ITEMS * SIZE * SIZE * 3, "image");
    j->frames = numbers(ROWS * BINS, "frames");
    j->sound = numbers(ITEMS * SAMPLES, "sound");
}

static void job_end(struct job *j)
{
    free(j->image);
    free(j->frames);
    free(j->sound);
    free(j->grad);
    net_end(&j->n);
}

/* All that is left behind by a run: loss, gradients, state. From the same start each time. The caller frees. */
static float *run(struct job *j, struct ad_plan *p, size_t *count)
{
    static const int32_t offsets[ITEMS + 1] = {0, 9, 10, 30, 41, 50, 61};
    int32_t tokens[ROWS];
    struct ad_store *s = j->n.m.store;
    float *want = numbers(ITEMS * EMBED, "want");
    struct err e = {0};
    for (int i = 0; i < ROWS; i++) tokens[i] = i * 7 % VOCAB;
    ad_bind(p, "want", want);
    ad_bind(p, "x.image", j->image);
    ad_bind(p, "x.frames", j->frames);
    ad_bind(p, "x.wave", j->sound);
    ad_bind(p, "x.tokens", tokens);
    ad_bind(p, "x.offsets", offsets);
    opt_bind_gradients(p, s, j->grad);
    net_fill(&j->n, 0.2);
    if (ad_run(p, 3, 4, &e)) fail_msg("%s", e.msg);
    size_t n = 1 + (size_t)j->n_grad;
    for (int i = 0; i < ad_store_count(s); i++)
        if (ad_store_at(s, i)->flags & AD_STATE) n += (size_t)ad_store_at(s, i)->count;
    float *out = mem_alloc(n * sizeof *out), *at = out + 1 + j->n_grad;
    out[0] = (float)ad_result_scalar(p, "loss");
    memcpy(out + 1, j->grad, (size_t)j->n_grad * sizeof *out);
    for (int i = 0; i < ad_store_count(s); i++) {
        const struct ad_entry *x = ad_store_at(s, i);
        if (!(x->flags & AD_STATE)) continue;
        memcpy(at, x->data, (size_t)x->count * sizeof *at);
        at += x->count;
    }
    free(want);
    *count = n;
    return out;
}

/* Budgets that fall by `step` per cent of what the plan takes; returns how many were met. */
static int sweep(const struct model_tower *t, unsigned flags, int step)
{
    struct job j;
    struct err e = {0};
    size_t n;
    job_begin(&j, t);
    struct ad_plan *p = ad_plan_new(j.n.m.g, j.n.m.store, flags, &e);
    if (!p) fail_msg("%s", e.msg);
    float *want = run(&j, p, &n);
    struct ad_plan_stats whole = ad_plan_stats(p);
    ad_plan_free(p);
    int met = 0;
    for (int share = 95; share > 10; share -= step) {
        struct ad_plan_options o = {.flags = flags, .taken = 1000};
        int64_t room = whole.arena_bytes * share / 100;
        o.budget = room + o.taken;
        err_clear(&e);
        p = ad_plan_with(j.n.m.g, j.n.m.store, &o, &e);
        if (!p) {
            assert_int_equal(e.code, ERR_MEMORY);
            break;
        }
        struct ad_plan_stats x = ad_plan_stats(p);
        assert_true(x.arena_bytes <= room);
        assert_int_equal(x.free_bytes, whole.arena_bytes);
        assert_true(x.recomputed > whole.recomputed && x.again_s > whole.again_s);
        assert_true(fabs(x.flops - x.again_flops - (whole.flops - whole.again_flops)) < 1e-9 * whole.flops);
        size_t m;
        float *got = run(&j, p, &m);
        assert_int_equal(m, n);
        for (size_t i = 0; i < n; i++)
            if (memcmp(&got[i], &want[i], sizeof *got))
                fail_msg("kind %d, budget %d %%: number %zu of %zu is %.9g, not %.9g", t->kind, share, i, n,
                         (double)got[i], (double)want[i]);
        met++;
        free(got);
        ad_plan_free(p);
    }
    free(want);
    job_end(&j);
    return met;
}

static void same_bits_in_every_budget(void **state)
{
    const struct model_tower towers[] = {vit(),
                                         resnet(false),
                                         resnet(true),
                                         efficientnet(),
                                         text(NN_POOL_LAST, NN_POS_LEARNED, false, false),
                                         text(NN_POOL_MEAN, NN_POS_ROTARY, true, false),
                                         text(NN_POOL_ATTENTION, NN_POS_RELATIVE, false, true),
                                         audio(),
                                         wave()};
    for (size_t i = 0; i < sizeof towers / sizeof *towers; i++) assert_true(sweep(&towers[i], 0, 8) >= 3);
}

/* The other passes may be on or off. */
static void same_bits_without_other_passes(void **state)
{
    static const unsigned flags[] = {AD_NO_FUSE, AD_NO_SIMPLIFY, AD_NO_KERNELS, AD_NO_FUSE | AD_NO_KERNELS};
    const struct model_tower towers[] = {vit(), resnet(false), audio()};
    for (size_t i = 0; i < sizeof towers / sizeof *towers; i++)
        for (size_t k = 0; k < sizeof flags / sizeof *flags; k++) assert_true(sweep(&towers[i], flags[k], 20) >= 2);
}

/* A chain of blocks goes far below what its activations take, at less than the forward part once more. */
static void much_is_saved_for_little(void **state)
{
    struct job j;
    struct err e = {0};
    struct model_tower t = text(NN_POOL_LAST, NN_POS_LEARNED, false, false);
    t.text.trunk.layers = 24;
    job_begin(&j, &t);
    struct ad_plan *p = ad_plan_new(j.n.m.g, j.n.m.store, 0, &e);
    if (!p) fail_msg("%s", e.msg);
    struct ad_plan_stats whole = ad_plan_stats(p);
    ad_plan_free(p);
    double before = 0;
    for (int part = 2; part <= 5; part++) {
        double cpu = process_cpu();
        p = ad_plan_with(j.n.m.g, j.n.m.store, &(struct ad_plan_options){.budget = whole.arena_bytes / part}, &e);
        cpu = process_cpu() - cpu;
        if (!p) fail_msg("a part of %d: %s", part, e.msg);
        struct ad_plan_stats x = ad_plan_stats(p);
        assert_true(x.arena_bytes <= whole.arena_bytes / part);
        double again = x.again_flops / (whole.flops - whole.again_flops);
        print_message("1/%d of the memory: %.1f %% more operations, planned in %.1f ms\n", part, 100 * again,
                      1e3 * cpu);
        assert_true(again < 1.0 / 3 && again >= before - 0.02); /* the forward part is a third of a step */
        before = again;
        ad_plan_free(p);
    }
    job_end(&j);
}

/* With memory of its own for every value (to find where a NaN comes from) there is no limit; without recomputation there
 * is nothing to choose, and without a limit nothing changes. */
static void flags_and_budgets(void **state)
{
    struct job j;
    struct err e = {0};
    struct model_tower t = vit();
    job_begin(&j, &t);
    struct ad_plan_options o = {.flags = AD_NO_REUSE | AD_CHECK_FINITE, .budget = 1000};
    struct ad_plan *p = ad_plan_with(j.n.m.g, j.n.m.store, &o, &e);
    if (!p) fail_msg("%s", e.msg);
    assert_true(ad_plan_stats(p).arena_bytes > o.budget);
    ad_plan_free(p);
    o.flags = AD_NO_RECOMPUTE;
    assert_null(ad_plan_with(j.n.m.g, j.n.m.store, &o, &e));
    assert_int_equal(e.code, ERR_MEMORY);
    err_clear(&e);
    p = ad_plan_new(j.n.m.g, j.n.m.store, 0, &e);
    struct ad_plan_stats whole = ad_plan_stats(p);
    ad_plan_free(p);
    o = (struct ad_plan_options){.budget = whole.arena_bytes + 7, .taken = 7};
    p = ad_plan_with(j.n.m.g, j.n.m.store, &o, &e);
    assert_int_equal(ad_plan_stats(p).recomputed, whole.recomputed);
    ad_plan_free(p);
    o.budget--;
    p = ad_plan_with(j.n.m.g, j.n.m.store, &o, &e);
    assert_true(ad_plan_stats(p).recomputed > whole.recomputed);
    assert_int_equal(ad_plan_stats(p).free_bytes, whole.arena_bytes);
    ad_plan_free(p);
    job_end(&j);
}

/* A graph without gradients has nothing that is kept for them. */
static void a_forward_graph_cannot_shrink(void **state)
{
    struct net n = net_begin(false);
    struct model_tower t = vit();
    struct err e = {0};
    ad_output(n.m.g, "y", model_embed(&n.m, &t, (struct model_shape){ITEMS, 0}, EMBED));
    net_plan(&n, 0);
    int64_t bytes = ad_plan_stats(n.p).arena_bytes;
    assert_null(ad_plan_with(n.m.g, n.m.store, &(struct ad_plan_options){.budget = bytes - 64}, &e));
    assert_int_equal(e.code, ERR_MEMORY);
    net_end(&n);
}

int main(void)
{
    threads_init(1); /* small work: others that want the processor would make threads wait for each other */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bits_in_every_budget),     cmocka_unit_test(same_bits_without_other_passes),
        cmocka_unit_test(much_is_saved_for_little),      cmocka_unit_test(flags_and_budgets),
        cmocka_unit_test(a_forward_graph_cannot_shrink),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
