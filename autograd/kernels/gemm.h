/* The one interface for f32 matrix products; every kernel that multiplies goes through it. Behind it: our own packed
 * kernels for AVX2 and AVX-512 (gemm_packed.c, gemm_direct.c, gemm_skinny.c; gemm_choice.c has the table), OpenBLAS
 * elsewhere (gemm_blas.c). Results are the same bits for any thread count: every number of C is one chain over k, or one for
 * each lane where the whole product is summed in lanes, in blocks whose bounds depend on the sizes only. */
#ifndef TRIAD_AUTOGRAD_KERNELS_GEMM_H
#define TRIAD_AUTOGRAD_KERNELS_GEMM_H

#include <stddef.h>
#include "autograd/op.h"
#include "base/isa.h"

/* Each number of C is summed in so many numbers of K at a time, at most, and then the next: in about equal blocks, since each
 * costs a pass over C. A panel of B just fills the first-level cache at this length (AVX2). */
enum { GEMM_MOST_K = 512 };
static inline int64_t gemm_k_block(int64_t k)
{
    if (k <= GEMM_MOST_K) return k > 0 ? (k + 7) / 8 * 8 : 8; /* a division counts where a product is small */
    int64_t blocks = (k + GEMM_MOST_K - 1) / GEMM_MOST_K;
    return ((k + blocks - 1) / blocks + 7) / 8 * 8;
}

/* An operand A that lies nowhere as a matrix (a convolution's patches): `fill` writes rows i0 .. i0+ni-1, columns k0 ..
 * k0+nk-1 of it, element (i, k) to to[(i - i0) * i_step + (k - k0) * k_step]; one of the steps is 1, nk at most
 * GEMM_MOST_K. Called by several threads at once. */
struct gemm_source {
    void (*fill)(const void *ctx, int64_t i0, int64_t ni, int64_t k0, int64_t nk, float *to, int64_t i_step,
                 int64_t k_step);
    const void *ctx;
    bool by_column; /* numbers that are neighbours along i come cheaper than along k: k_step is then not 1 */
    int64_t i0, k0; /* where A begins in what `fill` writes: of a part of an operand the rest stays the same */
};
static inline struct gemm_source gemm_source_at(const struct gemm_source *s, int64_t i0, int64_t k0)
{
    return (struct gemm_source){s->fill, s->ctx, s->by_column, s->i0 + i0, s->k0 + k0};
}
static inline void gemm_fill(const struct gemm_source *s, int64_t i, int64_t ni, int64_t k, int64_t nk, float *to,
                             int64_t i_step, int64_t k_step)
{
    s->fill(s->ctx, s->i0 + i, ni, s->k0 + k, nk, to, i_step, k_step);
}

/* B in the order in which the kernel reads it: for each block of K (gemm_k_block) panels of so many columns, k by k. Weights
 * are brought into it once an update (autograd/ops/panels.c), and every product by them is spared the copying. */
struct gemm_panels {
    const float *at; /* NULL: there are none */
    int64_t n;       /* columns that all panels have together */
    int64_t first;   /* the column with which this product's B begins, a whole number of panels */
};

/* C (M, N) = act(A (M, K) B (K, N) + bias + residual). Of each operand's two strides one is 1 (or its axis has one
 * element) and the other is at least the length of the axis with stride 1. C must not overlap an operand; it may be the
 * residual.
 *
 * Everything is computed in f32. A, B, C and the residual may be bf16 or f16 where GEMM_HALF is 1: operands are widened
 * while they are packed, C is summed in f32 and rounded once, behind the activation. */
