/* The f32 kernels of convolution, pooling, resizing and the norms against the plain loops, on random odd sizes; same
 * bits for any number of threads; and convolution of tensors in 16 bits against convolution in f32, bit for bit. */
#include "tests/autograd/kernel_check.h"

#include "autograd/half_call.h"
#include "autograd/ops/batch_norm.h"
#include "autograd/ops/conv.h"
#include "autograd/ops/norm.h"
#include "autograd/ops/pool.h"
#include "autograd/ops/resample.h"
#include "base/threads.h"

/* ---- 16 bits ------------------------------------------------------------------------------------------------------- */

static uint16_t rounded(enum ad_dtype t, float x)
{
    return t == AD_BF16 ? bf16_from_float(x) : half_from_float_portable(x);
}

/* `from` rounded to t, in memory of just its size; and the f32 tensor of the numbers that are then in it. */
static struct ad_tensor narrowed(enum ad_dtype t, const struct ad_tensor *from, struct ad_tensor *wide)
{
    int64_t n = ad_count(from->shape);
    uint16_t *h = mem_alloc((size_t)n * sizeof *h);
    float *x = mem_alloc((size_t)(n + 1) * sizeof *x);
    for (int64_t i = 0; i < n; i++) {
        h[i] = rounded(t, ((const float *)from->data)[i]);
        x[i] = t == AD_BF16 ? bf16_to_float(h[i]) : half_to_float_portable(h[i]);
    }
    struct ad_tensor to = *from;
    to.dtype = t;
    to.data = h;
    *wide = *from;
    wide->data = x;
    return to;
}

/* One run by the kernel as a plan makes it, on `threads` threads, into `out`, which has a number of 0xff bytes behind it. */
static void run_typed(struct ad_call *c, int threads)
{
    const struct ad_kernel *k = ad_kernel_find(c->op, c);
    struct half_call *h = half_call_new(c, k->half_in, k->half_out);
    bool native = isa_now() != ISA_PLAIN || strcmp(k->name, "implicit") != 0;
    if (native && h) fail_msg("%s: kernel %s had a tensor converted for it", c->op->name, k->name);
    size_t bytes = k->scratch ? k->scratch(h ? half_call_seen(h) : c) : 0;
    if (h) bytes = half_call_scratch(h, bytes);
    c->scratch = bytes ? memset(aligned_alloc(64, (bytes + 63) / 64 * 64), 0xff, bytes) : NULL;
    omp_set_num_threads(threads);
    if (h)
        half_call_run(h, k, c);
    else
        ad_kernel_run(k, c);
    free(c->scratch);
    half_call_free(h);
}

/* The bits of `want`, rounded where the output has 16 of them. */
static void same_rounded(const struct ad_tensor *want, const struct ad_tensor *got, const char *what)
{
    int64_t n = ad_count(want->shape);
    for (int64_t i = 0; i < n; i++) {
        float x = ((const float *)want->data)[i];
        bool same = got->dtype == AD_F32 ? float_bits(x) == float_bits(((const float *)got->data)[i])
                                         : rounded(got->dtype, x) == ((const uint16_t *)got->data)[i];
        if (!same)
            fail_msg("%s: number %lld is %a, not %a rounded once to %s", what, (long long)i, ad_get(got, i), (double)x,
                     ad_dtype_name(got->dtype));
    }
    const unsigned char *behind = (const unsigned char *)got->data + n * (got->dtype == AD_F32 ? 4 : 2);
    if (behind[0] != 0xff || behind[1] != 0xff) fail_msg("%s: wrote behind its result", what);
}

/* Tensors of bit `mask` (0, 1: inputs, 2: output) in 16 bits of type t: every number is the one that the f32 kernel gives
 * on the widened inputs, rounded once. The order of sums is the same, so not a bit may differ. */
