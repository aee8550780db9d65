/* Characters as the `tokenizers` library sees them.
 *
 * Its parts carry tables of different Unicode versions (8 for BERT's classes, 11 for normal forms, 16 and newer for
 * words and lower case), while utf8proc has one version. The spans below are where they part, found by asking version
 * 0.23 of the library about every character: `*_yes` has the property there, `*_no` has not, whatever utf8proc says.
 * They matter only for rare scripts, but ids must agree on every text. */
#include "data/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>
#include "base/text.h"

struct span {
    uint32_t lo, hi;
};

/* clang-format off */
static const struct span punct_yes[] = {
    {0x166d, 0x166d}, {0x111c9, 0x111c9}
};
static const struct span punct_no[] = {
    {0x61d, 0x61d}, {0x9fd, 0x9fd}, {0xa76, 0xa76}, {0xc77, 0xc77}, {0xc84, 0xc84}, {0x1b7d, 0x1b7e},
    {0x2e43, 0x2e4f}, {0x2e52, 0x2e5d}, {0x10ead, 0x10ead}, {0x10f55, 0x10f59}, {0x10f86, 0x10f89},
    {0x1144b, 0x1144f}, {0x1145a, 0x1145b}, {0x1145d, 0x1145d}, {0x11660, 0x1166c}, {0x116b9, 0x116b9},
    {0x1183b, 0x1183b}, {0x11944, 0x11946}, {0x119e2, 0x119e2}, {0x11a3f, 0x11a46}, {0x11a9a, 0x11a9c},
    {0x11a9e, 0x11aa2}, {0x11b00, 0x11b09}, {0x11c41, 0x11c45}, {0x11c70, 0x11c71}, {0x11ef7, 0x11ef8},
    {0x11f43, 0x11f4f}, {0x11fff, 0x11fff}, {0x12ff1, 0x12ff2}, {0x16e97, 0x16e9a}, {0x16fe2, 0x16fe2},
    {0x1e95e, 0x1e95f}
};
static const struct span mn_yes[] = {
    {0x1734, 0x1734}
};
static const struct span mn_no[] = {
    {0x7fd, 0x7fd}, {0x898, 0x89f}, {0x8ca, 0x8e1}, {0x9fe, 0x9fe}, {0xafa, 0xaff}, {0xb55, 0xb55}, {0xc04, 0xc04},
    {0xc3c, 0xc3c}, {0xd00, 0xd00}, {0xd3b, 0xd3c}, {0xd81, 0xd81}, {0xeba, 0xeba}, {0xece, 0xece}, {0x180f, 0x180f},
    {0x1885, 0x1886}, {0x1abf, 0x1ace}, {0x1df6, 0x1dfb}, {0xa82c, 0xa82c}, {0xa8c5, 0xa8c5}, {0xa8ff, 0xa8ff},
    {0xa9bd, 0xa9bd}, {0x10d24, 0x10d27}, {0x10eab, 0x10eac}, {0x10efd, 0x10eff}, {0x10f46, 0x10f50},
    {0x10f82, 0x10f85}, {0x11070, 0x11070}, {0x11073, 0x11074}, {0x110c2, 0x110c2}, {0x111c9, 0x111c9},
    {0x111cf, 0x111cf}, {0x1123e, 0x1123e}, {0x11241, 0x11241}, {0x1133b, 0x1133b}, {0x11438, 0x1143f},
    {0x11442, 0x11444}, {0x11446, 0x11446}, {0x1145e, 0x1145e}, {0x1182f, 0x11837}, {0x11839, 0x1183a},
    {0x1193b, 0x1193c}, {0x1193e, 0x1193e}, {0x11943, 0x11943}, {0x119d4, 0x119d7}, {0x119da, 0x119db},
    {0x119e0, 0x119e0}, {0x11a01, 0x11a0a}, {0x11a33, 0x11a38}, {0x11a3b, 0x11a3e}, {0x11a47, 0x11a47},
    {0x11a51, 0x11a56}, {0x11a59, 0x11a5b}, {0x11a8a, 0x11a96}, {0x11a98, 0x11a99}, {0x11c30, 0x11c36},
    {0x11c38, 0x11c3d}, {0x11c3f, 0x11c3f}, {0x11c92, 0x11ca7}, {0x11caa, 0x11cb0}, {0x11cb2, 0x11cb3},
    {0x11cb5, 0x11cb6}, {0x11d31, 0x11d36}, {0x11d3a, 0x11d3a}, {0x11d3c, 0x11d3d}, {0x11d3f, 0x11d45},
    {0x11d47, 0x11d47}, {0x11d90, 0x11d91}, {0x11d95, 0x11d95}, {0x11d97, 0x11d97}, {0x11ef3, 0x11ef4},
    {0x11f00, 0x11f01}, {0x11f36, 0x11f3a}, {0x11f40, 0x11f40}, {0x11f42, 0x11f42}, {0x13440, 0x13440},
    {0x13447, 0x13455}, {0x16f4f, 0x16f4f}, {0x16fe4, 0x16fe4}, {0x1cf00, 0x1cf2d}, {0x1cf30, 0x1cf46},
    {0x1e000, 0x1e006}, {0x1e008, 0x1e018}, {0x1e01b, 0x1e021}, {0x1e023, 0x1e024}, {0x1e026, 0x1e02a},
    {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef}, {0x1e4ec, 0x1e4ef},
    {0x1e944, 0x1e94a}
};
static const struct span mark_yes[] = {
    {0x1cf2, 0x1cf3}
};
static const struct span mark_no[] = {
    {0x7fd, 0x7fd}, {0x898, 0x89f}, {0x8ca, 0x8d3}, {0x9fe, 0x9fe}, {0xafa, 0xaff}, {0xb55, 0xb55}, {0xc04, 0xc04},
    {0xc3c, 0xc3c}, {0xcf3, 0xcf3}, {0xd00, 0xd00}, {0xd3b, 0xd3c}, {0xd81, 0xd81}, {0xeba, 0xeba}, {0xece, 0xece},
    {0x1715, 0x1715}, {0x180f, 0x180f}, {0x1abf, 0x1ace}, {0x1cf7, 0x1cf7}, {0x1df6, 0x1dfa}, {0xa82c, 0xa82c},
    {0xa8ff, 0xa8ff}, {0x10d24, 0x10d27}, {0x10eab, 0x10eac}, {0x10efd, 0x10eff}, {0x10f46, 0x10f50},
    {0x10f82, 0x10f85}, {0x11070, 0x11070}, {0x11073, 0x11074}, {0x110c2, 0x110c2}, {0x11145, 0x11146},
    {0x111c9, 0x111c9}, {0x111ce, 0x111cf}, {0x11241, 0x11241}, {0x1133b, 0x1133b}, {0x1145e, 0x1145e},
    {0x1182c, 0x1183a}, {0x11930, 0x11935}, {0x11937, 0x11938}, {0x1193b, 0x1193e}, {0x11940, 0x11940},
    {0x11942, 0x11943}, {0x119d1, 0x119d7}, {0x119da, 0x119e0}, {0x119e4, 0x119e4}, {0x11a01, 0x11a0a},
    {0x11a33, 0x11a39}, {0x11a3b, 0x11a3e}, {0x11a47, 0x11a47}, {0x11a51, 0x11a5b}, {0x11a8a, 0x11a99},
    {0x11d31, 0x11d36}, {0x11d3a, 0x11d3a}, {0x11d3c, 0x11d3d}, {0x11d3f, 0x11d45}, {0x11d47, 0x11d47},
    {0x11d8a, 0x11d8e}, {0x11d90, 0x11d91}, {0x11d93, 0x11d97}, {0x11ef3, 0x11ef6}, {0x11f00, 0x11f01},
    {0x11f03, 0x11f03}, {0x11f34, 0x11f3a}, {0x11f3e, 0x11f42}, {0x13440, 0x13440}, {0x13447, 0x13455},
    {0x16f4f, 0x16f4f}, {0x16f7f, 0x16f87}, {0x16fe4, 0x16fe4}, {0x16ff0, 0x16ff1}, {0x1cf00, 0x1cf2d},
    {0x1cf30, 0x1cf46}, {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef},
    {0x1e4ec, 0x1e4ef}
};
static const struct span control_no[] = {
    {0x890, 0x891}, {0x8e2, 0x8e2}, {0x110cd, 0x110cd}, {0x13430, 0x1343f}
};
static const struct span numeric_yes[] = {
    {0x10d40, 0x10d49}, {0x116d0, 0x116e3}, {0x11bf0, 0x11bf9}, {0x11de0, 0x11de9}, {0x16130, 0x16139},
    {0x16d70, 0x16d79}, {0x16ff4, 0x16ff6}, {0x1ccf0, 0x1ccf9}, {0x1e5f1, 0x1e5fa}
};
static const struct span word_yes[] = {
    {0x897, 0x897}, {0x1c89, 0x1c8a}, {0x200c, 0x200d}, {0x24b6, 0x24e9}, {0xa7cb, 0xa7cd}, {0xa7da, 0xa7dc},
    {0x105c0, 0x105f3}, {0x10d40, 0x10d65}, {0x10d69, 0x10d6d}, {0x10d6f, 0x10d85}, {0x10ec2, 0x10ec4},
    {0x10efc, 0x10efc}, {0x11380, 0x11389}, {0x1138b, 0x1138b}, {0x1138e, 0x1138e}, {0x11390, 0x113b5},
    {0x113b7, 0x113c0}, {0x113c2, 0x113c2}, {0x113c5, 0x113c5}, {0x113c7, 0x113ca}, {0x113cc, 0x113d3},
    {0x113e1, 0x113e2}, {0x116d0, 0x116e3}, {0x11bc0, 0x11be0}, {0x11bf0, 0x11bf9}, {0x11f5a, 0x11f5a},
    {0x13460, 0x143fa}, {0x16100, 0x16139}, {0x16d40, 0x16d6c}, {0x16d70, 0x16d79}, {0x18cff, 0x18cff},
    {0x1ccf0, 0x1ccf9}, {0x1e5d0, 0x1e5fa}, {0x1f130, 0x1f149}, {0x1f150, 0x1f169}, {0x1f170, 0x1f189},
    {0x2ebf0, 0x2ee5d}
};
/* Left alone by every normal form: marks whose combining class the library does not know, a vowel sign newer than its
 * tables, and U+11A7, which utf8proc 2.8 takes for the end of a Hangul syllable. */
