/* Everything that is measured about a model, and its three forms: a table for the terminal, JSON, one HTML page. */
#ifndef TRIAD_EVAL_REPORT_H
#define TRIAD_EVAL_REPORT_H

#include <stdio.h>
#include "eval/measure.h"
#include "eval/zeroshot.h"

enum { EVAL_RESAMPLES = 1000 };

struct eval_split {
    struct eval_set set;
    struct eval_direction *d; /* (n_d): both directions of every pair of the loss */
    int n_d;
    struct eval_zeroshot *zero; /* (n_zero): every modality but the one that reads the prompts */
    int n_zero;
};

struct eval_report {
    struct run_model *m;         /* the caller's; must outlive the report */
    const struct manifest *data; /* the same */
    struct eval_split *split;    /* (n) */
    int n;
    char *command; /* as it was typed, or NULL */
};

struct eval_report_options {
    const char *const *splits; /* (n_splits): see eval_set_make */
    int n_splits;
    const char *classes; /* a file (eval_classes_read), "names" for the split's own labels, NULL for no zero-shot */
    const char *const *templates;
    int n_templates;
    bool show; /* with progress lines */
};

/* Embeds and measures. Errors of eval_set_make and zeroshot.h; ERR_CONFIG where zero-shot is asked of a model without
 * text. On error *r is empty. Free with eval_report_free. */
int eval_report_make(struct run_model *m, const struct manifest *data, const struct eval_report_options *o,
                     struct eval_report *r, struct err *e) MUST_CHECK;
void eval_report_free(struct eval_report *r);

/* An aligned table: shares in percent with their 95 % interval, chance level beside R@1. */
void eval_report_print(const struct eval_report *r, FILE *out);

/* {"model": ..., "splits": [{"split": ..., "directions": [{"query": "text", "target": "image", "R@1": {"value": 0.55,
 * "low": ..., "high": ..., "chance": ...}, ..., "median_rank": 1, "mAP": 0.62}], "zero_shot": [...]}]}: shares in 0..1.
 * Written whole or not at all; "-" is standard output. */
int eval_report_json(const struct eval_report *r, const char *path, struct err *e) MUST_CHECK;

/* One page that needs nothing else: figures, curves of the run, queries with their hits, misses, similarities, config.
 * A few MB. Written whole or not at all. */
int eval_report_html(const struct eval_report *r, const char *path, struct err *e) MUST_CHECK;

/* The page's parts (report_curves.c, report_gallery.c). */
void eval_page_curves(struct buf *b, const struct eval_report *r);
void eval_page_examples(struct buf *b, const struct eval_report *r);

/* "55.2 %" of 0.552; "–" where it is not a number. */
char *eval_percent(char *out, size_t size, double share);

#endif
