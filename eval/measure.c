/* Embedding splits and counting ranks. See measure.h. */
#include "eval/measure.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/kernels/gemm.h"
#include "base/mem.h"
#include "base/rng.h"

const int eval_cut[EVAL_CUTS] = {1, 5, 10};

enum { QUERIES = 64 }; /* rows of similarities held at once by a thread */

/* Items of the same manifest group get the same number, that of the first of them. */
static void number_groups(const struct manifest *data, struct eval_set *s)
{
    size_t slots = 64;
    while (slots < 2 * (size_t)s->n) slots *= 2;
    int64_t *first = mem_zero(slots, sizeof *first); /* an item + 1 */
    for (int64_t i = 0; i < s->n; i++) {
        s->group[i] = (int32_t)i;
        const char *g = data->item[s->item[i]].group;
        if (!g) continue;
        size_t at = hash_str(g) & (slots - 1);
        while (first[at] && strcmp(data->item[s->item[first[at] - 1]].group, g)) at = (at + 1) & (slots - 1);
        if (!first[at]) first[at] = i + 1;
        s->group[i] = (int32_t)(first[at] - 1);
    }
    free(first);
}

const char *eval_split_entries(const char *split)
{
    const char *slash = strchr(split, '/');
    return slash ? slash + 1 : split;
}

int eval_set_make(struct run_model *m, const struct manifest *data, const char *split, int64_t most, struct eval_set *s,
                  bool show, struct err *e)
{
    *s = (struct eval_set){.split = mem_strdup(split), .n_modalities = m->n, .width = m->config.embed};
    char *items = mem_strndup(split, strcspn(split, "/"));
    const char *entries = eval_split_entries(split);
    int rc = manifest_select(data, items, &s->item, &s->n, e);
    free(items);
    if (!rc) {
        if (most > 0 && s->n > most) s->n = most;
        s->group = mem_alloc((size_t)(s->n + 1) * sizeof *s->group);
        number_groups(data, s);
    }
    for (int i = 0; i < m->n && !rc; i++) {
        s->unit[i] = mem_try((size_t)(s->n * s->width + 1) * sizeof(float), "embeddings", e);
        s->has[i] = mem_zero((size_t)s->n + 1, sizeof(bool));
        rc = s->unit[i] ? run_embed_items(m, i, data, s->item, s->n, entries, 0, s->unit[i], s->has[i], show, e)
                        : ERR_MEMORY;
    }
    if (rc) eval_set_free(s);
    return rc;
}

void eval_set_free(struct eval_set *s)
{
    free(s->split);
    free(s->item);
    free(s->group);
    for (int i = 0; i < s->n_modalities; i++) {
        free(s->unit[i]);
        free(s->has[i]);
    }
    *s = (struct eval_set){0};
}

void eval_similarity(const struct eval_set *s, int query, int target, int64_t from, int64_t to, float *out)
{
    struct gemm_args g = {.m = to - from,
                          .n = s->n,
                          .k = s->width,
                          .a = s->unit[query] + from * s->width,
                          .a_row = s->width,
                          .a_col = 1,
                          .b = s->unit[target],
                          .b_row = 1,
                          .b_col = s->width,
                          .c = out,
                          .c_row = s->n};
    gemm_block(&g);
}

