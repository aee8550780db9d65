/* States as they are stored, and as a step computes with them. */
#include <string.h>

#include "base/half.h"
#include "optim/inner.h"

const char *const opt_state_names[] = {"f32", "bf16", "8bit", NULL};
const size_t opt_state_width[] = {[OPT_F32] = 4, [OPT_BF16] = 2, [OPT_8BIT] = 1};

/* Up to OPT_BLOCK numbers from the `from`th on, a multiple of OPT_BLOCK. */
static void read_block(const struct opt_state *s, int64_t from, int64_t n, float *x)
{
    if (s->store == OPT_BF16) ISA_PICK(opt_from16)((const uint16_t *)s->data + from, n, x);
    if (s->store == OPT_8BIT)
        opt_decode(opt_map(s->positive), (const uint8_t *)s->data + from, n, s->absmax[from / OPT_BLOCK], x);
}

static void write_block(const struct opt_state *s, int64_t from, int64_t n, const float *x, const struct opt_factors *f)
{
    if (s->store == OPT_BF16) ISA_PICK(opt_to16)(x, n, s->of->offset + from, f, (uint16_t *)s->data + from);
    if (s->store == OPT_8BIT)
        opt_encode(opt_map(s->positive), x, n, (uint8_t *)s->data + from, &s->absmax[from / OPT_BLOCK]);
}

void opt_in_place(const struct opt_param *q, struct opt_piece p, int64_t from, const struct opt_factors *f,
                  opt_kernel *kernel)
{
    void **at[2] = {&p.m, &p.v};
    for (int k = 0; k < q->n_slot; k++) {
        const struct opt_state *s = &q->slot[k];
        *at[k] = (char *)s->data + (size_t)from * opt_state_width[s->store];
        if (s->absmax) p.scale[k] = s->absmax + from / OPT_BLOCK;
    }
    kernel(&p, f);
}

void opt_windows(const struct opt_param *q, struct opt_piece p, int64_t from, const struct opt_factors *f,
                 opt_kernel *kernel, bool write)
{
    if (q->n_slot == 0 || q->slot[0].store == OPT_F32) {
        opt_in_place(q, p, from, f, kernel);
        return;
    }
    void **at[2] = {&p.m, &p.v};
    float x[2][OPT_BLOCK];
    for (int64_t left = p.n; left > 0; left -= p.n, from += p.n) {
        p.n = left < OPT_BLOCK ? left : OPT_BLOCK;
        for (int k = 0; k < q->n_slot; k++) {
            *at[k] = x[k];
            read_block(&q->slot[k], from, p.n, x[k]);
        }
        kernel(&p, f);
        for (int k = 0; k < q->n_slot && write; k++) write_block(&q->slot[k], from, p.n, x[k], f);
        p.first += p.n;
        p.w += p.n;
        p.g += p.n;
        if (p.ema) p.ema += p.n;
        if (p.u) p.u += p.n;
    }
}

void opt_state_set(const struct opt_state *s, const float *x)
{
    if (s->store == OPT_F32) memcpy(s->data, x, (size_t)s->count * sizeof *x);
    for (int64_t i = 0; s->store == OPT_BF16 && i < s->count; i++) ((uint16_t *)s->data)[i] = bf16_from_float(x[i]);
    for (int64_t i = 0; s->store == OPT_8BIT && i < s->count; i += OPT_BLOCK)
        write_block(s, i, s->count - i < OPT_BLOCK ? s->count - i : OPT_BLOCK, x + i, NULL);
}
