/* See winograd.h. With D the numbers that a tile reads, g the kernel and Y the tile's m x m results,
 *   Y = A' [(G g G') * (B' D B)] A      conv2d, summed over the channels by a product for each of the (m + 2)^2 places
 *   dg = G' [sum over tiles of (B' D B) * (A dY A')] G      conv2d_dw, the sum a product too
 * and conv2d_transpose is conv2d of dY with the kernel turned around. All of it in f32; tensors in 16 bits are widened and
 * rounded where tiles are read and written. */
#pragma GCC optimize("O3")
#include "autograd/kernels/winograd.h"

#include "autograd/kernels/gemm.h"
#include "autograd/kernels/simd.h"
#include "base/threads.h"

enum { SIDE = 6, PLACES = SIDE * SIDE };

static int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
static int64_t max_of(int64_t a, int64_t b)
{
    return a > b ? a : b;
}
static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
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

/* Tiles (n, th, tw) of m x m results; those read `in` (n, h, w, c) from m i - pad on and belong to `out` (n, oh, ow, f). */
struct tiles {
    int m;
    int64_t places, n, h[2], out[2], pad[2], c, f, grid[2], count;
    const struct ad_tensor *in, *result; /* result: what is written, or for conv2d_dw its gradient, which is read */
};

struct corner {
    int64_t n, i, j; /* the tile's image and first result */
};
static struct corner corner_of(const struct tiles *s, int64_t t)
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
static void read_tile(const struct tiles *s, int64_t t, float *to, int64_t step)
{
    struct corner at = corner_of(s, t);
    int64_t from[PLACES];
    pixels(at.n, at.i - s->pad[0], at.j - s->pad[1], s->m + 2, s->h, s->c, from);
    read_any(read_pixels, s->m, s->in, from, (int)s->places, s->c, to, step);
}

/* conv2d_dw: tile t's results' gradients, transformed. */
static void read_tile_grad(const struct tiles *s, int64_t t, float *to, int64_t step)
{
    struct corner at = corner_of(s, t);
    int64_t from[PLACES];
    pixels(at.n, at.i, at.j, s->m, s->out, s->f, from);
    read_any(grad_pixels, s->m, s->result, from, s->m * s->m, s->f, to, step);
}

static void write_tile(const struct tiles *s, int64_t t, const float *from, int64_t step)
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

/* VL numbers of the kernel from b on, transformed, or their gradient back from there. */
static void transform_kernel(const struct tiles *s, const struct ad_tensor *w, bool turned, int64_t b, float *u)
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

static void transform_back(const struct tiles *s, const float *u, int64_t b, const struct ad_tensor *w)
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

/* ---- how the work is cut --------------------------------------------------------------------------------------------- */

/* Few channels: a thread takes a block of tiles through all three steps in its second-level cache. Many: the threads take
 * each step together, in rounds of as many tiles as a few megabytes hold; so does conv2d_dw. */
enum {
    ROOM = 1 << 18,
    NEAR = 256,
    FEW_TILES = 12,
    MOST_TILES = 128,
    FEW_ROWS = 48,
    MOST_ROWS = 256,
    LINE_OF_KERNEL = 64
};
struct room {
    float x[ROOM];
} __attribute__((aligned(64)));

static bool stays_near(const struct tiles *s)
{
    return s->c + s->f <= NEAR;
}

/* Tiles of a round, of which there are as few as hold no more than so many numbers. */
static int64_t group_of(const struct tiles *s, int64_t floats)
{
    int64_t most = max_of(256, floats / (s->places * (s->c + s->f)));
    return ceil_div(s->count, max_of(1, ceil_div(s->count, most)));
}
static int64_t far_group(const struct tiles *s)
{
    return group_of(s, 1 << 22);
}
static int64_t dw_group(const struct tiles *s)
{
    return group_of(s, 1 << 21);
}

/* `size` in parts of at most `most`, each `times` an item; more of them, down to `few`, until items go evenly over the
 * threads. The length of a part. Sums do not see it, but for OpenBLAS'. */
static int64_t part_length(int64_t size, int64_t most, int64_t few, int64_t times, int64_t threads)
{
    int64_t parts = max_of(1, ceil_div(size, most));
#if defined(__AVX2__)
    while (parts * times % threads && ceil_div(size, parts + 1) >= few) parts++;
#endif
    return max_of(1, ceil_div(size, parts));
}

/* What the phases know of the call. */
struct job {
    struct conv_call k;
    struct tiles s;
    int64_t group, length,
        pieces;       /* tiles of a round; of tiles, or rows of the products: of an item; items for a round or place */
    float *u, *v, *m; /* kernel's places, inputs', results' or their gradients' */
    bool turned;
};
_Static_assert(sizeof(struct job) <= AD_JOB_BYTES, "a job lies in struct ad_parts");

