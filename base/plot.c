#include "base/plot.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/mem.h"
#include "base/text.h"

static const char *const colors[PLOT_COLORS] = {"#3b6fd8", "#e08a2c", "#2f9e6e", "#d1495b",
                                                "#8a63d2", "#2aa3b8", "#b5883b", "#c060a8"};

struct frame {
    double left, top, right, bottom; /* pixels */
    double x0, x1, y0, y1;           /* values; y in log10 with log_y */
    bool log_y;
};

static double px(const struct frame *f, double x)
{
    return f->left + (x - f->x0) / (f->x1 - f->x0) * (f->right - f->left);
}

static double py(const struct frame *f, double y)
{
    return f->bottom - (y - f->y0) / (f->y1 - f->y0) * (f->bottom - f->top);
}

/* Text width at 12 px in a common sans serif, near enough to reserve room. */
static double text_width(const char *s)
{
    double w = 0;
    for (const char *end = s + strlen(s); s < end;) {
        uint32_t cp = 0;
        int n = utf8_next(s, end, &cp);
        w += n ? 7.2 * utf8proc_charwidth((utf8proc_int32_t)cp) : 7.2;
        s += n ? n : 1;
    }
    return w;
}

/* Escaped, cut with "…" where it is wider than `most` pixels. */
static void add_label(struct buf *b, const char *s, double most)
{
    size_t n = strlen(s), keep = n;
    struct buf part = {0};
    buf_str(&part, s);
    while (keep && text_width(part.data) > most) {
        do keep--;
        while (keep && ((unsigned char)s[keep] & 0xc0) == 0x80);
        part.len = keep;
        part.data[keep] = 0;
        buf_str(&part, "…");
    }
    buf_html(b, part.data);
    buf_free(&part);
}

static void text_at(struct buf *b, double x, double y, const char *anchor, const char *class, const char *s)
{
    buf_printf(b, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\"%s%s%s>", x, y, anchor, class ? " class=\"" : "",
               class ? class : "", class ? "\"" : "");
    buf_html(b, s);
    buf_str(b, "</text>\n");
}

static void rule(struct buf *b, const char *class, double x0, double y0, double x1, double y1)
{
    buf_printf(b, "<line class=\"%s\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n", class, x0, y0, x1, y1);
}

static void begin(struct buf *b, const struct plot *p, int width, int height)
{
    buf_printf(b,
               "<svg class=\"plot\" viewBox=\"0 0 %d %d\" style=\"max-width:%dpx\" role=\"img\" "
               "xmlns=\"http://www.w3.org/2000/svg\"",
               width, height, width);
    if (p->title) {
        buf_str(b, " aria-label=\"");
        buf_html(b, p->title);
        buf_str(b, "\"");
    }
    buf_str(b, ">\n<style>.plot{width:100%;height:auto;font:12px system-ui,sans-serif;fill:currentColor}"
               ".plot .dim{opacity:.65}.plot .head{font-weight:600;font-size:13px}"
               ".plot .grid{stroke:currentColor;opacity:.13}.plot .axis{stroke:currentColor;opacity:.5}"
               ".plot .curve{fill:none;stroke-width:1.7;stroke-linejoin:round;stroke-linecap:round}"
               ".plot .small{font-size:10px}</style>\n");
    if (p->title) text_at(b, 0, 15, "start", "head", p->title);
}

/* The step 1, 2 or 5 times a power of ten that gives at most `most` steps. */
static double nice_step(double range, int most)
{
    double raw = range / most, unit = pow(10, floor(log10(raw)));
    double m = raw / unit;
    return unit * (m <= 1.0000001 ? 1 : m <= 2 ? 2 : m <= 5 ? 5 : 10);
}

static char *number(char *out, size_t size, double v)
{
    double a = fabs(v);
    if (a >= 1e9 || (a > 0 && a < 1e-3))
        snprintf(out, size, "%.3g", v);
    else if (a >= 1e6)
        snprintf(out, size, "%.4gM", v / 1e6);
    else if (a >= 1e4)
        snprintf(out, size, "%.4gk", v / 1e3);
    else
        snprintf(out, size, "%.4g", v);
    return out;
}

