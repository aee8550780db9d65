/* Which back end multiplies a block: a table of what was measured. It is made from, and held against, the lines of
 *
 *     triad bench gemm --table
 *     OPENBLAS_CORETYPE=Haswell LIBXSMM_TARGET=hsw TRIAD_ISA=avx2 triad bench gemm --table
 *
 * which mark a class of products where the choice is more than 5 % behind the fastest; `make bench-backends` keeps both for
 * docs/performance.md. OpenBLAS sums in another order, so that it could multiply whole products only, never a block of one that
 * is cut for the threads. */
#include "autograd/kernels/simd.h"
#include "autograd/kernels/gemm.h"

bool gemm_can(enum gemm_backend by, const struct gemm_args *g)
{
#ifdef __AVX2__
    bool f32 = g->a_type == AD_F32 && g->b_type == AD_F32 && g->c_type == AD_F32;
    if (by == GEMM_PACKED) return true;
    if (!f32 || g->source || g->stream) return false;
    if (by == GEMM_LANES)
        return (g->n <= GEMM_LANES_MOST && g->a_col == 1) || (g->m <= GEMM_LANES_MOST && g->b_row == 1);
#ifdef GEMM_XSMM_HERE
    if (by == GEMM_XSMM) return gemm_xsmm_can(g);
#endif
    if (by == GEMM_THIN) return g->m <= GEMM_THIN_ROWS && (g->b_col == 1 || g->n == 1);
    return by == GEMM_DIRECT || (by == GEMM_NARROW && g->n <= GEMM_NARROW_COLUMNS);
#else
    return by == GEMM_BLAS;
#endif
}

#ifdef __AVX2__
enum layout { ANY, ROWS, COLUMNS }; /* which of an operand are contiguous */

/* Of products whose B is not in panels yet: the first row that holds and that can multiply the block has it; where none does, the packed panels. A limit of 0 is
 * none. `numbers`: of the operands, (m + n) k; `share`: that in 32 bits, of a core's second-level cache. */
struct row {
    enum layout a, b;
    struct {
        int64_t least, most;
    } m, n, k;
    int64_t numbers;
    double share;
    enum gemm_backend by;
};

/* clang-format off */
static const struct row table[] = {
#ifdef __AVX512F__ /* measured on Zen 4, and the rows of B' on Emerald Rapids */
    /* A     B        m          n          k       numbers share */
    {ANY,     ANY,     {0, 31},   {0, 255},  {0, 0}, 65536,  0,   GEMM_DIRECT}, /* the smallest, first: asking counts there */
    {ANY,     ROWS,    {0, 6},    {128, 0},  {8, 0}, 0,      0,   GEMM_THIN},
    {ROWS,    ANY,     {0, 6},    {0, 0},    {0, 0}, 0,      0,   GEMM_DIRECT},
    {ROWS,    COLUMNS, {0, 16},   {0, 0},    {0, 0}, 0,      0,   GEMM_DIRECT},
    {ANY,     ANY,     {32, 0},   {0, 8},    {0, 0}, 0,      0,   GEMM_NARROW},
    {ROWS,    COLUMNS, {0, 0},    {0, 0},    {0, 0}, 524288, 0,   GEMM_DIRECT},
    {ROWS,    ROWS,    {0, 0},    {0, 2048}, {0, 0}, 262144, 0,   GEMM_DIRECT},
    {COLUMNS, ANY,     {0, 2048}, {0, 2048}, {0, 0}, 262144, 0,   GEMM_DIRECT},
#else /* measured on Zen 3 (512 KB) and, from the shares on, on Emerald Rapids (2 MB) */
    {ANY,     ROWS,    {64, 0},   {64, 512}, {4, 16}, 0,     0,   GEMM_XSMM},
    {ROWS,    ROWS,    {17, 0},   {17, 64},  {17, 80}, 0,    0,   GEMM_XSMM},
    {COLUMNS, ROWS,    {17, 0},   {17, 64},  {17, 80}, 0,    0.5, GEMM_XSMM},
    {ANY,     ROWS,    {4, 16},   {4, 4},    {4, 16}, 0,     0,   GEMM_XSMM},
    {ANY,     ROWS,    {9, 15},   {9, 15},   {9, 16}, 0,     0,   GEMM_XSMM},
    {ANY,     ANY,     {0, 31},   {0, 255},  {0, 0}, 65536,  0,   GEMM_DIRECT},
    {ANY,     ROWS,    {0, 3},    {128, 0},  {8, 0}, 0,      0,   GEMM_THIN},
    {ROWS,    ANY,     {0, 16},   {0, 0},    {0, 0}, 0,      0,   GEMM_DIRECT},
    {ANY,     ANY,     {32, 0},   {0, 4},    {0, 0}, 0,      0,   GEMM_NARROW},
    {COLUMNS, ANY,     {512, 0},  {0, 8},    {0, 0}, 0,      0,   GEMM_NARROW},
    {ANY,     ANY,     {0, 0},    {0, 16},   {0, 0}, 0,      0,   GEMM_DIRECT},
    {ROWS,    COLUMNS, {0, 0},    {0, 0},    {0, 0}, 524288, 0,   GEMM_DIRECT},
    {ROWS,    ROWS,    {0, 0},    {0, 0},    {0, 0}, 0,      2.2, GEMM_DIRECT},
    {COLUMNS, ANY,     {0, 64},   {0, 64},   {0, 0}, 0,      2,   GEMM_DIRECT},
    {COLUMNS, ANY,     {0, 64},   {0, 0},    {0, 0}, 0,      1.1, GEMM_DIRECT},
    {COLUMNS, ANY,     {0, 0},    {0, 0},    {0, 0}, 0,      0.5, GEMM_DIRECT},
#endif
};
/* clang-format on */

