/* Short K by kernels that libxsmm writes for given sizes: there a block's beginning and end are much of its time. Over one
 * block of K it sums in our order, so that the bits are those of gemm_packed.c. */
#if defined(TRIAD_XSMM) && defined(__AVX2__) && !defined(__AVX512F__)
#include <libxsmm.h> /* first: it has a macro's argument of the name of our gemm */
#include <pthread.h>

#include "autograd/kernels/gemm.h"
#include "autograd/kernels/simd.h"

/* Rows of a kernel: numbers of rows change from batch to batch, and each size would be a kernel of its own. */
enum { ROWS = 64, MOST_COLUMNS = 512, MOST_K = 16 };

static void begin(void)
{
    libxsmm_init();
    libxsmm_set_target_archid(LIBXSMM_X86_AVX2); /* the sums of this set, whatever the processor has beyond it */
}

/* Row-major C = A B is column-major C' = B' A': the operands change places. NULL: libxsmm has none. */
static libxsmm_smmfunction kernel_of(const struct gemm_args *g)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, begin);
    bool by_rows = g->a_col == 1;
    int lda = (int)(by_rows ? g->a_row : g->a_col), ldb = (int)g->b_row, ldc = (int)g->c_row;
    int flags = by_rows ? LIBXSMM_GEMM_FLAG_NONE : LIBXSMM_GEMM_FLAG_TRANS_B;
    return libxsmm_smmdispatch((int)g->n, ROWS, (int)g->k, &ldb, &lda, &ldc, &(float){1}, &(float){0}, &flags, NULL);
}

bool gemm_xsmm_can(const struct gemm_args *g)
{
    bool a_fits = (g->a_col == 1 && g->a_row <= INT32_MAX) || (g->a_row == 1 && g->a_col <= INT32_MAX);
    return g->m >= ROWS && g->n <= MOST_COLUMNS && g->k <= MOST_K && !g->add && g->b_col == 1 && a_fits &&
           g->b_row <= INT32_MAX && g->c_row <= INT32_MAX;
}

void gemm_xsmm(const struct gemm_args *g)
{
    libxsmm_smmfunction run = kernel_of(g);
    struct gemm_args whole = *g, rest = *g;
    whole.m = run ? g->m / ROWS * ROWS : 0;
    for (int64_t i = 0; i < whole.m; i += ROWS)
        run(g->b, (const float *)g->a + i * g->a_row, (float *)g->c + i * g->c_row);
    gemm_epilogue(&whole);
    rest.m -= whole.m;
    rest.a = (const float *)g->a + whole.m * g->a_row;
    rest.c = (float *)g->c + whole.m * g->c_row;
    if (g->residual) rest.residual = at_as(g->res_type, g->residual, whole.m * g->res_row);
    if (rest.m) gemm_direct(&rest);
}
#endif
