/* f32 rows by index: gather, scatter_add. Rows may be kept in 16 bits; what is summed is not. Each output number is made by
 * one thread, in the order of the definition, so nothing depends on their number. */
#include "autograd/kernels/row_moves.h"
#include "autograd/kernels/stream.h"
#include "base/isa.h"
#include "base/threads.h"

extern const struct ad_op ad_op_gather, ad_op_scatter_add;

static bool any_outside(const int32_t *index, int64_t n, int64_t limit)
{
    uint32_t most = (uint32_t)min64(limit, INT32_MAX); /* of index + 1 */
    int outside = 0;
#pragma omp simd reduction(| : outside)
    for (int64_t i = 0; i < n; i++) outside |= (uint32_t)index[i] + 1 > most;
    return outside;
}

/* Records the first index that is not in -1 .. limit-1. */
static bool check(const struct ad_call *c, int k, int64_t limit)
{
    int64_t n = ad_count(c->in[k].shape);
    if (c->in[k].dtype == AD_I32 && !any_outside(c->in[k].data, n, limit)) return true;
    for (int64_t i = 0; i < n; i++) {
        int64_t v = ad_get_int(&c->in[k], i);
        if (v >= -1 && v < limit) continue;
        ad_call_fail(c, "index %lld (number %lld) is not in -1 .. %lld", (long long)v, (long long)i,
                     (long long)limit - 1);
        return false;
    }
    return true;
}

static void check_gather(const struct ad_call *c, const void *job, int64_t first, int64_t last)
{
    check(c, 1, c->in[0].shape.dim[0]);
}

enum { LINE = 16, AHEAD = 2048 }; /* numbers: of a line, and asked for ahead */

/* n numbers, whole lines, past the caches; `later` is what will be wanted. */
SIMD_FN void stream_row(float *to, const float *from, const float *later, int64_t n)
{
    for (int64_t i = 0; i < n; i += LINE) {
        ask_l1(later + i);
        for (int k = 0; k < LINE; k += VL) vf_stream(to + i + k, vf_load(from + i + k));
    }
}
SIMD_FN void stream_zeros(float *to, int64_t n)
{
    for (int64_t i = 0; i < n; i += VL) vf_stream(to + i, vf_set(0));
}

/* Rows are copied as they are, `width` numbers of four bytes each; the lines of rows to come, which lie anywhere, are asked
 * for. */
static void gather_streaming(const struct ad_call *c, int64_t width, int64_t first, int64_t last)
{
    int64_t ahead = AHEAD / width + 1;
    const float *table = c->in[0].data;
    float *y = c->out[0].data;
    for (int64_t i = first; i < last; i++) {
        int64_t r = ad_get_int(&c->in[1], i), later = ad_get_int(&c->in[1], min64(i + ahead, last - 1));
        if (r < 0)
            stream_zeros(y + i * width, width);
        else
            stream_row(y + i * width, table + r * width, table + (later < 0 ? r : later) * width, width);
    }
    stream_end();
}

