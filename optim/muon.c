/* Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon) as torch.optim.Muon of PyTorch 2.14 has it, but with the
 * Newton-Schulz steps in f32 where that takes bf16. A matrix R x C, r the smaller of the two, takes five times
 * 4 r^2 max(R, C) + 2 r^3 operations: small beside a step over many thousand tokens, not beside one over a few. */
#include <math.h>
#include <stdlib.h>

#include "autograd/kernels/gemm.h"
#include "base/mem.h"
#include "base/threads.h"
#include "optim/inner.h"

enum { STEPS = 5 };
static const float coefficient[3] = {3.4445f, -4.7750f, 2.0315f};
static const double least_norm = 1e-7;

struct opt_muon {
    float *x, *y, *gram, *line, *poly; /* two matrices, three squares */
    void *gemm;
    float *memory;
    size_t bytes;
};

static int64_t rows_of(const struct opt_param *q)
{
    return q->entry->shape.dim[0];
}
static int64_t columns_of(const struct opt_param *q)
{
    return q->entry->shape.dim[1];
}
static bool moves(const struct opt_param *q)
{
    return q->rule == OPT_MUON && q->lr_scale > 0 && q->entry->count > 0;
}

static void shapes_of(const struct opt_param *q, int64_t *r, int64_t *long_side)
{
    int64_t a = rows_of(q), b = columns_of(q);
    *r = a < b ? a : b;
    *long_side = a < b ? b : a;
}

struct opt_muon *opt_muon_new(const struct opt *o, struct err *e)
{
    int64_t matrix = 0, square = 0;
    size_t gemm_bytes = 0;
    for (int i = 0; i < o->n_param; i++) {
        const struct opt_param *q = &o->param[i];
        if (!moves(q)) continue;
        int64_t r, l;
        shapes_of(q, &r, &l);
        if (r * l > matrix) matrix = r * l;
        if (r * r > square) square = r * r;
        size_t need[] = {gemm_scratch(r, r, l), gemm_scratch(r, r, r), gemm_scratch(rows_of(q), columns_of(q), r)};
        for (int k = 0; k < 3; k++)
            if (need[k] > gemm_bytes) gemm_bytes = need[k];
    }
    matrix = (matrix + 15) / 16 * 16;
    square = (square + 15) / 16 * 16;
    struct opt_muon *m = mem_zero(1, sizeof *m);
    m->bytes = (size_t)(2 * matrix + 3 * square) * sizeof(float) + gemm_bytes;
    m->memory = mem_block(m->bytes, "Muon's products", e);
    if (!m->memory) {
        free(m);
        return NULL;
    }
    m->x = m->memory;
    m->y = m->x + matrix;
    m->gram = m->y + matrix;
    m->line = m->gram + square;
    m->poly = m->line + square;
    m->gemm = m->poly + square;
    return m;
}

void opt_muon_free(struct opt_muon *m)
{
    if (!m) return;
    mem_block_free(m->memory, m->bytes);
    free(m);
}

/* What the matrix is to move along, into m->x, scaled to norm 1. */
static void mix(const struct opt *o, const struct opt_param *q, const struct opt_call *c)
{
    float *x = o->muon->x;
#pragma omp parallel for schedule(static) if (q->entry->count > PAR_MIN)
    for (int64_t i = q->first_task; i < q->first_task + q->n_task; i++) {
        const struct opt_task *t = &o->task[i];
        struct opt_factors f = opt_factors_of(q, c);
        struct opt_piece p = opt_piece_of(o, q, t, c);
        p.u = x + t->from;
        opt_windows(q, p, t->from, &f, ISA_PICK(opt_muon_mix), true);
        o->part[i][0] = ISA_PICK(opt_squares)(p.u, p.n);
    }
    double sum[2];
    opt_sum(o, q, sum);
    float scale = (float)(1 / fmax(sqrt(sum[0]), least_norm));
    for (int64_t i = 0; i < q->entry->count; i++) x[i] *= scale;
}

/* poly = a I + S (b I + c S), S = X X^T or X^T X, the smaller one. */
static void polynomial(struct opt_muon *m, const float *x, int64_t rows, int64_t columns)
{
    bool wide = rows <= columns;
    int64_t r = wide ? rows : columns;
    struct gemm_args g = {.m = r, .n = r, .k = wide ? columns : rows, .a = x, .b = x, .c = m->gram, .c_row = r};
    g.a_row = wide ? columns : 1;
    g.a_col = wide ? 1 : columns;
    g.b_row = g.a_col;
    g.b_col = g.a_row;
    gemm(&g, m->gemm);
    for (int64_t i = 0; i < r * r; i++) m->line[i] = coefficient[2] * m->gram[i];
    for (int64_t i = 0; i < r; i++) m->line[i * r + i] += coefficient[1];
    g = (struct gemm_args){.m = r, .n = r, .k = r, .a = m->gram, .b = m->line, .c = m->poly, .c_row = r};
    g.a_row = g.b_row = r;
    g.a_col = g.b_col = 1;
    gemm(&g, m->gemm);
    for (int64_t i = 0; i < r; i++) m->poly[i * r + i] += coefficient[0];
}

/* x <- the orthogonal factor of x, roughly: singular values of 0.7 to 1.2. */
static void orthogonal(struct opt_muon *m, int64_t rows, int64_t columns)
{
    for (int k = 0; k < STEPS; k++) {
        polynomial(m, m->x, rows, columns);
        bool wide = rows <= columns;
        int64_t r = wide ? rows : columns;
        struct gemm_args g = {.m = rows, .n = columns, .k = r, .c = m->y, .c_row = columns};
        g.a = wide ? m->poly : m->x;
        g.b = wide ? m->x : m->poly;
        g.a_row = wide ? r : columns;
        g.b_row = wide ? columns : r;
        g.a_col = g.b_col = 1;
        gemm(&g, m->gemm);
        float *swap = m->x;
        m->x = m->y;
        m->y = swap;
    }
}

static void apply(const struct opt *o, const struct opt_param *q, const struct opt_call *c)
{
    double in = (double)rows_of(q), out = (double)columns_of(q);
    double rate = o->c.muon_rate == OPT_MATCH_RMS ? 0.2 * sqrt(fmax(in, out)) : sqrt(fmax(1, out / in));
#pragma omp parallel for schedule(static) if (q->entry->count > PAR_MIN)
    for (int64_t i = q->first_task; i < q->first_task + q->n_task; i++) {
        const struct opt_task *t = &o->task[i];
        struct opt_factors f = opt_factors_of(q, c);
        struct opt_piece p = opt_piece_of(o, q, t, c);
        f.trust = (float)(c->lr * (double)q->lr_scale * rate);
        p.u = o->muon->x + t->from;
        ISA_PICK(opt_muon)(&p, &f);
    }
}

void opt_muon_step(struct opt *o, const struct opt_call *c)
{
    for (int i = 0; i < o->n_param; i++) {
        const struct opt_param *q = &o->param[i];
        if (!moves(q)) continue;
        mix(o, q, c);
        orthogonal(o->muon, rows_of(q), columns_of(q));
        apply(o, q, c);
    }
}
