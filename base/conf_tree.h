/* Inside base/conf*.c only: a YAML document as a small tree, with the place of each key and value. */
#ifndef TRIAD_BASE_CONF_TREE_H
#define TRIAD_BASE_CONF_TREE_H

#include "base/conf.h"

/* Where something was written: line and column from 1, or the number of an override from 1 (then line is 0). */
struct conf_at {
    int line, col, override;
};

enum tree_kind { TREE_SCALAR, TREE_LIST, TREE_MAP };

struct tree_item {
    const char *key;   /* of a map's item; NULL in a list */
    struct conf_at at; /* of the key; of the value in a list */
    struct tree *value;
};

struct tree {
    enum tree_kind kind;
    struct conf_at at;
    bool quoted;      /* a scalar in quotes is text, never null */
    const char *text; /* of a scalar */
    struct tree_item *items;
    int64_t n;
    size_t cap;
    int64_t weight; /* nodes below, those reached through aliases counted each time */
};

enum { TREE_MAX_NODES = 100000 };

/* Text becomes a tree in `mem`. An empty document is an empty map if `top` (a document must then be a map), else null.
 * All errors are ERR_CONFIG; `file` stands in front, or "file: override N" when `override` > 0. NULL on error. */
struct tree *tree_parse(struct arena *mem, const char *file, int override, bool top, const char *text, size_t len,
                        struct err *e);

/* Puts override number `number`, "a.b.0.c=value", over the tree. */
int tree_override(struct arena *mem, const char *file, struct tree *root, int number, const char *text, struct err *e);

struct tree *tree_scalar(struct arena *mem, const char *text, struct conf_at at);
void tree_add(struct arena *mem, struct tree *parent, const char *key, struct conf_at at, struct tree *value);
struct tree_item *tree_find(const struct tree *map, const char *key); /* NULL where there is none */
bool tree_is_null(const struct tree *t);                              /* null, ~ or nothing */

/* "configs/a.yaml:14:3" or "configs/a.yaml: override 1" into `out`. */
const char *conf_at_text(char *out, size_t size, const char *file, struct conf_at at);

/* For messages and dumps: the shortest text that reads back as the same value. They write into `out` and return it. */
const char *conf_double_text(char *out, size_t size, double v);
const char *conf_number_text(char *out, size_t size, enum conf_type type, double v);
const char *conf_bytes_text(char *out, size_t size, int64_t v);

#endif
