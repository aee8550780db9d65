/* What holds for every optimizer and every way to store its state: no thread count, no instruction set's tail and no piece
 * changes a result, a step allocates nothing, a state goes out and in, and it still learns. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/isa.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/threads.h"
#include "optim/opt.h"
#include "optim/quant.h"
#include "tests/support/count_malloc.h"

static const struct ad_init normal = {AD_INIT_NORMAL, 0.5};

static struct opt_config config_of(int kind, int store)
{
    return (struct opt_config){.kind = (enum opt_kind)kind,
                               .beta1 = 0.9,
                               .beta2 = kind == OPT_LION ? 0.99 : 0.98,
                               .eps = 1e-8,
                               .weight_decay = 0.01,
                               .state = (enum opt_store)store,
                               .momentum = 0.9,
                               .nesterov = kind == OPT_MUON,
                               .trust = 0.01};
}

/* Every pair of them but Adafactor's, whose state is f32. */
static bool next_case(int *kind, int *store)
{
    if (*kind < 0 || !opt_state_names[++*store] || *kind == OPT_ADAFACTOR) ++*kind, *store = 0;
    return opt_kind_names[*kind];
}

/* Large and small matrices, wide and tall, an embedding, a convolution, a bias; some larger than a task. */
static struct ad_store *big_store(void)
{
    struct ad_store *s = ad_store_new(3);
    struct err e = {0};
    CHECK(!ad_store_declare(s, "embedding", AD_F32, SHAPE(301, 67), normal, AD_EDGE, &e));
    CHECK(!ad_store_declare(s, "wide", AD_F32, SHAPE(70, 301), normal, 0, &e));
    CHECK(!ad_store_declare(s, "bias", AD_F32, SHAPE(301), normal, AD_NO_DECAY, &e));
    CHECK(!ad_store_declare(s, "tall", AD_F32, SHAPE(129, 65), normal, 0, &e));
    CHECK(!ad_store_declare(s, "convolution", AD_F32, SHAPE(3, 3, 17, 33), normal, 0, &e));
    CHECK(!ad_store_declare(s, "scalar", AD_F32, SCALAR, normal, AD_NO_DECAY, &e));
    CHECK(!ad_store_commit(s, &e));
    return s;
}

static void fill(const struct ad_store *s, float *g, uint64_t step)
{
    for (int i = 0; i < ad_store_count(s); i++) {
        const struct ad_entry *p = ad_store_at(s, i);
        struct rng r = rng_make(4, hash_str(p->name), step);
        for (int64_t k = 0; k < p->count; k++) g[p->offset + k] = (float)rng_normal(&r);
    }
}

static void any_number_of_threads(void **state)
{
    static const int threads[] = {1, 2, 3, 7};
    for (int kind = -1, store = 0; next_case(&kind, &store);) {
        float *kept = NULL;
        for (int k = 0; k < 4; k++) {
            threads_init(threads[k]);
            struct ad_store *s = big_store();
            struct err e = {0};
            struct opt_config c = config_of(kind, store);
            c.clip = 1;
            c.ema = 0.9;
            struct opt *o = opt_new(&c, s, &e);
            int64_t n = ad_store_flat_count(s);
            float *g = mem_zero((size_t)n, sizeof *g);
            for (uint64_t t = 0; t < 3; t++) {
                fill(s, g, t);
                opt_step(o, g, opt_norm(g, n), 0.01);
            }
            memcpy(g, ad_store_flat(s), (size_t)n * sizeof *g);
            for (int64_t i = 0; i < n; i++) g[i] = 3 * g[i] + opt_ema(o)[i];
            if (!kept) kept = memcpy(mem_alloc((size_t)n * sizeof *g), g, (size_t)n * sizeof *g);
            if (memcmp(kept, g, (size_t)n * sizeof *g))
                fail_msg("%s %s with %d threads", opt_kind_names[kind], opt_state_names[store], threads[k]);
            free(g);
            opt_free(o);
            ad_store_free(s);
        }
        free(kept);
    }
    threads_init(0);
}

/* Plain, AVX2 and AVX-512 differ by rounding alone: in f32 three steps stay within some ulp of each other. Lion's signs
 * of sums near 0 may fall either way, but none does here. */
