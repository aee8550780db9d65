/* Batches of training and evaluation samples, made ahead by threads of their own.
 *
 * The order and every random choice are functions of (seed, epoch, item) alone: results do not depend on the number of
 * threads, on the cache, or on where a run was resumed. What a batch holds is packed: only the items that are there,
 * text and sound one after another without padding between them. */
#ifndef TRIAD_DATA_LOADER_H
#define TRIAD_DATA_LOADER_H

#include "data/augment.h"
#include "data/cache.h"
#include "data/image.h"
#include "data/logmel.h"
#include "data/manifest.h"
#include "data/tokenizer.h"

enum data_kind { DATA_IMAGE, DATA_TEXT, DATA_AUDIO };

/* What a batch has as much of as fits. */
enum data_batch_by { DATA_BY_ITEMS, DATA_BY_TOKENS, DATA_BY_SECONDS };
extern const char *const data_batch_by_names[]; /* in the enum's order, NULL at the end */

/* One modality. Zeroed members have the defaults written here. */
struct data_modality {
    const char *name;  /* the user's name for it; its random choices are keyed by this */
    const char *field; /* the manifest's field; NULL: the name */
    enum data_kind kind;
    int64_t pick; /* evaluation: which of the usable entries, the last where there are fewer */

    int64_t h, w; /* image: pixels */
    enum data_fit fit;
    enum data_filter filter;
    float mean[3], std[3]; /* of pixels in 0..1; std 0 stands for 1 */
    struct data_image_augment image;

    const struct tokenizer *tokenizer; /* text; must outlive the loader and its cache */
    int64_t max_tokens;                /* longer texts are cut, special tokens stay */
    double first;                      /* training: probability of the first caption; the rest is shared by all */

    struct data_logmel_config logmel; /* audio */
    double max_seconds;               /* longer clips are cut; 0: none */
    int64_t samples;                  /* > 0: not frames but raw sound at logmel.rate, this much of every clip: longer
                                         ones are cut, shorter ones end in silence; masks do not touch it */
    struct data_audio_augment audio;

    int64_t round_rows; /* packed rows are rounded up to a multiple of this; 0: 256 for text, 512 for audio */
};

/* Floats of one row of part->frames. */
static inline int64_t data_row_width(const struct data_modality *m)
{
    return m->samples > 0 ? 1 : m->logmel.bins;
}

struct data_loader_config {
    const struct manifest *manifest;
    const int64_t *items; /* indices into manifest->item, as manifest_select gives them; copied */
    int64_t n_items;
    const char *split;                    /* which entries of a field are used (manifest_use); NULL: "train" */
    const struct data_modality *modality; /* copied; strings must outlive the loader */
    int n_modalities;
    int64_t batch;         /* samples; where `by` counts something else, the most of them */
    enum data_batch_by by; /* training: what fills a batch up to `budget`, counted in modality[budget_of], a text for
                              tokens and sound for seconds. See data/budget.h for what an item's size is */
    double budget;
    int budget_of;
    uint64_t seed;
    bool eval;   /* items in the given order, once, no augmentation, no random choice, last batch smaller */
    bool skip;   /* a bad item is replaced by another, with a warning once; false: it is an error */
    int threads; /* that decode ahead; 0: batches are made in data_loader_next itself */
    int ahead;   /* batches held at most, the caller's included; 0: threads + 2 */
    struct data_cache *cache; /* may be shared by loaders; NULL: none */
};

/* One modality of a batch. n of the B samples have it; they are items 0..n-1 in the samples' order. */
struct data_part {
    int64_t n;   /* items present */
    int64_t cap; /* items there is room for: B where every item of the loader has it, else n rounded up to 8, >= 8 */
    int64_t
        rows; /* packed tokens or frames, rounded up: see data_round_rows; cap * samples of raw sound; 0 for images */
    float *image;     /* (cap, H, W, 3), (x - mean) / std */
    int32_t *tokens;  /* (rows) */
    float *frames;    /* (rows, bins); raw sound: (cap, samples) */
    int32_t *offsets; /* (cap + 1): item i is rows offsets[i] .. offsets[i + 1] - 1; items from n on are empty */
    int32_t *row;     /* (B): the item of sample i, -1 where it has none */
    int32_t *choice;  /* (B): the entry of the manifest's field that was taken, -1 where none */
};                    /* what is beyond n items and the items' rows is zero */

struct data_batch {
    int64_t epoch, index; /* index counts batches from 0 within the epoch */
    int64_t size;         /* B */
    int64_t *sample;      /* (B): indices into manifest->item */
    int32_t *group;       /* (B): samples with equal ids are positives of one another: same "group" in the manifest, or
                             the same file or the same text in this batch. The id is the first such sample's place */
    struct data_part *part; /* (n_modalities) */
    int n_parts;
};

struct data_loader;

/* Starts the threads; they begin with epoch 0, batch 0. The functions below are for one caller's thread at a time.
 * ERR_CONFIG where there are fewer items than a batch or no item has a modality (training), or a modality's settings
 * are out of range. On error *l is NULL. */
int data_loader_new(const struct data_loader_config *c, struct data_loader **l, struct err *e) MUST_CHECK;
void data_loader_free(struct data_loader *l); /* stops and joins the threads; NULL is fine */

/* By a budget: a batch takes the items that come next in the epoch's order, as many as fit; how many follows from (seed,
 * epoch) alone. Their number is rounded down (data_round_items) so that few different sizes, and plans, occur; what was
 * left over begins the next batch. Epochs may differ by a batch or so. */

/* The next batch; after the last of an epoch comes the first of the next one (training: the last, incomplete batch of
 * an epoch is dropped; by a budget, unless it is the epoch's only one) or *b = NULL (eval). It stays valid until data_loader_release. Blocks until it is ready. An
 * unreadable item is ERR_IO or ERR_FORMAT naming item, file and reason (with `skip`: only after 100 replacements that
 * were unreadable too); then *b is NULL, and the same call again gives the same error; data_loader_seek goes past it.
 */
int data_loader_next(struct data_loader *l, struct data_batch **b, struct err *e) MUST_CHECK;
void data_loader_release(struct data_loader *l, struct data_batch *b);

/* What data_loader_next returns next. All batches must be released. `index` may be beyond the epoch's last batch: it
 * runs on into the following epochs (training). */
void data_loader_seek(struct data_loader *l, int64_t epoch, int64_t index);

/* Of an epoch. By a budget: of epoch 0; the first call reads the sizes of all its items (where one does not fit the
 * budget, of those before it: the batch itself has the error). */
int64_t data_loader_batches(struct data_loader *l);

struct data_loader_stats {
    double waited_s; /* that data_loader_next has blocked so far */
    int64_t decoded; /* files and texts read and decoded (or tokenized) */
    int64_t cached;  /* taken from the cache instead */
    int64_t skipped; /* bad items replaced */
};
struct data_loader_stats data_loader_stats(struct data_loader *l);

/* Rows that `n` packed rows are rounded up to: a multiple of `unit`, in steps of about n/8 to n/16 where that is more,
 * so that few different shapes (and plans) occur. 0 gives `unit`. */
int64_t data_round_rows(int64_t n, int64_t unit);
/* Samples that n are rounded down to: below 32 n itself, then multiples of n/32 to n/16. */
int64_t data_round_items(int64_t n);
/* The unit of a modality: its round_rows, or the default of its kind. */
int64_t data_row_unit(const struct data_modality *m);

#endif
