/* The emoji set: hash and split rule, names, pictures, speech, and a small folder built whole, twice, and after damage.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/rng.h"
#include "data/audio.h"
#include "data/check.h"
#include "data/emoji.h"
#include "data/emoji_parts.h"
#include "data/image.h"
#include "data/manifest.h"

/* From the FNV reference page (Fowler, Noll, Vo): 64-bit FNV-1a of "", "a", "foobar". */
static void test_hash(void **state)
{
    assert_true(hash_str("") == 0xcbf29ce484222325u);
    assert_true(hash_str("a") == 0xaf63dc4c8601ec8cu);
    assert_true(hash_str("foobar") == 0x85944171f73967e8u);
}

static const struct emoji *find(const struct emoji_list *l, const char *id)
{
    for (int64_t i = 0; i < l->n; i++)
        if (!strcmp(l->item[i].id, id)) return &l->item[i];
    fail_msg("no emoji %s", id);
    return NULL;
}

static void test_list(void **state)
{
    struct emoji_list l;
    struct err e = {0};
    assert_int_equal(emoji_list_load(NULL, 0, &l, &e), 0);
    int train = 0, compositions = 0, concepts = 0, toned = 0;
    for (int64_t i = 0; i < l.n; i++) {
        train += !strcmp(l.item[i].split, "train");
        compositions += !strcmp(l.item[i].split, "compositions");
        concepts += !strcmp(l.item[i].split, "concepts");
        toned += l.item[i].tones > 0;
    }
    assert_int_equal(train, 2998);
    assert_int_equal(compositions, 323);
    assert_int_equal(concepts, 334);
    assert_int_equal(l.n, 3655);
    const struct emoji *m = find(&l, "1f44b-1f3ff"); /* waving hand, dark */
    assert_string_equal(m->caption[0], "waving hand: dark skin tone");
    assert_string_equal(m->base, "👋");
    assert_int_equal(m->tones, 1);
    m = find(&l, "1f9d1-1f3fb-200d-2764-200d-1f9d1-1f3ff"); /* U+FE0F is in the list, not in the name */
    assert_int_equal(m->tones, 2);
    assert_string_equal(m->base, "🧑‍❤‍🧑");
    assert_string_equal(m->text, "🧑🏻‍❤️‍🧑🏿");
    m = find(&l, "1f600");
    assert_int_equal(m->n_captions, 2);
    assert_string_equal(m->caption[0], "grinning face");
    assert_string_equal(m->caption[1], "face, grin, grinning face");
    m = find(&l, "23-20e3");
    assert_string_equal(m->caption[0], "keycap: #");
    emoji_list_free(&l);
}

static void test_languages(void **state)
{
    struct emoji_list l;
    struct err e = {0};
    assert_int_equal(emoji_list_load("de,en,de-CH", 3, &l, &e), 0);
    assert_int_equal(l.n, 3);
    const struct emoji *m = find(&l, "1f600");
    assert_string_equal(m->caption[0], "grinning face");
    assert_string_equal(m->caption[2], "grinsendes Gesicht");
    assert_int_equal(m->n_captions, 4); /* de_CH says the same as de: no second time */
    emoji_list_free(&l);
    assert_int_equal(emoji_list_load("en,ed", 3, &l, &e), ERR_CONFIG);
    assert_non_null(strstr(e.msg, "unknown language 'ed'"));
    assert_non_null(strstr(e.msg, "did you mean 'de'?"));
    assert_null(l.item);
    err_clear(&e);
    assert_int_equal(emoji_list_load("../../root", 3, &l, &e), ERR_CONFIG);
}

/* Voices, speeds and pitches of one emoji, computed by hand from the rule: h = FNV-1a("voice:😀"). */
static void test_plan(void **state)
{
    uint64_t h = hash_str("voice:😀");
    struct speech_plan a = speech_plan(h, 0, 2), b = speech_plan(h, 1, 2), c = speech_plan(h, 2, 2);
    assert_true(h == 0x812b098d69ee3e64u);
    assert_string_equal(a.voice, "en-gb-scotland+m4");
    assert_string_equal(b.voice, "en-us+f3");
    assert_string_equal(c.voice, "en-us+m7");
    assert_int_equal(a.speed, 172);
    assert_int_equal(b.speed, 187);
    assert_int_equal(c.speed, 170);
    assert_int_equal(a.pitch, 36);
    assert_int_equal(b.pitch, 65);
    assert_int_equal(c.pitch, 64);
}

