/* Metrics as JSON lines and TensorBoard scalars. See record.h. */
#include "train/record.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/tfevents.h"

struct train_record {
    FILE *metrics;
    struct tfevents *events;
    struct buf line;
    int64_t step;
    bool warned;
};

/* Keeps the lines whose step is at most `step`. A last line that a kill cut off is dropped. */
static int cut_metrics(const char *path, int64_t step, struct err *e)
{
    char *text;
    size_t len;
    if (!file_exists(path)) return 0;
    int rc = file_read(path, (size_t)1 << 31, &text, &len, e);
    if (rc) return rc;
    struct buf kept = {0};
    for (char *at = text, *end; (end = strchr(at, '\n')); at = end + 1) {
        json_t *line = json_loadb(at, (size_t)(end - at), 0, NULL);
        const json_t *k = json_object_get(line, "step");
        if (json_is_integer(k) && json_integer_value(k) <= step) buf_add(&kept, at, (size_t)(end - at) + 1);
        json_decref(line);
    }
    rc = file_write(path, kept.len ? kept.data : "", kept.len, e);
    buf_free(&kept);
    free(text);
    return rc;
}

struct train_record *train_record_open(const char *dir, int64_t step, struct err *e)
{
    struct train_record *r = mem_zero(1, sizeof *r);
    char *path = file_join(dir, "metrics.jsonl");
    bool ok = cut_metrics(path, step > 0 ? step : -1, e) == 0;
    if (ok && !(r->metrics = fopen(path, "a"))) err_errno(e, "%s: cannot be opened for writing", path);
    free(path);
    if (r->metrics && tfevents_open(dir, &r->events, e) == 0) return r;
    train_record_close(r);
    return NULL;
}

void train_record_close(struct train_record *r)
{
    if (!r) return;
    if (r->metrics) fclose(r->metrics);
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
    if (fwrite(r->line.data, 1, r->line.len, r->metrics) != r->line.len || fflush(r->metrics)) {
        char why[200];
        snprintf(why, sizeof why, "metrics.jsonl cannot be written: %s", strerror(errno));
        clearerr(r->metrics);
        warn(r, why);
    }
}
