/* The fast f32 kernels against the plain definitions: elementwise functions in ulp over all exponents and special
 * values; everything else on random odd shapes (0, 1, tails of each vector width), of views with any strides, with NaN
 * and infinity; and bit for bit the same for any number of threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <float.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "autograd/op.h"
#include "autograd/ops/ops.h"
#include "autograd/plan.h"
#include "base/isa.h"
#include "base/buf.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/threads.h"

enum { SEED = 7131 };

/* ---- elementwise: ulp -------------------------------------------------------------------------------------------- */

/* The error allowed in ulp; 0: the one correctly rounded result. */
/* clang-format off */
#define NAMES(X)                                                                                                       \
    X(neg, 0) X(abs, 0) X(sign, 0) X(square, 0) X(sqrt, 0) X(rsqrt, 2) X(reciprocal, 0) X(exp, 1.5) X(expm1, 2)        \
    X(log, 1) X(log1p, 2) X(sin, 2) X(cos, 2) X(tan, 3.5) X(tanh, 2) X(sigmoid, 3) X(softplus, 3) X(relu, 0)           \
    X(erf, 1.5) X(floor, 0) X(ceil, 0) X(round, 0) X(is_finite, 0) X(leaky_relu, 0) X(elu, 2) X(clamp, 0)              \
    X(scale, 0) X(shift, 0) X(power, 1) X(stop_gradient, 0) X(add, 0) X(sub, 0) X(mul, 0) X(div, 0) X(pow, 1)          \
    X(maximum, 0) X(minimum, 0) X(atan2, 2) X(equal, 0) X(not_equal, 0) X(less, 0) X(less_equal, 0) X(greater, 0)      \
    X(greater_equal, 0) X(logical_and, 0) X(logical_or, 0) X(where, 0)
/* clang-format on */

#define X(name, ulp) extern const struct ad_op ad_op_##name;
NAMES(X)
#undef X
extern const struct ad_op ad_op_gelu, ad_op_gelu_tanh, ad_op_quick_gelu, ad_op_silu, ad_op_gelu_grad,
    ad_op_gelu_tanh_grad, ad_op_quick_gelu_grad, ad_op_silu_grad;

static const struct ulp_row {
    const struct ad_op *op;
    double ulp;
} bounds[] = {
#define X(name, ulp) {&ad_op_##name, ulp},
    NAMES(X)
#undef X
};
/* Attributes that all numbers of f32 hold exactly, so that only the kernel's error is seen. */
static const struct {
    double a, b;
} attr = {0.75, 1.5};

static float any_float(struct rng *r)
{
    uint32_t u = rng_u32(r);
    float x;
    if (u & 1) return (float)rng_range(r, -12, 12);
    if (u & 2) return (float)rng_range(r, -110, 110);
    u = rng_u32(r);
    memcpy(&x, &u, sizeof x); /* every exponent, NaN, infinity, subnormals */
    return x;
}

static const float special[] = {0,         -0.0f,     INFINITY,    -INFINITY,  NAN,       1,        -1,       FLT_MAX,
                                -FLT_MAX,  FLT_MIN,   -FLT_MIN,    1e-45f,     -1e-45f,   1e-41f,   88.7228f, 88.7229f,
                                -87.336f,  -87.3366f, -103.97f,    -104,       0.625f,    0.92773f, 0.92774f, 0.5f,
                                -0.5f,     1.5f,      2.5f,        1e6f,       1.0001e6f, 3e38f,    1e-20f,   -18.0001f,
                                1.570796f, 3.141593f, -1.0000001f, -0.9999999f};

/* |got - want| in units of the last place of want; subnormal results may be flushed to zero. */
static double ulps(float got, double want)
{
    float w = (float)want;
    if (isnan(want)) return isnan(got) ? 0 : INFINITY;
    if (got == w) return 0;
    if (fabs(want) < FLT_MIN && fabs((double)got) <= FLT_MIN) return 0;
    double top = isinf(w) ? FLT_MAX : fabs(want), unit = ldexp(1, ilogb(fmax(top, FLT_MIN)) - 23);
    if (isinf(w) || isinf(got))
        return isinf(got) && isinf(w) ? INFINITY : fabs(fmin(fabs(want), 2.0 * FLT_MAX) - FLT_MAX) / unit;
    return fabs((double)got - want) / unit;
}

