/* triad tokenizer: trains a tokenizer from captions, shows how one cuts a text. */
#include "cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "data/manifest.h"
#include "data/tokenizer.h"

static const char help[] =
    "usage: triad tokenizer train --data FILE -o tokenizer.json [options]   train one from captions\n"
    "       triad tokenizer encode tokenizer.json TEXT                      show a text's tokens\n"
    "       triad tokenizer encode tokenizer.json --lines                   ids of each line of standard input\n"
    "\n"
    "train: byte-level BPE, written as a tokenizer.json that the Hugging Face `tokenizers` library loads too\n"
    "  --data FILE       a manifest (.jsonl) or pack (.h5), or a text file with a caption on each line\n"
    "  -o FILE           where to write it\n"
    "  --split NAME      the manifest's split to read (train)\n"
    "  --field NAME      the manifest's field to read (text)\n"
    "  --vocab N         tokens, special ones and the 256 bytes included (2048)\n"
    "  --min-count N     how often two tokens must meet to be joined (2)\n"
    "  --lowercase       read and encode everything as lower case\n"
    "\n"
    "encode: any tokenizer.json with BPE or WordPiece. --lines prints a JSON list of ids for each line.\n";

struct args {
    const char *data, *out, *split, *field;
    int64_t vocab, min_count;
    bool lowercase, lines, help;
    const char *word[2];
    int n_words;
};

static int read_number(const char *flag, const char *s, int64_t *out, struct err *e)
{
    char *end;
    errno = 0;
    long long v = strtoll(s, &end, 10);
    if (end == s || *end || errno || v < 1)
        return err_set(e, ERR_USAGE, "%s should be followed by a whole number above 0, but '%s' came", flag, s);
    *out = v;
    return 0;
}

static int read_flag(struct args *a, int argc, char **argv, int *i, struct err *e)
{
    const struct {
        const char *name;
        const char **text;
        int64_t *number;
        bool *on;
    } flags[] = {{"--data", &a->data, NULL, NULL},
                 {"-o", &a->out, NULL, NULL},
                 {"--output", &a->out, NULL, NULL},
                 {"--split", &a->split, NULL, NULL},
                 {"--field", &a->field, NULL, NULL},
                 {"--vocab", NULL, &a->vocab, NULL},
                 {"--min-count", NULL, &a->min_count, NULL},
                 {"--lowercase", NULL, NULL, &a->lowercase},
                 {"--lines", NULL, NULL, &a->lines},
                 {"--help", NULL, NULL, &a->help},
                 {"-h", NULL, NULL, &a->help}};
    enum { N = sizeof flags / sizeof *flags };
    const char *arg = argv[*i], *value = strncmp(arg, "--", 2) ? NULL : strchr(arg, '='), *names[N];
    size_t len = value ? (size_t)(value - arg) : strlen(arg);
    for (int k = 0; k < N; k++) {
        names[k] = flags[k].name;
        if (strlen(flags[k].name) != len || strncmp(flags[k].name, arg, len)) continue;
        if (flags[k].on) {
            if (value) return err_set(e, ERR_USAGE, "%s takes no value", flags[k].name);
            *flags[k].on = true;
            return 0;
        }
        if (value)
            value++;
        else if (*i + 1 < argc)
            value = argv[++*i];
        else
            return err_set(e, ERR_USAGE, "%s should be followed by a value", arg);
        if (flags[k].number) return read_number(flags[k].name, value, flags[k].number, e);
        *flags[k].text = value;
        return 0;
    }
    const char *near = text_nearest(arg, names, N);
    err_set(e, ERR_USAGE, "unknown option '%s'", arg);
    if (near)
        err_append(e, "; did you mean '%s'?", near);
    else
        err_append(e, "; 'triad tokenizer --help' lists them");
    return ERR_USAGE;
}

static int read_args(struct args *a, int argc, char **argv, struct err *e)
{
    bool only_words = false;
    for (int i = 1; i < argc; i++) {
        if (!only_words && !strcmp(argv[i], "--")) {
            only_words = true;
        } else if (!only_words && argv[i][0] == '-' && argv[i][1]) {
            int rc = read_flag(a, argc, argv, &i, e);
            if (rc) return rc;
        } else if (a->n_words == 2) {
            return err_set(e, ERR_USAGE, "one argument too many: '%s' (put a text with spaces in quotes)", argv[i]);
        } else {
            a->word[a->n_words++] = argv[i];
        }
    }
    return 0;
}

/* ---- train */

struct texts {
    const char **v;
    size_t n, cap;
    struct arena arena;
};

static void add_text(struct texts *t, const char *s)
{
    t->v = mem_grow(t->v, &t->cap, t->n + 1, sizeof *t->v);
    t->v[t->n++] = arena_strdup(&t->arena, s);
}

static int read_manifest(const struct args *a, struct texts *t, struct err *e)
{
    struct manifest m;
    int64_t *items, n;
    int rc = manifest_load(a->data, &m, e);
    if (rc) return rc;
    rc = manifest_select(&m, a->split, &items, &n, e);
    for (int64_t i = 0; i < n && !rc; i++) {
        const struct manifest_field *f = manifest_field(&m.item[items[i]], a->field);
        if (!f) continue;
        int *use = mem_alloc((size_t)f->n * sizeof *use), count = manifest_use(&m, f, a->split, use);
        for (int k = 0; k < count; k++)
            if (!f->entry[use[k]].is_file) add_text(t, f->entry[use[k]].value);
        free(use);
    }
    if (!rc) free(items);
    if (!rc && !t->n)
        rc = err_set(e, ERR_FORMAT, "%s: no item of split '%s' has a text under '%s'", a->data, a->split, a->field);
    manifest_free(&m);
    return rc;
}

