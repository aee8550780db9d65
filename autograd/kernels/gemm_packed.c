/* One block of a product on this thread, by register-blocked kernels on packed panels (Goto & van de Geijn 2008).
 *
 * A is copied into panels of MR rows: [row][KC + PAD] where its rows are contiguous, [k][MR] where its columns are; the
 * strides are constants, so that the kernel needs one pointer. B is copied into panels [k][NR]. A panel of A stays in
 * the first-level cache while the panels of B come from the second. Each number of C is summed over k in order, in
 * blocks of KC: how the rest is cut does not change a bit. */
#pragma GCC optimize("O3")
#include "autograd/kernels/gemm.h"

#if defined(__AVX2__)
#include "autograd/kernels/simd.h"

#ifdef __AVX512F__
enum { MR = 14 }; /* 28 sums, 2 of B, 1 of A in 32 registers */
#else
enum { MR = 6 }; /* 12 sums, 2 of B, 1 of A in 16 registers */
#endif
enum { NR = 2 * VL, KC = 256, PAD = 16, ROW = KC + PAD, MC = 252, NC = 256 };

struct room {
    float a[(MC + MR - 1) / MR * MR * ROW], b[KC * NC], tile[MR * NR];
} __attribute__((aligned(64)));

void gemm_enter_thread(void) {}

static int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* ---- the kernel ----------------------------------------------------------------------------------------------------- */

