/* Batches filled up to a budget of tokens or seconds: they fit, nothing more would have fitted, and which items they have
 * follows from seed and epoch alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "data/audio.h"
#include "data/loader.h"
#include "data/pack.h"
#include "tests/support/temp_dir.h"

enum { N = 150, RATE = 8000, MOST = 40, LONGEST = 60 };

static struct temp_dir dir;
static struct tokenizer *tok;
static struct manifest files, packed;

static const char *path_of(const char *name)
{
    static char path[300];
    snprintf(path, sizeof path, "%s/%s", dir.path, name);
    return path;
}

static void put(const char *name, const void *data, size_t len)
{
    FILE *f = fopen(path_of(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
}

/* Item i has up to three captions of many lengths and two clips of 0.1 to 0.6 s; every fifth no text, every seventh no
 * sound. */
static int begin(void **state)
{
    struct buf b = {0}, wav = {0};
    struct err e = {0};
    temp_dir_begin(&dir);
    float *x = mem_zero(RATE, sizeof *x);
    for (int i = 0; i < N; i++) {
        buf_printf(&b, "{\"id\": \"%d\", \"note\": \"n%d\"", i, i);
        if (i % 5) {
            buf_printf(&b, ", \"text\": [\"number %d\"", i);
            for (int k = 0; k < i % 3; k++) {
                buf_str(&b, ", \"");
                for (int j = 0; j < 1 + (i * 7 + k * 5) % 23; j++) buf_printf(&b, "word%d ", (i + j) % 10);
                buf_str(&b, "\"");
            }
            buf_str(&b, "]");
        }
        if (i % 7) {
            buf_printf(&b, ", \"audio\": [\"%d.0.wav\", \"%d.1.wav\"]", i, i);
            for (int k = 0; k < 2; k++) {
                char name[32];
                buf_free(&wav);
                assert_int_equal(data_audio_wav(x, 800 + 27 * ((i * 11 + k * 40) % N), i % 2 ? RATE : 11025, &wav, &e),
                                 0);
                snprintf(name, sizeof name, "%d.%d.wav", i, k);
                put(name, wav.data, wav.len);
            }
        }
        buf_str(&b, "}\n");
    }
    put("manifest.jsonl", b.data, b.len);
    buf_free(&b);
    buf_free(&wav);
    free(x);
    assert_int_equal(manifest_load(path_of("manifest.jsonl"), &files, &e), 0);
    char *from = mem_strdup(path_of("manifest.jsonl"));
    assert_int_equal(data_pack(from, path_of("data.h5"), &e), 0);
    free(from);
    assert_int_equal(manifest_load(path_of("data.h5"), &packed, &e), 0);
    const char *texts[] = {"number", "word0 word1 word2 word3 word4 word5 word6 word7 word8 word9"};
    const struct tok_train_options o = {.vocab_size = 290, .min_frequency = 1};
    return tok_train_bpe(texts, 2, &o, &tok, &e);
}

static int end(void **state)
{
    manifest_free(&files);
    manifest_free(&packed);
    tok_free(tok);
    temp_dir_end(&dir);
    return 0;
}

struct setup {
    struct data_modality m[3];
    struct data_loader_config c;
    int64_t items[N];
};

static void setup(struct setup *s, enum data_batch_by by, double budget)
{
    *s = (struct setup){0};
    s->m[0] = (struct data_modality){
        .name = "text", .kind = DATA_TEXT, .tokenizer = tok, .max_tokens = LONGEST, .round_rows = 16};
    s->m[1] = (struct data_modality){.name = "sound",
                                     .field = "audio",
                                     .kind = DATA_AUDIO,
                                     .logmel = data_logmel_default(),
                                     .max_seconds = 0.5,
                                     .round_rows = 32};
    s->m[1].logmel.rate = RATE;
    s->m[1].logmel.fft = 256;
    s->m[1].logmel.bins = 8;
    s->m[1].logmel.high = 4000;
    s->m[2] = (struct data_modality){
        .name = "note", .kind = DATA_TEXT, .tokenizer = tok, .max_tokens = LONGEST, .round_rows = 16};
    for (int i = 0; i < N; i++) s->items[i] = i;
    s->c = (struct data_loader_config){.manifest = &files,
                                       .items = s->items,
                                       .n_items = N,
                                       .modality = s->m,
                                       .n_modalities = 3,
                                       .batch = MOST,
                                       .by = by,
                                       .budget = budget,
                                       .budget_of = by == DATA_BY_SECONDS,
                                       .seed = 5};
}

