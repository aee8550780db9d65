/* What attention's op and its kernel share. */
#ifndef TRIAD_AUTOGRAD_OPS_ATTENTION_H
#define TRIAD_AUTOGRAD_OPS_ATTENTION_H

#include "autograd/op.h"

struct attention_attr {
    int32_t heads;
    uint32_t flags;
    int32_t bias; /* 1: there is an input 5 */
};
extern const struct ad_op ad_op_attention, ad_op_attention_grad;

/* Checks both offsets (ad_call_fail) and returns the number of items, 0 if they are wrong. */
int64_t attention_items(const struct ad_call *c);

#endif
