/* The stack of transformer blocks that several towers share. */
#include "models/trunk.h"

#include <stdio.h>

struct model_trunk model_trunk_default(void)
{
    return (struct model_trunk){.layers = 4,
                                .width = 128,
                                .heads = 4,
                                .mlp_ratio = 4,
                                .activation = NN_GELU,
                                .bias = true,
                                .final_norm = true,
                                .norm = NN_LAYER_NORM,
                                .position = NN_POS_LEARNED,
                                .pool = NN_POOL_MEAN,
                                .eps = 1e-5};
}

val model_input(struct nn *m, const char *what, enum ad_dtype t, struct ad_shape s)
{
    const char *name = ad_push(m->g, "%s", what);
    val v = ad_input(m->g, name, t, s);
    ad_pop(m->g);
    return v;
}

val model_first_input(struct nn *m, val *row)
{
    *row = 0;
    if (!m->part) return 0;
    val first = model_input(m, "first", AD_I64, SHAPE(2));
    *row = ad_slice(m->g, first, 0, 1, 2, 1);
    return ad_slice(m->g, first, 0, 0, 1, 1);
}

struct nn_seq model_add_position(struct nn *m, const struct model_trunk *t, struct nn_seq s)
{
    s.x = nn_add_position(m, "position", (enum nn_position_kind)t->position, &s);
    return s;
}

struct nn_seq model_trunk_run(struct nn *m, const struct model_trunk *t, struct nn_seq s)
{
    struct nn_block b = {.heads = t->heads,
                         .mlp_ratio = t->mlp_ratio,
                         .activation = (enum nn_activation)t->activation,
                         .gated = t->gated,
                         .causal = t->causal,
                         .post_norm = t->post_norm,
                         .bias = t->bias,
                         .norm = (enum nn_norm)t->norm,
                         .eps = t->eps,
                         .dropout = t->dropout,
                         .layer_scale = t->layer_scale,
                         .position = (enum nn_position_kind)t->position,
                         .layers = t->layers};
    s.first_item = model_first_input(m, &s.first_row);
    if (t->position == NN_POS_RELATIVE) b.relative = nn_relative_bias(m, "relative", s.longest, t->heads, t->causal);
    for (int64_t i = 0; i < t->layers; i++) {
        /* Later blocks are dropped more often (Huang et al. 2016, sec. 3). */
        b.drop_path = t->layers > 1 ? t->drop_path * (double)i / (double)(t->layers - 1) : t->drop_path;
        ad_push(m->g, "block");
        char name[16];
        snprintf(name, sizeof name, "%d", (int)i);
        s.x = nn_transformer_block(m, name, &s, &b);
        ad_pop(m->g);
    }
    if (t->final_norm) s.x = nn_norm(m, "norm", (enum nn_norm)t->norm, s.x, t->eps);
    return s;
}
