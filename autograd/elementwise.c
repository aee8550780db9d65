/* Elementwise ops: the shared shape rule, the plain loop over `scalar`, and the f32 run that takes a program tile by
 * tile. Broadcasting and views cost nothing here: an input is read through its strides. */
#include <string.h>

#include "autograd/half_call.h"
#include "autograd/internal.h"
#include "autograd/program.h"
#include "base/threads.h"

bool ad_broadcast_shape(struct ad_shape a, struct ad_shape b, struct ad_shape *out)
{
    struct ad_shape s = {.rank = a.rank > b.rank ? a.rank : b.rank};
    for (int i = 1; i <= s.rank; i++) {
        int64_t x = i <= a.rank ? a.dim[a.rank - i] : 1, y = i <= b.rank ? b.dim[b.rank - i] : 1;
        if (x != y && x != 1 && y != 1) return false;
        s.dim[s.rank - i] = x == 1 ? y : x;
    }
    *out = s;
    return true;
}

void ad_broadcast_strides(const struct ad_tensor *t, struct ad_shape to, int64_t stride[AD_MAX_DIMS])
{
    for (int i = 1; i <= to.rank; i++) {
        int k = t->shape.rank - i;
        stride[to.rank - i] = k < 0 || t->shape.dim[k] == 1 ? 0 : t->stride[k];
    }
}

int ad_infer_elementwise(struct ad_infer *f)
{
    struct ad_shape s = f->in_shape[0];
    char a[96], b[96];
    for (int i = 1; i < f->n_in; i++) {
        if (f->in_dtype[i] != f->in_dtype[0])
            return ad_infer_fail(f, "the inputs must have one type, not %s and %s", ad_dtype_name(f->in_dtype[0]),
                                 ad_dtype_name(f->in_dtype[i]));
        if (!ad_broadcast_shape(s, f->in_shape[i], &s))
            return ad_infer_fail(f, "%s and %s do not broadcast", ad_shape_text(a, s),
                                 ad_shape_text(b, f->in_shape[i]));
    }
    f->shape[0] = s;
    return 0;
}

void ad_eval_elementwise(const struct ad_call *c)
{
    const struct ad_tensor *out = &c->out[0];
    int rank = out->shape.rank;
    int64_t n = ad_count(out->shape), at[AD_MAX_DIMS] = {0}, stride[PROGRAM_INPUTS][AD_MAX_DIMS];
    for (int k = 0; k < c->n_in; k++) ad_broadcast_strides(&c->in[k], out->shape, stride[k]);
    for (int64_t i = 0; i < n; i++) {
        double x[PROGRAM_INPUTS];
        for (int k = 0; k < c->n_in; k++) {
            int64_t o = 0;
            for (int d = 0; d < rank; d++) o += at[d] * stride[k][d];
            x[k] = ad_get(&c->in[k], o);
        }
        ad_set(out, i, c->op->scalar(x, c->attr));
        for (int d = rank - 1; d >= 0 && ++at[d] == out->shape.dim[d]; d--) at[d] = 0;
    }
}

static double scalar_fused(const double *x, const void *attr)
{
    const struct ad_program *p = ((const struct ad_fused_attr *)attr)->program;
    double r[PROGRAM_REGISTERS];
    memcpy(r, x, (size_t)p->n_in * sizeof *r);
    for (int i = 0; i < p->n_lines; i++) {
        double y[3];
        for (int k = 0; k < p->line[i].n_src; k++) y[k] = r[p->line[i].src[k]];
        r[p->n_in + i] = p->line[i].op->scalar(y, p->line[i].attr);
    }
    return r[p->n_in + p->n_lines - 1];
}

static double flops_fused(const struct ad_call *c)
{
    return (double)((const struct ad_fused_attr *)c->attr)->program->n_lines * (double)ad_count(c->out[0].shape);
}

const struct ad_op ad_op_fused = {
    .name = "fused",
    .attr_size = sizeof(struct ad_fused_attr),
    .flags = AD_ELEMENTWISE,
    .min_in = 1,
    .max_in = PROGRAM_INPUTS,
    .infer = ad_infer_elementwise,
    .scalar = scalar_fused,
    .flops = flops_fused,
};

/* ---- the f32 run ------------------------------------------------------------------------------------------------- */

enum { TILE = 1024 }; /* floats: a program's live tiles stay in the first-level cache */

/* The loop over the output, with neighbouring axes merged wherever every input allows it. */
struct nest {
    int rank;
    int64_t dim[AD_MAX_DIMS], stride[PROGRAM_INPUTS][AD_MAX_DIMS];
};

