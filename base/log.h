/* What the program says while it works: to standard error, and to a file once one is named. Colour only where standard
 * error is a terminal and NO_COLOR is not set. Thread-safe; a message is one line, written whole. */
#ifndef TRIAD_BASE_LOG_H
#define TRIAD_BASE_LOG_H

#include <stdint.h>
#include "base/err.h"

void log_info(const char *fmt, ...) PRINTF_LIKE(1, 2);
void log_warn(const char *fmt, ...) PRINTF_LIKE(1, 2);
void log_error(const char *fmt, ...) PRINTF_LIKE(1, 2);
void log_quiet(bool quiet); /* true: only warnings and errors reach standard error, no bar; the file still gets all */
int log_to_file(const char *path, struct err *e) MUST_CHECK; /* appends, with a time before each line; NULL closes */

bool log_is_terminal(void); /* standard error is a terminal */
/* "red" "green" "yellow" "blue" "bold" "dim" "reset"; "" where colour is off. */
const char *log_color(const char *name);

/* A progress line. On a terminal it is redrawn in place at most ten times a second; piped, a plain line appears at most
 * every `quiet_s` seconds and at the end. Log messages appear above it. One at a time in a process. */
struct progress;
struct progress *progress_new(const char *what, int64_t total, const char *unit, double quiet_s);
/* `done` of `total`; `note` follows the bar (loss, rate...), may be NULL. Rate and time left are computed here. */
void progress_update(struct progress *p, int64_t done, const char *note);
/* For work that ends by the clock: the seconds it has left, and how many it will have done then, a guess. */
void progress_set_end(struct progress *p, double seconds_left, int64_t total);
void progress_end(struct progress *p, const char *note); /* draws the last state, ends the line, frees */

#endif
