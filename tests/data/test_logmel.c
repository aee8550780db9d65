/* Log-mel against its definition: a direct O(n^2) Fourier transform, in double, of what torch.stft takes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "base/threads.h"
#include "data/logmel.h"

/* Sample i of the clip continued by reflection, or by zeros where it is too short. */
static double sample(const float *x, int64_t n, int64_t fft, int64_t i)
{
    if (n > fft / 2) i = i < 0 ? -i : i >= n ? 2 * (n - 1) - i : i;
    return i >= 0 && i < n ? x[i] : 0;
}

static double to_mel(double f, bool slaney)
{
    if (!slaney) return 2595 * log10(1 + f / 700);
    return f < 1000 ? f / (200.0 / 3) : 15 + log(f / 1000) / (log(6.4) / 27);
}

static double to_hz(double m, bool slaney)
{
    if (!slaney) return 700 * (pow(10, m / 2595) - 1);
    return m < 15 ? m * (200.0 / 3) : 1000 * exp(m - 15 < 0 ? 0 : (m - 15) * (log(6.4) / 27));
}

/* peak (frames) gets each frame's largest power; NULL: not asked for. */
static void reference(const struct data_logmel_config *c, const float *x, int64_t n, int64_t frames, double *out,
                      double *peak)
{
    int64_t window = llround(c->window_s * (double)c->rate), hop = llround(c->hop_s * (double)c->rate),
            half = c->fft / 2;
    bool whisper = c->style == DATA_LOGMEL_WHISPER;
    double *power = malloc((size_t)(half + 1) * sizeof *power), *frame = malloc((size_t)c->fft * sizeof *frame);
    double lo = to_mel(c->low, whisper), hi = to_mel(c->high, whisper), mean = 0, top = -1e9, var = 0;
    for (int64_t t = 0; t < frames; t++) {
        for (int64_t i = 0; i < c->fft; i++) {
            int64_t w = i - (c->fft - window) / 2;
            frame[i] = w >= 0 && w < window
                           ? sample(x, n, c->fft, t * hop - half + i) * pow(sin(M_PI * (double)w / (double)window), 2)
                           : 0;
        }
        for (int64_t k = 0; k <= half; k++) {
            double re = 0, im = 0;
            for (int64_t i = 0; i < c->fft; i++) {
                double angle = 2 * M_PI * (double)(k * i % c->fft) / (double)c->fft;
                re += frame[i] * cos(angle);
                im += frame[i] * sin(angle);
            }
            power[k] = re * re + im * im;
            if (peak) peak[t] = k ? fmax(peak[t], power[k]) : power[k];
        }
        for (int64_t b = 0; b < c->bins; b++) {
            double p[3], sum = 0;
            for (int i = 0; i < 3; i++) p[i] = to_hz(lo + (hi - lo) * (double)(b + i) / (double)(c->bins + 1), whisper);
            for (int64_t k = 0; k <= half; k++) {
                double f = (double)(k * c->rate) / (double)c->fft;
                double w = fmax(0, fmin((f - p[0]) / (p[1] - p[0]), (p[2] - f) / (p[2] - p[1])));
                sum += power[k] * w * (whisper ? 2 / (p[2] - p[0]) : 1);
            }
            double y = whisper ? log10(fmax(sum, 1e-10)) : log(sum + 1e-6);
            out[t * c->bins + b] = y;
            mean += y / (double)(frames * c->bins);
            top = fmax(top, y);
        }
    }
    int64_t all = frames * c->bins;
    for (int64_t i = 0; i < all; i++) var += (out[i] - mean) * (out[i] - mean) / (double)(all > 1 ? all - 1 : 1);
    for (int64_t i = 0; i < all; i++) {
        if (c->style == DATA_LOGMEL_CLIP) out[i] = (out[i] - mean) / (sqrt(var) + 1e-5);
        if (whisper) out[i] = (fmax(out[i], top - 8) + 4) / 4;
    }
    free(power);
    free(frame);
}

