/* Inside of data/: the loops that are compiled for several instruction sets (base/isa.h), in data/kernels/. */
#ifndef TRIAD_DATA_KERNELS_H
#define TRIAD_DATA_KERNELS_H

#include <stdbool.h>
#include <stdint.h>
#include "base/isa.h"

/* Log-mel (kernels/logmel.c). data/logmel.c makes the tables and cuts a clip into blocks of frames. */
enum {
    LOGMEL_FRAMES = 16, /* of a block */
    LOGMEL_PASSES = 16, /* fft/2 is at most 2^15 */
};

/* One pass of the complex FFT: spectra of `span` values each become, `radix` by `radix`, spectra of span * radix. */
struct logmel_pass {
    int64_t radix, span;
    const float *turn; /* (span - 1, radix - 1, 2): cos and sin of 2 pi j q / (span * radix), j and q from 1 on */
    const float *root; /* (radix, 2): cos and sin of 2 pi q / radix; NULL for radices with code of their own */
};

struct logmel_tables {
    int64_t fft, window, pad, bins; /* samples; pad: from the start of the FFT's frame to the window's */
    const float *hann;              /* (window), halved */
    const int32_t *place;           /* (fft): where sample i of a frame lies before the first pass */
    struct logmel_pass pass[LOGMEL_PASSES];
    int n_pass;
    const float *turn;            /* (fft / 4 + 1, 2): cos and sin of 2 pi k / fft */
    const int32_t *first, *count; /* (bins): the run of powers under a triangle */
    const float *weight;          /* all runs, one after another */
    bool whisper;                 /* log10(max(m, 1e-10)); false: ln(m + 1e-6) */
};

/* n (1..LOGMEL_FRAMES) frames, whose windows begin at row[0], row[1] ...: each `window` samples -> out (n, bins). What
 * becomes of a frame does not depend on the others. z: scratch, 64-byte aligned, LOGMEL_FRAMES floats for each sample of
 * the FFT, two more, and two for each value of the largest radix that has a `root`. */
ISA_DECLARE(void, logmel_block, (const struct logmel_tables *t, const float *const *row, int n, void *z, float *out));
/* The sum of (y - mean), or of its square. */
ISA_DECLARE(double, logmel_sum, (const float *y, int64_t n, double mean, int power));
/* y = (y - mean) * scale */
ISA_DECLARE(void, logmel_scale, (float *y, int64_t n, double mean, double scale));
/* y = (max(y, max of all y - 8) + 4) / 4; a NaN stays, and is not the maximum. */
ISA_DECLARE(void, logmel_whisper, (float *y, int64_t n));

/* Resizing (kernels/resize.c). */
enum {
    RESIZE_BITS = 32 - 8 - 2, /* of a weight: 8 are the pixel's, 2 are spare for weights below 0 and sums above 1 */
    RESIZE_ROWS = 16,         /* at a time */
};

/* One direction: output pixel i is the weighted sum of n[i] input pixels from first[i], which never falls. */
struct resize_taps {
    int64_t out, size;  /* output pixels, taps reserved for each */
    int32_t *k;         /* (out, size) */
    int32_t *first, *n; /* (out) */
};

/* RESIZE_ROWS rows of RGB -> as many of t->out pixels; rows may be the same. `side` holds RESIZE_ROWS rows of both. */
ISA_DECLARE(void, resize_across,
            (const struct resize_taps *t, const uint8_t *const *row, uint8_t *const *out, uint8_t *side));
/* One row of `width` bytes from n >= 1 rows of `in`, which lie one behind another. */
ISA_DECLARE(void, resize_down, (const int32_t *k, int64_t n, const uint8_t *in, int64_t width, uint8_t *out));

/* Values (kernels/pixels.c). Pixels are floats (n, 3) in 0..1, changed in place; see data/augment.h. */
ISA_DECLARE(void, pixels_floats, (const uint8_t *px, int64_t n, float *out)); /* n values / 255 */
ISA_DECLARE(void, pixels_normalise, (float *px, int64_t n, const float *mean, const float *std));
ISA_DECLARE(void, pixels_scale, (float *px, int64_t n, float factor, float base)); /* n values, clamped */
ISA_DECLARE(double, pixels_gray, (const float *px, int64_t n));                    /* the sum over pixels */
ISA_DECLARE(void, pixels_saturation, (float *px, int64_t n, float factor));
ISA_DECLARE(void, pixels_hue, (float *px, int64_t n, float turns));
ISA_DECLARE(void, halves_to_floats, (const uint16_t *h, int64_t n, float *x));
/* Rounds n values to half floats, which also go to h. */
ISA_DECLARE(void, halves_round, (float *x, int64_t n, uint16_t *h));

/* x += std * what rng_normal would draw n times from `count` on, to 1e-6 (kernels/noise.c). */
ISA_DECLARE(void, noise_add, (uint64_t key, uint64_t step, uint64_t count, float std, float *x, int64_t n));

#endif
