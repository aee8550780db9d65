/* The loader: the same batches for any number of threads, any cache and any start; packing; groups; damaged items. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <malloc.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/half.h"
#include "base/log.h"
#include "data/audio.h"
#include "data/loader.h"
#include "tests/support/world.h"

static void same_for_threads_and_caches(void **state)
{
    struct world w;
    world_make(&w);
    for (int waves = 0; waves < 2; waves++) {
        struct world_setup s;
        struct buf first = {0};
        world_setup(&s, &w, waves);
        for (int threads = 0; threads <= 3; threads += 1 + (threads == 1))
            for (int cache = 0; cache < 3; cache++) { /* none, one that fills up, one that holds all */
                struct buf b = {0};
                s.c.threads = threads;
                s.c.cache = cache ? data_cache_new(cache == 1 ? 90000 : 1 << 24) : NULL;
                struct data_loader *l = world_loader(&s);
                assert_int_equal(data_loader_batches(l), 3);
                world_take(l, 8, &b);
                if (!first.data) {
                    first = b;
                    b = (struct buf){0};
                } else {
                    assert_int_equal(b.len, first.len);
                    assert_memory_equal(b.data, first.data, b.len);
                }
                struct data_loader_stats stats = data_loader_stats(l);
                assert_true(cache ? stats.cached > 0 : stats.cached == 0);
                if (cache == 1) assert_true(data_cache_bytes(s.c.cache) <= 90000);
                data_loader_free(l);
                data_cache_free(s.c.cache);
                buf_free(&b);
            }
        buf_free(&first);
    }
    world_free(&w);
}

static void seek_is_running(void **state)
{
    struct world w;
    world_make(&w);
    struct world_setup s;
    world_setup(&s, &w, false);
    for (int threads = 0; threads < 3; threads += 2) {
        s.c.threads = threads;
        struct data_loader *l = world_loader(&s);
        struct buf all = {0};
        size_t end[10];
        for (int i = 0; i < 10; i++) {
            world_take(l, 1, &all);
            end[i] = all.len;
        }
        static const int64_t to[][2] = {{2, 1}, {0, 0}, {1, 2}, {0, 7}, {0, 3}};
        for (size_t t = 0; t < sizeof to / sizeof *to; t++) {
            struct buf b = {0};
            int64_t at = to[t][0] * 3 + to[t][1];
            data_loader_seek(l, to[t][0], to[t][1]);
            world_take(l, 2, &b);
            size_t from = at ? end[at - 1] : 0;
            assert_int_equal(b.len, end[at + 1] - from);
            assert_memory_equal(b.data, all.data + from, b.len);
            buf_free(&b);
        }
        data_loader_free(l);
        buf_free(&all);
    }
    world_free(&w);
}

static void epochs_are_permutations(void **state)
{
    struct world w;
    world_make(&w);
    struct world_setup s;
    world_setup(&s, &w, false);
    struct data_loader *l = world_loader(&s);
    int64_t order[6][18];
    int seen_ever[WORLD_ITEMS] = {0}, choices[3] = {0}, voices[3] = {0};
    for (int epoch = 0; epoch < 6; epoch++) {
        int seen[WORLD_ITEMS] = {0};
        for (int i = 0; i < 3; i++) {
            struct data_batch *b;
            struct err e = {0};
            assert_int_equal(data_loader_next(l, &b, &e), 0);
            assert_int_equal(b->epoch, epoch);
            assert_int_equal(b->index, i);
            assert_int_equal(b->size, 6);
            for (int k = 0; k < 6; k++) {
                order[epoch][i * 6 + k] = b->sample[k];
                assert_int_equal(seen[b->sample[k]]++, 0);
                seen_ever[b->sample[k]] = 1;
                if (b->part[1].choice[k] >= 0) choices[b->part[1].choice[k]]++;
                if (b->part[2].choice[k] >= 0) voices[b->part[2].choice[k]]++;
            }
            data_loader_release(l, b);
        }
        for (int p = 0; p < epoch; p++) assert_memory_not_equal(order[p], order[epoch], sizeof order[p]);
    }
    for (int i = 0; i < WORLD_ITEMS; i++) assert_int_equal(seen_ever[i], 1);
    assert_true(choices[0] > choices[1] && choices[1] > 0 && choices[2] > 0);
    assert_true(voices[0] > 10 && voices[1] > 10 && voices[2] == 0); /* the held-out voice is never trained on */
    s.c.seed++;
    struct data_loader *other = world_loader(&s);
    struct data_batch *b;
    struct err e = {0};
    assert_int_equal(data_loader_next(other, &b, &e), 0);
    assert_memory_not_equal(b->sample, order[0], 6 * sizeof *b->sample);
    data_loader_release(other, b);
    data_loader_free(other);
    data_loader_free(l);
    world_free(&w);
}

