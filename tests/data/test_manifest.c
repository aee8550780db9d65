/* Manifests: what is accepted, what is refused and with which place in the file, and which entries a split uses. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"
#include "data/manifest.h"

static int parse(const char *text, struct manifest *m, struct err *e)
{
    return manifest_parse("m.jsonl", "/d", text, strlen(text), m, e);
}

static void test_fields(void **state)
{
    struct manifest m;
    struct err e = {0};
    const char *text =
        "\xef\xbb\xbf{\"id\": \"a\", \"image\": \"a.png\", \"text\": [\"x\", \"y\"], \"n\": 3, \"b\": [1, 2], \"o\": "
        "{}}\r\n"
        "\n"
        "{\"sketch\": \"s.jpg\", \"split\": \"valid\", \"group\": 7, \"image\": null, \"caption\": \"no file\"}\n"
        "{\"id\": 12, \"audio\": [{\"file\": \"a.wav\", \"voice\": \"v\", \"split\": \"voices\"}, \"b.wav\"]}";
    assert_int_equal(parse(text, &m, &e), 0);
    assert_int_equal(m.n, 3);
    const struct manifest_item *it = m.item;
    assert_string_equal(it[0].id, "a");
    assert_string_equal(it[0].split, "train");
    assert_null(it[0].group);
    assert_int_equal(it[0].n_fields, 2);
    assert_int_equal(manifest_field(&it[0], "text")->n, 2);
    assert_string_equal(manifest_field(&it[0], "text")->entry[1].value, "y");
    assert_false(manifest_field(&it[0], "text")->entry[1].is_file);
    assert_true(manifest_field(&it[0], "image")->entry[0].is_file);
    assert_string_equal(it[1].id, "3"); /* its line */
    assert_string_equal(it[1].group, "7");
    assert_string_equal(it[1].split, "valid");
    assert_null(manifest_field(&it[1], "image"));
    assert_true(manifest_field(&it[1], "sketch")->entry[0].is_file);
    assert_false(manifest_field(&it[1], "caption")->entry[0].is_file);
    assert_string_equal(it[2].id, "12");
    const struct manifest_field *audio = manifest_field(&it[2], "audio");
    assert_string_equal(audio->entry[0].voice, "v");
    assert_string_equal(audio->entry[0].split, "voices");
    assert_null(audio->entry[1].split);
    assert_int_equal(manifest_count(&m, "image"), 1);
    assert_int_equal(manifest_count(&m, "imag"), 0);
    assert_int_equal(m.n_held, 1);
    assert_string_equal(m.held[0], "voices");
    manifest_free(&m);
}

static const struct {
    const char *text, *says;
} wrong[] = {
    {"", "m.jsonl: no items"},
    {"\n \n", "m.jsonl: no items"},
    {"{\"text\": \"a\"}\n{\"text\": \"a\"", "m.jsonl:2:12: wrong JSON"},
    {"{\"text\": \"a\", \"text\": \"b\"}", "m.jsonl:1:20: wrong JSON: duplicate object key"},
    {"{\"text\": \"a\\u0000\"}", "m.jsonl:1:"},
    {"{\"text\": \"a\"} {\"text\": \"b\"}", "m.jsonl:1:"},
    {"{\"text\": \"a\xff\"}", "m.jsonl:1:12: invalid UTF-8 (byte 0xff)"},
    {"{\"text\": \"\xed\xa0\x80\"}", "m.jsonl:1:11: invalid UTF-8"},
    {"[{\"text\": \"a\"}]", "this line is a list; a manifest is one object a line"},
    {"3", "m.jsonl:1:1: wrong JSON"},
    {"{\"id\": \"a\"}", "m.jsonl:1: the item 'a' has no picture"},
    {"{\"text\": []}", "has no picture"},
    {"{\"text\": \"a\", \"id\": true}", "\"id\" should be a string or a whole number"},
    {"{\"text\": \"a\", \"id\": \"\"}", "\"id\" is an empty string"},
    {"{\"text\": \"a\", \"id\": \"x\"}\n{\"text\": \"b\", \"id\": \"x\"}",
     "m.jsonl:2: the id 'x' is already used on line 1"},
    {"{\"text\": \"a\", \"id\": \"2\"}\n{\"text\": \"b\"}", "the id '2' is already used on line 1"},
    {"{\"text\": \"a\", \"split\": 1}", "\"split\" should be a string"},
    {"{\"text\": \"a\", \"split\": \"all\"}", "cannot name a split"},
    {"{\"text\": \"a\", \"group\": []}", "\"group\" should be a string or a whole number, but it is a list"},
    {"{\"image\": 3}", "\"image\" should hold paths, but it holds a number"},
    {"{\"image\": \"\"}", "\"image\" holds an empty path"},
    {"{\"text\": [\"a\", 3]}", "\"text\" should hold strings, but it holds a number"},
    {"{\"sound\": [\"a.wav\", {}]}", "an entry of \"sound\" is an object without a string \"file\""},
    {"{\"audio\": [{\"file\": \"a\", \"voice\": 3}]}", "\"voice\" in \"audio\" should be a string"},
    {"{\"audio\": [{\"file\": \"a\", \"split\": \"\"}]}", "cannot name a split"},
};

