/* See conv_products.h. */
#include "autograd/kernels/conv_products.h"

#include "autograd/kernels/simd.h"

/* Pieces of rows go over the threads where there are several groups; and where C is long and narrow and its sums are taken
 * in several steps, so that a piece of C stays in the second-level cache from step to step. Then there are more of them where
 * threads would be left without, but for OpenBLAS, whose sums follow the size. */
enum { GROUP_ROWS = 256, GROUP_TASKS = 32, NEAR = 1 << 16, NEAR_ROWS = 192, FEW_ROWS = 96, STEP = 256 };

static int64_t piece_rows(const struct product *p, int64_t groups, int64_t threads)
{
    const struct gemm_args *g = &p->g;
    if (g->m < 1) return g->m;
    if (groups > 1)
        return part_length(g->m, max_of(GROUP_ROWS, ceil_div(g->m * groups, GROUP_TASKS)), FEW_ROWS, groups, threads);
    int64_t rows = max_of(NEAR_ROWS, NEAR / max_of(1, g->n));
    if (p->by_column || g->k <= STEP || g->n > STEP || g->m < 16 * rows) return g->m;
    return part_length(g->m, rows, FEW_ROWS, 1, threads);
}

/* Rows i0 .. i0+rows-1. `source` gives A and must stay; it follows p, whose patches it reads. */
static struct gemm_args part_of(const struct product *p, int64_t i0, int64_t rows, struct gemm_source *source)
{
    struct gemm_source whole = p->by_column ? patches_by_column(&p->patches) : patches_by_row(&p->patches);
    struct gemm_args g = p->g;
    *source = gemm_source_at(&whole, i0, 0);
    g.stream = gemm_streams(&p->g);
    g.source = p->plain ? NULL : source;
    if (p->plain) g.a = at_as(g.a_type, g.a, i0 * g.a_row);
    g.m = rows;
    g.c = at_as(g.c_type, g.c, i0 * g.c_row);
    return g;
}

struct products conv_products_of(product_fn of, const void *ctx, int64_t groups, void *scratch, int threads)
{
    struct product first = of(ctx, 0);
    struct gemm_source source;
    struct products p = {.of = of, .groups = groups, .rows = piece_rows(&first, groups, threads)};
    int64_t blocks = p.rows ? ceil_div(first.g.m, p.rows) : 0;
    p.together = groups == 1 && blocks <= 1;
    p.items[0] = groups * blocks;
    if (!p.together) return p;
    struct gemm_args g = part_of(&first, 0, first.g.m, &source);
    p.work = gemm_work_of(&g, scratch, threads);
    for (int i = 0; i < 2; i++) p.items[i] = p.work.items[i];
    return p;
}

void conv_do_item(const struct products *p, const void *ctx, int phase, int64_t item)
{
    struct gemm_source source;
    struct product one = p->of(ctx, p->together ? 0 : item % p->groups);
    if (p->together) {
        struct gemm_work w = p->work;
        w.g = part_of(&one, 0, one.g.m, &source);
        gemm_do(&w, phase, item);
        return;
    }
    int64_t i0 = item / p->groups * p->rows;
    struct gemm_args g = part_of(&one, i0, min_of(p->rows, one.g.m - i0), &source);
    gemm_block(&g);
}
