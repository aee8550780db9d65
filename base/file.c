#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

static int too_large(const char *path, size_t max, struct err *e)
{
    return err_set(e, ERR_FORMAT, "%s: larger than the %zu bytes allowed here", path, max);
}

static int read_all(int fd, const char *path, size_t max, char **data, size_t *len, struct err *e)
{
    struct stat st;
    if (fstat(fd, &st) < 0) return err_errno(e, "cannot read %s", path);
    if (S_ISDIR(st.st_mode)) return err_set(e, ERR_IO, "cannot read %s: it is a folder, a file was expected", path);
    if (st.st_size > 0 && (uint64_t)st.st_size > max) return too_large(path, max, e);
    size_t cap = st.st_size > 0 ? (size_t)st.st_size + 2 : 4096, n = 0; /* one byte more than the file: sees its end */
    char *p = mem_try(cap, path, e);
    if (!p) return ERR_MEMORY;
    for (;;) {
        if (n + 1 == cap) { /* a pipe, or a file that grew */
            char *q = cap < SIZE_MAX / 2 ? realloc(p, cap *= 2) : NULL;
            if (!q) {
                free(p);
                return err_set(e, ERR_MEMORY, "not enough memory for %s: %zu bytes were asked for", path, cap);
            }
            p = q;
        }
        ssize_t got = read(fd, p + n, cap - 1 - n);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            err_errno(e, "cannot read %s", path);
            free(p);
            return ERR_IO;
        }
        n += (size_t)got;
        if (n > max) {
            free(p);
            return too_large(path, max, e);
        }
        if (got == 0) break;
    }
    p[n] = 0;
    *data = p;
    *len = n;
    return 0;
}

int file_read(const char *path, size_t max, char **data, size_t *len, struct err *e)
{
    *data = NULL;
    *len = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return err_errno(e, "cannot open %s", path);
    int rc = read_all(fd, path, max, data, len, e);
    close(fd);
    return rc;
}

struct file_out {
    char *path, *temp; /* temp is NULL where `path` is written directly */
    int fd;
};

static void out_free(struct file_out *o)
{
    free(o->path);
    free(o->temp);
    free(o);
}

