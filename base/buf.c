#include "base/buf.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/text.h"

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

static void reserve(struct buf *b, size_t n)
{
    CHECK(n < SIZE_MAX / 4 && b->len < SIZE_MAX / 4);
    b->data = mem_grow(b->data, &b->cap, b->len + n + 1, 1);
}

void buf_add(struct buf *b, const void *data, size_t n)
{
    reserve(b, n);
    if (n) memcpy(b->data + b->len, data, n);
    b->len += n;
    b->data[b->len] = 0;
}

void buf_str(struct buf *b, const char *s)
{
    buf_add(b, s, strlen(s));
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    CHECK(n >= 0);
    reserve(b, (size_t)n);
    vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
    va_end(again);
    b->len += (size_t)n;
}

/* Copies `s` and lets `escape` replace single ASCII bytes: it returns the replacement or NULL to keep the byte. */
static void add_escaped(struct buf *b, const char *s, const char *(*escape)(unsigned char c, char tmp[8]))
{
    const char *end = s + strlen(s), *kept = s;
    while (s < end) {
        char tmp[8];
        int n = utf8_next(s, end, NULL);
        const char *r = n == 0 ? REPLACEMENT : n == 1 ? escape((unsigned char)*s, tmp) : NULL;
        if (r) {
            buf_add(b, kept, (size_t)(s - kept));
            buf_str(b, r);
            kept = s + 1;
        }
        s += n ? n : 1;
    }
    buf_add(b, kept, (size_t)(end - kept));
}

static const char *html_escape(unsigned char c, char tmp[8])
{
    switch (c) {
    case '&': return "&amp;";
    case '<': return "&lt;";
    case '>': return "&gt;";
    case '"': return "&quot;";
    case '\'': return "&#39;";
    default: return NULL;
    }
}

static const char *json_escape(unsigned char c, char tmp[8])
{
    switch (c) {
    case '"': return "\\\"";
    case '\\': return "\\\\";
    case '\n': return "\\n";
    case '\r': return "\\r";
    case '\t': return "\\t";
    default:
        if (c >= 0x20 && c != 0x7f) return NULL;
        snprintf(tmp, 8, "\\u%04x", c);
        return tmp;
    }
}

void buf_html(struct buf *b, const char *s)
{
    add_escaped(b, s, html_escape);
}

void buf_json(struct buf *b, const char *s)
{
    buf_add(b, "\"", 1);
    add_escaped(b, s, json_escape);
    buf_add(b, "\"", 1);
}

void buf_base64(struct buf *b, const void *data, size_t n)
{
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *p = data;
    reserve(b, (n + 2) / 3 * 4);
    char *out = b->data + b->len;
    for (size_t i = 0; i < n; i += 3) {
        size_t left = n - i;
        uint32_t v = (uint32_t)p[i] << 16 | (left > 1 ? (uint32_t)p[i + 1] << 8 : 0) | (left > 2 ? p[i + 2] : 0);
        *out++ = digit[v >> 18];
        *out++ = digit[v >> 12 & 63];
        *out++ = left > 1 ? digit[v >> 6 & 63] : '=';
        *out++ = left > 2 ? digit[v & 63] : '=';
    }
    *out = 0;
    b->len = (size_t)(out - b->data);
}

void buf_free(struct buf *b)
{
    free(b->data);
    *b = (struct buf){0};
}
