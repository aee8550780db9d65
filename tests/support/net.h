/* Builds a small graph of layers, plans it, and runs it: what the tests of layers, models and plans share. */
#ifndef TRIAD_TESTS_NET_H
#define TRIAD_TESTS_NET_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/plan.h"
#include "base/mem.h"
#include "base/rng.h"
#include "layers/nn.h"

struct net {
    struct nn m;
    struct ad_plan *p;
};

static inline struct net net_begin(bool training)
{
    return (struct net){.m = {.g = ad_graph_new(), .store = ad_store_new(3), .training = training}};
}

static inline void net_end(struct net *n)
{
    ad_plan_free(n->p);
    ad_graph_free(n->m.g);
    ad_store_free(n->m.store);
}

/* Commits the store and plans. */
static inline void net_plan(struct net *n, unsigned flags)
{
    struct err e = {0};
    CHECK_MSG(nn_status(&n->m, &e) == 0, "%s", e.msg);
    CHECK_MSG(ad_store_commit(n->m.store, &e) == 0, "%s", e.msg);
    ad_plan_free(n->p);
    n->p = ad_plan_new(n->m.g, n->m.store, flags, &e);
    CHECK_MSG(n->p, "%s", e.msg);
}

static inline void net_run(struct net *n, uint64_t seed, uint64_t step)
{
    struct err e = {0};
    CHECK_MSG(ad_run(n->p, seed, step, &e) == 0, "%s", e.msg);
}

static inline const float *net_out(const struct net *n, const char *name)
{
    const float *y = ad_result(n->p, name, NULL);
    CHECK_MSG(y, "no output '%s'", name);
    return y;
}

/* A parameter's numbers, to read and to set. */
static inline float *net_param(const struct net *n, const char *name)
{
    struct ad_entry *x = ad_store_find(n->m.store, name);
    CHECK_MSG(x && x->data, "no parameter '%s'", name);
    return x->data;
}

/* n normal numbers, the same for the same `stream`. The caller frees. */
static inline float *numbers(int64_t n, const char *stream)
{
    float *x = mem_alloc((size_t)(n + 1) * sizeof *x);
    struct rng r = rng_make(5, hash_str(stream), 0);
    for (int64_t i = 0; i < n; i++) x[i] = (float)rng_normal(&r);
    return x;
}

/* All parameters normal: none is left at 0 or 1, where mistakes hide. */
static inline void net_fill(const struct net *n, double scale)
{
    for (int i = 0; i < ad_store_count(n->m.store); i++) {
        const struct ad_entry *p = ad_store_at(n->m.store, i);
        if (p->dtype != AD_F32) continue;
        struct rng r = rng_make(6, hash_str(p->name), 0);
        for (int64_t k = 0; k < p->count; k++) {
            float x = (float)(scale * rng_normal(&r));
            ((float *)p->data)[k] = p->flags & AD_STATE ? fabsf(x) + 0.1f : x; /* variances are positive */
        }
    }
}

/* fail_msg at the first pair further apart than tol * max(1, |want|). */
#define assert_close(got, want, n, tol)                                                                        \
    do {                                                                                                       \
        for (int64_t i_ = 0; i_ < (n); i_++)                                                                   \
            if (!(fabs((double)(got)[i_] - (double)(want)[i_]) <= (tol)*fmax(1, fabs((double)(want)[i_]))))    \
                fail_msg("line %d: number %lld is %.9g, not %.9g", __LINE__, (long long)i_, (double)(got)[i_], \
                         (double)(want)[i_]);                                                                  \
    } while (0)

#endif
