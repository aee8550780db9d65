/* Checks a data set. Bad is what training could not read; odd is what it reads, but a person should look at. Files are decoded in parallel, each into its own slot; findings are then sorted by line, so that
 * the report does not depend on the threads. */
#include "data/check.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/text.h"
#include "data/audio.h"
#include "data/image.h"
#include "data/manifest.h"

enum { MAX_SIDE = 16384, MAX_RATIO = 50 };

struct finding {
    int64_t line, order;
    bool odd;
    char *text;
};

struct report {
    struct finding *f;
    int64_t n, bad;
    size_t cap;
};

struct probe { /* one file entry */
    const struct manifest_entry *entry;
    const struct manifest_item *item;
    const char *field;
    uint64_t hash; /* of the bytes */
    size_t len;
    char *why; /* NULL where all is well */
    bool odd;  /* it could be read all the same */
};

static void add(struct report *r, int64_t line, bool odd, const char *fmt, ...) PRINTF_LIKE(4, 5);
static void add(struct report *r, int64_t line, bool odd, const char *fmt, ...)
{
    char text[1200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    r->f = mem_grow(r->f, &r->cap, (size_t)r->n + 1, sizeof *r->f);
    r->f[r->n] = (struct finding){line, r->n, odd, mem_strdup(text)};
    r->n++;
    r->bad += !odd;
}

/* `message` without the "name: " that it may begin with. */
static const char *after(const char *message, const char *name)
{
    size_t n = strlen(name);
    const char *at = strstr(message, name);
    return at && !strncmp(at + n, ": ", 2) ? at + n + 2 : message;
}

static void bad_line(void *ctx, int64_t line, const char *message)
{
    struct report *r = ctx;
    char at[32];
    snprintf(at, sizeof at, ":%" PRId64 ":", line);
    const char *s = strstr(message, at);
    s = s ? s + strlen(at) : message;
    add(r, line, false, "%s", s + strspn(s, " "));
}

static char *probe_image(struct probe *p, const char *data, struct err *e)
{
    struct data_image im = {0};
    if (data_image_decode(p->entry->value, data, p->len, &im, e)) return mem_strdup(after(e->msg, p->entry->value));
    int64_t h = im.h, w = im.w, big = h > w ? h : w, small = h > w ? w : h;
    data_image_free(&im);
    p->odd = true;
    if (big == 1) return mem_strdup("a picture of 1x1 pixels");
    if (big > MAX_SIDE)
        return mem_printf("a picture of %" PRId64 "x%" PRId64 " pixels: no side should exceed %d", w, h, MAX_SIDE);
    if (big > small * MAX_RATIO)
        return mem_printf("a picture of %" PRId64 "x%" PRId64 " pixels: one side is %" PRId64 " times the other", w, h,
                          big / small);
    return NULL;
}

static char *probe_audio(struct probe *p, const char *data, struct err *e)
{
    struct data_audio a = {0};
    if (data_audio_decode(p->entry->value, data, p->len, 0, 0, &a, e))
        return mem_strdup(after(e->msg, p->entry->value));
    float peak = 0;
    for (int64_t i = 0; i < a.n; i++) peak = fmaxf(peak, fabsf(a.x[i]));
    int64_t n = a.n, rate = a.rate;
    data_audio_free(&a);
    p->odd = true;
    if (n == 0) return mem_strdup("sound without a single sample");
    if (n * 100 < rate) return mem_printf("sound of only %" PRId64 " sample%s (less than 10 ms)", n, n == 1 ? "" : "s");
    if (peak < 1e-4f) return mem_printf("silence: the loudest of %" PRId64 " samples is %.1g", n, (double)peak);
    return NULL;
}

static bool is_picture(const struct probe *p, const char *data)
{
    if (!strcmp(p->field, "image")) return true;
    if (!strcmp(p->field, "audio")) return false;
    return p->len > 3 && (!memcmp(data, "\x89PNG", 4) || !memcmp(data, "\xff\xd8\xff", 3));
}

static void probe(const struct manifest *m, struct probe *p)
{
    struct err e = {0};
    char *data;
    if (manifest_bytes(m, p->entry, &data, &p->len, &e)) {
        p->why = mem_strdup(after(e.msg, p->entry->value));
        return;
    }
    p->hash = hash_bytes(data, p->len, HASH_START);
    if (p->len == 0)
        p->why = mem_strdup("an empty file (0 bytes)");
    else
        p->why = is_picture(p, data) ? probe_image(p, data, &e) : probe_audio(p, data, &e);
    free(data);
}

static const char *bad_text(const char *s)
{
    bool blank = true;
    for (const char *end = s + strlen(s); s < end;) {
        uint32_t cp;
        int k = utf8_next(s, end, &cp);
        if (k == 0) return "invalid UTF-8";
        if ((cp < 32 && cp != '\t' && cp != '\n' && cp != '\r') || (cp >= 127 && cp < 160))
            return "a control character";
        if (cp == 0xFFFD) return "U+FFFD, the mark of a character lost in conversion";
        if (cp > 32 && cp != 0xA0) blank = false;
        s += k;
    }
    return blank ? "nothing but blanks" : NULL;
}

static int64_t check_texts(const struct manifest *m, struct report *r)
{
    int64_t n = 0;
    for (int64_t i = 0; i < m->n; i++) {
        const struct manifest_field *f = manifest_field(&m->item[i], "text");
        for (int k = 0; f && k < f->n; k++, n++) {
            const char *s = f->entry[k].value, *why = *s ? bad_text(s) : "nothing: it is empty";
            if (why) add(r, m->item[i].line, true, "text %d of item '%s' holds %s", k + 1, m->item[i].id, why);
            for (int j = 0; j < k && !why; j++)
                if (!strcmp(f->entry[j].value, s)) {
                    add(r, m->item[i].line, true, "texts %d and %d of item '%s' are the same: '%.60s'", j + 1, k + 1,
                        m->item[i].id, s);
                    break;
                }
        }
    }
    return n;
}

static int by_content(const void *a, const void *b)
{
    const struct probe *p = *(const struct probe *const *)a, *q = *(const struct probe *const *)b;
    if (p->hash != q->hash) return p->hash < q->hash ? -1 : 1;
    if (p->len != q->len) return p->len < q->len ? -1 : 1;
    if (p->item->line != q->item->line) return p->item->line < q->item->line ? -1 : 1;
    return p < q ? -1 : p > q;
}

/* Files with the same bytes (or the same file) in different items. */
static void find_twins(struct probe *p, int64_t n, struct report *r)
{
    const struct probe **sorted = mem_alloc((size_t)n * sizeof *sorted);
    int64_t k = 0;
    for (int64_t i = 0; i < n; i++)
        if (!p[i].why) sorted[k++] = &p[i];
    qsort(sorted, (size_t)k, sizeof *sorted, by_content);
    for (int64_t i = 1; i < k; i++) {
        const struct probe *a = sorted[i - 1], *b = sorted[i];
        if (a->hash != b->hash || a->len != b->len || a->item == b->item) continue;
        bool same = !strcmp(a->entry->value, b->entry->value);
        add(r, b->item->line, true, "%s: %s of item '%s' (line %" PRId64 ")%s%s", b->entry->value,
            same ? "also the file" : "the same bytes as the file", a->item->id, a->item->line, same ? "" : ": ",
            same ? "" : a->entry->value);
    }
    free(sorted);
}

static int by_line(const void *a, const void *b)
{
    const struct finding *x = a, *y = b;
    if (x->line != y->line) return x->line < y->line ? -1 : 1;
    return x->order < y->order ? -1 : x->order > y->order;
}

static void check_files(const struct manifest *m, struct report *r, int64_t *n_files)
{
    int64_t n = 0, done = 0;
    for (struct manifest_walk w = {0}; manifest_next_file(m, &w);) n++;
    struct probe *p = mem_zero((size_t)n, sizeof *p);
    struct manifest_walk w = {0};
    for (int64_t i = 0; i < n; i++) {
        p[i].entry = manifest_next_file(m, &w);
        p[i].item = &m->item[w.item];
        p[i].field = p[i].item->field[w.field].name;
    }
    struct progress *bar = progress_new("checking", n, "files", 10);
#pragma omp parallel for schedule(dynamic, 8)
    for (int64_t i = 0; i < n; i++) {
        probe(m, &p[i]);
#pragma omp critical(data_check)
        progress_update(bar, ++done, NULL);
    }
    progress_end(bar, NULL);
    for (int64_t i = 0; i < n; i++)
        if (p[i].why) add(r, p[i].item->line, p[i].odd, "%s: %s", p[i].entry->value, p[i].why);
    find_twins(p, n, r);
    for (int64_t i = 0; i < n; i++) free(p[i].why);
    free(p);
    *n_files = n;
}

int64_t data_check(const char *manifest, FILE *out, struct err *e)
{
    struct manifest m;
    struct report r = {0};
    int rc = manifest_load_lenient(manifest, &m, bad_line, &r, e);
    if (!rc && m.n == 0 && r.n == 0) rc = err_set(e, ERR_FORMAT, "%s: an empty manifest: no lines", manifest);
    if (!rc) {
        int64_t n_files, n_texts = check_texts(&m, &r);
        check_files(&m, &r, &n_files);
        if (r.n) qsort(r.f, (size_t)r.n, sizeof *r.f, by_line);
        for (int64_t i = 0; i < r.n; i++)
            fprintf(out, "%s:%" PRId64 ": %s: %s\n", manifest, r.f[i].line, r.f[i].odd ? "odd" : "bad", r.f[i].text);
        char items[32], files[32], texts[32];
        fprintf(out, "%s: %s items, %s files, %s texts: %" PRId64 " bad, %" PRId64 " odd\n", manifest,
                text_count(items, sizeof items, m.n), text_count(files, sizeof files, n_files),
                text_count(texts, sizeof texts, n_texts), r.bad, r.n - r.bad);
    }
    manifest_free(&m);
    for (int64_t i = 0; i < r.n; i++) free(r.f[i].text);
    free(r.f);
    return rc ? rc : r.bad;
}
