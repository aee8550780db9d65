/* Trains a byte-level BPE (Sennrich et al. 2016, algorithm 1; over bytes as Radford et al. 2019) and writes it as a
 * tokenizer.json. Words are counted once; pairs are kept with their counts and the words that hold them, so that a
 * merge touches only those, and a heap gives the next pair.
 *
 * Vocabulary and merges must equal the `tokenizers` library's, so two of its habits are kept: the count of a merged
 * pair is not taken back, and a pair that appears again (through another spelling of the same token) is queued again.
 */
#include "data/tokenizer.h"

#include <stdlib.h>
#include <string.h>
#include "base/text.h"
#include "data/tokenizer_internal.h"

struct pair {
    uint64_t key;  /* left << 32 | right; UINT64_MAX: empty */
    int64_t count; /* occurrences, weighted by the words' counts */
    int64_t open;  /* place of this round's list of words, -1 */
};

/* A pair in the queue, with the words that it was seen in since it was last queued. */
struct queued {
    uint64_t key, count;
    int32_t *word;
    size_t n, cap;
};

struct trainer {
    struct arena arena;
    struct tok_vocab words, vocab;
    int64_t *count; /* of each word */
    size_t count_cap;
    int32_t *symbol; /* the words' tokens, one word behind the other */
    size_t *start;
    int32_t *len;
    struct pair *pairs;
    size_t n_pairs, pair_slots;
    struct queued *round; /* pairs that this merge made */
    size_t n_round, round_cap;
    struct queued *heap;
    size_t n_heap, heap_cap;
    uint64_t *merge; /* keys in order */
    size_t n_merges, merge_cap;
};

/* ---- words */

static void count_word(struct trainer *tr, const char *s, size_t n)
{
    int32_t id = vocab_find(&tr->words, s, n);
    if (id < 0) {
        id = (int32_t)tr->words.n;
        char *kept = arena_alloc(&tr->arena, n);
        memcpy(kept, s, n);
        vocab_add(&tr->words, kept, n, id);
        tr->count = mem_grow(tr->count, &tr->count_cap, (size_t)id + 1, sizeof *tr->count);
        tr->count[id] = 0;
    }
    tr->count[id]++;
}

static int count_words(struct trainer *tr, const struct tokenizer *t, const char *const *texts, int64_t n,
                       struct err *e)
{
    struct tok_spans spans = {0};
    struct buf good = {0}, normal = {0};
    int rc = 0;
    for (int64_t i = 0; i < n && !rc; i++) {
        good.len = normal.len = spans.n = 0;
        uni_repair(texts[i], strlen(texts[i]), &good);
        if (good.len) rc = steps_normalize(&t->normalizer, good.data, good.len, &normal, e);
        if (!rc && normal.len) rc = regex_spans(t->pre.v[0].regex, normal.data, normal.len, &spans, e);
        for (size_t k = 0; k < spans.n && !rc; k++)
            count_word(tr, normal.data + spans.v[k].at, spans.v[k].end - spans.v[k].at);
    }
    buf_free(&good);
    buf_free(&normal);
    free(spans.v);
    return rc;
}

/* ---- vocabulary */

static int32_t add_token(struct trainer *tr, const char *s, size_t n)
{
    int32_t id = vocab_find(&tr->vocab, s, n);
    if (id >= 0) return id;
    char *kept = arena_alloc(&tr->arena, n + 1);
    memcpy(kept, s, n);
    vocab_add(&tr->vocab, kept, n, id = (int32_t)tr->vocab.n);
    return id;
}

/* Special tokens, then the characters of the 256 bytes in order of their code points. */
static void first_tokens(struct trainer *tr, const char *const *specials, int n, int32_t byte_id[256])
{
    for (int i = 0; i < n; i++) add_token(tr, specials[i], strlen(specials[i]));
    for (uint32_t c = 0; c < 256 + 68; c++) {
        int b = char_byte(c);
        char text[4];
        if (b >= 0) byte_id[b] = add_token(tr, text, (size_t)utf8_put(c, text));
    }
}

/* ---- pairs */

static struct pair *pair_slot(const struct trainer *tr, uint64_t key)
{
    size_t mask = tr->pair_slots - 1, i = (size_t)(key * 0x9E3779B97F4A7C15u >> 32) & mask;
    while (tr->pairs[i].key != UINT64_MAX && tr->pairs[i].key != key) i = (i + 1) & mask;
    return &tr->pairs[i];
}

