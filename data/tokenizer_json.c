/* Reads a tokenizer.json into a struct tokenizer. Strict: a wrong type, an unknown kind, an id out of range or a merge
 * of unknown tokens is refused with its place in the file. Keys that change no id (offsets, scores) are passed over. */
#include "data/tokenizer_json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Four million: beyond every vocabulary there is, and bounds what a small file can allocate. */
enum { MAX_ID = 1 << 22 };

/* ---- the model */

static int read_vocab(struct reader *r, const json_t *vocab)
{
    struct tokenizer *t = r->t;
    if (!json_is_object(vocab)) return read_bad(r, "model.vocab", "expected an object, found %s", read_type(vocab));
    const char *key;
    json_t *j;
    json_object_foreach((json_t *)vocab, key, j)
    {
        json_int_t id = json_is_integer(j) ? json_integer_value(j) : -1;
        if (id < 0 || id >= MAX_ID)
            return read_bad(r, "model.vocab", "\"%.60s\" should have an id in 0..%d, it has %s", key, MAX_ID - 1,
                            json_is_integer(j) ? "another number" : read_type(j));
        if (id < t->model_vocab.n && t->model_vocab.piece[id])
            return read_bad(r, "model.vocab", "\"%.60s\" and \"%.60s\" have the same id %lld", t->model_vocab.piece[id],
                            key, (long long)id);
        char *kept = arena_strdup(&t->arena, key);
        vocab_add(&t->model_vocab, kept, strlen(kept), (int32_t)id);
        vocab_add(&t->vocab, kept, strlen(kept), (int32_t)id);
    }
    return 0;
}

static int merge_parts(struct reader *r, const json_t *j, const char *path, const char **a, size_t *na, const char **b)
{
    if (json_is_array(j) && json_array_size(j) == 2 && json_is_string(json_array_get(j, 0)) &&
        json_is_string(json_array_get(j, 1))) {
        *a = json_string_value(json_array_get(j, 0));
        *na = strlen(*a);
        *b = json_string_value(json_array_get(j, 1));
        return 0;
    }
    if (!json_is_string(j)) return read_bad(r, path, "expected \"left right\" or [\"left\", \"right\"]");
    *a = json_string_value(j);
    const char *space = strchr(*a, ' ');
    if (!space || strchr(space + 1, ' '))
        return read_bad(r, path, "\"%.80s\" is not two tokens with a space between", *a);
    *na = (size_t)(space - *a);
    *b = space + 1;
    return 0;
}

static int read_merges(struct reader *r, const json_t *list)
{
    struct tokenizer *t = r->t;
    if (!json_is_array(list)) return read_bad(r, "model.merges", "expected a list, found %s", read_type(list));
    size_t n = json_array_size(list), skip = t->prefix ? strlen(t->prefix) : 0;
    merges_init(&t->merges, n);
    struct buf joined = {0};
    int rc = 0;
    for (size_t i = 0; i < n && !rc; i++) {
        char path[60];
        snprintf(path, sizeof path, "model.merges[%zu]", i);
        const char *a = "", *b = "";
        size_t na = 0;
        const json_t *j = json_array_get(list, i);
        if (json_is_string(j) && !strncmp(json_string_value(j), "#version", 8)) continue; /* as merges.txt begins */
        rc = merge_parts(r, j, path, &a, &na, &b);
        if (rc) break;
        int32_t left = vocab_find(&t->model_vocab, a, na), right = vocab_find(&t->model_vocab, b, strlen(b));
        if (left < 0)
            rc = read_bad(r, path, "\"%.*s\" is not in model.vocab", (int)(na < 80 ? na : 80), a);
        else if (right < 0)
            rc = read_bad(r, path, "\"%.80s\" is not in model.vocab", b);
        else if (strlen(b) < skip)
            rc = read_bad(r, path, "\"%.80s\" is shorter than continuing_subword_prefix", b);
        if (rc) break;
        joined.len = 0;
        buf_add(&joined, a, na);
        buf_str(&joined, b + skip);
        int32_t id = vocab_find(&t->model_vocab, joined.data, joined.len);
        if (id < 0)
            rc = read_bad(r, path, "it makes \"%.80s\", which is not in model.vocab", joined.data);
        else
            merges_put(&t->merges, left, right, (int32_t)i, id);
    }
    buf_free(&joined);
    return rc;
}

