/* f32 rows by index and by item: gather, scatter_add, segment_sum, segment_broadcast; dropout. Each output number is
 * made by one thread, in the order of the definition, so nothing depends on their number. */
#include <string.h>

#include "autograd/op.h"
#include "autograd/ops/packed.h"
#include "autograd/ops/random.h"
#include "base/isa.h"
#include "base/threads.h"

extern const struct ad_op ad_op_gather, ad_op_scatter_add, ad_op_segment_sum, ad_op_segment_broadcast, ad_op_dropout;

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t width_of(struct ad_shape s, int from)
{
    int64_t n = 1;
    for (int i = from; i < s.rank; i++) n *= s.dim[i];
    return n;
}

/* Records the first index that is not in -1 .. limit-1. */
static bool check(const struct ad_call *c, int k, int64_t limit)
{
    int64_t n = ad_count(c->in[k].shape);
    for (int64_t i = 0; i < n; i++) {
        int64_t v = ad_get_int(&c->in[k], i);
        if (v >= -1 && v < limit) continue;
        ad_call_fail(c, "index %lld (number %lld) is not in -1 .. %lld", (long long)v, (long long)i,
                     (long long)limit - 1);
        return false;
    }
    return true;
}

static void zero(const struct ad_tensor *t)
{
    memset(t->data, 0, (size_t)ad_count(t->shape) * sizeof(float));
}

static void run_gather(const struct ad_call *c)
{
    int64_t rows = c->in[0].shape.dim[0], width = width_of(c->in[0].shape, 1), n = ad_count(c->in[1].shape);
    const float *table = c->in[0].data;
    float *y = c->out[0].data;
    if (!check(c, 1, rows)) {
        zero(&c->out[0]);
        return;
    }
#pragma omp parallel for schedule(static) if (n * width > PAR_MIN)
    for (int64_t i = 0; i < n; i++) {
        int64_t r = ad_get_int(&c->in[1], i);
        if (r < 0)
            memset(y + i * width, 0, (size_t)width * sizeof *y);
        else
            memcpy(y + i * width, table + r * width, (size_t)width * sizeof *y);
    }
}

enum { STRIPE = 64 }; /* columns of one task */

static void run_scatter(const struct ad_call *c)
{
    int64_t rows = c->out[0].shape.dim[0], width = width_of(c->out[0].shape, 1), n = ad_count(c->in[1].shape);
    const float *x = c->in[0].data;
    float *y = c->out[0].data;
    zero(&c->out[0]);
    if (!check(c, 1, rows)) return;
#pragma omp parallel for schedule(static) if (n * width > PAR_MIN)
    for (int64_t from = 0; from < width; from += STRIPE) {
        int64_t to = min64(width, from + STRIPE);
        for (int64_t i = 0; i < n; i++) {
            int64_t r = ad_get_int(&c->in[1], i);
            if (r < 0) continue;
#pragma omp simd
            for (int64_t k = from; k < to; k++) y[r * width + k] += x[i * width + k];
        }
    }
}

static void run_segment_sum(const struct ad_call *c)
{
    int64_t items = c->out[0].shape.dim[0], width = width_of(c->out[0].shape, 1);
    bool mean = ((const struct ad_segment_attr *)c->attr)->mean;
    const float *x = c->in[0].data;
    float *y = c->out[0].data;
    zero(&c->out[0]);
    if (!ad_offsets_ok(c, 1, c->in[0].shape.dim[0])) return;
#pragma omp parallel for schedule(dynamic) if (ad_count(c->in[0].shape) > PAR_MIN)
    for (int64_t b = 0; b < items; b++) {
        int64_t from = ad_get_int(&c->in[1], b), to = ad_get_int(&c->in[1], b + 1);
        for (int64_t t = from; t < to; t++)
#pragma omp simd
            for (int64_t k = 0; k < width; k++) y[b * width + k] += x[t * width + k];
        if (!mean || to - from < 2) continue;
        float n = (float)(to - from);
        for (int64_t k = 0; k < width; k++) y[b * width + k] /= n;
    }
}

