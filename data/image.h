/* Pictures: PNG and JPEG from memory to 8-bit RGB, resizing, and PNG out again.
 *
 * Only stills in sRGB as they stand: no colour profiles, no EXIF rotation, no animation (the first picture counts). */
#ifndef TRIAD_DATA_IMAGE_H
#define TRIAD_DATA_IMAGE_H

#include <stdint.h>
#include "base/buf.h"
#include "base/err.h"

#define DATA_IMAGE_MAX_PIXELS ((int64_t)1 << 28)
#define DATA_IMAGE_MAX_SIDE ((int64_t)1000000)

struct data_image {
    int64_t h, w;
    uint8_t *px; /* (h, w, 3), RGB, rows top to bottom without gaps */
};

/* Decodes `len` bytes, PNG or JPEG told by the first bytes. Palette, gray, 16-bit and interlaced PNG and gray and CMYK
 * JPEG all become RGB; transparency is laid over white. `name` is used in messages. The caller frees with
 * data_image_free. ERR_FORMAT where the bytes are neither, are truncated or corrupt, or the picture is larger than
 * DATA_IMAGE_MAX_PIXELS or DATA_IMAGE_MAX_SIDE; ERR_MEMORY. On error *im is empty. Safe from many threads. */
int data_image_decode(const char *name, const void *data, size_t len, struct data_image *im, struct err *e) MUST_CHECK;
void data_image_free(struct data_image *im); /* leaves it empty; an empty one is fine */

enum data_filter { DATA_BICUBIC, DATA_BILINEAR };

/* A part of a picture in pixels from its top left corner: x0 <= x < x1, y0 <= y < y1; corners may lie between pixels.
 */
struct data_box {
    double x0, y0, x1, y1;
};

/* Memory that resizing reuses. Zero-initialise; free with data_scratch_free. One for each thread. */
struct data_scratch {
    void *p;
    size_t cap;
};
void data_scratch_free(struct data_scratch *s);

/* Resizes `box` of `in` (NULL: all of it) to out->h x out->w; the caller has set out->h, out->w and owns out->px, which
 * must not be in->px. Antialiased: where it shrinks, the filter widens. Bit for bit what Image.resize(size, BICUBIC or
 * BILINEAR, box) of Pillow up to 11 gives: horizontally first (Pillow 13 turns the order where only the height
 * shrinks), 22-bit weights, rounded to 8 bits after each direction; bicubic is Keys 1981 with a = -0.5. Pixels around
 * the box take part in the filter, as in Pillow. ERR_SHAPE where the box is empty or leaves the picture, ERR_MEMORY;
 * out->px is then undefined. */
int data_image_resize(const struct data_image *in, const struct data_box *box, enum data_filter filter,
                      struct data_image *out, struct data_scratch *scratch, struct err *e) MUST_CHECK;

/* Copies the whole-pixel part that begins at (y, x); its size is out->h x out->w. It must lie inside `in`. */
void data_image_crop(const struct data_image *in, int64_t y, int64_t x, struct data_image *out);

/* How a picture of any shape fills h x w. */
enum data_fit {
    DATA_FIT_CROP,    /* shorter side to size, middle of the longer: torchvision's Resize + CenterCrop, as CLIP does */
    DATA_FIT_STRETCH, /* both sides to size */
    DATA_FIT_PAD,     /* longer side to size, white around it */
};

/* Resizes `in` to out->h x out->w by `fit`. Buffers and errors as data_image_resize. */
int data_image_fit(const struct data_image *in, enum data_fit fit, enum data_filter filter, struct data_image *out,
                   struct data_scratch *scratch, struct err *e) MUST_CHECK;

/* Appends the picture as a PNG file. ERR_MEMORY where libpng fails; `out` may then hold a part of it. */
int data_image_png(const struct data_image *im, struct buf *out, struct err *e) MUST_CHECK;

#endif
