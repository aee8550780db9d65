/* Batches in parts: the gradient of a whole batch, whatever the micro-batch; where it is the same bits; batch norm; runs
 * that resume; which plans are kept. `test_micro big` compares 4,096 samples at once and by 64: errors, time, memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/threads.h"
#include "tests/support/tiny.h"
#include "train/micro.h"
#include "train/step.h"

enum { ITEMS = 220, BATCH = 200 };

/* The tiny data many times over, under other names and texts: pictures and sounds come up often in a batch, so that
 * samples have many positives; every third has no sound, some no text. */
static void put_manifest(const char *name, int items)
{
    struct buf b = {0};
    struct err e = {0};
    for (int i = 0; i < items; i++) {
        buf_printf(&b, "{\"id\": \"%d\", \"image\": \"%d.png\"", i, i % TINY_ITEMS);
        if (i % 7) buf_printf(&b, ", \"text\": \"%.*s thing %d\"", 4 + 9 * (i % 3), "the very odd and even one", i / 2);
        if (i % TINY_ITEMS % 3) buf_printf(&b, ", \"audio\": \"%d.wav\"", i % TINY_ITEMS);
        buf_str(&b, "}\n");
    }
    assert_int_equal(file_write(tiny_path(&tiny, "%s", name), b.data, b.len, &e), 0);
    buf_free(&b);
}

static int begin(void **state)
{
    tiny_begin(state);
    put_manifest("many.jsonl", ITEMS);
    return 0;
}

#define VIT "modalities.image.tower={\"vit\":{\"patch\":8,\"layers\":2,\"width\":16,\"heads\":2,\"drop_path\":0.2}}"
#define WAVE                                                                                                        \
    "modalities.sound.tower={\"wav2vec2\":{\"channels\":8,\"features\":[[10,5],[3,2],[3,2]],\"position_kernel\":8," \
    "\"position_groups\":4,\"layers\":1,\"width\":16,\"heads\":2,\"dropout\":0.1,\"drop_path\":0.1}}",              \
        "modalities.sound.augment.time_masks=0", "modalities.sound.augment.bin_masks=0"

/* A model and a batch. */
struct rig {
    struct run_model *m;
    struct manifest data;
    struct data_loader *loader;
    struct opt_config c;
    struct opt *opt;
    struct train_stepper *stepper;
    struct data_batch *batch;
};

static struct rig rig_of(const char *name, int64_t batch, int64_t micro, const char *const *args, int n_args)
{
    struct rig r = {0};
    struct err e = {0};
    char manifest[300], part[60];
    const char *all[20] = {manifest, part};
    int64_t *items, n;
    snprintf(manifest, sizeof manifest, "data.manifest=%s", tiny_path(&tiny, "%s", name));
    snprintf(part, sizeof part, "train.micro_batch=%lld", (long long)micro);
    for (int i = 0; i < n_args; i++) all[2 + i] = args[i];
    if (run_model_new(tiny.config, all, 2 + n_args, &r.m, &e)) fail_msg("%s", e.msg);
    assert_int_equal(run_model_commit(r.m, &e), 0);
    assert_int_equal(run_model_data(r.m, &r.data, &items, &n, &e), 0);
    struct data_loader_config d = {.manifest = &r.data,
                                   .items = items,
                                   .n_items = n,
                                   .split = "train",
                                   .modality = r.m->input,
                                   .n_modalities = r.m->n,
                                   .batch = batch};
    assert_int_equal(data_loader_new(&d, &r.loader, &e), 0);
    free(items);
    r.c = run_opt_config(&r.m->config);
    r.opt = opt_new(&r.c, r.m->store, &e);
    assert_non_null(r.opt);
    r.stepper = train_stepper_new(r.m, r.opt, &e);
    assert_non_null(r.stepper);
    assert_int_equal(data_loader_next(r.loader, &r.batch, &e), 0);
    return r;
}

static struct rig rig_open(int64_t micro, const char *const *args, int n_args)
{
    return rig_of("many.jsonl", BATCH, micro, args, n_args);
}

static void rig_close(struct rig *r)
{
    data_loader_release(r->loader, r->batch);
    data_loader_free(r->loader);
    train_stepper_free(r->stepper);
    opt_free(r->opt);
    manifest_free(&r->data);
    run_model_free(r->m);
}

