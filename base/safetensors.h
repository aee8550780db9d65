/* safetensors files: an 8-byte little-endian header length, a JSON header, the tensors' bytes without gaps.
 * (https://huggingface.co/docs/safetensors; whole files only, no sharded index.) Everything that a file says is checked
 * before it is used. For little-endian machines. */
#ifndef TRIAD_BASE_SAFETENSORS_H
#define TRIAD_BASE_SAFETENSORS_H

#include <stdint.h>
#include <stddef.h>
#include "base/err.h"

/* name, bytes */
#define ST_DTYPES(X) \
    X(F64, 8)        \
    X(I64, 8)        \
    X(U64, 8)        \
    X(F32, 4)        \
    X(I32, 4)        \
    X(U32, 4)        \
    X(F16, 2)        \
    X(BF16, 2)       \
    X(I16, 2)        \
    X(U16, 2)        \
    X(I8, 1)         \
    X(U8, 1)         \
    X(BOOL, 1)

enum st_dtype {
#define X(name, bytes) ST_##name,
    ST_DTYPES(X)
#undef X
        ST_DTYPE_COUNT
};

enum { ST_MAX_RANK = 8 };

const char *st_dtype_name(enum st_dtype d); /* "F32" */
size_t st_dtype_size(enum st_dtype d);      /* bytes of one element */

/* A tensor in an open file. Row-major. `data` points into the file and may lie at any address: copy, do not cast. */
struct st_tensor {
    const char *name;
    enum st_dtype dtype;
    int rank;
    int64_t dim[ST_MAX_RANK];
    int64_t count; /* elements; 1 for rank 0 */
    const void *data;
    size_t bytes;
};

struct st_file;

/* Opens and checks a whole file. ERR_IO: cannot be read; ERR_FORMAT: not a sound safetensors file (says which tensor
 * and what was expected); ERR_MEMORY. On error *out is NULL. */
int st_open(const char *path, struct st_file **out, struct err *e) MUST_CHECK;

/* The same over bytes that the caller keeps alive and unchanged until st_close; `name` is for messages. */
int st_open_memory(const void *data, size_t len, const char *name, struct st_file **out, struct err *e) MUST_CHECK;
void st_close(struct st_file *f); /* NULL is fine */

int st_count(const struct st_file *f);
const struct st_tensor *st_at(const struct st_file *f, int i);                 /* 0 <= i < count, sorted by name */
const struct st_tensor *st_find(const struct st_file *f, const char *name);    /* NULL where there is none */
const struct st_tensor *st_nearest(const struct st_file *f, const char *name); /* for "did you mean"; may be NULL */
const char *st_metadata(const struct st_file *f, const char *key);             /* NULL where there is none */

/* Copies a tensor into out[t->count], converting. f32 takes F64 (rounded), F32, F16, BF16; i64 takes every integer
 * type and BOOL. ERR_SHAPE for another type, or a U64 above the range of int64_t. */
int st_read_f32(const struct st_file *f, const struct st_tensor *t, float *out, struct err *e) MUST_CHECK;
int st_read_i64(const struct st_file *f, const struct st_tensor *t, int64_t *out, struct err *e) MUST_CHECK;

/* What to write. `dim` and `data` stay the caller's. */
struct st_item {
    const char *name;
    enum st_dtype dtype;
    int rank;
    const int64_t *dim;
    const void *data;
};
struct st_meta {
    const char *key, *value;
};

/* Writes a file whole or not at all (as file_write), without a copy of the data in memory. Tensors are laid out as the
 * reference implementation does: wider types first, then by name, so that each is aligned to its type. ERR_FORMAT for a
 * name that is not UTF-8 or comes twice, or a shape whose size overflows. On error an old file is untouched. */
int st_write(const char *path, const struct st_item *items, int n, const struct st_meta *meta, int n_meta,
             struct err *e) MUST_CHECK;

#endif
