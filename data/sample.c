/* Adds a sample to a batch: chooses its entries, takes them from the cache or decodes them, augments. What is random is
 * drawn from a generator keyed by (seed, modality, item, epoch); what is cached holds no randomness, and what is not in
 * the cache is rounded as if it had come from there. */
#include "data/sample.h"

#include <stdlib.h>
#include <string.h>

#include "data/audio.h"
#include "data/kernels.h"

#define MAX_ROWS ((int64_t)1 << 30) /* offsets are int32 */

static struct data_key key_start(const char *kind)
{
    return (struct data_key){hash_str(kind), hash_bytes(kind, strlen(kind), ~HASH_START)};
}

static void key_add(struct data_key *k, const void *p, size_t n)
{
    k->a = hash_bytes(p, n, k->a);
    k->b = hash_bytes(p, n, k->b);
}

static void key_str(struct data_key *k, const char *s)
{
    key_add(k, s, strlen(s) + 1);
}

/* One entry of one modality of one item, on its way into a batch. */
struct job {
    struct data_maker *k;
    const struct data_modality *m;
    int at; /* of m among the modalities */
    const struct manifest_entry *entry;
    struct rng rng;
    struct data_part *part;
    struct data_room *room;
    struct err *e;
};

static int read_bytes(const struct job *j, char **data, size_t *len)
{
    j->k->decoded++;
    return manifest_bytes(j->k->plan->c.manifest, j->entry, data, len, j->e);
}

static bool cached(const struct job *j, struct data_key key, struct data_cache_value *v)
{
    bool hit = data_cache_get(j->k->plan->c.cache, key, v);
    j->k->cached += hit;
    return hit;
}

/* Pictures. What is cached: without random crops the picture at its final size, else at the smallest size from which
 * the smallest crop need not be enlarged. */

static int shrink(const struct job *j, struct data_image *im)
{
    const struct data_modality *m = j->m;
    struct data_image out = {.h = m->h, .w = m->w};
    bool crop = m->image.crop_max > 0;
    if (crop) {
        double side = (double)(m->h > m->w ? m->h : m->w) / sqrt(m->image.crop_min);
        double scale = side / (double)(im->h < im->w ? im->h : im->w);
        if (scale >= 1) return 0;
        out.h = llround((double)im->h * scale);
        out.w = llround((double)im->w * scale);
    }
    out.px = mem_try((size_t)(out.h * out.w * 3), "a picture", j->e);
    if (!out.px) return ERR_MEMORY;
    int rc = data_image_fit(im, crop ? DATA_FIT_STRETCH : m->fit, m->filter, &out, &j->k->scratch, j->e);
    data_image_free(rc ? &out : im);
    if (!rc) *im = out;
    return rc;
}

/* *own says whether the caller frees *im. */
static int base_image(const struct job *j, struct data_image *im, bool *own)
{
    const struct data_modality *m = j->m;
    double how[] = {(double)m->h,      (double)m->w,          (double)m->fit,
                    (double)m->filter, m->image.crop_max > 0, m->image.crop_min};
    struct data_key key = key_start("image");
    key_str(&key, j->k->plan->c.manifest->path);
    key_str(&key, j->entry->value);
    key_add(&key, how, sizeof how);
    struct data_cache_value v;
    *own = false;
    if (cached(j, key, &v)) {
        *im = (struct data_image){.h = v.h, .w = v.w, .px = (uint8_t *)v.data};
        return 0;
    }
    char *data;
    size_t len;
    int rc = read_bytes(j, &data, &len);
    if (rc) return rc;
    rc = data_image_decode(j->entry->value, data, len, im, j->e);
    free(data);
    if (rc) return rc;
    if ((rc = shrink(j, im)) != 0) {
        data_image_free(im);
        return rc;
    }
    v = (struct data_cache_value){.data = im->px, .bytes = im->h * im->w * 3, .h = im->h, .w = im->w};
    data_cache_put(j->k->plan->c.cache, key, &v);
    *own = true;
    return 0;
}

