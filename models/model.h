/* Models: one tower a modality, any number of modalities, each ending in unit vectors of one space.
 *
 * A tower reads packed inputs under its modality's name:
 *   image   "<name>.image" f32 (items, H, W, 3)
 *   text    "<name>.tokens" i32 (rows), "<name>.offsets" i32 (items + 1)
 *   audio   "<name>.frames" f32 (rows, bins), "<name>.offsets" i32 (items + 1)
 *   wave    "<name>.wave" f32 (items, samples): samples = rows / items, the same for all
 * and, where nn.part says that the graph is for a part of a batch, "<name>.first" i64 (2): see model_first.
 * Its parameters lie under "<name>.", and the shared ones (temperature) under "loss.". */
#ifndef TRIAD_MODELS_MODEL_H
#define TRIAD_MODELS_MODEL_H

#include "layers/nn.h"

enum model_kind { MODEL_VIT, MODEL_RESNET, MODEL_EFFICIENTNET, MODEL_TEXT, MODEL_AUDIO, MODEL_WAVE };

/* The trunk that ViT, text and audio towers share. */
struct model_trunk {
    int64_t layers, width, heads;
    double mlp_ratio;
    int activation; /* enum nn_activation */
    bool gated, post_norm, bias, final_norm;
    bool causal;
    int norm;     /* enum nn_norm */
    int position; /* enum nn_position_kind */
    int pool;     /* enum nn_pool */
    double eps, dropout, drop_path, layer_scale;
};

/* Vision transformer (Dosovitskiy et al. 2021, eq. 1-4). */
struct model_vit {
    struct model_trunk trunk;
    int64_t patch;
    bool class_token; /* a learned token before the patches */
    bool patch_bias;
    bool entry_norm; /* a norm before the blocks, as CLIP's */
    bool norm_first; /* the final norm before pooling (ViT) or after it (CLIP's image tower) */
};

/* Text: causal with end-token pooling is CLIP's; causal with gelu_tanh under model_lm is GPT-2; bidirectional with
 * post-norm, entry norm and token types is BERT's. */
struct model_text {
    struct model_trunk trunk;
    int64_t vocab, length; /* the longest text, in tokens */
    bool entry_norm;
    bool token_types; /* adds BERT's segment embedding (2, width); segment 0 everywhere */
};

/* Audio on log-mel frames: a convolutional stem that shortens, then the trunk (Radford et al. 2022, fig. 1). */
struct model_audio {
    struct model_trunk trunk;
    int64_t bins, length; /* mel bins; the longest clip, in frames */
    int64_t kernel[4], stride[4];
    int n_stem;
};

/* Residual networks (He et al. 2016). */
struct model_resnet {
    int64_t width[6], depth[6]; /* channels and blocks of each stage */
    int n_stages;
    bool bottleneck;                              /* 1x1, 3x3, 1x1 with an expansion of 4; otherwise two 3x3 */
    int64_t stem_kernel, stem_stride, stem_width; /* the first convolution */
    bool stem_pool;                               /* a 3x3 max pooling with stride 2 after it */
    bool stem_norm;                               /* norm and ReLU after it */
    bool bare_shortcut;                           /* no norm after a shortcut's convolution */
    double momentum, eps;
};

/* EfficientNet (Tan & Le 2019, table 1 and eq. 3): a stem of 3x3 with stride 2, stages of inverted bottlenecks with
 * squeeze and excitation (MBConv), a 1x1 convolution to four times the last width; norm and SiLU after each. */
struct model_mbconv {
    int64_t expand, kernel, stride, out, layers; /* the stride is the first layer's */
};
struct model_efficientnet {
    double width, depth; /* channels are rounded to multiples of 8 after width, layers upwards after depth */
    int64_t stem;        /* channels before scaling, as the stages' */
    struct model_mbconv stage[8];
    int n_stages;
    double drop_path; /* p of layer i of n is drop_path i / n (Huang et al. 2016) */
    double momentum, eps;
};

/* Wav2Vec 2.0 on raw sound (Baevski et al. 2020, sec. 2): convolutions with GELU that shorten (the first with a norm of
 * each channel over time), a norm and a linear map to the trunk's width, positions by a grouped convolution with weight
 * norm, then the trunk; with post_norm a norm stands before its blocks. */
struct model_wave {
    struct model_trunk trunk; /* position: none; or rotary or relative beside the convolution */
    int64_t length;           /* samples of a clip where that is known, for model_check; 0: not looked at */
    int64_t channels;         /* of every convolution */
    int64_t kernel[8], stride[8];
    int n_features;
    int64_t position_kernel, position_groups;
};

struct model_tower {
    const char *name; /* the modality's, the user's choice */
    enum model_kind kind;
    int64_t image_size; /* images: height and width in pixels */
    bool project_bias;
    union {
        struct model_vit vit;
        struct model_resnet resnet;
        struct model_efficientnet efficientnet;
        struct model_text text;
        struct model_audio audio;
        struct model_wave wave;
    };
};

/* The sizes of one modality's part of a batch, that plans depend on: rows are tokens, frames or samples, padding
 * included; images have none. */
struct model_shape {
    int64_t items, rows;
};

/* Features before the projection: (items, width of the tower). Declares the modality's inputs. */
val model_features(struct nn *m, const struct model_tower *t, struct model_shape s);
/* The trunk's last hidden states and their layout, for text, audio and wave towers and ViT (tests, other heads). */
struct nn_seq model_hidden(struct nn *m, const struct model_tower *t, struct model_shape s);
/* Unit vectors (items, embed): features times "<name>.project". */
val model_embed(struct nn *m, const struct model_tower *t, struct model_shape s, int64_t embed);

/* What lies before a part of a batch, for its input "<name>.first": items, and rows of the trunk's hidden states (frames
 * behind an audio tower's stem; 0 for towers that are convolutions). The part begins with item `item` of the batch whose
 * items lie by `offsets` (images: NULL) and have `rows` samples each (raw sound alone). With it dropout and drop path
 * draw for the part what they draw for the whole batch. */
void model_first(const struct model_tower *t, const int32_t *offsets, int64_t rows, int64_t item, int64_t first[2]);

/* ERR_CONFIG where numbers do not fit together (width and heads, patch and image size...), naming the modality. */
int model_check(const struct model_tower *t, struct err *e) MUST_CHECK;

/* The configurations that the public models use, as starting points. */
struct model_trunk model_trunk_default(void);
/* B0 scaled as variant `b` 0..3 (Tan & Le 2019, sec. 4; widths and depths of the published models); drop_path 0.2,
 * momentum 0.1 and eps 1e-5 as torchvision. */
struct model_efficientnet model_efficientnet_variant(int b);
/* Wav2Vec 2.0 base: seven convolutions of 512 channels, 12 blocks of width 768 with norms after the sums. */
struct model_wave model_wave_base(void);

#endif
