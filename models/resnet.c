/* Residual networks (He et al. 2016; the v1.5 bottleneck strides in its 3x3).  image (B, H, W, 3) -> (B, width) */
#include <stdio.h>

#include "models/trunk.h"

/* conv - norm [- ReLU] */
static val conv_norm(struct nn *m, const struct model_resnet *c, const char *name, val x, struct nn_conv conv,
                     bool relu, bool last)
{
    ad_push(m->g, "%s", name);
    conv.pad = conv.kernel % 2 ? -1 : 0; /* an even kernel cuts the image into patches */
    x = nn_conv2d(m, "conv", x, conv);
    x = nn_batch_norm(m, "norm", x, c->momentum, c->eps, last);
    ad_pop(m->g);
    return relu ? ad_relu(m->g, x) : x;
}

static val block(struct nn *m, const struct model_resnet *c, const char *name, val x, int64_t width, int stride)
{
    struct ad_graph *g = m->g;
    ad_push(g, "%s", name);
    int64_t out = c->bottleneck ? 4 * width : width;
    val y = x, shortcut = x;
    if (c->bottleneck) {
        y = conv_norm(m, c, "a", y, (struct nn_conv){.out = width, .kernel = 1, .stride = 1}, true, false);
        y = conv_norm(m, c, "b", y, (struct nn_conv){.out = width, .kernel = 3, .stride = stride}, true, false);
        y = conv_norm(m, c, "c", y, (struct nn_conv){.out = out, .kernel = 1, .stride = 1}, false, false);
    } else {
        y = conv_norm(m, c, "a", y, (struct nn_conv){.out = width, .kernel = 3, .stride = stride}, true, false);
        y = conv_norm(m, c, "b", y, (struct nn_conv){.out = out, .kernel = 3, .stride = 1}, false, false);
    }
    if (stride > 1 || ad_dim(g, x, -1) != out) {
        struct nn_conv conv = {.out = out, .kernel = 1, .stride = stride};
        shortcut =
            c->bare_shortcut ? nn_conv2d(m, "shortcut", x, conv) : conv_norm(m, c, "shortcut", x, conv, false, false);
    }
    y = ad_relu(g, ad_add(g, y, shortcut));
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
        x = conv_norm(m, c, "stem", x, stem, true, false);
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
