/* Depthwise convolution (one channel a group) in f32: no products, only vectors over the channels, 32 at a time in
 * registers. One loop serves conv2d and conv2d_transpose, since both list, for a position, the rows that it reads and
 * through which taps. conv2d_dw sums fixed ranges of rows and then the ranges in order. */
#pragma GCC optimize("O3")
#include "autograd/ops/conv.h"

#include <string.h>

#include "autograd/kernels/vmath.h"
#include "base/isa.h"
#include "base/threads.h"

enum { MAX_TAPS = 32, PARTS = 16 };

/* The taps of one axis that reach inside the source, and which row of it they read. */
struct reach {
    int64_t n, tap[MAX_TAPS], row[MAX_TAPS];
};

/* Forward: position i of y reads x at i s - p + u d. */
static struct reach reach_forward(const struct conv_dims *d, int axis, int64_t i)
{
    struct reach r = {.n = 0};
    for (int64_t u = 0; u < d->k[axis]; u++) {
        int64_t at = i * d->stride[axis] - d->pad[axis] + u * d->dilation[axis];
        if (at < 0 || at >= d->h[axis]) continue;
        r.tap[r.n] = u;
        r.row[r.n++] = at;
    }
    return r;
}

/* Backward: position i of x reads y at (i + p - u d) / s where that is whole. */
static struct reach reach_backward(const struct conv_dims *d, int axis, int64_t i)
{
    struct reach r = {.n = 0};
    for (int64_t u = 0; u < d->k[axis]; u++) {
        int64_t at = i + d->pad[axis] - u * d->dilation[axis];
        if (at < 0 || at % d->stride[axis] || at / d->stride[axis] >= d->out[axis]) continue;
        r.tap[r.n] = u;
        r.row[r.n++] = at / d->stride[axis];
    }
    return r;
}

/* Channels c .. c + 8 V - 1 of one pixel: to[c] = sum over taps of src[row, col, c] w[u, v, c]. */
#define PIXEL_FN(V)                                                                                     \
    static void pixel##V(const struct reach *h, const struct reach *v, const float *src, int64_t src_w, \
                         const float *w, int64_t kw, int64_t n, int64_t c, float *to)                   \
    {                                                                                                   \
        v8 acc[V] = {{0}};                                                                              \
        for (int64_t a = 0; a < h->n; a++)                                                              \
            for (int64_t b = 0; b < v->n; b++) {                                                        \
                const float *x = src + (h->row[a] * src_w + v->row[b]) * n + c;                         \
                const float *k = w + (h->tap[a] * kw + v->tap[b]) * n + c;                              \
                for (int u = 0; u < V; u++) acc[u] += v8_load(x + 8 * u) * v8_load(k + 8 * u);          \
            }                                                                                           \
        for (int u = 0; u < V; u++) v8_store(to + c + 8 * u, acc[u]);                                   \
    }
PIXEL_FN(1)
PIXEL_FN(4)

static void pixel(const struct reach *h, const struct reach *v, const float *src, int64_t src_w, const float *w,
                  int64_t kw, int64_t n, float *to)
{
    int64_t c = 0;
    for (; c + 32 <= n; c += 32) pixel4(h, v, src, src_w, w, kw, n, c, to);
    for (; c + 8 <= n; c += 8) pixel1(h, v, src, src_w, w, kw, n, c, to);
    for (; c < n; c++) {
        float sum = 0;
        for (int64_t a = 0; a < h->n; a++)
            for (int64_t b = 0; b < v->n; b++)
                sum += src[(h->row[a] * src_w + v->row[b]) * n + c] * w[(h->tap[a] * kw + v->tap[b]) * n + c];
        to[c] = sum;
    }
}

static void run_pixels(const struct ad_call *c)
{
    struct conv_call k = conv_call_of(c);
    const struct conv_dims *d = &k.d;
    bool back = c->op == &ad_op_conv2d_transpose;
    struct reach (*reach)(const struct conv_dims *, int, int64_t) = back ? reach_backward : reach_forward;
    const int64_t *from = back ? d->out : d->h, *size = back ? d->h : d->out;
    const float *src = back ? k.y->data : k.x->data, *w = k.w->data;
    float *to = back ? k.x->data : k.y->data;
#pragma omp parallel for schedule(static) if (d->n * size[0] * size[1] * d->c * d->k[0] * d->k[1] > PAR_MIN)
    for (int64_t r = 0; r < d->n * size[0]; r++) {
        struct reach h = reach(d, 0, r % size[0]);
        const float *image = src + r / size[0] * from[0] * from[1] * d->c;
        for (int64_t j = 0; j < size[1]; j++) {
            struct reach v = reach(d, 1, j);
            pixel(&h, &v, image, from[1], w, d->k[1], d->c, to + (r * size[1] + j) * d->c);
        }
    }
}

