/* The tables are made once: window, mel triangles as runs of weights (a bin touches few of the FFT's values), the FFT's
 * factors. A clip is cut into blocks of frames; data/kernels/logmel.c has the arithmetic. */
#include "data/logmel.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/threads.h"
#include "data/kernels.h"

struct data_logmel {
    struct data_logmel_config c;
    int64_t hop; /* samples */
    struct logmel_tables t;
    float *hann, *weight; /* what t points at */
    int32_t *place, *first, *count;
    float *angles; /* all turns and roots */
    int threads;
    size_t edge, room; /* bytes of a thread's scratch, the first `edge` of them for frames across an end of the clip */
    char *scratch;     /* (threads, room) */
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
            if (m->count[b] == 0) m->first[b] = (int32_t)k;
            m->count[b]++;
            m->weight = mem_grow(m->weight, &cap, (size_t)used + 1, sizeof *m->weight);
            m->weight[used++] = (float)(slaney ? w * 2 / (p[2] - p[0]) : w);
        }
    }
}

/* Radices of n in the order of their passes. Fives first: the first pass turns nothing. */
static void factor(struct logmel_tables *t, int64_t n)
{
    static const int64_t with_code[] = {5, 4, 2, 3};
    for (int64_t i = 0, r = 5; n > 1;) {
        if (n % r == 0) {
            t->pass[t->n_pass++].radix = r;
            n /= r;
        } else
            r = ++i < 4 ? with_code[i] : i == 4 ? 7 : r + 2;
    }
    for (int64_t i = 0, span = 1; i < t->n_pass; span *= t->pass[i++].radix) t->pass[i].span = span;
}

static float *fill_angle(float *p, int64_t i, int64_t n)
{
    double a = 2 * M_PI * (double)(i % n) / (double)n;
    p[0] = (float)cos(a);
    p[1] = (float)sin(a);
    return p + 2;
}

