/* Random changes: exact results where they are exact, statistics where they are draws, and nothing where they are off.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "data/augment.h"
#include "data/kernels.h"

static void shift_and_flip(void **state)
{
    enum { H = 5, W = 7 };
    uint8_t in[H * W * 3], out[H * W * 3];
    for (int i = 0; i < H * W * 3; i++) in[i] = (uint8_t)(i * 2);
    for (int down = -9; down <= 9; down++)
        for (int right = -9; right <= 9; right++)
            for (int fill = 0; fill < 2; fill++) {
                data_shift(in, out, H, W, down, right, fill);
                for (int y = 0; y < H; y++)
                    for (int x = 0; x < W * 3; x++) {
                        int fy = y - down, fx = x / 3 - right;
                        bool out_of = fy < 0 || fy >= H || fx < 0 || fx >= W;
                        int want = fill && out_of ? 255 : in[(((fy + 10 * H) % H) * W + (fx + 10 * W) % W) * 3 + x % 3];
                        assert_int_equal(out[y * W * 3 + x], want);
                    }
            }
    memcpy(out, in, sizeof in);
    data_flip(out, H, W);
    for (int i = 0; i < H * W * 3; i++) assert_int_equal(out[i], in[(i / 3 / W * W + W - 1 - i / 3 % W) * 3 + i % 3]);
}

static void random_crops(void **state)
{
    static const struct {
        int64_t h, w;
        struct data_image_augment a;
    } rows[] = {{100, 80, {.crop_min = 0.08, .crop_max = 1}},
                {100, 80, {.crop_min = 0.5, .crop_max = 0.9, .ratio_min = 1, .ratio_max = 1}},
                {1, 20000, {.crop_min = 0.3, .crop_max = 1}}, /* nothing of these ratios has such an area: the middle */
                {1, 1, {.crop_min = 0.08, .crop_max = 1}},
                {20000, 1, {.crop_min = 0.3, .crop_max = 1}}};
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        double least = 2, most = 0;
        for (uint64_t t = 0; t < 500; t++) {
            struct rng rng = rng_make(1, r, t);
            struct data_box b = data_random_crop(&rng, rows[r].h, rows[r].w, &rows[r].a);
            assert_true(b.x0 >= 0 && b.y0 >= 0 && b.x1 <= (double)rows[r].w && b.y1 <= (double)rows[r].h);
            assert_true(b.x1 - b.x0 >= 1 && b.y1 - b.y0 >= 1 && b.x0 == floor(b.x0) && b.y1 == floor(b.y1));
            double area = (b.x1 - b.x0) * (b.y1 - b.y0) / (double)(rows[r].h * rows[r].w);
            least = fmin(least, area);
            most = fmax(most, area);
            assert_int_equal(rng.count, 4); /* as many draws whatever was found */
        }
        if (r == 0) assert_true(least < 0.12 && most > 0.8);
        if (r < 2) /* whole pixels: a pixel more or less on each side of at least 20 */
            assert_true(least > rows[r].a.crop_min * 0.9 && most < rows[r].a.crop_max * 1.05);
        if (r == 1) assert_true(least < 0.56 && most > 0.75); /* a square in 100 x 80 has 0.8 of it at most */
    }
}

static void rgb_to_hsv(const float *p, double *h, double *s, double *v)
{
    double max = fmax(p[0], fmax(p[1], p[2])), min = fmin(p[0], fmin(p[1], p[2])), d = max - min;
    *v = max;
    *s = max > 0 ? d / max : 0;
    *h = d == 0        ? 0
         : max == p[0] ? fmod((p[1] - p[2]) / d + 6, 6)
         : max == p[1] ? (p[2] - p[0]) / d + 2
                       : (p[0] - p[1]) / d + 4;
}

static void hsv_to_rgb(double h, double s, double v, double *p)
{
    int i = (int)floor(h) % 6;
    double f = h - floor(h), a = v * (1 - s), b = v * (1 - s * f), c = v * (1 - s * (1 - f));
    double t[6][3] = {{v, c, a}, {b, v, a}, {a, v, c}, {a, b, v}, {c, a, v}, {v, a, b}};
    memcpy(p, t[i], sizeof t[i]);
}

