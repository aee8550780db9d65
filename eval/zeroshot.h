/* Zero-shot classification by prompts (Radford et al. 2021, section 3.1): a class is the mean of its prompts' text
 * embeddings, scaled to length 1; an item belongs to the class that it is most similar to. */
#ifndef TRIAD_EVAL_ZEROSHOT_H
#define TRIAD_EVAL_ZEROSHOT_H

#include "eval/measure.h"

struct eval_class {
    const char *name;
    const char **prompt; /* (n) */
    int64_t n;
};

struct eval_classes {
    struct eval_class *v;
    int64_t n;
    struct arena mem;
};

/* Reads a file with a class on each line: its name, or "name | prompt | prompt". A class without prompts of its own
 * gets every template, with the name in the place of "{}"; without templates (n 0) its name is its prompt. Blank lines
 * are passed over. ERR_IO; ERR_FORMAT naming the line for a class named twice or an empty name or prompt;
 * ERR_USAGE for a template without "{}". On error *c is empty. Free with eval_classes_free. */
int eval_classes_read(const char *path, const char *const *templates, int n_templates, struct eval_classes *c,
                      struct err *e) MUST_CHECK;

/* The classes are the labels that occur among the items of a set, in their order. */
int eval_classes_of(const struct run_model *m, const struct manifest *data, const struct eval_set *s,
                    const char *const *templates, int n_templates, struct eval_classes *c, struct err *e) MUST_CHECK;
void eval_classes_free(struct eval_classes *c);

/* One modality of a set classified. */
struct eval_zeroshot {
    int modality;
    int64_t classes;
    int64_t unknown;         /* items whose label is none of the classes: left out */
    struct eval_direction d; /* items to classes: recall is accuracy@1, 5, 10; `from` counts the set's items */
};

/* An item's label is its "label" in the manifest, else its first caption. `text` is the modality that reads prompts.
 * ERR_CONFIG where no item has a known label. On error *z is empty. */
int eval_zeroshot_make(struct run_model *m, const struct manifest *data, const struct eval_set *s, int modality,
                       int text, const struct eval_classes *c, int resamples, struct eval_zeroshot *z,
                       struct err *e) MUST_CHECK;
void eval_zeroshot_free(struct eval_zeroshot *z);

#endif
