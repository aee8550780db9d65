/* Random changes; see the header. Draws come in a fixed order and number, so that turning one change on or off does not
 * depend on what the data holds. */
#include "data/augment.h"

#include <stdlib.h>
#include <string.h>

#include "data/audio.h"
#include "data/kernels.h"

struct data_box data_random_crop(struct rng *r, int64_t h, int64_t w, const struct data_image_augment *a)
{
    double lo = a->ratio_min > 0 ? a->ratio_min : 3.0 / 4, hi = a->ratio_max > 0 ? a->ratio_max : 4.0 / 3;
    double W = (double)w, H = (double)h, cw = 0, ch = 0;
    struct rng at = *r; /* the tries use a generator of their own: how many there are must not move what follows */
    at.key ^= 0x63726f70u;
    r->count += 4 - r->count % 4;
    for (int i = 0; i < 10; i++) {
        double area = W * H * rng_range(&at, a->crop_min, a->crop_max);
        double ratio = exp(rng_range(&at, log(lo), log(hi)));
        cw = rint(sqrt(area * ratio));
        ch = rint(sqrt(area / ratio));
        if (cw >= 1 && ch >= 1 && cw <= W && ch <= H) {
            double x = (double)rng_below(&at, (int64_t)(W - cw) + 1), y = (double)rng_below(&at, (int64_t)(H - ch) + 1);
            return (struct data_box){x, y, x + cw, y + ch};
        }
    }
    cw = W / H > hi ? rint(H * hi) : W;
    ch = W / H < lo ? rint(W / lo) : H;
    cw = cw < 1 ? 1 : cw;
    ch = ch < 1 ? 1 : ch;
    double x = floor((W - cw) / 2), y = floor((H - ch) / 2);
    return (struct data_box){x, y, x + cw, y + ch};
}

static int64_t wrapped(int64_t i, int64_t n)
{
    return ((i % n) + n) % n;
}

void data_shift(const uint8_t *in, uint8_t *out, int64_t h, int64_t w, int64_t down, int64_t right, bool fill)
{
    if (fill) memset(out, 255, (size_t)(h * w * 3));
    for (int64_t y = 0; y < h; y++) {
        if (fill && (y - down < 0 || y - down >= h)) continue;
        const uint8_t *from = in + wrapped(y - down, h) * w * 3;
        uint8_t *to = out + y * w * 3;
        if (fill) {
            int64_t n = w - llabs(right);
            if (n > 0) memcpy(to + (right > 0 ? right : 0) * 3, from + (right < 0 ? -right : 0) * 3, (size_t)n * 3);
            continue;
        }
        int64_t k = wrapped(right, w);
        memcpy(to + k * 3, from, (size_t)(w - k) * 3);
        memcpy(to, from + (w - k) * 3, (size_t)k * 3);
    }
}

void data_flip(uint8_t *px, int64_t h, int64_t w)
{
    for (int64_t y = 0; y < h; y++)
        for (uint8_t *a = px + y * w * 3, *b = a + (w - 1) * 3; a < b; a += 3, b -= 3)
            for (int c = 0; c < 3; c++) {
                uint8_t t = a[c];
                a[c] = b[c];
                b[c] = t;
            }
}

void data_augment_pixels(struct rng *r, const struct data_image_augment *a, uint8_t *in, uint8_t *out, int64_t h,
                         int64_t w)
{
    if (a->flip > 0 && rng_unit(r) < a->flip) data_flip(in, h, w);
    int64_t down = 0, right = 0;
    if (a->shift > 0) {
        down = rng_below(r, 2 * a->shift + 1) - a->shift;
        right = rng_below(r, 2 * a->shift + 1) - a->shift;
    }
    data_shift(in, out, h, w, down, right, a->shift_fill);
}

void data_brightness(float *px, int64_t n, float factor)
{
    ISA_PICK(pixels_scale)(px, 3 * n, factor, 0);
}

void data_contrast(float *px, int64_t n, float factor)
{
    float mean = n ? (float)(ISA_PICK(pixels_gray)(px, n) / (double)n) : 0;
    ISA_PICK(pixels_scale)(px, 3 * n, factor, mean * (1 - factor));
}

void data_saturation(float *px, int64_t n, float factor)
{
    ISA_PICK(pixels_saturation)(px, n, factor);
}

void data_hue(float *px, int64_t n, float turns)
{
    ISA_PICK(pixels_hue)(px, n, turns);
}

/* The generator stands where n calls of rng_normal would have left it. */
static void add_noise(struct rng *r, float *x, int64_t n, float std)
{
    ISA_PICK(noise_add)(r->key, r->step, r->count, std, x, n);
    r->count += 2 * (uint64_t)n;
    if (r->count % 4) rng_philox(r->key, r->step, r->count / 4, r->word);
}

