/* The report of an untrained tiny model: the page is sound HTML that needs nothing from outside, the JSON holds what
 * was measured. And the parts beneath: class files, indexes, heat maps. */
#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "eval/index.h"
#include "eval/report.h"
#include "eval/show.h"
#include "tests/support/toy.h"

static struct temp_dir dir;
static struct run_model *model;
static struct manifest data;

#define OK(call)                         \
    do {                                 \
        struct err e = {0};              \
        if (call) fail_msg("%s", e.msg); \
    } while (0)

static const char metrics[] = "{\"step\": 2, \"loss\": 2.5, \"lr\": 0.001, \"samples_per_s\": 100}\n"
                              "{\"step\": 2, \"test/text->image R@1\": 0.1}\n"
                              "not a line of JSON\n"
                              "{\"step\": 4, \"loss\": null, \"lr\": 0.002, \"samples_per_s\": 120}\n"
                              "{\"step\": 4, \"test/text->image R@1\": 0.3}\n"
                              "{\"step\": 6, \"los";

static int begin(void **state)
{
    struct err e = {0};
    temp_dir_begin(&dir);
    toy_make(&dir);
    bool ok = !run_model_new(temp_path(&dir, "config.yaml"), NULL, 0, &model, &e) && !run_model_commit(model, &e) &&
              !manifest_load(temp_path(&dir, "manifest.jsonl"), &data, &e) && !file_mkdirs(model->dir, &e) &&
              !file_write(temp_path(&dir, "run/metrics.jsonl"), metrics, strlen(metrics), &e);
    if (!ok) print_error("%s\n", e.msg);
    return ok ? 0 : -1;
}

static int end(void **state)
{
    run_model_free(model);
    manifest_free(&data);
    temp_dir_end(&dir);
    return 0;
}

static char *read_all(const char *name)
{
    char *text;
    size_t n;
    OK(file_read(temp_path(&dir, name), 10000000, &text, &n, &e));
    assert_int_equal(strlen(text), n);
    return text;
}

/* Every element is closed by its own end tag, in order, but for those that have none. */
static void assert_balanced(const char *html)
{
    static const char *const void_tags[] = {"meta", "img", "br", "!doctype"};
    char open[64][16];
    int depth = 0;
    for (const char *at = strchr(html, '<'); at; at = strchr(at, '<')) {
        bool closing = at[1] == '/';
        const char *name = at + 1 + closing;
        size_t n = strcspn(name, " \t\n>/");
        if (n == 0 || n >= 16) fail_msg("not a tag: %.40s", at);
        char tag[16];
        snprintf(tag, sizeof tag, "%.*s", (int)n, name);
        const char *stop = name + n;
        for (char quote = 0; *stop && (quote || *stop != '>'); stop++)
            if (*stop == '"') quote = !quote;
        if (!*stop) fail_msg("a tag does not end: %.40s", at);
        bool alone = stop[-1] == '/';
        for (size_t i = 0; i < sizeof void_tags / sizeof *void_tags; i++) alone |= !strcmp(tag, void_tags[i]);
        if (closing) {
            if (!depth || strcmp(open[depth - 1], tag))
                fail_msg("</%s> closes <%s>", tag, depth ? open[depth - 1] : "");
            depth--;
        } else if (!alone) {
            assert_true(depth < 64);
            memcpy(open[depth++], tag, sizeof tag);
        }
        at = stop + 1;
        if (!closing && !strcmp(tag, "style")) at = strstr(at, "</style>"); /* CSS may hold > */
    }
    if (depth) fail_msg("<%s> is never closed", open[depth - 1]);
}

static int count(const char *text, const char *part)
{
    int n = 0;
    for (const char *at = strstr(text, part); at; at = strstr(at + 1, part)) n++;
    return n;
}

static void make(struct eval_report *r)
{
    static const char *const splits[] = {"test", "train"}, *const templates[] = {"a {}"};
    struct eval_report_options o = {
        .splits = splits, .n_splits = 2, .classes = "names", .templates = templates, .n_templates = 1};
    OK(eval_report_make(model, &data, &o, r, &e));
    r->command = mem_strdup("triad eval <&\"> x");
}

static void the_page_is_sound(void **state)
{
    struct eval_report r;
    make(&r);
    OK(eval_report_html(&r, temp_path(&dir, "r.html"), &e));
    char *page = read_all("r.html");
    assert_balanced(page);
    /* the one address is SVG's name, which nothing fetches */
    assert_int_equal(count(page, "http://"), count(page, "xmlns=\"http://www.w3.org/2000/svg\""));
    assert_int_equal(count(page, "https://"), 0);
    assert_int_equal(count(page, "<script"), 0);
    assert_int_equal(count(page, "src=\""), count(page, "src=\"data:"));
    static const char *const wanted[] = {"Retrieval",
                                         "Zero-shot",
                                         "R@1 on test",
                                         "Nearest misses",
                                         "Learning rate",
                                         "Similarities",
                                         "audio/wav",
                                         "image/png",
                                         "square &lt;20&gt; &amp; tone 20",
                                         "triad eval &lt;&amp;&quot;&gt; x",
                                         "kind: image"};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        if (!strstr(page, wanted[i])) fail_msg("the page lacks \"%s\"", wanted[i]);
    free(page);
    eval_report_free(&r);
}

