/* Strict configuration: YAML read into structs by tables, one table row a key, and written back whole.
 *
 * A room declares its struct and, next to it, the table:
 *
 *     struct adamw_config {
 *         double lr, weight_decay;
 *         struct { double *v; int64_t n; } betas;
 *     };
 *     #define AT(member) offsetof(struct adamw_config, member)
 *     static const struct conf_field adamw_fields[] = {
 *         {"lr", CONF_DOUBLE, AT(lr), "1e-3", CONF_ABOVE_0, 10, .help = "peak learning rate"},
 *         {"weight_decay", CONF_DOUBLE, AT(weight_decay), "0.1", 0, 1, .help = "of matrices; norms and biases have
 * none"},
 *         {"betas", CONF_DOUBLES, AT(betas), "[0.9, 0.98]", 0, 1, .least = 2, .most = 2, .help = "decay of the
 * moments"}, {0},
 *     };
 *     #undef AT
 *     const struct conf_table adamw_table = {sizeof(struct adamw_config), adamw_fields};
 *
 * Whatever the table does not allow is an error with file, line and column and a suggestion. It does not expand
 * environment variables, include files, or know YAML tags. Anchors, aliases and merge keys (`<<: *base`) work. */
#ifndef TRIAD_BASE_CONF_H
#define TRIAD_BASE_CONF_H

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include "base/buf.h"
#include "base/err.h"
#include "base/mem.h"

/* The C type of the member is on the right. A list's member is any struct of a pointer and a count, in this order:
 * `struct { T *v; int64_t n; } name;`. An empty list has n = 0. */
enum conf_type {
    CONF_NONE,
    CONF_BOOL,     /* bool: true, false */
    CONF_INT,      /* int64_t: a whole number; 1e6 is one */
    CONF_DOUBLE,   /* double: finite */
    CONF_STRING,   /* const char *: NULL for null, which only a row with the default "null" allows */
    CONF_ENUM,     /* int: index in `choices` */
    CONF_DURATION, /* double, seconds: 25ms, 4m, 1.5h, or plain seconds */
    CONF_BYTES,    /* int64_t: 2GB, 512MiB, or plain bytes */
    CONF_INTS,     /* {int64_t *v; n}: one number stands for a list of one */
    CONF_DOUBLES,  /* {double *v; n} */
    CONF_STRINGS,  /* {const char **v; n} */
    CONF_STRUCT,   /* the struct of `sub`, inline in its parent */
    CONF_OPTIONAL, /* pointer to the struct of `sub`: NULL for null */
    CONF_LIST,     /* {struct of `sub` *v; n} */

    /* {struct of `sub` *v; n}: keys chosen by the user, in the file's order. Each struct begins with `const char
     * *name`, which gets the key (letters, digits, _ and -) and has no row. A row whose own key is "*" takes every key
     * of its parent that no other row names. */
    CONF_MAP,

    /* The struct of `sub`, as in `optim: {adamw: {...}}`: of the rows with the same `tag` exactly one is given (null
     * takes it back), and the int at `tag` gets its `value`. `def` = "{}" marks the one taken where none is given. Rows
     * of a group may share memory (a union): only the one taken is written. */
    CONF_CASE,

    /* int, as in `{tower: resnet, widths: ...}`: read as CONF_ENUM; then the chosen one of `cases` adds its rows to the
     * parent's keys, with offsets that count from `cases_at` in the parent. */
    CONF_SWITCH,
};

#define CONF_ABOVE_0 DBL_MIN /* as `min`: more than 0 */

struct conf_table;

struct conf_field {
    const char *key; /* NULL ends the table */
    enum conf_type type;
    size_t offset;              /* in the parent struct */
    const char *def;            /* the default as YAML, NULL: the key is required */
    double min, max;            /* of each number (seconds, bytes), both included; both 0: any */
    const char *const *choices; /* CONF_ENUM, CONF_SWITCH: names, ended by NULL */
    const struct conf_table *sub;
    const char *help;                      /* one line */
    int64_t least, most;                   /* lists and maps: number of elements; most 0: any */
    size_t tag;                            /* CONF_CASE: offset of the int that tells which case it is */
    int value;                             /* CONF_CASE: what that int becomes */
    const struct conf_table *const *cases; /* CONF_SWITCH: beside `choices`; a NULL has no keys of its own */
    size_t cases_at; /* CONF_SWITCH: offset of the union, 0: `cases` are written against the parent itself */
};

struct conf_table {
    size_t size; /* of the struct */
    const struct conf_field *fields;
    const char *shorthand; /* a value that is no map stands for {shorthand: value} */
    int positional;        /* > 0: [a, b] gives the first rows in order, at most so many of them; a alone is [a] */
    /* May be NULL. Checks what one row cannot; called once the struct is complete. Its message gets the place in front.
     */
    int (*check)(const void *s, struct err *e);
};

/* Owns every string and list of the structs read through it. Zero-initialise. */
struct conf {
    struct arena mem;
    struct conf_place *places; /* of each member that was read, for conf_where */
    size_t n_places, cap_places;
    const char *file;
};

enum { CONF_MAX_BYTES = 1 << 20, CONF_MAX_DEPTH = 32 };

/* Reads the file `path` into *out by the table `t`, then puts `overrides` over it: "optim.adamw.lr=1e-3" (the value is
 * YAML; an element of a list is named by its index, "valid.0.split=voices"). One `c` may read several files. The
 * strings and lists in *out live until conf_free(c). ERR_IO: unreadable. ERR_CONFIG: anything else, as
 * `configs/a.yaml:14:3: unknown key 'lerning_rate' in optim; did you mean 'learning_rate'?` or `configs/a.yaml:
 * override 1: ...`. On error *out is zeroed. Nothing is printed. */
int conf_read(struct conf *c, const char *path, const char *const *overrides, int n_overrides,
              const struct conf_table *t, void *out, struct err *e) MUST_CHECK;

/* As conf_read from memory; `name` stands for the file in messages. */
int conf_parse(struct conf *c, const char *name, const char *text, size_t len, const char *const *overrides,
               int n_overrides, const struct conf_table *t, void *out, struct err *e) MUST_CHECK;

/* Every default of the table; required keys are zero. A default that does not fit its own row is a bug (CHECK). */
void conf_default(struct conf *c, const struct conf_table *t, void *out);

/* The whole struct as YAML, defaults too, so that conf_parse gives the same values bit for bit. `help`: each line ends
 * in a comment. */
void conf_dump(const struct conf_table *t, const void *s, bool help, struct buf *out);

/* Where a member was given: "configs/a.yaml:14:3" or "configs/a.yaml: override 1"; the file's name alone where the
 * default was taken. Lives until conf_free. `member` is its address in the struct read; inside lists too. */
const char *conf_where(struct conf *c, const void *member);

void conf_free(struct conf *c);

#endif
