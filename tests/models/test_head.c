/* Heads against loops of this file: which token follows which, the mean over what is known, CTC's mean by labels.
 * (Whole models against PyTorch: tests/golden.) */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "models/head.h"
#include "tests/support/net.h"

enum { VOCAB = 7, WIDTH = 8, LONGEST = 5, ROWS = 10, ITEMS = 4 };
/* Texts of 3, 1, 0 and 4 tokens, and two rows of padding. */
static const int32_t offsets[] = {0, 3, 4, 4, 8}, tokens[] = {3, 0, 6, 2, 1, 1, 5, 4, 6, 6};
static const int32_t follows[] = {0, 6, -100, -100, 1, 5, 4, -100, -100, -100};

static struct model_tower decoder(void)
{
    struct model_tower t = {.name = "words", .kind = MODEL_TEXT};
    t.text = (struct model_text){.trunk = model_trunk_default(), .vocab = VOCAB, .length = LONGEST};
    t.text.trunk.layers = 1;
    t.text.trunk.width = WIDTH;
    t.text.trunk.heads = 2;
    t.text.trunk.causal = true;
    return t;
}

static double minus_log_p(const float *logits, int n, int at)
{
    double sum = 0;
    for (int i = 0; i < n; i++) sum += exp(logits[i]);
    return log(sum) - logits[at];
}

static void language_models_predict_the_next_token(void **state)
{
    struct model_tower t = decoder();
    struct net n = net_begin(false);
    struct model_lm lm = model_lm(&n.m, &t, (struct model_shape){ITEMS, ROWS});
    ad_output(n.m.g, "next", lm.next);
    ad_output(n.m.g, "logits", lm.logits.x);
    ad_output(n.m.g, "hidden",
              model_hidden(&(struct nn){.g = n.m.g, .store = n.m.store},
                           &(struct model_tower){.name = "other", .kind = MODEL_TEXT, .text = t.text},
                           (struct model_shape){ITEMS, ROWS})
                  .x);
    ad_output(n.m.g, "loss", model_lm_loss(&n.m, &lm));
    net_plan(&n, 0);
    net_fill(&n, 0.7);
    for (int i = 0; i < ad_store_count(n.m.store); i++) { /* the second tower gets the first one's numbers */
        const struct ad_entry *p = ad_store_at(n.m.store, i);
        if (strncmp(p->name, "other.", 6)) continue;
        char name[100];
        snprintf(name, sizeof name, "words.%s", p->name + 6);
        memcpy(p->data, net_param(&n, name), sizeof(float) * (size_t)p->count);
    }
    ad_bind(n.p, "words.tokens", tokens);
    ad_bind(n.p, "words.offsets", offsets);
    ad_bind(n.p, "other.tokens", tokens);
    ad_bind(n.p, "other.offsets", offsets);
    net_run(&n, 0, 0);
    assert_memory_equal(ad_result(n.p, "next", NULL), follows, sizeof follows);
    const float *logits = net_out(&n, "logits"), *hidden = net_out(&n, "hidden"),
                *table = net_param(&n, "words.token.weight");
    assert_null(ad_store_find(n.m.store, "words.head.weight")); /* the table is both ends */
    double loss = 0;
    for (int r = 0; r < offsets[ITEMS]; r++) {
        for (int v = 0; v < VOCAB; v++) {
            double want = 0;
            for (int d = 0; d < WIDTH; d++) want += (double)hidden[r * WIDTH + d] * table[v * WIDTH + d];
            assert_close(logits + r * VOCAB + v, &want, 1, 1e-5);
        }
        if (follows[r] >= 0) loss += minus_log_p(logits + (int64_t)r * VOCAB, VOCAB, follows[r]);
    }
    loss /= 5; /* five tokens have a successor */
    assert_close(net_out(&n, "loss"), &loss, 1, 1e-5);
    net_end(&n);
}

