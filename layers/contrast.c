/* Contrastive losses over one pair of modalities, with absent samples and several positives. */
#include <math.h>

#include "layers/nn.h"

val nn_unit(struct nn *m, val x)
{
    struct ad_graph *g = m->g;
    return ad_mul(g, x, ad_rsqrt(g, ad_shift(g, ad_sum_last(g, ad_square(g, x)), 1e-12)));
}

val nn_temperature(struct nn *m, const char *name, double temperature, double max)
{
    val s = nn_param(m, name, SCALAR, (struct ad_init){AD_INIT_VALUE, log(1 / temperature)}, AD_NO_DECAY);
    return ad_exp(m->g, ad_clamp(m->g, s, 0, log(max)));
}

/* What both losses need: masks (B, B) of valid pairs and of positives; i runs over a, j over b. */
struct pair {
    int64_t n;
    val has_a, has_b; /* (B) */
    val both;         /* (B, B) */
    val positive;     /* (B, B), 0 where the pair is not valid */
};

static struct pair pair_of(struct nn *m, const struct nn_contrast *c)
{
    struct ad_graph *g = m->g;
    struct pair p = {.n = ad_rank(g, c->a) == 2 ? ad_dim(g, c->a, 0) : 1};
    val ones = ad_full(g, AD_F32, SHAPE(p.n), 1);
    p.has_a = c->has_a ? c->has_a : ones;
    p.has_b = c->has_b ? c->has_b : ones;
    p.both = ad_mul(g, ad_reshape(g, p.has_a, SHAPE(p.n, 1)), ad_reshape(g, p.has_b, SHAPE(1, p.n)));
    val id = c->group ? c->group : ad_iota(g, AD_I32, p.n);
    val same = ad_equal(g, ad_reshape(g, id, SHAPE(p.n, 1)), ad_reshape(g, id, SHAPE(1, p.n)));
    p.positive = ad_mul(g, same, p.both);
    return p;
}

/* One direction: rows are queries, columns candidates. A query without a positive candidate does not count. */
static val direction(struct nn *m, val logits, val positive, val has_candidate, val has_query, int64_t n)
{
    struct ad_graph *g = m->g;
    val absent = ad_scale(g, ad_shift(g, ad_neg(g, has_candidate), 1), -1e9); /* 0, or -1e9 for an absent candidate */
    val logp = ad_log_softmax(g, ad_add(g, logits, ad_reshape(g, absent, SHAPE(1, n))));
    val count = ad_sum_last(g, positive); /* (B, 1) */
    val target = ad_div(g, positive, ad_maximum(g, count, ad_const(g, AD_F32, 1)));
    val loss = ad_neg(g, ad_sum(g, ad_mul(g, target, logp), 2, false)); /* (B) */
    val counts = ad_mul(g, has_query, ad_greater(g, ad_reshape(g, count, SHAPE(n)), ad_const(g, AD_F32, 0)));
    val total = ad_maximum(g, ad_sum_all(g, counts), ad_const(g, AD_F32, 1));
    return ad_div(g, ad_sum_all(g, ad_mul(g, loss, counts)), total);
}

val nn_infonce(struct nn *m, const struct nn_contrast *c, val scale)
{
    struct ad_graph *g = m->g;
    struct pair p = pair_of(m, c);
    val logits = ad_mul(g, ad_matmul(g, c->a, c->b, false, true), scale);
    val forth = direction(m, logits, p.positive, p.has_b, p.has_a, p.n);
    val back = direction(m, ad_swap(g, logits, 0, 1), ad_swap(g, p.positive, 0, 1), p.has_a, p.has_b, p.n);
    return ad_scale(g, ad_add(g, forth, back), 0.5);
}

val nn_siglip(struct nn *m, const struct nn_contrast *c, val scale, val bias)
{
    struct ad_graph *g = m->g;
    struct pair p = pair_of(m, c);
    val logits = ad_add(g, ad_mul(g, ad_matmul(g, c->a, c->b, false, true), scale), bias);
    val z = ad_shift(g, ad_scale(g, p.positive, 2), -1);
    val loss = ad_mul(g, ad_softplus(g, ad_neg(g, ad_mul(g, z, logits))), p.both); /* -log sigmoid(t) = softplus(-t) */
    val total = ad_maximum(g, ad_sum_all(g, ad_mul(g, p.has_a, p.has_b)), ad_const(g, AD_F32, 1));
    return ad_div(g, ad_sum_all(g, loss), total);
}
