/* Names and layouts of the references' parameters, as triad's: a linear weight (out, in) becomes (in, out), a
 * convolution's (out, in, k...) becomes (k..., in, out); queries, keys and values lie side by side in one matrix. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/mem.h"
#include "tests/golden/golden.h"

/* '#' stands for a number, the same on both sides; '*', at the end, for any rest. Up to three of theirs are joined along
 * the last axis. Of several rows for one of ours, the first that the reference has counts. */
struct rename {
    const char *ours, *theirs[3];
    bool turn;
};
#define AFFINE(o, t)                    \
    {o ".weight", {t ".weight"}, true}, \
    {                                   \
        o ".bias", {t ".bias"}, false   \
    }
#define QKV(o, q, k, v)                                           \
    {o ".weight", {q ".weight", k ".weight", v ".weight"}, true}, \
    {                                                             \
        o ".bias", {q ".bias", k ".bias", v ".bias"}, false       \
    }
#define CLIP_BLOCK(o, t)                                                                          \
    AFFINE(o "norm1", t "layer_norm1"), AFFINE(o "norm2", t "layer_norm2"),                       \
        QKV(o "attention.qkv", t "self_attn.q_proj", t "self_attn.k_proj", t "self_attn.v_proj"), \
        AFFINE(o "attention.out", t "self_attn.out_proj"), AFFINE(o "mlp.up", t "mlp.fc1"),       \
        AFFINE(o "mlp.down", t "mlp.fc2")

static const struct rename clip_names[] = {
    {"image.class", {"vision_model.embeddings.class_embedding"}, false},
    {"image.patch.weight", {"vision_model.embeddings.patch_embedding.weight"}, true},
    {"image.position.weight", {"vision_model.embeddings.position_embedding.weight"}, false},
    AFFINE("image.entry_norm", "vision_model.pre_layrnorm"),
    CLIP_BLOCK("image.block.#.", "vision_model.encoder.layers.#."),
    AFFINE("image.norm", "vision_model.post_layernorm"),
    {"image.project.weight", {"visual_projection.weight"}, true},
    {"text.token.weight", {"text_model.embeddings.token_embedding.weight"}, false},
    {"text.position.weight", {"text_model.embeddings.position_embedding.weight"}, false},
    CLIP_BLOCK("text.block.#.", "text_model.encoder.layers.#."),
    AFFINE("text.norm", "text_model.final_layer_norm"),
    {"text.project.weight", {"text_projection.weight"}, true},
    {"loss.temperature", {"logit_scale"}, false},
    {NULL, {NULL}, false},
};

#define BERT "encoder.layer.#."
static const struct rename bert_names[] = {
    {"text.token.weight", {"embeddings.word_embeddings.weight"}, false},
    {"text.token_type.weight", {"embeddings.token_type_embeddings.weight"}, false},
    {"text.position.weight", {"embeddings.position_embeddings.weight"}, false},
    AFFINE("text.entry_norm", "embeddings.LayerNorm"),
    QKV("text.block.#.attention.qkv", BERT "attention.self.query", BERT "attention.self.key",
        BERT "attention.self.value"),
    AFFINE("text.block.#.attention.out", BERT "attention.output.dense"),
    AFFINE("text.block.#.norm1", BERT "attention.output.LayerNorm"),
    AFFINE("text.block.#.mlp.up", BERT "intermediate.dense"),
    AFFINE("text.block.#.mlp.down", BERT "output.dense"),
    AFFINE("text.block.#.norm2", BERT "output.LayerNorm"),
    {NULL, {NULL}, false},
};

#define VIT "vit.layers.#."
static const struct rename vit_names[] = {
    {"image.class", {"vit.embeddings.cls_token"}, false},
    AFFINE("image.patch", "vit.embeddings.patch_embeddings.projection"),
    {"image.position.weight", {"vit.embeddings.position_embeddings"}, false},
    AFFINE("image.block.#.norm1", VIT "layernorm_before"),
    QKV("image.block.#.attention.qkv", VIT "attention.q_proj", VIT "attention.k_proj", VIT "attention.v_proj"),
    AFFINE("image.block.#.attention.out", VIT "attention.o_proj"),
    AFFINE("image.block.#.norm2", VIT "layernorm_after"),
    AFFINE("image.block.#.mlp.up", VIT "mlp.fc1"),
    AFFINE("image.block.#.mlp.down", VIT "mlp.fc2"),
    AFFINE("image.norm", "vit.layernorm"),
    AFFINE("image.head", "classifier"),
    {NULL, {NULL}, false},
};

