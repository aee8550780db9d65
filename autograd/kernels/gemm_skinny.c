/* Products of a few rows or of a few columns, where reading the other operand is the cost: each of its numbers is read once,
 * where it lies. gemm_thin and gemm_narrow give the bits of gemm_packed.c; gemm_lanes sums in another order, so that it has
 * whole products only (gemm_sums_in_lanes). */
#pragma GCC optimize("O3")
#include "autograd/kernels/gemm.h"

#if defined(__AVX2__)
#include "autograd/kernels/register_block.h"
#include "autograd/kernels/transpose.h"

/* ---- few rows -------------------------------------------------------------------------------------------------------- */

/* C (rows, n) = A (rows, k) B, or += where `add`; `sums`: FEW_WIDE for each row, of gemm_thin's. */
struct few {
    const float *a, *b;
    int64_t n, k, a_row, a_col, ldb;
    float *c;
    int64_t ldc;
    bool add;
    float *sums;
};

/* nv vectors of each row down all of k; the last vector has `last` columns. */
SIMD_FN void few_strip(int mr, int nv, bool part, int64_t last, const struct few *t)
{
    vf sum[GEMM_THIN_ROWS][4];
    const float *a = t->a, *high = a + 3 * t->a_row, *b = t->b;
    int64_t a_row = t->a_row, a_col = t->a_col, ldb = t->ldb;
    for (int i = 0; i < mr; i++)
        for (int v = 0; v < nv; v++) sum[i][v] = (vf){0};
#pragma GCC unroll 4
    for (int64_t k = 0; k < t->k; k++, a += a_col, high += a_col, b += ldb) {
        vf x[GEMM_THIN_ROWS];
#pragma GCC unroll 8
        for (int i = 0; i < mr; i++) x[i] = vf_set(i < 3 ? a[i * a_row] : high[(i - 3) * a_row]);
#pragma GCC unroll 8
        for (int v = 0; v < nv; v++) {
            vf line = part && v == nv - 1 ? vf_load_part(b + v * VL, last, 0) : vf_load(b + v * VL);
#pragma GCC unroll 8
            for (int i = 0; i < mr; i++) block_add_product(&sum[i][v], x[i], line);
        }
    }
    for (int i = 0; i < mr; i++)
        for (int v = 0; v < nv; v++) {
            float *c = t->c + i * t->ldc + v * VL;
            int64_t n = part && v == nv - 1 ? last : VL;
            vf_put(c, t->add ? vf_get(c, n) + sum[i][v] : sum[i][v], n);
        }
}

/* Strip by strip: four vectors of each row are summed at once. */
SIMD_FN void few_down(int mr, struct few t)
{
    int64_t j = 0, n = t.n;
    const float *b = t.b;
    float *c = t.c;
#define COLUMNS_OF(nv)                       \
    for (; n - j >= (nv)*VL; j += (nv)*VL) { \
        t.b = b + j, t.c = c + j;            \
        few_strip(mr, nv, false, 0, &t);     \
    }
    COLUMNS_OF(4)
    COLUMNS_OF(2)
    COLUMNS_OF(1)
#undef COLUMNS_OF
    t.b = b + j, t.c = c + j;
    if (j < n) few_strip(mr, 1, true, n - j, &t);
}

/* Down a strip, rows of B that lie some KB apart are each waited for. Here a few rows are read along, as the processor
 * foresees it, and the sums of all columns stay in the first-level cache: 1.2 to 3.5 times as fast (Zen 3), more the further
 * apart they lie. Of rows that are near, one row of A alone gains. */
enum { FEW_ALONG = 3, FEW_DEEP = 8, FEW_WIDE = 2048, FEW_APART = 1024 };

/* The products of the next `deep` of k, whose numbers of A are at a[k * mr + i], are added to nv vectors from column j on,
 * the last of `last` columns; `begins` with the first k of all, `ends` with the last. */
