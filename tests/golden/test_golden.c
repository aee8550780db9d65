/* Runs build/golden over the committed reference folders, and over spoiled ones, which it must refuse. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"

/* build/golden, found from build/tests/golden/test_golden, which is this program. */
static char *program(void)
{
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    assert_true(n > 0);
    self[n] = 0;
    for (int up = 0; up < 3; up++) *strrchr(self, '/') = 0;
    return mem_printf("%s/golden", self);
}

/* Runs it on `dir`: its exit status, and the last 4000 characters of what it printed in `tail`. */
static int golden(const char *dir, char tail[4001])
{
    char *path = program(), *command = mem_printf("'%s' '%s' 2>&1", path, dir);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    size_t n = 0;
    char line[1000];
    while (fgets(line, sizeof line, f)) {
        size_t len = strlen(line);
        if (strstr(line, " WRONG")) print_message("%s", line);
        if (n + len > 4000) n = 0;
        memcpy(tail + n, line, len);
        n += len;
    }
    tail[n] = 0;
    int status = pclose(f);
    free(command);
    free(path);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void right(const char *dir)
{
    char tail[4001];
    int status = golden(dir, tail);
    if (status != 0) fail_msg("%s: exit status %d: %s", dir, status, tail);
    assert_non_null(strstr(tail, " tensors compared, 0 wrong"));
}

static void test_ops(void **state)
{
    right("tests/golden/ops");
}

/* A copy of tests/golden/ops whose tensors went through `spoil`. */
static char *spoiled(void (*spoil)(char *data, size_t *len))
{
    struct err e = {0};
    char *dir = mem_strdup("/tmp/triad-golden-XXXXXX");
    assert_non_null(mkdtemp(dir));
    for (int i = 0; i < 2; i++) {
        const char *name = i ? "ops.safetensors" : "ops.json";
        char *from = file_join("tests/golden/ops", name), *to = file_join(dir, name), *data;
        size_t len;
        assert_int_equal(file_read(from, 1 << 24, &data, &len, &e), 0);
        if (i) spoil(data, &len);
        assert_int_equal(file_write(to, data, len, &e), 0);
        free(data);
        free(from);
        free(to);
    }
    return dir;
}

static void check_spoiled(void (*spoil)(char *data, size_t *len), int want, const char *says)
{
    struct err e = {0};
    char tail[4001], *dir = spoiled(spoil);
    int status = golden(dir, tail);
    assert_int_equal(file_remove_tree(dir, &e), 0);
    free(dir);
    if (status != want || !strstr(tail, says)) fail_msg("exit status %d, not %d: %s", status, want, tail);
}

/* The first number of the file is of a gradient in f64: its sign is in its eighth byte. */
static void flip_sign(char *data, size_t *len)
{
    uint64_t head;
    memcpy(&head, data, sizeof head);
    data[8 + head + 7] ^= (char)0x80;
}

static void cut(char *data, size_t *len)
{
    *len /= 2;
}
static void cut_to_nothing(char *data, size_t *len)
{
    *len = 3;
}
static void huge_header(char *data, size_t *len)
{
    memset(data, 0x7f, 8);
}
static void bad_json(char *data, size_t *len)
{
    data[8] = '[';
}

static void test_flipped_sign(void **state)
{
    check_spoiled(flip_sign, 1, ", 2 wrong");
} /* once in f64, once in f32 */
static void test_broken_files(void **state)
{
    int format = err_exit_status(ERR_FORMAT);
    check_spoiled(cut, format, "its place in the file does not fit its shape");
    check_spoiled(cut_to_nothing, format, "cut short");
    check_spoiled(huge_header, format, "cut short");
    check_spoiled(bad_json, format, "not a JSON object");
}

static void test_not_a_folder(void **state)
{
    char tail[4001];
    assert_int_equal(golden("tests/golden/nothing", tail), err_exit_status(ERR_USAGE));
    assert_non_null(strstr(tail, "tests/golden/nothing: not a folder"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_ops), cmocka_unit_test(test_flipped_sign),
                                       cmocka_unit_test(test_broken_files), cmocka_unit_test(test_not_a_folder)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
