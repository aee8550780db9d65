/* YAML text into a tree, through libfyaml's event parser. libfyaml's own document tree is not used: it prints, takes
 * duplicate keys apart later than wanted, and several of its known crashes are there and in its drawing of source
 * lines. */
#include "base/conf_tree.h"

#include <libfyaml.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/text.h"

struct builder {
    struct arena *mem;
    const char *file;
    int override;
    struct fy_parser *parser;
    struct fy_diag *diag;
    struct tree_item *anchors; /* key: the anchor's name */
    size_t n_anchors, cap_anchors;
    int64_t nodes; /* aliases count as what they stand for */
    struct err *e;
};

const char *conf_at_text(char *out, size_t size, const char *file, struct conf_at at)
{
    if (at.override)
        snprintf(out, size, "%s: override %d", file, at.override);
    else if (at.line)
        snprintf(out, size, "%s:%d:%d", file, at.line, at.col);
    else
        snprintf(out, size, "%s", file);
    return out;
}

/* Records the error with its place in front; NULL, to be returned. */
static void *fail(struct builder *b, struct conf_at at, const char *fmt, ...) PRINTF_LIKE(3, 4);
static void *fail(struct builder *b, struct conf_at at, const char *fmt, ...)
{
    char place[512], text[sizeof b->e->msg];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    err_set(b->e, ERR_CONFIG, "%s: %s", conf_at_text(place, sizeof place, b->file, at), text);
    return NULL;
}

struct tree *tree_scalar(struct arena *mem, const char *text, struct conf_at at)
{
    struct tree *t = arena_alloc(mem, sizeof *t);
    t->kind = TREE_SCALAR;
    t->at = at;
    t->text = arena_strdup(mem, text);
    t->weight = 1;
    return t;
}

void tree_add(struct arena *mem, struct tree *parent, const char *key, struct conf_at at, struct tree *value)
{
    if ((size_t)parent->n == parent->cap) {
        parent->cap = parent->cap ? 2 * parent->cap : 8;
        struct tree_item *items = arena_alloc(mem, parent->cap * sizeof *items);
        if (parent->n) memcpy(items, parent->items, (size_t)parent->n * sizeof *items);
        parent->items = items;
    }
    parent->items[parent->n++] = (struct tree_item){key, at, value};
    parent->weight += value->weight;
}

struct tree_item *tree_find(const struct tree *map, const char *key)
{
    for (int64_t i = 0; i < map->n; i++)
        if (!strcmp(map->items[i].key, key)) return &map->items[i];
    return NULL;
}

bool tree_is_null(const struct tree *t)
{
    if (t->kind != TREE_SCALAR || t->quoted) return false;
    return !*t->text || !strcmp(t->text, "~") || !strcmp(t->text, "null") || !strcmp(t->text, "Null") ||
           !strcmp(t->text, "NULL");
}

static struct conf_at mark_at(const struct builder *b, const struct fy_mark *m, struct conf_at otherwise)
{
    if (b->override) return (struct conf_at){.override = b->override};
    return m ? (struct conf_at){m->line + 1, m->column + 1, 0} : otherwise;
}

/* Where an event begins. libfyaml's marks of quoted texts and aliases stand behind the quote and the star. */
static struct conf_at event_at(const struct builder *b, struct fy_event *ev, struct conf_at otherwise)
{
    struct conf_at at = mark_at(b, fy_event_start_mark(ev), otherwise);
    bool quote = false;
    if (ev->type == FYET_SCALAR && ev->scalar.value) {
        enum fy_scalar_style style = fy_token_scalar_style(ev->scalar.value);
        quote = style == FYSS_SINGLE_QUOTED || style == FYSS_DOUBLE_QUOTED;
    }
    if ((quote || ev->type == FYET_ALIAS) && at.col > 1) at.col--;
    return at;
}

/* A token's text in the arena; NULL where it holds a 0 byte. */
static const char *token_text(struct builder *b, struct fy_token *token)
{
    size_t n = 0;
    const char *s = token ? fy_token_get_text(token, &n) : "";
    if (!s) n = 0;
    if (n && memchr(s, 0, n)) return NULL;
    char *copy = arena_alloc(b->mem, n + 1);
    if (n) memcpy(copy, s, n);
    return copy;
}

