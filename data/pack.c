/* Writes and opens packs. HDF5's library is not safe from many threads: all calls to it stand behind one mutex, and its
 * own error printing is off; the innermost reason it gives goes into ours. */
#include "data/pack.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/rng.h"
#include "data/hdf5_lazy.h"

enum { MAX_NAME = 4096 };
static const int64_t MAX_BLOB = (int64_t)1 << 46;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Loads the library with the first call. hdf5_leave follows in any case. */
static int hdf5_enter(struct err *e)
{
    pthread_mutex_lock(&lock);
    int rc = hdf5_load(e);
    if (!rc) hdf5.H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    return rc;
}

static void hdf5_leave(void)
{
    pthread_mutex_unlock(&lock);
}

/* Where the system refused, HDF5 tells it among addresses and clock times: only the system's words are taken. */
static herr_t first_reason(unsigned n, const H5E_error2_t *err, void *out)
{
    static const char key[] = "error message = '";
    if (n || !err->desc) return 0;
    const char *said = strstr(err->desc, key), *from = said ? said + strlen(key) : err->desc;
    snprintf(out, 200, ": %.*s", (int)(said ? strcspn(from, "'") : strlen(from)), from);
    return 0;
}

static int hdf5_failed(int code, struct err *e, const char *path, const char *what)
{
    char why[200] = "";
    hdf5.H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, first_reason, why);
    return err_set(e, code, "%s: %s%s", path, what, why);
}

/* Reading. */

struct reading {
    const char *path;
    hid_t file;
    struct err *e;
};

/* Opens a one-dimensional dataset of the wanted class and says its length; -1 where it is not that. */
static hid_t open_set(const struct reading *r, const char *name, H5T_class_t want, hsize_t *n, size_t *size)
{
    hid_t d = hdf5.H5Dopen2(r->file, name, H5P_DEFAULT);
    hid_t space = d < 0 ? -1 : hdf5.H5Dget_space(d), type = d < 0 ? -1 : hdf5.H5Dget_type(d);
    bool good = space >= 0 && type >= 0 && hdf5.H5Sget_simple_extent_ndims(space) == 1 &&
                hdf5.H5Tget_class(type) == want && hdf5.H5Tis_variable_str(type) <= 0;
    good = good && hdf5.H5Sget_simple_extent_dims(space, n, NULL) == 1;
    if (good) *size = hdf5.H5Tget_size(type);
    if (space >= 0) hdf5.H5Sclose(space);
    if (type >= 0) hdf5.H5Tclose(type);
    if (good && *n <= (hsize_t)MAX_BLOB) return d;
    char what[120];
    snprintf(what, sizeof what, "no pack of triad's, or a damaged one: dataset '%s' is missing or not as expected",
             name);
    hdf5_failed(ERR_FORMAT, r->e, r->path, what);
    if (d >= 0) hdf5.H5Dclose(d);
    return -1;
}

/* Reads a whole dataset; `type` as in memory. The file's own size bounds what is allocated. */
static void *read_set(const struct reading *r, const char *name, H5T_class_t want, hid_t type, hsize_t *n, size_t *size)
{
    hid_t d = open_set(r, name, want, n, size);
    if (d < 0) return NULL;
    char *p = NULL;
    size_t bytes = (size_t)*n * *size;
    hid_t mem = want == H5T_STRING ? hdf5.H5Dget_type(d) : type;
    if (want != H5T_STRING && *size != hdf5.H5Tget_size(type))
        hdf5_failed(ERR_FORMAT, r->e, r->path, "no pack of triad's: a dataset is of the wrong type");
    else if (*size > MAX_NAME || bytes > (size_t)file_size(r->path))
        err_set(r->e, ERR_FORMAT, "%s: damaged pack: '%s' claims more bytes than the file has", r->path, name);
    else if ((p = mem_try(bytes + 1, "a pack's tables", r->e)) != NULL) {
        p[bytes] = 0;
        if (*n > 0 && hdf5.H5Dread(d, mem, H5S_ALL, H5S_ALL, H5P_DEFAULT, p) < 0) {
            hdf5_failed(ERR_FORMAT, r->e, r->path, "damaged pack: a table cannot be read");
            free(p);
            p = NULL;
        }
    }
    if (want == H5T_STRING) hdf5.H5Tclose(mem);
    hdf5.H5Dclose(d);
    return p;
}

