/* What is not a product, beside the memory: each op on tensors that no cache holds, and a loop that moves the same streams
 * of numbers and computes nothing, in turn. See measure.h. */
#pragma GCC optimize("O3")
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/ops/ops.h"
#include "autograd/plan.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/threads.h"
#include "bench/measure.h"

#ifdef __SSE__
#include <xmmintrin.h>
#endif

enum { COUNT = 1 << 24 }; /* numbers of a stream: 64 MB */

/* ---- the streams alone ----------------------------------------------------------------------------------------------- */

enum { MOST_READS = 4, MOST_WRITES = 3, LINE = 16, QUAD = 4 };

/* The streams that an op cannot do without: `read` and `written` tensors of COUNT numbers. */
struct streams {
    int read, written;
};
struct arrays {
    const float *from[MOST_READS];
    float *to[MOST_WRITES];
};

typedef float quad __attribute__((vector_size(16)));

static inline void put(float *p, quad x, bool past_caches)
{
#ifdef __SSE__
    if (past_caches) {
        _mm_stream_ps(p, (__m128)x);
        return;
    }
#endif
    *(quad *)p = x;
}

/* Numbers first .. last-1, whole lines; the sum keeps what is read wanted. */
static inline __attribute__((always_inline)) float move(struct streams s, const struct arrays *a, int64_t first,
                                                        int64_t last, bool past_caches)
{
    quad sum[LINE / QUAD] = {{0}};
    for (int64_t i = first; i < last; i += LINE)
#pragma GCC unroll 4
        for (int q = 0; q < LINE / QUAD; q++) {
            quad x = *(const quad *)(a->from[0] + i + QUAD * q);
            for (int r = 1; r < s.read; r++) x += *(const quad *)(a->from[r] + i + QUAD * q);
            for (int w = 0; w < s.written; w++) put(a->to[w] + i + QUAD * q, x, past_caches);
            if (s.written == 0) sum[q] += x;
        }
    return sum[0][0] + sum[1][0] + sum[2][0] + sum[3][0];
}

static volatile float sink;

static void move_part(struct streams s, const struct arrays *a, int64_t first, int64_t last, bool past)
{
#define CASE(r, w) \
    case (r)*4 + (w): sink = move((struct streams){r, w}, a, first, last, past); break;
    switch (s.read * 4 + s.written) {
        CASE(1, 0)
        CASE(1, 1)
        CASE(2, 0)
        CASE(2, 1)
        CASE(3, 1)
        CASE(4, 1)
        CASE(4, 3)
    default: CHECK(false);
    }
#undef CASE
}

static double move_seconds(struct streams s, const struct arrays *a, bool past)
{
    int threads = threads_count();
    double start = time_now();
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int t = 0; t < threads; t++) {
        int64_t lines = COUNT / LINE;
        move_part(s, a, lines * t / threads * LINE, lines * (t + 1) / threads * LINE, past);
    }
    return time_now() - start;
}

/* ---- the ops --------------------------------------------------------------------------------------------------------- */

/* x, more and third are of the line's shape, gain and bias (C), C its last axis, w (3, 3, 1, C), index int32 (line's). */
struct operands {
    val x, more, third, gain, bias, w, index;
};
struct line {
    const char *name, *op; /* op: of the plan's calls, which are what is timed */
    val (*make)(struct ad_graph *g, const struct operands *o);
    struct ad_shape shape;
    struct streams streams;
    bool grad;
    int64_t index, range; /* so many random numbers below range; range 0: the bounds of items of `index` rows */
};

#define MAKE(name, ...)                                                  \
    static val make_##name(struct ad_graph *g, const struct operands *o) \
    {                                                                    \
        return __VA_ARGS__;                                              \
    }
