/* Inside base/conf*.c only: what reads a tree into structs, and its scalars. */
#ifndef TRIAD_BASE_CONF_READER_H
#define TRIAD_BASE_CONF_READER_H

#include "base/conf_tree.h"

struct conf_reader {
    struct conf *c;
    struct arena *tmp; /* the trees */
    const char *file;
    bool defaults; /* conf_default: required keys stay zero, places are not kept */
    struct err *e;
};

/* How one gets from the root to a value, for messages: "valid.0.split". */
struct conf_path {
    const struct conf_path *up;
    const char *key; /* NULL at the root */
};

/* Appends the path. */
void conf_path_text(struct buf *b, const struct conf_path *p);

/* Sets "file:line:col: [path: ]text"; returns ERR_CONFIG. */
int conf_fail(struct conf_reader *r, struct conf_at at, const struct conf_path *path, const char *fmt, ...)
    PRINTF_LIKE(4, 5);
/* The same for a value of another kind: "expected EXPECTED, got ..." */
int conf_mistyped(struct conf_reader *r, const struct tree *t, const struct conf_path *path, const char *expected);
/* What came, for messages: "'abc'", "a list", "keys and values". */
const char *conf_came(char *out, size_t size, const struct tree *t);

/* One scalar of the type `type` (a list's element has its list's row) into `out`. */
int conf_read_scalar(struct conf_reader *r, const struct conf_field *f, enum conf_type type, const struct tree *t,
                     const struct conf_path *path, void *out);

#endif
