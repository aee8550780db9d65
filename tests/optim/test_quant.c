/* The 8-bit maps: as the published definition has them, and codes that are the nearest, for every width of vectors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <string.h>

#include <cmocka.h>

#include "base/half.h"
#include "base/isa.h"
#include "base/rng.h"
#include "optim/quant.h"

/* What the codes stand for. */
static const float *values(bool positive)
{
    static float value[2][256];
    uint8_t code[256];
    for (int k = 0; k < 256; k++) code[k] = (uint8_t)k;
    opt_decode(opt_map(positive), code, 256, 1, value[positive]);
    return value[positive];
}

/* 256 rising values, 0 and 1 among them; a code stands for the middle of one of equal cells of a decade (Dettmers et al.
 * 2022, fig. 2). tests/golden/optim compares with bitsandbytes' own numbers. */
static void maps(void **state)
{
    for (int positive = 0; positive < 2; positive++) {
        const struct opt_map *m = opt_map(positive);
        const float *value = values(positive);
        assert_true(m->positive == (bool)positive);
        assert_true(value[m->zero] == 0 && value[255] == 1);
        for (int i = 1; i < 256; i++) assert_true(value[i] > value[i - 1]);
        for (int i = 0; i < m->zero; i++) assert_true(value[i] == -value[2 * m->zero - i]);
        int cells[7] = {0};
        for (int i = m->zero + 1; i < 255; i++) cells[(int)floor(log10((double)value[i])) + 7]++;
        for (int d = 0; d < 7; d++) assert_int_equal(cells[d], 1 << (d + positive));
    }
}

/* |x / absmax - value| is the least there is, within what quant.h allows. */
static void check_nearest(const struct opt_map *m, const float *x, int n, const uint8_t *code, float absmax)
{
    const float *value = values(m->positive);
    double top = 0;
    for (int i = 0; i < n; i++) top = fmax(top, fabs((double)x[i]));
    assert_true((double)absmax == top);
    for (int i = 0; i < n; i++) {
        double share = top > 0 ? (double)x[i] / top : 0, least = INFINITY;
        for (int k = m->positive && x[i] > 0; k < 256; k++) least = fmin(least, fabs(share - (double)value[k]));
        double got = fabs(share - (double)value[code[i]]);
        if (!(got <= least + 6e-7 * fabs(share)))
            fail_msg("%g of %g became %g", (double)x[i], top, (double)value[code[i]]);
        if (m->positive && x[i] > 0) assert_true(code[i] > 0);
    }
}

static void codes_are_nearest(void **state)
{
    float x[OPT_BLOCK], back[OPT_BLOCK + 1], absmax;
    uint8_t code[OPT_BLOCK + 1];
    for (int isa = ISA_PLAIN; isa <= ISA_AVX512; isa++) {
        isa_use((enum isa)isa);
        for (int positive = 0; positive < 2; positive++)
            for (int n = 1; n <= OPT_BLOCK; n += n < 40 ? 1 : 54) {
                struct rng r = rng_make(1, (uint64_t)n, (uint64_t)positive);
                float scale = (float)pow(10, rng_range(&r, -30, 30));
                for (int i = 0; i < n; i++) {
                    double y = pow(10, rng_range(&r, -8.5, 0));
                    x[i] = (float)(i % 11 == 10 ? 0 : rng_unit(&r) < 0.5 && !positive ? -y : y) * scale;
                }
                code[n] = 77;
                back[n] = 77;
                opt_encode(opt_map(positive), x, n, code, &absmax);
                opt_decode(opt_map(positive), code, n, absmax, back);
                check_nearest(opt_map(positive), x, n, code, absmax);
                assert_true(code[n] == 77 && back[n] == 77);
                for (int i = 0; i < n; i++) assert_true(back[i] == values(positive)[code[i]] * absmax);
                uint8_t again[OPT_BLOCK];
                float same;
                opt_encode(opt_map(positive), back, n, again, &same); /* what has been stored once stays */
                if (same == absmax) assert_memory_equal(code, again, (size_t)n);
            }
    }
    isa_use(ISA_AVX512);
}

/* Half way from each code to the next, and beside it: one of the two; and each code's own number. */
static void borders(void **state)
{
    for (int positive = 0; positive < 2; positive++) {
        const struct opt_map *m = opt_map(positive);
        const float *value = values(positive);
        for (int k = 0; k < 255; k++) {
            float half = (value[k] + value[k + 1]) / 2, absmax;
            float x[6] = {1, half, nextafterf(half, -2), nextafterf(half, 2), value[k], value[k + 1]};
            uint8_t code[6];
            opt_encode(m, x, 6, code, &absmax);
            check_nearest(m, x, 6, code, absmax);
            assert_int_equal(code[4], k);
            assert_int_equal(code[5], k + 1);
        }
    }
}

/* The code as quant.h defines it: k = trunc(min(s gain + offset, last)), with one rounding where the product and the sum
 * are one instruction, or two. */