enum { TICKS_MAX = 24 };

static int linear_ticks(double lo, double hi, int most, double *tick)
{
    double step = nice_step(hi - lo, most);
    int n = 0;
    for (double k = ceil(lo / step - 1e-9); k * step <= hi + step * 1e-9 && n < TICKS_MAX; k++)
        tick[n++] = k * step + 0.0; /* never -0 */
    return n;
}

/* lo and hi are exponents. Whole decades where there are many; 1, 2, 5 where there are few; else plain steps. */
static int log_ticks(double lo, double hi, double *tick)
{
    int n = 0;
    if (hi - lo < 0.7) return linear_ticks(pow(10, lo), pow(10, hi), 6, tick);
    int step = hi - lo > 8 ? (int)ceil((hi - lo) / 8) : 1;
    for (int d = (int)floor(lo); d <= hi; d += step)
        for (int k = 0; k < (hi - lo < 2.5 ? 3 : 1); k++) {
            double v = pow(10, d) * (k == 0 ? 1 : k == 1 ? 2 : 5), l = log10(v);
            if (l >= lo - 1e-9 && l <= hi + 1e-9 && n < TICKS_MAX) tick[n++] = v;
        }
    return n;
}

static double y_of(const struct plot *p, double y)
{
    return !p->log_y ? y : y > 0 ? log10(y) : NAN;
}

/* Finite, and far enough from the greatest double that a range and its margins do not overflow. */
static bool drawable(double v)
{
    return fabs(v) < 1e300;
}

static bool find_range(const struct plot *p, const struct plot_series *s, int n, struct frame *f)
{
    f->x0 = f->y0 = INFINITY;
    f->x1 = f->y1 = -INFINITY;
    for (int i = 0; i < n; i++)
        for (int k = 0; k < s[i].n; k++) {
            double x = s[i].x[k], y = y_of(p, s[i].y[k]);
            if (!drawable(x) || !drawable(y)) continue;
            f->x0 = fmin(f->x0, x);
            f->x1 = fmax(f->x1, x);
            f->y0 = fmin(f->y0, y);
            f->y1 = fmax(f->y1, y);
        }
    bool any = f->x0 <= f->x1;
    if (!any) f->x0 = f->y0 = 0, f->x1 = f->y1 = 1;
    if (!(f->x1 > f->x0)) f->x0 -= fmax(0.5, fabs(f->x0) * 1e-6), f->x1 += fmax(0.5, fabs(f->x1) * 1e-6);
    double room = (f->y1 - f->y0) * 0.06;
    if (!(room > fabs(f->y1) * 1e-9)) room = p->log_y ? 0.1 : fmax(fabs(f->y1) * 0.1, 1e-12);
    /* values that are never negative keep 0 as their floor */
    f->y0 = !p->log_y && f->y0 >= 0 && f->y0 - room < 0 ? 0 : f->y0 - room;
    f->y1 += room;
    return any;
}

static void add_axes(struct buf *b, const struct plot *p, const struct frame *f, int height)
{
    double tick[TICKS_MAX];
    char text[32];
    int n = p->log_y ? log_ticks(f->y0, f->y1, tick) : linear_ticks(f->y0, f->y1, 6, tick);
    for (int i = 0; i < n; i++) {
        double y = py(f, y_of(p, tick[i]));
        rule(b, "grid", f->left, y, f->right, y);
        text_at(b, f->left - 6, y + 4, "end", "dim", number(text, sizeof text, tick[i]));
    }
    n = linear_ticks(f->x0, f->x1, (int)fmax((f->right - f->left) / 80, 2), tick);
    for (int i = 0; i < n; i++) {
        double x = px(f, tick[i]);
        rule(b, "axis", x, f->bottom, x, f->bottom + 4);
        text_at(b, x, f->bottom + 17, "middle", "dim", number(text, sizeof text, tick[i]));
    }
    rule(b, "axis", f->left, f->bottom, f->right, f->bottom);
    if (p->x_label) text_at(b, (f->left + f->right) / 2, height - 4, "middle", "dim", p->x_label);
    if (p->y_label) {
        double y = (f->top + f->bottom) / 2;
        buf_printf(b, "<text class=\"dim\" transform=\"translate(11 %.1f) rotate(-90)\" text-anchor=\"middle\">", y);
        buf_html(b, p->y_label);
        buf_str(b, "</text>\n");
    }
}

