/* Trees into structs, by tables. What is read and what is defaulted go the same way: a default is YAML text too. */
#include "base/conf.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/conf_tree.h"
#include "base/file.h"
#include "base/text.h"

enum { MAX_ROWS = 96, MAX_NUMBERS = 100000, MAX_STRUCTS = 4096 };

struct conf_place {
    const void *member;
    const char *file;
    struct conf_at at;
};

struct reader {
    struct conf *c;
    struct arena *tmp; /* the trees */
    const char *file;
    bool defaults; /* conf_default: required keys stay zero, places are not kept */
    struct err *e;
};

/* How one gets from the root to a value, for messages: "valid.0.split". */
struct path {
    const struct path *up;
    const char *key; /* NULL at the root */
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

static int read_struct(struct reader *r, const struct conf_table *t, char *base, const struct tree *tree,
                       const struct path *path);

static void path_text(struct buf *b, const struct path *p)
{
    if (!p || !p->key) return;
    path_text(b, p->up);
    if (b->len) buf_str(b, ".");
    buf_str(b, p->key);
}

/* "file:line:col: [path: ]text" */
static int fail(struct reader *r, struct conf_at at, const struct path *path, const char *fmt, ...) PRINTF_LIKE(4, 5);
static int fail(struct reader *r, struct conf_at at, const struct path *path, const char *fmt, ...)
{
    char place[512], text[sizeof r->e->msg];
    struct buf name = {0};
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    path_text(&name, path);
    err_set(r->e, ERR_CONFIG, "%s: %s%s%s", conf_at_text(place, sizeof place, r->file, at), name.len ? name.data : "",
            name.len ? ": " : "", text);
    buf_free(&name);
    return ERR_CONFIG;
}

static void keep_place(struct reader *r, const void *member, struct conf_at at)
{
    if (r->defaults) return;
    r->c->places = mem_grow(r->c->places, &r->c->cap_places, r->c->n_places + 1, sizeof *r->c->places);
    r->c->places[r->c->n_places++] = (struct conf_place){member, r->file, at};
}

/* ---- scalars ---- */

/* "'abc'", "a list", "keys and values": what came, in messages. */
static const char *came(char *out, size_t size, const struct tree *t)
{
    if (t->kind == TREE_LIST)
        snprintf(out, size, "a list");
    else if (t->kind == TREE_MAP)
        snprintf(out, size, "keys and values");
    else if (tree_is_null(t))
        snprintf(out, size, *t->text ? "null" : "nothing");
    else
        snprintf(out, size, t->quoted ? "the text \"%.60s\"" : "'%.60s'", t->text);
    return out;
}

static int mistyped(struct reader *r, const struct tree *t, const struct path *path, const char *expected)
{
    char got[128];
    return fail(r, t->at, path, "expected %s, got %s", expected, came(got, sizeof got, t));
}

static int in_range(struct reader *r, const struct conf_field *f, const struct tree *t, const struct path *path,
                    double v)
{
    if ((f->min == 0 && f->max == 0) || (v >= f->min && v <= f->max)) return 0;
    enum conf_type type = f->type;
    char low[64], high[64], expected[200];
    conf_number_text(low, sizeof low, type, f->min);
    conf_number_text(high, sizeof high, type, f->max);
    bool has_high = f->max < 1e300 && !(type == CONF_INT && f->max >= 0x1p62);
    bool has_low = f->min > -1e300;
    if (f->min == CONF_ABOVE_0)
        snprintf(expected, sizeof expected, has_high ? "more than 0 and at most %s" : "more than 0", high);
    else if (has_low && has_high)
        snprintf(expected, sizeof expected, "from %s to %s", low, high);
    else
        snprintf(expected, sizeof expected, has_low ? "at least %s" : "at most %s", has_low ? low : high);
    return fail(r, t->at, path, "expected %s, got %.60s", expected, t->text);
}

static bool parse_double(const struct tree *t, double *v)
{
    if (t->kind != TREE_SCALAR || t->quoted || !*t->text || t->text[strspn(t->text, "0123456789+-.eE")]) return false;
    char *end;
    *v = strtod(t->text, &end);
    return !*end && isfinite(*v);
}

static bool parse_int(const struct tree *t, int64_t *v)
{
    double d;
    if (!parse_double(t, &d)) return false;
    char *end;
    errno = 0;
    *v = strtoll(t->text, &end, 10);
    if (!*end) return !errno;
    if (d != floor(d) || fabs(d) > 0x1p53) return false;
    *v = (int64_t)d;
    return true;
}

static int read_enum(struct reader *r, const struct conf_field *f, const struct tree *t, const struct path *path,
                     int *out)
{
    int n = 0;
    for (; f->choices[n]; n++)
        if (t->kind == TREE_SCALAR && !strcmp(f->choices[n], t->text)) {
            *out = n;
            return 0;
        }
    struct buf b = {0};
    buf_str(&b, n > 1 ? "expected one of " : "expected ");
    for (int i = 0; i < n; i++) buf_printf(&b, "%s%s", i ? ", " : "", f->choices[i]);
    char got[128];
    buf_printf(&b, ", got %s", came(got, sizeof got, t));
    const char *near = t->kind == TREE_SCALAR ? text_nearest(t->text, f->choices, n) : NULL;
    if (near) buf_printf(&b, "; did you mean '%s'?", near);
    int code = fail(r, t->at, path, "%s", b.data);
    buf_free(&b);
    return code;
}

/* One scalar of the type `type` (a list's element has its list's row) into `out`. */
static int read_scalar(struct reader *r, const struct conf_field *f, enum conf_type type, const struct tree *t,
                       const struct path *path, void *out)
{
    double d = 0;
    int64_t i = 0;
    bool scalar = t->kind == TREE_SCALAR;
    switch (type) {
    case CONF_BOOL:
        if (!scalar || t->quoted || (strcmp(t->text, "true") && strcmp(t->text, "false")))
            return mistyped(r, t, path, "true or false");
        *(bool *)out = t->text[0] == 't';
        return 0;
    case CONF_INT:
        if (!parse_int(t, &i)) return mistyped(r, t, path, "a whole number");
        *(int64_t *)out = i;
        return in_range(r, f, t, path, (double)i);
    case CONF_DOUBLE:
        if (!parse_double(t, &d)) return mistyped(r, t, path, "a number");
        *(double *)out = d;
        return in_range(r, f, t, path, d);
    case CONF_DURATION:
        if (!scalar || tree_is_null(t) || text_duration(t->text, &d, NULL))
            return mistyped(r, t, path, "a duration (such as 25ms, 30s, 4m, 1.5h)");
        *(double *)out = d;
        return in_range(r, f, t, path, d);
    case CONF_BYTES:
        if (!scalar || tree_is_null(t) || text_bytes(t->text, &i, NULL))
            return mistyped(r, t, path, "a size (such as 64k, 512MiB, 2GB)");
        *(int64_t *)out = i;
        return in_range(r, f, t, path, (double)i);
    case CONF_STRING: {
        bool none = tree_is_null(t);
        if (none && f->def && !strcmp(f->def, "null"))
            *(const char **)out = NULL;
        else if (none || !scalar)
            return mistyped(r, t, path, "text");
        else
            *(const char **)out = arena_strdup(&r->c->mem, t->text);
        return 0;
    }
    default: return read_enum(r, f, t, path, out);
    }
}

/* ---- lists ---- */

static int check_count(struct reader *r, const struct conf_field *f, const struct tree *t, const struct path *path,
                       int64_t n, int64_t limit)
{
    int64_t most = f->most ? f->most : limit;
    if ((n >= f->least && n <= most) || r->defaults) return 0;
    if (f->least == most) return fail(r, t->at, path, "expected %lld values, got %lld", (long long)most, (long long)n);
    if (n < f->least)
        return fail(r, t->at, path, "expected at least %lld value%s, got %lld", (long long)f->least,
                    f->least == 1 ? "" : "s", (long long)n);
    return fail(r, t->at, path, "expected at most %lld values, got %lld", (long long)most, (long long)n);
}

/* The items of a list; a lone scalar is a list of one. */
static struct tree as_list(const struct tree *t, struct tree_item *one)
{
    if (t->kind == TREE_LIST) return *t;
    *one = (struct tree_item){NULL, t->at, (struct tree *)t};
    return (struct tree){.kind = TREE_LIST, .items = one, .n = 1};
}

static int read_numbers(struct reader *r, const struct conf_field *f, const struct tree *t, const struct path *path,
                        struct list *out)
{
    enum conf_type type = f->type == CONF_INTS ? CONF_INT : f->type == CONF_DOUBLES ? CONF_DOUBLE : CONF_STRING;
    struct tree_item one;
    if (t->kind == TREE_MAP || tree_is_null(t))
        return mistyped(r, t, path,
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
        struct path here = {path, index};
        code = read_scalar(r, f, type, items.items[i].value, t->kind == TREE_LIST ? &here : path, out->v + i * 8);
        keep_place(r, out->v + i * 8, items.items[i].value->at);
    }
    return code;
}

static int read_list(struct reader *r, const struct conf_field *f, const struct tree *t, const struct path *path,
                     struct list *out)
{
    if (t->kind != TREE_LIST) return mistyped(r, t, path, "a list");
    int code = check_count(r, f, t, path, t->n, MAX_STRUCTS);
    out->v = code ? NULL : arena_alloc(&r->c->mem, (size_t)t->n * f->sub->size);
    out->n = t->n;
    for (int64_t i = 0; i < t->n && !code; i++) {
        char index[24];
        snprintf(index, sizeof index, "%lld", (long long)i);
        struct path here = {path, index};
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
static int read_map(struct reader *r, const struct conf_field *f, const struct tree *t, const struct path *path,
                    const char *const *known, int n_known, struct list *out)
{
    if (t->kind != TREE_MAP) return mistyped(r, t, path, "keys and values");
    int code = check_count(r, f, t, path, t->n, MAX_STRUCTS);
    out->v = code ? NULL : arena_alloc(&r->c->mem, (size_t)t->n * f->sub->size);
    out->n = t->n;
    for (int64_t i = 0; i < t->n && !code; i++) {
        const struct tree_item *item = &t->items[i];
        struct path here = {path, item->key};
        char *element = out->v + (size_t)i * f->sub->size;
        if (!is_name(item->key))
            return fail(r, item->at, path, "'%.60s' is no good name; use up to 64 letters, digits, _ and -", item->key);
        *(const char **)element = arena_strdup(&r->c->mem, item->key);
        keep_place(r, element, item->at);
        const char *near = text_nearest(item->key, known, n_known);
        if (near && item->value->kind == TREE_SCALAR && !f->sub->shorthand) {
            char got[128];
            return fail(r, item->at, &here, "expected keys and values, got %s; or did you mean the key '%s'?",
                        came(got, sizeof got, item->value), near);
        }
        code = read_struct(r, f->sub, element, item->value, &here);
    }
    return code;
}

static int read_value(struct reader *r, const struct conf_field *f, const struct tree *t, const struct path *path,
                      char *member)
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
    default: return read_scalar(r, f, f->type, t, path, member);
    }
}

/* ---- structs ---- */

/* A default as a tree. Only text that can be more than a plain scalar costs a parser. */
static struct tree *default_tree(struct reader *r, const struct conf_field *f)
{
    struct conf_at at = {0};
    if (!strpbrk(f->def, "[]{}\"'#&*!|>:\n")) return tree_scalar(r->tmp, f->def, at);
    struct err e = {0};
    struct tree *t = tree_parse(r->tmp, "default", 0, false, f->def, strlen(f->def), &e);
    CHECK_MSG(t, "default of '%s': %s", f->key, e.msg);
    return t;
}

static int missing(struct reader *r, const struct conf_field *f, struct conf_at at, const struct path *path,
                   const char *meant)
{
    struct buf b = {0};
    buf_printf(&b, "the key '%s' is missing", f->key);
    if (f->help) buf_printf(&b, " (%s)", f->help);
    if (meant) buf_printf(&b, "; is it what '%s' means?", meant);
    int code = fail(r, at, path, "%s", b.data);
    buf_free(&b);
    return code;
}

/* The map's rows: the table's own and those of the case that each CONF_SWITCH chose. */
static int gather(struct reader *r, const struct conf_table *t, char *base, const struct tree *map,
                  const struct path *path, struct row *rows, int *n)
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
        struct path here = {path, f->key};
        int code = read_enum(r, f, item ? item->value : default_tree(r, f), &here, &chosen);
        if (!code && f->cases[chosen]) code = gather(r, f->cases[chosen], base + f->cases_at, map, path, rows, n);
        if (code) return code;
    }
    return 0;
}

