/* conv2d_transpose as products: the positions of x are split by their residue modulo the stride, and those of one residue, a
 * class, read a dense window of y through the matching taps of the flipped kernel. Classes follow one another in rounds. */
#include "autograd/kernels/conv_products.h"

#include <string.h>

#include "autograd/kernels/simd.h"
#include "base/threads.h"

SIMD_FN void transpose(enum ad_dtype type, const void *restrict w, int64_t f, int64_t cg, int64_t fg,
                       float *restrict to)
{
    enum { SIDE = 16 };
    for (int64_t i = 0; i < fg; i += SIDE)
        for (int64_t j = 0; j < cg; j += SIDE)
            for (int64_t y = i; y < min_of(fg, i + SIDE); y++)
                for (int64_t x = j; x < min_of(cg, j + SIDE); x++) to[y * cg + x] = float_as(type, w, x * f + y);
}

void conv_turn(enum ad_dtype type, const void *w, int64_t f, int64_t cg, int64_t fg, float *to)
{
    BY_TYPE(type, transpose, w, f, cg, fg, to);
}

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

static int64_t taps_of(const struct class *s)
{
    return s->h.axis.taps * s->w.axis.taps;
}

/* Tap t of a group of w, for one class: of its ((taps x fg), cg) for each group. */
static void pack_tap(const struct class *s, int64_t group, int64_t t, float *to)
{
    const struct conv_dims *d = &s->k->d;
    const struct ad_tensor *w = s->k->w;
    int64_t u = s->h.first + (s->h.axis.taps - 1 - t / s->w.axis.taps) * s->h.every;
    int64_t v = s->w.first + (s->w.axis.taps - 1 - t % s->w.axis.taps) * s->w.every;
    int64_t from = (u * d->k[1] + v) * d->cg * d->f + group * d->fg;
    conv_turn(w->dtype, at_as(w->dtype, w->data, from), d->f, d->cg, d->fg,
              to + (group * taps_of(s) + t) * d->fg * d->cg);
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

/* Row r of the class's grid, of `from` (positions of the class, c), to its places in x; zeros where from is NULL. */
static void scatter(const struct class *s, const void *from, int64_t r)
{
    const struct conv_dims *d = &s->k->d;
    const struct ad_tensor *to = s->k->x;
    int64_t grid_h = s->h.axis.grid, grid_w = s->w.axis.grid;
    size_t bytes = (size_t)(d->c * size_as(to->dtype));
    int64_t row = r / grid_h * d->h[0] + s->a + r % grid_h * d->stride[0];
    char *x = at_as(to->dtype, to->data, (row * d->h[1] + s->b) * d->c);
    for (int64_t j = 0; j < grid_w; j++, x += (size_t)d->stride[1] * bytes) {
        if (from)
            memcpy(x, (const char *)from + (size_t)(r * grid_w + j) * bytes, bytes);
        else
            memset(x, 0, bytes);
    }
}

/* Images of one row: the class's positions are one run with a step, and the product writes them where they belong. */
static bool writes_in_place(const struct conv_dims *d)
{
    return d->h[0] == 1;
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

size_t conv_transpose_scratch(const struct conv_call *k)
{
    struct transpose_room r = transpose_room_of(k);
    return (size_t)r.weights * sizeof(float) + (size_t)(r.result + r.product);
}

struct transpose_job {
    struct conv_call k;
    int64_t images; /* that have rounds of their own, for each class; 1: one round for all of them */
    int64_t pack, items[2],
        rows; /* of a round at most: taps of all groups; items of products; rows that are scattered */
    float *weights;
    char *room, *product;
    int threads;
};
_Static_assert(sizeof(struct transpose_job) <= AD_JOB_BYTES, "a job lies in struct ad_parts");

static int64_t classes_of(const struct conv_dims *d)
{
    return d->stride[0] * d->stride[1];
}

static struct class class_at(const struct transpose_job *j, int64_t i)
{
    const struct conv_dims *d = &j->k.d;
    struct class s = {.k = &j->k, .weights = j->weights};
    for (int64_t at = 0; at <= i; at++) {
        s.weights += d->groups * taps_of(&s) * d->fg * d->cg; /* of the one before */
        s.a = at / d->stride[1];
        s.b = at % d->stride[1];
        s.h = residue_of(d, 0, s.a);
        s.w = residue_of(d, 1, s.b);
    }
    s.image = -1;
    s.to = j->room;
    s.c_row = d->c;
    return s;
}

/* Whether the class's products write x themselves: all at once, or those of image s->image. */
static bool writes_itself(const struct class *s)
{
    return classes_of(&s->k->d) == 1 || (writes_in_place(&s->k->d) && s->h.axis.grid == 1);
}

/* Round r: a class, and where its images come one by one, since a product's sums over ranges of K lie in one place, an image. */
static struct class class_of_round(const struct transpose_job *j, int64_t r)
{
    const struct conv_dims *d = &j->k.d;
    const struct ad_tensor *x = j->k.x;
    struct class s = class_at(j, r / j->images);
    if (!writes_itself(&s)) return s;
    bool unit = classes_of(d) == 1;
    s.c_row = d->stride[1] * d->c;
    s.image = unit ? -1 : r % j->images;
    s.to = unit ? x->data : at_as(x->dtype, x->data, (s.image * d->h[1] + s.b) * d->c);
    return s;
}

static void pack_classes(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct transpose_job *j = job;
    for (int64_t i = from; i < to; i++) {
        struct class s = class_at(j, i / j->pack);
        int64_t taps = taps_of(&s), t = i % j->pack;
        if (t < taps * j->k.d.groups) pack_tap(&s, t / taps, t % taps, (float *)(uintptr_t)s.weights);
    }
}

static void multiply_class(const struct transpose_job *j, int phase, int64_t from, int64_t to)
{
    struct class s = class_of_round(j, from / j->items[phase]);
    if (taps_of(&s) == 0) return;
    struct products p = conv_products_of(class_product, &s, j->k.d.groups, j->product, j->threads);
    gemm_enter_thread();
    for (int64_t i = from; i < to && i % j->items[phase] < p.items[phase]; i++)
        conv_do_item(&p, &s, phase, i % j->items[phase]);
}
static void multiply_class_first(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    multiply_class(job, 0, from, to);
}
static void multiply_class_second(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    multiply_class(job, 1, from, to);
}

static void scatter_class(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    const struct transpose_job *j = job;
    int64_t round = from / j->rows;
    struct class s = class_of_round(j, round);
    bool none = taps_of(&s) == 0;
    if (round % j->images || (!none && writes_itself(&s))) return;
    for (int64_t i = from; i < to && i % j->rows < j->k.d.n * s.h.axis.grid; i++)
        scatter(&s, none ? NULL : s.to, i % j->rows);
}

/* Rounds, with as many items as the largest has. */
void conv_cut_transpose(const struct ad_call *c, int threads, struct ad_parts *p)
{
    struct transpose_job *j = (void *)p->job;
    j->k = conv_call_of(c);
    j->threads = threads;
    const struct conv_dims *d = &j->k.d;
    struct transpose_room r = transpose_room_of(&j->k);
    int64_t numbers = 0;
    j->images = classes_of(d) > 1 && writes_in_place(d) ? max_of(1, d->n) : 1;
    j->weights = c->scratch;
    j->room = (char *)(j->weights + r.weights);
    j->product = j->room + r.result;
    for (int64_t i = 0; i < classes_of(d); i++) {
        struct class s = class_of_round(j, i * j->images);
        j->pack = max_of(j->pack, d->groups * taps_of(&s));
        if (taps_of(&s) == 0 || !writes_itself(&s)) j->rows = max_of(j->rows, d->n * s.h.axis.grid);
        numbers = max_of(numbers, d->n * s.h.axis.grid * s.w.axis.grid * d->c);
        if (taps_of(&s) == 0) continue;
        struct products of = conv_products_of(class_product, &s, d->groups, j->product, threads);
        for (int k = 0; k < 2; k++) j->items[k] = max_of(j->items[k], of.items[k]);
    }
    p->n = 4;
    p->first_round = 1;
    p->end_round = 4;
    p->rounds = classes_of(d) * j->images;
    p->phase[0] = (struct ad_phase){
        .items = classes_of(d) * j->pack, .run = pack_classes, .alone = ad_count(j->k.w->shape) <= PAR_MIN};
    p->phase[1] = (struct ad_phase){.items = j->items[0], .run = multiply_class_first, .dynamic = true};
    p->phase[2] = (struct ad_phase){.items = j->items[1], .run = multiply_class_second};
    p->phase[3] = (struct ad_phase){.items = j->rows, .run = scatter_class, .alone = numbers <= PAR_MIN};
}