static val batch_norm(struct ad_graph *g, const struct operands *o, val residual, enum ad_norm_act act)
{
    val mean, var;
    return ad_batch_norm_act(g, o->x, o->gain, o->bias, residual, act, 1e-5, &mean, &var);
}
static val depthwise(struct ad_graph *g, const struct operands *o)
{
    return ad_conv2d(g, o->x, o->w, (struct ad_conv){.pad = {1, 1}, .groups = (int32_t)ad_dim(g, o->x, -1)});
}
MAKE(layer_norm, ad_layer_norm(g, o->x, o->gain, o->bias, 1e-5))
MAKE(rms_norm, ad_rms_norm(g, o->x, o->gain, 1e-5))
MAKE(group_norm, ad_group_norm(g, o->x, o->gain, o->bias, 32, 1e-5))
MAKE(channel_norm, ad_group_norm(g, o->x, o->gain, o->bias, (int)ad_dim(g, o->x, -1), 1e-5))
MAKE(batch_norm, batch_norm(g, o, 0, AD_ACT_NONE))
MAKE(batch_norm_relu, batch_norm(g, o, 0, AD_ACT_RELU))
MAKE(batch_norm_silu, batch_norm(g, o, 0, AD_ACT_SILU))
MAKE(batch_norm_sum, batch_norm(g, o, o->more, AD_ACT_RELU))
MAKE(gelu, ad_gelu(g, o->x))
MAKE(gelu_tanh, ad_gelu_tanh(g, o->x))
MAKE(silu, ad_silu(g, o->x))
MAKE(tanh, ad_tanh(g, o->x))
MAKE(exp, ad_exp(g, o->x))
MAKE(add, ad_add(g, o->x, o->more))
MAKE(softmax, ad_softmax(g, o->x))
MAKE(cross_entropy, ad_cross_entropy(g, o->x, o->index, 0, -100))
MAKE(gather, ad_gather(g, o->x, o->index))
MAKE(sum_last, ad_sum(g, o->x, 1U << (ad_rank(g, o->x) - 1), false))
MAKE(sum_first, ad_sum(g, o->x, 1, false))
MAKE(sum_middle, ad_sum(g, o->x, 2, false))
MAKE(sum_products, ad_sum_products_to(g, o->x, o->more, SHAPE(ad_dim(g, o->x, 0), 1, ad_dim(g, o->x, -1))))
MAKE(transpose, ad_swap(g, o->x, 0, 1))
MAKE(depthwise, depthwise(g, o))
MAKE(attention, ad_attention(g, o->x, o->more, o->third, o->index, o->index, 0, 16, 0))

#define ROWS            \
    {                   \
        2,              \
        {               \
            16384, 1024 \
        }               \
    }
#define IMAGES              \
    {                       \
        4,                  \
        {                   \
            64, 32, 32, 256 \
        }                   \
    }
#define SOUND            \
    {                    \
        3,               \
        {                \
            4, 8192, 512 \
        }                \
    }
static const struct line lines[] = {
    {"layer_norm", "layer_norm", make_layer_norm, ROWS, {1, 1}},
    {"layer_norm grad", "norm_grad", make_layer_norm, ROWS, {2, 1}, .grad = true},
    {"rms_norm", "rms_norm", make_rms_norm, ROWS, {1, 1}},
    {"rms_norm grad", "norm_grad", make_rms_norm, ROWS, {2, 1}, .grad = true},
    {"group_norm of images", "group_norm", make_group_norm, IMAGES, {1, 1}},
    {"group_norm of images grad", "norm_grad", make_group_norm, IMAGES, {2, 1}, .grad = true},
    {"group_norm of sound", "group_norm", make_channel_norm, SOUND, {2, 1}},
    {"group_norm of sound grad", "norm_grad", make_channel_norm, SOUND, {4, 1}, .grad = true},
    {"batch_norm", "batch_norm", make_batch_norm, IMAGES, {2, 1}},
    {"batch_norm grad", "batch_norm_grad", make_batch_norm, IMAGES, {4, 1}, .grad = true},
    {"batch_norm relu", "batch_norm", make_batch_norm_relu, IMAGES, {2, 1}},
    {"batch_norm relu grad", "batch_norm_grad", make_batch_norm_relu, IMAGES, {4, 1}, .grad = true},
    {"batch_norm silu", "batch_norm", make_batch_norm_silu, IMAGES, {2, 1}},
    {"batch_norm silu grad", "batch_norm_grad", make_batch_norm_silu, IMAGES, {4, 1}, .grad = true},
    {"batch_norm + x relu", "batch_norm", make_batch_norm_sum, IMAGES, {3, 1}},
    {"gelu", "gelu", make_gelu, ROWS, {1, 1}},
    {"gelu grad", "gelu_grad", make_gelu, ROWS, {2, 1}, .grad = true},
    {"gelu_tanh", "gelu_tanh", make_gelu_tanh, ROWS, {1, 1}},
    {"gelu_tanh grad", "gelu_tanh_grad", make_gelu_tanh, ROWS, {2, 1}, .grad = true},
    {"silu", "silu", make_silu, ROWS, {1, 1}},
    {"silu grad", "silu_grad", make_silu, ROWS, {2, 1}, .grad = true},
    {"tanh", "tanh", make_tanh, ROWS, {1, 1}},
    {"exp", "exp", make_exp, ROWS, {1, 1}},
    {"add", "add", make_add, ROWS, {2, 1}},
    {"softmax", "softmax", make_softmax, ROWS, {1, 1}},
    {"cross_entropy", "cross_entropy", make_cross_entropy, {2, {1024, 16384}}, {1, 0}, .index = 1024, .range = 16384},
    {"cross_entropy grad", "cross_entropy_grad", make_cross_entropy, {2, {1024, 16384}}, {1, 1}, true, 1024, 16384},
    {"embedding", "gather", make_gather, {2, {32768, 512}}, {1, 1}, .index = 32768, .range = 32768},
    {"embedding grad", "scatter_add", make_gather, {2, {32768, 512}}, {1, 1}, true, 32768, 32768},
    {"sum over the last axis", "sum", make_sum_last, ROWS, {1, 0}},
    {"sum over the first axis", "sum", make_sum_first, ROWS, {1, 0}},
    {"sum over a middle axis", "sum", make_sum_middle, {3, {64, 1024, 256}}, {1, 0}},
    {"sum of products over a middle axis", "sum_products", make_sum_products, {3, {64, 1024, 256}}, {2, 0}},
    {"transpose", "transpose", make_transpose, {2, {4096, 4096}}, {1, 1}},
    {"depthwise", "conv2d", make_depthwise, IMAGES, {1, 1}},
    {"depthwise dX", "conv2d_transpose", make_depthwise, IMAGES, {1, 1}, .grad = true},
    {"depthwise dW", "conv2d_dw", make_depthwise, IMAGES, {2, 0}, .grad = true},
    {"attention of 8 tokens", "attention", make_attention, ROWS, {3, 1}, .index = 8},
    {"attention of 16 tokens", "attention", make_attention, ROWS, {3, 1}, .index = 16},
    {"attention of 32 tokens", "attention", make_attention, ROWS, {3, 1}, .index = 32},
    {"attention of 77 tokens", "attention", make_attention, ROWS, {3, 1}, .index = 77},
    {"attention of 197 tokens", "attention", make_attention, ROWS, {3, 1}, .index = 197},
    {"attention of 8 tokens grad", "attention_grad", make_attention, ROWS, {4, 3}, true, 8},
    {"attention of 16 tokens grad", "attention_grad", make_attention, ROWS, {4, 3}, true, 16},
    {"attention of 32 tokens grad", "attention_grad", make_attention, ROWS, {4, 3}, true, 32},
    {"attention of 77 tokens grad", "attention_grad", make_attention, ROWS, {4, 3}, true, 77},
    {"attention of 197 tokens grad", "attention_grad", make_attention, ROWS, {4, 3}, true, 197},
};
enum { N_LINES = sizeof lines / sizeof *lines };