static void check_mask(const struct ad_op *op, const void *attr, const struct ad_tensor *in, enum ad_dtype t,
                       unsigned mask, const char *what)
{
    static const int threads[] = {1, 2, 3, 7};
    struct ad_tensor as[2], wide[2];
    char name[300];
    for (int i = 0; i < 2; i++) {
        as[i] = narrowed(t, &in[i], &wide[i]);
        if (mask >> i & 1) continue;
        free(as[i].data);
        memcpy(wide[i].data, in[i].data, (size_t)ad_count(in[i].shape) * sizeof(float));
        as[i] = wide[i];
    }
    struct check_run want = check_once(op, attr, wide, 2, true);
    int64_t bytes = (ad_count(want.out[0].shape) + 1) * 4;
    struct ad_tensor out = want.out[0];
    out.dtype = mask & 4 ? t : AD_F32;
    out.data = mem_alloc((size_t)bytes);
    struct ad_call c = {.in = as, .out = &out, .n_in = 2, .n_out = 1, .attr = attr, .op = op};
    for (int i = 0; i < 4; i++) {
        memset(out.data, 0xff, (size_t)bytes);
        run_typed(&c, threads[i]);
        snprintf(name, sizeof name, "%s, %s, tensors %u in %s, %d threads", op->name, what, mask, ad_dtype_name(t),
                 threads[i]);
        same_rounded(&want.out[0], &out, name);
    }
    for (int i = 0; i < 2; i++) {
        if (mask >> i & 1) free(as[i].data);
        free(wide[i].data);
    }
    free(out.data);
    check_free(&want);
}

static void check_16_bits(const struct ad_op *op, const void *attr, const struct ad_tensor *in, const char *what)
{
    for (enum ad_dtype t = AD_BF16; t <= AD_F16; t++) {
        check_mask(op, attr, in, t, 7, what);
        check_mask(op, attr, in, t, (unsigned)check_int(1, 6), what);
    }
}

/* ---- all three ops ------------------------------------------------------------------------------------------------- */

/* All three ops on one geometry: x (n, h, w, groups cg), kernel (kh, kw, cg, groups fg). */
struct geometry {
    int64_t n, size[2], kernel[2], groups, cg, fg;
    struct conv_attr a;
};

static int64_t out_size(const struct geometry *t, int i)
{
    int64_t room = t->size[i] + 2 * t->a.pad[i] - t->a.dilation[i] * (t->kernel[i] - 1) - 1;
    return room < 0 ? 0 : room / t->a.stride[i] + 1;
}

static void check(struct geometry t)
{
    char what[200];
    int64_t out[2] = {out_size(&t, 0), out_size(&t, 1)}, c = t.groups * t.cg, f = t.groups * t.fg;
    if (out[0] < 1 || out[1] < 1) return;
    snprintf(
        what, sizeof what,
        "n %lld, %lld x %lld, kernel %lld x %lld, stride %d %d, pad %d %d, dilation %d %d, groups %lld of %lld -> %lld",
        (long long)t.n, (long long)t.size[0], (long long)t.size[1], (long long)t.kernel[0], (long long)t.kernel[1],
        t.a.stride[0], t.a.stride[1], t.a.pad[0], t.a.pad[1], t.a.dilation[0], t.a.dilation[1], (long long)t.groups,
        (long long)t.cg, (long long)t.fg);
    struct ad_tensor x = check_tensor(SHAPE(t.n, t.size[0], t.size[1], c)),
                     y = check_tensor(SHAPE(t.n, out[0], out[1], f));
    struct ad_tensor w = check_tensor(SHAPE(t.kernel[0], t.kernel[1], t.cg, f));
    struct conv_attr a = t.a, back = t.a, dw = t.a;
    for (int i = 0; i < 2; i++) {
        dw.kernel[i] = (int32_t)t.kernel[i];
        back.out_pad[i] =
            (int32_t)(t.size[i] + 2 * a.pad[i] - a.dilation[i] * (t.kernel[i] - 1) - 1 - (out[i] - 1) * a.stride[i]);
    }
    int64_t taps = t.kernel[0] * t.kernel[1];
    check_products(&ad_op_conv2d, &a, (struct ad_tensor[]){x, w}, 2, taps * t.cg, what);
    check_products(&ad_op_conv2d_transpose, &back, (struct ad_tensor[]){y, w}, 2, taps * t.fg, what);
    check_products(&ad_op_conv2d_dw, &dw, (struct ad_tensor[]){x, y}, 2, t.n * out[0] * out[1], what);
    check_16_bits(&ad_op_conv2d, &a, (struct ad_tensor[]){x, w}, what);
    check_16_bits(&ad_op_conv2d_transpose, &back, (struct ad_tensor[]){y, w}, what);
    check_16_bits(&ad_op_conv2d_dw, &dw, (struct ad_tensor[]){x, y}, what);
    free(x.data);
    free(y.data);
    free(w.data);
}

