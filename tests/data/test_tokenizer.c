/* The tokenizer against the Hugging Face `tokenizers` library (tests/golden/make_tokenizer.py wrote what it says): ids
 * and decoded texts of nasty strings for six kinds of file, training, and files that are wrong. */
#include <jansson.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include "data/tokenizer.h"

#define GOLDEN "tests/golden/tokenizer/"
enum { MAX = 4096 };

static json_t *load_json(const char *path)
{
    json_error_t e;
    json_t *j = json_load_file(path, 0, &e);
    if (!j) fail_msg("%s:%d: %s", path, e.line, e.text);
    return j;
}

static struct tokenizer *load(const char *name)
{
    struct err e = {0};
    struct tokenizer *t;
    char path[100];
    snprintf(path, sizeof path, GOLDEN "%s.json", name);
    if (tok_load(path, &t, &e)) fail_msg("%s", e.msg);
    return t;
}

static struct tokenizer *parse(const char *json)
{
    struct err e = {0};
    struct tokenizer *t;
    if (tok_parse(json, strlen(json), &t, &e)) fail_msg("%s", e.msg);
    return t;
}

static int64_t encode(const struct tokenizer *t, const char *s, size_t n, int32_t *ids)
{
    struct err e = {0};
    int64_t count;
    if (tok_encode(t, s, n, ids, MAX, &count, &e)) fail_msg("%s", e.msg);
    return count;
}

static void assert_ids(const struct tokenizer *t, const char *s, int n, const int32_t *want)
{
    int32_t ids[MAX];
    assert_int_equal(encode(t, s, strlen(s), ids), n);
    for (int i = 0; i < n; i++) assert_int_equal(ids[i], want[i]);
}

/* ---- agreement */

static void check_cases(const struct tokenizer *t, const char *name)
{
    json_t *all = load_json(GOLDEN "cases.json"), *cases = json_object_get(all, name);
    assert_true(json_array_size(cases) > 60);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *c = json_array_get(cases, i), *text = json_array_get(c, 0), *want = json_array_get(c, 1);
        int32_t ids[MAX];
        int64_t n = encode(t, json_string_value(text), json_string_length(text), ids);
        bool same = n == (int64_t)json_array_size(want);
        for (int64_t k = 0; k < n && same; k++) same = ids[k] == json_integer_value(json_array_get(want, (size_t)k));
        if (!same) fail_msg("%s: case %zu, \"%s\": other ids than the library's", name, i, json_string_value(text));
        for (int skip = 0; skip < 2; skip++) {
            struct buf out = {0};
            tok_decode(t, ids, n, skip, &out);
            const char *decoded = json_string_value(json_array_get(c, skip ? 3 : 2));
            if (strcmp(out.data ? out.data : "", decoded))
                fail_msg("%s: case %zu decodes to \"%s\", not to \"%s\"", name, i, out.data, decoded);
            buf_free(&out);
        }
    }
    json_decref(all);
}

static void agrees(void **state)
{
    struct tokenizer *t = load(*state);
    check_cases(t, *state);
    tok_free(t);
}

static void threads_agree(void **state)
{
    static const char text[] = "it's a cat, catnip <mask> 猫 e\xcc\x81";
    struct tokenizer *t = load("gpt2");
    int32_t want[MAX];
    int64_t n = encode(t, text, sizeof text - 1, want);
    int wrong = 0;
#pragma omp parallel for num_threads(4) reduction(+ : wrong)
    for (int i = 0; i < 400; i++) {
        int32_t ids[MAX];
        int64_t count = -1;
        if (tok_encode(t, text, sizeof text - 1, ids, MAX, &count, NULL) || count != n)
            wrong++;
        else
            wrong += memcmp(ids, want, (size_t)n * sizeof *ids) != 0;
    }
    assert_int_equal(wrong, 0);
    tok_free(t);
}

/* ---- training */

struct lines {
    char *data;
    const char **v;
    int64_t n;
};

