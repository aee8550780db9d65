/* Prints a small graph with its gradients, after each pass, and as it is planned: the listing in
 * docs/architecture.md. Build it as own_op.c. */
#include <triad.h>

#include <stdio.h>
#include <stdlib.h>

static void print(const char *title, const struct ad_graph *g)
{
    char *text = ad_graph_text(g);
    printf("%s: %lld nodes\n%s\n", title, (long long)ad_node_count(g), text);
    free(text);
}

int main(void)
{
    struct err e = {0};
    threads_init(1);
    /* One layer, y = relu(x W + b), and loss = mean((y - t)^2). */
    struct nn m = {.g = ad_graph_new(), .store = ad_store_new(1), .training = true};
    val x = ad_input(m.g, "x", AD_F32, SHAPE(8, 3)), t = ad_input(m.g, "t", AD_F32, SHAPE(8, 2));
    val y = ad_relu(m.g, nn_linear(&m, "layer", x, 2, true, 0));
    val loss = ad_mean_all(m.g, ad_square(m.g, ad_sub(m.g, y, t)));
    ad_output(m.g, "loss", loss);
    opt_emit_gradients(m.g, m.store, loss);
    print("built, with gradients", m.g);
    struct ad_graph *simple = ad_simplify(m.g), *fused = ad_fuse(simple);
    print("simplified", simple);
    print("fused", fused);
    struct ad_plan *p = ad_store_commit(m.store, &e) ? NULL : ad_plan_new(m.g, m.store, 0, &e);
    if (p) {
        struct ad_plan_stats s = ad_plan_stats(p);
        printf("planned: %lld calls, %lld fused, %lld views, %lld in place; %lld bytes (%lld if nothing were shared)\n",
               (long long)s.steps, (long long)s.fused, (long long)s.views, (long long)s.in_place,
               (long long)s.arena_bytes, (long long)s.unshared_bytes);
    } else {
        fprintf(stderr, "passes: %s\n", e.msg);
    }
    ad_plan_free(p);
    ad_graph_free(fused);
    ad_graph_free(simple);
    ad_graph_free(m.g);
    ad_store_free(m.store);
    return err_exit_status(e.code);
}
