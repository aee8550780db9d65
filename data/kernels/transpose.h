/* Square blocks turned on their side in registers: rows of VL floats, and rows of 16 bytes.
 *
 * For each bit s of an index, the elements whose row lacks s and whose column has it change places with those whose row
 * has it and whose column lacks it. */
#ifndef TRIAD_DATA_KERNELS_TRANSPOSE_H
#define TRIAD_DATA_KERNELS_TRANSPOSE_H

#include "base/simd.h"

/* Column j of the row without s, and of the row with it; from N on an index means the second row. */
#define TRANSPOSE_LOW(j, s, n) (((j) & (s)) ? (n) + (j) - (s) : (j))
#define TRANSPOSE_HIGH(j, s, n) (((j) & (s)) ? (n) + (j) : (j) + (s))
#define TRANSPOSE_4(f, s, n) f(0, s, n), f(1, s, n), f(2, s, n), f(3, s, n)
#define TRANSPOSE_8(f, s, n) TRANSPOSE_4(f, s, n), f(4, s, n), f(5, s, n), f(6, s, n), f(7, s, n)
#define TRANSPOSE_16(f, s, n)                                                                                      \
    TRANSPOSE_8(f, s, n), f(8, s, n), f(9, s, n), f(10, s, n), f(11, s, n), f(12, s, n), f(13, s, n), f(14, s, n), \
        f(15, s, n)
#if VL == 16
#define TRANSPOSE_VL TRANSPOSE_16
#elif VL == 8
#define TRANSPOSE_VL TRANSPOSE_8
#else
#define TRANSPOSE_VL TRANSPOSE_4
#endif

#define TRANSPOSE_STEP(type, list, n, s)                                                    \
    _Pragma("GCC unroll 16") for (int i = 0; i < (n); i++)                                  \
    {                                                                                       \
        if (i & (s)) continue;                                                              \
        type low = __builtin_shufflevector(a[i], a[i + (s)], list(TRANSPOSE_LOW, s, n));    \
        a[i + (s)] = __builtin_shufflevector(a[i], a[i + (s)], list(TRANSPOSE_HIGH, s, n)); \
        a[i] = low;                                                                         \
    }

SIMD_FN void vf_transpose(vf *a) /* (VL) */
{
#if VL > 8
    TRANSPOSE_STEP(vf, TRANSPOSE_VL, VL, 8)
#endif
#if VL > 4
    TRANSPOSE_STEP(vf, TRANSPOSE_VL, VL, 4)
#endif
    TRANSPOSE_STEP(vf, TRANSPOSE_VL, VL, 2)
    TRANSPOSE_STEP(vf, TRANSPOSE_VL, VL, 1)
}

typedef uint8_t bytes16 __attribute__((vector_size(16)));

/* Interleaving row i with row i + 8 four times over does the same with one instruction a row. */
#define TRANSPOSE_FIRST(j, s, n) ((j) / 2 + ((j)&1) * (n))
#define TRANSPOSE_LAST(j, s, n) ((j) / 2 + 8 + ((j)&1) * (n))
SIMD_FN void bytes16_transpose(bytes16 *a) /* (16) */
{
#pragma GCC unroll 4
    for (int step = 0; step < 4; step++) {
        bytes16 b[16];
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            b[2 * i] = __builtin_shufflevector(a[i], a[i + 8], TRANSPOSE_16(TRANSPOSE_FIRST, 0, 16));
            b[2 * i + 1] = __builtin_shufflevector(a[i], a[i + 8], TRANSPOSE_16(TRANSPOSE_LAST, 0, 16));
        }
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) a[i] = b[i];
    }
}

#endif
