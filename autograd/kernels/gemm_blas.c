/* One block of a product by OpenBLAS, on one thread: where neither AVX2 nor AVX-512 is there. */
#include "autograd/kernels/gemm.h"

#if !defined(__AVX2__)
#include <cblas.h>
#include <omp.h>

void gemm_enter_thread(void) {}

/* OpenBLAS packs for itself. */
int64_t gemm_panels_count(int64_t n, int64_t k)
{
    return 0;
}
bool gemm_panels_place(int64_t n, int64_t k, int64_t i, int64_t *row, int64_t *column)
{
    return false;
}
int64_t gemm_panels_pieces(int64_t n, int64_t k)
{
    return 0;
}
void gemm_panels_copy(const struct gemm_args *g, int64_t piece, float *to) {}

static int64_t max_of(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* C = A B or C += A B */
static void multiply(const struct gemm_args *g)
{
    bool a_rows = g->a_col == 1 || g->k == 1, b_rows = g->b_col == 1 || g->n == 1;
    int64_t lda = a_rows ? max_of(g->a_row, g->k) : max_of(g->a_col, g->m);
    int64_t ldb = b_rows ? max_of(g->b_row, g->n) : max_of(g->b_col, g->k);
    if (a_rows && g->m > 1) lda = g->a_row;
    if (b_rows && g->k > 1) ldb = g->b_row;
    cblas_sgemm(CblasRowMajor, a_rows ? CblasNoTrans : CblasTrans, b_rows ? CblasNoTrans : CblasTrans, (blasint)g->m,
                (blasint)g->n, (blasint)g->k, 1, g->a, (blasint)lda, g->b, (blasint)ldb, g->add, g->c,
                (blasint)g->c_row);
}

enum { ROOM_M = 256, ROOM_K = 256 };

/* A filled from its source piece by piece. */
static void multiply_source(const struct gemm_args *g)
{
    float room[ROOM_M * ROOM_K];
    for (int64_t i = 0; i < g->m; i += ROOM_M)
        for (int64_t k = 0; k < g->k; k += ROOM_K) {
            struct gemm_args s = *g;
            s.source = NULL;
            s.m = g->m - i < ROOM_M ? g->m - i : ROOM_M;
            s.k = g->k - k < ROOM_K ? g->k - k : ROOM_K;
            s.a = room;
            s.a_row = g->source->by_column ? 1 : s.k;
            s.a_col = g->source->by_column ? s.m : 1;
            gemm_fill(g->source, i, s.m, k, s.k, room, s.a_row, s.a_col);
            s.b = (const float *)g->b + k * g->b_row;
            s.c = (float *)g->c + i * g->c_row;
            s.add = g->add || k > 0;
            multiply(&s);
        }
}

/* OpenBLAS' OpenMP build asks omp_get_max_threads() and would start threads of its own. */
void gemm_multiply(const struct gemm_args *g)
{
    int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    if (g->source)
        multiply_source(g);
    else
        multiply(g);
    omp_set_num_threads(threads);
    gemm_epilogue(g);
}
#endif
