/* The tables of a run's config and the checks over several keys; the modalities' in config_modality.c. See config.h. */
#include "run/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

static const char *const on_bad_names[] = {"stop", "skip", NULL};
static const char *const loss_names[] = {"infonce", "siglip", NULL};
const char *const run_weights_names[] = {"f32", "bf16", NULL};

/* ---- data -------------------------------------------------------------------------------------------------------- */
#define AT(m) offsetof(struct run_data, m)
static const struct conf_field data_fields[] = {
    {"manifest", CONF_STRING, AT(manifest), NULL, .help = "the data: a manifest.jsonl or a pack.h5"},
    {"train", CONF_STRING, AT(train), "train", .help = "the split that is trained on"},
    {"valid", CONF_STRINGS, AT(valid), "[]", .help = "splits that are measured while training"},
    {"workers", CONF_INT, AT(workers), "1", 0, 64, .help = "threads that read and augment ahead"},
    {"cache", CONF_BYTES, AT(cache), "1GB", 0, 1e15, .help = "memory for decoded data"},
    {"on_bad", CONF_ENUM, AT(on_bad), "stop", .choices = on_bad_names, .help = "what an unreadable item does"},
    {"batch_by", CONF_ENUM, AT(batch_by), "items", .choices = data_batch_by_names,
     .help = "what a step has as much of as fits: train.batch items, or budget tokens or seconds"},
    {"budget", CONF_DOUBLE, AT(budget), "0", 0, 1e9,
     .help = "tokens or seconds of sound a step; train.batch still bounds items"},
    {"budget_of", CONF_STRING, AT(budget_of), "null",
     .help = "the modality whose tokens or seconds they are; null: the only one with any"},
    {0},
};
static const struct conf_table data_table = {sizeof(struct run_data), data_fields};
#undef AT

/* ---- loss, optimizer, training ----------------------------------------------------------------------------------- */
#define AT(m) offsetof(struct run_loss, m)
static const struct conf_field loss_fields[] = {
    {"kind", CONF_ENUM, AT(kind), "infonce", .choices = loss_names, .help = "contrastive loss"},
    {"pairs", CONF_STRINGS, AT(pairs), "[]", .help = "such as image-text; none: every pair"},
    {"weights", CONF_DOUBLES, AT(weights), "[]", 0, 1000, .help = "of the pairs; none: equal"},
    {"temperature", CONF_DOUBLE, AT(temperature), "0.07", 1e-4, 10, .help = "at the start; it is learned"},
    {"max_scale", CONF_DOUBLE, AT(max_scale), "100", 1, 1e4, .help = "largest 1 / temperature"},
    {"bias", CONF_DOUBLE, AT(bias), "-10", -100, 100, .help = "siglip: of the logits at the start"},
    {0},
};
static const struct conf_table loss_table = {sizeof(struct run_loss), loss_fields};
#undef AT

#define AT(m) offsetof(struct opt_group, m)
static const struct conf_field group_fields[] = {
    {"pattern", CONF_STRING, AT(pattern), NULL, .help = "of parameter names: * and ?"},
    {"lr_scale", CONF_DOUBLE, AT(lr_scale), "1", 0, 1000, .help = "factor of the learning rate; 0 freezes"},
    {"weight_decay", CONF_DOUBLE, AT(weight_decay), "-1", -1, 10, .help = "-1: the optimizer's"},
    {0},
};
static const struct conf_table group_table = {sizeof(struct opt_group), group_fields};
#undef AT