static const struct span form_no[] = {
    {0x7fd, 0x7fd}, {0x898, 0x89f}, {0x8ca, 0x8d3}, {0x9fe, 0x9fe}, {0xc3c, 0xc3c}, {0xd3b, 0xd3c}, {0xeba, 0xeba},
    {0x11a7, 0x11a7}, {0x1715, 0x1715}, {0x1abf, 0x1ace}, {0x1df6, 0x1dfa}, {0xa82c, 0xa82c}, {0x10d24, 0x10d27},
    {0x10eab, 0x10eac}, {0x10efd, 0x10eff}, {0x10f46, 0x10f50}, {0x10f82, 0x10f85}, {0x11070, 0x11070},
    {0x1133b, 0x1133b}, {0x1145e, 0x1145e}, {0x11839, 0x1183a}, {0x11930, 0x11930}, {0x11938, 0x11938},
    {0x1193d, 0x1193e}, {0x11943, 0x11943}, {0x119e0, 0x119e0}, {0x11a34, 0x11a34}, {0x11a47, 0x11a47},
    {0x11a99, 0x11a99}, {0x11d42, 0x11d42}, {0x11d44, 0x11d45}, {0x11d97, 0x11d97}, {0x11f41, 0x11f42},
    {0x16ff0, 0x16ff1}, {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef},
    {0x1e4ec, 0x1e4ef}
};
/* Left alone by the compatibility forms. */
static const struct span compat_no[] = {
    {0x32ff, 0x32ff}, {0xa7f2, 0xa7f4}, {0xab69, 0xab69}, {0x10781, 0x107ba}, {0x1e030, 0x1e06d}, {0x1f16c, 0x1f16c},
    {0x1fbf0, 0x1fbf9}
};
/* lower = upper + add for every step-th character */
static const struct {
    uint32_t lo, hi, step;
    int32_t add;
} lower_late[] = {
    {0x1c89, 0x1c89, 1, 1}, {0xa7cb, 0xa7cb, 1, 0x264 - 0xa7cb}, {0xa7cc, 0xa7ce, 2, 1}, {0xa7d2, 0xa7d4, 2, 1},
    {0xa7da, 0xa7da, 1, 1}, {0xa7dc, 0xa7dc, 1, 0x19b - 0xa7dc}, {0x10d50, 0x10d65, 1, 32}, {0x16ea0, 0x16eb8, 1, 27}
};
/* clang-format on */

