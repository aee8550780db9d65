/* Towers: every kind builds, is independent of its neighbours in the batch and of padding, and names its parameters by
 * place; what does not fit together is refused. (Values against PyTorch: tests/golden.) */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "models/head.h"
#include "tests/support/net.h"

enum { EMBED = 6, SIZE = 16, BINS = 5, VOCAB = 11, LONGEST = 9 };

static struct model_trunk small(enum nn_pool pool, enum nn_position_kind position)
{
    struct model_trunk t = model_trunk_default();
    t.layers = 2;
    t.width = 8;
    t.heads = 2;
    t.pool = pool;
    t.position = position;
    return t;
}

static struct model_tower vit(enum nn_pool pool)
{
    struct model_tower t = {.name = "pic", .kind = MODEL_VIT, .image_size = SIZE};
    t.vit =
        (struct model_vit){.trunk = small(pool, NN_POS_LEARNED), .patch = 8, .patch_bias = true, .norm_first = true};
    t.vit.class_token = pool == NN_POOL_FIRST;
    return t;
}
static struct model_tower resnet(bool bottleneck)
{
    struct model_tower t = {.name = "pic", .kind = MODEL_RESNET, .image_size = SIZE};
    t.resnet = (struct model_resnet){.width = {4, 6},
                                     .depth = {1, 2},
                                     .n_stages = 2,
                                     .bottleneck = bottleneck,
                                     .stem_kernel = 3,
                                     .stem_stride = 1,
                                     .stem_width = 4,
                                     .stem_pool = bottleneck,
                                     .stem_norm = bottleneck,
                                     .momentum = 0.1,
                                     .eps = 1e-5};
    return t;
}
static struct model_tower efficientnet(void)
{
    struct model_tower t = {.name = "pic", .kind = MODEL_EFFICIENTNET, .image_size = SIZE};
    t.efficientnet = model_efficientnet_variant(0);
    t.efficientnet.width = 0.25;
    t.efficientnet.n_stages = 3;
    return t;
}
static struct model_tower wave(bool post_norm)
{
    struct model_tower t = {.name = "sound", .kind = MODEL_WAVE};
    t.wave = (struct model_wave){.trunk = small(NN_POOL_MEAN, NN_POS_NONE),
                                 .channels = 4,
                                 .kernel = {5, 3},
                                 .stride = {3, 2},
                                 .n_features = 2,
                                 .position_kernel = post_norm ? 4 : 3, /* one is trimmed, the other not */
                                 .position_groups = 2};
    t.wave.trunk.post_norm = post_norm;
    return t;
}
static struct model_tower text(enum nn_pool pool, enum nn_position_kind position, bool causal)
{
    struct model_tower t = {.name = "words", .kind = MODEL_TEXT, .project_bias = true};
    t.text = (struct model_text){.trunk = small(pool, position), .vocab = VOCAB, .length = LONGEST};
    t.text.trunk.causal = causal;
    t.text.entry_norm = t.text.token_types = !causal;
    return t;
}
static struct model_tower audio(int n_stem)
{
    struct model_tower t = {.name = "voice", .kind = MODEL_AUDIO};
    t.audio = (struct model_audio){.trunk = small(NN_POOL_MEAN, NN_POS_SINUSOIDAL),
                                   .bins = BINS,
                                   .length = LONGEST,
                                   .kernel = {3, 5},
                                   .stride = {2, 2},
                                   .n_stem = n_stem};
    return t;
}

/* What the towers read: three items of 4, 9 and 2 rows, and two rows of padding filled with `junk`. */
static const int32_t lengths[] = {4, 9, 2}, offsets[] = {0, 4, 13, 15};
enum { ITEMS = 3, ROWS = 17, SAMPLES = 40, MOST = 8192 };

/* Runs on item `only`, or on all of them (-1), which lie at `at`. */
static void run_on_inputs(struct net *n, int only, int junk, const int32_t at[ITEMS + 1])
{
    int first = only < 0 ? 0 : only, from = at[first];
    int32_t one[] = {0, at[first + 1] - from}, tokens[ROWS];
    float *image = numbers(ITEMS * SIZE * SIZE * 3, "image"), *frames = numbers(ROWS * BINS, "frames");
    float *sound = numbers(ITEMS * SAMPLES, "sound");
    for (int i = 0; i < ROWS; i++) tokens[i] = i * 7 % VOCAB;
    for (int i = at[ITEMS]; i < ROWS; i++) {
        tokens[i] = junk;
        for (int k = 0; k < BINS; k++) frames[i * BINS + k] = (float)junk;
    }
    ad_bind(n->p, "pic.image", image + first * SIZE * SIZE * 3);
    ad_bind(n->p, "sound.wave", sound + first * SAMPLES);
    ad_bind(n->p, "words.tokens", tokens + from);
    ad_bind(n->p, "voice.frames", frames + from * BINS);
    ad_bind(n->p, "words.offsets", only < 0 ? at : one);
    ad_bind(n->p, "voice.offsets", only < 0 ? at : one);
    net_run(n, 0, 0);
    free(image);
    free(frames);
    free(sound);
}

