/* A step explained as a page. See explain.h. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/html.h"
#include "base/mem.h"
#include "base/plot.h"
#include "base/text.h"
#include "bench/explain.h"

enum { BARS = 40, LARGEST = 40 };

static void add_stats(const struct bench_explained *x, struct buf *b)
{
    char value[32], note[128], other[32];
    double all = (double)x->stats.arena_bytes, measured = 0;
    for (int i = 0; i < x->n_held; i++) all += x->held[i].bytes;
    for (size_t i = 0; i < x->n && x->timed; i++) measured += x->t[i].seconds / (double)x->t[i].calls;
    html_grid_begin(b, 170);
    note[0] = 0;
    if (x->budget > 0) snprintf(note, sizeof note, "of %s it may take", text_size(other, sizeof other, x->budget));
    html_stat(b, "memory of a step", text_size(value, sizeof value, all), *note ? note : NULL);
    snprintf(note, sizeof note, "at the peak %s alive", text_size(other, sizeof other, (double)x->t[x->peak].live));
    html_stat(b, "activations", text_size(value, sizeof value, (double)x->stats.arena_bytes), note);
    for (int i = 0; i < x->n_held; i++)
        html_stat(b, x->held[i].what, text_size(value, sizeof value, x->held[i].bytes), NULL);
    snprintf(value, sizeof value, "%.3g s", x->timed ? measured : ad_roofline(x->t, x->n, &x->machine));
    snprintf(note, sizeof note, "roofline %.3g s", ad_roofline(x->t, x->n, &x->machine));
    html_stat(b, x->timed ? "time of a step, measured" : "time of a step, at the least", value, x->timed ? note : NULL);
    snprintf(value, sizeof value, "%.4g GFLOP", x->stats.flops * 1e-9);
    snprintf(note, sizeof note, "%.1f %% of them again", 100 * x->stats.again_flops / fmax(x->stats.flops, 1));
    html_stat(b, "operations", value, note);
    html_grid_end(b);
}

/* Bytes alive by kind over the calls. */
static void add_memory(const struct bench_explained *x, struct buf *b)
{
    static const char *const kinds[] = {"kept", "again", "gradient", "here", "scratch"};
    static const char *const names[] = {"kept for the gradients", "computed again", "gradients",
                                        "made and used up in the forward part", "scratch"};
    enum { KINDS = sizeof kinds / sizeof *kinds };
    double *y[KINDS];
    struct plot_series s[KINDS];
    for (int k = 0; k < KINDS; k++) {
        y[k] = mem_zero(x->n + 1, sizeof **y);
        s[k] = (struct plot_series){names[k], NULL, y[k], (int)x->n};
    }
    for (size_t i = 0; i < x->n_piece; i++) {
        const struct ad_piece *p = &x->piece[i];
        int k = 0;
        while (strcmp(kinds[k], bench_explain_kind(p))) k++;
        for (size_t c = p->first; c <= p->last && c < x->n; c++) y[k][c] += 1e-6 * (double)p->bytes;
    }
    char peak[64], size[32];
    snprintf(peak, sizeof peak, "peak %s", text_size(size, sizeof size, (double)x->t[x->peak].live));
    struct plot_mark marks[] = {{(double)x->border, "gradients begin"}, {(double)x->peak + 0.5, peak}};
    html_section(b, "Memory over the step");
    html_note(
        b, "Bytes of activations alive while each call runs, in the order of the calls. What is kept lies there from "
           "the forward part until the gradients have read it.");
    html_card_begin(b, NULL);
    plot_areas(b, &(struct plot){.x_label = "call", .y_label = "MB", .width = 1080, .height = 380}, s, KINDS, marks, 2);
    html_card_end(b);
    for (int k = 0; k < KINDS; k++) free(y[k]);
}

static void add_bars(const struct bench_layer *l, size_t n, bool timed, struct buf *b)
{
    struct plot_bar time[BARS], flops[BARS], kept[BARS];
    int count = n < BARS ? (int)n : BARS;
    for (int i = 0; i < count; i++) {
        time[i] = (struct plot_bar){.label = l[i].name,
                                    .value = 1e3 * (timed ? l[i].seconds : l[i].limit_s),
                                    .mark = timed ? 1e3 * l[i].limit_s : 0};
        flops[i] = (struct plot_bar){.label = l[i].name,
                                     .value = 1e-9 * l[i].flops,
                                     .color = 1,
                                     .mark = l[i].again_flops > 0 ? 1e-9 * l[i].again_flops : 0};
        kept[i] = (struct plot_bar){.label = l[i].name, .value = 1e-6 * l[i].kept, .color = 2};
    }
    html_grid_begin(b, 340);
    html_card_begin(b, timed ? "ms, measured (tick: roofline)" : "ms at the roofline");
    plot_bars(b, &(struct plot){.width = 420}, time, count);
    html_card_end(b);
    html_card_begin(b, "GFLOP (tick: of those, computed again)");
    plot_bars(b, &(struct plot){.width = 420}, flops, count);
    html_card_end(b);
    html_card_begin(b, "MB kept for the gradients");
    plot_bars(b, &(struct plot){.width = 420}, kept, count);
    html_card_end(b);
    html_grid_end(b);
}

