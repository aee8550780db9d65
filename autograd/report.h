/* Where a plan's time goes: its calls with their times and what they do, and tables of them. */
#ifndef TRIAD_AUTOGRAD_REPORT_H
#define TRIAD_AUTOGRAD_REPORT_H

#include <stddef.h>
#include "autograd/graph.h"

struct ad_plan;
struct ad_program;
struct buf;

/* One call of a plan, summed over the runs since ad_plan_profile(p, true). */
struct ad_timing {
    const char *op, *kernel, *path; /* path: the layer's; the strings live as long as the plan */
    int64_t calls;
    double seconds; /* of all the calls together */
    /* Of one call: floating-point operations, as the op counts them; and bytes: each input once where several are the
     * same memory, each output once, whatever a kernel reads twice or keeps in a cache. */
    double flops, bytes;
    enum ad_part part;
    int64_t live;                   /* bytes of the arena in use while it runs */
    const struct ad_program *fused; /* of a chain of elementwise ops (program.h), else NULL; the plan's */
};

/* Writes the plan's timings, in the order of the calls, and returns how many there are; with `out` NULL only that. */
size_t ad_plan_timings(const struct ad_plan *p, struct ad_timing *out);

/* A piece of the plan's arena and the calls during which its content is needed. */
struct ad_piece {
    const char *op, *path; /* of the call that makes it; strings as above */
    struct ad_shape shape;
    enum ad_dtype dtype;
    int64_t bytes;
    size_t first, last; /* calls, both included */
    enum ad_part part;
    bool kept;    /* made by the forward part and read by the gradients */
    bool scratch; /* a kernel's room to work in: no shape */
};
/* Writes the pieces of the arena and returns how many there are; with `out` NULL only that. */
size_t ad_plan_pieces(const struct ad_plan *p, struct ad_piece *out);

/* What a machine can do, a second; 0: not known. */
struct ad_limits {
    double flops, bytes;
};

/* Seconds that no program could do without: flops at the rate of `l` or bytes at its bandwidth, whichever is longer
 * (Williams et al. 2009, the roofline), summed over the calls. */
double ad_roofline(const struct ad_timing *t, size_t n, const struct ad_limits *l);

enum ad_report_by { AD_BY_OP, AD_BY_LAYER };

/* Calls of one kind, summed. */
struct ad_report_line {
    char name[96], kernel[32]; /* the op and its kernel; or the layer and "" */
    int64_t calls;
    double seconds, flops, bytes; /* of all the calls */
    double limit;                 /* seconds that they would take at the roofline */
};

/* Sums calls into lines, the longest times first, and returns how many; out[n] is enough. By op: a line an op and kernel.
 * By layer: a line for the first four parts of a path, where numbers read '*', so that the blocks of a stack share their
 * lines ("image.block.*.mlp"). `l` may be NULL: then `limit` is 0. */
size_t ad_report_lines(const struct ad_timing *t, size_t n, enum ad_report_by by, const struct ad_limits *l,
                       struct ad_report_line *out);

/* The lines as a text table: calls, ms, share of the time, GF/s, GB/s, and with limits the per cent of the roofline. */
void ad_report(const struct ad_timing *t, size_t n, enum ad_report_by by, const struct ad_limits *l, struct buf *out);

#endif
