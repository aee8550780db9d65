/* Memory: small allocations that cannot fail, an arena that frees all at once, huge-page blocks for tensors. */
#ifndef TRIAD_BASE_MEM_H
#define TRIAD_BASE_MEM_H

#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

/* For small, bounded things (names, tables). They never return NULL: out of memory prints one line and exits the
 * process with the status of ERR_MEMORY. Sizes that a file or a user decides go through mem_try or mem_block. */
void *mem_alloc(size_t bytes) __attribute__((malloc)); /* uninitialised */
void *mem_zero(size_t count, size_t size) __attribute__((malloc));
void *mem_resize(void *p, size_t bytes);
char *mem_strdup(const char *s) __attribute__((malloc));
char *mem_strndup(const char *s, size_t n) __attribute__((malloc));
char *mem_printf(const char *fmt, ...) PRINTF_LIKE(1, 2); /* the caller frees */

/* Uninitialised bytes, or NULL and ERR_MEMORY naming `what`. Free with free(). */
void *mem_try(size_t bytes, const char *what, struct err *e);

/* Grows an array by doubling so that it holds at least `need` elements of `size` bytes. */
void *mem_grow(void *p, size_t *cap, size_t need, size_t size);

/* A large zeroed block on its own pages, 64-byte aligned, with huge pages advised; touched once so that no page fault
 * comes later. NULL and ERR_MEMORY where the system refuses. Free with mem_block_free and the same size. 0 bytes give a
 * valid pointer. */
void *mem_block(size_t bytes, const char *what, struct err *e);
void mem_block_free(void *p, size_t bytes);

/* Bytes of memory that this process may use: the machine's, or what its control group (cgroup) is limited to. */
int64_t mem_of_machine(void);

/* From now on small and middle blocks that are freed stay with the process for the next to use: threads that decode
 * would otherwise give them back and fault them in again a hundred times a second. */
void mem_keep_freed(void);

/* Bump allocation; everything is freed together. Zeroed. Zero-initialise the struct itself. */
struct arena {
    struct arena_chunk *chunk;
    size_t total; /* bytes handed out */
};
void *arena_alloc(struct arena *a, size_t bytes); /* 16-byte aligned, zeroed, never NULL */
char *arena_strdup(struct arena *a, const char *s);
char *arena_printf(struct arena *a, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* What `from` handed out lives on with `to`; `from` is empty then. */
void arena_join(struct arena *to, struct arena *from);
void arena_free(struct arena *a);

#endif
