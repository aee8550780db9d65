/* The checker of reference folders, shared by its files: what was read, what was compared.
 *
 * A folder is written by the make_*.py beside this file; what its files hold stands in their heads. */
#ifndef TRIAD_TESTS_GOLDEN_H
#define TRIAD_TESTS_GOLDEN_H

#include <jansson.h>
#include "layers/nn.h"

/* ---- tensors.c: a safetensors file, every number as a double ----------------------------------------------------- */
struct golden_tensor {
    const char *name; /* belongs to the file's header */
    enum ad_dtype dtype;
    struct ad_shape shape;
    int64_t count;
    double *x;
};

struct golden_file {
    json_t *header;
    struct golden_tensor *tensor;
    int64_t n;
};

/* Reads dir/name. ERR_IO, ERR_FORMAT (F64, F32 and I32 of at most six dimensions are known). Free also after an error.
 */
int golden_read(struct golden_file *f, const char *dir, const char *name, struct err *e) MUST_CHECK;
void golden_free(struct golden_file *f);
/* NULL and ERR_FORMAT if the file has none of that name. */
const struct golden_tensor *golden_find(const struct golden_file *f, struct err *e, const char *fmt, ...)
    PRINTF_LIKE(3, 4);
/* The numbers as `t`, newly allocated. */
void *golden_as(const struct golden_tensor *x, enum ad_dtype t);

/* ---- names.c ----------------------------------------------------------------------------------------------------- */
/* The tensor of our parameter `entry` out of a file of a reference of this kind, whose names begin with `prefix`, in
 * our layout; used[i] is set for every tensor i of the file that went into it (`used` may be NULL). A bias that the
 * reference does not have (of Whisper's keys) is zero. The caller frees out->x. ERR_STATE: there is no such name;
 * ERR_SHAPE. */
int golden_translate(const char *kind, const struct golden_file *f, const char *prefix, const struct ad_entry *entry,
                     bool *used, struct golden_tensor *out, struct err *e) MUST_CHECK;

/* ---- build_models.c ---------------------------------------------------------------------------------------------- */
struct golden_model {
    json_t *config;
    const struct golden_file *inputs; /* their sizes are the batch's */
};
struct golden_kind {
    const char *name;
    /* Emits the model, its outputs under the reference's names, and returns the loss; what config.json lacks or has
     * wrong is in *e or the graph's error. */
    val (*build)(struct nn *m, const struct golden_model *c, struct err *e);
    const char *input[3]; /* what the model calls pixel_values; mel, tokens or wave; offsets */
};
const struct golden_kind *golden_kind(const char *name); /* NULL: none of that name */

/* ---- golden.c ---------------------------------------------------------------------------------------------------- */
struct golden_report {
    int64_t compared, wrong;
    double worst[2]; /* the largest relative error, in f64 and in f32 */
};
/* Compares got (dtype t) with want: |got - want| <= tol * max(|want|, floor), norms over the whole tensor; integers and
 * infinities must be equal, NaN is wrong. Prints one line. */
void golden_compare(struct golden_report *r, const char *name, const void *got, enum ad_dtype t,
                    const struct golden_tensor *want, double tol, double floor);

/* ---- check_*.c: compare one kind of folder; `config` is its JSON; wrong values are counted in r, a negative code
 * means it could not be done
 */
int golden_check_ops(const char *dir, json_t *config, struct golden_report *r, struct err *e) MUST_CHECK;
int golden_check_optim(const char *dir, json_t *config, struct golden_report *r, struct err *e) MUST_CHECK;
int golden_check_logmel(const char *dir, json_t *config, struct golden_report *r, struct err *e) MUST_CHECK;
int golden_check_model(const char *dir, json_t *config, struct golden_report *r, struct err *e) MUST_CHECK;

#endif
