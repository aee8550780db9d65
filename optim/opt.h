/* Optimizers over the flat buffers of parameters and gradients (autograd/store.h): a step is one loop over memory, or a
 * few where an optimizer needs a norm of each parameter first. Also the schedule of the learning rate, clipping by the
 * global norm, and averaged weights. */
#ifndef TRIAD_OPTIM_OPT_H
#define TRIAD_OPTIM_OPT_H

#include "autograd/plan.h"
#include "autograd/store.h"

/* What a step does to a parameter w with the gradient g (after clipping); t counts steps from 1. m and v are the moving
 * averages of g and g^2 with betas[0] and betas[1]. "Decay" below falls on entries without AD_NO_DECAY.
 *   OPT_ADAMW      Loshchilov & Hutter 2019, alg. 2
 *   OPT_SGD        torch.optim.SGD; weight_decay is L2
 *   OPT_LAMB       You et al. 2020, alg. 2, as timm's Lamb: w -= lr |w| / |u| u, with AdamW's u, the decay in it; the
 *                  ratio is 1 where a norm is 0 or the parameter has no decay
 *   OPT_LARS       You et al. 2017, alg. 1, as timm's Lars: SGD on r (g + decay w), r = trust |w| / (|g| + decay |w| +
 *                  eps); r is 1 as for LAMB
 *   OPT_LION       Chen et al. 2023, alg. 2: w -= lr (sign(beta1 m + (1 - beta1) g) + decay w), then m with beta2
 *   OPT_ADAFACTOR  Shazeer & Stern 2018, alg. 4 and 5, as torch.optim.Adafactor with its defaults: no first moment; v of
 *                  the last two dimensions from its row and column means; beta2 = 1 - t^-0.8; updates of more than RMS 1
 *                  are scaled down; the step is min(lr, t^-1/2) max(1e-3, RMS(w)). betas and eps do not count
 *   OPT_MUON       Jordan 2024, as torch.optim.Muon: hidden matrices (two dimensions, no AD_EDGE, no AD_NO_DECAY) go by
 *                  the orthogonal factor of their momentum (five Newton-Schulz steps, here in f32); the rest is OPT_ADAMW */
enum opt_kind { OPT_ADAMW, OPT_SGD, OPT_LAMB, OPT_LARS, OPT_LION, OPT_ADAFACTOR, OPT_MUON };
extern const char *const opt_kind_names[];
enum opt_decay { OPT_COSINE, OPT_LINEAR, OPT_CONSTANT };
extern const char *const opt_decay_names[];
/* Muon's rate for a matrix of `in` rows and `out` columns: OPT_MATCH_RMS 0.2 sqrt(max(in, out)) lr, so that its steps
 * are as long as AdamW's and one lr serves both (Liu et al. 2025, arXiv 2502.16982, eq. 4); OPT_ORIGINAL
 * sqrt(max(1, out / in)) lr (Jordan's). */
enum opt_muon_rate { OPT_MATCH_RMS, OPT_ORIGINAL };
extern const char *const opt_muon_rate_names[];

/* How moments are stored; they are computed in f32. OPT_BF16 takes half the memory and traffic: rounded at random,
 * without bias, by bits that are a function of (step, place in the flat buffer). OPT_8BIT takes about a quarter: codes
 * of optim/quant.h with one scale for OPT_BLOCK numbers; parameters of fewer than OPT_SMALL numbers keep f32, as their
 * authors do. Adafactor's row and column means are always f32. */
enum opt_store { OPT_F32, OPT_BF16, OPT_8BIT };
extern const char *const opt_state_names[];
enum { OPT_SMALL = 4096 };

/* Parameters whose name matches `pattern` (shell glob: * and ?, over the whole path) get their own factors. The first
 * matching group counts. */
struct opt_group {
    const char *pattern;
    double lr_scale;     /* 0 freezes */
    double weight_decay; /* negative: the optimizer's */
};

