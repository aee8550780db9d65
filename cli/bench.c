/* triad bench: how fast this machine runs a row of the bench, and how fast it could. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/threads.h"
#include "bench/balance.h"
#include "bench/measure.h"
#include "cli/args.h"
#include "cli/cli.h"

static const char summary[] =
    "Times training steps of a row (a name in configs/bench, or a path to a YAML file) on fixed input and prints one\n"
    "line of JSON; docs/performance.md explains its fields. ROW may also be `peak`, for the machine's rates of\n"
    "multiply-adds and memory, or `gemm [PART]`, for a table of matrix products beside the BLAS (those with PART in\n"
    "their name); `gemm --table [PART]` times each back end of the product on one thread, by classes of sizes, and\n"
    "marks those where another than the chosen one is faster. `ops [PART]` is a table of what is not a product,\n"
    "beside the memory's speed. Keys of the row may be set behind it: batch=64, precision=bf16, memory=1GB (what a "
    "step\n"
    "may take).";

static int print(struct buf *b, FILE *to, struct err *e)
{
    size_t n = b->len, wrote = fwrite(b->data, 1, n, to);
    buf_free(b);
    return wrote == n && fflush(to) == 0 ? 0 : err_errno(e, "standard output");
}

static int show_peak(struct err *e)
{
    struct bench_peak p = bench_peak_flops();
    int rc = bench_peak_memory(&p, e);
    if (rc) return rc;
    struct buf b = {0};
    buf_printf(&b,
               "{\"row\": \"peak\", \"threads\": %d, \"isa\": \"%s\", \"gflops_1\": %.1f, \"gflops\": %.1f, "
               "\"copy_gb_s\": %.2f, \"triad_gb_s\": %.2f, \"update_gb_s\": %.2f}\n",
               p.threads, p.isa, p.flops_1 * 1e-9, p.flops * 1e-9, p.copy * 1e-9, p.triad * 1e-9, p.update * 1e-9);
    return print(&b, stdout, e);
}

static int show_row(const char *word, const char *const *overrides, int n, struct bench_options *o, const char *profile,
                    bool balance, struct err *e)
{
    struct conf conf = {0};
    struct bench_row row;
    struct bench_job *job = NULL;
    struct bench_result r = {0};
    int rc = bench_row_read(&conf, word, overrides, n, &row, e);
    o->profile = profile != NULL;
    if (balance) {
        if (!rc) rc = bench_balance(&row, o->steps, e);
        conf_free(&conf);
        return rc;
    }
    if (!rc) rc = bench_measure(&row, o, &job, &r, e);
    if (!rc && profile) {
        struct buf table = {0};
        struct ad_limits limits = {r.machine.flops, bench_bandwidth(&r.machine)};
        ad_report(r.timing, r.n_timing, strcmp(profile, "layers") ? AD_BY_OP : AD_BY_LAYER, &limits, &table);
        rc = print(&table, stderr, e);
    }
    if (!rc) {
        struct buf line = {0};
        bench_json(&r, &line);
        rc = print(&line, stdout, e);
    }
    free(r.timing);
    bench_job_free(job);
    conf_free(&conf);
    return rc;
}

int cli_bench(int argc, char **argv)
{
    struct bench_options o = {.steps = 7, .warmup = 1, .base = process_peak_rss()};
    int64_t threads = 0;
    const char *profile = NULL;
    bool table = false, balance = false;
    double seconds = 0.25;
    const struct arg_flag flags[] = {
        {"steps", 0, ARG_INT, &o.steps, "N", "steps that are timed", 1, 1e6},
        {"warmup", 0, ARG_INT, &o.warmup, "N", "steps after the first that are not", 0, 1e6},
        {"threads", 0, ARG_INT, &threads, "N", "threads that compute; 0: all cores", 0, 4096},
        {"profile", 0, ARG_OPTIONAL, &profile, "ops|layers", "time by op or by layer, to standard error"},
        {"balance", 0, ARG_BOOL, &balance, NULL,
         "how evenly a step shares out among 1 to 64 threads, each one's share timed alone, N times, for the least"},
        {"table", 0, ARG_BOOL, &table, NULL,
         "gemm: each back end by classes of sizes, on one thread, and the choice among them"},
        {"seconds", 0, ARG_DURATION, &seconds, "TIME", "gemm, ops: for each line", 0, 3600},
        {0},
    };
    const struct args a = {"bench",
                           "ROW [key=value ...]",
                           summary,
                           flags,
                           1,
                           -1,
                           "examples:\n  triad bench vit_s16\n  triad bench clip_small --threads 1 --profile\n"
                           "  triad bench vit_s16 batch=64 --profile=layers\n  triad bench vit_s16 --balance --steps "
                           "2\n  triad bench peak\n"
                           "  triad bench gemm --table cube\n  triad bench ops norm\n"};
    struct err e = {0};
    int n, rc = args_parse(&a, argc, argv, &n, &e);
    if (rc > 0) return 0;
    if (!rc && profile && *profile && strcmp(profile, "ops") && strcmp(profile, "layers"))
        rc = err_set(&e, ERR_USAGE, "triad bench: --profile: expected ops or layers, got '%s'", profile);
    if (!rc) {
        threads_init((int)threads);
        bool peak = !strcmp(argv[1], "peak"), gemm = !strcmp(argv[1], "gemm"), ops = !strcmp(argv[1], "ops");
        const char *part = n > 1 ? argv[2] : NULL;
        if (n > 1 + !peak && (peak || gemm || ops))
            rc = err_set(&e, ERR_USAGE, "triad bench: one word too many: '%s'", argv[2 + !peak]);
        else if (balance && (profile || peak || gemm || ops))
            rc = err_set(&e, ERR_USAGE, "triad bench: --balance goes with a row, and without --profile");
        else if (table && !gemm)
            rc = err_set(&e, ERR_USAGE, "triad bench: --table goes with gemm, not with '%s'", argv[1]);
        else
            rc = peak   ? show_peak(&e)
                 : gemm ? (table ? bench_gemm_table : bench_gemm)(part, seconds, &e)
                 : ops  ? bench_ops(part, seconds, &e)
                        : show_row(argv[1], (const char *const *)(argv + 2), n - 1, &o, profile, balance, &e);
    }
    if (rc) log_error("%s", e.msg);
    return err_exit_status(rc);
}
