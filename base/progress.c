#include "base/log.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <utf8proc.h>

#include "base/log_line.h"
#include "base/mem.h"
#include "base/text.h"
#include "base/threads.h"

enum { BAR_MAX = 30, BAR_MIN = 8 };
#define DRAW_EVERY 0.1  /* seconds between two drawings */
#define RATE_MEMORY 15. /* seconds over which the shown rate forgets */

struct progress {
    char *what, *unit, *note;
    double quiet_s;
    int64_t total, done, first_done;
    double started, last_update, last_draw;
    double ends;                  /* by the clock, or 0: when all is done */
    double recent_done, recent_s; /* both decay, so their ratio is the recent rate without a bias at the start */
    bool seen, terminal, drawn;
};

static struct progress *shown; /* the one that log messages make room for */

/* Terminal columns that a text takes; escape sequences take none. */
static int columns(const char *s)
{
    int n = 0;
    const char *end = s + strlen(s);
    while (s < end) {
        if (s[0] == '\033') {
            while (s < end && *s != 'm') s++;
            s += s < end;
            continue;
        }
        uint32_t cp = 0;
        int len = utf8_next(s, end, &cp);
        n += len ? utf8proc_charwidth((utf8proc_int32_t)cp) : 1;
        s += len ? len : 1;
    }
    return n;
}

/* Adds as much of `s` as fits into `room` columns, ending in "…" where it was cut. */
static void add_cut(struct buf *b, const char *s, int room)
{
    if (columns(s) <= room) {
        buf_str(b, s);
        return;
    }
    if (room < 1) return;
    struct buf part = {0};
    for (const char *end = s + strlen(s); s < end;) {
        int len = utf8_next(s, end, NULL);
        struct buf more = {0};
        buf_add(&more, s, (size_t)(len ? len : 1));
        bool fits = *s != '\033' && (part.len ? columns(part.data) : 0) + columns(more.data) < room;
        if (fits) buf_add(&part, more.data, more.len);
        buf_free(&more);
        if (!fits) break;
        s += len ? len : 1;
    }
    buf_printf(b, "%s…", part.len ? part.data : "");
    buf_free(&part);
}

static int terminal_columns(void)
{
    struct winsize w;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 0) return w.ws_col;
    return 80;
}

static double rate(const struct progress *p, bool end)
{
    double s = p->last_update - p->started;
    if (end) return s > 0 ? (double)(p->done - p->first_done) / s : 0;
    return p->recent_s > 0 ? p->recent_done / p->recent_s : 0;
}

static void add_rate(struct buf *b, const struct progress *p, bool end)
{
    char text[48];
    double r = rate(p, end);
    if (r <= 0 || !isfinite(r)) return;
    if (r >= 99.5)
        text_count(text, sizeof text, r < 9e18 ? llrint(r) : INT64_MAX);
    else
        snprintf(text, sizeof text, r >= 9.95 ? "%.1f" : "%.2f", r);
    buf_printf(b, "  %s%s%s/s", text, *p->unit ? " " : "", p->unit);
    if (end)
        buf_printf(b, "  %s", text_clock(text, sizeof text, p->last_update - p->started));
    else if (p->ends > 0 || p->total > p->done) {
        double left = p->ends > 0 ? p->ends - p->last_update : (double)(p->total - p->done) / r;
        buf_printf(b, "  %s left", text_clock(text, sizeof text, fmax(left, 0)));
    }
}

static void add_bar(struct buf *b, double share, int width)
{
    int half = (int)(share * 2 * width);
    buf_str(b, log_color("green"));
    for (int i = 0; i < half / 2; i++) buf_str(b, "━");
    if (half % 2) buf_str(b, "╸");
    buf_str(b, log_color("reset"));
    buf_str(b, log_color("dim"));
    for (int i = half / 2 + half % 2; i < width; i++) buf_str(b, "─");
    buf_str(b, log_color("reset"));
}