static int find_blob(const struct reading *r, struct pack *p)
{
    hsize_t n;
    size_t size;
    hid_t d = open_set(r, "blob", H5T_INTEGER, &n, &size);
    if (d < 0) return r->e->code;
    haddr_t at = n ? hdf5.H5Dget_offset(d) : 0;
    hdf5.H5Dclose(d);
    int64_t file = file_size(r->path);
    if (size != 1 || at == HADDR_UNDEF || (int64_t)at > file || (int64_t)n > file - (int64_t)at)
        return err_set(r->e, ERR_FORMAT, "%s: damaged pack: its blob is not one run of bytes inside the file", r->path);
    p->blob = (int64_t)at;
    p->blob_len = (int64_t)n;
    return 0;
}

static int read_tables(const struct reading *r, struct pack *p, char **text, size_t *len)
{
    hsize_t n_text, n, n_offset, n_length;
    size_t size;
    *text = read_set(r, "manifest", H5T_INTEGER, *hdf5.H5T_NATIVE_UINT8_g, &n_text, &size);
    if (!*text) return r->e->code;
    *len = (size_t)n_text;
    if (!(p->names = read_set(r, "file", H5T_STRING, -1, &n, &p->name_len))) return r->e->code;
    p->offset = read_set(r, "offset", H5T_INTEGER, *hdf5.H5T_NATIVE_INT64_g, &n_offset, &size);
    if (!p->offset) return r->e->code;
    p->length = read_set(r, "length", H5T_INTEGER, *hdf5.H5T_NATIVE_INT64_g, &n_length, &size);
    if (!p->length) return r->e->code;
    if (n_offset != n || n_length != n)
        return err_set(r->e, ERR_FORMAT, "%s: damaged pack: %lld files, but %lld offsets and %lld lengths", r->path,
                       (long long)n, (long long)n_offset, (long long)n_length);
    p->n = (int64_t)n;
    return find_blob(r, p);
}

int pack_open(const char *path, struct pack *p, char **text, size_t *len, struct err *e)
{
    struct err own = {0};
    struct reading r = {.path = path, .e = e ? e : &own};
    *p = (struct pack){.fd = -1};
    *text = NULL;
    int rc = hdf5_enter(r.e);
    if (rc)
        err_prefix(r.e, "%s", path);
    else {
        r.file = hdf5.H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
        rc = r.file < 0 ? hdf5_failed(ERR_FORMAT, r.e, path, "a truncated or damaged HDF5 file; make the pack again")
                        : read_tables(&r, p, text, len);
        if (r.file >= 0) hdf5.H5Fclose(r.file);
    }
    hdf5_leave();
    for (int64_t i = 0; !rc && i < p->n; i++)
        if (p->offset[i] < 0 || p->length[i] < 0 || p->length[i] > p->blob_len ||
            p->offset[i] > p->blob_len - p->length[i])
            rc = err_set(r.e, ERR_FORMAT, "%s: damaged pack: file %lld lies outside the blob", path, (long long)i);
    if (!rc && (p->fd = open(path, O_RDONLY | O_CLOEXEC)) < 0) rc = err_errno(r.e, "%s: cannot open", path);
    if (rc) {
        pack_free(p);
        free(*text);
        *text = NULL;
    }
    return rc;
}

void pack_free(struct pack *p)
{
    if (p->fd >= 0) close(p->fd);
    free(p->names);
    free(p->offset);
    free(p->length);
    *p = (struct pack){.fd = -1};
}

/* A set of file names, by open addressing: the slot of `name`, whose value is 0 where it is not there. */
struct table {
    int64_t *slot; /* index + 1 */
    size_t n_slots;
};

static struct table table_make(int64_t n)
{
    size_t k = 16;
    while (k < (size_t)n * 2 + 2) k *= 2;
    return (struct table){mem_zero(k, sizeof(int64_t)), k};
}

