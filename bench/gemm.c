/* triad's gemm() beside the BLAS it is linked with, and beside oneDNN where its library is installed. See measure.h. */
#include <cblas.h>
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/kernels/gemm.h"
#include "base/rng.h"
#include "base/threads.h"
#include "bench/measure.h"

/* A linear layer's three products: Y = X W, dX = dY W', dW = X' dY; X (rows, in), W (in, out). */
static const struct layer {
    const char *name;
    int64_t rows, in, out;
} layers[] = {
    {"vit_s16 qkv", 3152, 384, 1152},      {"vit_s16 out", 3152, 384, 384},        {"vit_s16 mlp up", 3152, 384, 1536},
    {"vit_s16 mlp down", 3152, 1536, 384}, {"gpt mlp up", 2048, 512, 2048},        {"gpt tokens", 2048, 512, 16384},
    {"clip_small qkv", 4160, 256, 768},    {"clip_small text up", 800, 256, 1024}, {"clip_b32 mlp up", 800, 768, 3072},
    {"clip_b32 text qkv", 200, 512, 1536}, {"wav2vec2 mlp down", 796, 3072, 768},  {"resnet50 1x1 56", 50176, 64, 256},
    {"resnet50 1x1 7", 784, 2048, 512},
};
static const int64_t cubes[] = {64, 96, 128, 192, 256, 384, 512, 768, 1024};
static const struct odd {
    int64_t m, n, k;
} odds[] = {{197, 197, 64}, {77, 77, 64}, {16, 1000, 384}, {101, 131, 997}, {1, 4096, 1024}, {333, 17, 2049}};

struct product {
    char name[64];
    int64_t m, n, k;
    bool ta, tb; /* A is stored (K, M), B is stored (N, K) */
};

enum {
    N_LAYERS = sizeof layers / sizeof *layers,
    N_CUBES = sizeof cubes / sizeof *cubes,
    N_ODDS = sizeof odds / sizeof *odds,
    N_PRODUCTS = 3 * N_LAYERS + N_CUBES + N_ODDS
};

static int list(struct product p[N_PRODUCTS])
{
    int n = 0;
    for (int i = 0; i < N_LAYERS; i++) {
        const struct layer *l = &layers[i];
        struct product forth = {.m = l->rows, .n = l->out, .k = l->in}, dx = {.m = l->rows, .n = l->in, .k = l->out},
                       dw = {.m = l->in, .n = l->out, .k = l->rows};
        dx.tb = true;
        dw.ta = true;
        snprintf(forth.name, sizeof forth.name, "%s", l->name);
        snprintf(dx.name, sizeof dx.name, "%s dX", l->name);
        snprintf(dw.name, sizeof dw.name, "%s dW", l->name);
        p[n++] = forth;
        p[n++] = dx;
        p[n++] = dw;
    }
    for (int i = 0; i < N_CUBES; i++) {
        p[n] = (struct product){.m = cubes[i], .n = cubes[i], .k = cubes[i]};
        snprintf(p[n++].name, sizeof p->name, "cube %lld", (long long)cubes[i]);
    }
    for (int i = 0; i < N_ODDS; i++) {
        p[n] = (struct product){.m = odds[i].m, .n = odds[i].n, .k = odds[i].k};
        snprintf(p[n++].name, sizeof p->name, "odd");
    }
    return n;
}

struct work {
    const struct product *p;
    float *a, *b, *c, *d; /* c: triad's, d: the others' */
    void *scratch;
    int threads;
};

/* dnnl_sgemm of oneDNN 2 and 3 (row-major), found at run time: nothing else of triad needs it. */
typedef int (*dnnl_sgemm_fn)(char ta, char tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                             int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);
static dnnl_sgemm_fn dnnl_sgemm;

static void find_dnnl(void)
{
    static const char *const names[] = {"libdnnl.so.3", "libdnnl.so.2"};
    for (int i = 0; i < 2 && !dnnl_sgemm; i++) {
        void *lib = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
        if (lib) *(void **)&dnnl_sgemm = dlsym(lib, "dnnl_sgemm");
    }
}

static void run_dnnl(const struct work *w)
{
    const struct product *p = w->p;
    dnnl_sgemm(p->ta ? 'T' : 'N', p->tb ? 'T' : 'N', p->m, p->n, p->k, 1, w->a, p->ta ? p->m : p->k, w->b,
               p->tb ? p->k : p->n, 0, w->d, p->n);
}

static void run_triad(const struct work *w)
{
    const struct product *p = w->p;
    struct gemm_args g = {.m = p->m, .n = p->n, .k = p->k, .a = w->a, .b = w->b, .c = w->c, .c_row = p->n};
    g.a_row = p->ta ? 1 : p->k;
    g.a_col = p->ta ? p->m : 1;
    g.b_row = p->tb ? 1 : p->n;
    g.b_col = p->tb ? p->k : 1;
    gemm(&g, w->scratch);
}

static void run_blas(const struct work *w)
{
    const struct product *p = w->p;
    cblas_sgemm(CblasRowMajor, p->ta ? CblasTrans : CblasNoTrans, p->tb ? CblasTrans : CblasNoTrans, (int)p->m,
                (int)p->n, (int)p->k, 1, w->a, (int)(p->ta ? p->m : p->k), w->b, (int)(p->tb ? p->k : p->n), 0, w->d,
                (int)p->n);
}

extern void openblas_set_num_threads(int n);

enum contestant { TRIAD, BLAS, DNNL, CONTESTANTS };

