/* Normalisation layers. Gains and biases take no weight decay. */
#include <math.h>

#include "layers/nn.h"

const char *const nn_norm_names[] = {"layer", "rms", NULL};

static const struct ad_init zero = {AD_INIT_ZERO, 0}, one = {AD_INIT_ONE, 0};

static int64_t width_of(const struct nn *m, val x)
{
    return ad_rank(m->g, x) ? ad_dim(m->g, x, -1) : 1;
}

val nn_norm(struct nn *m, const char *name, enum nn_norm kind, val x, double eps)
{
    ad_push(m->g, "%s", name);
    int64_t width = width_of(m, x);
    val gain = nn_param(m, "weight", SHAPE(width), one, AD_NO_DECAY), y;
    if (kind == NN_RMS_NORM)
        y = ad_rms_norm(m->g, x, gain, eps);
    else
        y = ad_layer_norm(m->g, x, gain, nn_param(m, "bias", SHAPE(width), zero, AD_NO_DECAY), eps);
    ad_pop(m->g);
    return y;
}

val nn_group_norm(struct nn *m, const char *name, val x, int groups, double eps)
{
    ad_push(m->g, "%s", name);
    int64_t width = width_of(m, x);
    val gain = nn_param(m, "weight", SHAPE(width), one, AD_NO_DECAY);
    val y = ad_group_norm(m->g, x, gain, nn_param(m, "bias", SHAPE(width), zero, AD_NO_DECAY), groups, eps);
    ad_pop(m->g);
    return y;
}

/* running <- (1 - momentum) running + momentum batch * factor */
static void follow(struct nn *m, val running, val batch, double momentum, double factor)
{
    struct ad_graph *g = m->g;
    val next =
        ad_add(g, ad_scale(g, running, 1 - momentum), ad_scale(g, ad_stop_gradient(g, batch), momentum * factor));
    ad_update(g, running, next);
}

/* The activation as the op knows it; what it does not know is a node of its own. */
static enum ad_norm_act act_of(enum nn_activation a)
{
    return a == NN_RELU ? AD_ACT_RELU : a == NN_SILU ? AD_ACT_SILU : AD_ACT_NONE;
}

val nn_batch_norm_act(struct nn *m, const char *name, val x, double momentum, double eps, bool zero_gain, val residual,
                      enum nn_activation a)
{
    struct ad_graph *g = m->g;
    ad_push(g, "%s", name);
    int64_t width = width_of(m, x), n = width ? ad_count(ad_shape_of(g, x)) / width : 0;
    val gain = nn_param(m, "weight", SHAPE(width), zero_gain ? zero : one, AD_NO_DECAY);
    val bias = nn_param(m, "bias", SHAPE(width), zero, AD_NO_DECAY);
    val run_mean = nn_param(m, "running_mean", SHAPE(width), zero, AD_STATE);
    val run_var = nn_param(m, "running_var", SHAPE(width), one, AD_STATE);
    val y, mean, var;
    if (m->training) {
        y = ad_batch_norm_act(g, x, gain, bias, residual, act_of(a), eps, &mean, &var);
        if (y) {
            follow(m, run_mean, mean, momentum, 1);
            follow(m, run_var, var, momentum, n > 1 ? (double)n / (double)(n - 1) : 1);
        }
        if (act_of(a) != AD_ACT_NONE) a = NN_IDENTITY;
    } else {
        y = ad_batch_norm_fixed(g, x, gain, bias, run_mean, run_var, eps);
        if (residual) y = ad_add(g, y, residual);
    }
    ad_pop(g);
    return nn_activate(m, a, y);
}

val nn_batch_norm(struct nn *m, const char *name, val x, double momentum, double eps, bool zero_gain)
{
    return nn_batch_norm_act(m, name, x, momentum, eps, zero_gain, 0, NN_IDENTITY);
}

val nn_weight_norm(struct nn *m, const char *name, struct ad_shape s, int axis, double std)
{
    struct ad_graph *g = m->g;
    ad_push(g, "%s", name);
    struct ad_shape along = s; /* (1, .., dim[axis], .., 1) */
    for (int i = 0; i < s.rank; i++) along.dim[i] = i == axis ? s.dim[i] : 1;
    int64_t n = s.dim[axis] ? ad_count(s) / s.dim[axis] : 0;
    val v = nn_param(m, "direction", s, (struct ad_init){AD_INIT_NORMAL, std}, AD_NO_DECAY);
    val gain =
        nn_param(m, "gain", SHAPE(s.dim[axis]), (struct ad_init){AD_INIT_VALUE, std * sqrt((double)n)}, AD_NO_DECAY);
    unsigned others = ((1u << s.rank) - 1) & ~(1u << axis);
    val scale = ad_mul(g, ad_reshape(g, gain, along), ad_rsqrt(g, ad_sum(g, ad_square(g, v), others, true)));
    ad_pop(g);
    return ad_mul(g, v, scale);
}