static const char *pack_name(const struct pack *p, int64_t i, size_t *n)
{
    const char *s = p->names + (size_t)i * p->name_len;
    *n = strnlen(s, p->name_len);
    return s;
}

/* The slot of a name, empty or its own. */
static size_t pack_slot(const struct pack *p, const struct table *t, const char *name, size_t n)
{
    size_t at = hash_bytes(name, n, HASH_START) & (t->n_slots - 1), len;
    for (; t->slot[at]; at = (at + 1) & (t->n_slots - 1)) {
        const char *s = pack_name(p, t->slot[at] - 1, &len);
        if (len == n && !memcmp(s, name, n)) break;
    }
    return at;
}

int pack_attach(struct pack *p, struct manifest *m, struct err *e)
{
    struct table t = table_make(p->n);
    for (int64_t i = 0; i < p->n; i++) {
        size_t n;
        const char *s = pack_name(p, i, &n);
        t.slot[pack_slot(p, &t, s, n)] = i + 1;
    }
    int rc = 0;
    struct manifest_walk w = {0};
    for (struct manifest_entry *entry; !rc && (entry = manifest_next_file(m, &w)) != NULL;) {
        int64_t at = t.slot[pack_slot(p, &t, entry->value, strlen(entry->value))] - 1;
        if (at < 0)
            rc = err_set(e, ERR_FORMAT, "%s: damaged pack: item '%s' names '%s', which is not in it", m->path,
                         m->item[w.item].id, entry->value);
        else {
            entry->offset = p->blob + p->offset[at];
            entry->length = p->length[at];
        }
    }
    free(t.slot);
    if (rc) return rc;
    m->pack_fd = p->fd;
    p->fd = -1;
    return 0;
}

int pack_has(const struct manifest *m, const struct manifest_entry *entry, struct err *e)
{
    if (entry->offset >= 0) return 0;
    return err_set(e, ERR_IO, "%s: '%s' is not a file of this pack; pack it as {\"file\": ...}", m->path, entry->value);
}

int pack_read(const struct manifest *m, const struct manifest_entry *entry, char **data, size_t *len, struct err *e)
{
    *data = NULL;
    *len = 0;
    int rc = pack_has(m, entry, e);
    if (rc) return rc;
    size_t n = (size_t)entry->length, got = 0;
    char *p = mem_try(n + 1, entry->value, e);
    if (!p) return ERR_MEMORY;
    while (got < n) {
        ssize_t k = pread(m->pack_fd, p + got, n - got, (off_t)(entry->offset + (int64_t)got));
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) {
            rc = k < 0 ? err_errno(e, "%s: cannot read '%s'", m->path, entry->value)
                       : err_set(e, ERR_FORMAT, "%s: the pack ends inside '%s'", m->path, entry->value);
            free(p);
            return rc;
        }
        got += (size_t)k;
    }
    p[n] = 0;
    *data = p;
    *len = n;
    return 0;
}

/* Writing. */

struct plan { /* the files in the order of first use */
    const struct manifest_entry **entry;
    int64_t *offset, *length;
    int64_t n, bytes;
    size_t name_len;
};

/* Adds a file that is met for the first time; its size is asked for now. */
static int plan_add(const struct manifest *m, const struct manifest_walk *w, const struct manifest_entry *entry,
                    struct plan *p, struct err *e)
{
    char *path = file_join(m->dir, entry->value);
    int64_t size = file_is_dir(path) ? -1 : file_size(path);
    size_t n = strlen(entry->value);
    int rc = 0;
    if (n > MAX_NAME)
        rc =
            err_set(e, ERR_FORMAT, "%s:%lld: too long a path: %zu bytes", m->path, (long long)m->item[w->item].line, n);
    else if (size < 0)
        rc = err_set(e, ERR_IO, "%s:%lld: cannot find the file '%s'; 'triad data check' lists all", m->path,
                     (long long)m->item[w->item].line, path);
    free(path);
    p->entry[p->n] = entry;
    p->offset[p->n] = p->bytes;
    p->length[p->n++] = size;
    p->bytes += size;
    if (n > p->name_len) p->name_len = n;
    return rc;
}

