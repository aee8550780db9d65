/* One block of a product on this thread, by register-blocked kernels on packed panels (Goto & van de Geijn 2008).
 *
 * A is copied into panels of MR rows: [row][ROW] where its rows are contiguous, [k][COLUMN] where its columns are; the
 * strides are constants, so that the kernel needs one pointer. GROUP panels of A stand in the second-level cache while panel
 * after panel of B passes through the first, or comes from there too (AVX-512). The first group copies each panel of B,
 * [k][NR], when it gets there, while the kernels before it have asked for the panel's numbers; for gradients of weights, where A
 * lies by columns, kernels copy the next panels of both beside their sums.
 * Where B is kept in panels, A's rows are read where they lie, if they are of f32: nothing is copied at all. What is packed
 * or read next is asked for ahead. Each number of C is summed over k in order, in the blocks of
 * gemm_k_block: how the rest is cut does not change a bit. */
#pragma GCC optimize("O3")
#include "autograd/kernels/gemm.h"

#if defined(__AVX2__)
#include "autograd/kernels/gemm_tiles.h"
#include "autograd/kernels/stream.h"

enum { KEPT_COLUMNS = 2048 }; /* that a group of A meets where B is kept in panels */

struct room {
    float a[2][GROUP * HEAP + VL], b[PANELS_OF_B * (GEMM_MOST_K * NR + GAP)], tile[MR * NR], res[MR * NR];
} __attribute__((aligned(64)));

/* Columns of B that there is room for. */
static int64_t most_columns(int64_t kc)
{
    return PANELS_OF_B * panel_size(GEMM_MOST_K) / panel_size(kc) * NR;
}

void gemm_enter_thread(void) {}

static int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* ---- packing A ------------------------------------------------------------------------------------------------------ */

/* Rows of A in panels of about equal height. */
struct heights {
    int64_t panels, tall, mr; /* the first `tall` panels have mr rows, the others mr - 1 */
};
static struct heights heights_of(int64_t m, int64_t mr)
{
    struct heights h = {.panels = (m + mr - 1) / mr};
    h.mr = (m + h.panels - 1) / h.panels;
    h.tall = m - h.panels * (h.mr - 1);
    return h;
}

/* Some panels of A: rows i .. i+n-1. */
struct group {
    int64_t i, n, first, panels; /* first: of the panels */
};
static struct group group_of(const struct heights *h, int64_t first, int64_t most)
{
    struct group g = {.first = first, .panels = min_of(most, h->panels - first)};
    int64_t tall = min_of(first, h->tall), end = first + g.panels;
    g.i = first * (h->mr - 1) + tall;
    g.n = g.panels * (h->mr - 1) + min_of(end, h->tall) - tall;
    return g;
}
static int height(const struct heights *h, int64_t panel)
{
    return (int)(panel < h->tall ? h->mr : h->mr - 1);
}

/* n columns of mr numbers, a_col apart, to [k][COLUMN]. Whole vectors where `whole`: what is too much is in the gap behind
 * the column, or overwritten by the next one, or in the room behind the last. */
SIMD_FN void pack_column(enum ad_dtype type, int n, bool whole, const struct gemm_args *g, const void *a, int mr,
                         float *to)
{
#pragma GCC unroll 4
    for (int t = 0; t < n; t++, to += COLUMN) {
        if (whole) {
            vf_store(to, vf_load_as(type, a, t * g->a_col));
            continue;
        }
        for (int r = 0; r < mr; r++) to[r] = float_as(type, a, r * g->a_row + t * g->a_col);
    }
}

/* A's columns are contiguous: a few columns through all panels and then the next few, so that lines a power of two apart do
 * not throw one another out of the cache before the next panel wants them; not one by one, since a panel's numbers of
 * several columns share its lines. */
SIMD_FN void pack_columns(enum ad_dtype type, const struct gemm_args *g, const struct heights *h, struct group p,
                          int64_t k, int64_t kc, float *to)
{
    enum { FEW = 4 };
    for (int64_t t = 0, n; t < kc; t += n) {
        n = t + FEW <= kc ? FEW : 1;
        for (int64_t x = 0, i = p.i; x < p.panels; x++) {
            const void *a = at_as(type, g->a, i * g->a_row + (k + t) * g->a_col);
            float *at = to + x * HEAP + t * COLUMN;
            int mr = height(h, p.first + x);
            bool whole = i + VL <= g->m;
            if (n == FEW && whole)
                pack_column(type, FEW, true, g, a, mr, at);
            else
                pack_column(type, (int)n, whole, g, a, mr, at);
            i += mr;
        }
    }
}