/* Crop, flip and shift on 8-bit pixels; *px gets where the result lies. */
static int change_pixels(struct job *j, const struct data_image *im, const uint8_t **px)
{
    const struct data_modality *m = j->m;
    const struct data_image_augment *a = &m->image;
    size_t bytes = (size_t)(m->h * m->w * 3);
    *px = im->px;
    if (a->crop_max <= 0 && a->flip <= 0 && a->shift <= 0) return 0;
    int rc = data_room_need(&j->k->pixels, 2 * bytes, 0, j->e);
    if (rc) return rc;
    struct data_image cut = {.h = m->h, .w = m->w, .px = j->k->pixels.p};
    if (a->crop_max > 0) {
        struct data_box box = data_random_crop(&j->rng, im->h, im->w, a);
        rc = data_image_resize(im, &box, m->filter, &cut, &j->k->scratch, j->e);
        if (rc) return rc;
    } else
        memcpy(cut.px, im->px, bytes);
    *px = cut.px;
    if (a->flip > 0 || a->shift > 0) {
        *px = cut.px + bytes;
        data_augment_pixels(&j->rng, a, cut.px, cut.px + bytes, m->h, m->w);
    }
    return 0;
}

static int add_image(struct job *j)
{
    const struct data_modality *m = j->m;
    int64_t n = m->h * m->w;
    struct data_image im;
    bool own;
    int rc = base_image(j, &im, &own);
    if (rc) return rc;
    const uint8_t *px;
    rc = change_pixels(j, &im, &px);
    if (!rc) {
        float *out = j->part->image + j->part->n * n * 3;
        ISA_PICK(pixels_floats)(px, 3 * n, out);
        data_augment_colour(&j->rng, &m->image, out, n);
        ISA_PICK(pixels_normalise)(out, n, m->mean, m->std);
    }
    if (own) data_image_free(&im);
    return rc;
}

/* Makes room for `more` rows of `bytes` each behind those that are there. */
static int rows_need(const struct job *j, int64_t more, size_t bytes)
{
    int64_t used = j->part->rows;
    if (more > MAX_ROWS - used)
        return err_set(j->e, ERR_SHAPE,
                       "%s: more than %lld rows in a batch; make the batch smaller or cut the items shorter",
                       j->m->name, (long long)MAX_ROWS);
    return data_room_need(j->room, (size_t)data_round_rows(used + more, j->m->round_rows) * bytes, (size_t)used * bytes,
                          j->e);
}

static int add_text(struct job *j)
{
    const struct data_modality *m = j->m;
    struct data_key key = key_start("text");
    key_str(&key, j->entry->value);
    key_add(&key, &m->tokenizer, sizeof m->tokenizer);
    key_add(&key, &m->max_tokens, sizeof m->max_tokens);
    struct data_cache_value v;
    bool hit = cached(j, key, &v);
    int64_t n = hit ? v.h : 0;
    int rc = rows_need(j, hit ? n : m->max_tokens, sizeof(int32_t));
    if (rc) return rc;
    int32_t *out = (int32_t *)j->room->p + j->part->rows;
    if (hit)
        memcpy(out, v.data, (size_t)v.bytes);
    else {
        j->k->decoded++;
        rc = tok_encode(m->tokenizer, j->entry->value, strlen(j->entry->value), out, m->max_tokens, &n, j->e);
        if (rc) return rc;
        if (n == 0) return err_set(j->e, ERR_FORMAT, "the text \"%s\" has no tokens: leave it out", j->entry->value);
        v = (struct data_cache_value){.data = out, .bytes = n * (int64_t)sizeof *out, .h = n};
        data_cache_put(j->k->plan->c.cache, key, &v);
    }
    j->part->rows += n;
    return 0;
}

/* Sound. What is cached: the frames, or where augmentation changes samples or those are asked for, the samples. */