/* Embeds item `only`, or all of them (-1), into out (n, EMBED). */
static void embed(const struct model_tower *t, int only, int junk, float *out)
{
    struct net n = net_begin(false);
    int items = only < 0 ? ITEMS : 1, rows = only < 0 ? ROWS : lengths[only];
    if (t->kind == MODEL_WAVE) rows = items * SAMPLES;
    val y = model_embed(&n.m, t, (struct model_shape){items, rows}, EMBED);
    struct err e = {0};
    assert_int_equal(model_check(t, &e), 0);
    assert_true(ad_same_shape(ad_shape_of(n.m.g, y), SHAPE(items, EMBED)));
    ad_output(n.m.g, "y", y);
    net_plan(&n, 0);
    net_fill(&n, 0.3);
    run_on_inputs(&n, only, junk, offsets);
    memcpy(out, net_out(&n, "y"), sizeof(float) * (size_t)(items * EMBED));
    net_end(&n);
}

static void towers_embed_each_item_for_itself(void **state)
{
    const struct model_tower towers[] = {vit(NN_POOL_MEAN),
                                         vit(NN_POOL_FIRST),
                                         vit(NN_POOL_ATTENTION),
                                         resnet(false),
                                         resnet(true),
                                         efficientnet(),
                                         wave(false),
                                         wave(true),
                                         text(NN_POOL_LAST, NN_POS_LEARNED, true),
                                         text(NN_POOL_FIRST, NN_POS_ROTARY, false),
                                         text(NN_POOL_ATTENTION, NN_POS_RELATIVE, false),
                                         text(NN_POOL_MEAN, NN_POS_NONE, true),
                                         audio(0),
                                         audio(1),
                                         audio(2)};
    for (size_t k = 0; k < sizeof towers / sizeof *towers; k++) {
        float all[ITEMS * EMBED], again[ITEMS * EMBED], one[EMBED];
        embed(&towers[k], -1, 0, all);
        embed(&towers[k], -1, 3, again);
        assert_memory_equal(all, again, sizeof all); /* padding is not seen */
        for (int i = 0; i < ITEMS; i++) {
            double norm = 0;
            for (int d = 0; d < EMBED; d++) norm += (double)all[i * EMBED + d] * all[i * EMBED + d];
            assert_true(fabs(norm - 1) < 1e-5);
            embed(&towers[k], i, 0, one);
            assert_close(one, all + i * EMBED, EMBED, 1e-4); /* other blocking of f32 sums, through two blocks */
        }
        assert_memory_not_equal(all, all + EMBED, sizeof one);
    }
}

/* Features of three items, the second without rows where a tower's can be, and the gradients of all parameters: into out.
 * Returns how many numbers; *flops: what a run computes. */
