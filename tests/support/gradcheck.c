#include "tests/support/gradcheck.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/internal.h"
#include "autograd/ops/ops.h"
#include "autograd/plan.h"
#include "base/buf.h"
#include "base/mem.h"
#include "base/rng.h"
#include "tests/support/halfcheck.h"

enum { MAX_VARS = 24, GUARD = 64 };

/* A named input of the graph and its numbers. */
struct var {
    char name[16];
    enum ad_dtype dtype; /* AD_F64 stands for "the float type of this graph" */
    struct ad_shape shape;
    int64_t count;
    double *x;
    val v;
};

struct check {
    const struct ad_op *op;
    const struct ad_case *c;
    int number;
    uint64_t seed;
    struct rng rng;
    struct var var[MAX_VARS]; /* the case's inputs, then one weight an output, then one direction an input */
    int n_in, n_var;
    struct err *e;
};

/* ---- a failure tells everything ---------------------------------------------------------------------------------- */

static int fail(struct check *k, const char *fmt, ...) PRINTF_LIKE(2, 3);
static int fail(struct check *k, const char *fmt, ...)
{
    struct buf b = {0};
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    buf_printf(&b, "op %s, case %d, seed %llu, inputs \"%s\": %s; run it alone: %s %s %d %llu", k->op->name, k->number,
               (unsigned long long)k->seed, k->c->in, text, program_invocation_name, k->op->name, k->number,
               (unsigned long long)k->seed);
    int rc = err_set(k->e, ERR_STATE, "%s", b.data);
    buf_free(&b);
    return rc;
}

/* ---- inputs ------------------------------------------------------------------------------------------------------ */

/* "3x7" or "()" or nothing -> a shape; `*p` moves behind it. */
static struct ad_shape parse_shape(const char **p)
{
    struct ad_shape s = {0};
    if (!strncmp(*p, "()", 2)) *p += 2;
    while (**p >= '0' && **p <= '9' && s.rank < AD_MAX_DIMS) {
        char *end;
        s.dim[s.rank++] = strtoll(*p, &end, 10);
        *p = *end == 'x' ? end + 1 : end;
    }
    return s;
}

static int fill_offsets(struct var *v, struct rng *r, int64_t items, int64_t rows)
{
    v->dtype = AD_I32;
    v->shape = SHAPE(items + 1);
    v->count = items + 1;
    v->x = mem_zero((size_t)v->count, sizeof *v->x);
    v->x[items] = (double)rows;
    for (int64_t i = 1; i < items; i++) { /* insertion keeps them sorted; equal ones are empty runs */
        double cut = (double)rng_below(r, rows + 1);
        int64_t at = i;
        for (; at > 1 && v->x[at - 1] > cut; at--) v->x[at] = v->x[at - 1];
        v->x[at] = cut;
    }
    return 0;
}

/* Numbers in [lo, hi), rounded to float so that f32 and f64 graphs see the same ones. With `apart`: on a grid of that
 * width with an offset of its own for each of the tensors, so that neither 0 nor a multiple of `apart` nor an equal
 * pair occurs. */
static int fill_floats(struct check *k, struct var *v, int tensor, int tensors)
{
    double lo = k->c->lo, hi = k->c->hi, apart = k->c->apart;
    if (lo == 0 && hi == 0) lo = -1.5, hi = 1.5;
    v->x = mem_zero((size_t)v->count + 1, sizeof *v->x);
    for (int64_t i = 0; i < v->count && apart == 0; i++) v->x[i] = (float)rng_range(&k->rng, lo, hi);
    if (apart == 0) return 0;
    double first = ceil(lo / apart), slots = floor(hi / apart) - first;
    if (slots < (double)v->count)
        return fail(k, "%g .. %g has no room for %lld numbers %g apart", lo, hi, (long long)v->count, apart);
    int64_t n = (int64_t)slots, *slot = mem_alloc((size_t)n * sizeof *slot);
    for (int64_t i = 0; i < n; i++) slot[i] = i;
    for (int64_t i = 0; i < v->count; i++) {
        int64_t j = i + rng_below(&k->rng, n - i), t = slot[j];
        slot[j] = slot[i];
        v->x[i] = (float)((first + (double)t + (tensor + 1.0) / (tensors + 1.0)) * apart);
    }
    free(slot);
    return 0;
}

