/* A fused chain of elementwise ops: a little program that runs tile by tile in the first-level cache. A single
 * elementwise op is a program of one line. */
#ifndef TRIAD_AUTOGRAD_PROGRAM_H
#define TRIAD_AUTOGRAD_PROGRAM_H

#include "autograd/op.h"

enum { PROGRAM_INPUTS = 12, PROGRAM_LINES = 24, PROGRAM_REGISTERS = PROGRAM_INPUTS + PROGRAM_LINES };

struct ad_line {
    const struct ad_op *op;
    const void *attr;
    int32_t src[3]; /* registers: 0 .. n_in-1 are the inputs, n_in + i is the result of line i */
    int32_t n_src;
};

struct ad_program {
    int32_t n_in, n_lines; /* the last line's result is the output */
    struct ad_line line[PROGRAM_LINES];
};

struct ad_fused_attr {
    const struct ad_program *program; /* lives in the graph's arena */
};
extern const struct ad_op ad_op_fused;

/* The fast f32 kernel of an elementwise or fused node; every tensor is f32, as it is or in 16 bits. */
extern const struct ad_kernel ad_elementwise_f32;

#endif
