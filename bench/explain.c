/* A step explained as text. See explain.h. */
#include "bench/explain.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/program.h"
#include "base/buf.h"
#include "base/mem.h"
#include "base/text.h"

void bench_explain_plan(struct bench_explained *x, const struct ad_plan *p)
{
    x->stats = ad_plan_stats(p);
    x->n = ad_plan_timings(p, NULL);
    x->t = mem_zero(x->n + 1, sizeof *x->t);
    ad_plan_timings(p, x->t);
    x->n_piece = ad_plan_pieces(p, NULL);
    x->piece = mem_zero(x->n_piece + 1, sizeof *x->piece);
    ad_plan_pieces(p, x->piece);
    x->timed = x->n && x->t[0].calls > 0;
    x->border = x->n;
    for (size_t i = 0; i < x->n; i++) {
        if (x->t[i].live > x->t[x->peak].live) x->peak = i;
        if (x->t[i].part == AD_BACKWARD && x->border == x->n) x->border = i;
    }
}

void bench_explain_free(struct bench_explained *x)
{
    free(x->t);
    free(x->piece);
}

/* ---- sums -------------------------------------------------------------------------------------------------------- */

static void layer_name(char *out, size_t size, const char *path, int depth)
{
    size_t n = 0;
    for (int part = 0; path[n] && part < depth; part++) {
        if (part) n++;
        n += strcspn(path + n, ".");
    }
    snprintf(out, size, "%.*s", (int)n, n ? path : "");
    if (!n) snprintf(out, size, "(no layer)");
}

static struct bench_layer *layer_of(const struct bench_explained *x, struct bench_layer *list, size_t *n,
                                    const char *path)
{
    char name[96];
    layer_name(name, sizeof name, path, x->depth);
    for (size_t i = 0; i < *n; i++)
        if (!strcmp(list[i].name, name)) return &list[i];
    struct bench_layer *l = &list[(*n)++];
    memcpy(l->name, name, sizeof name);
    return l;
}

size_t bench_explain_layers(const struct bench_explained *x, struct bench_layer **out)
{
    struct bench_layer *list = mem_zero(x->n + x->n_piece + 1, sizeof *list);
    size_t n = 0;
    for (size_t i = 0; i < x->n; i++) {
        const struct ad_timing *t = &x->t[i];
        struct bench_layer *l = layer_of(x, list, &n, t->path);
        double limit = ad_roofline(t, 1, &x->machine);
        l->calls++;
        l->flops += t->flops;
        l->limit_s += limit;
        if (t->calls) l->seconds += t->seconds / (double)t->calls;
        if (t->part == AD_AGAIN) l->again_flops += t->flops, l->again_s += limit;
    }
    for (size_t i = 0; i < x->n_piece; i++)
        if (x->piece[i].kept) layer_of(x, list, &n, x->piece[i].path)->kept += (double)x->piece[i].bytes;
    *out = list;
    return n;
}

static int by_calls(const void *a, const void *b)
{
    const struct bench_chain *x = a, *y = b;
    return x->calls != y->calls ? (x->calls < y->calls ? 1 : -1) : strcmp(x->ops, y->ops);
}

size_t bench_explain_chains(const struct bench_explained *x, struct bench_chain **out)
{
    struct bench_chain *list = mem_zero(x->n + 1, sizeof *list);
    size_t n = 0;
    for (size_t i = 0; i < x->n; i++) {
        const struct ad_program *f = x->t[i].fused;
        char ops[160] = "";
        for (int k = 0, at = 0; f && k < f->n_lines && at < (int)sizeof ops; k++)
            at += snprintf(ops + at, sizeof ops - (size_t)at, "%s%s", k ? " + " : "", f->line[k].op->name);
        size_t k = 0;
        while (k < n && strcmp(list[k].ops, ops)) k++;
        if (!f) continue;
        if (k == n) memcpy(list[n++].ops, ops, sizeof ops);
        list[k].calls++;
        list[k].bytes += x->t[i].bytes;
    }
    qsort(list, n, sizeof *list, by_calls);
    *out = list;
    return n;
}

static int largest_first(const void *a, const void *b, void *pieces)
{
    const struct ad_piece *p = pieces;
    size_t x = *(const size_t *)a, y = *(const size_t *)b;
    return p[x].bytes != p[y].bytes ? (p[x].bytes < p[y].bytes ? 1 : -1) : x < y ? -1 : 1;
}

