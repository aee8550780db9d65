/* triad train: from a config to a trained model. */
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "cli/args.h"
#include "cli/cli.h"
#include "train/train.h"

/* The whole effective config, each line with its help, as a config file that could be given back. */
static int dump(const struct train_options *o, struct err *e)
{
    struct conf mem = {0};
    struct run_config c;
    struct buf b = {0};
    int rc = run_config_read(&mem, o->config, o->overrides, o->n_overrides, &c, e);
    if (!rc) {
        conf_dump(&run_config_table, &c, true, &b);
        fputs(b.data, stdout);
    }
    buf_free(&b);
    conf_free(&mem);
    return rc;
}

int cli_train(int argc, char **argv)
{
    struct train_options o = {0};
    bool dry = false, show = false;
    const struct arg_flag flags[] = {
        {"resume", 0, ARG_BOOL, &o.resume, NULL, "go on from the run folder's newest checkpoint"},
        {"dry-run", 0, ARG_BOOL, &dry, NULL, "plan everything, write nothing: parameters, FLOPs, memory, time"},
        {"dump-config", 0, ARG_BOOL, &show, NULL, "print the whole effective config and stop"},
        {"profile", 0, ARG_BOOL, &o.profile, NULL, "print the time that each op took at the end"},
        {0}};
    const struct args a = {
        .command = "train",
        .words = "CONFIG [key=value ...]",
        .summary = "Trains the model that a config describes. Words after it change single keys: train.batch=256.\n"
                   "The run folder (train.out, or runs/NAME) gets the config, the checkpoints, the record of the run\n"
                   "and first-batches.html. Ctrl-C saves a checkpoint; --resume goes on from it.",
        .flags = flags,
        .least = 1,
        .most = -1,
        .more = "examples:\n"
                "  triad train configs/emoji.yaml\n"
                "  triad train configs/emoji.yaml train.time=1m train.out=/tmp/try --profile\n"
                "  triad train configs/emoji.yaml --resume\n"};
    struct err e = {0};
    int n, rc = args_parse(&a, argc, argv, &n, &e);
    if (rc > 0) return 0;
    if (rc) {
        log_error("%s", e.msg);
        return err_exit_status(rc);
    }
    o.config = argv[1];
    o.overrides = (const char *const *)argv + 2;
    o.n_overrides = n - 1;
    if (!show && !dry) { /* says itself what went wrong, into the run's log too */
        rc = train_run(&o, &e);
        if (rc == ERR_INTERRUPTED) log_info("%s", e.msg);
        return err_exit_status(rc);
    }
    rc = show ? dump(&o, &e) : train_dry_run(&o, &e);
    if (rc) log_error("%s", e.msg);
    return err_exit_status(rc);
}