static void *yaml_error(struct builder *b)
{
    void *walk = NULL;
    struct fy_diag_error *d;
    while ((d = fy_diag_errors_iterate(b->diag, &walk)))
        if (d->type == FYET_ERROR && d->msg) {
            struct conf_at at = b->override
                                    ? (struct conf_at){.override = b->override}
                                    : (struct conf_at){d->line > 0 ? d->line : 1, d->column > 0 ? d->column : 1, 0};
            return fail(b, at, "this is not YAML: %s", d->msg);
        }
    struct conf_at at = {.override = b->override};
    return fail(b, at, "this is not YAML");
}

/* The next event, which the caller frees; NULL with an error. */
static struct fy_event *next(struct builder *b)
{
    struct fy_event *ev = fy_parser_parse(b->parser);
    if (!ev) yaml_error(b);
    return ev;
}

static struct tree *build(struct builder *b, struct fy_event *ev, struct conf_at near, int depth);

/* `<<: *base` gives the keys of `base` that the map itself has not. */
static struct tree *merge(struct builder *b, struct tree *map)
{
    struct tree_item *from = tree_find(map, "<<");
    if (!from) return map;
    struct tree_item m = *from;
    memmove(from, from + 1, (size_t)(map->items + map->n - (from + 1)) * sizeof *from);
    map->n--;
    struct tree_item one = {NULL, m.at, m.value};
    struct tree list = {.items = &one, .n = 1};
    if (m.value->kind == TREE_LIST) list = *m.value;
    for (int64_t i = 0; i < list.n; i++) {
        const struct tree *base = list.items[i].value;
        if (base->kind != TREE_MAP)
            return fail(b, list.items[i].at, "'<<' takes a map, as in `<<: *base` with `&base` written at a map above");
        for (int64_t k = 0; k < base->n; k++)
            if (!tree_find(map, base->items[k].key))
                tree_add(b->mem, map, base->items[k].key, base->items[k].at, base->items[k].value);
    }
    return map;
}

/* Keys and values up to the event that ends the map or list. */
static struct tree *build_items(struct builder *b, struct tree *t, enum fy_event_type end, int depth)
{
    for (;;) {
        struct fy_event *ev = next(b);
        if (!ev) return NULL;
        if (ev->type == end) {
            fy_parser_event_free(b->parser, ev);
            return t->kind == TREE_MAP ? merge(b, t) : t;
        }
        const char *key = NULL;
        struct conf_at at = event_at(b, ev, t->at);
        if (t->kind == TREE_MAP) {
            bool plain = ev->type == FYET_SCALAR && !ev->scalar.tag && !ev->scalar.anchor;
            if (plain) key = token_text(b, ev->scalar.value);
            fy_parser_event_free(b->parser, ev);
            if (!key || !*key) return fail(b, at, "a key must be a plain name");
            struct tree_item *twice = tree_find(t, key);
            if (twice && b->override) return fail(b, at, "key '%s' is given twice", key);
            if (twice) return fail(b, at, "key '%s' is given twice; the first is in line %d", key, twice->at.line);
            if (!(ev = next(b))) return NULL;
        }
        struct tree *value = build(b, ev, at, depth + 1);
        fy_parser_event_free(b->parser, ev);
        if (!value) return NULL;
        tree_add(b->mem, t, key, t->kind == TREE_LIST ? value->at : at, value);
    }
}

static struct tree *resolve(struct builder *b, struct fy_token *token, struct conf_at at)
{
    const char *name = token_text(b, token);
    for (size_t i = b->n_anchors; name && i-- > 0;) /* the latest of a name counts */
        if (!strcmp(b->anchors[i].key, name)) {
            struct tree *t = b->anchors[i].value;
            if ((b->nodes += t->weight) > TREE_MAX_NODES) return fail(b, at, "the aliases unfold to too much");
            return t;
        }
    return fail(b, at, "alias '*%s' has no complete '&%s' above it", name ? name : "", name ? name : "");
}

