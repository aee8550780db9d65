/* base/mem and base/threads: alignment, zeroed memory, sizes that wrap, thread counts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/threads.h"

static void arena_gives_zeroed_aligned_memory(void **state)
{
    struct arena a = {0};
    size_t sizes[] = {0, 1, 15, 16, 17, 1000, 65536, 65537, 1 << 20, 3}, total = 0;
    char *p[10];
    for (int i = 0; i < 10; i++) {
        p[i] = arena_alloc(&a, sizes[i]);
        assert_int_equal((uintptr_t)p[i] % 16, 0);
        for (size_t k = 0; k < sizes[i]; k++) assert_int_equal(p[i][k], 0);
        memset(p[i], i + 1, sizes[i]);
        total += (sizes[i] + 15) / 16 * 16;
    }
    for (int i = 0; i < 10; i++) /* none overlaps another */
        for (size_t k = 0; k < sizes[i]; k++) assert_int_equal(p[i][k], i + 1);
    assert_int_equal(a.total, total);
    assert_string_equal(arena_printf(&a, "%s.%d", "block", 7), "block.7");
    assert_string_equal(arena_strdup(&a, ""), "");
    arena_free(&a);
    assert_null(a.chunk);
    assert_int_equal(a.total, 0);
}

static void blocks_are_zeroed_and_aligned(void **state)
{
    size_t sizes[] = {0, 1, 4095, 4096, 4097, (size_t)4 << 20, ((size_t)9 << 20) + 5};
    struct err e = {0};
    for (int i = 0; i < 7; i++) {
        unsigned char *p = mem_block(sizes[i], "a test", &e);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % (sizes[i] >= (size_t)4 << 20 ? (size_t)2 << 20 : 64), 0);
        for (size_t k = 0; k < sizes[i]; k++) assert_int_equal(p[k], 0);
        memset(p, 255, sizes[i]);
        mem_block_free(p, sizes[i]);
    }
    mem_block_free(NULL, 10);
}

static void too_much_memory_is_an_error(void **state)
{
    struct err e = {0};
    size_t sizes[] = {SIZE_MAX, SIZE_MAX - 4096, SIZE_MAX / 2, (size_t)1 << 60};
    for (int i = 0; i < 4; i++) {
        err_clear(&e);
        assert_null(mem_block(sizes[i], "the activations", &e));
        assert_int_equal(e.code, ERR_MEMORY);
        assert_non_null(strstr(e.msg, "the activations"));
    }
}

static void arrays_grow(void **state)
{
    size_t cap = 0;
    int *p = NULL;
    for (int i = 0; i < 5000; i++) {
        p = mem_grow(p, &cap, (size_t)i + 1, sizeof *p);
        assert_true(cap > (size_t)i);
        p[i] = i;
    }
    for (int i = 0; i < 5000; i++) assert_int_equal(p[i], i);
    int *same = mem_grow(p, &cap, 10, sizeof *p);
    assert_ptr_equal(same, p);
    free(p);
    char *s = mem_printf("%s-%d", "step", 640);
    assert_string_equal(s, "step-640");
    free(s);
    s = mem_strndup("abcdef", 3);
    assert_string_equal(s, "abc");
    free(s);
}

static void thread_counts(void **state)
{
    threads_init(3);
    assert_int_equal(threads_count(), 3);
    setenv("OMP_NUM_THREADS", "2", 1);
    threads_init(0);
    assert_int_equal(threads_count(), 2);
    const char *odd[] = {"", "many", "-4", "0", "99999999999999999999"};
    for (int i = 0; i < 5; i++) { /* what is no count is as if it were not there */
        setenv("OMP_NUM_THREADS", odd[i], 1);
        threads_init(0);
        assert_in_range(threads_count(), 1, 4096);
    }
    threads_init(1);
    assert_true(process_threads_created() >= 1);
    assert_true(process_peak_rss() > 1 << 20);
    double t = time_now();
    assert_true(time_now() >= t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arena_gives_zeroed_aligned_memory),
        cmocka_unit_test(blocks_are_zeroed_and_aligned),
        cmocka_unit_test(too_much_memory_is_an_error),
        cmocka_unit_test(arrays_grow),
        cmocka_unit_test(thread_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
