/* Trees into structs, by tables. What is read and what is defaulted go the same way: a default is YAML text too. */
#include "base/conf_reader.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/file.h"
#include "base/text.h"

enum { MAX_ROWS = 96, MAX_NUMBERS = 100000, MAX_STRUCTS = 4096 };

struct conf_place {
    const void *member;
    const char *file;
    struct conf_at at;
};

/* A row that counts for the map being read, with the struct its offset counts from. */
struct row {
    const struct conf_field *f;
    char *base;
    const struct tree_item *item; /* NULL: not given */
};

struct list {
    char *v;
    int64_t n;
};

static int read_struct(struct conf_reader *r, const struct conf_table *t, char *base, const struct tree *tree,
                       const struct conf_path *path);

static void keep_place(struct conf_reader *r, const void *member, struct conf_at at)
{
    if (r->defaults) return;
    r->c->places = mem_grow(r->c->places, &r->c->cap_places, r->c->n_places + 1, sizeof *r->c->places);
    r->c->places[r->c->n_places++] = (struct conf_place){member, r->file, at};
}

/* ---- lists ---- */

static int check_count(struct conf_reader *r, const struct conf_field *f, const struct tree *t,
                       const struct conf_path *path, int64_t n, int64_t limit)
{
    int64_t most = f->most ? f->most : limit;
    if ((n >= f->least && n <= most) || r->defaults) return 0;
    if (f->least == most)
        return conf_fail(r, t->at, path, "expected %lld values, got %lld", (long long)most, (long long)n);
    if (n < f->least)
        return conf_fail(r, t->at, path, "expected at least %lld value%s, got %lld", (long long)f->least,
                         f->least == 1 ? "" : "s", (long long)n);
    return conf_fail(r, t->at, path, "expected at most %lld values, got %lld", (long long)most, (long long)n);
}

/* The items of a list; a lone scalar is a list of one. */
static struct tree as_list(const struct tree *t, struct tree_item *one)
{
    if (t->kind == TREE_LIST) return *t;
    *one = (struct tree_item){NULL, t->at, (struct tree *)t};
    return (struct tree){.kind = TREE_LIST, .items = one, .n = 1};
}

static int read_numbers(struct conf_reader *r, const struct conf_field *f, const struct tree *t,
                        const struct conf_path *path, struct list *out)
{
    enum conf_type type = f->type == CONF_INTS ? CONF_INT : f->type == CONF_DOUBLES ? CONF_DOUBLE : CONF_STRING;
    struct tree_item one;
    if (t->kind == TREE_MAP || tree_is_null(t))
        return conf_mistyped(r, t, path,
                             type == CONF_INT      ? "a list of whole numbers"
                             : type == CONF_DOUBLE ? "a list of numbers"
                                                   : "a list of texts");
    struct tree items = as_list(t, &one);
    int code = check_count(r, f, t, path, items.n, MAX_NUMBERS);
    size_t size = 8; /* of int64_t, double and a pointer alike */
    out->v = code ? NULL : arena_alloc(&r->c->mem, (size_t)items.n * size);
    out->n = items.n;
    for (int64_t i = 0; i < items.n && !code; i++) {
        char index[24];
        snprintf(index, sizeof index, "%lld", (long long)i);
        struct conf_path here = {path, index};
        code = conf_read_scalar(r, f, type, items.items[i].value, t->kind == TREE_LIST ? &here : path, out->v + i * 8);
        keep_place(r, out->v + i * 8, items.items[i].value->at);
    }
    return code;
}

static int read_list(struct conf_reader *r, const struct conf_field *f, const struct tree *t,
                     const struct conf_path *path, struct list *out)
{
    if (t->kind != TREE_LIST) return conf_mistyped(r, t, path, "a list");
    int code = check_count(r, f, t, path, t->n, MAX_STRUCTS);
    out->v = code ? NULL : arena_alloc(&r->c->mem, (size_t)t->n * f->sub->size);
    out->n = t->n;
    for (int64_t i = 0; i < t->n && !code; i++) {
        char index[24];
        snprintf(index, sizeof index, "%lld", (long long)i);
        struct conf_path here = {path, index};
        char *element = out->v + (size_t)i * f->sub->size;
        keep_place(r, element, t->items[i].at);
        code = read_struct(r, f->sub, element, t->items[i].value, &here);
    }
    return code;
}

