/* What an op is. Everything known about it stands in its one `struct ad_op`, in its own file; a program may define more
 * of them in files of its own and emit them with ad_node(): nothing here switches on an op.
 *
 * `eval` is the plain loop that *is* the definition. It sees contiguous tensors unless the op says otherwise, and works
 * in double through ad_get/ad_set, so that one loop serves f32 and f64. Fast kernels live in autograd/kernels and are
 * tested against it. `vjp` is written in other ops. `cases` are the shapes and ranges on which the gradient check runs.
 */
#ifndef TRIAD_AUTOGRAD_OP_H
#define TRIAD_AUTOGRAD_OP_H

#include "autograd/graph.h"
#include "base/half.h"

/* ---- at run time ------------------------------------------------------------------------------------------------- */

struct ad_tensor {
    void *data;
    enum ad_dtype dtype;
    struct ad_shape shape;
    int64_t stride[AD_MAX_DIMS]; /* in elements; 0 where broadcast */
};

static inline double ad_get(const struct ad_tensor *t, int64_t i)
{
    switch (t->dtype) {
    case AD_F32: return ((const float *)t->data)[i];
    case AD_F64: return ((const double *)t->data)[i];
    case AD_I32: return ((const int32_t *)t->data)[i];
    case AD_I64: return (double)((const int64_t *)t->data)[i];
    case AD_BF16: return bf16_to_float(((const uint16_t *)t->data)[i]);
    case AD_F16: return half_to_float(((const uint16_t *)t->data)[i]);
    }
    return 0;
}

static inline int64_t ad_get_int(const struct ad_tensor *t, int64_t i)
{
    return t->dtype == AD_I32   ? ((const int32_t *)t->data)[i]
           : t->dtype == AD_I64 ? ((const int64_t *)t->data)[i]
                                : (int64_t)ad_get(t, i);
}

static inline void ad_set(const struct ad_tensor *t, int64_t i, double v)
{
    switch (t->dtype) {
    case AD_F32: ((float *)t->data)[i] = (float)v; break;
    case AD_F64: ((double *)t->data)[i] = v; break;
    case AD_I32: ((int32_t *)t->data)[i] = (int32_t)v; break;
    case AD_I64: ((int64_t *)t->data)[i] = (int64_t)v; break;
    case AD_BF16: ((uint16_t *)t->data)[i] = bf16_from_float((float)v); break;
    case AD_F16: ((uint16_t *)t->data)[i] = half_from_float((float)v); break;
    }
}

bool ad_contiguous(const struct ad_tensor *t);
void ad_default_strides(struct ad_tensor *t);

/* One execution of a node. */
struct ad_call {
    const struct ad_tensor *in; /* [n_in] */
    struct ad_tensor *out;      /* [n_out] */
    int n_in, n_out;
    const void *attr; /* the node's attributes */
    const struct ad_op *op;
    void *scratch;       /* op->scratch bytes, 64-byte aligned, content undefined */
    uint64_t seed, step; /* random ops: of this run */
    struct err *fault;   /* where ad_call_fail records wrong input data */
};
/* From an eval or kernel whose input data is wrong (an index out of range): the run ends with ERR_SHAPE. The outputs
 * must still be written with something finite. Call it from one thread at a time. */
void ad_call_fail(const struct ad_call *c, const char *fmt, ...) PRINTF_LIKE(2, 3);
static inline bool ad_call_failed(const struct ad_call *c)
{
    return c->fault && c->fault->code;
}

/* ---- at build time ----------------------------------------------------------------------------------------------- */

struct ad_infer {
    const struct ad_graph *g;
    const val *in;
    int n_in;
    const void *attr;
    struct ad_shape in_shape[16]; /* of the first 16 inputs, for short; ad_shape_of(g, in[i]) for the rest */
    enum ad_dtype in_dtype[16];
    int n_out;                /* infer may set it (1 before the call) */
    struct ad_shape shape[8]; /* infer sets these */
    enum ad_dtype dtype[8];   /* preset to in_dtype[0] */
    char why[400];            /* set by ad_infer_fail */
};
/* Records why the inputs do not fit and returns -1: `return ad_infer_fail(f, "gain must be (%ld), not %s", ...)`. */
int ad_infer_fail(struct ad_infer *f, const char *fmt, ...) PRINTF_LIKE(2, 3);

