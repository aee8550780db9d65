/* Reads manifests. One pass over the lines; each is parsed by Jansson and copied into the manifest's arena, so nothing
 * of the JSON tree stays. Packs are opened by data/pack.c, which hands the lines back to this file. */
#include "data/manifest.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/rng.h"
#include "base/text.h"
#include "data/pack.h"

#define MAX_MANIFEST ((size_t)8 << 30)
#define MAX_FILE ((size_t)1 << 30)

struct names { /* short lists of strings that many items share: field names, splits, voices */
    const char **name;
    int64_t *count;
    int n;
    size_t cap, count_cap;
};

struct parser {
    struct manifest *m;
    const char *file;
    int64_t line;
    size_t cap;
    struct names shared, splits, entry_splits;
    int64_t *slot; /* open addressing from an id to its item + 1 */
    size_t n_slots;
    manifest_bad_fn *bad;
    void *ctx;
};

static int name_find(const struct names *t, const char *s)
{
    for (int i = 0; i < t->n; i++)
        if (!strcmp(t->name[i], s)) return i;
    return -1;
}

static const char *name_add(struct parser *p, struct names *t, const char *s)
{
    int i = name_find(t, s);
    if (i < 0) {
        i = t->n++;
        t->name = mem_grow(t->name, &t->cap, (size_t)t->n, sizeof *t->name);
        t->count = mem_grow(t->count, &t->count_cap, (size_t)t->n, sizeof *t->count);
        t->name[i] = arena_strdup(&p->m->arena, s);
        t->count[i] = 0;
    }
    t->count[i]++;
    return t->name[i];
}

static void names_free(struct names *t)
{
    free(t->name);
    free(t->count);
}

static int bad_item(const struct parser *p, struct err *e, const char *fmt, ...) PRINTF_LIKE(3, 4);
static int bad_item(const struct parser *p, struct err *e, const char *fmt, ...)
{
    char text[600];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return err_set(e, ERR_FORMAT, "%s:%lld: %s", p->file, (long long)p->line, text);
}

static const char *type_name(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "a list";
    case JSON_STRING: return "a string";
    case JSON_INTEGER:
    case JSON_REAL: return "a number";
    case JSON_NULL: return "null";
    default: return "true or false";
    }
}

static bool looks_like_media(const char *path)
{
    static const char *const ends[] = {".png", ".jpg", ".jpeg", ".wav", ".flac",
                                       ".ogg", ".oga", ".opus", ".mp3", ".aiff"};
    size_t n = strlen(path);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t k = strlen(ends[i]);
        if (n > k && !strcasecmp(path + n - k, ends[i])) return true;
    }
    return false;
}

/* Slots hold item + 1; the table is kept at most half full. */
static void slots_grow(struct parser *p)
{
    size_t n = p->n_slots ? p->n_slots * 2 : 1024;
    free(p->slot);
    p->slot = mem_zero(n, sizeof *p->slot);
    p->n_slots = n;
    for (int64_t i = 0; i < p->m->n; i++) {
        size_t at = hash_str(p->m->item[i].id) & (n - 1);
        while (p->slot[at]) at = (at + 1) & (n - 1);
        p->slot[at] = i + 1;
    }
}

static int read_id(struct parser *p, const json_t *object, struct manifest_item *it, struct err *e)
{
    const json_t *v = json_object_get(object, "id");
    if (v && json_is_string(v))
        it->id = arena_strdup(&p->m->arena, json_string_value(v));
    else if (v && json_is_integer(v))
        it->id = arena_printf(&p->m->arena, "%lld", (long long)json_integer_value(v));
    else if (!v || json_is_null(v))
        it->id = arena_printf(&p->m->arena, "%lld", (long long)p->line);
    else
        return bad_item(p, e, "\"id\" should be a string or a whole number, but it is %s", type_name(v));
    if (!*it->id) return bad_item(p, e, "\"id\" is an empty string: give the item a name or leave \"id\" out");
    if ((size_t)p->m->n * 2 >= p->n_slots) slots_grow(p);
    size_t at = hash_str(it->id) & (p->n_slots - 1);
    for (; p->slot[at]; at = (at + 1) & (p->n_slots - 1)) {
        const struct manifest_item *other = &p->m->item[p->slot[at] - 1];
        if (!strcmp(other->id, it->id))
            return bad_item(p, e, "the id '%s' is already used on line %lld: every item needs its own", it->id,
                            (long long)other->line);
    }
    return 0;
}

