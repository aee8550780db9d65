/* Plans and runs: passes, layout, choice of kernels, then a flat list of calls. A steady run allocates nothing. */
#include "autograd/plan.h"

#include <math.h>
#include <omp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/half_call.h"
#include "autograd/internal.h"
#include "autograd/ops/common.h"
#include "autograd/passes/narrow.h"
#include "autograd/plan_parts.h"
#include "autograd/program.h"
#include "autograd/region.h"
#include "autograd/store.h"
#include "base/threads.h"

void ad_call_fail(const struct ad_call *c, const char *fmt, ...)
{
    char why[600];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    CHECK(c->fault);
    err_set(c->fault, ERR_SHAPE, "%s: %s", c->op->name, why);
}

static double scalar_copy(const double *x, const void *attr)
{
    return x[0];
}
const struct ad_op ad_op_copy = {.name = "copy",
                                 .flags = AD_ELEMENTWISE,
                                 .min_in = 1,
                                 .max_in = 1,
                                 .infer = ad_infer_elementwise,
                                 .scalar = scalar_copy};

/* Ends that are leaves, or one val under two names, get memory of their own. */
static void own_ends(struct ad_graph *g)
{
    for (size_t i = 0; i < g->n_output; i++) {
        bool again = false;
        for (size_t k = 0; k < i; k++) again |= g->output[k].v == g->output[i].v;
        if (again || ad_node_of(g, g->output[i].v)->op->flags & AD_LEAF)
            g->output[i].v = AD_NODE(g, &ad_op_copy, NULL, g->output[i].v);
    }
    for (size_t i = 0; i < g->n_update; i++)
        if (ad_node_of(g, g->update[i].next)->op->flags & AD_LEAF)
            g->update[i].next = AD_NODE(g, &ad_op_copy, NULL, g->update[i].next);
}

static struct ad_graph *clone(const struct ad_graph *from)
{
    struct ad_graph *g = ad_graph_new();
    char *need = ad_needed(from);
    val *map = mem_zero(from->n_value, sizeof *map), *in = NULL;
    for (size_t i = 1; i < from->n_node; i++) {
        const struct ad_node *n = from->node[i];
        if (!need[i]) continue;
        in = mem_resize(in, (size_t)(n->n_in + 1) * sizeof *in);
        for (int k = 0; k < n->n_in; k++) in[k] = map[n->in[k]];
        val v = ad_copy_node(g, n, in);
        for (int k = 0; k < n->n_out; k++) map[n->out + k] = v + k;
    }
    ad_copy_ends(g, from, map);
    free(in);
    free(map);
    free(need);
    return g;
}

static struct ad_graph *run_passes(const struct ad_graph *from, const struct ad_store *store, unsigned flags,
                                   int64_t *recomputed)
{
    struct ad_graph *g = flags & AD_NO_SIMPLIFY ? clone(from) : ad_simplify(from);
    if (!(flags & AD_NO_FUSE) && !g->status.code) {
        struct ad_graph *fused = ad_fuse(g);
        ad_graph_free(g);
        g = fused;
    }
    if (flags & (AD_BF16_VALUES | AD_F16_VALUES) && !(flags & AD_NO_AUTOCAST) && !g->status.code)
        ad_autocast(g, flags & AD_BF16_VALUES ? AD_BF16 : AD_F16);
    if (!(flags & (AD_NO_PANELS | AD_NO_KERNELS)) && !g->status.code) g = ad_panels(g);
    if (!(flags & AD_NO_RECOMPUTE) && !g->status.code) g = ad_recompute(g, recomputed);
    own_ends(g);
    if (ad_store_is_narrow(store)) ad_keep_narrow(g, store);
    return g;
}