static void more_pairs(struct trainer *tr)
{
    struct pair *old = tr->pairs;
    size_t n = tr->pair_slots;
    tr->pair_slots = n ? 2 * n : 1 << 12;
    tr->pairs = mem_alloc(tr->pair_slots * sizeof *tr->pairs);
    for (size_t i = 0; i < tr->pair_slots; i++) tr->pairs[i].key = UINT64_MAX;
    for (size_t i = 0; i < n; i++)
        if (old[i].key != UINT64_MAX) *pair_slot(tr, old[i].key) = old[i];
    free(old);
}

/* Changes a pair's count by what happened in a word; a pair that became more is queued at the end of the round. */
static void change(struct trainer *tr, int32_t left, int32_t right, int64_t by, int32_t word)
{
    if (tr->n_pairs * 2 >= tr->pair_slots) more_pairs(tr);
    uint64_t key = (uint64_t)left << 32 | (uint32_t)right;
    struct pair *p = pair_slot(tr, key);
    if (p->key != key) {
        *p = (struct pair){key, 0, -1};
        tr->n_pairs++;
    }
    p->count += by;
    if (by < 0) return;
    if (p->open < 0) {
        tr->round = mem_grow(tr->round, &tr->round_cap, tr->n_round + 1, sizeof *tr->round);
        p->open = (int64_t)tr->n_round;
        tr->round[tr->n_round++] = (struct queued){.key = key};
    }
    struct queued *q = &tr->round[p->open];
    if (q->n && q->word[q->n - 1] == word) return; /* words come in order: a second sight is next to the first */
    q->word = mem_grow(q->word, &q->cap, q->n + 1, sizeof *q->word);
    q->word[q->n++] = word;
}

static bool above(const struct queued *a, const struct queued *b)
{
    return a->count != b->count ? a->count > b->count : a->key < b->key;
}

static void push(struct trainer *tr, struct queued q)
{
    tr->heap = mem_grow(tr->heap, &tr->heap_cap, tr->n_heap + 1, sizeof *tr->heap);
    size_t i = tr->n_heap++;
    for (size_t up; i && above(&q, &tr->heap[up = (i - 1) / 2]); i = up) tr->heap[i] = tr->heap[up];
    tr->heap[i] = q;
}

static struct queued pop(struct trainer *tr)
{
    struct queued top = tr->heap[0], last = tr->heap[--tr->n_heap];
    size_t i = 0;
    for (size_t k; (k = 2 * i + 1) < tr->n_heap; i = k) {
        if (k + 1 < tr->n_heap && above(&tr->heap[k + 1], &tr->heap[k])) k++;
        if (!above(&tr->heap[k], &last)) break;
        tr->heap[i] = tr->heap[k];
    }
    tr->heap[i] = last;
    return top;
}

static void end_round(struct trainer *tr)
{
    for (size_t i = 0; i < tr->n_round; i++) {
        struct pair *p = pair_slot(tr, tr->round[i].key);
        p->open = -1;
        tr->round[i].count = (uint64_t)p->count;
        if (p->count > 0)
            push(tr, tr->round[i]);
        else
            free(tr->round[i].word);
    }
    tr->n_round = 0;
}

static void count_pairs(struct trainer *tr, const int32_t byte_id[256])
{
    size_t total = 0, n = (size_t)tr->words.n;
    tr->start = mem_alloc(n * sizeof *tr->start);
    tr->len = mem_alloc(n * sizeof *tr->len);
    for (size_t w = 0; w < n; w++) {
        tr->start[w] = total;
        tr->len[w] = (int32_t)tr->words.len[w];
        total += tr->words.len[w];
    }
    tr->symbol = mem_alloc(total * sizeof *tr->symbol);
    for (size_t w = 0; w < n; w++) {
        int32_t *s = tr->symbol + tr->start[w];
        for (int32_t i = 0; i < tr->len[w]; i++) {
            s[i] = byte_id[(unsigned char)tr->words.piece[w][i]];
            if (i) change(tr, s[i - 1], s[i], tr->count[w], (int32_t)w);
        }
    }
    end_round(tr);
}

/* Replaces the pair in one word, from the left. */
static void merge_in_word(struct trainer *tr, int32_t w, int32_t left, int32_t right, int32_t made)
{
    int32_t *s = tr->symbol + tr->start[w], n = tr->len[w], to = 0;
    int64_t count = tr->count[w];
    for (int32_t i = 0; i < n;) {
        if (s[i] != left || i + 1 == n || s[i + 1] != right) {
            s[to++] = s[i++];
            continue;
        }
        i += 2;
        if (to) {
            change(tr, s[to - 1], left, -count, w);
            change(tr, s[to - 1], made, count, w);
        }
        if (i < n) {
            change(tr, right, s[i], -count, w);
            change(tr, made, s[i], count, w);
        }
        s[to++] = made;
    }
    tr->len[w] = to;
}

