/* What the files of optim/ share: an optimizer's parameters, its tasks, what they know of a step. */
#ifndef TRIAD_OPTIM_INNER_H
#define TRIAD_OPTIM_INNER_H

#include "optim/opt.h"
#include "optim/quant.h"
#include "optim/steps.h"

struct opt_param {
    const struct ad_entry *entry;
    enum opt_kind rule;     /* the optimizer's; OPT_ADAMW for what Muon leaves */
    float lr_scale, decay;  /* 0: frozen, none */
    struct opt_state *slot; /* what is kept of it */
    int n_slot;
    int64_t first_task, n_task;
    float trust; /* of this step, where the rule has one */
};

/* A piece of one parameter, of OPT_TASK elements but for the last: bounds that do not depend on the thread count. */
enum { OPT_TASK = 16384 };
struct opt_task {
    int param;
    int64_t from, to;
};

/* A step as its parts see it. */
struct opt_call {
    const void *grad; /* laid out as the weights are; or NULL and: */
    const float *own; /* of the one parameter at hand, in f32 */
    double lr;
    struct opt_factors f; /* lr and decay are a parameter's own: opt_factors_of */
};

struct opt {
    struct opt_config c;
    struct ad_store *store;
    struct opt_param *param;
    int n_param;
    struct opt_task *task;
    int64_t n_task;
    double (*part)[2]; /* sums of each task, added up in order by opt_sum */
    struct opt_state *state;
    int n_state;
    void *memory; /* that the states lie in */
    size_t bytes;
    float *ema;
    struct opt_muon *muon; /* its scratch, if it is OPT_MUON and there are hidden matrices */
    int64_t n, steps;
    struct opt_call at; /* of the step that opt_begin began */
};

struct opt_factors opt_factors_of(const struct opt_param *q, const struct opt_call *c);
/* w and g are NULL where they are kept in bf16. */
struct opt_piece opt_piece_of(const struct opt *o, const struct opt_param *q, const struct opt_task *t,
                              const struct opt_call *c);
/* A parameter's gradient; of a narrow one, bf16 lies there, but for c->own. */
const float *opt_gradient_of(const struct opt_param *q, const struct opt_call *c);
/* Runs `body` over a task: at once, or where weights and gradients are kept in bf16 a block at a time, widened; where
 * `write`, the weights are rounded back as opt_adamw16 rounds moments, by other bits. `from` is as in opt_windows; `sum` is
 * in every piece. */
typedef void opt_body(const struct opt_param *q, const struct opt_piece *p, int64_t from, const struct opt_factors *f);
void opt_pieces(const struct opt *o, const struct opt_task *t, const struct opt_call *c, double *sum, bool write,
                opt_body *body);
/* The whole of a task, of a rule that needs nothing but the task's own numbers. */
void opt_task_step(const struct opt *o, const struct opt_task *t, const struct opt_call *c);

extern const size_t opt_state_width[]; /* bytes of a number, by enum opt_store; scales not counted */

/* Runs a kernel that takes the states as they are stored. `from` is the piece's first element in its parameter, of a block
 * where the states are codes. */
typedef void opt_kernel(const struct opt_piece *p, const struct opt_factors *f);
void opt_in_place(const struct opt_param *q, struct opt_piece p, int64_t from, const struct opt_factors *f,
                  opt_kernel *kernel);
/* Runs a kernel over a piece with its states in f32, as m and v: as they lie, or decoded and, where `write`, stored again,
 * a block at a time. `from` is the piece's first element in its parameter. */
void opt_windows(const struct opt_param *q, struct opt_piece p, int64_t from, const struct opt_factors *f,
                 opt_kernel *kernel, bool write);

/* sum[k] = part[..][k] over a parameter's tasks, in order. */
void opt_sum(const struct opt *o, const struct opt_param *q, double sum[2]);

/* ---- trust.c: LAMB, LARS ----------------------------------------------------------------------------------------- */
/* LAMB: the moments. Both: each parameter's trust. */
void opt_trust(struct opt *o, const struct opt_call *c);

/* ---- adafactor.c ------------------------------------------------------------------------------------------------- */
/* The second moments and each parameter's trust; then the step of one task. */
void opt_adafactor_moments(struct opt *o, const struct opt_call *c);
void opt_adafactor_step(const struct opt *o, const struct opt_task *t, const struct opt_call *c);

/* ---- muon.c ------------------------------------------------------------------------------------------------------ */
/* NULL and an error where there is no memory; `o` has its parameters. */
struct opt_muon *opt_muon_new(const struct opt *o, struct err *e);
void opt_muon_free(struct opt_muon *m);
/* The whole step of the hidden matrices. */
void opt_muon_step(struct opt *o, const struct opt_call *c);

#endif
