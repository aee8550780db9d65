/* Structs back into YAML, by the same tables; reading the text again gives the same values bit for bit. */
#include "base/conf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "base/conf_tree.h"
#include "base/text.h"

const char *conf_double_text(char *out, size_t size, double v)
{
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(out, size, "%.*g", digits, v);
        if (strtod(out, NULL) == v) break;
    }
    if (strchr(out, 'e') && v == rint(v) && fabs(v) < 1e6) snprintf(out, size, "%.0f", v); /* 20, not 2e+01 */
    return out;
}

/* The shortest of the forms with a unit that reads back exactly; plain seconds otherwise. */
static const char *duration_text(char *out, size_t size, double v)
{
    static const struct {
        const char *unit;
        double seconds;
    } units[] = {{"s", 1}, {"ms", 1e-3}, {"m", 60}, {"h", 3600}, {"d", 86400}};
    if (v == 0) {
        snprintf(out, size, "0s");
        return out;
    }
    size_t best = 0;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        for (int digits = 1; digits <= 17; digits++) {
            char text[64];
            double back;
            snprintf(text, sizeof text, "%.*g", digits, v / units[i].seconds);
            if (strchr(text, 'e')) continue;
            size_t n = strlen(text);
            snprintf(text + n, sizeof text - n, "%s", units[i].unit);
            if (text_duration(text, &back, NULL) || back != v) continue;
            n = strlen(text);
            if (!best || n < best) snprintf(out, size, "%s", text), best = n;
            break;
        }
    if (!best) snprintf(out, size, "%.17g", v);
    return out;
}

const char *conf_bytes_text(char *out, size_t size, int64_t v)
{
    static const struct {
        const char *unit;
        int64_t bytes;
    } units[] = {{"GB", 1000000000}, {"GiB", 1 << 30}, {"MB", 1000000}, {"MiB", 1 << 20}, {"kB", 1000}, {"KiB", 1024}};
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        int64_t back;
        if (v == 0 || v % units[i].bytes) continue;
        snprintf(out, size, "%lld%s", (long long)(v / units[i].bytes), units[i].unit);
        if (!text_bytes(out, &back, NULL) && back == v) return out;
    }
    snprintf(out, size, "%lld", (long long)v);
    return out;
}

const char *conf_number_text(char *out, size_t size, enum conf_type type, double v)
{
    if (type == CONF_DURATION) return duration_text(out, size, v);
    if (type == CONF_BYTES && fabs(v) < 0x1p62) return conf_bytes_text(out, size, (int64_t)v);
    if (v == floor(v) && fabs(v) < 1e15)
        snprintf(out, size, "%.0f", v);
    else
        conf_double_text(out, size, v);
    return out;
}

/* A plain scalar that no YAML reader takes for anything but text. */
static bool is_plain(const char *s)
{
    static const char *const words[] = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"};
    static const char safe[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_/.0123456789-+";
    if (!*s || s[strspn(s, safe)] || strchr("0123456789-+.", *s)) return false;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strcasecmp(s, words[i])) return false;
    return true;
}

static void dump_string(const char *s, struct buf *out)
{
    if (!s) {
        buf_str(out, "null");
    } else if (is_plain(s)) {
        buf_str(out, s);
    } else {
        buf_str(out, "\"");
        const char *end = s + strlen(s);
        for (int n; s < end; s += n) {
            uint32_t cp;
            n = utf8_next(s, end, &cp);
            CHECK_MSG(n > 0, "a configuration's text is not UTF-8");
            if (cp == '"' || cp == '\\')
                buf_printf(out, "\\%c", (char)cp);
            else if (cp == '\n')
                buf_str(out, "\\n");
            else if (cp < 0x20 || (cp >= 0x7f && cp < 0xa0) || cp == 0x2028 || cp == 0x2029 || cp == 0xfeff ||
                     cp == 0xfffe || cp == 0xffff)
                buf_printf(out, "\\u%04x", cp);
            else
                buf_add(out, s, (size_t)n);
        }
        buf_str(out, "\"");
    }
}

static void dump_scalar(const struct conf_field *f, enum conf_type type, const void *member, struct buf *out)
{
    char text[64];
    switch (type) {
    case CONF_BOOL: buf_str(out, *(const bool *)member ? "true" : "false"); break;
    case CONF_INT: buf_printf(out, "%lld", (long long)*(const int64_t *)member); break;
    case CONF_BYTES: buf_str(out, conf_bytes_text(text, sizeof text, *(const int64_t *)member)); break;
    case CONF_DOUBLE: buf_str(out, conf_double_text(text, sizeof text, *(const double *)member)); break;
    case CONF_DURATION: buf_str(out, duration_text(text, sizeof text, *(const double *)member)); break;
    case CONF_STRING: dump_string(*(const char *const *)member, out); break;
    default: buf_str(out, f->choices[*(const int *)member]); break;
    }
}