static void merge_pairs(struct trainer *tr, int64_t vocab_size, int64_t min_frequency)
{
    struct buf token = {0};
    while (tr->vocab.count < vocab_size && tr->n_heap) {
        struct queued top = pop(tr);
        uint64_t now = (uint64_t)pair_slot(tr, top.key)->count;
        if (top.count != now) {
            top.count = now;
            push(tr, top);
            continue;
        }
        if (top.count < 1 || top.count < (uint64_t)min_frequency) {
            free(top.word);
            break;
        }
        int32_t left = (int32_t)(top.key >> 32), right = (int32_t)(uint32_t)top.key;
        token.len = 0;
        buf_add(&token, tr->vocab.piece[left], tr->vocab.len[left]);
        buf_add(&token, tr->vocab.piece[right], tr->vocab.len[right]);
        int32_t made = add_token(tr, token.data, token.len);
        tr->merge = mem_grow(tr->merge, &tr->merge_cap, tr->n_merges + 1, sizeof *tr->merge);
        tr->merge[tr->n_merges++] = top.key;
        for (size_t i = 0; i < top.n; i++) merge_in_word(tr, top.word[i], left, right, made);
        free(top.word);
        end_round(tr);
    }
    buf_free(&token);
}

/* ---- the file */

static const char BYTE_LEVEL[] = "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, "
                                 "\"use_regex\": true}";
static const char LOWERCASE[] = "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFC\"}, "
                                "{\"type\": \"Lowercase\"}]}";

static int find_special(const struct tok_train_options *o, const char *name)
{
    for (int i = 0; i < o->n_specials; i++)
        if (!strcmp(o->specials[i], name)) return i;
    return -1;
}

/* <s> A </s>, with those of the two that there are; a pair becomes <s> A </s> B </s>. */
static void write_post(struct buf *b, const struct tok_train_options *o)
{
    static const char *const name[] = {"<s>", "</s>"};
    static const char item[] = "{\"SpecialToken\": {\"id\": \"%s\", \"type_id\": 0}}";
    bool has[2] = {find_special(o, name[0]) >= 0, find_special(o, name[1]) >= 0};
    if (!has[0] && !has[1]) {
        buf_str(b, "null");
        return;
    }
    buf_str(b, "{\"type\": \"TemplateProcessing\"");
    for (int pair = 0; pair < 2; pair++) {
        buf_printf(b, ", \"%s\": [", pair ? "pair" : "single");
        if (has[0]) buf_printf(b, item, name[0]);
        for (int seq = 0; seq <= pair; seq++) {
            buf_printf(b, "%s{\"Sequence\": {\"id\": \"%c\", \"type_id\": 0}}", seq || has[0] ? ", " : "", 'A' + seq);
            if (has[1]) buf_printf(b, ", ");
            if (has[1]) buf_printf(b, item, name[1]);
        }
        buf_str(b, "]");
    }
    buf_str(b, ", \"special_tokens\": {");
    for (int i = 0; i < 2; i++)
        if (has[i])
            buf_printf(b, "%s\"%s\": {\"id\": \"%s\", \"ids\": [%d], \"tokens\": [\"%s\"]}", i && has[0] ? ", " : "",
                       name[i], name[i], find_special(o, name[i]), name[i]);
    buf_str(b, "}}");
}

