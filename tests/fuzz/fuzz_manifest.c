/* libFuzzer: any bytes as a manifest. What is accepted is then walked and selected from. */
#include <stdlib.h>

#include "base/mem.h"
#include "data/manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct manifest m;
    struct err e = {0};
    if (manifest_parse("fuzz.jsonl", ".", (const char *)data, size, &m, &e)) {
        CHECK(e.code < 0 && e.msg[0]);
        return 0;
    }
    CHECK(m.n > 0);
    int64_t *items, n;
    CHECK(manifest_select(&m, m.item[0].split, &items, &n, &e) == 0 && n > 0);
    free(items);
    for (int64_t i = 0; i < m.n; i++)
        for (int f = 0; f < m.item[i].n_fields; f++) {
            const struct manifest_field *field = &m.item[i].field[f];
            int *index = mem_alloc((size_t)field->n * sizeof *index);
            CHECK(manifest_use(&m, field, m.item[i].split, index) <= field->n);
            free(index);
        }
    struct manifest_walk w = {0};
    while (manifest_next_file(&m, &w)) continue;
    manifest_free(&m);
    return 0;
}