SIMD_FN void few_add(int mr, int deep, int nv, int64_t last, bool begins, bool ends, int64_t j, const float *a,
                     const struct few *t)
{
    vf sum[FEW_ALONG][4];
    float *sums = t->sums + j, *c = t->c + j;
    const float *b = t->b + j;
#pragma GCC unroll 4
    for (int i = 0; i < mr; i++)
#pragma GCC unroll 4
        for (int v = 0; v < nv; v++) sum[i][v] = begins ? (vf){0} : vf_load(sums + i * FEW_WIDE + v * VL);
#pragma GCC unroll 8
    for (int k = 0; k < deep; k++, b += t->ldb)
#pragma GCC unroll 4
        for (int v = 0; v < nv; v++) {
            vf line = last < VL ? vf_load_part(b, last, 0) : vf_load(b + v * VL);
#pragma GCC unroll 4
            for (int i = 0; i < mr; i++) block_add_product(&sum[i][v], vf_set(a[k * mr + i]), line);
        }
#pragma GCC unroll 4
    for (int i = 0; i < mr; i++)
#pragma GCC unroll 4
        for (int v = 0; v < nv; v++) {
            float *to = c + i * t->ldc + v * VL;
            if (ends)
                vf_put(to, t->add ? vf_get(to, last) + sum[i][v] : sum[i][v], last);
            else
                vf_store(sums + i * FEW_WIDE + v * VL, sum[i][v]);
        }
}

SIMD_FN void few_add_along(int mr, int deep, bool begins, bool ends, const struct few *t)
{
    enum { NV = 4 };
    float a[FEW_DEEP * FEW_ALONG];
    int64_t j = 0;
    for (int k = 0; k < deep; k++)
        for (int i = 0; i < mr; i++) a[k * mr + i] = t->a[i * t->a_row + k * t->a_col];
    for (; j + NV * VL <= t->n; j += NV * VL) few_add(mr, deep, NV, VL, begins, ends, j, a, t);
    for (; j + VL <= t->n; j += VL) few_add(mr, deep, 1, VL, begins, ends, j, a, t);
    if (j < t->n) few_add(mr, deep, 1, t->n - j, begins, ends, j, a, t);
}

SIMD_FN void few_along(int mr, struct few t)
{
    struct few part = t;
    for (int64_t j = 0; j < t.n; j += FEW_WIDE) {
        part.n = t.n - j < FEW_WIDE ? t.n - j : FEW_WIDE;
        part.c = t.c + j;
        for (int64_t k = 0; k < t.k; k += FEW_DEEP) {
            part.a = t.a + k * t.a_col;
            part.b = t.b + k * t.ldb + j;
            if (t.k - k < FEW_DEEP)
                few_add_along(mr, (int)(t.k - k), k == 0, true, &part);
            else
                few_add_along(mr, FEW_DEEP, k == 0, k + FEW_DEEP == t.k, &part);
        }
    }
}

void gemm_thin(const struct gemm_args *g)
{
    float sums[FEW_ALONG * FEW_WIDE] __attribute__((aligned(64)));
    struct few t = {
        .n = g->n, .a_row = g->a_row, .a_col = g->a_col, .ldb = g->b_row, .c = g->c, .ldc = g->c_row, .sums = sums};
    bool apart = g->b_row >= FEW_APART;
    for (int64_t k = 0, block = gemm_k_block(g->k); k < g->k; k += block) {
        t.k = g->k - k < block ? g->k - k : block;
        t.a = (const float *)g->a + k * g->a_col;
        t.b = (const float *)g->b + k * g->b_row;
        t.add = g->add || k > 0;
        switch (g->m) {
        case 1: few_along(1, t); break;
        case 2: apart ? few_along(2, t) : few_down(2, t); break;
        case 3: apart ? few_along(3, t) : few_down(3, t); break;
#ifdef __AVX512F__
        case 4: few_down(4, t); break;
        case 5: few_down(5, t); break;
        case 6: few_down(6, t); break;
#endif
        }
    }
    gemm_epilogue(g);
}

