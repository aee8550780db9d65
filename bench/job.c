/* The step of a row. See job.h. */
#include "bench/job.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/half_call.h"
#include "base/rng.h"
#include "base/threads.h"
#include "data/logmel.h"
#include "models/head.h"

struct input {
    const char *name;
    void *data;
    size_t bytes;
};

struct bench_job {
    const struct bench_row *row;
    struct ad_store *store;
    struct ad_plan *plan;
    struct opt *opt;
    void *grad; /* flat, in the layout of the store's weights; NULL where the optimizer's steps are the plan's */
    size_t flat_bytes;
    int64_t n_grad, samples;
    struct input input[8];
    int n_input;
    struct data_logmel *mel;
    float *sound, *frames;
    int64_t n_sound, n_frames;
    double state_per_parameter; /* bytes of moments */
    int64_t steps;
    bool within, profile; /* steps in the backward pass; timed */
    struct ad_timing own; /* what is no plan's: the optimizer, the front end */
};

/* ---- fixed inputs ------------------------------------------------------------------------------------------------ */

static void *add_input(struct bench_job *j, const char *name, size_t bytes, struct err *e)
{
    CHECK(j->n_input < (int)(sizeof j->input / sizeof *j->input));
    void *p = mem_block(bytes, name, e);
    if (p) j->input[j->n_input++] = (struct input){mem_strdup(name), p, bytes};
    return p;
}

static void fill_normal(float *x, int64_t n, const char *stream)
{
    enum { BLOCK = 16384 };
    uint64_t key = rng_make(1, hash_str(stream), 0).key;
#pragma omp parallel for schedule(static) if (n > BLOCK)
    for (int64_t i = 0; i < n; i += BLOCK) ad_start_normal(x + i, i, i + BLOCK < n ? i + BLOCK : n, key, 0, 1);
}

static int normal_input(struct bench_job *j, const char *tower, const char *what, int64_t n, struct err *e)
{
    char name[256];
    snprintf(name, sizeof name, "%s.%s", tower, what);
    float *x = add_input(j, name, (size_t)n * sizeof *x, e);
    if (!x) return ERR_MEMORY;
    fill_normal(x, n, name);
    return 0;
}

/* n numbers from lo to hi - 1. */
static int32_t *int_input(struct bench_job *j, const char *name, int64_t n, int64_t lo, int64_t hi, struct err *e)
{
    int32_t *x = add_input(j, name, (size_t)n * sizeof *x, e);
    struct rng r = rng_make(1, hash_str(name), 0);
    for (int64_t i = 0; x && i < n; i++) x[i] = (int32_t)(lo + rng_below(&r, hi - lo));
    return x;
}

static void offsets_of(const int64_t *length, int64_t n, int32_t *offsets)
{
    offsets[0] = 0;
    for (int64_t i = 0; i < n; i++) offsets[i + 1] = offsets[i] + (int32_t)length[i];
}

/* Tokens of texts that end in the last token of the vocabulary. */
static int text_inputs(struct bench_job *j, const struct model_tower *t, struct model_shape *s, struct err *e)
{
    int64_t *length = mem_zero((size_t)s->items, sizeof *length), vocab = t->text.vocab;
    s->rows = bench_row_lengths(&j->row->lengths, s->items, length);
    char tokens[256], offsets[256];
    snprintf(tokens, sizeof tokens, "%s.tokens", t->name);
    snprintf(offsets, sizeof offsets, "%s.offsets", t->name);
    int32_t *x = int_input(j, tokens, s->rows, 1, vocab - 1, e);
    int32_t *o = x ? add_input(j, offsets, (size_t)(s->items + 1) * sizeof *o, e) : NULL;
    if (o) {
        offsets_of(length, s->items, o);
        for (int64_t i = 0; i < s->items; i++) x[o[i + 1] - 1] = (int32_t)vocab - 1;
    }
    free(length);
    return o ? 0 : ERR_MEMORY;
}

