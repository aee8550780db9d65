/* Which kernel runs a call: the first row, in the order of kernels.def, that has its op and dtype and accepts it. */
#include "autograd/op.h"

#define KERNELS(name) extern const struct ad_kernel ad_kernels_##name[];
#include "autograd/kernels/kernels.def"
#undef KERNELS

#define KERNELS(name) ad_kernels_##name,
static const struct ad_kernel *const tables[] = {
#include "autograd/kernels/kernels.def"
};
#undef KERNELS

const struct ad_kernel *ad_kernel_find(const struct ad_op *op, const struct ad_call *c)
{
    enum ad_dtype t = c->n_in ? c->in[0].dtype : c->out[0].dtype;
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        for (const struct ad_kernel *k = tables[i]; k->op; k++)
            if (k->op == op && k->dtype == t && (!k->accepts || k->accepts(c))) return k;
    return NULL;
}