static struct conv_attr random_attr(int64_t groups)
{
    struct conv_attr a = {.groups = (int32_t)groups};
    for (int i = 0; i < 2; i++) {
        a.stride[i] = (int32_t)check_int(1, 4);
        a.pad[i] = (int32_t)check_int(0, 3);
        a.dilation[i] = (int32_t)check_int(1, 3);
    }
    return a;
}

static void test_random(void **state)
{
    for (int i = 0; i < 150; i++) {
        int64_t groups = i % 3 ? 1 : check_int(2, 3);
        check((struct geometry){check_int(1, 3),
                                {check_int(1, 11), check_int(1, 11)},
                                {check_int(1, 4), check_int(1, 4)},
                                groups,
                                check_int(1, 9),
                                check_int(1, 9),
                                random_attr(groups)});
    }
}

/* Channels around the widths of vectors and panels. */
static void test_channels(void **state)
{
    static const int64_t channels[] = {1, 3, 5, 8, 16, 17, 32, 33, 48};
    for (int i = 0; i < 60; i++) {
        int64_t groups = i % 4 ? 1 : check_int(2, 5), kernel = check_int(1, 3);
        check((struct geometry){check_int(1, 2),
                                {check_int(1, 9), check_int(3, 20)},
                                {i % 3 ? kernel : 1, kernel},
                                groups,
                                channels[check_int(0, 8)],
                                channels[check_int(0, 8)],
                                random_attr(groups)});
    }
}

static void test_depthwise(void **state)
{
    const int64_t channels[] = {1, 3, 8, 16, 31, 32, 41, 67, 144};
    for (int i = 0; i < 60; i++) {
        int64_t c = channels[i % 9];
        check((struct geometry){check_int(1, 3),
                                {check_int(1, 12), check_int(1, 12)},
                                {check_int(1, 5), check_int(1, 5)},
                                c,
                                1,
                                1,
                                random_attr((int32_t)c)});
    }
}

/* The kernels of tiles: 3 and 5 wide, steps of 1 and 2, on images from narrower than a tile to several wide. */
static void test_depthwise_tiles(void **state)
{
    static const int64_t widths[] = {1, 2, 4, 7, 8, 13, 16, 19, 30, 33};
    for (int i = 0; i < 160; i++) {
        struct geometry t = {.n = check_int(1, 2), .groups = check_int(1, 50), .cg = 1, .fg = 1};
        t.kernel[0] = i % 5 ? (i & 1 ? 3 : 5) : check_int(1, 6);
        t.kernel[1] = i & 1 ? 3 : 5;
        t.a = (struct conv_attr){
            .stride = {1 + i / 2 % 2, 1 + i / 2 % 2}, .dilation = {1, 1}, .groups = (int32_t)t.groups};
        if (i % 7 == 0) t.a.stride[0] = 3, t.a.dilation[0] = 2;
        for (int k = 0; k < 2; k++) t.a.pad[k] = i % 3 ? (int32_t)t.kernel[k] / 2 : (int32_t)check_int(0, 5);
        t.size[0] = check_int(1, 9);
        t.size[1] = widths[i / 4 % 10];
        check(t);
    }
}

