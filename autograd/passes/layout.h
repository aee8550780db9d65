/* plan (memory): where every value lies, and for how long. */
#ifndef TRIAD_AUTOGRAD_PASSES_LAYOUT_H
#define TRIAD_AUTOGRAD_PASSES_LAYOUT_H

#include "autograd/internal.h"

enum root_kind { ROOT_NONE, ROOT_INPUT, ROOT_PARAM, ROOT_CONST, ROOT_ARENA, ROOT_CALLER, ROOT_KEPT };

/* A piece of memory that one or several values share. */
struct root {
    enum root_kind kind;
    const char *name; /* inputs, parameters, outputs to the caller */
    void *base;       /* bound memory; for the arena base + offset */
    size_t bytes, offset;
    int32_t first, last; /* the nodes between which an arena piece must keep its content */
    bool pinned;         /* until the end of the run */
    int32_t alias;       /* the root whose memory it took over (in place), or itself */
};

struct place {
    int32_t root;
    int64_t offset;     /* elements from the root's start */
    struct ad_tensor t; /* data is NULL; shape and strides are right */
    bool view;
};

struct layout {
    struct root *root;
    size_t n_root, cap_root;
    struct place *place; /* [n_value] */
    int32_t *scratch;    /* [n_node]: a root or 0 */
    char *run;           /* [n_node]: has something to execute */
    size_t arena_bytes, unshared_bytes;
    int64_t n_views, n_in_place;
};

/* Lays out every value of `g` that is needed. With `reuse` false nothing is shared and there are no views. */
void ad_layout(const struct ad_graph *g, const char *need, bool reuse, struct layout *out);
void ad_layout_free(struct layout *l);
/* Scratch is asked for once kernels are chosen; then offsets are given out. */
int32_t ad_layout_scratch(struct layout *l, size_t node, size_t bytes);
void ad_layout_offsets(struct layout *l, bool reuse);
size_t ad_layout_padded(size_t bytes);                     /* what a piece of the arena takes */
int32_t ad_layout_root(const struct layout *l, int32_t r); /* follows in-place sharing */

#endif
