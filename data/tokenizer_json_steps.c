/* Reads the normalizer, the pre-tokenizer and the decoder of a tokenizer.json: each is one step or a Sequence of them.
 */
#include "data/tokenizer_json.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- values */

int read_bad(struct reader *r, const char *path, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    char text[700];
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return err_set(r->e, ERR_FORMAT, "%.240s: %s", path, text);
}

const char *read_type(const json_t *j)
{
    static const char *const names[] = {"an object", "a list", "a string", "a whole number",
                                        "a number",  "true",   "false",    "null"};
    return j ? names[json_typeof(j)] : "nothing";
}

const char *read_join(struct reader *r, const char *path, const char *key)
{
    return *path ? arena_printf(&r->t->arena, "%s.%s", path, key) : arena_strdup(&r->t->arena, key);
}

int read_string(struct reader *r, const json_t *o, const char *path, const char *key, const char **out)
{
    const json_t *j = json_object_get(o, key);
    if (!json_is_string(j)) return read_bad(r, read_join(r, path, key), "expected a string, found %s", read_type(j));
    *out = arena_strdup(&r->t->arena, json_string_value(j));
    return 0;
}

int read_optional(struct reader *r, const json_t *o, const char *path, const char *key, const char **out)
{
    const json_t *j = json_object_get(o, key);
    *out = NULL;
    return !j || json_is_null(j) ? 0 : read_string(r, o, path, key, out);
}

int read_bool(struct reader *r, const json_t *o, const char *path, const char *key, bool without, bool *out)
{
    const json_t *j = json_object_get(o, key);
    *out = without;
    if (!j) return 0;
    if (!json_is_boolean(j))
        return read_bad(r, read_join(r, path, key), "expected true or false, found %s", read_type(j));
    *out = json_is_true(j);
    return 0;
}

int read_int(struct reader *r, const json_t *o, const char *path, const char *key, int64_t lo, int64_t hi, int64_t *out)
{
    const json_t *j = json_object_get(o, key);
    if (!json_is_integer(j))
        return read_bad(r, read_join(r, path, key), "expected a whole number, found %s", read_type(j));
    *out = json_integer_value(j);
    if (*out < lo || *out > hi)
        return read_bad(r, read_join(r, path, key), "%lld is outside %lld..%lld", (long long)*out, (long long)lo,
                        (long long)hi);
    return 0;
}

/* ---- normalizers, pre-tokenizers, decoders */

/* {"String": "..."} or {"Regex": "..."} */
static int read_pattern(struct reader *r, const json_t *o, const char *path, struct tok_step *s)
{
    const json_t *j = json_object_get(o, "pattern");
    path = read_join(r, path, "pattern");
    if (json_object_get(j, "String")) return read_string(r, j, path, "String", &s->text);
    if (!json_object_get(j, "Regex")) return read_bad(r, path, "expected {\"String\": ...} or {\"Regex\": ...}");
    const char *pattern;
    int rc = read_string(r, j, path, "Regex", &pattern);
    if (rc) return rc;
    s->regex = regex_new(pattern, r->e);
    return s->regex ? 0 : err_prefix(r->e, "%.240s", path);
}

static int read_behavior(struct reader *r, const json_t *o, const char *path, struct tok_step *s)
{
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    const char *name;
    int rc = read_string(r, o, path, "behavior", &name);
    if (rc) return rc;
    for (int i = 0; i < 5; i++)
        if (!strcmp(name, names[i])) {
            s->behavior = (enum split_behavior)i;
            return 0;
        }
    return read_bad(r, read_join(r, path, "behavior"), "\"%.40s\" is not supported", name);
}

typedef int step_reader(struct reader *r, const json_t *o, const char *path, struct tok_step *s);

static int read_nothing(struct reader *r, const json_t *o, const char *path, struct tok_step *s)
{
    return 0;
}

