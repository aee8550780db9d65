/* PNG and JPEG in every flavour against what was drawn; resizing against Pillow's numbers and a sum in double; damage.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <jpeglib.h>
#include <png.h>
#include <stdlib.h>
#include <string.h>

#include "base/isa.h"
#include "base/rng.h"
#include "data/image.h"

static uint8_t paint(int64_t y, int64_t x, int c)
{
    return (uint8_t)(y * y * 37 + x * x * x * 11 + x * y * 29 + c * 83);
}

static struct data_image painted(int64_t h, int64_t w)
{
    struct data_image im = {.h = h, .w = w, .px = malloc((size_t)(h * w * 3))};
    for (int64_t i = 0; i < h * w * 3; i++) im.px[i] = paint(i / 3 / w, i / 3 % w, (int)(i % 3));
    return im;
}

static void put(png_structp png, png_bytep data, size_t n)
{
    buf_add(png_get_io_ptr(png), data, n);
}
static void flush(png_structp png) {}

struct flavour {
    const char *name;
    int type, depth, interlace;
    bool trns;
};

static const struct flavour flavours[] = {
    {"rgb", PNG_COLOR_TYPE_RGB, 8, 0, false},
    {"rgb interlaced", PNG_COLOR_TYPE_RGB, 8, 1, false},
    {"rgb trns", PNG_COLOR_TYPE_RGB, 8, 0, true},
    {"rgb 16", PNG_COLOR_TYPE_RGB, 16, 0, false},
    {"rgba", PNG_COLOR_TYPE_RGBA, 8, 0, false},
    {"rgba 16 interlaced", PNG_COLOR_TYPE_RGBA, 16, 1, false},
    {"gray 1", PNG_COLOR_TYPE_GRAY, 1, 0, false},
    {"gray 2 interlaced", PNG_COLOR_TYPE_GRAY, 2, 1, false},
    {"gray 4 trns", PNG_COLOR_TYPE_GRAY, 4, 0, true},
    {"gray 8", PNG_COLOR_TYPE_GRAY, 8, 0, false},
    {"gray 16", PNG_COLOR_TYPE_GRAY, 16, 0, false},
    {"gray+alpha", PNG_COLOR_TYPE_GA, 8, 0, false},
    {"palette 1", PNG_COLOR_TYPE_PALETTE, 1, 0, false},
    {"palette 4 trns", PNG_COLOR_TYPE_PALETTE, 4, 0, true},
    {"palette 8 interlaced", PNG_COLOR_TYPE_PALETTE, 8, 1, true},
};

/* Sample c of a pixel at the file's depth. In 16 bits the low byte differs from the high one, to see the rounding. */
static unsigned sample(const struct flavour *f, int64_t y, int64_t x, int c)
{
    unsigned v = paint(y, x, c);
    return f->depth == 16 ? v << 8 | (unsigned)paint(x, y, c) : v >> (8 - f->depth);
}

static uint8_t over_white(unsigned v, unsigned a)
{
    return (uint8_t)((v * a + 255 * (255 - a) + 127) / 255);
}

static unsigned to8(const struct flavour *f, unsigned v)
{
    unsigned max = (1u << f->depth) - 1;
    return (v * 255 + max / 2) / max;
}

/* What a reader should see, from the PNG specification alone. */
static uint8_t expected(const struct flavour *f, int64_t y, int64_t x, int c)
{
    bool color = f->type & PNG_COLOR_MASK_COLOR, alpha = f->type & PNG_COLOR_MASK_ALPHA;
    if (f->type == PNG_COLOR_TYPE_PALETTE) {
        unsigned i = sample(f, y, x, 0);
        return over_white((i * 7 + (unsigned)c * 90) % 256, f->trns && i < 8 ? i * 30 : 255);
    }
    unsigned v = to8(f, sample(f, y, x, color ? c : 0));
    if (alpha) return over_white(v, to8(f, sample(f, y, x, color ? 3 : 1)));
    bool clear = f->trns;
    for (int i = 0; i < (color ? 3 : 1); i++) clear = clear && sample(f, y, x, i) == sample(f, 1, 1, i);
    return clear ? 255 : (uint8_t)v;
}