static void add_point(struct buf *b, const struct frame *f, double x, double y, bool *pen)
{
    buf_printf(b, "%s%.1f %.1f", *pen ? "L" : "M", px(f, x), py(f, y));
    *pen = true;
}

static void add_curve(struct buf *b, const struct plot *p, const struct frame *f, const struct plot_series *s,
                      int color)
{
    int columns = (int)(f->right - f->left), bucket = s->n > 2 * columns ? (s->n + columns - 1) / columns : 1;
    bool pen = false;
    size_t start = b->len;
    buf_str(b, "<path class=\"curve\" d=\"");
    size_t empty = b->len;
    for (int i = 0; i < s->n; i += bucket) {
        int low = -1, high = -1;
        bool broken = false;
        for (int k = i; k < i + bucket && k < s->n; k++) {
            double y = y_of(p, s->y[k]);
            if (!drawable(y) || !drawable(s->x[k])) {
                broken = true;
                continue;
            }
            if (low < 0 || y < y_of(p, s->y[low])) low = k;
            if (high < 0 || y > y_of(p, s->y[high])) high = k;
        }
        if (low >= 0) {
            int first = low < high ? low : high, last = low < high ? high : low;
            add_point(b, f, s->x[first], y_of(p, s->y[first]), &pen);
            if (last != first) add_point(b, f, s->x[last], y_of(p, s->y[last]), &pen);
            /* a point without neighbours would not be drawn; a stroke of no length with round ends is a dot */
            bool alone = (i == 0 || !drawable(y_of(p, s->y[i - 1]))) &&
                         (i + bucket >= s->n || !drawable(y_of(p, s->y[i + bucket])));
            if (alone && last == first) buf_str(b, "h0");
        }
        if (broken) pen = false;
    }
    if (b->len == empty) {
        b->len = start;
        b->data[start] = 0;
        return;
    }
    color %= PLOT_COLORS;
    buf_printf(b, "\" style=\"stroke:var(--c%d,%s)\"/>\n", color, colors[color]);
}

/* Entries in rows above the picture; returns the height taken. With b NULL it only measures. */
static double add_legend(struct buf *b, const struct plot_series *s, int n, double left, double top, double right)
{
    double x = left, y = top;
    for (int i = 0; i < n; i++) {
        double w = 24 + text_width(s[i].name) + 14;
        if (x + w > right && x > left) {
            x = left;
            y += 17;
        }
        if (b) {
            int c = i % PLOT_COLORS;
            buf_printf(
                b, "<rect x=\"%.1f\" y=\"%.1f\" width=\"16\" height=\"4\" rx=\"2\" style=\"fill:var(--c%d,%s)\"/>\n", x,
                y + 4, c, colors[c]);
            text_at(b, x + 21, y + 10, "start", NULL, s[i].name);
        }
        x += w;
    }
    return y - top + 17;
}

