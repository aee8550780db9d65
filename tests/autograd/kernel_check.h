/* Runs one op on given tensors without a plan: its plain eval and its f32 kernel, on 1, 2, 3 and 7 threads. */
#ifndef TRIAD_TESTS_KERNEL_CHECK_H
#define TRIAD_TESTS_KERNEL_CHECK_H

#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "autograd/op.h"
#include "base/mem.h"

static uint64_t check_state = 0x9e3779b97f4a7c15u;

static inline uint64_t check_bits(void)
{
    check_state ^= check_state << 13;
    check_state ^= check_state >> 7;
    return check_state ^= check_state << 17;
}
static inline int64_t check_int(int64_t lo, int64_t hi) /* lo .. hi */
{
    return lo + (int64_t)(check_bits() >> 33) % (hi - lo + 1);
}
static inline float check_float(void)
{
    return (float)(check_bits() >> 40) / (float)(1 << 23) - 1;
}

/* A contiguous f32 tensor of numbers in [-1, 1); the test frees .data. */
static inline struct ad_tensor check_tensor(struct ad_shape s)
{
    int64_t n = ad_count(s);
    float *x = mem_alloc((size_t)(n + 1) * sizeof *x);
    struct ad_tensor t = {.data = x, .dtype = AD_F32, .shape = s};
    for (int64_t i = 0; i < n; i++) x[i] = check_float();
    ad_default_strides(&t);
    return t;
}

struct check_run {
    struct ad_tensor out[4];
    int n_out;
};
static inline void check_free(struct check_run *r)
{
    for (int i = 0; i < r->n_out; i++) free(r->out[i].data);
}

/* The outputs of the op, by its kernel or by its eval, in memory that held NaNs before. */
static inline struct check_run check_once(const struct ad_op *op, const void *attr, const struct ad_tensor *in,
                                          int n_in, bool kernel)
{
    struct ad_graph *g = ad_graph_new();
    struct check_run r = {.n_out = 0};
    struct err e = {0};
    val v[9];
    char name[16];
    for (int i = 0; i < n_in; i++) {
        snprintf(name, sizeof name, "x%d", i);
        v[i] = ad_input(g, name, in[i].dtype, in[i].shape);
    }
    val y = ad_node(g, op, attr, v, n_in);
    if (ad_status(g, &e)) fail_msg("%s", e.msg);
    r.n_out = ad_node_of(g, y)->n_out;
    for (int i = 0; i < r.n_out; i++) {
        r.out[i] = (struct ad_tensor){.dtype = ad_dtype_of(g, y + i), .shape = ad_shape_of(g, y + i)};
        ad_default_strides(&r.out[i]);
        size_t bytes = (size_t)ad_count(r.out[i].shape) * 4;
        /* Large ones begin with a line, as in a plan's arena: kernels may then write past the caches. */
        void *room = bytes >= 1 << 20 ? aligned_alloc(64, (bytes + 63) / 64 * 64) : mem_alloc(bytes + 4);
        CHECK(room);
        r.out[i].data = memset(room, 0xff, bytes);
    }
    ad_graph_free(g);
    struct ad_call c = {.in = in, .out = r.out, .n_in = n_in, .n_out = r.n_out, .attr = attr, .op = op, .fault = &e};
    const struct ad_kernel *k = kernel ? ad_kernel_find(op, &c) : NULL;
    if (kernel) assert_non_null(k);
    size_t (*scratch)(const struct ad_call *) = k && k->scratch ? k->scratch : op->scratch;
    size_t bytes = scratch ? scratch(&c) : 0;
    void *room = bytes ? memset(aligned_alloc(64, (bytes + 63) / 64 * 64), 0xff, bytes) : NULL;
    c.scratch = room;
    if (k)
        ad_kernel_run(k, &c);
    else
        op->eval(&c);
    free(room);
    return r;
}

/* The kernel against the eval. `depth` is how many products a result sums: an f32 sum of n products in any order is
 * within (n + 1) 2^-24 of the sum of their absolute values (Higham 2002, 3.5), which the eval gives for |inputs|; twice
 * that with 8 more operations for the epilogue is allowed. And the same bits on 1, 2, 3 and 7 threads. */
static inline void check_products(const struct ad_op *op, const void *attr, const struct ad_tensor *in, int n_in,
                                  int64_t depth, const char *what)
{
    static const int counts[] = {1, 2, 3, 7};
    struct ad_tensor size[8];
    for (int i = 0; i < n_in; i++) {
        size[i] = in[i];
        int64_t n = ad_count(in[i].shape) > 0; /* the elements that the strides reach */
        for (int d = 0; d < in[i].shape.rank && n; d++) n += (in[i].shape.dim[d] - 1) * in[i].stride[d];
        float *x = mem_alloc((size_t)(n + 1) * sizeof *x);
        for (int64_t k = 0; k < n; k++) x[k] = fabsf(((const float *)in[i].data)[k]);
        size[i].data = x;
    }
    struct check_run want = check_once(op, attr, in, n_in, false), bound = check_once(op, attr, size, n_in, false),
                     one = {.n_out = 0};
    for (int t = 0; t < 4; t++) {
        int threads = counts[t];
        omp_set_num_threads(threads);
        struct check_run got = check_once(op, attr, in, n_in, true);
        int64_t n = ad_count(got.out[0].shape);
        for (int64_t i = 0; i < n; i++) {
            double w = ad_get(&want.out[0], i), v = ad_get(&got.out[0], i);
            double allowed = (double)(depth + 8) * 0x1p-23 * ad_get(&bound.out[0], i);
            if (!(fabs(v - w) <= allowed)) fail_msg("%s: element %lld is %.9g, not %.9g", what, (long long)i, v, w);
        }
        if (threads == 1) {
            one = got;
            continue;
        }
        if (memcmp(one.out[0].data, got.out[0].data, (size_t)n * sizeof(float)))
            fail_msg("%s: other bits on %d threads", what, threads);
        check_free(&got);
    }
    check_free(&one);
    check_free(&want);
    check_free(&bound);
    for (int i = 0; i < n_in; i++) free(size[i].data);
}

#endif