struct ad_node {
    const struct ad_op *op;
    int32_t n_in, n_out;
    val out; /* the first output; the others follow it */
    const val *in;
    const void *attr; /* op->attr_size bytes, or NULL */
    const char *path; /* the layer path where it was built */
    uint32_t half;    /* bit k: a plan keeps output k in 16 bits (passes/autocast.c) */
    enum ad_part part;
};

/* A view: how output `index` lies in the memory of input 0. Returns false where the input's strides do not allow it. */
typedef bool (*ad_view_fn)(const struct ad_tensor *in, const void *attr, int index, struct ad_tensor *out,
                           int64_t *offset);

/* One scalar of an elementwise op; x has one number an input. The definition, in double. */
typedef double (*ad_scalar_fn)(const double *x, const void *attr);

struct ad_case {
    /* Inputs by blanks: "3x7 7 1" are f64 tensors; "()" a scalar; "i32:5<10" five ints in [0,10); "off:4/17" the
     * offsets (int32, 5 numbers from 0 to 17) of 4 random runs that sum to 17, empty runs included. */
    const char *in;
    /* Emits the op on `in` and writes its float results into `out`; returns how many (at most 8). */
    int (*build)(struct ad_graph *g, const val *in, val *out);
    double lo, hi; /* the range of float inputs; both 0: -1.5 to 1.5 */
    double apart;  /* float inputs of one tensor differ by at least this (max, sort...); kinks are kept away */
    const char
        *no_gradient;      /* why there is none (integer results, piecewise constant); the values are still compared */
    const char *no_second; /* why the second order is not checked */
    double tol;            /* relative error allowed; 0: 1e-6 */
};

enum ad_op_flags {
    AD_ELEMENTWISE = 1, /* `scalar` is its definition; inputs broadcast; takes any strides; may alias any input */
    AD_STRIDED = 2,     /* eval takes inputs with any strides */
    AD_RANDOM = 4,      /* reads seed and step; which numbers it draws is named by a stream in its attributes */
    AD_LEAF = 8,        /* input, parameter, constant: never run */
    AD_CHEAP = 16,      /* output 0 costs about as much as reading the inputs: may be computed again, not kept */
    AD_WIDE = 32,       /* elementwise, with results of too wide a range for 16 bits: exp, square ... */
    AD_EXACT = 64,      /* a loss: what it reads is kept in 32 bits */
    AD_MOVES = 128,     /* only moves numbers, as views do: what comes out is as exact as what went in */
    AD_APPLIES = 256,   /* writes its last input, a parameter, which it alone writes: runs behind all that read it */
};

/* A product of m rows by one of a node's inputs, which is a matrix (k, n), or (n, k) where `turned`, whatever axes it has. */
struct ad_factor {
    int input;
    int64_t m, n, k;
    bool turned;
};