static bool within(const struct span *s, size_t n, uint32_t c)
{
    size_t lo = 0, hi = n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (s[mid].hi < c)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < n && s[lo].lo <= c;
}
#define WITHIN(table, c) within(table, sizeof(table) / sizeof *(table), c)

static utf8proc_category_t category(uint32_t c)
{
    return utf8proc_category((utf8proc_int32_t)c);
}

bool uni_space(uint32_t c)
{
    return c == ' ' || (c >= 9 && c <= 13) || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
           c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool uni_word(uint32_t c)
{
    utf8proc_category_t k = category(c);
    return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_NL) || k == UTF8PROC_CATEGORY_PC || WITHIN(word_yes, c);
}

bool uni_numeric(uint32_t c)
{
    utf8proc_category_t k = category(c);
    return (k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO) || WITHIN(numeric_yes, c);
}

bool uni_punctuation(uint32_t c)
{
    if (c < 0x80) return c > ' ' && c < 0x7f && !((c | 32) >= 'a' && (c | 32) <= 'z') && !(c >= '0' && c <= '9');
    utf8proc_category_t k = category(c);
    if (k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO) return !WITHIN(punct_no, c);
    return WITHIN(punct_yes, c);
}

bool uni_control(uint32_t c)
{
    utf8proc_category_t k = category(c);
    return k >= UTF8PROC_CATEGORY_CC && k <= UTF8PROC_CATEGORY_CO && c != 9 && c != 10 && c != 13 &&
           !WITHIN(control_no, c);
}