struct gemm_args {
    int64_t m, n, k;
    const void *a, *b;
    int64_t a_row, a_col, b_row, b_col;
    const struct gemm_source *source; /* A, if not NULL: a, a_row, a_col are not read */
    struct gemm_panels panels;        /* of the whole of B, or none */
    void *c;
    int64_t c_row;
    bool add;             /* C += A B (before bias and the rest); C is f32 */
    const float *bias;    /* (N) or NULL */
    const void *residual; /* (M, N) with rows res_row apart, or NULL */
    int64_t res_row;
    ad_tile_fn act; /* or NULL */
    enum ad_dtype a_type, b_type, c_type, res_type;
    /* C goes past the caches: set by `gemm`; callers of gemm_block ask gemm_streams, of the whole product. */
    bool stream;
    /* Sums are in lanes along K: as above, by gemm_sums_in_lanes. */
    bool lanes;
};
/* Whether A's rows are read where they lie: B is in panels, and A f32 by rows. */
static inline bool gemm_reads_a(const struct gemm_args *g)
{
    return g->panels.at && !g->source && g->a_type == AD_F32 && g->a_col == 1;
}

/* GEMM_CUTS_FREELY: bits do not depend on the blocks that a product is cut into. OpenBLAS' sums follow the size of a block. */
#ifdef __AVX2__
#define GEMM_HALF 1
#define GEMM_CUTS_FREELY 1
#else
#define GEMM_HALF 0
#define GEMM_CUTS_FREELY 0
#endif

/* How C is cut: nm x nn blocks of (m, n), taken one after the other by whoever is free. The `last`, one for each thread, are
 * cut once more into pieces, by rows or by columns: the end comes to all threads at about the same time though one is
 * slower. */
struct gemm_cut {
    int64_t m, n, nm, nn, last, pieces;
    bool by_rows;
};
/* A product as items that any threads may compute in any order, in two phases of which the second may have none: blocks of
 * C, or of K ranges into sums of their own, and then these sums by rows of C. `threads` decides how C is cut and no bit. */
struct gemm_work {
    struct gemm_args g;
    struct gemm_cut cut;
    int64_t ranges, items[2];
    float *sums;
};

/* What multiplies a block: operands read where they lie, so few rows that reading B is the cost, so few columns that they do
 * not fill a vector, libxsmm's kernels for small blocks, packed panels; few rows or columns of operands whose neighbours are along
 * K, summed in lanes; OpenBLAS where there is no AVX2. The first five give the same bits, so that how a product is cut may
 * decide which of them has a block; lanes have whole products, or all of one's blocks. */
enum gemm_backend { GEMM_DIRECT, GEMM_THIN, GEMM_NARROW, GEMM_XSMM, GEMM_PACKED, GEMM_LANES, GEMM_BLAS };

/* Whether the processor takes two vectors of multiply-adds of 512 bits a cycle, taken to be so of Intel's. For tests: -1 by the
 * processor, or 0, 1. */
bool gemm_two_a_cycle(void);
extern int gemm_two_a_cycle_is;
/* Bytes of a core's second-level cache, or 512 KB where the system does not say. For tests: 0 until it is asked for, or what it
 * is to be. */
int64_t gemm_second_cache(void);
extern int64_t gemm_second_cache_is;

/* `gemm` goes over all threads. `scratch` has gemm_scratch(m, n, k) bytes, which is 0 unless M and N are small and K is
 * long. `gemm_block` stays on the calling thread; inside a parallel region each thread calls gemm_enter_thread() once
 * before. */
#ifdef TRIAD_ISA
#define gemm ISA_FN(gemm)
#define gemm_scratch ISA_FN(gemm_scratch)
#define gemm_work_of ISA_FN(gemm_work_of)
#define gemm_do ISA_FN(gemm_do)
#define gemm_block ISA_FN(gemm_block)
#define gemm_enter_thread ISA_FN(gemm_enter_thread)
#define gemm_backend_of ISA_FN(gemm_backend_of)
#define gemm_can ISA_FN(gemm_can)
#define gemm_block_by ISA_FN(gemm_block_by)
#define gemm_streams ISA_FN(gemm_streams)
#define gemm_sums_in_lanes ISA_FN(gemm_sums_in_lanes)
#define gemm_wants_panels ISA_FN(gemm_wants_panels)
#define gemm_panels_count ISA_FN(gemm_panels_count)
#define gemm_panels_place ISA_FN(gemm_panels_place)
#define gemm_panels_pieces ISA_FN(gemm_panels_pieces)
#define gemm_panels_copy ISA_FN(gemm_panels_copy)
bool gemm_streams(const struct gemm_args *g); /* whether this C is better not brought into the caches */
#endif
void gemm(const struct gemm_args *g, void *scratch);
size_t gemm_scratch(int64_t m, int64_t n, int64_t k);
struct gemm_work gemm_work_of(const struct gemm_args *g, void *scratch, int64_t threads);
void gemm_do(const struct gemm_work *w, int phase, int64_t item);
void gemm_block(const struct gemm_args *g);
void gemm_enter_thread(void);