static void colours(void **state)
{
    enum { N = 500 };
    float px[3 * N], q[3 * N];
    struct rng r = rng_make(2, 0, 0);
    for (int i = 0; i < 3 * N; i++) px[i] = (float)rng_unit(&r);
    for (int i = 0; i < 30; i++) px[i] = (float)(i / 3 % 2); /* black, white */
    const double g[3] = {0.299, 0.587, 0.114};
    double mean = 0;
    for (int i = 0; i < 3 * N; i++) mean += g[i % 3] * px[i] / N;
    for (int what = 0; what < 3; what++)
        for (double f = 0; f < 2.1; f += 0.5) {
            memcpy(q, px, sizeof q);
            (what == 0 ? data_brightness : what == 1 ? data_contrast : data_saturation)(q, N, (float)f);
            for (int i = 0; i < 3 * N; i++) {
                const float *p = px + i / 3 * 3;
                double base = what == 0 ? 0 : what == 1 ? mean : g[0] * p[0] + g[1] * p[1] + g[2] * p[2];
                double want = fmin(1, fmax(0, base + (px[i] - base) * f));
                assert_true(fabs(q[i] - want) < 1e-6);
            }
        }
    for (double turns = -0.5; turns <= 0.5; turns += 0.125) {
        memcpy(q, px, sizeof q);
        data_hue(q, N, (float)turns);
        for (int i = 0; i < N; i++) {
            double h, s, v, want[3];
            rgb_to_hsv(px + 3 * i, &h, &s, &v);
            hsv_to_rgb(fmod(h + 6 * turns + 12, 6), s, v, want);
            for (int c = 0; c < 3; c++) assert_true(fabs(q[3 * i + c] - want[c]) < 2e-6);
        }
    }
}

/* The instruction sets agree, for numbers of pixels beside every vector's length and where nothing is there. */
static void colours_on_every_isa(void **state)
{
    static const int64_t counts[] = {0, 1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 32, 33, 47, 101};
    static const float mean[3] = {0.4f, 0.5f, 0.6f}, std[3] = {0.2f, 0.3f, 0.25f};
    enum isa before = isa_now();
    struct rng r = rng_make(4, 0, 0);
    for (size_t k = 0; k < sizeof counts / sizeof *counts; k++) {
        int64_t n = counts[k];
        uint8_t px[303];
        float got[3][304];
        for (int64_t i = 0; i < 3 * n; i++) px[i] = (uint8_t)(i % 7 ? rng_below(&r, 256) : i % 2 * 255);
        for (int i = 0; i < 3; i++) {
            isa_use((enum isa)i);
            got[i][3 * n] = 99;
            ISA_PICK(pixels_floats)(px, 3 * n, got[i]);
            data_brightness(got[i], n, 1.2f);
            data_contrast(got[i], n, 0.8f);
            data_saturation(got[i], n, 1.1f);
            data_hue(got[i], n, -0.15f);
            ISA_PICK(pixels_normalise)(got[i], n, mean, std);
            assert_true(got[i][3 * n] == 99);
            for (int64_t j = 0; j < 3 * n; j++) /* five roundings, over a standard deviation of 0.2, and hue's slope */
                if (!(fabsf(got[i][j] - got[0][j]) < 2e-5f))
                    fail_msg("%d pixels, value %d: %g on %s, %g plainly", (int)n, (int)j, got[i][j],
                             isa_name((enum isa)i), got[0][j]);
        }
    }
    isa_use(before);
}

/* Against rng_normal, from every place in a block of four words on; the generator goes on where that would. */
static void noise_on_every_isa(void **state)
{
    static const int64_t counts[] = {0, 1, 2, 3, 17, 255, 256, 257, 600};
    enum isa before = isa_now();
    for (int isa = 0; isa < 3; isa++) {
        isa_use((enum isa)isa);
        for (size_t k = 0; k < sizeof counts / sizeof *counts; k++)
            for (int start = 0; start < 5; start++) {
                int64_t n = counts[k];
                struct rng a = rng_make(5, k, 3), b;
                for (int i = 0; i < start; i++) rng_u32(&a);
                b = a;
                float x[601];
                for (int64_t i = 0; i <= n; i++) x[i] = 1;
                data_wave_noise(&a, x, n, 0); /* as strong as the clip: 1 */
                for (int64_t i = 0; i < n; i++) {
                    double want = 1 + rng_normal(&b);
                    if (!(fabs(x[i] - want) < 2e-6))
                        fail_msg("start %d, draw %d: %g, expected %g", start, (int)i, x[i], want);
                }
                assert_true(x[n] == 1);
                for (int i = 0; i < 6; i++) assert_int_equal(rng_u32(&a), rng_u32(&b));
            }
    }
    isa_use(before);
}

