/* Triad's back ends for a product, OpenBLAS and libxsmm by classes of sizes and layouts, on one thread: what the table in
 * autograd/kernels/gemm_choice.c is made from, and held against. See measure.h. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "autograd/kernels/gemm.h"
#include "base/isa.h"
#include "base/threads.h"
#include "bench/measure.h"
#include "bench/product.h"

static const int64_t cubes[] = {4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 320, 384, 512};
static const int64_t few[] = {1, 2, 3, 4, 6, 8, 12, 16};                                           /* rows */
static const int64_t wide[][2] = {{256, 256}, {512, 512}, {1024, 1024}, {256, 1024}, {1024, 256}}; /* n, k */
static const struct {
    const char *name;
    int64_t m, n, k;
} others[] = {
    {"few columns", 256, 1, 256},
    {"few columns", 256, 2, 256},
    {"few columns", 256, 4, 256},
    {"few columns", 256, 8, 256},
    {"few columns", 256, 16, 256},
    {"few columns", 1024, 1, 256},
    {"few columns", 1024, 8, 256},
    {"few columns", 16, 4, 16},
    {"short k", 64, 64, 8},
    {"short k", 128, 128, 16},
    {"short k", 256, 256, 8},
    {"short k", 192, 192, 64},
    {"short k", 384, 384, 64},
    {"long k", 64, 64, 512},
    {"long k", 64, 64, 2048},
    {"long k", 128, 128, 1024},
    {"long k", 256, 256, 1024},
    {"many rows", 512, 64, 64},
    {"many rows", 2048, 64, 64},
    {"many rows", 2048, 96, 384},
    {"many columns", 64, 512, 64},
    {"many columns", 64, 2048, 64},
    {"many columns", 64, 1024, 256},
    {"many columns", 32, 1024, 256},
    {"odd", 7, 7, 7},
    {"odd", 13, 13, 13},
    {"odd", 20, 20, 20},
    {"odd", 24, 24, 24},
    {"odd", 10, 10, 64},
    {"odd", 49, 49, 32},
    {"odd", 50, 50, 64},
    {"odd", 50, 64, 50},
    {"odd", 77, 77, 64},
    {"odd", 77, 64, 77},
    {"odd", 100, 100, 100},
    {"odd", 160, 160, 160},
    {"odd", 197, 197, 64},
    {"odd", 197, 64, 197},
};
static const char *const layouts[] = {"", " A'", " B'", " A' B'"}; /* by ta + 2 tb */

enum {
    N_CUBES = sizeof cubes / sizeof *cubes,
    N_FEW = sizeof few / sizeof *few,
    N_WIDE = sizeof wide / sizeof *wide,
    N_OTHERS = sizeof others / sizeof *others,
    N_CLASSES = 4 * N_CUBES + 3 * N_OTHERS + 2 * N_FEW * N_WIDE
};

static void add(struct bench_product *p, int *n, const char *name, int64_t rows, int64_t columns, int64_t k, int layout)
{
    struct bench_product *to = &p[(*n)++];
    *to = (struct bench_product){.m = rows, .n = columns, .k = k, .ta = layout & 1, .tb = layout >> 1};
    snprintf(to->name, sizeof to->name, "%s%s", name, layouts[layout]);
}

static int list(struct bench_product p[N_CLASSES])
{
    int n = 0;
    for (int layout = 0; layout < 4; layout++)
        for (int i = 0; i < N_CUBES; i++) add(p, &n, "cube", cubes[i], cubes[i], cubes[i], layout);
    for (int layout = 0; layout < 4; layout += 2)
        for (int i = 0; i < N_FEW; i++)
            for (int j = 0; j < N_WIDE; j++) add(p, &n, "few rows", few[i], wide[j][0], wide[j][1], layout);
    for (int layout = 0; layout < 3; layout++)
        for (int i = 0; i < N_OTHERS; i++) add(p, &n, others[i].name, others[i].m, others[i].n, others[i].k, layout);
    return n;
}

/* The back ends, and the libraries that could be one. */
static const enum bench_contestant all[] = {BENCH_DIRECT, BENCH_THIN,  BENCH_NARROW, BENCH_XSMM_ROWS,
                                            BENCH_PACKED, BENCH_LANES, BENCH_BLAS,   BENCH_XSMM};
