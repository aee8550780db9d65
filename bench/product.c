/* Who multiplies in `triad bench gemm`. See product.h. */
#include "bench/product.h"

#include <cblas.h>
#include <dlfcn.h>
#include <math.h>
#include <string.h>

#include "autograd/kernels/gemm.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/threads.h"
#include "bench/job.h"

const char *const bench_contestants[BENCH_CONTESTANTS] = {
    [BENCH_GEMM] = "triad",    [BENCH_DIRECT] = "direct",       [BENCH_THIN] = "thin", [BENCH_NARROW] = "narrow",
    [BENCH_PACKED] = "packed", [BENCH_LANES] = "lanes",         [BENCH_BLAS] = "blas", [BENCH_DNNL] = "dnnl",
    [BENCH_XSMM] = "xsmm",     [BENCH_XSMM_ROWS] = "xsmm_rows", [BENCH_KEPT] = "kept",
};

/* dnnl_sgemm of oneDNN 2 and 3 (row-major). */
typedef int dnnl_sgemm_fn(char ta, char tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda,
                          const float *b, int64_t ldb, float beta, float *c, int64_t ldc);
static dnnl_sgemm_fn *dnnl_sgemm;

/* libxsmm 1.x (column-major): a kernel of these sizes, made when it is first asked for; NULL where there is none. */
typedef void xsmm_fn(const float *a, const float *b, float *c, ...);
typedef xsmm_fn *xsmm_dispatch_fn(int m, int n, int k, const int *lda, const int *ldb, const int *ldc,
                                  const float *alpha, const float *beta, const int *flags, const int *prefetch);
static xsmm_dispatch_fn *xsmm_dispatch;

static void *find(const char *const *names, const char *symbol)
{
    for (; *names; names++) {
        void *lib = dlopen(*names, RTLD_NOW | RTLD_LOCAL), *found = lib ? dlsym(lib, symbol) : NULL;
        if (found) return found;
    }
    return NULL;
}

void bench_find_libraries(void)
{
    *(void **)&dnnl_sgemm = find((const char *const[]){"libdnnl.so.3", "libdnnl.so.2", NULL}, "dnnl_sgemm");
    *(void **)&xsmm_dispatch = find((const char *const[]){"libxsmm.so.1", "libxsmm.so", NULL}, "libxsmm_smmdispatch");
}

/* Row-major C = A B is column-major C' = B' A': the operands change places. Its kernels do not take a transposed first
 * operand, which is our B stored (N, K). */
static xsmm_fn *xsmm_of(const struct bench_product *p)
{
    enum { TRANS_B = 2, MOST = 128 * 128 * 128 }; /* what it is for: the cube root of its sizes up to 128 */
    if (!xsmm_dispatch || p->tb || p->m * p->n * p->k > MOST) return NULL;
    int m = (int)p->n, n = (int)p->m, k = (int)p->k, ldb = (int)(p->ta ? p->m : p->k), flags = p->ta ? TRANS_B : 0;
    return xsmm_dispatch(m, n, k, &m, &ldb, &m, &(float){1}, &(float){0}, &flags, NULL);
}

static struct gemm_args args_of(const struct bench_gemm *w)
{
    const struct bench_product *p = w->p;
    return (struct gemm_args){.m = p->m,
                              .n = p->n,
                              .k = p->k,
                              .a = w->a,
                              .b = w->b,
                              .c = w->c,
                              .a_row = p->ta ? 1 : p->k,
                              .a_col = p->ta ? p->m : 1,
                              .b_row = p->tb ? 1 : p->n,
                              .b_col = p->tb ? p->k : 1,
                              .c_row = p->n};
}

static enum gemm_backend backend_of(enum bench_contestant who)
{
    return (enum gemm_backend)(who - BENCH_DIRECT);
}

enum bench_contestant bench_chosen(const struct bench_gemm *w)
{
    struct gemm_args g = args_of(w);
    g.lanes = gemm_sums_in_lanes(&g);
    return (enum bench_contestant)(BENCH_DIRECT + gemm_backend_of(&g));
}

bool bench_takes(enum bench_contestant who, const struct bench_gemm *w)
{
    struct gemm_args g = args_of(w);
    switch (who) {
    case BENCH_DIRECT:
    case BENCH_THIN:
    case BENCH_NARROW:
    case BENCH_XSMM_ROWS:
    case BENCH_PACKED:
    case BENCH_LANES: return gemm_can(backend_of(who), &g);
    case BENCH_DNNL: return dnnl_sgemm;
    case BENCH_XSMM: return xsmm_of(w->p);
    case BENCH_KEPT: return w->p->weights && gemm_wants_panels(g.m, g.n, g.k);
    default: return true;
    }
}

