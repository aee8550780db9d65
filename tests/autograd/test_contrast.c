/* The contrastive losses by tiles against the plain loops: odd sizes, absent vectors, several positives, hot and cold
 * scales, NaN and infinity; the same bits for any number of threads, those that share tiles too, and for tiles kept or
 * multiplied again; memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "autograd/op.h"
#include "autograd/ops/contrast.h"
#include "autograd/ops/ops.h"
#include "autograd/plan.h"
#include "base/buf.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/threads.h"

enum { SEED = 4211, OUTS = 5 };

struct trial {
    int64_t n, m, width;
    bool sig, strided;
    int64_t keep;
    float scale, bias;
    float *a, *b, *has_a, *has_b;
    int32_t *id_a, *id_b;
};

/* Unit rows; with `near` those of one group point almost the same way, as trained ones do. */
static float *unit_rows(struct rng *r, int64_t n, int64_t width, const int32_t *id, bool near)
{
    float *x = mem_zero((size_t)(n * width + 1), sizeof *x);
    for (int64_t i = 0; i < n; i++) {
        struct rng group = rng_make(SEED, 99, (uint64_t)id[i]);
        double square = 0;
        for (int64_t d = 0; d < width; d++) {
            double y = near ? rng_normal(&group) + 0.1 * rng_normal(r) : rng_normal(r);
            x[i * width + d] = (float)y;
            square += y * y;
        }
        for (int64_t d = 0; d < width; d++) x[i * width + d] /= (float)sqrt(square);
    }
    return x;
}

static float *mask(struct rng *r, int64_t n, double share)
{
    float *x = mem_zero((size_t)n + 1, sizeof *x);
    for (int64_t i = 0; i < n; i++) x[i] = rng_range(r, 0, 1) < share;
    return x;
}

static int32_t *ids(struct rng *r, int64_t n, int64_t groups)
{
    int32_t *x = mem_zero((size_t)n + 1, sizeof *x);
    for (int64_t i = 0; i < n; i++) x[i] = (int32_t)(groups ? rng_below(r, groups) - groups / 2 : i);
    return x;
}

/* groups 0: row i and column i belong together. */
static struct trial make(struct rng *r, int64_t n, int64_t m, int64_t width, double share, int64_t groups, bool near)
{
    struct trial t = {.n = n, .m = m, .width = width, .scale = 20, .bias = -3};
    t.id_a = ids(r, n, groups);
    t.id_b = ids(r, m, groups);
    t.a = unit_rows(r, n, width, t.id_a, near);
    t.b = unit_rows(r, m, width, t.id_b, near);
    t.has_a = mask(r, n, share);
    t.has_b = mask(r, m, share);
    return t;
}

static void done(struct trial *t)
{
    free(t->a);
    free(t->b);
    free(t->has_a);
    free(t->has_b);
    free(t->id_a);
    free(t->id_b);
}

struct result {
    float *x[OUTS]; /* loss, da, db, dscale, dbias */
    int64_t n[OUTS];
    int64_t arena;
};

static void result_free(struct result *r)
{
    for (int i = 0; i < OUTS; i++) free(r->x[i]);
}

/* As a column slice of a matrix three wider, whose rows lie apart. */
static val sliced(struct ad_graph *g, val wide, int64_t width)
{
    return ad_slice(g, wide, 1, 2, 2 + width, 1);
}

static const float *widened(const struct trial *t, const float *x, int64_t n, float **room)
{
    int64_t w = t->width + 3;
    if (!t->strided) return x;
    *room = mem_zero((size_t)(n * w + 1), sizeof **room);
    for (int64_t i = 0; i < n * w; i++) (*room)[i] = NAN;
    for (int64_t i = 0; i < n; i++) memcpy(*room + i * w + 2, x + i * t->width, (size_t)t->width * sizeof *x);
    return *room;
}

