/* The emoji list: Unicode's emoji-test.txt, and names and keywords from CLDR's annotations (XML, read with expat). */
#include "data/emoji_parts.h"

#include <expat.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/rng.h"
#include "base/text.h"

#define MAX_SOURCE ((size_t)64 << 20)

static bool is_tone(uint32_t cp)
{
    return cp >= 0x1F3FB && cp <= 0x1F3FF;
}

/* One language's annotations: from an emoji without U+FE0F to its name and its keywords. */
struct note {
    const char *emoji, *name, *keys; /* name and keys may be NULL */
};

struct notes {
    struct note *slot; /* open addressing */
    size_t n_slots, used;
    struct arena *arena;
};

static struct note *note_at(struct notes *t, const char *emoji)
{
    size_t at = hash_str(emoji) & (t->n_slots - 1);
    while (t->slot[at].emoji && strcmp(t->slot[at].emoji, emoji)) at = (at + 1) & (t->n_slots - 1);
    return &t->slot[at];
}

static struct note *note_add(struct notes *t, const char *emoji)
{
    if (t->used * 2 >= t->n_slots) {
        struct notes old = *t;
        t->n_slots = old.n_slots ? old.n_slots * 2 : 8192;
        t->slot = mem_zero(t->n_slots, sizeof *t->slot);
        for (size_t i = 0; i < old.n_slots; i++)
            if (old.slot[i].emoji) *note_at(t, old.slot[i].emoji) = old.slot[i];
        free(old.slot);
    }
    struct note *n = note_at(t, emoji);
    if (!n->emoji) {
        n->emoji = arena_strdup(t->arena, emoji);
        t->used++;
    }
    return n;
}

/* Copies `s` without U+FE0F, and without skin tones where `tones` is not NULL; counts those. */
static void strip(const char *s, struct buf *out, int *tones)
{
    for (const char *end = s + strlen(s); s < end;) {
        uint32_t cp;
        int k = utf8_next(s, end, &cp);
        if (k == 0) {
            cp = 0;
            k = 1;
        }
        bool tone = tones && is_tone(cp);
        if (tone) ++*tones;
        if (cp != 0xFE0F && !tone) buf_add(out, s, (size_t)k);
        s += k;
    }
    buf_str(out, "");
}

/* "a | b | c" -> "a, b, c". */
static char *join_keywords(struct arena *a, const char *s)
{
    struct buf b = {0};
    while (*s) {
        size_t n = strcspn(s, "|"), from = strspn(s, " \t\n"), to = n;
        while (to > from && strchr(" \t\n", s[to - 1])) to--;
        if (b.len) buf_str(&b, ", ");
        if (to > from) buf_add(&b, s + from, to - from);
        s += s[n] ? n + 1 : n;
    }
    char *out = arena_strdup(a, b.data ? b.data : "");
    buf_free(&b);
    return out;
}

struct xml {
    struct notes *notes;
    struct buf emoji, text;
    bool inside, is_name;
};

static void XMLCALL on_start(void *ctx, const char *tag, const char **attr)
{
    struct xml *x = ctx;
    if (strcmp(tag, "annotation")) return;
    x->inside = true;
    x->is_name = false;
    x->emoji.len = x->text.len = 0;
    for (; *attr; attr += 2) {
        if (!strcmp(attr[0], "cp")) strip(attr[1], &x->emoji, NULL);
        if (!strcmp(attr[0], "type")) x->is_name = !strcmp(attr[1], "tts");
    }
}

static void XMLCALL on_text(void *ctx, const char *s, int n)
{
    struct xml *x = ctx;
    if (x->inside) buf_add(&x->text, s, (size_t)n);
}

static void XMLCALL on_end(void *ctx, const char *tag)
{
    struct xml *x = ctx;
    if (!x->inside || strcmp(tag, "annotation")) return;
    x->inside = false;
    /* three arrows say "as in the parent language", which is already in the table */
    if (!x->emoji.len || !x->text.len || !strcmp(x->text.data, "↑↑↑")) return;
    struct note *n = note_add(x->notes, x->emoji.data);
    if (x->is_name)
        n->name = arena_strdup(x->notes->arena, x->text.data);
    else
        n->keys = join_keywords(x->notes->arena, x->text.data);
}

