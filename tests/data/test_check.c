/* triad data check: each kind of bad file and text is found, with its line; sound ones are not. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/log.h"
#include "data/audio.h"
#include "data/check.h"
#include "data/image.h"
#include "data/pack.h"

static char dir[64];

static void put(const char *name, const void *data, size_t n)
{
    struct err e = {0};
    char *path = file_join(dir, name);
    assert_int_equal(file_write(path, data, n, &e), 0);
    free(path);
}

static void put_image(const char *name, int64_t w, int64_t h, uint8_t shade, size_t cut)
{
    struct err e = {0};
    struct buf b = {0};
    struct data_image im = {.h = h, .w = w, .px = malloc((size_t)(w * h * 3))};
    memset(im.px, shade, (size_t)(w * h * 3));
    assert_int_equal(data_image_png(&im, &b, &e), 0);
    put(name, b.data, cut ? cut : b.len);
    data_image_free(&im);
    buf_free(&b);
}

static void put_sound(const char *name, int64_t n, float loud, size_t cut)
{
    struct err e = {0};
    struct buf b = {0};
    float *x = malloc((size_t)(n + 1) * sizeof *x);
    for (int64_t i = 0; i < n; i++) x[i] = loud * sinf((float)i * 0.1f);
    assert_int_equal(data_audio_wav(x, n, 16000, &b, &e), 0);
    put(name, b.data, cut ? cut : b.len);
    free(x);
    buf_free(&b);
}

static int setup(void **state)
{
    log_quiet(true);
    snprintf(dir, sizeof dir, "/tmp/triad-check-XXXXXX");
    assert_non_null(mkdtemp(dir));
    put_image("good.png", 8, 8, 100, 0);
    put_image("twin.png", 8, 8, 100, 0);
    put_image("dot.png", 1, 1, 0, 0);
    put_image("long.png", 20000, 1, 0, 0);
    put_image("thin.png", 102, 2, 0, 0);
    put_image("cut.png", 64, 64, 7, 60);
    put("text.png", "not a picture", 13);
    put("empty.png", "", 0);
    put_sound("good.wav", 1600, 0.5f, 0);
    put_sound("none.wav", 0, 0, 0);
    put_sound("one.wav", 1, 0.5f, 0);
    put_sound("silent.wav", 1600, 0, 0);
    put_sound("cut.wav", 1600, 0.5f, 1000);
    put("noise.ogg", "OggS but no more", 16);
    return 0;
}

static int teardown(void **state)
{
    struct err e = {0};
    return file_remove_tree(dir, &e);
}

static int64_t check(const char *text, char **report, struct err *e)
{
    size_t n;
    put("m.jsonl", text, strlen(text));
    char *path = file_join(dir, "m.jsonl");
    FILE *out = open_memstream(report, &n);
    int64_t bad = data_check(path, out, e);
    fclose(out);
    free(path);
    return bad;
}

static const struct {
    const char *line;
    bool odd;
    const char *says; /* NULL: nothing is said */
} rows[] = {
    {"{\"image\": \"good.png\", \"text\": \"a\", \"audio\": \"good.wav\"}", false, NULL},
    {"{\"sketch\": \"good.png\", \"sound\": \"good.wav\", \"caption\": \"\"}", false, NULL},
    {"{\"image\": \"gone.png\"}", false, "gone.png: "},
    {"{\"image\": \"dot.png\"}", true, "dot.png: a picture of 1x1 pixels"},
    {"{\"image\": \"long.png\"}", true, "long.png: a picture of 20000x1 pixels: no side should exceed 16384"},
    {"{\"image\": \"thin.png\"}", true, "thin.png: a picture of 102x2 pixels: one side is 51 times the other"},
    {"{\"image\": \"cut.png\"}", false, "cut.png: "},
    {"{\"image\": \"text.png\"}", false, "text.png: "},
    {"{\"image\": \"empty.png\"}", false, "empty.png: an empty file (0 bytes)"},
    {"{\"image\": \"good.wav\"}", false, "good.wav: "},
    {"{\"audio\": \"none.wav\"}", true, "none.wav: sound without a single sample"},
    {"{\"audio\": \"one.wav\"}", true, "one.wav: sound of only 1 sample (less than 10 ms)"},
    {"{\"audio\": \"silent.wav\"}", true, "silent.wav: silence"},
    {"{\"audio\": \"cut.wav\"}", false, "cut.wav: "},
    {"{\"audio\": \"noise.ogg\"}", false, "noise.ogg: "},
    {"{\"audio\": \"good.png\"}", false, "good.png: "},
    {"{\"text\": \"\"}", true, "holds nothing: it is empty"},
    {"{\"text\": [\"fine\", \" \\t\"]}", true, "text 2 of item '1' holds nothing but blanks"},
    {"{\"text\": \"bell \\u0007\"}", true, "holds a control character"},
    {"{\"text\": \"caf\\ufffd\"}", true, "holds U+FFFD"},
    {"{\"text\": 3}", false, "\"text\" should hold strings"},
    {"{\"text\": \"a\xff\"}", false, "invalid UTF-8"},
    {"{\"text\": ", false, "wrong JSON"},
    {"{\"text\": [\"a\", \"b\", \"a\"]}", true, "texts 1 and 3 of item '1' are the same: 'a'"},
};