static void write_png(const struct flavour *f, int64_t h, int64_t w, struct buf *out)
{
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png_create_info_struct(png);
    png_set_write_fn(png, out, put, flush);
    png_set_IHDR(png, info, (png_uint_32)w, (png_uint_32)h, f->depth, f->type,
                 f->interlace ? PNG_INTERLACE_ADAM7 : PNG_INTERLACE_NONE, 0, 0);
    png_color palette[256];
    png_byte trans[8];
    for (int i = 0; i < 256; i++)
        palette[i] = (png_color){(png_byte)(i * 7), (png_byte)(i * 7 + 90), (png_byte)(i * 7 + 180)};
    for (int i = 0; i < 8; i++) trans[i] = (png_byte)(i * 30);
    if (f->type == PNG_COLOR_TYPE_PALETTE) {
        png_set_PLTE(png, info, palette, 1 << f->depth);
        if (f->trns) png_set_tRNS(png, info, trans, 8, NULL);
    } else if (f->trns) {
        png_uint_16 v[3];
        for (int c = 0; c < 3; c++) v[c] = (png_uint_16)sample(f, 1, 1, c);
        png_color_16 key = {.red = v[0], .green = v[1], .blue = v[2], .gray = v[0]};
        png_set_tRNS(png, info, NULL, 0, &key);
    }
    png_write_info(png, info);
    int channels = png_get_channels(png, info), bits = channels * f->depth;
    size_t stride = (size_t)((w * bits + 7) / 8);
    uint8_t *all = calloc((size_t)h, stride);
    png_bytep *rows = malloc((size_t)h * sizeof *rows);
    for (int64_t y = 0; y < h; y++) {
        rows[y] = all + (size_t)y * stride;
        for (int64_t x = 0; x < w; x++)
            for (int c = 0; c < channels; c++) {
                unsigned v = sample(f, y, x, c);
                int64_t at = x * channels + c;
                if (f->depth == 16) {
                    rows[y][2 * at] = (uint8_t)(v >> 8);
                    rows[y][2 * at + 1] = (uint8_t)v;
                } else if (f->depth == 8)
                    rows[y][at] = (uint8_t)v;
                else
                    rows[y][at * f->depth / 8] |= (uint8_t)(v << (8 - f->depth - at * f->depth % 8));
            }
    }
    png_write_image(png, rows);
    png_write_end(png, NULL);
    png_destroy_write_struct(&png, &info);
    free(rows);
    free(all);
}

static void png_flavours(void **state)
{
    for (size_t i = 0; i < sizeof flavours / sizeof *flavours; i++) {
        const struct flavour *f = &flavours[i];
        struct buf b = {0};
        struct data_image im;
        struct err e = {0};
        write_png(f, 9, 11, &b);
        if (data_image_decode("a.png", b.data, b.len, &im, &e)) fail_msg("%s: %s", f->name, e.msg);
        assert_int_equal(im.h, 9);
        assert_int_equal(im.w, 11);
        for (int64_t k = 0; k < 9 * 11 * 3; k++) {
            uint8_t want = expected(f, k / 33, k / 3 % 11, (int)(k % 3));
            if (im.px[k] != want)
                fail_msg("%s: y %d x %d channel %d is %d, expected %d", f->name, (int)k / 33, (int)k / 3 % 11,
                         (int)k % 3, im.px[k], want);
        }
        data_image_free(&im);
        buf_free(&b);
    }
}