/* One step without a change of weights. */
static struct train_result rig_step(struct rig *r)
{
    struct train_result t = {0};
    struct err e = {0};
    if (train_stepper_run(r->stepper, r->batch, 5, 0, &t, &e)) fail_msg("%s", e.msg);
    return t;
}

/* The largest error of a tensor's gradient as a share of the tensor's norm, over all that are trained. */
static double worst_error(const struct rig *want, const struct rig *got, const char **name)
{
    const float *a = train_stepper_gradient(want->stepper), *b = train_stepper_gradient(got->stepper);
    double worst = 0;
    *name = "";
    for (int i = 0; i < ad_store_count(want->m->store); i++) {
        const struct ad_entry *p = ad_store_at(want->m->store, i);
        if (p->flags & AD_STATE) continue;
        double norm = 0, most = 0;
        for (int64_t k = p->offset; k < p->offset + p->count; k++) {
            norm += (double)a[k] * a[k];
            most = fmax(most, fabs((double)a[k] - b[k]));
        }
        assert_true(norm > 0);
        if (most / sqrt(norm) > worst) worst = most / sqrt(norm), *name = p->name;
    }
    return worst;
}

struct kind {
    const char *name, *args[6];
    int n;
};
static const struct kind kinds[] = {
    {"infonce", {VIT}, 1},
    {"siglip", {VIT, "loss.kind=siglip"}, 2},
    {"raw sound", {VIT, WAVE}, 4},
};

/* With dropout, drop path, augmentation, several positives and missing modalities; 7, 60 and 150 leave a rest. */
static void the_gradient_is_the_whole_batch_s(void **state)
{
    static const int64_t micro[] = {7, 25, 60, 100, 150};
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        struct rig whole = rig_open(0, kinds[k].args, kinds[k].n);
        struct train_result w = rig_step(&whole);
        for (size_t i = 0; i < sizeof micro / sizeof *micro; i++) {
            struct rig parts = rig_open(micro[i], kinds[k].args, kinds[k].n);
            struct train_result p = rig_step(&parts);
            const char *name;
            double worst = worst_error(&whole, &parts, &name);
            print_message("%s, %d by %lld: loss %.9g and %.9g; largest error %.2g of the norm, %s\n", kinds[k].name,
                          BATCH, (long long)micro[i], w.loss, p.loss, worst, name);
            /* The unit vectors are the same up to how a product of other sizes is summed. */
            assert_true(fabs(w.loss - p.loss) <= 1e-6 * fabs(w.loss));
            assert_int_equal(w.n_pairs, p.n_pairs);
            for (int j = 0; j < w.n_pairs; j++) assert_true(fabs(w.pair[j] - p.pair[j]) <= 1e-6 * fabs(w.pair[j]));
            assert_true(p.scale == w.scale);
            assert_true(worst < 1e-5);
            rig_close(&parts);
        }
        rig_close(&whole);
    }
}

/* The sum of squares of the towers' gradients, that of the loss left out. */
static double towers_square(const struct run_model *m, const float *grad)
{
    double sum = 0;
    for (int i = 0; i < ad_store_count(m->store); i++) {
        const struct ad_entry *p = ad_store_at(m->store, i);
        if (p->flags & AD_STATE || !strncmp(p->name, "loss.", 5)) continue;
        for (int64_t k = p->offset; k < p->offset + p->count; k++) sum += (double)grad[k] * grad[k];
    }
    return sum;
}

/* One part is the whole: the same sums in the same order, so the same bits, of every gradient. In several parts each
 * unit vector still is, and with them the loss and the gradients of its own parameters. */
