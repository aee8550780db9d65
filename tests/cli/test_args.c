/* cli/: the flag table, and the program itself run as a person runs it ($TRIAD_BIN). */
#include <fcntl.h>
#include <setjmp.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

struct result {
    int status;
    char out[16384], err[16384];
};

static void read_back(int fd, char *to, size_t size)
{
    lseek(fd, 0, SEEK_SET);
    ssize_t n = read(fd, to, size - 1);
    to[n > 0 ? n : 0] = 0;
    close(fd);
}

static int scratch(void)
{
    char name[] = "/tmp/triad-cli-XXXXXX";
    int fd = mkstemp(name);
    assert_true(fd >= 0);
    unlink(name);
    return fd;
}

static struct result run(const char *const *words)
{
    static struct result r;
    const char *argv[10] = {getenv("TRIAD_BIN")};
    assert_non_null(argv[0]);
    for (int i = 0; words[i]; i++) argv[i + 1] = words[i];
    int out = scratch(), err = scratch(), status;
    pid_t pid;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, out, 1);
    posix_spawn_file_actions_adddup2(&actions, err, 2);
    assert_int_equal(posix_spawn(&pid, argv[0], &actions, NULL, (char **)argv, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    r.status = WEXITSTATUS(status);
    read_back(out, r.out, sizeof r.out);
    read_back(err, r.err, sizeof r.err);
    return r;
}
#define RUN(...) run((const char *const[]){__VA_ARGS__, NULL})

static void test_version(void **state)
{
    struct result r = RUN("--version");
    assert_int_equal(r.status, 0);
    assert_string_equal(r.out, "triad " TRIAD_VERSION "\n");
    assert_string_equal(r.err, "");
}

static void test_help(void **state)
{
    struct result r = RUN("--help");
    assert_int_equal(r.status, 0);
    assert_string_equal(r.err, "");
    assert_non_null(strstr(r.out, "usage: triad COMMAND"));
    assert_non_null(strstr(r.out, "\n  data "));
    assert_non_null(strstr(r.out, "3 wrong configuration"));
    assert_int_equal(RUN("help").status, 0);
    assert_int_equal(RUN("-h").status, 0);
    r = RUN("help", "tokenizer");
    assert_int_equal(r.status, 0);
    assert_non_null(strstr(r.out, "triad tokenizer train"));
    r = RUN("eval", "--help"); /* the second line of a flag's words stands below the first */
    assert_int_equal(r.status, 0);
    assert_non_null(strstr(r.out, "items of\n                          a with the clips of b"));
    r = RUN("data", "--help");
    assert_int_equal(r.status, 0);
    assert_non_null(strstr(r.out, "triad data emoji"));
}

static void test_wrong_command(void **state)
{
    struct result r = RUN("tokenizr", "train");
    assert_int_equal(r.status, 2);
    assert_string_equal(r.out, "");
    assert_string_equal(r.err, "triad: unknown command 'tokenizr'; did you mean 'tokenizer'?\n");
    r = RUN("frobnicate");
    assert_int_equal(r.status, 2);
    assert_string_equal(r.err, "triad: unknown command 'frobnicate'; 'triad --help' lists them\n");
    r = RUN("help", "dta");
    assert_int_equal(r.status, 2);
    assert_string_equal(r.err, "triad: unknown command 'dta'; did you mean 'data'?\n");
    const char *const none[] = {NULL};
    r = run(none);
    assert_int_equal(r.status, 2);
    assert_string_equal(r.out, "");
    assert_non_null(strstr(r.err, "usage: triad COMMAND"));
}

static void test_exit_statuses(void **state)
{
    assert_int_equal(RUN("tokenizer", "encode", "/nowhere/tokenizer.json", "a").status, 4);
    assert_int_equal(RUN("data", "emoji").status, 2);
    assert_int_equal(RUN("data", "check", "/nowhere.jsonl").status, 4);
}

/* The rows below are cut by this parser alone, compiled in: cli/ is no part of the library. */
#include "cli/args.c"

struct values {
    bool resume;
    int64_t k;
    double rate, limit;
    const char *out;
};

static int parse(struct values *v, char **argv, int *n, struct err *e)
{
    const struct arg_flag flags[] = {
        {"resume", 0, ARG_BOOL, &v->resume, .help = "go on"},
        {"top", 'k', ARG_INT, &v->k, "N", "how many", 1, 100},
        {"rate", 0, ARG_DOUBLE, &v->rate, "R", "a rate", 0, INFINITY},
        {"limit", 0, ARG_DURATION, &v->limit, "TIME", "how long"},
        {"output", 'o', ARG_STRING, &v->out, "FILE", "where to"},
        {0},
    };
    const struct args a = {"train", "CONFIG [key=value ...]", "Trains.", flags, 1, 3, NULL};
    int argc = 0;
    while (argv[argc]) argc++;
    return args_parse(&a, argc, argv, n, e);
}

static void test_flags(void **state)
{
    struct values v = {.k = 10};
    struct err e = {0};
    int n = 0;
    char *argv[] = {"train", "--top=7", "a.yaml", "--resume", "-o", "x",     "--limit",
                    "4m",    "lr=-1",   "--rate", "1e-3",     "--", "--top", NULL};
    assert_int_equal(parse(&v, argv, &n, &e), 0);
    assert_true(v.resume && v.k == 7 && v.rate == 1e-3 && v.limit == 240);
    assert_string_equal(v.out, "x");
    assert_int_equal(n, 3);
    assert_string_equal(argv[1], "a.yaml");
    assert_string_equal(argv[2], "lr=-1");
    assert_string_equal(argv[3], "--top"); /* after -- it is a word */
}

static void test_wrong_flags(void **state)
{
    static const struct {
        char *argv[6];
        const char *message;
    } rows[] = {
        {{"train"}, "triad train: expected CONFIG [key=value ...]; see 'triad train --help'"},
        {{"train", "a", "--resum"},
         "triad train: unknown option '--resum'; did you mean '--resume'?; see 'triad train --help'"},
        {{"train", "a", "--colour=red"}, "triad train: unknown option '--colour'; see 'triad train --help'"},
        {{"train", "a", "-x"}, "triad train: unknown option '-x'; see 'triad train --help'"},
        {{"train", "a", "--top"}, "triad train: --top needs a value (N); see 'triad train --help'"},
        {{"train", "a", "--top", "x"},
         "triad train: --top: expected a whole number, got 'x'; see 'triad train --help'"},
        {{"train", "a", "-k", "0"}, "triad train: --top: expected from 1 to 100, got 0; see 'triad train --help'"},
        {{"train", "a", "--rate=-1"}, "triad train: --rate: expected at least 0, got -1; see 'triad train --help'"},
        {{"train", "a", "--rate", "nan"},
         "triad train: --rate: expected a number, got 'nan'; see 'triad train --help'"},
        {{"train", "a", "--limit", "long"},
         "triad train: --limit: expected a duration (such as 25ms, 30s, 4m), got 'long'; see 'triad train --help'"},
        {{"train", "a", "--resume=yes"}, "triad train: --resume takes no value, got 'yes'; see 'triad train --help'"},
        {{"train", "a", "b", "c", "d"},
         "triad train: one word too many: 'd' (expected CONFIG [key=value ...]); see 'triad train --help'"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct values v = {0};
        struct err e = {0};
        char *argv[7];
        int n = 0;
        memcpy(argv, rows[i].argv, sizeof rows[i].argv);
        argv[6] = NULL;
        assert_int_equal(parse(&v, argv, &n, &e), ERR_USAGE);
        assert_string_equal(e.msg, rows[i].message);
    }
}

static void test_generated_help(void **state)
{
    int64_t k = 10;
    bool resume = false;
    const char *out = NULL;
    const struct arg_flag flags[] = {
        {"top", 'k', ARG_INT, &k, "N", "how many"},
        {"resume", 0, ARG_BOOL, &resume, .help = "go on"},
        {"a-very-long-name", 0, ARG_STRING, &out, "FOLDER", "where to"},
        {0},
    };
    const struct args a = {"search", "MODEL", "Searches.", flags, 1, 1, "examples:\n  triad search a"};
    FILE *f = tmpfile();
    args_help(&a, f);
    rewind(f);
    char text[2000];
    text[fread(text, 1, sizeof text - 1, f)] = 0;
    fclose(f);
    assert_string_equal(text, "usage: triad search MODEL [options]\n"
                              "\nSearches.\n\n"
                              "  -k, --top N             how many (default 10)\n"
                              "  --resume                go on\n"
                              "  --a-very-long-name FOLDER\n"
                              "                          where to\n"
                              "  -h, --help              this text\n"
                              "\nexamples:\n  triad search a\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_version),        cmocka_unit_test(test_help),  cmocka_unit_test(test_wrong_command),
        cmocka_unit_test(test_exit_statuses),  cmocka_unit_test(test_flags), cmocka_unit_test(test_wrong_flags),
        cmocka_unit_test(test_generated_help),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
