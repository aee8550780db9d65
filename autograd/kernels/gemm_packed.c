/* One block of a product on this thread, by register-blocked kernels on packed panels (Goto & van de Geijn 2008).
 *
 * A is copied into panels of MR rows: [row][ROW] where its rows are contiguous, [k][MR] where its columns are; the
 * strides are constants, so that the kernel needs one pointer. B is copied into panels [k][NR]. A block of B (KC, NC), as
 * large as the second-level cache, stands while panel after panel of A passes, the next one asked for ahead. Each number of C is
 * summed over k in order, in blocks of KC: how the rest is cut does not change a bit. */
#pragma GCC optimize("O3")
#include "autograd/kernels/gemm.h"

#if defined(__AVX2__)
#include "autograd/kernels/simd.h"
#include "autograd/kernels/transpose.h"

#ifdef __AVX512F__
enum { MR = 14, NC = 1024 }; /* 28 sums, 2 of B, 1 of A in 32 registers */
#else
enum { MR = 6, NC = 512 }; /* 12 sums, 2 of B, 1 of A in 16 registers */
#endif
/* Odd strides between rows and panels: they must not meet in the same sets of the cache. */
enum { NR = 2 * VL, KC = 256, ROW = KC + 16, PANEL = KC * NR + 2 * 16 };

struct room {
    float a[MR * ROW + VL], b[NC / NR * PANEL], tile[MR * NR];
} __attribute__((aligned(64)));

void gemm_enter_thread(void) {}

static int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* ---- the kernel ----------------------------------------------------------------------------------------------------- */

/* C (mr x nv vectors) = A B, or += where `add`. */
SIMD_FN void kernel(int mr, int nv, bool by_row, int64_t kc, const float *a, const float *b, int64_t ldb, float *c,
                    int64_t ldc, bool add)
{
    vf sum[MR][2];
#pragma GCC unroll 16
    for (int i = 0; i < mr; i++)
#pragma GCC unroll 2
        for (int v = 0; v < nv; v++) sum[i][v] = (vf){0};
    for (int64_t k = 0; k < kc; k++) {
        vf b0 = vf_load(b), b1 = nv > 1 ? vf_load(b + VL) : b0;
        b += ldb;
#pragma GCC unroll 16
        for (int i = 0; i < mr; i++) {
            vf x = vf_set(a[by_row ? i * ROW : i]);
            sum[i][0] += x * b0;
            if (nv > 1) sum[i][1] += x * b1;
        }
        a += by_row ? 1 : MR;
    }
#pragma GCC unroll 16
    for (int i = 0; i < mr; i++)
#pragma GCC unroll 2
        for (int v = 0; v < nv; v++) {
            float *to = c + i * ldc + v * VL;
            vf_store(to, add ? vf_load(to) + sum[i][v] : sum[i][v]);
        }
}

typedef void (*kernel_fn)(int64_t kc, const float *a, const float *b, int64_t ldb, float *c, int64_t ldc, bool add);

/* clang-format off */
#define KERNEL(mr, nv, by_row)                                                                                   \
    static void kernel_##mr##_##nv##_##by_row(int64_t kc, const float *a, const float *b, int64_t ldb, float *c, \
                                              int64_t ldc, bool add)                                             \
    {                                                                                                            \
        kernel(mr, nv, by_row, kc, a, b, ldb, c, ldc, add);                                                      \
    }
#define EACH_OF(mr) KERNEL(mr, 1, 0) KERNEL(mr, 1, 1) KERNEL(mr, 2, 0) KERNEL(mr, 2, 1)
#define ROW_OF(mr) {{kernel_##mr##_1_0, kernel_##mr##_1_1}, {kernel_##mr##_2_0, kernel_##mr##_2_1}},
#ifdef __AVX512F__
#define HEIGHTS(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14)
#else
#define HEIGHTS(X) X(1) X(2) X(3) X(4) X(5) X(6)
#endif
HEIGHTS(EACH_OF)
static const kernel_fn kernels[MR][2][2] = {HEIGHTS(ROW_OF)};
/* clang-format on */

/* ---- packing -------------------------------------------------------------------------------------------------------- */

/* Panels of a block are NR wide, the last VL where that is enough. */
static int64_t width_of(int64_t n, int64_t j)
{
    return n - j > VL ? NR : VL;
}

/* Rows k .. k+kc-1, columns j0 .. j0+n-1 of B; columns behind the last are zero. */
static void pack_b(const struct gemm_args *g, int64_t j0, int64_t n, int64_t k, int64_t kc, float *to)
{
    const float *b = g->b + k * g->b_row + j0 * g->b_col;
    int64_t whole = n / NR * NR;
    if (g->b_col == 1 || g->n == 1) { /* a row at a time: memory is read in the order in which it lies */
        for (int64_t t = 0; t < kc; t++, b += g->b_row) {
            int64_t j = 0;
            for (; j < whole; j += NR) {
                vf_store(to + j / NR * PANEL + t * NR, vf_load(b + j));
                vf_store(to + j / NR * PANEL + t * NR + VL, vf_load(b + j + VL));
            }
            if (j == n) continue;
            float *end = to + j / NR * PANEL + t * width_of(n, j);
            vf_copy(end, b + j, n - j);
            for (int64_t x = n - j; x < width_of(n, j); x++) end[x] = 0;
        }
        return;
    }
    for (int64_t j = 0; j < n; j += NR) {
        int64_t width = width_of(n, j), here = min_of(n - j, width);
        float *panel = to + j / NR * PANEL;
        transpose_lines(b + j * g->b_col, g->b_col, here, kc, panel, width);
        for (int64_t t = 0; t < kc && here < width; t++)
            memset(panel + t * width + here, 0, (size_t)(width - here) * sizeof *panel);
    }
}

