/* Folders of make_logmel.py: log-mel spectrograms of its clips, in triad's two styles that have a reference. */
#include <stdlib.h>
#include "base/mem.h"
#include "data/logmel.h"
#include "tests/golden/golden.h"

/* f32 against f64, relative to the whole spectrogram's norm: the power of quiet bins cancels to about 1e-7 of the
 * loudest, and its logarithm keeps that as an absolute error; PyTorch's own f32 is off by 1e-6. */
static const double tolerance = 3e-6;

static int one_clip(const struct golden_file *f, struct data_logmel_config c, const char *clip, const char *style,
                    struct golden_report *r, struct err *e)
{
    const struct golden_tensor *x = golden_find(f, e, "%s.waveform", clip),
                               *want = golden_find(f, e, "%s.%s", clip, style);
    struct data_logmel *m = NULL;
    if (!x || !want) return e->code;
    int64_t frames = data_logmel_frames(&c, x->count);
    if (want->shape.rank != 2 || want->shape.dim[0] != frames || want->shape.dim[1] != c.bins)
        return err_set(e, ERR_SHAPE, "%s: expected %lld frames, got %lld", want->name, (long long)want->shape.dim[0],
                       (long long)frames);
    int code = data_logmel_new(&c, &m, e);
    if (code) return code;
    float *wave = golden_as(x, AD_F32), *got = mem_zero((size_t)want->count + 1, sizeof *got);
    data_logmel_run(m, wave, x->count, got);
    golden_compare(r, want->name, got, AD_F32, want, tolerance, 0);
    data_logmel_free(m);
    free(wave);
    free(got);
    return 0;
}

int golden_check_logmel(const char *dir, json_t *config, struct golden_report *r, struct err *e)
{
    struct golden_file f;
    int code = golden_read(&f, dir, "logmel.safetensors", e);
    struct data_logmel_config clip = data_logmel_default(), whisper = clip;
    whisper.style = DATA_LOGMEL_WHISPER;
    whisper.fft = 400;
    whisper.low = 0;
    if (code == 0) code = one_clip(&f, clip, "short", "logmel", r, e);
    if (code == 0) code = one_clip(&f, clip, "odd", "logmel", r, e);
    if (code == 0) code = one_clip(&f, whisper, "short", "whisper", r, e);
    golden_free(&f);
    return code;
}