/* Against base/half.h, for every half float and for floats of every size, at every alignment's tail. */
static void half_floats(void **state)
{
    enum { N = 65536 };
    enum isa before = isa_now();
    uint16_t *h = malloc(N * sizeof *h), *to = malloc(N * sizeof *to);
    float *x = malloc(N * sizeof *x);
    struct rng r = rng_make(8, 0, 0);
    for (int i = 0; i < N; i++) h[i] = (uint16_t)i;
    for (int isa = 0; isa < 3; isa++) {
        isa_use((enum isa)isa);
        for (int64_t n = N; n > 0; n = n == N ? 17 : n - 1) {
            ISA_PICK(halves_to_floats)(h + 5 * (n < N), n, x);
            for (int64_t i = 0; i < n; i++)
                assert_int_equal(float_bits(x[i]), float_bits(half_to_float_portable(h[i + 5 * (n < N)])));
            for (int64_t i = 0; i < n; i++) x[i] = float_from_bits(rng_u32(&r));
            for (int64_t i = 0; i < n && i < 4; i++) x[i] = (float[]){NAN, INFINITY, 1e-7f, -0.0f}[i];
            float *old = memcpy(malloc((size_t)n * sizeof *x), x, (size_t)n * sizeof *x);
            ISA_PICK(halves_round)(x, n, to);
            for (int64_t i = 0; i < n; i++) {
                assert_int_equal(to[i], half_from_float_portable(old[i]));
                assert_int_equal(float_bits(x[i]), float_bits(half_to_float_portable(to[i])));
            }
            free(old);
        }
    }
    isa_use(before);
    free(h);
    free(to);
    free(x);
}

static void pixel_noise(void **state)
{
    enum { N = 20000 };
    float *px = malloc(3 * N * sizeof *px);
    for (int i = 0; i < 3 * N; i++) px[i] = 0.5f;
    struct rng r = rng_make(3, 0, 0);
    data_pixel_noise(&r, px, N, 0.05f);
    double sum = 0, square = 0;
    for (int i = 0; i < 3 * N; i++) sum += px[i] - 0.5, square += (px[i] - 0.5) * (px[i] - 0.5);
    assert_true(fabs(sum / (3 * N)) < 5 * 0.05 / sqrt(3 * N));                 /* five standard errors */
    assert_true(fabs(sqrt(square / (3 * N)) - 0.05) < 5 * 0.05 / sqrt(6 * N)); /* the same, of a standard deviation */
    free(px);
}

static void sound(void **state)
{
    float x[10];
    for (int by = -12; by <= 12; by++) {
        for (int i = 0; i < 10; i++) x[i] = (float)(i + 1);
        data_wave_shift(x, 10, by);
        for (int i = 0; i < 10; i++) assert_true(x[i] == (i - by >= 0 && i - by < 10 ? (float)(i - by + 1) : 0));
    }
    float y[2] = {1, -0.5f};
    data_gain(y, 2, 20);
    assert_true(fabsf(y[0] - 10) < 1e-5f && fabsf(y[1] + 5) < 1e-5f);
    enum { N = 50000 };
    float *z = malloc(N * sizeof *z);
    for (double snr = -10; snr <= 30; snr += 20) {
        double signal = 0, noise = 0;
        for (int i = 0; i < N; i++) z[i] = sinf((float)i * 0.3f), signal += z[i] * z[i];
        struct rng r = rng_make(4, 0, 0);
        data_wave_noise(&r, z, N, snr);
        for (int i = 0; i < N; i++) noise += (z[i] - sinf((float)i * 0.3f)) * (z[i] - sinf((float)i * 0.3f));
        assert_true(fabs(10 * log10(signal / noise) - snr) <
                    0.15); /* five standard errors of 50,000 squares: 0.14 dB */
    }
    memset(z, 0, N * sizeof *z);
    struct rng r = rng_make(4, 0, 0);
    data_wave_noise(&r, z, N, 0);
    for (int i = 0; i < N; i++) assert_true(z[i] == 0);
    data_wave_noise(&r, z, 0, 0);
    free(z);
}

static void whole_waves(void **state)
{
    const struct data_audio_augment a = {
        .gain_db = 6, .noise = 0.5, .snr_min_db = 10, .snr_max_db = 30, .speed = 0.2, .shift_s = 0.1};
    int64_t shortest = INT64_MAX, longest = 0;
    for (uint64_t t = 0; t < 40; t++) {
        float *x[2];
        int64_t n[2] = {4000, 4000};
        struct rng r[2];
        struct err e = {0};
        for (int k = 0; k < 2; k++) {
            x[k] = malloc(4000 * sizeof(float));
            for (int i = 0; i < 4000; i++) x[k][i] = sinf((float)i * 0.1f);
            r[k] = rng_make(9, 0, t);
            assert_int_equal(data_augment_wave(&r[k], &a, 16000, &x[k], &n[k], &e), 0);
        }
        assert_int_equal(n[0], n[1]);
        assert_memory_equal(x[0], x[1], (size_t)n[0] * sizeof(float));
        assert_int_equal(r[0].count, 5); /* speed, shift, gain, whether to add noise, how much */
        shortest = n[0] < shortest ? n[0] : shortest;
        longest = n[0] > longest ? n[0] : longest;
        free(x[0]);
        free(x[1]);
    }
    assert_true(shortest >= 4000 / 1.2 - 2 && shortest < 3600);
    assert_true(longest <= 4000 / 0.8 + 2 && longest > 4600);
}

