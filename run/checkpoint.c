/* Saving and loading a run's state. See checkpoint.h. */
#include "run/checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/safetensors.h"
#include "optim/quant.h"

#define ASIDE ".saving-"        /* begins the names of folders that are being written or removed */
#define MOST ((int64_t)1 << 53) /* steps, samples: what a file may say */

static enum st_dtype dtype_of(enum ad_dtype t)
{
    switch (t) {
    case AD_F32: return ST_F32;
    case AD_F64: return ST_F64;
    case AD_I32: return ST_I32;
    case AD_I64: return ST_I64;
    case AD_BF16: return ST_BF16;
    case AD_F16: return ST_F16;
    }
    return ST_F32;
}

static int save_model(const char *path, const struct ad_store *store, struct err *e)
{
    int n = ad_store_count(store);
    struct st_item *item = mem_zero((size_t)n, sizeof *item);
    for (int i = 0; i < n; i++) {
        const struct ad_entry *p = ad_store_at(store, i);
        item[i] = (struct st_item){p->name, dtype_of(p->kept), p->shape.rank, p->shape.dim, p->data};
    }
    int rc = st_write(path, item, n, &(struct st_meta){"format", "triad"}, 1, e);
    free(item);
    return rc;
}

/* "adamw.m/<parameter>"; the scales of one in 8 bits beside it. The caller frees. */
static char *state_name(const struct opt_state *s, bool scales)
{
    return mem_printf("%s%s/%s", s->name, scales ? ".absmax" : "", s->of->name);
}

static int save_optimizer(const char *path, const struct opt *o, struct err *e)
{
    static const enum st_dtype stored[] = {[OPT_F32] = ST_F32, [OPT_BF16] = ST_BF16, [OPT_8BIT] = ST_U8};
    int states = opt_state_count(o), k = 0;
    struct st_item *item = mem_zero((size_t)states * 2 + 1, sizeof *item);
    struct opt_state *state = mem_zero((size_t)states + 1, sizeof *state);
    int64_t *blocks = mem_zero((size_t)states + 1, sizeof *blocks);
    for (int i = 0; i < states; i++) {
        struct opt_state *s = &state[i];
        *s = opt_state(o, i);
        item[k++] = (struct st_item){state_name(s, false), stored[s->store], s->shape.rank, s->shape.dim, s->data};
        blocks[i] = opt_blocks(s->count);
        if (s->store == OPT_8BIT) item[k++] = (struct st_item){state_name(s, true), ST_F32, 1, &blocks[i], s->absmax};
    }
    char steps[32];
    snprintf(steps, sizeof steps, "%lld", (long long)opt_steps(o));
    int rc = st_write(path, item, k, (struct st_meta[]){{"format", "triad"}, {"steps", steps}}, 2, e);
    for (int i = 0; i < k; i++) free((void *)(uintptr_t)item[i].name);
    free(blocks);
    free(state);
    free(item);
    return rc;
}

static int save_state(const char *path, const struct run_state *s, struct err *e)
{
    struct buf b = {0};
    buf_printf(&b, "{\"step\": %lld, \"epoch\": %lld, \"batch\": %lld, \"samples\": %lld, \"seconds\": %.17g",
               (long long)s->step, (long long)s->epoch, (long long)s->batch, (long long)s->samples, s->seconds);
    if (isfinite(s->best)) buf_printf(&b, ", \"best\": %.17g", s->best);
    buf_printf(&b, ", \"best_step\": %lld", (long long)s->best_step);
    if (s->loss_scale.scale > 0)
        buf_printf(&b, ", \"loss_scale\": %.17g, \"loss_scale_good\": %lld", s->loss_scale.scale,
                   (long long)s->loss_scale.good);
    if (s->noise.count > 0)
        buf_printf(&b, ", \"noise\": {\"steps\": %lld, \"gradient2\": %.17g, \"noise\": %.17g}",
                   (long long)s->noise.count, s->noise.gradient2, s->noise.noise);
    buf_str(&b, "}\n");
    int rc = file_write(path, b.data, b.len, e);
    buf_free(&b);
    return rc;
}

