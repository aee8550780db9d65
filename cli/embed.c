/* triad embed: a manifest's embeddings in one file. */
#include <stdio.h>

#include "base/log.h"
#include "base/text.h"
#include "base/threads.h"
#include "cli/args.h"
#include "cli/cli.h"
#include "eval/index.h"

static int embed(const char *model, const char *manifest, const char *split, const char *out, struct err *e)
{
    struct run_model *m = NULL;
    struct manifest data = {0};
    struct eval_index x = {0};
    char n[32];
    int rc = run_model_open(model, &m, e);
    if (!rc) {
        threads_init((int)m->config.train.threads);
        rc = manifest_load(manifest, &data, e);
    }
    if (!rc) rc = eval_index_make(m, &data, split, true, &x, e);
    if (!rc) rc = eval_index_write(&x, m->dir, out, e);
    if (!rc)
        log_info("%s: %s items in %d modalities, %lld numbers each", out, text_count(n, sizeof n, x.n), x.n_modalities,
                 (long long)x.width);
    eval_index_free(&x);
    manifest_free(&data);
    run_model_free(m);
    return rc;
}

int cli_embed(int argc, char **argv)
{
    const char *out = NULL, *split = "all";
    const struct arg_flag flags[] = {
        {"output", 'o', ARG_STRING, &out, "FILE", "where to write: OUT.safetensors"},
        {"split", 's', ARG_STRING, &split, "S", "the items; \"a/b\": items of a with the clips of b"},
        {0}};
    const struct args a = {
        .command = "embed",
        .words = "MODEL MANIFEST",
        .summary = "Embeds every item of a manifest into one safetensors file: for each modality a tensor\n"
                   "(items, width) of unit vectors and \"<modality>.present\", with ids and captions. It is "
                   "what\n'triad search' looks in.",
        .flags = flags,
        .least = 2,
        .most = 2,
        .more = "example:\n"
                "  triad embed runs/emoji data/emoji/manifest.jsonl -o emoji.safetensors\n"};
    struct err e = {0};
    int n, rc = args_parse(&a, argc, argv, &n, &e);
    if (rc > 0) return 0;
    if (!rc && !out) rc = err_set(&e, ERR_USAGE, "'triad embed' needs -o FILE, where to write");
    if (!rc) rc = embed(argv[1], argv[2], split, out, &e);
    if (rc) log_error("%s", e.msg);
    return err_exit_status(rc);
}
