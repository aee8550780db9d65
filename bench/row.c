/* The rows' YAML files. See row.h. */
#include "bench/row.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/rng.h"
#include "base/text.h"

#define AT(m) offsetof(struct bench_lengths, m)
static const struct conf_field length_fields[] = {
    {"mean", CONF_DOUBLE, AT(mean), "12.5", 1, 1e6, .help = "tokens"},
    {"deviation", CONF_DOUBLE, AT(deviation), "2.6", 0, 1e6, .help = "standard deviation"},
    {"least", CONF_INT, AT(least), "7", 1, 1e6, .help = "no item is shorter"},
    {"most", CONF_INT, AT(most), "32", 1, 1e6, .help = "no item is longer"},
    {0},
};
static int check_lengths(const void *s, struct err *e)
{
    const struct bench_lengths *l = s;
    if (l->least <= l->most) return 0;
    return err_set(e, ERR_CONFIG, "least %lld must not be above most %lld", (long long)l->least, (long long)l->most);
}
static const struct conf_table length_table = {sizeof(struct bench_lengths), length_fields, .check = check_lengths};
#undef AT

#define AT(m) offsetof(struct bench_work, m) - offsetof(struct bench_work, contrastive)
static const struct conf_field contrastive_fields[] = {
    {"embed", CONF_INT, AT(contrastive.embed), "256", 1, 65536, .help = "dimensions of the shared space"},
    {0},
};
static const struct conf_table contrastive_table = {sizeof(((struct bench_work *)0)->contrastive), contrastive_fields};
#undef AT

#define AT(m) offsetof(struct bench_work, m) - offsetof(struct bench_work, classify)
static const struct conf_field classify_fields[] = {
    {"classes", CONF_INT, AT(classify.classes), "1000", 2, 1e6, .help = "of the linear layer and the loss"},
    {0},
};
static const struct conf_table classify_table = {sizeof(((struct bench_work *)0)->classify), classify_fields};
#undef AT

static const struct conf_field lm_fields[] = {{0}};
static const struct conf_table lm_table = {sizeof(((struct bench_work *)0)->lm), lm_fields};

#define AT(m) offsetof(struct bench_work, m) - offsetof(struct bench_work, ctc)
static const struct conf_field ctc_fields[] = {
    {"classes", CONF_INT, AT(ctc.classes), "32", 2, 1e6, .help = "of the linear layer, the blank among them"},
    {"labels", CONF_INT, AT(ctc.labels), "40", 1, 1e6, .help = "a clip"},
    {0},
};
static const struct conf_table ctc_table = {sizeof(((struct bench_work *)0)->ctc), ctc_fields};
#undef AT

#define AT(m) offsetof(struct bench_work, m) - offsetof(struct bench_work, infonce)
static const struct conf_field infonce_fields[] = {
    {"width", CONF_INT, AT(infonce.width), "512", 1, 65536, .help = "numbers a vector"},
    {"scale", CONF_DOUBLE, AT(infonce.scale), "20", CONF_ABOVE_0, 1000, .help = "1 / temperature"},
    {0},
};
static const struct conf_table infonce_table = {sizeof(((struct bench_work *)0)->infonce), infonce_fields};
#undef AT

#define AT(m) offsetof(struct bench_work, m) - offsetof(struct bench_work, adamw)
static const struct conf_field adamw_fields[] = {
    {"matrices", CONF_INT, AT(adamw.matrices), "50", 1, 10000, .help = "how many"},
    {"side", CONF_INT, AT(adamw.side), "1000", 1, 30000, .help = "rows and columns of each"},
    {0},
};
static const struct conf_table adamw_table = {sizeof(((struct bench_work *)0)->adamw), adamw_fields};
#undef AT

#define AT(m) offsetof(struct bench_work, m) - offsetof(struct bench_work, logmel)
static const struct conf_field logmel_fields[] = {
    {"seconds", CONF_DURATION, AT(logmel.seconds), "60", 0.05, 36000, .help = "of sound a step"},
    {"mel", CONF_STRUCT, AT(logmel.mel), "{}", .sub = &run_mel_table, .help = "the spectrogram"},
    {0},
};
static const struct conf_table logmel_table = {sizeof(((struct bench_work *)0)->logmel), logmel_fields};
#undef AT

#define CASE(member, number, text)                                                                              \
    {                                                                                                           \
#member, CONF_CASE, offsetof(struct bench_work, member), NULL, .sub = &member##_table, .value = number, \
                                                                       .help = text                             \
    }
