/* triad tokenizer: trains a tokenizer from captions, shows how one cuts a text. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "cli/args.h"
#include "cli/cli.h"
#include "data/manifest.h"
#include "data/tokenizer.h"

static const char help[] =
    "usage: triad tokenizer train --data FILE -o tokenizer.json [options]   train one from captions\n"
    "       triad tokenizer encode tokenizer.json TEXT                      show a text's tokens\n"
    "       triad tokenizer encode tokenizer.json --lines                   ids of each line of standard input\n"
    "\n"
    "'triad tokenizer COMMAND --help' says more.\n";

/* ---- train */

struct request {
    const char *data, *out, *split, *field;
    int64_t vocab, min_count;
    bool lowercase;
};

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

static int read_manifest(const struct request *a, struct texts *t, struct err *e)
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

static int read_lines(const struct request *a, struct texts *t, struct err *e)
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

static int train(const struct request *a, struct err *e)
{
    if (!a->data || !a->out)
        return err_set(e, ERR_USAGE,
                       "'triad tokenizer train' needs --data FILE and -o FILE; see 'triad tokenizer train --help'");
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

static int finish(int rc, const struct err *e)
{
    if (rc) log_error("%s", e->msg);
    return err_exit_status(rc);
}

static int train_main(int argc, char **argv)
{
    struct request r = {.split = "train", .field = "text", .vocab = 2048, .min_count = 2};
    const struct arg_flag flags[] = {
        {"data", 0, ARG_STRING, &r.data, "FILE",
         "a manifest (.jsonl) or pack (.h5), or a text file with a caption on each line"},
        {"output", 'o', ARG_STRING, &r.out, "FILE", "where to write it"},
        {"split", 0, ARG_STRING, &r.split, "NAME", "the manifest's split to read"},
        {"field", 0, ARG_STRING, &r.field, "NAME", "the manifest's field to read"},
        {"vocab", 0, ARG_INT, &r.vocab, "N", "tokens, special ones and the 256 bytes included", 1, 1e9},
        {"min-count", 0, ARG_INT, &r.min_count, "N", "how often two tokens must meet to be joined", 1, 1e9},
        {"lowercase", 0, ARG_BOOL, &r.lowercase, NULL, "read and encode everything as lower case"},
        {0},
    };
    const struct args a = {
        "tokenizer train",
        "",
        "Trains byte-level BPE, written as a tokenizer.json that the Hugging Face `tokenizers` library loads too.",
        flags,
        0,
        0,
        NULL};
    struct err e = {0};
    int n, rc = args_parse(&a, argc, argv, &n, &e);
    if (rc > 0) return 0;
    return finish(rc ? rc : train(&r, &e), &e);
}

static int encode(const char *path, const char *text, struct err *e)
{
    struct tokenizer *t;
    int rc = tok_load(path, &t, e);
    if (rc) return rc;
    rc = text ? encode_one(t, text, e) : encode_lines(t, e);
    tok_free(t);
    return rc;
}

static int encode_main(int argc, char **argv)
{
    bool lines = false;
    const struct arg_flag flags[] = {
        {"lines", 0, ARG_BOOL, &lines, NULL, "read texts from standard input, print a JSON list of ids for each line"},
        {0},
    };
    const struct args a = {"tokenizer encode",
                           "tokenizer.json [TEXT]",
                           "Shows the tokens of a text, by any tokenizer.json with BPE or WordPiece.",
                           flags,
                           1,
                           2,
                           NULL};
    struct err e = {0};
    int n, rc = args_parse(&a, argc, argv, &n, &e);
    if (rc > 0) return 0;
    if (!rc && n != (lines ? 1 : 2))
        rc = err_set(&e, ERR_USAGE,
                     "'triad tokenizer encode' needs a tokenizer.json and either a text or --lines; see 'triad "
                     "tokenizer encode --help'");
    return finish(rc ? rc : encode(argv[1], lines ? NULL : argv[2], &e), &e);
}

int cli_tokenizer(int argc, char **argv)
{
    static const struct arg_command list[] = {{"train", train_main}, {"encode", encode_main}};
    return args_dispatch("tokenizer", help, list, 2, argc, argv);
}
