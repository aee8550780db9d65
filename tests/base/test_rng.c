/* base/rng: the published vectors of Philox 4x32-10, and the moments of what is drawn from it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "base/rng.h"

/* Random123 1.14, tests/kat_vectors, "philox4x32 10". */
static void published_vectors(void **state)
{
    static const struct {
        uint32_t counter[4], key[2], want[4];
    } rows[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (int i = 0; i < 3; i++) {
        uint32_t out[4];
        const uint32_t *c = rows[i].counter, *k = rows[i].key;
        rng_philox((uint64_t)k[1] << 32 | k[0], (uint64_t)c[3] << 32 | c[2], (uint64_t)c[1] << 32 | c[0], out);
        for (int j = 0; j < 4; j++) assert_int_equal(out[j], rows[i].want[j]);
    }
}

/* FNV-1a 64 of "", "a", "foobar" (Noll's published test vectors). */
static void hash_vectors(void **state)
{
    assert_true(hash_str("") == 0xcbf29ce484222325u);
    assert_true(hash_str("a") == 0xaf63dc4c8601ec8cu);
    assert_true(hash_str("foobar") == 0x85944171f73967e8u);
}

static void a_draw_depends_on_its_place_alone(void **state)
{
    struct rng a = rng_make(1, 2, 3), b = rng_make(1, 2, 3);
    for (int i = 0; i < 9; i++) assert_int_equal(rng_u32(&a), rng_u32(&b));
    struct rng c = b; /* a copy in mid-block goes on alike */
    for (int i = 0; i < 9; i++) assert_int_equal(rng_u32(&b), rng_u32(&c));
    uint32_t first[4] = {0};
    struct rng others[4] = {rng_make(1, 2, 3), rng_make(2, 2, 3), rng_make(1, 3, 3), rng_make(1, 2, 4)};
    for (int i = 0; i < 4; i++) {
        first[i] = rng_u32(&others[i]);
        for (int k = 0; k < i; k++) assert_int_not_equal(first[i], first[k]);
    }
}

/* N draws: the mean of a unit-variance variable is within 5/sqrt(N) of its expectation but for 6 seeds in ten million;
 * the seed is fixed. */
static void moments(void **state)
{
    enum { N = 200000 };
    struct rng r = rng_make(7, 0, 0);
    double sum = 0, square = 0, cube = 0, unit = 0;
    int64_t below[7] = {0};
    for (int i = 0; i < N; i++) {
        double z = rng_normal(&r), u = rng_unit(&r);
        assert_true(isfinite(z) && u >= 0 && u < 1);
        sum += z, square += z * z, cube += z * z * z, unit += u;
        int64_t k = rng_below(&r, 7);
        assert_in_range(k, 0, 6);
        below[k]++;
        double x = rng_range(&r, -3, 5);
        assert_true(x >= -3 && x < 5);
    }
    double tol = 5 / sqrt(N);
    assert_true(fabs(sum / N) < tol);
    assert_true(fabs(square / N - 1) < tol * sqrt(2));  /* var of z^2 is 2 */
    assert_true(fabs(cube / N) < tol * sqrt(15));       /* var of z^3 is 15 */
    assert_true(fabs(unit / N - 0.5) < tol / sqrt(12)); /* var of u is 1/12 */
    for (int k = 0; k < 7; k++) assert_true(fabs((double)below[k] / N - 1. / 7) < tol * sqrt(6. / 49));
    assert_int_equal(rng_below(&r, 1), 0);
    for (int i = 0; i < 1000; i++) assert_in_range(rng_below(&r, (int64_t)1 << 32), 0, 0xffffffff);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_vectors),
        cmocka_unit_test(hash_vectors),
        cmocka_unit_test(a_draw_depends_on_its_place_alone),
        cmocka_unit_test(moments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