/* Rows of A in panels of about equal height. */
struct heights {
    int64_t panels, tall, mr; /* the first `tall` panels have mr rows, the others mr - 1 */
};
static struct heights heights_of(int64_t m)
{
    struct heights h = {.panels = (m + MR - 1) / MR};
    h.mr = (m + h.panels - 1) / h.panels;
    h.tall = m - h.panels * (h.mr - 1);
    return h;
}

/* Panel of A: rows i .. i+n-1, columns k .. k+kc-1. What lies behind row n is not read by the kernel of that height. */
static void pack_a(const struct gemm_args *g, bool by_row, int64_t i, int64_t n, int64_t k, int64_t kc, float *to)
{
    if (g->source) {
        g->source->fill(g->source->ctx, i, n, k, kc, to, by_row ? ROW : 1, by_row ? 1 : MR);
        return;
    }
    const float *a = g->a + i * g->a_row + k * g->a_col;
    if (by_row) {
        for (int64_t r = 0; r < n; r++, a += g->a_row, to += ROW) vf_copy(to, a, kc);
        return;
    }
    int64_t t = 0;
    if (i + 2 * VL <=
        g->m) /* whole vectors: what is too much is overwritten by the next k, or is room behind the last */
        for (; t < kc; t++, a += g->a_col, to += MR) vf_store(to, vf_load(a));
    for (; t < kc; t++, a += g->a_col, to += MR)
        for (int64_t r = 0; r < n; r++) to[r] = a[r * g->a_row];
}

/* Asks for a part (of `parts`) of the panel behind row i into the second-level cache. */
static void prefetch_a(const struct gemm_args *g, bool by_row, int64_t i, int64_t k, int64_t kc, int64_t part,
                       int64_t parts)
{
    if (g->source || i + MR > g->m) return;
    const float *a = g->a + i * g->a_row + k * g->a_col;
    if (by_row) {
        int64_t lines = (kc + 15) / 16, from = part * MR / parts, to = (part + 1) * MR / parts;
        for (int64_t r = from; r < to; r++)
            for (int64_t x = 0; x < lines; x++) __builtin_prefetch(a + r * g->a_row + x * 16, 0, 3);
    } else {
        for (int64_t t = part * kc / parts; t < (part + 1) * kc / parts; t++)
            __builtin_prefetch(a + t * g->a_col + MR - 1, 0, 3);
    }
}

/* ---- a block -------------------------------------------------------------------------------------------------------- */

/* A panel of B as the kernel reads it. */
struct panel {
    const float *b;
    int64_t ldb, n, width;
};

/* One tile of C: rows i .., columns j .. j+n-1. */
static void tile(const struct gemm_args *g, struct room *room, kernel_fn run, int mr, int64_t i, int64_t j, int64_t kc,
                 struct panel b, bool add)
{
    float *c = g->c + i * g->c_row + j;
    for (int r = 0; r < mr; r++) {
        __builtin_prefetch(c + r * g->c_row, 1);
        __builtin_prefetch(c + r * g->c_row + b.n - 1, 1);
    }
    if (b.n == b.width) {
        run(kc, room->a, b.b, b.ldb, c, g->c_row, add);
    } else {
        run(kc, room->a, b.b, b.ldb, room->tile, NR, false);
        for (int r = 0; r < mr; r++)
            for (int64_t x = 0; x < b.n; x++)
                c[r * g->c_row + x] = add ? c[r * g->c_row + x] + room->tile[r * NR + x] : room->tile[r * NR + x];
    }
}

/* Few rows of A: B is read where it lies, but for the last columns, which do not fill a vector. */
static bool reads_in_place(const struct gemm_args *g)
{
    return g->b_col == 1 && g->m <= 4 * MR;
}

/* All rows, columns j0 .. j0+n-1 (at most NC), all of K. */
static void strip(const struct gemm_args *g, struct room *room, int64_t j0, int64_t n)
{
    struct heights h = heights_of(g->m);
    bool by_row = g->source ? !g->source->by_column : g->a_col == 1 || g->k == 1, in_place = reads_in_place(g);
    bool ends = g->bias || g->residual || g->act;
    int64_t panels = (n + NR - 1) / NR, first = in_place ? n / VL * VL : 0;
    for (int64_t k = 0; k < g->k; k += KC) {
        int64_t kc = min_of(KC, g->k - k);
        if (first < n) pack_b(g, j0 + first, n - first, k, kc, room->b + first / NR * PANEL);
        for (int64_t p = 0, i = 0; p < h.panels; p++) {
            int mr = (int)(p < h.tall ? h.mr : h.mr - 1);
            pack_a(g, by_row, i, mr, k, kc, room->a);
            for (int64_t j = 0; j < n;) {
                int64_t width = j < first ? min_of(NR, first - j) : width_of(n, j);
                struct panel b = {room->b + j / NR * PANEL, width, min_of(width, n - j), width};
                if (j < first) b.b = g->b + k * g->b_row + j0 + j, b.ldb = g->b_row;
                prefetch_a(g, by_row, i + mr, k, kc, j / NR, panels);
                tile(g, room, kernels[mr - 1][width / VL - 1][by_row], mr, i, j0 + j, kc, b, g->add || k > 0);
                j += width;
            }
            for (int r = 0; r < mr && ends && k + kc == g->k; r++) gemm_epilogue_row(g, n, i + r, j0);
            i += mr;
        }
    }
}

void gemm_multiply(const struct gemm_args *g)
{
    struct room room;
    for (int64_t j = 0; j < g->n; j += NC) strip(g, &room, j, min_of(NC, g->n - j));
}
#endif
