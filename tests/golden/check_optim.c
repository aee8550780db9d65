/* Folders of make_optim.py: every optimizer with its clipping and moving average, step by step on given gradients. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/mem.h"
#include "optim/opt.h"
#include "optim/quant.h"
#include "tests/golden/golden.h"

/* f32 against f64: each of twenty steps rounds a number twice (6e-8 each), and its moments. */
static const double tolerance = 3e-6;

enum { PARAMS = 5, MAX_STEPS = 1000 };
static const char *const params[PARAMS] = {"matrix", "bias", "scalar", "stack", "still"};

/* One case while it runs. */
struct path {
    const struct golden_file *f;
    const char *name;
    int64_t steps;
    struct ad_store *store;
    float *grad, *at[2][PARAMS], *norm; /* at[0]: parameters, at[1]: their moving averages; (steps, shape) */
};

static double real(json_t *o, const char *key)
{
    return json_number_value(json_object_get(o, key));
}

/* The index of a case's word in a list of names, 0 where it says nothing; an unknown one is an error. */
static int choice(json_t *one, const char *key, const char *const *names, struct err *e)
{
    const char *word = json_string_value(json_object_get(one, key));
    if (!word) return 0;
    for (int i = 0; names[i]; i++)
        if (!strcmp(names[i], word)) return i;
    return err_set(e, ERR_FORMAT, "optim.json: unknown %s '%s'", key, word);
}

static struct opt_config config_of(json_t *one, struct err *e)
{
    json_t *betas = json_object_get(one, "betas");
    return (struct opt_config){.kind = (enum opt_kind)choice(one, "kind", opt_kind_names, e),
                               .beta1 = json_number_value(json_array_get(betas, 0)),
                               .beta2 = json_number_value(json_array_get(betas, 1)),
                               .eps = real(one, "eps"),
                               .weight_decay = real(one, "weight_decay"),
                               .momentum = real(one, "momentum"),
                               .nesterov = real(one, "nesterov") != 0,
                               .trust = real(one, "trust"),
                               .muon_rate = (enum opt_muon_rate)choice(one, "rate", opt_muon_rate_names, e),
                               .clip = real(one, "clip"),
                               .ema = real(one, "ema")};
}

/* Declares the parameters and gives them their start. */
static int start(struct path *p, struct err *e)
{
    for (int i = 0; i < PARAMS; i++) {
        const struct golden_tensor *t = golden_find(p->f, e, "start.%s", params[i]),
                                   *g = golden_find(p->f, e, "grad.%s", params[i]);
        if (!t || !g) return e->code;
        if (g->count != p->steps * t->count)
            return err_set(e, ERR_SHAPE, "grad.%s: not one gradient a step", params[i]);
        int code = ad_store_declare(p->store, params[i], AD_F32, t->shape, (struct ad_init){AD_INIT_ZERO, 0},
                                    t->shape.rank > 1 ? 0 : AD_NO_DECAY, e);
        if (code) return code;
        for (int k = 0; k < 2; k++) p->at[k][i] = mem_zero((size_t)g->count + 1, sizeof(float));
    }
    int code = ad_store_commit(p->store, e);
    for (int i = 0; code == 0 && i < PARAMS; i++) {
        const struct golden_tensor *t = golden_find(p->f, e, "start.%s", params[i]);
        float *to = ad_store_find(p->store, params[i])->data;
        for (int64_t k = 0; k < t->count; k++) to[k] = (float)t->x[k];
    }
    p->grad = mem_zero((size_t)ad_store_flat_count(p->store) + 1, sizeof(float));
    p->norm = mem_zero((size_t)p->steps + 1, sizeof(float));
    return code;
}

static void step(struct path *p, struct opt *o, int64_t at, double lr)
{
    for (int i = 0; i < PARAMS; i++) {
        const struct golden_tensor *g = golden_find(p->f, NULL, "grad.%s", params[i]);
        const struct ad_entry *q = ad_store_find(p->store, params[i]);
        for (int64_t k = 0; k < q->count; k++) p->grad[q->offset + k] = (float)g->x[at * q->count + k];
    }
    double norm = opt_norm(p->grad, ad_store_flat_count(p->store));
    p->norm[at] = (float)norm;
    opt_step(o, p->grad, norm, lr);
    for (int i = 0; i < PARAMS; i++) {
        const struct ad_entry *q = ad_store_find(p->store, params[i]);
        size_t bytes = (size_t)q->count * sizeof(float);
        memcpy(p->at[0][i] + at * q->count, q->data, bytes);
        memcpy(p->at[1][i] + at * q->count, opt_ema(o) + q->offset, bytes);
    }
}

