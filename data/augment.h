/* Random changes to training samples. Every function is pure: what it does is decided by its arguments and by the
 * generator's draws, and how many it draws depends on the settings alone, never on the data. A zeroed struct of
 * settings changes nothing and draws nothing. */
#ifndef TRIAD_DATA_AUGMENT_H
#define TRIAD_DATA_AUGMENT_H

#include "base/rng.h"
#include "data/image.h"

/* Pictures. A zeroed one is off. */
struct data_image_augment {
    double crop_min, crop_max;   /* random resized crop: share of the area; off where crop_max is 0 */
    double ratio_min, ratio_max; /* width / height of the crop before resizing; 0, 0 stands for 3/4, 4/3 */
    double flip;                 /* probability of a horizontal flip */
    int64_t shift;               /* up to so many pixels in each direction, each value equally likely */
    bool shift_fill;             /* what is shifted in: false: what left on the other side (roll); true: white */
    double brightness;           /* factor in 1 +- this */
    double contrast;             /* the same, about the picture's mean gray */
    double saturation;           /* the same, about each pixel's gray */
    double hue;                  /* up to so many turns of the colour wheel each way, at most 0.5 */
    double noise;                /* standard deviation of Gaussian noise; white is 1 */
};

/* The part to cut (Szegedy et al. 2015; torchvision's RandomResizedCrop): area and ratio drawn up to ten times until it
 * fits, else the middle at the nearest ratio that fits. Whole pixels, at least 1 x 1. */
struct data_box data_random_crop(struct rng *r, int64_t h, int64_t w, const struct data_image_augment *a);

/* On 8-bit pixels (h, w, 3): shift and flip. `out` must not be `in`. Positive moves down and right. */
void data_shift(const uint8_t *in, uint8_t *out, int64_t h, int64_t w, int64_t down, int64_t right, bool fill);
void data_flip(uint8_t *px, int64_t h, int64_t w);

/* On floats (n, 3) in 0..1, in place; each result is clamped to 0..1. Gray is 0.299 R + 0.587 G + 0.114 B. */
void data_brightness(float *px, int64_t n, float factor);
void data_contrast(float *px, int64_t n, float factor);
void data_saturation(float *px, int64_t n, float factor);
void data_hue(float *px, int64_t n, float turns); /* through HSV */
void data_pixel_noise(struct rng *r, float *px, int64_t n, float std);

/* Flip and shift, as `a` says and `r` draws: in -> out, both (h, w, 3). */
void data_augment_pixels(struct rng *r, const struct data_image_augment *a, uint8_t *in, uint8_t *out, int64_t h,
                         int64_t w);
/* Brightness, contrast, saturation, hue, noise in this order, in place on floats (n, 3) in 0..1. */
void data_augment_colour(struct rng *r, const struct data_image_augment *a, float *px, int64_t n);

/* Sound. A zeroed one is off. */
struct data_audio_augment {
    double gain_db;                /* louder or softer by up to so many decibels */
    double noise;                  /* probability of white noise */
    double snr_min_db, snr_max_db; /* signal to noise */
    double speed;                  /* faster or slower (pitch too) by up to this share: 0.1 is 0.9..1.1 */
    double shift_s;                /* earlier or later by up to so many seconds; silence moves in */
    int64_t time_masks, bin_masks; /* SpecAugment (Park et al. 2019): masks along time and along mel bins */
    double time_mask_s;            /* a time mask is 0..this long in seconds, at most half the clip */
    int64_t bin_mask;              /* a bin mask is 0..this many bins high */
};

bool data_audio_augment_waves(const struct data_audio_augment *a); /* it changes samples, not frames alone */

/* On samples, in place. Noise of a silent clip is none. A shift moves later when positive. */
void data_gain(float *x, int64_t n, double db);
void data_wave_noise(struct rng *r, float *x, int64_t n, double snr_db);
void data_wave_shift(float *x, int64_t n, int64_t by);

/* Speed, shift, gain, noise in this order. *x (n) is malloc'd and may be replaced by another malloc'd block.
 * ERR_MEMORY; *x stays valid. */
int data_augment_wave(struct rng *r, const struct data_audio_augment *a, int64_t rate, float **x, int64_t *n,
                      struct err *e) MUST_CHECK;

/* SpecAugment on (frames, bins) in place: what is masked becomes the clip's mean. */
void data_augment_frames(struct rng *r, const struct data_audio_augment *a, double hop_s, float *x, int64_t frames,
                         int64_t bins);

/* Which of n >= 1 captions: the first with probability `first`, else any of the n, equally likely. */
int64_t data_choose(struct rng *r, int64_t n, double first);

#endif
