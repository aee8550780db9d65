/* The tiles of Winograd's convolution (winograd.h): where they lie in the images, and their transforms. */
#ifndef TRIAD_AUTOGRAD_KERNELS_WINOGRAD_TILES_H
#define TRIAD_AUTOGRAD_KERNELS_WINOGRAD_TILES_H

#include <stdbool.h>

#include "autograd/op.h"
#include "base/isa.h"

/* Tiles (n, th, tw) of m x m results; those read `in` (n, h, w, c) from m i - pad on and belong to `out` (n, oh, ow, f). */
struct winograd_tiles {
    int m;
    int64_t places, n, h[2], out[2], pad[2], c, f, grid[2], count;
    const struct ad_tensor *in, *result; /* result: what is written, or for conv2d_dw its gradient, which is read */
};

#define winograd_read_tile ISA_FN(winograd_read_tile)
#define winograd_read_tile_grad ISA_FN(winograd_read_tile_grad)
#define winograd_write_tile ISA_FN(winograd_write_tile)
#define winograd_transform_kernel ISA_FN(winograd_transform_kernel)
#define winograd_transform_back ISA_FN(winograd_transform_back)
/* Tile t's inputs transformed: its place p goes to to[p * step .. + c-1]; or its results' gradients, to f numbers; and from there
 * its results into the image. */
void winograd_read_tile(const struct winograd_tiles *s, int64_t t, float *to, int64_t step);
void winograd_read_tile_grad(const struct winograd_tiles *s, int64_t t, float *to, int64_t step);
void winograd_write_tile(const struct winograd_tiles *s, int64_t t, const float *from, int64_t step);
/* A vector of the kernel's (c, f) numbers, from number b on, transformed to u (places, c f), its taps in falling order where
 * `turned`; or its gradient, back from there. */
void winograd_transform_kernel(const struct winograd_tiles *s, const struct ad_tensor *w, bool turned, int64_t b,
                               float *u);
void winograd_transform_back(const struct winograd_tiles *s, const float *u, int64_t b, const struct ad_tensor *w);

#endif
