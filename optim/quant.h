/* One byte a number: blocks of OPT_BLOCK numbers share a scale, their largest magnitude, and a code says which of 256
 * shares of it comes nearest (Dettmers et al. 2022, arXiv 2110.02861, sec. 2.1 and fig. 2: the dynamic tree map). Seven
 * decades, 10^-7 to 1; decade i of them is cut into 2^i equal cells for signed numbers and 2^(i+1) for positive ones, and
 * a code stands for a cell's middle; 0 and 1 have codes of their own. */
#ifndef TRIAD_OPTIM_QUANT_H
#define TRIAD_OPTIM_QUANT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/isa.h"

enum { OPT_BLOCK = 256 };

/* By decade (the last of eight is the code for 1; each table twice, for vectors of 16). Magnitude k of a share s is
 * trunc(min(s gain + offset, last)), in the decade after the last one whose `next` is below s; that of code k is
 * power (0.9 f + middle), f being how far k is within its decade: these two tables go by the last three bits of the
 * exponent that k has as a float, or k + 1 with a positive map, and the fraction is f. */
struct opt_map {
    bool positive;
    int zero;    /* the code of 0: 0, or 127 where there are negative ones below */
    float least; /* shares up to it are 0 */
    _Alignas(64) float next[16], gain[16], offset[16], last[16];
    float power[16], middle[16];
};
/* The map for numbers of both signs, or from 0 on. Made by the first call, which must be alone. */
const struct opt_map *opt_map(bool positive);

static inline int64_t opt_blocks(int64_t count)
{
    return (count + OPT_BLOCK - 1) / OPT_BLOCK;
}

/* x[0] .. x[n-1], n <= OPT_BLOCK, to codes and their scale: nearest codes (of two that are as near within the rounding of
 * x / scale, 3e-7 of it, either), but with a positive map what is above 0 does
 * not become 0, since the root of a second moment divides (a parameter's step would be eps^-1 long). With a NaN or an
 * infinity in it the block's scale is not finite, nor what comes back of it, but for codes of 0. */
void opt_encode(const struct opt_map *map, const float *x, int64_t n, uint8_t *code, float *absmax);
void opt_decode(const struct opt_map *map, const uint8_t *code, int64_t n, float absmax, float *x);

/* For quant.c (optim/kernels/quant.c). */
ISA_DECLARE(void, opt_encode, (const struct opt_map *map, const float *x, int64_t n, uint8_t *code, float *absmax));
ISA_DECLARE(void, opt_decode, (const struct opt_map *map, const uint8_t *code, int64_t n, float absmax, float *x));

#endif