static void the_json_has_the_figures(void **state)
{
    struct eval_report r;
    make(&r);
    OK(eval_report_json(&r, temp_path(&dir, "r.json"), &e));
    char *text = read_all("r.json");
    json_error_t why;
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, &why);
    if (!root) fail_msg("%d: %s", why.line, why.text);
    const json_t *splits = json_object_get(root, "splits");
    assert_int_equal(json_array_size(splits), 2);
    for (int i = 0; i < 2; i++) {
        const json_t *s = json_array_get(splits, (size_t)i), *list = json_object_get(s, "directions");
        assert_int_equal(json_array_size(list), r.split[i].n_d);
        for (int k = 0; k < r.split[i].n_d; k++) {
            const struct eval_direction *d = &r.split[i].d[k];
            const json_t *o = json_array_get(list, (size_t)k);
            assert_string_equal(json_string_value(json_object_get(o, "query")), model->tower[d->query].name);
            assert_int_equal(json_integer_value(json_object_get(o, "candidates")), d->candidates);
            /* 6 digits are written */
            assert_float_equal(json_number_value(json_object_get(o, "mAP")), d->map, 1e-6);
            assert_float_equal(json_number_value(json_object_get(json_object_get(o, "R@5"), "value")), d->recall[1],
                               1e-6);
            assert_float_equal(json_number_value(json_object_get(json_object_get(o, "R@5"), "high")), d->high[1], 1e-6);
        }
        assert_int_equal(json_array_size(json_object_get(s, "zero_shot")), 2);
    }
    json_decref(root);
    free(text);
    eval_report_free(&r);
}

/* With each item's own caption as the class's only prompt, classification is retrieval. */
static void zero_shot_by_names_is_retrieval(void **state)
{
    struct eval_set s;
    struct eval_classes c;
    struct eval_zeroshot z;
    struct eval_direction d;
    OK(eval_set_make(model, &data, "test", 0, &s, false, &e));
    OK(eval_classes_of(model, &data, &s, NULL, 0, &c, &e));
    assert_int_equal(c.n, TOY_TEST);
    OK(eval_zeroshot_make(model, &data, &s, 0, 1, &c, 0, &z, &e));
    eval_direction_make(&s, 0, 1, 0, &d);
    assert_int_equal(z.d.queries, d.queries);
    assert_memory_equal(z.d.rank, d.rank, (size_t)d.queries * sizeof *d.rank);
    assert_memory_equal(z.d.chance, d.chance, sizeof d.chance);
    eval_direction_free(&d);
    eval_zeroshot_free(&z);
    eval_classes_free(&c);
    eval_set_free(&s);
}

static int read_classes(const char *text, struct eval_classes *c, struct err *why)
{
    static const char *const templates[] = {"a {}!", "{}"};
    OK(file_write(temp_path(&dir, "classes"), text, strlen(text), &e));
    return eval_classes_read(temp_path(&dir, "classes"), templates, 2, c, why);
}

static void class_files(void **state)
{
    struct eval_classes c;
    struct err e = {0};
    assert_int_equal(read_classes(" woman: red hair \r\n\nfox|a fox | foxes: two\n", &c, &e), 0);
    assert_int_equal(c.n, 2);
    assert_string_equal(c.v[0].name, "woman: red hair");
    assert_int_equal(c.v[0].n, 2);
    assert_string_equal(c.v[0].prompt[0], "a woman: red hair!");
    assert_string_equal(c.v[0].prompt[1], "woman: red hair");
    assert_string_equal(c.v[1].name, "fox");
    assert_int_equal(c.v[1].n, 2);
    assert_string_equal(c.v[1].prompt[1], "foxes: two");
    eval_classes_free(&c);
    static const char *const wrong[] = {"", "\n \n", "| a", "a | b |", "a ||b", "a\na"};
    for (int i = 0; i < 6; i++) {
        struct err why = {0};
        if (read_classes(wrong[i], &c, &why) != ERR_FORMAT) fail_msg("'%s' was read", wrong[i]);
        assert_non_null(strstr(why.msg, "classes"));
        assert_int_equal(c.n, 0);
    }
}

