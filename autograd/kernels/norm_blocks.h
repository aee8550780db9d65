/* How the norm kernels cut rows into blocks, so that sums over rows do not depend on threads. */
#ifndef TRIAD_AUTOGRAD_KERNELS_NORM_BLOCKS_H
#define TRIAD_AUTOGRAD_KERNELS_NORM_BLOCKS_H

#include <math.h>
#include <string.h>

#include "autograd/ops/norm.h"
#include "base/isa.h"
#include "base/threads.h"

enum { MAX_BLOCKS = 64, MIN_ROWS = 32 };

/* Rows are cut into at most 64 blocks, whose size depends on the number of rows only. */
static inline int64_t block_rows(int64_t rows)
{
    int64_t n = (rows + MAX_BLOCKS - 1) / MAX_BLOCKS;
    return n < MIN_ROWS ? MIN_ROWS : n;
}
static inline int64_t block_count(int64_t rows)
{
    return (rows + block_rows(rows) - 1) / block_rows(rows);
}
static inline int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* part[block][2][C] -> two vectors, the blocks in order; columns from .. to-1 */
static inline void join_blocks(const float *part, int64_t blocks, int64_t c, int64_t from, int64_t to, float *first,
                               float *second)
{
    memset(first + from, 0, (size_t)(to - from) * sizeof *first);
    memset(second + from, 0, (size_t)(to - from) * sizeof *second);
    for (int64_t b = 0; b < blocks; b++) {
        const float *p = part + b * 2 * c;
        for (int64_t i = from; i < to; i++) first[i] += p[i];
        for (int64_t i = from; i < to; i++) second[i] += p[c + i];
    }
}

static inline float rstd_of(float var, const struct norm_attr *a)
{
    return (float)(1 / sqrt((double)var + a->eps));
}

#endif
