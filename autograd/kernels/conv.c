/* Convolution as products whose one operand is never stored: patches.c writes the parts of it that the product
 * packs (implicit GEMM). Arithmetic is f32; tensors in 16 bits are widened while they are packed and rounded where the
 * product ends. conv2d_transpose is the same: the positions of x are split by their residue modulo the stride;
 * those of one residue read a dense window of y through the matching taps of the flipped kernel. conv2d_dw sums over
 * positions. Convolution by 1 x 1 without a stride is a plain product. Depthwise convolution is in depthwise.c and
 * depthwise_dw.c. */
#include "autograd/ops/conv.h"

#include <assert.h>
#include <string.h>

#include "autograd/kernels/gemm.h"
#include "autograd/kernels/patches.h"
#include "autograd/kernels/simd.h"
#include "autograd/kernels/winograd.h"
#include "base/isa.h"
#include "base/threads.h"

static int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
static int64_t max_of(int64_t a, int64_t b)
{
    return a > b ? a : b;
}
static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* ---- one product a group -------------------------------------------------------------------------------------------- */

/* The product of one group: everything of `gemm_args` but the source, which are patches unless the operand is plain. */
struct product {
    struct patches patches;
    bool by_column, plain;
    struct gemm_args g;
};

/* Pieces of rows go over the threads where there are several groups; and where C is long and narrow and its sums are taken
 * in several steps, so that a piece of C stays in the second-level cache from step to step. How many depends on sizes
 * only. */
enum { GROUP_ROWS = 256, GROUP_TASKS = 32, NEAR = 1 << 16, NEAR_ROWS = 192, STEP = 256 };

static int64_t piece_rows(const struct product *p, int64_t groups)
{
    const struct gemm_args *g = &p->g;
    if (groups > 1) return max_of(GROUP_ROWS, ceil_div(g->m * groups, GROUP_TASKS));
    int64_t rows = max_of(NEAR_ROWS, NEAR / max_of(1, g->n));
    return p->by_column || g->k <= STEP || g->n > STEP || g->m < 16 * rows ? g->m : rows;
}

/* Rows i0 .. i0+rows-1. `source` gives A and must stay; it follows p, whose patches it reads. */
static struct gemm_args part_of(const struct product *p, int64_t i0, int64_t rows, struct gemm_source *source)
{
    struct gemm_source whole = p->by_column ? patches_by_column(&p->patches) : patches_by_row(&p->patches);
    struct gemm_args g = p->g;
    *source = gemm_source_at(&whole, i0, 0);
    g.stream = gemm_streams(&p->g);
    g.source = p->plain ? NULL : source;
    if (p->plain) g.a = at_as(g.a_type, g.a, i0 * g.a_row);
    g.m = rows;
    g.c = at_as(g.c_type, g.c, i0 * g.c_row);
    return g;
}

typedef struct product (*product_fn)(const void *ctx, int64_t group);

/* The products of all groups as items: in pieces of rows, or where `together` one product as gemm.h cuts it. */
struct products {
    product_fn of;
    int64_t groups, rows, items[2];
    bool together;
    struct gemm_work work;
};

static struct products products_of(product_fn of, const void *ctx, int64_t groups, void *scratch, int threads)
{
    struct product first = of(ctx, 0);
    struct gemm_source source;
    struct products p = {.of = of, .groups = groups, .rows = piece_rows(&first, groups)};
    int64_t blocks = p.rows ? ceil_div(first.g.m, p.rows) : 0;
    p.together = groups == 1 && blocks <= 1;
    p.items[0] = groups * blocks;
    if (!p.together) return p;
    struct gemm_args g = part_of(&first, 0, first.g.m, &source);
    p.work = gemm_work_of(&g, scratch, threads);
    for (int i = 0; i < 2; i++) p.items[i] = p.work.items[i];
    return p;
}

static void do_item(const struct products *p, const void *ctx, int phase, int64_t item)
{
    struct gemm_source source;
    struct product one = p->of(ctx, p->together ? 0 : item % p->groups);
    if (p->together) {
        struct gemm_work w = p->work;
        w.g = part_of(&one, 0, one.g.m, &source);
        gemm_do(&w, phase, item);
        return;
    }
    int64_t i0 = item / p->groups * p->rows;
    struct gemm_args g = part_of(&one, i0, min_of(p->rows, one.g.m - i0), &source);
    gemm_block(&g);
}

