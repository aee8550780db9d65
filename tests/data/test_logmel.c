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

static void reference(const struct data_logmel_config *c, const float *x, int64_t n, int64_t frames, double *out)
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
        reference(&c, x, n, frames, want);
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
        cmocka_unit_test(silence_is_finite),
        cmocka_unit_test(bad_settings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
