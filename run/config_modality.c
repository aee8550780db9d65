/* A modality: the tables of its section and its tower, and what they say to the rooms that do the work. See config.h. */
#include "run/config.h"

const char *const run_kind_names[] = {"image", "text", "audio", NULL};
static const char *const fit_names[] = {"crop", "stretch", "pad", NULL};
static const char *const filter_names[] = {"bicubic", "bilinear", NULL};
static const char *const mel_names[] = {"clip", "plain", "whisper", NULL};
static const char *const block_names[] = {"basic", "bottleneck", NULL};
static const char *const variant_names[] = {"b0", "b1", "b2", "b3", NULL};

/* ---- towers ------------------------------------------------------------------------------------------------------ */
/* The rows of a trunk that lies at `t` in its parent; what differs between towers are the defaults. */
#define TRUNK_OF(t, layers_, width_, heads_, post_norm_, final_norm_, position_, pool_)                                 \
    {"layers", CONF_INT, (t) + offsetof(struct model_trunk, layers), layers_, 1, 1000, .help = "blocks"},               \
        {"width",                                                                                                       \
         CONF_INT,                                                                                                      \
         (t) + offsetof(struct model_trunk, width),                                                                     \
         width_,                                                                                                        \
         1,                                                                                                             \
         65536,                                                                                                         \
         .help = "of the hidden states"},                                                                               \
        {"heads",                                                                                                       \
         CONF_INT,                                                                                                      \
         (t) + offsetof(struct model_trunk, heads),                                                                     \
         heads_,                                                                                                        \
         1,                                                                                                             \
         1024,                                                                                                          \
         .help = "of attention; width / heads is a head's size"},                                                       \
        {"mlp_ratio",  CONF_DOUBLE, (t) + offsetof(struct model_trunk, mlp_ratio), "4",                                 \
         CONF_ABOVE_0, 64,          .help = "hidden width of the MLP over width"},                                      \
        {"activation",                                                                                                  \
         CONF_ENUM,                                                                                                     \
         (t) + offsetof(struct model_trunk, activation),                                                                \
         "gelu",                                                                                                        \
         .choices = nn_activation_names,                                                                                \
         .help = "of the MLP"},                                                                                         \
        {"gated", CONF_BOOL, (t) + offsetof(struct model_trunk, gated), "false", .help = "gate the MLP (GLU)"},         \
        {"post_norm", CONF_BOOL, (t) + offsetof(struct model_trunk, post_norm), post_norm_,                             \
         .help = "norm after each residual sum, as BERT"},                                                              \
        {"bias", CONF_BOOL, (t) + offsetof(struct model_trunk, bias), "true", .help = "biases in attention and MLP"},   \
        {"final_norm", CONF_BOOL, (t) + offsetof(struct model_trunk, final_norm), final_norm_,                          \
         .help = "a norm after the last block"},                                                                        \
        {"norm",                                                                                                        \
         CONF_ENUM,                                                                                                     \
         (t) + offsetof(struct model_trunk, norm),                                                                      \
         "layer",                                                                                                       \
         .choices = nn_norm_names,                                                                                      \
         .help = "kind of norm"},                                                                                       \
        {"position",                                                                                                    \
         CONF_ENUM,                                                                                                     \
         (t) + offsetof(struct model_trunk, position),                                                                  \
         position_,                                                                                                     \
         .choices = nn_position_names,                                                                                  \
         .help = "how places are told"},                                                                                \
        {"pool",                                                                                                        \
         CONF_ENUM,                                                                                                     \
         (t) + offsetof(struct model_trunk, pool),                                                                      \
         pool_,                                                                                                         \
         .choices = nn_pool_names,                                                                                      \
         .help = "hidden states to one vector"},                                                                        \
        {"eps", CONF_DOUBLE, (t) + offsetof(struct model_trunk, eps), "1e-5", CONF_ABOVE_0, 1, .help = "of the norms"}, \
        {"dropout", CONF_DOUBLE, (t) + offsetof(struct model_trunk, dropout), "0",                                      \
         0,         0.9,         .help = "in MLP and residual branches"},                                               \
        {"drop_path", CONF_DOUBLE, (t) + offsetof(struct model_trunk, drop_path),       "0",                            \
         0,           0.9,         .help = "of the last block's branches; earlier less"},                               \
    {                                                                                                                   \
        "layer_scale", CONF_DOUBLE, (t) + offsetof(struct model_trunk, layer_scale), "0", 0, 1,                         \
            .help = "start of branch gains; 0: none"                                                                    \
    }
