/* The tables of the 8-bit maps. See quant.h. */
#include "optim/quant.h"

#include <math.h>
#include <string.h>

enum { DECADES = 7 };

static double value(int decade, double place)
{
    return pow(10, decade + 1 - DECADES) * (0.1 + 0.9 * place);
}

/* Where decode finds decade i: the last three bits of the exponent that 2^i, or 2^(i+1), has as a float. */
static int exponent(int i, bool positive)
{
    return (i + (positive ? 128 : 127)) & 7;
}

static void make_map(struct opt_map *m, bool positive)
{
    *m = (struct opt_map){.positive = positive, .zero = positive ? 0 : 127};
    for (int i = 0; i < DECADES; i++) {
        double cells = 1 << (positive ? i + 1 : i), first = positive ? cells - 1 : cells, half = 0.5 / cells;
        int at = exponent(i, positive);
        m->gain[i] = (float)(cells / (0.9 * value(i, 1)));
        m->offset[i] = (float)(first - cells / 9);
        m->last[i] = (float)(first + cells - 0.5);
        m->power[at] = (float)value(i, 1);
        m->middle[at] = (float)(0.1 + 0.9 * half);
        /* half way from the decade's last code to the next one's first */
        double next = i + 1 < DECADES ? value(i + 1, half / 2) : 1;
        m->next[i] = (float)((value(i, 1 - half) + next) / 2);
    }
    m->least = (float)(value(0, positive ? 0.25 : 0.5) / 2);
    m->next[DECADES] = INFINITY;
    m->offset[DECADES] = m->last[DECADES] = positive ? 255 : 128;
    m->power[exponent(DECADES, positive)] = m->middle[exponent(DECADES, positive)] = 1;
    float *table[] = {m->next, m->gain, m->offset, m->last, m->power, m->middle};
    for (int i = 0; i < 6; i++) memcpy(table[i] + 8, table[i], 8 * sizeof(float));
}

const struct opt_map *opt_map(bool positive)
{
    static struct opt_map map[2];
    if (!map[1].positive)
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
