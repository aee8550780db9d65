/* The limits of the machine. See peak.h. */
#pragma GCC optimize("O3")
#include "bench/peak.h"

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

#include "base/mem.h"
#include "base/threads.h"

/* Twelve independent chains of multiply-adds: enough to hide their latency (4 cycles of 2 units on x86), few enough for
 * 16 registers. Written out one by one, since the compiler keeps an array of them in memory. */
#define TWELVE(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define BEGIN(k) x##k = f + (float)(k),
#define STEP(k) x##k = x##k * f + f;
#define ADD(k) +x##k
#define CHAINS(name, target_, bytes)                                             \
    typedef float name##_vec __attribute__((vector_size(bytes)));                \
    target_ __attribute__((noinline)) static float name(int64_t n, float factor) \
    {                                                                            \
        name##_vec f = (name##_vec){0} + factor, TWELVE(BEGIN) sum;              \
        for (int64_t i = 0; i < n; i++) {                                        \
            TWELVE(STEP)                                                         \
        }                                                                        \
        sum = TWELVE(ADD);                                                       \
        return sum[0];                                                           \
    }                                                                            \
    static const double name##_work = 2.0 * 12 * ((bytes) / 4);

#if defined __x86_64__
CHAINS(fma_avx512, __attribute__((target("avx512f"))), 64)
CHAINS(fma_avx2, __attribute__((target("avx2,fma"))), 32)
#endif
CHAINS(fma_portable, , 16)

struct unit {
    const char *isa;
    float (*run)(int64_t n, float factor);
    double work; /* operations a round */
};

static int units(struct unit u[3])
{
    int n = 0;
#if defined __x86_64__
    if (__builtin_cpu_supports("avx512f")) u[n++] = (struct unit){"AVX-512", fma_avx512, fma_avx512_work};
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        u[n++] = (struct unit){"AVX2", fma_avx2, fma_avx2_work};
#endif
    u[n++] = (struct unit){"the compiler's own", fma_portable, fma_portable_work};
    return n;
}

static volatile float sink; /* keeps the results wanted */

static double seconds_of(const struct unit *u, int64_t n, int threads)
{
    double start = 0;
#pragma omp parallel num_threads(threads)
    {
#pragma omp barrier
#pragma omp master
        start = time_now();
        float y = u->run(n, 0.5f);
#pragma omp critical
        sink = y;
    }
    return time_now() - start;
}

/* The best of several short runs: other work on the machine can only make it slower. */
static double best_rate(const struct unit *u, int threads, double seconds)
{
    int64_t n = 40000;
    double best = INFINITY, end = time_now() + seconds;
    do {
        double s = seconds_of(u, n, threads);
        if (s < best) best = s;
        if (s < 1e-3) n *= 2, best = INFINITY;
    } while (time_now() < end || isinf(best));
    return threads * u->work * (double)n / best;
}

enum { TRIES = 8 };

struct bench_peak bench_peak_flops(void)
{
    struct bench_peak p = {.threads = threads_count()};
    struct unit u[3];
    int n = units(u), top = 0;
    for (int i = 0; i < n; i++) {
        double rate = best_rate(&u[i], 1, 0.02);
        /* A wider unit counts as better only beyond the noise, so that the name is the same from run to run. */
        if (rate > 1.05 * p.flops_1 || i == 0) top = i;
        if (rate > p.flops_1) p.flops_1 = rate;
    }
    p.isa = u[top].isa;
    if (p.threads == 1) p.flops = p.flops_1;
    /* Where all threads are far from what one reaches so often, other work had some of their cores: a few tries more. */
    for (int i = 0; i < TRIES && p.flops < 0.9 * p.threads * p.flops_1; i++)
        p.flops = fmax(p.flops, best_rate(&u[top], p.threads, 0.15));
    return p;
}

double bench_peak_again(const struct bench_peak *p, double seconds)
{
    struct unit u[3];
    int n = units(u), top = 0;
    for (int i = 0; i < n; i++)
        if (!strcmp(u[i].isa, p->isa)) top = i;
    return best_rate(&u[top], p->threads, seconds);
}

enum { COUNT = 12 << 20 }; /* floats an array: 48 MB */

static void copy_all(float *to, const float *from, int threads)
{
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int t = 0; t < threads; t++) {
        int64_t a = (int64_t)COUNT * t / threads, b = (int64_t)COUNT * (t + 1) / threads;
        memcpy(to + a, from + a, (size_t)(b - a) * sizeof *to);
    }
}

static void triad_all(float *restrict c, const float *restrict a, const float *restrict b, float x, int threads)
{
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < COUNT; i++) c[i] = a[i] + x * b[i];
}

static void update_all(float *restrict b, const float *restrict a, float x, int threads)
{
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < COUNT; i++) b[i] += x * a[i];
}

int bench_peak_memory(struct bench_peak *p, struct err *e)
{
    size_t bytes = (size_t)COUNT * sizeof(float);
    float *block = mem_block(3 * bytes, "arrays to measure the memory's speed", e);
    if (!block) return ERR_MEMORY;
    float *a = block, *b = block + COUNT, *c = b + COUNT;
    double copy = INFINITY, triad = INFINITY, update = INFINITY;
    for (int i = 0; i < 6; i++) {
        double t0 = time_now();
        copy_all(b, a, p->threads);
        double t1 = time_now();
        triad_all(c, a, b, 0.5f, p->threads);
        double t2 = time_now();
        update_all(b, a, 0.5f, p->threads);
        double t3 = time_now();
        copy = fmin(copy, t1 - t0);
        triad = fmin(triad, t2 - t1);
        update = fmin(update, t3 - t2);
    }
    sink = c[COUNT / 2];
    mem_block_free(block, 3 * bytes);
    p->copy = 2 * (double)bytes / copy;
    p->triad = 3 * (double)bytes / triad;
    p->update = 3 * (double)bytes / update;
    return 0;
}

double bench_bandwidth(const struct bench_peak *p)
{
    return fmax(p->update, fmax(p->copy, p->triad));
}