/* The grinning face: white corners, a yellow forehead, white teeth; and one picture for a sequence with joiners. */
static void test_picture(void **state)
{
    struct err e = {0};
    struct emoji_font *f = emoji_font_open(EMOJI_FONT, &e);
    assert_non_null(f);
    struct buf png = {0};
    struct data_image im;
    assert_int_equal(emoji_picture(f, "😀", 64, &png, &e), 0);
    assert_int_equal(data_image_decode("face", png.data, png.len, &im, &e), 0);
    assert_int_equal(im.h, 64);
    assert_int_equal(im.w, 64);
    for (int c = 0; c < 3; c++) {
        assert_int_equal(im.px[c], 255);
        assert_int_equal(im.px[(63 * 64 + 63) * 3 + c], 255);
    }
    const uint8_t *brow = im.px + (14 * 64 + 32) * 3;
    assert_true(brow[0] > 230 && brow[1] > 180 && brow[2] < 120);
    uint64_t face = hash_bytes(im.px, 64 * 64 * 3, HASH_START);
    assert_true(
        face ==
        0xd1dbb610052a8dbfu); /* of the pixels that Pillow makes of the same glyph (fonts-noto-color-emoji 2.042) */
    data_image_free(&im);
    png.len = 0;
    assert_int_equal(emoji_picture(f, "👩🏽‍🚀", 32, &png, &e), 0);
    png.len = 0;
    assert_int_equal(emoji_picture(f, "😀😀", 32, &png, &e), ERR_FORMAT);
    assert_non_null(strstr(e.msg, "fonts-noto-color-emoji"));
    err_clear(&e);
    buf_free(&png);
    emoji_font_close(f);
    assert_null(emoji_font_open("/nowhere/font.ttf", &e));
    assert_string_equal(e.msg, "/nowhere/font.ttf: not found; install it: apt-get install fonts-noto-color-emoji");
}

/* A clip is as long and loud as speech is, and two thirds of its voice's samples at 22,050 Hz are left at 16,000 Hz. */
static void test_speech(void **state)
{
    struct err e = {0};
    struct speech *s = speech_open(NULL, &e);
    assert_non_null(s);
    int16_t *x;
    int64_t n;
    int rate;
    assert_int_equal(speech_say(s, "en-us+m1", 150, 40, "grinning face", &x, &n, &rate, &e), 0);
    assert_int_equal(rate, 22050);
    struct buf flac = {0};
    assert_int_equal(speech_encode(x, n, rate, &flac, &e), 0);
    struct data_audio a;
    assert_int_equal(data_audio_decode("clip", flac.data, flac.len, 0, 0, &a, &e), 0);
    assert_int_equal(a.rate, 16000);
    double want = (double)n * 16000 / 22050, sum = 0;
    assert_true(fabs((double)a.n - want) <= 1);
    assert_true(a.n > 12000 && a.n < 32000); /* two words take 0.75 to 2 seconds */
    for (int64_t i = 0; i < a.n; i++) sum += a.x[i] * a.x[i];
    double rms = sqrt(sum / (double)a.n);
    assert_true(rms > 0.03 && rms < 0.3);
    float *ref;
    int64_t n_ref;
    float *f = malloc((size_t)n * sizeof *f);
    for (int64_t i = 0; i < n; i++) f[i] = x[i] / 32768.0f;
    assert_int_equal(data_audio_resample(f, n, rate, 16000, &ref, &n_ref, &e), 0);
    assert_int_equal(n_ref, a.n);
    /* rounding to multiples of 512 / 32768, plus a 16-bit step for the conversions */
    for (int64_t i = 0; i < a.n; i++) assert_true(fabsf(a.x[i] - ref[i]) <= 256.5f / 32768);
    free(f);
    free(ref);
    data_audio_free(&a);
    buf_free(&flac);
    free(x);
    assert_int_equal(speech_say(s, "xx-none", 150, 40, "a", &x, &n, &rate, &e), ERR_IO);
    assert_non_null(strstr(e.msg, "espeak-ng -v xx-none"));
    speech_close(s);
}

static void assert_same_file(const char *a, const char *b, const char *name)
{
    struct err e = {0};
    char *p = file_join(a, name), *q = file_join(b, name), *x, *y;
    size_t n, k;
    assert_int_equal(file_read(p, 1 << 26, &x, &n, &e), 0);
    assert_int_equal(file_read(q, 1 << 26, &y, &k, &e), 0);
    assert_int_equal(n, k);
    assert_memory_equal(x, y, n);
    free(p);
    free(q);
    free(x);
    free(y);
}