static struct lines read_corpus(void)
{
    struct lines l = {0};
    struct err e = {0};
    size_t len, cap = 0;
    if (file_read(GOLDEN "corpus.txt", 1 << 20, &l.data, &len, &e)) fail_msg("%s", e.msg);
    for (char *s = l.data, *end; (end = strchr(s, '\n')); s = end + 1) {
        *end = 0;
        l.v = mem_grow(l.v, &cap, (size_t)l.n + 1, sizeof *l.v);
        l.v[l.n++] = s;
    }
    assert_int_equal(l.n, 1500);
    return l;
}

static void free_lines(struct lines *l)
{
    free(l->data);
    free(l->v);
}

static void training_equals_the_library(void **state)
{
    struct lines l = read_corpus();
    struct err e = {0};
    struct tokenizer *t, *again;
    struct tok_train_options o = {.vocab_size = 900};
    if (tok_train_bpe(l.v, l.n, &o, &t, &e)) fail_msg("%s", e.msg);
    char dir[] = "/tmp/triad-test-XXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/t.json", dir);
    if (tok_save(t, path, &e)) fail_msg("%s", e.msg);
    json_t *got = load_json(path), *want = load_json(GOLDEN "trained.json");
    static const char *const model[] = {"vocab", "merges", "type"};
    for (int i = 0; i < 3; i++)
        assert_true(json_equal(json_object_get(json_object_get(got, "model"), model[i]),
                               json_object_get(json_object_get(want, "model"), model[i])));
    static const char *const parts[] = {"version", "added_tokens", "normalizer", "post_processor"};
    for (int i = 0; i < 4; i++)
        assert_true(json_equal(json_object_get(got, parts[i]), json_object_get(want, parts[i])));
    check_cases(t, "trained");
    if (tok_load(path, &again, &e)) fail_msg("%s", e.msg);
    check_cases(again, "trained");
    json_decref(got);
    json_decref(want);
    tok_free(again);
    tok_free(t);
    free_lines(&l);
    unlink(path);
    rmdir(dir);
}

/* Nearly all counts are equal here, and tokens arise by more than one spelling: the merges are the library's. */
static void training_ties(void **state)
{
    static const char *const texts[] = {"abababab", "aaaaaaa", "bababa aab", "abba abba", "a a a b b b"};
    static const char *const want[][2] = {{"a", "b"},        {"a", "a"},         {"ab", "ab"},  {"\u0120", "a"},
                                          {"\u0120", "b"},   {"b", "a"},         {"ab", "ba"},  {"aa", "aa"},
                                          {"b", "abab"},     {"\u0120", "abba"}, {"aa", "a"},   {"abab", "abab"},
                                          {"\u0120a", "ab"}, {"aaaa", "aaa"},    {"babab", "a"}};
    struct tok_train_options o = {.vocab_size = 400, .min_frequency = 1};
    struct err e = {0};
    struct tokenizer *t;
    if (tok_train_bpe(texts, 5, &o, &t, &e)) fail_msg("%s", e.msg);
    char dir[] = "/tmp/triad-test-XXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/t.json", dir);
    if (tok_save(t, path, &e)) fail_msg("%s", e.msg);
    json_t *file = load_json(path), *merges = json_object_get(json_object_get(file, "model"), "merges");
    assert_int_equal(json_array_size(merges), 15);
    for (size_t i = 0; i < 15; i++)
        for (size_t k = 0; k < 2; k++)
            assert_string_equal(json_string_value(json_array_get(json_array_get(merges, i), k)), want[i][k]);
    json_decref(file);
    tok_free(t);
    unlink(path);
    rmdir(dir);
}

static void round_trip(void **state)
{
    struct lines l = read_corpus();
    struct tokenizer *t = load("trained");
    for (int64_t i = 0; i < l.n; i++) {
        int32_t ids[MAX];
        int64_t n = encode(t, l.v[i], strlen(l.v[i]), ids);
        struct buf out = {0};
        tok_decode(t, ids, n, true, &out);
        assert_string_equal(out.data, l.v[i]);
        buf_free(&out);
    }
    tok_free(t);
    free_lines(&l);
}