/* A chirp in noise; n may be anything. */
static float *clip(int64_t n)
{
    float *x = malloc((size_t)(n + 1) * sizeof *x);
    struct rng r = rng_make(5, 0, 0);
    for (int64_t i = 0; i < n; i++) x[i] = (float)(0.4 * sin(2e-5 * (double)(i * i)) + 0.02 * rng_normal(&r));
    return x;
}

static void as_defined(void **state)
{
    static const struct {
        const char *name;
        enum data_logmel_style style;
        int64_t rate, fft, bins, n;
        double window_s, hop_s, low, high;
    } rows[] = {{"peer", DATA_LOGMEL_CLIP, 16000, 512, 80, 3333, 0.025, 0.01, 20, 8000},
                {"plain", DATA_LOGMEL_PLAIN, 16000, 512, 80, 3200, 0.025, 0.01, 20, 8000},
                {"whisper", DATA_LOGMEL_WHISPER, 16000, 400, 80, 3205, 0.025, 0.01, 0, 8000},
                {"other sizes", DATA_LOGMEL_CLIP, 22050, 600, 41, 2500, 0.02, 0.0075, 100, 9000},
                {"just long enough to reflect", DATA_LOGMEL_PLAIN, 16000, 512, 80, 257, 0.025, 0.01, 20, 8000},
                {"too short to reflect", DATA_LOGMEL_PLAIN, 16000, 512, 80, 256, 0.025, 0.01, 20, 8000},
                {"one sample", DATA_LOGMEL_CLIP, 16000, 512, 80, 1, 0.025, 0.01, 20, 8000},
                {"no sample", DATA_LOGMEL_CLIP, 16000, 512, 80, 0, 0.025, 0.01, 20, 8000},
                {"one sample, whisper", DATA_LOGMEL_WHISPER, 16000, 400, 80, 1, 0.025, 0.01, 0, 8000},
                {"a hop, whisper", DATA_LOGMEL_WHISPER, 16000, 400, 80, 160, 0.025, 0.01, 0, 8000}};
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        struct data_logmel_config c = {rows[r].rate, rows[r].window_s, rows[r].hop_s, rows[r].fft,
                                       rows[r].bins, rows[r].low,      rows[r].high,  rows[r].style};
        struct data_logmel *m;
        struct err e = {0};
        if (data_logmel_new(&c, &m, &e)) fail_msg("%s: %s", rows[r].name, e.msg);
        int64_t n = rows[r].n, frames = data_logmel_frames(&c, n), hop = llround(c.hop_s * (double)c.rate);
        assert_int_equal(frames, c.style == DATA_LOGMEL_WHISPER && n >= hop ? n / hop : n / hop + 1);
        float *x = clip(n), *got = malloc((size_t)(frames * c.bins) * sizeof *got);
        double *want = malloc((size_t)(frames * c.bins) * sizeof *want);
        data_logmel_run(m, x, n, got);
        reference(&c, x, n, frames, want, NULL);
        for (int64_t i = 0; i < frames * c.bins; i++)
            /* an FFT in float is off by 1e-7 of the frame's largest value: up to 1e-3 of a power 80 dB below, in its
             * log */
            if (!(fabs(got[i] - want[i]) < 1e-3))
                fail_msg("%s: frame %d bin %d is %g, expected %g", rows[r].name, (int)(i / c.bins), (int)(i % c.bins),
                         got[i], want[i]);
        data_logmel_free(m);
        free(x);
        free(got);
        free(want);
    }
}

static struct data_logmel *sized(int64_t fft, int64_t window, int64_t hop, int64_t bins, enum data_logmel_style style,
                                 struct data_logmel_config *c)
{
    struct data_logmel *m;
    struct err e = {0};
    *c = (struct data_logmel_config){
        1000, (double)window / 1000, (double)hop / 1000, fft, bins, fft < 100 ? 0 : 20, 500, style};
    if (data_logmel_new(c, &m, &e)) fail_msg("fft %d: %s", (int)fft, e.msg);
    return m;
}

/* Every radix and mixtures, odd halves, windows and bins beside every vector's length, 1 to 35 frames. The error of an FFT
 * in float is relative to the frame's largest value: with values of 24 bits and log2(fft) passes, 1e-6 of the
 * largest power, and the rounding of the sum and of its logarithm. */
