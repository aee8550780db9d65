/* Sound against what was written: formats, channels, resampling of tones, damage of every kind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <sndfile.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/rng.h"
#include "data/audio.h"

/* libsndfile 1.2.0 forgets libvorbis' header when the one after it is damaged (src/ogg_vorbis.c); we cannot free it. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:vorbis_info_init\n";
}

/* A sample of channel c: a tone for each, within -0.9..0.9. */
static float tone(int64_t i, int c, int64_t rate)
{
    return 0.9f * (float)sin(2 * M_PI * (300 + 100 * c) * (double)i / (double)rate);
}

/* What libsndfile writes for n frames; through a file, since its virtual writing needs more code than this. */
static void encode(int format, int rate, int channels, int64_t n, const float *x, char **data, size_t *len)
{
    char dir[] = "/tmp/triad-audio-XXXXXX";
    struct err e = {0};
    assert_non_null(mkdtemp(dir));
    char *path = file_join(dir, "a");
    SF_INFO info = {.samplerate = rate, .channels = channels, .format = format};
    SNDFILE *f = sf_open(path, SFM_WRITE, &info);
    assert_non_null(f);
    assert_int_equal(sf_writef_float(f, x, n), n);
    sf_close(f);
    assert_int_equal(file_read(path, 1 << 28, data, len, &e), 0);
    assert_int_equal(file_remove_tree(dir, &e), 0);
    free(path);
}

static float *tones(int64_t n, int channels, int64_t rate)
{
    float *x = malloc((size_t)(n * channels + 1) * sizeof *x);
    for (int64_t i = 0; i < n * channels; i++) x[i] = tone(i / channels, (int)(i % channels), rate);
    return x;
}

static void formats(void **state)
{
    static const struct {
        const char *name;
        int format, channels;
        int64_t n;
        double tol;
    } rows[] = {
        {"wav 16", SF_FORMAT_WAV | SF_FORMAT_PCM_16, 1, 3000,
         1.5 / 32768}, /* written by 32767 and rounded, read by 32768 */
        {"wav 16 stereo", SF_FORMAT_WAV | SF_FORMAT_PCM_16, 2, 3000, 1.5 / 32768},
        {"wav 8", SF_FORMAT_WAV | SF_FORMAT_PCM_U8, 1, 3000, 1.5 / 128},
        {"wav 24", SF_FORMAT_WAV | SF_FORMAT_PCM_24, 3, 3000, 1.5 / 8388608},
        {"wav float", SF_FORMAT_WAV | SF_FORMAT_FLOAT, 1, 3000, 0},
        {"wav long", SF_FORMAT_WAV | SF_FORMAT_FLOAT, 5, 40000, 1e-7}, /* many pieces; the mean of five rounds */
        {"wav one sample", SF_FORMAT_WAV | SF_FORMAT_PCM_16, 1, 1, 1.5 / 32768},
        {"wav empty", SF_FORMAT_WAV | SF_FORMAT_PCM_16, 1, 0, 0},
        {"flac", SF_FORMAT_FLAC | SF_FORMAT_PCM_16, 2, 3000, 1.5 / 32768},
        {"flac one sample", SF_FORMAT_FLAC | SF_FORMAT_PCM_16, 1, 1, 1.5 / 32768},
        {"ogg", SF_FORMAT_OGG | SF_FORMAT_VORBIS, 1, 3000, 0.1}}; /* lossy: alike, and as long */
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        int ch = rows[r].channels;
        float *x = tones(rows[r].n, ch, 16000);
        char *data;
        size_t len;
        struct data_audio a;
        struct err e = {0};
        encode(rows[r].format, 16000, ch, rows[r].n, x, &data, &len);
        if (data_audio_decode("a.wav", data, len, 0, 0, &a, &e)) fail_msg("%s: %s", rows[r].name, e.msg);
        assert_int_equal(a.rate, 16000);
        assert_int_equal(a.n, rows[r].n);
        assert_non_null(a.x);
        for (int64_t i = 0; i < a.n; i++) {
            double want = 0;
            for (int c = 0; c < ch; c++) want += x[i * ch + c] / (double)ch;
            if (fabs(want - a.x[i]) > rows[r].tol)
                fail_msg("%s: sample %d is %g, expected %g", rows[r].name, (int)i, a.x[i], want);
        }
        data_audio_free(&a);
        free(data);
        free(x);
    }
}

