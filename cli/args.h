/* The command line of a subcommand, from a table: one row a flag. Flags and words may come in any order; `--flag
 * value`,
 * `--flag=value` and `-f value` are the same; `--` ends the flags; --help and -h are always there. */
#ifndef TRIAD_CLI_ARGS_H
#define TRIAD_CLI_ARGS_H

#include <stdio.h>
#include <stdint.h>
#include "base/err.h"

enum arg_type {
    ARG_BOOL,     /* bool: true where given; takes no value */
    ARG_INT,      /* int64_t */
    ARG_DOUBLE,   /* double, finite */
    ARG_STRING,   /* const char *, points into argv */
    ARG_DURATION, /* double, seconds: 25ms, 4m */
    ARG_OPTIONAL, /* const char *: "" where given without a value; a value only as --flag=value */
};

struct arg_flag {
    const char *name; /* without its dashes; NULL ends the table */
    char letter;      /* `-k`, or 0 */
    enum arg_type type;
    void *value;      /* keeps what it held where the flag is not given: its default */
    const char *meta; /* what the value is called in the help: "FILE", "N" */
    const char *help;
    double min, max; /* of a number, both included; both 0: any */
};

struct args {
    const char *command; /* "train" or "data emoji": what follows `triad` */
    const char *words;   /* "CONFIG [key=value ...]": the words it takes, for the help; "" for none */
    const char *summary; /* lines below the usage */
    const struct arg_flag *flags;
    int least, most;  /* number of words; most -1: any */
    const char *more; /* what follows the flags in the help (examples); may be NULL */
};

/* Sets the flags' values and moves the words to argv[1..*n_words], in their order. Returns 0; 1 where --help was asked
 * for and has been printed to standard output; ERR_USAGE with a message, and then some values may have been set. */
int args_parse(const struct args *a, int argc, char **argv, int *n_words, struct err *e) MUST_CHECK;

/* Usage, summary, the flags in columns with their defaults (what their values hold now), and `more`. */
void args_help(const struct args *a, FILE *out);

/* A command of a command: `triad data emoji`. */
struct arg_command {
    const char *name;
    int (*run)(int argc, char **argv); /* argv[0] is the name; returns the exit status */
};

/* Runs the one that argv[1] names. Without one, or for --help, prints `help`; an unknown one gets a suggestion. Returns
 * the process's exit status. */
int args_dispatch(const char *command, const char *help, const struct arg_command *list, int n, int argc, char **argv);

#endif