static int compare(const struct path *p, struct golden_report *r, struct err *e)
{
    for (int i = 0; i <= 2 * PARAMS; i++) {
        bool norm = i == 2 * PARAMS;
        const char *name = norm ? "norm" : params[i / 2];
        const struct golden_tensor *want = golden_find(p->f, e, "%s/%s%s", p->name, i % 2 ? "ema." : "", name);
        if (!want) return e->code;
        if (want->count != p->steps * (norm ? 1 : ad_store_find(p->store, name)->count))
            return err_set(e, ERR_SHAPE, "%s: not one value a step", want->name);
        golden_compare(r, want->name, norm ? p->norm : p->at[i % 2][i / 2], AD_F32, want, tolerance, 0);
    }
    return 0;
}

static int one_case(const struct golden_file *f, json_t *root, json_t *one, struct golden_report *r, struct err *e)
{
    json_t *lr = json_object_get(root, "lr");
    struct path p = {.f = f,
                     .name = json_string_value(json_object_get(one, "name")),
                     .steps = (int64_t)json_array_size(lr),
                     .store = ad_store_new(0)};
    struct opt *o = NULL;
    int code = p.steps < 1 || p.steps > MAX_STEPS ? err_set(e, ERR_FORMAT, "1 to %d steps are needed", MAX_STEPS)
                                                  : start(&p, e);
    struct opt_config c = config_of(one, e);
    if (code == 0) code = e->code;
    if (code == 0 && !(o = opt_new(&c, p.store, e))) code = e->code;
    for (int64_t i = 0; code == 0 && i < p.steps; i++) step(&p, o, i, json_number_value(json_array_get(lr, (size_t)i)));
    if (code == 0) code = compare(&p, r, e);
    opt_free(o);
    for (int i = 0; i < 2 * PARAMS; i++) free(p.at[i % 2][i / 2]);
    free(p.grad);
    free(p.norm);
    ad_store_free(p.store);
    return code;
}

/* The map's numbers within a few roundings of f32 (6e-8 each, PyTorch's among them), and the codes of random numbers: the
 * same, but that ours do not make a 0 of what is above it. */
static int check_map(const struct golden_file *f, const char *sign, struct golden_report *r, struct err *e)
{
    const struct opt_map *m = opt_map(!strcmp(sign, "positive"));
    const struct golden_tensor *map = golden_find(f, e, "map.%s", sign), *x = golden_find(f, e, "quant.%s.x", sign),
                               *codes = golden_find(f, e, "quant.%s.codes", sign),
                               *absmax = golden_find(f, e, "quant.%s.absmax", sign);
    if (!map || !x || !codes || !absmax) return e->code;
    if (map->count != 256 || x->count != codes->count || x->count != absmax->count * OPT_BLOCK)
        return err_set(e, ERR_SHAPE, "map.%s, quant.%s: not of 256 numbers each", sign, sign);
    uint8_t all[256];
    float value[256];
    for (int i = 0; i < 256; i++) all[i] = (uint8_t)i;
    opt_decode(m, all, 256, 1, value);
    golden_compare(r, map->name, value, AD_F32, map, 3e-7, 0);
    for (int i = 0; i < 256; i++) /* small ones too */
        if (fabs((double)value[i] - map->x[i]) > 3e-7 * fabs(map->x[i])) r->wrong++;
    float *numbers = golden_as(x, AD_F32), *scales = mem_zero((size_t)absmax->count + 1, sizeof *scales);
    int32_t *mine = mem_zero((size_t)x->count + 1, sizeof *mine);
    for (int64_t b = 0; b < absmax->count; b++) {
        uint8_t code[OPT_BLOCK];
        opt_encode(m, numbers + b * OPT_BLOCK, OPT_BLOCK, code, &scales[b]);
        for (int i = 0; i < OPT_BLOCK; i++) {
            int64_t k = b * OPT_BLOCK + i;
            bool lifted = m->positive && x->x[k] > 0 && codes->x[k] == 0;
            mine[k] = lifted && code[i] == 1 ? 0 : code[i];
        }
    }
    golden_compare(r, absmax->name, scales, AD_F32, absmax, 0, 0);
    golden_compare(r, codes->name, mine, AD_I32, codes, 0, 0);
    free(numbers);
    free(scales);
    free(mine);
    return 0;
}

int golden_check_optim(const char *dir, json_t *config, struct golden_report *r, struct err *e)
{
    struct golden_file f;
    json_t *one;
    size_t i;
    int code = golden_read(&f, dir, "optim.safetensors", e);
    json_array_foreach(json_object_get(config, "cases"), i, one)
    {
        if (code == 0) code = one_case(&f, config, one, r, e);
    }
    if (code == 0) code = check_map(&f, "signed", r, e);
    if (code == 0) code = check_map(&f, "positive", r, e);
    if (code == 0 && i == 0) code = err_set(e, ERR_FORMAT, "%s/optim.json: has no cases", dir);
    golden_free(&f);
    return code;
}
