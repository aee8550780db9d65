/* The patches that a convolution multiplies, as an operand of the product (gemm.h): row (n, i, j) is a position of a
 * grid, column (u, v, c) what tap (u, v) reads there of channel c. Nothing is stored: the product asks for the part that
 * it packs. */
#ifndef TRIAD_AUTOGRAD_KERNELS_PATCHES_H
#define TRIAD_AUTOGRAD_KERNELS_PATCHES_H

#include "autograd/kernels/gemm.h"

/* Position i of the grid reads, through tap t, row i * step + base + t * inc, zeros where the source has no such row. */
struct axis {
    int64_t size, grid, step, base, inc, taps;
};

/* The patches of images (n, h.size, w.size, c) over a grid of positions (n, h.grid, w.grid). */
struct patches {
    const void *src;
    enum ad_dtype type; /* of src: f32, or bf16 or f16, which are widened as they are written */
    struct axis h, w;
    int64_t n, c, channels; /* channels: how many of a pixel's c are read, from `first` on */
    int64_t first;
};

/* Rows at positions: A (positions, taps x channels). By columns: its transpose, A (taps x channels, positions). */
#define patches_by_row ISA_FN(patches_by_row)
#define patches_by_column ISA_FN(patches_by_column)
struct gemm_source patches_by_row(const struct patches *p);
struct gemm_source patches_by_column(const struct patches *p);

static inline int64_t patches_positions(const struct patches *p)
{
    return p->n * p->h.grid * p->w.grid;
}
static inline int64_t patches_depth(const struct patches *p)
{
    return p->h.taps * p->w.taps * p->channels;
}

#endif