static int64_t features_and_gradients(const struct model_tower *t, bool of_hidden, float *out, double *flops)
{
    struct net n = net_begin(false);
    struct ad_graph *g = n.m.g;
    struct model_shape s = {ITEMS, t->kind == MODEL_WAVE ? ITEMS * SAMPLES : ROWS};
    const struct model_trunk *c = t->kind == MODEL_VIT    ? &t->vit.trunk
                                  : t->kind == MODEL_TEXT ? &t->text.trunk
                                                          : &t->wave.trunk;
    val y;
    if (of_hidden) {
        struct nn_seq x = model_hidden(&n.m, t, s);
        ad_push(g, "%s", t->name);
        y = nn_pool(&n.m, "pool", (enum nn_pool)c->pool, &x, c->heads);
        if (t->kind == MODEL_VIT && !t->vit.norm_first) y = nn_norm(&n.m, "norm", NN_LAYER_NORM, y, c->eps);
        ad_pop(g);
    } else {
        y = model_features(&n.m, t, s);
    }
    val loss = ad_sum_all(g, ad_mul(g, y, ad_input(g, "w", AD_F32, SHAPE(ITEMS, c->width)))), p[64], d[64];
    int count = ad_store_count(n.m.store);
    assert_in_range(count, 1, 64);
    for (int i = 0; i < count; i++) {
        const struct ad_entry *x = ad_store_at(n.m.store, i);
        p[i] = ad_param(g, x->name, x->dtype, x->shape);
    }
    ad_grad(g, &loss, NULL, 1, p, count, d);
    for (int i = 0; i < count; i++) ad_output(g, ad_store_at(n.m.store, i)->name, d[i]);
    ad_output(g, "y", y);
    net_plan(&n, 0);
    net_fill(&n, 0.4);
    float *w = numbers(ITEMS * c->width, "w");
    ad_bind(n.p, "w", w);
    run_on_inputs(&n, -1, 0, (int32_t[]){0, 6, 6, 15});
    int64_t done = ITEMS * c->width;
    memcpy(out, net_out(&n, "y"), sizeof(float) * (size_t)done);
    for (int i = 0; i < count; i++) {
        const struct ad_entry *x = ad_store_at(n.m.store, i);
        assert_true(done + x->count < MOST);
        memcpy(out + done, net_out(&n, x->name), sizeof(float) * (size_t)x->count);
        done += x->count;
    }
    *flops = ad_plan_stats(n.p).flops;
    free(w);
    net_end(&n);
    return done;
}

/* Where pooling asks for one row of an item, the last block is made for it alone: the same features and gradients as by
 * all hidden states, with less to compute. */
static void a_pooled_row_is_that_of_the_hidden_states(void **state)
{
    struct model_tower towers[] = {vit(NN_POOL_FIRST),
                                   vit(NN_POOL_FIRST),
                                   wave(true),
                                   text(NN_POOL_FIRST, NN_POS_LEARNED, false),
                                   text(NN_POOL_FIRST, NN_POS_ROTARY, false),
                                   text(NN_POOL_FIRST, NN_POS_RELATIVE, false),
                                   text(NN_POOL_LAST, NN_POS_LEARNED, true),
                                   text(NN_POOL_LAST, NN_POS_SINUSOIDAL, true),
                                   text(NN_POOL_LAST, NN_POS_NONE, false),
                                   text(NN_POOL_LAST, NN_POS_LEARNED, true),
                                   text(NN_POOL_FIRST, NN_POS_LEARNED, true), /* and these see less than all of it */
                                   text(NN_POOL_LAST, NN_POS_ROTARY, true),
                                   text(NN_POOL_LAST, NN_POS_RELATIVE, false),
                                   text(NN_POOL_MEAN, NN_POS_LEARNED, false)};
    const size_t n = sizeof towers / sizeof *towers, by_rows = 4;
    towers[1].vit.norm_first = false;
    towers[2].wave.trunk.pool = NN_POOL_LAST;
    towers[3].text.trunk.post_norm = true;
    towers[9].text.trunk.gated = true;
    towers[9].text.trunk.layer_scale = 0.5;
    towers[9].text.trunk.layers = 1;
    float *want = mem_alloc(MOST * sizeof *want), *got = mem_alloc(MOST * sizeof *got);
    for (size_t i = 0; i < n; i++) {
        double all, less;
        int64_t count = features_and_gradients(&towers[i], true, want, &all);
        assert_int_equal(features_and_gradients(&towers[i], false, got, &less), count);
        assert_close(got, want, count, 2e-5); /* f32 sums in another order, through two blocks and back */
        if (i + by_rows < n)
            assert_true(less < all);
        else
            assert_true(less == all);
    }
    free(want);
    free(got);
}

/* Hidden states of a causal tower do not know what comes later; those of a bidirectional one do. */
static void causal_towers_do_not_look_ahead(void **state)
{
    for (int causal = 0; causal < 2; causal++) {
        struct model_tower t = text(NN_POOL_LAST, NN_POS_LEARNED, causal);
        struct net n = net_begin(false);
        ad_output(n.m.g, "y", model_hidden(&n.m, &t, (struct model_shape){1, 5}).x);
        net_plan(&n, 0);
        net_fill(&n, 0.5);
        ad_bind(n.p, "words.tokens", (int32_t[]){1, 2, 3, 4, 5});
        ad_bind(n.p, "words.offsets", (int32_t[]){0, 5});
        net_run(&n, 0, 0);
        float before[5 * 8];
        memcpy(before, net_out(&n, "y"), sizeof before);
        ad_bind(n.p, "words.tokens", (int32_t[]){1, 2, 3, 4, 9});
        net_run(&n, 0, 0);
        bool same = !memcmp(before, net_out(&n, "y"), sizeof(float) * 4 * 8);
        assert_true(same == causal);
        assert_memory_not_equal(before + 32, net_out(&n, "y") + 32, sizeof(float) * 8);
        net_end(&n);
    }
}