struct ad_op {
    const char *name;
    size_t attr_size;
    unsigned flags;
    int min_in, max_in;
    int (*infer)(struct ad_infer *f);
    void (*eval)(const struct ad_call *c); /* NULL for elementwise ops and leaves */
    ad_scalar_fn scalar;                   /* elementwise ops */
    ad_view_fn view;                       /* ops that only look at their input differently; eval then makes a copy */
    /* Emits gradients: dy[n_out] (0 where nothing flows), dx[n_in] is zeroed; leave 0 where no gradient flows. */
    void (*vjp)(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx);
    size_t (*scratch)(const struct ad_call *c);    /* bytes; c->in/out carry shapes and strides, no data */
    double (*flops)(const struct ad_call *c);      /* NULL: one an output element */
    double (*bytes)(const struct ad_call *c);      /* moved; NULL: its inputs and outputs once (report.h) */
    bool (*takes)(const struct ad_call *c, int i); /* which strided inputs eval/kernels can take; NULL: by flags */
    unsigned alias;                                /* bit i: output 0 may overwrite input i of the same size */
    /* Mixed precision (passes/autocast.c): bit k: output k may be kept in 16 bits. 0: all stay in 32 (reductions,
     * statistics, losses, gradients of weights). Two kinds of ops need not say: elementwise ones may, but for those with
     * AD_WIDE; and a view is kept as its input is. */
    uint32_t half;
    unsigned apart; /* bit k: output k may be asked for with rows that lie apart, the last axis contiguous */
    /* An op that only copies its inputs into parts of output 0 and does nothing for an input that lies there already: `t`
     * is output 0; becomes the part of input i, `offset` elements from output 0's start. NULL: it computes. */
    void (*part)(const struct ad_graph *g, const struct ad_node *n, int i, struct ad_tensor *t, int64_t *offset);
    /* Asked by the fuse pass: `user`, an elementwise op, is the only reader of output 0 (as its operand `at`; `other`
     * is its second operand or 0). Emits one node that does both and returns it, or 0. `in` are the node's inputs in
     * `g`. */
    val (*absorb)(struct ad_graph *g, const struct ad_node *n, const val *in, const struct ad_op *user, int at,
                  val other);
    /* Asked by the panels pass: whether the node is a product whose second matrix may be given in panels too, as one more
     * input; then sets *f, and in `attr`, a copy of the node's, that there are panels. */
    bool (*factor)(const struct ad_graph *g, const struct ad_node *n, void *attr, struct ad_factor *f);
    /* Asked by the simplify pass: a val of `g` (an input, or a smaller expression) that equals output 0, or 0. */
    val (*simplify)(struct ad_graph *g, const struct ad_node *n, const val *in);
    const struct ad_kernel *kernel; /* for all of its calls, of an op that is not triad's own; NULL: found by table */
    const struct ad_case *cases;
    int n_cases;
};

#define AD_CASES(array) .cases = (array), .n_cases = (int)(sizeof(array) / sizeof((array)[0]))

/* Emits a node (attr is copied; zero-initialise it, padding included) and returns its first output. */
val ad_node(struct ad_graph *g, const struct ad_op *op, const void *attr, const val *in, int n_in);
#define AD_NODE(g, op, attr, ...) \
    ad_node(g, op, attr, (const val[]){__VA_ARGS__}, (int)(sizeof((val[]){__VA_ARGS__}) / sizeof(val)))

const struct ad_node *ad_node_of(const struct ad_graph *g, val v); /* NULL for poison; lives as long as the graph */
/* A number that names one source of random bits: from the layer path and how many were asked for under it before. */
uint64_t ad_new_stream(struct ad_graph *g);
static inline val ad_out(const struct ad_node *n, int i)
{
    return n->out + i;
}

/* Every op of triad's own, for the checks. */
extern const struct ad_op *const ad_all_ops[];
extern const int ad_n_ops;

/* A call cut into items that any threads may compute in any order, in phases that follow one another: what a kernel tells
 * of its work so that the plan can run many calls in one parallel region, those that do not touch one another's memory
 * side by side (region.h). What an item computes, to the bit, does not depend on which thread has it nor on how many there
 * are; `threads` may decide only how products are cut, where that changes no sum. Only a phase that is `alone`, of a call with
 * an integer among its inputs, may call ad_call_fail; later phases, and other calls, still run. */
