/* Lines of memory turned into columns, eight by eight in registers. */
#ifndef TRIAD_AUTOGRAD_KERNELS_TRANSPOSE_H
#define TRIAD_AUTOGRAD_KERNELS_TRANSPOSE_H

#include "autograd/kernels/simd.h"

typedef float transpose_row __attribute__((vector_size(32)));

/* Eight rows in registers, as eight columns `step` apart. */
SIMD_FN void transpose_registers(transpose_row r[8], float *to, int64_t step)
{
    transpose_row s[8];
#pragma GCC unroll 4
    for (int j = 0; j < 8; j += 2) {
        s[j] = __builtin_shufflevector(r[j], r[j + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        s[j + 1] = __builtin_shufflevector(r[j], r[j + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
#pragma GCC unroll 2
    for (int j = 0; j < 8; j += 4)
#pragma GCC unroll 2
        for (int x = 0; x < 2; x++) {
            r[j + 2 * x] = __builtin_shufflevector(s[j + x], s[j + x + 2], 0, 1, 8, 9, 4, 5, 12, 13);
            r[j + 2 * x + 1] = __builtin_shufflevector(s[j + x], s[j + x + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        transpose_row low = __builtin_shufflevector(r[j], r[j + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        transpose_row high = __builtin_shufflevector(r[j], r[j + 4], 4, 5, 6, 7, 12, 13, 14, 15);
        memcpy(to + j * step, &low, sizeof low);
        memcpy(to + (j + 4) * step, &high, sizeof high);
    }
}

/* Eight lines of eight numbers, `ld` apart. */
SIMD_FN void transpose_8x8(const float *from, int64_t ld, float *to, int64_t step)
{
    transpose_row r[8];
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) memcpy(&r[j], from + j * ld, sizeof r[j]);
    transpose_registers(r, to, step);
}

/* to[k * step + j] = from[j * ld + k] for n lines j. */
static inline void transpose_lines(const float *from, int64_t ld, int64_t n, int64_t kc, float *to, int64_t step)
{
    int64_t j = 0;
    for (; j + 8 <= n; j += 8) {
        int64_t k = 0;
        for (; k + 8 <= kc; k += 8) transpose_8x8(from + j * ld + k, ld, to + k * step + j, step);
        for (; k < kc; k++)
            for (int x = 0; x < 8; x++) to[k * step + j + x] = from[(j + x) * ld + k];
    }
    for (; j < n; j++)
        for (int64_t k = 0; k < kc; k++) to[k * step + j] = from[j * ld + k];
}

#endif