#define WHISPER "layers.#."
static const struct rename whisper_names[] = {
    AFFINE("audio.stem.0", "conv1"),
    AFFINE("audio.stem.1", "conv2"),
    AFFINE("audio.block.#.norm1", WHISPER "self_attn_layer_norm"),
    QKV("audio.block.#.attention.qkv", WHISPER "self_attn.q_proj", WHISPER "self_attn.k_proj",
        WHISPER "self_attn.v_proj"),
    AFFINE("audio.block.#.attention.out", WHISPER "self_attn.out_proj"),
    AFFINE("audio.block.#.norm2", WHISPER "final_layer_norm"),
    AFFINE("audio.block.#.mlp.up", WHISPER "fc1"),
    AFFINE("audio.block.#.mlp.down", WHISPER "fc2"),
    AFFINE("audio.norm", "layer_norm"),
    {NULL, {NULL}, false},
};

#define TIMM "blocks.#."
static const struct rename timm_names[] = {
    {"image.class", {"cls_token"}, false},
    AFFINE("image.patch", "patch_embed.proj"),
    {"image.position.weight", {"pos_embed"}, false},
    AFFINE("image.block.#.norm1", TIMM "norm1"),
    AFFINE("image.block.#.attention.qkv", TIMM "attn.qkv"),
    AFFINE("image.block.#.attention.out", TIMM "attn.proj"),
    AFFINE("image.block.#.norm2", TIMM "norm2"),
    AFFINE("image.block.#.mlp.up", TIMM "mlp.fc1"),
    AFFINE("image.block.#.mlp.down", TIMM "mlp.fc2"),
    AFFINE("image.norm", "norm"),
    AFFINE("image.head", "head"),
    {NULL, {NULL}, false},
};

#define OPEN_CLIP_BLOCK(o, t)                                                                               \
    AFFINE(o "norm1", t "ln_1"), AFFINE(o "norm2", t "ln_2"), AFFINE(o "attention.out", t "attn.out_proj"), \
        {o "attention.qkv.weight", {t "attn.in_proj_weight"}, true},                                        \
        {o "attention.qkv.bias", {t "attn.in_proj_bias"}, false}, AFFINE(o "mlp.up", t "mlp.c_fc"),         \
        AFFINE(o "mlp.down", t "mlp.c_proj")
static const struct rename open_clip_names[] = {
    {"image.class", {"visual.class_embedding"}, false},
    {"image.patch.weight", {"visual.conv1.weight"}, true},
    {"image.position.weight", {"visual.positional_embedding"}, false},
    AFFINE("image.entry_norm", "visual.ln_pre"),
    OPEN_CLIP_BLOCK("image.block.#.", "visual.transformer.resblocks.#."),
    AFFINE("image.norm", "visual.ln_post"),
    {"image.project.weight", {"visual.proj"}, false}, /* (in, out), as the text's */
    {"text.token.weight", {"token_embedding.weight"}, false},
    {"text.position.weight", {"positional_embedding"}, false},
    OPEN_CLIP_BLOCK("text.block.#.", "transformer.resblocks.#."),
    AFFINE("text.norm", "ln_final"),
    {"text.project.weight", {"text_projection"}, false},
    {"loss.temperature", {"logit_scale"}, false},
    {NULL, {NULL}, false},
};

/* GPT-2's linear weights are (in, out). */
#define GPT2 "transformer.h.#."
static const struct rename gpt2_names[] = {
    {"text.token.weight", {"transformer.wte.weight"}, false},
    {"text.position.weight", {"transformer.wpe.weight"}, false},
    {"text.block.#.norm1.*", {GPT2 "ln_1.*"}, false},
    {"text.block.#.attention.qkv.*", {GPT2 "attn.c_attn.*"}, false},
    {"text.block.#.attention.out.*", {GPT2 "attn.c_proj.*"}, false},
    {"text.block.#.norm2.*", {GPT2 "ln_2.*"}, false},
    {"text.block.#.mlp.up.*", {GPT2 "mlp.c_fc.*"}, false},
    {"text.block.#.mlp.down.*", {GPT2 "mlp.c_proj.*"}, false},
    {"text.norm.*", {"transformer.ln_f.*"}, false},
    {NULL, {NULL}, false},
};

