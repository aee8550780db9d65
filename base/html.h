/* Self-contained HTML pages: one inline stylesheet (light and dark by the reader's setting), no script, nothing
 * fetched. Every text argument is escaped. Begin and end calls must pair up; the caller keeps the order. */
#ifndef TRIAD_BASE_HTML_H
#define TRIAD_BASE_HTML_H

#include <stdint.h>
#include "base/buf.h"

void html_begin(struct buf *b, const char *title, const char *subtitle); /* subtitle may be NULL */
void html_end(struct buf *b);

void html_section(struct buf *b, const char *title); /* a heading; the next section or html_end ends it */
void html_note(struct buf *b, const char *text);     /* a quiet paragraph */

/* A grid of cards that wraps with the page's width; `min_px` is a card's least width. */
void html_grid_begin(struct buf *b, int min_px);
void html_grid_end(struct buf *b);
void html_card_begin(struct buf *b, const char *title); /* title may be NULL */
void html_card_end(struct buf *b);
void html_stat(struct buf *b, const char *label, const char *value,
               const char *note); /* one big figure; note or NULL */
void html_tag(struct buf *b, const char *text,
              int color); /* a small coloured label; color -1: grey, -2: good, -3: bad */

/* A table: a cell that begins like a number stands to the right. */
void html_table_begin(struct buf *b, const char *const *head, int n);
void html_table_row(struct buf *b, const char *const *cell, int n);
void html_table_end(struct buf *b);

void html_png(struct buf *b, const void *png, size_t len, const char *alt, int width); /* width in px; 0: its own */
void html_wav(struct buf *b, const void *wav, size_t len);                             /* a player */
void html_code(struct buf *b, const char *summary,
               const char *text); /* preformatted; folded under `summary` unless NULL */

#endif