static struct nest make_nest(const struct ad_call *c)
{
    struct nest n = {.rank = 0};
    struct ad_shape s = c->out[0].shape;
    int64_t stride[PROGRAM_INPUTS][AD_MAX_DIMS];
    for (int k = 0; k < c->n_in; k++) ad_broadcast_strides(&c->in[k], s, stride[k]);
    for (int d = 0; d < s.rank; d++) {
        if (s.dim[d] == 1) continue;
        bool merge = n.rank > 0;
        for (int k = 0; k < c->n_in && merge; k++) merge = n.stride[k][n.rank - 1] == stride[k][d] * s.dim[d];
        if (!merge) n.dim[n.rank++] = 1;
        n.dim[n.rank - 1] *= s.dim[d];
        for (int k = 0; k < c->n_in; k++) n.stride[k][n.rank - 1] = stride[k][d];
    }
    if (n.rank == 0) n.dim[n.rank++] = 1;
    return n;
}

struct code {
    ad_tile_fn tile[PROGRAM_LINES];
    int32_t slot[PROGRAM_LINES]; /* which temporary tile holds the line's result; reused when dead */
};

static void scalar_tile(const struct ad_op *op, int64_t n, const float *const *in, const int *step, float *out,
                        const void *attr, int n_src)
{
    for (int64_t i = 0; i < n; i++) {
        double x[3];
        for (int k = 0; k < n_src; k++) x[k] = in[k][i * step[k]];
        out[i] = (float)op->scalar(x, attr);
    }
}

/* past: the result is written past the caches, where its op can. */
static struct code make_code(const struct ad_program *p, bool past)
{
    struct code code;
    int last[PROGRAM_LINES], free_at[PROGRAM_LINES], n_slots = 0;
    for (int i = 0; i < p->n_lines; i++) {
        last[i] = i;
        code.tile[i] = past && i == p->n_lines - 1 ? ad_tile_find_past(p->line[i].op) : ad_tile_find(p->line[i].op);
        for (int k = 0; k < p->line[i].n_src; k++)
            if (p->line[i].src[k] >= p->n_in) last[p->line[i].src[k] - p->n_in] = i;
    }
    for (int i = 0; i < p->n_lines; i++) {
        int s = 0;
        while (s < n_slots && free_at[s] >= i) s++; /* tiles that are read by line i are not overwritten by it */
        if (s == n_slots) n_slots++;
        code.slot[i] = s;
        free_at[s] = last[i];
    }
    return code;
}

/* n numbers of the output, from inputs that advance by step (0 or 1). */
static void run_tile(const struct ad_program *p, const struct code *code, int64_t n, const float *const *in,
                     const int *step, float *out, float (*tmp)[TILE])
{
    for (int i = 0; i < p->n_lines; i++) {
        const struct ad_line *l = &p->line[i];
        const float *src[3] = {0};
        int by[3] = {0};
        for (int k = 0; k < l->n_src; k++) {
            int r = l->src[k];
            src[k] = r < p->n_in ? in[r] : tmp[code->slot[r - p->n_in]];
            by[k] = r < p->n_in ? step[r] : 1;
        }
        float *to = i == p->n_lines - 1 ? out : tmp[code->slot[i]];
        if (code->tile[i])
            code->tile[i](n, src, by, to, l->attr);
        else
            scalar_tile(l->op, n, src, by, to, l->attr, l->n_src);
    }
}

/* The output cut into tiles: of one row of the inner axis each, or of several whole rows where rows are short. */
struct cut {
    int64_t inner, rows;       /* numbers of a row; rows of a tile */
    int64_t middle, row_tiles; /* rows below one index of the outer axes; tiles of them */
    int64_t tiles, items;      /* tiles of one row; all */
    int outer;                 /* axes outside of the rows */
};

static struct cut make_cut(const struct nest *n, int64_t total)
{
    struct cut c = {.inner = n->dim[n->rank - 1], .rows = 1, .middle = 1, .outer = n->rank - 1};
    if (n->rank > 1 && c.inner <= TILE / 8) {
        c.rows = TILE / c.inner;
        c.middle = n->dim[--c.outer];
        if (c.rows > c.middle) c.rows = c.middle;
    }
    c.row_tiles = (c.middle + c.rows - 1) / c.rows;
    c.tiles = c.rows > 1 ? 1 : (c.inner + TILE - 1) / TILE;
    c.items = total / c.inner / c.middle * c.row_tiles * c.tiles;
    return c;
}

/* What a thread works in. An input that had to be packed stays where the next tile wants the same numbers. */
struct room {
    float tmp[PROGRAM_LINES][TILE], packed[PROGRAM_INPUTS][TILE], out[TILE];
    const void *from[PROGRAM_INPUTS];
    int64_t rows[PROGRAM_INPUTS];
};

static void pack_row(float *to, const float *from, int64_t n, int64_t by)
{
    if (by == 1)
        memcpy(to, from, (size_t)n * sizeof *to);
    else if (by == 0)
        for (int64_t i = 0; i < n; i++) to[i] = *from;
    else
        for (int64_t i = 0; i < n; i++) to[i] = from[i * by];
}

static void pack_half_row(enum ad_dtype t, float *to, const uint16_t *from, int64_t n, int64_t by)
{
    if (by == 1) {
        ad_widen(t, from, to, n);
        return;
    }
    for (int64_t i = 0; i < n; i++) to[i] = t == AD_BF16 ? bf16_to_float(from[i * by]) : half_to_float(from[i * by]);
}