static bool within(int64_t x, int64_t least, int64_t most)
{
    return x >= least && (most == 0 || x <= most);
}

static bool fits(int64_t numbers, const struct row *r)
{
    return within(numbers, 0, r->numbers) &&
           (r->share == 0 || (double)numbers * sizeof(float) <= r->share * (double)gemm_second_cache());
}

static bool lies(enum layout want, bool rows)
{
    return want == ANY || (want == ROWS) == rows;
}

/* The lanes of a sum are added to one another once in a block of K, and a line of the longer operand is read as fast as
 * memory allows: what is short gains nothing, but that a few short lines of both need not be turned. */
bool gemm_sums_in_lanes(const struct gemm_args *g)
{
    enum { FEW = 4, SHORT = 16 };
    enum { LENGTH = 64, LINES = 32, MOST_ROWS = 8, MOST_COLUMNS = VL > 8 ? 8 : 4 };
    bool few_rows = g->m <= MOST_ROWS && g->n >= LINES, few_columns = g->n <= MOST_COLUMNS && g->m >= LINES;
    bool few_lines = g->m <= SHORT && g->n <= FEW && g->k <= SHORT && g->a_col == 1 && g->b_row == 1 && g->b_col != 1;
    return (((few_rows || few_columns) && g->k >= LENGTH) || few_lines) && !g->panels.at && gemm_can(GEMM_LANES, g);
}

enum gemm_backend gemm_backend_of(const struct gemm_args *g)
{
    if (g->panels.at) return GEMM_PACKED;
    if (g->lanes) return GEMM_LANES;
    bool a_rows = g->a_col == 1 || g->k == 1, b_rows = g->b_col == 1 || g->n == 1;
    int64_t numbers = (g->m + g->n) * g->k;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        const struct row *r = &table[i];
        if (within(g->m, r->m.least, r->m.most) && within(g->n, r->n.least, r->n.most) &&
            within(g->k, r->k.least, r->k.most) && lies(r->a, a_rows) && lies(r->b, b_rows) && fits(numbers, r) &&
            gemm_can(r->by, g))
            return r->by;
    }
    return GEMM_PACKED;
}
#else
bool gemm_sums_in_lanes(const struct gemm_args *g)
{
    return false;
}
enum gemm_backend gemm_backend_of(const struct gemm_args *g)
{
    return GEMM_BLAS;
}
#endif

void gemm_block_by(enum gemm_backend by, const struct gemm_args *g)
{
    switch (by) {
#ifdef __AVX2__
    case GEMM_DIRECT: gemm_direct(g); break;
    case GEMM_THIN: gemm_thin(g); break;
    case GEMM_NARROW: gemm_narrow(g); break;
    case GEMM_LANES: gemm_lanes(g); break;
#ifdef GEMM_XSMM_HERE
    case GEMM_XSMM: gemm_xsmm(g); break;
#endif
#endif
    default: gemm_multiply(g);
    }
}
