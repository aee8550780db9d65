/* triad eval: how good a model is. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "base/threads.h"
#include "cli/args.h"
#include "cli/cli.h"
#include "eval/report.h"

struct eval_args {
    const char *model, *data, *json, *html, *classes, *template;
    struct eval_report_options o;
};

/* "a,b" -> a list. The strings and the list are the caller's to free together: *list and (*list)[0]. */
static const char **cut_list(const char *s, int *n)
{
    char *copy = mem_strdup(s);
    const char **list = NULL;
    size_t cap = 0;
    *n = 0;
    for (char *at = copy, *next; at; at = next) {
        if ((next = strchr(at, ','))) *next++ = 0;
        list = mem_grow(list, &cap, (size_t)*n + 1, sizeof *list);
        list[(*n)++] = at;
    }
    return list;
}

static int write_all(struct eval_report *r, const struct eval_args *a, struct err *e)
{
    bool to_stdout = a->json && !strcmp(a->json, "-");
    if (!to_stdout) eval_report_print(r, stdout);
    int rc = a->json ? eval_report_json(r, a->json, e) : 0;
    if (!rc && a->html) {
        rc = eval_report_html(r, a->html, e);
        if (!rc) log_info("%s: open it in a browser", a->html);
    }
    return rc;
}

static int evaluate(struct eval_args *a, char *command, struct err *e)
{
    struct run_model *m = NULL;
    struct manifest data = {0};
    struct eval_report r = {0};
    char n[32];
    int rc = run_model_open(a->model, &m, e);
    if (!rc) {
        const struct run_config *c = &m->config;
        threads_init((int)c->train.threads);
        if (!a->o.n_splits) a->o.splits = c->data.valid.v, a->o.n_splits = (int)c->data.valid.n;
        rc = a->o.n_splits
                 ? manifest_load(a->data ? a->data : c->data.manifest, &data, e)
                 : err_set(e, ERR_USAGE, "the config has no data.valid: name the split to measure with --split");
        if (rc && !a->data && rc != ERR_USAGE) err_append(e, " (--data MANIFEST names another place)");
    }
    if (!rc) {
        log_info("%s: step %s, %s", m->dir, text_count(n, sizeof n, m->state.step), data.path);
        rc = eval_report_make(m, &data, &a->o, &r, e);
    }
    if (!rc) {
        r.command = mem_strdup(command);
        rc = write_all(&r, a, e);
    }
    eval_report_free(&r);
    manifest_free(&data);
    run_model_free(m);
    return rc;
}

static char *join(int argc, char **argv)
{
    struct buf b = {0};
    buf_str(&b, "triad");
    for (int i = 0; i < argc; i++) buf_printf(&b, strpbrk(argv[i], " '\"{}") ? " \"%s\"" : " %s", argv[i]);
    return b.data;
}

int cli_eval(int argc, char **argv)
{
    struct eval_args v = {.o.show = true};
    const char *splits = NULL;
    const struct arg_flag flags[] = {
        {"data", 0, ARG_STRING, &v.data, "MANIFEST", "the data (what the config names)"},
        {"split", 's', ARG_STRING, &splits, "S[,S...]",
         "splits to measure (the config's data.valid); \"a/b\": items of\n"
         "a with the clips of b"},
        {"json", 0, ARG_STRING, &v.json, "FILE", "write every figure as JSON; - for standard output"},
        {"report", 0, ARG_STRING, &v.html, "FILE", "write one HTML page with curves, examples and misses"},
        {"zero-shot", 0, ARG_STRING, &v.classes, "CLASSES",
         "classify by prompts: a file with a class on each line\n"
         "(name, or name | prompt | prompt), or the word names:\n"
         "the split's own labels"},
        {"template", 0, ARG_STRING, &v.template, "TEXT",
         "prompt of classes without their own (\"{}\": the name itself)"},
        {0}};
    const struct args a = {
        .command = "eval",
        .words = "MODEL",
        .summary = "Measures how well each modality finds the others: R@1, R@5, R@10 with bootstrap 95 % "
                   "intervals,\nmedian rank and mAP, chance beside them. MODEL is a run folder or a checkpoint.",
        .flags = flags,
        .least = 1,
        .most = 1,
        .more = "examples:\n"
                "  triad eval runs/emoji\n"
                "  triad eval runs/emoji --split concepts --report report.html\n"
                "  triad eval runs/emoji --zero-shot names --template \"a picture of {}\"\n"};
    struct err e = {0};
    int n;
    char *command = join(argc, argv);
    int rc = args_parse(&a, argc, argv, &n, &e);
    if (!rc) {
        v.model = argv[1];
        if (splits) v.o.splits = cut_list(splits, &v.o.n_splits);
        v.o.classes = v.classes;
        v.o.templates = &v.template;
        v.o.n_templates = v.template != NULL;
        const char **owned = splits ? (const char **)(uintptr_t)v.o.splits : NULL;
        rc = evaluate(&v, command, &e);
        if (owned) free((void *)(uintptr_t)owned[0]);
        free(owned);
    }
    free(command);
    if (rc < 0) log_error("%s", e.msg);
    return rc < 0 ? err_exit_status(rc) : 0;
}
