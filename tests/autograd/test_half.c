/* Batch and group norm, pooling, resizing and reductions of tensors in 16 bits: the kernels take them as they are, and
 * every bit is what the f32 kernel gives of the widened numbers, rounded once. Odd shapes, both types and their mixes with
 * f32, results in the memory of an operand, 1, 2, 3 and 7 threads. */
#include "tests/autograd/kernel_check.h"

#include "autograd/half_call.h"
#include "autograd/ops/batch_norm.h"
#include "autograd/ops/norm.h"
#include "autograd/ops/pool.h"
#include "autograd/ops/reduce.h"
#include "autograd/ops/resample.h"

enum { MOST = 8 };

struct job {
    const struct ad_op *op;
    const void *attr;
    int n_in, n_out;
    struct ad_tensor in[MOST];  /* f32 or int32; f32 inputs are numbers that both 16-bit types hold */
    unsigned half_in, half_out; /* which of them autocast keeps in 16 bits */
    int alias[3], n_alias;      /* inputs that result 0 may overwrite */
    bool any_nan;               /* results may be any NaN: of a sum of several, which one it gives is not promised */
    const char *what;
};

/* Small multiples of 1/16: exact in both types, with many equal ones. */
static struct ad_tensor numbers(struct ad_shape s)
{
    struct ad_tensor t = check_tensor(s);
    float *x = t.data;
    for (int64_t i = 0, n = ad_count(s); i < n; i++) x[i] = (float)check_int(-40, 40) / 16;
    return t;
}
/* Variances. */
static struct ad_tensor positive(struct ad_shape s)
{
    struct ad_tensor t = numbers(s);
    float *x = t.data;
    for (int64_t i = 0, n = ad_count(s); i < n; i++) x[i] = fabsf(x[i]) + 0.5f;
    return t;
}

static void job_free(struct job *j)
{
    for (int i = 0; i < j->n_in; i++) free(j->in[i].data);
}

/* Of the shape and in the type asked for, on a line of its own. */
static struct ad_tensor as(const struct ad_tensor *t, enum ad_dtype type)
{
    struct ad_tensor r = *t;
    int64_t n = ad_count(t->shape);
    r.dtype = t->dtype == AD_F32 ? type : t->dtype;
    r.data = aligned_alloc(64, ((size_t)n * 4 + 64) / 64 * 64);
    if (ad_is_half(r.dtype))
        ad_narrow(r.dtype, t->data, r.data, n);
    else
        memcpy(r.data, t->data, (size_t)n * 4);
    return r;
}

static void compare(const struct job *j, const struct check_run *want, const struct ad_tensor *got, enum ad_dtype x,
                    int threads)
{
    for (int k = 0; k < j->n_out; k++) {
        struct ad_tensor w = as(&want->out[k], got[k].dtype);
        size_t size = ad_dtype_size(w.dtype);
        for (int64_t i = 0, n = ad_count(w.shape); i < n; i++)
            if (memcmp((char *)w.data + (size_t)i * size, (char *)got[k].data + (size_t)i * size, size) &&
                !(j->any_nan && isnan(ad_get(&w, i)) && isnan(ad_get(&got[k], i))))
                fail_msg("%s %s, x in %s, %d threads: element %lld of output %d (%s) is %.9g, not %.9g", j->op->name,
                         j->what, ad_dtype_name(x), threads, (long long)i, k, ad_dtype_name(w.dtype),
                         ad_get(&got[k], i), ad_get(&w, i));
        free(w.data);
    }
}

/* type: of all inputs, then of all outputs. alias: the input in whose memory result 0 lies, or -1. */
static void run_job(const struct job *j, const struct check_run *want, const enum ad_dtype *type, int alias,
                    int threads)
{
    struct ad_tensor t[2 * MOST];
    struct err e = {0};
    for (int i = 0; i < j->n_in; i++) t[i] = as(&j->in[i], type[i]);
    for (int k = 0; k < j->n_out; k++) {
        struct ad_tensor *o = &t[j->n_in + k];
        *o = as(&want->out[k], type[j->n_in + k]);
        memset(o->data, 0xff, (size_t)ad_count(o->shape) * ad_dtype_size(o->dtype));
    }
    void *own = t[j->n_in].data;
    if (alias >= 0) t[j->n_in].data = t[alias].data;
    struct ad_call c = {
        .in = t, .out = t + j->n_in, .n_in = j->n_in, .n_out = j->n_out, .attr = j->attr, .op = j->op, .fault = &e};
    omp_set_num_threads(threads);
    const struct ad_kernel *k = ad_kernel_find(j->op, &c);
    assert_non_null(k);
    if (half_call_new(&c, k->half_in, k->half_out)) fail_msg("%s %s: tensors are converted", j->op->name, j->what);
    size_t (*scratch)(const struct ad_call *) = k->scratch ? k->scratch : j->op->scratch;
    size_t bytes = scratch ? scratch(&c) : 0;
    void *room = bytes ? memset(aligned_alloc(64, (bytes + 63) / 64 * 64), 0xff, bytes) : NULL;
    c.scratch = room;
    ad_kernel_run(k, &c);
    compare(j, want, c.out, type[0], threads);
    t[j->n_in].data = own;
    for (int i = 0; i < j->n_in + j->n_out; i++) free(t[i].data);
    free(room);
}