static int read_replace(struct reader *r, const json_t *o, const char *path, struct tok_step *s)
{
    int rc = read_pattern(r, o, path, s);
    return rc ? rc : read_string(r, o, path, "content", &s->content);
}

static int read_strip(struct reader *r, const json_t *o, const char *path, struct tok_step *s)
{
    int rc = read_bool(r, o, path, "strip_left", true, &s->left);
    return rc ? rc : read_bool(r, o, path, "strip_right", true, &s->right);
}

static int read_prepend(struct reader *r, const json_t *o, const char *path, struct tok_step *s)
{
    return read_string(r, o, path, "prepend", &s->text);
}

static int read_bert_norm(struct reader *r, const json_t *o, const char *path, struct tok_step *s)
{
    int rc = read_bool(r, o, path, "clean_text", true, &s->clean);
    if (!rc) rc = read_bool(r, o, path, "handle_chinese_chars", true, &s->chinese);
    if (!rc) rc = read_bool(r, o, path, "lowercase", true, &s->lower);
    s->accents = s->lower; /* null means: as lowercase */
    if (!rc && !json_is_null(json_object_get(o, "strip_accents")))
        rc = read_bool(r, o, path, "strip_accents", s->lower, &s->accents);
    return rc;
}

static int read_byte_level(struct reader *r, const json_t *o, const char *path, struct tok_step *s)
{
    int rc = read_bool(r, o, path, "add_prefix_space", true, &s->prefix_space);
    if (!rc) rc = read_bool(r, o, path, "use_regex", true, &s->use_regex);
    if (rc || !s->use_regex) return rc;
    s->regex = regex_new("'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", r->e);
    return s->regex ? 0 : ERR_MEMORY;
}

static int read_split(struct reader *r, const json_t *o, const char *path, struct tok_step *s)
{
    int rc = read_pattern(r, o, path, s);
    if (!rc) rc = read_behavior(r, o, path, s);
    return rc ? rc : read_bool(r, o, path, "invert", false, &s->invert);
}

static int read_digits(struct reader *r, const json_t *o, const char *path, struct tok_step *s)
{
    return read_bool(r, o, path, "individual_digits", false, &s->individual);
}

static int read_wordpiece_decoder(struct reader *r, const json_t *o, const char *path, struct tok_step *s)
{
    int rc = read_string(r, o, path, "prefix", &s->text);
    return rc ? rc : read_bool(r, o, path, "cleanup", true, &s->cleanup);
}

static int read_bpe_decoder(struct reader *r, const json_t *o, const char *path, struct tok_step *s)
{
    int rc = read_string(r, o, path, "suffix", &s->text);
    if (!rc && !*s->text) rc = read_bad(r, read_join(r, path, "suffix"), "it is empty");
    return rc;
}

static int read_strip_decoder(struct reader *r, const json_t *o, const char *path, struct tok_step *s)
{
    int rc = read_string(r, o, path, "content", &s->content);
    if (!rc && !*s->content) rc = read_bad(r, read_join(r, path, "content"), "it is empty");
    if (!rc) rc = read_int(r, o, path, "start", 0, INT32_MAX, &s->start);
    return rc ? rc : read_int(r, o, path, "stop", 0, INT32_MAX, &s->stop);
}

struct step_type {
    const char *name;
    enum step_kind kind;
    step_reader *read;
    enum uni_form form;
};

