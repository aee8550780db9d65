/* Convolution, its adjoint in x (transposed convolution) and its adjoint in w. The form in conv.h is linear in x, w and
 * y, so each derivative of one op is another of the three, to any order. conv2d            x (N, H, W, C), w (kh, kw,
 * C/groups, F) -> y (N, H', W', F),  H' = (H + 2 pad - dilation (kh - 1) - 1) / stride + 1 conv2d_transpose  y, w -> x,
 * H = (H' - 1) stride - 2 pad + dilation (kh - 1) + 1 + out_pad conv2d_dw         x, y -> w f32 or f64; error: ranks,
 * channels that do not fit w or the groups, a kernel larger than the padded image, an out_pad that is not below the
 * stride, a stride, dilation or group count below 1                                                */
#include "autograd/ops/conv.h"

#include "autograd/ops/common.h"

static struct conv_dims dims_of(const struct conv_attr *a, struct ad_shape x, struct ad_shape w, struct ad_shape y)
{
    struct conv_dims d = {.n = x.dim[0], .c = x.dim[3], .f = y.dim[3], .groups = a->groups};
    d.cg = w.dim[2];
    d.fg = d.f / d.groups;
    for (int i = 0; i < 2; i++) {
        d.h[i] = x.dim[1 + i];
        d.out[i] = y.dim[1 + i];
        d.k[i] = w.dim[i];
        d.stride[i] = a->stride[i];
        d.pad[i] = a->pad[i];
        d.dilation[i] = a->dilation[i];
    }
    return d;
}

struct conv_call conv_call_of(const struct ad_call *c)
{
    struct conv_call k = {.x = &c->in[0], .w = &c->in[1], .y = &c->out[0]};
    if (c->op == &ad_op_conv2d_transpose) k = (struct conv_call){.x = &c->out[0], .w = &c->in[1], .y = &c->in[0]};
    if (c->op == &ad_op_conv2d_dw) k = (struct conv_call){.x = &c->in[0], .w = &c->out[0], .y = &c->in[1]};
    if (((const struct conv_attr *)c->attr)->panels) k.panels = &c->in[2];
    k.d = dims_of(c->attr, k.x->shape, k.w->shape, k.y->shape);
    return k;
}

static int check(struct ad_infer *f)
{
    const struct conv_attr *a = f->attr;
    if (!ad_is_float(f->in_dtype[0]) || f->in_dtype[1] != f->in_dtype[0])
        return ad_infer_fail(f, "both inputs must be f32, or both f64");
    if (f->in_shape[0].rank != 4 || f->in_shape[1].rank != 4)
        return ad_infer_fail(f, "both inputs must have four axes");
    for (int i = 0; i < 2; i++)
        if (a->stride[i] < 1 || a->dilation[i] < 1 || a->pad[i] < 0 || a->groups < 1)
            return ad_infer_fail(f, "stride, dilation and groups must be at least 1, padding at least 0");
    if (a->panels != (f->n_in == 3)) return ad_infer_fail(f, "there are two inputs, and panels where it says so");
    return 0;
}

/* Rows of the output, or 0 where the kernel is larger than the padded input. */
static int64_t out_size(const struct conv_attr *a, int i, int64_t h, int64_t k)
{
    int64_t room = h + 2 * (int64_t)a->pad[i] - a->dilation[i] * (k - 1) - 1;
    return k < 1 || room < 0 ? 0 : room / a->stride[i] + 1;
}

static int infer(struct ad_infer *f)
{
    const struct conv_attr *a = f->attr;
    if (check(f)) return -1;
    struct ad_shape x = f->in_shape[0], w = f->in_shape[1];
    if (w.dim[2] * a->groups != x.dim[3] || w.dim[3] % a->groups)
        return ad_infer_fail(f, "w must be (kh, kw, %lld / %d, F), F a multiple of the %d groups", (long long)x.dim[3],
                             a->groups, a->groups);
    int64_t h = out_size(a, 0, x.dim[1], w.dim[0]), width = out_size(a, 1, x.dim[2], w.dim[1]);
    if (h < 1 || width < 1) return ad_infer_fail(f, "the kernel is larger than the padded image");
    f->shape[0] = SHAPE(x.dim[0], h, width, w.dim[3]);
    return 0;
}