/* All that may be in 16 bits, then `mixes` random choices of them. */
static void check_job(struct job *j, int mixes)
{
    static const int counts[] = {1, 2, 3, 7};
    struct check_run want = check_once(j->op, j->attr, j->in, j->n_in, true);
    j->n_out = want.n_out;
    for (enum ad_dtype half = AD_BF16; half <= AD_F16; half++)
        for (int mix = 0; mix <= mixes; mix++) {
            enum ad_dtype type[2 * MOST];
            for (int i = 0; i < j->n_in + j->n_out; i++) {
                bool may = i < j->n_in ? j->half_in >> i & 1 : j->half_out >> (i - j->n_in) & 1;
                type[i] = may && (mix == 0 || check_int(0, 1)) ? half : AD_F32;
            }
            for (int t = 0; t < 4; t++)
                if (mix == 0 || t == mix % 4) run_job(j, &want, type, -1, counts[t]);
            for (int a = 0; a < j->n_alias; a++)
                if (type[j->alias[a]] == type[j->n_in]) run_job(j, &want, type, j->alias[a], 2);
        }
    check_free(&want);
    job_free(j);
}

/* ---- batch norm ------------------------------------------------------------------------------------------------------ */

/* The forward pass or its gradient. */
static struct job batch_norm(const struct batch_norm_attr *a, struct ad_shape x, bool grad, char *what, size_t room)
{
    struct job j = {.op = grad ? &ad_op_batch_norm_grad : &ad_op_batch_norm, .attr = a, .what = what};
    struct ad_shape c = SHAPE(x.dim[x.rank - 1]);
    char text[96];
    j.in[j.n_in++] = numbers(x);
    if (grad) {
        j.in[j.n_in++] = numbers(x);
        j.in[j.n_in++] = numbers(c);
        j.in[j.n_in++] = positive(c);
    }
    j.half_in = grad ? 3 : 1;
    j.half_out = grad && a->residual ? 9 : 1;
    j.alias[j.n_alias++] = 0;
    if (grad) j.alias[j.n_alias++] = 1;
    if (a->gain) j.in[j.n_in++] = numbers(c);
    if (a->bias) j.in[j.n_in++] = numbers(c);
    if (a->residual) {
        if (!grad) j.alias[j.n_alias++] = j.n_in;
        j.half_in |= 1u << j.n_in;
        j.in[j.n_in++] = numbers(x);
    }
    snprintf(what, room, "%s, gain %d, bias %d, residual %d, activation %d", ad_shape_text(text, x), a->gain, a->bias,
             a->residual, a->act);
    return j;
}

static const int acts[] = {AD_ACT_NONE, AD_ACT_RELU, AD_ACT_SILU};

static void batch_norms(void **state)
{
    const struct ad_shape shapes[] = {SHAPE(1, 1),    SHAPE(7, 3),    SHAPE(2, 5, 7, 24), SHAPE(33, 8),
                                      SHAPE(131, 17), SHAPE(600, 64), SHAPE(257, 131),    SHAPE(3, 4097)};
    char what[200];
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int v = 0; v < 12; v++)
            for (int grad = 0; grad < 2; grad++) {
                struct batch_norm_attr a = {
                    .eps = 1e-3, .gain = v % 4 != 1, .bias = v % 4 != 2, .residual = v & 1, .act = acts[v / 4]};
                struct job j = batch_norm(&a, shapes[s], grad, what, sizeof what);
                check_job(&j, 3);
            }
}

/* Results so large that they pass by the caches: 16 MB. */
static void large_results(void **state)
{
    const struct batch_norm_attr a = {.eps = 1e-3, .gain = 1, .bias = 1, .residual = 1, .act = AD_ACT_RELU};
    char what[200];
    for (int grad = 0; grad < 2; grad++) {
        struct job j = batch_norm(&a, SHAPE(1 << 18, 32), grad, what, sizeof what);
        struct check_run want = check_once(j.op, j.attr, j.in, j.n_in, true);
        j.n_out = want.n_out;
        for (enum ad_dtype half = AD_BF16; half <= AD_F16; half++) {
            enum ad_dtype type[2 * MOST];
            for (int i = 0; i < j.n_in + j.n_out; i++) {
                bool may = i < j.n_in ? j.half_in >> i & 1 : j.half_out >> (i - j.n_in) & 1;
                type[i] = may ? half : AD_F32;
            }
            run_job(&j, &want, type, -1, 2);
            type[1] = AD_F32; /* in the gradient, dy */
            run_job(&j, &want, type, -1, 2);
        }
        check_free(&want);
        job_free(&j);
    }
}

