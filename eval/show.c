/* Pictures, captions and sounds on pages. See show.h. */
#include "eval/show.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/html.h"
#include "base/mem.h"
#include "data/audio.h"

enum { MAX_SECONDS = 6 };

const struct manifest_entry *eval_entry(const struct manifest *data, int64_t item, const char *field, const char *split,
                                        int64_t pick)
{
    const struct manifest_field *f = manifest_field(&data->item[item], field);
    if (!f) return NULL;
    int *use = mem_alloc((size_t)f->n * sizeof *use), n = manifest_use(data, f, split, use);
    const struct manifest_entry *entry = n ? &f->entry[use[pick < n ? pick : n - 1]] : NULL;
    free(use);
    return entry;
}

const char *eval_caption(const struct run_model *m, const struct manifest_item *item)
{
    for (int i = 0; m && i < m->n; i++) {
        const struct manifest_field *f = manifest_field(item, m->input[i].field);
        if (f && m->input[i].kind == DATA_TEXT) return f->entry[0].value;
    }
    const struct manifest_field *f = manifest_field(item, "text");
    return f ? f->entry[0].value : item->id;
}

const char *eval_mark(const struct manifest_item *item)
{
    const struct manifest_field *f = manifest_field(item, "emoji");
    return f && !f->entry[0].is_file ? f->entry[0].value : "";
}

/* matplotlib's magma (van der Walt and Smith 2015) as polynomials of degree 6, one a channel (Zucker 2019). */
static void magma(float t, uint8_t rgb[3])
{
    static const float c[7][3] = {{-0.002136f, -0.000750f, -0.005386f},  {0.251661f, 0.677523f, 2.494027f},
                                  {8.353717f, -3.577720f, 0.314468f},    {-27.668733f, 14.264731f, -13.649213f},
                                  {52.176140f, -27.943606f, 12.944169f}, {-50.768525f, 29.046583f, 4.234153f},
                                  {18.655705f, -11.489774f, -5.601962f}};
    for (int k = 0; k < 3; k++) {
        float v = 0;
        for (int i = 6; i >= 0; i--) v = v * t + c[i][k];
        rgb[k] = (uint8_t)lrintf(255 * fminf(fmaxf(v, 0), 1));
    }
}

int eval_heat_png(const float *x, int64_t rows, int64_t cols, struct buf *png, struct err *e)
{
    float low = INFINITY, high = -INFINITY;
    for (int64_t i = 0; i < rows * cols; i++) low = fminf(low, x[i]), high = fmaxf(high, x[i]);
    struct data_image im = {.h = rows, .w = cols, .px = mem_try((size_t)(rows * cols * 3) + 1, "a heat map", e)};
    if (!im.px) return ERR_MEMORY;
    float scale = high > low ? 1 / (high - low) : 0;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) {
            float t = (x[r * cols + c] - low) * scale;
            magma(isfinite(t) ? t : 0, im.px + ((rows - 1 - r) * cols + c) * 3);
        }
    int rc = data_image_png(&im, png, e);
    data_image_free(&im);
    return rc;
}

void eval_show_style(struct buf *b)
{
    buf_str(b, "<style>\n"
               "h3.split{margin:22px 0 -6px}h3.split span{color:var(--dim);font-weight:400;margin-left:6px}\n"
               ".hits{display:grid;grid-template-columns:132px repeat(5,minmax(0,1fr));gap:8px;margin:10px 0 0}\n"
               ".hit{border:2px solid transparent;border-radius:8px;padding:6px;font-size:12px;line-height:1.3;"
               "text-align:center;background:color-mix(in srgb,var(--dim) 7%,transparent);min-width:0;"
               "display:flex;flex-direction:column;align-items:center;gap:4px;overflow-wrap:anywhere}\n"
               ".hit.q{background:color-mix(in srgb,var(--c0) 12%,transparent)}\n"
               ".hit.right{border-color:var(--good)}\n"
               ".hit .say{flex:1;display:flex;align-items:center;font-size:13px}\n"
               ".hit .under{color:var(--dim);font-variant-numeric:tabular-nums;margin-top:auto;padding-top:2px}\n"
               ".hit.right .under{color:var(--good);font-weight:600}\n"
               ".hit img{background:#fff;max-height:76px;width:auto}\n"
               ".heat{image-rendering:pixelated;width:100%!important;height:52px!important;object-fit:fill}\n"
               ".hit audio{height:28px;margin:0;min-width:0;width:100%}\n"
               ".card+.card:has(>.hits){margin-top:14px}\n"
               ".trio{display:grid;grid-template-columns:repeat(3,minmax(0,1fr));gap:8px;margin-top:6px}\n"
               ".over{color:var(--dim);font-size:11px;letter-spacing:.04em;text-transform:uppercase}\n"
               "@media(max-width:700px){.hits{grid-template-columns:repeat(3,minmax(0,1fr))}}\n"
               "</style>\n");
}

