/* triad explain: what a training step takes and where, before it is run. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "base/threads.h"
#include "bench/explain.h"
#include "bench/measure.h"
#include "cli/args.h"
#include "cli/cli.h"
#include "train/held.h"
#include "train/plans.h"
#include "train/setup.h"

static const char summary[] = "Says what a training step takes and where: memory over the step, time and operations by "
                              "layer, what is kept for the\n"
                              "gradients, computed again or fused, and the largest tensors at the peak. CONFIG is a "
                              "run's YAML file, of which the\n"
                              "first batch is planned (without its data: the largest batch that the config allows), or "
                              "a row of the bench. Keys may\n"
                              "be set behind it: train.memory=1GB, or memory=1GB of a row.";

enum { RUNS = 3 };

struct options {
    const char *html;
    bool profile;
    int64_t depth, threads;
};

static int write_out(const struct bench_explained *x, const struct options *o, struct err *e)
{
    struct buf text = {0}, page = {0};
    bench_explain_text(x, &text);
    int rc = 0;
    if (o->html) {
        bench_explain_page(x, &page);
        rc = file_write(o->html, page.data, page.len, e);
    }
    if (!rc && fwrite(text.data, 1, text.len, stdout) != text.len) rc = err_errno(e, "standard output");
    if (!rc && o->html) log_info("wrote %s", o->html);
    buf_free(&text);
    buf_free(&page);
    return rc;
}

static int measure_machine(struct bench_explained *x, struct err *e)
{
    struct bench_peak p = bench_peak_flops();
    int rc = bench_peak_memory(&p, e);
    x->machine = (struct ad_limits){p.flops, bench_bandwidth(&p)};
    return rc;
}

static void hold(struct bench_explained *x, const char *what, double bytes)
{
    CHECK(x->n_held < BENCH_HELD);
    if (bytes > 0) x->held[x->n_held++] = (struct bench_held){what, bytes};
}

/* ---- a run ------------------------------------------------------------------------------------------------------- */

/* The shapes of the first batch, or without data (b NULL) of the largest that the config allows. */
static void batch_shapes(const struct run_model *m, const struct data_batch *b, struct model_shape *shape)
{
    const struct run_config *c = &m->config;
    for (int i = 0; i < m->n; i++) {
        const struct data_modality *d = &m->input[i];
        shape[i] = (struct model_shape){.items = c->train.batch};
        if (b)
            shape[i] = (struct model_shape){b->part[i].cap, b->part[i].rows};
        else if (d->kind == DATA_TEXT)
            shape[i].rows = data_round_rows(shape[i].items * d->max_tokens, data_row_unit(d));
        else if (d->samples > 0)
            shape[i].rows = shape[i].items * d->samples;
        else if (d->kind == DATA_AUDIO)
            shape[i].rows = data_round_rows(
                shape[i].items * data_logmel_frames(&d->logmel, (int64_t)(d->max_seconds * (double)d->logmel.rate)),
                data_row_unit(d));
    }
}

static bool in_parts(const struct run_model *m)
{
    return m->config.train.micro_batch > 0 && m->config.train.micro_batch < m->config.train.batch;
}

/* A replay of one tower: a micro-batch of its items, with as many rows as they have on average. */
static struct train_key replay_key(const struct run_model *m, const struct train_key *whole, int modality)
{
    struct train_key key = {.part = TRAIN_REPLAY, .modality = modality, .flags = whole->flags};
    struct model_shape s = whole->shape[modality];
    int64_t items = m->config.train.micro_batch < s.items ? m->config.train.micro_batch : s.items;
    if (s.rows > 0)
        s.rows = data_round_rows((s.rows * items + s.items - 1) / s.items, data_row_unit(&m->input[modality]));
    s.items = items;
    key.shape[modality] = s;
    return key;
}

/* What a plan is of: one of the modalities, or these. */
enum { PART_WHOLE = -2, PART_LOSS = -1 };

