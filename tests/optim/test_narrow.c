/* Weights and gradients that are kept in bf16: a step is the step in f32 of what they are, each weight rounded at random
 * to one of its two neighbours, without bias; the same bits for any number of threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/half.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/threads.h"
#include "optim/layers.h"
#include "optim/opt.h"
#include "tests/support/count_malloc.h"

static const struct ad_init normal = {AD_INIT_NORMAL, 0.5};
static const enum opt_kind kinds[] = {OPT_ADAMW, OPT_SGD, OPT_LAMB, OPT_LARS, OPT_LION};
enum { KINDS = sizeof kinds / sizeof *kinds, STEPS = 5 };

static struct ad_store *store_of(bool narrow)
{
    struct ad_store *s = ad_store_new(3);
    struct err e = {0};
    CHECK(!ad_store_declare(s, "small", AD_F32, SHAPE(63, 65), normal, 0, &e)); /* 4095 */
    CHECK(!ad_store_declare(s, "table", AD_F32, SHAPE(301, 67), normal, AD_EDGE, &e));
    CHECK(!ad_store_declare(s, "bias", AD_F32, SHAPE(5000), normal, AD_NO_DECAY, &e));
    CHECK(!ad_store_declare(s, "norms", AD_F32, SHAPE(100, 50), normal, AD_NO_DECAY, &e));
    CHECK(!ad_store_declare(s, "matrix", AD_F32, SHAPE(65, 64), normal, 0, &e));
    CHECK(!ad_store_declare(s, "counter", AD_F32, SHAPE(100, 50), normal, AD_STATE, &e));
    if (narrow) ad_store_narrow(s);
    CHECK(!ad_store_commit(s, &e));
    return s;
}

/* Gradients that bf16 holds, laid out as s's. */
static void *gradient(const struct ad_store *s, uint64_t step)
{
    char *g = mem_zero(ad_store_flat_bytes(s), 1);
    for (int i = 0; i < ad_store_count(s); i++) {
        const struct ad_entry *p = ad_store_at(s, i);
        struct rng r = rng_make(4, hash_str(p->name), step);
        for (int64_t k = 0; ad_in_flat(p) && k < p->count; k++) {
            uint16_t h = bf16_from_float((float)rng_normal(&r));
            float x = bf16_to_float(h);
            if (ad_is_narrow(p))
                memcpy(g + p->place + 2 * (size_t)k, &h, sizeof h);
            else
                memcpy(g + p->place + 4 * (size_t)k, &x, sizeof x);
        }
    }
    return g;
}

static struct opt *opt_of(enum opt_kind kind, int state, struct ad_store *s)
{
    struct err e = {0};
    struct opt_config c = {.kind = kind,
                           .beta1 = 0.9,
                           .beta2 = 0.98,
                           .eps = 1e-8,
                           .weight_decay = 0.1,
                           .state = (enum opt_store)state,
                           .momentum = 0.9,
                           .trust = 0.01,
                           .clip = 1,
                           .ema = 0.9};
    struct opt *o = opt_new(&c, s, &e);
    CHECK_MSG(o, "%s", e.msg);
    return o;
}

static void large_matrices_are_narrow(void **state)
{
    struct ad_store *s = store_of(true), *w = store_of(false);
    size_t at = 0;
    for (int i = 0; i < ad_store_count(s); i++) {
        const struct ad_entry *p = ad_store_at(s, i), *q = ad_store_at(w, i);
        bool narrow = !strcmp(p->name, "table") || !strcmp(p->name, "matrix");
        assert_int_equal(ad_is_narrow(p), narrow);
        assert_false(ad_is_narrow(q));
        assert_int_equal(p->dtype, AD_F32);
        assert_int_equal(p->offset, q->offset);
        if (!ad_in_flat(p)) continue;
        assert_int_equal(p->place, at);
        at += ((size_t)p->count * (narrow ? 2 : 4) + 63) / 64 * 64;
        float *x = mem_alloc((size_t)p->count * sizeof *x);
        ad_entry_read(p, 0, p->count, x); /* the start is the f32 start, rounded */
        for (int64_t k = 0; k < p->count; k++) {
            float want = ((float *)q->data)[k];
            assert_true(x[k] == (narrow ? bf16_to_float(bf16_from_float(want)) : want));
        }
        x[1] = 1 + 0x1p-7f + 0x1p-20f;
        ad_entry_write(p, 7, 2, x);
        ad_entry_read(p, 8, 1, x);
        assert_true(x[0] == (narrow ? 1 + 0x1p-7f : 1 + 0x1p-7f + 0x1p-20f));
        free(x);
    }
    assert_int_equal(ad_store_flat_bytes(s), at);
    assert_int_equal(ad_store_flat_bytes(w), 4 * ad_store_flat_count(w));
    ad_store_free(s);
    ad_store_free(w);
}

/* b's weights are a's. */
static void take_weights(const struct ad_store *a, const struct ad_store *b)
{
    for (int i = 0; i < ad_store_count(a); i++)
        ad_entry_read(ad_store_at(a, i), 0, ad_store_at(a, i)->count, ad_store_at(b, i)->data);
}

struct rounding {
    double sum, var, n; /* of (kept - exact) in steps: its sum, the variance that chance gives it, how many */
};