static void test_wrong(void **state)
{
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct manifest m;
        struct err e = {0};
        int rc = parse(wrong[i].text, &m, &e);
        if (rc != ERR_FORMAT || !strstr(e.msg, wrong[i].says))
            fail_msg("row %zu: %d '%s', expected '%s'", i, rc, e.msg, wrong[i].says);
        assert_null(m.item);
        manifest_free(&m);
    }
}

static void test_splits(void **state)
{
    struct manifest m;
    struct err e = {0};
    const char *text = "{\"text\": \"a\", \"audio\": [{\"file\": \"0\", \"split\": \"train\"}, {\"file\": \"1\"}, "
                       "{\"file\": \"2\", \"split\": \"voices\"}]}\n"
                       "{\"text\": \"b\", \"split\": \"test\", \"audio\": [{\"file\": \"3\", \"split\": \"train\"}, "
                       "{\"file\": \"4\", \"split\": \"voices\"}]}\n"
                       "{\"text\": \"c\", \"audio\": [{\"file\": \"5\", \"split\": \"train\"}]}\n"
                       "{\"text\": \"d\", \"split\": \"test\", \"audio\": [{\"file\": \"6\", \"split\": \"test\"}]}\n";
    assert_int_equal(parse(text, &m, &e), 0);
    int64_t *items, n;
    assert_int_equal(manifest_select(&m, "train", &items, &n, &e), 0);
    assert_int_equal(n, 2);
    assert_int_equal(items[1], 2);
    free(items);
    assert_int_equal(manifest_select(&m, "voices", &items, &n, &e), 0); /* the training items with such a clip */
    assert_int_equal(n, 1);
    assert_int_equal(items[0], 0);
    free(items);
    assert_int_equal(manifest_select(&m, NULL, &items, &n, &e), 0);
    assert_int_equal(n, 4);
    free(items);
    assert_int_equal(manifest_select(&m, "tst", &items, &n, &e), ERR_CONFIG);
    assert_string_equal(
        e.msg, "m.jsonl: no items of split 'tst'; it has 'train' (2), 'test' (2), 'voices' (held-out entries); "
               "did you mean 'test'?");
    assert_null(items);

    int index[3];
    const struct manifest_field *first = manifest_field(&m.item[0], "audio"),
                                *last = manifest_field(&m.item[3], "audio");
    assert_int_equal(manifest_use(&m, first, NULL, index), 2);
    assert_int_equal(index[0], 0);
    assert_int_equal(index[1], 1);
    assert_int_equal(manifest_use(&m, first, "voices", index), 1);
    assert_int_equal(index[0], 2);
    assert_int_equal(manifest_use(&m, manifest_field(&m.item[0], "text"), "voices", index), 1);
    assert_int_equal(manifest_use(&m, manifest_field(&m.item[1], "audio"), "test", index), 1);
    assert_int_equal(index[0], 0);
    assert_int_equal(manifest_use(&m, manifest_field(&m.item[1], "audio"), "voices", index), 1);
    assert_int_equal(index[0], 1);
    assert_int_equal(manifest_use(&m, manifest_field(&m.item[2], "audio"), "voices", index), 0);
    assert_int_equal(manifest_use(&m, last, "test", index), 1);
    assert_int_equal(manifest_use(&m, last, "train", index), 0);
    manifest_free(&m);
}

