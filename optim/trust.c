/* LAMB and LARS: a parameter's step is as long as its weights are large (You et al. 2020, alg. 2; 2017, alg. 1). Details
 * as timm 1.0's Lamb and Lars: no ratio where there is no decay or a norm is 0. */
#include <math.h>

#include "base/threads.h"
#include "optim/inner.h"

/* |w|^2 and |u|^2, u being LAMB's update or LARS's gradient, are added to p->sum. */
static void add_norms(const struct opt_param *q, const struct opt_piece *p, int64_t from, const struct opt_factors *f)
{
    if (q->rule == OPT_LARS) {
        p->sum[0] += ISA_PICK(opt_squares)(p->w, p->n);
        p->sum[1] += ISA_PICK(opt_squares)(p->g, p->n) * (double)f->grad_scale * (double)f->grad_scale;
        return;
    }
    opt_windows(q, *p, from, f, ISA_PICK(opt_lamb_moments), true);
    opt_windows(q, *p, from, f, ISA_PICK(opt_lamb_norms), false); /* of the moments as they are stored */
}

static void task_norms(const struct opt *o, int64_t at, const struct opt_call *c)
{
    o->part[at][0] = o->part[at][1] = 0;
    opt_pieces(o, &o->task[at], c, o->part[at], false, add_norms);
}

static float trust_of(const struct opt *o, const struct opt_param *q)
{
    double sum[2];
    if (q->decay == 0) return 1;
    opt_sum(o, q, sum);
    double w = sqrt(sum[0]), u = sqrt(sum[1]);
    if (!(w > 0 && u > 0)) return 1;
    return (float)(q->rule == OPT_LAMB ? w / u : o->c.trust * w / (u + w * (double)q->decay + o->c.eps));
}

void opt_trust(struct opt *o, const struct opt_call *c)
{
#pragma omp parallel for schedule(static) if (o->n > PAR_MIN)
    for (int64_t i = 0; i < o->n_task; i++)
        if (o->param[o->task[i].param].lr_scale > 0) task_norms(o, i, c);
    for (int i = 0; i < o->n_param; i++)
        if (o->param[i].lr_scale > 0) o->param[i].trust = trust_of(o, &o->param[i]);
}
