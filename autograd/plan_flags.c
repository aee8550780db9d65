/* The words for what passes do. */
#include "autograd/plan.h"

#include <string.h>

#include "base/err.h"

int ad_pass_flags_parse(const char *text, unsigned *flags, struct err *e)
{
    static const struct {
        const char *name;
        unsigned flag;
    } words[] = {
        {"nosimplify", AD_NO_SIMPLIFY},   {"nofuse", AD_NO_FUSE},         {"noplan", AD_NO_REUSE},
        {"nokernels", AD_NO_KERNELS},     {"nan", AD_CHECK_FINITE},       {"reference", AD_REFERENCE},
        {"norecompute", AD_NO_RECOMPUTE}, {"noautocast", AD_NO_AUTOCAST}, {"nopanels", AD_NO_PANELS},
        {"nomerge", AD_NO_MERGE},
    };
    *flags = 0;
    for (const char *p = text; *p;) {
        size_t n = strcspn(p, ","), i = 0, count = sizeof words / sizeof *words;
        while (i < count && (strlen(words[i].name) != n || strncmp(words[i].name, p, n))) i++;
        if (i == count)
            return err_set(e, ERR_USAGE,
                           "unknown debug word '%.*s'; there are nosimplify, nofuse, noplan, nokernels, norecompute, "
                           "nopanels, nomerge, noautocast, nan, reference",
                           (int)n, p);
        *flags |= words[i].flag;
        p += n + (p[n] == ',');
    }
    return 0;
}

const char *const ad_precision_names[] = {"f32", "bf16", "f16", NULL};

unsigned ad_precision_flags(enum ad_precision p)
{
    return p == AD_PRECISION_BF16 ? AD_BF16_VALUES : p == AD_PRECISION_F16 ? AD_F16_VALUES : 0;
}
