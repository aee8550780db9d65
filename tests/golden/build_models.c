/* The models of the reference folders, built from their config.json. */
#include <string.h>
#include "models/head.h"
#include "tests/golden/golden.h"

static int64_t size(const struct golden_model *c, const char *key)
{
    return json_integer_value(json_object_get(c->config, key));
}

static int64_t item(const struct golden_model *c, const char *key, size_t i)
{
    return json_integer_value(json_array_get(json_object_get(c->config, key), i));
}

static double real(const struct golden_model *c, const char *key)
{
    return json_number_value(json_object_get(c->config, key));
}

static struct model_trunk trunk(const struct golden_model *c, const char *width, const char *layers, const char *heads,
                                const char *mlp, struct err *e)
{
    struct model_trunk t = model_trunk_default();
    t.width = size(c, width);
    t.layers = size(c, layers);
    t.heads = size(c, heads);
    t.mlp_ratio = (double)size(c, mlp) / (double)t.width;
    t.eps = real(c, "eps");
    const char *activation = json_string_value(json_object_get(c->config, "activation"));
    if (!activation) return t;
    if (strcmp(activation, "gelu_pytorch_tanh") == 0) activation = "gelu_tanh"; /* transformers' name */
    int i = 0;
    while (nn_activation_names[i] && strcmp(nn_activation_names[i], activation) != 0) i++;
    if (!nn_activation_names[i]) err_set(e, ERR_FORMAT, "the activation '%s' is not known", activation);
    t.activation = i;
    return t;
}

static val cross_entropy(struct nn *m, const struct golden_model *c, const struct model_tower *t)
{
    val logits = model_classes(m, t, (struct model_shape){.items = size(c, "batch")}, size(c, "classes"), 0);
    val labels = ad_input(m->g, "labels", AD_I32, SHAPE(size(c, "batch")));
    ad_output(m->g, "logits", logits);
    return ad_mean_all(m->g, ad_cross_entropy(m->g, logits, labels, 0, -100));
}

/* mean(w * y) over the first rows of a packed result. */
static val weighed(struct nn *m, struct nn_seq s, const struct golden_tensor *w)
{
    val y = ad_slice(m->g, s.x, 0, 0, w->shape.dim[0], 1);
    ad_output(m->g, "y", y);
    return ad_mean_all(m->g, ad_mul(m->g, y, ad_input(m->g, "w", AD_F32, w->shape)));
}

static val build_clip(struct nn *m, const struct golden_model *c, struct err *e)
{
    const struct golden_tensor *tokens = golden_find(c->inputs, e, "tokens");
    if (!tokens) return 0;
    struct model_tower image = {.name = "image", .kind = MODEL_VIT, .image_size = size(c, "image")};
    image.vit = (struct model_vit){.trunk = trunk(c, "vision_width", "vision_layers", "vision_heads", "vision_mlp", e),
                                   .patch = size(c, "patch"),
                                   .class_token = true,
                                   .entry_norm = true};
    image.vit.trunk.pool = NN_POOL_FIRST;
    struct model_tower text = {.name = "text", .kind = MODEL_TEXT};
    text.text = (struct model_text){.trunk = trunk(c, "text_width", "text_layers", "text_heads", "text_mlp", e),
                                    .vocab = size(c, "vocab"),
                                    .length = size(c, "context")};
    text.text.trunk.pool = NN_POOL_LAST;
    text.text.trunk.causal = true;
    int64_t b = size(c, "batch"), embed = size(c, "projection");
    struct nn_contrast pair = {.a = model_embed(m, &image, (struct model_shape){.items = b}, embed),
                               .b = model_embed(m, &text, (struct model_shape){b, tokens->count}, embed)};
    ad_push(m->g, "loss");
    val scale = nn_temperature(m, "temperature", 0.07, 100);
    ad_pop(m->g);
    ad_output(m->g, "image_embeds", pair.a);
    ad_output(m->g, "text_embeds", pair.b);
    ad_output(m->g, "logits", ad_mul(m->g, ad_matmul(m->g, pair.a, pair.b, false, true), scale));
    return nn_infonce(m, &pair, scale);
}