static void instruction_sets_agree(void **state)
{
    for (int kind = 0; opt_kind_names[kind]; kind++) {
        float *kept = NULL;
        for (int isa = ISA_PLAIN; isa <= ISA_AVX512; isa++) {
            isa_use((enum isa)isa);
            struct ad_store *s = big_store();
            struct err e = {0};
            struct opt_config c = config_of(kind, OPT_F32);
            struct opt *o = opt_new(&c, s, &e);
            int64_t n = ad_store_flat_count(s);
            float *g = mem_zero((size_t)n, sizeof *g);
            for (uint64_t t = 0; t < 3; t++) {
                fill(s, g, t);
                opt_step(o, g, 0, 0.01);
            }
            memcpy(g, ad_store_flat(s), (size_t)n * sizeof *g);
            if (!kept) kept = memcpy(mem_alloc((size_t)n * sizeof *g), g, (size_t)n * sizeof *g);
            /* Newton-Schulz multiplies what was rounded by up to 3.4^5 */
            double most = kind == OPT_MUON ? 1e-5 : 1e-6;
            for (int64_t i = 0; i < n; i++)
                if (!(fabs((double)g[i] - (double)kept[i]) <= most * fmax(1, fabs((double)kept[i]))))
                    fail_msg("%s: %g is not %g", opt_kind_names[kind], (double)g[i], (double)kept[i]);
            free(g);
            opt_free(o);
            ad_store_free(s);
        }
        free(kept);
    }
    isa_use(ISA_AVX512);
}

static void steps_allocate_nothing(void **state)
{
    for (int kind = -1, store = 0; next_case(&kind, &store);) {
        struct ad_store *s = big_store();
        struct err e = {0};
        struct opt_config c = config_of(kind, store);
        struct opt *o = opt_new(&c, s, &e);
        int64_t n = ad_store_flat_count(s);
        float *g = mem_zero((size_t)n, sizeof *g);
        fill(s, g, 1);
        opt_step(o, g, opt_norm(g, n), 0.01); /* threads start here */
        long before = allocations;
        int64_t faults = process_page_faults();
        for (int t = 0; t < 3; t++) opt_step(o, g, opt_norm(g, n), 0.01);
        assert_int_equal(allocations, before);
        assert_true(process_page_faults() - faults < 16); /* a stack may still grow by a page */
        free(g);
        opt_free(o);
        ad_store_free(s);
    }
}

/* What each state takes. In 8 bits the scalar and the bias keep f32: fewer than OPT_SMALL numbers. */
static void bytes(void **state)
{
    struct ad_store *s = big_store();
    struct err e = {0};
    double n = (double)ad_store_trainable(s), small = 302, factors = 0, hidden = 70 * 301 + 129 * 65;
    for (int i = 0; i < ad_store_count(s); i++) {
        const struct ad_entry *p = ad_store_at(s, i);
        int r = p->shape.rank;
        double rows = r > 1 ? (double)p->shape.dim[r - 2] : 0, columns = r > 1 ? (double)p->shape.dim[r - 1] : 0;
        factors += r > 1 ? (double)p->count / columns + (double)p->count / rows : (double)p->count;
    }
    double scales = 0;
    for (int i = 0; i < ad_store_count(s); i++)
        if (ad_store_at(s, i)->count >= OPT_SMALL) scales += ceil((double)ad_store_at(s, i)->count / OPT_BLOCK);
    const struct {
        enum opt_kind kind;
        enum opt_store store;
        double bytes;
    } rows[] = {
        {OPT_ADAMW, OPT_F32, 8 * n},
        {OPT_ADAMW, OPT_BF16, 4 * n},
        {OPT_ADAMW, OPT_8BIT, 8 * small + 2 * (n - small) + 8 * scales},
        {OPT_SGD, OPT_F32, 4 * n},
        {OPT_LAMB, OPT_F32, 8 * n},
        {OPT_LARS, OPT_BF16, 2 * n},
        {OPT_LION, OPT_F32, 4 * n},
        {OPT_ADAFACTOR, OPT_F32, 4 * factors},
        {OPT_MUON, OPT_F32, 4 * hidden + 8 * (n - hidden)},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct opt_config c = config_of((int)rows[i].kind, (int)rows[i].store);
        struct opt *o = opt_new(&c, s, &e);
        double got = opt_bytes_per_parameter(o) * n;
        if (!(fabs(got - rows[i].bytes) < 1e-6 * n)) fail_msg("row %zu: %g is not %g", i, got, rows[i].bytes);
        opt_free(o);
    }
    struct opt_config c = config_of(OPT_ADAFACTOR, OPT_BF16);
    assert_null(opt_new(&c, s, &e));
    assert_int_equal(e.code, ERR_CONFIG);
    assert_non_null(strstr(e.msg, "adafactor"));
    ad_store_free(s);
}

