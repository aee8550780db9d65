/* Copies between strides: views that must be laid out (transposes by tiles), concat, pad. Numbers of four bytes, f32 that is
 * kept in 16 bits, and from one of these to the other. */
#include <stdlib.h>
#include <string.h>

#include "autograd/kernels/simd.h"
#include "autograd/op.h"
#include "autograd/ops/shape.h"
#include "base/isa.h"
#include "base/threads.h"

extern const struct ad_op ad_op_reshape, ad_op_transpose, ad_op_broadcast, ad_op_slice, ad_op_split, ad_op_flip,
    ad_op_concat, ad_op_pad;

struct axis {
    int64_t n, from, to; /* size, strides */
};

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

enum { SIDE = 32 }; /* of a tile: 4 KiB each way, so both fit the first-level cache */

/* What is copied: bytes of an element where both sides have the same type; else from f32 or to it. */
struct kind {
    enum ad_dtype from, to;
};

/* to[j * bt + i] = from[j * bf + i * af]: in tiles, so that both sides use whole cache lines. Then a line. */
#define COPY(type)                                                                                             \
    static void plane_##type(const type *from, type *to, struct axis b, struct axis a)                         \
    {                                                                                                          \
        for (int64_t j0 = 0; j0 < b.n; j0 += SIDE)                                                             \
            for (int64_t i0 = 0; i0 < a.n; i0 += SIDE) {                                                       \
                int64_t j1 = min64(b.n, j0 + SIDE), i1 = min64(a.n, i0 + SIDE);                                \
                for (int64_t j = j0; j < j1; j++)                                                              \
                    for (int64_t i = i0; i < i1; i++) to[j * b.to + i * a.to] = from[j * b.from + i * a.from]; \
            }                                                                                                  \
    }                                                                                                          \
    static void line_##type(const type *from, type *to, struct axis a)                                         \
    {                                                                                                          \
        if (a.from == 1 && a.to == 1)                                                                          \
            memcpy(to, from, (size_t)a.n * sizeof *to);                                                        \
        else                                                                                                   \
            for (int64_t i = 0; i < a.n; i++) to[i * a.to] = from[i * a.from];                                 \
    }
COPY(uint16_t)
COPY(uint32_t)

static void convert_line(struct kind k, const void *from, void *to, struct axis a)
{
    if (a.from == 1 && a.to == 1 && k.to == AD_F32) {
        vf_widen(k.from, from, to, a.n);
        return;
    }
    struct ad_tensor x = {.data = (void *)(uintptr_t)from, .dtype = k.from}, y = {.data = to, .dtype = k.to};
    if (a.from == 1 && a.to == 1)
        vf_narrow(k.to, from, to, a.n);
    else
        for (int64_t i = 0; i < a.n; i++) ad_set(&y, i * a.to, ad_get(&x, i * a.from));
}

static void copy_plane(struct kind k, const void *from, void *to, struct axis b, struct axis a)
{
    if (k.from != k.to)
        for (int64_t j = 0; j < b.n; j++)
            convert_line(k, at_as(k.from, from, j * b.from), at_as(k.to, to, j * b.to), a);
    else if (ad_is_half(k.to))
        plane_uint16_t(from, to, b, a);
    else
        plane_uint32_t(from, to, b, a);
}

static void copy_line(struct kind k, const void *from, void *to, struct axis a)
{
    if (k.from != k.to)
        convert_line(k, from, to, a);
    else if (ad_is_half(k.to))
        line_uint16_t(from, to, a);
    else
        line_uint32_t(from, to, a);
}