static const struct conf_field work_fields[] = {
    CASE(contrastive, BENCH_CONTRASTIVE, "two towers and InfoNCE"),
    CASE(classify, BENCH_CLASSIFY, "a tower and cross-entropy over classes"),
    CASE(lm, BENCH_LM, "a causal text tower and the next token"),
    CASE(ctc, BENCH_CTC, "a tower over sound and the labels of its frames"),
    CASE(infonce, BENCH_INFONCE, "the contrastive loss alone, without an update"),
    CASE(adamw, BENCH_ADAMW, "the optimizer alone"),
    CASE(logmel, BENCH_LOGMEL, "log-mel frames of one clip"),
    {0},
};
static const struct conf_table work_table = {sizeof(struct bench_work), work_fields};

static int check_tower(const struct bench_row *r, const struct model_tower *t, struct err *e)
{
    if (t->kind == MODEL_AUDIO)
        return err_set(e, ERR_CONFIG, "%s: a row has raw sound (wav2vec2), none for a tower of log-mel frames",
                       t->name);
    if (t->kind == MODEL_TEXT && r->lengths.most > t->text.length)
        return err_set(e, ERR_CONFIG, "%s: length %lld is less than lengths.most %lld", t->name,
                       (long long)t->text.length, (long long)r->lengths.most);
    return model_check(t, e);
}

static int check_row(const void *s, struct err *e)
{
    static const struct {
        int towers, kind; /* kind: that the tower must be of, or -1 */
        const char *what;
    } wants[] = {[BENCH_CONTRASTIVE] = {2, -1, "contrastive takes two towers"},
                 [BENCH_CLASSIFY] = {1, -1, "classify takes one tower"},
                 [BENCH_LM] = {1, MODEL_TEXT, "lm takes one tower, of kind text"},
                 [BENCH_CTC] = {1, MODEL_WAVE, "ctc takes one tower, a wav2vec2"},
                 [BENCH_INFONCE] = {0, -1, "infonce takes no towers"},
                 [BENCH_ADAMW] = {0, -1, "adamw takes no towers"},
                 [BENCH_LOGMEL] = {0, -1, "logmel takes no towers"}};
    const struct bench_row *r = s;
    struct model_tower t[BENCH_TOWERS];
    int n = bench_row_towers(r, t), kind = wants[r->work.kind].kind;
    if (n != wants[r->work.kind].towers) return err_set(e, ERR_CONFIG, "work: %s, not %d", wants[r->work.kind].what, n);
    if (kind >= 0 && t[0].kind != (enum model_kind)kind)
        return err_set(e, ERR_CONFIG, "work: %s, not '%s'", wants[r->work.kind].what, t[0].name);
    for (int i = 0; i < n; i++)
        if (check_tower(r, &t[i], e)) return err_prefix(e, "towers");
    int64_t limit;
    if (run_memory(r->memory, &limit, e)) return err_prefix(e, "memory");
    return 0;
}

#define AT(m) offsetof(struct bench_row, m)
static const struct conf_field row_fields[] = {
    {"name", CONF_STRING, AT(name), NULL, .help = "of the row"},
    {"batch", CONF_INT, AT(batch), "1", 1, 1e6, .help = "samples a step"},
    {"precision", CONF_ENUM, AT(precision), "f32", .choices = ad_precision_names, .help = "as train.precision"},
    {"debug", CONF_STRING, AT(debug), "''", .help = "as train.debug"},
    {"towers", CONF_MAP, AT(towers), "{}", .sub = &run_modality_table, .most = 2, .help = "as the modalities of a run"},
    {"lengths", CONF_STRUCT, AT(lengths), "{}", .sub = &length_table, .help = "of a text tower's items"},
    {"lr", CONF_DOUBLE, AT(lr), "1e-4", CONF_ABOVE_0, 100, .help = "of AdamW"},
    {"weight_decay", CONF_DOUBLE, AT(weight_decay), "0.1", 0, 10, .help = "of AdamW"},
    {"memory", CONF_STRING, AT(memory), "0", .help = "limit of a step, such as 500MB or 20%; 0: none"},
    {"state", CONF_ENUM, AT(state), "f32", .choices = opt_state_names, .help = "how AdamW's moments are stored"},
    {"weights", CONF_ENUM, AT(weights), "f32", .choices = run_weights_names, .help = "as optim.weights"},
    {"in_backward", CONF_BOOL, AT(in_backward), "false", .help = "as optim.in_backward"},
    {"work", CONF_STRUCT, AT(work), NULL, .sub = &work_table, .help = "what a step does"},
    {0},
};
static const struct conf_table row_table = {sizeof(struct bench_row), row_fields, .check = check_row};
#undef AT

/* ---- where rows lie ---------------------------------------------------------------------------------------------- */

enum { N_FOLDERS = 3 };

