/* triad: finds the subcommand, and answers --help and --version. A subcommand is one row here, one file beside this
 * one. */
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/text.h"
#include "cli/cli.h"

static const struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary, *example;
} commands[] = {
    {"data", cli_data, "make the emoji data set; check or pack one's own", "triad data emoji data/emoji"},
    {"train", cli_train, "train a model from a config", "triad train configs/emoji.yaml"},
    {"eval", cli_eval, "measure a model; write a report", "triad eval runs/emoji --report report.html"},
    {"embed", cli_embed, "embed a data set into one file",
     "triad embed runs/emoji data/emoji/manifest.jsonl -o emoji.safetensors"},
    {"search", cli_search, "find the nearest to a text, picture or sound",
     "triad search runs/emoji emoji.safetensors \"a smiling cat\""},
    {"explain", cli_explain, "what a step takes and where: memory, time, layers", "triad explain configs/emoji.yaml"},
    {"bench", cli_bench, "how fast this machine trains, and how fast it could", "triad bench vit_s16"},
    {"tokenizer", cli_tokenizer, "train a tokenizer from captions; see how a text is cut",
     "triad tokenizer train --data data/emoji/manifest.jsonl -o tokenizer.json"},
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static void print_help(FILE *out)
{
    struct buf b = {0};
    buf_str(&b, "triad trains image, text and audio models in one embedding space.\n\nusage: triad COMMAND ...\n\n");
    for (int i = 0; i < N_COMMANDS; i++) buf_printf(&b, "  %-12s %s\n", commands[i].name, commands[i].summary);
    buf_str(&b,
            "\n'triad help COMMAND' says more about one; 'triad --version' says which triad this is.\n\nexamples:\n");
    for (int i = 0; i < N_COMMANDS; i++) buf_printf(&b, "  %s\n", commands[i].example);
    buf_str(&b, "\nexit status: 0 all went well");
#define X(name, status, text) buf_printf(&b, "%s %d %s", (status) % 4 == 2 ? ",\n " : ",", status, text);
    ERR_CODES(X)
#undef X
    buf_str(&b, "\n");
    fputs(b.data, out);
    buf_free(&b);
}

static const struct command *find(const char *name)
{
    for (int i = 0; i < N_COMMANDS; i++)
        if (!strcmp(commands[i].name, name)) return &commands[i];
    return NULL;
}

static int unknown(const char *name)
{
    const char *names[N_COMMANDS + 1] = {"help"};
    for (int i = 0; i < N_COMMANDS; i++) names[i + 1] = commands[i].name;
    const char *near = text_nearest(name, names, N_COMMANDS + 1);
    if (near)
        fprintf(stderr, "triad: unknown command '%s'; did you mean '%s'?\n", name, near);
    else
        fprintf(stderr, "triad: unknown command '%s'; 'triad --help' lists them\n", name);
    return err_exit_status(ERR_USAGE);
}

static int run(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    if (!strcmp(name, "--version") || !strcmp(name, "-V")) {
        puts("triad " TRIAD_VERSION);
        return 0;
    }
    bool help = !strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help");
    if (argc < 2 || (help && argc < 3)) {
        print_help(argc < 2 ? stderr : stdout);
        return argc < 2 ? err_exit_status(ERR_USAGE) : 0;
    }
    if (help) name = argv[2];
    const struct command *c = find(name);
    if (!c) return unknown(name);
    if (help) {
        char word[] = "--help", *ask[] = {argv[2], word, NULL};
        return c->run(2, ask);
    }
    return c->run(argc - 1, argv + 1);
}

/* How often a waiting thread looks before it sleeps. 20000 times are some 30 us on 3 GHz cores: longer than the gaps
 * between parallel regions of a step, so that it goes on without a sleep and a wake-up, which are 50 us each. But where
 * others want the processor, who spins loses it to those who slept: steps took up to 2.6 times as long as with 2000, which
 * is hardly a wait. The kernel says whether anybody had to wait for a processor in the last ten seconds. */
static const char *spin_count(void)
{
    FILE *f = fopen("/proc/pressure/cpu", "re");
    char line[200];
    double share = 100;
    if (f && fgets(line, sizeof line, f) && sscanf(line, "some avg10=%lf", &share) != 1) share = 100;
    if (f) fclose(f);
    return share < 5 ? "20000" : "2000";
}

/* Threads that wait for each other spin for milliseconds by default. Where something else wants the processor too (the
 * loader's own threads do) that makes a step several times slower: measured 6.5 s against 0.8 s on two busy cores.
 * OpenMP reads the setting before main begins, so the program starts itself once more with it. What the user set
 * stands. */
static void start_with_short_spin(int argc, char **argv)
{
    static const char *const computing[] = {"train", "eval", "embed", "search", "bench", "explain"};
    if (argc < 2 || getenv("GOMP_SPINCOUNT") || getenv("OMP_WAIT_POLICY")) return;
    for (size_t i = 0; i < sizeof computing / sizeof *computing; i++)
        if (!strcmp(argv[1], computing[i]) && setenv("GOMP_SPINCOUNT", spin_count(), 1) == 0)
            execv("/proc/self/exe", argv);
}

int main(int argc, char **argv)
{
    start_with_short_spin(argc, argv);
    prctl(PR_SET_NAME, "triad"); /* started from /proc/self/exe, it would be "exe" to top and pkill */
    signal(SIGXFSZ, SIG_IGN); /* a file that may not grow any more (ulimit -f) is an error of its write, not a death */
    int status = run(argc, argv);
    if (fflush(stdout) == 0 || status) return status;
    perror("triad: cannot write to standard output"); /* a full disk must not look like success */
    return err_exit_status(ERR_IO);
}
