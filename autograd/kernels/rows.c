/* Reductions: softmax, log_softmax, logsumexp over the last axis; sum, max, min over any axes of any strides.
 *
 * Sums run in single precision over short blocks, whose bounds follow from the sizes alone, and in double over the
 * blocks in order: close to a double sum, and the same for every number of threads. */
#include <math.h>
#include <stdlib.h>

#include "autograd/kernels/rows.h"
#include "autograd/op.h"
#include "autograd/ops/reduce.h"
#include "base/isa.h"
#include "base/threads.h"

extern const struct ad_op ad_op_softmax, ad_op_log_softmax, ad_op_logsumexp, ad_op_sum, ad_op_sum_products, ad_op_max,
    ad_op_min;

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* ---- softmax and its like: row by row --------------------------------------------------------------------------- */

/* row_most of n numbers from element `at` on. */
SIMD_FN float most_from(const struct ad_tensor *x, int64_t at, int64_t n, float sign, bool nan)
{
    if (x->dtype == AD_F32) return row_most((const float *)x->data + at, n, sign, nan);
    float top = -INFINITY, wide[ROW_BLOCK];
    for (int64_t i = 0; i < n; i += ROW_BLOCK) {
        int64_t m = min64(ROW_BLOCK, n - i);
        vf_widen(x->dtype, at_as(x->dtype, x->data, at + i), wide, m);
        float v = row_most(wide, m, sign, nan);
        if (v > top || isnan(v)) top = v;
    }
    return top;
}
static float max_from(const struct ad_tensor *x, int64_t at, int64_t n, float sign)
{
    return most_from(x, at, n, sign, true);
}
static float top_from(const struct ad_tensor *x, int64_t at, int64_t n)
{
    return most_from(x, at, n, 1, false);
}

/* row_exp of them. */
static double exp_from(const struct ad_tensor *x, int64_t at, float *y, int64_t n, float m)
{
    if (x->dtype == AD_F32) return row_exp((const float *)x->data + at, y, n, m);
    double sum = 0;
    for (int64_t i = 0; i < n; i += ROW_BLOCK) {
        float wide[ROW_BLOCK];
        int64_t k = min64(ROW_BLOCK, n - i);
        vf_widen(x->dtype, at_as(x->dtype, x->data, at + i), wide, k);
        sum += row_exp(wide, y ? y + i : NULL, k, m);
    }
    return sum;
}

/* Each takes the n numbers of a row from element `at` of x on. */
typedef void row_fn(const struct ad_tensor *x, int64_t at, float *y, int64_t n);

static void softmax_row(const struct ad_tensor *x, int64_t at, float *y, int64_t n)
{
    float r = (float)(1 / exp_from(x, at, y, n, top_from(x, at, n)));
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] *= r;
}

static void log_softmax_row(const struct ad_tensor *x, int64_t at, float *y, int64_t n)
{
    float m = top_from(x, at, n), l = (float)log(exp_from(x, at, NULL, n, m));
    const float *from = x->dtype == AD_F32 ? (const float *)x->data + at : y;
    if (from == y) vf_widen(x->dtype, at_as(x->dtype, x->data, at), y, n);
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] = from[i] - m - l;
}

static void logsumexp_row(const struct ad_tensor *x, int64_t at, float *y, int64_t n)
{
    float m = top_from(x, at, n), base = isinf(m) ? 0 : m;
    *y = (float)(base + log(exp_from(x, at, NULL, n, base)));
}

static int64_t last_axis(const struct ad_call *c)
{
    return c->in[0].shape.dim[c->in[0].shape.rank - 1];
}

static void each_row(const struct ad_call *c, row_fn *row, int64_t out_width, int64_t from, int64_t to)
{
    int64_t width = last_axis(c);
    float *y = c->out[0].data;
    for (int64_t i = from; i < to; i++) row(&c->in[0], i * width, y + i * out_width, width);
}

static void run_softmax(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    each_row(c, softmax_row, last_axis(c), from, to);
}
static void run_log_softmax(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    each_row(c, log_softmax_row, last_axis(c), from, to);
}
static void run_logsumexp(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    each_row(c, logsumexp_row, 1, from, to);
}

