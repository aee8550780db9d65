/* See contrast_tiles.h: the products of a tile, and what is asked about its columns. */
#pragma GCC optimize("O3")
#include "autograd/kernels/contrast_tiles.h"

#include <string.h>

#include "autograd/kernels/gemm.h"

static const float *row_of(struct span s, int64_t i)
{
    return s.s->x + (s.at + i) * s.s->ld;
}

static void id_range(struct span s, int32_t *lo, int32_t *hi)
{
    *lo = *hi = s.s->id[s.at];
    for (int64_t i = 1; i < s.n; i++) {
        int32_t id = s.s->id[s.at + i];
        *lo = id < *lo ? id : *lo;
        *hi = id > *hi ? id : *hi;
    }
}

void contrast_columns_of(const struct contrast_part *p, struct columns *to)
{
    struct span c = p->columns;
    int32_t lo[2], hi[2];
    id_range(p->rows, &lo[0], &hi[0]);
    id_range(c, &lo[1], &hi[1]);
    to->positives = lo[0] <= hi[1] && lo[1] <= hi[0];
    to->padded = (c.n + VL - 1) / VL * VL;
    for (int64_t i = 0; i < c.n; i++) {
        to->keep[i] = c.s->has[c.at + i] != 0 ? -1 : 0;
        to->id[i] = c.s->id[c.at + i];
    }
    for (int64_t i = c.n; i < to->padded; i++) to->keep[i] = to->id[i] = 0;
}

/* Rows of a kept tile, which may be looked at for NaNs, have no holes: zeros where the similarities end before the tile. */
static void fill_tail(const struct contrast_job *j, struct span r, struct span c, float *u)
{
    int64_t below = r.at + r.n < r.s->n ? 0 : j->block - r.at % j->block - r.n;
    if (c.n < j->block) memset(u, 0, (size_t)(r.n * j->block) * sizeof *u);
    memset(u + r.n * j->block, 0, (size_t)(below * j->block) * sizeof *u);
}

struct products contrast_products(const struct contrast_job *j, const struct contrast_part *p, struct columns *k)
{
    struct span r = p->rows, c = p->columns;
    bool keep = p->number < j->tiles.kept;
    float *u = keep ? j->kept + (p->number * j->block + r.at % j->block) * j->block : p->s;
    struct products t = {u, keep ? j->block : p->ld};
    contrast_columns_of(p, k);
    if (keep && j->multiplied) return t;
    if (keep) fill_tail(j, r, c, u);
    gemm_block(&(struct gemm_args){.m = r.n,
                                   .n = c.n,
                                   .k = j->width,
                                   .a = row_of(r, 0),
                                   .a_row = r.s->ld,
                                   .a_col = 1,
                                   .b = row_of(c, 0),
                                   .b_row = 1,
                                   .b_col = c.s->ld,
                                   .c = u,
                                   .c_row = t.ld});
    return t;
}

/* dx of the rows or columns in `to` (+)= H or H' times those in `from`; h_row: how far apart H's numbers lie along `to`. */
static void add_gradient(const struct contrast_job *j, const struct contrast_part *p, struct span to, struct span from,
                         int64_t h_row, int64_t h_col, bool first)
{
    gemm_block(&(struct gemm_args){.m = to.n,
                                   .n = j->width,
                                   .k = from.n,
                                   .a = p->s,
                                   .a_row = h_row,
                                   .a_col = h_col,
                                   .b = row_of(from, 0),
                                   .b_row = from.s->ld,
                                   .b_col = 1,
                                   .c = to.s->dx + to.at * j->width,
                                   .c_row = j->width,
                                   .add = !first});
}
void contrast_add_rows(const struct contrast_job *j, const struct contrast_part *p)
{
    add_gradient(j, p, p->rows, p->columns, p->ld, 1, p->first[0]);
}
void contrast_add_columns(const struct contrast_job *j, const struct contrast_part *p)
{
    add_gradient(j, p, p->columns, p->rows, 1, p->ld, p->first[1]);
}
