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

/* What all blocks have in common, but for the bias that they share. */
static struct nn_block block_of(const struct model_trunk *t)
{
    return (struct nn_block){.heads = t->heads,
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
}

/* Block i's name; how often it is dropped to *b: later ones more often (Huang et al. 2016, sec. 3). */
static const char *block_at(const struct model_trunk *t, int64_t i, struct nn_block *b, char name[32])
{
    b->drop_path = t->layers > 1 ? t->drop_path * (double)i / (double)(t->layers - 1) : t->drop_path;
    snprintf(name, 32, "block.%d", (int)i);
    return name;
}

/* The first n; where s is a part of a batch (nn.part) its place in it is asked for. */
static void run_blocks(struct nn *m, const struct model_trunk *t, struct nn_block *b, struct nn_seq *s, int64_t n)
{
    char name[32];
    s->first_item = model_first_input(m, &s->first_row);
    if (t->position == NN_POS_RELATIVE) b->relative = nn_relative_bias(m, "relative", s->longest, t->heads, t->causal);
    for (int64_t i = 0; i < n; i++) s->x = nn_transformer_block(m, block_at(t, i, b, name), s, b);
}

static val final_norm(struct nn *m, const struct model_trunk *t, val x)
{
    return t->final_norm ? nn_norm(m, "norm", (enum nn_norm)t->norm, x, t->eps) : x;
}

struct nn_seq model_trunk_run(struct nn *m, const struct model_trunk *t, struct nn_seq s)
{
    struct nn_block b = block_of(t);
    run_blocks(m, t, &b, &s, t->layers);
    s.x = final_norm(m, t, s.x);
    return s;
}

val model_trunk_pooled(struct nn *m, const struct model_trunk *t, struct nn_seq s)
{
    enum nn_pool pool = (enum nn_pool)t->pool;
    struct nn_block b = block_of(t);
    if (t->layers < 1 || !nn_block_has_edge(&b, pool)) {
        s = model_trunk_run(m, t, s);
        return nn_pool(m, "pool", pool, &s, t->heads);
    }
    char name[32];
    run_blocks(m, t, &b, &s, t->layers - 1);
    val y = nn_transformer_block_edge(m, block_at(t, t->layers - 1, &b, name), &s, &b, pool);
    return nn_clear_empty(m, &s, final_norm(m, t, y)); /* pooling gives 0 for them */
}
