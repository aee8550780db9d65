/* What goes wrong around a run: a full disk, a folder in use, damaged or foreign checkpoints, NaNs, wrong configs, data
 * that changes under it. Each has its exit status and says what to do; what was saved before stays. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/safetensors.h"
#include "base/threads.h"
#include "run/checkpoint.h"
#include "run/model.h"
#include "tests/support/tiny.h"

/* Two checkpoints, 4 and 5, of a run that was stopped at 5 of 11 steps; and its end. */
static int begin(void **state)
{
    tiny_begin(state);
    return tiny_whole("");
}

static void stopped(const char *out, int first, int last)
{
    for (int k = first; k <= last; k++)
        tiny_copy(tiny_path(&tiny, "whole/checkpoints/step-%d", k), tiny_path(&tiny, "%s/checkpoints/step-%d", out, k));
    tiny_copy(tiny_path(&tiny, "whole/tokenizer.text.json"), tiny_path(&tiny, "%s/tokenizer.text.json", out));
}

/* Resuming `out` must fail with `code` and both texts in the message. */
static void refused(const char *out, const char *args, int code, const char *text, const char *more)
{
    struct err e = {0};
    assert_int_equal(tiny_train(&tiny, out, args, &e), code);
    tiny_has(e.msg, text);
    tiny_has(e.msg, more);
}

static char *read_text(const char *path)
{
    char *text;
    size_t len;
    struct err e = {0};
    assert_int_equal(file_read(path, 1 << 24, &text, &len, &e), 0);
    return text;
}

static void write_text(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_true(f && fputs(text, f) >= 0 && fclose(f) == 0);
}

/* Waits until the child has written `text`. */
static void wait_text(const char *text)
{
    double until = time_now() + 60;
    for (;;) {
        char *all = read_text(tiny_path(&tiny, "output.txt"));
        bool there = strstr(all, text) != NULL;
        if (!there && time_now() > until) fail_msg("no '%s' in: %s", text, all);
        free(all);
        if (there) return;
        usleep(2000);
    }
}

/* ---- a full disk: a limit on the size of files, above what else a run writes and below the optimizer's */

static void start_limited(const char *out, const char *args, struct tiny_child *c)
{
    struct rlimit old, few;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    few = old;
    few.rlim_cur =
        (rlim_t)file_size(tiny_path(&tiny, "whole/checkpoints/step-%d/optimizer.safetensors", TINY_STEPS)) - 1000;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &few), 0);
    tiny_start(&tiny, out, args, c);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
}

static void test_no_save_works(void **state)
{
    struct tiny_child c;
    stopped("full", 4, 5);
    start_limited("full", "--resume train.save_every=2", &c);
    tiny_wait(&tiny, &c);
    assert_int_equal(c.status, 4);
    tiny_has(c.text, "warning: the checkpoint of step 6 was not written");
    tiny_has(c.text, "warning: the checkpoint of step 10 was not written");
    tiny_has(c.text, "optimizer.safetensors: File too large");
    tiny_has(c.text, "error: the last checkpoint was not written");
    free(c.text);
    tiny_same(tiny_path(&tiny, "whole/checkpoints/step-5"), tiny_path(&tiny, "full/checkpoints/step-5"));
    free(tiny_run(&tiny, "full", "--resume", 0));
    tiny_same_end("whole", "full");
}

static void test_later_saves_work(void **state)
{
    struct tiny_child c;
    start_limited("room", "train.steps=100000 train.save_every=3", &c);
    wait_text("was not written");
    struct rlimit free_again = {RLIM_INFINITY, RLIM_INFINITY};
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &free_again), 0);
    assert_int_equal(prlimit(c.pid, RLIMIT_FSIZE, &free_again, NULL), 0);
    wait_text("saved ");
    kill(c.pid, SIGTERM);
    tiny_wait(&tiny, &c);
    assert_int_equal(c.status, 11);
    free(c.text);
}

/* ---- who may use a folder */

