/* The factor of the loss and of the gradients. See loss_scale.h. */
#include "train/loss_scale.h"

#include "autograd/ops/ops.h"
#include "base/log.h"

enum { MOST = 1 << 24 };

void train_loss_scale_set(struct train_loss_scale *s, struct run_loss_scale at)
{
    s->at = at;
    s->factor = (float)at.scale;
}

void train_loss_scale_begin(struct train_loss_scale *s, const struct run_train *c)
{
    s->on = c->precision == AD_PRECISION_F16;
    s->every = c->loss_scale_every;
    double scale = 1; /* a power of two, so that to multiply and divide by it rounds nothing */
    while (scale * 2 <= c->loss_scale) scale *= 2;
    if (s->on) train_loss_scale_set(s, (struct run_loss_scale){.scale = scale});
}

val train_loss_scale_emit(const struct train_loss_scale *s, struct ad_graph *g, val loss)
{
    return s && s->on ? ad_mul(g, loss, ad_input(g, "loss_scale", AD_F32, SCALAR)) : loss;
}

void train_loss_scale_bind(const struct train_loss_scale *s, struct ad_plan *p)
{
    if (s && s->on) ad_bind(p, "loss_scale", &s->factor);
}

double train_loss_scale_factor(const struct train_loss_scale *s)
{
    return s->on ? (double)s->factor : 1;
}

void train_loss_scale_undo(const struct train_loss_scale *s, float *grad, int64_t n)
{
    float factor = 1 / s->factor;
    if (!s->on) return;
#pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < n; i++) grad[i] *= factor;
}

void train_loss_scale_good(struct train_loss_scale *s)
{
    if (!s->on || ++s->at.good < s->every) return;
    double scale = s->at.scale < MOST ? 2 * s->at.scale : s->at.scale;
    train_loss_scale_set(s, (struct run_loss_scale){.scale = scale});
}

bool train_loss_scale_skip(struct train_loss_scale *s, int64_t step)
{
    if (!s->on || s->at.scale <= 1) return false;
    train_loss_scale_set(s, (struct run_loss_scale){.scale = s->at.scale / 2});
    log_warn("step %lld: a gradient is beyond f16's range; the step is left out, the loss scale becomes %.0f",
             (long long)step, s->at.scale);
    return true;
}