static struct ad_graph *graph_of(const struct trial *t)
{
    struct ad_graph *g = ad_graph_new();
    int64_t wide = t->width + (t->strided ? 3 : 0);
    val a = ad_input(g, "a", AD_F32, SHAPE(t->n, wide)), b = ad_input(g, "b", AD_F32, SHAPE(t->m, wide));
    struct ad_pairs p = {.a = t->strided ? sliced(g, a, t->width) : a,
                         .b = t->strided ? sliced(g, b, t->width) : b,
                         .has_a = ad_input(g, "has_a", AD_F32, SHAPE(t->n)),
                         .has_b = ad_input(g, "has_b", AD_F32, SHAPE(t->m)),
                         .id_a = ad_input(g, "id_a", AD_I32, SHAPE(t->n)),
                         .id_b = ad_input(g, "id_b", AD_I32, SHAPE(t->m)),
                         .keep = t->keep};
    val x[] = {p.a, p.b, ad_input(g, "scale", AD_F32, SCALAR), ad_input(g, "bias", AD_F32, SCALAR)}, dx[4];
    val loss = t->sig ? ad_siglip_sum(g, &p, x[2], x[3]) : ad_infonce(g, &p, x[2]);
    ad_output(g, "loss", loss);
    loss = ad_scale(g, loss, 1.25); /* so that dloss is not 1 */
    ad_grad(g, &loss, NULL, 1, x, 4, dx);
    static const char *const names[] = {"da", "db", "dscale", "dbias"};
    for (int i = 0; i < 4; i++) ad_output(g, names[i], dx[i]);
    return g;
}

static void bind(struct ad_plan *p, const struct trial *t, const float *a, const float *b)
{
    ad_bind(p, "a", a);
    ad_bind(p, "b", b);
    ad_bind(p, "has_a", t->has_a);
    ad_bind(p, "has_b", t->has_b);
    ad_bind(p, "id_a", t->id_a);
    ad_bind(p, "id_b", t->id_b);
    ad_bind(p, "scale", &t->scale);
    ad_bind(p, "bias", &t->bias);
}

/* With threads 0 as many as there are; otherwise cut for so many, by one. */
static struct result run(const struct trial *t, unsigned flags, int threads)
{
    static const char *const names[OUTS] = {"loss", "da", "db", "dscale", "dbias"};
    struct result r = {0};
    struct err e = {0};
    struct buf report = {0};
    struct ad_graph *g = graph_of(t);
    struct ad_plan *p = ad_plan_new(g, NULL, flags, &e);
    float *room[2] = {NULL, NULL};
    if (!p) fail_msg("%s", e.msg);
    bind(p, t, widened(t, t->a, t->n, &room[0]), widened(t, t->b, t->m, &room[1]));
    if (threads) {
        double *waits = mem_zero(ad_plan_timings(p, NULL), sizeof *waits);
        struct ad_balance b;
        if (ad_plan_balance(p, threads, 1, 1, 1, &b, waits, &e)) fail_msg("%s", e.msg);
        free(waits);
    } else if (ad_run(p, 1, 1, &e)) {
        fail_msg("%s", e.msg);
    }
    for (int i = 0; i < OUTS; i++) {
        struct ad_shape s;
        const float *y = ad_result(p, names[i], &s);
        r.n[i] = ad_count(s);
        r.x[i] = mem_zero((size_t)r.n[i] + 1, sizeof(float));
        memcpy(r.x[i], y, (size_t)r.n[i] * sizeof(float));
    }
    r.arena = ad_plan_stats(p).arena_bytes;
    if (flags == 0) {
        ad_plan_report(p, &report);
        if (!strstr(report.data, "tiles")) fail_msg("no kernel took it:\n%s", report.data);
    }
    buf_free(&report);
    free(room[0]);
    free(room[1]);
    ad_plan_free(p);
    ad_graph_free(g);
    return r;
}

static void same_bits(const struct result *a, const struct result *b, const char *what)
{
    for (int i = 0; i < OUTS; i++)
        if (memcmp(a->x[i], b->x[i], (size_t)a->n[i] * sizeof(float))) fail_msg("%s: other bits in result %d", what, i);
}

/* The kernels against the evals, which go through double.
 *
 * A product of unit rows has an error of about sqrt(D) 2^-24 in f32 (its terms' errors add up like a random walk); `slip`
 * takes twice that, and 8 more for exp, log and sums over tiles, times the scale. It is the error of the loss a query (of
 * SigLIP's a pair), and the relative error of each probability: gradients, which sum probabilities times rows of length 1
 * times the scale, are then off by slip * scale * the weights. */
