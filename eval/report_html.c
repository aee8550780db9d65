/* The page of a report: figures, tables, what was run. Curves and examples are in their own files. */
#include "eval/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/html.h"
#include "base/mem.h"
#include "base/plot.h"
#include "base/text.h"
#include "eval/show.h"

static char *direction_name(const struct run_model *m, const struct eval_direction *d)
{
    return mem_printf("%s\u00a0→\u00a0%s", m->tower[d->query].name, m->tower[d->target].name);
}

/* "55.2 [50.1, 60.0]" in percent. */
static char *share_cell(const struct eval_direction *d, int c)
{
    if (!d->queries) return mem_strdup("–");
    if (isnan(d->low[c])) return mem_printf("%.1f", 100 * d->recall[c]);
    return mem_printf("%.1f  [%.1f, %.1f]", 100 * d->recall[c], 100 * d->low[c], 100 * d->high[c]);
}

static void headline(struct buf *b, const struct eval_report *r)
{
    if (!r->n) return;
    const struct eval_split *s = &r->split[0];
    char value[32];
    char *note =
        mem_printf("R@1 on %s: how often the right one of %lld comes first.", s->set.split, (long long)s->set.n);
    html_note(b, note);
    free(note);
    html_grid_begin(b, 165);
    for (int k = 0; k < s->n_d && k < 6; k++) {
        const struct eval_direction *d = &s->d[k];
        char *name = direction_name(r->m, d);
        char *more = d->queries ? mem_printf("%.1f–%.1f\u00a0%% (chance\u00a0%.2f\u00a0%%)", 100 * d->low[0],
                                             100 * d->high[0], 100 * d->chance[0])
                                : NULL;
        html_stat(b, name, eval_percent(value, sizeof value, d->queries ? d->recall[0] : NAN), more);
        free(more);
        free(name);
    }
    html_grid_end(b);
}

static void bars(struct buf *b, const struct eval_report *r)
{
    html_grid_begin(b, 340);
    for (int i = 0; i < r->n; i++) {
        const struct eval_split *s = &r->split[i];
        struct plot_bar *bar = mem_zero((size_t)s->n_d, sizeof *bar);
        for (int k = 0; k < s->n_d; k++)
            bar[k] = (struct plot_bar){.label = direction_name(r->m, &s->d[k]),
                                       .value = s->d[k].queries ? 100 * s->d[k].recall[0] : NAN,
                                       .low = 100 * s->d[k].low[0],
                                       .high = 100 * s->d[k].high[0],
                                       .mark = 100 * s->d[k].chance[0],
                                       .color = k / 2};
        html_card_begin(b, s->set.split);
        plot_bars(b, &(struct plot){.x_label = "R@1 in %, its 95 % interval; dashed: chance", .width = 420}, bar,
                  s->n_d);
        html_card_end(b);
        for (int k = 0; k < s->n_d; k++) free((void *)(uintptr_t)bar[k].label);
        free(bar);
    }
    html_grid_end(b);
}

static void retrieval_table(struct buf *b, const struct eval_report *r, const struct eval_split *s)
{
    static const char *const head[] = {"Direction", "R@1", "R@5", "R@10", "Median rank", "mAP", "Chance of R@1"};
    char n[32];
    buf_str(b, "<h3 class=\"split\">");
    buf_html(b, s->set.split);
    buf_printf(b, " <span>%s items</span></h3>\n", text_count(n, sizeof n, s->set.n));
    html_table_begin(b, head, 7);
    for (int k = 0; k < s->n_d; k++) {
        const struct eval_direction *d = &s->d[k];
        char *name = direction_name(r->m, d), *cut[EVAL_CUTS], chance[32], median[32], map[32];
        for (int c = 0; c < EVAL_CUTS; c++) cut[c] = share_cell(d, c);
        snprintf(chance, sizeof chance, "%.2f", 100 * d->chance[0]);
        snprintf(median, sizeof median, "%g", d->median);
        snprintf(map, sizeof map, "%.1f", 100 * d->map);
        const char *const cell[] = {name, cut[0], cut[1], cut[2], median, map, chance};
        const char *const none[] = {name, "–", "–", "–", "–", "–", "–"};
        html_table_row(b, d->queries ? cell : none, 7);
        for (int c = 0; c < EVAL_CUTS; c++) free(cut[c]);
        free(name);
    }
    html_table_end(b);
}