static void write_jpeg(J_COLOR_SPACE space, int n, bool adobe, bool progressive, int64_t h, int64_t w,
                       const uint8_t *px, struct buf *out)
{
    struct jpeg_compress_struct c;
    struct jpeg_error_mgr em;
    unsigned char *mem = NULL;
    unsigned long len = 0;
    c.err = jpeg_std_error(&em);
    jpeg_create_compress(&c);
    jpeg_mem_dest(&c, &mem, &len);
    c.image_width = (JDIMENSION)w;
    c.image_height = (JDIMENSION)h;
    c.input_components = n;
    c.in_color_space = space;
    jpeg_set_defaults(&c);
    jpeg_set_quality(&c, 100, TRUE);
    c.comp_info[0].h_samp_factor = c.comp_info[0].v_samp_factor = 1; /* no chroma subsampling */
    if (progressive) jpeg_simple_progression(&c);
    c.write_Adobe_marker = adobe;
    jpeg_start_compress(&c, TRUE);
    for (int64_t y = 0; y < h; y++) {
        JSAMPROW row = (JSAMPROW)(px + y * w * n);
        jpeg_write_scanlines(&c, &row, 1);
    }
    jpeg_finish_compress(&c);
    jpeg_destroy_compress(&c);
    buf_add(out, mem, len);
    free(mem);
}

static void jpeg_flavours(void **state)
{
    enum { H = 21, W = 34 };
    static const struct {
        const char *name;
        J_COLOR_SPACE space;
        int n;
        bool adobe, progressive;
    } rows[] = {{"gray", JCS_GRAYSCALE, 1, false, false},
                {"rgb", JCS_RGB, 3, false, false},
                {"progressive", JCS_RGB, 3, false, true},
                {"cmyk", JCS_CMYK, 4, false, false},
                {"adobe cmyk", JCS_CMYK, 4, true, false}};
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        uint8_t px[H * W * 4];
        int n = rows[r].n;
        for (int i = 0; i < H * W * n;
             i++) { /* slow ramps: what quality 100 keeps within the rounding of its transforms */
            int x = i / n % W, y = i / n / W, c = i % n;
            px[i] = (uint8_t)(c == 0 ? 40 + 5 * x : c == 1 ? 60 + 7 * y : c == 2 ? 200 - 4 * x : 30 + 2 * x + 3 * y);
        }
        struct buf b = {0};
        struct data_image im;
        struct err e = {0};
        write_jpeg(rows[r].space, n, rows[r].adobe, rows[r].progressive, H, W, px, &b);
        if (data_image_decode("a.jpg", b.data, b.len, &im, &e)) fail_msg("%s: %s", rows[r].name, e.msg);
        assert_int_equal(im.h, H);
        assert_int_equal(im.w, W);
        for (int i = 0; i < H * W * 3; i++) {
            const uint8_t *p = px + i / 3 * n;
            int want = n == 1 ? p[0] : p[i % 3];
            if (n == 4) want = rows[r].adobe ? p[i % 3] * p[3] / 255 : (255 - p[i % 3]) * (255 - p[3]) / 255;
            if (abs(im.px[i] - want) > 3) /* YCbCr and the cosine transform round several times, a level or less each */
                fail_msg("%s: value %d is %d, expected %d", rows[r].name, i, im.px[i], want);
        }
        data_image_free(&im);
        buf_free(&b);
    }
}

static void extreme_sizes(void **state)
{
    static const int64_t sizes[][2] = {{1, 1}, {1, 20000}, {20000, 1}, {3, 1}};
    struct data_scratch scratch = {0};
    for (size_t i = 0; i < 4; i++) {
        struct data_image im = painted(sizes[i][0], sizes[i][1]), back, small = {.h = 8, .w = 8, .px = malloc(192)};
        struct buf b = {0};
        struct err e = {0};
        assert_int_equal(data_image_png(&im, &b, &e), 0);
        assert_int_equal(data_image_decode("a.png", b.data, b.len, &back, &e), 0);
        assert_int_equal(back.h, im.h);
        assert_int_equal(back.w, im.w);
        assert_memory_equal(back.px, im.px, (size_t)(im.h * im.w * 3));
        for (int fit = DATA_FIT_CROP; fit <= DATA_FIT_PAD; fit++)
            assert_int_equal(data_image_fit(&im, (enum data_fit)fit, DATA_BICUBIC, &small, &scratch, &e), 0);
        data_image_free(&im);
        data_image_free(&back);
        data_image_free(&small);
        buf_free(&b);
    }
    data_scratch_free(&scratch);
}