static void resampled_tones(void **state)
{
    static const int rates[][2] = {{44100, 16000}, {8000, 16000}, {22050, 16000}, {48000, 8000}, {16000, 16000}};
    for (size_t r = 0; r < sizeof rates / sizeof *rates; r++) {
        int from = rates[r][0], to = rates[r][1];
        float *x = tones(from, 1, from);
        char *data;
        size_t len;
        struct data_audio a;
        struct err e = {0};
        encode(SF_FORMAT_WAV | SF_FORMAT_FLOAT, from, 1, from, x, &data, &len);
        assert_int_equal(data_audio_decode("a.wav", data, len, to, 0, &a, &e), 0);
        assert_int_equal(a.rate, to);
        assert_true(llabs(a.n - to) <= 1);
        for (int64_t i = to / 10; i < to * 9 / 10; i++) /* away from the ends, where the tone is not a tone */
            if (fabsf(a.x[i] - tone(i, 0, to)) > 2e-5f) /* quality HQ: 20 bits in band, 1e-6; float sums above that */
                fail_msg("%d -> %d: sample %d is %g, expected %g", from, to, (int)i, a.x[i], tone(i, 0, to));
        float *whole = malloc((size_t)a.n * sizeof *whole);
        memcpy(whole, a.x, (size_t)a.n * sizeof *whole);
        data_audio_free(&a);
        assert_int_equal(data_audio_decode("a.wav", data, len, to, 0.5, &a, &e), 0); /* cut: as the whole's beginning */
        assert_int_equal(a.n, to / 2);
        for (int64_t i = 0; i < a.n; i++) assert_true(fabsf(a.x[i] - whole[i]) < 1e-6f);
        free(whole);
        data_audio_free(&a);
        free(data);
        free(x);
    }
}

static void short_and_silent_resampled(void **state)
{
    static const int64_t sizes[] = {0, 1, 2, 441, 30000};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        float *x = calloc((size_t)sizes[s] + 1, sizeof *x);
        char *data;
        size_t len;
        struct data_audio a;
        struct err e = {0};
        encode(SF_FORMAT_WAV | SF_FORMAT_PCM_16, 44100, 1, sizes[s], x, &data, &len);
        assert_int_equal(data_audio_decode("a.wav", data, len, 16000, 4, &a, &e), 0);
        assert_non_null(a.x);
        assert_true(llabs(a.n - sizes[s] * 16000 / 44100) <= 1);
        for (int64_t i = 0; i < a.n; i++) assert_true(a.x[i] == 0);
        data_audio_free(&a);
        free(data);
        free(x);
    }
}

static void must_fail(const void *data, size_t len, const char *part)
{
    struct data_audio a = {.x = (float *)1};
    struct err e = {0};
    assert_int_equal(data_audio_decode("dir/bad.wav", data, len, 16000, 0, &a, &e), ERR_FORMAT);
    assert_null(a.x);
    assert_ptr_equal(strstr(e.msg, "dir/bad.wav: "), e.msg);
    if (!strstr(e.msg, part)) fail_msg("expected '%s' in '%s'", part, e.msg);
}

static void bad_samples(void **state)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY, 1e30f, -50000};
    for (size_t b = 0; b < sizeof bad / sizeof *bad; b++) {
        float *x = tones(2000, 2, 16000);
        x[1233 * 2 + 1] = bad[b];
        char *data;
        size_t len;
        encode(SF_FORMAT_WAV | SF_FORMAT_FLOAT, 16000, 2, 2000, x, &data, &len);
        must_fail(data, len, "sample 1233 is ");
        free(data);
        free(x);
    }
    float *x = tones(2000, 1, 16000); /* the scale of 16-bit integers is odd but not damaged */
    for (int i = 0; i < 2000; i++) x[i] *= 32768;
    char *data;
    size_t len;
    struct data_audio a;
    struct err e = {0};
    encode(SF_FORMAT_WAV | SF_FORMAT_FLOAT, 16000, 1, 2000, x, &data, &len);
    assert_int_equal(data_audio_decode("a.wav", data, len, 0, 0, &a, &e), 0);
    data_audio_free(&a);
    free(data);
    free(x);
}

