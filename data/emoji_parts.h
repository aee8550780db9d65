/* The parts of data/emoji.c: the list and its texts, pictures, speech. Private to the emoji_*.c files and their tests.
 */
#ifndef TRIAD_DATA_EMOJI_PARTS_H
#define TRIAD_DATA_EMOJI_PARTS_H

#include <stdint.h>
#include <stddef.h>
#include "base/buf.h"
#include "base/err.h"
#include "base/mem.h"

#define EMOJI_LIST "/usr/share/unicode/emoji/emoji-test.txt"
#define EMOJI_CLDR "/usr/share/unicode/cldr/common"
#define EMOJI_FONT "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"

struct emoji {
    const char *text;  /* as the Unicode list has it */
    const char *plain; /* without U+FE0F */
    const char *base;  /* plain without skin tones */
    const char *id;    /* plain's code points in hexadecimal, joined by - */
    const char *split;
    int tones;
    uint64_t hash;        /* of "voice:" + plain: chooses voices, speeds and pitches */
    const char **caption; /* the English name, its keywords joined by ", ", then those of the other languages */
    int n_captions;
};

struct emoji_list {
    struct emoji *item;
    int64_t n;
    uint64_t sources; /* hash of the files it was read from */
    struct arena arena;
};

/* Reads the Unicode list and CLDR's annotations. `languages` as in data_emoji_opts; `limit` 0 is all. On error *list is
 * empty. */
int emoji_list_load(const char *languages, int64_t limit, struct emoji_list *list, struct err *e) MUST_CHECK;
void emoji_list_free(struct emoji_list *list);

/* The split rule. */
const char *emoji_split(const char *base, const char *plain, int tones);

/* One thread's view of the font. */
struct emoji_font;
struct emoji_font *emoji_font_open(const char *path, struct err *e); /* NULL on error */
void emoji_font_close(struct emoji_font *f);

/* Draws an emoji on a white square, scales it to size x size (bicubic) and appends it as a PNG file. ERR_FORMAT where
 * the font has no one picture for it. */
int emoji_picture(struct emoji_font *f, const char *text, int size, struct buf *png, struct err *e) MUST_CHECK;

/* espeak-ng, found and tried. Safe from many threads. `dir` (may be NULL) is a folder that may be made for the time
 * being, to speak faster; one that is there is removed. NULL on error: not installed, or it does not work. */
struct speech;
struct speech *speech_open(const char *dir, struct err *e);
void speech_close(struct speech *s);
const char *speech_version(const struct speech *s); /* what the program says of itself */

/* Speaks: mono samples at *rate Hz; `speed` in words a minute, `pitch` 0..99. The caller frees *samples. */
int speech_say(const struct speech *s, const char *voice, int speed, int pitch, const char *text, int16_t **samples,
               int64_t *n, int *rate, struct err *e) MUST_CHECK;

/* Resamples to 16 kHz and appends as a FLAC file. */
int speech_encode(const int16_t *samples, int64_t n, int rate, struct buf *flac, struct err *e) MUST_CHECK;

/* The clips of an emoji: k < voices are for training, k == voices is held out. */
struct speech_plan {
    const char *voice;
    int speed, pitch;
};
struct speech_plan speech_plan(uint64_t hash, int k, int voices);

#endif
