/* Scalars of a config by their type and range, and the form of every message about one. See conf_reader.h. */
#include "base/conf_reader.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/text.h"

void conf_path_text(struct buf *b, const struct conf_path *p)
{
    if (!p || !p->key) return;
    conf_path_text(b, p->up);
    if (b->len) buf_str(b, ".");
    buf_str(b, p->key);
}

int conf_fail(struct conf_reader *r, struct conf_at at, const struct conf_path *path, const char *fmt, ...)
{
    char place[512], text[sizeof r->e->msg];
    struct buf name = {0};
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    conf_path_text(&name, path);
    err_set(r->e, ERR_CONFIG, "%s: %s%s%s", conf_at_text(place, sizeof place, r->file, at), name.len ? name.data : "",
            name.len ? ": " : "", text);
    buf_free(&name);
    return ERR_CONFIG;
}

const char *conf_came(char *out, size_t size, const struct tree *t)
{
    if (t->kind == TREE_LIST)
        snprintf(out, size, "a list");
    else if (t->kind == TREE_MAP)
        snprintf(out, size, "keys and values");
    else if (tree_is_null(t))
        snprintf(out, size, *t->text ? "null" : "nothing");
    else
        snprintf(out, size, t->quoted ? "the text \"%.60s\"" : "'%.60s'", t->text);
    return out;
}

int conf_mistyped(struct conf_reader *r, const struct tree *t, const struct conf_path *path, const char *expected)
{
    char got[128];
    return conf_fail(r, t->at, path, "expected %s, got %s", expected, conf_came(got, sizeof got, t));
}

static int in_range(struct conf_reader *r, const struct conf_field *f, const struct tree *t,
                    const struct conf_path *path, double v)
{
    if ((f->min == 0 && f->max == 0) || (v >= f->min && v <= f->max)) return 0;
    enum conf_type type = f->type;
    char low[64], high[64], expected[200];
    conf_number_text(low, sizeof low, type, f->min);
    conf_number_text(high, sizeof high, type, f->max);
    bool has_high = f->max < 1e300 && !(type == CONF_INT && f->max >= 0x1p62);
    bool has_low = f->min > -1e300;
    if (f->min == CONF_ABOVE_0)
        snprintf(expected, sizeof expected, has_high ? "more than 0 and at most %s" : "more than 0", high);
    else if (has_low && has_high)
        snprintf(expected, sizeof expected, "from %s to %s", low, high);
    else
        snprintf(expected, sizeof expected, has_low ? "at least %s" : "at most %s", has_low ? low : high);
    return conf_fail(r, t->at, path, "expected %s, got %.60s", expected, t->text);
}

static bool parse_double(const struct tree *t, double *v)
{
    if (t->kind != TREE_SCALAR || t->quoted || !*t->text || t->text[strspn(t->text, "0123456789+-.eE")]) return false;
    char *end;
    *v = strtod(t->text, &end);
    return !*end && isfinite(*v);
}

static bool parse_int(const struct tree *t, int64_t *v)
{
    double d;
    if (!parse_double(t, &d)) return false;
    char *end;
    errno = 0;
    *v = strtoll(t->text, &end, 10);
    if (!*end) return !errno;
    if (d != floor(d) || fabs(d) > 0x1p53) return false;
    *v = (int64_t)d;
    return true;
}

static int read_enum(struct conf_reader *r, const struct conf_field *f, const struct tree *t,
                     const struct conf_path *path, int *out)
{
    int n = 0;
    for (; f->choices[n]; n++)
        if (t->kind == TREE_SCALAR && !strcmp(f->choices[n], t->text)) {
            *out = n;
            return 0;
        }
    struct buf b = {0};
    buf_str(&b, n > 1 ? "expected one of " : "expected ");
    for (int i = 0; i < n; i++) buf_printf(&b, "%s%s", i ? ", " : "", f->choices[i]);
    char got[128];
    buf_printf(&b, ", got %s", conf_came(got, sizeof got, t));
    const char *near = t->kind == TREE_SCALAR ? text_nearest(t->text, f->choices, n) : NULL;
    if (near) buf_printf(&b, "; did you mean '%s'?", near);
    int code = conf_fail(r, t->at, path, "%s", b.data);
    buf_free(&b);
    return code;
}

int conf_read_scalar(struct conf_reader *r, const struct conf_field *f, enum conf_type type, const struct tree *t,
                     const struct conf_path *path, void *out)
{
    double d = 0;
    int64_t i = 0;
    bool scalar = t->kind == TREE_SCALAR;
    switch (type) {
    case CONF_BOOL:
        if (!scalar || t->quoted || (strcmp(t->text, "true") && strcmp(t->text, "false")))
            return conf_mistyped(r, t, path, "true or false");
        *(bool *)out = t->text[0] == 't';
        return 0;
    case CONF_INT:
        if (!parse_int(t, &i)) return conf_mistyped(r, t, path, "a whole number");
        *(int64_t *)out = i;
        return in_range(r, f, t, path, (double)i);
    case CONF_DOUBLE:
        if (!parse_double(t, &d)) return conf_mistyped(r, t, path, "a number");
        *(double *)out = d;
        return in_range(r, f, t, path, d);
    case CONF_DURATION:
        if (!scalar || tree_is_null(t) || text_duration(t->text, &d, NULL))
            return conf_mistyped(r, t, path, "a duration (such as 25ms, 30s, 4m, 1.5h)");
        *(double *)out = d;
        return in_range(r, f, t, path, d);
    case CONF_BYTES:
        if (!scalar || tree_is_null(t) || text_bytes(t->text, &i, NULL))
            return conf_mistyped(r, t, path, "a size (such as 64k, 512MiB, 2GB)");
        *(int64_t *)out = i;
        return in_range(r, f, t, path, (double)i);
    case CONF_STRING: {
        bool none = tree_is_null(t);
        if (none && f->def && !strcmp(f->def, "null"))
            *(const char **)out = NULL;
        else if (none || !scalar)
            return conf_mistyped(r, t, path, "text");
        else
            *(const char **)out = arena_strdup(&r->c->mem, t->text);
        return 0;
    }
    default: return read_enum(r, f, t, path, out);
    }
}