static val build_bert(struct nn *m, const struct golden_model *c, struct err *e)
{
    const struct golden_tensor *w = golden_find(c->inputs, e, "w");
    if (!w) return 0;
    struct model_tower t = {.name = "text", .kind = MODEL_TEXT};
    t.text = (struct model_text){.trunk = trunk(c, "width", "layers", "heads", "mlp", e),
                                 .vocab = size(c, "vocab"),
                                 .length = size(c, "context"),
                                 .entry_norm = true,
                                 .token_types = true};
    t.text.trunk.post_norm = true;
    t.text.trunk.final_norm = false;
    return weighed(m, model_hidden(m, &t, (struct model_shape){size(c, "batch"), w->shape.dim[0]}), w);
}

static val build_vit(struct nn *m, const struct golden_model *c, struct err *e)
{
    struct model_tower t = {.name = "image", .kind = MODEL_VIT, .image_size = size(c, "image")};
    t.vit = (struct model_vit){.trunk = trunk(c, "width", "layers", "heads", "mlp", e),
                               .patch = size(c, "patch"),
                               .class_token = true,
                               .patch_bias = true,
                               .norm_first = true};
    t.vit.trunk.pool = NN_POOL_FIRST;
    return cross_entropy(m, c, &t);
}

static val build_whisper(struct nn *m, const struct golden_model *c, struct err *e)
{
    const struct golden_tensor *w = golden_find(c->inputs, e, "w"), *mel = golden_find(c->inputs, e, "mel");
    if (!w || !mel) return 0;
    struct model_tower t = {.name = "audio", .kind = MODEL_AUDIO};
    t.audio = (struct model_audio){.trunk = trunk(c, "width", "layers", "heads", "mlp", e),
                                   .bins = size(c, "bins"),
                                   .length = 2 * size(c, "positions"),
                                   .kernel = {3, 3},
                                   .stride = {1, 2},
                                   .n_stem = 2};
    t.audio.trunk.position = NN_POS_SINUSOIDAL;
    return weighed(m, model_hidden(m, &t, (struct model_shape){size(c, "batch"), mel->shape.dim[0]}), w);
}

static val build_resnet(struct nn *m, const struct golden_model *c, struct err *e)
{
    struct model_tower t = {.name = "image", .kind = MODEL_RESNET, .image_size = size(c, "image")};
    struct model_resnet *n = &t.resnet;
    bool large = strcmp(json_string_value(json_object_get(c->config, "stem")), "7x7") == 0;
    *n = (struct model_resnet){.n_stages = (int)json_array_size(json_object_get(c->config, "widths")),
                               .bottleneck = size(c, "bottleneck"),
                               .stem_kernel = large ? 7 : 3,
                               .stem_stride = large ? 2 : 1,
                               .stem_width = item(c, "widths", 0),
                               .stem_pool = large,
                               .stem_norm = true,
                               .momentum = real(c, "momentum"),
                               .eps = real(c, "eps")};
    if (n->n_stages > 6) return ad_fail(m->g, "%d stages are too many", n->n_stages);
    for (int i = 0; i < n->n_stages; i++) {
        n->width[i] = item(c, "widths", (size_t)i);
        n->depth[i] = item(c, "blocks", (size_t)i);
    }
    return cross_entropy(m, c, &t);
}

