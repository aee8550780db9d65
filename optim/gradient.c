/* Gradients by trained parameters, computed into one flat buffer or added to it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "optim/opt.h"

static bool trained(const struct ad_entry *p, const char *prefix)
{
    return ad_in_flat(p) && !strncmp(p->name, prefix, strlen(prefix));
}

void opt_emit_gradients(struct ad_graph *g, const struct ad_store *s, val loss)
{
    struct opt_sought o = {.prefix = "", .to_caller = true};
    opt_emit_gradients_of(g, s, loss, 0, &o);
}

void opt_emit_gradients_of(struct ad_graph *g, const struct ad_store *s, val y, val seed, const struct opt_sought *o)
{
    int count = ad_store_count(s), n = 0;
    size_t room = (size_t)count + (size_t)o->n + 1;
    val *x = mem_zero(room, sizeof *x), *dx = mem_zero(room, sizeof *dx);
    for (int i = 0; i < o->n; i++) x[n++] = o->x[i];
    for (int i = 0; i < count; i++) {
        const struct ad_entry *p = ad_store_at(s, i);
        if (trained(p, o->prefix)) x[n++] = ad_param(g, p->name, p->dtype, p->shape);
    }
    ad_grad(g, &y, seed ? &seed : NULL, 1, x, n, dx);
    for (int i = 0; i < o->n; i++) o->dx[i] = dx[i];
    for (int i = 0, k = o->n; i < count; i++) {
        if (!trained(ad_store_at(s, i), o->prefix)) continue;
        char *name = mem_printf("grad/%s", ad_store_at(s, i)->name);
        (o->to_caller ? ad_output_to_caller : ad_output)(g, name, dx[k++]);
        free(name);
    }
    free(x);
    free(dx);
}

void opt_bind_gradients(struct ad_plan *p, const struct ad_store *s, void *grad)
{
    opt_bind_gradients_of(p, s, "", grad);
}

void opt_bind_gradients_of(struct ad_plan *p, const struct ad_store *s, const char *prefix, void *grad)
{
    for (int i = 0; i < ad_store_count(s); i++) {
        const struct ad_entry *e = ad_store_at(s, i);
        if (!trained(e, prefix)) continue;
        char *name = mem_printf("grad/%s", e->name);
        bool found = ad_bind_out(p, name, (char *)grad + e->place);
        CHECK_MSG(found, "the plan has no '%s'", name);
        free(name);
    }
}

double opt_add_gradients(const struct ad_plan *p, const struct ad_store *s, const char *prefix, bool begin, float *grad)
{
    char name[600];
    double square = 0;
    for (int i = 0; i < ad_store_count(s); i++) {
        const struct ad_entry *e = ad_store_at(s, i);
        if (!trained(e, prefix)) continue;
        int len = snprintf(name, sizeof name, "grad/%s", e->name);
        CHECK(len > 0 && (size_t)len < sizeof name);
        const float *from = ad_result(p, name, NULL);
        CHECK_MSG(from, "the plan has no '%s'", name);
        float *to = grad + e->offset;
        square += opt_square(from, e->count);
        if (begin)
            memcpy(to, from, (size_t)e->count * sizeof *to);
        else
#pragma omp parallel for simd schedule(static) if (e->count > 1 << 16)
            for (int64_t k = 0; k < e->count; k++) to[k] += from[k];
    }
    return square;
}
