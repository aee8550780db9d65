/* The tables of a run's config, and its translation for the rooms that do the work. See config.h. */
#include "run/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

const char *const run_kind_names[] = {"image", "text", "audio", NULL};
static const char *const on_bad_names[] = {"stop", "skip", NULL};
static const char *const fit_names[] = {"crop", "stretch", "pad", NULL};
static const char *const filter_names[] = {"bicubic", "bilinear", NULL};
static const char *const mel_names[] = {"clip", "plain", "whisper", NULL};
static const char *const block_names[] = {"basic", "bottleneck", NULL};
static const char *const variant_names[] = {"b0", "b1", "b2", "b3", NULL};
static const char *const loss_names[] = {"infonce", "siglip", NULL};
const char *const run_weights_names[] = {"f32", "bf16", NULL};

/* ---- data -------------------------------------------------------------------------------------------------------- */
#define AT(m) offsetof(struct run_data, m)
static const struct conf_field data_fields[] = {
    {"manifest", CONF_STRING, AT(manifest), NULL, .help = "the data: a manifest.jsonl or a pack.h5"},
    {"train", CONF_STRING, AT(train), "train", .help = "the split that is trained on"},
    {"valid", CONF_STRINGS, AT(valid), "[]", .help = "splits that are measured while training"},
    {"workers", CONF_INT, AT(workers), "1", 0, 64, .help = "threads that read and augment ahead"},
    {"cache", CONF_BYTES, AT(cache), "1GB", 0, 1e15, .help = "memory for decoded data"},
    {"on_bad", CONF_ENUM, AT(on_bad), "stop", .choices = on_bad_names, .help = "what an unreadable item does"},
    {"batch_by", CONF_ENUM, AT(batch_by), "items", .choices = data_batch_by_names,
     .help = "what a step has as much of as fits: train.batch items, or budget tokens or seconds"},
    {"budget", CONF_DOUBLE, AT(budget), "0", 0, 1e9,
     .help = "tokens or seconds of sound a step; train.batch still bounds items"},
    {"budget_of", CONF_STRING, AT(budget_of), "null",
     .help = "the modality whose tokens or seconds they are; null: the only one with any"},
    {0},
};
static const struct conf_table data_table = {sizeof(struct run_data), data_fields};
#undef AT

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

/* ---- loss, optimizer, training ----------------------------------------------------------------------------------- */
#define AT(m) offsetof(struct run_loss, m)
static const struct conf_field loss_fields[] = {
    {"kind", CONF_ENUM, AT(kind), "infonce", .choices = loss_names, .help = "contrastive loss"},
    {"pairs", CONF_STRINGS, AT(pairs), "[]", .help = "such as image-text; none: every pair"},
    {"weights", CONF_DOUBLES, AT(weights), "[]", 0, 1000, .help = "of the pairs; none: equal"},
    {"temperature", CONF_DOUBLE, AT(temperature), "0.07", 1e-4, 10, .help = "at the start; it is learned"},
    {"max_scale", CONF_DOUBLE, AT(max_scale), "100", 1, 1e4, .help = "largest 1 / temperature"},
    {"bias", CONF_DOUBLE, AT(bias), "-10", -100, 100, .help = "siglip: of the logits at the start"},
    {0},
};
static const struct conf_table loss_table = {sizeof(struct run_loss), loss_fields};
#undef AT

#define AT(m) offsetof(struct opt_group, m)
static const struct conf_field group_fields[] = {
    {"pattern", CONF_STRING, AT(pattern), NULL, .help = "of parameter names: * and ?"},
    {"lr_scale", CONF_DOUBLE, AT(lr_scale), "1", 0, 1000, .help = "factor of the learning rate; 0 freezes"},
    {"weight_decay", CONF_DOUBLE, AT(weight_decay), "-1", -1, 10, .help = "-1: the optimizer's"},
    {0},
};
static const struct conf_table group_table = {sizeof(struct opt_group), group_fields};
#undef AT

