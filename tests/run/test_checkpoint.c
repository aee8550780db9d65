/* The optimizer's part of a checkpoint: what is saved comes back bit for bit, in every way to store it, and a run may go on
 * with another way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/half.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/safetensors.h"
#include "optim/quant.h"
#include "run/checkpoint.h"
#include "tests/support/temp_dir.h"

static struct ad_store *make_store(void)
{
    struct ad_store *s = ad_store_new(3);
    struct err e = {0};
    const struct ad_init normal = {AD_INIT_NORMAL, 1};
    CHECK(!ad_store_declare(s, "matrix", AD_F32, SHAPE(70, 90), normal, 0, &e)); /* not a whole number of blocks */
    CHECK(!ad_store_declare(s, "bias", AD_F32, SHAPE(90), normal, AD_NO_DECAY, &e));
    CHECK(!ad_store_declare(s, "mean", AD_F32, SHAPE(90), normal, AD_STATE, &e));
    CHECK(!ad_store_declare(s, "stack", AD_F32, SHAPE(2, 50, 60), normal, 0, &e));
    CHECK(!ad_store_commit(s, &e));
    return s;
}

static struct opt *make_opt(int kind, int store, struct ad_store *s)
{
    struct opt_config c = {.kind = (enum opt_kind)kind,
                           .beta1 = 0.9,
                           .beta2 = 0.98,
                           .eps = 1e-8,
                           .weight_decay = 0.1,
                           .state = (enum opt_store)store,
                           .momentum = 0.9,
                           .trust = 0.01,
                           .ema = 0.9};
    struct err e = {0};
    struct opt *o = opt_new(&c, s, &e);
    CHECK(o);
    return o;
}

static void steps(struct opt *o, struct ad_store *s, int from, int to)
{
    int64_t n = ad_store_flat_count(s);
    float *g = mem_zero((size_t)n, sizeof *g);
    for (int t = from; t < to; t++) {
        for (int i = 0; i < ad_store_count(s); i++) {
            const struct ad_entry *p = ad_store_at(s, i);
            struct rng r = rng_make(4, hash_str(p->name), (uint64_t)t);
            for (int64_t k = 0; k < p->count && !(p->flags & AD_STATE); k++) g[p->offset + k] = (float)rng_normal(&r);
        }
        opt_step(o, g, 0, 0.01);
    }
    free(g);
}

/* Every pair of kind and store but Adafactor's, whose state is f32. */
static bool next_case(int *kind, int *store)
{
    if (*kind < 0 || !opt_state_names[++*store] || *kind == OPT_ADAFACTOR) ++*kind, *store = 0;
    return opt_kind_names[*kind];
}

static const struct run_state at = {
    .step = 3, .best = NAN, .best_step = -1, .noise = {.gradient2 = 0.1, .noise = 1e9 / 3, .count = 3}};

static void assert_same_states(const struct opt *a, const struct opt *b)
{
    assert_int_equal(opt_state_count(a), opt_state_count(b));
    for (int i = 0; i < opt_state_count(a); i++) {
        struct opt_state x = opt_state(a, i), y = opt_state(b, i);
        size_t bytes = (size_t)x.count * (x.store == OPT_F32 ? 4 : x.store == OPT_BF16 ? 2 : 1);
        assert_true(x.store == y.store && x.count == y.count && !strcmp(x.name, y.name));
        assert_memory_equal(x.data, y.data, bytes);
        if (x.store == OPT_8BIT) assert_memory_equal(x.absmax, y.absmax, (size_t)opt_blocks(x.count) * sizeof(float));
    }
}

/* Three steps, saved and read into a fresh run, then two more in both. */
static void comes_back_bit_for_bit(void **state)
{
    for (int kind = -1, store = 0; next_case(&kind, &store);) {
        struct temp_dir d;
        temp_dir_begin(&d);
        struct err e = {0};
        struct ad_store *s[2] = {make_store(), make_store()};
        struct opt *o[2] = {make_opt(kind, store, s[0]), make_opt(kind, store, s[1])};
        steps(o[0], s[0], 0, 3);
        assert_int_equal(run_checkpoint_save(d.path, &at, s[0], o[0], &e), 0);
        struct run_state r;
        char *folder = file_join(d.path, "checkpoints/step-3");
        if (run_checkpoint_load(folder, &r, s[1], o[1], false, &e)) fail_msg("%s", e.msg);
        assert_memory_equal(&r.noise, &at.noise, sizeof r.noise);
        assert_same_states(o[0], o[1]);
        for (int k = 0; k < 2; k++) steps(o[k], s[k], 3, 5);
        assert_same_states(o[0], o[1]);
        assert_memory_equal(ad_store_flat(s[0]), ad_store_flat(s[1]), (size_t)ad_store_flat_count(s[0]) * 4);
        free(folder);
        for (int k = 0; k < 2; k++) opt_free(o[k]), ad_store_free(s[k]);
        temp_dir_end(&d);
    }
}