/* The parts that are lists of steps: where a Sequence keeps them, and what they can be. */
static const struct step_part {
    const char *key, *list;
    struct step_type types[13];
} parts[] = {
    {"normalizer",
     "normalizers",
     {{"NFC", NORM_FORM, read_nothing, UNI_NFC},
      {"NFD", NORM_FORM, read_nothing, UNI_NFD},
      {"NFKC", NORM_FORM, read_nothing, UNI_NFKC},
      {"NFKD", NORM_FORM, read_nothing, UNI_NFKD},
      {"Lowercase", NORM_LOWERCASE, read_nothing, 0},
      {"Replace", NORM_REPLACE, read_replace, 0},
      {"Strip", NORM_STRIP, read_strip, 0},
      {"StripAccents", NORM_STRIP_ACCENTS, read_nothing, 0},
      {"Prepend", NORM_PREPEND, read_prepend, 0},
      {"BertNormalizer", NORM_BERT, read_bert_norm, 0},
      {"ByteLevel", NORM_BYTE_LEVEL, read_nothing, 0}}},
    {"pre_tokenizer",
     "pretokenizers",
     {{"ByteLevel", PRE_BYTE_LEVEL, read_byte_level, 0},
      {"Split", PRE_SPLIT, read_split, 0},
      {"BertPreTokenizer", PRE_BERT, read_nothing, 0},
      {"Whitespace", PRE_WHITESPACE, read_nothing, 0},
      {"WhitespaceSplit", PRE_WHITESPACE_SPLIT, read_nothing, 0},
      {"Punctuation", PRE_PUNCTUATION, read_behavior, 0},
      {"Digits", PRE_DIGITS, read_digits, 0}}},
    {"decoder",
     "decoders",
     {{"ByteLevel", DEC_BYTE_LEVEL, read_nothing, 0},
      {"WordPiece", DEC_WORDPIECE, read_wordpiece_decoder, 0},
      {"BPEDecoder", DEC_BPE, read_bpe_decoder, 0},
      {"Replace", DEC_REPLACE, read_replace, 0},
      {"Strip", DEC_STRIP, read_strip_decoder, 0},
      {"Fuse", DEC_FUSE, read_nothing, 0},
      {"ByteFallback", DEC_BYTE_FALLBACK, read_nothing, 0}}},
};

static int read_steps(struct reader *r, const struct step_part *part, const json_t *o, const char *path,
                      struct tok_steps *steps)
{
    const char *type;
    if (!o || json_is_null(o)) return 0;
    if (!json_is_object(o)) return read_bad(r, path, "expected an object or null, found %s", read_type(o));
    int rc = read_string(r, o, path, "type", &type);
    if (rc) return rc;
    if (!strcmp(type, "Sequence")) {
        const json_t *list = json_object_get(o, part->list);
        path = read_join(r, path, part->list);
        if (!json_is_array(list)) return read_bad(r, path, "expected a list, found %s", read_type(list));
        for (size_t i = 0; i < json_array_size(list) && !rc; i++)
            rc = read_steps(r, part, json_array_get(list, i), arena_printf(&r->t->arena, "%s[%zu]", path, i), steps);
        return rc;
    }
    for (const struct step_type *k = part->types; k->name; k++) {
        if (strcmp(k->name, type)) continue;
        struct tok_step s = {.kind = k->kind, .form = k->form};
        rc = k->read(r, o, path, &s);
        if (rc) {
            regex_free(s.regex);
            return rc;
        }
        steps->v = mem_grow(steps->v, &steps->cap, steps->n + 1, sizeof s);
        steps->v[steps->n++] = s;
        return 0;
    }
    struct buf names = {0};
    for (const struct step_type *k = part->types; k->name; k++) buf_printf(&names, "%s, ", k->name);
    rc =
        read_bad(r, read_join(r, path, "type"), "\"%.60s\" is not supported; triad knows %sSequence", type, names.data);
    buf_free(&names);
    return rc;
}

int read_all_steps(struct reader *r, const json_t *root)
{
    struct tok_steps *steps[] = {&r->t->normalizer, &r->t->pre, &r->t->decoder};
    int rc = 0;
    for (int i = 0; i < 3 && !rc; i++)
        rc = read_steps(r, &parts[i], json_object_get(root, parts[i].key), parts[i].key, steps[i]);
    r->t->has_decoder = json_is_object(json_object_get(root, "decoder"));
    return rc;
}