static void train_options(void **state)
{
    static const char *const texts[] = {"ONE two", "one TWO", "\xff one \xe2\x82 two"};
    static const char *const twice[] = {"<s>", "<s>"}, *const empty[] = {""}, *const own[] = {"[END]", "</s>"};
    const struct {
        struct tok_train_options o;
        const char *message;
    } wrong[] = {{{.vocab_size = 258}, "at least 259"},
                 {{.vocab_size = -1}, "at least 259"},
                 {{.vocab_size = INT64_MAX}, "less than"},
                 {{.specials = twice, .n_specials = 2}, "\"<s>\" is named twice"},
                 {{.specials = empty, .n_specials = 1}, "empty"}};
    struct tokenizer *t;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct err e = {0};
        assert_int_equal(tok_train_bpe(texts, 3, &wrong[i].o, &t, &e), ERR_CONFIG);
        assert_null(t);
        if (!strstr(e.msg, wrong[i].message)) fail_msg("\"%s\" lacks \"%s\"", e.msg, wrong[i].message);
    }
    struct err e = {0};
    assert_int_equal(tok_train_bpe(NULL, 0, &(struct tok_train_options){0}, &t, &e), 0); /* no texts: bytes alone */
    assert_int_equal(tok_vocab_size(t), 259);
    assert_int_equal(tok_pad_id(t), 0);
    assert_int_equal(tok_start_id(t), 1);
    assert_int_equal(tok_end_id(t), 2);
    assert_int_equal(tok_id(t, "</s>"), 2);
    assert_int_equal(tok_id(t, "nothing"), -1);
    assert_string_equal(tok_piece(t, 2), "</s>");
    assert_null(tok_piece(t, 259));
    assert_null(tok_piece(t, -1));
    assert_true(tok_is_special(t, 2));
    assert_false(tok_is_special(t, 3));
    tok_free(t);

    struct tok_train_options o = {.specials = own, .n_specials = 2, .lowercase = true, .vocab_size = 300};
    assert_int_equal(tok_train_bpe(texts, 3, &o, &t, &e), 0);
    assert_int_equal(tok_start_id(t), -1);
    assert_int_equal(tok_end_id(t), 1);
    assert_int_equal(tok_pad_id(t), -1);
    assert_true(tok_id(t, "one") >= 258 && tok_id(t, "ONE") < 0); /* lower case has joined all three */
    assert_ids(t, "ONE", 2, (int32_t[]){tok_id(t, "one"), 1});
    tok_free(t);
}

/* ---- limits and bytes */

static void truncation(void **state)
{
    struct tokenizer *t = load("trained");
    static const char text[] = "grinning face with smiling eyes";
    int32_t all[MAX], ids[MAX];
    int64_t n = encode(t, text, sizeof text - 1, all), count;
    assert_true(n > 6);
    struct err e = {0};
    for (int64_t max = 2; max <= n + 1; max++) {
        ids[max] = -7;
        assert_int_equal(tok_encode(t, text, sizeof text - 1, ids, max, &count, &e), 0);
        assert_int_equal(count, max < n ? max : n);
        assert_memory_equal(ids, all, (size_t)(count - 1) * sizeof *ids);
        assert_int_equal(ids[count - 1], 2);
        assert_int_equal(ids[max], -7);
    }
    assert_int_equal(tok_encode(t, text, sizeof text - 1, ids, 1, &count, &e), ERR_SHAPE);
    assert_int_equal(count, 0);
    assert_non_null(strstr(e.msg, "2 special tokens"));
    tok_free(t);
}

