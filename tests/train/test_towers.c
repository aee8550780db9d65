/* Whole runs with the towers that the tiny config does not have: EfficientNet, and Wav2Vec 2.0 over raw sound. They learn,
 * repeat bit for bit for any number of threads, and are embedded afterwards. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "run/model.h"
#include "tests/support/tiny.h"

#define TOWERS                                                                                                      \
    "modalities.image.tower={\"efficientnet\":{\"width\":0.25,\"depth\":0.5}} "                                     \
    "modalities.sound.tower={\"wav2vec2\":{\"channels\":8,\"features\":[[10,5],[3,2],[3,2]],\"position_kernel\":8," \
    "\"position_groups\":4,\"layers\":1,\"width\":16,\"heads\":2}} "
#define UNMASKED "modalities.sound.augment.time_masks=0 modalities.sound.augment.bin_masks=0 "

/* The loss of the first and of the last of the steps in metrics.jsonl. */
static void losses(const char *out, double *first, double *last)
{
    struct err e = {0};
    char *text;
    size_t len;
    assert_int_equal(file_read(tiny_path(&tiny, "%s/metrics.jsonl", out), 1 << 20, &text, &len, &e), 0);
    *first = *last = NAN;
    for (char *at = text; (at = strstr(at, "\"loss\"")); at++) {
        *last = strtod(strchr(at, ':') + 1, NULL);
        if (isnan(*first)) *first = *last;
    }
    free(text);
}

static void runs_learn_and_repeat(void **state)
{
    tiny_trains("one", TOWERS UNMASKED "train.steps=40 train.threads=1 data.workers=0 data.valid=[valid]");
    tiny_trains("two", TOWERS UNMASKED "train.steps=40 train.threads=3 data.workers=2 data.valid=[valid] data.cache=0");
    tiny_same(tiny_path(&tiny, "one/checkpoints/step-40"), tiny_path(&tiny, "two/checkpoints/step-40"));
    double first, last;
    losses("one", &first, &last);
    assert_true(last < first - 0.1); /* from about log 8; without learning it wavers by some hundredths */
}

/* Embeddings of the trained run are of length 1 where an item has sound, and are those of the item alone. */
static void trained_runs_embed(void **state)
{
    struct err e = {0};
    struct run_model *m;
    struct manifest data;
    int64_t *items, n;
    if (run_model_open(tiny_path(&tiny, "one"), &m, &e)) fail_msg("%s", e.msg);
    assert_int_equal(run_model_data(m, &data, &items, &n, &e), 0);
    assert_int_equal(n, TINY_ITEMS);
    int sound = run_modality(m, "sound", &e);
    assert_true(sound >= 0);
    float all[TINY_ITEMS][16], one[1][16];
    bool has[TINY_ITEMS], also[1];
    assert_int_equal(run_embed_items(m, sound, &data, items, n, "train", 0, all[0], has, false, &e), 0);
    for (int64_t i = 0; i < n; i++) {
        assert_int_equal(has[i], i % 3 != 0);
        double norm = 0;
        for (int d = 0; d < 16; d++) norm += (double)all[i][d] * all[i][d];
        assert_true(fabs(norm - (has[i] ? 1 : 0)) < 1e-5);
        if (i > 5) continue;
        assert_int_equal(run_embed_items(m, sound, &data, items + i, 1, "train", 0, one[0], also, false, &e), 0);
        for (int d = 0; d < 16; d++) assert_true(fabsf(one[0][d] - all[i][d]) < 1e-5f);
    }
    free(items);
    manifest_free(&data);
    run_model_free(m);
}

/* What --dry-run says of such a run; masks of frames have nothing to mask. */
static void dry_runs_and_refusals(void **state)
{
    char *text = tiny_run(&tiny, "dry", "--dry-run train.steps=40 " TOWERS UNMASKED, 0);
    tiny_has(text, "peak memory");
    free(text);
    struct err e = {0};
    assert_int_equal(tiny_train(&tiny, "masked", TOWERS, &e), ERR_CONFIG);
    tiny_has(e.msg, "modalities.sound: time_masks and bin_masks change frames, and wav2vec2 has raw sound");
    err_clear(&e);
    assert_int_equal(tiny_train(&tiny, "short",
                                TOWERS UNMASKED "modalities.sound.max_length=50ms "
                                                "modalities.sound.tower.wav2vec2.features=[[64,64],[8,1]]",
                                &e),
                     ERR_CONFIG);
    tiny_has(e.msg, "sound: a clip of 400 samples is too short for the feature encoder");
    err_clear(&e);
    assert_int_equal(
        tiny_train(&tiny, "placed", TOWERS UNMASKED "modalities.sound.tower.wav2vec2.position=learned", &e),
        ERR_CONFIG);
    tiny_has(e.msg, "position must be none, rotary or relative");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_learn_and_repeat),
        cmocka_unit_test(trained_runs_embed),
        cmocka_unit_test(dry_runs_and_refusals),
    };
    return cmocka_run_group_tests(tests, tiny_begin, tiny_end);
}