#define AT(m) offsetof(struct run_optim, m)
static const struct conf_field optim_fields[] = {
    {"kind", CONF_ENUM, AT(kind), "adamw", .choices = opt_kind_names, .help = "optimizer; docs/recipes.md says when"},
    {"lr", CONF_DOUBLE, AT(lr), "1e-3", CONF_ABOVE_0, 100, .help = "highest learning rate"},
    {"weight_decay", CONF_DOUBLE, AT(weight_decay), "0.1", 0, 10, .help = "of matrices; norms and biases have none"},
    {"betas", CONF_DOUBLES, AT(betas), "[0.9, 0.98]", 0, 0.999999, .least = 2, .most = 2,
     .help = "adamw, lamb: decay of the moments; lion: in the step, of the moment"},
    {"eps", CONF_DOUBLE, AT(eps), "1e-8", CONF_ABOVE_0, 1,
     .help = "adamw, lamb: added to the root; lars: to the norms"},
    {"state", CONF_ENUM, AT(state), "f32", .choices = opt_state_names,
     .help = "how moments are stored: bf16 halves their memory, 8bit quarters it"},
    {"weights", CONF_ENUM, AT(weights), "f32", .choices = run_weights_names,
     .help = "how matrices and their gradients are stored; bf16: rounded at random, with no copy in f32"},
    {"momentum", CONF_DOUBLE, AT(momentum), "0.9", 0, 0.9999, .help = "sgd, lars, muon"},
    {"nesterov", CONF_BOOL, AT(nesterov), "false", .help = "sgd, lars, muon: look ahead"},
    {"trust", CONF_DOUBLE, AT(trust), "1e-3", CONF_ABOVE_0, 10,
     .help = "lars: length of a step, as a share of the weights'"},
    {"muon_rate", CONF_ENUM, AT(muon_rate), "match_rms", .choices = opt_muon_rate_names,
     .help = "muon: steps as long as adamw's, or by the matrix's sides alone"},
    {"clip", CONF_DOUBLE, AT(clip), "1", 0, 1e6, .help = "largest norm of the whole gradient; 0: none"},
    {"in_backward", CONF_BOOL, AT(in_backward), "false",
     .help = "adamw, sgd, lion with clip 0: weights move as soon as their gradient is there, which so takes no memory"},
    {"ema", CONF_DOUBLE, AT(ema), "0", 0, 0.999999, .help = "decay of averaged weights; 0: none"},
    {"warmup", CONF_INT, AT(warmup), "50", 0, 1e9, .help = "steps until the highest learning rate"},
    {"decay", CONF_ENUM, AT(decay), "cosine", .choices = opt_decay_names, .help = "of the learning rate"},
    {"floor", CONF_DOUBLE, AT(floor), "0", 0, 1, .help = "learning rate at the end, as a share"},
    {"groups", CONF_LIST, AT(groups), "[]", .sub = &group_table, .help = "parameters with factors of their own"},
    {0},
};
static const struct conf_table optim_table = {sizeof(struct run_optim), optim_fields};
#undef AT

static int check_train(const void *s, struct err *e)
{
    const struct run_train *t = s;
    int given = (t->steps > 0) + (t->epochs > 0) + (t->time > 0);
    int64_t limit;
    if (run_memory(t->memory, &limit, e)) return err_prefix(e, "memory");
    if (given == 1) return 0;
    return err_set(e, ERR_CONFIG, "say how long to train by exactly one of steps, epochs and time, not by %s",
                   given ? "several" : "none");
}

#define AT(m) offsetof(struct run_train, m)
static const struct conf_field train_fields[] = {
    {"batch", CONF_INT, AT(batch), "128", 1, 1e7, .help = "samples a step"},
    {"micro_batch", CONF_INT, AT(micro_batch), "0", 0, 1e7,
     .help = "samples computed at a time, in their memory, with the gradient of the whole batch; 0: all"},
    {"steps", CONF_INT, AT(steps), "0", 0, 1e12, .help = "length of the run"},
    {"epochs", CONF_DOUBLE, AT(epochs), "0", 0, 1e9, .help = "the same, in passes over the data"},
    {"time", CONF_DURATION, AT(time), "0", 0, 1e9, .help = "the same, by the clock (not repeatable bit for bit)"},
    {"seed", CONF_INT, AT(seed), "0", 0, 9e15, .help = "of every random choice"},
    {"threads", CONF_INT, AT(threads), "0", 0, 4096, .help = "that compute; 0: all cores"},
    {"out", CONF_STRING, AT(out), "null", .help = "the run folder; null: runs/NAME"},
    {"log_every", CONF_INT, AT(log_every), "10", 1, 1e9, .help = "steps between lines of metrics.jsonl"},
    {"layer_norms", CONF_BOOL, AT(layer_norms), "true", .help = "the gradient's norm by layer in those lines"},
    {"valid_every", CONF_INT, AT(valid_every), "0", 0, 1e12, .help = "steps between measurements; 0: at the end only"},
    {"save_every", CONF_INT, AT(save_every), "0", 0, 1e12, .help = "steps between checkpoints; 0: none by steps"},
    {"save_time", CONF_DURATION, AT(save_time), "10m", 0, 1e9, .help = "time between checkpoints; 0: none by time"},
    {"keep", CONF_INT, AT(keep), "2", 1, 1e6, .help = "checkpoints kept, besides the best"},
    {"best", CONF_STRING, AT(best), "null", .help = "metric of the best checkpoint, as in metrics.jsonl; null: none"},
    {"precision", CONF_ENUM, AT(precision), "f32", .choices = ad_precision_names,
     .help = "bf16, f16: activations and their gradients take half the memory; weights and arithmetic stay f32"},
    {"loss_scale", CONF_DOUBLE, AT(loss_scale), "65536", 1, 16777216,
     .help = "f16: factor of the gradients at the beginning, a power of two"},
    {"loss_scale_every", CONF_INT, AT(loss_scale_every), "2000", 1, 1e12,
     .help = "f16: steps without overflow after which it is doubled"},
    {"memory", CONF_STRING, AT(memory), "0",
     .help = "most bytes of a step: 2GB, 60% (of the machine); what does not fit is computed again; 0: no limit"},
    {"debug", CONF_STRING, AT(debug), "''",
     .help = "pass switches: nosimplify, nofuse, norecompute, nopanels, nomerge, noplan, nokernels, noautocast, nan"},
    {0},
};
static const struct conf_table train_table = {sizeof(struct run_train), train_fields, .check = check_train};
#undef AT

