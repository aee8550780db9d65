/* Moments stored in 16 bits: rounded by the bits they say, without bias, independently of where pieces begin; and a model
 * still learns with them. In 8 bits: a step is the step in f32 of what they are. What holds for all states is in
 * test_kinds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/half.h"
#include "base/isa.h"
#include "base/mem.h"
#include "base/rng.h"
#include "optim/opt.h"
#include "optim/quant.h"

static const struct opt_config half = {
    .kind = OPT_ADAMW, .lr = 0.01, .beta1 = 0.9, .beta2 = 0.98, .eps = 1e-6, .weight_decay = 0.1, .state = OPT_BF16};

static struct ad_store *store_of(int64_t a, int64_t b, int64_t c)
{
    struct ad_store *s = ad_store_new(3);
    struct err e = {0};
    const struct ad_init normal = {AD_INIT_NORMAL, 1};
    CHECK(!ad_store_declare(s, "a", AD_F32, SHAPE(a), normal, 0, &e));
    CHECK(!ad_store_declare(s, "b", AD_F32, SHAPE(b), normal, AD_NO_DECAY, &e));
    CHECK(!ad_store_declare(s, "c", AD_F32, SHAPE(c), normal, 0, &e));
    CHECK(!ad_store_commit(s, &e));
    return s;
}

static float *numbers(int64_t n, uint64_t step)
{
    float *g = mem_zero((size_t)n + 1, sizeof *g);
    struct rng r = rng_make(7, 1, step);
    for (int64_t i = 0; i < n; i++) g[i] = (float)rng_normal(&r);
    return g;
}

/* What of the 16 random bits of element i at step t makes of x (optim/steps.h). `sure` is false where x in f32 may end on
 * the other side of the cut, since the kernel may contract products and sums. */
static uint16_t rounded(double x, int64_t i, uint64_t t, bool *sure)
{
    uint32_t word[4], bits = float_bits((float)x);
    int64_t j = i % 16;
    rng_philox(hash_str("optim.state"), t, (uint64_t)(i / 512 * 4 + j / 4), word);
    uint32_t odd = 1 + 40502 * (uint32_t)(i % 512 / 32);
    uint32_t random = (word[j % 4] >> (i % 32 < 16 ? 0 : 16) & 0xffff) * odd & 0xffff, low = (bits & 0xffff) + random;
    *sure = low < 0xfff0 || (low > 0x10010 && low < 0x1fff0);
    return (uint16_t)((bits + random) >> 16);
}

/* Moment 0 or 1 of parameter k as it is stored. */
static const uint16_t *moment(const struct opt *o, int k, int which)
{
    struct opt_state s = opt_state(o, 2 * k + which);
    assert_true(s.store == OPT_BF16 && !strcmp(s.name, which ? "adamw.v" : "adamw.m"));
    return s.data;
}

/* The first step from m = v = 0, in every instruction set: tails of every width come from sizes 1 to 67. */
static void bits_are_the_generators(void **state)
{
    for (int isa = ISA_PLAIN; isa <= ISA_AVX512; isa++)
        for (int size = 1; size <= 67; size += 3) {
            struct ad_store *s = store_of(size, 40000, 5);
            struct err e = {0};
            isa_use((enum isa)isa);
            struct opt *o = opt_new(&half, s, &e);
            int64_t n = ad_store_flat_count(s), sure_ones = 0;
            float *g = numbers(n, 1);
            opt_step(o, g, opt_norm(g, n), 0.01);
            for (int k = 0; k < 3; k++)
                for (int64_t j = 0; j < ad_store_at(s, k)->count; j++) {
                    bool sure;
                    int64_t i = ad_store_at(s, k)->offset + j;
                    uint16_t want = rounded((1 - 0.9f) * (double)g[i], i, 1, &sure);
                    if (sure) assert_int_equal(moment(o, k, 0)[j], want);
                    sure_ones += sure;
                    want = rounded((1 - 0.98f) * (double)g[i] * (double)g[i], i, 1, &sure);
                    if (sure) assert_int_equal(moment(o, k, 1)[j], want);
                }
            assert_true(sure_ones > 39000);
            free(g);
            opt_free(o);
            ad_store_free(s);
        }
    isa_use(ISA_AVX512);
}

