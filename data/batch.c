/* Makes batches: what data/sample.c adds for each sample, packed; which samples show the same; memory that is reused.
 */
#include "data/sample.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_TRIES = 100 };

int64_t data_round_rows(int64_t n, int64_t unit)
{
    int64_t step = unit;
    while (n >= 16 * step) step *= 2;
    return n <= 0 ? unit : (n + step - 1) / step * step;
}

int64_t data_row_unit(const struct data_modality *m)
{
    return m->round_rows > 0 ? m->round_rows : m->kind == DATA_TEXT ? 256 : 512;
}

int data_room_need(struct data_room *r, size_t bytes, size_t keep, struct err *e)
{
    if (bytes <= r->cap) return 0;
    size_t cap = bytes + bytes / 4;
    void *p = mem_block(cap, "a batch", e);
    if (!p) return ERR_MEMORY;
    if (keep) memcpy(p, r->p, keep);
    mem_block_free(r->p, r->cap);
    r->p = p;
    r->cap = cap;
    return 0;
}

static void room_free(struct data_room *r)
{
    mem_block_free(r->p, r->cap);
    *r = (struct data_room){0};
}

/* As data_sample_add; with `skip` a bad item gives way to others drawn by (seed, item, epoch). */
static int add_sample(struct data_maker *k, struct data_slot *s, int64_t i, struct err *e)
{
    const struct data_loader_config *c = &k->plan->c;
    int64_t item = s->b.sample[i];
    struct rng rng = rng_make(c->seed ^ hash_str("skip"), (uint64_t)item, (uint64_t)s->b.epoch);
    for (int t = 0;; t++) {
        struct err own = {0};
        int rc = data_sample_add(k, s, i, item, &own);
        if (!rc) return 0;
        bool bad = rc == ERR_FORMAT || rc == ERR_IO;
        if (!bad || !c->skip) return err_set(e, rc, "%s", own.msg);
        if (t == MAX_TRIES)
            return err_set(e, rc, "%s (and %d other items instead of it could not be read either)", own.msg, MAX_TRIES);
        k->plan->warn(k->plan->warn_ctx, item, own.msg);
        k->skipped++;
        item = c->items[rng_below(&rng, c->n_items)];
    }
}

/* Groups */

static int32_t root(int32_t *group, int32_t i)
{
    while (group[i] != i) i = group[i] = group[group[i]];
    return i;
}

/* Sample i shows what `key` stands for: joins it to the first that did. */
static void shows(struct data_slot *s, int32_t i, uint64_t key)
{
    key += key == 0;
    size_t at = (key ^ key >> 32) & (s->n_keys - 1);
    while (s->key[at] && s->key[at] != key) at = (at + 1) & (s->n_keys - 1);
    if (!s->key[at]) {
        s->key[at] = key;
        s->owner[at] = i;
        return;
    }
    int32_t a = root(s->b.group, i), b = root(s->b.group, s->owner[at]);
    s->b.group[a > b ? a : b] = a > b ? b : a;
}

static void find_groups(const struct data_plan *p, struct data_slot *s)
{
    memset(s->key, 0, s->n_keys * sizeof *s->key);
    for (int32_t i = 0; i < s->b.size; i++) s->b.group[i] = i;
    for (int32_t i = 0; i < s->b.size; i++) {
        const struct manifest_item *it = &p->c.manifest->item[s->b.sample[i]];
        if (it->group) shows(s, i, hash_bytes(it->group, strlen(it->group), hash_str("group")));
        for (int m = 0; m < p->c.n_modalities; m++) {
            if (s->b.part[m].choice[i] < 0) continue;
            const char *v = manifest_field(it, p->m[m].field)->entry[s->b.part[m].choice[i]].value;
            shows(s, i, hash_bytes(v, strlen(v), hash_str(p->m[m].kind == DATA_TEXT ? "text" : "file")));
        }
    }
    for (int32_t i = 0; i < s->b.size; i++) s->b.group[i] = root(s->b.group, i);
}

static int64_t rounded_cap(int64_t n)
{
    return n <= 8 ? 8 : (n + 7) / 8 * 8;
}

