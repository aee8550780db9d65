/* A configuration that uses every type of row, for the tests and the fuzz target of base/conf. */
#ifndef TRIAD_TESTS_CONF_EXAMPLE_H
#define TRIAD_TESTS_CONF_EXAMPLE_H

#include "base/conf.h"

struct adam {
    double lr;
    struct {
        double *v;
        int64_t n;
    } betas;
};
#define AT(member) offsetof(struct adam, member)
static const struct conf_field adam_fields[] = {
    {"lr", CONF_DOUBLE, AT(lr), "1e-3", CONF_ABOVE_0, 10, .help = "peak learning rate"},
    {"betas", CONF_DOUBLES, AT(betas), "[0.9, 0.98]", 0, 1, .least = 2, .most = 2, .help = "decay of the moments"},
    {0},
};
#undef AT
static const struct conf_table adam_table = {sizeof(struct adam), adam_fields};

struct sgd {
    double lr, momentum;
};
#define AT(member) offsetof(struct sgd, member)
static const struct conf_field sgd_fields[] = {
    {"lr", CONF_DOUBLE, AT(lr), "0.1", CONF_ABOVE_0, INFINITY},
    {"momentum", CONF_DOUBLE, AT(momentum), "0.9", 0, 1},
    {0},
};
#undef AT
static const struct conf_table sgd_table = {sizeof(struct sgd), sgd_fields};

enum { OPTIM_ADAM = 7, OPTIM_SGD = 9 };
struct optim {
    int kind;
    union {
        struct adam adam;
        struct sgd sgd;
    };
    double clip;
};
#define AT(member) offsetof(struct optim, member)
static const struct conf_field optim_fields[] = {
    {"adam", CONF_CASE, AT(adam), "{}", .sub = &adam_table, .tag = AT(kind), .value = OPTIM_ADAM},
    {"sgd", CONF_CASE, AT(sgd), .sub = &sgd_table, .tag = AT(kind), .value = OPTIM_SGD},
    {"clip", CONF_DOUBLE, AT(clip), "1", 0, INFINITY},
    {0},
};
#undef AT
static const struct conf_table optim_table = {sizeof(struct optim), optim_fields};

/* A convolution, also as [width] or [width, stride]. */
struct conv {
    int64_t width, stride;
};
#define AT(member) offsetof(struct conv, member)
static const struct conf_field conv_fields[] = {
    {"width", CONF_INT, AT(width), .min = 1, .max = 99},
    {"stride", CONF_INT, AT(stride), "1", 1, 9},
    {0},
};
#undef AT
static const struct conf_table conv_table = {sizeof(struct conv), conv_fields, .positional = 2};

struct mel {
    int64_t bins;
    double window;
};
#define AT(member) offsetof(struct mel, member)
static const struct conf_field mel_fields[] = {
    {"bins", CONF_INT, AT(bins), "80", 1, 512},
    {"window", CONF_DURATION, AT(window), "25ms", 1e-3, 1},
    {0},
};
#undef AT
static const struct conf_table mel_table = {sizeof(struct mel), mel_fields, .shorthand = "bins"};

struct tower {
    const char *name;
    int kind;
    struct {
        int64_t *v;
        int64_t n;
    } widths;             /* resnet */
    int64_t width, heads; /* transformer */
    struct {
        struct conv *v;
        int64_t n;
    } stem;
    struct mel *mel;
};
static inline int tower_check(const void *s, struct err *e)
{
    const struct tower *t = s;
    if (t->kind == 1 && t->width % t->heads)
        return err_set(e, ERR_CONFIG, "width %lld is no multiple of heads %lld", (long long)t->width,
                       (long long)t->heads);
    return 0;
}
#define AT(member) offsetof(struct tower, member)
static const struct conf_field resnet_fields[] = {
    {"widths", CONF_INTS, AT(widths), "[32, 64]", 1, 4096, .least = 1, .most = 4},
    {0},
};
static const struct conf_field transformer_fields[] = {
    {"width", CONF_INT, AT(width), "128", 1, 65536},
    {"heads", CONF_INT, AT(heads), "4", 1, 256},
    {0},
};
static const struct conf_table resnet_table = {sizeof(struct tower), resnet_fields};
static const struct conf_table transformer_table = {sizeof(struct tower), transformer_fields};
static const struct conf_table *const tower_cases[] = {&resnet_table, &transformer_table};
static const char *const tower_names[] = {"resnet", "transformer", NULL};
static const struct conf_field tower_fields[] = {
    {"tower", CONF_SWITCH, AT(kind), .choices = tower_names, .cases = tower_cases, .help = "the family"},
    {"stem", CONF_LIST, AT(stem), "[]", .sub = &conv_table},
    {"mel", CONF_OPTIONAL, AT(mel), "null", .sub = &mel_table},
    {0},
};
#undef AT
static const struct conf_table tower_table = {sizeof(struct tower), tower_fields, .check = tower_check};

struct model {
    int64_t embed;
    struct {
        struct tower *v;
        int64_t n;
    } towers;
};
#define AT(member) offsetof(struct model, member)
static const struct conf_field model_fields[] = {
    {"embed", CONF_INT, AT(embed), .min = 1, .max = 4096, .help = "width of the shared space"},
    {"*", CONF_MAP, AT(towers), .sub = &tower_table, .least = 1},
    {0},
};
#undef AT
static const struct conf_table model_table = {sizeof(struct model), model_fields};

struct example {
    const char *name, *init;
    bool fast;
    int64_t steps, memory, top;
    double every;
    int decay;
    struct {
        const char **v;
        int64_t n;
    } pairs;
    struct {
        struct tower *v;
        int64_t n;
    } named; /* a map under a key of its own */
    struct model model;
    struct optim optim;
};
static const char *const decays[] = {"cosine", "linear", "none", NULL};
#define AT(member) offsetof(struct example, member)
static const struct conf_field example_fields[] = {
    {"name", CONF_STRING, AT(name), .help = "of the run"},
    {"init", CONF_STRING, AT(init), "null"},
    {"fast", CONF_BOOL, AT(fast), "true"},
    {"steps", CONF_INT, AT(steps), "100", 1, 0x1p62},
    {"top", CONF_INT, AT(top), "-1"},
    {"memory", CONF_BYTES, AT(memory), "2GB", 0, 1e15},
    {"every", CONF_DURATION, AT(every), "4m", CONF_ABOVE_0, 864000},
    {"decay", CONF_ENUM, AT(decay), "cosine", .choices = decays},
    {"pairs", CONF_STRINGS, AT(pairs), "[image-text]"},
    {"named", CONF_MAP, AT(named), "{}", .sub = &tower_table},
    {"model", CONF_STRUCT, AT(model), .sub = &model_table},
    {"optim", CONF_STRUCT, AT(optim), "{}", .sub = &optim_table},
    {0},
};
#undef AT
static const struct conf_table example_table = {sizeof(struct example), example_fields};

#endif