static int unknown(struct reader *r, const struct tree_item *item, const struct path *path, const char *const *keys,
                   int n)
{
    struct buf where = {0}, b = {0};
    path_text(&where, path);
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
    int code = fail(r, item->at, NULL, "%s", b.data);
    buf_free(&where);
    buf_free(&b);
    return code;
}

/* Every key of the map must have its row; those left go to the "*" row, if there is one, as a map. */
static int match(struct reader *r, const struct tree *map, const struct path *path, struct row *rows, int n,
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
static int choose_case(struct reader *r, const struct tree *map, const struct path *path, const struct row *rows, int n,
                       int first, int *taken)
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
            code = fail(r, late->at, path, "'%s' and '%s' exclude each other; keep one (or set the other to null)",
                        given->f->key, f->key);
        }
        given = &rows[i];
    }
    if (!given) given = otherwise;
    if (!code && !given && !r->defaults) code = fail(r, map->at, path, "expected one of %s", names.data);
    buf_free(&names);
    *taken = given ? (int)(given - rows) : -1;
    if (!code && given) *(int *)(given->base + given->f->tag) = given->f->value;
    return code;
}

/* `rest`: the keys that no row but "*" names; one of them may be a slip for a missing key. */
static int read_row(struct reader *r, const struct tree *map, const struct tree *rest, const struct path *path,
                    const struct row *row)
{
    const struct conf_field *f = row->f;
    char *member = row->base + f->offset;
    struct path here = {path, f->key};
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

static int read_rows(struct reader *r, const struct conf_table *t, char *base, const struct tree *map,
                     const struct path *path)
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
static const struct tree *long_form(struct reader *r, const struct conf_table *t, const struct tree *tree,
                                    const struct path *path)
{
    struct tree *map = arena_alloc(r->tmp, sizeof *map);
    *map = (struct tree){.kind = TREE_MAP, .at = tree->at};
    if (tree->kind == TREE_LIST && t->positional) {
        if (tree->n < 1 || tree->n > t->positional) {
            fail(r, tree->at, path, "expected 1 to %d values, got %lld", t->positional, (long long)tree->n);
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
        mistyped(r, tree, path, shown ? b.data : "keys and values");
        buf_free(&b);
        return NULL;
    }
    return map;
}

static int read_struct(struct reader *r, const struct conf_table *t, char *base, const struct tree *tree,
                       const struct path *path)
{
    if (tree->kind != TREE_MAP && !(tree = long_form(r, t, tree, path))) return ERR_CONFIG;
    int code = read_rows(r, t, base, tree, path);
    if (code || !t->check || r->defaults) return code;
    struct err e = {0};
    code = t->check(base, &e);
    return code ? fail(r, tree->at, path, "%s", e.msg) : 0;
}

/* ---- the room's doors ---- */

int conf_parse(struct conf *c, const char *name, const char *text, size_t len, const char *const *overrides,
               int n_overrides, const struct conf_table *t, void *out, struct err *e)
{
    struct err local = {0};
    struct arena tmp = {0};
    struct reader r = {.c = c, .tmp = &tmp, .e = &local};
    r.file = c->file = arena_strdup(&c->mem, name);
    memset(out, 0, t->size);
    struct tree *tree = tree_parse(&tmp, r.file, 0, true, text, len, &local);
    int code = tree ? 0 : local.code;
    for (int i = 0; i < n_overrides && !code; i++)
        code = tree_override(&tmp, r.file, tree, i + 1, overrides[i], &local);
    if (!code) code = read_struct(&r, t, out, tree, &(struct path){0});
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
    struct reader r = {.c = c, .tmp = &tmp, .file = "default", .defaults = true, .e = &e};
    struct tree map = {.kind = TREE_MAP};
    memset(out, 0, t->size);
    int code = read_struct(&r, t, out, &map, &(struct path){0});
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
