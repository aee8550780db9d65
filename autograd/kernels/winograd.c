/* See winograd.h. With D the 4 x 4 numbers that a tile reads, g the kernel and Y the tile's 2 x 2 results,
 *   Y = A' [(G g G') * (B' D B)] A      conv2d, summed over the channels by a product for each of the 16 places
 *   dg = G' [sum over tiles of (B' D B) * (A dY A')] G      conv2d_dw, the sum a product too
 * and conv2d_transpose is conv2d of dY with the kernel turned around. */
#pragma GCC optimize("O3")
#include "autograd/kernels/winograd.h"

#include "autograd/kernels/gemm.h"
#include "base/simd.h"
#include "base/threads.h"

enum { PLACES = 16, LINE = 16 };

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

/* n is VL, or less for the last channels. */
SIMD_FN vf get(const float *p, int64_t n)
{
    return n == VL ? vf_load(p) : vf_load_part(p, n, 0);
}
SIMD_FN void put(float *p, vf x, int64_t n)
{
    if (n == VL)
        vf_store(p, x);
    else
        vf_store_part(p, x, n);
}

/* ---- transforms of one vector of channels ------------------------------------------------------------------------------ */

/* B' d, B' = (1 0 -1 0; 0 1 1 0; 0 -1 1 0; 0 1 0 -1): of one column or row. */
SIMD_FN void input_line(const vf *d, int step, vf *to)
{
    to[0] = d[0] - d[2 * step];
    to[step] = d[step] + d[2 * step];
    to[2 * step] = d[2 * step] - d[step];
    to[3 * step] = d[step] - d[3 * step];
}
SIMD_FN void input_tile(const vf d[16], vf to[16])
{
    vf t[16];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) input_line(d + i, 4, t + i);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) input_line(t + 4 * i, 1, to + 4 * i);
}

/* A' m, A' = (1 1 1 0; 0 1 -1 -1) */
SIMD_FN void output_tile(const vf m[16], vf y[4])
{
    vf t[8];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        t[i] = (m[i] + m[4 + i]) + m[8 + i];
        t[4 + i] = (m[4 + i] - m[8 + i]) - m[12 + i];
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        y[2 * i] = (t[4 * i] + t[4 * i + 1]) + t[4 * i + 2];
        y[2 * i + 1] = (t[4 * i + 1] - t[4 * i + 2]) - t[4 * i + 3];
    }
}

/* A y A' */
SIMD_FN void output_adjoint(const vf y[4], vf m[16])
{
    vf t[8]; /* A y: (4, 2) */
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        t[i] = y[i];
        t[2 + i] = y[i] + y[2 + i];
        t[4 + i] = y[i] - y[2 + i];
        t[6 + i] = -y[2 + i];
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        m[4 * i] = t[2 * i];
        m[4 * i + 1] = t[2 * i] + t[2 * i + 1];
        m[4 * i + 2] = t[2 * i] - t[2 * i + 1];
        m[4 * i + 3] = -t[2 * i + 1];
    }
}

/* G g, G = (1 0 0; 1/2 1/2 1/2; 1/2 -1/2 1/2; 0 0 1) */
SIMD_FN void kernel_tile(const vf g[9], vf to[16])
{
    vf t[12]; /* (4, 3) */
#pragma GCC unroll 3
    for (int i = 0; i < 3; i++) {
        vf sum = 0.5f * (g[i] + g[6 + i]), half = 0.5f * g[3 + i];
        t[i] = g[i];
        t[3 + i] = sum + half;
        t[6 + i] = sum - half;
        t[9 + i] = g[6 + i];
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        vf sum = 0.5f * (t[3 * i] + t[3 * i + 2]), half = 0.5f * t[3 * i + 1];
        to[4 * i] = t[3 * i];
        to[4 * i + 1] = sum + half;
        to[4 * i + 2] = sum - half;
        to[4 * i + 3] = t[3 * i + 2];
    }
}