SIMD_FN void pack_lines(enum ad_dtype type, const struct gemm_args *g, int64_t i, int64_t n, int64_t k, int64_t kc,
                        float *to)
{
    for (int64_t r = 0; r < n; r++, to += ROW) {
        const void *a = at_as(type, g->a, (i + r) * g->a_row + k * g->a_col);
        if (type == AD_F32)
            vf_copy(to, a, kc);
        else
            vf_widen(type, a, to, kc);
    }
}

/* A group's panels, columns k .. k+kc-1, where A is stored in this type. */
SIMD_FN void pack_stored(enum ad_dtype type, const struct gemm_args *g, bool by_row, const struct heights *h,
                         struct group p, int64_t k, int64_t kc, float *to)
{
    if (!by_row) {
        pack_columns(type, g, h, p, k, kc, to);
        return;
    }
    for (int64_t x = 0, i = p.i; x < p.panels; x++, to += HEAP) {
        int mr = height(h, p.first + x);
        pack_lines(type, g, i, mr, k, kc, to);
        i += mr;
    }
}

/* What lies behind a panel's last row is not read by the kernel of its height. */
static void pack_a(const struct gemm_args *g, bool by_row, const struct heights *h, struct group p, int64_t k,
                   int64_t kc, float *to)
{
    for (int64_t x = 0, i = p.i; x < p.panels && g->source; x++, to += HEAP) {
        int mr = height(h, p.first + x);
        gemm_fill(g->source, i, mr, k, kc, to, by_row ? ROW : 1, by_row ? 1 : COLUMN);
        i += mr;
    }
    if (g->source) return;
    BY_TYPE(g->a_type, pack_stored, g, by_row, h, p, k, kc, to);
}

/* ---- asking ahead --------------------------------------------------------------------------------------------------- */

/* Lines of memory that are read later: `rows` rows of `length` bytes, `step` apart, of which those from (row, at) on are
 * still to be asked for. A few at a time: the processor drops what it has no room to note. */
struct ahead {
    const char *row;
    int64_t step, length, rows, at, each;
};

/* To be asked for in `times` times. */
static struct ahead ahead_of(enum ad_dtype type, const void *at, int64_t step, int64_t n, int64_t rows, int64_t times)
{
    int64_t size = size_as(type), lines = n * size / 64 + 1;
    return (struct ahead){
        .row = at, .step = step * size, .length = n * size, .rows = rows, .each = (rows * lines + times - 1) / times};
}

SIMD_FN void ask(struct ahead *a)
{
    for (int64_t i = 0; i < a->each && a->rows > 0; i++) {
        ask_l2(a->row + a->at);
        a->at += 64;
        if (a->at < a->length) continue;
        a->at = 0;
        a->row += a->step;
        a->rows--;
    }
}

/* The part of A that is packed next. */
static struct ahead ahead_of_a(const struct gemm_args *g, bool by_row, struct group p, int64_t k, int64_t kc,
                               int64_t times)
{
    if (g->source || kc <= 0) return (struct ahead){0};
    const void *a = at_as(g->a_type, g->a, p.i * g->a_row + k * g->a_col);
    return by_row ? ahead_of(g->a_type, a, g->a_row, kc, p.n, times) : ahead_of(g->a_type, a, g->a_col, p.n, kc, times);
}

/* ---- a block -------------------------------------------------------------------------------------------------------- */

/* Where a strip of C is: its columns j0 .. j0+n-1, and the block of K; and where it is summed: element (i, j) of C at
 * sum[i * ld + j - j0]. */
