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

/* Every number of `from` to its place in `to`, cut into items: a piece of a line or plane each. */
struct copy {
    struct kind kind;
    const void *from;
    void *to;
    struct axis outer[AD_MAX_DIMS + 2], plane, line; /* plane.n is 0 where there are lines only */
    int n_outer;
    int64_t total, piece, pieces, items; /* numbers; of the plane or line in a piece; pieces; all items */
};

static struct copy make_copy(struct kind k, struct ad_shape s, const void *from, const int64_t *stride_from, void *to,
                             const int64_t *stride_to)
{
    struct copy c = {.kind = k, .from = from, .to = to, .total = ad_count(s)};
    struct axis *a = c.outer;
    int n = 0;
    if (!c.total) return c;
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
    c.line = a[--n];
    if (best >= 0) {
        c.plane = a[best];
        memmove(a + best, a + best + 1, (size_t)(--n - best) * sizeof *a);
    }
    /* Few outer steps: the plane or the line is cut too, so that threads have work. */
    int64_t cut = best >= 0 ? c.plane.n : c.line.n;
    c.n_outer = n;
    c.piece = best >= 0 ? SIDE : 65536;
    c.items = c.pieces = (cut + c.piece - 1) / c.piece;
    for (int d = 0; d < n; d++) c.items *= a[d].n;
    return c;
}

static void copy_item(const struct copy *c, int64_t item)
{
    int64_t f = 0, o = 0, rest = item / c->pieces, at = item % c->pieces * c->piece;
    for (int d = c->n_outer - 1; d >= 0; d--) {
        f += rest % c->outer[d].n * c->outer[d].from;
        o += rest % c->outer[d].n * c->outer[d].to;
        rest /= c->outer[d].n;
    }
    struct axis part = c->plane.n ? c->plane : c->line;
    part.n = min64(c->piece, part.n - at);
    f += at * part.from;
    o += at * part.to;
    if (c->plane.n)
        copy_plane(c->kind, at_as(c->kind.from, c->from, f), at_as(c->kind.to, c->to, o), part, c->line);
    else
        copy_line(c->kind, at_as(c->kind.from, c->from, f), at_as(c->kind.to, c->to, o), part);
}

/* ---- the ops: a call makes several copies, an output or an input each --------------------------------------------- */

static struct copy copy_of_view(const struct ad_call *c, int k)
{
    struct ad_tensor seen = c->out[k], to = c->out[k];
    int64_t offset = 0;
    ad_default_strides(&to);
    if (!c->op->view(&c->in[0], c->attr, k, &seen, &offset)) { /* reshape: the input in its own row order */
        seen = to = c->in[0];
        to.data = c->out[k].data;
        ad_default_strides(&to);
    }
    struct kind kind = {c->in[0].dtype, to.dtype};
    return make_copy(kind, seen.shape, at_as(kind.from, c->in[0].data, offset), seen.stride, to.data, to.stride);
}

static struct copy copy_of_concat(const struct ad_call *c, int k)
{
    int64_t axis = ((const struct ad_along_attr *)c->attr)->axis, at = 0;
    struct ad_tensor to = c->out[0];
    ad_default_strides(&to);
    for (int i = 0; i < k; i++) at += c->in[i].shape.dim[axis];
    void *part = at_as(to.dtype, to.data, at * to.stride[axis]);
    struct kind kind = {c->in[k].dtype, to.dtype};
    if (part == c->in[k].data) return (struct copy){.total = 0}; /* it was computed in its place (passes/layout.c) */
    return make_copy(kind, c->in[k].shape, c->in[k].data, c->in[k].stride, part, to.stride);
}

static struct copy copy_of_pad(const struct ad_call *c, int k)
{
    const struct ad_pad_attr *p = c->attr;
    struct ad_tensor to = c->out[0];
    ad_default_strides(&to);
    int64_t before = p->before * to.stride[p->axis];
    to.stride[p->axis] *= p->step;
    struct kind kind = {c->in[0].dtype, to.dtype};
    return make_copy(kind, c->in[0].shape, c->in[0].data, c->in[0].stride, at_as(to.dtype, to.data, before), to.stride);
}

/* What a call copies, as its op has it. */
struct job {
    struct copy (*copy)(const struct ad_call *c, int k);
    int n;
};
_Static_assert(sizeof(struct job) <= AD_JOB_BYTES, "a job lies in struct ad_parts");

/* Items from .. to-1 of all copies' items. */
static void run_copies(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct job *j = job;
    int64_t first = 0;
    for (int k = 0; k < j->n && first < to; k++) {
        struct copy x = j->copy(c, k);
        for (int64_t i = from > first ? from : first; i < min64(to, first + x.items); i++) copy_item(&x, i - first);
        first += x.items;
    }
}

static void add_copies(const struct ad_call *c, struct job j, struct ad_parts *p)
{
    struct ad_phase *phase = &p->phase[p->n++];
    int64_t total = 0;
    memcpy(p->job, &j, sizeof j);
    phase->run = run_copies;
    for (int k = 0; k < j.n; k++) {
        struct copy x = j.copy(c, k);
        total += x.total;
        phase->items += x.items;
    }
    phase->alone = total <= PAR_MIN;
}

static void cut_view(const struct ad_call *c, int threads, struct ad_parts *p)
{
    add_copies(c, (struct job){copy_of_view, c->n_out}, p);
}
static void cut_concat(const struct ad_call *c, int threads, struct ad_parts *p)
{
    add_copies(c, (struct job){copy_of_concat, c->n_in}, p);
}

enum { FILL = 16384 }; /* numbers of one item */

static void run_fill(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct ad_tensor *t = &c->out[0];
    uint32_t one[2] = {0}; /* room for any element */
    uint16_t half;
    ad_set(&(struct ad_tensor){.data = one, .dtype = t->dtype}, 0, ((const struct ad_pad_attr *)c->attr)->value);
    memcpy(&half, one, sizeof half);
    int64_t n = min64(ad_count(t->shape), to * FILL);
    if (ad_is_half(t->dtype))
        for (int64_t i = from * FILL; i < n; i++) ((uint16_t *)t->data)[i] = half;
    else
        for (int64_t i = from * FILL; i < n; i++) ((uint32_t *)t->data)[i] = one[0];
}

static void cut_pad(const struct ad_call *c, int threads, struct ad_parts *p)
{
    int64_t n = ad_count(c->out[0].shape);
    p->n = 1;
    p->phase[0] = (struct ad_phase){.items = (n + FILL - 1) / FILL, .run = run_fill, .alone = n <= PAR_MIN};
    add_copies(c, (struct job){copy_of_pad, 1}, p);
}

/* Every input and output may be kept in 16 bits. */
#define ROW(op_, type, cut_)                                                       \
    {                                                                              \
        &ad_op_##op_, type, NULL, NULL, NULL, "copy", UINT32_MAX, UINT32_MAX, cut_ \
    }
#define BOTH(op_, cut_) ROW(op_, AD_F32, cut_), ROW(op_, AD_I32, cut_)

const struct ad_kernel ISA_FN(ad_kernels_copy)[] = {
    BOTH(reshape, cut_view),  BOTH(transpose, cut_view), BOTH(broadcast, cut_view),
    BOTH(slice, cut_view),    BOTH(split, cut_view),     BOTH(flip, cut_view),
    BOTH(concat, cut_concat), ROW(pad, AD_F32, cut_pad), {0},
};