static int show_picture(struct buf *b, const struct eval_show *s, const char *name, const char *data, size_t len,
                        struct err *e)
{
    struct data_image im, small = {0};
    struct data_scratch scratch = {0};
    struct buf png = {0};
    int rc = data_image_decode(name, data, len, &im, e);
    if (rc) return rc;
    int64_t side = im.h > im.w ? im.h : im.w;
    if (side > s->px) {
        small.h = im.h * s->px / side > 0 ? im.h * s->px / side : 1;
        small.w = im.w * s->px / side > 0 ? im.w * s->px / side : 1;
        small.px = mem_alloc((size_t)(small.h * small.w * 3));
        rc = data_image_fit(&im, DATA_FIT_STRETCH, DATA_BICUBIC, &small, &scratch, e);
    }
    if (!rc) rc = data_image_png(side > s->px ? &small : &im, &png, e);
    if (!rc) html_png(b, png.data, png.len, file_basename(name), 0);
    buf_free(&png);
    data_scratch_free(&scratch);
    data_image_free(&small);
    data_image_free(&im);
    return rc;
}

/* Coarse enough to stay at a few kB: 32 bins, 40 ms. */
static int show_spectrogram(struct buf *b, const struct data_audio *a, struct err *e)
{
    struct data_logmel_config c = data_logmel_default();
    c.bins = 32;
    c.hop_s = 0.04;
    struct data_logmel *mel;
    int rc = data_logmel_new(&c, &mel, e);
    if (rc) return rc;
    int64_t n = data_logmel_frames(&c, a->n);
    float *x = mem_alloc((size_t)(n * c.bins) * 2 * sizeof *x), *turned = x + n * c.bins;
    data_logmel_run(mel, a->x, a->n, x);
    for (int64_t t = 0; t < n; t++)
        for (int64_t k = 0; k < c.bins; k++) turned[k * n + t] = x[t * c.bins + k];
    struct buf png = {0};
    rc = eval_heat_png(turned, c.bins, n, &png, e);
    if (!rc) {
        buf_str(b, "<img class=\"heat\" alt=\"spectrogram\" src=\"data:image/png;base64,");
        buf_base64(b, png.data, png.len);
        buf_str(b, "\">\n");
    }
    buf_free(&png);
    free(x);
    data_logmel_free(mel);
    return rc;
}

static int show_sound(struct buf *b, struct eval_show *s, const char *name, const char *data, size_t len, struct err *e)
{
    struct data_audio a;
    struct buf wav = {0};
    int rc = data_audio_decode(name, data, len, 16000, MAX_SECONDS, &a, e);
    if (rc) return rc;
    rc = show_spectrogram(b, &a, e);
    if (!rc && !s->mute && s->sound_bytes >= 2 * a.n) {
        s->sound_bytes -= 2 * a.n;
        rc = data_audio_wav(a.x, a.n, a.rate, &wav, e);
        if (!rc) html_wav(b, wav.data, wav.len);
    }
    buf_free(&wav);
    data_audio_free(&a);
    return rc;
}

void eval_show(struct buf *b, struct eval_show *s, const struct manifest *data, const struct manifest_entry *entry,
               enum data_kind kind)
{
    if (kind == DATA_TEXT) {
        buf_str(b, "<div class=\"say\"><span>");
        buf_html(b, entry->value);
        buf_str(b, "</span></div>\n");
        return;
    }
    struct err e = {0};
    char *bytes = NULL;
    size_t len;
    int rc = manifest_bytes(data, entry, &bytes, &len, &e);
    if (!rc)
        rc = kind == DATA_IMAGE ? show_picture(b, s, entry->value, bytes, len, &e)
                                : show_sound(b, s, entry->value, bytes, len, &e);
    free(bytes);
    if (rc) html_note(b, e.msg);
}
