/* Measuring everything, and the forms that are text: table and JSON. See report.h. */
#include "eval/report.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"

static int first_text(const struct run_model *m)
{
    for (int i = 0; i < m->n; i++)
        if (m->input[i].kind == DATA_TEXT) return i;
    return -1;
}

static void measure_directions(const struct run_model *m, struct eval_split *s)
{
    s->d = mem_zero((size_t)run_pairs(&m->config) * 2, sizeof *s->d);
    for (int p = 0; p < run_pairs(&m->config); p++) {
        int pair[2];
        double w;
        run_pair(&m->config, p, &pair[0], &pair[1], &w);
        /* From text first: that is how people ask. */
        int k = m->input[pair[1]].kind == DATA_TEXT;
        eval_direction_make(&s->set, pair[k], pair[1 - k], EVAL_RESAMPLES, &s->d[s->n_d++]);
        eval_direction_make(&s->set, pair[1 - k], pair[k], EVAL_RESAMPLES, &s->d[s->n_d++]);
    }
}

static int measure_zeroshot(struct run_model *m, const struct manifest *data, const struct eval_report_options *o,
                            struct eval_split *s, struct err *e)
{
    int text = first_text(m);
    if (text < 0)
        return err_set(e, ERR_CONFIG, "zero-shot classification needs a text modality, and this model has none");
    struct eval_classes c;
    int rc = strcmp(o->classes, "names") ? eval_classes_read(o->classes, o->templates, o->n_templates, &c, e)
                                         : eval_classes_of(m, data, &s->set, o->templates, o->n_templates, &c, e);
    if (rc) return rc;
    s->zero = mem_zero((size_t)m->n, sizeof *s->zero);
    for (int i = 0; i < m->n && !rc; i++) {
        if (i == text) continue;
        rc = eval_zeroshot_make(m, data, &s->set, i, text, &c, EVAL_RESAMPLES, &s->zero[s->n_zero], e);
        s->n_zero += !rc;
    }
    eval_classes_free(&c);
    return rc;
}

int eval_report_make(struct run_model *m, const struct manifest *data, const struct eval_report_options *o,
                     struct eval_report *r, struct err *e)
{
    *r = (struct eval_report){.m = m, .data = data, .n = o->n_splits};
    r->split = mem_zero((size_t)o->n_splits, sizeof *r->split);
    int rc = 0;
    for (int i = 0; i < o->n_splits && !rc; i++) {
        struct eval_split *s = &r->split[i];
        rc = eval_set_make(m, data, o->splits[i], 0, &s->set, o->show, e);
        if (!rc) measure_directions(m, s);
        if (!rc && o->classes) rc = measure_zeroshot(m, data, o, s, e);
    }
    if (rc) eval_report_free(r);
    return rc;
}

void eval_report_free(struct eval_report *r)
{
    for (int i = 0; i < r->n; i++) {
        struct eval_split *s = &r->split[i];
        for (int k = 0; k < s->n_d; k++) eval_direction_free(&s->d[k]);
        for (int k = 0; k < s->n_zero; k++) eval_zeroshot_free(&s->zero[k]);
        free(s->d);
        free(s->zero);
        eval_set_free(&s->set);
    }
    free(r->split);
    free(r->command);
    *r = (struct eval_report){0};
}

char *eval_percent(char *out, size_t size, double share)
{
    if (isnan(share))
        snprintf(out, size, "–");
    else if (share > 0 && share < 0.00995)
        snprintf(out, size, "%.2f %%", 100 * share);
    else
        snprintf(out, size, "%.1f %%", 100 * share);
    return out;
}

/* ---- table */

static void print_shares(FILE *out, const struct eval_direction *d)
{
    for (int c = 0; c < EVAL_CUTS; c++) {
        char interval[32] = "";
        if (!isnan(d->low[c])) snprintf(interval, sizeof interval, "[%.1f, %.1f]", 100 * d->low[c], 100 * d->high[c]);
        fprintf(out, "  %5.1f %-14s", 100 * d->recall[c], interval);
    }
}

static int name_width(const struct eval_report *r)
{
    size_t most = 0;
    for (int i = 0; i < r->n; i++)
        for (int k = 0; k < r->split[i].n_d; k++) {
            const struct eval_direction *d = &r->split[i].d[k];
            size_t n = strlen(r->m->tower[d->query].name) + strlen(r->m->tower[d->target].name) + 3;
            if (n > most) most = n;
        }
    return most > 17 ? (int)most : 17;
}

