/* Times a row. See measure.h. */
#include "bench/measure.h"

#include <stdlib.h>

#include "base/threads.h"

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(double *x, int64_t n)
{
    if (n < 1) return 0;
    qsort(x, (size_t)n, sizeof *x, by_value);
    return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

static int time_steps(struct bench_job *j, int64_t n, double *seconds, struct err *e)
{
    for (int64_t i = 0; i < n; i++) {
        double start = time_now();
        int rc = bench_job_step(j, e);
        if (rc) return rc;
        if (seconds) seconds[i] = time_now() - start;
    }
    return 0;
}

/* Everything that is timed, and the peak of memory, before the machine is measured: that takes memory of its own. */
static int run(struct bench_job *j, const struct bench_options *o, struct bench_result *r, struct err *e)
{
    double *seconds = mem_zero((size_t)o->steps + 1, sizeof *seconds);
    int rc = time_steps(j, 1, NULL, e);
    r->first_step = process_age();
    if (!rc) rc = time_steps(j, o->warmup, NULL, e);
    double start = time_now(), cpu = process_cpu();
    if (!rc) rc = time_steps(j, o->steps, seconds, e);
    r->cpu = (process_cpu() - cpu) / ((time_now() - start) * r->threads);
    r->peak_total = (double)process_peak_rss();
    r->peak = r->peak_total - (double)o->base;
    r->median = bench_median(seconds, o->steps);
    r->min = seconds[0];
    free(seconds);
    if (rc || !o->profile) return rc;
    bench_job_profile(j, true);
    return time_steps(j, o->steps, NULL, e);
}

int bench_measure(const struct bench_row *row, const struct bench_options *o, struct bench_job **job,
                  struct bench_result *r, struct err *e)
{
    *r = (struct bench_result){.row = row->name, .steps = o->steps, .threads = threads_count()};
    *job = bench_job_new(row, e);
    if (!*job) return e->code;
    int rc = run(*job, o, r, e);
    if (!rc) {
        r->machine = bench_peak_flops();
        rc = bench_peak_memory(&r->machine, e);
    }
    if (rc) {
        bench_job_free(*job);
        *job = NULL;
        return rc;
    }
    r->size = bench_job_size(*job);
    r->n_timing = bench_job_timings(*job, NULL);
    r->timing = mem_zero(r->n_timing + 1, sizeof *r->timing);
    bench_job_timings(*job, r->timing);
    for (size_t i = 0; i < r->n_timing; i++) r->flops += r->timing[i].flops, r->bytes += r->timing[i].bytes;
    r->limit = ad_roofline(r->timing, r->n_timing, &(struct ad_limits){r->machine.flops, bench_bandwidth(&r->machine)});
    return 0;
}

/* Each op's share of a profiled step. */
static void add_ops(const struct bench_result *r, struct buf *out)
{
    struct ad_report_line *line = mem_zero(r->n_timing + 1, sizeof *line);
    struct ad_limits limits = {r->machine.flops, bench_bandwidth(&r->machine)};
    size_t n = ad_report_lines(r->timing, r->n_timing, AD_BY_OP, &limits, line);
    double total = 0;
    for (size_t i = 0; i < n; i++) total += line[i].seconds;
    for (size_t i = 0; i < n; i++) {
        const struct ad_report_line *l = &line[i];
        buf_printf(out, "%s{\"op\": \"%s\", \"kernel\": \"%s\", \"calls\": %lld, \"s\": %.5g, \"time\": %.4f",
                   i ? ", " : ", \"ops\": [", l->name, l->kernel, (long long)(l->calls / r->steps),
                   l->seconds / (double)r->steps, total > 0 ? l->seconds / total : 0);
        buf_printf(out, ", \"gflop\": %.5g, \"gbytes\": %.5g, \"limit_s\": %.5g}", l->flops * 1e-9 / (double)r->steps,
                   l->bytes * 1e-9 / (double)r->steps, l->limit / (double)r->steps);
    }
    buf_str(out, n ? "]" : "");
    free(line);
}

void bench_json(const struct bench_result *r, struct buf *out)
{
    const struct bench_size *s = &r->size;
    buf_str(out, "{\"row\": ");
    buf_json(out, r->row);
    buf_printf(out, ", \"median\": %.5g, \"min\": %.5g, \"steps\": %lld, \"threads\": %d, \"cpu\": %.3f", r->median,
               r->min, (long long)r->steps, r->threads, r->cpu);
    buf_printf(out, ", \"peak_mb\": %.1f, \"peak_total_mb\": %.1f, \"first_step_s\": %.3f", r->peak / 1048576,
               r->peak_total / 1048576, r->first_step);
    buf_printf(out, ", \"gflop\": %.5g, \"gflops\": %.5g, \"share\": %.4f, \"peak_gflops\": %.5g", r->flops * 1e-9,
               r->flops * 1e-9 / r->median, r->flops / r->median / r->machine.flops, r->machine.flops * 1e-9);
    buf_printf(out, ", \"gbytes\": %.5g, \"bandwidth_gb_s\": %.4g, \"limit_s\": %.5g, \"of_limit\": %.4f",
               r->bytes * 1e-9, bench_bandwidth(&r->machine) * 1e-9, r->limit, r->limit / r->median);
    buf_printf(out, ", \"samples\": %lld, \"parameters\": %lld", (long long)s->samples, (long long)s->parameters);
    buf_printf(out, ", \"params_mb\": %.1f, \"state_mb\": %.1f, \"plan_mb\": %.1f, \"input_mb\": %.1f",
               s->params_bytes / 1048576, s->state_bytes / 1048576, s->plan_bytes / 1048576, s->input_bytes / 1048576);
    buf_printf(out, ", \"again_gflop\": %.5g", s->again_flops * 1e-9);
    if (r->n_timing && r->timing[0].calls) add_ops(r, out);
    buf_str(out, "}\n");
}
