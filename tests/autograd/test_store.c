/* Start values: the vector code against Box and Muller's formula in double; any cut of the range gives the same numbers. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "autograd/store.h"
#include "base/rng.h"

enum { N = 100003 };
static float x[N];

static double formula(uint64_t key, uint64_t again, int64_t i)
{
    uint32_t w[4];
    rng_philox(key, again, (uint64_t)i / 4, w);
    double u = ((double)(w[i % 4 / 2 * 2] >> 8) + 1) / 16777216, v = (double)(w[i % 4 / 2 * 2 + 1] >> 8) / 16777216;
    return sqrt(-2 * log(u)) * (i % 2 ? sin(2 * M_PI * v) : cos(2 * M_PI * v));
}

/* log and the sine are within 2 ulp, 2.4e-7 of a number up to 1, times a radius of at most 5.8. */
static void equals_formula(void **state)
{
    ad_start_normal(x, 0, N, 77, 0, 1);
    for (int64_t i = 0; i < N; i++) assert_float_equal(x[i], formula(77, 0, i), 2e-6);
}

static void ranges_agree(void **state)
{
    ad_start_normal(x, 0, N, 5, 2, 1);
    for (int64_t from = 0; from < 200; from += 7)
        for (int64_t n = 1; n < 60; n += 9) {
            float part[64];
            ad_start_normal(part, from, from + n, 5, 2, 1);
            assert_memory_equal(part, x + from, (size_t)n * sizeof *part);
        }
}

/* Numbers beyond the cut are drawn again under the next counter, the others stay. Of N normals a share of 4.55 % is
 * beyond 2; five standard deviations of that count are 330. */
static void cut(void **state)
{
    ad_start_normal(x, 0, N, 9, 2, 1);
    int64_t drawn_again = 0;
    for (int64_t i = 0; i < N; i++) {
        uint64_t again = 0;
        while (fabs(formula(9, again, i)) > 2) again++;
        drawn_again += again > 0;
        assert_true(fabsf(x[i]) <= 2);
        assert_float_equal(x[i], formula(9, again, i), 2e-6);
    }
    assert_in_range(drawn_again, 4550 - 330, 4550 + 330);
}

/* The standard errors of mean and variance over N numbers are 0.0032 and 0.0045: five of each. */
static void moments(void **state)
{
    double mean = 0, square = 0;
    ad_start_normal(x, 0, N, 1, 0, 1);
    for (int64_t i = 0; i < N; i++) mean += (double)x[i] / N, square += (double)x[i] * (double)x[i] / N;
    assert_float_equal(mean, 0, 0.016);
    assert_float_equal(square, 1, 0.0225);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_formula),
        cmocka_unit_test(ranges_agree),
        cmocka_unit_test(cut),
        cmocka_unit_test(moments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
