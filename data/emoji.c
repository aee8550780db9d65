/* Builds the emoji data set: threads take emoji one after another, draw the picture and have the clips spoken; the
 * manifest and the pack follow. What is on disk under its final name is whole, so an interrupted run goes on from
 * there. */
#include "data/emoji.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/log.h"
#include "base/rng.h"
#include "base/text.h"
#include "base/threads.h"
#include "data/emoji_parts.h"
#include "data/pack.h"

enum { VERSION = 1, MAX_JOBS = 256 }; /* a new version makes all old folders anew */
#define STAMP ".triad-emoji"

struct build {
    const char *out;
    int size, voices;
    struct emoji_list list;
    struct speech *speech;
    atomic_llong next;
    atomic_bool stop;
    pthread_mutex_t lock; /* of what follows */
    int64_t done;         /* emoji finished */
    struct progress *bar;
    struct err first;
};

static char *clip_name(const struct emoji *m, int k)
{
    return mem_printf("audio/%s.%d.flac", m->id, k);
}
static char *image_name(const struct emoji *m)
{
    return mem_printf("image/%s.png", m->id);
}

/* Whole or not at all, but not synced: thousands of syncs would take longer than the work. One comes before the stamp.
 */
static int put(const char *path, const void *data, size_t len, struct err *e)
{
    char *aside = mem_printf("%s.tmp", path);
    int fd = open(aside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    bool good = fd >= 0;
    for (size_t at = 0; good && at < len;) {
        ssize_t n = write(fd, (const char *)data + at, len - at);
        if (n < 0 && errno == EINTR) continue;
        good = n > 0;
        if (good) at += (size_t)n;
    }
    if (fd >= 0 && close(fd) < 0) good = false;
    good = good && rename(aside, path) == 0;
    int rc = good ? 0 : err_errno(e, "%s: cannot write", path);
    if (!good) unlink(aside);
    free(aside);
    return rc;
}

/* Makes the picture unless it is there. */
static int make_image(struct build *b, struct emoji_font **font, const struct emoji *m, struct err *e)
{
    char *name = image_name(m), *path = file_join(b->out, name);
    int rc = 0;
    if (file_size(path) <= 0) {
        struct buf png = {0};
        if (!*font) *font = emoji_font_open(EMOJI_FONT, e);
        rc = *font ? emoji_picture(*font, m->text, b->size, &png, e) : e->code;
        if (!rc) rc = put(path, png.data, png.len, e);
        buf_free(&png);
    }
    free(name);
    free(path);
    return rc;
}

static int make_clip(struct build *b, const struct emoji *m, int k, struct err *e)
{
    char *name = clip_name(m, k), *path = file_join(b->out, name);
    int rc = 0;
    if (file_size(path) <= 0) {
        struct speech_plan p = speech_plan(m->hash, k, b->voices);
        struct buf flac = {0};
        int16_t *samples = NULL;
        int64_t n;
        int rate;
        rc = speech_say(b->speech, p.voice, p.speed, p.pitch, m->caption[0], &samples, &n, &rate, e);
        if (!rc) rc = speech_encode(samples, n, rate, &flac, e);
        if (!rc) rc = put(path, flac.data, flac.len, e);
        free(samples);
        buf_free(&flac);
    }
    free(name);
    free(path);
    return rc;
}

static void *work(void *ctx)
{
    struct build *b = ctx;
    struct emoji_font *font = NULL;
    struct err e = {0};
    while (!b->stop) {
        int64_t i = b->next++;
        if (i >= b->list.n) break;
        const struct emoji *m = &b->list.item[i];
        int rc = make_image(b, &font, m, &e);
        for (int k = 0; !rc && k <= b->voices; k++) rc = make_clip(b, m, k, &e);
        pthread_mutex_lock(&b->lock);
        if (rc) {
            if (!b->first.code) b->first = e;
            b->stop = true;
        } else
            progress_update(b->bar, ++b->done, NULL);
        pthread_mutex_unlock(&b->lock);
    }
    emoji_font_close(font);
    return NULL;
}

static int make_files(struct build *b, int jobs, struct err *e)
{
    pthread_t thread[MAX_JOBS];
    int n = 0;
    b->bar = progress_new("emoji", b->list.n, "emoji", 10);
    while (n < jobs && pthread_create(&thread[n], NULL, work, b) == 0) n++;
    if (n == 0) work(b);
    for (int i = 0; i < n; i++) pthread_join(thread[i], NULL);
    progress_end(b->bar, NULL);
    if (!b->first.code) return 0;
    return err_set(e, b->first.code, "%s", b->first.msg);
}

/* The manifest's lines, as Python's json.dumps spaces them. */
static void manifest_text(const struct build *b, struct buf *t)
{
    for (int64_t i = 0; i < b->list.n; i++) {
        const struct emoji *m = &b->list.item[i];
        buf_printf(t, "{\"id\": \"%s\", \"emoji\": ", m->id);
        buf_json(t, m->text);
        buf_printf(t, ", \"split\": \"%s\", \"image\": \"image/%s.png\", \"text\": [", m->split, m->id);
        for (int k = 0; k < m->n_captions; k++) {
            if (k) buf_str(t, ", ");
            buf_json(t, m->caption[k]);
        }
        buf_str(t, "], \"audio\": [");
        for (int k = 0; k <= b->voices; k++) {
            char *name = clip_name(m, k);
            buf_printf(t, "%s{\"file\": \"%s\", \"voice\": \"%s\", \"split\": \"%s\"}", k ? ", " : "", name,
                       speech_plan(m->hash, k, b->voices).voice, k < b->voices ? "train" : "voices");
            free(name);
        }
        buf_str(t, "], \"base\": ");
        buf_json(t, m->base);
        buf_printf(t, ", \"tones\": %d}\n", m->tones);
    }
}

/* What the folder's content follows from: options, the packages' files, and this file's version. */
static char *make_key(const struct build *b, struct err *e)
{
    char *font = NULL;
    size_t len = 0;
    if (!file_exists(EMOJI_FONT)) {
        err_set(e, ERR_IO, "%s: not found; install it: apt-get install fonts-noto-color-emoji", EMOJI_FONT);
        return NULL;
    }
    if (file_read(EMOJI_FONT, (size_t)256 << 20, &font, &len, e)) return NULL;
    uint64_t h = hash_bytes(font, len, b->list.sources);
    struct buf t = {0};
    manifest_text(b, &t);
    h = hash_bytes(t.data, t.len, h);
    char *key = mem_printf("triad data emoji, version %d: size %d, voices %d, %lld emoji, %s, sources %016llx", VERSION,
                           b->size, b->voices, (long long)b->list.n, speech_version(b->speech), (unsigned long long)h);
    buf_free(&t);
    free(font);
    return key;
}

static bool all_there(const struct build *b)
{
    bool good = true;
    for (int64_t i = 0; i < b->list.n && good; i++)
        for (int k = -1; k <= b->voices && good; k++) {
            char *name = k < 0 ? image_name(&b->list.item[i]) : clip_name(&b->list.item[i], k);
            char *path = file_join(b->out, name);
            good = file_size(path) > 0;
            free(name);
            free(path);
        }
    return good;
}

/* The stamp holds the key, and a second line "done" once all is written. */
static int write_stamp(const struct build *b, const char *key, bool done, struct err *e)
{
    char *path = file_join(b->out, STAMP), *text = mem_printf("%s\n%s", key, done ? "done\n" : "");
    int rc = file_write(path, text, strlen(text), e);
    free(path);
    free(text);
    return rc;
}

static int remove_old(const struct build *b, struct err *e)
{
    static const char *const names[] = {"manifest.jsonl", "emoji.h5", "image", "audio"};
    int rc = 0;
    for (int i = 0; i < 4 && !rc; i++) {
        char *path = file_join(b->out, names[i]);
        rc = file_remove_tree(path, e);
        free(path);
    }
    return rc;
}

/* Compares the stamp with the key: *done where there is nothing to do; files that another key made are removed. */
static int prepare(struct build *b, const char *key, bool *done, struct err *e)
{
    char *stamp = file_join(b->out, STAMP), *manifest = file_join(b->out, "manifest.jsonl"),
         *pack = file_join(b->out, "emoji.h5");
    char *image = file_join(b->out, "image"), *audio = file_join(b->out, "audio"), *old = NULL;
    size_t len;
    int rc = 0;
    *done = false;
    bool ours = file_exists(stamp);
    if (ours)
        rc = file_read(stamp, 65536, &old, &len, e);
    else if (file_exists(manifest))
        rc = err_set(e, ERR_STATE, "%s is there already and was not made by 'triad data emoji': name another folder",
                     manifest);
    if (!rc && ours) {
        size_t n = strlen(key);
        bool same = !strncmp(old, key, n) && old[n] == '\n';
        *done =
            same && !strcmp(old + n + 1, "done\n") && file_size(manifest) > 0 && file_size(pack) > 0 && all_there(b);
        if (!same) {
            log_info("%s was made with other options or packages; making it anew", b->out);
            rc = remove_old(b, e);
        }
    }
    if (!rc && !*done) rc = file_mkdirs(image, e);
    if (!rc && !*done) rc = file_mkdirs(audio, e);
    if (!rc && !*done) rc = write_stamp(b, key, false, e);
    free(stamp);
    free(manifest);
    free(pack);
    free(image);
    free(audio);
    free(old);
    return rc;
}

static int sync_disk(const char *dir, struct err *e)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 || syncfs(fd) < 0 ? err_errno(e, "%s: cannot sync", dir) : 0;
    if (fd >= 0) close(fd);
    return rc;
}

