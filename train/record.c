/* Metrics as JSON lines and TensorBoard scalars. See record.h. */
#include "train/record.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/tfevents.h"

struct train_record {
    int fd; /* of metrics.jsonl */
    struct tfevents *events;
    struct buf line;
    int64_t step;
    bool warned;
};

/* Lines of steps up to `step` stay, but those of measuring (without a loss) only if they are of an earlier one where
 * `measure`. A last line that a kill cut off is dropped. */
static int cut_metrics(const char *path, int64_t step, bool measure, struct err *e)
{
    char *text;
    size_t len;
    if (!file_exists(path)) return 0;
    int rc = file_read(path, (size_t)1 << 31, &text, &len, e);
    if (rc) return rc;
    struct buf kept = {0};
    for (char *at = text, *end; (end = memchr(at, '\n', (size_t)(text + len - at))); at = end + 1) {
        json_t *line = json_loadb(at, (size_t)(end - at), 0, NULL);
        const json_t *k = json_object_get(line, "step");
        int64_t last = measure && !json_object_get(line, "loss") ? step - 1 : step;
        if (json_is_integer(k) && json_integer_value(k) <= last) buf_add(&kept, at, (size_t)(end - at) + 1);
        json_decref(line);
    }
    if (kept.len != len) rc = file_write(path, kept.len ? kept.data : "", kept.len, e);
    buf_free(&kept);
    free(text);
    return rc;
}

struct train_record *train_record_open(const char *dir, int64_t step, bool measure, struct err *e)
{
    struct train_record *r = mem_zero(1, sizeof *r);
    char *path = file_join(dir, "metrics.jsonl");
    r->fd = -1;
    if (cut_metrics(path, step > 0 ? step : -1, measure, e) == 0) {
        r->fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
        if (r->fd < 0) err_errno(e, "%s: cannot be opened for writing", path);
    }
    free(path);
    if (r->fd >= 0 && tfevents_open(dir, &r->events, e) == 0) return r;
    train_record_close(r);
    return NULL;
}

void train_record_close(struct train_record *r)
{
    if (!r) return;
    if (r->fd >= 0) close(r->fd);
    tfevents_close(r->events);
    buf_free(&r->line);
    free(r);
}

static void warn(struct train_record *r, const char *what)
{
    if (!r->warned) log_warn("%s; training goes on, but this part of the record is lost", what);
    r->warned = true;
}

void train_record_begin(struct train_record *r, int64_t step)
{
    buf_free(&r->line);
    r->step = step;
    buf_printf(&r->line, "{\"step\": %lld", (long long)step);
}

void train_record_value(struct train_record *r, const char *name, double value)
{
    buf_str(&r->line, ", ");
    buf_json(&r->line, name);
    if (isfinite(value))
        buf_printf(&r->line, ": %.9g", value);
    else
        buf_str(&r->line, ": null");
    struct err e = {0};
    if (tfevents_scalar(r->events, name, r->step, value, &e)) warn(r, e.msg);
}

void train_record_end(struct train_record *r)
{
    buf_str(&r->line, "}\n");
    off_t start = lseek(r->fd, 0, SEEK_END);
    ssize_t n = write(r->fd, r->line.data, r->line.len);
    if (n == (ssize_t)r->line.len) return;
    int why = n < 0 ? errno : ENOSPC;
    /* A part of a line would spoil the next one too. */
    bool whole = n <= 0 || ftruncate(r->fd, start) == 0;
    char text[200];
    snprintf(text, sizeof text, "metrics.jsonl cannot be written: %s%s", strerror(why),
             whole ? "" : ", and half a line is left at its end");
    warn(r, text);
}