size_t bench_explain_alive(const struct bench_explained *x, size_t at, size_t **out)
{
    size_t n = 0;
    *out = mem_zero(x->n_piece + 1, sizeof **out);
    for (size_t i = 0; i < x->n_piece; i++)
        if (x->piece[i].first <= at && at <= x->piece[i].last) (*out)[n++] = i;
    qsort_r(*out, n, sizeof **out, largest_first, x->piece);
    return n;
}

const char *bench_explain_kind(const struct ad_piece *p)
{
    return p->scratch               ? "scratch"
           : p->kept                ? "kept"
           : p->part == AD_AGAIN    ? "again"
           : p->part == AD_BACKWARD ? "gradient"
                                    : "here";
}

char *bench_explain_shape(char out[120], const struct ad_piece *p)
{
    char shape[96];
    if (p->scratch)
        snprintf(out, 120, "-");
    else
        snprintf(out, 120, "%s %s", ad_dtype_name(p->dtype), ad_shape_text(shape, p->shape));
    return out;
}

double bench_explain_bytes(const struct bench_explained *x, const char *kind)
{
    double bytes = 0;
    for (size_t i = 0; i < x->n_piece; i++) {
        const struct ad_piece *p = &x->piece[i];
        if (p->first <= x->peak && x->peak <= p->last && !strcmp(bench_explain_kind(p), kind))
            bytes += (double)p->bytes;
    }
    return bytes;
}

/* ---- text -------------------------------------------------------------------------------------------------------- */

enum { COLUMNS = 72, LINES = 8, LARGEST = 12, CHAINS = 8 };

/* The bytes alive over the calls, as a picture of block characters. */
static void add_picture(const struct bench_explained *x, struct buf *out)
{
    static const char *const block[] = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    size_t columns = x->n < COLUMNS ? x->n : COLUMNS;
    double top = (double)x->t[x->peak].live, high[COLUMNS] = {0};
    char size[32];
    for (size_t i = 0; i < x->n; i++) {
        size_t c = i * columns / x->n;
        high[c] = fmax(high[c], (double)x->t[i].live / top);
    }
    for (int line = LINES - 1; line >= 0; line--) {
        buf_printf(out, "%10s ", line == LINES - 1 ? text_size(size, sizeof size, top) : line == 0 ? "0" : "");
        for (size_t c = 0; c < columns; c++) {
            double eighths = (high[c] * LINES - line) * 8;
            buf_str(out, block[eighths <= 0 ? 0 : eighths >= 8 ? 8 : (int)ceil(eighths)]);
        }
        buf_str(out, "\n");
    }
    size_t border = x->border * columns / x->n, peak = x->peak * columns / x->n;
    buf_printf(out, "%10s ", "");
    for (size_t c = 0; c < columns; c++) buf_str(out, c == peak ? "^" : c < border ? "-" : "=");
    buf_str(out, "  - forward  = backward  ^ peak\n");
}

static void add_memory(const struct bench_explained *x, struct buf *out)
{
    char a[32], b[32];
    double all = (double)x->stats.arena_bytes;
    for (int i = 0; i < x->n_held; i++) all += x->held[i].bytes;
    buf_printf(out, "memory of a step  %s", text_size(a, sizeof a, all));
    if (x->budget > 0) buf_printf(out, " of the %s it may take", text_size(a, sizeof a, x->budget));
    buf_str(out, "\n");
    for (int i = 0; i < x->n_held; i++)
        buf_printf(out, "  %-14s %10s\n", x->held[i].what, text_size(a, sizeof a, x->held[i].bytes));
    buf_printf(out, "  %-14s %10s", "activations", text_size(a, sizeof a, (double)x->stats.arena_bytes));
    if (x->stats.arena_bytes < x->stats.free_bytes)
        buf_printf(out, "  (%s if nothing were computed again for the limit)",
                   text_size(b, sizeof b, (double)x->stats.free_bytes));
    buf_str(out, "\n\n");
}

