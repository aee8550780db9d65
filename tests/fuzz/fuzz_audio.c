/* libFuzzer: any bytes as sound, resampled and made into log-mel frames: all of them finite. */
#include <math.h>
#include <stdlib.h>

#include "data/audio.h"
#include "data/logmel.h"

/* libsndfile 1.2.0 forgets libvorbis' header when the one after it is damaged (src/ogg_vorbis.c); we cannot free it. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:vorbis_info_init\n";
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct data_logmel *m;
    struct data_logmel_config c = data_logmel_default();
    struct data_audio a;
    struct err e = {0};
    if (!m) CHECK(data_logmel_new(&c, &m, &e) == 0);
    if (data_audio_decode("fuzz", data, size, c.rate, 0.2, &a, &e)) {
        CHECK(e.code < 0 && e.msg[0] && !a.x);
        return 0;
    }
    CHECK(a.n >= 0 && a.n <= c.rate / 5 && a.rate == c.rate);
    int64_t n = data_logmel_frames(&c, a.n) * c.bins;
    float *y = malloc((size_t)n * sizeof *y);
    data_logmel_run(m, a.x, a.n, y);
    for (int64_t i = 0; i < n; i++) CHECK(isfinite(y[i]));
    free(y);
    data_audio_free(&a);
    return 0;
}
