/* Stores that pass by the caches, for results larger than these: a plain store reads its line first. */
#ifndef TRIAD_AUTOGRAD_KERNELS_STREAM_H
#define TRIAD_AUTOGRAD_KERNELS_STREAM_H

#include <stdbool.h>

#include "base/simd.h"

/* Whether rows of c numbers at p, `count` in all, are to be written by vf_stream, which wants whole aligned lines. */
SIMD_FN int stream_pays(const float *p, int64_t c, int64_t count)
{
#ifdef __AVX2__
    return (uintptr_t)p % 64 == 0 && c % 16 == 0 && count >= 1 << 22; /* 16 MB: what a last-level cache may hold */
#else
    return 0;
#endif
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
