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

static struct tiny tiny;
static char *least; /* the limit that the error says would do, as "41.3MB" */

static int begin(void **state)
{
    struct err e = {0};
    tiny_make(&tiny);
    int rc = tiny_train(&tiny, "whole", "train.save_every=1 train.keep=100", &e);
    if (rc) print_error("%s\n", e.msg);
    return rc;
}

static int end(void **state)
{
    tiny_free(&tiny);
    free(least);
    return 0;
}

static void same_end(const char *out)
{
    tiny_same(tiny_path(&tiny, "whole/checkpoints/step-%d", TINY_STEPS),
              tiny_path(&tiny, "%s/checkpoints/step-%d", out, TINY_STEPS));
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
}

static void the_least_does_and_changes_no_bit(void **state)
{
    struct err e = {0};
    char args[80];
    assert_non_null(least);
    snprintf(args, sizeof args, "train.memory=%s", least);
    if (tiny_train(&tiny, "least", args, &e)) fail_msg("%s", e.msg);
    same_end("least");
    snprintf(args, sizeof args, "--dry-run train.memory=%s", least);
    char *text = tiny_run(&tiny, "dry", args, 0);
    tiny_has(text, "recomputed ");
    free(text);
}

static void a_run_goes_on_under_another_limit(void **state)
{
    struct err e = {0};
    char args[80];
    tiny_copy(tiny_path(&tiny, "whole/checkpoints/step-5"), tiny_path(&tiny, "other/checkpoints/step-5"));
    tiny_copy(tiny_path(&tiny, "whole/tokenizer.text.json"), tiny_path(&tiny, "other/tokenizer.text.json"));
    snprintf(args, sizeof args, "--resume train.memory=%s", least);
    if (tiny_train(&tiny, "other", args, &e)) fail_msg("%s", e.msg);
    same_end("other");
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
