/* One contiguous row of f32: its sum, its maximum, its exponentials. Single precision over short blocks, double over the
 * blocks in order. */
#ifndef TRIAD_AUTOGRAD_KERNELS_ROWS_H
#define TRIAD_AUTOGRAD_KERNELS_ROWS_H

#include "autograd/kernels/vfunc.h"

enum { ROW_BLOCK = 2048 }; /* numbers summed in single precision, in 4 VL lanes */

static inline double row_sum(const float *x, int64_t n)
{
    double sum = 0;
    for (; n > 0; x += ROW_BLOCK, n -= ROW_BLOCK) {
        int64_t m = (n < ROW_BLOCK ? n : ROW_BLOCK), i = 0;
        vf a = vf_set(0), b = a, c = a, d = a;
        for (; i + 4 * VL <= m; i += 4 * VL) {
            a += vf_load(x + i);
            b += vf_load(x + i + VL);
            c += vf_load(x + i + 2 * VL);
            d += vf_load(x + i + 3 * VL);
        }
        for (; i + VL <= m; i += VL) a += vf_load(x + i);
        if (i < m) b += vf_load_part(x + i, m - i, 0);
        sum += (double)vf_sum((a + b) + (c + d));
    }
    return sum;
}

/* The larger of two; a NaN wins. */
SIMD_FN vf row_larger(vf m, vf y)
{
    return vf_pick(vf_ne(m, m), m, vf_max(m, y));
}

/* sign 1: the maximum, -1: minus the minimum. A NaN wins where `nan`; else there is to be none. Both are constants. */
SIMD_FN float row_most(const float *x, int64_t n, float sign, bool nan)
{
    vf m[4];
    int64_t i = 0;
#define LARGER(a, b) (nan ? row_larger(a, b) : vf_max(a, b))
#pragma GCC unroll 4
    for (int u = 0; u < 4; u++) m[u] = vf_set(-INFINITY);
    for (; i + 4 * VL <= n; i += 4 * VL)
#pragma GCC unroll 4
        for (int u = 0; u < 4; u++) m[u] = LARGER(m[u], sign * vf_load(x + i + u * VL));
    for (; i + VL <= n; i += VL) m[0] = LARGER(m[0], sign * vf_load(x + i));
    if (i < n) m[0] = LARGER(m[0], sign * vf_load_part(x + i, n - i, -INFINITY * sign));
    vf all = LARGER(LARGER(m[0], m[1]), LARGER(m[2], m[3]));
#undef LARGER
    float top = all[0];
    for (int k = 1; k < VL; k++)
        if (all[k] > top || (nan && isnan(all[k]))) top = all[k];
    return top;
}
/* Of a row without a NaN: half the work. */
static inline float row_top(const float *x, int64_t n)
{
    return row_most(x, n, 1, false);
}

/* y = exp(x - m) into `y`, or only its sum where y is NULL; m is the maximum, or there is a NaN, which the sum becomes. The
 * memory waits while this computes: the row behind this one, whose maximum mostly is asked for next, is brought near. */
SIMD_FN double row_exp(const float *x, float *y, int64_t n, float m)
{
    enum { LINE = 64 / sizeof(float) };
    double sum = 0;
    for (int64_t from = 0; from < n; from += ROW_BLOCK) {
        vf part[2] = {vf_set(0), vf_set(0)};
        int64_t to = n < from + ROW_BLOCK ? n : from + ROW_BLOCK, i = from;
        for (; i + 4 * VL <= to; i += 4 * VL) {
            vf e[4];
#pragma GCC unroll 4
            for (int u = 0; u < 4; u++) {
                if (u * VL % LINE == 0) ask_l2(x + n + i + u * VL);
                e[u] = vf_load(x + i + u * VL) - m;
            }
            vf_exp_cut_each(4, e);
#pragma GCC unroll 4
            for (int u = 0; u < 4; u++) {
                if (y) vf_store(y + i + u * VL, e[u]);
                part[u % 2] += e[u];
            }
        }
        for (; i < to; i += VL) {
            int64_t k = to - i < VL ? to - i : VL;
            vf e = vf_exp_cut((k == VL ? vf_load(x + i) : vf_load_part(x + i, k, -INFINITY)) - m);
            if (y && k == VL) vf_store(y + i, e);
            if (y && k < VL) vf_store_part(y + i, e, k);
            part[0] += e;
        }
        sum += (double)vf_sum(part[0] + part[1]);
    }
    return sum;
}

#endif
