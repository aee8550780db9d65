/* Ranks, shares, chance and intervals on sets small enough to count by hand, and against plain loops in double. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "eval/measure.h"

/* A set of two modalities whose similarities are sim (n, n): the query's vectors are the unit matrix. */
static struct eval_set set_of(int n, const float *sim, const int *group)
{
    struct eval_set s = {.split = mem_strdup("test"), .n = n, .n_modalities = 2, .width = n};
    s.item = mem_zero((size_t)n, sizeof *s.item);
    s.group = mem_zero((size_t)n, sizeof *s.group);
    for (int k = 0; k < 2; k++) {
        s.unit[k] = mem_zero((size_t)(n * n), sizeof(float));
        s.has[k] = mem_zero((size_t)n, sizeof(bool));
        for (int i = 0; i < n; i++) s.has[k][i] = true;
    }
    for (int i = 0; i < n; i++) {
        s.group[i] = group ? group[i] : i;
        s.unit[0][i * n + i] = 1;
        for (int j = 0; j < n; j++) s.unit[1][j * n + i] = sim[i * n + j];
    }
    return s;
}

static void near(double a, double b)
{
    if (!(fabs(a - b) <= 1e-12)) fail_msg("%.17g is not %.17g", a, b);
}

static void counts_by_hand(void **state)
{
    /* item 0 is first; 1 is behind 0 and 2; 2 is behind 0; 3 is first */
    static const float sim[] = {0.9f, 0.1f, 0.2f, 0.3f, /**/ 0.8f, 0.5f, 0.6f, 0.1f,
                                0.7f, 0.1f, 0.6f, 0.2f, /**/ 0.1f, 0.2f, 0.3f, 0.4f};
    static const int rank[] = {1, 3, 2, 1};
    struct eval_set s = set_of(4, sim, NULL);
    struct eval_direction d;
    eval_direction_make(&s, 0, 1, 200, &d);
    assert_int_equal(d.queries, 4);
    assert_int_equal(d.candidates, 4);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(d.rank[i], rank[i]);
        assert_int_equal(d.from[i], i);
    }
    near(d.recall[0], 0.5);
    near(d.recall[1], 1);
    near(d.recall[2], 1);
    near(d.median, 1.5);
    near(d.map, (1 + 1 / 3.0 + 1 / 2.0 + 1) / 4);
    near(d.chance[0], 0.25);
    near(d.chance[1], 1);
    assert_true(d.low[0] >= 0 && d.low[0] < 0.5 && d.high[0] > 0.5 && d.high[0] <= 1);
    near(d.low[1], 1);
    near(d.high[1], 1);
    eval_direction_free(&d);
    eval_set_free(&s);
}

static void ties_are_won(void **state)
{
    static const float sim[] = {0.5f, 0.5f, 0.5f, /**/ 0.6f, 0.6f, 0.7f, /**/ 0, 0, 0};
    static const int rank[] = {1, 2, 1};
    struct eval_set s = set_of(3, sim, NULL);
    struct eval_direction d;
    eval_direction_make(&s, 0, 1, 0, &d);
    for (int i = 0; i < 3; i++) assert_int_equal(d.rank[i], rank[i]);
    assert_true(isnan(d.low[0]) && isnan(d.high[0]));
    eval_direction_free(&d);
    eval_set_free(&s);
}

static void groups_share_hits(void **state)
{
    /* 0 and 1 show the same. Query 0: its own is behind 2, its brother first: hits at 1 and 3. */
    static const float sim[] = {0.1f, 0.9f, 0.5f, /**/ 0.9f, 0.8f, 0.1f, /**/ 0.9f, 0.8f, 0.7f};
    static const int group[] = {0, 0, 2};
    struct eval_set s = set_of(3, sim, group);
    struct eval_direction d;
    eval_direction_make(&s, 0, 1, 0, &d);
    assert_int_equal(d.rank[0], 1);
    assert_int_equal(d.rank[1], 1);
    assert_int_equal(d.rank[2], 3);
    near(d.map, ((1 + 2 / 3.0) / 2 + 1 + 1 / 3.0) / 3);
    /* one of three at random: two hits for the first two queries, one for the last */
    near(d.chance[0], (2 / 3.0 + 2 / 3.0 + 1 / 3.0) / 3);
    eval_direction_free(&d);
    eval_set_free(&s);
}