/* Every file of the checkpoint into `aside`. */
static int save_all(const char *aside, const struct run_state *s, const struct ad_store *store, const struct opt *o,
                    struct err *e)
{
    char *model = file_join(aside, "model.safetensors"), *optimizer = file_join(aside, "optimizer.safetensors"),
         *state = file_join(aside, "state.json");
    int rc = save_model(model, store, e);
    if (!rc && o) rc = save_optimizer(optimizer, o, e);
    if (!rc) rc = save_state(state, s, e);
    free(model);
    free(optimizer);
    free(state);
    return rc;
}

/* Removes a checkpoint. What is half removed must not look like one: it is renamed first. */
static int remove_folder(const char *parent, const char *folder, struct err *e)
{
    char *gone = mem_printf("%s/" ASIDE "removed", parent);
    int rc = file_remove_tree(gone, e);
    if (!rc && rename(folder, gone) && errno != ENOENT) rc = err_errno(e, "%s: cannot be removed", folder);
    if (!rc) rc = file_remove_tree(gone, e);
    free(gone);
    return rc;
}

/* Puts `aside` in the place of `folder`; an old one changes places with it in one step, so that there is always a whole
 * one. File systems that cannot exchange (some network ones) get the old one out of the way first. */
static int swap_in(const char *aside, const char *folder, const char *parent, struct err *e)
{
    bool had = file_exists(folder);
    int failed = renameat2(AT_FDCWD, aside, AT_FDCWD, folder, had ? RENAME_EXCHANGE : 0);
    if (failed && had && (errno == EINVAL || errno == ENOSYS)) {
        int rc = remove_folder(parent, folder, e);
        if (rc) return rc;
        failed = rename(aside, folder);
        had = false;
    }
    if (failed) return err_errno(e, "%s: cannot be renamed to %s", aside, folder);
    int rc = file_sync_dir(parent, e);
    return !rc && had ? file_remove_tree(aside, e) : rc;
}

int run_checkpoint_save(const char *dir, const struct run_state *s, const struct ad_store *store, const struct opt *o,
                        struct err *e)
{
    char *parent = file_join(dir, "checkpoints");
    char *aside = mem_printf("%s/" ASIDE "step-%lld", parent, (long long)s->step),
         *folder = mem_printf("%s/step-%lld", parent, (long long)s->step);
    int rc = file_remove_tree(aside, e);
    if (!rc) rc = file_mkdirs(aside, e);
    if (!rc) rc = file_sync_dir(dir, e); /* `checkpoints` itself may be new */
    if (!rc) rc = save_all(aside, s, store, o, e);
    if (!rc) rc = file_sync_dir(aside, e);
    if (!rc) rc = swap_in(aside, folder, parent, e);
    if (rc) {
        struct err ignored = {0};
        if (file_remove_tree(aside, &ignored)) err_append(e, " (and %s could not be removed)", aside);
    }
    free(parent);
    free(aside);
    free(folder);
    return rc;
}

/* The steps of the checkpoints in a folder, rising. The caller frees. */
static int list_steps(const char *parent, int64_t **steps, int *n, struct err *e)
{
    char **names;
    int count;
    *steps = NULL;
    *n = 0;
    if (!file_is_dir(parent)) return 0;
    int rc = file_list(parent, &names, &count, e);
    if (rc) return rc;
    *steps = mem_alloc((size_t)count * sizeof **steps);
    for (int i = 0; i < count; i++) {
        char *end;
        if (strncmp(names[i], "step-", 5)) continue;
        long long k = strtoll(names[i] + 5, &end, 10);
        if (*end || end == names[i] + 5 || k < 0) continue;
        int at = (*n)++;
        for (; at > 0 && (*steps)[at - 1] > k; at--) (*steps)[at] = (*steps)[at - 1];
        (*steps)[at] = k;
    }
    file_list_free(names, count);
    return 0;
}

/* Removes what saves and writes that a kill cut off left in a folder: half a checkpoint, file_write's temporary file.
 */
static int sweep(const char *folder, struct err *e)
{
    char **names;
    int n, rc = file_list(folder, &names, &n, e);
    for (int i = 0; i < n && !rc; i++) {
        if (strncmp(names[i], ASIDE, strlen(ASIDE)) && (*names[i] != '.' || !strstr(names[i], ".tmp-"))) continue;
        char *path = file_join(folder, names[i]);
        rc = file_remove_tree(path, e);
        free(path);
    }
    file_list_free(names, n);
    return rc;
}

