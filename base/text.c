#include "base/text.h"

#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LONGEST = 120 }; /* bytes; longer words get no suggestion, so that the table stays on the stack */

static int min_int(int a, int b)
{
    return a < b ? a : b;
}

/* Optimal string alignment: insertions, deletions, substitutions and swaps of neighbours; letter case is free. */
static int edit_distance(const char *a, int n, const char *b, int m)
{
    int row[3][LONGEST + 1];
    for (int j = 0; j <= m; j++) row[0][j] = j;
    for (int i = 1; i <= n; i++) {
        int *now = row[i % 3], *last = row[(i + 2) % 3], *before = row[(i + 1) % 3];
        now[0] = i;
        for (int j = 1; j <= m; j++) {
            int x = tolower((unsigned char)a[i - 1]), y = tolower((unsigned char)b[j - 1]);
            now[j] = min_int(last[j - 1] + (x != y), 1 + min_int(last[j], now[j - 1]));
            if (i > 1 && j > 1 && x == tolower((unsigned char)b[j - 2]) && tolower((unsigned char)a[i - 2]) == y)
                now[j] = min_int(now[j], before[j - 2] + 1);
        }
    }
    return row[n % 3][m];
}

const char *text_nearest(const char *word, const char *const *names, int n)
{
    size_t len = strlen(word);
    if (len > LONGEST) return NULL;
    int limit = len / 3 > 1 ? (int)(len / 3) : 1, best = limit + 1;
    const char *found = NULL;
    for (int i = 0; i < n; i++) {
        size_t m = strlen(names[i]);
        if (m > LONGEST) continue;
        int d = edit_distance(word, (int)len, names[i], (int)m);
        if (d < best && d < (int)(len > m ? len : m)) { /* a distance of the whole word is another word */
            best = d;
            found = names[i];
        }
    }
    return found;
}

/* A plain decimal number >= 0; *end is left behind it. False for signs, hex, inf, nan and what is no number. */
static bool plain_number(const char *s, long double *v, const char **end)
{
    bool hex = s[0] == '0' && (s[1] == 'x' || s[1] == 'X');
    if (hex || !(isdigit((unsigned char)s[0]) || (s[0] == '.' && isdigit((unsigned char)s[1])))) return false;
    char *stop;
    *v = strtold(s, &stop);
    *end = stop;
    return isfinite(*v);
}

int text_duration(const char *s, double *seconds, struct err *e)
{
    static const struct {
        const char *name;
        double seconds;
    } units[] = {{"", 1}, {"us", 1e-6}, {"ms", 1e-3}, {"s", 1}, {"m", 60}, {"min", 60}, {"h", 3600}, {"d", 86400}};
    long double v;
    const char *unit;
    if (plain_number(s, &v, &unit))
        for (size_t i = 0; i < sizeof units / sizeof *units; i++)
            if (strcmp(unit, units[i].name) == 0) {
                *seconds = (double)v * units[i].seconds;
                if (isfinite(*seconds)) return 0;
            }
    return err_set(e, ERR_FORMAT, "'%s' is not a duration; write it like 25ms, 30s, 4m, 1.5h or 2d", s);
}

int text_bytes(const char *s, int64_t *bytes, struct err *e)
{
    static const char scales[] = "kMGT";
    long double v, scale = 1;
    const char *unit;
    if (plain_number(s, &v, &unit)) {
        char letter = *unit == 'K' ? 'k' : *unit;
        const char *at = letter ? strchr(scales, letter) : NULL;
        if (at) {
            unit++;
            bool binary = *unit == 'i';
            unit += binary;
            for (int i = 0; i <= at - scales; i++) scale *= binary ? 1024 : 1000;
        }
        if (*unit == 'B') unit++;
        v = roundl(v * scale);
        if (!*unit && v < 9223372036854775808.0L) {
            *bytes = (int64_t)v;
            return 0;
        }
    }
    return err_set(e, ERR_FORMAT, "'%s' is not a size in bytes; write it like 64k, 512MiB or 2GB", s);
}

char *text_count(char *out, size_t size, int64_t n)
{
    char digits[32], text[48];
    int len = snprintf(digits, sizeof digits, "%" PRIu64, n < 0 ? -(uint64_t)n : (uint64_t)n), at = 0;
    if (n < 0) text[at++] = '-';
    for (int i = 0; i < len; i++) {
        if (i && (len - i) % 3 == 0) text[at++] = ',';
        text[at++] = digits[i];
    }
    text[at] = 0;
    snprintf(out, size, "%s", text);
    return out;
}

char *text_size(char *out, size_t size, double bytes)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    int unit = 0;
    while (bytes >= 999.5 && unit < 5) { /* 999.5 would be printed as 1000 */
        bytes /= 1000;
        unit++;
    }
    int decimals = unit == 0 || bytes >= 99.95 ? 0 : bytes >= 9.995 ? 1 : 2;
    snprintf(out, size, "%.*f %s", decimals, bytes, units[unit]);
    return out;
}

char *text_clock(char *out, size_t size, double seconds)
{
    if (!(seconds >= 0 && seconds < 1e9)) {
        snprintf(out, size, "-:--");
        return out;
    }
    int64_t s = (int64_t)(seconds + 0.5);
    if (s >= 3600)
        snprintf(out, size, "%" PRId64 ":%02d:%02d", s / 3600, (int)(s / 60 % 60), (int)(s % 60));
    else
        snprintf(out, size, "%d:%02d", (int)(s / 60), (int)(s % 60));
    return out;
}

int utf8_next(const char *s, const char *end, uint32_t *cp)
{
    const unsigned char *p = (const unsigned char *)s;
    if (s >= end) return 0;
    int n = p[0] < 0x80                   ? 1
            : p[0] >= 0xc2 && p[0] < 0xe0 ? 2
            : (p[0] & 0xf0) == 0xe0       ? 3
            : p[0] >= 0xf0 && p[0] < 0xf5 ? 4
                                          : 0;
    if (n == 0 || end - s < n) return 0;
    uint32_t c = n == 1 ? p[0] : p[0] & (0xffu >> (n + 1));
    for (int i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80) return 0;
        c = c << 6 | (p[i] & 0x3f);
    }
    bool overlong = (n == 3 && c < 0x800) || (n == 4 && c < 0x10000);
    if (overlong || (c >= 0xd800 && c < 0xe000) || c > 0x10ffff) return 0;
    if (cp) *cp = c;
    return n;
}

bool utf8_valid(const char *s, size_t n, size_t *bad_at)
{
    for (size_t i = 0; i < n;) {
        int len = utf8_next(s + i, s + n, NULL);
        if (len == 0) {
            if (bad_at) *bad_at = i;
            return false;
        }
        i += (size_t)len;
    }
    return true;
}

int utf8_put(uint32_t cp, char out[4])
{
    CHECK(cp <= 0x10ffff);
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    int n = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (int i = n - 1; i > 0; i--, cp >>= 6) out[i] = (char)(0x80 | (cp & 0x3f));
    out[0] = (char)((0xf00u >> n & 0xff) | cp);
    return n;
}
