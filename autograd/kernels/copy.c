/* Copies between strides: views that must be laid out (transposes by blocks or tiles), concat, pad. Numbers of four bytes,
 * f32 that is kept in 16 bits, and from one of these to the other. */
#include <stdlib.h>
#include <string.h>

#include "autograd/kernels/simd.h"
#include "autograd/kernels/stream.h"
#include "autograd/kernels/transpose.h"
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

enum { FAR = 1 << 18 }; /* numbers that a second-level cache may not hold */

/* A block of BLOCK x BLOCK: whole lines of memory on both sides, each touched once and at once. Rows that lie a power of two
 * apart share a few places of a cache, and what is left of a line would be gone when one comes back for it. */
enum { BLOCK = 16 };

SIMD_FN void transpose_block(const float *from, int64_t from_row, float *to, int64_t to_row, bool stream)
{
    float room[BLOCK * BLOCK] __attribute__((aligned(64)));
#pragma GCC unroll 2
    for (int j = 0; j < BLOCK; j += 8)
#pragma GCC unroll 2
        for (int i = 0; i < BLOCK; i += 8)
            transpose_8x8(from + i * from_row + j, from_row, room + j * BLOCK + i, BLOCK);
#pragma GCC unroll 16
    for (int j = 0; j < BLOCK; j++)
#pragma GCC unroll 4
        for (int v = 0; v < BLOCK; v += VL)
            if (stream)
                vf_stream(to + j * to_row + v, vf_load(room + j * BLOCK + v));
            else
                vf_store(to + j * to_row + v, vf_load(room + j * BLOCK + v));
}

/* A plane of f32 or i32, at least a block, that is contiguous along b in the source and along a in the result. The last
 * block of an axis laps over the one before it. Meanwhile the numbers that lie `ahead` are asked for: no processor foresees
 * reads so far apart. */
SIMD_FN void transpose_plane(const float *from, int64_t ahead, float *to, struct axis b, struct axis a, bool stream)
{
    for (int64_t j0 = 0; j0 < b.n; j0 += BLOCK)
        for (int64_t i0 = 0; i0 < a.n; i0 += BLOCK) {
            int64_t j = min64(j0, b.n - BLOCK), i = min64(i0, a.n - BLOCK);
            const float *block = from + i * a.from + j;
            if (ahead)
                for (int r = 0; r < BLOCK; r++) ask_l2(block + r * a.from + ahead);
            transpose_block(block, a.from, to + j * b.to + i, b.to, stream);
        }
}

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

/* An axis in pieces: their size and number. */
struct cut {
    int64_t piece, pieces;
};

/* Every number of `from` to its place in `to`, cut into items: a piece of a line or plane each. */
struct copy {
    struct kind kind;
    const void *from;
    void *to;
    struct axis plane, line;            /* plane.n is 0 where there are lines only */
    struct cut of_plane, of_line;       /* an item is one piece of each */
    struct axis outer[AD_MAX_DIMS + 2]; /* and last the pieces of the line and of the plane, as axes */
    int n_outer;
    int64_t total, items; /* numbers; all items */
    bool blocks, stream;  /* transpose_plane takes the plane; its lines are written past the caches */
};

/* In pieces of `piece` numbers; a last one of less than `least` is added to the one before. */
static struct cut make_cut(int64_t n, int64_t piece, int64_t least)
{
    int64_t pieces = (n + piece - least) / piece;
    return (struct cut){piece, pieces > 0 ? pieces : 1};
}

/* The k-th piece of an axis; and an axis of pieces. */
static struct axis piece_of(struct axis a, struct cut c, int64_t k)
{
    a.n = k + 1 < c.pieces ? c.piece : a.n - k * c.piece;
    return a;
}
static struct axis pieces_of(struct axis a, struct cut c)
{
    return (struct axis){c.pieces, c.piece * a.from, c.piece * a.to};
}

/* How the planes or lines of a copy are cut, so that threads have work where there are few outer steps. */
static void cut_copy(struct copy *c)
{
    bool lined = c->plane.to % BLOCK == 0;
    c->of_plane = c->of_line = (struct cut){0, 1};
    if (!c->plane.n) {
        c->of_line = make_cut(c->line.n, 65536, 1);
        return;
    }
    c->of_plane = make_cut(c->plane.n, c->line.n < SIDE ? SIDE / c->line.n * SIDE : SIDE, 1);
    c->blocks = c->kind.from == c->kind.to && !ad_is_half(c->kind.to) && c->plane.from == 1 && c->line.to == 1 &&
                min64(c->plane.n, c->line.n) >= BLOCK;
    if (!c->blocks) return;
    /* Runs of some lines on both sides: memory has pages of its own, which are slow to change. */
    c->of_plane = make_cut(c->plane.n, 4 * BLOCK, BLOCK);
    c->of_line = make_cut(c->line.n, 4 * BLOCK, BLOCK);
    for (int d = 0; d < c->n_outer; d++) lined = lined && c->outer[d].to % BLOCK == 0;
    c->stream = lined && stream_pays(c->to, c->line.n, c->total);
}

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
    c.n_outer = n;
    cut_copy(&c);
    a[c.n_outer++] = pieces_of(c.line, c.of_line);
    a[c.n_outer++] = pieces_of(c.plane, c.of_plane);
    c.items = 1;
    for (int d = 0; d < c.n_outer; d++) c.items *= a[d].n;
    return c;
}

/* Where an item begins in the source and the result, and its number along each of the outer axes. */
struct place {
    int64_t from, to, at[AD_MAX_DIMS + 2];
};

static struct place place_of(const struct copy *c, int64_t item)
{
    struct place p = {0};
    for (int d = c->n_outer - 1; d >= 0; d--) {
        p.at[d] = item % c->outer[d].n;
        p.from += p.at[d] * c->outer[d].from;
        p.to += p.at[d] * c->outer[d].to;
        item /= c->outer[d].n;
    }
    return p;
}

/* To the next item; from the last, to the first. */
static void step(const struct copy *c, struct place *p)
{
    for (int d = c->n_outer - 1; d >= 0; d--) {
        const struct axis *a = &c->outer[d];
        p->from += a->from;
        p->to += a->to;
        if (++p->at[d] < a->n) return;
        p->from -= a->n * a->from;
        p->to -= a->n * a->to;
        p->at[d] = 0;
    }
}

static void copy_items(const struct copy *c, int64_t first, int64_t last)
{
    struct place p = place_of(c, first);
    for (int64_t i = first; i < last; i++) {
        const int64_t *piece = p.at + c->n_outer - 2, at = p.from;
        struct axis line = piece_of(c->line, c->of_line, piece[0]), plane = piece_of(c->plane, c->of_plane, piece[1]);
        const void *from = at_as(c->kind.from, c->from, at);
        void *to = at_as(c->kind.to, c->to, p.to);
        step(c, &p);
        int64_t ahead = c->total < FAR ? 0 : p.from - at;
        if (!c->plane.n)
            copy_line(c->kind, from, to, line);
        else if (c->stream)
            transpose_plane(from, ahead, to, plane, line, true);
        else if (c->blocks)
            transpose_plane(from, ahead, to, plane, line, false);
        else
            copy_plane(c->kind, from, to, plane, line);
    }
    if (c->stream) stream_end();
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
        if (from < first + x.items) copy_items(&x, from > first ? from - first : 0, min64(to - first, x.items));
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
