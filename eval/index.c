/* Making, keeping and searching indexes. See index.h. */
#include "eval/index.h"

#include <cblas.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/safetensors.h"
#include "eval/show.h"

uint64_t eval_weights(const struct run_model *m)
{
    uint64_t h = HASH_START;
    for (int i = 0; i < ad_store_count(m->store); i++) {
        const struct ad_entry *p = ad_store_at(m->store, i);
        h = hash_bytes(p->name, strlen(p->name), h);
        if (p->dtype != AD_F32) continue;
        for (int64_t k = 0; k < p->count; k++) {
            float x;
            uint32_t word;
            ad_entry_read(p, k, 1, &x);
            memcpy(&word, &x, sizeof word);
            h = (h ^ word) * 0x100000001b3u;
        }
    }
    return h;
}

static void label_items(const struct run_model *m, const struct manifest *data, const struct eval_set *s,
                        struct eval_index *x)
{
    x->id = arena_alloc(&x->mem, (size_t)(x->n + 1) * sizeof *x->id);
    x->caption = arena_alloc(&x->mem, (size_t)(x->n + 1) * sizeof *x->caption);
    x->mark = arena_alloc(&x->mem, (size_t)(x->n + 1) * sizeof *x->mark);
    for (int64_t i = 0; i < x->n; i++) {
        const struct manifest_item *item = &data->item[s->item[i]];
        x->id[i] = arena_strdup(&x->mem, item->id);
        x->caption[i] = arena_strdup(&x->mem, eval_caption(m, item));
        x->mark[i] = arena_strdup(&x->mem, eval_mark(item));
    }
}

int eval_index_make(struct run_model *m, const struct manifest *data, const char *split, bool show,
                    struct eval_index *x, struct err *e)
{
    struct eval_set s;
    *x = (struct eval_index){0};
    int rc = eval_set_make(m, data, split, 0, &s, show, e);
    if (rc) return rc;
    *x = (struct eval_index){.n = s.n, .width = s.width, .n_modalities = s.n_modalities, .weights = eval_weights(m)};
    x->manifest = arena_strdup(&x->mem, data->path);
    x->split = arena_strdup(&x->mem, split);
    for (int i = 0; i < x->n_modalities; i++) {
        x->name[i] = arena_strdup(&x->mem, m->tower[i].name);
        x->unit[i] = s.unit[i];
        s.unit[i] = NULL;
        x->present[i] = mem_alloc((size_t)x->n + 1);
        for (int64_t k = 0; k < x->n; k++) x->present[i][k] = s.has[i][k];
    }
    label_items(m, data, &s, x);
    eval_set_free(&s);
    return 0;
}

void eval_index_free(struct eval_index *x)
{
    for (int i = 0; i < x->n_modalities; i++) {
        free(x->unit[i]);
        free(x->present[i]);
    }
    arena_free(&x->mem);
    *x = (struct eval_index){0};
}

/* ---- file */

static char *json_list(const char *const *s, int64_t n)
{
    struct buf b = {0};
    buf_str(&b, "[");
    for (int64_t i = 0; i < n; i++) {
        if (i) buf_str(&b, ", ");
        buf_json(&b, s[i]);
    }
    buf_str(&b, "]");
    return b.data;
}

int eval_index_write(const struct eval_index *x, const char *model, const char *path, struct err *e)
{
    struct st_item item[2 * RUN_MAX_MODALITIES];
    int64_t dim[2] = {x->n, x->width};
    int n = 0;
    for (int i = 0; i < x->n_modalities; i++) {
        item[n++] = (struct st_item){mem_strdup(x->name[i]), ST_F32, 2, dim, x->unit[i]};
        item[n++] = (struct st_item){mem_printf("%s.present", x->name[i]), ST_U8, 1, dim, x->present[i]};
    }
    char *ids = json_list(x->id, x->n), *captions = json_list(x->caption, x->n), *marks = json_list(x->mark, x->n);
    char *weights = mem_printf("%016" PRIx64, x->weights), *width = mem_printf("%lld", (long long)x->width);
    const struct st_meta meta[] = {{"format", "triad-index"}, {"ids", ids},         {"captions", captions},
                                   {"marks", marks},          {"model", model},     {"manifest", x->manifest},
                                   {"split", x->split},       {"weights", weights}, {"embed", width}};
    int rc = st_write(path, item, n, meta, sizeof meta / sizeof *meta, e);
    for (int i = 0; i < n; i++) free((void *)(uintptr_t)item[i].name);
    free(ids);
    free(captions);
    free(marks);
    free(weights);
    free(width);
    return rc;
}

