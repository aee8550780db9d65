/* train, eval, embed and search as a person uses them, on a tiny data set, through the program itself. */
#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "base/safetensors.h"
#include "tests/support/toy.h"

static struct temp_dir dir;
static char *out, *err; /* of the last run */
static char index_file[160];

static const char *at(const char *name)
{
    return temp_path(&dir, name);
}

static int run(const char *const *words)
{
    free(out);
    free(err);
    return toy_triad(&dir, &out, &err, words);
}
#define RUN(...) run((const char *const[]){__VA_ARGS__, NULL})

static void expect(int status, int want)
{
    if (status != want) fail_msg("exit status %d, not %d:\n%s%s", status, want, out, err);
}

static void holds(const char *text, const char *part)
{
    if (!strstr(text, part)) fail_msg("\"%s\" lacks \"%s\"", text, part);
}

static int once(const char *text, const char *part)
{
    const char *first = strstr(text, part);
    return first && !strstr(first + 1, part);
}

static int begin(void **state)
{
    temp_dir_begin(&dir);
    toy_make(&dir);
    snprintf(index_file, sizeof index_file, "%s", at("x.safetensors"));
    if (RUN("train", at("config.yaml"))) {
        print_error("%s%s", out, err);
        return -1;
    }
    return 0;
}

static int end(void **state)
{
    free(out);
    free(err);
    temp_dir_end(&dir);
    return 0;
}

/* ---- the run's page */

static void the_first_batches_are_shown(void **state)
{
    struct err e = {0};
    char *page;
    size_t n;
    assert_int_equal(file_read(at("run/first-batches.html"), 3000000, &page, &n, &e), 0);
    holds(page, "data:image/png;base64,");
    holds(page, "data:audio/wav;base64,");
    holds(page, "&lt;"); /* a caption's, escaped */
    holds(page, "packed tokens (");
    assert_null(strstr(page, "http://"));
    assert_null(strstr(page, "https://"));
    free(page);
}

static void the_config_is_dumped_and_read_back(void **state)
{
    expect(RUN("train", at("config.yaml"), "--dump-config", "train.batch=4"), 0);
    holds(out, "batch: 4");
    holds(out, "# samples a step");
    struct err e = {0};
    assert_int_equal(file_write(at("dumped.yaml"), out, strlen(out), &e), 0);
    char *first = strdup(out);
    expect(RUN("train", at("dumped.yaml"), "--dump-config"), 0);
    assert_string_equal(out, first);
    free(first);
}

static void a_failed_train_says_one_thing(void **state)
{
    expect(RUN("train", at("config.yaml"), "train.bacth=4"), 3);
    holds(err, "did you mean");
    assert_true(once(err, "bacth"));
    expect(RUN("train", at("config.yaml")), 10); /* the folder holds a run already */
    assert_true(once(err, "holds a run already"));
    expect(RUN("train"), 2);
}

/* ---- eval */

static json_t *json_of(const char *text)
{
    json_error_t why;
    json_t *j = json_loads(text, 0, &why);
    if (!j) fail_msg("%d: %s\n%s", why.line, why.text, text);
    return j;
}

static double real(const json_t *o, const char *a, const char *b)
{
    const json_t *v = json_object_get(json_object_get(o, a), b);
    assert_true(json_is_number(v));
    return json_number_value(v);
}

