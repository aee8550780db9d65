/* Curves of the run, from its metrics.jsonl. A run folder without one has none. */
#include "eval/report.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/html.h"
#include "base/mem.h"
#include "base/plot.h"

enum { MAX_METRICS = 1 << 28 }; /* bytes */

struct series {
    char *name;
    double *x, *y;
    size_t n, cap_x, cap_y;
};

struct metrics {
    struct series *v;
    size_t n, cap;
};

static void add(struct metrics *m, const char *name, double x, double y)
{
    size_t i = 0;
    while (i < m->n && strcmp(m->v[i].name, name)) i++;
    if (i == m->n) {
        m->v = mem_grow(m->v, &m->cap, m->n + 1, sizeof *m->v);
        m->v[m->n++] = (struct series){.name = mem_strdup(name)};
    }
    struct series *s = &m->v[i];
    s->x = mem_grow(s->x, &s->cap_x, s->n + 1, sizeof *s->x);
    s->y = mem_grow(s->y, &s->cap_y, s->n + 1, sizeof *s->y);
    s->x[s->n] = x;
    s->y[s->n++] = y;
}

/* Lines that cannot be read are passed over: a run that was cut off may have one. */
static void read_metrics(const char *dir, struct metrics *m)
{
    char *path = file_join(dir, "metrics.jsonl"), *text = NULL;
    size_t len;
    struct err ignored = {0};
    if (file_exists(path) && file_read(path, MAX_METRICS, &text, &len, &ignored) == 0)
        for (char *at = text, *end; (end = strchr(at, '\n')); at = end + 1) {
            json_t *line = json_loadb(at, (size_t)(end - at), 0, NULL);
            const json_t *step = json_object_get(line, "step");
            const char *key;
            json_t *value;
            if (json_is_number(step))
                json_object_foreach(line, key, value) if (value != step)
                    add(m, key, json_number_value(step), json_is_number(value) ? json_number_value(value) : NAN);
            json_decref(line);
        }
    free(text);
    free(path);
}

static void free_metrics(struct metrics *m)
{
    for (size_t i = 0; i < m->n; i++) {
        free(m->v[i].name);
        free(m->v[i].x);
        free(m->v[i].y);
    }
    free(m->v);
}

/* Shares become percent. */
static void to_percent(struct metrics *m)
{
    for (size_t i = 0; i < m->n; i++)
        for (size_t k = 0; strstr(m->v[i].name, " R@") && k < m->v[i].n; k++) m->v[i].y[k] *= 100;
}

/* "text->image" for people: the caller frees. */
static char *with_arrow(const char *s, size_t n)
{
    char *name = mem_strndup(s, n), *dash = strstr(name, "->");
    if (!dash) return name;
    *dash = 0;
    char *arrow = mem_printf("%s → %s", name, dash + 2);
    free(name);
    return arrow;
}

/* A card with the series whose names begin with `start` and end with `end`; what lies between is shown in the legend,
 * or `alone` where nothing does. At least `least` points in the first one, else no card. */
static void card(struct buf *b, const struct metrics *m, const char *title, const char *start, const char *end,
                 const char *alone, size_t least)
{
    struct plot_series s[PLOT_COLORS];
    char *name[PLOT_COLORS];
    int n = 0;
    size_t from = strlen(start), tail = strlen(end);
    for (size_t i = 0; i < m->n && n < PLOT_COLORS; i++) {
        const char *key = m->v[i].name;
        size_t len = strlen(key);
        if (len < from + tail || strncmp(key, start, from) || strcmp(key + len - tail, end)) continue;
        if (m->v[i].n < least || (len == from + tail) != (alone != NULL)) continue;
        if (memchr(key + from, '/', len - from - tail)) continue; /* another split's: "a/voices/..." beside "a/..." */
        name[n] = alone ? mem_strdup(alone) : with_arrow(key + from, len - from - tail);
        s[n] = (struct plot_series){name[n], m->v[i].x, m->v[i].y, (int)m->v[i].n};
        n++;
    }
    if (!n) return;
    html_card_begin(b, title);
    plot_lines(b, &(struct plot){.x_label = "step", .width = 520, .height = 260}, s, n);
    html_card_end(b);
    for (int i = 0; i < n; i++) free(name[i]);
}

void eval_page_curves(struct buf *b, const struct eval_report *r)
{
    struct metrics m = {0};
    read_metrics(r->m->dir, &m);
    to_percent(&m);
    if (m.n) {
        html_section(b, "The run");
        html_grid_begin(b, 440);
        card(b, &m, "Loss", "loss", "", "loss", 1);
        card(b, &m, "Loss of each pair", "loss/", "", NULL, 1);
        for (int64_t i = 0; i < r->m->config.data.valid.n; i++) {
            const char *split = r->m->config.data.valid.v[i];
            char *start = mem_printf("%s/", split), *title = mem_printf("R@1 on %s, in %%", split);
            card(b, &m, title, start, " R@1", NULL, 2);
            free(title);
            free(start);
        }
        card(b, &m, "Learning rate", "lr", "", "lr", 1);
        card(b, &m, "Samples a second", "samples_per_s", "", "samples/s", 1);
        html_grid_end(b);
    }
    free_metrics(&m);
}