#define W2V2 "wav2vec2.encoder."
static const struct rename wav2vec2_names[] = {
    {"audio.features.#.conv.weight", {"wav2vec2.feature_extractor.conv_layers.#.conv.weight"}, true},
    AFFINE("audio.features.#.norm", "wav2vec2.feature_extractor.conv_layers.#.layer_norm"),
    AFFINE("audio.feature_norm", "wav2vec2.feature_projection.layer_norm"),
    AFFINE("audio.feature_linear", "wav2vec2.feature_projection.projection"),
    {"audio.position.weight.gain", {W2V2 "pos_conv_embed.conv.parametrizations.weight.original0"}, false},
    {"audio.position.weight.direction", {W2V2 "pos_conv_embed.conv.parametrizations.weight.original1"}, true},
    {"audio.position.bias", {W2V2 "pos_conv_embed.conv.bias"}, false},
    AFFINE("audio.entry_norm", W2V2 "layer_norm"),
    QKV("audio.block.#.attention.qkv", W2V2 "layers.#.attention.q_proj", W2V2 "layers.#.attention.k_proj",
        W2V2 "layers.#.attention.v_proj"),
    AFFINE("audio.block.#.attention.out", W2V2 "layers.#.attention.out_proj"),
    AFFINE("audio.block.#.norm1", W2V2 "layers.#.layer_norm"),
    AFFINE("audio.block.#.mlp.up", W2V2 "layers.#.feed_forward.intermediate_dense"),
    AFFINE("audio.block.#.mlp.down", W2V2 "layers.#.feed_forward.output_dense"),
    AFFINE("audio.block.#.norm2", W2V2 "layers.#.final_layer_norm"),
    AFFINE("audio.head", "lm_head"),
    {NULL, {NULL}, false},
};

/* A convolution and the batch norm after it, with its running statistics. */
#define CONV_NORM(o, conv, norm)                \
    {o ".conv.weight", {conv ".weight"}, true}, \
    {                                           \
        o ".norm.*", {norm ".*"}, false         \
    }
static const struct rename resnet_names[] = {
    CONV_NORM("image.stem", "conv1", "bn1"),
    CONV_NORM("image.stage.#.#.a", "layer#.#.conv1", "layer#.#.bn1"),
    CONV_NORM("image.stage.#.#.b", "layer#.#.conv2", "layer#.#.bn2"),
    CONV_NORM("image.stage.#.#.c", "layer#.#.conv3", "layer#.#.bn3"),
    CONV_NORM("image.stage.#.#.shortcut", "layer#.#.downsample.0", "layer#.#.downsample.1"),
    AFFINE("image.head", "fc"),
    {NULL, {NULL}, false},
};

/* A block without expansion has its parts one place earlier: what is not found under the first name is under the
 * second. */
#define MBCONV "features.#.#.block."
static const struct rename efficientnet_names[] = {
    CONV_NORM("image.stem", "features.0.0", "features.0.1"),
    CONV_NORM("image.stage.#.#.expand", MBCONV "0.0", MBCONV "0.1"),
    CONV_NORM("image.stage.#.#.depthwise", MBCONV "1.0", MBCONV "1.1"),
    CONV_NORM("image.stage.#.#.depthwise", MBCONV "0.0", MBCONV "0.1"),
    AFFINE("image.stage.#.#.se.squeeze", MBCONV "2.fc1"),
    AFFINE("image.stage.#.#.se.squeeze", MBCONV "1.fc1"),
    AFFINE("image.stage.#.#.se.excite", MBCONV "2.fc2"),
    AFFINE("image.stage.#.#.se.excite", MBCONV "1.fc2"),
    CONV_NORM("image.stage.#.#.project", MBCONV "3.0", MBCONV "3.1"),
    CONV_NORM("image.stage.#.#.project", MBCONV "2.0", MBCONV "2.1"),
    CONV_NORM("image.top", "features.8.0", "features.8.1"),
    CONV_NORM("image.top", "features.5.0", "features.5.1"), /* of four stages */
    AFFINE("image.head", "classifier.1"),
    {NULL, {NULL}, false},
};

static const struct {
    const char *kind;
    const struct rename *names;
    int first; /* added to the first number: torchvision counts stages from 1 */
} tables[] = {{"clip", clip_names, 0},     {"open_clip", open_clip_names, 0},
              {"bert", bert_names, 0},     {"vit", vit_names, 0},
              {"vit_timm", timm_names, 0}, {"whisper", whisper_names, 0},
              {"gpt2", gpt2_names, 0},     {"wav2vec2", wav2vec2_names, 0},
              {"resnet", resnet_names, 1}, {"efficientnet", efficientnet_names, 1}};

/* What the wildcards of a name stood for. */
struct wild {
    int number[2], n;
    const char *rest;
};

