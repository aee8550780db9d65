/* Counts what a test program and its libraries allocate, OpenBLAS apart: its kernels for small matrices take and give
 * back a buffer in every call, which is theirs to change. Include it in one file only: it stands before malloc. Under
 * AddressSanitizer, which does that itself, nothing is counted and the number stays 0. */
#ifndef TRIAD_TESTS_COUNT_MALLOC_H
#define TRIAD_TESTS_COUNT_MALLOC_H

#include <link.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static long allocations;

#ifndef __SANITIZE_ADDRESS__
static uintptr_t blas_from, blas_to;

static int find_blas(struct dl_phdr_info *info, size_t size, void *none)
{
    if (!strstr(info->dlpi_name, "libopenblas")) return 0;
    blas_from = info->dlpi_addr;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        uintptr_t to = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr + info->dlpi_phdr[i].p_memsz;
        if (info->dlpi_phdr[i].p_type == PT_LOAD && to > blas_to) blas_to = to;
    }
    return 1;
}
__attribute__((constructor)) static void find_libraries(void)
{
    dl_iterate_phdr(find_blas, NULL);
}

static void count_from(void *caller)
{
    uintptr_t at = (uintptr_t)caller;
    if (at < blas_from || at >= blas_to) __atomic_fetch_add(&allocations, 1, __ATOMIC_RELAXED);
}

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t align, size_t n);

#pragma GCC diagnostic ignored "-Wmissing-prototypes"
void *malloc(size_t n)
{
    count_from(__builtin_return_address(0));
    return __libc_malloc(n);
}
void *calloc(size_t n, size_t size)
{
    count_from(__builtin_return_address(0));
    return __libc_calloc(n, size);
}
void *realloc(void *p, size_t n)
{
    count_from(__builtin_return_address(0));
    return __libc_realloc(p, n);
}
void *aligned_alloc(size_t align, size_t n)
{
    count_from(__builtin_return_address(0));
    return __libc_memalign(align, n);
}
#endif

#endif
