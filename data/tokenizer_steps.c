/* Normalizers and pre-tokenizers: what happens to a text before the model sees its words. Each step reads the text
 * whole and writes it anew; offsets into the original are not kept. */
#include "data/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>
#include "base/text.h"

void pieces_add(struct tok_pieces *p, const char *s, size_t n, int32_t id)
{
    if (!n && id < 0) return;
    p->v = mem_grow(p->v, &p->cap, p->n + 1, sizeof *p->v);
    p->v[p->n++] = (struct tok_piece){p->text.len, n, id};
    buf_add(&p->text, s, n);
}

void pieces_clear(struct tok_pieces *p)
{
    p->text.len = 0;
    p->n = 0;
}

void pieces_free(struct tok_pieces *p)
{
    buf_free(&p->text);
    free(p->v);
    *p = (struct tok_pieces){0};
}

/* GPT-2 (Radford et al. 2019, encoder.py): printable bytes of Latin-1 stand for themselves, the 68 others, in order,
 * for U+0100 and up. */
static bool printable(unsigned b)
{
    return (b > ' ' && b < 0x7f) || (b > 0xa0 && b != 0xad);
}

uint32_t byte_char(unsigned char b)
{
    if (printable(b)) return b;
    return 256u + (b <= ' ' ? b : b <= 0xa0 ? b - 0x7fu + 33 : 67);
}

int char_byte(uint32_t c)
{
    if (c < 256) return printable(c) ? (int)c : -1;
    if (c <= 256 + 32) return (int)(c - 256);
    if (c < 256 + 67) return (int)(c - 256 - 33 + 0x7f);
    return c == 256 + 67 ? 0xad : -1;
}

static void put_bytes(const char *s, size_t n, struct buf *out)
{
    for (size_t i = 0; i < n; i++) uni_put(out, byte_char((unsigned char)s[i]));
}

/* ---- normalizers */

static int literal_spans(const char *what, const char *s, size_t n, struct tok_spans *out)
{
    size_t k = strlen(what), prev = 0;
    for (const char *hit; k && (hit = memmem(s + prev, n - prev, what, k));) {
        size_t at = (size_t)(hit - s);
        if (at > prev) spans_add(out, prev, at, false);
        spans_add(out, at, at + k, true);
        prev = at + k;
    }
    if (prev < n) spans_add(out, prev, n, false);
    return 0;
}

int steps_match(const struct tok_step *s, const char *text, size_t n, struct tok_spans *out, struct err *e)
{
    return s->regex ? regex_spans(s->regex, text, n, out, e) : literal_spans(s->text, text, n, out);
}

static int replace(const struct tok_step *step, const char *s, size_t n, struct buf *out, struct err *e)
{
    struct tok_spans spans = {0};
    int rc = n ? steps_match(step, s, n, &spans, e) : 0;
    for (size_t i = 0; i < spans.n && !rc; i++) {
        if (spans.v[i].match)
            buf_str(out, step->content);
        else
            buf_add(out, s + spans.v[i].at, spans.v[i].end - spans.v[i].at);
    }
    free(spans.v);
    return rc;
}

static void strip(const struct tok_step *step, const char *s, size_t n, struct buf *out)
{
    const char *end = s + n, *from = s, *to = s; /* `to`: behind the last character that is no space */
    uint32_t c;
    for (const char *p = s; p < end;) {
        p += uni_next(p, end, &c);
        if (!uni_space(c))
            to = p;
        else if (to == s)
            from = p;
    }
    if (!step->left) from = s;
    if (!step->right) to = end;
    if (to > from) buf_add(out, from, (size_t)(to - from));
}

static void without(bool (*drop)(uint32_t), const char *s, size_t n, struct buf *out)
{
    for (const char *end = s + n; s < end;) {
        uint32_t c;
        int k = uni_next(s, end, &c);
        if (!drop(c)) buf_add(out, s, (size_t)k);
        s += k;
    }
}