static int tower_inputs(struct bench_job *j, const struct model_tower *t, struct model_shape *s, struct err *e)
{
    switch (t->kind) {
    case MODEL_VIT:
    case MODEL_RESNET:
    case MODEL_EFFICIENTNET: return normal_input(j, t->name, "image", s->items * t->image_size * t->image_size * 3, e);
    case MODEL_TEXT: return text_inputs(j, t, s, e);
    case MODEL_WAVE: s->rows = s->items * t->wave.length; return normal_input(j, t->name, "wave", s->rows, e);
    case MODEL_AUDIO: break;
    }
    return err_set(e, ERR_CONFIG, "%s: a row has no sound for a tower of log-mel frames", t->name);
}

/* ---- losses ------------------------------------------------------------------------------------------------------ */

static val contrastive(struct bench_job *j, struct nn *m, const struct model_tower *t, const struct model_shape *s)
{
    int64_t embed = j->row->work.contrastive.embed;
    struct nn_contrast c = {.a = model_embed(m, &t[0], s[0], embed), .b = model_embed(m, &t[1], s[1], embed)};
    ad_push(m->g, "loss");
    val loss = nn_infonce(m, &c, nn_temperature(m, "scale", 0.07, 100));
    ad_pop(m->g);
    return loss;
}

static val classify(struct bench_job *j, struct nn *m, const struct model_tower *t, struct model_shape s, struct err *e)
{
    int64_t classes = j->row->work.classify.classes;
    if (!int_input(j, "labels", s.items, 0, classes, e)) return 0;
    val labels = ad_input(m->g, "labels", AD_I32, SHAPE(s.items));
    val logits = model_classes(m, t, s, classes, 0);
    ad_push(m->g, "loss");
    val loss = ad_mean_all(m->g, ad_cross_entropy(m->g, logits, labels, 0, -100));
    ad_pop(m->g);
    return loss;
}

static val ctc(struct bench_job *j, struct nn *m, const struct model_tower *t, struct model_shape s, struct err *e)
{
    int64_t classes = j->row->work.ctc.classes, labels = j->row->work.ctc.labels;
    int32_t *offsets = add_input(j, "label_offsets", (size_t)(s.items + 1) * sizeof *offsets, e);
    if (!offsets || !int_input(j, "labels", s.items * labels, 1, classes, e)) return 0;
    for (int64_t i = 0; i <= s.items; i++) offsets[i] = (int32_t)(i * labels);
    struct nn_seq logits = model_ctc(m, t, s, classes);
    ad_push(m->g, "loss");
    val loss = model_ctc_loss(m, &logits, ad_input(m->g, "labels", AD_I32, SHAPE(s.items * labels)),
                              ad_input(m->g, "label_offsets", AD_I32, SHAPE(s.items + 1)), 0, false);
    ad_pop(m->g);
    return loss;
}

static val language_model(struct nn *m, const struct model_tower *t, struct model_shape s)
{
    struct model_lm lm = model_lm(m, t, s);
    ad_push(m->g, "loss");
    val loss = model_lm_loss(m, &lm);
    ad_pop(m->g);
    return loss;
}

static val infonce(struct bench_job *j, struct nn *m)
{
    struct ad_init unit = {AD_INIT_NORMAL, 1 / sqrt((double)j->row->work.infonce.width)}; /* rows of about length 1 */
    struct ad_shape s = SHAPE(j->row->batch, j->row->work.infonce.width);
    struct nn_contrast c = {.a = nn_param(m, "a", s, unit, 0), .b = nn_param(m, "b", s, unit, 0)};
    return nn_infonce(m, &c, ad_const(m->g, AD_F32, j->row->work.infonce.scale));
}

