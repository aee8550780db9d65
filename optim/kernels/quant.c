/* Numbers to one-byte codes and back, a block at a time. See optim/quant.h. */
#include "optim/quant.h"

#include "base/simd.h"

typedef uint8_t codes __attribute__((vector_size(VL)));

SIMD_FN vf look(const float *table, vi at)
{
#if defined(__AVX512F__)
    return _mm512_i32gather_ps((__m512i)at, table, 4);
#elif defined(__AVX2__)
    return _mm256_i32gather_ps(table, (__m256i)at, 4);
#else
    vf x;
    for (int i = 0; i < VL; i++) x[i] = table[at[i]];
    return x;
#endif
}

SIMD_FN vi look_byte(const uint8_t *table, vi at)
{
#if defined(__AVX512F__)
    return (vi)_mm512_i32gather_epi32((__m512i)at, table, 1) & 255;
#elif defined(__AVX2__)
    return (vi)_mm256_i32gather_epi32((const int *)(const void *)table, (__m256i)at, 1) & 255;
#else
    vi x;
    for (int i = 0; i < VL; i++) x[i] = table[at[i]];
    return x;
#endif
}

SIMD_FN vi choose(vi mask, vi a, vi b)
{
    return (mask & a) | (~mask & b);
}
SIMD_FN vi larger(vi a, vi b)
{
    return choose(a > b, a, b);
}

/* Magnitudes compare as integers do, and a NaN is more than infinity: it stays the largest. */
static float largest(const float *x, int64_t n)
{
    vi top = {0};
    int64_t i = 0;
    for (; i + VL <= n; i += VL) top = larger(top, (vi)vf_abs(vf_load(x + i)));
    if (i < n) top = larger(top, (vi)vf_abs(vf_load_part(x + i, n - i, 0)));
    for (int k = 1; k < VL; k++) top[0] = top[k] > top[0] ? top[k] : top[0];
    return ((vf)top)[0];
}

SIMD_FN codes encode(const struct opt_map *m, vf x, vf scale)
{
    vf share = vf_min(vf_abs(x) / scale, vf_set(1)); /* 1 for a NaN: inside the tables */
    vi at = larger(((vi)share >> 16) - (OPT_MAP_LOW - 1), (vi){0});
    vi k = look_byte(m->first, at);
    k -= (vi)(share > look(m->middle, k));
    vi code = m->positive ? larger(k, -(vi)(x > vf_set(0)))
                          : choose(x < vf_set(0), larger(m->zero - k, (vi){0}), m->zero + k);
    return __builtin_convertvector(code, codes);
}

void ISA_FN(opt_encode)(const struct opt_map *map, const float *x, int64_t n, uint8_t *code, float *absmax)
{
    const float top = largest(x, n);
    *absmax = top;
    if (top == 0) {
        memset(code, map->zero, (size_t)n);
        return;
    }
    int64_t i = 0;
    for (; i + VL <= n; i += VL) {
        codes c = encode(map, vf_load(x + i), vf_set(top));
        memcpy(code + i, &c, VL);
    }
    if (i == n) return;
    codes c = encode(map, vf_load_part(x + i, n - i, 0), vf_set(top));
    memcpy(code + i, &c, (size_t)(n - i));
}

SIMD_FN vf decode(const struct opt_map *m, codes c, float scale)
{
    return look(m->value, __builtin_convertvector(c, vi)) * scale;
}

void ISA_FN(opt_decode)(const struct opt_map *map, const uint8_t *code, int64_t n, float absmax, float *x)
{
    codes c = {0};
    int64_t i = 0;
    for (; i + VL <= n; i += VL) {
        memcpy(&c, code + i, VL);
        vf_store(x + i, decode(map, c, absmax));
    }
    if (i == n) return;
    memcpy(&c, code + i, (size_t)(n - i));
    vf_store_part(x + i, decode(map, c, absmax), n - i);
}
