/* What the tokenizer's own files share. Nothing outside data/tokenizer*.c includes this. */
#ifndef TRIAD_DATA_TOKENIZER_INTERNAL_H
#define TRIAD_DATA_TOKENIZER_INTERNAL_H

#include <stdint.h>
#include "base/buf.h"
#include "base/err.h"
#include "base/mem.h"

/* ---- tokenizer_unicode.c: characters as the library sees them (its tables are of several Unicode versions) */

bool uni_space(uint32_t c);       /* White_Space */
bool uni_word(uint32_t c);        /* \w of Rust's regex */
bool uni_numeric(uint32_t c);     /* category N */
bool uni_punctuation(uint32_t c); /* category P and ASCII punctuation, as BERT splits */
bool uni_control(uint32_t c);     /* categories Cc, Cf, Cs, Co without tab, line feed and carriage return */
bool uni_chinese(uint32_t c);     /* BERT's CJK ranges */
bool uni_accent(uint32_t c);      /* category Mn, as BERT strips */
bool uni_mark(uint32_t c);        /* category M, as StripAccents */

enum uni_form { UNI_NFC, UNI_NFD, UNI_NFKC, UNI_NFKD };

/* Appends the normal form of valid UTF-8. ERR_MEMORY. */
int uni_normalize(enum uni_form form, const char *s, size_t n, struct buf *out, struct err *e);
void uni_lowercase(const char *s, size_t n, struct buf *out); /* appends; one character at a time, no context */
void uni_repair(const char *s, size_t n, struct buf *out);    /* appends; what is not UTF-8 becomes U+FFFD */
int uni_next(const char *s, const char *end, uint32_t *cp);   /* as utf8_next for text known to be valid */
void uni_put(struct buf *out, uint32_t cp);

/* ---- tokenizer_regex.c: the files' patterns (Oniguruma's syntax) by PCRE2 */

struct tok_regex;
struct tok_span {
    size_t at, end;
    bool match;
};
struct tok_spans {
    struct tok_span *v;
    size_t n, cap;
};
void spans_add(struct tok_spans *s, size_t at, size_t end, bool match);

/* ERR_FORMAT where the pattern is wrong or uses what PCRE2 would read in another way. NULL then. */
struct tok_regex *regex_new(const char *pattern, struct err *e);
void regex_free(struct tok_regex *r);

/* Cuts `s` into matches and what lies between, in order, covering all of it. ERR_FORMAT where PCRE2 gives up. */
int regex_spans(const struct tok_regex *r, const char *s, size_t n, struct tok_spans *out, struct err *e);

/* ---- the parts of a file */

enum step_kind {
    /* normalizers */
    NORM_FORM,
    NORM_LOWERCASE,
    NORM_REPLACE,
    NORM_STRIP,
    NORM_STRIP_ACCENTS,
    NORM_PREPEND,
    NORM_BERT,
    NORM_BYTE_LEVEL,
    /* pre-tokenizers */
    PRE_BYTE_LEVEL,
    PRE_SPLIT,
    PRE_BERT,
    PRE_WHITESPACE,
    PRE_WHITESPACE_SPLIT,
    PRE_PUNCTUATION,
    PRE_DIGITS,
    /* decoders */
    DEC_BYTE_LEVEL,
    DEC_WORDPIECE,
    DEC_BPE,
    DEC_REPLACE,
    DEC_STRIP,
    DEC_FUSE,
    DEC_BYTE_FALLBACK,
};

enum split_behavior { SPLIT_REMOVED, SPLIT_ISOLATED, SPLIT_PREVIOUS, SPLIT_NEXT, SPLIT_CONTIGUOUS };

/* One step of a normalizer, pre-tokenizer or decoder; a Sequence is several. Which fields count depends on the kind. */
struct tok_step {
    enum step_kind kind;
    enum uni_form form;
    enum split_behavior behavior;
    bool invert, left, right;            /* PRE_SPLIT; NORM_STRIP */
    bool prefix_space, use_regex;        /* PRE_BYTE_LEVEL */
    bool clean, chinese, accents, lower; /* NORM_BERT */
    bool individual, cleanup;            /* PRE_DIGITS; DEC_WORDPIECE */
    const char *text;                    /* literal pattern, prefix, suffix */
    const char *content;                 /* replacement, or the character that DEC_STRIP takes away */
    int64_t start, stop;                 /* DEC_STRIP */
    struct tok_regex *regex;             /* pattern, if it is one */
};

struct tok_steps {
    struct tok_step *v;
    size_t n, cap;
};