static bool has(const struct net *n, const char *name, struct ad_shape s, unsigned flags)
{
    const struct ad_entry *p = ad_store_find(n->m.store, name);
    return p && ad_same_shape(p->shape, s) && p->flags == flags;
}

static void parameters_are_named_by_place(void **state)
{
    struct model_tower towers[] = {vit(NN_POOL_FIRST), text(NN_POOL_LAST, NN_POS_RELATIVE, true), audio(2)};
    towers[0].vit.norm_first = false; /* as CLIP: the norm after pooling */
    struct net n = net_begin(true);
    for (int i = 0; i < 3; i++) model_embed(&n.m, &towers[i], (struct model_shape){2, 20}, EMBED);
    struct err e = {0};
    assert_int_equal(nn_status(&n.m, &e), 0);
    assert_true(has(&n, "pic.patch.weight", SHAPE(8, 8, 3, 8), 0));
    assert_true(has(&n, "pic.class", SHAPE(1, 1, 8), AD_NO_DECAY));
    assert_true(has(&n, "pic.position.weight", SHAPE(5, 8), AD_EDGE));
    assert_true(has(&n, "pic.block.1.attention.qkv.weight", SHAPE(8, 24), 0));
    assert_true(has(&n, "pic.block.1.attention.qkv.bias", SHAPE(24), AD_NO_DECAY));
    assert_true(has(&n, "pic.block.0.mlp.up.weight", SHAPE(8, 32), 0));
    assert_true(has(&n, "pic.norm.weight", SHAPE(8), AD_NO_DECAY));
    assert_true(has(&n, "pic.project.weight", SHAPE(8, EMBED), AD_EDGE));
    assert_null(ad_store_find(n.m.store, "pic.project.bias"));
    assert_true(has(&n, "words.token.weight", SHAPE(VOCAB, 8), AD_EDGE));
    assert_true(has(&n, "words.relative.weight", SHAPE(32, 2), AD_EDGE));
    assert_true(has(&n, "words.project.bias", SHAPE(EMBED), AD_NO_DECAY));
    assert_true(has(&n, "voice.stem.0.weight", SHAPE(3, BINS, 8), 0));
    assert_true(has(&n, "voice.stem.1.weight", SHAPE(5, 8, 8), 0));
    assert_null(ad_store_find(n.m.store, "words.block.2.norm1.weight"));
    net_end(&n);
}

/* The sizes of a batch and the mode change the graph, never the parameters. */
static void parameters_do_not_depend_on_the_batch(void **state)
{
    struct model_tower towers[] = {vit(NN_POOL_MEAN), resnet(true), text(NN_POOL_LAST, NN_POS_LEARNED, true),
                                   audio(2),          wave(true),   efficientnet()};
    for (size_t i = 0; i < sizeof towers / sizeof *towers; i++) {
        struct net n = net_begin(true);
        model_embed(&n.m, &towers[i], (struct model_shape){2, 40}, EMBED);
        int count = ad_store_count(n.m.store);
        struct nn other = {.g = ad_graph_new(), .store = n.m.store};
        model_embed(&other, &towers[i], (struct model_shape){7, 7 * 64}, EMBED);
        struct err e = {0};
        assert_int_equal(nn_status(&other, &e), 0);
        assert_int_equal(ad_store_count(n.m.store), count);
        ad_graph_free(other.g);
        net_end(&n);
    }
}

/* A stem of kernel 4 and stride 4 cuts a 16 x 16 image into 4 x 4 patches, with a norm after it or without. */
static void patch_stems_are_not_padded(void **state)
{
    for (int norm = 0; norm < 2; norm++) {
        struct model_tower t = resnet(false);
        t.resnet.stem_kernel = t.resnet.stem_stride = 4;
        t.resnet.stem_norm = norm;
        struct net n = net_begin(false);
        model_features(&n.m, &t, (struct model_shape){1, 1});
        char *graph = ad_graph_text(n.m.g);
        assert_non_null(strstr(graph, "(1, 4, 4, 4) = conv2d"));
        free(graph);
        net_end(&n);
    }
}