int run_checkpoint_prune(const char *dir, int64_t keep, int64_t best, struct err *e)
{
    char *parent = file_join(dir, "checkpoints");
    int64_t *steps;
    int n, rc = list_steps(parent, &steps, &n, e);
    for (int i = 0; i < n - keep && !rc; i++) {
        if (steps[i] == best) continue;
        char *folder = mem_printf("%s/step-%lld", parent, (long long)steps[i]);
        rc = remove_folder(parent, folder, e);
        free(folder);
    }
    if (!rc) rc = sweep(dir, e);
    if (!rc && file_is_dir(parent)) rc = sweep(parent, e);
    free(steps);
    free(parent);
    return rc;
}

static int whole(const json_t *root, const char *key, int least, const char *path, int64_t *out, struct err *e)
{
    const json_t *v = json_object_get(root, key);
    *out = json_integer_value(v);
    if (json_is_integer(v) && *out >= least && *out <= MOST) return 0;
    return err_set(e, ERR_FORMAT, "%s: '%s' must be a whole number of %d to %lld", path, key, least, (long long)MOST);
}

static int load_state(const char *path, struct run_state *s, struct err *e)
{
    char *text;
    size_t len;
    int rc = file_read(path, 1 << 16, &text, &len, e);
    if (rc) return rc;
    json_error_t why;
    json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);
    free(text);
    if (!json_is_object(root)) {
        json_decref(root);
        return err_set(e, ERR_FORMAT, "%s: not a JSON object: %s", path, why.text);
    }
    if (!rc) rc = whole(root, "step", 0, path, &s->step, e);
    if (!rc) rc = whole(root, "epoch", 0, path, &s->epoch, e);
    if (!rc) rc = whole(root, "batch", 0, path, &s->batch, e);
    if (!rc) rc = whole(root, "samples", 0, path, &s->samples, e);
    if (!rc) rc = whole(root, "best_step", -1, path, &s->best_step, e);
    const json_t *best = json_object_get(root, "best"), *seconds = json_object_get(root, "seconds");
    s->best = json_is_number(best) ? json_number_value(best) : NAN;
    s->seconds = json_is_number(seconds) ? json_number_value(seconds) : 0;
    const json_t *scale = json_object_get(root, "loss_scale");
    s->loss_scale = (struct run_loss_scale){.scale = json_number_value(scale)};
    if (!rc && scale) rc = whole(root, "loss_scale_good", 0, path, &s->loss_scale.good, e);
    if (!rc && scale && !(s->loss_scale.scale >= 1))
        rc = err_set(e, ERR_FORMAT, "%s: 'loss_scale' must be a number of at least 1", path);
    const json_t *noise = json_object_get(root, "noise");
    s->noise = (struct opt_noise){.gradient2 = json_number_value(json_object_get(noise, "gradient2")),
                                  .noise = json_number_value(json_object_get(noise, "noise"))};
    if (!rc && noise) rc = whole(noise, "steps", 1, path, &s->noise.count, e);
    json_decref(root);
    return rc;
}

int run_checkpoint_latest(const char *dir, char **found, struct err *e)
{
    char *parent = file_join(dir, "checkpoints");
    int64_t *steps;
    struct err why = {0};
    *found = NULL;
    int n, rc = list_steps(parent, &steps, &n, e);
    for (int i = n - 1; i >= 0 && !*found; i--) {
        char *folder = mem_printf("%s/step-%lld", parent, (long long)steps[i]), *path = file_join(folder, "state.json");
        struct run_state s;
        struct err bad = {0};
        if (load_state(path, &s, &bad) == 0)
            *found = mem_strdup(folder);
        else if (!why.code)
            why = bad;
        free(path);
        free(folder);
    }
    free(steps);
    free(parent);
    if (!why.code) return rc;
    if (!*found) return err_set(e, why.code, "the checkpoint cannot be read: %s", why.msg);
    log_warn("%s; %s is taken instead", why.msg, *found);
    return 0;
}

bool run_checkpoint_any(const char *dir)
{
    char *parent = file_join(dir, "checkpoints");
    int64_t *steps;
    int n;
    struct err ignored = {0};
    bool any = list_steps(parent, &steps, &n, &ignored) || n > 0; /* a folder that cannot be listed may hold some */
    free(steps);
    free(parent);
    return any;
}

