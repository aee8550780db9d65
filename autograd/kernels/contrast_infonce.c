/* InfoNCE of a tile (contrast_tiles.h), forward and backward. */
#pragma GCC optimize("O3")
#include <math.h>
#include <string.h>

#include "autograd/kernels/contrast_tiles.h"

/* ---- forward ------------------------------------------------------------------------------------------------------- */

/* What to subtract before exp: a row without logits (all -inf) must not make NaNs. */
static float reference(float top)
{
    return top == -INFINITY ? 0 : top;
}

/* `part` is a sum of exp(logit - reference(top)); NaN among the logits is not in top but in part. */
static void join(float *top, double *sum, float more_top, float part)
{
    if (more_top > *top) {
        *sum = *sum * exp((double)*top - (double)more_top) + (double)part;
        *top = more_top;
    } else if (more_top == -INFINITY) {
        *sum += (double)part;
    } else {
        *sum += (double)part * exp((double)more_top - (double)*top);
    }
}

static float largest(vf x)
{
    float top = x[0];
    for (int i = 1; i < VL; i++) top = x[i] > top ? x[i] : top;
    return top;
}

/* The logits of a row in s (which may be its products' own memory), -inf where the column is absent; the largest of them. */
static float logits(float scale, const struct columns *k, const float *u, float *s)
{
    vf none = vf_set(-INFINITY), most = none;
    for (int64_t x = 0; x < k->padded; x += VL) {
        vf y = pick_lanes(vi_load(k->keep + x), vf_load(u + x) * scale, none);
        vf_store(s + x, y);
        most = vf_max(y, most);
    }
    return largest(most);
}

/* Positives of row i to its mean and count. */
static void add_row_positives(struct span r, int64_t i, const struct columns *k, const float *s)
{
    vf mean = vf_set(0);
    vi count = {0};
    int32_t id = r.s->id[r.at + i], n = 0;
    for (int64_t x = 0; x < k->padded; x += VL) {
        vi same = (vi_load(k->id + x) == id) & vi_load(k->keep + x);
        mean += keep_lanes(same, vf_load(s + x));
        count -= same;
    }
    for (int x = 0; x < VL; x++) n += count[x];
    r.s->mean[r.at + i] += (double)vf_sum(mean);
    r.s->count[r.at + i] += (float)n;
}

void infonce_rows(const struct contrast_job *j, const struct contrast_part *p)
{
    struct span r = p->rows;
    struct columns k;
    struct products t = contrast_products(j, p, &k);
    for (int64_t i = 0; i < r.n; i++) {
        float *s = p->s + i * p->ld, top, from;
        vf part = vf_set(0);
        if (r.s->has[r.at + i] == 0) continue;
        top = logits(j->scale, &k, t.u + i * t.ld, s);
        from = reference(top);
        for (int64_t x = 0; x < k.padded; x += VL) part += vf_exp_cut(vf_load(s + x) - from);
        join(&r.s->top[r.at + i], &r.s->sum[r.at + i], top, vf_sum(part));
        if (k.positives) add_row_positives(r, i, &k, s);
    }
}

/* Positives of all columns to their means and counts. */
static void add_column_positives(const struct contrast_part *p, const struct columns *k)
{
    struct span r = p->rows, c = p->columns;
    float mean[TILE] __attribute__((aligned(64)));
    int32_t count[TILE] __attribute__((aligned(64)));
    memset(mean, 0, sizeof mean);
    memset(count, 0, sizeof count);
    for (int64_t i = 0; i < r.n; i++) {
        const float *s = p->s + i * p->ld;
        int32_t id = r.s->id[r.at + i];
        if (r.s->has[r.at + i] == 0) continue;
        for (int64_t x = 0; x < k->padded; x += VL) {
            vi same = (vi_load(k->id + x) == id) & vi_load(k->keep + x), n = vi_load(count + x) - same;
            vf_store(mean + x, vf_load(mean + x) + keep_lanes(same, vf_load(s + x)));
            memcpy(count + x, &n, sizeof n);
        }
    }
    for (int64_t x = 0; x < c.n; x++) {
        c.s->mean[c.at + x] += (double)mean[x];
        c.s->count[c.at + x] += (float)count[x];
    }
}

