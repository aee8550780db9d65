/* Optimizers over flat buffers: parameters, gradients and moments share one layout (autograd/store.h), so that a step
 * is one loop over memory. Also the schedule of the learning rate, clipping by the global norm, and averaged weights.
 */
#ifndef TRIAD_OPTIM_OPT_H
#define TRIAD_OPTIM_OPT_H

#include "autograd/plan.h"
#include "autograd/store.h"

enum opt_kind { OPT_ADAMW, OPT_SGD };
extern const char *const opt_kind_names[];
enum opt_decay { OPT_COSINE, OPT_LINEAR, OPT_CONSTANT };
extern const char *const opt_decay_names[];

/* How AdamW's moments are stored. OPT_BF16 takes half the memory and traffic: they are computed in f32 and rounded at
 * random, without bias, by bits that are a function of (step, place in the flat buffer). */
enum opt_store { OPT_F32, OPT_BF16 };
extern const char *const opt_state_names[];

/* Parameters whose name matches `pattern` (shell glob: * and ?, over the whole path) get their own factors. The first
 * matching group counts. */
struct opt_group {
    const char *pattern;
    double lr_scale;     /* 0 freezes */
    double weight_decay; /* negative: the optimizer's */
};

struct opt_config {
    enum opt_kind kind;
    double lr, beta1, beta2, eps,
        weight_decay;     /* AdamW (Loshchilov & Hutter 2019, alg. 2); weight_decay for SGD is L2 */
    enum opt_store state; /* AdamW's moments */
    double momentum;      /* SGD */
    bool nesterov;
    double clip;          /* largest global gradient norm; 0: none */
    double ema;           /* decay of averaged weights; 0: none */
    int64_t warmup;       /* steps of linear rise from lr / warmup */
    enum opt_decay decay; /* after that, to lr * floor at the end */
    double floor;
    const struct opt_group *group;
    int n_group;
};

struct opt;

/* The store must be committed; it and the config's groups must outlive the optimizer. No decay for entries marked
 * AD_NO_DECAY, whatever the group says. ERR_CONFIG: a group's pattern matches nothing. */
struct opt *opt_new(const struct opt_config *c, struct ad_store *s, struct err *e);
void opt_free(struct opt *o);

/* The learning rate at `step` (0-based) when `progress` in [0, 1] of the run is behind. */
double opt_lr(const struct opt_config *c, int64_t step, double progress);

/* The square root of the sum of squares, in an order that does not depend on the thread count. NaN and inf pass
 * through. */
double opt_norm(const float *grad, int64_t n);

/* Emits the gradient of the scalar `loss` by every trained parameter of the store, as outputs to the caller named
 * "grad/<parameter>"; then, once there is a plan, binds them to one flat buffer of ad_store_flat_count numbers, laid
 * out as the parameters are. The gaps of the buffer are not written: zero it once. */
void opt_emit_gradients(struct ad_graph *g, const struct ad_store *s, val loss);
void opt_bind_gradients(struct ad_plan *p, const struct ad_store *s, float *grad);

/* The gradient of <seed, y> (seed 0: of the scalar y) by the parameters under `prefix` and by x[n], which goes to dx[n].
 * Those of the parameters are outputs to the caller, or with to_caller false lie in the plan's arena, for
 * opt_add_gradients. */
struct opt_sought {
    const char *prefix;
    bool to_caller;
    const val *x;
    val *dx;
    int n;
};
void opt_emit_gradients_of(struct ad_graph *g, const struct ad_store *s, val y, val seed, const struct opt_sought *o);
void opt_bind_gradients_of(struct ad_plan *p, const struct ad_store *s, const char *prefix, float *grad);
/* After a run of a plan with such outputs in its arena: adds them to the flat buffer, or with `begin` puts them there. */
void opt_add_gradients(const struct ad_plan *p, const struct ad_store *s, const char *prefix, bool begin, float *grad);

/* One step. `grad` has ad_store_flat_count numbers and `norm` is opt_norm of it, for clipping. Moments are corrected
 * for their start (Kingma & Ba 2015, alg. 1); the averaged weights follow as ema * avg + (1 - ema) * weights. */
void opt_step(struct opt *o, const float *grad, double norm, double lr);

/* State for checkpoints: flat buffers by name ("adamw.m", "adamw.v", "sgd.momentum", "ema") of ad_store_flat_count
 * numbers, f32 or bf16, which are the optimizer's; and the number of steps. */
struct opt_buffer {
    const char *name;
    void *data;
    bool bf16;
};
int opt_state_count(const struct opt *o);
struct opt_buffer opt_state(const struct opt *o, int i);
int64_t opt_steps(const struct opt *o);
void opt_set_steps(struct opt *o, int64_t steps);
const float *opt_ema(const struct opt *o); /* NULL if there is none */

/* Bytes of state a parameter: for --dry-run. */
double opt_bytes_per_parameter(const struct opt_config *c);

#endif
