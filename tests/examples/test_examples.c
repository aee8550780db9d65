/* The example programs do what they say; an installed triad is all that one of them needs to be built; and the pages
 * that come out of programs are what those print today. Run from the top of the tree, with the build's place in
 * TRIAD_BUILD. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "base/mem.h"
#include "tests/support/temp_dir.h"

extern char **environ;

static const char *build_dir(void)
{
    const char *dir = getenv("TRIAD_BUILD");
    return dir ? dir : "build";
}

/* What `sh -c command` prints; fails the test with that if the command fails. */
static char *output_of(const char *command)
{
    int pipes[2];
    pid_t pid;
    posix_spawn_file_actions_t actions;
    CHECK(pipe(pipes) == 0);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, pipes[1], 1);
    posix_spawn_file_actions_adddup2(&actions, pipes[1], 2);
    posix_spawn_file_actions_addclose(&actions, pipes[0]);
    const char *argv[] = {"/bin/sh", "-c", command, NULL};
    CHECK(posix_spawn(&pid, argv[0], &actions, NULL, (char **)(uintptr_t)argv, environ) == 0);
    posix_spawn_file_actions_destroy(&actions);
    close(pipes[1]);
    size_t n = 0, cap = 0;
    char *text = NULL;
    for (ssize_t got = 1; got > 0; n += got > 0 ? (size_t)got : 0) {
        text = mem_grow(text, &cap, n + 4096, 1);
        got = read(pipes[0], text + n, 4095);
    }
    text[n] = 0;
    close(pipes[0]);
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    if (!WIFEXITED(status) || WEXITSTATUS(status)) fail_msg("%s\nends with status %d:\n%s", command, status, text);
    return text;
}

static char *output_of_example(const char *name)
{
    char *command = mem_printf("'%s/examples/%s'", build_dir(), name), *text = output_of(command);
    free(command);
    return text;
}

/* The losses of lines "step N   loss X". */
static int losses(const char *text, double *loss, int most)
{
    int n = 0;
    for (const char *p = text; n < most && (p = strstr(p, "loss ")); p += 5) loss[n++] = strtod(p + 5, NULL);
    return n;
}

static void check_op(const char *text)
{
    double loss[8];
    const char *error = strstr(text, "gradient error ");
    assert_non_null(error);
    double worst = strtod(error + strlen("gradient error "), NULL);
    assert_true(worst > 0 && worst < 1e-7); /* f64 central differences with a step of 1e-5 */
    int n = losses(text, loss, 8);
    assert_int_equal(n, 4);
    assert_true(loss[0] > 0.1 && loss[n - 1] < 0.02 * loss[0]);
}

static void own_op(void **state)
{
    char *text = output_of_example("own_op");
    check_op(text);
    free(text);
}

static void own_layer(void **state)
{
    char *text = output_of_example("own_layer");
    double loss[8];
    int n = losses(text, loss, 8);
    assert_int_equal(n, 5);
    /* The best linear guess leaves 1/2 of the variance of 1. */
    assert_true(loss[0] > 0.5 && loss[n - 1] < 0.25);
    free(text);
}

/* The pages under docs/ hold what the programs print. */
static void pages_are_current(void **state)
{
    struct err e = {0};
    size_t len;
    char *command = mem_printf("TRIAD_BIN='%s/triad' tools/config_doc.sh", build_dir()), *page = NULL;
    char *now = output_of(command);
    assert_int_equal(file_read("docs/config.md", 1 << 20, &page, &len, &e), 0);
    if (strcmp(now, page)) fail_msg("docs/config.md is out of date: run tools/config_doc.sh >docs/config.md");
    free(now);
    free(page);
    free(command);
    now = output_of_example("passes");
    assert_int_equal(file_read("docs/architecture.md", 1 << 20, &page, &len, &e), 0);
    if (!strstr(page, now)) fail_msg("docs/architecture.md does not hold what build/examples/passes prints:\n%s", now);
    free(now);
    free(page);
}

static void staged_install(void **state)
{
    struct temp_dir t;
    temp_dir_begin(&t);
    char *command = mem_printf("make -s install BUILD='%s' DESTDIR='%s' PREFIX=/usr", build_dir(), t.path);
    free(output_of(command));
    free(command);
    static const char *const files[] = {"usr/bin/triad",
                                        "usr/lib/libtriad.a",
                                        "usr/include/triad.h",
                                        "usr/include/triad/autograd/ops/ops.h",
                                        "usr/share/triad/configs/emoji.yaml",
                                        "usr/lib/pkgconfig/triad.pc"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (!file_exists(temp_path(&t, files[i]))) fail_msg("%s is missing", files[i]);
    char *pc = output_of(command = mem_printf("cat '%s/usr/lib/pkgconfig/triad.pc'", t.path));
    assert_non_null(strstr(pc, "prefix=/usr\n")); /* where it will be, not where it was staged */
    assert_null(strstr(pc, t.path));
    free(pc);
    free(command);
    temp_dir_end(&t);
}

/* In a folder without the sources, by pkg-config's flags alone. */
static void a_program_of_ones_own(void **state)
{
#ifdef __SANITIZE_ADDRESS__
    const char *more = "-fsanitize=address,undefined"; /* as the library was built */
#else
    const char *more = "";
#endif
    struct temp_dir t;
    temp_dir_begin(&t);
    char *command =
        mem_printf("make -s install BUILD='%s' PREFIX='%s/usr' && cp examples/own_op.c '%s' && cd '%s' && "
                   "export PKG_CONFIG_PATH='%s/usr/lib/pkgconfig' && "
                   "cc -std=gnu11 -Wall -Werror %s own_op.c -o own_op $(pkg-config --cflags --libs triad) && "
                   "./own_op",
                   build_dir(), t.path, t.path, t.path, t.path, more);
    char *text = output_of(command);
    check_op(text);
    free(text);
    free(command);
    temp_dir_end(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(own_op),
        cmocka_unit_test(own_layer),
        cmocka_unit_test(pages_are_current),
        cmocka_unit_test(staged_install),
        cmocka_unit_test(a_program_of_ones_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