static void tiles_in_ulp(void **state)
{
    enum { N = 200000, SPECIAL = (int)(sizeof special / sizeof *special) };
    float *x[3], *y = mem_alloc(N * sizeof *y);
    struct rng r = rng_make(SEED, 1, 0);
    for (int k = 0; k < 3; k++) x[k] = mem_alloc(N * sizeof(float));
    for (int i = 0; i < N; i++)
        for (int k = 0; k < 3; k++)
            x[k][i] = i < SPECIAL * SPECIAL ? special[k == 0   ? i % SPECIAL
                                                      : k == 1 ? i / SPECIAL
                                                               : (i / SPECIAL + i) % SPECIAL]
                                            : any_float(&r);
    for (size_t t = 0; t < sizeof bounds / sizeof *bounds; t++) {
        const struct ad_op *op = bounds[t].op;
        ad_tile_fn tile = ad_tile_find(op);
        const int step[3] = {1, 1, 1};
        assert_non_null(tile);
        tile(N, (const float *const *)x, step, y, &attr);
        double worst = 0, at = 0;
        for (int i = 0; i < N; i++) {
            double in[3] = {x[0][i], x[1][i], x[2][i]}, u = ulps(y[i], op->scalar(in, &attr));
            if (u > worst) worst = u, at = i;
        }
        if (getenv("SHOW_ULP")) print_message("# %-14s %.2f ulp\n", op->name, worst);
        if (!(worst <= bounds[t].ulp))
            fail_msg("%s(%.9g, %.9g) is %.9g: %.3g ulp, allowed are %.3g (seed %d)", op->name, (double)x[0][(int)at],
                     (double)x[1][(int)at], (double)y[(int)at], worst, bounds[t].ulp, SEED);
    }
    for (int k = 0; k < 3; k++) free(x[k]);
    free(y);
}

/* x times a share of it that goes to 0 in the left tail, where it is not exact relative to itself: the error is counted
 * in 2^-23 |x|. */
static void gates_error(void **state)
{
    const struct ad_op *ops[] = {&ad_op_gelu, &ad_op_gelu_tanh, &ad_op_quick_gelu, &ad_op_silu};
    struct rng r = rng_make(SEED, 2, 0);
    for (int i = 0; i < 100000; i++) {
        float x = any_float(&r), y;
        if (isinf(x)) continue;
        for (int k = 0; k < 4; k++) {
            const float *in = &x;
            ad_tile_find(ops[k])(1, &in, &(int){1}, &y, NULL);
            double want = ops[k]->scalar(&(double){x}, NULL);
            if (isnan(want) ? !isnan(y)
                            : fabs((double)y - want) > 2 * 0x1p-23 * fabs((double)x) + FLT_MIN && (float)want != y)
                fail_msg("%s(%.9g) is %.9g, not %.9g", ops[k]->name, (double)x, (double)y, want);
        }
    }
}

/* Slopes lie in -0.2 .. 1.2 and are sums and differences of numbers up to 1: the error is counted in 2^-24, absolute; gelu's is
 * a long polynomial, where without AVX2 each product is rounded too. At the ends, infinities included, they are 0 and 1. */
