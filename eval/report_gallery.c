/* Examples of a report: queries with what they find, near misses, similarities. Which queries are shown depends on
 * their places in the split alone: none is picked for its looks. */
#include "eval/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/html.h"
#include "base/mem.h"
#include "base/plot.h"
#include "eval/show.h"

enum { QUERIES = 3, HITS = 5, MISSES = 3, MISSES_LOOKED_AT = 2000, HEAT = 24, SIDE = 96, SOUND_BYTES = 3200000 };

struct page {
    struct buf *b;
    const struct eval_report *r;
    const struct eval_split *s;
    const char *entries; /* the split whose entries were embedded */
    struct eval_show show;
};

/* An item of the set in one modality, with its caption where it is not itself a text. */
static void item(struct page *p, int64_t i, int modality)
{
    const struct data_modality *m = &p->r->m->input[modality];
    const struct manifest_item *it = &p->r->data->item[p->s->set.item[i]];
    const struct manifest_entry *entry = eval_entry(p->r->data, p->s->set.item[i], m->field, p->entries, 0);
    if (entry) eval_show(p->b, &p->show, p->r->data, entry, m->kind);
    if (m->kind == DATA_TEXT) return;
    buf_str(p->b, "<div>");
    buf_html(p->b, eval_caption(p->r->m, it));
    buf_str(p->b, "</div>\n");
}

static void cell_begin(struct page *p, const char *class, const char *over)
{
    buf_printf(p->b, "<div class=\"hit%s\">\n", class);
    if (!over) return;
    buf_str(p->b, "<div class=\"over\">");
    buf_html(p->b, over);
    buf_str(p->b, "</div>\n");
}

static void cell_end(struct page *p, const char *under)
{
    buf_printf(p->b, "<div class=\"under\">%s</div></div>\n", under);
}

/* The best HITS of a row of similarities, best first; returns how many there are. */
static int best_hits(const struct eval_set *s, int target, const float *sim, int64_t *hit)
{
    int n = 0;
    for (int64_t j = 0; j < s->n; j++) {
        if (!s->has[target][j] || !(n < HITS || sim[j] > sim[hit[n - 1]])) continue;
        int at = n < HITS ? n++ : n - 1;
        for (; at > 0 && sim[j] > sim[hit[at - 1]]; at--) hit[at] = hit[at - 1];
        hit[at] = j;
    }
    return n;
}

static void query_row(struct page *p, const struct eval_direction *d, int64_t k, float *sim)
{
    const struct eval_set *s = &p->s->set;
    int64_t q = d->from[k], hit[HITS];
    char under[64];
    eval_similarity(s, d->query, d->target, q, q + 1, sim);
    int n = best_hits(s, d->target, sim, hit);
    buf_str(p->b, "<div class=\"hits\">\n");
    p->show.mute = false;
    cell_begin(p, " q", p->r->m->tower[d->query].name);
    item(p, q, d->query);
    snprintf(under, sizeof under, d->rank[k] == 1 ? "found first" : "found at rank %d", d->rank[k]);
    cell_end(p, under);
    for (int i = 0; i < n; i++) {
        bool right = s->group[hit[i]] == s->group[q];
        p->show.mute = !right && i > 0; /* sounds are the largest part of a page */
        cell_begin(p, right ? " right" : "", NULL);
        item(p, hit[i], d->target);
        snprintf(under, sizeof under, "%s%.3f", right ? "✓ " : "", sim[hit[i]]);
        cell_end(p, under);
    }
    buf_str(p->b, "</div>\n");
}

static void gallery(struct page *p)
{
    const struct eval_split *s = p->s;
    float *sim = mem_alloc((size_t)(s->set.n + 1) * sizeof *sim);
    for (int k = 0; k < s->n_d; k++) {
        const struct eval_direction *d = &s->d[k];
        if (!d->queries) continue;
        char share[32];
        char *title = mem_printf("%s → %s: %s come first", p->r->m->tower[d->query].name,
                                 p->r->m->tower[d->target].name, eval_percent(share, sizeof share, d->recall[0]));
        html_card_begin(p->b, title);
        for (int i = 0; i < QUERIES && i < d->queries; i++)
            query_row(p, d, d->queries <= QUERIES ? i : (2 * i + 1) * d->queries / (2 * QUERIES), sim);
        html_card_end(p->b);
        free(title);
    }
    free(sim);
}

struct miss {
    int64_t query, wrong, right; /* items of the set */
    float wrong_sim, right_sim;
    int32_t rank;
};

/* What was taken for the right one, and the best right one. */
static struct miss look_at_miss(const struct eval_set *s, const struct eval_direction *d, int64_t k, float *sim)
{
    struct miss m = {.query = d->from[k], .wrong = -1, .right = -1, .rank = d->rank[k]};
    eval_similarity(s, d->query, d->target, m.query, m.query + 1, sim);
    for (int64_t j = 0; j < s->n; j++) {
        if (!s->has[d->target][j]) continue;
        int64_t *best = s->group[j] == s->group[m.query] ? &m.right : &m.wrong;
        if (*best < 0 || sim[j] > sim[*best]) *best = j;
    }
    m.wrong_sim = m.wrong >= 0 ? sim[m.wrong] : NAN;
    m.right_sim = m.right >= 0 ? sim[m.right] : NAN;
    return m;
}