/* Lists each file once, so that the blob is laid out before the first byte is written. */
static int plan_files(const struct manifest *m, struct plan *p, struct err *e)
{
    size_t total = 0;
    for (struct manifest_walk w = {0}; manifest_next_file(m, &w);) total++;
    struct table t = table_make((int64_t)total);
    p->entry = mem_alloc(total * sizeof *p->entry);
    p->offset = mem_alloc(total * sizeof *p->offset);
    p->length = mem_alloc(total * sizeof *p->length);
    p->name_len = 1;
    int rc = 0;
    struct manifest_walk w = {0};
    for (const struct manifest_entry *entry; !rc && (entry = manifest_next_file(m, &w)) != NULL;) {
        size_t at = hash_str(entry->value) & (t.n_slots - 1);
        while (t.slot[at] && strcmp(p->entry[t.slot[at] - 1]->value, entry->value)) at = (at + 1) & (t.n_slots - 1);
        if (t.slot[at]) continue;
        rc = plan_add(m, &w, entry, p, e);
        t.slot[at] = p->n;
    }
    free(t.slot);
    return rc;
}

static void plan_free(struct plan *p)
{
    free(p->entry);
    free(p->offset);
    free(p->length);
}

/* Makes a contiguous dataset without a time stamp (the same input gives the same bytes) and writes `data` unless it is
 * NULL. */
