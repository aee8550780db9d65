/* triad train: from a config to a trained run, or a look at what it would do. */
#include <stdio.h>

#include "base/log.h"
#include "cli/args.h"
#include "cli/cli.h"
#include "train/train.h"

static const char summary[] =
    "Trains the model that CONFIG describes and keeps everything in a run folder (runs/NAME, or train.out):\n"
    "config.yaml, metrics.jsonl, TensorBoard events, log.txt, first-batches.html, checkpoints/.\n"
    "Any key of the config may be set behind it: optim.lr=1e-3 train.steps=500.";

static int dump(const struct train_options *o, struct err *e)
{
    struct conf conf = {0};
    struct run_config c;
    struct buf b = {0};
    int rc = run_config_read(&conf, o->config, o->overrides, o->n_overrides, &c, e);
    if (!rc) conf_dump(&run_config_table, &c, true, &b);
    if (!rc && b.len && fwrite(b.data, 1, b.len, stdout) != b.len) rc = err_errno(e, "standard output");
    buf_free(&b);
    conf_free(&conf);
    return rc;
}

int cli_train(int argc, char **argv)
{
    struct train_options o = {0};
    bool dry = false, show_config = false;
    const struct arg_flag flags[] = {
        {"resume", 0, ARG_BOOL, &o.resume, NULL, "go on from the run folder's newest checkpoint"},
        {"dry-run", 0, ARG_BOOL, &dry, NULL, "build and plan only: parameters, FLOPs, memory, time a step"},
        {"dump-config", 0, ARG_BOOL, &show_config, NULL, "print the whole effective config with what each key means"},
        {"profile", 0, ARG_BOOL, &o.profile, NULL, "print time by op at the end"},
        {0},
    };
    const struct args a = {
        "train",
        "CONFIG [key=value ...]",
        summary,
        flags,
        1,
        -1,
        "examples:\n  triad train configs/emoji.yaml\n  triad train configs/emoji.yaml train.time=30m optim.lr=1e-3\n"
        "  triad train configs/emoji.yaml --resume\n"};
    struct err e = {0};
    int n, rc = args_parse(&a, argc, argv, &n, &e);
    if (rc > 0) return 0;
    if (!rc) {
        o.config = argv[1];
        o.overrides = (const char *const *)(argv + 2);
        o.n_overrides = n - 1;
        rc = show_config ? dump(&o, &e) : dry ? train_dry_run(&o, &e) : train_run(&o, &e);
    }
    if (rc) log_error("%s", e.msg);
    return err_exit_status(rc);
}