static void run_segment_broadcast(const struct ad_call *c)
{
    int64_t items = c->in[0].shape.dim[0], width = width_of(c->out[0].shape, 1);
    bool mean = ((const struct ad_segment_attr *)c->attr)->mean;
    const float *x = c->in[0].data;
    float *y = c->out[0].data;
    zero(&c->out[0]);
    if (!ad_offsets_ok(c, 1, c->out[0].shape.dim[0])) return;
#pragma omp parallel for schedule(dynamic) if (ad_count(c->out[0].shape) > PAR_MIN)
    for (int64_t b = 0; b < items; b++) {
        int64_t from = ad_get_int(&c->in[1], b), to = ad_get_int(&c->in[1], b + 1);
        float n = mean ? (float)(to - from) : 1;
        for (int64_t t = from; t < to; t++)
            for (int64_t k = 0; k < width; k++) y[t * width + k] = x[b * width + k] / n;
    }
}

/* ---- dropout ----------------------------------------------------------------------------------------------------- */

enum { DRAW = 16 };

/* Words 4 i .. 4 i + 15 of the stream. */
#if defined(__AVX2__)
typedef unsigned long long u64x4 __attribute__((vector_size(32)));
typedef int i32x8 __attribute__((vector_size(32)));

/* Four counters side by side, each word in the low half of a 64-bit lane; what the high halves hold does not matter. */
static void draw(uint64_t key, uint64_t step, uint64_t i, uint32_t out[DRAW])
{
    const u64x4 low = {0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu};
    const u64x4 m0 = (low & 0) + 0xD2511F53u, m1 = (low & 0) + 0xCD9E8D57u;
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    u64x4 c0 = {i, i + 1, i + 2, i + 3}, c1 = c0 >> 32, c2 = (low & 0) + step, c3 = c2 >> 32;
    for (int round = 0; round < 10; round++) {
        u64x4 a = (u64x4)__builtin_ia32_pmuludq256((i32x8)m0, (i32x8)c0),
              b = (u64x4)__builtin_ia32_pmuludq256((i32x8)m1, (i32x8)c2);
        u64x4 n0 = (b >> 32) ^ c1 ^ k0, n2 = (a >> 32) ^ c3 ^ k1;
        c1 = b;
        c3 = a;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    u64x4 x = (c0 & low) | c1 << 32, y = (c2 & low) | c3 << 32;
    u64x4 pair[2] = {__builtin_shuffle(x, y, (u64x4){0, 4, 1, 5}), __builtin_shuffle(x, y, (u64x4){2, 6, 3, 7})};
    memcpy(out, pair, sizeof pair);
}
#else
static void draw(uint64_t key, uint64_t step, uint64_t i, uint32_t out[DRAW])
{
    for (uint64_t k = 0; k < DRAW / 4; k++) rng_philox(key, step, i + k, out + 4 * k);
}
#endif

static void run_dropout(const struct ad_call *c)
{
    const struct ad_random_attr *a = c->attr;
    uint64_t key = ad_random_key(c);
    uint32_t below = ad_drop_below(a->p);
    float keep = (float)(1 / (1 - a->p));
    const float *x = c->in[0].data;
    float *y = c->out[0].data;
    int64_t n = ad_count(c->out[0].shape), items = a->per_item && n ? c->out[0].shape.dim[0] : n,
            width = n ? n / items : 0;
#pragma omp parallel for schedule(static) if (n * 4 > PAR_MIN)
    for (int64_t i = 0; i < items; i += DRAW) {
        uint32_t w[DRAW];
        int64_t m = min64(DRAW, items - i);
        draw(key, c->step, (uint64_t)i / 4, w);
        if (width == 1 && m == DRAW)
#pragma omp simd
            for (int k = 0; k < DRAW; k++) y[i + k] = w[k] < below ? 0 : x[i + k] * keep;
        else
            for (int64_t k = 0; k < m * width; k++)
                y[i * width + k] = w[k / width] < below ? 0 : x[i * width + k] * keep;
    }
}

const struct ad_kernel ISA_FN(ad_kernels_index)[] = {
    {.op = &ad_op_gather, .dtype = AD_F32, .run = run_gather, .name = "rows"},
    {.op = &ad_op_scatter_add, .dtype = AD_F32, .run = run_scatter, .name = "stripes"},
    {.op = &ad_op_segment_sum, .dtype = AD_F32, .run = run_segment_sum, .name = "items"},
    {.op = &ad_op_segment_broadcast, .dtype = AD_F32, .run = run_segment_broadcast, .name = "items"},
    {.op = &ad_op_dropout, .dtype = AD_F32, .run = run_dropout, .name = "philox16"},
    {0},
};
