/* The contrastive losses against loops over the formulas in double, with absent modalities, several positives and
 * duplicates, and their gradients against differences of those loops. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "tests/support/net.h"

enum { B = 7, E = 5, N = 2 * B * E + 2 };

/* What a loss is a function of: a (B, E), b (B, E), the scale, the bias. */
struct point {
    double a[B][E], b[B][E], scale, bias;
};

struct batch {
    bool has_a[B], has_b[B];
    int group[B];
};

/* van den Oord et al. 2018, eq. 4, one direction: queries i that are there and have a positive candidate. */
static double infonce_direction(const struct point *p, const struct batch *s, bool back)
{
    const bool *has_q = back ? s->has_b : s->has_a, *has_c = back ? s->has_a : s->has_b;
    double total = 0;
    int queries = 0;
    for (int i = 0; i < B; i++) {
        double z = 0, logit[B], positives = 0, loss = 0;
        for (int j = 0; j < B; j++) {
            const double *x = back ? p->b[i] : p->a[i], *y = back ? p->a[j] : p->b[j];
            logit[j] = 0;
            for (int k = 0; k < E; k++) logit[j] += p->scale * x[k] * y[k];
            if (!has_c[j]) continue;
            z += exp(logit[j]);
            positives += s->group[i] == s->group[j];
        }
        if (!has_q[i] || positives == 0) continue;
        for (int j = 0; j < B; j++)
            if (has_c[j] && s->group[i] == s->group[j]) loss -= (logit[j] - log(z)) / positives;
        total += loss;
        queries++;
    }
    return queries ? total / queries : 0;
}

static double infonce(const struct point *p, const struct batch *s)
{
    return (infonce_direction(p, s, false) + infonce_direction(p, s, true)) / 2;
}

/* Zhai et al. 2023, alg. 1: every pair of samples is a yes or a no. */
static double siglip(const struct point *p, const struct batch *s)
{
    double total = 0;
    int n = 0;
    for (int i = 0; i < B; i++) {
        n += s->has_a[i] && s->has_b[i];
        for (int j = 0; j < B; j++) {
            if (!s->has_a[i] || !s->has_b[j]) continue;
            double t = p->bias;
            for (int k = 0; k < E; k++) t += p->scale * p->a[i][k] * p->b[j][k];
            total += log(1 + exp(s->group[i] == s->group[j] ? -t : t));
        }
    }
    return total / (n ? n : 1);
}

static double *coordinate(struct point *p, int i)
{
    return i < B * E ? &p->a[0][0] + i : i < 2 * B * E ? &p->b[0][0] + i - B * E : i == N - 2 ? &p->scale : &p->bias;
}

/* The loss and its gradients as triad computes them: out[0], then the order of coordinate(). */
static void by_graph(const struct point *p, const struct batch *s, bool sig, bool all, double out[N + 1])
{
    struct net n = net_begin(true);
    struct ad_graph *g = n.m.g;
    val x[4] = {ad_input(g, "a", AD_F32, SHAPE(B, E)), ad_input(g, "b", AD_F32, SHAPE(B, E)),
                ad_input(g, "scale", AD_F32, SCALAR), ad_input(g, "bias", AD_F32, SCALAR)};
    struct nn_contrast c = {.a = x[0], .b = x[1]};
    if (!all) {
        c.has_a = ad_input(g, "has_a", AD_F32, SHAPE(B));
        c.has_b = ad_input(g, "has_b", AD_F32, SHAPE(B));
        c.group = ad_input(g, "group", AD_I32, SHAPE(B));
    }
    val loss = sig ? nn_siglip(&n.m, &c, x[2], x[3]) : nn_infonce(&n.m, &c, x[2]), dx[4];
    ad_grad(g, &loss, NULL, 1, x, 4, dx);
    ad_output(g, "loss", loss);
    static const char *const names[] = {"da", "db", "dscale", "dbias"};
    for (int i = 0; i < 4; i++) ad_output(g, names[i], dx[i]);
    net_plan(&n, 0);
    float f[N], has_a[B], has_b[B];
    for (int i = 0; i < N; i++) f[i] = (float)*coordinate((struct point *)(uintptr_t)p, i);
    for (int i = 0; i < B; i++) has_a[i] = s->has_a[i], has_b[i] = s->has_b[i];
    ad_bind(n.p, "a", f);
    ad_bind(n.p, "b", f + B * E);
    ad_bind(n.p, "scale", f + 2 * B * E);
    ad_bind(n.p, "bias", f + N - 1);
    ad_bind(n.p, "has_a", has_a);
    ad_bind(n.p, "has_b", has_b);
    ad_bind(n.p, "group", s->group);
    net_run(&n, 0, 0);
    out[0] = net_out(&n, "loss")[0];
    for (int i = 0, k = 1; i < 4; i++)
        for (int j = 0; j < (i < 2 ? B * E : 1); j++) out[k++] = net_out(&n, names[i])[j];
    net_end(&n);
}