bool uni_chinese(uint32_t c)
{
    return (c >= 0x4e00 && c <= 0x9fff) || (c >= 0x3400 && c <= 0x4dbf) || (c >= 0x20000 && c <= 0x2a6df) ||
           (c >= 0x2a700 && c <= 0x2b81f) || (c >= 0x2b920 && c <= 0x2ceaf) || (c >= 0xf900 && c <= 0xfaff) ||
           (c >= 0x2f800 && c <= 0x2fa1f);
}

bool uni_accent(uint32_t c)
{
    return category(c) == UTF8PROC_CATEGORY_MN ? !WITHIN(mn_no, c) : WITHIN(mn_yes, c);
}

bool uni_mark(uint32_t c)
{
    utf8proc_category_t k = category(c);
    return k >= UTF8PROC_CATEGORY_MN && k <= UTF8PROC_CATEGORY_ME ? !WITHIN(mark_no, c) : WITHIN(mark_yes, c);
}

int uni_next(const char *s, const char *end, uint32_t *cp)
{
    int n = utf8_next(s, end, cp);
    CHECK_MSG(n > 0, "text was not made valid UTF-8 first");
    return n;
}

void uni_put(struct buf *out, uint32_t cp)
{
    char c[4];
    buf_add(out, c, (size_t)utf8_put(cp, c));
}

