#include "tests/support/toy.h"

#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "data/audio.h"
#include "data/image.h"

static void put(const struct temp_dir *t, const char *name, const struct buf *b)
{
    struct err e = {0};
    CHECK_MSG(file_write(temp_path(t, name), b->data, b->len, &e) == 0, "%s", e.msg);
}

static void make_picture(const struct temp_dir *t, int i)
{
    struct buf b = {0};
    struct err e = {0};
    uint8_t px[20 * 20 * 3];
    for (int k = 0; k < 20 * 20; k++) {
        bool inside = k % 20 > i % 9 && k / 20 > 4;
        px[3 * k] = inside ? (uint8_t)(40 * i) : 255;
        px[3 * k + 1] = inside ? (uint8_t)(90 * i + 50) : 255;
        px[3 * k + 2] = inside ? (uint8_t)(170 * i) : 255;
    }
    CHECK(data_image_png(&(struct data_image){20, 20, px}, &b, &e) == 0);
    char *name = mem_printf("image/%d.png", i);
    put(t, name, &b);
    free(name);
    buf_free(&b);
}

static void make_sound(const struct temp_dir *t, int i)
{
    struct buf b = {0};
    struct err e = {0};
    enum { N = 3200 };
    float *x = mem_alloc(N * sizeof *x);
    for (int k = 0; k < N; k++) x[k] = 0.5f * sinf(6.2831853f * (float)(200 + 150 * i) * (float)k / 8000);
    CHECK(data_audio_wav(x, N, 8000, &b, &e) == 0);
    char *name = mem_printf("audio/%d.wav", i);
    put(t, name, &b);
    free(name);
    free(x);
    buf_free(&b);
}

static const char config[] =
    "name: tiny\n"
    "data: {manifest: %s/manifest.jsonl, valid: [test], workers: 0}\n"
    "modalities:\n"
    "  image: {kind: image, size: 16, tower: {resnet: {widths: [8, 16], depths: [1, 1], stem_kernel: 3, stem_stride: "
    "2}}}\n"
    "  text: {kind: text, vocab: 300, length: 24, tower: {transformer: {layers: 1, width: 16, heads: 2}}}\n"
    "  tone: {kind: audio, from: audio, max_length: 1s, log_mel: {bins: 20},\n"
    "         tower: {transformer: {layers: 1, width: 16, heads: 2}}}\n"
    "embed: 12\n"
    "optim: {kind: adamw, lr: 3e-3, warmup: 2}\n"
    "train: {batch: 8, steps: 12, log_every: 2, valid_every: 5, threads: 1, out: %s/run}\n";

void toy_make(const struct temp_dir *t)
{
    struct err e = {0};
    struct buf m = {0}, c = {0};
    CHECK(file_mkdirs(temp_path(t, "image"), &e) == 0 && file_mkdirs(temp_path(t, "audio"), &e) == 0);
    for (int i = 0; i < TOY_TRAIN + TOY_TEST; i++) {
        make_picture(t, i);
        make_sound(t, i);
        buf_printf(&m, "{\"id\": \"i%d\", \"split\": \"%s\", \"text\": [\"square <%d> & tone %d\", \"number %d\"]", i,
                   i < TOY_TRAIN ? "train" : "test", i, i, i);
        if (i == 0) buf_str(&m, ", \"emoji\": \"\xf0\x9f\x98\x80\"");
        if (i != TOY_TRAIN + TOY_TEST - 2) buf_printf(&m, ", \"image\": \"image/%d.png\"", i);
        if (i != TOY_TRAIN + TOY_TEST - 1) buf_printf(&m, ", \"audio\": \"audio/%d.wav\"", i);
        buf_str(&m, "}\n");
    }
    put(t, "manifest.jsonl", &m);
    buf_printf(&c, config, t->path, t->path);
    put(t, "config.yaml", &c);
    buf_free(&m);
    buf_free(&c);
}

static char *taken(const char *path)
{
    struct err e = {0};
    char *text;
    size_t n;
    CHECK_MSG(file_read(path, (size_t)1 << 26, &text, &n, &e) == 0, "%s", e.msg);
    return text;
}

static void to_file(int fd, const char *path)
{
    int to = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (to < 0 || dup2(to, fd) < 0) _exit(126);
}

int toy_triad(const struct temp_dir *t, char **out, char **err, const char *const *words)
{
    const char *bin = getenv("TRIAD_BIN");
    char *argv[16] = {"triad"};
    for (int i = 0; i < 14 && words[i]; i++) argv[i + 1] = (char *)(uintptr_t)words[i];
    pid_t child = fork();
    CHECK(child >= 0);
    if (!child) {
        to_file(1, temp_path(t, "stdout"));
        to_file(2, temp_path(t, "stderr"));
        execv(bin ? bin : "build/triad", argv);
        _exit(127);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    if (out) *out = taken(temp_path(t, "stdout"));
    if (err) *err = taken(temp_path(t, "stderr"));
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}
