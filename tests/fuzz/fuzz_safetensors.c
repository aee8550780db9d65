/* libFuzzer target: any bytes as a safetensors file. What opens must be readable to its last byte. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err e = {0};
    struct st_file *f;
    if (st_open_memory(data, size, "fuzz", &f, &e)) {
        CHECK(!f && e.code < 0 && e.msg[0]);
        return 0;
    }
    for (int i = 0; i < st_count(f); i++) {
        const struct st_tensor *t = st_at(f, i);
        CHECK(st_find(f, t->name) == t && t->bytes <= size);
        void *out = malloc((size_t)t->count * 8 + 1);
        struct err again = {0};
        int real = st_read_f32(f, t, out, &again), whole = st_read_i64(f, t, out, &again);
        CHECK(real <= 0 && whole <= 0);
        free(out);
    }
    st_close(f);
    return 0;
}