static int bind_params(struct ad_plan *p, struct ad_store *store, struct err *e)
{
    for (size_t i = 1; i < p->g->n_node; i++) {
        const struct ad_node *n = p->g->node[i];
        if (n->op != &ad_op_param || !p->l.place[n->out].root) continue;
        const struct ad_entry *x = ad_store_find(store, leaf(n)->name);
        const struct ad_value *v = &p->g->value[n->out];
        char a[96], b[96];
        if (!x) return err_set(e, ERR_STATE, "parameter '%s' is not in the store", leaf(n)->name);
        if (!ad_same_shape(x->shape, v->shape) || x->dtype != v->dtype)
            return err_set(e, ERR_SHAPE, "parameter '%s' is %s %s in the store, the graph expects %s %s", x->name,
                           ad_shape_text(a, x->shape), ad_dtype_name(x->dtype), ad_shape_text(b, v->shape),
                           ad_dtype_name(v->dtype));
        if (!x->data) return err_set(e, ERR_STATE, "parameter '%s' has no memory yet: call ad_store_commit", x->name);
        p->l.root[p->l.place[n->out].root].base = x->data;
        p->stats.param_bytes += (int64_t)p->l.root[p->l.place[n->out].root].bytes;
    }
    return 0;
}

static bool all_f32_or_half(const struct ad_call *c)
{
    for (int i = 0; i < c->n_in + c->n_out; i++) {
        enum ad_dtype t = i < c->n_in ? c->in[i].dtype : c->out[i - c->n_in].dtype;
        if (t != AD_F32 && !ad_is_half(t)) return false;
    }
    return true;
}

/* An eval is one item: it may lie in a region between others, on one thread. */
static void run_eval(const struct ad_call *c, const void *job, int64_t from, int64_t to)
{
    (c->op->eval ? c->op->eval : ad_eval_elementwise)(c);
}
static void cut_eval(const struct ad_call *c, int threads, struct ad_parts *p)
{
    p->n = 1;
    p->phase[0] = (struct ad_phase){.items = 1, .run = run_eval, .alone = true};
}
static const struct ad_kernel plain = {.cut = cut_eval, .name = "plain"};

static void choose(struct ad_plan *p, struct step *s, size_t node)
{
    const struct ad_op *op = s->node->op;
    const struct ad_call *c = &s->call;
    const struct ad_kernel *k = p->flags & AD_NO_KERNELS ? NULL : ad_kernel_find(op, c);
    size_t (*scratch)(const struct ad_call *) = op->scratch;
    bool any_type = false; /* takes the tensors as they are */
    if (k) {
        s->kernel = *k;
        if (k->scratch) scratch = k->scratch;
    } else if (op->flags & AD_ELEMENTWISE) {
        bool tiles = !(p->flags & AD_NO_KERNELS) && all_f32_or_half(c);
        any_type = true;
        s->kernel = tiles ? ad_elementwise_f32 : plain;
    } else {
        s->kernel = plain;
    }
    s->half = any_type ? NULL : half_call_new(c, k ? k->half_in : 0, k ? k->half_out : 0);
    if (s->half) c = half_call_seen(s->half);
    size_t bytes = scratch ? scratch(c) : 0;
    s->scratch = ad_layout_scratch(&p->l, node, s->half ? half_call_scratch(s->half, bytes) : bytes);
    s->flops = op->flops ? op->flops(c) : op->view ? 0 : (double)ad_count(c->out[0].shape);
}

static void make_step(struct ad_plan *p, struct step *s, size_t node)
{
    const struct ad_node *n = p->g->node[node];
    s->node = n;
    s->tensor = (int32_t)p->n_tensor;
    struct ad_tensor *t = p->tensor + p->n_tensor;
    for (int j = 0; j < n->n_in + n->n_out; j++) {
        val v = j < n->n_in ? n->in[j] : n->out + j - n->n_in;
        t[j] = p->l.place[v].t;
        p->tensor_val[p->n_tensor++] = v;
    }
    s->call =
        (struct ad_call){.in = t, .out = t + n->n_in, .n_in = n->n_in, .n_out = n->n_out, .attr = n->attr, .op = n->op};
    choose(p, s, node);
}

