/* Raw sound from the loader: every clip as many samples, as the decoder gives them, then silence; the same for any number
 * of threads and from the cache; items without sound; what cannot be. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "data/audio.h"
#include "data/loader.h"
#include "tests/support/temp_dir.h"

/* Item i has 400 + 200 i samples at 8 kHz, item 2 no sound. A part is 900 samples long: items 3 and 4 are cut. */
enum { N = 5, RATE = 8000, SAMPLES = 900, NONE = 2 };

static void save(const char *path, const void *data, size_t len)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
}

static float sample(int item, int64_t k)
{
    return k < 400 + 200 * item ? 0.5f * sinf((float)k * (0.05f + 0.01f * (float)item)) : 0;
}

static void make(struct temp_dir *dir, struct manifest *m)
{
    struct buf lines = {0};
    struct err e = {0};
    temp_dir_begin(dir);
    for (int i = 0; i < N; i++) {
        char name[32];
        snprintf(name, sizeof name, "%d.wav", i);
        buf_printf(&lines, "{\"id\": \"item-%d\", \"text\": \"a tone\"", i);
        if (i != NONE) buf_printf(&lines, ", \"sound\": \"%s\"", name);
        buf_str(&lines, "}\n");
        float x[400 + 200 * N];
        for (int k = 0; k < 400 + 200 * i; k++) x[k] = sample(i, k);
        struct buf wav = {0};
        assert_int_equal(data_audio_wav(x, 400 + 200 * i, RATE, &wav, &e), 0);
        save(temp_path(dir, name), wav.data, wav.len);
        buf_free(&wav);
    }
    save(temp_path(dir, "manifest.jsonl"), lines.data, lines.len);
    assert_int_equal(manifest_load(temp_path(dir, "manifest.jsonl"), m, &e), 0);
    buf_free(&lines);
}

static struct data_modality sound(void)
{
    return (struct data_modality){.name = "sound",
                                  .kind = DATA_AUDIO,
                                  .logmel = data_logmel_default(),
                                  .max_seconds = (double)SAMPLES / RATE,
                                  .samples = SAMPLES};
}

static void clips_end_in_silence(void **state)
{
    struct temp_dir dir;
    struct manifest m;
    make(&dir, &m);
    struct data_modality s = sound();
    s.logmel.rate = RATE;
    s.logmel.high = RATE / 2;
    static const int64_t items[] = {4, 0, 1, 2, 3};
    struct data_loader_config c = {
        .manifest = &m, .items = items, .n_items = N, .modality = &s, .n_modalities = 1, .batch = N, .eval = true};
    c.cache = data_cache_new(1 << 20);
    for (int run = 0; run < 3; run++) { /* the last two from the cache */
        struct data_loader *l;
        struct data_batch *b;
        struct err e = {0};
        c.threads = run;
        assert_int_equal(data_loader_new(&c, &l, &e), 0);
        assert_int_equal(data_loader_next(l, &b, &e), 0);
        const struct data_part *p = &b->part[0];
        assert_int_equal(p->n, N - 1);
        assert_int_equal(p->cap, 8);
        assert_int_equal(p->rows, 8 * SAMPLES);
        for (int i = 0, at = 0; i < N; i++) {
            assert_int_equal(p->row[i], items[i] == NONE ? -1 : at);
            if (items[i] == NONE) continue;
            assert_int_equal(p->offsets[at], at * SAMPLES);
            for (int64_t k = 0; k < SAMPLES; k++) /* 16 bits in the file, 11 in the cache */
                assert_true(fabsf(p->frames[at * SAMPLES + k] - sample((int)items[i], k)) < 1.0f / 2048);
            at++;
        }
        for (int64_t k = p->n * SAMPLES; k < p->rows; k++) assert_true(p->frames[k] == 0);
        assert_int_equal(data_loader_stats(l).cached, run ? N - 1 : 0);
        data_loader_release(l, b);
        data_loader_free(l);
    }
    data_cache_free(c.cache);
    manifest_free(&m);
    temp_dir_end(&dir);
}

/* Faster, slower, shifted and noisy clips still have the length asked for; their first samples are not another's. */
static void augmented_clips_keep_their_length(void **state)
{
    struct temp_dir dir;
    struct manifest m;
    make(&dir, &m);
    struct data_modality s = sound();
    s.logmel.rate = RATE;
    s.logmel.high = RATE / 2;
    s.audio = (struct data_audio_augment){.speed = 0.3, .gain_db = 6, .shift_s = 0.02};
    static const int64_t items[] = {0, 1, 3, 4};
    struct data_loader_config c = {
        .manifest = &m, .items = items, .n_items = 4, .modality = &s, .n_modalities = 1, .batch = 4, .seed = 3};
    float first[2][4 * SAMPLES];
    for (int run = 0; run < 2; run++) {
        struct data_loader *l;
        struct data_batch *b;
        struct err e = {0};
        c.threads = 2 * run;
        assert_int_equal(data_loader_new(&c, &l, &e), 0);
        assert_int_equal(data_loader_next(l, &b, &e), 0);
        assert_int_equal(b->part[0].rows, 4 * SAMPLES); /* every item has sound: no room for more */
        memcpy(first[run], b->part[0].frames, sizeof first[run]);
        int changed = 0;
        for (int i = 0; i < 4; i++) {
            float *x = first[run] + b->part[0].row[i] * SAMPLES;
            for (int64_t k = 0; k < SAMPLES; k++) {
                assert_true(fabsf(x[k]) < 1.1); /* 0.5 and 6 dB, and what resampling overshoots */
                changed += fabsf(x[k] - sample((int)b->sample[i], k)) > 0.05f;
            }
        }
        assert_true(changed > SAMPLES);
        data_loader_release(l, b);
        data_loader_free(l);
    }
    assert_memory_equal(first[0], first[1], sizeof first[0]); /* for any number of threads */
    manifest_free(&m);
    temp_dir_end(&dir);
}

/* Offsets are int32: a batch that has more samples than they count is refused before memory is asked for. */
static void a_batch_of_too_many_samples_is_refused(void **state)
{
    struct temp_dir dir;
    struct manifest m;
    make(&dir, &m);
    struct data_modality s = sound();
    s.samples = INT32_MAX / 10;
    static const int64_t items[] = {0, 1, 3};
    struct data_loader_config c = {
        .manifest = &m, .items = items, .n_items = 3, .modality = &s, .n_modalities = 1, .batch = 3};
    struct data_loader *l;
    struct err e = {0};
    assert_int_equal(data_loader_new(&c, &l, &e), ERR_CONFIG);
    assert_non_null(strstr(e.msg, "sound: samples should be 0 to"));
    manifest_free(&m);
    temp_dir_end(&dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clips_end_in_silence),
        cmocka_unit_test(augmented_clips_keep_their_length),
        cmocka_unit_test(a_batch_of_too_many_samples_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
