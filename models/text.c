/* Text tower over packed tokens: CLIP's (causal, end-token pooling), BERT's (bidirectional) and what lies between. */
#include "models/trunk.h"

struct nn_seq model_text_entry(struct nn *m, const struct model_text *t, struct model_shape s, val *ids)
{
    const struct model_trunk *c = &t->trunk;
    struct nn_seq x = {.rows = s.rows, .items = s.items, .longest = t->length};
    val tokens = model_input(m, "tokens", AD_I32, SHAPE(s.rows));
    if (ids) *ids = tokens;
    x.offsets = model_input(m, "offsets", AD_I32, SHAPE(s.items + 1));
    x.x = nn_embedding(m, "token", tokens, t->vocab, c->width, MODEL_TOKEN_INIT.scale); /* (T, D) */
    if (t->token_types) {
        val type =
            nn_param(m, "token_type.weight", SHAPE(2, c->width), (struct ad_init){AD_INIT_NORMAL, 0.02}, AD_EDGE);
        x.x = ad_add(m->g, x.x, ad_slice(m->g, type, 0, 0, 1, 1));
    }
    x = model_add_position(m, c, x);
    if (t->entry_norm) x.x = nn_norm(m, "entry_norm", (enum nn_norm)c->norm, x.x, c->eps);
    return x;
}
