/* The memory that --dry-run foretells. A program of its own, so that the parent is small. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/threads.h"
#include "tests/support/tiny.h"

/* The peak that --dry-run foretells against that of a real run, which measures a split as well: within 5 % and
 * half a MB, for the stacks and heaps of threads, of which so small a process has little else. */
static void test_forecast(void **state)
{
    char *text = tiny_run(&tiny, "dry", "--dry-run train.steps=60 data.valid=[valid]", 0),
         *at = strstr(text, "peak memory");
    assert_non_null(at);
    assert_false(file_exists(tiny_path(&tiny, "dry")));
    double want = strtod(at + strlen("peak memory"), &at) * 1e6;
    assert_memory_equal(at, " MB", 3);
    free(text);
    struct tiny_child c;
    tiny_start(&tiny, "real", "train.steps=60 train.save_every=20 data.valid=[valid]", &c);
    tiny_wait(&tiny, &c);
    assert_int_equal(c.status, 0);
    free(c.text);
    print_message("peak memory: foretold %.1f MB, real %.1f MB\n", 1e-6 * want, 1e-6 * (double)c.rss);
    assert_true(c.rss > process_peak_rss()); /* a child's peak is at least what its parent had when it started it */
#ifndef __SANITIZE_ADDRESS__
    assert_true(fabs(want - (double)c.rss) < 0.05 * (double)c.rss + 0.5e6);
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forecast),
    };
    return cmocka_run_group_tests(tests, tiny_begin, tiny_end);
}
