/* The small products of attention by register-blocked kernels, and the copies that bring tokens into their layout. */
#pragma GCC optimize("O3")
#include "autograd/kernels/attention_block.h"

#include "autograd/kernels/register_block.h"
#include "autograd/kernels/transpose.h"
#include "autograd/ops/ops.h"

enum { MR = BLOCK_ROWS };

struct attn_task attn_task_of(const struct ad_call *c, int64_t item, int64_t h)
{
    const struct attention_attr *a = c->attr;
    const int32_t *qo = c->in[3].data, *ko = c->in[4].data;
    int64_t dim = c->in[0].shape.dim[1] / a->heads;
    struct attn_task t = {.q = attn_rows_of(&c->in[0], qo[item], h * dim),
                          .k = attn_rows_of(&c->in[1], ko[item], h * dim),
                          .v = attn_rows_of(&c->in[2], ko[item], h * dim),
                          .dim = dim,
                          .h = h,
                          .heads = a->heads,
                          .q_row = qo[item],
                          .k_row = ko[item],
                          .n_q = qo[item + 1] - qo[item],
                          .n_k = ko[item + 1] - ko[item],
                          .scale = (float)(1 / sqrt((double)dim)),
                          .causal = a->flags & AD_CAUSAL};
    if (a->bias) {
        t.sk = c->in[5].shape.dim[2];
        t.bias = (struct attn_rows){c->in[5].dtype, c->in[5].data, t.sk};
        t.bias = attn_row(t.bias, h * c->in[5].shape.dim[1]);
    }
    return t;
}

/* ---- copies --------------------------------------------------------------------------------------------------------- */

bool attn_all_finite(struct attn_rows rows, int64_t n, int64_t dim)
{
    vf sum = {0};
    float rest = 0;
    for (int64_t i = 0; i < n; i++) {
        struct attn_rows r = attn_row(rows, i);
        int64_t d = 0;
        for (; d + VL <= dim; d += VL) sum += vf_load_as(r.type, r.at, d) * 0.0f;
        for (; d < dim; d++) rest += float_as(r.type, r.at, d) * 0.0f;
    }
    return vf_sum(sum) + rest == 0;
}

SIMD_FN void copy_rows(enum ad_dtype type, struct attn_rows rows, int64_t n, int64_t dim, float *to)
{
    int64_t whole = dim / VL * VL;
    for (int64_t i = 0; i < n; i++, to += ROW) {
        const void *row = at_as(type, rows.at, i * rows.ld);
        for (int64_t d = 0; d < whole; d += VL) vf_store(to + d, vf_load_as(type, row, d));
        if (whole < dim) vf_store(to + whole, vf_load_part_as(type, row, whole, dim - whole));
    }
}

void attn_copy_rows(struct attn_rows rows, int64_t n, int64_t dim, float *to)
{
    BY_TYPE(rows.type, copy_rows, rows, n, dim, to);
}

/* A row of 8 in a register of eight lanes, whatever VL is. */
SIMD_FN transpose_row load_eight(enum ad_dtype type, const void *p, int64_t at)
{
    transpose_row x;
    float wide[8];
    if (type == AD_F32) {
        memcpy(&x, (const float *)p + at, sizeof x);
        return x;
    }
#if VL <= 8
    vf_widen(type, at_as(type, p, at), wide, 8);
#else
    for (int i = 0; i < 8; i++) wide[i] = float_as(type, p, at + i);
#endif
    memcpy(&x, wide, sizeof x);
    return x;
}

SIMD_FN void copy_columns(enum ad_dtype type, struct attn_rows rows, int64_t n, int64_t dim, float scale, float *to)
{
    int64_t wide = (n + VL - 1) / VL * VL;
    for (int64_t i = 0; i < wide; i += 8) {
        const void *row[8];
        int64_t d = 0;
        for (int j = 0; j < 8; j++) row[j] = at_as(type, rows.at, attn_min(i + j, n - 1) * rows.ld);
        for (; d + 8 <= dim; d += 8) {
            transpose_row r[8];
#pragma GCC unroll 8
            for (int j = 0; j < 8; j++) r[j] = load_eight(type, row[j], d) * scale;
            transpose_registers(r, to + d * LANES + i, LANES);
        }
        for (; d < dim; d++)
            for (int j = 0; j < 8; j++) to[d * LANES + i + j] = float_as(type, row[j], d) * scale;
    }
}

void attn_copy_columns(struct attn_rows rows, int64_t n, int64_t dim, float scale, float *to)
{
    BY_TYPE(rows.type, copy_columns, rows, n, dim, scale, to);
}

SIMD_FN void store_row(enum ad_dtype type, void *to, const float *from, int64_t dim, float scale)
{
    int64_t d = 0;
    for (; d + VL <= dim; d += VL) vf_store_as(type, to, d, vf_load(from + d) * scale);
    if (d < dim) vf_store_part_as(type, to, d, vf_load_part(from + d, dim - d, 0) * scale, dim - d);
}

void attn_store_half_row(enum ad_dtype type, void *to, const float *from, int64_t dim, float scale)
{
    BY_TYPE(type, store_row, to, from, dim, scale);
}

float attn_dot_half(struct attn_rows a, struct attn_rows b, int64_t dim)
{
    return attn_dot_as(a.type, a.at, b.type, b.at, dim);
}

void attn_clear_row(struct attn_rows row, int64_t dim)
{
    memset(row.at, 0, (size_t)dim * ad_dtype_size(row.type));
}