static int code_for(const struct opt_map *m, float x, float scale, bool fused)
{
    float s = fabsf(x) / scale;
    int decade = 0;
    while (decade < 7 && s > m->next[decade]) decade++;
    float size = fused ? fmaf(s, m->gain[decade], m->offset[decade]) : s * m->gain[decade] + m->offset[decade];
    int k = s > m->least ? (int)fminf(size, m->last[decade]) : 0;
    if (m->positive) return k > 0 ? k : x > 0;
    k = x < 0 ? m->zero - k : m->zero + k;
    return k > 0 ? k : 0;
}

/* n floats with the bits from `from` on, `stride` apart, and their negatives, of a block with this scale. */
static void sweep(const struct opt_map *m, float scale, int64_t from, int64_t stride, int64_t n)
{
    const int64_t most = float_bits(scale);
    for (int64_t at = 0; at < n; at += OPT_BLOCK / 2 - 1) {
        float x[OPT_BLOCK], absmax;
        uint8_t code[OPT_BLOCK];
        int count = 0;
        x[count++] = scale;
        for (int64_t i = at; i < n && i < at + OPT_BLOCK / 2 - 1; i++) {
            int64_t bits = from + i * stride;
            if (bits < 0 || bits > most) continue;
            x[count++] = float_from_bits((uint32_t)bits);
            x[count++] = -float_from_bits((uint32_t)bits);
        }
        opt_encode(m, x, count, code, &absmax);
        for (int i = 0; i < count; i++)
            if (code[i] != code_for(m, x[i], scale, true) && code[i] != code_for(m, x[i], scale, false))
                fail_msg("%a of %a, positive %d: code %d", (double)x[i], (double)scale, m->positive, code[i]);
    }
}

/* Floats of all sizes, subnormal ones among them, and each one near the limits of the decades. */
static void codes_are_the_definitions(void **state)
{
    static const float scales[] = {1, 0.7371f, 3e38f, 0x1.3p-126f, 0x1p-140f, 0x1p-149f};
    for (int isa = ISA_PLAIN; isa <= ISA_AVX512; isa++) {
        isa_use((enum isa)isa);
        for (int k = 0; k < 12; k++) {
            const struct opt_map *m = opt_map(k % 2);
            const float scale = scales[k / 2];
            int64_t top = float_bits(scale), stride = top / 60000 + 1;
            sweep(m, scale, 0, stride, top / stride + 1);
            for (int i = 0; i < 8; i++) {
                float limit = i < 7 ? m->next[i] : m->least;
                sweep(m, scale, (int64_t)float_bits(limit * scale) - 500, 1, 1000);
            }
        }
    }
    isa_use(ISA_AVX512);
}

/* A scale of infinity has infinities whole and numbers as nothing (or the least, where that is not 0); of a NaN all is whole. */
static void codes_not_finite(void **state)
{
    const float nan = float_from_bits(0x7fc00000), x[] = {1, -1, 0, -0.0f, INFINITY, -INFINITY, nan, -nan, 1e-45f};
    static const uint8_t want[2][2][9] = {
        {{127, 127, 127, 127, 255, 0}, {1, 0, 1, 0, 255, 255}},
        {{255, 0, 255, 255, 255, 0, 255, 255, 255}, {255, 255, 255, 255, 255, 255, 255, 255, 255}}};
    for (int isa = ISA_PLAIN; isa <= ISA_AVX512; isa++) {
        isa_use((enum isa)isa);
        for (int k = 0; k < 4; k++) {
            const bool with_nan = k / 2, positive = k % 2;
            const int n = with_nan ? 9 : 6;
            float block[9], absmax;
            uint8_t code[9];
            memcpy(block, x, sizeof block);
            if (!with_nan && positive) block[2] = 1e-45f;
            opt_encode(opt_map(positive), block, n, code, &absmax);
            assert_true(with_nan ? isnan(absmax) : isinf(absmax));
            for (int i = 0; i < n; i++)
                if (code[i] != want[with_nan][positive][i]) fail_msg("%d: number %d became %d", k, i, code[i]);
        }
    }
    isa_use(ISA_AVX512);
}

/* An all-zero block, one of the smallest floats, and one that is not finite. */
static void odd_blocks(void **state)
{
    for (int positive = 0; positive < 2; positive++) {
        const struct opt_map *m = opt_map(positive);
        float x[9] = {0}, absmax, back[9];
        uint8_t code[9];
        opt_encode(m, x, 9, code, &absmax);
        opt_decode(m, code, 9, absmax, back);
        for (int i = 0; i < 9; i++) assert_true(back[i] == 0);
        x[4] = 1e-45f;
        opt_encode(m, x, 9, code, &absmax);
        opt_decode(m, code, 9, absmax, back);
        for (int i = 0; i < 9; i++) assert_true(back[i] == x[i]);
        for (int k = 0; k < 2; k++) {
            for (int i = 0; i < 9; i++) x[i] = 0.1f * (float)(i + 1);
            x[8] = k ? INFINITY : float_from_bits(0x7fffffff);
            opt_encode(m, x, 9, code, &absmax);
            opt_decode(m, code, 9, absmax, back);
            assert_false(isfinite(absmax));
            assert_false(isfinite(back[8]));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(maps),
        cmocka_unit_test(codes_are_nearest),
        cmocka_unit_test(borders),
        cmocka_unit_test(codes_are_the_definitions),
        cmocka_unit_test(codes_not_finite),
        cmocka_unit_test(odd_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