static bool is_name(const char *s)
{
    size_t n = strlen(s);
    return n > 0 && n <= 64 && strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == n;
}

/* `known`: for a "*" row, the other keys of the parent, one of which may have been meant. */
static int read_map(struct conf_reader *r, const struct conf_field *f, const struct tree *t,
                    const struct conf_path *path, const char *const *known, int n_known, struct list *out)
{
    if (t->kind != TREE_MAP) return conf_mistyped(r, t, path, "keys and values");
    int code = check_count(r, f, t, path, t->n, MAX_STRUCTS);
    out->v = code ? NULL : arena_alloc(&r->c->mem, (size_t)t->n * f->sub->size);
    out->n = t->n;
    for (int64_t i = 0; i < t->n && !code; i++) {
        const struct tree_item *item = &t->items[i];
        struct conf_path here = {path, item->key};
        char *element = out->v + (size_t)i * f->sub->size;
        if (!is_name(item->key))
            return conf_fail(r, item->at, path, "'%.60s' is no good name; use up to 64 letters, digits, _ and -",
                             item->key);
        *(const char **)element = arena_strdup(&r->c->mem, item->key);
        keep_place(r, element, item->at);
        const char *near = text_nearest(item->key, known, n_known);
        if (near && item->value->kind == TREE_SCALAR && !f->sub->shorthand) {
            char got[128];
            return conf_fail(r, item->at, &here, "expected keys and values, got %s; or did you mean the key '%s'?",
                             conf_came(got, sizeof got, item->value), near);
        }
        code = read_struct(r, f->sub, element, item->value, &here);
    }
    return code;
}

static int read_value(struct conf_reader *r, const struct conf_field *f, const struct tree *t,
                      const struct conf_path *path, char *member)
{
    switch (f->type) {
    case CONF_INTS:
    case CONF_DOUBLES:
    case CONF_STRINGS: return read_numbers(r, f, t, path, (struct list *)member);
    case CONF_LIST: return read_list(r, f, t, path, (struct list *)member);
    case CONF_MAP: return read_map(r, f, t, path, NULL, 0, (struct list *)member);
    case CONF_OPTIONAL:
        *(char **)member = NULL;
        if (tree_is_null(t)) return 0;
        *(char **)member = arena_alloc(&r->c->mem, f->sub->size);
        return read_struct(r, f->sub, *(char **)member, t, path);
    case CONF_STRUCT:
    case CONF_CASE: return read_struct(r, f->sub, member, t, path);
    default: return conf_read_scalar(r, f, f->type, t, path, member);
    }
}

/* ---- structs ---- */

/* A default as a tree. Only text that can be more than a plain scalar costs a parser. */
static struct tree *default_tree(struct conf_reader *r, const struct conf_field *f)
{
    struct conf_at at = {0};
    if (!strpbrk(f->def, "[]{}\"'#&*!|>:\n")) return tree_scalar(r->tmp, f->def, at);
    struct err e = {0};
    struct tree *t = tree_parse(r->tmp, "default", 0, false, f->def, strlen(f->def), &e);
    CHECK_MSG(t, "default of '%s': %s", f->key, e.msg);
    return t;
}

static int missing(struct conf_reader *r, const struct conf_field *f, struct conf_at at, const struct conf_path *path,
                   const char *meant)
{
    struct buf b = {0};
    buf_printf(&b, "the key '%s' is missing", f->key);
    if (f->help) buf_printf(&b, " (%s)", f->help);
    if (meant) buf_printf(&b, "; is it what '%s' means?", meant);
    int code = conf_fail(r, at, path, "%s", b.data);
    buf_free(&b);
    return code;
}