static void make_steps(struct ad_plan *p)
{
    struct ad_graph *g = p->g;
    const char *need = p->need;
    size_t n_tensor = 0;
    for (size_t i = 1; i < g->n_node; i++) {
        if (need[i]) p->stats.nodes++;
        if (!p->l.run[i]) continue;
        p->n_step++;
        n_tensor += (size_t)(g->node[i]->n_in + g->node[i]->n_out);
        p->stats.fused += g->node[i]->op == &ad_op_fused;
    }
    p->step = mem_zero(p->n_step, sizeof *p->step);
    p->tensor = mem_zero(n_tensor, sizeof *p->tensor);
    p->tensor_val = mem_zero(n_tensor, sizeof *p->tensor_val);
    size_t k = 0;
    for (int kept = 1; kept >= 0; kept--)
        for (size_t i = 1; i < g->n_node; i++)
            if (p->l.run[i] && ad_plan_is_kept(p, i) == kept) make_step(p, &p->step[k++], i);
}

void ad_plan_lay_out(struct ad_plan *p)
{
    bool reuse = !(p->flags & AD_NO_REUSE);
    p->g = ad_place_applies(p->g);
    p->need = ad_needed(p->g);
    ad_layout(p->g, p->need, reuse, &p->l);
    if (p->keep_panels) ad_plan_mark_kept(p);
    make_steps(p);
    ad_layout_offsets(&p->l, reuse);
    ad_plan_add_stats(p);
}

void ad_plan_forget_layout(struct ad_plan *p)
{
    for (size_t i = 0; p->step && i < p->n_step; i++) half_call_free(p->step[i].half);
    ad_layout_free(&p->l);
    ad_graph_free(p->g);
    free(p->need);
    free(p->step);
    free(p->tensor);
    free(p->tensor_val);
}

static int plan_build(struct ad_plan *p, const struct ad_graph *g, struct ad_store *store,
                      const struct ad_plan_options *o, struct err *e)
{
    if (ad_store_is_narrow(store) && p->flags & AD_F16_VALUES && !(p->flags & AD_NO_AUTOCAST))
        return err_set(e, ERR_CONFIG, "weights in bf16 go with activations in f32 or bf16, not in f16");
    p->g = run_passes(g, store, p->flags, &p->stats.recomputed);
    int rc = ad_status(p->g, e);
    if (rc) return rc;
    ad_plan_lay_out(p);
    rc = ad_plan_fit_budget(p, o, e);
    if (!rc) rc = bind_params(p, store, e);
    return rc ? rc : ad_plan_bind_kept(p, e);
}

static void free_base(struct ad_workspace *w)
{
    mem_block_free(w->base, w->bytes);
    w->base = NULL;
    w->bytes = 0;
}

static int grow(struct ad_workspace *w, size_t bytes, struct err *e)
{
    if (w->base && w->bytes >= bytes) return 0;
    free_base(w);
    w->base = mem_block(bytes, "activations", e);
    if (!w->base) return ERR_MEMORY;
    w->bytes = bytes;
    return 0;
}

void ad_workspace_free(struct ad_workspace *w)
{
    free_base(w);
    ad_kept_free(w->kept);
    w->kept = NULL;
}

struct ad_plan *ad_plan_with(const struct ad_graph *g, struct ad_store *store, const struct ad_plan_options *o,
                             struct err *e)
{
    static const struct ad_limits usual = {.flops = 1e11, .bytes = 1.5e10};
    if (ad_status(g, e)) return NULL;
    struct ad_plan *p = mem_zero(1, sizeof *p);
    p->flags = o->flags;
    p->space = o->space ? o->space : &p->own;
    p->dry = o->dry;
    p->keep_panels = o->keep_panels && !o->budget;
    p->limits = o->limits.flops > 0 ? o->limits : usual;
    double start = time_now();
    int rc = plan_build(p, g, store, o, e);
    if (!rc && !p->dry) ad_plan_find_regions(p);
    p->stats.build_s = time_now() - start;
    start = time_now();
    if (!rc && !p->dry) rc = grow(p->space, p->l.arena_bytes, e);
    p->stats.clear_s = time_now() - start;
    if (!rc) return p;
    ad_plan_free(p);
    return NULL;
}