static void sizes(void **state)
{
    static const int64_t fft[] = {16, 18, 20,  22,  30,  32,  34,  48,  64,  90,
                                  96, 98, 100, 126, 128, 202, 240, 400, 450, 514};
    struct rng r = rng_make(3, 0, 0);
    for (size_t f = 0; f < sizeof fft / sizeof *fft; f++)
        for (int t = 0; t < 4; t++) {
            int64_t hop = 1 + rng_below(&r, 40), n = rng_below(&r, 35 * hop), bins = 1 + rng_below(&r, fft[f] / 4);
            int64_t window = t == 0 ? fft[f] : t == 1 ? fft[f] - 1 : 2 + rng_below(&r, fft[f] - 1);
            struct data_logmel_config c;
            struct data_logmel *m = sized(fft[f], window, hop, bins, DATA_LOGMEL_PLAIN, &c);
            int64_t frames = data_logmel_frames(&c, n);
            float *x = clip(n), *got = malloc((size_t)(frames * bins + 1) * sizeof *got);
            double *want = malloc((size_t)(frames * bins) * sizeof *want),
                   *peak = malloc((size_t)frames * sizeof *peak);
            got[frames * bins] = 12345;
            data_logmel_run(m, x, n, got);
            assert_true(got[frames * bins] == 12345);
            reference(&c, x, n, frames, want, peak);
            for (int64_t i = 0; i < frames; i++) {
                for (int64_t b = i * bins; b < (i + 1) * bins; b++) {
                    double off = fabs(exp(got[b]) - exp(want[b])), may = 1e-6 * peak[i] + 2e-6 * exp(want[b]);
                    if (!(off <= may))
                        fail_msg("fft %d window %d hop %d bins %d n %d: frame %d bin %d is off by %g, more than %g",
                                 (int)fft[f], (int)window, (int)hop, (int)bins, (int)n, (int)i, (int)(b % bins), off,
                                 may);
                }
            }
            data_logmel_free(m);
            free(x);
            free(got);
            free(want);
            free(peak);
        }
}

static void threads_give_the_same(void **state)
{
    int before = threads_count();
    for (int style = DATA_LOGMEL_CLIP; style <= DATA_LOGMEL_WHISPER; style++) {
        float *x = clip(3001), *one = NULL;
        for (int k = 0; k < 4; k++) {
            struct data_logmel_config c;
            threads_init((int[]){1, 2, 3, 7}[k]);
            struct data_logmel *m = sized(100, 77, 11, 23, (enum data_logmel_style)style, &c);
            size_t bytes = (size_t)(data_logmel_frames(&c, 3001) * 23) * sizeof *x;
            float *got = malloc(bytes);
            if (k == 2) threads_init(5); /* more than there are tables for */
            data_logmel_run(m, x, 3001, got);
            if (one) assert_memory_equal(one, got, bytes);
            if (!one) one = memcpy(malloc(bytes), got, bytes);
            data_logmel_free(m);
            free(got);
        }
        free(one);
        free(x);
    }
    threads_init(before);
}

/* A sample that is not finite is in all bins of the frames that hold it (but at a window's first sample, whose weight is
 * 0, it is NaN all the same) and in no other. */
static void not_finite(void **state)
{
    static const int64_t places[] = {0, 1, 500, 999};
    for (int kind = 0; kind < 3; kind++)
        for (int p = 0; p < 4; p++) {
            struct data_logmel_config c;
            struct data_logmel *m = sized(50, 50, 25, 7, DATA_LOGMEL_PLAIN, &c);
            float *x = clip(1000), want[41 * 7], got[41 * 7];
            data_logmel_run(m, x, 1000, want);
            x[places[p]] = (float[]){NAN, INFINITY, -INFINITY}[kind];
            data_logmel_run(m, x, 1000, got);
            for (int64_t i = 0; i < 41 * 7; i++) {
                bool holds = false;
                for (int64_t s = i / 7 * 25 - 25; s < i / 7 * 25 + 25; s++)
                    holds |= (s < 0 ? -s : s >= 1000 ? 1998 - s : s) == places[p];
                if (holds ? isfinite(got[i]) : got[i] != want[i])
                    fail_msg("sample %d: frame %d bin %d is %g", (int)places[p], (int)i / 7, (int)i % 7, got[i]);
            }
            data_logmel_free(m);
            free(x);
        }
}