static int parse_inputs(struct check *k)
{
    int tensors = 0, tensor = 0;
    for (const char *p = k->c->in; *p; p += strcspn(p, " "), p += strspn(p, " ")) tensors += *p >= '(' && *p <= '9';
    for (const char *p = k->c->in; *p; p += strspn(p, " ")) {
        struct var *v = &k->var[k->n_in];
        if (k->n_in == MAX_VARS / 3) return fail(k, "too many inputs");
        snprintf(v->name, sizeof v->name, "x%d", k->n_in++);
        if (!strncmp(p, "off:", 4)) {
            char *end;
            int64_t items = strtoll(p + 4, &end, 10), rows = *end == '/' ? strtoll(end + 1, &end, 10) : -1;
            if (rows < 0) return fail(k, "cannot read '%s'", p);
            fill_offsets(v, &k->rng, items, rows);
            p = end;
        } else {
            bool i32 = !strncmp(p, "i32:", 4), i64 = !strncmp(p, "i64:", 4);
            v->dtype = i32 ? AD_I32 : i64 ? AD_I64 : AD_F64;
            if (i32 || i64) p += 4;
            v->shape = parse_shape(&p);
            v->count = ad_count(v->shape);
            if (i32 || i64) {
                char *end = NULL;
                int64_t below = *p == '<' ? strtoll(p + 1, &end, 10) : 0;
                if (below < 1) return fail(k, "cannot read '%s'", p);
                v->x = mem_zero((size_t)v->count + 1, sizeof *v->x);
                for (int64_t i = 0; i < v->count; i++) v->x[i] = (double)rng_below(&k->rng, below);
                p = end;
            } else if (fill_floats(k, v, tensor++, tensors)) {
                return ERR_STATE;
            }
        }
        if (*p && *p != ' ') return fail(k, "cannot read '%s'", p);
    }
    k->n_var = k->n_in;
    return 0;
}

/* A random tensor like `shape`, as a further input. */
static struct var *add_random(struct check *k, const char *prefix, int i, struct ad_shape s)
{
    CHECK(k->n_var < MAX_VARS);
    struct var *v = &k->var[k->n_var++];
    *v = (struct var){.dtype = AD_F64, .shape = s, .count = ad_count(s)};
    snprintf(v->name, sizeof v->name, "%s%d", prefix, i);
    v->x = mem_zero((size_t)v->count + 1, sizeof *v->x);
    for (int64_t j = 0; j < v->count; j++)
        v->x[j] = (float)rng_range(&k->rng, 0.3, 1.3) * (rng_u32(&k->rng) & 1 ? 1 : -1);
    return v;
}

/* ---- the graph --------------------------------------------------------------------------------------------------- */

struct built {
    struct ad_graph *g;
    int n_out, n_float; /* outputs of the case; float inputs */
    val out[8];
    int float_in[MAX_VARS];
    val loss, dx[MAX_VARS]; /* dx of the float inputs */
};

static val as(struct ad_graph *g, val v, enum ad_dtype t)
{
    return ad_cast(g, v, t);
}

static val dot(struct ad_graph *g, val a, val b)
{
    return ad_sum_all(g, ad_mul(g, a, b));
}

/* The case with float inputs of dtype t: its outputs, loss and gradients. New weights are drawn where there are none
 * yet. */
