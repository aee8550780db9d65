/* Classification, language model and CTC heads. See head.h. */
#include "models/head.h"

#include "models/trunk.h"

static val head(struct nn *m, val x, int64_t out)
{
    return nn_edge(m, "head", x, out, true);
}

val model_mean(struct nn *m, struct model_sum s)
{
    return ad_div(m->g, s.sum, ad_maximum(m->g, s.count, ad_const(m->g, AD_F32, 1)));
}

val model_classes(struct nn *m, const struct model_tower *t, struct model_shape s, int64_t classes, double dropout)
{
    val x = model_features(m, t, s); /* (B, D) */
    if (m->part && dropout > 0) return ad_fail(m->g, "%s: the head's dropout knows whole batches only", t->name);
    ad_push(m->g, "%s", t->name);
    x = nn_dropout(m, x, 0, dropout, false);
    val y = head(m, x, classes);
    ad_pop(m->g);
    return y;
}

/* Each row's successor: the next row's token, unless the next row begins a text (position 0) or is padding (-1). */
static val successors(struct nn *m, val tokens, const struct nn_seq *s)
{
    struct ad_graph *g = m->g;
    val position = nn_position(m, s), no = ad_const(g, AD_I32, -100);
    val token = ad_pad(g, ad_slice(g, tokens, 0, 1, s->rows, 1), 0, 0, 1, 0);
    position = ad_pad(g, ad_slice(g, position, 0, 1, s->rows, 1), 0, 0, 1, -1);
    val follows = ad_cast(g, ad_greater(g, position, ad_const(g, AD_I32, 0)), AD_I32);
    return ad_where(g, follows, token, no);
}

struct model_lm model_lm(struct nn *m, const struct model_tower *t, struct model_shape s)
{
    struct ad_graph *g = m->g;
    struct model_lm lm = {0};
    if (t->kind != MODEL_TEXT || !t->text.trunk.causal) {
        ad_fail(g, "%s: a language model needs a text tower whose trunk is causal", t->name);
        return lm;
    }
    const struct model_text *c = &t->text;
    val tokens;
    ad_push(g, "%s", t->name);
    lm.logits = model_trunk_run(m, &c->trunk, model_text_entry(m, c, s, &tokens));
    lm.next = successors(m, tokens, &lm.logits);
    ad_push(g, "token");
    val table = nn_param(m, "weight", SHAPE(c->vocab, c->trunk.width), MODEL_TOKEN_INIT, AD_EDGE);
    ad_pop(g);
    lm.logits.x = ad_matmul(g, lm.logits.x, table, false, true); /* (T, vocab) */
    ad_pop(g);
    return lm;
}

struct model_sum model_lm_sum(struct nn *m, const struct model_lm *lm)
{
    struct ad_graph *g = m->g;
    return (struct model_sum){ad_sum_all(g, ad_cross_entropy(g, lm->logits.x, lm->next, 0, -100)),
                              ad_sum_all(g, ad_greater_equal(g, lm->next, ad_const(g, AD_I32, 0)))};
}

val model_lm_loss(struct nn *m, const struct model_lm *lm)
{
    return model_mean(m, model_lm_sum(m, lm));
}

struct nn_seq model_ctc(struct nn *m, const struct model_tower *t, struct model_shape s, int64_t vocab)
{
    if (t->kind != MODEL_WAVE && t->kind != MODEL_AUDIO) {
        ad_fail(m->g, "%s: labels of frames need a tower over sound", t->name);
        return (struct nn_seq){.rows = s.rows, .items = s.items};
    }
    struct nn_seq y = model_hidden(m, t, s); /* (frames, D) */
    ad_push(m->g, "%s", t->name);
    y.x = head(m, y.x, vocab);
    ad_pop(m->g);
    return y;
}

struct model_sum model_ctc_sum(struct nn *m, const struct nn_seq *logits, val targets, val target_offsets, int blank,
                               bool zero_infinity)
{
    struct ad_graph *g = m->g;
    int64_t items = logits->items;
    val loss = ad_ctc_loss(g, ad_log_softmax(g, logits->x), logits->offsets, targets, target_offsets, blank,
                           zero_infinity); /* (B) */
    val labels =
        ad_sub(g, ad_slice(g, target_offsets, 0, 1, items + 1, 1), ad_slice(g, target_offsets, 0, 0, items, 1));
    val share = ad_cast(g, ad_maximum(g, labels, ad_const(g, AD_I32, 1)), AD_F32);
    return (struct model_sum){ad_sum_all(g, ad_div(g, loss, share)), ad_const(g, AD_F32, (double)items)};
}

val model_ctc_loss(struct nn *m, const struct nn_seq *logits, val targets, val target_offsets, int blank,
                   bool zero_infinity)
{
    return model_mean(m, model_ctc_sum(m, logits, targets, target_offsets, blank, zero_infinity));
}
