/* Small products: operands that the first two caches hold are read where they lie, since copying them into panels would
 * take as long as multiplying; and products of a few rows, which wait for B. The sums are those of gemm_packed.c, bit for
 * bit: how a product is cut decides which of the two has a block. */
#pragma GCC optimize("O3")
#include "autograd/kernels/gemm.h"

#if defined(__AVX2__)
#include "autograd/kernels/register_block.h"

enum { MR = 6, NR = 2 * VL, MOST = 192, NUMBERS = 73728 };
enum { THIN = 4, STRIP = 256, AT_ONCE = 8 };

/* Lines that lie so far apart meet in a few sets of the first cache. */
static bool meet(int64_t step, int64_t k)
{
    return step % 128 == 0 && k > 64;
}

/* So few rows that B, read once, is the whole cost. */
static bool is_thin(const struct gemm_args *g)
{
    return g->m <= THIN && g->n >= STRIP && g->k >= AT_ONCE;
}

bool gemm_is_direct(const struct gemm_args *g)
{
    bool f32 = g->a_type == AD_F32 && g->b_type == AD_F32 && g->c_type == AD_F32;
    bool small = g->m <= MOST && g->n <= MOST && (g->m + g->n) * g->k <= NUMBERS;
    bool rows = g->a_col == 1 || g->k == 1 || !meet(g->a_col, g->k);
    return f32 && !g->source && (g->b_col == 1 || g->n == 1) && (is_thin(g) || (small && rows));
}

/* C (mr x nv vectors) = A B, or += where `add`. Element (i, k) of A is at a[i * row + k * col], where `by_row` says that
 * col is 1, and else row is. */
SIMD_FN void kernel(int mr, int nv, bool by_row, int64_t n, const float *a, int64_t lda, const float *b, int64_t ldb,
                    float *c, int64_t ldc, bool add)
{
    block_sums sum;
    block_clear(mr, nv, sum);
    const float *high = a + 3 * lda;
#pragma GCC unroll 4
    for (int64_t k = 0; k < n; k++) {
        block_step(mr, nv, a, by_row ? high : a + 3, by_row ? lda : 1, b, sum);
        a += by_row ? 1 : lda;
        high++;
        b += ldb;
    }
    block_store(mr, nv, sum, c, ldc, add);
}

typedef void kernel_fn(int64_t n, const float *a, int64_t lda, const float *b, int64_t ldb, float *c, int64_t ldc,
                       bool add);

/* clang-format off */
#define KERNEL(mr, nv, by_row)                                                                                  \
    static void kernel_##mr##_##nv##_##by_row(int64_t n, const float *a, int64_t lda, const float *b, int64_t ldb, \
                                              float *c, int64_t ldc, bool add)                                  \
    {                                                                                                           \
        kernel(mr, nv, by_row, n, a, lda, b, ldb, c, ldc, add);                                                 \
    }
#define EACH_OF(mr) KERNEL(mr, 1, 0) KERNEL(mr, 1, 1) KERNEL(mr, 2, 0) KERNEL(mr, 2, 1)
#define ROW_OF(mr) {{kernel_##mr##_1_0, kernel_##mr##_1_1}, {kernel_##mr##_2_0, kernel_##mr##_2_1}},
#define HEIGHTS(X) X(1) X(2) X(3) X(4) X(5) X(6)
HEIGHTS(EACH_OF)
static kernel_fn *const kernels[MR][2][2] = {HEIGHTS(ROW_OF)};
/* clang-format on */

/* All rows of `width` (VL or NR) columns and kc of K; a and b are the first of them, `n` of the columns are C's. */
static void columns(const struct gemm_args *g, const float *a, int64_t kc, const float *b, int64_t ldb, int64_t width,
                    float *c, int64_t n, bool add)
{
    bool by_row = g->a_col == 1 || g->k == 1;
    int64_t panels = (g->m + MR - 1) / MR, lda = by_row ? g->a_row : g->a_col;
    float tile[MR * NR];
    for (int64_t x = 0, i = 0, mr; x < panels; x++, i += mr) {
        mr = (g->m - i + panels - x - 1) / (panels - x); /* about equal heights */
        kernel_fn *run = kernels[mr - 1][width / VL - 1][by_row];
        if (n == width) {
            run(kc, a + i * g->a_row, lda, b, ldb, c + i * g->c_row, g->c_row, add);
            continue;
        }
        run(kc, a + i * g->a_row, lda, b, ldb, tile, NR, false);
        for (int64_t r = 0; r < mr; r++)
            for (int64_t j = 0; j < n; j++) {
                float *to = c + (i + r) * g->c_row + j;
                *to = add ? *to + tile[r * NR + j] : tile[r * NR + j];
            }
    }
}