static struct point some_point(double scale)
{
    struct point p = {.scale = scale, .bias = -1.5};
    float *x = numbers(2 * B * E, "unit");
    for (int r = 0; r < 2 * B; r++) {
        double *to = r < B ? p.a[r] : p.b[r - B], sum = 0;
        for (int k = 0; k < E; k++) sum += (double)x[r * E + k] * x[r * E + k];
        for (int k = 0; k < E; k++) to[k] = x[r * E + k] / sqrt(sum);
    }
    free(x);
    return p;
}

static void check(bool sig, const struct batch *s, bool all, double scale)
{
    double (*f)(const struct point *, const struct batch *) = sig ? siglip : infonce, got[N + 1], h = 1e-6;
    struct point p = some_point(scale);
    for (int i = 0; i < N; i++) *coordinate(&p, i) = (float)*coordinate(&p, i); /* what the graph sees */
    by_graph(&p, s, sig, all, got);
    /* f32 logits of size `scale`: 1e-7 of it, and sums of a few of them */
    double want = f(&p, s), tol = 1e-6 * (1 + scale);
    assert_close(&got[0], &want, 1, tol);
    for (int i = 0; i < N; i++) {
        double *x = coordinate(&p, i), keep = *x;
        *x = keep + h;
        double up = f(&p, s);
        *x = keep - h;
        double slope = (up - f(&p, s)) / (2 * h);
        *x = keep;
        if (!(fabs(got[i + 1] - slope) <= tol * fmax(1, fabs(slope))))
            fail_msg("gradient %d is %.9g, not %.9g", i, got[i + 1], slope);
    }
}

/* Present: all; some; no valid query in one direction; one modality nowhere. */
static const struct batch batches[] = {
    {{1, 1, 1, 1, 1, 1, 1}, {1, 1, 1, 1, 1, 1, 1}, {0, 1, 2, 3, 4, 5, 6}},
    {{1, 1, 1, 1, 1, 1, 1}, {1, 1, 1, 1, 1, 1, 1}, {0, 1, 0, 3, 1, 0, 9}},
    {{1, 0, 1, 1, 0, 1, 1}, {1, 1, 0, 1, 0, 1, 0}, {0, 1, 2, 3, 4, 5, 6}},
    {{1, 0, 1, 1, 0, 1, 1}, {1, 1, 0, 1, 0, 1, 0}, {2, 1, 1, 7, 1, 2, 7}},
    {{1, 1, 0, 0, 0, 0, 0}, {0, 0, 1, 1, 1, 1, 1}, {0, 1, 2, 3, 4, 5, 6}},
    {{1, 1, 1, 1, 1, 1, 1}, {0}, {0, 1, 2, 3, 4, 5, 6}},
};

static void infonce_is_the_formula(void **state)
{
    for (size_t i = 0; i < sizeof batches / sizeof *batches; i++)
        for (int hot = 0; hot < 2; hot++) check(false, &batches[i], false, hot ? 20 : 1.5);
    check(false, &batches[0], true, 1.5); /* nothing given: all have both, all differ */
}

static void siglip_is_the_formula(void **state)
{
    for (size_t i = 0; i < sizeof batches / sizeof *batches; i++) check(true, &batches[i], false, 4);
    check(true, &batches[0], true, 4);
}

/* No valid pair: 0, and no gradient anywhere. */
static void nothing_to_compare_is_zero(void **state)
{
    struct point p = some_point(10);
    double got[N + 1];
    for (int sig = 0; sig < 2; sig++) {
        by_graph(&p, &batches[5], sig, false, got);
        for (int i = 0; i <= N; i++) assert_true(got[i] == 0);
    }
}

/* A copy of a sample in its group pushes nothing away: with everything in one group, no loss falls below log B, and the
 * gradient vanishes where all embeddings are equal. */
