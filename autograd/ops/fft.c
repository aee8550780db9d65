/* Discrete Fourier transforms of real rows. The transform and its adjoint are each other's derivative. */
#include <math.h>
#include <stdlib.h>

#include "autograd/op.h"
#include "autograd/ops/ops.h"
#include "base/mem.h"

extern const struct ad_op ad_op_rfft, ad_op_rfft_adjoint;

/* ---- rfft: y_k = sum_t x_t e^(-2 pi i k t / N), k = 0 .. N/2; x (..., N) -> (..., N/2+1, 2): real, imaginary */
static int rfft_infer(struct ad_infer *f)
{
    char t[96];
    struct ad_shape s = f->in_shape[0];
    if (s.rank < 1 || s.rank >= AD_MAX_DIMS || s.dim[s.rank - 1] < 1)
        return ad_infer_fail(f, "the input must be (..., N) with N >= 1, not %s", ad_shape_text(t, s));
    s.dim[s.rank - 1] = s.dim[s.rank - 1] / 2 + 1;
    s.dim[s.rank++] = 2;
    f->shape[0] = s;
    return 0;
}

static double angle(int64_t k, int64_t t, int64_t n)
{
    return 2 * M_PI * (double)(k * t % n) / (double)n;
}

static void rfft_eval(const struct ad_call *c)
{
    int64_t n = c->in[0].shape.dim[c->in[0].shape.rank - 1], m = n / 2 + 1, rows = ad_count(c->in[0].shape) / n;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < m; k++) {
            double re = 0, im = 0;
            for (int64_t t = 0; t < n; t++) {
                re += ad_get(&c->in[0], r * n + t) * cos(angle(k, t, n));
                im -= ad_get(&c->in[0], r * n + t) * sin(angle(k, t, n));
            }
            ad_set(&c->out[0], 2 * (r * m + k), re);
            ad_set(&c->out[0], 2 * (r * m + k) + 1, im);
        }
}

struct length_attr {
    int64_t n;
};

static void rfft_vjp(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    struct length_attr a = {ad_dim(g, n->in[0], -1)};
    if (dy[0]) dx[0] = AD_NODE(g, &ad_op_rfft_adjoint, &a, dy[0]);
}

static double rfft_flops(const struct ad_call *c)
{
    double n = (double)c->in[0].shape.dim[c->in[0].shape.rank - 1];
    return 2.5 * (double)ad_count(c->in[0].shape) * log2(n > 1 ? n : 2);
}

static int case_rfft(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_rfft(g, in[0]);
    return 1;
}
static int case_irfft_even(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_irfft(g, in[0], 6);
    return 1;
}
static int case_irfft_odd(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_irfft(g, in[0], 7);
    return 1;
}
static int case_stft(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_stft(g, in[0], in[1], 3);
    return 1;
}
static const struct ad_case rfft_cases[] = {{.in = "2x8", .build = case_rfft},
                                            {.in = "3x7", .build = case_rfft},
                                            {.in = "1", .build = case_rfft},
                                            {.in = "2x13 5", .build = case_stft}};

const struct ad_op ad_op_rfft = {
    .name = "rfft",
    .min_in = 1,
    .max_in = 1,
    .infer = rfft_infer,
    .eval = rfft_eval,
    .vjp = rfft_vjp,
    .flops = rfft_flops,
    AD_CASES(rfft_cases),
};

val ad_rfft(struct ad_graph *g, val x)
{
    return AD_NODE(g, &ad_op_rfft, NULL, x);
}

/* ---- rfft_adjoint: x_t = sum_k re_k cos(2 pi k t / N) - im_k sin(2 pi k t / N); (..., N/2+1, 2) -> (..., N) */
static int adjoint_infer(struct ad_infer *f)
{
    char t[96];
    int64_t n = ((const struct length_attr *)f->attr)->n;
    struct ad_shape s = f->in_shape[0];
    if (s.rank < 2 || n < 1 || s.dim[s.rank - 1] != 2 || s.dim[s.rank - 2] != n / 2 + 1)
        return ad_infer_fail(f, "the input must be (..., %lld, 2) for a length of %lld, not %s", (long long)(n / 2 + 1),
                             (long long)n, ad_shape_text(t, s));
    s.dim[--s.rank - 1] = n;
    f->shape[0] = s;
    return 0;
}

static void adjoint_eval(const struct ad_call *c)
{
    int64_t n = ((const struct length_attr *)c->attr)->n, m = n / 2 + 1, rows = ad_count(c->out[0].shape) / n;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t t = 0; t < n; t++) {
            double x = 0;
            for (int64_t k = 0; k < m; k++)
                x += ad_get(&c->in[0], 2 * (r * m + k)) * cos(angle(k, t, n)) -
                     ad_get(&c->in[0], 2 * (r * m + k) + 1) * sin(angle(k, t, n));
            ad_set(&c->out[0], r * n + t, x);
        }
}

static void adjoint_vjp(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    if (dy[0]) dx[0] = ad_rfft(g, dy[0]);
}

static const struct ad_case adjoint_cases[] = {{.in = "2x4x2", .build = case_irfft_even},
                                               {.in = "4x2", .build = case_irfft_odd}};

const struct ad_op ad_op_rfft_adjoint = {
    .name = "rfft_adjoint",
    .attr_size = sizeof(struct length_attr),
    .min_in = 1,
    .max_in = 1,
    .infer = adjoint_infer,
    .eval = adjoint_eval,
    .vjp = adjoint_vjp,
    AD_CASES(adjoint_cases),
};

/* ---- irfft: the inverse, from the half spectrum: inner bins count twice */
val ad_irfft(struct ad_graph *g, val x, int64_t n)
{
    if (n < 1 || ad_rank(g, x) < 2 || ad_dim(g, x, -2) != n / 2 + 1)
        return ad_fail(g, "irfft: the input must be (..., %lld, 2) for a length of %lld", (long long)(n / 2 + 1),
                       (long long)n);
    int64_t m = n / 2 + 1;
    double *w = mem_alloc((size_t)m * sizeof *w);
    for (int64_t k = 0; k < m; k++) w[k] = (k == 0 || 2 * k == n ? 1.0 : 2.0) / (double)n;
    val weight = ad_cast(g, ad_const_data(g, AD_F64, SHAPE(m, 1), w), ad_dtype_of(g, x));
    free(w);
    struct length_attr a = {n};
    return AD_NODE(g, &ad_op_rfft_adjoint, &a, ad_mul(g, x, weight));
}

/* ---- stft: frames by gather, window, rfft */
val ad_stft(struct ad_graph *g, val x, val window, int64_t hop)
{
    if (ad_rank(g, x) != 2 || ad_rank(g, window) != 1 || hop < 1 || ad_dim(g, x, 1) < ad_dim(g, window, 0))
        return ad_fail(g, "stft: x must be (B, L), the window (n_fft) with n_fft <= L, and the hop at least 1");
    int64_t b = ad_dim(g, x, 0), l = ad_dim(g, x, 1), n = ad_dim(g, window, 0), frames = 1 + (l - n) / hop;
    int64_t *at = mem_alloc((size_t)(b * frames * n) * sizeof *at);
    for (int64_t i = 0; i < b * frames * n; i++) at[i] = i / (frames * n) * l + i / n % frames * hop + i % n;
    val index = ad_const_data(g, AD_I64, SHAPE(b, frames, n), at);
    free(at);
    return ad_rfft(g, ad_mul(g, ad_gather(g, ad_reshape(g, x, SHAPE(b * l)), index), window));
}
