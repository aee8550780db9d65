/* The rules of start values, cut into blocks over threads. See start.h. */
#include "autograd/start.h"

#include <math.h>

#include "autograd/op.h"
#include "base/rng.h"

enum { BLOCK = 4096 };
_Static_assert(BLOCK % AD_START_GROUP == 0, "blocks begin on groups");

/* Element i, first drawn beyond two deviations, from a stream of its own. */
static float draw_again(uint64_t key, int64_t i)
{
    struct rng r = {.key = key, .step = (uint64_t)i + 1};
    double x;
    do x = rng_normal(&r);
    while (fabs(x) > 2);
    return (float)x;
}

static void block_values(uint64_t key, const struct ad_init *init, int64_t from, int64_t n, float *x)
{
    struct rng r = {.key = key, .count = (uint64_t)from}; /* from is a multiple of the four words of a draw */
    float scale = (float)init->scale;
    switch (init->kind) {
    case AD_INIT_ZERO:
    case AD_INIT_ONE:
    case AD_INIT_VALUE:
        for (int64_t i = 0; i < n; i++) x[i] = init->kind == AD_INIT_VALUE ? scale : init->kind == AD_INIT_ONE;
        return;
    case AD_INIT_UNIFORM:
        for (int64_t i = 0; i < n; i++) x[i] = (float)rng_range(&r, -init->scale, init->scale);
        return;
    case AD_INIT_NORMAL:
    case AD_INIT_TRUNC_NORMAL:
        ISA_PICK(ad_start_normal)(key, from, n, x);
        for (int64_t i = 0; i < n; i++) {
            if (init->kind == AD_INIT_TRUNC_NORMAL && fabsf(x[i]) > 2) x[i] = draw_again(key, from + i);
            x[i] *= scale;
        }
        return;
    }
}

static void fill_block(uint64_t key, const struct ad_entry *p, int64_t from)
{
    int64_t n = p->count - from < BLOCK ? p->count - from : BLOCK;
    float own[BLOCK];
    bool direct = p->dtype == AD_F32;
    float *x = direct ? (float *)p->data + from : own;
    block_values(key, &p->init, from, n, x);
    struct ad_tensor t = {.data = p->data, .dtype = p->dtype};
    for (int64_t i = 0; i < n && !direct; i++)
        ad_set(&t, from + i, p->init.kind == AD_INIT_VALUE ? p->init.scale : (double)x[i]);
}

void ad_start_values(uint64_t seed, struct ad_entry *entry, size_t n)
{
#pragma omp parallel
    for (size_t e = 0; e < n; e++) {
        const struct ad_entry *p = &entry[e];
        uint64_t key = rng_make(seed, hash_str(p->name), 0).key;
#pragma omp for schedule(dynamic, 4) nowait
        for (int64_t from = 0; from < p->count; from += BLOCK) fill_block(key, p, from);
    }
    for (size_t e = 0; e < n; e++) entry[e].fresh = true;
}
