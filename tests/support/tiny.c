#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "tests/support/tiny.h"

#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/safetensors.h"
#include "base/threads.h"
#include "data/audio.h"
#include "data/image.h"
#include "train/train.h"

enum { RATE = 8000, MOST_ARGS = 32 };
extern char **environ;

static const char config_text[] =
    "name: tiny\n"
    "data: {manifest: %s/manifest.jsonl, train: train, valid: [], workers: 1, cache: 1MB}\n"
    "modalities:\n"
    "  image:\n"
    "    kind: image\n"
    "    size: 16\n"
    "    augment: {crop_min: 0.6, crop_max: 1, flip: 0.5, shift: 2, brightness: 0.2, contrast: 0.2, noise: 0.05}\n"
    "    tower: {resnet: {widths: [8, 16], depths: [1, 1], stem_kernel: 3, stem_stride: 2}}\n"
    "  view:\n"
    "    kind: image\n"
    "    from: image\n"
    "    size: 16\n"
    "    tower: {vit: {patch: 4, layers: 2, width: 16, heads: 2, dropout: 0.1, drop_path: 0.1}}\n"
    "  text:\n"
    "    kind: text\n"
    "    vocab: 300\n"
    "    length: 16\n"
    "    tower: {transformer: {layers: 1, width: 16, heads: 2, dropout: 0.1}}\n"
    "  sound:\n"
    "    kind: audio\n"
    "    from: audio\n"
    "    max_length: 300ms\n"
    "    log_mel: {rate: 8000, bins: 16, fft: 256, high: 4000}\n"
    "    augment: {gain: 3, noise: 0.5, speed: 0.1, shift: 20ms, time_masks: 1, time_mask: 30ms, bin_masks: 1, "
    "bin_mask: 4}\n"
    "    tower: {transformer: {layers: 1, width: 16, heads: 2, dropout: 0.1, stem: [[3, 2]]}}\n"
    "embed: 16\n"
    "loss: {kind: infonce, pairs: [image-text, image-sound, view-text, view-sound]}\n"
    "optim: {kind: adamw, lr: 5e-3, ema: 0.9, warmup: 3, clip: 1}\n"
    "train: {batch: 8, steps: 11, seed: 7, log_every: 1, save_every: 0, save_time: 0, threads: 2}\n";

static void put_file(const char *path, const void *data, size_t len)
{
    FILE *f = fopen(path, "wb"); /* file_write would wait for the disk each time */
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
}

static void save_picture(const struct tiny *t, int i)
{
    uint8_t px[16 * 16 * 3];
    struct data_image im = {16, 16, px};
    for (int k = 0; k < (int)sizeof px; k++) px[k] = (uint8_t)(k * (i + 3) + i * 7);
    struct buf b = {0};
    struct err e = {0};
    assert_int_equal(data_image_png(&im, &b, &e), 0);
    put_file(tiny_path(t, "%d.png", i), b.data, b.len);
    buf_free(&b);
}

static void save_sound(const struct tiny *t, int i)
{
    int64_t n = 800 + 53 * i;
    float x[4096];
    for (int64_t k = 0; k < n; k++) x[k] = 0.5f * sinf((float)k * (0.05f + 0.01f * (float)i));
    struct buf b = {0};
    struct err e = {0};
    assert_int_equal(data_audio_wav(x, n, i % 2 ? RATE : 11025, &b, &e), 0);
    put_file(tiny_path(t, "%d.wav", i), b.data, b.len);
    buf_free(&b);
}