/* Seconds of one of `repeat` calls; the BLAS has its own threads only while it is the one that is timed. */
static double time_one(const struct work *w, enum contestant who, int repeat)
{
    static void (*const run[])(const struct work *) = {run_triad, run_blas, run_dnnl};
    if (who == BLAS)
        openblas_set_num_threads(w->threads);
    else
        threads_init(w->threads);
    double start = time_now();
    for (int i = 0; i < repeat; i++) run[who](w);
    double s = (time_now() - start) / repeat;
    threads_init(w->threads);
    return s;
}

/* Sums in another order differ by rounding alone: K terms of size about 1. */
static int compare(const struct work *w, struct err *e)
{
    const struct product *p = w->p;
    double most = 0, allowed = 1e-5 * (4 + sqrt((double)p->k));
    for (int64_t i = 0; i < p->m * p->n; i++) most = fmax(most, fabs((double)w->c[i] - (double)w->d[i]));
    if (most <= allowed) return 0;
    return err_set(e, ERR_STATE, "%s (%lld x %lld x %lld): gemm() and the BLAS differ by %g, more than %g", p->name,
                   (long long)p->m, (long long)p->n, (long long)p->k, most, allowed);
}

enum { MOST_ROUNDS = 201 };

static int time_product(const struct work *w, double seconds, const struct bench_peak *machine, struct err *e)
{
    const struct product *p = w->p;
    double x[CONTESTANTS][MOST_ROUNDS], ratio[CONTESTANTS][MOST_ROUNDS],
        flops = 2.0 * (double)p->m * (double)p->n * (double)p->k;
    int repeat = 1, n = 0, count = dnnl_sgemm ? CONTESTANTS : DNNL, rc = 0;
    time_one(w, TRIAD, 1);
    for (int i = BLAS; i < count && !rc; i++) {
        time_one(w, (enum contestant)i, 1);
        rc = compare(w, e);
    }
    if (rc) return rc;
    while (repeat < 4096 && time_one(w, TRIAD, repeat) * repeat < 2e-3) repeat *= 2;
    double peak = 0; /* the best while this product is timed: clocks change with load and time */
    for (double end = time_now() + seconds; n < MOST_ROUNDS && (n < (seconds > 0 ? 5 : 1) || time_now() < end); n++) {
        for (int i = 0; i < count; i++) {
            int who = (n + i) % count;
            x[who][n] = time_one(w, (enum contestant)who, repeat);
        }
        peak = fmax(peak, bench_peak_again(machine, 0));
        for (int i = BLAS; i < count; i++) ratio[i][n] = x[i][n] / x[TRIAD][n];
    }
    double triad = bench_median(x[TRIAD], n);
    printf("{\"name\": \"%s\", \"m\": %lld, \"n\": %lld, \"k\": %lld, \"gflops\": %.1f, \"share\": %.3f, "
           "\"best_share\": %.3f, \"blas_gflops\": %.1f, \"ratio\": %.3f, ",
           p->name, (long long)p->m, (long long)p->n, (long long)p->k, 1e-9 * flops / triad, flops / triad / peak,
           flops / x[TRIAD][0] / peak, 1e-9 * flops / bench_median(x[BLAS], n), bench_median(ratio[BLAS], n));
    if (dnnl_sgemm)
        printf("\"dnnl_gflops\": %.1f, \"dnnl_ratio\": %.3f, ", 1e-9 * flops / bench_median(x[DNNL], n),
               bench_median(ratio[DNNL], n));
    printf("\"peak_gflops\": %.1f, \"rounds\": %d, \"threads\": %d}\n", 1e-9 * peak, n, w->threads);
    fflush(stdout);
    return 0;
}

static void fill(float *x, int64_t n, const char *stream)
{
    struct rng r = rng_make(1, hash_str(stream), 0);
    for (int64_t i = 0; i < n; i++) x[i] = (float)rng_range(&r, -1, 1);
}

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

int bench_gemm(const char *part, double seconds, struct err *e)
{
    struct product p[N_PRODUCTS];
    int n = 0;
    find_dnnl();
    for (int i = 0, all = list(p); i < all; i++)
        if (!part || strstr(p[i].name, part)) p[n++] = p[i];
    if (n == 0)
        return err_set(
            e, ERR_USAGE,
            "no product has '%s' in its name; there are cubes, odd ones, and rows' layers: 'vit_s16', 'dX'...", part);
    int64_t na = 0, nb = 0, nc = 0;
    size_t scratch = 0;
    for (int i = 0; i < n; i++) {
        na = most(na, p[i].m * p[i].k);
        nb = most(nb, p[i].k * p[i].n);
        nc = most(nc, p[i].m * p[i].n);
        size_t need = gemm_scratch(p[i].m, p[i].n, p[i].k);
        if (need > scratch) scratch = need;
    }
    size_t bytes = (size_t)(na + nb + 2 * nc) * sizeof(float) + scratch;
    struct work w = {.threads = threads_count()};
    w.scratch = mem_block(bytes, "matrices", e); /* first: its alignment is the block's */
    if (!w.scratch) return ERR_MEMORY;
    w.a = (float *)((char *)w.scratch + scratch / sizeof(float) * sizeof(float));
    w.b = w.a + na;
    w.c = w.b + nb;
    w.d = w.c + nc;
    fill(w.a, na, "a");
    fill(w.b, nb, "b");
    struct bench_peak machine = bench_peak_flops();
    int rc = 0;
    for (int i = 0; i < n && !rc; i++) {
        w.p = &p[i];
        rc = time_product(&w, seconds, &machine, e);
    }
    mem_block_free(w.scratch, bytes);
    return rc;
}