static void test_rows(void **state)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char *report;
        struct err e = {0};
        int64_t bad = check(rows[i].line, &report, &e), want = rows[i].says && !rows[i].odd;
        if (bad != want || (rows[i].says && !strstr(report, rows[i].says)) ||
            (!rows[i].says && !strstr(report, ": 0 bad, 0 odd\n")))
            fail_msg("row %zu: %d bad, expected %d\n%s\n%s", i, (int)bad, (int)want, report, e.msg);
        if (rows[i].says && !strstr(report, rows[i].odd ? "m.jsonl:1: odd: " : "m.jsonl:1: bad: "))
            fail_msg("row %zu: %s", i, report);
        free(report);
    }
}

static void test_report(void **state)
{
    char *report;
    struct err e = {0};
    const char *text = "{\"id\": \"x\", \"image\": \"good.png\"}\n{\"image\": [\"dot.png\", \"gone.png\"]}\n{oops\n"
                       "{\"image\": \"twin.png\"}\n{\"image\": \"good.png\"}\n";
    assert_int_equal(check(text, &report, &e), 2);
    char *copy = strdup(report), *line[8], *rest = copy;
    int n = 0;
    while (n < 8 && (line[n] = strsep(&rest, "\n")) != NULL && *line[n]) n++;
    assert_int_equal(n, 6);
    assert_non_null(strstr(line[0], "m.jsonl:2: odd: dot.png: a picture of 1x1"));
    assert_non_null(strstr(line[1], "m.jsonl:2: bad: gone.png: "));
    assert_non_null(strstr(line[2], "m.jsonl:3: bad: 2: wrong JSON") ? line[2] : strstr(line[2], "m.jsonl:3: bad: "));
    assert_non_null(
        strstr(line[3], "m.jsonl:4: odd: twin.png: the same bytes as the file of item 'x' (line 1): good.png"));
    assert_non_null(strstr(line[4], "m.jsonl:5: odd: good.png: "));
    assert_non_null(strstr(line[5], "m.jsonl: 4 items, 5 files, 0 texts: 2 bad, 3 odd"));
    free(copy);
    free(report);
    assert_int_equal(check("", &report, &e), ERR_FORMAT);
    free(report);
    err_clear(&e);
    FILE *sink = fopen("/dev/null", "w");
    assert_int_equal(data_check("/nowhere/m.jsonl", sink, &e), ERR_IO);
    fclose(sink);
}

static void test_pack(void **state)
{
    struct err e = {0};
    const char *text = "{\"image\": \"good.png\"}\n{\"image\": \"dot.png\"}\n";
    put("m.jsonl", text, strlen(text));
    char *m = file_join(dir, "m.jsonl"), *out = file_join(dir, "m.h5"), *report;
    size_t n;
    assert_int_equal(data_pack(m, out, &e), 0);
    FILE *f = open_memstream(&report, &n);
    assert_int_equal(data_check(out, f, &e), 0);
    fclose(f);
    assert_non_null(strstr(report, "m.h5:2: odd: dot.png: a picture of 1x1 pixels"));
    free(report);
    free(m);
    free(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows), cmocka_unit_test(test_report),
                                       cmocka_unit_test(test_pack)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
