/* What a run's log says of gradients: their noise scale against samples of a known distribution, their norms by layer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/threads.h"
#include "optim/layers.h"
#include "optim/noise.h"
#include "optim/opt.h"

/* Per-sample gradients G + N(0, S / D I) in D dimensions: the scale is S / |G|^2 = 40 samples. Each step averages 8
 * micro-batches of 4. The moving averages keep about 200 steps; their ratio's error, from the variances of chi-squares, is
 * some 4 %, and five of those are let pass. */
static void noise_scale_of_known_gradients(void **state)
{
    enum { D = 50, MICRO = 8, EACH = 4, STEPS = 1000 };
    struct opt_noise n = {0};
    assert_true(isnan(opt_noise_scale(&n)));
    double mean[D], g2 = 0;
    struct rng r = rng_make(1, 2, 3);
    for (int i = 0; i < D; i++) mean[i] = rng_normal(&r), g2 += mean[i] * mean[i];
    double deviation = sqrt(40 * g2 / D);
    for (int t = 0; t < STEPS; t++) {
        double whole[D] = {0}, small2 = 0, big2 = 0;
        for (int k = 0; k < MICRO; k++) {
            double part[D] = {0};
            for (int b = 0; b < EACH; b++)
                for (int i = 0; i < D; i++) part[i] += (mean[i] + deviation * rng_normal(&r)) / EACH;
            for (int i = 0; i < D; i++) small2 += part[i] * part[i] / MICRO, whole[i] += part[i] / MICRO;
        }
        for (int i = 0; i < D; i++) big2 += whole[i] * whole[i];
        opt_noise_add(&n, small2, EACH, big2, EACH * MICRO);
    }
    assert_int_equal(n.count, STEPS);
    assert_true(fabs(opt_noise_scale(&n) / 40 - 1) < 0.2);
}

/* One step by hand: |G|^2 = (8 * 3 - 2 * 6) / 6 = 2, S = (6 - 3) / (1/2 - 1/8) = 8. */
static void noise_scale_by_hand(void **state)
{
    struct opt_noise n = {0};
    opt_noise_add(&n, 6, 2, 3, 8);
    assert_true(fabs(opt_noise_scale(&n) - 4) < 1e-12);
    struct opt_noise kept = n;
    opt_noise_add(&n, NAN, 2, 3, 8);
    opt_noise_add(&n, 6, 2, INFINITY, 8);
    assert_memory_equal(&kept, &n, sizeof n);
    opt_noise_add(&n, 9, 2, 3, 8); /* |G|^2 = 1, S = 16 */
    assert_true(fabs(opt_noise_scale(&n) - (0.99 * 8 + 16) / (0.99 * 2 + 1)) < 1e-12);
    struct opt_noise hidden = {0};
    opt_noise_add(&hidden, 6, 2, 1, 8); /* |G|^2 = -2/3: noise hides it */
    assert_true(isnan(opt_noise_scale(&hidden)));
}

static void norms_by_layer(void **state)
{
    static const struct {
        const char *name, *layer;
        int64_t count;
    } rows[] = {
        {"image.patch.weight", "image.patch", 20000},
        {"image.block.0.attention.qkv.weight", "image.block.0", 40000},
        {"image.block.0.norm.bias", "image.block.0", 7},
        {"image.block.10.up.weight", "image.block.10", 33},
        {"image.class", "image", 5},
        {"text.token.weight", "text.token", 100},
        {"image.patch.bias", "image.patch", 3}, /* not beside the other one */
        {"image.stage.2.block.1.weight", "image.stage.2", 9},
        {"loss.scale", "loss", 1},
        {"alone", "alone", 2},
        {"image.running", NULL, 4}, /* not trained */
    };
    enum { N = sizeof rows / sizeof *rows };
    struct ad_store *s = ad_store_new(1);
    struct err e = {0};
    for (int i = 0; i < N; i++)
        assert_int_equal(ad_store_declare(s, rows[i].name, AD_F32, SHAPE(rows[i].count),
                                          (struct ad_init){AD_INIT_ZERO, 0}, rows[i].layer ? 0 : AD_STATE, &e),
                         0);
    assert_int_equal(ad_store_commit(s, &e), 0);
    int64_t n = ad_store_flat_count(s);
    float *g = mem_zero((size_t)n, sizeof *g);
    struct rng r = rng_make(1, 1, 1);
    for (int i = 0; i < N; i++)
        for (int64_t k = 0; rows[i].layer && k < rows[i].count; k++)
            g[ad_store_find(s, rows[i].name)->offset + k] = (float)rng_normal(&r);
    struct opt_layers *l = opt_layers_new(s);
    assert_int_equal(opt_layers_count(l), 8);
    double norm[8], first[8], all = 0;
    for (int threads = 1; threads <= 3; threads++) {
        threads_init(threads);
        opt_layers_norms(l, g, norm);
        if (threads == 1) memcpy(first, norm, sizeof norm);
        assert_memory_equal(first, norm, sizeof norm);
    }
    threads_init(0);
    for (int k = 0; k < 8; k++) {
        double want = 0;
        for (int i = 0; i < N; i++)
            for (int64_t j = 0; rows[i].layer && !strcmp(rows[i].layer, opt_layers_name(l, k)) && j < rows[i].count;
                 j++)
                want += pow((double)g[ad_store_find(s, rows[i].name)->offset + j], 2);
        assert_true(want > 0 && fabs(norm[k] - sqrt(want)) < 1e-12 * sqrt(want));
        all += want;
    }
    assert_true(fabs(opt_norm(g, n) - sqrt(all)) < 1e-12 * sqrt(all));
    opt_layers_free(l);
    free(g);
    ad_store_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(noise_scale_of_known_gradients),
        cmocka_unit_test(noise_scale_by_hand),
        cmocka_unit_test(norms_by_layer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