void plot_lines(struct buf *b, const struct plot *p, const struct plot_series *series, int n)
{
    int width = p->width ? p->width : 560, height = p->height ? p->height : 300;
    struct frame f = {.log_y = p->log_y};
    bool any = find_range(p, series, n, &f);
    double tick[TICKS_MAX], label = 0;
    char text[32];
    int ticks = p->log_y ? log_ticks(f.y0, f.y1, tick) : linear_ticks(f.y0, f.y1, 6, tick);
    for (int i = 0; i < ticks; i++) label = fmax(label, text_width(number(text, sizeof text, tick[i])));
    f.left = label + 10 + (p->y_label ? 18 : 0);
    f.right = width - 14;
    double top = p->title ? 24 : 6;
    f.top = top + (n > 1 ? add_legend(NULL, series, n, f.left, top, f.right) : 0) + 6;
    f.bottom = height - (p->x_label ? 40 : 24);
    begin(b, p, width, height);
    if (n > 1) add_legend(b, series, n, f.left, top, f.right);
    add_axes(b, p, &f, height);
    for (int i = 0; i < n; i++) add_curve(b, p, &f, &series[i], i);
    if (!any) text_at(b, (f.left + f.right) / 2, (f.top + f.bottom) / 2, "middle", "dim", "no values yet");
    buf_str(b, "</svg>\n");
}

/* The point with the highest pile among those of pixel column c. */
static int highest_pile(const struct plot_series *s, int n, int c, int columns)
{
    int best = -1;
    double most = 0;
    for (int64_t i = (int64_t)c * s[0].n / columns; i < ((int64_t)c + 1) * s[0].n / columns; i++) {
        double sum = 0;
        for (int k = 0; k < n; k++) sum += s[k].y[i];
        if (best < 0 || sum > most) best = (int)i, most = sum;
    }
    return best;
}

static void add_marks(struct buf *b, const struct frame *f, const struct plot_mark *marks, int n)
{
    for (int i = 0; i < n; i++) {
        double x = px(f, marks[i].x), w = text_width(marks[i].label);
        bool before = x + 6 + w > f->right;
        buf_printf(b,
                   "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"currentColor\" "
                   "stroke-dasharray=\"4 3\"/>\n",
                   x, f->top + 4 + 15 * i, x, f->bottom);
        text_at(b, before ? x - 5 : x + 5, f->top + 14 + 15 * i, before ? "end" : "start", NULL, marks[i].label);
    }
}

void plot_areas(struct buf *b, const struct plot *p, const struct plot_series *series, int n,
                const struct plot_mark *marks, int n_marks)
{
    int width = p->width ? p->width : 560, height = p->height ? p->height : 300, points = n ? series[0].n : 0;
    struct frame f = {
        .left = 48 + (p->y_label ? 18 : 0), .right = width - 14, .x1 = points > 0 ? points : 1, .y1 = 1e-9};
    int columns = points < f.right - f.left ? points : (int)(f.right - f.left);
    double top = p->title ? 24 : 6, *floor = mem_zero((size_t)columns + 1, sizeof *floor);
    f.top = top + add_legend(NULL, series, n, f.left, top, f.right) + 6;
    f.bottom = height - (p->x_label ? 40 : 24);
    for (int c = 0; c < columns; c++) {
        double sum = 0;
        for (int k = 0; k < n; k++) sum += series[k].y[highest_pile(series, n, c, columns)];
        f.y1 = fmax(f.y1, sum * (1.05 + 0.07 * n_marks)); /* room for their words */
    }
    begin(b, p, width, height);
    add_legend(b, series, n, f.left, top, f.right);
    for (int k = 0; k < n; k++) { /* each from its floor up and back along it */
        buf_printf(b, "<path style=\"fill:var(--c%d,%s)\" fill-opacity=\".8\" d=\"M%.1f %.1f", k % PLOT_COLORS,
                   colors[k % PLOT_COLORS], f.left, f.bottom);
        for (int c = 0; c < columns; c++) {
            double x0 = px(&f, (double)c * points / columns), x1 = px(&f, ((double)c + 1) * points / columns);
            double up = floor[c] + series[k].y[highest_pile(series, n, c, columns)];
            buf_printf(b, "L%.1f %.1fH%.1f", x0, py(&f, up), x1);
            floor[c] = up;
        }
        for (int c = columns - 1; c >= 0; c--) {
            double x0 = px(&f, (double)c * points / columns), x1 = px(&f, ((double)c + 1) * points / columns);
            double low = floor[c] - series[k].y[highest_pile(series, n, c, columns)];
            buf_printf(b, "L%.1f %.1fH%.1f", x1, py(&f, low), x0);
        }
        buf_str(b, "Z\"/>\n");
    }
    add_axes(b, p, &f, height);
    add_marks(b, &f, marks, n_marks);
    buf_str(b, "</svg>\n");
    free(floor);
}