/* A JSON list of n strings from the metadata. */
static int read_list(const struct st_file *f, const char *path, const char *key, struct eval_index *x,
                     const char ***out, struct err *e)
{
    const char *text = st_metadata(f, key);
    json_t *list = text ? json_loads(text, 0, NULL) : NULL;
    int rc = json_is_array(list) && json_array_size(list) == (size_t)x->n ? 0 : ERR_FORMAT;
    *out = arena_alloc(&x->mem, (size_t)(x->n + 1) * sizeof **out);
    for (int64_t i = 0; i < x->n && !rc; i++) {
        const char *s = json_string_value(json_array_get(list, (size_t)i));
        if (s)
            (*out)[i] = arena_strdup(&x->mem, s);
        else
            rc = ERR_FORMAT;
    }
    json_decref(list);
    if (rc) err_set(e, rc, "%s: the metadata '%s' should be a list of %lld strings", path, key, (long long)x->n);
    return rc;
}

static int read_modality(const struct st_file *f, const char *path, const struct st_tensor *t, struct eval_index *x,
                         struct err *e)
{
    if (x->n_modalities == RUN_MAX_MODALITIES)
        return err_set(e, ERR_FORMAT, "%s: more than %d modalities", path, RUN_MAX_MODALITIES);
    char *name = mem_printf("%s.present", t->name);
    const struct st_tensor *p = st_find(f, name);
    free(name);
    if (x->n_modalities == 0) x->n = t->dim[0], x->width = t->dim[1];
    if (!p || p->dtype != ST_U8 || p->rank != 1 || t->dim[0] != x->n || t->dim[1] != x->width || p->dim[0] != x->n)
        return err_set(e, ERR_FORMAT, "%s: '%s' should be (%lld, %lld) with '%s.present' U8 (%lld) beside it", path,
                       t->name, (long long)x->n, (long long)x->width, t->name, (long long)x->n);
    int i = x->n_modalities++;
    x->name[i] = arena_strdup(&x->mem, t->name);
    x->present[i] = mem_try(p->bytes + 1, "an index", e);
    x->unit[i] = mem_try((size_t)t->count * sizeof(float) + 1, "an index", e);
    if (!x->present[i] || !x->unit[i]) return ERR_MEMORY;
    memcpy(x->present[i], p->data, p->bytes);
    return st_read_f32(f, t, x->unit[i], e);
}

int eval_index_read(const char *path, struct eval_index *x, struct err *e)
{
    struct st_file *f;
    *x = (struct eval_index){0};
    int rc = st_open(path, &f, e);
    if (rc) return rc;
    const char *format = st_metadata(f, "format"), *weights = st_metadata(f, "weights");
    if (!format || strcmp(format, "triad-index") || !weights)
        rc = err_set(e, ERR_FORMAT, "%s: not an index; 'triad embed' makes one", path);
    for (int i = 0; i < st_count(f) && !rc; i++)
        if (st_at(f, i)->rank == 2) rc = read_modality(f, path, st_at(f, i), x, e);
    if (!rc) rc = read_list(f, path, "ids", x, &x->id, e);
    if (!rc) rc = read_list(f, path, "captions", x, &x->caption, e);
    if (!rc) rc = read_list(f, path, "marks", x, &x->mark, e);
    if (!rc) {
        const char *manifest = st_metadata(f, "manifest"), *split = st_metadata(f, "split");
        x->manifest = arena_strdup(&x->mem, manifest ? manifest : "");
        x->split = arena_strdup(&x->mem, split ? split : "all");
        x->weights = strtoull(weights, NULL, 16);
    }
    st_close(f);
    if (rc) eval_index_free(x);
    return rc;
}

/* ---- search */

int64_t eval_index_search(const struct eval_index *x, int modality, const float *query, int64_t k, struct eval_hit *hit)
{
    int64_t n = 0;
    for (int64_t i = 0; i < x->n; i++) {
        if (!x->present[modality][i]) continue;
        float s = cblas_sdot((int)x->width, x->unit[modality] + i * x->width, 1, query, 1);
        if (n == k && !(k > 0 && s > hit[n - 1].similarity)) continue;
        int64_t at = n < k ? n++ : n - 1;
        for (; at > 0 && s > hit[at - 1].similarity; at--) hit[at] = hit[at - 1];
        hit[at] = (struct eval_hit){i, s};
    }
    return n;
}
