/* Decoding by libsndfile through its virtual files, resampling by soxr. The header's count of samples is a hint that
 * allocates nothing: samples are read in pieces into a block that grows. */
#include "data/audio.h"

#include <math.h>
#include <sndfile.h>
#include <soxr.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"

enum { PIECE = 16384 }; /* samples of all channels read at once */

struct source {
    const unsigned char *data; /* NULL: the bytes are `len` of `fd` from `offset` on */
    int fd;
    sf_count_t offset, len, at;
};

static sf_count_t source_len(void *u)
{
    return ((struct source *)u)->len;
}
static sf_count_t source_tell(void *u)
{
    return ((struct source *)u)->at;
}

static sf_count_t source_seek(sf_count_t off, int whence, void *u)
{
    struct source *s = u;
    sf_count_t base = whence == SEEK_SET ? 0 : whence == SEEK_CUR ? s->at : s->len;
    if (off < -base || off > s->len - base) return -1;
    return s->at = base + off;
}

static sf_count_t source_read(void *out, sf_count_t n, void *u)
{
    struct source *s = u;
    if (n > s->len - s->at) n = s->len - s->at;
    if (n <= 0) return 0;
    if (s->data)
        memcpy(out, s->data + s->at, (size_t)n);
    else
        n = pread(s->fd, out, (size_t)n, (off_t)(s->offset + s->at));
    if (n < 0) return 0;
    s->at += n;
    return n;
}

static uint32_t le32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* libsndfile reads a WAV that was cut short without a word, so its chunks are looked through first. True where there is
 * a data chunk: *size gets what it promises (bytes; the size of a stream may be unknown: all ones), *left what follows.
 */
static bool wav_data(const unsigned char *p, size_t len, uint32_t *size, size_t *left)
{
    for (size_t at = 12; at + 8 <= len; at += 8 + (size_t)*size + *size % 2) {
        *size = le32(p + at + 4);
        *left = len - at - 8;
        if (!memcmp(p + at, "data", 4)) return true;
        if (*size > *left) break;
    }
    return false;
}

static int wav_check(const char *name, const unsigned char *p, size_t len, int64_t samples, struct err *e)
{
    uint32_t size = 0;
    size_t left = 0;
    if (len < 12 || memcmp(p, "RIFF", 4) || memcmp(p + 8, "WAVE", 4)) return 0;
    if (wav_data(p, len, &size, &left) && size > left && size < 0xffffff00u)
        return err_set(e, ERR_FORMAT, "%s: truncated WAV: its header promises %u bytes of sound, but only %zu follow",
                       name, size, left);
    if (samples == 0 && !wav_data(p, len, &size, &left))
        return err_set(e, ERR_FORMAT, "%s: truncated or corrupt WAV: it ends before its sound begins", name);
    return 0;
}

static int grow(struct data_audio *a, int64_t *cap, int64_t need, const char *name, struct err *e)
{
    if (need <= *cap) return 0;
    int64_t n = *cap * 2 > need ? *cap * 2 : need;
    float *x = realloc(a->x, (size_t)n * sizeof *x);
    if (!x) return err_set(e, ERR_MEMORY, "%s: not enough memory for %lld samples", name, (long long)n);
    a->x = x;
    *cap = n;
    return 0;
}

static int check_level(const float *x, int64_t n, int channels, int64_t before, const char *name, struct err *e)
{
    int bad = 0;
#pragma omp simd reduction(| : bad)
    for (int64_t i = 0; i < n * channels; i++) bad |= !(fabsf(x[i]) <= DATA_AUDIO_MAX_LEVEL);
    if (!bad) return 0;
    int64_t i = 0;
    while (fabsf(x[i]) <= DATA_AUDIO_MAX_LEVEL) i++;
    return err_set(e, ERR_FORMAT, "%s: sample %lld is %g, but sound lies within -1..1: the file is damaged", name,
                   (long long)(before + i / channels), (double)x[i]);
}

/* Appends n frames of `channels` interleaved samples as their mean. */
static void mix(struct data_audio *a, const float *in, int64_t n, int channels)
{
    float *out = a->x + a->n;
    for (int64_t i = 0; i < n; i++) {
        float sum = 0;
        for (int c = 0; c < channels; c++) sum += in[i * channels + c];
        out[i] = sum / (float)channels;
    }
}

