/* base/half: every 16-bit pattern, every rounding border; the fast forms against the portable ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "base/half.h"

/* The value by its definition: 5 exponent bits of bias 15, 10 fraction bits. */
static double half_value(uint16_t h)
{
    int exponent = h >> 10 & 31, fraction = h & 0x3ff;
    double v = exponent ? ldexp(1 + fraction / 1024.0, exponent - 15) : ldexp(fraction / 1024.0, -14);
    if (exponent == 31) v = fraction ? (double)NAN : (double)INFINITY;
    return h & 0x8000 ? -v : v;
}

static void every_half(void **state)
{
    for (uint32_t h = 0; h < 65536; h++) {
        float fast = half_to_float((uint16_t)h), plain = half_to_float_portable((uint16_t)h);
        double want = half_value((uint16_t)h);
        if (float_bits(fast) != float_bits(plain)) fail_msg("half %04x: fast %a, portable %a", h, fast, plain);
        if (isnan(want) ? !isnan(plain) : plain != want || !signbit(plain) != !signbit(want)) fail_msg("half %04x", h);
        uint16_t back = half_from_float_portable(plain), want_back = isnan(want) ? (uint16_t)(h | 0x200) : (uint16_t)h;
        if (back != want_back || half_from_float(plain) != want_back) fail_msg("half %04x came back as %04x", h, back);
    }
}

static void round_to(float x, uint16_t want)
{
    for (int sign = 0; sign < 2; sign++) {
        float v = sign ? -x : x;
        uint16_t w = (uint16_t)(want | sign << 15), fast = half_from_float(v), plain = half_from_float_portable(v);
        if (fast != w || plain != w) fail_msg("%a: expected %04x, fast %04x, portable %04x", v, w, fast, plain);
    }
}

/* Between two neighbours: the middle goes to the even one, a hair beside it to the nearer one. 65520, the middle of the
 * greatest half and what would follow it, goes to infinity. */
static void every_half_border(void **state)
{
    for (uint16_t h = 0; h < 0x7c00; h++) {
        double next = h == 0x7bff ? 65536 : half_value(h + 1);
        float middle = (float)((half_value(h) + next) / 2); /* exact: one bit more */
        round_to(middle, h % 2 ? h + 1 : h);
        round_to(nextafterf(middle, 0), h);
        round_to(nextafterf(middle, INFINITY), h + 1);
    }
    round_to(INFINITY, 0x7c00);
    round_to(3.4e38f, 0x7c00);
    round_to(1e-45f, 0);
    assert_int_equal(half_from_float(NAN) & 0x7e00, 0x7e00);
    assert_int_equal(half_from_float_portable(float_from_bits(0xff800001)), 0xfe00); /* stays a NaN, keeps its sign */
    for (uint64_t u = 0; u < (uint64_t)1 << 32; u += 4099) { /* a prime stride through all floats */
        float x = float_from_bits((uint32_t)u);
        if (half_from_float(x) != half_from_float_portable(x)) fail_msg("%08x", (uint32_t)u);
    }
}

static void every_bf16(void **state)
{
    for (uint32_t h = 0; h < 65536; h++) {
        float x = bf16_to_float((uint16_t)h);
        assert_int_equal(float_bits(x), h << 16);
        uint16_t want = isnan(x) ? (uint16_t)(h | 0x40) : (uint16_t)h;
        assert_int_equal(bf16_from_float(x), want);
        if ((h & 0x7f80) == 0x7f80) continue;
        /* the middle to the next, and its neighbours */
        assert_int_equal(bf16_from_float(float_from_bits(h << 16 | 0x8000)), h % 2 ? h + 1 : h);
        assert_int_equal(bf16_from_float(float_from_bits(h << 16 | 0x7fff)), h);
        assert_int_equal(bf16_from_float(float_from_bits(h << 16 | 0x8001)), h + 1);
    }
    assert_int_equal(bf16_from_float(float_from_bits(0x7f800001)), 0x7fc0); /* not rounded to infinity */
    assert_int_equal(bf16_from_float(3.4028235e38f), 0x7f80);
    assert_int_equal(bf16_from_float(1.0f), 0x3f80);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_half),
        cmocka_unit_test(every_half_border),
        cmocka_unit_test(every_bf16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
