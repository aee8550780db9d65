/* Limits of memory as a config writes them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "run/config.h"
#include "tests/support/temp_dir.h"

static int64_t bytes_of(const char *text)
{
    struct err e = {0};
    int64_t n = -1;
    if (run_memory(text, &n, &e)) fail_msg("%s", e.msg);
    return n;
}

static void sizes_and_shares(void **state)
{
    int64_t all = mem_of_machine();
    assert_true(all > 1 << 26 && all < INT64_MAX / 2);
    assert_true(bytes_of("0") == 0);
    assert_true(bytes_of("2GB") == 2000000000);
    assert_true(bytes_of("512MiB") == 512 << 20);
    assert_true(bytes_of("100%") == all);
    assert_true(llabs(2 * bytes_of("50%") - all) <= 2);
    assert_true(bytes_of("0.5%") > 0 && bytes_of("0.5%") <= all / 200);
}

/* Every machine says in /proc/meminfo what it has; a control group can only have less. */
static void the_machine_has_no_more_than_it_says(void **state)
{
    FILE *f = fopen("/proc/meminfo", "r");
    long long kb = 0;
    assert_true(f && fscanf(f, "MemTotal: %lld kB", &kb) == 1);
    fclose(f);
    assert_true(mem_of_machine() <= 1024 * (int64_t)kb);
}

static void others_are_refused(void **state)
{
    static const char *const wrong[] = {"", "lots", "%", "-5%", "0%", "101%", "60 %x", "2GBs", "-1GB", "nan%"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct err e = {0};
        int64_t n;
        if (run_memory(wrong[i], &n, &e) != ERR_CONFIG) fail_msg("'%s' was taken", wrong[i]);
        assert_non_null(strstr(e.msg, wrong[i]));
        assert_non_null(strstr(e.msg, "2GB"));
    }
}

static void a_wrong_one_in_a_config_is_found_by_line(void **state)
{
    struct temp_dir dir;
    struct conf mem = {0};
    struct run_config c;
    struct err e = {0};
    temp_dir_begin(&dir);
    const char *path = temp_path(&dir, "c.yaml");
    const char text[] = "name: x\ndata: {manifest: m.jsonl}\nmodalities:\n  a: {kind: image}\n  b: {kind: image}\n"
                        "train: {steps: 1, memory: much}\n";
    assert_int_equal(file_write(path, text, strlen(text), &e), 0);
    assert_int_equal(run_config_read(&mem, path, NULL, 0, &c, &e), ERR_CONFIG);
    if (!strstr(e.msg, "c.yaml:6:") || !strstr(e.msg, "'much'")) fail_msg("%s", e.msg);
    conf_free(&mem);
    temp_dir_end(&dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_and_shares),
        cmocka_unit_test(the_machine_has_no_more_than_it_says),
        cmocka_unit_test(others_are_refused),
        cmocka_unit_test(a_wrong_one_in_a_config_is_found_by_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
