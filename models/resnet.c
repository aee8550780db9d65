/* Residual networks (He et al. 2016; the v1.5 bottleneck strides in its 3x3).  image (B, H, W, 3) -> (B, width) */
#include <stdio.h>

#include "models/trunk.h"

/* conv - norm [- + residual] [- ReLU] */
static val conv_norm(struct nn *m, const struct model_resnet *c, const char *name, val x, struct nn_conv conv,
                     val residual, enum nn_activation a)
{
    ad_push(m->g, "%s", name);
    conv.pad = conv.kernel % 2 ? -1 : 0; /* an even kernel cuts the image into patches */
    x = nn_conv2d(m, "conv", x, conv);
    x = nn_batch_norm_act(m, "norm", x, c->momentum, c->eps, false, residual, a);
    ad_pop(m->g);
    return x;
}

static val block(struct nn *m, const struct model_resnet *c, const char *name, val x, int64_t width, int stride)
{
    struct ad_graph *g = m->g;
    ad_push(g, "%s", name);
    int64_t out = c->bottleneck ? 4 * width : width;
    val y = x, shortcut = x;
    struct nn_conv first = {.out = width, .kernel = c->bottleneck ? 1 : 3, .stride = c->bottleneck ? 1 : stride};
    struct nn_conv last = {.out = out, .kernel = c->bottleneck ? 1 : 3, .stride = 1};
    struct nn_conv across = {.out = out, .kernel = 1, .stride = stride};
    y = conv_norm(m, c, "a", y, first, 0, NN_RELU);
    if (c->bottleneck)
        y = conv_norm(m, c, "b", y, (struct nn_conv){.out = width, .kernel = 3, .stride = stride}, 0, NN_RELU);
    if (stride > 1 || ad_dim(g, x, -1) != out)
        shortcut = c->bare_shortcut ? nn_conv2d(m, "shortcut", x, across)
                                    : conv_norm(m, c, "shortcut", x, across, 0, NN_IDENTITY);
    y = conv_norm(m, c, c->bottleneck ? "c" : "b", y, last, shortcut, NN_RELU);
    ad_pop(g);
    return y;
}

val model_resnet(struct nn *m, const struct model_tower *t, struct model_shape s)
{
    struct ad_graph *g = m->g;
    const struct model_resnet *c = &t->resnet;
    val x = model_input(m, "image", AD_F32, SHAPE(s.items, t->image_size, t->image_size, 3));
    struct nn_conv stem = {.out = c->stem_width,
                           .kernel = (int)c->stem_kernel,
                           .stride = (int)c->stem_stride,
                           .pad = c->stem_kernel % 2 ? -1 : 0};
    if (c->stem_norm) {
        x = conv_norm(m, c, "stem", x, stem, 0, NN_RELU);
    } else {
        stem.bias = true;
        x = nn_conv2d(m, "stem", x, stem);
    }
    if (c->stem_pool) x = ad_max_pool(g, x, (struct ad_pool){.kernel = {3, 3}, .stride = {2, 2}, .pad = {1, 1}});
    for (int i = 0; i < c->n_stages && x; i++)
        for (int64_t k = 0; k < c->depth[i] && x; k++) {
            char name[32];
            snprintf(name, sizeof name, "stage.%d.%d", i, (int)k);
            x = block(m, c, name, x, c->width[i], i > 0 && k == 0 ? 2 : 1);
        }
    return x ? ad_mean(g, x, 6, false) : 0; /* over height and width */
}