static int read_bpe(struct reader *r, const json_t *m)
{
    struct tokenizer *t = r->t;
    const json_t *dropout = json_object_get(m, "dropout");
    if (dropout && !json_is_null(dropout) && !(json_is_number(dropout) && json_number_value(dropout) == 0))
        return read_bad(r, "model.dropout", "only null or 0 is supported: encoding is deterministic");
    int rc = read_optional(r, m, "model", "unk_token", &t->unk);
    if (!rc) rc = read_optional(r, m, "model", "continuing_subword_prefix", &t->prefix);
    if (!rc) rc = read_optional(r, m, "model", "end_of_word_suffix", &t->suffix);
    if (!rc) rc = read_bool(r, m, "model", "fuse_unk", false, &t->fuse_unk);
    if (!rc) rc = read_bool(r, m, "model", "byte_fallback", false, &t->byte_fallback);
    if (!rc) rc = read_bool(r, m, "model", "ignore_merges", false, &t->ignore_merges);
    if (!rc) rc = read_merges(r, json_object_get(m, "merges"));
    for (int b = 0; b < 256; b++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", b);
        t->byte_id[b] = vocab_find(&t->model_vocab, name, 6);
    }
    return rc;
}

static int read_wordpiece(struct reader *r, const json_t *m)
{
    struct tokenizer *t = r->t;
    t->wordpiece = true;
    int rc = read_string(r, m, "model", "unk_token", &t->unk);
    if (!rc) rc = read_string(r, m, "model", "continuing_subword_prefix", &t->prefix);
    return rc ? rc : read_int(r, m, "model", "max_input_chars_per_word", 0, INT32_MAX, &t->max_word_chars);
}

static int read_model(struct reader *r, const json_t *m)
{
    if (!json_is_object(m)) return read_bad(r, "model", "expected an object, found %s", read_type(m));
    const char *type = "BPE"; /* files of before 2020 do not say it */
    int rc =
        json_object_get(m, "type") || !json_object_get(m, "merges") ? read_string(r, m, "model", "type", &type) : 0;
    if (rc) return rc;
    bool bpe = !strcmp(type, "BPE");
    if (!bpe && strcmp(type, "WordPiece"))
        return read_bad(r, "model.type", "\"%.60s\" is not supported; triad knows BPE and WordPiece", type);
    rc = read_vocab(r, json_object_get(m, "vocab"));
    if (!rc) rc = bpe ? read_bpe(r, m) : read_wordpiece(r, m);
    r->t->unk_id = r->t->unk ? vocab_find(&r->t->model_vocab, r->t->unk, strlen(r->t->unk)) : -1;
    return rc;
}

/* ---- added tokens */

static int read_added_one(struct reader *r, const json_t *j, const char *path)
{
    struct tokenizer *t = r->t;
    struct tok_added a = {0};
    int64_t id = 0;
    int rc = read_string(r, j, path, "content", &a.content);
    if (!rc) rc = read_int(r, j, path, "id", 0, MAX_ID - 1, &id);
    if (!rc) rc = read_bool(r, j, path, "single_word", false, &a.single_word);
    if (!rc) rc = read_bool(r, j, path, "lstrip", false, &a.lstrip);
    if (!rc) rc = read_bool(r, j, path, "rstrip", false, &a.rstrip);
    if (!rc) rc = read_bool(r, j, path, "special", false, &a.special);
    if (!rc) rc = read_bool(r, j, path, "normalized", true, &a.normalized);
    if (rc) return rc;
    if (!*a.content) return 0; /* the library ignores these too */
    /* The library gives the model's id, or the next one that is free; a file that says another contradicts itself. */
    int32_t known = vocab_find(&t->vocab, a.content, strlen(a.content));
    int64_t want = known >= 0 ? known : t->vocab.count;
    if (id != want)
        return read_bad(r, path, "\"%.60s\" has id %lld here, but %s %lld", a.content, (long long)id,
                        known >= 0 ? "model.vocab gives it" : "the next free id is", (long long)want);
    if (known < 0) {
        if (id < t->vocab.n && t->vocab.piece[id])
            return read_bad(r, path, "\"%.60s\" has the id %lld of \"%.60s\"", a.content, (long long)id,
                            t->vocab.piece[id]);
        vocab_add(&t->vocab, a.content, strlen(a.content), (int32_t)id);
    }
    a.id = (int32_t)id;
    a.pattern = a.content;
    a.n = strlen(a.content);
    if (a.normalized) {
        struct buf out = {0};
        rc = steps_normalize(&t->normalizer, a.content, a.n, &out, r->e);
        a.n = out.len;
        a.pattern = arena_strdup(&t->arena, out.data ? out.data : "");
        buf_free(&out);
        if (rc) return rc;
    }
    struct tok_added_set *set = a.normalized ? &t->normalized : &t->raw;
    if (!a.n) return 0;
    set->v = mem_grow(set->v, &set->cap, set->n + 1, sizeof a);
    set->v[set->n++] = a;
    return 0;
}