static void the_absent_do_not_count(void **state)
{
    static const float sim[] = {0.1f, 0.9f, 0.5f, /**/ 0.9f, 0.8f, 0.1f, /**/ 0.9f, 0.8f, 0.7f};
    struct eval_set s = set_of(3, sim, NULL);
    s.has[0][1] = false; /* asks nothing */
    s.has[1][0] = false; /* is not found: query 0 has no right answer, and it is no candidate for query 2 */
    struct eval_direction d;
    eval_direction_make(&s, 0, 1, 50, &d);
    assert_int_equal(d.queries, 1);
    assert_int_equal(d.candidates, 2);
    assert_int_equal(d.from[0], 2);
    assert_int_equal(d.rank[0], 2);
    near(d.chance[0], 0.5);
    eval_direction_free(&d);
    s.has[0][0] = s.has[0][2] = false;
    eval_direction_make(&s, 0, 1, 50, &d);
    assert_int_equal(d.queries, 0);
    assert_true(isnan(d.median));
    near(d.recall[0], 0);
    eval_direction_free(&d);
    eval_set_free(&s);
}

static void a_nan_is_never_found(void **state)
{
    static const float sim[] = {NAN, 0.9f, /**/ 0.1f, 0.2f};
    struct eval_set s = set_of(2, sim, NULL);
    struct eval_direction d;
    /* the unit matrix would spread the NaN over both queries: 0 * NaN */
    memset(s.unit[0], 0, 4 * sizeof(float));
    s.unit[0][0] = s.unit[0][3] = 1;
    s.unit[1][0] = NAN;
    eval_direction_make(&s, 0, 1, 0, &d);
    assert_true(d.rank[0] > 1);
    eval_direction_free(&d);
    eval_set_free(&s);
}

/* ---- against plain loops */

struct plain {
    int rank;
    double precision, chance[EVAL_CUTS];
};

static struct plain plain_query(const struct eval_set *s, int64_t q)
{
    struct plain p = {0};
    int64_t hits = 0, n = 0;
    double sim[512];
    for (int64_t j = 0; j < s->n; j++) {
        sim[j] = 0;
        for (int64_t k = 0; k < s->width; k++)
            sim[j] += (double)s->unit[0][q * s->width + k] * s->unit[1][j * s->width + k];
        n += s->has[1][j];
        hits += s->has[1][j] && s->group[j] == s->group[q];
    }
    if (!hits || !s->has[0][q]) return p;
    for (int64_t h = 0; h < s->n; h++) { /* each hit's place among all candidates, and among the hits */
        if (!s->has[1][h] || s->group[h] != s->group[q]) continue;
        int place = 1, among = 1;
        for (int64_t j = 0; j < s->n; j++)
            if (s->has[1][j] && sim[j] > sim[h]) {
                place++;
                among += s->group[j] == s->group[q];
            }
        if (among == 1) p.rank = place;
        p.precision += (double)among / place / (double)hits;
    }
    for (int c = 0; c < EVAL_CUTS; c++) {
        /* no hit among the first c of n: choose(n - hits, c) / choose(n, c) */
        double miss = 1;
        for (int64_t i = 0; i < hits; i++) miss *= fmax(0, (double)(n - eval_cut[c] - i)) / (double)(n - i);
        p.chance[c] = 1 - miss;
    }
    return p;
}

