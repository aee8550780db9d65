/* `triad bench` as a person uses it: tiny rows of every kind run and print one line of JSON with all its fields; slips
 * on the command line and in a row's file say what is wrong. The program is run as a child, so that its figures of
 * memory and time are its own. */
#include <jansson.h>
#include <setjmp.h>
#include <spawn.h>
#include <stdarg.h>
#include <stddef.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <fcntl.h>
#include <cmocka.h>

#include "base/file.h"
#include "tests/support/temp_dir.h"

extern char **environ;
static struct temp_dir dir;
static char *out, *said; /* what the last run wrote to standard output and to standard error */

static void put(const char *name, const char *text)
{
    struct err e = {0};
    if (file_write(temp_path(&dir, name), text, strlen(text), &e)) fail_msg("%s", e.msg);
}

static char *get(const char *name)
{
    struct err e = {0};
    char *data;
    size_t n;
    if (file_read(temp_path(&dir, name), 1 << 20, &data, &n, &e)) fail_msg("%s", e.msg);
    return data;
}

/* Runs $TRIAD_BIN bench with the words (ended by NULL); returns the exit status. */
static int run(const char *const *words)
{
    const char *bin = getenv("TRIAD_BIN");
    assert_non_null(bin);
    char *argv[16] = {(char *)(uintptr_t)bin, "bench"};
    for (int i = 0; words[i]; i++) argv[i + 2] = (char *)(uintptr_t)words[i];
    posix_spawn_file_actions_t fa;
    posix_spawn_file_actions_init(&fa);
    posix_spawn_file_actions_addopen(&fa, 1, temp_path(&dir, "out"), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    posix_spawn_file_actions_addopen(&fa, 2, temp_path(&dir, "err"), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    pid_t pid;
    int status;
    assert_int_equal(posix_spawn(&pid, bin, &fa, NULL, argv, environ), 0);
    posix_spawn_file_actions_destroy(&fa);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    free(out);
    free(said);
    out = get("out");
    said = get("err");
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}
#define RUN(...) run((const char *const[]){__VA_ARGS__, NULL})

static void assert_says(const char *text)
{
    if (!strstr(said, text)) fail_msg("\"%s\" lacks \"%s\"", said, text);
}

static json_t *line_of(void)
{
    json_error_t why;
    json_t *j = json_loads(out, 0, &why);
    if (!j) fail_msg("%s: \"%s\"", why.text, out);
    assert_ptr_equal(strchr(out, '\n'), out + strlen(out) - 1); /* one line, and its end */
    return j;
}

static double number(const json_t *j, const char *name)
{
    json_t *x = json_object_get(j, name);
    if (!json_is_number(x)) fail_msg("no number '%s' in \"%s\"", name, out);
    return json_number_value(x);
}

static const char tiny_vit[] = "name: tiny\n"
                               "batch: 2\n"
                               "towers:\n"
                               "  image:\n"
                               "    kind: image\n"
                               "    size: 16\n"
                               "    tower:\n"
                               "      vit: {patch: 8, layers: 1, width: 32, heads: 2}\n"
                               "work:\n"
                               "  classify: {classes: 10}\n";

static void a_row_gives_every_figure(void **state)
{
    put("tiny.yaml", tiny_vit);
    if (RUN(temp_path(&dir, "tiny.yaml"), "--steps", "3", "--threads", "1")) fail_msg("%s", said);
    json_t *j = line_of();
    assert_string_equal(json_string_value(json_object_get(j, "row")), "tiny");
    assert_true(number(j, "threads") == 1 && number(j, "steps") == 3 && number(j, "samples") == 2);
    /* patch 192 x 32 + 32, places 4 x 32, a block 12 x 32^2 + 13 x 32, the last norm 64, classes 330 */
    assert_true(number(j, "parameters") == 192 * 32 + 32 + 4 * 32 + 12 * 1024 + 13 * 32 + 64 + 330);
    double median = number(j, "median"), least = number(j, "min"), gflop = number(j, "gflop");
    assert_true(least > 0 && least <= median && median < 1);
    /* The products of 8 tokens alone: forward, and twice that backward but for the patches' own input. */
    double tokens = 8, products = 2 * tokens * (2.0 * 192 * 32 + 3 * 12 * 1024) + 2 * 2 * 3 * 32.0 * 10;
    assert_true(gflop * 1e9 > products && gflop * 1e9 < 1.5 * products);
    assert_true(number(j, "gflops") > 0.9 * gflop / median && number(j, "gflops") < 1.1 * gflop / median);
    double share = number(j, "share") * number(j, "peak_gflops");
    assert_true(share > 0.8 * number(j, "gflops") && share < 1.2 * number(j, "gflops"));
    assert_true(number(j, "limit_s") > 0 && number(j, "of_limit") > 0 && number(j, "bandwidth_gb_s") > 0.1);
    assert_true(number(j, "peak_mb") > 0 && number(j, "peak_mb") < number(j, "peak_total_mb"));
    assert_true(number(j, "peak_total_mb") < 140); /* measuring the memory's speed is not the row's */
    assert_true(number(j, "first_step_s") >= 0 && number(j, "first_step_s") < 60);
    assert_true(number(j, "gbytes") > 0);
    assert_true(number(j, "cpu") > 0 && number(j, "cpu") < 1.1); /* the two clocks are read one after the other */
    assert_true(number(j, "state_mb") >= 4 * number(j, "params_mb") - 0.3);
    assert_true(number(j, "again_gflop") >= 0 && number(j, "again_gflop") < 0.1 * gflop);
    number(j, "plan_mb");
    number(j, "input_mb");
    json_decref(j);
}

static void threads_and_keys_are_taken(void **state)
{
    put("tiny.yaml", tiny_vit);
    if (RUN(temp_path(&dir, "tiny.yaml"), "batch=6", "--threads=2", "--steps=1", "--warmup=0")) fail_msg("%s", said);
    json_t *j = line_of();
    assert_true(number(j, "threads") == 2 && number(j, "samples") == 6 && number(j, "steps") == 1);
    assert_true(number(j, "min") == number(j, "median"));
    json_decref(j);
}

/* A limit makes the plan smaller at some more operations; one that nothing fits says what would do. */
static void a_limit_of_memory_is_kept(void **state)
{
    put("tiny.yaml", tiny_vit);
    const char *layers = "towers.image.tower.vit.layers=6", *size = "towers.image.size=64";
    char path[300];
    snprintf(path, sizeof path, "%s", temp_path(&dir, "tiny.yaml"));
    if (RUN(path, layers, size, "batch=16", "--steps=1", "--warmup=0")) fail_msg("%s", said);
    json_t *j = line_of();
    double plan = number(j, "plan_mb"), again = number(j, "again_gflop"),
           rest = number(j, "state_mb") + number(j, "input_mb");
    json_decref(j);
    char key[64];
    snprintf(key, sizeof key, "memory=%.0f", (rest + 0.1 + 0.6 * plan) * 1048576);
    if (RUN(path, layers, size, "batch=16", "--steps=1", "--warmup=0", key)) fail_msg("%s", said);
    j = line_of();
    assert_true(number(j, "plan_mb") < 0.6 * plan + 0.21 && number(j, "plan_mb") < 0.8 * plan);
    assert_true(number(j, "again_gflop") > again && number(j, "again_gflop") < 0.4 * number(j, "gflop"));
    json_decref(j);
    assert_int_equal(RUN(path, layers, size, "batch=16", "memory=1kB"), 7);
    assert_says("no plan fits into 1.00 kB");
    assert_int_equal(RUN(path, "memory=a lot"), 3);
    assert_says("'a lot'");
}

static void every_kind_of_work_runs(void **state)
{
    static const char *const works[] = {
        "name: pairs\nbatch: 3\n"
        "towers:\n"
        "  image: {kind: image, size: 16, tower: {resnet: {widths: [8], depths: [1]}}}\n"
        "  text: {kind: text, vocab: 300, length: 9, tower: {transformer: {layers: 1, width: 16, heads: 2}}}\n"
        "lengths: {mean: 5, deviation: 2, least: 2, most: 9}\n"
        "work: {contrastive: {embed: 8}}\n",
        "name: lm\nbatch: 2\n"
        "towers:\n"
        "  text: {kind: text, vocab: 300, length: 8, tower: {transformer: {causal: true, layers: 1, width: 16, heads: "
        "2}}}\n"
        "lengths: {mean: 8, deviation: 0, least: 8, most: 8}\n"
        "work: {lm: {}}\n",
        "name: ctc\nbatch: 2\n"
        "towers: {a: {kind: audio, max_length: 0.5s, tower: {wav2vec2: {layers: 1, width: 32, heads: 2, channels: "
        "8}}}}\n"
        "work: {ctc: {classes: 5, labels: 3}}\n",
        "name: net\nbatch: 2\n"
        "towers: {image: {kind: image, size: 32, tower: {efficientnet: {}}}}\n"
        "work: {classify: {classes: 5}}\n",
        "name: infonce\nbatch: 33\nwork: {infonce: {width: 16}}\n",
        "name: adamw\nwork: {adamw: {matrices: 2, side: 30}}\n",
        "name: logmel\nwork: {logmel: {seconds: 0.5}}\n",
    };
    for (size_t i = 0; i < sizeof works / sizeof *works; i++) {
        put("work.yaml", works[i]);
        if (RUN(temp_path(&dir, "work.yaml"), "--steps", "2", "--threads", "2")) fail_msg("%s", said);
        json_t *j = line_of();
        assert_true(number(j, "median") > 0 && number(j, "gflop") > 0);
        json_decref(j);
    }
}

static void profiles_go_to_standard_error(void **state)
{
    put("tiny.yaml", tiny_vit);
    if (RUN(temp_path(&dir, "tiny.yaml"), "--steps", "2", "--profile")) fail_msg("%s", said);
    json_t *j = line_of(), *op;
    size_t i;
    double time = 0, gflop = 0;
    json_array_foreach(json_object_get(j, "ops"), i, op) time += number(op, "time"), gflop += number(op, "gflop");
    assert_true(i > 5 && time > 0.99 && time < 1.01); /* shares of the profiled time, rounded to four places */
    assert_true(gflop > 0.999 * number(j, "gflop") && gflop < 1.001 * number(j, "gflop"));
    json_decref(j);
    assert_says("% limit");
    assert_says("\nadamw ");
    assert_says("\nmatmul ");
    assert_says("\nall ");
    if (RUN("--profile=layers", temp_path(&dir, "tiny.yaml"), "--steps", "2")) fail_msg("%s", said);
    assert_says("\nimage.block.*.mlp ");
    assert_says("\noptimizer ");
}

/* For every number of threads a line of the table, and in the JSON shares that add up. */
static void work_is_shared_out(void **state)
{
    put("tiny.yaml", tiny_vit);
    if (RUN(temp_path(&dir, "tiny.yaml"), "batch=16", "--balance", "--steps=2")) fail_msg("%s", said);
    assert_says("threads  speed-up  balance");
    json_t *j = line_of(), *all = json_object_get(j, "balance"), *line;
    size_t i;
    int threads = 0;
    json_array_foreach(all, i, line)
    {
        int t = (int)number(line, "threads");
        double work = number(line, "work_s"), span = number(line, "span_s"), balance = number(line, "balance");
        assert_true(t > threads && work > 0 && span > 0);
        assert_true(fabs(balance - work / (span * t)) < 0.001 && balance <= 1.0001);
        assert_true(number(line, "uncut") < 1 && number(line, "regions") >= 0 && number(line, "barriers") >= 0);
        double one = number(json_array_get(all, 0), "work_s");
        assert_true(fabs(number(line, "speedup") - one / span) < 0.01 * one / span);
        threads = t;
    }
    assert_true(i >= 7 && threads == 64);
    json_decref(j);
    assert_int_equal(RUN("logmel", "--balance", "--steps=1"), 2);
    assert_says("logmel: it has no plan");
    assert_int_equal(RUN("adamw", "--balance", "--profile"), 2);
    assert_says("--balance goes with a row");
    assert_int_equal(RUN("peak", "--balance"), 2);
    assert_says("--balance goes with a row");
}

static void slips_are_told(void **state)
{
    assert_int_equal(RUN("vit_s61"), 2);
    assert_says("unknown row 'vit_s61'; did you mean 'vit_s16'? There are adamw, ");
    assert_int_equal(RUN("nothing-like-it"), 2);
    assert_says("unknown row 'nothing-like-it'; there are adamw, ");
    assert_int_equal(RUN(temp_path(&dir, "missing.yaml")), 4);
    assert_says("missing.yaml");
    put("bad.yaml", "name: bad\nbatsch: 3\nwork: {lm: {}}\n");
    assert_int_equal(RUN(temp_path(&dir, "bad.yaml")), 3);
    assert_says("bad.yaml:2:1: unknown key 'batsch'; did you mean 'batch'?");
    put("bad.yaml", "name: bad\nwork: {lm: {}}\n");
    assert_int_equal(RUN(temp_path(&dir, "bad.yaml")), 3);
    assert_says("lm takes one tower, of kind text, not 0");
    put("bad.yaml", "name: bad\ntowers: {a: {kind: audio}}\nwork: {lm: {}}\n");
    assert_int_equal(RUN(temp_path(&dir, "bad.yaml")), 3);
    assert_says("lm takes one tower, of kind text, not 'a'");
    put("bad.yaml", tiny_vit);
    assert_int_equal(RUN(temp_path(&dir, "bad.yaml"), "towers.image.size=17"), 3);
    assert_says("image size 17 must be a multiple of patch 8");
    assert_int_equal(RUN(temp_path(&dir, "bad.yaml"), "debug=nopannels"), 2);
    assert_says("unknown debug word 'nopannels'");
    assert_int_equal(RUN("adamw", "--profile=ob"), 2);
    assert_says("--profile: expected ops or layers, got 'ob'");
    assert_int_equal(RUN("adamw", "--steps", "0"), 2);
    assert_says("--steps: expected from 1 to");
    assert_int_equal(RUN("peak", "batch=3"), 2);
    assert_says("one word too many: 'batch=3'");
}

static void the_machine_is_measured(void **state)
{
    if (RUN("peak", "--threads", "2")) fail_msg("%s", said);
    json_t *j = line_of();
    assert_true(number(j, "threads") == 2);
    assert_true(number(j, "gflops_1") > 1 && number(j, "gflops") > 0.5 * number(j, "gflops_1"));
    assert_true(number(j, "copy_gb_s") > 0.1 && number(j, "triad_gb_s") > 0.1 && number(j, "update_gb_s") > 0.1);
    json_decref(j);
}

static const char *text(const json_t *j, const char *name)
{
    const char *x = json_string_value(json_object_get(j, name));
    if (!x) fail_msg("no text '%s' in \"%s\"", name, out);
    return x;
}

/* The JSON of the line at *p, which goes on to the next. */
static json_t *next_line(char **p)
{
    char *end = strchr(*p, '\n');
    assert_non_null(end);
    json_t *j = json_loadb(*p, (size_t)(end - *p), 0, NULL);
    assert_non_null(j);
    *p = end + 1;
    return j;
}

/* Each line is a product; that both programs agree on its numbers is checked by the command itself, which would fail. */
static void products_are_compared(void **state)
{
    assert_int_equal(RUN("gemm", "sphere"), 2);
    assert_says("no product has 'sphere' in its name");
    if (RUN("gemm", "clip_small", "--seconds", "0", "--threads", "2")) fail_msg("%s", said);
    int lines = 0;
    for (char *p = out; *p; lines++) {
        json_t *j = next_line(&p);
        assert_true(number(j, "m") >= 1 && number(j, "gflops") > 0 && number(j, "blas_gflops") > 0);
        assert_true(number(j, "ratio") > 0 && number(j, "share") > 0);
        json_decref(j);
    }
    assert_int_equal(lines, 6); /* two layers: forward, dX, dW */
}

/* Each op of the table is found in the plan of its line, or the command fails; the share follows from the two times. */
static void ops_are_compared(void **state)
{
    assert_int_equal(RUN("ops", "sphere"), 2);
    assert_says("no op has 'sphere' in its name");
    assert_int_equal(RUN("ops", "norm", "more"), 2);
    assert_says("one word too many: 'more'");
    if (RUN("ops", "a", "--seconds", "0", "--threads", "2")) fail_msg("%s", said); /* most names have an a */
    int lines = 0;
    for (char *p = out; *p; lines++) {
        json_t *j = next_line(&p);
        assert_true(*text(j, "name") && *text(j, "kernel"));
        double streams = number(j, "read") + number(j, "written"), rate = number(j, "gb_s");
        assert_true(streams >= 1 && rate > 0 && number(j, "rounds") == 1 && number(j, "threads") == 2);
        /* One round: quotients of the same numbers, of which four digits are printed; two are multiplied. */
        assert_true(fabs(rate * number(j, "ns") - 4 * streams) <= 2e-3 * 4 * streams);
        assert_true(fabs(number(j, "share") * number(j, "memory_gb_s") - rate) <= 2e-3 * rate);
        json_decref(j);
    }
    assert_true(lines >= 25);
}

/* A class of products: the rate of each who takes part, of whom one is the fastest and one of triad's is chosen. */
static void assert_class(const json_t *j)
{
    static const char *const names[] = {"direct", "thin", "narrow", "xsmm_rows", "packed", "lanes", "blas", "xsmm"};
    enum { OURS = 7, ALL = 8 }; /* blas is triad's where it has no vectors of its own */
    double best = 0, rate_chosen = 0, rate_fastest = 0;
    const char *fastest = text(j, "fastest"), *chosen = text(j, "chosen");
    int takes = 0;
    for (int i = 0; i < ALL; i++) {
        char field[32];
        snprintf(field, sizeof field, "%s_gflops", names[i]);
        if (!json_object_get(j, field)) continue;
        double rate = number(j, field);
        assert_true(rate > 0);
        if (rate > best) best = rate;
        if (!strcmp(names[i], fastest)) rate_fastest = rate;
        if (!strcmp(names[i], chosen) && i < OURS) rate_chosen = rate;
        takes++;
    }
    assert_true(takes >= 1 && json_object_get(j, "blas_gflops"));
    assert_true(rate_chosen > 0 && rate_fastest == best);
    double behind = number(j, "behind");
    assert_true(behind >= 0 && (takes == 1 || number(j, "ahead") >= 0));
    assert_true(json_is_true(json_object_get(j, "slow")) ? behind > 0.0499 : behind < 0.0501);
    assert_true(!strcmp(text(j, "a_by"), "row") || !strcmp(text(j, "a_by"), "column"));
    assert_true(!strcmp(text(j, "b_by"), "row") || !strcmp(text(j, "b_by"), "column"));
    assert_true(number(j, "m") >= 1 && number(j, "n") >= 1 && number(j, "k") >= 1);
    text(j, "isa");
}

static void back_ends_are_compared(void **state)
{
    assert_int_equal(RUN("gemm", "--table", "sphere"), 2);
    assert_says("no class of products has 'sphere' in its name; there are cube, few rows");
    assert_int_equal(RUN("vit_s16", "--table"), 2);
    assert_says("--table goes with gemm, not with 'vit_s16'");
    assert_int_equal(RUN("gemm", "--tabel"), 2);
    assert_says("did you mean '--table'?");
    int lines = 0;
    const char *const parts[] = {"few columns", "few rows", "cube A' B'"};
    for (int i = 0; i < 3; i++) {
        if (RUN("gemm", parts[i], "--table", "--seconds", "0")) fail_msg("%s", said);
        for (char *p = out; *p; lines++) {
            json_t *j = next_line(&p);
            assert_true(!strncmp(text(j, "name"), parts[i], strlen(parts[i])));
            assert_class(j);
            json_decref(j);
        }
    }
    assert_true(lines > 40);
}

int main(void)
{
    temp_dir_begin(&dir);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_row_gives_every_figure),
        cmocka_unit_test(threads_and_keys_are_taken),
        cmocka_unit_test(a_limit_of_memory_is_kept),
        cmocka_unit_test(every_kind_of_work_runs),
        cmocka_unit_test(profiles_go_to_standard_error),
        cmocka_unit_test(slips_are_told),
        cmocka_unit_test(work_is_shared_out),
        cmocka_unit_test(the_machine_is_measured),
        cmocka_unit_test(ops_are_compared),
        cmocka_unit_test(products_are_compared),
        cmocka_unit_test(back_ends_are_compared),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(out);
    free(said);
    temp_dir_end(&dir);
    return failed;
}
