/* Lanes of a vector are frames, so that the code of one frame is the code of all. The samples of a few frames are turned
 * on their side while they are windowed, and laid where an in-place FFT wants them: real samples 2i and 2i + 1 are one
 * complex value, half the length (Cooley and Tukey 1965 in time; mixed radix). Powers, triangles and logarithms follow
 * while the frames are in the first-level cache; the results are turned back. */
#include <math.h>

#include "base/simd.h"
#include "data/kernels.h"
#include "data/kernels/transpose.h"

/* Windowed samples of VL frames, each where the first pass reads it; zeros beside the window. */
static void take(const struct logmel_tables *t, const float *const *row, vf *restrict z)
{
    const int32_t *place = t->place + t->pad;
    int64_t i = 0;
    for (; i + VL <= t->window; i += VL) {
        vf a[VL];
#pragma GCC unroll 16
        for (int l = 0; l < VL; l++) a[l] = vf_load(row[l] + i);
        vf_transpose(a);
#pragma GCC unroll 16
        for (int l = 0; l < VL; l++) z[place[i + l]] = a[l] * t->hann[i + l];
    }
    for (; i < t->window; i++) {
        vf a = {0};
        for (int l = 0; l < VL; l++) a[l] = row[l][i];
        z[place[i]] = a * t->hann[i];
    }
    for (i = 0; i < t->pad; i++) z[t->place[i]] = (vf){0};
    for (i = t->pad + t->window; i < t->fft; i++) z[t->place[i]] = (vf){0};
}

struct c { /* a complex number in each lane */
    vf re, im;
};

SIMD_FN struct c add(struct c a, struct c b)
{
    return (struct c){a.re + b.re, a.im + b.im};
}
SIMD_FN struct c sub(struct c a, struct c b)
{
    return (struct c){a.re - b.re, a.im - b.im};
}
SIMD_FN struct c times(struct c a, float x)
{
    return (struct c){a.re * x, a.im * x};
}
SIMD_FN struct c add_i(struct c a, struct c b) /* a + i b */
{
    return (struct c){a.re - b.im, a.im + b.re};
}
SIMD_FN struct c sub_i(struct c a, struct c b) /* a - i b */
{
    return (struct c){a.re + b.im, a.im - b.re};
}
SIMD_FN struct c back(struct c a, const float *turn) /* a (cos - i sin) */
{
    return (struct c){a.re * turn[0] + a.im * turn[1], a.im * turn[0] - a.re * turn[1]};
}

/* Value q of a butterfly, turned; `turn` NULL: by nothing. */
SIMD_FN struct c get(const vf *z, int64_t step, int64_t q, const float *turn)
{
    struct c a = {z[q * step], z[q * step + 1]};
    return turn && q ? back(a, turn + 2 * (q - 1)) : a;
}
SIMD_FN void put(vf *z, int64_t step, int64_t q, struct c a)
{
    z[q * step] = a.re;
    z[q * step + 1] = a.im;
}

SIMD_FN void fly2(vf *z, int64_t step, const float *turn)
{
    struct c a = get(z, step, 0, turn), b = get(z, step, 1, turn);
    put(z, step, 0, add(a, b));
    put(z, step, 1, sub(a, b));
}

SIMD_FN void fly3(vf *z, int64_t step, const float *turn)
{
    struct c a = get(z, step, 0, turn), b = get(z, step, 1, turn), c = get(z, step, 2, turn), s = add(b, c);
    struct c mid = sub(a, times(s, 0.5f)), off = times(sub(b, c), 0.866025404f); /* sin 60 */
    put(z, step, 0, add(a, s));
    put(z, step, 1, sub_i(mid, off));
    put(z, step, 2, add_i(mid, off));
}

SIMD_FN void fly4(vf *z, int64_t step, const float *turn)
{
    struct c a = get(z, step, 0, turn), b = get(z, step, 1, turn), c = get(z, step, 2, turn), d = get(z, step, 3, turn);
    struct c s = add(a, c), t = sub(a, c), u = add(b, d), w = sub(b, d);
    put(z, step, 0, add(s, u));
    put(z, step, 1, sub_i(t, w));
    put(z, step, 2, sub(s, u));
    put(z, step, 3, add_i(t, w));
}

SIMD_FN void fly5(vf *z, int64_t step, const float *turn)
{
    const float c1 = 0.309016994f, c2 = -0.809016994f, s1 = 0.951056516f, s2 = 0.587785252f; /* of 72 and 144 degrees */
    struct c a = get(z, step, 0, turn), b = get(z, step, 1, turn), c = get(z, step, 2, turn), d = get(z, step, 3, turn),
             e = get(z, step, 4, turn);
    struct c s = add(b, e), t = add(c, d), u = sub(b, e), w = sub(c, d);
    struct c m = add(add(a, times(s, c1)), times(t, c2)), n = add(add(a, times(s, c2)), times(t, c1));
    struct c x = add(times(u, s1), times(w, s2)), y = sub(times(u, s2), times(w, s1));
    put(z, step, 0, add(a, add(s, t)));
    put(z, step, 1, sub_i(m, x));
    put(z, step, 2, sub_i(n, y));
    put(z, step, 3, add_i(n, y));
    put(z, step, 4, add_i(m, x));
}

/* Any radix by its definition; `old` has room for its values. */
static void fly_any(const struct logmel_pass *p, vf *z, int64_t step, const float *turn, vf *old)
{
    for (int64_t q = 0; q < p->radix; q++) put(old, 2, q, get(z, step, q, turn));
    for (int64_t k = 0; k < p->radix; k++) {
        struct c sum = get(old, 2, 0, NULL);
        for (int64_t q = 1, at = k; q < p->radix; q++) {
            sum = add(sum, back(get(old, 2, q, NULL), p->root + 2 * at));
            at += k;
            at -= at >= p->radix ? p->radix : 0;
        }
        put(z, step, k, sum);
    }
}

