/* See winograd_tiles.h, and winograd.c for what is computed of the tiles. */
#pragma GCC optimize("O3")
#include "autograd/kernels/winograd_tiles.h"

#include "autograd/kernels/simd.h"

enum { SIDE = 6, PLACES = SIDE * SIDE };

static int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* ---- transforms of one line of vectors; m is 2 or 4 --------------------------------------------------------- */

/* m = 2 evaluates at 0, 1, -1 and infinity; m = 4 at 0, +-a, +-b and infinity: a and b, their squares, and one over the
 * products of differences, by which G is scaled. The popular 1 and 2 have twice the rounding error of these. */
#define PA 0.625f
#define PB 1.5f
#define A2 (PA * PA)
#define B2 (PB * PB)
#define N0 (1 / (A2 * B2))
#define NA (1 / (2 * A2 * (A2 - B2)))
#define NB (1 / (2 * B2 * (B2 - A2)))

/* B' d: m + 2 numbers to as many. */
SIMD_FN void input_line(int m, const vf *d, vf *to)
{
    if (m == 2) {
        to[0] = d[0] - d[2];
        to[1] = d[1] + d[2];
        to[2] = d[2] - d[1];
        to[3] = d[1] - d[3];
        return;
    }
    vf a = d[4] - B2 * d[2], b = d[3] - B2 * d[1], c = d[4] - A2 * d[2], e = d[3] - A2 * d[1];
    to[0] = A2 * B2 * d[0] - (A2 + B2) * d[2] + d[4];
    to[1] = a + PA * b;
    to[2] = a - PA * b;
    to[3] = c + PB * e;
    to[4] = c - PB * e;
    to[5] = A2 * B2 * d[1] - (A2 + B2) * d[3] + d[5];
}

/* A' u: m + 2 numbers to m. */
SIMD_FN void output_line(int m, const vf *u, vf *to)
{
    if (m == 2) {
        to[0] = (u[0] + u[1]) + u[2];
        to[1] = (u[1] - u[2]) - u[3];
        return;
    }
    vf p = u[1] + u[2], q = u[1] - u[2], r = u[3] + u[4], e = u[3] - u[4];
    to[0] = (u[0] + p) + r;
    to[1] = PA * q + PB * e;
    to[2] = A2 * p + B2 * r;
    to[3] = (A2 * PA * q + B2 * PB * e) + u[5];
}

/* A y: m numbers to m + 2. */
SIMD_FN void output_line_back(int m, const vf *y, vf *to)
{
    if (m == 2) {
        to[0] = y[0];
        to[1] = y[0] + y[1];
        to[2] = y[0] - y[1];
        to[3] = -y[1];
        return;
    }
    vf even = y[0] + A2 * y[2], odd = PA * y[1] + A2 * PA * y[3];
    vf even2 = y[0] + B2 * y[2], odd2 = PB * y[1] + B2 * PB * y[3];
    to[0] = y[0];
    to[1] = even + odd;
    to[2] = even - odd;
    to[3] = even2 + odd2;
    to[4] = even2 - odd2;
    to[5] = y[3];
}

/* G g: 3 numbers to m + 2. */
SIMD_FN void kernel_line(int m, const vf *g, vf *to)
{
    if (m == 2) {
        vf sum = 0.5f * (g[0] + g[2]), half = 0.5f * g[1];
        to[0] = g[0];
        to[1] = sum + half;
        to[2] = sum - half;
        to[3] = g[2];
        return;
    }
    vf a = NA * g[0] + NA * A2 * g[2], b = NA * PA * g[1], c = NB * g[0] + NB * B2 * g[2], e = NB * PB * g[1];
    to[0] = N0 * g[0];
    to[1] = a + b;
    to[2] = a - b;
    to[3] = c + e;
    to[4] = c - e;
    to[5] = g[2];
}

/* G' u: m + 2 numbers to 3. */
SIMD_FN void kernel_line_back(int m, const vf *u, vf *to)
{
    if (m == 2) {
        vf sum = 0.5f * (u[1] + u[2]);
        to[0] = u[0] + sum;
        to[1] = 0.5f * (u[1] - u[2]);
        to[2] = sum + u[3];
        return;
    }
    vf p = u[1] + u[2], q = u[1] - u[2], r = u[3] + u[4], e = u[3] - u[4];
    to[0] = (N0 * u[0] + NA * p) + NB * r;
    to[1] = NA * PA * q + NB * PB * e;
    to[2] = (NA * A2 * p + NB * B2 * r) + u[5];
}

/* An n x n square of vectors, rows SIDE apart, by columns and then by rows, becomes to_n x to_n. */
typedef void (*line_fn)(int m, const vf *from, vf *to);
SIMD_FN void square(line_fn line, int m, int n, int to_n, vf *x)
{
    vf from[SIDE], to[SIDE];
#pragma GCC unroll 6
    for (int i = 0; i < n; i++) {
#pragma GCC unroll 6
        for (int k = 0; k < n; k++) from[k] = x[SIDE * k + i];
        line(m, from, to);
#pragma GCC unroll 6
        for (int k = 0; k < to_n; k++) x[SIDE * k + i] = to[k];
    }
#pragma GCC unroll 6
    for (int i = 0; i < to_n; i++) {
        line(m, x + SIDE * i, to);
#pragma GCC unroll 6
        for (int k = 0; k < to_n; k++) x[SIDE * i + k] = to[k];
    }
}

