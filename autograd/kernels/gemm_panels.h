/* How B lies in panels, and the copying into them (gemm_panels.c). */
#ifndef TRIAD_AUTOGRAD_KERNELS_GEMM_PANELS_H
#define TRIAD_AUTOGRAD_KERNELS_GEMM_PANELS_H

#include "autograd/kernels/gemm.h"
#include "autograd/kernels/simd.h"

/* A panel is NR columns, k by k. Odd strides from panel to panel: they must not meet in the same sets of the cache. */
enum { NR = 2 * VL, GAP = 2 * 16 };

static inline int64_t panel_size(int64_t kc)
{
    return kc * NR + GAP;
}

/* Panels of a block are NR wide, the last VL where that is enough. */
static inline int64_t panel_width(int64_t n, int64_t j)
{
    return n - j > VL ? NR : VL;
}

/* All panels of a block of K that is kc long. */
static inline int64_t panels_size(int64_t n, int64_t kc)
{
    return (n + NR - 1) / NR * panel_size(kc);
}

/* The panel with the product's column j, at row k, where a block of K begins. */
static inline float *panel_at(const struct gemm_panels *p, int64_t k, int64_t kc, int64_t block, int64_t j)
{
    return (float *)(uintptr_t)p->at + k / block * panels_size(p->n, block) + (p->first + j) / NR * panel_size(kc);
}

/* Rows k .. k+kc-1, columns j0 .. j0+n-1 of g's B into panels one after the other; columns behind the last are zero. */
#define gemm_pack_b ISA_FN(gemm_pack_b)
void gemm_pack_b(const struct gemm_args *g, int64_t j0, int64_t n, int64_t k, int64_t kc, float *to);

#endif
