/* Any bytes as a configuration: read or refused with a message; what was read survives a dump bit for bit. A line that
 * begins with `%` and holds `=` is an override. */
#include <stdlib.h>
#include <string.h>
#include "tests/base/conf_example.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct conf c = {0};
    struct example x, y;
    struct err e = {0};
    struct buf first = {0}, second = {0};
    char *text = mem_strndup((const char *)data, size), *over = NULL;
    if (size > 1 && text[0] == '%' && !memchr(text, 0, size)) {
        over = text + 1;
        char *end = strchr(text, '\n');
        if (end) *end = 0;
        size_t used = strlen(text) + (end ? 1 : 0);
        data += used;
        size -= used;
    }
    const char *const overrides[] = {over};
    if (!conf_parse(&c, "fuzz", (const char *)data, size, overrides, over ? 1 : 0, &example_table, &x, &e)) {
        conf_dump(&example_table, &x, false, &first);
        CHECK_MSG(!conf_parse(&c, "dump", first.data, first.len, NULL, 0, &example_table, &y, &e), "%s\n%s", e.msg,
                  first.data);
        conf_dump(&example_table, &y, false, &second);
        CHECK_MSG(!strcmp(first.data, second.data), "%s\n%s", first.data, second.data);
    } else {
        CHECK(e.code == ERR_CONFIG && e.msg[0]);
    }
    buf_free(&first);
    buf_free(&second);
    conf_free(&c);
    free(text);
    return 0;
}