static bool matches(const char *pattern, const char *name, struct wild *w)
{
    *w = (struct wild){0};
    for (; *pattern; pattern++) {
        if (*pattern == '*') return w->rest = name, true;
        if (*pattern == '#' && w->n < 2) {
            char *end;
            w->number[w->n++] = (int)strtol(name, &end, 10);
            if (end == name) return false;
            name = end;
        } else if (*pattern != *name++) {
            return false;
        }
    }
    return *name == 0;
}

static void fill(char out[200], const char *pattern, const struct wild *w, int first)
{
    size_t n = 0;
    int i = 0;
    for (; *pattern && n < 150; pattern++) {
        if (*pattern == '#')
            n += (size_t)snprintf(out + n, 200 - n, "%d", w->number[i] + (i == 0 ? first : 0)), i++;
        else if (*pattern == '*')
            n += (size_t)snprintf(out + n, 200 - n, "%.40s", w->rest);
        else
            out[n++] = *pattern;
    }
    out[n] = 0;
}

/* (out, in, k...) -> (k..., in, out), into columns `at` .. of rows that are `columns` wide. Tables are copied as they
 * are. */
static void place(double *to, int64_t columns, int64_t at, const struct golden_tensor *t, bool turn)
{
    int64_t f = turn && t->shape.rank ? t->shape.dim[0] : t->count,
            in = turn && t->shape.rank > 1 ? t->shape.dim[1] : 1;
    int64_t k = f && in ? t->count / f / in : 0;
    for (int64_t i = 0; i < f; i++)
        for (int64_t j = 0; j < in; j++)
            for (int64_t q = 0; q < k; q++) to[(q * in + j) * columns + at + i] = t->x[(i * in + j) * k + q];
}

/* The first of theirs under which the file has the parameter; NULL where there is no such row, or none whose name
 * the file has: looked_for is empty, or the last of those names. */
static const struct rename *find_row(const struct rename *m, int first, const struct golden_file *f, const char *prefix,
                                     const char *ours, struct wild *w, char looked_for[240])
{
    for (looked_for[0] = 0; m->ours; m++) {
        char theirs[200];
        if (!matches(m->ours, ours, w)) continue;
        fill(theirs, m->theirs[0], w, first);
        snprintf(looked_for, 240, "%s%s", prefix, theirs);
        if (golden_find(f, NULL, "%s", looked_for)) return m;
    }
    return NULL;
}

int golden_translate(const char *kind, const struct golden_file *f, const char *prefix, const struct ad_entry *entry,
                     bool *used, struct golden_tensor *out, struct err *e)
{
    struct wild w;
    size_t k = 0;
    while (k < sizeof tables / sizeof *tables && strcmp(tables[k].kind, kind) != 0) k++;
    CHECK(k < sizeof tables / sizeof *tables);
    char looked_for[240];
    const struct rename *m = find_row(tables[k].names, tables[k].first, f, prefix, entry->name, &w, looked_for);
    if (!m && looked_for[0]) return err_set(e, ERR_SHAPE, "there is no %s for '%s'", looked_for, entry->name);
    if (!m) return err_set(e, ERR_STATE, "nothing in the reference is named as the parameter '%s'", entry->name);
    int n = 1;
    while (n < 3 && m->theirs[n]) n++;
    *out = (struct golden_tensor){.name = entry->name, .dtype = AD_F32, .shape = entry->shape, .count = entry->count};
    out->x = mem_zero((size_t)entry->count + 1, sizeof(double));
    int64_t columns = entry->shape.rank && (m->turn || n > 1) ? entry->shape.dim[entry->shape.rank - 1] : entry->count;
    int64_t found = 0;
    for (int i = 0; i < n; i++) {
        char theirs[200], name[240];
        fill(theirs, m->theirs[i], &w, tables[k].first);
        snprintf(name, sizeof name, "%s%s", prefix, theirs);
        const struct golden_tensor *t = golden_find(f, NULL, "%s", name);
        if (!t && n == 3 && i == 1 && !m->turn) continue;
        if (!t || t->count != entry->count / n) {
            free(out->x);
            char s[96];
            return err_set(e, ERR_SHAPE, "%s %s for '%s' %s", t ? "another size of" : "there is no", name, entry->name,
                           ad_shape_text(s, entry->shape));
        }
        place(out->x, columns, i * (columns / n), t, m->turn);
        if (used) used[t - f->tensor] = true;
        found++;
    }
    return found ? 0 : err_set(e, ERR_FORMAT, "nothing for '%s'", entry->name);
}
