/* See winograd.h. With D the numbers that a tile reads, g the kernel and Y the tile's m x m results,
 *   Y = A' [(G g G') * (B' D B)] A      conv2d, summed over the channels by a product for each of the (m + 2)^2 places
 *   dg = G' [sum over tiles of (B' D B) * (A dY A')] G      conv2d_dw, the sum a product too
 * and conv2d_transpose is conv2d of dY with the kernel turned around. All of it in f32; tensors in 16 bits are widened and
 * rounded where tiles are read and written. */
#pragma GCC optimize("O3")
#include "autograd/kernels/winograd.h"

#include "autograd/kernels/conv_products.h"
#include "autograd/kernels/simd.h"
#include "autograd/kernels/winograd_tiles.h"
#include "base/threads.h"

/* ---- how the work is cut --------------------------------------------------------------------------------------------- */

/* Few channels: a thread takes a block of tiles through all three steps in its second-level cache. Many: the threads take
 * each step together, in rounds of as many tiles as a few megabytes hold; so does conv2d_dw. */
enum {
    ROOM = 1 << 18,
    NEAR = 256,
    FEW_TILES = 12,
    MOST_TILES = 128,
    FEW_ROWS = 48,
    MOST_ROWS = 256,
    LINE_OF_KERNEL = 64
};
struct room {
    float x[ROOM];
} __attribute__((aligned(64)));

static bool stays_near(const struct winograd_tiles *s)
{
    return s->c + s->f <= NEAR;
}

/* Tiles of a round, of which there are as few as hold no more than so many numbers. */
static int64_t group_of(const struct winograd_tiles *s, int64_t floats)
{
    int64_t most = max_of(256, floats / (s->places * (s->c + s->f)));
    return ceil_div(s->count, max_of(1, ceil_div(s->count, most)));
}
static int64_t far_group(const struct winograd_tiles *s)
{
    return group_of(s, 1 << 22);
}
static int64_t dw_group(const struct winograd_tiles *s)
{
    return group_of(s, 1 << 21);
}

/* What the phases know of the call. */
struct job {
    struct conv_call k;
    struct winograd_tiles s;
    int64_t group, length,
        pieces;       /* tiles of a round; of tiles, or rows of the products: of an item; items for a round or place */
    float *u, *v, *m; /* kernel's places, inputs', results' or their gradients' */
    bool turned;
};
_Static_assert(sizeof(struct job) <= AD_JOB_BYTES, "a job lies in struct ad_parts");

static void run_kernel(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct job *j = job;
    for (int64_t b = from * LINE_OF_KERNEL, end = min_of(to * LINE_OF_KERNEL, j->s.c * j->s.f); b < end; b += VL)
        winograd_transform_kernel(&j->s, j->k.w, j->turned, b, j->u);
}
static void run_kernel_back(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct job *j = job;
    for (int64_t b = from * LINE_OF_KERNEL, end = min_of(to * LINE_OF_KERNEL, j->s.c * j->s.f); b < end; b += VL)
        winograd_transform_back(&j->s, j->u, b, j->k.w);
}

/* The product of place p for `rows` tiles; the kernel's matrix is (c, f), or (f, c) and read across where `turned`. */
static void multiply(const struct job *j, int64_t p, int64_t rows, const float *v, float *m)
{
    const struct winograd_tiles *s = &j->s;
    struct gemm_args g = {.m = rows, .n = s->f, .k = s->c, .a = v, .a_row = s->c, .a_col = 1};
    g.b = j->u + p * s->c * s->f;
    g.b_row = j->turned ? 1 : s->f;
    g.b_col = j->turned ? s->c : 1;
    g.c = m;
    g.c_row = s->f;
    gemm_block(&g);
}