static int by_falling(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* One query against its row of similarities: the rank of the best hit (0 if there is none) and the average precision.
 */
static int32_t judge(const struct eval_set *s, int target, int64_t q, const float *sim, float *hits, double *precision)
{
    int64_t n_hits = 0;
    for (int64_t j = 0; j < s->n; j++)
        if (s->has[target][j] && s->group[j] == s->group[q]) hits[n_hits++] = sim[j];
    *precision = 0;
    if (!n_hits) return 0;
    qsort(hits, (size_t)n_hits, sizeof *hits, by_falling);
    int32_t first = 0;
    for (int64_t h = 0; h < n_hits; h++) {
        int64_t above = 0; /* candidates that are no hits and strictly nearer */
        for (int64_t j = 0; j < s->n; j++) above += s->has[target][j] && s->group[j] != s->group[q] && sim[j] > hits[h];
        if (isnan(hits[h])) above = s->n;
        if (h == 0) first = (int32_t)above + 1;
        *precision += (double)(h + 1) / (double)(above + h + 1);
    }
    *precision /= (double)n_hits;
    return first;
}

static int by_rising(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void bootstrap(struct eval_direction *d, int resamples)
{
    double *share = mem_alloc((size_t)(resamples + 1) * EVAL_CUTS * sizeof *share);
    for (int r = 0; r < resamples; r++) {
        struct rng g = rng_make(20220501, 1, (uint64_t)r);
        int64_t hit[EVAL_CUTS] = {0};
        for (int64_t i = 0; i < d->queries; i++) {
            int32_t rank = d->rank[rng_below(&g, d->queries)];
            for (int c = 0; c < EVAL_CUTS; c++) hit[c] += rank <= eval_cut[c];
        }
        for (int c = 0; c < EVAL_CUTS; c++) share[c * resamples + r] = (double)hit[c] / (double)d->queries;
    }
    for (int c = 0; c < EVAL_CUTS; c++) {
        qsort(share + c * resamples, (size_t)resamples, sizeof *share, by_rising);
        d->low[c] = share[c * resamples + (int)(0.025 * (resamples - 1) + 0.5)];
        d->high[c] = share[c * resamples + (int)(0.975 * (resamples - 1) + 0.5)];
    }
    free(share);
}

static void summarise(const struct eval_set *s, struct eval_direction *d, const double *precision)
{
    for (int64_t i = 0; i < d->queries; i++) {
        for (int c = 0; c < EVAL_CUTS; c++) d->recall[c] += (double)(d->rank[i] <= eval_cut[c]) / (double)d->queries;
        d->map += precision[i] / (double)d->queries;
    }
    if (!d->queries) return;
    double *sorted = mem_alloc((size_t)d->queries * sizeof *sorted);
    for (int64_t i = 0; i < d->queries; i++) sorted[i] = d->rank[i];
    qsort(sorted, (size_t)d->queries, sizeof *sorted, by_rising);
    d->median = (sorted[(d->queries - 1) / 2] + sorted[d->queries / 2]) / 2;
    free(sorted);
    /* Of h hits among n, the chance that none is among the first c: prod (n - h - i) / (n - i). */
    for (int c = 0; c < EVAL_CUTS; c++)
        for (int64_t i = 0; i < d->queries; i++) {
            int64_t h = 0, n = d->candidates;
            for (int64_t j = 0; j < s->n; j++) h += s->has[d->target][j] && s->group[j] == s->group[d->from[i]];
            double miss = 1;
            for (int64_t k = 0; k < eval_cut[c]; k++)
                miss *= n - k > 0 ? fmax(0, (double)(n - h - k)) / (double)(n - k) : 0;
            d->chance[c] += (1 - miss) / (double)d->queries;
        }
}

void eval_direction_make(const struct eval_set *s, int query, int target, int resamples, struct eval_direction *d)
{
    *d = (struct eval_direction){.query = query, .target = target, .median = NAN};
    d->rank = mem_zero((size_t)s->n + 1, sizeof *d->rank);
    d->from = mem_zero((size_t)s->n + 1, sizeof *d->from);
    int32_t *rank = mem_zero((size_t)s->n + 1, sizeof *rank);
    double *ap = mem_zero((size_t)s->n + 1, sizeof *ap);
    int64_t blocks = (s->n + QUERIES - 1) / QUERIES;
#pragma omp parallel for schedule(dynamic)
    for (int64_t b = 0; b < blocks; b++) {
        int64_t from = b * QUERIES, to = from + QUERIES < s->n ? from + QUERIES : s->n;
        gemm_enter_thread();
        float *sim = mem_alloc((size_t)((to - from + 1) * s->n) * sizeof *sim), *hits = sim + (to - from) * s->n;
        eval_similarity(s, query, target, from, to, sim);
        for (int64_t q = from; q < to; q++)
            if (s->has[query][q]) rank[q] = judge(s, target, q, sim + (q - from) * s->n, hits, &ap[q]);
        free(sim);
    }
    for (int64_t j = 0; j < s->n; j++) d->candidates += s->has[target][j];
    for (int64_t q = 0; q < s->n; q++) {
        if (!rank[q]) continue;
        d->from[d->queries] = (int32_t)q;
        ap[d->queries] = ap[q];
        d->rank[d->queries++] = rank[q];
    }
    summarise(s, d, ap);
    for (int c = 0; c < EVAL_CUTS; c++) d->low[c] = d->high[c] = NAN;
    if (resamples > 0 && d->queries > 0) bootstrap(d, resamples);
    free(rank);
    free(ap);
}

void eval_direction_free(struct eval_direction *d)
{
    free(d->rank);
    free(d->from);
    *d = (struct eval_direction){0};
}
