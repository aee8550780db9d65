/* A data set in one HDF5 file: the manifest's lines and the encoded bytes of every file they name. One open file
 * instead of many thousands, and one thing to copy. Datasets at the root:
 *
 *   manifest  uint8 (bytes)              the JSONL text as it was
 *   file      fixed-length string (n)    each named file once, as the manifest writes it
 *   offset    int64 (n)                  bytes from the start of blob
 *   length    int64 (n)                  bytes
 *   blob      uint8 (bytes), contiguous  the files' bytes one after another, still encoded (PNG, FLAC ...)
 *
 * HDF5 itself is only called here, one caller at a time; bytes are read with pread at the blob's place in the file.
 */
#ifndef TRIAD_DATA_PACK_H
#define TRIAD_DATA_PACK_H

#include "data/manifest.h"

/* Packs a manifest and its files into `out`, which appears whole or not at all (written aside, synced, renamed). The
 * same input gives the same bytes. Errors: as manifest_load; a file that it names is missing (line and path); ERR_IO
 * while writing. */
int data_pack(const char *manifest, const char *out, struct err *e) MUST_CHECK;

/* What follows is for data/manifest.c. */
struct pack {
    int fd;
    int64_t n, blob, blob_len; /* files; the blob's place and size in the file, bytes */
    size_t name_len;           /* bytes of a name in `names`, which holds n of them one after another */
    char *names;
    int64_t *offset, *length;
};

/* Reads all but the blob; *text gets the manifest's lines (the caller frees). ERR_FORMAT where the file is truncated,
 * corrupt or no pack of triad's; on error nothing is left open. */
int pack_open(const char *path, struct pack *p, char **text, size_t *len, struct err *e) MUST_CHECK;

/* Gives every file entry of `m` its place, and `m` the descriptor. ERR_FORMAT where a file is not in the pack. */
int pack_attach(struct pack *p, struct manifest *m, struct err *e) MUST_CHECK;
void pack_free(struct pack *p);

/* ERR_IO where the entry is no file of the manifest's pack. */
int pack_has(const struct manifest *m, const struct manifest_entry *entry, struct err *e) MUST_CHECK;

/* manifest_bytes for a pack. */
int pack_read(const struct manifest *m, const struct manifest_entry *entry, char **data, size_t *len,
              struct err *e) MUST_CHECK;

#endif