/* G' u G */
SIMD_FN void kernel_adjoint(const vf u[16], vf g[9])
{
    vf t[12]; /* G' u: (3, 4) */
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        vf sum = 0.5f * (u[4 + i] + u[8 + i]);
        t[i] = u[i] + sum;
        t[4 + i] = 0.5f * (u[4 + i] - u[8 + i]);
        t[8 + i] = sum + u[12 + i];
    }
#pragma GCC unroll 3
    for (int i = 0; i < 3; i++) {
        vf sum = 0.5f * (t[4 * i + 1] + t[4 * i + 2]);
        g[3 * i] = t[4 * i] + sum;
        g[3 * i + 1] = 0.5f * (t[4 * i + 1] - t[4 * i + 2]);
        g[3 * i + 2] = sum + t[4 * i + 3];
    }
}

/* ---- images and tiles --------------------------------------------------------------------------------------------------- */

/* Tiles (n, th, tw) of 2 x 2 results; those read `in` (n, h, w, c) from 2 i - pad on and belong to `out` (n, oh, ow, f). */
struct tiles {
    int64_t n, h[2], out[2], pad[2], c, f, grid[2], count;
    const float *in;
    float *result;     /* conv2d, conv2d_transpose: what is written */
    const float *grad; /* conv2d_dw: what is read in its place */
};

struct place_of {
    int64_t n, i, j; /* the tile's image and first result */
};
static struct place_of place_of(const struct tiles *s, int64_t t)
{
    return (struct place_of){t / s->grid[1] / s->grid[0], 2 * (t / s->grid[1] % s->grid[0]), 2 * (t % s->grid[1])};
}

/* Tile t's 16 transformed inputs to to[p * step]. */
static void read_tile(const struct tiles *s, int64_t t, float *to, int64_t step)
{
    struct place_of at = place_of(s, t);
    const float *from[16];
    for (int y = 0; y < 4; y++)
        for (int x = 0; x < 4; x++) {
            int64_t row = at.i - s->pad[0] + y, col = at.j - s->pad[1] + x;
            bool inside = row >= 0 && row < s->h[0] && col >= 0 && col < s->h[1];
            from[4 * y + x] = inside ? s->in + ((at.n * s->h[0] + row) * s->h[1] + col) * s->c : NULL;
        }
    for (int64_t c = 0; c < s->c; c += VL) {
        int64_t n = min_of(VL, s->c - c);
        vf d[16], v[16];
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) d[i] = from[i] ? get(from[i] + c, n) : (vf){0};
        input_tile(d, v);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) put(to + i * step + c, v[i], n);
    }
}

static void write_tile(const struct tiles *s, int64_t t, const float *from, int64_t step)
{
    struct place_of at = place_of(s, t);
    float *to[4];
    for (int i = 0; i < 4; i++) {
        int64_t row = at.i + i / 2, col = at.j + i % 2;
        bool inside = row < s->out[0] && col < s->out[1];
        to[i] = inside ? s->result + ((at.n * s->out[0] + row) * s->out[1] + col) * s->f : NULL;
    }
    for (int64_t f = 0; f < s->f; f += VL) {
        int64_t n = min_of(VL, s->f - f);
        vf m[16], y[4];
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) m[i] = get(from + i * step + f, n);
        output_tile(m, y);
        for (int i = 0; i < 4; i++)
            if (to[i]) put(to[i] + f, y[i], n);
    }
}

/* conv2d_dw: tile t's results' gradients, transformed. */
static void read_grad(const struct tiles *s, int64_t t, float *to, int64_t step)
{
    struct place_of at = place_of(s, t);
    const float *from[4];
    for (int i = 0; i < 4; i++) {
        int64_t row = at.i + i / 2, col = at.j + i % 2;
        bool inside = row < s->out[0] && col < s->out[1];
        from[i] = inside ? s->grad + ((at.n * s->out[0] + row) * s->out[1] + col) * s->f : NULL;
    }
    for (int64_t f = 0; f < s->f; f += VL) {
        int64_t n = min_of(VL, s->f - f);
        vf y[4], m[16];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) y[i] = from[i] ? get(from[i] + f, n) : (vf){0};
        output_adjoint(y, m);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) put(to + i * step + f, m[i], n);
    }
}

