/* Start values of parameters: functions of (seed, name, element). Nobody waits for them: all threads make them, in vector
 * code, about a nanosecond each. */
#ifndef TRIAD_AUTOGRAD_START_H
#define TRIAD_AUTOGRAD_START_H

#include "autograd/store.h"
#include "base/isa.h"

/* Fills the data of n entries by their `init`. The same values with any number of threads; between instruction sets normal
 * ones may differ in their last bits. */
void ad_start_values(uint64_t seed, struct ad_entry *entry, size_t n);

/* Standard normal numbers `from` .. from + n - 1 of the stream `key`; from is a multiple of AD_START_GROUP. Box and Muller's
 * pairs of Philox's words: number i has counter (0, i / 32 * 8 + i % 8), and the k-th of its four results, k = i % 32 / 8. Of
 * a counter's words (a, b, c, d) these are r(a) cos b, r(a) sin b, r(c) cos d, r(c) sin d: a and c as numbers in (0, 1], b and
 * d as parts of a turn, all of 24 bits. */
enum { AD_START_GROUP = 32 };
ISA_DECLARE(void, ad_start_normal, (uint64_t key, int64_t from, int64_t n, float *out));

#endif
