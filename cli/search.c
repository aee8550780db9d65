/* triad search: the items most similar to a text, a picture or a sound. */
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/html.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/threads.h"
#include "cli/args.h"
#include "cli/cli.h"
#include "eval/index.h"
#include "eval/measure.h"
#include "eval/show.h"

struct search {
    const char *model, *index; /* as given */
    const char *text, *image, *audio, *query, *in, *html;
    int64_t k;
    bool json;

    struct run_model *m;
    struct eval_index x;
    int asked;         /* the query's modality */
    int target;        /* a modality of the index */
    const char *value; /* the query: a text or a file */
    struct manifest one;
    struct eval_hit *hit;
    int64_t n;
};

/* ---- the query */

static int of_kind(const struct run_model *m, enum data_kind kind, struct err *e)
{
    static const char *const what[] = {"pictures", "texts", "sounds"};
    for (int i = 0; i < m->n; i++)
        if (m->input[i].kind == kind) return i;
    err_set(e, ERR_USAGE, "this model does not read %s; it has ", what[kind]);
    for (int i = 0; i < m->n; i++)
        err_append(e, "%s%s (%s)", i ? ", " : "", m->tower[i].name, run_kind_names[m->input[i].kind]);
    return -1;
}

static int choose_query(struct search *s, struct err *e)
{
    int n = (s->text != NULL) + (s->image != NULL) + (s->audio != NULL) + (s->query != NULL);
    if (n != 1)
        return err_set(e, ERR_USAGE, "%s: give one of \"text\", --image FILE, --audio FILE, --query MODALITY=VALUE",
                       n ? "more than one query" : "there is no query");
    if (s->query) {
        const char *eq = strchr(s->query, '=');
        if (!eq) return err_set(e, ERR_USAGE, "--query should be MODALITY=VALUE, but '%s' came", s->query);
        char *name = mem_strndup(s->query, (size_t)(eq - s->query));
        s->asked = run_modality(s->m, name, e);
        free(name);
        s->value = eq + 1;
    } else {
        s->asked = of_kind(s->m, s->image ? DATA_IMAGE : s->audio ? DATA_AUDIO : DATA_TEXT, e);
        s->value = s->image ? s->image : s->audio ? s->audio : s->text;
    }
    return s->asked < 0 ? e->code : 0;
}

static int find_modality(const struct eval_index *x, const char *name)
{
    for (int i = 0; i < x->n_modalities; i++)
        if (!strcmp(x->name[i], name)) return i;
    return -1;
}

/* --in, else pictures, else the first modality that is not the query's. */
static int choose_target(struct search *s, struct err *e)
{
    const char *name = s->in;
    for (int i = 0; i < s->m->n && !name; i++)
        if (s->m->input[i].kind == DATA_IMAGE) name = s->m->tower[i].name;
    for (int i = 0; i < s->m->n && !name; i++)
        if (i != s->asked) name = s->m->tower[i].name;
    if (run_modality(s->m, name, e) < 0) return e->code;
    s->target = find_modality(&s->x, name);
    return s->target < 0 ? err_set(e, ERR_USAGE, "the index %s has no modality '%s'", s->index, name) : 0;
}

/* The query as a manifest of one item, so that it is read just as the data is: q (width). */
static int embed_query(struct search *s, float *q, struct err *e)
{
    const struct data_modality *in = &s->m->input[s->asked];
    struct buf line = {0};
    char path[PATH_MAX];
    bool file = in->kind != DATA_TEXT, has = false;
    if (file && !realpath(s->value, path)) return err_errno(e, "cannot read %s", s->value);
    buf_str(&line, "{");
    buf_json(&line, in->field);
    buf_str(&line, file ? ": {\"file\": " : ": [");
    buf_json(&line, file ? path : s->value);
    buf_str(&line, file ? "}}\n" : "]}\n");
    int rc = manifest_parse("query", ".", line.data, line.len, &s->one, e);
    buf_free(&line);
    s->m->config.data.on_bad = 0; /* there is no other item to take instead */
    if (!rc) rc = run_embed_items(s->m, s->asked, &s->one, (int64_t[]){0}, 1, NULL, 0, q, &has, false, e);
    return rc;
}

/* ---- the index */

/* Beside the model, named by what it depends on. */
static char *cache_path(const struct search *s)
{
    struct stat st;
    char path[PATH_MAX];
    if (stat(s->index, &st) || !realpath(s->index, path)) return NULL;
    int64_t when[] = {st.st_size, st.st_mtim.tv_sec, st.st_mtim.tv_nsec};
    uint64_t h = hash_bytes(when, sizeof when, hash_str(path)), weights = eval_weights(s->m);
    h = hash_bytes(&weights, sizeof weights, h);
    return mem_printf("%s/index-%016" PRIx64 ".safetensors", s->m->dir, h);
}