static void masks(void **state)
{
    enum { T = 50, F = 20 };
    const struct data_audio_augment a = {.time_masks = 1, .bin_masks = 1, .time_mask_s = 0.1, .bin_mask = 6};
    int most_t = 0, most_f = 0;
    for (uint64_t t = 0; t < 300; t++) {
        float x[T * F];
        double mean = 0;
        for (int i = 0; i < T * F; i++) x[i] = (float)i, mean += i / (double)(T * F);
        struct rng r = rng_make(11, 0, t);
        data_augment_frames(&r, &a, 0.01, x, T, F);
        int rows = 0, cols = 0;
        for (int i = 0; i < T; i++) {
            bool all = true;
            for (int b = 0; b < F; b++) all = all && fabs(x[i * F + b] - mean) < 1e-3;
            rows += all;
        }
        for (int b = 0; b < F; b++) {
            bool all = true;
            for (int i = 0; i < T; i++) all = all && fabs(x[i * F + b] - mean) < 1e-3;
            cols += all;
        }
        int changed = 0;
        for (int i = 0; i < T * F; i++) changed += x[i] != (float)i;
        assert_int_equal(changed, rows * F + cols * T - rows * cols); /* nothing else */
        most_t = rows > most_t ? rows : most_t;
        most_f = cols > most_f ? cols : most_f;
    }
    assert_int_equal(most_t, 10);
    assert_int_equal(most_f, 6);
    float one[3] = {1, 2, 3}; /* a clip of one frame is not masked in time */
    struct rng r = rng_make(1, 0, 0);
    struct data_audio_augment time_only = {.time_masks = 5, .time_mask_s = 1};
    data_augment_frames(&r, &time_only, 0.01, one, 1, 3);
    assert_true(one[0] == 1 && one[1] == 2 && one[2] == 3);
}

static void captions(void **state)
{
    int count[5] = {0};
    for (uint64_t t = 0; t < 20000; t++) {
        struct rng r = rng_make(1, 0, t);
        count[data_choose(&r, 5, 0.6)]++;
        assert_int_equal(r.count, 2);
    }
    for (int i = 0; i < 5; i++) { /* five standard errors */
        double p = (i == 0 ? 0.6 : 0) + 0.4 / 5;
        assert_true(fabs(count[i] / 20000.0 - p) < 5 * sqrt(p * (1 - p) / 20000));
    }
    struct rng r = rng_make(1, 0, 0);
    for (int i = 0; i < 100; i++) assert_int_equal(data_choose(&r, 1, 0), 0);
}

static void off_is_off(void **state)
{
    const struct data_image_augment a = {0};
    const struct data_audio_augment s = {0};
    uint8_t in[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, out[12];
    float px[6] = {0.1f, 2, -1, 0.4f, 0.5f, 0.6f}, same[6], *x = px;
    int64_t n = 6;
    struct err e = {0};
    memcpy(same, px, sizeof px);
    struct rng r = rng_make(1, 2, 3);
    data_augment_pixels(&r, &a, in, out, 2, 2);
    assert_memory_equal(in, out, 12);
    data_augment_colour(&r, &a, px, 2);
    assert_false(data_audio_augment_waves(&s));
    assert_int_equal(data_augment_wave(&r, &s, 16000, &x, &n, &e), 0);
    data_augment_frames(&r, &s, 0.01, px, 2, 3);
    assert_ptr_equal(x, px);
    assert_memory_equal(px, same, sizeof px);
    assert_int_equal(r.count, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shift_and_flip),
        cmocka_unit_test(random_crops),
        cmocka_unit_test(colours),
        cmocka_unit_test(colours_on_every_isa),
        cmocka_unit_test(noise_on_every_isa),
        cmocka_unit_test(half_floats),
        cmocka_unit_test(pixel_noise),
        cmocka_unit_test(sound),
        cmocka_unit_test(whole_waves),
        cmocka_unit_test(masks),
        cmocka_unit_test(captions),
        cmocka_unit_test(off_is_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