static void run_products(product_fn of, const void *ctx, int64_t groups, void *scratch)
{
    struct products p = products_of(of, ctx, groups, scratch, threads_count());
#pragma omp parallel if (p.items[0] > 1)
    {
        gemm_enter_thread();
#pragma omp for schedule(dynamic)
        for (int64_t t = 0; t < p.items[0]; t++) do_item(&p, ctx, 0, t);
#pragma omp for schedule(static)
        for (int64_t t = 0; t < p.items[1]; t++) do_item(&p, ctx, 1, t);
    }
}

/* The same for a call that is products and no more. */
struct conv_job {
    struct conv_call k;
    struct products p;
};
static_assert(sizeof(struct conv_job) <= AD_JOB_BYTES, "a convolution's job");

static void do_first(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct conv_job *j = job;
    gemm_enter_thread();
    for (int64_t i = from; i < to; i++) do_item(&j->p, &j->k, 0, i);
}
static void do_second(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct conv_job *j = job;
    for (int64_t i = from; i < to; i++) do_item(&j->p, &j->k, 1, i);
}

static void cut_products(const struct ad_call *c, product_fn of, int threads, struct ad_parts *p)
{
    struct conv_job *j = (void *)p->job;
    j->k = conv_call_of(c);
    j->p = products_of(of, &j->k, j->k.d.groups, c->scratch, threads);
    p->n = j->p.items[1] ? 2 : 1;
    p->phase[0] = (struct ad_phase){.items = j->p.items[0], .run = do_first, .dynamic = true};
    p->phase[1] = (struct ad_phase){.items = j->p.items[1], .run = do_second};
}

/* ---- conv2d --------------------------------------------------------------------------------------------------------- */

static struct patches forward_patches(const struct conv_call *k, int64_t group)
{
    const struct conv_dims *d = &k->d;
    struct axis axis[2];
    for (int i = 0; i < 2; i++)
        axis[i] = (struct axis){d->h[i], d->out[i], d->stride[i], -d->pad[i], d->dilation[i], d->k[i]};
    return (struct patches){k->x->data, k->x->dtype, axis[0], axis[1], d->n, d->c, d->cg, group * d->cg};
}

static struct product forward_product(const void *ctx, int64_t group)
{
    const struct conv_call *k = ctx;
    const struct conv_dims *d = &k->d;
    struct product p = {.patches = forward_patches(k, group), .plain = conv_is_pointwise(d)};
    p.g = (struct gemm_args){.m = patches_positions(&p.patches),
                             .n = d->fg,
                             .k = patches_depth(&p.patches),
                             .a = k->x->data,
                             .a_row = d->c,
                             .a_col = 1,
                             .b = at_as(k->w->dtype, k->w->data, group * d->fg),
                             .b_row = d->f,
                             .b_col = 1,
                             .c = at_as(k->y->dtype, k->y->data, group * d->fg),
                             .c_row = d->f,
                             .a_type = k->x->dtype,
                             .b_type = k->w->dtype,
                             .c_type = k->y->dtype};
    if (k->panels) p.g.panels = (struct gemm_panels){.at = k->panels->data, .n = d->f};
    return p;
}

static void cut(const struct ad_call *c, int threads, struct ad_parts *p)
{
    cut_products(c, forward_product, threads, p);
}

/* ---- conv2d_transpose ----------------------------------------------------------------------------------------------- */

/* The taps that reach positions a, a + stride, ... of x along one axis: kernel rows first, first + every, ..., read in
 * falling order so that the rows of y rise. */
struct residue {
    struct axis axis;
    int64_t first, every;
};

static int64_t gcd(int64_t a, int64_t b)
{
    while (b) {
        int64_t r = a % b;
        a = b;
        b = r;
    }
    return a;
}

static struct residue residue_of(const struct conv_dims *d, int i, int64_t a)
{
    int64_t s = d->stride[i], common = gcd(s, d->dilation[i]), taps = 0, last = 0;
    struct residue r = {.every = s / common};
    while (r.first < r.every && (a + d->pad[i] - r.first * d->dilation[i]) % s != 0) r.first++;
    if (r.first < r.every && r.first < d->k[i]) taps = ceil_div(d->k[i] - r.first, r.every);
    if (taps) last = r.first + (taps - 1) * r.every;
    int64_t base = (a + d->pad[i] - last * d->dilation[i]) / s; /* exact where there are taps */
    int64_t grid = d->h[i] > a ? ceil_div(d->h[i] - a, s) : 0;
    r.axis = (struct axis){d->out[i], grid, 1, base, d->dilation[i] / common, taps};
    return r;
}

/* Positions a + i sh, b + j sw of x. */
struct class
{
    const struct conv_call *k;
    int64_t a, b;
    struct residue h, w;
    const float *weights; /* (groups, taps, fg, cg) */
    void *to;             /* (positions, c_row), of x's type */
    int64_t c_row, image; /* image >= 0: this one only */
};

