#include "base/mem.h"

#include <malloc.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void *or_die(void *p, size_t bytes)
{
    if (!p) {
        fprintf(stderr, "triad: out of memory while asking for %zu bytes\n", bytes);
        exit(err_exit_status(ERR_MEMORY));
    }
    return p;
}

void *mem_alloc(size_t bytes)
{
    return or_die(malloc(bytes ? bytes : 1), bytes);
}
void *mem_zero(size_t count, size_t size)
{
    return or_die(calloc(count ? count : 1, size ? size : 1), count * size);
}
void *mem_resize(void *p, size_t bytes)
{
    return or_die(realloc(p, bytes ? bytes : 1), bytes);
}

char *mem_strndup(const char *s, size_t n)
{
    char *p = mem_alloc(n + 1);
    memcpy(p, s, n);
    p[n] = 0;
    return p;
}

char *mem_strdup(const char *s)
{
    return mem_strndup(s, strlen(s));
}

char *mem_printf(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    char *p = NULL;
    int n = vasprintf(&p, fmt, ap);
    va_end(ap);
    return or_die(n < 0 ? NULL : p, 64);
}

void *mem_try(size_t bytes, const char *what, struct err *e)
{
    void *p = malloc(bytes ? bytes : 1);
    if (!p) err_set(e, ERR_MEMORY, "not enough memory for %s: %zu bytes were asked for", what, bytes);
    return p;
}

void *mem_grow(void *p, size_t *cap, size_t need, size_t size)
{
    if (need <= *cap) return p;
    CHECK(need <= SIZE_MAX / 2 / size);
    size_t n = *cap ? *cap : 8;
    while (n < need) n *= 2;
    *cap = n;
    return mem_resize(p, n * size);
}

void mem_keep_freed(void)
{
    mallopt(M_MMAP_THRESHOLD, 4 << 20);
    mallopt(M_TRIM_THRESHOLD, 64 << 20);
}

#define HUGE_PAGE ((size_t)2 << 20)

/* Blocks of a few huge pages and more are laid on huge-page bounds, so that the kernel can back them whole. */
static size_t block_bytes(size_t bytes)
{
    size_t unit = bytes >= 2 * HUGE_PAGE ? HUGE_PAGE : 4096;
    return (bytes + unit) / unit * unit;
}

/* Large blocks by all threads: the system clears pages while they are touched. */
static void touch(volatile char *p, size_t len)
{
    int64_t units = (int64_t)(len / HUGE_PAGE);
#pragma omp parallel for schedule(static) if (units >= 32)
    for (int64_t u = 0; u <= units; u++) {
        size_t to = u < units ? (size_t)(u + 1) * HUGE_PAGE : len;
        for (size_t i = (size_t)u * HUGE_PAGE; i < to; i += 4096) p[i] = 0;
    }
}

void *mem_block(size_t bytes, const char *what, struct err *e)
{
    if (bytes > SIZE_MAX / 4) { /* the sums below would wrap */
        err_set(e, ERR_MEMORY, "not enough memory for %s: %zu bytes were asked for", what, bytes);
        return NULL;
    }
    size_t len = block_bytes(bytes), extra = bytes >= 2 * HUGE_PAGE ? HUGE_PAGE : 0;
    char *p = mmap(NULL, len + extra, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        err_set(e, ERR_MEMORY, "not enough memory for %s: %.1f MB were asked for", what, (double)bytes / 1e6);
        return NULL;
    }
    if (extra) {
        size_t head = (HUGE_PAGE - (uintptr_t)p % HUGE_PAGE) % HUGE_PAGE;
        if (head) munmap(p, head);
        if (head < extra) munmap(p + head + len, extra - head);
        p += head;
        madvise(p, len, MADV_HUGEPAGE);
    }
    touch(p, len);
    return p;
}

void mem_block_free(void *p, size_t bytes)
{
    if (p) munmap(p, block_bytes(bytes));
}

/* The number in a file, or INT64_MAX where there is none ("max" has none). */
static int64_t limit_in(const char *path)
{
    long long n = 0;
    FILE *f = fopen(path, "re");
    bool read = f && fscanf(f, "%lld", &n) == 1 && n > 0;
    if (f) fclose(f);
    return read ? n : INT64_MAX;
}

int64_t mem_of_machine(void)
{
    int64_t least = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    char line[512], group[400] = "", path[512];
    FILE *f = fopen("/proc/self/cgroup", "re"); /* version 2: one line "0::/the/group" */
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "0::%399s", group) == 1) break;
    if (f) fclose(f);
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.max", group);
    const char *const files[] = {path, "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"};
    for (int i = 0; i < 3; i++) {
        int64_t limit = limit_in(files[i]);
        if (limit < least) least = limit;
    }
    return least;
}

struct arena_chunk {
    struct arena_chunk *next;
    size_t used, size;
    _Alignas(16) char data[];
};

void *arena_alloc(struct arena *a, size_t bytes)
{
    CHECK(bytes < SIZE_MAX / 2);
    bytes = (bytes + 15) / 16 * 16;
    struct arena_chunk *c = a->chunk;
    if (!c || c->size - c->used < bytes) {
        size_t size = bytes > 65536 ? bytes : 65536;
        c = mem_zero(1, sizeof *c + size);
        c->size = size;
        c->next = a->chunk;
        a->chunk = c;
    }
    void *p = c->data + c->used;
    c->used += bytes;
    a->total += bytes;
    return p;
}

char *arena_strdup(struct arena *a, const char *s)
{
    size_t n = strlen(s) + 1;
    return memcpy(arena_alloc(a, n), s, n);
}

char *arena_printf(struct arena *a, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *p = arena_alloc(a, (size_t)n + 1);
    vsnprintf(p, (size_t)n + 1, fmt, again);
    va_end(again);
    return p;
}

void arena_join(struct arena *to, struct arena *from)
{
    struct arena_chunk **end = &to->chunk;
    while (*end) end = &(*end)->next;
    *end = from->chunk;
    to->total += from->total;
    *from = (struct arena){0};
}

void arena_free(struct arena *a)
{
    for (struct arena_chunk *c = a->chunk, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    a->chunk = NULL;
    a->total = 0;
}