/* A split's name, or NULL where there is none. */
static int read_split(struct parser *p, const json_t *object, const char **out, struct err *e)
{
    const json_t *v = json_object_get(object, "split");
    *out = NULL;
    if (!v || json_is_null(v)) return 0;
    if (!json_is_string(v))
        return bad_item(p, e, "\"split\" should be a string such as \"train\", but it is %s", type_name(v));
    const char *s = json_string_value(v);
    if (!*s || !strcmp(s, "all"))
        return bad_item(p, e, "\"split\" is \"%s\", which cannot name a split: call it \"train\", \"valid\"...", s);
    *out = s;
    return 0;
}

static int read_entry(struct parser *p, const char *field, const json_t *v, struct manifest_entry *out, struct err *e)
{
    bool media = !strcmp(field, "image") || !strcmp(field, "audio"), text = !strcmp(field, "text");
    *out = (struct manifest_entry){.offset = -1, .length = -1};
    if (json_is_object(v)) {
        const json_t *file = json_object_get(v, text ? "text" : "file"), *voice = json_object_get(v, "voice");
        const char *split;
        if (!file || !json_is_string(file))
            return bad_item(p, e, "an entry of \"%s\" is an object without a string \"%s\"", field,
                            text ? "text" : "file");
        if (voice && !json_is_null(voice) && !json_is_string(voice))
            return bad_item(p, e, "\"voice\" in \"%s\" should be a string, but it is %s", field, type_name(voice));
        int rc = read_split(p, v, &split, e);
        if (rc) return rc;
        if (voice && json_is_string(voice)) out->voice = name_add(p, &p->shared, json_string_value(voice));
        if (split) out->split = name_add(p, &p->entry_splits, split);
        out->is_file = !text;
        v = file;
    }
    if (!json_is_string(v))
        return bad_item(p, e, "\"%s\" should hold %s, but it holds %s", field, media ? "paths" : "strings",
                        type_name(v));
    out->value = arena_strdup(&p->m->arena, json_string_value(v));
    out->is_file |= media || (!text && looks_like_media(out->value));
    if (out->is_file && !*out->value) return bad_item(p, e, "\"%s\" holds an empty path", field);
    return 0;
}

/* Whether a value is a field's: a string, {"file": ...}, or a list that begins with one. */
static bool is_field(const char *key, const json_t *v)
{
    if (!strcmp(key, "image") || !strcmp(key, "text") || !strcmp(key, "audio")) return !json_is_null(v);
    if (json_is_array(v)) v = json_array_get(v, 0);
    return v && (json_is_string(v) || (json_is_object(v) && json_object_get(v, "file")));
}

static int read_field(struct parser *p, const char *key, json_t *v, struct manifest_item *it, struct err *e)
{
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    if (n == 0) return 0;
    struct manifest_field *f = &it->field[it->n_fields];
    f->name = name_add(p, &p->shared, key);
    f->n = (int)n;
    f->entry = arena_alloc(&p->m->arena, n * sizeof *f->entry);
    for (size_t i = 0; i < n; i++) {
        int rc = read_entry(p, key, json_is_array(v) ? json_array_get(v, i) : v, &f->entry[i], e);
        if (rc) return rc;
    }
    it->n_fields++;
    return 0;
}