static void compare(const struct trial *t, const struct result *want, const struct result *got, const char *what)
{
    double slip = 0x1p-23 * (sqrt((double)t->width) + 8) * (1 + (double)t->scale), pairs = (double)(t->n * t->m);
    double long_side = (double)(t->n > t->m ? t->n : t->m);
    for (int i = 0; i < OUTS; i++)
        for (int64_t k = 0; k < want->n[i]; k++) {
            double w = (double)want->x[i][k], g = (double)got->x[i][k], size = fabs(w), weight = 1.25;
            if (t->sig) weight *= i == 1 || i == 2 ? long_side : pairs;
            if (i == 1 || i == 2) weight *= (double)t->scale;
            if (i == 0) size += t->sig ? pairs : 1;
            if (i == 4 && !t->sig) weight = 0;
            if (isnan(w) ? isnan(g) : w == g || fabs(g - w) <= slip * (i ? weight + size : size)) continue;
            fail_msg("%s: %s (%lld, %lld, %lld), scale %g: result %d, number %lld is %.9g, not %.9g", what,
                     t->sig ? "SigLIP" : "InfoNCE", (long long)t->n, (long long)t->m, (long long)t->width,
                     (double)t->scale, i, (long long)k, g, w);
        }
}

/* Every way to run it. */
static void check(struct trial *t, const char *what)
{
    static const int threads[] = {1, 2, 3, 7};
    struct contrast_attr attr = {.keep = INT64_MAX};
    struct contrast_tiles tiles = contrast_tiles(&attr, AD_F32, t->n, t->m);
    int64_t all = tiles.kept * tiles.block * tiles.block * (int64_t)sizeof(float), keep[] = {0, all / 2, all};
    int before = threads_count();
    struct result want = run(t, AD_REFERENCE, 0), first = {0};
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 3; k++) {
            omp_set_num_threads(threads[i]);
            t->keep = keep[k];
            struct result got = run(t, 0, 0);
            if (i + k == 0) {
                compare(t, &want, &got, what);
                first = got;
                continue;
            }
            same_bits(&first, &got, what);
            result_free(&got);
        }
    omp_set_num_threads(before);
    result_free(&want);
    result_free(&first);
}

static void odd_sizes(void **state)
{
    static const int64_t sizes[] = {1, 2, 3, 7, 15, 16, 17, 31, 33, 65, 130};
    struct rng r = rng_make(SEED, 1, 0);
    for (int i = 0; i < 120; i++) {
        int64_t n = sizes[rng_below(&r, 11)], m = i % 3 ? sizes[rng_below(&r, 11)] : n;
        struct trial t =
            make(&r, n, m, sizes[rng_below(&r, 11)], i % 4 ? 0.7 : 1, i % 5 ? 1 + rng_below(&r, 9) : 0, i & 1);
        t.sig = i % 2;
        t.strided = i % 7 == 3;
        t.scale = i % 3 == 2 ? 1.5f : 20;
        check(&t, "odd sizes");
        done(&t);
    }
}

/* More tiles one way than the other, tails in both, blocks of more than one vector. */
static void many_tiles(void **state)
{
    static const int64_t sizes[][3] = {{300, 300, 17}, {130, 700, 9}, {700, 130, 9}, {2100, 260, 3}, {289, 1200, 5}};
    struct rng r = rng_make(SEED, 2, 0);
    for (int i = 0; i < 10; i++) {
        const int64_t *s = sizes[i / 2];
        struct trial t = make(&r, s[0], s[1], s[2], i < 4 ? 0.8 : 1, i % 4 > 1 ? 40 : 0, true);
        t.sig = i % 2;
        check(&t, "many tiles");
        done(&t);
    }
}

/* More threads than blocks on the shorter side: they share tiles, in parts of many lengths. In the last trial there are more
 * tiles in a wave than they share at a time, and too many pairs for the plain loops. */
static void threads_share_tiles(void **state)
{
    static const int64_t sizes[][3] = {{200, 150, 70},   {520, 300, 40},   {300, 520, 40},
                                       {1000, 1000, 33}, {2100, 260, 130}, {8300, 8200, 4}};
    static const int threads[] = {1, 3, 8, 10, 16, 20, 24, 48, 64};
    int before = threads_count();
    struct rng r = rng_make(SEED, 8, 0);
    for (int i = 0; i < 12; i++) {
        const int64_t *s = sizes[i / 2];
        struct trial t = make(&r, s[0], s[1], s[2], 0.9, i % 4 > 1 ? 90 : 0, true);
        t.sig = i % 2;
        t.keep = 3 << 20;
        omp_set_num_threads(1);
        struct result first = run(&t, 0, 0);
        bool many = s[0] * s[1] > 1 << 20;
        if (!many) {
            struct result want = run(&t, AD_REFERENCE, 0);
            compare(&t, &want, &first, "shared tiles");
            result_free(&want);
        }
        for (int k = many ? 8 : 0; k < 9; k++) {
            struct result got = run(&t, 0, threads[k]);
            same_bits(&first, &got, "shared tiles");
            result_free(&got);
        }
        result_free(&first);
        done(&t);
    }
    omp_set_num_threads(before);
}

