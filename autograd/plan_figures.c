/* What a plan takes and does, in figures: see report.h. */
#include <stdlib.h>
#include <string.h>

#include "autograd/plan_parts.h"
#include "autograd/program.h"

/* Two inputs are one if they are the same memory: known by val, or by address once the plan has run. */
static bool seen_before(const struct step *s, const val *v, int i)
{
    const struct ad_tensor *in = s->call.in;
    for (int k = 0; k < i; k++)
        if (v[k] == v[i] || (in[k].data == in[i].data && in[i].data && ad_same_shape(in[k].shape, in[i].shape)))
            return true;
    return false;
}

/* Bytes behind a tensor: a broadcast axis is one element. */
static double bytes_behind(const struct ad_tensor *t)
{
    double n = (double)ad_dtype_size(t->dtype);
    for (int i = 0; i < t->shape.rank; i++)
        if (t->stride[i] || t->shape.dim[i] == 0) n *= (double)t->shape.dim[i];
    return n;
}

static double bytes_of(const struct ad_plan *p, const struct step *s)
{
    const struct ad_call *c = &s->call;
    if (s->node->op->bytes) return s->node->op->bytes(c);
    double bytes = 0;
    for (int i = 0; i < c->n_in; i++)
        if (!seen_before(s, p->tensor_val + s->tensor, i)) bytes += bytes_behind(&c->in[i]);
    for (int i = 0; i < c->n_out; i++) bytes += bytes_behind(&c->out[i]);
    return bytes;
}

double ad_step_limit(const struct ad_plan *p, const struct step *s)
{
    struct ad_timing t = {.flops = s->flops, .bytes = bytes_of(p, s)};
    return ad_roofline(&t, 1, &p->limits);
}

void ad_plan_add_stats(struct ad_plan *p)
{
    for (size_t i = 1; i < p->l.n_root; i++) {
        const struct root *r = &p->l.root[i];
        if (r->kind == ROOT_INPUT) p->stats.input_bytes += (int64_t)r->bytes;
        if (r->kind == ROOT_CONST) p->stats.const_bytes += (int64_t)r->bytes;
    }
    p->stats.steps = (int64_t)p->n_step;
    p->stats.views = p->l.n_views;
    p->stats.in_place = p->l.n_in_place;
    p->stats.arena_bytes = (int64_t)p->l.arena_bytes;
    p->stats.unshared_bytes = (int64_t)p->l.unshared_bytes;
    for (size_t i = 0; i < p->n_step; i++) {
        const struct step *s = &p->step[i];
        double seconds = ad_step_limit(p, s);
        p->stats.flops += s->flops;
        p->stats.limit_s += seconds;
        if (s->node->part != AD_AGAIN) continue;
        p->stats.again_flops += s->flops;
        p->stats.again_s += seconds;
    }
}

struct ad_plan_stats ad_plan_stats(const struct ad_plan *p)
{
    return p->stats;
}

void ad_plan_profile(struct ad_plan *p, bool on)
{
    p->profile = on;
    for (size_t i = 0; i < p->n_step; i++) p->step[i].seconds = 0, p->step[i].runs = 0;
}

/* first[node]: the first call that runs at it or later; the caller frees. */
static size_t *calls_of_nodes(const struct ad_plan *p)
{
    size_t *call = mem_zero(p->g->n_node + 2, sizeof *call), k = 0;
    for (size_t i = 0; i < p->g->n_node + 2; i++) {
        call[i] = k;
        if (i < p->g->n_node && p->l.run[i]) k++;
    }
    return call;
}

static bool is_piece(const struct ad_plan *p, size_t root)
{
    return p->l.root[root].kind == ROOT_ARENA && p->l.root[root].alias == (int32_t)root;
}

/* The value that a piece is best named after: the largest that lies in it; of equals the last that the same part of the
 * graph made there, one in place of another. 0: scratch. */
static val *names_of_pieces(const struct ad_plan *p)
{
    val *name = mem_zero(p->l.n_root, sizeof *name);
    for (size_t v = 1; v < p->g->n_value; v++) {
        int32_t r = p->l.place[v].root;
        if (!r) continue;
        r = ad_layout_root(&p->l, r);
        int64_t more = name[r] ? ad_count(p->g->value[v].shape) - ad_count(p->g->value[name[r]].shape) : 1;
        bool takes_over = name[r] && more == 0 && !p->l.place[v].view &&
                          ad_node_of(p->g, (val)v)->part == ad_node_of(p->g, name[r])->part;
        if (more > 0 || takes_over) name[r] = (val)v;
    }
    return name;
}

size_t ad_plan_pieces(const struct ad_plan *p, struct ad_piece *out)
{
    size_t n = 0, *call = calls_of_nodes(p), border = 0;
    val *name = names_of_pieces(p);
    while (border < p->n_step && p->step[border].node->part != AD_BACKWARD) border++;
    for (size_t i = 1; i < p->l.n_root; i++) {
        const struct root *r = &p->l.root[i];
        if (!is_piece(p, i)) continue;
        if (out) {
            const struct ad_node *node = name[i] ? ad_node_of(p->g, name[i]) : p->g->node[r->first];
            struct ad_piece x = {.op = node->op->name, .path = node->path, .part = node->part, .scratch = !name[i]};
            if (name[i]) x.shape = p->g->value[name[i]].shape, x.dtype = ad_kept_as(p->g, name[i]);
            x.bytes = (int64_t)ad_layout_padded(r->bytes);
            x.first = call[r->first];
            x.last = call[r->last + 1] > x.first ? call[r->last + 1] - 1 : x.first;
            x.kept = x.first < border && x.last >= border && !r->pinned;
            out[n] = x;
        }
        n++;
    }
    free(call);
    free(name);
    return n;
}

/* Bytes of the arena in use during each call; the caller frees. */
static int64_t *live_bytes(const struct ad_plan *p)
{
    int64_t *live = mem_zero(p->n_step + 2, sizeof *live);
    size_t n = ad_plan_pieces(p, NULL);
    struct ad_piece *piece = mem_zero(n + 1, sizeof *piece);
    ad_plan_pieces(p, piece);
    for (size_t i = 0; i < n; i++) {
        live[piece[i].first] += piece[i].bytes;
        live[piece[i].last + 1] -= piece[i].bytes;
    }
    for (size_t i = 0; i < p->n_step; i++) live[i + 1] += live[i];
    free(piece);
    return live;
}

size_t ad_plan_timings(const struct ad_plan *p, struct ad_timing *out)
{
    int64_t *live = out ? live_bytes(p) : NULL;
    for (size_t i = 0; out && i < p->n_step; i++) {
        const struct step *s = &p->step[i];
        out[i] = (struct ad_timing){.op = s->node->op->name,
                                    .kernel = s->kernel.name,
                                    .path = s->node->path,
                                    .calls = s->runs,
                                    .seconds = s->seconds,
                                    .flops = s->flops,
                                    .bytes = bytes_of(p, s),
                                    .part = s->node->part,
                                    .live = live[i]};
        if (s->node->op == &ad_op_fused) out[i].fused = ((const struct ad_fused_attr *)s->node->attr)->program;
    }
    free(live);
    return p->n_step;
}