static int make_index(struct search *s, struct err *e)
{
    struct manifest data;
    struct err why = {0};
    char *cache = cache_path(s);
    int rc = cache && file_exists(cache) ? eval_index_read(cache, &s->x, &why) : ERR_IO;
    if (rc) {
        rc = manifest_load(s->index, &data, e);
        if (!rc) {
            rc = eval_index_make(s->m, &data, "all", true, &s->x, e);
            manifest_free(&data);
        }
        err_clear(&why);
        if (!rc && cache && eval_index_write(&s->x, s->m->dir, cache, &why))
            log_warn("the index is not kept for the next search: %s", why.msg);
    }
    free(cache);
    return rc;
}

/* An index is named so, or begins as safetensors do: eight bytes of a length, then "{". No manifest and no pack does. */
static bool is_index(const char *path)
{
    static const char end[] = ".safetensors";
    size_t n = strlen(path), k = strlen(end);
    if (n >= k && !strcmp(path + n - k, end)) return true;
    unsigned char head[9];
    FILE *f = fopen(path, "re");
    bool whole = f && fread(head, 1, sizeof head, f) == sizeof head;
    if (f) fclose(f);
    return whole && head[7] == 0 && head[6] == 0 && head[8] == '{';
}

static int open_index(struct search *s, struct err *e)
{
    if (!is_index(s->index)) return make_index(s, e);
    int rc = eval_index_read(s->index, &s->x, e);
    if (!rc && (s->x.width != s->m->config.embed || s->x.weights != eval_weights(s->m)))
        rc = err_set(e, ERR_STATE,
                     "%s was made with other weights than those of %s; make it again: triad embed %s %s -o %s",
                     s->index, s->model, s->model, s->x.manifest, s->index);
    return rc;
}

/* ---- results */

static void print(const struct search *s)
{
    int wide = 0;
    for (int64_t i = 0; i < s->n; i++) {
        int n = (int)strlen(s->x.id[s->hit[i].item]);
        wide = n > wide && n <= 32 ? n : wide;
    }
    for (int64_t i = 0; i < s->n; i++) {
        int64_t k = s->hit[i].item;
        printf("%3lld  %6.3f  %-*s  %s%s%s\n", (long long)i + 1, s->hit[i].similarity, wide, s->x.id[k], s->x.mark[k],
               *s->x.mark[k] ? "  " : "", s->x.caption[k]);
    }
    if (!s->n) printf("nothing: no item of the index has the modality '%s'\n", s->x.name[s->target]);
}

static void print_json(const struct search *s)
{
    struct buf b = {0};
    buf_str(&b, "{\"query\": {\"modality\": ");
    buf_json(&b, s->m->tower[s->asked].name);
    buf_str(&b, ", \"value\": ");
    buf_json(&b, s->value);
    buf_str(&b, "}, \"in\": ");
    buf_json(&b, s->x.name[s->target]);
    buf_str(&b, ", \"results\": [");
    for (int64_t i = 0; i < s->n; i++) {
        int64_t k = s->hit[i].item;
        buf_printf(&b, "%s\n  {\"rank\": %lld, \"similarity\": %.6f, \"id\": ", i ? "," : "", (long long)i + 1,
                   s->hit[i].similarity);
        buf_json(&b, s->x.id[k]);
        buf_str(&b, ", \"caption\": ");
        buf_json(&b, s->x.caption[k]);
        if (*s->x.mark[k]) {
            buf_str(&b, ", \"emoji\": ");
            buf_json(&b, s->x.mark[k]);
        }
        buf_str(&b, "}");
    }
    buf_str(&b, "\n]}\n");
    fputs(b.data, stdout);
    buf_free(&b);
}

static int64_t find_item(const struct manifest *data, const char *id)
{
    for (int64_t i = 0; i < data->n; i++)
        if (!strcmp(data->item[i].id, id)) return i;
    return -1;
}

static void show_hit(struct buf *b, struct eval_show *show, const struct search *s, const struct manifest *data,
                     const struct eval_hit *hit)
{
    const char *name = s->x.name[s->target], *entries = eval_split_entries(s->x.split);
    int i = run_modality(s->m, name, NULL);
    int64_t item = find_item(data, s->x.id[hit->item]);
    const struct manifest_entry *entry =
        item >= 0 && i >= 0 ? eval_entry(data, item, s->m->input[i].field, entries, 0) : NULL;
    buf_str(b, "<div class=\"hit\">\n");
    if (entry) eval_show(b, show, data, entry, s->m->input[i].kind);
    if (!entry || s->m->input[i].kind != DATA_TEXT) {
        buf_str(b, "<div>");
        buf_html(b, s->x.caption[hit->item]);
        buf_str(b, "</div>\n");
    }
    buf_printf(b, "<div class=\"under\">%.3f</div></div>\n", hit->similarity);
}

