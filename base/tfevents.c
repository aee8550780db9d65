#include "base/tfevents.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/text.h"

struct tfevents {
    int fd;
    char *path;
};

uint32_t crc32c(const void *data, size_t n)
{
    const unsigned char *p = data;
    uint32_t c = 0xffffffff;
    for (size_t i = 0; i < n; i++) {
        c ^= p[i];
        for (int k = 0; k < 8; k++) c = c >> 1 ^ (0x82f63b78u & -(c & 1));
    }
    return ~c;
}

/* TFRecord stores a CRC rotated and offset, since a CRC over data that holds its own CRC is weak. */
static uint32_t masked_crc(const void *data, size_t n)
{
    uint32_t c = crc32c(data, n);
    return (c >> 15 | c << 17) + 0xa282ead8u;
}

/* Protocol buffer fields. A key is the field's number and wire type: 0 varint, 1 64 bits, 2 bytes, 5 32 bits. */
static void put_varint(struct buf *b, uint64_t v)
{
    unsigned char out[10];
    size_t n = 0;
    for (; v >= 0x80; v >>= 7) out[n++] = (unsigned char)(v | 0x80);
    out[n++] = (unsigned char)v;
    buf_add(b, out, n);
}

static void put_int(struct buf *b, int field, int64_t v)
{
    put_varint(b, (uint64_t)field << 3);
    put_varint(b, (uint64_t)v);
}

static void put_bytes(struct buf *b, int field, const void *data, size_t n)
{
    put_varint(b, (uint64_t)field << 3 | 2);
    put_varint(b, n);
    buf_add(b, data, n);
}

static void put_text(struct buf *b, int field, const char *s)
{
    struct buf clean = {0};
    for (const char *end = s + strlen(s); s < end;) {
        int n = utf8_next(s, end, NULL);
        buf_add(&clean, n ? s : "\xef\xbf\xbd", n ? (size_t)n : 3);
        s += n ? n : 1;
    }
    put_bytes(b, field, clean.data, clean.len);
    buf_free(&clean);
}

/* Wraps `inner` as a message field and empties it. */
static void put_message(struct buf *b, int field, struct buf *inner)
{
    put_bytes(b, field, inner->data, inner->len);
    buf_free(inner);
}

static int write_record(struct tfevents *t, const struct buf *event, struct err *e)
{
    struct buf b = {0};
    uint64_t len = event->len;
    uint32_t crc = masked_crc(&len, 8);
    buf_add(&b, &len, 8);
    buf_add(&b, &crc, 4);
    buf_add(&b, event->data, event->len);
    crc = masked_crc(event->data, event->len);
    buf_add(&b, &crc, 4);
    off_t start = lseek(t->fd, 0, SEEK_END);
    int rc = 0;
    for (size_t at = 0; at < b.len && rc == 0;) {
        ssize_t n = write(t->fd, b.data + at, b.len - at);
        if (n >= 0)
            at += (size_t)n;
        else if (errno != EINTR)
            rc = err_errno(e, "cannot write %s", t->path);
    }
    if (rc && start >= 0 && ftruncate(t->fd, start) < 0) err_append(e, "; half a record is left at its end");
    buf_free(&b);
    return rc;
}

static void begin_event(struct buf *b)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    double wall = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    put_varint(b, 1 << 3 | 1); /* Event.wall_time */
    buf_add(b, &wall, 8);
}

/* Event { wall_time, step, summary { value } }; frees `value`. */
static int write_value(struct tfevents *t, int64_t step, struct buf *value, struct err *e)
{
    struct buf event = {0}, summary = {0};
    begin_event(&event);
    put_int(&event, 2, step);
    put_message(&summary, 1, value);
    put_message(&event, 5, &summary);
    int rc = write_record(t, &event, e);
    buf_free(&event);
    return rc;
}

int tfevents_open(const char *dir, struct tfevents **out, struct err *e)
{
    *out = NULL;
    char host[64] = "host";
    if (gethostname(host, sizeof host) == 0) host[sizeof host - 1] = 0;
    for (char *s = host; *s; s++)
        if (*s == '/') *s = '-';
    struct tfevents *t = mem_zero(1, sizeof *t);
    long long now = (long long)time(NULL);
    t->path = mem_printf("%s/events.out.tfevents.%010lld.%s", dir, now, host);
    for (int i = 1;; i++) {
        t->fd = open(t->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (t->fd >= 0 || errno != EEXIST) break;
        free(t->path);
        t->path = mem_printf("%s/events.out.tfevents.%010lld.%s.%d", dir, now, host, i);
    }
    int rc = t->fd < 0 ? err_errno(e, "cannot create %s", t->path) : 0;
    if (rc == 0) {
        struct buf event = {0};
        begin_event(&event);
        put_bytes(&event, 3, "brain.Event:2", 13);
        rc = write_record(t, &event, e);
        buf_free(&event);
    }
    if (rc)
        tfevents_close(t);
    else
        *out = t;
    return rc;
}

int tfevents_scalar(struct tfevents *t, const char *tag, int64_t step, double value, struct err *e)
{
    struct buf v = {0};
    float f = (float)value;
    put_text(&v, 1, tag);
    put_varint(&v, 2 << 3 | 5); /* Value.simple_value */
    buf_add(&v, &f, 4);
    return write_value(t, step, &v, e);
}

int tfevents_text(struct tfevents *t, const char *tag, int64_t step, const char *text, struct err *e)
{
    struct buf v = {0}, meta = {0}, plugin = {0}, tensor = {0}, shape = {0}, dim = {0};
    put_text(&v, 1, tag);
    put_int(&tensor, 1, 7); /* DT_STRING */
    put_int(&dim, 1, 1);
    put_message(&shape, 2, &dim);
    put_message(&tensor, 2, &shape);
    put_text(&tensor, 8, text);
    put_message(&v, 8, &tensor);
    put_bytes(&plugin, 1, "text", 4);
    put_message(&meta, 1, &plugin);
    put_message(&v, 9, &meta);
    return write_value(t, step, &v, e);
}

int tfevents_image(struct tfevents *t, const char *tag, int64_t step, const void *png, size_t len, int width,
                   int height, struct err *e)
{
    struct buf v = {0}, image = {0};
    put_text(&v, 1, tag);
    put_int(&image, 1, height);
    put_int(&image, 2, width);
    put_int(&image, 3, 3); /* RGB */
    put_bytes(&image, 4, png, len);
    put_message(&v, 4, &image);
    return write_value(t, step, &v, e);
}

void tfevents_close(struct tfevents *t)
{
    if (!t) return;
    if (t->fd >= 0) close(t->fd);
    free(t->path);
    free(t);
}
