/* A row of the bench: one training step (or one loss, optimizer or front end alone) on fixed input, described by a YAML
 * file in configs/bench/. */
#ifndef TRIAD_BENCH_ROW_H
#define TRIAD_BENCH_ROW_H

#include "run/config.h"

enum bench_kind {
    BENCH_CONTRASTIVE, /* two towers, unit vectors, InfoNCE with a learned temperature */
    BENCH_CLASSIFY,    /* one tower, cross-entropy over classes */
    BENCH_LM,          /* one text tower, cross-entropy of the next token, the output tied to the token table */
    BENCH_CTC,     /* one tower over sound, CTC (Graves et al. 2006) over the labels of its frames; 0 is the blank */
    BENCH_INFONCE, /* the contrastive loss alone, forward and backward */
    BENCH_ADAMW,   /* the optimizer alone */
    BENCH_LOGMEL,  /* log-mel frames of one clip */
};

struct bench_work {
    int kind; /* enum bench_kind */
    struct {
        int64_t embed;
    } contrastive;
    struct {
        int64_t classes;
    } classify;
    struct {
        char none;
    } lm;
    struct {
        int64_t classes, labels; /* the blank among the classes; labels a clip */
    } ctc;
    struct {
        int64_t width;
        double scale;
    } infonce;
    struct {
        int64_t matrices, side;
    } adamw;
    struct {
        double seconds;
        struct data_logmel_config mel;
    } logmel;
};

/* How long the items of a text tower are, in tokens: the middles of `batch` equal parts of a normal distribution, so
 * that every program that is compared sees the same lengths without sharing a generator. */
struct bench_lengths {
    double mean, deviation;
    int64_t least, most;
};

struct bench_row {
    const char *name;
    int64_t batch;
    struct {
        struct run_modality *v;
        int64_t n;
    } towers;
    struct bench_lengths lengths;
    int precision;           /* enum ad_precision */
    const char *debug;       /* pass switches, as train.debug */
    double lr, weight_decay; /* of AdamW */
    const char *memory;      /* what a step may take, the program left out: run_memory (run/config.h) */
    int state;               /* enum opt_store of its moments */
    int weights;             /* enum run_weights: of the matrices and their gradients */
    bool in_backward;        /* AdamW's steps, as optim.in_backward */
    struct bench_work work;
};

/* Reads the row `word`: a path of a YAML file (it has a slash or ends in .yaml), or the name of one in the folders where
 * rows lie: configs/bench here, and configs/bench or share/triad/configs/bench beside the program. ERR_USAGE for an
 * unknown name, which lists those there are. *row lives until conf_free(mem). */
int bench_row_read(struct conf *mem, const char *word, const char *const *overrides, int n, struct bench_row *row,
                   struct err *e) MUST_CHECK;
/* The names of the rows in those folders, sorted, without repeats. The caller frees with file_list_free. */
void bench_row_names(char ***names, int *n);

/* The row's towers into t[BENCH_TOWERS]; returns how many. */
enum { BENCH_TOWERS = 2 };
int bench_row_towers(const struct bench_row *row, struct model_tower *t);

/* lengths[n], as struct bench_lengths says, in a mixed order that is always the same. Returns their sum. */
int64_t bench_row_lengths(const struct bench_lengths *l, int64_t n, int64_t *lengths);

#endif
