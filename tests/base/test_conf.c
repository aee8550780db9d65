/* base/conf: what good documents become, the exact sentence for each bad one, and that a dump reads back as it was. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include "base/rng.h"
#include "tests/base/conf_example.h"

#define MODEL "model: {embed: 8, image: {tower: resnet}}\n"
#define GOOD "name: a\n" MODEL

static int parse(struct conf *c, const char *text, const char *const *over, int n, struct example *x, struct err *e)
{
    return conf_parse(c, "a.yaml", text, strlen(text), over, n, &example_table, x, e);
}

static void test_values(void **state)
{
    struct conf c = {0};
    struct example x;
    struct err e = {0};
    const char *text = "# a run\n"
                       "name: \"1e3 \\u00e9\"\n"
                       "fast: false\n"
                       "steps: 1e5\n"
                       "top: -3\n"
                       "memory: 512MiB\n"
                       "every: 1.5h\n"
                       "decay: linear\n"
                       "pairs: [image-text, \"text-speech\"]\n"
                       "named:\n"
                       "  b: {tower: resnet, widths: 16}\n"
                       "  a: {tower: transformer, heads: 2}\n"
                       "model:\n"
                       "  embed: 128\n"
                       "  image: {tower: resnet, widths: [8, 16, 32]}\n"
                       "  speech:\n"
                       "    tower: transformer\n"
                       "    width: 96\n"
                       "    stem: [[3, 2], [5], {width: 7, stride: 3}]\n"
                       "    mel: 40\n"
                       "optim: {sgd: {momentum: 0}, clip: 0.5}\n";
    assert_int_equal(parse(&c, text, NULL, 0, &x, &e), 0);
    assert_string_equal(x.name, "1e3 \xc3\xa9");
    assert_null(x.init);
    assert_false(x.fast);
    assert_int_equal(x.steps, 100000);
    assert_int_equal(x.top, -3);
    assert_int_equal(x.memory, 512 << 20);
    assert_true(x.every == 5400 && x.decay == 1);
    assert_int_equal(x.pairs.n, 2);
    assert_string_equal(x.pairs.v[1], "text-speech");
    assert_int_equal(x.named.n, 2); /* in the file's order */
    assert_string_equal(x.named.v[0].name, "b");
    assert_int_equal(x.named.v[0].widths.n, 1);
    assert_string_equal(x.named.v[1].name, "a");
    assert_true(x.named.v[1].kind == 1 && x.named.v[1].heads == 2 && x.named.v[1].width == 128);
    assert_int_equal(x.model.embed, 128);
    assert_int_equal(x.model.towers.n, 2);
    const struct tower *speech = &x.model.towers.v[1];
    assert_int_equal(x.model.towers.v[0].widths.v[2], 32);
    assert_null(x.model.towers.v[0].mel);
    assert_int_equal(speech->stem.n, 3);
    assert_true(speech->stem.v[0].width == 3 && speech->stem.v[0].stride == 2);
    assert_true(speech->stem.v[1].width == 5 && speech->stem.v[1].stride == 1);
    assert_true(speech->stem.v[2].width == 7 && speech->stem.v[2].stride == 3);
    assert_true(speech->mel && speech->mel->bins == 40 && speech->mel->window == 0.025);
    assert_int_equal(x.optim.kind, OPTIM_SGD);
    assert_true(x.optim.sgd.lr == 0.1 && x.optim.sgd.momentum == 0 && x.optim.clip == 0.5);
    assert_string_equal(conf_where(&c, &x.steps), "a.yaml:4:8");
    assert_string_equal(conf_where(&c, &speech->width), "a.yaml:18:12");
    assert_string_equal(conf_where(&c, &speech->heads), "a.yaml");
    assert_string_equal(conf_where(&c, &x.pairs.v[1]), "a.yaml:9:21");
    conf_free(&c);
}