/* All but the model's tables; `tr` may be NULL for a tokenizer that only cuts words. */
static void write_file(struct buf *b, const struct tok_train_options *o, const struct trainer *tr)
{
    buf_str(b, "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [");
    for (int i = 0; tr && i < o->n_specials; i++) {
        buf_printf(b, "%s\n    {\"id\": %d, \"content\": ", i ? "," : "", i);
        buf_json(b, o->specials[i]);
        buf_str(b, ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, "
                   "\"special\": true}");
    }
    buf_printf(b, "\n  ],\n  \"normalizer\": %s,\n  \"pre_tokenizer\": %s,\n  \"post_processor\": ",
               o->lowercase ? LOWERCASE : "null", BYTE_LEVEL);
    if (tr)
        write_post(b, o);
    else
        buf_str(b, "null");
    buf_printf(b, ",\n  \"decoder\": %s,\n  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n",
               BYTE_LEVEL);
    buf_str(b,
            "    \"unk_token\": null,\n    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n"
            "    \"fuse_unk\": false,\n    \"byte_fallback\": false,\n    \"ignore_merges\": false,\n    \"vocab\": {");
    for (int64_t i = 0; tr && i < tr->vocab.n; i++) {
        buf_str(b, i ? ",\n      " : "\n      ");
        buf_json(b, tr->vocab.piece[i]);
        buf_printf(b, ": %lld", (long long)i);
    }
    buf_str(b, "\n    },\n    \"merges\": [");
    struct tok_merges last = {0}; /* a pair merged twice keeps its later place, as in the library */
    if (tr) merges_init(&last, tr->n_merges);
    for (size_t i = 0; tr && i < tr->n_merges; i++)
        merges_put(&last, (int32_t)(tr->merge[i] >> 32), (int32_t)(uint32_t)tr->merge[i], (int32_t)i, 0);
    const char *comma = "";
    for (size_t i = 0; tr && i < tr->n_merges; i++) {
        int32_t left = (int32_t)(tr->merge[i] >> 32), right = (int32_t)(uint32_t)tr->merge[i];
        if (merges_find(&last, left, right)->rank != (int32_t)i) continue;
        buf_printf(b, "%s\n      [", comma);
        buf_json(b, tr->vocab.piece[left]);
        buf_str(b, ", ");
        buf_json(b, tr->vocab.piece[right]);
        buf_str(b, "]");
        comma = ",";
    }
    free(last.slot);
    buf_str(b, "\n    ]\n  }\n}\n");
}

static int check_options(const struct tok_train_options *o, struct err *e)
{
    for (int i = 0; i < o->n_specials; i++) {
        const char *s = o->specials[i];
        if (!*s || !utf8_valid(s, strlen(s), NULL))
            return err_set(e, ERR_CONFIG, "special token %d is empty or not UTF-8", i + 1);
        for (int k = 0; k < i; k++)
            if (!strcmp(s, o->specials[k]))
                return err_set(e, ERR_CONFIG, "the special token \"%.60s\" is named twice", s);
    }
    return 0;
}

static int train(struct trainer *tr, const struct tok_train_options *o, const char *const *texts, int64_t n,
                 struct tokenizer **out, struct err *e)
{
    int32_t byte_id[256];
    first_tokens(tr, o->specials, o->n_specials, byte_id);
    if (o->vocab_size < tr->vocab.count || o->vocab_size >= 1 << 22)
        return err_set(e, ERR_CONFIG,
                       "a vocabulary of %lld tokens: at least %lld (the special tokens and 256 bytes) and less than %d "
                       "were expected",
                       (long long)o->vocab_size, (long long)tr->vocab.count, 1 << 22);
    struct buf file = {0};
    struct tokenizer *cutter = NULL; /* the pre-tokenizer alone: words are cut as they will be */
    write_file(&file, o, NULL);
    int rc = tok_parse(file.data, file.len, &cutter, e);
    if (!rc) rc = count_words(tr, cutter, texts, n, e);
    tok_free(cutter);
    file.len = 0;
    if (!rc) {
        count_pairs(tr, byte_id);
        merge_pairs(tr, o->vocab_size, o->min_frequency);
        write_file(&file, o, tr);
        rc = tok_parse(file.data, file.len, out, e);
    }
    buf_free(&file);
    return rc;
}

int tok_train_bpe(const char *const *texts, int64_t n, const struct tok_train_options *options, struct tokenizer **t,
                  struct err *e)
{
    static const char *const specials[] = {"<pad>", "<s>", "</s>"};
    struct tok_train_options o = *options;
    *t = NULL;
    if (!o.vocab_size) o.vocab_size = 2048;
    if (!o.min_frequency) o.min_frequency = 2;
    if (!o.specials) {
        o.specials = specials;
        o.n_specials = 3;
    }
    int rc = check_options(&o, e);
    if (rc) return rc;
    struct trainer tr = {0};
    rc = train(&tr, &o, texts, n, t, e);
    for (size_t i = 0; i < tr.n_heap; i++) free(tr.heap[i].word);
    free(tr.heap);
    free(tr.round);
    free(tr.pairs);
    free(tr.merge);
    free(tr.count);
    free(tr.symbol);
    free(tr.start);
    free(tr.len);
    vocab_free(&tr.words);
    vocab_free(&tr.vocab);
    arena_free(&tr.arena);
    return rc;
}
