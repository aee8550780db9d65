/* The page of the first batches. See look.h. */
#include "train/look.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/html.h"
#include "base/mem.h"
#include "base/text.h"
#include "data/audio.h"
#include "eval/show.h"

enum { SAMPLES = 24, SIDE = 128, COLUMNS = 320, SOUND_BYTES = 1200000 };

struct look {
    const struct run_model *m;
    const struct manifest *data;
    const struct data_batch *b;
    struct buf page;
    int64_t sound_bytes; /* left */
};

/* What the model gets, turned back: x * std + mean, 8 bits. */
static int show_picture(struct look *l, const struct data_modality *m, const float *x, struct err *e)
{
    struct data_image im = {.h = m->h, .w = m->w, .px = mem_alloc((size_t)(m->h * m->w * 3))};
    struct data_image small = {.h = SIDE, .w = SIDE, .px = mem_alloc(SIDE * SIDE * 3)};
    struct data_scratch scratch = {0};
    struct buf png = {0};
    for (int64_t i = 0; i < m->h * m->w * 3; i++) {
        float std = m->std[i % 3] > 0 ? m->std[i % 3] : 1, v = x[i] * std + m->mean[i % 3];
        im.px[i] = (uint8_t)lrintf(255 * fminf(fmaxf(v, 0), 1));
    }
    bool shrink = m->h > SIDE || m->w > SIDE;
    int rc = shrink ? data_image_fit(&im, DATA_FIT_PAD, DATA_BILINEAR, &small, &scratch, e) : 0;
    if (!rc) rc = data_image_png(shrink ? &small : &im, &png, e);
    if (!rc) html_png(&l->page, png.data, png.len, "the picture as the model gets it", 112);
    buf_free(&png);
    data_scratch_free(&scratch);
    data_image_free(&small);
    data_image_free(&im);
    return rc;
}

static void show_text(struct look *l, const struct tokenizer *t, const int32_t *ids, int64_t n)
{
    struct buf text = {0}, pieces = {0};
    char count[48];
    tok_decode(t, ids, n, true, &text);
    for (int64_t i = 0; i < n; i++) {
        struct buf one = {0};
        tok_decode(t, ids + i, 1, false, &one);
        buf_printf(&pieces, "%s%s", i ? "·" : "", one.data ? one.data : "");
        buf_free(&one);
    }
    snprintf(count, sizeof count, "%lld token%s", (long long)n, n == 1 ? "" : "s");
    buf_str(&l->page, "<p class=\"said\">");
    buf_html(&l->page, text.data ? text.data : "");
    buf_str(&l->page, "</p><div class=\"cut\" title=\"");
    buf_html(&l->page, pieces.data ? pieces.data : "");
    buf_printf(&l->page, "\">%s</div>\n", count);
    buf_free(&pieces);
    buf_free(&text);
}

/* frames (n, bins), bins upwards; long clips lose frames, not length. */
static int show_frames(struct look *l, const struct data_modality *m, const float *frames, int64_t n, struct err *e)
{
    int64_t bins = m->logmel.bins, step = (n + COLUMNS - 1) / COLUMNS, cols = step ? (n + step - 1) / step : 0;
    if (!cols) return 0;
    float *turned = mem_alloc((size_t)(bins * cols) * sizeof *turned);
    for (int64_t c = 0; c < cols; c++)
        for (int64_t k = 0; k < bins; k++) turned[k * cols + c] = frames[c * step * bins + k];
    struct buf png = {0};
    int rc = eval_heat_png(turned, bins, cols, &png, e);
    if (!rc) {
        buf_str(&l->page, "<img class=\"heat\" alt=\"spectrogram\" src=\"data:image/png;base64,");
        buf_base64(&l->page, png.data, png.len);
        buf_printf(&l->page, "\"><div class=\"cut\">%lld frames, %.2f s</div>\n", (long long)n,
                   (double)n * m->logmel.hop_s);
    }
    buf_free(&png);
    free(turned);
    return rc;
}

/* The clip as it lies in the file: what is augmented are samples and frames, and frames do not turn back to sound. */
static int show_sound(struct look *l, const struct manifest_entry *entry, struct err *e)
{
    char *bytes;
    size_t len;
    struct data_audio a;
    struct buf wav = {0};
    int rc = manifest_bytes(l->data, entry, &bytes, &len, e);
    if (rc) return rc;
    rc = data_audio_decode(entry->value, bytes, len, 16000, 10, &a, e);
    free(bytes);
    if (rc) return rc;
    if (l->sound_bytes >= 2 * a.n) {
        l->sound_bytes -= 2 * a.n;
        rc = data_audio_wav(a.x, a.n, a.rate, &wav, e);
        if (!rc) html_wav(&l->page, wav.data, wav.len);
    }
    if (!rc && entry->voice) html_tag(&l->page, entry->voice, -1);
    buf_free(&wav);
    data_audio_free(&a);
    return rc;
}

