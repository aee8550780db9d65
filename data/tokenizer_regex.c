/* Patterns of tokenizer.json by PCRE2. The library uses Oniguruma (Ruby's syntax, Unicode 16); the two agree on what
 * such files hold once the shorthand classes are written out, and what they would read in different ways is refused. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "data/tokenizer_internal.h"

#include <ctype.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>
/* Characters that Unicode 15 and 16 added to a class: PCRE2 10.42 knows version 14. In a newer one they are said twice.
 */
/* clang-format off */
#define LATE_L \
    "\\x{1C89}-\\x{1C8A}\\x{A7CB}-\\x{A7CD}\\x{A7DA}-\\x{A7DC}\\x{105C0}-\\x{105F3}\\x{10D4A}-\\x{10D65}" \
    "\\x{10D6F}-\\x{10D85}\\x{10EC2}-\\x{10EC4}\\x{1123F}-\\x{11240}\\x{11380}-\\x{11389}\\x{1138B}\\x{1138E}" \
    "\\x{11390}-\\x{113B5}\\x{113B7}\\x{113D1}\\x{113D3}\\x{11BC0}-\\x{11BE0}\\x{11F02}\\x{11F04}-\\x{11F10}" \
    "\\x{11F12}-\\x{11F33}\\x{1342F}\\x{13441}-\\x{13446}\\x{13460}-\\x{143FA}\\x{16100}-\\x{1611D}" \
    "\\x{16D40}-\\x{16D6C}\\x{18CFF}\\x{1B132}\\x{1B155}\\x{1DF25}-\\x{1DF2A}\\x{1E030}-\\x{1E06D}" \
    "\\x{1E4D0}-\\x{1E4EB}\\x{1E5D0}-\\x{1E5ED}\\x{1E5F0}\\x{2B739}\\x{2EBF0}-\\x{2EE5D}\\x{31350}-\\x{323AF}"
#define LATE_N \
    "\\x{10D40}-\\x{10D49}\\x{116D0}-\\x{116E3}\\x{11BF0}-\\x{11BF9}\\x{11F50}-\\x{11F59}\\x{16130}-\\x{16139}" \
    "\\x{16D70}-\\x{16D79}\\x{1CCF0}-\\x{1CCF9}\\x{1D2C0}-\\x{1D2D3}\\x{1E4F0}-\\x{1E4F9}\\x{1E5F1}-\\x{1E5FA}"
#define LATE_ND \
    "\\x{10D40}-\\x{10D49}\\x{116D0}-\\x{116E3}\\x{11BF0}-\\x{11BF9}\\x{11F50}-\\x{11F59}\\x{16130}-\\x{16139}" \
    "\\x{16D70}-\\x{16D79}\\x{1CCF0}-\\x{1CCF9}\\x{1E4F0}-\\x{1E4F9}\\x{1E5F1}-\\x{1E5FA}"
#define LATE_M \
    "\\x{897}\\x{CF3}\\x{ECE}\\x{10D69}-\\x{10D6D}\\x{10EFC}-\\x{10EFF}\\x{11241}\\x{113B8}-\\x{113C0}\\x{113C2}" \
    "\\x{113C5}\\x{113C7}-\\x{113CA}\\x{113CC}-\\x{113D0}\\x{113D2}\\x{113E1}-\\x{113E2}\\x{11F00}-\\x{11F01}" \
    "\\x{11F03}\\x{11F34}-\\x{11F3A}\\x{11F3E}-\\x{11F42}\\x{11F5A}\\x{13440}\\x{13447}-\\x{13455}" \
    "\\x{1611E}-\\x{1612F}\\x{1E08F}\\x{1E4EC}-\\x{1E4EF}\\x{1E5EE}-\\x{1E5EF}"
/* Beside letters, marks, decimal digits, letter numbers, connectors: other Alphabetic, Latin-1's superscripts. */
#define LATE_W \
    "\\x{B2}-\\x{B3}\\x{B9}\\x{BC}-\\x{BE}\\x{897}\\x{CF3}\\x{ECE}\\x{1C89}-\\x{1C8A}\\x{24B6}-\\x{24E9}" \
    "\\x{A7CB}-\\x{A7CD}\\x{A7DA}-\\x{A7DC}\\x{105C0}-\\x{105F3}\\x{10D40}-\\x{10D65}\\x{10D69}-\\x{10D6D}" \
    "\\x{10D6F}-\\x{10D85}\\x{10EC2}-\\x{10EC4}\\x{10EFC}-\\x{10EFF}\\x{1123F}-\\x{11241}\\x{11380}-\\x{11389}" \
    "\\x{1138B}\\x{1138E}\\x{11390}-\\x{113B5}\\x{113B7}-\\x{113C0}\\x{113C2}\\x{113C5}\\x{113C7}-\\x{113CA}" \
    "\\x{113CC}-\\x{113D3}\\x{113E1}-\\x{113E2}\\x{116D0}-\\x{116E3}\\x{11BC0}-\\x{11BE0}\\x{11BF0}-\\x{11BF9}" \
    "\\x{11F00}-\\x{11F10}\\x{11F12}-\\x{11F3A}\\x{11F3E}-\\x{11F42}\\x{11F50}-\\x{11F5A}\\x{1342F}" \
    "\\x{13440}-\\x{13455}\\x{13460}-\\x{143FA}\\x{16100}-\\x{16139}\\x{16D40}-\\x{16D6C}\\x{16D70}-\\x{16D79}" \
    "\\x{18CFF}\\x{1B132}\\x{1B155}\\x{1CCF0}-\\x{1CCF9}\\x{1DF25}-\\x{1DF2A}\\x{1E030}-\\x{1E06D}\\x{1E08F}" \
    "\\x{1E4D0}-\\x{1E4F9}\\x{1E5D0}-\\x{1E5FA}\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{1F189}" \
    "\\x{2B739}\\x{2EBF0}-\\x{2EE5D}\\x{31350}-\\x{323AF}"