static void eval_writes_its_figures(void **state)
{
    expect(RUN("eval", at("run"), "--json", at("r.json"), "--report", at("r.html"), "--zero-shot", "names"), 0);
    holds(out, "test: 10 items");
    holds(out, "text → image");
    holds(out, "zero-shot image");
    assert_int_not_equal(file_size(at("r.html")), -1);
    char *text;
    size_t n;
    struct err e = {0};
    assert_int_equal(file_read(at("r.json"), 1 << 20, &text, &n, &e), 0);
    json_t *r = json_of(text);
    assert_int_equal(json_integer_value(json_object_get(r, "step")), 12);
    json_t *split = json_array_get(json_object_get(r, "splits"), 0), *directions = json_object_get(split, "directions");
    assert_string_equal(json_string_value(json_object_get(split, "split")), "test");
    assert_int_equal(json_array_size(directions), 6);
    const json_t *d = json_array_get(directions, 0);
    assert_string_equal(json_string_value(json_object_get(d, "query")), "text");
    assert_string_equal(json_string_value(json_object_get(d, "target")), "image");
    assert_int_equal(json_integer_value(json_object_get(d, "queries")), TOY_TEST - 1); /* one has no picture */
    assert_float_equal(real(d, "R@1", "chance"), 1.0 / (TOY_TEST - 1), 1e-6);          /* written with 6 digits */
    assert_float_equal(real(d, "R@10", "value"), 1, 0);
    assert_true(real(d, "R@1", "low") <= real(d, "R@1", "value"));
    assert_int_equal(json_array_size(json_object_get(split, "zero_shot")), 2);
    json_decref(r);
    free(text);

    expect(RUN("eval", at("run"), "--split", "train,test", "--json", "-"), 0);
    r = json_of(out);
    assert_int_equal(json_array_size(json_object_get(r, "splits")), 2);
    json_decref(r);
}

static void classes_come_from_a_file(void **state)
{
    static const char classes[] = "square <16> & tone 16 | number 16 | a sixteenth\n\nsquare <17> & tone 17\n";
    struct err e = {0};
    assert_int_equal(file_write(at("classes.txt"), classes, strlen(classes), &e), 0);
    expect(RUN("eval", at("run"), "--zero-shot", at("classes.txt"), "--template", "a {} here", "--json", "-"), 0);
    json_t *r = json_of(out), *split = json_array_get(json_object_get(r, "splits"), 0);
    const json_t *z = json_array_get(json_object_get(split, "zero_shot"), 0);
    assert_int_equal(json_integer_value(json_object_get(z, "classes")), 2);
    assert_int_equal(json_integer_value(json_object_get(z, "items")), 2);
    assert_int_equal(json_integer_value(json_object_get(z, "unknown")), TOY_TEST - 1 - 2);
    assert_float_equal(real(z, "accuracy@1", "chance"), 0.5, 1e-6);
    json_decref(r);
    assert_int_equal(file_write(at("classes.txt"), "a\nb\na\n", 6, &e), 0);
    expect(RUN("eval", at("run"), "--zero-shot", at("classes.txt")), 5);
    holds(err, "classes.txt:3: the class 'a' comes a second time");
    assert_int_equal(file_write(at("classes.txt"), "a\nb\n", 4, &e), 0);
    expect(RUN("eval", at("run"), "--zero-shot", at("classes.txt")), 3);
    holds(err, "no item's label is one of the 2 classes");
    expect(RUN("eval", at("run"), "--zero-shot", "names", "--template", "no gap"), 2);
    holds(err, "has no {}");
}

static void eval_says_what_is_wrong(void **state)
{
    struct err e = {0};
    expect(RUN("eval", at("run"), "--split", "tset"), 3);
    holds(err, "tset");
    expect(RUN("eval", at("run"), "--data", at("nothing.jsonl")), 4);
    holds(err, "nothing.jsonl");
    expect(RUN("eval", "/usr"), 4);
    holds(err, "not a run folder");
    assert_int_equal(file_mkdirs(at("empty"), &e), 0);
    static const char *const files[] = {"config.yaml", "tokenizer.text.json"};
    for (int i = 0; i < 2; i++) {
        char *text, name[64], to[64];
        size_t n;
        snprintf(name, sizeof name, "run/%s", files[i]);
        snprintf(to, sizeof to, "empty/%s", files[i]);
        assert_int_equal(file_read(at(name), 1 << 20, &text, &n, &e), 0);
        assert_int_equal(file_write(at(to), text, n, &e), 0);
        free(text);
    }
    expect(RUN("eval", at("empty")), 4);
    holds(err, "no checkpoint yet");
    expect(RUN("eval", at("run"), "--json", at("no/such/folder.json")), 4);
    holds(err, "folder.json");
}

/* ---- embed */

