/* Parameters and state by name, in flat buffers. See store.h. */
#include "autograd/store.h"

#include <stdlib.h>
#include <string.h>

#include "autograd/half_call.h"
#include "autograd/op.h"
#include "base/isa.h"
#include "base/mem.h"
#include "base/rng.h"

enum { ALIGN = 16 }; /* elements: 64 bytes of f32 */

struct ad_store {
    struct arena mem;
    uint64_t seed;
    struct ad_entry *entry;
    size_t n, cap;
    int32_t *slot; /* hash table of entry + 1 */
    size_t n_slot;
    char *flat, *state;
    int64_t flat_count;
    size_t flat_bytes, state_bytes;
    bool committed, narrow;
};

struct ad_store *ad_store_new(uint64_t seed)
{
    struct ad_store *s = mem_zero(1, sizeof *s);
    s->seed = seed;
    return s;
}

void ad_store_free(struct ad_store *s)
{
    if (!s) return;
    if (s->flat) mem_block_free(s->flat, s->flat_bytes);
    if (s->state) mem_block_free(s->state, s->state_bytes);
    free(s->entry);
    free(s->slot);
    arena_free(&s->mem);
    free(s);
}

static size_t find_slot(const struct ad_store *s, const char *name)
{
    size_t i = hash_str(name) & (s->n_slot - 1);
    while (s->slot[i] && strcmp(s->entry[s->slot[i] - 1].name, name)) i = (i + 1) & (s->n_slot - 1);
    return i;
}

static void grow_table(struct ad_store *s)
{
    if (s->n * 2 < s->n_slot) return;
    s->n_slot = s->n_slot ? s->n_slot * 2 : 256;
    free(s->slot);
    s->slot = mem_zero(s->n_slot, sizeof *s->slot);
    for (size_t i = 0; i < s->n; i++) s->slot[find_slot(s, s->entry[i].name)] = (int32_t)i + 1;
}

struct ad_entry *ad_store_find(const struct ad_store *s, const char *name)
{
    if (!s || !s->n_slot) return NULL;
    int32_t k = s->slot[find_slot(s, name)];
    return k ? &s->entry[k - 1] : NULL;
}

int ad_store_declare(struct ad_store *s, const char *name, enum ad_dtype t, struct ad_shape shape, struct ad_init init,
                     unsigned flags, struct err *e)
{
    char a[96], b[96];
    struct ad_entry *old = ad_store_find(s, name);
    if (old) {
        if (ad_same_shape(old->shape, shape) && old->dtype == t) return 0;
        return err_set(e, ERR_SHAPE, "parameter '%s' is %s %s and is now declared as %s %s", name,
                       ad_shape_text(a, old->shape), ad_dtype_name(old->dtype), ad_shape_text(b, shape),
                       ad_dtype_name(t));
    }
    if (s->committed)
        return err_set(e, ERR_STATE, "parameter '%s' is declared after the parameters were laid out", name);
    if (!(flags & AD_STATE) && t != AD_F32 && t != AD_F64)
        return err_set(e, ERR_SHAPE, "parameter '%s' of type %s cannot be trained", name, ad_dtype_name(t));
    grow_table(s);
    s->entry = mem_grow(s->entry, &s->cap, s->n + 1, sizeof *s->entry);
    size_t at = find_slot(s, name);
    s->entry[s->n] = (struct ad_entry){.name = arena_strdup(&s->mem, name),
                                       .dtype = t,
                                       .shape = shape,
                                       .flags = flags,
                                       .init = init,
                                       .count = ad_count(shape)};
    s->slot[at] = (int32_t)++s->n;
    return 0;
}

static double start_value(struct rng *r, struct ad_init init)
{
    switch (init.kind) {
    case AD_INIT_ONE: return 1;
    case AD_INIT_VALUE: return init.scale;
    case AD_INIT_UNIFORM: return rng_range(r, -init.scale, init.scale);
    case AD_INIT_ZERO:
    case AD_INIT_NORMAL:
    case AD_INIT_TRUNC_NORMAL: break;
    }
    return 0;
}

ISA_DECLARE(void, ad_start_normal, (float *x, int64_t from, int64_t to, uint64_t key, double cut, double scale));
void ad_start_normal(float *x, int64_t from, int64_t to, uint64_t key, double cut, double scale)
{
    ISA_PICK(ad_start_normal)(x, from, to, key, cut, scale);
}

enum { START_BLOCK = 16384 };

