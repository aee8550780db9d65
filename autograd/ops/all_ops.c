/* The list of triad's own ops, for the checks. */
#include "autograd/op.h"

#define OP(name) extern const struct ad_op ad_op_##name;
#include "autograd/ops/ops.def"
#undef OP

#define OP(name) &ad_op_##name,
const struct ad_op *const ad_all_ops[] = {
#include "autograd/ops/ops.def"
};
#undef OP
const int ad_n_ops = (int)(sizeof ad_all_ops / sizeof *ad_all_ops);
