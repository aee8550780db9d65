/* What a step takes and where: memory over its calls, time and operations by layer, what is kept for the gradients, what is
 * computed a second time, what is fused. As text and as a page. */
#ifndef TRIAD_BENCH_EXPLAIN_H
#define TRIAD_BENCH_EXPLAIN_H

#include "autograd/plan.h"

/* Bytes beside the arena: parameters, gradients... */
struct bench_held {
    const char *what;
    double bytes;
};
enum { BENCH_HELD = 8 };

/* What is to be explained, and its figures; `t` and `piece` are the plan's. */
struct bench_explained {
    const char *name;
    char about[400]; /* one line: batch, shapes, where they come from */
    struct bench_held held[BENCH_HELD];
    int n_held;
    double budget;            /* bytes; 0: none */
    struct ad_limits machine; /* for the roofline */
    struct ad_plan_stats stats;
    struct ad_timing *t;
    struct ad_piece *piece;
    size_t n, n_piece;
    size_t peak, border; /* the call with the most bytes alive; the first of the gradients (n: none) */
    bool timed;          /* t has seconds */
    int depth;           /* parts of a layer's path that make a line */
};

/* Reads the plan's figures into x; the plan must outlive them. bench_explain_free frees what it allocated. */
void bench_explain_plan(struct bench_explained *x, const struct ad_plan *p);
void bench_explain_free(struct bench_explained *x);

void bench_explain_text(const struct bench_explained *x, struct buf *out);
void bench_explain_page(const struct bench_explained *x, struct buf *out); /* self-contained HTML with SVG */

/* ---- for both ---------------------------------------------------------------------------------------------------- */

/* The calls of one layer, one run. */
struct bench_layer {
    char name[96];
    int64_t calls;
    double flops, again_flops, limit_s, again_s, seconds; /* seconds: measured */
    double kept;                                          /* bytes made there and kept for the gradients */
};
/* In the order of their first call. Returns how many; the caller frees *out. */
size_t bench_explain_layers(const struct bench_explained *x, struct bench_layer **out);

/* Fused chains that do the same: "mul + add + gelu". */
struct bench_chain {
    char ops[160];
    int64_t calls;
    double bytes; /* moved, a run */
};
size_t bench_explain_chains(const struct bench_explained *x, struct bench_chain **out); /* the most frequent first */

/* Indices into x->piece of what is alive at call `at`, the largest first. Returns how many; the caller frees *out. */
size_t bench_explain_alive(const struct bench_explained *x, size_t at, size_t **out);
/* "kept", "again", "gradient", "here" (made and used up in the same part), "scratch". */
const char *bench_explain_kind(const struct ad_piece *p);
/* "f32 (64, 17, 256)" */
char *bench_explain_shape(char out[120], const struct ad_piece *p);
double bench_explain_bytes(const struct bench_explained *x, const char *kind); /* of that kind alive at the peak */

#endif
