/* A tiny data set of three modalities and a config that trains on it in a second, for tests that need a whole run. */
#ifndef TRIAD_TESTS_TOY_H
#define TRIAD_TESTS_TOY_H

#include "tests/support/temp_dir.h"

enum { TOY_TRAIN = 16, TOY_TEST = 10 };

/* Writes manifest.jsonl, image/, audio/ and config.yaml: coloured squares, tones of different pitch, and captions that
 * name both. Items 0..TOY_TRAIN-1 are "train", the rest "test"; the last has no sound, the one before no picture. Item
 * 0 has the emoji U+1F600; captions hold what HTML must escape. */
void toy_make(const struct temp_dir *t);

/* Runs $TRIAD_BIN (build/triad where it is not set) with up to 14 words, ended by NULL; its standard output and
 * standard error go to `out` and `err` (caller frees; each may be NULL). Returns the exit status, -1 where it died
 * otherwise. */
int toy_triad(const struct temp_dir *t, char **out, char **err, const char *const *words);

#endif
