/* golden FOLDER...: compares triad with reference folders that the make_*.py beside this file wrote.
 *
 * Prints a line for every tensor: the largest absolute error, the error relative to the tensor's norm, and whether that
 * is within the tolerance. Exit status 0: all are; 1: some are not; others: a folder could not be checked. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "autograd/op.h"
#include "base/file.h"
#include "base/mem.h"
#include "tests/golden/golden.h"

void golden_compare(struct golden_report *r, const char *name, const void *got, enum ad_dtype t,
                    const struct golden_tensor *want, double tol, double floor)
{
    struct ad_tensor g = {.data = (void *)got, .dtype = t};
    double off = 0, norm = 0, largest = 0;
    bool equal = true; /* where only equality will do */
    for (int64_t i = 0; i < want->count; i++) {
        double a = ad_get(&g, i), b = want->x[i];
        if (isinf(b) || !ad_is_float(t)) {
            equal = equal && a == b;
            continue;
        }
        double d = fabs(a - b);
        if (d > largest || isnan(d)) largest = d;
        off += d * d;
        norm += b * b;
    }
    off = sqrt(off);
    norm = fmax(sqrt(norm), floor);
    double relative = norm > 0 ? off / norm : off > 0 ? INFINITY : 0;
    bool right = equal && (off <= tol * norm || off == 0);
    printf("%-4s %-56s max %8.1e  relative %8.1e  (%.0e) %s\n", ad_dtype_name(t), name, largest, relative, tol,
           right ? "ok" : "WRONG");
    r->compared++;
    r->wrong += !right;
    double *worst = &r->worst[t != AD_F64];
    if (!(relative <= *worst)) *worst = relative;
}

/* The file that describes a folder, and who checks it; other kinds of config.json are models. */
static const struct {
    const char *file, *kind;
    int (*check)(const char *dir, json_t *config, struct golden_report *r, struct err *e);
} kinds[] = {{"ops.json", "ops", golden_check_ops},
             {"optim.json", "optim", golden_check_optim},
             {"config.json", "logmel", golden_check_logmel},
             {"config.json", NULL, golden_check_model}};

static int check(const char *dir, struct golden_report *r, struct err *e)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        char *path = file_join(dir, kinds[i].file);
        json_error_t why;
        json_t *config = file_exists(path) ? json_load_file(path, JSON_REJECT_DUPLICATES, &why) : NULL;
        bool here = file_exists(path);
        const char *kind = json_string_value(json_object_get(config, "kind"));
        int code = 0;
        if (here && !kind)
            code = err_set(e, ERR_FORMAT, "%s: no 'kind' in it%s%s", path, config ? "" : ": ", config ? "" : why.text);
        here = kind && (!kinds[i].kind || strcmp(kinds[i].kind, kind) == 0);
        if (here) code = kinds[i].check(dir, config, r, e);
        json_decref(config);
        free(path);
        if (here || code) return code;
    }
    return err_set(e, ERR_USAGE,
                   "%s: not a folder that a make_*.py of tests/golden wrote: no config.json, ops.json or optim.json",
                   dir);
}

int main(int argc, char **argv)
{
    struct golden_report r = {0};
    if (argc < 2) {
        fprintf(stderr,
                "usage: golden FOLDER...\nA folder is written by tests/golden/make_*.py; see the README there.\n");
        return err_exit_status(ERR_USAGE);
    }
    for (int i = 1; i < argc; i++) {
        struct err e = {0};
        if (check(argv[i], &r, &e) != 0) {
            fprintf(stderr, "golden: %s\n", e.msg);
            return err_exit_status(e.code);
        }
    }
    printf("%ld tensors compared, %ld wrong; worst relative error: f64 %.1e, f32 %.1e\n", (long)r.compared,
           (long)r.wrong, r.worst[0], r.worst[1]);
    return r.wrong > 0;
}