enum { N_ALL = sizeof all / sizeof *all, MOST_ROUNDS = 201 };

/* Who of `all` takes the product, and the median seconds of each. */
struct times {
    enum bench_contestant who[N_ALL];
    double s[N_ALL];
    int n;
};

static int measure(const struct bench_gemm *w, double seconds, struct times *t, struct err *e)
{
    double x[N_ALL][MOST_ROUNDS];
    int repeat = 1, rounds = 0, rc = 0;
    t->n = 0;
    for (int i = 0; i < N_ALL; i++)
        if (bench_takes(all[i], w)) t->who[t->n++] = all[i];
    bench_time(BENCH_GEMM, w, 1);
    for (int i = 0; i < t->n && !rc; i++) {
        bench_time(t->who[i], w, 1);
        rc = bench_agrees(t->who[i], w, e);
    }
    if (rc) return rc;
    while (repeat < 1 << 16 && bench_time(BENCH_GEMM, w, repeat) * repeat < 5e-4) repeat *= 2;
    for (double end = time_now() + seconds;
         rounds < MOST_ROUNDS && (rounds < (seconds > 0 ? 5 : 1) || time_now() < end); rounds++)
        for (int i = 0; i < t->n; i++) {
            int now = (rounds + i) % t->n;
            x[now][rounds] = bench_time(t->who[now], w, repeat);
        }
    for (int i = 0; i < t->n; i++) t->s[i] = bench_median(x[i], rounds);
    return 0;
}

static int show(const struct bench_gemm *w, double seconds, struct err *e)
{
    const struct bench_product *p = w->p;
    struct times t;
    int rc = measure(w, seconds, &t, e), best = 0, chosen = 0;
    if (rc) return rc;
    double flops = 2.0 * (double)p->m * (double)p->n * (double)p->k, second = INFINITY;
    for (int i = 1; i < t.n; i++) {
        if (t.s[i] < t.s[best]) best = i;
        if (t.who[i] == bench_chosen(w)) chosen = i;
    }
    for (int i = 0; i < t.n; i++)
        if (i != best) second = fmin(second, t.s[i]);
    printf("{\"name\": \"%s\", \"m\": %lld, \"n\": %lld, \"k\": %lld, \"a_by\": \"%s\", \"b_by\": \"%s\", ", p->name,
           (long long)p->m, (long long)p->n, (long long)p->k, p->ta ? "column" : "row", p->tb ? "column" : "row");
    for (int i = 0; i < t.n; i++) printf("\"%s_gflops\": %.2f, ", bench_contestants[t.who[i]], 1e-9 * flops / t.s[i]);
    double behind = t.s[chosen] / t.s[best] - 1;
    if (t.n > 1) printf("\"ahead\": %.3f, ", second / t.s[best] - 1);
    printf("\"fastest\": \"%s\", \"chosen\": \"%s\", \"behind\": %.3f, \"slow\": %s, \"isa\": \"%s\"}\n",
           bench_contestants[t.who[best]], bench_contestants[t.who[chosen]], behind, behind > 0.05 ? "true" : "false",
           isa_name(isa_now()));
    fflush(stdout);
    return 0;
}

int bench_gemm_table(const char *part, double seconds, struct err *e)
{
    struct bench_product p[N_CLASSES];
    int n = 0;
    for (int i = 0, classes = list(p); i < classes; i++)
        if (!part || strstr(p[i].name, part)) p[n++] = p[i];
    if (n == 0)
        return err_set(e, ERR_USAGE,
                       "no class of products has '%s' in its name; there are cube, few rows, few columns, short k, "
                       "long k, many rows, many columns, odd, and with A' or B' those of a transposed operand",
                       part);
    threads_init(1);
    struct bench_gemm w;
    int rc = bench_gemm_new(&w, p, n, e);
    if (rc) return rc;
    bench_find_libraries();
    for (int i = 0; i < n && !rc; i++) {
        w.p = &p[i];
        rc = show(&w, seconds, e);
    }
    bench_gemm_free(&w);
    return rc;
}
