/* The published models as a config says them: each line of YAML gives a tower with as many parameters as the reference
 * has (open_clip 3.3 ViT-B-32, timm's vit_small_patch16_224, torchvision's), and nonsense is refused by line. Values
 * against PyTorch: tests/golden. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "models/head.h"
#include "run/config.h"
#include "tests/support/net.h"
#include "tests/support/temp_dir.h"

/* A config whose modality "a" is as written, beside a small "b". */
static int read_config(struct conf *mem, const char *a, struct run_config *c, struct err *e)
{
    struct temp_dir dir;
    temp_dir_begin(&dir);
    const char *path = temp_path(&dir, "c.yaml");
    char *text = mem_printf("name: x\n"
                            "data: {manifest: m.jsonl}\n"
                            "modalities:\n"
                            "  a: %s\n"
                            "  b: {kind: image, tower: {resnet: {}}}\n"
                            "train: {steps: 1}\n",
                            a);
    assert_int_equal(file_write(path, text, strlen(text), e), 0);
    int rc = run_config_read(mem, path, NULL, 0, c, e);
    free(text);
    temp_dir_end(&dir);
    return rc;
}

static int64_t parameters(const struct net *n)
{
    int64_t count = 0;
    for (int i = 0; i < ad_store_count(n->m.store); i++) {
        const struct ad_entry *p = ad_store_at(n->m.store, i);
        if (!(p->flags & AD_STATE)) count += ad_count(p->shape);
    }
    return count;
}

/* Trained numbers of the tower under a head: `classes` or the projection to `embed`. */
static int64_t count_of(const char *a, int64_t vocab, int64_t classes, int64_t embed)
{
    struct conf mem = {0};
    struct run_config c;
    struct err e = {0};
    if (read_config(&mem, a, &c, &e)) fail_msg("%s: %s", a, e.msg);
    struct model_tower t = run_tower(&c.modalities.v[0], vocab);
    struct net n = net_begin(true);
    struct model_shape s = {2, 20};
    if (classes)
        model_classes(&n.m, &t, s, classes, 0);
    else
        model_embed(&n.m, &t, s, embed);
    assert_int_equal(nn_status(&n.m, &e), 0);
    int64_t count = parameters(&n);
    net_end(&n);
    conf_free(&mem);
    return count;
}

#define RESNET(depths, block)                                                                                  \
    "{kind: image, size: 224, tower: {resnet: {widths: [64, 128, 256, 512], depths: " depths ", block: " block \
    ", stem_kernel: 7, stem_stride: 2, stem_pool: true, stem_norm: true}}}"

static void image_models_have_their_published_sizes(void **state)
{
    static const struct {
        const char *yaml;
        int64_t want;
    } rows[] = {
        {RESNET("[2, 2, 2, 2]", "basic"), 11689512},
        {RESNET("[3, 4, 6, 3]", "basic"), 21797672},
        {RESNET("[3, 4, 6, 3]", "bottleneck"), 25557032},
        {"{kind: image, size: 224, tower: {efficientnet: {}}}", 5288548},
        {"{kind: image, size: 224, tower: {efficientnet: {variant: b1}}}", 7794184},
        {"{kind: image, size: 224, tower: {efficientnet: {variant: b2}}}", 9109994},
        {"{kind: image, size: 224, tower: {efficientnet: {width: 1.2, depth: 1.4, drop_path: 0}}}", 12233232}, /* b3 */
        {"{kind: image, size: 224, tower: {vit: {patch: 16, class_token: true, pool: first, layers: 12, width: 384, "
         "heads: 6, eps: 1e-6}}}",
         22050664},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_int_equal(count_of(rows[i].yaml, 0, 1000, 0), rows[i].want);
}

/* The towers of bench/peers/emoji.py, as PyTorch counts them. */
static void the_emoji_peer_is_expressible(void **state)
{
    int64_t image =
        count_of("{kind: image, size: 64, tower: {resnet: {widths: [32, 64, 128, 256], depths: [1, 1, 1, 1], "
                 "stem_kernel: 4, stem_stride: 4, shortcut_norm: false}}}",
                 0, 0, 128);
    int64_t text = count_of("{kind: text, length: 48, tower: {transformer: {layers: 3}}}", 2048, 0, 128);
    int64_t speech = count_of("{kind: audio, max_length: 4s, tower: {transformer: {layers: 3, position: learned, stem: "
                              "[[3, 2], [5, 4]]}}}",
                              0, 0, 128);
    assert_int_equal(image, 1259040);
    assert_int_equal(text, 879872);
    assert_int_equal(speech, 731008);
}

/* open_clip's default ViT-B-32: GELU (OpenAI's own weights: activation: quick_gelu), projections without bias, and one
 * number for the temperature. */
static void clip_b32_is_expressible(void **state)
{
    int64_t image =
        count_of("{kind: image, size: 224, project_bias: false, tower: {vit: {patch: 32, class_token: true, "
                 "patch_bias: false, entry_norm: true, norm_first: false, pool: first, layers: 12, "
                 "width: 768, heads: 12, activation: gelu}}}",
                 0, 0, 512);
    int64_t text =
        count_of("{kind: text, length: 77, project_bias: false, tower: {transformer: {causal: true, pool: last, "
                 "layers: 12, width: 512, heads: 8, activation: quick_gelu}}}",
                 49408, 0, 512);
    assert_int_equal(image + text + 1, 151277313);
}

static void wrong_efficientnets_are_refused(void **state)
{
    static const struct {
        const char *yaml, *says;
    } rows[] = {
        {"{kind: image, tower: {efficientnet: {variant: b4}}}", "c.yaml:4:"},
        {"{kind: image, tower: {efficientnet: {widht: 2}}}", "did you mean"},
        {"{kind: image, tower: {efficientnet: {drop_path: 1}}}", "drop_path"},
        {"{kind: image, tower: {efficientnet: {}, resnet: {}}}", "c.yaml:4:"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct conf mem = {0};
        struct run_config c;
        struct err e = {0};
        assert_int_equal(read_config(&mem, rows[i].yaml, &c, &e), ERR_CONFIG);
        if (!strstr(e.msg, rows[i].says)) fail_msg("%s: %s", rows[i].yaml, e.msg);
        conf_free(&mem);
    }
}

/* The published base model with 32 letters, as transformers counts it. */
static void wav2vec2_base_has_its_published_size(void **state)
{
    struct model_tower t = {.name = "sound", .kind = MODEL_WAVE, .wave = model_wave_base()};
    struct err e = {0};
    struct net n = net_begin(true);
    assert_int_equal(model_check(&t, &e), 0);
    struct nn_seq y = model_ctc(&n.m, &t, (struct model_shape){2, 2 * 64000}, 32);
    assert_int_equal(nn_status(&n.m, &e), 0);
    assert_int_equal(y.longest, 199); /* four seconds of 16 kHz */
    assert_int_equal(parameters(&n), 94395552);
    net_end(&n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(image_models_have_their_published_sizes),
        cmocka_unit_test(the_emoji_peer_is_expressible),
        cmocka_unit_test(clip_b32_is_expressible),
        cmocka_unit_test(wrong_efficientnets_are_refused),
        cmocka_unit_test(wav2vec2_base_has_its_published_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
