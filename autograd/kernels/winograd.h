/* 3x3 convolution with a step of 1 by Winograd's minimal filtering F(2x2, 3x3) (Lavin & Gray 2016, eq. 8 and sec. 4.1):
 * sixteen products over tiles of 2 x 2 results, 4/9 of the multiplications. All transforms are sums with the factors 1 and
 * 1/2. The bound of the error is 9 times that of the plain sum, for the largest numbers that a tile sees; the typical error
 * is below that of an f32 sum in order (both held by tests/autograd/test_conv.c). A number that is not finite reaches all of its tiles' results. */
#ifndef TRIAD_AUTOGRAD_KERNELS_WINOGRAD_H
#define TRIAD_AUTOGRAD_KERNELS_WINOGRAD_H

#include <stdbool.h>
#include <stddef.h>

#include "autograd/ops/conv.h"
#include "base/isa.h"

#define winograd_pays ISA_FN(winograd_pays)
#define winograd_scratch ISA_FN(winograd_scratch)
#define winograd_run ISA_FN(winograd_run)
/* Whether conv2d, conv2d_transpose and conv2d_dw of these sizes are to go this way. */
bool winograd_pays(const struct conv_dims *d);
size_t winograd_scratch(const struct ad_call *c);
void winograd_run(const struct ad_call *c);

#endif
