/* Vision transformer (Dosovitskiy et al. 2021, eq. 1-4).  image (B, H, W, 3) -> tokens (B N, D) -> features (B, D) */
#include "models/trunk.h"

static struct nn_seq patches(struct nn *m, const struct model_tower *t, struct model_shape s)
{
    struct ad_graph *g = m->g;
    const struct model_vit *c = &t->vit;
    int64_t d = c->trunk.width;
    val image = model_input(m, "image", AD_F32, SHAPE(s.items, t->image_size, t->image_size, 3));
    val x = nn_patch_embed(m, "patch", image, c->patch, d, c->patch_bias); /* (B, N, D) */
    if (c->class_token) {
        val token = nn_param(m, "class", SHAPE(1, 1, d), (struct ad_init){AD_INIT_NORMAL, 0.02}, AD_NO_DECAY);
        x = ad_concat(g, (val[]){ad_broadcast(g, token, SHAPE(s.items, 1, d)), x}, 2, 1);
    }
    return nn_seq_fixed(m, x);
}

/* CLIP norms what was pooled; ViT pools what was normed. */
static bool norm_after_pool(const struct model_vit *c)
{
    return c->trunk.final_norm && !c->norm_first;
}

struct model_trunk model_vit_trunk(const struct model_vit *c)
{
    struct model_trunk trunk = c->trunk;
    trunk.final_norm = trunk.final_norm && c->norm_first;
    return trunk;
}

struct nn_seq model_vit_entry(struct nn *m, const struct model_tower *t, struct model_shape s)
{
    const struct model_vit *c = &t->vit;
    struct nn_seq x = model_add_position(m, &c->trunk, patches(m, t, s));
    if (c->entry_norm) x.x = nn_norm(m, "entry_norm", (enum nn_norm)c->trunk.norm, x.x, c->trunk.eps);
    return x;
}

val model_vit(struct nn *m, const struct model_tower *t, struct model_shape s)
{
    const struct model_trunk trunk = model_vit_trunk(&t->vit);
    val y = model_trunk_pooled(m, &trunk, model_vit_entry(m, t, s)); /* (B, D) */
    return norm_after_pool(&t->vit) ? nn_norm(m, "norm", (enum nn_norm)trunk.norm, y, trunk.eps) : y;
}
