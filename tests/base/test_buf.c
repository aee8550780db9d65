/* base/buf: growth, escaping, base64 (RFC 4648 vectors). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>
#include <string.h>

#include "base/buf.h"

static void grows_and_stays_terminated(void **state)
{
    struct buf b = {0};
    buf_str(&b, "");
    assert_string_equal(b.data, "");
    for (int i = 0; i < 3000; i++) buf_printf(&b, "%04d", i);
    assert_int_equal(b.len, 12000);
    assert_int_equal(strlen(b.data), 12000);
    assert_memory_equal(b.data + 4 * 2718, "2718", 4);
    buf_add(&b, "a\0b", 3);
    assert_memory_equal(b.data + 12000, "a\0b", 4);
    buf_free(&b);
    assert_null(b.data);
    buf_str(&b, "again");
    assert_string_equal(b.data, "again");
    buf_free(&b);
}

static void html_is_escaped(void **state)
{
    struct buf b = {0};
    buf_html(&b, "<a href='x' b=\"y\">&\xf0\x9f\x98\x80 \xff\xc3</a>");
    assert_string_equal(b.data,
                        "&lt;a href=&#39;x&#39; b=&quot;y&quot;&gt;&amp;\xf0\x9f\x98\x80 \xef\xbf\xbd\xef\xbf\xbd"
                        "&lt;/a&gt;");
    buf_free(&b);
}

static void json_reads_back(void **state)
{
    struct buf b = {0};
    buf_json(&b, "tab\t quote\" back\\ nl\n\x01\x7f \xe2\x82\xac \xed\xa0\x80");
    assert_non_null(strstr(b.data, "\\t quote\\\" back\\\\ nl\\n\\u0001"));
    json_t *j = json_loads(b.data, JSON_DECODE_ANY, NULL);
    assert_non_null(j);
    /* the lone surrogate is three wrong bytes */
    assert_string_equal(json_string_value(j),
                        "tab\t quote\" back\\ nl\n\x01\x7f \xe2\x82\xac \xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
    json_decref(j);
    buf_free(&b);
}

static void base64_vectors(void **state)
{
    static const char *const rows[][2] = {{"", ""},
                                          {"f", "Zg=="},
                                          {"fo", "Zm8="},
                                          {"foo", "Zm9v"},
                                          {"foob", "Zm9vYg=="},
                                          {"fooba", "Zm9vYmE="},
                                          {"foobar", "Zm9vYmFy"}};
    for (int i = 0; i < 7; i++) {
        struct buf b = {0};
        buf_base64(&b, rows[i][0], strlen(rows[i][0]));
        assert_string_equal(b.data, rows[i][1]);
        assert_int_equal(b.len, strlen(rows[i][1]));
        buf_free(&b);
    }
    struct buf b = {0};
    buf_base64(&b, "\xfb\xff\xbf", 3);
    assert_string_equal(b.data, "+/+/");
    buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grows_and_stays_terminated),
        cmocka_unit_test(html_is_escaped),
        cmocka_unit_test(json_reads_back),
        cmocka_unit_test(base64_vectors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