static int read_xml(const char *path, struct notes *t, uint64_t *hash, struct err *e)
{
    char *data;
    size_t len;
    int rc = file_read(path, MAX_SOURCE, &data, &len, e);
    if (rc) return rc;
    *hash = hash_bytes(data, len, *hash);
    struct xml x = {.notes = t};
    XML_Parser p = XML_ParserCreate("UTF-8");
    CHECK(p);
    XML_SetUserData(p, &x);
    XML_SetElementHandler(p, on_start, on_end);
    XML_SetCharacterDataHandler(p, on_text);
    if (XML_Parse(p, data, (int)len, 1) != XML_STATUS_OK)
        rc = err_set(e, ERR_FORMAT, "%s:%lu: %s; reinstall it: apt-get install --reinstall unicode-cldr-core", path,
                     (unsigned long)XML_GetCurrentLineNumber(p), XML_ErrorString(XML_GetErrorCode(p)));
    XML_ParserFree(p);
    buf_free(&x.emoji);
    buf_free(&x.text);
    free(data);
    return rc;
}

static int no_language(const char *language, struct err *e)
{
    char **names = NULL;
    int n = 0;
    struct err quiet = {0};
    if (file_list(EMOJI_CLDR "/annotations", &names, &n, &quiet) || n == 0)
        return err_set(e, ERR_IO, "%s/annotations: not found; install it: apt-get install unicode-cldr-core",
                       EMOJI_CLDR);
    err_set(e, ERR_CONFIG, "unknown language '%s': %s/annotations has no %s.xml", language, EMOJI_CLDR, language);
    for (int i = 0; i < n; i++) names[i][strcspn(names[i], ".")] = 0;
    const char *near = text_nearest(language, (const char *const *)names, n);
    if (near) err_append(e, "; did you mean '%s'?", near);
    err_append(e, " Languages that begin alike:");
    for (int i = 0, k = 0; i < n; i++)
        if (names[i][0] == language[0] && strcmp(names[i], "root")) err_append(e, "%s %s", k++ ? "," : "", names[i]);
    file_list_free(names, n);
    return ERR_CONFIG;
}

/* Reads a language after its parent: "es_MX" after "es"; a script ("zh_Hant") has no parent. */
static int read_language(const char *language, struct notes *t, uint64_t *hash, struct err *e)
{
    const char *cut = strrchr(language, '_');
    int rc = 0;
    if (cut && strlen(cut + 1) != 4) {
        char *parent = mem_strndup(language, (size_t)(cut - language));
        rc = read_language(parent, t, hash, e);
        free(parent);
    }
    static const char *const folders[] = {"annotations", "annotationsDerived"};
    for (int i = 0; i < 2 && !rc; i++) {
        char *path = mem_printf("%s/%s/%s.xml", EMOJI_CLDR, folders[i], language);
        if (i == 0 && (!*language || strchr(language, '/') || !file_exists(path)))
            rc = no_language(language, e);
        else if (file_exists(path))
            rc = read_xml(path, t, hash, e);
        free(path);
    }
    return rc;
}

const char *emoji_split(const char *base, const char *plain, int tones)
{
    uint64_t concept = hash_bytes(base, strlen(base), hash_str("concept:"));
    uint64_t composition = hash_bytes(plain, strlen(plain), hash_str("composition:"));
    return concept % 10 == 0 ? "concepts" : tones && composition % 5 == 0 ? "compositions" : "train";
}

/* "1F44B 1F3FB  ; fully-qualified  # 👋🏻 E1.0 waving hand: light skin tone": `name` gets the place of the name. */
static bool read_row(const char *line, struct buf *text, struct buf *id, const char **name)
{
    const char *semi = strchr(line, ';'), *mark = strstr(line, "# ");
    if (!semi || !mark || !strstr(line, "; fully-qualified")) return false;
    text->len = id->len = 0;
    for (const char *s = line; s < semi;) {
        char *end, utf8[4];
        unsigned long cp = strtoul(s, &end, 16);
        if (end == s || end > semi) break;
        buf_add(text, utf8, (size_t)utf8_put((uint32_t)cp, utf8));
        if (cp != 0xFE0F) buf_printf(id, "%s%lx", id->len ? "-" : "", cp);
        s = end;
    }
    const char *after = strchr(mark + 2, ' ');                    /* the emoji itself, */
    if (after && after[1] == 'E') after = strchr(after + 1, ' '); /* the version that brought it */
    *name = after ? after + 1 : mark + 2;
    return text->len > 0;
}

