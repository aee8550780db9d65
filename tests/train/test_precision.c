/* Runs whose activations are kept in 16 bits: they learn, they resume bit for bit with any number of threads, and f16
 * finds a loss scale that its gradients fit under. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/safetensors.h"
#include "tests/support/tiny.h"

/* The means of a metric over the first and the last `n` records. */
static void ends_of(const char *out, const char *name, int n, double *first, double *last)
{
    enum { MOST = 200 };
    double x[MOST];
    int count = 0;
    char line[4096];
    FILE *f = fopen(tiny_path(&tiny, "%s/metrics.jsonl", out), "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        json_error_t why;
        json_t *root = json_loads(line, 0, &why);
        assert_non_null(root);
        const json_t *v = json_object_get(root, name);
        if (json_is_number(v)) {
            assert_true(count < MOST);
            x[count++] = json_number_value(v);
        }
        json_decref(root);
    }
    fclose(f);
    assert_true(count >= 2 * n);
    *first = *last = 0;
    for (int i = 0; i < n; i++) *first += x[i] / n, *last += x[count - 1 - i] / n;
}

static double state_number(const char *out, int step, const char *name)
{
    json_error_t why;
    json_t *root = json_load_file(tiny_path(&tiny, "%s/checkpoints/step-%d/state.json", out, step), 0, &why);
    assert_non_null(root);
    const json_t *v = json_object_get(root, name);
    double x = json_is_number(v) ? json_number_value(v) : NAN;
    json_decref(root);
    return x;
}

/* Weights without a copy in f32: with a wider tower more than the table of tokens is so. */
#define WIDER "modalities.view.tower.vit.width=64"
#define NARROW "optim.weights=bf16 optim.state=bf16 " WIDER

/* 24 items seen 20 times: every precision learns them by heart as f32 does. */
static void every_precision_learns(void **state)
{
    static const char *const names[] = {"f32", "bf16", "f16", "weights"};
    double first[4], last[4];
    for (int i = 0; i < 4; i++) {
        char args[300];
        snprintf(args, sizeof args, "train.precision=%s train.steps=60 train.loss_scale=1024 %s",
                 i < 3 ? names[i] : "bf16", i < 3 ? WIDER : NARROW);
        tiny_trains(names[i], args);
        ends_of(names[i], "loss", 6, &first[i], &last[i]);
        assert_true(last[i] < 0.75 * first[i]);
        assert_true(fabs(first[i] - first[0]) < 0.02 * first[0]);
        assert_true(fabs(last[i] - last[0]) < 0.2 * last[0]);
    }
    assert_true(isnan(state_number("bf16", 60, "loss_scale")));
    assert_true(state_number("f16", 60, "loss_scale") == 1024);
    assert_true(state_number("f16", 60, "loss_scale_good") == 60);
}

/* f16's scale doubles twice on the way. */
static void resumes_bit_for_bit(void **state)
{
    static const char *const how[] = {"train.precision=bf16",
                                      "train.precision=f16 train.loss_scale=256 train.loss_scale_every=4", NARROW};
    for (int i = 0; i < 3; i++) {
        char args[300], whole[40], out[40];
        snprintf(whole, sizeof whole, "whole-%d", i);
        snprintf(args, sizeof args, "train.save_every=1 train.keep=100 train.threads=1 %s", how[i]);
        tiny_trains(whole, args);
        for (int k = 3; k < TINY_STEPS; k += 4) {
            snprintf(out, sizeof out, "from-%d-%d", i, k);
            tiny_stopped_at(whole, k, out);
            snprintf(args, sizeof args, "--resume train.threads=2 %s %s", how[i],
                     k == 7 ? "train.debug=norecompute" : "");
            tiny_trains(out, args);
            tiny_same_end(whole, out);
        }
    }
    assert_true(state_number("whole-1", 3, "loss_scale") == 256 && state_number("whole-1", 3, "loss_scale_good") == 3);
    assert_true(state_number("whole-1", 4, "loss_scale") == 512 && state_number("whole-1", 4, "loss_scale_good") == 0);
    assert_true(state_number("whole-1", TINY_STEPS, "loss_scale") == 1024);
}