/* ---- one at work ------------------------------------------------------------------------------------------------------ */

/* Memory for all lines: streams, and what is small. */
struct room {
    struct arrays arrays;
    float *block, *small;
    int32_t *index;
    size_t bytes;
};
enum { SMALL = 1 << 16 };

static void fill(float *x, int64_t n, uint64_t seed)
{
    struct rng r = rng_make(seed, 0, 0);
    for (int64_t i = 0; i < n; i++) x[i] = i < SMALL ? (float)rng_normal(&r) : x[i % SMALL];
}

static int room_new(struct room *m, struct err *e)
{
    enum { ARRAYS = MOST_READS + MOST_WRITES };
    m->bytes = ((size_t)ARRAYS * COUNT + 2 * SMALL) * sizeof(float);
    m->block = mem_block(m->bytes, "tensors to measure ops with", e);
    if (!m->block) return ERR_MEMORY;
    for (int i = 0; i < ARRAYS; i++) {
        float *at = m->block + (int64_t)i * COUNT;
        fill(at, COUNT, (uint64_t)i + 1);
        if (i < MOST_READS)
            m->arrays.from[i] = at;
        else
            m->arrays.to[i - MOST_READS] = at;
    }
    m->small = m->block + (int64_t)ARRAYS * COUNT;
    m->index = (int32_t *)m->small + SMALL;
    fill(m->small, SMALL, 9);
    return 0;
}

/* Fills in the line's indices, and returns how many there are. */
static int64_t index_of(const struct line *l, int32_t *to)
{
    int64_t rows = l->shape.dim[0], n = l->range ? l->index : l->index ? (rows + l->index - 1) / l->index + 1 : 1;
    struct rng r = rng_make(7, 0, 0);
    for (int64_t i = 0; i < n; i++)
        to[i] = (int32_t)(l->range ? rng_below(&r, l->range) : i * l->index < rows ? i * l->index : rows);
    return n;
}

