/* The gradient noise scale: the batch size, in samples, at which the noise of a batch's gradient is as large as the gradient
 * itself; much smaller batches waste steps, much larger ones samples (McCandlish et al. 2018, arXiv 1812.06162, eq. 2.8 and
 * app. A.1). It takes the gradient at two batch sizes: with micro-batches, the mean of |G|^2 over those of a step (each G
 * being the mean gradient of its b_small samples) and |G|^2 of the whole batch. With one batch alone it cannot be told: a
 * single norm does not say what of it is noise. Of a contrastive loss over the whole batch a micro-batch's part is not an
 * estimate of the whole gradient, since every sample's loss takes all others: there it is a rough figure. */
#ifndef TRIAD_OPTIM_NOISE_H
#define TRIAD_OPTIM_NOISE_H

#include <stdint.h>

/* Zero-initialise; the three numbers are the state that a checkpoint keeps. */
struct opt_noise {
    double gradient2, noise; /* moving averages of |G|^2 and of S = tr(Sigma), without correction for their start */
    int64_t count;           /* of steps that were fed */
};
enum { OPT_NOISE_STEPS = 100 }; /* the averages' decay is 1 - 1 / OPT_NOISE_STEPS */

/* One step: mean squared norms of gradients over b_small and over b_big > b_small samples. Both estimates (eq. A.2, A.3)
 * are unbiased but may be negative; numbers that are not finite are left out. */
void opt_noise_add(struct opt_noise *n, double small2, double b_small, double big2, double b_big);

/* S / |G|^2, in samples; NaN before the first step, and while noise hides the gradient (an average is not above 0). */
double opt_noise_scale(const struct opt_noise *n);

#endif
