/* Steps as nodes of the graph, one for each parameter. See opt_emit_steps in opt.h. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/op.h"
#include "base/mem.h"
#include "optim/inner.h"

struct within {
    struct opt *o;
    int64_t param; /* index of o->param */
};

static struct opt_param *param_of(const struct ad_call *c)
{
    const struct within *a = c->attr;
    return &a->o->param[a->param];
}

/* ---- the op: (gradient, parameter) -> the sum of the gradient's squares ------------------------------------------- */

static int infer(struct ad_infer *f)
{
    char a[96], b[96];
    if (!ad_same_shape(f->in_shape[0], f->in_shape[1]))
        return ad_infer_fail(f, "the gradient is %s, the parameter %s", ad_shape_text(a, f->in_shape[0]),
                             ad_shape_text(b, f->in_shape[1]));
    f->shape[0] = SCALAR;
    f->dtype[0] = AD_F64;
    return 0;
}

static void run_tasks(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct within *a = c->attr;
    const struct opt *o = a->o;
    struct opt_call at = o->at;
    at.own = c->in[0].data;
    for (int64_t i = o->param[a->param].first_task + from; i < o->param[a->param].first_task + to; i++) {
        const struct opt_task *t = &o->task[i];
        o->part[i][0] = ISA_PICK(opt_squares)(at.own + t->from, t->to - t->from);
        if (isfinite(o->part[i][0])) opt_task_step(o, t, &at);
    }
}

static void add_squares(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct within *a = c->attr;
    double sum[2];
    opt_sum(a->o, param_of(c), sum);
    ad_set(&c->out[0], 0, sum[0]);
}

static void cut(const struct ad_call *c, int threads, struct ad_parts *p)
{
    p->n = 2;
    p->phase[0] = (struct ad_phase){.items = param_of(c)->n_task, .run = run_tasks, .dynamic = true};
    p->phase[1] = (struct ad_phase){.items = 1, .run = add_squares, .alone = true};
}

static void eval(const struct ad_call *c)
{
    run_tasks(c, NULL, 0, param_of(c)->n_task);
    add_squares(c, NULL, 0, 1);
}

static double flops(const struct ad_call *c)
{
    return OPT_FLOPS * (double)ad_count(c->in[0].shape);
}

/* Gradient, weights and states are read, weights and states written. */
static double bytes(const struct ad_call *c)
{
    const struct opt_param *q = param_of(c);
    double n = (double)q->entry->count, weight = (double)ad_dtype_size(q->entry->kept), sum = n * (4 + 2 * weight);
    for (int i = 0; i < q->n_slot; i++) sum += 2 * (double)q->slot[i].count * (double)opt_state_width[q->slot[i].store];
    return sum;
}

static const struct ad_kernel kernel;
static const struct ad_op op_within = {.name = "optimizer",
                                       .attr_size = sizeof(struct within),
                                       .flags = AD_APPLIES | AD_EXACT,
                                       .min_in = 2,
                                       .max_in = 2,
                                       .infer = infer,
                                       .eval = eval,
                                       .flops = flops,
                                       .bytes = bytes,
                                       .kernel = &kernel};
static const struct ad_kernel kernel = {.op = &op_within, .dtype = AD_F32, .name = "within", .half_in = 2, .cut = cut};

/* ---- asked from outside ------------------------------------------------------------------------------------------ */

int opt_may_step_within(const struct opt_config *c, struct err *e)
{
    if (c->clip > 0)
        return err_set(e, ERR_CONFIG,
                       "clipping needs the whole gradient before any parameter moves; it goes with clip 0, "
                       "not %g",
                       c->clip);
    if (c->kind == OPT_ADAMW || c->kind == OPT_SGD || c->kind == OPT_LION) return 0;
    return err_set(e, ERR_CONFIG, "it goes with adamw, sgd and lion; a step of %s needs norms or sums first",
                   opt_kind_names[c->kind]);
}

static void output_name(const struct opt_param *q, char name[600])
{
    int len = snprintf(name, 600, "grad_square/%s", q->entry->name);
    CHECK(len > 0 && len < 600);
}

void opt_emit_steps(struct ad_graph *g, struct opt *o, val loss)
{
    size_t n = (size_t)o->n_param;
    val *x = mem_zero(n + 1, sizeof *x), *dx = mem_zero(n + 1, sizeof *dx);
    for (size_t i = 0; i < n; i++) {
        const struct ad_entry *p = o->param[i].entry;
        x[i] = ad_param(g, p->name, p->dtype, p->shape);
    }
    ad_grad(g, &loss, NULL, 1, x, (int)n, dx);
    for (size_t i = 0; i < n; i++) {
        struct within a;
        memset(&a, 0, sizeof a);
        a.o = o;
        a.param = (int64_t)i;
        char name[600];
        output_name(&o->param[i], name);
        ad_output(g, name, AD_NODE(g, &op_within, &a, dx[i], x[i]));
    }
    free(x);
    free(dx);
}

double opt_squares_within(const struct opt *o, const struct ad_plan *p, double *square)
{
    double sum = 0;
    for (int i = 0; i < o->n_param; i++) {
        char name[600];
        output_name(&o->param[i], name);
        sum += square[i] = ad_result_scalar(p, name);
    }
    return sum;
}