static void slopes_error(void **state)
{
    const struct ad_op *ops[] = {&ad_op_gelu_grad, &ad_op_gelu_tanh_grad, &ad_op_quick_gelu_grad, &ad_op_silu_grad};
    struct rng r = rng_make(SEED, 5, 0);
    for (int k = 0; k < 4; k++) {
        double worst = 0, allowed = isa_now() == ISA_PLAIN && ops[k] == &ad_op_gelu_grad ? 5 : 4;
        for (int i = 0; i < 200000; i++) {
            float x = i < 4 ? (float[]){NAN, INFINITY, -INFINITY, 0}[i] : any_float(&r), one = 1, y;
            const float *in[] = {&x, &one};
            ad_tile_find(ops[k])(1, in, (const int[]){1, 1}, &y, NULL);
            double want = ops[k]->scalar((const double[]){(double)x, 1}, NULL);
            if (isnan(x) || isnan(want)) {
                if (!isnan(y) || !isnan(x))
                    fail_msg("%s(%.9g) is %.9g, not %.9g", ops[k]->name, (double)x, (double)y, want);
                continue;
            }
            double error = fabs((double)y - want) * 0x1p24;
            if (!(error <= allowed)) fail_msg("%s(%.9g) is %.9g, not %.9g", ops[k]->name, (double)x, (double)y, want);
            if (error > worst) worst = error;
        }
        if (getenv("SHOW_ULP")) print_message("# %-16s %.2f 2^-24\n", ops[k]->name, worst);
    }
}

/* A number's result does not depend on where it stands, on alignment, on the length, or on being given once for all. */
static void tiles_by_position(void **state)
{
    enum { N = 43 };
    float room[3][N + 8], y[N + 2], one;
    struct rng r = rng_make(SEED, 3, 0);
    for (int i = 0; i < ad_n_ops; i++) {
        const struct ad_op *op = ad_all_ops[i];
        ad_tile_fn tile = ad_tile_find(op);
        if (!tile) continue;
        for (int trial = 0; trial < 60; trial++) {
            const float *in[3], *at[3];
            int step[3], n = (int)rng_below(&r, N + 1), shift = (int)rng_below(&r, 8);
            for (int k = 0; k < 3; k++) {
                for (int j = 0; j < N + 8; j++) room[k][j] = any_float(&r);
                in[k] = room[k] + shift;
                step[k] = rng_below(&r, 3) > 0;
            }
            y[n] = y[n + 1] = 77;
            tile(n, in, step, y, &attr);
            assert_true(y[n] == 77 && y[n + 1] == 77);
            for (int j = 0; j < n; j++) {
                for (int k = 0; k < 3; k++) at[k] = in[k] + j * step[k];
                tile(1, at, (const int[]){1, 1, 1}, &one, &attr);
                if (memcmp(&one, y + j, sizeof one) && !(isnan(one) && isnan(y[j])))
                    fail_msg("%s: number %d of %d is %.9g, alone it is %.9g", op->name, j, n, (double)y[j],
                             (double)one);
            }
        }
    }
}

/* ---- the rest: random graphs of one op on random views ----------------------------------------------------------- */

static int64_t any_dim(struct rng *r)
{
    static const int64_t dims[] = {0, 1, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65};
    return dims[rng_below(r, (int64_t)(sizeof dims / sizeof *dims))];
}

static struct ad_shape any_shape(struct rng *r, int rank)
{
    struct ad_shape s = {.rank = rank};
    int64_t n = 1;
    for (int i = 0; i < rank; i++) {
        s.dim[i] = any_dim(r);
        if (n * s.dim[i] > 12000) s.dim[i] = 1;
        n *= s.dim[i];
    }
    return s;
}

/* x seen transposed, backwards, with gaps, broadcast: up to three of them. */
static val any_view(struct ad_graph *g, struct rng *r, val x)
{
    for (int64_t i = rng_below(r, 4); i > 0; i--) {
        int rank = ad_rank(g, x), axis = (int)rng_below(r, rank), other = (int)rng_below(r, rank);
        int64_t n = ad_dim(g, x, axis);
        struct ad_shape s = ad_shape_of(g, x);
        switch (rng_below(r, 4)) {
        case 0: x = ad_swap(g, x, axis, other); break;
        case 1: x = ad_flip(g, x, axis); break;
        case 2: x = ad_slice(g, x, axis, n / 3, n, 1 + rng_below(r, 3)); break;
        default:
            if (s.dim[axis] != 1 || ad_count(s) > 4000) break;
            s.dim[axis] = 3;
            x = ad_broadcast(g, x, s);
        }
    }
    return x;
}

