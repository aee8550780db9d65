/* The gradient's norm by layer. See layers.h. */
#include "optim/layers.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/threads.h"
#include "optim/opt.h"
#include "optim/steps.h"

enum { PIECE = 16384 };

struct piece {
    int layer;
    size_t at; /* bytes from the start of the flat buffer */
    int64_t n;
    bool narrow;
    double sum;
};

struct opt_layers {
    char **name;
    size_t n, cap;
    struct piece *piece;
    size_t n_piece, cap_piece;
    int *of_param; /* the layer of each trained parameter */
    size_t n_param, cap_param;
    int64_t total;
};

static size_t layer_length(const char *path)
{
    const char *last = strrchr(path, '.'), *second = last;
    if (!last) return strlen(path);
    int words = 1;
    for (const char *at = path; at < last; words++) {
        size_t n = strcspn(at, ".");
        if (n > 0 && strspn(at, "0123456789") == n) return (size_t)(at + n - path);
        at += n;
        if (words == 2) second = at;
        if (at < last) at++;
    }
    return (size_t)(second - path);
}

static int layer_of(struct opt_layers *l, const char *path)
{
    size_t n = layer_length(path);
    for (size_t i = 0; i < l->n; i++)
        if (strlen(l->name[i]) == n && !memcmp(l->name[i], path, n)) return (int)i;
    l->name = mem_grow(l->name, &l->cap, l->n + 1, sizeof *l->name);
    l->name[l->n] = mem_strndup(path, n);
    return (int)l->n++;
}

struct opt_layers *opt_layers_new(const struct ad_store *s)
{
    struct opt_layers *l = mem_zero(1, sizeof *l);
    for (int i = 0; i < ad_store_count(s); i++) {
        const struct ad_entry *p = ad_store_at(s, i);
        if (!ad_in_flat(p)) continue;
        int layer = layer_of(l, p->name);
        l->of_param = mem_grow(l->of_param, &l->cap_param, l->n_param + 1, sizeof *l->of_param);
        l->of_param[l->n_param++] = layer;
        for (int64_t from = 0; from < p->count; from += PIECE) {
            int64_t n = p->count - from < PIECE ? p->count - from : PIECE;
            l->piece = mem_grow(l->piece, &l->cap_piece, l->n_piece + 1, sizeof *l->piece);
            l->piece[l->n_piece++] = (struct piece){.layer = layer,
                                                    .at = p->place + (size_t)from * ad_dtype_size(p->kept),
                                                    .n = n,
                                                    .narrow = ad_is_narrow(p)};
            l->total += n;
        }
    }
    return l;
}

void opt_layers_free(struct opt_layers *l)
{
    if (!l) return;
    for (size_t i = 0; i < l->n; i++) free(l->name[i]);
    free(l->name);
    free(l->piece);
    free(l->of_param);
    free(l);
}

int opt_layers_count(const struct opt_layers *l)
{
    return (int)l->n;
}

const char *opt_layers_name(const struct opt_layers *l, int i)
{
    return l->name[i];
}

void opt_layers_norms(struct opt_layers *l, const void *grad, double *norm)
{
#pragma omp parallel for schedule(static) if (l->total > PAR_MIN)
    for (size_t i = 0; i < l->n_piece; i++) {
        struct piece *p = &l->piece[i];
        const void *x = (const char *)grad + p->at;
        p->sum = p->narrow ? opt_square16(x, p->n) : ISA_PICK(opt_squares)(x, p->n);
    }
    for (size_t i = 0; i < l->n; i++) norm[i] = 0;
    for (size_t i = 0; i < l->n_piece; i++) norm[l->piece[i].layer] += l->piece[i].sum;
    for (size_t i = 0; i < l->n; i++) norm[i] = sqrt(norm[i]);
}

void opt_layers_norms_of(const struct opt_layers *l, const double *square, double *norm)
{
    for (size_t i = 0; i < l->n; i++) norm[i] = 0;
    for (size_t i = 0; i < l->n_param; i++) norm[l->of_param[i]] += square[i];
    for (size_t i = 0; i < l->n; i++) norm[i] = sqrt(norm[i]);
}
