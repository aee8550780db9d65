/* The tables of the 8-bit maps. See quant.h. */
#include "optim/quant.h"

#include <math.h>

#include "base/err.h"
#include "base/half.h"

enum { DECADES = 7 };

/* Magnitudes 0 < ... < 1 into to[1] .., 0 into to[0]; returns the index of the largest. */
static int magnitudes(bool positive, double to[256])
{
    int k = 0;
    to[k++] = 0;
    for (int i = 0; i < DECADES; i++) {
        int cells = 1 << (positive ? i + 1 : i);
        for (int j = 0; j < cells; j++) to[k++] = pow(10, i + 1 - DECADES) * (0.1 + 0.9 * (j + 0.5) / cells);
    }
    to[k] = 1;
    return k;
}

static void make_map(struct opt_map *m, bool positive)
{
    double size[256];
    int top = magnitudes(positive, size);
    m->positive = positive;
    m->zero = positive ? 0 : top - 1; /* -1 has no code */
    for (int k = 0; k <= top; k++) m->value[m->zero + k] = (float)size[k];
    for (int k = 1; k <= m->zero; k++) m->value[m->zero - k] = (float)-size[k];
    for (int k = 0; k < 256; k++) m->middle[k] = k < top ? (float)((size[k] + size[k + 1]) / 2) : INFINITY;
    for (int i = 0, k = 0; i < OPT_MAP_FIRST; i++) {
        uint32_t from = (uint32_t)(OPT_MAP_LOW - 1 + i) << 16;
        while (i > 0 && m->middle[k] < float_from_bits(from)) k++;
        m->first[i] = (uint8_t)k;
        CHECK(k >= top || m->middle[k + 1] >= float_from_bits(from + 0x10000)); /* or one comparison is not enough */
    }
}

const struct opt_map *opt_map(bool positive)
{
    static struct opt_map map[2];
    if (!map[1].value[255])
        for (int i = 0; i < 2; i++) make_map(&map[i], i);
    return &map[positive];
}

void opt_encode(const struct opt_map *map, const float *x, int64_t n, uint8_t *code, float *absmax)
{
    ISA_PICK(opt_encode)(map, x, n, code, absmax);
}

void opt_decode(const struct opt_map *map, const uint8_t *code, int64_t n, float absmax, float *x)
{
    ISA_PICK(opt_decode)(map, code, n, absmax, x);
}
