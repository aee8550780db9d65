/* Attention, MLP and the block made of them, over packed sequences; pooling heads. */
#include <math.h>

#include "layers/nn.h"

const char *const nn_pool_names[] = {"mean", "first", "last", "attention", NULL};

static int64_t width_of(const struct nn *m, val x)
{
    return ad_rank(m->g, x) ? ad_dim(m->g, x, -1) : 1;
}

/* Residual branches start smaller the deeper the stack (Radford et al. 2019, sec. 2.3). */
static double out_std(const struct nn_block *c, int64_t in)
{
    double deep = c->layers > 0 ? sqrt(1.0 / (2.0 * (double)c->layers)) : 1;
    return deep * sqrt(1.0 / (double)in);
}

/* Of all rows of s, or only of the rows `edge`, one of each item, which see it all. */
static val attention(struct nn *m, const char *name, const struct nn_seq *edge, const struct nn_seq *s,
                     const struct nn_block *c)
{
    struct ad_graph *g = m->g;
    ad_push(g, "%s", name);
    int64_t d = width_of(m, s->x);
    if (c->heads < 1 || d % c->heads)
        ad_fail(g, "width %lld is not a multiple of %lld heads", (long long)d, (long long)c->heads);
    val part[3] = {0};
    if (edge) {
        val both[2];
        nn_linear_columns(m, "qkv", 2, (val[]){edge->x, s->x}, (int64_t[]){d, 2 * d}, c->bias, both);
        part[0] = both[0];
        ad_split(g, both[1], -1, 2, part + 1);
    } else {
        ad_split(g, nn_linear(m, "qkv", s->x, 3 * d, c->bias, 0), -1, 3, part);
    }
    for (int i = edge ? 1 : 0; i < 2 && c->position == NN_POS_ROTARY; i++) /* position 0 turns nothing */
        part[i] = nn_rotary(m, s, part[i], c->heads, 10000);
    val y = ad_attention(g, part[0], part[1], part[2], edge ? edge->offsets : s->offsets, s->offsets, c->relative,
                         (int)c->heads, c->causal && !edge ? AD_CAUSAL : 0);
    y = nn_linear(m, "out", y, d, c->bias, out_std(c, d));
    ad_pop(g);
    return y;
}

val nn_attention(struct nn *m, const char *name, const struct nn_seq *s, const struct nn_block *c)
{
    return attention(m, name, NULL, s, c);
}

val nn_cross_attention(struct nn *m, const char *name, const struct nn_seq *q, const struct nn_seq *kv, int64_t heads,
                       bool bias)
{
    struct ad_graph *g = m->g;
    ad_push(g, "%s", name);
    int64_t d = width_of(m, q->x);
    val query = nn_linear(m, "query", q->x, d, bias, 0), part[2] = {0};
    ad_split(g, nn_linear(m, "key_value", kv->x, 2 * d, bias, 0), -1, 2, part);
    val y = ad_attention(g, query, part[0], part[1], q->offsets, kv->offsets, 0, (int)heads, 0);
    y = nn_linear(m, "out", y, d, bias, 0);
    ad_pop(g);
    return y;
}

val nn_dropout(struct nn *m, val x, val first, double p, bool per_item)
{
    if (!m->training || p <= 0 || !x) return x;
    return first ? ad_dropout_part(m->g, x, first, p, per_item) : ad_dropout(m->g, x, p, per_item);
}

val nn_mlp(struct nn *m, const char *name, const struct nn_seq *s, const struct nn_block *c)
{
    struct ad_graph *g = m->g;
    ad_push(g, "%s", name);
    int64_t d = width_of(m, s->x), hidden = (int64_t)(c->mlp_ratio * (double)d + 0.5);
    val h = nn_linear(m, "up", s->x, c->gated ? 2 * hidden : hidden, c->bias, 0);
    if (c->gated) {
        val part[2] = {0};
        ad_split(g, h, -1, 2, part);
        h = ad_mul(g, nn_activate(m, c->activation, part[0]), part[1]);
    } else {
        h = nn_activate(m, c->activation, h);
    }
    h = nn_dropout(m, h, s->first_row, c->dropout, false);
    val y = nn_linear(m, "down", h, d, c->bias, out_std(c, hidden));
    ad_pop(g);
    return y;
}

val nn_drop_path(struct nn *m, const struct nn_seq *s, val branch, double p)
{
    if (!m->training || p <= 0 || !branch) return branch;
    struct ad_graph *g = m->g;
    val one = ad_full(g, ad_dtype_of(g, branch), SHAPE(s->items, 1), 1),
        keep = nn_dropout(m, one, s->first_item, p, false); /* 0 or 1/(1-p) an item */
    return ad_mul(g, branch, ad_segment_broadcast(g, keep, s->offsets, s->rows));
}

