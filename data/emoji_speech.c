/* Speech: espeak-ng is run as a program, one process a clip (11,000 of them: starting it is half the cost, see
 * small_voices), resampled with soxr and written as FLAC with libsndfile. */
#include "data/emoji_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <sndfile.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"
#include "data/audio.h"

enum { RATE = 16000, MAX_WAV = 64 << 20 };
#define PROGRAM "espeak-ng"

static const char *const train_voices[] = {"en-us+m1",          "en-us+f1", "en-gb+m3",  "en-gb+f2",
                                           "en-gb-scotland+m4", "en-us+f3", "en-029+m2", "en-gb-x-rp+f4"};
static const char *const held_voices[] = {"en-us+m7", "en-gb+f5", "en-gb-scotland+f1", "en-us+croak"};

struct speech {
    char *dir;   /* the small data folder, or NULL */
    char *where; /* its --path argument, or NULL */
    char *version;
    char *path_env, *data_env;
};

struct speech_plan speech_plan(uint64_t hash, int k, int voices)
{
    const char *voice = k < voices ? train_voices[(hash + (uint64_t)k) % 8] : held_voices[hash % 4];
    return (struct speech_plan){voice, 140 + (int)((hash >> (8 + 3 * k)) % 50),
                                30 + (int)((hash >> (20 + 3 * k)) % 40)};
}

/* Runs the program and gathers what it writes. Its environment is ours alone, so that no locale changes a
 * pronunciation. */
static int run(const struct speech *s, const char *const *args, struct buf *out, struct err *e)
{
    int fd[2];
    if (pipe2(fd, O_CLOEXEC) < 0) return err_errno(e, "cannot make a pipe for " PROGRAM);
    posix_spawn_file_actions_t act;
    posix_spawn_file_actions_init(&act);
    posix_spawn_file_actions_addopen(&act, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&act, fd[1], 1);
    posix_spawn_file_actions_addopen(&act, 2, "/dev/null", O_WRONLY, 0);
    char *env[] = {"LC_ALL=C.UTF-8", s->path_env, s->data_env, NULL};
    pid_t pid;
    int rc = 0, failed = posix_spawnp(&pid, PROGRAM, &act, NULL, (char *const *)args, env);
    posix_spawn_file_actions_destroy(&act);
    close(fd[1]);
    if (failed) {
        close(fd[0]);
        errno = failed;
        return failed == ENOENT ? err_set(e, ERR_IO, PROGRAM ": not found; install it: apt-get install espeak-ng")
                                : err_errno(e, PROGRAM ": cannot be run");
    }
    char chunk[65536];
    for (ssize_t n; (n = read(fd[0], chunk, sizeof chunk)) != 0;) {
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 || out->len > MAX_WAV) {
            rc = err_set(e, ERR_IO, PROGRAM ": its output cannot be read, or is too long");
            break;
        }
        buf_add(out, chunk, (size_t)n);
    }
    close(fd[0]);
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
    if (!rc && (!WIFEXITED(status) || WEXITSTATUS(status)))
        rc = err_set(e, ERR_IO, PROGRAM " failed (%s %d)", WIFEXITED(status) ? "exit status" : "signal",
                     WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
    return rc;
}

static uint32_t le32(const char *p)
{
    const uint8_t *u = (const uint8_t *)p;
    return (uint32_t)u[0] | (uint32_t)u[1] << 8 | (uint32_t)u[2] << 16 | (uint32_t)u[3] << 24;
}

/* Written to a pipe, the header's sizes are not known to espeak-ng: the samples go to the end. */
static int parse_wav(const struct buf *b, int16_t **samples, int64_t *n, int *rate, struct err *e)
{
    if (b->len < 44 || memcmp(b->data, "RIFF", 4) || memcmp(b->data + 8, "WAVEfmt ", 8) || b->data[22] != 1 ||
        b->data[34] != 16 || memcmp(b->data + 36, "data", 4))
        return err_set(e, ERR_FORMAT, PROGRAM " wrote %zu bytes that are no 16-bit mono WAV", b->len);
    *rate = (int)le32(b->data + 24);
    *n = (int64_t)(b->len - 44) / 2;
    if (*n == 0 || *rate < 8000 || *rate > 96000)
        return err_set(e, ERR_FORMAT, PROGRAM " wrote %lld samples at %d Hz", (long long)*n, *rate);
    *samples = mem_alloc((size_t)*n * sizeof **samples);
    memcpy(*samples, b->data + 44, (size_t)*n * sizeof **samples);
    return 0;
}