static void set32(char *p, uint32_t v)
{
    for (int i = 0; i < 4; i++) p[i] = (char)(v >> (24 - 8 * i));
}

static void must_fail(const void *data, size_t len, const char *part)
{
    struct data_image im = {.px = (uint8_t *)1};
    struct err e = {0};
    assert_int_equal(data_image_decode("dir/bad.png", data, len, &im, &e), ERR_FORMAT);
    assert_null(im.px);
    assert_ptr_equal(strstr(e.msg, "dir/bad.png: "), e.msg);
    if (!strstr(e.msg, part)) fail_msg("expected '%s' in '%s'", part, e.msg);
}

static void bad_headers(void **state)
{
    must_fail("", 0, "empty");
    must_fail("GIF89a..", 8, "neither PNG nor JPEG");
    must_fail("\x89PNG\r\n\x1a\n", 8, "ends early");
    must_fail("\xff\xd8\xff\xd9", 4, "JPEG");
    static const struct {
        uint32_t w, h;
        const char *part;
    } rows[] = {{0, 5, "PNG"},
                {2000000, 1, "PNG"},
                {900000, 900000, "more than triad takes"},
                {16000, 16000, "cannot be in"},
                {0xffffffff, 1, "PNG"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct buf b = {0};
        write_png(&flavours[0], 4, 4, &b);
        set32(b.data + 16, rows[i].w);
        set32(b.data + 20, rows[i].h);
        uint32_t crc = ~0u; /* of type and content, PNG specification, annex D */
        for (int k = 12; k < 29; k++) {
            crc ^= (uint8_t)b.data[k];
            for (int j = 0; j < 8; j++) crc = crc & 1 ? 0xedb88320u ^ crc >> 1 : crc >> 1;
        }
        set32(b.data + 29, ~crc);
        must_fail(b.data, b.len, rows[i].part);
        buf_free(&b);
    }
}

static void truncated_and_damaged(void **state)
{
    struct data_image im = painted(17, 19);
    for (int kind = 0; kind < 4; kind++) { /* PNG plain, PNG interlaced with alpha, JPEG, progressive JPEG */
        struct buf b = {0};
        if (kind < 2)
            write_png(&flavours[kind ? 5 : 0], 17, 19, &b);
        else
            write_jpeg(JCS_RGB, 3, false, kind == 3, 17, 19, im.px, &b);
        for (size_t n = 0; n < b.len; n++) {
            char *cut = malloc(n ? n : 1); /* exactly as long, so that a read beyond its end is seen */
            memcpy(cut, b.data, n);
            must_fail(cut, n, "");
            free(cut);
        }
        struct rng r = rng_make(7, (uint64_t)kind, 0);
        for (int t = 0; t < 400;
             t++) { /* a changed byte: an error or a picture, never a crash; a PNG's checksums see it */
            size_t at = (size_t)rng_below(&r, (int64_t)b.len);
            char old = b.data[at];
            b.data[at] = (char)(b.data[at] ^ (1 << rng_below(&r, 8)));
            struct data_image out;
            struct err e = {0};
            int rc = data_image_decode("a", b.data, b.len, &out, &e);
            if (kind < 2) assert_int_equal(rc, ERR_FORMAT);
            if (!rc) data_image_free(&out);
            b.data[at] = old;
        }
        buf_free(&b);
    }
    data_image_free(&im);
}

static void harmless_jpeg_warnings(void **state)
{
    struct data_image im = painted(16, 16), out;
    struct buf b = {0}, c = {0};
    struct err e = {0};
    write_jpeg(JCS_RGB, 3, false, false, 16, 16, im.px, &b);
    buf_add(&c, b.data, 20); /* SOI and JFIF, then bytes that belong to no marker */
    buf_add(&c, "xx", 2);
    buf_add(&c, b.data + 20, b.len - 20);
    buf_add(&c, "behind the end", 14);
    if (data_image_decode("a", c.data, c.len, &out, &e)) fail_msg("%s", e.msg);
    data_image_free(&out);
    data_image_free(&im);
    buf_free(&b);
    buf_free(&c);
}

/* Pillow 11.3: Image.fromarray(paint 5x7).resize(...) */
static const struct {
    int64_t h, w;
    enum data_filter filter;
    struct data_box box;
    uint8_t want[54];
} pillow[] = {
    {3, 4, DATA_BICUBIC, {0, 0, 7, 5}, {24,  107, 195, 105, 129, 181, 120, 121, 146, 56,  135, 161,
                                        143, 130, 138, 133, 142, 68,  74,  178, 132, 50,  138, 170,
                                        131, 99,  182, 149, 141, 112, 179, 107, 76,  147, 163, 131}},
    {3, 4, DATA_BILINEAR, {0, 0, 7, 5}, {31,  109, 192, 101, 127, 179, 116, 123, 146, 62,  137, 158,
                                         137, 132, 134, 128, 142, 79,  82,  165, 135, 57,  140, 167,
                                         129, 103, 179, 149, 139, 116, 175, 112, 85,  145, 158, 132}},
    {4, 3, DATA_BICUBIC, {1.5, 0.25, 5.75, 4.5}, {79,  126, 212, 107, 127, 178, 122, 109, 88, 155, 83,  97,
                                                  140, 208, 92,  35,  129, 244, 131, 117, 99, 90,  201, 51,
                                                  52,  151, 122, 145, 125, 136, 160, 137, 84, 172, 125, 62}},
    {2, 9, DATA_BICUBIC, {0, 0, 7, 5}, {49,  135, 153, 72,  117, 184, 107, 100, 171, 126, 121, 124, 105, 196,
                                        104, 117, 131, 181, 73,  121, 149, 40,  135, 143, 52,  135, 215, 91,
                                        186, 205, 172, 63,  137, 165, 86,  110, 112, 190, 109, 154, 148, 56,
                                        138, 137, 101, 129, 121, 107, 119, 141, 124, 105, 192, 168}},
};

static void resize_as_pillow(void **state)
{
    struct data_image im = painted(5, 7);
    struct data_scratch scratch = {0};
    for (size_t i = 0; i < sizeof pillow / sizeof *pillow; i++) {
        uint8_t px[54];
        struct data_image out = {.h = pillow[i].h, .w = pillow[i].w, .px = px};
        struct err e = {0};
        assert_int_equal(data_image_resize(&im, &pillow[i].box, pillow[i].filter, &out, &scratch, &e), 0);
        assert_memory_equal(px, pillow[i].want, (size_t)(out.h * out.w * 3));
    }
    data_image_free(&im);
    data_scratch_free(&scratch);
}

/* Every instruction set gives the same bytes, also beside every vector's length and for cuts. */
static void resize_on_every_isa(void **state)
{
    enum isa before = isa_now();
    struct rng r = rng_make(11, 0, 0);
    struct data_scratch scratch = {0};
    for (int t = 0; t < 300; t++) {
        int64_t most = t < 200 ? 24 : 130;
        struct data_image im = painted(1 + rng_below(&r, most), 1 + rng_below(&r, most));
        int64_t h = 1 + rng_below(&r, most), w = 1 + rng_below(&r, most);
        struct data_box b = {0, 0, (double)im.w, (double)im.h};
        if (t % 2) {
            b.x0 = rng_range(&r, 0, 0.5) * (double)im.w, b.x1 = rng_range(&r, 0.6, 1) * (double)im.w;
            b.y0 = rng_range(&r, 0, 0.5) * (double)im.h, b.y1 = rng_range(&r, 0.6, 1) * (double)im.h;
        }
        uint8_t *px[3];
        for (int i = 0; i < 3; i++) {
            struct err e = {0};
            px[i] = malloc((size_t)(h * w * 3));
            struct data_image out = {.h = h, .w = w, .px = px[i]};
            isa_use((enum isa)i);
            if (data_image_resize(&im, &b, t % 3 ? DATA_BICUBIC : DATA_BILINEAR, &out, &scratch, &e))
                fail_msg("%s", e.msg);
            assert_memory_equal(px[i], px[0], (size_t)(h * w * 3));
        }
        for (int i = 0; i < 3; i++) free(px[i]);
        data_image_free(&im);
    }
    isa_use(before);
    data_scratch_free(&scratch);
}

static double kernel(enum data_filter f, double x)
{
    x = fabs(x);
    if (f == DATA_BILINEAR) return x < 1 ? 1 - x : 0;
    if (x < 1) return 1.5 * x * x * x - 2.5 * x * x + 1;
    return x < 2 ? -0.5 * x * x * x + 2.5 * x * x - 4 * x + 2 : 0;
}

/* The weights of output pixel i along one side; their sum is 1. */
static void weights(enum data_filter f, int64_t in, double b0, double b1, int64_t out, int64_t i, double *w)
{
    double scale = (b1 - b0) / (double)out, wide = scale > 1 ? scale : 1, sum = 0;
    for (int64_t x = 0; x < in; x++) sum += w[x] = kernel(f, ((double)x + 0.5 - b0 - ((double)i + 0.5) * scale) / wide);
    for (int64_t x = 0; x < in; x++) w[x] /= sum;
}

static void resize_as_a_sum(void **state)
{
    static const struct {
        int64_t ih, iw, oh, ow;
        struct data_box box; /* zero: all */
    } rows[] = {{40, 31, 13, 17, {0, 0, 0, 0}},  {13, 17, 40, 31, {0, 0, 0, 0}},
                {1, 50, 4, 7, {0, 0, 0, 0}},     {30, 30, 30, 11, {0, 0, 0, 0}},
                {30, 30, 11, 30, {0, 0, 0, 0}},  {50, 40, 9, 8, {3, 7, 33, 49}},
                {50, 40, 9, 8, {39, 0, 40, 50}}, {20, 20, 5, 5, {2.25, 3.5, 15.75, 18.125}}};
    struct data_scratch scratch = {0};
    for (size_t r = 0; r < 2 * sizeof rows / sizeof *rows; r++) {
        int64_t ih = rows[r / 2].ih, iw = rows[r / 2].iw, oh = rows[r / 2].oh, ow = rows[r / 2].ow;
        enum data_filter f = r % 2 ? DATA_BILINEAR : DATA_BICUBIC;
        struct data_box b = rows[r / 2].box;
        if (b.x1 == 0) b = (struct data_box){0, 0, (double)iw, (double)ih};
        struct data_image im = painted(ih, iw), out = {.h = oh, .w = ow, .px = malloc((size_t)(oh * ow * 3))};
        struct err e = {0};
        assert_int_equal(data_image_resize(&im, &b, f, &out, &scratch, &e), 0);
        double wy[64], wx[64];
        for (int64_t k = 0; k < oh * ow * 3; k++) {
            weights(f, ih, b.y0, b.y1, oh, k / 3 / ow, wy);
            weights(f, iw, b.x0, b.x1, ow, k / 3 % ow, wx);
            double want = 0;
            for (int64_t y = 0; y < ih; y++) { /* clamped between the directions, as 8 bits are */
                double across = 0;
                for (int64_t x = 0; x < iw; x++) across += wx[x] * im.px[(y * iw + x) * 3 + k % 3];
                want += wy[y] * fmin(255, fmax(0, across));
            }
            want = fmin(255, fmax(0, want));
            /* half a level from the last rounding, and half a level times the sum of |weights| (at most 1.25) from the
             * first */
            if (fabs(want - out.px[k]) > 1.13)
                fail_msg("row %zu value %d: %d, expected %.3f", r, (int)k, out.px[k], want);
        }
        data_image_free(&im);
        data_image_free(&out);
    }
    data_scratch_free(&scratch);
}

static void fit_crop_is_resize_then_middle(void **state)
{
    static const int64_t sizes[][4] = {
        {40, 70, 16, 16}, {71, 40, 16, 16}, {33, 33, 16, 16}, {5, 9, 16, 16}, {60, 45, 12, 20}};
    struct data_scratch scratch = {0};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        int64_t ih = sizes[i][0], iw = sizes[i][1], h = sizes[i][2], w = sizes[i][3];
        bool wide = iw * h >= ih * w;
        struct data_image im = painted(ih, iw), fit = {.h = h, .w = w, .px = malloc((size_t)(h * w * 3))};
        struct data_image mid = {.h = h, .w = w, .px = malloc((size_t)(h * w * 3))};
        struct data_image full = {.h = wide ? h : ih * w / iw, .w = wide ? iw * h / ih : w};
        full.px = malloc((size_t)(full.h * full.w * 3));
        struct err e = {0};
        assert_int_equal(data_image_fit(&im, DATA_FIT_CROP, DATA_BICUBIC, &fit, &scratch, &e), 0);
        assert_int_equal(data_image_resize(&im, NULL, DATA_BICUBIC, &full, &scratch, &e), 0);
        data_image_crop(&full, (full.h - h) / 2, (full.w - w) / 2, &mid);
        assert_memory_equal(fit.px, mid.px, (size_t)(h * w * 3));
        data_image_free(&im);
        data_image_free(&fit);
        data_image_free(&mid);
        data_image_free(&full);
    }
    data_scratch_free(&scratch);
}