/* What a trial builds from x (rank 1 to 4) and the index k. Returns poison where the shape does not suit. */
enum kind {
    SUM,
    MAX,
    MIN,
    SOFTMAX,
    LOG_SOFTMAX,
    LOGSUMEXP,
    VIEW,
    CONCAT,
    PAD,
    GATHER,
    SCATTER,
    SEGMENT,
    SPREAD,
    DROPOUT,
    PRODUCTS,
    KINDS
};

static unsigned all_but_empty(const struct ad_graph *g, val x, unsigned axes)
{
    for (int i = 0; i < ad_rank(g, x); i++)
        if (ad_dim(g, x, i) == 0) axes &= ~(1u << i);
    return axes;
}

struct trial {
    struct ad_graph *g;
    struct ad_shape shape;
    float *x;
    int32_t *index, *offsets;
    int64_t n_index, rows;
};

static val emit_index(struct trial *t, enum kind kind, val x, struct rng *r)
{
    struct ad_graph *g = t->g;
    struct ad_shape s = ad_shape_of(g, x);
    bool rows = kind == GATHER;
    t->n_index = kind == GATHER ? 1 + rng_below(r, 40) : s.dim[0];
    t->rows = rows ? s.dim[0] : 1 + rng_below(r, 20);
    t->index = mem_zero((size_t)t->n_index + 1, sizeof *t->index);
    for (int64_t i = 0; i < t->n_index; i++) t->index[i] = (int32_t)rng_below(r, t->rows + 1) - 1;
    val index = ad_input(g, "index", AD_I32, SHAPE(t->n_index));
    return rows ? ad_gather(g, x, index) : ad_scatter_add(g, x, index, t->rows);
}

static val emit_segment(struct trial *t, enum kind kind, val x, struct rng *r)
{
    struct ad_graph *g = t->g;
    int64_t first = ad_dim(g, x, 0), items = kind == SPREAD ? first : 1 + rng_below(r, 6),
            rows = kind == SPREAD ? first * 2 : first;
    t->offsets = mem_zero((size_t)items + 1, sizeof *t->offsets);
    for (int64_t i = 1; i <= items; i++)
        t->offsets[i] = (int32_t)(t->offsets[i - 1] + rng_below(r, (rows - t->offsets[i - 1]) / 2 + 1));
    val offsets = ad_input(g, "offsets", AD_I32, SHAPE(items + 1));
    if (kind == SPREAD) return ad_segment_broadcast(g, x, offsets, rows);
    return rng_u32(r) & 1 ? ad_segment_sum(g, x, offsets) : ad_segment_mean(g, x, offsets);
}

static val emit(struct trial *t, enum kind kind, val base, struct rng *r)
{
    struct ad_graph *g = t->g;
    val x = any_view(g, r, base);
    unsigned axes = rng_u32(r) & ((1u << ad_rank(g, x)) - 1);
    int axis = (int)rng_below(r, ad_rank(g, x));
    bool empty_last = ad_dim(g, x, -1) == 0;
    switch (kind) {
    case SUM: return ad_sum(g, x, axes, rng_u32(r) & 1);
    case MAX: return ad_max(g, x, all_but_empty(g, x, axes), false);
    case MIN: return ad_min(g, x, all_but_empty(g, x, axes), true);
    case SOFTMAX: return empty_last ? 0 : ad_softmax(g, x);
    case LOG_SOFTMAX: return empty_last ? 0 : ad_log_softmax(g, x);
    case LOGSUMEXP: return empty_last ? 0 : ad_logsumexp(g, x, -1, false);
    case VIEW: return ad_reshape(g, x, SHAPE(ad_count(ad_shape_of(g, x))));
    case CONCAT: return ad_concat(g, (const val[]){x, ad_flip(g, x, 0), x}, 3, axis);
    case PAD: return ad_pad(g, x, axis, rng_below(r, 9), rng_below(r, 9), 0.5);
    case GATHER:
    case SCATTER: return emit_index(t, kind, x, r);
    case SEGMENT:
    case SPREAD: return emit_segment(t, kind, x, r);
    case DROPOUT: {
        bool per_item = rng_u32(r) & 1;
        if (ad_rank(g, x) < 1 || rng_u32(r) & 1) return ad_dropout(g, x, 0.3, per_item);
        return ad_dropout_part(g, x, ad_const(g, AD_I32, (double)rng_below(r, 100)), 0.3, per_item);
    }
    case PRODUCTS: {
        struct ad_shape s = ad_shape_of(g, x);
        for (int i = 0; i + 1 < s.rank; i++)
            if (axes >> i & 1) s.dim[i] = 1;
        return ad_sum_products_to(g, x, ad_flip(g, x, axis), s);
    }
    default: return 0;
    }
}

