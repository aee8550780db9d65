/* Weights that the store keeps in bf16: a plan computes what it would with the same numbers in f32, and rounds their
 * gradients once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "optim/opt.h"
#include "tests/support/net.h"

enum { VOCAB = 130, WIDTH = 64, ROWS = 41, ITEMS = 3, SIDE = 6, CHANNELS = 32, TOKENS = 50 };

struct job {
    struct net n;
    char *grad;
    float *image;
};

static const int32_t offsets[] = {0, 17, 18, ROWS};
static int32_t tokens[ROWS];

/* Narrow: a table that gives rows and, transposed, logits; matrices of a block; a convolution; a table that is added. */
static struct job begin(bool narrow, unsigned flags)
{
    struct job j = {.n = net_begin(true)};
    struct nn *m = &j.n.m;
    struct ad_graph *g = m->g;
    for (int i = 0; i < ROWS; i++)
        tokens[i] = i % 7 == 6 ? VOCAB - 1 : i * 37 % TOKENS; /* some often, most not at all */
    struct nn_seq s = {.rows = ROWS, .items = ITEMS, .longest = 32};
    val index = ad_input(g, "tokens", AD_I32, SHAPE(ROWS));
    s.x = nn_embedding(m, "table", index, VOCAB, WIDTH, 0.3);
    s.offsets = ad_input(g, "offsets", AD_I32, SHAPE(ITEMS + 1));
    val more = ad_param(g, "added", AD_F32, SHAPE(ROWS + 30, WIDTH));
    struct err e = {0};
    CHECK(!ad_store_declare(m->store, "added", AD_F32, SHAPE(ROWS + 30, WIDTH), (struct ad_init){AD_INIT_NORMAL, 0.1},
                            0, &e));
    s.x = ad_add(g, s.x, ad_slice(g, more, 0, 5, ROWS + 5, 1));
    struct nn_block b = {.heads = 4, .mlp_ratio = 2, .activation = NN_GELU, .bias = true, .eps = 1e-5, .layers = 1};
    s.x = nn_transformer_block(m, "block", &s, &b);
    val table = ad_param(g, "table.weight", AD_F32, SHAPE(VOCAB, WIDTH));
    val logits = ad_matmul(g, s.x, table, false, true);
    val loss = ad_mean_all(g, ad_cross_entropy(g, logits, index, 0, -100));
    val im = ad_input(g, "image", AD_F32, SHAPE(ITEMS, SIDE, SIDE, CHANNELS));
    val y = nn_conv2d(m, "conv", im, (struct nn_conv){.out = CHANNELS, .kernel = 3, .stride = 1, .pad = -1});
    loss = ad_add(g, loss, ad_mean_all(g, ad_mul(g, y, y)));
    ad_output(g, "loss", loss);
    opt_emit_gradients(g, m->store, loss);
    if (narrow) ad_store_narrow(m->store);
    net_plan(&j.n, flags);
    j.grad = mem_zero(ad_store_flat_bytes(m->store), 1);
    opt_bind_gradients(j.n.p, m->store, j.grad);
    j.image = numbers(ITEMS * SIDE * SIDE * CHANNELS, "image");
    ad_bind(j.n.p, "tokens", tokens);
    ad_bind(j.n.p, "offsets", offsets);
    ad_bind(j.n.p, "image", j.image);
    return j;
}

static void end(struct job *j)
{
    free(j->grad);
    free(j->image);
    net_end(&j->n);
}

static int narrow_entries(const struct job *j)
{
    int n = 0;
    for (int i = 0; i < ad_store_count(j->n.m.store); i++) n += ad_is_narrow(ad_store_at(j->n.m.store, i));
    return n;
}

/* The wide job gets the narrow one's weights; both run. */
static void run_both(struct job *narrow, struct job *wide)
{
    for (int i = 0; i < ad_store_count(narrow->n.m.store); i++) {
        const struct ad_entry *p = ad_store_at(narrow->n.m.store, i);
        ad_entry_read(p, 0, p->count, ad_store_find(wide->n.m.store, p->name)->data);
    }
    net_run(&narrow->n, 1, 2);
    net_run(&wide->n, 1, 2);
}

