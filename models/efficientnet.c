/* EfficientNet (Tan & Le 2019): MBConv blocks (Sandler et al. 2018, with squeeze and excitation) of widths and depths
 * that grow together.  image (B, H, W, 3) -> (B, 4 x the last width) */
#include <math.h>

#include "base/mem.h"
#include "models/trunk.h"

struct model_efficientnet model_efficientnet_variant(int b)
{
    static const double width[] = {1, 1, 1.1, 1.2}, depth[] = {1, 1.1, 1.2, 1.4};
    CHECK(b >= 0 && b < 4);
    return (struct model_efficientnet){.width = width[b],
                                       .depth = depth[b],
                                       .stem = 32,
                                       .stage = {{1, 3, 1, 16, 1},
                                                 {6, 3, 2, 24, 2},
                                                 {6, 5, 2, 40, 2},
                                                 {6, 3, 2, 80, 3},
                                                 {6, 5, 1, 112, 3},
                                                 {6, 5, 2, 192, 4},
                                                 {6, 3, 1, 320, 1}},
                                       .n_stages = 7,
                                       .drop_path = 0.2,
                                       .momentum = 0.1,
                                       .eps = 1e-5};
}

/* The nearest multiple of 8, at least 8, unless that takes more than a tenth: then the next. */
static int64_t channels(const struct model_efficientnet *c, int64_t base)
{
    double want = (double)base * c->width;
    int64_t n = (int64_t)(want + 4) / 8 * 8;
    if (n < 8) n = 8;
    return (double)n < 0.9 * want ? n + 8 : n;
}

static int64_t layers(const struct model_efficientnet *c, int64_t base)
{
    return (int64_t)ceil((double)base * c->depth);
}

/* conv - norm [- SiLU] */
static val conv_norm(struct nn *m, const struct model_efficientnet *c, const char *name, val x, struct nn_conv conv,
                     bool activate)
{
    ad_push(m->g, "%s", name);
    conv.pad = -1;
    x = nn_batch_norm_act(m, "norm", nn_conv2d(m, "conv", x, conv), c->momentum, c->eps, false, 0,
                          activate ? NN_SILU : NN_IDENTITY);
    ad_pop(m->g);
    return x;
}

/* `first`: the number of item 0 in the whole batch, 0 where this is the whole. */
static val mbconv(struct nn *m, const struct model_efficientnet *c, val x, val first, const struct model_mbconv *b,
                  int stride, double drop)
{
    int64_t in = ad_dim(m->g, x, -1), out = channels(c, b->out),
            wide = channels(&(struct model_efficientnet){.width = 1}, in * b->expand);
    val y = x;
    if (wide != in) y = conv_norm(m, c, "expand", y, (struct nn_conv){.out = wide, .kernel = 1, .stride = 1}, true);
    struct nn_conv depthwise = {.out = wide, .kernel = (int)b->kernel, .stride = stride, .groups = (int)wide};
    y = conv_norm(m, c, "depthwise", y, depthwise, true);
    y = nn_squeeze_excite(m, "se", y, in / 4 > 1 ? in / 4 : 1, NN_SILU);
    y = conv_norm(m, c, "project", y, (struct nn_conv){.out = out, .kernel = 1, .stride = 1}, false);
    if (stride > 1 || in != out) return y;
    return ad_add(m->g, x, nn_dropout(m, y, first, drop, true));
}

val model_efficientnet(struct nn *m, const struct model_tower *t, struct model_shape s)
{
    struct ad_graph *g = m->g;
    const struct model_efficientnet *c = &t->efficientnet;
    val x = model_input(m, "image", AD_F32, SHAPE(s.items, t->image_size, t->image_size, 3));
    x = conv_norm(m, c, "stem", x, (struct nn_conv){.out = channels(c, c->stem), .kernel = 3, .stride = 2}, true);
    int64_t all = 0, at = 0;
    val first_row, first = model_first_input(m, &first_row);
    for (int i = 0; i < c->n_stages; i++) all += layers(c, c->stage[i].layers);
    for (int i = 0; i < c->n_stages && x; i++) {
        const struct model_mbconv *b = &c->stage[i];
        for (int64_t k = 0; k < layers(c, b->layers) && x; k++, at++) {
            ad_push(g, "stage.%d.%d", i, (int)k);
            x = mbconv(m, c, x, first, b, k == 0 ? (int)b->stride : 1, c->drop_path * (double)at / (double)all);
            ad_pop(g);
        }
    }
    if (!x) return 0;
    x = conv_norm(m, c, "top", x, (struct nn_conv){.out = 4 * ad_dim(g, x, -1), .kernel = 1, .stride = 1}, true);
    return ad_mean(g, x, 6, false); /* over height and width */
}