static void test_aliases_and_merge(void **state)
{
    struct conf c = {0};
    struct example x;
    struct err e = {0};
    const char *text = "name: a\nmodel:\n  embed: 4\n  text: &t {tower: transformer, width: 64, heads: 8}\n"
                       "  speech: *t\n  more: {<<: *t, width: 32}\n";
    const char *const over[] = {"model.speech.width=16"}; /* must not reach the other users of the alias */
    assert_int_equal(parse(&c, text, over, 1, &x, &e), 0);
    const struct tower *t = x.model.towers.v;
    assert_true(t[0].width == 64 && t[1].width == 16 && t[2].width == 32 && t[2].heads == 8 && t[1].heads == 8);
    conf_free(&c);
}

static void test_overrides(void **state)
{
    static const char *const over[] = {"optim.adam.lr=2e-3",       "name=b c",
                                       "model.image.widths=[1,2]", "model.new.tower=resnet",
                                       "model.image.stem.0=[9]",   "model.image.stem.1=[8, 2]",
                                       "model.image.mel.bins=7",   "init=x=y"};
    struct conf c = {0};
    struct example x;
    struct err e = {0};
    assert_int_equal(parse(&c, "name: a\nmodel: {embed: 8, image: {tower: resnet, stem: [[5]]}}\n", over, 8, &x, &e),
                     0);
    assert_true(x.optim.kind == OPTIM_ADAM && x.optim.adam.lr == 2e-3);
    assert_string_equal(x.name, "b c");
    assert_string_equal(x.init, "x=y");
    assert_int_equal(x.model.towers.n, 2);
    assert_string_equal(x.model.towers.v[1].name, "new");
    const struct tower *image = x.model.towers.v;
    assert_true(image->widths.n == 2 && image->widths.v[1] == 2);
    assert_true(image->stem.n == 2 && image->stem.v[0].width == 9 && image->stem.v[1].stride == 2);
    assert_int_equal(image->mel->bins, 7);
    assert_string_equal(conf_where(&c, &x.optim.adam.lr), "a.yaml: override 1");
    const char *const change[] = {"optim.adam=null", "optim.sgd.lr=3"};
    assert_int_equal(parse(&c, GOOD "optim: {adam: {lr: 1}}\n", change, 2, &x, &e), 0);
    assert_true(x.optim.kind == OPTIM_SGD && x.optim.sgd.lr == 3);
    conf_free(&c);
}