static void fill_normal(const struct ad_entry *p, uint64_t key)
{
    double cut = p->init.kind == AD_INIT_TRUNC_NORMAL ? 2 : 0;
    int64_t blocks = (p->count + START_BLOCK - 1) / START_BLOCK;
#pragma omp parallel for schedule(static) if (blocks > 1)
    for (int64_t b = 0; b < blocks; b++) {
        float room[START_BLOCK], *x = p->kept == AD_F32 ? (float *)p->data + b * START_BLOCK : room;
        int64_t from = b * START_BLOCK, to = from + START_BLOCK < p->count ? from + START_BLOCK : p->count;
        ad_start_normal(x, from, to, key, cut, p->init.scale);
        struct ad_tensor t = {.data = p->data, .dtype = p->kept};
        for (int64_t i = from; i < to && x == room; i++) ad_set(&t, i, (double)x[i - from]);
    }
}

static void fill(const struct ad_store *s, struct ad_entry *p)
{
    struct rng r = rng_make(s->seed, hash_str(p->name), 0);
    struct ad_tensor t = {.data = p->data, .dtype = p->kept};
    p->fresh = true;
    if (p->init.kind == AD_INIT_ZERO) return; /* as the memory is */
    if (p->init.kind == AD_INIT_NORMAL || p->init.kind == AD_INIT_TRUNC_NORMAL)
        fill_normal(p, r.key);
    else
        for (int64_t i = 0; i < p->count; i++) ad_set(&t, i, start_value(&r, p->init));
}

void ad_store_narrow(struct ad_store *s)
{
    s->narrow = true;
}

static bool may_be_narrow(const struct ad_entry *p)
{
    return ad_in_flat(p) && p->shape.rank >= 2 && p->count >= AD_NARROW_LEAST && !(p->flags & AD_NO_DECAY);
}

int ad_store_commit(struct ad_store *s, struct err *e)
{
    if (s->committed) return 0;
    for (size_t i = 0; i < s->n; i++) {
        struct ad_entry *p = &s->entry[i];
        p->kept = s->narrow && may_be_narrow(p) ? AD_BF16 : p->dtype;
        size_t bytes = ((size_t)p->count * ad_dtype_size(p->kept) + 63) / 64 * 64;
        if (ad_in_flat(p)) {
            p->offset = s->flat_count;
            p->place = s->flat_bytes;
            s->flat_count += (p->count + ALIGN - 1) / ALIGN * ALIGN;
            s->flat_bytes += bytes;
        } else {
            p->offset = (int64_t)(p->place = s->state_bytes);
            s->state_bytes += bytes;
        }
    }
    s->flat = mem_block(s->flat_bytes, "parameters", e);
    if (!s->flat) return ERR_MEMORY;
    s->state = mem_block(s->state_bytes, "state", e);
    if (!s->state) return ERR_MEMORY;
    for (size_t i = 0; i < s->n; i++) {
        struct ad_entry *p = &s->entry[i];
        p->data = (ad_in_flat(p) ? s->flat : s->state) + p->place;
        fill(s, p);
    }
    s->committed = true;
    return 0;
}

int ad_store_count(const struct ad_store *s)
{
    return s ? (int)s->n : 0;
}
struct ad_entry *ad_store_at(const struct ad_store *s, int i)
{
    return &s->entry[i];
}

int64_t ad_store_trainable(const struct ad_store *s)
{
    int64_t n = 0;
    for (size_t i = 0; i < s->n; i++) n += s->entry[i].flags & AD_STATE ? 0 : s->entry[i].count;
    return n;
}

int64_t ad_store_flat_count(const struct ad_store *s)
{
    return s->flat_count;
}
size_t ad_store_flat_bytes(const struct ad_store *s)
{
    return s->flat_bytes;
}
float *ad_store_flat(const struct ad_store *s)
{
    return (float *)(void *)s->flat;
}

bool ad_store_is_narrow(const struct ad_store *s)
{
    return s && s->narrow;
}

void ad_entry_read(const struct ad_entry *p, int64_t from, int64_t n, float *x)
{
    if (ad_is_narrow(p))
        ad_widen(p->kept, (const uint16_t *)p->data + from, x, n);
    else
        memcpy(x, (const float *)p->data + from, (size_t)n * sizeof *x);
}

void ad_entry_write(const struct ad_entry *p, int64_t from, int64_t n, const float *x)
{
    if (ad_is_narrow(p))
        ad_narrow(p->kept, x, (uint16_t *)p->data + from, n);
    else
        memcpy((float *)p->data + from, x, (size_t)n * sizeof *x);
}