static int finish(struct build *b, const char *key, struct err *e)
{
    char *manifest = file_join(b->out, "manifest.jsonl"), *pack = file_join(b->out, "emoji.h5");
    struct buf t = {0};
    manifest_text(b, &t);
    int rc = file_write(manifest, t.data, t.len, e);
    if (!rc) rc = data_pack(manifest, pack, e);
    if (!rc) rc = sync_disk(b->out, e);
    if (!rc) rc = write_stamp(b, key, true, e);
    buf_free(&t);
    free(manifest);
    free(pack);
    return rc;
}

static void say_done(const struct build *b, bool was_there, double seconds)
{
    int64_t train = 0, compositions = 0;
    for (int64_t i = 0; i < b->list.n; i++) {
        train += !strcmp(b->list.item[i].split, "train");
        compositions += !strcmp(b->list.item[i].split, "compositions");
    }
    char all[32], n[32], time[32];
    text_count(all, sizeof all, b->list.n);
    text_count(n, sizeof n, train);
    text_clock(time, sizeof time, seconds);
    log_info("%s/manifest.jsonl: %s emoji (%s train, %lld compositions, %lld concepts), %d clips each%s%s", b->out, all,
             n, (long long)compositions, (long long)(b->list.n - train - compositions), b->voices + 1,
             was_there ? ", complete: nothing to do" : "; made in ", was_there ? "" : time);
}