void tiny_make(struct tiny *t)
{
    struct buf b = {0};
    temp_dir_begin(&t->dir);
    for (int i = 0; i < TINY_ITEMS + 6; i++) {
        buf_printf(&b, "{\"id\": \"item-%d\", \"split\": \"%s\", \"image\": \"%d.png\"", i,
                   i < TINY_ITEMS ? "train" : "valid", i);
        if (i == 5 || i == 9) buf_str(&b, ", \"group\": \"pair\"");
        if (i != 4)
            buf_printf(&b, ", \"text\": [\"the thing %d\", \"an %s one\", \"number %d of many\"]", i,
                       i % 2 ? "odd" : "even", i);
        if (i % 3) {
            buf_printf(&b, ", \"audio\": \"%d.wav\"", i);
            save_sound(t, i);
        }
        buf_str(&b, "}\n");
        save_picture(t, i);
    }
    put_file(tiny_path(t, "manifest.jsonl"), b.data, b.len);
    buf_free(&b);
    buf_printf(&b, config_text, t->dir.path);
    snprintf(t->config, sizeof t->config, "%s/tiny.yaml", t->dir.path);
    put_file(t->config, b.data, b.len);
    buf_free(&b);
}

void tiny_free(struct tiny *t)
{
    struct err e = {0};
    assert_int_equal(log_to_file(NULL, &e), 0);
    temp_dir_end(&t->dir);
}

const char *tiny_path(const struct tiny *t, const char *fmt, ...)
{
    static char answer[8][300];
    static int turn;
    char *out = answer[turn++ % 8];
    int n = snprintf(out, sizeof answer[0], "%s/", t->dir.path);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(out + n, sizeof answer[0] - (size_t)n, fmt, ap);
    va_end(ap);
    return out;
}

/* Words of `args`, with the run folder before them. `room` holds the text. */
static int split_args(const struct tiny *t, const char *out, const char *args, char *room, size_t size, char **word)
{
    int n = 0;
    snprintf(room, size, "train.out=%s/%s %s", t->dir.path, out, args);
    char *keep = NULL;
    for (char *w = strtok_r(room, " ", &keep); w; w = strtok_r(NULL, " ", &keep)) {
        assert_true(n < MOST_ARGS);
        word[n++] = w;
    }
    return n;
}

int tiny_train(const struct tiny *t, const char *out, const char *args, struct err *e)
{
    char room[2000], *word[MOST_ARGS];
    int n = split_args(t, out, args, room, sizeof room, word), k = 0;
    struct train_options o = {.config = t->config, .overrides = (const char *const *)word};
    for (int i = 0; i < n; i++)
        if (!strcmp(word[i], "--resume"))
            o.resume = true;
        else
            word[k++] = word[i];
    o.n_overrides = k;
    log_quiet(true);
    return train_run(&o, e);
}

struct tiny tiny;

int tiny_begin(void **state)
{
    tiny_make(&tiny);
    return 0;
}

int tiny_end(void **state)
{
    tiny_free(&tiny);
    return 0;
}

void tiny_trains(const char *out, const char *args)
{
    struct err e = {0};
    if (tiny_train(&tiny, out, args, &e)) fail_msg("%s", e.msg);
}

int tiny_whole(const char *more_args)
{
    struct err e = {0};
    char args[300];
    snprintf(args, sizeof args, "train.save_every=1 train.keep=100 %s", more_args);
    int rc = tiny_train(&tiny, "whole", args, &e);
    if (rc) print_error("%s\n", e.msg);
    return rc;
}

void tiny_start(const struct tiny *t, const char *out, const char *args, struct tiny_child *c)
{
    char room[2000], *word[MOST_ARGS], *argv[MOST_ARGS + 4] = {"triad", "train", (char *)(uintptr_t)t->config};
    int n = split_args(t, out, args, room, sizeof room, word);
    memcpy(argv + 3, word, (size_t)n * sizeof *word);
    const char *bin = getenv("TRIAD_BIN");
    assert_non_null(bin); /* tests/run.sh sets it */
    *c = (struct tiny_child){0};
    posix_spawn_file_actions_t a;
    posix_spawn_file_actions_init(&a);
    posix_spawn_file_actions_addopen(&a, 1, tiny_path(t, "output.txt"), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0666);
    posix_spawn_file_actions_adddup2(&a, 1, 2);
    assert_int_equal(posix_spawn(&c->pid, bin, &a, NULL, argv, environ), 0);
    posix_spawn_file_actions_destroy(&a);
}

