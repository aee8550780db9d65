/* The kernels of packed attention against the plain eval: odd sizes and heads, empty items, cross attention, causal with
 * more keys or more queries, views of a joined matrix, bias and its gradient, NaN and infinity, large scores; and the same
 * bits on any number of threads. */
#include "tests/autograd/kernel_check.h"

#include "autograd/ops/attention.h"
#include "autograd/ops/ops.h"

/* A call and all that belongs to it. */
struct trial {
    struct attention_attr attr;
    int64_t items, dim;
    int32_t *qo, *ko;
    int64_t n_q, n_k; /* rows, padding included */
    struct ad_tensor in[9];
    int n_in; /* of the forward pass */
    float *qkv[3];
    struct check_run y; /* the eval's y and lse */
    char name[160];
};

static struct ad_tensor offsets_of(const int32_t *o, int64_t items)
{
    return (struct ad_tensor){.data = (void *)o, .dtype = AD_I32, .shape = SHAPE(items + 1), .stride = {1}};
}

/* Items of lo .. hi queries and keys; `same`: as many keys as queries; `joined`: q, k, v are columns of wider rows. */
struct spec {
    int64_t items, lo, hi, heads, dim;
    bool same, causal, bias, joined;
    float size; /* of q and k */
};

static struct trial make_trial(struct spec s)
{
    struct trial t = {.attr = {(int32_t)s.heads, s.causal ? AD_CAUSAL : 0, s.bias}, .items = s.items, .dim = s.dim};
    t.qo = mem_zero((size_t)s.items + 1, sizeof *t.qo);
    t.ko = mem_zero((size_t)s.items + 1, sizeof *t.ko);
    int64_t most_q = 1, most_k = 1, width = s.heads * s.dim, gap = s.joined ? 2 * width + 3 : 0;
    for (int64_t i = 0; i < s.items; i++) {
        int64_t q = check_int(s.lo, s.hi), k = s.same ? q : check_int(s.lo, s.hi);
        if (q > most_q) most_q = q;
        if (k > most_k) most_k = k;
        t.qo[i + 1] = (int32_t)(t.qo[i] + q);
        t.ko[i + 1] = (int32_t)(t.ko[i] + k);
    }
    t.n_q = t.qo[s.items] + 2, t.n_k = t.ko[s.items] + 1;
    for (int i = 0; i < 3; i++) {
        int64_t rows = i ? t.n_k : t.n_q;
        struct ad_tensor x = check_tensor(SHAPE(rows, width + gap));
        t.qkv[i] = x.data;
        for (int64_t k = 0; i < 2 && k < rows * (width + gap); k++) t.qkv[i][k] *= s.size;
        t.in[i] = (struct ad_tensor){
            .data = t.qkv[i] + (gap ? 1 : 0), .dtype = AD_F32, .shape = SHAPE(rows, width), .stride = {width + gap, 1}};
    }
    t.in[3] = offsets_of(t.qo, s.items);
    t.in[4] = offsets_of(t.ko, s.items);
    t.n_in = 5;
    if (s.bias) t.in[t.n_in++] = check_tensor(SHAPE(s.heads, most_q + 1, most_k + 2));
    t.in[t.n_in + 2] = check_tensor(SHAPE(t.n_q, width));
    snprintf(t.name, sizeof t.name, "%lld items of %lld..%lld tokens, %lld heads of %lld%s%s%s%s", (long long)s.items,
             (long long)s.lo, (long long)s.hi, (long long)s.heads, (long long)s.dim, s.same ? "" : ", cross",
             s.causal ? ", causal" : "", s.bias ? ", bias" : "", s.joined ? ", joined" : "");
    return t;
}

static void free_trial(struct trial *t)
{
    for (int i = 0; i < 3; i++) free(t->qkv[i]);
    if (t->attr.bias) free(t->in[5].data);
    free(t->in[t->n_in + 2].data);
    check_free(&t->y);
    free(t->qo);
    free(t->ko);
}

/* The largest sum of |a_id b_jd| over the columns of one head: what a dot product's rounding is relative to. */
static double largest_dot(const struct trial *t, const struct ad_tensor *a, const struct ad_tensor *b)
{
    double most[2] = {0, 0};
    for (int k = 0; k < 2; k++) {
        const struct ad_tensor *x = k ? b : a;
        for (int64_t i = 0; i < x->shape.dim[0]; i++)
            for (int64_t h = 0; h < t->attr.heads; h++) {
                double sum = 0;
                for (int64_t d = 0; d < t->dim; d++) {
                    double v = ad_get(x, i * x->stride[0] + h * t->dim + d);
                    if (isfinite(v)) sum += v * v;
                }
                if (sum > most[k]) most[k] = sum;
            }
    }
    return sqrt(most[0] * most[1]); /* Cauchy and Schwarz */
}