#define TRUNK(t, position_, pool_) TRUNK_OF(t, "4", "128", "4", "false", "true", position_, pool_)

#define AT(m) offsetof(struct model_vit, m)
static const struct conf_field vit_fields[] = {
    {"patch", CONF_INT, AT(patch), "8", 1, 1024, .help = "side of a patch in pixels"},
    {"class_token", CONF_BOOL, AT(class_token), "false", .help = "a learned token before the patches"},
    {"patch_bias", CONF_BOOL, AT(patch_bias), "true", .help = "a bias in the patch embedding"},
    {"entry_norm", CONF_BOOL, AT(entry_norm), "false", .help = "a norm before the blocks, as CLIP"},
    {"norm_first", CONF_BOOL, AT(norm_first), "true", .help = "final norm before pooling; false: after it, as CLIP"},
    TRUNK(AT(trunk), "learned", "mean"),
    {0},
};
static const struct conf_table vit_table = {sizeof(struct model_vit), vit_fields};
#undef AT

#define AT(m) offsetof(struct run_resnet, m)
static const struct conf_field resnet_fields[] = {
    {"widths", CONF_INTS, AT(widths), "[32, 64, 128, 256]", 1, 16384, .least = 1, .most = 6,
     .help = "channels of each stage"},
    {"depths", CONF_INTS, AT(depths), "[1, 1, 1, 1]", 1, 100, .least = 1, .most = 6, .help = "blocks of each stage"},
    {"block", CONF_ENUM, AT(block), "basic", .choices = block_names, .help = "two 3x3, or 1x1 3x3 1x1"},
    {"stem_kernel", CONF_INT, AT(stem_kernel), "4", 1, 15, .help = "first convolution: side"},
    {"stem_stride", CONF_INT, AT(stem_stride), "4", 1, 16, .help = "first convolution: step"},
    {"stem_width", CONF_INT, AT(stem_width), "0", 0, 16384,
     .help = "first convolution: channels; 0: the first stage's"},
    {"stem_pool", CONF_BOOL, AT(stem_pool), "false", .help = "3x3 max pooling with step 2 after it"},
    {"stem_norm", CONF_BOOL, AT(stem_norm), "false", .help = "batch norm and ReLU after it"},
    {"shortcut_norm", CONF_BOOL, AT(shortcut_norm), "true", .help = "batch norm after a shortcut's convolution"},
    {"momentum", CONF_DOUBLE, AT(momentum), "0.1", 0, 1, .help = "of the running statistics"},
    {"eps", CONF_DOUBLE, AT(eps), "1e-5", CONF_ABOVE_0, 1, .help = "of the norms"},
    {0},
};
static const struct conf_table resnet_table = {sizeof(struct run_resnet), resnet_fields};
#undef AT

#define AT(m) offsetof(struct run_efficientnet, m)
static const struct conf_field efficientnet_fields[] = {
    {"variant", CONF_ENUM, AT(variant), "b0", .choices = variant_names, .help = "a published size"},
    {"width", CONF_DOUBLE, AT(width), "0", 0, 16, .help = "factor of b0's channels; 0: the variant's"},
    {"depth", CONF_DOUBLE, AT(depth), "0", 0, 16, .help = "factor of b0's blocks in each stage; 0: the variant's"},
    {"drop_path", CONF_DOUBLE, AT(drop_path), "0.2", 0, 0.9, .help = "of the last block's branch; earlier less"},
    {"momentum", CONF_DOUBLE, AT(momentum), "0.1", 0, 1, .help = "of the running statistics"},
    {"eps", CONF_DOUBLE, AT(eps), "1e-5", CONF_ABOVE_0, 1, .help = "of the norms"},
    {0},
};
static const struct conf_table efficientnet_table = {sizeof(struct run_efficientnet), efficientnet_fields};
#undef AT