static struct built build(struct check *k, enum ad_dtype t, bool gradient)
{
    struct built b = {.g = ad_graph_new()};
    val in[MAX_VARS] = {0}, x[MAX_VARS];
    for (int i = 0; i < k->n_in; i++) {
        struct var *v = &k->var[i];
        in[i] = v->v = ad_input(b.g, v->name, v->dtype == AD_F64 ? t : v->dtype, v->shape);
        if (v->dtype == AD_F64) b.float_in[b.n_float] = i, x[b.n_float++] = in[i];
    }
    ad_push(b.g, "check");
    b.n_out = k->c->build(b.g, in, b.out);
    ad_pop(b.g);
    if (!gradient) return b;
    bool draw = k->n_var == k->n_in;
    for (int i = 0; i < b.n_out && b.out[i]; i++) {
        struct var *w = draw ? add_random(k, "w", i, ad_shape_of(b.g, b.out[i])) : &k->var[k->n_in + i];
        w->v = ad_input(b.g, w->name, t, w->shape);
        val part = dot(b.g, w->v, as(b.g, b.out[i], t));
        b.loss = b.loss ? ad_add(b.g, b.loss, part) : part;
    }
    ad_grad(b.g, &b.loss, NULL, 1, x, b.n_float, b.dx);
    return b;
}

static const char *name_of(char room[24], const char *prefix, int i)
{
    snprintf(room, 24, "%s%d", prefix, i);
    return room;
}

/* ---- running ----------------------------------------------------------------------------------------------------- */

static void store(enum ad_dtype t, void *to, int64_t i, double x)
{
    ad_set(&(struct ad_tensor){.data = to, .dtype = t}, i, x);
}
static double load(enum ad_dtype t, const void *from, int64_t i)
{
    return ad_get(&(struct ad_tensor){.data = (void *)(uintptr_t)from, .dtype = t}, i);
}

/* Binds every var, moved by `step` along `move` (one array a var, NULL: not moved), and runs. */
static int run(struct check *k, struct ad_plan *p, enum ad_dtype t, double step, double *const *move)
{
    void *room[MAX_VARS];
    for (int i = 0; i < k->n_var; i++) {
        const struct var *v = &k->var[i];
        enum ad_dtype d = v->dtype == AD_F64 ? t : v->dtype;
        room[i] = mem_zero((size_t)v->count + 1, 8);
        for (int64_t j = 0; j < v->count; j++)
            store(d, room[i], j, v->x[j] + (move && move[i] ? step * move[i][j] : 0));
        ad_bind(p, v->name, room[i]);
    }
    struct err e = {0};
    int rc = ad_run(p, k->seed, 3, &e);
    for (int i = 0; i < k->n_var; i++) free(room[i]);
    return rc ? fail(k, "running it failed: %s", e.msg) : 0;
}

/* ---- gradients --------------------------------------------------------------------------------------------------- */

/* The slope of output "f" along `move` by differences of fourth order against the sum over i of <move, "d"i>. */
static int slope(struct check *k, struct ad_plan *p, const char *what, const int *var, int n, double *const *move)
{
    const double h = 5e-4;
    double f[4], at[] = {-2 * h, -h, h, 2 * h}, grad = 0, norm = 0, length = 0;
    int rc = run(k, p, AD_F64, 0, NULL);
    if (rc) return rc;
    double value = ad_result_scalar(p, "f");
    for (int i = 0; i < n; i++) {
        char room[24];
        const double *d = ad_result(p, name_of(room, "d", i), NULL);
        for (int64_t j = 0; j < k->var[var[i]].count; j++) {
            norm += d[j] * d[j];
            if (!move[var[i]]) continue;
            grad += d[j] * move[var[i]][j];
            length += move[var[i]][j] * move[var[i]][j];
        }
    }
    for (int i = 0; i < 4; i++) {
        if (run(k, p, AD_F64, at[i], move)) return ERR_STATE;
        f[i] = ad_result_scalar(p, "f");
    }
    double diff = (8 * (f[2] - f[1]) - (f[3] - f[0])) / (12 * h), tol = k->c->tol ? k->c->tol : 1e-6;
    /* Rounding of f leaves about 1e-12 (1 + |f|) in the difference; tol times the last two terms stays well above it.
     */
    double scale = fmax(fmax(fabs(diff), fabs(grad)), fmax(1e-3 * sqrt(norm * length), 1e-4 * (1 + fabs(value))));
    if (fabs(diff - grad) <= tol * scale) return 0;
    return fail(k, "%s: the slope is %.12g by differences and %.12g by the gradient", what, diff, grad);
}

