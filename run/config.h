/* The one YAML file that describes a run: data, modalities with their towers, loss, optimizer, training. Every key
 * stands in one row of the tables in config.c, with its default, range and help; docs and --dump-config come from
 * those. */
#ifndef TRIAD_RUN_CONFIG_H
#define TRIAD_RUN_CONFIG_H

#include "base/conf.h"
#include "data/loader.h"
#include "models/model.h"
#include "optim/opt.h"

struct run_ints {
    int64_t *v;
    int64_t n;
};
struct run_doubles {
    double *v;
    int64_t n;
};
struct run_strings {
    const char **v;
    int64_t n;
};

struct run_data {
    const char *manifest;     /* or a pack */
    const char *train;        /* the split trained on */
    struct run_strings valid; /* splits measured during and after training; may be empty */
    int64_t workers;          /* threads that decode ahead; 0: in the training thread */
    int64_t cache;            /* bytes of decoded data kept in memory */
    int on_bad;               /* 0 stop, 1 skip */
    int batch_by;             /* enum data_batch_by */
    double budget;            /* tokens or seconds a step */
    const char *budget_of;    /* the modality whose tokens or seconds count; NULL: the only one that has them */
};

enum run_kind { RUN_IMAGE, RUN_TEXT, RUN_AUDIO };
extern const char *const run_kind_names[];

struct run_resnet {
    struct run_ints widths, depths;
    int block; /* 0 basic, 1 bottleneck */
    int64_t stem_kernel, stem_stride, stem_width;
    bool stem_pool, stem_norm, shortcut_norm;
    double momentum, eps;
};

struct run_efficientnet {
    int variant;         /* b0 .. b3 */
    double width, depth; /* 0: the variant's */
    double drop_path, momentum, eps;
};

struct run_image_towers {
    int kind; /* 0 vit, 1 resnet, 2 efficientnet */
    struct model_vit vit;
    struct run_resnet resnet;
    struct run_efficientnet efficientnet;
};

struct run_image {
    int64_t size;
    struct run_doubles mean, std;
    int fit, filter;
    struct data_image_augment augment;
    struct run_image_towers tower;
};

struct run_text_towers {
    int kind; /* 0 transformer */
    struct model_text transformer;
};

struct run_text {
    const char *tokenizer; /* a tokenizer.json; NULL: trained from the captions */
    int64_t vocab;         /* of the trained one */
    int64_t length;        /* the longest caption in tokens; longer ones are cut */
    double first;          /* probability of an item's first caption while training */
    struct run_text_towers tower;
};

struct run_stem {
    int64_t kernel, stride;
};

struct run_audio_tower {
    struct {
        struct run_stem *v;
        int64_t n;
    } stem;
    struct model_audio audio;
};

struct run_wave_tower {
    struct {
        struct run_stem *v;
        int64_t n;
    } features;
    struct model_wave wave;
};

struct run_audio_towers {
    int kind; /* 0 transformer, 1 wav2vec2 */
    struct run_audio_tower transformer;
    struct run_wave_tower wav2vec2;
};

struct run_audio {
    struct data_logmel_config mel;
    double max_seconds;
    struct data_audio_augment augment;
    struct run_audio_towers tower;
};

struct run_modality {
    const char *name; /* the user's */
    const char *from; /* the manifest's field; NULL: the name */
    int kind;         /* enum run_kind */
    bool project_bias;
    struct run_image image;
    struct run_text text;
    struct run_audio audio;
};

enum run_loss_kind { RUN_INFONCE, RUN_SIGLIP };
enum run_weights { RUN_WEIGHTS_F32, RUN_WEIGHTS_BF16 };
extern const char *const run_weights_names[];

struct run_loss {
    int kind;                   /* enum run_loss_kind */
    struct run_strings pairs;   /* "image-text"; empty: every pair */
    struct run_doubles weights; /* of the pairs; empty: all 1 */
    double temperature, max_scale, bias;
};

struct run_optim {
    int kind, state, weights, muon_rate; /* enum opt_kind, enum opt_store, run_weights, enum opt_muon_rate */
    double lr, weight_decay, eps, momentum, trust;
    struct run_doubles betas;
    bool nesterov;
    double clip, ema;
    bool in_backward;
    int64_t warmup;
    int decay;
    double floor;
    struct {
        struct opt_group *v;
        int64_t n;
    } groups;
};

struct run_train {
    int64_t batch;       /* samples a step; the most of them where data.batch_by counts something else */
    int64_t micro_batch; /* of so many a batch is computed at a time; 0: all at once */
    /* Exactly one of the three is not 0. With time, the schedule follows the clock, and no two runs are the same. */
    int64_t steps;
    double epochs;
    double time; /* seconds */
    int64_t seed;
    int64_t threads;     /* 0: all cores */
    const char *out;     /* the run folder; NULL: runs/<name> */
    int64_t log_every;   /* steps between lines of metrics.jsonl */
    bool layer_norms;    /* the gradient's norm by layer in those lines */
    int64_t valid_every; /* steps between measurements; 0: at the end */
    int64_t save_every;  /* steps between checkpoints; 0: by time only and at the end */
    double save_time;    /* seconds between checkpoints; 0: none */
    int64_t keep;        /* checkpoints kept, besides the best */
    const char *best;    /* the metric that makes a checkpoint the best: "valid split/text->image R@1" or empty */
    int precision;       /* enum ad_precision: how activations and their gradients are kept */
    double loss_scale;   /* f16: at the beginning */
    int64_t loss_scale_every;
    const char *memory; /* what a step may take: "2GB", "60%" of the machine's, "0" for no limit; run_memory */
    const char *debug;  /* pass switches: "nofuse,nan" */
};

struct run_config {
    const char *name;
    struct run_data data;
    struct {
        struct run_modality *v;
        int64_t n;
    } modalities;
    int64_t embed;
    struct run_loss loss;
    struct run_optim optim;
    struct run_train train;
};

extern const struct conf_table run_config_table;
/* Of one modality and of a spectrogram, for others that describe towers or sound. */
extern const struct conf_table run_modality_table, run_mel_table;

/* Reads and checks a config with "key=value" overrides. ERR_CONFIG with file:line:column. *c lives until
 * conf_free(mem). */
int run_config_read(struct conf *mem, const char *path, const char *const *overrides, int n, struct run_config *c,
                    struct err *e) MUST_CHECK;

/* The parts as the other rooms want them. Strings and lists stay the config's. */
struct opt_config run_opt_config(const struct run_config *c);
/* One modality's loader settings; `tokenizer` for text. */
struct data_modality run_data_modality(const struct run_modality *m, const struct tokenizer *t);
/* One modality's tower; `vocab` for text. */
struct model_tower run_tower(const struct run_modality *m, int64_t vocab);
/* Samples of every clip for a tower over raw sound, 0 for the others. */
int64_t run_raw_samples(const struct run_modality *m);
/* The modality that data.budget counts; -1 where batches are of a number of samples. */
int run_budget_modality(const struct run_config *c);
/* Bytes of a limit of memory: a size ("2GB"), a share of what this machine or control group has ("60%"), or "0", no limit.
 * ERR_CONFIG. */
int run_memory(const char *text, int64_t *bytes, struct err *e) MUST_CHECK;
/* The pairs of modalities that the loss runs over. */
int run_pairs(const struct run_config *c);
void run_pair(const struct run_config *c, int i, int *a, int *b, double *weight);

#endif