/* The line without a line break. `width` is the terminal's, or 0: no bar and no cut. */
static void add_line(struct buf *out, const struct progress *p, int width, bool end)
{
    struct buf head = {0}, tail = {0};
    double share = p->total > 0 ? (double)p->done / (double)p->total : 0;
    share = share < 0 ? 0 : share > 1 ? 1 : share;
    buf_printf(&head, "%s  %" PRId64, p->what, p->done);
    /* 100 % only when it is done */
    if (p->total > 0) buf_printf(&head, "/%" PRId64 "  %3d%%", p->total, (int)(share * 100 + 1e-9));
    add_rate(&tail, p, end);
    const char *rest = tail.len ? tail.data : "";
    int room = width ? width - 1 - columns(head.data) - columns(rest) : 1 << 20;
    int note = p->note && *p->note ? columns(p->note) + 2 : 0;
    if (room < 0) {
        add_cut(out, head.data, width - 1);
    } else {
        buf_str(out, head.data);
        int bar = room - 1 - note;
        bar = bar > BAR_MAX ? BAR_MAX : bar;
        if (width && p->total > 0 && bar >= BAR_MIN) {
            buf_str(out, " ");
            add_bar(out, share, bar);
            room -= bar + 1;
        }
        if (note && room > 4) {
            buf_str(out, "  ");
            add_cut(out, p->note, room - 2);
        }
        buf_str(out, rest);
    }
    buf_free(&head);
    buf_free(&tail);
}

void progress_hide(struct buf *b)
{
    if (shown && shown->drawn) buf_str(b, "\r\033[K");
}

void progress_show(struct buf *b)
{
    if (shown && shown->drawn) add_line(b, shown, terminal_columns(), false);
}

static void draw(struct progress *p, bool end)
{
    struct buf b = {0};
    if (p->terminal) {
        buf_str(&b, "\r\033[K");
        add_line(&b, p, terminal_columns(), end);
        p->drawn = !end;
    } else {
        add_line(&b, p, 0, end);
    }
    if (end || !p->terminal) {
        struct buf plain = {0};
        add_line(&plain, p, 0, end);
        log_file_line("", plain.data);
        buf_free(&plain);
        buf_str(&b, "\n");
    }
    if (!log_is_quiet()) log_put(&b);
    buf_free(&b);
    p->last_draw = time_now();
}

static void set_note(struct progress *p, const char *note)
{
    free(p->note);
    p->note = note ? mem_strdup(note) : NULL;
    for (char *s = p->note; s && *s; s++)
        if (*s == '\n' || *s == '\r') *s = ' ';
}

struct progress *progress_new(const char *what, int64_t total, const char *unit, double quiet_s)
{
    struct progress *p = mem_zero(1, sizeof *p);
    p->what = mem_strdup(what);
    p->unit = mem_strdup(unit ? unit : "");
    p->total = total;
    p->quiet_s = quiet_s;
    p->terminal = log_is_terminal();
    p->started = p->last_update = p->last_draw = time_now();
    if (p->terminal) p->last_draw -= DRAW_EVERY;
    log_lock();
    CHECK_MSG(!shown, "progress '%s' begins before '%s' ended", what, shown->what);
    shown = p;
    log_unlock();
    return p;
}

void progress_update(struct progress *p, int64_t done, const char *note)
{
    log_lock();
    double now = time_now(), dt = now - p->last_update;
    if (!p->seen && done > 1)
        p->first_done = done; /* a resumed run: what was done before tells nothing of the rate */
    else if (dt > 0) {
        double keep = exp(-dt / RATE_MEMORY);
        p->recent_done = p->recent_done * keep + (double)(done - p->done);
        p->recent_s = p->recent_s * keep + dt;
    }
    if (!p->seen && done > 1) p->started = now;
    p->seen = true;
    p->done = done;
    p->last_update = now;
    bool due = now - p->last_draw >= (p->terminal ? DRAW_EVERY : p->quiet_s);
    if (due) {
        set_note(p, note);
        draw(p, false);
    }
    log_unlock();
}

void progress_set_end(struct progress *p, double seconds_left, int64_t total)
{
    p->ends = time_now() + seconds_left;
    p->total = total > 0 ? total : 0;
}

void progress_end(struct progress *p, const char *note)
{
    if (!p) return;
    log_lock();
    p->last_update = time_now();
    set_note(p, note);
    draw(p, true);
    shown = NULL;
    log_unlock();
    free(p->what);
    free(p->unit);
    free(p->note);
    free(p);
}
