/* Classes from a file or a split, their embeddings, and the ranks. See zeroshot.h. */
#include "eval/zeroshot.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "eval/show.h"

static int64_t find_class(const struct eval_classes *c, const char *name)
{
    for (int64_t i = 0; i < c->n; i++)
        if (!strcmp(c->v[i].name, name)) return i;
    return -1;
}

static struct eval_class *add_class(struct eval_classes *c, size_t *cap, const char *name)
{
    c->v = mem_grow(c->v, cap, (size_t)c->n + 1, sizeof *c->v);
    c->v[c->n] = (struct eval_class){.name = arena_strdup(&c->mem, name)};
    return &c->v[c->n++];
}

static int check_templates(const char *const *templates, int n, struct err *e)
{
    for (int i = 0; i < n; i++)
        if (!strstr(templates[i], "{}"))
            return err_set(e, ERR_USAGE, "the template '%s' has no {}, where the class's name should go", templates[i]);
    return 0;
}

static void fill_templates(struct eval_classes *c, struct eval_class *k, const char *const *templates, int n)
{
    k->n = n ? n : 1;
    k->prompt = arena_alloc(&c->mem, (size_t)k->n * sizeof *k->prompt);
    k->prompt[0] = k->name;
    for (int i = 0; i < n; i++) {
        const char *gap = strstr(templates[i], "{}");
        k->prompt[i] = arena_printf(&c->mem, "%.*s%s%s", (int)(gap - templates[i]), templates[i], k->name, gap + 2);
    }
}

static char *trim(char *s)
{
    s += strspn(s, " \t\r");
    size_t n = strlen(s);
    while (n && strchr(" \t\r", s[n - 1])) s[--n] = 0;
    return s;
}

/* "name" or "name | prompt | prompt"; `line` is cut up. */
static int read_line(char *line, const char *const *templates, int n_templates, struct eval_classes *c, size_t *cap,
                     struct err *e)
{
    char *bar = strchr(line, '|');
    if (bar) *bar = 0;
    char *name = trim(line);
    if (!*name && !bar) return 0;
    if (!*name) return err_set(e, ERR_FORMAT, "a class's name should stand before the first |");
    if (find_class(c, name) >= 0) return err_set(e, ERR_FORMAT, "the class '%s' comes a second time", name);
    struct eval_class *k = add_class(c, cap, name);
    if (!bar) {
        fill_templates(c, k, templates, n_templates);
        return 0;
    }
    int64_t most = 1;
    for (const char *p = bar + 1; (p = strchr(p, '|')); p++) most++;
    k->prompt = arena_alloc(&c->mem, (size_t)most * sizeof *k->prompt);
    for (char *at = bar; at;) {
        char *prompt = at + 1;
        at = strchr(prompt, '|');
        if (at) *at = 0;
        prompt = trim(prompt);
        if (!*prompt) return err_set(e, ERR_FORMAT, "the class '%s' has an empty prompt", name);
        k->prompt[k->n++] = arena_strdup(&c->mem, prompt);
    }
    return 0;
}

int eval_classes_read(const char *path, const char *const *templates, int n_templates, struct eval_classes *c,
                      struct err *e)
{
    char *text;
    size_t len, cap = 0;
    *c = (struct eval_classes){0};
    int rc = check_templates(templates, n_templates, e);
    if (!rc) rc = file_read(path, (size_t)1 << 28, &text, &len, e);
    if (rc) return rc;
    int line = 1;
    for (char *at = text, *next; at && !rc; at = next, line++) {
        if ((next = strchr(at, '\n'))) *next++ = 0;
        if ((rc = read_line(at, templates, n_templates, c, &cap, e))) err_prefix(e, "%s:%d", path, line);
    }
    free(text);
    if (!rc && !c->n) rc = err_set(e, ERR_FORMAT, "%s: no class in it; a class on each line was expected", path);
    if (rc) eval_classes_free(c);
    return rc;
}

static const char *label_of(const struct run_model *m, const struct manifest_item *item)
{
    const struct manifest_field *f = manifest_field(item, "label");
    return f ? f->entry[0].value : eval_caption(m, item);
}

int eval_classes_of(const struct run_model *m, const struct manifest *data, const struct eval_set *s,
                    const char *const *templates, int n_templates, struct eval_classes *c, struct err *e)
{
    size_t cap = 0;
    *c = (struct eval_classes){0};
    int rc = check_templates(templates, n_templates, e);
    for (int64_t i = 0; i < s->n && !rc; i++) {
        const char *label = label_of(m, &data->item[s->item[i]]);
        if (find_class(c, label) < 0) fill_templates(c, add_class(c, &cap, label), templates, n_templates);
    }
    return rc;
}

