/* Stores that pass by the caches, for results larger than these: a plain store reads its line first. */
#ifndef TRIAD_AUTOGRAD_KERNELS_STREAM_H
#define TRIAD_AUTOGRAD_KERNELS_STREAM_H

#include <stdbool.h>

#include "autograd/op.h"
#include "base/simd.h"

/* Whether rows of c numbers at p, `count` in all, are to be written by vf_stream, which wants whole aligned lines. */
SIMD_FN int stream_pays(const float *p, int64_t c, int64_t count)
{
#ifdef __AVX2__
    return (uintptr_t)p % 64 == 0 && c % 16 == 0 && count >= ad_stream_from;
#else
    return 0;
#endif
}
/* Whether a call's first result, rows of c numbers, is to be: in place of an operand its lines are in the caches when they are
 * written. */
SIMD_FN bool result_streams(const struct ad_call *call, int64_t c)
{
    const struct ad_tensor *y = &call->out[0];
    for (int i = 0; i < call->n_in; i++)
        if (call->in[i].data == y->data) return false;
    return y->dtype == AD_F32 && stream_pays(y->data, c, ad_count(y->shape));
}
SIMD_FN void vf_stream(float *p, vf x)
{
#if defined(__AVX512F__)
    _mm512_stream_ps(p, x);
#elif defined(__AVX2__)
    _mm256_stream_ps(p, x);
#else
    vf_store(p, x);
#endif
}
/* Past the caches where `stream`. */
SIMD_FN void vf_store_or_stream(float *p, vf x, bool stream)
{
    if (stream)
        vf_stream(p, x);
    else
        vf_store(p, x);
}
/* After the last of a thread's vf_stream, before others read. */
SIMD_FN void stream_end(void)
{
#ifdef __AVX2__
    _mm_sfence();
#endif
}

#endif