void eval_report_print(const struct eval_report *r, FILE *out)
{
    int wide = name_width(r);
    for (int i = 0; i < r->n; i++) {
        const struct eval_split *s = &r->split[i];
        fprintf(out, "%s%s: %lld items, in %% with 95 %% intervals\n", i ? "\n" : "", s->set.split,
                (long long)s->set.n);
        fprintf(out, "  %-*s  %-20s  %-20s  %-20s  %6s  %6s  %10s  %s\n", wide, "", "  R@1", "  R@5", "  R@10",
                "median", "mAP", "candidates", "chance R@1");
        for (int k = 0; k < s->n_d; k++) {
            const struct eval_direction *d = &s->d[k];
            char name[256];
            int n = snprintf(name, sizeof name, "%s → %s", r->m->tower[d->query].name, r->m->tower[d->target].name);
            fprintf(out, "  %s%*s", name, wide - (n - 2) > 0 ? wide - (n - 2) : 0, ""); /* the arrow has 3 bytes */
            if (!d->queries) {
                fprintf(out, "  no item has both\n");
                continue;
            }
            print_shares(out, d);
            fprintf(out, "  %6g  %6.1f  %10lld  %10.2f\n", d->median, 100 * d->map, (long long)d->candidates,
                    100 * d->chance[0]);
        }
        for (int k = 0; k < s->n_zero; k++) {
            const struct eval_zeroshot *z = &s->zero[k];
            fprintf(out, "  zero-shot %-*s", wide - 10, r->m->tower[z->modality].name);
            print_shares(out, &z->d);
            fprintf(out, "  %6g  %6.1f  %10lld  %10.2f\n", z->d.median, 100 * z->d.map, (long long)z->classes,
                    100 * z->d.chance[0]);
            if (z->unknown)
                fprintf(out, "            (%lld items left out: their label is none of the classes)\n",
                        (long long)z->unknown);
        }
    }
}

/* ---- JSON */

static json_t *number(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

static void add_shares(json_t *to, const struct eval_direction *d, const char *name)
{
    for (int c = 0; c < EVAL_CUTS; c++) {
        char key[32];
        snprintf(key, sizeof key, "%s@%d", name, eval_cut[c]);
        json_object_set_new(to, key,
                            json_pack("{s:o, s:o, s:o, s:o}", "value", number(d->queries ? d->recall[c] : NAN), "low",
                                      number(d->low[c]), "high", number(d->high[c]), "chance",
                                      number(d->queries ? d->chance[c] : NAN)));
    }
}

static json_t *direction_json(const struct run_model *m, const struct eval_direction *d)
{
    json_t *o = json_pack("{s:s, s:s, s:I, s:I}", "query", m->tower[d->query].name, "target", m->tower[d->target].name,
                          "queries", (json_int_t)d->queries, "candidates", (json_int_t)d->candidates);
    add_shares(o, d, "R");
    json_object_set_new(o, "median_rank", number(d->median));
    json_object_set_new(o, "mAP", number(d->queries ? d->map : NAN));
    return o;
}

static json_t *zeroshot_json(const struct run_model *m, const struct eval_zeroshot *z)
{
    json_t *o = json_pack("{s:s, s:I, s:I, s:I}", "modality", m->tower[z->modality].name, "classes",
                          (json_int_t)z->classes, "items", (json_int_t)z->d.queries, "unknown", (json_int_t)z->unknown);
    add_shares(o, &z->d, "accuracy");
    return o;
}

int eval_report_json(const struct eval_report *r, const char *path, struct err *e)
{
    json_t *splits = json_array();
    for (int i = 0; i < r->n; i++) {
        const struct eval_split *s = &r->split[i];
        json_t *directions = json_array(), *zero = json_array();
        for (int k = 0; k < s->n_d; k++) json_array_append_new(directions, direction_json(r->m, &s->d[k]));
        for (int k = 0; k < s->n_zero; k++) json_array_append_new(zero, zeroshot_json(r->m, &s->zero[k]));
        json_t *one = json_pack("{s:s, s:I, s:o}", "split", s->set.split, "items", (json_int_t)s->set.n, "directions",
                                directions);
        if (s->n_zero)
            json_object_set_new(one, "zero_shot", zero);
        else
            json_decref(zero);
        json_array_append_new(splits, one);
    }
    json_t *root =
        json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:s, s:s?, s:o}", "name", r->m->config.name, "triad", TRIAD_VERSION,
                  "model", r->m->dir, "step", (json_int_t)r->m->state.step, "parameters",
                  (json_int_t)ad_store_trainable(r->m->store), "bootstrap_resamples", (json_int_t)EVAL_RESAMPLES,
                  "data", r->data->path, "command", r->command, "splits", splits);
    char *text = root ? json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) : NULL;
    json_decref(root);
    if (!text) return err_set(e, ERR_FORMAT, "%s: a name or path in the report is not UTF-8", path);
    struct buf b = {0};
    buf_printf(&b, "%s\n", text);
    int rc = 0;
    if (strcmp(path, "-"))
        rc = file_write(path, b.data, b.len, e);
    else if (fwrite(b.data, 1, b.len, stdout) != b.len || fflush(stdout))
        rc = err_errno(e, "cannot write to standard output");
    buf_free(&b);
    free(text);
    return rc;
}