#define AT(m) offsetof(struct model_text, m)
static const struct conf_field text_tower_fields[] = {
    {"causal", CONF_BOOL, AT(trunk.causal), "false", .help = "a token sees only what stands before it, as CLIP's"},
    {"entry_norm", CONF_BOOL, AT(entry_norm), "false", .help = "a norm before the blocks, as BERT"},
    {"token_types", CONF_BOOL, AT(token_types), "false", .help = "BERT's segment embedding"},
    TRUNK(AT(trunk), "learned", "mean"),
    {0},
};
static const struct conf_table text_tower_table = {sizeof(struct model_text), text_tower_fields};
#undef AT

#define AT(m) offsetof(struct run_stem, m)
static const struct conf_field stem_fields[] = {
    {"kernel", CONF_INT, AT(kernel), NULL, 1, 64, .help = "frames that a tap row sees"},
    {"stride", CONF_INT, AT(stride), "1", 1, 64, .help = "frames from one output to the next"},
    {0},
};
static const struct conf_table stem_table = {sizeof(struct run_stem), stem_fields, .positional = 2};
#undef AT

#define AT(m) offsetof(struct run_audio_tower, m)
static const struct conf_field audio_tower_fields[] = {
    {"stem", CONF_LIST, AT(stem), "[[3, 2], [5, 4]]", .sub = &stem_table, .most = 4,
     .help = "convolutions [kernel, stride] before the blocks"},
    TRUNK(AT(audio.trunk), "sinusoidal", "mean"),
    {0},
};
static const struct conf_table audio_tower_table = {sizeof(struct run_audio_tower), audio_tower_fields};
#undef AT

#define AT(m) offsetof(struct run_wave_tower, m)
static const struct conf_field wave_tower_fields[] = {
    {"channels", CONF_INT, AT(wave.channels), "512", 1, 65536, .help = "of the feature encoder's convolutions"},
    {"features", CONF_LIST, AT(features), "[[10, 5], [3, 2], [3, 2], [3, 2], [3, 2], [2, 2], [2, 2]]",
     .sub = &stem_table, .least = 1, .most = 8, .help = "those convolutions, [kernel, stride]"},
    {"position_kernel", CONF_INT, AT(wave.position_kernel), "128", 1, 4096, .help = "frames of the position's kernel"},
    {"position_groups", CONF_INT, AT(wave.position_groups), "16", 1, 65536, .help = "of the position's convolution"},
    TRUNK_OF(AT(wave.trunk), "12", "768", "12", "true", "false", "none", "mean"),
    {0},
};
static const struct conf_table wave_tower_table = {sizeof(struct run_wave_tower), wave_tower_fields};
#undef AT

/* ---- modalities -------------------------------------------------------------------------------------------------- */
#define AT(m) offsetof(struct data_image_augment, m)
static const struct conf_field image_augment_fields[] = {
    {"crop_min", CONF_DOUBLE, AT(crop_min), "0.5", CONF_ABOVE_0, 1,
     .help = "random resized crop: smallest share of the area"},
    {"crop_max", CONF_DOUBLE, AT(crop_max), "0", 0, 1, .help = "largest share; 0: no random crop"},
    {"ratio_min", CONF_DOUBLE, AT(ratio_min), "0.75", CONF_ABOVE_0, 10, .help = "narrowest crop, width over height"},
    {"ratio_max", CONF_DOUBLE, AT(ratio_max), "1.3333333333333333", CONF_ABOVE_0, 10, .help = "widest crop"},
    {"flip", CONF_DOUBLE, AT(flip), "0", 0, 1, .help = "probability of a mirror image"},
    {"shift", CONF_INT, AT(shift), "0", 0, 4096, .help = "pixels, each way"},
    {"shift_fill", CONF_BOOL, AT(shift_fill), "false", .help = "white moves in; false: what left on the other side"},
    {"brightness", CONF_DOUBLE, AT(brightness), "0", 0, 1, .help = "factor within 1 +- this"},
    {"contrast", CONF_DOUBLE, AT(contrast), "0", 0, 1, .help = "the same"},
    {"saturation", CONF_DOUBLE, AT(saturation), "0", 0, 1, .help = "the same"},
    {"hue", CONF_DOUBLE, AT(hue), "0", 0, 0.5, .help = "turns of the colour wheel, each way"},
    {"noise", CONF_DOUBLE, AT(noise), "0", 0, 1, .help = "standard deviation; white is 1"},
    {0},
};
static const struct conf_table image_augment_table = {sizeof(struct data_image_augment), image_augment_fields};
#undef AT