/* Devlin et al. 2019, BasicTokenizer: clean, spaces around CJK, no accents, lower case. */
static int bert(const struct tok_step *step, const char *s, size_t n, struct buf *out, struct err *e)
{
    struct buf a = {0}, b = {0};
    int rc = 0;
    for (const char *end = s + n; s < end;) {
        uint32_t c;
        int k = uni_next(s, end, &c);
        bool space = step->clean && uni_space(c), chinese = step->chinese && uni_chinese(c);
        if (!(step->clean && (c == 0 || c == 0xfffd || uni_control(c)))) {
            if (chinese) buf_str(&a, " ");
            buf_add(&a, space ? " " : s, space ? 1 : (size_t)k);
            if (chinese) buf_str(&a, " ");
        }
        s += k;
    }
    if (step->accents && a.len) {
        rc = uni_normalize(UNI_NFD, a.data, a.len, &b, e);
        a.len = 0;
        if (b.len) without(uni_accent, b.data, b.len, &a);
    }
    if (!rc && step->lower && a.len)
        uni_lowercase(a.data, a.len, out);
    else if (a.len)
        buf_add(out, a.data, a.len);
    buf_free(&a);
    buf_free(&b);
    return rc;
}

int steps_normalize(const struct tok_steps *steps, const char *s, size_t n, struct buf *out, struct err *e)
{
    struct buf a = {0}, b = {0};
    buf_add(&a, s, n);
    int rc = 0;
    for (size_t i = 0; i < steps->n && !rc && a.len; i++) {
        const struct tok_step *step = &steps->v[i];
        b.len = 0;
        switch (step->kind) {
        case NORM_FORM: rc = uni_normalize(step->form, a.data, a.len, &b, e); break;
        case NORM_LOWERCASE: uni_lowercase(a.data, a.len, &b); break;
        case NORM_REPLACE: rc = replace(step, a.data, a.len, &b, e); break;
        case NORM_STRIP: strip(step, a.data, a.len, &b); break;
        case NORM_STRIP_ACCENTS: without(uni_mark, a.data, a.len, &b); break;
        case NORM_PREPEND:
            buf_str(&b, step->text);
            buf_add(&b, a.data, a.len);
            break;
        case NORM_BERT: rc = bert(step, a.data, a.len, &b, e); break;
        case NORM_BYTE_LEVEL: put_bytes(a.data, a.len, &b); break;
        default: CHECK_MSG(false, "step %d is no normalizer", step->kind);
        }
        struct buf swap = a;
        a = b;
        b = swap;
    }
    if (!rc && a.len) buf_add(out, a.data, a.len);
    buf_free(&a);
    buf_free(&b);
    return rc;
}

/* ---- pre-tokenizers */

/* Joins matches with what is beside them, or drops them, as the library's SplitDelimiterBehavior says. */
static void put_spans(const char *s, const struct tok_spans *spans, enum split_behavior behavior,
                      struct tok_pieces *out)
{
    bool before = false; /* whether the span before this one was a match */
    bool open = false;   /* whether the last piece is of this text and can grow */
    for (size_t i = 0; i < spans->n; i++) {
        size_t at = spans->v[i].at, end = spans->v[i].end;
        bool match = spans->v[i].match;
        if (behavior == SPLIT_REMOVED && match) continue;
        /* Of matches side by side only the last goes with what follows, only the first with what was before. */
        bool joins =
            (behavior == SPLIT_CONTIGUOUS && match == before) || (behavior == SPLIT_PREVIOUS && match && !before);
        if (behavior == SPLIT_NEXT && match && i + 1 < spans->n && !spans->v[i + 1].match) {
            end = spans->v[++i].end;
            match = false;
        }
        before = match;
        if (joins && open) {
            buf_add(&out->text, s + at, end - at);
            out->v[out->n - 1].n += end - at;
        } else if (!joins || i == 0 || end > at) {
            pieces_add(out, s + at, end - at, -1);
            open = end > at;
        }
    }
}

/* Every character of the kind is a match of its own. */
static void char_spans(bool (*is)(uint32_t), const char *s, size_t n, struct tok_spans *out)
{
    size_t prev = 0;
    for (size_t i = 0; i < n;) {
        uint32_t c;
        size_t k = (size_t)uni_next(s + i, s + n, &c);
        if (is(c)) {
            if (i > prev) spans_add(out, prev, i, false);
            spans_add(out, i, i + k, true);
            prev = i + k;
        }
        i += k;
    }
    if (n > prev) spans_add(out, prev, n, false);
}

