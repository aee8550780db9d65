/* Looks at everything a manifest names before hours of training do. */
#ifndef TRIAD_DATA_CHECK_H
#define TRIAD_DATA_CHECK_H

#include <stdint.h>
#include <stdio.h>
#include "base/err.h"

/* Decodes every file and reads every text of a manifest or pack, on all cores, and writes to `out` one line for each
 * bad or odd thing, in the manifest's order: "data.jsonl:12: bad: image/a.png: why". Ends with a line of counts.
 *   bad  what training stops at or skips: a line that is no item; a missing, empty or corrupt file
 *   odd  what it reads, but should be looked at: sound that is silent (peak under -80 dB) or shorter than 10 ms; a
 *        picture of 1x1, with a side above 16,384 or 50 times as long as the other; text that is empty, or holds control
 *        or replacement characters; a caption twice in one item; a file, or another with the same bytes, in two items
 * Returns the number of bad things, or an error where the manifest itself cannot be read. */
int64_t data_check(const char *manifest, FILE *out, struct err *e) MUST_CHECK;

#endif
