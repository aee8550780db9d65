/* f32 rows by index and by item: gather, scatter_add, segment_sum, segment_broadcast; dropout. Rows may be kept in 16 bits;
 * what is summed is not. Each output number is made by one thread, in the order of the definition, so nothing depends on
 * their number. */
#include <string.h>

#include "autograd/kernels/simd.h"
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
    memset(t->data, 0, (size_t)ad_count(t->shape) * ad_dtype_size(t->dtype));
}

SIMD_FN void add_numbers(enum ad_dtype t, float *y, const void *x, int64_t n)
{
    int64_t i = 0;
    for (; i + VL <= n; i += VL) vf_store(y + i, vf_load(y + i) + vf_load_as(t, x, i));
    for (; i < n; i++) y[i] += float_as(t, x, i);
}

/* y += x, n numbers from element `at` of x on */
static void add_row(float *y, const struct ad_tensor *x, int64_t at, int64_t n)
{
    BY_TYPE(x->dtype, add_numbers, y, at_as(x->dtype, x->data, at), n);
}

SIMD_FN void scale_numbers(enum ad_dtype t, void *y, enum ad_dtype from, const void *x, int64_t n, float factor)
{
    int64_t i = 0;
    for (; i + VL <= n; i += VL) vf_store_as(t, y, i, vf_load_as(from, x, i) * factor);
    if (i < n) vf_store_part_as(t, y, i, vf_load_part_as(from, x, i, n - i) * factor, n - i);
}
SIMD_FN void scale_same(enum ad_dtype t, void *y, const void *x, int64_t n, float factor)
{
    scale_numbers(t, y, t, x, n, factor);
}

/* y = x factor, n numbers from element `from` of x and `to` of y on */
static void scale_row(const struct ad_tensor *y, int64_t to, const struct ad_tensor *x, int64_t from, int64_t n,
                      float factor)
{
    void *out = at_as(y->dtype, y->data, to);
    const void *in = at_as(x->dtype, x->data, from);
    if (x->dtype == y->dtype)
        BY_TYPE(y->dtype, scale_same, out, in, n, factor);
    else
        scale_numbers(y->dtype, out, x->dtype, in, n, factor);
}

static void clear_row(const struct ad_tensor *y, int64_t at, int64_t n)
{
    memset(at_as(y->dtype, y->data, at), 0, (size_t)n * ad_dtype_size(y->dtype));
}

/* ---- gather and scatter_add ------------------------------------------------------------------------------------------ */

static void check_gather(const struct ad_call *c, const void *job, int64_t first, int64_t last)
{
    check(c, 1, c->in[0].shape.dim[0]);
}

static void run_gather(const struct ad_call *c, const void *job, int64_t first, int64_t last)
{
    int64_t width = width_of(c->in[0].shape, 1);
    const struct ad_tensor *table = &c->in[0], *y = &c->out[0];
    bool failed = ad_call_failed(c);
    for (int64_t i = first; i < last; i++) {
        int64_t r = ad_get_int(&c->in[1], i);
        if (r < 0 || failed)
            clear_row(y, i * width, width);
        else if (table->dtype == y->dtype)
            memcpy(at_as(y->dtype, y->data, i * width), at_as(y->dtype, table->data, r * width),
                   (size_t)width * ad_dtype_size(y->dtype));
        else
            scale_row(y, i * width, table, r * width, width, 1);
    }
}

static void cut_gather(const struct ad_call *c, int threads, struct ad_parts *p)
{
    int64_t width = width_of(c->in[0].shape, 1), n = ad_count(c->in[1].shape);
    p->n = 2;
    p->phase[0] = (struct ad_phase){.items = 1, .run = check_gather, .alone = true};
    p->phase[1] = (struct ad_phase){.items = n, .run = run_gather, .alone = n * width <= PAR_MIN};
}

enum { STRIPE = 64 }; /* columns of one task */

/* Of a result in 16 bits: begin[r] .. begin[r+1]-1 of `order` are the places of index r, in their order. */
static size_t scatter_scratch(const struct ad_call *c)
{
    if (!ad_is_half(c->out[0].dtype)) return 0;
    return (size_t)(c->out[0].shape.dim[0] + 2 + ad_count(c->in[1].shape)) * sizeof(int32_t);
}

static void sort_places(const struct ad_call *c, int64_t rows, int32_t *begin, int32_t *order)
{
    int64_t n = ad_count(c->in[1].shape);
    memset(begin, 0, (size_t)(rows + 2) * sizeof *begin);
    for (int64_t i = 0; i < n; i++) begin[ad_get_int(&c->in[1], i) + 2]++; /* -1: nowhere */
    begin[1] = 0;
    for (int64_t r = 0; r < rows; r++) begin[r + 2] += begin[r + 1];
    for (int64_t i = 0; i < n; i++) {
        int64_t r = ad_get_int(&c->in[1], i);
        if (r >= 0) order[begin[r + 1]++] = (int32_t)i;
    }
}