/* \w+|[^\w\s]+ */
static void split_words(const char *s, size_t n, struct tok_pieces *out)
{
    size_t start = 0;
    int was = 0; /* 0 space, 1 word, 2 other */
    for (size_t i = 0; i < n;) {
        uint32_t c;
        size_t k = (size_t)uni_next(s + i, s + n, &c);
        int is = uni_space(c) ? 0 : uni_word(c) ? 1 : 2;
        if (is != was) {
            if (was) pieces_add(out, s + start, i - start, -1);
            start = i;
            was = is;
        }
        i += k;
    }
    if (was) pieces_add(out, s + start, n - start, -1);
}

static int pre_tokenize_one(const struct tok_step *step, const char *s, size_t n, struct tok_pieces *out, struct err *e)
{
    struct tok_spans spans = {0}, inner = {0};
    int rc = 0;
    switch (step->kind) {
    case PRE_SPLIT:
        rc = steps_match(step, s, n, &spans, e);
        for (size_t i = 0; i < spans.n && step->invert; i++) spans.v[i].match = !spans.v[i].match;
        put_spans(s, &spans, step->behavior, out);
        break;
    case PRE_BERT:
        char_spans(uni_space, s, n, &spans);
        for (size_t i = 0; i < spans.n; i++) {
            const struct tok_span *w = &spans.v[i];
            if (w->match) continue;
            inner.n = 0;
            char_spans(uni_punctuation, s + w->at, w->end - w->at, &inner);
            put_spans(s + w->at, &inner, SPLIT_ISOLATED, out);
        }
        break;
    case PRE_WHITESPACE: split_words(s, n, out); break;
    case PRE_WHITESPACE_SPLIT:
        char_spans(uni_space, s, n, &spans);
        put_spans(s, &spans, SPLIT_REMOVED, out);
        break;
    case PRE_PUNCTUATION:
        char_spans(uni_punctuation, s, n, &spans);
        put_spans(s, &spans, step->behavior, out);
        break;
    case PRE_DIGITS:
        char_spans(uni_numeric, s, n, &spans);
        put_spans(s, &spans, step->individual ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS, out);
        break;
    default: CHECK_MSG(false, "step %d is no pre-tokenizer", step->kind);
    }
    free(spans.v);
    free(inner.v);
    return rc;
}

/* The space in front, the pattern, then bytes as visible characters. */
static int byte_level(const struct tok_step *step, const char *s, size_t n, struct tok_pieces *out, struct err *e)
{
    struct buf spaced = {0};
    if (step->prefix_space && *s != ' ') {
        buf_str(&spaced, " ");
        buf_add(&spaced, s, n);
        s = spaced.data;
        n = spaced.len;
    }
    struct tok_spans spans = {0};
    int rc = 0;
    if (step->use_regex)
        rc = regex_spans(step->regex, s, n, &spans, e);
    else
        spans_add(&spans, 0, n, false);
    for (size_t i = 0; i < spans.n && !rc; i++) {
        size_t start = out->text.len;
        put_bytes(s + spans.v[i].at, spans.v[i].end - spans.v[i].at, &out->text);
        if (out->text.len == start) continue;
        out->v = mem_grow(out->v, &out->cap, out->n + 1, sizeof *out->v);
        out->v[out->n++] = (struct tok_piece){start, out->text.len - start, -1};
    }
    free(spans.v);
    buf_free(&spaced);
    return rc;
}

int steps_pre_tokenize(const struct tok_steps *steps, struct tok_pieces *p, struct tok_pieces *tmp, struct err *e)
{
    for (size_t i = 0; i < steps->n; i++) {
        pieces_clear(tmp);
        for (size_t k = 0; k < p->n; k++) {
            const char *s = p->text.data + p->v[k].at;
            size_t n = p->v[k].n;
            int rc = 0;
            if (p->v[k].id >= 0)
                pieces_add(tmp, s, n, p->v[k].id);
            else if (steps->v[i].kind == PRE_BYTE_LEVEL)
                rc = byte_level(&steps->v[i], s, n, tmp, e);
            else
                rc = pre_tokenize_one(&steps->v[i], s, n, tmp, e);
            if (rc) return rc;
        }
        struct tok_pieces swap = *p;
        *p = *tmp;
        *tmp = swap;
    }
    return 0;
}