/* The largest distance of a gradient's number from its f32 one, in steps of bf16 at that number, and where both are small,
 * in `least` of the tensor's largest. */
static double farthest(const struct job *narrow, const struct job *wide, double least, const char **name)
{
    double most = 0;
    for (int i = 0; i < ad_store_count(wide->n.m.store); i++) {
        const struct ad_entry *p = ad_store_at(wide->n.m.store, i), *q = ad_store_at(narrow->n.m.store, i);
        const float *want = (const void *)(wide->grad + p->place);
        double top = 0;
        for (int64_t k = 0; k < p->count; k++) top = fmax(top, fabs((double)want[k]));
        assert_true(top > 0);
        for (int64_t k = 0; k < p->count; k++) {
            const char *at = narrow->grad + q->place;
            double x = ad_is_narrow(q) ? bf16_to_float(((const uint16_t *)(const void *)at)[k])
                                       : ((const float *)(const void *)at)[k];
            double far = fabs(x - (double)want[k]) / (0x1p-8 * fabs((double)want[k]) + least * top);
            if (far > most) most = far, *name = p->name;
        }
    }
    return most;
}

/* With all sums in f32 what differs is half a step of bf16 (2^-9 of a number at most) and f32's own rounding, which may
 * turn a tie: 1e-6 of the largest. With any one pass left out, and all of them. */
static void gradients_are_rounded_once(void **state)
{
    struct job wide = begin(false, 0);
    static const unsigned without[] = {0, 1, 2, 4, 8, 16, AD_REFERENCE};
    for (int i = 0; i < 7; i++) {
        const char *name = "";
        unsigned flags = without[i];
        struct job narrow = begin(true, flags);
        assert_int_equal(narrow_entries(&narrow), 7);
        run_both(&narrow, &wide);
        double a = ad_result_scalar(narrow.n.p, "loss"), b = ad_result_scalar(wide.n.p, "loss");
        assert_true(fabs(a - b) < 2e-6 * b);
        double far = farthest(&narrow, &wide, 2e-6, &name);
        if (!(far < 1)) fail_msg("flags %u, %s: %g steps", flags, name, far);
        end(&narrow);
    }
    end(&wide);
}

/* Activations in bf16 as well: the weights add nothing to their distance but that. Sums of rounded numbers may be rounded
 * to the other side here and there, so the tensors are compared within a step of their largest. */
static void with_activations_in_bf16(void **state)
{
    const char *name = "";
    struct job wide = begin(false, AD_BF16_VALUES), narrow = begin(true, AD_BF16_VALUES);
    run_both(&narrow, &wide);
    double far = farthest(&narrow, &wide, 0x1p-8, &name);
    if (!(far < 1)) fail_msg("%s: %g steps", name, far);
    end(&wide);
    end(&narrow);
}

static void any_number_of_threads(void **state)
{
    static const int threads[] = {2, 3, 7};
    omp_set_num_threads(1);
    struct job one = begin(true, 0);
    net_run(&one.n, 1, 2);
    for (int i = 0; i < 3; i++) {
        omp_set_num_threads(threads[i]);
        struct job more = begin(true, 0);
        net_run(&more.n, 1, 2);
        assert_memory_equal(one.grad, more.grad, ad_store_flat_bytes(one.n.m.store));
        end(&more);
    }
    end(&one);
    omp_set_num_threads(2);
}

static void f16_activations_are_refused(void **state)
{
    struct job j = begin(true, 0);
    struct err e = {0};
    assert_null(ad_plan_new(j.n.m.g, j.n.m.store, AD_F16_VALUES, &e));
    assert_int_equal(e.code, ERR_CONFIG);
    assert_non_null(strstr(e.msg, "weights in bf16 go with activations in f32 or bf16"));
    end(&j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_are_rounded_once),
        cmocka_unit_test(with_activations_in_bf16),
        cmocka_unit_test(any_number_of_threads),
        cmocka_unit_test(f16_activations_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
