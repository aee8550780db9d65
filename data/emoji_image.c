/* Pictures: HarfBuzz finds the one glyph of a sequence (joiners and skin tones included), FreeType unpacks the font's
 * colour bitmap, which is laid on white and scaled. Every rounding is Pillow's, so that the pictures are those of a
 * data set made with Python, byte for byte. */
#include "data/emoji_parts.h"

#include <ft2build.h>
#include FT_FREETYPE_H
#include <hb.h>
#include <math.h>
#include <png.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/file.h"

struct emoji_font {
    FT_Library lib;
    FT_Face face;
    hb_blob_t *blob;
    hb_face_t *hb_face;
    hb_font_t *hb_font;
};

void emoji_font_close(struct emoji_font *f)
{
    if (!f) return;
    hb_font_destroy(f->hb_font);
    hb_face_destroy(f->hb_face);
    hb_blob_destroy(f->blob);
    if (f->face) FT_Done_Face(f->face);
    if (f->lib) FT_Done_FreeType(f->lib);
    free(f);
}

struct emoji_font *emoji_font_open(const char *path, struct err *e)
{
    if (!file_exists(path)) {
        err_set(e, ERR_IO, "%s: not found; install it: apt-get install fonts-noto-color-emoji", path);
        return NULL;
    }
    struct emoji_font *f = mem_zero(1, sizeof *f);
    if (FT_Init_FreeType(&f->lib) || FT_New_Face(f->lib, path, 0, &f->face) || FT_Select_Size(f->face, 0)) {
        err_set(e, ERR_FORMAT, "%s: not a font with colour bitmaps; reinstall fonts-noto-color-emoji", path);
        emoji_font_close(f);
        return NULL;
    }
    f->blob = hb_blob_create_from_file(path);
    f->hb_face = hb_face_create(f->blob, 0);
    f->hb_font = hb_font_create(f->hb_face);
    return f;
}

/* The glyph of a whole sequence, or -1. */
static int64_t find_glyph(const struct emoji_font *f, const char *text)
{
    hb_buffer_t *b = hb_buffer_create();
    hb_buffer_add_utf8(b, text, -1, 0, -1);
    hb_buffer_guess_segment_properties(b);
    hb_shape(f->hb_font, b, NULL, 0);
    unsigned n;
    const hb_glyph_info_t *g = hb_buffer_get_glyph_infos(b, &n);
    int64_t glyph = n == 1 && g[0].codepoint ? (int64_t)g[0].codepoint : -1;
    hb_buffer_destroy(b);
    return glyph;
}

/* Pillow's alpha_composite over opaque white, of one channel: 7 fractional bits, and x / 255 as ((x >> 8) + x) >> 8. */
static uint8_t over_white(unsigned c, unsigned alpha)
{
    if (alpha == 0) return 255;
    unsigned sum = alpha * 255 + 255 * (255 - alpha), k = alpha * 255 * 255 * 128 / sum;
    unsigned t = c * k + 255 * (255 * 128 - k) + (0x80 << 7);
    return (uint8_t)((((t >> 8) + t) >> 8) >> 7);
}

int emoji_picture(struct emoji_font *f, const char *text, int size, uint8_t *rgb, struct err *e)
{
    int64_t glyph = find_glyph(f, text);
    if (glyph < 0 || FT_Load_Glyph(f->face, (FT_UInt)glyph, FT_LOAD_COLOR) ||
        f->face->glyph->bitmap.pixel_mode != FT_PIXEL_MODE_BGRA || f->face->glyph->bitmap.rows == 0)
        return err_set(e, ERR_FORMAT,
                       "%s has no single colour picture of %s: it is older than the Unicode list; upgrade "
                       "fonts-noto-color-emoji",
                       EMOJI_FONT, text);
    const FT_Bitmap *b = &f->face->glyph->bitmap;
    int w = (int)b->width, h = (int)b->rows, side = w > h ? w : h, left = (side - w) / 2, top = (side - h) / 2;
    uint8_t *square = mem_alloc((size_t)side * (size_t)side * 3);
    memset(square, 255, (size_t)side * (size_t)side * 3);
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            const uint8_t *p = b->buffer + y * b->pitch + x * 4; /* blue, green, red, alpha */
            uint8_t *q = square + ((size_t)(y + top) * (size_t)side + (size_t)(x + left)) * 3;
            for (int c = 0; c < 3; c++) q[c] = over_white(p[2 - c], p[3]);
        }
    emoji_resize(square, side, size, rgb);
    free(square);
    return 0;
}