/* Sizes that are cut: into several blocks of positions, of taps, and of the sum over positions. */
static void test_cuts(void **state)
{
    struct conv_attr plain = {{1, 1}, {1, 1}, {1, 1}, 1, {0, 0}, {0, 0}}, two = plain, point = plain;
    two.stride[0] = two.stride[1] = 2;
    point.pad[0] = point.pad[1] = 0;
    check((struct geometry){3, {17, 19}, {3, 3}, 1, 16, 24, plain});
    check((struct geometry){2, {18, 17}, {3, 3}, 1, 20, 9, two});
    /* one channel, so that each of the many taps is copied alone */
    check((struct geometry){1, {1, 1000}, {1, 450}, 1, 1, 5, {{1, 1}, {0, 3}, {1, 2}, 1, {0, 0}, {0, 0}}});
    check((struct geometry){1, {24, 26}, {21, 20}, 1, 1, 3, point});
    check((struct geometry){1, {6, 5}, {3, 3}, 1, 600, 3, plain});
    check((struct geometry){1, {6, 5}, {3, 3}, 1, 3, 600, two});
    check((struct geometry){2, {33, 35}, {1, 1}, 1, 17, 33, point});
    check((struct geometry){2, {41, 35}, {1, 1}, 1, 37, 24, point}); /* the gradient of w across */
    check((struct geometry){
        1, {1, 199}, {1, 16}, 3, 21, 19, (struct conv_attr){{1, 1}, {0, 8}, {1, 1}, 3, {0, 0}, {0, 0}}});
    /* A long result of several steps, which goes piece by piece. */
    struct ad_tensor x = check_tensor(SHAPE(1, 76, 76, 29)), w = check_tensor(SHAPE(3, 3, 29, 200));
    plain.pad[0] = 0;
    plain.dilation[0] = 2;
    check_products(&ad_op_conv2d, &plain, (struct ad_tensor[]){x, w}, 2, 261, "a long result");
    check_16_bits(&ad_op_conv2d, &plain, (struct ad_tensor[]){x, w}, "a long result");
    free(x.data);
    free(w.data);
    check((struct geometry){
        1, {1, 700}, {1, 5}, 1, 13, 8, (struct conv_attr){{1, 2}, {0, 2}, {1, 1}, 1, {0, 0}, {0, 0}}});
    /* Each image's gradient is a product of its own whose sums are taken in ranges. */
    check((struct geometry){
        3, {1, 301}, {1, 3}, 1, 64, 512, (struct conv_attr){{1, 2}, {0, 1}, {1, 1}, 1, {0, 0}, {0, 0}}});
}

/* ---- Winograd's tiles ------------------------------------------------------------------------------------------------ */

/* The conv2d form by plain f32 sums, one after the other, for `op`'s output. */
static void plain_sums(const struct ad_op *op, const void *attr, const struct ad_tensor *in, struct ad_tensor *out)
{
    struct ad_call c = {.in = in, .out = out, .n_in = 2, .n_out = 1, .attr = attr, .op = op};
    struct conv_call k = conv_call_of(&c);
    const struct conv_dims *d = &k.d;
    const float *x = k.x->data, *w = k.w->data, *y = k.y->data;
    float *to = out->data;
    memset(to, 0, (size_t)ad_count(out->shape) * sizeof *to);
    for (int64_t p = 0; p < d->n * d->out[0] * d->out[1]; p++)
        for (int64_t t = 0; t < 9; t++) {
            int64_t row = p / d->out[1] % d->out[0] - d->pad[0] + t / 3, col = p % d->out[1] - d->pad[1] + t % 3;
            if (row < 0 || row >= d->h[0] || col < 0 || col >= d->h[1]) continue;
            int64_t at = ((p / d->out[1] / d->out[0] * d->h[0] + row) * d->h[1] + col) * d->c;
            for (int64_t i = 0; i < d->c; i++)
                for (int64_t f = 0; f < d->f; f++) {
                    int64_t xi = at + i, wi = (t * d->c + i) * d->f + f, yi = p * d->f + f;
                    if (op == &ad_op_conv2d)
                        to[yi] += x[xi] * w[wi];
                    else if (op == &ad_op_conv2d_transpose)
                        to[xi] += y[yi] * w[wi];
                    else
                        to[wi] += x[xi] * y[yi];
                }
        }
}

static double rms_error(const struct ad_tensor *want, const struct ad_tensor *got, double *worst)
{
    double sum = 0;
    int64_t n = ad_count(want->shape);
    *worst = 0;
    for (int64_t i = 0; i < n; i++) {
        double e = fabs(ad_get(want, i) - ad_get(got, i));
        sum += e * e;
        if (!(e <= *worst)) *worst = e;
    }
    return sqrt(sum / (double)n);
}

/* The worst error must be within the bound that winograd.h gives, 62 times that of check_products with the largest of its
 * sums for all; the typical one is 0.5 to 1 of the plain f32 sum's in tiles of 2 x 2, 1.6 to 2.1 in those of 4 x 4, and must
 * be within 2.5 of it. The same bits for any number of threads. */
