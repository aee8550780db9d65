/* Between log.c and progress.c only: one lock around standard error, so that messages and the bar do not mix. */
#ifndef TRIAD_BASE_LOG_LINE_H
#define TRIAD_BASE_LOG_LINE_H

#include "base/buf.h"

void log_lock(void);
void log_unlock(void);
bool log_is_quiet(void);
void log_put(const struct buf *b);                       /* writes it whole to standard error; hold the lock */
void log_file_line(const char *level, const char *text); /* one dated line to the log file if any; hold the lock */

/* With the lock held: takes the bar off the terminal, and draws it again. They do nothing where there is none. */
void progress_hide(struct buf *b);
void progress_show(struct buf *b);

#endif