#define AT(m) offsetof(struct run_config, m)
static const struct conf_field config_fields[] = {
    {"name", CONF_STRING, AT(name), NULL, .help = "of the run"},
    {"data", CONF_STRUCT, AT(data), NULL, .sub = &data_table, .help = "what is read"},
    {"modalities", CONF_MAP, AT(modalities), NULL, .sub = &run_modality_table, .least = 2, .most = 16,
     .help = "each with its tower, by a name of your choice"},
    {"embed", CONF_INT, AT(embed), "128", 1, 65536, .help = "dimensions of the shared space"},
    {"loss", CONF_STRUCT, AT(loss), "{}", .sub = &loss_table, .help = "what pulls pairs together"},
    {"optim", CONF_STRUCT, AT(optim), "{}", .sub = &optim_table, .help = "how weights are changed"},
    {"train", CONF_STRUCT, AT(train), NULL, .sub = &train_table, .help = "how long, how much at once, what is kept"},
    {0},
};
const struct conf_table run_config_table = {sizeof(struct run_config), config_fields};
#undef AT

/* ---- checks over several keys ------------------------------------------------------------------------------------ */

static int find_modality(const struct run_config *c, const char *name, size_t n)
{
    for (int64_t i = 0; i < c->modalities.n; i++)
        if (strlen(c->modalities.v[i].name) == n && !memcmp(c->modalities.v[i].name, name, n)) return (int)i;
    return -1;
}

/* "a-b", where names may hold dashes themselves: every dash is tried. */
static bool split_pair(const struct run_config *c, const char *pair, int *a, int *b)
{
    for (const char *dash = strchr(pair, '-'); dash; dash = strchr(dash + 1, '-')) {
        *a = find_modality(c, pair, (size_t)(dash - pair));
        *b = find_modality(c, dash + 1, strlen(dash + 1));
        if (*a >= 0 && *b >= 0 && *a != *b) return true;
    }
    return false;
}

int run_pairs(const struct run_config *c)
{
    int n = (int)c->modalities.n;
    return c->loss.pairs.n ? (int)c->loss.pairs.n : n * (n - 1) / 2;
}

void run_pair(const struct run_config *c, int i, int *a, int *b, double *weight)
{
    *weight = i < c->loss.weights.n ? c->loss.weights.v[i] : 1;
    if (c->loss.pairs.n) {
        bool ok = split_pair(c, c->loss.pairs.v[i], a, b);
        CHECK(ok);
        return;
    }
    int k = 0;
    for (*a = 0; *a < c->modalities.n; ++*a)
        for (*b = *a + 1; *b < c->modalities.n; ++*b)
            if (k++ == i) return;
    CHECK(false);
}

int run_budget_modality(const struct run_config *c)
{
    int kind = c->data.batch_by == DATA_BY_TOKENS ? RUN_TEXT : RUN_AUDIO, found = -1;
    if (c->data.batch_by == DATA_BY_ITEMS) return -1;
    for (int i = 0; i < c->modalities.n; i++) {
        const struct run_modality *m = &c->modalities.v[i];
        if (m->kind == kind && (!c->data.budget_of || !strcmp(m->name, c->data.budget_of))) found = i;
    }
    return found;
}

/* Which modality a budget counts, and that two of its longest items fit: one alone has nothing to be compared with. */
static int check_budget(struct conf *mem, const struct run_config *c, struct err *e)
{
    const struct run_data *d = &c->data;
    const char *what = data_batch_by_names[d->batch_by];
    if (d->batch_by == DATA_BY_ITEMS) {
        if (d->budget > 0 || d->budget_of)
            return err_set(e, ERR_CONFIG, "%s: data.budget: it counts with data.batch_by tokens or seconds alone",
                           conf_where(mem, d->budget > 0 ? (const void *)&d->budget : &d->budget_of));
        return 0;
    }
    int kind = d->batch_by == DATA_BY_TOKENS ? RUN_TEXT : RUN_AUDIO, of_kind = 0, i = run_budget_modality(c);
    for (int k = 0; k < c->modalities.n; k++) of_kind += c->modalities.v[k].kind == kind;
    if (i < 0)
        return err_set(e, ERR_CONFIG, "%s: data.batch_by: no modality%s%s%s has %s",
                       conf_where(mem, d->budget_of ? (const void *)&d->budget_of : &d->batch_by),
                       d->budget_of ? " '" : "", d->budget_of ? d->budget_of : "", d->budget_of ? "'" : "", what);
    if (of_kind > 1 && !d->budget_of)
        return err_set(e, ERR_CONFIG,
                       "%s: data.batch_by: %d modalities have %s: say by data.budget_of whose are counted",
                       conf_where(mem, &d->batch_by), of_kind, what);
    const struct run_modality *m = &c->modalities.v[i];
    double longest = kind == RUN_TEXT ? (double)m->text.length : m->audio.max_seconds;
    if (d->budget < 2 * longest)
        return err_set(
            e, ERR_CONFIG,
            "%s: data.budget: %g %s do not hold two items of '%s', which have up to %g each: make it larger, "
            "or modalities.%s.%s smaller",
            conf_where(mem, &d->budget), d->budget, what, m->name, longest, m->name,
            kind == RUN_TEXT ? "length" : "max_length");
    return 0;
}