static void embed_writes_every_modality(void **state)
{
    expect(RUN("embed", at("run"), at("manifest.jsonl"), "-o", at("x.safetensors")), 0);
    struct err e = {0};
    struct st_file *f;
    if (st_open(at("x.safetensors"), &f, &e)) fail_msg("%s", e.msg);
    static const char *const names[] = {"image", "text", "tone"};
    int n = TOY_TRAIN + TOY_TEST, width = 12;
    for (int k = 0; k < 3; k++) {
        char name[32];
        snprintf(name, sizeof name, "%s.present", names[k]);
        const struct st_tensor *t = st_find(f, names[k]), *p = st_find(f, name);
        assert_non_null(t);
        assert_non_null(p);
        assert_int_equal(t->dim[0], n);
        assert_int_equal(t->dim[1], width);
        float *x = malloc((size_t)(n * width) * sizeof *x);
        assert_int_equal(st_read_f32(f, t, x, &e), 0);
        const unsigned char *present = p->data;
        for (int i = 0; i < n; i++) {
            int want = !(k == 0 && i == n - 2) && !(k == 2 && i == n - 1);
            double square = 0;
            for (int c = 0; c < width; c++) square += (double)x[i * width + c] * x[i * width + c];
            assert_int_equal(present[i], want);
            assert_float_equal(square, want, 1e-5); /* unit vectors in f32; zero where absent */
        }
        free(x);
    }
    json_t *ids = json_of(st_metadata(f, "ids"));
    assert_int_equal(json_array_size(ids), n);
    assert_string_equal(json_string_value(json_array_get(ids, 3)), "i3");
    json_decref(ids);
    st_close(f);
    expect(RUN("embed", at("run"), at("manifest.jsonl")), 2);
    holds(err, "-o FILE");
    expect(RUN("embed", at("run"), at("manifest.jsonl"), "-o", at("t.safetensors"), "--split", "test"), 0);
}

/* ---- search */

static json_t *results(void)
{
    json_t *r = json_of(out), *list = json_incref(json_object_get(r, "results"));
    json_decref(r);
    assert_true(json_is_array(list));
    return list;
}

static void search_finds_a_thing_by_itself(void **state)
{
    expect(RUN("search", at("run"), index_file, "--image", at("image/3.png"), "--in", "image", "-k", "3", "--json"), 0);
    json_t *list = results();
    assert_int_equal(json_array_size(list), 3);
    assert_string_equal(json_string_value(json_object_get(json_array_get(list, 0), "id")), "i3");
    assert_float_equal(json_number_value(json_object_get(json_array_get(list, 0), "similarity")), 1, 1e-5);
    double before = 2;
    for (int i = 0; i < 3; i++) {
        double s = json_number_value(json_object_get(json_array_get(list, (size_t)i), "similarity"));
        assert_true(s <= before);
        before = s;
    }
    json_decref(list);
    expect(RUN("search", at("run"), index_file, "--audio", at("audio/5.wav"), "--in", "tone", "-k", "1", "--json"), 0);
    list = results();
    assert_string_equal(json_string_value(json_object_get(json_array_get(list, 0), "id")), "i5");
    json_decref(list);
    expect(RUN("search", at("run"), index_file, "square <7> & tone 7", "--in", "text", "--json", "-k", "1"), 0);
    list = results();
    assert_string_equal(json_string_value(json_object_get(json_array_get(list, 0), "id")), "i7");
    assert_string_equal(json_string_value(json_object_get(json_array_get(list, 0), "caption")), "square <7> & tone 7");
    json_decref(list);
    /* by the modality's own name; more than there are */
    char *query = NULL;
    assert_true(asprintf(&query, "tone=%s", at("audio/0.wav")) > 0);
    expect(RUN("search", at("run"), index_file, "--query", query, "-k", "100", "--json"), 0);
    free(query);
    list = results();
    assert_int_equal(json_array_size(list), TOY_TRAIN + TOY_TEST - 1); /* pictures: one item has none */
    json_decref(list);
}

static void search_prints_and_makes_a_page(void **state)
{
    expect(RUN("search", at("run"), index_file, "square <0> & tone 0", "--in=text", "-k", "2", "--html", at("s.html")),
           0);
    holds(out, "  1   1.000  i0 ");
    holds(out, "\xf0\x9f\x98\x80  square <0> & tone 0");
    char *page;
    size_t n;
    struct err e = {0};
    assert_int_equal(file_read(at("s.html"), 1 << 22, &page, &n, &e), 0);
    holds(page, "square &lt;0&gt; &amp; tone 0");
    free(page);
}

