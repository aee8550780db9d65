/* A model ready for work: its config, tokenizers, parameters and inputs; opened from a config file (new) or from a run
 * folder or checkpoint (trained). Training, evaluation and search all begin here. */
#ifndef TRIAD_RUN_MODEL_H
#define TRIAD_RUN_MODEL_H

#include "autograd/plan.h"
#include "run/checkpoint.h"
#include "run/config.h"

enum { RUN_MAX_MODALITIES = 16 };

struct run_model {
    struct conf conf; /* owns the strings of `config` */
    struct run_config config;
    char *dir;                                       /* the run folder */
    bool begun;                                      /* it holds checkpoints: its tokenizers are the run's */
    int n;                                           /* modalities */
    struct tokenizer *tokenizer[RUN_MAX_MODALITIES]; /* text modalities */
    struct model_tower tower[RUN_MAX_MODALITIES];
    struct data_modality input[RUN_MAX_MODALITIES]; /* for loaders */
    struct ad_store *store;
    struct run_state state;     /* opened from a checkpoint: where that stood */
    struct ad_workspace space;  /* shared by every plan of this model */
    struct run_embedder *embed; /* cached plans of run_embed */
    struct manifest data;       /* read to train a tokenizer and kept for run_model_data, which hands it on */
    bool has_data;
};

/* From a config file. `dir` is the run folder; with `dir` NULL it is config.train.out or runs/<name>. Tokenizers come
 * from `dir`/tokenizer.<modality>.json where a former part of the run left a checkpoint, else from the config, or are
 * trained from the captions of the training split. Nothing is written. Parameters are declared, not yet laid out
 * (run_model_commit). */
int run_model_new(const char *config_path, const char *const *overrides, int n_overrides, struct run_model **m,
                  struct err *e) MUST_CHECK;

/* As run_model_new without the data: a tokenizer that would be trained is left out, and its vocabulary is the config's.
 * For graphs and their figures; it cannot read a batch. */
int run_model_sketch(const char *config_path, const char *const *overrides, int n_overrides, struct run_model **m,
                     struct err *e) MUST_CHECK;

/* From a run folder (its newest checkpoint), a checkpoint folder inside one, or a run folder's file. Loads weights: the
 * averaged ones where the run kept them. ERR_IO or ERR_FORMAT saying what is missing. */
int run_model_open(const char *path, struct run_model **m, struct err *e) MUST_CHECK;
void run_model_free(struct run_model *m); /* NULL is fine */

/* The config's data and the items of its training split; the caller frees both. Errors name the config's line. On error
 * there is nothing to free. */
int run_model_data(struct run_model *m, struct manifest *data, int64_t **items, int64_t *n, struct err *e) MUST_CHECK;

/* Lays out and initialises the parameters. */
int run_model_commit(struct run_model *m, struct err *e) MUST_CHECK;

/* Writes `dir`/config.yaml (the whole effective config) and the tokenizers, so that run_model_open finds all it needs.
 */
int run_model_write(const struct run_model *m, struct err *e) MUST_CHECK;

/* The number of a modality by name, or -1 and an error that names those there are. */
int run_modality(const struct run_model *m, const char *name, struct err *e);

/* Emits the loss of a batch over all pairs, weighted and averaged; the losses of the pairs are outputs "loss.<a>-<b>",
 * the factor of the similarities is the output "scale". Inputs: every tower's, "<name>.row" i32 (B) and "group" i32 (B).
 * shapes[n]. */
val run_model_loss(struct nn *nn, const struct run_model *m, const struct model_shape *shapes, int64_t batch);
/* The same loss from embeddings: unit[n] are the modalities' unit vectors (items, embed), as model_embed gives them. */
val run_model_loss_of(struct nn *nn, const struct run_model *m, const val *unit, int64_t batch);

/* Binds a batch to a plan's inputs. */
struct data_batch;
struct data_part;
void run_bind_batch(struct ad_plan *p, const struct run_model *m, const struct data_batch *b);
/* Binds one modality's part; members that are NULL are left out. */
void run_bind_part(struct ad_plan *p, const char *name, const struct data_part *part);

/* Embeds a part outside of training: out (part->n, embed). Plans are cached by shape. */
int run_embed(struct run_model *m, int modality, const struct data_part *part, float *out, struct err *e) MUST_CHECK;

/* Embeds `n` items of a manifest, in their order, by so many at a time, for one modality: out (n, embed), rows of items
 * without it are zero and has[i] is false. `split` says which entries of a field are used (manifest_use), `pick` which of
 * those (the last where there are fewer). `show`: with a progress line. */
enum { RUN_EMBED_BATCH = 64 };
int run_embed_items(struct run_model *m, int modality, const struct manifest *data, const int64_t *items, int64_t n,
                    const char *split, int64_t pick, float *out, bool *has, bool show, struct err *e) MUST_CHECK;

#endif