static void run_kernel(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct job *j = job;
    for (int64_t b = from * LINE_OF_KERNEL, end = min_of(to * LINE_OF_KERNEL, j->s.c * j->s.f); b < end; b += VL)
        transform_kernel(&j->s, j->k.w, j->turned, b, j->u);
}
static void run_kernel_back(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct job *j = job;
    for (int64_t b = from * LINE_OF_KERNEL, end = min_of(to * LINE_OF_KERNEL, j->s.c * j->s.f); b < end; b += VL)
        transform_back(&j->s, j->u, b, j->k.w);
}

/* The product of place p for `rows` tiles; the kernel's matrix is (c, f), or (f, c) and read across where `turned`. */
static void multiply(const struct job *j, int64_t p, int64_t rows, const float *v, float *m)
{
    const struct tiles *s = &j->s;
    struct gemm_args g = {.m = rows, .n = s->f, .k = s->c, .a = v, .a_row = s->c, .a_col = 1};
    g.b = j->u + p * s->c * s->f;
    g.b_row = j->turned ? 1 : s->f;
    g.b_col = j->turned ? s->c : 1;
    g.c = m;
    g.c_row = s->f;
    gemm_block(&g);
}

static void run_near(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct job *j = job;
    const struct tiles *s = &j->s;
    struct room room;
    float *v = room.x, *m = v + s->places * j->length * s->c;
    gemm_enter_thread();
    for (int64_t b = from; b < to; b++) {
        int64_t first = b * j->length, n = min_of(j->length, s->count - first);
        for (int64_t t = 0; t < n; t++) read_tile(s, first + t, v + t * s->c, j->length * s->c);
        for (int p = 0; p < s->places; p++) multiply(j, p, n, v + p * j->length * s->c, m + p * j->length * s->f);
        for (int64_t t = 0; t < n; t++) write_tile(s, first + t, m + t * s->f, j->length * s->f);
    }
}

static void read_round(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct job *j = job;
    const struct tiles *s = &j->s;
    for (int64_t t = from; t < min_of(to, s->count); t++) read_tile(s, t, j->v + t % j->group * s->c, j->group * s->c);
}

static void multiply_round(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct job *j = job;
    const struct tiles *s = &j->s;
    gemm_enter_thread();
    for (int64_t i = from; i < to; i++) {
        int64_t round = i / (s->places * j->pieces), p = i / j->pieces % s->places, r = i % j->pieces * j->length,
                rows = min_of(j->length, min_of(j->group, s->count - round * j->group) - r);
        if (rows > 0) multiply(j, p, rows, j->v + (p * j->group + r) * s->c, j->m + (p * j->group + r) * s->f);
    }
}

static void write_round(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct job *j = job;
    const struct tiles *s = &j->s;
    for (int64_t t = from; t < min_of(to, s->count); t++) write_tile(s, t, j->m + t % j->group * s->f, j->group * s->f);
}

static void read_round_dw(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct job *j = job;
    const struct tiles *s = &j->s;
    for (int64_t t = from; t < min_of(to, s->count); t++) {
        read_tile(s, t, j->v + t % j->group * s->c, j->group * s->c);
        read_tile_grad(s, t, j->m + t % j->group * s->f, j->group * s->f);
    }
}

static void multiply_round_dw(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct job *j = job;
    const struct tiles *s = &j->s;
    gemm_enter_thread();
    for (int64_t i = from; i < to; i++) {
        int64_t round = i / (s->places * j->pieces), p = i / j->pieces % s->places, r = i % j->pieces * j->length;
        struct gemm_args g = {.m = min_of(j->length, s->c - r),
                              .n = s->f,
                              .k = min_of(j->group, s->count - round * j->group),
                              .a = j->v + p * j->group * s->c + r};
        if (g.m <= 0) continue;
        g.a_row = 1;
        g.a_col = s->c;
        g.b = j->m + p * j->group * s->f;
        g.b_row = s->f;
        g.b_col = 1;
        g.c = j->u + (p * s->c + r) * s->f;
        g.c_row = s->f;
        g.add = round > 0;
        gemm_block(&g);
    }
}

/* ---- which --------------------------------------------------------------------------------------------------------------- */

/* The tile that needs fewer products: larger ones waste more at the border. */
static int m_of(const int64_t *out)
{
    return 36 * ceil_div(out[0], 4) * ceil_div(out[1], 4) < 16 * ceil_div(out[0], 2) * ceil_div(out[1], 2) ? 4 : 2;
}

