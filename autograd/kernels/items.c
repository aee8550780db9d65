/* f32 rows by item: segment_sum, segment_broadcast; dropout. Rows may be kept in 16 bits; what is summed is not. Each output
 * number is made by one thread, in the order of the definition, so nothing depends on their number. */
#include "autograd/kernels/row_moves.h"
#include "autograd/ops/packed.h"
#include "autograd/ops/random.h"
#include "base/isa.h"
#include "base/philox.h"
#include "base/threads.h"

extern const struct ad_op ad_op_segment_sum, ad_op_segment_broadcast, ad_op_dropout;

enum { STRIPE = 64 }; /* numbers that are widened at once */

/* ---- segments -------------------------------------------------------------------------------------------------------- */

static void begin_segment_sum(const struct ad_call *c, const void *job, int64_t first, int64_t last)
{
    clear_row(&c->out[0], 0, ad_count(c->out[0].shape));
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
    clear_row(&c->out[0], 0, ad_count(c->out[0].shape));
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

const struct ad_kernel ISA_FN(ad_kernels_items)[] = {
    {&ad_op_segment_sum, AD_F32, NULL, NULL, NULL, "items", 1, 0, cut_segment_sum},
    {&ad_op_segment_broadcast, AD_F32, NULL, NULL, NULL, "items", 1, 1, cut_segment_broadcast},
    {&ad_op_dropout, AD_F32, NULL, NULL, NULL, "philox", 1, 1, cut_dropout},
    {0},
};