/* The map's rows: the table's own and those of the case that each CONF_SWITCH chose. */
static int gather(struct conf_reader *r, const struct conf_table *t, char *base, const struct tree *map,
                  const struct conf_path *path, struct row *rows, int *n)
{
    for (const struct conf_field *f = t->fields; f->key; f++) {
        CHECK_MSG(*n < MAX_ROWS, "more than %d keys beside '%s'", MAX_ROWS, f->key);
        const struct tree_item *item = tree_find(map, f->key);
        rows[(*n)++] = (struct row){f, base, item};
        if (f->type != CONF_SWITCH) continue;
        if (!item && !f->def) { /* said now, since the keys of its cases would seem unknown */
            if (r->defaults) continue;
            return missing(r, f, map->at, path, NULL);
        }
        int chosen = 0;
        struct conf_path here = {path, f->key};
        int code = conf_read_scalar(r, f, CONF_ENUM, item ? item->value : default_tree(r, f), &here, &chosen);
        if (!code && f->cases[chosen]) code = gather(r, f->cases[chosen], base + f->cases_at, map, path, rows, n);
        if (code) return code;
    }
    return 0;
}

static int unknown(struct conf_reader *r, const struct tree_item *item, const struct conf_path *path,
                   const char *const *keys, int n)
{
    struct buf where = {0}, b = {0};
    conf_path_text(&where, path);
    const char *up = where.len ? where.data : "", *near = text_nearest(item->key, keys, n);
    if (item->at.override) {
        const char *dot = where.len ? "." : "";
        buf_printf(&b, "unknown key '%s%s%.60s'", up, dot, item->key);
        if (near) buf_printf(&b, "; did you mean '%s%s%s'?", up, dot, near);
    } else {
        buf_printf(&b, "unknown key '%.60s'%s%s", item->key, where.len ? " in " : "", up);
        if (near) buf_printf(&b, "; did you mean '%s'?", near);
    }
    if (!near) {
        buf_str(&b, n ? "; expected " : "; no keys are expected here");
        for (int i = 0; i < n; i++) buf_printf(&b, "%s%s", !i ? "" : i < n - 1 ? ", " : " or ", keys[i]);
    }
    int code = conf_fail(r, item->at, NULL, "%s", b.data);
    buf_free(&where);
    buf_free(&b);
    return code;
}

/* Every key of the map must have its row; those left go to the "*" row, if there is one, as a map. */
static int match(struct conf_reader *r, const struct tree *map, const struct conf_path *path, struct row *rows, int n,
                 struct tree *rest, const char **keys, int *n_keys)
{
    bool star = false;
    for (int i = 0; i < n; i++) {
        if (strcmp(rows[i].f->key, "*"))
            keys[(*n_keys)++] = rows[i].f->key;
        else
            star = true;
    }
    *rest = (struct tree){.kind = TREE_MAP, .at = map->at};
    for (int64_t k = 0; k < map->n; k++) {
        bool known = false;
        for (int i = 0; i < *n_keys && !known; i++) known = !strcmp(keys[i], map->items[k].key);
        if (known) continue;
        if (!star) return unknown(r, &map->items[k], path, keys, *n_keys);
        tree_add(r->tmp, rest, map->items[k].key, map->items[k].at, map->items[k].value);
    }
    return 0;
}

