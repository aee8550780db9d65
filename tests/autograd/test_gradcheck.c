/* Every op's cases, and the check itself: what is wrong on purpose must be found.
 *   test_gradcheck                  all ops
 *   test_gradcheck OP [CASE [SEED]] one */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "autograd/ops/ops.h"
#include "base/mem.h"
#include "tests/support/gradcheck.h"

extern const struct ad_op ad_op_tanh, ad_op_exp, ad_op_sum, ad_op_silu, ad_op_mul, ad_op_cumsum;

static void check_op(void **state)
{
    struct err e = {0};
    if (gradcheck_op(*state, GRADCHECK_SEED, &e)) fail_msg("%s", e.msg);
}

/* ---- planted errors: copies of right ops with one thing wrong ---------------------------------------------------- */

static struct ad_op bad;

static int build_bad(struct ad_graph *g, const val *in, val *out)
{
    out[0] = ad_node(g, &bad, NULL, in, bad.min_in);
    return 1;
}
static const struct ad_case one_input[] = {{.in = "3x4", .build = build_bad}};
static const struct ad_case two_inputs[] = {{.in = "3x4 3x4", .build = build_bad}};

/* The check must fail, and say `word`. */
static void must_find(const char *word)
{
    struct err e = {0};
    assert_int_equal(gradcheck_op(&bad, GRADCHECK_SEED, &e), ERR_STATE);
    if (!strstr(e.msg, word)) fail_msg("expected '%s' in: %s", word, e.msg);
    assert_non_null(strstr(e.msg, bad.name));
    assert_non_null(strstr(e.msg, "run it alone:"));
}

static void plant(const struct ad_op *op, const char *name)
{
    bad = *op;
    bad.name = name;
    bad.cases = op->min_in == 2 ? two_inputs : one_input;
    bad.n_cases = 1;
}

static val tanh_slope(struct ad_graph *g, val y)
{
    return ad_shift(g, ad_neg(g, ad_square(g, y)), 1);
}

static void vjp_right(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    dx[0] = ad_mul(g, dy[0], tanh_slope(g, n->out));
}
static void right_copy(void **state)
{
    struct err e = {0};
    plant(&ad_op_tanh, "right_tanh");
    bad.vjp = vjp_right;
    if (gradcheck_op(&bad, GRADCHECK_SEED, &e)) fail_msg("%s", e.msg);
}

static void vjp_flipped(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    dx[0] = ad_neg(g, ad_mul(g, dy[0], tanh_slope(g, n->out)));
}
static void flipped_sign(void **state)
{
    plant(&ad_op_tanh, "flipped_tanh");
    bad.vjp = vjp_flipped;
    must_find("gradient, all inputs");
}

static void vjp_twice(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    dx[0] = ad_scale(g, ad_mul(g, dy[0], n->out), 2);
}
static void factor_two(void **state)
{
    plant(&ad_op_exp, "twice_exp");
    bad.vjp = vjp_twice;
    must_find("gradient, all inputs");
}

static int build_bad_sum(struct ad_graph *g, const val *in, val *out)
{
    const struct {
        uint32_t axes, keep;
    } rows = {2, 1};
    out[0] = ad_node(g, &bad, &rows, in, 1);
    return 1;
}
static const struct ad_case sum_cases[] = {{.in = "3x4", .build = build_bad_sum}};
static void vjp_mean(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    dx[0] = ad_scale(g, ad_broadcast(g, dy[0], ad_shape_of(g, n->in[0])), 0.25);
}
static void mean_for_sum(void **state)
{
    plant(&ad_op_sum, "mean_sum");
    bad.cases = sum_cases;
    bad.vjp = vjp_mean;
    must_find("gradient, all inputs");
}

/* silu's gradient is s + y (1 - s) */
static void vjp_term(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    dx[0] = ad_mul(g, dy[0], ad_sigmoid(g, n->in[0]));
}
static void missing_term(void **state)
{
    plant(&ad_op_silu, "term_silu");
    bad.vjp = vjp_term;
    must_find("gradient, all inputs");
}

/* The two errors cancel in neither direction of one input alone; together they could. */
static void vjp_swapped(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    dx[0] = ad_mul(g, dy[0], n->in[0]);
    dx[1] = ad_mul(g, dy[0], n->in[1]);
}
static void swapped_inputs(void **state)
{
    plant(&ad_op_mul, "swapped_mul");
    bad.vjp = vjp_swapped;
    must_find("gradient");
}