/* Each row: bytes, and the same with U+FFFD where Rust's from_utf8_lossy puts it (Unicode 15, table 3-8 and D93b). */
static void invalid_utf8(void **state)
{
#define R "\xef\xbf\xbd"
    static const char *const rows[][2] = {{"Hello \xf0\x90\x80World", "Hello " R "World"},
                                          {"\xe0\x80\x80", R R R},
                                          {"\xed\xa0\x80z", R R R "z"},
                                          {"\xf4\x90\x80\x80", R R R R},
                                          {"\xc0\xaf", R R},
                                          {"\xe2\x82", R},
                                          {"a\xff\xfe z", "a" R R " z"},
                                          {"\xf1\x80\x80\xe1\x80\xc2 b\x80", R R R " b" R}};
    struct tokenizer *t = load("trained");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int32_t a[MAX], b[MAX];
        int64_t n = encode(t, rows[i][0], strlen(rows[i][0]), a), k = encode(t, rows[i][1], strlen(rows[i][1]), b);
        assert_int_equal(n, k);
        assert_memory_equal(a, b, (size_t)n * sizeof *a);
        struct buf out = {0};
        tok_decode(t, a, n, true, &out);
        assert_string_equal(out.data, rows[i][1]);
        buf_free(&out);
    }
    int32_t ids[MAX]; /* a 0 byte is a character as any other */
    assert_int_equal(encode(t, "a\0b", 3, ids), 5);
    struct buf out = {0};
    tok_decode(t, ids, 5, true, &out);
    assert_memory_equal(out.data, "a\0b", 3);
    buf_free(&out);
    tok_free(t);
}

static void decode_passes_over(void **state)
{
    struct tokenizer *t = load("trained");
    struct buf out = {0};
    tok_decode(t, (int32_t[]){-1, 68, 100000, 2, 68, INT32_MAX}, 6, true, &out);
    assert_string_equal(out.data, "bb");
    buf_free(&out);
    tok_decode(t, NULL, 0, false, &out);
    assert_int_equal(out.len, 0);
    buf_free(&out);
    tok_free(t);
}

/* ---- wrong files */

/* A small, right file; rows replace one piece of it. */
static const char SMALL[] = "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, \"added_tokens\": "
                            "[{\"id\": 4, \"content\": \"<s>\", "
                            "\"special\": true, \"normalized\": false}], \"normalizer\": null, \"pre_tokenizer\": "
                            "null, \"post_processor\": null, "
                            "\"decoder\": null, \"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": null, "
                            "\"vocab\": {\"a\": 0, \"b\": 1, "
                            "\"ab\": 2, \"aba\": 3}, \"merges\": [\"a b\", [\"ab\", \"a\"]]}}";

static void small_file(void **state)
{
    struct tokenizer *t = parse(SMALL);
    assert_ids(t, "abab<s>ababa", 5, (int32_t[]){2, 2, 4, 2, 3});
    assert_int_equal(tok_vocab_size(t), 5);
    tok_free(t);
}

static char *replaced(const char *from, const char *to)
{
    const char *at = strstr(SMALL, from);
    if (!at) fail_msg("the small file has no %s", from);
    return mem_printf("%.*s%s%s", (int)(at - SMALL), SMALL, to, at + strlen(from));
}

static void assert_refused(const char *json, size_t n, const char *message)
{
    struct err e = {0};
    struct tokenizer *t = (struct tokenizer *)&e;
    int rc = tok_parse(json, n, &t, &e);
    if (rc != ERR_FORMAT) fail_msg("%s: expected ERR_FORMAT, got %d", json, rc);
    assert_null(t);
    if (!strstr(e.msg, message)) fail_msg("\"%s\" lacks \"%s\"", e.msg, message);
}

