/* The tokenizer's calls: load, encode, decode. Reading the file is in tokenizer_json.c, the steps before the model in
 * tokenizer_steps.c, the models in tokenizer_model.c. */
#include "data/tokenizer.h"

#include <stdlib.h>
#include <string.h>
#include "base/file.h"
#include "base/text.h"
#include "data/tokenizer_internal.h"

enum { MAX_FILE = 256 << 20 };

int tok_parse(const char *data, size_t len, struct tokenizer **out, struct err *e)
{
    struct tokenizer *t = mem_zero(1, sizeof *t);
    *out = NULL;
    int rc = tok_read_json(t, data, len, e);
    if (rc) {
        tok_free(t);
        return rc;
    }
    t->json = mem_strndup(data, len);
    t->json_len = len;
    *out = t;
    return 0;
}

int tok_load(const char *path, struct tokenizer **t, struct err *e)
{
    char *data;
    size_t len;
    *t = NULL;
    int rc = file_read(path, MAX_FILE, &data, &len, e);
    if (rc) return rc;
    rc = tok_parse(data, len, t, e);
    free(data);
    return rc ? err_prefix(e, "%s", path) : 0;
}

int tok_save(const struct tokenizer *t, const char *path, struct err *e)
{
    return file_write(path, t->json, t->json_len, e);
}

static void steps_free(struct tok_steps *s)
{
    for (size_t i = 0; i < s->n; i++) regex_free(s->v[i].regex);
    free(s->v);
}

void tok_free(struct tokenizer *t)
{
    if (!t) return;
    steps_free(&t->normalizer);
    steps_free(&t->pre);
    steps_free(&t->decoder);
    vocab_free(&t->model_vocab);
    vocab_free(&t->vocab);
    free(t->merges.slot);
    free(t->raw.v);
    free(t->normalized.v);
    free(t->json);
    arena_free(&t->arena);
    free(t);
}

int64_t tok_vocab_size(const struct tokenizer *t)
{
    return t->vocab.n;
}
int32_t tok_id(const struct tokenizer *t, const char *token)
{
    return vocab_find(&t->vocab, token, strlen(token));
}
const char *tok_piece(const struct tokenizer *t, int32_t id)
{
    if (id < 0 || id >= t->vocab.n) return NULL;
    return t->shown[id] ? t->shown[id] : t->vocab.piece[id];
}
bool tok_is_special(const struct tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->vocab.n && t->special[id];
}
int32_t tok_start_id(const struct tokenizer *t)
{
    return t->n_before ? t->before[0] : -1;
}
int32_t tok_end_id(const struct tokenizer *t)
{
    return t->n_after ? t->after[t->n_after - 1] : -1;
}
int32_t tok_pad_id(const struct tokenizer *t)
{
    return t->pad_id;
}

/* ---- added tokens in a text */

static const struct tok_added *added_at(const struct tok_added_set *set, const char *s, size_t n)
{
    unsigned char c = (unsigned char)*s;
    for (size_t i = set->first[c]; i < set->first[c + 1]; i++)
        if (set->v[i].n <= n && !memcmp(set->v[i].pattern, s, set->v[i].n)) return &set->v[i];
    return NULL;
}

static size_t char_before(const char *s, size_t at)
{
    do at--;
    while (at && ((unsigned char)s[at] & 0xc0) == 0x80);
    return at;
}

static bool inside_word(const char *s, size_t n, size_t start, size_t stop)
{
    uint32_t c;
    if (start > 0) {
        uni_next(s + char_before(s, start), s + n, &c);
        if (uni_word(c)) return true;
    }
    if (stop == n) return false;
    uni_next(s + stop, s + n, &c);
    return uni_word(c);
}

/* Cuts a text at the added tokens in it: the leftmost first, of those the longest. */
static void split_added(const struct tok_added_set *set, const char *s, size_t n, struct tok_pieces *out)
{
    size_t done = 0;
    for (size_t i = 0; i < n && set->n;) {
        const struct tok_added *a = added_at(set, s + i, n - i);
        if (!a) {
            i++;
            continue;
        }
        size_t start = i, stop = i + a->n;
        i = stop; /* matches are searched behind this one, whatever spaces it takes with it */
        if (a->single_word && inside_word(s, n, start, stop)) continue;
        uint32_t c;
        while (a->lstrip && start > done) {
            size_t prev = char_before(s, start);
            uni_next(s + prev, s + n, &c);
            if (!uni_space(c)) break;
            start = prev;
        }
        while (a->rstrip && stop < n) {
            int k = uni_next(s + stop, s + n, &c);
            if (!uni_space(c)) break;
            stop += (size_t)k;
        }
        if (start > done) pieces_add(out, s + done, start - done, -1);
        pieces_add(out, s + start, stop - start, a->id);
        done = stop;
    }
    if (done < n) pieces_add(out, s + done, n - done, -1);
}

/* ---- encode */

struct work {
    struct buf text, part;
    struct tok_pieces a, b;
    struct tok_word word;
    struct tok_ids ids;
};

static int encode_all(const struct tokenizer *t, const char *s, size_t n, struct work *w, struct err *e)
{
    uni_repair(s, n, &w->text);
    if (!w->text.len) return 0;
    split_added(&t->raw, w->text.data, w->text.len, &w->a);
    for (size_t i = 0; i < w->a.n; i++) {
        const struct tok_piece *p = &w->a.v[i];
        if (p->id >= 0) {
            pieces_add(&w->b, w->a.text.data + p->at, p->n, p->id);
            continue;
        }
        w->part.len = 0;
        int rc = steps_normalize(&t->normalizer, w->a.text.data + p->at, p->n, &w->part, e);
        if (rc) return rc;
        if (w->part.len) split_added(&t->normalized, w->part.data, w->part.len, &w->b);
    }
    int rc = steps_pre_tokenize(&t->pre, &w->b, &w->a, e);
    for (size_t i = 0; i < w->b.n && !rc; i++) {
        const struct tok_piece *p = &w->b.v[i];
        if (p->id >= 0)
            ids_add(&w->ids, p->id);
        else
            rc = model_encode(t, w->b.text.data + p->at, p->n, &w->word, &w->ids, e);
    }
    return rc;
}

int tok_encode(const struct tokenizer *t, const char *s, size_t n, int32_t *ids, int64_t max, int64_t *count,
               struct err *e)
{
    struct work w = {0};
    *count = 0;
    if (max > t->max_length) max = t->max_length;
    int64_t room = max - t->n_before - t->n_after;
    if (room < 0)
        return err_set(e, ERR_SHAPE, "a text of at most %lld tokens cannot hold the tokenizer's %lld special tokens",
                       (long long)max, (long long)(t->n_before + t->n_after));
    int rc = encode_all(t, s, n, &w, e);
    if (!rc) {
        int64_t kept = (int64_t)w.ids.n < room ? (int64_t)w.ids.n : room;
        if (t->n_before) memcpy(ids, t->before, (size_t)t->n_before * sizeof *ids);
        if (kept) memcpy(ids + t->n_before, w.ids.v, (size_t)kept * sizeof *ids);
        if (t->n_after) memcpy(ids + t->n_before + kept, t->after, (size_t)t->n_after * sizeof *ids);
        *count = t->n_before + kept + t->n_after;
    }
    buf_free(&w.text);
    buf_free(&w.part);
    pieces_free(&w.a);
    pieces_free(&w.b);
    word_free(&w.word);
    free(w.ids.v);
    return rc;
}