/* Keys 1981, "Cubic convolution interpolation", eq. 4 with a = -1/2. */
static double cubic(double x)
{
    x = fabs(x);
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
}

enum { FIXED = 22 }; /* fractional bits of a weight: 8-bit pixels and a sum of weights near 1 leave 2 to spare */

/* The weights of one output pixel over inputs *from .. *from + the result. */
static int weights(int n, int size, int at, int *from, int32_t *w, double *tmp)
{
    double scale = (double)n / size, wide = scale < 1 ? 1 : scale, support = 2 * wide, center = (at + 0.5) * scale;
    int lo = (int)(center - support + 0.5), hi = (int)(center + support + 0.5);
    if (lo < 0) lo = 0;
    if (hi > n) hi = n;
    double sum = 0, inverse = 1.0 / wide;
    for (int i = 0; i < hi - lo; i++) sum += tmp[i] = cubic((i + lo - center + 0.5) * inverse);
    for (int i = 0; i < hi - lo; i++) {
        double v = sum != 0 ? tmp[i] / sum : tmp[i];
        w[i] = (int32_t)(v * (1 << FIXED) + (v < 0 ? -0.5 : 0.5));
    }
    *from = lo;
    return hi - lo;
}

static uint8_t clip(int32_t v)
{
    v >>= FIXED;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

/* One pass: scales along x and turns, so that two passes scale both ways and turn back. in (rows, n, 3) -> out (size,
 * rows, 3) */
static void pass(const uint8_t *in, int rows, int n, int size, uint8_t *out)
{
    size_t room = (size_t)(n > size ? n : size) + 8;
    int32_t *w = mem_alloc(room * sizeof *w);
    double *tmp = mem_alloc(room * sizeof *tmp);
    for (int at = 0; at < size; at++) {
        int from, k = weights(n, size, at, &from, w, tmp);
        for (int y = 0; y < rows; y++) {
            const uint8_t *p = in + ((size_t)y * (size_t)n + (size_t)from) * 3;
            int32_t sum[3] = {1 << (FIXED - 1), 1 << (FIXED - 1), 1 << (FIXED - 1)};
            for (int i = 0; i < k; i++)
                for (int c = 0; c < 3; c++) sum[c] += p[i * 3 + c] * w[i];
            for (int c = 0; c < 3; c++) out[((size_t)at * (size_t)rows + (size_t)y) * 3 + (size_t)c] = clip(sum[c]);
        }
    }
    free(w);
    free(tmp);
}

void emoji_resize(const uint8_t *rgb, int n, int size, uint8_t *out)
{
    uint8_t *turned = mem_alloc((size_t)n * (size_t)size * 3);
    pass(rgb, n, n, size, turned);
    pass(turned, size, n, size, out);
    free(turned);
}

static void png_write(png_structp png, png_bytep data, png_size_t n)
{
    buf_add(png_get_io_ptr(png), data, n);
}
static void png_nothing(png_structp png) {}

int emoji_png(const uint8_t *rgb, int size, char **data, size_t *len, struct err *e)
{
    *data = NULL;
    *len = 0;
    struct buf *b = mem_zero(1, sizeof *b);
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    int rc = 0;
    if (!info || setjmp(png_jmpbuf(png)))
        rc = err_set(e, ERR_MEMORY, "libpng could not write a picture");
    else {
        png_set_write_fn(png, b, png_write, png_nothing);
        png_set_IHDR(png, info, (png_uint_32)size, (png_uint_32)size, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
                     PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
        png_write_info(png, info);
        for (int y = 0; y < size; y++) png_write_row(png, rgb + (size_t)y * (size_t)size * 3);
        png_write_end(png, info);
        *data = b->data;
        *len = b->len;
    }
    if (rc) buf_free(b);
    free(b);
    png_destroy_write_struct(&png, &info);
    return rc;
}