static void test_folder(void **state)
{
    struct tiny_child c;
    char *text = tiny_run(&tiny, "none", "--resume", 10);
    tiny_has(text, "no checkpoint to resume from");
    free(text);
    text = tiny_run(&tiny, "whole", "", 10);
    tiny_has(text, "--resume");
    tiny_has(text, "train.out=");
    free(text);
    tiny_start(&tiny, "busy", "train.steps=100000 train.save_every=5", &c);
    assert_true(tiny_appears(tiny_path(&tiny, "busy/checkpoints/step-5"), 60));
    char *mine = mem_strdup(tiny_path(&tiny, "output.txt")), *aside = mem_strdup(tiny_path(&tiny, "output.1"));
    assert_int_equal(rename(mine, aside), 0);
    text = tiny_run(&tiny, "busy", "--resume", 9);
    char pid[40];
    snprintf(pid, sizeof pid, "process %d", (int)c.pid);
    tiny_has(text, pid);
    free(text);
    kill(c.pid, SIGTERM);
    tiny_wait(&tiny, &c);
    assert_int_equal(c.status, 11);
    free(c.text);
    free(mine);
    free(aside);
}

/* A first try that left no checkpoint leaves nothing that a second, with another config, would take for its own. */
static void test_second_try(void **state)
{
    struct err e = {0};
    assert_int_equal(file_mkdirs(tiny_path(&tiny, "try"), &e), 0);
    tiny_copy(tiny_path(&tiny, "whole/tokenizer.text.json"), tiny_path(&tiny, "try/tokenizer.text.json"));
    assert_int_equal(tiny_train(&tiny, "try", "train.steps=1 modalities.text.vocab=270", &e), 0);
    struct run_model *m;
    assert_int_equal(run_model_open(tiny_path(&tiny, "try"), &m, &e), 0);
    assert_in_range(tok_vocab_size(m->tokenizer[2]), 257, 270);
    run_model_free(m);
}

/* ---- damaged checkpoints */

static void test_cut_files(void **state)
{
    static const char *const names[] = {"model.safetensors", "optimizer.safetensors"};
    for (int i = 0; i < 2; i++) {
        char out[32];
        snprintf(out, sizeof out, "cut-%d", i);
        stopped(out, 5, 5);
        const char *path = tiny_path(&tiny, "%s/checkpoints/step-5/%s", out, names[i]);
        int64_t size = file_size(path);
        assert_int_equal(truncate(path, size - 100), 0);
        refused(out, "--resume", ERR_FORMAT, names[i], out);
        assert_int_equal(truncate(path, 100), 0);
        refused(out, "--resume", ERR_FORMAT, names[i], out);
        assert_int_equal(truncate(path, 0), 0);
        refused(out, "--resume", ERR_FORMAT, names[i], out);
        assert_int_equal(unlink(path), 0);
        refused(out, "--resume", ERR_IO, names[i], "No such file");
    }
}

static void test_state_file(void **state)
{
    static const char *const bad[] = {
        "",
        "{\"step\": 5, \"epo",
        "[]",
        "{\"step\": 5, \"epoch\": 1, \"batch\": -2, \"samples\": 40, \"best_step\": -1}",
        "{\"step\": 5, \"epoch\": 1e30, \"batch\": 2, \"samples\": 40, \"best_step\": -1}",
        "{\"step\": -5, \"epoch\": 1, \"batch\": 2, \"samples\": 40, \"best_step\": -1}",
        "{\"step\": 5, \"epoch\": 1, \"batch\": 9223372036854775807, \"samples\": 40, \"best_step\": -1}",
    };
    stopped("state", 5, 5);
    char *path = mem_strdup(tiny_path(&tiny, "state/checkpoints/step-5/state.json"));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_text(path, bad[i]);
        refused("state", "--resume", ERR_FORMAT, "step-5/state.json", "cannot be read");
        refused("state", "", ERR_FORMAT, "step-5/state.json", "cannot be read"); /* no new run over a damaged one */
    }
    free(path);
    stopped("state", 3, 4); /* older ones: the last whole one counts */
    char *text = tiny_run(&tiny, "state", "--resume", 0);
    tiny_has(text, "warning: ");
    tiny_has(text, "step-4 is taken instead");
    tiny_has(text, "resumed at step 4");
    free(text);
    tiny_same_end("whole", "state");
}

/* Writes a safetensors file anew with one change: without tensor `drop`, with `add`, `reshape` turned into one row
 * less, or the first number of `poison` a NaN. */
