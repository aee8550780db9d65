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

/* Who is there and who belongs together; a missing mask stands for all, missing groups for all different. */
static struct ad_pairs pairs_of(struct nn *m, const struct nn_contrast *c)
{
    struct ad_graph *g = m->g;
    int64_t n = ad_rank(g, c->a) == 2 ? ad_dim(g, c->a, 0) : 1;
    struct ad_pairs p = {.a = c->a,
                         .b = c->b,
                         .has_a = c->has_a,
                         .has_b = c->has_b,
                         .keep = m->part ? NN_CONTRAST_KEEP_PART : NN_CONTRAST_KEEP};
    if (!p.has_a) p.has_a = ad_full(g, AD_F32, SHAPE(n), 1);
    if (!p.has_b) p.has_b = ad_full(g, AD_F32, SHAPE(n), 1);
    p.id_a = p.id_b = c->group ? c->group : ad_iota(g, AD_I32, n);
    return p;
}

val nn_infonce(struct nn *m, const struct nn_contrast *c, val scale)
{
    struct ad_pairs p = pairs_of(m, c);
    return ad_infonce(m->g, &p, scale);
}

val nn_siglip(struct nn *m, const struct nn_contrast *c, val scale, val bias)
{
    struct ad_graph *g = m->g;
    struct ad_pairs p = pairs_of(m, c);
    val total = ad_maximum(g, ad_sum_all(g, ad_mul(g, p.has_a, p.has_b)), ad_const(g, AD_F32, 1));
    return ad_div(g, ad_siglip_sum(g, &p, scale, bias), total);
}
