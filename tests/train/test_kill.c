/* A run that is killed again and again ends where an uninterrupted one does; SIGTERM and SIGINT save and say how to go
 * on. $TRIAD_KILLS (50) is how often the one run is killed: less where a sanitizer makes each start slow. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/threads.h"
#include "run/checkpoint.h"
#include "run/model.h"
#include "tests/support/tiny.h"

/* The newest checkpoint's folder or NULL; the caller frees. */
static char *latest(const char *out)
{
    char *folder;
    struct err e = {0};
    if (run_checkpoint_latest(tiny_path(&tiny, "%s", out), &folder, &e)) fail_msg("%s", e.msg);
    return folder;
}

/* The newest checkpoint must load. Returns its step, 0 where there is none yet. */
static int64_t check_latest(const char *out)
{
    char *folder = latest(out);
    if (!folder) return 0;
    struct run_model *m;
    struct err e = {0};
    if (run_model_open(folder, &m, &e)) fail_msg("%s", e.msg);
    int64_t step = m->state.step;
    run_model_free(m);
    free(folder);
    return step;
}

static int leftovers(const char *dir)
{
    char **names;
    int n, found = 0;
    struct err e = {0};
    assert_int_equal(file_list(dir, &names, &n, &e), 0);
    for (int i = 0; i < n; i++) found += names[i][0] == '.';
    file_list_free(names, n);
    return found;
}

/* Kills fall at random moments: every other one while the program starts, the rest up to five steps (each with its
 * save) after the last checkpoint. */
static void test_kill(void **state)
{
    const char *many = getenv("TRIAD_KILLS");
    int kills = many ? (int)strtol(many, NULL, 10) : 50, steps = 6 * kills, in_save = 0;
    char args[200], more[240];
    snprintf(args, sizeof args, "train.steps=%d train.save_every=1 data.valid=[valid] train.valid_every=7", steps);
    snprintf(more, sizeof more, "%s --resume", args);
    struct tiny_child c;
    double t0 = time_now();
    tiny_start(&tiny, "whole", args, &c);
    assert_true(tiny_appears(tiny_path(&tiny, "whole/checkpoints/step-1"), 60));
    double t1 = time_now();
    tiny_wait(&tiny, &c);
    assert_int_equal(c.status, 0);
    free(c.text);
    double start_s = t1 - t0, step_s = (time_now() - t1) / steps;
    struct rng r = rng_make(5, 6, 7);
    int64_t step = 0;
    for (int i = 0; i < kills; i++) {
        tiny_start(&tiny, "killed", step ? more : args, &c);
        double wait_s = rng_range(&r, 0, i % 2 ? 5 * step_s : start_s);
        if (i % 2) tiny_appears(tiny_path(&tiny, "killed/checkpoints/step-%d", (int)step + 1), 60);
        /* A machine that has become faster since the first run must not get to the end before the last kill. */
        tiny_appears(tiny_path(&tiny, "killed/checkpoints/step-%d", (int)step + 3), wait_s);
        kill(c.pid, SIGKILL);
        tiny_wait(&tiny, &c);
        if (c.status != -SIGKILL) print_error("%s\n", c.text);
        assert_int_equal(c.status, -SIGKILL);
        free(c.text);
        if (!file_is_dir(tiny_path(&tiny, "killed/checkpoints"))) continue;
        in_save += leftovers(tiny_path(&tiny, "killed/checkpoints")) > 0;
        int64_t now = check_latest("killed");
        assert_true(now >= step);
        step = now;
    }
    print_message("%d kills, %d of them inside a save, until step %lld of %d\n", kills, in_save, (long long)step,
                  steps);
    assert_true(step > 0);
    assert_true(kills < 20 || in_save > 0);
    free(tiny_run(&tiny, "killed", more, 0));
    char *a = latest("whole"), *b = latest("killed");
    tiny_same(a, b);
    assert_int_equal(leftovers(tiny_path(&tiny, "killed")), 0);
    assert_int_equal(leftovers(tiny_path(&tiny, "killed/checkpoints")), 0);
    free(a);
    free(b);
}

static void stop_by(int signal, const char *out, const char *name)
{
    struct tiny_child c;
    tiny_start(&tiny, out, "train.steps=100000 train.save_every=20 optim.decay=constant", &c);
    assert_true(tiny_appears(tiny_path(&tiny, "%s/checkpoints/step-20", out), 60));
    kill(c.pid, signal);
    tiny_wait(&tiny, &c);
    assert_int_equal(c.status, 11);
    tiny_has(c.text, name);
    tiny_has(c.text, "--resume");
    int64_t step = check_latest(out);
    char text[40];
    snprintf(text, sizeof text, "at step %lld;", (long long)step);
    tiny_has(c.text, text);
    free(c.text);
    char args[100];
    snprintf(args, sizeof args, "--resume train.steps=%lld optim.decay=constant", (long long)step + 5);
    free(tiny_run(&tiny, out, args, 0));
    assert_int_equal(check_latest(out), step + 5);
    snprintf(args, sizeof args, "train.steps=%lld optim.decay=constant", (long long)step + 5);
    char whole[32];
    snprintf(whole, sizeof whole, "%s-whole", out);
    free(tiny_run(&tiny, whole, args, 0));
    char *a = latest(out), *b = latest(whole);
    tiny_same(a, b);
    free(a);
    free(b);
}

static void test_sigterm(void **state)
{
    stop_by(SIGTERM, "term", "SIGTERM");
}

static void test_sigint(void **state)
{
    stop_by(SIGINT, "int", "Ctrl-C");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kill),
        cmocka_unit_test(test_sigterm),
        cmocka_unit_test(test_sigint),
    };
    return cmocka_run_group_tests(tests, tiny_begin, tiny_end);
}
