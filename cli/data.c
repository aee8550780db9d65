/* triad data: makes, checks and packs data sets. */
#include <stdio.h>

#include "base/err.h"
#include "base/log.h"
#include "cli/args.h"
#include "cli/cli.h"
#include "data/check.h"
#include "data/emoji.h"
#include "data/pack.h"

static const char help[] =
    "usage: triad data emoji OUT [options]       make the emoji data set: pictures, captions, speech\n"
    "       triad data check MANIFEST            list unreadable and odd items of a manifest or pack\n"
    "       triad data pack MANIFEST OUT.h5      put a manifest and its files into one file\n"
    "\n"
    "'triad data COMMAND --help' says more.\n";

static const struct arg_flag no_flags[] = {{0}};

static int fail(const struct err *e)
{
    log_error("%s", e->msg);
    return err_exit_status(e->code);
}

static int data_emoji_main(int argc, char **argv)
{
    int64_t size = 64, voices = 2, jobs = 0;
    const char *languages = "en";
    const struct arg_flag flags[] = {
        {"size", 0, ARG_INT, &size, "N", "pixels a side of the pictures", 1, 4096},
        {"voices-per-emoji", 0, ARG_INT, &voices, "N", "training voices for each emoji; one unheard voice comes on top",
         1, 8},
        {"languages", 0, ARG_STRING, &languages, "en,de,...",
         "captions in these languages of CLDR; English comes first and is what is spoken"},
        {"jobs", 0, ARG_INT, &jobs, "N", "how many to make at a time; 0: the cores", 0, 1024},
        {0},
    };
    const struct args a = {
        "data emoji",
        "OUT",
        "Fills the folder OUT with a picture, captions and spoken names of all 3,655 emoji: manifest.jsonl, image/, "
        "audio/\n"
        "and emoji.h5 (all in one file). Takes about a minute on two cores and 300 MB. Needs the Debian packages\n"
        "fonts-noto-color-emoji, unicode-cldr-core, unicode-data and espeak-ng. Run again, it goes on where it "
        "stopped.",
        flags,
        1,
        1,
        NULL};
    struct err e = {0};
    int n, rc = args_parse(&a, argc, argv, &n, &e);
    if (rc > 0) return 0;
    struct data_emoji_opts o = {
        .out = argv[1], .size = (int)size, .voices = (int)voices, .languages = languages, .jobs = (int)jobs};
    return rc < 0 || data_emoji(&o, &e) ? fail(&e) : 0;
}

static int data_check_main(int argc, char **argv)
{
    const struct args a = {"data check",
                           "MANIFEST",
                           "Decodes every file that the manifest (or .h5 pack) names and lists what cannot be read or "
                           "looks wrong, with its line.\n"
                           "Exit status 0 if nothing is bad, 5 otherwise.",
                           no_flags,
                           1,
                           1,
                           NULL};
    struct err e = {0};
    int n, rc = args_parse(&a, argc, argv, &n, &e);
    if (rc > 0) return 0;
    int64_t bad = rc < 0 ? rc : data_check(argv[1], stdout, &e);
    return bad < 0 ? fail(&e) : bad > 0 ? err_exit_status(ERR_FORMAT) : 0;
}

static int data_pack_main(int argc, char **argv)
{
    const struct args a = {"data pack",
                           "MANIFEST OUT.h5",
                           "Writes the manifest and the bytes of all files that it names into one HDF5 file, which "
                           "configs and 'triad data check'\n"
                           "take in the manifest's place.",
                           no_flags,
                           2,
                           2,
                           NULL};
    struct err e = {0};
    int n, rc = args_parse(&a, argc, argv, &n, &e);
    if (rc > 0) return 0;
    return rc < 0 || data_pack(argv[1], argv[2], &e) ? fail(&e) : 0;
}

int cli_data(int argc, char **argv)
{
    static const struct arg_command list[] = {
        {"emoji", data_emoji_main}, {"check", data_check_main}, {"pack", data_pack_main}};
    return args_dispatch("data", help, list, 3, argc, argv);
}