static void cut_rows(const struct ad_call *c, struct ad_parts *p,
                     void (*run)(const struct ad_call *c, const void *job, int64_t from, int64_t to))
{
    int64_t width = last_axis(c), n = ad_count(c->in[0].shape) / width;
    p->n = 1;
    p->phase[0] = (struct ad_phase){.items = n, .run = run, .alone = n * width * 8 <= PAR_MIN};
}
static void cut_softmax(const struct ad_call *c, int threads, struct ad_parts *p)
{
    cut_rows(c, p, run_softmax);
}
static void cut_log_softmax(const struct ad_call *c, int threads, struct ad_parts *p)
{
    cut_rows(c, p, run_log_softmax);
}
static void cut_logsumexp(const struct ad_call *c, int threads, struct ad_parts *p)
{
    cut_rows(c, p, run_logsumexp);
}
static bool is_last(const struct ad_call *c)
{
    return ((const struct ad_axis_attr *)c->attr)->axis == c->in[0].shape.rank - 1;
}

/* ---- any axes ---------------------------------------------------------------------------------------------------- */

struct axis {
    int64_t n, stride, out; /* out: the stride in the output, kept axes only */
};

/* The loops of a reduction: axes of size 1 are gone, neighbours merged, the rest by falling stride; a broadcast axis
 * that is summed is a factor. */
struct loops {
    struct axis kept[AD_MAX_DIMS], summed[AD_MAX_DIMS];
    int n_kept, n_summed;
    int64_t n_out, n_in; /* outputs; numbers that make one */
    double factor;
};

static void insert(struct axis *list, int *n, struct axis a)
{
    int i = (*n)++;
    for (; i > 0 && llabs(list[i - 1].stride) < llabs(a.stride); i--) list[i] = list[i - 1];
    list[i] = a;
    for (i = 0; i + 1 < *n; i++) {
        if (list[i].stride != list[i + 1].stride * list[i + 1].n || list[i].out != list[i + 1].out * list[i + 1].n)
            continue;
        list[i] = (struct axis){list[i].n * list[i + 1].n, list[i + 1].stride, list[i + 1].out};
        memmove(list + i + 1, list + i + 2, (size_t)(*n - i - 2) * sizeof *list);
        (*n)--;
        i = -1;
    }
}

static struct loops make_loops(const struct ad_call *c, bool sum)
{
    struct loops l = {.n_out = 1, .n_in = 1, .factor = 1};
    uint32_t axes = ((const struct ad_reduce_attr *)c->attr)->axes;
    const struct ad_tensor *in = &c->in[0];
    for (int d = in->shape.rank - 1; d >= 0; d--) {
        int64_t n = in->shape.dim[d];
        if (n == 1) continue;
        if (!(axes >> d & 1)) {
            insert(l.kept, &l.n_kept, (struct axis){n, in->stride[d], l.n_out});
            l.n_out *= n;
        } else if (sum && in->stride[d] == 0) {
            l.factor *= (double)n;
        } else {
            insert(l.summed, &l.n_summed, (struct axis){n, in->stride[d], 0});
            l.n_in *= n;
        }
    }
    return l;
}

/* Where the i-th index tuple of the axes lies in the input; *out: in the output. */
static int64_t offset_of(const struct axis *a, int n, int64_t i, int64_t *out)
{
    int64_t o = 0, to = 0;
    for (int d = n - 1; d >= 0; d--) {
        o += i % a[d].n * a[d].stride;
        to += i % a[d].n * a[d].out;
        i /= a[d].n;
    }
    if (out) *out = to;
    return o;
}

/* How the work is cut. ROWS: the inner summed axis is contiguous. COLUMNS: the inner kept axis is. OTHER: neither. */
enum way { ROWS, COLUMNS, OTHER };

static enum way way_of(const struct loops *l)
{
    int64_t s = l->n_summed ? llabs(l->summed[l->n_summed - 1].stride) : INT64_MAX;
    int64_t k = l->n_kept ? llabs(l->kept[l->n_kept - 1].stride) : INT64_MAX;
    if (s == 1 && l->summed[l->n_summed - 1].stride == 1) return ROWS;
    return k == 1 && l->kept[l->n_kept - 1].stride == 1 && l->n_summed ? COLUMNS : OTHER;
}

/* ROWS: numbers of one block. COLUMNS: rows of one block, numbers of a row up to which four go at once, bytes that are asked
 * for ahead. */
enum { UNIT = 16384, STRIP = 128, SHORT = 64, AHEAD = 1024 };

/* ROWS: the inner axis in pieces of at most UNIT; a block is as many pieces as make about UNIT. */
struct pieces {
    int64_t length, per_row, n, per_block, blocks;
};