#define AT(m) offsetof(struct run_optim, m)
static const struct conf_field optim_fields[] = {
    {"kind", CONF_ENUM, AT(kind), "adamw", .choices = opt_kind_names, .help = "optimizer; docs/recipes.md says when"},
    {"lr", CONF_DOUBLE, AT(lr), "1e-3", CONF_ABOVE_0, 100, .help = "highest learning rate"},
    {"weight_decay", CONF_DOUBLE, AT(weight_decay), "0.1", 0, 10, .help = "of matrices; norms and biases have none"},
    {"betas", CONF_DOUBLES, AT(betas), "[0.9, 0.98]", 0, 0.999999, .least = 2, .most = 2,
     .help = "adamw, lamb: decay of the moments; lion: in the step, of the moment"},
    {"eps", CONF_DOUBLE, AT(eps), "1e-8", CONF_ABOVE_0, 1,
     .help = "adamw, lamb: added to the root; lars: to the norms"},
    {"state", CONF_ENUM, AT(state), "f32", .choices = opt_state_names,
     .help = "how moments are stored: bf16 halves their memory, 8bit quarters it"},
    {"weights", CONF_ENUM, AT(weights), "f32", .choices = run_weights_names,
     .help = "how matrices and their gradients are stored; bf16: rounded at random, with no copy in f32"},
    {"momentum", CONF_DOUBLE, AT(momentum), "0.9", 0, 0.9999, .help = "sgd, lars, muon"},
    {"nesterov", CONF_BOOL, AT(nesterov), "false", .help = "sgd, lars, muon: look ahead"},
    {"trust", CONF_DOUBLE, AT(trust), "1e-3", CONF_ABOVE_0, 10,
     .help = "lars: length of a step, as a share of the weights'"},
    {"muon_rate", CONF_ENUM, AT(muon_rate), "match_rms", .choices = opt_muon_rate_names,
     .help = "muon: steps as long as adamw's, or by the matrix's sides alone"},
    {"clip", CONF_DOUBLE, AT(clip), "1", 0, 1e6, .help = "largest norm of the whole gradient; 0: none"},
    {"ema", CONF_DOUBLE, AT(ema), "0", 0, 0.999999, .help = "decay of averaged weights; 0: none"},
    {"warmup", CONF_INT, AT(warmup), "50", 0, 1e9, .help = "steps until the highest learning rate"},
    {"decay", CONF_ENUM, AT(decay), "cosine", .choices = opt_decay_names, .help = "of the learning rate"},
    {"floor", CONF_DOUBLE, AT(floor), "0", 0, 1, .help = "learning rate at the end, as a share"},
    {"groups", CONF_LIST, AT(groups), "[]", .sub = &group_table, .help = "parameters with factors of their own"},
    {0},
};
static const struct conf_table optim_table = {sizeof(struct run_optim), optim_fields};
#undef AT

static int check_train(const void *s, struct err *e)
{
    const struct run_train *t = s;
    int given = (t->steps > 0) + (t->epochs > 0) + (t->time > 0);
    int64_t limit;
    if (run_memory(t->memory, &limit, e)) return err_prefix(e, "memory");
    if (given == 1) return 0;
    return err_set(e, ERR_CONFIG, "say how long to train by exactly one of steps, epochs and time, not by %s",
                   given ? "several" : "none");
}

