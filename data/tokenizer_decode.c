/* Ids back to text: the tokens of the ids go through the file's decoders, one after the other, then are joined. */
#include "data/tokenizer.h"

#include <stdlib.h>
#include <string.h>
#include "base/text.h"
#include "data/tokenizer_internal.h"

/* As pieces_add, but an empty token stays: decoders count tokens. */
static void put(struct tok_pieces *out, const char *s, size_t n)
{
    out->v = mem_grow(out->v, &out->cap, out->n + 1, sizeof *out->v);
    out->v[out->n++] = (struct tok_piece){out->text.len, n, 0};
    if (n) buf_add(&out->text, s, n);
}

static void replace_all(struct buf *b, const char *from, const char *to)
{
    struct buf out = {0};
    size_t k = strlen(from);
    const char *s = b->data, *end = b->data + b->len;
    for (const char *hit; (hit = memmem(s, (size_t)(end - s), from, k)); s = hit + k) {
        buf_add(&out, s, (size_t)(hit - s));
        buf_str(&out, to);
    }
    buf_add(&out, s, (size_t)(end - s));
    buf_free(b);
    *b = out;
}

/* All tokens become one: characters that stand for bytes become them, a token with any other character stays as it is.
 */
static void byte_level(const char *text, const struct tok_piece *v, size_t n, struct tok_pieces *out)
{
    struct buf bytes = {0}, good = {0};
    for (size_t i = 0; i < n; i++) {
        const char *s = text + v[i].at, *end = s + v[i].n;
        size_t start = bytes.len;
        while (s < end) {
            uint32_t c;
            s += uni_next(s, end, &c);
            int b = char_byte(c);
            if (b < 0) {
                bytes.len = start;
                buf_add(&bytes, text + v[i].at, v[i].n);
                break;
            }
            buf_add(&bytes, &(char){(char)b}, 1);
        }
    }
    if (bytes.len) uni_repair(bytes.data, bytes.len, &good);
    put(out, good.data, good.len);
    buf_free(&bytes);
    buf_free(&good);
}

static void wordpiece(const struct tok_step *step, bool first, const char *s, size_t n, struct tok_pieces *out)
{
    static const char *const tidy[][2] = {{" .", "."},   {" ?", "?"},     {" !", "!"},    {" ,", ","},
                                          {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},  {" do not", " don't"},
                                          {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
    struct buf b = {0};
    size_t k = strlen(step->text);
    if (!first && n >= k && !memcmp(s, step->text, k))
        buf_add(&b, s + k, n - k);
    else
        buf_printf(&b, "%s%.*s", first ? "" : " ", (int)n, s);
    for (size_t i = 0; i < sizeof tidy / sizeof *tidy && step->cleanup && b.len; i++)
        replace_all(&b, tidy[i][0], tidy[i][1]);
    put(out, b.data, b.len);
    buf_free(&b);
}

static void bpe(const struct tok_step *step, bool last, const char *s, size_t n, struct tok_pieces *out)
{
    struct buf b = {0};
    buf_add(&b, s, n);
    if (n) replace_all(&b, step->text, last ? "" : " ");
    put(out, b.data, b.len);
    buf_free(&b);
}

static void replace(const struct tok_step *step, const char *s, size_t n, struct tok_pieces *out)
{
    struct tok_spans spans = {0};
    struct buf b = {0};
    /* A pattern that gives up leaves the token as it is: decoding has no error to report. */
    if (!n || steps_match(step, s, n, &spans, NULL)) {
        buf_add(&b, s, n);
    } else {
        for (size_t i = 0; i < spans.n; i++) {
            if (spans.v[i].match)
                buf_str(&b, step->content);
            else
                buf_add(&b, s + spans.v[i].at, spans.v[i].end - spans.v[i].at);
        }
    }
    put(out, b.data, b.len);
    buf_free(&b);
    free(spans.v);
}

/* At most `start` times the character at the beginning, `stop` times at the end. */
static void strip(const struct tok_step *step, const char *s, size_t n, struct tok_pieces *out)
{
    size_t k = strlen(step->content), from = 0, to = n;
    for (int64_t i = 0; i < step->start && to - from >= k && !memcmp(s + from, step->content, k); i++) from += k;
    for (int64_t i = 0; i < step->stop && to - from >= k && !memcmp(s + to - k, step->content, k); i++) to -= k;
    put(out, s + from, to - from);
}

static int byte_token(const char *s, size_t n)
{
    if (n != 6 || memcmp(s, "<0x", 3) || s[5] != '>') return -1;
    char hex[3] = {s[3], s[4], 0}, *end;
    if (!strchr("0123456789abcdefABCDEF", hex[0])) return -1;
    long b = strtol(hex, &end, 16);
    return *end ? -1 : (int)b;
}

/* Runs of <0x..> tokens become their text, or one U+FFFD a byte where they are no UTF-8. */
static void byte_fallback(const char *text, const struct tok_piece *v, size_t n, struct tok_pieces *out)
{
    struct buf bytes = {0};
    for (size_t i = 0; i <= n; i++) {
        int b = i < n ? byte_token(text + v[i].at, v[i].n) : -1;
        if (b >= 0) {
            buf_add(&bytes, &(char){(char)b}, 1);
            continue;
        }
        if (bytes.len && utf8_valid(bytes.data, bytes.len, NULL))
            put(out, bytes.data, bytes.len);
        else
            for (size_t k = 0; k < bytes.len; k++) put(out, "\xef\xbf\xbd", 3);
        bytes.len = 0;
        if (i < n) put(out, text + v[i].at, v[i].n);
    }
    buf_free(&bytes);
}

static void decode_step(const struct tok_step *step, const struct tok_pieces *in, struct tok_pieces *out)
{
    const char *text = in->text.data ? in->text.data : "";
    switch (step->kind) {
    case DEC_BYTE_LEVEL: byte_level(text, in->v, in->n, out); return;
    case DEC_BYTE_FALLBACK: byte_fallback(text, in->v, in->n, out); return;
    case DEC_FUSE: put(out, text, in->text.len); return;
    default: break;
    }
    for (size_t i = 0; i < in->n; i++) {
        const char *s = text + in->v[i].at;
        size_t n = in->v[i].n;
        switch (step->kind) {
        case DEC_WORDPIECE: wordpiece(step, i == 0, s, n, out); break;
        case DEC_BPE: bpe(step, i + 1 == in->n, s, n, out); break;
        case DEC_REPLACE: replace(step, s, n, out); break;
        case DEC_STRIP: strip(step, s, n, out); break;
        default: CHECK_MSG(false, "step %d is no decoder", step->kind);
        }
    }
}

void tok_decode(const struct tokenizer *t, const int32_t *ids, int64_t n, bool skip_special, struct buf *out)
{
    struct tok_pieces a = {0}, b = {0};
    for (int64_t i = 0; i < n; i++) {
        const char *piece = tok_piece(t, ids[i]);
        if (piece && !(skip_special && tok_is_special(t, ids[i]))) put(&a, piece, strlen(piece));
    }
    for (size_t i = 0; i < t->decoder.n; i++) {
        pieces_clear(&b);
        decode_step(&t->decoder.v[i], &a, &b);
        struct tok_pieces swap = a;
        a = b;
        b = swap;
    }
    for (size_t i = 0; i < a.n; i++) {
        if (i && !t->has_decoder) buf_str(out, " ");
        if (a.v[i].n) buf_add(out, a.text.data + a.v[i].at, a.v[i].n);
    }
    pieces_free(&a);
    pieces_free(&b);
}