void tiny_wait(const struct tiny *t, struct tiny_child *c)
{
    int status;
    struct rusage use;
    size_t len;
    struct err e = {0};
    assert_int_equal(wait4(c->pid, &status, 0, &use), c->pid);
    c->status = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    c->rss = (int64_t)use.ru_maxrss * 1024;
    assert_int_equal(file_read(tiny_path(t, "output.txt"), 1 << 24, &c->text, &len, &e), 0);
}

char *tiny_run(const struct tiny *t, const char *out, const char *args, int want_status)
{
    struct tiny_child c;
    tiny_start(t, out, args, &c);
    tiny_wait(t, &c);
    if (c.status != want_status)
        print_error("train %s: status %d, wanted %d\n%s\n", args, c.status, want_status, c.text);
    assert_int_equal(c.status, want_status);
    return c.text;
}

bool tiny_appears(const char *path, double seconds)
{
    double until = time_now() + seconds;
    while (!file_exists(path) && time_now() < until) usleep(500);
    return file_exists(path);
}

static void same_tensors(const char *a, const char *b, const char *name)
{
    struct st_file *f, *g;
    struct err e = {0};
    char *pa = file_join(a, name), *pb = file_join(b, name);
    assert_int_equal(st_open(pa, &f, &e), 0);
    assert_int_equal(st_open(pb, &g, &e), 0);
    assert_true(st_count(f) > 20);
    assert_int_equal(st_count(f), st_count(g));
    for (int i = 0; i < st_count(f); i++) {
        const struct st_tensor *x = st_at(f, i), *y = st_find(g, x->name);
        assert_non_null(y);
        assert_int_equal(x->bytes, y->bytes);
        if (memcmp(x->data, y->data, x->bytes)) fail_msg("%s and %s differ in %s", pa, pb, x->name);
    }
    if (st_metadata(f, "steps")) assert_string_equal(st_metadata(f, "steps"), st_metadata(g, "steps"));
    st_close(f);
    st_close(g);
    free(pa);
    free(pb);
}

static json_t *read_state(const char *folder)
{
    char *path = file_join(folder, "state.json");
    json_error_t why;
    json_t *s = json_load_file(path, 0, &why);
    assert_non_null(s);
    assert_int_equal(json_object_del(s, "seconds"), 0);
    free(path);
    return s;
}

void tiny_same(const char *a, const char *b)
{
    same_tensors(a, b, "model.safetensors");
    same_tensors(a, b, "optimizer.safetensors");
    json_t *x = read_state(a), *y = read_state(b);
    assert_true(json_equal(x, y));
    json_decref(x);
    json_decref(y);
}

void tiny_copy(const char *from, const char *to)
{
    struct err e = {0};
    char **names, *data;
    int n;
    size_t len;
    if (!file_is_dir(from)) {
        assert_int_equal(file_read(from, 1 << 26, &data, &len, &e), 0);
        put_file(to, data, len);
        free(data);
        return;
    }
    assert_int_equal(file_mkdirs(to, &e), 0);
    assert_int_equal(file_list(from, &names, &n, &e), 0);
    for (int i = 0; i < n; i++) {
        char *a = file_join(from, names[i]), *b = file_join(to, names[i]);
        tiny_copy(a, b);
        free(a);
        free(b);
    }
    file_list_free(names, n);
}

void tiny_same_end(const char *a, const char *b)
{
    tiny_same(tiny_path(&tiny, "%s/checkpoints/step-%d", a, TINY_STEPS),
              tiny_path(&tiny, "%s/checkpoints/step-%d", b, TINY_STEPS));
}

void tiny_stopped_at(const char *from, int step, const char *out)
{
    tiny_copy(tiny_path(&tiny, "%s/checkpoints/step-%d", from, step),
              tiny_path(&tiny, "%s/checkpoints/step-%d", out, step));
    tiny_copy(tiny_path(&tiny, "%s/tokenizer.text.json", from), tiny_path(&tiny, "%s/tokenizer.text.json", out));
}

void tiny_has(const char *text, const char *part)
{
    if (!strstr(text, part)) fail_msg("expected '%s' in: %s", part, text);
}