static void duplicates_are_not_negatives(void **state)
{
    struct point p = some_point(10);
    for (int i = 1; i < B; i++) memcpy(p.a[i], p.a[0], sizeof p.a[0]), memcpy(p.b[i], p.a[0], sizeof p.a[0]);
    memcpy(p.b[0], p.a[0], sizeof p.a[0]);
    struct batch one = batches[0];
    memset(one.group, 0, sizeof one.group);
    double got[N + 1];
    by_graph(&p, &one, false, false, got);
    assert_true(fabs(got[0] - log(B)) < 1e-5);
    for (int i = 0; i < 2 * B * E; i++) assert_true(fabs(got[i + 1]) < 1e-5);
}

/* exp of the parameter, held in [1, max]: the value at the bound and no gradient outside of it. */
static void temperature_is_clamped(void **state)
{
    struct net n = net_begin(true);
    val s = nn_temperature(&n.m, "scale", 0.07, 100), raw = ad_param(n.m.g, "scale", AD_F32, SCALAR), d = 0;
    ad_grad(n.m.g, &s, NULL, 1, &raw, 1, &d);
    ad_output(n.m.g, "s", s);
    ad_output(n.m.g, "d", d);
    net_plan(&n, 0);
    assert_true(ad_store_find(n.m.store, "scale")->flags & AD_NO_DECAY);
    float *p = net_param(&n, "scale");
    assert_true(fabs(*p - log(1 / 0.07)) < 1e-6);
    static const struct {
        double raw, value, slope;
    } rows[] = {{2, 7.38905610, 7.38905610}, {-0.1, 1, 0}, {-9, 1, 0}, {4.7, 100, 0}, {50, 100, 0}, {0, 1, 1}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        *p = (float)rows[i].raw;
        net_run(&n, 0, 0);
        assert_close(net_out(&n, "s"), &rows[i].value, 1, 1e-6);
        assert_close(net_out(&n, "d"), &rows[i].slope, 1, 1e-6);
    }
    net_end(&n);
}

static void unit_vectors(void **state)
{
    struct net n = net_begin(false);
    val x = ad_input(n.m.g, "x", AD_F32, SHAPE(3, 2)), y = nn_unit(&n.m, x), loss = ad_sum_all(n.m.g, y), d = 0;
    ad_grad(n.m.g, &loss, NULL, 1, &x, 1, &d);
    ad_output(n.m.g, "y", y);
    ad_output(n.m.g, "d", d);
    net_plan(&n, 0);
    ad_bind(n.p, "x", (float[]){3, 4, -2e3f, 0, 0, 0});
    net_run(&n, 0, 0);
    assert_close(net_out(&n, "y"), ((float[]){0.6f, 0.8f, -1, 0, 0, 0}), 6, 1e-6);
    for (int i = 0; i < 6; i++) assert_true(isfinite(net_out(&n, "d")[i]));
    net_end(&n);
}

/* ---- the same losses as graphs of ordinary ops over (B, B) tensors -------------------------------------------------- */

static val graph_direction(struct ad_graph *g, val logits, val positive, val has_candidate, val has_query, int64_t n)
{
    val absent = ad_scale(g, ad_shift(g, ad_neg(g, has_candidate), 1), -1e9); /* 0, or -1e9 for an absent candidate */
    val logp = ad_log_softmax(g, ad_add(g, logits, ad_reshape(g, absent, SHAPE(1, n))));
    val count = ad_sum_last(g, positive); /* (B, 1) */
    val target = ad_div(g, positive, ad_maximum(g, count, ad_const(g, AD_F32, 1)));
    val loss = ad_neg(g, ad_sum(g, ad_mul(g, target, logp), 2, false)); /* (B) */
    val counts = ad_mul(g, has_query, ad_greater(g, ad_reshape(g, count, SHAPE(n)), ad_const(g, AD_F32, 0)));
    val total = ad_maximum(g, ad_sum_all(g, counts), ad_const(g, AD_F32, 1));
    return ad_div(g, ad_sum_all(g, ad_mul(g, loss, counts)), total);
}

static val graph_form(struct ad_graph *g, const struct nn_contrast *c, val scale, val bias)
{
    int64_t n = ad_dim(g, c->a, 0);
    val both = ad_mul(g, ad_reshape(g, c->has_a, SHAPE(n, 1)), ad_reshape(g, c->has_b, SHAPE(1, n)));
    val same = ad_equal(g, ad_reshape(g, c->group, SHAPE(n, 1)), ad_reshape(g, c->group, SHAPE(1, n)));
    val positive = ad_mul(g, same, both), logits = ad_mul(g, ad_matmul(g, c->a, c->b, false, true), scale);
    if (!bias) {
        val forth = graph_direction(g, logits, positive, c->has_b, c->has_a, n);
        val back = graph_direction(g, ad_swap(g, logits, 0, 1), ad_swap(g, positive, 0, 1), c->has_a, c->has_b, n);
        return ad_scale(g, ad_add(g, forth, back), 0.5);
    }
    val z = ad_shift(g, ad_scale(g, positive, 2), -1);
    val loss = ad_mul(g, ad_softplus(g, ad_neg(g, ad_mul(g, z, ad_add(g, logits, bias)))), both);
    val pairs = ad_maximum(g, ad_sum_all(g, ad_mul(g, c->has_a, c->has_b)), ad_const(g, AD_F32, 1));
    return ad_div(g, ad_sum_all(g, loss), pairs);
}