static double largest(const struct ad_tensor *t)
{
    double most = 0;
    for (int64_t i = 0; i < t->shape.dim[0]; i++)
        for (int64_t d = 0; d < t->shape.dim[1]; d++) {
            double v = fabs(ad_get(t, i * t->stride[0] + d));
            if (isfinite(v) && v > most) most = v;
        }
    return most;
}

static void compare(const struct trial *t, const char *what, const struct ad_tensor *want, const struct ad_tensor *got,
                    double allowed)
{
    for (int64_t i = 0; i < ad_count(want->shape); i++) {
        double w = ad_get(want, i), g = ad_get(got, i);
        if (isfinite(w) ? !(fabs(w - g) <= allowed) : isnan(w) ? !isnan(g) : w != g && isfinite(g))
            fail_msg("%s: %s[%lld] is %.9g, not %.9g (allowed %.3g)", t->name, what, (long long)i, g, w, allowed);
    }
}

/* Bit for bit, but for which NaN a NaN is. */
static bool same_bits(const struct ad_tensor *a, const struct ad_tensor *b)
{
    const float *x = a->data, *y = b->data;
    for (int64_t i = 0; i < ad_count(a->shape); i++)
        if (memcmp(x + i, y + i, sizeof *x) && !(isnan(x[i]) && isnan(y[i]))) return false;
    return true;
}

/* Runs both passes on 1, 2, 3, 7 threads. With u = 2^-24: a score is wrong by at most (D + 2) u |q| |k| scale (Higham
 * 2002, 3.5), hence a probability by e_p = twice that and a few u of exp2 and of the logsumexp, which is rounded relative
 * to its size; sums over n tokens add n u. */
static void check_trial(struct trial *t)
{
    static const char *const names[] = {"dq", "dk", "dv", "dbias"};
    int n = t->n_in;
    double u = 0x1p-24, scale = 1 / sqrt((double)t->dim), score = largest_dot(t, &t->in[0], &t->in[1]) * scale;
    if (t->attr.bias) score += 1;
    double e_p = 2 * ((double)t->dim + 4) * u * (score + 1) + 16 * u, tokens = (double)(t->n_q + t->n_k);
    double e = e_p + (tokens + (double)t->dim) * u;
    t->y = check_once(&ad_op_attention, &t->attr, t->in, n, false);
    t->in[n] = t->y.out[0];
    t->in[n + 1] = t->y.out[1];
    struct check_run want = check_once(&ad_op_attention_grad, &t->attr, t->in, n + 3, false), one[2];
    double g = largest_dot(t, &t->in[n + 2], &t->in[2]) + largest_dot(t, &t->in[n + 2], &t->in[n]);
    double allowed[4] = {2 * e * g * scale * largest(&t->in[1]), 2 * e * tokens * g * scale * largest(&t->in[0]),
                         e * tokens * largest(&t->in[n + 2]), 2 * e * g * (double)t->items};
    static const int threads[] = {1, 2, 3, 7};
    for (int k = 0; k < 4; k++) {
        omp_set_num_threads(threads[k]);
        struct check_run got[2] = {check_once(&ad_op_attention, &t->attr, t->in, n, true),
                                   check_once(&ad_op_attention_grad, &t->attr, t->in, n + 3, true)};
        if (k == 0) {
            compare(t, "y", &t->y.out[0], &got[0].out[0], e * largest(&t->in[2]));
            compare(t, "lse", &t->y.out[1], &got[0].out[1], e * (score + 8));
            for (int i = 0; i < want.n_out; i++) compare(t, names[i], &want.out[i], &got[1].out[i], allowed[i]);
            one[0] = got[0], one[1] = got[1];
            continue;
        }
        for (int p = 0; p < 2; p++) {
            for (int i = 0; i < got[p].n_out; i++)
                if (!same_bits(&one[p].out[i], &got[p].out[i]))
                    fail_msg("%s: other bits on %d threads, output %d of pass %d", t->name, threads[k], i, p);
            check_free(&got[p]);
        }
    }
    for (int p = 0; p < 2; p++) check_free(&one[p]);
    check_free(&want);
}

static void run_spec(struct spec s)
{
    struct trial t = make_trial(s);
    check_trial(&t);
    free_trial(&t);
}

