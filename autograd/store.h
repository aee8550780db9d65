/* The store: parameters and other state, by name (a path such as "image.block.3.attention.query.weight").
 *
 * Model code declares; store_commit lays all trainable f32 parameters into one flat buffer (each on a 64-byte bound),
 * so that gradients, moments and averages are flat buffers of the same layout, and initialises what is new. A start
 * value is a function of (seed, name, element): the order of declarations does not matter. */
#ifndef TRIAD_AUTOGRAD_STORE_H
#define TRIAD_AUTOGRAD_STORE_H

#include "autograd/graph.h"

enum ad_init_kind { AD_INIT_ZERO, AD_INIT_ONE, AD_INIT_NORMAL, AD_INIT_TRUNC_NORMAL, AD_INIT_UNIFORM, AD_INIT_VALUE };
/* `scale`: the standard deviation (NORMAL, TRUNC_NORMAL cut at two of them), the bound (UNIFORM), the number (VALUE).
 */
struct ad_init {
    enum ad_init_kind kind;
    double scale;
};

enum ad_param_flags {
    AD_STATE = 1,    /* not trained: running statistics, counters */
    AD_NO_DECAY = 2, /* norms, biases, temperatures: no weight decay */
    AD_EDGE = 4,     /* a matrix at the model's edge: embeddings, first layers of features, heads, projections */
};

struct ad_entry {
    const char *name;
    enum ad_dtype dtype;
    struct ad_shape shape;
    unsigned flags;
    struct ad_init init;
    int64_t offset; /* elements from the start of the flat buffers of its kind (trainable or state) */
    int64_t count;
    enum ad_dtype kept; /* after store_commit: dtype, or AD_BF16 (ad_store_narrow) */
    size_t place;       /* bytes from the start of the flat buffer of weights, and of gradients */
    void *data;         /* after store_commit */
    bool fresh;         /* initialised by commit and not loaded since */
};

/* Whether the entry is a trained f32 parameter: those lie in the flat buffer, all others (state; f64, which checks use)
 * beside it. */
static inline bool ad_in_flat(const struct ad_entry *p)
{
    return !(p->flags & AD_STATE) && p->dtype == AD_F32;
}

/* Whether weights and gradients of the entry are kept in bf16. */
static inline bool ad_is_narrow(const struct ad_entry *p)
{
    return p->kept != p->dtype;
}

struct ad_store *ad_store_new(uint64_t seed);
void ad_store_free(struct ad_store *s);

/* Declares (or finds: same shape, dtype required) an entry. ERR_SHAPE where it exists otherwise. `name` is copied. */
int ad_store_declare(struct ad_store *s, const char *name, enum ad_dtype t, struct ad_shape shape, struct ad_init init,
                     unsigned flags, struct err *e) MUST_CHECK;
/* Allocates and initialises everything declared. Later declarations are an ERR_STATE unless they exist already. */
int ad_store_commit(struct ad_store *s, struct err *e) MUST_CHECK;

/* Before it is committed: trained matrices (two dimensions or more, AD_NARROW_LEAST numbers or more, no AD_NO_DECAY) and
 * their gradients will be kept in bf16, without a copy in f32. Graphs see no difference: what reads such a weight widens
 * it. */
void ad_store_narrow(struct ad_store *s);
enum { AD_NARROW_LEAST = 4096 };

int ad_store_count(const struct ad_store *s);
struct ad_entry *ad_store_at(const struct ad_store *s, int i);              /* in order of declaration */
struct ad_entry *ad_store_find(const struct ad_store *s, const char *name); /* NULL if there is none */
int64_t ad_store_trainable(const struct ad_store *s);  /* parameters that are trained, as a person counts them */
int64_t ad_store_flat_count(const struct ad_store *s); /* elements of the flat buffer, gaps included (they stay 0) */
size_t ad_store_flat_bytes(const struct ad_store *s);  /* of the weights there, and as many of gradients */
float *ad_store_flat(const struct ad_store *s);        /* trainable only; where all of it is f32 */
bool ad_store_is_narrow(const struct ad_store *s);
/* The entry's numbers as f32, n of them from `from` on, into x; and rounded to nearest from there. */
void ad_entry_read(const struct ad_entry *p, int64_t from, int64_t n, float *x);
void ad_entry_write(const struct ad_entry *p, int64_t from, int64_t n, const float *x);

/* Numbers from .. to-1 of a sequence of standard normals (Box & Muller 1958; log, sine and cosine in f32, 2 ulp each),
 * into x[0] ..: a function of key and index. `cut` > 0: those beyond it are drawn again. Times `scale`. */
void ad_start_normal(float *x, int64_t from, int64_t to, uint64_t key, double cut, double scale);

#endif
