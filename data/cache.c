/* A hash table with open addressing behind one lock; values are copies of exactly their size that never move. */
#include "data/cache.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum { OVERHEAD = 16 }; /* what malloc adds to a block, about */

struct entry {
    struct data_key key;
    struct data_cache_value v; /* v.data NULL: free */
};

struct data_cache {
    pthread_mutex_t lock;
    struct entry *table;
    size_t size, used; /* size: a power of two, at most half used */
    int64_t budget, bytes;
};

struct data_cache *data_cache_new(int64_t budget_bytes)
{
    struct data_cache *c = mem_zero(1, sizeof *c);
    pthread_mutex_init(&c->lock, NULL);
    c->size = 1024;
    c->table = mem_zero(c->size, sizeof *c->table);
    c->budget = budget_bytes;
    c->bytes = (int64_t)(c->size * sizeof *c->table);
    return c;
}

void data_cache_free(struct data_cache *c)
{
    if (!c) return;
    for (size_t i = 0; i < c->size; i++) free((void *)c->table[i].v.data);
    free(c->table);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static struct entry *find(struct entry *table, size_t size, struct data_key key)
{
    size_t at = key.a & (size - 1);
    while (table[at].v.data && (table[at].key.a != key.a || table[at].key.b != key.b)) at = (at + 1) & (size - 1);
    return &table[at];
}

bool data_cache_get(struct data_cache *c, struct data_key key, struct data_cache_value *v)
{
    if (!c) return false;
    pthread_mutex_lock(&c->lock);
    *v = find(c->table, c->size, key)->v;
    pthread_mutex_unlock(&c->lock);
    return v->data != NULL;
}

/* Doubles the table if the budget allows it; false: full. */
static bool grow(struct data_cache *c)
{
    int64_t more = (int64_t)(c->size * sizeof *c->table);
    if (c->bytes + more > c->budget) return false;
    struct entry *table = mem_zero(c->size * 2, sizeof *table);
    for (size_t i = 0; i < c->size; i++)
        if (c->table[i].v.data) *find(table, c->size * 2, c->table[i].key) = c->table[i];
    free(c->table);
    c->table = table;
    c->size *= 2;
    c->bytes += more;
    return true;
}

void data_cache_put(struct data_cache *c, struct data_key key, const struct data_cache_value *v)
{
    if (!c) return;
    pthread_mutex_lock(&c->lock);
    int64_t cost = v->bytes + OVERHEAD;
    bool room = cost <= c->budget - c->bytes && (c->used * 2 < c->size || grow(c)) && cost <= c->budget - c->bytes;
    struct entry *at = room ? find(c->table, c->size, key) : NULL;
    void *copy = at && !at->v.data ? malloc(v->bytes ? (size_t)v->bytes : 1) : NULL;
    if (copy) {
        memcpy(copy, v->data, (size_t)v->bytes);
        at->key = key;
        at->v = *v;
        at->v.data = copy;
        c->used++;
        c->bytes += cost;
    }
    pthread_mutex_unlock(&c->lock);
}

int64_t data_cache_bytes(struct data_cache *c)
{
    pthread_mutex_lock(&c->lock);
    int64_t n = c->bytes;
    pthread_mutex_unlock(&c->lock);
    return n;
}
