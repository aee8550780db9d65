/* The vectors of base/simd.h, where kernels look for them. */
#ifndef TRIAD_AUTOGRAD_KERNELS_SIMD_H
#define TRIAD_AUTOGRAD_KERNELS_SIMD_H

#include "base/simd.h"

#endif