static void test_many_ids(void **state)
{
    struct buf b = {0};
    for (int i = 0; i < 5000; i++) buf_printf(&b, "{\"id\": \"item %d\", \"text\": \"t\"}\n", i);
    struct manifest m;
    struct err e = {0};
    assert_int_equal(parse(b.data, &m, &e), 0);
    assert_int_equal(m.n, 5000);
    assert_string_equal(m.item[4999].id, "item 4999");
    manifest_free(&m);
    buf_str(&b, "{\"id\": \"item 17\", \"text\": \"t\"}\n");
    assert_int_equal(parse(b.data, &m, &e), ERR_FORMAT);
    assert_string_equal(e.msg, "m.jsonl:5001: the id 'item 17' is already used on line 18: every item needs its own");
    buf_free(&b);
}

static void count_bad(void *ctx, int64_t line, const char *message)
{
    int64_t *sum = ctx;
    *sum = *sum * 10 + line;
}

static void test_files(void **state)
{
    char dir[] = "/tmp/triad-manifest-XXXXXX";
    assert_non_null(mkdtemp(dir));
    char *path = file_join(dir, "m.jsonl"), *a = file_join(dir, "a.png"), *data;
    struct manifest m;
    struct err e = {0};
    assert_int_equal(manifest_load(path, &m, &e), ERR_IO);
    assert_non_null(strstr(e.msg, path));
    err_clear(&e);
    const char *text = "{\"image\": \"a.png\"}\n{\"image\": 3}\n{\"image\": \"b.png\"}\n{\n";
    assert_int_equal(file_write(path, text, strlen(text), &e), 0);
    assert_int_equal(file_write(a, "bytes", 5, &e), 0);
    int64_t lines = 0;
    assert_int_equal(manifest_load_lenient(path, &m, count_bad, &lines, &e), 0);
    assert_int_equal(lines, 24);
    assert_int_equal(m.n, 2);
    size_t len;
    assert_int_equal(manifest_bytes(&m, &m.item[0].field[0].entry[0], &data, &len, &e), 0);
    assert_int_equal(len, 5);
    assert_string_equal(data, "bytes");
    free(data);
    assert_int_equal(manifest_bytes(&m, &m.item[1].field[0].entry[0], &data, &len, &e), ERR_IO);
    assert_non_null(strstr(e.msg, "b.png"));
    assert_null(data);
    manifest_free(&m);
    err_clear(&e);
    assert_int_equal(file_remove_tree(dir, &e), 0);
    free(path);
    free(a);
}

static void test_walk(void **state)
{
    struct manifest m;
    struct err e = {0};
    assert_int_equal(
        parse("{\"text\": \"a\", \"image\": [\"1\", \"2\"]}\n{\"text\": \"b\"}\n{\"audio\": \"3\", \"x\": \"4.png\"}\n",
              &m, &e),
        0);
    struct manifest_walk w = {0};
    char seen[8] = "";
    for (struct manifest_entry *entry; (entry = manifest_next_file(&m, &w)) != NULL;) strncat(seen, entry->value, 1);
    assert_string_equal(seen, "1234");
    assert_null(manifest_next_file(&m, &w));
    manifest_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields),   cmocka_unit_test(test_wrong), cmocka_unit_test(test_splits),
        cmocka_unit_test(test_many_ids), cmocka_unit_test(test_files), cmocka_unit_test(test_walk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
