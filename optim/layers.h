/* The gradient's norm by layer: for the log. */
#ifndef TRIAD_OPTIM_LAYERS_H
#define TRIAD_OPTIM_LAYERS_H

#include "autograd/store.h"

struct opt_layers;

/* The layers of a committed store, which must outlive them. A parameter's layer is its path up to the first number
 * ("image.block.3" of "image.block.3.attention.qkv.weight"), else up to the second word, its own name left out
 * ("text.token" of "text.token.weight", "loss" of "loss.scale"). In the order of the parameters. */
struct opt_layers *opt_layers_new(const struct ad_store *s);
void opt_layers_free(struct opt_layers *l); /* NULL is fine */
int opt_layers_count(const struct opt_layers *l);
const char *opt_layers_name(const struct opt_layers *l, int i);

/* norm[opt_layers_count]: 2-norms of each layer's part of the flat gradient; their squares add up to opt_norm's. One pass
 * over the gradient, in an order that does not depend on the thread count. Allocates nothing. */
void opt_layers_norms(struct opt_layers *l, const void *grad, double *norm);
/* The same from the sum of squares of each trained parameter's gradient, in their order in the store. */
void opt_layers_norms_of(const struct opt_layers *l, const double *square, double *norm);

#endif