/* What item i's parts should be, made here by the plain functions. */
static void check_sample(const struct world *w, const struct world_setup *s, const struct data_batch *b, int64_t k,
                         int voice)
{
    struct err e = {0};
    const struct manifest_item *it = &w->m.item[b->sample[k]];
    char *data;
    size_t len;
    struct data_image im, fit = {.h = WORLD_SIDE, .w = WORLD_SIDE, .px = malloc(WORLD_SIDE * WORLD_SIDE * 3)};
    struct data_scratch scratch = {0};
    assert_int_equal(manifest_bytes(&w->m, &manifest_field(it, "image")->entry[0], &data, &len, &e), 0);
    assert_int_equal(data_image_decode("", data, len, &im, &e), 0);
    assert_int_equal(data_image_fit(&im, DATA_FIT_CROP, DATA_BICUBIC, &fit, &scratch, &e), 0);
    const float *px = b->part[0].image + b->part[0].row[k] * WORLD_SIDE * WORLD_SIDE * 3;
    for (int i = 0; i < WORLD_SIDE * WORLD_SIDE * 3; i++) /* two roundings of values up to 5 */
        assert_true(fabsf(px[i] - ((float)fit.px[i] / 255 - s->m[0].mean[i % 3]) / s->m[0].std[i % 3]) < 2e-6f);
    free(data);
    data_image_free(&im);
    data_image_free(&fit);
    data_scratch_free(&scratch);

    const struct data_part *t = &b->part[1], *a = &b->part[2];
    const struct manifest_field *text = manifest_field(it, "text"), *audio = manifest_field(it, "audio");
    assert_int_equal(t->choice[k], text ? 0 : -1);
    assert_int_equal(a->choice[k], audio ? voice : -1);
    if (text) {
        int32_t ids[12], r = t->row[k];
        int64_t n;
        assert_int_equal(tok_encode(w->tok, text->entry[0].value, strlen(text->entry[0].value), ids, 12, &n, &e), 0);
        assert_int_equal(t->offsets[r + 1] - t->offsets[r], n);
        assert_memory_equal(t->tokens + t->offsets[r], ids, (size_t)n * sizeof *ids);
    } else
        assert_int_equal(t->row[k], -1);
    if (!audio) {
        assert_int_equal(a->row[k], -1);
        return;
    }
    struct data_audio clip;
    struct data_logmel *lm;
    struct data_logmel_config c = world_logmel();
    assert_int_equal(manifest_bytes(&w->m, &audio->entry[voice], &data, &len, &e), 0);
    assert_int_equal(data_audio_decode("", data, len, 8000, 1, &clip, &e), 0);
    assert_true(clip.n <= 8000);
    assert_int_equal(data_logmel_new(&c, &lm, &e), 0);
    int64_t frames = data_logmel_frames(&c, clip.n), r = a->row[k];
    float *x = malloc((size_t)(frames * WORLD_BINS) * sizeof *x);
    data_logmel_run(lm, clip.x, clip.n, x);
    assert_int_equal(a->offsets[r + 1] - a->offsets[r], frames);
    for (int64_t i = 0; i < frames * WORLD_BINS; i++)
        assert_true(a->frames[a->offsets[r] * WORLD_BINS + i] == half_to_float(half_from_float(x[i])));
    free(x);
    free(data);
    data_logmel_free(lm);
    data_audio_free(&clip);
}

