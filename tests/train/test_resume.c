/* A run that is stopped and resumed ends bit for bit where an uninterrupted one does: at any step, any number of times,
 * with any number of threads and loader threads; and its records hold each step once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "tests/support/tiny.h"

/* The reference, whose every checkpoint is kept: a run stopped at step k leaves just its step-k. */
static int begin(void **state)
{
    tiny_begin(state);
    return tiny_whole("data.valid=[valid] train.valid_every=2");
}

static void test_saving_changes_nothing(void **state)
{
    tiny_trains("unsaved", "");
    tiny_same_end("whole", "unsaved");
}

static void test_any_step_any_threads(void **state)
{
    for (int k = 1; k < TINY_STEPS; k++) {
        char out[32], args[100];
        snprintf(out, sizeof out, "from-%d", k);
        snprintf(args, sizeof args, "--resume data.workers=%d train.threads=%d data.cache=%s", k % 4, 1 + k % 3,
                 k % 2 ? "0" : "1MB");
        tiny_stopped_at("whole", k, out);
        tiny_trains(out, args);
        tiny_same_end("whole", out);
    }
}

static void test_several_resumes(void **state)
{
    static const int at[] = {2, 3, 4, 6, 9, TINY_STEPS};
    for (size_t i = 0; i + 1 < sizeof at / sizeof *at; i++) {
        char from[32] = "whole", out[32], args[100];
        if (i) snprintf(from, sizeof from, "chain-%zu", i - 1);
        snprintf(out, sizeof out, "chain-%zu", i);
        snprintf(args, sizeof args, "--resume train.save_every=1 train.keep=100 train.threads=%d", (int)(i % 2) + 1);
        tiny_stopped_at(from, at[i], out);
        tiny_trains(out, args);
        for (int k = at[i]; k <= TINY_STEPS; k++)
            tiny_same(tiny_path(&tiny, "whole/checkpoints/step-%d", k),
                      tiny_path(&tiny, "%s/checkpoints/step-%d", out, k));
    }
}

/* Moments in 16 bits are stored as they are, and their rounding is a function of the step. A run may also change how it
 * stores them: it goes on and is another run. */
static void test_moments_in_16_bits(void **state)
{
    tiny_trains("whole16", "optim.state=bf16 train.save_every=1 train.keep=100");
    tiny_stopped_at("whole16", 5, "from16");
    tiny_trains("from16", "--resume optim.state=bf16 train.threads=3");
    tiny_same_end("whole16", "from16");
    tiny_stopped_at("whole16", 5, "to32");
    tiny_trains("to32", "--resume optim.state=f32");
    tiny_stopped_at("whole", 5, "to16");
    tiny_trains("to16", "--resume optim.state=bf16");
}

/* Batches of as many items as fit a budget, in parts too: where a batch begins follows from those before it. */
static void test_by_budget(void **state)
{
    static const char *const by[] = {
        "data.batch_by=tokens data.budget=60 train.micro_batch=3",
        "data.batch_by=seconds data.budget=0.7 data.budget_of=sound",
    };
    for (int i = 0; i < 2; i++) {
        char whole[40], from[60], args[240];
        snprintf(whole, sizeof whole, "budget-%d", i);
        snprintf(args, sizeof args, "%s train.save_every=1 train.keep=100", by[i]);
        tiny_trains(whole, args);
        for (int k = 2; k < TINY_STEPS; k += 3) {
            snprintf(from, sizeof from, "budget-%d-from-%d", i, k);
            snprintf(args, sizeof args, "--resume %s train.threads=%d data.workers=%d", by[i], 1 + k % 3, k % 4);
            tiny_stopped_at(whole, k, from);
            tiny_trains(from, args);
            tiny_same_end(whole, from);
        }
    }
}

/* The same for the other optimizers, and for moments in 8 bits (the text's embedding has enough numbers for them). */
static void test_other_optimizers(void **state)
{
    static const char *const how[] = {
        "optim.state=8bit",
        "optim.kind=lamb",
        "optim.kind=lars optim.lr=1 optim.state=bf16",
        "optim.kind=lion optim.lr=1e-3 optim.state=8bit",
        "optim.kind=adafactor",
        "optim.kind=muon optim.nesterov=true optim.state=8bit",
    };
    for (size_t i = 0; i < sizeof how / sizeof *how; i++) {
        char whole[32], part[32], args[200];
        snprintf(whole, sizeof whole, "other-%zu", i);
        snprintf(part, sizeof part, "part-%zu", i);
        snprintf(args, sizeof args, "%s train.save_every=5 train.keep=100", how[i]);
        tiny_trains(whole, args);
        tiny_stopped_at(whole, 5, part);
        snprintf(args, sizeof args, "--resume %s train.threads=3", how[i]);
        tiny_trains(part, args);
        tiny_same_end(whole, part);
    }
    tiny_stopped_at("other-0", 5, "back");
    tiny_trains("back", "--resume optim.state=f32");
}

/* Steps in the backward pass are those behind it: every checkpoint and every line but for times is the same, and the one
 * resumes the other. */
