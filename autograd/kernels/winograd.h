/* 3x3 convolution with a step of 1 by Winograd's minimal filtering F(m x m, 3 x 3), m = 4 or 2 (Lavin & Gray 2016, sec. 4):
 * (m + 2)^2 products over tiles of m x m results, 1/4 or 4/9 of the multiplications. The bound of the error is 62 (m = 4)
 * or 9 (m = 2) times that of the plain sum, for the largest numbers that a tile sees: the norms of the transforms; the
 * typical error is twice, or below, that of an f32 sum in order (both held by tests/autograd/test_conv.c). A number that
 * is not finite reaches all of its tiles' results. */
#ifndef TRIAD_AUTOGRAD_KERNELS_WINOGRAD_H
#define TRIAD_AUTOGRAD_KERNELS_WINOGRAD_H

#include <stdbool.h>
#include <stddef.h>

#include "autograd/ops/conv.h"
#include "base/isa.h"

#define winograd_pays ISA_FN(winograd_pays)
#define winograd_scratch ISA_FN(winograd_scratch)
#define winograd_cut ISA_FN(winograd_cut)
/* Whether conv2d, conv2d_transpose and conv2d_dw of these sizes are to go this way. */
bool winograd_pays(const struct conv_dims *d);
size_t winograd_scratch(const struct ad_call *c);
void winograd_cut(const struct ad_call *c, int threads, struct ad_parts *p);

#endif