static void vjp_stopped(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx)
{
    dx[0] = ad_mul(g, dy[0], ad_stop_gradient(g, n->out));
}
static void second_order(void **state)
{
    plant(&ad_op_exp, "stopped_exp");
    bad.vjp = vjp_stopped;
    must_find("second order");
}

static void vjp_none(struct ad_graph *g, const struct ad_node *n, const val *dy, val *dx) {}
static void no_gradient_at_all(void **state)
{
    plant(&ad_op_exp, "none_exp");
    bad.vjp = vjp_none;
    must_find("gradient, all inputs");
    bad.vjp = NULL;
    must_find("has no gradient");
}

/* Not only gradients: a wrong identity, an eval that forgets, one that writes too far. */
static val wrong_identity(struct ad_graph *g, const struct ad_node *n, const val *in)
{
    return in[0];
}
static void wrong_simplify(void **state)
{
    plant(&ad_op_tanh, "identity_tanh");
    bad.simplify = wrong_identity;
    must_find("the reference gives");
}

static int infer_same(struct ad_infer *f)
{
    f->shape[0] = f->in_shape[0];
    return 0;
}
static void eval_forgets(const struct ad_call *c)
{
    for (int64_t i = 0; i + 1 < ad_count(c->out[0].shape); i++) ad_set(&c->out[0], i, ad_get(&c->in[0], i));
}
static void eval_too_far(const struct ad_call *c)
{
    for (int64_t i = 0; i <= ad_count(c->out[0].shape); i++) ad_set(&c->out[0], i, 1);
}
static void wrong_eval(void **state)
{
    bad = (struct ad_op){.name = "forgetful",
                         .min_in = 1,
                         .max_in = 1,
                         .infer = infer_same,
                         .eval = eval_forgets,
                         .cases = one_input,
                         .n_cases = 1};
    must_find("does not write all");
    bad.name = "careless";
    bad.eval = eval_too_far;
    must_find("writes outside");
    bad.name = "untested";
    bad.n_cases = 0;
    struct err e = {0};
    assert_int_equal(gradcheck_op(&bad, GRADCHECK_SEED, &e), ERR_STATE);
    assert_non_null(strstr(e.msg, "has no cases"));
}

static int alone(int argc, char **argv)
{
    struct err e = {0};
    uint64_t seed = argc > 3 ? strtoull(argv[3], NULL, 10) : GRADCHECK_SEED;
    for (int i = 0; i < ad_n_ops; i++) {
        if (strcmp(ad_all_ops[i]->name, argv[1])) continue;
        int number = argc > 2 ? (int)strtol(argv[2], NULL, 10) : -1;
        if (number >= ad_all_ops[i]->n_cases) break;
        int rc = number < 0 ? gradcheck_op(ad_all_ops[i], seed, &e) : gradcheck_case(ad_all_ops[i], number, seed, &e);
        print_message("%s\n", rc ? e.msg : "right");
        return rc != 0;
    }
    print_message("there is no such op or case\n");
    return 2;
}

int main(int argc, char **argv)
{
    if (argc > 1) return alone(argc, argv);
    const struct CMUnitTest planted[] = {
        cmocka_unit_test(right_copy),   cmocka_unit_test(flipped_sign),       cmocka_unit_test(factor_two),
        cmocka_unit_test(mean_for_sum), cmocka_unit_test(missing_term),       cmocka_unit_test(swapped_inputs),
        cmocka_unit_test(second_order), cmocka_unit_test(no_gradient_at_all), cmocka_unit_test(wrong_simplify),
        cmocka_unit_test(wrong_eval),
    };
    struct CMUnitTest *test = mem_zero((size_t)ad_n_ops, sizeof *test);
    for (int i = 0; i < ad_n_ops; i++)
        test[i] = (struct CMUnitTest){ad_all_ops[i]->name, check_op, NULL, NULL, (void *)(uintptr_t)ad_all_ops[i]};
    print_message("# seed %d\n", GRADCHECK_SEED);
    int failed = cmocka_run_group_tests_name("planted errors", planted, NULL, NULL);
    failed += _cmocka_run_group_tests("gradients", test, (size_t)ad_n_ops, NULL, NULL);
    free(test);
    return failed;
}
