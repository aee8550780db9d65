/* Items of a manifest as pieces of a page made with base/html.h: the picture, the caption, the sound with its
 * spectrogram. A file that cannot be read is said so in its place: a page never fails for it. */
#ifndef TRIAD_EVAL_SHOW_H
#define TRIAD_EVAL_SHOW_H

#include "base/buf.h"
#include "run/model.h"

/* The entry of an item's field that evaluation takes (manifest_use with `split`, `pick` of those, the last where there
 * are fewer), or NULL where the item has none. */
const struct manifest_entry *eval_entry(const struct manifest *data, int64_t item, const char *field, const char *split,
                                        int64_t pick);

/* What people call an item: its first caption in a text modality of the model, in "text", or its id. */
const char *eval_caption(const struct run_model *m, const struct manifest_item *item);
const char *eval_mark(const struct manifest_item *item); /* its "emoji", or "" */

/* x (rows, cols) as a picture in the colours of matplotlib's magma, from the least (dark) to the greatest value; row 0
 * is at the bottom. NaN is dark. Appends a PNG. */
int eval_heat_png(const float *x, int64_t rows, int64_t cols, struct buf *png, struct err *e) MUST_CHECK;

/* The styles that eval_show and pages around it use, once after html_begin. */
void eval_show_style(struct buf *b);

/* How much sound a page may hold. Sounds are shown as a spectrogram alone once it is used up. */
struct eval_show {
    int px;              /* the greatest side of a picture as it is stored */
    int64_t sound_bytes; /* left */
    bool mute;           /* no sound for now */
};

/* Appends one entry of a modality: a picture, a text, or a spectrogram and a player (16 kHz, at most 6 s). */
void eval_show(struct buf *b, struct eval_show *s, const struct manifest *data, const struct manifest_entry *entry,
               enum data_kind kind);

#endif