static struct tiles tiles_of(const struct ad_call *c, struct conv_call *k)
{
    *k = conv_call_of(c);
    const struct conv_dims *d = &k->d;
    bool turned = c->op == &ad_op_conv2d_transpose;
    struct tiles s = {.n = d->n, .c = turned ? d->f : d->c, .f = turned ? d->c : d->f};
    for (int i = 0; i < 2; i++) {
        s.h[i] = turned ? d->out[i] : d->h[i];
        s.out[i] = turned ? d->h[i] : d->out[i];
        s.pad[i] = turned ? 2 - d->pad[i] : d->pad[i];
    }
    s.m = m_of(s.out);
    s.places = (s.m + 2) * (s.m + 2);
    for (int i = 0; i < 2; i++) s.grid[i] = ceil_div(s.out[i], s.m);
    s.count = s.n * s.grid[0] * s.grid[1];
    s.in = turned ? k->y : k->x;
    s.result = turned ? k->x : k->y;
    return s;
}

bool winograd_pays(const struct conv_dims *d)
{
    bool three =
        d->k[0] == 3 && d->k[1] == 3 && d->stride[0] * d->stride[1] == 1 && d->dilation[0] * d->dilation[1] == 1;
    return three && d->groups == 1 && d->pad[0] <= 2 && d->pad[1] <= 2 && d->c >= 32 && d->f >= 32 &&
           d->n * d->out[0] * d->out[1] >= 256 && d->out[0] > 1 && d->out[1] > 1;
}

static int64_t kernel_floats(const struct tiles *s)
{
    return whole_lines(s->places * s->c * s->f);
}

size_t winograd_scratch(const struct ad_call *c)
{
    struct conv_call k;
    struct tiles s = tiles_of(c, &k);
    int64_t floats = kernel_floats(&s);
    if (c->op == &ad_op_conv2d_dw)
        floats += s.places * dw_group(&s) * (s.c + s.f);
    else if (!stays_near(&s))
        floats += s.places * far_group(&s) * (s.c + s.f);
    return (size_t)floats * sizeof(float);
}

static void cut_near(struct job *j, int threads, struct ad_parts *p)
{
    const struct tiles *s = &j->s;
    j->length = part_length(s->count, min_of(ROOM / (s->places * (s->c + s->f)), MOST_TILES), FEW_TILES, 1, threads);
    p->n = 2;
    p->phase[1] = (struct ad_phase){.items = ceil_div(s->count, j->length), .run = run_near, .dynamic = true};
}

static void cut_far(struct job *j, int threads, struct ad_parts *p)
{
    const struct tiles *s = &j->s;
    j->length = part_length(j->group, MOST_ROWS, FEW_ROWS, s->places, threads);
    j->pieces = ceil_div(j->group, j->length);
    p->n = 4;
    p->first_round = 1;
    p->end_round = 4;
    p->phase[1] = (struct ad_phase){.items = j->group, .run = read_round};
    p->phase[2] = (struct ad_phase){.items = s->places * j->pieces, .run = multiply_round, .dynamic = true};
    p->phase[3] = (struct ad_phase){.items = j->group, .run = write_round};
}

static void cut_dw(struct job *j, int threads, struct ad_parts *p)
{
    const struct tiles *s = &j->s;
    j->length = part_length(s->c, MOST_ROWS, FEW_ROWS, s->places, threads);
    j->pieces = ceil_div(s->c, j->length);
    p->n = 3;
    p->end_round = 2;
    p->phase[0] = (struct ad_phase){.items = j->group, .run = read_round_dw};
    p->phase[1] = (struct ad_phase){.items = s->places * j->pieces, .run = multiply_round_dw, .dynamic = true};
}

void winograd_cut(const struct ad_call *c, int threads, struct ad_parts *p)
{
    struct job *j = (void *)p->job;
    j->s = tiles_of(c, &j->k);
    bool dw = c->op == &ad_op_conv2d_dw, near = !dw && stays_near(&j->s);
    j->turned = c->op == &ad_op_conv2d_transpose;
    j->u = c->scratch;
    j->v = j->u + kernel_floats(&j->s);
    j->group = dw ? dw_group(&j->s) : near ? j->s.count : far_group(&j->s);
    j->m = j->v + j->s.places * j->group * j->s.c;
    p->rounds = ceil_div(j->s.count, j->group);
    if (near)
        cut_near(j, threads, p);
    else if (dw)
        cut_dw(j, threads, p);
    else
        cut_far(j, threads, p);
    int64_t size = j->s.c * j->s.f;
    p->phase[dw ? 2 : 0] = (struct ad_phase){.items = ceil_div(size, LINE_OF_KERNEL),
                                             .run = dw ? run_kernel_back : run_kernel,
                                             .alone = size * 32 <= PAR_MIN};
}
