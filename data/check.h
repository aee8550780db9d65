/* Looks at everything a manifest names before hours of training do. */
#ifndef TRIAD_DATA_CHECK_H
#define TRIAD_DATA_CHECK_H

#include <stdint.h>
#include <stdio.h>
#include "base/err.h"

/* Decodes every file and reads every text of a manifest or pack, on all cores, and writes one line to `out` for each
 * unreadable or odd thing, in the manifest's order: "data.jsonl:12: image/a.png: reason". Bad are: lines that are no
 * item, missing, empty or corrupt files, silent or zero-length sound, pictures of 1x1 or with a side above 16,384,
 * sides more than 50 to 1, text that is empty or holds control characters. Odd, and only told: a caption twice in one
 * item, a file or the same bytes in two items. Ends with counts. Returns the number of bad things, or an error where
 * the manifest itself cannot be read. */
int64_t data_check(const char *manifest, FILE *out, struct err *e) MUST_CHECK;

#endif
