/* base/file: whole or not at all, on full disks too; folders; a lock that dies with its process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "tests/support/temp_dir.h"

static struct temp_dir tmp;

static int begin(void **state)
{
    temp_dir_begin(&tmp);
    return 0;
}

static int end(void **state)
{
    temp_dir_end(&tmp);
    return 0;
}

static void holds(const char *path, const char *want)
{
    char *data;
    size_t len;
    struct err e = {0};
    assert_int_equal(file_read(path, 1 << 20, &data, &len, &e), 0);
    assert_int_equal(len, strlen(want));
    assert_string_equal(data, want);
    free(data);
}

static int names_in(const char *dir)
{
    char **names;
    int n;
    struct err e = {0};
    assert_int_equal(file_list(dir, &names, &n, &e), 0);
    file_list_free(names, n);
    return n;
}

static void writes_and_reads(void **state)
{
    struct err e = {0};
    const char *path = temp_path(&tmp, "a");
    assert_int_equal(file_write(path, "one", 3, &e), 0);
    holds(path, "one");
    assert_int_equal(file_write(path, "", 0, &e), 0);
    holds(path, "");
    assert_int_equal(file_write(path, "three", 5, &e), 0);
    holds(path, "three");
    assert_int_equal(file_size(path), 5);
    assert_true(file_exists(path) && !file_is_dir(path) && file_is_dir(tmp.path));
    struct stat st;
    mode_t mask = umask(0);
    umask(mask);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0666 & ~mask);
    assert_int_equal(names_in(tmp.path), 1); /* no temporary name is left */
}

static void reads_within_bounds(void **state)
{
    struct err e = {0};
    const char *path = temp_path(&tmp, "a");
    char *data;
    size_t len;
    assert_int_equal(file_write(path, "12345", 5, &e), 0);
    assert_int_equal(file_read(path, 5, &data, &len, &e), 0);
    free(data);
    assert_int_equal(file_read(path, 4, &data, &len, &e), ERR_FORMAT);
    assert_null(data);
    assert_non_null(strstr(e.msg, path));
    err_clear(&e);
    assert_int_equal(file_read("/dev/zero", 100000, &data, &len, &e), ERR_FORMAT); /* endless, of size 0 */
    err_clear(&e);
    assert_int_equal(file_read(tmp.path, 100, &data, &len, &e), ERR_IO);
    assert_non_null(strstr(e.msg, "folder"));
    err_clear(&e);
    assert_int_equal(file_read(temp_path(&tmp, "none"), 100, &data, &len, &e), ERR_IO);
    assert_non_null(strstr(e.msg, "No such file"));
    err_clear(&e);
    assert_int_equal(file_read("/proc/self/status", 1 << 20, &data, &len, &e), 0); /* says size 0, holds text */
    assert_true(len > 100 && strlen(data) == len);
    free(data);
}