static val emit_loss(struct bench_job *j, struct nn *m, struct err *e)
{
    const struct bench_row *r = j->row;
    struct model_tower t[BENCH_TOWERS];
    struct model_shape s[BENCH_TOWERS];
    for (int i = 0, n = bench_row_towers(r, t); i < n; i++) {
        s[i] = (struct model_shape){.items = r->batch};
        if (tower_inputs(j, &t[i], &s[i], e)) return 0;
    }
    switch ((enum bench_kind)r->work.kind) {
    case BENCH_CONTRASTIVE: return contrastive(j, m, t, s);
    case BENCH_CLASSIFY: return classify(j, m, t, s[0], e);
    case BENCH_LM: return language_model(m, t, s[0]);
    case BENCH_CTC: return ctc(j, m, t, s[0], e);
    case BENCH_INFONCE: return infonce(j, m);
    case BENCH_ADAMW:
    case BENCH_LOGMEL: break;
    }
    return 0;
}

/* ---- the three kinds of job -------------------------------------------------------------------------------------- */

/* What moves: weight, gradient and moments are read; weight and moments written. */
static void add_optimizer(struct bench_job *j)
{
    j->state_per_parameter = opt_bytes_per_parameter(j->opt);
    j->own = (struct ad_timing){.op = "adamw", .kernel = "flat", .path = "optimizer"};
    j->own.flops = OPT_FLOPS * (double)j->n_grad;
    j->own.bytes = 3 * (double)j->flat_bytes + 2 * j->state_per_parameter * (double)j->n_grad;
}

static int make_optimizer(struct bench_job *j, struct err *e)
{
    struct opt_config c = {.kind = OPT_ADAMW,
                           .lr = j->row->lr,
                           .beta1 = 0.9,
                           .beta2 = 0.999,
                           .eps = 1e-8,
                           .weight_decay = j->row->weight_decay,
                           .state = (enum opt_store)j->row->state,
                           .decay = OPT_CONSTANT};
    j->opt = opt_new(&c, j->store, e);
    if (!j->opt) return e->code;
    add_optimizer(j);
    return 0;
}

/* The parameters' memory and, unless it takes none of its own, the gradient's. */
static int make_flat(struct bench_job *j, struct err *e)
{
    int rc = ad_store_commit(j->store, e);
    if (rc) return rc;
    j->n_grad = ad_store_flat_count(j->store);
    j->flat_bytes = ad_store_flat_bytes(j->store);
    if (j->within) return 0;
    j->grad = mem_block(j->flat_bytes, "gradients", e);
    return j->grad ? 0 : ERR_MEMORY;
}

/* Within row.memory, of which the parameters, gradients, moments and inputs are taken. */
static int plan_model(struct bench_job *j, const struct ad_graph *g, struct err *e)
{
    struct ad_plan_options o = {0};
    int rc = ad_pass_flags_parse(j->row->debug, &o.flags, e);
    o.flags |= ad_precision_flags((enum ad_precision)j->row->precision);
    if (!rc) rc = run_memory(j->row->memory, &o.budget, e);
    double taken = (j->within ? 1 : 2) * (double)j->flat_bytes + j->state_per_parameter * (double)j->n_grad;
    for (int i = 0; i < j->n_input; i++) taken += (double)j->input[i].bytes;
    o.taken = (int64_t)taken;
    if (!rc) j->plan = ad_plan_with(g, j->store, &o, e);
    return rc ? rc : j->plan ? 0 : e->code;
}

static int make_model(struct bench_job *j, struct err *e)
{
    struct nn nn = {.g = ad_graph_new(), .store = j->store, .training = true};
    j->samples = j->row->batch;
    val loss = emit_loss(j, &nn, e);
    int rc = e->code ? e->code : nn_status(&nn, e);
    j->within = j->row->in_backward && j->row->work.kind != BENCH_INFONCE;
    if (!rc) rc = make_flat(j, e);
    if (!rc && j->row->work.kind != BENCH_INFONCE) rc = make_optimizer(j, e);
    if (!rc) {
        ad_output(nn.g, "loss", loss);
        if (j->within)
            opt_emit_steps(nn.g, j->opt, loss);
        else
            opt_emit_gradients(nn.g, j->store, loss);
        rc = nn_status(&nn, e);
    }
    if (!rc) rc = plan_model(j, nn.g, e);
    ad_graph_free(nn.g);
    if (rc) return rc;
    if (j->grad) opt_bind_gradients(j->plan, j->store, j->grad);
    for (int i = 0; i < j->n_input; i++) ad_bind(j->plan, j->input[i].name, j->input[i].data);
    return 0;
}