static const struct {
    const char *text, *message;
    const char *over;
} bad[] = {
    {"", "a.yaml:1:1: the file is empty; expected keys and values"},
    {"# only this\n", "a.yaml:1:1: the file is empty; expected keys and values"},
    {"---\n...\n", "a.yaml:1:1: the file is empty; expected keys and values"},
    {"- a\n", "a.yaml:1:1: expected keys and values (`key: value`)"},
    {"name: a\nmodel: {embed: 8, image: {tower: resnet}}\noptim:\n  adam:\n    rl: 3\n",
     "a.yaml:5:5: unknown key 'rl' in optim.adam; did you mean 'lr'?"},
    {GOOD "optim:\n  adam: {learning: 1}\n", "a.yaml:4:10: unknown key 'learning' in optim.adam; expected lr or betas"},
    {GOOD "stesp: 3\n", "a.yaml:3:1: unknown key 'stesp'; did you mean 'steps'?"},
    {"name: a\nmodel: {embed: 8, image: {tower: resnet, heads: 2}}\n",
     "a.yaml:2:42: unknown key 'heads' in model.image; expected tower, widths, stem or mel"},
    {"name: a\nmodel: {embde: 8, image: {tower: resnet}}\n",
     "a.yaml:2:9: model: the key 'embed' is missing (width of the shared space); is it what 'embde' means?"},
    {"name: a\nmodel: {embed: 8}\n", "a.yaml:2:8: model: expected at least 1 value, got 0"},
    {"name: a\nmodel: {embed: 8, image: {widths: 3}}\n",
     "a.yaml:2:26: model.image: the key 'tower' is missing (the family)"},
    {"name: a\nmodel: {embed: 8, im age: {tower: resnet}}\n",
     "a.yaml:2:19: model: 'im age' is no good name; use up to 64 letters, digits, _ and -"},
    {"name: a\nmodel: {embed: 8, image: 3}\n",
     "a.yaml:2:26: model.image: expected keys and values (tower: ..., stem: ..., mel: ...), got '3'"},
    {"name: a\nname: b\n", "a.yaml:2:1: key 'name' is given twice; the first is in line 1"},
    {MODEL, "a.yaml:1:1: the key 'name' is missing (of the run)"},
    {GOOD "steps: abc\n", "a.yaml:3:8: steps: expected a whole number, got 'abc'"},
    {GOOD "steps: 1.5\n", "a.yaml:3:8: steps: expected a whole number, got '1.5'"},
    {GOOD "steps: 99999999999999999999\n", "a.yaml:3:8: steps: expected a whole number, got '99999999999999999999'"},
    {GOOD "steps: \"3\"\n", "a.yaml:3:8: steps: expected a whole number, got the text \"3\""},
    {GOOD "steps:\n", "a.yaml:3:1: steps: expected a whole number, got nothing"},
    {GOOD "steps: [3]\n", "a.yaml:3:8: steps: expected a whole number, got a list"},
    {GOOD "steps: 0\n", "a.yaml:3:8: steps: expected at least 1, got 0"},
    {GOOD "fast: yes\n", "a.yaml:3:7: fast: expected true or false, got 'yes'"},
    {GOOD "every: soon\n", "a.yaml:3:8: every: expected a duration (such as 25ms, 30s, 4m, 1.5h), got 'soon'"},
    {GOOD "every: 0s\n", "a.yaml:3:8: every: expected more than 0 and at most 10d, got 0s"},
    {GOOD "memory: big\n", "a.yaml:3:9: memory: expected a size (such as 64k, 512MiB, 2GB), got 'big'"},
    {GOOD "decay: cosin\n",
     "a.yaml:3:8: decay: expected one of cosine, linear, none, got 'cosin'; did you mean 'cosine'?"},
    {GOOD "decay: {}\n", "a.yaml:3:8: decay: expected one of cosine, linear, none, got keys and values"},
    {GOOD "name2: {}\n", "a.yaml:3:1: unknown key 'name2'; did you mean 'name'?"},
    {"name: null\n" MODEL, "a.yaml:1:7: name: expected text, got null"},
    {"name: [a]\n" MODEL, "a.yaml:1:7: name: expected text, got a list"},
    {"name: \"a\\0b\"\n" MODEL, "a.yaml:1:7: the text holds a 0 byte"},
    {GOOD "pairs: {a: 1}\n", "a.yaml:3:8: pairs: expected a list of texts, got keys and values"},
    {GOOD "optim: {adam: {lr: 0}}\n", "a.yaml:3:20: optim.adam.lr: expected more than 0 and at most 10, got 0"},
    {GOOD "optim: {adam: {lr: nan}}\n", "a.yaml:3:20: optim.adam.lr: expected a number, got 'nan'"},
    {GOOD "optim: {adam: {betas: [0.9]}}\n", "a.yaml:3:23: optim.adam.betas: expected 2 values, got 1"},
    {GOOD "optim: {adam: {betas: [0.9, 2]}}\n", "a.yaml:3:29: optim.adam.betas.1: expected from 0 to 1, got 2"},
    {GOOD "optim: {adam: {}, sgd: {}}\n",
     "a.yaml:3:19: optim: 'adam' and 'sgd' exclude each other; keep one (or set the other to null)"},
    {"name: a\nmodel: {embed: 8, image: {tower: resnet, stem: [[1, 2, 3]]}}\n",
     "a.yaml:2:49: model.image.stem.0: expected 1 to 2 values, got 3"},
    {"name: a\nmodel: {embed: 8, image: {tower: resnet, stem: {}}}\n",
     "a.yaml:2:48: model.image.stem: expected a list, got keys and values"},
    {"name: a\nmodel: {embed: 8, image: {tower: transformer, width: 10}}\n",
     "a.yaml:2:26: model.image: width 10 is no multiple of heads 4"},
    {"name: a\nmodel: {embed: 8, image: *none}\n", "a.yaml:2:26: alias '*none' has no complete '&none' above it"},
    {"name: a\nmodel: &m {embed: 8, image: *m}\n", "a.yaml:2:29: alias '*m' has no complete '&m' above it"},
    {"name: !!str a\n", "a.yaml:1:7: YAML tags (!...) are not used here; remove it"},
    {"name: a\n---\nname: b\n", "a.yaml:2:1: a second document begins here; one is expected"},
    {"name: a\n\tb: c\n", "a.yaml:1:7: this is not YAML: "},
    {"name: [a\n", "a.yaml:2:1: this is not YAML: "},
    {"name: 'a\n", "a.yaml:1:8: this is not YAML: "},
    {"name: a: b\n", "a.yaml:1:8: this is not YAML: "},
    {"{a: b}}\n", "a.yaml:1:7: this is not YAML: "},
    {"name: a\xff\n", "a.yaml:1:8: this is not UTF-8 text (byte 0xff); save the file as UTF-8"},
    {"na\xc3\xa9: \x01\n", "a.yaml:1:6: a control character (byte 0x01)"},
    {"? {a: b}\n: c\n", "a.yaml:1:3: a key must be a plain name"},
    {GOOD, "a.yaml: override 1: unknown key 'optim.adam.lrr'; did you mean 'optim.adam.lr'?", "optim.adam.lrr=1"},
    {GOOD, "a.yaml: override 1: unknown key 'optm'; did you mean 'optim'?", "optm.adam.lr=1"},
    {GOOD, "a.yaml: override 1: optim.adam.lr: expected a number, got 'x'", "optim.adam.lr=x"},
    {GOOD, "a.yaml: override 1: expected key=value, got 'optim'", "optim"},
    {GOOD, "a.yaml: override 1: 'optim..lr' is no key; expected names joined by dots", "optim..lr=1"},
    {GOOD "pairs: [a]\n", "a.yaml: override 1: 'x' is no element of a list of 1; the first is 0, and 1 adds one",
     "pairs.x=1"},
    {GOOD, "a.yaml: override 1: this is not YAML: ", "name=['x"},
    {GOOD, "a.yaml: override 1: this is not UTF-8 text (byte 0xff)", "name=\xff"},
    {GOOD, "a.yaml: override 1: '\xff' is no key; expected names joined by dots", "\xff=1"},
    {GOOD "optim: {adam: {}}\n",
     "a.yaml: override 1: optim: 'adam' and 'sgd' exclude each other; keep one (or set the other to null)",
     "optim.sgd.lr=1"},
    {GOOD "named: {x: {tower: resnet, tower: resnet}}\n",
     "a.yaml:3:28: key 'tower' is given twice; the first is in line 3"},
    {GOOD "named: {<<: 3}\n", "a.yaml:3:9: '<<' takes a map, as in `<<: *base` with `&base` written at a map above"},
};

