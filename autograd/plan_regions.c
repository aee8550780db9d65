/* Which calls of a plan share a parallel region: steps in a row whose kernels tell their work by parts. */
#include <stdlib.h>
#include <string.h>

#include "autograd/ops/common.h"
#include "autograd/plan_parts.h"
#include "autograd/region.h"

static bool may_share(const struct step *s)
{
    return s->kernel.cut && !s->half && !s->kept;
}

/* The bytes of `t` that lie between its first and its last element, `offset` elements into the root. */
static struct region_span span_of(const struct ad_plan *p, int32_t root, int64_t offset, const struct ad_tensor *t)
{
    int32_t at = ad_layout_root(&p->l, root);
    const struct root *r = &p->l.root[at];
    int64_t size = (int64_t)ad_dtype_size(t->dtype), lo = offset, hi = offset + 1;
    for (int d = 0; d < t->shape.rank; d++) {
        int64_t reach = (t->shape.dim[d] - 1) * t->stride[d];
        *(reach < 0 ? &lo : &hi) += reach;
    }
    struct region_span s = {.piece = at, .lo = lo * size, .hi = hi * size};
    if (r->kind != ROOT_ARENA) return s;
    s.piece = 0; /* pieces of the arena share bytes: it is one */
    s.lo += (int64_t)r->offset;
    s.hi += (int64_t)r->offset;
    return s;
}

static int add_spans(const struct ad_plan *p, const struct step *s, struct region_span *to)
{
    int n = 0;
    for (int i = 0; i < s->call.n_in + s->call.n_out; i++) {
        const struct ad_tensor *t = &p->tensor[s->tensor + i];
        const struct place *at = &p->l.place[p->tensor_val[s->tensor + i]];
        if (!ad_count(t->shape)) continue;
        to[n] = span_of(p, at->root, at->offset, t);
        to[n++].written = i >= s->call.n_in || (s->node->op->flags & AD_APPLIES && i == s->call.n_in - 1);
    }
    if (s->scratch) {
        int64_t lo = (int64_t)p->l.root[s->scratch].offset;
        to[n++] = (struct region_span){.written = true, .lo = lo, .hi = lo + (int64_t)p->l.root[s->scratch].bytes};
    }
    return n;
}

/* What can be wrong in data are indices, offsets, labels; what evals may find wrong is theirs to say. */
static bool may_fail(const struct step *s)
{
    if (!s->kernel.op && s->node->op->eval) return true;
    for (int i = 0; i < s->call.n_in; i++)
        if (ad_is_int(s->call.in[i].dtype)) return true;
    return false;
}

static void add_parts(struct ad_plan *p)
{
    size_t n = 0, n_fault = 0;
    for (size_t i = 0; i < p->n_step; i++) {
        if (!may_share(&p->step[i])) continue;
        n++;
        n_fault += may_fail(&p->step[i]);
    }
    p->part = aligned_alloc(_Alignof(struct region_call), (n + 1) * sizeof *p->part);
    CHECK(p->part);
    memset(p->part, 0, n * sizeof *p->part);
    p->span = mem_zero(p->n_tensor + n, sizeof *p->span);
    p->fault = mem_zero(n_fault, sizeof *p->fault);
    struct region_span *span = p->span;
    struct err *fault = p->fault;
    struct region_call *part = p->part;
    for (size_t i = 0; i < p->n_step; i++) {
        struct step *s = &p->step[i];
        if (!may_share(s)) continue;
        s->part = part;
        if (may_fail(s)) s->fault = fault++;
        *part = (struct region_call){.kernel = &s->kernel, .call = &s->call, .span = span};
        part->n_span = add_spans(p, s, span);
        span += part++->n_span;
    }
}

void ad_plan_find_regions(struct ad_plan *p)
{
    add_parts(p);
    for (size_t i = 0, n; i < p->n_step; i += n) {
        for (n = 0; i + n < p->n_step && p->step[i + n].part && (!n || !(p->flags & AD_NO_MERGE));) n++;
        if (n)
            p->step[i].region = region_new(p->step[i].part, n);
        else
            n = 1;
    }
}

void ad_plan_free_regions(struct ad_plan *p)
{
    for (size_t i = 0; p->step && i < p->n_step; i++) region_free(p->step[i].region);
    free(p->part);
    free(p->span);
    free(p->fault);
}
