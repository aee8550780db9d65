/* Log-mel spectrograms.
 *
 *   frame t is the power spectrum |FFT|^2 of x[t*hop - fft/2 ... ) under a periodic Hann window of `window` samples in
 * the middle of `fft`, the clip continued beyond its ends by reflection (torch.stft with center=True). A clip of fft/2
 *   samples or fewer is too short to be reflected: it is continued by zeros. There are 1 + n / hop frames.
 *   mel bin b is a triangle over the powers, its corners evenly spaced in mel from `low` to `high`.
 *
 * Powers are computed in float: a bin's is within 2e-6 of itself plus 1e-6 of the frame's largest power. A sample that is not
 * finite makes the frames that hold it so, in style CLIP the whole clip. An fft without prime factors above 5 is fast. */
#ifndef TRIAD_DATA_LOGMEL_H
#define TRIAD_DATA_LOGMEL_H

#include <stdint.h>
#include "base/err.h"

enum data_logmel_style {
    /* HTK mel (2595 log10(1 + f/700)); y = ln(m + 1e-6); (y - mean) / (std + 1e-5) over the clip, unbiased std */
    DATA_LOGMEL_CLIP,
    /* HTK mel; y = ln(m + 1e-6), nothing more */
    DATA_LOGMEL_PLAIN,
    /* Whisper (Radford et al. 2022): Slaney's mel with triangles of equal area; y = log10(max(m, 1e-10)), not below the
     * clip's maximum - 8; (y + 4) / 4; the last frame is left out (a clip keeps at least one) */
    DATA_LOGMEL_WHISPER,
};

struct data_logmel_config {
    int64_t rate;           /* Hz */
    double window_s, hop_s; /* seconds */
    int64_t fft;            /* samples: even, at least the window */
    int64_t bins;           /* mel bins */
    double low, high;       /* Hz */
    enum data_logmel_style style;
};

/* 16 kHz, 25 ms, 10 ms, 512, 80 bins, 20..8000 Hz, DATA_LOGMEL_CLIP. */
struct data_logmel_config data_logmel_default(void);

/* Tables, and scratch for as many threads as there are when it is made. One caller at a time. */
struct data_logmel;

/* ERR_CONFIG says which value is out of range. On error *m is NULL. Free with data_logmel_free. */
int data_logmel_new(const struct data_logmel_config *c, struct data_logmel **m, struct err *e) MUST_CHECK;
void data_logmel_free(struct data_logmel *m); /* NULL is fine */

int64_t data_logmel_frames(const struct data_logmel_config *c, int64_t samples); /* at least 1, also for 0 samples */

/* n samples at the configured rate -> out (data_logmel_frames, bins). Does not allocate. A silent clip gives finite
 * values (zeros in style CLIP). Frames are shared by the
 * threads; the result depends on nothing but the samples. */
void data_logmel_run(struct data_logmel *m, const float *x, int64_t n, float *out);

#endif