/* C (mr x nv vectors) = A B, or += where `add`. */
SIMD_FN void kernel(int mr, int nv, bool by_row, int64_t kc, const float *a, const float *b, float *c, int64_t ldc,
                    bool add)
{
    vf sum[MR][2];
#pragma GCC unroll 16
    for (int i = 0; i < mr; i++)
#pragma GCC unroll 2
        for (int v = 0; v < nv; v++) sum[i][v] = (vf){0};
    for (int64_t k = 0; k < kc; k++) {
        vf b0 = vf_load(b), b1 = nv > 1 ? vf_load(b + VL) : b0;
        b += nv * VL;
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

typedef void (*kernel_fn)(int64_t kc, const float *a, const float *b, float *c, int64_t ldc, bool add);

/* clang-format off */
#define KERNEL(mr, nv, by_row)                                                                                  \
    static void kernel_##mr##_##nv##_##by_row(int64_t kc, const float *a, const float *b, float *c, int64_t ldc, \
                                              bool add)                                                         \
    {                                                                                                           \
        kernel(mr, nv, by_row, kc, a, b, c, ldc, add);                                                          \
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

/* Eight lines of eight numbers, `ld` apart, as eight columns `step` apart. */
SIMD_FN void transpose_8x8(const float *from, int64_t ld, float *to, int64_t step)
{
    typedef float v8 __attribute__((vector_size(32)));
    v8 r[8], s[8];
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) memcpy(&r[j], from + j * ld, sizeof r[j]);
#pragma GCC unroll 4
    for (int j = 0; j < 8; j += 2) {
        s[j] = __builtin_shufflevector(r[j], r[j + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        s[j + 1] = __builtin_shufflevector(r[j], r[j + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
#pragma GCC unroll 2
    for (int j = 0; j < 8; j += 4)
#pragma GCC unroll 2
        for (int x = 0; x < 2; x++) {
            r[j + 2 * x] = __builtin_shufflevector(s[j + x], s[j + x + 2], 0, 1, 8, 9, 4, 5, 12, 13);
            r[j + 2 * x + 1] = __builtin_shufflevector(s[j + x], s[j + x + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        v8 low = __builtin_shufflevector(r[j], r[j + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        v8 high = __builtin_shufflevector(r[j], r[j + 4], 4, 5, 6, 7, 12, 13, 14, 15);
        memcpy(to + j * step, &low, sizeof low);
        memcpy(to + (j + 4) * step, &high, sizeof high);
    }
}

/* to[k * step + j] = from[j * ld + k] for n lines j. */
static void transpose_lines(const float *from, int64_t ld, int64_t n, int64_t kc, float *to, int64_t step)
{
    int64_t j = 0;
    for (; j + 8 <= n; j += 8) {
        int64_t k = 0;
        for (; k + 8 <= kc; k += 8) transpose_8x8(from + j * ld + k, ld, to + k * step + j, step);
        for (; k < kc; k++)
            for (int x = 0; x < 8; x++) to[k * step + j + x] = from[(j + x) * ld + k];
    }
    for (; j < n; j++)
        for (int64_t k = 0; k < kc; k++) to[k * step + j] = from[j * ld + k];
}

/* The panel of column j of a block lies at j * KC: panels are NR wide, the last VL where that is enough. */
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
                vf_store(to + j * KC + t * NR, vf_load(b + j));
                vf_store(to + j * KC + t * NR + VL, vf_load(b + j + VL));
            }
            if (j == n) continue;
            float *end = to + j * KC + t * width_of(n, j);
            memcpy(end, b + j, (size_t)(n - j) * sizeof *b);
            memset(end + n - j, 0, (size_t)(width_of(n, j) - (n - j)) * sizeof *b);
        }
        return;
    }
    for (int64_t j = 0; j < n; j += NR) {
        int64_t width = width_of(n, j), here = min_of(n - j, width);
        float *panel = to + j * KC;
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

/* Rows i .. i+n-1, columns k .. k+kc-1 of A as one panel by rows; what lies behind them is not read. */
static void pack_rows(const struct gemm_args *g, int64_t i, int64_t n, int64_t k, int64_t kc, float *to)
{
    if (g->source) {
        g->source->fill(g->source->ctx, i, n, k, kc, to, ROW, 1);
        return;
    }
    const float *a = g->a + i * g->a_row + k * g->a_col;
    for (int64_t r = 0; r < n; r++, a += g->a_row, to += ROW) memcpy(to, a, (size_t)kc * sizeof *to);
}

/* All panels of a block by columns: panel p at p * MR * KC. */
static void pack_columns(const struct gemm_args *g, struct heights h, int64_t i, int64_t k, int64_t kc, float *to)
{
    if (g->source) {
        for (int64_t p = 0; p < h.panels; p++, to += MR * KC) {
            int64_t mr = p < h.tall ? h.mr : h.mr - 1;
            g->source->fill(g->source->ctx, i, mr, k, kc, to, 1, MR);
            i += mr;
        }
        return;
    }
    const float *a = g->a + i * g->a_row + k * g->a_col;
    for (int64_t t = 0; t < kc; t++, a += g->a_col) {
        const float *from = a;
        float *at = to + t * MR;
        for (int64_t p = 0; p < h.panels; p++, at += MR * KC) {
            int64_t mr = p < h.tall ? h.mr : h.mr - 1;
            if (p + 1 < h.panels) /* what is copied too much is not read */
                memcpy(at, from, MR * sizeof *at);
            else
                memcpy(at, from, (size_t)mr * sizeof *at);
            from += mr;
        }
    }
}

/* ---- a block -------------------------------------------------------------------------------------------------------- */

/* One tile of C: rows i .., columns j .. j+n-1. */
static void tile(const struct gemm_args *g, struct room *room, kernel_fn run, int mr, int64_t i, int64_t j, int64_t n,
                 int64_t kc, int64_t width, const float *a, const float *b, bool add, bool last)
{
    float *c = g->c + i * g->c_row + j;
    if (n == width) {
        run(kc, a, b, c, g->c_row, add);
    } else {
        run(kc, a, b, room->tile, NR, false);
        for (int r = 0; r < mr; r++)
            for (int64_t x = 0; x < n; x++)
                c[r * g->c_row + x] = add ? c[r * g->c_row + x] + room->tile[r * NR + x] : room->tile[r * NR + x];
    }
    if (!last || (!g->bias && !g->residual && !g->act)) return;
    for (int r = 0; r < mr; r++) gemm_epilogue_row(g, n, i + r, j);
}

/* Rows i0 .. i0+m-1 (at most MC), columns j0 .. j0+n-1 (at most NC), all of K. */
static void block(const struct gemm_args *g, struct room *room, int64_t i0, int64_t m, int64_t j0, int64_t n)
{
    struct heights h = heights_of(m);
    bool by_row = g->source ? !g->source->by_column : g->a_col == 1 || g->k == 1;
    for (int64_t k = 0; k < g->k; k += KC) {
        int64_t kc = min_of(KC, g->k - k);
        pack_b(g, j0, n, k, kc, room->b);
        if (!by_row) pack_columns(g, h, i0, k, kc, room->a);
        for (int64_t p = 0, i = 0; p < h.panels; p++) {
            int mr = (int)(p < h.tall ? h.mr : h.mr - 1);
            if (by_row) pack_rows(g, i0 + i, mr, k, kc, room->a);
            const float *a = by_row ? room->a : room->a + p * MR * KC;
            for (int64_t j = 0; j < n; j += NR) {
                int nv = width_of(n, j) / VL;
                tile(g, room, kernels[mr - 1][nv - 1][by_row], mr, i0 + i, j0 + j, min_of(NR, n - j), kc, nv * VL, a,
                     room->b + j * KC, g->add || k > 0, k + kc == g->k);
            }
            i += mr;
        }
    }
}

void gemm_multiply(const struct gemm_args *g)
{
    struct room room;
    for (int64_t i = 0; i < g->m; i += MC)
        for (int64_t j = 0; j < g->n; j += NC) block(g, &room, i, min_of(MC, g->m - i), j, min_of(NC, g->n - j));
}
#endif
