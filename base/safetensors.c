#include "base/safetensors.h"

#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/half.h"
#include "base/mem.h"
#include "base/text.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "safetensors are read and written without swapping bytes");

enum { HEADER_MAX = 100000000 }; /* bytes; the reference implementation's limit */

static const struct {
    const char *name;
    size_t bytes;
} dtypes[] = {
#define X(name, bytes) {#name, bytes},
    ST_DTYPES(X)
#undef X
};

struct st_file {
    char *path;
    void *map; /* NULL where the caller owns the bytes */
    size_t map_len;
    json_t *header; /* owns the names and the metadata */
    struct st_tensor *tensor;
    int count;
};

const char *st_dtype_name(enum st_dtype d)
{
    CHECK((unsigned)d < ST_DTYPE_COUNT);
    return dtypes[d].name;
}

size_t st_dtype_size(enum st_dtype d)
{
    CHECK((unsigned)d < ST_DTYPE_COUNT);
    return dtypes[d].bytes;
}

static bool product(const int64_t *dim, int rank, size_t size, int64_t *count, size_t *bytes)
{
    int64_t n = 1, total;
    for (int i = 0; i < rank; i++)
        if (dim[i] < 0 || __builtin_mul_overflow(n, dim[i], &n)) return false;
    if (__builtin_mul_overflow(n, (int64_t)size, &total)) return false;
    *count = n;
    *bytes = (size_t)total;
    return true;
}

#define BAD(...) err_set(e, ERR_FORMAT, __VA_ARGS__)

/* One entry of the header: {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}. */
static int parse_tensor(const struct st_file *f, const char *name, const json_t *j, const char *data, size_t data_len,
                        struct st_tensor *t, struct err *e)
{
    const char *dtype = json_string_value(json_object_get(j, "dtype"));
    const json_t *shape = json_object_get(j, "shape"), *span = json_object_get(j, "data_offsets");
    if (!dtype || !json_is_array(shape) || !json_is_array(span) || json_array_size(span) != 2)
        return BAD("%s: tensor '%s': expected a dtype, a shape and two data_offsets", f->path, name);
    int d = 0;
    while (d < ST_DTYPE_COUNT && strcmp(dtype, dtypes[d].name) != 0) d++;
    if (d == ST_DTYPE_COUNT) return BAD("%s: tensor '%s': the type '%s' is not supported", f->path, name, dtype);
    size_t rank = json_array_size(shape);
    if (rank > ST_MAX_RANK)
        return BAD("%s: tensor '%s': %zu dimensions; at most %d are supported", f->path, name, rank, ST_MAX_RANK);
    *t = (struct st_tensor){.name = name, .dtype = (enum st_dtype)d, .rank = (int)rank};
    for (size_t i = 0; i < rank; i++) {
        const json_t *v = json_array_get(shape, i);
        if (!json_is_integer(v) || json_integer_value(v) < 0)
            return BAD("%s: tensor '%s': dimension %zu is not a whole number >= 0", f->path, name, i);
        t->dim[i] = json_integer_value(v);
    }
    if (!product(t->dim, t->rank, dtypes[d].bytes, &t->count, &t->bytes))
        return BAD("%s: tensor '%s': its shape has more elements than can be counted", f->path, name);
    const json_t *from = json_array_get(span, 0), *to = json_array_get(span, 1);
    int64_t begin = json_integer_value(from), end = json_integer_value(to);
    if (!json_is_integer(from) || !json_is_integer(to) || begin < 0 || end < begin || (uint64_t)end > data_len)
        return BAD("%s: tensor '%s': its bytes %" PRId64 "..%" PRId64 " are not within the %zu bytes of data; the file "
                   "may be cut short",
                   f->path, name, begin, end, data_len);
    if ((size_t)(end - begin) != t->bytes)
        return BAD("%s: tensor '%s': its shape and type %s need %zu bytes, data_offsets give %" PRId64, f->path, name,
                   dtype, t->bytes, end - begin);
    t->data = data + begin;
    return 0;
}