/* Only hidden matrices go by their orthogonal factor: with a gradient of rank 1, g = a b', Muon's step has that
 * direction, and its length follows from the sides; all else moves as AdamW moves it. */
static void muon_takes_hidden_matrices(void **state)
{
    struct ad_store *s[2] = {big_store(), big_store()};
    struct opt *o[2];
    struct err e = {0};
    int64_t n = ad_store_flat_count(s[0]);
    float *g = mem_zero((size_t)n, sizeof *g), *before = mem_alloc((size_t)n * sizeof *before);
    memcpy(before, ad_store_flat(s[0]), (size_t)n * sizeof *before);
    fill(s[0], g, 1);
    const struct ad_entry *wide = ad_store_find(s[0], "wide");
    double scale = 0;
    for (int64_t i = 0; i < wide->count; i++) {
        double a = (double)(i / 301 % 5) - 2, b = (double)(i % 301 % 7) - 3;
        g[wide->offset + i] = (float)(a * b);
        scale += a * b * a * b;
    }
    for (int k = 0; k < 2; k++) {
        struct opt_config c = config_of(k ? OPT_ADAMW : OPT_MUON, OPT_F32);
        c.weight_decay = 0;
        c.muon_rate = OPT_ORIGINAL;
        o[k] = opt_new(&c, s[k], &e);
        opt_step(o[k], g, 0, 0.01);
    }
    for (int i = 0; i < ad_store_count(s[0]); i++) {
        const struct ad_entry *p = ad_store_at(s[0], i);
        bool hidden = !strcmp(p->name, "wide") || !strcmp(p->name, "tall"),
             same = !memcmp(p->data, ad_store_at(s[1], i)->data, (size_t)p->count * sizeof(float));
        assert_true(same == !hidden);
    }
    /* The one singular value is 1 before the five steps: what the polynomial makes of it. */
    double x = 1;
    for (int k = 0; k < 5; k++) x = 3.4445 * x - 4.7750 * pow(x, 3) + 2.0315 * pow(x, 5);
    for (int64_t i = 0; i < wide->count; i++) {
        double want = -0.01 * sqrt(301.0 / 70) * x * (double)g[wide->offset + i] / sqrt(scale),
               got = (double)((float *)wide->data)[i] - (double)before[wide->offset + i];
        assert_true(fabs(got - want) < 2e-6); /* weights of 1 and 2 are rounded to 1.2e-7 */
    }
    for (int k = 0; k < 2; k++) opt_free(o[k]), ad_store_free(s[k]);
    free(before);
    free(g);
}

/* Every state as numbers and back: exactly in f32, in bf16 within half a place. */
static void states_can_be_set(void **state)
{
    for (int kind = -1, store = 0; next_case(&kind, &store);) {
        struct ad_store *s = big_store();
        struct err e = {0};
        struct opt_config c = config_of(kind, store);
        struct opt *o = opt_new(&c, s, &e);
        for (int i = 0; i < opt_state_count(o); i++) {
            struct opt_state k = opt_state(o, i);
            float *x = mem_zero((size_t)k.count + 1, sizeof *x);
            struct rng r = rng_make(1, 2, (uint64_t)i);
            for (int64_t j = 0; j < k.count; j++) x[j] = fabsf((float)rng_normal(&r)) + 0.01f;
            opt_state_set(&k, x);
            for (int64_t j = 0; j < k.count; j++) {
                double got = 0, want = (double)x[j];
                uint32_t bits = k.store == OPT_BF16 ? (uint32_t)((uint16_t *)k.data)[j] << 16 : 0;
                float b;
                memcpy(&b, &bits, sizeof b);
                if (k.store == OPT_F32) got = (double)((float *)k.data)[j];
                if (k.store == OPT_BF16) got = (double)b;
                if (k.store == OPT_8BIT) {
                    opt_decode(opt_map(k.positive), (uint8_t *)k.data + j, 1, k.absmax[j / OPT_BLOCK], &b);
                    got = (double)b;
                }
                double most = k.store == OPT_F32 ? 0 : k.store == OPT_BF16 ? 0x1p-8 * want : 0;
                if (k.store == OPT_8BIT) most = 0.5001 * 0.9 / 64 * (double)k.absmax[j / OPT_BLOCK]; /* half a cell */
                assert_true(fabs(got - want) <= most);
            }
            free(x);
        }
        opt_free(o);
        ad_store_free(s);
    }
}

