/* Ops that move rows and lines, large and small enough for each of their ways: transposes in blocks, rows by index, sums of
 * rows. Bit for bit what a plain loop gives, for any number of threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "autograd/op.h"
#include "autograd/ops/ops.h"
#include "autograd/plan.h"
#include "base/half.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/threads.h"

extern const struct ad_op ad_op_gather, ad_op_scatter_add;

static const int team[] = {1, 2, 3, 7};
enum { TEAMS = sizeof team / sizeof *team };

/* ---- transposes ------------------------------------------------------------------------------------------------------ */

/* (lead, rows, cols) -> (lead, cols, rows), where `flip` names axes of the result that run backwards. The large ones are
 * past any cache, some in whole lines of memory. */
static const struct plane {
    int64_t lead, rows, cols;
    unsigned flip;
} planes[] = {
    {1, 16, 16},     {1, 15, 40},     {1, 40, 15},     {3, 17, 19},        {2, 33, 130, 2},    {2, 130, 33, 4},
    {5, 31, 47, 6},  {3, 64, 80, 1},  {1, 79, 80},     {1, 80, 79},        {1, 300, 257},      {4, 3, 1000},
    {1, 1, 50},      {2, 8, 33},      {1, 600, 700},   {3, 512, 512},      {1, 2, 9000},       {3, 80, 96},
    {2, 1104, 1936}, {1, 2064, 2048}, {1, 2065, 2051}, {1, 2064, 2048, 2}, {3, 1187, 1200, 1},
};