/* w (3, 3, c f) to u (16, c f), its taps in falling order where `turned`. */
static void transform_kernel(const float *w, int64_t size, bool turned, float *u)
{
#pragma omp parallel for schedule(static) if (size * 32 > PAR_MIN)
    for (int64_t b = 0; b < ceil_div(size, VL); b++) {
        int64_t at = b * VL, n = min_of(VL, size - at);
        vf g[9], v[16];
        for (int i = 0; i < 9; i++) g[i] = get(w + (turned ? 8 - i : i) * size + at, n);
        kernel_tile(g, v);
        for (int i = 0; i < 16; i++) put(u + i * size + at, v[i], n);
    }
}

static void transform_back(const float *u, int64_t size, float *w)
{
#pragma omp parallel for schedule(static) if (size * 32 > PAR_MIN)
    for (int64_t b = 0; b < ceil_div(size, VL); b++) {
        int64_t at = b * VL, n = min_of(VL, size - at);
        vf v[16], g[9];
        for (int i = 0; i < 16; i++) v[i] = get(u + i * size + at, n);
        kernel_adjoint(v, g);
        for (int i = 0; i < 9; i++) put(w + i * size + at, g[i], n);
    }
}

/* ---- conv2d and conv2d_transpose ----------------------------------------------------------------------------------------- */

/* The product of place p for `rows` tiles; the kernel's matrix is (c, f), or (f, c) and read across where `turned`. */
static void multiply(const struct tiles *s, const float *u, bool turned, int64_t rows, const float *v, float *m)
{
    struct gemm_args g = {.m = rows, .n = s->f, .k = s->c, .a = v, .a_row = s->c, .a_col = 1};
    g.b = u;
    g.b_row = turned ? 1 : s->f;
    g.b_col = turned ? s->c : 1;
    g.c = m;
    g.c_row = s->f;
    gemm_block(&g);
}

/* Few channels: a thread takes a block of tiles through all three steps in its second-level cache. */
enum { ROOM = 1 << 18, NEAR = 256 };
struct room {
    float x[ROOM];
} __attribute__((aligned(64)));

static bool stays_near(const struct tiles *s)
{
    return s->c + s->f <= NEAR;
}

static void run_near(const struct tiles *s, const float *u, bool turned)
{
    int64_t rows = min_of(ROOM / (PLACES * (s->c + s->f)), 128), blocks = ceil_div(s->count, rows);
#pragma omp parallel
    {
        struct room room;
        float *v = room.x, *m = v + PLACES * rows * s->c;
        gemm_enter_thread();
#pragma omp for schedule(dynamic)
        for (int64_t b = 0; b < blocks; b++) {
            int64_t first = b * rows, n = min_of(rows, s->count - first);
            for (int64_t t = 0; t < n; t++) read_tile(s, first + t, v + t * s->c, rows * s->c);
            for (int p = 0; p < PLACES; p++)
                multiply(s, u + p * s->c * s->f, turned, n, v + p * rows * s->c, m + p * rows * s->f);
            for (int64_t t = 0; t < n; t++) write_tile(s, first + t, m + t * s->f, rows * s->f);
        }
    }
}

/* Many channels: the threads take each step together for as many tiles as a few megabytes hold. */
static int64_t group_of(const struct tiles *s, int64_t floats)
{
    int64_t most = max_of(256, floats / (PLACES * (s->c + s->f)));
    return ceil_div(s->count, max_of(1, ceil_div(s->count, most)));
}
static int64_t far_group(const struct tiles *s)
{
    return group_of(s, 1 << 22);
}