struct ad_plan *ad_plan_in(const struct ad_graph *g, struct ad_store *store, unsigned flags, struct ad_workspace *w,
                           bool dry, struct err *e)
{
    return ad_plan_with(g, store, &(struct ad_plan_options){.flags = flags, .space = w, .dry = dry}, e);
}

struct ad_plan *ad_plan_new(const struct ad_graph *g, struct ad_store *store, unsigned flags, struct err *e)
{
    return ad_plan_in(g, store, flags, NULL, false, e);
}

void ad_plan_free(struct ad_plan *p)
{
    if (!p) return;
    ad_workspace_free(&p->own);
    ad_plan_free_regions(p);
    ad_plan_forget_layout(p);
    free(p);
}

static bool bind(struct ad_plan *p, enum root_kind kind, const char *name, void *data)
{
    for (size_t i = 1; i < p->l.n_root; i++)
        if (p->l.root[i].kind == kind && !strcmp(p->l.root[i].name, name)) {
            p->l.root[i].base = data;
            return true;
        }
    return false;
}

bool ad_bind(struct ad_plan *p, const char *name, const void *data)
{
    return bind(p, ROOT_INPUT, name, (void *)(uintptr_t)data);
}
bool ad_bind_out(struct ad_plan *p, const char *name, void *data)
{
    return bind(p, ROOT_CALLER, name, data);
}

static int check_bound(const struct ad_plan *p, struct err *e)
{
    for (size_t i = 1; i < p->l.n_root; i++) {
        const struct root *r = &p->l.root[i];
        if (!r->base && r->bytes && (r->kind == ROOT_INPUT || r->kind == ROOT_CALLER))
            return err_set(e, ERR_STATE, "%s '%s' is not bound", r->kind == ROOT_INPUT ? "input" : "output", r->name);
    }
    return 0;
}

static void place_arena(struct ad_plan *p)
{
    if (p->based_at == p->space->base) return;
    p->based_at = p->space->base;
    for (size_t i = 1; i < p->l.n_root; i++)
        if (p->l.root[i].kind == ROOT_ARENA)
            p->l.root[i].base = p->based_at + p->l.root[ad_layout_root(&p->l, (int32_t)i)].offset;
}

static void resolve(struct ad_plan *p, uint64_t seed, uint64_t step)
{
    place_arena(p);
    for (size_t i = 0; i < p->n_step; i++) {
        struct step *s = &p->step[i];
        void *scratch = s->scratch ? p->l.root[s->scratch].base : NULL;
        bool same = s->call.scratch == scratch;
        for (int32_t k = s->tensor; k < s->tensor + s->call.n_in + s->call.n_out; k++) {
            const struct place *at = &p->l.place[p->tensor_val[k]];
            struct ad_tensor *t = &p->tensor[k];
            void *data = (char *)p->l.root[at->root].base + (size_t)at->offset * ad_dtype_size(t->dtype);
            same &= t->data == data;
            t->data = data;
        }
        s->call.scratch = scratch;
        s->call.seed = seed;
        s->call.step = step;
        s->call.fault = s->fault;
        if (s->fault) err_clear(s->fault);
        if (s->part) s->part->known &= same;
    }
}

static bool all_finite(const struct ad_tensor *t)
{
    int64_t n = ad_is_float(t->dtype) || ad_is_half(t->dtype) ? ad_count(t->shape) : 0, at[AD_MAX_DIMS] = {0};
    for (int64_t i = 0; i < n; i++, ad_next(t->shape, at))
        if (!isfinite(ad_get(t, ad_offset_of(t, at)))) return false;
    return true;
}

static int check_finite(const struct step *s, struct err *e)
{
    char text[96];
    for (int i = 0; i < s->call.n_out; i++)
        if (!all_finite(&s->call.out[i]))
            return err_set(e, ERR_NONFINITE, "%s%s%s %s made a value that is not finite", s->node->path,
                           *s->node->path ? ": " : "", s->node->op->name, ad_shape_text(text, s->call.out[i].shape));
    return 0;
}

