/* Decoding by libpng and libjpeg. Both report errors by a longjmp: everything that must be freed lives in a struct that
 * the caller of setjmp owns, so that a jump loses nothing. Resizing is in data/resize.c. */
#include "data/image.h"

#include <stdio.h> /* before jpeglib.h, which needs it */
#include <jerror.h>
#include <jpeglib.h>
#include <png.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum { JPEG_MAX_SCANS = 200 };

struct decoder {
    const char *name;
    const unsigned char *data;
    size_t len, at;
    struct data_image im;
    struct err *e;
    jmp_buf jump;
};

static int too_large(struct decoder *d, int64_t w, int64_t h)
{
    return err_set(d->e, ERR_FORMAT,
                   "%s: a picture of %lld x %lld pixels is more than triad takes (%lld in all, %lld a side)", d->name,
                   (long long)w, (long long)h, (long long)DATA_IMAGE_MAX_PIXELS, (long long)DATA_IMAGE_MAX_SIDE);
}

/* Checks the size that a header claims against our limits and against what so few bytes could hold at best, so that a
 * small broken file cannot ask for much memory; then allocates. */
static int claim(struct decoder *d, int64_t w, int64_t h, int channels, int64_t pixels_in_a_byte)
{
    if (w < 1 || h < 1)
        return err_set(d->e, ERR_FORMAT, "%s: corrupt picture: its size is %lld x %lld", d->name, (long long)w,
                       (long long)h);
    if (w > DATA_IMAGE_MAX_SIDE || h > DATA_IMAGE_MAX_SIDE || w * h > DATA_IMAGE_MAX_PIXELS) return too_large(d, w, h);
    if (w * h / pixels_in_a_byte > (int64_t)d->len)
        return err_set(d->e, ERR_FORMAT, "%s: truncated or corrupt picture: %lld x %lld pixels cannot be in %zu bytes",
                       d->name, (long long)w, (long long)h, d->len);
    d->im.px = mem_try((size_t)(w * h) * (size_t)channels, d->name, d->e);
    if (!d->im.px) return ERR_MEMORY;
    d->im.w = w;
    d->im.h = h;
    return 0;
}

/* PNG */

static void png_fail(png_structp png, const char *why)
{
    struct decoder *d = png_get_error_ptr(png);
    err_set(d->e, ERR_FORMAT, "%s: truncated or corrupt PNG: %s", d->name, why);
    longjmp(d->jump, 1);
}

static void png_hush(png_structp png, const char *why) {}

static void png_take(png_structp png, png_bytep out, size_t n)
{
    struct decoder *d = png_get_io_ptr(png);
    if (n > d->len - d->at) png_error(png, "the file ends early");
    memcpy(out, d->data + d->at, n);
    d->at += n;
}

static void over_white(struct data_image *im)
{
    const uint8_t *in = im->px;
    uint8_t *out = im->px; /* never ahead of `in` */
    for (int64_t i = 0; i < im->h * im->w; i++, in += 4, out += 3) {
        int a = in[3];
        for (int c = 0; c < 3; c++) out[c] = (uint8_t)((in[c] * a + 255 * (255 - a) + 127) / 255);
    }
}

/* Everything between setjmp and its landing. */
static int png_read_all(struct decoder *d, png_structp png, png_infop info)
{
    png_set_read_fn(png, d, png_take);
    png_set_user_limits(png, (png_uint_32)DATA_IMAGE_MAX_SIDE, (png_uint_32)DATA_IMAGE_MAX_SIDE);
    png_read_info(png, info);
    int64_t w = png_get_image_width(png, info), h = png_get_image_height(png, info);
    bool alpha = (png_get_color_type(png, info) & PNG_COLOR_MASK_ALPHA) || png_get_valid(png, info, PNG_INFO_tRNS);
    png_set_expand(png);
    png_set_scale_16(png);
    png_set_gray_to_rgb(png);
    int passes = png_set_interlace_handling(png);
    png_read_update_info(png, info);
    int channels = png_get_channels(png, info);
    CHECK(channels == (alpha ? 4 : 3) && png_get_bit_depth(png, info) == 8);
    int rc = claim(d, w, h, channels, 8 * 1032); /* 8 pixels a byte in 1-bit pictures, deflate gives 1032 : 1 at most */
    if (rc) return rc;
    for (int p = 0; p < passes; p++)
        for (int64_t y = 0; y < h; y++) png_read_row(png, d->im.px + y * w * channels, NULL);
    png_read_end(png, NULL);
    if (alpha) over_white(&d->im);
    return 0;
}

static int decode_png(struct decoder *d)
{
    png_infop info = NULL;
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, d, png_fail, png_hush);
    if (png) info = png_create_info_struct(png);
    int rc;
    if (!info)
        rc = err_set(d->e, ERR_MEMORY, "%s: not enough memory to read a PNG", d->name);
    else if (setjmp(d->jump))
        rc = d->e->code;
    else
        rc = png_read_all(d, png, info);
    png_destroy_read_struct(&png, &info, NULL);
    return rc;
}

/* JPEG */

struct jpeg_state {
    struct jpeg_decompress_struct c;
    struct jpeg_error_mgr err;
    struct jpeg_progress_mgr progress;
    struct decoder *d;
    unsigned char *row; /* of a CMYK picture */
};

static void jpeg_fail(j_common_ptr c)
{
    struct jpeg_state *s = c->client_data;
    char why[JMSG_LENGTH_MAX];
    c->err->format_message(c, why);
    err_set(s->d->e, ERR_FORMAT, "%s: truncated or corrupt JPEG: %s", s->d->name, why);
    longjmp(s->d->jump, 1);
}