/* ---- few columns: C' = B' A' --------------------------------------------------------------------------------------- */

/* Vectors lie along the rows of A, where C's rows would not fill one. A factor of each product changes places with the
 * other, which changes no bit. */
void gemm_narrow(const struct gemm_args *g)
{
    enum { ROWS = 512 };
    float turned[GEMM_NARROW_COLUMNS * ROWS] __attribute__((aligned(64)));
    struct gemm_args t = {.m = g->n,
                          .k = g->k,
                          .a = g->b,
                          .a_row = g->b_col,
                          .a_col = g->b_row,
                          .b_row = g->a_col,
                          .b_col = g->a_row,
                          .c = turned,
                          .c_row = ROWS,
                          .add = g->add};
    for (int64_t i = 0; i < g->m; i += ROWS) {
        float *c = (float *)g->c + i * g->c_row;
        t.n = g->m - i < ROWS ? g->m - i : ROWS;
        t.b = (const float *)g->a + i * g->a_row;
        for (int64_t x = 0; x < t.n && g->add; x++)
            for (int64_t j = 0; j < g->n; j++) turned[j * ROWS + x] = c[x * g->c_row + j];
        if (gemm_can(GEMM_THIN, &t))
            gemm_thin(&t);
        else
            gemm_direct(&t);
        for (int64_t x = 0; x < t.n; x++)
            for (int64_t j = 0; j < g->n; j++) c[x * g->c_row + j] = turned[j * ROWS + x];
    }
    gemm_epilogue(g);
}

/* ---- K in lanes ---------------------------------------------------------------------------------------------------- */

/* Sums at once: enough to fill the units, and one vector of eight when their lanes are added. */
enum { SUMS = 8 };