/* Texts of one token have nothing to predict: the loss is 0, not 0 / 0. */
static void nothing_to_predict_is_no_loss(void **state)
{
    struct model_tower t = decoder();
    struct net n = net_begin(false);
    struct model_lm lm = model_lm(&n.m, &t, (struct model_shape){2, 3});
    ad_output(n.m.g, "loss", model_lm_loss(&n.m, &lm));
    net_plan(&n, 0);
    ad_bind(n.p, "words.tokens", (int32_t[]){1, 2, 3});
    ad_bind(n.p, "words.offsets", (int32_t[]){0, 1, 2});
    net_run(&n, 0, 0);
    assert_true(net_out(&n, "loss")[0] == 0);
    net_end(&n);
}

/* The texts in two parts of other lengths (5 and 3 predictions), with dropout, each part's sum divided by the predictions
 * of both: the gradients add up to those of the whole batch's mean. By the parts' own means they do not. */
static void micro_batches_add_up_to_the_mean(void **state)
{
    enum { R = 16 };
    static const int32_t all[R] = {3, 0, 6, 2, 1, 1, 5, 4, 6, 2, 0, 0}, ends[] = {0, 5, 6, 8, 12};
    static const struct {
        int64_t from, items;
    } part[] = {{0, 4}, {0, 3}, {3, 1}};
    struct model_tower t = decoder();
    t.text.trunk.dropout = 0.3;
    float *grad[3][2] = {{0}};
    double count[3];
    int64_t n = 0;
    for (int k = 0; k < 3; k++) {
        struct net net = net_begin(true);
        net.m.part = true;
        struct model_lm lm = model_lm(&net.m, &t, (struct model_shape){part[k].items, R});
        struct model_sum s = model_lm_sum(&net.m, &lm);
        val mean = model_mean(&net.m, s), w = ad_param(net.m.g, "words.token.weight", AD_F32, SHAPE(VOCAB, WIDTH)),
            d[2];
        ad_grad(net.m.g, &s.sum, (val[]){ad_input(net.m.g, "share", AD_F32, SCALAR)}, 1, &w, 1, &d[0]);
        ad_grad(net.m.g, &mean, NULL, 1, &w, 1, &d[1]);
        ad_output(net.m.g, "count", s.count);
        ad_output(net.m.g, "sums", d[0]);
        ad_output(net.m.g, "means", d[1]);
        net_plan(&net, 0);
        net_fill(&net, 0.5);
        int32_t here[5], tokens_here[R] = {0}, before = ends[part[k].from];
        for (int i = 0; i <= part[k].items; i++) here[i] = ends[part[k].from + i] - before;
        memcpy(tokens_here, all + before, sizeof(int32_t) * (size_t)(R - before));
        int64_t first[2];
        model_first(&t, ends, 0, part[k].from, first);
        float share = 1.0f / 8; /* of the whole batch: 4 + 0 + 1 + 3 */
        ad_bind(net.p, "words.tokens", tokens_here);
        ad_bind(net.p, "words.offsets", here);
        ad_bind(net.p, "words.first", first);
        ad_bind(net.p, "share", &share);
        net_run(&net, 1, 2);
        n = VOCAB * WIDTH;
        count[k] = net_out(&net, "count")[0];
        for (int j = 0; j < 2; j++) {
            grad[k][j] = mem_alloc((size_t)n * sizeof(float));
            memcpy(grad[k][j], net_out(&net, j ? "means" : "sums"), (size_t)n * sizeof(float));
        }
        net_end(&net);
    }
    assert_true(count[0] == 8 && count[1] == 5 && count[2] == 3);
    double norm = 0, sums = 0, means = 0;
    for (int64_t i = 0; i < n; i++) {
        double want = grad[0][1][i];
        norm += want * want;
        sums += pow(grad[1][0][i] + grad[2][0][i] - want, 2);
        means += pow((grad[1][1][i] + grad[2][1][i]) / 2 - want, 2);
    }
    print_message("error of summed gradients %.2g of the norm, of averaged means %.2g\n", sqrt(sums / norm),
                  sqrt(means / norm));
    assert_true(sqrt(sums) < 1e-6 * sqrt(norm)); /* other orders of sums */
    assert_true(sqrt(means) > 0.01 * sqrt(norm));
    for (int k = 0; k < 3; k++) free(grad[k][0]), free(grad[k][1]);
}