int file_out_open(const char *path, struct file_out **out, struct err *e)
{
    static atomic_uint serial;
    *out = NULL;
    struct stat st;
    struct file_out *o = mem_zero(1, sizeof *o);
    o->path = mem_strdup(path);
    if (lstat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        /* Renaming over /dev/stdout, a link that may lead to a plain file, would replace the link for everyone. */
        o->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    } else {
        char *dir = file_dirname(path);
        o->temp = mem_printf("%s/.%s.tmp-%d-%u", dir, file_basename(path), (int)getpid(), atomic_fetch_add(&serial, 1));
        free(dir);
        /* No O_EXCL: a leftover of a killed process that had the same id may be overwritten. */
        o->fd = open(o->temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
    }
    if (o->fd < 0) {
        err_errno(e, "cannot write %s", path);
        out_free(o);
        return ERR_IO;
    }
    *out = o;
    return 0;
}

int file_out_write(struct file_out *o, const void *data, size_t len, struct err *e)
{
    const char *p = data;
    while (len) {
        ssize_t n = write(o->fd, p, len < (1u << 30) ? len : 1u << 30);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return err_errno(e, "cannot write %s", o->path);
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

void file_out_abandon(struct file_out *o)
{
    if (!o) return;
    if (o->fd >= 0) close(o->fd);
    if (o->temp) unlink(o->temp);
    out_free(o);
}

int file_out_commit(struct file_out *o, struct err *e)
{
    int bad = o->temp && fsync(o->fd) < 0;
    if (!bad) {
        bad = close(o->fd) < 0;
        o->fd = -1;
    }
    if (!bad && o->temp) bad = rename(o->temp, o->path) < 0;
    if (bad) {
        err_errno(e, "cannot write %s", o->path);
        file_out_abandon(o);
        return ERR_IO;
    }
    int rc = 0;
    if (o->temp) {
        char *dir = file_dirname(o->path);
        rc = file_sync_dir(dir, e);
        free(dir);
    }
    out_free(o);
    return rc;
}

int file_write(const char *path, const void *data, size_t len, struct err *e)
{
    struct file_out *o;
    int rc = file_out_open(path, &o, e);
    if (rc) return rc;
    rc = file_out_write(o, data, len, e);
    if (rc) {
        file_out_abandon(o);
        return rc;
    }
    return file_out_commit(o, e);
}

int file_mkdirs(const char *path, struct err *e)
{
    char *p = mem_strdup(path);
    int rc = 0;
    for (char *s = p + (*p == '/');; s++) {
        if (*s && *s != '/') continue;
        char was = *s;
        *s = 0;
        if (*p && mkdir(p, 0777) < 0 && !file_is_dir(p)) {
            rc = err_errno(e, "cannot make the folder %s", p);
            break;
        }
        *s = was;
        if (!was) break;
    }
    free(p);
    return rc;
}

bool file_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

bool file_is_dir(const char *path)
{
    struct stat st;
    int keep = errno;
    bool is = stat(path, &st) == 0 && S_ISDIR(st.st_mode);
    errno = keep; /* file_mkdirs reports what mkdir said */
    return is;
}

int64_t file_size(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? (int64_t)st.st_size : -1;
}

char *file_join(const char *dir, const char *name)
{
    if (*name == '/' || !*dir) return mem_strdup(name);
    return mem_printf("%s%s%s", dir, dir[strlen(dir) - 1] == '/' ? "" : "/", name);
}

char *file_dirname(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash) return mem_strdup(".");
    return mem_strndup(path, slash == path ? 1 : (size_t)(slash - path));
}

const char *file_basename(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

int file_remove_tree(const char *path, struct err *e)
{
    struct stat st;
    if (lstat(path, &st) < 0) return errno == ENOENT ? 0 : err_errno(e, "cannot remove %s", path);
    char *roots[] = {(char *)path, NULL};
    FTS *walk = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
    if (!walk) return err_errno(e, "cannot remove %s", path);
    int rc = 0;
    for (FTSENT *f; rc == 0 && (f = fts_read(walk));) {
        int failed = 0;
        switch (f->fts_info) {
        case FTS_D: break;
        case FTS_DP: failed = rmdir(f->fts_accpath); break;
        case FTS_DNR:
        case FTS_ERR:
            errno = f->fts_errno;
            failed = -1;
            break;
        default: failed = unlink(f->fts_accpath);
        }
        if (failed && errno != ENOENT) rc = err_errno(e, "cannot remove %s", f->fts_path);
    }
    fts_close(walk);
    return rc;
}

int file_sync_dir(const char *path, struct err *e)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return err_errno(e, "cannot open the folder %s", path);
    int rc = 0;
    /* Some network and overlay file systems cannot sync a folder and say EINVAL: nothing more can be done there. */
    if (fsync(fd) < 0 && errno != EINVAL) rc = err_errno(e, "cannot sync the folder %s", path);
    close(fd);
    return rc;
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int file_list(const char *dir, char ***names, int *n, struct err *e)
{
    *names = NULL;
    *n = 0;
    DIR *d = opendir(dir);
    if (!d) return err_errno(e, "cannot list the folder %s", dir);
    size_t cap = 0;
    char **list = NULL;
    int count = 0;
    errno = 0;
    for (struct dirent *f; (f = readdir(d)); errno = 0) {
        if (strcmp(f->d_name, ".") == 0 || strcmp(f->d_name, "..") == 0) continue;
        list = mem_grow(list, &cap, (size_t)count + 1, sizeof *list);
        list[count++] = mem_strdup(f->d_name);
    }
    int failed = errno;
    closedir(d);
    if (failed) {
        file_list_free(list, count);
        errno = failed;
        return err_errno(e, "cannot list the folder %s", dir);
    }
    if (count) qsort(list, (size_t)count, sizeof *list, by_bytes);
    *names = list;
    *n = count;
    return 0;
}

void file_list_free(char **names, int n)
{
    for (int i = 0; i < n; i++) free(names[i]);
    free(names);
}

int file_lock(const char *path, struct err *e)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) return err_errno(e, "cannot open the lock %s", path);
    char text[32];
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        int why = errno;
        ssize_t got = why == EWOULDBLOCK ? pread(fd, text, sizeof text - 1, 0) : 0;
        text[got > 0 ? got : 0] = 0;
        close(fd);
        errno = why;
        if (why != EWOULDBLOCK) return err_errno(e, "cannot lock %s", path);
        long pid = strtol(text, NULL, 10);
        if (pid <= 0) return err_set(e, ERR_BUSY, "%s is locked by another process; wait until it ends", path);
        return err_set(e, ERR_BUSY, "%s is locked by process %ld; wait until it ends or stop it", path, pid);
    }
    /* The number only helps messages: the lock itself holds without it, also on a full disk. */
    int n = snprintf(text, sizeof text, "%d\n", (int)getpid());
    if (ftruncate(fd, 0) == 0 && pwrite(fd, text, (size_t)n, 0) == n) return fd;
    return fd;
}

void file_unlock(int fd)
{
    if (fd < 0) return;
    if (ftruncate(fd, 0) < 0) { /* the next holder writes its own number over it */
    }
    close(fd);
}