static void run(enum bench_contestant who, const struct bench_gemm *w)
{
    const struct bench_product *p = w->p;
    int64_t lda = p->ta ? p->m : p->k, ldb = p->tb ? p->k : p->n;
    struct gemm_args g = args_of(w);
    switch (who) {
    case BENCH_GEMM: gemm(&g, w->scratch); break;
    case BENCH_BLAS:
        cblas_sgemm(CblasRowMajor, p->ta ? CblasTrans : CblasNoTrans, p->tb ? CblasTrans : CblasNoTrans, (int)p->m,
                    (int)p->n, (int)p->k, 1, w->a, (int)lda, w->b, (int)ldb, 0, w->d, (int)p->n);
        break;
    case BENCH_DNNL:
        dnnl_sgemm(p->ta ? 'T' : 'N', p->tb ? 'T' : 'N', p->m, p->n, p->k, 1, w->a, lda, w->b, ldb, 0, w->d, p->n);
        break;
    case BENCH_XSMM: xsmm_of(p)(w->b, w->a, w->d); break;
    case BENCH_KEPT:
        g.c = w->d;
        g.panels = (struct gemm_panels){.at = w->panels, .n = p->n};
        gemm(&g, w->scratch);
        break;
    default: g.c = w->d; gemm_block_by(backend_of(who), &g);
    }
}

void bench_keep(const struct bench_gemm *w)
{
    struct gemm_args g = args_of(w);
    int64_t row, column;
    for (int64_t i = 0, n = gemm_panels_count(g.n, g.k); i < n; i++)
        w->panels[i] = gemm_panels_place(g.n, g.k, i, &row, &column) ? w->b[row * g.b_row + column * g.b_col] : 0;
}

extern void openblas_set_num_threads(int n);

/* The BLAS has its own threads only while it is the one that is timed. */
double bench_time(enum bench_contestant who, const struct bench_gemm *w, int repeat)
{
    if (who == BENCH_BLAS)
        openblas_set_num_threads(w->threads);
    else
        threads_init(w->threads);
    double start = time_now();
    for (int i = 0; i < repeat; i++) run(who, w);
    double s = (time_now() - start) / repeat;
    threads_init(w->threads);
    return s;
}

/* Sums in another order differ by rounding alone: K terms of size about 1. */
int bench_agrees(enum bench_contestant who, const struct bench_gemm *w, struct err *e)
{
    const struct bench_product *p = w->p;
    double most = 0, allowed = 1e-5 * (4 + sqrt((double)p->k));
    for (int64_t i = 0; i < p->m * p->n; i++) most = fmax(most, fabs((double)w->c[i] - (double)w->d[i]));
    if (most <= allowed) return 0;
    return err_set(e, ERR_STATE, "%s (%lld x %lld x %lld): gemm() and %s differ by %g, more than %g", p->name,
                   (long long)p->m, (long long)p->n, (long long)p->k, bench_contestants[who], most, allowed);
}

static void fill(float *x, int64_t n, const char *stream)
{
    struct rng r = rng_make(1, hash_str(stream), 0);
    for (int64_t i = 0; i < n; i++) x[i] = (float)rng_range(&r, -1, 1);
}

/* Numbers rounded up to whole lines: each matrix begins with one. */
static int64_t lines(int64_t numbers)
{
    return (numbers + 15) / 16 * 16;
}

int bench_gemm_new(struct bench_gemm *w, const struct bench_product *p, int n, struct err *e)
{
    int64_t na = 0, nb = 0, nc = 0, ns = 0, np = 0;
    for (int i = 0; i < n; i++) {
        int64_t need = (int64_t)(gemm_scratch(p[i].m, p[i].n, p[i].k) / sizeof(float));
        if (p[i].m * p[i].k > na) na = lines(p[i].m * p[i].k);
        if (p[i].k * p[i].n > nb) nb = lines(p[i].k * p[i].n);
        if (p[i].m * p[i].n > nc) nc = lines(p[i].m * p[i].n);
        if (need > ns) ns = lines(need);
        int64_t panels = p[i].weights ? gemm_panels_count(p[i].n, p[i].k) : 0;
        if (panels > np) np = lines(panels);
    }
    w->bytes = (size_t)(ns + na + nb + 2 * nc + np) * sizeof(float);
    w->scratch = mem_block(w->bytes, "matrices", e);
    if (!w->scratch) return ERR_MEMORY;
    w->a = (float *)w->scratch + ns;
    w->b = w->a + na;
    w->c = w->b + nb;
    w->d = w->c + nc;
    w->panels = w->d + nc;
    w->threads = threads_count();
    fill(w->a, na, "a");
    fill(w->b, nb, "b");
    return 0;
}

void bench_gemm_free(struct bench_gemm *w)
{
    mem_block_free(w->scratch, w->bytes);
}