static struct data_loader *open_loader(const struct setup *s)
{
    struct data_loader *l;
    struct err e = {0};
    if (data_loader_new(&s->c, &l, &e)) fail_msg("%s", e.msg);
    return l;
}

/* What is kept of a batch: which items and what they were. */
struct seen {
    int64_t epoch, index, size, sample[MOST], rows[3];
    double used; /* of the budget */
    double each[MOST];
};

static struct seen take(const struct setup *s, struct data_loader *l)
{
    struct data_batch *b;
    struct err e = {0};
    if (data_loader_next(l, &b, &e)) fail_msg("%s", e.msg);
    struct seen r = {.epoch = b->epoch, .index = b->index, .size = b->size};
    assert_in_range(b->size, 1, MOST);
    memcpy(r.sample, b->sample, (size_t)b->size * sizeof *b->sample);
    for (int i = 0; i < 3; i++) r.rows[i] = b->part[i].rows;
    const struct data_part *p = &b->part[s->c.budget_of];
    for (int64_t i = 0; i < b->size; i++) {
        int32_t k = p->row[i];
        if (k < 0) continue;
        double n = p->offsets[k + 1] - p->offsets[k];
        /* frames are 1 + samples / hop, of the clip resampled: seconds to within a hop */
        r.each[i] = s->c.by == DATA_BY_SECONDS ? (n - 0.5) * s->m[1].logmel.hop_s : n;
        r.used += r.each[i];
    }
    data_loader_release(l, b);
    return r;
}

enum { BATCHES = 100 };

static void take_all(const struct setup *s, struct seen *r)
{
    struct data_loader *l = open_loader(s);
    for (int i = 0; i < BATCHES; i++) r[i] = take(s, l);
    data_loader_free(l);
}

/* Tokens to the token, seconds to a hop an item; no batch could have taken the next one but for the rounding. */
static void check_fill(const struct setup *s, const struct seen *r)
{
    double slack = s->c.by == DATA_BY_SECONDS ? s->m[1].logmel.hop_s : 0;
    int short_batches = 0;
    bool met[N] = {0};
    for (int i = 0; i + 1 < BATCHES; i++) {
        assert_true(r[i].used <= s->c.budget + slack * (double)r[i].size);
        bool last = r[i + 1].epoch != r[i].epoch;
        assert_int_equal(r[i + 1].index, last ? 0 : r[i].index + 1);
        if (r[i].index == 0) memset(met, 0, sizeof met);
        for (int64_t k = 0; k < r[i].size; k++) {
            assert_false(met[r[i].sample[k]]); /* once an epoch */
            met[r[i].sample[k]] = true;
        }
        assert_true(r[i].size == MOST || data_round_items(r[i].size) == r[i].size);
        if (last || r[i].size == MOST) continue;
        /* as many of the next batch's items as rounding may have left over, and one more */
        double sum = r[i].used;
        int64_t more = 1;
        while (data_round_items(r[i].size + more) != r[i].size + more) more++;
        for (int64_t k = 0; k < more && k < r[i + 1].size; k++) sum += r[i + 1].each[k];
        assert_true(sum > s->c.budget - slack * (double)(r[i].size + more));
        short_batches++;
    }
    assert_true(short_batches > BATCHES / 2);
    assert_true(r[BATCHES - 1].epoch > 2);
}

static void batches_fill_the_budget(void **state)
{
    static const double budgets[2][2] = {{150, 420}, {1.5, 6}};
    static struct seen r[BATCHES], again[BATCHES];
    for (int by = DATA_BY_TOKENS; by <= DATA_BY_SECONDS; by++)
        for (int k = 0; k < 2; k++) {
            struct setup s;
            setup(&s, (enum data_batch_by)by, budgets[by - 1][k]);
            take_all(&s, r);
            check_fill(&s, r);
            for (int way = 0; way < 4; way++) { /* threads, a cache, a pack */
                s.c.threads = way;
                s.c.cache = way & 1 ? data_cache_new(1 << 24) : NULL;
                s.c.manifest = way == 3 ? &packed : &files;
                take_all(&s, again);
                data_cache_free(s.c.cache);
                assert_memory_equal(again, r, sizeof r);
            }
            s.c.seed++;
            s.c.threads = 0;
            s.c.manifest = &files;
            s.c.cache = NULL;
            take_all(&s, again);
            assert_memory_not_equal(again, r, sizeof r);
        }
}

