/* base/err: the first error stays, text is cut and never overrun, codes have names and statuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/err.h"

static void first_error_stays(void **state)
{
    struct err e = {0};
    assert_int_equal(err_set(&e, ERR_FORMAT, "expected %d, got %d", 1, 2), ERR_FORMAT);
    assert_int_equal(err_set(&e, ERR_IO, "later"), ERR_IO);
    assert_int_equal(e.code, ERR_FORMAT);
    assert_string_equal(e.msg, "expected 1, got 2");
    assert_int_equal(err_prefix(&e, "a.yaml:%d", 3), ERR_FORMAT);
    assert_int_equal(err_append(&e, "; try %s", "x"), ERR_FORMAT);
    assert_string_equal(e.msg, "a.yaml:3: expected 1, got 2; try x");
    err_clear(&e);
    assert_int_equal(e.code, 0);
    assert_string_equal(e.msg, "");
    assert_int_equal(err_set(NULL, ERR_BUSY, "nobody listens"), ERR_BUSY);
}

static void errno_is_told(void **state)
{
    struct err e = {0};
    errno = ENOENT;
    assert_int_equal(err_errno(&e, "cannot open %s", "x"), ERR_IO);
    assert_string_equal(e.msg, "cannot open x: No such file or directory");
}

static void long_text_is_cut(void **state)
{
    struct {
        struct err e;
        char guard[16];
    } s = {.guard = "untouched"};
    char long_text[3000];
    memset(long_text, 'a', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = 0;
    err_set(&s.e, ERR_IO, "%s", long_text);
    assert_int_equal(strlen(s.e.msg), sizeof s.e.msg - 1);
    err_append(&s.e, "%s", long_text);
    err_prefix(&s.e, "b%s", long_text);
    assert_int_equal(strlen(s.e.msg), sizeof s.e.msg - 1);
    assert_int_equal(s.e.msg[0], 'b');
    errno = EIO;
    err_clear(&s.e);
    err_errno(&s.e, "%s", long_text);
    assert_int_equal(strlen(s.e.msg), sizeof s.e.msg - 1);
    assert_string_equal(s.guard, "untouched");
}

static void codes_have_names(void **state)
{
    assert_string_equal(err_code_name(ERR_CONFIG), "CONFIG");
    assert_string_equal(err_code_name(0), "NONE");
    assert_string_equal(err_code_name(-999), "UNKNOWN");
    assert_int_equal(err_exit_status(ERR_USAGE), 2);
    assert_int_equal(err_exit_status(0), 0);
}

static void a_broken_invariant_aborts(void **state)
{
    int fd[2];
    assert_int_equal(pipe(fd), 0);
    pid_t child = fork();
    if (child == 0) {
        dup2(fd[1], STDERR_FILENO);
        CHECK_MSG(1 + 1 == 3, "it is %d", 2);
        _exit(0);
    }
    close(fd[1]);
    char text[400] = {0};
    assert_true(read(fd[0], text, sizeof text - 1) > 0);
    int status;
    waitpid(child, &status, 0);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == 6);
    assert_non_null(strstr(text, "internal check failed: 1 + 1 == 3"));
    close(fd[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_error_stays),         cmocka_unit_test(errno_is_told),
        cmocka_unit_test(long_text_is_cut),          cmocka_unit_test(codes_have_names),
        cmocka_unit_test(a_broken_invariant_aborts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