static void test_bad(void **state)
{
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct conf c = {0};
        struct example x;
        struct err e = {0};
        assert_int_equal(parse(&c, bad[i].text, &bad[i].over, bad[i].over ? 1 : 0, &x, &e), ERR_CONFIG);
        /* what follows "not YAML: " is libfyaml's own wording */
        char *own = strstr(e.msg, "this is not YAML: ");
        if (own) own[strlen("this is not YAML: ")] = 0;
        assert_string_equal(e.msg, bad[i].message);
        assert_null(x.name);
        conf_free(&c);
    }
}
/* Nesting, aliases that double, size: refused, quickly. */
static void test_limits(void **state)
{
    struct err e = {0};
    struct buf b = {0};
    struct conf c = {0};
    struct example x;
    buf_str(&b, "a: ");
    for (int i = 0; i < 50000; i++) buf_str(&b, "[");
    assert_int_equal(parse(&c, b.data, NULL, 0, &x, &e), ERR_CONFIG);
    buf_free(&b);
    err_clear(&e);
    for (int i = 0; i < 40; i++) buf_printf(&b, "%*sa:\n", i, "");
    assert_int_equal(parse(&c, b.data, NULL, 0, &x, &e), ERR_CONFIG);
    assert_string_equal(e.msg, "a.yaml:34:34: nested more than 32 deep");
    buf_free(&b);
    err_clear(&e);
    buf_str(&b, "a0: &a0 [x, x]\n");
    for (int i = 1; i < 40; i++) buf_printf(&b, "a%d: &a%d [*a%d, *a%d]\n", i, i, i - 1, i - 1);
    assert_int_equal(parse(&c, b.data, NULL, 0, &x, &e), ERR_CONFIG);
    assert_string_equal(e.msg, "a.yaml:15:18: the aliases unfold to too much");
    buf_free(&b);
    err_clear(&e);
    while (b.len <= CONF_MAX_BYTES) buf_str(&b, "# a line of a comment\n");
    assert_int_equal(parse(&c, b.data, NULL, 0, &x, &e), ERR_CONFIG);
    assert_string_equal(e.msg, "a.yaml:1:1: larger than 1048576 bytes; is this a configuration?");
    buf_free(&b);
    conf_free(&c);
}