static void evaluation_in_order(void **state)
{
    struct world w;
    world_make(&w);
    struct world_setup s;
    world_setup(&s, &w, true); /* whose augmentation evaluation leaves out */
    s.c.eval = true;
    s.c.batch = 10;
    s.c.cache = data_cache_new(1 << 24);
    for (int run = 0; run < 2; run++) { /* the second from the cache, and for the held-out voice */
        s.c.split = run ? "voices" : NULL;
        s.c.threads = run * 2;
        struct data_loader *l = world_loader(&s);
        struct data_batch *b;
        struct err e = {0};
        assert_int_equal(data_loader_batches(l), 3);
        for (int pass = 0; pass < 2; pass++) {
            int64_t next = 0;
            for (;;) {
                assert_int_equal(data_loader_next(l, &b, &e), 0);
                if (!b) break;
                assert_int_equal(b->size, next < 20 ? 10 : 3);
                assert_int_equal(b->part[0].cap, b->size); /* every item has a picture */
                assert_int_equal(b->part[0].n, b->size);
                for (int i = 1; i < 3; i++) {
                    const struct data_part *p = &b->part[i];
                    int64_t used = p->offsets[p->n], row = i == 1 ? 1 : WORLD_BINS;
                    assert_true(p->n < b->size || next == 10 || next == 20);
                    assert_int_equal(p->cap, p->n <= 8 ? 8 : 16);
                    assert_int_equal(p->rows, data_round_rows(used, s.m[i].round_rows));
                    for (int64_t k = p->n; k < p->cap; k++) assert_int_equal(p->offsets[k + 1], used);
                    for (int64_t k = used * row; k < p->rows * row; k++)
                        assert_true(i == 1 ? p->tokens[k] == 0 : p->frames[k] == 0);
                }
                for (int64_t k = 0; k < b->size; k++) {
                    assert_int_equal(b->sample[k], w.items[next++]);
                    check_sample(&w, &s, b, k, run ? 2 : 0);
                }
                data_loader_release(l, b);
            }
            assert_int_equal(next, WORLD_ITEMS);
            assert_int_equal(data_loader_next(l, &b, &e), 0);
            assert_null(b);
            data_loader_seek(l, 0, 0);
        }
        data_loader_free(l);
    }
    data_cache_free(s.c.cache);
    world_free(&w);
}

static void picked_entries(void **state)
{
    struct world w;
    world_make(&w);
    struct world_setup s;
    world_setup(&s, &w, false);
    s.c.eval = true;
    for (int pick = 0; pick < 5; pick++) {
        s.m[1].pick = s.m[2].pick = pick;
        struct data_loader *l = world_loader(&s);
        struct data_batch *b;
        struct err e = {0};
        assert_int_equal(data_loader_next(l, &b, &e), 0);
        assert_int_equal(b->part[1].choice[1], pick < 2 ? pick : 2);
        assert_int_equal(b->part[2].choice[1], pick < 1 ? pick : 1); /* two are for training */
        data_loader_release(l, b);
        data_loader_free(l);
    }
    world_free(&w);
}

static void groups(void **state)
{
    static const struct {
        const char *line;
        int group;
    } rows[] = {{"{\"text\": \"one\"}", 0},
                {"{\"text\": \"two\", \"group\": \"g\"}", 1},
                {"{\"text\": \"one\"}", 0},
                {"{\"text\": \"three\", \"group\": \"g\"}", 1},
                {"{\"text\": \"three\"}", 1}, /* by its text, the fourth's, whose group is the second's */
                {"{\"text\": \"One\"}", 5},
                {"{\"text\": \"g\"}", 6},
                {"{\"text\": \"five\", \"group\": 7}", 7},
                {"{\"text\": \"7\"}", 8}};
    struct world w;
    world_make(&w);
    struct manifest m;
    struct buf b = {0};
    struct err e = {0};
    enum { n = sizeof rows / sizeof *rows };
    int64_t items[n];
    for (int i = 0; i < n; i++) {
        buf_printf(&b, "%s\n", rows[i].line);
        items[i] = i;
    }
    assert_int_equal(manifest_parse("m", ".", b.data, b.len, &m, &e), 0);
    struct world_setup s;
    world_setup(&s, &w, false);
    s.c.manifest = &m;
    s.c.items = items;
    s.c.n_items = s.c.batch = n;
    s.c.modality = &s.m[1];
    s.c.n_modalities = 1;
    s.c.eval = true;
    struct data_loader *l = world_loader(&s);
    struct data_batch *d;
    assert_int_equal(data_loader_next(l, &d, &e), 0);
    for (int i = 0; i < n; i++) assert_int_equal(d->group[i], rows[i].group);
    data_loader_release(l, d);
    data_loader_free(l);
    manifest_free(&m);
    buf_free(&b);
    world_free(&w);
}