/* Every number of `from` to its place in `to`; the strides are in elements. */
static void copy(struct kind k, struct ad_shape s, const void *from, const int64_t *stride_from, void *to,
                 const int64_t *stride_to)
{
    struct axis a[AD_MAX_DIMS + 2];
    int n = 0;
    int64_t total = ad_count(s);
    if (!total) return;
    for (int d = 0; d < s.rank; d++) {
        struct axis x = {s.dim[d], stride_from[d], stride_to[d]};
        if (x.n == 1) continue;
        if (n && a[n - 1].from == x.from * x.n && a[n - 1].to == x.to * x.n) x.n *= a[--n].n;
        a[n++] = x;
    }
    if (n == 0) a[n++] = (struct axis){1, 1, 1};
    /* The axis along which the source is contiguous joins the last one in a plane. */
    int best = -1;
    for (int d = 0; d + 1 < n; d++)
        if (a[n - 1].from != 1 && llabs(a[d].from) == 1 && a[d].n > 1) best = d;
    struct axis line = a[n - 1], plane = {0};
    n--;
    if (best >= 0) {
        plane = a[best];
        memmove(a + best, a + best + 1, (size_t)(--n - best) * sizeof *a);
    }
    /* Few outer steps: cut the plane or the line, so that threads have work. */
    int64_t outer = 1, cut = best >= 0 ? plane.n : line.n, piece = best >= 0 ? SIDE : 65536,
            pieces = (cut + piece - 1) / piece;
    for (int d = 0; d < n; d++) outer *= a[d].n;
#pragma omp parallel for schedule(static) if (total > PAR_MIN)
    for (int64_t t = 0; t < outer * pieces; t++) {
        int64_t f = 0, o = 0, rest = t / pieces, at = t % pieces * piece;
        for (int d = n - 1; d >= 0; d--) {
            f += rest % a[d].n * a[d].from;
            o += rest % a[d].n * a[d].to;
            rest /= a[d].n;
        }
        struct axis part = best >= 0 ? plane : line;
        part.n = min64(piece, part.n - at);
        f += at * part.from;
        o += at * part.to;
        if (best >= 0)
            copy_plane(k, at_as(k.from, from, f), at_as(k.to, to, o), part, line);
        else
            copy_line(k, at_as(k.from, from, f), at_as(k.to, to, o), part);
    }
}

static void run_view(const struct ad_call *c)
{
    for (int k = 0; k < c->n_out; k++) {
        struct ad_tensor seen = c->out[k], to = c->out[k];
        int64_t offset = 0;
        ad_default_strides(&to);
        if (!c->op->view(&c->in[0], c->attr, k, &seen, &offset)) { /* reshape: the input in its own row order */
            seen = to = c->in[0];
            to.data = c->out[k].data;
            ad_default_strides(&to);
        }
        struct kind kind = {c->in[0].dtype, to.dtype};
        copy(kind, seen.shape, at_as(kind.from, c->in[0].data, offset), seen.stride, to.data, to.stride);
    }
}

static void run_concat(const struct ad_call *c)
{
    int64_t axis = ((const struct ad_along_attr *)c->attr)->axis, at = 0;
    struct ad_tensor to = c->out[0];
    ad_default_strides(&to);
    for (int i = 0; i < c->n_in; i++) {
        void *part = at_as(to.dtype, to.data, at * to.stride[axis]);
        struct kind kind = {c->in[i].dtype, to.dtype};
        if (part != c->in[i].data) /* else it was computed in its place (passes/layout.c) */
            copy(kind, c->in[i].shape, c->in[i].data, c->in[i].stride, part, to.stride);
        at += c->in[i].shape.dim[axis];
    }
}

static void fill(const struct ad_tensor *t, double value)
{
    uint32_t one[2] = {0}; /* room for any element */
    uint16_t half;
    ad_set(&(struct ad_tensor){.data = one, .dtype = t->dtype}, 0, value);
    memcpy(&half, one, sizeof half);
    int64_t n = ad_count(t->shape);
    if (ad_is_half(t->dtype))
        for (int64_t i = 0; i < n; i++) ((uint16_t *)t->data)[i] = half;
    else
        for (int64_t i = 0; i < n; i++) ((uint32_t *)t->data)[i] = one[0];
}

static void run_pad(const struct ad_call *c)
{
    const struct ad_pad_attr *p = c->attr;
    struct ad_tensor to = c->out[0];
    ad_default_strides(&to);
    int64_t before = p->before * to.stride[p->axis];
    fill(&to, p->value);
    to.stride[p->axis] *= p->step;
    struct kind kind = {c->in[0].dtype, to.dtype};
    copy(kind, c->in[0].shape, c->in[0].data, c->in[0].stride, at_as(to.dtype, to.data, before), to.stride);
}

/* Every input and output may be kept in 16 bits. */
#define ROW(op_, type, run_)                                                 \
    {                                                                        \
        &ad_op_##op_, type, NULL, run_, NULL, "copy", UINT32_MAX, UINT32_MAX \
    }
#define BOTH(op_, run_) ROW(op_, AD_F32, run_), ROW(op_, AD_I32, run_)

const struct ad_kernel ISA_FN(ad_kernels_copy)[] = {
    BOTH(reshape, run_view),  BOTH(transpose, run_view), BOTH(broadcast, run_view),
    BOTH(slice, run_view),    BOTH(split, run_view),     BOTH(flip, run_view),
    BOTH(concat, run_concat), ROW(pad, AD_F32, run_pad), {0},
};
