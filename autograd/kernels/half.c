/* Numbers between f32 and the types that plans keep values in, a vector at a time. */
#include "autograd/kernels/simd.h"
#include "base/isa.h"

ISA_DECLARE(void, ad_widen, (enum ad_dtype t, const void *from, float *to, int64_t n));
ISA_DECLARE(void, ad_narrow, (enum ad_dtype t, const float *from, void *to, int64_t n));

void ISA_FN(ad_widen)(enum ad_dtype t, const void *from, float *to, int64_t n)
{
    vf_widen(t, from, to, n);
}

void ISA_FN(ad_narrow)(enum ad_dtype t, const float *from, void *to, int64_t n)
{
    vf_narrow(t, from, to, n);
}
