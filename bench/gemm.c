/* triad's gemm(), also by weights that are in panels, beside the BLAS it is linked with, and beside oneDNN and libxsmm where
 * their libraries are installed. See measure.h. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/threads.h"
#include "bench/measure.h"
#include "bench/product.h"

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

enum {
    N_LAYERS = sizeof layers / sizeof *layers,
    N_CUBES = sizeof cubes / sizeof *cubes,
    N_ODDS = sizeof odds / sizeof *odds,
    N_PRODUCTS = 3 * N_LAYERS + N_CUBES + N_ODDS
};

static int list(struct bench_product p[N_PRODUCTS])
{
    int n = 0;
    for (int i = 0; i < N_LAYERS; i++) {
        const struct layer *l = &layers[i];
        struct bench_product forth = {.m = l->rows, .n = l->out, .k = l->in},
                             dx = {.m = l->rows, .n = l->in, .k = l->out}, dw = {.m = l->in, .n = l->out, .k = l->rows};
        forth.weights = dx.weights = dx.tb = true;
        dw.ta = true;
        snprintf(forth.name, sizeof forth.name, "%s", l->name);
        snprintf(dx.name, sizeof dx.name, "%s dX", l->name);
        snprintf(dw.name, sizeof dw.name, "%s dW", l->name);
        p[n++] = forth;
        p[n++] = dx;
        p[n++] = dw;
    }
    for (int i = 0; i < N_CUBES; i++) {
        p[n] = (struct bench_product){.m = cubes[i], .n = cubes[i], .k = cubes[i]};
        snprintf(p[n++].name, sizeof p->name, "cube %lld", (long long)cubes[i]);
    }
    for (int i = 0; i < N_ODDS; i++) {
        p[n] = (struct bench_product){.m = odds[i].m, .n = odds[i].n, .k = odds[i].k};
        snprintf(p[n++].name, sizeof p->name, "odd");
    }
    return n;
}

/* Those beside triad that are here and multiply the product. */
static int peers_of(const struct bench_gemm *w, enum bench_contestant *peer)
{
    int n = 0;
    for (int i = BENCH_BLAS; i < BENCH_CONTESTANTS; i++)
        if (bench_takes((enum bench_contestant)i, w)) peer[n++] = (enum bench_contestant)i;
    return n;
}

enum { MOST_ROUNDS = 201 };

static int time_product(const struct bench_gemm *w, double seconds, const struct bench_peak *machine, struct err *e)
{
    const struct bench_product *p = w->p;
    enum bench_contestant who[BENCH_CONTESTANTS] = {BENCH_GEMM};
    double x[BENCH_CONTESTANTS][MOST_ROUNDS], ratio[BENCH_CONTESTANTS][MOST_ROUNDS],
        flops = 2.0 * (double)p->m * (double)p->n * (double)p->k;
    int repeat = 1, n = 0, count = 1 + peers_of(w, who + 1), rc = 0;
    if (bench_takes(BENCH_KEPT, w)) bench_keep(w);
    bench_time(BENCH_GEMM, w, 1);
    for (int i = 1; i < count && !rc; i++) {
        bench_time(who[i], w, 1);
        rc = bench_agrees(who[i], w, e);
    }
    if (rc) return rc;
    while (repeat < 4096 && bench_time(BENCH_GEMM, w, repeat) * repeat < 2e-3) repeat *= 2;
    double peak = 0; /* the best while this product is timed: clocks change with load and time */
    for (double end = time_now() + seconds; n < MOST_ROUNDS && (n < (seconds > 0 ? 5 : 1) || time_now() < end); n++) {
        for (int i = 0; i < count; i++) {
            int now = (n + i) % count;
            x[now][n] = bench_time(who[now], w, repeat);
        }
        peak = fmax(peak, bench_peak_again(machine, 0));
        for (int i = 1; i < count; i++) ratio[i][n] = x[i][n] / x[0][n];
    }
    double triad = bench_median(x[0], n);
    printf("{\"name\": \"%s\", \"m\": %lld, \"n\": %lld, \"k\": %lld, \"gflops\": %.1f, \"share\": %.3f, "
           "\"best_share\": %.3f, \"blas_gflops\": %.1f, \"ratio\": %.3f, ",
           p->name, (long long)p->m, (long long)p->n, (long long)p->k, 1e-9 * flops / triad, flops / triad / peak,
           flops / x[0][0] / peak, 1e-9 * flops / bench_median(x[1], n), bench_median(ratio[1], n));
    for (int i = 2; i < count; i++)
        printf("\"%s_gflops\": %.1f, \"%s_ratio\": %.3f, ", bench_contestants[who[i]],
               1e-9 * flops / bench_median(x[i], n), bench_contestants[who[i]], bench_median(ratio[i], n));
    printf("\"peak_gflops\": %.1f, \"rounds\": %d, \"threads\": %d}\n", 1e-9 * peak, n, w->threads);
    fflush(stdout);
    return 0;
}

int bench_gemm(const char *part, double seconds, struct err *e)
{
    struct bench_product p[N_PRODUCTS];
    int n = 0;
    for (int i = 0, all = list(p); i < all; i++)
        if (!part || strstr(p[i].name, part)) p[n++] = p[i];
    if (n == 0)
        return err_set(
            e, ERR_USAGE,
            "no product has '%s' in its name; there are cubes, odd ones, and rows' layers: 'vit_s16', 'dX'...", part);
    struct bench_gemm w;
    int rc = bench_gemm_new(&w, p, n, e);
    if (rc) return rc;
    bench_find_libraries();
    struct bench_peak machine = bench_peak_flops();
    for (int i = 0; i < n && !rc; i++) {
        w.p = &p[i];
        rc = time_product(&w, seconds, &machine, e);
    }
    bench_gemm_free(&w);
    return rc;
}
