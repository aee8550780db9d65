/* The folder and the loaders over it. See world.h. */
#include "tests/support/world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "data/audio.h"

void world_save(const struct world *w, const char *name, const void *data, size_t len)
{
    char *path = file_join(w->dir, name); /* file_write would wait for the disk each time */
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
    free(path);
}

static void save_picture(const struct world *w, int i)
{
    struct data_image im = {.h = 10 + i % 4, .w = 12 + i % 3};
    im.px = malloc((size_t)(im.h * im.w * 3));
    for (int64_t k = 0; k < im.h * im.w * 3; k++) im.px[k] = (uint8_t)(k * (i + 3) + i * 7);
    struct buf b = {0};
    struct err e = {0};
    char name[32];
    snprintf(name, sizeof name, "%d.png", i);
    assert_int_equal(data_image_png(&im, &b, &e), 0);
    world_save(w, name, b.data, b.len);
    buf_free(&b);
    data_image_free(&im);
}

static void save_sound(const struct world *w, int i, int voice)
{
    int64_t n = 800 + 531 * i + 97 * voice;
    float *x = malloc((size_t)n * sizeof *x);
    for (int64_t k = 0; k < n; k++) x[k] = 0.5f * sinf((float)k * (0.05f + 0.01f * (float)i) + (float)voice);
    struct buf b = {0};
    struct err e = {0};
    char name[32];
    snprintf(name, sizeof name, "%d.%d.wav", i, voice);
    assert_int_equal(data_audio_wav(x, n, i % 2 ? 8000 : 11025, &b, &e), 0);
    world_save(w, name, b.data, b.len);
    buf_free(&b);
    free(x);
}

void world_make(struct world *w)
{
    struct buf b = {0};
    struct err e = {0};
    *w = (struct world){.dir = "/tmp/triad-loader-XXXXXX"};
    assert_non_null(mkdtemp(w->dir));
    for (int i = 0; i < WORLD_ITEMS; i++) {
        buf_printf(&b, "{\"id\": \"item-%d\", \"image\": \"%d.png\"", i, i);
        if (i == 5 || i == 9) buf_printf(&b, ", \"group\": \"pair\"");
        if (i != 4)
            buf_printf(&b, ", \"text\": [\"the thing %d\", \"a %s\", \"number %d of many\"]", i,
                       i % 7 == 3 ? "twin"
                       : i % 2    ? "odd one"
                                  : "even one",
                       i);
        if (i % 3)
            buf_printf(&b,
                       ", \"audio\": [\"%d.0.wav\", {\"file\": \"%d.1.wav\", \"split\": \"train\"}, {\"file\": "
                       "\"%d.2.wav\", \"split\": \"voices\"}]",
                       i, i, i);
        buf_printf(&b, "}\n");
        save_picture(w, i);
        for (int v = 0; v < 3 && i % 3; v++) save_sound(w, i, v);
    }
    world_save(w, "manifest.jsonl", b.data, b.len);
    char *path = file_join(w->dir, "manifest.jsonl");
    assert_int_equal(manifest_load(path, &w->m, &e), 0);
    assert_int_equal(manifest_select(&w->m, "train", &w->items, &w->n, &e), 0);
    const char *texts[] = {"the thing", "a odd even one twin", "number of many"};
    const struct tok_train_options o = {.vocab_size = 290, .min_frequency = 1};
    assert_int_equal(tok_train_bpe(texts, 3, &o, &w->tok, &e), 0);
    free(path);
    buf_free(&b);
}

void world_free(struct world *w)
{
    struct err e = {0};
    manifest_free(&w->m);
    tok_free(w->tok);
    free(w->items);
    assert_int_equal(file_remove_tree(w->dir, &e), 0);
}

struct data_logmel_config world_logmel(void)
{
    struct data_logmel_config c = data_logmel_default();
    c.rate = 8000;
    c.fft = 256;
    c.bins = WORLD_BINS;
    c.high = 4000;
    return c;
}

void world_setup(struct world_setup *s, const struct world *w, bool waves)
{
    *s = (struct world_setup){0};
    s->m[0] = (struct data_modality){.name = "picture",
                                     .field = "image",
                                     .kind = DATA_IMAGE,
                                     .h = WORLD_SIDE,
                                     .w = WORLD_SIDE,
                                     .mean = {0.5f, 0.4f, 0.3f},
                                     .std = {0.25f, 0.5f, 0.2f},
                                     .image = {.shift = 2, .flip = 0.5, .brightness = 0.2, .hue = 0.1, .noise = 0.01}};
    s->m[1] = (struct data_modality){
        .name = "text", .kind = DATA_TEXT, .tokenizer = w->tok, .max_tokens = 12, .first = 0.5, .round_rows = 16};
    s->m[2] = (struct data_modality){.name = "speech",
                                     .field = "audio",
                                     .kind = DATA_AUDIO,
                                     .logmel = world_logmel(),
                                     .max_seconds = 1,
                                     .audio = {.time_masks = 1, .time_mask_s = 0.1, .bin_masks = 1, .bin_mask = 3},
                                     .round_rows = 32};
    if (waves) {
        s->m[0].image.crop_min = 0.3;
        s->m[0].image.crop_max = 1;
        s->m[2].audio.speed = 0.2;
        s->m[2].audio.gain_db = 3;
        s->m[2].audio.noise = 0.7;
        s->m[2].audio.snr_min_db = 10;
        s->m[2].audio.snr_max_db = 20;
        s->m[2].audio.shift_s = 0.05;
    }
    s->c = (struct data_loader_config){.manifest = &w->m,
                                       .items = w->items,
                                       .n_items = w->n,
                                       .modality = s->m,
                                       .n_modalities = 3,
                                       .batch = 6,
                                       .seed = 42};
}

struct data_loader *world_loader(const struct world_setup *s)
{
    struct data_loader *l;
    struct err e = {0};
    if (data_loader_new(&s->c, &l, &e)) fail_msg("%s", e.msg);
    return l;
}

static void world_batch_bytes(struct buf *b, const struct data_batch *d)
{
    int64_t head[] = {d->epoch, d->index, d->size, d->n_parts};
    buf_add(b, head, sizeof head);
    buf_add(b, d->sample, (size_t)d->size * sizeof *d->sample);
    buf_add(b, d->group, (size_t)d->size * sizeof *d->group);
    for (int i = 0; i < d->n_parts; i++) {
        const struct data_part *p = &d->part[i];
        int64_t sizes[] = {p->n, p->cap, p->rows};
        buf_add(b, sizes, sizeof sizes);
        if (p->image) buf_add(b, p->image, (size_t)(p->cap * WORLD_SIDE * WORLD_SIDE * 3) * sizeof(float));
        if (p->tokens) buf_add(b, p->tokens, (size_t)p->rows * sizeof(int32_t));
        if (p->frames) buf_add(b, p->frames, (size_t)(p->rows * WORLD_BINS) * sizeof(float));
        if (!p->image) buf_add(b, p->offsets, (size_t)(p->cap + 1) * sizeof(int32_t));
        buf_add(b, p->row, (size_t)d->size * sizeof(int32_t));
        buf_add(b, p->choice, (size_t)d->size * sizeof(int32_t));
    }
}

void world_take(struct data_loader *l, int batches, struct buf *b)
{
    for (int i = 0; i < batches; i++) {
        struct data_batch *d;
        struct err e = {0};
        if (data_loader_next(l, &d, &e)) fail_msg("%s", e.msg);
        world_batch_bytes(b, d);
        data_loader_release(l, d);
    }
}