static void test_steps_in_backward(void **state)
{
    static const char *const how[] = {"", "optim.state=bf16 train.precision=bf16 train.debug=nan",
                                      "optim.kind=lion optim.lr=1e-3 optim.weights=bf16 optim.weight_decay=0",
                                      "optim.kind=sgd optim.ema=0"};
    for (size_t i = 0; i < sizeof how / sizeof *how; i++) {
        char behind[32], within[32], part[32], args[200];
        bool narrow = strstr(how[i], "weights=bf16") != NULL; /* whose gradients are not rounded within */
        snprintf(behind, sizeof behind, "behind-%zu", i);
        snprintf(within, sizeof within, "within-%zu", i);
        snprintf(part, sizeof part, "within-%zu-part", i);
        snprintf(args, sizeof args, "%s optim.clip=0 train.save_every=5 train.keep=100", how[i]);
        if (!narrow) tiny_trains(behind, args);
        snprintf(args, sizeof args, "%s optim.clip=0 train.save_every=5 train.keep=100 optim.in_backward=true", how[i]);
        tiny_trains(within, args);
        if (!narrow) tiny_same_end(behind, within);
        tiny_stopped_at(narrow ? within : behind, 5, part);
        snprintf(args, sizeof args, "--resume %s optim.clip=0 optim.in_backward=true train.threads=3", how[i]);
        tiny_trains(part, args);
        tiny_same_end(within, part);
    }
}

/* A finished run may be resumed: it measures again and changes nothing. */
static void test_resume_at_the_end(void **state)
{
    tiny_stopped_at("whole", TINY_STEPS, "ended");
    tiny_trains("ended", "--resume");
    tiny_same_end("whole", "ended");
}

/* How often each step has a line of training (with a loss) and one of measuring. */
static void count_lines(const char *path, int *trained, int *measured)
{
    char *text;
    size_t len;
    struct err e = {0};
    memset(trained, 0, (TINY_STEPS + 1) * sizeof *trained);
    memset(measured, 0, (TINY_STEPS + 1) * sizeof *measured);
    assert_int_equal(file_read(path, 1 << 20, &text, &len, &e), 0);
    for (char *at = text, *stop; *at; at = stop + 1) {
        stop = strchr(at, '\n');
        assert_non_null(stop);
        json_t *line = json_loadb(at, (size_t)(stop - at), 0, NULL);
        assert_non_null(line);
        int64_t step = json_integer_value(json_object_get(line, "step"));
        assert_in_range(step, 1, TINY_STEPS);
        (json_object_get(line, "loss") ? trained : measured)[step]++;
        json_decref(line);
    }
    free(text);
}

static int event_files(const char *dir)
{
    char **names;
    int n, found = 0;
    struct err e = {0};
    assert_int_equal(file_list(dir, &names, &n, &e), 0);
    for (int i = 0; i < n; i++) found += strstr(names[i], "tfevents") != NULL;
    file_list_free(names, n);
    return found;
}

static void test_records(void **state)
{
    static const int back_to[] = {4, 7, TINY_STEPS};
    int trained[TINY_STEPS + 1], measured[TINY_STEPS + 1], n = event_files(tiny_path(&tiny, "whole"));
    tiny_copy(tiny_path(&tiny, "whole"), tiny_path(&tiny, "again"));
    assert_int_equal(n, 1);
    for (size_t i = 0; i < sizeof back_to / sizeof *back_to; i++) {
        struct err e = {0};
        for (int k = back_to[i] + 1; k <= TINY_STEPS; k++)
            assert_int_equal(file_remove_tree(tiny_path(&tiny, "again/checkpoints/step-%d", k), &e), 0);
        FILE *f = fopen(tiny_path(&tiny, "again/metrics.jsonl"), "a"); /* as a kill in the middle of a line leaves it */
        assert_true(f && fputs("{\"step\": 3, \"lo", f) > 0 && fclose(f) == 0);
        tiny_trains("again", "--resume train.save_every=1 train.keep=100 data.valid=[valid] train.valid_every=2");
        assert_int_equal(event_files(tiny_path(&tiny, "again")), ++n);
        count_lines(tiny_path(&tiny, "again/metrics.jsonl"), trained, measured);
        for (int k = 1; k <= TINY_STEPS; k++) {
            assert_int_equal(trained[k], 1);
            assert_int_equal(measured[k], k % 2 == 0 || k == TINY_STEPS);
        }
        tiny_same_end("whole", "again");
    }
}

/* The norms by layer are parts of the whole: their squares add up to its. Switched off, there are none. */
static void test_layer_norms(void **state)
{
    tiny_trains("bare", "train.layer_norms=false train.steps=2");
    for (int on = 0; on < 2; on++) {
        char *text;
        size_t len;
        struct err e = {0};
        assert_int_equal(
            file_read(tiny_path(&tiny, "%s/metrics.jsonl", on ? "whole" : "bare"), 1 << 20, &text, &len, &e), 0);
        json_t *line = json_loadb(text, strcspn(text, "\n"), 0, NULL), *value;
        const char *key;
        double squares = 0, whole = json_number_value(json_object_get(line, "grad_norm"));
        int layers = 0;
        assert_true(whole > 0);
        json_object_foreach(line, key, value)
        {
            if (strncmp(key, "grad_norm/", 10)) continue;
            squares += pow(json_number_value(value), 2);
            layers++;
        }
        if (on) assert_non_null(json_object_get(line, "grad_norm/view.block.1"));
        assert_true(on ? layers > 10 : layers == 0);
        if (on) assert_true(fabs(sqrt(squares) / whole - 1) < 1e-8); /* they are written with nine digits */
        json_decref(line);
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_saving_changes_nothing),
        cmocka_unit_test(test_any_step_any_threads),
        cmocka_unit_test(test_several_resumes),
        cmocka_unit_test(test_moments_in_16_bits),
        cmocka_unit_test(test_by_budget),
        cmocka_unit_test(test_other_optimizers),
        cmocka_unit_test(test_steps_in_backward),
        cmocka_unit_test(test_resume_at_the_end),
        cmocka_unit_test(test_records),
        cmocka_unit_test(test_layer_norms),
    };
    return cmocka_run_group_tests(tests, begin, tiny_end);
}
