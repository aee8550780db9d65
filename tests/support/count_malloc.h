/* Counts what a test program and its libraries allocate. Include it in one file only: it stands before malloc. Under
 * AddressSanitizer, which does that itself, nothing is counted and the number stays 0. */
#ifndef TRIAD_TESTS_COUNT_MALLOC_H
#define TRIAD_TESTS_COUNT_MALLOC_H

#include <stddef.h>

static long allocations;

#ifndef __SANITIZE_ADDRESS__
void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t align, size_t n);

#pragma GCC diagnostic ignored "-Wmissing-prototypes"
void *malloc(size_t n)
{
    __atomic_fetch_add(&allocations, 1, __ATOMIC_RELAXED);
    return __libc_malloc(n);
}
void *calloc(size_t n, size_t size)
{
    __atomic_fetch_add(&allocations, 1, __ATOMIC_RELAXED);
    return __libc_calloc(n, size);
}
void *realloc(void *p, size_t n)
{
    __atomic_fetch_add(&allocations, 1, __ATOMIC_RELAXED);
    return __libc_realloc(p, n);
}
void *aligned_alloc(size_t align, size_t n)
{
    __atomic_fetch_add(&allocations, 1, __ATOMIC_RELAXED);
    return __libc_memalign(align, n);
}
#endif

#endif
