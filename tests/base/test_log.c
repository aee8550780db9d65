/* base/log: what reaches standard error and the log file, piped and on a terminal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "tests/support/temp_dir.h"

/* Runs `what` in a child whose standard error is a pipe, or a terminal of `columns` columns; gives what it wrote. */
static void run(void (*what)(void), int columns, char *out, size_t size)
{
    int fd[2];
    if (columns) {
        fd[0] = posix_openpt(O_RDWR | O_NOCTTY);
        if (fd[0] < 0) skip(); /* no /dev/pts, as in a bare chroot: counted and shown as skipped */
        assert_int_equal(grantpt(fd[0]), 0);
        assert_int_equal(unlockpt(fd[0]), 0);
        fd[1] = open(ptsname(fd[0]), O_RDWR | O_NOCTTY);
        assert_true(fd[1] >= 0);
        struct winsize w = {.ws_row = 24, .ws_col = (unsigned short)columns};
        assert_int_equal(ioctl(fd[1], TIOCSWINSZ, &w), 0);
    } else {
        assert_int_equal(pipe(fd), 0);
    }
    pid_t child = fork();
    if (child == 0) {
        dup2(fd[1], STDERR_FILENO);
        setenv("TERM", "xterm", 1);
        what();
        _exit(0);
    }
    close(fd[1]);
    size_t n = 0;
    ssize_t got;
    while (n < size - 1 && (got = read(fd[0], out + n, size - 1 - n)) > 0) n += (size_t)got;
    out[n] = 0;
    close(fd[0]);
    int status;
    waitpid(child, &status, 0);
    assert_int_equal(status, 0);
}

static void say_all(void)
{
    log_info("%d items", 3);
    log_warn("odd\nlines\n");
    log_error("bad");
    log_quiet(true);
    log_info("unheard");
    log_warn("heard");
}

static void piped_messages_are_plain(void **state)
{
    char out[4000];
    run(say_all, 0, out, sizeof out);
    assert_string_equal(out, "3 items\nwarning: odd lines\nerror: bad\nwarning: heard\n");
}

static void a_terminal_gets_colour(void **state)
{
    char out[4000];
    unsetenv("NO_COLOR");
    run(say_all, 80, out, sizeof out);
    assert_non_null(strstr(out, "\033[33mwarning: \033[0modd"));
    setenv("NO_COLOR", "1", 1);
    run(say_all, 80, out, sizeof out);
    assert_null(strstr(out, "\033["));
    assert_non_null(strstr(out, "warning: odd"));
    unsetenv("NO_COLOR");
}

static struct temp_dir tmp;

static void log_some(void)
{
    struct err e = {0};
    if (log_to_file(temp_path(&tmp, "log.txt"), &e)) _exit(1);
    log_quiet(true);
    log_info("%sgreen%s text", "\033[32m", "\033[0m");
    log_warn("second");
    if (log_to_file(NULL, &e)) _exit(1);
    log_info("not in the file");
}

static void the_file_gets_everything(void **state)
{
    char out[400], *data;
    size_t len;
    struct err e = {0};
    temp_dir_begin(&tmp);
    run(log_some, 0, out, sizeof out);
    assert_string_equal(out, "warning: second\n");
    run(log_some, 0, out, sizeof out); /* appends */
    assert_int_equal(file_read(temp_path(&tmp, "log.txt"), 10000, &data, &len, &e), 0);
    int lines = 0;
    for (char *line = data, *stop; (stop = strchr(line, '\n')); line = stop + 1, lines++) {
        *stop = 0;
        int y, mo, d, h, mi, s, at = 0;
        assert_int_equal(sscanf(line, "%4d-%2d-%2d %2d:%2d:%2d %n", &y, &mo, &d, &h, &mi, &s, &at), 6);
        assert_string_equal(line + at, lines % 2 ? "warning: second" : "green text");
    }
    assert_int_equal(lines, 4);
    free(data);
    assert_int_equal(log_to_file(temp_path(&tmp, "none/log.txt"), &e), ERR_IO);
    temp_dir_end(&tmp);
}

