/* A tile of the similarities of two sets of vectors, a block of rows by a block of columns: what the contrastive losses
 * (contrast.c) do with it. It is done by parts: first rows, each of which needs nothing of another row, then columns. What a part
 * computes, to the bit, does not depend on how many rows or columns it has, where it begins with a strip. */
#ifndef TRIAD_AUTOGRAD_KERNELS_CONTRAST_TILES_H
#define TRIAD_AUTOGRAD_KERNELS_CONTRAST_TILES_H

#include <string.h>

#include "autograd/kernels/vfunc.h"
#include "autograd/ops/contrast.h"
#include "base/isa.h"

/* Rows of a strip; the rows of a tile lie LD_MORE further apart than they are long. */
enum { TILE = CONTRAST_TILE, STRIP = 32, LD_MORE = 16 };

/* Rows (side 0) or columns (side 1) of the similarities. */
struct side {
    const float *x; /* (n, D), rows ld apart */
    int64_t n, ld;
    const float *has;
    const int32_t *id;
    float *top;         /* InfoNCE forward: the largest logit so far */
    double *sum, *mean; /* of exp(logit - top), of positives' logits */
    float *count;       /* positives; forward: output, backward: input */
    const float *lse;   /* backward */
    float weight;       /* backward: of each query that counts */
    float *dx;          /* backward (n, D) */
};

struct contrast_job {
    struct side side[2];
    struct contrast_tiles tiles;
    int64_t width, block, strips; /* strips: in a block, the last maybe shorter */
    float *kept;                  /* [tiles.kept] tiles of block x block */
    bool multiplied;              /* they are there already */
    float scale, bias, dloss;
    double *part[2]; /* [tiles.rows x strips] sums over a strip of rows: SigLIP's loss; dscale, dbias */
    int32_t *done;   /* waves behind each block of the shorter side */
    float *room;     /* tiles that threads share */
    int64_t shared;  /* how many of them at a time, in so many parts of so many rows or columns */
    int64_t parts, length;
    bool siglip, grad;
};

/* A range of one side, at most a block long. */
struct span {
    const struct side *s;
    int64_t at, n;
};

/* Part of a tile. What its rows leave for its columns is in `s`, beginning with its first number, rows ld apart. */
struct contrast_part {
    struct span rows, columns;
    int64_t number; /* of the tile, in the order of waves: the first tiles.kept are kept */
    float *s;
    int64_t ld;
    bool first[2]; /* the first tile of its block of rows, of columns: gradients are not added but written */
};

#define contrast_products ISA_FN(contrast_products)
#define contrast_columns_of ISA_FN(contrast_columns_of)
#define contrast_add_rows ISA_FN(contrast_add_rows)
#define contrast_add_columns ISA_FN(contrast_add_columns)
#define infonce_rows ISA_FN(infonce_rows)
#define infonce_columns ISA_FN(infonce_columns)
#define infonce_loss ISA_FN(infonce_loss)
#define infonce_grad_rows ISA_FN(infonce_grad_rows)
#define siglip_rows ISA_FN(siglip_rows)
#define siglip_grad_rows ISA_FN(siglip_grad_rows)

typedef void (*contrast_part_fn)(const struct contrast_job *j, const struct contrast_part *p);

/* Forward: running sums of the rows; then, for InfoNCE, of the columns. */
void infonce_rows(const struct contrast_job *j, const struct contrast_part *p);
void infonce_columns(const struct contrast_job *j, const struct contrast_part *p);
void siglip_rows(const struct contrast_job *j, const struct contrast_part *p);
/* Backward: scale h and the rows' part of da; then the columns' part of db. */
void infonce_grad_rows(const struct contrast_job *j, const struct contrast_part *p);
void siglip_grad_rows(const struct contrast_job *j, const struct contrast_part *p);
void contrast_add_columns(const struct contrast_job *j, const struct contrast_part *p);
/* All tiles are through: the mean loss of one side's queries, and their logsumexp. */
double infonce_loss(const struct side *s, float *lse);

/* ---- for those ------------------------------------------------------------------------------------------------------ */

/* The products of a part's rows. */
struct products {
    const float *u;
    int64_t ld;
};
/* dA (+)= H B of a part whose H is in p->s. */
void contrast_add_rows(const struct contrast_job *j, const struct contrast_part *p);

/* The sums of the strip of rows in which row i, of the whole side, lies. */
static inline double *strip_sum(const struct contrast_job *j, int k, int64_t i)
{
    return &j->part[k][i / j->block * j->strips + i % j->block / STRIP];
}

/* What is asked about a part's columns; what lies behind the last is absent. */
struct columns {
    int32_t keep[TILE], id[TILE]; /* keep: -1 where there is a vector */
    int64_t padded;               /* to whole vectors */
    bool positives;               /* there may be some: the ranges of ids meet */
} __attribute__((aligned(64)));
void contrast_columns_of(const struct contrast_part *p, struct columns *to);
/* A B' of a part's rows, which are all the columns of its tile: kept, or in p->s where it is not; and its columns. */
struct products contrast_products(const struct contrast_job *j, const struct contrast_part *p, struct columns *k);

SIMD_FN vi vi_load(const int32_t *p)
{
    vi x;
    memcpy(&x, p, sizeof x);
    return x;
}
/* Where lanes of a mask are -1 or 0: x or 0, a or b. */
SIMD_FN vf keep_lanes(vi mask, vf x)
{
    return (vf)(mask & (vi)x);
}
SIMD_FN vf pick_lanes(vi mask, vf a, vf b)
{
    return (vf)((mask & (vi)a) | (~mask & (vi)b));
}

#endif