static const void *element(const struct ad_tensor *t, int64_t i)
{
    return (const char *)t->data + (size_t)i * ad_dtype_size(t->dtype);
}

/* Input k of a tile of `rows` rows of n numbers, which begins at its element `at`; *step says how it advances. */
static const float *tile_input(const struct nest *nest, int k, const struct ad_tensor *t, int64_t at, int64_t rows,
                               int64_t n, int *step, struct room *r)
{
    int64_t by = nest->stride[k][nest->rank - 1], next = rows > 1 ? nest->stride[k][nest->rank - 2] : by * n;
    const void *from = element(t, at);
    *step = by != 0 || next != 0;
    if (next == by * n && (by == 0 || by == 1)) {
        if (t->dtype == AD_F32) return from;
        n *= rows;
        rows = 1;
        if (by == 0) n = 1;
    }
    if (next == 0 && r->from[k] == from && r->rows[k] == rows) return r->packed[k];
    for (int64_t i = 0; i < rows; i++) {
        const void *row = element(t, at + i * next);
        if (t->dtype == AD_F32)
            pack_row(r->packed[k] + i * n, row, n, by);
        else
            pack_half_row(t->dtype, r->packed[k] + i * n, row, n, by);
    }
    r->from[k] = next == 0 ? from : NULL;
    r->rows[k] = rows;
    return r->packed[k];
}

/* What is known of a call before it runs. */
struct job {
    struct code code;
    struct cut cut;
    bool past; /* the result is written past the caches */
};
_Static_assert(sizeof(struct job) <= AD_JOB_BYTES, "a job lies in struct ad_parts");

static void run_item(const struct ad_call *c, const struct ad_program *p, const struct job *j, const struct nest *n,
                     int64_t item, struct room *r)
{
    const struct cut *cut = &j->cut;
    const float *in[PROGRAM_INPUTS];
    int step[PROGRAM_INPUTS];
    int64_t at = item % cut->tiles * TILE, row = item / cut->tiles % cut->row_tiles * cut->rows;
    int64_t outer = item / cut->tiles / cut->row_tiles, offset[PROGRAM_INPUTS] = {0}, rest = outer;
    int64_t rows = cut->middle - row < cut->rows ? cut->middle - row : cut->rows;
    int64_t count = cut->inner - at < TILE ? cut->inner - at : TILE;
    for (int d = cut->outer - 1; d >= 0; d--) {
        for (int k = 0; k < c->n_in; k++) offset[k] += rest % n->dim[d] * n->stride[k][d];
        rest /= n->dim[d];
    }
    for (int k = 0; k < c->n_in; k++) {
        if (cut->outer < n->rank - 1) offset[k] += row * n->stride[k][n->rank - 2];
        offset[k] += at * n->stride[k][n->rank - 1];
        in[k] = tile_input(n, k, &c->in[k], offset[k], rows, count, &step[k], r);
    }
    int64_t first = (outer * cut->middle + row) * cut->inner + at;
    enum ad_dtype type = c->out[0].dtype;
    if (type == AD_F32) {
        run_tile(p, &j->code, rows * count, in, step, (float *)c->out[0].data + first, r->tmp);
    } else {
        run_tile(p, &j->code, rows * count, in, step, r->out, r->tmp);
        ad_narrow(type, r->out, (uint16_t *)c->out[0].data + first, rows * count);
    }
}

/* The call's program; that of a single op is made in *one. */
static const struct ad_program *program_of(const struct ad_call *c, struct ad_program *one)
{
    if (c->op == &ad_op_fused) return ((const struct ad_fused_attr *)c->attr)->program;
    *one = (struct ad_program){.n_in = c->n_in, .n_lines = 1, .line[0] = {c->op, c->attr, {0, 1, 2}, c->n_in}};
    return one;
}

static void run_items(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    struct ad_program one;
    const struct ad_program *p = program_of(c, &one);
    struct nest n = make_nest(c);
    struct room room;
    memset(room.from, 0, sizeof room.from);
    for (int64_t i = from; i < to; i++) run_item(c, p, job, &n, i, &room);
    if (((const struct job *)job)->past) __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static void cut_elementwise(const struct ad_call *c, int threads, struct ad_parts *parts)
{
    struct ad_program one;
    const struct ad_program *p = program_of(c, &one);
    int64_t total = ad_count(c->out[0].shape);
    if (!total) return;
    struct nest n = make_nest(c);
    struct job *j = (void *)parts->job;
    j->cut = make_cut(&n, total);
    j->past = ad_result_streams(c, j->cut.inner);
    j->code = make_code(p, j->past);
    parts->n = 1;
    parts->phase[0] =
        (struct ad_phase){.items = j->cut.items, .run = run_items, .alone = total * p->n_lines <= PAR_MIN};
}

const struct ad_kernel ad_elementwise_f32 = {.dtype = AD_F32, .cut = cut_elementwise, .name = "tiles"};