static int by_place(const void *a, const void *b)
{
    const struct st_tensor *x = a, *y = b;
    if (x->data != y->data) return (const char *)x->data < (const char *)y->data ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct st_tensor *)a)->name, ((const struct st_tensor *)b)->name);
}

/* The tensors must cover the data exactly once: bytes that no tensor owns could hide anything. */
static int check_cover(struct st_file *f, const char *data, size_t data_len, struct err *e)
{
    const char *at = data;
    if (f->count) qsort(f->tensor, (size_t)f->count, sizeof *f->tensor, by_place);
    for (int i = 0; i < f->count; i++) {
        const struct st_tensor *t = &f->tensor[i];
        if (t->data != (const void *)at)
            return BAD(
                "%s: tensor '%s': its bytes begin at %td, expected %td: tensors must neither overlap nor leave a "
                "gap",
                f->path, t->name, (const char *)t->data - data, at - data);
        at += t->bytes;
    }
    if (at != data + data_len)
        return BAD("%s: the tensors end at byte %td of the data, which has %zu bytes", f->path, at - data, data_len);
    if (f->count) qsort(f->tensor, (size_t)f->count, sizeof *f->tensor, by_name);
    return 0;
}

static int parse(struct st_file *f, const unsigned char *bytes, size_t len, struct err *e)
{
    if (len < 8)
        return BAD("%s: expected a safetensors file, which begins with 8 bytes of header length; it has %zu bytes",
                   f->path, len);
    uint64_t header_len;
    memcpy(&header_len, bytes, 8);
    if (header_len > HEADER_MAX || header_len > len - 8)
        return BAD("%s: the header's length reads %" PRIu64
                   " bytes, the file has %zu after it: not a safetensors file, or "
                   "cut short",
                   f->path, header_len, len - 8);
    const char *text = (const char *)bytes + 8, *data = text + header_len;
    size_t data_len = len - 8 - (size_t)header_len;
    if (header_len == 0 || text[0] != '{')
        return BAD("%s: expected a JSON header beginning with '{'; not a safetensors file", f->path);
    json_error_t why;
    f->header = json_loadb(text, (size_t)header_len, JSON_REJECT_DUPLICATES, &why);
    if (!f->header) return BAD("%s: the header is not sound JSON: %s (byte %d)", f->path, why.text, why.position);
    size_t n = json_object_size(f->header); /* bounded by the header's length */
    f->tensor = mem_try(n * sizeof *f->tensor, f->path, e);
    if (!f->tensor) return ERR_MEMORY;
    const char *key;
    json_t *value;
    json_object_foreach(f->header, key, value)
    {
        if (strcmp(key, "__metadata__") == 0) {
            const char *k;
            json_t *v;
            if (!json_is_object(value)) return BAD("%s: __metadata__ is not an object", f->path);
            json_object_foreach(value, k, v)
            {
                if (!json_is_string(v)) return BAD("%s: __metadata__: '%s' is not a string", f->path, k);
            }
            continue;
        }
        int rc = parse_tensor(f, key, value, data, data_len, &f->tensor[f->count], e);
        if (rc) return rc;
        f->count++;
    }
    return check_cover(f, data, data_len, e);
}

int st_open_memory(const void *data, size_t len, const char *name, struct st_file **out, struct err *e)
{
    struct st_file *f = mem_zero(1, sizeof *f);
    f->path = mem_strdup(name);
    int rc = parse(f, data, len, e);
    *out = rc ? NULL : f;
    if (rc) st_close(f);
    return rc;
}

