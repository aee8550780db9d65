/* Sound: WAV, FLAC, OGG and what else libsndfile reads, from memory to mono float; resampling; WAV out again. */
#ifndef TRIAD_DATA_AUDIO_H
#define TRIAD_DATA_AUDIO_H

#include <stdint.h>
#include "base/buf.h"
#include "base/err.h"

#define DATA_AUDIO_MAX_SAMPLES ((int64_t)1 << 28) /* of all channels together: an hour and a half of 48 kHz mono */

#define DATA_AUDIO_MAX_LEVEL 40000.0f /* floats on the scale of 16-bit integers pass; what is beyond is damage */

struct data_audio {
    float *x;     /* (n), nominally -1..1 */
    int64_t n;    /* samples; 0 is a valid, empty clip (x is then still a valid pointer) */
    int64_t rate; /* Hz */
};

/* Decodes `len` bytes to mono (the channels' mean) at `rate` Hz (0: the file's own). Only the first `max_seconds` are
 * kept (0: all); no more than that is decoded. `name` is used in messages. The caller frees with data_audio_free.
 * ERR_FORMAT where the format is not known, the data is corrupt or ends before the samples that its header promises,
 * a sample is NaN, infinite or beyond +-DATA_AUDIO_MAX_LEVEL, or the clip has more than DATA_AUDIO_MAX_SAMPLES;
 * ERR_MEMORY. On error *a is empty. Safe from many threads. */
int data_audio_decode(const char *name, const void *data, size_t len, int64_t rate, double max_seconds,
                      struct data_audio *a, struct err *e) MUST_CHECK;
/* How long the sound in `length` bytes from `offset` of the file `fd` is, in seconds, as its header says: nothing is
 * decoded. ERR_FORMAT where it is not sound that data_audio_decode reads, or does not say. */
int data_audio_seconds(const char *name, int fd, int64_t offset, int64_t length, double *seconds,
                       struct err *e) MUST_CHECK;
void data_audio_free(struct data_audio *a); /* leaves it empty; an empty one is fine */

/* Resamples n samples from `from` to `to` Hz (any ratio) with soxr at its quality HQ (20 bits), single-threaded, into
 * new memory that the caller frees. About n * to / from samples. ERR_MEMORY. */
int data_audio_resample(const float *x, int64_t n, double from, double to, float **out, int64_t *n_out,
                        struct err *e) MUST_CHECK;

/* Appends a mono 16-bit WAV file; samples beyond -1..1 are clipped. */
int data_audio_wav(const float *x, int64_t n, int64_t rate, struct buf *out, struct err *e) MUST_CHECK;

#endif