struct strip {
    int64_t j0, n, first; /* first: the columns before it are read from B in place */
    int64_t k, kc, block; /* block: of K, but for the last */
    const float *b;       /* its panels of B */
    int64_t lda, group;   /* lda: of A, where it is read in place, or 0; group: panels of A */
    bool tall;            /* A is read in place by tall tiles */
    bool by_row, ends;    /* ends: the sums are whole behind this block, and something is still to be done to them */
    bool beside;          /* operands are copied beside the multiplying */
    bool a_there;         /* the next group of A has been copied, into room->a[turn] */
    int turn;
    float *sum;
    int64_t ld;
};

/* A panel of A: rows i .. i+mr-1. */
struct rows {
    const float *a;
    int64_t i;
    int mr;
};

/* Bias and residual of the tile at row i, column j of C; a residual in 16 bits is widened into the room. */
static void add_ends(const struct gemm_args *g, struct room *room, int mr, int64_t width, int64_t i, int64_t j,
                     struct end *e)
{
    if (g->bias) e->bias = g->bias + j;
    if (!g->residual) return;
    const void *res = at_as(g->res_type, g->residual, i * g->res_row + j);
    e->residual = res;
    e->res_row = g->res_row;
    if (g->res_type == AD_F32) return;
    for (int r = 0; r < mr; r++)
        vf_widen(g->res_type, at_as(g->res_type, res, r * g->res_row), room->res + r * NR, width);
    e->residual = room->res;
    e->res_row = NR;
}

/* A tile whose sums are whole: whatever is asked for behind the product is done while they are in registers or in the
 * first-level cache. */
static void last_tile(const struct gemm_args *g, struct room *room, kernel_fn run, const struct strip *s, struct rows a,
                      struct panel b, struct end e, int64_t j)
{
    bool in_place = !g->act && g->c_type == AD_F32;
    add_ends(g, room, a.mr, b.width, a.i, s->j0 + j, &e);
    if (!in_place) e.to = room->tile, e.to_row = b.width;
    run(s->kc, a.a, s->lda, &b, &e);
    if (g->act) g->act(a.mr * b.width, (const float *const[]){e.to}, (const int[]){1}, e.to, NULL);
    for (int r = 0; r < a.mr && !in_place; r++) {
        void *c = at_as(g->c_type, g->c, (a.i + r) * g->c_row + s->j0 + j);
        if (g->c_type == AD_F32)
            vf_copy(c, room->tile + r * b.width, b.width);
        else
            vf_narrow(g->c_type, room->tile + r * b.width, c, b.width);
    }
}

/* A tile at the right edge, whose vectors reach over it. */
static void edge_tile(const struct gemm_args *g, struct room *room, kernel_fn run, const struct strip *s, struct rows a,
                      struct panel b, bool add, int64_t j)
{
    bool apart = s->ends && g->c_type != AD_F32;
    run(s->kc, a.a, s->lda, &b, &(struct end){.to = room->tile, .to_row = NR});
    for (int r = 0; r < a.mr; r++) {
        float *tile = room->tile + r * NR, *sum = s->sum + (a.i + r) * s->ld + j, *to = apart ? tile : sum;
        for (int64_t x = 0; x < b.n; x++) to[x] = add ? sum[x] + tile[x] : tile[x];
        if (s->ends) gemm_epilogue_row(g, to, b.n, a.i + r, s->j0 + j);
    }
}

/* One tile of C: a panel of A by one of B, whose first column is the strip's j. */
static void tile(const struct gemm_args *g, struct room *room, const struct strip *s, struct rows a, struct panel b,
                 int64_t j)
{
    int wide = b.width / VL - 1;
    kernel_fn run = b.of_a || b.of_b ? kernels_copying[a.mr - 1][b.of_a != NULL][b.of_b != NULL]
                    : s->tall        ? kernels_tall[a.mr - 1][wide]
                    : s->lda         ? kernels_in_place[a.mr - 1][wide]
                                     : kernels[a.mr - 1][wide][s->by_row];
    bool add = g->add || s->k > 0;
    if (b.n < b.width) {
        edge_tile(g, room, run, s, a, b, add, j);
        return;
    }
    float *c = s->sum + a.i * s->ld + j;
    struct end e = {.to = c, .to_row = s->ld, .from = add ? c : NULL, .from_row = s->ld};
    if (g->stream && b.n == NR) { /* a line of each row, whole: it need not be read first */
        run(s->kc, a.a, s->lda, &b, &(struct end){.to = room->tile, .to_row = NR});
        for (int r = 0; r < a.mr; r++) {
            vf_stream(c + r * s->ld, vf_load(room->tile + r * NR));
            vf_stream(c + r * s->ld + VL, vf_load(room->tile + r * NR + VL));
        }
        return;
    }
    for (int r = 0; r < a.mr; r++) {
        ask_l1(c + r * s->ld);
        ask_l1(c + r * s->ld + b.n - 1);
    }
    if (s->ends)
        last_tile(g, room, run, s, a, b, e, j);
    else
        run(s->kc, a.a, s->lda, &b, &e);
}

