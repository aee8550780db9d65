/* Small blocks by kernels that libxsmm writes for given sizes: of a short K, or of few columns that are whole vectors, where a
 * block's beginning and end are much of its time. Over one block of K it sums in our order, so that the bits are those of
 * gemm_packed.c. */
#if defined(TRIAD_XSMM) && defined(__AVX2__) && !defined(__AVX512F__)
#include <libxsmm.h> /* first: it has a macro's argument of the name of our gemm */
#include <pthread.h>

#include "autograd/kernels/gemm.h"
#include "autograd/kernels/simd.h"

/* Its kernels for columns that do not fill the last vector win while K is short only. */
enum { MOST_ROWS = 64, MOST_COLUMNS = 512, SHORT_K = 32, MOST_K = 96 };

/* Of a kernel: numbers of rows change from batch to batch, and each would be a kernel of its own. */
static int64_t rows_at_once(int64_t m)
{
    return m >= MOST_ROWS ? MOST_ROWS : m > 32 ? m / 8 * 8 : m;
}

static void begin(void)
{
    libxsmm_init();
    libxsmm_set_target_archid(LIBXSMM_X86_AVX2); /* the sums of this set, whatever the processor has beyond it */
}

/* Row-major C = A B is column-major C' = B' A': the operands change places. NULL: libxsmm has none. */
static libxsmm_smmfunction kernel_of(const struct gemm_args *g, int64_t rows)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, begin);
    bool by_rows = g->a_col == 1;
    int lda = (int)(by_rows ? g->a_row : g->a_col), ldb = (int)g->b_row, ldc = (int)g->c_row;
    int flags = by_rows ? LIBXSMM_GEMM_FLAG_NONE : LIBXSMM_GEMM_FLAG_TRANS_B;
    return libxsmm_smmdispatch((int)g->n, (int)rows, (int)g->k, &ldb, &lda, &ldc, &(float){1}, &(float){0}, &flags,
                               NULL);
}

bool gemm_xsmm_can(const struct gemm_args *g)
{
    bool a_fits = (g->a_col == 1 && g->a_row <= INT32_MAX) || (g->a_row == 1 && g->a_col <= INT32_MAX);
    bool whole = g->k <= SHORT_K || (g->n % VL == 0 && g->k <= MOST_K);
    return whole && g->n <= MOST_COLUMNS && !g->add && g->b_col == 1 && a_fits && g->b_row <= INT32_MAX &&
           g->c_row <= INT32_MAX;
}

void gemm_xsmm(const struct gemm_args *g)
{
    int64_t rows = rows_at_once(g->m);
    libxsmm_smmfunction run = kernel_of(g, rows);
    bool ends = gemm_has_epilogue(g); /* while these rows are in the cache */
    int64_t i = 0;
    for (; run && i + rows <= g->m; i += rows) {
        run(g->b, (const float *)g->a + i * g->a_row, (float *)g->c + i * g->c_row);
        for (int64_t r = i; ends && r < i + rows; r++) gemm_epilogue_row(g, (float *)g->c + r * g->c_row, g->n, r, 0);
    }
    if (i == g->m) return;
    struct gemm_args rest = *g;
    rest.m -= i;
    rest.a = (const float *)g->a + i * g->a_row;
    rest.c = (float *)g->c + i * g->c_row;
    if (g->residual) rest.residual = at_as(g->res_type, g->residual, i * g->res_row);
    gemm_direct(&rest);
}
#endif