static void a_manifest_is_embedded_once(void **state)
{
    expect(RUN("search", at("run"), at("manifest.jsonl"), "number 4", "--json"), 0);
    char *first = strdup(out);
    char **names;
    int n, found = 0;
    struct err e = {0};
    assert_int_equal(file_list(at("run"), &names, &n, &e), 0);
    for (int i = 0; i < n; i++) found += !strncmp(names[i], "index-", 6);
    file_list_free(names, n);
    assert_int_equal(found, 1);
    expect(RUN("search", at("run"), at("manifest.jsonl"), "number 4", "--json"), 0);
    assert_string_equal(out, first);
    assert_null(strstr(err, "items")); /* no progress line: nothing was embedded */
    free(first);
}

/* What `embed -o` wrote is an index under any name. */
static void an_index_is_known_by_its_content(void **state)
{
    struct err e = {0};
    char *data;
    size_t n;
    assert_int_equal(file_read(at("x.safetensors"), 1 << 24, &data, &n, &e), 0);
    assert_int_equal(file_write(at("x.index"), data, n, &e), 0);
    free(data);
    expect(RUN("search", at("run"), at("x.safetensors"), "red", "-k", "3"), 0);
    char *want = strdup(out);
    expect(RUN("search", at("run"), at("x.index"), "red", "-k", "3"), 0);
    assert_string_equal(out, want);
    assert_string_equal(err, "");
    free(want);
}

static void search_says_what_is_wrong(void **state)
{
    struct err e = {0};
    expect(RUN("search", at("run"), index_file), 2);
    holds(err, "there is no query");
    expect(RUN("search", at("run"), index_file, "a", "--image", at("image/1.png")), 2);
    holds(err, "more than one query");
    expect(RUN("search", at("run"), index_file, "a", "--in", "sound"), 2);
    holds(err, "this model has image, text, tone");
    expect(RUN("search", at("run"), index_file, "--query", "smell=rose"), 2);
    holds(err, "there is no modality 'smell'");
    expect(RUN("search", at("run"), index_file, "--image", at("nothing.png")), 4);
    holds(err, "nothing.png");
    expect(RUN("search", at("run"), index_file, "--image", at("audio/1.wav")), 5);
    holds(err, "1.wav");
    expect(RUN("search", at("run"), index_file, "--audio", at("image/1.png")), 5);
    holds(err, "1.png");
    assert_int_equal(file_write(at("bad.safetensors"), "not an index", 12, &e), 0);
    expect(RUN("search", at("run"), at("bad.safetensors"), "a"), 5);
    holds(err, "bad.safetensors");
    char *weights = NULL;
    assert_true(asprintf(&weights, "%s", at("run/checkpoints/step-12/model.safetensors")) > 0);
    expect(RUN("search", at("run"), weights, "a"), 5);
    holds(err, "not an index");
    free(weights);
    expect(RUN("search", "/usr", index_file, "a"), 4);
    /* another training gives other weights: the index is of no use then */
    char *other = NULL;
    assert_true(asprintf(&other, "train.out=%s/other", dir.path) > 0);
    expect(RUN("train", at("config.yaml"), other, "train.seed=5", "train.steps=2", "data.valid=[]"), 0);
    free(other);
    expect(RUN("search", at("other"), index_file, "a"), 10);
    holds(err, "other weights");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_batches_are_shown),    cmocka_unit_test(the_config_is_dumped_and_read_back),
        cmocka_unit_test(a_failed_train_says_one_thing),  cmocka_unit_test(eval_writes_its_figures),
        cmocka_unit_test(classes_come_from_a_file),       cmocka_unit_test(eval_says_what_is_wrong),
        cmocka_unit_test(embed_writes_every_modality),    cmocka_unit_test(an_index_is_known_by_its_content),
        cmocka_unit_test(search_finds_a_thing_by_itself), cmocka_unit_test(search_prints_and_makes_a_page),
        cmocka_unit_test(a_manifest_is_embedded_once),    cmocka_unit_test(search_says_what_is_wrong),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
