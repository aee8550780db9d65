#include "tests/support/halfcheck.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/half_call.h"
#include "autograd/internal.h"
#include "autograd/program.h"
#include "base/mem.h"
#include "base/rng.h"

enum { MOST = 16 };

struct node {
    const struct ad_graph *g;
    const struct ad_node *n;
    struct ad_tensor t[2 * MOST]; /* inputs, then outputs */
    struct ad_call call;
    struct err fault;
};

/* Tensors of the types that `type` says, f32 replaced by it; zeroed outputs. */
static void make(struct node *k, const struct ad_graph *g, const struct ad_node *n, const enum ad_dtype *type,
                 double *const *x, uint64_t seed)
{
    *k = (struct node){.g = g, .n = n};
    for (int i = 0; i < n->n_in + n->n_out; i++) {
        val v = i < n->n_in ? n->in[i] : n->out + i - n->n_in;
        struct ad_tensor *t = &k->t[i];
        *t = (struct ad_tensor){.dtype = g->value[v].dtype == AD_F32 ? type[i] : g->value[v].dtype,
                                .shape = g->value[v].shape};
        ad_default_strides(t);
        int64_t count = ad_count(t->shape);
        t->data = mem_zero((size_t)count + 1, 8);
        for (int64_t j = 0; j < count && i < n->n_in; j++) ad_set(t, j, x[i][j]);
    }
    k->call = (struct ad_call){.in = k->t,
                               .out = k->t + n->n_in,
                               .n_in = n->n_in,
                               .n_out = n->n_out,
                               .attr = n->attr,
                               .op = n->op,
                               .seed = seed,
                               .step = 3,
                               .fault = &k->fault};
}

static void drop(struct node *k)
{
    for (int i = 0; i < k->n->n_in + k->n->n_out; i++) free(k->t[i].data);
}

static void run_with(struct node *k, const struct ad_kernel *kernel, size_t (*scratch)(const struct ad_call *),
                     struct half_call *h)
{
    size_t bytes = scratch ? scratch(h ? half_call_seen(h) : &k->call) : 0;
    if (h) bytes = half_call_scratch(h, bytes);
    k->call.scratch = bytes ? memset(aligned_alloc(64, (bytes + 63) / 64 * 64), 0xff, bytes) : NULL;
    if (h)
        half_call_run(h, kernel, &k->call);
    else
        ad_kernel_run(kernel, &k->call);
    free(k->call.scratch);
    half_call_free(h);
}

static struct ad_kernel plain(const struct ad_op *op)
{
    return (struct ad_kernel){.run = op->eval ? op->eval : ad_eval_elementwise};
}

/* As autograd/plan.c chooses. */
static void run_kernel(struct node *k)
{
    const struct ad_op *op = k->n->op;
    const struct ad_kernel *kernel = ad_kernel_find(op, &k->call);
    bool all = op->flags & AD_ELEMENTWISE;
    for (int i = 0; i < k->n->n_in + k->n->n_out; i++) all &= k->t[i].dtype == AD_F32 || ad_is_half(k->t[i].dtype);
    if (!kernel && all) {
        run_with(k, &ad_elementwise_f32, NULL, NULL);
        return;
    }
    struct ad_kernel eval = plain(op);
    struct half_call *h = half_call_new(&k->call, kernel ? kernel->half_in : 0, kernel ? kernel->half_out : 0);
    run_with(k, kernel ? kernel : &eval, kernel && kernel->scratch ? kernel->scratch : op->scratch, h);
}

/* Half the distance of neighbours in type t at x, about. */
static double rounding(enum ad_dtype t, double x)
{
    return t == AD_BF16 ? 0x1p-8 * fabs(x) : t == AD_F16 ? 0x1p-11 * fabs(x) + 0x1p-25 : 0;
}

static int compare(const struct node *want, const struct node *got, struct err *e)
{
    const struct ad_node *n = want->n;
    for (int k = n->n_in; k < n->n_in + n->n_out; k++) {
        const struct ad_tensor *a = &want->t[k], *b = &got->t[k];
        int64_t count = ad_count(a->shape);
        double top = 1;
        for (int64_t j = 0; j < count; j++)
            if (isfinite(ad_get(a, j))) top = fmax(top, fabs(ad_get(a, j)));
        for (int64_t j = 0; j < count; j++) {
            double x = ad_get(a, j), y = ad_get(b, j);
            if (isnan(x) ? isnan(y) : x == y || fabs(x - y) <= rounding(b->dtype, x) + 1e-5 * top) continue;
            if (b->dtype == AD_F16 && fabs(x) > 65504 && y == copysign(INFINITY, x)) continue; /* beyond its range */
            return err_set(e, ERR_STATE, "number %lld of output %d (%s) is %.9g, in f64 %.9g", (long long)j,
                           k - n->n_in, ad_dtype_name(b->dtype), y, x);
        }
    }
    return 0;
}

/* The definition sees, in f64, what the kernel sees: numbers that were rounded. */
static int check_types(const struct ad_graph *g, const struct ad_node *n, double *const *x, const enum ad_dtype *type,
                       uint64_t seed, struct err *e)
{
    static const enum ad_dtype wide[2 * MOST] = {[0 ... 2 * MOST - 1] = AD_F64};
    double *seen[MOST] = {0};
    struct node got, want;
    make(&got, g, n, type, x, seed);
    for (int i = 0; i < n->n_in; i++) {
        int64_t count = ad_count(got.t[i].shape);
        seen[i] = mem_zero((size_t)count + 1, sizeof *seen[i]);
        for (int64_t j = 0; j < count; j++) seen[i][j] = ad_get(&got.t[i], j);
    }
    make(&want, g, n, wide, seen, seed);
    run_kernel(&got);
    struct ad_kernel eval = plain(n->op);
    run_with(&want, &eval, n->op->scratch, NULL);
    int rc = got.fault.code || want.fault.code ? 0 : compare(&want, &got, e);
    drop(&got);
    drop(&want);
    for (int i = 0; i < n->n_in; i++) free(seen[i]);
    return rc;
}

/* The gradient of attention reads the forward result and its logsumexp; its definition computes them again, and would not
 * see that they were rounded. */
static bool repeats(const struct ad_node *n, int i)
{
    extern const struct ad_op ad_op_attention_grad;
    return n->op == &ad_op_attention_grad && (i == n->n_in - 3 || i == n->n_in - 2);
}

int halfcheck_node(const struct ad_graph *g, const struct ad_node *n, double *const *x, uint64_t seed, struct err *e)
{
    struct rng r = rng_make(seed, hash_str("halfcheck"), 0);
    int all = n->n_in + n->n_out, rc = 0;
    if (n->n_in > MOST || n->n_out > MOST) return 0;
    for (int half = 0; half < 2 && !rc; half++)
        for (int way = 0; way < all + 5 && !rc; way++) {
            enum ad_dtype type[2 * MOST];
            for (int i = 0; i < all; i++) {
                bool cast = way < all ? i == way : way == all || rng_u32(&r) & 1;
                type[i] = !cast || repeats(n, i) ? AD_F32 : half ? AD_F16 : AD_BF16;
            }
            rc = check_types(g, n, x, type, seed, e);
        }
    return rc;
}