/* Runs the trial's graph by `flags`; the result in memory of its own. */
static float *run_trial(const struct trial *t, unsigned flags, int64_t n, bool fast)
{
    struct err e = {0};
    struct ad_plan *p = ad_plan_new(t->g, NULL, flags, &e);
    if (!p) fail_msg("%s", e.msg);
    float *y = mem_zero((size_t)n + 1, sizeof *y);
    ad_bind(p, "x", t->x);
    if (t->index) ad_bind(p, "index", t->index);
    if (t->offsets) ad_bind(p, "offsets", t->offsets);
    if (ad_run(p, 5, 9, &e)) fail_msg("%s", e.msg);
    memcpy(y, ad_result(p, "y", NULL), (size_t)n * sizeof *y);
    struct buf b = {0};
    ad_plan_report(p, &b);
    if (fast && strstr(b.data, "plain")) fail_msg("no kernel took it:\n%s", b.data);
    buf_free(&b);
    ad_plan_free(p);
    return y;
}

/* One random trial; returns false where the shape did not suit. */
static bool try_one(enum kind kind, uint64_t number)
{
    struct rng r = rng_make(SEED, 10 + kind, number);
    struct trial t = {.g = ad_graph_new(), .shape = any_shape(&r, 1 + (int)rng_below(&r, 4))};
    int64_t n_x = ad_count(t.shape);
    t.x = mem_zero((size_t)n_x + 1, sizeof *t.x);
    bool odd = number % 5 == 4; /* NaN and infinities among the numbers */
    for (int64_t i = 0; i < n_x; i++) {
        t.x[i] = (float)rng_range(&r, -3, 3);
        if (odd && rng_below(&r, 40) == 0) t.x[i] = rng_u32(&r) & 1 ? NAN : rng_u32(&r) & 1 ? INFINITY : -INFINITY;
    }
    val y = emit(&t, kind, ad_input(t.g, "x", AD_F32, t.shape), &r);
    struct err e = {0};
    if (y && ad_status(t.g, &e)) fail_msg("%s", e.msg);
    if (y) {
        int64_t n = ad_count(ad_shape_of(t.g, y));
        ad_output(t.g, "y", y);
        float *want = run_trial(&t, AD_REFERENCE, n, false), *got = run_trial(&t, 0, n, true);
        /* 8 ulp of the largest number that is added up: 12000 numbers of up to 3, in lanes of 64 at most in single
         * precision; softmax and its like: 4 ulp of exp and the sum's. Copies are exact. */
        double tol = kind >= VIEW && kind <= GATHER ? 0 : kind == SUM || kind >= SCATTER ? 3e-6 * 200 : 3e-6;
        for (int64_t i = 0; i < n; i++)
            if (!(isnan(want[i]) ? isnan(got[i]) : want[i] == got[i] || fabs((double)want[i] - (double)got[i]) <= tol))
                fail_msg("kind %d, trial %llu: number %lld is %.9g, not %.9g\n%s", (int)kind,
                         (unsigned long long)number, (long long)i, (double)got[i], (double)want[i], ad_graph_text(t.g));
        free(want);
        free(got);
    }
    ad_graph_free(t.g);
    free(t.x);
    free(t.index);
    free(t.offsets);
    return y != 0;
}

static void random_shapes(void **state)
{
    enum kind kind = (enum kind)(uintptr_t)*state;
    int done = 0;
    for (uint64_t i = 0; i < 250; i++) done += try_one(kind, i);
    assert_true(done >= 150);
}

/* ---- threads ----------------------------------------------------------------------------------------------------- */