static void run_near(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct job *j = job;
    const struct winograd_tiles *s = &j->s;
    struct room room;
    float *v = room.x, *m = v + s->places * j->length * s->c;
    gemm_enter_thread();
    for (int64_t b = from; b < to; b++) {
        int64_t first = b * j->length, n = min_of(j->length, s->count - first);
        for (int64_t t = 0; t < n; t++) winograd_read_tile(s, first + t, v + t * s->c, j->length * s->c);
        for (int p = 0; p < s->places; p++) multiply(j, p, n, v + p * j->length * s->c, m + p * j->length * s->f);
        for (int64_t t = 0; t < n; t++) winograd_write_tile(s, first + t, m + t * s->f, j->length * s->f);
    }
}

static void read_round(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct job *j = job;
    const struct winograd_tiles *s = &j->s;
    for (int64_t t = from; t < min_of(to, s->count); t++)
        winograd_read_tile(s, t, j->v + t % j->group * s->c, j->group * s->c);
}

static void multiply_round(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct job *j = job;
    const struct winograd_tiles *s = &j->s;
    gemm_enter_thread();
    for (int64_t i = from; i < to; i++) {
        int64_t round = i / (s->places * j->pieces), p = i / j->pieces % s->places, r = i % j->pieces * j->length,
                rows = min_of(j->length, min_of(j->group, s->count - round * j->group) - r);
        if (rows > 0) multiply(j, p, rows, j->v + (p * j->group + r) * s->c, j->m + (p * j->group + r) * s->f);
    }
}

static void write_round(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct job *j = job;
    const struct winograd_tiles *s = &j->s;
    for (int64_t t = from; t < min_of(to, s->count); t++)
        winograd_write_tile(s, t, j->m + t % j->group * s->f, j->group * s->f);
}

static void read_round_dw(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct job *j = job;
    const struct winograd_tiles *s = &j->s;
    for (int64_t t = from; t < min_of(to, s->count); t++) {
        winograd_read_tile(s, t, j->v + t % j->group * s->c, j->group * s->c);
        winograd_read_tile_grad(s, t, j->m + t % j->group * s->f, j->group * s->f);
    }
}

static void multiply_round_dw(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct job *j = job;
    const struct winograd_tiles *s = &j->s;
    gemm_enter_thread();
    for (int64_t i = from; i < to; i++) {
        int64_t round = i / (s->places * j->pieces), p = i / j->pieces % s->places, r = i % j->pieces * j->length;
        struct gemm_args g = {.m = min_of(j->length, s->c - r),
                              .n = s->f,
                              .k = min_of(j->group, s->count - round * j->group),
                              .a = j->v + p * j->group * s->c + r};
        if (g.m <= 0) continue;
        g.a_row = 1;
        g.a_col = s->c;
        g.b = j->m + p * j->group * s->f;
        g.b_row = s->f;
        g.b_col = 1;
        g.c = j->u + (p * s->c + r) * s->f;
        g.c_row = s->f;
        g.add = round > 0;
        gemm_block(&g);
    }
}

/* ---- which --------------------------------------------------------------------------------------------------------------- */

/* The tile that needs fewer products: larger ones waste more at the border. */
static int m_of(const int64_t *out)
{
    return 36 * ceil_div(out[0], 4) * ceil_div(out[1], 4) < 16 * ceil_div(out[0], 2) * ceil_div(out[1], 2) ? 4 : 2;
}

static struct winograd_tiles tiles_of(const struct ad_call *c, struct conv_call *k)
{
    *k = conv_call_of(c);
    const struct conv_dims *d = &k->d;
    bool turned = c->op == &ad_op_conv2d_transpose;
    struct winograd_tiles s = {.n = d->n, .c = turned ? d->f : d->c, .f = turned ? d->c : d->f};
    for (int i = 0; i < 2; i++) {
        s.h[i] = turned ? d->out[i] : d->h[i];
        s.out[i] = turned ? d->h[i] : d->out[i];
        s.pad[i] = turned ? 2 - d->pad[i] : d->pad[i];
    }
    s.m = m_of(s.out);
    s.places = (s.m + 2) * (s.m + 2);
    for (int i = 0; i < 2; i++) s.grid[i] = ceil_div(s.out[i], s.m);
    s.count = s.n * s.grid[0] * s.grid[1];
    s.in = turned ? k->y : k->x;
    s.result = turned ? k->x : k->y;
    return s;
}