/* clang-format on */

struct tok_regex {
    pcre2_code *code, *late; /* without and with the characters above: few texts need the slower one */
    pcre2_match_context *context;
};

void spans_add(struct tok_spans *s, size_t at, size_t end, bool match)
{
    s->v = mem_grow(s->v, &s->cap, s->n + 1, sizeof *s->v);
    s->v[s->n++] = (struct tok_span){at, end, match};
}

struct translation {
    const char *pattern, *at;
    bool late, in_class;
    struct buf out;
    struct err *e;
};

static int refuse(struct translation *t, const char *what)
{
    return err_set(t->e, ERR_FORMAT, "the pattern \"%s\" uses %s at character %zu, which triad does not read",
                   t->pattern, what, (size_t)(t->at - t->pattern));
}

/* A class written out: as members inside brackets, else with brackets of its own. */
static int put_class(struct translation *t, bool negated, const char *members, const char *late)
{
    if (t->in_class && negated) return refuse(t, "a negated class inside [...]");
    if (!t->in_class) buf_str(&t->out, negated ? "[^" : "[");
    buf_str(&t->out, members);
    if (t->late) buf_str(&t->out, late);
    if (!t->in_class) buf_str(&t->out, "]");
    return 0;
}

/* \p{L} and \P{L}, \p{^L}; t->at is at the p. */
static int property(struct translation *t)
{
    static const struct {
        const char *name, *members, *late;
    } known[] = {{"L", "\\p{L}", LATE_L},
                 {"Letter", "\\p{L}", LATE_L},
                 {"N", "\\p{N}", LATE_N},
                 {"Nd", "\\p{Nd}", LATE_ND},
                 {"M", "\\p{M}", LATE_M}};
    bool negated = *t->at == 'P';
    const char *name = t->at + 2, *end = t->at[1] == '{' ? strchr(name, '}') : NULL;
    if (!end) return refuse(t, "\\p without {...}");
    if (*name == '^') {
        negated = !negated;
        name++;
    }
    size_t n = (size_t)(end - name);
    t->at = end + 1;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strlen(known[i].name) == n && !strncmp(known[i].name, name, n))
            return put_class(t, negated, known[i].members, known[i].late);
    buf_printf(&t->out, "\\%c{%.*s}", negated ? 'P' : 'p', (int)n, name);
    return 0;
}

static int escape(struct translation *t)
{
    char c = *++t->at;
    if (!c) return refuse(t, "a \\ with nothing after it");
    if (c == 'p' || c == 'P') return property(t);
    t->at++;
    switch (c) {
    case 's': buf_str(&t->out, "\\p{White_Space}"); return 0;
    case 'S': buf_str(&t->out, "\\P{White_Space}"); return 0;
    case 'd':
    case 'D': return put_class(t, c == 'D', "\\p{Nd}", LATE_ND);
    case 'w':
    case 'W':
        return put_class(t, c == 'W', "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{B2}-\\x{B3}\\x{B9}\\x{BC}-\\x{BE}", LATE_W);
    case 'v': buf_str(&t->out, "\\x{0B}"); return 0;
    case 'u':
        for (int i = 0; i < 4; i++)
            if (!isxdigit((unsigned char)t->at[i])) return refuse(t, "\\u without four digits");
        buf_printf(&t->out, "\\x{%.4s}", t->at);
        t->at += 4;
        return 0;
    }
    if (isalnum((unsigned char)c) && !strchr("rntfaexAz", c)) {
        t->at--;
        return refuse(t, "an escape that has more than one reading");
    }
    buf_printf(&t->out, "\\%c", c);
    return 0;
}

