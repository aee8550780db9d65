/* Parameters, linear layers, embeddings, activations. */
#include <math.h>

#include "layers/nn.h"

int nn_status(const struct nn *m, struct err *e)
{
    return m->e.code ? err_set(e, m->e.code, "%s", m->e.msg) : ad_status(m->g, e);
}

val nn_param(struct nn *m, const char *name, struct ad_shape s, struct ad_init init, unsigned flags)
{
    const char *path = ad_push(m->g, "%s", name);
    int rc = ad_store_declare(m->store, path, AD_F32, s, init, flags, &m->e);
    val v = rc ? ad_fail(m->g, "%s", m->e.msg) : ad_param(m->g, path, AD_F32, s);
    ad_pop(m->g);
    return v;
}

struct weights {
    val w, b; /* (in, out), and (out) or 0 */
};

static struct weights declare(struct nn *m, val x, int64_t out, bool bias, double std, unsigned flags)
{
    int64_t in = ad_rank(m->g, x) ? ad_dim(m->g, x, -1) : 1;
    struct ad_init init = {AD_INIT_NORMAL, std > 0 ? std : sqrt(1.0 / (double)in)};
    struct weights p = {.w = nn_param(m, "weight", SHAPE(in, out), init, flags)};
    if (bias) p.b = nn_param(m, "bias", SHAPE(out), (struct ad_init){AD_INIT_ZERO, 0}, AD_NO_DECAY);
    return p;
}

static val linear(struct nn *m, const char *name, val x, int64_t out, bool bias, double std, unsigned flags)
{
    ad_push(m->g, "%s", name);
    struct weights p = declare(m, x, out, bias, std, flags);
    val y = ad_linear(m->g, x, p.w, p.b);
    ad_pop(m->g);
    return y;
}

val nn_linear(struct nn *m, const char *name, val x, int64_t out, bool bias, double std)
{
    return linear(m, name, x, out, bias, std, 0);
}

void nn_linear_columns(struct nn *m, const char *name, int n, const val *x, const int64_t *out, bool bias, val *y)
{
    struct ad_graph *g = m->g;
    int64_t all = 0, from = 0;
    for (int i = 0; i < n; i++) all += out[i];
    ad_push(g, "%s", name);
    struct weights p = declare(m, x[0], all, bias, 0, 0);
    for (int i = 0; i < n; from += out[i++]) {
        val w = ad_slice(g, p.w, 1, from, from + out[i], 1);
        y[i] = ad_linear(g, x[i], w, bias ? ad_slice(g, p.b, 0, from, from + out[i], 1) : 0);
    }
    ad_pop(g);
}

val nn_edge(struct nn *m, const char *name, val x, int64_t out, bool bias)
{
    return linear(m, name, x, out, bias, 0, AD_EDGE);
}

val nn_embedding(struct nn *m, const char *name, val index, int64_t rows, int64_t width, double std)
{
    ad_push(m->g, "%s", name);
    val table = nn_param(m, "weight", SHAPE(rows, width), (struct ad_init){AD_INIT_NORMAL, std}, AD_EDGE);
    val y = ad_gather(m->g, table, index);
    ad_pop(m->g);
    return y;
}

const char *const nn_activation_names[] = {"relu", "gelu", "gelu_tanh", "quick_gelu", "silu", "tanh", "identity", NULL};

val nn_activate(struct nn *m, enum nn_activation a, val x)
{
    switch (a) {
    case NN_RELU: return ad_relu(m->g, x);
    case NN_GELU: return ad_gelu(m->g, x);
    case NN_GELU_TANH: return ad_gelu_tanh(m->g, x);
    case NN_QUICK_GELU: return ad_quick_gelu(m->g, x);
    case NN_SILU: return ad_silu(m->g, x);
    case NN_TANH: return ad_tanh(m->g, x);
    case NN_IDENTITY: return x;
    }
    return 0;
}