static int infer_transpose(struct ad_infer *f)
{
    const struct conv_attr *a = f->attr;
    if (check(f)) return -1;
    struct ad_shape y = f->in_shape[0], w = f->in_shape[1], x = SHAPE(y.dim[0], 0, 0, w.dim[2] * a->groups);
    if (w.dim[3] != y.dim[3] || w.dim[3] % a->groups)
        return ad_infer_fail(f, "w must be (kh, kw, C / groups, %lld), a multiple of the %d groups",
                             (long long)y.dim[3], a->groups);
    for (int i = 0; i < 2; i++) {
        x.dim[1 + i] = (y.dim[1 + i] - 1) * a->stride[i] - 2 * (int64_t)a->pad[i] + a->dilation[i] * (w.dim[i] - 1) +
                       1 + a->out_pad[i];
        if (a->out_pad[i] < 0 || a->out_pad[i] >= a->stride[i])
            return ad_infer_fail(f, "out_pad must be from 0 to stride - 1");
        if (y.dim[1 + i] < 1 || w.dim[i] < 1 || x.dim[1 + i] < 1) return ad_infer_fail(f, "the result would be empty");
    }
    f->shape[0] = x;
    return 0;
}

static int infer_dw(struct ad_infer *f)
{
    const struct conv_attr *a = f->attr;
    if (check(f)) return -1;
    struct ad_shape x = f->in_shape[0], y = f->in_shape[1];
    if (x.dim[3] % a->groups || y.dim[3] % a->groups || x.dim[0] != y.dim[0])
        return ad_infer_fail(f, "x and y must have the same images, and channels in multiples of %d groups", a->groups);
    for (int i = 0; i < 2; i++)
        if (out_size(a, i, x.dim[1 + i], a->kernel[i]) != y.dim[1 + i] || y.dim[1 + i] < 1)
            return ad_infer_fail(f, "y does not have the size of x convolved with a kernel of %d x %d", a->kernel[0],
                                 a->kernel[1]);
    f->shape[0] = SHAPE(a->kernel[0], a->kernel[1], x.dim[3] / a->groups, y.dim[3]);
    return 0;
}

/* The form at one position (n, i, j) of y and one tap (u, v): adds to the sums of the op's own output. */
static void add_tap(const struct ad_call *c, const struct conv_call *k, const int64_t at[5], double *sum)
{
    const struct conv_dims *d = &k->d;
    int64_t row = at[1] * d->stride[0] - d->pad[0] + at[3] * d->dilation[0];
    int64_t col = at[2] * d->stride[1] - d->pad[1] + at[4] * d->dilation[1];
    if (row < 0 || row >= d->h[0] || col < 0 || col >= d->h[1]) return;
    for (int64_t f = 0; f < d->f; f++)
        for (int64_t ci = 0; ci < d->cg; ci++) {
            int64_t x = ((at[0] * d->h[0] + row) * d->h[1] + col) * d->c + f / d->fg * d->cg + ci;
            int64_t w = ((at[3] * d->k[1] + at[4]) * d->cg + ci) * d->f + f;
            int64_t y = ((at[0] * d->out[0] + at[1]) * d->out[1] + at[2]) * d->f + f;
            if (c->op == &ad_op_conv2d)
                sum[y] += ad_get(k->x, x) * ad_get(k->w, w);
            else if (c->op == &ad_op_conv2d_transpose)
                sum[x] += ad_get(k->y, y) * ad_get(k->w, w);
            else
                sum[w] += ad_get(k->x, x) * ad_get(k->y, y);
        }
}

static void eval(const struct ad_call *c)
{
    struct conv_call k = conv_call_of(c);
    double *sum = c->scratch;
    int64_t n = ad_count(c->out[0].shape), at[AD_MAX_DIMS] = {0};
    struct ad_shape all = SHAPE(k.d.n, k.d.out[0], k.d.out[1], k.d.k[0], k.d.k[1]);
    for (int64_t i = 0; i < n; i++) sum[i] = 0;
    for (int64_t i = 0, taps = ad_count(all); i < taps; i++, ad_next(all, at)) add_tap(c, &k, at, sum);
    for (int64_t i = 0; i < n; i++) ad_set(&c->out[0], i, sum[i]);
}

static size_t scratch(const struct ad_call *c)
{
    return (size_t)ad_count(c->out[0].shape) * sizeof(double);
}

static double flops(const struct ad_call *c)
{
    struct conv_dims d = conv_call_of(c).d;
    return 2.0 * (double)(d.n * d.out[0] * d.out[1]) * (double)(d.k[0] * d.k[1] * d.cg * d.f);
}

bool conv_is_pointwise(const struct conv_dims *d)
{
    return d->groups == 1 && d->k[0] * d->k[1] == 1 && d->stride[0] * d->stride[1] == 1 && d->pad[0] + d->pad[1] == 0;
}