static void random_shapes(void **state)
{
    static const int64_t dims[] = {1, 2, 3, 5, 8, 15, 16, 17, 24, 32, 33, 48, 64, 65, 80, 96, 127, 128};
    for (int i = 0; i < 160; i++) {
        int64_t hi = check_int(0, 3) ? check_int(1, 20) : check_int(20, 80);
        run_spec((struct spec){.items = check_int(0, 5),
                               .lo = check_int(0, 2) ? 0 : check_int(1, hi),
                               .hi = hi,
                               .heads = check_int(1, 4),
                               .dim = dims[check_int(0, (int64_t)(sizeof dims / sizeof *dims) - 1)],
                               .same = check_int(0, 2) > 0,
                               .causal = check_int(0, 1),
                               .bias = check_int(0, 3) == 0,
                               .joined = check_int(0, 1),
                               .size = check_int(0, 1) ? 1 : 4});
    }
}

/* Every length around the sizes of vectors and blocks. */
static void lengths(void **state)
{
    static const int64_t n[] = {1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 50, 64, 65, 97, 127, 128, 129};
    for (size_t i = 0; i < sizeof n / sizeof *n; i++)
        for (int causal = 0; causal < 2; causal++)
            run_spec((struct spec){2, n[i], n[i], 1, 16, .same = true, .causal = causal, .size = 2});
}

/* Several spans of keys; on 2, 3 and 7 threads the gradient is cut into tasks of their own. */
static void long_items(void **state)
{
    run_spec((struct spec){1, 600, 600, 1, 16, .same = true, .causal = true, .joined = true, .size = 2});
    run_spec((struct spec){1, 300, 530, 1, 20, .size = 2});
    run_spec((struct spec){2, 200, 530, 1, 8, .causal = true, .size = 2});
    run_spec((struct spec){2, 100, 300, 1, 16, .same = true, .bias = true, .size = 2});
    run_spec((struct spec){2, 30, 270, 2, 8, .causal = true, .bias = true, .size = 2});
}

/* exp overflows at 89: these scores go to thousands. */
static void large_scores(void **state)
{
    for (int causal = 0; causal < 2; causal++)
        run_spec((struct spec){3, 1, 150, 2, 32, .same = true, .causal = causal, .size = 60});
}

/* One odd number somewhere: it shows where the eval has it, and nowhere else. A sum may be NaN where the eval has an
 * infinity or the other way round: probabilities below 1e-38 are 0, so only the eval's finite numbers are compared. */
static void odd_numbers(void **state)
{
    static const float odd[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 120; i++) {
        struct trial t = make_trial((struct spec){.items = check_int(1, 3),
                                                  .lo = 1,
                                                  .hi = i % 10 ? 40 : 300,
                                                  .heads = check_int(1, 2),
                                                  .dim = check_int(0, 1) ? 16 : 7,
                                                  .same = check_int(0, 2) > 0,
                                                  .causal = check_int(0, 3) > 0,
                                                  .bias = check_int(0, 2) == 0,
                                                  .size = 1});
        int which = (int)check_int(0, 3);
        struct ad_tensor *x = which < 3 ? &t.in[which] : &t.in[t.n_in + 2];
        if (x->shape.dim[0]) ((float *)x->data)[check_int(0, ad_count(x->shape) - 1)] = odd[i % 3];
        if (t.attr.bias && i % 2) ((float *)t.in[5].data)[check_int(0, ad_count(t.in[5].shape) - 1)] = odd[i / 2 % 3];
        check_trial(&t);
        free_trial(&t);
    }
}

/* A query whose bias hides every key gives 0 and passes no gradient, as in the eval. */
static void hidden_rows(void **state)
{
    struct trial t = make_trial((struct spec){2, 40, 140, 2, 16, .same = true, .bias = true, .size = 1});
    int64_t rows = t.in[5].shape.dim[1], keys = t.in[5].shape.dim[2];
    for (int64_t j = 0; j < 2 * rows * keys; j++)
        if (j / keys % 7 == 3 || j % keys % 5 == 2) ((float *)t.in[5].data)[j] = -INFINITY;
    check_trial(&t);
    for (int64_t d = 0; d < 16; d++) assert_true(ad_get(&t.y.out[0], 3 * 32 + d) == 0);
    free_trial(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_shapes), cmocka_unit_test(lengths),     cmocka_unit_test(long_items),
        cmocka_unit_test(large_scores),  cmocka_unit_test(odd_numbers), cmocka_unit_test(hidden_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
