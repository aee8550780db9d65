/* Tables of where a plan's time goes. See report.h. */
#include "autograd/report.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/plan.h"
#include "base/buf.h"
#include "base/mem.h"

enum { PARTS = 4 };

static double least_seconds(const struct ad_timing *t, const struct ad_limits *l)
{
    double a = l && l->flops > 0 ? t->flops / l->flops : 0, b = l && l->bytes > 0 ? t->bytes / l->bytes : 0;
    return a > b ? a : b;
}

double ad_roofline(const struct ad_timing *t, size_t n, const struct ad_limits *l)
{
    double s = 0;
    for (size_t i = 0; i < n; i++) s += least_seconds(&t[i], l);
    return s;
}

/* "image.block.3.mlp.up" -> "image.block.*.mlp" */
static void layer_name(char *out, size_t size, const char *path)
{
    size_t n = 0;
    for (int part = 0; *path && part < PARTS; part++) {
        size_t len = strcspn(path, ".");
        bool number = len > 0 && strspn(path, "0123456789") >= len;
        int wrote = snprintf(out + n, size - n, "%s%.*s", part ? "." : "", number ? 1 : (int)len, number ? "*" : path);
        n = n + (size_t)wrote < size ? n + (size_t)wrote : size - 1;
        path += len + (path[len] == '.');
    }
    if (n == 0) snprintf(out, size, "(no layer)");
}

static void name_line(struct ad_report_line *l, const struct ad_timing *t, enum ad_report_by by)
{
    memset(l, 0, sizeof *l);
    if (by == AD_BY_LAYER) {
        layer_name(l->name, sizeof l->name, t->path);
        return;
    }
    snprintf(l->name, sizeof l->name, "%s", t->op);
    snprintf(l->kernel, sizeof l->kernel, "%s", t->kernel);
}

static int by_time(const void *a, const void *b)
{
    const struct ad_report_line *x = a, *y = b;
    return x->seconds < y->seconds ? 1 : x->seconds > y->seconds ? -1 : strcmp(x->name, y->name);
}

static void print_line(const struct ad_report_line *l, double total, bool kernels, bool limits, struct buf *out)
{
    double s = l->seconds;
    buf_printf(out, kernels ? "%-24s %-18s" : "%-43s", l->name, l->kernel);
    buf_printf(out, " %8lld %9.2f %6.1f %8.1f %7.1f", (long long)l->calls, 1e3 * s, total > 0 ? 100 * s / total : 0,
               s > 0 ? 1e-9 * l->flops / s : 0, s > 0 ? 1e-9 * l->bytes / s : 0);
    if (limits) buf_printf(out, " %8.1f", s > 0 ? 100 * l->limit / s : 0);
    buf_str(out, "\n");
}

static void add(struct ad_report_line *line, const struct ad_timing *t, const struct ad_limits *l)
{
    line->calls += t->calls;
    line->seconds += t->seconds;
    line->flops += t->flops * (double)t->calls;
    line->bytes += t->bytes * (double)t->calls;
    line->limit += least_seconds(t, l) * (double)t->calls;
}

size_t ad_report_lines(const struct ad_timing *t, size_t n, enum ad_report_by by, const struct ad_limits *l,
                       struct ad_report_line *out)
{
    size_t lines = 0;
    for (size_t i = 0; i < n; i++) {
        struct ad_report_line x;
        size_t k = 0;
        name_line(&x, &t[i], by);
        while (k < lines && (strcmp(out[k].name, x.name) || strcmp(out[k].kernel, x.kernel))) k++;
        if (k == lines) out[lines++] = x;
        add(&out[k], &t[i], l);
    }
    qsort(out, lines, sizeof *out, by_time);
    return lines;
}

void ad_report(const struct ad_timing *t, size_t n, enum ad_report_by by, const struct ad_limits *l, struct buf *out)
{
    struct ad_report_line *line = mem_zero(n + 1, sizeof *line), sum = {.name = "all"};
    size_t lines = ad_report_lines(t, n, by, l, line);
    for (size_t i = 0; i < n; i++) add(&sum, &t[i], l);
    buf_printf(out, by == AD_BY_OP ? "%-24s %-18s" : "%-43s", by == AD_BY_OP ? "op" : "layer", "kernel");
    buf_printf(out, " %8s %9s %6s %8s %7s%s\n", "calls", "ms", "%", "GF/s", "GB/s", l ? "  % limit" : "");
    for (size_t i = 0; i < lines; i++) print_line(&line[i], sum.seconds, by == AD_BY_OP, l, out);
    print_line(&sum, sum.seconds, by == AD_BY_OP, l, out);
    free(line);
}

void ad_plan_report(const struct ad_plan *p, struct buf *out)
{
    size_t n = ad_plan_timings(p, NULL);
    struct ad_timing *t = mem_zero(n + 1, sizeof *t);
    ad_plan_timings(p, t);
    ad_report(t, n, AD_BY_OP, NULL, out);
    free(t);
}
