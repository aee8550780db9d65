/* A growing run of bytes, used to build text. Always followed by a 0 that is not counted. Zero-initialise. */
#ifndef TRIAD_BASE_BUF_H
#define TRIAD_BASE_BUF_H

#include <stddef.h>
#include "base/err.h"

struct buf {
    char *data;
    size_t len, cap;
};

void buf_add(struct buf *b, const void *data, size_t n);
void buf_str(struct buf *b, const char *s);
void buf_printf(struct buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
void buf_html(struct buf *b, const char *s); /* & < > " ' escaped; bad UTF-8 becomes U+FFFD */
void buf_json(struct buf *b, const char *s); /* a quoted JSON string; bad UTF-8 becomes U+FFFD */
void buf_base64(struct buf *b, const void *data, size_t n);
void buf_free(struct buf *b); /* leaves an empty, usable buf */

#endif