static void test_default(void **state)
{
    struct conf c = {0};
    struct example x;
    conf_default(&c, &example_table, &x);
    assert_null(x.name);
    assert_int_equal(x.steps, 100);
    assert_int_equal(x.memory, 2000000000);
    assert_true(x.every == 240 && x.fast && x.top == -1);
    assert_int_equal(x.optim.kind, OPTIM_ADAM);
    assert_true(x.optim.adam.betas.n == 2 && x.optim.adam.betas.v[1] == 0.98 && x.optim.clip == 1);
    assert_string_equal(x.pairs.v[0], "image-text");
    assert_int_equal(x.model.towers.n, 0);
    conf_free(&c);
}

static void test_dump_text(void **state)
{
    struct conf c = {0};
    struct example x;
    struct err e = {0};
    struct buf out = {0};
    assert_int_equal(parse(&c, "name: a b\nmodel: {embed: 8, 1: {tower: transformer, stem: [3, [4, 2]], mel: {}}}\n",
                           NULL, 0, &x, &e),
                     0);
    conf_dump(&example_table, &x, true, &out);
    assert_string_equal(out.data, "name: \"a b\"  # of the run\n"
                                  "init: null\n"
                                  "fast: true\n"
                                  "steps: 100\n"
                                  "top: -1\n"
                                  "memory: 2GB\n"
                                  "every: 4m\n"
                                  "decay: cosine\n"
                                  "pairs: [image-text]\n"
                                  "named: {}\n"
                                  "model:\n"
                                  "  embed: 8  # width of the shared space\n"
                                  "  \"1\":\n"
                                  "    tower: transformer  # the family (resnet, transformer)\n"
                                  "    width: 128\n"
                                  "    heads: 4\n"
                                  "    stem:\n"
                                  "      - width: 3\n"
                                  "        stride: 1\n"
                                  "      - width: 4\n"
                                  "        stride: 2\n"
                                  "    mel:\n"
                                  "      bins: 80\n"
                                  "      window: 25ms\n"
                                  "optim:\n"
                                  "  adam:\n"
                                  "    lr: 0.001  # peak learning rate\n"
                                  "    betas: [0.9, 0.98]  # decay of the moments\n"
                                  "  clip: 1\n");
    buf_free(&out);
    conf_free(&c);
}

static uint64_t bits(double v)
{
    uint64_t u;
    memcpy(&u, &v, sizeof u);
    return u;
}