static int64_t changed_at(const char *dir, const char *name)
{
    char *path = file_join(dir, name);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    free(path);
    return (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
}

static void test_folder(void **state)
{
    struct err e = {0};
    char one[] = "/tmp/triad-emoji-XXXXXX", two[] = "/tmp/triad-emoji-XXXXXX";
    assert_non_null(mkdtemp(one));
    assert_non_null(mkdtemp(two));
    struct data_emoji_opts o = {.out = one, .limit = 6, .jobs = 1, .size = 32},
                           p = {.out = two, .limit = 6, .jobs = 3, .size = 32};
    assert_int_equal(data_emoji(&o, &e), 0);
    assert_int_equal(data_emoji(&p, &e), 0);
    assert_same_file(one, two, "manifest.jsonl");
    assert_same_file(one, two, "emoji.h5"); /* which holds every other file */

    char *manifest = file_join(one, "manifest.jsonl"), *clip = file_join(one, "audio/1f600.1.flac");
    struct manifest m;
    assert_int_equal(manifest_load(manifest, &m, &e), 0);
    assert_int_equal(m.n, 6);
    assert_string_equal(m.item[0].id, "1f600");
    const struct manifest_field *audio = manifest_field(&m.item[0], "audio");
    assert_int_equal(audio->n, 3);
    assert_string_equal(audio->entry[1].value, "audio/1f600.1.flac");
    assert_string_equal(audio->entry[2].split, "voices");
    assert_string_equal(manifest_field(&m.item[0], "image")->entry[0].value, "image/1f600.png");
    manifest_free(&m);
    FILE *sink = fopen("/dev/null", "w");
    assert_int_equal(data_check(manifest, sink, &e), 0);
    fclose(sink);

    int64_t made = changed_at(one, "manifest.jsonl"), stamp = changed_at(one, "audio/1f600.0.flac");
    assert_int_equal(data_emoji(&o, &e), 0); /* complete: nothing is touched */
    assert_true(changed_at(one, "manifest.jsonl") == made);
    assert_int_equal(unlink(clip), 0); /* one clip is gone: it alone is made again */
    assert_int_equal(data_emoji(&o, &e), 0);
    assert_same_file(one, two, "audio/1f600.1.flac");
    assert_same_file(one, two, "emoji.h5");
    assert_true(changed_at(one, "audio/1f600.0.flac") == stamp);
    o.size = 16; /* other options: all anew */
    assert_int_equal(data_emoji(&o, &e), 0);
    assert_true(changed_at(one, "audio/1f600.0.flac") != stamp);
    free(manifest);
    free(clip);
    assert_int_equal(file_remove_tree(one, &e), 0);
    assert_int_equal(file_remove_tree(two, &e), 0);
}

static void test_refusals(void **state)
{
    struct err e = {0};
    char dir[] = "/tmp/triad-emoji-XXXXXX";
    assert_non_null(mkdtemp(dir));
    struct data_emoji_opts o = {.out = dir, .limit = 2, .size = 4};
    assert_int_equal(data_emoji(&o, &e), ERR_CONFIG);
    err_clear(&e);
    o = (struct data_emoji_opts){.out = dir, .limit = 2, .voices = 9};
    assert_int_equal(data_emoji(&o, &e), ERR_CONFIG);
    err_clear(&e);
    o = (struct data_emoji_opts){.out = dir, .limit = 2};
    char *manifest = file_join(dir, "manifest.jsonl"), *lock = file_join(dir, ".lock");
    assert_int_equal(file_write(manifest, "mine", 4, &e), 0);
    assert_int_equal(data_emoji(&o, &e), ERR_STATE); /* a user's own manifest is not overwritten */
    err_clear(&e);
    int fd = file_lock(lock, &e);
    assert_true(fd >= 0);
    assert_int_equal(data_emoji(&o, &e), ERR_BUSY);
    file_unlock(fd);
    err_clear(&e);
    const char *path = getenv("PATH");
    char *old = strdup(path);
    setenv("PATH", "/nowhere", 1);
    assert_int_equal(unlink(manifest), 0);
    assert_int_equal(data_emoji(&o, &e), ERR_IO);
    assert_string_equal(e.msg, "espeak-ng: not found; install it: apt-get install espeak-ng");
    setenv("PATH", old, 1);
    free(old);
    free(manifest);
    free(lock);
    err_clear(&e);
    assert_int_equal(file_remove_tree(dir, &e), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hash),   cmocka_unit_test(test_list),     cmocka_unit_test(test_languages),
        cmocka_unit_test(test_plan),   cmocka_unit_test(test_picture),  cmocka_unit_test(test_speech),
        cmocka_unit_test(test_folder), cmocka_unit_test(test_refusals),
    };
    log_quiet(true);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
