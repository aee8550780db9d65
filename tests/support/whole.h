/* A network with everything in it, for tests of plans and passes. */
#ifndef TRIAD_TESTS_WHOLE_H
#define TRIAD_TESTS_WHOLE_H

#include "optim/opt.h"
#include "tests/support/net.h"

enum { ITEMS = 4, ROWS = 70, WIDTH = 32, SIDE = 12, CHANNELS = 8 };
static const int32_t offsets[] = {0, 20, 21, 50, 66};

/* A transformer block over packed rows and a residual block over images, trained: dropout, drop path, batch statistics,
 * one loss, all gradients into `grad`. */
struct whole {
    struct net n;
    float *grad, *x, *image;
    int64_t n_grad;
};

static inline val emit_loss(struct nn *m)
{
    struct ad_graph *g = m->g;
    struct nn_seq s = {.rows = ROWS, .items = ITEMS, .longest = 40};
    s.x = ad_input(g, "x", AD_F32, SHAPE(ROWS, WIDTH));
    s.offsets = ad_input(g, "offsets", AD_I32, SHAPE(ITEMS + 1));
    struct nn_block b = {.heads = 4,
                         .mlp_ratio = 2,
                         .activation = NN_GELU,
                         .bias = true,
                         .eps = 1e-5,
                         .dropout = 0.1,
                         .drop_path = 0.2,
                         .layer_scale = 0.5,
                         .position = NN_POS_ROTARY,
                         .layers = 2};
    for (int i = 0; i < 2; i++) {
        s.x = nn_transformer_block(m, i ? "block.1" : "block.0", &s, &b);
        b.gated = b.causal = true;
        b.norm = NN_RMS_NORM;
    }
    val text = nn_unit(m, nn_linear(m, "text", nn_pool(m, "pool", NN_POOL_ATTENTION, &s, 4), 16, true, 0));
    val im = ad_input(g, "image", AD_F32, SHAPE(ITEMS, SIDE, SIDE, 3));
    im = nn_conv2d(m, "stem", im, (struct nn_conv){.out = CHANNELS, .kernel = 3, .stride = 1, .pad = -1, .bias = true});
    val y = ad_relu(g, nn_batch_norm(m, "norm1", im, 0.1, 1e-5, false));
    y = nn_conv2d(m, "conv1", y, (struct nn_conv){.out = CHANNELS, .kernel = 3, .stride = 1, .pad = -1});
    y = ad_relu(g, ad_add(g, nn_batch_norm(m, "norm2", y, 0.1, 1e-5, false), im));
    y = ad_max_pool(g, y, (struct ad_pool){.kernel = {3, 3}, .stride = {2, 2}, .pad = {1, 1}});
    y = nn_conv2d(m, "conv2", y, (struct nn_conv){.out = 16, .kernel = 1, .stride = 2, .pad = 0});
    val picture = nn_unit(m, nn_linear(m, "picture", ad_mean(g, y, 6, false), 16, true, 0));
    struct nn_contrast c = {.a = text, .b = picture};
    return nn_infonce(m, &c, nn_temperature(m, "scale", 0.2, 100));
}

static inline struct whole whole_begin(unsigned flags)
{
    struct whole w = {.n = net_begin(true)};
    val loss = emit_loss(&w.n.m);
    ad_output(w.n.m.g, "loss", loss);
    opt_emit_gradients(w.n.m.g, w.n.m.store, loss);
    net_plan(&w.n, flags);
    w.n_grad = ad_store_flat_count(w.n.m.store);
    w.grad = mem_zero((size_t)w.n_grad, sizeof *w.grad);
    opt_bind_gradients(w.n.p, w.n.m.store, w.grad);
    w.x = numbers(ROWS * WIDTH, "x");
    w.image = numbers(ITEMS * SIDE * SIDE * 3, "image");
    ad_bind(w.n.p, "x", w.x);
    ad_bind(w.n.p, "offsets", offsets);
    ad_bind(w.n.p, "image", w.image);
    return w;
}

static inline void whole_end(struct whole *w)
{
    free(w->grad);
    free(w->x);
    free(w->image);
    net_end(&w->n);
}

#endif
