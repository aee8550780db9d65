/* Convolution layers: images, packed sequences, patches. */
#include <math.h>

#include "layers/nn.h"

static int pad_of(struct nn_conv c)
{
    return c.pad < 0 ? c.kernel / 2 : c.pad;
}

static val bias_of(struct nn *m, struct nn_conv c)
{
    return c.bias ? nn_param(m, "bias", SHAPE(c.out), (struct ad_init){AD_INIT_ZERO, 0}, AD_NO_DECAY) : 0;
}

val nn_conv2d(struct nn *m, const char *name, val x, struct nn_conv c)
{
    struct ad_graph *g = m->g;
    if (ad_rank(g, x) != 4) return ad_fail(g, "%s: an image batch must be (N, H, W, C)", name);
    ad_push(g, "%s", name);
    int groups = c.groups ? c.groups : 1;
    int64_t in = ad_dim(g, x, -1) / groups;
    struct ad_init init = {AD_INIT_NORMAL, sqrt(2.0 * groups / ((double)c.out * c.kernel * c.kernel))};
    val w = nn_param(m, "weight", SHAPE(c.kernel, c.kernel, in, c.out), init, 0);
    int pad = pad_of(c);
    val y = ad_conv2d(g, x, w, (struct ad_conv){.stride = {c.stride, c.stride}, .pad = {pad, pad}, .groups = groups});
    val b = bias_of(m, c);
    if (b) y = ad_add(g, y, b);
    ad_pop(g);
    return y;
}

val nn_conv1d(struct nn *m, const char *name, val x, struct nn_conv c)
{
    struct ad_graph *g = m->g;
    if (ad_rank(g, x) != 3) return ad_fail(g, "%s: sequences of one length must be (N, T, C)", name);
    ad_push(g, "%s", name);
    int groups = c.groups ? c.groups : 1;
    int64_t in = ad_dim(g, x, -1) / groups;
    struct ad_init init = {AD_INIT_NORMAL, sqrt(2.0 / ((double)in * c.kernel))};
    val w = nn_param(m, "weight", SHAPE(c.kernel, in, c.out), init, 0);
    val y = ad_conv1d(g, x, w, (struct ad_conv){.stride = {c.stride}, .pad = {pad_of(c)}, .groups = groups});
    val b = bias_of(m, c);
    if (b) y = ad_add(g, y, b);
    ad_pop(g);
    return y;
}

val nn_squeeze_excite(struct nn *m, const char *name, val x, int64_t hidden, enum nn_activation a)
{
    struct ad_graph *g = m->g;
    if (ad_rank(g, x) != 4) return ad_fail(g, "%s: an image batch must be (N, H, W, C)", name);
    ad_push(g, "%s", name);
    val s = ad_mean(g, x, 6, true); /* (N, 1, 1, C) */
    s = nn_activate(m, a, nn_linear(m, "squeeze", s, hidden, true, 0));
    s = ad_sigmoid(g, nn_linear(m, "excite", s, ad_dim(g, x, -1), true, 0));
    ad_pop(g);
    return ad_mul(g, x, s);
}

struct nn_seq nn_conv1d_packed(struct nn *m, const char *name, const struct nn_seq *s, struct nn_conv c)
{
    struct ad_graph *g = m->g;
    ad_push(g, "%s", name);
    int64_t in = ad_rank(g, s->x) == 2 ? ad_dim(g, s->x, 1) : 1;
    int pad = pad_of(c), stride = c.stride < 1 ? 1 : c.stride;
    struct nn_seq out = {.items = s->items};
    /* An item of n rows gives floor((n + 2 pad - k) / stride) + 1 <= (n + extra) / stride; an empty one gives none. */
    int64_t extra = stride + 2 * (int64_t)pad - c.kernel, full = s->items < s->rows ? s->items : s->rows;
    out.rows = (s->rows + (extra > 0 ? extra * full : 0)) / stride;
    out.longest = (s->longest + 2 * pad - c.kernel) / stride + 1;
    if (out.longest < 1) out.longest = 1;
    out.offsets = ad_packed_conv_offsets(g, s->offsets, c.kernel, stride, pad);
    val index = ad_packed_conv_index(g, s->offsets, out.offsets, out.rows, c.kernel, stride, pad);
    val taps = ad_reshape(g, ad_gather(g, s->x, index), SHAPE(out.rows, c.kernel * in));
    struct ad_init init = {AD_INIT_NORMAL, sqrt(1.0 / ((double)in * c.kernel))};
    val w = nn_param(m, "weight", SHAPE(c.kernel, in, c.out), init, 0);
    out.x = ad_linear(g, taps, ad_reshape(g, w, SHAPE(c.kernel * in, c.out)), bias_of(m, c));
    ad_pop(g);
    return out;
}

val nn_patch_embed(struct nn *m, const char *name, val image, int64_t p, int64_t width, bool bias)
{
    struct ad_graph *g = m->g;
    if (ad_rank(g, image) != 4) return ad_fail(g, "%s: an image batch must be (B, H, W, C)", name);
    int64_t b = ad_dim(g, image, 0), h = ad_dim(g, image, 1), w = ad_dim(g, image, 2), c = ad_dim(g, image, 3);
    if (p < 1 || h % p || w % p)
        return ad_fail(g, "%s: an image of %lld x %lld is not made of patches of %lld", name, (long long)h,
                       (long long)w, (long long)p);
    ad_push(g, "%s", name);
    val x = ad_reshape(g, image, SHAPE(b, h / p, p, w / p, p, c));
    x = ad_reshape(g, ad_transpose(g, x, (int[]){0, 1, 3, 2, 4, 5}), SHAPE(b * (h / p) * (w / p), p * p * c));
    val weight = nn_param(m, "weight", SHAPE(p, p, c, width),
                          (struct ad_init){AD_INIT_NORMAL, sqrt(1.0 / (double)(p * p * c))}, 0);
    val bv = bias ? nn_param(m, "bias", SHAPE(width), (struct ad_init){AD_INIT_ZERO, 0}, AD_NO_DECAY) : 0;
    val y = ad_linear(g, x, ad_reshape(g, weight, SHAPE(p * p * c, width)), bv);
    ad_pop(g);
    return ad_reshape(g, y, SHAPE(b, (h / p) * (w / p), width));
}
