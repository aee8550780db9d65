/* Blocks of a product over threads, each by OpenBLAS on one thread, the epilogue on the block while it is in the cache.
 */
#pragma GCC optimize("O3")
#include "autograd/kernels/gemm.h"

#include <cblas.h>
#include <omp.h>
#include <string.h>

#include "base/threads.h"

/* OpenBLAS' OpenMP build asks omp_get_max_threads() and would start threads of its own inside a region of one thread,
 * where it does not see that it is in parallel. The setting belongs to the region's implicit task and ends with it. */
void gemm_enter_thread(void)
{
    omp_set_num_threads(1);
}

static int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
static int64_t max_of(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* C = A B or C += A B */
static void multiply(const struct gemm_args *g)
{
    if (g->k == 0) {
        for (int64_t i = 0; i < g->m && !g->add; i++) memset(g->c + i * g->c_row, 0, (size_t)g->n * sizeof(float));
        return;
    }
    bool a_rows = g->a_col == 1 || g->k == 1, b_rows = g->b_col == 1 || g->n == 1;
    int64_t lda = a_rows ? max_of(g->a_row, g->k) : max_of(g->a_col, g->m);
    int64_t ldb = b_rows ? max_of(g->b_row, g->n) : max_of(g->b_col, g->k);
    if (a_rows && g->m > 1) lda = g->a_row;
    if (b_rows && g->k > 1) ldb = g->b_row;
    cblas_sgemm(CblasRowMajor, a_rows ? CblasNoTrans : CblasTrans, b_rows ? CblasNoTrans : CblasTrans, (blasint)g->m,
                (blasint)g->n, (blasint)g->k, 1, g->a, (blasint)lda, g->b, (blasint)ldb, g->add, g->c,
                (blasint)g->c_row);
}

static void epilogue_row(const struct gemm_args *g, float *c, const float *res)
{
    const float *bias = g->bias;
    if (bias && res)
        for (int64_t j = 0; j < g->n; j++) c[j] = c[j] + bias[j] + res[j];
    else if (bias || res) {
        const float *more = bias ? bias : res;
        for (int64_t j = 0; j < g->n; j++) c[j] += more[j];
    }
    if (g->act) g->act(g->n, (const float *const[]){c}, (const int[]){1}, c, NULL);
}

static void epilogue(const struct gemm_args *g)
{
    if (!g->bias && !g->residual && !g->act) return;
    for (int64_t i = 0; i < g->m; i++)
        epilogue_row(g, g->c + i * g->c_row, g->residual ? g->residual + i * g->res_row : NULL);
}

void gemm_block(const struct gemm_args *g)
{
    if (g->m == 0 || g->n == 0) return;
    multiply(g);
    epilogue(g);
}

/* How a product is cut: bounds depend on the sizes only. */
struct cut {
    int64_t m, n, k; /* block sizes */
    int64_t nm, nn, nk;
};

static int64_t part(int64_t size, int64_t parts, int64_t round)
{
    int64_t n = (size + parts - 1) / parts;
    return max_of(1, (n + round - 1) / round * round);
}

static struct cut cut_of(int64_t m, int64_t n, int64_t k)
{
    struct cut c = {m, n, k, 1, 1, 1};
    if (m * n * k < 1 << 18) return c;
    if (k >= 2048 && m * n <= 1 << 18) {
        c.k = part(k, min_of(8, k / 1024), 64);
    } else {
        c.m = m >= 1024 ? 256 : part(m, max_of(1, min_of(4, m / 64)), 32);
        if (n > 1024) c.n = part(n, (n + 1023) / 1024, 32);
        if (m < 128) c.n = part(n, max_of(1, min_of(8, n / 64)), 32);
    }
    c.nm = (m + c.m - 1) / c.m;
    c.nn = (n + c.n - 1) / c.n;
    c.nk = (k + c.k - 1) / c.k;
    return c;
}

size_t gemm_scratch(int64_t m, int64_t n, int64_t k)
{
    struct cut c = cut_of(m, n, k);
    return c.nk > 1 ? (size_t)(c.nk * m * n) * sizeof(float) : 0;
}

/* Sums of K ranges, each into a matrix of its own, then added in order. */
static void split_k(const struct gemm_args *g, struct cut c, float *part_sums)
{
    int64_t size = g->m * g->n;
#pragma omp parallel
    {
        gemm_enter_thread();
#pragma omp for schedule(dynamic)
        for (int64_t p = 0; p < c.nk; p++) {
            int64_t k0 = p * c.k;
            struct gemm_args s = {.m = g->m,
                                  .n = g->n,
                                  .k = min_of(c.k, g->k - k0),
                                  .a = g->a + k0 * g->a_col,
                                  .b = g->b + k0 * g->b_row,
                                  .a_row = g->a_row,
                                  .a_col = g->a_col,
                                  .b_row = g->b_row,
                                  .b_col = g->b_col,
                                  .c = part_sums + p * size,
                                  .c_row = g->n};
            multiply(&s);
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < g->m; i++) {
            float *y = g->c + i * g->c_row;
            if (!g->add) memset(y, 0, (size_t)g->n * sizeof *y);
            for (int64_t p = 0; p < c.nk; p++) {
                const float *x = part_sums + p * size + i * g->n;
                for (int64_t j = 0; j < g->n; j++) y[j] += x[j];
            }
            epilogue_row(g, y, g->residual ? g->residual + i * g->res_row : NULL);
        }
    }
}

void gemm(const struct gemm_args *g, void *scratch)
{
    if (g->m == 0 || g->n == 0) return;
    struct cut c = cut_of(g->m, g->n, g->k);
    if (c.nk > 1) {
        split_k(g, c, scratch);
        return;
    }
#pragma omp parallel if (c.nm * c.nn > 1)
    {
        gemm_enter_thread();
#pragma omp for schedule(dynamic)
        for (int64_t t = 0; t < c.nm * c.nn; t++) {
            int64_t i = t / c.nn * c.m, j = t % c.nn * c.n;
            struct gemm_args s = *g;
            s.m = min_of(c.m, g->m - i);
            s.n = min_of(c.n, g->n - j);
            s.a += i * g->a_row;
            s.b += j * g->b_col;
            s.c += i * g->c_row + j;
            if (g->bias) s.bias += j;
            if (g->residual) s.residual += i * g->res_row + j;
            gemm_block(&s);
        }
    }
}
