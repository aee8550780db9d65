/* Small pictures as inline SVG, for pages made with base/html.h. Text takes the page's colour (currentColor), series
 * take the CSS variables --c0..--c7 (with defaults), so that one picture serves light and dark pages. Nothing is
 * interactive beyond the browser's own tooltips. Names and labels are escaped. */
#ifndef TRIAD_BASE_PLOT_H
#define TRIAD_BASE_PLOT_H

#include <stdbool.h>
#include "base/buf.h"

enum { PLOT_COLORS = 8 }; /* series beyond it repeat the colours */

struct plot {
    const char *title, *x_label, *y_label; /* each may be NULL */
    int width, height;                     /* in CSS pixels, scaled to the page; 0: a fitting default */
    bool log_y;                            /* lines only */
};

struct plot_series {
    const char *name; /* shown in the legend where there is more than one series */
    const double *x, *y;
    int n;
};

/* Lines. A value that is not finite (or not above 0 with log_y) breaks its line. Long series are thinned to the least
 * and the greatest value of each pixel column. Without any point: an empty frame that says so. */
void plot_lines(struct buf *b, const struct plot *p, const struct plot_series *series, int n);

/* A line from top to bottom at `x`, with words beside it. */
struct plot_mark {
    double x;
    const char *label;
};

/* Areas that lie on one another, the first lowest, as steps: y[i] >= 0 holds from i to i + 1, in every series the same
 * count `n` (x is not read). Long series are thinned to the highest pile of each pixel column. */
void plot_areas(struct buf *b, const struct plot *p, const struct plot_series *series, int n,
                const struct plot_mark *marks, int n_marks);

struct plot_bar {
    const char *label;
    double value;     /* >= 0; NaN: no bar */
    double low, high; /* an interval drawn over the bar; low >= high: none */
    double mark;      /* a tick such as the chance level; NaN or 0: none */
    int color;        /* 0..PLOT_COLORS-1 */
};

/* Horizontal bars from 0, one line each, with the value behind (%g, three digits). */
void plot_bars(struct buf *b, const struct plot *p, const struct plot_bar *bars, int n);

/* rows x cols values (row-major) as cells, the greater the stronger; NaN stays empty. Labels may be NULL. A cell is one
 * SVG element: some 100 x 100 at most. Small tables show their values. */
void plot_heat(struct buf *b, const struct plot *p, const double *values, int rows, int cols,
               const char *const *row_labels, const char *const *col_labels);

#endif