/* Few columns: what the first pass has brought into the caches the second finds there. */
static void few_columns(const struct contrast_part *p)
{
    struct span r = p->rows, c = p->columns;
    float top[TILE], from[TILE], sum[TILE];
    struct columns k;
    contrast_columns_of(p, &k);
    for (int64_t x = 0; x < k.padded; x++) top[x] = -INFINITY, sum[x] = 0;
    for (int64_t i = 0; i < r.n; i++) {
        const float *s = p->s + i * p->ld;
        if (r.s->has[r.at + i] == 0) continue;
        for (int64_t x = 0; x < k.padded; x += VL) vf_store(top + x, vf_max(vf_load(s + x), vf_load(top + x)));
    }
    for (int64_t x = 0; x < k.padded; x++) from[x] = reference(top[x]);
    for (int64_t i = 0; i < r.n; i++) {
        const float *s = p->s + i * p->ld;
        if (r.s->has[r.at + i] == 0) continue;
        for (int64_t x = 0; x < k.padded; x += VL)
            vf_store(sum + x, vf_load(sum + x) + vf_exp_cut(vf_load(s + x) - vf_load(from + x)));
    }
    for (int64_t x = 0; x < c.n; x++) join(&c.s->top[c.at + x], &c.s->sum[c.at + x], top[x], sum[x]);
    if (k.positives) add_column_positives(p, &k);
}

void infonce_columns(const struct contrast_job *j, const struct contrast_part *p)
{
    enum { FEW = 128 };
    struct contrast_part few = *p;
    for (int64_t at = 0; at < p->columns.n; at += FEW) {
        int64_t left = p->columns.n - at;
        few.columns = (struct span){p->columns.s, p->columns.at + at, left < FEW ? left : FEW};
        few.s = p->s + at;
        few_columns(&few);
    }
}

double infonce_loss(const struct side *s, float *lse)
{
    double total = 0, queries = 0;
    for (int64_t i = 0; i < s->n; i++) {
        double l = s->has[i] == 0 || s->sum[i] == 0 ? 0 : (double)s->top[i] + log(s->sum[i]);
        lse[i] = (float)l;
        if (s->count[i] == 0) continue;
        total += l - s->mean[i] / (double)s->count[i];
        queries++;
    }
    return queries > 0 ? total / queries : 0;
}

/* ---- backward ------------------------------------------------------------------------------------------------------ */

/* A query's weight, and that of each of its positives. */
static float weight_of(const struct side *s, int64_t i, float *positive)
{
    float w = s->count[i] > 0 ? s->weight : 0;
    *positive = s->count[i] > 0 ? s->weight / s->count[i] : 0;
    return w;
}

/* Of each column: weight, weight of a positive, logsumexp. */
struct column_weights {
    float all[TILE], positive[TILE], lse[TILE];
};

static void column_weights_of(struct span c, int64_t padded, struct column_weights *w)
{
    for (int64_t x = 0; x < padded; x++) {
        w->all[x] = w->positive[x] = w->lse[x] = 0;
        if (x >= c.n) continue;
        w->all[x] = weight_of(c.s, c.at + x, &w->positive[x]);
        w->lse[x] = c.s->lse[c.at + x];
    }
}

/* h[] = scale h of row i, from its products u (which may be the same memory); returns the sum of h u. */
SIMD_FN double slopes(const struct contrast_job *j, struct span r, int64_t i, const struct columns *k,
                      const struct column_weights *w, bool positives, const float *u, float *to)
{
    float mine, each = 0, lse = r.s->lse[r.at + i], scale = j->scale;
    vf sum = vf_set(0);
    mine = weight_of(r.s, r.at + i, &each);
    for (int64_t x = 0; x < k->padded; x += VL) {
        vi keep = vi_load(k->keep + x);
        vf y = keep_lanes(keep, vf_load(u + x)), s = y * scale;
        vf h = mine * vf_exp_down(s - lse) + vf_load(w->all + x) * vf_exp_down(s - vf_load(w->lse + x));
        if (positives) h -= keep_lanes(vi_load(k->id + x) == r.s->id[r.at + i], vf_load(w->positive + x) + each);
        h = keep_lanes(keep, h);
        sum += h * y;
        vf_store(to + x, h * scale);
    }
    return (double)vf_sum(sum);
}

void infonce_grad_rows(const struct contrast_job *j, const struct contrast_part *p)
{
    struct span r = p->rows;
    struct columns k;
    struct products t = contrast_products(j, p, &k);
    struct column_weights w;
    column_weights_of(p->columns, k.padded, &w);
    for (int64_t i = 0; i < r.n; i++) {
        const float *u = t.u + i * t.ld;
        float *h = p->s + i * p->ld;
        double *sum = strip_sum(j, 0, r.at + i);
        if (r.s->has[r.at + i] == 0)
            memset(h, 0, (size_t)k.padded * sizeof *h);
        else if (k.positives)
            *sum += slopes(j, r, i, &k, &w, true, u, h);
        else
            *sum += slopes(j, r, i, &k, &w, false, u, h);
    }
    contrast_add_rows(j, p);
}