static int group(struct translation *t)
{
    static const char *const plain[] = {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!", "(?i:", "(?i)", "(?-i:", "(?-i)"};
    if (t->at[1] == '?' || t->at[1] == '*') {
        for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
            size_t n = strlen(plain[i]);
            if (!strncmp(t->at, plain[i], n)) {
                buf_str(&t->out, plain[i]);
                t->at += n;
                return 0;
            }
        }
        return refuse(t, "a kind of group");
    }
    buf_str(&t->out, "(");
    t->at++;
    return 0;
}

/* Writes the pattern as PCRE2 must have it. */
static int translate(struct translation *t)
{
    for (t->at = t->pattern; *t->at;) {
        int rc = 0;
        char c = *t->at;
        if (c == '\\') {
            rc = escape(t);
        } else if (t->in_class) {
            if (c == '[')
                rc = refuse(t, "a class inside a class");
            else if (c == '&' && t->at[1] == '&')
                rc = refuse(t, "an intersection of classes");
            if (c == ']') t->in_class = false;
            buf_add(&t->out, t->at++, 1);
        } else if (c == '[') {
            t->in_class = true;
            size_t n = t->at[1] == '^' ? 2 : 1;
            if (t->at[n] == ']') rc = refuse(t, "a class that begins with ]");
            buf_add(&t->out, t->at, n);
            t->at += n;
        } else if (c == '(') {
            rc = group(t);
        } else if (c == '}' && t->at[1] == '+') {
            rc = refuse(t, "a + behind {...}");
        } else if (c == '{' && t->at[1] == ',') {
            buf_str(&t->out, "{0,");
            t->at += 2;
        } else {
            buf_add(&t->out, t->at++, 1);
        }
        if (rc) return rc;
    }
    return 0;
}

static pcre2_code *compile(const char *pattern, bool late, struct err *e)
{
    struct translation t = {.pattern = pattern, .late = late, .e = e};
    pcre2_code *code = NULL;
    if (!translate(&t)) {
        int error;
        PCRE2_SIZE at;
        code = pcre2_compile((PCRE2_SPTR)(t.out.data ? t.out.data : ""), t.out.len,
                             PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &at, NULL);
        if (code) {
            pcre2_jit_compile(code, PCRE2_JIT_COMPLETE); /* without it matching is only slower */
        } else {
            char why[120];
            pcre2_get_error_message(error, (PCRE2_UCHAR *)why, sizeof why);
            err_set(e, ERR_FORMAT, "the pattern \"%s\" is not a regular expression: %s", pattern, why);
        }
    }
    buf_free(&t.out);
    return code;
}

struct tok_regex *regex_new(const char *pattern, struct err *e)
{
    struct tok_regex *r = mem_zero(1, sizeof *r);
    r->code = compile(pattern, false, e);
    r->late = r->code ? compile(pattern, true, e) : NULL;
    r->context = pcre2_match_context_create(NULL);
    if (!r->late || !r->context) {
        regex_free(r);
        err_set(e, ERR_MEMORY, "not enough memory for a regular expression");
        return NULL;
    }
    pcre2_set_match_limit(r->context, 5000000); /* a pattern that explodes ends within a second, with an error */
    return r;
}

void regex_free(struct tok_regex *r)
{
    if (!r) return;
    pcre2_code_free(r->code);
    pcre2_code_free(r->late);
    pcre2_match_context_free(r->context);
    free(r);
}

int regex_spans(const struct tok_regex *r, const char *s, size_t n, struct tok_spans *out, struct err *e)
{
    bool late = false;
    for (size_t i = 0; i < n && !late; i++) late = (unsigned char)s[i] >= 0xe0; /* U+0800 and up */
    const pcre2_code *code = late ? r->late : r->code;
    pcre2_match_data *data = pcre2_match_data_create(1, NULL);
    if (!data) return err_set(e, ERR_MEMORY, "not enough memory to match a regular expression");
    size_t prev = 0, from = 0;
    int rc = 0;
    while (from <= n) {
        rc = pcre2_match(code, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK, data, r->context);
        if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
            rc = pcre2_match(code, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data, r->context);
        if (rc < 0) break;
        const PCRE2_SIZE *at = pcre2_get_ovector_pointer(data);
        size_t start = at[0], end = at[1];
        if (start > end || start < prev) break; /* \K in a lookahead; refused above, so never */
        if (start == end && start == prev && prev > 0) {
            /* Nothing right behind a match is no match: Oniguruma's iterator goes one character on. */
            if (from >= n) break;
            uint32_t c;
            from += (size_t)uni_next(s + from, s + n, &c);
            continue;
        }
        if (start > prev) spans_add(out, prev, start, false);
        spans_add(out, start, end, true);
        prev = end;
        from = end;
        if (start == end) {
            if (end >= n) break;
            uint32_t c;
            from += (size_t)uni_next(s + end, s + n, &c);
        }
    }
    pcre2_match_data_free(data);
    if (rc < 0 && rc != PCRE2_ERROR_NOMATCH) {
        char why[120];
        pcre2_get_error_message(rc, (PCRE2_UCHAR *)why, sizeof why);
        return err_set(e, ERR_FORMAT, "a pattern of the tokenizer gives up on a text of %zu bytes: %s", n, why);
    }
    if (prev < n) spans_add(out, prev, n, false);
    return 0;
}
