/* The data set that comes with the house: picture, name and speech of every emoji, made from Debian's own packages
 * (fonts-noto-color-emoji, unicode-cldr-core, unicode-data, and espeak-ng run as a program).
 *
 * Split rule (hash = 64-bit FNV-1a of the UTF-8 text; U+FE0F removed everywhere):
 *   base  = the emoji without its skin tones U+1F3FB..1F3FF
 *   hash("concept:" + base) % 10 == 0                          -> concepts      (the base is never seen in training)
 *   has tones and hash("composition:" + emoji) % 5 == 0        -> compositions  (base and tones seen, never together)
 *   otherwise                                                  -> train
 * Of the twelve voices, eight speak for training; four are held out (clips with "split": "voices"). */
#ifndef TRIAD_DATA_EMOJI_H
#define TRIAD_DATA_EMOJI_H

#include <stdint.h>
#include "base/err.h"

struct data_emoji_opts {
    const char *out; /* the folder to fill */
    int size;        /* pixels a side; 0 is 64 */
    int voices;      /* training voices an emoji, 1..8; 0 is 2. One held-out voice comes on top. */
    const char
        *languages; /* CLDR languages of the captions, "en,de"; NULL is "en". English is always there, and first. */
    int jobs;       /* at a time; 0 takes the cores this process may use */
    int64_t limit;  /* the first emoji only (tests); 0 is all */
};

/* Writes OUT/manifest.jsonl, OUT/image/ID.png (RGB, on white), OUT/audio/ID.K.flac (16 kHz mono) and OUT/emoji.h5, the
 * same packed. The same packages and options give the same bytes, whatever the jobs. A finished folder is checked and
 * left alone; an unfinished one is continued; other options or packages make all of it anew. About a minute on two
 * cores, 260 MB. Errors: ERR_CONFIG for an option out of range or an unknown language; ERR_IO where a package is
 * missing (naming the file and the package) or the disk fails; ERR_BUSY where another process fills the folder;
 * ERR_STATE where the folder holds a manifest that this function did not write. What was finished stays for the next
 * run. */
int data_emoji(const struct data_emoji_opts *o, struct err *e) MUST_CHECK;

#endif