static int show_part(struct look *l, int i, int64_t sample, struct err *e)
{
    const struct data_modality *m = &l->m->input[i];
    const struct data_part *p = &l->b->part[i];
    int32_t row = p->row[sample];
    char none[128];
    if (row < 0) {
        snprintf(none, sizeof none, "no %s", m->name);
        html_tag(&l->page, none, -1);
        return 0;
    }
    int64_t from = p->offsets[row], n = p->offsets[row + 1] - from;
    if (m->kind == DATA_IMAGE) return show_picture(l, m, p->image + row * m->h * m->w * 3, e);
    if (m->kind == DATA_TEXT) {
        show_text(l, m->tokenizer, p->tokens + from, n);
        return 0;
    }
    int rc = m->samples > 0 ? 0 : show_frames(l, m, p->frames + from * m->logmel.bins, n, e);
    const struct manifest_field *f = manifest_field(&l->data->item[l->b->sample[sample]], m->field);
    return rc || !f ? rc : show_sound(l, &f->entry[p->choice[sample]], e);
}

static int show_sample(struct look *l, int64_t i, struct err *e)
{
    const struct manifest_item *item = &l->data->item[l->b->sample[i]];
    int64_t same = 0;
    char text[96];
    for (int64_t k = 0; k < l->b->size; k++) same += l->b->group[k] == l->b->group[i];
    html_card_begin(&l->page, item->id);
    if (same > 1) {
        snprintf(text, sizeof text, "group %d: %lld samples show the same", l->b->group[i], (long long)same);
        html_tag(&l->page, text, l->b->group[i] % 8);
    }
    int rc = 0;
    for (int k = 0; k < l->m->n && !rc; k++) rc = show_part(l, k, i, e);
    html_card_end(&l->page);
    return rc ? err_prefix(e, "item '%s'", item->id) : 0;
}

/* What of the batch is there, and how much of it is padding. */
static void show_sizes(struct look *l)
{
    static const char *const head[] = {"Modality", "Field", "Samples with it", "Input", "Rows used", "Padding"};
    html_table_begin(&l->page, head, 6);
    for (int i = 0; i < l->m->n; i++) {
        const struct data_modality *m = &l->m->input[i];
        const struct data_part *p = &l->b->part[i];
        int64_t used = m->kind == DATA_IMAGE ? p->n : p->offsets[p->n], room = m->kind == DATA_IMAGE ? p->cap : p->rows;
        char n[32], shape[96], rows[32], pad[32];
        snprintf(n, sizeof n, "%lld of %lld", (long long)p->n, (long long)l->b->size);
        if (m->kind == DATA_IMAGE)
            snprintf(shape, sizeof shape, "pictures (%lld, %lld, %lld, 3)", (long long)p->cap, (long long)m->h,
                     (long long)m->w);
        else if (m->kind == DATA_TEXT)
            snprintf(shape, sizeof shape, "packed tokens (%lld)", (long long)p->rows);
        else if (m->samples > 0)
            snprintf(shape, sizeof shape, "sound (%lld, %lld)", (long long)p->cap, (long long)m->samples);
        else
            snprintf(shape, sizeof shape, "packed frames (%lld, %lld)", (long long)p->rows, (long long)m->logmel.bins);
        text_count(rows, sizeof rows, used);
        snprintf(pad, sizeof pad, "%.1f %%", room ? 100 * (double)(room - used) / (double)room : 0.0);
        html_table_row(&l->page, (const char *const[]){m->name, m->field, n, shape, rows, pad}, 6);
    }
    html_table_end(&l->page);
}

static int show_batch(struct look *l, int64_t samples, struct err *e)
{
    char title[96];
    snprintf(title, sizeof title, "Epoch %lld, batch %lld: %lld samples", (long long)l->b->epoch,
             (long long)l->b->index, (long long)l->b->size);
    html_section(&l->page, title);
    show_sizes(l);
    if (samples > l->b->size) samples = l->b->size;
    snprintf(title, sizeof title, "The first %lld of them, as the model gets them.", (long long)samples);
    html_note(&l->page, title);
    html_grid_begin(&l->page, 210);
    int rc = 0;
    for (int64_t i = 0; i < samples && !rc; i++) rc = show_sample(l, i, e);
    html_grid_end(&l->page);
    return rc;
}

int train_look(const struct run_model *m, const struct manifest *data, const struct data_batch *const *b, int n,
               const char *dir, struct err *e)
{
    struct look l = {.m = m, .data = data, .sound_bytes = SOUND_BYTES};
    char *title = mem_printf("%s: the first batch%s", m->config.name, n == 1 ? "" : "es");
    html_begin(&l.page, title,
               "What the model really sees. Pictures and spectrograms are shown after augmentation, captions as the "
               "tokenizer gives them back; sounds are played from their files.");
    buf_str(&l.page, "<style>.said{margin:8px 0 0;line-height:1.35}.cut{color:var(--dim);font-size:12px;margin:2px 0 "
                     "4px}.heat{width:100%;height:72px;margin-top:8px;image-rendering:pixelated}"
                     ".card img:not(.heat){image-rendering:pixelated;margin:auto}.card .tag{margin-top:6px}</style>\n");
    int rc = 0;
    for (int i = 0; i < n && !rc; i++) {
        l.b = b[i];
        rc = show_batch(&l, SAMPLES / n > 0 ? SAMPLES / n : 1, e);
    }
    html_end(&l.page);
    if (!rc && dir) {
        char *path = file_join(dir, "first-batches.html");
        rc = file_write(path, l.page.data, l.page.len, e);
        free(path);
    }
    free(title);
    buf_free(&l.page);
    return rc;
}