struct change {
    const char *drop, *add, *reshape, *poison;
};
static void rewrite(const char *path, const struct change *c)
{
    struct st_file *f;
    struct err e = {0};
    assert_int_equal(st_open(path, &f, &e), 0);
    struct st_item *item = mem_zero((size_t)st_count(f) + 1, sizeof *item);
    int n = 0, hits = 0;
    float nan_first[4096] = {0};
    int64_t dim[ST_MAX_RANK], one = 1;
    for (int i = 0; i < st_count(f); i++) {
        const struct st_tensor *t = st_at(f, i);
        struct st_item x = {t->name, t->dtype, t->rank, t->dim, t->data};
        if (c->drop && !strcmp(t->name, c->drop)) {
            hits++;
            continue;
        }
        if (c->reshape && !strcmp(t->name, c->reshape)) {
            memcpy(dim, t->dim, sizeof dim);
            dim[0]--;
            x.dim = dim;
            hits++;
        }
        if (c->poison && !strcmp(t->name, c->poison)) {
            assert_true(t->bytes <= sizeof nan_first);
            memcpy(nan_first, t->data, t->bytes);
            nan_first[0] = NAN;
            x.data = nan_first;
            hits++;
        }
        item[n++] = x;
    }
    if (c->add) {
        item[n++] = (struct st_item){c->add, ST_F32, 1, &one, nan_first};
        hits++;
    }
    assert_int_equal(hits, 1);
    const char *steps = st_metadata(f, "steps");
    assert_int_equal(st_write(path, item, n, &(struct st_meta){"steps", steps ? steps : ""}, 1, &e), 0);
    st_close(f);
    free(item);
}

static void test_tensors(void **state)
{
    static const struct {
        const char *file;
        struct change change;
        const char *text, *more;
    } row[] = {
        {"model", {.drop = "text.project.weight"}, "there is no tensor 'text.project.weight'", "the nearest is '"},
        {"model", {.reshape = "text.project.weight"}, "'text.project.weight' is (15, 16)", "expects (16, 16)"},
        {"model", {.add = "text.more"}, "'text.more' is not part of the model", "model.safetensors"},
        {"optimizer", {.drop = "adamw.m/text.project.weight"}, "no tensor 'adamw.m/text.project.weight'", "nearest"},
        {"optimizer",
         {.reshape = "ema/text.project.weight"},
         "'ema/text.project.weight' is (15, 16)",
         "expects (16, 16)"},
        {"optimizer",
         {.add = "sgd.momentum/text.project.weight"},
         "'sgd.momentum/text.project.weight' is not part",
         ""},
        {"optimizer", {.add = "adamw.m/text.more"}, "'adamw.m/text.more' is not part of the optimizer", ""},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        struct err e = {0};
        assert_int_equal(file_remove_tree(tiny_path(&tiny, "tensors"), &e), 0);
        stopped("tensors", 5, 5);
        rewrite(tiny_path(&tiny, "tensors/checkpoints/step-5/%s.safetensors", row[i].file), &row[i].change);
        refused("tensors", "--resume", ERR_SHAPE, row[i].text, row[i].more);
    }
}

static void test_changed_config(void **state)
{
    stopped("changed", 5, 5);
    refused("changed", "--resume modalities.text.tower.transformer.width=32", ERR_SHAPE, "text.",
            "the model expects (");
    refused("changed", "--resume optim.ema=0", ERR_SHAPE, "tensor 'ema/", "not part of the optimizer");
    refused("changed", "--resume optim.kind=sgd", ERR_SHAPE, "no tensor 'sgd.momentum/", "");
    struct err e = {0};
    assert_int_equal(tiny_train(&tiny, "changed", "--resume", &e), 0); /* nothing was lost by trying */
    tiny_same_end("whole", "changed");
}

/* ---- NaN */

static void test_poisoned(void **state)
{
    static const char *const weight[] = {"view.project.weight", "image.project.weight", "sound.project.weight"};
    static const char *const more[] = {"", " train.micro_batch=3", " optim.in_backward=true optim.clip=0"};
    for (int k = 0; k < 9; k++) { /* each at once, in micro-batches, and with steps in the backward pass */
        char out[32], layer[32], how[80];
        int i = k / 3;
        snprintf(how, sizeof how, "--resume train.save_every=1%s", more[k % 3]);
        snprintf(out, sizeof out, "poison-%d", k);
        snprintf(layer, sizeof layer, ": %.*s: ", (int)(strrchr(weight[i], '.') - weight[i]), weight[i]);
        stopped(out, 5, 5);
        rewrite(tiny_path(&tiny, "%s/checkpoints/step-5/model.safetensors", out),
                &(struct change){.poison = weight[i]});
        refused(out, how, ERR_NONFINITE, "step 5: ", layer);
        assert_false(file_exists(tiny_path(&tiny, "%s/checkpoints/step-6", out)));
    }
}