/* kc rows, `width` columns of B, of which the last may not be there. */
static void copy_panel(const float *b, int64_t ldb, int64_t kc, int64_t n, int64_t width, float *to)
{
    for (int64_t k = 0; k < kc; k++)
        for (int64_t j = 0; j < width; j += VL)
            vf_store(to + k * width + j,
                     n - j >= VL ? vf_load(b + k * ldb + j) : vf_load_part(b + k * ldb + j, n - j, 0));
}

/* ---- few rows ------------------------------------------------------------------------------------------------------ */

/* sum (m, STRIP) += rows k .. k+rows-1, columns j .. j+n-1: B's rows are read along, several at a time. */
SIMD_FN void add_rows(int m, int rows, const struct gemm_args *g, int64_t k, int64_t j, int64_t n, float *sum)
{
    const float *b = (const float *)g->b + k * g->b_row + j;
    vf a[THIN][AT_ONCE];
    for (int i = 0; i < m; i++)
        for (int t = 0; t < rows; t++) a[i][t] = vf_set(((const float *)g->a)[i * g->a_row + (k + t) * g->a_col]);
    for (int64_t x = 0; x < n; x += VL) {
        vf line[AT_ONCE];
#pragma GCC unroll 8
        for (int t = 0; t < rows; t++)
            line[t] = n - x >= VL ? vf_load(b + t * g->b_row + x) : vf_load_part(b + t * g->b_row + x, n - x, 0);
#pragma GCC unroll 4
        for (int i = 0; i < m; i++) {
            vf y = vf_load(sum + i * STRIP + x);
#pragma GCC unroll 8
            for (int t = 0; t < rows; t++) y += a[i][t] * line[t];
            vf_store(sum + i * STRIP + x, y);
        }
    }
}

/* Columns j .. j+n-1 of C, rows k .. k+kc-1 of B. */
static void thin_strip(const struct gemm_args *g, int64_t j, int64_t n, int64_t k, int64_t kc)
{
    float sum[THIN * STRIP] __attribute__((aligned(64))) = {0};
    int64_t t = k;
    for (; t + AT_ONCE <= k + kc; t += AT_ONCE) {
        if (g->m == 1) add_rows(1, AT_ONCE, g, t, j, n, sum);
        if (g->m == 2) add_rows(2, AT_ONCE, g, t, j, n, sum);
        if (g->m == 3) add_rows(3, AT_ONCE, g, t, j, n, sum);
        if (g->m == 4) add_rows(4, AT_ONCE, g, t, j, n, sum);
    }
    for (; t < k + kc; t++) add_rows((int)g->m, 1, g, t, j, n, sum);
    for (int64_t i = 0; i < g->m; i++) {
        float *c = (float *)g->c + i * g->c_row + j;
        for (int64_t x = 0; x < n; x++) c[x] = g->add || k > 0 ? c[x] + sum[i * STRIP + x] : sum[i * STRIP + x];
    }
}

static void thin(const struct gemm_args *g)
{
    int64_t block = gemm_k_block(g->k);
    for (int64_t j = 0; j < g->n; j += STRIP)
        for (int64_t k = 0; k < g->k; k += block)
            thin_strip(g, j, g->n - j < STRIP ? g->n - j : STRIP, k, g->k - k < block ? g->k - k : block);
}

static void small(const struct gemm_args *g)
{
    float panel[GEMM_MOST_K * NR] __attribute__((aligned(64)));
    float *c = g->c;
    int64_t block = gemm_k_block(g->k);
    for (int64_t k = 0, kc; k < g->k; k += kc) {
        kc = g->k - k < block ? g->k - k : block;
        const float *a = (const float *)g->a + k * g->a_col, *b = (const float *)g->b + k * g->b_row;
        for (int64_t j = 0, width; j < g->n; j += width) {
            width = g->n - j > VL ? NR : VL;
            int64_t n = g->n - j < width ? g->n - j : width;
            bool copied = n < width || meet(g->b_row, g->k);
            if (copied) copy_panel(b + j, g->b_row, kc, n, width, panel);
            columns(g, a, kc, copied ? panel : b + j, copied ? width : g->b_row, width, c + j, n, g->add || k > 0);
        }
    }
}

void gemm_direct(const struct gemm_args *g)
{
    if (is_thin(g))
        thin(g);
    else
        small(g);
    for (int64_t i = 0; i < g->m && (g->bias || g->residual || g->act); i++)
        gemm_epilogue_row(g, (float *)g->c + i * g->c_row, g->n, i, 0);
}
#endif