static int nearest_misses(const struct eval_set *s, const struct eval_direction *d, struct miss *out, float *sim)
{
    int n = 0, looked = 0;
    for (int64_t k = 0; k < d->queries && looked < MISSES_LOOKED_AT; k++) {
        if (d->rank[k] <= 1) continue;
        looked++;
        struct miss m = look_at_miss(s, d, k, sim);
        float margin = m.wrong_sim - m.right_sim;
        if (!isfinite(margin) || (n == MISSES && !(margin < out[n - 1].wrong_sim - out[n - 1].right_sim))) continue;
        int at = n < MISSES ? n++ : n - 1;
        for (; at > 0 && margin < out[at - 1].wrong_sim - out[at - 1].right_sim; at--) out[at] = out[at - 1];
        out[at] = m;
    }
    return n;
}

static void miss_card(struct page *p, const struct eval_direction *d, const struct miss *m)
{
    char text[96];
    snprintf(text, sizeof text, "%s → %s", p->r->m->tower[d->query].name, p->r->m->tower[d->target].name);
    html_card_begin(p->b, text);
    buf_str(p->b, "<div class=\"trio\">\n");
    p->show.mute = true; /* a player needs more room than these have */
    cell_begin(p, " q", "asked");
    item(p, m->query, d->query);
    snprintf(text, sizeof text, "rank %d", m->rank);
    cell_end(p, text);
    cell_begin(p, "", "taken");
    item(p, m->wrong, d->target);
    snprintf(text, sizeof text, "%.4f", m->wrong_sim);
    cell_end(p, text);
    cell_begin(p, " right", "right");
    item(p, m->right, d->target);
    snprintf(text, sizeof text, "%.4f", m->right_sim);
    cell_end(p, text);
    buf_str(p->b, "</div>\n");
    html_card_end(p->b);
}

static void misses(struct page *p)
{
    const struct eval_split *s = p->s;
    float *sim = mem_alloc((size_t)(s->set.n + 1) * sizeof *sim);
    buf_str(p->b, "<h3 style=\"margin-top:24px\">Nearest misses</h3>\n");
    html_note(p->b, "Wrong by the smallest margins of similarity.");
    html_grid_begin(p->b, 330);
    for (int k = 0; k < s->n_d; k++) {
        struct miss m[MISSES];
        int n = nearest_misses(&s->set, &s->d[k], m, sim);
        for (int i = 0; i < n; i++) miss_card(p, &s->d[k], &m[i]);
    }
    html_grid_end(p->b);
    free(sim);
}

static double dot(const float *a, const float *b, int64_t n)
{
    double x = 0;
    for (int64_t i = 0; i < n; i++) x += (double)a[i] * b[i];
    return x;
}

/* Up to HEAT items that have both modalities, evenly spread. */
static void heat(struct page *p, int a, int b)
{
    const struct eval_set *s = &p->s->set;
    int64_t *both = mem_alloc((size_t)(s->n + 1) * sizeof *both), n = 0, at[HEAT];
    for (int64_t i = 0; i < s->n; i++)
        if (s->has[a][i] && s->has[b][i]) both[n++] = i;
    int k = n < HEAT ? (int)n : HEAT;
    const char *label[HEAT];
    double value[HEAT * HEAT];
    for (int i = 0; i < k; i++) {
        at[i] = both[i * n / k];
        label[i] = eval_caption(p->r->m, &p->r->data->item[s->item[at[i]]]);
    }
    for (int i = 0; i < k; i++)
        for (int j = 0; j < k; j++)
            value[i * k + j] = dot(s->unit[a] + at[i] * s->width, s->unit[b] + at[j] * s->width, s->width);
    free(both);
    if (!k) return;
    const struct run_model *m = p->r->m;
    char *title = mem_printf("%s (down) and %s (across)", m->tower[a].name, m->tower[b].name);
    html_card_begin(p->b, title);
    plot_heat(p->b, &(struct plot){.width = 560}, value, k, k, label, NULL);
    html_card_end(p->b);
    free(title);
}

static void heats(struct page *p)
{
    buf_str(p->b, "<h3 style=\"margin-top:24px\">Similarities</h3>\n");
    html_note(p->b, "Items spread evenly over the split, in the same order down and across: what belongs together lies "
                    "on the diagonal.");
    html_grid_begin(p->b, 460);
    for (int i = 0; i < run_pairs(&p->r->m->config); i++) {
        int a, b;
        double w;
        run_pair(&p->r->m->config, i, &a, &b, &w);
        if (p->r->m->input[b].kind == DATA_TEXT)
            heat(p, b, a);
        else
            heat(p, a, b);
    }
    html_grid_end(p->b);
}

void eval_page_examples(struct buf *b, const struct eval_report *r)
{
    for (int i = 0; i < r->n; i++) {
        const char *name = r->split[i].set.split;
        struct page p = {.b = b,
                         .r = r,
                         .s = &r->split[i],
                         .entries = eval_split_entries(name),
                         .show = {.px = SIDE, .sound_bytes = i ? SOUND_BYTES / 2 / (r->n - 1) : SOUND_BYTES / 2}};
        char *title = mem_printf("Examples: %s", name);
        html_section(b, title);
        if (i == 0)
            html_note(b, "Queries on the left, spread evenly over the split and not picked; then the five nearest with "
                         "their similarity. The right one has a green frame.");
        else
            buf_str(b, "<details><summary>Show them</summary>\n");
        gallery(&p);
        misses(&p);
        heats(&p);
        if (i) buf_str(b, "</details>\n");
        free(title);
    }
}
