/* Which tower a modality has, and the projection into the shared space. */
#include "models/model.h"

#include "models/trunk.h"

struct nn_seq model_hidden(struct nn *m, const struct model_tower *t, struct model_shape s)
{
    ad_push(m->g, "%s", t->name);
    struct nn_seq x = {0};
    if (t->kind == MODEL_VIT) {
        const struct model_trunk trunk = model_vit_trunk(&t->vit);
        x = model_trunk_run(m, &trunk, model_vit_entry(m, t, s));
    }
    if (t->kind == MODEL_TEXT) x = model_trunk_run(m, &t->text.trunk, model_text_entry(m, &t->text, s, NULL));
    if (t->kind == MODEL_AUDIO) x = model_trunk_run(m, &t->audio.trunk, model_audio_entry(m, &t->audio, s));
    if (t->kind == MODEL_WAVE) x = model_trunk_run(m, &t->wave.trunk, model_wave_entry(m, &t->wave, s));
    ad_pop(m->g);
    return x;
}

static val features(struct nn *m, const struct model_tower *t, struct model_shape s)
{
    switch (t->kind) {
    case MODEL_VIT: return model_vit(m, t, s);
    case MODEL_RESNET: return model_resnet(m, t, s);
    case MODEL_EFFICIENTNET: return model_efficientnet(m, t, s);
    case MODEL_TEXT: return model_trunk_pooled(m, &t->text.trunk, model_text_entry(m, &t->text, s, NULL));
    case MODEL_AUDIO: return model_trunk_pooled(m, &t->audio.trunk, model_audio_entry(m, &t->audio, s));
    case MODEL_WAVE: return model_trunk_pooled(m, &t->wave.trunk, model_wave_entry(m, &t->wave, s));
    }
    return 0;
}

val model_features(struct nn *m, const struct model_tower *t, struct model_shape s)
{
    ad_push(m->g, "%s", t->name);
    val y = features(m, t, s);
    ad_pop(m->g);
    return y;
}

val model_embed(struct nn *m, const struct model_tower *t, struct model_shape s, int64_t embed)
{
    ad_push(m->g, "%s", t->name);
    val y = nn_unit(m, nn_edge(m, "project", features(m, t, s), embed, t->project_bias));
    ad_pop(m->g);
    return y;
}

/* Frames behind the convolutions of an audio tower's stem, as nn_conv1d_packed has them. */
static int64_t stem_frames(const struct model_audio *t, int64_t n)
{
    for (int i = 0; i < t->n_stem; i++) n = ad_packed_conv_rows(n, t->kernel[i], t->stride[i], t->kernel[i] / 2);
    return n;
}

static int64_t wave_frames(const struct model_wave *t, int64_t n)
{
    for (int i = 0; i < t->n_features; i++) n = ad_packed_conv_rows(n, t->kernel[i], t->stride[i], 0);
    return n;
}

void model_first(const struct model_tower *t, const int32_t *offsets, int64_t rows, int64_t item, int64_t first[2])
{
    first[0] = item;
    first[1] = 0;
    int64_t side = t->kind == MODEL_VIT ? t->image_size / t->vit.patch : 0;
    if (t->kind == MODEL_VIT) first[1] = item * (side * side + t->vit.class_token);
    if (t->kind == MODEL_TEXT) first[1] = offsets[item];
    if (t->kind == MODEL_WAVE) first[1] = item * wave_frames(&t->wave, rows);
    for (int64_t i = 0; t->kind == MODEL_AUDIO && i < item; i++)
        first[1] += stem_frames(&t->audio, offsets[i + 1] - offsets[i]);
}

static int check_trunk(const char *name, const struct model_trunk *c, struct err *e)
{
    if (c->heads < 1 || c->width % c->heads)
        return err_set(e, ERR_CONFIG, "%s: width %lld must be a multiple of heads %lld", name, (long long)c->width,
                       (long long)c->heads);
    if (c->position == NN_POS_ROTARY && c->width / c->heads % 2)
        return err_set(e, ERR_CONFIG, "%s: rotary positions need an even width per head, not %lld", name,
                       (long long)(c->width / c->heads));
    return 0;
}

static int check_efficientnet(const char *name, const struct model_efficientnet *c, struct err *e)
{
    if (c->n_stages < 1 || c->n_stages > 8)
        return err_set(e, ERR_CONFIG, "%s: an efficientnet has 1 to 8 stages, not %d", name, c->n_stages);
    for (int i = 0; i < c->n_stages; i++)
        if (c->stage[i].kernel % 2 == 0)
            return err_set(e, ERR_CONFIG, "%s: stage %d: a depthwise kernel must be odd, not %lld", name, i,
                           (long long)c->stage[i].kernel);
    return 0;
}

static int check_wave(const char *name, const struct model_wave *c, struct err *e)
{
    if (c->n_features < 1 || c->n_features > 8)
        return err_set(e, ERR_CONFIG, "%s: the feature encoder has 1 to 8 convolutions, not %d", name, c->n_features);
    if (c->position_groups < 1 || c->trunk.width % c->position_groups)
        return err_set(e, ERR_CONFIG, "%s: width %lld must be a multiple of position_groups %lld", name,
                       (long long)c->trunk.width, (long long)c->position_groups);
    if (c->trunk.position == NN_POS_LEARNED || c->trunk.position == NN_POS_SINUSOIDAL)
        return err_set(e, ERR_CONFIG,
                       "%s: positions come from a convolution: position must be none, rotary or relative", name);
    int64_t n = c->length;
    for (int i = 0; i < c->n_features; i++) n = n < c->kernel[i] ? 0 : (n - c->kernel[i]) / c->stride[i] + 1;
    if (c->length > 0 && n < 1)
        return err_set(e, ERR_CONFIG, "%s: a clip of %lld samples is too short for the feature encoder", name,
                       (long long)c->length);
    return check_trunk(name, &c->trunk, e);
}

int model_check(const struct model_tower *t, struct err *e)
{
    switch (t->kind) {
    case MODEL_VIT:
        if (t->image_size % t->vit.patch)
            return err_set(e, ERR_CONFIG, "%s: image size %lld must be a multiple of patch %lld", t->name,
                           (long long)t->image_size, (long long)t->vit.patch);
        if (t->vit.trunk.pool == NN_POOL_FIRST && !t->vit.class_token)
            return err_set(e, ERR_CONFIG, "%s: pool 'first' of a vit needs class_token: true", t->name);
        return check_trunk(t->name, &t->vit.trunk, e);
    case MODEL_TEXT: return check_trunk(t->name, &t->text.trunk, e);
    case MODEL_AUDIO: return check_trunk(t->name, &t->audio.trunk, e);
    case MODEL_WAVE: return check_wave(t->name, &t->wave, e);
    case MODEL_EFFICIENTNET: return check_efficientnet(t->name, &t->efficientnet, e);
    case MODEL_RESNET: {
        int64_t size =
            t->image_size / t->resnet.stem_stride / (t->resnet.stem_pool ? 2 : 1) >> (t->resnet.n_stages - 1);
        if (size < 1)
            return err_set(e, ERR_CONFIG, "%s: an image of %lld pixels is too small for this many stages", t->name,
                           (long long)t->image_size);
        return 0;
    }
    }
    return 0;
}
