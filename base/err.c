#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int set_va(struct err *e, int code, const char *suffix, const char *fmt, va_list ap)
{
    CHECK(code < 0);
    if (!e || e->code) return code;
    e->code = code;
    int n = vsnprintf(e->msg, sizeof e->msg, fmt, ap);
    if (suffix && n >= 0 && (size_t)n < sizeof e->msg) snprintf(e->msg + n, sizeof e->msg - (size_t)n, "%s", suffix);
    return code;
}

int err_set(struct err *e, int code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    set_va(e, code, NULL, fmt, ap);
    va_end(ap);
    return code;
}

int err_errno(struct err *e, const char *fmt, ...)
{
    char why[128];
    snprintf(why, sizeof why, ": %s", strerror(errno));
    va_list ap;
    va_start(ap, fmt);
    set_va(e, ERR_IO, why, fmt, ap);
    va_end(ap);
    return ERR_IO;
}

int err_prefix(struct err *e, const char *fmt, ...)
{
    if (!e) return ERR_STATE;
    char old[sizeof e->msg];
    memcpy(old, e->msg, sizeof old);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(e->msg, sizeof e->msg, fmt, ap);
    va_end(ap);
    err_append(e, ": %s", old);
    return e->code;
}

int err_append(struct err *e, const char *fmt, ...)
{
    if (!e) return ERR_STATE;
    size_t n = strlen(e->msg);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(e->msg + n, sizeof e->msg - n, fmt, ap);
    va_end(ap);
    return e->code;
}

void err_clear(struct err *e)
{
    e->code = 0;
    e->msg[0] = 0;
}

const char *err_code_name(int code)
{
    switch (code) {
    case 0: return "NONE";
#define X(name, status, text) \
    case ERR_##name: return #name;
        ERR_CODES(X)
#undef X
    }
    return "UNKNOWN";
}

int err_exit_status(int code)
{
    return code < 0 ? -code : 0;
}

void check_failed(const char *file, int line, const char *cond, const char *fmt, ...)
{
    fflush(stdout);
    fprintf(stderr, "%s:%d: internal check failed: %s", file, line, cond);
    if (fmt) {
        va_list ap;
        va_start(ap, fmt);
        fputs(": ", stderr);
        vfprintf(stderr, fmt, ap);
        va_end(ap);
    }
    fputs("\nThis is a bug in triad, not in your input.\n", stderr);
    abort();
}