static void build_large(struct ad_graph *g)
{
    val x = ad_input(g, "x", AD_F32, SHAPE(130, 17, 65)), index = ad_input(g, "index", AD_I32, SHAPE(130));
    char name[16];
    for (int axes = 1; axes < 8; axes++) {
        snprintf(name, sizeof name, "sum%d", axes);
        ad_output(g, name, ad_sum(g, x, (unsigned)axes, false));
    }
    ad_output(g, "products1", ad_sum_products_to(g, x, ad_flip(g, x, 0), SHAPE(17, 65)));
    ad_output(g, "products2", ad_sum_products_to(g, x, ad_flip(g, x, 0), SHAPE(130, 1, 65)));
    ad_output(g, "softmax", ad_softmax(g, x));
    ad_output(g, "max", ad_max(g, ad_swap(g, x, 0, 2), 2, false));
    ad_output(g, "scatter", ad_scatter_add(g, x, index, 40));
    ad_output(g, "gather", ad_gather(g, x, index));
    ad_output(g, "copy", ad_reshape(g, ad_swap(g, x, 0, 2), SHAPE(-1)));
    ad_output(g, "dropout", ad_dropout(g, x, 0.25, false));
    ad_output(g, "gelu", ad_gelu(g, ad_mul(g, x, ad_exp(g, x))));
}

static void any_number_of_threads(void **state)
{
    static const char *const names[] = {"sum1",    "sum2",    "sum3",      "sum4",     "sum5",   "sum6",
                                        "sum7",    "softmax", "max",       "scatter",  "gather", "copy",
                                        "dropout", "gelu",    "products1", "products2"};
    enum { N = 130 * 17 * 65, COUNT = (int)(sizeof names / sizeof *names) };
    struct ad_graph *g = ad_graph_new();
    struct err e = {0};
    build_large(g);
    float *x = mem_alloc(N * sizeof *x), *first[COUNT];
    int32_t index[130];
    struct rng r = rng_make(SEED, 4, 0);
    for (int i = 0; i < N; i++) x[i] = (float)rng_range(&r, -2, 2);
    for (int i = 0; i < 130; i++) index[i] = (int32_t)rng_below(&r, 40);
    struct ad_plan *p = ad_plan_new(g, NULL, 0, &e);
    if (!p) fail_msg("%s", e.msg);
    ad_bind(p, "x", x);
    ad_bind(p, "index", index);
    int before = threads_count();
    for (int threads = 1; threads <= 5; threads++) {
        omp_set_num_threads(threads);
        if (ad_run(p, 1, 1, &e)) fail_msg("%s", e.msg);
        for (int i = 0; i < COUNT; i++) {
            struct ad_shape s;
            const float *y = ad_result(p, names[i], &s);
            size_t bytes = (size_t)ad_count(s) * sizeof *y;
            if (threads == 1)
                first[i] = memcpy(mem_alloc(bytes), y, bytes);
            else if (memcmp(first[i], y, bytes))
                fail_msg("%s differs with %d threads", names[i], threads);
        }
    }
    omp_set_num_threads(before);
    for (int i = 0; i < COUNT; i++) free(first[i]);
    free(x);
    ad_plan_free(p);
    ad_graph_free(g);
}

int main(void)
{
    static const char *const kinds[] = {
        "sum", "max",    "min",         "softmax",     "log_softmax",       "logsumexp", "views",       "concat",
        "pad", "gather", "scatter_add", "segment_sum", "segment_broadcast", "dropout",   "sum_products"};
    struct CMUnitTest random[KINDS];
    for (int i = 0; i < KINDS; i++)
        random[i] = (struct CMUnitTest){kinds[i], random_shapes, NULL, NULL, (void *)(uintptr_t)i};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tiles_in_ulp),      cmocka_unit_test(gates_error),           cmocka_unit_test(slopes_error),
        cmocka_unit_test(tiles_by_position), cmocka_unit_test(any_number_of_threads),
    };
    int failed = cmocka_run_group_tests_name("tiles and threads", tests, NULL, NULL);
    return failed + cmocka_run_group_tests_name("random shapes", random, NULL, NULL);
}