static int fill_gradient(struct bench_job *j, struct err *e)
{
    if (!ad_store_is_narrow(j->store)) {
        fill_normal(j->grad, j->n_grad, "gradient");
        return 0;
    }
    for (int i = 0; i < ad_store_count(j->store); i++) {
        const struct ad_entry *p = ad_store_at(j->store, i);
        float *x = mem_try((size_t)p->count * sizeof *x, "gradient", e);
        if (!x) return e->code;
        fill_normal(x, p->count, p->name);
        ad_narrow(p->kept, x, (char *)j->grad + p->place, p->count);
        free(x);
    }
    return 0;
}

static int make_adamw(struct bench_job *j, struct err *e)
{
    int64_t n = j->row->work.adamw.side;
    for (int64_t i = 0; i < j->row->work.adamw.matrices; i++) {
        char name[32];
        snprintf(name, sizeof name, "matrix.%lld", (long long)i);
        int rc = ad_store_declare(j->store, name, AD_F32, SHAPE(n, n), (struct ad_init){AD_INIT_NORMAL, 1}, 0, e);
        if (rc) return rc;
    }
    int rc = make_flat(j, e);
    if (rc) return rc;
    return fill_gradient(j, e) ? e->code : make_optimizer(j, e);
}

static int make_logmel(struct bench_job *j, struct err *e)
{
    const struct data_logmel_config *c = &j->row->work.logmel.mel;
    int rc = data_logmel_new(c, &j->mel, e);
    if (rc) return rc;
    j->n_sound = (int64_t)(j->row->work.logmel.seconds * (double)c->rate);
    j->n_frames = data_logmel_frames(c, j->n_sound);
    j->samples = 1;
    j->sound = mem_block((size_t)j->n_sound * sizeof *j->sound, "sound", e);
    if (j->sound) j->frames = mem_block((size_t)(j->n_frames * c->bins) * sizeof *j->frames, "frames", e);
    if (!j->frames) return ERR_MEMORY;
    fill_normal(j->sound, j->n_sound, "sound");
    /* A real transform is 2.5 n log2 n operations, a power 3, a power's part in its two triangles 4, a logarithm some
     * 10. */
    double powers = (double)(c->fft / 2 + 1), fft = 2.5 * (double)c->fft * log2((double)c->fft);
    j->own = (struct ad_timing){.op = "logmel", .kernel = "data/logmel", .path = "front end"};
    j->own.flops = (double)j->n_frames * (fft + 7 * powers + 10 * (double)c->bins);
    j->own.bytes = 4 * (double)(j->n_sound + j->n_frames * c->bins);
    return 0;
}

struct bench_job *bench_job_new(const struct bench_row *r, struct err *e)
{
    struct bench_job *j = mem_zero(1, sizeof *j);
    j->row = r;
    j->store = ad_store_new(1);
    if (r->weights == RUN_WEIGHTS_BF16) ad_store_narrow(j->store);
    int rc = r->work.kind == BENCH_ADAMW    ? make_adamw(j, e)
             : r->work.kind == BENCH_LOGMEL ? make_logmel(j, e)
                                            : make_model(j, e);
    if (!rc) return j;
    bench_job_free(j);
    return NULL;
}

void bench_job_free(struct bench_job *j)
{
    if (!j) return;
    ad_plan_free(j->plan);
    opt_free(j->opt);
    ad_store_free(j->store);
    for (int i = 0; i < j->n_input; i++) {
        mem_block_free(j->input[i].data, j->input[i].bytes);
        free((char *)(uintptr_t)j->input[i].name);
    }
    if (j->grad) mem_block_free(j->grad, j->flat_bytes);
    data_logmel_free(j->mel);
    if (j->sound) mem_block_free(j->sound, (size_t)j->n_sound * sizeof *j->sound);
    if (j->frames) mem_block_free(j->frames, (size_t)(j->n_frames * j->row->work.logmel.mel.bins) * sizeof *j->frames);
    free(j);
}