/* The same gradient everywhere: moments and weights of single elements differ, their means do not. 20 steps; the mean of
 * 60000 elements, 16 to a draw, whose rounding spreads by less than one place of bf16 (2^-8) is within 5 sigma of
 * 2^-8 / sqrt(60000 / 16). */
static void rounding_has_no_bias(void **state)
{
    enum { N = 60000 };
    struct ad_store *s = store_of(N, 1, 1);
    struct err e = {0};
    struct opt *o = opt_new(&half, s, &e);
    int64_t n = ad_store_flat_count(s);
    float *g = mem_zero((size_t)n, sizeof *g);
    double m = 0, v = 0, mean_m = 0, mean_v = 0;
    for (int t = 0; t < 20; t++) {
        for (int i = 0; i < N; i++) g[i] = 0.3f + 0.01f * (float)t;
        m = 0.9 * m + 0.1 * (0.3 + 0.01 * t);
        v = 0.98 * v + 0.02 * (0.3 + 0.01 * t) * (0.3 + 0.01 * t);
        opt_step(o, g, 1, 0.01);
    }
    int differ = 0;
    for (int i = 0; i < N; i++) {
        mean_m += (double)bf16_to_float(moment(o, 0, 0)[i]) / N;
        mean_v += (double)bf16_to_float(moment(o, 0, 1)[i]) / N;
        differ += moment(o, 0, 0)[i] != moment(o, 0, 0)[0];
    }
    assert_true(differ > N / 4);
    /* v adds up the rounding of some 1 / (2 * 0.02) steps: five times the spread of one */
    assert_true(fabs(mean_m / m - 1) < 5 * 2 * 0x1p-8 / sqrt(N / 16));
    assert_true(fabs(mean_v / v - 1) < 5 * 5 * 0x1p-8 / sqrt(N / 16));
    free(g);
    opt_free(o);
    ad_store_free(s);
}

/* What is not finite stays so: an infinity does not become a number, nor a NaN a zero by a carry. */
static void not_finite_stays_so(void **state)
{
    struct ad_store *s = store_of(64, 1, 1);
    struct err e = {0};
    struct opt *o = opt_new(&half, s, &e);
    float *g = mem_zero((size_t)ad_store_flat_count(s), sizeof *g);
    for (int i = 0; i < 32; i++) g[i] = i % 2 ? INFINITY : float_from_bits(0x7fffffff);
    opt_step(o, g, 1, 0.01);
    for (int i = 0; i < 32; i++) {
        float m = bf16_to_float(moment(o, 0, 0)[i]);
        assert_true(i % 2 ? isinf(m) : isnan(m));
    }
    assert_true(moment(o, 0, 0)[40] == 0);
    free(g);
    opt_free(o);
    ad_store_free(s);
}

/* Logistic regression of 40 numbers on the sign of a hidden direction, 300 steps of 32 examples: the loss falls as with
 * moments in f32. */
static double learn(enum opt_store how)
{
    enum { D = 40, B = 32, STEPS = 300 };
    struct ad_store *s = store_of(D, 1, 1);
    struct err e = {0};
    struct opt_config c = half;
    c.state = how;
    c.beta2 = 0.999;
    c.weight_decay = 0;
    struct opt *o = opt_new(&c, s, &e);
    int64_t n = ad_store_flat_count(s);
    float *g = mem_zero((size_t)n, sizeof *g), *hidden = numbers(D, 99), *w = ad_store_flat(s);
    double last = 0;
    for (int t = 0; t < STEPS; t++) {
        float *x = numbers(B * D, (uint64_t)t + 100);
        memset(g, 0, (size_t)n * sizeof *g);
        for (int b = 0; b < B; b++) {
            double z = 0, y = 0;
            for (int i = 0; i < D; i++) {
                z += (double)w[i] * (double)x[b * D + i];
                y += (double)hidden[i] * (double)x[b * D + i];
            }
            double sign = y > 0 ? 1 : -1, d = -sign / (1 + exp(sign * z));
            if (t >= STEPS - 50) last += log1p(exp(-sign * z)) / (50 * B);
            for (int i = 0; i < D; i++) g[i] += (float)(d * (double)x[b * D + i] / B);
        }
        opt_step(o, g, opt_norm(g, n), 0.02);
        free(x);
    }
    free(g);
    free(hidden);
    opt_free(o);
    ad_store_free(s);
    return last;
}