static void what_does_not_fit_is_refused(void **state)
{
    struct err e = {0};
    struct model_tower t = text(NN_POOL_LAST, NN_POS_LEARNED, true);
    t.text.trunk.heads = 3;
    assert_int_equal(model_check(&t, &e), ERR_CONFIG);
    assert_string_equal(e.msg, "words: width 8 must be a multiple of heads 3");
    err_clear(&e);
    t = text(NN_POOL_LAST, NN_POS_ROTARY, true);
    t.text.trunk.heads = 8;
    assert_int_equal(model_check(&t, &e), ERR_CONFIG);
    assert_non_null(strstr(e.msg, "words: rotary positions need an even width per head"));
    err_clear(&e);
    t = vit(NN_POOL_MEAN);
    t.vit.patch = 5;
    assert_int_equal(model_check(&t, &e), ERR_CONFIG);
    assert_non_null(strstr(e.msg, "pic: image size 16 must be a multiple of patch 5"));
    err_clear(&e);
    t = vit(NN_POOL_MEAN);
    t.vit.trunk.pool = NN_POOL_FIRST;
    assert_int_equal(model_check(&t, &e), ERR_CONFIG);
    err_clear(&e);
    t = resnet(false);
    t.resnet.n_stages = 6;
    assert_int_equal(model_check(&t, &e), ERR_CONFIG);
    assert_non_null(strstr(e.msg, "too small"));
    err_clear(&e);
    t = efficientnet();
    t.efficientnet.stage[1].kernel = 4;
    assert_int_equal(model_check(&t, &e), ERR_CONFIG);
    assert_string_equal(e.msg, "pic: stage 1: a depthwise kernel must be odd, not 4");
    err_clear(&e);
    t = wave(true);
    t.wave.position_groups = 3;
    assert_int_equal(model_check(&t, &e), ERR_CONFIG);
    assert_string_equal(e.msg, "sound: width 8 must be a multiple of position_groups 3");
    err_clear(&e);
    t = wave(true);
    t.wave.n_features = 0;
    assert_int_equal(model_check(&t, &e), ERR_CONFIG);
    err_clear(&e);
    t = wave(true);
    struct net n = net_begin(false);
    model_features(&n.m, &t, (struct model_shape){3, 100});
    assert_int_equal(nn_status(&n.m, &e), ERR_SHAPE);
    assert_non_null(strstr(e.msg, "100 samples are not 3 clips of one length"));
    net_end(&n);
}

/* Channels and layers of the published models, as counted in table 1 and torchvision: the numbers of parameters that the
 * papers give, with a head of 1000 classes. */
static void efficientnets_have_their_published_sizes(void **state)
{
    static const int64_t want[] = {5288548, 7794184, 9109994, 12233232};
    for (int b = 0; b < 4; b++) {
        struct model_tower t = {.name = "pic", .kind = MODEL_EFFICIENTNET, .image_size = 224};
        t.efficientnet = model_efficientnet_variant(b);
        struct net n = net_begin(false);
        model_classes(&n.m, &t, (struct model_shape){.items = 1}, 1000, 0);
        int64_t count = 0;
        for (int i = 0; i < ad_store_count(n.m.store); i++) {
            const struct ad_entry *p = ad_store_at(n.m.store, i);
            if (!(p->flags & AD_STATE)) count += ad_count(p->shape);
        }
        assert_int_equal(count, want[b]);
        net_end(&n);
    }
}

/* One drop for each residual block but the very first, and none outside of training (B0's first three stages have five
 * blocks, two of them residual). */
static void drop_path_is_on_residual_branches(void **state)
{
    for (int training = 0; training < 2; training++)
        for (int drop = 0; drop < 2; drop++) {
            struct model_tower t = efficientnet();
            t.efficientnet.drop_path = drop ? 0.2 : 0;
            struct net n = net_begin(training);
            model_features(&n.m, &t, (struct model_shape){.items = 2});
            char *graph = ad_graph_text(n.m.g);
            int count = 0;
            for (const char *at = graph; (at = strstr(at, " = dropout ")); at++) count++;
            assert_int_equal(count, training && drop ? 2 : 0);
            free(graph);
            net_end(&n);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(towers_embed_each_item_for_itself),
        cmocka_unit_test(a_pooled_row_is_that_of_the_hidden_states),
        cmocka_unit_test(causal_towers_do_not_look_ahead),
        cmocka_unit_test(parameters_are_named_by_place),
        cmocka_unit_test(parameters_do_not_depend_on_the_batch),
        cmocka_unit_test(patch_stems_are_not_padded),
        cmocka_unit_test(what_does_not_fit_is_refused),
        cmocka_unit_test(efficientnets_have_their_published_sizes),
        cmocka_unit_test(drop_path_is_on_residual_branches),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