static void check_tiles(const struct ad_op *op, const void *attr, const struct ad_tensor *in, int64_t depth,
                        const char *what)
{
    static const int threads[] = {1, 2, 3, 7};
    struct ad_call c = {.in = in, .n_in = 2, .n_out = 1, .attr = attr, .op = op};
    struct check_run want = check_once(op, attr, in, 2, false), plain = check_once(op, attr, in, 2, false),
                     one = {.n_out = 0};
    c.out = want.out;
    assert_string_equal(ad_kernel_find(op, &c)->name, "winograd");
    plain_sums(op, attr, in, plain.out);
    double worst, usual = rms_error(want.out, plain.out, &worst);
    for (int t = 0; t < 4; t++) {
        omp_set_num_threads(threads[t]);
        struct check_run got = check_once(op, attr, in, 2, true);
        double rms = rms_error(want.out, got.out, &worst);
        if (!(rms <= 2.5 * usual))
            fail_msg("%s %s: the typical error is %.3g, that of a plain sum %.3g", op->name, what, rms, usual);
        if (!(worst <= 62 * (double)(depth + 8) * 0x1p-23 * (double)depth))
            fail_msg("%s %s: an error of %.3g", op->name, what, worst);
        if (t == 0) {
            one = got;
            continue;
        }
        if (memcmp(one.out[0].data, got.out[0].data, (size_t)ad_count(want.out[0].shape) * sizeof(float)))
            fail_msg("%s %s: other bits on %d threads", op->name, what, threads[t]);
        check_free(&got);
    }
    check_free(&one);
    check_free(&want);
    check_free(&plain);
}

static void test_winograd(void **state)
{
    /* n, h, w, channels in, out, pad: tails of every vector width, odd sizes, more than one block and group of tiles. */
    static const int sizes[][7] = {{1, 16, 16, 32, 32, 1, 1}, {2, 13, 17, 33, 40, 1, 1}, {4, 11, 9, 47, 36, 0, 1},
                                   {1, 15, 18, 64, 33, 2, 2}, {4, 24, 23, 37, 61, 1, 2}, {2, 11, 14, 130, 150, 1, 1},
                                   {5, 7, 8, 32, 300, 1, 1},  {8, 6, 6, 40, 35, 1, 1},   {3, 9, 10, 33, 32, 1, 1},
                                   {1, 63, 9, 260, 41, 1, 0}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const int *s = sizes[i];
        char what[100];
        snprintf(what, sizeof what, "%d x %d x %d, %d -> %d, pad %d %d", s[0], s[1], s[2], s[3], s[4], s[5], s[6]);
        struct conv_attr a = {.stride = {1, 1}, .pad = {s[5], s[6]}, .dilation = {1, 1}, .groups = 1}, dw = a;
        dw.kernel[0] = dw.kernel[1] = 3;
        int64_t out[2] = {s[1] + 2 * s[5] - 2, s[2] + 2 * s[6] - 2};
        struct ad_tensor x = check_tensor(SHAPE(s[0], s[1], s[2], s[3])), w = check_tensor(SHAPE(3, 3, s[3], s[4])),
                         y = check_tensor(SHAPE(s[0], out[0], out[1], s[4]));
        check_tiles(&ad_op_conv2d, &a, (struct ad_tensor[]){x, w}, 9 * s[3], what);
        check_tiles(&ad_op_conv2d_transpose, &a, (struct ad_tensor[]){y, w}, 9 * s[4], what);
        check_tiles(&ad_op_conv2d_dw, &dw, (struct ad_tensor[]){x, y}, s[0] * out[0] * out[1], what);
        check_16_bits(&ad_op_conv2d, &a, (struct ad_tensor[]){x, w}, what);
        check_16_bits(&ad_op_conv2d_transpose, &a, (struct ad_tensor[]){y, w}, what);
        check_16_bits(&ad_op_conv2d_dw, &dw, (struct ad_tensor[]){x, y}, what);
        free(x.data);
        free(y.data);
        free(w.data);
    }
}

/* Twice as many tiles as one round takes, beside the two halves of the images, a round each: their sums are the same but for
 * the order in which conv2d_dw adds rounds and OpenBLAS adds at all: 2^-24 times the root of 1224 terms, twice that by
 * the transforms. */