void plot_bars(struct buf *b, const struct plot *p, const struct plot_bar *bars, int n)
{
    int width = p->width ? p->width : 560, row = 26, top = p->title ? 26 : 4;
    int height = p->height ? p->height : top + n * row + 4 + (p->x_label ? 18 : 0);
    double most = 0, label = 0;
    for (int i = 0; i < n; i++) {
        if (isfinite(bars[i].value)) most = fmax(most, bars[i].value);
        if (bars[i].high > bars[i].low && isfinite(bars[i].high)) most = fmax(most, bars[i].high);
        if (isfinite(bars[i].mark)) most = fmax(most, bars[i].mark);
        label = fmax(label, text_width(bars[i].label));
    }
    label = fmin(label, width * 0.45);
    double left = label + 10, scale = (width - left - 60) / (most > 0 ? most : 1);
    if (n && p->height) row = (height - top - 4 - (p->x_label ? 18 : 0)) / n;
    begin(b, p, width, height);
    for (int i = 0; i < n; i++) {
        const struct plot_bar *bar = &bars[i];
        double y = top + i * row, mid = y + row / 2.0, thick = fmin(16, row * 0.62), end = left;
        int c = ((bar->color % PLOT_COLORS) + PLOT_COLORS) % PLOT_COLORS;
        buf_printf(b, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">", left - 8, mid + 4);
        add_label(b, bar->label, label);
        buf_str(b, "</text>\n");
        if (!isfinite(bar->value) || bar->value < 0) {
            text_at(b, left + 4, mid + 4, "start", "dim", "–");
            continue;
        }
        buf_printf(
            b, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" rx=\"3\" style=\"fill:var(--c%d,%s)\"/>\n",
            left, mid - thick / 2, fmax(bar->value * scale, 1), thick, c, colors[c]);
        end = left + bar->value * scale;
        if (bar->mark > 0 && isfinite(bar->mark)) {
            double x = left + bar->mark * scale;
            buf_printf(b,
                       "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"currentColor\" "
                       "stroke-dasharray=\"3 2\"/>\n",
                       x, mid - thick / 2 - 3, x, mid + thick / 2 + 3);
            end = fmax(end, x);
        }
        if (bar->high > bar->low && isfinite(bar->high - bar->low)) {
            double x0 = left + fmax(bar->low, 0) * scale, x1 = left + bar->high * scale;
            rule(b, "axis", x0, mid, x1, mid);
            rule(b, "axis", x0, mid - 4, x0, mid + 4);
            rule(b, "axis", x1, mid - 4, x1, mid + 4);
            end = fmax(end, x1);
        }
        char text[32];
        snprintf(text, sizeof text, "%.3g", bar->value);
        text_at(b, end + 7, mid + 4, "start", NULL, text);
    }
    if (p->x_label) text_at(b, left, height - 4, "start", "dim", p->x_label);
    buf_str(b, "</svg>\n");
}

static double widest(const char *const *labels, int n)
{
    double w = 0;
    for (int i = 0; labels && i < n; i++) w = fmax(w, text_width(labels[i]));
    return w;
}

enum { ROW_LABEL = 200, COL_LABEL = 140 }; /* pixels */

