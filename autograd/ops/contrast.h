/* What the contrastive losses and their kernel share. */
#ifndef TRIAD_AUTOGRAD_OPS_CONTRAST_H
#define TRIAD_AUTOGRAD_OPS_CONTRAST_H

#include "autograd/op.h"

enum contrast_kind { CONTRAST_INFONCE, CONTRAST_SIGLIP };

struct contrast_attr {
    int32_t kind;
};

/* Inputs. contrast_grad has those of its kind, then the outputs of InfoNCE but the loss, then dloss. */
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

extern const struct ad_op ad_op_contrast, ad_op_contrast_grad;

#endif