static void truncated_and_damaged(void **state)
{
    must_fail("", 0, "empty");
    must_fail("hello, this is no sound at all", 30, "not sound");
    static const int kinds[] = {SF_FORMAT_WAV | SF_FORMAT_PCM_16, SF_FORMAT_FLAC | SF_FORMAT_PCM_16,
                                SF_FORMAT_OGG | SF_FORMAT_VORBIS};
    for (int k = 0; k < 3; k++) {
        float *x = tones(6000, 1, 16000);
        char *data;
        size_t len;
        encode(kinds[k], 16000, 1, 6000, x, &data, &len);
        for (size_t n = 0; n < len; n += 1 + len / 300) {
            char *cut = malloc(n ? n : 1); /* exactly as long, so that a read beyond its end is seen */
            memcpy(cut, data, n);
            struct data_audio a;
            struct err e = {0};
            int rc = data_audio_decode("a", cut, n, 16000, 0, &a, &e);
            if (k < 2 && rc != ERR_FORMAT)
                fail_msg("kind %d cut to %zu of %zu bytes gave %d, %d samples", k, n, len, rc,
                         (int)a.n); /* an OGG does not say how long it is */
            if (!rc) assert_true(a.n < 6000);
            data_audio_free(&a);
            free(cut);
        }
        struct rng r = rng_make(3, (uint64_t)k, 0);
        for (int t = 0; t < 200; t++) {
            size_t at = (size_t)rng_below(&r, (int64_t)(t % 2 ? len : len < 200 ? len : 200)); /* half in the header */
            char old = data[at];
            data[at] = (char)(data[at] ^ (1 << rng_below(&r, 8)));
            struct data_audio a;
            struct err e = {0};
            int rc = data_audio_decode("a", data, len, 16000, 2, &a, &e);
            assert_true(rc == 0 || rc == ERR_FORMAT);
            for (int64_t i = 0; i < a.n; i++) assert_true(isfinite(a.x[i]));
            data_audio_free(&a);
            data[at] = old;
        }
        free(data);
        free(x);
    }
}

static void lying_headers(void **state)
{
    float *x = tones(100, 1, 16000);
    struct buf b = {0};
    struct err e = {0};
    struct data_audio a;
    assert_int_equal(data_audio_wav(x, 100, 16000, &b, &e), 0);
    b.data[40] = (char)0x80; /* 100 samples are 200 bytes */
    b.data[41] = 0x7f;
    must_fail(b.data, b.len, "promises 32640 bytes");
    memset(b.data + 40, 0xff, 4); /* a stream whose length was not known when its header was written */
    assert_int_equal(data_audio_decode("a", b.data, b.len, 0, 0, &a, &e), 0);
    assert_int_equal(a.n, 100);
    data_audio_free(&a);
    memset(b.data + 24, 0, 4); /* a rate of 0 */
    must_fail(b.data, b.len, "");
    b.data[24] = 10;
    must_fail(b.data, b.len, "10 samples a second");
    buf_free(&b);
    free(x);
}

static void wav_there_and_back(void **state)
{
    float x[] = {0, 0.5f, -0.5f, 1, -1, 3, -3, 1.0f / 32768, NAN};
    const float want[] = {0, 0.5f, -0.5f, 32767 / 32768.0f, -1, 32767 / 32768.0f, -1, 1.0f / 32768};
    struct buf b = {0};
    struct err e = {0};
    struct data_audio a;
    assert_int_equal(data_audio_wav(x, 9, 22050, &b, &e), 0);
    assert_int_equal(b.len, 44 + 18);
    assert_int_equal(data_audio_decode("a.wav", b.data, b.len, 0, 0, &a, &e), 0);
    assert_int_equal(a.n, 9);
    assert_int_equal(a.rate, 22050);
    for (int i = 0; i < 8; i++) assert_true(a.x[i] == want[i]);
    data_audio_free(&a);
    assert_int_equal(data_audio_wav(x, 9, 0, &b, &e), ERR_SHAPE);
    buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(formats),
        cmocka_unit_test(resampled_tones),
        cmocka_unit_test(short_and_silent_resampled),
        cmocka_unit_test(bad_samples),
        cmocka_unit_test(truncated_and_damaged),
        cmocka_unit_test(lying_headers),
        cmocka_unit_test(wav_there_and_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