#define CASE(type, key_, member, table, number, default_, help_)                                                 \
    {                                                                                                            \
        key_, CONF_CASE, offsetof(type, member) - offsetof(type, kind), default_, .sub = table, .tag = 0,        \
                                                                                  .value = number, .help = help_ \
    }
static const struct conf_field image_tower_fields[] = {
    CASE(struct run_image_towers, "vit", vit, &vit_table, 0, NULL, "vision transformer"),
    CASE(struct run_image_towers, "resnet", resnet, &resnet_table, 1, "{}", "residual network"),
    CASE(struct run_image_towers, "efficientnet", efficientnet, &efficientnet_table, 2, NULL, "EfficientNet"),
    {0},
};
static const struct conf_table image_tower_table = {sizeof(struct run_image_towers), image_tower_fields};

static const struct conf_field text_towers_fields[] = {
    CASE(struct run_text_towers, "transformer", transformer, &text_tower_table, 0, "{}", "transformer over tokens"),
    {0},
};
static const struct conf_table text_towers_table = {sizeof(struct run_text_towers), text_towers_fields};

static const struct conf_field audio_towers_fields[] = {
    CASE(struct run_audio_towers, "transformer", transformer, &audio_tower_table, 0, "{}", "transformer over frames"),
    CASE(struct run_audio_towers, "wav2vec2", wav2vec2, &wave_tower_table, 1, NULL,
         "Wav2Vec 2.0 over raw sound: of log_mel the rate alone counts"),
    {0},
};
static const struct conf_table audio_towers_table = {sizeof(struct run_audio_towers), audio_towers_fields};

#define AT(m) offsetof(struct run_modality, image.m)
static const struct conf_field image_fields[] = {
    {"size", CONF_INT, AT(size), "64", 4, 4096, .help = "height and width in pixels"},
    {"mean", CONF_DOUBLES, AT(mean), "[0.5, 0.5, 0.5]", 0, 1, .least = 3, .most = 3,
     .help = "taken from red, green, blue in 0..1"},
    {"std", CONF_DOUBLES, AT(std), "[0.25, 0.25, 0.25]", CONF_ABOVE_0, 10, .least = 3, .most = 3,
     .help = "then divided by"},
    {"fit", CONF_ENUM, AT(fit), "crop", .choices = fit_names, .help = "how other shapes fill the square"},
    {"filter", CONF_ENUM, AT(filter), "bicubic", .choices = filter_names, .help = "of resizing"},
    {"augment", CONF_STRUCT, AT(augment), "{}", .sub = &image_augment_table, .help = "random changes while training"},
    {"tower", CONF_STRUCT, AT(tower), "{}", .sub = &image_tower_table, .help = "what turns it into a vector"},
    {0},
};
static const struct conf_table image_table = {sizeof(struct run_modality), image_fields};
#undef AT

#define AT(m) offsetof(struct run_modality, text.m)
static const struct conf_field text_fields[] = {
    {"tokenizer", CONF_STRING, AT(tokenizer), "null", .help = "a tokenizer.json; null: trained from the captions"},
    {"vocab", CONF_INT, AT(vocab), "2048", 260, 1000000, .help = "size of the trained vocabulary"},
    {"length", CONF_INT, AT(length), "48", 2, 100000, .help = "longest caption in tokens; longer ones are cut"},
    {"first", CONF_DOUBLE, AT(first), "0.5", 0, 1, .help = "probability of an item's first caption"},
    {"tower", CONF_STRUCT, AT(tower), "{}", .sub = &text_towers_table, .help = "what turns it into a vector"},
    {0},
};
static const struct conf_table text_table = {sizeof(struct run_modality), text_fields};
#undef AT