static void add_time(const struct bench_explained *x, struct buf *out)
{
    double limit = ad_roofline(x->t, x->n, &x->machine), measured = 0, again = 0, flops = 0;
    int64_t calls = 0;
    for (size_t i = 0; i < x->n; i++) {
        if (x->timed) measured += x->t[i].seconds / (double)x->t[i].calls;
        flops += x->t[i].flops;
        if (x->t[i].part != AD_AGAIN) continue;
        again += ad_roofline(&x->t[i], 1, &x->machine);
        calls++;
    }
    buf_printf(out, "time of a step    %.4g s at the least, for %.2f GFLOP at %.0f GFLOP/s and %.1f GB/s", limit,
               flops * 1e-9, x->machine.flops * 1e-9, x->machine.bytes * 1e-9);
    if (x->timed) buf_printf(out, "; measured %.4g s", measured);
    buf_printf(out, "\n  computed again  %lld of %zu calls, %.2f GFLOP, %.4g s of it\n", (long long)calls, x->n,
               x->stats.again_flops * 1e-9, again);
    buf_printf(out, "  planned in      %.1f ms\n\n", 1e3 * x->stats.build_s);
}

static void add_layers(const struct bench_explained *x, struct buf *out)
{
    struct bench_layer *l;
    size_t n = bench_explain_layers(x, &l);
    char kept[32];
    buf_printf(out, "%-36s %6s %9s %9s %9s%s %10s\n", "layer", "calls", "GFLOP", "again", "least ms",
               x->timed ? "        ms" : "", "kept");
    for (size_t i = 0; i < n; i++) {
        buf_printf(out, "%-36s %6lld %9.3f %9.3f %9.3f", l[i].name, (long long)l[i].calls, l[i].flops * 1e-9,
                   l[i].again_flops * 1e-9, 1e3 * l[i].limit_s);
        if (x->timed) buf_printf(out, " %9.3f", 1e3 * l[i].seconds);
        buf_printf(out, " %10s\n", l[i].kept > 0 ? text_size(kept, sizeof kept, l[i].kept) : "-");
    }
    buf_str(out, "\n");
    free(l);
}

static void add_largest(const struct bench_explained *x, struct buf *out)
{
    static const char *const kinds[] = {"kept", "again", "gradient", "here", "scratch"};
    size_t *alive, n = bench_explain_alive(x, x->peak, &alive);
    char a[32], shape[120];
    const struct ad_timing *t = &x->t[x->peak];
    buf_printf(out, "at the peak, call %zu of %zu (%s%s%s): %s in %zu pieces:", x->peak + 1, x->n, t->path,
               *t->path ? " " : "", t->op, text_size(a, sizeof a, (double)t->live), n);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        buf_printf(out, "%s %s %s", i ? "," : "", kinds[i], text_size(a, sizeof a, bench_explain_bytes(x, kinds[i])));
    buf_printf(out, "\n%10s  %-8s  %-28s %-20s %s\n", "bytes", "kind", "shape", "op", "layer");
    for (size_t i = 0; i < n && i < LARGEST; i++) {
        const struct ad_piece *p = &x->piece[alive[i]];
        buf_printf(out, "%10s  %-8s  %-28s %-20s %s\n", text_size(a, sizeof a, (double)p->bytes), bench_explain_kind(p),
                   bench_explain_shape(shape, p), p->op, *p->path ? p->path : "(no layer)");
    }
    buf_str(out, "\n");
    free(alive);
}

static void add_chains(const struct bench_explained *x, struct buf *out)
{
    struct bench_chain *c;
    size_t n = bench_explain_chains(x, &c);
    buf_printf(out, "fused             %lld of %lld calls are chains of elementwise ops%s\n", (long long)x->stats.fused,
               (long long)x->stats.steps,
               n > CHAINS ? "; the most frequent:"
               : n        ? ":"
                          : "");
    for (size_t i = 0; i < n && i < CHAINS; i++) buf_printf(out, "%6lld x  %s\n", (long long)c[i].calls, c[i].ops);
    free(c);
}

void bench_explain_text(const struct bench_explained *x, struct buf *out)
{
    buf_printf(out, "%s   %s\n\n", x->name, x->about);
    add_memory(x, out);
    if (!x->n) return;
    add_time(x, out);
    add_picture(x, out);
    buf_str(out, "\n");
    add_layers(x, out);
    add_largest(x, out);
    add_chains(x, out);
}