struct opt_config {
    enum opt_kind kind;
    double lr, beta1, beta2, eps, weight_decay;
    enum opt_store state;
    double momentum; /* SGD, LARS, Muon */
    bool nesterov;   /* the same */
    double trust;    /* LARS */
    enum opt_muon_rate muon_rate;
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
 * AD_NO_DECAY, whatever the group says. ERR_CONFIG: a group's pattern matches nothing; Adafactor with another state than
 * f32; Adafactor or Muon with a store of narrow entries. */
struct opt *opt_new(const struct opt_config *c, struct ad_store *s, struct err *e);
void opt_free(struct opt *o);

/* The learning rate at `step` (0-based) when `progress` in [0, 1] of the run is behind. */
double opt_lr(const struct opt_config *c, int64_t step, double progress);

/* The square root of the sum of squares, in an order that does not depend on the thread count. NaN and inf pass
 * through. */
double opt_norm(const float *grad, int64_t n);
double opt_square(const float *grad, int64_t n); /* the sum itself */
/* The same of the gradients of a store, some of which may be kept in bf16. */
double opt_gradient_norm(const struct ad_store *s, const void *grad);
double opt_square16(const uint16_t *x, int64_t n); /* of bf16, by one thread */

/* Emits the gradient of the scalar `loss` by every trained parameter of the store, as outputs to the caller named
 * "grad/<parameter>"; then, once there is a plan, binds them to one flat buffer of ad_store_flat_bytes, laid out as the
 * parameters are and of their types. The gaps of the buffer are not written: zero it once. */
void opt_emit_gradients(struct ad_graph *g, const struct ad_store *s, val loss);
void opt_bind_gradients(struct ad_plan *p, const struct ad_store *s, void *grad);

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
void opt_bind_gradients_of(struct ad_plan *p, const struct ad_store *s, const char *prefix, void *grad);
/* After a run of a plan with such outputs in its arena: adds them to the flat buffer, or with `begin` puts them there.
 * Returns the sum of their squares. All in f32: a store without narrow entries. */
double opt_add_gradients(const struct ad_plan *p, const struct ad_store *s, const char *prefix, bool begin,
                         float *grad);

/* The optimizer within the backward pass (Lv et al. 2023, arXiv 2306.09782, sec. 3.1): a parameter moves as soon as its
 * gradient is there and nothing reads the parameter any more, and the gradient's memory is free again. What comes of it is
 * opt_step's, to the bit; of narrow entries without the gradient's rounding to bf16. ERR_CONFIG where
 * an optimizer needs more than a number's own gradient: clipping; all kinds but adamw, sgd and lion. */
int opt_may_step_within(const struct opt_config *c, struct err *e) MUST_CHECK;
/* Instead of opt_emit_gradients; `o`, whose store has the parameters, must outlive the graph and its plans. The sums of the
 * gradients' squares are outputs. */
void opt_emit_steps(struct ad_graph *g, struct opt *o, val loss);
/* Before each run of such a plan. Where a gradient is not finite the numbers around it, some thousand, do not move; all
 * others have moved when the run ends, or some of them when it ends with an error. */
void opt_begin(struct opt *o, double lr);
/* After such a run: the sum of the gradient's squares, and square[opt_param_count] of each parameter's, in their order in
 * the store. */
double opt_squares_within(const struct opt *o, const struct ad_plan *p, double *square);
int opt_param_count(const struct opt *o); /* that are trained */

/* One step. `grad` is laid out as the weights are and `norm` is opt_gradient_norm of it, for clipping. Moments are corrected
 * for their start (Kingma & Ba 2015, alg. 1); the averaged weights follow as ema * avg + (1 - ema) * weights. Allocates
 * nothing; the same bits for any number of threads. */
void opt_step(struct opt *o, const void *grad, double norm, double lr);

/* How evenly a step's work shares out on so many threads: all of it / (threads x the largest share), 1 at best. */
double opt_balance(const struct opt *o, int threads);

/* State for checkpoints: one tensor for a parameter and what is kept of it ("adamw.m", "adamw.v", "sgd.momentum",
 * "ema", ...; Adafactor's "adafactor.row" and "adafactor.column" are smaller than the parameter). `data` is the
 * optimizer's: float, bf16, or one-byte codes with `absmax` (opt_blocks(count) numbers). */
struct opt_state {
    const char *name;
    const struct ad_entry *of;
    struct ad_shape shape;
    int64_t count;
    enum opt_store store;
    bool positive; /* of OPT_8BIT: codes for numbers from 0 on */
    void *data;
    float *absmax;
};
int opt_state_count(const struct opt *o);
struct opt_state opt_state(const struct opt *o, int i);
/* Gives the state these numbers: rounded to nearest, or to codes. */
void opt_state_set(const struct opt_state *s, const float *x);
int64_t opt_steps(const struct opt *o);
void opt_set_steps(struct opt *o, int64_t steps);
const float *opt_ema(const struct opt *o); /* NULL if there is none */

/* Operations of an update of one number, as the loops of optim/kernels/steps.c have them. */
enum { OPT_FLOPS = 14 };
/* Bytes of state for each trained parameter, averages included: for --dry-run. Adafactor's depend on the shapes. */
double opt_bytes_per_parameter(const struct opt *o);

#endif
