/* Convolution as products whose one operand is never stored: patches.c writes the parts of it that the product
 * packs (implicit GEMM). Arithmetic is f32; tensors in 16 bits are widened while they are packed and rounded where the
 * product ends. conv2d_transpose is the same (conv_transpose.c). conv2d_dw sums over positions. Convolution by 1 x 1 without a stride is a plain product. Depthwise convolution is in depthwise.c and
 * depthwise_dw.c. */
#include "autograd/ops/conv.h"

#include <assert.h>
#include <string.h>

#include "autograd/kernels/conv_products.h"
#include "autograd/kernels/simd.h"
#include "base/threads.h"
#include "autograd/kernels/winograd.h"
#include "base/isa.h"

/* A call that is products and no more. */
struct conv_job {
    struct conv_call k;
    struct products p;
};
static_assert(sizeof(struct conv_job) <= AD_JOB_BYTES, "a convolution's job");

static void do_first(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct conv_job *j = job;
    gemm_enter_thread();
    for (int64_t i = from; i < to; i++) conv_do_item(&j->p, &j->k, 0, i);
}
static void do_second(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct conv_job *j = job;
    for (int64_t i = from; i < to; i++) conv_do_item(&j->p, &j->k, 1, i);
}

static void cut_products(const struct ad_call *c, product_fn of, int threads, struct ad_parts *p)
{
    struct conv_job *j = (void *)p->job;
    j->k = conv_call_of(c);
    j->p = conv_products_of(of, &j->k, j->k.d.groups, c->scratch, threads);
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
/* ---- conv2d_transpose by 1 x 1 --------------------------------------------------------------------------------------- */

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

struct across_job {
    struct conv_call k;
    struct gemm_work work;
    float *across, *turned;
};
_Static_assert(sizeof(struct across_job) <= AD_JOB_BYTES, "a job lies in struct ad_parts");

static void do_across(const struct across_job *j, int phase, int64_t from, int64_t to)
{
    gemm_enter_thread();
    for (int64_t i = from; i < to; i++) gemm_do(&j->work, phase, i);
}
static void across_first(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    do_across(job, 0, from, to);
}
static void across_second(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    do_across(job, 1, from, to);
}

enum { TURN = 64 }; /* rows of w that are turned together */
static void turn(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct across_job *j = job;
    const struct conv_dims *d = &j->k.d;
    const struct ad_tensor *w = j->k.w;
    int64_t first = from * TURN, n = min_of(to * TURN, d->c) - first;
    conv_turn(AD_F32, j->across + first, d->c, d->f, n, j->turned + first * d->f);
    if (ad_is_half(w->dtype))
        vf_narrow(w->dtype, j->turned + first * d->f, at_as(w->dtype, w->data, first * d->f), n * d->f);
}

static void cut_across(const struct ad_call *c, int threads, struct ad_parts *p)
{
    struct across_job *j = (void *)p->job;
    j->k = conv_call_of(c);
    int64_t size = j->k.d.c * j->k.d.f;
    j->across = c->scratch;
    j->turned = ad_is_half(j->k.w->dtype) ? j->across + whole_lines(size) : j->k.w->data;
    struct product one = across_product(&j->k);
    one.g.c = j->across;
    j->work = gemm_work_of(&one.g, j->across + across_room(&j->k), threads);
    p->n = 3;
    p->phase[0] = (struct ad_phase){.items = j->work.items[0], .run = across_first, .dynamic = true};
    p->phase[1] = (struct ad_phase){.items = j->work.items[1], .run = across_second};
    p->phase[2] = (struct ad_phase){.items = ceil_div(j->k.d.c, TURN), .run = turn, .alone = size <= PAR_MIN};
}

/* ---- which ---------------------------------------------------------------------------------------------------------- */

static size_t scratch(const struct ad_call *c)
{
    struct conv_call k = conv_call_of(c);
    const struct conv_dims *d = &k.d;
    int64_t total = d->n * d->out[0] * d->out[1], taps = d->k[0] * d->k[1];
    if (c->op == &ad_op_conv2d_transpose && !conv_is_pointwise(d)) return conv_transpose_scratch(&k);
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
    {&ad_op_conv2d, AD_F32, by_tiles, NULL, winograd_scratch, "winograd", 3, 1, winograd_cut},
    {&ad_op_conv2d_transpose, AD_F32, by_tiles, NULL, winograd_scratch, "winograd", 3, 1, winograd_cut},
    {&ad_op_conv2d_dw, AD_F32, by_tiles, NULL, winograd_scratch, "winograd", 3, 1, winograd_cut},
    {&ad_op_conv2d, AD_F32, accepts, NULL, scratch, "implicit", GEMM_HALF ? 7 : 0, GEMM_HALF, cut},
    {&ad_op_conv2d_transpose, AD_F32, is_product, NULL, scratch, "implicit", GEMM_HALF ? 7 : 0, GEMM_HALF,
     cut_pointwise},
    {&ad_op_conv2d_transpose, AD_F32, accepts, NULL, scratch, "implicit", GEMM_HALF ? 3 : 0, GEMM_HALF,
     conv_cut_transpose},
    {&ad_op_conv2d_dw, AD_F32, goes_across, NULL, scratch, "implicit", GEMM_HALF ? 3 : 0, GEMM_HALF, cut_across},
    {&ad_op_conv2d_dw, AD_F32, accepts, NULL, scratch, "implicit", GEMM_HALF ? 3 : 0, GEMM_HALF, cut_dw},
    {0},
};