#define AT(m) offsetof(struct data_logmel_config, m)
static const struct conf_field mel_fields[] = {
    {"rate", CONF_INT, AT(rate), "16000", 1000, 192000, .help = "samples a second; sound is resampled to it"},
    {"window", CONF_DURATION, AT(window_s), "25ms", 1e-3, 1, .help = "length of a frame"},
    {"hop", CONF_DURATION, AT(hop_s), "10ms", 1e-4, 1, .help = "from one frame to the next"},
    {"fft", CONF_INT, AT(fft), "512", 16, 65536, .help = "samples of the transform"},
    {"bins", CONF_INT, AT(bins), "80", 1, 1024, .help = "mel bins"},
    {"low", CONF_DOUBLE, AT(low), "20", 0, 96000, .help = "lowest frequency in Hz"},
    {"high", CONF_DOUBLE, AT(high), "8000", 1, 96000, .help = "highest frequency in Hz"},
    {"style", CONF_ENUM, AT(style), "clip", .choices = mel_names, .help = "how powers are scaled"},
    {0},
};
const struct conf_table run_mel_table = {sizeof(struct data_logmel_config), mel_fields};
#undef AT

#define AT(m) offsetof(struct data_audio_augment, m)
static const struct conf_field audio_augment_fields[] = {
    {"gain", CONF_DOUBLE, AT(gain_db), "0", 0, 60, .help = "decibels, each way"},
    {"noise", CONF_DOUBLE, AT(noise), "0", 0, 1, .help = "probability of white noise"},
    {"snr_min", CONF_DOUBLE, AT(snr_min_db), "10", -20, 100, .help = "loudest noise: signal to noise in decibels"},
    {"snr_max", CONF_DOUBLE, AT(snr_max_db), "30", -20, 100, .help = "softest noise"},
    {"speed", CONF_DOUBLE, AT(speed), "0", 0, 0.9, .help = "faster or slower by up to this share"},
    {"shift", CONF_DURATION, AT(shift_s), "0", 0, 60, .help = "earlier or later by up to this"},
    {"time_masks", CONF_INT, AT(time_masks), "0", 0, 100, .help = "SpecAugment: masks along time"},
    {"time_mask", CONF_DURATION, AT(time_mask_s), "100ms", 0, 60, .help = "longest of them"},
    {"bin_masks", CONF_INT, AT(bin_masks), "0", 0, 100, .help = "SpecAugment: masks along frequency"},
    {"bin_mask", CONF_INT, AT(bin_mask), "10", 0, 1024, .help = "highest of them in bins"},
    {0},
};
static const struct conf_table audio_augment_table = {sizeof(struct data_audio_augment), audio_augment_fields};
#undef AT

#define AT(m) offsetof(struct run_modality, audio.m)
static const struct conf_field audio_fields[] = {
    {"log_mel", CONF_STRUCT, AT(mel), "{}", .sub = &run_mel_table, .help = "the spectrogram"},
    {"max_length", CONF_DURATION, AT(max_seconds), "10s", 0.05, 3600, .help = "longer sound is cut"},
    {"augment", CONF_STRUCT, AT(augment), "{}", .sub = &audio_augment_table, .help = "random changes while training"},
    {"tower", CONF_STRUCT, AT(tower), "{}", .sub = &audio_towers_table, .help = "what turns it into a vector"},
    {0},
};
static const struct conf_table audio_table = {sizeof(struct run_modality), audio_fields};
#undef AT

static const struct conf_table *const kind_tables[] = {&image_table, &text_table, &audio_table};

#define AT(m) offsetof(struct run_modality, m)
static const struct conf_field modality_fields[] = {
    {"kind", CONF_SWITCH, AT(kind), NULL, .choices = run_kind_names, .cases = kind_tables, .help = "what it is"},
    {"from", CONF_STRING, AT(from), "null", .help = "the manifest's field; null: the modality's name"},
    {"project_bias", CONF_BOOL, AT(project_bias), "true", .help = "a bias in the projection to the shared space"},
    {0},
};
const struct conf_table run_modality_table = {sizeof(struct run_modality), modality_fields};
#undef AT
/* ---- for the other rooms ----------------------------------------------------------------------------------------- */

