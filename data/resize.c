/* Antialiased separable resizing of 8-bit pictures, after Pillow's Resample.c, so that a model trained elsewhere sees
 * the same pixels: the same weights, fixed point and order of the two directions. The sums are in data/kernels/resize.c. */
#include "data/image.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "data/kernels.h"

static double bicubic(double x)
{
    const double a = -0.5;
    x = fabs(x);
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
    return 0;
}

static double triangle(double x)
{
    x = fabs(x);
    return x < 1 ? 1 - x : 0;
}

/* w (t->size): scratch. */
static void taps_fill(struct resize_taps *t, double *w, int64_t in, double b0, double b1, enum data_filter filter)
{
    double scale = (b1 - b0) / (double)t->out, wide = scale < 1 ? 1 : scale;
    double support = (filter == DATA_BICUBIC ? 2.0 : 1.0) * wide;
    for (int64_t i = 0; i < t->out; i++) {
        double center = b0 + ((double)i + 0.5) * scale, sum = 0;
        int64_t lo = (int64_t)(center - support + 0.5), hi = (int64_t)(center + support + 0.5);
        lo = lo < 0 ? 0 : lo;
        hi = hi > in ? in : hi;
        for (int64_t x = 0; x < hi - lo; x++) {
            double at = ((double)(x + lo) - center + 0.5) / wide;
            w[x] = filter == DATA_BICUBIC ? bicubic(at) : triangle(at);
            sum += w[x];
        }
        for (int64_t x = 0; x < hi - lo; x++) {
            double v = (sum != 0 ? w[x] / sum : w[x]) * (1 << RESIZE_BITS);
            t->k[i * t->size + x] = (int32_t)(v < 0 ? v - 0.5 : v + 0.5);
        }
        t->first[i] = (int32_t)lo;
        t->n[i] = (int32_t)(hi - lo);
    }
}

/* Rows top..end of the picture -> rows of t->out pixels at `out`. */
static void across(const struct resize_taps *t, const struct data_image *in, int64_t top, int64_t end, uint8_t *out,
                   uint8_t *side)
{
    for (int64_t y = top; y < end; y += RESIZE_ROWS) {
        const uint8_t *row[RESIZE_ROWS];
        uint8_t *to[RESIZE_ROWS];
        for (int64_t i = 0; i < RESIZE_ROWS; i++) { /* beyond the last row: it again, to the same place */
            int64_t at = y + i < end ? y + i : end - 1;
            row[i] = in->px + at * in->w * 3;
            to[i] = out + (at - top) * t->out * 3;
        }
        ISA_PICK(resize_across)(t, row, to, side);
    }
}

void data_scratch_free(struct data_scratch *s)
{
    free(s->p);
    *s = (struct data_scratch){0};
}

static void *scratch_need(struct data_scratch *s, size_t bytes, struct err *e)
{
    if (s->cap >= bytes) return s->p;
    data_scratch_free(s);
    s->p = mem_try(bytes, "resizing a picture", e);
    if (s->p) s->cap = bytes;
    return s->p;
}

static struct resize_taps taps_size(int64_t out, double span, enum data_filter filter)
{
    double scale = span / (double)out;
    double support = (filter == DATA_BICUBIC ? 2.0 : 1.0) * (scale < 1 ? 1 : scale);
    return (struct resize_taps){.out = out, .size = (int64_t)ceil(support) * 2 + 1};
}

static char *taps_place(struct resize_taps *t, char *p)
{
    t->k = (int32_t *)p;
    t->first = t->k + t->out * t->size;
    t->n = t->first + t->out;
    return (char *)(t->n + t->out);
}

static size_t taps_bytes(const struct resize_taps *t)
{
    return (size_t)t->out * (size_t)(t->size + 2) * 4;
}

