/* Gradients of a loss by all trained parameters, computed straight into one flat buffer. */
#include <stdlib.h>

#include "base/mem.h"
#include "optim/opt.h"

static bool trained(const struct ad_entry *p)
{
    return !(p->flags & AD_STATE) && p->dtype == AD_F32;
}

void opt_emit_gradients(struct ad_graph *g, const struct ad_store *s, val loss)
{
    int count = ad_store_count(s), n = 0;
    val *x = mem_zero((size_t)count + 1, sizeof *x), *dx = mem_zero((size_t)count + 1, sizeof *dx);
    for (int i = 0; i < count; i++) {
        const struct ad_entry *p = ad_store_at(s, i);
        if (trained(p)) x[n++] = ad_param(g, p->name, p->dtype, p->shape);
    }
    ad_grad(g, &loss, NULL, 1, x, n, dx);
    for (int i = 0, k = 0; i < count; i++) {
        if (!trained(ad_store_at(s, i))) continue;
        char *name = mem_printf("grad/%s", ad_store_at(s, i)->name);
        ad_output_to_caller(g, name, dx[k++]);
        free(name);
    }
    free(x);
    free(dx);
}

void opt_bind_gradients(struct ad_plan *p, const struct ad_store *s, float *grad)
{
    for (int i = 0; i < ad_store_count(s); i++) {
        const struct ad_entry *e = ad_store_at(s, i);
        if (!trained(e)) continue;
        char *name = mem_printf("grad/%s", e->name);
        bool found = ad_bind_out(p, name, grad + e->offset);
        CHECK_MSG(found, "the plan has no '%s'", name);
        free(name);
    }
}