static hid_t make_set(hid_t file, const char *name, hid_t type, hsize_t n, const void *data)
{
    hid_t space = hdf5.H5Screate_simple(1, &n, NULL), how = hdf5.H5Pcreate(*hdf5.H5P_CLS_DATASET_CREATE_ID_g);
    hdf5.H5Pset_obj_track_times(how, false);
    hdf5.H5Pset_layout(how, H5D_CONTIGUOUS);
    hdf5.H5Pset_alloc_time(how, H5D_ALLOC_TIME_EARLY);
    hdf5.H5Pset_fill_time(how, H5D_FILL_TIME_NEVER);
    hid_t d = hdf5.H5Dcreate2(file, name, type, space, H5P_DEFAULT, how, H5P_DEFAULT);
    if (d >= 0 && data && n > 0 && hdf5.H5Dwrite(d, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0) {
        hdf5.H5Dclose(d);
        d = -1;
    }
    hdf5.H5Pclose(how);
    hdf5.H5Sclose(space);
    return d;
}

static int write_set(hid_t file, const char *path, const char *name, hid_t type, int64_t n, const void *data,
                     struct err *e)
{
    hid_t d = make_set(file, name, type, (hsize_t)n, data);
    if (d < 0) return hdf5_failed(ERR_IO, e, path, "cannot write");
    return hdf5.H5Dclose(d) < 0 ? hdf5_failed(ERR_IO, e, path, "cannot write") : 0;
}

static int write_names(hid_t file, const char *path, const struct plan *p, struct err *e)
{
    char *names = mem_zero((size_t)p->n, p->name_len);
    for (int64_t i = 0; i < p->n; i++)
        memcpy(names + (size_t)i * p->name_len, p->entry[i]->value, strlen(p->entry[i]->value));
    hid_t type = hdf5.H5Tcopy(*hdf5.H5T_C_S1_g);
    hdf5.H5Tset_size(type, p->name_len);
    hdf5.H5Tset_strpad(type, H5T_STR_NULLPAD);
    hdf5.H5Tset_cset(type, H5T_CSET_UTF8);
    int rc = write_set(file, path, "file", type, p->n, names, e);
    hdf5.H5Tclose(type);
    free(names);
    return rc;
}

static int write_file(hid_t blob, hid_t space, const struct manifest *m, const struct plan *p, int64_t i,
                      const char *path, struct err *e)
{
    char *data;
    size_t len;
    int rc = manifest_bytes(m, p->entry[i], &data, &len, e);
    if (rc) return rc;
    hsize_t start = (hsize_t)p->offset[i], count = (hsize_t)len;
    if ((int64_t)len != p->length[i])
        rc = err_set(e, ERR_IO, "%s: '%s' changed while it was packed; try again", m->path, p->entry[i]->value);
    else if (len > 0) {
        hid_t mem = hdf5.H5Screate_simple(1, &count, NULL);
        if (hdf5.H5Sselect_hyperslab(space, H5S_SELECT_SET, &start, NULL, &count, NULL) < 0 ||
            hdf5.H5Dwrite(blob, *hdf5.H5T_NATIVE_UINT8_g, mem, space, H5P_DEFAULT, data) < 0)
            rc = hdf5_failed(ERR_IO, e, path, "cannot write (is the disk full?)");
        hdf5.H5Sclose(mem);
    }
    free(data);
    return rc;
}

static int write_blob(hid_t file, const struct manifest *m, const struct plan *p, const char *path, struct err *e)
{
    hid_t blob = make_set(file, "blob", *hdf5.H5T_STD_U8LE_g, (hsize_t)p->bytes, NULL);
    if (blob < 0) return hdf5_failed(ERR_IO, e, path, "cannot make the blob");
    hid_t space = hdf5.H5Dget_space(blob);
    struct progress *bar = progress_new("packing", p->n, "files", 5);
    int rc = 0;
    for (int64_t i = 0; i < p->n && !rc; i++) {
        rc = write_file(blob, space, m, p, i, path, e);
        progress_update(bar, i + 1, NULL);
    }
    progress_end(bar, NULL);
    hdf5.H5Sclose(space);
    if (hdf5.H5Dclose(blob) < 0 && !rc) rc = hdf5_failed(ERR_IO, e, path, "cannot write");
    return rc;
}

static int write_pack(const char *path, const struct manifest *m, const struct plan *p, const char *text, size_t len,
                      struct err *e)
{
    hid_t file = hdf5.H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    if (file < 0) return hdf5_failed(ERR_IO, e, path, "cannot create");
    int rc = write_set(file, path, "manifest", *hdf5.H5T_STD_U8LE_g, (int64_t)len, text, e);
    if (!rc) rc = write_names(file, path, p, e);
    if (!rc) rc = write_set(file, path, "offset", *hdf5.H5T_STD_I64LE_g, p->n, p->offset, e);
    if (!rc) rc = write_set(file, path, "length", *hdf5.H5T_STD_I64LE_g, p->n, p->length, e);
    if (!rc) rc = write_blob(file, m, p, path, e);
    if (hdf5.H5Fclose(file) < 0 && !rc) rc = hdf5_failed(ERR_IO, e, path, "cannot write (is the disk full?)");
    return rc;
}

static int sync_file(const char *path, struct err *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0) {
        int rc = err_errno(e, "%s: cannot sync", path);
        if (fd >= 0) close(fd);
        return rc;
    }
    close(fd);
    return 0;
}

int data_pack(const char *manifest, const char *out, struct err *e)
{
    struct manifest m;
    int rc = manifest_load(manifest, &m, e);
    if (rc) return rc;
    struct plan p = {0};
    char *text = NULL, *aside = mem_printf("%s.tmp", out), *dir = file_dirname(out);
    size_t len = 0;
    if (m.pack_fd >= 0) rc = err_set(e, ERR_CONFIG, "%s is a pack already: copy the file", manifest);
    if (!rc) rc = file_read(manifest, (size_t)8 << 30, &text, &len, e);
    if (!rc) rc = plan_files(&m, &p, e);
    if (!rc) rc = file_mkdirs(dir, e);
    if (!rc) {
        rc = hdf5_enter(e);
        if (!rc) rc = write_pack(aside, &m, &p, text, len, e);
        hdf5_leave();
        if (!rc) rc = sync_file(aside, e);
        if (!rc && rename(aside, out) < 0) rc = err_errno(e, "%s: cannot be put in place", out);
        if (rc)
            unlink(aside);
        else
            rc = file_sync_dir(dir, e);
    }
    plan_free(&p);
    manifest_free(&m);
    free(text);
    free(aside);
    free(dir);
    return rc;
}