/* Reads at most `want` frames. */
static int read_frames(const char *name, SNDFILE *f, const SF_INFO *info, int64_t want, struct data_audio *a,
                       struct err *e)
{
    int channels = info->channels;
    int64_t cap = 0, piece = PIECE / channels;
    float *several = channels > 1 ? mem_try((size_t)(piece * channels) * sizeof *several, name, e) : NULL;
    if (channels > 1 && !several) return ERR_MEMORY;
    int rc = 0;
    do {
        int64_t n = want - a->n < piece ? want - a->n : piece, left = info->frames - a->n;
        n = left > 0 && left < n ? left : n;
        if ((rc = grow(a, &cap, a->n + (n > 0 ? n : 1), name, e)) != 0) break;
        float *in = several ? several : a->x + a->n; /* one channel needs no mixing */
        n = sf_readf_float(f, in, n);
        if (n <= 0) break;
        if ((a->n + n) * channels > DATA_AUDIO_MAX_SAMPLES)
            rc = err_set(e, ERR_FORMAT, "%s: more than %lld samples; cut it into shorter clips", name,
                         (long long)DATA_AUDIO_MAX_SAMPLES);
        if (!rc) rc = check_level(in, n, channels, a->n, name, e);
        if (!rc && several) mix(a, in, n, channels);
        a->n += rc ? 0 : n;
    } while (!rc && a->n < want);
    free(several);
    if (!rc && sf_error(f) != SF_ERR_NO_ERROR)
        rc = err_set(e, ERR_FORMAT, "%s: corrupt sound after %lld samples: %s", name, (long long)a->n, sf_strerror(f));
    int64_t promised = info->frames < want ? info->frames : want;
    if (!rc && info->frames < SF_COUNT_MAX && a->n < promised)
        rc = err_set(e, ERR_FORMAT, "%s: truncated sound: %lld samples were promised, but it ends after %lld", name,
                     (long long)info->frames, (long long)a->n);
    return rc;
}

/* Reads the header. On error *f is NULL. */
static int open_source(const char *name, struct source *s, SNDFILE **f, SF_INFO *info, struct err *e)
{
    SF_VIRTUAL_IO io = {.get_filelen = source_len, .seek = source_seek, .read = source_read, .tell = source_tell};
    *info = (SF_INFO){0};
    *f = NULL;
    if (s->len == 0) return err_set(e, ERR_FORMAT, "%s: the file is empty; expected WAV, FLAC or OGG", name);
    *f = sf_open_virtual(&io, SFM_READ, info, s);
    if (!*f)
        return err_set(e, ERR_FORMAT, "%s: not sound that can be read (WAV, FLAC, OGG): %s", name,
                       sf_error_number(sf_error(NULL)));
    if (info->samplerate >= 1000 && info->samplerate <= 1000000 && info->channels >= 1 && info->channels <= PIECE)
        return 0;
    sf_close(*f);
    *f = NULL;
    return err_set(e, ERR_FORMAT, "%s: %d samples a second in %d channels is not sound that triad reads", name,
                   info->samplerate, info->channels);
}

int data_audio_seconds(const char *name, int fd, int64_t offset, int64_t length, double *seconds, struct err *e)
{
    struct source s = {.fd = fd, .offset = offset, .len = length};
    SNDFILE *f;
    SF_INFO info;
    *seconds = 0;
    int rc = open_source(name, &s, &f, &info, e);
    if (rc) return rc;
    sf_close(f);
    if (info.frames < 0 || info.frames >= SF_COUNT_MAX)
        return err_set(e, ERR_FORMAT, "%s: its header does not say how long it is", name);
    *seconds = (double)info.frames / info.samplerate;
    return 0;
}

static int decode(const char *name, struct source *s, double max_seconds, struct data_audio *a, struct err *e)
{
    SNDFILE *f;
    SF_INFO info;
    int rc = open_source(name, s, &f, &info, e);
    if (rc) return rc;
    a->rate = info.samplerate;
    /* A little more than asked for, so that the resampling filter sees what follows and the end is as in the whole. */
    double frames = max_seconds > 0 ? (max_seconds + 0.1) * info.samplerate : 0;
    int64_t want = frames > 0 && frames < 1e15 ? (int64_t)frames : INT64_MAX;
    rc = read_frames(name, f, &info, want, a, e);
    sf_close(f);
    return rc;
}

