/* Packs: the same items and bytes as the folder, the same file each time, and clear errors for damaged ones. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "data/pack.h"

/* HDF5 1.10 itself leaks where it gives up on a damaged file; our own leaks still count. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libhdf5";
}

enum { FILES = 40 };
static char dir[64], *manifest, *pack;

/* File i holds i * 37 bytes of one letter; 0 bytes among them. */
static int setup(void **state)
{
    struct err e = {0};
    log_quiet(true);
    snprintf(dir, sizeof dir, "/tmp/triad-pack-XXXXXX");
    assert_non_null(mkdtemp(dir));
    manifest = file_join(dir, "m.jsonl");
    pack = file_join(dir, "out.h5");
    struct buf lines = {0};
    for (int i = 0; i < FILES; i++) {
        char name[32], bytes[FILES * 37 + 1];
        snprintf(name, sizeof name, "f%d.png", i);
        memset(bytes, 'a' + i % 26, sizeof bytes);
        char *path = file_join(dir, name);
        assert_int_equal(file_write(path, bytes, (size_t)i * 37, &e), 0);
        free(path);
        buf_printf(&lines, "{\"id\": \"%d\", \"image\": [\"%s\", \"f3.png\"], \"text\": \"größe %d\"}\n", i, name, i);
    }
    assert_int_equal(file_write(manifest, lines.data, lines.len, &e), 0);
    buf_free(&lines);
    assert_int_equal(data_pack(manifest, pack, &e), 0);
    return 0;
}

static int teardown(void **state)
{
    struct err e = {0};
    free(manifest);
    free(pack);
    return file_remove_tree(dir, &e);
}

static int compare(const struct manifest *m)
{
    int wrong = 0;
    for (int i = 0; i < FILES; i++)
        for (int k = 0; k < 2; k++) {
            struct err e = {0};
            char *data;
            size_t len, want = (size_t)(k ? 3 : i) * 37;
            if (manifest_bytes(m, &manifest_field(&m->item[i], "image")->entry[k], &data, &len, &e)) return -1;
            wrong += len != want;
            for (size_t j = 0; j < len; j++) wrong += data[j] != 'a' + (k ? 3 : i) % 26;
            free(data);
        }
    return wrong;
}

static void *read_all(void *m)
{
    return compare(m) ? m : NULL;
}

static void test_same_as_folder(void **state)
{
    struct manifest m;
    struct err e = {0};
    assert_int_equal(manifest_load(pack, &m, &e), 0);
    assert_int_equal(m.n, FILES);
    assert_string_equal(manifest_field(&m.item[7], "text")->entry[0].value, "größe 7");
    assert_int_equal(m.item[7].line, 8);
    assert_int_equal(compare(&m), 0);
    pthread_t t[4];
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&t[i], NULL, read_all, &m), 0);
    for (int i = 0; i < 4; i++) {
        void *bad;
        pthread_join(t[i], &bad);
        assert_null(bad);
    }
    manifest_free(&m);
}

static void test_same_bytes(void **state)
{
    struct err e = {0};
    char *again = file_join(dir, "again.h5"), *a, *b;
    size_t n, k;
    sleep(1); /* a time stamp inside would differ */
    assert_int_equal(data_pack(manifest, again, &e), 0);
    assert_int_equal(file_read(pack, 1 << 24, &a, &n, &e), 0);
    assert_int_equal(file_read(again, 1 << 24, &b, &k, &e), 0);
    assert_int_equal(n, k);
    assert_memory_equal(a, b, n);
    free(a);
    free(b);
    free(again);
}

static void test_errors(void **state)
{
    struct err e = {0};
    struct manifest m;
    char *other = file_join(dir, "bad.jsonl"), *out = file_join(dir, "bad.h5");
    const char *text = "{\"image\": \"f1.png\"}\n{\"image\": \"gone.png\"}\n";
    assert_int_equal(file_write(other, text, strlen(text), &e), 0);
    assert_int_equal(data_pack(other, out, &e), ERR_IO);
    assert_non_null(strstr(e.msg, "bad.jsonl:2: cannot find the file"));
    assert_false(file_exists(out));
    err_clear(&e);
    assert_int_equal(data_pack(pack, out, &e), ERR_CONFIG);
    assert_false(file_exists(out));
    err_clear(&e);
    assert_int_equal(data_pack(manifest, "/proc/nowhere/x.h5", &e), ERR_IO);
    err_clear(&e);
    assert_int_equal(file_write(out, "no pack", 7, &e), 0);
    assert_int_equal(manifest_load(out, &m, &e), ERR_FORMAT);
    assert_non_null(strstr(e.msg, "bad.h5: not a pack"));
    err_clear(&e);
    struct rlimit was, small = {.rlim_cur = 4096}; /* as a full disk: HDF5's words, without its addresses */
    getrlimit(RLIMIT_FSIZE, &was);
    small.rlim_max = was.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    int rc = data_pack(manifest, out, &e);
    setrlimit(RLIMIT_FSIZE, &was);
    assert_int_equal(rc, ERR_IO);
    assert_non_null(strstr(e.msg, ": File too large"));
    assert_null(strstr(e.msg, "errno"));
    err_clear(&e);
    text = "{\"text\": \"only text\"}\n"; /* no file at all */
    assert_int_equal(file_write(other, text, strlen(text), &e), 0);
    assert_int_equal(data_pack(other, out, &e), 0);
    assert_int_equal(manifest_load(out, &m, &e), 0);
    assert_int_equal(m.n, 1);
    manifest_free(&m);
    free(other);
    free(out);
}

/* Cut anywhere, or with bytes overwritten anywhere: opens, or says so naming the file; never crashes, never reads
 * outside. */
static void test_damage(void **state)
{
    struct err e = {0};
    char *data, *cut = file_join(dir, "cut.h5");
    size_t n;
    assert_int_equal(file_read(pack, 1 << 24, &data, &n, &e), 0);
    for (int i = 0; i < 60; i++) {
        struct manifest m;
        size_t keep = i < 20 ? (size_t)(8 + i * 64) : n * (size_t)(i - 20) / 40;
        if (keep < 8) keep = 8;
        assert_int_equal(file_write(cut, data, keep, &e), 0);
        assert_int_equal(manifest_load(cut, &m, &e), ERR_FORMAT);
        assert_non_null(strstr(e.msg, "cut.h5"));
        err_clear(&e);
    }
    struct rng r = rng_make(1, 2, 3);
    int refused = 0;
    for (int i = 0; i < 400; i++) {
        struct manifest m;
        char *copy = mem_alloc(n);
        memcpy(copy, data, n);
        for (int k = 0; k < 4; k++) copy[8 + rng_below(&r, 4000)] = (char)rng_u32(&r); /* the tables lie at the front */
        assert_int_equal(file_write(cut, copy, n, &e), 0);
        free(copy);
        if (manifest_load(cut, &m, &e)) {
            assert_int_not_equal(e.msg[0], 0);
            refused++;
        } else {
            struct manifest_walk w = {0};
            for (struct manifest_entry *entry; (entry = manifest_next_file(&m, &w)) != NULL;) {
                char *bytes;
                size_t len;
                assert_int_equal(manifest_bytes(&m, entry, &bytes, &len, &e), 0); /* its place was checked on opening */
                free(bytes);
            }
            manifest_free(&m);
        }
        err_clear(&e);
    }
    assert_true(refused > 50); /* else the damage missed the tables and this test shows nothing */
    free(data);
    free(cut);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_same_as_folder), cmocka_unit_test(test_same_bytes),
                                       cmocka_unit_test(test_errors), cmocka_unit_test(test_damage)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