static void test_blown_up(void **state)
{
    /* AdamW's decay, 1 - lr * weight_decay = -999, overflows in a dozen steps. */
    char *text = tiny_run(&tiny, "blown",
                          "train.steps=60 optim.lr=100 optim.weight_decay=10 optim.warmup=0 optim.ema=0 "
                          "train.save_every=1 train.keep=100 optim.decay=constant",
                          8);
    tiny_has(text, "made a value that is not finite");
    struct err e = {0};
    char *last;
    assert_int_equal(run_checkpoint_latest(tiny_path(&tiny, "blown"), &last, &e), 0);
    assert_non_null(last);
    tiny_has(text, last);
    struct run_model *m;
    assert_int_equal(run_model_open(last, &m, &e), 0);
    run_model_free(m);
    free(last);
    free(text);
}

/* ---- wrong configs, through the program */

static void test_configs(void **state)
{
    static const struct {
        const char *from, *to; /* in the file; NULL: `to` is an argument */
        int status;
        const char *text;
    } row[] = {
        {"embed: 16", "embedd: 16", 3, "tiny.yaml:26:1: unknown key 'embedd'; did you mean 'embed'?"},
        {"embed: 16", "embed: 16\nembed: 17", 3, "tiny.yaml:27:1: "},
        {"embed: 16", "embed: many", 3, "tiny.yaml:26:8: "},
        {"seed: 7", "seed: 7, seed: 8", 3, "tiny.yaml:29:"},
        {"workers: 1", "budget: 100", 3, "data.budget: it counts with data.batch_by tokens or seconds alone"},
        {"workers: 1", "batch_by: tokens, budget: 31", 3,
         "data.budget: 31 tokens do not hold two items of 'text', which have up to 16 each"},
        {"workers: 1", "batch_by: seconds, budget: 0.5", 3, "or modalities.sound.max_length smaller"},
        {"workers: 1", "batch_by: seconds, budget: 9, budget_of: text", 3,
         "data.batch_by: no modality 'text' has seconds"},
        {"/manifest.jsonl", "/gone.jsonl", 4, "tiny.yaml:2:18: data.manifest: "},
        {"train: train,", "train: trian,", 3, "tiny.yaml:2:"},
        {"valid: []", "valid: [valdi]", 3, "tiny.yaml:2:"},
        {"view-sound", "view-video", 3, "tiny.yaml:27:"},
        {"batch: 8", "batch: 25", 3, "tiny.yaml:29:16: train.batch: "},
        {"seed: 7", "seed: 7, best: valid/image->text R@1", 3, "tiny.yaml:29:"},
        {"heads: 2, dropout: 0.1}", "heads: 3, dropout: 0.1}", 3, "tiny.yaml:"},
        {NULL, "train.steps=0", 3, "tiny.yaml"},
        {NULL, "train.stepz=3", 3, "tiny.yaml: override 2: "},
        {NULL, "optim.in_backward=true optim.clip=2", 3,
         "override 2: optim.in_backward: clipping needs the whole gradient"},
        {NULL, "optim.in_backward=true optim.clip=0 optim.kind=lamb", 3, "adamw, sgd and lion; a step of lamb"},
        {NULL, "optim.in_backward=true optim.clip=0 train.micro_batch=2", 3, "does not go with train.micro_batch"},
        {NULL, "optim.in_backward=true optim.clip=0 train.precision=f16", 3, "train.precision f32 or bf16, not f16"},
        {NULL, "loss.temperature=1.5", 3, "tiny.yaml: override 2: loss.temperature: "},
        {NULL, "loss.temperature=0.004", 3, "tiny.yaml: override 2: loss.temperature: "},
    };
    char *good = read_text(tiny.config);
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        const char *at = row[i].from ? strstr(good, row[i].from) : NULL;
        assert_true(!row[i].from || at);
        if (at) {
            char *bad = mem_printf("%.*s%s%s", (int)(at - good), good, row[i].to, at + strlen(row[i].from));
            write_text(tiny.config, bad);
            free(bad);
        }
        char *text = tiny_run(&tiny, "wrong", at ? "" : row[i].to, row[i].status);
        tiny_has(text, row[i].text);
        assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1); /* one line is enough */
        free(text);
        write_text(tiny.config, good);
        assert_false(file_exists(tiny_path(&tiny, "wrong")));
    }
    free(good);
}