/* The sum of each of eight vectors' lanes: halves first, as vf_sum does it. */
SIMD_FN transpose_row sum_lanes(const vf x[SUMS])
{
    transpose_row y[SUMS], z[SUMS / 2];
#pragma GCC unroll 8
    for (int i = 0; i < SUMS; i++) {
#if VL == 16
        y[i] = __builtin_shufflevector(x[i], x[i], 0, 1, 2, 3, 4, 5, 6, 7) +
               __builtin_shufflevector(x[i], x[i], 8, 9, 10, 11, 12, 13, 14, 15);
#else
        y[i] = x[i];
#endif
    }
#pragma GCC unroll 4
    for (int i = 0; i < SUMS / 2; i++) /* i and i + 4: four lanes of each */
        z[i] = __builtin_shufflevector(y[i], y[i + 4], 0, 1, 2, 3, 8, 9, 10, 11) +
               __builtin_shufflevector(y[i], y[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
#pragma GCC unroll 2
    for (int i = 0; i < SUMS / 4; i++) /* i, i + 2 | i + 4, i + 6: two lanes of each */
        y[i] = __builtin_shufflevector(z[i], z[i + 2], 0, 1, 8, 9, 4, 5, 12, 13) +
               __builtin_shufflevector(z[i], z[i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    /* 0 2 1 3 | 4 6 5 7 of the sums' own lanes, put in order */
    transpose_row even = __builtin_shufflevector(y[0], y[1], 0, 8, 2, 10, 4, 12, 6, 14),
                  odd = __builtin_shufflevector(y[0], y[1], 1, 9, 3, 11, 5, 13, 7, 15);
    return even + odd;
}

/* c[i * c_line + j] (+)= the sum over k of line i of `a` times line j of `b`. */
struct lanes {
    int64_t k;
    const float *a, *b;
    int64_t lda, ldb;
    float *c;
    int64_t c_line, c_step;
    bool add;
};

/* rows x columns = SUMS, of which there are `m` and `n`: behind the last one it is taken again. */
SIMD_FN void lanes_block(int rows, int columns, int64_t m, int64_t n, const struct lanes *t)
{
    const float *a[SUMS], *b[SUMS];
    vf sum[SUMS];
    float each[SUMS];
    for (int i = 0; i < rows; i++) a[i] = t->a + (i < m ? i : m - 1) * t->lda;
    for (int j = 0; j < columns; j++) b[j] = t->b + (j < n ? j : n - 1) * t->ldb;
    for (int x = 0; x < SUMS; x++) sum[x] = (vf){0};
    int64_t k = 0;
    for (; k + VL <= t->k; k += VL) {
        vf y[SUMS];
#pragma GCC unroll 8
        for (int j = 0; j < columns; j++) y[j] = vf_load(b[j] + k);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            vf x = vf_load(a[i] + k);
#pragma GCC unroll 8
            for (int j = 0; j < columns; j++) block_add_product(&sum[i * columns + j], x, y[j]);
        }
    }
    if (k < t->k)
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < columns; j++)
                block_add_product(&sum[i * columns + j], vf_load_part(a[i] + k, t->k - k, 0),
                                  vf_load_part(b[j] + k, t->k - k, 0));
    transpose_row sums = sum_lanes(sum);
    memcpy(each, &sums, sizeof each);
    for (int i = 0; i < rows && i < m; i++)
        for (int j = 0; j < columns && j < n; j++) {
            float *c = t->c + i * t->c_line + j * t->c_step;
            *c = t->add ? *c + each[i * columns + j] : each[i * columns + j];
        }
}

/* m lines of `a`, n < 4 of `b`, or 4. */
static void lanes_lines(int64_t m, int64_t n, struct lanes t)
{
    int64_t rows = n == 1 ? 8 : n == 2 ? 4 : 2;
    for (int64_t i = 0; i < m; i += rows) {
        if (n == 1)
            lanes_block(8, 1, m - i, n, &t);
        else if (n == 2)
            lanes_block(4, 2, m - i, n, &t);
        else
            lanes_block(2, 4, m - i, n, &t);
        t.a += rows * t.lda;
        t.c += rows * t.c_line;
    }
}

/* Of the operand with few lines, `few` of them, the numbers k of a line are `step` apart: they are brought together. */
static void lanes(int64_t many, int64_t few, int64_t k, int64_t step, struct lanes t)
{
    float room[GEMM_LANES_MOST * GEMM_MOST_K] __attribute__((aligned(64)));
    const float *from = t.b;
    int64_t block = gemm_k_block(k), ld = t.ldb;
    for (int64_t at = 0; at < k; at += block, t.a += block, t.add = true) {
        t.k = k - at < block ? k - at : block;
        for (int64_t j = 0; j < few && step != 1; j++)
            for (int64_t x = 0; x < t.k; x++) room[j * GEMM_MOST_K + x] = from[j * ld + (at + x) * step];
        struct lanes part = t;
        for (int64_t j = 0; j < few; j += 4) {
            part.b = step == 1 ? from + j * ld + at : room + j * GEMM_MOST_K;
            part.ldb = step == 1 ? ld : GEMM_MOST_K;
            part.c = t.c + j * t.c_step;
            lanes_lines(many, few - j < 4 ? few - j : 4, part);
        }
    }
}

void gemm_lanes(const struct gemm_args *g)
{
    if (g->n <= GEMM_LANES_MOST && g->a_col == 1)
        lanes(g->m, g->n, g->k, g->b_row,
              (struct lanes){.a = g->a,
                             .lda = g->a_row,
                             .b = g->b,
                             .ldb = g->b_col,
                             .c = g->c,
                             .c_line = g->c_row,
                             .c_step = 1,
                             .add = g->add});
    else
        lanes(g->n, g->m, g->k, g->a_col,
              (struct lanes){.a = g->b,
                             .lda = g->b_col,
                             .b = g->a,
                             .ldb = g->a_row,
                             .c = g->c,
                             .c_line = 1,
                             .c_step = g->c_row,
                             .add = g->add});
    gemm_epilogue(g);
}
#endif
