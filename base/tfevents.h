/* TensorBoard event files: scalars, texts and pictures. TFRecord framing (length, masked CRC-32C) around hand-encoded
 * Event messages (tensorflow/core/util/event.proto, framework/summary.proto). Writes only. */
#ifndef TRIAD_BASE_TFEVENTS_H
#define TRIAD_BASE_TFEVENTS_H

#include <stdint.h>
#include <stddef.h>
#include "base/err.h"

struct tfevents;

/* Creates a new file `dir`/events.out.tfevents.<seconds>.<host> (with a number behind it if that name is taken, so that
 * a resumed run never writes into an older file). ERR_IO; on error *out is NULL. */
int tfevents_open(const char *dir, struct tfevents **out, struct err *e) MUST_CHECK;

/* Each call writes one record with the present time and leaves it in the file at once. ERR_IO: the record was taken
 * back, so that the file stays readable; later calls may be tried. Text that is not UTF-8 gets U+FFFD. */
int tfevents_scalar(struct tfevents *t, const char *tag, int64_t step, double value, struct err *e) MUST_CHECK;
int tfevents_text(struct tfevents *t, const char *tag, int64_t step, const char *text, struct err *e) MUST_CHECK;
int tfevents_image(struct tfevents *t, const char *tag, int64_t step, const void *png, size_t len, int width,
                   int height, struct err *e) MUST_CHECK;
void tfevents_close(struct tfevents *t); /* NULL is fine */

/* CRC-32C (Castagnoli) of bytes: "123456789" gives 0xe3069283. */
uint32_t crc32c(const void *data, size_t n);

#endif
