/* Wav2Vec 2.0's encoder (Baevski et al. 2020, sec. 2 and 4.2).  wave (B, samples) -> frames (B T, D), packed */
#include <math.h>

#include "models/trunk.h"

struct model_wave model_wave_base(void)
{
    struct model_wave w = {.trunk = model_trunk_default(),
                           .channels = 512,
                           .kernel = {10, 3, 3, 3, 3, 2, 2},
                           .stride = {5, 2, 2, 2, 2, 2, 2},
                           .n_features = 7,
                           .position_kernel = 128,
                           .position_groups = 16};
    w.trunk.layers = 12;
    w.trunk.width = 768;
    w.trunk.heads = 12;
    w.trunk.post_norm = true;
    w.trunk.final_norm = false;
    w.trunk.position = NN_POS_NONE;
    return w;
}

/* (B, samples, 1) -> (B, T, channels), T one in 320 with the published kernels and strides */
static val feature_encoder(struct nn *m, const struct model_wave *t, val x)
{
    for (int i = 0; i < t->n_features; i++) {
        ad_push(m->g, "features.%d", i);
        x = nn_conv1d(m, "conv", x,
                      (struct nn_conv){.out = t->channels, .kernel = (int)t->kernel[i], .stride = (int)t->stride[i]});
        if (i == 0) x = nn_group_norm(m, "norm", x, (int)t->channels, 1e-5); /* each channel over time */
        x = ad_gelu(m->g, x);
        ad_pop(m->g);
    }
    return x;
}

/* x (B, T, D) + GELU(its convolution over time): relative positions. */
static val add_positions(struct nn *m, const struct model_wave *t, val x)
{
    struct ad_graph *g = m->g;
    int64_t d = t->trunk.width, n = ad_dim(g, x, 1), k = t->position_kernel;
    ad_push(g, "position");
    val w = nn_weight_norm(m, "weight", SHAPE(k, d / t->position_groups, d), 0, sqrt(4.0 / (double)(k * d)));
    val b = nn_param(m, "bias", SHAPE(d), (struct ad_init){AD_INIT_ZERO, 0}, AD_NO_DECAY);
    val y = ad_conv1d(g, x, w, (struct ad_conv){.pad = {(int32_t)k / 2}, .groups = (int32_t)t->position_groups});
    y = ad_slice(g, y, 1, 0, n, 1); /* an even kernel gives one frame too many */
    y = ad_add(g, x, ad_gelu(g, ad_add(g, y, b)));
    ad_pop(g);
    return y;
}

struct nn_seq model_wave_entry(struct nn *m, const struct model_wave *t, struct model_shape s)
{
    struct ad_graph *g = m->g;
    const struct model_trunk *c = &t->trunk;
    if (s.items < 1 || s.rows % s.items) {
        ad_fail(g, "%lld samples are not %lld clips of one length", (long long)s.rows, (long long)s.items);
        return (struct nn_seq){.rows = s.rows, .items = s.items};
    }
    val x = model_input(m, "wave", AD_F32, SHAPE(s.items, s.rows / s.items));
    x = feature_encoder(m, t, ad_reshape(g, x, SHAPE(s.items, s.rows / s.items, 1)));
    x = nn_norm(m, "feature_norm", (enum nn_norm)c->norm, x, c->eps);
    x = nn_linear(m, "feature_linear", x, c->width, true, 0);
    if (!x) return (struct nn_seq){.rows = s.rows, .items = s.items};
    x = add_positions(m, t, x);
    if (c->post_norm) x = nn_norm(m, "entry_norm", (enum nn_norm)c->norm, x, c->eps);
    return nn_seq_fixed(m, x);
}
