/* The gradient noise scale. See noise.h. */
#include "optim/noise.h"

#include <math.h>

#include "base/err.h"

void opt_noise_add(struct opt_noise *n, double small2, double b_small, double big2, double b_big)
{
    CHECK(b_small > 0 && b_small < b_big);
    if (!isfinite(small2) || !isfinite(big2)) return;
    double gradient2 = (b_big * big2 - b_small * small2) / (b_big - b_small),
           noise = (small2 - big2) / (1 / b_small - 1 / b_big), share = 1.0 / OPT_NOISE_STEPS;
    n->gradient2 += share * (gradient2 - n->gradient2);
    n->noise += share * (noise - n->noise);
    n->count++;
}

double opt_noise_scale(const struct opt_noise *n)
{
    return n->count > 0 && n->gradient2 > 0 && n->noise > 0 ? n->noise / n->gradient2 : NAN;
}
