/* Which tower a modality has, and the projection into the shared space. */
#include "models/model.h"

#include "models/trunk.h"

struct nn_seq model_hidden(struct nn *m, const struct model_tower *t, struct model_shape s)
{
    ad_push(m->g, "%s", t->name);
    struct nn_seq x = {0};
    if (t->kind == MODEL_VIT) x = model_vit_hidden(m, t, s);
    if (t->kind == MODEL_TEXT) x = model_text_hidden(m, &t->text, s);
    if (t->kind == MODEL_AUDIO) x = model_audio_hidden(m, &t->audio, s);
    ad_pop(m->g);
    return x;
}

static val sequence_features(struct nn *m, const struct model_trunk *c, struct nn_seq x)
{
    return nn_pool(m, "pool", (enum nn_pool)c->pool, &x, c->heads);
}

static val features(struct nn *m, const struct model_tower *t, struct model_shape s)
{
    switch (t->kind) {
    case MODEL_VIT: return model_vit(m, t, s);
    case MODEL_RESNET: return model_resnet(m, t, s);
    case MODEL_TEXT: return sequence_features(m, &t->text.trunk, model_text_hidden(m, &t->text, s));
    case MODEL_AUDIO: return sequence_features(m, &t->audio.trunk, model_audio_hidden(m, &t->audio, s));
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
    val y = nn_unit(m, nn_linear(m, "project", features(m, t, s), embed, t->project_bias, 0));
    ad_pop(m->g);
    return y;
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