/* Few rows of A: B is read where it lies, but for the last columns, which do not fill a vector. */
static bool reads_in_place(const struct gemm_args *g)
{
    return !g->panels.at && g->b_col == 1 && g->m <= 4 * MR && g->b_type == AD_F32;
}

/* Rows that lie a multiple of this many bytes apart meet in so few sets of the second-level cache that a panel's numbers, asked
 * for one by one, throw one another out: then all the strip's panels are copied at once, row by row. */
enum { CROWDED = 16384 };

/* The first group of A comes to the strip's column j: B's panel is copied, unless it is read in place or is there already;
 * and where the next one is copied from. */
static void first_time(const struct gemm_args *g, struct room *room, const struct strip *s, int64_t j, struct panel *b)
{
    int64_t k = s->k, row = g->b_row * size_as(g->b_type), end = j + b->width;
    bool crowded = g->b_col == 1 && row % CROWDED == 0 && !s->beside;
    float *to = room->b + j / NR * panel_size(s->kc);
    bool there = s->beside && j > 0 && j + NR <= s->n; /* as jobs_of has it */
    if (!crowded && j >= s->first && !there) gemm_pack_b(g, s->j0 + j, b->n, k, s->kc, to);
    if (crowded && j == s->first) gemm_pack_b(g, s->j0 + j, s->n - j, k, s->kc, to);
    if (end >= s->n) end = 0, k += s->kc;
    if (g->b_col != 1 || crowded || s->beside || k >= g->k) return;
    b->next = at_as(g->b_type, g->b, k * g->b_row + s->j0 + end);
    b->next_row = row;
    b->next_last = NR * size_as(g->b_type) - 1;
}

/* Of rows that are read where they lie and are longer than the block of K, a group's lines meet in so few sets of a
 * second-level cache of 512 KB that those asked for are gone again when they are wanted, and the processor foresees runs that
 * long by itself: 1.04 to 1.1 times as fast without (Zen 3, two threads). Short rows are another matter. */
static bool asks_for_a(const struct gemm_args *g, const struct strip *s)
{
    return VL > 8 || !s->lda || g->k <= s->block;
}

/* ---- copying beside the multiplying --------------------------------------------------------------------------------- */

/* Both operands are copied as they lie, A by columns: the gradient of weights. */
static bool copies_beside(const struct gemm_args *g, bool by_row)
{
    return !g->panels.at && !g->source && !by_row && g->b_col == 1 && g->a_type == AD_F32 && g->b_type == AD_F32 &&
           !reads_in_place(g) && !g->stream;
}

/* The first rows are asked for; the tile that copies asks for the rest. */
static struct copying copying_of(const float *from, int64_t row, int64_t rows, float *to)
{
    struct copying c = {.from = (const char *)from, .to = to, .from_row = row * (int64_t)sizeof *from, .rows = rows};
    for (int64_t r = 0; r < COPY_AHEAD && r < rows; r++) ask_l2(c.from + r * c.from_row);
    return c;
}

static void copied(struct copying *c, int64_t rows, int64_t to_row)
{
    c->rows -= rows;
    c->from += rows * c->from_row;
    c->to += rows * to_row;
}

/* Rows that no tile has copied. */
SIMD_FN void copy_rest(struct copying *c, int vectors, int64_t to_row)
{
    for (; c->rows > 0; c->rows--) copy_row(c, vectors, to_row);
}

/* What is copied while a group meets a panel of B: of the first group the next panel, of each a panel of the next group's A. */
struct jobs {
    struct copying a, b;
};

