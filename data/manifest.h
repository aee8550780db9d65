/* A data set's list of items: JSONL on disk (or inside an HDF5 pack, data/pack.h), held in memory.
 *
 * One line is one item, a JSON object:
 *   {"id": "1f600", "split": "train", "group": "smileys", "image": "image/1f600.png", "text": ["grinning face", "face,
 * grin"], "audio": [{"file": "audio/1f600.0.flac", "voice": "en-us+m1", "split": "train"}, ...], "anything": 3}
 * - id      a string or a whole number, unlike all others; the line's number where there is none.
 * - split   which part of the data the item belongs to; "train" where there is none.
 * - group   items that show the same thing; optional.
 * - Every other key whose value is a string, an object with "file" or a list of those is a *field*: a modality under a
 * name that the user picks ("image", "text", "audio", "sketch"...). Its entries are paths or texts. An entry written as
 * an object may say its "voice" and its own "split". Other values (numbers, true, null, other lists and objects) are
 * the user's own and are passed over, except under "image", "text" and "audio", where they are an error (null is as if
 * absent). Paths are relative to the manifest's folder. Blank lines are passed over.
 *
 * Splits of entries: an entry with "split": "train" or none is for training. One with another split is held out under
 * that name ("voices": speech by voices never heard in training) and is only met when that name is asked for.
 *
 * This file decodes nothing: see data/image.h and data/audio.h. */
#ifndef TRIAD_DATA_MANIFEST_H
#define TRIAD_DATA_MANIFEST_H

#include <stdint.h>
#include <stddef.h>
#include "base/err.h"
#include "base/mem.h"

struct manifest_entry {
    const char *value; /* the path as the manifest has it, or the text */
    const char *voice; /* NULL where not said */
    const char *split; /* NULL where not said */
    bool
        is_file; /* under "image" or "audio", written as {"file": ...}, or ending as pictures and sound do (.png ...) */
    int64_t offset; /* bytes from the start of the pack; -1 without a pack */
    int64_t length; /* bytes; -1 without a pack */
};

struct manifest_field {
    const char *name;
    struct manifest_entry *entry;
    int n; /* at least 1 */
};

struct manifest_item {
    const char *id;
    const char *split; /* never NULL: "train" where not said */
    const char *group; /* NULL where not said */
    int64_t line;      /* 1-based line of the manifest */
    struct manifest_field *field;
    int n_fields;
};

struct manifest {
    char *path; /* for messages: the file that was loaded */
    char *dir;  /* the folder that paths are relative to */
    struct manifest_item *item;
    int64_t n;
    const char **split; /* the items' splits in order of first use */
    int64_t *split_n;   /* the number of items of each */
    int n_splits;
    const char **held; /* the splits that only entries have, without "train" ("voices") */
    int n_held;
    int pack_fd;        /* -1 without a pack */
    struct arena arena; /* the strings, fields and entries */
};

/* Reads a manifest (.jsonl) or a pack (.h5, told by its first bytes). Strict: wrong JSON, invalid UTF-8, a wrong type,
 * an item without fields or a second use of an id is ERR_FORMAT that begins with file:line; so is a file without items.
 * ERR_IO if it cannot be read. On error *m is empty and need not be freed. Nothing is said about the files it names:
 * see data_check. */
int manifest_load(const char *path, struct manifest *m, struct err *e) MUST_CHECK;

/* As manifest_load for text in memory; `name` is used in messages, `dir` for paths. */
int manifest_parse(const char *name, const char *dir, const char *text, size_t len, struct manifest *m,
                   struct err *e) MUST_CHECK;

/* As manifest_load, but a bad line is told to `bad` (with file:line in the message) and left out; a manifest whose
 * lines are all bad is loaded with no items. */
typedef void manifest_bad_fn(void *ctx, int64_t line, const char *message);
int manifest_load_lenient(const char *path, struct manifest *m, manifest_bad_fn *bad, void *ctx,
                          struct err *e) MUST_CHECK;

void manifest_free(struct manifest *m); /* leaves it empty; an empty one is fine */

/* The items of a split, in file order, as indices into m->item: those whose split it is, or, for a split that only
 * entries have, the training items with such an entry. NULL or "all" gives every item. The caller frees *items.
 * ERR_CONFIG for a split that the manifest has not, naming those it has. */
int manifest_select(const struct manifest *m, const char *split, int64_t **items, int64_t *n, struct err *e) MUST_CHECK;

/* An item's field, or NULL where it has none of that name. */
const struct manifest_field *manifest_field(const struct manifest_item *item, const char *name);

/* The number of items with a field of that name: 0 tells a wrong name in a config. */
int64_t manifest_count(const struct manifest *m, const char *field);

/* Which entries of a field are used when reading `split`: their places go to `index` (room for f->n), the number is
 * returned. For a split that only entries have: those of that split, or where the field has none, those without a
 * split. For any other (an item's split; NULL is "train"): those without a split, of split "train", and of that split.
 */
int manifest_use(const struct manifest *m, const struct manifest_field *f, const char *split, int *index);

/* Walks all entries that are files, in order: zero-initialise the walk; NULL at the end. w->item, w->field and w->entry
 * then say where it stands. */
struct manifest_walk {
    int64_t item;
    int field, entry;
    bool started;
};
struct manifest_entry *manifest_next_file(const struct manifest *m, struct manifest_walk *w);

/* The bytes of the file that an entry names: from the pack, or read from the folder. Safe from many threads at once.
 * The caller frees *data (a 0 byte follows the content). ERR_IO or ERR_FORMAT naming the file; then *data is NULL. */
int manifest_bytes(const struct manifest *m, const struct manifest_entry *entry, char **data, size_t *len,
                   struct err *e) MUST_CHECK;

/* The file that an entry names, open for reading: `length` bytes from `offset` of `fd`. Close it with manifest_close.
 * ERR_IO or ERR_FORMAT naming the file. */
struct manifest_file {
    int fd;
    int64_t offset, length;
    bool own; /* fd is not the pack's */
};
int manifest_open(const struct manifest *m, const struct manifest_entry *entry, struct manifest_file *f,
                  struct err *e) MUST_CHECK;
void manifest_close(struct manifest_file *f);

#endif
