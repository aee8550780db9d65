/* What the files of autograd/ share about a graph. Nobody else includes this. */
#ifndef TRIAD_AUTOGRAD_INTERNAL_H
#define TRIAD_AUTOGRAD_INTERNAL_H

#include "autograd/op.h"
#include "base/mem.h"

struct ad_value {
    struct ad_shape shape;
    enum ad_dtype dtype;
    int32_t node;
};

struct ad_named {
    const char *name;
    val v, next;    /* updates: v is the state, next its new value */
    bool to_caller; /* outputs: memory bound by the caller */
};

struct ad_graph {
    struct arena mem;
    struct ad_node **node;  /* [n_node]; node 0 is unused */
    struct ad_value *value; /* [n_value]; value 0 is poison */
    size_t n_node, cap_node, n_value, cap_value;
    struct ad_named *output, *update;
    size_t n_output, cap_output, n_update, cap_update;
    const char *path;
    enum ad_part part; /* of the nodes that are emitted now */
    const char *path_stack[32];
    int depth;
    struct {
        uint64_t path;
        int64_t used;
    } * stream;
    size_t n_stream, cap_stream;
    enum ad_dtype half; /* in which a node's `half` outputs are kept */
    struct err status;
};

/* Leaves. */
struct leaf_attr {
    const char *name; /* inputs and parameters */
    const void *data; /* constants: bytes */
    size_t bytes;
    double scalar; /* constants of one element: their value */
    struct ad_shape shape;
    int32_t dtype;
};
extern const struct ad_op ad_op_input, ad_op_param, ad_op_const;
static inline const struct leaf_attr *leaf(const struct ad_node *n)
{
    return n->attr;
}
static inline bool is_scalar_const(const struct ad_graph *g, val v, double *x)
{
    const struct ad_node *n = ad_node_of(g, v);
    if (n->op != &ad_op_const || leaf(n)->bytes != ad_dtype_size(g->value[v].dtype)) return false;
    *x = leaf(n)->scalar;
    return true;
}

/* The identity, with memory of its own. */
extern const struct ad_op ad_op_copy;

val ad_leaf(struct ad_graph *g, const struct ad_op *op, const struct leaf_attr *a);
/* Copies a node of another graph, its inputs already translated. */
val ad_copy_node(struct ad_graph *g, const struct ad_node *n, const val *in);
/* How v is kept in memory: its dtype, or the graph's 16-bit one; and the bytes that takes. */
enum ad_dtype ad_kept_as(const struct ad_graph *g, val v);
size_t ad_kept_bytes(const struct ad_graph *g, val v);
/* need[node] = 1 for what outputs and updates depend on. The caller frees. */
char *ad_needed(const struct ad_graph *g);
/* readers[v]: how many node inputs, outputs and updates among the needed nodes read v. The caller frees. */
int32_t *ad_readers(const struct ad_graph *g, const char *need);
/* Gives outputs and updates of `from` to `to` through the map of vals. */
void ad_copy_ends(struct ad_graph *to, const struct ad_graph *from, const val *map);
/* The same, and its status and memory; then frees `from`. */
void ad_take_place(struct ad_graph *to, struct ad_graph *from, const val *map);

/* The shared rule and loop of elementwise ops. */
int ad_infer_elementwise(struct ad_infer *f);
void ad_eval_elementwise(const struct ad_call *c);
/* Strides of `t` seen with the broadcast shape `to`. */
void ad_broadcast_strides(const struct ad_tensor *t, struct ad_shape to, int64_t stride[AD_MAX_DIMS]);
bool ad_broadcast_shape(struct ad_shape a, struct ad_shape b, struct ad_shape *out);

#endif
