/* Copies of four-byte numbers between strides: views that must be laid out (transposes by tiles), concat, pad. */
#include <stdlib.h>
#include <string.h>

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

/* to[j * bt + i] = from[j * bf + i * af]: in tiles, so that both sides use whole cache lines. */
static void copy_plane(const float *from, float *to, struct axis b, struct axis a)
{
    for (int64_t j0 = 0; j0 < b.n; j0 += SIDE)
        for (int64_t i0 = 0; i0 < a.n; i0 += SIDE) {
            int64_t j1 = min64(b.n, j0 + SIDE), i1 = min64(a.n, i0 + SIDE);
            for (int64_t j = j0; j < j1; j++)
                for (int64_t i = i0; i < i1; i++) to[j * b.to + i * a.to] = from[j * b.from + i * a.from];
        }
}

static void copy_line(const float *from, float *to, struct axis a)
{
    if (a.from == 1 && a.to == 1)
        memcpy(to, from, (size_t)a.n * sizeof *to);
    else
        for (int64_t i = 0; i < a.n; i++) to[i * a.to] = from[i * a.from];
}

/* Every number of `from` to its place in `to`; the strides are in elements. */
static void copy(struct ad_shape s, const float *from, const int64_t *stride_from, float *to, const int64_t *stride_to)
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
            copy_plane(from + f, to + o, part, line);
        else
            copy_line(from + f, to + o, part);
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
        copy(seen.shape, (const float *)c->in[0].data + offset, seen.stride, to.data, to.stride);
    }
}

static void run_concat(const struct ad_call *c)
{
    int64_t axis = ((const struct ad_along_attr *)c->attr)->axis, at = 0;
    struct ad_tensor to = c->out[0];
    ad_default_strides(&to);
    for (int i = 0; i < c->n_in; i++) {
        float *part = (float *)to.data + at * to.stride[axis];
        if (part != c->in[i].data) /* else it was computed in its place (passes/layout.c) */
            copy(c->in[i].shape, c->in[i].data, c->in[i].stride, part, to.stride);
        at += c->in[i].shape.dim[axis];
    }
}

static void run_pad(const struct ad_call *c)
{
    const struct ad_pad_attr *p = c->attr;
    struct ad_tensor to = c->out[0];
    ad_default_strides(&to);
    float *y = to.data;
    int64_t n = ad_count(to.shape), before = p->before * to.stride[p->axis];
    for (int64_t i = 0; i < n; i++) y[i] = (float)p->value;
    to.stride[p->axis] *= p->step;
    copy(c->in[0].shape, c->in[0].data, c->in[0].stride, y + before, to.stride);
}

#define VIEW(op_)                                                            \
    {.op = &ad_op_##op_, .dtype = AD_F32, .run = run_view, .name = "copy"},  \
    {                                                                        \
        .op = &ad_op_##op_, .dtype = AD_I32, .run = run_view, .name = "copy" \
    }

const struct ad_kernel ISA_FN(ad_kernels_copy)[] = {
    VIEW(reshape),
    VIEW(transpose),
    VIEW(broadcast),
    VIEW(slice),
    VIEW(split),
    VIEW(flip),
    {.op = &ad_op_concat, .dtype = AD_F32, .run = run_concat, .name = "copy"},
    {.op = &ad_op_concat, .dtype = AD_I32, .run = run_concat, .name = "copy"},
    {.op = &ad_op_pad, .dtype = AD_F32, .run = run_pad, .name = "copy"},
    {0},
};
