/* Rows of f32 that may be kept in 16 bits: added to, scaled, cleared. What is summed is not. */
#ifndef TRIAD_AUTOGRAD_KERNELS_ROW_MOVES_H
#define TRIAD_AUTOGRAD_KERNELS_ROW_MOVES_H

#include <string.h>

#include "autograd/kernels/simd.h"
#include "autograd/op.h"

static inline int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t width_of(struct ad_shape s, int from)
{
    int64_t n = 1;
    for (int i = from; i < s.rank; i++) n *= s.dim[i];
    return n;
}

SIMD_FN void add_numbers(enum ad_dtype t, float *y, const void *x, int64_t n)
{
    int64_t i = 0;
    for (; i + VL <= n; i += VL) vf_store(y + i, vf_load(y + i) + vf_load_as(t, x, i));
    for (; i < n; i++) y[i] += float_as(t, x, i);
}

/* y += x, n numbers from element `at` of x on */
static inline void add_row(float *y, const struct ad_tensor *x, int64_t at, int64_t n)
{
    BY_TYPE(x->dtype, add_numbers, y, at_as(x->dtype, x->data, at), n);
}

SIMD_FN void scale_numbers(enum ad_dtype t, void *y, enum ad_dtype from, const void *x, int64_t n, float factor)
{
    int64_t i = 0;
    for (; i + VL <= n; i += VL) vf_store_as(t, y, i, vf_load_as(from, x, i) * factor);
    if (i < n) vf_store_part_as(t, y, i, vf_load_part_as(from, x, i, n - i) * factor, n - i);
}
SIMD_FN void scale_same(enum ad_dtype t, void *y, const void *x, int64_t n, float factor)
{
    scale_numbers(t, y, t, x, n, factor);
}

/* y = x factor, n numbers from element `from` of x and `to` of y on */
static inline void scale_row(const struct ad_tensor *y, int64_t to, const struct ad_tensor *x, int64_t from, int64_t n,
                             float factor)
{
    void *out = at_as(y->dtype, y->data, to);
    const void *in = at_as(x->dtype, x->data, from);
    if (x->dtype == y->dtype)
        BY_TYPE(y->dtype, scale_same, out, in, n, factor);
    else
        scale_numbers(y->dtype, out, x->dtype, in, n, factor);
}

static inline void clear_row(const struct ad_tensor *y, int64_t at, int64_t n)
{
    memset(at_as(y->dtype, y->data, at), 0, (size_t)n * ad_dtype_size(y->dtype));
}

#endif
