/* Loops over a block of rows, channel by channel: statistics, and what norms do with them. The channels' sums
 * stay in the first-level cache, so that memory is read in the order in which it lies. Rows may be kept in 16 bits: they are
 * widened as they are loaded and rounded as they are stored. */
#ifndef TRIAD_AUTOGRAD_KERNELS_COLUMNS_H
#define TRIAD_AUTOGRAD_KERNELS_COLUMNS_H

#include "autograd/kernels/vfunc.h"
#include "autograd/ops/batch_norm.h"
#include "base/isa.h"

/* f32, bf16 or f16; of what is missing, that of x. */
struct column_types {
    enum ad_dtype x, dy, more, y, d;
};

/* A block of `rows` rows, `row` numbers apart, of c channels. Pointers to channels' numbers: (c). */
struct columns {
    int64_t rows, row, c;
    int act; /* enum ad_norm_act */
    struct column_types type;
    const void *x, *dy;
    const void *more;                 /* residual or y (batch_norm.h), or NULL */
    const float *mean, *scale, *bias; /* what the activation sees: (x - mean) scale + bias */
    const float *shift, *slope;
    void *y, *d; /* y: the result; d: dy behind the activation, or NULL */
    bool stream; /* y and d, in f32, are written past the caches: stream_pays() */
    bool keep;   /* columns_products: y gets d, all in f32, of silu and without `more` */
};

#define columns_moments ISA_FN(columns_moments)
#define columns_affine ISA_FN(columns_affine)
#define columns_products ISA_FN(columns_products)
#define columns_dx ISA_FN(columns_dx)
/* mean and square (c): means and sums of squares around them. room: 2 c numbers. */
void columns_moments(const struct columns *k, float *mean, float *square, float *room);
/* y = act((x - mean) scale + bias + more) */
void columns_affine(const struct columns *k);
/* With d = dy act': sums of d (x - mean) and of d. room: 2 c numbers. Kept, d is dy of an act of none to columns_dx. */
void columns_products(const struct columns *k, float *sum_x, float *sum, float *room);
/* y = d scale - shift - (x - mean) slope; d too, where it is asked for. y may be x or dy, of the same type. */
void columns_dx(const struct columns *k);

#endif