static int write_page(struct search *s, struct err *e)
{
    struct buf b = {0};
    struct manifest data = {0};
    struct err why = {0};
    struct eval_show show = {.px = 128, .sound_bytes = 5000000};
    if (manifest_load(s->x.manifest, &data, &why)) /* the captions are in the index: a page without pictures then */
        log_warn("the page shows captions alone: %s", why.msg);
    char *subtitle = mem_printf("The %lld nearest of %lld in '%s' by %s.", (long long)s->n, (long long)s->x.n,
                                s->x.name[s->target], s->m->dir);
    html_begin(&b, s->m->input[s->asked].kind == DATA_TEXT ? s->value : file_basename(s->value), subtitle);
    eval_show_style(&b);
    if (s->m->input[s->asked].kind != DATA_TEXT) {
        html_grid_begin(&b, 160);
        buf_str(&b, "<div class=\"hit q\"><div class=\"over\">query</div>\n");
        eval_show(&b, &show, &s->one, &s->one.item[0].field[0].entry[0], s->m->input[s->asked].kind);
        buf_str(&b, "</div>\n");
        html_grid_end(&b);
    }
    html_grid_begin(&b, 160);
    for (int64_t i = 0; i < s->n; i++) show_hit(&b, &show, s, &data, &s->hit[i]);
    html_grid_end(&b);
    html_end(&b);
    int rc = file_write(s->html, b.data, b.len, e);
    if (!rc) log_info("%s: open it in a browser", s->html);
    buf_free(&b);
    free(subtitle);
    manifest_free(&data);
    return rc;
}

static int search(struct search *s, struct err *e)
{
    int rc = run_model_open(s->model, &s->m, e);
    if (rc) return rc;
    threads_init((int)s->m->config.train.threads);
    float *q = mem_zero((size_t)s->m->config.embed, sizeof *q);
    rc = choose_query(s, e);
    if (!rc) rc = embed_query(s, q, e);
    if (!rc) rc = open_index(s, e);
    if (!rc) rc = choose_target(s, e);
    if (!rc) {
        s->hit = mem_alloc((size_t)s->k * sizeof *s->hit);
        s->n = eval_index_search(&s->x, s->target, q, s->k, s->hit);
        (s->json ? print_json : print)(s);
        if (s->html) rc = write_page(s, e);
    }
    free(s->hit);
    free(q);
    manifest_free(&s->one);
    eval_index_free(&s->x);
    run_model_free(s->m);
    return rc;
}

int cli_search(int argc, char **argv)
{
    struct search s = {.k = 10};
    const struct arg_flag flags[] = {
        {"image", 0, ARG_STRING, &s.image, "FILE", "ask with a picture"},
        {"audio", 0, ARG_STRING, &s.audio, "FILE", "ask with a sound"},
        {"query", 0, ARG_STRING, &s.query, "NAME=VALUE", "ask in the modality of that name: a text or a file"},
        {"in", 0, ARG_STRING, &s.in, "MODALITY", "what is looked for (pictures, where the model has them)"},
        {"count", 'k', ARG_INT, &s.k, "N", "how many to show", 1, 1000},
        {"json", 0, ARG_BOOL, &s.json, NULL, "print JSON"},
        {"html", 0, ARG_STRING, &s.html, "FILE", "write a page with pictures and sounds too"},
        {0}};
    const struct args a = {
        .command = "search",
        .words = "MODEL INDEX [\"text\"]",
        .summary =
            "Finds the items most similar to a text, a picture or a sound. INDEX is what 'triad embed' wrote, or "
            "a\nmanifest: that is then embedded once and kept beside the model.",
        .flags = flags,
        .least = 2,
        .most = 3,
        .more = "examples:\n"
                "  triad search runs/emoji data/emoji/manifest.jsonl \"a smiling cat\"\n"
                "  triad search runs/emoji emoji.safetensors --audio me.wav -k 5 --html found.html\n"
                "  triad search runs/emoji emoji.safetensors --image cat.png --in text\n"};
    struct err e = {0};
    int n, rc = args_parse(&a, argc, argv, &n, &e);
    if (rc > 0) return 0;
    if (!rc) {
        s.model = argv[1];
        s.index = argv[2];
        s.text = n > 2 ? argv[3] : NULL;
        rc = search(&s, &e);
    }
    if (rc) log_error("%s", e.msg);
    return err_exit_status(rc);
}
