/* SigLIP of a tile (contrast_tiles.h), forward and backward. */
#pragma GCC optimize("O3")
#include <string.h>

#include "autograd/kernels/contrast_tiles.h"

void siglip_rows(const struct contrast_job *j, const struct contrast_part *p)
{
    struct span r = p->rows;
    struct columns k;
    struct products products = contrast_products(j, p, &k);
    for (int64_t i = 0; i < r.n; i++) {
        const float *u = products.u + i * products.ld;
        vf sum = vf_set(0);
        if (r.s->has[r.at + i] == 0) continue;
        for (int64_t x = 0; x < k.padded; x += VL) {
            vi keep = vi_load(k.keep + x), same = vi_load(k.id + x) == r.s->id[r.at + i];
            vf t = keep_lanes(keep, vf_load(u + x)) * j->scale + j->bias;
            sum += keep_lanes(keep, vf_softplus(pick_lanes(same, -t, t)));
        }
        *strip_sum(j, 0, r.at + i) += (double)vf_sum(sum);
    }
}

void siglip_grad_rows(const struct contrast_job *j, const struct contrast_part *p)
{
    struct span r = p->rows;
    struct columns k;
    struct products products = contrast_products(j, p, &k);
    for (int64_t i = 0; i < r.n; i++) {
        const float *u = products.u + i * products.ld;
        float *row = p->s + i * p->ld;
        vf with_u = vf_set(0), alone = with_u;
        if (r.s->has[r.at + i] == 0) {
            memset(row, 0, (size_t)k.padded * sizeof *row);
            continue;
        }
        for (int64_t x = 0; x < k.padded; x += VL) {
            vi keep = vi_load(k.keep + x), same = vi_load(k.id + x) == r.s->id[r.at + i];
            vf y = keep_lanes(keep, vf_load(u + x)), t = y * j->scale + j->bias;
            vf h = pick_lanes(same, vf_set(-j->dloss), vf_set(j->dloss)) / (1.0f + vf_exp_cut(pick_lanes(same, t, -t)));
            h = keep_lanes(keep, h);
            with_u += h * y;
            alone += h;
            vf_store(row + x, h * j->scale);
        }
        *strip_sum(j, 0, r.at + i) += (double)vf_sum(with_u);
        *strip_sum(j, 1, r.at + i) += (double)vf_sum(alone);
    }
    contrast_add_rows(j, p);
}
