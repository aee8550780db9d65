/* A steady step allocates nothing, faults no page and starts no thread. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/threads.h"
#include "tests/support/tiny.h"
#include "train/step.h"

enum { STEPS = 20 };

struct bench {
    struct run_model *m;
    struct manifest data;
    struct data_cache *cache;
    struct data_loader *loader;
    struct opt_config c;
    struct opt *opt;
    struct train_stepper *stepper;
    int64_t step;
};

static void bench_open(struct bench *b, int workers, const char *arg)
{
    struct err e = {0};
    int64_t *items, n;
    *b = (struct bench){0};
    assert_int_equal(run_model_new(tiny.config, &arg, 1, &b->m, &e), 0);
    threads_init(2);
    mem_keep_freed();
    assert_int_equal(run_model_commit(b->m, &e), 0);
    assert_int_equal(run_model_data(b->m, &b->data, &items, &n, &e), 0);
    b->cache = data_cache_new(1 << 20);
    struct data_loader_config d = {.manifest = &b->data,
                                   .items = items,
                                   .n_items = n,
                                   .split = "train",
                                   .modality = b->m->input,
                                   .n_modalities = b->m->n,
                                   .batch = TINY_BATCH,
                                   .threads = workers,
                                   .ahead = TINY_EPOCH,
                                   .cache = b->cache};
    assert_int_equal(data_loader_new(&d, &b->loader, &e), 0);
    free(items);
    b->c = run_opt_config(&b->m->config);
    b->opt = opt_new(&b->c, b->m->store, &e);
    assert_non_null(b->opt);
    b->stepper = train_stepper_new(b->m, b->opt, &e);
    assert_non_null(b->stepper);
}

static void bench_close(struct bench *b)
{
    data_loader_free(b->loader);
    data_cache_free(b->cache);
    train_stepper_free(b->stepper);
    opt_free(b->opt);
    manifest_free(&b->data);
    run_model_free(b->m);
}

static struct data_batch *next(struct bench *b)
{
    struct data_batch *x;
    struct err e = {0};
    assert_int_equal(data_loader_next(b->loader, &x, &e), 0);
    return x;
}

static void step(struct bench *b, const struct data_batch *x)
{
    struct train_result r;
    struct err e = {0};
    if (train_stepper_run(b->stepper, x, b->step++, 1e-3, &r, &e)) fail_msg("%s", e.msg);
}

struct counters {
    size_t heap;
    int64_t faults, threads;
};

static struct counters count(void)
{
    struct mallinfo2 m = mallinfo2();
    return (struct counters){m.uordblks + m.hblkhd, process_page_faults(), process_threads_created()};
}

static void report(const char *what, const struct counters *a, const struct counters *b)
{
    print_message("%s, %d steps: heap %+lld bytes, %lld page faults, threads %lld -> %lld\n", what, STEPS,
                  (long long)(b->heap - a->heap), (long long)(b->faults - a->faults), (long long)a->threads,
                  (long long)b->threads);
}

/* Sanitizers keep books of their own for every access. */
#ifdef __SANITIZE_ADDRESS__
enum { COUNTED = 0 };
#else
enum { COUNTED = 1 };
#endif

static void steps(const char *arg)
{
    struct bench b;
    bench_open(&b, 0, arg);
    struct data_batch *x[TINY_EPOCH];
    for (int i = 0; i < TINY_EPOCH; i++) x[i] = next(&b);
    for (int i = 0; i < 2 * TINY_EPOCH; i++) step(&b, x[i % TINY_EPOCH]);
    int64_t plans = train_stepper_plans(b.stepper);
    struct counters from = count();
    for (int i = 0; i < STEPS; i++) step(&b, x[i % TINY_EPOCH]);
    struct counters to = count();
    report(arg, &from, &to);
    assert_int_equal(train_stepper_plans(b.stepper), plans);
    if (COUNTED) {
        assert_int_equal(to.heap, from.heap);
        assert_true(to.faults - from.faults < 5 * STEPS);
    }
    assert_int_equal(to.threads, from.threads);
    for (int i = 0; i < TINY_EPOCH; i++) data_loader_release(b.loader, x[i]);
    bench_close(&b);
}

static void test_steps(void **state)
{
    steps("train.precision=f32");
}

static void test_steps_in_parts(void **state)
{
    steps("train.micro_batch=3");
}

static void test_half_steps(void **state)
{
    steps("train.precision=f16"); /* some are left out until the loss scale fits */
}

/* As count, once the loader's ring is full and its thread asleep: what it holds while it makes a batch does not count. */
static struct counters count_at_rest(void)
{
    struct counters least = count();
    for (int i = 0; i < 20; i++) {
        usleep(10000);
        struct counters c = count();
        if (c.heap < least.heap) least = c;
    }
    return least;
}

/* With the loader's thread at work too. What is decoded is cached in the first epochs; augmentation frees what it
 * takes. */
static void test_steps_and_loader(void **state)
{
    struct bench b;
    bench_open(&b, 1, "train.micro_batch=0");
    struct counters from = {0};
    for (int i = 0; i < 60 + STEPS; i++) { /* 60: every shape that occurs has its plan, every buffer its size */
        if (i == 60) from = count_at_rest();
        struct data_batch *x = next(&b);
        step(&b, x);
        data_loader_release(b.loader, x);
    }
    struct counters to = count_at_rest();
    report("steps and loader", &from, &to);
    if (COUNTED) {
        assert_true(to.heap < from.heap + 65536); /* OpenMP and libraries may keep a little */
        assert_true(to.faults - from.faults < 5 * STEPS);
    }
    assert_int_equal(to.threads, from.threads);
    bench_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_steps),
        cmocka_unit_test(test_steps_in_parts),
        cmocka_unit_test(test_half_steps),
        cmocka_unit_test(test_steps_and_loader),
    };
    return cmocka_run_group_tests(tests, tiny_begin, tiny_end);
}