static int check_config(struct conf *mem, const struct run_config *c, struct err *e)
{
    for (int64_t i = 0; i < c->loss.pairs.n; i++) {
        int a, b;
        if (!split_pair(c, c->loss.pairs.v[i], &a, &b))
            return err_set(e, ERR_CONFIG, "%s: loss.pairs: '%s' is not two of the modalities with a dash between",
                           conf_where(mem, &c->loss.pairs), c->loss.pairs.v[i]);
    }
    if (c->loss.temperature > 1 || c->loss.temperature * c->loss.max_scale < 1)
        return err_set(
            e, ERR_CONFIG,
            "%s: loss.temperature: %g must be from 1 / loss.max_scale = %g to 1; beyond, it is never learned",
            conf_where(mem, &c->loss.temperature), c->loss.temperature, 1 / c->loss.max_scale);
    if (c->loss.weights.n && c->loss.weights.n != run_pairs(c))
        return err_set(e, ERR_CONFIG, "%s: loss.weights has %lld numbers for %d pairs",
                       conf_where(mem, &c->loss.weights), (long long)c->loss.weights.n, run_pairs(c));
    for (int64_t i = 0; i < c->modalities.n; i++) {
        const struct run_modality *m = &c->modalities.v[i];
        const struct run_resnet *r = &m->image.tower.resnet;
        if (m->kind == RUN_IMAGE && m->image.tower.kind == 1 && r->widths.n != r->depths.n)
            return err_set(e, ERR_CONFIG, "%s: modalities.%s: resnet has %lld widths and %lld depths",
                           conf_where(mem, &r->depths), m->name, (long long)r->widths.n, (long long)r->depths.n);
        if (run_raw_samples(m) && m->audio.augment.time_masks + m->audio.augment.bin_masks > 0)
            return err_set(e, ERR_CONFIG,
                           "%s: modalities.%s: time_masks and bin_masks change frames, and wav2vec2 has raw sound",
                           conf_where(mem, m), m->name);
        struct model_tower t = run_tower(m, 1000);
        if (model_check(&t, e)) return err_prefix(e, "%s: modalities", conf_where(mem, m));
    }
    return check_budget(mem, c, e);
}

int run_config_read(struct conf *mem, const char *path, const char *const *overrides, int n, struct run_config *c,
                    struct err *e)
{
    int rc = conf_read(mem, path, overrides, n, &run_config_table, c, e);
    return rc ? rc : check_config(mem, c, e);
}

int run_memory(const char *text, int64_t *bytes, struct err *e)
{
    char *end;
    double share = strtod(text, &end);
    if (end > text && !strcmp(end, "%") && share > 0 && share <= 100) {
        *bytes = (int64_t)(share / 100 * (double)mem_of_machine());
        return 0;
    }
    if (text_bytes(text, bytes, NULL) == 0) return 0;
    return err_set(e, ERR_CONFIG, "'%s' is neither a size (such as 512MiB, 2GB) nor a share (60%%) nor 0", text);
}

/* ---- for the other rooms ----------------------------------------------------------------------------------------- */

struct opt_config run_opt_config(const struct run_config *c)
{
    const struct run_optim *o = &c->optim;
    return (struct opt_config){.kind = (enum opt_kind)o->kind,
                               .lr = o->lr,
                               .beta1 = o->betas.v[0],
                               .beta2 = o->betas.v[1],
                               .eps = o->eps,
                               .weight_decay = o->weight_decay,
                               .state = (enum opt_store)o->state,
                               .momentum = o->momentum,
                               .nesterov = o->nesterov,
                               .trust = o->trust,
                               .muon_rate = (enum opt_muon_rate)o->muon_rate,
                               .clip = o->clip,
                               .ema = o->ema,
                               .warmup = o->warmup,
                               .decay = (enum opt_decay)o->decay,
                               .floor = o->floor,
                               .group = o->groups.v,
                               .n_group = (int)o->groups.n};
}