/* Random values of every kind, dumped and read back: the same bits, and a second dump is the same text. */
static void test_dump_reads_back(void **state)
{
    static const char *const names[] = {"plain",
                                        "two words",
                                        "null",
                                        "~",
                                        "",
                                        "true",
                                        "1e3",
                                        "- a",
                                        "a: b",
                                        "#",
                                        "\n\t\r\x01\x7f",
                                        "\xc3\xa9",
                                        "\xf0\x9f\x98\x80",
                                        "\"\\'",
                                        "\xe2\x80\xa8",
                                        "\xef\xbb\xbf",
                                        " x ",
                                        "&a *b",
                                        "\xc2\x85",
                                        "{[,]}"};
    const int n_names = sizeof names / sizeof *names;
    struct rng g = rng_make(11, 0, 0);
    for (int round = 0; round < 300; round++) {
        struct conf c = {0};
        struct example x, y;
        struct err e = {0};
        struct buf out = {0}, again = {0};
        assert_int_equal(parse(&c, GOOD "optim: {sgd: {}}\n", NULL, 0, &x, &e), 0);
        const char *pairs[] = {names[round % n_names], names[(round + 7) % n_names]};
        x.name = names[(round + 3) % n_names];
        x.pairs.v = pairs;
        x.pairs.n = round % 3;
        uint64_t r = (uint64_t)rng_u32(&g) << 32 | rng_u32(&g);
        x.optim.sgd.lr = ldexp((double)(r | 1), (int)(r % 120) - 100);
        x.optim.sgd.momentum = (double)r / 0x1p64;
        x.every = round % 2 ? (double)(r % 8640000 + 1) * 1e-1 : (double)(r >> 11) / 0x1p53 * 1000 + 1e-9;
        x.memory = (int64_t)(r % 1000000000000) * (round % 3 ? 1 : 1024) % 1000000000000000;
        x.top = (int64_t)(r >> (round % 60));
        conf_dump(&example_table, &x, round % 2, &out);
        if (parse(&c, out.data, NULL, 0, &y, &e)) fail_msg("%s\n%s", e.msg, out.data);
        assert_string_equal(x.name, y.name);
        assert_int_equal(x.pairs.n, y.pairs.n);
        for (int64_t i = 0; i < x.pairs.n; i++) assert_string_equal(x.pairs.v[i], y.pairs.v[i]);
        assert_true(bits(x.optim.sgd.lr) == bits(y.optim.sgd.lr));
        assert_true(bits(x.optim.sgd.momentum) == bits(y.optim.sgd.momentum));
        assert_true(bits(x.every) == bits(y.every));
        assert_true(x.memory == y.memory && x.top == y.top);
        conf_dump(&example_table, &y, round % 2, &again);
        assert_string_equal(out.data, again.data);
        buf_free(&out);
        buf_free(&again);
        conf_free(&c);
    }
}

static void test_read_file(void **state)
{
    char dir[] = "/tmp/triad-conf-XXXXXX", path[64], want[200];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/a.yaml", dir);
    struct conf c = {0};
    struct example x;
    struct err e = {0};
    assert_int_equal(conf_read(&c, path, NULL, 0, &example_table, &x, &e), ERR_IO);
    assert_non_null(strstr(e.msg, path));
    err_clear(&e);
    FILE *f = fopen(path, "w");
    fputs("\r\nname: a\r\nmodel: {embed: 8,\r\n image: {tower: resnet}}\r\nstep: 3\r\n", f);
    fclose(f);
    assert_int_equal(conf_read(&c, path, NULL, 0, &example_table, &x, &e), ERR_CONFIG);
    snprintf(want, sizeof want, "%s:5:1: unknown key 'step'; did you mean 'steps'?", path);
    assert_string_equal(e.msg, want);
    unlink(path);
    rmdir(dir);
    conf_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),    cmocka_unit_test(test_aliases_and_merge),
        cmocka_unit_test(test_overrides), cmocka_unit_test(test_bad),
        cmocka_unit_test(test_limits),    cmocka_unit_test(test_default),
        cmocka_unit_test(test_dump_text), cmocka_unit_test(test_dump_reads_back),
        cmocka_unit_test(test_read_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
