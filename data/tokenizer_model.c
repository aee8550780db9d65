/* Words to ids: byte-pair merges (Sennrich et al. 2016) and WordPiece's longest match (Devlin et al. 2019), and the
 * hash tables they look things up in. */
#include "data/tokenizer_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/rng.h"

/* ---- tables */

static size_t vocab_slot(const struct tok_vocab *v, const char *s, size_t n)
{
    size_t mask = v->slots - 1, i = hash_bytes(s, n, HASH_START) & mask;
    while (v->slot[i] >= 0 && (v->len[v->slot[i]] != n || memcmp(v->piece[v->slot[i]], s, n))) i = (i + 1) & mask;
    return i;
}

int32_t vocab_find(const struct tok_vocab *v, const char *s, size_t n)
{
    return v->slots ? v->slot[vocab_slot(v, s, n)] : -1;
}

static void vocab_rehash(struct tok_vocab *v, size_t slots)
{
    free(v->slot);
    v->slots = slots;
    v->slot = mem_alloc(slots * sizeof *v->slot);
    memset(v->slot, -1, slots * sizeof *v->slot);
    for (int64_t id = 0; id < v->n; id++)
        if (v->piece[id]) v->slot[vocab_slot(v, v->piece[id], v->len[id])] = (int32_t)id;
}

void vocab_add(struct tok_vocab *v, const char *s, size_t n, int32_t id)
{
    if ((size_t)id >= v->cap) {
        size_t cap = v->cap;
        v->piece = mem_grow(v->piece, &cap, (size_t)id + 1, sizeof *v->piece);
        v->len = mem_resize(v->len, cap * sizeof *v->len);
        memset(v->piece + v->cap, 0, (cap - v->cap) * sizeof *v->piece);
        v->cap = cap;
    }
    if ((size_t)v->count * 2 >= v->slots) vocab_rehash(v, v->slots ? v->slots * 2 : 1024);
    CHECK(!v->piece[id]);
    v->slot[vocab_slot(v, s, n)] = id;
    v->piece[id] = s;
    v->len[id] = (uint32_t)n;
    v->count++;
    if (id >= v->n) v->n = id + 1;
    if (n > v->longest) v->longest = n;
}

void vocab_free(struct tok_vocab *v)
{
    free(v->piece);
    free(v->len);
    free(v->slot);
    *v = (struct tok_vocab){0};
}

static size_t merge_slot(const struct tok_merges *m, uint64_t pair)
{
    size_t mask = m->slots - 1, i = (size_t)(pair * 0x9E3779B97F4A7C15u >> 32) & mask;
    while (m->slot[i].id >= 0 && m->slot[i].pair != pair) i = (i + 1) & mask;
    return i;
}

void merges_init(struct tok_merges *m, size_t n)
{
    for (m->slots = 16; m->slots < 2 * n; m->slots *= 2) continue;
    m->slot = mem_alloc(m->slots * sizeof *m->slot);
    for (size_t i = 0; i < m->slots; i++) m->slot[i].id = -1;
}

void merges_put(struct tok_merges *m, int32_t left, int32_t right, int32_t rank, int32_t id)
{
    uint64_t pair = (uint64_t)left << 32 | (uint32_t)right;
    m->slot[merge_slot(m, pair)] = (struct tok_merge){pair, rank, id};
}

const struct tok_merge *merges_find(const struct tok_merges *m, int32_t left, int32_t right)
{
    const struct tok_merge *s = &m->slot[merge_slot(m, (uint64_t)left << 32 | (uint32_t)right)];
    return s->id >= 0 ? s : NULL;
}

void ids_add(struct tok_ids *ids, int32_t id)
{
    ids->v = mem_grow(ids->v, &ids->cap, ids->n + 1, sizeof *ids->v);
    ids->v[ids->n++] = id;
}

/* ---- byte-pair merges */

struct tok_symbol {
    int32_t id;         /* -1: merged into the one on its left */
    int32_t prev, next; /* -1 at the ends */
};

/* A merge that may be done: the lowest rank first, of equals the leftmost. */
struct tok_candidate {
    int32_t rank, at, id;
};

void word_free(struct tok_word *w)
{
    free(w->symbol);
    free(w->heap);
    buf_free(&w->key);
}

static bool sooner(struct tok_candidate a, struct tok_candidate b)
{
    return a.rank != b.rank ? a.rank < b.rank : a.at < b.at;
}

static void heap_push(struct tok_word *w, struct tok_candidate c)
{
    w->heap = mem_grow(w->heap, &w->heap_cap, w->heap_n + 1, sizeof *w->heap);
    size_t i = w->heap_n++;
    for (size_t up; i && sooner(c, w->heap[up = (i - 1) / 2]); i = up) w->heap[i] = w->heap[up];
    w->heap[i] = c;
}

static struct tok_candidate heap_pop(struct tok_word *w)
{
    struct tok_candidate top = w->heap[0], last = w->heap[--w->heap_n];
    size_t i = 0;
    for (size_t k; (k = 2 * i + 1) < w->heap_n; i = k) {
        if (k + 1 < w->heap_n && sooner(w->heap[k + 1], w->heap[k])) k++;
        if (!sooner(w->heap[k], last)) break;
        w->heap[i] = w->heap[k];
    }
    w->heap[i] = last;
    return top;
}

static void propose(const struct tokenizer *t, struct tok_word *w, int32_t at)
{
    const struct tok_merge *m = merges_find(&t->merges, w->symbol[at].id, w->symbol[w->symbol[at].next].id);
    if (m) heap_push(w, (struct tok_candidate){m->rank, at, m->id});
}