/* Gain and bias in 16 bits, as weights may be, are taken too. */
static void channels_in_16_bits(void **state)
{
    const struct batch_norm_attr a = {.eps = 1e-3, .gain = 1, .bias = 1, .residual = 1, .act = AD_ACT_SILU};
    char what[200];
    for (int grad = 0; grad < 2; grad++) {
        struct job j = batch_norm(&a, SHAPE(50, 21), grad, what, sizeof what);
        j.half_in = grad ? 0x73 : 0xf;
        check_job(&j, 6);
    }
}

/* ---- group norm ------------------------------------------------------------------------------------------------------ */

static void check_norm(struct norm_attr a, struct ad_shape x, bool grad)
{
    struct norm_dims d = norm_dims_of(x, &a);
    struct ad_shape stat = SHAPE(d.n * d.g), c = SHAPE(d.c);
    char what[200], text[96];
    snprintf(what, sizeof what, "%s, groups %d, gain %d, bias %d", ad_shape_text(text, x), a.groups, a.gain, a.bias);
    struct job j = {.op = grad ? &ad_op_norm_grad : &ad_op_group_norm, .attr = &a, .what = what, .half_out = 1};
    j.half_in = grad ? 3 : 1;
    j.in[j.n_in++] = numbers(x);
    if (grad) {
        j.in[j.n_in++] = numbers(x);
        j.in[j.n_in++] = numbers(stat);
        j.in[j.n_in++] = positive(stat);
    }
    if (a.gain) j.in[j.n_in++] = numbers(c);
    if (a.bias && !grad) j.in[j.n_in++] = numbers(c);
    check_job(&j, 3);
}

