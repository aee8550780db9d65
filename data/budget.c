/* Sizes of items before they are decoded, and batches filled up to a budget of them. See budget.h. */
#include "data/budget.h"

#include <stdlib.h>
#include <string.h>

#include "data/audio.h"

struct data_budget {
    const struct data_plan *plan;
    const struct data_modality *m;
    int64_t *base; /* (manifest items + 1): where an item's entries lie in `size` */
    float *size;   /* of each entry; negative: not yet known */
    int32_t *ids;  /* (max_tokens) */
    struct data_room usable;
};

const char *const data_batch_by_names[] = {"items", "tokens", "seconds", NULL};

int64_t data_round_items(int64_t n)
{
    int64_t step = 1;
    while (n >= 32 * step) step *= 2;
    return n / step * step;
}

struct data_budget *data_budget_new(const struct data_plan *plan)
{
    struct data_budget *b = mem_zero(1, sizeof *b);
    const struct manifest *all = plan->c.manifest;
    b->plan = plan;
    b->m = &plan->m[plan->c.budget_of];
    CHECK(b->m->kind == (plan->c.by == DATA_BY_TOKENS ? DATA_TEXT : DATA_AUDIO));
    b->base = mem_alloc(((size_t)all->n + 1) * sizeof *b->base);
    int64_t n = 0;
    for (int64_t i = 0; i < all->n; i++) {
        const struct manifest_field *f = manifest_field(&all->item[i], b->m->field);
        b->base[i] = n;
        n += f ? f->n : 0;
    }
    b->base[all->n] = n;
    b->size = mem_alloc(((size_t)n + 1) * sizeof *b->size);
    for (int64_t i = 0; i < n; i++) b->size[i] = -1;
    if (b->m->kind == DATA_TEXT) b->ids = mem_alloc((size_t)b->m->max_tokens * sizeof *b->ids);
    return b;
}

void data_budget_free(struct data_budget *b)
{
    if (!b) return;
    free(b->base);
    free(b->size);
    free(b->ids);
    mem_block_free(b->usable.p, b->usable.cap);
    free(b);
}

/* What is unreadable here has size 0. */
static double read_size(struct data_budget *b, const struct manifest_entry *entry)
{
    const struct data_modality *m = b->m;
    struct err why = {0};
    if (m->kind == DATA_TEXT) {
        int64_t n;
        if (tok_encode(m->tokenizer, entry->value, strlen(entry->value), b->ids, m->max_tokens, &n, &why)) return 0;
        return (double)n;
    }
    if (m->samples > 0) return (double)m->samples / (double)m->logmel.rate;
    struct manifest_file f;
    double seconds;
    if (manifest_open(b->plan->c.manifest, entry, &f, &why)) return 0;
    int rc = data_audio_seconds(entry->value, f.fd, f.offset, f.length, &seconds, &why);
    manifest_close(&f);
    if (rc) return 0;
    return m->max_seconds > 0 && seconds > m->max_seconds ? m->max_seconds : seconds;
}

/* Negative and ERR_MEMORY where there is none. */
static double size_of(struct data_budget *b, int64_t item, int64_t epoch, struct err *e)
{
    struct rng rng;
    int choice;
    const struct manifest_field *f = manifest_field(&b->plan->c.manifest->item[item], b->m->field);
    if (data_sample_choose(b->plan, b->m, item, epoch, &b->usable, &rng, &choice, e)) return -1;
    if (choice < 0) return 0;
    float *size = &b->size[b->base[item] + choice];
    if (*size < 0) *size = (float)read_size(b, &f->entry[choice]);
    return *size;
}

int64_t data_budget_take(struct data_budget *b, const int64_t *order, int64_t n, int64_t epoch, bool first,
                         struct err *e)
{
    const struct data_loader_config *c = &b->plan->c;
    double sum = 0;
    int64_t k = 0;
    while (k < n && k < c->batch) {
        double size = size_of(b, order[k], epoch, e);
        if (size < 0) return -1;
        if (size > c->budget && k == 0) {
            const struct manifest_item *it = &c->manifest->item[order[k]];
            err_set(e, ERR_CONFIG, "%s:%lld: item '%s' has %g %s of '%s', and the budget of a whole batch is %g",
                    c->manifest->path, (long long)it->line, it->id, size, data_batch_by_names[c->by], b->m->name,
                    c->budget);
            return -1;
        }
        if (sum + size > c->budget) break;
        sum += size;
        k++;
    }
    if (k == c->batch) return k;
    if (k == n && !first) return 0;
    return data_round_items(k);
}