int64_t run_raw_samples(const struct run_modality *m)
{
    bool raw = m->kind == RUN_AUDIO && m->audio.tower.kind == 1;
    return raw ? (int64_t)(m->audio.max_seconds * (double)m->audio.mel.rate + 0.5) : 0;
}
struct data_modality run_data_modality(const struct run_modality *m, const struct tokenizer *t)
{
    struct data_modality d = {.name = m->name, .field = m->from ? m->from : m->name, .kind = (enum data_kind)m->kind};
    if (m->kind == RUN_IMAGE) {
        d.h = d.w = m->image.size;
        d.fit = (enum data_fit)m->image.fit;
        d.filter = (enum data_filter)m->image.filter;
        d.image = m->image.augment;
        for (int i = 0; i < 3; i++) d.mean[i] = (float)m->image.mean.v[i], d.std[i] = (float)m->image.std.v[i];
    }
    if (m->kind == RUN_TEXT) {
        d.tokenizer = t;
        d.max_tokens = m->text.length;
        d.first = m->text.first;
    }
    if (m->kind == RUN_AUDIO) {
        d.logmel = m->audio.mel;
        d.max_seconds = m->audio.max_seconds;
        d.samples = run_raw_samples(m);
        d.audio = m->audio.augment;
    }
    return d;
}

static struct model_resnet resnet_of(const struct run_resnet *r)
{
    struct model_resnet m = {.n_stages = (int)r->widths.n,
                             .bottleneck = r->block == 1,
                             .stem_kernel = r->stem_kernel,
                             .stem_stride = r->stem_stride,
                             .stem_width = r->stem_width ? r->stem_width : r->widths.v[0],
                             .stem_pool = r->stem_pool,
                             .stem_norm = r->stem_norm,
                             .bare_shortcut = !r->shortcut_norm,
                             .momentum = r->momentum,
                             .eps = r->eps};
    for (int i = 0; i < m.n_stages; i++) m.width[i] = r->widths.v[i], m.depth[i] = r->depths.v[i];
    return m;
}

static struct model_efficientnet efficientnet_of(const struct run_efficientnet *r)
{
    struct model_efficientnet m = model_efficientnet_variant(r->variant);
    if (r->width > 0) m.width = r->width;
    if (r->depth > 0) m.depth = r->depth;
    m.drop_path = r->drop_path;
    m.momentum = r->momentum;
    m.eps = r->eps;
    return m;
}

static struct model_audio audio_of(const struct run_audio *c)
{
    const struct run_audio_tower *r = &c->tower.transformer;
    struct model_audio a = r->audio;
    a.bins = c->mel.bins;
    a.length = data_logmel_frames(&c->mel, (int64_t)(c->max_seconds * (double)c->mel.rate) + 1);
    a.n_stem = (int)r->stem.n;
    for (int i = 0; i < a.n_stem; i++) a.kernel[i] = r->stem.v[i].kernel, a.stride[i] = r->stem.v[i].stride;
    return a;
}

static struct model_wave wave_of(const struct run_wave_tower *r, int64_t samples)
{
    struct model_wave w = r->wave;
    w.length = samples;
    w.n_features = (int)r->features.n;
    for (int i = 0; i < w.n_features; i++) w.kernel[i] = r->features.v[i].kernel, w.stride[i] = r->features.v[i].stride;
    return w;
}

struct model_tower run_tower(const struct run_modality *m, int64_t vocab)
{
    struct model_tower t = {.name = m->name, .project_bias = m->project_bias};
    if (m->kind == RUN_IMAGE) {
        t.image_size = m->image.size;
        static const enum model_kind kinds[] = {MODEL_VIT, MODEL_RESNET, MODEL_EFFICIENTNET};
        t.kind = kinds[m->image.tower.kind];
        if (t.kind == MODEL_VIT) t.vit = m->image.tower.vit;
        if (t.kind == MODEL_RESNET) t.resnet = resnet_of(&m->image.tower.resnet);
        if (t.kind == MODEL_EFFICIENTNET) t.efficientnet = efficientnet_of(&m->image.tower.efficientnet);
    }
    if (m->kind == RUN_TEXT) {
        t.kind = MODEL_TEXT;
        t.text = m->text.tower.transformer;
        t.text.vocab = vocab;
        t.text.length = m->text.length;
    }
    if (m->kind == RUN_AUDIO && m->audio.tower.kind == 0) {
        t.kind = MODEL_AUDIO;
        t.audio = audio_of(&m->audio);
    }
    if (m->kind == RUN_AUDIO && m->audio.tower.kind == 1) {
        t.kind = MODEL_WAVE;
        t.wave = wave_of(&m->audio.tower.wav2vec2, run_raw_samples(m));
    }
    return t;
}