static void agrees_with_plain_loops(void **state)
{
    enum { N = 203, WIDTH = 6 };
    for (int seed = 0; seed < 4; seed++) {
        struct rng r = rng_make((uint64_t)seed, 5, 0);
        struct eval_set s = {.split = mem_strdup("x"), .n = N, .n_modalities = 2, .width = WIDTH};
        s.item = mem_zero(N, sizeof *s.item);
        s.group = mem_zero(N, sizeof *s.group);
        for (int k = 0; k < 2; k++) {
            s.unit[k] = mem_zero(N * WIDTH, sizeof(float));
            s.has[k] = mem_zero(N, sizeof(bool));
        }
        for (int i = 0; i < N; i++) {
            s.group[i] = (int32_t)(seed % 2 ? rng_below(&r, 80) : i);
            for (int k = 0; k < 2; k++) {
                s.has[k][i] = rng_unit(&r) < 0.8;
                for (int c = 0; c < WIDTH; c++) s.unit[k][i * WIDTH + c] = (float)rng_normal(&r);
            }
        }
        struct eval_direction d;
        eval_direction_make(&s, 0, 1, 0, &d);
        int64_t at = 0;
        double map = 0, recall[EVAL_CUTS] = {0}, chance[EVAL_CUTS] = {0};
        for (int64_t q = 0; q < N; q++) {
            struct plain p = plain_query(&s, q);
            if (!p.rank) continue;
            assert_int_equal(d.from[at], q);
            if (d.rank[at] != p.rank)
                fail_msg("seed %d, query %lld: rank %d, not %d", seed, (long long)q, d.rank[at], p.rank);
            at++;
            map += p.precision;
            for (int c = 0; c < EVAL_CUTS; c++) recall[c] += p.rank <= eval_cut[c], chance[c] += p.chance[c];
        }
        assert_int_equal(d.queries, at);
        near(d.map, map / (double)at);
        for (int c = 0; c < EVAL_CUTS; c++) {
            near(d.recall[c], recall[c] / (double)at);
            near(d.chance[c], chance[c] / (double)at);
        }
        eval_direction_free(&d);
        eval_set_free(&s);
    }
}

static void intervals_are_those_of_a_share(void **state)
{
    /* 100 of 400 queries are first: the interval is near the normal one, 0.25 +- 1.96 sqrt(0.25 0.75 / 400) = 0.0424.
     * A bootstrap of 2,000 misses its ends by a few thousandths, and steps are 1/400. */
    enum { N = 400 };
    struct eval_set s = {.split = mem_strdup("x"), .n = N, .n_modalities = 2, .width = N};
    s.item = mem_zero(N, sizeof *s.item);
    s.group = mem_zero(N, sizeof *s.group);
    for (int k = 0; k < 2; k++) {
        s.unit[k] = mem_zero(N * N, sizeof(float));
        s.has[k] = mem_zero(N, sizeof(bool));
    }
    for (int i = 0; i < N; i++) {
        s.group[i] = i;
        s.has[0][i] = s.has[1][i] = true;
        s.unit[0][i * N + i] = 1;
        s.unit[1][i * N + i] = i < 100 ? 1 : -1; /* the others are behind every zero */
    }
    struct eval_direction d, again;
    eval_direction_make(&s, 0, 1, 2000, &d);
    near(d.recall[0], 0.25);
    assert_true(fabs(d.low[0] - (0.25 - 0.0424)) < 0.006);
    assert_true(fabs(d.high[0] - (0.25 + 0.0424)) < 0.006);
    eval_direction_make(&s, 0, 1, 2000, &again);
    assert_memory_equal(d.low, again.low, sizeof d.low);
    assert_memory_equal(d.high, again.high, sizeof d.high);
    eval_direction_free(&d);
    eval_direction_free(&again);
    eval_set_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_by_hand),
        cmocka_unit_test(ties_are_won),
        cmocka_unit_test(groups_share_hits),
        cmocka_unit_test(the_absent_do_not_count),
        cmocka_unit_test(a_nan_is_never_found),
        cmocka_unit_test(agrees_with_plain_loops),
        cmocka_unit_test(intervals_are_those_of_a_share),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