struct ad_phase {
    int64_t items;
    void (*run)(const struct ad_call *c, const void *job, int64_t from, int64_t to); /* items from .. to-1 */
    bool dynamic; /* items differ, or are few and long: a thread takes them one by one; else a run of them at once */
    bool alone;   /* not worth a second thread */
};
enum { AD_PHASES = 4, AD_JOB_BYTES = 640 };
struct ad_parts {
    int n; /* of the phases; 0: nothing to do */
    /* Phases first_round .. end_round-1 come `rounds` times, one round after the other; in round r items are numbered from
     * r x items on. 0: each phase once. */
    int first_round, end_round;
    int64_t rounds;
    struct ad_phase phase[AD_PHASES];
    unsigned char job[AD_JOB_BYTES] __attribute__((aligned(64))); /* the kernel's own, filled in by `cut` */
};

/* A kernel is a faster eval for some calls: `accepts` sees shapes and strides without data. First match wins. */
struct ad_kernel {
    const struct ad_op *op;
    enum ad_dtype dtype; /* of input 0 (output 0 for ops without inputs); f32 also where that is kept in 16 bits */
    bool (*accepts)(const struct ad_call *c);   /* NULL: all of them */
    void (*run)(const struct ad_call *c);       /* the whole call, with regions of its own; NULL where there is `cut` */
    size_t (*scratch)(const struct ad_call *c); /* NULL: op->scratch */
    const char *name;
    /* Bit i: input i, output i may be in 16 bits, and the call's tensors say whether it is. Others are converted for it
     * (half_call.h): it sees f32, contiguous. */
    uint32_t half_in, half_out;
    /* Fills in *p, which comes zeroed, and writes nothing else. It sees where the tensors lie but not what is in them, nor
     * seed and step: what it says is kept from run to run until a pointer of the call changes. */
    void (*cut)(const struct ad_call *c, int threads, struct ad_parts *p);
};
void ad_kernel_run(const struct ad_kernel *k, const struct ad_call *c); /* by `run`, or `cut` in a region of its own */

/* For a phase of one item a thread, each of which takes tasks from a counter that they share until there are none: the first
 * of the `most` tasks that come next, out of n, or n and more where nothing is left. While ad_one_task is set (region_weigh
 * sets it) an item is given tasks once, and told whether there are more. */
struct ad_one_task {
    bool given, more;
};
extern _Thread_local struct ad_one_task *ad_one_task;
static inline int64_t ad_take(int64_t *next, int64_t most, int64_t n)
{
    struct ad_one_task *one = ad_one_task;
    if (one && one->given) {
        one->more = *next < n;
        return n;
    }
    if (one) one->given = true;
    return __atomic_fetch_add(next, most, __ATOMIC_RELAXED);
}
/* Rows of `width` numbers in `tasks` blocks of rows, of which there may be too few for the threads: the numbers of a row that an
 * item has, whole lines, so that each thread has some of the items where it can. */
static inline int64_t ad_stripe(int64_t width, int64_t tasks, int threads)
{
    enum { LEAST = 64, EACH = 4 };
    int64_t want = tasks < EACH * threads && threads > 1 ? (EACH * threads + tasks - 1) / tasks : 1;
    if (tasks >= threads && tasks % threads == 0) want = 1;
    int64_t stripe = (width + want - 1) / want;
    return stripe < LEAST ? LEAST : (stripe + LEAST - 1) / LEAST * LEAST;
}
const struct ad_kernel *ad_kernel_find(const struct ad_op *op, const struct ad_call *c);

/* Fast elementwise loops for f32: n contiguous numbers (an input of `step[i]` 0 is one number, repeated). */
typedef void (*ad_tile_fn)(int64_t n, const float *const *in, const int *step, float *out, const void *attr);
ad_tile_fn ad_tile_find(const struct ad_op *op);

/* The same where `out` is whole lines of memory that no cache would hold: they are written past them. Others see the numbers
 * behind the caller's next fence. A call's first result, rows of c numbers, is such where it pays: no operand lies in its
 * place, and it has ad_stream_from numbers or more: 16 MB, as much as a last-level cache may hold; tests make it less. */
ad_tile_fn ad_tile_find_past(const struct ad_op *op);
bool ad_result_streams(const struct ad_call *call, int64_t c);
extern int64_t ad_stream_from;

#endif
