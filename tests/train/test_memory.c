/* A run within a limit of memory: the same checkpoints bit for bit, also where it goes on under another limit; and what is
 * said where no plan fits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "tests/support/tiny.h"

static char *least; /* the limit that the error says would do, as "41.3MB" */

static int begin(void **state)
{
    tiny_begin(state);
    return tiny_whole("");
}

static int end(void **state)
{
    free(least);
    return tiny_end(state);
}

static void too_little_says_what_would_do(void **state)
{
    struct err e = {0};
    assert_int_equal(tiny_train(&tiny, "none", "train.memory=1MB", &e), ERR_MEMORY);
    tiny_has(e.msg, "train.memory: no plan fits into 1.00 MB");
    char *at = strstr(e.msg, "together ");
    assert_non_null(at);
    at += strlen("together ");
    char *unit = at + strcspn(at, " ");
    least = mem_printf("%.*s%.2s", (int)(unit - at), at, unit + 1);
    assert_string_equal(unit + 1, "MB would do, and a smaller batch needs less");
    char *text = tiny_run(&tiny, "none", "--dry-run train.memory=1MB", err_exit_status(ERR_MEMORY));
    char *first = strstr(text, "train.memory: no plan fits into 1.00 MB");
    assert_non_null(first);
    assert_ptr_equal(strstr(text, "train.memory:"), first); /* said once */
    assert_null(strstr(first + 1, "train.memory:"));
    free(text);
}

static void the_least_does_and_changes_no_bit(void **state)
{
    char args[80];
    assert_non_null(least);
    snprintf(args, sizeof args, "train.memory=%s", least);
    tiny_trains("least", args);
    tiny_same_end("whole", "least");
    snprintf(args, sizeof args, "--dry-run train.memory=%s", least);
    char *text = tiny_run(&tiny, "dry", args, 0);
    tiny_has(text, "recomputed ");
    free(text);
}

static void a_run_goes_on_under_another_limit(void **state)
{
    char args[80];
    tiny_stopped_at("whole", 5, "other");
    snprintf(args, sizeof args, "--resume train.memory=%s", least);
    tiny_trains("other", args);
    tiny_same_end("whole", "other");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(too_little_says_what_would_do),
        cmocka_unit_test(the_least_does_and_changes_no_bit),
        cmocka_unit_test(a_run_goes_on_under_another_limit),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
