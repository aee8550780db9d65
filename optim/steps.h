/* The inner loops of optimizers over pieces of flat buffers (optim/kernels/steps.c), compiled for several instruction
 * sets. For optim/ only. */
#ifndef TRIAD_OPTIM_STEPS_H
#define TRIAD_OPTIM_STEPS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/isa.h"

struct opt_factors {
    float lr, decay, b1, b2, eps, fix1, fix2, grad_scale, momentum, ema;
    float trust;         /* LARS: of gradient and decay; LAMB: of the rate; Adafactor, Muon: the update's rate */
    float row, row_mean; /* Adafactor: the row's mean square and the mean of all rows'; 1 where nothing is factored */
    bool nesterov;
    uint64_t key, step; /* random bits for rounding */
};

/* One piece: n numbers, each pointer at its first. `first` is the piece's place in the whole buffer, a multiple of 16;
 * ema, m, v may be NULL where the kernel does not say that it takes them. */
struct opt_piece {
    int64_t n, first;
    float *w;
    const float *g;
    void *m, *v;     /* float, or bf16 (uint16_t) for opt_adamw16, or codes (uint8_t) for opt_adamw8 */
    float *scale[2]; /* the codes', one for OPT_BLOCK numbers */
    float *ema;
    float *u;    /* Muon's update: the gradient with momentum, later its orthogonal factor */
    double *sum; /* two, for opt_lamb_norms */
};

/* All but the norms end with the weights, and with the averages if there are some. */
/* m, v: x <- decay x + (1 - decay) g. */
ISA_DECLARE(void, opt_adamw, (const struct opt_piece *p, const struct opt_factors *f));
/* The same with moments that are stored in 16 bits: computed in f32 and rounded to one of the two neighbours at random,
 * so that the expectation is the number (Gupta et al. 2015, eq. 1). The bits of element i, the same for m and v: of the
 * 512 elements that begin at a multiple of 512, those at j and j + 16 of each 32 (j < 16) take the lower and the upper
 * half of word j of the four counters rng_philox(key, step, i / 512 * 4 ..), and in the k-th of the 16 times 32 each
 * half is multiplied by the odd number OPT_SPREAD(k), modulo 2^16: so every element's bits are uniform and those of two
 * differ, and drawing costs little beside the rest. */
#define OPT_SPREAD(k) ((uint16_t)((k)*40502u + 1u))
ISA_DECLARE(void, opt_adamw16, (const struct opt_piece *p, const struct opt_factors *f));
/* The same with codes of optim/quant.h, the first of a block first: as if they were decoded, moved by opt_adamw, encoded. */
ISA_DECLARE(void, opt_adamw8, (const struct opt_piece *p, const struct opt_factors *f));
/* m: the momentum, or NULL. */
ISA_DECLARE(void, opt_sgd, (const struct opt_piece *p, const struct opt_factors *f));
ISA_DECLARE(void, opt_lion, (const struct opt_piece *p, const struct opt_factors *f));
/* LAMB in three: the moments; sum[0] += |w|^2 and sum[1] += |u|^2 of the update u; the step by trust u. */
ISA_DECLARE(void, opt_lamb_moments, (const struct opt_piece *p, const struct opt_factors *f));
ISA_DECLARE(void, opt_lamb_norms, (const struct opt_piece *p, const struct opt_factors *f));
ISA_DECLARE(void, opt_lamb, (const struct opt_piece *p, const struct opt_factors *f));
/* Adafactor: |u|^2 of u = g / max(sqrt v, eps), v = row / row_mean * p->v; then the step by trust u. */
ISA_DECLARE(double, opt_adafactor_norm, (const struct opt_piece *p, const struct opt_factors *f));
ISA_DECLARE(void, opt_adafactor, (const struct opt_piece *p, const struct opt_factors *f));
/* Muon: m <- momentum m + (1 - momentum) g, u = m or what Nesterov looks ahead to; then the step by trust u. */
ISA_DECLARE(void, opt_muon_mix, (const struct opt_piece *p, const struct opt_factors *f));
ISA_DECLARE(void, opt_muon, (const struct opt_piece *p, const struct opt_factors *f));
/* The averages alone: of weights that do not move. */
ISA_DECLARE(void, opt_follow, (const struct opt_piece *p, const struct opt_factors *f));

/* The sum of squares, in double. */
ISA_DECLARE(double, opt_squares, (const float *x, int64_t n));
/* sum[j] = the squares of column j, summed over rows that are `stride` apart; n <= OPT_STRIP columns. */
enum { OPT_STRIP = 64 };
ISA_DECLARE(void, opt_column_squares, (const float *x, int64_t rows, int64_t stride, int64_t n, double *sum));
/* bf16 from and to n numbers, the first at `place` (a multiple of 16) of the flat buffer: rounded as opt_adamw16 does. */
ISA_DECLARE(void, opt_from16, (const uint16_t *from, int64_t n, float *to));
ISA_DECLARE(void, opt_to16, (const float *from, int64_t n, int64_t place, const struct opt_factors *f, uint16_t *to));

#endif