static int read_item(struct parser *p, json_t *object, struct err *e)
{
    if (!json_is_object(object))
        return bad_item(
            p, e, "expected a JSON object such as {\"image\": \"a.png\", \"text\": \"a cat\"}, but this line is %s%s",
            type_name(object),
            json_is_array(object) ? "; a manifest is one object a line, without [ ] around them" : "");
    struct manifest_item it = {.line = p->line};
    const char *split;
    int rc = read_id(p, object, &it, e);
    if (!rc) rc = read_split(p, object, &split, e);
    if (rc) return rc;
    const json_t *group = json_object_get(object, "group");
    if (group && json_is_string(group))
        it.group = arena_strdup(&p->m->arena, json_string_value(group));
    else if (group && json_is_integer(group))
        it.group = arena_printf(&p->m->arena, "%lld", (long long)json_integer_value(group));
    else if (group && !json_is_null(group))
        return bad_item(p, e, "\"group\" should be a string or a whole number, but it is %s", type_name(group));
    it.field = arena_alloc(&p->m->arena, json_object_size(object) * sizeof *it.field);
    const char *key;
    json_t *v;
    json_object_foreach(object, key, v)
    {
        if (!strcmp(key, "id") || !strcmp(key, "split") || !strcmp(key, "group") || !is_field(key, v)) continue;
        rc = read_field(p, key, v, &it, e);
        if (rc) return rc;
    }
    if (it.n_fields == 0)
        return bad_item(p, e, "the item '%s' has no picture, text, sound or other field to learn from", it.id);
    struct manifest *m = p->m;
    it.split = name_add(p, &p->splits, split ? split : "train");
    m->item = mem_grow(m->item, &p->cap, (size_t)m->n + 1, sizeof *m->item);
    m->item[m->n++] = it;
    size_t at = hash_str(it.id) & (p->n_slots - 1);
    while (p->slot[at]) at = (at + 1) & (p->n_slots - 1);
    p->slot[at] = m->n;
    return 0;
}

static int read_line(struct parser *p, const char *s, size_t n, struct err *e)
{
    size_t at;
    if (!utf8_valid(s, n, &at))
        return err_set(e, ERR_FORMAT, "%s:%lld:%zu: invalid UTF-8 (byte 0x%02x): save the manifest as UTF-8", p->file,
                       (long long)p->line, at + 1, (unsigned char)s[at]);
    json_error_t je;
    json_t *v = json_loadb(s, n, JSON_REJECT_DUPLICATES, &je);
    if (!v)
        return err_set(e, ERR_FORMAT, "%s:%lld:%d: wrong JSON: %s", p->file, (long long)p->line, je.column, je.text);
    int rc = read_item(p, v, e);
    json_decref(v);
    return rc;
}

static int read_lines(struct parser *p, const char *s, const char *end, struct err *e)
{
    if (end - s >= 3 && !memcmp(s, "\xef\xbb\xbf", 3)) s += 3; /* a byte order mark, which some editors write */
    while (s < end) {
        const char *stop = memchr(s, '\n', (size_t)(end - s));
        if (!stop) stop = end;
        p->line++;
        size_t blank = 0, n = (size_t)(stop - s);
        while (blank < n && (s[blank] == ' ' || s[blank] == '\t' || s[blank] == '\r')) blank++;
        if (blank < n) {
            struct err bad = {0};
            int rc = read_line(p, s, n, p->bad ? &bad : e);
            if (rc && !p->bad) return rc;
            if (rc) p->bad(p->ctx, p->line, bad.msg);
        }
        s = stop < end ? stop + 1 : end;
    }
    return 0;
}

