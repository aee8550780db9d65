/* What the two readers of tokenizer.json share: typed access to a value, with its place in the file in every error. */
#ifndef TRIAD_DATA_TOKENIZER_JSON_H
#define TRIAD_DATA_TOKENIZER_JSON_H

#include <jansson.h>
#include "data/tokenizer_internal.h"

struct reader {
    struct tokenizer *t;
    struct err *e;
};

/* ERR_FORMAT with "pre_tokenizer.pattern: ...". */
int read_bad(struct reader *r, const char *path, const char *fmt, ...) PRINTF_LIKE(3, 4);
const char *read_type(const json_t *j); /* "a string", "nothing" for NULL */
const char *read_join(struct reader *r, const char *path, const char *key);

/* The value of a key of `o`, which stands at `path`. Strings go to the tokenizer's arena. */
int read_string(struct reader *r, const json_t *o, const char *path, const char *key, const char **out);
int read_optional(struct reader *r, const json_t *o, const char *path, const char *key, const char **out); /* or NULL */
int read_bool(struct reader *r, const json_t *o, const char *path, const char *key, bool without, bool *out);
int read_int(struct reader *r, const json_t *o, const char *path, const char *key, int64_t lo, int64_t hi,
             int64_t *out);

/* The file's "normalizer", "pre_tokenizer" and "decoder" (tokenizer_json_steps.c). */
int read_all_steps(struct reader *r, const json_t *root);

#endif