static void keep_larger(struct ad_plan **best, struct ad_plan *p, int part, int *part_of_best)
{
    if (*best && ad_plan_stats(p).arena_bytes <= ad_plan_stats(*best).arena_bytes) {
        ad_plan_free(p);
        return;
    }
    ad_plan_free(*best);
    *best = p;
    *part_of_best = part;
}

/* Of the plans of a batch in parts, which take turns in one arena, the one that asks the most; *part says which. */
static struct ad_plan *plan_parts(const struct train_plans *plans, const struct train_key *whole, int *part,
                                  struct err *e)
{
    const struct run_model *m = plans->m;
    struct train_key key = {.part = TRAIN_LOSS, .batch = whole->batch, .flags = whole->flags};
    for (int i = 0; i < m->n; i++) key.shape[i].items = whole->shape[i].items;
    struct ad_plan *best = NULL;
    for (int i = PART_LOSS; i < m->n; i++) {
        struct ad_plan *p = train_plan_new(plans, &key, true, e);
        if (!p) {
            ad_plan_free(best);
            return NULL;
        }
        keep_larger(&best, p, i, part);
        if (i + 1 < m->n) key = replay_key(m, whole, i + 1);
    }
    return best;
}

/* The plan of a whole batch, as the run makes it, or of a batch in parts; *part says of which. */
static struct ad_plan *plan_run(struct train_plans *plans, const struct opt *opt, const struct model_shape *shape,
                                bool dry, int *part, struct err *e)
{
    const struct run_model *m = plans->m;
    const struct run_train *c = &m->config.train;
    struct train_key key = {.part = TRAIN_WHOLE, .batch = c->batch};
    memcpy(key.shape, shape, (size_t)m->n * sizeof *shape);
    plans->taken = train_held_bytes(m, opt, shape, c->batch);
    int rc = train_plan_flags(c, &key.flags, e);
    if (!rc) rc = run_memory(c->memory, &plans->budget, e);
    if (rc) return NULL;
    *part = PART_WHOLE;
    return in_parts(m) ? plan_parts(plans, &key, part, e) : train_plan_new(plans, &key, dry, e);
}

/* With optim.in_backward steps are taken, of length 0. */
static int time_run(struct ad_plan *p, const struct run_model *m, struct opt *opt, const struct data_batch *b,
                    struct err *e)
{
    bool within = m->config.optim.in_backward;
    size_t bytes = within ? 0 : ad_store_flat_bytes(m->store);
    void *grad = within ? NULL : mem_block(bytes, "gradients", e);
    if (!grad && !within) return ERR_MEMORY;
    if (within)
        opt_begin(opt, 0);
    else
        opt_bind_gradients(p, m->store, grad);
    run_bind_batch(p, m, b);
    int rc = ad_run(p, 0, 0, e);
    ad_plan_profile(p, true);
    for (int i = 0; i < RUNS && !rc; i++) rc = ad_run(p, 0, (uint64_t)i, e);
    mem_block_free(grad, bytes);
    return rc;
}

static void about_part(struct bench_explained *x, const struct run_model *m, int part)
{
    size_t n = strlen(x->about);
    bool loss = part == PART_LOSS;
    snprintf(x->about + n, sizeof x->about - n,
             "; in micro-batches of %lld, whose plans take turns: below is %s%s, which takes the most memory",
             (long long)m->config.train.micro_batch, loss ? "the loss" : "one micro-batch of ",
             loss ? "" : m->tower[part].name);
}