/* From any place on, also from behind an epoch's last batch, as a checkpoint after it has it. */
static void seek_is_running(void **state)
{
    static struct seen r[BATCHES];
    struct setup s;
    setup(&s, DATA_BY_TOKENS, 150);
    take_all(&s, r);
    for (int threads = 0; threads < 3; threads += 2) {
        s.c.threads = threads;
        struct data_loader *l = open_loader(&s);
        for (int i = BATCHES - 2; i >= 0; i -= 3) {
            data_loader_seek(l, r[i].epoch, r[i].index + 1);
            struct seen next = take(&s, l);
            assert_memory_equal(&next, &r[i + 1], sizeof next);
        }
        int64_t per_epoch = 0;
        while (r[per_epoch].epoch == 0) per_epoch++;
        assert_int_equal(data_loader_batches(l), per_epoch);
        data_loader_seek(l, 1, 0);
        struct seen next = take(&s, l);
        assert_memory_equal(&next, &r[per_epoch], sizeof next);
        data_loader_free(l);
    }
}

/* A budget that all items fit is one batch of them; train.batch still bounds it. */
static void more_than_all(void **state)
{
    struct setup s;
    setup(&s, DATA_BY_TOKENS, 1e6);
    struct data_loader *l = open_loader(&s);
    assert_int_equal(take(&s, l).size, MOST);
    data_loader_free(l);
    s.c.n_items = 21;
    l = open_loader(&s);
    for (int i = 0; i < 3; i++) {
        struct seen r = take(&s, l);
        assert_int_equal(r.size, 21);
        assert_int_equal(r.epoch, i);
    }
    assert_int_equal(data_loader_batches(l), 1);
    data_loader_free(l);
}

/* An item that is larger than a whole batch is an error that names it, again and again. */
static void too_large(void **state)
{
    struct setup s;
    setup(&s, DATA_BY_TOKENS, 12);
    for (int threads = 0; threads < 2; threads++) {
        s.c.threads = threads;
        struct data_loader *l = open_loader(&s);
        struct data_batch *b = NULL;
        struct err e = {0};
        int taken = 0;
        while (!data_loader_next(l, &b, &e)) {
            data_loader_release(l, b);
            assert_true(taken++ < N);
        }
        assert_int_equal(e.code, ERR_CONFIG);
        assert_non_null(strstr(e.msg, "tokens of 'text', and the budget of a whole batch is 12"));
        err_clear(&e);
        assert_int_equal(data_loader_next(l, &b, &e), ERR_CONFIG);
        assert_true(data_loader_batches(l) >= 1);
        data_loader_free(l);
    }
}

/* Few different sizes, all close to what was asked for. */
static void rounded_items(void **state)
{
    int64_t before = 0;
    int different = 0;
    for (int64_t n = 1; n <= 4096; n++) {
        int64_t r = data_round_items(n);
        assert_true(r <= n && r >= before && n - r < 1 + n / 16 && (n >= 32 || r == n));
        assert_int_equal(data_round_items(r), r);
        different += r != before;
        before = r;
    }
    assert_int_equal(different, 31 + 7 * 16 + 1); /* sixteen a doubling */
}

/* The header's length is what decoding gives, from a folder and from a pack; damage is an error. */
static void seconds_of_headers(void **state)
{
    const struct manifest *sets[] = {&files, &packed};
    for (int k = 0; k < 2; k++)
        for (int i = 1; i < 7; i++) {
            const struct manifest_entry *entry = &manifest_field(&sets[k]->item[i], "audio")->entry[1];
            struct manifest_file f;
            struct data_audio a;
            struct err e = {0};
            char *data;
            size_t len;
            double seconds;
            assert_int_equal(manifest_open(sets[k], entry, &f, &e), 0);
            assert_int_equal(data_audio_seconds("x", f.fd, f.offset, f.length, &seconds, &e), 0);
            assert_int_equal(data_audio_seconds("x", f.fd, f.offset + 7, f.length - 7, &(double){0}, &e), ERR_FORMAT);
            manifest_close(&f);
            assert_int_equal(manifest_bytes(sets[k], entry, &data, &len, &e), 0);
            assert_int_equal(data_audio_decode("x", data, len, 0, 0, &a, &e), 0);
            assert_true(seconds == (double)a.n / (double)a.rate);
            data_audio_free(&a);
            free(data);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batches_fill_the_budget), cmocka_unit_test(seek_is_running),
        cmocka_unit_test(more_than_all),           cmocka_unit_test(too_large),
        cmocka_unit_test(rounded_items),           cmocka_unit_test(seconds_of_headers),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
