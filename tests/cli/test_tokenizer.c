/* `triad tokenizer` as a person uses it: train from a manifest and from lines, encode, and slips on the command line.
 * The command is called as a function, since the program's main is not in the library. */
#include "cli/args.c"
#include "cli/tokenizer.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/file.h"

static char dir[64], out[1 << 16]; /* what the last run wrote to standard output and standard error */

static char *path(const char *name)
{
    static char p[8][128];
    static int turn;
    turn = (turn + 1) % 8;
    snprintf(p[turn], sizeof p[turn], "%s/%s", dir, name);
    return p[turn];
}

static void put(const char *name, const char *text)
{
    struct err e = {0};
    if (file_write(path(name), text, strlen(text), &e)) fail_msg("%s", e.msg);
}

/* Runs the command on the arguments (ended by NULL) with `input` as standard input; returns the exit status. */
static int run(const char *input, const char *const *words)
{
    char *argv[16] = {"tokenizer"};
    int argc = 1, saved[3];
    for (; words[argc - 1]; argc++) argv[argc] = (char *)(uintptr_t)words[argc - 1];
    put("in", input);
    fflush(stdout);
    for (int fd = 0; fd < 3; fd++) saved[fd] = dup(fd);
    FILE *streams[3] = {freopen(path("in"), "r", stdin), freopen(path("out"), "w", stdout),
                        freopen(path("out"), "a", stderr)};
    int status = streams[0] && streams[1] && streams[2] ? cli_tokenizer(argc, argv) : -1;
    fflush(stdout);
    fflush(stderr);
    for (int fd = 0; fd < 3; fd++) {
        dup2(saved[fd], fd);
        close(saved[fd]);
    }
    struct err e = {0};
    char *data;
    size_t n;
    if (file_read(path("out"), sizeof out - 1, &data, &n, &e)) fail_msg("%s", e.msg);
    memcpy(out, data, n + 1);
    free(data);
    return status;
}
#define RUN(input, ...) run(input, (const char *const[]){__VA_ARGS__, NULL})

static void assert_says(const char *text)
{
    if (!strstr(out, text)) fail_msg("\"%s\" lacks \"%s\"", out, text);
}

static void train_and_encode(void **state)
{
    put("m.jsonl", "{\"id\": \"1\", \"text\": [\"a red cat\", \"a red dog\"]}\n"
                   "{\"id\": \"2\", \"text\": \"a red fox\", \"note\": \"blue blue blue\"}\n"
                   "{\"id\": \"3\", \"split\": \"test\", \"text\": \"green green green\", \"other\": \"pink pink\"}\n");
    put("m.txt", "a red cat\na red dog\r\n\na red fox\n");
    assert_int_equal(RUN("", "train", "--data", path("m.jsonl"), "-o", path("m.json"), "--vocab=300"), 0);
    assert_says("tokens from 3 texts");
    assert_int_equal(RUN("", "train", "--data", path("m.txt"), "-o", path("l.json"), "--vocab", "300"), 0);
    struct err e = {0};
    char *a, *b;
    size_t na, nb;
    assert_int_equal(file_read(path("m.json"), 1 << 20, &a, &na, &e), 0);
    assert_int_equal(file_read(path("l.json"), 1 << 20, &b, &nb, &e), 0);
    assert_string_equal(a, b);
    free(a);
    free(b);
    assert_int_equal(RUN("", "encode", path("l.json"), "a red"), 0);
    assert_says("      1  <s>\n");
    assert_says("\xc4\xa0red\n");
    assert_says("      2  </s>\n");
    assert_int_equal(RUN("a\n\nb", "encode", path("l.json"), "--lines"), 0);
    assert_string_equal(out, "[1,67,2]\n[1,2]\n[1,68,2]\n");
    assert_int_equal(RUN("", "train", "--data", path("m.jsonl"), "--split", "test", "-o", path("m.json")), 0);
    assert_int_equal(RUN("", "encode", path("m.json"), "green"), 0);
    assert_says("green\n");
}

static void long_line(void **state)
{
    put("m.txt", "ab\n");
    assert_int_equal(RUN("", "train", "--data", path("m.txt"), "-o", path("t.json")), 0);
    char *text = mem_alloc(3001);
    memset(text, 'a', 3000);
    text[3000] = 0;
    assert_int_equal(RUN(text, "encode", path("t.json"), "--lines"), 0);
    int commas = 0;
    for (const char *s = out; *s; s++) commas += *s == ',';
    assert_int_equal(commas, 3001); /* <s>, 3,000 times "a", </s>: nothing is cut */
    free(text);
}

static void slips(void **state)
{
    assert_int_equal(RUN("", "--help"), 0);
    assert_says("usage: triad tokenizer train");
    assert_int_equal(RUN("", "train", "--help"), 0);
    assert_says("--min-count");
    assert_int_equal(RUN("", "trian"), 2);
    assert_says("did you mean 'train'?");
    assert_int_equal(RUN("", "train", "--vocabb", "9"), 2);
    assert_says("unknown option '--vocabb'; did you mean '--vocab'?");
    assert_int_equal(RUN("", "train", "--vocab", "many"), 2);
    assert_says("--vocab: expected a whole number, got 'many'");
    assert_int_equal(RUN("", "train", "--data"), 2);
    assert_says("--data needs a value (FILE)");
    assert_int_equal(RUN("", "train"), 2);
    assert_says("needs --data FILE and -o FILE");
    assert_int_equal(RUN("", "encode", "x"), 2);
    assert_int_equal(RUN("", "encode", "x", "y", "z"), 2);
    assert_says("one word too many: 'z'");
    assert_int_equal(RUN("", "encode", "/nonexistent.json", "y"), 4);
    assert_says("/nonexistent.json");
    assert_int_equal(RUN("", "train", "--data", "/nonexistent.txt", "-o", path("x")), 4);
    put("m.txt", "\n\n");
    assert_int_equal(RUN("", "train", "--data", path("m.txt"), "-o", path("x")), 5);
    assert_says("there is no text in it");
    put("m.txt", "some text\n");
    assert_int_equal(RUN("", "train", "--data", path("m.txt"), "-o", path("x"), "--vocab", "9"), 3);
    assert_says("at least 259");
    put("m.jsonl", "{\"id\": \"1\", \"text\": \"a red cat\"}\n");
    assert_int_equal(RUN("", "train", "--data", path("m.jsonl"), "-o", path("x"), "--field", "caption"), 5);
    assert_says("no item of split 'train' has a text under 'caption'");
    assert_int_equal(RUN("", "train", "--data", path("m.jsonl"), "-o", path("x"), "--split", "tset"), 3);
    assert_int_equal(RUN("", "train", "--data", path("m.txt"), "-o", "/nonexistent/x.json"), 4);
    assert_false(file_exists(path("x")));
}

static int begin(void **state)
{
    snprintf(dir, sizeof dir, "/tmp/triad-test-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int end(void **state)
{
    return file_remove_tree(dir, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(train_and_encode, begin, end),
        cmocka_unit_test_setup_teardown(long_line, begin, end),
        cmocka_unit_test_setup_teardown(slips, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