int speech_say(const struct speech *s, const char *voice, int speed, int pitch, const char *text, int16_t **samples,
               int64_t *n, int *rate, struct err *e)
{
    char words[12], tone[12];
    snprintf(words, sizeof words, "%d", speed);
    snprintf(tone, sizeof tone, "%d", pitch);
    const char *args[12];
    int k = 0;
    args[k++] = PROGRAM;
    if (s->where) args[k++] = s->where;
    const char *const rest[] = {"-v", voice, "-s", words, "-p", tone, "--stdout", "--", text, NULL};
    memcpy(args + k, rest, sizeof rest);
    struct buf wav = {0};
    *samples = NULL;
    int rc = run(s, args, &wav, e);
    if (!rc) rc = parse_wav(&wav, samples, n, rate, e);
    buf_free(&wav);
    if (rc) err_append(e, "; try: " PROGRAM " -v %s -s %d -p %d \"%s\"", voice, speed, pitch, text);
    return rc;
}

static int link_into(const char *from, const char *dir, const char *name)
{
    char *a = mem_printf("%s/%s", from, name), *b = mem_printf("%s/espeak-ng-data/%s", dir, name);
    int rc = file_exists(a) ? symlink(a, b) : -1;
    free(a);
    free(b);
    return rc;
}

/* At every start espeak-ng reads all of its 320 voice files to find one by name. A folder of links to the English ones
 * alone saves a quarter of the time. Used only if the sound is the same, byte for byte. */
static bool small_voices(struct speech *s, const char *data)
{
    struct err quiet = {0};
    char *lang = mem_printf("%s/espeak-ng-data/lang/gmw", s->dir),
         *voices = mem_printf("%s/espeak-ng-data/voices/!v", s->dir);
    bool good = !file_mkdirs(lang, &quiet) && !file_mkdirs(voices, &quiet);
    free(lang);
    free(voices);
    static const char *const names[] = {"phontab",
                                        "phonindex",
                                        "phondata",
                                        "intonations",
                                        "en_dict",
                                        "lang/gmw/en",
                                        "lang/gmw/en-029",
                                        "lang/gmw/en-GB-scotland",
                                        "lang/gmw/en-GB-x-rp",
                                        "lang/gmw/en-US"};
    for (size_t i = 0; good && i < sizeof names / sizeof *names; i++) good = !link_into(data, s->dir, names[i]);
    for (int i = 0; good && i < 12; i++) {
        const char *voice = i < 8 ? train_voices[i] : held_voices[i - 8];
        char *name = mem_printf("voices/!v/%s", strchr(voice, '+') + 1);
        char *there = mem_printf("%s/espeak-ng-data/%s", s->dir, name);
        good = file_exists(there) || !link_into(data, s->dir, name);
        free(there);
        free(name);
    }
    for (int i = 0; good && i < 12; i++) {
        const char *voice = i < 8 ? train_voices[i] : held_voices[i - 8];
        int16_t *sound[2] = {NULL, NULL};
        int64_t n[2] = {0, 0};
        int rate[2];
        for (int k = 0; k < 2 && good; k++) {
            struct speech one = *s;
            if (k == 0) one.where = NULL;
            good = !speech_say(&one, voice, 150, 40, "1st place: face", &sound[k], &n[k], &rate[k], &quiet);
        }
        good = good && n[0] == n[1] && rate[0] == rate[1] && !memcmp(sound[0], sound[1], (size_t)n[0] * 2);
        free(sound[0]);
        free(sound[1]);
    }
    return good;
}

/* "eSpeak NG text-to-speech: 1.51  Data at: /usr/lib/.../espeak-ng-data" */
static int ask_version(struct speech *s, struct err *e)
{
    const char *const args[] = {PROGRAM, "--version", NULL};
    struct buf b = {0};
    int rc = run(s, args, &b, e);
    if (!rc) {
        buf_str(&b, "");
        s->version = mem_strndup(b.data, strcspn(b.data, "\n"));
    }
    buf_free(&b);
    return rc;
}