/* As data_image_resize into h x w pixels at `out`, whose rows are `stride` bytes apart. */
static int resize(const struct data_image *in, const struct data_box *box, enum data_filter filter, int64_t h,
                  int64_t w, uint8_t *out, int64_t stride, struct data_scratch *scratch, struct err *e)
{
    struct data_box b = box ? *box : (struct data_box){0, 0, (double)in->w, (double)in->h};
    if (!(b.x0 >= 0 && b.y0 >= 0 && b.x1 <= (double)in->w && b.y1 <= (double)in->h && b.x0 < b.x1 && b.y0 < b.y1) ||
        h < 1 || w < 1)
        return err_set(e, ERR_SHAPE,
                       "cannot cut (%g, %g)-(%g, %g) from a picture of %lld x %lld and make %lld x %lld of it", b.x0,
                       b.y0, b.x1, b.y1, (long long)in->w, (long long)in->h, (long long)w, (long long)h);
    bool x_same = w == in->w && b.x0 == 0 && b.x1 == (double)w, y_same = h == in->h && b.y0 == 0 && b.y1 == (double)h;
    if (x_same && y_same) {
        for (int64_t y = 0; y < h; y++) memcpy(out + y * stride, in->px + y * w * 3, (size_t)w * 3);
        return 0;
    }
    struct resize_taps tx = taps_size(w, b.x1 - b.x0, filter), ty = taps_size(h, b.y1 - b.y0, filter);
    int64_t bytes = w * 3, reach = ty.size / 2 + 1;
    int64_t top = (int64_t)b.y0 - reach, end = (int64_t)ceil(b.y1) + reach; /* rows that the vertical pass may read */
    top = top < 0 ? 0 : top;
    end = end > in->h ? in->h : end;
    size_t side = x_same ? 0 : (size_t)((in->w + w) * 3 * RESIZE_ROWS),
           mid = x_same ? 0 : (size_t)((end - top) * bytes);
    size_t weights = (size_t)(tx.size > ty.size ? tx.size : ty.size) * sizeof(double);
    char *p = scratch_need(scratch, weights + taps_bytes(&tx) + taps_bytes(&ty) + side + mid, e);
    if (!p) return ERR_MEMORY;
    double *weight = (double *)p;
    uint8_t *at = (uint8_t *)taps_place(&ty, taps_place(&tx, p + weights));
    const uint8_t *rows = in->px + top * in->w * 3;
    if (!x_same) {
        taps_fill(&tx, weight, in->w, b.x0, b.x1, filter);
        across(&tx, in, top, end, at, at + mid);
        rows = at;
    }
    if (y_same) {
        for (int64_t y = 0; y < h; y++) memcpy(out + y * stride, rows + y * bytes, (size_t)bytes);
        return 0;
    }
    taps_fill(&ty, weight, in->h, b.y0, b.y1, filter);
    for (int64_t y = 0; y < h; y++)
        ISA_PICK(resize_down)(ty.k + y * ty.size, ty.n[y], rows + (ty.first[y] - top) * bytes, bytes, out + y * stride);
    return 0;
}

int data_image_resize(const struct data_image *in, const struct data_box *box, enum data_filter filter,
                      struct data_image *out, struct data_scratch *scratch, struct err *e)
{
    return resize(in, box, filter, out->h, out->w, out->px, out->w * 3, scratch, e);
}

void data_image_crop(const struct data_image *in, int64_t y, int64_t x, struct data_image *out)
{
    CHECK(y >= 0 && x >= 0 && y + out->h <= in->h && x + out->w <= in->w);
    for (int64_t i = 0; i < out->h; i++)
        memcpy(out->px + i * out->w * 3, in->px + ((y + i) * in->w + x) * 3, (size_t)out->w * 3);
}

/* The box whose resizing to out x size equals: resize to `full`, then take `out` from its middle. */
static void middle(int64_t full, int64_t out, int64_t in, double *lo, double *hi)
{
    int64_t off = (full - out) / 2;
    double scale = (double)in / (double)full;
    *lo = (double)off * scale;
    *hi = full == out ? (double)in : (double)(off + out) * scale;
}

int data_image_fit(const struct data_image *in, enum data_fit fit, enum data_filter filter, struct data_image *out,
                   struct data_scratch *scratch, struct err *e)
{
    int64_t h = out->h, w = out->w;
    struct data_box box = {0, 0, (double)in->w, (double)in->h};
    bool wide = in->w * h >= in->h * w;
    if (fit == DATA_FIT_CROP) {
        if (wide)
            middle(in->w * h / in->h, w, in->w, &box.x0, &box.x1);
        else
            middle(in->h * w / in->w, h, in->h, &box.y0, &box.y1);
    } else if (fit == DATA_FIT_PAD) {
        if (wide)
            h = (in->h * w + in->w / 2) / in->w;
        else
            w = (in->w * h + in->h / 2) / in->h;
        h = h < 1 ? 1 : h;
        w = w < 1 ? 1 : w;
        memset(out->px, 255, (size_t)(out->h * out->w * 3));
    }
    uint8_t *to = out->px + ((out->h - h) / 2 * out->w + (out->w - w) / 2) * 3;
    return resize(in, &box, filter, h, w, to, out->w * 3, scratch, e);
}
