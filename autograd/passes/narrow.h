/* Weights in 16 bits. See narrow.c. */
#ifndef TRIAD_AUTOGRAD_NARROW_H
#define TRIAD_AUTOGRAD_NARROW_H

#include "autograd/graph.h"
#include "autograd/store.h"

/* Marks in `g` itself what the store's narrow entries make 16 bits: the parameters, their views, and outputs to the caller
 * named "grad/<parameter>". */
void ad_keep_narrow(struct ad_graph *g, const struct ad_store *s);

#endif