static int parse(const char *name, const char *dir, const char *text, size_t len, struct manifest *m,
                 manifest_bad_fn *bad, void *ctx, struct err *e)
{
    *m = (struct manifest){.path = mem_strdup(name), .dir = mem_strdup(dir), .pack_fd = -1};
    struct parser p = {.m = m, .file = name, .bad = bad, .ctx = ctx};
    int rc = read_lines(&p, text, text + len, e);
    if (!rc && m->n == 0 && !bad)
        rc = err_set(e, ERR_FORMAT, "%s: no items: expected one JSON object a line, such as %s", name,
                     "{\"image\": \"a.png\", \"text\": [\"a cat\"]}");
    m->split = p.splits.name;
    m->split_n = p.splits.count;
    m->n_splits = p.splits.n;
    int held = 0; /* what is left of the entries' splits: those that name no items */
    for (int i = 0; i < p.entry_splits.n; i++)
        if (strcmp(p.entry_splits.name[i], "train") && name_find(&p.splits, p.entry_splits.name[i]) < 0)
            p.entry_splits.name[held++] = p.entry_splits.name[i];
    m->held = p.entry_splits.name;
    m->n_held = held;
    free(p.entry_splits.count);
    names_free(&p.shared);
    free(p.slot);
    if (rc) manifest_free(m);
    return rc;
}

int manifest_parse(const char *name, const char *dir, const char *text, size_t len, struct manifest *m, struct err *e)
{
    return parse(name, dir, text, len, m, NULL, NULL, e);
}

