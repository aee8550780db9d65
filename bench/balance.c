/* See balance.h. */
#include "bench/balance.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/threads.h"
#include "bench/job.h"

static const int counts[] = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64};
enum { N_COUNT = sizeof counts / sizeof *counts, MOST_OPS = 5 };

/* Of the calls that are cut. up: time of one thread over that of many. */
struct speed {
    double up, balance, extra; /* extra: what cutting adds to the work */
    double uncut;              /* share of one thread's time */
};

static struct speed speed_of(const struct ad_balance *one, const struct ad_balance *b, int threads)
{
    struct speed s = {.up = 1, .balance = 1};
    if (b->span > 0) s.up = one->work / b->span, s.balance = b->work / (b->span * threads);
    if (one->work > 0) s.extra = b->work / one->work - 1, s.uncut = one->uncut / (one->work + one->uncut);
    return s;
}

static void print_head(void)
{
    fprintf(stderr, "%7s %9s %8s %9s %8s %8s  %s\n", "threads", "speed-up", "balance", "more work", "regions",
            "barriers", "waited for (per cent of all threads' time)");
}

/* The ops that threads wait for, the longest first: their names and shares into `text` and `json`. */
static void name_waits(const struct ad_timing *t, size_t n, double *waits, double all, struct buf *text,
                       struct buf *json)
{
    struct {
        const char *op, *kernel;
        double seconds;
    } op[64];
    size_t n_op = 0;
    for (size_t i = 0; i < n; i++) {
        size_t k = 0;
        while (k < n_op && !(op[k].op == t[i].op && op[k].kernel == t[i].kernel)) k++;
        if (k == 64) continue;
        if (k == n_op) {
            op[n_op].op = t[i].op;
            op[n_op].kernel = t[i].kernel;
            op[n_op++].seconds = 0;
        }
        op[k].seconds += waits[i];
    }
    for (int rank = 0; rank < MOST_OPS; rank++) {
        size_t top = 0;
        for (size_t k = 1; k < n_op; k++)
            if (op[k].seconds > op[top].seconds) top = k;
        if (!n_op || op[top].seconds < 0.001 * all) break;
        buf_printf(text, "%s%s %.1f", rank ? ", " : "", op[top].op, 100 * op[top].seconds / all);
        buf_printf(json, "%s{\"op\": \"%s\", \"kernel\": \"%s\", \"share\": %.4f}", rank ? ", " : "", op[top].op,
                   op[top].kernel, op[top].seconds / all);
        op[top].seconds = 0;
    }
    buf_str(text, "");
}

static int balance_all(struct bench_job *j, int64_t rounds, struct buf *json, struct err *e)
{
    size_t n = bench_job_timings(j, NULL);
    struct ad_timing *t = mem_zero(n + 1, sizeof *t);
    double *waits = mem_zero(n + 1, sizeof *waits);
    struct ad_balance one = {0}, b;
    int rc = bench_job_step(j, e);
    bench_job_timings(j, t);
    if (!rc) print_head();
    for (int i = 0; i < N_COUNT && !rc; i++) {
        rc = bench_job_balance(j, counts[i], (int)rounds, &b, waits, e);
        if (rc) break;
        if (i == 0) one = b;
        struct speed s = speed_of(&one, &b, counts[i]);
        struct buf text = {0};
        buf_printf(json,
                   "%s{\"threads\": %d, \"speedup\": %.4g, \"balance\": %.4f, \"more_work\": %.4f, \"work_s\": %.5g, "
                   "\"span_s\": %.5g, \"uncut\": %.4f, \"regions\": %lld, \"barriers\": %lld, \"waits\": [",
                   i ? ", " : "", counts[i], s.up, s.balance, s.extra, b.work, b.span, s.uncut, (long long)b.regions,
                   (long long)b.barriers);
        name_waits(t, n, waits, b.span * counts[i], &text, json);
        buf_str(json, "]}");
        fprintf(stderr, "%7d %9.2f %7.1f%% %8.1f%% %8lld %8lld  %s\n", counts[i], s.up, 100 * s.balance, 100 * s.extra,
                (long long)b.regions, (long long)b.barriers, text.data);
        buf_free(&text);
    }
    if (!rc && one.uncut > 0)
        fprintf(stderr, "without %.1f%% of one thread's time, of calls that open regions of their own\n",
                100 * one.uncut / (one.work + one.uncut));
    free(t);
    free(waits);
    return rc;
}

int bench_balance(const struct bench_row *row, int64_t rounds, struct err *e)
{
    threads_init(1);
    struct bench_job *j = bench_job_new(row, e);
    struct buf json = {0};
    if (!j) return e->code;
    buf_str(&json, "{\"row\": ");
    buf_json(&json, row->name);
    buf_str(&json, ", \"balance\": [");
    int rc = balance_all(j, rounds, &json, e);
    buf_str(&json, "]}\n");
    if (!rc && (fwrite(json.data, 1, json.len, stdout) != json.len || fflush(stdout)))
        rc = err_errno(e, "standard output");
    buf_free(&json);
    bench_job_free(j);
    return rc;
}
