/* `triad explain` as a person uses it: of a run with its data and without, of a row of the bench, with a limit, as text and
 * as a page; and what it says to slips. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include "tests/support/toy.h"

static struct temp_dir dir;
static char *out, *said;

static int begin(void **state)
{
    temp_dir_begin(&dir);
    toy_make(&dir);
    return 0;
}

static int end(void **state)
{
    free(out);
    free(said);
    temp_dir_end(&dir);
    return 0;
}

#define RUN(...) \
    (free(out), free(said), toy_triad(&dir, &out, &said, (const char *const[]){"explain", __VA_ARGS__, NULL}))

static void has(const char *text, const char *part)
{
    if (!strstr(text, part)) fail_msg("\"%s\" lacks \"%s\"", text, part);
}

/* "activations  12.3 MB" -> bytes: a line that begins with two blanks and the word. */
static double size_of(const char *what)
{
    char line[64], size[32];
    double v;
    int64_t bytes;
    snprintf(line, sizeof line, "\n  %s ", what);
    const char *at = strstr(out, line);
    if (!at || sscanf(at + strlen(line), " %lf %15s", &v, size) != 2) {
        fail_msg("\"%s\" lacks a size of \"%s\"", out, what);
        return 0;
    }
    char text[64], *end;
    snprintf(text, sizeof text, "%g%s", v, size);
    end = strchr(text, ',');
    if (end) *end = 0;
    assert_int_equal(text_bytes(text, &bytes, NULL), 0);
    return (double)bytes;
}

static const char *copy_of(const char *name)
{
    return temp_path(&dir, name);
}

static void a_run_is_explained(void **state)
{
    if (RUN(copy_of("config.yaml"), "--html", copy_of("page.html"), "--depth", "2")) fail_msg("%s", said);
    has(out, "the first batch");
    double all = size_of("parameters") + size_of("gradients") + size_of("optimizer") + size_of("batches") +
                 size_of("program") + size_of("activations");
    double v = 0;
    char unit[8];
    const char *at = strstr(out, "memory of a step");
    assert_int_equal(sscanf(at, "memory of a step %lf %7s", &v, unit), 2);
    assert_string_equal(unit, "MB");
    assert_true(fabs(all - v * 1e6) < 0.02 * all); /* each is printed to three digits */
    has(out, "at the peak, call ");
    has(out, "text.block");
    has(out, "layer ");
    has(out, "fused ");
    assert_null(strstr(out, "nan"));
    char *page;
    size_t len;
    struct err e = {0};
    if (file_read(copy_of("page.html"), 1 << 24, &page, &len, &e)) fail_msg("%s", e.msg);
    has(page, "<svg");
    has(page, "gradients begin");
    has(page, "The largest tensors at the peak");
    has(page, "</html>");
    assert_null(strstr(page, "nan"));
    assert_null(strstr(page, "http:/"
                             "/fonts"));
    free(page);
}

/* The plan is the one that the run would make: in 16 bits too. */
static void the_precision_is_the_run_s(void **state)
{
    if (RUN(copy_of("config.yaml"))) fail_msg("%s", said);
    double wide = size_of("activations");
    assert_null(strstr(out, " bf16 ("));
    if (RUN(copy_of("config.yaml"), "train.precision=bf16")) fail_msg("%s", said);
    has(out, " bf16 (");
    assert_true(size_of("activations") < wide);
    double parameters = size_of("parameters"), gradients = size_of("gradients");
    if (RUN(copy_of("config.yaml"), "optim.weights=bf16")) fail_msg("%s", said);
    assert_true(size_of("parameters") < parameters); /* its table of tokens */
    assert_true(size_of("gradients") < gradients);
}

/* What lies in the arena is a micro-batch of one tower; times of a whole step cannot be had of that. */
static void of_a_batch_in_parts_the_largest_is_shown(void **state)
{
    if (RUN(copy_of("config.yaml"))) fail_msg("%s", said);
    double whole = size_of("activations");
    assert_null(strstr(out, "  embeddings "));
    if (RUN(copy_of("config.yaml"), "train.micro_batch=2")) fail_msg("%s", said);
    has(out, "in micro-batches of 2, whose plans take turns: below is ");
    assert_true(size_of("activations") < 0.6 * whole);
    assert_true(size_of("embeddings") > 0);
    assert_int_equal(RUN(copy_of("config.yaml"), "train.micro_batch=2", "--profile"), 2);
    has(said, "set train.micro_batch=0");
    if (RUN(copy_of("config.yaml"), "train.micro_batch=1000000")) fail_msg("%s", said); /* one part: as without */
    assert_true(size_of("activations") == whole);
}

