/* A folder of a test's own under /tmp, and paths in it. Remove it with temp_dir_end. */
#ifndef TRIAD_TESTS_TEMP_DIR_H
#define TRIAD_TESTS_TEMP_DIR_H

#include <stdio.h>
#include <stdlib.h>
#include "base/file.h"

struct temp_dir {
    char path[64];
};

static inline void temp_dir_begin(struct temp_dir *t)
{
    snprintf(t->path, sizeof t->path, "/tmp/triad-test-XXXXXX");
    CHECK(mkdtemp(t->path));
}

/* Good until the eighth call after it. */
static inline const char *temp_path(const struct temp_dir *t, const char *name)
{
    static char answer[8][160];
    static int turn;
    char *out = answer[turn++ % 8];
    snprintf(out, sizeof answer[0], "%s/%s", t->path, name);
    return out;
}

static inline void temp_dir_end(struct temp_dir *t)
{
    struct err e = {0};
    CHECK_MSG(file_remove_tree(t->path, &e) == 0, "%s", e.msg);
}

#endif