/* Nobody on one side, nobody at all, nobody's positive, no rows. */
static void nobody(void **state)
{
    struct rng r = rng_make(SEED, 3, 0);
    for (int i = 0; i < 10; i++) {
        struct trial t = make(&r, i / 2 == 4 ? 0 : 40, 33, 6, 1, 0, false);
        t.sig = i % 2;
        if (i / 2 == 0 || i / 2 == 1) memset(t.has_a, 0, (size_t)t.n * sizeof(float));
        if (i / 2 == 1 || i / 2 == 2) memset(t.has_b, 0, (size_t)t.m * sizeof(float));
        for (int64_t k = 0; k < t.n && i / 2 == 3; k++) t.id_a[k] = -1;
        check(&t, "nobody");
        if (i / 2 != 3 || !t.sig) {
            struct result got = run(&t, 0, 0);
            for (int k = 0; k < OUTS; k++)
                for (int64_t x = 0; x < got.n[k]; x++) assert_true(got.x[k][x] == 0);
            result_free(&got);
        }
        done(&t);
    }
}

/* Logits whose exp is far outside of the range of floats, above and below; a scale of 0; all logits equal. */
static void any_scale(void **state)
{
    static const float scales[] = {0, 1e-30f, 100, 300, 5000, -50};
    struct rng r = rng_make(SEED, 4, 0);
    for (int i = 0; i < 12; i++) {
        struct trial t = make(&r, 150, 140, 8, 0.9, i % 4 > 1 ? 30 : 0, true);
        t.sig = i % 2;
        t.scale = scales[i / 2];
        check(&t, "any scale");
        done(&t);
    }
}

/* What is not finite comes out where the definition has it. */
static void not_finite(void **state)
{
    static const float odd[] = {NAN, INFINITY, -INFINITY, 1e-42f};
    struct rng r = rng_make(SEED, 5, 0);
    for (int i = 0; i < 16; i++) {
        struct trial t = make(&r, 70, 75, 4, i % 4 < 2 ? 1 : 0.8, 12, false);
        t.sig = i % 2;
        t.scale = 2;
        float *x = i % 4 < 2 ? t.a : t.b;
        int64_t row = 5;
        (i % 4 < 2 ? t.has_a : t.has_b)[row] = 1;
        x[row * t.width + 1] = odd[i / 4];
        struct result want = run(&t, AD_REFERENCE, 0), got = run(&t, 0, 0);
        for (int k = 0; k < OUTS; k++)
            for (int64_t z = 0; z < want.n[k]; z++)
                if (isfinite(want.x[k][z]) != isfinite(got.x[k][z]))
                    fail_msg("trial %d: result %d, number %lld is %g, not %g", i, k, (long long)z, (double)got.x[k][z],
                             (double)want.x[k][z]);
        if (i / 4 == 3) compare(&t, &want, &got, "denormal");
        result_free(&want);
        result_free(&got);
        done(&t);
    }
}

/* What absent vectors hold does not matter. */
static void absent_are_not_seen(void **state)
{
    struct rng r = rng_make(SEED, 6, 0);
    for (int sig = 0; sig < 2; sig++) {
        struct trial t = make(&r, 90, 81, 7, 0.6, 9, false);
        t.sig = sig;
        struct result first = run(&t, 0, 0);
        for (int64_t i = 0; i < t.n; i++)
            for (int64_t d = 0; d < t.width && t.has_a[i] == 0; d++) t.a[i * t.width + d] = 3e38f;
        for (int64_t i = 0; i < t.m; i++)
            for (int64_t d = 0; d < t.width && t.has_b[i] == 0; d++) t.b[i * t.width + d] = -3e38f;
        struct result second = run(&t, 0, 0);
        same_bits(&first, &second, "absent");
        for (int64_t i = 0; i < t.n; i++)
            for (int64_t d = 0; d < t.width && t.has_a[i] == 0; d++) assert_true(second.x[1][i * t.width + d] == 0);
        result_free(&first);
        result_free(&second);
        done(&t);
    }
}