static void group_norms(void **state)
{
    static const struct {
        int groups;
        struct ad_shape x;
    } all[] = {{1, {3, {3, 5, 7}}}, {1, {3, {0, 5, 7}}}, {3, {4, {2, 37, 3, 9}}}, {8, {4, {5, 23, 17, 24}}}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        for (int v = 0; v < 8; v++) {
            struct norm_attr a = {
                .eps = 1e-3, .kind = NORM_GROUP, .groups = all[i].groups, .gain = v & 1, .bias = v >> 1 & 1};
            check_norm(a, all[i].x, v & 4);
        }
}

/* ---- pooling and resizing -------------------------------------------------------------------------------------------- */

static const struct pool_case {
    struct ad_shape x;
    struct pool_attr a;
} pools[] = {{{4, {2, 9, 7, 3}}, {{3, 2}, {2, 1}, {1, 1}}},    {{4, {1, 13, 11, 17}}, {{2, 2}, {2, 2}, {0, 0}}},
             {{4, {3, 8, 8, 300}}, {{3, 3}, {2, 2}, {1, 1}}},  {{4, {2, 60, 60, 24}}, {{3, 3}, {2, 2}, {1, 1}}},
             {{4, {5, 6, 5, 8}}, {{6, 5}, {1, 1}, {0, 0}}},    {{4, {2, 4, 4, 0}}, {{2, 2}, {1, 1}, {0, 0}}},
             {{4, {1, 300, 40, 16}}, {{4, 4}, {1, 3}, {2, 2}}}};

/* Equal numbers, NaNs and infinities: which one is named must not depend on the type. */
static void max_pools(void **state)
{
    for (size_t i = 0; i < sizeof pools / sizeof *pools; i++) {
        const struct pool_case *p = &pools[i];
        char what[96];
        ad_shape_text(what, p->x);
        struct job j = {.op = &ad_op_max_pool, .attr = &p->a, .n_in = 1, .half_in = 1, .half_out = 1, .what = what};
        j.in[0] = numbers(p->x);
        for (int64_t k = 0; k < ad_count(p->x) / 20; k++)
            ((float *)j.in[0].data)[check_int(0, ad_count(p->x) - 1)] = k % 2 ? NAN : -INFINITY;
        struct check_run y = check_once(j.op, j.attr, j.in, 1, true);
        struct ad_tensor index = as(&y.out[1], AD_I32);
        check_free(&y);
        check_job(&j, 4);

        struct pool_grad_attr a = {{p->x.dim[0], p->x.dim[1], p->x.dim[2], p->x.dim[3]}};
        struct job d = {.op = &ad_op_max_pool_grad, .attr = &a, .n_in = 2, .half_in = 1, .half_out = 1, .what = what};
        d.in[0] = numbers(index.shape);
        d.in[1] = index;
        check_job(&d, 4);
    }
}

static void check_resample(struct resample_attr a, int64_t n, int64_t channels)
{
    char what[120];
    for (int adjoint = 0; adjoint < 2; adjoint++) {
        const int64_t *from = adjoint ? a.out : a.in;
        snprintf(what, sizeof what, "%lld x %lld to %lld x %lld, kind %d", (long long)a.in[0], (long long)a.in[1],
                 (long long)a.out[0], (long long)a.out[1], a.kind);
        struct job j = {.op = adjoint ? &ad_op_resample_adjoint : &ad_op_resample, .attr = &a, .n_in = 1};
        j.half_in = j.half_out = 1;
        j.what = what;
        j.in[0] = numbers(SHAPE(n, from[0], from[1], channels));
        check_job(&j, 4);
    }
}

static void resamples(void **state)
{
    static const int64_t sizes[][4] = {{3, 4, 5, 2}, {7, 1, 7, 3}, {9, 11, 1, 1}, {5, 6, 13, 24}, {23, 17, 11, 9}};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (int kind = RESAMPLE_ADAPTIVE; kind <= RESAMPLE_BILINEAR; kind++) {
            const int64_t *z = sizes[s];
            struct resample_attr a = {.in = {z[0], z[1]}, .out = {z[2], z[3]}, .kind = kind};
            check_resample(a, 2, 1);
            check_resample(a, 3, 300);
        }
    for (int count_pad = 0; count_pad < 2; count_pad++)
        check_resample((struct resample_attr){.in = {9, 14},
                                              .out = {5, 14},
                                              .kernel = {3, 2},
                                              .stride = {2, 1},
                                              .pad = {1, 0},
                                              .count_pad = count_pad,
                                              .kind = RESAMPLE_AVERAGE},
                       4, 67);
}

/* ---- reductions ------------------------------------------------------------------------------------------------------ */

extern const struct ad_op ad_op_softmax, ad_op_log_softmax, ad_op_logsumexp, ad_op_sum, ad_op_sum_products, ad_op_max,
    ad_op_min;

static void check_reduction(const struct ad_op *op, const void *attr, struct ad_shape s, bool odd)
{
    char what[96];
    ad_shape_text(what, s);
    struct job j = {.op = op, .attr = attr, .n_in = op->min_in, .any_nan = odd, .what = what};
    for (int i = 0; i < j.n_in; i++) {
        j.in[i] = numbers(s);
        j.half_in |= 1U << i;
    }
    for (int64_t k = 0; odd && k < 1 + ad_count(s) / 500; k++)
        ((float *)j.in[0].data)[check_int(0, ad_count(s) - 1)] = k % 3 == 2 ? NAN : k % 3 ? INFINITY : -INFINITY;
    check_job(&j, 2);
}

/* Rows below, at and beyond the blocks that sums are cut into. */
static void softmaxes(void **state)
{
    const struct ad_op *const ops[] = {&ad_op_softmax, &ad_op_log_softmax, &ad_op_logsumexp};
    static const int64_t widths[] = {1, 7, 8, 33, 2047, 2048, 2049, 5003};
    struct ad_axis_attr last = {.axis = 1};
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
        for (int op = 0; op < 3; op++)
            for (int odd = 0; odd < 2; odd++) {
                check_reduction(ops[op], &last, SHAPE(5, widths[i]), odd);
                check_reduction(ops[op], &last, SHAPE(40, widths[i]), odd);
            }
}

/* Over every set of axes. */
static void reductions(void **state)
{
    const struct ad_op *const ops[] = {&ad_op_sum, &ad_op_max, &ad_op_min};
    const struct ad_shape shapes[] = {SHAPE(3, 5, 7), SHAPE(2, 17, 64), SHAPE(40, 3, 300), SHAPE(2, 2, 4099)};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (uint32_t axes = 0; axes < 8; axes++)
            for (int op = 0; op < 3; op++)
                for (int odd = 0; odd < 2; odd++)
                    check_reduction(ops[op], &(struct ad_reduce_attr){.axes = axes}, shapes[i], odd);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (uint32_t axes = 1; axes < 4; axes++)
            for (int odd = 0; odd < 2; odd++)
                check_reduction(&ad_op_sum_products, &(struct ad_reduce_attr){.axes = axes}, shapes[i], odd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batch_norms), cmocka_unit_test(large_results), cmocka_unit_test(channels_in_16_bits),
        cmocka_unit_test(group_norms), cmocka_unit_test(max_pools),     cmocka_unit_test(resamples),
        cmocka_unit_test(softmaxes),   cmocka_unit_test(reductions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