static void show_progress(void)
{
    struct progress *p = progress_new("emoji", 400, "items", 1000);
    for (int i = 0; i <= 400; i += 100) {
        progress_update(p, i, "loss 1.284");
        usleep(120000);
        if (i == 200) log_info("saved");
    }
    progress_end(p, "done and well");
}

static void piped_progress_is_plain(void **state)
{
    char out[4000];
    run(show_progress, 0, out, sizeof out);
    assert_null(strchr(out, '\r'));
    assert_null(strchr(out, '\033'));
    assert_non_null(strstr(out, "saved\nemoji  400/400  100%  done and well  "));
    assert_non_null(strstr(out, " items/s"));
    assert_int_equal(out[strlen(out) - 1], '\n');
}

static int shown_columns(const char *s, const char *end)
{
    int n = 0;
    for (; s < end; s++) {
        if (*s == '\033') {
            while (s < end && *s != 'm' && *s != 'K') s++;
        } else if (((unsigned char)*s & 0xc0) != 0x80) {
            n++;
        }
    }
    return n;
}

static void a_bar_fits_its_terminal(void **state)
{
    static const int widths[] = {200, 90, 60, 40, 20, 5};
    for (int i = 0; i < 6; i++) {
        char out[20000];
        run(show_progress, widths[i], out, sizeof out);
        int most = 0;
        for (char *line = out, *stop; *line; line = stop + (*stop != 0)) {
            stop = line + strcspn(line, "\r\n");
            int n = shown_columns(line, stop);
            most = n > most ? n : most;
        }
        assert_in_range(most, 4, widths[i] - 1 > 4 ? widths[i] - 1 : 5); /* "saved" may fill five */
        if (widths[i] >= 60) {
            assert_non_null(strstr(out, "━"));
            assert_non_null(strstr(out, " 50%"));
            assert_non_null(strstr(out, " left"));
        }
        assert_non_null(strstr(out, "\r\033[Ksaved"));
        assert_non_null(strstr(out, "\r\033[Kemo"));
    }
}

static void timed_progress(void)
{
    struct progress *p = progress_new("timed", 0, "steps", 0);
    for (int i = 1; i <= 3; i++) {
        usleep(100000); /* at ten steps a second 30 would take 2.7 s more; the clock says an hour */
        progress_set_end(p, 3600, 30);
        progress_update(p, i, NULL);
    }
    progress_end(p, NULL);
}

static void work_by_the_clock_shows_its_time(void **state)
{
    char out[4000];
    run(timed_progress, 0, out, sizeof out);
    assert_non_null(strstr(out, "timed  3/30   10%  "));
    assert_non_null(strstr(out, " steps/s  1:00:00 left"));
}

static void odd_progress(void)
{
    struct progress *p = progress_new("odd", 0, NULL, 0);
    progress_update(p, 0, NULL);
    progress_update(p, 7, "two\nlines");
    progress_end(p, NULL);
    p = progress_new("resumed", 1000, "", 0);
    progress_update(p, 990, NULL); /* what was done before says nothing about the speed */
    usleep(100000);
    progress_update(p, 991, NULL);
    progress_end(p, NULL);
    progress_end(NULL, NULL);
}

static void odd_progress_is_shown(void **state)
{
    char out[4000];
    run(odd_progress, 0, out, sizeof out);
    assert_non_null(strstr(out, "odd  7  two lines"));
    char *last = strstr(out, "resumed  991/1000   99%  ");
    assert_non_null(last);
    double rate;
    assert_int_equal(sscanf(last + strlen("resumed  991/1000   99%  "), "%lf/s", &rate), 1);
    assert_true(rate > 0 && rate < 10.01); /* one step in at least 0.1 s */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(piped_messages_are_plain), cmocka_unit_test(a_terminal_gets_colour),
        cmocka_unit_test(the_file_gets_everything), cmocka_unit_test(piped_progress_is_plain),
        cmocka_unit_test(a_bar_fits_its_terminal),  cmocka_unit_test(work_by_the_clock_shows_its_time),
        cmocka_unit_test(odd_progress_is_shown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