static void times_are_measured_where_asked(void **state)
{
    if (RUN(copy_of("config.yaml"), "--profile")) fail_msg("%s", said);
    has(out, "; measured ");
    has(out, "        ms");
}

/* Without the data the config's own bounds stand for the batch: the plan is at least as large. */
static void a_run_without_its_data_is_explained(void **state)
{
    if (RUN(copy_of("config.yaml"))) fail_msg("%s", said);
    double with = size_of("activations");
    if (RUN(copy_of("config.yaml"), "data.manifest=not-there.jsonl")) fail_msg("%s", said);
    has(out, "no data: the largest batch");
    assert_true(size_of("activations") >= 0.99 * with);
    assert_int_equal(RUN(copy_of("config.yaml"), "data.manifest=not-there.jsonl", "--profile"), 4);
    has(said, "not-there.jsonl");
}

static void a_limit_is_kept_and_shown(void **state)
{
    if (RUN(copy_of("config.yaml"))) fail_msg("%s", said);
    double whole = size_of("activations");
    has(out, "computed again ");
    assert_int_equal(RUN(copy_of("config.yaml"), "train.memory=1MB"), 7);
    has(said, "train.memory");
    char *at = strstr(said, "together ");
    assert_non_null(at);
    double least = strtod(at + strlen("together "), &at);
    assert_memory_equal(at, " MB", 3);
    char key[64];
    snprintf(key, sizeof key, "train.memory=%gMB", least);
    if (RUN(copy_of("config.yaml"), key)) fail_msg("%s", said);
    has(out, "it may take");
    has(out, "if nothing were computed again for the limit");
    assert_true(size_of("activations") < 0.8 * whole);
}

static void a_row_of_the_bench_is_explained(void **state)
{
    static const char row[] =
        "name: small\nbatch: 4\n"
        "towers:\n  image: {kind: image, size: 32, tower: {vit: {patch: 8, layers: 4, width: 32}}}\n"
        "work:\n  classify: {classes: 10}\n";
    struct err e = {0};
    assert_int_equal(file_write(copy_of("row.yaml"), row, strlen(row), &e), 0);
    if (RUN(copy_of("row.yaml"))) fail_msg("%s", said);
    has(out, "a row of the bench, batch 4");
    has(out, "image.block.3");
    double whole = size_of("activations"),
           rest = size_of("parameters") + size_of("gradients") + size_of("optimizer") + size_of("inputs");
    char key[64];
    snprintf(key, sizeof key, "memory=%.0f", rest * 1.02 + 0.6 * whole);
    if (RUN(copy_of("row.yaml"), key)) fail_msg("%s", said);
    assert_true(size_of("activations") <= 0.7 * whole);
    has(out, "of the ");
    double gradients = size_of("gradients");
    if (RUN(copy_of("row.yaml"), "in_backward=true", "--profile")) fail_msg("%s", said);
    assert_null(strstr(out, "  gradients  "));
    assert_true(size_of("activations") < whole + gradients);
    has(out, "optimizer");
}

static void slips_are_told(void **state)
{
    assert_int_equal(RUN(copy_of("config.yaml"), "--htlm", "x"), 2);
    has(said, "did you mean '--html'?");
    assert_int_equal(RUN("clip_smal"), 2);
    has(said, "clip_smal");
    assert_int_equal(RUN(copy_of("config.yaml"), "train.memori=1GB"), 3);
    has(said, "did you mean 'train.memory'?");
    assert_int_equal(RUN(copy_of("config.yaml"), "train.memory=some"), 3);
    has(said, "'some'");
    assert_int_equal(RUN(copy_of("none.yaml")), 4);
    has(said, "none.yaml");
    assert_int_equal(RUN(copy_of("config.yaml"), "--html", copy_of("no/such/folder.html")), 4);
    assert_int_equal(RUN("--help"), 0);
    has(out, "usage: triad explain CONFIG");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_is_explained),
        cmocka_unit_test(the_precision_is_the_run_s),
        cmocka_unit_test(of_a_batch_in_parts_the_largest_is_shown),
        cmocka_unit_test(times_are_measured_where_asked),
        cmocka_unit_test(a_run_without_its_data_is_explained),
        cmocka_unit_test(a_limit_is_kept_and_shown),
        cmocka_unit_test(a_row_of_the_bench_is_explained),
        cmocka_unit_test(slips_are_told),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