struct speech *speech_open(const char *dir, struct err *e)
{
    struct speech *s = mem_zero(1, sizeof *s);
    struct err quiet = {0};
    const char *path = getenv("PATH"), *data = getenv("ESPEAK_DATA_PATH");
    s->path_env = mem_printf("PATH=%s", path ? path : "/usr/local/bin:/usr/bin:/bin");
    if (data) s->data_env = mem_printf("ESPEAK_DATA_PATH=%s", data);
    if (ask_version(s, e)) {
        speech_close(s);
        return NULL;
    }
    const char *at = strstr(s->version, "Data at: ");
    if (!dir || !at || file_remove_tree(dir, &quiet)) return s; /* as good, only slower */
    s->dir = mem_strdup(dir);
    s->where = mem_printf("--path=%s", dir);
    if (!small_voices(s, at + 9)) {
        free(s->where);
        s->where = NULL;
    }
    return s;
}

void speech_close(struct speech *s)
{
    if (!s) return;
    struct err quiet = {0};
    if (s->dir && file_remove_tree(s->dir, &quiet)) err_clear(&quiet); /* a few links are left */
    free(s->dir);
    free(s->where);
    free(s->version);
    free(s->path_env);
    free(s->data_env);
    free(s);
}

const char *speech_version(const struct speech *s)
{
    return s->version;
}

/* libsndfile's virtual files. */
struct memory {
    struct buf b;
    sf_count_t at;
};
static sf_count_t mem_length(void *p)
{
    return (sf_count_t)((struct memory *)p)->b.len;
}
static sf_count_t mem_tell(void *p)
{
    return ((struct memory *)p)->at;
}
static sf_count_t mem_seek(sf_count_t to, int whence, void *p)
{
    struct memory *m = p;
    return m->at = to + (whence == SEEK_CUR ? m->at : whence == SEEK_END ? (sf_count_t)m->b.len : 0);
}
static sf_count_t mem_read(void *data, sf_count_t n, void *p)
{
    struct memory *m = p;
    sf_count_t left = (sf_count_t)m->b.len - m->at;
    if (n > left) n = left;
    memcpy(data, m->b.data + m->at, (size_t)n);
    m->at += n;
    return n;
}
static sf_count_t mem_write(const void *data, sf_count_t n, void *p)
{
    struct memory *m = p;
    size_t old = m->b.len - (size_t)m->at, over = (size_t)n < old ? (size_t)n : old; /* the header is written twice */
    if (over) memcpy(m->b.data + m->at, data, over);
    buf_add(&m->b, (const char *)data + over, (size_t)n - over);
    m->at += n;
    return n;
}

/* 16-bit FLAC of all clips twice (in their folder and in the pack) would take 850 MB. So samples are rounded to
 * multiples of 512: FLAC then stores 7 bits, 110 MB, with an even noise 30 dB under the speech. Ogg Vorbis of that size
 * is no closer in log-mel terms and takes ten times as long to write and twice as long to read. */
static int write_flac(const float *x, int64_t n, struct buf *out, struct err *e)
{
    enum { STEP = 512 };
    int16_t *y = mem_alloc((size_t)n * sizeof *y);
    for (int64_t i = 0; i < n; i++) {
        long v = lrintf(x[i] * (32768.0f / STEP)) * STEP;
        y[i] = (int16_t)(v > 32767 ? 32768 - STEP : v < -32768 ? -32768 : v);
    }
    SF_VIRTUAL_IO io = {mem_length, mem_seek, mem_read, mem_write, mem_tell};
    SF_INFO info = {.samplerate = RATE, .channels = 1, .format = SF_FORMAT_FLAC | SF_FORMAT_PCM_16};
    struct memory m = {0};
    SNDFILE *f = sf_open_virtual(&io, SFM_WRITE, &info, &m);
    double level = 1.0; /* the smallest */
    sf_count_t wrote = 0;
    if (f) {
        sf_command(f, SFC_SET_COMPRESSION_LEVEL, &level, sizeof level);
        wrote = sf_writef_short(f, y, n);
        if (sf_close(f)) wrote = -1;
    }
    free(y);
    if (wrote != n) {
        buf_free(&m.b);
        return err_set(e, ERR_IO, "libsndfile cannot write FLAC: %s", f ? "wrong count" : sf_strerror(NULL));
    }
    *out = m.b;
    return 0;
}

int speech_encode(const int16_t *samples, int64_t n, int rate, struct buf *flac, struct err *e)
{
    float *x = mem_alloc((size_t)n * sizeof *x), *y = NULL;
    for (int64_t i = 0; i < n; i++) x[i] = samples[i] * (1.0f / 32768);
    int64_t made;
    int rc = data_audio_resample(x, n, rate, RATE, &y, &made, e);
    if (!rc) rc = write_flac(y, made, flac, e);
    free(x);
    free(y);
    return rc;
}