/* ---- products ------------------------------------------------------------------------------------------------------- */

/* C (mr x nv vectors, rows ldc) = A B, or += where `add`; A's element (i, k) at a[i * a_row + k * a_col]. */
SIMD_FN void kernel(int mr, int nv, int a_row, int a_col, int64_t kn, const float *a, const float *b, int64_t ldb,
                    float *c, int ldc, bool add)
{
    block_sums sum;
    if (add)
        block_load(mr, nv, sum, c, ldc);
    else
        block_clear(mr, nv, sum);
    block_multiply(mr, nv, kn, a, a_row, a_col, b, ldb, (struct block_ahead){0}, sum);
    block_store(mr, nv, sum, c, ldc, false);
}

typedef void (*kernel_fn)(int64_t kn, const float *a, const float *b, int64_t ldb, float *c, bool add);

/* clang-format off */
#define KERNELS(mr, nv)                                                                                               \
    static void tokens_##mr##_##nv(int64_t kn, const float *a, const float *b, int64_t ldb, float *c, bool add)       \
    {                                                                                                                 \
        kernel(mr, nv, ROW, 1, kn, a, b, LANES, c, LANES, false);                                                           \
    }                                                                                                                 \
    static void columns_##mr##_##nv(int64_t kn, const float *a, const float *b, int64_t ldb, float *c, bool add)      \
    {                                                                                                                 \
        kernel(mr, nv, 1, LANES, kn, a, b, ldb, c, ROW, add);                                                            \
    }                                                                                                                 \
    static void rows_##mr##_##nv(int64_t kn, const float *a, const float *b, int64_t ldb, float *c, bool add)         \
    {                                                                                                                 \
        kernel(mr, nv, LANES, 1, kn, a, b, ldb, c, ROW, add);                                                            \
    }
#define EACH_OF(mr) KERNELS(mr, 1) KERNELS(mr, 2)
#ifdef __AVX512F__
#define HEIGHTS(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14)
#else
#define HEIGHTS(X) X(1) X(2) X(3) X(4) X(5) X(6)
#endif
HEIGHTS(EACH_OF)
#define TOKENS(mr) {tokens_##mr##_1, tokens_##mr##_2},
#define COLUMNS(mr) {columns_##mr##_1, columns_##mr##_2},
#define ROWS(mr) {rows_##mr##_1, rows_##mr##_2},
static const kernel_fn tokens[MR][2] = {HEIGHTS(TOKENS)}, columns[MR][2] = {HEIGHTS(COLUMNS)},
                       rows[MR][2] = {HEIGHTS(ROWS)};
/* clang-format on */

/* C (m x n) = or += A (m x k) B (k x n), n rounded up to vectors; A's rows lie a_row apart, C's ldc. */
SIMD_FN void product(const kernel_fn run[MR][2], int64_t m, int64_t n, int64_t k, const float *a, int64_t a_row,
                     const float *b, int64_t ldb, float *c, int64_t ldc, bool add)
{
    struct parts p = parts_of(m, MR);
    for (int64_t j = 0; j < n; j += 2 * VL)
        for (int64_t i = 0; i < p.n; i++) {
            int64_t at = part_start(p, i), high = i < p.tall ? p.size : p.size - 1;
            run[high - 1][n - j > VL](k, a + at * a_row, b + j, ldb, c + at * ldc + j, add);
        }
}

void attn_product(int64_t keys, int64_t queries, int64_t dim, const float *v, const float *gt, float *s)
{
    product(tokens, keys, queries, dim, v, ROW, gt, LANES, s, LANES, false);
}

void attn_into_queries(int64_t queries, int64_t dim, int64_t keys, const float *p, const float *b, int64_t ldb,
                       float *c, bool add)
{
    product(columns, queries, dim, keys, p, 1, b, ldb, c, ROW, add);
}

void attn_into_keys(int64_t keys, int64_t dim, int64_t queries, const float *p, const float *b, int64_t ldb, float *c,
                    bool add)
{
    product(rows, keys, dim, queries, p, LANES, b, ldb, c, ROW, add);
}

/* The first QB are what hides a score, the others what leaves it. */
static const float limit[2 * QB] = {[0 ... QB - 1] = -INFINITY, [QB... 2 * QB - 1] = INFINITY};

void attn_scores(const struct attn_task *t, int64_t q0, int64_t qn, int64_t k0, int64_t kn, const float *k,
                 const float *qt, float *s, float *room)
{
    attn_product(kn, qn, t->dim, k, qt, s);
    if (t->bias.at) {
        struct attn_rows bias = attn_row(t->bias, q0);
        bias.at = at_as(bias.type, bias.at, k0);
        attn_copy_columns(bias, qn, kn, LOG2E, room);
        for (int64_t j = 0; j < kn; j++)
            for (int64_t i = 0; i < qn; i += VL)
                vf_store(s + j * LANES + i, vf_load(s + j * LANES + i) + vf_load(room + j * LANES + i));
    }
    if (!t->causal) return;
    int64_t all = attn_sees(t, q0); /* keys that every query of the block sees */
    for (int64_t j = all > k0 ? all - k0 : 0; j < kn; j++) {
        int64_t hidden = k0 + j - (q0 + t->n_k - t->n_q); /* queries before this one do not see the key */
        const float *to = limit + QB - attn_min(hidden, QB);
        for (int64_t i = 0; i < qn; i += VL)
            vf_store(s + j * LANES + i, vf_min(vf_load(s + j * LANES + i), vf_load(to + i)));
    }
}