/* Column j: the panels of A come last, when the group has come to the last panels of B. */
static struct jobs jobs_of(const struct gemm_args *g, struct room *room, struct strip *s, const struct heights *h,
                           struct group p, struct group next, int64_t next_k, int64_t next_kc, int64_t j)
{
    struct jobs job = {0};
    int64_t end = j + NR, left = (s->n - j + NR - 1) / NR, y = next.panels - left;
    if (p.first == 0 && end + NR <= s->n) {
        const float *from = (const float *)g->b + s->k * g->b_row + s->j0 + end;
        job.b = copying_of(from, g->b_row, s->kc, room->b + end / NR * panel_size(s->kc));
    }
    if (y < 0 || next_kc <= 0 || (s->n + NR - 1) / NR < next.panels) return job;
    struct group one = group_of(h, next.first + y, 1);
    float *to = room->a[!s->turn] + y * HEAP;
    if (one.i + VL <= g->m)
        job.a = copying_of((const float *)g->a + one.i + next_k * g->a_col, g->a_col, next_kc, to);
    else
        pack_a(g, false, h, one, next_k, next_kc, to);
    s->a_there = left == 1;
    return job;
}

/* The group's tiles by one panel of B, with what they copy. */
static void group_times_panel(const struct gemm_args *g, struct room *room, const struct strip *s,
                              const struct heights *h, struct group p, struct panel b, int64_t j, struct ahead *next_a,
                              struct jobs job)
{
    int64_t each = s->kc / BLOCK_UNROLL * (BLOCK_UNROLL / COPY_EACH); /* rows that a tile copies */
    for (int64_t x = 0, i = p.i; x < p.panels; x++) {
        struct rows a = {room->a[s->turn] + x * HEAP, i, height(h, p.first + x)};
        if (s->lda) a.a = (const float *)g->a + i * s->lda + s->k;
        ask(next_a);
        bool whole = b.width == NR && each > 0;
        b.of_a = whole && job.a.rows >= each ? &job.a : NULL;
        b.of_b = whole && job.b.rows >= each ? &job.b : NULL;
        tile(g, room, s, a, b, j);
        if (b.of_a) copied(&job.a, each, COLUMN);
        if (b.of_b) copied(&job.b, each, NR);
        b.next += s->tall ? s->kc * 8 : s->kc / NEXT_EACH * b.next_row;
        i += a.mr;
    }
    copy_rest(&job.a, 1, COLUMN);
    copy_rest(&job.b, 2, NR);
}

/* A group of panels of A meets the strip's panels of B. */
static void group_times_strip(const struct gemm_args *g, struct room *room, struct strip *s, const struct heights *h,
                              struct group p)
{
    int64_t size = panel_size(s->kc), panels = (s->n + NR - 1) / NR;
    struct group next = p;
    if (s->a_there)
        s->turn = !s->turn;
    else if (!s->lda)
        pack_a(g, s->by_row, h, p, s->k, s->kc, room->a[s->turn]);
    s->a_there = false;
    int64_t next_k = s->k, next_kc = s->kc;
    if (p.first + p.panels < h->panels)
        next = group_of(h, p.first + p.panels, s->group);
    else
        next = group_of(h, 0, s->group), next_k += s->kc, next_kc = min_of(s->block, g->k - next_k);
    struct ahead next_a = {0};
    if (asks_for_a(g, s) && !s->beside) next_a = ahead_of_a(g, s->by_row, next, next_k, next_kc, p.panels * panels);
    for (int64_t j = 0; j < s->n;) {
        int64_t width = j < s->first ? min_of(NR, s->first - j) : panel_width(s->n, j);
        struct panel b = {.b = s->b + j / NR * size, .ldb = width, .n = min_of(width, s->n - j), .width = width};
        struct jobs job = {0};
        b.next = (const char *)(s->tall && j + NR < s->n ? b.b + size : s->b);
        if (j < s->first) b.b = (const float *)g->b + s->k * g->b_row + s->j0 + j, b.ldb = g->b_row;
        if (p.first == 0 && !g->panels.at) first_time(g, room, s, j, &b);
        if (s->beside) job = jobs_of(g, room, s, h, p, next, next_k, next_kc, j);
        group_times_panel(g, room, s, h, p, b, j, &next_a, job);
        j += width;
    }
}

