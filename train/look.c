/* See look.h. */
#include "train/look.h"

int train_look(const struct run_model *m, const struct manifest *data, const struct data_batch *const *b, int n,
               const char *dir, struct err *e)
{
    return 0;
}