struct list {
    char *v;
    int64_t n;
};

static void dump_rows(const struct conf_table *t, const char *base, int indent, bool help, struct buf *out);

static void end_line(const struct conf_field *f, bool help, struct buf *out)
{
    if (help && f->help) buf_printf(out, "  # %s", f->help);
    for (int i = 0; help && f->help && f->choices && f->choices[i]; i++)
        buf_printf(out, "%s%s%s", i ? ", " : " (", f->choices[i], f->choices[i + 1] ? "" : ")");
    buf_str(out, "\n");
}

/* "key:", then the struct's lines deeper, or " {}" for a struct that has none. */
static void dump_section(const char *key, const struct conf_field *f, const char *base, int indent, bool help,
                         struct buf *out)
{
    struct buf inner = {0};
    dump_rows(f->sub, base, indent + 2, help, &inner);
    buf_printf(out, "%*s%s:%s", indent, "", key, inner.len ? "" : " {}");
    end_line(f, help, out);
    if (inner.len) buf_add(out, inner.data, inner.len);
    buf_free(&inner);
}

static void dump_list(const struct conf_field *f, const struct list *l, int indent, bool help, struct buf *out)
{
    buf_printf(out, "%*s%s:%s", indent, "", f->key, l->n ? "" : " []");
    end_line(f, help, out);
    for (int64_t i = 0; i < l->n; i++) {
        size_t start = out->len;
        dump_rows(f->sub, l->v + (size_t)i * f->sub->size, indent + 4, help, out);
        if (out->len == start)
            buf_printf(out, "%*s- {}\n", indent + 2, "");
        else
            out->data[start + (size_t)indent + 2] = '-';
    }
}

static void dump_map(const struct conf_field *f, const struct list *l, int indent, bool help, struct buf *out)
{
    bool star = !strcmp(f->key, "*");
    if (!star) {
        buf_printf(out, "%*s%s:%s", indent, "", f->key, l->n ? "" : " {}");
        end_line(f, help, out);
    }
    for (int64_t i = 0; i < l->n; i++) {
        const char *element = l->v + (size_t)i * f->sub->size;
        struct conf_field plain = {.sub = f->sub};
        struct buf name = {0};
        dump_string(*(const char *const *)element, &name); /* a name such as "1" or "on" goes in quotes */
        dump_section(name.data, &plain, element, indent + (star ? 0 : 2), help, out);
        buf_free(&name);
    }
}

static void dump_row(const struct conf_field *f, const char *base, int indent, bool help, struct buf *out)
{
    const char *member = base + f->offset;
    const struct list *l = (const struct list *)member;
    switch (f->type) {
    case CONF_STRUCT: dump_section(f->key, f, member, indent, help, out); return;
    case CONF_CASE:
        if (*(const int *)(base + f->tag) == f->value) dump_section(f->key, f, member, indent, help, out);
        return;
    case CONF_OPTIONAL:
        if (*(const char *const *)member) {
            dump_section(f->key, f, *(const char *const *)member, indent, help, out);
            return;
        }
        break;
    case CONF_LIST: dump_list(f, l, indent, help, out); return;
    case CONF_MAP: dump_map(f, l, indent, help, out); return;
    default: break;
    }
    buf_printf(out, "%*s%s: ", indent, "", f->key);
    if (f->type == CONF_OPTIONAL) {
        buf_str(out, "null");
    } else if (f->type == CONF_INTS || f->type == CONF_DOUBLES || f->type == CONF_STRINGS) {
        enum conf_type type = f->type == CONF_INTS ? CONF_INT : f->type == CONF_DOUBLES ? CONF_DOUBLE : CONF_STRING;
        buf_str(out, "[");
        for (int64_t i = 0; i < l->n; i++) {
            if (i) buf_str(out, ", ");
            dump_scalar(f, type, l->v + i * 8, out);
        }
        buf_str(out, "]");
    } else {
        dump_scalar(f, f->type, member, out);
    }
    end_line(f, help, out);
    if (f->type == CONF_SWITCH) {
        const struct conf_table *chosen = f->cases[*(const int *)member];
        if (chosen) dump_rows(chosen, base + f->cases_at, indent, help, out);
    }
}

static void dump_rows(const struct conf_table *t, const char *base, int indent, bool help, struct buf *out)
{
    for (const struct conf_field *f = t->fields; f->key; f++) dump_row(f, base, indent, help, out);
}

void conf_dump(const struct conf_table *t, const void *s, bool help, struct buf *out)
{
    size_t start = out->len;
    dump_rows(t, s, 0, help, out);
    if (out->len == start) buf_str(out, "{}\n");
}