static void add_caption(struct emoji *m, const char *s, int english)
{
    if (!s || !*s) return;
    for (int i = 0; i < m->n_captions && !english; i++)
        if (!strcmp(m->caption[i], s)) return; /* many languages leave a few names in English */
    m->caption[m->n_captions++] = s;
}

static int read_list(struct emoji_list *list, struct notes *notes, int n_notes, int64_t limit, struct err *e)
{
    char *data;
    size_t len, cap = 0;
    if (!file_exists(EMOJI_LIST))
        return err_set(e, ERR_IO, "%s: not found; install it: apt-get install unicode-data", EMOJI_LIST);
    int rc = file_read(EMOJI_LIST, MAX_SOURCE, &data, &len, e);
    if (rc) return rc;
    list->sources = hash_bytes(data, len, list->sources);
    struct buf text = {0}, id = {0}, plain = {0}, base = {0};
    struct arena *a = &list->arena;
    for (char *line = data, *next; line && (!limit || list->n < limit); line = next) {
        next = strchr(line, '\n');
        if (next) *next++ = 0;
        const char *name;
        if (!read_row(line, &text, &id, &name)) continue;
        plain.len = base.len = 0;
        struct emoji m = {0};
        strip(text.data, &plain, NULL);
        strip(plain.data, &base, &m.tones);
        m.text = arena_strdup(a, text.data);
        m.plain = arena_strdup(a, plain.data);
        m.base = arena_strdup(a, base.data);
        m.id = arena_strdup(a, id.data);
        m.split = emoji_split(m.base, m.plain, m.tones);
        m.hash = hash_bytes(m.plain, plain.len, hash_str("voice:"));
        m.caption = arena_alloc(a, (size_t)n_notes * 2 * sizeof *m.caption);
        for (int i = 0; i < n_notes; i++) {
            const struct note *n = note_at(&notes[i], m.plain);
            add_caption(&m, n->name ? n->name : i == 0 ? arena_strdup(a, name) : NULL, i == 0);
            add_caption(&m, n->keys, i == 0);
        }
        list->item = mem_grow(list->item, &cap, (size_t)list->n + 1, sizeof *list->item);
        list->item[list->n++] = m;
    }
    if (list->n == 0)
        rc = err_set(e, ERR_FORMAT, "%s: no fully-qualified emoji in it; reinstall unicode-data", EMOJI_LIST);
    buf_free(&text);
    buf_free(&id);
    buf_free(&plain);
    buf_free(&base);
    free(data);
    return rc;
}

int emoji_list_load(const char *languages, int64_t limit, struct emoji_list *list, struct err *e)
{
    enum { MAX_LANGUAGES = 200 };
    *list = (struct emoji_list){.sources = HASH_START};
    struct notes *notes = mem_zero(MAX_LANGUAGES, sizeof *notes);
    char *copy = mem_strdup(languages ? languages : "en"), *rest = copy, *name;
    notes[0].arena = &list->arena;
    int rc = read_language("en", &notes[0], &list->sources, e), n = 1;
    while (!rc && (name = strsep(&rest, ",")) != NULL) {
        while (*name == ' ') name++;
        name[strcspn(name, " ")] = 0;
        for (char *c = name; *c; c++)
            if (*c == '-') *c = '_';
        if (!strcmp(name, "en")) continue;
        if (n == MAX_LANGUAGES)
            rc = err_set(e, ERR_CONFIG, "more than %d languages", MAX_LANGUAGES);
        else {
            notes[n].arena = &list->arena;
            rc = read_language(name, &notes[n++], &list->sources, e);
        }
    }
    if (!rc) rc = read_list(list, notes, n, limit, e);
    for (int i = 0; i < n; i++) free(notes[i].slot);
    free(notes);
    free(copy);
    if (rc) emoji_list_free(list);
    return rc;
}

void emoji_list_free(struct emoji_list *list)
{
    free(list->item);
    arena_free(&list->arena);
    *list = (struct emoji_list){0};
}