/* Along random directions: all vars together, then each alone. */
static int slopes(struct check *k, struct ad_plan *p, const char *what, const int *var, int n)
{
    double *u[MAX_VARS] = {0}, *move[MAX_VARS];
    int rc = 0;
    for (int i = 0; i < n; i++) {
        int64_t count = k->var[var[i]].count;
        u[var[i]] = mem_zero((size_t)count + 1, sizeof(double));
        for (int64_t j = 0; j < count; j++) u[var[i]][j] = rng_range(&k->rng, 0.3, 1) * (rng_u32(&k->rng) & 1 ? 1 : -1);
    }
    for (int i = -1; i < n && !rc; i++) {
        char text[80];
        memset(move, 0, sizeof move);
        for (int j = 0; j < n; j++)
            if (i < 0 || i == j) move[var[j]] = u[var[j]];
        if (i < 0)
            snprintf(text, sizeof text, "%s, all inputs", what);
        else
            snprintf(text, sizeof text, "%s, input %s alone", what, k->var[var[i]].name);
        rc = slope(k, p, text, var, n, move);
    }
    for (int i = 0; i < MAX_VARS; i++) free(u[i]);
    return rc;
}

static struct ad_plan *plan(struct check *k, const struct ad_graph *g, unsigned flags)
{
    struct err e = {0};
    struct ad_plan *p = ad_plan_new(g, NULL, flags, &e);
    if (!p) fail(k, "it cannot be planned: %s", e.msg);
    return p;
}

static int check_order(struct check *k, struct ad_graph *g, const char *what, val f, const val *d, const int *var,
                       int n)
{
    char room[24];
    if (!ad_status(g, NULL)) {
        ad_output(g, "f", f);
        for (int i = 0; i < n; i++) ad_output(g, name_of(room, "d", i), d[i]);
    }
    struct ad_plan *p = plan(k, g, AD_REFERENCE);
    int rc = p ? slopes(k, p, what, var, n) : ERR_STATE;
    ad_plan_free(p);
    return rc;
}

static int check_first(struct check *k)
{
    struct built b = build(k, AD_F64, true);
    int rc = check_order(k, b.g, "gradient", b.loss, b.dx, b.float_in, b.n_float);
    ad_graph_free(b.g);
    return rc;
}

/* h = sum of <dx_i, v_i>, by the inputs and by the weights w, in which the gradient must be linear. */
static int check_second(struct check *k)
{
    struct built b = build(k, AD_F64, true);
    val h = 0, y[MAX_VARS], dy[MAX_VARS];
    int var[MAX_VARS], n = 0, directions = k->n_var;
    for (int i = 0; i < b.n_float; i++) {
        struct var *v = add_random(k, "v", i, k->var[b.float_in[i]].shape);
        val part = dot(b.g, ad_input(b.g, v->name, AD_F64, v->shape), b.dx[i]);
        h = h ? ad_add(b.g, h, part) : part;
        var[n++] = b.float_in[i];
    }
    for (int i = 0; i < b.n_out; i++) var[n++] = k->n_in + i;
    for (int i = 0; i < n; i++) y[i] = k->var[var[i]].v;
    ad_grad(b.g, &h, NULL, 1, y, n, dy);
    int rc = check_order(k, b.g, "second order", h, dy, var, n);
    ad_graph_free(b.g);
    while (k->n_var > directions) {
        free(k->var[--k->n_var].x);
        k->var[k->n_var].x = NULL;
    }
    return rc;
}

/* ---- every way to run it ----------------------------------------------------------------------------------------- */