/* ---- a step ------------------------------------------------------------------------------------------------------ */

int bench_job_step(struct bench_job *j, struct err *e)
{
    int64_t step = j->steps++;
    if (j->within) opt_begin(j->opt, j->row->lr);
    if (j->plan) {
        int rc = ad_run(j->plan, 1, (uint64_t)step, e);
        if (rc) return rc;
        double loss = ad_result_scalar(j->plan, "loss");
        if (!isfinite(loss))
            return err_set(e, ERR_NONFINITE, "%s: the loss of step %lld is %g", j->row->name, (long long)step + 1,
                           loss);
    }
    if (j->within || (!j->opt && !j->mel)) return 0;
    double start = j->profile ? time_now() : 0;
    if (j->opt) opt_step(j->opt, j->grad, 0, j->row->lr);
    if (j->mel) data_logmel_run(j->mel, j->sound, j->n_sound, j->frames);
    if (j->profile) j->own.seconds += time_now() - start, j->own.calls++;
    return 0;
}

/* The optimizer's least time of some, on this thread, as if spread over all. */
static void balance_optimizer(struct bench_job *j, int threads, int rounds, struct ad_balance *b, double *wait)
{
    double least = INFINITY, balance = opt_balance(j->opt, threads);
    for (int i = 0; i < rounds; i++) {
        double start = time_now();
        opt_step(j->opt, j->grad, 0, j->row->lr);
        least = fmin(least, time_now() - start);
    }
    b->work += least;
    b->span += least / balance / threads;
    b->regions++;
    *wait = least / balance - least;
}

int bench_job_balance(struct bench_job *j, int threads, int rounds, struct ad_balance *b, double *waits, struct err *e)
{
    *b = (struct ad_balance){0};
    if (!j->plan && !j->opt)
        return err_set(e, ERR_USAGE, "%s: it has no plan whose work could be shared out", j->row->name);
    if (j->within) opt_begin(j->opt, j->row->lr);
    int rc = j->plan ? ad_plan_balance(j->plan, threads, rounds, 1, (uint64_t)j->steps++, b, waits, e) : 0;
    if (!rc && j->opt && !j->within) balance_optimizer(j, threads, rounds, b, waits + bench_job_timings(j, NULL) - 1);
    return rc;
}

const struct ad_plan *bench_job_plan(const struct bench_job *j)
{
    return j->plan;
}

struct bench_size bench_job_size(const struct bench_job *j)
{
    struct bench_size s = {.samples = j->samples, .parameters = ad_store_trainable(j->store)};
    s.params_bytes = (double)ad_store_flat_bytes(j->store);
    s.gradient_bytes = j->grad ? s.params_bytes : 0;
    s.state_bytes = s.params_bytes + s.gradient_bytes + j->state_per_parameter * (double)j->n_grad;
    if (j->plan) {
        struct ad_plan_stats p = ad_plan_stats(j->plan);
        s.plan_bytes = (double)p.arena_bytes;
        s.again_flops = p.again_flops;
    }
    for (int i = 0; i < j->n_input; i++) s.input_bytes += (double)j->input[i].bytes;
    s.input_bytes += 4 * (double)(j->n_sound + (j->mel ? j->n_frames * j->row->work.logmel.mel.bins : 0));
    return s;
}

void bench_job_profile(struct bench_job *j, bool on)
{
    j->profile = on;
    j->own.calls = 0;
    j->own.seconds = 0;
    if (j->plan) ad_plan_profile(j->plan, on);
}

size_t bench_job_timings(const struct bench_job *j, struct ad_timing *out)
{
    size_t n = j->plan ? ad_plan_timings(j->plan, out) : 0;
    if (j->within || (!j->opt && !j->mel)) return n;
    if (out) out[n] = j->own;
    return n + 1;
}
