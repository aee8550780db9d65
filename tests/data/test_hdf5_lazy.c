/* HDF5 at run time: a library that is missing, or another, is told as such and changes nothing; then the right one is
 * found. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "data/hdf5_lazy.h"
#include "data/pack.h"
#include "tests/support/temp_dir.h"

static struct temp_dir dir;

static int setup(void **state)
{
    struct err e = {0};
    log_quiet(true);
    temp_dir_begin(&dir);
    const char *text = "{\"text\": \"only text\"}\n";
    return file_write(temp_path(&dir, "m.jsonl"), text, strlen(text), &e);
}

static int teardown(void **state)
{
    temp_dir_end(&dir);
    return 0;
}

static int is_hdf5(struct dl_phdr_info *info, size_t size, void *none)
{
    return strstr(info->dlpi_name, "libhdf5") != NULL;
}

static void test_not_before_it_is_used(void **state)
{
    struct manifest m;
    struct err e = {0};
    assert_int_equal(manifest_load(temp_path(&dir, "m.jsonl"), &m, &e), 0);
    manifest_free(&m);
    assert_int_equal(dl_iterate_phdr(is_hdf5, NULL), 0);
    assert_null(hdf5.H5open);
}

static void refuses(const char *library, const char *part)
{
    struct err e = {0};
    struct manifest m;
    setenv("TRIAD_HDF5", library, 1);
    assert_int_equal(data_pack(temp_path(&dir, "m.jsonl"), temp_path(&dir, "out.h5"), &e), ERR_IO);
    assert_non_null(strstr(e.msg, part));
    assert_non_null(strstr(e.msg, library));
    assert_false(file_exists(temp_path(&dir, "out.h5")));
    assert_false(file_exists(temp_path(&dir, "out.h5.tmp")));
    assert_null(hdf5.H5open);
    /* reading, of a file that begins as HDF5 does */
    err_clear(&e);
    assert_int_equal(file_write(temp_path(&dir, "in.h5"), "\x89HDF\r\n\x1a\n", 8, &e), 0);
    assert_int_equal(manifest_load(temp_path(&dir, "in.h5"), &m, &e), ERR_IO);
    assert_non_null(strstr(e.msg, "in.h5"));
    assert_non_null(strstr(e.msg, part));
}

static void test_absent(void **state)
{
    refuses("/nowhere/libhdf5.so", "cannot be loaded");
}

static void test_another_library(void **state)
{
    refuses("libm.so.6", "not the library that triad was built for");
}

static void test_found_after_all(void **state)
{
    struct err e = {0};
    struct manifest m;
    unsetenv("TRIAD_HDF5");
    assert_int_equal(data_pack(temp_path(&dir, "m.jsonl"), temp_path(&dir, "out.h5"), &e), 0);
    assert_int_equal(manifest_load(temp_path(&dir, "out.h5"), &m, &e), 0);
    assert_int_equal(m.n, 1);
    manifest_free(&m);
    assert_int_equal(dl_iterate_phdr(is_hdf5, NULL), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_not_before_it_is_used), cmocka_unit_test(test_absent),
                                       cmocka_unit_test(test_another_library), cmocka_unit_test(test_found_after_all)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
