/* Operands read where they lie: copying them into panels would take as long as multiplying while the first two caches hold
 * them. The sums are those of gemm_packed.c, bit for bit: how a product is cut decides which of them has a block. */
#pragma GCC optimize("O3")
#include "autograd/kernels/gemm.h"

#if defined(__AVX2__)
#include "autograd/kernels/register_block.h"
#include "autograd/kernels/transpose.h"

/* Rows at a time, of two vectors and of one, which needs as many sums on the way to fill the units. */
enum { MR = 6, MR_1 = 12, NR = 2 * VL };
/* Numbers of B at a time, which the first-level cache holds beside a little of A and C. */
enum { ROOM = GEMM_MOST_K * NR };

/* Blocks of C beside one another: `count` whole ones, or one whose last vector has `last` columns; k numbers to sum. */
struct blocks {
    int64_t k, count, last;
    const float *a, *b;
    int64_t lda, ldb;
    float *c;
    int64_t ldc;
    bool add;
    float *copy; /* NULL, or rows of ld_copy for what is read of B */
    int64_t ld_copy;
};

/* Of a block whose last vector has fewer columns than lanes. */
SIMD_FN void store_part(int mr, int nv, block_sums sum, float *c, int64_t ldc, bool add, int64_t last)
{
#pragma GCC unroll 12
    for (int i = 0; i < mr; i++, c += ldc) {
        float *end = c + (nv - 1) * VL;
        vf x = sum[i][nv - 1];
        if (nv > 1) vf_store(c, add ? vf_load(c) + sum[i][0] : sum[i][0]);
        vf_store_part(end, add ? vf_load_part(end, last, 0) + x : x, last);
    }
}

/* C (mr x nv vectors) = A B, or += where `add`, block after block. Element (i, k) of A is at a[i * lda + k] where `by_row`,
 * else at a[i + k * lda]. Where it `copies`, B's rows, which lie far apart, are asked for ahead: no processor foresees them. */
SIMD_FN void kernel(int mr, int nv, bool by_row, bool part, bool copies, const struct blocks *t)
{
    enum { AHEAD = 32 };
    int64_t lda = t->lda, ldb = t->ldb, ldc = t->ldc, last = t->last, n = t->k;
    float *c = t->c;
    const float *rows = t->a, *first = t->b, *end = first + t->count * nv * VL;
    bool add = t->add;
    for (; first < end; c += nv * VL, first += nv * VL) {
        block_sums sum;
        block_clear(mr, nv, sum);
        const float *a = rows, *high = a + 3 * lda, *b = first;
        float *copy = copies ? t->copy + (first - t->b) : NULL;
#pragma GCC unroll 4
        for (int64_t k = 0; k < n; k++) {
            const float *v = b + (nv - 1) * VL;
            vf b1 = part ? vf_load_part(v, last, 0) : vf_load(v), b0 = nv > 1 ? vf_load(b) : b1;
            block_add(mr, nv, a, by_row ? high : a + 3, by_row ? lda : 1, b0, b1, sum);
            if (copies) {
                ask_l1(b + AHEAD * ldb);
                vf_store(copy, b0);
                vf_store(copy + VL, b1);
                copy += t->ld_copy;
            }
            a += by_row ? 1 : lda;
            high++;
            b += ldb;
        }
        if (part)
            store_part(mr, nv, sum, c, ldc, add, last);
        else
            block_store(mr, nv, sum, c, ldc, add);
    }
}

typedef void kernel_fn(const struct blocks *t);

/* clang-format off */
#define KERNEL(mr, nv, by_row, part)                                          \
    static void kernel_##mr##_##nv##_##by_row##_##part(const struct blocks *t) \
    {                                                                         \
        kernel(mr, nv, by_row, part, false, t);                               \
    }
#define COPYING(mr, by_row)                                                   \
    static void copying_##mr##_##by_row(const struct blocks *t)               \
    {                                                                         \
        kernel(mr, 2, by_row, false, true, t);                                \
    }