#define AT(m) offsetof(struct run_train, m)
static const struct conf_field train_fields[] = {
    {"batch", CONF_INT, AT(batch), "128", 1, 1e7, .help = "samples a step"},
    {"micro_batch", CONF_INT, AT(micro_batch), "0", 0, 1e7,
     .help = "samples computed at a time, in their memory, with the gradient of the whole batch; 0: all"},
    {"steps", CONF_INT, AT(steps), "0", 0, 1e12, .help = "length of the run"},
    {"epochs", CONF_DOUBLE, AT(epochs), "0", 0, 1e9, .help = "the same, in passes over the data"},
    {"time", CONF_DURATION, AT(time), "0", 0, 1e9, .help = "the same, by the clock (not repeatable bit for bit)"},
    {"seed", CONF_INT, AT(seed), "0", 0, 9e15, .help = "of every random choice"},
    {"threads", CONF_INT, AT(threads), "0", 0, 4096, .help = "that compute; 0: all cores"},
    {"out", CONF_STRING, AT(out), "null", .help = "the run folder; null: runs/NAME"},
    {"log_every", CONF_INT, AT(log_every), "10", 1, 1e9, .help = "steps between lines of metrics.jsonl"},
    {"layer_norms", CONF_BOOL, AT(layer_norms), "true", .help = "the gradient's norm by layer in those lines"},
    {"valid_every", CONF_INT, AT(valid_every), "0", 0, 1e12, .help = "steps between measurements; 0: at the end only"},
    {"save_every", CONF_INT, AT(save_every), "0", 0, 1e12, .help = "steps between checkpoints; 0: none by steps"},
    {"save_time", CONF_DURATION, AT(save_time), "10m", 0, 1e9, .help = "time between checkpoints; 0: none by time"},
    {"keep", CONF_INT, AT(keep), "2", 1, 1e6, .help = "checkpoints kept, besides the best"},
    {"best", CONF_STRING, AT(best), "null", .help = "metric of the best checkpoint, as in metrics.jsonl; null: none"},
    {"precision", CONF_ENUM, AT(precision), "f32", .choices = ad_precision_names,
     .help = "bf16, f16: activations and their gradients take half the memory; weights and arithmetic stay f32"},
    {"loss_scale", CONF_DOUBLE, AT(loss_scale), "65536", 1, 16777216,
     .help = "f16: factor of the gradients at the beginning, a power of two"},
    {"loss_scale_every", CONF_INT, AT(loss_scale_every), "2000", 1, 1e12,
     .help = "f16: steps without overflow after which it is doubled"},
    {"memory", CONF_STRING, AT(memory), "0",
     .help = "most bytes of a step: 2GB, 60% (of the machine); what does not fit is computed again; 0: no limit"},
    {"debug", CONF_STRING, AT(debug), "''",
     .help = "pass switches: nosimplify, nofuse, norecompute, noplan, nokernels, noautocast, nan"},
    {0},
};
static const struct conf_table train_table = {sizeof(struct run_train), train_fields, .check = check_train};
#undef AT

#define AT(m) offsetof(struct run_config, m)
static const struct conf_field config_fields[] = {
    {"name", CONF_STRING, AT(name), NULL, .help = "of the run"},
    {"data", CONF_STRUCT, AT(data), NULL, .sub = &data_table, .help = "what is read"},
    {"modalities", CONF_MAP, AT(modalities), NULL, .sub = &run_modality_table, .least = 2, .most = 16,
     .help = "each with its tower, by a name of your choice"},
    {"embed", CONF_INT, AT(embed), "128", 1, 65536, .help = "dimensions of the shared space"},
    {"loss", CONF_STRUCT, AT(loss), "{}", .sub = &loss_table, .help = "what pulls pairs together"},
    {"optim", CONF_STRUCT, AT(optim), "{}", .sub = &optim_table, .help = "how weights are changed"},
    {"train", CONF_STRUCT, AT(train), NULL, .sub = &train_table, .help = "how long, how much at once, what is kept"},
    {0},
};
const struct conf_table run_config_table = {sizeof(struct run_config), config_fields};
#undef AT

/* ---- checks over several keys ------------------------------------------------------------------------------------ */

static int find_modality(const struct run_config *c, const char *name, size_t n)
{
    for (int64_t i = 0; i < c->modalities.n; i++)
        if (strlen(c->modalities.v[i].name) == n && !memcmp(c->modalities.v[i].name, name, n)) return (int)i;
    return -1;
}

/* "a-b", where names may hold dashes themselves: every dash is tried. */
static bool split_pair(const struct run_config *c, const char *pair, int *a, int *b)
{
    for (const char *dash = strchr(pair, '-'); dash; dash = strchr(dash + 1, '-')) {
        *a = find_modality(c, pair, (size_t)(dash - pair));
        *b = find_modality(c, dash + 1, strlen(dash + 1));
        if (*a >= 0 && *b >= 0 && *a != *b) return true;
    }
    return false;
}