/* Rounds sizes up and fills what is beyond the items with zeros. */
static int finish(const struct data_plan *p, struct data_slot *s, struct err *e)
{
    for (int i = 0; i < p->c.n_modalities; i++) {
        const struct data_modality *m = &p->m[i];
        struct data_part *part = &s->b.part[i];
        int64_t used = part->rows;
        part->cap = p->always[i] ? s->b.size : rounded_cap(part->n);
        for (int64_t k = part->n + 1; k <= part->cap; k++) part->offsets[k] = (int32_t)used;
        if (m->kind == DATA_IMAGE) {
            int64_t one = m->h * m->w * 3;
            memset(part->image + part->n * one, 0, (size_t)((part->cap - part->n) * one) * sizeof(float));
            continue;
        }
        size_t row = m->kind == DATA_TEXT ? sizeof(int32_t) : (size_t)data_row_width(m) * sizeof(float);
        part->rows = m->samples > 0 ? part->cap * m->samples : data_round_rows(used, m->round_rows);
        int rc = data_room_need(&s->room[i], (size_t)part->rows * row, (size_t)used * row, e);
        if (rc) return rc;
        memset((char *)s->room[i].p + (size_t)used * row, 0, (size_t)(part->rows - used) * row);
        if (m->kind == DATA_TEXT)
            part->tokens = s->room[i].p;
        else
            part->frames = s->room[i].p;
    }
    return 0;
}

int data_slot_make(struct data_maker *k, struct data_slot *s, struct err *e)
{
    for (int i = 0; i < s->b.n_parts; i++) {
        s->b.part[i].n = s->b.part[i].rows = 0;
        s->b.part[i].offsets[0] = 0;
    }
    for (int64_t i = 0; i < s->b.size; i++) {
        if (k->plan->stop) return err_set(e, ERR_INTERRUPTED, "the loader was closed");
        int rc = add_sample(k, s, i, e);
        if (rc) return rc;
    }
    find_groups(k->plan, s);
    return finish(k->plan, s, e);
}

int data_slot_init(struct data_slot *s, const struct data_plan *plan, struct err *e)
{
    int n = plan->c.n_modalities, rc = 0;
    int64_t B = plan->c.batch, cap = rounded_cap(B);
    *s = (struct data_slot){.n_keys = 16};
    while (s->n_keys < (size_t)(2 * B * (n + 1))) s->n_keys *= 2;
    s->key = mem_alloc(s->n_keys * sizeof *s->key);
    s->owner = mem_alloc(s->n_keys * sizeof *s->owner);
    s->room = mem_zero((size_t)n, sizeof *s->room);
    s->b.sample = mem_zero((size_t)B, sizeof *s->b.sample);
    s->b.group = mem_zero((size_t)B, sizeof *s->b.group);
    s->b.part = mem_zero((size_t)n, sizeof *s->b.part);
    s->b.n_parts = n;
    for (int i = 0; i < n; i++) {
        struct data_part *p = &s->b.part[i];
        p->offsets = mem_zero((size_t)cap + 1, sizeof *p->offsets);
        p->row = mem_zero((size_t)B, sizeof *p->row);
        p->choice = mem_zero((size_t)B, sizeof *p->choice);
        if (plan->m[i].kind != DATA_IMAGE || rc) continue;
        rc = data_room_need(&s->room[i], (size_t)(cap * plan->m[i].h * plan->m[i].w * 3) * sizeof(float), 0, e);
        p->image = s->room[i].p;
    }
    return rc;
}

void data_slot_free(struct data_slot *s, const struct data_plan *plan)
{
    for (int i = 0; i < s->b.n_parts; i++) {
        free(s->b.part[i].offsets);
        free(s->b.part[i].row);
        free(s->b.part[i].choice);
        room_free(&s->room[i]);
    }
    free(s->b.part);
    free(s->b.sample);
    free(s->b.group);
    free(s->room);
    free(s->key);
    free(s->owner);
}

int data_maker_init(struct data_maker *k, const struct data_plan *plan, struct err *e)
{
    *k = (struct data_maker){.plan = plan};
    k->logmel = mem_zero((size_t)plan->c.n_modalities, sizeof(struct data_logmel *));
    for (int i = 0; i < plan->c.n_modalities; i++) {
        if (plan->m[i].kind != DATA_AUDIO) continue;
        int rc = data_logmel_new(&plan->m[i].logmel, &k->logmel[i], e);
        if (rc) return err_prefix(e, "%s", plan->m[i].name);
    }
    return 0;
}

void data_maker_free(struct data_maker *k)
{
    for (int i = 0; k->logmel && i < k->plan->c.n_modalities; i++) data_logmel_free(k->logmel[i]);
    free(k->logmel);
    data_scratch_free(&k->scratch);
    room_free(&k->pixels);
    room_free(&k->half);
    room_free(&k->usable);
}