static struct tree *build(struct builder *b, struct fy_event *ev, struct conf_at near, int depth)
{
    struct conf_at at = event_at(b, ev, near);
    struct fy_token *anchor, *tag;
    struct tree *t = arena_alloc(b->mem, sizeof *t);
    t->at = at;
    t->weight = 1;
    if (++b->nodes > TREE_MAX_NODES) return fail(b, at, "more than %d values", TREE_MAX_NODES);
    if (depth > CONF_MAX_DEPTH) return fail(b, at, "nested more than %d deep", CONF_MAX_DEPTH);
    switch (ev->type) {
    case FYET_ALIAS: return resolve(b, ev->alias.anchor, at);
    case FYET_SCALAR:
        anchor = ev->scalar.anchor;
        tag = ev->scalar.tag;
        t->kind = TREE_SCALAR;
        t->quoted = ev->scalar.value && fy_token_scalar_style(ev->scalar.value) != FYSS_PLAIN;
        t->text = token_text(b, ev->scalar.value);
        if (!t->text) return fail(b, at, "the text holds a 0 byte");
        break;
    case FYET_SEQUENCE_START:
        anchor = ev->sequence_start.anchor;
        tag = ev->sequence_start.tag;
        t->kind = TREE_LIST;
        break;
    case FYET_MAPPING_START:
        anchor = ev->mapping_start.anchor;
        tag = ev->mapping_start.tag;
        t->kind = TREE_MAP;
        break;
    default: return fail(b, at, "expected a value");
    }
    if (tag) return fail(b, mark_at(b, fy_token_start_mark(tag), at), "YAML tags (!...) are not used here; remove it");
    const char *name = anchor ? token_text(b, anchor) : NULL; /* before the token goes with its event */
    if (t->kind != TREE_SCALAR)
        t = build_items(b, t, t->kind == TREE_MAP ? FYET_MAPPING_END : FYET_SEQUENCE_END, depth);
    if (t && name) {
        b->anchors = mem_grow(b->anchors, &b->cap_anchors, b->n_anchors + 1, sizeof *b->anchors);
        b->anchors[b->n_anchors++] = (struct tree_item){name, t->at, t};
    }
    return t;
}

/* The one document of the stream; an empty stream gives NULL without an error. */
static struct tree *build_document(struct builder *b)
{
    struct tree *root = NULL;
    for (;;) {
        struct fy_event *ev = next(b);
        if (!ev) return NULL;
        enum fy_event_type type = ev->type;
        struct conf_at at = mark_at(b, fy_event_start_mark(ev), (struct conf_at){1, 1, b->override});
        bool content = type != FYET_STREAM_START && type != FYET_STREAM_END && type != FYET_DOCUMENT_START &&
                       type != FYET_DOCUMENT_END;
        bool failed = false;
        if (type == FYET_DOCUMENT_START && root) {
            fail(b, at, "a second document begins here; one is expected");
            failed = true;
        } else if (content) {
            root = build(b, ev, at, 0);
            failed = !root;
        }
        fy_parser_event_free(b->parser, ev);
        if (failed) return NULL;
        if (type == FYET_STREAM_END) return root;
    }
}

/* What libfyaml must not meet: bytes that are no UTF-8, control characters. Carriage returns, over which it is known to
 * trip, become spaces or line breaks in the copy that is parsed. */
static char *clean_copy(struct builder *b, const char *text, size_t len)
{
    size_t bad = 0;
    char *copy = arena_alloc(b->mem, len + 64), *to = copy;
    int line = 1, col = 1;
    bool valid = utf8_valid(text, len, &bad);
    if (valid) bad = len;
    for (size_t i = 0; i < bad; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '\r' && i + 1 < len && text[i + 1] == '\n') continue;
        if (c == '\r') c = '\n';
        if ((c < 32 && c != '\n' && c != '\t') || c == 127) {
            struct conf_at at = {b->override ? 0 : line, col, b->override};
            return fail(b, at, "a control character (byte 0x%02x)", c);
        }
        *to++ = (char)c;
        if (c == '\n') {
            line++;
            col = 1;
        } else if ((c & 0xc0) != 0x80) {
            col++;
        }
    }
    struct conf_at at = {b->override ? 0 : line, col, b->override};
    if (!valid)
        return fail(b, at, "this is not UTF-8 text (byte 0x%02x)%s", (unsigned char)text[bad],
                    b->override ? "" : "; save the file as UTF-8");
    return copy;
}

static void ignore_output(struct fy_diag *d, void *user, const char *buf, size_t len) {}