int st_open(const char *path, struct st_file **out, struct err *e)
{
    *out = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (fd < 0) return err_errno(e, "cannot open %s", path);
    int rc = 0;
    void *map = NULL;
    if (fstat(fd, &st) < 0)
        rc = err_errno(e, "cannot read %s", path);
    else if (!S_ISREG(st.st_mode))
        rc = err_set(e, ERR_IO, "%s: expected a safetensors file, this is no plain file", path);
    else if (st.st_size > 0) {
        map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (map == MAP_FAILED) rc = err_errno(e, "cannot map %s into memory", path);
    }
    close(fd);
    if (rc) return rc;
    rc = st_open_memory(map, (size_t)st.st_size, path, out, e);
    if (rc == 0) {
        (*out)->map = map;
        (*out)->map_len = (size_t)st.st_size;
    } else if (map) {
        munmap(map, (size_t)st.st_size);
    }
    return rc;
}

void st_close(struct st_file *f)
{
    if (!f) return;
    if (f->map) munmap(f->map, f->map_len);
    json_decref(f->header);
    free(f->tensor);
    free(f->path);
    free(f);
}

int st_count(const struct st_file *f)
{
    return f->count;
}

const struct st_tensor *st_at(const struct st_file *f, int i)
{
    CHECK(i >= 0 && i < f->count);
    return &f->tensor[i];
}

const struct st_tensor *st_find(const struct st_file *f, const char *name)
{
    struct st_tensor want = {.name = name};
    return f->count ? bsearch(&want, f->tensor, (size_t)f->count, sizeof want, by_name) : NULL;
}

const struct st_tensor *st_nearest(const struct st_file *f, const char *name)
{
    const char **names = mem_alloc((size_t)f->count * sizeof *names);
    for (int i = 0; i < f->count; i++) names[i] = f->tensor[i].name;
    const char *near = text_nearest(name, names, f->count);
    free(names);
    return near ? st_find(f, near) : NULL;
}

const char *st_metadata(const struct st_file *f, const char *key)
{
    return json_string_value(json_object_get(json_object_get(f->header, "__metadata__"), key));
}

#define COPY(type, expr)                                 \
    for (int64_t i = 0; i < t->count; i++) {             \
        type v;                                          \
        memcpy(&v, p + i * (int64_t)sizeof v, sizeof v); \
        out[i] = expr;                                   \
    }                                                    \
    return 0

int st_read_f32(const struct st_file *f, const struct st_tensor *t, float *out, struct err *e)
{
    const char *p = t->data;
    switch (t->dtype) {
    case ST_F32:
        if (t->bytes) memcpy(out, p, t->bytes);
        return 0;
    case ST_F64: COPY(double, (float)v);
    case ST_F16: COPY(uint16_t, half_to_float(v));
    case ST_BF16: COPY(uint16_t, bf16_to_float(v));
    default:
        return err_set(e, ERR_SHAPE, "%s: tensor '%s' holds %s; expected F64, F32, F16 or BF16", f->path, t->name,
                       st_dtype_name(t->dtype));
    }
}

int st_read_i64(const struct st_file *f, const struct st_tensor *t, int64_t *out, struct err *e)
{
    const char *p = t->data;
    switch (t->dtype) {
    case ST_I64: COPY(int64_t, v);
    case ST_I32: COPY(int32_t, v);
    case ST_U32: COPY(uint32_t, v);
    case ST_I16: COPY(int16_t, v);
    case ST_U16: COPY(uint16_t, v);
    case ST_I8: COPY(int8_t, v);
    case ST_U8: COPY(uint8_t, v);
    case ST_BOOL: COPY(uint8_t, v != 0);
    case ST_U64:
        for (int64_t i = 0; i < t->count; i++) {
            uint64_t v;
            memcpy(&v, p + i * 8, 8);
            if (v > INT64_MAX)
                return err_set(e, ERR_SHAPE, "%s: tensor '%s': element %" PRId64 " is %" PRIu64 ", above 2^63-1",
                               f->path, t->name, i, v);
            out[i] = (int64_t)v;
        }
        return 0;
    default:
        return err_set(e, ERR_SHAPE, "%s: tensor '%s' holds %s; expected whole numbers", f->path, t->name,
                       st_dtype_name(t->dtype));
    }
}