static struct pieces make_pieces(const struct loops *l)
{
    struct pieces p = {.length = l->summed[l->n_summed - 1].n};
    p.per_row = (p.length + UNIT - 1) / UNIT;
    if (p.length > UNIT) p.length = UNIT;
    p.n = l->n_in / l->summed[l->n_summed - 1].n * p.per_row;
    p.per_block = UNIT / p.length;
    p.blocks = (p.n + p.per_block - 1) / p.per_block;
    return p;
}

static size_t sum_scratch(const struct ad_call *c)
{
    struct loops l = make_loops(c, true);
    if (!l.n_in || !l.n_out) return 0;
    enum way w = way_of(&l);
    if (w == ROWS) return (size_t)(l.n_out * make_pieces(&l).blocks) * sizeof(double);
    return w == COLUMNS ? (size_t)(l.n_out * ((l.n_in + STRIP - 1) / STRIP)) * sizeof(float) : 0;
}

/* row_sum of n numbers from element `at` on. */
static double row_sum_as(const struct ad_tensor *x, int64_t at, int64_t n)
{
    if (x->dtype == AD_F32) return row_sum((const float *)x->data + at, n);
    double sum = 0;
    for (int64_t i = 0; i < n; i += ROW_BLOCK) {
        float wide[ROW_BLOCK];
        int64_t m = min64(ROW_BLOCK, n - i);
        vf_widen(x->dtype, at_as(x->dtype, x->data, at + i), wide, m);
        sum += row_sum(wide, m);
    }
    return sum;
}

/* What a phase knows of the call. */
struct job {
    struct loops loops;
    struct pieces pieces;   /* ROWS */
    int64_t blocks;         /* COLUMNS: of rows */
    int64_t across, stripe; /* COLUMNS: pieces of a row where there are few blocks, and their numbers */
};
_Static_assert(sizeof(struct job) <= AD_JOB_BYTES, "a job lies in struct ad_parts");

static void sum_row_blocks(const struct ad_call *c, const void *job, int64_t first, int64_t last)
{
    const struct loops *l = &((const struct job *)job)->loops;
    struct pieces p = ((const struct job *)job)->pieces;
    int64_t whole = l->summed[l->n_summed - 1].n;
    double *part = c->scratch;
    for (int64_t t = first; t < last; t++) {
        int64_t base = offset_of(l->kept, l->n_kept, t / p.blocks, NULL), begin = t % p.blocks * p.per_block;
        double sum = 0;
        for (int64_t i = begin; i < min64(p.n, begin + p.per_block); i++) {
            int64_t from = i % p.per_row * p.length;
            sum += row_sum_as(&c->in[0], base + offset_of(l->summed, l->n_summed - 1, i / p.per_row, NULL) + from,
                              min64(p.length, whole - from));
        }
        part[t] = sum;
    }
}

static void join_row_blocks(const struct ad_call *c, const void *job, int64_t first, int64_t last)
{
    const struct loops *l = &((const struct job *)job)->loops;
    int64_t blocks = ((const struct job *)job)->pieces.blocks;
    const double *part = c->scratch;
    float *y = c->out[0].data;
    for (int64_t i = first; i < last; i++) {
        double sum = 0;
        int64_t to;
        for (int64_t b = 0; b < blocks; b++) sum += part[i * blocks + b];
        offset_of(l->kept, l->n_kept, i, &to);
        y[to] = (float)(sum * l->factor);
    }
}

/* Adds n rows of `width` numbers, at most four, to acc. */
SIMD_FN void add_rows(enum ad_dtype t, float *restrict acc, const void *const *row, int n, int64_t width)
{
    int64_t j = 0;
    for (; j + VL <= width; j += VL) {
        vf sum = vf_load(acc + j);
        if (n == 1) ask_l1((const char *)at_as(t, row[0], j) + AHEAD);
        if (n == 4)
            sum += (vf_load_as(t, row[0], j) + vf_load_as(t, row[1], j)) +
                   (vf_load_as(t, row[2], j) + vf_load_as(t, row[3], j));
        else
            for (int i = 0; i < n; i++) sum += vf_load_as(t, row[i], j);
        vf_store(acc + j, sum);
    }
    for (; j < width; j++) {
        if (n == 4)
            acc[j] +=
                (float_as(t, row[0], j) + float_as(t, row[1], j)) + (float_as(t, row[2], j) + float_as(t, row[3], j));
        else
            for (int i = 0; i < n; i++) acc[j] += float_as(t, row[i], j);
    }
}