static void run_far(const struct tiles *s, const float *u, bool turned, float *scratch)
{
    enum { ROWS = 256 };
    int64_t group = far_group(s), pieces = ceil_div(group, ROWS);
    float *v = scratch, *m = v + PLACES * group * s->c;
#pragma omp parallel
    {
        gemm_enter_thread();
        for (int64_t first = 0; first < s->count; first += group) {
            int64_t n = min_of(group, s->count - first);
#pragma omp for schedule(static)
            for (int64_t t = 0; t < n; t++) read_tile(s, first + t, v + t * s->c, group * s->c);
#pragma omp for schedule(dynamic)
            for (int64_t i = 0; i < PLACES * pieces; i++) {
                int64_t p = i / pieces, r = i % pieces * ROWS, rows = min_of(ROWS, n - r);
                if (rows > 0)
                    multiply(s, u + p * s->c * s->f, turned, rows, v + (p * group + r) * s->c,
                             m + (p * group + r) * s->f);
            }
#pragma omp for schedule(static)
            for (int64_t t = 0; t < n; t++) write_tile(s, first + t, m + t * s->f, group * s->f);
        }
    }
}

/* ---- conv2d_dw ----------------------------------------------------------------------------------------------------------- */

static int64_t dw_group(const struct tiles *s)
{
    return group_of(s, 1 << 21);
}

static void run_dw(const struct tiles *s, float *u, float *scratch)
{
    enum { ROWS = 256 };
    int64_t group = dw_group(s), pieces = ceil_div(s->c, ROWS);
    float *v = scratch, *e = v + PLACES * group * s->c;
#pragma omp parallel
    {
        gemm_enter_thread();
        for (int64_t first = 0; first < s->count; first += group) {
            int64_t n = min_of(group, s->count - first);
#pragma omp for schedule(static)
            for (int64_t t = 0; t < n; t++) {
                read_tile(s, first + t, v + t * s->c, group * s->c);
                read_grad(s, first + t, e + t * s->f, group * s->f);
            }
#pragma omp for schedule(dynamic)
            for (int64_t i = 0; i < PLACES * pieces; i++) {
                int64_t p = i / pieces, r = i % pieces * ROWS;
                struct gemm_args g = {.m = min_of(ROWS, s->c - r), .n = s->f, .k = n, .a = v + p * group * s->c + r};
                g.a_row = 1;
                g.a_col = s->c;
                g.b = e + p * group * s->f;
                g.b_row = s->f;
                g.b_col = 1;
                g.c = u + (p * s->c + r) * s->f;
                g.c_row = s->f;
                g.add = first > 0;
                gemm_block(&g);
            }
        }
    }
}

/* ---- which --------------------------------------------------------------------------------------------------------------- */

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
        s.grid[i] = ceil_div(s.out[i], 2);
    }
    s.count = s.n * s.grid[0] * s.grid[1];
    s.in = turned ? k->y->data : k->x->data;
    s.result = turned ? k->x->data : k->y->data;
    s.grad = k->y->data;
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
    return (PLACES * s->c * s->f + LINE - 1) / LINE * LINE;
}

size_t winograd_scratch(const struct ad_call *c)
{
    struct conv_call k;
    struct tiles s = tiles_of(c, &k);
    int64_t floats = kernel_floats(&s);
    if (c->op == &ad_op_conv2d_dw)
        floats += PLACES * dw_group(&s) * (s.c + s.f);
    else if (!stays_near(&s))
        floats += PLACES * far_group(&s) * (s.c + s.f);
    return (size_t)floats * sizeof(float);
}

void winograd_run(const struct ad_call *c)
{
    struct conv_call k;
    struct tiles s = tiles_of(c, &k);
    float *u = c->scratch, *rest = u + kernel_floats(&s);
    bool turned = c->op == &ad_op_conv2d_transpose;
    if (c->op == &ad_op_conv2d_dw) {
        run_dw(&s, u, rest);
        transform_back(u, s.c * s.f, k.w->data);
        return;
    }
    transform_kernel(k.w->data, s.c * s.f, turned, u);
    if (stays_near(&s))
        run_near(&s, u, turned);
    else
        run_far(&s, u, turned, rest);
}