#define EACH_OF(mr, nv) KERNEL(mr, nv, 0, 0) KERNEL(mr, nv, 0, 1) KERNEL(mr, nv, 1, 0) KERNEL(mr, nv, 1, 1)
#define NAME(mr, nv, by_row, part) kernel_##mr##_##nv##_##by_row##_##part
#define NAMES_OF(mr, nv) {{NAME(mr, nv, 0, 0), NAME(mr, nv, 0, 1)}, {NAME(mr, nv, 1, 0), NAME(mr, nv, 1, 1)}},
#define HEIGHTS(X, nv) X(1, nv) X(2, nv) X(3, nv) X(4, nv) X(5, nv) X(6, nv)
#define MORE_HEIGHTS(X, nv) X(7, nv) X(8, nv) X(9, nv) X(10, nv) X(11, nv) X(12, nv)
HEIGHTS(EACH_OF, 1) MORE_HEIGHTS(EACH_OF, 1) HEIGHTS(EACH_OF, 2)
/* by rows, by row, part */
static kernel_fn *const kernels_1[MR_1 + 1][2][2] = {{{0}}, HEIGHTS(NAMES_OF, 1) MORE_HEIGHTS(NAMES_OF, 1)};
static kernel_fn *const kernels_2[MR + 1][2][2] = {{{0}}, HEIGHTS(NAMES_OF, 2)};
COPYING(4, 0) COPYING(4, 1) COPYING(5, 0) COPYING(5, 1) COPYING(6, 0) COPYING(6, 1)
/* of the first of several panels of rows */
static kernel_fn *const copying[MR + 1][2] = {
    [4] = {copying_4_0, copying_4_1}, [5] = {copying_5_0, copying_5_1}, [6] = {copying_6_0, copying_6_1}};
/* clang-format on */

/* All rows of n columns, so many at a time as `two` vectors or one have: what B has there is in the first cache, and C is
 * written along its rows. t's operands are the first ones. Where `ends` the sums are whole, and what comes behind them is
 * done to these rows while they are in the cache. */
static void strip(const struct gemm_args *g, bool by_row, bool two, int64_t n, struct blocks t, bool ends)
{
    int64_t i = 0, first = t.c - (float *)g->c; /* the column */
    int64_t panels = two ? (g->m + MR - 1) / MR : (g->m + MR_1 - 1) / MR_1, width = two ? NR : VL;
    int64_t low = panels == 1 ? g->m : g->m / panels;
    int64_t tall = g->m - panels * low; /* heights are about equal: so many have a row more than `low` */
    for (int64_t x = 0; x < panels; x++) {
        int64_t mr = low + (x < tall);
        kernel_fn *const *run = (two ? kernels_2 : kernels_1)[mr][by_row];
        struct blocks at = t;
        at.count = n / width;
        if (x == 0 && t.copy) {
            copying[mr][by_row](&at);
            t.b = t.copy;
            t.ldb = t.ld_copy;
        } else if (at.count) {
            run[0](&at);
        }
        at.b += at.count * width;
        at.c += at.count * width;
        at.last = n - at.count * width - (two ? VL : 0);
        at.count = 1;
        if (n % width) run[1](&at);
        for (int64_t r = 0; r < mr && ends; r++) gemm_epilogue_row(g, t.c + r * g->c_row, n, i + r, first);
        i += mr;
        t.a += mr * g->a_row;
        t.c += mr * g->c_row;
    }
}

/* kc rows, n columns of a B whose columns are contiguous into rows of `ld`, eight by eight: for columns behind the last one
 * the last stands again, and rows behind the last are zero; neither is read. */