static void emit(struct ad_graph *g, const char *prefix, val loss, const val *x)
{
    static const char *const names[] = {"da", "db", "dscale", "dbias"};
    char name[24];
    val dx[4];
    ad_grad(g, &loss, NULL, 1, x, 4, dx);
    snprintf(name, sizeof name, "%s.loss", prefix);
    ad_output(g, name, loss);
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "%s.%s", prefix, names[i]);
        ad_output(g, name, dx[i]);
    }
}

/* At a batch of several tiles, absent samples and groups included. Both are f32: a logit of size 10 is right to some
 * 1e-6, and so are probabilities relative to themselves. */
static void tiles_are_the_graph(void **state)
{
    enum { ROWS = 333, WIDTH = 40 };
    for (int sig = 0; sig < 2; sig++) {
        struct net n = net_begin(true);
        struct ad_graph *g = n.m.g;
        val x[4] = {ad_input(g, "a", AD_F32, SHAPE(ROWS, WIDTH)), ad_input(g, "b", AD_F32, SHAPE(ROWS, WIDTH)),
                    ad_input(g, "scale", AD_F32, SCALAR), ad_input(g, "bias", AD_F32, SCALAR)};
        struct nn_contrast c = {.a = nn_unit(&n.m, x[0]),
                                .b = nn_unit(&n.m, x[1]),
                                .has_a = ad_input(g, "has_a", AD_F32, SHAPE(ROWS)),
                                .has_b = ad_input(g, "has_b", AD_F32, SHAPE(ROWS)),
                                .group = ad_input(g, "group", AD_I32, SHAPE(ROWS))};
        emit(g, "tiles", sig ? nn_siglip(&n.m, &c, x[2], x[3]) : nn_infonce(&n.m, &c, x[2]), x);
        emit(g, "graph", graph_form(g, &c, x[2], sig ? x[3] : 0), x);
        net_plan(&n, 0);
        float *a = numbers(ROWS * WIDTH, "a"), *b = numbers(ROWS * WIDTH, "b"), has_a[ROWS], has_b[ROWS];
        int32_t group[ROWS];
        for (int i = 0; i < ROWS; i++) has_a[i] = i % 7 != 3, has_b[i] = i % 5 != 2, group[i] = i * 37 % 250;
        ad_bind(n.p, "a", a);
        ad_bind(n.p, "b", b);
        ad_bind(n.p, "has_a", has_a);
        ad_bind(n.p, "has_b", has_b);
        ad_bind(n.p, "group", group);
        ad_bind(n.p, "scale", &(float){10});
        ad_bind(n.p, "bias", &(float){-4});
        net_run(&n, 0, 0);
        assert_close(net_out(&n, "tiles.loss"), net_out(&n, "graph.loss"), 1, 3e-6);
        assert_close(net_out(&n, "tiles.da"), net_out(&n, "graph.da"), ROWS * WIDTH, 1e-6);
        assert_close(net_out(&n, "tiles.db"), net_out(&n, "graph.db"), ROWS * WIDTH, 1e-6);
        assert_close(net_out(&n, "tiles.dscale"), net_out(&n, "graph.dscale"), 1, 3e-6);
        assert_close(net_out(&n, "tiles.dbias"), net_out(&n, "graph.dbias"), 1, 3e-6);
        double size = 0;
        for (int i = 0; i < ROWS * WIDTH; i++) size = fmax(size, fabs((double)net_out(&n, "tiles.da")[i]));
        assert_true(size > 1e-3); /* 1e-6 above says something */
        free(a);
        free(b);
        net_end(&n);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(infonce_is_the_formula),
        cmocka_unit_test(siglip_is_the_formula),
        cmocka_unit_test(nothing_to_compare_is_zero),
        cmocka_unit_test(duplicates_are_not_negatives),
        cmocka_unit_test(tiles_are_the_graph),
        cmocka_unit_test(temperature_is_clamped),
        cmocka_unit_test(unit_vectors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
