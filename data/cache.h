/* Decoded items kept in memory up to a budget. Nothing is ever thrown out: an epoch walks over all items, so what was
 * met first is met again, and a cache that replaced its oldest entries would replace each just before its use. */
#ifndef TRIAD_DATA_CACHE_H
#define TRIAD_DATA_CACHE_H

#include <stdint.h>
#include <stdbool.h>
#include <stddef.h>

struct data_key {
    uint64_t a, b; /* two independent hashes of what is kept and how it was made */
};
struct data_cache_value {
    const void *data;
    int64_t bytes, h, w; /* h, w: the maker's own (rows and columns) */
};

struct data_cache;
struct data_cache *data_cache_new(int64_t budget_bytes);
void data_cache_free(struct data_cache *c); /* NULL is fine. No loader may still use it */

/* True and *v where the key is held. The value stays valid and unchanged as long as the cache. NULL holds nothing. */
bool data_cache_get(struct data_cache *c, struct data_key key, struct data_cache_value *v);

/* Keeps a copy of v->data if it fits into what is left of the budget. Safe from many threads, as is data_cache_get. */
void data_cache_put(struct data_cache *c, struct data_key key, const struct data_cache_value *v);

int64_t data_cache_bytes(struct data_cache *c); /* used now, tables included */

#endif
