/* libFuzzer: any bytes as a picture. What is decoded is then made small. Large claims are left out: they are legal. */
#include "data/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t px[16 * 16 * 3];
    static struct data_scratch scratch;
    struct data_image im, small = {.h = 16, .w = 16, .px = px};
    struct err e = {0};
    if (size > 4096) return 0; /* bounds the picture that they can claim, and so the time */
    if (data_image_decode("fuzz", data, size, &im, &e)) {
        CHECK(e.code < 0 && e.msg[0] && !im.px);
        return 0;
    }
    CHECK(im.h > 0 && im.w > 0 && im.px);
    CHECK(im.h * im.w > 1 << 22 || data_image_fit(&im, DATA_FIT_CROP, DATA_BICUBIC, &small, &scratch, &e) == 0);
    data_image_free(&im);
    return 0;
}
