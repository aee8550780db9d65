/* The graph: a list of nodes that a model function emits. Shapes are inferred while building; nothing is computed here.
 *
 * A `val` is a small id; 0 is poison. Inputs come before users, so id order is topological and side tables are arrays.
 * Errors are sticky: the first failure records op, shapes, layer path; everything after it yields poison, and the
 * caller asks ad_status() once. So model code has no error plumbing.
 *
 *   build -> ad_grad -> passes -> ad_plan_new -> ad_run          (plan.h) */
#ifndef TRIAD_AUTOGRAD_GRAPH_H
#define TRIAD_AUTOGRAD_GRAPH_H

#include <stdint.h>
#include "base/err.h"

typedef int32_t val;

enum { AD_MAX_DIMS = 6 };

/* Numbers are computed in f32 or f64. bf16 and f16 are how a plan keeps some of the f32 values in memory (plan.h,
 * AD_BF16_VALUES): no input, parameter or constant has them, and shape rules never meet them. */
enum ad_dtype { AD_F32, AD_F64, AD_I32, AD_I64, AD_BF16, AD_F16 };
size_t ad_dtype_size(enum ad_dtype t); /* bytes */
const char *ad_dtype_name(enum ad_dtype t);
static inline bool ad_is_float(enum ad_dtype t)
{
    return t == AD_F32 || t == AD_F64;
}
static inline bool ad_is_half(enum ad_dtype t)
{
    return t == AD_BF16 || t == AD_F16;
}

/* What a node was emitted for: the model itself, a gradient (ad_grad), or to compute again what was let go. */
enum ad_part { AD_FORWARD, AD_BACKWARD, AD_AGAIN };

/* Up to six dimensions, slowest first. rank 0 is a scalar. */
struct ad_shape {
    int rank;
    int64_t dim[AD_MAX_DIMS];
};
/* SHAPE(2, 3, 4): a struct ad_shape literal. */
#define SHAPE(...) ((struct ad_shape){(int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), {__VA_ARGS__}})
#define SCALAR ((struct ad_shape){0})
int64_t ad_count(struct ad_shape s); /* elements; 1 for a scalar */
bool ad_same_shape(struct ad_shape a, struct ad_shape b);
char *ad_shape_text(char out[96], struct ad_shape s); /* "(2, 3, 4)" */

struct ad_graph;
struct ad_op;

struct ad_graph *ad_graph_new(void);
void ad_graph_free(struct ad_graph *g); /* frees every node and name; NULL is fine */

/* 0, or the first failure of any builder since ad_graph_new. */
int ad_status(const struct ad_graph *g, struct err *e) MUST_CHECK;
/* Records a failure from a builder of your own (only the first is kept) and returns poison. */
val ad_fail(struct ad_graph *g, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* The layer path that names and errors carry: "image.block.3". Push returns the new path, owned by the graph. */
const char *ad_push(struct ad_graph *g, const char *fmt, ...) PRINTF_LIKE(2, 3);
void ad_pop(struct ad_graph *g);
const char *ad_path(const struct ad_graph *g);

/* Leaves. A name is unique among inputs, and among parameters (asking again for a parameter gives the same val). */
val ad_input(struct ad_graph *g, const char *name, enum ad_dtype t, struct ad_shape s); /* bound by the caller at run */
val ad_param(struct ad_graph *g, const char *name, enum ad_dtype t,
             struct ad_shape s);                                 /* bound to the store, by name */
val ad_const(struct ad_graph *g, enum ad_dtype t, double value); /* a scalar */
val ad_const_data(struct ad_graph *g, enum ad_dtype t, struct ad_shape s, const void *data); /* copied */
val ad_full(struct ad_graph *g, enum ad_dtype t, struct ad_shape s, double value); /* no memory: a broadcast scalar */

struct ad_shape ad_shape_of(const struct ad_graph *g, val v); /* a poisoned val gives rank 0 */
enum ad_dtype ad_dtype_of(const struct ad_graph *g, val v);
int ad_rank(const struct ad_graph *g, val v);
int64_t ad_dim(const struct ad_graph *g, val v, int axis); /* negative axes count from the end */

/* Marks `v` as a result that survives the run under `name`. */
void ad_output(struct ad_graph *g, const char *name, val v);
/* The same, computed into memory that the caller binds before a run (flat gradient buffers): none in the plan's arena.
 */
void ad_output_to_caller(struct ad_graph *g, const char *name, val v);
/* After everything in this run has read the parameter `state`, its storage takes the value `next` (same shape, dtype).
 */
void ad_update(struct ad_graph *g, val state, val next);
/* Forgets all updates: a run of the graph changes no state. */
void ad_drop_updates(struct ad_graph *g);

/* Emits d(sum_i <seed_i, y_i>)/d x_j for every j into dx. seeds may be NULL (ones; then every y is a scalar). Where y
 * does not depend on x_j, dx[j] is a zero tensor. Gradients are ordinary nodes, so they can be differentiated again.
 * ERR_STATE through the sticky error if an op on the way has no derivative. */
void ad_grad(struct ad_graph *g, const val *y, const val *seeds, int n_y, const val *x, int n_x, val *dx);

/* How many vals and nodes there are, for reports. */
int64_t ad_node_count(const struct ad_graph *g);
char *ad_graph_text(const struct ad_graph *g); /* one line a node; the caller frees */

#endif