static void about_run(struct bench_explained *x, const struct run_model *m, const struct model_shape *shape, bool data)
{
    int n = snprintf(x->about, sizeof x->about, "batch %lld", (long long)m->config.train.batch);
    for (int i = 0; i < m->n && n < (int)sizeof x->about; i++) {
        const char *what = m->input[i].kind == DATA_TEXT ? "tokens" : m->input[i].samples > 0 ? "samples" : "frames";
        n += snprintf(x->about + n, sizeof x->about - (size_t)n, "; %s %lld items", m->tower[i].name,
                      (long long)shape[i].items);
        if (m->input[i].kind != DATA_IMAGE && n < (int)sizeof x->about)
            n += snprintf(x->about + n, sizeof x->about - (size_t)n, ", %lld %s", (long long)shape[i].rows, what);
    }
    if (n < (int)sizeof x->about)
        snprintf(x->about + n, sizeof x->about - (size_t)n,
                 data ? "; the first batch" : "; no data: the largest batch");
}

static int explain_model(struct run_model *m, struct opt *opt, const struct data_batch *b, const struct options *o,
                         struct err *e)
{
    struct model_shape shape[RUN_MAX_MODALITIES];
    struct bench_explained x = {.name = m->config.name, .depth = (int)o->depth};
    struct train_loss_scale scale = {0};
    struct train_plans plans = {.m = m, .loss_scale = &scale, .within = m->config.optim.in_backward ? opt : NULL};
    train_loss_scale_begin(&scale, &m->config.train);
    batch_shapes(m, b, shape);
    int part;
    if (o->profile && in_parts(m))
        return err_set(e, ERR_USAGE,
                       "--profile runs a batch at once: set train.micro_batch=0, and train.batch to that");
    struct ad_plan *p = plan_run(&plans, opt, shape, !o->profile, &part, e);
    if (!p) return e->code;
    int rc = o->profile ? time_run(p, m, opt, b, e) : 0;
    if (!rc) rc = measure_machine(&x, e);
    if (!rc) {
        struct train_held h = train_held(m, opt, shape, m->config.train.batch);
        x.budget = (double)plans.budget;
        hold(&x, "parameters", h.parameters);
        hold(&x, "gradients", h.gradients);
        hold(&x, "optimizer", h.optimizer);
        hold(&x, "batches", h.batches);
        hold(&x, "embeddings", h.embeddings);
        hold(&x, "program", h.program);
        about_run(&x, m, shape, b != NULL);
        if (part != PART_WHOLE) about_part(&x, m, part);
        bench_explain_plan(&x, p);
    }
    if (!rc) rc = write_out(&x, o, e);
    bench_explain_free(&x);
    ad_plan_free(p);
    return rc;
}

static int explain_with_data(const struct train_options *t, const struct options *o, struct err *e)
{
    struct train_setup s = {0};
    struct data_batch *b = NULL;
    int rc = train_setup_open(&s, t, e);
    if (!rc) rc = data_loader_next(s.loader, &b, e);
    if (!rc) rc = explain_model(s.m, s.opt, b, o, e);
    if (b) data_loader_release(s.loader, b);
    train_setup_close(&s);
    return rc;
}

static int explain_sketch(const struct train_options *t, const struct options *o, struct err *e)
{
    struct run_model *m = NULL;
    int rc = run_model_sketch(t->config, t->overrides, t->n_overrides, &m, e);
    if (rc) return rc;
    if (o->profile)
        rc = err_set(e, ERR_IO, "--profile runs the first batch, and the data is not there: %s",
                     m->config.data.manifest);
    if (!rc) rc = train_choose_optim(m, e);
    if (!rc) rc = run_model_commit(m, e);
    struct opt_config c = run_opt_config(&m->config);
    struct opt *opt = rc ? NULL : opt_new(&c, m->store, e);
    if (opt) rc = explain_model(m, opt, NULL, o, e);
    opt_free(opt);
    run_model_free(m);
    return rc ? rc : e->code;
}

static int explain_run(const struct train_options *t, const struct options *o, struct err *e)
{
    struct conf conf = {0};
    struct run_config c;
    int rc = run_config_read(&conf, t->config, t->overrides, t->n_overrides, &c, e);
    bool data = !rc && file_exists(c.data.manifest);
    conf_free(&conf);
    return rc ? rc : data ? explain_with_data(t, o, e) : explain_sketch(t, o, e);
}