/* A share of the features is dropped while training, and none otherwise. */
static void classes_drop_features_while_training(void **state)
{
    struct model_tower t = decoder();
    for (int training = 0; training < 2; training++) {
        struct net n = net_begin(training);
        val y = model_classes(&n.m, &t, (struct model_shape){ITEMS, ROWS}, 3, 0.5);
        assert_true(ad_same_shape(ad_shape_of(n.m.g, y), SHAPE(ITEMS, 3)));
        char *graph = ad_graph_text(n.m.g);
        assert_true(!!strstr(graph, " = dropout ") == training);
        free(graph);
        const struct ad_entry *w = ad_store_find(n.m.store, "words.head.weight");
        assert_true(w && ad_same_shape(w->shape, SHAPE(WIDTH, 3)));
        net_end(&n);
    }
}

/* Two frames, one label between blanks: p = p1(l) p2(l) + p1(l) p2(0) + p1(0) p2(l). No label: p = p1(0) p2(0). */
static void ctc_is_the_mean_by_labels(void **state)
{
    enum { FRAMES = 2, B = 3, C = 3 };
    struct net n = net_begin(false);
    struct nn_seq s = {.x = ad_input(n.m.g, "x", AD_F32, SHAPE(B * FRAMES, C)),
                       .offsets = ad_input(n.m.g, "offsets", AD_I32, SHAPE(B + 1)),
                       .rows = B * FRAMES,
                       .items = B,
                       .longest = FRAMES};
    val labels = ad_input(n.m.g, "labels", AD_I32, SHAPE(3)), ends = ad_input(n.m.g, "ends", AD_I32, SHAPE(B + 1));
    ad_output(n.m.g, "loss", model_ctc_loss(&n.m, &s, labels, ends, 0, false));
    net_plan(&n, 0);
    float *x = numbers(B * FRAMES * C, "x");
    ad_bind(n.p, "x", x);
    ad_bind(n.p, "offsets", (int32_t[]){0, 2, 4, 6});
    ad_bind(n.p, "labels", (int32_t[]){2, 1, 2});
    ad_bind(n.p, "ends", (int32_t[]){0, 1, 1, 3});
    net_run(&n, 0, 0);
    double p[B * FRAMES][C];
    for (int r = 0; r < B * FRAMES; r++)
        for (int c = 0; c < C; c++) p[r][c] = exp(-minus_log_p(x + r * C, C, c));
    double want = -log(p[0][2] * p[1][2] + p[0][2] * p[1][0] + p[0][0] * p[1][2]) / 1; /* one label */
    want -= log(p[2][0] * p[3][0]) / 1;                                                /* none counts as one */
    want -= log(p[4][1] * p[5][2]) / 2;                                                /* two */
    want /= B;
    assert_close(net_out(&n, "loss"), &want, 1, 1e-6);
    free(x);
    net_end(&n);
}

static void heads_refuse_other_towers(void **state)
{
    struct err e = {0};
    struct model_tower t = decoder();
    t.text.trunk.causal = false;
    struct net n = net_begin(false);
    struct model_lm lm = model_lm(&n.m, &t, (struct model_shape){ITEMS, ROWS});
    assert_int_equal(model_lm_loss(&n.m, &lm), 0);
    assert_int_equal(nn_status(&n.m, &e), ERR_SHAPE);
    assert_non_null(strstr(e.msg, "words: a language model needs a text tower whose trunk is causal"));
    net_end(&n);
    err_clear(&e);
    n = net_begin(false);
    struct nn_seq y = model_ctc(&n.m, &t, (struct model_shape){ITEMS, ROWS}, VOCAB);
    val none = ad_input(n.m.g, "none", AD_I32, SHAPE(ITEMS + 1));
    assert_int_equal(model_ctc_loss(&n.m, &y, none, none, 0, false), 0);
    assert_int_equal(nn_status(&n.m, &e), ERR_SHAPE);
    assert_non_null(strstr(e.msg, "words: labels of frames need a tower over sound"));
    net_end(&n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(language_models_predict_the_next_token),
        cmocka_unit_test(nothing_to_predict_is_no_loss),
        cmocka_unit_test(micro_batches_add_up_to_the_mean),
        cmocka_unit_test(classes_drop_features_while_training),
        cmocka_unit_test(ctc_is_the_mean_by_labels),
        cmocka_unit_test(heads_refuse_other_towers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