void data_pixel_noise(struct rng *r, float *px, int64_t n, float std)
{
    add_noise(r, px, 3 * n, std);
    ISA_PICK(pixels_scale)(px, 3 * n, 1, 0);
}

void data_augment_colour(struct rng *r, const struct data_image_augment *a, float *px, int64_t n)
{
    if (a->brightness > 0) data_brightness(px, n, (float)rng_range(r, 1 - a->brightness, 1 + a->brightness));
    if (a->contrast > 0) data_contrast(px, n, (float)rng_range(r, 1 - a->contrast, 1 + a->contrast));
    if (a->saturation > 0) data_saturation(px, n, (float)rng_range(r, 1 - a->saturation, 1 + a->saturation));
    if (a->hue > 0) data_hue(px, n, (float)rng_range(r, -a->hue, a->hue));
    if (a->noise > 0) data_pixel_noise(r, px, n, (float)a->noise);
}

bool data_audio_augment_waves(const struct data_audio_augment *a)
{
    return a->gain_db > 0 || a->noise > 0 || a->speed > 0 || a->shift_s > 0;
}

void data_gain(float *x, int64_t n, double db)
{
    float f = (float)pow(10, db / 20);
    for (int64_t i = 0; i < n; i++) x[i] *= f;
}

void data_wave_noise(struct rng *r, float *x, int64_t n, double snr_db)
{
    double power = 0;
    for (int64_t i = 0; i < n; i++) power += (double)x[i] * x[i];
    if (power <= 0) return;
    float std = (float)sqrt(power / (double)n * pow(10, -snr_db / 10));
    add_noise(r, x, n, std);
}

void data_wave_shift(float *x, int64_t n, int64_t by)
{
    int64_t k = llabs(by) < n ? llabs(by) : n;
    size_t kept = (size_t)(n - k) * sizeof *x, gone = (size_t)k * sizeof *x;
    if (by > 0) {
        memmove(x + k, x, kept);
        memset(x, 0, gone);
    } else if (by < 0) {
        memmove(x, x + k, kept);
        memset(x + n - k, 0, gone);
    }
}

int data_augment_wave(struct rng *r, const struct data_audio_augment *a, int64_t rate, float **x, int64_t *n,
                      struct err *e)
{
    if (a->speed > 0) {
        double factor = rng_range(r, 1 - a->speed, 1 + a->speed);
        float *y;
        int64_t k;
        int rc = data_audio_resample(*x, *n, factor, 1, &y, &k, e);
        if (rc) return rc;
        free(*x);
        *x = y;
        *n = k;
    }
    if (a->shift_s > 0) data_wave_shift(*x, *n, llround(rng_range(r, -a->shift_s, a->shift_s) * (double)rate));
    if (a->gain_db > 0) data_gain(*x, *n, rng_range(r, -a->gain_db, a->gain_db));
    if (a->noise > 0) {
        bool noisy = rng_unit(r) < a->noise;
        double snr = rng_range(r, a->snr_min_db, a->snr_max_db);
        struct rng own = *r; /* a draw for each sample: from a generator that nothing else follows */
        own.key ^= 0x6e6f697365u;
        if (noisy) data_wave_noise(&own, *x, *n, snr);
    }
    return 0;
}

void data_augment_frames(struct rng *r, const struct data_audio_augment *a, double hop_s, float *x, int64_t frames,
                         int64_t bins)
{
    if (a->time_masks <= 0 && a->bin_masks <= 0) return;
    double sum = 0;
    for (int64_t i = 0; i < frames * bins; i++) sum += x[i];
    float mean = (float)(sum / (double)(frames * bins));
    int64_t longest = (int64_t)(a->time_mask_s / hop_s + 0.5), highest = a->bin_mask < bins ? a->bin_mask : bins;
    longest = longest < frames / 2 ? longest : frames / 2;
    for (int m = 0; m < a->time_masks; m++) {
        int64_t len = rng_below(r, longest + 1), at = rng_below(r, frames - len + 1);
        for (int64_t i = at * bins; i < (at + len) * bins; i++) x[i] = mean;
    }
    for (int m = 0; m < a->bin_masks; m++) {
        int64_t len = rng_below(r, highest + 1), at = rng_below(r, bins - len + 1);
        for (int64_t t = 0; t < frames; t++)
            for (int64_t b = at; b < at + len; b++) x[t * bins + b] = mean;
    }
}

int64_t data_choose(struct rng *r, int64_t n, double first)
{
    double u = rng_unit(r);
    int64_t any = rng_below(r, n);
    return u < first ? 0 : any;
}
