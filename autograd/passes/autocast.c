/* autocast: decides which values a plan keeps in 16 bits. Nothing is computed differently: what reads such a value widens
 * it and what makes one rounds it (kernels while they load or store, others through half_call.h), so there are no casts
 * among the nodes. Runs behind fuse: what a fused chain makes on its way is never rounded.
 *
 * An op says what may be kept so (`half`, AD_WIDE in op.h). Kept in 32 bits whatever the op says:
 *   - inputs, parameters, constants, results and new states;
 *   - what a loss reads (AD_EXACT), and through elementwise ops and ops that move numbers what that is made of;
 *   - what a result that goes to the caller, a weight's gradient, is made of in the same way;
 *   - what is small: its memory does not count, and norms' gains, temperatures and their like are among it. */
#include <stdlib.h>

#include "autograd/internal.h"
#include "autograd/plan.h"
#include "autograd/program.h"

enum { MIN_COUNT = 1024 }; /* numbers */

/* The op whose result the node gives. */
static const struct ad_op *op_of(const struct ad_node *n)
{
    if (n->op != &ad_op_fused) return n->op;
    const struct ad_program *p = ((const struct ad_fused_attr *)n->attr)->program;
    return p->line[p->n_lines - 1].op;
}

static uint32_t may_be_half(const struct ad_op *op)
{
    return op->flags & AD_ELEMENTWISE ? !(op->flags & AD_WIDE) : op->half;
}

/* exact[v]: kept in 32 bits for the sake of what reads it. The caller frees. */
static char *find_exact(const struct ad_graph *g, const char *need)
{
    char *exact = mem_zero(g->n_value, 1);
    for (size_t i = 0; i < g->n_output; i++)
        if (g->output[i].to_caller) exact[g->output[i].v] = 1;
    for (size_t i = g->n_node - 1; i > 0; i--) {
        const struct ad_node *n = g->node[i];
        if (!need[i]) continue;
        bool wants = n->op->flags & AD_EXACT, passes = n->op->view || n->op->flags & (AD_ELEMENTWISE | AD_MOVES);
        for (int k = 0; k < n->n_out && passes; k++) wants |= exact[n->out + k];
        for (int k = 0; k < n->n_in && wants; k++) exact[n->in[k]] = 1;
    }
    return exact;
}

void ad_autocast(struct ad_graph *g, enum ad_dtype half)
{
    char *need = ad_needed(g), *exact = find_exact(g, need);
    g->half = half;
    for (size_t i = 0; i < g->n_output; i++) exact[g->output[i].v] = 1;
    for (size_t i = 0; i < g->n_update; i++) exact[g->update[i].next] = 1;
    for (size_t i = 1; i < g->n_node; i++) {
        struct ad_node *n = g->node[i];
        if (!need[i] || n->op->flags & AD_LEAF) continue;
        bool view = n->op->view, as_input = view && ad_is_half(ad_kept_as(g, n->in[0]));
        uint32_t may = view ? (as_input ? UINT32_MAX : 0) : may_be_half(op_of(n));
        for (int k = 0; k < n->n_out && k < 32; k++) {
            const struct ad_value *v = &g->value[n->out + k];
            if (may >> k & 1 && v->dtype == AD_F32 && !exact[n->out + k] && (view || ad_count(v->shape) >= MIN_COUNT))
                n->half |= 1u << k;
        }
    }
    free(exact);
    free(need);
}