static int write_order(const void *a, const void *b)
{
    const struct st_item *x = *(const struct st_item *const *)a, *y = *(const struct st_item *const *)b;
    size_t wx = st_dtype_size(x->dtype), wy = st_dtype_size(y->dtype);
    return wx != wy ? (wx < wy ? 1 : -1) : strcmp(x->name, y->name);
}

static int item_name_order(const void *a, const void *b)
{
    return strcmp((*(const struct st_item *const *)a)->name, (*(const struct st_item *const *)b)->name);
}

static int check_names(const char *path, const struct st_item **item, int n, struct err *e)
{
    if (n) qsort(item, (size_t)n, sizeof *item, item_name_order);
    for (int i = 0; i < n; i++) {
        const char *name = item[i]->name;
        if (!utf8_valid(name, strlen(name), NULL) || strcmp(name, "__metadata__") == 0)
            return BAD("%s: '%s' cannot be the name of a tensor", path, name);
        if (i && strcmp(name, item[i - 1]->name) == 0) return BAD("%s: two tensors are called '%s'", path, name);
    }
    return 0;
}

static int make_header(const char *path, const struct st_item **item, int n, const struct st_meta *meta, int n_meta,
                       struct buf *b, struct err *e)
{
    uint64_t at = 0;
    buf_add(b, "\0\0\0\0\0\0\0\0{", 9);
    for (int i = 0; i < n_meta; i++) {
        buf_str(b, i ? "," : "\"__metadata__\":{");
        buf_json(b, meta[i].key);
        buf_str(b, ":");
        buf_json(b, meta[i].value);
    }
    if (n_meta) buf_str(b, "}");
    for (int i = 0; i < n; i++) {
        const struct st_item *t = item[i];
        int64_t count;
        size_t bytes;
        CHECK(t->rank >= 0 && t->rank <= ST_MAX_RANK);
        if (!product(t->dim, t->rank, st_dtype_size(t->dtype), &count, &bytes) || bytes > INT64_MAX - at)
            return BAD("%s: tensor '%s': the size of its shape overflows", path, t->name);
        if (i || n_meta) buf_str(b, ",");
        buf_json(b, t->name);
        buf_printf(b, ":{\"dtype\":\"%s\",\"shape\":[", st_dtype_name(t->dtype));
        for (int k = 0; k < t->rank; k++) buf_printf(b, "%s%" PRId64, k ? "," : "", t->dim[k]);
        buf_printf(b, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", at, at + bytes);
        at += bytes;
    }
    buf_str(b, "}");
    while (b->len % 8) buf_str(b, " ");
    if (b->len - 8 > HEADER_MAX) return BAD("%s: the header would be larger than %d bytes", path, HEADER_MAX);
    uint64_t len = b->len - 8;
    memcpy(b->data, &len, 8);
    return 0;
}

static int write_all(const char *path, const struct st_item **item, int n, const struct buf *head, struct err *e)
{
    struct file_out *o;
    int rc = file_out_open(path, &o, e);
    if (rc) return rc;
    rc = file_out_write(o, head->data, head->len, e);
    for (int i = 0; i < n && rc == 0; i++) {
        int64_t count;
        size_t bytes;
        CHECK(product(item[i]->dim, item[i]->rank, st_dtype_size(item[i]->dtype), &count, &bytes));
        rc = file_out_write(o, item[i]->data, bytes, e);
    }
    if (rc == 0) return file_out_commit(o, e);
    file_out_abandon(o);
    return rc;
}

int st_write(const char *path, const struct st_item *items, int n, const struct st_meta *meta, int n_meta,
             struct err *e)
{
    const struct st_item **item = mem_alloc((size_t)n * sizeof *item);
    for (int i = 0; i < n; i++) item[i] = &items[i];
    struct buf head = {0};
    int rc = check_names(path, item, n, e);
    if (n) qsort(item, (size_t)n, sizeof *item, write_order);
    if (rc == 0) rc = make_header(path, item, n, meta, n_meta, &head, e);
    if (rc == 0) rc = write_all(path, item, n, &head, e);
    buf_free(&head);
    free(item);
    return rc;
}