/* One run by `flags`; the results of outputs "o", "d" in new arrays of doubles. */
static int results(struct check *k, const struct ad_graph *g, unsigned flags, enum ad_dtype t, int n, const val *v,
                   char (*name)[24], double **x)
{
    struct ad_plan *p = plan(k, g, flags);
    if (!p) return ERR_STATE;
    int rc = run(k, p, t, 0, NULL);
    for (int i = 0; i < n; i++) {
        int64_t count = ad_count(ad_shape_of(g, v[i]));
        x[i] = mem_zero((size_t)count + 1, sizeof(double));
        const void *from = rc ? NULL : ad_result(p, name[i], NULL);
        for (int64_t j = 0; j < count && from; j++) x[i][j] = load(ad_dtype_of(g, v[i]), from, j);
    }
    ad_plan_free(p);
    return rc;
}

static bool same(double a, double b, double tol)
{
    return isnan(a) ? isnan(b) : a == b || fabs(a - b) <= tol;
}

static int compare(struct check *k, const struct ad_graph *g, const char *how, enum ad_dtype t, int n, const val *v,
                   char (*name)[24], double *const *want, double *const *got)
{
    /* Polynomials are right to 4 ulp (2.4e-7 each in f32), sums over some dozens of numbers in another order lose about
     * as much again, and a gradient is a chain of a few such steps; f64 runs the same definitions in another order. */
    double tol = t == AD_F32 ? 1e-5 : 1e-12;
    for (int i = 0; i < n; i++) {
        int64_t count = ad_count(ad_shape_of(g, v[i]));
        double top = 1;
        for (int64_t j = 0; j < count; j++)
            if (isfinite(want[i][j])) top = fmax(top, fabs(want[i][j]));
        for (int64_t j = 0; j < count; j++)
            if (!same(want[i][j], got[i][j], tol * top))
                return fail(k, "%s, %s: number %lld of %s is %.9g, the reference gives %.9g", how, ad_dtype_name(t),
                            (long long)j, name[i], got[i][j], want[i][j]);
    }
    return 0;
}

static int check_passes(struct check *k, enum ad_dtype t)
{
    static const struct {
        const char *name;
        unsigned flags;
    } ways[] = {{"all passes", 0},
                {"without fusion", AD_NO_FUSE},
                {"without kernels", AD_NO_KERNELS},
                {"without reuse", AD_NO_REUSE}};
    struct built b = build(k, t, !k->c->no_gradient);
    val v[MAX_VARS];
    char name[MAX_VARS][24];
    int n = 0;
    for (int i = 0; i < b.n_out; i++) v[n] = b.out[i], name_of(name[n++], "o", i);
    for (int i = 0; i < b.n_float && !k->c->no_gradient; i++) v[n] = b.dx[i], name_of(name[n++], "d", i);
    for (int i = 0; i < n && !ad_status(b.g, NULL); i++) ad_output(b.g, name[i], v[i]);
    double *want[MAX_VARS] = {0}, *got[MAX_VARS] = {0};
    int rc = results(k, b.g, AD_REFERENCE, t, n, v, name, want);
    for (size_t w = 0; w < sizeof ways / sizeof *ways && !rc; w++) {
        rc = results(k, b.g, ways[w].flags, t, n, v, name, got);
        if (!rc) rc = compare(k, b.g, ways[w].name, t, n, v, name, want, got);
        for (int i = 0; i < n; i++) {
            free(got[i]);
            got[i] = NULL;
        }
    }
    for (int i = 0; i < n; i++) free(want[i]);
    ad_graph_free(b.g);
    return rc;
}

