/* What the contrastive losses and their kernel share. */
#ifndef TRIAD_AUTOGRAD_OPS_CONTRAST_H
#define TRIAD_AUTOGRAD_OPS_CONTRAST_H

#include "autograd/op.h"

enum contrast_kind { CONTRAST_INFONCE, CONTRAST_SIGLIP };

struct contrast_attr {
    int64_t keep; /* bytes of similarities that may go from forward to gradient */
    int32_t kind;
    int32_t reserved; /* 0 */
};

/* Inputs. contrast_grad has those of its kind, then the outputs of contrast but the loss, then dloss. */
enum {
    CONTRAST_A,
    CONTRAST_B,
    CONTRAST_HAS_A,
    CONTRAST_HAS_B,
    CONTRAST_ID_A,
    CONTRAST_ID_B,
    CONTRAST_SCALE,
    CONTRAST_BIAS
};
static inline int contrast_inputs(const struct contrast_attr *a)
{
    return a->kind == CONTRAST_SIGLIP ? CONTRAST_BIAS + 1 : CONTRAST_BIAS;
}
static inline int contrast_outputs(const struct contrast_attr *a)
{
    return a->kind == CONTRAST_SIGLIP ? 2 : 6;
}

/* The similarities are cut into tiles of `block` rows and columns, which follow from the sizes alone; the first `kept` of
 * them, in the order in which the kernel takes them, are kept. */
enum { CONTRAST_TILE = 512 };
struct contrast_tiles {
    int64_t block, rows, columns, kept; /* rows, columns: of tiles */
};
struct contrast_tiles contrast_tiles(const struct contrast_attr *a, enum ad_dtype t, int64_t n, int64_t m);

extern const struct ad_op ad_op_contrast, ad_op_contrast_grad;

#endif