static void fit_pad_and_bad_boxes(void **state)
{
    struct data_image im = painted(10, 20), out = {.h = 12, .w = 12, .px = malloc(432)},
                      part = {.h = 6, .w = 12, .px = malloc(216)};
    struct data_scratch scratch = {0};
    struct err e = {0};
    assert_int_equal(data_image_fit(&im, DATA_FIT_PAD, DATA_BILINEAR, &out, &scratch, &e), 0);
    assert_int_equal(data_image_resize(&im, NULL, DATA_BILINEAR, &part, &scratch, &e), 0);
    for (int i = 0; i < 108; i++) assert_int_equal(out.px[i] & out.px[432 - 1 - i], 255);
    assert_memory_equal(out.px + 108, part.px, 216);
    static const struct data_box bad[] = {{0, 0, 21, 10}, {-1, 0, 5, 5}, {3, 3, 3, 5}, {0, 0, NAN, 5}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        err_clear(&e);
        assert_int_equal(data_image_resize(&im, &bad[i], DATA_BICUBIC, &out, &scratch, &e), ERR_SHAPE);
    }
    data_image_free(&im);
    data_image_free(&out);
    data_image_free(&part);
    data_scratch_free(&scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(png_flavours),          cmocka_unit_test(jpeg_flavours),
        cmocka_unit_test(extreme_sizes),         cmocka_unit_test(bad_headers),
        cmocka_unit_test(truncated_and_damaged), cmocka_unit_test(harmless_jpeg_warnings),
        cmocka_unit_test(resize_as_pillow),      cmocka_unit_test(resize_on_every_isa),
        cmocka_unit_test(resize_as_a_sum),       cmocka_unit_test(fit_crop_is_resize_then_middle),
        cmocka_unit_test(fit_pad_and_bad_boxes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
