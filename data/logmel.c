/* The tables are made once: window, mel triangles as runs of weights (a bin touches few of the FFT's values). The FFT
 * is KissFFT's real one; its tables hold scratch, which is why an object serves one thread at a time. */
#include "data/logmel.h"

#include <kissfft/kiss_fftr.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

struct data_logmel {
    struct data_logmel_config c;
    int64_t window, hop, pad; /* samples; pad: from the start of the FFT's frame to the window's */
    float *hann;              /* (window) */
    int64_t *first, *count;   /* (bins): the run of FFT values under a triangle */
    float *weight;            /* all runs, one after another */
    float *frame;             /* (fft) */
    float *power;             /* (fft / 2 + 1) */
    kiss_fft_cpx *spectrum;   /* (fft / 2 + 1) */
    kiss_fftr_cfg fft;
};

struct data_logmel_config data_logmel_default(void)
{
    return (struct data_logmel_config){
        .rate = 16000, .window_s = 0.025, .hop_s = 0.010, .fft = 512, .bins = 80, .low = 20, .high = 8000};
}

static double hz_to_mel(double f, bool slaney)
{
    if (!slaney) return 2595 * log10(1 + f / 700);
    return f < 1000 ? f * 3 / 200 : 15 + log(f / 1000) * 27 / log(6.4);
}

static double mel_to_hz(double m, bool slaney)
{
    if (!slaney) return 700 * (pow(10, m / 2595) - 1);
    return m < 15 ? m * 200 / 3 : 1000 * exp((m - 15) * log(6.4) / 27);
}

/* Triangles with the corners p[b], p[b+1], p[b+2] in Hz; Slaney's have the area 1 (weights in 1/Hz). */
static void fill_mel(struct data_logmel *m)
{
    const struct data_logmel_config *c = &m->c;
    bool slaney = c->style == DATA_LOGMEL_WHISPER;
    double lo = hz_to_mel(c->low, slaney), hi = hz_to_mel(c->high, slaney);
    int64_t n = c->fft / 2 + 1, used = 0;
    size_t cap = 0;
    for (int64_t b = 0; b < c->bins; b++) {
        double p[3];
        for (int i = 0; i < 3; i++) p[i] = mel_to_hz(lo + (hi - lo) * (double)(b + i) / (double)(c->bins + 1), slaney);
        m->first[b] = m->count[b] = 0;
        for (int64_t k = 0; k < n; k++) {
            double f = (double)k * (double)c->rate / (double)c->fft;
            double w = fmin((f - p[0]) / (p[1] - p[0]), (p[2] - f) / (p[2] - p[1]));
            if (w <= 0) continue;
            if (m->count[b] == 0) m->first[b] = k;
            m->count[b]++;
            m->weight = mem_grow(m->weight, &cap, (size_t)used + 1, sizeof *m->weight);
            m->weight[used++] = (float)(slaney ? w * 2 / (p[2] - p[0]) : w);
        }
    }
}

static int check(const struct data_logmel_config *c, int64_t window, int64_t hop, struct err *e)
{
    if (c->rate < 1000 || c->rate > 1000000)
        return err_set(e, ERR_CONFIG, "log-mel: rate should be 1000 to 1,000,000 Hz, but it is %lld",
                       (long long)c->rate);
    if (c->fft < 16 || c->fft > 65536 || c->fft % 2)
        return err_set(e, ERR_CONFIG, "log-mel: fft should be an even number from 16 to 65536, but it is %lld",
                       (long long)c->fft);
    if (window < 2 || window > c->fft)
        return err_set(e, ERR_CONFIG, "log-mel: a window of %g s is %lld samples, but should be 2 to fft = %lld",
                       c->window_s, (long long)window, (long long)c->fft);
    if (hop < 1) return err_set(e, ERR_CONFIG, "log-mel: a hop of %g s is less than a sample", c->hop_s);
    if (c->bins < 1 || c->bins > c->fft / 2)
        return err_set(e, ERR_CONFIG, "log-mel: bins should be 1 to fft/2 = %lld, but it is %lld",
                       (long long)c->fft / 2, (long long)c->bins);
    if (!(c->low >= 0 && c->low < c->high && c->high <= (double)c->rate / 2))
        return err_set(e, ERR_CONFIG,
                       "log-mel: low and high should be 0 <= low < high <= rate/2 = %g Hz, but are %g and %g",
                       (double)c->rate / 2, c->low, c->high);
    return 0;
}