/* Whether products by a B that is kept (weights) gain by panels. Then, of a B (K, N): how many numbers its panels take; where
 * number i of them comes from, or false where it is a gap or stands behind the last column; and the copying, in pieces that
 * any threads may take. */
bool gemm_wants_panels(int64_t m, int64_t n, int64_t k);
int64_t gemm_panels_count(int64_t n, int64_t k);
bool gemm_panels_place(int64_t n, int64_t k, int64_t i, int64_t *row, int64_t *column);
int64_t gemm_panels_pieces(int64_t n, int64_t k);
void gemm_panels_copy(const struct gemm_args *g, int64_t piece, float *to); /* of g's b, b_row, b_col, b_type, n, k */

/* By the table in gemm_choice.c: whether this product, which is a whole one, is summed in lanes; and the one that gemm_block
 * takes. For measuring: gemm_block by another that can. */
bool gemm_sums_in_lanes(const struct gemm_args *g);
enum gemm_backend gemm_backend_of(const struct gemm_args *g);
bool gemm_can(enum gemm_backend by, const struct gemm_args *g);
void gemm_block_by(enum gemm_backend by, const struct gemm_args *g);

#ifdef TRIAD_ISA
/* What gemm.c and the files behind it share: C (M, N) of one block, on this thread; and the epilogue of row i, columns
 * j .. j+n-1, whose sums are in `sum`, which is C's row itself where C is f32. */
#define gemm_multiply ISA_FN(gemm_multiply)
#define gemm_epilogue_row ISA_FN(gemm_epilogue_row)
#define gemm_epilogue ISA_FN(gemm_epilogue)
#define gemm_direct ISA_FN(gemm_direct)
#define gemm_thin ISA_FN(gemm_thin)
#define gemm_narrow ISA_FN(gemm_narrow)
#define gemm_lanes ISA_FN(gemm_lanes)
void gemm_multiply(const struct gemm_args *g);
#if defined(TRIAD_XSMM) && defined(__AVX2__) && !defined(__AVX512F__)
#define GEMM_XSMM_HERE
#define gemm_xsmm_can ISA_FN(gemm_xsmm_can)
#define gemm_xsmm ISA_FN(gemm_xsmm)
bool gemm_xsmm_can(const struct gemm_args *g); /* of f32 alone, A no source */
void gemm_xsmm(const struct gemm_args *g);
#endif
#ifdef __AVX2__
/* Of f32 alone, A no source. thin: B's rows are contiguous. The same bits as gemm_multiply; but for lanes, where of at most
 * so many rows B's columns are contiguous, or of so many columns A's rows. */
#ifdef __AVX512F__
enum { GEMM_THIN_ROWS = 6 };
#else
enum { GEMM_THIN_ROWS = 3 };
#endif
enum { GEMM_NARROW_COLUMNS = 8, GEMM_LANES_MOST = 8 };
void gemm_direct(const struct gemm_args *g);
void gemm_thin(const struct gemm_args *g);
void gemm_narrow(const struct gemm_args *g);
void gemm_lanes(const struct gemm_args *g);
#endif
void gemm_epilogue_row(const struct gemm_args *g, float *sum, int64_t n, int64_t i, int64_t j);
/* Whether something follows the sums; and all of it, where C is f32 and holds them. */
static inline bool gemm_has_epilogue(const struct gemm_args *g)
{
    return g->bias || g->residual || g->act;
}
void gemm_epilogue(const struct gemm_args *g);
#endif

#endif