/* Of the CONF_CASE rows with the tag of rows[first], the one taken gets its struct; -1 in *taken on an error. */
static int choose_case(struct conf_reader *r, const struct tree *map, const struct conf_path *path,
                       const struct row *rows, int n, int first, int *taken)
{
    const struct row *given = NULL, *otherwise = NULL;
    struct buf names = {0};
    int code = 0;
    for (int i = first; i < n && !code; i++) {
        const struct conf_field *f = rows[i].f;
        if (f->type != CONF_CASE || rows[i].base + f->tag != rows[first].base + rows[first].f->tag) continue;
        buf_printf(&names, "%s%s", names.len ? ", " : "", f->key);
        if (f->def) otherwise = &rows[i];
        if (!rows[i].item || (rows[i].item->value->kind == TREE_SCALAR && !strcmp(rows[i].item->value->text, "null")))
            continue; /* `adamw=null` in an override takes the file's choice back */
        if (given) {
            const struct tree_item *late =
                rows[i].item->at.override >= given->item->at.override ? rows[i].item : given->item;
            code = conf_fail(r, late->at, path, "'%s' and '%s' exclude each other; keep one (or set the other to null)",
                             given->f->key, f->key);
        }
        given = &rows[i];
    }
    if (!given) given = otherwise;
    if (!code && !given && !r->defaults) code = conf_fail(r, map->at, path, "expected one of %s", names.data);
    buf_free(&names);
    *taken = given ? (int)(given - rows) : -1;
    if (!code && given) *(int *)(given->base + given->f->tag) = given->f->value;
    return code;
}

/* `rest`: the keys that no row but "*" names; one of them may be a slip for a missing key. */
static int read_row(struct conf_reader *r, const struct tree *map, const struct tree *rest,
                    const struct conf_path *path, const struct row *row)
{
    const struct conf_field *f = row->f;
    char *member = row->base + f->offset;
    struct conf_path here = {path, f->key};
    if (row->item) {
        keep_place(r, member, row->item->value->at);
        return read_value(r, f, row->item->value, &here, member);
    }
    if (f->def) return read_value(r, f, default_tree(r, f), &here, member);
    if (!r->defaults) {
        const char *left[MAX_ROWS];
        int n = 0;
        for (; n < rest->n && n < MAX_ROWS; n++) left[n] = rest->items[n].key;
        const char *slip = text_nearest(f->key, left, n);
        return missing(r, f, slip ? tree_find(rest, slip)->at : map->at, path, slip);
    }
    /* what is required is zero, but the defaults below it are there */
    return f->type == CONF_STRUCT ? read_struct(r, f->sub, member, tree_scalar(r->tmp, "", map->at), &here) : 0;
}

static int read_rows(struct conf_reader *r, const struct conf_table *t, char *base, const struct tree *map,
                     const struct conf_path *path)
{
    struct row rows[MAX_ROWS];
    const char *keys[MAX_ROWS];
    struct tree rest;
    int n = 0, n_keys = 0;
    int code = gather(r, t, base, map, path, rows, &n);
    if (!code) code = match(r, map, path, rows, n, &rest, keys, &n_keys);
    for (int i = 0; i < n && !code; i++) {
        const struct conf_field *f = rows[i].f;
        if (f->type == CONF_CASE) {
            int taken = i, first = 0;
            while (rows[first].f->type != CONF_CASE || rows[first].base + rows[first].f->tag != rows[i].base + f->tag)
                first++;
            if (first != i) continue; /* the group was read with its first row */
            code = choose_case(r, map, path, rows, n, i, &taken);
            if (!code && taken >= 0) code = read_row(r, map, &rest, path, &rows[taken]);
        } else if (!strcmp(f->key, "*")) {
            code = read_map(r, f, &rest, path, keys, n_keys, (struct list *)(rows[i].base + f->offset));
        } else {
            code = read_row(r, map, &rest, path, &rows[i]);
        }
    }
    return code;
}

