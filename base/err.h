/* Errors that a user or the environment can cause, and checks of what only a bug can break.
 *
 * A function that can fail returns 0 or a negative code and writes a sentence into the caller's `struct err`. A
 * sentence says what was expected, what came, where, and what to do. Only `main` exits. */
#ifndef TRIAD_BASE_ERR_H
#define TRIAD_BASE_ERR_H

#include <stdbool.h>
#include <stddef.h>

#define MUST_CHECK __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))

/* name, process exit status, what kind of trouble it is */
#define ERR_CODES(X)                                                    \
    X(USAGE, 2, "wrong command line")                                   \
    X(CONFIG, 3, "wrong configuration")                                 \
    X(IO, 4, "a file or the system failed")                             \
    X(FORMAT, 5, "a file's content is wrong")                           \
    X(SHAPE, 6, "shapes or types do not fit")                           \
    X(MEMORY, 7, "not enough memory")                                   \
    X(NONFINITE, 8, "a NaN or an infinity appeared")                    \
    X(BUSY, 9, "in use by another process")                             \
    X(STATE, 10, "called in the wrong order or with something missing") \
    X(INTERRUPTED, 11, "stopped by a signal")

enum err_code {
    ERR_NONE = 0,
#define X(name, status, text) ERR_##name = -(status),
    ERR_CODES(X)
#undef X
};

/* A caller's error: zero-initialise it, pass its address down. `msg` never holds a line break at its end. */
struct err {
    int code;
    char msg[1000];
};

/* Records the first error (a later one does not overwrite it) and returns `code`. `e` may be NULL: then only the code
 * is returned. Text longer than `msg` is cut. */
int err_set(struct err *e, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Puts "text: " in front of the message that `e` holds and returns its code: the caller's part of the story. */
int err_prefix(struct err *e, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Appends to the message that `e` holds, and returns its code. */
int err_append(struct err *e, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* As err_set with ERR_IO, ending in ": <strerror(errno)>". */
int err_errno(struct err *e, const char *fmt, ...) PRINTF_LIKE(2, 3);

void err_clear(struct err *e);
const char *err_code_name(int code); /* "CONFIG", for logs and tests */
int err_exit_status(int code);       /* the process exit status for a code; 0 for 0 */

/* A broken invariant is a bug in triad: says where and aborts, in every build. */
#define CHECK(cond) ((cond) ? (void)0 : check_failed(__FILE__, __LINE__, #cond, NULL))
#define CHECK_MSG(cond, ...) ((cond) ? (void)0 : check_failed(__FILE__, __LINE__, #cond, __VA_ARGS__))
void check_failed(const char *file, int line, const char *cond, const char *fmt, ...) PRINTF_LIKE(4, 5)
    __attribute__((noreturn));

#endif