int run_pairs(const struct run_config *c)
{
    int n = (int)c->modalities.n;
    return c->loss.pairs.n ? (int)c->loss.pairs.n : n * (n - 1) / 2;
}

void run_pair(const struct run_config *c, int i, int *a, int *b, double *weight)
{
    *weight = i < c->loss.weights.n ? c->loss.weights.v[i] : 1;
    if (c->loss.pairs.n) {
        bool ok = split_pair(c, c->loss.pairs.v[i], a, b);
        CHECK(ok);
        return;
    }
    int k = 0;
    for (*a = 0; *a < c->modalities.n; ++*a)
        for (*b = *a + 1; *b < c->modalities.n; ++*b)
            if (k++ == i) return;
    CHECK(false);
}

/* Samples of every clip for a tower over raw sound, 0 for others. */
static int64_t raw_samples(const struct run_modality *m)
{
    bool raw = m->kind == RUN_AUDIO && m->audio.tower.kind == 1;
    return raw ? (int64_t)(m->audio.max_seconds * (double)m->audio.mel.rate + 0.5) : 0;
}

int run_budget_modality(const struct run_config *c)
{
    int kind = c->data.batch_by == DATA_BY_TOKENS ? RUN_TEXT : RUN_AUDIO, found = -1;
    if (c->data.batch_by == DATA_BY_ITEMS) return -1;
    for (int i = 0; i < c->modalities.n; i++) {
        const struct run_modality *m = &c->modalities.v[i];
        if (m->kind == kind && (!c->data.budget_of || !strcmp(m->name, c->data.budget_of))) found = i;
    }
    return found;
}

/* Which modality a budget counts, and that two of its longest items fit: one alone has nothing to be compared with. */
static int check_budget(struct conf *mem, const struct run_config *c, struct err *e)
{
    const struct run_data *d = &c->data;
    const char *what = data_batch_by_names[d->batch_by];
    if (d->batch_by == DATA_BY_ITEMS) {
        if (d->budget > 0 || d->budget_of)
            return err_set(e, ERR_CONFIG, "%s: data.budget: it counts with data.batch_by tokens or seconds alone",
                           conf_where(mem, d->budget > 0 ? (const void *)&d->budget : &d->budget_of));
        return 0;
    }
    int kind = d->batch_by == DATA_BY_TOKENS ? RUN_TEXT : RUN_AUDIO, of_kind = 0, i = run_budget_modality(c);
    for (int k = 0; k < c->modalities.n; k++) of_kind += c->modalities.v[k].kind == kind;
    if (i < 0)
        return err_set(e, ERR_CONFIG, "%s: data.batch_by: no modality%s%s%s has %s",
                       conf_where(mem, d->budget_of ? (const void *)&d->budget_of : &d->batch_by),
                       d->budget_of ? " '" : "", d->budget_of ? d->budget_of : "", d->budget_of ? "'" : "", what);
    if (of_kind > 1 && !d->budget_of)
        return err_set(e, ERR_CONFIG,
                       "%s: data.batch_by: %d modalities have %s: say by data.budget_of whose are counted",
                       conf_where(mem, &d->batch_by), of_kind, what);
    const struct run_modality *m = &c->modalities.v[i];
    double longest = kind == RUN_TEXT ? (double)m->text.length : m->audio.max_seconds;
    if (d->budget < 2 * longest)
        return err_set(
            e, ERR_CONFIG,
            "%s: data.budget: %g %s do not hold two items of '%s', which have up to %g each: make it larger, "
            "or modalities.%s.%s smaller",
            conf_where(mem, &d->budget), d->budget, what, m->name, longest, m->name,
            kind == RUN_TEXT ? "length" : "max_length");
    return 0;
}