static void a_run_still_learns(void **state)
{
    double full = learn(OPT_F32), less = learn(OPT_BF16);
    assert_true(full < 0.35); /* from log 2 and more: the start is random */
    assert_true(fabs(less - full) < 0.03 * full);
}

/* Same bits, or NaN both. */
static void same(const float *a, const float *b, int64_t n, const char *what)
{
    for (int64_t i = 0; i < n; i++)
        if (float_bits(a[i]) != float_bits(b[i]) && !(isnan(a[i]) && isnan(b[i])))
            fail_msg("%s %lld: %a is not %a", what, (long long)i, (double)a[i], (double)b[i]);
}

/* Moment k of `full`, in f32, becomes what that of `eight` says; and whether that of `eight` says what it is. */
static void moment_to(const struct opt *eight, const struct opt *full, int k)
{
    struct opt_state from = opt_state(eight, k), to = opt_state(full, k);
    assert_true(from.store == OPT_8BIT && to.store == OPT_F32 && !strcmp(from.name, to.name));
    for (int64_t i = 0; i < to.count; i += OPT_BLOCK)
        opt_decode(opt_map(from.positive), (uint8_t *)from.data + i,
                   to.count - i < OPT_BLOCK ? to.count - i : OPT_BLOCK, from.absmax[i / OPT_BLOCK],
                   (float *)to.data + i);
}
static void moment_is(const struct opt *eight, const struct opt *full, int k)
{
    struct opt_state got = opt_state(eight, k), want = opt_state(full, k);
    for (int64_t i = 0; i < want.count; i += OPT_BLOCK) {
        int64_t n = want.count - i < OPT_BLOCK ? want.count - i : OPT_BLOCK;
        uint8_t code[OPT_BLOCK];
        float absmax;
        opt_encode(opt_map(want.positive), (float *)want.data + i, n, code, &absmax);
        same(&got.absmax[i / OPT_BLOCK], &absmax, 1, "scale");
        assert_memory_equal((uint8_t *)got.data + i, code, (size_t)n);
    }
}

/* Five steps in 8 bits, in every instruction set and with ends of many lengths: moments are decoded, moved as f32 moves
 * them, and encoded; in the last a gradient is infinite and one is not a number. */
static void eight_bits_are_f32_between_codes(void **state)
{
    for (int isa = ISA_PLAIN; isa <= ISA_AVX512; isa++)
        for (int extra = 0; extra < 256; extra += extra < 40 ? 3 : 43) {
            struct err e = {0};
            struct opt_config c = half;
            isa_use((enum isa)isa);
            c.ema = extra % 2 ? 0.9 : 0;
            struct ad_store *s[2];
            struct opt *o[2];
            for (int k = 0; k < 2; k++) {
                s[k] = store_of(OPT_SMALL + extra, 5000, 20000);
                c.state = k ? OPT_F32 : OPT_8BIT;
                assert_non_null(o[k] = opt_new(&c, s[k], &e));
            }
            int64_t n = ad_store_flat_count(s[0]);
            for (int t = 1; t <= 5; t++) {
                float *g = numbers(n, (uint64_t)t);
                for (int64_t i = 0; i < n; i++) g[i] *= i % 7 ? 1 : 1e-4f;
                if (t == 5) g[300] = INFINITY, g[2000] = float_from_bits(0x7fc00000);
                for (int k = 0; k < 6; k++) moment_to(o[0], o[1], k);
                for (int k = 0; k < 2; k++) opt_step(o[k], g, 1, 0.01);
                for (int k = 0; k < 6; k++) moment_is(o[0], o[1], k);
                same(ad_store_flat(s[0]), ad_store_flat(s[1]), n, "weight");
                if (c.ema > 0) same(opt_ema(o[0]), opt_ema(o[1]), n, "average");
                free(g);
            }
            for (int k = 0; k < 2; k++) opt_free(o[k]), ad_store_free(s[k]);
        }
    isa_use(ISA_AVX512);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bits_are_the_generators),
        cmocka_unit_test(rounding_has_no_bias),
        cmocka_unit_test(not_finite_stays_so),
        cmocka_unit_test(a_run_still_learns),
        cmocka_unit_test(eight_bits_are_f32_between_codes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