static double number(const struct opt_state *s, int64_t i)
{
    float x = 0;
    if (s->store == OPT_F32) x = ((const float *)s->data)[i];
    if (s->store == OPT_BF16) x = bf16_to_float(((const uint16_t *)s->data)[i]);
    if (s->store == OPT_8BIT)
        opt_decode(opt_map(s->positive), (const uint8_t *)s->data + i, 1, s->absmax[i / OPT_BLOCK], &x);
    return (double)x;
}

static double largest_of_block(const struct opt_state *s, int64_t i)
{
    double top = 0;
    for (int64_t k = i / OPT_BLOCK * OPT_BLOCK; k < s->count && k < (i / OPT_BLOCK + 1) * OPT_BLOCK; k++)
        top = fmax(top, fabs(number(s, k)));
    return top;
}

/* From each way to each other: the same numbers, rounded once more: in bf16 by half a place, in 8 bits by half a cell of the
 * largest decade. */
static void goes_on_with_another(void **state)
{
    for (int from = 0; from < 3; from++)
        for (int to = 0; to < 3; to++) {
            struct temp_dir d;
            temp_dir_begin(&d);
            struct err e = {0};
            struct ad_store *s = make_store();
            struct opt *a = make_opt(OPT_ADAMW, from, s), *b = make_opt(OPT_ADAMW, to, s);
            steps(a, s, 0, 3);
            struct run_state r;
            char *folder = file_join(d.path, "checkpoints/step-3");
            assert_int_equal(run_checkpoint_save(d.path, &at, s, a, &e), 0);
            if (run_checkpoint_load(folder, &r, s, b, false, &e)) fail_msg("%s", e.msg);
            for (int i = 0; i < opt_state_count(a); i++) {
                struct opt_state x = opt_state(a, i), y = opt_state(b, i);
                for (int64_t k = 0; k < x.count; k++) {
                    double want = number(&x, k), most = y.store == OPT_BF16 ? 0x1p-8 * fabs(want) : 0;
                    if (y.store == OPT_8BIT) most = 0.51 * 0.9 / 64 * largest_of_block(&x, k);
                    assert_true(fabs(number(&y, k) - want) <= most);
                }
            }
            free(folder);
            opt_free(a);
            opt_free(b);
            ad_store_free(s);
            temp_dir_end(&d);
        }
}

/* A checkpoint of another optimizer, and one with codes whose scales are missing or are one too few. */
static void what_does_not_fit_is_refused(void **state)
{
    struct temp_dir d;
    temp_dir_begin(&d);
    struct err e = {0};
    struct run_state r;
    struct ad_store *s = make_store();
    struct opt *a = make_opt(OPT_ADAMW, OPT_8BIT, s), *other = make_opt(OPT_LION, OPT_8BIT, s);
    assert_int_equal(run_checkpoint_save(d.path, &at, s, a, &e), 0);
    char *folder = file_join(d.path, "checkpoints/step-3"), *path = file_join(folder, "optimizer.safetensors");
    assert_int_equal(run_checkpoint_load(folder, &r, s, other, false, &e), ERR_SHAPE);
    assert_non_null(strstr(e.msg, "lion.m/matrix"));
    for (int fault = 0; fault < 3; fault++) {
        struct st_file *f;
        err_clear(&e);
        assert_int_equal(run_checkpoint_save(d.path, &at, s, a, &e), 0);
        assert_int_equal(st_open(path, &f, &e), 0);
        struct st_item *item = mem_zero((size_t)st_count(f) + 1, sizeof *item);
        int n = 0;
        int64_t less = opt_blocks(70 * 90) - 1;
        for (int i = 0; i < st_count(f); i++) {
            const struct st_tensor *t = st_at(f, i);
            bool scales = !strcmp(t->name, "adamw.m.absmax/matrix");
            if (scales && fault == 0) continue;
            item[n++] = (struct st_item){t->name, t->dtype, t->rank, scales && fault == 1 ? &less : t->dim, t->data};
        }
        if (fault == 2) item[n++] = (struct st_item){"adamw.m.absmax/bias", ST_F32, 1, &less, item[0].data};
        char *bad = file_join(d.path, "bad.safetensors");
        assert_int_equal(st_write(bad, item, n, &(struct st_meta){"steps", "3"}, 1, &e), 0);
        st_close(f);
        assert_int_equal(rename(bad, path), 0);
        assert_int_equal(run_checkpoint_load(folder, &r, s, a, false, &e), ERR_SHAPE);
        if (!strstr(e.msg, fault < 2 ? "adamw.m.absmax/matrix" : "scales")) fail_msg("%s", e.msg);
        free(bad);
        free(item);
    }
    free(path);
    free(folder);
    opt_free(a);
    opt_free(other);
    ad_store_free(s);
    temp_dir_end(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(comes_back_bit_for_bit),
        cmocka_unit_test(goes_on_with_another),
        cmocka_unit_test(what_does_not_fit_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