/* Two layers with tanh fit what two others with random weights do, 400 steps of 16 examples: the loss falls to a tenth of the
 * first for every optimizer and state. Matrices have 72 x 64 numbers, enough for 8 bits. */
enum { IN = 72, HIDDEN = 64, BATCH = 16 };

static void forward(const float *w1, const float *w2, const float *x, double h[HIDDEN], double *y)
{
    *y = 0;
    memset(h, 0, HIDDEN * sizeof *h);
    for (int i = 0; i < IN; i++)
        for (int j = 0; j < HIDDEN; j++) h[j] += (double)x[i] * (double)w1[i * HIDDEN + j];
    for (int j = 0; j < HIDDEN; j++) {
        h[j] = tanh(h[j]);
        *y += h[j] * (double)w2[j];
    }
}

static double learn(int kind, int store, double lr, double *first)
{
    enum { STEPS = 400 };
    struct ad_store *s = ad_store_new(5), *hidden = ad_store_new(6);
    struct err e = {0};
    struct ad_store *both[] = {s, hidden};
    for (int k = 0; k < 2; k++) {
        CHECK(
            !ad_store_declare(both[k], "one", AD_F32, SHAPE(IN, HIDDEN), (struct ad_init){AD_INIT_NORMAL, 0.1}, 0, &e));
        CHECK(!ad_store_declare(both[k], "two", AD_F32, SHAPE(HIDDEN), (struct ad_init){AD_INIT_NORMAL, 0.2}, 0, &e));
        CHECK(!ad_store_commit(both[k], &e));
    }
    struct opt_config c = config_of(kind, store);
    c.weight_decay = kind == OPT_LAMB || kind == OPT_LARS ? 1e-4 : 0; /* or there is no ratio */
    struct opt *o = opt_new(&c, s, &e);
    int64_t n = ad_store_flat_count(s);
    float *g = mem_zero((size_t)n, sizeof *g), *w1 = ad_store_find(s, "one")->data, *w2 = ad_store_find(s, "two")->data;
    float *g1 = g + ad_store_find(s, "one")->offset, *g2 = g + ad_store_find(s, "two")->offset;
    double last = 0;
    *first = 0;
    for (int t = 0; t < STEPS; t++) {
        struct rng r = rng_make(7, 1, (uint64_t)t);
        memset(g, 0, (size_t)n * sizeof *g);
        for (int b = 0; b < BATCH; b++) {
            float x[IN];
            double h[HIDDEN], y, want;
            for (int i = 0; i < IN; i++) x[i] = (float)rng_normal(&r);
            forward(ad_store_find(hidden, "one")->data, ad_store_find(hidden, "two")->data, x, h, &want);
            forward(w1, w2, x, h, &y);
            double d = (y - want) / BATCH;
            if (t < 20) *first += (y - want) * (y - want) / (20 * BATCH);
            if (t >= STEPS - 20) last += (y - want) * (y - want) / (20 * BATCH);
            for (int j = 0; j < HIDDEN; j++) {
                g2[j] += (float)(d * h[j]);
                h[j] = d * (double)w2[j] * (1 - h[j] * h[j]);
            }
            for (int i = 0; i < IN; i++)
                for (int j = 0; j < HIDDEN; j++) g1[i * HIDDEN + j] += (float)(h[j] * (double)x[i]);
        }
        opt_step(o, g, opt_norm(g, n), lr * (1 - (double)t / STEPS));
    }
    free(g);
    opt_free(o);
    ad_store_free(s);
    ad_store_free(hidden);
    return last;
}

static void each_learns(void **state)
{
    static const double lr[] = {[OPT_ADAMW] = 0.01, [OPT_SGD] = 0.02,       [OPT_LAMB] = 0.03, [OPT_LARS] = 1,
                                [OPT_LION] = 0.002, [OPT_ADAFACTOR] = 0.05, [OPT_MUON] = 0.01};
    for (int kind = -1, store = 0; next_case(&kind, &store);) {
        double first, last = learn(kind, store, lr[kind], &first);
        print_message("%-9s %-4s  %.4f -> %.5f\n", opt_kind_names[kind], opt_state_names[store], first, last);
        assert_true(last < 0.1 * first);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_number_of_threads),
        cmocka_unit_test(instruction_sets_agree),
        cmocka_unit_test(steps_allocate_nothing),
        cmocka_unit_test(bytes),
        cmocka_unit_test(muon_takes_hidden_matrices),
        cmocka_unit_test(states_can_be_set),
        cmocka_unit_test(each_learns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