static void a_full_disk_leaves_the_old_file(void **state)
{
    struct err e = {0};
    const char *path = temp_path(&tmp, "a");
    assert_int_equal(file_write(path, "old", 3, &e), 0);
    char *big = calloc(1, 100000);
    struct rlimit was, small;
    getrlimit(RLIMIT_FSIZE, &was);
    small = was;
    small.rlim_cur = 50000; /* writes beyond it fail as a full disk does, for every file system and user */
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    int rc = file_write(path, big, 100000, &e);
    setrlimit(RLIMIT_FSIZE, &was);
    assert_int_equal(rc, ERR_IO);
    assert_non_null(strstr(e.msg, path));
    holds(path, "old");
    assert_int_equal(names_in(tmp.path), 1);
    err_clear(&e);
    assert_int_equal(file_write("/dev/full", big, 10, &e), ERR_IO);
    assert_non_null(strstr(e.msg, "No space left"));
    struct stat st;
    assert_int_equal(stat("/dev/full", &st), 0);
    assert_true(S_ISCHR(st.st_mode)); /* written to, not renamed over */
    /* a link stays one: what it leads to is written */
    assert_int_equal(symlink(temp_path(&tmp, "behind"), temp_path(&tmp, "link")), 0);
    for (int k = 3; k > 0; k--)
        assert_int_equal(file_write(temp_path(&tmp, "link"), "abc", (size_t)k, &(struct err){0}), 0);
    assert_int_equal(lstat(temp_path(&tmp, "link"), &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    assert_int_equal(file_size(temp_path(&tmp, "behind")), 1);
    free(big);
}

static void failed_writes_say_why(void **state)
{
    struct err e = {0};
    assert_int_equal(file_write(temp_path(&tmp, "none/a"), "x", 1, &e), ERR_IO);
    assert_non_null(strstr(e.msg, "none/a: No such file"));
    err_clear(&e);
    assert_int_equal(file_write(tmp.path, "x", 1, &e), ERR_IO);
    assert_non_null(strstr(e.msg, "Is a directory"));
    struct file_out *o;
    err_clear(&e);
    assert_int_equal(file_out_open(temp_path(&tmp, "b"), &o, &e), 0);
    assert_int_equal(file_out_write(o, "half", 4, &e), 0);
    assert_false(file_exists(temp_path(&tmp, "b")));
    file_out_abandon(o);
    assert_int_equal(names_in(tmp.path), 0);
}

static void names_of_paths(void **state)
{
    static const char *const rows[][3] = {{"a/b/c", "a/b", "c"}, {"c", ".", "c"}, {"/c", "/", "c"}, {"a/", "a", ""}};
    for (int i = 0; i < 4; i++) {
        char *dir = file_dirname(rows[i][0]);
        assert_string_equal(dir, rows[i][1]);
        assert_string_equal(file_basename(rows[i][0]), rows[i][2]);
        free(dir);
    }
    static const char *const joins[][3] = {{"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"a", "/b", "/b"}, {"", "b", "b"}};
    for (int i = 0; i < 4; i++) {
        char *path = file_join(joins[i][0], joins[i][1]);
        assert_string_equal(path, joins[i][2]);
        free(path);
    }
}

static void folders(void **state)
{
    struct err e = {0};
    assert_int_equal(file_mkdirs(temp_path(&tmp, "x/y//z/"), &e), 0);
    assert_int_equal(file_mkdirs(temp_path(&tmp, "x/y/z"), &e), 0); /* again */
    assert_true(file_is_dir(temp_path(&tmp, "x/y/z")));
    assert_int_equal(file_write(temp_path(&tmp, "x/b"), "b", 1, &e), 0);
    assert_int_equal(file_write(temp_path(&tmp, "x/a"), "a", 1, &e), 0);
    assert_int_equal(file_mkdirs(temp_path(&tmp, "x/a/c"), &e), ERR_IO);
    assert_non_null(strstr(e.msg, "x/a"));
    char **names;
    int n;
    err_clear(&e);
    assert_int_equal(file_list(temp_path(&tmp, "x"), &names, &n, &e), 0);
    assert_int_equal(n, 3);
    assert_string_equal(names[0], "a");
    assert_string_equal(names[1], "b");
    assert_string_equal(names[2], "y");
    file_list_free(names, n);
    assert_int_equal(file_list(temp_path(&tmp, "none"), &names, &n, &e), ERR_IO);
    err_clear(&e);
    assert_int_equal(file_write(temp_path(&tmp, "kept"), "k", 1, &e), 0);
    assert_int_equal(symlink(temp_path(&tmp, "kept"), temp_path(&tmp, "x/link")), 0);
    assert_int_equal(symlink(tmp.path, temp_path(&tmp, "x/dirlink")), 0);
    assert_int_equal(file_remove_tree(temp_path(&tmp, "x"), &e), 0);
    assert_false(file_exists(temp_path(&tmp, "x")));
    holds(temp_path(&tmp, "kept"), "k"); /* links are removed, not followed */
    assert_int_equal(file_remove_tree(temp_path(&tmp, "x"), &e), 0);
    assert_int_equal(file_remove_tree(temp_path(&tmp, "kept"), &e), 0);
    assert_int_equal(names_in(tmp.path), 0);
}

static void a_lock_dies_with_its_process(void **state)
{
    const char *path = temp_path(&tmp, "lock");
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        struct err ce = {0};
        if (file_lock(path, &ce) < 0 || write(ready[1], "x", 1) != 1) _exit(1);
        pause();
        _exit(0);
    }
    close(ready[1]);
    char c;
    assert_int_equal(read(ready[0], &c, 1), 1);
    struct err e = {0};
    char pid[32];
    snprintf(pid, sizeof pid, "process %d;", (int)child);
    assert_int_equal(file_lock(path, &e), ERR_BUSY);
    assert_non_null(strstr(e.msg, pid));
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    err_clear(&e);
    int fd = file_lock(path, &e);
    assert_true(fd >= 0);
    assert_int_equal(file_lock(path, &e), ERR_BUSY); /* within one process too */
    file_unlock(fd);
    err_clear(&e);
    fd = file_lock(path, &e);
    assert_true(fd >= 0);
    file_unlock(fd);
    file_unlock(-1);
    close(ready[0]);
    assert_int_equal(file_lock(temp_path(&tmp, "none/lock"), &e), ERR_IO);
}

#define T(f) cmocka_unit_test_setup_teardown(f, begin, end)
int main(void)
{
    const struct CMUnitTest tests[] = {
        T(writes_and_reads),
        T(reads_within_bounds),
        T(a_full_disk_leaves_the_old_file),
        T(failed_writes_say_why),
        T(names_of_paths),
        T(folders),
        T(a_lock_dies_with_its_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