static int count_lines(const char *text, const char *part)
{
    int n = 0;
    for (const char *p = text; (p = strstr(p, part)); p++) n++;
    return n;
}

static void bad_items(void **state)
{
    struct world w;
    world_make(&w);
    struct world_setup s;
    struct err e = {0};
    struct buf first = {0};
    world_setup(&s, &w, false);
    world_save(&w, "7.png", "\x89PNG\r\n\x1a\nbroken", 14);
    world_save(&w, "11.1.wav", "RIFF", 4); /* is met when the second clip is drawn */
    char *gone = file_join(w.dir, "2.png"), *log = file_join(w.dir, "log");
    assert_int_equal(unlink(gone), 0);
    for (int threads = 0; threads < 3;
         threads++) { /* stop: in the batch that holds it, said again, and seek goes past */
        struct data_batch *b;
        s.c.threads = threads;
        struct data_loader *l = world_loader(&s);
        int good = 0, rc = 0;
        while (!(rc = data_loader_next(l, &b, &e))) {
            data_loader_release(l, b);
            good++;
        }
        assert_true(rc == ERR_IO || rc == ERR_FORMAT);
        assert_null(b);
        assert_non_null(strstr(e.msg, "manifest.jsonl:"));
        assert_non_null(strstr(e.msg, "item 'item-"));
        struct err again = {0};
        assert_int_equal(data_loader_next(l, &b, &again), rc);
        assert_string_equal(again.msg, e.msg);
        buf_printf(&first, "%d %s\n", good, e.msg);
        data_loader_seek(l, 0, 0);
        data_loader_free(l);
        err_clear(&e);
    }
    size_t line = (size_t)(strchr(first.data, '\n') - first.data) + 1;
    assert_int_equal(first.len, 3 * line);
    assert_memory_equal(first.data, first.data + line, line);
    assert_memory_equal(first.data, first.data + 2 * line, line);
    buf_free(&first);

    s.c.skip = true;
    log_quiet(true);
    assert_int_equal(log_to_file(log, &e), 0);
    for (int threads = 0; threads < 3; threads++) {
        struct buf b = {0};
        s.c.threads = threads;
        struct data_loader *l = world_loader(&s);
        world_take(l, 18, &b);
        assert_true(data_loader_stats(l).skipped > 6);
        data_loader_free(l);
        if (first.data) {
            assert_int_equal(b.len, first.len);
            assert_memory_equal(b.data, first.data, b.len);
            buf_free(&b);
        } else
            first = b;
    }
    assert_int_equal(log_to_file(NULL, &e), 0);
    char *text;
    size_t len;
    assert_int_equal(file_read(log, 1 << 20, &text, &len, &e), 0);
    assert_int_equal(count_lines(text, "'item-7'"), 3); /* once for each loader */
    assert_int_equal(count_lines(text, "7.png"), 3);
    assert_int_equal(count_lines(text, "'item-2'"), 3);
    assert_int_equal(count_lines(text, "'item-11'"), 3);
    free(text);

    for (int i = 0; i < WORLD_ITEMS; i++) { /* nothing left to read: an error, not an endless search */
        char name[32];
        snprintf(name, sizeof name, "%d.png", i);
        world_save(&w, name, "x", 1);
    }
    struct data_loader *l = world_loader(&s);
    struct data_batch *b;
    assert_int_equal(data_loader_next(l, &b, &e), ERR_FORMAT);
    assert_non_null(strstr(e.msg, "100 other items"));
    data_loader_free(l);
    buf_free(&first);
    free(gone);
    free(log);
    world_free(&w);
}