/* ---- images and tiles --------------------------------------------------------------------------------------------------- */

struct corner {
    int64_t n, i, j; /* the tile's image and first result */
};
static struct corner corner_of(const struct winograd_tiles *s, int64_t t)
{
    return (struct corner){t / s->grid[1] / s->grid[0], s->m * (t / s->grid[1] % s->grid[0]), s->m * (t % s->grid[1])};
}

/* Where the pixels of a square of image n begin, row by row; -1 outside. */
static void pixels(int64_t n, int64_t row, int64_t col, int side, const int64_t *size, int64_t c, int64_t *at)
{
    for (int64_t i = row; i < row + side; i++)
        for (int64_t j = col; j < col + side; j++) {
            bool inside = i >= 0 && i < size[0] && j >= 0 && j < size[1];
            *at++ = inside ? ((n * size[0] + i) * size[1] + j) * c : -1;
        }
}

/* One tile's inputs, their pixels at in + from[i], transformed to to[p * step]. */
SIMD_FN void read_pixels_of(const int m, const float *in, const int64_t *from, int64_t channels, float *to,
                            int64_t step)
{
    const int side = m + 2;
    for (int64_t c = 0; c < channels; c += VL) {
        int64_t n = min_of(VL, channels - c);
        vf x[SIDE * SIDE];
#pragma GCC unroll 36
        for (int i = 0; i < side * side; i++)
            x[i / side * SIDE + i % side] = from[i] >= 0 ? vf_get(in + from[i] + c, n) : (vf){0};
        square(input_line, m, side, side, x);
#pragma GCC unroll 36
        for (int i = 0; i < side * side; i++) vf_put(to + i * step + c, x[i / side * SIDE + i % side], n);
    }
}

SIMD_FN void write_pixels_of(const int m, float *result, const int64_t *to, int64_t channels, const float *from,
                             int64_t step)
{
    const int side = m + 2;
    for (int64_t f = 0; f < channels; f += VL) {
        int64_t n = min_of(VL, channels - f);
        vf x[SIDE * SIDE];
#pragma GCC unroll 36
        for (int i = 0; i < side * side; i++) x[i / side * SIDE + i % side] = vf_get(from + i * step + f, n);
        square(output_line, m, side, m, x);
#pragma GCC unroll 16
        for (int i = 0; i < m * m; i++)
            if (to[i] >= 0) vf_put(result + to[i] + f, x[i / m * SIDE + i % m], n);
    }
}

/* conv2d_dw: one tile's results' gradients. */
SIMD_FN void grad_pixels_of(const int m, const float *grad, const int64_t *from, int64_t channels, float *to,
                            int64_t step)
{
    const int side = m + 2;
    for (int64_t f = 0; f < channels; f += VL) {
        int64_t n = min_of(VL, channels - f);
        vf x[SIDE * SIDE];
#pragma GCC unroll 16
        for (int i = 0; i < m * m; i++)
            x[i / m * SIDE + i % m] = from[i] >= 0 ? vf_get(grad + from[i] + f, n) : (vf){0};
        square(output_line_back, m, m, side, x);
#pragma GCC unroll 36
        for (int i = 0; i < side * side; i++) vf_put(to + i * step + f, x[i / side * SIDE + i % side], n);
    }
}

#define BOTH(name, image, type)                                                                      \
    static void name(int m, image x, const int64_t *at, int64_t channels, type places, int64_t step) \
    {                                                                                                \
        if (m == 2)                                                                                  \
            name##_of(2, x, at, channels, places, step);                                             \
        else                                                                                         \
            name##_of(4, x, at, channels, places, step);                                             \
    }
BOTH(read_pixels, const float *, float *)
BOTH(grad_pixels, const float *, float *)
BOTH(write_pixels, float *, const float *)

/* Pixels in 16 bits pass through f32 in the first-level cache, some channels at a time: `count` of them in `room`, where
 * at[i] is the place of pixel i. */
enum { CHANNELS = 64 };
static void places_in_room(const int64_t *pixel, int count, int64_t *at)
{
    for (int i = 0; i < count; i++) at[i] = pixel[i] >= 0 ? i * CHANNELS : -1;
}