static void the_same_bits_where_sums_are_in_one_order(void **state)
{
    struct err e = {0};
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        struct rig whole = rig_open(0, kinds[k].args, kinds[k].n), again = rig_open(0, kinds[k].args, kinds[k].n);
        rig_step(&whole);
        const float *want = train_stepper_gradient(whole.stepper);
        size_t n = (size_t)ad_store_flat_count(whole.m->store);
        struct train_plans plans = {.m = again.m, .grad = mem_zero(n, sizeof(float))};
        struct train_micro *one = train_micro_new(&plans, 2 * BATCH);
        assert_int_equal(train_micro_run(one, again.batch, 0, (uint64_t)again.m->config.train.seed, 5, NULL, NULL, &e),
                         0);
        for (int i = 0; i < ad_store_count(again.m->store); i++) {
            const struct ad_entry *p = ad_store_at(again.m->store, i);
            if (memcmp(want + p->offset, (const float *)plans.grad + p->offset, (size_t)p->count * sizeof(float)))
                fail_msg("%s: the gradient of %s has other bits", kinds[k].name, p->name);
        }
        double square = towers_square(again.m, plans.grad);
        assert_true(fabs(train_micro_part2(one) - square) <= 1e-9 * square); /* the same squares in another order */
        train_micro_free(one);
        train_plans_free(&plans);
        free(plans.grad);
        rig_close(&whole);
        rig_close(&again);
    }
}

/* Three types of numbers, passes on and off, at once and in parts, by kernels and by the plain reference: one small model
 * with three modalities, all against the plain f32 gradient of the whole. What is kept in 16 bits is rounded to half a
 * step at every layer there and back; those roundings are independent, so a tensor's gradient moves by a few steps of
 * the type (bf16: 2^-8, f16: 2^-11) of its norm. */
static void every_combination(void **state)
{
    enum { SMALL = 40 };
    static const struct {
        const char *name;
        double most;
    } type[] = {{"f32", 1e-5}, {"bf16", 8 * 0x1p-8}, {"f16", 8 * 0x1p-11}};
    static const char *const passes[] = {NULL, "norecompute", "nofuse", "nokernels", "reference"};
    const char *plain[] = {VIT, "train.debug=reference"}, *worst_name = "";
    struct rig want = rig_of("many.jsonl", SMALL, 0, plain, 2);
    rig_step(&want);
    for (size_t t = 0; t < 3; t++) {
        double worst = 0;
        for (size_t p = 0; p < sizeof passes / sizeof *passes; p++)
            for (int micro = 0; micro <= 15; micro += 15) {
                char precision[40], debug[60];
                const char *args[] = {VIT, precision, "train.loss_scale=128", debug};
                snprintf(precision, sizeof precision, "train.precision=%s", type[t].name);
                snprintf(debug, sizeof debug, "train.debug=%s", passes[p] ? passes[p] : "");
                struct rig got = rig_of("many.jsonl", SMALL, micro, args, passes[p] ? 4 : 3);
                struct train_result r = rig_step(&got);
                const char *name;
                double error = worst_error(&want, &got, &name);
                assert_false(r.skipped);
                if (error > type[t].most)
                    fail_msg("%s, '%s', parts of %d: the gradient of %s is off by %.3g of its norm", type[t].name,
                             passes[p] ? passes[p] : "", micro, name, error);
                if (error > worst) worst = error, worst_name = name;
                rig_close(&got);
            }
        print_message("%s: largest error %.2g of the norm, %s\n", type[t].name, worst, worst_name);
        assert_true(t == 0 || worst > 1e-5); /* the types were really used */
    }
    rig_close(&want);
}

/* Of n parts, n sum |g|^2 is at least |sum g|^2 (Cauchy and Schwarz), and more where they differ, as samples do. */
static void parts_are_noisier(void **state)
{
    struct rig r = rig_open(25, kinds[0].args, kinds[0].n), whole = rig_open(0, kinds[0].args, kinds[0].n);
    struct train_result t = rig_step(&r);
    double square = towers_square(r.m, train_stepper_gradient(r.stepper));
    assert_true(t.part_norm * t.part_norm > 1.01 * square);
    assert_true(rig_step(&whole).part_norm == 0);
    rig_close(&r);
    rig_close(&whole);
}

static void any_number_of_threads(void **state)
{
    struct rig r = rig_open(30, kinds[0].args, kinds[0].n);
    size_t bytes = (size_t)ad_store_flat_count(r.m->store) * sizeof(float);
    float *first = mem_alloc(bytes);
    for (int threads = 1; threads <= 4; threads++) {
        threads_init(threads);
        rig_step(&r);
        if (threads == 1) memcpy(first, train_stepper_gradient(r.stepper), bytes);
        assert_memory_equal(first, train_stepper_gradient(r.stepper), bytes);
    }
    threads_init(2);
    free(first);
    rig_close(&r);
}

/* Batch norm's running statistics after a step in parts: those of an ordinary training pass over each part, one after
 * another, and nothing more. */