/* w[c] += sum over j of x[j, c] y[j, c], the rows of x `step` apart. */
static void row_products(int64_t rows, const float *x, int64_t step, const float *y, int64_t n, float *w)
{
    int64_t c = 0;
    for (; c + 32 <= n; c += 32) {
        v8 acc[4];
        for (int u = 0; u < 4; u++) acc[u] = v8_load(w + c + 8 * u);
        for (int64_t j = 0; j < rows; j++)
            for (int u = 0; u < 4; u++) acc[u] += v8_load(x + j * step + c + 8 * u) * v8_load(y + j * n + c + 8 * u);
        for (int u = 0; u < 4; u++) v8_store(w + c + 8 * u, acc[u]);
    }
    for (; c < n; c++)
        for (int64_t j = 0; j < rows; j++) w[c] += x[j * step + c] * y[j * n + c];
}

/* Row i of one image: adds to every tap. */
static void dw_row(const struct conv_dims *d, const float *x, const float *y, int64_t i, float *w)
{
    struct reach h = reach_forward(d, 0, i);
    for (int64_t a = 0; a < h.n; a++)
        for (int64_t v = 0; v < d->k[1]; v++) {
            int64_t shift = v * d->dilation[1] - d->pad[1], s = d->stride[1]; /* column j s + shift of x */
            int64_t lo = shift < 0 ? (-shift + s - 1) / s : 0, hi = d->h[1] - 1 - shift;
            hi = hi < 0 ? 0 : hi / s + 1;
            if (hi > d->out[1]) hi = d->out[1];
            if (lo >= hi) continue;
            row_products(hi - lo, x + (h.row[a] * d->h[1] + lo * s + shift) * d->c, s * d->c,
                         y + (i * d->out[1] + lo) * d->c, d->c, w + (h.tap[a] * d->k[1] + v) * d->c);
        }
}

static void run_dw(const struct ad_call *c)
{
    struct conv_call k = conv_call_of(c);
    const struct conv_dims *d = &k.d;
    int64_t rows = d->n * d->out[0], per = (rows + PARTS - 1) / PARTS, size = ad_count(k.w->shape);
    const float *x = k.x->data, *y = k.y->data;
    float *sums = c->scratch, *w = k.w->data;
#pragma omp parallel if (rows * d->out[1] * size > PAR_MIN)
    {
#pragma omp for schedule(dynamic)
        for (int64_t p = 0; p < PARTS; p++) {
            memset(sums + p * size, 0, (size_t)size * sizeof *sums);
            for (int64_t r = p * per; r < (p + 1) * per && r < rows; r++)
                dw_row(d, x + r / d->out[0] * d->h[0] * d->h[1] * d->c,
                       y + r / d->out[0] * d->out[0] * d->out[1] * d->c, r % d->out[0], sums + p * size);
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < size; i++) {
            float sum = sums[i];
            for (int64_t p = 1; p < PARTS; p++) sum += sums[p * size + i];
            w[i] = sum;
        }
    }
}

static size_t scratch_dw(const struct ad_call *c)
{
    return (size_t)(PARTS * ad_count(c->out[0].shape)) * sizeof(float);
}

static bool accepts(const struct ad_call *c)
{
    struct conv_dims d = conv_call_of(c).d;
    return d.cg == 1 && d.fg == 1 && d.k[0] <= MAX_TAPS && d.k[1] <= MAX_TAPS;
}

static size_t none(const struct ad_call *c)
{
    return 0;
}

const struct ad_kernel ISA_FN(ad_kernels_depthwise)[] = {
    {&ad_op_conv2d, AD_F32, accepts, run_pixels, none, "depthwise"},
    {&ad_op_conv2d_transpose, AD_F32, accepts, run_pixels, none, "depthwise"},
    {&ad_op_conv2d_dw, AD_F32, accepts, run_dw, scratch_dw, "depthwise"},
    {0},
};