/* Each weight of `got` is one of the two bf16 neighbours of `want`'s, or it where the parameter is in f32. */
static void compare(const struct ad_store *want, const struct ad_store *got, struct rounding *r)
{
    for (int i = 0; i < ad_store_count(got); i++) {
        const struct ad_entry *p = ad_store_at(want, i), *q = ad_store_at(got, i);
        const float *exact = p->data;
        for (int64_t k = 0; k < p->count; k++) {
            float x;
            uint32_t bits;
            ad_entry_read(q, k, 1, &x);
            if (!ad_is_narrow(q)) {
                assert_true(x == exact[k]);
                continue;
            }
            memcpy(&bits, &exact[k], sizeof bits);
            float low = bf16_to_float((uint16_t)(bits >> 16)), high = bf16_to_float((uint16_t)((bits >> 16) + 1));
            assert_true(x == low || x == high);
            double up = ((double)exact[k] - (double)low) / ((double)high - (double)low);
            r->sum += (x == high ? 1 : 0) - up;
            r->var += up * (1 - up);
            r->n += up > 0;
        }
    }
}

static void steps_round_at_random(void **state)
{
    for (int kind = 0; kind < KINDS; kind++)
        for (int store = 0; opt_state_names[store]; store++) {
            struct ad_store *got = store_of(true), *want = store_of(false);
            struct opt *a = opt_of(kinds[kind], store, got), *b = opt_of(kinds[kind], store, want);
            struct rounding r = {0};
            for (uint64_t t = 0; t < STEPS; t++) {
                void *g = gradient(got, t), *h = gradient(want, t);
                double norm = opt_gradient_norm(want, h);
                assert_true(fabs(opt_gradient_norm(got, g) - norm) < 1e-12 * norm);
                take_weights(got, want);
                opt_step(a, g, norm, 0.01);
                opt_step(b, h, norm, 0.01);
                compare(want, got, &r);
                free(g);
                free(h);
            }
            assert_true(r.n > 10000);
            assert_true(fabs(r.sum) < 4.5 * sqrt(r.var)); /* one time in 100,000 by chance; the seeds are fixed */
            opt_free(a);
            opt_free(b);
            ad_store_free(got);
            ad_store_free(want);
        }
}

static void any_number_of_threads(void **state)
{
    static const int threads[] = {1, 2, 3, 7};
    for (int kind = 0; kind < KINDS; kind++) {
        char *first = NULL;
        for (int i = 0; i < 4; i++) {
            threads_init(threads[i]);
            struct ad_store *s = store_of(true);
            struct opt *o = opt_of(kinds[kind], OPT_BF16, s);
            for (uint64_t t = 0; t < STEPS; t++) {
                void *g = gradient(s, t);
                opt_step(o, g, opt_gradient_norm(s, g), 0.01);
                free(g);
            }
            size_t n = ad_store_flat_bytes(s);
            if (!first) memcpy(first = mem_alloc(n), ad_store_flat(s), n);
            assert_memory_equal(first, ad_store_flat(s), n);
            opt_free(o);
            ad_store_free(s);
        }
        free(first);
    }
    threads_init(2);
}

static void layers_see_both_types(void **state)
{
    struct ad_store *s = store_of(true);
    struct opt_layers *l = opt_layers_new(s);
    void *g = gradient(s, 1);
    double norm[5], sum = 0, all = opt_gradient_norm(s, g);
    assert_int_equal(opt_layers_count(l), 5);
    opt_layers_norms(l, g, norm);
    for (int i = 0; i < 5; i++) {
        assert_true(norm[i] > 50);
        sum += norm[i] * norm[i];
    }
    assert_true(fabs(sqrt(sum) - all) < 1e-12 * all);
    free(g);
    opt_layers_free(l);
    ad_store_free(s);
}

static void steps_allocate_nothing(void **state)
{
    struct ad_store *s = store_of(true);
    struct opt *o = opt_of(OPT_ADAMW, OPT_8BIT, s);
    void *g = gradient(s, 1);
    opt_step(o, g, opt_gradient_norm(s, g), 0.01); /* threads start here */
    long before = allocations;
    for (int t = 0; t < 3; t++) opt_step(o, g, opt_gradient_norm(s, g), 0.01);
    assert_int_equal(allocations - before, 0);
    free(g);
    opt_free(o);
    ad_store_free(s);
}

static void what_needs_f32_refuses(void **state)
{
    static const enum opt_kind others[] = {OPT_ADAFACTOR, OPT_MUON};
    for (int i = 0; i < 2; i++) {
        struct ad_store *s = store_of(true);
        struct err e = {0};
        struct opt_config c = {.kind = others[i]};
        assert_null(opt_new(&c, s, &e));
        assert_int_equal(e.code, ERR_CONFIG);
        assert_non_null(strstr(e.msg, opt_kind_names[others[i]]));
        assert_non_null(strstr(e.msg, "optim.weights: bf16 goes with adamw"));
        ad_store_free(s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(large_matrices_are_narrow), cmocka_unit_test(steps_round_at_random),
        cmocka_unit_test(any_number_of_threads),     cmocka_unit_test(layers_see_both_types),
        cmocka_unit_test(steps_allocate_nothing),    cmocka_unit_test(what_needs_f32_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
