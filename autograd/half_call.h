/* A call some of whose tensors are kept in 16 bits, for a kernel or an eval that knows f32 alone: inputs are widened into
 * scratch, outputs rounded from it, each to the nearest and ties to even. */
#ifndef TRIAD_AUTOGRAD_HALF_CALL_H
#define TRIAD_AUTOGRAD_HALF_CALL_H

#include "autograd/op.h"
#include "base/isa.h"

struct half_call;

/* For the tensors of `c` in 16 bits but those that `half_in` and `half_out` (bit i: input i, output i) leave as they are.
 * NULL if there is none. `c` must outlive it. */
struct half_call *half_call_new(const struct ad_call *c, uint32_t half_in, uint32_t half_out);
void half_call_free(struct half_call *h); /* NULL is fine */
/* The call as the kernel sees it: f32, contiguous where converted. */
const struct ad_call *half_call_seen(const struct half_call *h);
/* Bytes of scratch when the kernel itself takes `kernel`; then runs it on c's data, scratch, seed and step. */
size_t half_call_scratch(struct half_call *h, size_t kernel);
void half_call_run(struct half_call *h, const struct ad_kernel *k, const struct ad_call *c);

/* n numbers from and to the 16-bit type t, contiguous (kernels/half.c). */
void ad_widen(enum ad_dtype t, const void *from, float *to, int64_t n);
void ad_narrow(enum ad_dtype t, const float *from, void *to, int64_t n);

#endif