static struct data_key audio_key(const struct job *j, bool waves, double seconds)
{
    const struct data_logmel_config *c = &j->m->logmel;
    double how[] = {(double)c->rate, seconds, c->window_s, c->hop_s,        (double)c->fft,
                    (double)c->bins, c->low,  c->high,     (double)c->style};
    struct data_key key = key_start(waves ? "wave" : "frames");
    key_str(&key, j->k->plan->c.manifest->path);
    key_str(&key, j->entry->value);
    key_add(&key, how, waves ? 2 * sizeof *how : sizeof how);
    return key;
}

static int decode_audio(const struct job *j, double seconds, struct data_audio *a)
{
    char *data;
    size_t len;
    int rc = read_bytes(j, &data, &len);
    if (rc) return rc;
    rc = data_audio_decode(j->entry->value, data, len, j->m->logmel.rate, seconds, a, j->e);
    free(data);
    return rc;
}

/* Rounds n values to half floats, which stay in k->half: half the memory, and 11 bits are more than a spectrogram needs
 * or a microphone gives. */
static int halve(const struct job *j, float *x, int64_t n)
{
    int rc = data_room_need(&j->k->half, (size_t)n * 2, 0, j->e);
    if (rc) return rc;
    ISA_PICK(halves_round)(x, n, j->k->half.p);
    return 0;
}

static int keep_halves(const struct job *j, struct data_key key, float *x, int64_t rows, int64_t n)
{
    int rc = halve(j, x, n);
    struct data_cache_value v = {.data = j->k->half.p, .bytes = n * 2, .h = rows};
    if (!rc) data_cache_put(j->k->plan->c.cache, key, &v);
    return rc;
}

/* Frames of n samples, behind those that are there; the caller adds them to part->rows. */
static int add_frames(const struct job *j, const float *x, int64_t n, float **out, int64_t *frames)
{
    int64_t bins = j->m->logmel.bins;
    *frames = data_logmel_frames(&j->m->logmel, n);
    int rc = rows_need(j, *frames, (size_t)bins * sizeof(float));
    if (rc) return rc;
    *out = (float *)j->room->p + j->part->rows * bins;
    data_logmel_run(j->k->logmel[j->at], x, n, *out);
    return 0;
}

static int frames_without_waves(const struct job *j, float **out, int64_t *frames)
{
    int64_t bins = j->m->logmel.bins;
    struct data_key key = audio_key(j, false, j->m->max_seconds);
    struct data_cache_value v;
    int rc;
    if (cached(j, key, &v)) {
        *frames = v.h;
        if ((rc = rows_need(j, v.h, (size_t)bins * sizeof(float))) != 0) return rc;
        *out = (float *)j->room->p + j->part->rows * bins;
        ISA_PICK(halves_to_floats)(v.data, v.h * bins, *out);
        return 0;
    }
    struct data_audio a;
    if ((rc = decode_audio(j, j->m->max_seconds, &a)) != 0) return rc;
    rc = add_frames(j, a.x, a.n, out, frames);
    if (!rc) rc = keep_halves(j, key, *out, *frames, *frames * bins);
    data_audio_free(&a);
    return rc;
}

/* Samples, augmented and cut. */
static int get_waves(struct job *j, struct data_audio *a)
{
    const struct data_modality *m = j->m;
    double seconds = m->max_seconds * (1 + m->audio.speed); /* what a faster clip needs to fill its time */
    struct data_key key = audio_key(j, true, seconds);
    struct data_cache_value v;
    int rc = 0;
    *a = (struct data_audio){0};
    if (cached(j, key, &v)) {
        a->n = v.h;
        a->x = mem_try((size_t)a->n * sizeof *a->x, "sound", j->e);
        if (!a->x) return ERR_MEMORY;
        ISA_PICK(halves_to_floats)(v.data, v.h, a->x);
    } else {
        rc = decode_audio(j, seconds, a);
        if (!rc) rc = keep_halves(j, key, a->x, a->n, a->n);
    }
    if (!rc) rc = data_augment_wave(&j->rng, &m->audio, m->logmel.rate, &a->x, &a->n, j->e);
    double most = m->max_seconds * (double)m->logmel.rate;
    if (m->max_seconds > 0 && (double)a->n > most) a->n = (int64_t)most;
    return rc;
}

