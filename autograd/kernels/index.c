/* f32 rows by index and by item: gather, scatter_add, segment_sum, segment_broadcast; dropout. Each output number is
 * made by one thread, in the order of the definition, so nothing depends on their number. */
#include <string.h>

#include "autograd/op.h"
#include "autograd/ops/packed.h"
#include "autograd/ops/random.h"
#include "base/isa.h"
#include "base/philox.h"
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

static void run_dropout(const struct ad_call *c)
{
    const struct ad_random_attr *a = c->attr;
    uint64_t key = ad_random_key(c);
    uint32_t below = ad_drop_below(a->p);
    float keep = (float)(1 / (1 - a->p));
    const float *x = c->in[0].data;
    float *y = c->out[0].data;
    int64_t n = ad_count(c->out[0].shape), items = a->per_item && n ? c->out[0].shape.dim[0] : n,
            width = n ? n / items : 0, first = ad_random_first(c), lead = first % 4; /* words come in fours */
#pragma omp parallel for schedule(static) if (n * 4 > PAR_MIN)
    for (int64_t i = -lead; i < items; i += PHILOX_WORDS) {
        uint32_t w[PHILOX_WORDS];
        int64_t from = i < 0 ? -i : 0, to = min64(PHILOX_WORDS, items - i);
        philox_words(key, c->step, (uint64_t)(first + i) / 4, w);
        if (width == 1 && to - from == PHILOX_WORDS)
#pragma omp simd
            for (int k = 0; k < PHILOX_WORDS; k++) y[i + k] = w[k] < below ? 0 : x[i + k] * keep;
        else
            for (int64_t k = from * width; k < to * width; k++)
                y[i * width + k] = w[k / width] < below ? 0 : x[i * width + k] * keep;
    }
}

const struct ad_kernel ISA_FN(ad_kernels_index)[] = {
    {.op = &ad_op_gather, .dtype = AD_F32, .run = run_gather, .name = "rows"},
    {.op = &ad_op_scatter_add, .dtype = AD_F32, .run = run_scatter, .name = "stripes"},
    {.op = &ad_op_segment_sum, .dtype = AD_F32, .run = run_segment_sum, .name = "items"},
    {.op = &ad_op_segment_broadcast, .dtype = AD_F32, .run = run_segment_broadcast, .name = "items"},
    {.op = &ad_op_dropout, .dtype = AD_F32, .run = run_dropout, .name = "philox"},
    {0},
};