static void zeroshot_table(struct buf *b, const struct eval_report *r)
{
    static const char *const head[] = {"Split",       "Modality", "Accuracy@1", "Accuracy@5",
                                       "Accuracy@10", "Chance@1", "Classes",    "Items"};
    bool any = false;
    for (int i = 0; i < r->n; i++) any |= r->split[i].n_zero > 0;
    if (!any) return;
    html_section(b, "Zero-shot classification");
    html_note(b, "Each class is the mean embedding of its prompts; an item is taken for the class it is nearest to.");
    html_table_begin(b, head, 8);
    for (int i = 0; i < r->n; i++)
        for (int k = 0; k < r->split[i].n_zero; k++) {
            const struct eval_zeroshot *z = &r->split[i].zero[k];
            char *cut[EVAL_CUTS], chance[32], classes[32], items[32];
            for (int c = 0; c < EVAL_CUTS; c++) cut[c] = share_cell(&z->d, c);
            snprintf(chance, sizeof chance, "%.2f", 100 * z->d.chance[0]);
            html_table_row(b,
                           (const char *const[]){k ? "" : r->split[i].set.split, r->m->tower[z->modality].name, cut[0],
                                                 cut[1], cut[2], chance,
                                                 text_count(classes, sizeof classes, z->classes),
                                                 text_count(items, sizeof items, z->d.queries)},
                           8);
            for (int c = 0; c < EVAL_CUTS; c++) free(cut[c]);
        }
    html_table_end(b);
}

static int64_t tower_parameters(const struct run_model *m, int i)
{
    int64_t n = 0;
    size_t len = strlen(m->tower[i].name);
    for (int k = 0; k < ad_store_count(m->store); k++) {
        const struct ad_entry *p = ad_store_at(m->store, k);
        if (!(p->flags & AD_STATE) && !strncmp(p->name, m->tower[i].name, len) && p->name[len] == '.') n += p->count;
    }
    return n;
}

static void row2(struct buf *b, const char *what, const char *value)
{
    html_table_row(b, (const char *const[]){what, value}, 2);
}

static void what_was_run(struct buf *b, const struct eval_report *r)
{
    const struct run_model *m = r->m;
    struct buf text = {0}, config = {0};
    char n[32], clock[32];
    html_section(b, "What was measured");
    html_table_begin(b, (const char *const[]){"", ""}, 2);
    row2(b, "Model", m->dir);
    buf_printf(&text, "step %s", text_count(n, sizeof n, m->state.step));
    buf_printf(&text, ", %s samples seen in %s", text_count(n, sizeof n, m->state.samples),
               text_clock(clock, sizeof clock, m->state.seconds));
    row2(b, "Checkpoint", text.data);
    text.len = 0;
    buf_printf(&text, "in all %s:", text_count(n, sizeof n, ad_store_trainable(m->store)));
    for (int i = 0; i < m->n; i++)
        buf_printf(&text, "%s %s %s", i ? "," : "", m->tower[i].name, text_count(n, sizeof n, tower_parameters(m, i)));
    row2(b, "Parameters", text.data);
    row2(b, "Data", r->data->path);
    if (r->command) row2(b, "Command", r->command);
    row2(b, "Program", "triad " TRIAD_VERSION ", gcc " __VERSION__);
    html_table_end(b);
    conf_dump(&run_config_table, &m->config, true, &config);
    html_code(b, "The whole effective config", config.data);
    buf_free(&config);
    buf_free(&text);
}

int eval_report_html(const struct eval_report *r, const char *path, struct err *e)
{
    struct buf b = {0};
    char n[32], step[32];
    char *title = mem_printf("%s: what the model has learnt", r->m->config.name);
    char *subtitle = mem_printf("%s parameters after %s steps, measured on %d split%s of %s",
                                text_count(n, sizeof n, ad_store_trainable(r->m->store)),
                                text_count(step, sizeof step, r->m->state.step), r->n, r->n == 1 ? "" : "s",
                                file_basename(r->data->path));
    html_begin(&b, title, subtitle);
    eval_show_style(&b);
    headline(&b, r);
    html_section(&b, "Retrieval");
    bars(&b, r);
    for (int i = 0; i < r->n; i++) retrieval_table(&b, r, &r->split[i]);
    html_note(&b,
              "Shares in percent, in brackets their bootstrap 95 % intervals over queries. A query's rank is 1 + the "
              "number of candidates strictly more similar than its best right one; mAP is the mean average "
              "precision; every item of the split is a candidate.");
    zeroshot_table(&b, r);
    eval_page_curves(&b, r);
    eval_page_examples(&b, r);
    what_was_run(&b, r);
    html_end(&b);
    int rc = file_write(path, b.data, b.len, e);
    buf_free(&b);
    free(title);
    free(subtitle);
    return rc;
}
