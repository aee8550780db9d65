/* B copied into panels: for one block by its thread, or weights once for all that multiply by them. */
#pragma GCC optimize("O3")
#include "autograd/kernels/gemm_panels.h"

#if defined(__AVX2__)
#include "autograd/kernels/transpose.h"

static int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* n columns of kc rows of B from `b` on, a row at a time: memory is read in the order in which it lies, and asked for some
 * rows ahead; a single panel's numbers have been asked for by who copies it. */
SIMD_FN void pack_rows(enum ad_dtype type, const void *b, int64_t b_row, int64_t n, int64_t kc, float *to)
{
    enum { AHEAD = 4 };
    int64_t whole = n / NR * NR, size = panel_size(kc);
    for (int64_t t = 0; t < kc; t++) {
        const void *row = at_as(type, b, t * b_row);
        int64_t j = 0;
        for (; j < whole; j += NR) {
            if (n > NR) {
                ask_l2(at_as(type, row, AHEAD * b_row + j));
                ask_l2(at_as(type, row, AHEAD * b_row + j + NR - 1));
            }
            vf_store(to + j / NR * size + t * NR, vf_load_as(type, row, j));
            vf_store(to + j / NR * size + t * NR + VL, vf_load_as(type, row, j + VL));
        }
        if (j == n) continue;
        float *end = to + j / NR * size + t * panel_width(n, j);
        vf_widen(type, at_as(type, row, j), end, n - j);
        for (int64_t x = n - j; x < panel_width(n, j); x++) end[x] = 0;
    }
}

/* Lines of 16-bit numbers are widened eight at a time. */
static void transpose_half(enum ad_dtype type, const void *from, int64_t ld, int64_t n, int64_t kc, float *to,
                           int64_t step)
{
    enum { LINE = GEMM_MOST_K + 16 };
    float wide[8 * LINE];
    for (int64_t j = 0; j < n; j += 8) {
        int64_t here = min_of(8, n - j);
        for (int64_t x = 0; x < here; x++) vf_widen(type, at_as(type, from, (j + x) * ld), wide + x * LINE, kc);
        transpose_lines(wide, LINE, here, kc, to + j, step);
    }
}

void gemm_pack_b(const struct gemm_args *g, int64_t j0, int64_t n, int64_t k, int64_t kc, float *to)
{
    const void *b = at_as(g->b_type, g->b, k * g->b_row + j0 * g->b_col);
    if (g->b_col == 1 || g->n == 1) {
        BY_TYPE(g->b_type, pack_rows, b, g->b_row, n, kc, to);
        return;
    }
    for (int64_t j = 0; j < n; j += NR) {
        int64_t width = panel_width(n, j), here = min_of(n - j, width);
        float *panel = to + j / NR * panel_size(kc);
        const void *line = at_as(g->b_type, b, j * g->b_col);
        if (g->b_type == AD_F32)
            transpose_lines(line, g->b_col, here, kc, panel, width);
        else
            transpose_half(g->b_type, line, g->b_col, here, kc, panel, width);
        for (int64_t t = 0; t < kc && here < width; t++)
            memset(panel + t * width + here, 0, (size_t)(width - here) * sizeof *panel);
    }
}

/* ---- B that is kept in panels --------------------------------------------------------------------------------------- */

enum { PIECE = 64 / NR }; /* panels that are copied together: so few that many threads have some */

int64_t gemm_panels_count(int64_t n, int64_t k)
{
    int64_t block = gemm_k_block(k), whole = k / block, rest = k % block;
    return whole * panels_size(n, block) + (rest ? panels_size(n, rest) : 0);
}

bool gemm_panels_place(int64_t n, int64_t k, int64_t i, int64_t *row, int64_t *column)
{
    int64_t block = gemm_k_block(k), first = i / panels_size(n, block) * block, kc = min_of(block, k - first);
    i %= panels_size(n, block);
    int64_t j = i / panel_size(kc) * NR, width = panel_width(n, j);
    i %= panel_size(kc);
    *row = first + i / width;
    *column = j + i % width;
    return i / width < kc && *column < n;
}

int64_t gemm_panels_pieces(int64_t n, int64_t k)
{
    int64_t block = gemm_k_block(k);
    return (k + block - 1) / block * ((n + PIECE * NR - 1) / (PIECE * NR));
}

void gemm_panels_copy(const struct gemm_args *g, int64_t piece, float *to)
{
    int64_t block = gemm_k_block(g->k), across = (g->n + PIECE * NR - 1) / (PIECE * NR);
    int64_t k = piece / across * block, kc = min_of(block, g->k - k), j = piece % across * PIECE * NR;
    struct gemm_panels p = {.at = to, .n = g->n};
    gemm_pack_b(g, j, min_of(PIECE * NR, g->n - j), k, kc, panel_at(&p, k, kc, block, j));
}
#endif