/* The line's op and what it needs; NULL on error. */
static struct ad_plan *plan_of(const struct line *l, struct room *m, struct err *e)
{
    struct ad_graph *g = ad_graph_new();
    struct ad_shape x = l->shape;
    int64_t c = x.dim[x.rank - 1], n = index_of(l, m->index);
    struct operands o = {.x = ad_input(g, "x", AD_F32, x),
                         .more = ad_input(g, "more", AD_F32, x),
                         .third = ad_input(g, "third", AD_F32, x),
                         .gain = ad_input(g, "gain", AD_F32, SHAPE(c)),
                         .bias = ad_input(g, "bias", AD_F32, SHAPE(c)),
                         .w = ad_input(g, "w", AD_F32, SHAPE(3, 3, 1, c)),
                         .index = ad_input(g, "index", AD_I32, SHAPE(n))};
    val y = l->make(g, &o);
    if (l->grad) {
        static const char *const results[] = {"dx", "dmore", "dthird", "dgain", "dbias", "dw"};
        enum { N = sizeof results / sizeof *results };
        val dy = ad_input(g, "dy", AD_F32, ad_shape_of(g, y)), d[N];
        ad_grad(g, &y, &dy, 1, (const val[N]){o.x, o.more, o.third, o.gain, o.bias, o.w}, N, d);
        for (int i = 0; i < N; i++) ad_output(g, results[i], d[i]);
    } else {
        ad_output(g, "y", y);
    }
    int rc = ad_status(g, e);
    struct ad_plan *p = rc ? NULL : ad_plan_new(g, NULL, 0, e);
    ad_graph_free(g);
    if (!p) return NULL;
    const char *const names[] = {"x", "dy", "more", "third", "gain", "bias", "w", "index"};
    const void *data[] = {m->arrays.from[0], m->arrays.from[1], m->arrays.from[2], m->arrays.from[3],
                          m->small,          m->small,          m->small,          m->index};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) ad_bind(p, names[i], data[i]);
    return p;
}

/* Seconds of the line's op in one run; *kernel: who computes it. */
static int time_op(struct ad_plan *p, const struct line *l, double *seconds, const char **kernel, struct err *e)
{
    ad_plan_profile(p, true);
    int rc = ad_run(p, 1, 1, e);
    if (rc) return rc;
    size_t n = ad_plan_timings(p, NULL);
    struct ad_timing *t = mem_zero(n + 1, sizeof *t);
    ad_plan_timings(p, t);
    *seconds = 0;
    for (size_t i = 0; i < n; i++)
        if (!strcmp(t[i].op, l->op)) *seconds += t[i].seconds, *kernel = t[i].kernel;
    free(t);
    return *seconds > 0 ? 0 : err_set(e, ERR_STATE, "%s: the plan has no %s", l->name, l->op);
}

enum { MOST_ROUNDS = 101, LEAST_ROUNDS = 5 };

static int show(const struct line *l, struct room *m, double seconds, struct err *e)
{
    struct ad_plan *p = plan_of(l, m, e);
    if (!p) return e->code;
    double op[MOST_ROUNDS], memory[MOST_ROUNDS], share[MOST_ROUNDS];
    const char *kernel = "";
    int n = 0, rc = time_op(p, l, &op[0], &kernel, e);
    for (double end = time_now() + seconds;
         !rc && n < MOST_ROUNDS && (n < (seconds > 0 ? LEAST_ROUNDS : 1) || time_now() < end); n++) {
        memory[n] = fmin(move_seconds(l->streams, &m->arrays, true), move_seconds(l->streams, &m->arrays, false));
        rc = time_op(p, l, &op[n], &kernel, e);
        share[n] = memory[n] / op[n];
    }
    ad_plan_free(p);
    if (rc) return rc;
    double bytes = 4.0 * COUNT * (l->streams.read + l->streams.written), s = bench_median(op, n);
    printf("{\"name\": \"%s\", \"kernel\": \"%s\", \"numbers\": %d, \"read\": %d, \"written\": %d, \"ns\": %.4g, "
           "\"gb_s\": %.4g, \"memory_gb_s\": %.4g, \"share\": %.4g, \"rounds\": %d, \"threads\": %d}\n",
           l->name, kernel, COUNT, l->streams.read, l->streams.written, 1e9 * s / COUNT, 1e-9 * bytes / s,
           1e-9 * bytes / bench_median(memory, n), bench_median(share, n), n, threads_count());
    fflush(stdout);
    return 0;
}

int bench_ops(const char *part, double seconds, struct err *e)
{
    struct room m;
    int found = 0, rc = 0;
    for (int i = 0; i < N_LINES; i++) found += !part || strstr(lines[i].name, part) != NULL;
    if (!found)
        return err_set(e, ERR_USAGE, "no op has '%s' in its name; there are norms, 'gelu', 'sum', 'attention'...",
                       part);
    if (room_new(&m, e)) return ERR_MEMORY;
    for (int i = 0; i < N_LINES && !rc; i++)
        if (!part || strstr(lines[i].name, part)) rc = show(&lines[i], &m, seconds, e);
    mem_block_free(m.block, m.bytes);
    return rc;
}