int data_audio_decode(const char *name, const void *data, size_t len, int64_t rate, double max_seconds,
                      struct data_audio *a, struct err *e)
{
    struct source s = {.data = data, .len = (sf_count_t)len};
    *a = (struct data_audio){0};
    int rc = decode(name, &s, max_seconds, a, e);
    if (!rc) rc = wav_check(name, data, len, a->n, e);
    if (!rc && rate > 0 && rate != a->rate && a->n > 0) {
        float *y = NULL;
        int64_t n = 0;
        if ((double)a->n * (double)rate / (double)a->rate > (double)DATA_AUDIO_MAX_SAMPLES)
            rc = err_set(e, ERR_FORMAT, "%s: at %lld Hz it has more than %lld samples; cut it into shorter clips", name,
                         (long long)rate, (long long)DATA_AUDIO_MAX_SAMPLES);
        else if ((rc = data_audio_resample(a->x, a->n, (double)a->rate, (double)rate, &y, &n, e)) != 0)
            err_prefix(e, "%s", name);
        free(a->x);
        a->x = y;
        a->n = n;
    }
    if (rc) {
        data_audio_free(a);
        return rc;
    }
    if (rate > 0) a->rate = rate;
    double most = max_seconds * (double)a->rate;
    if (max_seconds > 0 && (double)a->n > most) a->n = (int64_t)most;
    return 0;
}

void data_audio_free(struct data_audio *a)
{
    free(a->x);
    *a = (struct data_audio){0};
}

int data_audio_resample(const float *x, int64_t n, double from, double to, float **out, int64_t *n_out, struct err *e)
{
    CHECK(n >= 0 && from > 0 && to > 0);
    size_t room = (size_t)((double)n * to / from) + 1, done = 0;
    *n_out = 0;
    *out = mem_try(room * sizeof **out, "resampling sound", e);
    if (!*out) return ERR_MEMORY;
    if (n == 0) return 0;
    soxr_quality_spec_t q = soxr_quality_spec(SOXR_HQ, 0);
    soxr_runtime_spec_t one = soxr_runtime_spec(1);
    soxr_error_t why = soxr_oneshot(from, to, 1, x, (size_t)n, NULL, *out, room, &done, NULL, &q, &one);
    if (why) {
        free(*out);
        *out = NULL;
        return err_set(e, ERR_MEMORY, "resampling from %g to %g Hz failed: %s", from, to, why);
    }
    *n_out = (int64_t)done;
    return 0;
}

/* 44 bytes of header and 16-bit samples: too little to need a library's virtual file for writing. */
int data_audio_wav(const float *x, int64_t n, int64_t rate, struct buf *out, struct err *e)
{
    if (n < 0 || n > DATA_AUDIO_MAX_SAMPLES || rate < 1 || rate > 1000000)
        return err_set(e, ERR_SHAPE, "a WAV of %lld samples at %lld Hz cannot be written", (long long)n,
                       (long long)rate);
    uint32_t bytes = (uint32_t)n * 2, r = (uint32_t)rate, twice = r * 2, all = bytes + 36;
#define LE(v) (unsigned char)(v), (unsigned char)((v) >> 8), (unsigned char)((v) >> 16), (unsigned char)((v) >> 24)
    unsigned char head[44] = {'R',       'I', 'F', 'F', LE(all), 'W', 'A', 'V', 'E', 'f',      'm',
                              't',       ' ', 16,  0,   0,       0,   1,   0,   1,   0,        LE(r),
                              LE(twice), 2,   0,   16,  0,       'd', 'a', 't', 'a', LE(bytes)};
#undef LE
    buf_add(out, head, sizeof head);
    for (int64_t i = 0; i < n; i++) {
        float v = x[i] * 32768.0f;
        int s = v >= 32767 ? 32767 : v <= -32768 ? -32768 : (int)lrintf(v); /* a NaN is neither: lrintf decides */
        unsigned char b[2] = {(unsigned char)s, (unsigned char)(s >> 8)};
        buf_add(out, b, 2);
    }
    return 0;
}
