#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log_line.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int log_fd = -1;
static atomic_bool quiet_on;

void log_lock(void)
{
    pthread_mutex_lock(&lock);
}
void log_unlock(void)
{
    pthread_mutex_unlock(&lock);
}

bool log_is_quiet(void)
{
    return atomic_load(&quiet_on);
}

bool log_is_terminal(void)
{
    const char *term = getenv("TERM");
    return isatty(STDERR_FILENO) && !(term && strcmp(term, "dumb") == 0);
}

const char *log_color(const char *name)
{
    static const struct {
        const char *name, *code;
    } colors[] = {{"red", "\033[31m"}, {"green", "\033[32m"}, {"yellow", "\033[33m"}, {"blue", "\033[34m"},
                  {"bold", "\033[1m"}, {"dim", "\033[2m"},    {"reset", "\033[0m"}};
    const char *no_color = getenv("NO_COLOR");
    if ((no_color && *no_color) || !log_is_terminal()) return "";
    for (size_t i = 0; i < sizeof colors / sizeof *colors; i++)
        if (strcmp(colors[i].name, name) == 0) return colors[i].code;
    CHECK_MSG(0, "no colour is called '%s'", name);
    return "";
}

static void write_all(int fd, const char *p, size_t n)
{
    while (n) {
        ssize_t got = write(fd, p, n);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return; /* a closed terminal or a full disk must not stop the work that is being logged */
        p += got;
        n -= (size_t)got;
    }
}

void log_put(const struct buf *b)
{
    write_all(STDERR_FILENO, b->data, b->len);
}

void log_file_line(const char *level, const char *text)
{
    if (log_fd < 0) return;
    char when[32];
    time_t now = time(NULL);
    struct tm tm;
    localtime_r(&now, &tm);
    strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S", &tm);
    struct buf b = {0};
    buf_printf(&b, "%s %s", when, level);
    for (const char *s = text; *s; s++) {
        if (s[0] == '\033' && s[1] == '[') /* colours are for the terminal */
            while (*s && *s != 'm') s++;
        else
            buf_add(&b, s, 1);
        if (!*s) break;
    }
    buf_str(&b, "\n");
    write_all(log_fd, b.data, b.len);
    buf_free(&b);
}

static void say(const char *level, const char *color, bool always, const char *fmt, va_list ap) PRINTF_LIKE(4, 0);
static void say(const char *level, const char *color, bool always, const char *fmt, va_list ap)
{
    int keep = errno;
    char *text = NULL;
    if (vasprintf(&text, fmt, ap) < 0) return;
    for (char *s = text; *s; s++)
        if (*s == '\n' || *s == '\r') *s = s[1] ? ' ' : 0; /* one message, one line */
    log_lock();
    log_file_line(level, text);
    if (always || !log_is_quiet()) {
        struct buf b = {0};
        progress_hide(&b);
        buf_printf(&b, "%s%s%s%s\n", *color ? log_color(color) : "", level, *color ? log_color("reset") : "", text);
        progress_show(&b);
        log_put(&b);
        buf_free(&b);
    }
    log_unlock();
    free(text);
    errno = keep;
}

#define SAY(level, color, always)       \
    va_list ap;                         \
    va_start(ap, fmt);                  \
    say(level, color, always, fmt, ap); \
    va_end(ap)

void log_info(const char *fmt, ...)
{
    SAY("", "", false);
}
void log_warn(const char *fmt, ...)
{
    SAY("warning: ", "yellow", true);
}
void log_error(const char *fmt, ...)
{
    SAY("error: ", "red", true);
}

void log_quiet(bool quiet)
{
    atomic_store(&quiet_on, quiet);
}

int log_to_file(const char *path, struct err *e)
{
    int fd = -1;
    if (path) {
        fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
        if (fd < 0) return err_errno(e, "cannot open the log file %s", path);
    }
    log_lock();
    if (log_fd >= 0) close(log_fd);
    log_fd = fd;
    log_unlock();
    return 0;
}
