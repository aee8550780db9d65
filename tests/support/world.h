/* A folder with items made up here, and loaders over it: every item has a picture and captions, every third has no sound,
 * item 4 no captions, items 5 and 9 are one group; of the three sounds one is of split "train" and one of "voices". What goes
 * wrong fails the test. */
#ifndef TRIAD_TESTS_WORLD_H
#define TRIAD_TESTS_WORLD_H

#include "data/loader.h"

enum { WORLD_ITEMS = 23, WORLD_SIDE = 8, WORLD_BINS = 16 };

struct world {
    char dir[64];
    struct manifest m;
    struct tokenizer *tok;
    int64_t *items, n; /* of split "train" */
};
void world_make(struct world *w);
void world_free(struct world *w); /* the folder too */
/* A file of the folder, new or over the old one. */
void world_save(const struct world *w, const char *name, const void *data, size_t len);

/* A loader's settings over all three modalities, with what augmentation costs little; `waves`: changes of the sound's samples
 * and random crops too. They point to w and into themselves. */
struct world_setup {
    struct data_modality m[3];
    struct data_loader_config c;
};
void world_setup(struct world_setup *s, const struct world *w, bool waves);
struct data_logmel_config world_logmel(void);
struct data_loader *world_loader(const struct world_setup *s);

/* Everything that the next `batches` batches say, in bytes, behind what is in b. */
void world_take(struct data_loader *l, int batches, struct buf *b);

#endif