/* Adds the products of two rows, of types t and u. */
SIMD_FN void add_products_of(enum ad_dtype u, enum ad_dtype t, float *restrict acc, const void *a, const void *b,
                             int64_t width)
{
    int64_t j = 0;
    for (; j + VL <= width; j += VL) {
        ask_l1((const char *)at_as(t, a, j) + AHEAD);
        ask_l1((const char *)at_as(u, b, j) + AHEAD);
        vf_store(acc + j, vf_load(acc + j) + vf_load_as(t, a, j) * vf_load_as(u, b, j));
    }
    for (; j < width; j++) acc[j] += float_as(t, a, j) * float_as(u, b, j);
}
SIMD_FN void add_products(enum ad_dtype t, enum ad_dtype u, float *acc, const void *a, const void *b, int64_t width)
{
    BY_TYPE(u, add_products_of, t, acc, a, b, width);
}

static void sum_column_blocks(const struct ad_call *c, const void *job, int64_t first, int64_t last)
{
    const struct job *s = job;
    const struct loops *l = &s->loops;
    int64_t width = l->kept[l->n_kept - 1].n, blocks = s->blocks;
    const struct ad_tensor *x = &c->in[0];
    for (int64_t item = first; item < last; item++) {
        int64_t t = item / s->across, j = item % s->across * s->stripe, n_j = min64(s->stripe, width - j);
        float *part = (float *)c->scratch + t * width + j; /* of (outer, blocks, width) */
        int64_t base = offset_of(l->kept, l->n_kept - 1, t / blocks, NULL) + j, from = t % blocks * STRIP;
        int64_t to = min64(l->n_in, from + STRIP);
        memset(part, 0, (size_t)n_j * sizeof *part);
        /* several streams at once are read at half the speed of one */
        int64_t each = width > SHORT || c->n_in > 1 ? 1 : 4;
        for (int64_t i = from; i < to; i += each) {
            const void *row[4];
            int n = (int)min64(each, to - i);
            for (int k = 0; k < n; k++)
                row[k] = at_as(x->dtype, x->data, base + offset_of(l->summed, l->n_summed, i + k, NULL));
            if (c->n_in > 1) {
                const struct ad_tensor *y = &c->in[1];
                int64_t at = base + offset_of(l->summed, l->n_summed, i, NULL);
                BY_TYPE(x->dtype, add_products, y->dtype, part, row[0], at_as(y->dtype, y->data, at), n_j);
            } else {
                BY_TYPE(x->dtype, add_rows, part, row, n, n_j);
            }
        }
    }
}

static void join_column_blocks(const struct ad_call *c, const void *job, int64_t first, int64_t last)
{
    const struct loops *l = &((const struct job *)job)->loops;
    int64_t width = l->kept[l->n_kept - 1].n, blocks = ((const struct job *)job)->blocks;
    const float *part = c->scratch;
    float *y = c->out[0].data;
    for (int64_t i = first; i < last; i++) {
        double sum = 0;
        int64_t to;
        for (int64_t b = 0; b < blocks; b++) sum += part[(i / width * blocks + b) * width + i % width];
        offset_of(l->kept, l->n_kept, i, &to);
        y[to] = (float)(sum * l->factor);
    }
}

/* No axis is contiguous: element by element, an item an output. */
static void sum_other(const struct ad_call *c, const void *job, int64_t first, int64_t last)
{
    const struct loops *l = &((const struct job *)job)->loops;
    const struct ad_tensor *x = &c->in[0];
    float *y = c->out[0].data;
    for (int64_t i = first; i < last; i++) {
        int64_t to, base = offset_of(l->kept, l->n_kept, i, &to);
        double sum = 0;
        for (int64_t k = 0; k < l->n_in; k++)
            sum += (double)float_as(x->dtype, x->data, base + offset_of(l->summed, l->n_summed, k, NULL));
        y[to] = (float)(sum * l->factor);
    }
}

static void sum_nothing(const struct ad_call *c, const void *job, int64_t first, int64_t last)
{
    memset(c->out[0].data, 0, (size_t)((const struct job *)job)->loops.n_out * sizeof(float));
}