static int build(struct build *b, const struct data_emoji_opts *o, struct err *e)
{
    double start = time_now();
    int rc = emoji_list_load(o->languages, o->limit, &b->list, e);
    if (rc) return rc;
    char *voices = file_join(b->out, ".voices");
    b->speech = speech_open(voices, e);
    free(voices);
    if (!b->speech) return e->code;
    char *key = make_key(b, e);
    if (!key) return e->code;
    bool done;
    cpu_set_t cores;
    int jobs = o->jobs;
    if (jobs == 0) jobs = sched_getaffinity(0, sizeof cores, &cores) ? 1 : CPU_COUNT(&cores);
    if (jobs > MAX_JOBS) jobs = MAX_JOBS;
    rc = prepare(b, key, &done, e);
    if (!rc && !done) rc = make_files(b, jobs, e);
    if (!rc && !done) rc = finish(b, key, e);
    if (!rc) say_done(b, done, time_now() - start);
    free(key);
    return rc;
}

int data_emoji(const struct data_emoji_opts *o, struct err *e)
{
    struct err own = {0};
    if (!e) e = &own;
    struct build b = {.out = o->out, .size = o->size ? o->size : 64, .voices = o->voices ? o->voices : 2};
    if (b.size < 8 || b.size > 1024)
        return err_set(e, ERR_CONFIG, "--size should be 8 to 1024 pixels, but is %d", b.size);
    if (b.voices < 1 || b.voices > 8)
        return err_set(e, ERR_CONFIG, "--voices-per-emoji should be 1 to 8, but is %d", b.voices);
    if (o->jobs < 0 || o->jobs > MAX_JOBS)
        return err_set(e, ERR_CONFIG, "--jobs should be 1 to %d, but is %d", MAX_JOBS, o->jobs);
    if (o->limit < 0)
        return err_set(e, ERR_CONFIG, "the number of emoji should be positive, but is %lld", (long long)o->limit);
    pthread_mutex_init(&b.lock, NULL);
    char *lock = file_join(b.out, ".lock");
    int rc = file_mkdirs(b.out, e), fd = rc ? -1 : file_lock(lock, e);
    if (!rc && fd < 0) rc = err_append(e, " (another 'triad data emoji' fills this folder)");
    if (!rc) rc = build(&b, o, e);
    if (fd >= 0) file_unlock(fd);
    speech_close(b.speech);
    emoji_list_free(&b.list);
    pthread_mutex_destroy(&b.lock);
    free(lock);
    return rc;
}