/* ---- a row of the bench ------------------------------------------------------------------------------------------ */

static int explain_job(struct bench_job *j, const struct bench_row *row, const struct options *o, struct err *e)
{
    const struct ad_plan *p = bench_job_plan(j);
    if (!p) return err_set(e, ERR_USAGE, "the row '%s' has no model to explain", row->name);
    struct bench_explained x = {.name = row->name, .depth = (int)o->depth};
    struct bench_size size = bench_job_size(j);
    int64_t budget = 0;
    int rc = run_memory(row->memory, &budget, e);
    if (o->profile) {
        if (!rc) rc = bench_job_step(j, e);
        bench_job_profile(j, true);
        for (int i = 0; i < RUNS && !rc; i++) rc = bench_job_step(j, e);
    }
    if (!rc) rc = measure_machine(&x, e);
    x.budget = (double)budget;
    hold(&x, "parameters", size.params_bytes);
    hold(&x, "gradients", size.gradient_bytes);
    hold(&x, "optimizer", size.state_bytes - size.params_bytes - size.gradient_bytes);
    hold(&x, "inputs", size.input_bytes);
    snprintf(x.about, sizeof x.about, "a row of the bench, batch %lld", (long long)row->batch);
    bench_explain_plan(&x, p);
    if (!rc) rc = write_out(&x, o, e);
    bench_explain_free(&x);
    return rc;
}

static int explain_row(const struct train_options *t, const struct options *o, struct err *e)
{
    struct conf conf = {0};
    struct bench_row row;
    int rc = bench_row_read(&conf, t->config, t->overrides, t->n_overrides, &row, e);
    struct bench_job *j = rc ? NULL : bench_job_new(&row, e);
    if (j) rc = explain_job(j, &row, o, e);
    bench_job_free(j);
    conf_free(&conf);
    return rc ? rc : e->code;
}

/* Whether the word names a row rather than a run's config: no path, or a file with a row's key `work` at its left edge. */
static bool is_row(const char *word)
{
    size_t len = strlen(word), size = 0;
    char *text = NULL;
    struct err ignored = {0};
    if (!strchr(word, '/') && (len < 5 || strcmp(word + len - 5, ".yaml"))) return true;
    if (file_read(word, CONF_MAX_BYTES, &text, &size, &ignored)) return false;
    bool row = !strncmp(text, "work:", 5) || strstr(text, "\nwork:");
    free(text);
    return row;
}

int cli_explain(int argc, char **argv)
{
    struct options o = {.depth = 3};
    const struct arg_flag flags[] = {
        {"html", 0, ARG_STRING, &o.html, "FILE", "write a page with pictures too"},
        {"profile", 0, ARG_BOOL, &o.profile, NULL, "run the step a few times and show measured times too"},
        {"depth", 0, ARG_INT, &o.depth, "N", "parts of a layer's path that make a line", 1, 16},
        {"threads", 0, ARG_INT, &o.threads, "N", "threads that compute; 0: all cores", 0, 4096},
        {0},
    };
    const struct args a = {"explain",
                           "CONFIG [key=value ...]",
                           summary,
                           flags,
                           1,
                           -1,
                           "examples:\n  triad explain configs/emoji.yaml --html emoji.html\n"
                           "  triad explain configs/emoji.yaml train.memory=400MB train.batch=256\n"
                           "  triad explain clip_small memory=300MB --profile\n"};
    struct err e = {0};
    int n, rc = args_parse(&a, argc, argv, &n, &e);
    if (rc > 0) return 0;
    if (!rc) {
        threads_init((int)o.threads);
        struct train_options t = {
            .config = argv[1], .overrides = (const char *const *)(argv + 2), .n_overrides = n - 1};
        rc = is_row(argv[1]) ? explain_row(&t, &o, &e) : explain_run(&t, &o, &e);
    }
    if (rc) log_error("%s", e.msg);
    return err_exit_status(rc);
}