static void index_search_is_exact(void **state)
{
    enum { N = 300, WIDTH = 7, K = 40 };
    struct eval_index x = {.n = N, .width = WIDTH, .n_modalities = 1};
    struct rng r = rng_make(3, 3, 3);
    float q[WIDTH];
    double sim[N];
    x.unit[0] = mem_alloc(N * WIDTH * sizeof(float));
    x.present[0] = mem_alloc(N);
    for (int c = 0; c < WIDTH; c++) q[c] = (float)rng_normal(&r);
    for (int i = 0; i < N; i++) {
        x.present[0][i] = rng_unit(&r) < 0.7;
        sim[i] = 0;
        for (int c = 0; c < WIDTH; c++) {
            x.unit[0][i * WIDTH + c] = (float)rng_normal(&r);
            sim[i] += (double)x.unit[0][i * WIDTH + c] * q[c];
        }
    }
    struct eval_hit hit[N];
    int64_t n = eval_index_search(&x, 0, q, K, hit);
    assert_int_equal(n, K);
    for (int i = 0; i < K; i++) {
        int better = 0;
        for (int j = 0; j < N; j++) better += x.present[0][j] && sim[j] > sim[hit[i].item];
        assert_int_equal(better, i);
        assert_true(x.present[0][hit[i].item]);
        assert_float_equal(hit[i].similarity, sim[hit[i].item], 1e-5); /* f32 against double, sums of 7 */
    }
    int64_t present = 0;
    for (int i = 0; i < N; i++) present += x.present[0][i];
    assert_int_equal(eval_index_search(&x, 0, q, N, hit), present);
    eval_index_free(&x);
}

static void an_index_is_read_as_written(void **state)
{
    struct eval_index x, y;
    OK(eval_index_make(model, &data, "test", false, &x, &e));
    OK(eval_index_write(&x, "some/run", temp_path(&dir, "x.safetensors"), &e));
    OK(eval_index_read(temp_path(&dir, "x.safetensors"), &y, &e));
    assert_int_equal(y.n, TOY_TEST);
    assert_int_equal(y.n_modalities, x.n_modalities);
    assert_true(y.weights == x.weights && y.weights == eval_weights(model));
    for (int i = 0; i < y.n_modalities; i++) {
        int k = 0;
        while (strcmp(x.name[k], y.name[i])) k++;
        assert_memory_equal(y.unit[i], x.unit[k], (size_t)(x.n * x.width) * sizeof(float));
        assert_memory_equal(y.present[i], x.present[k], (size_t)x.n);
    }
    for (int64_t i = 0; i < y.n; i++) {
        assert_string_equal(y.id[i], x.id[i]);
        assert_string_equal(y.caption[i], x.caption[i]);
    }
    assert_string_equal(y.split, "test");
    eval_index_free(&x);
    eval_index_free(&y);
}

static void heat_maps_go_from_dark_to_light(void **state)
{
    static const float x[] = {0, 1, NAN, /**/ 0.5f, 0.25f, 1};
    struct buf png = {0};
    struct data_image im;
    OK(eval_heat_png(x, 2, 3, &png, &e));
    OK(data_image_decode("heat", png.data, png.len, &im, &e));
    assert_int_equal(im.h, 2);
    assert_int_equal(im.w, 3);
    int light[6];
    for (int i = 0; i < 6; i++) light[i] = im.px[3 * i] + im.px[3 * i + 1] + im.px[3 * i + 2];
    /* row 0 of x is the lower one of the picture */
    assert_true(light[3] < 10 && light[5] < 10);
    assert_true(light[3] < light[1] && light[1] < light[0] && light[0] < light[4]);
    assert_int_equal(light[2], light[4]);
    /* magma(1) is (0.987, 0.991, 0.750); the polynomial is within 0.02 */
    assert_true(abs(im.px[12] - 252) <= 5 && abs(im.px[13] - 253) <= 5 && abs(im.px[14] - 191) <= 5);
    data_image_free(&im);
    buf_free(&png);
}

static void an_unreadable_file_is_said_in_its_place(void **state)
{
    struct manifest m;
    struct buf b = {0};
    static const char line[] = "{\"image\": \"no-such.png\"}";
    OK(manifest_parse("m", dir.path, line, sizeof line - 1, &m, &e));
    struct eval_show s = {.px = 64};
    eval_show(&b, &s, &m, eval_entry(&m, 0, "image", NULL, 0), DATA_IMAGE);
    assert_non_null(strstr(b.data, "no-such.png"));
    assert_null(eval_entry(&m, 0, "audio", NULL, 0));
    assert_balanced(b.data);
    buf_free(&b);
    manifest_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_page_is_sound),
        cmocka_unit_test(the_json_has_the_figures),
        cmocka_unit_test(zero_shot_by_names_is_retrieval),
        cmocka_unit_test(class_files),
        cmocka_unit_test(index_search_is_exact),
        cmocka_unit_test(an_index_is_read_as_written),
        cmocka_unit_test(heat_maps_go_from_dark_to_light),
        cmocka_unit_test(an_unreadable_file_is_said_in_its_place),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