static int read_lines(const struct args *a, struct texts *t, struct err *e)
{
    FILE *f = fopen(a->data, "r");
    if (!f) return err_errno(e, "cannot read %s", a->data);
    char *line = NULL;
    size_t cap = 0;
    for (ssize_t n; (n = getline(&line, &cap, f)) >= 0;) {
        while (n && (line[n - 1] == '\n' || line[n - 1] == '\r')) line[--n] = 0;
        if (n) add_text(t, line);
    }
    int rc = ferror(f) ? err_errno(e, "cannot read %s", a->data) : 0;
    if (!rc && !t->n) rc = err_set(e, ERR_FORMAT, "%s: there is no text in it; a caption a line was expected", a->data);
    free(line);
    fclose(f);
    return rc;
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), k = strlen(end);
    return n >= k && !strcmp(s + n - k, end);
}

static int train(const struct args *a, struct err *e)
{
    if (!a->data || !a->out || a->n_words || a->lines)
        return err_set(e, ERR_USAGE,
                       "'triad tokenizer train' needs --data FILE and -o FILE, and nothing without an "
                       "option; see 'triad tokenizer --help'");
    struct texts texts = {0};
    bool manifest = ends_with(a->data, ".jsonl") || ends_with(a->data, ".h5");
    int rc = manifest ? read_manifest(a, &texts, e) : read_lines(a, &texts, e);
    struct tokenizer *t = NULL;
    struct tok_train_options o = {.vocab_size = a->vocab, .min_frequency = a->min_count, .lowercase = a->lowercase};
    if (!rc) rc = tok_train_bpe(texts.v, (int64_t)texts.n, &o, &t, e);
    if (!rc) rc = tok_save(t, a->out, e);
    if (!rc) {
        char count[32], size[32];
        text_count(count, sizeof count, (int64_t)texts.n);
        text_count(size, sizeof size, tok_vocab_size(t));
        log_info("%s: %s tokens from %s texts", a->out, size, count);
    }
    tok_free(t);
    free(texts.v);
    arena_free(&texts.arena);
    return rc;
}

/* ---- encode */

struct ids {
    int32_t *v;
    int64_t n, cap;
};

/* All ids of a text, however many. */
static int encode_all(const struct tokenizer *t, const char *s, size_t len, struct ids *ids, struct err *e)
{
    int rc = 0;
    do {
        if (ids->n == ids->cap) {
            ids->cap = ids->cap ? 2 * ids->cap : 1024;
            ids->v = mem_resize(ids->v, (size_t)ids->cap * sizeof *ids->v);
        }
        rc = tok_encode(t, s, len, ids->v, ids->cap, &ids->n, e);
    } while (!rc && ids->n == ids->cap);
    return rc;
}

static int encode_lines(const struct tokenizer *t, struct err *e)
{
    char *line = NULL;
    size_t cap = 0;
    struct ids ids = {0};
    int rc = 0;
    for (ssize_t n; !rc && (n = getline(&line, &cap, stdin)) >= 0;) {
        ids.n = 0;
        rc = encode_all(t, line, (size_t)n - (n && line[n - 1] == '\n'), &ids, e);
        if (rc) break;
        for (int64_t i = 0; i < ids.n; i++) printf("%s%d", i ? "," : "[", ids.v[i]);
        puts(ids.n ? "]" : "[]");
    }
    if (!rc && ferror(stdin)) rc = err_errno(e, "cannot read standard input");
    if (fflush(stdout)) rc = rc ? rc : err_errno(e, "cannot write to standard output");
    free(ids.v);
    free(line);
    return rc;
}

static int encode_one(const struct tokenizer *t, const char *text, struct err *e)
{
    struct ids ids = {0};
    int rc = encode_all(t, text, strlen(text), &ids, e);
    for (int64_t i = 0; i < ids.n && !rc; i++) printf("%7d  %s\n", ids.v[i], tok_piece(t, ids.v[i]));
    free(ids.v);
    return rc;
}

static int encode(const struct args *a, struct err *e)
{
    if (a->n_words != (a->lines ? 1 : 2))
        return err_set(e, ERR_USAGE,
                       "'triad tokenizer encode' needs a tokenizer.json and either a text or --lines; "
                       "see 'triad tokenizer --help'");
    struct tokenizer *t;
    int rc = tok_load(a->word[0], &t, e);
    if (rc) return rc;
    rc = a->lines ? encode_lines(t, e) : encode_one(t, a->word[1], e);
    tok_free(t);
    return rc;
}

int cli_tokenizer(int argc, char **argv)
{
    static const char *const names[] = {"train", "encode"};
    struct err e = {0};
    if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
        fputs(help, argc < 2 ? stderr : stdout);
        return argc < 2 ? err_exit_status(ERR_USAGE) : 0;
    }
    struct args a = {.split = "train", .field = "text"};
    int rc = 0, command = !strcmp(argv[1], "train") ? 0 : !strcmp(argv[1], "encode") ? 1 : -1;
    if (command < 0) {
        const char *near = text_nearest(argv[1], names, 2);
        rc = err_set(&e, ERR_USAGE, "unknown command 'triad tokenizer %s'", argv[1]);
        if (near)
            err_append(&e, "; did you mean '%s'?", near);
        else
            err_append(&e, "; 'triad tokenizer --help' lists them");
    } else {
        rc = read_args(&a, argc - 1, argv + 1, &e);
        if (!rc && a.help) {
            fputs(help, stdout);
            return 0;
        }
        if (!rc) rc = command ? encode(&a, &e) : train(&a, &e);
    }
    if (rc) log_error("%s", e.msg);
    return err_exit_status(rc);
}