/* By first byte, longest first; of equal patterns a special one first, then the file's order (kept: the sort is
 * stable). */
static bool added_before(const struct tok_added *a, const struct tok_added *b)
{
    if (*a->pattern != *b->pattern) return (unsigned char)*a->pattern < (unsigned char)*b->pattern;
    if (a->n != b->n) return a->n > b->n;
    return a->special && !b->special;
}

static void sort_added(struct tok_added_set *set)
{
    struct tok_added *tmp = mem_alloc(set->n * sizeof *tmp);
    for (size_t run = 1; run < set->n; run *= 2) {
        for (size_t lo = 0; lo < set->n; lo += 2 * run) {
            size_t mid = lo + run < set->n ? lo + run : set->n, hi = mid + run < set->n ? mid + run : set->n;
            for (size_t i = lo, j = mid, k = lo; k < hi; k++)
                tmp[k] = j < hi && (i >= mid || added_before(&set->v[j], &set->v[i])) ? set->v[j++] : set->v[i++];
        }
        memcpy(set->v, tmp, set->n * sizeof *tmp);
    }
    free(tmp);
    for (size_t c = 0, i = 0; c <= 256; c++) {
        while (i < set->n && (unsigned char)*set->v[i].pattern < c) i++;
        set->first[c] = i;
    }
}

static int read_added(struct reader *r, const json_t *list)
{
    if (list && !json_is_null(list) && !json_is_array(list))
        return read_bad(r, "added_tokens", "expected a list, found %s", read_type(list));
    for (size_t i = 0; i < json_array_size(list); i++) {
        char path[60];
        snprintf(path, sizeof path, "added_tokens[%zu]", i);
        int rc = read_added_one(r, json_array_get(list, i), path);
        if (rc) return rc;
    }
    sort_added(&r->t->raw);
    sort_added(&r->t->normalized);
    struct tokenizer *t = r->t;
    t->special = arena_alloc(&t->arena, (size_t)t->vocab.n + 1);
    t->shown = arena_alloc(&t->arena, ((size_t)t->vocab.n + 1) * sizeof *t->shown);
    for (size_t i = 0; i < t->raw.n; i++) t->special[t->raw.v[i].id] |= t->raw.v[i].special;
    for (size_t i = 0; i < t->normalized.n; i++) {
        const struct tok_added *a = &t->normalized.v[i];
        t->special[a->id] |= a->special;
        t->shown[a->id] = a->pattern;
    }
    return 0;
}

/* ---- the post-processor */

static int known_id(struct reader *r, const json_t *j, const char *path, int32_t *id)
{
    json_int_t v = json_is_integer(j) ? json_integer_value(j) : -1;
    if (v < 0 || v >= r->t->vocab.n || !r->t->vocab.piece[v])
        return read_bad(r, path, "expected the id of a token, found %s", read_type(j));
    *id = (int32_t)v;
    return 0;
}

/* Puts `n` ids in front (before what earlier processors put there) or behind. */
static void put_around(struct tokenizer *t, bool behind, const int32_t *id, int64_t n)
{
    int32_t **list = behind ? &t->after : &t->before;
    int64_t *count = behind ? &t->n_after : &t->n_before;
    int32_t *all = arena_alloc(&t->arena, (size_t)(*count + n) * sizeof *all);
    if (*count) memcpy(all + (behind ? 0 : n), *list, (size_t)*count * sizeof *all);
    if (n) memcpy(all + (behind ? *count : 0), id, (size_t)n * sizeof *all);
    *list = all;
    *count += n;
}

static int read_template(struct reader *r, const json_t *o, const char *path)
{
    const json_t *single = json_object_get(o, "single"), *specials = json_object_get(o, "special_tokens");
    path = read_join(r, path, "single");
    if (!json_is_array(single)) return read_bad(r, path, "expected a list, found %s", read_type(single));
    struct tok_ids part = {0};
    int rc = 0, sequences = 0;
    for (size_t i = 0; i < json_array_size(single) && !rc; i++) {
        const json_t *item = json_array_get(single, i), *token = json_object_get(item, "SpecialToken");
        const char *at = arena_printf(&r->t->arena, "%s[%zu]", path, i), *name;
        if (json_object_get(item, "Sequence")) {
            rc = sequences++ ? read_bad(r, at, "a second Sequence is not supported") : 0;
            put_around(r->t, false, part.v, (int64_t)part.n);
            part.n = 0;
        } else if (json_is_object(token)) {
            rc = read_string(r, token, at, "id", &name);
            const json_t *ids = rc ? NULL : json_object_get(json_object_get(specials, name), "ids");
            if (!rc && !json_is_array(ids))
                rc = read_bad(r, at, "\"%.60s\" has no \"ids\" in post_processor's special_tokens", name);
            for (size_t k = 0; !rc && k < json_array_size(ids); k++) {
                int32_t id;
                rc = known_id(r, json_array_get(ids, k), at, &id);
                if (!rc) ids_add(&part, id);
            }
        } else {
            rc = read_bad(r, at, "expected SpecialToken or Sequence");
        }
    }
    if (!rc && sequences != 1) rc = read_bad(r, path, "there is no Sequence in it: every text would become the same");
    if (!rc) put_around(r->t, true, part.v, (int64_t)part.n);
    free(part.v);
    return rc;
}