static void wrong_files(void **state)
{
#define STEP(part, json) "\"" part "\": null", "\"" part "\": " json
    static const char *const rows[][3] = {
        {"\"1.0\"", "\"2.0\"", "version: only \"1.0\""},
        {"\"aba\": 3", "\"aba\": 2", "model.vocab: \"ab\" and \"aba\" have the same id 2"},
        {"\"aba\": 3", "\"aba\": -1", "model.vocab: \"aba\" should have an id in 0..4194303"},
        {"\"aba\": 3", "\"aba\": 4000000000", "model.vocab: \"aba\""},
        {"\"aba\": 3", "\"aba\": \"3\"", "it has a string"},
        {"\"aba\": 3", "\"ab\": 3", "duplicate"},
        {"\"a b\"", "\"a c\"", "model.merges[0]: \"c\" is not in model.vocab"},
        {"\"a b\"", "\"c b\"", "model.merges[0]: \"c\" is not in model.vocab"},
        {"\"a b\"", "\"b a\"", "model.merges[0]: it makes \"ba\", which is not in model.vocab"},
        {"\"a b\"", "\"a b a\"", "not two tokens"},
        {"\"a b\"", "\"ab\"", "not two tokens"},
        {"[\"ab\", \"a\"]", "[\"ab\"]", "model.merges[1]: expected \"left right\""},
        {"[\"ab\", \"a\"]", "7", "model.merges[1]"},
        {"\"dropout\": null", "\"dropout\": 0.1", "model.dropout: only null or 0"},
        {"\"unk_token\": null", "\"unk_token\": 3", "model.unk_token: expected a string, found a whole number"},
        {"\"BPE\"", "\"Unigram\"", "model.type: \"Unigram\" is not supported"},
        {"{\"a\": 0, \"b\": 1, \"ab\": 2, \"aba\": 3}", "[]", "model.vocab: expected an object, found a list"},
        {"\"id\": 4", "\"id\": 9", "added_tokens[0]: \"<s>\" has id 9 here, but the next free id is 4"},
        {"\"content\": \"<s>\"", "\"content\": \"a\"", "model.vocab gives it 0"},
        {"\"content\": \"<s>\"", "\"content\": 5", "added_tokens[0].content: expected a string"},
        {"\"special\": true", "\"special\": 1", "added_tokens[0].special: expected true or false"},
        {STEP("normalizer", "{\"type\": \"Precompiled\"}"), "normalizer.type: \"Precompiled\" is not supported"},
        {STEP("normalizer", "[]"), "normalizer: expected an object or null, found a list"},
        {STEP("normalizer", "{}"), "normalizer.type: expected a string, found nothing"},
        {STEP("normalizer", "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFC\"}, {\"type\": \"Nmt\"}]}"),
         "normalizer.normalizers[1].type: \"Nmt\""},
        {STEP("pre_tokenizer", "{\"type\": \"Metaspace\"}"), "pre_tokenizer.type: \"Metaspace\""},
        {STEP("pre_tokenizer", "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"(a\"}, \"behavior\": \"Isolated\"}"),
         "pre_tokenizer.pattern: the pattern \"(a\" is not a regular expression"},
        {STEP("pre_tokenizer",
              "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"a\\\\bc\"}, \"behavior\": \"Isolated\"}"),
         "more than one reading"},
        {STEP("pre_tokenizer",
              "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"[a[b]]\"}, \"behavior\": \"Isolated\"}"),
         "a class inside a class"},
        {STEP("pre_tokenizer",
              "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"a{1,2}+\"}, \"behavior\": \"Isolated\"}"),
         "a + behind {...}"},
        {STEP("pre_tokenizer",
              "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"(?m:a)\"}, \"behavior\": \"Isolated\"}"),
         "a kind of group"},
        {STEP("pre_tokenizer",
              "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"a\\\\\"}, \"behavior\": \"Isolated\"}"),
         "nothing after it"},
        {STEP("pre_tokenizer", "{\"type\": \"Split\", \"pattern\": {\"String\": \"a\"}, \"behavior\": \"isolated\"}"),
         "pre_tokenizer.behavior: \"isolated\" is not supported"},
        {STEP("pre_tokenizer", "{\"type\": \"Split\", \"pattern\": \"a\"}"), "pre_tokenizer.pattern: expected"},
        {STEP("decoder", "{\"type\": \"CTC\"}"), "decoder.type: \"CTC\""},
        {STEP("post_processor", "{\"type\": \"RobertaProcessing\", \"sep\": [\"x\", 9], \"cls\": [\"<s>\", 4]}"),
         "post_processor.sep[1]: expected the id of a token"},
        {STEP("post_processor",
              "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"<s>\"}}], "
              "\"special_tokens\": {\"<s>\": {\"ids\": [4]}}}"),
         "post_processor.single: there is no Sequence"},
        {STEP("post_processor",
              "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"x\"}}]}"),
         "post_processor.single[0]: \"x\" has no \"ids\""},
        {STEP("truncation", "{\"max_length\": 4, \"direction\": \"Left\"}"), "truncation.direction: \"Left\""},
        {STEP("truncation", "{\"max_length\": 0}"), "truncation.max_length: 0 is outside"},
        {STEP("padding", "{\"pad_id\": 77}"), "padding.pad_id: expected the id of a token"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char *json = replaced(rows[i][0], rows[i][1]);
        assert_refused(json, strlen(json), rows[i][2]);
        free(json);
    }
    assert_refused("", 0, "not the JSON");
    assert_refused("[]", 2, "expected an object");
    assert_refused("{}", 2, "model: expected an object, found nothing");
}

static void cut_files(void **state)
{
    for (size_t n = 0; n + 1 < sizeof SMALL; n++) {
        char *part = mem_strndup(SMALL, n); /* its own block: a read behind it would be seen */
        assert_refused(part, n, "not the JSON");
        free(part);
    }
    struct err e = {0};
    struct tokenizer *t;
    assert_int_equal(tok_load("/nonexistent/t.json", &t, &e), ERR_IO);
    assert_null(t);
    assert_non_null(strstr(e.msg, "/nonexistent/t.json"));
}

/* Found only while encoding: the unknown token is not in the vocabulary; and a pattern that explodes. */
static void encode_errors(void **state)
{
    char *json = replaced("\"unk_token\": null", "\"unk_token\": \"<unk>\"");
    struct tokenizer *t = parse(json);
    struct err e = {0};
    int32_t ids[8];
    int64_t n;
    assert_int_equal(tok_encode(t, "ab", 2, ids, 8, &n, &e), 0);
    assert_int_equal(tok_encode(t, "abc", 3, ids, 8, &n, &e), ERR_FORMAT);
    assert_int_equal(n, 0);
    assert_non_null(strstr(e.msg, "\"<unk>\""));
    tok_free(t);
    free(json);

    json = replaced(STEP("pre_tokenizer", "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"(a*)*(a*)*(a*)*[bd]\"}, "
                                          "\"behavior\": \"Isolated\"}"));
    t = parse(json);
    char text[61];
    memset(text, 'a', 60);
    text[60] = 'c';
    err_clear(&e);
    assert_int_equal(tok_encode(t, text, 61, ids, 8, &n, &e), ERR_FORMAT);
    assert_non_null(strstr(e.msg, "gives up"));
    tok_free(t);
    free(json);
}

/* With no unknown token, unknown characters vanish; a merge's order is its rank, not its place in the text. */
static void merge_order(void **state)
{
    char *json = replaced("\"merges\": [\"a b\", [\"ab\", \"a\"]]", "\"merges\": [[\"ab\", \"a\"], \"a b\"]");
    struct tokenizer *t = parse(json);
    assert_ids(t, "a?b", 1, (int32_t[]){2});
    assert_ids(t, "ababa", 3, (int32_t[]){3, 1, 0});
    assert_ids(t, "ababab", 3, (int32_t[]){3, 1, 2});
    assert_ids(t, "aab", 2, (int32_t[]){0, 2});
    tok_free(t);
    free(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(agrees, "trained"),
        cmocka_unit_test_prestate(agrees, "gpt2"),
        cmocka_unit_test_prestate(agrees, "clip"),
        cmocka_unit_test_prestate(agrees, "bert"),
        cmocka_unit_test_prestate(agrees, "modern"),
        cmocka_unit_test_prestate(agrees, "fallback"),
        cmocka_unit_test_prestate(agrees, "unicode_forms"),
        cmocka_unit_test(threads_agree),
        cmocka_unit_test(training_equals_the_library),
        cmocka_unit_test(training_ties),
        cmocka_unit_test(round_trip),
        cmocka_unit_test(train_options),
        cmocka_unit_test(truncation),
        cmocka_unit_test(invalid_utf8),
        cmocka_unit_test(decode_passes_over),
        cmocka_unit_test(small_file),
        cmocka_unit_test(wrong_files),
        cmocka_unit_test(cut_files),
        cmocka_unit_test(encode_errors),
        cmocka_unit_test(merge_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