/* A list or a scalar where keys are expected: the table's short forms, else an error. NULL on error. */
static const struct tree *long_form(struct conf_reader *r, const struct conf_table *t, const struct tree *tree,
                                    const struct conf_path *path)
{
    struct tree *map = arena_alloc(r->tmp, sizeof *map);
    *map = (struct tree){.kind = TREE_MAP, .at = tree->at};
    if (tree->kind == TREE_LIST && t->positional) {
        if (tree->n < 1 || tree->n > t->positional) {
            conf_fail(r, tree->at, path, "expected 1 to %d values, got %lld", t->positional, (long long)tree->n);
            return NULL;
        }
        for (int64_t i = 0; i < tree->n; i++)
            tree_add(r->tmp, map, t->fields[i].key, tree->items[i].at, tree->items[i].value);
    } else if (tree_is_null(tree)) {
        return map; /* `train:` with nothing below it: all defaults */
    } else if (t->shorthand || (t->positional && tree->kind == TREE_SCALAR)) {
        tree_add(r->tmp, map, t->shorthand ? t->shorthand : t->fields[0].key, tree->at, (struct tree *)tree);
    } else {
        struct buf b = {0};
        buf_str(&b, "keys and values (");
        int shown = 0;
        for (const struct conf_field *f = t->fields; f->key && shown < 4; f++)
            if (strcmp(f->key, "*")) buf_printf(&b, "%s%s: ...", shown++ ? ", " : "", f->key);
        buf_str(&b, ")");
        conf_mistyped(r, tree, path, shown ? b.data : "keys and values");
        buf_free(&b);
        return NULL;
    }
    return map;
}

static int read_struct(struct conf_reader *r, const struct conf_table *t, char *base, const struct tree *tree,
                       const struct conf_path *path)
{
    if (tree->kind != TREE_MAP && !(tree = long_form(r, t, tree, path))) return ERR_CONFIG;
    int code = read_rows(r, t, base, tree, path);
    if (code || !t->check || r->defaults) return code;
    struct err e = {0};
    code = t->check(base, &e);
    return code ? conf_fail(r, tree->at, path, "%s", e.msg) : 0;
}

/* ---- the room's doors ---- */

int conf_parse(struct conf *c, const char *name, const char *text, size_t len, const char *const *overrides,
               int n_overrides, const struct conf_table *t, void *out, struct err *e)
{
    struct err local = {0};
    struct arena tmp = {0};
    struct conf_reader r = {.c = c, .tmp = &tmp, .e = &local};
    r.file = c->file = arena_strdup(&c->mem, name);
    memset(out, 0, t->size);
    struct tree *tree = tree_parse(&tmp, r.file, 0, true, text, len, &local);
    int code = tree ? 0 : local.code;
    for (int i = 0; i < n_overrides && !code; i++)
        code = tree_override(&tmp, r.file, tree, i + 1, overrides[i], &local);
    if (!code) code = read_struct(&r, t, out, tree, &(struct conf_path){0});
    arena_free(&tmp);
    if (!code) return 0;
    memset(out, 0, t->size);
    return err_set(e, local.code, "%s", local.msg);
}

int conf_read(struct conf *c, const char *path, const char *const *overrides, int n_overrides,
              const struct conf_table *t, void *out, struct err *e)
{
    char *text;
    size_t len;
    memset(out, 0, t->size);
    int code = file_read(path, CONF_MAX_BYTES, &text, &len, e);
    if (code) return code;
    code = conf_parse(c, path, text, len, overrides, n_overrides, t, out, e);
    free(text);
    return code;
}

void conf_default(struct conf *c, const struct conf_table *t, void *out)
{
    struct err e = {0};
    struct arena tmp = {0};
    struct conf_reader r = {.c = c, .tmp = &tmp, .file = "default", .defaults = true, .e = &e};
    struct tree map = {.kind = TREE_MAP};
    memset(out, 0, t->size);
    int code = read_struct(&r, t, out, &map, &(struct conf_path){0});
    CHECK_MSG(!code, "%s", e.msg);
    arena_free(&tmp);
}

const char *conf_where(struct conf *c, const void *member)
{
    char text[512];
    for (size_t i = c->n_places; i-- > 0;)
        if (c->places[i].member == member)
            return arena_strdup(&c->mem, conf_at_text(text, sizeof text, c->places[i].file, c->places[i].at));
    return c->file ? c->file : "default";
}

void conf_free(struct conf *c)
{
    arena_free(&c->mem);
    free(c->places);
    *c = (struct conf){0};
}