static void begin_half_scatter(const struct ad_call *c, const void *job, int64_t first, int64_t last)
{
    int64_t rows = c->out[0].shape.dim[0];
    int32_t *begin = c->scratch;
    zero(&c->out[0]);
    if (check(c, 1, rows))
        sort_places(c, rows, begin, begin + rows + 2);
    else
        memset(begin, 0, (size_t)(rows + 2) * sizeof *begin);
}

/* Each row is summed in f32, in the same order, and rounded once. */
static void run_half_scatter(const struct ad_call *c, const void *job, int64_t first, int64_t last)
{
    int64_t width = width_of(c->out[0].shape, 1);
    const int32_t *begin = c->scratch, *order = begin + c->out[0].shape.dim[0] + 2;
    const struct ad_tensor *y = &c->out[0];
    for (int64_t r = first; r < last; r++)
        for (int64_t from = 0; from < width && begin[r] < begin[r + 1]; from += STRIPE) {
            float sum[STRIPE] = {0};
            int64_t k = min64(STRIPE, width - from);
            for (int32_t i = begin[r]; i < begin[r + 1]; i++) add_row(sum, &c->in[0], order[i] * width + from, k);
            vf_narrow(y->dtype, sum, at_as(y->dtype, y->data, r * width + from), k);
        }
}

static void begin_scatter(const struct ad_call *c, const void *job, int64_t first, int64_t last)
{
    zero(&c->out[0]);
    check(c, 1, c->out[0].shape.dim[0]);
}

static void run_scatter(const struct ad_call *c, const void *job, int64_t first, int64_t last)
{
    int64_t width = width_of(c->out[0].shape, 1), n = ad_count(c->in[1].shape);
    float *y = c->out[0].data;
    for (int64_t from = first * STRIPE; from < min64(width, last * STRIPE) && !ad_call_failed(c); from += STRIPE) {
        int64_t to = min64(width, from + STRIPE);
        for (int64_t i = 0; i < n; i++) {
            int64_t r = ad_get_int(&c->in[1], i);
            if (r >= 0) add_row(y + r * width + from, &c->in[0], i * width + from, to - from);
        }
    }
}

static void cut_scatter(const struct ad_call *c, int threads, struct ad_parts *p)
{
    int64_t width = width_of(c->out[0].shape, 1);
    bool half = ad_is_half(c->out[0].dtype);
    p->n = 2;
    p->phase[0] = (struct ad_phase){.items = 1, .run = half ? begin_half_scatter : begin_scatter, .alone = true};
    p->phase[1] = (struct ad_phase){.items = half ? c->out[0].shape.dim[0] : (width + STRIPE - 1) / STRIPE,
                                    .run = half ? run_half_scatter : run_scatter,
                                    .alone = ad_count(c->in[1].shape) * width <= PAR_MIN};
}

/* ---- segments -------------------------------------------------------------------------------------------------------- */

static void begin_segment_sum(const struct ad_call *c, const void *job, int64_t first, int64_t last)
{
    zero(&c->out[0]);
    ad_offsets_ok(c, 1, c->in[0].shape.dim[0]);
}

static void run_segment_sum(const struct ad_call *c, const void *job, int64_t first, int64_t last)
{
    int64_t width = width_of(c->out[0].shape, 1);
    bool mean = ((const struct ad_segment_attr *)c->attr)->mean;
    float *y = c->out[0].data;
    for (int64_t b = first; b < last && !ad_call_failed(c); b++) {
        int64_t from = ad_get_int(&c->in[1], b), to = ad_get_int(&c->in[1], b + 1);
        for (int64_t t = from; t < to; t++) add_row(y + b * width, &c->in[0], t * width, width);
        if (!mean || to - from < 2) continue;
        float n = (float)(to - from);
        for (int64_t k = 0; k < width; k++) y[b * width + k] /= n;
    }
}

static void cut_segment_sum(const struct ad_call *c, int threads, struct ad_parts *p)
{
    bool alone = ad_count(c->in[0].shape) <= PAR_MIN;
    p->n = 2;
    p->phase[0] = (struct ad_phase){.items = 1, .run = begin_segment_sum, .alone = true};
    p->phase[1] =
        (struct ad_phase){.items = c->out[0].shape.dim[0], .run = run_segment_sum, .dynamic = true, .alone = alone};
}

static void begin_segment_broadcast(const struct ad_call *c, const void *job, int64_t first, int64_t last)
{
    zero(&c->out[0]);
    ad_offsets_ok(c, 1, c->out[0].shape.dim[0]);
}