/* Where a processor takes two multiply-adds a cycle, low tiles ask the second-level cache for a panel of B as fast as it
 * can give, unless the first holds it: tall ones are 1.02 to 1.1 times as fast there (Emerald Rapids, one and two threads,
 * blocks of K of 384 and 512; 0.91 to 1.0 of 256). Rows of A a multiple of 4 KB apart would meet in one set of the first,
 * which has room for twelve (0.95). Zen 4, with one a cycle, was measured with low ones. */
static bool takes_tall(const struct gemm_args *g, int64_t block)
{
    enum { SHORT = 320, SETS = 4096 / sizeof(float) }; /* 40 KB of B */
    return VL > 8 && block > SHORT && g->a_row % SETS != 0 && gemm_two_a_cycle();
}

/* All rows, columns j0 .. j0+n-1 (at most most_columns() where B is packed here), all of K, summed at `sum` with rows ld
 * apart. */
static void strip(const struct gemm_args *g, struct room *room, int64_t j0, int64_t n, float *sum, int64_t ld)
{
    bool in_place = gemm_reads_a(g), tall = in_place && takes_tall(g, gemm_k_block(g->k));
    struct heights h = heights_of(g->m, in_place && !tall ? MR_IN_PLACE : MR);
    struct strip s = {.j0 = j0,
                      .n = n,
                      .first = reads_in_place(g) ? n / VL * VL : 0,
                      .block = gemm_k_block(g->k),
                      .lda = in_place ? g->a_row : 0,
                      .group = tall       ? GROUP_TALL
                               : in_place ? GROUP_IN_PLACE
                                          : GROUP,
                      .tall = tall,
                      .sum = sum,
                      .ld = ld};
    s.by_row = g->source ? !g->source->by_column : g->a_col == 1 || g->k == 1;
    s.beside = copies_beside(g, s.by_row);
    bool ends = g->bias || g->residual || g->act || g->c_type != AD_F32;
    for (s.k = 0; s.k < g->k; s.k += s.block) {
        s.kc = min_of(s.block, g->k - s.k);
        s.b = g->panels.at ? panel_at(&g->panels, s.k, s.kc, s.block, j0) : room->b;
        s.ends = ends && s.k + s.kc == g->k;
        for (int64_t first = 0; first < h.panels; first += s.group)
            group_times_strip(g, room, &s, &h, group_of(&h, first, s.group));
    }
}

/* A C of 16 bits is summed in memory of this thread, by pieces that the second-level cache holds; B is packed again for
 * each lot of rows, which are so many that this costs little. */
static void multiply_half(const struct gemm_args *g)
{
    enum { ROWS = 192, COLUMNS = 384 }; /* with the room 1.75 MB: a thread's stack may have 2 */
    struct room room;
    float sum[ROWS * COLUMNS] __attribute__((aligned(64)));
    for (int64_t j = 0; j < g->n; j += COLUMNS)
        for (int64_t i = 0; i < g->m; i += ROWS) {
            struct gemm_source source;
            struct gemm_args s = *g;
            s.m = min_of(ROWS, g->m - i);
            if (g->source)
                source = gemm_source_at(g->source, i, 0), s.source = &source;
            else
                s.a = at_as(g->a_type, g->a, i * g->a_row);
            s.c = at_as(g->c_type, g->c, i * g->c_row);
            if (g->residual) s.residual = at_as(g->res_type, g->residual, i * g->res_row);
            strip(&s, &room, j, min_of(COLUMNS, g->n - j), sum, COLUMNS);
        }
}

void gemm_multiply(const struct gemm_args *g)
{
    if (g->c_type != AD_F32) {
        multiply_half(g);
        return;
    }
    struct room room;
    int64_t n = g->panels.at ? KEPT_COLUMNS : most_columns(gemm_k_block(g->k));
    int64_t strips = (g->n + n - 1) / n; /* about equally wide */
    n = ((g->n + strips - 1) / strips + NR - 1) / NR * NR;
    for (int64_t j = 0; j < g->n; j += n) strip(g, &room, j, min_of(n, g->n - j), (float *)g->c + j, g->c_row);
    if (g->stream) stream_end();
}
#endif