static void fill_fft(struct data_logmel *m)
{
    struct logmel_tables *t = &m->t;
    int64_t n = t->fft / 2, angles = n / 2 + 1;
    factor(t, n);
    for (int i = 0; i < t->n_pass; i++) angles += t->pass[i].span * t->pass[i].radix;
    float *p = m->angles = mem_alloc((size_t)angles * 2 * sizeof *p);
    t->turn = p;
    for (int64_t k = 0; 2 * k <= n; k++) p = fill_angle(p, k, 2 * n);
    for (struct logmel_pass *a = t->pass; a < t->pass + t->n_pass; a++) {
        a->turn = p;
        for (int64_t j = 1; j < a->span; j++)
            for (int64_t q = 1; q < a->radix; q++) p = fill_angle(p, j * q, a->span * a->radix);
        a->root = a->radix > 5 ? p : NULL;
        for (int64_t q = 0; a->root && q < a->radix; q++) p = fill_angle(p, q, a->radix);
    }
    t->place = m->place = mem_alloc((size_t)t->fft * sizeof *m->place);
    for (int64_t i = 0; i < n; i++) {
        int64_t at = 0, rest = i, span = n;
        for (int k = t->n_pass - 1; k >= 0; k--) {
            span /= t->pass[k].radix;
            at += rest % t->pass[k].radix * span;
            rest /= t->pass[k].radix;
        }
        m->place[2 * i] = (int32_t)(2 * at);
        m->place[2 * i + 1] = (int32_t)(2 * at + 1);
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
    m->c = *c;
    m->hop = hop;
    m->hann = mem_alloc((size_t)window * sizeof(float));
    for (int64_t i = 0; i < window; i++) m->hann[i] = (float)(0.25 - 0.25 * cos(2 * M_PI * (double)i / (double)window));
    m->first = mem_alloc((size_t)c->bins * sizeof *m->first);
    m->count = mem_alloc((size_t)c->bins * sizeof *m->count);
    fill_mel(m);
    m->t = (struct logmel_tables){.fft = c->fft,
                                  .window = window,
                                  .pad = (c->fft - window) / 2,
                                  .bins = c->bins,
                                  .hann = m->hann,
                                  .first = m->first,
                                  .count = m->count,
                                  .weight = m->weight,
                                  .whisper = c->style == DATA_LOGMEL_WHISPER};
    fill_fft(m);
    int64_t longest = 0;
    for (int i = 0; i < m->t.n_pass; i++)
        if (m->t.pass[i].root && m->t.pass[i].radix > longest) longest = m->t.pass[i].radix;
    m->threads = threads_count();
    m->edge = ((size_t)(LOGMEL_FRAMES * window) * sizeof(float) + 63) / 64 * 64;
    m->room = m->edge + LOGMEL_FRAMES * sizeof(float) * (size_t)(c->fft + 2 + 2 * longest);
    m->scratch = mem_block((size_t)m->threads * m->room, "log-mel frames", e);
    if (!m->scratch) {
        data_logmel_free(m);
        return ERR_MEMORY;
    }
    *out = m;
    return 0;
}

void data_logmel_free(struct data_logmel *m)
{
    if (!m) return;
    if (m->scratch) mem_block_free(m->scratch, (size_t)m->threads * m->room);
    free(m->hann);
    free(m->first);
    free(m->count);
    free(m->weight);
    free(m->place);
    free(m->angles);
    free(m);
}

int64_t data_logmel_frames(const struct data_logmel_config *c, int64_t samples)
{
    int64_t t = samples / llround(c->hop_s * (double)c->rate);
    return c->style == DATA_LOGMEL_WHISPER && t > 0 ? t : t + 1;
}

/* A window of samples from sample `at` on, which lies before the clip's start or reaches beyond its end. */
static void take_edge(const struct data_logmel *m, const float *x, int64_t n, int64_t at, float *out)
{
    bool reflect = n > m->c.fft / 2;
    for (int64_t i = 0; i < m->t.window; i++) {
        int64_t j = at + i;
        if (reflect && j < 0) j = -j;
        if (reflect && j >= n) j = 2 * (n - 1) - j;
        out[i] = j >= 0 && j < n ? x[j] : 0;
    }
}

/* n frames from frame `from` on. */
static void run_block(const struct data_logmel *m, const float *x, int64_t samples, int64_t from, int64_t n, float *out,
                      char *scratch)
{
    const float *row[LOGMEL_FRAMES];
    float *edge = (float *)scratch;
    for (int64_t i = 0; i < n; i++, edge += m->t.window) {
        int64_t at = (from + i) * m->hop - m->c.fft / 2 + m->t.pad;
        bool inside = at >= 0 && at + m->t.window <= samples;
        if (!inside) take_edge(m, x, samples, at, edge);
        row[i] = inside ? x + at : edge;
    }
    ISA_PICK(logmel_block)(&m->t, row, (int)n, scratch + m->edge, out + from * m->c.bins);
}

static void finish(const struct data_logmel *m, float *y, int64_t n)
{
    if (m->c.style == DATA_LOGMEL_CLIP) {
        double mean = ISA_PICK(logmel_sum)(y, n, 0, 1) / (double)n, square = ISA_PICK(logmel_sum)(y, n, mean, 2);
        ISA_PICK(logmel_scale)(y, n, mean, 1 / ((n > 1 ? sqrt(square / (double)(n - 1)) : 0) + 1e-5));
    } else if (m->c.style == DATA_LOGMEL_WHISPER)
        ISA_PICK(logmel_whisper)(y, n);
}

void data_logmel_run(struct data_logmel *m, const float *x, int64_t n, float *out)
{
    int64_t frames = data_logmel_frames(&m->c, n), blocks = (frames + LOGMEL_FRAMES - 1) / LOGMEL_FRAMES;
    int threads = threads_count() < m->threads ? threads_count() : m->threads;
#pragma omp parallel for schedule(static) num_threads(threads) if (blocks > 1)
    for (int64_t b = 0; b < blocks; b++) {
        int64_t from = b * LOGMEL_FRAMES, left = frames - from;
        run_block(m, x, n, from, left < LOGMEL_FRAMES ? left : LOGMEL_FRAMES, out,
                  m->scratch + (size_t)omp_get_thread_num() * m->room);
    }
    finish(m, out, frames * m->c.bins);
}