static void run_gather(const struct ad_call *c, const void *job, int64_t first, int64_t last)
{
    int64_t width = width_of(c->in[0].shape, 1), n = ad_count(c->in[1].shape), size = size_as(c->out[0].dtype);
    const struct ad_tensor *table = &c->in[0], *y = &c->out[0];
    bool failed = ad_call_failed(c), same = table->dtype == y->dtype;
    if (same && !failed && stream_pays(y->data, width * size % 4 ? 1 : width * size / 4, n * width * size / 4)) {
        gather_streaming(c, width * size / 4, first, last);
        return;
    }
    for (int64_t i = first; i < last; i++) {
        int64_t r = ad_get_int(&c->in[1], i);
        if (r < 0 || failed)
            clear_row(y, i * width, width);
        else if (same)
            memcpy(at_as(y->dtype, y->data, i * width), at_as(y->dtype, table->data, r * width),
                   (size_t)(width * size));
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

/* Two ways. Sorted: the places of the index are sorted by row, by one thread; then rows are taken in blocks, each summed in
 * registers and written once. The few rows which are named so often that the thread that has them would be the last one at
 * work are taken in stripes of columns. Added: where sorting would cost more than it gives, the result is zeroed and rows
 * are added where they belong, in stripes of columns. Either way a number is summed in the order of the index, from 0 on. */
enum {
    STRIPE = 64, /* columns in registers */
    MOST_OFTEN = 16,
    OFTEN = 256,
    BLOCK = 1 << 15 /* numbers of a block */
};

struct scatter {
    int64_t rows, width, n, blocks, rows_of_block, stripes;
    int64_t often; /* a row that is named more than this is taken in stripes: fewer than MOST_OFTEN are */
    bool stream;
    /* In scratch: begin[r] .. begin[r+1]-1 of `order` are the places of index r, in their order; rows named often; how many. */
    int32_t *begin, *order, *row_often, *n_often;
};
_Static_assert(sizeof(struct scatter) <= AD_JOB_BYTES, "a job lies in struct ad_parts");

/* What is kept in 16 bits can only be written once. */
static bool is_sorted(const struct ad_call *c)
{
    int64_t rows = c->out[0].shape.dim[0], width = width_of(c->out[0].shape, 1), n = ad_count(c->in[1].shape);
    if (ad_is_half(c->out[0].dtype)) return true;
    return width >= STRIPE && n * width >= rows * 32 && n < INT32_MAX;
}

static size_t scatter_scratch(const struct ad_call *c)
{
    if (!is_sorted(c)) return 0;
    return (size_t)(c->out[0].shape.dim[0] + 2 + ad_count(c->in[1].shape) + MOST_OFTEN + 1) * sizeof(int32_t);
}

static struct scatter make_scatter(const struct ad_call *c)
{
    const struct ad_tensor *y = &c->out[0];
    struct scatter s = {.rows = y->shape.dim[0], .width = width_of(y->shape, 1), .n = ad_count(c->in[1].shape)};
    s.begin = c->scratch;
    s.order = s.begin + s.rows + 2;
    s.row_often = s.order + s.n;
    s.n_often = s.row_often + MOST_OFTEN;
    s.often = s.n / MOST_OFTEN > OFTEN ? s.n / MOST_OFTEN : OFTEN;
    s.stripes = (s.width + STRIPE - 1) / STRIPE;
    s.stream = y->dtype == AD_F32 && stream_pays(y->data, s.width, s.rows * s.width);
    int64_t few = s.rows / 64 + 1, some = s.width ? BLOCK / s.width + 1 : 1;
    s.rows_of_block = min64(few, some);
    s.blocks = (s.rows + s.rows_of_block - 1) / s.rows_of_block;
    return s;
}

SIMD_FN void sort_places_as(enum ad_dtype t, const struct ad_tensor *given, const struct scatter *s)
{
    int32_t *begin = s->begin;
    const struct ad_tensor index = {.data = given->data, .dtype = t};
    for (int64_t i = 0; i < s->n; i++) begin[ad_get_int(&index, i) + 2]++; /* -1: nowhere */
    begin[1] = 0;
    for (int64_t r = 0; r < s->rows; r++) {
        if (begin[r + 2] > s->often) s->row_often[(*s->n_often)++] = (int32_t)r;
        begin[r + 2] += begin[r + 1];
    }
    for (int64_t i = 0; i < s->n; i++) {
        int64_t r = ad_get_int(&index, i);
        if (r >= 0) s->order[begin[r + 1]++] = (int32_t)i;
    }
}

static void sort_places(const struct ad_tensor *index, const struct scatter *s)
{
    if (index->dtype == AD_I32)
        sort_places_as(AD_I32, index, s);
    else
        sort_places_as(index->dtype, index, s);
}

static void begin_sorted(const struct ad_call *c, const void *job, int64_t first, int64_t last)
{
    const struct scatter *s = job;
    memset(s->begin, 0, (size_t)(s->rows + 2) * sizeof *s->begin);
    *s->n_often = 0;
    if (check(c, 1, s->rows)) sort_places(&c->in[1], s);
}

/* sum = k numbers from column `at` on of row r; at most a STRIPE. */
SIMD_FN void sum_places(enum ad_dtype t, const struct scatter *s, const void *x, int64_t r, int64_t at, int64_t k,
                        float *sum)
{
    int64_t all = s->begin[s->rows], ahead = AHEAD / s->width + 1;
    vf y[STRIPE / VL] = {{0}};
    if (k < STRIPE) memset(sum, 0, STRIPE * sizeof *sum);
    for (int64_t i = s->begin[r]; i < s->begin[r + 1]; i++) {
        const char *later = at_as(t, x, s->order[min64(i + ahead, all - 1)] * s->width + at);
        for (int64_t b = 0; b < k * size_as(t); b += 64) ask_l1(later + b);
        int64_t from = s->order[i] * s->width + at;
        if (k < STRIPE)
            add_numbers(t, sum, at_as(t, x, from), k);
        else
#pragma GCC unroll 16
            for (int v = 0; v < STRIPE / VL; v++) y[v] += vf_load_as(t, x, from + v * VL);
    }
    if (k == STRIPE)
#pragma GCC unroll 16
        for (int v = 0; v < STRIPE / VL; v++) vf_store(sum + v * VL, y[v]);
}

/* Columns from .. to-1 of row r of the result. */
SIMD_FN void scatter_row(enum ad_dtype t, const struct ad_call *c, const struct scatter *s, int64_t r, int64_t from,
                         int64_t to)
{
    const struct ad_tensor *y = &c->out[0];
    for (; from < to; from += STRIPE) {
        float sum[STRIPE], *out = (float *)y->data + r * s->width + from;
        int64_t k = min64(STRIPE, to - from);
        sum_places(t, s, c->in[0].data, r, from, k, sum);
        if (s->stream)
            for (int64_t i = 0; i < k; i += VL) vf_stream(out + i, vf_load(sum + i));
        else if (y->dtype == AD_F32)
            vf_copy(out, sum, k);
        else
            vf_narrow(y->dtype, sum, at_as(y->dtype, y->data, r * s->width + from), k);
    }
}

/* The item: a stripe of the rows that are named often, or a block of rows. */
SIMD_FN void scatter_item(enum ad_dtype t, const struct ad_call *c, const struct scatter *s, int64_t item)
{
    if (item < s->stripes) {
        int64_t from = item * STRIPE;
        for (int32_t i = 0; i < *s->n_often; i++)
            scatter_row(t, c, s, s->row_often[i], from, min64(s->width, from + STRIPE));
        return;
    }
    int64_t first = (item - s->stripes) * s->rows_of_block, last = min64(s->rows, first + s->rows_of_block);
    for (int64_t r = first; r < last; r++) {
        int64_t named = s->begin[r + 1] - s->begin[r];
        if (named && named <= s->often)
            scatter_row(t, c, s, r, 0, s->width);
        else if (!named && s->stream)
            stream_zeros((float *)c->out[0].data + r * s->width, s->width);
        else if (!named)
            clear_row(&c->out[0], r * s->width, s->width);
    }
}

static void run_sorted(const struct ad_call *c, const void *job, int64_t first, int64_t last)
{
    const struct scatter *s = job;
    for (int64_t i = first; i < last; i++) BY_TYPE(c->in[0].dtype, scatter_item, c, s, i);
    if (s->stream) stream_end();
}

static void check_scatter(const struct ad_call *c, const void *job, int64_t first, int64_t last)
{
    check(c, 1, c->out[0].shape.dim[0]);
}

static void zero_scatter(const struct ad_call *c, const void *job, int64_t first, int64_t last)
{
    const struct scatter *s = job;
    int64_t from = first * BLOCK, n = min64(s->rows * s->width, last * BLOCK) - from;
    if (!s->stream) {
        clear_row(&c->out[0], from, n);
        return;
    }
    stream_zeros((float *)c->out[0].data + from, n);
    stream_end();
}

static void run_added(const struct ad_call *c, const void *job, int64_t first, int64_t last)
{
    const struct scatter *s = job;
    float *y = c->out[0].data;
    for (int64_t from = first * STRIPE; from < min64(s->width, last * STRIPE) && !ad_call_failed(c); from += STRIPE) {
        int64_t to = min64(s->width, from + STRIPE);
        for (int64_t i = 0; i < s->n; i++) {
            int64_t r = ad_get_int(&c->in[1], i);
            if (r >= 0) add_row(y + r * s->width + from, &c->in[0], i * s->width + from, to - from);
        }
    }
}

static void cut_scatter(const struct ad_call *c, int threads, struct ad_parts *p)
{
    struct scatter s = make_scatter(c);
    int64_t total = s.rows * s.width;
    memcpy(p->job, &s, sizeof s);
    if (is_sorted(c)) {
        p->n = 2;
        p->phase[0] = (struct ad_phase){.items = 1, .run = begin_sorted, .alone = true};
        p->phase[1] = (struct ad_phase){.items = s.stripes + s.blocks, .run = run_sorted, .dynamic = true};
        p->phase[1].alone = s.n * s.width + total <= PAR_MIN;
        return;
    }
    p->n = 3;
    p->phase[0] = (struct ad_phase){.items = 1, .run = check_scatter, .alone = true};
    p->phase[1] = (struct ad_phase){.items = (total + BLOCK - 1) / BLOCK, .run = zero_scatter};
    p->phase[1].alone = total <= 8 * PAR_MIN; /* a store each */
    p->phase[2] = (struct ad_phase){.items = s.stripes, .run = run_added, .alone = s.n * s.width <= PAR_MIN};
}

const struct ad_kernel ISA_FN(ad_kernels_index)[] = {
    {&ad_op_gather, AD_F32, NULL, NULL, NULL, "rows", 1, 1, cut_gather},
    {&ad_op_scatter_add, AD_F32, NULL, NULL, scatter_scratch, "sums of rows", 1, 1, cut_scatter},
    {0},
};
