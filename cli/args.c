/* Flags and words by a table. */
#include "cli/args.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include "base/buf.h"
#include "base/log.h"
#include "base/text.h"

enum { MAX_FLAGS = 64, HELP_COLUMN = 26 };

static int wrong(const struct args *a, struct err *e, const char *fmt, ...) PRINTF_LIKE(3, 4);
static int wrong(const struct args *a, struct err *e, const char *fmt, ...)
{
    char text[600];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return err_set(e, ERR_USAGE, "triad %s: %s; see 'triad %s --help'", a->command, text, a->command);
}

static int out_of_range(const struct args *a, const struct arg_flag *f, const char *text, double v, struct err *e)
{
    if ((f->min == 0 && f->max == 0) || (v >= f->min && v <= f->max)) return 0;
    if (isinf(f->max)) return wrong(a, e, "--%s: expected at least %.9g, got %s", f->name, f->min, text);
    return wrong(a, e, "--%s: expected from %.9g to %.9g, got %s", f->name, f->min, f->max, text);
}

static int set_value(const struct args *a, const struct arg_flag *f, const char *text, struct err *e)
{
    char *end = (char *)text;
    double d = 0;
    errno = 0;
    switch (f->type) {
    case ARG_BOOL: *(bool *)f->value = true; return 0;
    case ARG_OPTIONAL:
    case ARG_STRING: *(const char **)f->value = text; return 0;
    case ARG_INT: {
        long long i = strtoll(text, &end, 10);
        if (end == text || *end || errno) return wrong(a, e, "--%s: expected a whole number, got '%s'", f->name, text);
        *(int64_t *)f->value = i;
        return out_of_range(a, f, text, (double)i, e);
    }
    case ARG_DOUBLE:
        d = strtod(text, &end);
        if (end == text || *end || !isfinite(d)) return wrong(a, e, "--%s: expected a number, got '%s'", f->name, text);
        break;
    case ARG_DURATION:
        if (text_duration(text, &d, NULL))
            return wrong(a, e, "--%s: expected a duration (such as 25ms, 30s, 4m), got '%s'", f->name, text);
        break;
    }
    *(double *)f->value = d;
    return out_of_range(a, f, text, d, e);
}

static int unknown_flag(const struct args *a, const char *arg, size_t len, struct err *e)
{
    const char *names[MAX_FLAGS + 1];
    int n = 0;
    for (const struct arg_flag *f = a->flags; f->name && n < MAX_FLAGS; f++) names[n++] = f->name;
    names[n++] = "help";
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)len, arg);
    const char *near = text_nearest(name + strspn(name, "-"), names, n);
    if (near) return wrong(a, e, "unknown option '%s'; did you mean '--%s'?", name, near);
    return wrong(a, e, "unknown option '%s'", name);
}

/* Reads argv[*i], which begins with a dash, and its value; *i moves past what was used. */
static int read_flag(const struct args *a, int argc, char **argv, int *i, struct err *e)
{
    const char *arg = argv[*i], *equals = strchr(arg, '=');
    size_t len = equals ? (size_t)(equals - arg) : strlen(arg);
    const struct arg_flag *f = a->flags;
    for (; f->name; f++) {
        bool is_long = arg[1] == '-' && strlen(f->name) == len - 2 && !strncmp(f->name, arg + 2, len - 2);
        if (is_long || (f->letter && len == 2 && arg[1] == f->letter)) break;
    }
    if (!f->name) return unknown_flag(a, arg, len, e);
    if (f->type == ARG_BOOL) {
        if (equals) return wrong(a, e, "--%s takes no value, got '%s'", f->name, equals + 1);
        return set_value(a, f, "", e);
    }
    if (equals) return set_value(a, f, equals + 1, e);
    if (f->type == ARG_OPTIONAL) return set_value(a, f, "", e);
    if (*i + 1 >= argc) return wrong(a, e, "--%s needs a value (%s)", f->name, f->meta);
    return set_value(a, f, argv[++*i], e);
}