static int64_t arena_of(int64_t n, int64_t width, bool sig, int64_t keep)
{
    struct trial t = {.n = n, .m = n, .width = width, .sig = sig, .keep = keep};
    struct err e = {0};
    struct ad_workspace space = {0};
    struct ad_graph *g = graph_of(&t);
    struct ad_plan *p = ad_plan_in(g, NULL, 0, &space, true, &e);
    if (!p) fail_msg("%s", e.msg);
    int64_t bytes = ad_plan_stats(p).arena_bytes;
    ad_plan_free(p);
    ad_graph_free(g);
    ad_workspace_free(&space);
    return bytes;
}

/* Both gradients, some numbers a row, 16 tiles that threads may share, and what was asked for; never a square. */
static void memory_is_that_of_the_vectors(void **state)
{
    for (int sig = 0; sig < 2; sig++)
        for (int64_t n = 1024; n <= 65536; n *= 8) {
            int64_t vectors = 2 * n * 64 * (int64_t)sizeof(float), rows = 2 * n * 64;
            int64_t tiles = 16 * CONTRAST_TILE * (CONTRAST_TILE + 16) * (int64_t)sizeof(float);
            assert_true(arena_of(n, 64, sig, 0) <= vectors + rows + tiles);
            assert_true(arena_of(n, 64, sig, 1 << 22) <= vectors + rows + tiles + (1 << 22));
        }
}

/* Everything written is a number, also behind the last row and column of a kept tile: the search for NaNs finds none,
 * in memory that was full of them. */
static void no_holes(void **state)
{
    struct rng r = rng_make(SEED, 7, 0);
    for (int sig = 0; sig < 2; sig++) {
        struct trial t = make(&r, 70, 133, 5, 0.8, 9, false);
        struct err e = {0};
        struct ad_workspace space = {0};
        t.sig = sig;
        t.keep = 1 << 22;
        struct ad_graph *g = graph_of(&t);
        struct ad_plan *p = ad_plan_in(g, NULL, AD_CHECK_FINITE, &space, false, &e);
        if (!p) fail_msg("%s", e.msg);
        bind(p, &t, t.a, t.b);
        if (ad_run(p, 1, 1, &e)) fail_msg("%s", e.msg);
        memset(space.base, 0xff, space.bytes);
        if (ad_run(p, 1, 1, &e)) fail_msg("%s", e.msg);
        ad_plan_free(p);
        ad_graph_free(g);
        ad_workspace_free(&space);
        done(&t);
    }
}

static void must_fail(struct ad_graph *g, const char *word)
{
    struct err e = {0};
    assert_true(ad_status(g, &e) != 0);
    if (!strstr(e.msg, word)) fail_msg("expected '%s' in: %s", word, e.msg);
    ad_graph_free(g);
}

static void wrong_inputs_are_named(void **state)
{
    for (int i = 0; i < 4; i++) {
        struct ad_graph *g = ad_graph_new();
        struct ad_pairs p = {.a = ad_input(g, "a", AD_F32, SHAPE(4, 3)),
                             .b = ad_input(g, "b", AD_F32, i == 0 ? SHAPE(5, 2) : SHAPE(5, 3)),
                             .has_a = ad_input(g, "has_a", AD_F32, SHAPE(i == 1 ? 5 : 4)),
                             .has_b = ad_input(g, "has_b", AD_F32, SHAPE(5)),
                             .id_a = ad_input(g, "id_a", AD_I32, SHAPE(4)),
                             .id_b = ad_input(g, "id_b", i == 2 ? AD_F32 : AD_I32, SHAPE(5))};
        val scale = ad_input(g, "scale", AD_F32, i == 3 ? SHAPE(2) : SCALAR);
        assert_int_equal(ad_infonce(g, &p, scale), 0);
        static const char *const words[] = {"(4, 3) and (5, 2)", "input 2 must be (4), not (5)",
                                            "input 5 must be i32, not f32", "input 6 must be (), not (2)"};
        must_fail(g, words[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(odd_sizes),
        cmocka_unit_test(many_tiles),
        cmocka_unit_test(threads_share_tiles),
        cmocka_unit_test(nobody),
        cmocka_unit_test(any_scale),
        cmocka_unit_test(not_finite),
        cmocka_unit_test(absent_are_not_seen),
        cmocka_unit_test(memory_is_that_of_the_vectors),
        cmocka_unit_test(no_holes),
        cmocka_unit_test(wrong_inputs_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
