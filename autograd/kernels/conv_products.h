/* A convolution as products, one a group of channels, whose one operand are patches that are never stored (patches.h); and how
 * these are cut into items. */
#ifndef TRIAD_AUTOGRAD_KERNELS_CONV_PRODUCTS_H
#define TRIAD_AUTOGRAD_KERNELS_CONV_PRODUCTS_H

#include "autograd/kernels/gemm.h"
#include "autograd/kernels/patches.h"
#include "autograd/ops/conv.h"
#include "base/isa.h"

#define conv_products_of ISA_FN(conv_products_of)
#define conv_do_item ISA_FN(conv_do_item)
#define conv_turn ISA_FN(conv_turn)
#define conv_transpose_scratch ISA_FN(conv_transpose_scratch)
#define conv_cut_transpose ISA_FN(conv_cut_transpose)

static inline int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
static inline int64_t max_of(int64_t a, int64_t b)
{
    return a > b ? a : b;
}
static inline int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* `size` in parts of at most `most`, each `times` an item; more of them, down to `few`, until items go evenly over the
 * threads. The length of a part. One part size, whatever the threads, where products do not cut freely. */
static inline int64_t part_length(int64_t size, int64_t most, int64_t few, int64_t times, int64_t threads)
{
    int64_t parts = max_of(1, ceil_div(size, most));
    while (GEMM_CUTS_FREELY && parts * times % threads && ceil_div(size, parts + 1) >= few) parts++;
    return max_of(1, ceil_div(size, parts));
}

/* The product of one group: everything of `gemm_args` but the source, which are patches unless the operand is plain. */
struct product {
    struct patches patches;
    bool by_column, plain;
    struct gemm_args g;
};
typedef struct product (*product_fn)(const void *ctx, int64_t group);

/* The products of all groups as items: in pieces of rows, or where `together` one product as gemm.h cuts it. */
struct products {
    product_fn of;
    int64_t groups, rows, items[2];
    bool together;
    struct gemm_work work;
};
struct products conv_products_of(product_fn of, const void *ctx, int64_t groups, void *scratch, int threads);
void conv_do_item(const struct products *p, const void *ctx, int phase, int64_t item);

/* One tap's (cg, fg), rows f apart, as (fg, cg). */
void conv_turn(enum ad_dtype type, const void *w, int64_t f, int64_t cg, int64_t fg, float *to);

/* conv2d_transpose that is not by 1 x 1: its scratch in bytes, and how it is cut (op.h). */
size_t conv_transpose_scratch(const struct conv_call *k);
void conv_cut_transpose(const struct ad_call *c, int threads, struct ad_parts *p);

#endif