/* The tensor `name` of f with this shape, or an error that says what is there instead. */
static const struct st_tensor *expect(const struct st_file *f, const char *path, const char *name,
                                      struct ad_shape shape, struct err *e)
{
    const struct st_tensor *t = st_find(f, name);
    char want[96], got[96];
    if (!t) {
        const struct st_tensor *near = st_nearest(f, name);
        err_set(e, ERR_SHAPE, "%s: there is no tensor '%s'%s%s%s", path, name, near ? "; the nearest is '" : "",
                near ? near->name : "", near ? "'" : "");
        return NULL;
    }
    struct ad_shape s = {.rank = t->rank <= AD_MAX_DIMS ? t->rank : 0};
    for (int i = 0; i < s.rank; i++) s.dim[i] = t->dim[i];
    if (t->rank == s.rank && ad_same_shape(s, shape)) return t;
    err_set(e, ERR_SHAPE, "%s: tensor '%s' is %s, the model expects %s", path, name, ad_shape_text(got, s),
            ad_shape_text(want, shape));
    return NULL;
}

/* Numbers, rounded to nearest where fewer bits are kept than the file has. */
static int read_numbers(const struct st_file *f, const struct st_tensor *t, const struct opt_state *to, struct err *e)
{
    if (to->store == OPT_F32) return st_read_f32(f, t, to->data, e);
    if (to->store == OPT_BF16 && t->dtype == ST_BF16) {
        memcpy(to->data, t->data, t->bytes);
        return 0;
    }
    float *x = mem_try((size_t)(t->count + 1) * sizeof *x, t->name, e);
    if (!x) return e->code;
    int rc = st_read_f32(f, t, x, e);
    if (!rc) opt_state_set(to, x);
    free(x);
    return rc;
}

static int read_entry(const struct st_file *f, const struct st_tensor *t, struct ad_entry *p, const char *path,
                      struct err *e)
{
    struct opt_state bf16 = {.of = p, .count = p->count, .store = OPT_BF16, .data = p->data};
    if (ad_is_narrow(p)) return read_numbers(f, t, &bf16, e);
    if (p->dtype == AD_F32) return st_read_f32(f, t, p->data, e);
    if (t->dtype != dtype_of(p->dtype))
        return err_set(e, ERR_SHAPE, "%s: tensor '%s' is %s", path, t->name, st_dtype_name(t->dtype));
    memcpy(p->data, t->data, t->bytes);
    return 0;
}

static int unknown(const char *path, const char *name, const char *what, struct err *e)
{
    return err_set(e, ERR_SHAPE, "%s: tensor '%s' is not part of the %s that the config describes", path, name, what);
}

/* What the model does not have must not be in the file. */
static int check_extra(const struct st_file *f, const char *path, const struct ad_store *store, struct err *e)
{
    for (int i = 0; i < st_count(f); i++)
        if (!ad_store_find(store, st_at(f, i)->name)) return unknown(path, st_at(f, i)->name, "model", e);
    return 0;
}

static int load_model(const char *path, struct ad_store *store, struct err *e)
{
    struct st_file *f;
    int rc = st_open(path, &f, e);
    if (rc) return rc;
    for (int i = 0; i < ad_store_count(store) && !rc; i++) {
        struct ad_entry *p = ad_store_at(store, i);
        const struct st_tensor *t = expect(f, path, p->name, p->shape, e);
        rc = t ? read_entry(f, t, p, path, e) : e->code;
        p->fresh = false;
    }
    if (!rc) rc = check_extra(f, path, store, e);
    st_close(f);
    return rc;
}

/* Codes and their scales, as they are or, where the run now keeps this state otherwise, as numbers. */
static int read_codes(const struct st_file *f, const char *path, const struct st_tensor *t, const struct opt_state *to,
                      float *x, struct err *e)
{
    char *name = state_name(to, true);
    const struct st_tensor *scales = expect(f, path, name, SHAPE(opt_blocks(to->count)), e);
    free(name);
    if (!scales) return e->code;
    if (scales->dtype != ST_F32)
        return err_set(e, ERR_SHAPE, "%s: tensor '%s' is %s, not F32", path, scales->name,
                       st_dtype_name(scales->dtype));
    if (to->store == OPT_8BIT) {
        memcpy(to->data, t->data, t->bytes);
        memcpy(to->absmax, scales->data, scales->bytes);
        return 0;
    }
    for (int64_t i = 0; i < to->count; i += OPT_BLOCK) {
        float scale;
        memcpy(&scale, (const char *)scales->data + i / OPT_BLOCK * (int64_t)sizeof scale, sizeof scale);
        opt_decode(opt_map(to->positive), (const uint8_t *)t->data + i,
                   to->count - i < OPT_BLOCK ? to->count - i : OPT_BLOCK, scale, x + i);
    }
    opt_state_set(to, x);
    return 0;
}

