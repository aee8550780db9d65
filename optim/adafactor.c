/* Adafactor (Shazeer & Stern 2018, alg. 4 and 5) as torch.optim.Adafactor of PyTorch 2.14 has it, with its defaults: the
 * sums of the paper are means, eps1 bounds the root and the mean of the rows from below instead of being added to squares,
 * and lr bounds the relative step. */
#include <float.h>
#include <math.h>

#include "base/threads.h"
#include "optim/inner.h"

static const double decay_power = -0.8, least_rms = 1e-3, most_rms = 1; /* beta2_decay, eps2, d */

/* A parameter of two and more dimensions as `n` matrices of rows x columns. */
struct matrices {
    int64_t n, rows, columns;
};

static bool factored(const struct opt_param *q)
{
    return q->entry->shape.rank > 1;
}

static struct matrices matrices_of(const struct opt_param *q)
{
    const struct ad_shape *s = &q->entry->shape;
    int64_t c = s->dim[s->rank - 1], r = s->dim[s->rank - 2], each = r * c;
    return (struct matrices){each ? q->entry->count / each : 0, r, c};
}

static void lerp(float *x, double to, double share)
{
    *x = (float)((double)*x + share * (to - (double)*x));
}

/* The means of squares by row and by column join their moving averages. */
static void factor(const struct opt_param *q, const float *grad, double scale2, double share)
{
    struct matrices a = matrices_of(q);
    float *row = q->slot[0].data, *column = q->slot[1].data;
    int64_t strips = (a.columns + OPT_STRIP - 1) / OPT_STRIP;
#pragma omp parallel if (q->entry->count > PAR_MIN)
    {
#pragma omp for schedule(static) nowait
        for (int64_t i = 0; i < a.n * a.rows; i++)
            lerp(&row[i], scale2 * ISA_PICK(opt_squares)(grad + i * a.columns, a.columns) / (double)a.columns, share);
#pragma omp for schedule(static)
        for (int64_t k = 0; k < a.n * strips; k++) {
            int64_t from = k % strips * OPT_STRIP, n = a.columns - from < OPT_STRIP ? a.columns - from : OPT_STRIP;
            const float *g = grad + k / strips * a.rows * a.columns + from;
            double sum[OPT_STRIP];
            ISA_PICK(opt_column_squares)(g, a.rows, a.columns, n, sum);
            for (int64_t j = 0; j < n; j++)
                lerp(&column[k / strips * a.columns + from + j], scale2 * sum[j] / (double)a.rows, share);
        }
    }
}

static void square(const struct opt_param *q, const float *grad, double scale2, double share)
{
    float *v = q->slot[0].data;
    for (int64_t i = 0; i < q->entry->count; i++) lerp(&v[i], scale2 * (double)grad[i] * (double)grad[i], share);
}

static float mean_of_rows(const float *row, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)row[i];
    return (float)fmax(sum / (double)n, FLT_EPSILON);
}

/* Runs over a task row by row: |u|^2, or the step itself. */
static double over_rows(const struct opt *o, const struct opt_task *t, const struct opt_call *c, bool step)
{
    const struct opt_param *q = &o->param[t->param];
    struct opt_factors f = opt_factors_of(q, c);
    struct opt_piece whole = opt_piece_of(o, q, t, c);
    struct matrices a = {1, 1, q->entry->count};
    int64_t of = -1;
    double sum = 0;
    f.trust = q->trust;
    f.eps = FLT_EPSILON;
    f.row = f.row_mean = 1;
    if (factored(q)) a = matrices_of(q);
    for (int64_t i = t->from; i < t->to;) {
        int64_t r = i / a.columns, at = i % a.columns, n = a.columns - at < t->to - i ? a.columns - at : t->to - i;
        struct opt_piece p = {.n = n, .w = whole.w + (i - t->from), .g = whole.g + (i - t->from)};
        if (whole.ema) p.ema = whole.ema + (i - t->from);
        p.v = (float *)q->slot[q->n_slot - 1].data + r / a.rows * a.columns + at;
        if (factored(q)) {
            const float *row = q->slot[0].data;
            if (r / a.rows != of) of = r / a.rows, f.row_mean = mean_of_rows(row + of * a.rows, a.rows);
            f.row = row[r];
        }
        if (step)
            ISA_PICK(opt_adafactor)(&p, &f);
        else
            sum += ISA_PICK(opt_adafactor_norm)(&p, &f);
        i += n;
    }
    return sum;
}

/* RMS(w) or its least, times the relative step; less where RMS(u) is more than `most_rms`. */
static float trust_of(const struct opt *o, const struct opt_param *q, double lr)
{
    double sum[2], n = (double)q->entry->count;
    opt_sum(o, q, sum);
    double rho = fmin(lr, 1 / sqrt((double)o->steps));
    return (float)(fmax(least_rms, sqrt(sum[0] / n)) * rho / fmax(1, sqrt(sum[1] / n) / most_rms));
}

void opt_adafactor_moments(struct opt *o, const struct opt_call *c)
{
    double share = pow((double)o->steps, decay_power), scale2 = (double)c->f.grad_scale * (double)c->f.grad_scale;
    for (int i = 0; i < o->n_param; i++) {
        const struct opt_param *q = &o->param[i];
        const float *g = opt_gradient_of(q, c);
        if (q->lr_scale == 0 || q->entry->count == 0) continue;
        if (factored(q))
            factor(q, g, scale2, share);
        else
            square(q, g, scale2, share);
    }
#pragma omp parallel for schedule(static) if (o->n > PAR_MIN)
    for (int64_t i = 0; i < o->n_task; i++) {
        const struct opt_task *t = &o->task[i];
        const struct opt_param *q = &o->param[t->param];
        if (q->lr_scale == 0) continue;
        o->part[i][0] = ISA_PICK(opt_squares)((const float *)q->entry->data + t->from, t->to - t->from);
        o->part[i][1] = over_rows(o, t, c, false);
    }
    for (int i = 0; i < o->n_param; i++) {
        struct opt_param *q = &o->param[i];
        if (q->lr_scale > 0) q->trust = trust_of(o, q, c->lr * (double)q->lr_scale);
    }
}

void opt_adafactor_step(const struct opt *o, const struct opt_task *t, const struct opt_call *c)
{
    over_rows(o, t, c, true);
}