/* The first bytes say whether it is HDF5; its name does not matter. */
static bool is_pack(const char *path)
{
    char head[8] = {0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    ssize_t n = read(fd, head, sizeof head);
    close(fd);
    return n == 8 && !memcmp(head, "\x89HDF\r\n\x1a\n", 8);
}

int manifest_load_lenient(const char *path, struct manifest *m, manifest_bad_fn *bad, void *ctx, struct err *e)
{
    *m = (struct manifest){.pack_fd = -1};
    char *text = NULL, *dir = file_dirname(path);
    size_t len = 0;
    struct pack pack = {.fd = -1};
    bool packed = is_pack(path), named = strlen(path) > 3 && !strcmp(path + strlen(path) - 3, ".h5");
    if (named && !packed && file_exists(path)) {
        free(dir);
        return err_set(e, ERR_FORMAT,
                       "%s: not a pack: it does not begin as HDF5 files do; make it with 'triad data pack'", path);
    }
    int rc = packed ? pack_open(path, &pack, &text, &len, e) : file_read(path, MAX_MANIFEST, &text, &len, e);
    if (rc)
        err_append(e,
                   packed || file_exists(path) ? "" : " (the manifest; check the path, or make it with 'triad data')");
    if (!rc) rc = parse(path, dir, text, len, m, bad, ctx, e);
    if (!rc && packed) rc = pack_attach(&pack, m, e);
    if (rc) manifest_free(m);
    pack_free(&pack);
    free(text);
    free(dir);
    return rc;
}

int manifest_load(const char *path, struct manifest *m, struct err *e)
{
    return manifest_load_lenient(path, m, NULL, NULL, e);
}

void manifest_free(struct manifest *m)
{
    if (m->path && m->pack_fd >= 0) close(m->pack_fd);
    free(m->path);
    free(m->dir);
    free(m->item);
    free(m->split);
    free(m->split_n);
    free(m->held);
    arena_free(&m->arena);
    *m = (struct manifest){.pack_fd = -1};
}

static bool is_held(const struct manifest *m, const char *split)
{
    for (int i = 0; i < m->n_held; i++)
        if (!strcmp(m->held[i], split)) return true;
    return false;
}

static bool has_entry_of(const struct manifest_item *it, const char *split)
{
    for (int f = 0; f < it->n_fields; f++)
        for (int i = 0; i < it->field[f].n; i++) {
            const char *s = it->field[f].entry[i].split;
            if (s && !strcmp(s, split)) return true;
        }
    return false;
}

static int no_split(const struct manifest *m, const char *split, struct err *e)
{
    err_set(e, ERR_CONFIG, "%s: no items of split '%s'; it has", m->path, split);
    for (int i = 0; i < m->n_splits; i++)
        err_append(e, "%s '%s' (%lld)", i ? "," : "", m->split[i], (long long)m->split_n[i]);
    for (int i = 0; i < m->n_held; i++) err_append(e, ", '%s' (held-out entries)", m->held[i]);
    const char *near = text_nearest(split, m->split, m->n_splits);
    if (!near) near = text_nearest(split, m->held, m->n_held);
    if (near) err_append(e, "; did you mean '%s'?", near);
    return ERR_CONFIG;
}

int manifest_select(const struct manifest *m, const char *split, int64_t **items, int64_t *n, struct err *e)
{
    bool all = !split || !strcmp(split, "all"), held = !all && is_held(m, split);
    int64_t *out = mem_alloc((size_t)m->n * sizeof *out), k = 0;
    for (int64_t i = 0; i < m->n; i++) {
        const struct manifest_item *it = &m->item[i];
        if (all || (held ? !strcmp(it->split, "train") && has_entry_of(it, split) : !strcmp(it->split, split)))
            out[k++] = i;
    }
    *items = out;
    *n = k;
    if (k) return 0;
    free(out);
    *items = NULL;
    return no_split(m, all ? "all" : split, e);
}

const struct manifest_field *manifest_field(const struct manifest_item *item, const char *name)
{
    for (int i = 0; i < item->n_fields; i++)
        if (!strcmp(item->field[i].name, name)) return &item->field[i];
    return NULL;
}

int64_t manifest_count(const struct manifest *m, const char *field)
{
    int64_t n = 0;
    for (int64_t i = 0; i < m->n; i++) n += manifest_field(&m->item[i], field) != NULL;
    return n;
}

int manifest_use(const struct manifest *m, const struct manifest_field *f, const char *split, int *index)
{
    if (!split) split = "train";
    bool held = is_held(m, split);
    int n = 0;
    for (int i = 0; i < f->n; i++)
        if (f->entry[i].split && !strcmp(f->entry[i].split, split)) index[n++] = i;
    if (held && n) return n;
    n = 0;
    for (int i = 0; i < f->n; i++) {
        const char *s = f->entry[i].split;
        if (!s || (!held && (!strcmp(s, "train") || !strcmp(s, split)))) index[n++] = i;
    }
    return n;
}

struct manifest_entry *manifest_next_file(const struct manifest *m, struct manifest_walk *w)
{
    if (w->started) w->entry++;
    w->started = true;
    for (; w->item < m->n; w->item++, w->field = 0)
        for (; w->field < m->item[w->item].n_fields; w->field++, w->entry = 0) {
            const struct manifest_field *f = &m->item[w->item].field[w->field];
            for (; w->entry < f->n; w->entry++)
                if (f->entry[w->entry].is_file) return &f->entry[w->entry];
        }
    return NULL;
}

int manifest_bytes(const struct manifest *m, const struct manifest_entry *entry, char **data, size_t *len,
                   struct err *e)
{
    *data = NULL;
    *len = 0;
    if (m->pack_fd >= 0) return pack_read(m, entry, data, len, e);
    char *path = file_join(m->dir, entry->value);
    int rc = file_read(path, MAX_FILE, data, len, e);
    free(path);
    return rc;
}

int manifest_open(const struct manifest *m, const struct manifest_entry *entry, struct manifest_file *f, struct err *e)
{
    *f = (struct manifest_file){.fd = m->pack_fd, .offset = entry->offset, .length = entry->length};
    if (m->pack_fd >= 0) return pack_has(m, entry, e);
    char *path = file_join(m->dir, entry->value);
    struct stat s;
    int rc = 0;
    f->own = true;
    f->offset = 0;
    f->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (f->fd < 0 || fstat(f->fd, &s)) rc = err_errno(e, "%s: cannot be opened", path);
    if (!rc) f->length = s.st_size;
    if (rc && f->fd >= 0) close(f->fd);
    free(path);
    return rc;
}

void manifest_close(struct manifest_file *f)
{
    if (f->own) close(f->fd);
}
