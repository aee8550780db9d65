/* Fourier transforms in f32 by KissFFT, rows over threads. Even lengths; others take the plain sums. */
#include <kiss_fftr.h>
#include <omp.h>
#include <string.h>

#include "autograd/op.h"
#include "base/isa.h"
#include "base/threads.h"

extern const struct ad_op ad_op_rfft, ad_op_rfft_adjoint;

static int64_t last(const struct ad_shape *s)
{
    return s->dim[s->rank - 1];
}

static bool forward_accepts(const struct ad_call *c)
{
    return last(&c->in[0].shape) % 2 == 0;
}
static bool backward_accepts(const struct ad_call *c)
{
    return last(&c->out[0].shape) % 2 == 0;
}

/* The plan's tables lie in the scratch; the transform itself works in a buffer inside of them, so each thread has its
 * own. */
static size_t table_bytes(int64_t n, int inverse)
{
    size_t bytes = 0;
    kiss_fftr_alloc((int)n, inverse, NULL, &bytes);
    return (bytes + 63) / 64 * 64;
}
static size_t forward_scratch(const struct ad_call *c)
{
    return (size_t)threads_count() * table_bytes(last(&c->in[0].shape), 0);
}
static size_t backward_scratch(const struct ad_call *c)
{
    int64_t n = last(&c->out[0].shape);
    return (size_t)threads_count() * (table_bytes(n, 1) + (size_t)(n + 64) * sizeof(kiss_fft_cpx));
}

static void run_forward(const struct ad_call *c)
{
    int64_t n = last(&c->in[0].shape), rows = n ? ad_count(c->in[0].shape) / n : 0, m = n / 2 + 1;
    size_t bytes = table_bytes(n, 0);
    int team = (int)(forward_scratch(c) / bytes);
#pragma omp parallel num_threads(team) if (rows * n > PAR_MIN)
    {
        size_t room = bytes;
        kiss_fftr_cfg cfg =
            kiss_fftr_alloc((int)n, 0, (char *)c->scratch + (size_t)omp_get_thread_num() * bytes, &room);
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++)
            kiss_fftr(cfg, (const float *)c->in[0].data + r * n, (kiss_fft_cpx *)c->out[0].data + r * m);
    }
}

/* x_t = sum_k re_k cos - im_k sin over the half spectrum: an inverse transform (unscaled, inner bins counted twice) of
 * the spectrum whose inner bins are halved. Its first and last imaginary parts have no effect, as in the definition. */
static void run_backward(const struct ad_call *c)
{
    int64_t n = last(&c->out[0].shape), rows = n ? ad_count(c->out[0].shape) / n : 0, m = n / 2 + 1;
    size_t table = table_bytes(n, 1), bytes = table + (size_t)(n + 64) * sizeof(kiss_fft_cpx);
    int team = (int)(backward_scratch(c) / bytes);
#pragma omp parallel num_threads(team) if (rows * n > PAR_MIN)
    {
        char *own = (char *)c->scratch + (size_t)omp_get_thread_num() * bytes;
        size_t room = table;
        kiss_fftr_cfg cfg = kiss_fftr_alloc((int)n, 1, own, &room);
        kiss_fft_cpx *half = (kiss_fft_cpx *)(void *)(own + table);
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++) {
            const kiss_fft_cpx *y = (const kiss_fft_cpx *)c->in[0].data + r * m;
            for (int64_t k = 0; k < m; k++) {
                float f = k == 0 || 2 * k == n ? 1.0f : 0.5f;
                half[k] = (kiss_fft_cpx){y[k].r * f, k == 0 || 2 * k == n ? 0 : y[k].i * f};
            }
            kiss_fftri(cfg, half, (float *)c->out[0].data + r * n);
        }
    }
}

const struct ad_kernel ISA_FN(ad_kernels_fft)[] = {
    {.op = &ad_op_rfft,
     .dtype = AD_F32,
     .accepts = forward_accepts,
     .run = run_forward,
     .scratch = forward_scratch,
     .name = "kissfft"},
    {.op = &ad_op_rfft_adjoint,
     .dtype = AD_F32,
     .accepts = backward_accepts,
     .run = run_backward,
     .scratch = backward_scratch,
     .name = "kissfft"},
    {0},
};