static void steady_state(void **state)
{
    struct world w;
    world_make(&w);
    struct world_setup s;
    world_setup(&s, &w, false);
    s.c.threads = 2;
    s.c.cache = data_cache_new(1 << 24);
    struct data_loader *l = world_loader(&s);
    struct buf b = {0};
    world_take(l, 900, &b); /* until every caption and clip has been drawn */
    buf_free(&b);
    struct data_loader_stats before = data_loader_stats(l);
    size_t heap = mallinfo2().uordblks + mallinfo2().hblkhd;
    int64_t cache = data_cache_bytes(s.c.cache);
    for (int i = 0; i < 300; i++) {
        struct data_batch *d;
        struct err e = {0};
        assert_int_equal(data_loader_next(l, &d, &e), 0);
        data_loader_release(l, d);
    }
    struct data_loader_stats after = data_loader_stats(l);
    assert_int_equal(after.decoded, before.decoded); /* nothing is decoded twice */
    assert_true(after.cached >= before.cached + 300 * 6);
    assert_true(after.waited_s >= before.waited_s);
    assert_int_equal(data_cache_bytes(s.c.cache), cache);
    assert_int_equal(mallinfo2().uordblks + mallinfo2().hblkhd, heap);

    struct timespec t0, t1, nap = {.tv_nsec = 100000000}; /* with the ring full the threads sleep */
    nanosleep(&nap, NULL);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t0);
    nanosleep(&nap, NULL);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t1);
    assert_true((double)(t1.tv_sec - t0.tv_sec) + 1e-9 * (double)(t1.tv_nsec - t0.tv_nsec) < 0.02);
    data_loader_free(l);
    data_cache_free(s.c.cache);
    world_free(&w);
}

static void every_file_once(void **state)
{
    struct world w;
    world_make(&w);
    struct world_setup s;
    world_setup(&s, &w, false);
    s.c.eval = true;
    s.c.cache = data_cache_new(1 << 24);
    int64_t want = WORLD_ITEMS + (WORLD_ITEMS - 1) + 15; /* pictures, captions, sounds */
    for (int run = 0; run < 3; run++) {
        struct data_loader *l = world_loader(&s);
        struct buf b = {0};
        world_take(l, 4, &b);
        assert_int_equal(data_loader_stats(l).decoded, run ? 0 : want);
        assert_int_equal(data_loader_stats(l).cached, run ? want : 0);
        buf_free(&b);
        data_loader_free(l);
    }
    data_cache_free(s.c.cache);
    world_free(&w);
}

static void bad_settings(void **state)
{
    struct world w;
    world_make(&w);
    struct world_setup s;
    struct data_loader *l;
    for (int i = 0; i < 6; i++) {
        struct err e = {0};
        world_setup(&s, &w, false);
        const char *part = "";
        switch (i) {
        case 0: s.c.batch = 24, part = "23 items do not fill a batch of 24"; break;
        case 1: s.m[2].field = "sound", part = "none of the 23 items has 'sound'"; break;
        case 2: s.m[0].image.flip = 1.5, part = "picture: flip should be 0 to 1, but it is 1.5"; break;
        case 3: s.m[0].image.crop_max = 1, part = "crop's smallest area"; break;
        case 4: s.m[2].logmel.bins = 0, part = "speech: log-mel: bins"; break;
        case 5: s.m[2].audio.speed = NAN, part = "speech: speed"; break;
        }
        assert_int_equal(data_loader_new(&s.c, &l, &e), ERR_CONFIG);
        assert_null(l);
        if (!strstr(e.msg, part)) fail_msg("expected '%s' in '%s'", part, e.msg);
    }
    world_free(&w);
}

static void rows_are_rounded(void **state)
{
    for (int64_t n = 0; n < 100000; n += 1 + n / 50) {
        int64_t r = data_round_rows(n, 64);
        assert_true(r >= n && r > 0 && r % 64 == 0 && r - n <= (n / 8 > 64 ? n / 8 : 64));
        assert_int_equal(data_round_rows(r, 64), r);
    }
    int64_t shapes = 0;
    for (int64_t n = 10000, last = 0; n <= 20000; n++) {
        int64_t r = data_round_rows(n, 64);
        shapes += r != last;
        last = r;
    }
    assert_true(shapes <= 17); /* of a doubling */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_for_threads_and_caches),
        cmocka_unit_test(seek_is_running),
        cmocka_unit_test(epochs_are_permutations),
        cmocka_unit_test(evaluation_in_order),
        cmocka_unit_test(picked_entries),
        cmocka_unit_test(groups),
        cmocka_unit_test(bad_items),
        cmocka_unit_test(steady_state),
        cmocka_unit_test(every_file_once),
        cmocka_unit_test(bad_settings),
        cmocka_unit_test(rows_are_rounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