static int read_post(struct reader *r, const json_t *o, const char *path)
{
    const char *type;
    if (!o || json_is_null(o)) return 0;
    if (!json_is_object(o)) return read_bad(r, path, "expected an object or null, found %s", read_type(o));
    int rc = read_string(r, o, path, "type", &type);
    if (rc || !strcmp(type, "ByteLevel")) return rc; /* ByteLevel only moves offsets */
    if (!strcmp(type, "TemplateProcessing")) return read_template(r, o, path);
    if (!strcmp(type, "RobertaProcessing") || !strcmp(type, "BertProcessing")) {
        int32_t cls, sep;
        rc = known_id(r, json_array_get(json_object_get(o, "cls"), 1), read_join(r, path, "cls[1]"), &cls);
        if (!rc) rc = known_id(r, json_array_get(json_object_get(o, "sep"), 1), read_join(r, path, "sep[1]"), &sep);
        if (rc) return rc;
        put_around(r->t, false, &cls, 1);
        put_around(r->t, true, &sep, 1);
        return 0;
    }
    if (strcmp(type, "Sequence"))
        return read_bad(
            r, read_join(r, path, "type"),
            "\"%.60s\" is not supported; triad knows TemplateProcessing, RobertaProcessing, BertProcessing, "
            "ByteLevel, Sequence",
            type);
    const json_t *list = json_object_get(o, "processors");
    path = read_join(r, path, "processors");
    if (!json_is_array(list)) return read_bad(r, path, "expected a list, found %s", read_type(list));
    for (size_t i = 0; i < json_array_size(list) && !rc; i++)
        rc = read_post(r, json_array_get(list, i), arena_printf(&r->t->arena, "%s[%zu]", path, i));
    return rc;
}

/* ---- the whole */

static int read_limits(struct reader *r, const json_t *root)
{
    struct tokenizer *t = r->t;
    const json_t *trunc = json_object_get(root, "truncation"), *pad = json_object_get(root, "padding");
    t->max_length = INT64_MAX;
    if (trunc && !json_is_null(trunc)) {
        const char *direction;
        int rc = read_int(r, trunc, "truncation", "max_length", 1, INT32_MAX, &t->max_length);
        if (!rc) rc = read_optional(r, trunc, "truncation", "direction", &direction);
        if (!rc && direction && strcmp(direction, "Right"))
            rc = read_bad(r, "truncation.direction", "\"%.40s\" is not supported; triad knows Right", direction);
        if (rc) return rc;
    }
    t->pad_id = vocab_find(&t->vocab, "<pad>", 5);
    if (t->pad_id < 0) t->pad_id = vocab_find(&t->vocab, "[PAD]", 5);
    if (pad && !json_is_null(pad)) return known_id(r, json_object_get(pad, "pad_id"), "padding.pad_id", &t->pad_id);
    return 0;
}

int tok_read_json(struct tokenizer *t, const char *data, size_t len, struct err *e)
{
    struct reader r = {t, e};
    json_error_t why;
    json_t *root = json_loadb(data, len, JSON_REJECT_DUPLICATES, &why);
    if (!root)
        return err_set(e, ERR_FORMAT, "line %d, column %d: it is not the JSON of a tokenizer.json: %s", why.line,
                       why.column, why.text);
    int rc = 0;
    const json_t *version = json_object_get(root, "version");
    if (!json_is_object(root))
        rc = read_bad(&r, "the file", "expected an object, found %s", read_type(root));
    else if (version && (!json_is_string(version) || strcmp(json_string_value(version), "1.0")))
        rc = read_bad(&r, "version", "only \"1.0\" is supported");
    if (!rc) rc = read_all_steps(&r, root);
    if (!rc) rc = read_model(&r, json_object_get(root, "model"));
    if (!rc) rc = read_added(&r, json_object_get(root, "added_tokens"));
    if (!rc) rc = read_post(&r, json_object_get(root, "post_processor"), "post_processor");
    if (!rc) rc = read_limits(&r, root);
    json_decref(root);
    return rc;
}