static void add_layers(const struct bench_explained *x, struct buf *b)
{
    static const char *const head[] = {"layer", "calls", "GFLOP", "of those again", "ms at the roofline", "kept", "ms"};
    struct bench_layer *l;
    size_t n = bench_explain_layers(x, &l);
    html_section(b, "By layer");
    add_bars(l, n, x->timed, b);
    html_table_begin(b, head, x->timed ? 7 : 6);
    for (size_t i = 0; i < n; i++) {
        char text[6][32];
        snprintf(text[0], sizeof text[0], "%lld", (long long)l[i].calls);
        snprintf(text[1], sizeof text[1], "%.3f", 1e-9 * l[i].flops);
        snprintf(text[2], sizeof text[2], l[i].again_flops > 0 ? "%.3f" : "", 1e-9 * l[i].again_flops);
        snprintf(text[3], sizeof text[3], "%.3f", 1e3 * l[i].limit_s);
        text[4][0] = 0;
        if (l[i].kept > 0) text_size(text[4], sizeof text[4], l[i].kept);
        snprintf(text[5], sizeof text[5], "%.3f", 1e3 * l[i].seconds);
        html_table_row(b, (const char *const[]){l[i].name, text[0], text[1], text[2], text[3], text[4], text[5]},
                       x->timed ? 7 : 6);
    }
    html_table_end(b);
    free(l);
}

static void add_piece(const struct bench_explained *x, const struct ad_piece *p, struct buf *b)
{
    char size[32], shape[120], calls[64];
    text_size(size, sizeof size, (double)p->bytes);
    snprintf(calls, sizeof calls, "%zu – %zu", p->first + 1, p->last + 1 < x->n ? p->last + 1 : x->n);
    bench_explain_shape(shape, p);
    html_table_row(b, (const char *const[]){size, bench_explain_kind(p), shape, p->op, p->path, calls}, 6);
}

static void add_pieces(const struct bench_explained *x, struct buf *b)
{
    static const char *const head[] = {"size", "kind", "shape", "op", "layer", "calls"};
    size_t *alive, n = bench_explain_alive(x, x->peak, &alive);
    char note[300];
    const struct ad_timing *t = &x->t[x->peak];
    snprintf(note, sizeof note, "Alive at call %zu of %zu, %s%s%s: %zu pieces, of which the %zu largest.", x->peak + 1,
             x->n, t->path, *t->path ? ", " : "", t->op, n, n < LARGEST ? n : (size_t)LARGEST);
    html_section(b, "The largest tensors at the peak");
    html_note(b, note);
    html_table_begin(b, head, 6);
    for (size_t i = 0; i < n && i < LARGEST; i++) add_piece(x, &x->piece[alive[i]], b);
    html_table_end(b);
    free(alive);
}

/* Calls of the same op that run a second time, summed by layer. */
static void add_again(const struct bench_explained *x, struct buf *b)
{
    static const char *const head[] = {"layer", "op", "MFLOP", "ms at the roofline", "call"};
    html_section(b, "Computed again");
    if (x->stats.recomputed == 0) {
        html_note(b, "Nothing: all that the gradients need is kept.");
        return;
    }
    html_table_begin(b, head, 5);
    for (size_t i = 0; i < x->n; i++) {
        if (x->t[i].part != AD_AGAIN) continue;
        char flops[32], ms[32], call[32];
        snprintf(flops, sizeof flops, "%.2f", 1e-6 * x->t[i].flops);
        snprintf(ms, sizeof ms, "%.3f", 1e3 * ad_roofline(&x->t[i], 1, &x->machine));
        snprintf(call, sizeof call, "%zu", i + 1);
        html_table_row(b, (const char *const[]){x->t[i].path, x->t[i].op, flops, ms, call}, 5);
    }
    html_table_end(b);
}

static void add_chains(const struct bench_explained *x, struct buf *b)
{
    static const char *const head[] = {"calls", "elementwise ops that run as one", "MB moved"};
    struct bench_chain *c;
    size_t n = bench_explain_chains(x, &c);
    html_section(b, "Fused");
    html_table_begin(b, head, 3);
    for (size_t i = 0; i < n; i++) {
        char calls[32], bytes[32];
        snprintf(calls, sizeof calls, "%lld", (long long)c[i].calls);
        snprintf(bytes, sizeof bytes, "%.2f", 1e-6 * c[i].bytes);
        html_table_row(b, (const char *const[]){calls, c[i].ops, bytes}, 3);
    }
    html_table_end(b);
    free(c);
}

void bench_explain_page(const struct bench_explained *x, struct buf *b)
{
    html_begin(b, x->name, x->about);
    if (x->n) {
        add_stats(x, b);
        add_memory(x, b);
        add_layers(x, b);
        add_pieces(x, b);
        add_again(x, b);
        add_chains(x, b);
    }
    html_end(b);
}