/* Least to greatest, as a strip with its two ends. */
static void heat_scale(struct buf *b, double x, double y, double low, double high)
{
    char text[32];
    snprintf(text, sizeof text, "%.2g", low);
    text_at(b, x, y + 9, "start", "dim", text);
    x += text_width(text) + 6;
    for (int i = 0; i < 24; i++)
        buf_printf(b,
                   "<rect x=\"%.1f\" y=\"%.1f\" width=\"4\" height=\"10\" shape-rendering=\"crispEdges\" "
                   "style=\"fill:var(--c0,%s)\" fill-opacity=\"%.3f\"/>\n",
                   x + i * 4, y, colors[0], 0.04 + 0.96 * i / 23);
    snprintf(text, sizeof text, "%.2g", high);
    text_at(b, x + 102, y + 9, "start", "dim", text);
}

void plot_heat(struct buf *b, const struct plot *p, const double *values, int rows, int cols,
               const char *const *row_labels, const char *const *col_labels)
{
    double left = fmin(widest(row_labels, rows), ROW_LABEL) + (row_labels ? 10 : 0) + (p->y_label ? 18 : 0);
    double names = fmin(widest(col_labels, cols), COL_LABEL) * 0.72 + (col_labels ? 8 : 0); /* slanted by 45 degrees */
    double low = INFINITY, high = -INFINITY;
    for (int64_t i = 0; i < (int64_t)rows * cols; i++)
        if (isfinite(values[i])) low = fmin(low, values[i]), high = fmax(high, values[i]);
    int width = p->width ? p->width : 560;
    double cell = cols ? fmin((width - left - names - 4) / cols, 44) : 1, top = (p->title ? 24 : 4) + names;
    if (p->height && rows) cell = fmin(cell, (p->height - top - 44) / rows);
    if (cell < 2) cell = 2;
    width = (int)fmax(left + cell * cols + names + 4, left + 190);
    int height = (int)(top + cell * rows + 40);
    begin(b, p, width, height);
    bool show = cell >= 30 && (int64_t)rows * cols <= 400;
    char text[32];
    for (int r = 0; r < rows; r++) {
        double y = top + r * cell;
        if (row_labels && cell >= 9) {
            buf_printf(b, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">", left - 8, y + cell / 2 + 4);
            add_label(b, row_labels[r], ROW_LABEL);
            buf_str(b, "</text>\n");
        }
        for (int c = 0; c < cols; c++) {
            double v = values[(int64_t)r * cols + c], share = high > low ? (v - low) / (high - low) : 1;
            if (!isfinite(v)) continue;
            buf_printf(b,
                       "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" style=\"fill:var(--c0,%s)\" "
                       "fill-opacity=\"%.3f\"><title>",
                       left + c * cell, y, cell - (cell > 8), cell - (cell > 8), colors[0], 0.04 + 0.96 * share);
            if (row_labels) buf_html(b, row_labels[r]);
            if (row_labels && col_labels) buf_str(b, " × ");
            if (col_labels) buf_html(b, col_labels[c]);
            buf_printf(b, "%s%.3g</title></rect>\n", row_labels || col_labels ? ": " : "", v);
            snprintf(text, sizeof text, "%.2g", v);
            if (show)
                buf_printf(b, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\" class=\"small\"%s>%s</text>\n",
                           left + (c + 0.5) * cell - 0.5, y + cell / 2 + 3.5, share > 0.55 ? " fill=\"#fff\"" : "",
                           text);
        }
    }
    for (int c = 0; col_labels && c < cols && cell >= 9; c++) {
        buf_printf(b, "<text transform=\"translate(%.1f %.1f) rotate(-45)\">", left + (c + 0.5) * cell, top - 6);
        add_label(b, col_labels[c], COL_LABEL);
        buf_str(b, "</text>\n");
    }
    double under = top + cell * rows;
    if (p->y_label) {
        buf_printf(b, "<text class=\"dim\" transform=\"translate(11 %.1f) rotate(-90)\" text-anchor=\"middle\">",
                   top + cell * rows / 2);
        buf_html(b, p->y_label);
        buf_str(b, "</text>\n");
    }
    if (p->x_label) text_at(b, left + cell * cols, under + 16, "end", "dim", p->x_label);
    if (low <= high) heat_scale(b, left, under + 20, low, high);
    buf_str(b, "</svg>\n");
}
