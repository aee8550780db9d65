/* Weights in panels that stay in a workspace: several runs between two updates, by plans of several shapes, find them there. */
#include <stdlib.h>
#include <string.h>

#include "autograd/ops/matmul.h"
#include "autograd/plan_parts.h"

/* What is kept, and of which numbers in which order. */
struct ad_kept {
    struct ad_kept *next;
    const void *from;
    struct ad_tensor matrix; /* without data */
    bool turned;
    void *data;
    size_t bytes;
    uint64_t weights; /* the workspace's count when they were copied */
};

void ad_kept_free(struct ad_kept *k)
{
    while (k) {
        struct ad_kept *next = k->next;
        mem_block_free(k->data, k->bytes);
        free(k);
        k = next;
    }
}

void ad_weights_changed(struct ad_workspace *w)
{
    w->weights++;
}

void ad_plan_mark_kept(struct ad_plan *p)
{
    for (size_t i = 1; i < p->g->n_node; i++) {
        const struct ad_node *n = p->g->node[i];
        if (!p->l.run[i] || n->op != &ad_op_panels || p->l.root[p->l.place[n->in[0]].root].kind != ROOT_PARAM) continue;
        struct root *r = &p->l.root[p->l.place[n->out].root];
        if (r->kind != ROOT_ARENA || r->pinned) continue;
        r->kind = ROOT_KEPT;
        p->stats.kept_bytes += (int64_t)r->bytes;
        p->n_kept++;
    }
}

bool ad_plan_is_kept(const struct ad_plan *p, size_t node)
{
    return p->l.root[p->l.place[p->g->node[node]->out].root].kind == ROOT_KEPT;
}

static bool same_matrix(const struct ad_tensor *a, const struct ad_tensor *b)
{
    return a->dtype == b->dtype && ad_same_shape(a->shape, b->shape) && a->stride[0] == b->stride[0] &&
           a->stride[1] == b->stride[1];
}

/* The workspace's, made where it is new. NULL: no memory. */
static struct ad_kept *find(struct ad_workspace *w, const struct ad_kept *want, struct err *e)
{
    for (struct ad_kept *k = w->kept; k; k = k->next)
        if (k->from == want->from && k->turned == want->turned && same_matrix(&k->matrix, &want->matrix)) return k;
    struct ad_kept *k = mem_alloc(sizeof *k);
    *k = *want;
    k->data = mem_block(k->bytes, "weights in panels", e);
    if (!k->data) {
        free(k);
        return NULL;
    }
    k->weights = w->weights - 1;
    k->next = w->kept;
    w->kept = k;
    return k;
}

int ad_plan_bind_kept(struct ad_plan *p, struct err *e)
{
    for (size_t i = 0; i < p->n_kept && !p->dry; i++) {
        struct step *s = &p->step[i];
        const struct place *in = &p->l.place[s->node->in[0]];
        struct root *to = &p->l.root[p->l.place[s->node->out].root];
        const char *base = p->l.root[in->root].base;
        struct ad_kept want = {.from = base + (size_t)in->offset * ad_dtype_size(in->t.dtype),
                               .matrix = in->t,
                               .turned = ((const struct panels_attr *)s->node->attr)->tb,
                               .bytes = to->bytes};
        s->kept = find(p->space, &want, e);
        if (!s->kept) return ERR_MEMORY;
        to->base = s->kept->data;
    }
    return 0;
}

bool ad_step_is_done(const struct ad_plan *p, struct step *s)
{
    if (!s->kept) return false;
    bool done = s->kept->weights == p->space->weights;
    s->kept->weights = p->space->weights;
    return done;
}