static void merge_all(const struct tokenizer *t, struct tok_word *w)
{
    struct tok_symbol *s = w->symbol;
    w->heap_n = 0;
    for (size_t i = 0; i + 1 < w->n; i++) propose(t, w, (int32_t)i);
    while (w->heap_n) {
        struct tok_candidate c = heap_pop(w);
        int32_t next = s[c.at].id < 0 ? -1 : s[c.at].next;
        if (next < 0) continue;
        /* A pair that has changed since it was proposed counts only if it still makes the same token. */
        const struct tok_merge *m = merges_find(&t->merges, s[c.at].id, s[next].id);
        if (!m || m->id != c.id) continue;
        s[c.at].id = c.id;
        s[c.at].next = s[next].next;
        s[next].id = -1;
        if (s[c.at].next >= 0) s[s[c.at].next].prev = c.at;
        if (s[c.at].prev >= 0) propose(t, w, s[c.at].prev);
        if (s[c.at].next >= 0) propose(t, w, c.at);
    }
}

static void add_symbol(struct tok_word *w, int32_t id)
{
    w->symbol = mem_grow(w->symbol, &w->cap, w->n + 1, sizeof *w->symbol);
    w->symbol[w->n] = (struct tok_symbol){id, (int32_t)w->n - 1, -1};
    if (w->n) w->symbol[w->n - 1].next = (int32_t)w->n;
    w->n++;
}

/* The bytes of a character that the vocabulary lacks, as <0x..> tokens; false if one of them is missing. */
static bool add_bytes(const struct tokenizer *t, struct tok_word *w, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (t->byte_id[(unsigned char)s[i]] < 0) return false;
    for (size_t i = 0; i < n; i++) add_symbol(w, t->byte_id[(unsigned char)s[i]]);
    return true;
}

static int no_unknown(const struct tokenizer *t, struct err *e)
{
    return err_set(e, ERR_FORMAT, "the text needs the unknown token \"%.60s\", which the tokenizer's vocabulary lacks",
                   t->unk);
}

/* One word's characters as symbols, with prefix and suffix where the model has them. An unknown character waits for
 * what follows, since several may become one (fuse_unk). */
static int first_symbols(const struct tokenizer *t, const char *s, size_t n, struct tok_word *w, struct err *e)
{
    bool unknown = false;
    w->n = 0;
    for (size_t i = 0; i < n;) {
        size_t k = (size_t)uni_next(s + i, s + n, NULL);
        const char *key = s + i;
        size_t len = k;
        bool prefix = t->prefix && i > 0, suffix = t->suffix && i + k == n;
        if (prefix || suffix) {
            w->key.len = 0;
            if (prefix) buf_str(&w->key, t->prefix);
            buf_add(&w->key, s + i, k);
            if (suffix) buf_str(&w->key, t->suffix);
            key = w->key.data;
            len = w->key.len;
        }
        int32_t id = vocab_find(&t->model_vocab, key, len);
        if (id >= 0) {
            if (unknown) add_symbol(w, t->unk_id);
            unknown = false;
            add_symbol(w, id);
        } else if (!(t->byte_fallback && add_bytes(t, w, key, len)) && t->unk) {
            if (t->unk_id < 0) return no_unknown(t, e);
            if (unknown && !t->fuse_unk) add_symbol(w, t->unk_id);
            unknown = true;
        }
        i += k;
    }
    if (unknown) add_symbol(w, t->unk_id);
    return 0;
}

static int bpe_encode(const struct tokenizer *t, const char *s, size_t n, struct tok_word *w, struct tok_ids *out,
                      struct err *e)
{
    if (t->ignore_merges) {
        int32_t id = vocab_find(&t->model_vocab, s, n);
        if (id >= 0) {
            ids_add(out, id);
            return 0;
        }
    }
    int rc = first_symbols(t, s, n, w, e);
    if (rc) return rc;
    merge_all(t, w);
    for (size_t i = 0; i < w->n; i++)
        if (w->symbol[i].id >= 0) ids_add(out, w->symbol[i].id);
    return 0;
}

/* ---- WordPiece */

static int wordpiece_encode(const struct tokenizer *t, const char *s, size_t n, struct tok_word *w, struct tok_ids *out,
                            struct err *e)
{
    int64_t chars = 0;
    for (size_t i = 0; i < n; i++) chars += ((unsigned char)s[i] & 0xc0) != 0x80;
    size_t start = 0, first = out->n;
    while (start < n && chars <= t->max_word_chars) {
        const char *key = s;
        size_t lead = 0; /* bytes of the prefix in front of the word's rest */
        if (start > 0) {
            w->key.len = 0;
            buf_str(&w->key, t->prefix);
            lead = w->key.len;
            buf_add(&w->key, s + start, n - start);
            key = w->key.data;
        }
        size_t len = n - start + lead;
        if (len > t->model_vocab.longest) len = t->model_vocab.longest;
        int32_t id = -1;
        for (; len > lead; len--) {
            bool whole = len == n - start + lead || ((unsigned char)key[len] & 0xc0) != 0x80;
            if (whole && (id = vocab_find(&t->model_vocab, key, len)) >= 0) break;
        }
        if (id < 0) break;
        ids_add(out, id);
        start += len - lead;
    }
    if (start == n) return 0;
    out->n = first; /* one part unknown makes the word unknown */
    if (t->unk_id < 0) return no_unknown(t, e);
    ids_add(out, t->unk_id);
    return 0;
}

int model_encode(const struct tokenizer *t, const char *s, size_t n, struct tok_word *w, struct tok_ids *out,
                 struct err *e)
{
    return t->wordpiece ? wordpiece_encode(t, s, n, w, out, e) : bpe_encode(t, s, n, w, out, e);
}
