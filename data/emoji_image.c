/* Pictures: HarfBuzz finds the one glyph of a sequence (joiners and skin tones included), FreeType unpacks the font's
 * colour bitmap, which is laid on white and scaled (data/image.h). Every rounding is Pillow's, so that the pictures are
 * those of a data set made with Python, byte for byte. */
#include "data/emoji_parts.h"

#include <ft2build.h>
#include FT_FREETYPE_H
#include <hb.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/library.h"
#include "data/image.h"

/* What is used of the two libraries, which are loaded when the first font is opened: with what they bring they would take a
 * fifth of the program's start. */
#define FREETYPE_NAMES(X) \
    X(FT_Done_Face)       \
    X(FT_Done_FreeType)   \
    X(FT_Init_FreeType)   \
    X(FT_Load_Glyph)      \
    X(FT_New_Face)        \
    X(FT_Select_Size)
#define HARFBUZZ_NAMES(X)                 \
    X(hb_blob_create_from_file)           \
    X(hb_blob_destroy)                    \
    X(hb_buffer_add_utf8)                 \
    X(hb_buffer_create)                   \
    X(hb_buffer_destroy)                  \
    X(hb_buffer_get_glyph_infos)          \
    X(hb_buffer_guess_segment_properties) \
    X(hb_face_create)                     \
    X(hb_face_destroy)                    \
    X(hb_font_create)                     \
    X(hb_font_destroy)                    \
    X(hb_shape)
static struct {
#define X(name) __typeof__(name) *name;
    FREETYPE_NAMES(X) HARFBUZZ_NAMES(X)
#undef X
} fonts;

static int load_libraries(struct err *e)
{
#define X(name) #name,
    static const char *const freetype[] = {FREETYPE_NAMES(X) NULL}, *const harfbuzz[] = {HARFBUZZ_NAMES(X) NULL};
#undef X
    enum { FREETYPE = sizeof freetype / sizeof *freetype - 1, HARFBUZZ = sizeof harfbuzz / sizeof *harfbuzz - 1 };
    _Static_assert(sizeof fonts == (FREETYPE + HARFBUZZ) * sizeof(void *), "one pointer a name, in their order");
    void *address[FREETYPE + HARFBUZZ];
    if (fonts.FT_Init_FreeType) return 0;
    if (!library_load(
            &(struct library){FREETYPE_SONAME, "emoji need FreeType", "install libfreetype6 (apt-get)", freetype},
            address, e) ||
        !library_load(
            &(struct library){HARFBUZZ_SONAME, "emoji need HarfBuzz", "install libharfbuzz0b (apt-get)", harfbuzz},
            address + FREETYPE, e))
        return e->code;
    memcpy(&fonts, address, sizeof fonts);
    return 0;
}

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
    fonts.hb_font_destroy(f->hb_font);
    fonts.hb_face_destroy(f->hb_face);
    fonts.hb_blob_destroy(f->blob);
    if (f->face) fonts.FT_Done_Face(f->face);
    if (f->lib) fonts.FT_Done_FreeType(f->lib);
    free(f);
}

struct emoji_font *emoji_font_open(const char *path, struct err *e)
{
    if (!file_exists(path)) {
        err_set(e, ERR_IO, "%s: not found; install it: apt-get install fonts-noto-color-emoji", path);
        return NULL;
    }
    if (load_libraries(e)) return NULL;
    struct emoji_font *f = mem_zero(1, sizeof *f);
    if (fonts.FT_Init_FreeType(&f->lib) || fonts.FT_New_Face(f->lib, path, 0, &f->face) ||
        fonts.FT_Select_Size(f->face, 0)) {
        err_set(e, ERR_FORMAT, "%s: not a font with colour bitmaps; reinstall fonts-noto-color-emoji", path);
        emoji_font_close(f);
        return NULL;
    }
    f->blob = fonts.hb_blob_create_from_file(path);
    f->hb_face = fonts.hb_face_create(f->blob, 0);
    f->hb_font = fonts.hb_font_create(f->hb_face);
    return f;
}

/* The glyph of a whole sequence, or -1. */
static int64_t find_glyph(const struct emoji_font *f, const char *text)
{
    hb_buffer_t *b = fonts.hb_buffer_create();
    fonts.hb_buffer_add_utf8(b, text, -1, 0, -1);
    fonts.hb_buffer_guess_segment_properties(b);
    fonts.hb_shape(f->hb_font, b, NULL, 0);
    unsigned n;
    const hb_glyph_info_t *g = fonts.hb_buffer_get_glyph_infos(b, &n);
    int64_t glyph = n == 1 && g[0].codepoint ? (int64_t)g[0].codepoint : -1;
    fonts.hb_buffer_destroy(b);
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

int emoji_picture(struct emoji_font *f, const char *text, int size, struct buf *png, struct err *e)
{
    int64_t glyph = find_glyph(f, text);
    if (glyph < 0 || fonts.FT_Load_Glyph(f->face, (FT_UInt)glyph, FT_LOAD_COLOR) ||
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
    uint8_t *small = mem_alloc((size_t)size * (size_t)size * 3);
    struct data_image in = {.h = side, .w = side, .px = square}, out = {.h = size, .w = size, .px = small};
    struct data_scratch scratch = {0};
    int rc = data_image_resize(&in, NULL, DATA_BICUBIC, &out, &scratch, e);
    if (!rc) rc = data_image_png(&out, png, e);
    data_scratch_free(&scratch);
    free(square);
    free(small);
    return rc;
}