/* Convolution by 3 x 3 without a stride may go by transforms of the weights instead (kernels/winograd.h). */
static bool factor(const struct ad_graph *g, const struct ad_node *n, void *attr, struct ad_factor *f)
{
    struct conv_attr *a = attr;
    bool forward = n->op == &ad_op_conv2d;
    struct ad_shape in = ad_shape_of(g, n->in[0]), w = ad_shape_of(g, n->in[1]), out = ad_shape_of(g, n->out);
    struct conv_dims d = dims_of(a, forward ? in : out, w, forward ? out : in);
    bool three = d.k[0] == 3 && d.k[1] == 3 && d.stride[0] * d.stride[1] == 1;
    if (d.groups > 1 || !ad_count(w) || (forward ? three : !conv_is_pointwise(&d))) return false;
    *f = (struct ad_factor){.input = 1, .m = d.n * d.out[0] * d.out[1], .n = d.f, .k = d.k[0] * d.k[1] * d.c};
    if (!forward) *f = (struct ad_factor){.input = 1, .m = f->m, .n = d.c, .k = d.f, .turned = true};
    a->panels = 1;
    return true;
}

static val conv(struct ad_graph *g, struct conv_attr a, val x, val w)
{
    a.out_pad[0] = a.out_pad[1] = a.kernel[0] = a.kernel[1] = 0;
    return AD_NODE(g, &ad_op_conv2d, &a, x, w);
}

/* The adjoint in x whose result has the size of `like`. */
static val adjoint(struct ad_graph *g, struct conv_attr a, val y, val w, val like)
{
    a.kernel[0] = a.kernel[1] = 0;
    for (int i = 0; i < 2; i++)
        a.out_pad[i] = (int32_t)(ad_dim(g, like, 1 + i) + 2 * (int64_t)a.pad[i] -
                                 a.dilation[i] * (ad_dim(g, w, i) - 1) - 1 - (ad_dim(g, y, 1 + i) - 1) * a.stride[i]);
    return AD_NODE(g, &ad_op_conv2d_transpose, &a, y, w);
}

static val weight_grad(struct ad_graph *g, struct conv_attr a, val x, val y, val like)
{
    a.out_pad[0] = a.out_pad[1] = 0;
    for (int i = 0; i < 2; i++) a.kernel[i] = (int32_t)ad_dim(g, like, i);
    return AD_NODE(g, &ad_op_conv2d_dw, &a, x, y);
}

static void vjp(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    const struct conv_attr *a = n->attr;
    dx[0] = adjoint(g, *a, dy[0], n->in[1], n->in[0]);
    dx[1] = weight_grad(g, *a, n->in[0], dy[0], n->in[1]);
}

static void vjp_transpose(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    const struct conv_attr *a = n->attr;
    dx[0] = conv(g, *a, dy[0], n->in[1]);
    dx[1] = weight_grad(g, *a, dy[0], n->in[0], n->in[1]);
}

static void vjp_dw(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    const struct conv_attr *a = n->attr;
    dx[0] = adjoint(g, *a, n->in[1], dy[0], n->in[0]);
    dx[1] = conv(g, *a, n->in[0], dy[0]);
}

/* ---- cases and builders ------------------------------------------------------------------------------------------ */

#define CASE(id, ...)                                                  \
    static int build_##id(struct ad_graph *g, const val *in, val *out) \
    {                                                                  \
        out[0] = __VA_ARGS__;                                          \
        return 1;                                                      \
    }
#define CONV(...) ((struct ad_conv){__VA_ARGS__})
CASE(plain, ad_conv2d(g, in[0], in[1], CONV(.groups = 1)))
CASE(same, ad_conv2d(g, in[0], in[1], CONV(.pad = {1, 1})))
CASE(odd, ad_conv2d(g, in[0], in[1], CONV(.stride = {2, 3}, .pad = {1, 2}, .dilation = {2, 1})))
CASE(grouped, ad_conv2d(g, in[0], in[1], CONV(.stride = {2, 1}, .pad = {1, 0}, .groups = 2)))
CASE(depthwise, ad_conv2d(g, in[0], in[1], CONV(.stride = {1, 2}, .pad = {1, 1}, .groups = 3)))
CASE(time, ad_conv1d(g, in[0], in[1], CONV(.stride = {2}, .pad = {1})))
CASE(t_plain, ad_conv2d_transpose(g, in[0], in[1], CONV(.groups = 1)))
CASE(t_odd,
     ad_conv2d_transpose(g, in[0], in[1], CONV(.stride = {2, 3}, .pad = {1, 2}, .dilation = {2, 1}, .out_pad = {1, 2})))
CASE(t_grouped, ad_conv2d_transpose(g, in[0], in[1], CONV(.stride = {2, 1}, .pad = {1, 0}, .groups = 2)))
CASE(t_time, ad_conv1d_transpose(g, in[0], in[1], CONV(.stride = {2}, .pad = {1}, .out_pad = {1})))
CASE(dw, weight_grad(g, (struct conv_attr){.stride = {2, 1}, .pad = {1, 0}, .dilation = {1, 1}, .groups = 2}, in[0],
                     in[1], in[2]))

