/* A layer of one's own from triad's parts: squeeze and excitation (Hu et al. 2018, eq. 2-4), in a small network that
 * learns a toy problem which a linear network cannot: of an image's four channels, tell the mean of the one that the
 * first channel names. Build it as own_op.c. */
#include <triad.h>

#include <stdio.h>
#include <stdlib.h>

enum { B = 256, SIDE = 4, C = 4, STEPS = 400 };

/* image (B, H, W, C) -> the same, each channel times a weight in 0..1 that the whole image decides. */
static val squeeze_excite(struct nn *m, const char *name, val x, int64_t hidden)
{
    struct ad_graph *g = m->g;
    ad_push(g, "%s", name);
    val s = ad_mean(g, x, 6, true);                                          /* over H and W: (B, 1, 1, C) */
    s = ad_relu(g, nn_linear(m, "squeeze", s, hidden, true, 0));             /* (B, 1, 1, hidden) */
    s = ad_sigmoid(g, nn_linear(m, "excite", s, ad_dim(g, x, -1), true, 0)); /* (B, 1, 1, C) */
    ad_pop(g);
    return ad_mul(g, x, s); /* shapes broadcast; an error would name this layer's path */
}

/* Channel 0 is +1 or -1 throughout: it names channel 1 or 2. Channel 3 is noise. */
static void make_batch(uint64_t step, float *image, float *target)
{
    struct rng r = rng_make(7, hash_str("batch"), step);
    for (int b = 0; b < B; b++) {
        float sign = rng_below(&r, 2) ? 1 : -1, sum = 0;
        for (int i = 0; i < SIDE * SIDE; i++) {
            float *pixel = image + (b * SIDE * SIDE + i) * C;
            pixel[0] = sign;
            for (int c = 1; c < C; c++) pixel[c] = (float)rng_normal(&r);
            sum += sign > 0 ? pixel[1] : pixel[2];
        }
        target[b] = sum / SIDE;
    }
}

/* Emits the loss and the gradients; parameters are declared on the way. */
static void build(struct nn *m)
{
    struct ad_graph *g = m->g;
    val x = ad_input(g, "image", AD_F32, SHAPE(B, SIDE, SIDE, C)), y = ad_input(g, "target", AD_F32, SHAPE(B, 1));
    x = squeeze_excite(m, "gate", x, 16);
    val guess = nn_linear(m, "head", ad_mean(g, x, 6, false), 1, true, 0);
    val loss = ad_mean_all(g, ad_square(g, ad_sub(g, guess, y)));
    ad_output(g, "loss", loss);
    opt_emit_gradients(g, m->store, loss);
}

static int train(struct ad_plan *p, struct ad_store *store, float *image, float *target, struct err *e)
{
    struct opt_config c = {.lr = 0.02, .beta1 = 0.9, .beta2 = 0.98, .eps = 1e-8, .warmup = 10, .clip = 1};
    struct opt *o = opt_new(&c, store, e);
    if (!o) return e->code;
    int rc = 0;
    int64_t n = ad_store_flat_count(store);
    float *grad = mem_zero((size_t)n, sizeof *grad);
    opt_bind_gradients(p, store, grad);
    ad_bind(p, "image", image);
    ad_bind(p, "target", target);
    for (int step = 0; step <= STEPS && !rc; step++) {
        make_batch((uint64_t)step, image, target);
        rc = ad_run(p, 1, (uint64_t)step, e);
        if (!rc && step % 100 == 0) printf("step %3d   loss %.4f\n", step, ad_result_scalar(p, "loss"));
        if (!rc) opt_step(o, grad, opt_norm(grad, n), opt_lr(&c, step, (double)step / STEPS));
    }
    free(grad);
    opt_free(o);
    return rc;
}

int main(void)
{
    struct err e = {0};
    threads_init(0);
    struct nn m = {.g = ad_graph_new(), .store = ad_store_new(1), .training = true};
    build(&m);
    int rc = nn_status(&m, &e);
    if (!rc) rc = ad_store_commit(m.store, &e);
    struct ad_plan *p = rc ? NULL : ad_plan_new(m.g, m.store, 0, &e);
    float *image = mem_zero(B * SIDE * SIDE * C, sizeof *image), *target = mem_zero(B, sizeof *target);
    if (p)
        printf("%lld parameters, %lld calls a step\n", (long long)ad_store_trainable(m.store),
               (long long)ad_plan_stats(p).steps);
    rc = p ? train(p, m.store, image, target, &e) : e.code;
    if (rc) fprintf(stderr, "own_layer: %s\n", e.msg);
    free(image);
    free(target);
    ad_plan_free(p);
    ad_graph_free(m.g);
    ad_store_free(m.store);
    return err_exit_status(rc);
}