/* One tap's (cg, fg), rows f apart, as (fg, cg). */
SIMD_FN void transpose(enum ad_dtype type, const void *restrict w, int64_t f, int64_t cg, int64_t fg,
                       float *restrict to)
{
    enum { SIDE = 16 };
    for (int64_t i = 0; i < fg; i += SIDE)
        for (int64_t j = 0; j < cg; j += SIDE)
            for (int64_t y = i; y < min_of(fg, i + SIDE); y++)
                for (int64_t x = j; x < min_of(cg, j + SIDE); x++) to[y * cg + x] = float_as(type, w, x * f + y);
}

/* w of one class as ((taps x fg), cg) for each group. */
static void pack_class(const struct class *s, float *to)
{
    const struct conv_dims *d = &s->k->d;
    const struct ad_tensor *w = s->k->w;
    int64_t taps = s->h.axis.taps * s->w.axis.taps, size = d->fg * d->cg;
#pragma omp parallel for schedule(static) if (d->groups * taps * size > PAR_MIN)
    for (int64_t i = 0; i < d->groups * taps; i++) {
        int64_t group = i / taps, t = i % taps;
        int64_t u = s->h.first + (s->h.axis.taps - 1 - t / s->w.axis.taps) * s->h.every;
        int64_t v = s->w.first + (s->w.axis.taps - 1 - t % s->w.axis.taps) * s->w.every;
        int64_t from = (u * d->k[1] + v) * d->cg * d->f + group * d->fg;
        BY_TYPE(w->dtype, transpose, at_as(w->dtype, w->data, from), d->f, d->cg, d->fg, to + i * size);
    }
}

static struct product class_product(const void *ctx, int64_t group)
{
    const struct class *s = ctx;
    const struct conv_dims *d = &s->k->d;
    const struct ad_tensor *y = s->k->y;
    enum ad_dtype x_type = s->k->x->dtype;
    struct product p = {.patches = {y->data, y->dtype, s->h.axis, s->w.axis, d->n, d->f, d->fg, group * d->fg}};
    if (s->image >= 0) {
        p.patches.src = at_as(y->dtype, y->data, s->image * d->out[0] * d->out[1] * d->f);
        p.patches.n = 1;
    }
    p.g = (struct gemm_args){.m = patches_positions(&p.patches),
                             .n = d->cg,
                             .k = patches_depth(&p.patches),
                             .b = s->weights + group * patches_depth(&p.patches) * d->cg,
                             .b_row = d->cg,
                             .b_col = 1,
                             .c = at_as(x_type, s->to, group * d->cg),
                             .c_row = s->c_row,
                             .c_type = x_type};
    return p;
}

/* Rows `from` (positions of the class, c) to their places in x; zeros where from is NULL. */
static void scatter(const struct class *s, const void *from)
{
    const struct conv_dims *d = &s->k->d;
    const struct ad_tensor *to = s->k->x;
    int64_t grid_h = s->h.axis.grid, grid_w = s->w.axis.grid;
    size_t bytes = (size_t)(d->c * size_as(to->dtype));
#pragma omp parallel for schedule(static) if (d->n * grid_h * grid_w * d->c > PAR_MIN)
    for (int64_t r = 0; r < d->n * grid_h; r++) {
        int64_t row = r / grid_h * d->h[0] + s->a + r % grid_h * d->stride[0];
        char *x = at_as(to->dtype, to->data, (row * d->h[1] + s->b) * d->c);
        for (int64_t j = 0; j < grid_w; j++, x += (size_t)d->stride[1] * bytes) {
            if (from)
                memcpy(x, (const char *)from + (size_t)(r * grid_w + j) * bytes, bytes);
            else
                memset(x, 0, bytes);
        }
    }
}

/* Images of one row: the class's positions are one run with a step, and the product writes them where they belong. */
static bool writes_in_place(const struct conv_dims *d)
{
    return d->h[0] == 1;
}

static void run_class(struct class *s, void *room, void *scratch)
{
    const struct conv_dims *d = &s->k->d;
    const struct ad_tensor *x = s->k->x;
    bool unit = d->stride[0] * d->stride[1] == 1;
    s->image = -1;
    if (s->h.axis.taps * s->w.axis.taps == 0) {
        scatter(s, NULL);
    } else if (unit || (writes_in_place(d) && s->h.axis.grid == 1)) {
        s->c_row = d->stride[1] * d->c;
        for (int64_t n = 0; n < (unit ? 1 : d->n); n++) {
            s->image = unit ? -1 : n;
            s->to = unit ? x->data : at_as(x->dtype, x->data, (n * d->h[1] + s->b) * d->c);
            run_products(class_product, s, d->groups, scratch);
        }
    } else {
        s->c_row = d->c;
        s->to = room;
        run_products(class_product, s, d->groups, scratch);
        scatter(s, room);
    }
}