/* libjpeg calls damage a warning and paints the rest gray; for training data it is an error. Some are harmless. */
static void jpeg_message(j_common_ptr c, int level)
{
    if (level >= 0) return;
    switch (c->err->msg_code) {
    case JWRN_EXTRANEOUS_DATA:
    case JWRN_ADOBE_XFORM:
    case JWRN_JFIF_MAJOR:
    case JWRN_TOO_MUCH_DATA: return;
    default: jpeg_fail(c);
    }
}

/* A progressive picture may hold endless scans of a few bytes that each cost a walk over all pixels. */
static void jpeg_scans(j_common_ptr c)
{
    struct jpeg_state *s = c->client_data;
    if (s->c.input_scan_number <= JPEG_MAX_SCANS) return;
    err_set(s->d->e, ERR_FORMAT, "%s: corrupt JPEG: more than %d scans", s->d->name, JPEG_MAX_SCANS);
    longjmp(s->d->jump, 1);
}

/* Adobe's programs write CMYK inverted: then a sample is how much light is left. */
static void cmyk_to_rgb(const unsigned char *in, uint8_t *out, int64_t n, bool inverted)
{
    for (int64_t i = 0; i < n; i++, in += 4, out += 3)
        for (int c = 0; c < 3; c++) {
            int ink = inverted ? in[c] : 255 - in[c], black = inverted ? in[3] : 255 - in[3];
            out[c] = (uint8_t)((ink * black + 127) / 255);
        }
}

static int jpeg_read_all(struct jpeg_state *s)
{
    struct decoder *d = s->d;
    struct jpeg_decompress_struct *c = &s->c;
    jpeg_create_decompress(c);
    c->progress = &s->progress;
    jpeg_mem_src(c, d->data, d->len);
    jpeg_read_header(c, TRUE);
    bool cmyk = c->jpeg_color_space == JCS_CMYK || c->jpeg_color_space == JCS_YCCK;
    c->out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
    int64_t w = c->image_width, h = c->image_height;
    int rc = claim(d, w, h, 3, 1024); /* a block of 64 pixels takes at least a bit, 512 pixels a byte */
    if (rc) return rc;
    if (cmyk && !(s->row = mem_try((size_t)w * 4, d->name, d->e))) return ERR_MEMORY;
    jpeg_start_decompress(c);
    while (c->output_scanline < c->output_height) {
        uint8_t *out = d->im.px + (int64_t)c->output_scanline * w * 3;
        JSAMPROW row = cmyk ? s->row : out;
        jpeg_read_scanlines(c, &row, 1);
        if (cmyk) cmyk_to_rgb(s->row, out, w, c->saw_Adobe_marker);
    }
    jpeg_finish_decompress(c);
    return 0;
}

static int decode_jpeg(struct decoder *d)
{
    struct jpeg_state s = {.d = d};
    s.c.err = jpeg_std_error(&s.err);
    s.err.error_exit = jpeg_fail;
    s.err.emit_message = jpeg_message;
    s.progress.progress_monitor = jpeg_scans;
    s.c.client_data = &s;
    int rc = setjmp(d->jump) ? d->e->code : jpeg_read_all(&s);
    jpeg_destroy_decompress(&s.c);
    free(s.row);
    return rc;
}

int data_image_decode(const char *name, const void *data, size_t len, struct data_image *im, struct err *e)
{
    struct err own = {0};
    struct decoder d = {.name = name, .data = data, .len = len, .e = &own};
    int rc;
    *im = (struct data_image){0};
    if (len >= 8 && !memcmp(data, "\x89PNG\r\n\x1a\n", 8))
        rc = decode_png(&d);
    else if (len >= 3 && !memcmp(data, "\xff\xd8\xff", 3))
        rc = decode_jpeg(&d);
    else if (len == 0)
        rc = err_set(&own, ERR_FORMAT, "%s: the file is empty; expected a PNG or JPEG picture", name);
    else
        rc = err_set(&own, ERR_FORMAT, "%s: neither PNG nor JPEG (its first byte is 0x%02x); convert it to one of them",
                     name, d.data[0]);
    if (!rc) {
        *im = d.im;
        return 0;
    }
    free(d.im.px);
    return err_set(e, rc, "%s", own.msg);
}

void data_image_free(struct data_image *im)
{
    free(im->px);
    *im = (struct data_image){0};
}

/* Writing */

struct png_out {
    struct buf *buf;
    struct err *e;
    jmp_buf jump;
};

static void png_put(png_structp png, png_bytep data, size_t n)
{
    struct png_out *o = png_get_io_ptr(png);
    buf_add(o->buf, data, n);
}

static void png_flush_nothing(png_structp png) {}

static void png_write_fail(png_structp png, const char *why)
{
    struct png_out *o = png_get_error_ptr(png);
    err_set(o->e, ERR_MEMORY, "could not write a PNG: %s", why);
    longjmp(o->jump, 1);
}

int data_image_png(const struct data_image *im, struct buf *out, struct err *e)
{
    struct png_out o = {.buf = out, .e = e};
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &o, png_write_fail, png_hush);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    if (!info || setjmp(o.jump)) {
        png_destroy_write_struct(&png, &info);
        return err_set(e, ERR_MEMORY, "could not write a PNG: not enough memory");
    }
    png_set_write_fn(png, &o, png_put, png_flush_nothing);
    png_set_user_limits(png, 0x7fffffff, 0x7fffffff);
    png_set_IHDR(png, info, (png_uint_32)im->w, (png_uint_32)im->h, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_write_info(png, info);
    for (int64_t y = 0; y < im->h; y++) png_write_row(png, im->px + y * im->w * 3);
    png_write_end(png, info);
    png_destroy_write_struct(&png, &info);
    return 0;
}