static void run_segment_broadcast(const struct ad_call *c, const void *job, int64_t first, int64_t last)
{
    int64_t width = width_of(c->out[0].shape, 1);
    bool mean = ((const struct ad_segment_attr *)c->attr)->mean;
    const struct ad_tensor *y = &c->out[0];
    for (int64_t b = first; b < last && !ad_call_failed(c); b++) {
        int64_t from = ad_get_int(&c->in[1], b), to = ad_get_int(&c->in[1], b + 1);
        float n = mean ? (float)(to - from) : 1;
        for (int64_t t = from; t < to; t++)
            for (int64_t k = 0; k < width; k += STRIPE) {
                float part[STRIPE];
                int64_t m = min64(STRIPE, width - k);
                for (int64_t i = 0; i < m; i++)
                    part[i] = float_as(c->in[0].dtype, c->in[0].data, b * width + k + i) / n;
                if (y->dtype == AD_F32)
                    memcpy((float *)y->data + t * width + k, part, (size_t)m * sizeof *part);
                else
                    vf_narrow(y->dtype, part, at_as(y->dtype, y->data, t * width + k), m);
            }
    }
}

static void cut_segment_broadcast(const struct ad_call *c, int threads, struct ad_parts *p)
{
    bool alone = ad_count(c->out[0].shape) <= PAR_MIN;
    p->n = 2;
    p->phase[0] = (struct ad_phase){.items = 1, .run = begin_segment_broadcast, .alone = true};
    p->phase[1] = (struct ad_phase){
        .items = c->in[0].shape.dim[0], .run = run_segment_broadcast, .dynamic = true, .alone = alone};
}

/* ---- dropout ----------------------------------------------------------------------------------------------------- */

/* Elements, or items where a word drops a whole item. */
static int64_t dropped_items(const struct ad_call *c)
{
    bool per_item = ((const struct ad_random_attr *)c->attr)->per_item && ad_count(c->out[0].shape);
    return per_item ? c->out[0].shape.dim[0] : ad_count(c->out[0].shape);
}

static void check_first(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    ad_random_first(c);
}

struct dropout {
    const struct ad_tensor *x, *y;
    uint32_t below;
    float keep;
    int64_t width; /* of an item */
};

/* m items from `at` on, by as many words. */
static void drop(const struct dropout *d, const uint32_t *word, int64_t at, int64_t m)
{
    const struct ad_tensor *x = d->x, *y = d->y;
    uint32_t below = d->below;
    float keep = d->keep;
    bool wide = x->dtype == AD_F32 && y->dtype == AD_F32;
    for (int64_t k = 0; d->width > 1 && k < m; k++)
        if (word[k] < below)
            clear_row(y, (at + k) * d->width, d->width);
        else
            scale_row(y, (at + k) * d->width, x, (at + k) * d->width, d->width, keep);
    if (d->width > 1) return;
    float room[PHILOX_WORDS], *out = wide ? (float *)y->data + at : room;
    const float *in = wide ? (const float *)x->data + at : room;
    if (!wide) vf_widen(x->dtype, at_as(x->dtype, x->data, at), room, m);
#pragma omp simd
    for (int64_t k = 0; k < m; k++) out[k] = word[k] < below ? 0 : in[k] * keep;
    if (!wide) vf_narrow(y->dtype, room, at_as(y->dtype, y->data, at), m);
}

static void run_dropout(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    uint64_t key = ad_random_key(c);
    double p = ((const struct ad_random_attr *)c->attr)->p;
    int64_t items = dropped_items(c), first = ad_call_failed(c) ? 0 : ad_random_first(c),
            lead = first % 4; /* words come in fours */
    struct dropout d = {.x = &c->in[0],
                        .y = &c->out[0],
                        .below = ad_drop_below(p),
                        .keep = (float)(1 / (1 - p)),
                        .width = ad_count(c->out[0].shape) / items};
    for (int64_t t = from; t < to; t++) {
        uint32_t w[PHILOX_WORDS];
        int64_t i = t * PHILOX_WORDS - lead, skip = i < 0 ? -i : 0, end = min64(PHILOX_WORDS, items - i);
        if (end <= skip) break;
        philox_words(key, c->step, (uint64_t)(first + i) / 4, w);
        drop(&d, w + skip, i + skip, end - skip);
    }
}

static void cut_dropout(const struct ad_call *c, int threads, struct ad_parts *p)
{
    enum { MOST_LEAD = 3 };
    int64_t n = ad_count(c->out[0].shape), items = dropped_items(c);
    if (!n) return;
    if (c->n_in > 1) p->phase[p->n++] = (struct ad_phase){.items = 1, .run = check_first, .alone = true};
    p->phase[p->n++] = (struct ad_phase){
        .items = (items + MOST_LEAD + PHILOX_WORDS - 1) / PHILOX_WORDS, .run = run_dropout, .alone = n * 4 <= PAR_MIN};
}

#define ROW(op_, name_, half_out_)                                             \
    {                                                                          \
        &ad_op_##op_, AD_F32, NULL, NULL, NULL, name_, 1, half_out_, cut_##op_ \
    }
const struct ad_kernel ISA_FN(ad_kernels_index)[] = {
    ROW(gather, "rows", 1),
    {&ad_op_scatter_add, AD_F32, NULL, NULL, scatter_scratch, "stripes", 1, 1, cut_scatter},
    ROW(segment_sum, "items", 0),
    ROW(segment_broadcast, "items", 1),
    ROW(dropout, "philox", 1),
    {0},
};
