/* Small text work: suggestions, units, UTF-8. */
#ifndef TRIAD_BASE_TEXT_H
#define TRIAD_BASE_TEXT_H

#include <stdint.h>
#include <stddef.h>
#include "base/err.h"

/* The name nearest to `word` among `n` names if it is near enough to be a slip (edit distance with swaps at most a
 * third of the length, at least 1), else NULL. */
const char *text_nearest(const char *word, const char *const *names, int n);

/* Quantities with units. `text_duration`: "25ms", "4m", "1.5h", "30s", "2d" or plain seconds -> seconds.
 * `text_bytes`: "2GB", "512MiB", "64k" or plain -> bytes (k M G T decimal, Ki Mi Gi Ti binary). ERR_FORMAT says what
 * came. */
int text_duration(const char *s, double *seconds, struct err *e) MUST_CHECK;
int text_bytes(const char *s, int64_t *bytes, struct err *e) MUST_CHECK;

/* "1,482,113", "412 MB", "2:04", "1:02:04": for people. They write into `out` and return it. */
char *text_count(char *out, size_t size, int64_t n);
char *text_size(char *out, size_t size, double bytes);
char *text_clock(char *out, size_t size, double seconds);

/* The length in bytes of the UTF-8 character at `s` (1..4), or 0 where it is not valid; `end` bounds the read.
 * Overlong forms, surrogates and values above U+10FFFF are not valid. *cp gets the code point (may be NULL). */
int utf8_next(const char *s, const char *end, uint32_t *cp);
bool utf8_valid(const char *s, size_t n, size_t *bad_at); /* *bad_at: the first wrong byte; may be NULL */
int utf8_put(uint32_t cp, char out[4]);                   /* the number of bytes written */

#endif
