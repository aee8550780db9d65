/* libFuzzer: a tokenizer.json up to the first 0 byte, a text behind it; parse, encode, decode. Good seeds: the files of
 * tests/golden/tokenizer. Whatever comes in, what comes out is an error or ids that the vocabulary has. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "data/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char sample[] = "It's a caf\xc3\xa9 <s> \xf0\x9f\x91\xa9 12 ab\n  \xff";
    struct tokenizer *t;
    struct err e = {0};
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    size_t n = zero ? (size_t)(zero - data) : size;
    if (tok_parse((const char *)data, n, &t, &e)) {
        CHECK(e.code < 0 && e.msg[0] && !t);
        return 0;
    }
    const char *text = zero ? (const char *)zero + 1 : sample;
    size_t len = zero ? size - n - 1 : sizeof sample - 1;
    int32_t ids[256];
    int64_t count;
    if (!tok_encode(t, text, len, ids, 256, &count, &e)) {
        struct buf out = {0};
        CHECK(count >= 0 && count <= 256);
        for (int64_t i = 0; i < count; i++) CHECK(tok_piece(t, ids[i]));
        tok_decode(t, ids, count, false, &out);
        tok_decode(t, ids, count, true, &out);
        buf_free(&out);
    }
    tok_free(t);
    return 0;
}
