/* base/text: suggestions, units, UTF-8 over every code point. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

static void suggestions(void **state)
{
    static const char *const names[] = {"lr", "betas", "weight_decay", "learning_rate", "clip", "optim.adamw.lr"};
    static const char *const rows[][2] = {{"lrr", "lr"},
                                          {"beats", "betas"},
                                          {"lerning_rate", "learning_rate"},
                                          {"CLIP", "clip"},
                                          {"weigth_decy", "weight_decay"},
                                          {"optim.adamw.lrr", "optim.adamw.lr"},
                                          {"momentum", NULL},
                                          {"", NULL},
                                          {"x", NULL},
                                          {"learningrate", "learning_rate"},
                                          {"be", NULL}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *got = text_nearest(rows[i][0], names, 6);
        if (rows[i][1])
            assert_string_equal(got, rows[i][1]);
        else
            assert_null(got);
    }
    char huge[5000];
    memset(huge, 'a', sizeof huge - 1);
    huge[sizeof huge - 1] = 0;
    assert_null(text_nearest(huge, names, 6));
    const char *const only[] = {huge};
    assert_null(text_nearest("aaa", only, 1));
    assert_null(text_nearest("aaa", NULL, 0));
}

static void durations(void **state)
{
    static const struct {
        const char *s;
        double want;
    } good[] = {{"25ms", 0.025}, {"4m", 240},  {"1.5h", 5400}, {"30s", 30},    {"2d", 172800},
                {"12", 12},      {".5s", 0.5}, {"3min", 180},  {"10us", 1e-5}, {"1e2s", 100}};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        double v = -1;
        struct err e = {0};
        assert_int_equal(text_duration(good[i].s, &v, &e), 0);
        assert_true(fabs(v - good[i].want) <= 1e-15 * good[i].want); /* one rounding */
    }
    static const char *const bad[] = {"",    "ms",   "4 m", "-1s",   "+1s",    "nan",
                                      "inf", "0x10", "4x",  "1..2s", "1e999h", "4m "};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        double v;
        struct err e = {0};
        assert_int_equal(text_duration(bad[i], &v, &e), ERR_FORMAT);
        assert_non_null(strstr(e.msg, bad[i]));
        assert_non_null(strstr(e.msg, "25ms"));
    }
}

static void bytes(void **state)
{
    static const struct {
        const char *s;
        int64_t want;
    } good[] = {{"2GB", 2000000000},
                {"512MiB", 536870912},
                {"64k", 64000},
                {"64Ki", 65536},
                {"7", 7},
                {"7B", 7},
                {"1.5kB", 1500},
                {"9223372036854775807", INT64_MAX},
                {"1TiB", (int64_t)1 << 40},
                {"0", 0}};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        int64_t v = -1;
        struct err e = {0};
        assert_int_equal(text_bytes(good[i].s, &v, &e), 0);
        assert_true(v == good[i].want);
    }
    static const char *const bad[] = {"",           "B",     "-1", "2 GB", "2gb", "9223372036854775808",
                                      "10000000TB", "1e30k", "iB", "5i"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int64_t v;
        struct err e = {0};
        assert_int_equal(text_bytes(bad[i], &v, &e), ERR_FORMAT);
        assert_non_null(strstr(e.msg, "512MiB"));
    }
}

static void figures_for_people(void **state)
{
    char s[48];
    assert_string_equal(text_count(s, sizeof s, 1482113), "1,482,113");
    assert_string_equal(text_count(s, sizeof s, 0), "0");
    assert_string_equal(text_count(s, sizeof s, -1000), "-1,000");
    assert_string_equal(text_count(s, sizeof s, 999), "999");
    assert_string_equal(text_count(s, sizeof s, INT64_MIN), "-9,223,372,036,854,775,808");
    assert_string_equal(text_size(s, sizeof s, 412.4e6), "412 MB");
    assert_string_equal(text_size(s, sizeof s, 4.123e6), "4.12 MB");
    assert_string_equal(text_size(s, sizeof s, 999999), "1.00 MB");
    assert_string_equal(text_size(s, sizeof s, 12), "12 B");
    assert_string_equal(text_clock(s, sizeof s, 124), "2:04");
    assert_string_equal(text_clock(s, sizeof s, 3724), "1:02:04");
    assert_string_equal(text_clock(s, sizeof s, 59.6), "1:00");
    assert_string_equal(text_clock(s, sizeof s, NAN), "-:--");
    assert_string_equal(text_clock(s, 3, 124), "2:");
}

static void utf8_round_trip(void **state)
{
    for (uint32_t c = 0; c <= 0x10ffff; c++) {
        char s[4];
        uint32_t back = 0;
        int n = utf8_put(c, s);
        bool surrogate = c >= 0xd800 && c < 0xe000;
        if (utf8_next(s, s + n, &back) != (surrogate ? 0 : n) || (!surrogate && back != c)) fail_msg("U+%04X", c);
        if (n > 1 && utf8_next(s, s + n - 1, NULL) != 0) fail_msg("U+%04X cut short", c);
    }
    /* A decoder's length must be a function of the bytes alone: what is accepted is what utf8_put writes. */
    uint32_t accepted = 0;
    for (uint32_t v = 0; v < 1u << 24; v++) {
        char s[3] = {(char)(v >> 16), (char)(v >> 8), (char)v}, again[4];
        uint32_t c;
        if ((v >> 16) < 0xe0 || utf8_next(s, s + 3, &c) != 3) continue;
        if (utf8_put(c, again) != 3 || memcmp(s, again, 3) != 0) fail_msg("%06x", v);
        accepted++;
    }
    assert_int_equal(accepted, 0x10000 - 0x800 - 0x800); /* U+0800..U+FFFF without surrogates */
}

static void utf8_wrong_bytes(void **state)
{
    static const struct {
        const char *s;
        size_t bad_at;
    } rows[] = {{"\xc0\x80", 0},
                {"ab\xc1\xbf", 2},
                {"\xe0\x9f\xbf", 0},
                {"\xf0\x8f\xbf\xbf", 0},
                {"\xf4\x90\x80\x80", 0},
                {"\xf5\x80\x80\x80", 0},
                {"x\x80", 1},
                {"\xe2\x82", 0},
                {"\xed\xa0\x80", 0},
                {"\xff", 0}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        size_t at = 99;
        assert_false(utf8_valid(rows[i].s, strlen(rows[i].s), &at));
        assert_int_equal(at, rows[i].bad_at);
    }
    assert_true(utf8_valid("a\0b\xc3\xa9", 5, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(suggestions),        cmocka_unit_test(durations),       cmocka_unit_test(bytes),
        cmocka_unit_test(figures_for_people), cmocka_unit_test(utf8_round_trip), cmocka_unit_test(utf8_wrong_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
