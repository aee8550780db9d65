/* Audio tower on packed log-mel frames: convolutions that shorten, then the trunk (Radford et al. 2022, fig. 1). */
#include <stdio.h>

#include "models/trunk.h"

struct nn_seq model_audio_entry(struct nn *m, const struct model_audio *t, struct model_shape s)
{
    const struct model_trunk *c = &t->trunk;
    struct nn_seq x = {.rows = s.rows, .items = s.items, .longest = t->length};
    x.x = model_input(m, "frames", AD_F32, SHAPE(s.rows, t->bins));
    x.offsets = model_input(m, "offsets", AD_I32, SHAPE(s.items + 1));
    for (int i = 0; i < t->n_stem; i++) {
        char name[24];
        snprintf(name, sizeof name, "stem.%d", i);
        x = nn_conv1d_packed(
            m, name, &x,
            (struct nn_conv){
                .out = c->width, .kernel = (int)t->kernel[i], .stride = (int)t->stride[i], .pad = -1, .bias = true});
        x.x = nn_activate(m, (enum nn_activation)c->activation, x.x); /* (T / stride, D) */
    }
    if (!t->n_stem) x.x = nn_edge(m, "stem", x.x, c->width, true);
    return model_add_position(m, c, x);
}