int args_parse(const struct args *a, int argc, char **argv, int *n_words, struct err *e)
{
    bool only_words = false;
    int n = 0;
    for (int i = 1; i < argc && strcmp(argv[i], "--"); i++)
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            args_help(a, stdout);
            return 1;
        }
    for (int i = 1; i < argc; i++) {
        if (!only_words && !strcmp(argv[i], "--"))
            only_words = true;
        else if (only_words || argv[i][0] != '-' || !argv[i][1])
            argv[1 + n++] = argv[i];
        else if (read_flag(a, argc, argv, &i, e))
            return ERR_USAGE;
    }
    *n_words = n;
    if (n < a->least)
        return n ? wrong(a, e, "expected %s, got only '%s'", a->words, argv[n]) : wrong(a, e, "expected %s", a->words);
    if (a->most >= 0 && n > a->most)
        return wrong(a, e, "one word too many: '%s' (expected %s)", argv[a->most + 1], *a->words ? a->words : "none");
    return 0;
}

/* " (default 10)", or nothing where there is none to speak of. */
static void add_default(const struct arg_flag *f, struct buf *b)
{
    switch (f->type) {
    case ARG_INT: buf_printf(b, " (default %lld)", (long long)*(const int64_t *)f->value); break;
    case ARG_DOUBLE: buf_printf(b, " (default %.9g)", *(const double *)f->value); break;
    case ARG_DURATION: buf_printf(b, " (default %.9g s)", *(const double *)f->value); break;
    case ARG_STRING:
        if (*(const char *const *)f->value) buf_printf(b, " (default %s)", *(const char *const *)f->value);
        break;
    case ARG_OPTIONAL:
    case ARG_BOOL: break;
    }
}

void args_help(const struct args *a, FILE *out)
{
    struct buf b = {0};
    buf_printf(&b, "usage: triad %s%s%s [options]\n", a->command, *a->words ? " " : "", a->words);
    if (a->summary) buf_printf(&b, "\n%s\n", a->summary);
    buf_str(&b, "\n");
    for (const struct arg_flag *f = a->flags;; f++) {
        size_t start = b.len;
        if (f->name && f->letter)
            buf_printf(&b, "  -%c, --%s", f->letter, f->name);
        else
            buf_printf(&b, f->name ? "  --%s" : "  -h, --help", f->name);
        if (f->name && f->type == ARG_OPTIONAL)
            buf_printf(&b, "[=%s]", f->meta);
        else if (f->name && f->type != ARG_BOOL)
            buf_printf(&b, " %s", f->meta);
        size_t width = b.len - start;
        if (width + 2 > HELP_COLUMN) { /* too long for the column: the words go below it */
            buf_str(&b, "\n");
            width = 0;
        }
        buf_printf(&b, "%*s", (int)(HELP_COLUMN - width), "");
        for (const char *p = f->name ? f->help : "this text"; *p; p++) { /* further lines begin in the same column */
            buf_add(&b, p, 1);
            if (*p == '\n') buf_printf(&b, "%*s", HELP_COLUMN, "");
        }
        if (f->name) add_default(f, &b);
        buf_str(&b, "\n");
        if (!f->name) break;
    }
    if (a->more) buf_printf(&b, "\n%s\n", a->more);
    fputs(b.data, out);
    buf_free(&b);
}

int args_dispatch(const char *command, const char *help, const struct arg_command *list, int n, int argc, char **argv)
{
    const char *names[MAX_FLAGS];
    if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
        fputs(help, argc < 2 ? stderr : stdout);
        return argc < 2 ? err_exit_status(ERR_USAGE) : 0;
    }
    CHECK(n <= MAX_FLAGS);
    for (int i = 0; i < n; i++) {
        names[i] = list[i].name;
        if (!strcmp(argv[1], list[i].name)) return list[i].run(argc - 1, argv + 1);
    }
    const char *near = text_nearest(argv[1], names, n);
    log_error("unknown command 'triad %s %s'%s%s%s; 'triad %s --help' lists them", command, argv[1],
              near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "", command);
    return err_exit_status(ERR_USAGE);
}