static void test_winograd_rounds(void **state)
{
    enum { HALF = 14, SIDE = 16, C = 136, SIZE = HALF * SIDE * SIDE * C };
    struct conv_attr a = {.stride = {1, 1}, .pad = {1, 1}, .dilation = {1, 1}, .groups = 1}, dw = a;
    dw.kernel[0] = dw.kernel[1] = 3;
    struct ad_tensor x = check_tensor(SHAPE(2 * HALF, SIDE, SIDE, C)), w = check_tensor(SHAPE(3, 3, C, C)),
                     y = check_tensor(SHAPE(2 * HALF, SIDE, SIDE, C));
    const struct ad_op *ops[] = {&ad_op_conv2d, &ad_op_conv2d_transpose, &ad_op_conv2d_dw};
    for (int k = 0; k < 3; k++) {
        struct ad_tensor in[2] = {k == 1 ? y : x, k == 2 ? y : w};
        struct check_run all = check_once(ops[k], k == 2 ? &dw : &a, in, 2, true), half[2];
        for (int h = 0; h < 2; h++) {
            struct ad_tensor part[2] = {in[0], in[1]};
            for (int i = 0; i < (k == 2 ? 2 : 1); i++) {
                part[i].shape.dim[0] = HALF;
                part[i].data = (float *)in[i].data + h * SIZE;
            }
            half[h] = check_once(ops[k], k == 2 ? &dw : &a, part, 2, true);
        }
        const float *got = all.out[0].data, *first = half[0].out[0].data, *second = half[1].out[0].data;
        double error = 0, norm = 0;
        for (int64_t i = 0, n = ad_count(half[0].out[0].shape); i < (k == 2 ? n : 2 * n); i++) {
            double want = k == 2 ? (double)first[i] + (double)second[i] : (double)(i < n ? first[i] : second[i - n]);
            error += ((double)got[i] - want) * ((double)got[i] - want);
            norm += want * want;
        }
        if (!(sqrt(error) <= 1e-5 * sqrt(norm) && norm > 0))
            fail_msg("%s: in rounds it is off by %.2g of %.2g", ops[k]->name, sqrt(error), sqrt(norm));
        check_free(&all);
        for (int h = 0; h < 2; h++) check_free(&half[h]);
    }
    free(x.data);
    free(y.data);
    free(w.data);
}

/* ---- pooling and resizing: linear, or exact ---------------------------------------------------------------------- */

static void test_resample(void **state)
{
    for (int i = 0; i < 80; i++) {
        struct resample_attr a = {.kind = i % 4};
        int64_t n = check_int(1, 3), c = check_int(1, 40);
        for (int k = 0; k < 2; k++) {
            a.in[k] = check_int(1, 12);
            a.out[k] = check_int(1, 12);
            if (a.kind != RESAMPLE_AVERAGE) continue;
            a.kernel[k] = (int32_t)check_int(1, a.in[k]);
            a.stride[k] = (int32_t)check_int(1, 3);
            a.pad[k] = (int32_t)check_int(0, a.kernel[k] / 2);
            a.count_pad = i % 8 == 0;
            a.out[k] = (a.in[k] + 2 * a.pad[k] - a.kernel[k]) / a.stride[k] + 1;
        }
        struct ad_tensor x = check_tensor(SHAPE(n, a.in[0], a.in[1], c)),
                         y = check_tensor(SHAPE(n, a.out[0], a.out[1], c));
        check_products(&ad_op_resample, &a, &x, 1, 144, "resample");
        check_products(&ad_op_resample_adjoint, &a, &y, 1, 144, "resample_adjoint");
        free(x.data);
        free(y.data);
    }
}

static void test_max_pool(void **state)
{
    for (int i = 0; i < 60; i++) {
        struct pool_attr a;
        int64_t size[2], n = check_int(1, 3), c = check_int(1, 40);
        for (int k = 0; k < 2; k++) {
            size[k] = check_int(1, 12);
            a.kernel[k] = (int32_t)check_int(1, size[k]);
            a.stride[k] = (int32_t)check_int(1, 3);
            a.pad[k] = (int32_t)check_int(0, a.kernel[k] / 2);
        }
        struct ad_tensor x = check_tensor(SHAPE(n, size[0], size[1], c));
        float *v = x.data;
        for (int64_t k = 0, count = ad_count(x.shape); k < count; k++)
            v[k] = check_int(0, 19) ? (float)check_int(-2, 2) : NAN;
        struct check_run want = check_once(&ad_op_max_pool, &a, &x, 1, false),
                         got = check_once(&ad_op_max_pool, &a, &x, 1, true);
        size_t bytes = (size_t)ad_count(want.out[0].shape) * 4;
        assert_memory_equal(want.out[0].data, got.out[0].data, bytes);
        assert_memory_equal(want.out[1].data, got.out[1].data, bytes);
        struct pool_grad_attr b = {{n, size[0], size[1], c}};
        struct ad_tensor dy = check_tensor(want.out[0].shape);
        check_products(&ad_op_max_pool_grad, &b, (struct ad_tensor[]){dy, want.out[1]}, 2, 144, "max_pool_grad");
        check_free(&want);
        check_free(&got);
        free(x.data);
        free(dy.data);
    }
}

