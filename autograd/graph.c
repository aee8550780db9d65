/* Building a graph: leaves, nodes, names, the sticky error. Computes nothing. */
#include "autograd/internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/ops/ops.h"
#include "base/buf.h"
#include "base/rng.h"

size_t ad_dtype_size(enum ad_dtype t)
{
    return ad_is_half(t) ? 2 : t == AD_F32 || t == AD_I32 ? 4 : 8;
}

const char *ad_dtype_name(enum ad_dtype t)
{
    static const char *const names[] = {"f32", "f64", "i32", "i64", "bf16", "f16"};
    return names[t];
}

int64_t ad_count(struct ad_shape s)
{
    int64_t n = 1;
    for (int i = 0; i < s.rank; i++) n *= s.dim[i];
    return n;
}

bool ad_same_shape(struct ad_shape a, struct ad_shape b)
{
    if (a.rank != b.rank) return false;
    for (int i = 0; i < a.rank; i++)
        if (a.dim[i] != b.dim[i]) return false;
    return true;
}

char *ad_shape_text(char out[96], struct ad_shape s)
{
    int n = snprintf(out, 96, "(");
    for (int i = 0; i < s.rank; i++)
        n += snprintf(out + n, 96 - (size_t)n, "%s%lld", i ? ", " : "", (long long)s.dim[i]);
    snprintf(out + n, 96 - (size_t)n, ")");
    return out;
}

bool ad_contiguous(const struct ad_tensor *t)
{
    int64_t want = 1;
    for (int i = t->shape.rank - 1; i >= 0; i--) {
        if (t->shape.dim[i] != 1 && t->stride[i] != want) return ad_count(t->shape) == 0;
        want *= t->shape.dim[i];
    }
    return true;
}

void ad_default_strides(struct ad_tensor *t)
{
    int64_t s = 1;
    for (int i = t->shape.rank - 1; i >= 0; i--) {
        t->stride[i] = s;
        s *= t->shape.dim[i];
    }
}

struct ad_graph *ad_graph_new(void)
{
    struct ad_graph *g = mem_zero(1, sizeof *g);
    g->path = "";
    g->n_node = g->n_value = 1;
    g->node = mem_grow(NULL, &g->cap_node, 256, sizeof *g->node);
    g->value = mem_grow(NULL, &g->cap_value, 256, sizeof *g->value);
    g->node[0] = NULL;
    g->value[0] = (struct ad_value){.dtype = AD_F32};
    return g;
}

void ad_graph_free(struct ad_graph *g)
{
    if (!g) return;
    arena_free(&g->mem);
    free(g->node);
    free(g->value);
    free(g->output);
    free(g->update);
    free(g->stream);
    free(g);
}

int ad_status(const struct ad_graph *g, struct err *e)
{
    return g->status.code ? err_set(e, g->status.code, "%s", g->status.msg) : 0;
}

val ad_fail(struct ad_graph *g, const char *fmt, ...)
{
    if (g->status.code) return 0;
    char why[800];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    err_set(&g->status, ERR_SHAPE, "%s%s%s", g->path, *g->path ? ": " : "", why);
    return 0;
}