/* The plain eval must write all of what infer says, and nothing else: two runs into memory filled in two ways. */
static int check_written(struct check *k)
{
    struct built b = build(k, AD_F64, false);
    char room[24], *memory[2][8];
    size_t bytes[8];
    int rc = 0;
    for (int i = 0; i < b.n_out && !ad_status(b.g, NULL); i++)
        ad_output_to_caller(b.g, name_of(room, "o", i), b.out[i]);
    struct ad_plan *p = plan(k, b.g, AD_REFERENCE);
    if (!p) rc = ERR_STATE;
    for (int way = 0; way < 2 && p; way++) {
        for (int i = 0; i < b.n_out; i++) {
            bytes[i] = (size_t)ad_count(ad_shape_of(b.g, b.out[i])) * ad_dtype_size(ad_dtype_of(b.g, b.out[i]));
            memory[way][i] = mem_alloc(bytes[i] + 2 * GUARD);
            memset(memory[way][i], way ? 0x5a : 0xa5, bytes[i] + 2 * GUARD);
            ad_bind_out(p, name_of(room, "o", i), memory[way][i] + GUARD);
        }
        if (!rc) rc = run(k, p, AD_F64, 0, NULL);
    }
    for (int i = 0; i < b.n_out && p; i++) {
        if (!rc && memcmp(memory[0][i] + GUARD, memory[1][i] + GUARD, bytes[i]))
            rc = fail(k, "the plain eval does not write all of output %d", i);
        for (int j = 0; j < GUARD && !rc; j++)
            if (memory[0][i][j] != (char)0xa5 || memory[0][i][GUARD + (int64_t)bytes[i] + j] != (char)0xa5)
                rc = fail(k, "the plain eval writes outside of output %d", i);
        free(memory[0][i]);
        free(memory[1][i]);
    }
    ad_plan_free(p);
    ad_graph_free(b.g);
    return rc;
}

/* Each node of this op, and what the reference executor feeds it, with tensors in 16 bits. */
static int check_half(struct check *k)
{
    struct built b = build(k, AD_F32, !k->c->no_gradient);
    size_t nodes = b.g->n_node;
    char room[24];
    int n = 0, rc = 0;
    for (size_t i = 1; i < nodes; i++)
        for (int j = 0; j < b.g->node[i]->n_in && b.g->node[i]->op == k->op; j++)
            ad_output(b.g, name_of(room, "i", n++), b.g->node[i]->in[j]);
    struct ad_plan *p = n ? plan(k, b.g, AD_REFERENCE) : NULL;
    if (n) rc = p ? run(k, p, AD_F32, 0, NULL) : ERR_STATE;
    n = 0;
    for (size_t i = 1; i < nodes && !rc; i++) {
        const struct ad_node *node = b.g->node[i];
        double *x[MAX_VARS] = {0};
        struct err why = {0};
        if (node->op != k->op || node->n_in > MAX_VARS) continue;
        for (int j = 0; j < node->n_in; j++) {
            struct ad_shape s;
            const void *from = ad_result(p, name_of(room, "i", n++), &s);
            x[j] = mem_zero((size_t)ad_count(s) + 1, sizeof **x);
            for (int64_t m = 0; m < ad_count(s); m++) x[j][m] = load(ad_dtype_of(b.g, node->in[j]), from, m);
        }
        if (halfcheck_node(b.g, node, x, k->seed, &why)) rc = fail(k, "in 16 bits: %s", why.msg);
        for (int j = 0; j < node->n_in; j++) free(x[j]);
    }
    ad_plan_free(p);
    ad_graph_free(b.g);
    return rc;
}

/* ---- a case, an op ----------------------------------------------------------------------------------------------- */

int gradcheck_case(const struct ad_op *op, int number, uint64_t seed, struct err *e)
{
    struct check k = {.op = op, .c = &op->cases[number], .number = number, .seed = seed, .e = e};
    k.rng = rng_make(seed, hash_str(op->name), (uint64_t)number);
    int rc = parse_inputs(&k);
    if (!rc) rc = check_written(&k);
    if (!rc && !k.c->no_gradient) rc = check_first(&k);
    if (!rc && !k.c->no_gradient && !k.c->no_second) rc = check_second(&k);
    if (!rc) rc = check_passes(&k, AD_F64);
    if (!rc) rc = check_passes(&k, AD_F32);
    if (!rc) rc = check_half(&k);
    for (int i = 0; i < MAX_VARS; i++) free(k.var[i].x);
    return rc;
}

int gradcheck_op(const struct ad_op *op, uint64_t seed, struct err *e)
{
    if (!op->n_cases) return err_set(e, ERR_STATE, "op %s has no cases", op->name);
    for (int i = 0; i < op->n_cases; i++) {
        int rc = gradcheck_case(op, i, seed, e);
        if (rc) return rc;
    }
    return 0;
}