typedef void read_fn(int m, const float *x, const int64_t *at, int64_t channels, float *places, int64_t step);
static void read_any(read_fn *run, int m, const struct ad_tensor *x, const int64_t *from, int count, int64_t channels,
                     float *to, int64_t step)
{
    if (x->dtype == AD_F32) {
        run(m, x->data, from, channels, to, step);
        return;
    }
    float room[PLACES * CHANNELS];
    int64_t at[PLACES];
    places_in_room(from, count, at);
    for (int64_t c = 0; c < channels; c += CHANNELS) {
        int64_t n = min_of(CHANNELS, channels - c);
        for (int i = 0; i < count; i++)
            if (at[i] >= 0) vf_widen(x->dtype, at_as(x->dtype, x->data, from[i] + c), room + at[i], n);
        run(m, room, at, n, to + c, step);
    }
}

/* Tile t's transformed inputs to to[p * step]. */
void winograd_read_tile(const struct winograd_tiles *s, int64_t t, float *to, int64_t step)
{
    struct corner at = corner_of(s, t);
    int64_t from[PLACES];
    pixels(at.n, at.i - s->pad[0], at.j - s->pad[1], s->m + 2, s->h, s->c, from);
    read_any(read_pixels, s->m, s->in, from, (int)s->places, s->c, to, step);
}

/* conv2d_dw: tile t's results' gradients, transformed. */
void winograd_read_tile_grad(const struct winograd_tiles *s, int64_t t, float *to, int64_t step)
{
    struct corner at = corner_of(s, t);
    int64_t from[PLACES];
    pixels(at.n, at.i, at.j, s->m, s->out, s->f, from);
    read_any(grad_pixels, s->m, s->result, from, s->m * s->m, s->f, to, step);
}

void winograd_write_tile(const struct winograd_tiles *s, int64_t t, const float *from, int64_t step)
{
    const struct ad_tensor *y = s->result;
    struct corner corner = corner_of(s, t);
    int64_t to[PLACES], at[PLACES];
    int count = s->m * s->m;
    pixels(corner.n, corner.i, corner.j, s->m, s->out, s->f, to);
    if (y->dtype == AD_F32) {
        write_pixels(s->m, y->data, to, s->f, from, step);
        return;
    }
    float room[PLACES * CHANNELS];
    places_in_room(to, count, at);
    for (int64_t f = 0; f < s->f; f += CHANNELS) {
        int64_t n = min_of(CHANNELS, s->f - f);
        write_pixels(s->m, room, at, n, from + f, step);
        for (int i = 0; i < count; i++)
            if (at[i] >= 0) vf_narrow(y->dtype, room + at[i], at_as(y->dtype, y->data, to[i] + f), n);
    }
}

/* n numbers of w (3, 3), taps w_step apart, to u (places), size apart, the taps in falling order where `turned`; and back. */
SIMD_FN void kernel_of(const int m, const float *w, int64_t w_step, int64_t n, bool turned, float *u, int64_t size)
{
    const int side = m + 2;
    vf x[SIDE * SIDE];
#pragma GCC unroll 9
    for (int i = 0; i < 9; i++) x[i / 3 * SIDE + i % 3] = vf_get(w + (turned ? 8 - i : i) * w_step, n);
    square(kernel_line, m, 3, side, x);
#pragma GCC unroll 36
    for (int i = 0; i < side * side; i++) vf_put(u + i * size, x[i / side * SIDE + i % side], n);
}
SIMD_FN void kernel_back_of(const int m, const float *u, int64_t size, int64_t n, float *w, int64_t w_step)
{
    const int side = m + 2;
    vf x[SIDE * SIDE];
#pragma GCC unroll 36
    for (int i = 0; i < side * side; i++) x[i / side * SIDE + i % side] = vf_get(u + i * size, n);
    square(kernel_line_back, m, side, 3, x);
#pragma GCC unroll 9
    for (int i = 0; i < 9; i++) vf_put(w + i * w_step, x[i / 3 * SIDE + i % 3], n);
}

void winograd_transform_kernel(const struct winograd_tiles *s, const struct ad_tensor *w, bool turned, int64_t b,
                               float *u)
{
    int64_t size = s->c * s->f, n = min_of(VL, size - b), step = size;
    const float *from = (const float *)w->data + b;
    float wide[9 * VL];
    if (ad_is_half(w->dtype)) {
        for (int i = 0; i < 9; i++) vf_widen(w->dtype, at_as(w->dtype, w->data, i * size + b), wide + i * VL, n);
        from = wide;
        step = VL;
    }
    if (s->m == 2)
        kernel_of(2, from, step, n, turned, u + b, size);
    else
        kernel_of(4, from, step, n, turned, u + b, size);
}

void winograd_transform_back(const struct winograd_tiles *s, const float *u, int64_t b, const struct ad_tensor *w)
{
    int64_t size = s->c * s->f, n = min_of(VL, size - b);
    bool half = ad_is_half(w->dtype);
    float wide[9 * VL], *to = half ? wide : (float *)w->data + b;
    if (s->m == 2)
        kernel_back_of(2, u + b, size, n, to, half ? VL : size);
    else
        kernel_back_of(4, u + b, size, n, to, half ? VL : size);
    for (int i = 0; i < 9 && half; i++) vf_narrow(w->dtype, wide + i * VL, at_as(w->dtype, w->data, i * size + b), n);
}