static int frames_with_waves(struct job *j, float **out, int64_t *frames)
{
    struct data_audio a;
    int rc = get_waves(j, &a);
    if (!rc) rc = add_frames(j, a.x, a.n, out, frames);
    data_audio_free(&a);
    return rc;
}

static int add_raw(struct job *j)
{
    struct data_audio a;
    int64_t samples = j->m->samples;
    int rc = get_waves(j, &a);
    if (!rc) rc = rows_need(j, samples, sizeof(float));
    if (!rc) {
        float *to = (float *)j->room->p + j->part->rows;
        int64_t n = a.n < samples ? a.n : samples;
        memcpy(to, a.x, (size_t)n * sizeof *to);
        memset(to + n, 0, (size_t)(samples - n) * sizeof *to);
        j->part->rows += samples;
    }
    data_audio_free(&a);
    return rc;
}

static int add_audio(struct job *j)
{
    if (j->m->samples > 0) return add_raw(j);
    float *x = NULL;
    int64_t n = 0;
    bool waves = data_audio_augment_waves(&j->m->audio);
    int rc = waves ? frames_with_waves(j, &x, &n) : frames_without_waves(j, &x, &n);
    if (rc) return rc;
    data_augment_frames(&j->rng, &j->m->audio, j->m->logmel.hop_s, x, n, j->m->logmel.bins);
    j->part->rows += n;
    return 0;
}

int data_sample_choose(const struct data_plan *p, const struct data_modality *m, int64_t item, int64_t epoch,
                       struct data_room *usable, struct rng *rng, int *choice, struct err *e)
{
    const struct data_loader_config *c = &p->c;
    const struct manifest_field *f = manifest_field(&c->manifest->item[item], m->field);
    *rng = rng_make(hash_bytes(&c->seed, sizeof c->seed, hash_str(m->name)), (uint64_t)item, (uint64_t)epoch);
    *choice = -1;
    if (!f) return 0;
    int rc = data_room_need(usable, (size_t)f->n * sizeof(int), 0, e);
    if (rc) return rc;
    int *index = usable->p, n = manifest_use(c->manifest, f, c->split, index);
    if (n == 0) return 0;
    int64_t i = c->eval ? (m->pick < n ? m->pick : n - 1) : data_choose(rng, n, m->kind == DATA_TEXT ? m->first : 0);
    *choice = index[i];
    return 0;
}

int data_sample_add(struct data_maker *k, struct data_slot *s, int64_t i, int64_t item, struct err *e)
{
    static int (*const add[])(struct job *) = {
        [DATA_IMAGE] = add_image, [DATA_TEXT] = add_text, [DATA_AUDIO] = add_audio};
    const struct data_plan *p = k->plan;
    int rc = 0, done = 0;
    for (; done < p->c.n_modalities && !rc; done++) {
        const struct data_modality *m = &p->m[done];
        const struct manifest_field *f = manifest_field(&p->c.manifest->item[item], m->field);
        struct data_part *part = &s->b.part[done];
        struct job j = {.k = k, .m = m, .at = done, .part = part, .room = &s->room[done], .e = e};
        int choice;
        part->row[i] = part->choice[i] = -1;
        rc = data_sample_choose(p, m, item, s->b.epoch, &k->usable, &j.rng, &choice, e);
        if (rc || choice < 0) continue;
        j.entry = &f->entry[choice];
        if ((rc = add[m->kind](&j)) != 0) continue;
        part->row[i] = (int32_t)part->n++;
        part->choice[i] = choice;
        part->offsets[part->n] = (int32_t)part->rows;
    }
    if (!rc) {
        s->b.sample[i] = item;
        return 0;
    }
    for (int d = 0; d < done; d++) {
        struct data_part *part = &s->b.part[d];
        if (part->row[i] >= 0) part->n--;
        part->rows = part->offsets[part->n];
    }
    const struct manifest_item *it = &p->c.manifest->item[item];
    return err_prefix(e, "%s:%lld: item '%s'", p->c.manifest->path, (long long)it->line, it->id);
}