const char *ad_push(struct ad_graph *g, const char *fmt, ...)
{
    CHECK(g->depth < 32);
    char part[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(part, sizeof part, fmt, ap);
    va_end(ap);
    g->path_stack[g->depth++] = g->path;
    g->path = *g->path ? arena_printf(&g->mem, "%s.%s", g->path, part) : arena_strdup(&g->mem, part);
    return g->path;
}

void ad_pop(struct ad_graph *g)
{
    CHECK(g->depth > 0);
    g->path = g->path_stack[--g->depth];
}

const char *ad_path(const struct ad_graph *g)
{
    return g->path;
}

uint64_t ad_new_stream(struct ad_graph *g)
{
    uint64_t path = hash_str(g->path);
    size_t i = 0;
    while (i < g->n_stream && g->stream[i].path != path) i++;
    if (i == g->n_stream) {
        g->stream = mem_grow(g->stream, &g->cap_stream, ++g->n_stream, sizeof *g->stream);
        g->stream[i].path = path;
        g->stream[i].used = 0;
    }
    int64_t k = g->stream[i].used++;
    return hash_bytes(&k, sizeof k, path);
}

static val add_value(struct ad_graph *g, struct ad_shape s, enum ad_dtype t)
{
    g->value = mem_grow(g->value, &g->cap_value, g->n_value + 1, sizeof *g->value);
    g->value[g->n_value] = (struct ad_value){s, t, (int32_t)g->n_node};
    return (val)g->n_value++;
}

/* Appends the node once its shapes are known. */
static struct ad_node *add_node(struct ad_graph *g, const struct ad_op *op, const void *attr, const val *in, int n_in)
{
    struct ad_node *n = arena_alloc(&g->mem, sizeof *n);
    n->op = op;
    n->n_in = n_in;
    n->path = g->path;
    n->part = g->part;
    n->out = (val)g->n_value;
    if (n_in) n->in = memcpy(arena_alloc(&g->mem, (size_t)n_in * sizeof(val)), in, (size_t)n_in * sizeof(val));
    if (op->attr_size) n->attr = memcpy(arena_alloc(&g->mem, op->attr_size), attr, op->attr_size);
    g->node = mem_grow(g->node, &g->cap_node, g->n_node + 1, sizeof *g->node);
    g->node[g->n_node] = n;
    return n;
}

val ad_leaf(struct ad_graph *g, const struct ad_op *op, const struct leaf_attr *a)
{
    struct leaf_attr own = *a;
    if (a->name) own.name = arena_strdup(&g->mem, a->name);
    if (a->data) own.data = memcpy(arena_alloc(&g->mem, a->bytes), a->data, a->bytes);
    struct ad_node *n = add_node(g, op, &own, NULL, 0);
    n->n_out = 1;
    add_value(g, a->shape, (enum ad_dtype)a->dtype);
    g->n_node++;
    return n->out;
}

static val find_leaf(const struct ad_graph *g, const struct ad_op *op, const char *name)
{
    for (size_t i = 1; i < g->n_node; i++)
        if (g->node[i]->op == op && !strcmp(leaf(g->node[i])->name, name)) return g->node[i]->out;
    return 0;
}

static bool good_shape(struct ad_shape s)
{
    if (s.rank < 0 || s.rank > AD_MAX_DIMS) return false;
    for (int i = 0; i < s.rank; i++)
        if (s.dim[i] < 0) return false;
    return true;
}

val ad_input(struct ad_graph *g, const char *name, enum ad_dtype t, struct ad_shape s)
{
    char text[96];
    if (ad_is_half(t))
        return ad_fail(g, "input '%s' cannot be %s: a plan alone keeps values so", name, ad_dtype_name(t));
    if (!good_shape(s)) return ad_fail(g, "input '%s' has the impossible shape %s", name, ad_shape_text(text, s));
    if (find_leaf(g, &ad_op_input, name)) return ad_fail(g, "there are two inputs named '%s'", name);
    return ad_leaf(g, &ad_op_input, &(struct leaf_attr){.name = name, .shape = s, .dtype = t});
}

val ad_param(struct ad_graph *g, const char *name, enum ad_dtype t, struct ad_shape s)
{
    char text[96], old[96];
    if (ad_is_half(t))
        return ad_fail(g, "parameter '%s' cannot be %s: a plan alone keeps values so", name, ad_dtype_name(t));
    if (!good_shape(s)) return ad_fail(g, "parameter '%s' has the impossible shape %s", name, ad_shape_text(text, s));
    val v = find_leaf(g, &ad_op_param, name);
    if (!v) return ad_leaf(g, &ad_op_param, &(struct leaf_attr){.name = name, .shape = s, .dtype = t});
    if (!ad_same_shape(g->value[v].shape, s) || g->value[v].dtype != t)
        return ad_fail(g, "parameter '%s' was %s and is now asked for as %s", name,
                       ad_shape_text(old, g->value[v].shape), ad_shape_text(text, s));
    return v;
}

val ad_const_data(struct ad_graph *g, enum ad_dtype t, struct ad_shape s, const void *data)
{
    struct leaf_attr a = {.data = data, .shape = s, .dtype = t, .bytes = (size_t)ad_count(s) * ad_dtype_size(t)};
    struct ad_tensor first = {.data = (void *)(uintptr_t)data, .dtype = t};
    if (ad_count(s) == 1) a.scalar = ad_get(&first, 0);
    return ad_leaf(g, &ad_op_const, &a);
}

val ad_const(struct ad_graph *g, enum ad_dtype t, double value)
{
    double room;
    struct ad_tensor one = {.data = &room, .dtype = t};
    ad_set(&one, 0, value);
    return ad_const_data(g, t, SCALAR, &room);
}

val ad_full(struct ad_graph *g, enum ad_dtype t, struct ad_shape s, double value)
{
    return ad_broadcast(g, ad_const(g, t, value), s);
}

val ad_zeros_like(struct ad_graph *g, val x)
{
    return ad_full(g, ad_dtype_of(g, x), ad_shape_of(g, x), 0);
}
val ad_ones_like(struct ad_graph *g, val x)
{
    return ad_full(g, ad_dtype_of(g, x), ad_shape_of(g, x), 1);
}

struct ad_shape ad_shape_of(const struct ad_graph *g, val v)
{
    return g->value[v].shape;
}
enum ad_dtype ad_dtype_of(const struct ad_graph *g, val v)
{
    return g->value[v].dtype;
}
int ad_rank(const struct ad_graph *g, val v)
{
    return g->value[v].shape.rank;
}

int64_t ad_dim(const struct ad_graph *g, val v, int axis)
{
    int rank = g->value[v].shape.rank;
    if (!v) return 0;
    if (axis < 0) axis += rank;
    CHECK_MSG(axis >= 0 && axis < rank, "axis %d of a val of rank %d", axis, rank);
    return g->value[v].shape.dim[axis];
}

const struct ad_node *ad_node_of(const struct ad_graph *g, val v)
{
    return v ? g->node[g->value[v].node] : NULL;
}
int64_t ad_node_count(const struct ad_graph *g)
{
    return (int64_t)g->n_node - 1;
}

int ad_infer_fail(struct ad_infer *f, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(f->why, sizeof f->why, fmt, ap);
    va_end(ap);
    return -1;
}

static val fail_node(struct ad_graph *g, const struct ad_op *op, const struct ad_infer *f)
{
    char shapes[400] = "", text[96];
    size_t n = 0;
    for (int i = 0; i < f->n_in && i < 6; i++)
        n += (size_t)snprintf(shapes + n, sizeof shapes - n, "%s%s %s", i ? ", " : "",
                              ad_shape_text(text, g->value[f->in[i]].shape), ad_dtype_name(g->value[f->in[i]].dtype));
    return ad_fail(g, "%s: %s; the inputs are %s", op->name, f->why, shapes);
}

val ad_node(struct ad_graph *g, const struct ad_op *op, const void *attr, const val *in, int n_in)
{
    if (g->status.code) return 0;
    for (int i = 0; i < n_in; i++)
        if (in[i] <= 0 || (size_t)in[i] >= g->n_value) return ad_fail(g, "%s: input %d is missing", op->name, i);
    CHECK_MSG(n_in >= op->min_in && n_in <= op->max_in, "%s has %d inputs", op->name, n_in);
    struct ad_infer f = {.g = g, .in = in, .n_in = n_in, .attr = attr, .n_out = 1};
    for (int i = 0; i < n_in && i < 16; i++) {
        f.in_shape[i] = g->value[in[i]].shape;
        f.in_dtype[i] = g->value[in[i]].dtype;
    }
    for (int i = 0; i < 8; i++) f.dtype[i] = f.in_dtype[0];
    if (op->infer(&f)) return fail_node(g, op, &f);
    for (int i = 0; i < f.n_out; i++) CHECK_MSG(good_shape(f.shape[i]), "%s infers a wrong shape", op->name);
    struct ad_node *n = add_node(g, op, attr, in, n_in);
    n->n_out = f.n_out;
    for (int i = 0; i < f.n_out; i++) add_value(g, f.shape[i], f.dtype[i]);
    g->n_node++;
    return n->out;
}

val ad_copy_node(struct ad_graph *g, const struct ad_node *n, const val *in)
{
    const char *path = g->path;
    enum ad_part part = g->part;
    g->path = arena_strdup(&g->mem, n->path);
    g->part = n->part;
    val v = n->op->flags & AD_LEAF ? ad_leaf(g, n->op, n->attr) : ad_node(g, n->op, n->attr, in, n->n_in);
    if (v) g->node[g->value[v].node]->half = n->half;
    g->path = path;
    g->part = part;
    return v;
}

static void add_output(struct ad_graph *g, const char *name, val v, bool to_caller)
{
    if (!v) {
        ad_fail(g, "output '%s' is poison", name);
        return;
    }
    for (size_t i = 0; i < g->n_output; i++)
        if (!strcmp(g->output[i].name, name)) ad_fail(g, "there are two outputs named '%s'", name);
    g->output = mem_grow(g->output, &g->cap_output, g->n_output + 1, sizeof *g->output);
    g->output[g->n_output++] = (struct ad_named){arena_strdup(&g->mem, name), v, 0, to_caller};
}

void ad_output(struct ad_graph *g, const char *name, val v)
{
    add_output(g, name, v, false);
}
void ad_output_to_caller(struct ad_graph *g, const char *name, val v)
{
    add_output(g, name, v, true);
}

void ad_update(struct ad_graph *g, val state, val next)
{
    if (g->status.code) return;
    char a[96], b[96];
    const struct ad_node *n = ad_node_of(g, state);
    if (!n || !next || n->op != &ad_op_param || !ad_same_shape(g->value[state].shape, g->value[next].shape) ||
        g->value[state].dtype != g->value[next].dtype) {
        ad_fail(g, "update: a parameter %s cannot take a value %s", ad_shape_text(a, g->value[state].shape),
                ad_shape_text(b, g->value[next].shape));
        return;
    }
    for (size_t i = 0; i < g->n_update; i++)
        if (g->update[i].v == state) ad_fail(g, "update: parameter '%s' is updated twice in one run", leaf(n)->name);
    g->update = mem_grow(g->update, &g->cap_update, g->n_update + 1, sizeof *g->update);
    g->update[g->n_update++] = (struct ad_named){leaf(n)->name, state, next, false};
}

void ad_drop_updates(struct ad_graph *g)
{
    g->n_update = 0;
}

enum ad_dtype ad_kept_as(const struct ad_graph *g, val v)
{
    const struct ad_node *n = g->node[g->value[v].node];
    return n->half >> (v - n->out) & 1 ? g->half : g->value[v].dtype;
}

size_t ad_kept_bytes(const struct ad_graph *g, val v)
{
    return (size_t)ad_count(g->value[v].shape) * ad_dtype_size(ad_kept_as(g, v));
}

void ad_copy_ends(struct ad_graph *to, const struct ad_graph *from, const val *map)
{
    to->half = from->half;
    for (size_t i = 0; i < from->n_output; i++)
        add_output(to, from->output[i].name, map[from->output[i].v], from->output[i].to_caller);
    for (size_t i = 0; i < from->n_update; i++) ad_update(to, map[from->update[i].v], map[from->update[i].next]);
}

void ad_take_place(struct ad_graph *to, struct ad_graph *from, const val *map)
{
    ad_copy_ends(to, from, map);
    if (from->status.code) to->status = from->status;
    arena_join(&to->mem, &from->mem); /* fused programs lie there */
    ad_graph_free(from);
}

char *ad_needed(const struct ad_graph *g)
{
    char *need = mem_zero(g->n_node, 1);
    for (size_t i = 0; i < g->n_output; i++) need[g->value[g->output[i].v].node] = 1;
    for (size_t i = 0; i < g->n_update; i++)
        need[g->value[g->update[i].v].node] = need[g->value[g->update[i].next].node] = 1;
    for (size_t i = g->n_node - 1; i > 0; i--)
        if (need[i])
            for (int k = 0; k < g->node[i]->n_in; k++) need[g->value[g->node[i]->in[k]].node] = 1;
    return need;
}

int32_t *ad_readers(const struct ad_graph *g, const char *need)
{
    int32_t *readers = mem_zero(g->n_value, sizeof *readers);
    for (size_t i = 1; i < g->n_node; i++)
        if (need[i])
            for (int k = 0; k < g->node[i]->n_in; k++) readers[g->node[i]->in[k]]++;
    for (size_t i = 0; i < g->n_output; i++) readers[g->output[i].v]++;
    for (size_t i = 0; i < g->n_update; i++) readers[g->update[i].next]++;
    return readers;
}

char *ad_graph_text(const struct ad_graph *g)
{
    struct buf b = {0};
    char text[96];
    for (size_t i = 1; i < g->n_node; i++) {
        const struct ad_node *n = g->node[i];
        for (int k = 0; k < n->n_out; k++)
            buf_printf(&b, "%s%%%d %s %s", k ? ", " : "", n->out + k, ad_dtype_name(ad_kept_as(g, n->out + k)),
                       ad_shape_text(text, g->value[n->out + k].shape));
        buf_printf(&b, " = %s", n->op->name);
        if (n->op == &ad_op_input || n->op == &ad_op_param) buf_printf(&b, " '%s'", leaf(n)->name);
        double x;
        if (is_scalar_const(g, n->out, &x)) buf_printf(&b, " %g", x);
        for (int k = 0; k < n->n_in; k++) buf_printf(&b, " %%%d", n->in[k]);
        buf_printf(&b, "%s%s\n", *n->path ? "  ; " : "", n->path);
    }
    if (!b.data) buf_str(&b, "");
    return b.data;
}

const struct ad_op ad_op_input = {.name = "input", .attr_size = sizeof(struct leaf_attr), .flags = AD_LEAF};
const struct ad_op ad_op_param = {.name = "param", .attr_size = sizeof(struct leaf_attr), .flags = AD_LEAF};
const struct ad_op ad_op_const = {.name = "const", .attr_size = sizeof(struct leaf_attr), .flags = AD_LEAF};