/* One state of the optimizer. A run that was begun with moments in f32 goes on in bf16 or 8 bits and the other way round:
 * rounded once, to nearest. */
static int read_state(const struct st_file *f, const char *path, const struct opt_state *to, struct err *e)
{
    char *name = state_name(to, false);
    const struct st_tensor *t = expect(f, path, name, to->shape, e);
    free(name);
    if (!t) return e->code;
    if (t->dtype != ST_U8) return read_numbers(f, t, to, e);
    float *x = mem_try((size_t)(t->count + 1) * sizeof *x, to->name, e);
    if (!x) return e->code;
    int rc = read_codes(f, path, t, to, x, e);
    free(x);
    return rc;
}

/* What the optimizer does not have must not be in the file: names that stand beside codes as their scales are none. */
static int check_extra_states(const struct st_file *f, const char *path, const struct opt *o, int known, struct err *e)
{
    if (known == st_count(f)) return 0;
    for (int i = 0; i < st_count(f); i++) {
        bool found = false;
        for (int k = 0; k < 2 * opt_state_count(o) && !found; k++) {
            struct opt_state s = opt_state(o, k / 2);
            char *name = state_name(&s, k % 2);
            found = !strcmp(st_at(f, i)->name, name);
            free(name);
        }
        if (!found) return unknown(path, st_at(f, i)->name, "optimizer", e);
    }
    return err_set(e, ERR_SHAPE, "%s: there are scales of numbers that are not in 8 bits", path);
}

static int load_optimizer(const char *path, struct opt *o, struct err *e)
{
    struct st_file *f;
    int rc = st_open(path, &f, e), known = 0;
    if (rc) return rc;
    for (int i = 0; i < opt_state_count(o) && !rc; i++) {
        struct opt_state s = opt_state(o, i);
        rc = read_state(f, path, &s, e);
        char *name = state_name(&s, false);
        known += rc ? 0 : st_find(f, name)->dtype == ST_U8 ? 2 : 1;
        free(name);
    }
    if (!rc) rc = check_extra_states(f, path, o, known, e);
    const char *text = st_metadata(f, "steps");
    char *end = NULL;
    long long steps = text ? strtoll(text, &end, 10) : -1;
    if (!rc && (steps < 0 || steps > MOST || end == text || *end))
        rc = err_set(e, ERR_FORMAT, "%s: its metadata must say the number of steps, not '%s'", path, text ? text : "");
    if (!rc) opt_set_steps(o, steps);
    st_close(f);
    return rc;
}

static int load_average(const char *path, struct ad_store *store, struct err *e)
{
    if (!file_exists(path)) return 0;
    struct st_file *f;
    int rc = st_open(path, &f, e);
    if (rc) return rc;
    bool any = false;
    for (int i = 0; i < st_count(f) && !any; i++) any = !strncmp(st_at(f, i)->name, "ema/", 4);
    for (int i = 0; i < ad_store_count(store) && any && !rc; i++) {
        struct ad_entry *p = ad_store_at(store, i);
        struct opt_state s = {.name = "ema", .of = p, .shape = p->shape, .count = p->count, .data = p->data};
        if (ad_is_narrow(p)) s.store = OPT_BF16;
        if (ad_in_flat(p)) rc = read_state(f, path, &s, e);
    }
    st_close(f);
    return rc;
}

int run_checkpoint_load(const char *folder, struct run_state *s, struct ad_store *store, struct opt *o, bool average,
                        struct err *e)
{
    char *model = file_join(folder, "model.safetensors"), *optimizer = file_join(folder, "optimizer.safetensors"),
         *state = file_join(folder, "state.json");
    int rc = load_state(state, s, e);
    if (!rc) rc = load_model(model, store, e);
    if (!rc && o) rc = load_optimizer(optimizer, o, e);
    if (!rc && average) rc = load_average(optimizer, store, e);
    free(model);
    free(optimizer);
    free(state);
    return rc;
}