/* The folders, each maybe missing; the caller frees the strings. */
static void folders(char *folder[N_FOLDERS])
{
    char exe[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    exe[n > 0 ? n : 0] = 0;
    char *dir = file_dirname(exe);
    folder[0] = mem_strdup("configs/bench");
    folder[1] = mem_printf("%s/../configs/bench", dir);
    folder[2] = mem_printf("%s/../share/triad/configs/bench", dir);
    free(dir);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

void bench_row_names(char ***names, int *n)
{
    char *folder[N_FOLDERS];
    folders(folder);
    char **out = NULL;
    size_t cap = 0, count = 0, kept = 0;
    for (int i = 0; i < N_FOLDERS; i++) {
        char **list = NULL;
        int m = 0;
        struct err none = {0};
        if (file_list(folder[i], &list, &m, &none)) m = 0, list = NULL; /* a folder that is not there has no rows */
        for (int k = 0; k < m; k++) {
            size_t len = strlen(list[k]);
            if (len < 6 || strcmp(list[k] + len - 5, ".yaml")) continue;
            out = mem_grow(out, &cap, count + 1, sizeof *out);
            out[count++] = mem_strndup(list[k], len - 5);
        }
        if (list) file_list_free(list, m);
        free(folder[i]);
    }
    if (count) qsort(out, count, sizeof *out, by_name);
    for (size_t i = 0; i < count; i++) {
        if (kept && !strcmp(out[kept - 1], out[i]))
            free(out[i]);
        else
            out[kept++] = out[i];
    }
    *names = out;
    *n = (int)kept;
}

static int unknown_row(const char *word, struct err *e)
{
    char **names;
    int n;
    bench_row_names(&names, &n);
    struct buf b = {0};
    const char *near = text_nearest(word, (const char *const *)names, n);
    buf_printf(&b, "unknown row '%s'", word);
    if (near) buf_printf(&b, "; did you mean '%s'?", near);
    buf_str(&b, n == 0 ? "; no folder configs/bench was found, here or beside the program"
                : near ? " There are "
                       : "; there are ");
    for (int i = 0; i < n; i++) buf_printf(&b, "%s%s", i == 0 ? "" : i + 1 < n ? ", " : " and ", names[i]);
    err_set(e, ERR_USAGE, "%s", b.data);
    buf_free(&b);
    file_list_free(names, n);
    return ERR_USAGE;
}

/* The file that `word` names, or NULL and an error; the caller frees. */
static char *row_path(const char *word, struct err *e)
{
    size_t len = strlen(word);
    if (strchr(word, '/') || (len > 5 && !strcmp(word + len - 5, ".yaml"))) return mem_strdup(word);
    char *folder[N_FOLDERS], *found = NULL;
    folders(folder);
    for (int i = 0; i < N_FOLDERS; i++) {
        char *p = mem_printf("%s/%s.yaml", folder[i], word);
        if (!found && file_exists(p))
            found = p;
        else
            free(p);
        free(folder[i]);
    }
    if (!found) unknown_row(word, e);
    return found;
}

int bench_row_read(struct conf *mem, const char *word, const char *const *overrides, int n, struct bench_row *row,
                   struct err *e)
{
    char *path = row_path(word, e);
    if (!path) return e->code;
    int rc = conf_read(mem, path, overrides, n, &row_table, row, e);
    free(path);
    return rc;
}

int bench_row_towers(const struct bench_row *row, struct model_tower *t)
{
    int n = 0;
    for (; n < row->towers.n && n < BENCH_TOWERS; n++) {
        const struct run_modality *m = &row->towers.v[n];
        t[n] = run_tower(m, m->kind == RUN_TEXT ? m->text.vocab : 0);
    }
    return n;
}

/* ---- lengths ----------------------------------------------------------------------------------------------------- */

/* The x below which a share p of the standard normal distribution lies. */
static double normal_quantile(double p)
{
    double lo = -10, hi = 10;
    for (int i = 0; i < 80; i++) {
        double mid = (lo + hi) / 2;
        if (0.5 * erfc(-mid / sqrt(2)) < p)
            lo = mid;
        else
            hi = mid;
    }
    return (lo + hi) / 2;
}

int64_t bench_row_lengths(const struct bench_lengths *l, int64_t n, int64_t *lengths)
{
    int64_t sum = 0;
    for (int64_t i = 0; i < n; i++) {
        double x = l->mean + l->deviation * normal_quantile(((double)i + 0.5) / (double)n);
        lengths[i] = llround(fmin(fmax(x, (double)l->least), (double)l->most));
        sum += lengths[i];
    }
    struct rng r = rng_make(1, hash_str("bench.lengths"), 0);
    for (int64_t i = n - 1; i > 0; i--) {
        int64_t k = rng_below(&r, i + 1), t = lengths[i];
        lengths[i] = lengths[k];
        lengths[k] = t;
    }
    return sum;
}
