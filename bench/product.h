/* Products that `triad bench gemm` times, and who takes part: triad's gemm(), each of its back ends alone, and the
 * libraries beside it. */
#ifndef TRIAD_BENCH_PRODUCT_H
#define TRIAD_BENCH_PRODUCT_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct bench_product {
    char name[64];
    int64_t m, n, k;
    bool ta, tb;  /* A is stored (K, M), B is stored (N, K) */
    bool weights; /* B is what training keeps in panels from update to update */
};

/* A product at work. c: triad's result, d: that of whoever else is timed. */
struct bench_gemm {
    const struct bench_product *p;
    float *a, *b, *c, *d;
    void *scratch;
    float *panels; /* B again, by bench_keep */
    int threads;
    size_t bytes; /* of the block that starts at `scratch` */
};

/* Room for each of the n products, filled with numbers of size about 1; ERR_MEMORY. */
int bench_gemm_new(struct bench_gemm *w, const struct bench_product *p, int n, struct err *e) MUST_CHECK;
void bench_gemm_free(struct bench_gemm *w);

/* From BENCH_DIRECT to BENCH_BLAS in the order of enum gemm_backend; the others are our own, alone and on one thread; but for
 * BENCH_KEPT, gemm() by weights in panels. */
enum bench_contestant {
    BENCH_GEMM,
    BENCH_DIRECT,
    BENCH_THIN,
    BENCH_NARROW,
    BENCH_XSMM_ROWS,
    BENCH_PACKED,
    BENCH_LANES,
    BENCH_BLAS,
    BENCH_DNNL,
    BENCH_XSMM,
    BENCH_KEPT,
    BENCH_CONTESTANTS
};
extern const char *const bench_contestants[BENCH_CONTESTANTS];

/* Looks for oneDNN and libxsmm, whose libraries are found at run time: nothing else of triad needs them. */
void bench_find_libraries(void);
/* Whether it is here, and multiplies such a product. */
bool bench_takes(enum bench_contestant who, const struct bench_gemm *w);
/* The back end that multiplies such a product, where it is not cut. */
enum bench_contestant bench_chosen(const struct bench_gemm *w);
/* Copies B into panels, as training does once an update; before BENCH_KEPT is timed. */
void bench_keep(const struct bench_gemm *w);
/* Seconds of one of `repeat` calls. */
double bench_time(enum bench_contestant who, const struct bench_gemm *w, int repeat);
/* The result of `who`, who was timed last, against gemm()'s; ERR_STATE where they differ by more than sums in another
 * order do. */
int bench_agrees(enum bench_contestant who, const struct bench_gemm *w, struct err *e) MUST_CHECK;

#endif