/* ---- data that changes */

static void test_file_gone_stop(void **state)
{
    struct tiny_child c;
    char *picture = mem_strdup(tiny_path(&tiny, "3.png")), *aside = mem_strdup(tiny_path(&tiny, "aside"));
    tiny_start(&tiny, "gone", "data.cache=0 train.steps=100000 train.save_every=10 optim.decay=constant", &c);
    assert_true(tiny_appears(tiny_path(&tiny, "gone/checkpoints/step-10"), 60));
    assert_int_equal(rename(picture, aside), 0);
    tiny_wait(&tiny, &c);
    assert_int_equal(rename(aside, picture), 0);
    assert_int_equal(c.status, 4);
    tiny_has(c.text, "manifest.jsonl:4: item 'item-3': ");
    tiny_has(c.text, "3.png");
    tiny_has(c.text, "the last checkpoint is ");
    free(c.text);
    struct err e = {0};
    char *last, args[100];
    assert_int_equal(run_checkpoint_latest(tiny_path(&tiny, "gone"), &last, &e), 0);
    long long step = strtoll(strrchr(last, '-') + 1, NULL, 10), more = step + 4;
    free(last);
    assert_true(step >= 10);
    snprintf(args, sizeof args, "--resume train.steps=%lld optim.decay=constant", more);
    free(tiny_run(&tiny, "gone", args, 0)); /* the file is back */
    free(tiny_run(&tiny, "never-gone", args + strlen("--resume "), 0));
    tiny_same(tiny_path(&tiny, "gone/checkpoints/step-%lld", more),
              tiny_path(&tiny, "never-gone/checkpoints/step-%lld", more));
    free(picture);
    free(aside);
}

static void test_file_gone_skip(void **state)
{
    struct tiny_child c;
    char *picture = mem_strdup(tiny_path(&tiny, "3.png")), *aside = mem_strdup(tiny_path(&tiny, "aside"));
    tiny_start(&tiny, "skip", "data.cache=0 data.on_bad=skip train.steps=100000 train.save_every=10", &c);
    assert_true(tiny_appears(tiny_path(&tiny, "skip/checkpoints/step-10"), 60));
    assert_int_equal(rename(picture, aside), 0);
    wait_text("another item stands in for it");
    struct err e = {0};
    char *last;
    assert_int_equal(run_checkpoint_latest(tiny_path(&tiny, "skip"), &last, &e), 0);
    long long step = strtoll(strrchr(last, '-') + 1, NULL, 10);
    free(last);
    assert_true(
        tiny_appears(tiny_path(&tiny, "skip/checkpoints/step-%lld", (step / 10 + 2) * 10), 60)); /* it goes on */
    kill(c.pid, SIGTERM);
    tiny_wait(&tiny, &c);
    assert_int_equal(rename(aside, picture), 0);
    assert_int_equal(c.status, 11);
    char *first = strstr(c.text, "stands in for it");
    assert_null(strstr(first + 1, "stands in for it")); /* told once */
    free(c.text);
    free(picture);
    free(aside);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_save_works),  cmocka_unit_test(test_later_saves_work),
        cmocka_unit_test(test_folder),         cmocka_unit_test(test_second_try),
        cmocka_unit_test(test_cut_files),      cmocka_unit_test(test_state_file),
        cmocka_unit_test(test_tensors),        cmocka_unit_test(test_changed_config),
        cmocka_unit_test(test_poisoned),       cmocka_unit_test(test_blown_up),
        cmocka_unit_test(test_configs),        cmocka_unit_test(test_file_gone_stop),
        cmocka_unit_test(test_file_gone_skip),
    };
    return cmocka_run_group_tests(tests, begin, tiny_end);
}