/* Where conv2d_transpose keeps the turned weights, a class's result, and the product's own. */
struct transpose_room {
    int64_t weights, result, product; /* floats, bytes, bytes */
};
static struct transpose_room transpose_room_of(const struct conv_call *k)
{
    const struct conv_dims *d = &k->d;
    struct transpose_room r = {whole_lines(ad_count(k->w->shape)), 0, 0};
    bool unit = d->stride[0] * d->stride[1] == 1;
    for (int64_t a = 0; a < d->stride[0]; a++)
        for (int64_t b = 0; b < d->stride[1]; b++) {
            struct residue h = residue_of(d, 0, a), w = residue_of(d, 1, b);
            int64_t n = d->n * h.axis.grid * w.axis.grid, taps = h.axis.taps * w.axis.taps;
            if (!unit && !writes_in_place(d)) r.result = max_of(r.result, size_as(k->x->dtype) * whole_lines(n * d->c));
            if (d->groups > 1) continue;
            int64_t bytes = (int64_t)gemm_scratch(n, d->cg, taps * d->fg), one = 0;
            if (writes_in_place(d)) one = (int64_t)gemm_scratch(n / max_of(1, d->n), d->cg, taps * d->fg);
            r.product = max_of(r.product, max_of(bytes, one));
        }
    return r;
}

/* 1 x 1: the weights are read across, and stay where they are. */
static struct product pointwise_product(const void *ctx, int64_t group)
{
    const struct conv_call *k = ctx;
    const struct conv_dims *d = &k->d;
    struct product p = {.plain = true,
                        .g = {.m = d->n * d->h[0] * d->h[1],
                              .n = d->c,
                              .k = d->f,
                              .a = k->y->data,
                              .a_row = d->f,
                              .a_col = 1,
                              .b = k->w->data,
                              .b_row = 1,
                              .b_col = d->f,
                              .c = k->x->data,
                              .c_row = d->c,
                              .a_type = k->y->dtype,
                              .b_type = k->w->dtype,
                              .c_type = k->x->dtype}};
    if (k->panels) p.g.panels = (struct gemm_panels){.at = k->panels->data, .n = d->c};
    return p;
}

static void cut_pointwise(const struct ad_call *c, int threads, struct ad_parts *p)
{
    cut_products(c, pointwise_product, threads, p);
}

static void run_transpose(const struct ad_call *c)
{
    struct conv_call k = conv_call_of(c);
    const struct conv_dims *d = &k.d;
    struct transpose_room r = transpose_room_of(&k);
    float *weights = c->scratch, *room = weights + r.weights;
    for (int64_t a = 0; a < d->stride[0]; a++)
        for (int64_t b = 0; b < d->stride[1]; b++) {
            struct class s = {.k = &k, .a = a, .b = b, .h = residue_of(d, 0, a), .w = residue_of(d, 1, b)};
            s.weights = weights;
            pack_class(&s, weights);
            run_class(&s, room, (char *)room + r.result);
            weights += d->groups * s.h.axis.taps * s.w.axis.taps * d->fg * d->cg;
        }
}

/* ---- conv2d_dw ------------------------------------------------------------------------------------------------------ */

static struct product dw_product(const void *ctx, int64_t group)
{
    const struct conv_call *k = ctx;
    const struct conv_dims *d = &k->d;
    struct product p = {.patches = forward_patches(k, group), .by_column = true, .plain = conv_is_pointwise(d)};
    p.g = (struct gemm_args){.m = patches_depth(&p.patches),
                             .n = d->fg,
                             .k = patches_positions(&p.patches),
                             .a = k->x->data,
                             .a_row = 1,
                             .a_col = d->c,
                             .b = at_as(k->y->dtype, k->y->data, group * d->fg),
                             .b_row = d->f,
                             .b_col = 1,
                             .c = at_as(k->w->dtype, k->w->data, group * d->fg),
                             .c_row = d->f,
                             .a_type = k->x->dtype,
                             .b_type = k->y->dtype,
                             .c_type = k->w->dtype};
    return p;
}

/* Few columns leave a product's vectors half empty; as rows they do not: then w is computed across, and turned. */
static bool is_narrow(const struct conv_dims *d)
{
    return conv_is_pointwise(d) && d->f <= 48 && d->c > d->f;
}

