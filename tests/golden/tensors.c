/* Reads safetensors (8 bytes of header length, a JSON header, the numbers) without triad's own reader, so that a
 * mistake in that one cannot hide here. Little-endian machines only, as the rest of triad. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "autograd/op.h"
#include "base/mem.h"
#include "tests/golden/golden.h"

static int read_whole(const char *path, char **data, size_t *len, struct err *e)
{
    FILE *f = fopen(path, "rb");
    if (!f) return err_errno(e, "%s: cannot be opened", path);
    long size = -1;
    if (fseek(f, 0, SEEK_END) == 0) size = ftell(f);
    rewind(f);
    *data = size < 0 ? NULL : mem_try((size_t)size + 1, path, e);
    bool ok = *data && fread(*data, 1, (size_t)size, f) == (size_t)size;
    *len = (size_t)size;
    fclose(f);
    return ok ? 0 : err_errno(e, "%s: cannot be read", path);
}

static const struct {
    const char *name;
    enum ad_dtype dtype;
} dtypes[] = {{"F64", AD_F64}, {"F32", AD_F32}, {"I32", AD_I32}};

static double number(const char *at, enum ad_dtype t)
{
    double d;
    float f;
    int32_t i;
    switch (t) {
    case AD_F64: return memcpy(&d, at, sizeof d), d;
    case AD_F32: return memcpy(&f, at, sizeof f), f;
    default: return memcpy(&i, at, sizeof i), i;
    }
}

/* One entry of the header. Sizes come from the file, so each is held against the `size` bytes that are there. */
static int one(struct golden_tensor *t, const char *name, json_t *entry, const char *data, size_t size, struct err *e)
{
    const char *type;
    json_t *shape;
    json_int_t begin, end;
    if (json_unpack(entry, "{s:s, s:o, s:[I, I!]}", "dtype", &type, "shape", &shape, "data_offsets", &begin, &end) != 0)
        return err_set(e, ERR_FORMAT, "tensor '%s': expected dtype, shape and data_offsets", name);
    *t = (struct golden_tensor){.name = name, .count = 1};
    size_t k = 0;
    while (k < sizeof dtypes / sizeof *dtypes && strcmp(dtypes[k].name, type) != 0) k++;
    if (k == sizeof dtypes / sizeof *dtypes)
        return err_set(e, ERR_FORMAT, "tensor '%s': type '%s' is not known", name, type);
    t->dtype = dtypes[k].dtype;
    if (json_array_size(shape) > AD_MAX_DIMS) return err_set(e, ERR_FORMAT, "tensor '%s': too many dimensions", name);
    t->shape.rank = (int)json_array_size(shape);
    for (int i = 0; i < t->shape.rank; i++) {
        int64_t d = json_integer_value(json_array_get(shape, (size_t)i));
        if (d < 0 || (d > 0 && t->count > (int64_t)size / d))
            return err_set(e, ERR_FORMAT, "tensor '%s': size %lld", name, (long long)d);
        t->shape.dim[i] = d;
        t->count *= d;
    }
    size_t width = ad_dtype_size(t->dtype);
    if (begin < 0 || end < begin || (size_t)end > size || (size_t)(end - begin) != (size_t)t->count * width)
        return err_set(e, ERR_FORMAT, "tensor '%s': its place in the file does not fit its shape", name);
    t->x = mem_alloc(((size_t)t->count + 1) * sizeof(double));
    for (int64_t i = 0; i < t->count; i++) t->x[i] = number(data + begin + i * (int64_t)width, t->dtype);
    return 0;
}

static int parse(struct golden_file *f, const char *data, size_t len, struct err *e)
{
    uint64_t head = 0;
    if (len >= 8) memcpy(&head, data, 8);
    if (len < 8 || head > len - 8) return err_set(e, ERR_FORMAT, "not a safetensors file, or cut short");
    json_error_t why;
    f->header = json_loadb(data + 8, head, JSON_REJECT_DUPLICATES, &why);
    if (!json_is_object(f->header)) return err_set(e, ERR_FORMAT, "its header is not a JSON object: %s", why.text);
    f->tensor = mem_zero(json_object_size(f->header) + 1, sizeof *f->tensor);
    const char *name;
    json_t *entry;
    json_object_foreach(f->header, name, entry)
    {
        if (strcmp(name, "__metadata__") == 0) continue;
        int code = one(&f->tensor[f->n++], name, entry, data + 8 + head, len - 8 - head, e);
        if (code) return code;
    }
    return 0;
}

int golden_read(struct golden_file *f, const char *dir, const char *name, struct err *e)
{
    *f = (struct golden_file){0};
    char *path = mem_printf("%s/%s", dir, name), *data = NULL;
    size_t len = 0;
    int code = read_whole(path, &data, &len, e);
    if (code == 0 && (code = parse(f, data, len, e)) != 0) err_prefix(e, "%s", path);
    free(data);
    free(path);
    return code;
}

void golden_free(struct golden_file *f)
{
    for (int64_t i = 0; i < f->n; i++) free(f->tensor[i].x);
    free(f->tensor);
    json_decref(f->header);
    *f = (struct golden_file){0};
}

const struct golden_tensor *golden_find(const struct golden_file *f, struct err *e, const char *fmt, ...)
{
    char name[200];
    va_list args;
    va_start(args, fmt);
    vsnprintf(name, sizeof name, fmt, args);
    va_end(args);
    for (int64_t i = 0; i < f->n; i++)
        if (strcmp(f->tensor[i].name, name) == 0) return &f->tensor[i];
    err_set(e, ERR_FORMAT, "there is no tensor '%s'", name);
    return NULL;
}

void *golden_as(const struct golden_tensor *x, enum ad_dtype t)
{
    char *data = mem_alloc(((size_t)x->count + 1) * ad_dtype_size(t));
    for (int64_t i = 0; i < x->count; i++) ad_set(&(struct ad_tensor){.data = data, .dtype = t}, i, x->x[i]);
    return data;
}
