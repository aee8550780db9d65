/* Conversion between a call and its kernel. See half_call.h. */
#include "autograd/half_call.h"

#include <stdlib.h>

#include "autograd/ops/common.h"
#include "base/mem.h"
#include "base/threads.h"

enum { PIECE = 16384, ALIGN = 64 };

struct half_call {
    struct ad_call seen;
    struct ad_tensor *tensor; /* [n]: inputs, then outputs, as the kernel sees them */
    size_t *offset;           /* [n]: where a converted one lies in the scratch */
    char *converted;          /* [n] */
    int n;
    size_t bytes; /* of the converted ones; the kernel's scratch follows */
};

ISA_DECLARE(void, ad_widen, (enum ad_dtype t, const void *from, float *to, int64_t n));
ISA_DECLARE(void, ad_narrow, (enum ad_dtype t, const float *from, void *to, int64_t n));
void ad_widen(enum ad_dtype t, const void *from, float *to, int64_t n)
{
    ISA_PICK(ad_widen)(t, from, to, n);
}
void ad_narrow(enum ad_dtype t, const float *from, void *to, int64_t n)
{
    ISA_PICK(ad_narrow)(t, from, to, n);
}

static const struct ad_tensor *tensor_of(const struct ad_call *c, int i)
{
    return i < c->n_in ? &c->in[i] : &c->out[i - c->n_in];
}

struct half_call *half_call_new(const struct ad_call *c, uint32_t half_in, uint32_t half_out)
{
    struct half_call *h = mem_zero(1, sizeof *h);
    h->n = c->n_in + c->n_out;
    h->tensor = mem_zero((size_t)h->n, sizeof *h->tensor);
    h->offset = mem_zero((size_t)h->n, sizeof *h->offset);
    h->converted = mem_zero((size_t)h->n, 1);
    for (int i = 0; i < h->n; i++) {
        int k = i < c->n_in ? i : i - c->n_in;
        uint32_t takes = i < c->n_in ? half_in : half_out;
        h->tensor[i] = *tensor_of(c, i);
        if (!ad_is_half(h->tensor[i].dtype) || (k < 32 && takes >> k & 1)) continue;
        h->converted[i] = 1;
        h->tensor[i].dtype = AD_F32;
        ad_default_strides(&h->tensor[i]);
        h->offset[i] = h->bytes;
        h->bytes += ((size_t)ad_count(h->tensor[i].shape) * sizeof(float) + ALIGN - 1) / ALIGN * ALIGN;
    }
    h->seen = *c;
    h->seen.in = h->tensor;
    h->seen.out = h->tensor + c->n_in;
    for (int i = 0; i < h->n; i++)
        if (h->converted[i]) return h;
    half_call_free(h);
    return NULL;
}

void half_call_free(struct half_call *h)
{
    if (!h) return;
    free(h->tensor);
    free(h->offset);
    free(h->converted);
    free(h);
}

const struct ad_call *half_call_seen(const struct half_call *h)
{
    return &h->seen;
}

size_t half_call_scratch(struct half_call *h, size_t kernel)
{
    return h->bytes + kernel;
}

/* Between `t`, in 16 bits with any strides, and `wide`, contiguous. */
static void convert(const struct ad_tensor *t, float *wide, bool widen)
{
    int64_t n = ad_count(t->shape), row = n;
    int last = t->shape.rank - 1;
    if (n == 0) return;
    if (!ad_contiguous(t)) row = t->stride[last] == 1 ? t->shape.dim[last] : 1;
    int64_t pieces = (row + PIECE - 1) / PIECE;
#pragma omp parallel for schedule(static) if (n > PAR_MIN)
    for (int64_t i = 0; i < n / row * pieces; i++) {
        int64_t at[AD_MAX_DIMS] = {0}, from = i % pieces * PIECE, count = row - from < PIECE ? row - from : PIECE,
                rest = i / pieces;
        for (int d = row == n ? -1 : row > 1 ? last - 1 : last; d >= 0; d--) {
            at[d] = rest % t->shape.dim[d];
            rest /= t->shape.dim[d];
        }
        uint16_t *half = (uint16_t *)t->data + ad_offset_of(t, at) + from;
        float *to = wide + i / pieces * row + from;
        if (widen)
            ad_widen(t->dtype, half, to, count);
        else
            ad_narrow(t->dtype, to, half, count);
    }
}

void half_call_run(struct half_call *h, const struct ad_kernel *k, const struct ad_call *c)
{
    for (int i = 0; i < h->n; i++) {
        const struct ad_tensor *t = tensor_of(c, i);
        h->tensor[i].data = h->converted[i] ? (char *)c->scratch + h->offset[i] : t->data;
        if (h->converted[i] && i < c->n_in) convert(t, h->tensor[i].data, true);
    }
    h->seen.scratch = (char *)c->scratch + h->bytes;
    h->seen.seed = c->seed;
    h->seen.step = c->step;
    h->seen.fault = c->fault;
    ad_kernel_run(k, &h->seen);
    for (int i = c->n_in; i < h->n; i++)
        if (h->converted[i]) convert(tensor_of(c, i), h->tensor[i].data, false);
}