static int say_fault(const struct step *s, const struct err *fault, struct err *e)
{
    if (!fault->code) return 0;
    return err_set(e, fault->code, "%s%s%s", s->node->path, *s->node->path ? ": " : "", fault->msg);
}

static int run_step(struct ad_plan *p, struct step *s, struct err *e)
{
    struct err fault;
    fault.code = 0;
    s->call.fault = &fault;
    bool timed = p->profile || p->weights;
    double start = timed ? time_now() : 0, seconds;
    if (s->half)
        half_call_run(s->half, &s->kernel, &s->call);
    else
        ad_kernel_run(&s->kernel, &s->call);
    seconds = timed ? time_now() - start : 0;
    if (p->profile) {
        s->seconds += seconds;
        s->runs++;
    }
    p->uncut += seconds;
    s->call.fault = NULL;
    int rc = say_fault(s, &fault, e);
    return rc || !(p->flags & AD_CHECK_FINITE) ? rc : check_finite(s, e);
}

static int run_region(struct ad_plan *p, size_t first, int threads, struct err *e)
{
    struct region *r = p->step[first].region;
    int rc = 0;
    if (p->weights)
        region_weigh(r, p->weights, p->waits + first);
    else
        region_run(r, threads);
    p->stats.cut_calls += (int64_t)region_calls(r);
    p->stats.regions += region_forks(r);
    p->stats.barriers += region_barriers(r);
    for (size_t i = first; i < first + region_calls(r) && !rc; i++)
        if (p->step[i].fault) rc = say_fault(&p->step[i], p->step[i].fault, e);
    return rc;
}

static int run_steps(struct ad_plan *p, struct err *e)
{
    bool one_by_one = p->profile || p->flags & AD_CHECK_FINITE;
    int threads = omp_in_parallel() ? 1 : threads_count(), rc = 0;
    p->stats.cut_calls = p->stats.regions = p->stats.barriers = 0;
    for (size_t i = 0; i < p->n_step && !rc;) {
        if (ad_step_is_done(p, &p->step[i])) {
            i++;
            continue;
        }
        const struct region *r = one_by_one ? NULL : p->step[i].region;
        rc = r ? run_region(p, i, threads, e) : run_step(p, &p->step[i], e);
        i += r ? region_calls(r) : 1;
    }
    return rc;
}

int ad_run(struct ad_plan *p, uint64_t seed, uint64_t step, struct err *e)
{
    CHECK(!p->dry);
    int rc = check_bound(p, e);
    if (rc) return rc;
    resolve(p, seed, step);
    rc = run_steps(p, e);
    if (rc) return rc;
    for (size_t i = 0; i < p->g->n_update; i++) {
        const struct place *from = &p->l.place[p->g->update[i].next], *to = &p->l.place[p->g->update[i].v];
        const struct root *r = &p->l.root[to->root];
        memcpy(r->base, (char *)p->l.root[from->root].base + (size_t)from->offset * ad_dtype_size(from->t.dtype),
               r->bytes);
    }
    return 0;
}

const void *ad_result(const struct ad_plan *p, const char *name, struct ad_shape *shape)
{
    for (size_t i = 0; i < p->g->n_output; i++)
        if (!strcmp(p->g->output[i].name, name)) {
            const struct place *at = &p->l.place[p->g->output[i].v];
            if (shape) *shape = at->t.shape;
            return (char *)p->l.root[at->root].base + (size_t)at->offset * ad_dtype_size(at->t.dtype);
        }
    return NULL;
}

double ad_result_scalar(const struct ad_plan *p, const char *name)
{
    for (size_t i = 0; i < p->g->n_output; i++)
        if (!strcmp(p->g->output[i].name, name)) {
            struct ad_tensor t = p->l.place[p->g->output[i].v].t;
            t.data = (void *)(uintptr_t)ad_result(p, name, NULL);
            return ad_get(&t, 0);
        }
    return NAN;
}