struct tree *tree_parse(struct arena *mem, const char *file, int override, bool top, const char *text, size_t len,
                        struct err *e)
{
    struct err local = {0};
    struct builder b = {.mem = mem, .file = file, .override = override, .e = &local};
    struct conf_at start = {override ? 0 : 1, 1, override};
    struct tree *root = NULL;
    char *copy = NULL;
    if (len > CONF_MAX_BYTES)
        fail(&b, start, "larger than %d bytes; is this a configuration?", CONF_MAX_BYTES);
    else
        copy = clean_copy(&b, text, len);
    if (copy) {
        struct fy_diag_cfg silent = {.output_fn = ignore_output, .level = FYET_ERROR, .module_mask = ~0u};
        b.diag = fy_diag_create(&silent);
        CHECK(b.diag);
        fy_diag_set_collect_errors(b.diag, true);
        struct fy_parse_cfg cfg = {.flags = FYPCF_QUIET | FYPCF_COLLECT_DIAG | FYPCF_DISABLE_MMAP_OPT, .diag = b.diag};
        b.parser = fy_parser_create(&cfg);
        CHECK(b.parser);
        CHECK(!fy_parser_set_string(b.parser, copy, strlen(copy)));
        root = build_document(&b);
        fy_parser_destroy(b.parser);
        fy_diag_destroy(b.diag);
    }
    free(b.anchors);
    bool empty = !local.code && (!root || (top && tree_is_null(root)));
    if (empty && top) fail(&b, start, "the file is empty; expected keys and values");
    if (empty && !top) root = tree_scalar(mem, "", start);
    if (!local.code && top && root->kind != TREE_MAP) fail(&b, root->at, "expected keys and values (`key: value`)");
    if (!local.code) return root;
    err_set(e, local.code, "%s", local.msg);
    return NULL;
}

/* A node of its own, so that a change does not reach the other places where an alias stands for it. */
static struct tree *own_copy(struct arena *mem, const struct tree *t)
{
    struct tree *copy = arena_alloc(mem, sizeof *copy);
    *copy = *t;
    copy->items = arena_alloc(mem, (t->cap ? t->cap : 1) * sizeof *copy->items);
    copy->cap = t->cap ? t->cap : 1;
    if (t->n) memcpy(copy->items, t->items, (size_t)t->n * sizeof *copy->items);
    return copy;
}

/* The item `key` of *t: a map gets it if it has none, a list takes an index or the index just past its end. */
static struct tree_item *step(struct builder *b, struct tree *t, const char *key)
{
    struct conf_at at = {.override = b->override};
    if (t->kind == TREE_MAP) {
        struct tree_item *item = tree_find(t, key);
        if (item) return item;
    } else {
        char *end;
        long i = key[0] >= '0' && key[0] <= '9' ? strtol(key, &end, 10) : -1;
        if (i < 0 || *end || i > t->n)
            return fail(b, at, "'%s' is no element of a list of %lld; the first is 0, and %lld adds one", key,
                        (long long)t->n, (long long)t->n);
        if (i < t->n) return &t->items[i];
        key = NULL;
    }
    tree_add(b->mem, t, key, at, tree_scalar(b->mem, "", at));
    return &t->items[t->n - 1];
}

int tree_override(struct arena *mem, const char *file, struct tree *root, int number, const char *text, struct err *e)
{
    struct conf_at at = {.override = number};
    struct err local = {0};
    struct builder b = {.mem = mem, .file = file, .override = number, .e = &local};
    const char *eq = strchr(text, '=');
    if (!eq || eq == text) {
        fail(&b, at, "expected key=value, got '%s'", text);
        return err_set(e, local.code, "%s", local.msg);
    }
    struct tree *value = tree_parse(mem, file, number, false, eq + 1, strlen(eq + 1), &local);
    char *path = arena_printf(mem, "%.*s", (int)(eq - text), text), *rest = path;
    struct tree *t = value ? root : NULL;
    for (int depth = 0; t; depth++) {
        char *key = strsep(&rest, ".");
        if (!*key || depth > CONF_MAX_DEPTH || !utf8_valid(key, strlen(key), NULL)) {
            fail(&b, at, "'%.*s' is no key; expected names joined by dots", (int)(eq - text), text);
            break;
        }
        struct tree_item *item = step(&b, t, key);
        if (!item) break;
        item->at = at;
        if (!rest) {
            item->value = value;
            break;
        }
        /* A scalar on the way gives room to a map: `decay=cosine` first, `decay.steps=5` over it. */
        t = own_copy(mem, item->value);
        if (t->kind == TREE_SCALAR) *t = (struct tree){.kind = TREE_MAP, .at = at, .weight = 1};
        item->value = t;
    }
    return local.code ? err_set(e, local.code, "%s", local.msg) : 0;
}
