/* Cuts a fill into blocks for the threads. See rng_fill.h. */
#include "base/rng_fill.h"

#include "base/err.h"
#include "base/isa.h"
#include "base/threads.h"

ISA_DECLARE(void, rng_normals, (uint64_t key, uint64_t step, int64_t first, int64_t n, double scale, float *x));

enum { BLOCK = 1 << 15 }; /* numbers: even, as two come of one block of Philox */

void rng_fill_normal(const struct rng *r, double scale, int64_t n, float *x)
{
    CHECK(r->count == 0);
#pragma omp parallel for schedule(static) if (n > BLOCK)
    for (int64_t first = 0; first < n; first += BLOCK)
        ISA_PICK(rng_normals)(r->key, r->step, first, n - first < BLOCK ? n - first : BLOCK, scale, x + first);
}