static void running_statistics_move_once_a_part(void **state)
{
    enum { PART = 64 };
    struct rig parts = rig_open(PART, NULL, 0), plain = rig_open(0, NULL, 0);
    struct err e = {0};
    rig_step(&parts);
    int image = run_modality(plain.m, "image", &e);
    const struct data_modality *d = &plain.m->input[image];
    int moved = 0;
    for (int64_t from = 0; from < BATCH; from += PART) {
        int64_t n = BATCH - from < PART ? BATCH - from : PART;
        struct nn nn = {.g = ad_graph_new(), .store = plain.m->store, .training = true};
        ad_output(nn.g, "y",
                  model_embed(&nn, &plain.m->tower[image], (struct model_shape){n, 0}, plain.m->config.embed));
        struct ad_plan *p = ad_plan_new(nn.g, plain.m->store, 0, &e);
        assert_non_null(p);
        ad_bind(p, "image.image", plain.batch->part[image].image + from * d->h * d->w * 3);
        assert_int_equal(ad_run(p, 0, 0, &e), 0);
        ad_plan_free(p);
        ad_graph_free(nn.g);
    }
    struct rig fresh = rig_open(0, NULL, 0);
    for (int i = 0; i < ad_store_count(plain.m->store); i++) {
        const struct ad_entry *a = ad_store_at(parts.m->store, i), *b = ad_store_at(plain.m->store, i),
                              *c = ad_store_at(fresh.m->store, i);
        if (!(a->flags & AD_STATE)) continue;
        for (int64_t k = 0; k < a->count; k++) {
            double x = ((float *)a->data)[k], y = ((float *)b->data)[k], start = ((float *)c->data)[k];
            assert_true(fabs(x - y) <= 1e-6 * fmax(1, fabs(y))); /* the replay's graph may round otherwise */
            moved += fabs(x - start) > 1e-3;
        }
    }
    assert_true(moved > 8);
    rig_close(&fresh);
    rig_close(&parts);
    rig_close(&plain);
}

/* No more than so many plans, and those that are used stay. */
static void plans_that_are_used_stay(void **state)
{
    struct rig r = rig_open(0, kinds[0].args, kinds[0].n);
    size_t n = (size_t)ad_store_flat_count(r.m->store);
    struct train_plans plans = {.m = r.m, .grad = mem_zero(n, sizeof(float))};
    struct train_key keep = {.part = TRAIN_LOSS, .batch = 2};
    struct err e = {0};
    for (int i = 0; i < r.m->n; i++) keep.shape[i].items = 8;
    const struct ad_plan *kept = train_plan_for(&plans, &keep, &e);
    assert_non_null(kept);
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < TRAIN_PLANS + 20; i++) {
            struct train_key key = keep;
            key.batch = 3 + i;
            assert_non_null(train_plan_for(&plans, &key, &e));
            assert_ptr_equal(train_plan_for(&plans, &keep, &e), kept);
            assert_true(plans.n <= TRAIN_PLANS);
        }
    /* by then each of the others had given way */
    assert_int_equal(plans.made, 1 + 2 * (TRAIN_PLANS + 20));
    train_plans_free(&plans);
    free(plans.grad);
    rig_close(&r);
}

/* ---- whole runs -------------------------------------------------------------------------------------------------- */

/* Eight by three and two, batch norm among them; stopped at step 5 and resumed, with other threads. */
static void runs_resume_and_repeat(void **state)
{
    tiny_trains("whole", "train.micro_batch=3 train.save_every=5 train.keep=9 train.threads=1");
    tiny_trains("threads", "train.micro_batch=3 train.threads=3 data.workers=2");
    tiny_same_end("whole", "threads");
    tiny_stopped_at("whole", 5, "from");
    tiny_trains("from", "--resume train.micro_batch=3 train.threads=2");
    tiny_same_end("whole", "from");
}

/* Every step of a run in parts feeds the noise scale, which a checkpoint keeps. */
static void noise_is_kept(void **state)
{
    struct err e = {0};
    char *text, want[60];
    size_t n;
    tiny_trains("noise", "train.micro_batch=3");
    assert_int_equal(
        file_read(tiny_path(&tiny, "noise/checkpoints/step-%d/state.json", TINY_STEPS), 1 << 16, &text, &n, &e), 0);
    snprintf(want, sizeof want, "\"noise\": {\"steps\": %d,", TINY_STEPS);
    tiny_has(text, want);
    free(text);
}