val nn_layer_scale(struct nn *m, const char *name, val x, double start)
{
    val gain = nn_param(m, name, SHAPE(width_of(m, x)), (struct ad_init){AD_INIT_VALUE, start}, AD_NO_DECAY);
    return ad_mul(m->g, x, gain);
}

/* What a residual branch goes through before it is added. */
static val finish_branch(struct nn *m, const struct nn_seq *s, const struct nn_block *c, val y, const char *scale)
{
    if (c->layer_scale > 0) y = nn_layer_scale(m, scale, y, c->layer_scale);
    y = nn_dropout(m, y, s->first_row, c->dropout, false);
    return nn_drop_path(m, s, y, c->drop_path);
}

static val block(struct nn *m, const char *name, const struct nn_seq *edge, const struct nn_seq *s,
                 const struct nn_block *c)
{
    struct ad_graph *g = m->g;
    ad_push(g, "%s", name);
    struct nn_seq all = *s, own = edge ? *edge : *s; /* what is seen, and the rows that the block is for */
    val x = own.x;
    if (!c->post_norm) {
        all.x = nn_norm(m, "norm1", c->norm, all.x, c->eps);
        own.x = edge ? nn_norm(m, "norm1", c->norm, own.x, c->eps) : all.x;
    }
    val y = attention(m, "attention", edge ? &own : NULL, &all, c);
    x = ad_add(g, x, finish_branch(m, &own, c, y, "scale1"));
    if (c->post_norm) x = nn_norm(m, "norm1", c->norm, x, c->eps);
    own.x = c->post_norm ? x : nn_norm(m, "norm2", c->norm, x, c->eps);
    x = ad_add(g, x, finish_branch(m, &own, c, nn_mlp(m, "mlp", &own, c), "scale2"));
    if (c->post_norm) x = nn_norm(m, "norm2", c->norm, x, c->eps);
    ad_pop(g);
    return x;
}

val nn_transformer_block(struct nn *m, const char *name, const struct nn_seq *s, const struct nn_block *c)
{
    return block(m, name, NULL, s, c);
}

bool nn_block_has_edge(const struct nn_block *c, enum nn_pool kind)
{
    if (kind == NN_POOL_FIRST) return !c->causal;
    return kind == NN_POOL_LAST && c->position != NN_POS_ROTARY && c->position != NN_POS_RELATIVE;
}

val nn_transformer_block_edge(struct nn *m, const char *name, const struct nn_seq *s, const struct nn_block *c,
                              enum nn_pool kind)
{
    if (!nn_block_has_edge(c, kind)) return ad_fail(m->g, "%s: the pooled row does not see its whole item", name);
    val rows = nn_pool(m, NULL, kind, s, 0);
    struct nn_seq edge = nn_seq_fixed(m, ad_reshape(m->g, rows, SHAPE(s->items, 1, width_of(m, rows))));
    edge.first_item = edge.first_row = s->first_item;
    return block(m, name, &edge, s, c);
}

val nn_clear_empty(struct nn *m, const struct nn_seq *s, val x)
{
    struct ad_graph *g = m->g;
    val end = ad_slice(g, s->offsets, 0, 1, s->items + 1, 1), start = ad_slice(g, s->offsets, 0, 0, s->items, 1);
    val there = ad_cast(g, ad_greater(g, end, start), AD_F32);
    return ad_mul(g, x, ad_reshape(g, there, SHAPE(s->items, 1)));
}

static val attention_pool(struct nn *m, const char *name, const struct nn_seq *s, int64_t heads)
{
    struct ad_graph *g = m->g;
    ad_push(g, "%s", name);
    int64_t d = width_of(m, s->x);
    val seed = nn_param(m, "query", SHAPE(1, 1, d), (struct ad_init){AD_INIT_NORMAL, 0.02}, 0);
    struct nn_seq q = nn_seq_fixed(m, ad_broadcast(g, seed, SHAPE(s->items, 1, d)));
    val y = nn_cross_attention(m, "attention", &q, s, heads, true);
    ad_pop(g);
    return y;
}

val nn_pool(struct nn *m, const char *name, enum nn_pool kind, const struct nn_seq *s, int64_t heads)
{
    switch (kind) {
    case NN_POOL_MEAN: return ad_segment_mean(m->g, s->x, s->offsets);
    case NN_POOL_FIRST: return ad_segment_edge(m->g, s->x, s->offsets, false);
    case NN_POOL_LAST: return ad_segment_edge(m->g, s->x, s->offsets, true);
    case NN_POOL_ATTENTION: return attention_pool(m, name, s, heads);
    }
    return 0;
}