bool winograd_pays(const struct conv_dims *d)
{
    bool three =
        d->k[0] == 3 && d->k[1] == 3 && d->stride[0] * d->stride[1] == 1 && d->dilation[0] * d->dilation[1] == 1;
    return three && d->groups == 1 && d->pad[0] <= 2 && d->pad[1] <= 2 && d->c >= 32 && d->f >= 32 &&
           d->n * d->out[0] * d->out[1] >= 256 && d->out[0] > 1 && d->out[1] > 1;
}

static int64_t kernel_floats(const struct winograd_tiles *s)
{
    return whole_lines(s->places * s->c * s->f);
}

size_t winograd_scratch(const struct ad_call *c)
{
    struct conv_call k;
    struct winograd_tiles s = tiles_of(c, &k);
    int64_t floats = kernel_floats(&s);
    if (c->op == &ad_op_conv2d_dw)
        floats += s.places * dw_group(&s) * (s.c + s.f);
    else if (!stays_near(&s))
        floats += s.places * far_group(&s) * (s.c + s.f);
    return (size_t)floats * sizeof(float);
}

static void cut_near(struct job *j, int threads, struct ad_parts *p)
{
    const struct winograd_tiles *s = &j->s;
    j->length = part_length(s->count, min_of(ROOM / (s->places * (s->c + s->f)), MOST_TILES), FEW_TILES, 1, threads);
    p->n = 2;
    p->phase[1] = (struct ad_phase){.items = ceil_div(s->count, j->length), .run = run_near, .dynamic = true};
}

static void cut_far(struct job *j, int threads, struct ad_parts *p)
{
    const struct winograd_tiles *s = &j->s;
    j->length = part_length(j->group, MOST_ROWS, FEW_ROWS, s->places, threads);
    j->pieces = ceil_div(j->group, j->length);
    p->n = 4;
    p->first_round = 1;
    p->end_round = 4;
    p->phase[1] = (struct ad_phase){.items = j->group, .run = read_round};
    p->phase[2] = (struct ad_phase){.items = s->places * j->pieces, .run = multiply_round, .dynamic = true};
    p->phase[3] = (struct ad_phase){.items = j->group, .run = write_round};
}

static void cut_dw(struct job *j, int threads, struct ad_parts *p)
{
    const struct winograd_tiles *s = &j->s;
    j->length = part_length(s->c, MOST_ROWS, FEW_ROWS, s->places, threads);
    j->pieces = ceil_div(s->c, j->length);
    p->n = 3;
    p->end_round = 2;
    p->phase[0] = (struct ad_phase){.items = j->group, .run = read_round_dw};
    p->phase[1] = (struct ad_phase){.items = s->places * j->pieces, .run = multiply_round_dw, .dynamic = true};
}

void winograd_cut(const struct ad_call *c, int threads, struct ad_parts *p)
{
    struct job *j = (void *)p->job;
    j->s = tiles_of(c, &j->k);
    bool dw = c->op == &ad_op_conv2d_dw, near = !dw && stays_near(&j->s);
    j->turned = c->op == &ad_op_conv2d_transpose;
    j->u = c->scratch;
    j->v = j->u + kernel_floats(&j->s);
    j->group = dw ? dw_group(&j->s) : near ? j->s.count : far_group(&j->s);
    j->m = j->v + j->s.places * j->group * j->s.c;
    p->rounds = ceil_div(j->s.count, j->group);
    if (near)
        cut_near(j, threads, p);
    else if (dw)
        cut_dw(j, threads, p);
    else
        cut_far(j, threads, p);
    int64_t size = j->s.c * j->s.f;
    p->phase[dw ? 2 : 0] = (struct ad_phase){.items = ceil_div(size, LINE_OF_KERNEL),
                                             .run = dw ? run_kernel_back : run_kernel,
                                             .alone = size * 32 <= PAR_MIN};
}