static void cut_sum(const struct ad_call *c, int threads, struct ad_parts *p)
{
    struct job *j = (void *)p->job;
    struct loops *l = &j->loops;
    *l = make_loops(c, true);
    if (!l->n_out) return;
    bool alone = l->n_in * l->n_out <= PAR_MIN;
    enum way w = way_of(l);
    p->n = w == OTHER || !l->n_in ? 1 : 2;
    if (!l->n_in) {
        p->phase[0] = (struct ad_phase){.items = 1, .run = sum_nothing, .alone = true};
    } else if (w == ROWS) {
        j->pieces = make_pieces(l);
        int64_t tasks = l->n_out * j->pieces.blocks;
        p->phase[0] = (struct ad_phase){.items = tasks, .run = sum_row_blocks, .alone = alone};
        p->phase[1] = (struct ad_phase){.items = l->n_out, .run = join_row_blocks, .alone = tasks <= PAR_MIN};
    } else if (w == COLUMNS) {
        j->blocks = (l->n_in + STRIP - 1) / STRIP;
        int64_t width = l->kept[l->n_kept - 1].n, tasks = l->n_out / width * j->blocks;
        j->stripe = ad_stripe(width, tasks, alone ? 1 : threads);
        j->across = (width + j->stripe - 1) / j->stripe;
        p->phase[0] = (struct ad_phase){.items = tasks * j->across, .run = sum_column_blocks, .alone = alone};
        alone = j->blocks * l->n_out * 4 <= PAR_MIN; /* they lie far apart */
        p->phase[1] = (struct ad_phase){.items = l->n_out, .run = join_column_blocks, .alone = alone};
    } else {
        p->phase[0] = (struct ad_phase){.items = l->n_out, .run = sum_other, .alone = alone};
    }
}

static bool by_columns(const struct ad_call *c)
{
    struct loops l = make_loops(c, true);
    return l.n_out && l.n_in && way_of(&l) == COLUMNS;
}

/* max and min: an item an output; the inner axis by vectors where it is contiguous. */
static void run_extreme(const struct ad_call *c, const void *job, int64_t first, int64_t last)
{
    const struct loops *l = &((const struct job *)job)->loops;
    float sign = c->op == &ad_op_max ? 1 : -1;
    const struct ad_tensor *x = &c->in[0];
    float *y = c->out[0].data;
    bool rows = l->n_summed && l->summed[l->n_summed - 1].stride == 1;
    int64_t inner = rows ? l->summed[l->n_summed - 1].n : 1, outer = inner ? l->n_in / inner : 0;
    for (int64_t i = first; i < last; i++) {
        int64_t to, base = offset_of(l->kept, l->n_kept, i, &to);
        float top = -INFINITY;
        for (int64_t k = 0; k < outer; k++) {
            int64_t at = base + offset_of(l->summed, l->n_summed - rows, k, NULL);
            float v = rows ? max_from(x, at, inner, sign) : sign * float_as(x->dtype, x->data, at);
            if (v > top || isnan(v)) top = v;
        }
        y[to] = sign * top;
    }
}

static void cut_extreme(const struct ad_call *c, int threads, struct ad_parts *p)
{
    struct job *j = (void *)p->job;
    j->loops = make_loops(c, false);
    p->n = 1;
    p->phase[0] = (struct ad_phase){
        .items = j->loops.n_out, .run = run_extreme, .alone = j->loops.n_in * j->loops.n_out <= PAR_MIN};
}

const struct ad_kernel ISA_FN(ad_kernels_rows)[] = {
    {.op = &ad_op_softmax, .dtype = AD_F32, .cut = cut_softmax, .name = "rows", .half_in = 1},
    {.op = &ad_op_log_softmax, .dtype = AD_F32, .cut = cut_log_softmax, .name = "rows", .half_in = 1},
    {.op = &ad_op_logsumexp, .dtype = AD_F32, .accepts = is_last, .cut = cut_logsumexp, .name = "rows", .half_in = 1},
    {.op = &ad_op_sum, .dtype = AD_F32, .cut = cut_sum, .scratch = sum_scratch, .name = "rows", .half_in = 1},
    {.op = &ad_op_sum_products,
     .dtype = AD_F32,
     .accepts = by_columns,
     .cut = cut_sum,
     .scratch = sum_scratch,
     .name = "rows",
     .half_in = 3},
    {.op = &ad_op_max, .dtype = AD_F32, .cut = cut_extreme, .name = "rows", .half_in = 1},
    {.op = &ad_op_min, .dtype = AD_F32, .cut = cut_extreme, .name = "rows", .half_in = 1},
    {0},
};