/* ---- norms ------------------------------------------------------------------------------------------------------- */

/* Means over m numbers of size 1 are within m 2^-24 in the worst case and sqrt(m) 2^-24 as a rule; 1 / sqrt(var) is
 * below 10 here (eps 0.01). 2e-5 of the largest result covers m = 1,000 by either; where sums
 * cancel, it is 2e-5 of 0.1: their terms are of size 1 and up to 10, and 2e-6 is four roundings of the largest. */
static void compare(const struct ad_op *op, const void *a, const struct ad_tensor *in, int n_in, const char *what)
{
    static const int threads[] = {1, 2, 3, 7};
    struct check_run want = check_once(op, a, in, n_in, false), one = {.n_out = 0};
    for (int t = 0; t < 4; t++) {
        omp_set_num_threads(threads[t]);
        struct check_run got = check_once(op, a, in, n_in, true);
        for (int o = 0; o < want.n_out; o++) {
            double top = 0;
            int64_t n = ad_count(want.out[o].shape);
            for (int64_t i = 0; i < n; i++) top = fmax(top, fabs(ad_get(&want.out[o], i)));
            for (int64_t i = 0; i < n; i++) {
                double w = ad_get(&want.out[o], i), v = ad_get(&got.out[o], i);
                if (!(fabs(v - w) <= 2e-5 * (top + 0.1)))
                    fail_msg("%s %s: output %d, element %lld is %.9g, not %.9g", op->name, what, o, (long long)i, v, w);
            }
            if (t > 0) assert_memory_equal(one.out[o].data, got.out[o].data, (size_t)n * 4);
        }
        if (t == 0)
            one = got;
        else
            check_free(&got);
    }
    check_free(&one);
    check_free(&want);
}

static void test_norms(void **state)
{
    const struct ad_op *const ops[] = {&ad_op_layer_norm, &ad_op_rms_norm, &ad_op_group_norm};
    for (int i = 0; i < 120; i++) {
        struct norm_attr a = {.eps = 0.01, .kind = i % 3, .gain = (int32_t)check_int(0, 1)};
        a.bias = a.kind == NORM_RMS ? 0 : (int32_t)check_int(0, 1);
        a.groups = a.kind == NORM_GROUP ? (int32_t)check_int(1, 4) : 0;
        int64_t c = check_int(1, 90) * (a.groups ? a.groups : 1), rows = i % 10 == 0 ? 700 : check_int(1, 60);
        int64_t images = i % 4 == 3 ? check_int(4, 16) : check_int(1, 4); /* two a thread: each is one thread's work */
        struct ad_tensor x = check_tensor(SHAPE(images, rows, c)), dy = check_tensor(x.shape), in[5] = {x};
        struct ad_tensor gain = check_tensor(SHAPE(c)), bias = check_tensor(SHAPE(c));
        for (int64_t k = 0, n = ad_count(x.shape); k < n; k++) ((float *)x.data)[k] += 2; /* a mean to take away */
        if (a.gain) in[1] = gain;
        if (a.bias) in[1 + a.gain] = bias;
        compare(ops[a.kind], &a, in, 1 + a.gain + a.bias, "norm");
        struct check_run y = check_once(ops[a.kind], &a, in, 1 + a.gain + a.bias, false);
        compare(&ad_op_norm_grad, &a, (struct ad_tensor[]){x, dy, y.out[1], y.out[2], gain}, 4 + a.gain, "norm_grad");
        if (a.kind == NORM_LAYER || a.kind == NORM_RMS) {
            struct ad_tensor more = check_tensor(x.shape), all[6] = {x, dy, y.out[1], y.out[2], gain};
            all[4 + a.gain] = more;
            a.residual = 1;
            compare(&ad_op_norm_grad, &a, all, 5 + a.gain, "norm_grad with a residual");
            free(more.data);
        }
        check_free(&y);
        free(x.data);
        free(dy.data);
        free(gain.data);
        free(bias.data);
    }
}

/* Batch norm with every activation, with and without a residual; its gradient. Values that ReLU decides on are moved away
 * from its kink, where rounding would decide. */