/* String -> id, open addressing; the strings belong to the arena. */
struct tok_vocab {
    const char **piece; /* by id; NULL where there is none */
    uint32_t *len;      /* bytes of each */
    int64_t n;          /* highest id + 1 */
    int64_t count;      /* strings */
    size_t cap;
    int32_t *slot; /* -1: empty */
    size_t slots;
    size_t longest; /* bytes of the longest string */
};
int32_t vocab_find(const struct tok_vocab *v, const char *s, size_t n);   /* -1 where there is none */
void vocab_add(struct tok_vocab *v, const char *s, size_t n, int32_t id); /* s is kept, not copied; s and id are new */
void vocab_free(struct tok_vocab *v);

/* (left id, right id) -> rank and new id, open addressing. */
struct tok_merge {
    uint64_t pair; /* left << 32 | right */
    int32_t rank, id;
};
struct tok_merges {
    struct tok_merge *slot; /* id -1: empty */
    size_t slots, n;
};
void merges_init(struct tok_merges *m, size_t n);
void merges_put(struct tok_merges *m, int32_t left, int32_t right, int32_t rank, int32_t id); /* the last one counts */
const struct tok_merge *merges_find(const struct tok_merges *m, int32_t left, int32_t right);

struct tok_added {
    const char *content, *pattern; /* the pattern is the content, normalized if `normalized` */
    size_t n;                      /* bytes of the pattern */
    int32_t id;
    bool single_word, lstrip, rstrip, normalized, special;
};

/* Added tokens that are looked for together: sorted by first byte, longest first. */
struct tok_added_set {
    struct tok_added *v;
    size_t n, cap;
    size_t first[257];
};

struct tokenizer {
    struct arena arena;
    char *json;
    size_t json_len;
    struct tok_steps normalizer, pre, decoder;
    bool has_decoder;
    struct tok_vocab model_vocab; /* what the model knows */
    struct tok_vocab vocab;       /* the same and the added tokens */
    bool *special;                /* by id, vocab.n long */
    const char **shown;           /* by id: what an added token that is normalized decodes to; else NULL */
    bool wordpiece;
    struct tok_merges merges;
    const char *unk, *prefix, *suffix; /* unk and suffix may be NULL (BPE); prefix too */
    int32_t unk_id;
    bool fuse_unk, byte_fallback, ignore_merges;
    int64_t max_word_chars;
    int32_t byte_id[256]; /* "<0x41>" -> id, -1 */
    struct tok_added_set raw, normalized;
    int32_t *before, *after; /* ids that the post-processor puts around a text */
    int64_t n_before, n_after;
    int64_t max_length; /* of the file's truncation; INT64_MAX without */
    int32_t pad_id;
};

/* ---- tokenizer_json.c */
int tok_read_json(struct tokenizer *t, const char *data, size_t len, struct err *e);

/* ---- tokenizer_steps.c: normalizers and pre-tokenizers */

/* Texts in order, stored one behind the other; one that is a token already has its id, else -1. */
struct tok_piece {
    size_t at, n;
    int32_t id;
};
struct tok_pieces {
    struct buf text;
    struct tok_piece *v;
    size_t n, cap;
};
void pieces_add(struct tok_pieces *p, const char *s, size_t n, int32_t id); /* a text without bytes is left out */
void pieces_clear(struct tok_pieces *p);
void pieces_free(struct tok_pieces *p);
int steps_normalize(const struct tok_steps *steps, const char *s, size_t n, struct buf *out, struct err *e);
/* Leaves the result in *p; `tmp` is scratch of the same kind. */
int steps_pre_tokenize(const struct tok_steps *steps, struct tok_pieces *p, struct tok_pieces *tmp, struct err *e);
int steps_match(const struct tok_step *s, const char *text, size_t n, struct tok_spans *out, struct err *e);
uint32_t byte_char(unsigned char b); /* GPT-2's visible character for a byte */
int char_byte(uint32_t c);           /* and back; -1 where it stands for none */

/* ---- tokenizer_model.c */

/* Scratch of one encode call. */
struct tok_ids {
    int32_t *v;
    size_t n, cap;
};
struct tok_word {
    struct tok_symbol *symbol;
    size_t n, cap;
    struct tok_candidate *heap;
    size_t heap_n, heap_cap;
    struct buf key;
};
int model_encode(const struct tokenizer *t, const char *s, size_t n, struct tok_word *w, struct tok_ids *out,
                 struct err *e);
void word_free(struct tok_word *w);
void ids_add(struct tok_ids *ids, int32_t id);

#endif