static bool all_ascii(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)s[i] >= 0x80) return false;
    return true;
}

static int normalize_part(utf8proc_option_t options, const char *s, size_t n, struct buf *out, struct err *e)
{
    if (all_ascii(s, n)) {
        buf_add(out, s, n);
        return 0;
    }
    utf8proc_uint8_t *text = NULL;
    utf8proc_ssize_t len = utf8proc_map((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)n, &text, options);
    if (len < 0) return err_set(e, ERR_MEMORY, "a text of %zu bytes cannot be normalized: %s", n, utf8proc_errmsg(len));
    buf_add(out, text, (size_t)len);
    free(text);
    return 0;
}

int uni_normalize(enum uni_form form, const char *s, size_t n, struct buf *out, struct err *e)
{
    bool compat = form == UNI_NFKC || form == UNI_NFKD, compose = form == UNI_NFC || form == UNI_NFKC;
    utf8proc_option_t options = UTF8PROC_STABLE | (compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE);
    if (compat) options |= UTF8PROC_COMPAT;
    /* Characters that the library leaves alone cut the text: they neither combine nor change what is beside them. */
    size_t start = 0;
    for (size_t i = 0; i < n;) {
        uint32_t c;
        size_t k = (size_t)uni_next(s + i, s + n, &c);
        if (c >= 0x7fd && (WITHIN(form_no, c) || (compat && WITHIN(compat_no, c)))) {
            if (normalize_part(options, s + start, i - start, out, e)) return ERR_MEMORY;
            buf_add(out, s + i, k);
            start = i + k;
        }
        i += k;
    }
    return normalize_part(options, s + start, n - start, out, e);
}

static uint32_t lower_one(uint32_t c)
{
    for (size_t i = 0; i < sizeof lower_late / sizeof *lower_late; i++)
        if (c >= lower_late[i].lo && c <= lower_late[i].hi && (c - lower_late[i].lo) % lower_late[i].step == 0)
            return (uint32_t)((int32_t)c + lower_late[i].add);
    return (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
}

void uni_lowercase(const char *s, size_t n, struct buf *out)
{
    for (const char *end = s + n; s < end;) {
        uint32_t c;
        s += uni_next(s, end, &c);
        if (c < 0x80) {
            char low = (char)(c >= 'A' && c <= 'Z' ? c + 32 : c);
            buf_add(out, &low, 1);
        } else if (c == 0x130) {
            buf_str(out, "i\xcc\x87"); /* the only character whose lower case is two */
        } else {
            uni_put(out, lower_one(c));
        }
    }
}

/* How many bytes at `s` begin a character that is cut short or wrong after them; at least 1 (Unicode 15, table 3-7). */
static size_t bad_part(const unsigned char *s, size_t n)
{
    unsigned char lo = 0x80, hi = 0xbf;
    size_t want = s[0] >= 0xc2 && s[0] <= 0xdf ? 2 : (s[0] & 0xf0) == 0xe0 ? 3 : s[0] >= 0xf0 && s[0] <= 0xf4 ? 4 : 1;
    if (s[0] == 0xe0) lo = 0xa0;
    if (s[0] == 0xed) hi = 0x9f;
    if (s[0] == 0xf0) lo = 0x90;
    if (s[0] == 0xf4) hi = 0x8f;
    size_t k = 1;
    for (; k < want && k < n && s[k] >= lo && s[k] <= hi; k++) {
        lo = 0x80;
        hi = 0xbf;
    }
    return k;
}

void uni_repair(const char *s, size_t n, struct buf *out)
{
    const char *end = s + n;
    while (s < end) {
        const char *good = s;
        int k;
        while (s < end && (k = utf8_next(s, end, NULL)) > 0) s += k;
        buf_add(out, good, (size_t)(s - good));
        if (s == end) break;
        buf_str(out, "\xef\xbf\xbd");
        s += bad_part((const unsigned char *)s, (size_t)(end - s));
    }
}