static void one_batch_norm(struct batch_norm_attr a, int64_t rows, int64_t c)
{
    char what[80];
    snprintf(what, sizeof what, "act %d residual %d, %lld x %lld", a.act, a.residual, (long long)rows, (long long)c);
    struct ad_tensor x = check_tensor(SHAPE(rows, c)), dy = check_tensor(x.shape), more = check_tensor(x.shape);
    struct ad_tensor gain = check_tensor(SHAPE(c)), bias = check_tensor(SHAPE(c)), in[4] = {x}, all[7] = {x, dy};
    for (int64_t k = 0; k < rows * c; k++) ((float *)x.data)[k] += 2;
    int n = 1, m = 4;
    if (a.gain) in[n++] = all[m++] = gain;
    if (a.bias) in[n++] = all[m++] = bias;
    if (a.residual) in[n++] = more;
    struct batch_norm_attr plain = a;
    plain.act = AD_ACT_NONE;
    plain.residual = 0;
    struct check_run p = check_once(&ad_op_batch_norm, &plain, in, n - a.residual, false);
    for (int64_t k = 0; k < rows * c; k++) { /* no residual: an element whose sum is too close takes no part */
        double sum = ad_get(&p.out[0], k) + (a.residual ? ad_get(&more, k) : 0);
        if (fabs(sum) > 1e-4) continue;
        ((float *)more.data)[k] += 0.1f;
        ((float *)dy.data)[k] = 0;
    }
    compare(&ad_op_batch_norm, &a, in, n, what);
    struct check_run y = check_once(&ad_op_batch_norm, &a, in, n, false);
    all[2] = y.out[1];
    all[3] = y.out[2];
    if (a.residual && a.act != AD_ACT_NONE)
        all[m++] = a.act == AD_ACT_RELU ? y.out[0] : more;
    else
        a.residual = 0;
    compare(&ad_op_batch_norm_grad, &a, all, m, what);
    check_free(&p);
    check_free(&y);
    free(x.data);
    free(dy.data);
    free(more.data);
    free(gain.data);
    free(bias.data);
}

static void test_batch_norm(void **state)
{
    static const int64_t channels[] = {1, 3, 5, 8, 16, 17, 32, 33, 40, 70};
    for (int i = 0; i < 180; i++) {
        struct batch_norm_attr a = {.eps = 0.01, .act = i % 3, .residual = i / 3 % 2};
        a.gain = (int32_t)check_int(0, 3) > 0;
        a.bias = (int32_t)check_int(0, 3) > 0;
        one_batch_norm(a, i % 10 == 0 ? check_int(500, 900) : check_int(1, 70), channels[i / 6 % 10]);
    }
    one_batch_norm((struct batch_norm_attr){.eps = 0.01, .gain = 1, .bias = 1, .act = AD_ACT_RELU}, 9000, 5);
}

/* What is not finite stays where it is: in its channel; and a channel whose numbers are all alike has no variance. */
static void test_batch_norm_not_finite(void **state)
{
    const struct batch_norm_attr a = {.eps = 0.01, .act = AD_ACT_RELU};
    struct ad_tensor x = check_tensor(SHAPE(37, 21));
    float *v = x.data;
    v[5 * 21 + 3] = NAN;
    v[7 * 21 + 17] = INFINITY;
    for (int i = 0; i < 37; i++) v[i * 21 + 20] = 1e-40f, v[i * 21] = 1000.1f;
    struct check_run r = check_once(&ad_op_batch_norm, &a, &x, 1, true);
    const float *y = r.out[0].data, *var = r.out[2].data;
    for (int i = 0; i < 37 * 21; i++) assert_int_equal(isfinite(y[i]), i % 21 != 3 && i % 21 != 17);
    assert_true(var[0] == 0 && var[20] == 0);
    for (int i = 0; i < 37; i++) assert_true(y[i * 21] == 0);
    check_free(&r);
    free(x.data);
}

int main(void)
{
    threads_init(2);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random),
                                       cmocka_unit_test(test_channels),
                                       cmocka_unit_test(test_cuts),
                                       cmocka_unit_test(test_depthwise),
                                       cmocka_unit_test(test_depthwise_tiles),
                                       cmocka_unit_test(test_winograd),
                                       cmocka_unit_test(test_winograd_rounds),
                                       cmocka_unit_test(test_resample),
                                       cmocka_unit_test(test_max_pool),
                                       cmocka_unit_test(test_norms),
                                       cmocka_unit_test(test_batch_norm),
                                       cmocka_unit_test(test_batch_norm_not_finite)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