void eval_classes_free(struct eval_classes *c)
{
    free(c->v);
    arena_free(&c->mem);
    *c = (struct eval_classes){0};
}

/* All prompts, class after class, as a manifest in memory: so they are read just as captions are. */
static int prompt_manifest(const char *field, const struct eval_classes *c, struct manifest *prompts, struct err *e)
{
    struct buf b = {0};
    for (int64_t i = 0; i < c->n; i++)
        for (int64_t k = 0; k < c->v[i].n; k++) {
            buf_str(&b, "{");
            buf_json(&b, field);
            buf_str(&b, ": [");
            buf_json(&b, c->v[i].prompt[k]);
            buf_str(&b, "]}\n");
        }
    int rc = manifest_parse("prompts", ".", b.data, b.len, prompts, e);
    buf_free(&b);
    return rc;
}

/* out (c->n, width): the unit mean of each class's prompts. */
static int embed_classes(struct run_model *m, int text, const struct eval_classes *c, float *out, struct err *e)
{
    int64_t width = m->config.embed, at = 0;
    struct manifest prompts;
    int rc = prompt_manifest(m->input[text].field, c, &prompts, e);
    if (rc) return rc;
    int64_t *items = mem_alloc((size_t)prompts.n * sizeof *items);
    for (int64_t i = 0; i < prompts.n; i++) items[i] = i;
    bool *has = mem_zero((size_t)prompts.n, sizeof *has);
    float *unit = mem_try((size_t)(prompts.n * width) * sizeof *unit, "the prompts' embeddings", e);
    rc = unit ? run_embed_items(m, text, &prompts, items, prompts.n, NULL, 0, unit, has, false, e) : ERR_MEMORY;
    for (int64_t i = 0; i < c->n && !rc; i++) {
        float *mean = out + i * width;
        memset(mean, 0, (size_t)width * sizeof *mean);
        for (int64_t k = 0; k < c->v[i].n; k++, at++)
            for (int64_t j = 0; j < width; j++) mean[j] += unit[at * width + j];
        double square = 0;
        for (int64_t j = 0; j < width; j++) square += (double)mean[j] * mean[j];
        float scale = square > 0 ? (float)(1 / sqrt(square)) : 0;
        for (int64_t j = 0; j < width; j++) mean[j] *= scale;
    }
    free(unit);
    free(has);
    free(items);
    manifest_free(&prompts);
    return rc;
}

int eval_zeroshot_make(struct run_model *m, const struct manifest *data, const struct eval_set *s, int modality,
                       int text, const struct eval_classes *c, int resamples, struct eval_zeroshot *z, struct err *e)
{
    /* Items to classes is a retrieval like any other: rows 0..s->n-1 are items, the rest classes, and the label is the
     * group. */
    int64_t n = s->n + c->n, width = s->width;
    struct eval_set both = {.n = n, .n_modalities = 2, .width = width};
    *z = (struct eval_zeroshot){.modality = modality, .classes = c->n};
    both.group = mem_alloc((size_t)n * sizeof *both.group);
    int rc = 0;
    for (int k = 0; k < 2; k++) {
        both.has[k] = mem_zero((size_t)n, sizeof(bool));
        both.unit[k] = mem_try((size_t)(n * width) * sizeof(float), "the classes' embeddings", e);
        if (both.unit[k])
            memset(both.unit[k], 0, (size_t)(n * width) * sizeof(float));
        else
            rc = ERR_MEMORY;
    }
    if (!rc) rc = embed_classes(m, text, c, both.unit[1] + s->n * width, e);
    for (int64_t i = 0; i < s->n && !rc; i++) {
        int64_t k = find_class(c, label_of(m, &data->item[s->item[i]]));
        both.group[i] = (int32_t)k;
        both.has[0][i] = k >= 0 && s->has[modality][i];
        z->unknown += k < 0 && s->has[modality][i];
    }
    if (!rc) {
        memcpy(both.unit[0], s->unit[modality], (size_t)(s->n * width) * sizeof(float));
        for (int64_t i = 0; i < c->n; i++) both.group[s->n + i] = (int32_t)i, both.has[1][s->n + i] = true;
        eval_direction_make(&both, 0, 1, resamples, &z->d);
        if (!z->d.queries && z->unknown)
            rc = err_set(e, ERR_CONFIG,
                         "split '%s': no item's label is one of the %lld classes; a label is an item's \"label\" in "
                         "the manifest, else its first caption, such as '%s'",
                         s->split, (long long)c->n, label_of(m, &data->item[s->item[0]]));
    }
    eval_set_free(&both);
    if (rc) eval_zeroshot_free(z);
    return rc;
}

void eval_zeroshot_free(struct eval_zeroshot *z)
{
    eval_direction_free(&z->d);
    *z = (struct eval_zeroshot){0};
}
