/* How the calls of a plan share out among threads. See ad_plan_balance in plan.h. */
#include <string.h>

#include "autograd/plan_parts.h"
#include "autograd/region.h"

int ad_plan_balance(struct ad_plan *p, int threads, int rounds, uint64_t seed, uint64_t step, struct ad_balance *b,
                    double *waits, struct err *e)
{
    struct region_weights w = {.threads = threads};
    int rc = 0;
    p->weights = &w;
    p->waits = waits;
    for (int i = 0; i < rounds && !rc; i++) {
        region_weights_begin(&w);
        memset(waits, 0, p->n_step * sizeof *waits);
        p->uncut = 0;
        rc = ad_run(p, seed, step, e);
    }
    p->weights = NULL;
    p->waits = NULL;
    *b = (struct ad_balance){w.work, w.span, p->uncut, w.forks, w.barriers};
    region_weights_free(&w);
    return rc;
}