/* Whisper's floors do not hide a NaN; the silence beside it is log10(1e-10), (-10 + 4) / 4. */
static void whisper_keeps_nan(void **state)
{
    struct data_logmel_config c;
    struct data_logmel *m = sized(50, 50, 25, 7, DATA_LOGMEL_WHISPER, &c);
    float x[200] = {0}, got[8 * 7];
    x[10] = NAN;
    data_logmel_run(m, x, 200, got);
    assert_true(isnan(got[0]));
    for (int i = 4 * 7; i < 8 * 7; i++) assert_true(fabsf(got[i] + 1.5f) < 1e-6f);
    data_logmel_free(m);
}

static void silence_is_finite(void **state)
{
    for (int style = DATA_LOGMEL_CLIP; style <= DATA_LOGMEL_WHISPER; style++) {
        struct data_logmel_config c = data_logmel_default();
        c.style = (enum data_logmel_style)style;
        struct data_logmel *m;
        struct err e = {0};
        float *x = calloc(16000, sizeof *x), *got = malloc(101 * 80 * sizeof *got);
        assert_int_equal(data_logmel_new(&c, &m, &e), 0);
        data_logmel_run(m, x, 16000, got);
        for (int64_t i = 0; i < data_logmel_frames(&c, 16000) * 80; i++) {
            float want = style == DATA_LOGMEL_CLIP ? 0 : style == DATA_LOGMEL_PLAIN ? logf(1e-6f) : -1.5f;
            assert_true(fabsf(got[i] - want) < 1e-5f); /* the last digits of ln 1e-6 = -13.8 */
        }
        data_logmel_free(m);
        free(x);
        free(got);
    }
}

static void bad_settings(void **state)
{
    static const struct {
        const char *part;
        double rate, window, hop, fft, bins, low, high;
    } rows[] = {{"rate", 10, .025, .01, 512, 80, 20, 8000},     {"fft", 16000, .025, .01, 511, 80, 20, 8000},
                {"fft", 16000, .025, .01, 1e9, 80, 20, 8000},   {"window", 16000, .05, .01, 512, 80, 20, 8000},
                {"window", 16000, NAN, .01, 512, 80, 20, 8000}, {"hop", 16000, .025, 0, 512, 80, 20, 8000},
                {"hop", 16000, .025, -1, 512, 80, 20, 8000},    {"bins", 16000, .025, .01, 512, 0, 20, 8000},
                {"bins", 16000, .025, .01, 512, 400, 20, 8000}, {"low", 16000, .025, .01, 512, 80, 20, 8001},
                {"low", 16000, .025, .01, 512, 80, 500, 500},   {"low", 16000, .025, .01, 512, 80, NAN, 8000}};
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        struct data_logmel_config c = {.rate = (int64_t)rows[r].rate,
                                       .window_s = rows[r].window,
                                       .hop_s = rows[r].hop,
                                       .fft = (int64_t)rows[r].fft,
                                       .bins = (int64_t)rows[r].bins,
                                       .low = rows[r].low,
                                       .high = rows[r].high};
        struct data_logmel *m;
        struct err e = {0};
        assert_int_equal(data_logmel_new(&c, &m, &e), ERR_CONFIG);
        assert_null(m);
        if (!strstr(e.msg, rows[r].part)) fail_msg("expected '%s' in '%s'", rows[r].part, e.msg);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_defined),
        cmocka_unit_test(sizes),
        cmocka_unit_test(threads_give_the_same),
        cmocka_unit_test(not_finite),
        cmocka_unit_test(whisper_keeps_nan),
        cmocka_unit_test(silence_is_finite),
        cmocka_unit_test(bad_settings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