static void what_is_said(void **state)
{
    char *text = tiny_run(&tiny, "dry", "--dry-run train.micro_batch=3", 0);
    tiny_has(text, "batch        8 in micro-batches of 3; embeddings and their gradients ");
    tiny_has(text, "peak memory");
    free(text);
    text = tiny_run(&tiny, "dry", "--dry-run data.batch_by=tokens data.budget=60", 0);
    tiny_has(text, "batch        60 tokens of text, at most 8 samples");
    free(text);
    text = tiny_run(&tiny, "said", "train.micro_batch=3 train.steps=2", 0);
    tiny_has(text, "batch 8 in micro-batches of 3");
    tiny_has(text, "batch norm sees a micro-batch of 3 at a time");
    free(text);
}

/* ---- by hand ----------------------------------------------------------------------------------------------------- */

static double user_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)u.ru_utime.tv_sec + 1e-6 * (double)u.ru_utime.tv_usec;
}

/* The least user time of some steps, and what the plans and embeddings take. */
static double measure(struct rig *r, const char *what, int64_t batch, int steps)
{
    struct err e = {0};
    double mb = 1.0 / (1 << 20), best = INFINITY;
    struct ad_plan_stats s = train_stepper_plan(r->stepper, r->batch, &e);
    struct train_result t = {0};
    for (int i = 0; i < steps; i++) {
        double from = user_seconds();
        t = rig_step(r);
        best = fmin(best, user_seconds() - from);
    }
    print_message("%5d %-8s %6.2f s of user time, %.1f GFLOP, activations %.1f MB, embeddings %.1f MB, loss %.9g\n",
                  (int)batch, what, best, s.flops * 1e-9, mb * (double)s.arena_bytes,
                  mb * (double)train_stepper_embedding_bytes(r->stepper), t.loss);
    return best;
}

static void big(void **state)
{
    static const char *const args[] = {
        "modalities.image.size=32",
        "modalities.image.tower={\"vit\":{\"patch\":4,\"layers\":4,\"width\":64,\"heads\":2,\"dropout\":0.1,"
        "\"drop_path\":0.1}}",
        "modalities.text.tower={\"transformer\":{\"layers\":2,\"width\":64,\"heads\":2,\"dropout\":0.1}}",
        "loss.pairs=[image-text,image-sound,view-text]", "embed=128"};
    static const int64_t batch[] = {256, 1024, 4096};
    threads_init(1); /* on a machine with other work, threads that wait for one another would be counted too */
    put_manifest("most.jsonl", 4096);
    for (int i = 0; i < 3; i++) {
        int steps = batch[i] > 1000 ? 1 : 8;
        struct rig whole = rig_of("most.jsonl", batch[i], 0, args, sizeof args / sizeof *args),
                   parts = rig_of("most.jsonl", batch[i], 64, args, sizeof args / sizeof *args);
        double at_once = measure(&whole, "at once", batch[i], steps),
               in_parts = measure(&parts, "by 64", batch[i], steps);
        const char *name;
        double worst = worst_error(&whole, &parts, &name);
        print_message("      %.3f of the time; largest error %.2g of a tensor's norm (%s)\n", in_parts / at_once, worst,
                      name);
        assert_true(worst < 1e-5);
        rig_close(&parts);
        rig_close(&whole);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "big")) {
        const struct CMUnitTest by_hand[] = {cmocka_unit_test(big)};
        return cmocka_run_group_tests(by_hand, begin, tiny_end);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_gradient_is_the_whole_batch_s),
        cmocka_unit_test(the_same_bits_where_sums_are_in_one_order),
        cmocka_unit_test(every_combination),
        cmocka_unit_test(parts_are_noisier),
        cmocka_unit_test(any_number_of_threads),
        cmocka_unit_test(running_statistics_move_once_a_part),
        cmocka_unit_test(plans_that_are_used_stay),
        cmocka_unit_test(runs_resume_and_repeat),
        cmocka_unit_test(noise_is_kept),
        cmocka_unit_test(what_is_said),
    };
    return cmocka_run_group_tests(tests, begin, tiny_end);
}