static void check_plane(const struct plane *t, enum ad_dtype type)
{
    int64_t n = t->lead * t->rows * t->cols;
    struct ad_graph *g = ad_graph_new();
    struct err e = {0};
    val y = ad_swap(g, ad_input(g, "x", type, SHAPE(t->lead, t->rows, t->cols)), 1, 2);
    for (int axis = 0; axis < 3; axis++)
        if (t->flip >> axis & 1) y = ad_flip(g, y, axis);
    ad_output(g, "y", ad_reshape(g, y, SHAPE(n)));
    struct ad_plan *p = ad_plan_new(g, NULL, 0, &e);
    if (!p) fail_msg("%s", e.msg);
    uint32_t *x = mem_alloc((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) x[i] = (uint32_t)i * 2654435761u; /* any bits, and each its own */
    ad_bind(p, "x", x);
    for (int k = 0; k < TEAMS; k++) {
        omp_set_num_threads(team[k]);
        if (ad_run(p, 1, 1, &e)) fail_msg("%s", e.msg);
        const uint32_t *got = (const uint32_t *)ad_result(p, "y", NULL);
        for (int64_t i = 0; i < n; i++) {
            int64_t l = i / (t->rows * t->cols), c = i / t->rows % t->cols, r = i % t->rows;
            if (t->flip & 1) l = t->lead - 1 - l;
            if (t->flip & 2) c = t->cols - 1 - c;
            if (t->flip & 4) r = t->rows - 1 - r;
            if (got[i] != x[(l * t->rows + r) * t->cols + c])
                fail_msg("(%lld, %lld, %lld), flips %u, %d threads: number %lld is another's", (long long)t->lead,
                         (long long)t->rows, (long long)t->cols, t->flip, team[k], (long long)i);
        }
    }
    free(x);
    ad_plan_free(p);
    ad_graph_free(g);
}

static void transposes(void **state)
{
    int before = threads_count();
    for (size_t i = 0; i < sizeof planes / sizeof *planes; i++) {
        check_plane(&planes[i], AD_F32);
        if (planes[i].rows < 512) check_plane(&planes[i], AD_I32);
    }
    omp_set_num_threads(before);
}

/* Transposed into a part of a larger result, whose lines begin where lines of memory do not: (rows, middle, cols) -> (cols,
 * middle, rows), and `before` and `after` numbers beside each row. */
static void check_padded(int64_t middle, int64_t before, int64_t after)
{
    enum { ROWS = 2048, N = ROWS * 2080 };
    int64_t cols = 2080 / middle, width = before + ROWS + after;
    struct ad_graph *g = ad_graph_new();
    struct err e = {0};
    val x = ad_input(g, "x", AD_F32, SHAPE(ROWS, middle, cols));
    ad_output(g, "y", ad_pad(g, ad_swap(g, x, 0, 2), 2, before, after, 0.5));
    struct ad_plan *p = ad_plan_new(g, NULL, 0, &e);
    if (!p) fail_msg("%s", e.msg);
    float *numbers = mem_alloc(N * sizeof *numbers);
    for (int i = 0; i < N; i++) numbers[i] = (float)i;
    ad_bind(p, "x", numbers);
    if (ad_run(p, 1, 1, &e)) fail_msg("%s", e.msg);
    const float *got = ad_result(p, "y", NULL);
    for (int64_t i = 0; i < 2080 * width; i++) {
        int64_t c = i / width / middle, m = i / width % middle, r = i % width - before;
        float want = r < 0 || r >= ROWS ? 0.5f : numbers[(r * middle + m) * cols + c];
        if (got[i] != want) fail_msg("padded by %lld: number %lld", (long long)before, (long long)i);
    }
    free(numbers);
    ad_plan_free(p);
    ad_graph_free(g);
}

static void padded(void **state)
{
    check_padded(4, 0, 4);
    check_padded(1, 0, 4);
    check_padded(4, 4, 12);
    check_padded(4, 16, 16);
}

/* ---- rows by index --------------------------------------------------------------------------------------------------- */

/* `skew`: one index of two is row 2. `from`, `to`: the types of what is read and written. */
static const struct rows {
    int64_t rows, width, n;
    bool skew;
    enum ad_dtype from, to, index;
} cases[] = {
    {33000, 128, 20000, false, AD_F32, AD_F32, AD_I32}, /* past the caches, most rows named */
    {33000, 144, 34000, true, AD_F32, AD_F32, AD_I32},  /* and one of them often */
    {33000, 144, 34000, true, AD_BF16, AD_F32, AD_I64},
    {33000, 128, 300, false, AD_F32, AD_F32, AD_I32}, /* few of them */
    {33000, 128, 0, false, AD_F32, AD_F32, AD_I32},
    {33001, 130, 40000, false, AD_F32, AD_F32, AD_I32}, /* no whole lines */
    {4000, 64, 140000, false, AD_BF16, AD_BF16, AD_I32},
    {4000, 64, 140000, true, AD_F16, AD_F16, AD_I64},
    {5000, 80, 3000, false, AD_F32, AD_F32, AD_I64},
    {700, 67, 5000, true, AD_F32, AD_F32, AD_I32},
    {700, 67, 5000, true, AD_F32, AD_BF16, AD_I32},
    {6, 200, 5000, false, AD_F32, AD_F32, AD_I32},
    {900, 5, 4000, true, AD_F32, AD_F32, AD_I32},
    {100000, 3, 50, false, AD_BF16, AD_F32, AD_I32},
    {1, 1, 70000, false, AD_F32, AD_F32, AD_I32},
    {4, 0, 9, false, AD_F32, AD_F32, AD_I32},
};
enum { CASES = sizeof cases / sizeof *cases };

static struct ad_tensor tensor(enum ad_dtype type, struct ad_shape s)
{
    struct ad_tensor t = {.dtype = type, .shape = s};
    size_t bytes = ((size_t)ad_count(s) * ad_dtype_size(type) + 64) / 64 * 64;
    t.data = aligned_alloc(64, bytes);
    assert_non_null(t.data);
    memset(t.data, 0xff, bytes); /* what is not written shows */
    ad_default_strides(&t);
    return t;
}

static struct ad_tensor numbers(enum ad_dtype type, struct ad_shape s, struct rng *r)
{
    enum { SOME = 4099 };
    struct ad_tensor t = tensor(type, s);
    double some[SOME];
    for (int i = 0; i < SOME; i++) some[i] = i % 5 ? rng_range(r, -3, 3) : -0.0;
    for (int64_t i = 0; i < ad_count(s); i++) ad_set(&t, i, some[i % SOME]);
    return t;
}

static struct ad_tensor any_index(const struct rows *t, struct rng *r)
{
    struct ad_tensor index = tensor(t->index, SHAPE(t->n));
    for (int64_t i = 0; i < t->n; i++)
        ad_set(&index, i, t->skew && i % 2 ? 2 : (double)(rng_below(r, t->rows + 1) - 1));
    return index;
}

/* What the plain loop makes of it, in single precision. */
static struct ad_tensor want_of(bool scatter, const struct rows *t, const struct ad_tensor *x,
                                const struct ad_tensor *index)
{
    struct ad_tensor y = tensor(t->to, SHAPE(scatter ? t->rows : t->n, t->width));
    int64_t n = ad_count(y.shape);
    float *sum = mem_zero((size_t)n + 1, sizeof *sum);
    for (int64_t i = 0; i < t->n; i++) {
        int64_t r = ad_get_int(index, i);
        for (int64_t k = 0; r >= 0 && k < t->width; k++)
            if (scatter)
                sum[r * t->width + k] += (float)ad_get(x, i * t->width + k);
            else
                sum[i * t->width + k] = (float)ad_get(x, r * t->width + k);
    }
    for (int64_t i = 0; i < n; i++) ad_set(&y, i, (double)sum[i]);
    free(sum);
    return y;
}

/* One call by the fast kernel; `e` gets what is wrong with the index. */
static void run_call(const struct ad_op *op, struct ad_tensor *in, struct ad_tensor *y, struct err *e)
{
    struct ad_call c = {.in = in, .out = y, .n_in = 2, .n_out = 1, .op = op, .fault = e};
    const struct ad_kernel *k = ad_kernel_find(op, &c);
    assert_non_null(k);
    size_t bytes = k->scratch ? k->scratch(&c) : 0;
    char *scratch = aligned_alloc(64, (bytes + 128) / 64 * 64);
    memset(scratch, 0xa5, bytes + 1);
    c.scratch = scratch;
    ad_kernel_run(k, &c);
    assert_int_equal((unsigned char)scratch[bytes], 0xa5);
    free(scratch);
}

static void check_rows(bool scatter, const struct rows *t, struct rng *r)
{
    const struct ad_op *op = scatter ? &ad_op_scatter_add : &ad_op_gather;
    struct ad_tensor in[] = {numbers(t->from, SHAPE(scatter ? t->n : t->rows, t->width), r), any_index(t, r)};
    struct ad_tensor want = want_of(scatter, t, &in[0], &in[1]), y = tensor(t->to, want.shape);
    size_t bytes = (size_t)ad_count(y.shape) * ad_dtype_size(y.dtype);
    for (int k = 0; k < TEAMS; k++) {
        struct err e = {0};
        omp_set_num_threads(team[k]);
        memset(y.data, 0xff, bytes);
        run_call(op, in, &y, &e);
        if (e.code) fail_msg("%s", e.msg);
        for (size_t i = 0; i < bytes; i++)
            if (((char *)y.data)[i] != ((char *)want.data)[i]) {
                int64_t at = (int64_t)(i / ad_dtype_size(y.dtype));
                fail_msg("%s, case %d, %d threads: number %lld is %.9g, not %.9g", op->name, (int)(t - cases), team[k],
                         (long long)at, ad_get(&y, at), ad_get(&want, at));
            }
    }
    free(in[0].data), free(in[1].data), free(want.data), free(y.data);
}

static void rows_by_index(void **state)
{
    bool scatter = *state != NULL;
    int before = threads_count();
    struct rng r = rng_make(771, scatter, 0);
    for (int i = 0; i < CASES; i++) check_rows(scatter, &cases[i], &r);
    omp_set_num_threads(before);
}

/* An index that is not in the table is named, wherever it stands, and the result is zeros. */
static void wrong_index(void **state)
{
    static const int64_t wrong[] = {-2, INT32_MIN, INT32_MAX, 0 /* as many as there are rows */};
    struct rng r = rng_make(772, 0, 0);
    for (int i = 0; i < CASES * 8; i++) {
        const struct rows *t = &cases[i / 8];
        bool scatter = i % 2;
        if (!t->n || !t->width || t->n * t->width > 1000000) continue;
        struct ad_tensor in[] = {numbers(t->from, SHAPE(scatter ? t->n : t->rows, t->width), &r), any_index(t, &r)};
        struct ad_tensor y = tensor(t->to, SHAPE(scatter ? t->rows : t->n, t->width));
        int64_t at = rng_below(&r, t->n), bad = wrong[i % 8 / 2] ? wrong[i % 8 / 2] : t->rows;
        struct err e = {0};
        char word[80];
        ad_set(&in[1], at, (double)bad);
        run_call(scatter ? &ad_op_scatter_add : &ad_op_gather, in, &y, &e);
        snprintf(word, sizeof word, "index %lld (number %lld) is not in -1 .. %lld", (long long)bad, (long long)at,
                 (long long)t->rows - 1);
        assert_int_equal(e.code, ERR_SHAPE);
        if (!strstr(e.msg, word)) fail_msg("%s, not: %s", e.msg, word);
        for (int64_t k = 0; k < ad_count(y.shape); k++) assert_true(ad_get(&y, k) == 0);
        free(in[0].data), free(in[1].data), free(y.data);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(transposes),
        cmocka_unit_test(padded),
        {"gather", rows_by_index, NULL, NULL, NULL},
        {"scatter_add", rows_by_index, NULL, NULL, (void *)1},
        cmocka_unit_test(wrong_index),
    };
    return cmocka_run_group_tests_name("rows and lines that are moved", tests, NULL, NULL);
}