static enum st_dtype dtype_in(const char *out, const char *name)
{
    struct st_file *f;
    struct err e = {0};
    assert_int_equal(st_open(tiny_path(&tiny, "%s/checkpoints/step-60/model.safetensors", out), &f, &e), 0);
    const struct st_tensor *t = st_find(f, name);
    assert_non_null(t);
    enum st_dtype d = t->dtype;
    st_close(f);
    return d;
}

/* A checkpoint has weights as they are kept, and a run goes on with others: rounded, or widened. */
static void weights_may_change_their_type(void **state)
{
    static const char table[] = "text.token.weight", head[] = "text.project.weight";
    assert_int_equal(dtype_in("f32", table), ST_F32);
    assert_int_equal(dtype_in("weights", table), ST_BF16);
    assert_int_equal(dtype_in("weights", head), ST_F32); /* small */
    tiny_copy(tiny_path(&tiny, "f32"), tiny_path(&tiny, "narrowed"));
    tiny_trains("narrowed", "--resume train.steps=62 train.loss_scale=1024 optim.weights=bf16 " WIDER);
    tiny_copy(tiny_path(&tiny, "weights"), tiny_path(&tiny, "widened"));
    tiny_trains("widened", "--resume train.precision=bf16 train.steps=62 " NARROW " optim.weights=f32");
    double first[2], last[2];
    ends_of("f32", "loss", 1, &first[0], &last[0]);
    ends_of("narrowed", "loss", 1, &first[1], &last[1]);
    assert_true(last[1] < 0.8 * first[0]); /* it did not begin anew */
    ends_of("weights", "loss", 1, &first[0], &last[0]);
    ends_of("widened", "loss", 1, &first[1], &last[1]);
    assert_true(last[1] < 0.8 * first[0]);
}

static void what_narrow_weights_do_not_go_with(void **state)
{
    static const struct {
        const char *args, *why;
    } wrong[] = {{"train.micro_batch=4", "optim.weights: bf16 does not go with train.micro_batch"},
                 {"train.precision=f16", "optim.weights: bf16 goes with train.precision f32 or bf16"},
                 {"optim.kind=muon", "optim.weights: bf16 goes with adamw"}};
    for (int i = 0; i < 3; i++) {
        char args[200];
        struct err e = {0};
        snprintf(args, sizeof args, "optim.weights=bf16 %s", wrong[i].args);
        assert_int_equal(tiny_train(&tiny, "wrong", args, &e), ERR_CONFIG);
        tiny_has(e.msg, wrong[i].why);
    }
}

/* Gradients times 2^24 are beyond f16: steps are left out until they fit, and then it trains. */
static void an_overflow_recovers(void **state)
{
    char *text = tiny_run(&tiny, "overflow", "train.precision=f16 train.loss_scale=16777216 train.steps=40", 0);
    tiny_has(text, "step 0: a gradient is beyond f16's range; the step is left out, the loss scale becomes 8388608");
    free(text);
    double first, last, scale = state_number("overflow", 40, "loss_scale");
    assert_true(scale >= 1 && scale < 8388608);
    ends_of("overflow", "loss_scale", 1, &first, &last);
    assert_true(first > last && last == scale);
    ends_of("overflow", "loss", 6, &first, &last);
    assert_true(last < 0.85 * first);
}

/* What no scale mends ends the run with the layer's name, as in f32. */
static void a_nan_still_ends_the_run(void **state)
{
    static const char *const names[] = {"bf16", "f16"};
    for (int i = 0; i < 2; i++) {
        struct err e = {0};
        char args[200], out[16];
        snprintf(out, sizeof out, "nan-%d", i);
        snprintf(args, sizeof args,
                 "train.precision=%s train.loss_scale=4 train.steps=60 optim.lr=100 optim.weight_decay=10 "
                 "optim.warmup=0 optim.ema=0 optim.decay=constant",
                 names[i]);
        assert_int_equal(tiny_train(&tiny, out, args, &e), ERR_NONFINITE);
        tiny_has(e.msg, "made a value that is not finite");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_precision_learns),        cmocka_unit_test(resumes_bit_for_bit),
        cmocka_unit_test(weights_may_change_their_type), cmocka_unit_test(what_narrow_weights_do_not_go_with),
        cmocka_unit_test(an_overflow_recovers),          cmocka_unit_test(a_nan_still_ends_the_run),
    };
    return cmocka_run_group_tests(tests, tiny_begin, tiny_end);
}
