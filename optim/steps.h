/* The inner loops of optimizers over pieces of flat buffers (optim/kernels/steps.c), compiled for several instruction
 * sets. For optim/ only. */
#ifndef TRIAD_OPTIM_STEPS_H
#define TRIAD_OPTIM_STEPS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/isa.h"

struct opt_factors {
    float lr, decay, b1, b2, eps, fix1, fix2, grad_scale, momentum, ema;
    bool nesterov;
    uint64_t key, step; /* random bits for rounding */
};

/* One piece: n numbers, each pointer at its first. `first` is the piece's place in the whole buffer, a multiple of 16;
 * ema, m may be NULL. */
struct opt_piece {
    int64_t n, first;
    float *w;
    const float *g;
    void *m, *v; /* float, or bf16 (uint16_t) for opt_adamw16 */
    float *ema;
};

/* x <- decay x + (1 - decay) g; ema follows in the same pass. */
ISA_DECLARE(void, opt_adamw, (const struct opt_piece *p, const struct opt_factors *f));
/* The same with moments that are stored in 16 bits: computed in f32 and rounded to one of the two neighbours at random,
 * so that the expectation is the number (Gupta et al. 2015, eq. 1). The bits are the 16 that
 * stand at place i / 128 * 64 + i % 64 of the words of rng_philox(key, step, 0 ..): neighbours have bits of their own. */
ISA_DECLARE(void, opt_adamw16, (const struct opt_piece *p, const struct opt_factors *f));
ISA_DECLARE(void, opt_sgd, (const struct opt_piece *p, const struct opt_factors *f));
/* The averages alone: of weights that do not move. */
ISA_DECLARE(void, opt_follow, (const struct opt_piece *p, const struct opt_factors *f));
/* The sum of squares, in double. */
ISA_DECLARE(double, opt_squares, (const float *x, int64_t n));

#endif
