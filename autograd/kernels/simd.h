/* The vectors of base/simd.h, and what several kernels do with them. */
#ifndef TRIAD_AUTOGRAD_KERNELS_SIMD_H
#define TRIAD_AUTOGRAD_KERNELS_SIMD_H

#include "autograd/graph.h"
#include "base/simd.h"

/* n floats; better than memcpy where n is a few vectors. */
SIMD_FN void vf_copy(float *to, const float *from, int64_t n)
{
    int64_t i = 0;
    for (; i + 4 * VL <= n; i += 4 * VL) {
        vf a = vf_load(from + i), b = vf_load(from + i + VL), c = vf_load(from + i + 2 * VL),
           d = vf_load(from + i + 3 * VL);
        vf_store(to + i, a), vf_store(to + i + VL, b), vf_store(to + i + 2 * VL, c), vf_store(to + i + 3 * VL, d);
    }
    for (; i + VL <= n; i += VL) vf_store(to + i, vf_load(from + i));
    for (; i < n; i++) to[i] = from[i];
}

/* f(t, ...) for an always-inlined f with the type `t` as a constant in it: one loop for each type. Asked for in the loop,
 * it can cost more than what the loop does. */
#define BY_TYPE(t, f, ...)           \
    do {                             \
        if ((t) == AD_F32)           \
            f(AD_F32, __VA_ARGS__);  \
        else if ((t) == AD_BF16)     \
            f(AD_BF16, __VA_ARGS__); \
        else                         \
            f(AD_F16, __VA_ARGS__);  \
    } while (0)

/* Element i and what follows of f32, bf16 or f16 at p: a vector, or its first n < VL lanes. Where t is a constant nothing
 * is asked at run time (BY_TYPE). */
SIMD_FN vf vf_load_as(enum ad_dtype t, const void *p, int64_t i)
{
    vh h;
    if (t == AD_F32) return vf_load((const float *)p + i);
    memcpy(&h, (const uint16_t *)p + i, sizeof h);
    return t == AD_BF16 ? vf_from_bf16(h) : vf_from_f16(h);
}
SIMD_FN void vf_store_as(enum ad_dtype t, void *p, int64_t i, vf x)
{
    if (t == AD_F32) {
        vf_store((float *)p + i, x);
        return;
    }
    vh h = t == AD_BF16 ? vf_to_bf16(x) : vf_to_f16(x);
    memcpy((uint16_t *)p + i, &h, sizeof h);
}
SIMD_FN vf vf_load_part_as(enum ad_dtype t, const void *p, int64_t i, int64_t n)
{
    if (t == AD_F32) return vf_load_part((const float *)p + i, n, 0);
    uint16_t room[VL] = {0};
    for (int64_t k = 0; k < n; k++) room[k] = ((const uint16_t *)p)[i + k];
    return vf_load_as(t, room, 0);
}
SIMD_FN void vf_store_part_as(enum ad_dtype t, void *p, int64_t i, vf x, int64_t n)
{
    if (t == AD_F32) {
        vf_store_part((float *)p + i, x, n);
        return;
    }
    uint16_t room[VL];
    vf_store_as(t, room, 0, x);
    for (int64_t k = 0; k < n; k++) ((uint16_t *)p)[i + k] = room[k];
}
/* Of VL numbers, or less at the end of a row. */
SIMD_FN vf vf_get_as(enum ad_dtype t, const void *p, int64_t i, int64_t n)
{
    return n == VL ? vf_load_as(t, p, i) : vf_load_part_as(t, p, i, n);
}
SIMD_FN void vf_put_as(enum ad_dtype t, void *p, int64_t i, vf x, int64_t n)
{
    if (n == VL)
        vf_store_as(t, p, i, x);
    else
        vf_store_part_as(t, p, i, x, n);
}
SIMD_FN void vf_widen_as(enum ad_dtype t, const void *from, float *to, int64_t n)
{
    int64_t i = 0;
    for (; i + VL <= n; i += VL) vf_store(to + i, vf_load_as(t, from, i));
    if (i < n) vf_store_part(to + i, vf_load_part_as(t, from, i, n - i), n - i);
}
SIMD_FN void vf_narrow_as(enum ad_dtype t, const float *from, void *to, int64_t n)
{
    int64_t i = 0;
    for (; i + VL <= n; i += VL) vf_store_as(t, to, i, vf_load(from + i));
    if (i < n) vf_store_part_as(t, to, i, vf_load_part(from + i, n - i, 0), n - i);
}
/* n numbers of f32, bf16 or f16 to f32, and back. */
SIMD_FN void vf_widen(enum ad_dtype t, const void *from, float *to, int64_t n)
{
    BY_TYPE(t, vf_widen_as, from, to, n);
}
SIMD_FN void vf_narrow(enum ad_dtype t, const float *from, void *to, int64_t n)
{
    BY_TYPE(t, vf_narrow_as, from, to, n);
}
SIMD_FN float float_as(enum ad_dtype t, const void *p, int64_t i)
{
    if (t == AD_F32) return ((const float *)p)[i];
    return t == AD_BF16 ? bf16_to_float(((const uint16_t *)p)[i]) : half_to_float(((const uint16_t *)p)[i]);
}
/* Bytes of an element of a type of four or two, and p + i of them. */
SIMD_FN int64_t size_as(enum ad_dtype t)
{
    return ad_is_half(t) ? 2 : 4;
}
SIMD_FN void *at_as(enum ad_dtype t, const void *p, int64_t i)
{
    return (char *)(uintptr_t)p + i * size_as(t);
}

/* Numbers rounded up so that what lies behind them begins with a line, whether they are of four bytes or of two. */
SIMD_FN int64_t whole_lines(int64_t numbers)
{
    return (numbers + 31) / 32 * 32;
}

#endif
