/* Where a token stands: learned, sinusoidal, rotary and relative positions, over packed sequences. */
#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "layers/nn.h"

const char *const nn_position_names[] = {"learned", "sinusoidal", "rotary", "relative", "none", NULL};

struct nn_seq nn_seq_fixed(struct nn *m, val x)
{
    struct ad_graph *g = m->g;
    if (ad_rank(g, x) != 3)
        return (struct nn_seq){.x = ad_fail(g, "a fixed-length batch must be (B, N, D)"), .items = 1, .rows = 1};
    int64_t b = ad_dim(g, x, 0), n = ad_dim(g, x, 1), d = ad_dim(g, x, 2);
    int32_t *offsets = mem_alloc((size_t)(b + 1) * sizeof *offsets);
    for (int64_t i = 0; i <= b; i++) offsets[i] = (int32_t)(i * n);
    struct nn_seq s = {.x = ad_reshape(g, x, SHAPE(b * n, d)),
                       .offsets = ad_const_data(g, AD_I32, SHAPE(b + 1), offsets),
                       .rows = b * n,
                       .items = b,
                       .longest = n};
    free(offsets);
    return s;
}

val nn_position(struct nn *m, const struct nn_seq *s)
{
    return ad_packed_position(m->g, s->offsets, s->rows);
}

/* (longest, width): sin(pos / 10000^(i / (width/2 - 1))) in the first half, cosines in the second. */
static val sinusoids(struct nn *m, int64_t longest, int64_t width)
{
    int64_t half = width / 2;
    float *t = mem_zero((size_t)(longest * width), sizeof *t);
    double step = half > 1 ? log(10000.0) / (double)(half - 1) : 0;
    for (int64_t p = 0; p < longest; p++)
        for (int64_t i = 0; i < half; i++) {
            double a = (double)p * exp(-step * (double)i);
            t[p * width + i] = (float)sin(a);
            t[p * width + half + i] = (float)cos(a);
        }
    val v = ad_const_data(m->g, AD_F32, SHAPE(longest, width), t);
    free(t);
    return v;
}

val nn_add_position(struct nn *m, const char *name, enum nn_position_kind kind, const struct nn_seq *s)
{
    if (!s->x || (kind != NN_POS_LEARNED && kind != NN_POS_SINUSOIDAL)) return s->x;
    int64_t width = ad_dim(m->g, s->x, -1);
    ad_push(m->g, "%s", name);
    val table = kind == NN_POS_SINUSOIDAL
                    ? sinusoids(m, s->longest, width)
                    : nn_param(m, "weight", SHAPE(s->longest, width), (struct ad_init){AD_INIT_NORMAL, 0.02}, AD_EDGE);
    val y = ad_add(m->g, s->x, ad_gather(m->g, table, nn_position(m, s)));
    ad_pop(m->g);
    return y;
}

/* (longest, 1, dim/2): cosines, or sines, of position * base^(-2i/dim). */
static val angles(struct nn *m, int64_t longest, int64_t half, double base, bool sine)
{
    float *t = mem_alloc((size_t)(longest * half) * sizeof *t);
    for (int64_t p = 0; p < longest; p++)
        for (int64_t i = 0; i < half; i++) {
            double a = (double)p * pow(base, -(double)i / (double)half);
            t[p * half + i] = (float)(sine ? sin(a) : cos(a));
        }
    val v = ad_const_data(m->g, AD_F32, SHAPE(longest, 1, half), t);
    free(t);
    return v;
}

val nn_rotary(struct nn *m, const struct nn_seq *s, val x, int64_t heads, double base)
{
    struct ad_graph *g = m->g;
    if (!x) return 0;
    int64_t width = ad_dim(g, x, -1), dim = heads > 0 ? width / heads : 0, half = dim / 2;
    if (heads < 1 || width % heads || dim % 2)
        return ad_fail(g, "rotary positions need an even head size, not %lld / %lld", (long long)width,
                       (long long)heads);
    val at = nn_position(m, s);
    val c = ad_gather(g, angles(m, s->longest, half, base, false), at); /* (rows, 1, dim/2) */
    val n = ad_gather(g, angles(m, s->longest, half, base, true), at);
    val part[2];
    ad_split(g, ad_reshape(g, x, SHAPE(s->rows, heads, dim)), 2, 2, part);
    val y[2] = {ad_sub(g, ad_mul(g, part[0], c), ad_mul(g, part[1], n)),
                ad_add(g, ad_mul(g, part[1], c), ad_mul(g, part[0], n))};
    return ad_reshape(g, ad_concat(g, y, 2, 2), SHAPE(s->rows, width));
}

enum { BUCKETS = 32, FAR = 128 };

/* T5's bucket of a key at `distance` = key - query. */
static int32_t bucket(int64_t distance, bool causal)
{
    int32_t base = 0, n = BUCKETS;
    if (!causal) {
        n /= 2;
        if (distance > 0) base = n;
    }
    int64_t d = causal ? (distance < 0 ? -distance : 0) : llabs(distance);
    int32_t exact = n / 2;
    if (d < exact) return base + (int32_t)d;
    int32_t far = exact + (int32_t)(log((double)d / exact) / log((double)FAR / exact) * (n - exact));
    return base + (far < n - 1 ? far : n - 1);
}

val nn_relative_bias(struct nn *m, const char *name, int64_t longest, int64_t heads, bool causal)
{
    struct ad_graph *g = m->g;
    ad_push(g, "%s", name);
    int32_t *index = mem_alloc((size_t)(longest * longest) * sizeof *index);
    for (int64_t q = 0; q < longest; q++)
        for (int64_t k = 0; k < longest; k++) index[q * longest + k] = bucket(k - q, causal);
    val at = ad_const_data(g, AD_I32, SHAPE(longest, longest), index);
    free(index);
    val table = nn_param(m, "weight", SHAPE(BUCKETS, heads), (struct ad_init){AD_INIT_NORMAL, 0.02}, AD_EDGE);
    val y = ad_transpose(g, ad_gather(g, table, at), (int[]){2, 0, 1});
    ad_pop(g);
    return y;
}