static const struct ad_case cases[] = {
    {.in = "2x4x3x3 2x3x3x2", .build = build_plain},     {.in = "1x3x5x2 3x3x2x3", .build = build_same},
    {.in = "1x5x6x2 2x3x2x3", .build = build_odd},       {.in = "2x4x3x4 3x2x2x2", .build = build_grouped},
    {.in = "1x4x5x3 3x3x1x3", .build = build_depthwise}, {.in = "1x4x5x3 3x3x1x6", .build = build_depthwise},
    {.in = "1x2x2x3 1x1x3x4", .build = build_plain},     {.in = "2x7x3 3x3x2", .build = build_time}};
static const struct ad_case cases_transpose[] = {{.in = "2x3x2x2 2x3x3x2", .build = build_t_plain},
                                                 {.in = "1x2x3x3 2x3x2x3", .build = build_t_odd},
                                                 {.in = "2x3x3x2 3x2x2x2", .build = build_t_grouped},
                                                 {.in = "2x4x2 3x3x2", .build = build_t_time}};
static const struct ad_case cases_dw[] = {{.in = "2x4x3x4 2x2x2x2 3x2x2x2", .build = build_dw}};

#define CONV_OP(id, half_outputs, rule, derivative, which, ...)             \
    const struct ad_op ad_op_##id = {.name = #id,                           \
                                     .attr_size = sizeof(struct conv_attr), \
                                     .min_in = 2,                           \
                                     .half = half_outputs,                  \
                                     .infer = rule,                         \
                                     .eval = eval,                          \
                                     .vjp = derivative,                     \
                                     .scratch = scratch,                    \
                                     .flops = flops,                        \
                                     __VA_ARGS__,                           \
                                     AD_CASES(which)};
CONV_OP(conv2d, 1, infer, vjp, cases, .max_in = 3, .factor = factor)
CONV_OP(conv2d_transpose, 1, infer_transpose, vjp_transpose, cases_transpose, .max_in = 3, .factor = factor)
CONV_OP(conv2d_dw, 0, infer_dw, vjp_dw, cases_dw, .max_in = 2)

static struct conv_attr attr_of(struct ad_conv c)
{
    struct conv_attr a = {.groups = c.groups ? c.groups : 1};
    for (int i = 0; i < 2; i++) {
        a.stride[i] = c.stride[i] ? c.stride[i] : 1;
        a.dilation[i] = c.dilation[i] ? c.dilation[i] : 1;
        a.pad[i] = c.pad[i];
        a.out_pad[i] = c.out_pad[i];
    }
    return a;
}

val ad_conv2d(struct ad_graph *g, val x, val w, struct ad_conv c)
{
    return conv(g, attr_of(c), x, w);
}

val ad_conv2d_transpose(struct ad_graph *g, val x, val w, struct ad_conv c)
{
    struct conv_attr a = attr_of(c);
    return AD_NODE(g, &ad_op_conv2d_transpose, &a, x, w);
}

/* One dimension is a convolution of images of one row: (N, T, C) as (N, 1, T, C). */
static val one_row(struct ad_graph *g, val x, val w, struct ad_conv c,
                   val (*op)(struct ad_graph *, val, val, struct ad_conv))
{
    struct ad_conv row = {.stride = {1, c.stride[0]},
                          .pad = {0, c.pad[0]},
                          .dilation = {1, c.dilation[0]},
                          .groups = c.groups,
                          .out_pad = {0, c.out_pad[0]}};
    struct ad_shape s = ad_shape_of(g, x), k = ad_shape_of(g, w);
    if (!x || !w) return 0;
    if (s.rank != 3 || k.rank != 3) return ad_fail(g, "conv1d: both inputs must have three axes");
    val y = op(g, ad_reshape(g, x, SHAPE(s.dim[0], 1, s.dim[1], s.dim[2])),
               ad_reshape(g, w, SHAPE(1, k.dim[0], k.dim[1], k.dim[2])), row);
    s = ad_shape_of(g, y);
    return y ? ad_reshape(g, y, SHAPE(s.dim[0], s.dim[2], s.dim[3])) : 0;
}

val ad_conv1d(struct ad_graph *g, val x, val w, struct ad_conv c)
{
    return one_row(g, x, w, c, ad_conv2d);
}
val ad_conv1d_transpose(struct ad_graph *g, val x, val w, struct ad_conv c)
{
    return one_row(g, x, w, c, ad_conv2d_transpose);
}