#define PASS(fly, radix)                                                            \
    do {                                                                            \
        for (int64_t b = 0; b < n; b += all) fly(z + 2 * b, 2 * p->span, NULL);     \
        for (int64_t j = 1; j < p->span; j++) {                                     \
            const float *turn = p->turn + 2 * ((radix)-1) * (j - 1);                \
            for (int64_t b = j; b < n; b += all) fly(z + 2 * b, 2 * p->span, turn); \
        }                                                                           \
    } while (0)

static void transform(const struct logmel_tables *t, vf *restrict z, vf *old)
{
    int64_t n = t->fft / 2;
    for (const struct logmel_pass *p = t->pass; p < t->pass + t->n_pass; p++) {
        int64_t all = p->span * p->radix;
        switch (p->root ? 0 : p->radix) {
        case 2: PASS(fly2, 2); break;
        case 3: PASS(fly3, 3); break;
        case 4: PASS(fly4, 4); break;
        case 5: PASS(fly5, 5); break;
        default:
#define ANY(at, step, turn) fly_any(p, at, step, turn, old)
            PASS(ANY, p->radix);
#undef ANY
        }
    }
}

/* The halved complex spectrum of (even, odd) samples to the powers of the real one (Sorensen et al. 1987, eq. 4): power k
 * takes the place of the real part of value k, 0..fft/2. */
static void powers(const struct logmel_tables *t, vf *z)
{
    int64_t n = t->fft / 2;
    vf low = z[0] + z[1], high = z[0] - z[1];
    z[0] = 4.0f * low * low;
    z[2 * n] = 4.0f * high * high;
    for (int64_t k = 1; 2 * k <= n; k++) {
        vf *p = z + 2 * k, *q = z + 2 * (n - k);
        struct c even = {p[0] + q[0], p[1] - q[1]}, odd = {p[1] + q[1], q[0] - p[0]};
        odd = back(odd, t->turn + 2 * k);
        struct c x = add(even, odd), y = sub(even, odd);
        *p = x.re * x.re + x.im * x.im;
        *q = y.re * y.re + y.im * y.im;
    }
}

static void triangles(const struct logmel_tables *t, const vf *z, int n, float *out)
{
    const float *w = t->weight;
    for (int64_t b = 0; b < t->bins; b += VL) {
        int64_t more = t->bins - b < VL ? t->bins - b : VL;
        vf a[VL];
        for (int64_t i = 0; i < more; i++) {
            const vf *p = z + 2 * (int64_t)t->first[b + i];
            vf sum = {0};
            for (int64_t k = 0; k < t->count[b + i]; k++) sum += p[2 * k] * *w++;
            a[i] = sum;
        }
        for (int64_t i = more; i < VL; i++) a[i] = (vf){0};
#pragma GCC unroll 4
        for (int i = 0; i < VL; i++)
            a[i] = t->whisper ? vf_log(vf_max(vf_set(1e-10f), a[i])) * 0.434294482f : vf_log(a[i] + 1e-6f);
        vf_transpose(a);
        for (int l = 0; l < n; l++) {
            float *to = out + l * t->bins + b;
            if (more == VL)
                memcpy(to, &a[l], sizeof a[l]);
            else
                memcpy(to, &a[l], (size_t)more * sizeof *to);
        }
    }
}

void ISA_FN(logmel_block)(const struct logmel_tables *t, const float *const *row, int n, void *scratch, float *out)
{
    vf *z = scratch;
    for (int at = 0; at < n; at += VL) {
        const float *lane[VL];
        int left = n - at < VL ? n - at : VL;
        for (int l = 0; l < VL; l++) lane[l] = row[at + (l < left ? l : 0)];
        take(t, lane, z);
        transform(t, z, z + t->fft + 2);
        powers(t, z);
        triangles(t, z, left, out + at * t->bins);
    }
}

typedef double half __attribute__((vector_size(4 * VL)));      /* as many bits, half as many numbers */
typedef float half_float __attribute__((vector_size(2 * VL))); /* the same in float */

double ISA_FN(logmel_sum)(const float *y, int64_t n, double mean, int power)
{
    half s[4] = {0}; /* as many as are under way at once */
    double rest = 0;
    int64_t i = 0;
    for (; i + 2 * VL <= n; i += 2 * VL)
        for (int k = 0; k < 4; k++) {
            half_float x;
            memcpy(&x, y + i + k * (VL / 2), sizeof x);
            half d = __builtin_convertvector(x, half) - mean;
            s[k] += power == 2 ? d * d : d;
        }
    for (; i < n; i++) rest += power == 2 ? (y[i] - mean) * (y[i] - mean) : y[i] - mean;
    s[0] = (s[0] + s[1]) + (s[2] + s[3]);
    for (int k = 0; k < VL / 2; k++) rest += s[0][k];
    return rest;
}

void ISA_FN(logmel_scale)(float *y, int64_t n, double mean, double scale)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] = (float)((y[i] - mean) * scale);
}

void ISA_FN(logmel_whisper)(float *y, int64_t n)
{
    float top = -INFINITY;
#pragma omp simd reduction(max : top)
    for (int64_t i = 0; i < n; i++) top = y[i] > top ? y[i] : top;
    float low = top - 8;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] = ((y[i] < low ? low : y[i]) + 4) / 4;
}