int data_logmel_new(const struct data_logmel_config *c, struct data_logmel **out, struct err *e)
{
    *out = NULL;
    double window_at = c->window_s * (double)c->rate, hop_at = c->hop_s * (double)c->rate;
    int64_t window = window_at >= 0 && window_at < 1e6 ? llround(window_at) : -1; /* -1 for a NaN, too */
    int64_t hop = hop_at >= 0 && hop_at < 1e9 ? llround(hop_at) : -1;
    int rc = check(c, window, hop, e);
    if (rc) return rc;
    struct data_logmel *m = mem_zero(1, sizeof *m);
    int64_t n = c->fft / 2 + 1;
    m->c = *c;
    m->window = window;
    m->hop = hop;
    m->pad = (c->fft - window) / 2;
    m->hann = mem_alloc((size_t)window * sizeof(float));
    for (int64_t i = 0; i < window; i++) m->hann[i] = (float)(0.5 - 0.5 * cos(2 * M_PI * (double)i / (double)window));
    m->first = mem_alloc((size_t)c->bins * sizeof *m->first);
    m->count = mem_alloc((size_t)c->bins * sizeof *m->count);
    fill_mel(m);
    m->frame = mem_zero((size_t)c->fft, sizeof(float)); /* stays zero outside the window */
    m->power = mem_alloc((size_t)n * sizeof(float));
    m->spectrum = mem_alloc((size_t)n * sizeof *m->spectrum);
    m->fft = kiss_fftr_alloc((int)c->fft, 0, NULL, NULL);
    if (!m->fft) {
        data_logmel_free(m);
        return err_set(e, ERR_MEMORY, "not enough memory for an FFT of %lld", (long long)c->fft);
    }
    *out = m;
    return 0;
}

void data_logmel_free(struct data_logmel *m)
{
    if (!m) return;
    free(m->hann);
    free(m->first);
    free(m->count);
    free(m->weight);
    free(m->frame);
    free(m->power);
    free(m->spectrum);
    kiss_fftr_free(m->fft);
    free(m);
}

int64_t data_logmel_frames(const struct data_logmel_config *c, int64_t samples)
{
    int64_t t = samples / llround(c->hop_s * (double)c->rate);
    return c->style == DATA_LOGMEL_WHISPER && t > 0 ? t : t + 1;
}

/* The windowed frame from sample `at` (may lie before the clip's start) on. */
static void take_frame(struct data_logmel *m, const float *x, int64_t n, int64_t at)
{
    float *out = m->frame + m->pad;
    bool reflect = n > m->c.fft / 2;
    if (at >= 0 && at + m->window <= n) {
        for (int64_t i = 0; i < m->window; i++) out[i] = x[at + i] * m->hann[i];
        return;
    }
    for (int64_t i = 0; i < m->window; i++) {
        int64_t j = at + i;
        if (reflect && j < 0) j = -j;
        if (reflect && j >= n) j = 2 * (n - 1) - j;
        out[i] = j >= 0 && j < n ? x[j] * m->hann[i] : 0;
    }
}

static void finish(const struct data_logmel *m, float *y, int64_t n)
{
    if (m->c.style == DATA_LOGMEL_CLIP) {
        double sum = 0, square = 0;
        for (int64_t i = 0; i < n; i++) sum += y[i];
        double mean = sum / (double)n;
        for (int64_t i = 0; i < n; i++) square += (y[i] - mean) * (y[i] - mean);
        double scale = 1 / ((n > 1 ? sqrt(square / (double)(n - 1)) : 0) + 1e-5);
        for (int64_t i = 0; i < n; i++) y[i] = (float)((y[i] - mean) * scale);
    } else if (m->c.style == DATA_LOGMEL_WHISPER) {
        float top = y[0];
        for (int64_t i = 1; i < n; i++) top = y[i] > top ? y[i] : top;
        for (int64_t i = 0; i < n; i++) y[i] = ((y[i] > top - 8 ? y[i] : top - 8) + 4) / 4;
    }
}

void data_logmel_run(struct data_logmel *m, const float *x, int64_t n, float *out)
{
    int64_t frames = data_logmel_frames(&m->c, n), bins = m->c.bins, half = m->c.fft / 2;
    for (int64_t t = 0; t < frames; t++) {
        take_frame(m, x, n, t * m->hop - half + m->pad);
        kiss_fftr(m->fft, m->frame, m->spectrum);
        for (int64_t k = 0; k <= half; k++)
            m->power[k] = m->spectrum[k].r * m->spectrum[k].r + m->spectrum[k].i * m->spectrum[k].i;
        const float *w = m->weight;
        for (int64_t b = 0; b < bins; b++) {
            const float *p = m->power + m->first[b];
            float sum = 0;
            for (int64_t k = 0; k < m->count[b]; k++) sum += p[k] * w[k];
            w += m->count[b];
            out[t * bins + b] = m->c.style == DATA_LOGMEL_WHISPER ? log10f(fmaxf(sum, 1e-10f)) : logf(sum + 1e-6f);
        }
    }
    finish(m, out, frames * bins);
}
