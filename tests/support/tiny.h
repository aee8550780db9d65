/* A tiny three-modal data set and config for tests of whole runs: 24 training and 6 valid items with pictures of 16x16,
 * captions and sounds of a fraction of a second. Some items lack their sound or captions, two share a group. The model
 * has four towers (resnet with batch norm, vision transformer, text, audio), with dropout, drop path, every kind of
 * augmentation and averaged weights; a step takes some ten milliseconds. */
#ifndef TRIAD_TESTS_TINY_H
#define TRIAD_TESTS_TINY_H

#include <stdint.h>
#include <sys/types.h>
#include "temp_dir.h"

enum { TINY_ITEMS = 24, TINY_BATCH = 8, TINY_EPOCH = TINY_ITEMS / TINY_BATCH, TINY_STEPS = 11 };

struct tiny {
    struct temp_dir dir;
    char config[160]; /* the YAML file; run folders are given by train.out=... */
};

void tiny_make(struct tiny *t);
void tiny_free(struct tiny *t);

/* Paths in the folder, good until the eighth call after it. */
const char *tiny_path(const struct tiny *t, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* The data set of a test program: cmocka's group makes it and removes it by these two. */
extern struct tiny tiny;
int tiny_begin(void **state);
int tiny_end(void **state);
/* Trains on it into `out`; the test fails where that does. And, for a group's beginning, into `whole`, whose every
 * checkpoint is kept: returns train_run's code, said if it is not 0. */
void tiny_trains(const char *out, const char *args);
int tiny_whole(const char *more_args);

/* Trains in this process into the folder `out` of the data's folder. `args` is words separated by spaces: key=value and
 * --resume. Returns train_run's code. */
int tiny_train(const struct tiny *t, const char *out, const char *args, struct err *e);

/* The same through the program $TRIAD_BIN, as a child. */
struct tiny_child {
    pid_t pid;
    int status;  /* exit status, or minus the signal that ended it */
    char *text;  /* all it wrote to standard output and error; the caller frees */
    int64_t rss; /* bytes, its peak */
};
void tiny_start(const struct tiny *t, const char *out, const char *args, struct tiny_child *c);
void tiny_wait(const struct tiny *t, struct tiny_child *c);
/* Both, and checks the exit status. The caller frees the text. */
char *tiny_run(const struct tiny *t, const char *out, const char *args, int want_status);

/* True once `path` exists; waits up to `seconds`. */
bool tiny_appears(const char *path, double seconds);

/* Asserts that two checkpoint folders are equal bit for bit: every tensor, and state.json but for the seconds. */
void tiny_same(const char *a, const char *b);

/* The same of the ends, at step TINY_STEPS, of two of tiny's runs. */
void tiny_same_end(const char *a, const char *b);
/* A folder `out` as if the run `from` had been stopped at a step whose checkpoint it kept. */
void tiny_stopped_at(const char *from, int step, const char *out);

/* Copies a file or a folder (cp -r). */
void tiny_copy(const char *from, const char *to);

/* Asserts that `text` has `part` in it, printing both where not. */
void tiny_has(const char *text, const char *part);

#endif
