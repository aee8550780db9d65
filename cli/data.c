/* triad data: makes, checks and packs data sets. */
#include "cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "base/text.h"
#include "data/check.h"
#include "data/emoji.h"
#include "data/pack.h"

static const char help[] =
    "usage: triad data emoji OUT [options]       make the emoji data set: pictures, captions, speech\n"
    "       triad data check MANIFEST            list unreadable and odd items of a manifest or pack\n"
    "       triad data pack MANIFEST OUT.h5      put a manifest and its files into one file\n"
    "\n"
    "'triad data COMMAND --help' says more.\n";

static const char emoji_help[] =
    "usage: triad data emoji OUT [options]\n"
    "\n"
    "Fills the folder OUT with a picture, captions and spoken names of all 3,655 emoji: manifest.jsonl, image/, "
    "audio/\n"
    "and emoji.h5 (all in one file). Takes about a minute on two cores and 300 MB. Needs the Debian packages\n"
    "fonts-noto-color-emoji, unicode-cldr-core, unicode-data and espeak-ng. Run again, it goes on where it stopped.\n"
    "\n"
    "  --size N               pixels a side of the pictures (64)\n"
    "  --voices-per-emoji N   training voices for each emoji, 1 to 8 (2); one unheard voice comes on top\n"
    "  --languages en,de,...  captions in these languages of CLDR (en); English comes first, and is what is spoken\n"
    "  --jobs N               how many to make at a time (the cores)\n";

static const char check_help[] = "usage: triad data check MANIFEST\n"
                                 "\n"
                                 "Decodes every file that the manifest (or .h5 pack) names and lists what cannot be "
                                 "read or looks wrong, with its line.\n"
                                 "Exit status 0 if nothing is bad, 5 otherwise.\n";

static const char pack_help[] = "usage: triad data pack MANIFEST OUT.h5\n"
                                "\n"
                                "Writes the manifest and the bytes of all files that it names into one HDF5 file, "
                                "which configs and 'triad data check'\n"
                                "take in the manifest's place.\n";

static int fail(const struct err *e)
{
    log_error("%s", e->msg);
    return err_exit_status(e->code);
}

struct flag {
    const char *name;
    int *number; /* one of the two takes the value */
    const char **text;
};

static int read_number(const char *flag, const char *s, int *out, struct err *e)
{
    char *end;
    errno = 0;
    long v = strtol(s, &end, 10);
    if (end == s || *end || errno || v < 1 || v > 1000000)
        return err_set(e, ERR_USAGE, "%s should be followed by a whole number above 0, but '%s' came", flag, s);
    *out = (int)v;
    return 0;
}

/* Sets one flag from "--name value" or "--name=value"; *i moves past what was used. */
static int read_flag(int argc, char **argv, int *i, const struct flag *flags, int n_flags, struct err *e)
{
    const char *arg = argv[*i], *value = strchr(arg, '=');
    size_t len = value ? (size_t)(value - arg) : strlen(arg);
    const char *names[8];
    for (int k = 0; k < n_flags; k++) {
        names[k] = flags[k].name;
        if (strlen(flags[k].name) != len || strncmp(flags[k].name, arg, len)) continue;
        if (value)
            value++;
        else if (*i + 1 < argc)
            value = argv[++*i];
        else
            return err_set(e, ERR_USAGE, "%s should be followed by a value", arg);
        if (flags[k].number) return read_number(flags[k].name, value, flags[k].number, e);
        *flags[k].text = value;
        return 0;
    }
    const char *near = text_nearest(arg, names, n_flags);
    err_set(e, ERR_USAGE, "unknown option '%s'", arg);
    if (near) err_append(e, "; did you mean '%s'?", near);
    return ERR_USAGE;
}

/* Splits the arguments into flags and exactly `n_words` words. 1 where --help was asked for and printed. */
static int read_args(int argc, char **argv, const char *text, const struct flag *flags, int n_flags, const char **words,
                     int n_words, struct err *e)
{
    int n = 0;
    bool only_words = false;
    for (int i = 1; i < argc; i++) {
        if (!only_words && (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))) {
            fputs(text, stdout);
            return 1;
        }
        if (!only_words && !strcmp(argv[i], "--"))
            only_words = true;
        else if (!only_words && argv[i][0] == '-' && argv[i][1]) {
            int rc = read_flag(argc, argv, &i, flags, n_flags, e);
            if (rc) return rc;
        } else if (n == n_words)
            return err_set(e, ERR_USAGE, "one argument too many: '%s'; see 'triad data %s --help'", argv[i], argv[0]);
        else
            words[n++] = argv[i];
    }
    if (n < n_words)
        return err_set(e, ERR_USAGE, "'triad data %s' needs %d argument%s, %d came; see 'triad data %s --help'",
                       argv[0], n_words, n_words == 1 ? "" : "s", n, argv[0]);
    return 0;
}

static int data_emoji_main(int argc, char **argv)
{
    struct err e = {0};
    struct data_emoji_opts o = {0};
    const struct flag flags[] = {{"--size", &o.size, NULL},
                                 {"--voices-per-emoji", &o.voices, NULL},
                                 {"--languages", NULL, &o.languages},
                                 {"--jobs", &o.jobs, NULL}};
    int rc = read_args(argc, argv, emoji_help, flags, 4, &o.out, 1, &e);
    if (rc > 0) return 0;
    return rc < 0 || data_emoji(&o, &e) ? fail(&e) : 0;
}

static int data_check_main(int argc, char **argv)
{
    struct err e = {0};
    const char *manifest;
    int rc = read_args(argc, argv, check_help, NULL, 0, &manifest, 1, &e);
    if (rc > 0) return 0;
    int64_t bad = rc < 0 ? rc : data_check(manifest, stdout, &e);
    return bad < 0 ? fail(&e) : bad > 0 ? err_exit_status(ERR_FORMAT) : 0;
}

static int data_pack_main(int argc, char **argv)
{
    struct err e = {0};
    const char *words[2];
    int rc = read_args(argc, argv, pack_help, NULL, 0, words, 2, &e);
    if (rc > 0) return 0;
    return rc < 0 || data_pack(words[0], words[1], &e) ? fail(&e) : 0;
}

int cli_data(int argc, char **argv)
{
    static const char *const names[] = {"emoji", "check", "pack"};
    static int (*const commands[])(int, char **) = {data_emoji_main, data_check_main, data_pack_main};
    if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
        fputs(help, argc < 2 ? stderr : stdout);
        return argc < 2 ? err_exit_status(ERR_USAGE) : 0;
    }
    for (int i = 0; i < 3; i++)
        if (!strcmp(argv[1], names[i])) return commands[i](argc - 1, argv + 1);
    const char *near = text_nearest(argv[1], names, 3);
    log_error("unknown command 'triad data %s'%s%s%s; 'triad data --help' lists them", argv[1],
              near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
    return err_exit_status(ERR_USAGE);
}