static val build_efficientnet(struct nn *m, const struct golden_model *c, struct err *e)
{
    int64_t variant = size(c, "variant");
    struct model_tower t = {.name = "image", .kind = MODEL_EFFICIENTNET, .image_size = size(c, "image")};
    struct model_efficientnet *n = &t.efficientnet;
    *n = model_efficientnet_variant(variant < 0 || variant > 3 ? 0 : (int)variant);
    n->drop_path = 0;
    n->momentum = real(c, "momentum");
    n->eps = real(c, "eps");
    if (variant >= 0) return cross_entropy(m, c, &t);
    json_t *stages = json_object_get(c->config, "stages");
    n->width = real(c, "width_scale");
    n->depth = real(c, "depth_scale");
    n->stem = size(c, "stem");
    n->n_stages = (int)json_array_size(stages);
    if (model_check(&t, e)) return 0;
    for (int i = 0; i < n->n_stages; i++) {
        int64_t v[5];
        for (size_t k = 0; k < 5; k++) v[k] = json_integer_value(json_array_get(json_array_get(stages, (size_t)i), k));
        n->stage[i] = (struct model_mbconv){v[0], v[1], v[2], v[3], v[4]};
    }
    return cross_entropy(m, c, &t);
}

static val build_gpt2(struct nn *m, const struct golden_model *c, struct err *e)
{
    const struct golden_tensor *tokens = golden_find(c->inputs, e, "tokens");
    if (!tokens) return 0;
    struct model_tower t = {.name = "text", .kind = MODEL_TEXT};
    t.text = (struct model_text){.trunk = trunk(c, "width", "layers", "heads", "mlp", e),
                                 .vocab = size(c, "vocab"),
                                 .length = size(c, "context")};
    t.text.trunk.causal = true;
    struct model_lm lm = model_lm(m, &t, (struct model_shape){size(c, "batch"), tokens->count});
    ad_output(m->g, "logits", lm.logits.x);
    return model_lm_loss(m, &lm);
}

static val build_wav2vec2(struct nn *m, const struct golden_model *c, struct err *e)
{
    const struct golden_tensor *targets = golden_find(c->inputs, e, "targets");
    if (!targets) return 0;
    int64_t b = size(c, "batch"), n = (int64_t)json_array_size(json_object_get(c->config, "kernels"));
    struct model_tower t = {.name = "audio", .kind = MODEL_WAVE, .wave = model_wave_base()};
    struct model_wave *w = &t.wave;
    w->trunk = trunk(c, "width", "layers", "heads", "mlp", e);
    w->trunk.post_norm = true;
    w->trunk.final_norm = false;
    w->trunk.position = NN_POS_NONE;
    w->channels = size(c, "channels");
    w->position_kernel = size(c, "position_kernel");
    w->position_groups = size(c, "position_groups");
    w->n_features = (int)n;
    if (e->code || model_check(&t, e)) return 0;
    for (size_t i = 0; i < (size_t)n; i++) w->kernel[i] = item(c, "kernels", i), w->stride[i] = item(c, "strides", i);
    struct nn_seq logits = model_ctc(m, &t, (struct model_shape){b, b * size(c, "samples")}, size(c, "vocab"));
    ad_output(m->g, "logits", logits.x);
    val labels = ad_input(m->g, "targets", AD_I32, SHAPE(targets->count));
    return model_ctc_loss(m, &logits, labels, ad_input(m->g, "target_offsets", AD_I32, SHAPE(b + 1)), 0, false);
}

static const struct golden_kind kinds[] = {
    {"clip", build_clip, {"image.image", "text.tokens", "text.offsets"}},
    {"open_clip", build_clip, {"image.image", "text.tokens", "text.offsets"}},
    {"bert", build_bert, {NULL, "text.tokens", "text.offsets"}},
    {"vit", build_vit, {"image.image", NULL, NULL}},
    {"vit_timm", build_vit, {"image.image", NULL, NULL}},
    {"whisper", build_whisper, {NULL, "audio.frames", "audio.offsets"}},
    {"gpt2", build_gpt2, {NULL, "text.tokens", "text.offsets"}},
    {"wav2vec2", build_wav2vec2, {NULL, "audio.wave", NULL}},
    {"resnet", build_resnet, {"image.image", NULL, NULL}},
    {"efficientnet", build_efficientnet, {"image.image", NULL, NULL}},
};

const struct golden_kind *golden_kind(const char *name)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(kinds[i].name, name) == 0) return &kinds[i];
    return NULL;
}
