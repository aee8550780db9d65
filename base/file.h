/* Files and folders: whole reads, writes that appear whole or not at all, locks. */
#ifndef TRIAD_BASE_FILE_H
#define TRIAD_BASE_FILE_H

#include <stdint.h>
#include <stddef.h>
#include "base/err.h"

/* Reads a whole file of at most `max` bytes; a 0 byte follows the content. The caller frees *data. ERR_IO if it cannot
 * be read, ERR_FORMAT if it is larger. On error *data is NULL. */
int file_read(const char *path, size_t max, char **data, size_t *len, struct err *e) MUST_CHECK;

/* Writes `path` whole: into a temporary name in the same folder, synced, renamed. On error the old file is untouched
 * and the temporary one gone. A path that is a device, a pipe or a symbolic
 * link is written directly. */
int file_write(const char *path, const void *data, size_t len, struct err *e) MUST_CHECK;

/* The same in pieces, for what is too large to hold in memory. `file_out_commit` syncs, renames and frees, and
 * `file_out_abandon` removes and frees; one of them ends every successful open. After a failed write, abandon.
 * A failed commit has already removed the temporary file and freed `o`. */
struct file_out;
int file_out_open(const char *path, struct file_out **out, struct err *e) MUST_CHECK;
int file_out_write(struct file_out *o, const void *data, size_t len, struct err *e) MUST_CHECK;
int file_out_commit(struct file_out *o, struct err *e) MUST_CHECK;
void file_out_abandon(struct file_out *o);

int file_mkdirs(const char *path, struct err *e) MUST_CHECK; /* as mkdir -p */
bool file_exists(const char *path);
bool file_is_dir(const char *path);
int64_t file_size(const char *path);                /* -1 where there is none */
char *file_join(const char *dir, const char *name); /* name alone if it is absolute; caller frees */
char *file_dirname(const char *path);        /* what is before the last slash; "." where there is none; caller frees */
const char *file_basename(const char *path); /* what is behind it; points into path */
int file_remove_tree(const char *path, struct err *e) MUST_CHECK; /* a missing one is no error */
int file_sync_dir(const char *path, struct err *e) MUST_CHECK;

/* Names in a folder (without . and ..), sorted by byte. The caller frees with file_list_free. */
int file_list(const char *dir, char ***names, int *n, struct err *e) MUST_CHECK;
void file_list_free(char **names, int n);

/* Takes `path` as a lock that dies with the process (flock). Returns a descriptor >= 0, or ERR_BUSY naming the holder's
 * process id, or ERR_IO. file_unlock releases it. */
int file_lock(const char *path, struct err *e) MUST_CHECK;
void file_unlock(int fd);

#endif