static struct product across_product(const struct conv_call *k)
{
    const struct conv_dims *d = &k->d;
    return (struct product){.plain = true,
                            .by_column = true,
                            .g = {.m = d->f,
                                  .n = d->c,
                                  .k = d->n * d->out[0] * d->out[1],
                                  .a = k->y->data,
                                  .a_row = 1,
                                  .a_col = d->f,
                                  .b = k->x->data,
                                  .b_row = d->c,
                                  .b_col = 1,
                                  .c_row = d->c,
                                  .a_type = k->y->dtype,
                                  .b_type = k->x->dtype}};
}

/* Floats: w across; and where w has 16 bits, turned but not yet rounded. */
static int64_t across_room(const struct conv_call *k)
{
    return whole_lines(k->d.c * k->d.f) * (ad_is_half(k->w->dtype) ? 2 : 1);
}

static void cut_dw(const struct ad_call *c, int threads, struct ad_parts *p)
{
    cut_products(c, dw_product, threads, p);
}

static void run_across(const struct ad_call *c)
{
    struct conv_call k = conv_call_of(c);
    const struct conv_dims *d = &k.d;
    int64_t size = d->c * d->f;
    float *across = c->scratch, *turned = ad_is_half(k.w->dtype) ? across + whole_lines(size) : k.w->data;
    struct product p = across_product(&k);
    p.g.c = across;
    gemm(&p.g, across + across_room(&k));
    transpose(AD_F32, across, d->c, d->f, d->c, turned);
    if (ad_is_half(k.w->dtype)) vf_narrow(k.w->dtype, turned, k.w->data, size);
}

/* ---- which ---------------------------------------------------------------------------------------------------------- */

static size_t scratch(const struct ad_call *c)
{
    struct conv_call k = conv_call_of(c);
    const struct conv_dims *d = &k.d;
    int64_t total = d->n * d->out[0] * d->out[1], taps = d->k[0] * d->k[1];
    if (c->op == &ad_op_conv2d_transpose && !conv_is_pointwise(d)) {
        struct transpose_room r = transpose_room_of(&k);
        return (size_t)r.weights * sizeof(float) + (size_t)(r.result + r.product);
    }
    if (d->groups > 1) return 0;
    if (c->op == &ad_op_conv2d) return gemm_scratch(total, d->f, taps * d->c);
    if (c->op == &ad_op_conv2d_transpose) return gemm_scratch(total, d->c, d->f);
    return gemm_scratch(taps * d->c, d->f, total) + (is_narrow(d) ? (size_t)across_room(&k) * sizeof(float) : 0);
}

static bool accepts(const struct ad_call *c)
{
    struct conv_dims d = conv_call_of(c).d;
    return d.cg >= 1 && d.fg >= 1;
}

static bool is_product(const struct ad_call *c)
{
    struct conv_dims d = conv_call_of(c).d;
    return accepts(c) && conv_is_pointwise(&d);
}

static bool goes_across(const struct ad_call *c)
{
    struct conv_dims d = conv_call_of(c).d;
    return accepts(c) && is_narrow(&d);
}

static bool by_tiles(const struct ad_call *c)
{
    struct conv_dims d = conv_call_of(c).d;
    return winograd_pays(&d);
}

const struct ad_kernel ISA_FN(ad_kernels_conv)[] = {
    {&ad_op_conv2d, AD_F32, by_tiles, winograd_run, winograd_scratch, "winograd", 3, 1},
    {&ad_op_conv2d_transpose, AD_F32, by_tiles, winograd_run, winograd_scratch, "winograd", 3, 1},
    {&ad_op_conv2d_dw, AD_F32, by_tiles, winograd_run, winograd_scratch, "winograd", 3, 1},
    {&ad_op_conv2d, AD_F32, accepts, NULL, scratch, "implicit", GEMM_HALF ? 7 : 0, GEMM_HALF, cut},
    {&ad_op_conv2d_transpose, AD_F32, is_product, NULL, scratch, "implicit", GEMM_HALF ? 7 : 0, GEMM_HALF,
     cut_pointwise},
    {&ad_op_conv2d_transpose, AD_F32, accepts, run_transpose, scratch, "implicit", GEMM_HALF ? 3 : 0, GEMM_HALF},
    {&ad_op_conv2d_dw, AD_F32, goes_across, run_across, scratch, "implicit", GEMM_HALF ? 3 : 0, GEMM_HALF},
    {&ad_op_conv2d_dw, AD_F32, accepts, NULL, scratch, "implicit", GEMM_HALF ? 3 : 0, GEMM_HALF, cut_dw},
    {0},
};