static int check_config(struct conf *mem, const struct run_config *c, struct err *e)
{
    for (int64_t i = 0; i < c->loss.pairs.n; i++) {
        int a, b;
        if (!split_pair(c, c->loss.pairs.v[i], &a, &b))
            return err_set(e, ERR_CONFIG, "%s: loss.pairs: '%s' is not two of the modalities with a dash between",
                           conf_where(mem, &c->loss.pairs), c->loss.pairs.v[i]);
    }
    if (c->loss.temperature > 1 || c->loss.temperature * c->loss.max_scale < 1)
        return err_set(
            e, ERR_CONFIG,
            "%s: loss.temperature: %g must be from 1 / loss.max_scale = %g to 1; beyond, it is never learned",
            conf_where(mem, &c->loss.temperature), c->loss.temperature, 1 / c->loss.max_scale);
    if (c->loss.weights.n && c->loss.weights.n != run_pairs(c))
        return err_set(e, ERR_CONFIG, "%s: loss.weights has %lld numbers for %d pairs",
                       conf_where(mem, &c->loss.weights), (long long)c->loss.weights.n, run_pairs(c));
    for (int64_t i = 0; i < c->modalities.n; i++) {
        const struct run_modality *m = &c->modalities.v[i];
        const struct run_resnet *r = &m->image.tower.resnet;
        if (m->kind == RUN_IMAGE && m->image.tower.kind == 1 && r->widths.n != r->depths.n)
            return err_set(e, ERR_CONFIG, "%s: modalities.%s: resnet has %lld widths and %lld depths",
                           conf_where(mem, &r->depths), m->name, (long long)r->widths.n, (long long)r->depths.n);
        if (raw_samples(m) && m->audio.augment.time_masks + m->audio.augment.bin_masks > 0)
            return err_set(e, ERR_CONFIG,
                           "%s: modalities.%s: time_masks and bin_masks change frames, and wav2vec2 has raw sound",
                           conf_where(mem, m), m->name);
        struct model_tower t = run_tower(m, 1000);
        if (model_check(&t, e)) return err_prefix(e, "%s: modalities", conf_where(mem, m));
    }
    return check_budget(mem, c, e);
}

int run_config_read(struct conf *mem, const char *path, const char *const *overrides, int n, struct run_config *c,
                    struct err *e)
{
    int rc = conf_read(mem, path, overrides, n, &run_config_table, c, e);
    return rc ? rc : check_config(mem, c, e);
}

int run_memory(const char *text, int64_t *bytes, struct err *e)
{
    char *end;
    double share = strtod(text, &end);
    if (end > text && !strcmp(end, "%") && share > 0 && share <= 100) {
        *bytes = (int64_t)(share / 100 * (double)mem_of_machine());
        return 0;
    }
    if (text_bytes(text, bytes, NULL) == 0) return 0;
    return err_set(e, ERR_CONFIG, "'%s' is neither a size (such as 512MiB, 2GB) nor a share (60%%) nor 0", text);
}

/* ---- for the other rooms ----------------------------------------------------------------------------------------- */

struct opt_config run_opt_config(const struct run_config *c)
{
    const struct run_optim *o = &c->optim;
    return (struct opt_config){.kind = (enum opt_kind)o->kind,
                               .lr = o->lr,
                               .beta1 = o->betas.v[0],
                               .beta2 = o->betas.v[1],
                               .eps = o->eps,
                               .weight_decay = o->weight_decay,
                               .state = (enum opt_store)o->state,
                               .momentum = o->momentum,
                               .nesterov = o->nesterov,
                               .trust = o->trust,
                               .muon_rate = (enum opt_muon_rate)o->muon_rate,
                               .clip = o->clip,
                               .ema = o->ema,
                               .warmup = o->warmup,
                               .decay = (enum opt_decay)o->decay,
                               .floor = o->floor,
                               .group = o->groups.v,
                               .n_group = (int)o->groups.n};
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
        d.samples = raw_samples(m);
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
        t.wave = wave_of(&m->audio.tower.wav2vec2, raw_samples(m));
    }
    return t;
}