static void turn(const float *b, int64_t ldb, int64_t kc, int64_t n, float *to, int64_t ld)
{
    static const int32_t lanes[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
    for (int64_t j = 0; j < n; j += 8)
        for (int64_t k = 0; k < kc; k += 8) {
            __m256i there = _mm256_loadu_si256((const __m256i *)(lanes + 8 - (kc - k < 8 ? kc - k : 8)));
            transpose_row r[8];
#pragma GCC unroll 8
            for (int x = 0; x < 8; x++) r[x] = _mm256_maskload_ps(b + (j + x < n ? j + x : n - 1) * ldb + k, there);
            transpose_registers(r, to + k * ld + j, ld);
        }
}

/* Whether rows of B that lie a multiple of 2 or 4 KB apart throw one another out of the first-level cache, which keeps a
 * few of them, so that a copy pays: at 4 KB from the second panel of rows on, 1.1-1.5 times as fast (Zen 3). The wide kernel
 * comes back for a row half as often. */
static bool rows_meet(const struct gemm_args *g)
{
    enum { ROWS = 32, FAR = 1024, LONG = 256 };
    if (VL > 8 || g->m <= MR) return false;
    return (g->b_row % FAR == 0 && g->k > ROWS) || (g->b_row % (FAR / 2) == 0 && g->k > LONG && g->m >= ROWS);
}

/* A strip of columns after the other, as wide as the first-level cache allows. */
static void multiply(const struct gemm_args *g)
{
    float room[ROOM + GEMM_MOST_K * VL] __attribute__((aligned(64)));
    int64_t block = gemm_k_block(g->k), columns = g->n <= NR ? NR : ROOM / block / NR * NR;
    int64_t ld = (g->n < columns ? (g->n + NR - 1) / NR * NR : columns) + VL; /* odd: rows must not meet in the cache */
    bool a_rows = g->a_col == 1 || g->k == 1, b_rows = g->b_col == 1 || g->n == 1;
    bool copies = b_rows && rows_meet(g);
    struct blocks t = {
        .lda = a_rows ? g->a_row : g->a_col, .ldb = b_rows ? g->b_row : ld, .ldc = g->c_row, .ld_copy = ld};
    for (int64_t k = 0; k < g->k; k += t.k) {
        t.k = g->k - k < block ? g->k - k : block;
        t.add = g->add || k > 0;
        bool ends = gemm_has_epilogue(g) && k + t.k == g->k;
        for (int64_t j = 0; j < g->n; j += columns) {
            int64_t n = g->n - j < columns ? g->n - j : columns, rest = n % NR, one = rest <= VL ? rest : 0;
            t.a = (const float *)g->a + k * g->a_col;
            t.b = (const float *)g->b + k * g->b_row + j * g->b_col;
            t.c = (float *)g->c + j;
            if (!b_rows) {
                turn(t.b, g->b_col, t.k, n, room, ld);
                t.b = room;
            } else if (copies && n > rest) {
                t.copy = room;
                strip(g, a_rows, true, n - rest, t, ends);
                t.copy = NULL;
                t.b += n - rest;
                t.c += n - rest;
                n = rest;
            }
            if (n > one) strip(g, a_rows, true, n - one, t, ends);
            t.b += n - one;
            t.c += n - one;
            if (one) strip(g, a_rows, false, one, t, ends);
        }
    }
}

/* A few columns behind the last whole vector cost as much as a wide one: where there are rows enough, turning A for them
 * costs less. */
void gemm_direct(const struct gemm_args *g)
{
    enum { FEW = VL > 8 ? 4 : 0, WORTH = 32 };
    int64_t rest = g->n > NR && g->m >= WORTH && g->n % VL <= FEW ? g->n % VL : 0;
    if (rest) {
        struct gemm_args whole = *g, few = *g;
        whole.n -= rest;
        few.n = rest;
        few.b = (const float *)g->b + whole.n * g->b_col;
        few.c = (float *)g->c + whole.n;
        if (g->bias) few.bias += whole.n;
        if (g->residual) few.residual = at_as(g->res_type, g->residual, whole.n);
        multiply(&whole);
        gemm_narrow(&few);
    } else {
        multiply(g);
    }
}
#endif
